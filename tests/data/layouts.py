"""Small made-up sets in every layout a data set may come in, and what is found there.

`layouts.json` holds what each of them was when the readers were written: kind, splits, classes,
labels, names, or the error. To record it again, on purpose only:

    python -m tests.data.layouts
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data.readers.lmdb_store import LmdbWriter, close_all
from data.registry import find, open_source, train_val_sources
from data.views.splits import get_data_splits, own_eval, pooled_splits
from storage.errors import DataError
from tests.data.pictures import encoded, make_set, noise, zip_folder
from tests.data.readers.test_arrays import official as cifar
from tests.data.readers.test_arrays import tarred
from tests.data.readers.test_edm_zip import image_files, latent_files, write
from tests.data.test_tiny_imagenet import official as tiny_imagenet

RECORDED = Path(__file__).with_name("layouts.json")
SHOWN = 6  # pictures of a source that are named one by one; of all there is a checksum
ASKED = ("train", "val", "test", "validation", "weird")

TOO_LONG = "x" * 300

BOTH = {"train": {"a": 2, "b": 3}, "val": {"a": 1, "b": 2}}


def pictures(folder: Path, count: int, suffix: str = "png") -> Path:
    """`count` pictures in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        seed = zlib.crc32(f"{folder.name}/{k}".encode())
        (folder / f"{k}.{suffix}").write_bytes(encoded(seed))
    return folder


def environment(folder: Path, count: int = 3, size: int = 8, classes: int = 2) -> Path:
    """An LMDB environment with our manifest."""
    keys = [f"img{k}" for k in range(count)]
    with LmdbWriter(folder, plan="p") as writer:
        writer.put([(k, noise(i, size, size)) for i, k in enumerate(keys)])
        writer.finish(keys, [i % classes for i in range(count)], [f"c{k}" for k in range(classes)])
    return folder


def idx_files(folder: Path, count: int = 4) -> Path:
    """MNIST's four files with few digits."""
    folder.mkdir(parents=True)
    for stem in ("train", "t10k"):
        pixels = bytes(range(count)) * (28 * 28)
        images = struct.pack(">HBB3I", 0, 8, 3, count, 28, 28) + pixels
        labels = struct.pack(">HBBI", 0, 8, 1, count) + bytes(k % 3 for k in range(count))
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(labels)
    return folder


def build_folders(data: Path) -> None:
    """Folder layouts."""
    pictures(data / "flat", 3)
    pictures(data / "mixed_case" / "A", 1, "PNG")
    pictures(data / "classes" / "a", 2)
    pictures(data / "classes" / "b", 1)
    pictures(data / "deep" / "a" / "x", 2)
    pictures(data / "deep" / "a" / "y" / "z", 1)
    pictures(data / "one_class" / "a", 2)
    make_set(data / "both", BOTH)
    make_set(data / "all_three", {**BOTH, "test": {"a": 1}})
    make_set(data / "aliases", {"training": BOTH["train"], "validation": BOTH["val"]})
    make_set(data / "valid_and_val", {"train": {"a": 2}, "valid": {"a": 1}, "val": {"a": 3}})
    make_set(data / "capitals", {"Train": BOTH["train"], "Val": BOTH["val"]})
    make_set(data / "capital_and_not", {"train": {"a": 2}, "Val": {"a": 1}})
    make_set(data / "only_train", {"train": {"a": 6, "b": 4}})
    make_set(data / "only_val", {"val": {"a": 2}})
    make_set(data / "tested", {"train": {"a": 3, "b": 3}, "test": {"a": 1}})
    pictures(data / "train_is_a_class" / "train", 2)
    pictures(data / "train_is_a_class" / "bird", 2)
    pictures(data / "flat_splits" / "train", 2)
    pictures(data / "flat_splits" / "val", 1)
    pictures(data / "sibling_is_deep" / "train" / "a", 2)
    pictures(data / "sibling_is_deep" / "other" / "below", 1)
    pictures(data / "sibling_without_pictures" / "train" / "a", 2)
    (data / "sibling_without_pictures" / "notes").mkdir()
    (data / "sibling_without_pictures" / "notes" / "a.txt").write_text("x")
    pictures(data / "empty_val" / "train" / "a", 2)
    (data / "empty_val" / "val").mkdir()
    (data / "empty").mkdir()
    pictures(data / "empty_class" / "a", 2)
    (data / "empty_class" / "b").mkdir()
    pictures(data / "loose" / "a", 1)
    pictures(data / "loose", 2)
    pictures(data / "hidden" / ".a", 1)
    pictures(data / "hidden" / "__MACOSX" / "b", 1)
    pictures(data / "hidden" / "c", 1)
    pictures(data / "hidden" / "x__MACOSX", 1)
    pictures(data / "wrapped" / "inside" / "train" / "a", 1)
    pictures(data / "splits_inside" / "train" / "val" / "a", 1)
    pictures(data / "splits_inside" / "train" / "train" / "a", 2)
    pictures(data / "splits_inside" / "val" / "a", 1)
    pictures(data / "train" / "a", 2)  # a set of a split's name, without splits
    pictures(data / "nested" / "set" / "train" / "a", 2)
    pictures(data / "nested" / "set" / "val" / "a", 1)
    pictures(data / "with space" / "a", 2)
    (data / "linked").symlink_to(data / "both", target_is_directory=True)
    (data / "dangling").symlink_to(data / "nowhere")
    (data / "loop").symlink_to(data / "loop")
    (data / "link_inside").mkdir()
    (data / "link_inside" / "train").symlink_to(data / "both" / "train", target_is_directory=True)
    tiny_imagenet(data / "tinyImagenet")


