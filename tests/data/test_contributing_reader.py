"""CONTRIBUTING.md's ways to add a data set, as written: a row of the registry, and a reader.

The reader below would be a file in data/readers/ and a line in `READERS`.
"""

from pathlib import Path

import numpy as np
import pytest

from data import readers, registry
from data.labelled import LabelledImages
from data.readers.base import Found
from data.registry import KNOWN, Known, open_source, train_val_sources
from data.sources import Source, check_split
from storage.errors import DataError
from tests.data.pictures import make_set

# ------------------------------------------------------------------------ data/readers/stacks.py


def recognise(path: Path) -> Found | None:
    """A folder of `train.npy`, `val.npy`, ...: uint8 [N, H, W, 3] each, all one class."""
    splits = {f.stem: f for f in sorted(path.glob("*.npy")) if f.stem in ("train", "val", "test")}
    if not splits:
        return None

    def open_split(split: str) -> Source:
        if check_split(split) not in splits:
            raise DataError(f"{path} has no split {split}; it has {', '.join(splits)}")
        return StackSource(splits[check_split(split)])

    return Found(tuple(splits), open_split)


class StackSource:
    """Pictures of one array, mapped from the disk."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.name, self.classes = f"{file.parent.name}/{file.stem}", [file.parent.name]
        self._images = np.load(file, mmap_mode="r")

    def __len__(self) -> int:
        return len(self._images)

    def image(self, i: int) -> np.ndarray:
        """uint8 [H, W, 3]."""
        return np.array(self._images[i])

    def label(self, i: int) -> int:
        """All are one class."""
        return 0

    def path(self, i: int) -> str:
        """`train.npy:7`."""
        return f"{self.file}:{i}"


# ------------------------------------------------------------------------------------------------


@pytest.fixture
def stacks(tmp_path, monkeypatch):
    # in data/readers/__init__.py: a line before `folders`, which would take any folder
    monkeypatch.setattr(readers, "READERS", [recognise, *readers.READERS])
    (tmp_path / "drawn").mkdir()
    for split, count in (("train", 5), ("val", 2)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        np.save(tmp_path / "drawn" / f"{split}.npy", pixels)
    return tmp_path


def test_a_reader_is_a_function_and_a_line(stacks):
    assert isinstance(open_source("drawn", stacks), Source)
    for spec in ("drawn", "drawn/train", str(stacks / "drawn")):
        assert len(open_source(spec, stacks)) == 5
    train, val = train_val_sources("drawn", None, stacks)
    assert (len(train), len(val)) == (5, 2)
    with pytest.raises(DataError, match="no split test; it has train, val"):
        open_source("drawn/test", stacks)
    number, image, label = LabelledImages(val)[1]
    assert (number, label, image.shape) == (1, 0, (3, 8, 8))
    assert (image.numpy().transpose(1, 2, 0) == np.load(stacks / "drawn/val.npy")[1]).all()
    assert len(open_source("drawn_deci", stacks)) == 1  # parts of it come for nothing
    (stacks / "drawn" / "train.npy").unlink()
    assert len(open_source("drawn", stacks, split="val")) == 2


def test_a_known_set_is_a_row(tmp_path, monkeypatch):
    row = {
        "gulls": Known("gulls over the pier", mirrors=("https://example.org/gulls.zip",), size=64)
    }
    part = {"young": Known("one class of gulls", base="gulls", classes=("young",))}
    monkeypatch.setattr(registry, "KNOWN", {**KNOWN, **row, **part})
    with pytest.raises(DataError, match="SetupDataset.py --data gulls"):
        open_source("gulls", tmp_path)
    make_set(tmp_path / "gulls", {"train": {"old": 3, "young": 2}})
    assert len(open_source("gulls", tmp_path)) == 5
    assert len(open_source("young", tmp_path)) == 2
