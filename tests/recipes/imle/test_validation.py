"""What is looked at while IMLE trains: the sheet, the figures, the verdict."""

import pytest
import torch
from torch.nn import functional as F

from evaluation.artifacts import border_error
from imle import draw_samples
from imle.color import rgb_to_xyz, xyz_to_lab
from imle.consistency import to_show
from recipes.imle import parts, validation
from recipes.imle.options import get_args
from tests.scripts import support

# Of a network whose outputs do not agree with their inputs by themselves.
PLAIN = "--base none --consistency none --padding zeros --norm instance --cells 0"
TINY = [*support.TINY, *PLAIN.split()]
CPU = torch.device("cpu")


def looked(*words, samples=3, count=2):
    """(look, corrupted inputs, targets, samples) of an untrained network."""
    args = get_args(None, [*(support.TINY if "--unconditional" in words else TINY), *words])
    torch.manual_seed(0)
    net = parts.network(args, CPU).eval()
    z_gen, _ = parts.codes(args, net)
    corruption, _ = parts.corruption(args)
    inputs, targets = (
        torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
        for side in (args.res[0], args.res[-1])
    )
    look = validation.look(
        net, parts.loss(args, CPU), z_gen, corruption, inputs, targets, CPU,
        samples=samples, pool_size=8,
    )  # fmt: skip
    ids = torch.arange(count)
    if args.unconditional:
        return look, None, targets / 255, None
    cx = corruption.keyed(inputs / 255, validation.LOOP, ids)
    with torch.no_grad():
        drawn = draw_samples(net, z_gen, cx, ids, samples, loop=validation.LOOP).clamp(0, 1)
    return look, cx, targets / 255, drawn


def test_columns_are_target_input_bicubic_and_samples_in_order():
    look, cx, y, drawn = looked()
    assert look.captions.columns[:3] == ["target", "input, 8 px", "bicubic"]
    assert look.captions.columns[3:] == ["sample 1", "sample 2", "sample 3", "they differ"]
    sheet = look.pictures.unflatten(0, (2, 7))
    assert torch.equal(sheet[:, 0], y)
    assert torch.equal(sheet[:, 1], F.interpolate(cx, scale_factor=2, mode="nearest"))
    # Corners of the outer pixels meet, not their centres; with antialiasing the kernel is Pillow's.
    wanted = F.interpolate(cx, size=16, mode="bicubic", align_corners=False, antialias=True)
    assert torch.equal(sheet[:, 2], wanted.clamp(0, 1))
    for shown, own in zip(sheet[:, 3:6], drawn, strict=True):  # the same, in another order
        assert sorted(x.sum().item() for x in shown) == pytest.approx(
            sorted(x.sum().item() for x in own), rel=1e-6
        )
    # The last: where they differ, white at a standard deviation of 0.1.
    deviation = drawn.std(1, correction=0).mean(1, keepdim=True)
    assert torch.allclose(sheet[:, 6], (10 * deviation).clamp(0, 1).expand(-1, 3, -1, -1))
    above = [look.captions.each[i : i + 7] for i in (0, 7)]
    for words, row, target, own in zip(above, sheet, y, deviation, strict=True):
        psnr = [-10 * (x.double() - target).square().mean().log10().item() for x in row[2:6]]
        assert words == ["", "", *(f"{value:.1f} dB" for value in psnr), f"{float(own.mean()):.3f}"]


@pytest.mark.parametrize("words", ["--grayscale 1", "--mask_frac 0.25"])
def test_where_nothing_is_enlarged_the_input_itself_is_compared_with(words):
    look, cx, y, _ = looked(*f"--res 16 16 {words}".split())
    assert look.captions.columns[:5] == ["target", "input", "sample 1", "sample 2", "sample 3"]
    sheet = look.pictures.unflatten(0, (2, 6))
    assert torch.equal(sheet[:, 1], cx)
    mse = (cx.double() - y).square().mean((1, 2, 3))
    assert float(look.figures["bicubic_psnr"]) == pytest.approx(float((-10 * mse.log10()).mean()))
    assert ", the input " in look.verdict and "bicubic" not in look.verdict


