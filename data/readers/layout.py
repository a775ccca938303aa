"""What the names in a data set say, however it is stored: its files, classes and labels."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from functools import partial

from data.formats import by_suffix, head_of, said, takes
from data.readers.tree import NOTES, Tree, is_rubbish, speaks_of_labels
from data.sources import split_of
from storage.errors import DataError

# Tiny ImageNet's table of the classes of its val split.
ANNOTATIONS = "val_annotations.txt"
# Shards of sets whose pictures are numbered throughout: NVIDIA's, and FFHQ as it is distributed.
_SHARD = re.compile(r"(\d{5})/(?:img(?:-mean-std-)?(\d{8})|(\d{5}))\.\w+")
# Folders that are no classes, if they have nothing but such files.
_NOTE_FOLDERS = frozenset(
    "annotation annotations doc docs info label labels license licenses meta metadata notes".split()
)
_NOTE_SUFFIXES = (".csv", ".html", ".json", ".md", ".pdf", ".txt", ".xml", ".yaml", ".yml")


def list_files(
    root: str | os.PathLike,
    keep: Callable[[str], bool] | None = None,
    *,
    also: Callable[[str], bool] | None = None,
    left_out: list[str] | None = None,
) -> list[str]:
    """Files under `root`, as sorted `/`-joined relative paths: those whose name `keep` accepts, or
    else pictures (`data.formats`) and those whose name `also` accepts.

    left_out: is given the names of pictures of formats that are not read. Follows links; hidden
    entries and what systems leave are left out; a link to a folder above is not entered.
    """

    def taken(entry: os.DirEntry[str], name: str) -> bool:
        if keep is not None:
            return keep(entry.name)
        if also is not None and also(entry.name):
            return True
        return takes(name, partial(head_of, entry.path), left_out)

    found: list[str] = []

    def walk(folder: str, prefix: str, above: frozenset) -> None:
        for entry in entries(folder):
            if is_rubbish(entry.name):
                continue
            if os.path.isdir(entry.path):  # unlike entry.is_dir(), false where one may not look
                real = os.path.realpath(entry.path)
                if real not in above:
                    walk(entry.path, f"{prefix}{entry.name}/", above | {real})
            elif taken(entry, prefix + entry.name):
                found.append(prefix + entry.name)

    walk(os.fspath(root), "", frozenset([os.path.realpath(root)]))
    return found


def entries(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """What is in a folder, by name; DataError if one may not look."""
    try:
        return sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror}") from None


def refuse_empty_classes(
    tree: Tree, at: str, classes: list[str], unread: Iterable[str] = ()
) -> None:
    """DataError for a folder beside class folders that has no picture: it may be empty by mistake,
    or have pictures of a kind that is not read. Not for a `docs` or `labels` with notes alone.

    unread: names, below `at`, of pictures of formats that are not read.
    """
    known = set(classes)
    for name in tree.folders(at):
        noted = name.lower() in _NOTE_FOLDERS and _only_notes(tree, f"{at}{name}/")
        if name not in known and not noted:
            left_out = said(by_suffix(n for n in unread if n.startswith(f"{name}/")))
            raise DataError(
                f"class folder {tree.where(at + name)} has no images; fill it or remove it "
                f"(it would shift or waste a class number){'; ' * bool(left_out)}{left_out}"
            )


def _only_notes(tree: Tree, at: str) -> bool:
    """Whether there are files below a folder, and all of them plain notes."""
    here, below = tree.files(at), tree.folders(at)
    return (
        bool(here or below)
        and all(name.lower().endswith(_NOTE_SUFFIXES) for name in here)
        and all(_only_notes(tree, f"{at}{name}/") for name in below)
    )


def refuse_labels(tree: Tree, at: str, notes: Iterable[str]) -> None:
    """DataError if one of the files `notes` called dataset.json, below a folder, gives labels:
    there they would be replaced by the names of folders; so would those of a DATASET.JSON.
    """
    for name in notes:
        if is_note(name) and speaks_of_labels(tree, at + name):
            written = "" if name.endswith(NOTES) else f" (not {name.rpartition('/')[2]})"
            raise DataError(
                f"{tree.where(at + name)} has labels, which are read only of a {NOTES}{written} "
                "where the pictures begin: move it there, give its folder as the data set, or "
                "remove it"
            )


def is_note(name: str) -> bool:
    """Whether a file is called dataset.json, in any case."""
    return name.rpartition("/")[2].lower() == NOTES


def classes_and_labels(paths: list[str], where: str, flat_name: str) -> tuple[list[str], list[int]]:
    """Class names (sorted) and a label per relative path; no class folders means one class, and so
    do shards by number.
    """
    loose = [p for p in paths if "/" not in p]
    if len(loose) == len(paths) or are_shards(paths):
        return [flat_name], [0] * len(paths)
    if loose:
        raise DataError(
            f"{where} has class folders and loose images side by side ({loose[0]} and "
            f"{len(loose) - 1} more); move the loose ones out"
        )
    tops = [p.split("/", 1)[0] for p in paths]
    classes = sorted(set(tops))
    _refuse_inner_splits(paths, classes, where)
    label_of = {c: k for k, c in enumerate(classes)}
    return classes, [label_of[t] for t in tops]


def are_shards(paths: list[str]) -> bool:
    """Whether two or more folders say no more than the numbers of the pictures in them:
    `00001/img00001234.png` of NVIDIA's dataset_tool, `01000/01234.png` of FFHQ.
    """
    shards = set()
    for path in paths:
        match = _SHARD.fullmatch(path)
        if match is None:
            return False
        folder, long, short = match.groups()
        if folder != (long[:5] if long else f"{int(short) // 1000 * 1000:05d}"):
            return False
        shards.add(folder)
    return len(shards) > 1


def _refuse_inner_splits(paths: list[str], classes: list[str], where: str) -> None:
    """DataError if all folders have splits in them: their pictures would be mixed."""
    kinds = set()
    for path in paths:
        parts = path.split("/", 2)
        kind = split_of(parts[1]) if len(parts) == 3 else None
        if kind is None:
            return
        kinds.add(kind)
    if len(kinds) > 1:
        raise DataError(
            f"{where} has the splits ({', '.join(sorted(kinds))}) inside its folders "
            f"({', '.join(classes[:3])}{', ...' * (len(classes) > 3)}): give one of those as the "
            "data set, or, if they are classes, put the splits first: "
            "python data/InvertDirStructure.py --reverse --folder DIR"
        )


def annotated_labels(
    paths: list[str], table: bytes, known: bytes | None, where: str
) -> tuple[list[str], list[int]]:
    """Tiny ImageNet's val split: pictures in one folder, classes in a table (file, class, box).

    known: the classes of the whole set, one a line, so that a part is numbered as the whole is.
    """
    rows = (line.split("\t") for line in table.decode("utf-8", "replace").splitlines())
    class_of = {row[0]: row[1] for row in rows if len(row) >= 2}
    missing = [p for p in paths if p.rsplit("/", 1)[-1] not in class_of]
    if missing:
        raise DataError(f"{ANNOTATIONS} in {where} says no class of {missing[0]}")
    mine = [class_of[p.rsplit("/", 1)[-1]] for p in paths]
    classes = sorted({*mine, *(known or b"").decode("utf-8", "replace").split()})
    label_of = {c: k for k, c in enumerate(classes)}
    return classes, [label_of[c] for c in mine]


def word_names(classes: list[str], read: Callable[[str], bytes | None]) -> list[str] | None:
    """What WordNet's numbers (n01443537) mean, by words.txt or classes.txt; None if not told.

    read(name): the bytes of a file beside the pictures, or None. The first synonym is taken, with
    the number where two classes share it.
    """
    if not all(re.fullmatch(r"n\d{8}", c) for c in classes):
        return None
    wanted, words = set(classes), dict[str, str]()
    for note in ("words.txt", "classes.txt"):
        for line in (read(note) or b"").decode("utf-8", "replace").splitlines():
            number, _, meaning = line.partition("\t")
            if number in wanted and meaning.strip():
                words.setdefault(number, meaning.split(",")[0].strip())
    if len(words) < len(wanted):
        return None
    names = [words[c] for c in classes]
    return [n if names.count(n) == 1 else f"{n} ({c})" for n, c in zip(names, classes, strict=True)]
