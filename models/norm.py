"""Batch normalisation whose statistics span the processes, on gloo/CPU and on NCCL.

`torch.nn.SyncBatchNorm` refuses CPU tensors; this one is the same function on any device.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from runtime import distributed

_HALF = (torch.float16, torch.bfloat16)


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over the rows of all ranks: x [n, C, ...] -> the same shape and type.

    n may differ between ranks, and may be 0. Arguments, parameters, buffers and their names are
    those of `torch.nn.BatchNorm2d`; in one process and in eval mode it is that module bit for bit.
    Statistics are accumulated in fp32 or wider and joined in float64.

    The gradients are those of the sum of the ranks' losses: averaging the parameters' over ranks
    gives the gradient of their mean. Every rank must call forward and backward equally often.
    Errors: ValueError when x has fewer than two dimensions.
    """

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch normalisation needs [n, C, ...], got {list(input.shape)}")

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or distributed.world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        if input.shape[1] != self.num_features:
            raise ValueError(
                f"batch normalisation of {self.num_features} channels got {list(input.shape)}"
            )
        mean, var, count = joint_statistics(input)
        self._track(mean, var, count)
        return _Normalise.apply(input, self.weight, self.bias, mean, var, count, self.eps)

    @torch.no_grad()
    def _track(self, mean: torch.Tensor, var: torch.Tensor, count: torch.Tensor) -> None:
        kept, spread, batches = self.running_mean, self.running_var, self.num_batches_tracked
        if not self.track_running_stats or kept is None or spread is None or batches is None:
            return
        batches.add_(1)
        # As torch: momentum None is the plain average of all batches so far.
        new = 1.0 / float(batches) if self.momentum is None else self.momentum
        unbiased = var * (count / (count - 1).clamp(min=1)).to(var.dtype)
        kept.mul_(1 - new).add_(mean.to(kept.dtype), alpha=new)
        spread.mul_(1 - new).add_(unbiased.to(spread.dtype), alpha=new)


@torch.no_grad()
def joint_statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean [C], biased variance [C] and count of values per channel (0-d) over the ranks' x.

    x: [n, C, ...], n of any size on each rank. The count is float64; mean and variance are float32,
    or float64 for float64. Equal on every rank. One collective of (2C + 1) * world numbers.
    """
    kind = torch.float32 if x.dtype in _HALF else x.dtype
    channels = x.shape[1]
    world, rank = distributed.world_size(), distributed.rank()
    # Each rank fills its own row, so the sum is a gather: exact, and blind to who has how much.
    table = torch.zeros(world, 2 * channels + 1, dtype=torch.float64, device=x.device)
    if x.numel():
        # Scratch running buffers, because their type is the one that statistics come back in.
        scratch = torch.zeros(channels, dtype=kind, device=x.device)
        mean, var = torch.batch_norm_update_stats(x, scratch, scratch.clone(), 0.0)
        n = x.numel() // channels
        table[rank, :channels] = mean
        table[rank, channels:-1] = var
        table[rank, -1] = n
    table = distributed.all_reduce_sum(table)
    means, variances, counts = table[:, :channels], table[:, channels:-1], table[:, -1:]
    total = counts.sum()
    share = counts / total.clamp(min=1)
    mean = (share * means).sum(0)
    # Chan, Golub & LeVeque: variance of a union = mean of variances + variance of means. No
    # difference of large squares appears.
    var = (share * (variances + (means - mean).square())).sum(0)
    return mean.to(kind), var.to(kind), total


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) * weight + bias, where mean and var are functions of all x."""

    @staticmethod
    def forward(ctx, x, weight, bias, mean, var, count, eps):
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps = eps
        return _affine(x, mean, var, weight, bias, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight, mean, var, count = ctx.saved_tensors
        scale = torch.ones_like(mean) if weight is None else weight.to(mean.dtype)
        invstd = torch.rsqrt(var + ctx.eps)
        if x.numel():
            # With fixed statistics: w / std * g, and the sums over this rank's rows of g * x_hat
            # and g. The statistics go in twice, as running and as saved ones, as torch's eval does.
            direct, sum_gx, sum_g = torch.ops.aten.native_batch_norm_backward(
                grad, x, scale, mean, var, mean, invstd, False, ctx.eps, [True, True, True]
            )
        else:
            direct, sum_gx, sum_g = (torch.zeros_like(t) for t in (x, mean, mean))
        grad_x = None
        if ctx.needs_input_grad[0]:
            sums = distributed.all_reduce_sum(torch.stack([sum_gx, sum_g]))
            # Through the statistics (Ioffe & Szegedy 2015, sec. 3):
            # dx = w / std * (g - mean(g) - x_hat * mean(g * x_hat)), means over all ranks.
            per = -scale * invstd * sums / count.clamp(min=1).to(mean.dtype)
            grad_x = direct.add_(_affine(x, mean, var, per[0], per[1], ctx.eps))
        grad_w = sum_gx.to(weight.dtype) if ctx.needs_input_grad[1] else None
        # The bias has the weight's type: both are made by one constructor.
        grad_b = sum_g.to(weight.dtype) if ctx.needs_input_grad[2] else None
        return grad_x, grad_w, grad_b, None, None, None, None


def _affine(x, mean, var, weight, bias, eps):
    """torch's eval-mode kernel: fp32 parameters beside half x, in x's own memory format."""
    if not x.numel():
        return torch.empty_like(x)
    weight = None if weight is None else weight.to(mean.dtype)
    bias = None if bias is None else bias.to(mean.dtype)
    return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)


def convert_sync_bn(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm1d/2d/3d in `module` by a SyncBatchNorm; returns the module.

    Names, training flags, parameters and buffers are kept, the latter two as the same objects, so
    an optimiser made before stays valid. In place, unless `module` itself is a BatchNorm: then
    use what is returned. `torch.nn.SyncBatchNorm` is replaced too.
    """
    wanted = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    if isinstance(module, wanted):
        return _converted(module)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, wanted):
                setattr(parent, name, _converted(child))
    return module


def _converted(old: nn.modules.batchnorm._BatchNorm) -> SyncBatchNorm:
    new = SyncBatchNorm(old.num_features, old.eps, old.momentum, False, False, device="meta")
    new.affine, new.track_running_stats = old.affine, old.track_running_stats
    new.weight, new.bias = old.weight, old.bias
    new.running_mean, new.running_var = old.running_mean, old.running_var
    new.num_batches_tracked = old.num_batches_tracked
    return new.train(old.training)
