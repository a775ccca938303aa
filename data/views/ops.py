"""Picture operations on a batch, every picture with parameters of its own.

Each is torchvision's operation of the same name (transforms.v2.functional on float32 in [0, 1]),
to the rounding of float32, for a whole batch at once: `x` is float32 [n, 3, h, w] in [0, 1],
parameters are [n] on the same device. None looks from one picture to another, so a row does not
depend on its batch. Names with an underscore at the end work in place.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

GRAY = (0.2989, 0.587, 0.114)
# The order of the four operations of a colour jitter, by number: 0 brightness, 1 contrast,
# 2 saturation, 3 hue; in lexicographic order.
ORDERS = tuple(itertools.permutations(range(4)))


def _column(values: Tensor) -> Tensor:
    return values.to(torch.float32).view(-1, 1, 1, 1)


def beside(x: Tensor, values: tuple[float, ...]) -> Tensor:
    """A few numbers as x has its own, [n]; filled there: a copy from the host is waited for."""
    return torch.stack([x.new_full((), value) for value in values])


def gray_plane(x: Tensor) -> Tensor:
    """Luma [n, 1, h, w] of RGB by ITU-R 601-2 as torchvision has it."""
    luma = x[:, 0:1] * GRAY[0]
    return luma.add_(x[:, 1:2], alpha=GRAY[1]).add_(x[:, 2:3], alpha=GRAY[2])


def grayscale_(x: Tensor) -> Tensor:
    """All three channels to the luma."""
    return x.copy_(gray_plane(x).expand_as(x))


def brightness_(x: Tensor, factor: Tensor) -> Tensor:
    """clip(f x)."""
    return x.mul_(_column(factor)).clamp_(0, 1)


def contrast_(x: Tensor, factor: Tensor) -> Tensor:
    """clip(f x + (1 - f) m), m the mean luma of the picture."""
    f = _column(factor)
    mean = (x.mean((2, 3)) * beside(x, GRAY)).sum(1).view(-1, 1, 1, 1)
    return x.mul_(f).add_((1 - f) * mean).clamp_(0, 1)


def saturation_(x: Tensor, factor: Tensor) -> Tensor:
    """clip(f x + (1 - f) luma)."""
    f = _column(factor)
    luma = gray_plane(x).mul_(1 - f)
    return x.mul_(f).add_(luma).clamp_(0, 1)


def hue_(x: Tensor, shift: Tensor) -> Tensor:
    """Hue of the HSV hexcone turned by `shift` turns (-0.5 .. 0.5).

    Value and chroma stay, so no division by the value is needed: with lo = min, d = max - min and
    the hue t in sixths of a turn, R = lo + d clip(|t - 3| - 1), G = lo + d clip(2 - |t - 2|),
    B = lo + d clip(2 - |t - 4|).
    """
    r, g, b = x.unbind(1)
    high = torch.maximum(r, g)
    torch.maximum(high, b, out=high)
    low = torch.minimum(r, g)
    torch.minimum(low, b, out=low)
    is_red, is_green = high == r, high == g
    d = high.sub_(low)
    sixth = torch.where(is_green, (b - r).add_(d, alpha=2), (r - g).add_(d, alpha=4))
    sixth = torch.where(is_red, g - b, sixth)
    # gray pixels (d = 0) have hue 0; the divisor is raised to where the quotient is still finite
    sixth.div_(d.clamp_min(1e-30)).add_(shift.to(x.dtype).view(-1, 1, 1), alpha=6)
    sixth.sub_((sixth / 6).floor_(), alpha=6)
    t = torch.empty_like(sixth)
    torch.addcmul(low, d, torch.sub(sixth, 3, out=t).abs_().sub_(1).clamp_(0, 1), out=r)
    torch.addcmul(low, d, torch.sub(sixth, 2, out=t).abs_().neg_().add_(2).clamp_(0, 1), out=g)
    torch.addcmul(low, d, torch.sub(sixth, 4, out=t).abs_().neg_().add_(2).clamp_(0, 1), out=b)
    return x


JITTERS = (brightness_, contrast_, saturation_, hue_)


def jitter_in_order_(x: Tensor, order: tuple[int, ...], factors: Tensor) -> Tensor:
    """The four operations in one order for the whole batch; factors [n, 4] by operation."""
    for op in order:
        JITTERS[op](x, factors[:, op])
    return x


def jitter_masked_(x: Tensor, order: Tensor, factors: Tensor, active: Tensor) -> Tensor:
    """The four operations in an order per picture, without asking the device for a number.

    order: [n, 4], the operation at each position; factors: [n, 4] by operation; active: bool [n].
    Does everything four times; for devices where waiting costs more than arithmetic.
    """
    weights = beside(x, GRAY)
    for position in range(4):
        op = order[:, position]
        f = _column(factors.gather(1, op[:, None]))
        blends = (op != 3) & active
        luma = gray_plane(x)
        mean = (x.mean((2, 3)) * weights).sum(1).view(-1, 1, 1, 1)
        target = torch.where(_flag(op == 2), luma, mean * _column(op == 1))
        blended = (x * f).add_((1 - f) * target).clamp_(0, 1)
        turned = hue_(x.clone(), factors[:, 3])
        chosen = torch.where(_flag(blends), blended, turned)
        x.copy_(torch.where(_flag(active), chosen, x))
    return x


def _flag(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def gaussian_weights(sigma: Tensor, kernel: int) -> Tensor:
    """float32 [n, kernel]: exp(-t^2 / (2 sigma^2)) at t = -kernel//2 .., summing to 1."""
    t = torch.arange(kernel, device=sigma.device, dtype=torch.float32) - kernel // 2
    return (-0.5 * (t / sigma.to(torch.float32).view(-1, 1)) ** 2).softmax(1)


