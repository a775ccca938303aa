"""Probes on frozen features that need more than a fit: few-shot episodes, the augmented probe.

The parts are `evaluation.knn`, `.linear_probe`, `.features` and `.intervals`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.accuracy import accuracies, check_features, check_labels, correct
from evaluation.intervals import Interval, mean_share_interval
from evaluation.knn import unit
from evaluation.linear_probe import head_logits, linear_probe
from runtime import counter_rng

METHODS = ("prototypes", "logistic")
OPTIMIZERS = ("sgd", "adam")
_EPISODE = 3  # keeps this use of a seed apart
_AT_ONCE = 1 << 22  # random keys or feature values per chunk of episodes


class Episodes(NamedTuple):
    """Accuracy of each episode, float64 [E] on the CPU, with their mean's 95 % interval."""

    accuracies: Tensor
    interval: Interval
    ways: int
    shots: int
    queries: int
    method: str
    layer: str

    def name(self) -> str:
        """Such as `5-way 1-shot(prototypes, 15 queries, h)`."""
        how = f"{self.method}, {self.queries} queries, {self.layer}"
        return f"{self.ways}-way {self.shots}-shot({how})"


def draw_episodes(
    labels: Tensor,
    ways: int,
    shots: int,
    queries: int,
    *,
    first: int,
    count: int,
    seed: int = 0,
) -> Tensor:
    """Rows of episodes first .. first + count - 1, int64 [count, ways, shots + queries].

    Classes, then rows of each, without replacement. Episode number e depends on (labels, seed, e)
    alone, so that all methods see the same ones, and more shots keep the rows of fewer. labels:
    integers [N] on the CPU. Errors: ValueError.
    """
    if min(ways - 1, shots, queries) < 1:
        raise ValueError(f"{ways} ways, {shots} shots, {queries} queries: at least 2, 1 and 1")
    classes, inverse, counts = labels.unique(return_inverse=True, return_counts=True)
    if ways > len(classes):
        raise ValueError(f"{ways} ways of {len(classes)} classes")
    need, least = shots + queries, int(counts.argmin())
    if counts[least] < need:
        raise ValueError(
            f"class {int(classes[least])} has {int(counts[least])} rows, an episode takes {need}"
        )
    number = torch.arange(first, first + count)
    key = counter_rng.words(counter_rng.mix(seed, _EPISODE, number), len(classes))
    chosen = key.argsort(dim=1, stable=True)[:, :ways]
    word = counter_rng.mix(seed, _EPISODE, number[:, None], classes[chosen])
    key = counter_rng.words(word.reshape(-1), int(counts.max()), stream=1)
    size = counts[chosen].reshape(-1, 1)
    key[torch.arange(key.shape[1]) >= size] = 1 << 32  # no such row
    drawn = key.argsort(dim=1, stable=True)[:, :need]
    start = (counts.cumsum(0) - counts)[chosen].reshape(-1, 1)
    return inverse.argsort(stable=True)[start + drawn].view(count, ways, need)


