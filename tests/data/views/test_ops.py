import itertools

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from data.views import ops as view_ops
from data.views.ops import ORDERS, crop_bilinear, crop_resize, hue_, resize_weights

G = torch.Generator().manual_seed(5)


def pictures(n=8, height=21, width=26):
    """Noise, smooth ones, gray, black, white and pure colours: float32 in [0, 1]."""
    x = torch.rand(n, 3, height, width, generator=G)
    coarse = torch.rand(2, 3, 4, 4, generator=G)
    x[0:2] = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    x[2] = x[2, :1]
    x[3, :, : height // 2] = 0
    x[3, :, height // 2 :] = 1
    x[4] = (x[4] > 0.5).float()
    return x


def each(function, x, *values):
    return torch.stack([function(x[i], *(v[i].item() for v in values)) for i in range(len(x))])


FACTORS = torch.tensor([0.0, 0.2, 0.7, 1.0, 1.3, 1.8, 0.5, 2.5])
SHIFTS = torch.tensor([-0.5, -0.2, -0.01, 0.0, 0.1, 1 / 3, 0.5, 0.37])


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_blends_are_torchvisions(name):
    x = pictures()
    expected = each(getattr(F, f"adjust_{name}"), x, FACTORS)
    out = getattr(view_ops, f"{name}_")(x.clone(), FACTORS)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)


def test_hue_is_torchvisions():
    x = pictures()
    torch.testing.assert_close(
        hue_(x.clone(), SHIFTS), each(F.adjust_hue, x, SHIFTS), rtol=0, atol=1e-5
    )


def test_hue_of_every_ordering_of_channels_and_ties():
    values = torch.tensor(list(itertools.product([0, 1e-3, 0.25, 0.5, 0.999, 1], repeat=3)))
    x = values.T.reshape(1, 3, 12, 18)
    for shift in SHIFTS:
        out = hue_(x.clone(), shift[None])
        expected = F.adjust_hue(x, shift.item())
        assert torch.isfinite(out).all()
        # where two channels tie at the top a hue of 0 and of 1 are the same colour
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


def test_gray_is_torchvisions():
    x = pictures()
    expected = F.rgb_to_grayscale(x, num_output_channels=3)
    torch.testing.assert_close(view_ops.grayscale_(x.clone()), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kernel", [1, 3, 9, 23])
def test_blur_is_torchvisions(kernel):
    x = pictures()
    sigma = torch.tensor([0.1, 0.3, 0.6, 1.0, 1.3, 1.6, 2.0, 5.0])
    expected = each(lambda image, s: F.gaussian_blur(image, [kernel, kernel], [s, s]), x, sigma)
    torch.testing.assert_close(view_ops.blur(x, sigma, kernel), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kernel", [4, 43])
def test_a_blur_that_cannot_be_is_refused(kernel):
    with pytest.raises(ValueError, match=f"a blur of {kernel} taps needs an odd number"):
        view_ops.blur(pictures(), torch.ones(8), kernel)


BOXES = torch.tensor(
    [[0, 0, 21, 26], [20, 25, 1, 1], [3, 4, 7, 9], [0, 5, 20, 2], [5, 0, 16, 16]]
    + [[1, 1, 12, 24], [0, 0, 1, 26], [2, 3, 16, 17]]
)
FLIPS = torch.tensor([0, 1, 0, 1, 1, 0, 1, 0], dtype=torch.bool)


def cut_by_torchvision(x, size):
    out = [F.resized_crop(x[i], *BOXES[i].tolist(), [size, size], antialias=True) for i in range(8)]
    return torch.stack([o.flip(-1) if f else o for o, f in zip(out, FLIPS, strict=True)])


@pytest.mark.parametrize("size", [1, 5, 16, 26, 40])
def test_crops_are_torchvisions(size):
    x = (pictures() * 255).round()
    expected = cut_by_torchvision(x / 255, size)
    for images in (x.to(torch.uint8), x / 255):
        out = crop_resize(images, BOXES, size, FLIPS)
        torch.testing.assert_close(out, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [26, 40])
def test_enlarging_without_antialiasing_is_the_same(size):
    x = (pictures() * 255).round().to(torch.uint8)
    out = crop_bilinear(x, BOXES, size, FLIPS)
    torch.testing.assert_close(out, cut_by_torchvision(x / 255, size), rtol=0, atol=1e-5)


def test_weights_of_a_large_picture_keep_their_precision():
    start, length = torch.tensor([4000]), torch.tensor([96])
    weights = resize_weights(4096, start, length, 224)
    assert weights[0, :, :4000].abs().max() == 0
    image = np.random.default_rng(0).random((1, 1, 96), dtype=np.float32)
    image = torch.from_numpy(image)
    expected = torch.nn.functional.interpolate(image.double(), 224, mode="linear")
    torch.testing.assert_close(
        (weights[0, :, 4000:].double() @ image[0, 0].double()), expected[0, 0], rtol=0, atol=1e-5
    )


def test_masked_jitter_is_the_sorted_one():
    x = pictures(24, 9, 11)
    order = torch.tensor(ORDERS)
    factors = torch.rand(24, 4, generator=G) * torch.tensor([1.6, 1.6, 1.6, 0.4])
    factors[:, :3] += 0.2
    active = torch.arange(24) % 5 > 0
    out = view_ops.jitter_masked_(x.clone(), order, factors, active)
    for i in range(24):
        expected = x[i : i + 1].clone()
        if active[i]:
            view_ops.jitter_in_order_(expected, ORDERS[i], factors[i : i + 1])
        torch.testing.assert_close(out[i : i + 1], expected, rtol=0, atol=1e-6)
