"""omnigan's generator at the one door: streets flooded, or as its decoders see them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from data.views.generated import to_uint8
from generators.base import Loaded, Setup, build, check_asked, check_unit
from models.omnigan import DOMAINS, OmniGenerator
from runtime.precision import Precision
from storage.errors import CheckpointError, UsageError
from storage.snapshot import Snapshot

KIND = "omnigan"


class Omnigan(Loaded):
    """A generator of omnigan: images are translations of pictures; a `Generator` with inputs.

    resolution, input_size: side of the pictures it was trained with; any multiple of 2^n, n its
    downsamplings, can be translated. segments: names of the classes of its segmentation, if the
    snapshot has them. Errors: CheckpointError for a snapshot that does not fit itself.
    """

    kind = KIND

    def __init__(
        self, snapshot: Snapshot, setup: Setup | None = None, file: Path | None = None
    ) -> None:
        super().__init__(snapshot, setup, file)
        self.net: OmniGenerator = build(OmniGenerator, snapshot).to(self.device)
        sides = snapshot.config.get("resolution", 256)
        try:
            self.resolution = min(sides) if isinstance(sides, list | tuple) else int(sides)
        except (TypeError, ValueError):
            raise CheckpointError(f"{file}: resolution {sides!r} is no size of pictures") from None
        self.input_size: int | None = self.resolution
        self.segments: list[str] = list(snapshot.config.get("classes") or [])
        self.classes: list[str] = []
        self.code_sizes: list[int] = []
        self.precision = Precision(self.setup.precision or "fp32", self.device)
        self._called = torch.compile(self.net) if self.setup.compile else self.net

    def draw(
        self,
        n: int,
        *,
        seed: int = 0,
        inputs: Tensor | None = None,
        ids: Tensor | None = None,
        to: str = "f",
        batch: int = 32,
    ) -> Tensor:
        """Pictures float [B, 3, H, W] in [0, 1], translated: uint8 [B n, 3, H, W], input by input.

        to: f, flooded, n, not flooded, or a domain. Nothing is drawn by chance: all n images of an
        input are the same, whatever the seed and ids. Errors: UsageError without inputs or for such
        as cannot be, for a target that there is not and a network that does not translate.
        """
        check_asked(n, seed)
        if "t" not in self.net.tasks:
            raise UsageError(f"this network has the tasks {''.join(self.net.tasks)}, and no t")
        made = []
        for x in self._batches(inputs, batch):
            with self.precision.autocast():
                try:
                    made.append(to_uint8((self._called(x, to).float().cpu() + 1) / 2))
                except ValueError as error:
                    raise UsageError(str(error)) from None
        return torch.cat(made).repeat_interleave(n, 0)

    def see(self, inputs: Tensor, *, batch: int = 32) -> dict[str, Tensor]:
        """What the decoders see in pictures float [B, 3, H, W] in [0, 1]: {"d", "h": float
        [B, 1, H, W]; "s": classes int64 [B, H, W]; "w": probability [B, 1, H, W]}, on the CPU.
        Errors: UsageError."""
        found: dict[str, list[Tensor]] = {task: [] for task in self.net.conditions}
        for x in self._batches(inputs, batch):
            with self.precision.autocast():
                decoded = self.net.decode_tasks(self.net.encode(x))
            for task, output in decoded.items():
                seen = output.argmax(1) if task == "s" else output.float()
                found[task].append((self.net.water(seen) if task == "w" else seen).cpu())
        return {task: torch.cat(parts) for task, parts in found.items()}

    def _batches(self, inputs: Tensor | None, batch: int) -> Iterator[Tensor]:
        """Pictures as the network takes them, in [-1, 1], some at a time."""
        if inputs is None:
            raise UsageError("this network translates pictures: inputs are missing")
        if inputs.ndim != 4 or inputs.shape[1] != 3 or not inputs.is_floating_point():
            kind = f"{str(inputs.dtype).removeprefix('torch.')} {list(inputs.shape)}"
            raise UsageError(f"inputs {kind}: float [B, 3, H, W] in [0, 1] are needed")
        check_unit(inputs)
        sides, n = inputs.shape[-2:], 2**self.net.n_downsample
        if any(side % n for side in sides):
            raise UsageError(f"inputs of {sides[0]} x {sides[1]}: sides must be multiples of {n}")
        with torch.no_grad():
            for part in inputs.split(batch):
                yield part.to(self.device) * 2 - 1


def untrained() -> Snapshot:
    """A tiny generator with random weights, so that smoke presets need no earlier run."""
    torch.manual_seed(0)
    small = {"n_res": 1}
    net = OmniGenerator(
        "adhstw", encoder={"dim": 4, "n_downsample": 2, "n_res": 1},
        a=small, d=small, h=small, s={"n_res": 1, "output_dim": 5}, w=small,
    )  # fmt: skip
    config = {"net": net.config, "resolution": [32, 32], "classes": list("abcde"),
              "domains": list(DOMAINS)}  # fmt: skip
    return Snapshot(net.state_dict(), KIND, config, {})
