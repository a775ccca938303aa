"""The encoder of Deeplabv2: a dilated ResNet-101, whose weights ADVENT has published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.omnigan.blocks import ResBlocks
from storage.errors import CheckpointError
from storage.torchfile import load_foreign

# (blocks, width, stride, dilation) of each layer
_LAYERS = ((3, 64, 1, 1), (4, 128, 2, 1), (23, 256, 1, 2), (3, 512, 1, 4))
# Means of blue, green and red that the published weights were trained with, pictures in 0 .. 255
_MEAN = (104.00698793, 116.66876762, 122.67891434)


class Bottleneck(nn.Module):
    """1x1 (with the stride), 3x3 (dilated), 1x1 to four times the width; around it the input."""

    def __init__(self, inplanes: int, planes: int, stride: int, dilation: int, project: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.downsample: nn.Module = nn.Identity()
        if project:
            projection = nn.Conv2d(inplanes, 4 * planes, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(4 * planes))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class DeeplabEncoder(nn.Module):
    """Pictures [B, 3, H, W] in [-1, 1] -> [B, proj_dim, H / 8, W / 8].

    ResNet-101 of Deeplabv2 (Chen et al. 2016) without its classifier, a 1x1 projection, and behind
    it `n_res` residual blocks. Batch normalisation is always in evaluation and its scales are not
    trained, so that pretrained statistics stay. Pictures are brought to what the published weights
    know: blue, green, red, 0 to 255, less a mean. Without `load_pretrained` it starts at random.
    """

    n_downsample = 3
    mean: Tensor

    def __init__(
        self,
        proj_dim: int = 256,
        n_res: int = 4,
        res_norm: str = "instance",
        activ: str = "lrelu",
        pad_type: str = "reflect",
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for i, (blocks, planes, stride, dilation) in enumerate(_LAYERS, 1):
            made = []
            for k in range(blocks):
                made.append(
                    Bottleneck(channels, planes, 1 if k else stride, dilation, project=not k)
                )
                channels = 4 * planes
            self.add_module(f"layer{i}", nn.Sequential(*made))
        self.project = nn.Conv2d(channels, proj_dim, 1)
        self.resblocks = ResBlocks(n_res, proj_dim, res_norm, activ, pad_type)
        self.output_dim = proj_dim
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self._start()

    def _start(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and not name.startswith(("project", "resblocks")):
                nn.init.normal_(module.weight, std=0.01)
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)

    def train(self, mode: bool = True) -> DeeplabEncoder:
        """As of any module, but batch normalisation stays in evaluation."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        x = (x.flip(1) + 1) * 127.5 - self.mean
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        for i in range(1, len(_LAYERS) + 1):
            x = self.get_submodule(f"layer{i}")(x)
        return self.resblocks(self.project(x))


def published_names(state: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of ADVENT's network that this one has, under our names.

    Their names have one component more in front; `layer5` is a classifier, which is left out.
    Errors: ValueError for weights that are missing or of other shapes.
    """
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        short = name.split(".", 1)[1] if "." in name and name not in own else name
        if short.startswith("layer5") or short not in own:
            continue
        found[short] = value
    body = [n for n in own if not n.startswith(("project", "resblocks"))]
    missing = [n for n in body if n not in found and not n.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(f"{len(missing)} weights are missing, {missing[0]} the first")
    wrong = [n for n, value in found.items() if value.shape != own[n].shape]
    if wrong:
        raise ValueError(
            f"{wrong[0]} is {tuple(found[wrong[0]].shape)}, not {tuple(own[wrong[0]].shape)}"
        )
    return found


def load_pretrained(encoder: nn.Module, path: str | Path) -> int:
    """Take a Deeplabv2 encoder's body from a file of ADVENT's weights; how many tensors it was.

    The file is read as data. Its classifier is left out, our projection and residual blocks stay
    as they are. Errors: CheckpointError for a file that is missing, damaged or of something else,
    and for an encoder of another kind.
    """
    if not isinstance(encoder, DeeplabEncoder):
        raise CheckpointError(
            f"{path}: pretrained weights are for the encoder deeplabv2, and this one is MUNIT's"
        )
    state = load_foreign(Path(path))
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: holds no weights of a network")
    state = state.get("state_dict", state)
    try:
        found = published_names(state, encoder.state_dict())
    except ValueError as error:
        raise CheckpointError(f"{path}: is no Deeplabv2 of ADVENT: {error}") from None
    encoder.load_state_dict(found, strict=False)
    return len(found)
