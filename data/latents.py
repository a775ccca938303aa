"""Pictures as latents of an autoencoder, encoded once: in memory, or in files that stay.

latents = LatentImages(images, encode, shape=(8, 32, 32), digest=..., folder=somewhere)
index, raw, label = latents[7]

The autoencoder is the caller's: `encode` makes of uint8 pictures [n, 3, r, r] what is stored,
float32 [n, *shape]. A folder holds chunks of a few hundred pictures, each written whole or not at
all, so that encoding that was interrupted goes on with the next chunk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from data.labelled import LabelledImages
from data.layout_images import Item, LayoutBatch, LayoutImages
from data.uint8_cache import source_digest
from runtime.progress import Progress
from runtime.workers import read
from storage.errors import DataDiskError, DataError
from storage.files import locked, make_folder, read_object, write_json, writing

NOTE = "latents.json"
CHUNK = 256  # pictures of a file
_BATCH = 32
Pixels = LabelledImages | LayoutImages


class LatentImages(Dataset):
    """Item i of `images` with its latents, float32 [*shape], instead of pixels.

    images: labelled pictures or a layout set, which augments nothing: item i is always the same.
    encode: pictures -> latents, asked for those that are not stored yet. digest: of the
    autoencoder; another one, or other pictures, is another folder below `folder`. folder: None
    keeps them in memory. workers: that read pictures. Attributes: of (images), source, resolution
    and channels of the latents. Errors: DataError, DataDiskError.
    """

    def __init__(
        self,
        images: Pixels,
        encode: Callable[[Tensor], Tensor],
        *,
        shape: tuple[int, int, int],
        digest: str,
        folder: Path | None = None,
        workers: int = 0,
    ) -> None:
        if isinstance(images, LayoutImages) and images.augment is not None:
            raise DataError("stored latents are of pictures as they are: no augmentation")
        self.of, self.source = images, images.source
        self.channels, self.resolution, self.shape = shape[0], shape[1], shape
        self._encode, self._workers = encode, workers
        self._kept: list[tuple[np.ndarray, np.ndarray]] = []
        if folder is None:
            self._kept = [made for _, made in self._made(range(self._count()))]
            return
        sha = hashlib.sha256(f"{digest} {pixels_digest(images)} {shape} {CHUNK}".encode())
        self.digest = sha.hexdigest()
        stem = "".join(c if c.isalnum() or c in "._+-" else "_" for c in images.source.name)[-80:]
        self.folder = folder / f"{stem}_{images.resolution}_{self.digest[:12]}"
        try:
            with locked(folder / f".{self.folder.name}.lock", wait=True, what="latents"):
                if read_object(self.folder / NOTE) is None:
                    self._build()
        except OSError as error:
            raise DataDiskError(
                f"cannot write {self.folder}: {error.strerror or error}; run again when it can, "
                "it goes on from here"
            ) from None
        self._kept = [self._opened(k) for k in range(self._count())]

    def __len__(self) -> int:
        return len(self.of)

    def __getitem__(self, which: int | tuple[int, int]) -> tuple[int, Tensor, int] | Item:
        i = int(which[0] if isinstance(which, tuple) else which) % len(self)
        latents, labels = self._kept[i // CHUNK]
        row = torch.from_numpy(np.array(latents[i % CHUNK]))
        if isinstance(self.of, LayoutImages):
            return self.of[i]._replace(image=row)
        return i, row, int(labels[i % CHUNK])

    def collate(self, items: list) -> LayoutBatch | list:
        """A batch; `collate_fn` of a DataLoader."""
        return (
            self.of.collate(items) if isinstance(self.of, LayoutImages) else default_collate(items)
        )

    def unit_scale(self, channels: int, deviations: bool) -> float:
        """What latents are multiplied by to have a standard deviation of 1, of the first pictures.

        channels: of latents; deviations: behind them stand standard deviations of as many.
        latent-diffusion's `scale_by_std` (arXiv:2112.10752, appendix G).
        """
        some = self._kept[0][0].astype(np.float64)
        variance = some[:, :channels].var()
        if deviations:
            variance += np.square(some[:, channels:]).mean()
        return float(np.float32(1 / max(variance**0.5, 1e-12)))

    # -------------------------------------------------------------------------------- building

    def _count(self) -> int:
        return -(-len(self.of) // CHUNK)

    def _size(self, k: int) -> int:
        return min(CHUNK, len(self.of) - k * CHUNK)

    def _made(self, numbers: Sequence[int]) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
        total, what = sum(self._size(k) for k in numbers), f"latents of {self.source.name}"
        with Progress(total, desc=what, unit="picture", brief=True) as bar:
            for k in numbers:
                yield k, self._chunk(k, bar)

    def _chunk(self, k: int, bar: Progress) -> tuple[np.ndarray, np.ndarray]:
        """Latents and labels of a chunk, encoded."""
        first = k * CHUNK
        loader = DataLoader(
            self.of,
            batch_size=_BATCH,
            sampler=range(first, first + self._size(k)),
            num_workers=self._workers,
            multiprocessing_context="fork" if self._workers else None,
            generator=torch.Generator(),  # torch's own is not to depend on what had to be read
            collate_fn=self.of.collate if isinstance(self.of, LayoutImages) else None,
        )
        found, labels = [], []
        for batch in read(loader):
            pictures = batch[1]
            raw = self._encode(pictures).float().cpu()
            if tuple(raw.shape[1:]) != self.shape:
                raise DataError(f"latents of {list(raw.shape[1:])}, not {list(self.shape)}")
            found.append(raw.numpy())
            no_labels = isinstance(batch, LayoutBatch)
            labels.append(np.zeros(len(raw), np.int64) if no_labels else batch[2].numpy())
            bar.update(len(raw))
        return np.concatenate(found), np.concatenate(labels)

    def _files(self, k: int) -> tuple[Path, Path]:
        return self.folder / f"{k:05d}.npy", self.folder / f"{k:05d}.labels.npy"

    def _build(self) -> None:
        make_folder(self.folder)
        missing = [k for k in range(self._count()) if not self._files(k)[0].is_file()]
        for k, arrays in self._made(missing):
            for file, array in reversed(list(zip(self._files(k), arrays, strict=True))):
                with writing(file) as out:  # the latents last: they say that both are there
                    np.save(out, array)
        note = {"digest": self.digest, "pictures": len(self.of), "shape": list(self.shape)}
        write_json(self.folder / NOTE, note)  # says that all of it is there

    def _opened(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        file, label_file = self._files(k)
        again = f"remove {self.folder} to have them made again"
        try:
            latents, labels = np.load(file, mmap_mode="r"), np.load(label_file)
        except (OSError, ValueError):
            raise DataError(f"{file} or its labels cannot be read; {again}") from None
        if latents.shape != (self._size(k), *self.shape) or len(labels) != len(latents):
            raise DataError(f"{file} has not the latents it was made with; {again}")
        return latents, labels


def pixels_digest(images: Pixels) -> str:
    """SHA-256 of what decides the pixels of a set's items, as far as names and sizes of files
    tell."""
    kind = "layouts" if isinstance(images, LayoutImages) else "labelled"
    made = source_digest(images.source, images.resolution, images.crop)
    return hashlib.sha256(f"{kind} {made} {bool(images.xflip)}".encode()).hexdigest()
