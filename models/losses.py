"""Contrastive losses on projections of several views: NT-Xent, multi-positive, DCL, DCLW.

Notation: V views of n images, z their L2-normalised projections, M = V n anchors, S = z z' / T.
For an anchor, p its similarities to the V - 1 other views of its image, N = logsumexp of S over
all other images. Every loss here is a function of (N, p), so its gradient is

    dL/dz_i = sum_k (a_i / s_i) exp(S_ik) z_k / T + ...,    a = dl/dN, s = exp(N), b = dl/dp,

and is formed during the forward pass from a part of S at a time: memory is chunk x columns at most,
or KEPT_ENTRIES, instead of columns x columns. In one process S is symmetric: the blocks on and
above its diagonal give s in a first pass, and in a second G_ik = exp(S_ik) (a_i / s_i + a_k / s_k),
which serves row and column of dL/dz = G z / T: two products of the size of S, one and a half where
exp(S) is kept between the passes. Rows at a time need three.
Keeping N without the positives is what keeps near-perfect alignment exact: with x = N - p the loss
is softplus(x), 1 - P = sigmoid(x), and nothing nearly equal is ever subtracted.

With several processes (runtime.distributed) each rank has its own anchors against the columns of
all ranks, and gradients flow back to the rank that a column came from: the mean of the ranks'
losses, and the mean of their gradients, are those of one process with the whole batch.

All of it is in fp32 (fp64 for fp64 input), under autocast and where TF32 is allowed too: with
TF32 products logits would err by about 1e-3 / T.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from runtime import distributed
from runtime.precision import LOWEST_TEMPERATURE, full_fp32

# Side of a block of S when no chunk is given: 1 MiB, which stays in a core's cache.
BLOCK_SIDE = {"cpu": 512, "cuda": 4096}
# Entries of S held at once, in rows of it, when no chunk is given: 2**22 floats are 16 MiB.
BLOCK_ENTRIES = {"cpu": 2**22, "cuda": 2**26}
# Entries of exp(S) kept from the first pass to the second where they are no more, and no chunk is
# given: 64 and 256 MiB of fp32, which spare a quarter of the products and half of the exponentials.
KEPT_ENTRIES = {"cpu": 2**24, "cuda": 2**26}
# exp(1 / T) needs no shift by the row's maximum in fp32 below this: e^40 * 1e9 columns < 1e38.
UNSHIFTED = 40.0

# (N [...], p [..., V] with -inf at the anchor itself, weight [n] or None)
# -> (loss [...], dloss/dN [...], dloss/dp [..., V])
Form = Callable[[Tensor, Tensor, "Tensor | None"], tuple[Tensor, Tensor, Tensor]]


def _inside(negative: Tensor, p: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """-log(sum of positives / sum of all others), NT-Xent for one positive."""
    x = negative - p.logsumexp(-1)
    a = x.sigmoid()  # what all negatives together have of the softmax: 1 - P
    return torch.logaddexp(x, torch.zeros_like(x)), a, -a[..., None] * p.softmax(-1)


def _outside(negative: Tensor, p: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean over positives of -log(positive / sum of all others)."""
    everything = torch.logaddexp(negative, p.logsumexp(-1))
    other = p.isfinite()
    # of p's type: a bool times a Python number would be fp32, and 1 / 3 is no fp32 number
    share = other.to(p.dtype) / (p.shape[-1] - 1)
    loss = everything - (share * p.masked_fill(~other, 0)).sum(-1)
    b = (p - everything[..., None]).exp() - share
    return loss, (negative - everything).exp(), b


