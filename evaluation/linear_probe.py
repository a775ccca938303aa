"""The convex linear probe: logistic regression on frozen features, solved to its optimum.

    minimise  mean cross-entropy(X W^T + b, y) + l2 / 2 (|W|^2 + |b|^2)                     (1)

For l2 > 0 this is strongly convex: one optimum, and a gradient of length g proves that W and b lie
within g / l2 of it. What a probe's figure then depends on is features, l2 and nothing else.

Solved in float64 by Newton's method. The step solves H s = -grad by conjugate gradients with the
preconditioner S (x) G + l2 I, S = mean(diag p - p p^T) [C, C] and G = X^T X / N [d + 1, d + 1]: the
Hessian is the mean over rows of (diag p - p p^T) (x) x x^T, and this takes the two factors'
means apart. Both are diagonalised, so applying the inverse is four small products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from evaluation.accuracy import accuracies, check_features, check_labels, correct
from evaluation.splits import stratified_slice

L2_GRID = tuple(10.0**e for e in range(-6, 2))
_ROWS = 4096  # rows made float64 at a time
_KEEP = 1 << 25  # float64 values that may be kept between passes: 256 MiB
_MAX_NEWTON = 200
_MAX_CG = 500
_CHOOSING = 1e-6  # tolerance of fits that are only compared


class LinearProbe(NamedTuple):
    """A linear head on features as they come (standardisation is folded in), and how it was made.

    weight: float64 [C, d], bias: [C]. objective: value of (1), in standardised features where
    they were. gradient_norm: Euclidean, of (1); distance to the optimum <= gradient_norm / l2.
    converged: whether gradient_norm reached the tolerance asked for.
    """

    weight: Tensor
    bias: Tensor
    l2: float
    objective: float
    gradient_norm: float
    converged: bool
    standardised: bool
    layer: str

    def logits(self, X: Tensor) -> Tensor:
        """Float64 [N, C] for features [N, d], by chunks."""
        return head_logits(self.weight, self.bias, X)

    def name(self) -> str:
        """Such as `linear(l2=0.01, standardised, h)`."""
        how = [f"l2={self.l2:g}"] + ["standardised"] * self.standardised + [self.layer]
        return f"linear({', '.join(how)})"

    def figures(self, X: Tensor, labels: Tensor) -> dict[str, float]:
        """Top-1 and top-5 accuracy, [0, 1], under `<name> acc1` and `<name> acc5`."""
        return accuracies(self.name(), self.logits(X), labels)


def head_logits(weight: Tensor, bias: Tensor, X: Tensor) -> Tensor:
    """X W^T + b, [N, C] in the weight's precision and on its device, by chunks of X [N, d]."""
    if X.dim() != 2 or X.shape[1] != weight.shape[1] or not len(X):
        raise ValueError(f"features {list(X.shape)} are not [N, {weight.shape[1]}]")
    return torch.cat([x.to(weight) @ weight.T + bias for x in X.split(_ROWS)])


