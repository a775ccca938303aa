"""What a generator is to whoever draws with it, and how a snapshot becomes a network again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from data.views.generated import Sampler
from generators.fit import fitted, fitting
from storage.errors import UsageError
from storage.find import identity
from storage.snapshot import Snapshot

Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class Setup:
    """How a generator runs; a kind leaves alone what it has no use for.

    device: where. precision: fp32, bf16, fp16 or auto; None: fp32, or, for EDM2, as the network was
    trained. compile: torch.compile the network. vae: folder or name of the VAE, or the file of an
    autoencoder, for networks on its latents, if not the one that the snapshot names. noise_device:
    where EDM2's noise is drawn, cpu or cuda. code: a Python file, which is run, with the classes of
    a ddpm network that are none of this toolkit.
    """

    device: torch.device | str = "cpu"
    precision: str | None = None
    compile: bool = False
    vae: str | None = None
    noise_device: str = "cpu"
    code: str | None = None


class Generator(Protocol):
    """A trained network of any kind as one thing that draws images.

    kind: as snapshots name it. net: the plain module, in evaluation mode, on the device. snapshot:
    its configuration and provenance. file: where it lies; None: nowhere. content: what tells its
    weights from others. resolution: side of the images. classes: their names, or numbers where they
    have none; [] without classes. input_size: side of the pictures it needs as input; None: none.
    code_sizes: length of the latent code of each level; [] where images are made of noise of their
    own shape.
    """

    @property
    def kind(self) -> str: ...

    @property
    def net(self) -> nn.Module: ...

    @property
    def snapshot(self) -> Snapshot: ...

    @property
    def file(self) -> Path | None: ...

    @property
    def content(self) -> str: ...

    @property
    def resolution(self) -> int: ...

    @property
    def classes(self) -> list[str]: ...

    @property
    def input_size(self) -> int | None: ...

    @property
    def code_sizes(self) -> list[int]: ...

    def draw(self, n: int, *, seed: int = 0, batch: int = 32) -> Tensor:
        """n >= 1 images, of each input where there are inputs: uint8 [N, 3, H, W] on the CPU.

        Image k is a function of the seed >= 0, k and what else is asked, whatever is drawn beside
        it. What that is, the kind says: of edm2 and edm2-toy image k is that of seed + k; of IMLE
        it is sample k of the codes of `seed`, and a seed has as many as one likes.
        batch: images computed at a time. A kind may be asked for more: labels, inputs, a guide.
        Errors: UsageError for a number, a seed or a guide that cannot be.
        """
        ...


class ImageConditioned(Generator, Protocol):
    """A generator whose images are views of a picture, for generate_views.py and ISICLE."""

    def view_sampler(self, size: int | None, **options: Any) -> Sampler:
        """The generator as a source of views of side `size` (None: its largest). options: those of
        the kind; those of CAM-Nets are in `generators.imle.CAMNetSampler`."""
        ...


class Loaded:
    """What every kind keeps of its making: the snapshot, the file it was read from, the device."""

    def __init__(
        self, snapshot: Snapshot, setup: Setup | None = None, file: Path | None = None
    ) -> None:
        self.snapshot, self.file, self.setup = snapshot, file, setup or Setup()
        self.device = torch.device(self.setup.device)

    @functools.cached_property
    def content(self) -> str:
        """A checksum, or "untrained" for what is of no file."""
        return identity(self.file) if self.file else "untrained"


# Kinds of snapshots in words.
WORDS = {
    "camnet": "a CAM-Net",
    "imle-unconditional": "an unconditional IMLE generator",
    "edm2": "an EDM2 network",
    "edm2-toy": "a network of the toy",
    "simclr": "a SimCLR encoder",
    "ddpm": "a diffusion UNet",
    "autoencoder": "an autoencoder",
    "classifier": "a classifier of noised images",
    "edm": "a network of EDM",
    "omnigan": "an omnigan generator",
    "climategan": "a ClimateGAN generator",
}


def in_words(kind: str) -> str:
    """The kind of a snapshot as a reader knows it: "an EDM2 network"."""
    return WORDS.get(kind, f"a snapshot of kind {kind!r}")


class WrongKind(UsageError):
    """A network of another kind than is needed. path: as it was asked for; file: what was found."""

    def __init__(self, path: str | Path, file: Path, kind: str, wanted: Sequence[str]) -> None:
        super().__init__(f"{path} holds a {kind!r} network, not {' or '.join(wanted)}")
        self.file, self.kind = file, kind


def check_asked(n: int, seed: int) -> None:
    """What every kind refuses to draw. Errors: UsageError."""
    if n < 1:
        raise UsageError(f"n {n}: at least one image")
    if seed < 0:
        raise UsageError(f"seed {seed}: seeds are 0 or above")


def check_unit(inputs: Tensor) -> None:
    """That pictures are in [0, 1]. Errors: UsageError."""
    low, high = float(inputs.min()), float(inputs.max())
    if not (0 <= low and high <= 1):
        raise UsageError(f"inputs from {low:g} to {high:g}: divide them so that all are in [0, 1]")


def check_same_kind(kind: str, guide: object) -> None:
    """That a guide is of the network's kind. Errors: UsageError."""
    other = getattr(guide, "kind", type(guide).__name__)
    if other != kind:
        raise UsageError(f"the guide is a {other!r} network, not {kind}")


Kind = Callable[[Snapshot, Setup, Path | None], Generator]  # last: the file it was read from


def build(make: Callable[..., Net], snapshot: Snapshot, *, known: bool = True) -> Net:
    """The snapshot's network in evaluation mode, frozen, on the CPU. known: see `fitted`. Errors:
    Unfit."""
    with fitting(f"the {snapshot.kind!r} snapshot"):
        net = fitted(make, snapshot.config["net"], snapshot.state_dict, known=known)
    return net.eval().requires_grad_(False)