@pytest.mark.parametrize("words", ["--res 8 16", "--res 16 16 --mask_frac 0.25"])
def test_a_picture_of_one_colour_leaves_the_figures_finite(words):
    """Bicubic enlargement of black is black: an infinite PSNR would be the mean of all pictures."""
    args = get_args(None, [*TINY, *words.split()])
    net = parts.network(args, CPU).eval()
    z_gen, _ = parts.codes(args, net)
    black = [torch.zeros(1, 3, side, side, dtype=torch.uint8) for side in (args.res[0], 16)]
    look = validation.look(
        net, parts.loss(args, CPU), z_gen, parts.corruption(args)[0], *black, CPU,
        samples=2, pool_size=8,
    )  # fmt: skip
    assert all(bool(value.isfinite()) for value in look.figures.values()), look.figures
    assert "inf" not in look.verdict and "nan" not in look.verdict


def test_the_verdict_is_in_words():
    figures = {"psnr": 18.6, "best_psnr": 20.1, "bicubic_psnr": 21.7}
    figures |= {"lpips_random": 0.0754, "bicubic_lpips_random": 0.0716}
    say = validation.against_bicubic
    assert say(figures, "lpips_random", 6, "bicubic") == (
        "best of 6 20.1 dB, mean sample 18.6 dB, bicubic 21.7 dB: "
        "the mean sample is 3.1 dB worse than bicubic; lpips_random 0.0754 against 0.0716"
    )
    better = say(figures | {"psnr": 22.0}, "lpips_random", 1, "the input")
    assert better.startswith("sample 22.0 dB, the input 21.7 dB: the sample is 0.3 dB better than")
    assert "is as good as bicubic" in say(figures | {"psnr": 21.7}, "lpips_random", 6, "bicubic")


TASKS = ["--res 8 16", "--res 16 16 --grayscale 1", "--res 8 16 --grayscale 0.5",
         "--res 16 16 --mask_frac 0.25", "--res 8 16 --mask_frac 0.25 --mask_res 4 --fill color",
         "--res 8 16 --grayscale 1 --mask_frac 0.25 --mask_res 4"]  # fmt: skip


def again(images, cx, corruption, i, side):
    """Inputs of one size, by Pillow's filter, corrupted by the same key; images [K, 3, R, R]."""
    if images.shape[-1] != side:
        images = F.interpolate(images, size=side, mode="bicubic", antialias=True)
    ids = torch.full((len(images),), i)
    return corruption.keyed(images, validation.LOOP, ids)


@pytest.mark.parametrize("words", TASKS)
def test_consistency_is_how_far_the_corrupted_output_is_from_the_input(words):
    words = words.split()
    look, cx, y, drawn = looked(*words)
    args = get_args(None, [*TINY, *words])
    corruption, _ = parts.corruption(args)
    off, real = [], []
    for i, samples in enumerate(drawn):
        ids = torch.tensor([i])
        light = corruption.keyed(torch.full_like(cx[:1], 0.75), validation.LOOP, ids)
        dark = corruption.keyed(torch.full_like(cx[:1], 0.25), validation.LOOP, ids)
        known = (light != dark)[0]
        assert bool(args.mask_frac) == bool((~known).any())
        apart = (again(samples, cx, corruption, i, args.res[0]) - cx[i]).abs()
        off.append(torch.stack([row[known].mean() for row in apart]).mean())
        own = again(y[i : i + 1], cx, corruption, i, args.res[0])[0] - cx[i]
        real.append(own.abs()[known].mean())
    assert float(look.figures["consistency"]) == pytest.approx(float(sum(off)) / 2, rel=1e-4)
    own = float(look.figures["target_consistency"])
    assert own == pytest.approx(float(sum(real)) / 2, rel=1e-4)


@pytest.mark.parametrize("words", TASKS)
def test_consistent_diversity_is_that_of_samples_that_agree(words):
    words = words.split()
    look, cx, y, drawn = looked(*words, samples=3)
    args = get_args(None, [*TINY, *words])
    corruption, _ = parts.corruption(args)
    loss_fn = parts.loss(args, CPU)
    apart, far = [], []
    for i, samples in enumerate(drawn):
        fixed = to_show(samples, cx[i : i + 1].expand(3, -1, -1, -1), corruption)
        pairs = [float(loss_fn.terms(fixed[a : a + 1], fixed[b : b + 1]).lpips)
                 for a in range(3) for b in range(3) if a != b]  # fmt: skip
        apart.append(sum(pairs) / 6)
        far.append(float(loss_fn.terms(fixed, y[i : i + 1]).lpips.mean()))
    found = {name: float(value) for name, value in look.figures.items()}
    assert found["consistent_diversity_lpips_random"] == pytest.approx(sum(apart) / 2, rel=1e-3)
    assert found["diversity_share"] == pytest.approx(sum(apart) / sum(far), rel=1e-3)
    assert found["consistent_diversity_lpips_random"] < found["diversity_lpips_random"]
    # What is looked at can be the projected samples: then both diversities are one figure.
    torch.manual_seed(0)
    net = parts.network(args, CPU).eval()
    z_gen, _ = parts.codes(args, net)
    inputs = torch.full((1, 3, args.res[0], args.res[0]), 128, dtype=torch.uint8)
    target = torch.full((1, 3, args.res[-1], args.res[-1]), 128, dtype=torch.uint8)
    seen = validation.conditional(
        net, loss_fn, z_gen, corruption, inputs, target, CPU, samples=2, projected=True
    )
    assert float(seen.figures["consistency"]) < 1e-3
    names = ("diversity_lpips_random", "consistent_diversity_lpips_random")
    raw, consistent = (float(seen.figures[name]) for name in names)
    assert raw == pytest.approx(consistent, rel=1e-3)