def build_resolutions(data: Path) -> None:
    """Resolutions beside the originals, as SetupDataset makes them and as others did."""
    from data.prepare.sizes import prepare_folders

    make_set(data / "sized", BOTH)
    prepare_folders(data / "sized", [8])
    make_set(data / "sized_by_others", BOTH)
    shutil.copytree(data / "sized_8x8", data / "sized_by_others_8x8")
    for note in (data / "sized_by_others_8x8").glob("*.json"):
        note.unlink()
    make_set(data / "unfinished", BOTH)
    shutil.copytree(data / "sized_8x8", data / "unfinished_8x8")
    (data / "unfinished_8x8" / "building-train.json").write_text("{}")
    make_set(data / "other_pictures", {"train": {"a": 4}})
    shutil.copytree(data / "sized_8x8", data / "other_pictures_8x8")
    shutil.copytree(data / "sized_8x8", data / "sized_only_8x8")
    (data / "sized_only_16x16").mkdir()


def build_zips(data: Path) -> None:
    """A zip of each folder layout, and what only zips can be."""
    for name in (
        *("flat", "classes", "deep", "one_class", "both", "all_three", "aliases", "capitals"),
        *("valid_and_val", "only_train", "train_is_a_class", "flat_splits", "sibling_is_deep"),
        *("sibling_without_pictures", "loose", "hidden", "wrapped", "splits_inside"),
        "tinyImagenet",
    ):
        zip_folder(data / name, data / f"z_{name}.zip")
    zip_folder(data / "both", data / "z_in_both.zip", "both/")
    zip_folder(data / "classes", data / "z_in_classes.zip", "classes/")
    zip_folder(data / "flat", data / "z_in_flat.zip", "flat/")
    zip_folder(data / "flat", data / "z_in_train.zip", "train/")
    with zipfile.ZipFile(data / "z_dotted.zip", "w") as out:
        for file in sorted((data / "both").rglob("*.png")):
            out.writestr(f"./{file.relative_to(data / 'both')}", file.read_bytes())
    zip_folder(data / "tinyImagenet", data / "z_in_tiny.zip", "tiny-imagenet-200/")
    zip_folder(data / "both", data / "z_capital_suffix.ZIP")
    zip_folder(data / "both", data / "set.v1.zip")
    zip_folder(data / "only_train", data / "both.zip")  # beside the folder `both`
    zip_folder(data / "empty", data / "z_empty.zip")
    (data / "z_damaged.zip").write_bytes(b"PK\x03\x04 not a zip")
    (data / "z_page.zip").write_bytes(b"<!doctype html><html>quota</html>")
    with zipfile.ZipFile(data / "z_method.zip", "w", zipfile.ZIP_BZIP2) as out:
        out.writestr("a/x.png", encoded(1))
    with zipfile.ZipFile(data / "z_backslash.zip", "w") as out:
        out.writestr("train\\a\\x.png", encoded(1))
        out.writestr("train\\a\\y.png", encoded(2))
    (data / "z_folder.zip").mkdir()  # a folder of that name
    pictures(data / "z_folder.zip" / "a", 1)


