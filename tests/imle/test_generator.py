"""CAMNet: sizes, initialisation, batch expansion, cascade state, frozen copy, messages."""

from __future__ import annotations

import copy
import pickle
import weakref

import pytest
import torch

from imle import CAMNet, parameter_groups
from imle.rrdb import WNConv2d

TINY = dict(resid_nc=[6, 5, 4], dense_nc=[3, 4, 2], n_blocks=1, map_nc=4, latent_nc=8, code_nc=2)


def tiny(res=(4, 8, 16), **settings) -> CAMNet:
    torch.manual_seed(0)
    return CAMNet(list(res), **{**TINY, **settings})


def inputs(model: CAMNet, batch: int = 2) -> tuple[torch.Tensor, list[torch.Tensor]]:
    g = torch.Generator().manual_seed(1)
    r = model.res[0]
    x = torch.rand(batch, model.in_nc, r, r, generator=g)
    return x, [torch.randn(batch, d, generator=g) for d in model.code_sizes]


@pytest.mark.parametrize(
    ("settings", "total", "per_level", "entries"),
    [
        (
            dict(res=[16, 32, 64, 128, 256]),
            209_050_072,
            [112_012_678, 54_940_358, 29_679_302, 12_417_734],
            1252,
        ),
        (dict(res=[64, 64, 64, 64, 128]), 209_050_072, None, 1252),
        (dict(res=[32, 64, 128, 256]), 196_632_338, None, 939),
        (dict(res=[16, 32, 64]), 166_953_036, [112_012_678, 54_940_358], 626),
        (dict(res=[16, 32, 64], n_blocks=2), 58_622_028, [38_911_366, 19_710_662], 250),
        (dict(res=[16, 32]), 112_012_678, None, 313),
        (
            dict(res=[16, 32, 64], resid_nc=[32, 16], dense_nc=[16, 16], n_blocks=2),
            4_520_988,
            [2_361_958, 2_159_030],
            250,
        ),
        (
            dict(
                res=[8, 16, 32],
                resid_nc=[8, 6],
                dense_nc=[4, 5],
                n_blocks=2,
                map_nc=8,
                latent_nc=16,
                code_nc=2,
            ),
            55_380,
            [27_718, 27_662],
            250,
        ),
        (
            dict(
                res=[32, 64, 128, 256, 256],
                in_nc=1,
                out_nc=2,
                feedback="none",
                rgb_from="trunk_but_last",
                head="ab",
            ),
            209_041_424,
            None,
            1252,
        ),
        (
            dict(
                res=[8, 16, 32, 64, 128, 256],
                in_nc=20,
                code_nc=10,
                feedback="none",
                rgb_from="up",
                resid_nc=[128, 64, 64, 64, 64],
                dense_nc=[256, 192, 128, 64, 64],
            ),
            221_543_838,
            None,
            1565,
        ),
    ],
)
def test_parameter_counts(settings: dict, total: int, per_level: list[int] | None, entries: int):
    # counting needs shapes only, not the 0.8 GB of values
    with torch.device("meta"):
        model = CAMNet(**settings)
    assert sum(p.numel() for p in model.parameters()) == total
    assert len(model.state_dict()) == entries
    if per_level:
        assert [sum(p.numel() for p in s.parameters()) for s in model.stages] == per_level


def test_sizes():
    model = CAMNet([4, 8, 16], **dict(TINY, map_nc=128, code_nc=5))
    assert model.code_sizes == [128 + 5 * 16, 128 + 5 * 64] and model.levels == 2
    assert "levels.1.style_block.sub.0.RDB2.conv3.0.weight_g" in model.state_dict()
    with torch.device("meta"):
        big = CAMNet([16, 32, 64, 128, 256])
    assert big.code_sizes == [1408, 5248, 20608, 82048]


