"""Batch normalisation that keeps real and synthetic pictures apart.

    model = convert_domain_bn(SimCLR(...))
    z = by_domain(model, x, synthetic)      # x [N, 3, r, r], synthetic bool [N] on the CPU
    model.eval(); model.features(real)      # as ever: the real pictures' statistics
    plain = real_state(model)               # what a SimCLR without domains loads

Statistics and affine parameters of a domain see its own rows only (auxiliary batch norms: Xie et
al. 2020, arXiv:1911.09665). Those of real pictures keep torchvision's names, the others lie below
`.synthetic`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.norm import SyncBatchNorm
from runtime import distributed

_INNER = ".synthetic."


class Split(NamedTuple):
    """Of the rows that come next, the first `real` are real pictures, the others are synthetic.

    live: whether each domain has enough rows, over the ranks if these are synchronised, to have
    statistics of its own.
    """

    real: int
    rows: int
    live: tuple[bool, bool]


class DomainBatchNorm(SyncBatchNorm):
    """BatchNorm over the rows of each domain: x [n, C, ...], real rows first -> the same shape.

    In eval mode, and when no `split` is set, it is the plain norm of real pictures. A domain with
    fewer than two rows is normalised by its running statistics, which then stay as they are.
    sync: statistics over all ranks, as in SyncBatchNorm. Errors: ValueError when rows do not match
    the split.
    """

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        if norm.weight is None or norm.running_mean is None:
            raise ValueError("domains need norms with affine parameters and running statistics")
        super().__init__(norm.num_features, norm.eps, norm.momentum, device="meta")
        self.sync = isinstance(norm, (SyncBatchNorm, nn.SyncBatchNorm))
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.synthetic = SyncBatchNorm(
            norm.num_features,
            norm.eps,
            norm.momentum,
            device=norm.weight.device,
            dtype=norm.weight.dtype,
        )
        self.synthetic.load_state_dict(norm.state_dict())
        self.synthetic.bias.requires_grad_(norm.bias.requires_grad)
        self.split: Split | None = None
        self.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.split is None:
            return self._plain(self, input)
        real, rows, live = self.split
        if len(input) != rows:
            raise ValueError(f"{len(input)} rows where the split has {rows}")
        parts = (input[:real], input[real:])
        norms = (self, self.synthetic)
        done = [self._part(n, x, on) for n, x, on in zip(norms, parts, live, strict=True)]
        return torch.cat(done)

    def _part(self, norm: SyncBatchNorm, x: Tensor, live: bool) -> Tensor:
        if live:
            return self._plain(norm, x)
        if not len(x):
            return x
        stats = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        return F.batch_norm(x, *stats, training=False, eps=norm.eps)

    def _plain(self, norm: SyncBatchNorm, x: Tensor) -> Tensor:
        own = SyncBatchNorm if self.sync else nn.modules.batchnorm._BatchNorm
        return own.forward(norm, x)


def convert_domain_bn(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm below `module`, synchronised ones too, by a DomainBatchNorm.

    In place; returns the module. The real domain has the parameters that were there, as the same
    objects; the synthetic one begins as a copy. Make the optimizer afterwards. Errors: ValueError.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(parent, DomainBatchNorm):
                continue
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(parent, name, DomainBatchNorm(child))
    return module


def domain_norms(module: nn.Module) -> list[DomainBatchNorm]:
    """All of a module."""
    return [part for part in module.modules() if isinstance(part, DomainBatchNorm)]


def by_domain(model: nn.Module, x: Tensor, synthetic: Tensor) -> Tensor:
    """`model(x)` with norms that tell real rows from synthetic ones; rows stay in their order.

    x: [N, ...]; synthetic: bool [N] on the CPU, so that no device has to be waited for. The model
    must treat rows independently, its norms apart. Under several ranks all must call it together.
    Errors: ValueError for a mask that is none, or a model without DomainBatchNorm.
    """
    if synthetic.dtype != torch.bool or synthetic.shape != (len(x),) or synthetic.is_cuda:
        raise ValueError(
            f"which rows are synthetic: bool [{len(x)}] on the CPU, got {synthetic.dtype} "
            f"{list(synthetic.shape)} on {synthetic.device}"
        )
    norms = domain_norms(model)
    if not norms:
        raise ValueError("the model has no norms with domains: convert_domain_bn")
    order = torch.argsort(synthetic.to(torch.uint8), stable=True)
    count = int(synthetic.sum())
    rows = torch.tensor([len(x) - count, count])
    if norms[0].sync:
        rows = distributed.all_reduce_sum(rows)
    split = Split(len(x) - count, len(x), (bool(rows[0] > 1), bool(rows[1] > 1)))
    for norm in norms:
        norm.split = split
    try:
        z = model(x[order.to(x.device, non_blocking=True)])
    finally:
        for norm in norms:
            norm.split = None
    return z[torch.argsort(order).to(x.device, non_blocking=True)]


def real_state(module: nn.Module) -> dict[str, Tensor]:
    """state_dict without the synthetic domain: that of the same network with plain norms."""
    return {name: t for name, t in module.state_dict().items() if _INNER not in f".{name}"}


def both_domains(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The state_dict of a network with plain norms as one of `module`, whose norms have domains:
    the synthetic one is as the real one. A module without domains has the same state."""
    synthetic = {
        name: state[plain]
        for name in module.state_dict()
        if _INNER in f".{name}" and (plain := f".{name}".replace(_INNER, ".")[1:]) in state
    }
    return {**synthetic, **state}
