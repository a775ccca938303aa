"""EDM2's networks as a generator, guided by any other network of the kind.

What an image shows depends on its seed, its class and the settings (`diffusion.generate`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from diffusion import Precond
from diffusion import generate as drawing
from diffusion.encoders import Encoder, make_encoder
from diffusion.generate import Item
from diffusion.samplers import heun
from generators.base import Loaded, Setup, build, check_asked, check_same_kind
from generators.fit import names_in
from runtime.precision import Precision
from storage.errors import CheckpointError, NonFiniteError, UsageError, one_line
from storage.snapshot import Snapshot

NOT_FINITE = "not finite; look at weights and noise levels, or try --precision fp32"


class Pictures(NamedTuple):
    """A batch that was drawn.

    items: with their classes known. images: uint8 [N, 3 or 1, H, W] on the CPU. finite: whether all
    of it is. steps: for each image what was denoised on the way, uint8 [kept, 3 or 1, H, W]; [] if
    nothing was to be kept.
    """

    items: list[Item]
    images: Tensor
    finite: bool
    steps: list[Tensor]


class EDM2(Loaded):
    """A diffusion network: a `Generator`. encoder: between latents and images.

    Errors: CheckpointError for a snapshot that does not fit itself, UsageError for a precision that
    the device has not.
    """

    kind = "edm2"
    input_size: int | None = None

    def __init__(
        self, snapshot: Snapshot, setup: Setup | None = None, file: Path | None = None
    ) -> None:
        super().__init__(snapshot, setup, file)
        self.net = build(Precond, snapshot).to(self.device)
        precision = Precision(self.setup.precision or "fp32", self.device)
        precision.apply_tf32_policy()
        check_noise_device(self.setup.noise_device)
        if self.setup.precision is not None:
            self.net.compute_dtype = precision.dtype
        names = names_in(snapshot.config, "classes")
        names = names or [str(i) for i in range(self.net.label_dim)]
        self.classes: list[str] = names[: self.net.label_dim]
        self.code_sizes: list[int] = []
        try:
            self.encoder: Encoder = make_encoder(snapshot.config["encoder"], vae=self.setup.vae)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{file}: no usable encoder ({one_line(error, 200)})") from None
        if self.setup.vae is not None and snapshot.config["encoder"]["name"] == "rgb":
            raise UsageError(f"--vae {self.setup.vae}: {file or 'the network'} draws pixels")
        self._called = self.net
        if self.setup.compile:
            self._called = cast(Precond, torch.compile(self.net))

    @property
    def resolution(self) -> int:
        """Side of the images; behind the VAE it is eight times the latents'."""
        return self.net.img_resolution * (1 if self.encoder.config["name"] == "rgb" else 8)

    def check_pictures(self) -> None:
        """That it makes pictures, asked before hours of drawing: a VAE is loaded here.

        Errors: UsageError, EncoderError.
        """
        probe = torch.zeros(1, self.net.img_channels, 8, 8, device=self.device)
        channels = self.encoder.decode(probe).shape[1]
        if channels not in (1, 3):
            raise UsageError(f"{self.file} makes {channels} channels, which are no picture")

    def check_guide(self, guide: EDM2) -> None:
        """That `guide` works on the same images, and for the same classes or none. Errors:
        ValueError."""
        drawing.check_guide(self.net, guide.net)
        if guide.encoder.config != self.encoder.config:
            raise ValueError("the guide works on the latents of another encoder")

    def seed_classes(self, seeds: Sequence[int]) -> list[int]:
        """The class that is drawn from each seed, where none is asked for."""
        return drawing.seed_classes(
            self.net, seeds, len(self.classes), noise_device=self.setup.noise_device
        )

    def draw(
        self,
        n: int,
        *,
        seed: int = 0,
        labels: Sequence[int] | None = None,
        guide: EDM2 | None = None,
        guidance: float = 1.0,
        interval: tuple[float, float] | None = None,
        sampler: drawing.Sampler = heun,
        batch: int = 32,
    ) -> Tensor:
        """Images of the seeds seed .. seed + n - 1: uint8 [n, 3, H, W] on the CPU.

        labels: n classes (default: drawn from the seeds). guide, guidance, interval:
        guide + guidance (self - guide), where interval[0] < sigma <= interval[1]. sampler: `heun`,
        or a partial of it. Errors: UsageError, ValueError, NonFiniteError.
        """
        check_asked(n, seed)
        if guide is not None:
            check_same_kind(self.kind, guide)
            self.check_guide(guide)
        if labels is not None and len(labels) != n:
            raise ValueError(f"{len(labels)} labels for {n} images")
        items = [Item(seed + k, None if labels is None else int(labels[k])) for k in range(n)]
        parts = []
        for part in self.pictures(
            drawing.split_batches(items, batch),
            guide=guide, guidance=guidance, interval=interval, sampler=sampler,
        ):  # fmt: skip
            if not part.finite:
                first, last = part.items[0].seed, part.items[-1].seed
                raise NonFiniteError(f"seeds {first}-{last}: {NOT_FINITE}")
            parts.append(part.images)
        return torch.cat(parts).expand(-1, 3, -1, -1)

    def pictures(
        self,
        batches: Sequence[Sequence[Item]],
        *,
        guide: EDM2 | None = None,
        guidance: float = 1.0,
        interval: tuple[float, float] | None = None,
        sampler: drawing.Sampler = heun,
        keep_every: int = 0,
    ) -> Iterator[Pictures]:
        """Batch after batch of images with chosen seeds and classes; other arguments as in `draw`.

        keep_every: n > 0 keeps every n-th answer of the denoiser. Errors: ValueError.
        """
        for drawn in drawing.generate(
            self._called, batches, sampler, device=self.device, classes=len(self.classes),
            guide=None if guide is None else guide._called, guidance=guidance, interval=interval,
            keep_every=keep_every, noise_device=self.setup.noise_device,
        ):  # fmt: skip
            finite = bool(torch.isfinite(drawn.latents).all())
            images = self.encoder.decode(drawn.latents).cpu()
            kept = () if drawn.denoised is None else drawn.denoised.unbind(1)
            yield Pictures(drawn.items, images, finite, [self.encoder.decode(k) for k in kept])


def check_noise_device(name: str) -> None:
    """That noise can be drawn on cpu or cuda. Errors: UsageError."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "--noise_device cuda: CUDA finds no GPU here; --noise_device cpu draws other images, "
            "the same on every machine"
        )


def untrained() -> Snapshot:
    """A tiny network with random weights, so that smoke presets need no earlier run."""
    torch.manual_seed(0)
    net = Precond(16, 3, 4, model_channels=8, channel_mult=[1, 2], num_blocks=1)
    nn.init.ones_(net.unet.out_gain)  # 0 would be no network at all
    config = {"net": net.config, "encoder": {"name": "rgb"}, "classes": list("abcd")}
    return Snapshot(net.state_dict(), "edm2", config, {})
