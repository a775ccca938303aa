"""Frechet distance between feature sets, from statistics that stream and merge.

    stats = FeatureStats(2048)
    for images in batches:
        stats.update(detector(images))
    stats.reduce()  # over ranks
    fid = frechet_distance(stats.moments(), load_moments("reference.npz")["fid"])

Reference statistics are `.npz` files read without pickle. Nothing here knows a detector.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from runtime import distributed
from storage.errors import first_line
from storage.files import open_plain, writing

_FID = ("mu", "sigma")


class Moments(NamedTuple):
    """Mean [D] and covariance [D, D] of features, float64 on the CPU, and of how many images."""

    mean: Tensor
    cov: Tensor
    images: int | None = None


class FeatureStats:
    """Count, sum and sum of outer products of features [N, dim], in float64.

    Order and batches do not matter beyond rounding. device: where the [dim, dim] sum lives, best
    that of the features.
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        if dim < 1:
            raise ValueError(f"features have at least 1 dimension, not {dim}")
        self.count = 0
        self.sum = torch.zeros(dim, dtype=torch.float64, device=device)
        self.outer = torch.zeros(dim, dim, dtype=torch.float64, device=device)

    @torch.no_grad()
    def update(self, features: Tensor) -> None:
        """Add features [N, dim], any float type. Errors: ValueError for another shape."""
        if features.ndim != 2 or features.shape[1] != len(self.sum):
            raise ValueError(f"features {list(features.shape)} are not [N, {len(self.sum)}]")
        f = features.to(self.sum.device, torch.float64)
        self.count += len(f)
        self.sum += f.sum(0)
        self.outer.addmm_(f.T, f)

    def merge(self, other: FeatureStats) -> None:
        """Add what another one has seen. Errors: ValueError for another dimension."""
        if len(other.sum) != len(self.sum):
            raise ValueError(f"statistics of {len(self.sum)} and {len(other.sum)} dimensions")
        self.count += other.count
        self.sum += other.sum.to(self.sum.device)
        self.outer += other.outer.to(self.outer.device)

    def reduce(self) -> None:
        """Replace this by the sum over ranks, the same on all. Once, at the end; all ranks call."""
        count = torch.tensor(self.count, dtype=torch.int64)
        self.count = int(distributed.all_reduce_sum(count))
        self.sum = distributed.all_reduce_sum(self.sum)
        self.outer = distributed.all_reduce_sum(self.outer)

    def moments(self) -> Moments:
        """Mean and unbiased covariance. Errors: ValueError for fewer than 2 images or NaN."""
        if self.count < 2:
            raise ValueError(f"statistics of {self.count} images; at least 2 are needed")
        mean, outer = self.sum.cpu() / self.count, self.outer.cpu()
        cov = (outer - self.count * torch.outer(mean, mean)) / (self.count - 1)
        if not (mean.isfinite().all() and cov.isfinite().all()):
            raise ValueError("some features are NaN or infinite")
        return Moments(mean, (cov + cov.T) / 2, self.count)

    def state_dict(self) -> dict[str, Any]:
        """{"count", "sum", "outer"}."""
        return {"count": self.count, "sum": self.sum, "outer": self.outer}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`. Errors: KeyError, RuntimeError for another dimension."""
        self.count = int(state["count"])
        self.sum.copy_(state["sum"])
        self.outer.copy_(state["outer"])


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Frechet (2-Wasserstein) distance of the Gaussians with these moments, float64.

    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)), as in Heusel et al. 2017 (arXiv:1706.08500).
    The trace of that root is the sum of the roots of the eigenvalues of A^(1/2) B A^(1/2), which
    is the sum of the singular values of F^T G with A = F F^T, B = G G^T: no root of a matrix that
    is not symmetric, and exact for covariances of low rank. Errors: ValueError for other shapes or
    values that are not finite.
    """
    for m in (a, b):
        dim = len(m.mean) if m.mean.ndim == 1 else -1
        if m.cov.shape != (dim, dim) or dim != len(a.mean):
            raise ValueError(
                f"moments of shapes {list(a.mean.shape)}, {list(a.cov.shape)} and "
                f"{list(b.mean.shape)}, {list(b.cov.shape)} do not fit"
            )
        if not (m.mean.isfinite().all() and m.cov.isfinite().all()):
            raise ValueError("moments have values that are NaN or infinite")
    root = torch.linalg.svdvals(_factor(a.cov).T @ _factor(b.cov)).sum()
    gap = (a.mean.double() - b.mean.double()).square().sum()
    distance = gap + a.cov.double().trace() + b.cov.double().trace() - 2 * root
    return max(0.0, float(distance))  # rounding may leave -1e-12


class Ratio(NamedTuple):
    """FDr: mean over extractors of the ratios in `each`, {extractor: ratio}; real images have 1."""

    mean: float
    each: dict[str, float]


def fd_ratio(
    samples: Mapping[str, Moments],
    held_out: Mapping[str, Moments],
    reference: Mapping[str, Moments],
) -> Ratio:
    """FD(samples, reference) / FD(held_out, reference), and its mean over extractors.

    All of {extractor: moments}. held_out: real images that the reference does not have, as many as
    there are samples, because a Frechet distance falls with their number. Errors: ValueError for
    other numbers or extractors, and where held-out images have distance 0.
    """
    if not samples or not samples.keys() == held_out.keys() == reference.keys():
        names = [sorted(part) for part in (samples, held_out, reference)]
        raise ValueError(f"extractors {names} of samples, held-out images and reference differ")
    each = {}
    for name, moments in samples.items():
        n, m = moments.images, held_out[name].images
        if n != m and None not in (n, m):
            raise ValueError(
                f"{name}: {n} samples against {m} held-out images; a Frechet distance falls with "
                "their number, so take as many of each"
            )
        real = frechet_distance(held_out[name], reference[name])
        if real <= 1e-12 * float(reference[name].cov.trace()):  # equal but for rounding
            raise ValueError(f"{name}: the held-out images are at distance 0 from the reference")
        each[name] = frechet_distance(moments, reference[name]) / real
    return Ratio(sum(each.values()) / len(each), each)


def _factor(cov: Tensor) -> Tensor:
    """F with F F^T = cov; eigenvalues that rounding made negative count as 0."""
    root, failed = torch.linalg.cholesky_ex(cov.double())
    if not failed and root.isfinite().all():
        return root  # a tenth of the work of eigenvectors, and any factor has the same product
    values, vectors = torch.linalg.eigh(cov.double())
    return vectors * values.clamp(min=0).sqrt()


# ------------------------------------------------------------------------------------------- files


def save_moments(path: Path, moments: Mapping[str, Moments]) -> Path:
    """Write reference statistics {metric: moments} to an .npz file, whole or not at all.

    Arrays `METRIC.mean`, `.cov` and `.count`; those of "fid" are `mu`, `sigma`, as other tools
    have them. Errors: ValueError for another suffix or a metric's name with a dot, OSError.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"statistics go to an .npz file, not {path.name}")
    arrays: dict[str, np.ndarray] = {}
    for metric, m in moments.items():
        if not metric or "." in metric:
            raise ValueError(f"{metric!r} is no name of a metric")
        names = _FID if metric == "fid" else (f"{metric}.mean", f"{metric}.cov")
        arrays |= {name: t.numpy() for name, t in zip(names, (m.mean, m.cov), strict=True)}
        if m.images is not None:
            arrays[f"{metric}.count"] = np.asarray(m.images)
    with writing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return path


def load_moments(path: Path) -> dict[str, Moments]:
    """Read what `save_moments` wrote, or a foreign .npz with `mu` and `sigma` (taken as "fid").

    Nothing in the file is executed: pickles, as older tools write them, are refused. Errors:
    ValueError of one line for those, for damage, and for statistics that cannot be.
    """
    path = Path(path)
    try:
        with open_plain(path) as fh:
            if not zipfile.is_zipfile(fh):
                raise ValueError("not an .npz file (pickled statistics are not read)")
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        names = {key[:-5]: (key, f"{key[:-5]}.cov") for key in arrays if key.endswith(".mean")}
        if _FID[0] in arrays:
            names["fid"] = _FID
        found = {}
        for metric, (mean, cov) in sorted(names.items()):
            count = arrays.get(f"{metric}.count")
            count = None if count is None else int(count)
            if cov not in arrays:
                raise ValueError(f"no {cov} in it")
            found[metric] = _moments(arrays[mean], arrays[cov], count)
        if not found:
            raise ValueError("no statistics in it")
        return found
    except OSError as error:
        raise ValueError(f"statistics {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"statistics {path}: {first_line(error)}") from error


def _moments(mean: np.ndarray, cov: np.ndarray, count: int | None) -> Moments:
    for a in (mean, cov):
        if a.dtype.kind != "f":
            raise ValueError(f"numbers of type {a.dtype}, not floating-point")
    if mean.ndim != 1 or not mean.size or cov.shape != (len(mean), len(mean)):
        raise ValueError(f"mean {mean.shape} and covariance {cov.shape} do not fit")
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise ValueError("values that are NaN or infinite")
    double = [torch.from_numpy(a.astype(np.float64)) for a in (mean, cov)]
    return Moments(double[0], double[1], count)
