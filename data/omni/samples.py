"""The samples of one domain: of a list of files, or drawn; item i as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.omni.lists import read_list
from data.omni.maps import read_map, read_picture
from data.omni.transforms import Arrays, Step, drawn_size, transformed
from data.omni.words import CLASSES, DOMAINS, MAPS, MODES
from data.scenes import Scenes
from data.sources import Source
from data.views.layouts import nearest
from storage.errors import DataError
from storage.listing import Listing

SCENES = "scenes"  # in the place of a list
HEIGHT_M = 10.0  # metres that are 1 in the map of heights of scenes; what is higher is 1 too
MEAN, STD = 1 / 255, 1 / 3  # of inverse depth


class Item(NamedTuple):
    """A sample as tensors. x: float32 [3, H, W] in [-1, 1]; maps: key -> tensor, see `data.omni`;
    paths: key -> where it came from."""

    x: Tensor
    maps: dict[str, Tensor]
    paths: dict[str, str]


class Samples(Protocol):
    """Numbered samples of a domain. arrays(i, size): picture `x` uint8 [H, W, 3] and maps [H, W],
    as they are stored, or drawn at `size`; paths(i): of each key; names: of all, relative, or None
    for what is drawn."""

    def __len__(self) -> int: ...

    def arrays(self, i: int, size: int) -> Arrays: ...

    def paths(self, i: int) -> dict[str, str]: ...

    def names(self) -> list[str] | None: ...


class ListedSamples:
    """The samples of a list file. classes, no_class, depth_unit: see `open_samples`. unread: {map
    that is not in `keep`: how many samples have it}. Errors: DataError."""

    def __init__(
        self,
        file: Path,
        keep: Sequence[str],
        classes: int = CLASSES,
        depth_unit: float = 1.0,
        no_class: int | None = None,
    ) -> None:
        self.file, self.classes, self.depth_unit = file, classes, depth_unit
        self.no_class = no_class
        self.unread: dict[str, int] = {}
        self.samples = read_list(file, keep, self.unread)

    def __len__(self) -> int:
        return len(self.samples)

    def arrays(self, i: int, size: int) -> Arrays:
        sample = self.samples[i]
        out = {"x": read_picture(sample["x"])}
        for key in MAPS:
            if key in sample:
                array = read_map(key, sample[key], self.classes, self.no_class)
                _check_shape(out["x"], array, sample["x"], sample[key])
                array = nearest(array, out["x"].shape[:2])  # maps are often of another resolution
                out[key] = array * np.float32(self.depth_unit) if key == "d" else array
        return out

    def paths(self, i: int) -> dict[str, str]:
        return self.samples[i]

    def names(self) -> list[str]:
        return [Path(s["x"]).name for s in self.samples]


class SceneSamples:
    """Scenes of a domain, with the maps in `keep`. Every domain has scenes of its own: no picture
    of one is another's with or without water."""

    def __init__(self, domain: str, mode: str, keep: Sequence[str], count: int | None) -> None:
        self.domain, self.mode, self.keep = domain, mode, tuple(keep)
        style = "real" if domain[0] == "r" else "sim"
        self.scenes = Scenes(mode, count, DOMAINS.index(domain), style, domain[1] == "f")

    def __len__(self) -> int:
        return len(self.scenes)

    def arrays(self, i: int, size: int) -> Arrays:
        if not self.keep:
            return {"x": self.scenes.image(i, size)}
        seen = self.scenes.render(i, size)
        maps = {
            "d": seen.depth,
            "h": np.clip(seen.height / HEIGHT_M, 0, 1).astype(np.float32),
            "s": seen.segmentation.astype(np.int32),
            "w": seen.water.astype(np.float32),
        }
        return {"x": seen.image, **{k: m for k, m in maps.items() if k in self.keep}}

    def paths(self, i: int) -> dict[str, str]:
        name = f"{self.scenes.path(i)}-{self.domain}"
        return {key: f"{name}/{key}" for key in ("x", *self.keep)}

    def names(self) -> None:
        return None


class ListedPictures:
    """The pictures of a list without their maps: a `data.sources.Source` without classes."""

    classes: list[str] = [""]
    labelled = False

    def __init__(self, samples: ListedSamples) -> None:
        self.samples, self.name = samples.samples, samples.file.stem

    def __len__(self) -> int:
        return len(self.samples)

    def image(self, i: int) -> np.ndarray:
        """uint8 [H, W, 3]. Errors: DataError."""
        return read_picture(self.samples[i]["x"])

    def label(self, i: int) -> int:
        """0, of all."""
        return 0

    def path(self, i: int) -> str:
        """Where it lies."""
        return self.samples[i]["x"]


def pictures_of(samples: Samples) -> Source:
    """The pictures of samples as other parts of the toolkit read them. Errors: TypeError."""
    if isinstance(samples, SceneSamples):
        return samples.scenes
    if isinstance(samples, ListedSamples):
        return ListedPictures(samples)
    raise TypeError(f"{type(samples).__name__}: samples of a list or of scenes")