def build_edm(data: Path) -> None:
    """NVIDIA's layout as a folder and as a zip, of pictures and latents."""
    for name, suffix in (("e_folder", ""), ("e_zip", ".zip")):
        write(data / f"{name}{suffix}", image_files(7))
        write(data / f"{name}_null{suffix}", image_files(2), None)
        write(data / f"{name}_classes{suffix}", image_files(4), classes=["x", "y", "z", "w"])
        write(data / f"{name}_no_note{suffix}", image_files(4), "none")
        write(data / f"{name}_latents{suffix}", latent_files(3))
        write(data / f"{name}_bare_latents{suffix}", latent_files(3), "none")
        write(data / f"{name}_mixed{suffix}", {**image_files(2), **latent_files(2)})
        write(
            data / f"{name}_label_missing{suffix}", image_files(4), [["00000/img00000000.png", 1]]
        )
        write(data / f"{name}_unlabelled_note{suffix}", image_files(2), "none")
        write(data / f"{name}_empty{suffix}", {"notes.txt": b""})
    for name, note in (
        ("other", b'{"name": "mine"}'),
        ("broken", b'{"labels": ['),
        ("list", b"[]"),
    ):
        write(data / f"e_note_{name}", {**image_files(2), "dataset.json": note}, "none")
        write(data / f"e_note_{name}.zip", {**image_files(2), "dataset.json": note}, "none")
    write(data / "e_splits" / "train", image_files(5))
    write(data / "e_splits" / "val", image_files(2))
    write(data / "e_half" / "train", image_files(5))
    pictures(data / "e_half" / "val" / "a", 2)
    write(data / "e_latent_splits" / "train", latent_files(3), "none")
    write(data / "e_latent_splits" / "val", latent_files(2), "none")
    make_set(data / "e_over_splits", BOTH)
    (data / "e_over_splits" / "dataset.json").write_text('{"labels": null}')


def build_lmdb(data: Path) -> None:
    """Environments alone, in a folder, of other tools, unfinished, among other things."""
    for split, count in (("train", 4), ("val", 2)):
        for size in (8, 16):
            environment(data / "l_both" / f"l_both_{split}_{size}.lmdb", count, size)
    environment(data / "l_full" / "l_full_train_full.lmdb", 3, 20)
    environment(data / "l_full" / "l_full_train_8.lmdb", 3, 8)
    environment(data / "l_tested" / "x_train_8.lmdb")
    environment(data / "l_tested" / "x_testing_8.lmdb", 2)
    environment(data / "l_unnamed" / "pictures.lmdb")
    environment(data / "l_foreign" / "f_train_8.lmdb")
    (data / "l_foreign" / "f_train_8.lmdb" / "manifest.json").unlink()
    environment(data / "l_unfinished" / "u_train_8.lmdb")
    (data / "l_unfinished" / "u_train_8.lmdb" / "building.json").write_text("{}")
    (data / "l_damaged").mkdir()
    (data / "l_damaged" / "data.mdb").write_bytes(b"nothing")
    (data / "l_manifest" / "m_train_8.lmdb").mkdir(parents=True)
    (data / "l_manifest" / "m_train_8.lmdb" / "data.mdb").write_bytes(b"")
    (data / "l_manifest" / "m_train_8.lmdb" / "manifest.json").write_text("{")
    environment(data / "l_and_folders" / "x_train_8.lmdb")
    pictures(data / "l_and_folders" / "val" / "a", 1)
    environment(data / "l_and_edm" / "x_train_8.lmdb")
    write(data / "l_and_edm", image_files(2))
    environment(data / "l_differs" / "d_train_8.lmdb", 3, 8)
    environment(data / "l_differs" / "d_train_16.lmdb", 2, 16)
    environment(data / "camnet3_lmdb" / "camnet3_train_8.lmdb")


