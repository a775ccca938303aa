"""What every extractor is to whoever measures with it: pictures in, features and logits out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from evaluation.extractors.resizing import POLICIES
from evaluation.features import fingerprint
from storage.errors import CheckpointError, UsageError, one_line
from storage.torchfile import load_foreign

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_SIDE = 8192  # pixels, as of networks that draw (`storage.arguments.Side`)
# Keys under which checkpoints of others keep the weights of the network.
_WRAPPERS = ("state_dict", "model_state_dict", "model")


class Outputs(NamedTuple):
    """features: float32 [N, d]. logits: float32 [N, C], None of a network without classes."""

    features: Tensor
    logits: Tensor | None


@dataclass(frozen=True)
class Request:
    """What is asked of a kind of extractor.

    name: what comes after its kind (`torchvision:NAME`); settings: after that (`,side=64`).
    weights: the file; random: a seed, for random weights instead. resize: a policy; None: the
    kind's own. order: columns of the logits, None as they are.
    """

    name: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    weights: Path | None = None
    random: int | None = None
    resize: str | None = None
    order: Tensor | None = None
    device: torch.device | str = "cpu"


def side_of(text: str, word: str) -> int:
    """The side that an extractor `word` is asked to see pictures at. Errors: UsageError."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= MAX_SIDE:
        raise UsageError(f"{word},side={text[:40]}: a number of pixels, 1 to {MAX_SIDE}")
    return int(text)


class Extractor:
    """A frozen network as a function of pictures.

    name: in names of metrics; of one with random weights it begins with "random_". run: pictures
    prepared [N, 3, side, side] -> `Outputs` (of the net, on its device). prepare: pictures uint8
    [N, 3, H, W] on the device -> what `run` takes. about: what stands beside figures, JSON values:
    resize, side, weights, sha256. rows: where the net takes so many pictures at a time and no
    others (an exported program may).
    """

    def __init__(
        self,
        name: str,
        net: nn.Module,
        run: Callable[[Tensor], Outputs],
        prepare: Callable[[Tensor], Tensor],
        about: dict[str, Any],
        *,
        device: torch.device | str = "cpu",
        rows: int | None = None,
    ) -> None:
        self.name, self.run, self.prepare, self.about = name, run, prepare, about
        self.net = net.eval().requires_grad_(False)
        self.device = torch.device(device)
        self.rows = rows

    @torch.no_grad()
    def __call__(self, images: Sequence[Tensor], batch: int | None = None) -> Outputs:
        """Outputs of pictures uint8 [3, H, W] of any sizes, on the device, in their order.

        batch: rows that the network is given at a time (default: all); a last part that has fewer
        is filled up with its last picture, so that the network computes on one shape always.
        Errors: ValueError for what is no picture, CheckpointError for features that are none.
        """
        _check(images)
        prepared = self._prepared(images)
        size = self.rows or batch or len(prepared)
        parts: list[Outputs] = []
        for part in prepared.split(size):
            spare = size - len(part)
            filled = torch.cat([part, part[-1:].expand(spare, -1, -1, -1)]) if spare else part
            features, logits = self.run(filled)
            if features.ndim != 2 or len(features) != size or not features.is_floating_point():
                raise CheckpointError(
                    f"{self.name} gives {features.dtype} {list(features.shape)} for {size} "
                    f"pictures instead of floats [{size}, d]"
                )
            n = len(part)
            parts.append(
                Outputs(features[:n].float(), None if logits is None else logits[:n].float())
            )
        given = [p.logits for p in parts if p.logits is not None]
        return Outputs(torch.cat([p.features for p in parts]), torch.cat(given) if given else None)

    def _prepared(self, images: Sequence[Tensor]) -> Tensor:
        """All pictures as the net takes them; those of one size are resized together."""
        groups: dict[torch.Size, list[int]] = {}
        for i, image in enumerate(images):
            groups.setdefault(image.shape, []).append(i)
        rows: list[Tensor | None] = [None] * len(images)
        for members in groups.values():
            made = self.prepare(torch.stack([images[i] for i in members]).to(self.device))
            for i, row in zip(members, made, strict=True):
                rows[i] = row
        found = [row for row in rows if row is not None]
        if len({row.shape for row in found}) > 1:
            raise ValueError(
                f"{self.name} takes pictures as they come, and these are of different sizes: "
                "give a side (file:PATH,side=N), or a resolution for all"
            )
        return torch.stack(found)


def _check(images: Sequence[Tensor]) -> None:
    if not len(images):
        raise ValueError("no pictures: there is nothing to take features of")
    for image in images:
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(
                f"a picture of {image.dtype} {list(image.shape)}: uint8 [3, H, W] is needed"
            )


def policy(asked: str | None, own: str) -> tuple[Callable[[Tensor, int], Tensor], str]:
    """(resize, name of the policy) that is asked for, or a kind's own. Errors: UsageError."""
    name = asked or own
    if name not in POLICIES:
        raise UsageError(f"resize policy {name!r} is none of {', '.join(POLICIES)}")
    return POLICIES[name].resize, name


def facts(request: Request, net: nn.Module, side: int | None, resize: str) -> dict[str, Any]:
    """`Extractor.about` of a network with its weights in it."""
    weights = "none" if request.weights is None else request.weights.name
    return {
        "resize": resize,
        "side": side,
        "weights": weights if request.random is None else f"random, seed {request.random}",
        "sha256": fingerprint(net),
    }


def metric_name(name: str, request: Request) -> str:
    """The extractor's name in names of metrics: random weights say so there."""
    return name if request.random is None else f"random_{name}"


def seeded(make: Callable[[], nn.Module], seed: int | None) -> nn.Module:
    """A network made with its weights drawn from `seed`, the global generator left as it was.

    On the CPU, so that the weights are the same wherever it runs afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0 if seed is None else seed)
        return make()


def state_of(path: Path) -> dict[str, Tensor]:
    """Tensors of a weights file (.pth, .safetensors), of a training checkpoint the network's.

    Nothing in the file is run. Errors: CheckpointError.
    """
    value: Any = load_foreign(path)
    for key in _WRAPPERS:
        if isinstance(value.get(key), dict):
            value = value[key]
            break
    state = {str(k).removeprefix("module."): v for k, v in value.items() if isinstance(v, Tensor)}
    if not state:
        raise CheckpointError(f"{path}: no weights in it")
    return state


def load_into(net: nn.Module, state: dict[str, Tensor], path: Path, what: str) -> None:
    """Give a network exactly these weights. Errors: CheckpointError with what does not fit."""
    try:
        lost = net.load_state_dict(state, strict=False)
    except RuntimeError as error:  # of other shapes
        raise CheckpointError(f"{path} is not of {what}: {one_line(error, 200)}") from None
    for word, keys in (("lacks", lost.missing_keys), ("has besides", lost.unexpected_keys)):
        if keys:
            shown = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
            raise CheckpointError(f"{path} is not of {what}: it {word} {shown}")


def needs_weights(request: Request, what: str) -> Path:
    """The weights file. Errors: UsageError without one."""
    if request.weights is None:
        raise UsageError(f"{what} needs a weights file: --weights {what}=FILE, or --weights random")
    if not request.weights.is_file():
        raise UsageError(f"{what}: there is no weights file {request.weights}")
    return request.weights
