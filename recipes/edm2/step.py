"""What EDM2's network loses at the rows of a step."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from torch import Tensor, nn

from diffusion import EDM2Loss, frozen_weights
from diffusion.best_of import best_keys
from diffusion.encoders import Encoder
from diffusion.rows import Rows, row_losses, super_batch_losses


@dataclass(frozen=True)
class Objective:
    """loss_fn behind `encoder`, of networks that know label_dim classes and images of so many
    `values`. at_once: rows that are computed together, of a rank's `share` of a batch."""

    loss_fn: EDM2Loss
    encoder: Encoder
    label_dim: int
    values: int
    share: int
    at_once: int

    def row_losses(
        self, net: nn.Module, rows: Rows, noise_keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Losses [n], summed over an image's values, and sigmas [n]; see `diffusion.rows`."""
        return row_losses(
            net, rows, self.loss_fn, self.encoder, label_dim=self.label_dim, noise_keys=noise_keys
        )

    def scores(self, net: nn.Module, rows: Rows, draw: int = 0) -> tuple[Tensor, Tensor]:
        """The same without gradients, a part after the other. draw: of the noise."""
        # Keeping scaled weights costs memory traffic, and pays from the second part on.
        several = self.at_once < self.share
        with frozen_weights(net) if several else contextlib.nullcontext():
            return super_batch_losses(
                net, rows, self.loss_fn, self.encoder, label_dim=self.label_dim,
                part=self.at_once, draw=draw,
            )  # fmt: skip

    def best_noise(self, net: nn.Module, rows: Rows, count: int, reject: float) -> Tensor:
        """Keys of the noise that is trained on, of `count` for each row (of one its own key), as
        `diffusion.best_of.best_keys`; nearness is the mean loss of a value."""

        def losses(keys: Tensor) -> Tensor:
            return self.row_losses(net, rows, keys)[0] / self.values

        return best_keys(rows.keys, count, losses, reject=reject)