@pytest.mark.parametrize("res", [(4, 8, 16), (4, 4, 8), (4, 8, 8, 16), (6, 6)])
@pytest.mark.parametrize("color_space", ["rgb", "lab"])
def test_outputs_and_loi(res: tuple[int, ...], color_space: str):
    model = tiny(res, color_space=color_space)
    x, codes = inputs(model)
    with torch.no_grad():
        images = model(x, codes)
        assert [tuple(i.shape) for i in images] == [(2, 3, r, r) for r in res[1:]]
        for i, image in enumerate(images):
            assert torch.equal(model(x, codes, loi=i), image)
            assert image.min() >= 0 and (color_space == "lab" or image.max() <= 1)
        assert torch.equal(model(x, codes, loi=-1), images[-1])
        assert torch.equal(model(x, codes[:1], loi=0), images[0])


def test_expansion_is_repetition():
    """n times more rows at a level = the whole cascade repeated from there, candidate fastest."""
    model = tiny((4, 8, 16, 32))
    x, codes = inputs(model)
    g = torch.Generator().manual_seed(2)
    codes[1] = torch.randn(6, model.code_sizes[1], generator=g)
    codes[2] = torch.randn(12, model.code_sizes[2], generator=g)
    with torch.no_grad():
        images = model(x, codes)
        assert [len(i) for i in images] == [2, 6, 12]
        for b in range(2):
            for k in range(3):
                for j in range(2):
                    row1, row2 = b * 3 + k, (b * 3 + k) * 2 + j
                    path = [codes[0][[b]], codes[1][[row1]], codes[2][[row2]]]
                    alone = model(x[[b]], path)
                    torch.testing.assert_close(images[1][[row1]], alone[1], atol=1e-6, rtol=1e-5)
                    torch.testing.assert_close(images[2][[row2]], alone[2], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("feedback", ["reranged", "raw", "none"])
def test_cascade_state_equals_forward(feedback: str):
    model = tiny((4, 8, 16), feedback=feedback, rgb_from="up")
    _, codes = inputs(model)
    x = torch.rand(2, 3, 4, 4)
    cx = [x, torch.rand(2, 3, 8, 8)] if feedback == "none" else x
    with torch.no_grad():
        expected = model(cx, codes)
        state = model.start(cx)
        first, after = model.advance(state, codes[0], 0)
        again, _ = model.advance(state, codes[0], 0)
        second, _ = model.advance(after, codes[1], 1)
        # a state may be gathered like any batch
        rows = torch.tensor([1, 1, 0])
        picked = type(after)(*(None if t is None else t[rows] for t in after))
        gathered, _ = model.advance(picked, codes[1][rows], 1)
    assert torch.equal(first, again), "advance changed the state it was given"
    assert torch.equal(first, expected[0]) and torch.equal(second, expected[1])
    torch.testing.assert_close(gathered, expected[1][rows], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("color_space", ["rgb", "lab"])
def test_a_frozen_copy_is_equal_and_frozen(channels_last: bool, color_space: str):
    model = tiny(n_blocks=2, color_space=color_space)
    x, codes = inputs(model, 3)
    frozen = model.frozen_copy(dtype=torch.float32, channels_last=channels_last)
    assert frozen.code_sizes == model.code_sizes and frozen.levels == model.levels
    with torch.no_grad():
        expected = model(x, codes)
    found = frozen(x, codes)
    assert not any(t.requires_grad for t in [*found, *frozen.parameters()])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=5e-6, rtol=1e-4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    assert all(torch.equal(a, b) for a, b in zip(frozen(x, codes), found, strict=True))
    assert not torch.allclose(model(x, codes)[1], found[1], atol=1e-3)


@pytest.mark.parametrize("channels_last", [True, False])
def test_low_precision(channels_last: bool):
    """bf16 inside, float32 images finer than bf16's steps, in a frozen copy and under autocast."""
    model = tiny((8, 16, 32), n_blocks=2)
    x, codes = inputs(model, 4)
    with torch.no_grad():
        expected = model(x, codes)[1]
        low = model.frozen_copy(dtype=torch.bfloat16, channels_last=channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            auto = model(x, codes)[1]
        found = low(x, codes)[1]
    for image in (found, auto):
        assert image.dtype == torch.float32
        assert not torch.equal(image.bfloat16().float(), image)
        error = (image - expected).square().mean().sqrt() / expected.std()
        assert 1e-6 < error < 0.05
    assert low.stages[1].out_conv[0].weight.dtype == torch.float32
    assert low.stages[1].style_block.sub["0"].RDB1.weight0.dtype == torch.bfloat16


def test_channels_last_training():
    model = tiny()
    x, codes = inputs(model)
    expected = model(x, codes)[1]
    model = model.to(memory_format=torch.channels_last)
    out = model(x, codes)[1]
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-4)
    out.sum().backward()
    assert all(p.grad is not None for p in model.stages[0].parameters())


def test_copies_and_tools_that_walk_modules():
    """`levels` is a count while the modules are registered under that name."""
    model = tiny()
    x, codes = inputs(model)
    again = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        expected = model(x, codes)[1]
        assert torch.equal(again(x, codes)[1], expected)
        torch.testing.assert_close(compiled(x, codes)[1], expected, atol=1e-6, rtol=1e-5)
    assert isinstance(dict(model.named_modules())["levels.1"].feat_net, torch.nn.Sequential)
    assert len(list(model.stages)) == model.levels == 2


def test_a_frozen_copy_is_freed_at_once():
    model = tiny()
    frozen = model.frozen_copy()
    watch = weakref.ref(frozen)
    del frozen
    assert watch() is None, "a reference cycle keeps the copy of the weights alive"


def test_every_parameter_learns():
    for settings in ({}, dict(init="reference"), dict(color_space="lab")):
        model = tiny(**settings)
        x, codes = inputs(model)
        sum(image.square().sum() for image in model(x, codes)).backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_rectangles():
    model = tiny()
    x = torch.rand(2, 3, 4, 6)
    codes = [torch.randn(2, 4 + 2 * h * w) for h, w in ((4, 6), (8, 12))]
    assert [i.shape[2:] for i in model(x, codes)] == [(8, 12), (16, 24)]


# initialisation


def _conv_std(model: CAMNet, part: str) -> float:
    found = [
        conv.weight().mul(conv.fan_in**0.5).flatten()
        for name, conv in model.named_modules()
        if isinstance(conv, WNConv2d) and part in name
    ]
    return torch.cat(found).std().item()


WIDE = dict(resid_nc=[24, 24], dense_nc=[16, 16], n_blocks=2)


@pytest.mark.parametrize("scale", [0.1, 0.5])
def test_init_scale_takes_effect(scale: float):
    model = tiny(**WIDE, init_scale=scale)
    assert _conv_std(model, "conv2.") == pytest.approx(scale * 2**0.5, rel=0.03)
    assert _conv_std(model, "conv5.") == pytest.approx(scale, rel=0.03)
    assert _conv_std(model, "upsample_block") == pytest.approx(2**0.5, rel=0.03)


def test_the_picture_is_heard_beside_the_code():
    """Weights of a level's inputs: picture x 4, noise x 0.3, the previous feature as it is."""
    model = tiny(resid_nc=[256, 256], dense_nc=[4, 4], n_blocks=1)
    conv = model.stages[1].feat_net[0]
    weight = conv.weight() * conv.fan_in**0.5
    c, n = model.config["in_nc"], model.config["code_nc"]
    for part, gain in ((weight[:, :c], 4), (weight[:, c : c + n], 0.3), (weight[:, c + n :], 1)):
        assert part.std().item() == pytest.approx(gain, rel=0.05)


def test_init_types():
    normal = tiny(**WIDE, init_type="normal")
    weight = normal.stages[0].upsample_block.model[1][0].weight()
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not any(m.bias.any() for m in normal.modules() if isinstance(m, WNConv2d))
    for settings in (dict(init_scale=0.1), dict(init_scale=0.7), dict(init_type="normal")):
        # the original's initialisation of convolutions was lost: torch's default stayed
        model = tiny(**WIDE, init="reference", **settings)
        for part in ("conv2.", "conv5.", "feat_net", "upsample_block", "lr_conv"):
            assert _conv_std(model, part) == pytest.approx(1 / 3**0.5, rel=0.04), part
        for conv in model.modules():
            if isinstance(conv, WNConv2d):
                assert not conv.bias.any()
                assert conv.weight().abs().max() * conv.fan_in**0.5 <= 1 + 1e-6


@torch.no_grad()
def style_std(model, codes):
    """Standard deviation of w = mapping(z_map) per level; near 0 only spatial noise has effect."""
    pairs = zip(model.stages, codes, strict=True)
    return [s.mapping_net(code[:, : s.map_nc]).std().item() for s, code in pairs]


def test_mapping_init():
    settings = dict(WIDE, map_nc=128, latent_nc=512)
    model = tiny((4, 8, 16), **settings)
    _, codes = inputs(model, 64)
    assert all(0.5 < std < 1.3 for std in style_std(model, codes))
    reference = tiny((4, 8, 16), **settings, mapping_init="reference")
    # measured on the original: 1.0e-8, 7e-9, 5e-9, 5e-9
    assert all(1e-9 < std < 3e-8 for std in style_std(reference, codes))
    linear = reference.stages[0].mapping_net.model[2].weight
    assert linear.std().item() == pytest.approx(0.1 * (2 / 512) ** 0.5, rel=0.02)


def test_samples_differ_at_the_start_without_saturation():
    model = tiny((8, 16, 32), **dict(WIDE, map_nc=64, latent_nc=128, code_nc=5))
    x = torch.rand(3, 3, 8, 8)
    codes = [torch.randn(3, model.code_sizes[0]), torch.randn(24, model.code_sizes[1])]
    with torch.no_grad():
        for image in model(x, codes):
            assert 0.02 < image.std() < 0.25
            assert ((image > 0.02) & (image < 0.98)).float().mean() > 0.98
        spread = model(x, codes)[1].unflatten(0, (3, 8)).std(1).mean()
    assert spread > 0.01


def test_construction_is_seeded():
    a, b = tiny(), tiny()
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_config_rebuilds_the_model():
    model = tiny((4, 4, 8), color_space="lab", feat_scales=[0, 0.5], init_scale=0.3)
    again = CAMNet(**model.config)
    again.load_state_dict(model.state_dict())
    x, codes = inputs(model)
    with torch.no_grad():
        assert torch.equal(again(x, codes)[1], model(x, codes)[1])
    assert again.config == model.config


def test_parameter_groups():
    model = tiny()
    rest, mapping = parameter_groups(model, 1e-3, 0.01)
    names = {id(p): n for n, p in model.named_parameters()}
    assert all(".mapping_net." in names[id(p)] for p in mapping["params"])
    assert not any(".mapping_net." in names[id(p)] for p in rest["params"])
    assert len(mapping["params"]) + len(rest["params"]) == len(names) and mapping["params"]
    assert (rest["lr"], mapping["lr"]) == (1e-3, pytest.approx(1e-5))
    torch.optim.AdamW([rest, mapping], lr=1e-3)
    with pytest.raises(ValueError, match="mapping_lr_mult must be positive and finite, got 0"):
        parameter_groups(model, 1e-3, 0)


def test_muon_takes_hidden_convolutions_of_a_base():
    """Their directions alone, and neither the first layer nor the last."""
    model = tiny(base="learned", base_nc=4, base_blocks=1)
    names = {id(p): name for name, p in model.named_parameters()}
    rest, mapping, hidden = parameter_groups(model, 1e-3, 0.01, 5.0)
    assert (hidden["lr"], hidden["muon"]) == (1e-3, 5.0) and "muon" not in rest | mapping
    assert sorted(names[id(p)] for p in hidden["params"]) == [
        "regression.blocks.0.first.0.weight_v",
        "regression.blocks.0.second.0.weight_v",
        "regression.long.0.weight_v",
    ]
    assert sum(len(group["params"]) for group in (rest, mapping, hidden)) == len(names)
    assert len(parameter_groups(tiny(), 1e-3, 0.01, 5.0)) == 2


# colour


def test_correct_lab_reaches_green_and_blue():
    model = tiny((4, 8), color_space="lab")
    x, codes = inputs(model)
    conv = model.stages[0].out_conv[0]
    with torch.no_grad():
        conv.weight_g.zero_()
        conv.bias.copy_(torch.atanh(torch.tensor([2 * 0.32 - 1, 79.19 / 127, -107.86 / 127])))
        image = model(x, codes)[0]
    torch.testing.assert_close(image[0, :, 0, 0], torch.tensor([0.0, 0.0, 1.0]), atol=0.02, rtol=0)


def test_raw_feedback_hands_on_the_tanh_image():
    a, b = tiny(feedback="reranged"), tiny(feedback="raw")
    x, codes = inputs(a)
    with torch.no_grad():
        (image, state), (_, raw) = (m.advance(m.start(x), codes[0], 0) for m in (a, b))
    assert torch.equal(state.image, image)
    torch.testing.assert_close(raw.image, 2 * image - 1, atol=1e-6, rtol=0)


# messages


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(res=[16]), r"res needs at least two resolutions, got \[16\]"),
        (dict(res=[16, 48]), r"48 after 16 must be 16 \(equal\) or 32 \(double\)"),
        (dict(res=[0, 0]), "res must be positive"),
        (dict(res=[32, 16]), "16 after 32"),
        (dict(resid_nc=[8]), "resid_nc needs 2 positive widths"),
        (dict(dense_nc=[8, 0]), "dense_nc needs 2 positive widths"),
        (dict(in_nc=1), "in_nc 1 and out_nc 3 must be equal"),
        (dict(in_nc=0), "in_nc must be at least 1, got 0"),
        (dict(n_blocks=0), "n_blocks must be at least 1"),
        (dict(code_nc=-1), "code_nc must be at least 0"),
        (dict(act_type="relu"), "act_type must be one of leakyrelu, got 'relu'"),
        (dict(color_space="hsv"), "color_space must be one of rgb, lab, got 'hsv'"),
        (dict(init_type="xavier"), "init_type"),
        (dict(init_scale=float("nan")), "init_scale must be positive and finite, got nan"),
        (dict(feat_scales=[0.1]), "feat_scales needs 2 values"),
        (dict(color_space="lab", in_nc=1, out_nc=1), "color_space lab needs in_nc 3"),
        (dict(head="ab"), "head ab needs in_nc 1"),
    ],
)
def test_bad_settings(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        CAMNet(**{**TINY, "res": [4, 8, 16], **settings})


def test_without_spatial_noise():
    model = tiny(code_nc=0)
    x, codes = inputs(model, 2)
    assert [code.shape[1] for code in codes] == [model.config["map_nc"]] * 2
    images = model(x, codes)
    assert [tuple(i.shape) for i in images] == [(2, 3, 8, 8), (2, 3, 16, 16)]
    assert not torch.equal(images[1], model(x, [codes[0], -codes[1]])[1])
    torch.testing.assert_close(model.frozen_copy()(x, codes), images, atol=1e-5, rtol=1e-4)


def test_bad_inputs():
    model = tiny()
    x, codes = inputs(model, 4)

    def rows(n: int, level: int = 1) -> torch.Tensor:
        return torch.zeros(n, model.code_sizes[level])

    for n in (6, 2, 0):
        with pytest.raises(ValueError, match=f"has {n} rows, no multiple of the batch of 4"):
            model(x, [codes[0], rows(n)])
    with pytest.raises(ValueError, match=r"level 0 must be \[rows, 36\] at 4 x 4"):
        model(x, [rows(4, 1), codes[1]])
    with pytest.raises(ValueError, match=r"at 8 x 8 \(model built for res \[4, 8, 16\]\)"):
        model(torch.rand(4, 3, 8, 8), codes)
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\], got \[4, 1, 4, 4\]"):
        model(x[:, :1], codes)
    with pytest.raises(ValueError, match="loi 2 names no level: there are 2"):
        model(x, codes, loi=2)
    with pytest.raises(ValueError, match="level 1 needs 2 codes, got 1"):
        model(x, codes[:1])
    with pytest.raises(ValueError, match="one input image is needed, got 2"):
        model([x, x], codes)
    fresh = tiny(feedback="none", rgb_from="up")
    with pytest.raises(ValueError, match="needs 2 input images, got 1"):
        fresh(x, codes)
    with pytest.raises(ValueError, match="input image 1 is smaller than 8 x 8"):
        fresh([x, x], codes)
