"""The names of a data set, and whether it is still the same."""

import shutil
import time

import numpy as np
import pytest
from PIL import Image

from data.listing import SAMPLED, fingerprint, listing_of
from data.registry import cut, open_source
from data.sources import Joined, PathTable, Subset, evenly
from runtime.inputs import alike
from storage.errors import DataError
from storage.listing import (
    Listing,
    has_listing,
    list_digest,
    refuse_changed,
    write_listing,
)
from tests.data.pictures import make_set, noise, zip_folder


@pytest.fixture
def pictures(tmp_path):
    return make_set(tmp_path / "set", {"train": {"cat": 3, "dog": 3}})


def names(source):
    found = listing_of(source)
    return list(found.used), list(found.whole)


def test_names_are_of_the_set_and_of_the_part_that_is_used(pictures, tmp_path):
    source = open_source(str(pictures), tmp_path)
    used, whole = names(source)
    assert used == whole and len(used) == 6 and used[0].startswith("cat/")
    train, val = cut(source, 0.34, 0)
    assert sorted(names(train)[0] + names(val)[0]) == whole and names(train)[1] == whole
    some = evenly(train, 2)
    assert isinstance(some, Subset) and set(names(some)[0]) < set(names(train)[0])
    assert names(some)[1] == whole
    both = Joined([source, source], "both")
    assert names(both)[0] == [f"train/{n}" for n in whole] * 2


def test_a_set_may_be_moved_and_packed(pictures, tmp_path):
    here = listing_of(open_source(str(pictures), tmp_path))
    moved = shutil.copytree(pictures, tmp_path / "elsewhere" / "other")
    assert list_digest(listing_of(open_source(str(moved), tmp_path)).used) == list_digest(here.used)
    zipped = zip_folder(pictures, tmp_path / "packed.zip")
    assert len(listing_of(open_source(str(zipped), tmp_path)).used) == 6


def test_scenes_never_change(tmp_path):
    scenes = open_source("scenes", tmp_path)
    assert listing_of(scenes) is None and listing_of(evenly(scenes, 7)) is None


def listing(*all_names, used=None):
    return Listing("set", list(used or all_names), list(all_names))


def refusal(folder, now):
    with pytest.raises(DataError) as error:
        refuse_changed(folder, now)
    assert error.value.exit_code == 6 and "\n" not in str(error.value)
    return str(error.value)


def test_what_has_changed_is_told(tmp_path):
    assert not has_listing(tmp_path)
    refuse_changed(tmp_path, listing("a"))  # a run that was begun before there was a record
    write_listing(tmp_path, listing("a", "b", "c\udcff"))
    assert has_listing(tmp_path)
    refuse_changed(tmp_path, listing("a", "b", "c\udcff"))
    said = refusal(tmp_path, listing("a", "aa", "b", "c\udcff", "d"))
    assert "3 pictures before, 5 now (2 new, first aa)" in said
    assert "--outdir" in said and "--resume 0" in said
    said = refusal(tmp_path, listing("a", "x"))
    assert "3 pictures before, 2 now (1 new, first x; 2 missing, first b)" in said
    assert "another order" in refusal(tmp_path, listing("b", "a", "c\udcff"))
    (tmp_path / "data.txt.gz").write_bytes(b"half")
    assert "3 pictures before, 2 now;" in refusal(tmp_path, listing("a", "x"))


def test_a_set_may_grow_where_what_is_used_stays(tmp_path):
    write_listing(tmp_path, listing("a", "b", "c", used=["b"]))
    refuse_changed(tmp_path, listing("a", "b", "c", "d", used=["b"]))


def test_a_million_names_take_seconds(tmp_path):
    table = PathTable(
        f"n{i // 1300:08d}/n{i // 1300:08d}_{i * 7919 % 50000}.JPEG" for i in range(10**5)
    )
    now = Listing("large", table, table)
    start = time.perf_counter()
    write_listing(tmp_path, now)
    refuse_changed(tmp_path, now)
    assert time.perf_counter() - start < 5  # measured: 0.3 s
    assert (tmp_path / "data.txt.gz").stat().st_size < 10**6


def test_numbers_stand_for_names_where_there_are_none():
    class Plain:
        name, classes = "plain", ["x"]

        def __len__(self):
            return 3

        def image(self, i):
            return np.zeros((2, 2, 3), np.uint8)

        def label(self, i):
            return 0

        def path(self, i):
            return f"/somewhere/{i}"

    assert names(Plain())[0] == ["0", "1", "2"]


def test_a_run_on_a_wrapped_set_goes_on(tmp_path):
    """Earlier versions named the folder around a set too."""
    names = [f"a/{k}.png" for k in range(4)]
    write_listing(
        tmp_path, Listing("set", [f"w/v/{n}" for n in names], [f"w/v/{n}" for n in names])
    )
    refuse_changed(tmp_path, Listing("set", names, names))
    for other in (names[::-1], names[1:], [f"b{n}" for n in names], [*names[:3], "a/9.png"]):
        with pytest.raises(DataError, match="changed"):
            refuse_changed(tmp_path, Listing("set", other, other))


def test_a_set_is_known_by_names_and_by_how_its_pictures_look(tmp_path):
    def known(folder, shift=0, pictures=40, suffix="png"):
        for k in range(pictures):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(noise(k + shift)).save(tmp_path / folder / f"{k}.{suffix}")
        return fingerprint(open_source(str(tmp_path / folder), tmp_path))

    one, other = known("one"), known("other", shift=100)
    assert one["digest"] == other["digest"] and one["pictures"] == 40
    looks = one["sample"].split(" ")
    assert len(looks) == SAMPLED and looks[0].startswith("24x30:") and one != other
    assert not alike(one, other) and alike(one, known("again"))
    (tmp_path / "again" / "0.png").write_bytes(b"no picture")
    broken = fingerprint(open_source(str(tmp_path / "again"), tmp_path))
    assert broken["sample"].startswith("unreadable ") and not alike(one, broken)
    assert fingerprint(open_source("scenes", tmp_path)) is None
