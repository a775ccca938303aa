"""A trained encoder as a function: pictures of any kind and size -> features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.decode import decode, resize_rgb, to_rgb
from data.views.recipes import Recipe
from data.views.splits import Plain
from models import SimCLR
from recipes.simclr.files import encoder_of, open_encoder
from storage.errors import CheckpointError, DataError
from storage.files import expanded
from storage.find import newest_epoch
from storage.snapshot import Snapshot

# A picture: a file, uint8 [3, H, W] (torch), uint8 [H, W, 3] (numpy), or Pillow's.
Picture = str | Path | Tensor | np.ndarray | Image.Image


class Encoder:
    """h = f(x) of SimCLR's backbone f, on pictures as the network saw them in training.

    net: the plain module, in evaluation mode, frozen, on the device. dim: of the features. size:
    side of what the net takes. picture_size: side that pictures have before (--picture_size).
    """

    def __init__(
        self,
        net: SimCLR,
        plain: Plain,
        picture_size: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.net = net.to(device).eval().requires_grad_(False)
        self.device = torch.device(device)
        self.plain, self.size = plain, plain.size
        self.picture_size = picture_size or plain.size
        self.dim: int = net.feature_dim

    @classmethod
    def open(cls, path: str | Path, *, device: torch.device | str = "cpu") -> Encoder:
        """The encoder of a snapshot, an <epoch>.pt, a file of lightly's, solo-learn's or the
        original SimCLR code's, or a run's folder: of its last epoch.

        Errors: CheckpointError.
        """
        path = expanded(path)
        if path.is_dir():
            path = newest_epoch(path) or path
        if not path.exists():
            raise CheckpointError(f"encoder {path}: no such file, and no run of that name")
        if path.is_dir() and not (path / "latest.pt").exists():
            raise CheckpointError(f"{path} has no snapshot of an encoder (yet)")
        return cls._made(*open_encoder(path), device)

    @classmethod
    def of(cls, snapshot: Snapshot, *, device: torch.device | str = "cpu") -> Encoder:
        """The encoder of a snapshot that is open already. Errors: CheckpointError."""
        return cls._made(*encoder_of(snapshot), device)

    @classmethod
    def _made(
        cls,
        net: SimCLR,
        recipe: Recipe | None,
        picture_size: int | None,
        device: torch.device | str,
    ) -> Encoder:
        if recipe is None:  # the original's files do not tell
            return cls(net, Plain(net.config["resolution"]), None, device)
        return cls(net, Plain(recipe.size, recipe.mean, recipe.std), picture_size, device)

    def prepare(self, pictures: Picture | Sequence[Picture]) -> Tensor:
        """Pictures as the net takes them: float32 [N, 3, size, size] on the device, the central
        square, normalised as in training. Errors: DataError."""
        side = self.picture_size
        rows = [resize_rgb(image, side, "center") for image in _images(pictures)]
        if not rows:
            raise DataError("no pictures: there is nothing to encode")
        stacked = torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous()
        return self.plain(stacked.to(self.device))

    @torch.no_grad()
    def __call__(self, pictures: Picture | Sequence[Picture], *, batch: int = 256) -> Tensor:
        """Features float32 [N, dim] on the CPU, a row a picture. batch: pictures at a time.

        pictures: one or several (`Picture`), or a batch uint8 [N, 3, H, W] (torch) or [N, H, W, 3]
        (numpy). Errors: DataError.
        """
        several = _several(pictures)
        parts = [
            self.net.features(self.prepare(several[first : first + batch])).float().cpu()
            for first in range(0, len(several), max(1, batch))
        ]
        if not parts:
            raise DataError("no pictures: there is nothing to encode")
        return torch.cat(parts)


def _several(pictures: Any) -> Any:
    """One picture or many as a sequence."""
    if isinstance(pictures, str | Path | Image.Image):
        return [pictures]
    if isinstance(pictures, Tensor | np.ndarray) and pictures.ndim == 3:
        return pictures[None]
    return pictures


def _images(pictures: Any) -> Iterator[np.ndarray]:
    """Each picture as uint8 [H, W, 3]."""
    for one in _several(pictures):
        if isinstance(one, str | Path):
            yield decode(one)
        elif isinstance(one, Image.Image):
            yield np.asarray(to_rgb(one))
        elif isinstance(one, Tensor) and one.dtype == torch.uint8 and one.shape[:1] == (3,):
            yield _checked(one.cpu().permute(1, 2, 0).numpy())
        elif isinstance(one, np.ndarray):
            yield _checked(one)
        else:
            kind = f"{one.dtype} {list(one.shape)}" if isinstance(one, Tensor) else type(one)
            raise DataError(f"{kind} is no picture: a file, uint8 [3, H, W] (torch), [H, W, 3]")


def _checked(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise DataError(f"{image.dtype} {list(image.shape)} is no picture: uint8 [H, W, 3] is")
    return image
