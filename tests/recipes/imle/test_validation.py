"""What is looked at while IMLE trains: the sheet, the figures, the verdict."""

import pytest
import torch
from torch.nn import functional as F

from imle import draw_samples
from recipes.imle import parts, validation
from recipes.imle.options import get_args
from tests.scripts.support import TINY

CPU = torch.device("cpu")


def looked(*words, samples=3, count=2):
    """(look, corrupted inputs, targets, samples) of an untrained network."""
    args = get_args(None, [*TINY, *words])
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
    assert look.captions.columns[3:] == ["sample 1", "sample 2", "sample 3"]
    sheet = look.pictures.unflatten(0, (2, 6))
    assert torch.equal(sheet[:, 0], y)
    assert torch.equal(sheet[:, 1], F.interpolate(cx, scale_factor=2, mode="nearest"))
    # Corners of the outer pixels meet, not their centres; with antialiasing the kernel is Pillow's.
    wanted = F.interpolate(cx, size=16, mode="bicubic", align_corners=False, antialias=True)
    assert torch.equal(sheet[:, 2], wanted.clamp(0, 1))
    for shown, own in zip(sheet[:, 3:], drawn, strict=True):  # the same, in another order
        assert sorted(x.sum().item() for x in shown) == pytest.approx(
            sorted(x.sum().item() for x in own), rel=1e-6
        )
    above = [look.captions.each[i : i + 6] for i in (0, 6)]
    for words, row, target in zip(above, sheet, y, strict=True):
        psnr = [-10 * (x.double() - target).square().mean().log10().item() for x in row[2:]]
        assert words == ["", "", *(f"{value:.1f} dB" for value in psnr)]


@pytest.mark.parametrize("words", ["--grayscale 1", "--mask_frac 0.25"])
def test_where_nothing_is_enlarged_the_input_itself_is_compared_with(words):
    look, cx, y, _ = looked(*f"--res 16 16 {words}".split())
    assert look.captions.columns == ["target", "input", "sample 1", "sample 2", "sample 3"]
    sheet = look.pictures.unflatten(0, (2, 5))
    assert torch.equal(sheet[:, 1], cx)
    mse = (cx.double() - y).square().mean((1, 2, 3))
    assert float(look.figures["bicubic_psnr"]) == pytest.approx(float((-10 * mse.log10()).mean()))
    assert ", the input " in look.verdict and "bicubic" not in look.verdict


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