@torch.no_grad()
def few_shot(
    X: Tensor,
    y: Tensor,
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    episodes: int = 600,
    seed: int = 0,
    method: str = "prototypes",
    l2: float | None = None,
    layer: str = "h",
) -> Episodes:
    """N-way K-shot episodes on frozen features [N, d] of novel classes y [N].

    Features are made unit length. method: "prototypes" (nearest class mean by cosine; Snell et al.
    2017, arXiv:1703.05175, with their distance replaced) or "logistic" (the convex probe on the
    support rows; l2 default 1 / (ways shots), as Tian et al. 2020, arXiv:2003.11539). Errors:
    ValueError.
    """
    check_features(X, "features")
    if method not in METHODS:
        raise ValueError(f"method {method!r} is not one of: {', '.join(METHODS)}")
    if episodes < 2:
        raise ValueError(f"{episodes} episodes: an interval needs at least 2")
    y = check_labels(y, len(X), int(y.max()) + 1 if y.numel() else 1, "labels").cpu()
    X = unit(X.to(torch.promote_types(X.dtype, torch.float32)))
    largest = int(y.bincount().max())
    step = max(1, _AT_ONCE // (ways * max(largest, (shots + queries) * X.shape[1])))
    found = []
    for first in range(0, episodes, step):
        count = min(step, episodes - first)
        rows = draw_episodes(y, ways, shots, queries, first=first, count=count, seed=seed)
        rows = rows.to(X.device)
        support, query = X[rows[:, :, :shots]], X[rows[:, :, shots:]].flatten(1, 2)
        if method == "prototypes":
            likeness = query @ F.normalize(support.mean(2), dim=2).mT
        else:
            own = torch.arange(ways, device=X.device).repeat_interleave(shots)
            decay = 1 / (ways * shots) if l2 is None else l2
            probes = (linear_probe(s.flatten(0, 1), own, decay, ways) for s in support)
            likeness = torch.stack([p.logits(q) for p, q in zip(probes, query, strict=True)])
        truth = torch.arange(ways, device=X.device).repeat_interleave(queries).repeat(count)
        found.append(correct(likeness.flatten(0, 1), truth).view(count, -1).double().mean(1))
    each = torch.cat(found).cpu()
    return Episodes(each, mean_share_interval(each), ways, shots, queries, method, layer)


class Head(NamedTuple):
    """A linear head on features as they come, and how it was trained.

    weight: float64 [C, d], bias: [C] (trained in float32). losses: mean cross-entropy by epoch.
    """

    weight: Tensor
    bias: Tensor
    losses: tuple[float, ...]
    how: str

    def logits(self, X: Tensor) -> Tensor:
        """Float64 [N, C] for features [N, d], by chunks."""
        return head_logits(self.weight, self.bias, X)

    def name(self) -> str:
        """Such as `augmented(sgd, lr=0.1, 100 epochs, h)`."""
        return f"augmented({self.how})"

    def figures(self, X: Tensor, labels: Tensor) -> dict[str, float]:
        """Top-1 and top-5 accuracy, [0, 1], under `<name> acc1` and `<name> acc5`."""
        return accuracies(self.name(), self.logits(X), labels)


def augmented_probe(
    function: Callable[[Tensor], Tensor],
    batches: Callable[[int], Iterable[tuple[Tensor, Tensor]]],
    num_classes: int,
    *,
    epochs: int = 100,
    steps_per_epoch: int,
    lr: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    optimizer: str = "sgd",
    standardise: tuple[Tensor, Tensor] | None = None,
    device: torch.device | str | None = None,
    layer: str = "h",
) -> Head:
    """Train a linear head on features of images augmented anew in every epoch.

    Call it inside `evaluation.features.frozen(backbone)`: nothing here can change the backbone, and
    that proves it. Cosine from lr to 0 over all steps, zero initial weights (so no seed is needed).

    - function: images -> features [n, d]. batches(epoch): (images, labels) of one epoch, in number
      at most steps_per_epoch; crop and flip only is the protocol, train's own augmentations that of
      the original SimCLR code.
    - optimizer: "sgd" (Nesterov with momentum; none at 0) or "adam" (the original SimCLR code's,
      lr 1e-3).
    - standardise: mean and deviation [d] of plain train features (`linear_probe.moments`),
      folded into the head in the end. Small unscaled features make any fixed lr too small.
    Nothing waits for the device within an epoch. Errors: ValueError, for a loss that is not finite
    too.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes}: a probe needs at least 2")
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer {optimizer!r} is not one of: {', '.join(OPTIMIZERS)}")
    if epochs < 1 or steps_per_epoch < 1:
        raise ValueError(f"{epochs} epochs of {steps_per_epoch} steps: at least 1 of each")
    if not (lr > 0 and math.isfinite(lr)):
        raise ValueError(f"lr={lr} is not a positive number")
    head: _Trained | None = None
    losses = []
    for epoch in range(epochs):
        total: Tensor | None = None
        wrong: Tensor | None = None
        step, rows = 0, 0
        for images, labels in batches(epoch):
            if step == steps_per_epoch:
                raise ValueError(f"epoch {epoch} has more than {steps_per_epoch} batches")
            if device is not None:
                images = images.to(device, non_blocking=True)
            with torch.no_grad():
                h = function(images)
            if h.dim() != 2 or labels.shape != (len(h),):
                raise ValueError(f"features {list(h.shape)} came with labels {list(labels.shape)}")
            labels = labels.to(h.device, torch.int64, non_blocking=True)
            if head is None:
                head = _Trained(
                    h,
                    num_classes,
                    optimizer=optimizer,
                    momentum=momentum,
                    weight_decay=weight_decay,
                    standardise=standardise,
                )
            done = (epoch + step / steps_per_epoch) / epochs
            # labels outside would abort a GPU's process: they are held in range and counted
            safe = labels.clamp(0, num_classes - 1)
            loss = head.step(h.float(), safe, lr * (1 + math.cos(math.pi * done)) / 2)
            bad = (safe != labels).sum()
            total = loss if total is None else total + loss
            wrong = bad if wrong is None else wrong + bad
            step, rows = step + 1, rows + len(labels)
        if total is None or wrong is None:
            raise ValueError(f"epoch {epoch} has no batch")
        loss_sum, outside = torch.stack((total, wrong.double())).tolist()
        if outside:
            raise ValueError(
                f"epoch {epoch}: {outside:.0f} labels are outside of 0..{num_classes - 1}"
            )
        losses.append(loss_sum / rows)
        if not math.isfinite(losses[-1]):
            raise ValueError(f"epoch {epoch}: the head's loss is not finite; lower lr={lr:g}")
    how = ", ".join(
        [optimizer, f"lr={lr:g}", f"{epochs} epochs"]
        + ["standardised"] * (standardise is not None)
        + [layer]
    )
    assert head is not None  # every epoch had a batch
    weight, bias = head.folded()
    return Head(weight, bias, tuple(losses), how)


def stable_lr(X: Tensor) -> float:
    """A rate at which SGD on the linear probe of features X [N, d] is stable, momentum or none.

    1 / L, L the largest curvature that the cross-entropy can have: half the largest eigenvalue of
    the mean of [x, 1] [x, 1]^T (Boehning 1992: diag p - p p^T <= 1/2).
    """
    d = X.shape[1]
    gram = torch.zeros(d + 1, d + 1, dtype=torch.float64, device=X.device)
    for x in X.split(4096):
        x = torch.cat((x.double(), x.new_ones(len(x), 1).double()), 1)
        gram += x.T @ x
    return 2 / float(torch.linalg.eigvalsh(gram / len(X))[-1])


class _Trained:
    """Weight, bias and optimizer of the head, in float32."""

    def __init__(
        self,
        h: Tensor,
        num_classes: int,
        *,
        optimizer: str,
        momentum: float,
        weight_decay: float,
        standardise: tuple[Tensor, Tensor] | None,
    ) -> None:
        d = h.shape[1]
        self.shift: Tensor | None = None
        self.scale: Tensor | None = None
        if standardise is not None:
            mean, deviation = standardise
            if mean.shape != (d,) or deviation.shape != (d,):
                raise ValueError(f"standardise has not the features' shape [{d}]")
            self.shift = mean.to(h.device, torch.float32)
            self.scale = deviation.to(h.device, torch.float32)
        self.weight = torch.zeros(num_classes, d, device=h.device, requires_grad=True)
        self.bias = torch.zeros(num_classes, device=h.device, requires_grad=True)
        params = [self.weight, self.bias]
        if optimizer == "sgd":
            self.optimizer: torch.optim.Optimizer = torch.optim.SGD(
                params, 0.0, momentum, weight_decay=weight_decay, nesterov=momentum > 0
            )
        else:
            self.optimizer = torch.optim.Adam(params, 0.0, weight_decay=weight_decay)

    def step(self, h: Tensor, labels: Tensor, lr: float) -> Tensor:
        """One update at rate lr; the sum of losses before it, float64 []."""
        if self.shift is not None and self.scale is not None:
            h = (h - self.shift) / self.scale
        # the frozen context of the backbone forbids gradients
        with torch.enable_grad(), torch.autocast(h.device.type, enabled=False):
            loss = F.cross_entropy(F.linear(h, self.weight, self.bias), labels)
            grads = torch.autograd.grad(loss, (self.weight, self.bias))
        self.weight.grad, self.bias.grad = grads
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        return loss.detach().double() * len(labels)

    def folded(self) -> tuple[Tensor, Tensor]:
        # float64: where a feature's mean is many deviations, taking it out cancels
        weight, bias = self.weight.detach().double(), self.bias.detach().double()
        if self.shift is not None and self.scale is not None:
            weight = weight / self.scale.double()
            bias = bias - weight @ self.shift.double()
        return weight, bias
