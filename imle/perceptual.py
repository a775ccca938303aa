"""VGG16 features as LPIPS compares them.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (2018), eq.
1, v0.1: feature maps after relu1_2, 2_2, 3_3, 4_3 and 5_3, each divided by its length over
channels at every position and multiplied by the square root of a learnt weight per channel.
Nothing is ever downloaded here: backbone weights come from a local file or, explicitly, from a
seed.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imle.fused_distance import EPS
from storage.errors import CheckpointError
from storage.torchfile import load_torch

CHANNELS = (64, 128, 256, 512, 512)  # of the five maps
MIN_SIDE = 16  # four 2x2 poolings before the last map
_CONVS_PER_STAGE = (2, 2, 3, 3, 3)
# Index of each convolution in torchvision's vgg16().features
_INDICES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


def lpips_lins() -> list[Tensor]:
    """The five learnt channel weights `[C]` of LPIPS v0.1 (VGG), shipped with `lpips`."""
    spec = importlib.util.find_spec("lpips")
    if spec is None or spec.origin is None:
        raise ValueError("the LPIPS channel weights are missing; install the `lpips` package")
    path = Path(spec.origin).parent / "weights" / "v0.1" / "vgg.pth"
    state = load_torch(path)
    return [state[f"lin{i}.model.1.weight"].flatten() for i in range(5)]


class _Cast(NamedTuple):
    """Weights as autocast asked for them last: in which format, of which tensors, as they were."""

    dtype: torch.dtype
    of: list[Tensor]
    versions: list[int]
    made: list[tuple[Tensor, Tensor]]


class VGG16Features(nn.Module):
    """Images `[N, 3, H, W]` in [0, 1] -> five float32 maps `[N, C_l, H_l, W_l]`, see above.

    Args:
        weights: path of torchvision's vgg16 state dict (.pth, loaded weights_only), or such a dict.
        random_seed: instead of weights: He-normal random ones, the same on every machine.
        lins: five channel weights `[C_l]` (any shape of C_l entries), default those of LPIPS v0.1.

    All tensors are buffers outside the state dict: they never train and are in no checkpoint.
    Convolutions follow autocast, for which weights are cast once and not in every call;
    normalisation is in float32. Sides must be at least 16.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        weights: str | Path | Mapping[str, Tensor] | None = None,
        *,
        random_seed: int | None = None,
        lins: Sequence[Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.is_random = weights is None
        if weights is not None and random_seed is None:
            state = _read_weights(weights)
        elif weights is None and random_seed is not None:
            state = _random_weights(random_seed)
        else:
            raise ValueError("give VGG16 weights or a random_seed for random ones (exactly one)")
        for k, index in enumerate(_INDICES):
            self.register_buffer(f"w{k}", state[f"features.{index}.weight"], persistent=False)
            self.register_buffer(f"b{k}", state[f"features.{index}.bias"], persistent=False)
        for layer, lin in enumerate(lpips_lins() if lins is None else lins):
            if lin.numel() != CHANNELS[layer] or (lin < 0).any():
                raise ValueError(f"lins[{layer}] must be {CHANNELS[layer]} weights >= 0")
            root = lin.detach().float().reshape(1, -1, 1, 1).sqrt()
            self.register_buffer(f"root{layer}", root, persistent=False)
        self.register_buffer("shift", torch.tensor(_SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE)[:, None, None], persistent=False)
        self._cast: _Cast | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cast": None}

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self._normalise(h.float(), layer) for layer, h in enumerate(self.maps(x))]

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        """The five maps `[N, C_l, H_l, W_l]` as they are, in the format of the convolutions."""
        check_images(x)
        weights = self._weights(x.device.type)
        h, k = (2 * x - 1 - self.shift) / self.scale, 0
        for stage, count in enumerate(_CONVS_PER_STAGE):
            if stage:
                h = F.max_pool2d(h, 2)
            for weight, bias in weights[k : k + count]:
                h = F.relu_(F.conv2d(h, weight, bias, padding=1))
            k += count
            yield h

    def _weights(self, device: str) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of each convolution, in the format that autocast asks for."""
        own = [(getattr(self, f"w{k}"), getattr(self, f"b{k}")) for k in range(len(_INDICES))]
        flat = [tensor for pair in own for tensor in pair]
        if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
            return own
        if any(t.is_inference() or t.dtype != torch.float32 for t in flat):
            return own
        dtype, versions = torch.get_autocast_dtype(device), [t._version for t in flat]
        kept = self._cast
        if (
            kept is None
            or (kept.dtype, kept.versions) != (dtype, versions)
            or any(one is not other for one, other in zip(kept.of, flat, strict=True))
        ):
            # Casts of inference mode could not be used in training afterwards.
            with torch.inference_mode(False), torch.no_grad():
                made = [(weight.to(dtype), bias.to(dtype)) for weight, bias in own]
            self._cast = kept = _Cast(dtype, flat, versions, made)
        return kept.made

    def _normalise(self, f: Tensor, layer: int) -> Tensor:
        length = torch.sqrt((f * f).sum(1, keepdim=True) + EPS) + EPS
        return f / length * getattr(self, f"root{layer}")


def check_images(x: Tensor) -> None:
    """ValueError unless x is a batch of RGB images that VGG16 can take."""
    if x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(f"perceptual features need images [N, 3, H, W], got {list(x.shape)}")
    if min(x.shape[2:]) < MIN_SIDE:
        raise ValueError(
            f"images of {x.shape[2]} x {x.shape[3]} are too small for VGG16 features: "
            f"every level's output must be at least {MIN_SIDE} x {MIN_SIDE} (check --res)"
        )


def _random_weights(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state, in_nc, k = {}, 3, 0
    for count, out_nc in zip(_CONVS_PER_STAGE, CHANNELS, strict=True):
        for _ in range(count):
            weight = torch.randn(out_nc, in_nc, 3, 3, generator=generator)
            state[f"features.{_INDICES[k]}.weight"] = weight * math.sqrt(2 / (9 * in_nc))
            state[f"features.{_INDICES[k]}.bias"] = torch.zeros(out_nc)
            in_nc, k = out_nc, k + 1
    return state


def _read_weights(weights: str | Path | Mapping[str, Tensor]) -> dict[str, Tensor]:
    source: str | Path = "the given state dict"
    if not isinstance(weights, Mapping):
        path = source = Path(weights)
        if not path.is_file():
            raise ValueError(
                f"no VGG16 weights at {path}; place torchvision's vgg16 .pth file there"
            )
        try:
            weights = load_torch(path)
        except CheckpointError as error:
            said = str(error).removeprefix(f"{path}: ")
            raise ValueError(f"{path} is not a readable VGG16 weight file ({said})") from error
        if not isinstance(weights, Mapping):
            raise ValueError(f"{path} holds a {type(weights).__name__}, not a VGG16 state dict")
    state, in_nc, k = {}, 3, 0
    for count, out_nc in zip(_CONVS_PER_STAGE, CHANNELS, strict=True):
        for _ in range(count):
            shapes = {"weight": (out_nc, in_nc, 3, 3), "bias": (out_nc,)}
            for name, shape in shapes.items():
                key = f"features.{_INDICES[k]}.{name}"
                value = weights.get(key)
                if not isinstance(value, Tensor) or tuple(value.shape) != shape:
                    raise ValueError(f"{source} is not of torchvision's vgg16: no {key} {shape}")
                state[key] = value.detach().float().clone()
            in_nc, k = out_nc, k + 1
    return state
