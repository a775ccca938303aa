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
from evaluation.replicates import Replicates, groups_of

Four = tuple[float, float, float, float]
NAMES = ("precision", "recall", "density", "coverage")


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


def prdc(samples: Tensor, reference: Tensor, *, k: int = 5) -> PRDC:
    """All four, of features [N, d] and [M, d].

    Distances are Euclidean, in float64. A point on the edge of a ball is in it. Only equal N, M, k
    and extractors compare: balls shrink with the number of points. Memory: blocks. Errors:
    ValueError, also for sets of no more than k rows.
    """
    return _prdc(samples, reference, k, torch.zeros(len(samples), dtype=torch.int64))[0]


def prdc_replicates(
    samples: Tensor, reference: Tensor, *, k: int = 5
) -> tuple[PRDC, dict[str, Replicates]]:
    """`prdc`, and by name each of the four without each group of samples in turn.

    From the same distances: without a group balls of the other samples reach on to the k-th of
    those that are left (as far as the 3k nearest tell). Errors: ValueError.
    """
    found, without = _prdc(samples, reference, k, groups_of(len(samples)))
    columns = torch.tensor(without, dtype=torch.float64).T
    return found, {n: Replicates("jackknife", x) for n, x in zip(NAMES, columns, strict=True)}


@torch.no_grad()
def _prdc(samples: Tensor, reference: Tensor, k: int, group: Tensor) -> tuple[PRDC, list[Four]]:
    """group: int64 [N]. The four, and the four without each group, [] of one group."""
    samples, reference = checked_pair(samples, reference, ("samples", "reference"))
    if not 1 <= k < min(len(samples), len(reference)):
        raise ValueError(
            f"k={k}, of {len(samples)} samples and {len(reference)} of the reference: the k-th "
            "nearest other row of each is needed"
        )
    centre = reference.double().mean(0)  # less to cancel in the expanded square
    x, y = samples.double() - centre, reference.double() - centre
    order = group.argsort(stable=True)
    x, group = x[order.to(x.device)], group[order].to(x.device)  # rows of a group lie together
    counts = torch.bincount(group).tolist()
    size, m = len(counts), len(y)
    balls, y_edge = _Balls(x, group if size > 1 else None, k), _Balls(y, None, k).edge
    inside = x.new_zeros(size, dtype=torch.int64)
    near = inside.clone()
    covered = torch.zeros(size, m, dtype=torch.bool, device=y.device)  # by samples of each group
    recalled, instead = covered.clone(), covered.clone()
    first = 0
    for g, count in enumerate(counts):
        for part in blocks(count, m):
            rows = slice(first + part.start, first + part.stop)
            d = squared_distances(x[rows], y).sub_(rounding(x[rows], y))
            hits = d <= y_edge
            inside[g] += hits.any(1).sum()
            near[g] += hits.sum()
            covered[g] |= hits.any(0)
            recalled[g] |= (d <= balls.edge[rows, None]).any(0)
            for other, reach in balls.wider(rows, g):
                instead[other] |= (d[reach.rows] <= reach.edge[:, None]).any(0)
        first += count

    def figures(n: int, inside: int, near: int, covered: Tensor, recalled: Tensor) -> Four:
        return inside / n, int(recalled.sum()) / m, near / (k * n), int(covered.sum()) / m

    n, total, balls_in = len(x), int(inside.sum()), int(near.sum())
    whole = PRDC(*figures(n, total, balls_in, covered.any(0), recalled.any(0)), k)
    without = []
    for g, count in enumerate(counts if size > 1 else ()):
        rest = torch.arange(size, device=y.device) != g
        left = recalled[rest].any(0) | instead[g]
        sums = n - count, total - int(inside[g]), balls_in - int(near[g])
        without.append(figures(*sums, covered[rest].any(0), left))
    return whole, without


class _Reach(NamedTuple):
    """rows: int64 within a block. edge: squared radii of their balls."""

    rows: Tensor
    edge: Tensor


class _Balls:
    """Squared distance of every row to its k-th nearest other one, `edge` [N]. The nearest is
    itself, or one that is as near. With groups also without one of them."""

    def __init__(self, x: Tensor, group: Tensor | None, k: int) -> None:
        # without a group the k-th is farther off: it is looked for among three times as many
        most = k + 1 if group is None else min(3 * k + 1, len(x))
        found = search(x, x, most, metric="euclidean")
        self.edge, self.k = found.closeness[:, k].square(), k
        self.far = found.closeness.square()
        self.groups = None if group is None else group[found.rows]

    def wider(self, rows: slice, own: int) -> list[tuple[int, _Reach]]:
        """For each other group that has rows among the k nearest of some of `rows`: which, and how
        far the k-th is without it (the farthest that is known, should it be beyond)."""
        if self.groups is None:
            return []
        far, groups = self.far[rows], self.groups[rows]
        inner = groups[:, : self.k + 1]
        found = []
        for g in inner.unique().tolist():
            if g == own:
                continue
            where = (inner == g).any(1).nonzero()[:, 0]
            kept = (groups[where] != g).cumsum(1)  # the row itself is one of them
            at = (kept < self.k + 1).sum(1).clamp(max=far.shape[1] - 1)
            found.append((g, _Reach(where, far[where].gather(1, at[:, None])[:, 0])))
        return found