def _decoupled(negative: Tensor, p: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """N - w p: the positive is not in the denominator."""
    other = p.isfinite()
    w = other.to(p.dtype) if weight is None else other * weight[:, None]
    return negative - (w * p.masked_fill(~other, 0)).sum(-1), torch.ones_like(negative), -w


def _normalised(views: Tensor) -> Tensor:
    """Rows of unit length in fp32, fp64 if they were; a row of zeros stays zero."""
    x = views if views.dtype == torch.float64 else views.float()
    return nn.functional.normalize(x, dim=-1)


def _positives(z: Tensor, temperature: float) -> Tensor:
    """[V, n, d] -> similarities of an anchor to all views of its image [V, n, V], itself -inf."""
    by_image = z.transpose(0, 1)
    p = torch.bmm(by_image, by_image.transpose(1, 2)).div_(temperature)
    p.diagonal(dim1=1, dim2=2).fill_(-math.inf)
    return p.transpose(0, 1)


def _rows(chunk: int | None, columns: int, device: torch.device) -> int:
    if chunk is not None:
        return chunk
    entries = BLOCK_ENTRIES.get(device.type, BLOCK_ENTRIES["cpu"])
    return min(1024 if device.type == "cpu" else 8192, max(32, entries // columns))


def _blocks(z: Tensor, columns: Tensor, first: int, temperature: float, chunk: int | None) -> Any:
    """Yields (view, rows as a slice, S [rows, K n]) with an anchor's own image at -inf.

    z [V, n, d]; columns [K, n, d], of which `first` to first + V are z itself.
    S is one buffer, overwritten from block to block.
    """
    V, n, d = z.shape
    K = columns.shape[0]
    flat = columns.reshape(K * n, d).t()
    rows = min(n, _rows(chunk, K * n, z.device))
    buffer = z.new_empty(rows, K * n)
    for v in range(V):
        for j in range(0, n, rows):
            here = slice(j, min(n, j + rows))
            S = buffer[: here.stop - j]
            torch.mm(z[v, here] / temperature, flat, out=S)
            own = S.view(-1, K, n)[:, first : first + V, here]
            own.diagonal(dim1=0, dim2=2).fill_(-math.inf)
            yield v, here, S


def _exponentials(S: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """S becomes E = exp(S - shift); returns (sums of E's rows, N = their logarithm + shift)."""
    if 1 / temperature <= UNSHIFTED:
        s = S.exp_().sum(1)
        return s, s.log()
    shift = S.amax(1)
    s = S.sub_(shift[:, None]).exp_().sum(1)
    return s, s.log() + shift


def _half(z: Tensor, temperature: float, chunk: int | None, twice: bool) -> Any:
    """A function that yields (rows, columns, E = exp(S) with own images 0), rows <= columns.

    z [V, n, d], all there are. E may be written to: the second call, if asked for by `twice`, finds
    what the first one left where that was kept, and forms anew what was not.
    """
    V, n, d = z.shape
    M = V * n
    flat, logits = z.reshape(M, d), z.reshape(M, d) / temperature
    device = z.device.type if z.device.type in BLOCK_SIDE else "cpu"
    side = min(M, chunk or BLOCK_SIDE[device])
    cuts = [slice(i, min(M, i + side)) for i in range(0, M, side)]
    pairs = [(i, j) for a, i in enumerate(cuts) for j in cuts[a:]]
    sizes = [(i.stop - i.start) * (j.stop - j.start) for i, j in pairs]
    keep = twice and (len(pairs) == 1 or chunk is None and sum(sizes) <= KEPT_ENTRIES[device])
    buffer = z.new_empty(sum(sizes) if keep else sizes[0])  # the first is the largest

    def blocks(again: bool) -> Any:
        start = 0
        for (i, j), size in zip(pairs, sizes, strict=True):
            shape = i.stop - i.start, j.stop - j.start
            E = buffer[start : start + size].view(shape)
            start += size if keep else 0
            if not (again and keep):
                torch.mm(logits[i], flat[j].t(), out=E)
                E.exp_()
                for views_apart in range(1 - V, V):
                    own = i.start - j.start + views_apart * n
                    if -shape[0] < own < shape[1]:
                        E.diagonal(own).zero_()
            yield i, j, E

    return blocks


def _symmetric(
    z: Tensor,
    p: Tensor,
    weight: Tensor | None,
    form: Form,
    *,
    temperature: float,
    chunk: int | None,
    wanted: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One process: (losses [V, n], b [V, n, V], gradient of all that is not positives or None).

    wanted: whether the gradient is.
    """
    V, n, d = z.shape
    blocks, flat = _half(z, temperature, chunk, twice=wanted), z.reshape(V * n, d)
    s = z.new_zeros(V * n)
    for i, j, E in blocks(again=False):
        s[i] += E.sum(1)
        if i != j:
            s[j] += E.sum(0)
    losses, a, b = form(s.log().view(V, n), p, weight)
    if not wanted:
        return losses, b, None
    r, dz = a.flatten() / s, torch.zeros_like(flat)
    for i, j, E in blocks(again=True):
        E.mul_(r[i, None] + r[j])
        dz[i].addmm_(E, flat[j])
        if i != j:
            dz[j].addmm_(E.t(), flat[i])
    return losses, b, dz.view_as(z)


class _Contrast(torch.autograd.Function):
    """Mean loss over the anchors z [V, n, d]; columns [K, n, d] of all ranks, or None for z."""

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        columns: Tensor | None,
        weight: Tensor | None,
        form: Form,
        first: int,
        temperature: float,
        chunk: int | None,
        wanted: bool,
    ) -> Tensor:
        other = z if columns is None else columns
        V, n, d = z.shape
        p = _positives(z, temperature)
        losses = z.new_empty(V, n)
        b = torch.empty_like(p)
        dz = torch.zeros_like(z) if wanted else None
        dother = z.new_zeros(other.shape[0] * n, d) if wanted else None
        if other.shape[0] == V and n == 1:  # one image in the world: no negatives
            losses, _, b = form(z.new_full((V, n), -math.inf), p, weight)
        elif columns is None and 1 / temperature <= UNSHIFTED:
            losses, b, half = _symmetric(
                z, p, weight, form, temperature=temperature, chunk=chunk, wanted=wanted
            )
            dz, dother = (half, None) if wanted else (None, None)
        else:
            flat = other.reshape(-1, d)
            for v, here, S in _blocks(z, other, first, temperature, chunk):
                s, negative = _exponentials(S, temperature)
                w = None if weight is None else weight[here]
                losses[v, here], a, b[v, here] = form(negative, p[v, here], w)
                if dz is not None and dother is not None:
                    scale = (a / s)[:, None]
                    dz[v, here] = S.mm(flat).mul_(scale)
                    dother.addmm_(S.t(), z[v, here] * scale)
        if dz is not None:
            # The positives, both ways: S_ip is a product of z_i and z_p.
            b = b.transpose(0, 1)
            dz += torch.bmm(b + b.transpose(1, 2), z.transpose(0, 1)).transpose(0, 1)
            if dother is not None and columns is None:
                dz += dother.view_as(z)
                dother = None
            elif dother is not None and columns is not None:
                dother = dother.view_as(columns).div_(temperature * V * n)
            ctx.save_for_backward(dz.div_(temperature * V * n), dother)
        return losses.mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # With create_graph. once_differentiable would only object to a gradient of `grad`, and
        # let the stored gradient pass for a constant: second derivatives would be wrong.
        if torch.is_grad_enabled():
            raise RuntimeError("a contrastive loss is not differentiable twice (create_graph=True)")
        dz, dother = ctx.saved_tensors
        return grad * dz, None if dother is None else grad * dother, *([None] * 6)


def _check_temperature(name: str, value: float) -> float:
    if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value!r}: it must be a number above 0, such as 0.5")
    if value < LOWEST_TEMPERATURE:
        raise ValueError(
            f"{name}={value!r} is below {LOWEST_TEMPERATURE:g}, where cosines divided by it leave "
            "the range of fp32; 0.05 to 1 is usual"
        )
    return float(value)


def _stack(views: tuple[Tensor, ...]) -> Tensor:
    """Views [n, d] each -> [V, n, d]. Errors: ValueError."""
    for view in views:
        if not isinstance(view, Tensor) or view.ndim != 2:
            got = tuple(view.shape) if isinstance(view, Tensor) else type(view).__name__
            raise ValueError(f"a view is a tensor [n, d] of projections, not {got}")
    shapes = {tuple(view.shape) for view in views}
    if len(shapes) > 1:
        said = ", ".join(str(tuple(view.shape)) for view in views)
        raise ValueError(f"views of the same images have one shape, got {said}")
    kinds = {(str(view.dtype), str(view.device)) for view in views}
    if len(kinds) > 1:
        raise ValueError(f"views differ in type or device: {sorted(kinds)}")
    return _checked(torch.stack(views)) if views else _checked(torch.empty(0, 0, 0))


def _checked(views: Tensor) -> Tensor:
    """[V, n, d] as it is. Errors: ValueError."""
    if not isinstance(views, Tensor) or views.ndim != 3:
        got = tuple(views.shape) if isinstance(views, Tensor) else type(views).__name__
        raise ValueError(f"views are one tensor [V, n, d], not {got}")
    if not views.is_floating_point():
        raise ValueError(f"projections are floating point, not {views.dtype}")
    V, n, d = views.shape
    if V < 2:
        raise ValueError(f"{V} view(s): a contrastive loss needs at least 2 of every image")
    if n < 1 or d < 1:
        raise ValueError(f"views of shape [{n}, {d}] are empty")
    return views


class _Contrastive(nn.Module):
    """What the losses share: temperature, chunk, and the columns of all ranks."""

    form: Form

    def __init__(self, temperature: float, *, chunk: int | None = None, gather: bool = True):
        super().__init__()
        self.temperature = _check_temperature("temperature", temperature)
        if chunk is not None and (type(chunk) is not int or chunk <= 0):
            raise ValueError(f"chunk={chunk!r}: give a number of rows above 0, or None")
        self.chunk, self.gather = chunk, bool(gather)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}, chunk={self.chunk}, gather={self.gather}"

    def _columns(self, z: Tensor) -> tuple[Tensor | None, int]:
        """(columns of all ranks [W V, n, d] or None, which of them are this rank's first)."""
        if not self.gather or distributed.world_size() == 1:
            return None, 0
        # One check for all ranks inside: unequal n is a ValueError on every one of them.
        return distributed.gather_grad(z), distributed.rank() * z.shape[0]

    def _weight(self, z: Tensor) -> Tensor | None:
        """Weight of each image's positive term [n]; None is 1."""
        return None

    def _check(self, images: int) -> None:
        """Refuse a number of images, on all ranks together, that the loss has no value for."""

    def _loss(self, views: Tensor) -> Tensor:
        with full_fp32():
            z = _normalised(views)
            columns, first = self._columns(z)
            self._check(z.shape[1] * (1 if columns is None else columns.shape[0] // z.shape[0]))
            with torch.no_grad():
                weight = self._weight(z)
            wanted = torch.is_grad_enabled() and z.requires_grad
            return _Contrast.apply(
                z, columns, weight, self.form, first, self.temperature, self.chunk, wanted
            )

    @torch.no_grad()
    def _per_anchor(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """(losses [V, n], whether a view of the same image is the nearest other row [V, n]).

        Ties, within rounding, count as many as breaking them at random would: 1 / rows tied.
        """
        with full_fp32():
            z = _normalised(views)
            columns, first = self._columns(z)
            self._check(z.shape[1] * (1 if columns is None else columns.shape[0] // z.shape[0]))
            weight, other = self._weight(z), z if columns is None else columns
            p = _positives(z, self.temperature)
            losses, is_first = z.new_empty(z.shape[:2]), z.new_ones(z.shape[:2])
            best, rounding = p.amax(-1), 8 * torch.finfo(z.dtype).eps / self.temperature
            if other.shape[0] == z.shape[0] and z.shape[1] == 1:
                losses = self.form(z.new_full(z.shape[:2], -math.inf), p, weight)[0]
            else:
                for v, here, S in _blocks(z, other, first, self.temperature, self.chunk):
                    nearest = best[v, here, None]
                    above, tied = (S > nearest + rounding).any(1), (S >= nearest - rounding).sum(1)
                    is_first[v, here] = ~above / (1 + tied)
                    w = None if weight is None else weight[here]
                    negative = _exponentials(S, self.temperature)[1]
                    losses[v, here] = self.form(negative, p[v, here], w)[0]
            return losses, is_first


class _Views(_Contrastive):
    """Losses called as loss(view0, view1)."""

    def forward(self, view0: Tensor, view1: Tensor) -> Tensor:
        """Projections [n, d] of the two views, of any length -> mean loss, a scalar."""
        return self._loss(_stack((view0, view1)))

    def per_anchor(self, view0: Tensor, view1: Tensor) -> Tensor:
        """The loss of each anchor [2n], rows of view0 first. No gradient."""
        return self._per_anchor(_stack((view0, view1)))[0].flatten()

    def top1(self, view0: Tensor, view1: Tensor) -> Tensor:
        """Contrastive top-1: share of anchors whose positive is the nearest other row, a scalar.

        No gradient, no waiting for the device. With several ranks all must call it (as per_anchor):
        it is of this rank's anchors among the rows of all.
        """
        return self._per_anchor(_stack((view0, view1)))[1].mean()


class NTXent(_Views):
    """NT-Xent of SimCLR: mean over 2n anchors of -log(exp(S_ip) / sum over k != i of exp(S_ik)).

    Two views [n, d] of un-normalised projections -> scalar, fp32 (fp64 for fp64). Between 0 and
    2 / T + ln(2n - 1); google's code reports twice this. One image alone: exactly 0.
    temperature: T, at least 1e-30. chunk: rows of S at a time; None chooses, and keeps up to
    KEPT_ENTRIES of exp(S). gather: with several ranks, use all their rows (they need equal n). For
    more views: MultiPositive.
    Errors: ValueError for the arguments; RuntimeError when differentiated twice.
    Source: Chen et al. 2020, "A Simple Framework ...", equation 1.
    """

    form = staticmethod(_inside)

    def __init__(
        self, temperature: float = 0.5, *, chunk: int | None = None, gather: bool = True
    ) -> None:
        super().__init__(temperature, chunk=chunk, gather=gather)


class MultiPositive(_Contrastive):
    """NT-Xent for V >= 2 views in one tensor [V, n, d] of un-normalised projections -> scalar.

    reduce "in": -log(sum over the V - 1 positives / sum over all others), as in solo-learn;
    "out": mean over the positives of -log(one / sum over all others), SupCon's "out" form. The
    denominator has all positives in both. Equal to NTXent for V = 2. Other arguments: NTXent's.
    Source: Khosla et al. 2020, "Supervised Contrastive Learning", equations 2 and 3.
    """

    def __init__(
        self,
        temperature: float = 0.5,
        reduce: str = "out",
        *,
        chunk: int | None = None,
        gather: bool = True,
    ) -> None:
        super().__init__(temperature, chunk=chunk, gather=gather)
        if reduce not in ("in", "out"):
            raise ValueError(f"reduce={reduce!r}: choose 'in' or 'out'")
        self.reduce = reduce

    def form(self, negative: Tensor, p: Tensor, weight: Tensor | None) -> Any:
        # With one positive both are the same, and _inside loses nothing to cancellation.
        inside = self.reduce == "in" or p.shape[-1] == 2
        return (_inside if inside else _outside)(negative, p, weight)

    def forward(self, views: Tensor) -> Tensor:
        """[V, n, d] -> mean loss over the V n anchors, a scalar."""
        return self._loss(_checked(views))

    def per_anchor(self, views: Tensor) -> Tensor:
        """The loss of each anchor [V, n]. No gradient."""
        return self._per_anchor(_checked(views))[0]

    def top1(self, views: Tensor) -> Tensor:
        """Share of anchors whose nearest other row is of the same image, a scalar. No gradient."""
        return self._per_anchor(_checked(views))[1].mean()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, reduce={self.reduce!r}"


class DCL(_Views):
    """Decoupled contrastive loss: -S_ip + logsumexp of S_ik over the other images' 2n - 2 rows.

    Called as NTXent; can be negative; needs two images at least (on all ranks together).
    Source: Yeh et al. 2022, "Decoupled Contrastive Learning", equation 5.
    """

    form = staticmethod(_decoupled)

    def __init__(
        self, temperature: float = 0.1, *, chunk: int | None = None, gather: bool = True
    ) -> None:
        super().__init__(temperature, chunk=chunk, gather=gather)

    def _check(self, images: int) -> None:
        if images < 2:
            raise ValueError("DCL of one image has no negatives: use a batch of at least 2")


class DCLW(DCL):
    """DCL whose positive terms are weighted by 2 - N softmax(cos_i / sigma) over the N images.

    cos_i: cosine of image i's two views. The weights carry no gradient. sigma > 0; with several
    ranks (gather) the softmax is over the images of all of them.
    Source: Yeh et al. 2022, "Decoupled Contrastive Learning", equation 6 (von Mises-Fisher).
    """

    def __init__(
        self,
        temperature: float = 0.1,
        sigma: float = 0.5,
        *,
        chunk: int | None = None,
        gather: bool = True,
    ) -> None:
        super().__init__(temperature, chunk=chunk, gather=gather)
        self.sigma = _check_temperature("sigma", sigma)

    def _weight(self, z: Tensor) -> Tensor:
        logits = (z[0] * z[1]).sum(-1) / self.sigma
        if not self.gather or distributed.world_size() == 1:
            return 2 - len(logits) * logits.softmax(0)
        n, start = len(logits), distributed.rank() * len(logits)
        everyone = distributed.gather(logits)
        return (2 - len(everyone) * everyone.softmax(0))[start : start + n]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sigma={self.sigma:g}"
