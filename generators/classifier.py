"""A classifier of noised images, whose gradient guides sampling (`diffusion.ddpm_guidance`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from generators.base import build, in_words
from generators.files import is_ours
from generators.foreign.contents import made, open_contents, weights_in
from models.ddpm.classifier import Classifier
from models.ddpm.configs import LEVELS
from storage.errors import CheckpointError, UsageError, one_line
from storage.files import expanded
from storage.find import identity
from storage.foreign.modules import reading
from storage.snapshot import Snapshot, load_snapshot, refuse_not_finite
from storage.torchfile import load_script

KIND = "classifier"
PROGRAM = "file:"  # in front of the path of a TorchScript program
_DEPTHS = range(1, 5)
_SIZES = (32, 16, 8)  # of feature maps with attention, in the release


class NoisedClassifier:
    """classifier(x [B, C, H, W], t [B]) -> logits [B, K], where t is what the diffusion network is
    told. classes: K. content: what tells its file from others."""

    def __init__(self, net: Any, classes: int, content: str) -> None:
        self.net, self.classes, self.content = net, classes, content

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(x, t)


def open_classifier(
    word: str, channels: int, side: int, device: torch.device | str
) -> NoisedClassifier:
    """The classifier in a snapshot of kind "classifier" or a file of guided-diffusion's, read as
    data, or `file:PROGRAM`, one of torch.jit.save, for images of so many channels and pixels.

    Errors: UsageError for one that does not take such images, CheckpointError.
    """
    program = word.startswith(PROGRAM)
    file = expanded(word.removeprefix(PROGRAM))
    if not file.is_file():
        wrong = "a folder; a file is wanted" if file.is_dir() else "no such file"
        raise CheckpointError(f"--classifier {word}: {wrong}")
    net = (load_script(file) if program else _opened(file)).to(device)
    x = torch.zeros(1, channels, side, side, device=device)
    try:
        with torch.no_grad():
            logits = net(x, torch.zeros(1, dtype=torch.int64, device=device))
    except (RuntimeError, ValueError, TypeError) as error:
        raise UsageError(
            f"--classifier {word} does not take x {list(x.shape)} and t [1]: {one_line(error, 160)}"
        ) from None
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 1:
        raise UsageError(f"--classifier {word} made no logits [B, K] of x and t")
    return NoisedClassifier(net, logits.shape[1], identity(file))


def _opened(file: Path) -> nn.Module:
    if is_ours(file):
        snapshot = load_snapshot(file)
        if snapshot.kind != KIND:
            raise CheckpointError(f"{file} holds {in_words(snapshot.kind)}, no classifier")
        refuse_not_finite(snapshot.state_dict, file)
        return build(Classifier, snapshot)
    with reading(file, "classifier"):
        state = {name: made(entry) for name, entry in weights_in(open_contents(file).value).items()}
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        snapshot = Snapshot(state, KIND, {"net": classifier_arguments(shapes)}, {})
    refuse_not_finite(state, file)
    return build(Classifier, snapshot)


def classifier_arguments(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The arguments of a classifier of guided-diffusion's release, which has one for each size of
    ImageNet, by names and shapes of its weights. Errors: ValueError."""
    first, last = shapes.get("input_blocks.0.0.weight"), shapes.get("out.2.c_proj.weight")
    width = shapes.get("time_embed.0.weight")
    if first is None or last is None or width is None:
        raise ValueError("holds no classifier of guided-diffusion")
    for size, levels in LEVELS.items():
        for depth in _DEPTHS:
            asked: dict[str, Any] = {
                "image_size": size, "in_channels": first[1], "num_classes": last[0],
                "model_channels": width[1], "channel_mult": levels, "num_res_blocks": depth,
                "attention_resolutions": tuple(size // s for s in _SIZES),
            }  # fmt: skip
            with torch.device("meta"):
                ours = Classifier(**asked).state_dict()
            if {name: tuple(value.shape) for name, value in ours.items()} == shapes:
                return asked
    raise ValueError("is a classifier of no size that guided-diffusion released")
