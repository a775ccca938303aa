"""Between pixels and what a diffusion network is trained on.

    images uint8 --encode_pixels--> raw (stored in data sets) --encode_latents--> latents --> net
    latents --decode--> images uint8

`encoder.config` are JSON values for a snapshot; `make_encoder(config)` builds the encoder again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

STABILITY_VAE = "stabilityai/sd-vae-ft-mse"


class EncoderError(ValueError):
    """An encoder that cannot be had: the message is one line and says what to do."""

    exit_code = 2


class RGBEncoder:
    """Pixels as they are: uint8 [N, C, H, W] <-> float32 in [-1, 1]; raw is uint8 too."""

    noise_channels = 0  # of `eps`: none is needed
    factor = 1  # how many times smaller latents are

    @property
    def config(self) -> dict[str, Any]:
        """{"name": "rgb"}."""
        return {"name": "rgb"}

    def latent_channels(self, raw_channels: int) -> int:
        """Channels of the latents made of raw data with so many."""
        return raw_channels

    def encode_pixels(self, images: Tensor) -> Tensor:
        """uint8 images [N, C, H, W] -> raw, the same."""
        return _check_uint8(images)

    def encode_latents(self, raw: Tensor, eps: Tensor | None = None) -> Tensor:
        """uint8 [N, C, H, W] -> float32 x / 127.5 - 1 in [-1, 1]. `eps` is not used."""
        return _check_uint8(raw).to(torch.float32) / 127.5 - 1

    def decode(self, latents: Tensor) -> Tensor:
        """float [N, C, H, W] -> uint8, the fraction of x * 127.5 + 128 cut off."""
        return (latents.to(torch.float32) * 127.5 + 128).clip(0, 255).to(torch.uint8)


class StabilityVAEEncoder:
    """Latents of the Stable Diffusion VAE, standardised per channel to mean 0 and std 0.5.

    uint8 [N, 3, 8h, 8w] -> raw float32 [N, 8, h, w] = mean (4), standard deviation (4) -> latents
    [N, 4, h, w]. As in EDM2 the VAE is fed pixels in [0, 1], not in [-1, 1]: the constants below
    and the released networks belong to that. The VAE itself (package `diffusers`) is loaded at the
    first image that needs it; `encode_latents` does not.

    vae: a folder with a saved AutoencoderKL, or its name on the Hugging Face hub. raw_mean,
    raw_std: of the latents over the training data, one per channel. batch: images at a time.
    """

    noise_channels = 4
    factor = 8

    def __init__(
        self,
        vae: str = STABILITY_VAE,
        *,
        raw_mean: Sequence[float] = (5.81, 3.25, 0.12, -2.15),
        raw_std: Sequence[float] = (4.17, 4.62, 3.71, 3.28),
        final_mean: float = 0.0,
        final_std: float = 0.5,
        batch: int = 8,
    ) -> None:
        if len(raw_mean) != len(raw_std) or len(raw_mean) != self.noise_channels:
            raise ValueError(f"the VAE has {self.noise_channels} channels; one mean and std each")
        if min(raw_std) <= 0 or final_std <= 0 or batch < 1:
            raise ValueError("standard deviations and the batch must be positive")
        self.vae, self.batch = vae, batch
        self.raw_mean, self.raw_std = list(raw_mean), list(raw_std)
        self.final_mean, self.final_std = final_mean, final_std
        scale = final_std / torch.tensor(self.raw_std, dtype=torch.float64)
        bias = final_mean - torch.tensor(self.raw_mean, dtype=torch.float64) * scale
        self.scale, self.bias = scale.float(), bias.float()  # final = raw * scale + bias
        self._model: Any = None  # diffusers' AutoencoderKL, once it is needed

    @property
    def config(self) -> dict[str, Any]:
        """All arguments but the batch."""
        return {
            "name": "stability-vae",
            "vae": self.vae,
            "raw_mean": self.raw_mean,
            "raw_std": self.raw_std,
            "final_mean": self.final_mean,
            "final_std": self.final_std,
        }

    def latent_channels(self, raw_channels: int) -> int:
        """4, of raw data with 8. Errors: ValueError."""
        if raw_channels != 2 * self.noise_channels:
            raise ValueError(
                f"raw latents have {2 * self.noise_channels} channels (mean, std), "
                f"not {raw_channels}; convert images with data/dataset_tool.py encode"
            )
        return self.noise_channels

    @torch.no_grad()
    def encode_pixels(self, images: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] -> raw float32 [N, 8, H/8, W/8] = [mean, std]. Needs the VAE."""
        model = self._load(images.device)
        out = []
        for part in _check_uint8(images).split(self.batch):
            posterior = model.encode(part.to(torch.float32) / 255).latent_dist
            out.append(torch.cat([posterior.mean, posterior.std], dim=1))
        return torch.cat(out)

    def encode_latents(self, raw: Tensor, eps: Tensor | None = None) -> Tensor:
        """raw [N, 8, h, w] and unit normal eps [N, 4, h, w] -> latents float32 [N, 4, h, w].

        (mean + eps * std) * scale + bias. Errors: ValueError without eps or for other shapes.
        """
        self.latent_channels(raw.shape[1])
        mean, std = raw.to(torch.float32).chunk(2, dim=1)
        if eps is None or eps.shape != mean.shape:
            got = None if eps is None else list(eps.shape)
            raise ValueError(f"noise {got} for latents {list(mean.shape)}: eps of that shape")
        return self.standardise(mean + eps * std)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """latents [N, 4, h, w] -> uint8 [N, 3, 8h, 8w]. Needs the VAE."""
        model = self._load(latents.device)
        raw = self.raw_of(latents.to(torch.float32))
        images = [model.decode(part).sample.clamp(0, 1) for part in raw.split(self.batch)]
        return torch.cat(images).mul(255).to(torch.uint8)

    def standardise(self, x: Tensor) -> Tensor:
        """The VAE's latents [N, 4, h, w] -> those a network is trained on: x * scale + bias."""
        scale, bias = (v.to(x.device).view(1, -1, 1, 1) for v in (self.scale, self.bias))
        return x * scale + bias

    def raw_of(self, latents: Tensor) -> Tensor:
        """The inverse of `standardise`."""
        scale, bias = (v.to(latents.device).view(1, -1, 1, 1) for v in (self.scale, self.bias))
        return (latents - bias) / scale

    def _load(self, device: torch.device) -> Any:
        if self._model is None:
            try:
                from diffusers import AutoencoderKL
            except ImportError:
                raise EncoderError(
                    "Stability VAE latents need a package that is not installed: "
                    "pip install diffusers"
                ) from None
            try:
                # safetensors only: the other format is a pickle
                model = AutoencoderKL.from_pretrained(self.vae, use_safetensors=True)
            except Exception as error:  # the hub, the network, the disk, the file: all foreign
                said = next((s for s in str(error).splitlines() if s.strip()), "") or type(error)
                raise EncoderError(
                    f"cannot load the VAE {self.vae!r} ({said}); give a folder that holds an "
                    "AutoencoderKL with safetensors weights"
                ) from None
            self._model = model.float().eval().requires_grad_(False)
        return self._model.to(device)