def test_the_gain_of_the_best_and_the_spread_of_styles_are_figures():
    look, cx, y, drawn = looked("--res", "8", "16", "16", "--dense_nc", "4", "4", "--resid_nc", "6",
                                "6", samples=4)  # fmt: skip
    args = get_args(None, TINY)
    loss_fn = parts.loss(args, CPU)
    gains = []
    for samples, target in zip(drawn, y, strict=True):
        losses = loss_fn(samples, target[None])
        gains.append(float(1 - losses.min() / losses.mean()))
    assert float(look.figures["best_gain"]) == pytest.approx(sum(gains) / 2, rel=1e-4)
    levels = [float(look.figures[f"level{i}_style_std"]) for i in (0, 1)]
    assert min(levels) > 0.01
    assert float(look.figures["style_std"]) == pytest.approx(sum(levels) / 2)


def test_borders_and_ripples_are_figures_of_the_samples():
    look, _, y, drawn = looked()
    borders = [border_error(samples, y[i : i + 1]).mean() for i, samples in enumerate(drawn)]
    assert float(look.figures["border_error"]) == pytest.approx(float(sum(borders) / 2), rel=1e-5)
    assert "ripple" not in look.figures  # nothing of noise is flat
    args = get_args(None, TINY)
    net = parts.network(args, CPU).eval()
    plain = [torch.full((1, 3, side, side), 128, dtype=torch.uint8) for side in (8, 16)]
    found = validation.conditional(
        net, parts.loss(args, CPU), parts.codes(args, net)[0], parts.corruption(args)[0], *plain,
        CPU, samples=2,
    )  # fmt: skip
    assert float(found.figures["ripple"]) > 1


def test_a_dead_mapping_is_seen():
    args = get_args(None, TINY)
    net = parts.network(args, CPU).eval()
    z_gen, _ = parts.codes(args, net)
    with torch.no_grad():  # whatever the code, one style
        for name, parameter in net.named_parameters():
            if "mapping_net" in name and name.endswith("weight"):
                parameter.zero_()
    with validation.recorded_styles(net) as styles:
        cx, ids = torch.rand(2, 3, 8, 8), torch.arange(2)
        draw_samples(net, z_gen, cx, ids, 3, loop=validation.LOOP)
    assert float(validation.style_figures(styles)["style_std"]) == 0
    assert not any(module._forward_hooks for module in net.modules())


def test_colours_are_held_against_grey_and_against_one_colour_a_picture():
    look, _, y, drawn = looked(*"--res 16 16 --grayscale 1".split())
    lab = [xyz_to_lab(rgb_to_xyz(images)) for images in (*drawn, y)]
    apart = [
        (own - lab[2][i])[:, 1:].square().sum(1).sqrt().mean((1, 2))
        for i, own in enumerate(lab[:2])
    ]
    found = {name: float(value) for name, value in look.figures.items()}
    assert found["chroma_error"] == pytest.approx(float(torch.stack(apart).mean()), rel=1e-4)
    best = torch.stack([each.min() for each in apart]).mean()
    assert found["best_chroma_error"] == pytest.approx(float(best), rel=1e-4)
    ab = lab[2][:, 1:]
    assert found["chroma_error_grey"] == pytest.approx(float(ab.norm(dim=1).mean()), rel=1e-4)
    even = (ab - ab.mean((2, 3), keepdim=True)).norm(dim=1).mean()
    assert found["chroma_error_mean_color"] == pytest.approx(float(even), rel=1e-4)
    middle = [each[:, 1:] - each[:, 1:].mean((2, 3), keepdim=True) for each in lab]
    apart = [(own - middle[2][i]).norm(dim=1).mean((1, 2)) for i, own in enumerate(middle[:2])]
    within = float(torch.stack(apart).mean())
    assert found["chroma_error_within"] == pytest.approx(within, rel=1e-4)
    best = float(torch.stack([each.min() for each in apart]).mean())
    assert found["best_chroma_error_within"] == pytest.approx(best, rel=1e-4)
    assert "error of hues" in look.verdict
    assert not [name for name in looked()[0].figures if "chroma" in name or "seam" in name]


