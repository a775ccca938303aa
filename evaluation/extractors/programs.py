"""Networks as programs: TorchScript files, and `.pt2` of torch.export.

    file:PATH[,side=N][,input=uint8|unit|imagenet]

The program is called with pictures [N, 3, H, W]: whole numbers 0..255 as uint8 (input=uint8), or
float in [0, 1] (unit), or normalised as ImageNet's (imagenet). A `.pt2` says itself what it takes:
type, side, and the number of pictures at a time where that is fixed. It gives features [N, d], or
a tuple or dict whose first entry they are; `logits` of a dict are taken too. A program is run as
it is written: see `storage.foreign.programs` for what is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from evaluation.extractors.base import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Extractor,
    Outputs,
    Request,
    policy,
    side_of,
)
from evaluation.extractors.dinov2 import normalised
from storage.errors import CheckpointError, UsageError, one_line
from storage.files import hash_file
from storage.torchfile import load_exported, load_script

INPUTS = ("uint8", "unit", "imagenet")
ENDING = ".pt2"


class Program(NamedTuple):
    """net: the program. rows, side: what it takes and no other, None: any. input: of INPUTS."""

    net: nn.Module
    rows: int | None
    side: int | None
    input: str


def open_program(request: Request) -> Extractor:
    """A TorchScript or torch.export file as an extractor, named as the file.

    Errors: UsageError for settings that cannot be, CheckpointError for the file.
    """
    path = Path(request.name).expanduser()
    if request.random is not None:
        raise UsageError(
            f"file:{request.name}: a program has its weights; there are no random ones"
        )
    unknown = set(request.settings) - {"side", "input"}
    if unknown:
        raise UsageError(f"file:{request.name},{unknown.pop()}=: settings are side and input")
    if not path.is_file():
        raise UsageError(f"file:{request.name}: there is no such file")
    program = _exported(path) if path.suffix == ENDING else _script(path)
    side_word = request.settings.get("side", "")
    side = side_of(side_word, f"file:{request.name}") if side_word else program.side
    if program.side is not None and side != program.side:
        raise UsageError(f"{path.name} takes pictures of {program.side} px, not {side}")
    kind = request.settings.get("input", program.input)
    if kind not in INPUTS:
        raise UsageError(f"file:{request.name},input={kind}: one of {', '.join(INPUTS)}")
    resize, name = policy(request.resize, "clean")
    net = program.net.to(request.device) if path.suffix != ENDING else program.net
    about = {
        "resize": name if side is not None else "none: the program's own",
        "side": side,
        "weights": path.name,
        "sha256": hash_file(path),
        "input": kind,
    }
    return Extractor(
        path.stem.replace(".", "_"),
        _Still(net),
        lambda x: _outputs(net, x, path.name),
        _preparation(resize, side, kind, request.device),
        about,
        device=request.device,
        rows=program.rows,
    )


class _Still(nn.Module):
    """Holds a program, whose mode is fixed: an exported one refuses to be told of eval()."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self._held = [net]


def _preparation(
    resize: Callable[[Tensor, int], Tensor],
    side: int | None,
    kind: str,
    device: torch.device | str,
) -> Callable[[Tensor], Tensor]:
    def sized(images: Tensor, _: int = 0) -> Tensor:
        return images.float() if side is None else resize(images, side)

    if kind == "imagenet":
        return normalised(sized, side or 0, IMAGENET_MEAN, IMAGENET_STD, device)
    if kind == "unit":
        return lambda images: (sized(images) / 255).clamp(0, 1)
    return lambda images: images if side is None else sized(images).round().clamp(0, 255).byte()


def _outputs(net: nn.Module, x: Tensor, name: str) -> Outputs:
    try:
        made: Any = net(x)
    except Exception as error:  # whatever a program of others does
        raise CheckpointError(
            f"{name} cannot be run on {x.dtype} {list(x.shape)}: {one_line(error, 200)}"
        ) from None
    logits = made.get("logits") if isinstance(made, dict) else None
    if isinstance(made, dict):
        made = made.get("features", next(iter(made.values()), None))
    if isinstance(made, (tuple, list)) and made:
        logits = made[1] if len(made) > 1 and isinstance(made[1], Tensor) else None
        made = made[0]
    if not isinstance(made, Tensor):
        raise CheckpointError(f"{name} gives a {type(made).__name__} instead of features [N, d]")
    made = made.flatten(1) if made.ndim > 2 else made
    return Outputs(made, logits if logits is not None and logits.ndim == 2 else None)


def _script(path: Path) -> Program:
    return Program(load_script(path), None, None, "uint8")


def _exported(path: Path) -> Program:
    program = load_exported(path)
    names = set(program.graph_signature.user_inputs)
    taken = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in names]
    value = taken[0].meta.get("val") if len(taken) == 1 else None
    if not isinstance(value, Tensor) or value.ndim != 4:
        raise CheckpointError(f"{path} takes {len(taken)} inputs, not pictures [N, 3, H, W]")
    rows, channels, height, width = (n if isinstance(n, int) else None for n in value.shape)
    if channels != 3 or height != width:
        raise CheckpointError(f"{path} takes {list(value.shape)}, not pictures [N, 3, r, r]")
    kind = "uint8" if value.dtype == torch.uint8 else "unit"
    return Program(program.module(), rows, height, kind)
