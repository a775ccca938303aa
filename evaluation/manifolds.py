"""Precision, recall, density and coverage: whose samples lie where the others' do, by balls.

Each point of a set has a ball that reaches to its k-th nearest other point. Precision and recall:
Kynkaanniemi et al. 2019 (arXiv:1904.06991), usually with k = 3. Density and coverage: Naeem et al.
2020 (arXiv:2002.09797), usually with k = 5.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from evaluation.distances import blocks, checked_pair, rounding, squared_distances
from evaluation.knn import search


class PRDC(NamedTuple):
    """Shares in [0, 1], density from 0 up, and the k of the balls.

    precision: of samples inside some ball of the reference. recall: of the reference inside some
    ball of the samples. density: mean over samples of the balls of the reference they are in, over
    k. coverage: share of balls of the reference that have a sample in them.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    k: int


@torch.no_grad()
def prdc(samples: Tensor, reference: Tensor, *, k: int = 5) -> PRDC:
    """All four, of features [N, d] and [M, d].

    Distances are Euclidean, in float64. A point on the edge of a ball is in it. Only equal N, M, k
    and extractors compare: balls shrink with the number of points. Memory: blocks. Errors:
    ValueError, also for sets of no more than k rows.
    """
    samples, reference = checked_pair(samples, reference, ("samples", "reference"))
    if not 1 <= k < min(len(samples), len(reference)):
        raise ValueError(
            f"k={k}, of {len(samples)} samples and {len(reference)} of the reference: the k-th "
            "nearest other row of each is needed"
        )
    centre = reference.double().mean(0)  # less to cancel in the expanded square
    x, y = samples.double() - centre, reference.double() - centre
    x_edge, y_edge = _radii(x, k), _radii(y, k)
    inside = near = x.new_zeros((), dtype=torch.int64)
    recalled = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    covered = recalled.clone()
    for rows in blocks(len(x), len(y)):
        d = squared_distances(x[rows], y).sub_(rounding(x[rows], y))
        hits = d <= y_edge
        inside = inside + hits.any(1).sum()
        near = near + hits.sum()
        covered |= hits.any(0)
        recalled |= (d <= x_edge[rows, None]).any(0)
    n, m = len(x), len(y)
    found = (int(inside) / n, int(recalled.sum()) / m, int(near) / (k * n), int(covered.sum()) / m)
    return PRDC(*found, k)


def _radii(x: Tensor, k: int) -> Tensor:
    """Squared distance of every row to its k-th nearest other one, [N]. The nearest is itself, or
    one that is as near."""
    return search(x, x, k + 1, metric="euclidean").closeness[:, -1].square()
