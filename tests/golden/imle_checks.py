"""One check per family of the IMLE golden vectors. Cases, levels, sizes and settings come from
the file.

Tolerances are those of the vectors' README: model outputs atol 5e-6 rtol 1e-4, gradients atol 2e-5
rtol 1e-3, gradient norms rtol 2e-3 atol 1e-4, losses rtol 1e-4 atol 1e-6, colour atol 2e-5,
integers exact.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from imle.color import lab_to_rgb, rgb_to_lab, rgb_to_xyz, xyz_to_lab
from imle.corruption import keep_channel, luma, mask_image, masked_cells
from imle.generator import CAMNet
from imle.kkm import KorKMinusOne
from imle.loader import CIMLEDataLoader
from imle.losses import ProjectedDistance, ResolutionLoss
from imle.original import load_reference
from imle.rrdb import RRDB, MappingNet, StyleBlock, Upsample, freeze
from imle.search import search
from tests.golden.support import Check, Vectors, assert_close

GRADIENT = dict(atol=2e-5, rtol=1e-3)
LOSS = dict(atol=1e-6, rtol=1e-4)
# colours far outside [0, 1] (the original's lab2rgb reaches 80) are known to a few float32 steps
COLOR = dict(atol=2e-5, rtol=2e-6)
OUTPUT = dict(atol=5e-6, rtol=1e-4)
# RGB made from LAB out of gamut is a small difference of large numbers
LAB_OUTPUT = dict(OUTPUT, atol=COLOR["atol"])
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def folded(close: dict[str, float]) -> dict[str, float]:
    """Tolerances of frozen forms: they sum in another order than the reference, 5x the noise."""
    return {name: 5 * value for name, value in close.items()}


# ------------------------------------------------------------------------------------ whole models


def check_camnet(v: Vectors) -> None:
    model = load_reference(v.tree("sd"), v.json("cfg_json"))
    assert set(model.state_dict()) == set(v.tree("sd")), "state-dict keys differ"
    x = v["x"].requires_grad_()
    codes = [code.requires_grad_() for code in v.numbered("code")]
    expected = v.numbered("out")
    assert len(codes) == len(expected) == model.levels
    images = model(x, codes)
    close = LAB_OUTPUT if model.color_space == "lab" else OUTPUT
    for i, (image, out) in enumerate(zip(images, expected, strict=True)):
        assert_close(image, out, f"out{i}", **close)
        with torch.no_grad():
            assert_close(model(x, codes, loi=i), out, f"out{i} by loi", **close)
    _check_cascade(v, model, x, codes)
    _check_camnet_gradients(v, model, x, codes, images)
    _check_frozen_copies(model, x, codes, expected, close)
    with torch.no_grad():
        if "code_last_expanded" in v:
            many = [*codes[:-1], v["code_last_expanded"]]
            out = v["out_last_expanded"]
            assert_close(model(x, many, loi=-1), out, "out_last_expanded", **close)
            _check_frozen_copies(model, x, many, [*expected[:-1], out], close)
        if "code0_expanded" in v:
            many = [v["code0_expanded"], *codes[1:]]
            assert_close(model(x, many, loi=0), v["out0_expanded"], "out0_expanded", **close)


def _check_cascade(v: Vectors, model: CAMNet, x: Tensor, codes: list[Tensor]) -> None:
    """The tensors between the levels."""
    with torch.no_grad():
        state = model.start(x)
        if "x_internal" in v:
            assert_close(state.image, v["x_internal"], "x_internal")
        for i, code in enumerate(codes):
            _, state = model.advance(state, code, i)
            if f"feat{i}" in v:
                assert_close(state.feature, v[f"feat{i}"], f"feat{i}")
            if f"level_out_internal{i}" in v:
                assert_close(state.image, v[f"level_out_internal{i}"], f"level_out_internal{i}")


def _check_camnet_gradients(
    v: Vectors, model: CAMNet, x: Tensor, codes: list[Tensor], images: list[Tensor]
) -> None:
    cotangents = v.numbered("cot")
    total = sum((image * cot).sum() for image, cot in zip(images, cotangents, strict=True))
    total.backward()
    assert_close(x.grad, v["grad_x"], "grad_x", **GRADIENT)
    for i, code in enumerate(codes):
        assert_close(code.grad, v[f"grad_code{i}"], f"grad_code{i}", **GRADIENT)
    parameters = dict(model.named_parameters())
    order = v.strings("param_order")
    assert sorted(order) == sorted(parameters), "param_order names other parameters"
    zero = torch.zeros(())
    norms = torch.stack([zero if (g := parameters[n].grad) is None else g.norm() for n in order])
    assert_close(norms, v["grad_norm_per_param"], "grad_norm_per_param", atol=1e-4, rtol=2e-3)


def _check_frozen_copies(
    model: CAMNet,
    x: Tensor | list[Tensor],
    codes: list[Tensor],
    expected: list[Tensor],
    close: dict[str, float],
) -> None:
    """The frozen forms used by code search compute the same."""
    for channels_last in (False, True):
        images = model.frozen_copy(dtype=torch.float32, channels_last=channels_last)(x, codes)
        for i, (image, out) in enumerate(zip(images, expected, strict=True)):
            assert_close(
                image, out, f"out{i} of the frozen copy, {channels_last=}", **folded(close)
            )


def check_original(v: Vectors) -> None:
    cfg = v.json("cfg_json")
    cfg.setdefault("task", v.name.removeprefix("original_"))
    inputs, codes, expected = v.numbered("input"), v.numbered("code"), v.numbered("out")
    rgb_from = None
    if "synthesis" in cfg["task"].lower() and expected[0].shape[2:] == inputs[0].shape[2:]:
        enlarges_last = f"level_{len(codes)}_up.1.bias" in v.tree("sd")
        rgb_from = "trunk" if enlarges_last else "trunk_but_last"
    model = load_reference(v.tree("sd"), cfg, rgb_from=rgb_from)
    assert len(codes) == len(expected) == model.levels
    with torch.no_grad():
        images = model(inputs, codes)
        for i, (image, out) in enumerate(zip(images, expected, strict=True)):
            assert_close(image, out, f"out{i}")
            assert_close(model(inputs, codes, loi=i), out, f"out{i} by loi")
        prefixed = {f"module.{key}": value for key, value in v.tree("sd").items()}
        again = load_reference(prefixed, cfg, rgb_from=rgb_from)(inputs, codes)
        assert all(torch.equal(a, b) for a, b in zip(images, again, strict=True))
    _check_frozen_copies(model, inputs, codes, expected, OUTPUT)


# ------------------------------------------------------------------------------------------ blocks


def check_rrdb(v: Vectors) -> None:
    state = v.tree("sd")
    gc, nc = state["RDB1.conv1.0.weight_v"].shape[:2]
    block = RRDB(nc, gc)
    block.load_state_dict(state)
    x = v["x"].requires_grad_()
    out = block(x)
    assert_close(out, v["out"], "out")
    (out * v["cot"]).sum().backward()
    assert_close(x.grad, v["grad_x"], "grad_x", **GRADIENT)
    with torch.no_grad():
        assert_close(block.RDB1(x), v["rdb1_out"], "rdb1_out")
        for layout in LAYOUTS:
            frozen = freeze(block, torch.float32, layout)
            assert_close(frozen(x), v["out"], f"out, frozen, {layout}", **folded(OUTPUT))


def check_style_block(v: Vectors) -> None:
    state = v.tree("sd")
    gc, nc = state["sub.0.RDB1.conv1.0.weight_v"].shape[:2]
    n_blocks = sum(".transform_" in key and key.endswith(".weight") for key in state)
    block = StyleBlock(nc, gc, v["w"].shape[1], n_blocks)
    block.load_state_dict(state)
    assert_close(block(v["x"], v["w"]), v["out"], "out")
    with torch.no_grad():
        assert_close(block(v["x"], v["w"]), v["out"], "out without grad")
        for layout in LAYOUTS:
            frozen = freeze(block, torch.float32, layout)
            assert_close(
                frozen(v["x"], v["w"]), v["out"], f"out, frozen, {layout}", **folded(OUTPUT)
            )


def check_mapping_net(v: Vectors) -> None:
    state = v.tree("sd")
    latent_nc, map_nc = state["model.0.weight"].shape
    net = MappingNet(map_nc, latent_nc, n_layers=sum(key.endswith(".weight") for key in state))
    net.load_state_dict(state)
    assert_close(net(v["z"]), v["out"], "out")


def check_upsampling(v: Vectors) -> None:
    state = v.tree("sd")
    block = Upsample(v["x"].shape[1], double="model.0.1.weight_v" in state)
    block.load_state_dict(state)
    assert_close(block(v["x"]), v["out"], "out")


# --------------------------------------------------------------------------- colour and corruption


def check_color(v: Vectors) -> None:
    rgb, correct, nlab = v["rgb"], v["lab_normalised_correct"], v["nlab_random"]
    assert_close(rgb_to_xyz(rgb), v["xyz"], "xyz", **COLOR)
    lab = xyz_to_lab(rgb_to_xyz(rgb))
    # a = 500 (f(x) - f(y)) with f near 1: one float32 step of f, 6e-8, is 3e-5 of a, on either side
    assert_close(lab, v["lab"], "lab", atol=1e-4, rtol=1e-6)
    assert_close(lab, v["lab_skimage_float64"], "lab_skimage_float64", atol=1e-4, rtol=1e-6)
    assert_close(rgb_to_lab(rgb), correct, "lab_normalised_correct", **COLOR)
    reference = rgb_to_lab(rgb, lab_range="reference")
    assert_close(reference, v["lab_normalised_cimle_ref"], "lab_normalised_cimle_ref", **COLOR)
    assert_close(lab_to_rgb(correct), v["rgb_roundtrip_from_correct"], "round trip", **COLOR)
    assert_close(lab_to_rgb(nlab), v["rgb_from_nlab_random"], "rgb_from_nlab_random", **COLOR)
    albl = lab_to_rgb(nlab, convention="albl")
    assert_close(albl, v["rgb_from_nlab_random_orig_ALBL"], "rgb_from_nlab_random_ALBL", **COLOR)


def check_corruption(v: Vectors) -> None:
    x, ranks, frac, side = v["x"], v["rank_per_cell"], v.number("mask_frac"), v.number("mask_res")
    assert ranks.shape[1] == side**2
    zero, mask = mask_image(x, ranks, frac)
    color, _ = mask_image(x, ranks, frac, v["colors"])
    counts = torch.full((len(x),), float(masked_cells(frac, side)))
    assert_close(counts, v["masked_cells_per_image"], "masked_cells_per_image", atol=0, rtol=0)
    assert_close(mask, v["mask"], "mask", atol=0, rtol=0)
    assert_close(zero, v["fill_zero"], "fill_zero", atol=0, rtol=0)
    assert_close(color, v["fill_color"], "fill_color", atol=0, rtol=0)
    assert_close(luma(x), v["grayscale1"], "grayscale1", atol=1e-6)
    assert_close(keep_channel(x, v["kept_channel"]), v["grayscale0_5"], "grayscale0_5", atol=1e-6)


# ---------------------------------------------------------------------------------- loss and search

_VGG = (2, 2, 3, 3, 3), (64, 128, 256, 512, 512), (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


def recipe_weights(seed: int) -> tuple[dict[str, Tensor], list[Tensor]]:
    """VGG16 and LPIPS lin weights of the vectors' README (numpy's legacy generator)."""
    state, in_nc, k = {}, 3, 0
    for count, out_nc in zip(_VGG[0], _VGG[1], strict=True):
        for _ in range(count):
            rs = np.random.RandomState(seed * 100 + k)
            weight = rs.standard_normal((out_nc, in_nc, 3, 3)) * np.sqrt(2 / (9 * in_nc))
            bias = rs.standard_normal(out_nc) * 0.05
            state[f"features.{_VGG[2][k]}.weight"] = torch.from_numpy(weight.astype(np.float32))
            state[f"features.{_VGG[2][k]}.bias"] = torch.from_numpy(bias.astype(np.float32))
            in_nc, k = out_nc, k + 1
    lins = [
        np.abs(np.random.RandomState(seed * 100 + 50 + i).standard_normal((1, c, 1, 1)))
        for i, c in enumerate(_VGG[1])
    ]
    return state, [torch.from_numpy(lin.astype(np.float32)) for lin in lins]


def recipe_projection(seed: int, layer: int, size: int, columns: int) -> Tensor:
    matrix = np.random.RandomState(seed * 100 + 70 + layer).standard_normal((size, columns))
    matrix = torch.from_numpy(matrix.astype(np.float32))
    return matrix / matrix.norm(dim=1, keepdim=True)


def recipe_loss(v: Vectors, weighting: str) -> ResolutionLoss:
    state, lins = recipe_weights(v.number("recipe_seed"))
    return ResolutionLoss(state, lins=lins, alpha=v.number("alpha"), weighting=weighting)


def check_loss(v: Vectors) -> None:
    loss = recipe_loss(v, "reference")
    fx, y = v["fx"].requires_grad_(), v["y"]
    terms = loss.terms(fx, y)
    for name, term in terms._asdict().items():
        assert_close(term, v[name], name, **LOSS)
    terms.combined.sum().backward()
    grad = v["grad_fx_of_sum_combined"]
    # these gradients are of order 1e-5: the absolute tolerance of the README would accept zero
    small = float(grad.abs().max()) * 1e-4
    assert_close(fx.grad, grad, "grad_fx_of_sum_combined", atol=min(2e-5, small), rtol=1e-3)
    target = loss.prepare(y)
    assert_close(loss(fx, target), v["combined"], "combined from prepared targets", **LOSS)
    for weighting in ("original", "lpips"):
        if weighting == "lpips" and y.shape[2] != y.shape[3]:
            continue  # the original's 1 / W^2 is LPIPS for square images only
        loss.weighting = weighting
        assert_close(loss.terms(fx, y).lpips, v["lpips_original_convention"], weighting, **LOSS)
    _check_features(v, loss, fx, y)
    _check_projection(v, loss, fx, y)
    _check_recipe(v)


def _check_features(v: Vectors, loss: ResolutionLoss, fx: Tensor, y: Tensor) -> None:
    with torch.no_grad():
        of_fx = [f.flatten(1) for f in loss.features(fx)]
        of_y = [f.flatten(1) for f in loss.features(y)]
        layers = loss.layer_terms(fx, y)
    dims = v["feat_dims"]
    assert [f.shape[1] for f in of_y] == dims.tolist()
    assert_close(layers / dims[:, None], v["per_layer_mean_sq"], "per_layer_mean_sq", **LOSS)
    norms = torch.stack([f.norm(dim=1) for f in of_fx])
    assert_close(norms, v["feat_l2norm_fx"], "feat_l2norm_fx", **LOSS)
    norms = torch.stack([f.norm(dim=1) for f in of_y])
    assert_close(norms, v["feat_l2norm_y"], "feat_l2norm_y", **LOSS)
    for layer, f in enumerate(of_y):
        name = f"feat_first64_l{layer}_y0"
        assert_close(f[0, : v[name].numel()], v[name], name, **LOSS)


def _check_projection(v: Vectors, loss: ResolutionLoss, fx: Tensor, y: Tensor) -> None:
    seed, columns = v.number("recipe_seed"), v.number("proj_dim")

    def matrix(layer: int, size: int, k: int) -> Tensor:
        return recipe_projection(seed, layer, size, k)

    distance = ProjectedDistance(loss.features, 5 * columns, matrix=matrix)
    with torch.no_grad():
        first = distance.matrix(0, int(v["feat_dims"][0]), fx.device)[0]
        assert_close(first, v["proj_first_row_l0"], "proj_first_row_l0", **LOSS)
        assert_close(distance.project(fx), v["projected_fx_cat"], "projected_fx_cat", **LOSS)
        assert_close(distance.project(y), v["projected_y_cat"], "projected_y_cat", **LOSS)
        assert_close(distance(fx, y), v["projected_sqdist"], "projected_sqdist", **LOSS)


def _check_recipe(v: Vectors) -> None:
    """The check values that tell a wrong recipe from a wrong loss."""
    state, lins = recipe_weights(v.number("recipe_seed"))
    indices = _VGG[2]
    for name, tensor in {
        "vgg_check_first_weight8": state[f"features.{indices[0]}.weight"],
        "vgg_check_last_weight8": state[f"features.{indices[-1]}.weight"],
        "lins_check_first8_l0": lins[0],
    }.items():
        expected = v[name]
        actual = tensor.flatten()[: expected.numel()]
        assert_close(actual, expected, name, atol=1e-7, rtol=1e-6)


def check_hierarchical_sampling(v: Vectors) -> None:
    model = load_reference(v.tree("sd"), v.json("cfg_json"))
    loss, x, ys = recipe_loss(v, "reference"), v["x"], v.numbered("y")
    ns, sp, batch = v["ns"].tolist(), v["sp"].tolist(), len(x)
    assert len(ns) == len(sp) == len(ys) == model.levels
    pools = [_pool(v, level, ns[level], sp[level], batch) for level in range(model.levels)]
    ids = torch.arange(batch)
    result = search(model, loss, pools, x, ys, ids, 0, ns, sp, return_losses=True)
    for level, pool in enumerate(pools):
        best = v[f"best_index_l{level}"]
        assert result.winners[:, level].tolist() == best.tolist(), f"level {level}"
        losses = v[f"all_losses_l{level}"]
        assert_close(result.all_losses[level], losses, f"all_losses_l{level}", **LOSS)
        chosen = v[f"chosen{level}"]
        assert torch.equal(result.codes[level], chosen), f"chosen{level}"
        assert torch.equal(pool[ids, best], chosen), f"chosen{level} is not candidate best_index"
        _check_margin(v, level, losses)
    with torch.no_grad():
        images = model(x, result.codes)
        final = torch.stack([loss(image, y) for image, y in zip(images, ys, strict=True)])
    assert_close(final, v["final_losses"], "final_losses", **LOSS)
    assert_close(result.losses.T, v["final_losses"], "final_losses of the search", **LOSS)


def _pool(v: Vectors, level: int, ns: int, sp: int, batch: int) -> Tensor:
    """The candidates of all chunks of a level as `[batch, ns, d]`."""
    sizes = [min(sp, ns)] * (ns // min(sp, ns)) + ([ns % sp] if ns % min(sp, ns) else [])
    chunks = []
    for c, size in enumerate(sizes):
        chunk = v[f"pool_l{level}_c{c}"]
        assert len(chunk) == batch * size, f"pool_l{level}_c{c} has {len(chunk)} rows"
        chunks.append(chunk.unflatten(0, (batch, size)))
    assert f"pool_l{level}_c{len(sizes)}" not in v, "more chunks than ns and sp make"
    return torch.cat(chunks, 1)


def _check_margin(v: Vectors, level: int, losses: Tensor) -> None:
    margin = v[f"margin_l{level}"]
    if losses.shape[1] == 1:
        assert torch.isinf(margin).all()
        return
    ordered = losses.double().sort(1).values
    gap = (ordered[:, 1] - ordered[:, 0]) / ordered[:, 0]
    assert_close(gap.float(), margin, f"margin_l{level}", atol=1e-6, rtol=1e-3)


# ------------------------------------------------------------------------------------------ loaders


def check_kkm(v: Vectors) -> None:
    n, plain, shuffled = v.number("N"), v["pops_no_shuffle"], v["pops_shuffle_ref"]
    kkm = KorKMinusOne(list(range(n)))
    assert [kkm.pop() for _ in range(len(plain))] == plain.tolist()
    assert KorKMinusOne(list(range(n))).pop_many(len(plain)) == plain.tolist()
    # The shuffled sequence depends on the reference's generator: only its invariants are normative,
    # and ours must have the same
    seed, count = v.number("python_random_seed"), len(shuffled)
    ours = KorKMinusOne(list(range(n)), shuffle=True, seed=seed).pop_many(count)
    for pops in (shuffled.tolist(), ours):
        for start in range(0, count - n + 1, n):
            assert sorted(pops[start : start + n]) == list(range(n))
        assert len(set(pops[count - count % n :])) == count % n
    counts = v["use_counts_after_shuffle"]
    assert torch.bincount(shuffled, minlength=n).tolist() == counts.tolist()
    ours_counts = torch.bincount(torch.tensor(ours), minlength=n)
    assert ours_counts.sort().values.tolist() == counts.sort().values.tolist()


class _Pairs(torch.utils.data.Dataset):
    """The smallest data set of a one-level model: images of one pixel."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> tuple[Tensor, list[Tensor]]:
        return torch.full((3, 1, 1), i / self.size), [torch.zeros(3, 1, 1)]


