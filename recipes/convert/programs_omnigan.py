"""omnigan's generators as programs: pictures translated, or as one of the decoders sees them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from data.views.generated import to_uint8
from generators.omnigan import Omnigan
from models.omnigan import OmniGenerator
from recipes.convert.program import Program, Value
from storage.errors import UsageError

TASKS = {"depth": "d", "height": "h", "segmentation": "s", "water": "w"}


class Translated(nn.Module):
    """pictures uint8 [N, 3, r, r] -> the same in another domain, as `Omnigan.draw`."""

    def __init__(self, net: OmniGenerator, domain: str) -> None:
        super().__init__()
        self.net, self.domain = net, domain

    def forward(self, pictures: Tensor) -> Tensor:
        return to_uint8((self.net(_signed(pictures), self.domain).float() + 1) / 2)


class Seen(nn.Module):
    """pictures uint8 [N, 3, r, r] -> d, h, w: float32 [N, 1, r, r]; s: classes int64 [N, r, r], as
    `Omnigan.see`."""

    def __init__(self, net: OmniGenerator, task: str) -> None:
        super().__init__()
        self.net, self.task = net, task

    def forward(self, pictures: Tensor) -> Tensor:
        decoded = self.net.decode_tasks(self.net.encode(_signed(pictures)), self.task)
        output = decoded[self.task]
        if self.task == "s":
            return output.argmax(1)
        return self.net.water(output) if self.task == "w" else output.float()


def _signed(pictures: Tensor) -> Tensor:
    return pictures.to(torch.float32) / 255 * 2 - 1


def program(generator: Omnigan, word: str, domain: str) -> Program:
    """The translation to `domain`, or the decoder that `word` names. Errors: UsageError for a task
    that the network has not, a domain that it is not told, a side that it cannot halve."""
    net, side = generator.net, generator.resolution
    task = TASKS.get(word, "t")
    if task not in net.tasks:
        raise UsageError(f"this network has the tasks {''.join(net.tasks)}, and no {task}")
    n = 2**net.n_downsample
    if side % n:
        raise UsageError(f"pictures of {side} x {side}: sides must be multiples of {n}")
    says = f"RGB, the short side reduced to {side} pixels (Pillow, bicubic), the central square"
    inputs = {"pictures": Value("picture", (3, side, side), says)}
    about: dict[str, object] = {"preprocessing": "divided by 255, in [-1, 1]"}
    if task == "t":
        try:
            net.target_index(domain)
        except ValueError as error:
            raise UsageError(f"--domain {domain}: {error}") from None
        about |= {"domain": domain, "postprocessing": "[-1, 1] to 0..255, rounded"}
        output = Value("picture", (3, side, side), "RGB")
        return Program(Translated(net, domain), inputs, output, about)
    kind, shape, made, after = {
        "d": ("normal", (1, side, side), "depth, as the network was trained", "none"),
        "h": ("normal", (1, side, side), "height over the ground, as trained", "none"),
        "s": ("number", (side, side), "class of each pixel", "the largest of the classes"),
        "w": ("unit", (1, side, side), "probability of water", "a probability"),
    }[task]
    about["postprocessing"] = after
    if task == "s":
        about["classes"] = generator.segments
    output = Value(kind, shape, made, net.output_dims[task])
    return Program(Seen(net, task), inputs, output, about)
