"""One check per family of the golden vectors of CHIMLE, Adaptive IMLE and RS-IMLE. Levels, sizes
and settings come from the file; tolerances are those of `imle_checks`, indices and masks exact."""

from __future__ import annotations

import torch
from torch import Tensor

from evaluation.samples import fwv
from imle.adaptive import Adaptive, schedule
from imle.losses import ProjectedDistance
from imle.mapping import mapped
from imle.original import load_reference
from imle.rejection import nearest_outside, rs_loss
from imle.search import SearchResult, search
from tests.golden.imle_checks import GRADIENT, LOSS, OUTPUT, _check_frozen_copies
from tests.golden.support import Check, Vectors, assert_close


def check_chimle(v: Vectors) -> None:
    cfg, state = v.json("cfg_json"), v.tree("sd")
    inputs, codes = v.numbered("input"), [c.requires_grad_() for c in v.numbered("code")]
    expected, cotangents = v.numbered("out"), v.numbered("cot")
    model = load_reference(state, cfg)
    assert model.config["mapping"] == "hierarchical"
    assert len(codes) == len(expected) == model.levels == cfg["num_levels"]
    for i, (w, wanted) in enumerate(zip(mapped(model, codes), v.numbered("w"), strict=True)):
        assert_close(w, wanted, f"w{i}")
    x = inputs[0] if len(inputs) == 1 else inputs
    images = model(x, codes)
    for i, (image, out) in enumerate(zip(images, expected, strict=True)):
        assert_close(image, out, f"out{i}")
        with torch.no_grad():
            assert_close(model(x, codes, loi=i), out, f"out{i} by loi")
    sum((image * cot).sum() for image, cot in zip(images, cotangents, strict=True)).backward()
    for i, code in enumerate(codes):
        assert_close(code.grad, v[f"grad_code{i}"], f"grad_code{i}", **GRADIENT)
    # of the original's parameters, these had no gradient
    unused = sum(p.numel() for p in model.parameters() if p.grad is None)
    assert unused == sum(state[name].numel() for name in v.json("unused_params"))
    _check_frozen_copies(model, x, codes, expected, OUTPUT)
    _check_candidates(model, x, [c.detach() for c in codes])


def _check_candidates(model, x, codes: list[Tensor]) -> None:
    """Several candidates side by side are those one by one."""
    with torch.no_grad():
        for level, code in enumerate(codes):
            three = torch.stack([code, code + 1, code - 1], 1).flatten(0, 1)
            many = model(x, [*codes[:level], three], loi=level)
            one = model(x, [*codes[:level], code + 1], loi=level)
            assert_close(many[1::3], one, f"candidates of level {level}")


def check_chimle_sampling(v: Vectors) -> None:
    model = load_reference(v.tree("sd"), v.json("cfg_json"))
    x, ys, ns, sp = v["x"], v.numbered("y"), v["ns"].tolist(), v.number("mini_batch")
    batch = len(x)
    pools = [
        torch.stack([v[f"pool_l{level}_b{b}"] for b in range(batch)]) for level in range(len(ns))
    ]
    matrices = v.numbered("P")
    columns = matrices[0].shape[1]
    of_size = {len(p): p for p in matrices}
    projected = ProjectedDistance(
        _Pixels(), 5 * columns, matrix=lambda layer, size, count: of_size[size]
    )
    ids = torch.arange(batch)

    def found(loss, candidates, counts) -> SearchResult:
        return search(
            model, loss, candidates, x, ys[: len(counts)], ids, 0, counts, sp, return_losses=True
        )

    chosen = found(projected, pools, ns)
    fixed: list[Tensor] = []
    for level, pool in enumerate(pools):
        distances = chosen.all_losses[level].sqrt()
        assert_close(distances, v[f"proj_dist_l{level}"], f"proj_dist_l{level}", **LOSS)
        best = v[f"best_projected_l{level}"]
        assert chosen.winners[:, level].tolist() == best.tolist(), f"level {level}"
        assert torch.equal(chosen.codes[level], v[f"chosen{level}"]), f"chosen{level}"
        _check_margin(v, "projected", level, distances)
        # the exact loss under the codes that the projected search has chosen
        exact = found(_exact_loss, [*fixed, pool], [1] * level + [ns[level]])
        losses = exact.all_losses[level]
        assert_close(losses, v[f"exact_loss_l{level}"], f"exact_loss_l{level}", **LOSS)
        best = v[f"best_exact_l{level}"]
        assert exact.winners[:, level].tolist() == best.tolist(), f"level {level}, exact"
        _check_margin(v, "exact", level, losses)
        fixed.append(chosen.codes[level][:, None])


