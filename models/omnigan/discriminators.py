"""omnigan's discriminators of patches: D["a"]["r" | "s"] and D["t"]["f" | "n"]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from models.omnigan.arguments import made_of
from models.omnigan.domains import FLOODS, REALITIES, checked_tasks
from models.omnigan.norms import make_norm, spectral

# Of one scale a map; of several, a list of scales, each the list of its layers' maps
Prediction = Tensor | list[list[Tensor]]


@dataclass(frozen=True)
class Patches:
    """A PatchGAN's shape: n_layers convolutions of stride 2, one of stride 1, and the last to one
    channel; all 4x4, padded by 1, under spectral normalisation. Channels are ndf times 1, 2, 4, 8,
    8, ... norm: instance, batch, layer, none. use_sigmoid: numbers in [0, 1], for the least-squares
    loss."""

    input_nc: int = 3
    ndf: int = 64
    n_layers: int = 3
    norm: str = "instance"
    use_sigmoid: bool = False

    def layers(self) -> list[list[nn.Module]]:
        """Its layers, in groups. Errors: ValueError."""
        if self.n_layers < 1:
            raise ValueError(f"n_layers {self.n_layers}: a discriminator has at least 1")
        bias = self.norm != "batch"  # its own shift would be the same thing
        width = self.ndf
        groups: list[list[nn.Module]] = [
            [spectral(nn.Conv2d(self.input_nc, width, 4, 2, 1)), nn.LeakyReLU(0.2)]
        ]
        for n in range(1, self.n_layers + 1):
            before, width = width, self.ndf * min(2**n, 8)
            stride = 2 if n < self.n_layers else 1
            conv = nn.Conv2d(before, width, 4, stride, 1, bias=bias)
            groups.append([spectral(conv), make_norm(self.norm, width), nn.LeakyReLU(0.2)])
        groups.append([spectral(nn.Conv2d(width, 1, 4, 1, 1))])
        if self.use_sigmoid:
            groups[-1].append(nn.Sigmoid())
        return groups


class PatchDiscriminator(nn.Module):
    """A PatchGAN: [B, input_nc, H, W] -> a map [B, 1, about H / 2^n, W / 2^n] of unbounded numbers,
    each of which judges a patch (256 x 256 with n_layers 3: 30 x 30).

    Source: Isola et al. 2017; spectral normalisation: Miyato et al. 2018. Errors: ValueError.
    """

    def __init__(self, shape: Patches) -> None:
        super().__init__()
        self.model = nn.Sequential(*(layer for group in shape.layers() for layer in group))

    def forward(self, x: Tensor) -> Prediction:
        return self.model(x)


class _Scale(nn.Module):
    """A PatchGAN that gives the map of each group of its layers; the last is the prediction."""

    def __init__(self, groups: list[list[nn.Module]]) -> None:
        super().__init__()
        for i, group in enumerate(groups):
            self.add_module(f"model{i}", nn.Sequential(*group))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for group in self.children():
            x = group(x)
            maps.append(x)
        return maps


class MultiscaleDiscriminator(nn.Module):
    """num_D PatchGANs on the picture, on its half, and so on: a list of scales of lists of maps.

    The last map of each list is the prediction, those before are its features. Pictures are halved
    by averages of 3 x 3 that do not count what is outside. Source: Wang et al. 2018 (pix2pixHD).
    Errors: ValueError.
    """

    def __init__(self, shape: Patches, num_D: int = 3) -> None:
        super().__init__()
        if num_D < 1:
            raise ValueError(f"num_D {num_D}: a discriminator has at least 1 scale")
        for i in range(num_D):
            self.add_module(f"discriminator_{i}", _Scale(shape.layers()))

    def forward(self, x: Tensor) -> Prediction:
        scales = []
        for i, scale in enumerate(self.children()):
            if i:
                x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
            scales.append(scale(x))
        return scales


def make_discriminator(
    input_nc: int = 3,
    ndf: int = 64,
    n_layers: int = 3,
    norm: str = "instance",
    use_sigmoid: bool = False,
    num_D: int = 1,
) -> nn.Module:
    """A PatchDiscriminator, or with num_D above 1 a MultiscaleDiscriminator. Errors: ValueError."""
    shape = Patches(input_nc, ndf, n_layers, norm, use_sigmoid)
    return PatchDiscriminator(shape) if num_D == 1 else MultiscaleDiscriminator(shape, num_D)


def make_discriminators(
    tasks: str | tuple[str, ...] = "adhstw",
    *,
    a: Mapping[str, Any] | None = None,
    t: Mapping[str, Any] | None = None,
) -> nn.ModuleDict:
    """D["a"]["r" | "s"], D["t"]["f" | "n"], those whose task is there; a, t: arguments of
    `make_discriminator`. Errors: ValueError."""
    wanted = checked_tasks(tasks)
    heads = {"a": (REALITIES, a), "t": (FLOODS, t)}
    return nn.ModuleDict(
        {
            task: nn.ModuleDict(
                {name: made_of(make_discriminator, given or {}, f"dis.{task}") for name in names}
            )
            for task, (names, given) in heads.items()
            if task in wanted
        }
    )
