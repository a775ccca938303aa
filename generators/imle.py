"""IMLE's generators: CAM-Net, which makes images of an image, and the unconditional one.

Numbers of pictures (ids) are what the random draws know them by: codes and corruptions are
functions of (seed, id, number of the sample), so an image is the same whatever is drawn beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data.sources import CROPS
from data.views.generated import to_size, to_uint8
from generators.base import Loaded, Setup, build, check_asked, check_unit
from generators.fit import check_settings, configuration
from imle import CAMNet, CodeGenerator, Corruption, UnconditionalGenerator, draw_samples
from imle.conditions import input_shape, of_pictures, without_colour
from runtime.precision import Precision
from storage.errors import CheckpointError, UsageError
from storage.snapshot import Snapshot

# The codes' "loop": samples and views are apart from training (>= 0) and from validation.
SAMPLING_LOOP = -3
VIEW_LOOP = -4
CODES = ("random", "fixed")
HOTTEST = 100.0  # a temperature beyond makes noise of any network
CONSISTENCY = ("none", "project")


class _IMLE(Loaded):
    """What both kinds share."""

    net: CAMNet | UnconditionalGenerator

    def __init__(
        self,
        net: CAMNet | UnconditionalGenerator,
        snapshot: Snapshot,
        setup: Setup | None,
        file: Path | None,
    ) -> None:
        super().__init__(snapshot, setup, file)
        self.net = net.to(self.device)
        self.code_sizes: list[int] = list(net.code_sizes)
        codes = {**codes_of(snapshot), "seed": 0}
        check_settings(CodeGenerator, self.code_sizes, **codes)
        CodeGenerator(self.code_sizes, **codes)  # says what else is wrong, now and not at a draw
        self.classes: list[str] = []
        self._precision = Precision(self.setup.precision or "fp32", self.device)

    def _samples(
        self,
        shown: Tensor,
        n: int,
        seed: int,
        ids: Tensor,
        first: int,
        batch: int,
        temperature: float | Sequence[float] = 1.0,
        net: nn.Module | None = None,
    ) -> Tensor:
        """n images of each input as the network sees it, [B, ...]; one input at a time. net: in
        place of its own."""
        check_asked(n, seed)
        heats = list(temperature) if isinstance(temperature, Sequence) else [float(temperature)]
        if not heats or not all(0 <= heat <= HOTTEST for heat in heats):
            raise UsageError(f"temperature {temperature}: from 0 to {HOTTEST:g}, one or several")
        settings = {**codes_of(self.snapshot), "seed": seed}
        z = CodeGenerator(self.net.code_sizes, **settings)
        images = []
        for one, i in zip(shown.split(1), ids.split(1), strict=True):
            with self._precision.autocast():
                drawn = draw_samples(
                    net or self.net, z, one.to(self.device), i.to(self.device), n,
                    loop=SAMPLING_LOOP, first=first, parallel=batch, temperature=heats,
                )[0]  # fmt: skip
            images.append(to_uint8(drawn.float().cpu().nan_to_num(0.0)))
        return torch.cat(images).expand(-1, 3, -1, -1)


class UnconditionalIMLE(_IMLE):
    """The unconditional network: a `Generator`. Errors: CheckpointError, UsageError."""

    kind = "imle-unconditional"
    net: UnconditionalGenerator
    input_size: int | None = None

    def __init__(
        self, snapshot: Snapshot, setup: Setup | None = None, file: Path | None = None
    ) -> None:
        net = build(UnconditionalGenerator, snapshot)
        super().__init__(net, snapshot, setup, file)
        self.resolution = net.sides[-1]

    def draw(
        self,
        n: int,
        *,
        seed: int = 0,
        ids: Tensor | None = None,
        first: int = 0,
        batch: int = 32,
    ) -> Tensor:
        """n samples for each of the rows `ids` int64 [B] (default: row 0), row by row:
        uint8 [B n, 3, H, W]. first: number of the first sample. (There is no temperature: the
        network scales codes to one length.)"""
        ids = torch.zeros(1, dtype=torch.int64) if ids is None else ids
        return self._samples(torch.zeros(len(ids), 0), n, seed, ids, first, batch)


class ConditionalIMLE(_IMLE):
    """A CAM-Net: an `ImageConditioned` generator. Errors: CheckpointError, UsageError."""

    kind = "camnet"
    net: CAMNet

    def __init__(
        self, snapshot: Snapshot, setup: Setup | None = None, file: Path | None = None
    ) -> None:
        net = build(CAMNet, snapshot)
        corruption = configuration(snapshot.config, "corruption")
        check_settings(Corruption, **corruption)
        Corruption(**corruption)
        if snapshot.config.get("crop", CROPS[0]) not in CROPS:
            raise ValueError(
                f"its crop is {str(snapshot.config['crop'])[:60]!r}, not {' or '.join(CROPS)}"
            )
        super().__init__(net, snapshot, setup, file)
        self.input_channels, self.input_size, _ = input_shape(net)
        self.resolution = net.res[-1]

    def corrupt(self, inputs: Tensor, *, seed: int = 0, ids: Tensor | None = None) -> Tensor:
        """Inputs float [B, 3, r, r] in [0, 1], r = `input_size`, as the network was trained to see
        them, which `draw` does by itself. (Of image synthesis: maps of `input_channels` classes.)
        Errors: UsageError for inputs that are none."""
        shape = (self.input_channels, self.input_size, self.input_size)
        if len(inputs) < 1 or inputs.shape[1:] != shape or not inputs.is_floating_point():
            kind = f"{str(inputs.dtype).removeprefix('torch.')} {list(inputs.shape)}"
            raise UsageError(f"inputs {kind}: float {['B', *shape]} in [0, 1] are needed")
        check_unit(inputs)
        corruption = Corruption(
            **{**configuration(self.snapshot.config, "corruption"), "seed": seed}
        )
        shown = corruption.keyed(inputs, SAMPLING_LOOP, _numbered(inputs, ids))
        return without_colour(shown).clamp(0, 1) if self.net.head == "ab" else shown

    def draw(
        self,
        n: int,
        *,
        seed: int = 0,
        inputs: Tensor | None = None,
        ids: Tensor | None = None,
        first: int = 0,
        batch: int = 32,
        temperature: float | Sequence[float] = 1.0,
        consistency: str | None = None,
    ) -> Tensor:
        """n samples of each input float [B, 3, r0, r0] in [0, 1], input by input:
        uint8 [B n, 3, H, W].

        ids: int64 [B], numbers of the inputs (default: 0, 1, ..). first: number of the first
        sample. temperature: scale of the codes, one or several, see `imle.sampling`; 0: all samples
        are one. consistency: "project" or "none": whether samples agree with their input
        (`imle.consistency`; default: as the network was trained). Errors: UsageError without
        inputs, or for such as cannot be, and for a consistency or temperature that cannot.
        """
        check_asked(n, seed)
        if inputs is None:
            raise UsageError("this network draws images of images: inputs are missing")
        shown = self.corrupt(inputs, seed=seed, ids=ids)
        corruption = Corruption(**configuration(self.snapshot.config, "corruption"))
        net = of_pictures(asked(self.net, consistency, corruption))
        ids = _numbered(inputs, ids)
        return self._samples(shown, n, seed, ids, first, batch, temperature, net)

    def view_sampler(
        self, size: int | None, *, corruption: Mapping[str, Any] | None = None, **options: Any
    ) -> CAMNetSampler:
        """The network as a source of views; options: the others of `CAMNetSampler`. corruption:
        what shall differ from the network's own. Errors: UsageError; CheckpointError for weights
        that are not finite."""
        for name, tensor in sorted(self.snapshot.state_dict.items()):
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise CheckpointError(f"the {self.kind} snapshot has no finite weights in {name}")
        config = self.snapshot.config
        corruption = {**config.get("corruption", {}), **(corruption or {})}
        return CAMNetSampler(
            self.net, size, codes=codes_of(self.snapshot), corruption=corruption, **options
        )


def codes_of(snapshot: Snapshot) -> dict[str, Any]:
    """Settings of the CodeGenerator that a snapshot was trained with, but for its seed.

    Snapshots did not always keep the seed of a mixture's means: those have it in their provenance.
    """
    settings = dict(configuration(snapshot.config, "codes"))
    trained = snapshot.provenance.get("args")
    if settings.get("method") == "mixture" and isinstance(trained, dict) and "seed" in trained:
        settings.setdefault("means_seed", trained["seed"])
    return settings


def _numbered(inputs: Tensor, ids: Tensor | None) -> Tensor:
    return torch.arange(len(inputs)) if ids is None else ids


def asked(net: CAMNet, consistency: str | None, corruption: Corruption) -> CAMNet:
    """`CAMNet.asked`. Errors: UsageError."""
    try:
        return net.asked(consistency, corruption)
    except ValueError as error:
        raise UsageError(f"--{error}") from None


def untrained() -> Snapshot:
    """A tiny CAM-Net with random weights, so that smoke presets need no earlier run."""
    torch.manual_seed(0)
    net = CAMNet(res=[16, 32], resid_nc=[8], dense_nc=[4], n_blocks=1, map_nc=8, latent_nc=16)
    config = {"net": net.config, "codes": {}, "corruption": {}, "crop": "squash"}
    return Snapshot(net.state_dict(), "camnet", config, {})


# ------------------------------------------------------------------------------------------- views


class CAMNetSampler:
    """Draws from a CAM-Net: data.views.generated.Sampler.

    net: trained; only the levels up to the first image of at least `size` (None: its largest) are
    kept, frozen, and run without gradient. codes: settings of CodeGenerator; corruption: of
    Corruption; seed: of both. temperature scales the codes. truncation t: codes from the normal
    distribution within (-t, t) (not for mixtures). code "fixed": one code for every picture and
    draw, a control. lr_factor n: inputs lose the detail below n pixels first. consistency:
    "project" or "none": whether pictures agree with their input (None: as the network was trained).
    precision: fp32, bf16 or auto.
    Errors: UsageError for settings that cannot be.
    """

    def __init__(
        self,
        net: CAMNet,
        size: int | None,
        *,
        codes: Mapping[str, Any] | None = None,
        corruption: Mapping[str, Any] | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        truncation: float | None = None,
        code: str = "random",
        lr_factor: int = 1,
        consistency: str | None = None,
        precision: str = "fp32",
        channels_last: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        if input_shape(net)[0] != 3 or net.config["out_nc"] != 3 and net.head != "ab":
            raise UsageError("this CAM-Net does not take RGB pictures and give RGB pictures")
        if code not in CODES:
            raise UsageError(f"code {code!r} is none of {', '.join(CODES)}")
        if not 0 <= temperature < math.inf or not (truncation is None or truncation > 0):
            raise UsageError(
                f"temperature {temperature}, truncation {truncation}: positive, finite"
            )
        size = net.res[-1] if size is None else int(size)
        self.levels = next((i + 1 for i, r in enumerate(net.res[1:]) if r >= size), net.levels)
        side = net.res[self.levels - 1] if net.feedback == "none" else net.res[0]
        self.size, self.input_size = size, side
        if self.input_size % lr_factor:
            raise UsageError(f"lr_factor {lr_factor} does not divide inputs of {self.input_size}")
        self.image_size = net.res[self.levels]
        self.temperature, self.truncation, self.code = temperature, truncation, code
        self.consistency = consistency
        self.lr_factor, self.channels_last = lr_factor, channels_last
        self.device = torch.device(device)
        self.dtype = Precision(precision, self.device).dtype
        self._codes = CodeGenerator(net.code_sizes, **{**(codes or {}), "seed": seed})
        if truncation is not None and self._codes.method != "normal":
            raise UsageError("--truncation is for normal codes, this generator has a mixture")
        try:
            self._corruption = Corruption(**{**(corruption or {}), "seed": seed})
        except ValueError as error:
            raise UsageError(str(error)) from None
        if self._corruption.mask_frac and self._corruption.mask_res > self.input_size:
            raise UsageError(
                f"--mask_res {self._corruption.mask_res} is finer than inputs of "
                f"{self.input_size} pixels"
            )
        self.update(net)

    def update(self, net: nn.Module) -> None:
        """Draw from the weights that `net` has now (in joint training: after every phase)."""
        if not isinstance(net, CAMNet):
            raise TypeError(f"views of a CAM-Net cannot be drawn from a {type(net).__name__}")
        frozen = net.frozen_copy(dtype=self.dtype, channels_last=self.channels_last).to(self.device)
        frozen._modules["levels"] = nn.ModuleList(list(frozen.stages)[: self.levels])
        self._net = of_pictures(asked(frozen, self.consistency, self._corruption))

    def corrupt(self, inputs: Tensor, ids: Tensor) -> Tensor:
        """Inputs float [B, 3, r0, r0] as the generator is shown them, whatever the draw."""
        if self.lr_factor > 1:
            small = to_size(inputs, self.input_size // self.lr_factor)
            inputs = to_size(small, self.input_size).clamp(0, 1)
        return self._corruption.keyed(inputs, VIEW_LOOP, ids)

    @torch.no_grad()
    def sample(self, inputs: Tensor, ids: Tensor, draw: Tensor) -> Tensor:
        """Images float32 [B, 3, size, size] of corrupted inputs; ids, draw int64 [B]."""
        codes = [self.codes(level, ids, draw) for level in range(self.levels)]
        made = self._net.shown(self._net(inputs, codes, loi=-1), inputs)
        return to_size(made.float(), self.size)

    def codes(self, level: int, ids: Tensor, draw: Tensor) -> Tensor:
        """The codes of a level, float32 [B, d_level]."""
        if self.code == "fixed":
            nought = torch.zeros_like(ids[:1])
            z = self._codes.draw(level, VIEW_LOOP, nought, nought).expand(len(ids), -1)
        else:
            z = self._codes.draw(level, VIEW_LOOP, ids, draw[:, None])
        if self.truncation is not None:
            z = truncated(z, self.truncation)
        return z * self.temperature


def truncated(z: Tensor, bound: float) -> Tensor:
    """Standard normals mapped, keeping their order, to normals within (-bound, bound).

    By the distribution function: x = F^-1(F(-b) + F(z) (1 - 2 F(-b))), in the lower half, where
    numbers are fine-grained, and mirrored; in float64, as torch's float32 F is 1 % off in the tail.
    """
    outside = 0.5 * math.erfc(bound / math.sqrt(2))
    lower = torch.special.ndtr(-z.abs().double()) * (1 - 2 * outside) + outside
    return (-torch.special.ndtri(lower) * z.sign()).to(z.dtype)
