"""The distance of two feature maps and its gradient in one go.

Written out for autograd, LPIPS of one map takes eight passes over it in float32 and keeps five of
them for the backward pass: of maps that do not fit into a cache, more than a third of what VGG16
itself takes on a CPU. Here the gradient is made beside the value, while a part of the map is in the
cache, and is all that is kept.
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
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(f) if wanted else None
        out = f.new_empty(len(f), dtype=torch.float32)
        step = len(f) if f.is_cuda else max(1, _MAP_BYTES // (4 * f[0].numel()))
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
        return out

    @staticmethod
    def backward(ctx: Any, rows: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():  # create_graph
            raise RuntimeError("the fused distance has no second gradient: ask for fused=False")
        (gradient,) = ctx.saved_tensors
        return gradient * rows[:, None, None, None].to(gradient.dtype), None, None


def distance(f: Tensor, there: Tensor, root: Tensor) -> Tensor:
    """Squared distances of maps, normalised as LPIPS does (Zhang et al. 2018, eq. 1), `[B]`.

    f: `[B, C, H, W]` before normalisation, in any floating format; there: `[B, C, H, W]` float32,
    normalised and multiplied by root, `[1, C, 1, 1]` float32. Computed in float32. Gradients, in
    the format of f, reach f alone; there is no second one (RuntimeError).
    """
    value: Tensor = _Distance.apply(f, there, root)
    return value