class _Pixels(torch.nn.Module):
    """Features of one layer: the pixels themselves."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images]


def _exact_loss(out: Tensor, y: Tensor) -> Tensor:
    return (out - y).square().sum((1, 2, 3)) / y.shape[3] ** 2


def _check_margin(v: Vectors, kind: str, level: int, losses: Tensor) -> None:
    name = f"margin_{kind}_l{level}"
    ordered = losses.double().sort(1).values
    if ordered.shape[1] == 1:
        v[name]
        return
    gap = (ordered[:, 1] - ordered[:, 0]) / ordered[:, 0]
    assert_close(gap.float(), v[name], name, atol=1e-4, rtol=1e-2)


def check_rs_loss(v: Vectors) -> None:
    real, count = v["real"], len(v.numbered("eps"))
    for j in range(count):
        fake = v["fake"].requires_grad_()
        loss = rs_loss(real, fake, v.number(f"eps{j}"), published=True)
        assert_close(loss, v[f"loss{j}"], f"loss{j}", **LOSS)
        loss.backward()  # also where all are rejected
        if f"grad{j}" in v:
            assert_close(fake.grad, v[f"grad{j}"], f"grad{j}", **GRADIENT)
        else:
            assert not fake.grad.any(), f"grad{j} is absent: all rows are rejected"


def check_pool(v: Vectors) -> None:
    features, pool, update = v["data_feat"], v["pool_feat"], v["to_update"]
    eps, ignore, chunk = v.number("eps"), v.number("knn_ignore"), v.number("db")
    distances = torch.cdist(features, pool, compute_mode="donot_use_mm_for_euclid_dist")
    assert_close(distances, v["dist"], "dist")
    whole = len(pool) // chunk * chunk  # the released code searches whole chunks only
    radius = eps if v.name.endswith("reject") else 0.0
    chosen, rejected = nearest_outside(
        v["dist"][update, :whole].double(), radius, ignore, chunk=chunk
    )
    assert rejected.tolist() == v["rejected"][:whole].tolist() and not v["rejected"][whole:].any()
    assert chosen.tolist() == v["selected_pool_index"].tolist()
    assert torch.equal(v["pool_latents"][chosen], v["selected_latents"])


def check_ada_schedule(v: Vectors) -> None:
    adaptive = Adaptive(
        v.number("change_coef"), v.number("staleness"), v.number("force_resample"), compat=True
    )
    due, tau, age = schedule(adaptive, v["dist"], tau=v.number("tau_init"))
    assert torch.equal(due, v["update"])
    assert torch.equal(age, v["age"])
    assert_close(tau, v["tau"], "tau", atol=0, rtol=1e-12)


def check_fwv(v: Vectors) -> None:
    far, spread, sigmas = v["d_to_target"], v["d_to_mean"], v["sigma"].tolist()
    for kernel in ("linear", "squared"):
        for reduction in ("mean", "sum"):
            name = f"fwv_{kernel}_{reduction}"
            made = fwv(far, spread, sigmas, kernel=kernel, reduction=reduction)
            assert_close(made, v[name], name, atol=0, rtol=1e-9)


FAMILIES: dict[str, Check] = {
    "chimle_super_resolution*": check_chimle,
    "chimle_generic*": check_chimle,
    "chimle_colourization*": check_chimle,
    "chimle_sampling*": check_chimle_sampling,
    "rs_loss*": check_rs_loss,
    "pool_*": check_pool,
    "ada_schedule*": check_ada_schedule,
    "fwv*": check_fwv,
}
