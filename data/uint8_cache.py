"""A whole data set at one resolution as one uint8 array: batches by index, without a DataLoader.

cache = UInt8Cache(open_source("cifar10", data_home()), 32)        # in memory
cache = UInt8Cache(source, 128, place="memmap", folder=somewhere)  # on disk, mapped
images, labels = cache.batch(torch.tensor([3, 1, 4]))
cache.to("cuda")                                                   # batches form on the GPU
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.labelled import LabelledImages
from data.notes import COUNT, fits
from data.pyramids import free_memory
from data.sources import Source, channels_of, names_of
from runtime.progress import Progress
from runtime.workers import read
from storage.errors import DataDiskError, DataError
from storage.files import locked, make_folder, read_object, reserve, write_json, writing

PLACES = ("memory", "memmap")
PIXELS, LABELS, NOTE, PROGRESS = "pixels.u8", "labels.npy", "cache.json", "building.json"
_CHUNK = 1024  # pictures between two notes of progress
_SUM = (COUNT, COUNT, COUNT)  # in notes: pictures up to here, checksums of pixels and labels


class UInt8Cache:
    """`images` uint8 [N, 3, r, r] and `labels` int64 [N] of a source.

    source, resolution, crop, max_bad: as in LabelledImages, whose pictures these are (stand-ins for
    bad ones, and their labels, included). place: "memory", or "memmap": a file in a folder of its
    own below `folder`, named by a hash of the source's list, made once, shared by processes; an
    interrupted build goes on where it stopped. workers: processes that decode. verify: read the
    whole file against its checksums when it is opened, not only its first and last pictures.

    DataError: too little memory (with what to do), latents instead of pictures, a damaged file.
    """

    def __init__(
        self,
        source: Source,
        resolution: int,
        place: str = "memory",
        *,
        folder: str | Path | None = None,
        crop: str = "center",
        max_bad: int | None = None,
        workers: int = 0,
        verify: bool = False,
        quiet: bool = False,
    ) -> None:
        if place not in PLACES:
            raise DataError(f"place {place!r} is none of {', '.join(PLACES)}")
        if (folder is None) != (place == "memory"):
            raise DataError("a memmap needs a folder to lie in, a cache in memory has none")
        if channels_of(source) != 3:
            raise DataError(f"{source.name} holds latents, a cache takes pictures")
        self.place, self.resolution, self.name = place, int(resolution), source.name
        self.classes = names_of(source)
        self._quiet, self._workers = quiet, workers
        items = LabelledImages(source, resolution, crop=crop, max_bad=max_bad)
        self.shape = (len(items), 3, self.resolution, self.resolution)
        if place == "memory":
            check_memory(source.name, self.shape, free_memory(), "memory")
            pixels = np.empty(self.shape, np.uint8)
            labels = np.empty(len(items), np.int64)
            for _ in self._fill(items, pixels, labels, 0):
                pass
        else:
            self.digest = source_digest(source, self.resolution, crop)
            stem = "".join(c if c.isalnum() or c in "._+-" else "_" for c in source.name)[-80:]
            self.folder = Path(folder) / f"{stem}_{resolution}_{self.digest[:12]}"  # type: ignore[arg-type]
            pixels, labels = self._mapped(items, verify)
        self.images = torch.from_numpy(pixels)
        self.labels = torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Where batches are formed."""
        return self.images.device

    def to(self, device: str | torch.device) -> UInt8Cache:
        """Move pictures and labels to a device; DataError if they do not fit there."""
        device = torch.device(device)
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            check_memory(self.name, self.shape, free, f"{device}")
        self.images, self.labels = self.images.to(device), self.labels.to(device)
        return self

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures uint8 [B, 3, r, r], labels int64 [B] at indices int64 [B], all on `device`.

        Indices may repeat and come in any order; on the CPU those outside raise IndexError.
        """
        indices = indices.to(self.device, non_blocking=self.images.is_cuda)
        return self.images.index_select(0, indices), self.labels.index_select(0, indices)

    # -------------------------------------------------------------------------------- building

    def _fill(
        self, items: LabelledImages, pixels: np.ndarray, labels: np.ndarray, start: int
    ) -> Iterator[int]:
        """Read pictures from `start` on; yields how many are there, every _CHUNK of them."""
        from torch.utils.data import DataLoader

        total = len(items)
        loader = DataLoader(
            items,
            batch_size=64,
            sampler=range(start, total),
            num_workers=self._workers,
            multiprocessing_context="fork" if self._workers else None,
            generator=torch.Generator(),  # torch's own is not to depend on what had to be read
        )
        what, main = f"{self.name} at {self.resolution} px", False if self._quiet else None
        with Progress(
            total, desc=what, unit="picture", initial=start, main=main, brief=True
        ) as bar:
            done = start
            for _, images, classes in read(loader):
                part = slice(done, done + len(images))
                pixels[part], labels[part] = images.numpy(), classes.numpy()
                noted, done = done // _CHUNK, part.stop
                bar.update(len(images))
                if done // _CHUNK > noted or done == total:
                    yield done

    def _mapped(self, items: LabelledImages, verify: bool) -> tuple[np.ndarray, np.ndarray]:
        try:
            with locked(self.folder.parent / f".{self.folder.name}.lock", wait=True, what="cache"):
                if not (self.folder / NOTE).exists():
                    self._build(items)
                return self._open(verify)
        except OSError as error:
            raise DataDiskError(
                f"cannot write {self.folder}: {error.strerror or error}; run again when it can, "
                "it goes on from here"
            ) from None

    def _build(self, items: LabelledImages) -> None:
        make_folder(self.folder)
        size = int(np.prod(self.shape))
        progress: Any = read_object(self.folder / PROGRESS)
        if not fits(progress, {"done": COUNT, "sums": [_SUM]}):
            progress = {}  # none, or of another form: begun anew
        pixel_file, label_file = self.folder / PIXELS, self.folder / LABELS
        sums: list[list[int]] = progress.get("sums", [])
        start = progress.get("done", 0)
        there = pixel_file.is_file() and label_file.is_file()
        if not there or pixel_file.stat().st_size != size:
            start, sums = 0, []
            free = shutil.disk_usage(self.folder).free
            if size > free:
                raise DataError(
                    f"{self.name} at {self.resolution} px needs {size / 2**30:.1f} GiB in "
                    f"{self.folder}, {free / 2**30:.1f} are free; another folder, or smaller "
                    "pictures"
                )
            reserve(pixel_file, size)  # NOTE says when all of it is there
            _no_labels(label_file, self.shape[0])
        pixels = np.memmap(pixel_file, np.uint8, "r+", shape=self.shape)
        labels = np.load(label_file, mmap_mode="r+")
        if len(labels) != len(pixels) or start > len(pixels):
            start, sums = 0, []
            _no_labels(label_file, self.shape[0])
            labels = np.load(label_file, mmap_mode="r+")
        for done in self._fill(items, pixels, labels, start):
            pixels.flush()
            labels.flush()
            # boundaries are whole batches, the same however often the build was interrupted
            sums.append(
                [done, zlib.crc32(pixels[start:done].data), zlib.crc32(labels[start:done].data)]
            )
            start = done
            write_json(self.folder / PROGRESS, {"done": done, "sums": sums})
        note = {"digest": self.digest, "shape": list(self.shape), "sums": sums}
        write_json(self.folder / NOTE, note)  # last: says that all of it is there
        (self.folder / PROGRESS).unlink(missing_ok=True)

    def _open(self, verify: bool) -> tuple[np.ndarray, np.ndarray]:
        again = f"remove {self.folder} to have it made again"
        note: Any = read_object(self.folder / NOTE)
        size = int(np.prod(self.shape))
        file = self.folder / PIXELS
        if not fits(note, {"digest": str, "shape": [COUNT], "sums": [_SUM]}) or not note["sums"]:
            raise DataError(f"{self.folder / NOTE} is damaged; {again}")
        if note["digest"] != self.digest or note["shape"] != list(self.shape):
            raise DataError(f"{self.folder / NOTE} does not belong to {self.name}; {again}")
        if not file.is_file() or file.stat().st_size != size:
            raise DataError(f"{file} has not the {size} bytes it was made with; {again}")
        # copy on write: nobody changes the file by accident, and torch takes the array as its own
        pixels = np.memmap(file, np.uint8, "c", shape=self.shape)
        try:
            labels = np.load(self.folder / LABELS)
        except (OSError, ValueError):
            raise DataError(f"{self.folder / LABELS} cannot be read; {again}") from None
        begins = [0, *(stop for stop, _, _ in note["sums"])]
        parts = list(zip(begins, note["sums"], strict=False))
        for begin, (stop, pixel_sum, label_sum) in parts if verify else {*_ends(parts)}:
            found = zlib.crc32(pixels[begin:stop].data), zlib.crc32(labels[begin:stop].data)
            if found != (pixel_sum, label_sum):
                raise DataError(f"pictures {begin} to {stop - 1} in {file} are damaged; {again}")
        return np.asarray(pixels), labels


def _no_labels(file: Path, count: int) -> None:
    with writing(file) as out:
        np.save(out, np.zeros(count, np.int64))


def _ends(parts: list) -> Iterator[tuple]:
    for begin, sums in (parts[0], parts[-1]):
        yield begin, tuple(sums)


def source_digest(source: Source, resolution: int, crop: str) -> str:
    """SHA-256 of what a cache is made from: names, sizes of files, labels, resolution and crop.

    Names count from the folder that all have in common, so a set may be moved.
    """
    paths = [source.path(i) for i in range(len(source))]
    common = os.path.commonprefix(paths).rpartition("/")[0]
    digest = hashlib.sha256(f"uint8 {resolution} {crop} {len(paths)}\n".encode())
    for i, path in enumerate(paths):
        try:
            size = os.stat(path).st_size
        except (OSError, ValueError):
            size = -1  # inside an archive, or drawn
        name = path.removeprefix(common)
        digest.update(f"{name}\t{size}\t{source.label(i)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def check_memory(name: str, shape: tuple[int, ...], free: int | None, where: str) -> None:
    """DataError, with what to do, if uint8 of this shape do not fit the free bytes of a place."""
    need = int(np.prod(shape, dtype=np.int64))
    if free is not None and need > free:
        instead = 'place="memmap"' if where == "memory" else "leave the cache on the CPU"
        raise DataError(
            f"{name} at {shape[-1]} px needs {need / 2**30:.1f} GiB of {where}, "
            f"{free / 2**30:.1f} are free; {instead}, or take smaller pictures"
        )
