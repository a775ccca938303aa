"""IMLE's generators as programs: what is taken from an input, codes, the cascade, uint8."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from data.views.generated import to_uint8
from generators.imle import ConditionalIMLE, UnconditionalIMLE, asked, codes_of
from imle import CAMNet, CodeGenerator, Corruption, UnconditionalGenerator
from imle.conditions import of_pictures, without_colour
from imle.corruption import keep_channel, luma, mask_image
from recipes.convert.program import Program, Value
from storage.snapshot import Snapshot


class Codes(nn.Module):
    """Standard normal numbers, and the component of a mixture, -> codes of every level."""

    def __init__(self, z: CodeGenerator) -> None:
        super().__init__()
        self.levels, self.mixed = z.levels, bool(z.num_components)
        self.spread = math.sqrt(1 - z.mixture_scale**2)
        for level in range(z.levels if self.mixed else 0):
            self.register_buffer(f"means_{level}", z.means(level).clone())

    def forward(self, normals: list[Tensor], component: Tensor | None) -> list[Tensor]:
        if component is None:
            return normals
        return [
            self.spread * normal + getattr(self, f"means_{level}").index_select(0, component)
            for level, normal in enumerate(normals)
        ]


class Cascade(CAMNet):
    """A CAMNet whose levels are registered under a name that is not a number's: as attributes are
    looked up, `levels` is how many there are, and torch.export looks modules up so."""

    @property
    def stages(self) -> nn.ModuleList:
        return self._modules["cascade"]  # type: ignore[return-value]

    @classmethod
    def of(cls, net: CAMNet) -> Cascade:
        """The same network; weights are shared."""
        made = copy.copy(net)
        made.__class__ = cls
        made._modules = {**net._modules, "cascade": net.stages}
        del made._modules["levels"]
        return made  # type: ignore[return-value]


class FromPictures(nn.Module):
    """pictures uint8 [N, 3, r, r] (maps of classes: float32 [N, C, r, r]), a normal code a level
    [N, d_i]; then, where the network has them, component [N], channel [N], holes bool [N, S, S],
    colors [N, 3, S, S] -> uint8 [N, 3, R, R]."""

    def __init__(self, net: CAMNet, codes: Codes, task: Corruption) -> None:
        super().__init__()
        self.net, self.codes, self.task = of_pictures(Cascade.of(net)), codes, task
        self.grey = net.head == "ab"

    def forward(self, *inputs: Tensor) -> Tensor:
        pictures, *rest = inputs
        levels = self.codes.levels
        normals, rest = rest[:levels], rest[levels:]
        component = rest.pop(0) if self.codes.mixed else None
        if pictures.dtype == torch.uint8:
            pictures = pictures.to(torch.float32) / 255
        x = self._taken(pictures, rest)
        image = self.net(x, self.codes(normals, component), loi=-1)
        image = self.net.shown(image, x).float().nan_to_num(0.0)
        return to_uint8(image).expand(-1, 3, -1, -1).contiguous()

    def _taken(self, x: Tensor, rest: list[Tensor]) -> Tensor:
        """Inputs as the network is shown them: `Corruption`, its random numbers given."""
        if self.task.grayscale == 1:
            x = luma(x)
        elif self.task.grayscale == 0.5:
            x = keep_channel(x, rest.pop(0))
        if self.task.mask_frac:
            holes = rest.pop(0).flatten(1)
            ranks = torch.where(holes, 0, holes.shape[1])  # those below the number of cells hide
            x, _ = mask_image(x, ranks, self.task.mask_frac, rest.pop(0) if rest else None)
        return without_colour(x).clamp(0, 1) if self.grey else x


class FromCodes(nn.Module):
    """A normal code [N, d], component [N] of a mixture -> uint8 [N, 3, R, R]."""

    def __init__(self, net: UnconditionalGenerator, codes: Codes) -> None:
        super().__init__()
        self.net, self.codes = net, codes

    def forward(self, *inputs: Tensor) -> Tensor:
        (code,) = self.codes(list(inputs[:1]), inputs[1] if self.codes.mixed else None)
        image = self.net(None, [code], loi=-1)
        return to_uint8(image.float().nan_to_num(0.0)).expand(-1, 3, -1, -1).contiguous()


def conditional(generator: ConditionalIMLE) -> Program:
    """A CAM-Net, with the corruption, base and consistency that it was trained with."""
    codes, drawn = _codes(generator.snapshot, generator.code_sizes)
    net, side = generator.net, generator.input_size
    frozen = net.frozen_copy(channels_last=False)
    task = Corruption(**generator.snapshot.config.get("corruption", {}))
    cells, shape = (task.mask_res, task.mask_res), (generator.input_channels, side, side)
    if generator.input_channels == 3:
        pictures = Value("picture", shape, f"RGB, reduced to {side} pixels (Pillow, bicubic)")
        before = ["divided by 255"]
    else:
        pictures = Value("unit", shape, "maps of classes, 1 where a pixel is of the class")
        before = ["none"]
    if net.head == "ab":
        before.append("made grey of the same lightness")
    inputs = {"pictures": pictures, **drawn}
    if task.grayscale == 1:
        before.append("made grey (0.299 R + 0.587 G + 0.114 B)")
    elif task.grayscale == 0.5:
        inputs["channel"] = Value("number", (), "which of R, G, B is kept; the others: mean", 3)
        before.append("one channel kept, the two others averaged")
    if task.mask_frac:
        inputs["holes"] = Value("flag", cells, "which cells of the picture are hidden")
        before.append(f"cells of a grid of {task.mask_res} x {task.mask_res} hidden")
        if task.fill == "color":
            inputs["colors"] = Value("unit", (3, *cells), "what hidden cells show, uniform")
    about = {
        "preprocessing": ", ".join(before),
        "postprocessing": "in [0, 1] to uint8, rounded",
        "base": net.base,
        "consistency": net.shows,
    }
    module = FromPictures(asked(frozen, None, task), codes, task)
    last = generator.resolution
    return Program(module, inputs, Value("picture", (3, last, last), "RGB"), about)


def unconditional(generator: UnconditionalIMLE) -> Program:
    """The unconditional network."""
    codes, inputs = _codes(generator.snapshot, generator.code_sizes)
    side = generator.resolution
    about = {"preprocessing": "none", "postprocessing": "to uint8, rounded; grey as three channels"}
    module = FromCodes(generator.net, codes)
    return Program(module, inputs, Value("picture", (3, side, side), "RGB"), about)


def _codes(snapshot: Snapshot, sizes: list[int]) -> tuple[Codes, dict[str, Value]]:
    """What makes codes, and its inputs. The means of a mixture are those of the training's seed."""
    z = CodeGenerator(sizes, **codes_of(snapshot))
    inputs = {
        f"code_{i}": Value("normal", (size,), "standard normal numbers (torch.randn)")
        for i, size in enumerate(sizes)
    }
    if z.num_components:
        says = "which component of the mixture, uniform"
        inputs["component"] = Value("number", (), says, z.num_components)
    return Codes(z), inputs
