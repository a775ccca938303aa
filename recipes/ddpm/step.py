"""The rows of a step of DDPM, and what a network loses at them.

All that is random about a row - its step, its noise, dropout, whether it goes without its class or
layout - is a function of its key, so that ranks and parts change nothing, and rows may be scored
before they are trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffusion.beside import gray, lowres, one_hot
from diffusion.best_of import best_keys
from diffusion.ddpm_rows import keyed_noise
from diffusion.encoders import Encoder, RGBEncoder
from diffusion.gaussian import Gaussian
from diffusion.gaussian_loss import ldm_losses, training_losses
from diffusion.rows import consecutive
from diffusion.schedule_sampler import UniformSampler
from models.ddpm import Layout
from runtime.counter_rng import mix, normal, uniform

_DROPOUT, _NO_CLASS, _NO_LAYOUT, _LATENT = 0x64726F70, 0x6E6F636C, 0x6E6F6C61, 0x6C61746E


class Rows(NamedTuple):
    """index int64 [n] into the data, raw [n, C, H, W] as stored, labels int64 [n], keys int64 [n];
    boxes float [n, N, 4] and classes int64 [n, N] (-1: none), segmentation uint8 [n, h, w], masks
    bool [n, N, h, w]: of size 0 without."""

    index: Tensor  # type: ignore[assignment]  # a tuple's own `index` is of no use here
    raw: Tensor
    labels: Tensor
    keys: Tensor
    boxes: Tensor
    classes: Tensor
    segmentation: Tensor
    masks: Tensor

    def take(self, rows: Tensor | slice) -> Rows:
        """Some of the rows, in the order asked for."""
        return Rows(*(t[rows] for t in self))

    def parts(self, size: int) -> Iterator[Rows]:
        """Consecutive rows, `size` at a time (0: all at once); nothing if there are none."""
        return map(self.take, consecutive(len(self.keys), size))


class Lost(NamedTuple):
    """Of each row [n]: loss, its weight (1 over how often its step t is drawn), t, and the squared
    error, of which loss may be made among other things."""

    loss: Tensor
    weight: Tensor
    t: Tensor
    mse: Tensor


@dataclass(frozen=True)
class Objective:
    """What is lost at a batch of rows. loss: of `gaussian_loss.LOSSES`, or "ldm" with its weights.
    gray: images have one channel. labelled, layout: the conditions ("none", "boxes", "masks" or
    "segmentation"), and how often rows go without. concat: the image beside, of `beside.KINDS`; of
    a segmentation with so many classes, at `side` pixels. keyed: the network takes dropout_keys."""

    encoder: Encoder
    gaussian: Gaussian
    schedule_sampler: UniformSampler
    autocast: Callable[[], AbstractContextManager[Any]]
    loss: str = "mse"
    simple_weight: float = 1.0
    elbo_weight: float = 0.0
    snr_gamma: float | None = None
    gray: bool = False
    labelled: bool = False
    layout: str = "none"
    class_dropout: float = 0.0
    layout_dropout: float = 0.0
    concat: str = "none"
    concat_classes: int = 0
    lowres_factor: int = 4
    side: int = 0
    keyed: bool = True

    def images(self, rows: Rows) -> Tensor:
        """Clean images [n, C, H, W], pixels in [-1, 1], or latents; of pictures that are not
        encoded yet these are."""
        eps, raw = None, rows.raw
        if self.latent and raw.dtype == torch.uint8:
            raw = self.encoder.encode_pixels(raw)
        if self.encoder.noise_channels:
            shape = (self.encoder.noise_channels, *raw.shape[2:])
            eps = normal(mix(rows.keys, _LATENT), shape[0] * shape[1] * shape[2])
            eps = eps.view(len(rows.keys), *shape)
        x0 = self.encoder.encode_latents(raw, eps)
        return x0.mean(1, keepdim=True) if self.gray else x0

    @property
    def latent(self) -> bool:
        """Whether the network is trained on latents."""
        return self.encoder.config["name"] != "rgb"

    def shown(self, x: Tensor) -> Tensor:
        """What the network is trained on, [..., C, H, W], as pictures in [-1, 1]."""
        if not self.latent:
            return x
        images = self.encoder.decode(x.reshape(-1, *x.shape[-3:]))
        return (images.float() / 127.5 - 1).view(*x.shape[:-3], *images.shape[1:])

    def conditions(self, rows: Rows, *, dropping: bool = True) -> dict[str, Any]:
        """The network's keyword arguments. dropping: some rows go without their class or layout."""
        found: dict[str, Any] = {}
        if self.labelled:
            found["y"] = rows.labels
            if dropping and self.class_dropout:
                kept = uniform(mix(rows.keys, _NO_CLASS), 1)[:, 0] >= self.class_dropout
                found["y"] = torch.where(kept, rows.labels, -1)
        if self.layout != "none":
            layout = layout_of(rows, self.layout)
            if dropping and self.layout_dropout:
                kept = uniform(mix(rows.keys, _NO_LAYOUT), 1)[:, 0] >= self.layout_dropout
                layout = layout.drop(kept)
            found["layout"] = layout
        if self.concat == "segmentation":
            found["concat"] = one_hot(rows.segmentation, self.concat_classes, self.side)
        elif self.concat != "none":
            pixels = RGBEncoder().encode_latents(rows.raw)
            small = self.concat == "lowres"
            found["concat"] = lowres(pixels, self.lowres_factor) if small else gray(pixels)
        return found

    def without(self, rows: Rows) -> dict[str, Any]:
        """The conditions that guidance leads away from: no class, no layout; the image beside
        stays."""
        found: dict[str, Any] = {}
        if self.labelled:
            found["y"] = torch.full_like(rows.labels, -1)
        if self.layout != "none":
            keep = torch.zeros(len(rows.keys), dtype=torch.bool, device=rows.keys.device)
            found["layout"] = layout_of(rows, self.layout).drop(keep)
        return found

    def row_losses(
        self, net: nn.Module | Callable[..., Tensor], rows: Rows, noise_keys: Tensor | None = None
    ) -> Lost:
        """What `net` loses at rows. noise_keys int64 [n]: of other noise at the same steps."""
        x0, cond = self.images(rows), self.conditions(rows)
        t, weight = self.schedule_sampler.sample(rows.keys)
        eps = keyed_noise(rows.keys if noise_keys is None else noise_keys, x0.shape[1:])
        x_t = self.gaussian.q_sample(x0, t, eps)
        if self.keyed:
            cond["dropout_keys"] = mix(rows.keys, _DROPOUT)
        with self.autocast():
            output = net(x_t, self.gaussian.model_time(t, x_t), **cond).float()
        target = self.gaussian.target(x0, x_t, t, eps)
        if self.loss == "ldm":
            found = ldm_losses(
                self.gaussian, output, t, target,
                simple_weight=self.simple_weight, vlb_weight=self.elbo_weight,
            )  # fmt: skip
            return Lost(found["loss"], weight, t, found["simple"].detach())
        found = training_losses(
            self.gaussian, output, x0, x_t, t, target,
            loss_type=self.loss, snr_gamma=self.snr_gamma,
        )  # fmt: skip
        mse = found["mse"] if "mse" in found else found["vb"]
        return Lost(found["loss"], weight, t, mse.detach())

    @torch.no_grad()
    def scores(self, net: nn.Module, rows: Rows, part: int) -> tuple[Tensor, Tensor]:
        """Losses [n] and noise levels sigma [n] of rows without gradients, `part` at a time."""
        found = [self.row_losses(net, piece) for piece in rows.parts(part)]
        t = torch.cat([lost.t for lost in found])
        sigma = self.gaussian.sqrt_recipm1_alphas_cumprod.float().to(t.device)[t]
        return torch.cat([lost.loss for lost in found]), sigma

    def best_noise(
        self, net: nn.Module | Callable[..., Tensor], rows: Rows, count: int, reject: float
    ) -> Tensor:
        """Keys of the noise that is trained on, of `count` for each row; see `best_keys`. Nearness
        is the squared error (of loss kl the bound)."""
        return best_keys(
            rows.keys, count, lambda keys: self.row_losses(net, rows, keys).mse, reject=reject
        )


def layout_of(rows: Rows, kind: str) -> Layout:
    """The rows' layouts, as networks take them. kind: boxes, masks or segmentation."""
    if kind == "segmentation":
        return Layout(rows.boxes, rows.classes, None, rows.segmentation.long())
    return Layout(rows.boxes, rows.classes, rows.masks if kind == "masks" else None)
