"""What a program is: a network with what comes before and after it, tensors in, tensors out."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

FORMAT = "imle-lab-program"
ABOUT = "imle_lab.json"  # under which name a file keeps its `Program.about`
# Kind -> what can be made of it, the first unless something else is asked for.
PROGRAMS = {
    "camnet": ("images",),
    "imle-unconditional": ("images",),
    "edm2": ("images", "denoiser"),
    "edm2-toy": ("images", "denoiser"),
    "ddpm": ("images", "denoiser"),
    "omnigan": ("translate", "depth", "height", "segmentation", "water"),
    "simclr": ("features", "projection"),
}
WORDS = tuple(dict.fromkeys(word for words in PROGRAMS.values() for word in words))
_TYPES = {
    "picture": torch.uint8,
    "normal": torch.float32,
    "level": torch.float32,
    "unit": torch.float32,
    "number": torch.int64,
    "flag": torch.bool,
}


class Value(NamedTuple):
    """An input or an output.

    kind: "picture" uint8 in 0..255, "normal" float32 of any size (of an input: as randn draws it),
    "level" float32 above 0, "unit" float32 in [0, 1], "number" int64 in [0, high), "flag" bool.
    shape: of a row, without the batch. says: what it is, for who reads the file.
    """

    kind: str
    shape: tuple[int, ...]
    says: str
    high: int = 1

    @property
    def dtype(self) -> torch.dtype:
        return _TYPES[self.kind]

    def example(self, rows: int, random: torch.Generator) -> Tensor:
        """Random rows of it."""
        shape = (rows, *self.shape)
        if self.kind == "normal":
            return torch.randn(shape, generator=random)
        if self.kind in ("level", "unit"):
            return torch.rand(shape, generator=random) * 0.99 + 0.01
        high = {"picture": 256, "flag": 2}.get(self.kind, self.high)
        return torch.randint(high, shape, generator=random).to(self.dtype)

    def told(self) -> dict[str, Any]:
        """As JSON."""
        name = str(self.dtype).removeprefix("torch.")
        return {"dtype": name, "shape": ["N", *self.shape], "says": self.says}


class Program(NamedTuple):
    """module: frozen, on the CPU, fp32, in evaluation mode; called with the inputs in their order.
    about: what else a file says of it, JSON values."""

    module: nn.Module
    inputs: dict[str, Value]
    output: Value
    about: dict[str, Any]

    def example(self, rows: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Random inputs."""
        random = torch.Generator().manual_seed(seed)
        return tuple(value.example(rows, random) for value in self.inputs.values())

    def text(self, file: str) -> str:
        """`about` with inputs, output and how it is called, as JSON. file: its name."""
        told = {
            "format": FORMAT,
            "version": 1,
            **self.about,
            "inputs": {name: value.told() for name, value in self.inputs.items()},
            "output": self.output.told(),
            "usage": self.usage(file),
            "torch": torch.__version__,
        }
        return json.dumps(told, indent=1)

    def usage(self, file: str) -> str:
        """How a file of this name is run without the toolkit."""
        names = ", ".join(self.inputs)
        if file.endswith(".onnx"):
            feed = ", ".join(f'"{name}": {name}' for name in self.inputs)
            return (
                f'import onnxruntime; run = onnxruntime.InferenceSession("{file}"); '
                f"output = run.run(None, {{{feed}}})[0]  # numpy arrays"
            )
        return (
            f'import torch; program = torch.export.load("{file}").module(); '
            f"output = program({names})  # tensors on the CPU"
        )
