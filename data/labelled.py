"""Numbered, labelled pictures (or VAE latents) at one resolution, as diffusion training reads them.

images = LabelledImages(open_source("mnist", data_home()), 32)
index, image, label = images[7]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from data.pyramids import Pyramid
from data.sources import Source, channels_of, is_drawn, labels_of, latent, names_of
from storage.errors import DataError, DataShapeError

LATENTS = 8  # mean and standard deviation of a 4-channel autoencoder
_LOOKED_AT = 8


class LabelledImages(Dataset):
    """Item i is `(i, image, label)`: int, tensor, int.

    image: uint8 [3, r, r], or float32 [8, r, r] (mean, then standard deviation) where the source
    holds latents. label: the class of the picture that is shown (of the stand-in, where a bad
    picture had to be substituted); 0 in an unlabelled set.

    resolution: r; None for the source's own, which then must be one square size. Pictures of other
    sizes are reduced or enlarged as in `Pyramid` (`crop`: "center" cuts the central square first,
    "squash" does not); latents cannot be.
    xflip: the set is twice as long; item n + k is item k mirrored. The index returned is the item's
    (0 .. 2n - 1), so per-sample noise can be keyed by it; modulo n it is the picture's. Latents
    are mirrored as they are, which is not quite the latent of the mirrored picture.
    cache, max_bad: see Pyramid.

    `label_dim` is the number of classes, 0 if there is but one: the width of a one-hot label.
    `classes` are their names, in words where the data set tells.
    DataError for a resolution that is not there, mixed sizes, or labels outside the classes.
    """

    def __init__(
        self,
        source: Source,
        resolution: int | None = None,
        *,
        crop: str = "center",
        xflip: bool = False,
        cache: str = "none",
        max_bad: int | None = None,
    ) -> None:
        if not len(source):
            raise DataError(f"{source.name} has no images")
        self.source = source
        self.channels = channels_of(source)
        self.xflip, self.crop = bool(xflip), crop
        if resolution is None or self.channels != 3:
            size = own_size(source)
            if resolution not in (None, size):
                raise DataError(
                    f"{source.name} holds latents of {size}x{size}; they cannot be brought to "
                    f"{resolution}x{resolution}, encode pictures of another size instead"
                )
            self._pyramid: Pyramid = _AsTheyAre(source, [size], cache=cache, max_bad=max_bad)
        else:
            self._pyramid = Pyramid(source, [resolution], crop=crop, cache=cache, max_bad=max_bad)
        self.resolution = self._pyramid.res[0]
        self.classes = names_of(source)
        self.label_dim = len(self.classes) if len(self.classes) > 1 else 0
        self._labels = labels_of(source)
        low, high = int(self._labels.min()), int(self._labels.max())
        if low < 0 or high >= max(1, len(self.classes)):
            raise DataError(
                f"{source.name} has labels {low} to {high} but {len(self.classes)} classes"
            )
        self._n = len(source)

    def __len__(self) -> int:
        return self._n * (2 if self.xflip else 1)

    def __getitem__(self, i: int) -> tuple[int, torch.Tensor, int]:
        i, total = int(i), len(self)
        if not -total <= i < total:
            raise IndexError(f"image {i} of {total}")
        i %= total
        k = i % self._n
        image = self._pyramid.picture(k)[self.resolution]
        if i != k:
            image = np.ascontiguousarray(image[:, :, ::-1])  # torch takes no negative strides
        return i, torch.from_numpy(image), int(self._labels[self._pyramid.shown(k)])

    @property
    def labels(self) -> np.ndarray:
        """int64 [n], the label of every picture of the source."""
        return self._labels

    @property
    def bad_count(self) -> int:
        """Distinct pictures found unreadable so far, over all workers."""
        return self._pyramid.bad_count


class _AsTheyAre(Pyramid):
    """Pictures or latents at the one size they have."""

    def _kind(self, source: Source) -> tuple[int, type]:
        channels = channels_of(source)
        return channels, np.uint8 if channels == 3 else np.float32

    def _read(self, i: int) -> dict[int, np.ndarray]:
        if self.channels == 3:
            image = np.array(self.source.image(i).transpose(2, 0, 1), order="C")
        else:
            image = latent(self.source, i)
        size = self.sizes[0]
        if image.shape != (self.channels, size, size):
            raise DataShapeError(
                f"{self.source.path(i)} is {_shape(image.shape)}, others of {self.source.name} "
                f"are {_shape((self.channels, size, size))}; give a resolution"
            )
        return {size: image}


def own_size(source: Source) -> int:
    """Side length of the pictures of a source, judged by a few; DataError if not one square size.

    Every other picture is compared when it is read.
    """
    if is_drawn(source):
        raise DataError(f"{source.name} are drawn at any size; give a resolution")
    n = len(source)
    latents = channels_of(source) != 3
    found: tuple[int, tuple[int, ...]] | None = None
    for i in sorted({round(k * (n - 1) / (_LOOKED_AT - 1)) for k in range(_LOOKED_AT)}):
        try:
            shape = (latent(source, i) if latents else source.image(i).transpose(2, 0, 1)).shape
        except DataShapeError:
            raise
        except DataError:
            continue  # a bad picture is told of when it is used
        if shape[1] != shape[2]:
            raise DataShapeError(
                f"{source.path(i)} is {_shape(shape)}, not square; give a resolution"
            )
        if found is not None and shape != found[1]:
            raise DataShapeError(
                f"{source.name} is not of one size: {source.path(found[0])} is "
                f"{_shape(found[1])}, {source.path(i)} is {_shape(shape)}; give a resolution"
            )
        found = found or (i, shape)
    if found is None:
        raise DataError(f"none of the first pictures looked at in {source.name} can be read")
    return int(found[1][1])


def _shape(shape: Sequence[int]) -> str:
    size = f"{shape[2]}x{shape[1]}"
    return size if shape[0] == 3 else f"{size} of {shape[0]} channels"