class Coder(Protocol):
    """A network between pictures [B, 3, f h, f w] in [-1, 1] and what is drawn of them; what
    `encode` gives is mean and standard deviation where they are drawn, else the latents."""

    def encode(self, images: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...

    def to(self, device: torch.device) -> Any: ...


class AutoencoderEncoder:
    """Latents of an autoencoder of latent diffusion, times a factor (Rombach et al. 2022,
    arXiv:2112.10752, appendix G): of KL drawn of their distribution, of VQ before quantisation.

    uint8 [N, 3, f h, f w] -> raw float32 [N, 2 channels (KL) or channels (VQ), h, w] -> latents
    [N, channels, h, w]. load: gives the network at the first image that needs it. file, sha256: of
    its weights. factor: f. scale: what latents are multiplied by. batch: images at a time.
    """

    name = "autoencoder"

    def __init__(
        self,
        load: Callable[[], Coder],
        *,
        file: str,
        sha256: str,
        kl: bool,
        channels: int,
        factor: int,
        scale: float,
        batch: int = 8,
    ) -> None:
        if not scale > 0 or batch < 1:
            raise ValueError(f"scale {scale} and batch {batch} of latents must be positive")
        self.file, self.sha256, self.kl, self.factor = file, sha256, bool(kl), int(factor)
        self.channels, self.scale, self.batch = int(channels), float(scale), batch
        self.noise_channels = self.channels if kl else 0
        self._load_model = load
        self._model: Coder | None = None  # once it is needed

    @property
    def config(self) -> dict[str, Any]:
        """All arguments but `load` and the batch."""
        return {
            "name": self.name, "file": self.file, "sha256": self.sha256, "kl": self.kl,
            "channels": self.channels, "factor": self.factor, "scale": self.scale,
        }  # fmt: skip

    def latent_channels(self, raw_channels: int) -> int:
        """Channels of the latents made of raw data with so many. Errors: ValueError."""
        wanted = self.channels * (2 if self.kl else 1)
        if raw_channels != wanted:
            raise ValueError(f"raw latents of this autoencoder have {wanted} channels")
        return self.channels

    @torch.no_grad()
    def encode_pixels(self, images: Tensor) -> Tensor:
        """uint8 images -> raw. Errors: ValueError for sides that f does not divide."""
        if images.shape[2] % self.factor or images.shape[3] % self.factor:
            raise ValueError(
                f"pictures of {images.shape[2]} x {images.shape[3]} for an autoencoder that makes "
                f"them {self.factor} times smaller"
            )
        model = self._network(images.device)
        pixels = RGBEncoder().encode_latents(images)
        return torch.cat([model.encode(part).float() for part in pixels.split(self.batch)])

    def encode_latents(self, raw: Tensor, eps: Tensor | None = None) -> Tensor:
        """raw, and of KL unit normal eps [N, channels, h, w] -> latents (mean + eps std) scale.

        Errors: ValueError without eps or for other shapes.
        """
        self.latent_channels(raw.shape[1])
        if not self.kl:
            return raw.to(torch.float32) * self.scale
        mean, std = raw.to(torch.float32).chunk(2, dim=1)
        if eps is None or eps.shape != mean.shape:
            got = None if eps is None else list(eps.shape)
            raise ValueError(f"noise {got} for latents {list(mean.shape)}: eps of that shape")
        return (mean + eps * std) * self.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """latents -> uint8 [N, 3, f h, f w]."""
        model = self._network(latents.device)
        parts = (latents.to(torch.float32) / self.scale).split(self.batch)
        images = torch.cat([model.decode(part).float() for part in parts])
        return ((images + 1) * 127.5).round().clip(0, 255).to(torch.uint8)

    def _network(self, device: torch.device) -> Any:
        if self._model is None:
            self._model = self._load_model()
        return self._model.to(device)


Encoder = RGBEncoder | StabilityVAEEncoder | AutoencoderEncoder


def make_encoder(config: Mapping[str, Any], *, vae: str | None = None) -> Encoder:
    """The encoder of a snapshot's config; `vae` replaces where the VAE lies. That of an autoencoder
    needs the network: `generators.autoencoder`. Errors: ValueError."""
    settings = dict(config)
    name = settings.pop("name", None)
    if name == "rgb" and not settings:
        return RGBEncoder()
    if name == "stability-vae":
        if vae is not None:
            settings["vae"] = vae
        try:
            return StabilityVAEEncoder(**settings)
        except TypeError:
            pass
    raise ValueError(f"encoder {dict(config)!r} is unknown; there are: rgb, stability-vae")


def _check_uint8(images: Tensor) -> Tensor:
    if images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8 in 0..255, not {images.dtype}")
    return images
