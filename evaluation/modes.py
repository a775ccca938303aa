"""Mode proportions: are samples of each kind as frequent as in the data?

A mode is a class that a classifier names (`count_modes` of its answers), or a cluster of the data's
features: `cluster_centres(data, k)`, then `nearest_centre` of data and of samples.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from evaluation.accuracy import check_features, check_labels
from evaluation.distances import blocks, checked_pair, squared_distances
from evaluation.intervals import NORMAL_95
from evaluation.replicates import Replicates, weights

_ROUNDS = 300


class Modes(NamedTuple):
    """Counts and shares of every mode [C] among samples and in the data, and how they differ.

    tv: total variation, half the sum of |differences of shares|, in [0, 1]. tv_by_chance: what it
    would be on average for samples of the data's own proportions, so many of them. chi2, df, p:
    test of equal proportions, two samples of counts; p is an approximation that is good from
    some 5 expected of each mode. missing: modes of the data that no sample is of. different: modes
    whose share differs at 5 % by itself (NDB of Richardson and Weiss 2018, arXiv:1805.12462); of
    C modes a twentieth does by chance.
    """

    counts: Tensor
    data_counts: Tensor
    shares: Tensor
    data_shares: Tensor
    tv: float
    tv_by_chance: float
    chi2: float
    df: int
    p: float
    missing: int
    different: int

    def __str__(self) -> str:
        return (
            f"{len(self.counts)} modes: total variation {self.tv:.4f} (by chance "
            f"{self.tv_by_chance:.4f}), chi2 {self.chi2:.1f} of {self.df} degrees of freedom, "
            f"p = {self.p:.2g}, {self.missing} missing, {self.different} differ"
        )


def mode_proportions(counts: Tensor, data_counts: Tensor) -> Modes:
    """Compare counts of modes, integers [C] each. Errors: ValueError."""
    for x, what in ((counts, "samples"), (data_counts, "data")):
        if x.dim() != 1 or x.is_floating_point() or not len(x) or x.min() < 0 or not x.sum():
            raise ValueError(f"{what}: counts {x.dtype} {list(x.shape)}; integers [C], not all 0")
    if counts.shape != data_counts.shape:
        raise ValueError(f"{len(counts)} modes of samples and {len(data_counts)} of the data")
    counts, data_counts = counts.cpu().long(), data_counts.cpu().long()
    a, b = counts.double(), data_counts.double()
    n, m = a.sum(), b.sum()
    there = a + b > 0
    pooled = (a + b) / (n + m)
    apart = a * (m / n).sqrt() - b * (n / m).sqrt()
    chi2 = float((apart.square() / (a + b))[there].sum())
    df = int(there.sum()) - 1
    # P(chi2 with df degrees of freedom > x) = Q(df / 2, x / 2), the upper incomplete gamma function
    p = 1.0
    if df:
        half = torch.tensor([df / 2, chi2 / 2], dtype=torch.float64)
        p = float(torch.special.gammaincc(half[0], half[1]))
    error = (pooled * (1 - pooled) * (1 / n + 1 / m)).sqrt()
    difference = (a / n - b / m).abs()
    return Modes(
        counts,
        data_counts,
        a / n,
        b / m,
        float(difference.sum() / 2),
        float(error.sum() / math.sqrt(2 * math.pi)),  # E|Z| = sqrt(2 / pi), halved
        chi2,
        df,
        p,
        int(((counts == 0) & (data_counts > 0)).sum()),
        int((difference > NORMAL_95 * error).sum()),
    )


def modes_replicates(labels: Tensor, found: Modes, *, resamples: int = 100) -> Replicates:
    """Total variations of labels int [N], those that `found` counted, drawn anew.

    The data's proportions, and what the modes are, stay. Errors: ValueError.
    """
    modes, n = len(found.counts), len(labels)
    labels = check_labels(labels, n, modes, "labels").cpu()
    drawn = torch.stack(weights(n, resamples)).double()
    shares = torch.zeros(len(drawn), modes, dtype=torch.float64).index_add_(1, labels, drawn) / n
    return Replicates("bootstrap", (shares - found.data_shares).abs().sum(1) / 2)


def count_modes(labels: Tensor, num_modes: int) -> Tensor:
    """How many rows are of each mode: integers [N] in [0, num_modes) -> int64 [num_modes].

    Counts of ranks, or of parts, add up. Errors: ValueError.
    """
    labels = check_labels(labels, len(labels), num_modes, "labels")
    return torch.bincount(labels.cpu(), minlength=num_modes)


@torch.no_grad()
def cluster_centres(features: Tensor, k: int, *, seed: int = 0) -> Tensor:
    """Centres of k clusters of features [N, d], float64 [k, d], by k-means.

    Started by k-means++ (Arthur and Vassilvitskii 2007) from `seed`, then Lloyd's rounds until no
    row changes its cluster. Fit it to the data, never to samples. Errors: ValueError, also for
    fewer different rows than clusters.
    """
    x = check_features(features, "features").double()
    if not 1 <= k <= len(x):
        raise ValueError(f"{k} clusters of {len(x)} rows")
    centres = _spread_out(x, k, torch.Generator().manual_seed(seed))
    before: Tensor | None = None
    for _ in range(_ROUNDS):
        own = nearest_centre(x, centres)
        if before is not None and torch.equal(own, before):
            break
        before = own
        sizes = torch.bincount(own, minlength=k)
        sums = torch.zeros_like(centres).index_add_(0, own, x)
        # one that lost its last row stays where it is
        centres = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], centres)
    return centres


def _spread_out(x: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k rows, each drawn in proportion to its squared distance to those before it."""
    chosen = [int(torch.randint(len(x), (), generator=generator))]
    nearest = (x - x[chosen[0]]).square().sum(1)
    while len(chosen) < k:
        if not float(nearest.max()) > 0:
            raise ValueError(f"{k} clusters, but only {len(chosen)} different rows")
        upto = nearest.cpu().cumsum(0)
        at = torch.rand((), dtype=torch.float64, generator=generator) * upto[-1]
        row = min(int(torch.searchsorted(upto, at, right=True)), len(x) - 1)
        chosen.append(row)
        nearest = torch.minimum(nearest, (x - x[row]).square().sum(1))
    return x[chosen]


@torch.no_grad()
def nearest_centre(features: Tensor, centres: Tensor) -> Tensor:
    """The cluster of every row: int64 [N], where its features [N, d] lie. Errors: ValueError."""
    x, c = checked_pair(features, centres, ("features", "centres"))
    parts = [squared_distances(x[rows], c).argmin(1) for rows in blocks(len(x), len(c))]
    return torch.cat(parts)
