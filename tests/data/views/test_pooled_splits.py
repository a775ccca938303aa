"""Splits as one, and pictures taken evenly."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from data.registry import open_source
from data.sources import Joined, evenly, labels_of
from data.views.splits import pooled_splits
from storage.errors import DataError

SPLITS = {"train": ("a", "b"), "val": ("c",), "test": ("d", "b")}


@pytest.fixture
def home(tmp_path):
    """NAME with class-disjoint splits, but for b; 5 pictures of a class, all different."""
    value = 0
    for split, classes in SPLITS.items():
        for name in classes:
            folder = tmp_path / "set" / split / name
            folder.mkdir(parents=True)
            for i in range(5):
                value += 3
                Image.new("RGB", (8, 8), (value, 0, 0)).save(folder / f"{i}.png")
    return tmp_path


def colours(source) -> list[int]:
    return [int(source.image(i)[0, 0, 0]) for i in range(len(source))]


def test_a_joined_set_is_its_parts(home):
    parts = [open_source("set", home, split=s) for s in SPLITS]
    whole = Joined(parts, "all")
    assert len(whole) == 25 and whole.classes == ["a", "b", "c", "d"]
    assert colours(whole) == [c for p in parts for c in colours(p)]
    assert [whole.path(i) for i in range(25)] == [p.path(i) for p in parts for i in range(len(p))]
    names = [whole.classes[label] for label in labels_of(whole)]
    assert names == [p.classes[p.label(i)] for p in parts for i in range(len(p))]
    for i in (-1, 25):
        with pytest.raises(IndexError):
            whole.image(i)


def test_pooled_splits_hold_out_equally_many_of_a_class(home):
    train, held = pooled_splits("set", home, 2)
    assert labels_of(held).tolist().count(0) == 2
    assert np.bincount(labels_of(held)).tolist() == [2, 2, 2, 2]
    assert np.bincount(labels_of(train)).tolist() == [3, 8, 3, 3]
    assert not set(colours(train)) & set(colours(held))
    assert len({*colours(train), *colours(held)}) == 25
    again = pooled_splits("set", home, 2)
    assert colours(again[1]) == colours(held)
    assert colours(pooled_splits("set", home, 2, seed=1)[1]) != colours(held)
    assert set(colours(pooled_splits("set", home, 1)[1])) < set(colours(held))
    with pytest.raises(DataError, match="class a of .* has 5 pictures"):
        pooled_splits("set", home, 5)
    with pytest.raises(DataError, match="no data set 'other'"):
        pooled_splits("other", home, 1)


def test_a_set_without_splits_is_cut_all_the_same(home):
    (home / "set" / "train").rename(home / "flat")
    train, held = pooled_splits("flat", home, 2)
    assert np.bincount(labels_of(held)).tolist() == [2, 2] and len(train) == 6


def test_few_pictures_are_as_many_of_every_class(home):
    train = open_source("set", home)
    assert evenly(train, None) is train and evenly(train, 10) is train
    for count in range(1, 10):
        few = evenly(train, count)
        sizes = np.bincount(labels_of(few), minlength=2)
        assert len(few) == count and abs(int(sizes[0]) - int(sizes[1])) <= 1
        assert set(colours(few)) < set(colours(evenly(train, count + 1)))
