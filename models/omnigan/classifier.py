"""Which of the four domains a latent is of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from models.omnigan.domains import DOMAINS
from models.omnigan.norms import group_norm

LOSSES = ("cross_entropy", "l1", "l2")


class _Halve(nn.Module):
    """Maximum over 2 x 2, or over what there is where a side is 1."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, (min(2, x.shape[-2]), min(2, x.shape[-1])))


class _BatchNorm(nn.BatchNorm2d):
    """Batch normalisation; a batch with one number a channel, which has no statistics, is
    normalised by the running ones."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0, self.eps
            )
        return super().forward(x)


class BasicBlock(nn.Module):
    """ResNet's block of two 3x3 convolutions, with a projected way around where channels differ."""

    def __init__(self, inplanes: int, planes: int, norm: str) -> None:
        super().__init__()

        def normed(channels: int) -> nn.Module:
            return group_norm(channels) if norm == "group" else _BatchNorm(channels)

        self.conv1 = nn.Conv2d(inplanes, planes, 3, padding=1, bias=False)
        self.bn1 = normed(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = normed(planes)
        self.downsample: nn.Module = nn.Identity()
        if inplanes != planes:
            projection = nn.Conv2d(inplanes, planes, 1, bias=False)
            self.downsample = nn.Sequential(projection, normed(planes))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


class DomainClassifier(nn.Module):
    """Latents [B, c, h, w] of any size -> one number for each of the domains, [B, 4].

    latent_shape: (c, h, w) or (c,), c >= 4. Logits for loss cross_entropy, and probabilities for l1
    and l2, whose targets are one-hot. norm: batch, as published, or group, for small batches. The
    classes are DOMAINS in their order. Errors: ValueError.
    """

    def __init__(
        self,
        latent_shape: Sequence[int],
        loss: str = "cross_entropy",
        norm: str = "batch",
    ) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"loss {loss!r} of the classifier: it is one of {', '.join(LOSSES)}")
        if norm not in ("batch", "group"):
            raise ValueError(f"norm {norm!r} of the classifier: it is batch or group")
        c = latent_shape[0]
        if c < 4:
            raise ValueError(f"latents of {c} channels: the classifier needs at least 4")
        layers: list[Any] = [
            _Halve(), BasicBlock(c, c // 2, norm), _Halve(), BasicBlock(c // 2, c // 4, norm),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c // 4, len(DOMAINS)),
        ]  # fmt: skip
        self.model = nn.Sequential(*layers)
        self.softmax = loss != "cross_entropy"

    def forward(self, z: Tensor) -> Tensor:
        out = self.model(z)
        return out.softmax(1) if self.softmax else out
