"""Rows of a batch whose noise level, noise and dropout are functions of a key.

Two-pass selection scores a super-batch without gradients and then trains on the rows it chose, with
the very noise that they were scored under; ranks may trade rows in between. So a row carries the
seed of its random numbers instead of the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffusion.edm2_loss import EDM2Loss, per_pixel_loss
from diffusion.encoders import Encoder
from runtime.counter_rng import mix, normal

_LEVEL, _NOISE, _LATENT = range(3)  # streams of a row's random numbers
_TAG_NOISE, _TAG_DROPOUT = 0x6E6F697365, 0x64726F70  # "noise", "drop"


class Rows(NamedTuple):
    """index int64 [n] into the data set, raw [n, C, H, W] as stored, labels int64 [n], keys int64
    [n]."""

    index: Tensor  # type: ignore[assignment]  # a tuple's own `index` is of no use here
    raw: Tensor
    labels: Tensor
    keys: Tensor

    def take(self, rows: Tensor | slice) -> Rows:
        """Some of the rows, in the order asked for."""
        return Rows(*(t[rows] for t in self))

    def parts(self, size: int) -> Iterator[Rows]:
        """Consecutive rows, `size` at a time (0: all at once); nothing if there are none."""
        return map(self.take, consecutive(len(self.keys), size))


def consecutive(n: int, size: int) -> Iterator[slice]:
    """Slices of n rows, `size` at a time (0: all at once); none if there are no rows."""
    for first in range(0, n, size or max(n, 1)):
        yield slice(first, first + (size or n))


def row_keys(seed: int, step: int, first: int, stride: int, n: int, device: torch.device) -> Tensor:
    """Keys int64 [n] of rows first, first + stride, ... of the batch of `step`."""
    rows = first + stride * torch.arange(n, device=device)
    return mix(_TAG_NOISE, seed, step, rows)


def row_losses(
    net: nn.Module | Callable[..., tuple[Tensor, Tensor]],
    rows: Rows,
    loss_fn: EDM2Loss,
    encoder: Encoder,
    *,
    label_dim: int,
    draw: int = 0,
    noise_keys: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Loss of every row, summed over channels and pixels [n], and its sigma [n].

    label_dim: width of the one-hot labels, 0 for none. draw: another number gives other noise
    (learner and reference share theirs when it is the same). noise_keys int64 [n]: of the noise
    alone, at the same sigma.
    """
    keys = rows.keys if draw == 0 else mix(rows.keys, draw)
    n, (height, width) = len(keys), rows.raw.shape[2:]

    def noise(stream: int, channels: int, of: Tensor = keys) -> Tensor:
        return normal(of, channels * height * width, stream=stream).view(n, channels, height, width)

    eps = noise(_LATENT, encoder.noise_channels) if encoder.noise_channels else None
    images = encoder.encode_latents(rows.raw, eps)
    sigma = loss_fn.sigma(normal(keys, 1, stream=_LEVEL))[:, 0]
    labels = nn.functional.one_hot(rows.labels, label_dim).float() if label_dim else None
    loss = per_pixel_loss(
        net,  # type: ignore[arg-type]
        images,
        sigma,
        noise(_NOISE, images.shape[1], keys if noise_keys is None else noise_keys),
        labels,
        sigma_data=loss_fn.sigma_data,
        # The mask belongs to the image's row, whatever draw of the noise it meets.
        dropout_keys=mix(rows.keys, _TAG_DROPOUT),
    )
    return loss.sum((1, 2, 3)), sigma


@torch.no_grad()
def super_batch_losses(
    net: nn.Module,
    rows: Rows,
    loss_fn: EDM2Loss,
    encoder: Encoder,
    *,
    label_dim: int,
    part: int,
    draw: int = 0,
) -> tuple[Tensor, Tensor]:
    """`row_losses` without gradients, `part` rows at a time: losses [n] and sigmas [n]."""
    pieces = [
        row_losses(net, p, loss_fn, encoder, label_dim=label_dim, draw=draw)
        for p in rows.parts(part)
    ]
    losses, sigmas = zip(*pieces, strict=True)
    return torch.cat(losses), torch.cat(sigmas)