def moments(X: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature, float64 [d]; 1 for a feature that is constant.

    X: [N, d]. By chunks, in two passes.
    """
    total = sum(x.double().sum(0) for x in X.split(_ROWS))
    mean = total / len(X)
    square = sum((x.double() - mean).square().sum(0) for x in X.split(_ROWS)) / len(X)
    std = square.sqrt()
    # what rounding leaves of a constant is no scale to divide by
    return mean, torch.where(std > 1e-12 * mean.abs(), std, 1).masked_fill_(std == 0, 1)


@torch.no_grad()
def linear_probe(
    X: Tensor,
    y: Tensor,
    l2: float,
    num_classes: int | None = None,
    *,
    standardise: bool = False,
    layer: str = "h",
    tolerance: float = 1e-9,
    start: LinearProbe | None = None,
) -> LinearProbe:
    """The optimum of (1).

    X: [N, d], any floating type, kept as it is but for chunks (and a float64 copy where that is
    below 256 MiB). y: integers [N]. num_classes: default the largest label + 1. standardise: take
    mean and deviation of X out first, so that l2 means the same whatever the features' scale.
    tolerance: of the gradient's norm, as a share of its norm at W = 0, b = 0, or what float64
    rounds it to if that is more. start: a probe of the
    same data and standardisation, where to start from. Errors: ValueError.
    """
    check_features(X, "features")
    num_classes = _classes(y, num_classes)
    y = check_labels(y, len(X), num_classes, "labels").to(X.device)
    if not (l2 > 0 and math.isfinite(l2)):
        raise ValueError(f"l2={l2}: the optimum is unique for a finite l2 > 0 only")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance={tolerance} is not in (0, 1)")
    shift, scale = moments(X) if standardise else (None, None)
    rows = _Rows(X, shift, scale)
    theta = None
    if start is not None:
        if start.weight.shape != (num_classes, X.shape[1]) or start.standardised != standardise:
            raise ValueError("start is a probe of another size or standardisation")
        theta = _inwards(start.weight.to(X.device), start.bias.to(X.device), shift, scale)
    basis = None
    if len(X) <= X.shape[1]:
        # Fewer rows than features: the optimum lies in the span of the rows (the gradient of the
        # cross-entropy does, and the rest is l2 theta), so solve in an orthonormal basis of it.
        # The mean of (1) runs over rows, so R^T takes the rows' place exactly.
        basis, R = torch.linalg.qr(torch.cat(list(rows.chunks())).T)
        rows = _Rows.of(R.T.contiguous())
        theta = None if theta is None else theta @ basis
    problem = _Problem(rows, y, num_classes, l2)
    theta, objective, norm, converged = _newton(problem, theta, tolerance)
    if basis is not None:
        theta = theta @ basis.T
    weight, bias = theta[:, :-1], theta[:, -1]
    if shift is not None and scale is not None:
        weight = weight / scale
        bias = bias - weight @ shift
    return LinearProbe(
        weight.contiguous(), bias.contiguous(), l2, objective, norm, converged, standardise, layer
    )


def _classes(y: Tensor, num_classes: int | None) -> int:
    if num_classes is None:
        if not y.numel():
            raise ValueError("labels: there are none")
        num_classes = int(y.max()) + 1
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes}: a probe needs at least 2")
    return num_classes


def _inwards(weight: Tensor, bias: Tensor, shift: Tensor | None, scale: Tensor | None) -> Tensor:
    """Weight and bias on features as they come -> theta [C, d + 1] on standardised ones."""
    if shift is not None and scale is not None:
        bias = bias + weight @ shift
        weight = weight * scale
    return torch.cat((weight, bias[:, None]), 1)


class _Rows:
    """Rows [x, 1] in float64, by chunks: standardised, and kept if that is little."""

    def __init__(self, X: Tensor, shift: Tensor | None = None, scale: Tensor | None = None) -> None:
        self.n, self.width, self.device = len(X), X.shape[1] + 1, X.device
        self._X, self._shift, self._scale = X, shift, scale
        self._kept = list(self._made()) if self.n * self.width <= _KEEP else None

    @classmethod
    def of(cls, kept: Tensor) -> _Rows:
        """Rows that are complete already."""
        self = cls.__new__(cls)
        self.n, self.width, self.device = len(kept), kept.shape[1], kept.device
        self._kept = list(kept.split(_ROWS))
        return self

    def _made(self) -> Iterator[Tensor]:
        for x in self._X.split(_ROWS):
            x = x.double()
            if self._shift is not None:
                x = (x - self._shift) / self._scale
            yield torch.cat((x, x.new_ones(len(x), 1)), 1)

    def chunks(self) -> Iterator[Tensor]:
        return iter(self._kept) if self._kept is not None else self._made()


class _Problem:
    """Value, gradient and Hessian products of (1) in theta [C, d + 1]."""

    def __init__(self, rows: _Rows, y: Tensor, C: int, l2: float) -> None:
        self.rows, self.y, self.C, self.l2 = rows, y.split(_ROWS), C, l2
        self._keep = rows.n * C <= _KEEP
        # eigh on some devices returns tiny negative values
        gram = sum(x.T @ x for x in rows.chunks()) / rows.n
        self.lam, self.Q = torch.linalg.eigh(gram)
        self.lam.clamp_(min=0)

    def evaluate(self, theta: Tensor) -> tuple[float, Tensor]:
        """Value and gradient; what `curve` needs is kept."""
        value, grad, kept = theta.new_zeros(()), torch.zeros_like(theta), []
        mean, outer = theta.new_zeros(self.C), theta.new_zeros(self.C, self.C)
        for x, y in zip(self.rows.chunks(), self.y, strict=True):
            z = x @ theta.T
            lse = z.logsumexp(1, keepdim=True)
            # logsumexp - z_y cancels where the label is certain; log-softmax's own digits do not
            value -= (z - lse).gather(1, y[:, None]).sum()
            p = (z - lse).exp_()
            mean += p.sum(0)
            outer += p.T @ p
            if self._keep:
                kept.append(p.clone())
            p.scatter_add_(1, y[:, None], p.new_full((len(y), 1), -1.0))
            grad += p.T @ x
        n = self.rows.n
        self._theta, self._p = theta, kept
        self._S = torch.diag(mean / n) - outer / n
        grad = grad / n + self.l2 * theta
        return float(value / n + self.l2 / 2 * theta.square().sum()), grad

    def curve(self) -> None:
        """Set up `product` and `solve` at the theta last evaluated."""
        self._d, self._U = torch.linalg.eigh(self._S)
        self._spectrum = self._d.clamp(min=0)[:, None] * self.lam + self.l2

    def product(self, v: Tensor) -> Tensor:
        """H v."""
        out = torch.zeros_like(v)
        for i, x in enumerate(self.rows.chunks()):
            p = self._p[i] if self._keep else (x @ self._theta.T).softmax(1)
            u = p * (x @ v.T)
            u -= p * u.sum(1, keepdim=True)
            out += u.T @ x
        return out / self.rows.n + self.l2 * v

    def solve(self, r: Tensor) -> Tensor:
        """The preconditioner's inverse applied to r."""
        return self._U @ ((self._U.T @ r @ self.Q) / self._spectrum) @ self.Q.T


def _newton(
    problem: _Problem, theta: Tensor | None, tolerance: float
) -> tuple[Tensor, float, float, bool]:
    """(theta, value, gradient norm, whether it is within tolerance)."""
    zero = torch.zeros(
        problem.C, problem.rows.width, dtype=torch.float64, device=problem.rows.device
    )
    value, grad = problem.evaluate(zero)
    # rounding of a mean of (p - y) x; where classes balance, the gradient at 0 is nothing but that
    rounding = 16 * torch.finfo(torch.float64).eps * math.sqrt(float(problem.lam.sum()))
    goal = max(tolerance * float(grad.norm()), rounding)
    if theta is None:
        theta = zero
    else:
        there, uphill = problem.evaluate(theta)
        if there < value:
            value, grad = there, uphill
        else:
            theta = zero
            value, grad = problem.evaluate(theta)
    norm = float(grad.norm())
    for _ in range(_MAX_NEWTON):
        if norm <= goal:
            break
        problem.curve()
        step = _conjugate(problem, -grad, min(0.1, math.sqrt(norm)) * norm)
        slope = float((step * grad).sum())
        size, moved = 1.0, False
        while size > 1e-8:
            new = theta + size * step
            there, next_grad = problem.evaluate(new)
            next_norm = float(next_grad.norm())
            # Armijo; at the value's last digits the gradient decides
            if there <= value + 1e-4 * size * slope or (
                there <= value + 1e-14 * abs(value) and next_norm < norm
            ):
                moved = True
                break
            size /= 2
        if not moved:  # nothing better is left at float64's resolution
            break
        theta, value, grad, norm = new, there, next_grad, next_norm
    return theta, value, norm, norm <= goal


def _conjugate(problem: _Problem, b: Tensor, enough: float) -> Tensor:
    """s with |H s - b| <= enough, by preconditioned conjugate gradients from 0."""
    s, r = torch.zeros_like(b), b.clone()
    z = problem.solve(r)
    p, rz = z, float((r * z).sum())
    for _ in range(_MAX_CG):
        Hp = problem.product(p)
        alpha = rz / float((p * Hp).sum())
        s = s + alpha * p
        r = r - alpha * Hp
        if float(r.norm()) <= enough:
            break
        z = problem.solve(r)
        rz, before = float((r * z).sum()), rz
        p = z + rz / before * p
    return s


class Sweep(NamedTuple):
    """The l2 chosen on a held-out slice of train, and the probe refitted on all of train.

    table: (l2, accuracy, mean cross-entropy) on the slice, from the largest l2 to the smallest.
    at_edge: the choice is the smallest or largest l2 tried: a wider grid may find a better one.
    """

    l2: float
    table: tuple[tuple[float, float, float], ...]
    at_edge: bool
    probe: LinearProbe


@torch.no_grad()
def l2_sweep(
    X: Tensor,
    y: Tensor,
    num_classes: int | None = None,
    *,
    grid: Sequence[float] = L2_GRID,
    holdout: float = 0.1,
    seed: int = 0,
    standardise: bool = False,
    patience: int | None = 2,
    layer: str = "h",
    each: Callable[[int, int], object] = lambda done, total: None,
) -> Sweep:
    """Choose l2 on a slice of train (X, y), stratified and drawn by `seed`, then fit on all of it.

    The best accuracy wins, then the lower cross-entropy, then the larger l2. Small l2 is where the
    time goes: the sweep comes from the largest, each fit starts from the one before, and it ends
    when `patience` fits in a row had less than the best accuracy so far and more than the lowest
    cross-entropy (None: never). Test data is no argument: it is for the probe returned, once.
    each: is given (fits done, of how many at most) after each of them. Errors: ValueError.
    """
    if not grid:
        raise ValueError("grid: no l2 was given")
    if patience is not None and patience < 1:
        raise ValueError(f"patience={patience}: at least 1, or None")
    num_classes = _classes(y, num_classes)
    check_features(X, "features")
    y = check_labels(y, len(X), num_classes, "labels").to(X.device)
    held = stratified_slice(y.cpu(), holdout, seed).to(X.device)
    own_X, own_y, X_held, y_held = X[~held], y[~held], X[held], y[held]
    table: list[tuple[float, float, float]] = []
    best, probe, nearest, worse = (0.0, -1.0, math.inf), None, None, 0
    for l2 in sorted(set(grid), reverse=True):
        probe = linear_probe(
            own_X,
            own_y,
            l2,
            num_classes,
            standardise=standardise,
            tolerance=_CHOOSING,
            start=probe,
        )
        logits = probe.logits(X_held)
        accuracy = float(correct(logits, y_held).double().mean())
        loss = float(torch.nn.functional.cross_entropy(logits, y_held))
        table.append((l2, accuracy, loss))
        lowest = min(row[2] for row in table)
        worse = worse + 1 if accuracy < best[1] and loss > lowest else 0
        if (-accuracy, loss) < (-best[1], best[2]):
            best, nearest = table[-1], probe
        each(len(table), len(set(grid)) + 1)
        if worse == patience:
            break
    chosen = best[0]
    probe = linear_probe(
        X, y, chosen, num_classes, standardise=standardise, layer=layer, start=nearest
    )
    each(len(set(grid)) + 1, len(set(grid)) + 1)
    edge = len(table) > 1 and chosen in (table[0][0], table[-1][0])
    return Sweep(chosen, tuple(table), edge, probe)
