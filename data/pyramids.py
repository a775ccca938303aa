"""One picture at every resolution of a CAM-Net, the same picture at each by construction."""

from __future__ import annotations

import hashlib
import mmap
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from data.decode import resize_rgb
from data.sources import (
    CROPS,
    Source,
    allowed_bad,
    channels_of,
    has_native,
    is_drawn,
    native,
)
from storage.errors import DataError, DataShapeError

_ATTEMPTS = 64


class Pyramid(Dataset):
    """Item i is `(x uint8 [3, r0, r0], [uint8 [3, r1, r1], ...])`; no augmentation here.

    Every size is a Pillow bicubic reduction straight from the original (as CAM-Net's data step),
    unless the source holds that size itself. A source that draws pictures at any size draws the
    largest, and the others are reductions of it: drawn for themselves they would be other pictures,
    with which no output of the largest size could agree. `crop`: "squash" resizes the whole picture
    to a square, "center" cuts the central square first. A size that repeats is decoded once.

    A picture that cannot be read is replaced by another one, chosen by a hash of its index, in
    every run and worker alike; it is named once on stderr and counted over all workers and passes.
    More than `max_bad` bad pictures (default: 0.1 % of the set, at least 3, at most 100) raise
    DataError.

    `cache="memory"` keeps each decoded size as one uint8 array, shared with forked workers and
    filled as pictures are first asked for.
    """

    def __init__(
        self,
        source: Source,
        res: Sequence[int],
        *,
        crop: str = "squash",
        cache: str = "none",
        max_bad: int | None = None,
    ) -> None:
        if not len(source):
            raise DataError(f"{source.name} has no images")
        if not res or any(isinstance(r, bool) or int(r) != r or r < 1 for r in res):
            raise DataError(f"resolutions {list(res)} must be positive integers")
        if crop not in CROPS:
            raise DataError(f"crop {crop!r} is none of {', '.join(CROPS)}")
        if cache not in ("none", "memory"):
            raise DataError(f"cache {cache!r} is neither none nor memory")
        self.channels, dtype = self._kind(source)
        self.source = source
        self.res = [int(r) for r in res]
        self.crop = crop
        self.sizes = sorted(set(self.res))
        drawn = is_drawn(source)
        self._native = {
            size: has_native(source, size, crop) and (not drawn or size == self.sizes[-1])
            for size in self.sizes
        }
        n = len(source)
        self.max_bad = allowed_bad(n) if max_bad is None else max_bad
        # One byte a picture, shared with workers however they are started; no lock: each byte is
        # only ever set, and the count is taken after setting.
        self._bad = multiprocessing.RawArray("B", n)
        self._cache = _Cache(n, self.sizes, self.channels, dtype) if cache == "memory" else None

    def __len__(self) -> int:
        return len(self.source)

    @property
    def bad_count(self) -> int:
        """Distinct pictures found unreadable so far, over all workers."""
        return int(np.count_nonzero(np.frombuffer(self._bad, np.uint8)))

    def __getitem__(self, i: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        i = int(i)
        n = len(self.source)
        if not -n <= i < n:
            raise IndexError(f"image {i} of {n}")
        i %= n
        levels = {size: torch.from_numpy(chw) for size, chw in self.picture(i).items()}
        return levels[self.res[0]], [levels[r] for r in self.res[1:]]

    def label(self, i: int) -> int:
        """Class index of image i (also when its picture had to be substituted)."""
        return self.source.label(i)

    def shown(self, i: int) -> int:
        """Number of the picture that item i shows: i, or its stand-in once i is known as bad."""
        return i if not self._bad[i] else next((j for j in self._chain(i) if not self._bad[j]), i)

    def picture(self, i: int) -> dict[int, np.ndarray]:
        """{size: [C, size, size]} of image i or of its stand-in; the arrays are the caller's."""
        if self._cache is not None and (hit := self._cache.get(i)) is not None:
            return hit
        for j in self._chain(i):
            if self._bad[j]:
                continue
            try:
                picture = self._read(j)
            except DataShapeError:
                raise  # the set is not what it was taken for; another picture would hide that
            except DataError as error:
                self._count(j, error)
                continue
            if self._cache is not None:
                self._cache.put(i, picture)
            return picture
        raise DataError(
            f"{self.source.path(i)} is bad and so were {_ATTEMPTS - 1} stand-ins: "
            f"check the data set {self.source.name}"
        )

    def _read(self, i: int) -> dict[int, np.ndarray]:
        original, drawn = None, is_drawn(self.source)
        picture = {}
        for size in reversed(self.sizes):
            if self._native[size]:
                image = native(self.source, i, size)
                original = image if drawn else original
            else:
                if original is None:
                    original = self.source.image(i)
                image = resize_rgb(original, size, self.crop)
            picture[size] = np.array(image.transpose(2, 0, 1), order="C")
        return picture

    def _kind(self, source: Source) -> tuple[int, type]:
        """(channels, dtype) of what `_read` gives."""
        if channels_of(source) != 3:
            raise DataError(
                f"{source.name} holds latents of {channels_of(source)} channels, not pictures; "
                "`python data/dataset_tool.py decode` makes pictures of them"
            )
        return 3, np.uint8

    def _chain(self, i: int) -> Iterator[int]:
        yield i
        for attempt in range(1, _ATTEMPTS):
            yield self._stand_in(i, attempt)

    def _stand_in(self, i: int, attempt: int) -> int:
        word = hashlib.blake2b(f"{i}/{attempt}".encode(), digest_size=8).digest()
        return int.from_bytes(word, "little") % len(self.source)

    def _count(self, j: int, error: DataError) -> None:
        self._bad[j] = 1
        count = self.bad_count
        line = f"{error}: substituted #{self._stand_in(j, 1)}; {count}/{len(self.source)}"
        print(line, file=sys.stderr, flush=True)
        if count > self.max_bad:
            raise DataError(
                f"{count} bad images of {len(self.source)} in {self.source.name}, at most "
                f"{self.max_bad} are let pass; the last: {error}"
            )


class _Cache:
    """[N, C, size, size] a size, in anonymous shared memory: forked workers fill it together.

    Plain anonymous maps, not /dev/shm, which is 64 MB in many containers. A spawned worker gets an
    empty cache of its own.
    """

    def __init__(
        self, n: int, sizes: Sequence[int], channels: int = 3, dtype: type = np.uint8
    ) -> None:
        self.n, self.sizes, self.channels, self.dtype = n, list(sizes), channels, np.dtype(dtype)
        need = sum(self._bytes(s) for s in sizes)
        free = free_memory()
        if free is not None and need > free:
            raise DataError(
                f"caching {n} images at {list(sizes)} needs {need / 2**30:.1f} GiB, "
                f"{free / 2**30:.1f} are free; do without the memory cache"
            )
        self._allocate()

    def _allocate(self) -> None:
        self._filled = np.frombuffer(mmap.mmap(-1, self.n), np.uint8)
        self._pixels = {
            s: np.frombuffer(mmap.mmap(-1, self._bytes(s)), self.dtype).reshape(
                self.n, self.channels, s, s
            )
            for s in self.sizes
        }

    def _bytes(self, size: int) -> int:
        return self.n * self.channels * size * size * self.dtype.itemsize

    def __getstate__(self) -> dict:
        keys = ("n", "sizes", "channels", "dtype")
        return {key: self.__dict__[key] for key in keys}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._allocate()

    def get(self, i: int) -> dict[int, np.ndarray] | None:
        # copies: a batch of one (or a careless user) must not write into the cache
        return {s: p[i].copy() for s, p in self._pixels.items()} if self._filled[i] else None

    def put(self, i: int, picture: dict[int, np.ndarray]) -> None:
        for size, chw in picture.items():
            self._pixels[size][i] = chw
        self._filled[i] = 1  # last: two workers at the same image write the same bytes


def free_memory() -> int | None:
    try:
        with open("/proc/meminfo") as table:
            for line in table:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
