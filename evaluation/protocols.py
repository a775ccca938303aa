"""Which rows a probe is fitted on and which it is judged by: held-out rows, or folds of train.

    methods = [knn_method(h, y, C), linear_method(h, y, C)]
    judged = judge(h, y, methods, held=(h_held, y_held))    # fitted on (h, y), judged by the other
    judged = judge(h, y, methods, folds=5)                  # stratified cross-validation of (h, y)

A method is a function of the rows it may fit on, so that one that needs more than features (the
augmented probe) is no different; it never sees a label of the rows it predicts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from evaluation.accuracy import accuracies, check_features, check_labels, correct
from evaluation.intervals import proportion_interval
from evaluation.knn import SETTINGS, search, vote
from evaluation.linear_probe import Sweep, l2_sweep
from evaluation.splits import stratified_folds

# (rows of train to fit on, int64 [n]; features [m, d]) -> {name: predictions [m, C]}
Method = Callable[[Tensor, Tensor], Mapping[str, Tensor]]


class Judged(NamedTuple):
    """Figures, and of each row whether it was right.

    figures: `<name> acc1`, `<name> acc5`, means of the folds' where there are folds; then also the
    95 % interval of acc1, `<name> low` and `<name> high`: Wilson's, of all rows, each of which is
    judged once (folds share training rows: it is somewhat narrow).
    right: whether acc1 counts a row, bool [N] on the CPU, by name; `intervals.paired_images`
    compares two networks by them.
    """

    figures: dict[str, float]
    right: dict[str, Tensor]


@torch.no_grad()
def judge(
    h: Tensor,
    y: Tensor,
    methods: Iterable[Method],
    *,
    held: tuple[Tensor, Tensor] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Judged:
    """Fit every method on features h [N, d] with labels y [N] and judge it by `held`, another such
    pair; without one by stratified folds: fitted on all but one, judged by that one.

    Under folds names end in `, 5 folds`. Errors: ValueError, also for a class with fewer rows than
    folds.
    """
    check_features(h, "features")
    if held is not None:
        return _held_out(len(h), methods, *held)
    fold = stratified_folds(y.cpu(), folds, seed).to(h.device)
    rows = torch.arange(len(h), device=h.device)
    hits: dict[str, list[Tensor]] = {}
    for method in methods:
        own: dict[str, list[Tensor]] = {}
        for f in range(folds):
            test = fold == f
            for name, predictions in method(rows[~test], h[test]).items():
                both = [correct(predictions, y[test], top).cpu() for top in (1, 5)]
                own.setdefault(name, []).append(torch.stack(both))
        hits |= own
    figures: dict[str, float] = {}
    right: dict[str, Tensor] = {}
    at = fold.cpu()
    for name, parts in hits.items():
        if len(parts) != folds:
            raise ValueError(f"{name} gave predictions in {len(parts)} of {folds} folds")
        full = f"{name}, {folds} folds"
        means = torch.stack([part.double().mean(1) for part in parts])
        mean = math.fsum(means[:, 0].tolist()) / folds
        figures |= {f"{full} acc1": mean, f"{full} acc5": float(means[:, 1].mean())}
        interval = proportion_interval(sum(int(part[0].sum()) for part in parts), len(h))
        figures |= {f"{full} low": interval.low, f"{full} high": interval.high}
        right[full] = torch.empty(len(h), dtype=torch.bool)
        for f, part in enumerate(parts):
            right[full][at == f] = part[0]
    return Judged(figures, right)


def _held_out(n: int, methods: Iterable[Method], held: Tensor, labels: Tensor) -> Judged:
    figures: dict[str, float] = {}
    right: dict[str, Tensor] = {}
    rows = torch.arange(n, device=held.device)
    for method in methods:
        for name, predictions in method(rows, check_features(held, "held-out features")).items():
            figures |= accuracies(name, predictions, labels)
            right[name] = correct(predictions, labels).cpu()
    return Judged(figures, right)


def smallest_bank(n: int, folds: int | None) -> int:
    """Rows that are left to fit on in every fold of n; n itself for None."""
    return n if folds is None else n - -(-n // folds)


def knn_method(
    h: Tensor,
    y: Tensor,
    num_classes: int,
    *,
    settings: Iterable[tuple[int, float]] = SETTINGS,
    folds: int | None = None,
    layer: str = "h",
) -> Method:
    """Weighted kNN at several (k, T), by one search. folds: of `judge`, None when rows are held
    out; k is cut to what every bank has, and names say so. Errors: ValueError.
    """
    check_labels(y, len(h), num_classes, "labels")
    most = smallest_bank(len(h), folds)
    settings = list(dict.fromkeys((min(k, most), T) for k, T in settings))

    def predict(rows: Tensor, query: Tensor) -> dict[str, Tensor]:
        found = search(h[rows], query, max(k for k, _ in settings))
        votes = [vote(found, y[rows], k, T, num_classes, layer=layer) for k, T in settings]
        return {v.name(): v.votes for v in votes}

    return predict


def linear_method(
    h: Tensor,
    y: Tensor,
    num_classes: int,
    *,
    seed: int = 0,
    layer: str = "h",
    found: Callable[[Sweep], None] | None = None,
    each: Callable[[int, int], object] = lambda done, total: None,
) -> Method:
    """The convex probe on standardised features, its l2 chosen on a slice of what it is fitted on.

    found: is given every sweep, fold by fold, for what l2 came out. each: of `l2_sweep`, whose
    counts begin anew in every fold. Errors: ValueError.
    """

    def predict(rows: Tensor, query: Tensor) -> dict[str, Tensor]:
        sweep = l2_sweep(
            h[rows], y[rows], num_classes, standardise=True, seed=seed, layer=layer, each=each
        )
        if found is not None:
            found(sweep)
        return {f"linear(l2 swept, standardised, {layer})": sweep.probe.logits(query)}

    return predict
