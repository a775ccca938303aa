"""Augmentations that are functions of the image's key.

A code is matched to one very input, so within an outer loop an image must look the same in the
search, in every pass of the training batches, on every rank and after a resume.
"""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.counter_rng import mix, uniform

_TAG = 0x666C6970  # "flip"


class KeyedFlip:
    """Horizontal flip decided by (seed, loop, image id), the same at every resolution.

    p: probability in [0, 1].
    """

    def __init__(self, seed: int = 0, p: float = 0.5) -> None:
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"the flip probability must be in [0, 1], got {p}")
        self.seed, self.p = int(seed), float(p)

    def flips(self, loop: int, image_ids: Tensor) -> Tensor:
        """Which images are flipped: bool [B] for int64 ids [B], on the ids' device."""
        return uniform(mix(_TAG, self.seed, loop, image_ids), 1)[:, 0] < self.p

    def __call__(self, images: list[Tensor], loop: int, image_ids: Tensor) -> list[Tensor]:
        """New images [B, C, H, W] each, any dtype; the inputs are left alone."""
        flips = self.flips(loop, image_ids)
        return [
            torch.where(flips.to(x.device).view(-1, *[1] * (x.dim() - 1)), x.flip(-1), x)
            for x in images
        ]