def test_seams_are_held_against_real_pictures_at_the_same_edges():
    words = "--res 8 16 --mask_frac 0.25 --mask_res 4".split()
    look, cx, y, drawn = looked(*words)
    steps = {"seam": [], "input_seam": [], "real": []}
    shown = F.interpolate(cx, size=16, mode="nearest")
    for i in range(2):
        hole = (shown[i] == 0).all(0)
        for name, images in (("seam", drawn[i]), ("input_seam", shown[i : i + 1]),
                             ("real", y[i : i + 1])):  # fmt: skip
            across = (images.diff(dim=3).abs().mean(1)[:, hole.diff(dim=1)],
                      images.diff(dim=2).abs().mean(1)[:, hole.diff(dim=0)])  # fmt: skip
            steps[name].append(torch.cat(across, 1).mean())
    real = sum(steps["real"])
    for name in ("seam", "input_seam"):
        assert float(look.figures[name]) == pytest.approx(float(sum(steps[name]) / real), rel=1e-4)
    assert "edges of holes" in look.verdict


def test_the_verdict_says_whether_samples_agree_and_how_much_they_differ():
    real = {"target_consistency": 0.001}
    off = {"consistency": 0.065, "diversity_share": 0.092, **real}
    assert validation.in_words(off) == [
        "samples contradict the input (off by 16.57 of 255) and, made to agree with it, differ by "
        "9 % of their distance to the target"
    ]
    assert validation.in_words({"consistency": 0.001, "diversity_share": 0.21, **real}) == [
        "samples agree with the input (off by 0.26 of 255) and differ by 21 % of their distance to "
        "the target"
    ]
    assert validation.in_words({"consistency": 0.0, **real}) == [
        "samples agree with the input (off by 0.00 of 255)"
    ]
    # Of sets that hold pictures of several sizes even the true one is not quite its input.
    assert validation.in_words({"consistency": 0.02, "target_consistency": 0.025}) == [
        "samples agree with the input (off by 5.10 of 255, as real pictures are by 6.4)"
    ]
    hues = {"chroma_error": 9.12, "chroma_error_grey": 12.0, "chroma_error_mean_color": 9.5}
    seams = {"seam": 1.31, "input_seam": 4.7}
    assert validation.in_words({"consistency": 0.0, **real, **hues, **seams})[1:] == [
        "error of hues 9.1, grey 12.0, one colour a picture 9.5",
        "edges of holes 1.31 times as steep as real ones (input 4.7)",
    ]
    alone = looked(samples=1)[0]
    assert "differ" not in alone.verdict and "diversity_share" not in alone.figures
    assert alone.captions.columns[-1] == "sample 1"


def test_figures_leave_weights_and_random_streams_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    args = get_args(None, TINY)
    net = parts.network(args, CPU).eval()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    torch.random.set_rng_state(before)
    z_gen, _ = parts.codes(args, net)
    corruption, _ = parts.corruption(args)
    inputs = torch.full((1, 3, 8, 8), 9, dtype=torch.uint8)
    targets = torch.full((1, 3, 16, 16), 9, dtype=torch.uint8)
    validation.conditional(
        net, parts.loss(args, CPU), z_gen, corruption, inputs, targets, CPU, samples=2
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())
    assert not any(p.grad is not None for p in net.parameters())


def test_without_an_input_the_mean_of_the_other_pictures_is_compared_with():
    words = "--unconditional --lpips none --res 8"
    look, _, y, _ = looked(*words.split(), count=3)
    assert look.captions.columns == ["sample 1", "sample 2", "sample 3"]
    assert look.pictures.shape == (9, 3, 8, 8)
    apart = torch.stack([(y[i] - y[[j for j in range(3) if j != i]].mean(0)) for i in range(3)])
    assert torch.allclose(look.figures["mean_picture_mse"], apart.square().mean())
    assert "than the mean picture" in look.verdict and "of 8 samples" in look.verdict
    alone, *_ = looked(*words.split(), count=1)
    assert "mean_picture_mse" not in alone.figures and "mean" not in alone.verdict
