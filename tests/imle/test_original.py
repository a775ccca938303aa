"""`load_reference` and the golden checks themselves, on files made by an independent oracle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from imle import load_reference
from tests.golden.imle_checks import FAMILIES, recipe_loss, recipe_weights
from tests.golden.support import Vectors, check_file, files_of
from tests.imle import camnet_oracle as oracle

SMALL = dict(resid_nc=[5, 4, 3], dense_nc=[3, 4, 2], n_blocks=1, map_nc=4, latent_nc=6, code_nc=2)
ORIGINAL = dict(
    code_nc=2,
    map_nc=4,
    latent_nc=6,
    num_residual_channels=[4, 5, 3, 4, 3],
    num_dense_channels=[3, 2, 3, 2, 2],
    num_blocks=1,
    feat_scales=None,
)
CAMNETS = {
    "three": dict(SMALL, res=[4, 8, 8, 16]),
    "lab": dict(SMALL, res=[4, 4, 8, 16], color_space="lab", n_blocks=2),
    "one_level": dict(SMALL, res=[8, 16], in_nc=1, out_nc=3, code_nc=1),
    "scales": dict(SMALL, res=[4, 8, 16], feat_scales=[0.0, 0.7, 0.3], color_space="rgb"),
    "grey": dict(SMALL, res=[4, 8, 16], in_nc=1, out_nc=1, act_type="leakyrelu", init_scale=0.1),
    "flat": dict(SMALL, res=[6, 6, 6], code_nc=5),
    "wide_lab": dict(SMALL, res=[4, 8, 16, 16], color_space="lab"),
}
RGB = dict(ORIGINAL, in_nc=3, out_nc=3)
SYNTHESIS = dict(
    ORIGINAL,
    task="Image_Synthesis",
    in_nc=20,
    out_nc=3,
    code_nc=10,
    upscale=32,
    feat_scales=[1.0] * 4,
)
ORIGINALS = {
    "super_resolution": (dict(RGB, task="Super_Resolution", upscale=8), (4, 4), False),
    "super_resolution_wide": (
        dict(RGB, task="Super_Resolution", upscale=4, feat_scales=[0.4], num_blocks=2),
        (3, 6),
        False,
    ),
    "decompression": (dict(RGB, task="Decompression", upscale=8), (4, 5), False),
    "colorization": (
        dict(ORIGINAL, task="Colorization", in_nc=1, out_nc=2, upscale=8),
        (4, 8),
        False,
    ),
    "colorization_one": (
        dict(ORIGINAL, task="Colorization", in_nc=1, out_nc=2, upscale=2),
        (6, 6),
        False,
    ),
    "image_synthesis": (SYNTHESIS, (2, 4), False),
    "image_synthesis_before": (SYNTHESIS, (2, 4), True),
}


@pytest.mark.parametrize("name", CAMNETS)
def test_any_refactoring_configuration(tmp_path: Path, name: str):
    path = tmp_path / f"camnet_{name}.npz"
    oracle.write_camnet(path, CAMNETS[name], seed=len(name))
    check_file(path, FAMILIES)


@pytest.mark.parametrize("name", ORIGINALS)
def test_any_original_configuration(tmp_path: Path, name: str):
    cfg, size, before_up = ORIGINALS[name]
    path = tmp_path / f"original_{name}.npz"
    oracle.write_original(path, cfg, size, before_up=before_up, seed=len(name))
    check_file(path, FAMILIES)


def _edit(source: Path, target: Path, change) -> Path:
    with np.load(source) as file:
        arrays = {key: file[key] for key in file.files}
    change(arrays)
    target.parent.mkdir(exist_ok=True)
    np.savez(target, **arrays)
    return target


@pytest.fixture
def camnet_file(tmp_path: Path) -> Path:
    path = tmp_path / "camnet_plain.npz"
    oracle.write_camnet(path, dict(SMALL, res=[4, 8, 16]))
    return path


@pytest.mark.parametrize("key", ["out1", "feat0", "grad_x", "grad_norm_per_param", "out0_expanded"])
def test_a_changed_value_is_noticed(camnet_file: Path, key: str):
    def change(arrays):
        arrays[key] = arrays[key].copy()
        arrays[key].flat[0] += 1e-2

    with pytest.raises(AssertionError, match=key):
        check_file(_edit(camnet_file, camnet_file.with_name("camnet_x.npz"), change), FAMILIES)


def test_nothing_is_skipped_in_silence(tmp_path: Path, camnet_file: Path):
    extra = _edit(camnet_file, tmp_path / "camnet_x.npz", lambda a: a.update(extra=np.zeros(2)))
    with pytest.raises(AssertionError, match="extra"):
        check_file(extra, FAMILIES)
    with pytest.raises(AssertionError, match="no array cot0"):
        check_file(_edit(camnet_file, tmp_path / "camnet_x.npz", lambda a: a.pop("cot0")), FAMILIES)
    with pytest.raises(AssertionError, match="no family"):
        check_file(camnet_file.rename(tmp_path / "camnets.npz"), FAMILIES)
    (tmp_path / "empty").mkdir()
    assert files_of(tmp_path / "empty") == files_of(tmp_path / "absent") == []
    (tmp_path / "README.md").touch()
    (tmp_path / "stray.bin").touch()
    assert tmp_path / "README.md" not in files_of(tmp_path)
    with pytest.raises(AssertionError, match="no vector file"):
        check_file(tmp_path / "stray.bin", FAMILIES)


@pytest.mark.parametrize("seed", range(6))
def test_any_colours(tmp_path: Path, seed: int):
    """Float32 noise of LAB, up to 5e-5, is no mistake; a thousandth is."""
    path = tmp_path / "color.npz"
    oracle.write_color(path, seed=seed)
    check_file(path, FAMILIES)
    for key in ("lab", "lab_normalised_correct", "rgb_from_nlab_random"):

        def change(arrays, key=key):
            arrays[key].flat[seed] += 1e-3

        with pytest.raises(AssertionError, match=key):
            check_file(_edit(path, tmp_path / "wrong" / "color.npz", change), FAMILIES)


@pytest.mark.parametrize(("ns", "sp"), [([4, 3], [3, 8]), ([1, 5], [1, 1])])
def test_hierarchical_sampling_of_any_chunking(tmp_path: Path, ns: list[int], sp: list[int]):
    """A search by the oracle, candidate by candidate, as a golden-like file."""
    cfg, batch, seed = dict(SMALL, res=[8, 16, 32]), 2, 3
    oracle.write_camnet(tmp_path / "camnet_net.npz", cfg, seed=1)
    net = Vectors(tmp_path / "camnet_net.npz")
    weights = net.tree("sd")
    g = torch.Generator().manual_seed(0)
    arrays = {"cfg_json": np.array(json.dumps(cfg)), "recipe_seed": np.array(seed)}
    arrays |= {"alpha": np.array(0.3, np.float32), "ns": np.array(ns), "sp": np.array(sp)}
    x = torch.rand(batch, 3, 8, 8, generator=g)
    ys = [torch.rand(batch, 3, r, r, generator=g) for r in (16, 32)]
    arrays |= {"x": x.numpy(), "y0": ys[0].numpy(), "y1": ys[1].numpy()}
    np.savez(tmp_path / "loss.npz", recipe_seed=np.array(seed), alpha=np.array(0.3, np.float32))
    loss = recipe_loss(Vectors(tmp_path / "loss.npz"), "reference")
    state = {k: v.double() for k, v in weights.items()}
    chosen: list[torch.Tensor] = []
    for level, size in enumerate([4 + 2 * 64, 4 + 2 * 256]):
        pool = torch.randn(batch, ns[level], size, generator=g)
        losses = torch.empty(batch, ns[level])
        for k in range(ns[level]):
            codes = [*chosen, pool[:, k].double()]
            image = oracle.refactored(state, cfg, x.double(), codes, last=level)["out"][level]
            losses[:, k] = loss(image.float(), ys[level])
        best = losses.argmin(1)
        chosen.append(pool[torch.arange(batch), best].double())
        ordered = losses.double().sort(1).values
        margin = (
            (ordered[:, 1] - ordered[:, 0]) / ordered[:, 0]
            if ns[level] > 1
            else torch.full((batch,), torch.inf)
        )
        start, chunk = 0, 0
        while start < ns[level]:
            part = pool[:, start : start + sp[level]]
            arrays[f"pool_l{level}_c{chunk}"] = part.flatten(0, 1).numpy()
            start, chunk = start + part.shape[1], chunk + 1
        arrays[f"all_losses_l{level}"] = losses.numpy()
        arrays[f"best_index_l{level}"] = best.numpy()
        arrays[f"margin_l{level}"] = margin.float().numpy()
        arrays[f"chosen{level}"] = chosen[-1].float().numpy()
    arrays["final_losses"] = np.stack([arrays[f"all_losses_l{k}"].min(1) for k in (0, 1)])
    path = tmp_path / "hierarchical_sampling.npz"
    np.savez(path, **arrays, **{f"sd/{k}": v.numpy() for k, v in weights.items()})
    check_file(path, FAMILIES)

    def wrong(arrays):
        arrays["best_index_l1"] = (arrays["best_index_l1"] + 1) % ns[1]

    with pytest.raises(AssertionError):
        check_file(_edit(path, path, wrong), FAMILIES)


def test_configuration_is_read_from_the_weights(camnet_file: Path):
    weights = Vectors(camnet_file).tree("sd")
    prefixed = {f"module.{key}": value for key, value in weights.items()}
    model = load_reference(prefixed)
    for key, value in dict(SMALL, resid_nc=[5, 4], dense_nc=[3, 4], in_nc=3, out_nc=3).items():
        assert model.config[key] == value
    assert model.res == [16, 32, 64]
    # the CIMLE refactoring's config.json holds every option of its script
    everything = dict(SMALL, res=[4, 8, 16], wandb="online", lr=1e-4, color_space="rgb", ns=[128])
    assert load_reference(weights, everything).res == [4, 8, 16]


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (dict(n_blocks=2), r"n_blocks 2, the weights have 1"),
        (dict(resid_nc=[5, 5]), r"resid_nc \[5, 5\]"),
        (dict(res=[4, 8, 8]), r"res \[4, 8, 8\] does not fit"),
        (dict(res=[4, 8]), r"does not fit"),
        (dict(code_nc=3), r"in_nc|code_nc"),
    ],
)
def test_contradictions_are_refused(camnet_file: Path, cfg: dict, message: str):
    with pytest.raises(ValueError, match=message):
        load_reference(Vectors(camnet_file).tree("sd"), cfg)


def test_foreign_and_incomplete_weights_are_refused(tmp_path: Path, camnet_file: Path):
    with pytest.raises(ValueError, match="not CAM-Net weights.*conv1.weight"):
        load_reference({"conv1.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="no keys at all"):
        load_reference({})
    weights = Vectors(camnet_file).tree("sd")
    del weights["levels.1.style_block.sub.0.RDB2.conv3.0.weight_g"]
    with pytest.raises(ValueError, match="1 missing .*RDB2.conv3"):
        load_reference(weights)
    del weights["levels.0.feat_net.0.bias"]
    with pytest.raises(ValueError, match="levels.0.feat_net.0.bias is missing"):
        load_reference(weights)
    oracle.write_original(tmp_path / "original_x.npz", ORIGINALS["decompression"][0], (4, 4))
    weights = Vectors(tmp_path / "original_x.npz").tree("sd")
    with pytest.raises(ValueError, match="must name the task"):
        load_reference(weights, dict(ORIGINALS["decompression"][0], task=None))
    with pytest.raises(ValueError, match="'Painting' is none of"):
        load_reference(weights, {"task": "Painting"})
    with pytest.raises(ValueError, match="upscale 4, the weights have 3 levels"):
        load_reference(weights, {"task": "decompression", "upscale": 4})
    weights["level_1_noise.0.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match="no place here.*level_1_noise"):
        load_reference(weights, {"task": "decompression"})


def test_scales_of_the_published_models(tmp_path: Path):
    for name, published in (("image_synthesis", 1.0), ("decompression", 0.1)):
        cfg, size, _ = ORIGINALS[name]
        oracle.write_original(tmp_path / "original_x.npz", cfg, size)
        weights = Vectors(tmp_path / "original_x.npz").tree("sd")
        silent = {key: value for key, value in cfg.items() if key != "feat_scales"}
        for said, scale in (({}, published), (dict(feat_scales=None), 0.1)):
            scales = load_reference(weights, silent | said).config["feat_scales"]
            assert set(scales[1:]) == {scale}


def test_recipe_is_stable():
    state, lins = recipe_weights(7)
    assert state["features.28.weight"].shape == (512, 512, 3, 3)
    assert all((lin >= 0).all() for lin in lins)
