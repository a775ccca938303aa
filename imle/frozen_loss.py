"""ResolutionLoss as a search needs it: fixed weights, no gradient, very many rows.

With narrow generators the loss is most of a search (VGG16 takes 3.1 GFLOP for outputs of 32 and 64,
a generator of the `cpu-small` widths 0.9), and on a CPU a third of that was spent on feature maps
that had left the cache between one elementwise operation and the next. So, on a CPU, the shallow
stages run in groups of rows whose map takes a few MB, and each map is compared with its target
while it is there; the deep stages, where weights outweigh maps, run on all rows at once. Only the
pooled input of the next stage is kept of a map.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imle.losses import LossTarget, ResolutionLoss, cell_means, check_pair
from imle.perceptual import _CONVS_PER_STAGE, VGG16Features, check_images

_MAP_BYTES = 8 << 20  # of a stage in float32 on a CPU; 2 to 16 MB measured alike (2 MB of L2)


class _Stage(nn.Module):
    """The convolutions between two poolings: w0, b0, w1, ..., and the weight of each channel."""

    channel_weight: Tensor

    def __init__(self, convs: list[tuple[Tensor, Tensor]], channel_weight: Tensor) -> None:
        super().__init__()
        self.count = len(convs)
        for k, (weight, bias) in enumerate(convs):
            self.register_buffer(f"w{k}", weight)
            self.register_buffer(f"b{k}", bias)
        self.register_buffer("channel_weight", channel_weight)

    def forward(self, h: Tensor) -> Tensor:
        for k in range(self.count):
            h = F.conv2d(h, getattr(self, f"w{k}"), getattr(self, f"b{k}"), padding=1).relu_()
        return h


class FrozenResolutionLoss(nn.Module):
    """Copy of a ResolutionLoss for one search phase, with the same `prepare` and call.

    Convolutions run in `dtype`, everything else in float32; in float32 the values are those of the
    original up to rounding. It does not follow later changes of the original.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self, loss: ResolutionLoss, dtype: torch.dtype = torch.float32, channels_last: bool = True
    ) -> None:
        super().__init__()
        self.alpha, self.dtype = loss.alpha, dtype
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.scale_of = loss._layer_scale
        vgg = loss.features
        self.register_buffer("shift", vgg.shift.detach())
        self.register_buffer("scale", vgg.scale.detach())
        stages = []
        for layer, convs in enumerate(_stages(vgg)):
            copies = [
                (
                    weight.detach().to(dtype, copy=True).contiguous(memory_format=self.format),
                    bias.detach().to(dtype, copy=True),
                )
                for weight, bias in convs
            ]
            # sum_c (root_c d_c)^2 = sum_c root_c^2 d_c^2: maps are compared before weighting
            root = getattr(vgg, f"root{layer}").detach().flatten()
            stages.append(_Stage(copies, root * root))
        self.stages = nn.ModuleList(stages)
        self.requires_grad_(False)

    @torch.no_grad()
    def prepare(self, y: Tensor) -> LossTarget:
        """Normalised, unweighted feature maps of the targets [B, 3, H, W]."""
        maps: list[Tensor] = []
        h = self._input(y)
        for layer, stage in enumerate(self.stages):
            h = stage(h)
            f = h.float()
            maps.append(f / _length(f))
            if layer < len(self.stages) - 1:
                h = F.max_pool2d(h, 2)
        return LossTarget(y, tuple(maps))

    @torch.no_grad()
    def forward(self, fx: Tensor, target: Tensor | LossTarget) -> Tensor:
        """Combined loss per row [B*K], as ResolutionLoss gives it."""
        if not isinstance(target, LossTarget):
            target = self.prepare(target)
        total = self.alpha * self._pixels(fx, target).mean((2, 3, 4)).flatten()
        for at, d, weight in self._differences(fx, target):
            total[at] += d.sum((2, 3)) @ weight
            del d  # before the next stage runs
        return total

    @torch.no_grad()
    def maps(self, fx: Tensor, target: Tensor | LossTarget, cells: int) -> Tensor:
        """The combined loss of each cell [B, K, cells, cells], as ResolutionLoss gives it."""
        if not isinstance(target, LossTarget):
            target = self.prepare(target)
        pixels = self._pixels(fx, target).mean(2).flatten(0, 1)
        total = self.alpha * cell_means(pixels, cells)
        for at, d, weight in self._differences(fx, target):
            positions = d[0, 0].numel()
            # a product over channels, in whichever of the two layouts the map has
            at_position = d.movedim(1, 3) @ (positions * weight)
            del d  # before the next stage runs
            total[at] += cell_means(at_position, cells)
        return total.unflatten(0, (len(target.y), -1))

    def _pixels(self, fx: Tensor, target: LossTarget) -> Tensor:
        """Squared differences of the images, [B, K, C, H, W]."""
        check_pair(fx, target.y)
        difference = fx.float().unflatten(0, (len(target.y), -1)) - target.y.float()[:, None]
        return difference.square_()

    def _differences(
        self, fx: Tensor, target: LossTarget
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Rows, squared differences of their maps [rows, C, H, W], weight of a channel [C]."""
        batch = len(target.y)
        times = len(fx) // batch
        h = self._input(fx)
        for layer, stage in enumerate(self.stages):
            last = layer == len(self.stages) - 1
            there = target.features[layer]
            weight = self.scale_of(layer, there) * cast(_Stage, stage).channel_weight
            pooled = []
            for at, images in self._groups(there, batch, times):
                f = stage(h[at])
                if not last:
                    pooled.append(F.max_pool2d(f, 2))
                yield at, _square_distance(f.float(), there[images]), weight
            if not last:
                h = pooled[0] if len(pooled) == 1 else torch.cat(pooled)

    def _groups(self, there: Tensor, batch: int, times: int) -> Iterator[tuple[slice, slice]]:
        """Rows to do at once and their targets: parts of one image, or whole images."""
        if there.is_cuda:
            yield slice(0, batch * times), slice(0, batch)
            return
        limit = max(1, _MAP_BYTES // (there[0].numel() * 4))
        if times >= limit:
            for b in range(batch):
                for k in range(0, times, limit):
                    yield slice(b * times + k, b * times + min(k + limit, times)), slice(b, b + 1)
            return
        step = limit // times
        for b in range(0, batch, step):
            end = min(b + step, batch)
            yield slice(b * times, end * times), slice(b, end)

    def _input(self, x: Tensor) -> Tensor:
        check_images(x)
        h = (2 * x.float() - 1 - self.shift) / self.scale
        return h.to(self.dtype, memory_format=self.format)


def frozen_loss(loss_fn: Any, dtype: torch.dtype, channels_last: bool) -> Any:
    """What a search phase should call instead of loss_fn, or None where loss_fn itself will do."""
    # a subclass may compute something else
    if type(loss_fn) is ResolutionLoss:
        return FrozenResolutionLoss(loss_fn, dtype, channels_last)
    return None


def _stages(vgg: VGG16Features) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Weights and biases of the convolutions of each stage."""
    k = 0
    for count in _CONVS_PER_STAGE:
        yield [(getattr(vgg, f"w{i}"), getattr(vgg, f"b{i}")) for i in range(k, k + count)]
        k += count


def _length(f: Tensor) -> Tensor:
    """Length over channels at each position of f [N, C, H, W], as LPIPS has it."""
    squared = torch.linalg.vector_norm(f, dim=1, keepdim=True).square_()
    return squared.add_(1e-10).sqrt_().add_(1e-10)


def _square_distance(f: Tensor, there: Tensor) -> Tensor:
    """(f / length - there)^2 in the place of f [B*K, C, H, W]; there [B, C, H, W]."""
    d = f.div_(_length(f)).unflatten(0, (len(there), -1))
    d -= there[:, None]
    return d.square_().flatten(0, 1)
