"""k nearest neighbours on frozen features: weighted, of many settings from one search.

    found = search(bank, query, k=200)
    for result in (vote(found, bank_labels, 20, 0.07, 10), vote(found, bank_labels, 200, 0.1, 10)):
        print(result.figures(query_labels))  # {"knn(k=20, T=0.07, h) acc1": 0.87, ...}

A figure without its k, T and layer cannot be reproduced (they differ between papers: 200 and .1 of
Wu et al. 2018, arXiv:1805.01978; 20 and .07 of Caron et al. 2021, arXiv:2104.14294), so a result
carries them and its figures are named by them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.accuracy import accuracies, check_features, check_labels
from runtime.precision import full_fp32

METRICS = ("cosine", "euclidean")
SETTINGS = ((20, 0.07), (200, 0.1))  # the two (k, T) that papers report
_EPS = 1e-5  # of 1 / (distance + eps)
_LOWEST_T = 0.002  # exp(1 / T) below float64's largest


class Neighbours(NamedTuple):
    """The nearest rows of a bank, best first.

    rows: int64 [Q, k]. closeness: [Q, k], cosine or minus the distance. metric: of METRICS.
    bank: how many rows were searched.
    """

    rows: Tensor
    closeness: Tensor
    metric: str
    bank: int


class KNN(NamedTuple):
    """Votes for classes, float64 [Q, C], and what they were made with.

    neighbours: int64 [Q, k] rows of the bank, best first. T: None where there is none (votes and
    inverse distances). layer: where the features come from.
    """

    votes: Tensor
    neighbours: Tensor
    k: int
    T: float | None
    metric: str
    weighted: bool
    layer: str

    @property
    def top1(self) -> Tensor:
        """Class with the most votes, int64 [Q]; the smallest of equals."""
        return self.votes.argmax(1)

    def name(self) -> str:
        """Such as `knn(k=20, T=0.07, h)`."""
        how = [f"k={self.k}"]
        if self.T is not None:
            how.append(f"T={self.T:g}")
        if self.metric != "cosine":
            how.append(self.metric)
        if not self.weighted:
            how.append("votes")
        return f"knn({', '.join((*how, self.layer))})"

    def figures(self, labels: Tensor) -> dict[str, float]:
        """Top-1 and top-5 accuracy, [0, 1], under `<name> acc1` and `<name> acc5`."""
        return accuracies(self.name(), self.votes, labels)


@full_fp32()
@torch.no_grad()
def search(
    bank: Tensor,
    query: Tensor,
    k: int,
    *,
    metric: str = "cosine",
    query_chunk: int = 1024,
    bank_chunk: int = 16384,
) -> Neighbours:
    """The k rows of the bank nearest to every query, best first.

    bank: [N, d], query: [Q, d], float32 or float64 (half precisions are made float32; no TF32), on
    one device. metric: "cosine" (of rows made unit length; a row of zeros is as near to everything,
    cosine 0) or "euclidean" (as they are). Memory: query_chunk x bank_chunk and Q x k. Which of
    equally near rows falls out at the boundary is open. Errors: ValueError.
    """
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} is not one of: {', '.join(METRICS)}")
    check_features(bank, "bank")
    check_features(query, "query")
    if bank.shape[1] != query.shape[1]:
        raise ValueError(f"bank has {bank.shape[1]} features, query {query.shape[1]}")
    if bank.device != query.device:
        raise ValueError(f"bank is on {bank.device}, query on {query.device}")
    if not 1 <= k <= len(bank):
        raise ValueError(f"k={k} is not in 1..{len(bank)}, the rows of the bank")
    if query_chunk < 1 or bank_chunk < 1:
        raise ValueError(f"chunks are positive, not {query_chunk} and {bank_chunk}")
    dtype = torch.promote_types(torch.promote_types(bank.dtype, query.dtype), torch.float32)
    bank, query = bank.to(dtype), query.to(dtype)
    if metric == "cosine":
        bank, query = unit(bank), unit(query)
    parts = [_nearest(bank, part, k, metric, bank_chunk) for part in query.split(query_chunk)]
    closeness, rows = (torch.cat(x) for x in zip(*parts, strict=True))
    return Neighbours(rows, closeness, metric, len(bank))


def unit(x: Tensor) -> Tensor:
    """Rows divided by their length; by their largest value first, so that no square overflows."""
    size = x.abs().amax(1, keepdim=True)
    return F.normalize(x / torch.where(size > 0, size, 1), dim=1)


def _nearest(bank: Tensor, query: Tensor, k: int, metric: str, chunk: int) -> tuple[Tensor, Tensor]:
    """(closeness, rows of the bank), each [Q, k], by a running top-k over chunks of the bank."""
    best: Tensor | None = None
    found: Tensor | None = None
    for start in range(0, len(bank), chunk):
        part = bank[start : start + chunk]
        near = query @ part.T
        if metric == "euclidean":
            # order by minus the squared distance up to a constant of the query
            near.mul_(2).sub_(part.square().sum(1))
        top, at = near.topk(min(k, len(part)), dim=1)
        at += start
        if best is not None and found is not None:
            top, at = torch.cat((best, top), 1), torch.cat((found, at), 1)
            top, order = top.topk(min(k, top.shape[1]), dim=1)
            at = at.gather(1, order)
        best, found = top, at
    assert best is not None and found is not None  # the bank has rows
    if metric == "cosine":
        return best, found
    # The expanded square cancels for near rows: distances of those found are formed anew.
    step = max(1, (1 << 22) // (k * query.shape[1]))
    pieces = zip(query.split(step), found.split(step), strict=True)
    distance = torch.cat([(bank[rows] - a[:, None]).norm(dim=2) for a, rows in pieces])
    distance, order = distance.sort(dim=1, stable=True)
    return -distance, found.gather(1, order)


@torch.no_grad()
def vote(
    found: Neighbours,
    bank_labels: Tensor,
    k: int,
    T: float = 0.1,
    num_classes: int | None = None,
    *,
    weighted: bool = True,
    layer: str = "h",
) -> KNN:
    """Votes of the first k neighbours for their classes: sum per class of exp(cos / T).

    bank_labels: integers [N]. num_classes: default the largest label + 1. Euclidean neighbours
    weigh 1 / (distance + 1e-5), without T. weighted=False: one vote each. All in float64.
    Errors: ValueError.
    """
    if not 1 <= k <= found.rows.shape[1]:
        raise ValueError(f"k={k} is not in 1..{found.rows.shape[1]}, the neighbours searched")
    if num_classes is None:
        num_classes = int(bank_labels.max()) + 1
    labels = check_labels(bank_labels, found.bank, num_classes, "bank_labels")
    rows, close = found.rows[:, :k], found.closeness[:, :k].double()
    tempered = weighted and found.metric == "cosine"
    if tempered:
        if not T >= _LOWEST_T:
            raise ValueError(f"T={T} is below {_LOWEST_T}, where exp(1/T) nears float64's end")
        weight = (close / T).exp()
    elif weighted:
        weight = 1 / (_EPS - close)
    else:
        weight = torch.ones_like(close)
    votes = close.new_zeros(len(close), num_classes)
    votes.scatter_add_(1, labels.to(rows.device)[rows], weight)
    return KNN(votes, rows, k, float(T) if tempered else None, found.metric, weighted, layer)


def knn(
    bank: Tensor,
    bank_labels: Tensor,
    query: Tensor,
    k: int = 200,
    T: float = 0.1,
    num_classes: int | None = None,
    *,
    metric: str = "cosine",
    weighted: bool = True,
    layer: str = "h",
) -> KNN:
    """`search` and `vote` at one setting."""
    found = search(bank, query, k, metric=metric)
    return vote(found, bank_labels, k, T, num_classes, weighted=weighted, layer=layer)
