"""Projection onto what an input says, against brute force: every operator as one large matrix."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from imle import consistency
from imle.consistency import (
    disagreement,
    feather,
    fill_in,
    in_range,
    known_pixels,
    project,
    reduce,
    to_show,
)
from imle.corruption import Corruption

TASKS = [
    dict(grayscale=g, mask_frac=m, fill=f)
    for g, (m, f) in itertools.product((0, 0.5, 1), ((0, "zero"), (0.25, "zero"), (0.25, "color")))
]


def picture(side: int, seed: int = 0, batch: int = 3) -> torch.Tensor:
    """Smooth pictures of eight bits."""
    g = torch.Generator().manual_seed(seed)
    coarse = 255 * torch.rand(batch, 3, 4, 4, generator=g)
    smooth = F.interpolate(coarse, size=side, mode="bicubic").clamp(0, 255)
    return smooth.round() / 255


def example(task: dict, low: int = 8, high: int = 16, mask_res: int = 4):
    """(task, its inputs, images that say something else)."""
    made = Corruption(**task, mask_res=mask_res, seed=5)
    cx = made.keyed(picture(low), 0, torch.arange(3))
    return made, cx, torch.rand(3, 3, high, high, generator=torch.Generator().manual_seed(9))


def linear(task: Corruption, cx: torch.Tensor, high: int) -> torch.Tensor:
    """M C D of one input [1, 3, h, h] as a matrix of float64, a column a pixel of the image."""
    low, columns = cx.shape[-1], []
    kept = None
    if task.grayscale == 0.5:  # the channel that is not the mean of the two others
        known = known_pixels(cx, task)
        where = torch.ones(1, low, low) if known is None else known[0].double()
        own = [((cx[0, a] - cx[0, b]) * where[0]).abs().max() for a, b in ((1, 2), (0, 2), (0, 1))]
        kept = int(np.argmin(own))
    for i in range(3 * high * high):
        unit = torch.zeros(3 * high * high, dtype=torch.float64)
        unit[i] = 1
        image = unit.reshape(1, 3, high, high)
        if low != high:
            image = F.interpolate(image, size=(low, low), mode="bicubic", antialias=True)
        if task.grayscale == 1:
            weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
            image = (image * weights[:, None, None]).sum(1, keepdim=True).expand(-1, 3, -1, -1)
        elif kept is not None:
            image = image.clone()
            others = [c for c in range(3) if c != kept]
            image[:, others] = image[:, others].mean(1, keepdim=True)
        known = known_pixels(cx, task)
        columns.append((image if known is None else image * known).flatten())
    return torch.stack(columns, 1)


def test_the_reduction_is_that_of_the_pyramid():
    """Pillow rounds to eight bits after rows and after columns, and cuts what is beyond."""
    large = (51 + 153 * picture(48)).round() / 255
    pixels = (255 * large).round().byte().permute(0, 2, 3, 1).numpy()
    for size in (24, 12, 16):
        pillow = [
            np.asarray(Image.fromarray(p).resize((size, size), Image.BICUBIC)) for p in pixels
        ]
        expected = torch.from_numpy(np.stack(pillow)).permute(0, 3, 1, 2) / 255
        assert (reduce(large, (size, size)) - expected).abs().max() < 1.5 / 255
    torch.testing.assert_close(
        reduce(large, (16, 24)),
        F.interpolate(large, size=(16, 24), mode="bicubic", antialias=True),
        atol=1e-6, rtol=0,
    )  # fmt: skip


def test_super_resolution_adds_an_enlargement_found_by_least_squares():
    """Of which picture it is the enlargement: the one that makes the whole say the input."""
    task, cx, y = example({})
    got, side = project(y, cx, task), 8
    units = torch.eye(3 * side * side, dtype=torch.float64).reshape(-1, 3, side, side)
    enlarge = F.interpolate(units, size=16, mode="bicubic", antialias=True).flatten(1).T
    for i in range(len(y)):
        a = linear(task, cx[i : i + 1], 16)
        rest = cx[i].double().flatten() - a @ y[i].double().flatten()
        small = torch.linalg.lstsq(a @ enlarge, rest[:, None], driver="gelsd").solution[:, 0]
        moved = (got - y)[i].double().flatten()
        torch.testing.assert_close(moved, enlarge @ small, atol=1e-6, rtol=0)


def test_back_projection_arrives_there():
    task, cx, y = example({})
    got = y
    for _ in range(60):
        rest = cx - reduce(got, (8, 8))
        got = got + F.interpolate(rest, size=16, mode="bicubic", antialias=True)
    torch.testing.assert_close(project(y, cx, task), got, atol=1e-5, rtol=0)


@pytest.mark.parametrize("high", [8, 16, 32])
def test_a_flat_change_stays_flat(high):
    """No frame: the pseudo-inverse of the reduction is off by an eighth at the border and more."""
    cx = torch.full((1, 3, 8, 8), 0.5)
    got = project(torch.zeros(1, 3, high, high), cx, Corruption())
    torch.testing.assert_close(got, torch.full_like(got, 0.5), atol=1e-6, rtol=0)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("high", [8, 16])
def test_images_say_what_their_inputs_say(task, high):
    task, cx, y = example(task, high=high)
    got = project(y, cx, task)
    for i in range(len(y)):
        a, known = linear(task, cx[i : i + 1], high), known_pixels(cx[i : i + 1], task)
        said = cx[i : i + 1] if known is None else cx[i : i + 1] * known
        again = a @ got[i].double().flatten()
        torch.testing.assert_close(again, said.double().flatten(), atol=1e-6, rtol=0)
        apart = (a @ y[i].double().flatten() - said.double().flatten()).abs()
        count = 1 if known is None else known.float().mean()
        mean, largest = (v[i] for v in consistency.consistency(y, cx, task))
        assert abs(mean - apart.mean() / count) < 1e-6 and abs(largest - apart.max()) < 1e-6
    assert disagreement(got, cx, task).max() < 1e-6 < disagreement(y, cx, task).min()
    torch.testing.assert_close(project(got, cx, task), got, atol=1e-5, rtol=0)


def test_colours_keep_their_hue():
    """Luma is moved, differences between channels stay."""
    task, cx, y = example(dict(grayscale=1), high=8)
    moved = project(y, cx, task) - y
    torch.testing.assert_close(moved, moved[:, :1].expand_as(moved), atol=1e-6, rtol=0)
    assert moved.abs().mean() > 0.01 and (y - y[:, :1]).abs().mean() > 0.01


@pytest.mark.parametrize("fill", ["zero", "color"])
@pytest.mark.parametrize(("side", "mask_res"), [(8, 4), (12, 5), (8, 8)])
@pytest.mark.parametrize("grayscale", [0, 0.5, 1])
def test_holes_are_read_off_the_input(fill, side, mask_res, grayscale):
    task = Corruption(grayscale, mask_res, 0.4, fill, seed=3)
    x, ids = picture(side).clamp(1 / 255, 1), torch.arange(3)
    got = known_pixels(task.keyed(x, 0, ids), task)
    # what is masked is the same whatever the picture shows
    expected = (task.keyed(x * 0, 0, ids) != task.keyed(x * 0 + 1, 0, ids)).any(1, keepdim=True)
    assert torch.equal(got, expected) and not got.all() and got.any()
    assert known_pixels(x, Corruption(grayscale)) is None


def test_a_flat_known_cell_is_no_hole_of_random_colour():
    task = Corruption(0, 4, 0.25, "color", seed=3)
    assert known_pixels(torch.full((1, 3, 8, 8), 200 / 255), task).all()


def test_holes_are_filled_smoothly():
    """A ramp goes on through a hole; what is known stays; nothing known is grey."""
    ramp = torch.linspace(0, 1, 16).expand(1, 3, 16, 16)
    known = torch.ones(1, 1, 16, 16, dtype=torch.bool)
    known[..., 4:8, 8:12] = False
    got = fill_in(ramp * known, known)
    assert torch.equal(got * known, ramp * known) and (got - ramp).abs().max() < 0.06
    assert torch.equal(fill_in(ramp * 0, known & False), torch.full_like(ramp, 0.5))


def test_a_hole_is_soft_at_its_edge():
    known = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    known[..., 2:7, 2:7] = False
    assert feather(known, 1)[0, 0, 4].tolist() == [0, 0, 0.5, 1, 1, 1, 0.5, 0]
    task = Corruption(0, 2, 0.25)
    cx = torch.full((1, 3, 16, 16), 0.5)
    cx[..., :8, :8] = 0
    moved = project(torch.zeros(1, 3, 16, 16), cx, task)[0, 0, 0]
    assert moved[8:].eq(0.5).all() and moved[7] > moved[6] > moved[5] == moved[0] == 0


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("high", [8, 16])
def test_gradients(task, high):
    task, cx, y = example(task, high=high)
    y = y[:1].double().requires_grad_(True)
    cx = cx[:1]
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).double()
    out = project(y, cx, task)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3))
    (grad,) = torch.autograd.grad((out * weights).sum(), y)
    # the projection is affine: a difference is exact for any step
    with torch.no_grad():
        change = ((project(y + direction, cx, task) - out) * weights).sum()
    torch.testing.assert_close((grad * direction).sum().float(), change, atol=2e-4, rtol=1e-4)
    decided = high == 8 and known_pixels(cx, task) is None and task.grayscale == 0
    assert change.abs() < 1e-6 if decided else change.abs() > 0.01


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("high", [16, 32, 64])
def test_what_is_shown_is_in_range_and_agrees(task, high):
    task, cx, _ = example(task, low=16, mask_res=8)
    noise = torch.randn(3, 3, high, high, generator=torch.Generator().manual_seed(1))
    y = F.interpolate(cx, size=high, mode="bicubic") + 0.1 * noise
    got = to_show(y, cx, task)
    assert got.min() >= 0 and got.max() <= 1
    eight_bits = (255 * got).round() / 255
    mean, largest = consistency.consistency(eight_bits, cx, task)
    assert mean.max() < 1 / 255 and largest.max() < 12 / 255
    if high == 16:
        assert largest.max() < 1 / 255  # rounding alone
    asked = project(y, cx, task)  # and it is that, where that can be shown
    inside = (asked.clamp(0, 1) - asked).abs().amax(1) == 0
    apart = (got - asked).abs().amax(1)
    assert inside.float().mean() > 0.5 and apart[inside].mean() < 0.03  # an enlargement: 0.13


def test_paling_keeps_luma_and_hue():
    task, cx, _ = example(dict(grayscale=1), high=8)
    y = cx + torch.tensor([0.9, -0.5, 0.2]).view(3, 1, 1)
    y = project(y, cx, task)
    got = in_range(y, cx, task)
    torch.testing.assert_close(
        consistency.consistency(got, cx, task).largest, torch.zeros(3), atol=1e-6, rtol=0
    )
    share = (got - cx) / (y - cx)
    torch.testing.assert_close(share, share[:, :1].expand_as(share), atol=1e-4, rtol=1e-3)
    # paled, and no more than it takes
    assert got.min() >= 0 and got.max() <= 1 and y.max() > 1
    edge = (got.amax(1) > 1 - 1e-5) | (got.amin(1) < 1e-5)
    whole = (share.amin(1) > 1 - 1e-4) & (y.amax(1) <= 1) & (y.amin(1) >= 0)
    assert (edge | whole).all() and edge.any()


def test_half_precision_around_it_does_not_reach_it():
    task, cx, y = example(dict(grayscale=1), high=16)
    with torch.autocast("cpu", torch.bfloat16):
        got = project(y.bfloat16(), cx, task)
    assert got.dtype == torch.float32 and disagreement(got, cx, task).max() < 1e-6


def test_an_image_smaller_than_its_input_is_refused():
    with pytest.raises(ValueError, match="images of 4 pixels are no enlargement of inputs of 8"):
        project(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 8, 8), Corruption())