def build_arrays(data: Path) -> None:
    """CIFAR-10 and MNIST as their authors distribute them."""
    cifar(data / "c_batches" / "cifar-10-batches-py")
    cifar(data / "c_plain")
    tarred(data / "c_plain", data / "cifar-10-python.tar.gz")
    shutil.copy(data / "cifar-10-python.tar.gz", data / "renamed.tar.gz")
    (data / "cifar-10-python-cut.tar.gz").write_bytes(b"nothing")
    cifar(data / "c_test_only")
    (data / "c_test_only" / "data_batch_1").unlink()
    cifar(data / "c_damaged")
    (data / "c_damaged" / "data_batch_2").write_bytes(b"x")
    cifar(data / "c_and_splits")
    make_set(data / "c_and_splits", BOTH)
    idx_files(data / "mnist")
    idx_files(data / "m_incomplete")
    (data / "m_incomplete" / "t10k-labels-idx1-ubyte").unlink()
    idx_files(data / "m_damaged")
    (data / "m_damaged" / "train-images-idx3-ubyte").write_bytes(b"\0")


def build_others(data: Path) -> None:
    """Files that are nothing, and sets that are parts of known ones."""
    (data / "x.tar").write_bytes(b"x")
    (data / "notes.txt").write_text("x")
    (data / "picture.png").write_bytes(encoded(1))
    (data / "y.tar").write_bytes(b"y")
    zip_folder(data / "both", data / "y.tar.zip")
    make_set(
        data / "camnet3",
        {"train": {"n01531178": 30, "butterfly": 20}, "val": {"n01531178": 2, "butterfly": 1}},
    )


