"""The distance of two feature maps and its gradient in one go.

Written out for autograd, LPIPS of one map keeps several float32 maps of its size for the backward
pass. Here the gradient is made beside the value, while a part of the map is in the cache, and is
all that is kept: two thirds of the loss's memory, at the same speed (benchmarks/README.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_MAP_BYTES = 2 << 20  # of rows that are done at once on a CPU, in float32: about an L2 cache
EPS = 1e-10  # of LPIPS, under the root and beside it


class _Distance(torch.autograd.Function):
    """See `distance`."""

    @staticmethod
    def forward(ctx: Any, f: Tensor, there: Tensor, root: Tensor) -> Tensor:
        gradient = None
        if ctx.needs_input_grad[0]:
            # a loss scale, which keeps small gradients within float16, is not in it yet
            kept = torch.float32 if f.dtype == torch.float16 else f.dtype
            gradient = torch.empty_like(f, dtype=kept)
        out = f.new_empty(len(f), dtype=torch.float32)
        rows = len(f) if f.is_cuda else _MAP_BYTES // (4 * max(1, f[:1].numel()))
        step = max(1, rows)
        for at in (slice(i, i + step) for i in range(0, len(f), step)):
            part = f[at].float()
            length = torch.linalg.vector_norm(part, dim=1, keepdim=True).square_().add_(EPS).sqrt_()
            inverse = 1 / (length + EPS)
            # d = root f / length - there, whose square is summed
            d = (part * inverse).mul_(root).sub_(there[at])
            torch.sum(d.square(), (1, 2, 3), out=out[at])
            if gradient is not None:
                # by f: 2 root d / length, less its part along f, which the division takes out
                d.mul_(root).mul_(2 * inverse)
                along = (d * part).sum(1, keepdim=True).mul_(inverse).div_(length)
                gradient[at] = d.addcmul_(part, along, value=-1)
        if gradient is not None:
            ctx.save_for_backward(gradient)
            ctx.like = f.dtype
        return out

    @staticmethod
    def backward(ctx: Any, rows: Tensor) -> tuple[Tensor | None, None, None]:
        if torch.is_grad_enabled():  # create_graph
            raise RuntimeError("the fused distance has no second gradient: ask for fused=False")
        (gradient,) = ctx.saved_tensors
        out = torch.empty_like(gradient, dtype=ctx.like)
        # multiplied in float32 and rounded once
        return torch.mul(gradient, rows[:, None, None, None], out=out), None, None


def distance(f: Tensor, there: Tensor, root: Tensor) -> Tensor:
    """Squared distances of maps, normalised as LPIPS does (Zhang et al. 2018, eq. 1), `[B]`.

    f: `[B, C, H, W]` before normalisation, in any floating format; there: `[B, C, H, W]` float32,
    normalised and multiplied by root, `[1, C, 1, 1]` float32. Computed in float32. Gradients, in
    the format of f, reach f alone; there is no second one (RuntimeError), and none of torch.func.
    """
    value: Tensor = _Distance.apply(f, there.detach(), root.detach())
    return value