def blur(x: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Gaussian of `kernel` (odd) taps along both axes, the picture mirrored at its borders."""
    half = kernel // 2
    if kernel % 2 == 0 or half >= min(x.shape[-2:]):
        raise ValueError(
            f"a blur of {kernel} taps needs an odd number and pictures above {half} px, "
            f"these are {x.shape[-1]}x{x.shape[-2]}"
        )
    weights = gaussian_weights(sigma, kernel)
    padded = torch.nn.functional.pad(x, (0, 0, half, half), mode="reflect")
    x = _taps(padded, weights, x.shape[-2], 2)
    padded = torch.nn.functional.pad(x, (half, half, 0, 0), mode="reflect")
    return _taps(padded, weights, x.shape[-1], 3)


def _taps(padded: Tensor, weights: Tensor, size: int, dim: int) -> Tensor:
    """Weighted sum of shifts along `dim`; the weights are symmetric."""
    half = weights.shape[1] // 2
    out = padded.narrow(dim, half, size) * _column(weights[:, half])
    pair = torch.empty_like(out)
    for k in range(half):
        other = padded.narrow(dim, 2 * half - k, size)
        torch.add(padded.narrow(dim, k, size), other, out=pair)
        out.addcmul_(pair, _column(weights[:, k]))
    return out


def resize_weights(
    size: int, start: Tensor, length: Tensor, out: int, flip: Tensor | None = None
) -> Tensor:
    """float32 [n, out, size]: matrices that cut [start, start + length) and resize it to `out`.

    Bilinear with antialiasing: a triangle of half width max(1, length / out) around each output
    position, normalised inside the cut. flip: bool [n], mirrored outputs.
    """
    scale = length.to(torch.float32).view(-1, 1, 1) / out
    centre = torch.arange(out, device=start.device, dtype=torch.float32).view(1, -1, 1) + 0.5
    if flip is not None:
        centre = torch.where(flip.view(-1, 1, 1), out - centre, centre)
    # relative to the cut: positions stay small, so float32 is enough for any picture
    pixel = torch.arange(size, device=start.device).view(1, 1, -1) - start.view(-1, 1, 1)
    inside = (pixel >= 0) & (pixel < length.view(-1, 1, 1))
    distance = (pixel.to(torch.float32) + 0.5) - centre * scale
    weights = (1 - distance.abs_() / scale.clamp_min(1)).clamp_min_(0).mul_(inside)
    return weights.div_(weights.sum(2, keepdim=True))


def crop_resize(images: Tensor, boxes: Tensor, out: int, flip: Tensor | None = None) -> Tensor:
    """Cut boxes (int64 [n, 4]: top, left, height, width), resize them to [n, 3, out, out].

    images: uint8 (0 .. 255) or float32 (0 .. 1), [n, 3, H, W]; returns float32 in [0, 1].
    """
    n, channels, height, width = images.shape
    top, left, h, w = boxes.unbind(1)
    across = resize_weights(width, left, w, out, flip)
    if images.dtype == torch.uint8:
        across = across.mul_(1 / 255)
    if height <= out:  # known without asking the device: rows are enlarged, two of them matter
        rows = _enlarged_rows(images, top, h, out)
        return torch.bmm(rows.view(n, channels * out, width), across.mT).view(n, channels, out, out)
    planes = images.to(torch.float32).reshape(n, channels * height, width)
    x = torch.bmm(planes, across.mT)
    down = resize_weights(height, top, h, out)
    return torch.matmul(down[:, None], x.view(n, channels, height, out))


def _enlarged_rows(images: Tensor, top: Tensor, length: Tensor, out: int) -> Tensor:
    """float32 [n, 3, out, W]: rows top .. top + length, not more than `out`, resized to `out`."""
    n, channels, height, width = images.shape
    centre = torch.arange(out, device=images.device, dtype=torch.float32) + 0.5
    centre = (centre * (length[:, None] / out)).sub_(0.5).clamp_min_(0)
    first = centre.to(torch.int64)
    second = torch.minimum(first + 1, length[:, None] - 1)
    part = (centre - first).view(n, 1, out, 1)
    planes = torch.arange(n * channels, device=images.device).view(n, channels, 1) * height
    planes = planes + top.view(n, 1, 1)
    flat = images.reshape(n * channels * height, width)
    low = flat.index_select(0, (planes + first[:, None]).view(-1)).to(torch.float32)
    high = flat.index_select(0, (planes + second[:, None]).view(-1)).to(torch.float32)
    shape = (n, channels, out, width)
    return torch.lerp(low.view(shape), high.view(shape), part)


def crop_bilinear(images: Tensor, boxes: Tensor, out: int, flip: Tensor | None = None) -> Tensor:
    """As `crop_resize`, without antialiasing: the same where no box is larger than `out`.

    To 1e-5 of a pixel's position, which `grid_sample` takes as a fraction of the picture.
    """
    _, _, height, width = images.shape
    top, left, h, w = boxes.unbind(1)
    x = images.to(torch.float32, memory_format=torch.contiguous_format)  # grid_sample keeps it
    if images.dtype == torch.uint8:
        x = x.mul_(1 / 255)
    grid = torch.empty(len(images), out, out, 2, device=images.device)
    grid[..., 0] = _positions(left, w, out, width, flip)[:, None, :]
    grid[..., 1] = _positions(top, h, out, height, None)[:, :, None]
    return torch.nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _positions(start: Tensor, length: Tensor, out: int, size: int, flip: Tensor | None) -> Tensor:
    """[n, out]: where outputs lie in a row of `size` pixels, as grid_sample counts (-1 .. 1)."""
    centre = torch.arange(out, device=start.device, dtype=torch.float32) + 0.5
    centre = centre * (length[:, None] / out)
    # beyond the centres of the outermost pixels of the cut their values hold on
    centre = torch.minimum(centre.clamp_min(0.5), length[:, None] - 0.5)
    if flip is not None:
        centre = torch.where(flip[:, None], length[:, None] - centre, centre)
    return (centre + start[:, None]) * (2 / size) - 1