SPECS = (
    *("", " ", "both ", " both/val", "both/", "both/train/", "train", "train/train", "./both"),
    *("both/train", "both/val", "both/test", "both/Val", "both/validation", "both/weird"),
    *("aliases/val", "aliases/validation", "capitals/train", "capitals/Train", "only_train/val"),
    *("nested/set", "nested/set/val", "nested", "wrapped/inside", "splits_inside/train"),
    *("splits_inside/train/val", "z_both/val", "z_both.zip/val", "z_both/test", "z_flat/val"),
    *("z_capital_suffix", "z_capital_suffix.ZIP", "set.v1", "set.v1.zip", "set", "both.zip"),
    *("e_folder/val", "e_zip/val", "e_zip.zip/val", "e_splits/train", "e_splits/val"),
    *("e_half/train", "e_half/val", "e_half/test", "l_both/val", "l_both/test", "l_full/train"),
    *("l_both/l_both_train_16.lmdb", "l_both/l_both_train_8.lmdb", "l_full/l_full_train_8.lmdb"),
    *("l_full/l_full_train_full.lmdb", "l_unnamed/pictures.lmdb", "l_foreign/f_train_8.lmdb"),
    *("l_unfinished/u_train_8.lmdb", "l_both/l_both_train_16.lmdb/val", "c_plain/test"),
    *("c_plain/val", "cifar-10-python.tar.gz/test", "mnist/test", "mnist/val", "x.tar/train"),
    *("notes.txt/val", "picture", "dangling/val", "no/such", "no/such/val", "bth", TOO_LONG),
    *("cifar10", "cifar10/train", "miniImagenet_deci", "miniImagenet_deci/val"),
    *("scenes", "scenes/train", "scenes/val", "scenes/test", "scenes/x", "scenes/x/y"),
    *("tiny", "tiny/val", "tiny_deci", "bird", "bird/val", "bird/test", "butterfly", "strawberry"),
    *("strawberry/val", "bird_deci", "bird_deci/val", "camnet3_deci", "camnet3_deci/val"),
    *("camnet3_centi", "camnet3_milli", "camnet3_lmdb/val", "camnet3_deci_lmdb", "both_deci"),
    *("both_deci/val", "both/train_deci", "z_both_deci", "z_both_deci/val", "e_zip_deci"),
    *("l_both_deci", "mnist_deci", "no_deci", "sized_8x8", "sized_8x8/val", "sized_only"),
    *("sized_only_8x8", "here", "here/val", "here_deci", "herezip", "herezip/val"),
)
PAIRS = (
    *(("both", v) for v in (None, "", "cv", "both", "both ", "tested", "only_train", "flat")),
    *(("both", v) for v in ("both/train", "both/test", "z_both", "e_zip", "e_splits", "scenes")),
    *(("both", v) for v in ("l_both", "l_tested", "mnist", "c_plain", "bird", "camnet3_deci")),
    *(("both", v) for v in ("no/such", "x.tar", "tiny", "strawberry", "z_damaged", "empty")),
    *((t, None) for t in ("flat", "classes", "only_train", "tested", "z_both", "z_flat", "e_zip")),
    *((t, None) for t in ("e_folder", "e_splits", "e_half", "l_both", "l_tested", "mnist", "tiny")),
    *((t, None) for t in ("bird", "camnet3_deci", "bird_deci", "both/train", "both/val", "z_both")),
    *((t, None) for t in ("both/train_deci", " both", "capitals", "scenes", "c_plain", "here")),
    *((t, None) for t in ("l_both/l_both_train_16.lmdb", "splits_inside", "train", "here/val")),
    *(("flat", v) for v in ("classes", "flat", "both", "z_flat", "e_folder")),
    *(("tested", v) for v in ("tested/test", "tested/val", "only_train", "both")),
    ("no/such", "both"),
)
EVALS = (
    *("both", "both/train", "both/val", "all_three", "tested", "flat", "mnist", "e_zip", "l_both"),
    *("tiny", "bird", "camnet3_deci", "only_train", "z_both", "z_both/val", "both/", "no/such"),
    *("scenes", "capitals"),
)


@contextlib.contextmanager
def all_layouts(root: Path) -> Iterator[Path]:
    """All of them under `root`, with the current folder in `root/cwd`; yields the data folder."""
    data = root / "data"
    data.mkdir()
    for build in (build_folders, build_resolutions, build_zips, build_edm, build_lmdb):
        build(data)
    build_arrays(data)
    build_others(data)
    make_set(root / "cwd" / "here", BOTH)  # found by a relative path, not in the data directory
    zip_folder(root / "cwd" / "here", root / "cwd" / "herezip.zip")
    make_set(root / "cwd" / "both", {"train": {"wrong": 1}})  # the data directory comes first
    before = os.getcwd()
    os.chdir(root / "cwd")
    try:
        yield data
    finally:
        os.chdir(before)
        close_all()


def described(root: Path, source: Any) -> dict[str, Any]:
    """A source in values that JSON can hold, without the folder it lies in."""
    n = len(source)
    shown = range(min(n, SHOWN))
    every = [
        [source.label(i), source.path(i)] for i in range(n) if type(source).__name__ != "Scenes"
    ]
    facts: dict[str, Any] = {
        "kind": type(source).__name__,
        "name": source.name,
        "classes": list(source.classes),
        "words": getattr(source, "class_names", None),
        "count": n,
        "labels": [source.label(i) for i in shown],
        "paths": [source.path(i) for i in shown],
        "all": zlib.crc32(json.dumps(shortened(root, every)).encode()),
        "names": [source.relative(i) for i in shown] if hasattr(source, "relative") else None,
        "channels": getattr(source, "channels", None),
        "labelled": getattr(source, "labelled", None),
        "split": getattr(source, "split", None),
        "digest": source.digest() if hasattr(source, "digest") else None,
    }
    if hasattr(source, "prebuilt_root"):
        facts["prebuilt"] = str(source.prebuilt_root(8))
    if hasattr(source, "has_native"):
        facts["native"] = {
            f"{size} {crop}": answer(root, lambda s=size, c=crop: source.has_native(s, c))
            for size in (8, 16)
            for crop in ("squash", "center")
        }
    if facts["kind"] != "Scenes":
        pixels = source.latent if facts["channels"] == 8 else source.image
        facts["shape"] = answer(root, lambda: list(pixels(n - 1).shape))
    return {k: v for k, v in facts.items() if v is not None}


