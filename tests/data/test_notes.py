"""Notes of another form than they were written in: damage in one line, or as good as none."""

import json

import pytest

from data.notes import COUNT, fits, read_note
from data.prepare.manifest import read_index, read_manifest
from data.readers import folders, lmdb_store
from data.registry import open_source
from data.uint8_cache import NOTE, PROGRESS, UInt8Cache
from data.views import writing
from data.views.stored import open_views
from storage.errors import DataError
from tests.data.pictures import encoded

DEEP = "[" * 100_000
SHAPES = ["[]", "3", '"x"', "null", "{}", DEEP, "{", "", '{"a": [1]}', "[[1]]"]


def pictures(folder, count=4):
    for i in range(count):
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        (folder / "ab"[i % 2] / f"{i}.png").write_bytes(encoded(i))
    return folder


def test_forms():
    form = {"n": COUNT, "names?": [str], "sums": [(COUNT, COUNT)], "plan": {"k": int}}
    good = {"n": 0, "sums": [[1, 2]], "plan": {"k": -1, "more": 1}}
    assert fits(good, form) and fits({**good, "names": ["a"]}, form)
    for key, bad in (
        ("n", -1), ("n", True), ("n", 1.0), ("n", None), ("names", [1]), ("names", "ab"),
        ("sums", [[1]]), ("sums", [1]), ("sums", {}), ("plan", []), ("plan", {}),
    ):  # fmt: skip
        assert not fits({**good, key: bad}, form), (key, bad)
    assert not fits([], form) and not fits({"n": 1}, form)


@pytest.mark.parametrize("text", SHAPES)
def test_a_note_of_another_form_is_damage(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match="x.json is damaged .*; remove it"):
        read_note(tmp_path / "x.json", {"digest": str}, "remove it")
    assert read_note(tmp_path / "y.json", {"digest": str}, "remove it") is None


def changed(note):
    """A note with each of its entries missing or of another type."""
    for key in note:
        yield {k: v for k, v in note.items() if k != key}
        for bad in (None, [], {}, "x", -1, 1.5, [[[]]], True):
            yield note | {key: bad}


def told(read):
    """That reading ends well or with a line of the house; whether it was refused."""
    try:
        read()
    except DataError as error:
        assert len(str(error)) < 600
        return True
    return False


def test_notes_of_arrays(tmp_path):
    source = open_source(str(pictures(tmp_path / "set")), tmp_path)

    def cache():
        return UInt8Cache(source, 8, "memmap", folder=tmp_path / "c", quiet=True).images.sum()

    total = cache()
    (file,) = (tmp_path / "c").rglob(NOTE)
    whole = json.loads(file.read_text())
    for text in [*SHAPES, *map(json.dumps, changed(whole))]:
        file.write_text(text)
        told(cache)
    file.write_text('{"digest": 3}')
    with pytest.raises(DataError, match="damaged"):
        cache()
    for text in [*SHAPES, *map(json.dumps, changed({"done": 2, "sums": [[2, 1, 1]]}))]:
        file.unlink(missing_ok=True)
        file.with_name(PROGRESS).write_text(text)
        told(cache)
    file.unlink(missing_ok=True)
    file.with_name(PROGRESS).write_text("[]")
    assert cache() == total


def test_notes_of_lmdb(tmp_path):
    note = {"keys": ["a", "b"], "labels": [0, 1], "classes": ["x", "y"]}
    file = tmp_path / lmdb_store.MANIFEST
    file.write_text(json.dumps(note))
    assert lmdb_store._manifest(tmp_path) == note
    for text in [*SHAPES, *map(json.dumps, changed(note)), json.dumps(note | {"labels": [0, 7]})]:
        file.write_text(text)
        with pytest.raises(DataError, match="damaged.*build it again"):
            lmdb_store._manifest(tmp_path)
    pytest.importorskip("lmdb")
    for text in SHAPES:
        (tmp_path / lmdb_store.UNFINISHED).write_text(text)
        with pytest.raises(DataError):
            lmdb_store.LmdbWriter(tmp_path, plan="p")


def test_notes_of_prepared_sizes(tmp_path):
    for text in [*SHAPES, *map(json.dumps, changed({"count": 1, "digest": "d", "bad": ["a"]}))]:
        (tmp_path / folders.INDEX.format(split="train")).write_text(text)
        assert set(read_index(tmp_path, "train")) in (set(), {"count", "digest", "bad"})
    file = tmp_path / "manifest.jsonl"
    record = {"path": "a", "sha256": "s", "bytes": 3}
    file.write_text("\n".join([*map(json.dumps, changed(record)), DEEP, json.dumps(record)]))
    assert read_manifest(file)["a"] == record
    made = tmp_path / "set_8x8" / "train"
    pictures(made)
    source = folders.FolderSource(
        pictures(tmp_path / "set" / "train"), base=tmp_path / "set", split="train"
    )
    note = made.parent / folders.COMPLETE.format(split="train")
    for text in SHAPES:
        note.write_text(text)
        with pytest.raises(DataError, match="damaged"):
            source.has_native(8)


def test_notes_of_views(tmp_path):
    source = open_source(str(pictures(tmp_path / "set")), tmp_path)
    note = {
        "plan": {"format": "memmap", "k": 1, "size": 8, "first": 0}, "sums": [[4, 1]],
        "names": ["a/0"], "facts": {},
    }  # fmt: skip
    (tmp_path / "w").mkdir()
    for text in [*SHAPES, *map(json.dumps, changed(note))]:
        writing.note_of(tmp_path / "w", "train").write_text(text)
        assert told(lambda: open_views(tmp_path / "w", source, size=8, quiet=True)), text[:80]


def test_a_note_of_views_that_are_begun_says_how_far_they_are(tmp_path):
    plan = {"format": "memmap", "k": 1, "size": 8, "first": 0}
    (tmp_path / "building-views-train.json").write_text(json.dumps({"plan": plan, "sums": []}))
    with pytest.raises(DataError, match="damaged"):
        writing.read_note(tmp_path / "building-views-train.json")


@pytest.mark.parametrize("text", ["", "{", '{"lab', DEEP, "\0\0\0"])
def test_a_damaged_dataset_json_is_damage(tmp_path, text):
    """Not a set without classes."""
    for i in range(3):
        (tmp_path / f"img{i}.png").write_bytes(encoded(i))
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match="dataset.json is damaged"):
        open_source(str(tmp_path), tmp_path.parent)
    (tmp_path / "dataset.json").write_text('{"about": "other"}')
    assert len(open_source(str(tmp_path), tmp_path.parent)) == 3
