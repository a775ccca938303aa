"""Statistics of several samples per input: fidelity, best-of-k, diversity, and both in one figure.

Nothing here knows a network: whatever needs a perceptual distance takes it as a callable
`distance(a [M, ...], b [M, ...]) -> [M]` (row i against row i), so a script may pass LPIPS, MSE,
or anything else. Images are `[..., C, H, W]` in [0, 1]; `N` inputs, `K` samples of each. Every
function returns one value per input (or per bandwidth) and leaves averaging to the caller.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Distance = Callable[[Tensor, Tensor], Tensor]


def psnr(a: Tensor, b: Tensor, *, peak: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio in dB of each row: 10 log10(peak^2 / MSE).

    a, b: [N, ...] of one shape -> [N] float64; inf where the two are equal. No clamping, no
    quantisation: pass images as they will be shown.
    """
    _same_shape(a, b)
    mse = (a.double() - b.double()).square().flatten(1).mean(1)
    return 10.0 * torch.log10(peak**2 / mse)


def ssim(
    a: Tensor,
    b: Tensor,
    *,
    peak: float = 1.0,
    sigma: float = 1.5,
    size: int = 11,
    border: Literal["reflect", "inside"] = "reflect",
) -> Tensor:
    """Structural similarity of each image, [N, C, H, W] of one shape -> float64 [N].

    Wang et al. 2004 (doi:10.1109/TIP.2003.819861): a Gaussian window of `size` pixels (odd), K1 =
    0.01, K2 = 0.03, mean over channels and places. border: "reflect", windows at every pixel of the
    image continued by reflection, as torchmetrics has it; "inside", only windows that are whole, as
    the paper has it. Errors: ValueError for images too small for the window.
    """
    _same_shape(a, b)
    if border not in ("reflect", "inside") or size < 1 or size % 2 == 0 or sigma <= 0:
        raise ValueError(f"border {border!r}, window of {size} pixels, sigma {sigma:g}")
    least = size if border == "inside" else size // 2 + 1
    if a.ndim != 4 or min(a.shape[-2:]) < least:
        raise ValueError(f"images {list(a.shape)}: [N, C, H, W] of at least {least} pixels a side")
    x, y = a.double(), b.double()
    if border == "reflect":
        x, y = (F.pad(t, [size // 2] * 4, mode="reflect") for t in (x, y))
    at = torch.arange(size, dtype=torch.float64, device=x.device) - size // 2
    window = torch.exp(-at.square() / (2 * sigma**2))
    window = (window / window.sum()).expand(x.shape[1], 1, 1, size)

    def local(t: Tensor) -> Tensor:  # the window is a product of two
        t = F.conv2d(t, window, groups=t.shape[1])
        return F.conv2d(t, window.transpose(2, 3), groups=t.shape[1])

    mx, my = local(x), local(y)
    vx, vy, cov = local(x * x) - mx * mx, local(y * y) - my * my, local(x * y) - mx * my
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    same = (2 * mx * my + c1) * (2 * cov + c2)
    return (same / ((mx * mx + my * my + c1) * (vx + vy + c2))).flatten(1).mean(1)


def best_of_k(distances: Tensor) -> Tensor:
    """The distance of the best of the K samples of each input: [N, K] -> [N].

    This is what IMLE minimises (each real image has *some* sample near it), so it is the figure to
    follow, a kind of recall. It falls with K by itself: only compare equal K. NaN counts as inf.
    """
    if distances.ndim != 2 or distances.shape[1] == 0:
        raise ValueError(f"best_of_k needs distances [N, K >= 1], got {list(distances.shape)}")
    return torch.nan_to_num(distances, nan=torch.inf, posinf=torch.inf, neginf=-torch.inf).amin(1)


def distance_to_target(samples: Tensor, targets: Tensor, distance: Distance) -> Tensor:
    """Distance of each sample to its input's target: [N, K, ...] and [N, ...] -> [N, K]."""
    _sample_axes(samples, targets)
    return torch.stack([_rows(distance, s, targets) for s in samples.unbind(1)], dim=1)


def pairwise_diversity(samples: Tensor, distance: Distance) -> Tensor:
    """Mean distance over the K(K-1)/2 pairs of samples of each input: [N, K, ...] -> [N].

    With LPIPS as the distance this is the usual "LPIPS diversity". A pair is measured once, so the
    distance is taken to be symmetric. K >= 2, otherwise ValueError.
    """
    _sample_axes(samples)
    k = samples.shape[1]
    if k < 2:
        raise ValueError(f"diversity needs at least 2 samples per input, got {k}")
    pairs = [(i, j) for i in range(k) for j in range(i + 1, k)]
    total = _rows(distance, samples[:, 0], samples[:, 1])
    for i, j in pairs[1:]:
        total = total + _rows(distance, samples[:, i], samples[:, j])
    return total / len(pairs)


def faithfulness_weighted_variance(
    samples: Tensor,
    targets: Tensor,
    distance: Distance,
    sigmas: Sequence[float] = (0.15, 0.2, 0.25, 0.3),
) -> Tensor:
    """Variety among the samples, counted only as far as they are faithful (cIMLE; CAM-Net uses it).

    FwV(sigma) = mean_i mean_j w_ij d(y_ij, mean_j y_ij),  w_ij = exp(-d(y_ij, y_i) / (2 sigma^2)),

    with y_ij sample j of input i, y_i its target, d = `distance` (LPIPS in the papers) and the mean
    image taken in pixels. The papers sum over i and j; the *average* is used here so that figures
    of different N and K compare. samples [N, K, ...], targets [N, ...] -> [len(sigmas)].
    """
    _sample_axes(samples, targets)
    spread = distance_to_target(samples, samples.mean(1), distance)
    far = distance_to_target(samples, targets, distance)
    return fwv(far, spread, sigmas)


def fwv(
    d_to_target: Tensor,
    d_to_mean: Tensor,
    sigmas: Sequence[float],
    *,
    kernel: Literal["linear", "squared"] = "linear",
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """`faithfulness_weighted_variance` from distances [N, K] of samples to their target and to the
    mean of the samples of their input -> [len(sigmas)].

    kernel: weights exp(-q / (2 sigma^2)) of q the distance to the target, or its square. reduction:
    over inputs and samples. Which of these the papers have could not be made sure of: say which one
    a figure is.
    """
    if not sigmas or min(sigmas) <= 0:
        raise ValueError(f"bandwidths must be positive, got {list(sigmas)}")
    if kernel not in ("linear", "squared") or reduction not in ("mean", "sum"):
        raise ValueError(f"kernel {kernel!r} or reduction {reduction!r} is not known")
    _same_shape(d_to_target, d_to_mean)
    q = d_to_target.square() if kernel == "squared" else d_to_target
    weighted = [torch.exp(-q / (2 * s**2)) * d_to_mean for s in sigmas]
    return torch.stack([w.mean() if reduction == "mean" else w.sum() for w in weighted])


def fwv_form(
    sigmas: Sequence[float],
    *,
    kernel: Literal["linear", "squared"] = "linear",
    reduction: Literal["mean", "sum"] = "mean",
) -> str:
    """The formula of `fwv` in words of one line, to be shown beside the figure."""
    q = "d(y_ij, y_i)" + ("^2" if kernel == "squared" else "")
    widths = ", ".join(f"{s:g}" for s in sigmas)
    return (
        f"{reduction} over inputs i, samples j of exp(-{q} / (2 sigma^2)) d(y_ij, mean_j y_ij), "
        f"sigma {widths}"
    )


def bicubic(images: Tensor, size: int | tuple[int, int]) -> Tensor:
    """The baseline of super-resolution: antialiased bicubic resize, clamped to [0, 1].

    images [N, C, h, w] in [0, 1] -> [N, C, *size]; corners of the outer pixels meet
    (align_corners=False). Enlarging blurs nothing, but antialias=True also means Pillow's kernel
    (a = -0.5, Keys 1981; torch's other one has -0.75). The clamp: the kernel overshoots at edges.
    """
    sides = (size, size) if isinstance(size, int) else tuple(size)
    out = F.interpolate(images, size=sides, mode="bicubic", align_corners=False, antialias=True)
    return out.clamp(0.0, 1.0)


def _rows(distance: Distance, a: Tensor, b: Tensor) -> Tensor:
    """Call the distance and check that it kept one value a row (a squeeze() would lose N = 1)."""
    d = distance(a, b)
    if d.shape != (a.shape[0],):
        raise ValueError(
            f"the distance must give one value a row: shape [{a.shape[0]}], not {list(d.shape)}"
        )
    return d


def _same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {list(a.shape)} and {list(b.shape)}")


def _sample_axes(samples: Tensor, targets: Tensor | None = None) -> None:
    if samples.ndim < 2:
        raise ValueError(f"samples must be [N, K, ...], got {list(samples.shape)}")
    if targets is not None and samples.shape[:1] + samples.shape[2:] != targets.shape:
        raise ValueError(
            f"samples [N, K, ...] {list(samples.shape)} do not fit targets {list(targets.shape)}"
        )