def shortened(root: Path, value: Any) -> Any:
    """A JSON value with the folder everything lies in as ROOT, wherever it stands."""
    text = json.dumps(value).replace(json.dumps(str(root))[1:-1], "ROOT")
    return json.loads(text.replace(json.dumps(os.path.realpath(root))[1:-1], "ROOT"))


def answer(root: Path, ask: Callable[[], Any]) -> Any:
    """What `ask` gives, or its DataError in words (any other error passes)."""
    try:
        return ask()
    except DataError as error:
        return {"error": type(error).__name__, "says": shortened(root, str(error))}


def found(root: Path, data: Path) -> dict[str, Any]:
    """Everything there is to know of every set, by how it was asked for."""

    def told(ask: Callable[[], Any]) -> Any:
        return shortened(root, answer(root, ask))

    def splits(spec: str) -> list[str] | None:
        there = find(spec, data).splits
        return None if there is None else list(there)

    def pair(a: Any, b: Any) -> Any:
        parts = [s if isinstance(s, str) else described(root, s) for s in (a, b)]
        # what each is like stands under "open"; here it matters which pictures went where
        keys = ("kind", "name", "count", "paths", "labels", "all", "classes")
        return [p if isinstance(p, str) else {k: p[k] for k in keys} for p in parts]

    specs = [*sorted(p.name for p in data.iterdir() if not p.name.startswith(".")), *SPECS]
    specs += [str(data / p) for p in ("both", "both/train", "z_both.zip", "z_both", "l_both")]
    specs = list(dict.fromkeys(specs))
    table: dict[str, Any] = {}
    for spec in specs:
        key = shortened(root, spec)
        if spec != TOO_LONG:  # an OSError went through when this was recorded
            table[f"splits {key}"] = told(lambda: splits(spec))  # noqa: B023
        for split in ASKED:
            source = told(lambda: described(root, open_source(spec, data, split=split)))  # noqa: B023
            table[f"open {key} | {split}"] = source
    for tr, val in PAIRS:
        table[f"train_val {tr} | {val}"] = told(lambda: pair(*train_val_sources(tr, val, data)))  # noqa: B023
    for spec in EVALS:
        table[f"own_eval {spec}"] = told(lambda: own_eval(spec, data))  # noqa: B023
        for word in ("cv", "val", "test"):
            table[f"held {spec} | {word}"] = told(
                lambda: pair(*get_data_splits(spec, word, data))  # noqa: B023
            )
        table[f"pooled {spec}"] = told(lambda: pair(*pooled_splits(spec, data, 1)))  # noqa: B023
    return table


def compact(table: dict[str, Any]) -> dict[str, Any]:
    """The table with what is long and stands twice replaced by the key that had it first."""
    first: dict[str, str] = {}
    out = {}
    for key, value in table.items():
        text = json.dumps(value, sort_keys=True)
        same = first.setdefault(text, key)
        out[key] = value if same == key or len(text) < 80 else f"as: {same}"
    return out


def record() -> None:
    """Write `layouts.json` from what the code finds now."""
    with tempfile.TemporaryDirectory() as folder, all_layouts(Path(folder)) as data:
        table = compact(found(Path(folder), data))
    rows = [f"{json.dumps(k)}: {json.dumps(v, sort_keys=True)}" for k, v in table.items()]
    RECORDED.write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    record()
