"""What a classifier says of samples: inception score, accuracies, who is taken for whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from evaluation.accuracy import check_features, check_labels, correct
from evaluation.intervals import Interval, Spread, proportion_interval, spread
from evaluation.replicates import Replicates


def inception_score(logits: Tensor, *, splits: int = 10, seed: int | None = 2020) -> Spread:
    """exp(mean KL(p(y|x) || p(y))) of each split of the samples: mean and spread over splits.

    logits: [N, C]. Salimans et al. 2016 (arXiv:1606.03498). seed: rows are shuffled first, as
    torch-fidelity does with its own; None: as they come. Errors: ValueError.
    """
    check_features(logits, "logits")
    n = len(logits)
    if not 1 <= splits <= n:
        raise ValueError(f"{splits} splits of {n} samples")
    scores = []
    for part in _splits(logits, splits, seed):
        marginal = part.exp().mean(0).log()
        # a class of probability 0 adds nothing, and no 0 * (-inf - -inf)
        terms = torch.where(part.isneginf(), 0, part.exp() * (part - marginal))
        scores.append(float(terms.sum(1).mean().exp()))
    return spread(scores)


def inception_score_replicates(
    logits: Tensor, *, splits: int = 10, seed: int | None = 2020, resamples: int = 100
) -> Replicates:
    """Inception scores of samples drawn anew within each split, from sums over weighted rows.

    Errors: ValueError.
    """
    check_features(logits, "logits")
    if not 1 <= splits <= len(logits) or resamples < 20:
        raise ValueError(f"{splits} splits of {len(logits)} samples, {resamples} resamples")
    generator = torch.Generator().manual_seed(0)
    scores = torch.zeros(resamples, dtype=torch.float64, device=logits.device)
    for part in _splits(logits, splits, seed):
        p, size = part.exp(), len(part)
        own = torch.where(part.isneginf(), 0, p * part).sum(1)  # sum of p log p
        drawn = torch.randint(size, (resamples, size), generator=generator)
        weights = torch.zeros(resamples, size, dtype=torch.float64)
        weights.scatter_add_(1, drawn, torch.ones_like(weights))
        weights = weights.to(p.device) / size
        marginal = weights @ p
        # mean KL(p(y|x) || p(y)) = mean of sum p log p, less sum of p(y) log p(y)
        scores += (weights @ own - torch.xlogy(marginal, marginal).sum(1)).exp()
    return Replicates("bootstrap", scores.cpu() / splits)


def _splits(logits: Tensor, splits: int, seed: int | None) -> list[Tensor]:
    n = len(logits)
    log_p = logits.double().log_softmax(1)
    if seed is not None:
        log_p = log_p[torch.from_numpy(np.random.RandomState(seed).permutation(n))]
    return [log_p[i * n // splits : (i + 1) * n // splits] for i in range(splits)]


class Classification(NamedTuple):
    """Of N samples that were drawn for classes, what a classifier takes them for.

    accuracy: {k: share whose class is among the k likeliest, with Wilson's interval}. per_class:
    {k: the same of each class, float64 [C], NaN where none was drawn}. confusion: int64 [C, C], row
    the class drawn, column the likeliest. counts: int64 [C] drawn of each.
    """

    accuracy: dict[int, Interval]
    per_class: dict[int, Tensor]
    confusion: Tensor
    counts: Tensor


def classification(
    logits: Tensor, labels: Tensor, *, top: Sequence[int] = (1, 5)
) -> Classification:
    """Top-k accuracies and confusion of logits [N, C], labels int [N]; all on the CPU.

    Of equal logits the smaller class is the likelier. Errors: ValueError.
    """
    check_features(logits, "logits")
    n, classes = logits.shape
    if not top or min(top) < 1:
        raise ValueError(f"top {list(top)}: whole numbers from 1")
    labels = check_labels(labels, n, classes, "labels").cpu()
    logits = logits.detach().cpu()
    counts = torch.bincount(labels, minlength=classes)
    accuracy, per_class = {}, {}
    for k in top:
        hits = correct(logits, labels, k)
        accuracy[k] = proportion_interval(int(hits.sum()), n)
        of_class = torch.bincount(labels, hits.double(), minlength=classes)
        per_class[k] = of_class / counts
    pairs = labels * classes + _likeliest(logits)
    confusion = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
    return Classification(accuracy, per_class, confusion, counts)


def _likeliest(logits: Tensor) -> Tensor:
    """The first of the largest, int64 [N]."""
    place = torch.arange(logits.shape[1]).expand_as(logits)
    return place.where(logits == logits.amax(1, keepdim=True), logits.shape[1]).amin(1)


def reorder_classes(logits: Tensor, columns: Sequence[int]) -> Tensor:
    """Logits [N, C] with class c in place c, where the classifier has it in `columns[c]`.

    For a classifier that was trained with another order of the same classes. Errors: ValueError if
    `columns` is no order of its classes.
    """
    if logits.dim() != 2 or sorted(columns) != list(range(logits.shape[1])):
        raise ValueError(
            f"an order of {len(columns)} classes, for logits {list(logits.shape)}: each column once"
        )
    return logits[:, torch.as_tensor(list(columns), device=logits.device)]