def check_loader_accounting(v: Vectors) -> None:
    names = ("num_iteration", "subsample_size", "batch_size", "drop_last", "correct")
    rows = torch.stack([v[name] for name in names], 1).tolist()
    assert rows, "no cases"
    for iterations, subsample, batch, drop_last, correct in rows:
        case = f"{iterations=} {subsample=} {batch=} {drop_last=}"
        loader = CIMLEDataLoader(
            _Pairs(subsample),
            KorKMinusOne(list(range(subsample))),
            lambda cx, codes, loi=None: [cx] if loi is None else cx,
            lambda x: x,
            lambda bs, level="all": [torch.zeros(bs, 1)] if level == "all" else torch.zeros(bs, 1),
            lambda fx, y: (fx - y).square().mean((1, 2, 3)),
            [1],
            [1],
            min(subsample, 1000),
            subsample_size=subsample,
            num_iteration=iterations,
            batch_size=batch,
            drop_last=bool(drop_last),
        )
        assert len(loader) == correct, case
        sizes = [len(cx) for cx, _, _ in loader]
        assert len(sizes) == correct, case
        assert set(sizes) == {batch}, f"{case}: a batch is not full"
    # what the originals did instead is recorded in the file; the contract is not to follow them
    for name in ("ref_seed_commit", "ref_later_snapshot", "seed_text_pseudocode"):
        assert len(v[name]) == len(rows)
    assert all(c == i for i, *_, c in rows), "`correct` is num_iteration by the contract"


FAMILIES: dict[str, Check] = {
    "camnet_*": check_camnet,
    "original_*": check_original,
    "rrdb": check_rrdb,
    "style_block": check_style_block,
    "mapping_net": check_mapping_net,
    "upsampling_up": check_upsampling,
    "upsampling_noup": check_upsampling,
    "color": check_color,
    "corruption": check_corruption,
    "loss": check_loss,
    "hierarchical_sampling": check_hierarchical_sampling,
    "kkm": check_kkm,
    "loader_accounting": check_loader_accounting,
}
