"""What every probe needs: checked features and labels, and accuracies of predictions."""

from __future__ import annotations

import torch
from torch import Tensor


def correct(predictions: Tensor, labels: Tensor, top: int = 1) -> Tensor:
    """Whether the label is among the `top` likeliest classes, bool [N].

    predictions: [N, C], larger for a class that is likelier: logits, votes, similarities. Of equal
    ones the smaller class comes first, so that the answer is no matter of a device's sort. With no
    more than `top` classes all is correct, but a row with a NaN never: a head that diverged has
    learnt nothing. Errors: ValueError.
    """
    if predictions.dim() != 2 or not len(predictions):
        raise ValueError(f"predictions {list(predictions.shape)} are not [N, C] with N >= 1")
    (rows, classes), device = predictions.shape, predictions.device
    labels = check_labels(labels, rows, classes, "labels").to(device)
    own = predictions.gather(1, labels[:, None])
    earlier = torch.arange(classes, device=device) < labels[:, None]
    before = ((predictions > own) | ((predictions == own) & earlier)).sum(1)
    return (before < top) & ~predictions.isnan().any(1)


def accuracies(name: str, predictions: Tensor, labels: Tensor) -> dict[str, float]:
    """Top-1 and top-5 accuracy, [0, 1], under `<name> acc1` and `<name> acc5`; see `correct`."""
    hits = torch.stack([correct(predictions, labels, top).double().mean() for top in (1, 5)])
    return dict(zip((f"{name} acc1", f"{name} acc5"), hits.tolist(), strict=True))


def check_features(x: Tensor, what: str) -> Tensor:
    """Features [N, d], N and d >= 1, floating and finite. Errors: ValueError."""
    if x.dim() != 2 or not x.is_floating_point() or not x.numel():
        raise ValueError(f"{what}: {x.dtype} {list(x.shape)} instead of floats [N, d]")
    # a sum over finite rows can overflow, a maximum of absolute values cannot
    finite = x.abs().amax(1).isfinite()
    if not finite.all():
        raise ValueError(f"{what}: row {int((~finite).nonzero()[0])} is not finite")
    return x


def check_labels(labels: Tensor, n: int, num_classes: int, what: str) -> Tensor:
    """Labels [n] of integers in [0, num_classes) as int64. Errors: ValueError."""
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes}: at least 1 is needed")
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.shape != (n,):
        raise ValueError(f"{what}: {labels.dtype} {list(labels.shape)} instead of integers [{n}]")
    if n:
        low, high = torch.stack(labels.aminmax()).tolist()
        if low < 0 or high >= num_classes:
            wrong = low if low < 0 else high
            raise ValueError(f"{what}: {wrong} is outside of 0..{num_classes - 1}")
    return labels.long()