class DomainSamples(Dataset):
    """Item i, or (i, draw), of a domain in a mode, through the transforms: an `Item`.

    i alone has no randomness, as validation wants it; (i, draw) is a function of (seed, domain, i,
    draw), so that workers, ranks and resuming change nothing. multiple: what the sides of pictures
    have to be a multiple of. Errors: DataError.
    """

    def __init__(
        self,
        samples: Samples,
        domain: str,
        mode: str,
        steps: Sequence[Step],
        seed: int = 0,
        multiple: int = 1,
    ) -> None:
        if domain not in DOMAINS or mode not in MODES:
            raise DataError(f"domain {domain!r}, mode {mode!r}: {DOMAINS} and {MODES} there are")
        self.samples, self.domain, self.mode = samples, domain, mode
        self.steps, self.seed, self.multiple = list(steps), seed, multiple
        self.size = drawn_size(steps, mode)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, which: int | tuple[int, int]) -> Item:
        i, draw = which if isinstance(which, tuple) else (which, None)
        i = int(i)
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)} of {self.domain}")
        key = None if draw is None else (self.seed, self.domain, i, int(draw))
        paths = self.samples.paths(i)
        arrays = self.samples.arrays(i, self.size)
        arrays = transformed(arrays, self.steps, self.mode, key, paths["x"])
        height, width = arrays["x"].shape[:2]
        if height % self.multiple or width % self.multiple:
            raise DataError(
                f"{paths['x']} is {height}x{width} behind the transforms of {self.mode}: sides "
                f"must be multiples of {self.multiple}: end them with a resize or crop"
            )
        return as_item(arrays, paths)

    def has(self, key: str) -> bool:
        """Whether any sample has a map."""
        if isinstance(self.samples, ListedSamples):
            return any(key in sample for sample in self.samples.samples)
        return key in self.samples.paths(0)

    def listing(self) -> Listing | None:
        """The names of the samples, for a run to tell whether they changed; None if drawn."""
        names = self.samples.names()
        if names is None:
            return None
        names = [f"{self.domain}/{name}" for name in names]
        return Listing(self.domain, names, names)


def as_item(arrays: Arrays, paths: dict[str, str]) -> Item:
    """Arrays of a sample as tensors of the ranges of `data.omni`."""
    x = torch.from_numpy(np.array(arrays["x"].transpose(2, 0, 1), order="C"))
    maps: dict[str, Tensor] = {}
    for key, array in arrays.items():
        if key == "s":
            maps[key] = torch.from_numpy(np.array(array, np.int64))
        elif key == "d":
            maps[key] = torch.from_numpy(inverse_depth(array))[None]
        elif key != "x":
            maps[key] = torch.from_numpy(np.array(array, np.float32))[None]
    return Item(x.float() / 127.5 - 1, maps, dict(paths))


def inverse_depth(depth: np.ndarray) -> np.ndarray:
    """(1/depth - 1/255) * 3, float32, as omnigan trains on; depth 0, which is unknown, counts as
    infinite."""
    known = depth > 0
    inverse = np.divide(1, depth, out=np.zeros(depth.shape, np.float32), where=known)
    return ((inverse - MEAN) / STD).astype(np.float32)


def depth_of(d: Tensor, farthest: float = 2000.0) -> Tensor:
    """The depths, in metres where the files have those, that `d` [..] means; at most `farthest`."""
    return 1 / (d.float() * STD + MEAN).clamp_min(1 / farthest)


def is_scenes(word: str) -> bool:
    """Whether a word in the place of a list means embedded scenes; `scenes/rf.json` is a list."""
    return word.partition(":")[0] == SCENES


def open_samples(
    word: str,
    domain: str,
    mode: str,
    *,
    keep: Sequence[str] = MAPS,
    base: str | None = None,
    classes: int = CLASSES,
    depth_unit: float = 1.0,
    no_class: int | None = None,
) -> Samples:
    """The samples that a word names: a list file, or `scenes`, `scenes:COUNT` of the domain.

    keep: the maps that are read. base: the folder that relative list files lie in (default: the
    working directory). classes: of segmentations. depth_unit: metres of a unit in depth files.
    no_class: a number in segmentations of a list that is no class, as 255 never is one.
    Errors: DataError.
    """
    count = word.partition(":")[2]
    if is_scenes(word):
        if count and not (count.isdecimal() and int(count) > 0):
            raise DataError(f"{word}: scenes, or scenes:COUNT with a positive number")
        return SceneSamples(domain, mode, keep, int(count) if count else None)
    file = (Path(base).expanduser() if base else Path()) / Path(word).expanduser()
    return ListedSamples(file.absolute(), keep, classes, depth_unit, no_class)


def _check_shape(picture: np.ndarray, array: np.ndarray, x: str, path: str) -> None:
    """DataError where a map has another shape than its picture: not merely another resolution."""
    (h, w), (high, wide) = picture.shape[:2], array.shape[:2]
    if abs(h * wide - w * high) > max(h, w, high, wide):
        raise DataError(
            f"{path} is {high}x{wide}, its picture {x} {h}x{w}: they do not cover the same view"
        )
