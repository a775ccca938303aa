"""What a set is by the names in it, for every reader: what is rubbish, where in folders that wrap
it its pictures begin, which folders are splits, and whether notes (`dataset.json`) give its labels.

The rules are here and nowhere else, so that a folder, a zip of it and what SetupDataset makes of
either are the same set:

    rubbish   hidden names, and folders that systems leave in others (LITTER)
    wrapping  a folder that holds nothing but one folder, itself without pictures of its own
    splits    folders called train, val, test or as SPLIT_ALIASES says, in any case, if there are
              two of them, or one that has folders of pictures, or beside which no folder of
              pictures is none
    notes     a dataset.json with "labels" where the pictures begin, or latents
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from typing import Protocol

from data.formats import head_of, takes
from data.sources import SPLITS, split_of
from storage.errors import DataError, first_line
from storage.files import open_plain

NOTES = "dataset.json"
# Left by macOS, Synology, QNAP, Windows and ext4: copies in small, what was deleted, what was lost.
LITTER = frozenset(
    ("__MACOSX", "@eaDir", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot")
    + ("$RECYCLE.BIN", "System Volume Information", "lost+found")
)
_ODD = re.compile(r"\\|(?:^|/)\.{0,2}(?:/|$)|^[A-Za-z]:|\0")
_ARCHIVE = re.compile(r"\.(zip|tar|tar\.(gz|xz|bz2)|tgz|txz|tbz2?)$")
_RUBBISH = re.compile(rf"(?:^|/)(?:\.|(?:{'|'.join(map(re.escape, sorted(LITTER)))})(?:/|$))")
_DRIVE = re.compile(r"[A-Za-z]:")
# Part of a folder's name that makes one suspect a split: `train_images`, `testA`, `dev`.
_MORE = r"(set|data|images|imgs|pics|split)?(?![a-z])"
_SUSPECT = {
    "train": re.compile(r"(?<![a-z])(train|training|trainval|trn)" + _MORE),
    "val": re.compile(r"(?<![a-z])(val|valid|validation|dev|eval|evaluation)" + _MORE),
    "test": re.compile(r"(?<![a-z])(test|testing|tst)" + _MORE),
}


def member_name(name: str) -> str | None:
    """The name of a member of an archive as every reader uses it: `/` between its parts, none of
    them empty or `.`; that of a folder without the last `/`, "" for the archive's own top. None for
    a name that leads outside: absolute, with a drive, or with `..`.
    """
    if not _ODD.search(name):
        return name
    slashed = name.replace("\\", "/")
    parts = slashed.split("/")
    if slashed.startswith("/") or ".." in parts or "\0" in name or _DRIVE.match(name):
        return None
    return "/".join(p for p in parts if p not in ("", "."))


def is_rubbish(part: str) -> bool:
    """Whether a file or folder of this name is nobody's picture: hidden, or left by a system."""
    return part.startswith(".") or part in LITTER


def is_visible(name: str) -> bool:
    """Whether no part of a `/`-joined name is rubbish."""
    return _RUBBISH.search(name) is None


def visible_part(name: str) -> str:
    """The folders of a `/`-joined name that are above what is rubbish in it."""
    return "/".join(takewhile(lambda part: not is_rubbish(part), name.split("/")))


def is_archive(name: str) -> bool:
    """Whether a file has the name of what SetupDataset unpacks."""
    return _ARCHIVE.search(name.lower()) is not None


def held_archives(names: Sequence[str]) -> str:
    """What to say of archives in a set that has no pictures: `; it holds data.zip, give that`."""
    if len(names) > 1:
        return (
            f"; it holds archives ({', '.join(sorted(names)[:3])}{', ...' * (len(names) > 3)}): "
            "give one of them, or unpack them all into folders of these names"
        )
    return "".join(f"; it holds {name}, give that" for name in names)


def is_latent(name: str) -> bool:
    """Whether a file has the name that dataset_tool gives to latents."""
    base = name.rsplit("/", 1)[-1]
    return base.startswith("img-mean-std-") and base.endswith(".npy")


def is_data(name: str, head: Callable[[], bytes]) -> bool:
    """Whether a file is a picture or latents; head: gives its first bytes (`data.formats`)."""
    return is_latent(name) or takes(name, head)


# What wraps the classes of a split, rather than being its only class.
_WRAPPER = re.compile(
    "|".join(form.pattern for form in _SUSPECT.values())
    + r"|^(images?|imgs?|data|pictures?|photos?|jpegimages|files)$"
)


class Tree(Protocol):
    """Names in a set without rubbish. `at` is "" for its top, else a folder with its last `/`."""

    def folders(self, at: str) -> Sequence[str]:
        """Folders in a folder, by name."""

    def files(self, at: str) -> Sequence[str]:
        """Files in a folder, by name."""

    def has_data(self, at: str) -> bool:
        """Whether a picture or latents lie in a folder or below it."""

    def has_latents(self, at: str) -> bool:
        """Whether latents lie there; a folder is judged by itself and its first folder."""

    def read(self, name: str, limit: int) -> bytes | None:
        """A file's bytes, None if it is not there; DataError if it has more than `limit`."""

    def head(self, name: str) -> bytes:
        """The first bytes of a file."""

    def where(self, at: str) -> str:
        """How messages call a folder or file."""


def _holds(tree: Tree, at: str) -> Iterator[str]:
    """Files in a folder that are pictures or latents."""
    return (n for n in tree.files(at) if is_data(n, partial(tree.head, at + n)))


class FolderTree:
    """A folder on disk; looks at what it is asked for."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)
        self._seen: dict[str, tuple[list[str], list[str]]] = {}

    def where(self, at: str) -> str:
        return os.path.join(self.root, at.rstrip("/")) if at else self.root

    def folders(self, at: str) -> Sequence[str]:
        return self._look(at)[0]

    def files(self, at: str) -> Sequence[str]:
        return self._look(at)[1]

    def _look(self, at: str) -> tuple[list[str], list[str]]:
        if at not in self._seen:
            found: tuple[list[str], list[str]] = ([], [])
            try:
                with os.scandir(self.where(at)) as inside:
                    for entry in inside:
                        if not is_rubbish(entry.name):
                            found[0 if _is_folder(entry) else 1].append(entry.name)
            except OSError as error:
                raise DataError(f"cannot list {self.where(at)}: {error.strerror}") from None
            for names in found:
                names.sort()
            self._seen[at] = found
        return self._seen[at]

    def has_data(self, at: str) -> bool:
        return _any_data(self.where(at), frozenset())

    def has_latents(self, at: str) -> bool:
        first = [f"{at}{name}/" for name in self.folders(at)[:1]]
        return any(is_latent(f) for folder in (at, *first) for f in self.files(folder))

    def head(self, name: str) -> bytes:
        return head_of(self.where(name))

    def read(self, name: str, limit: int) -> bytes | None:
        return read_file(Path(self.where(name)), limit)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # isdir besides: is_dir does not ask the disk and is true where one may not look
    return entry.is_dir() and os.path.isdir(entry.path)


def _any_data(folder: str, above: frozenset[str]) -> bool:
    """Whether a folder has pictures at any depth; links to folders above are not entered."""
    real = os.path.realpath(folder)
    if real in above:
        return False
    inside = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_rubbish(entry.name):
                    continue
                if _is_folder(entry):
                    inside.append(entry.path)
                elif is_data(entry.name, partial(head_of, entry.path)):
                    return True
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror}") from None
    return any(_any_data(path, above | {real}) for path in sorted(inside))


def unwrapped(folder: Path) -> Path:
    """Through folders that hold nothing but one folder: where arrays or an archive may lie."""
    while True:
        try:
            with os.scandir(folder) as inside:
                two = list(islice((e for e in inside if not is_rubbish(e.name)), 2))
        except OSError:
            return folder
        if len(two) != 1 or two[0].is_symlink() or not two[0].is_dir():
            return folder
        folder = Path(two[0].path)


def read_file(file: Path, limit: int) -> bytes | None:
    """A file's bytes, None if it is not there; DataError if it has more than `limit`."""
    try:
        with open_plain(file) as handle:
            data = handle.read(limit + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from None
    if len(data) > limit:
        raise DataError(f"{file} is larger than {limit >> 20} MiB")
    return data


class NameTree:
    """The names of an archive: `files` and (also empty) `folders`, as `member_name` gives them.

    read(name, limit) gives a file's bytes, head(name) its first.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        files: Iterable[str],
        folders: Iterable[str],
        read: Callable[[str, int], bytes | None],
        head: Callable[[str], bytes] = lambda name: b"",
    ) -> None:
        self.root, self.read, self.head = os.fspath(root), read, head
        self._files: dict[str, list[str]] = {"": []}
        self._data: set[str] = set()
        self._latents: list[str] = []
        for name in files:
            above, _, base = name.rpartition("/")
            at = f"{above}/" if above else ""
            self._files.setdefault(at, []).append(base)
            if at not in self._data and is_data(base, partial(head, name)):
                self._data.add(at)
            if is_latent(base):
                self._latents.append(name)
        below: dict[str, set[str]] = {}
        known = set(self._files)
        known.update(f"{name}/" for name in folders if name)
        for at in known:
            while at:
                above, _, base = at[:-1].rpartition("/")
                parent = f"{above}/" if above else ""
                inside = below.setdefault(parent, set())
                seen = base in inside
                inside.add(base)
                if at in self._data:
                    seen = seen and parent in self._data
                    self._data.add(parent)
                if seen:
                    break
                at = parent
        self._folders = {at: sorted(names) for at, names in below.items()}

    def where(self, at: str) -> str:
        return f"{self.root}/{at.rstrip('/')}" if at else self.root

    def folders(self, at: str) -> Sequence[str]:
        return self._folders.get(at, [])

    def files(self, at: str) -> Sequence[str]:
        return sorted(self._files.get(at, []))

    def has_data(self, at: str) -> bool:
        return at in self._data

    def has_latents(self, at: str) -> bool:
        return any(name.startswith(at) for name in self._latents)


@dataclass(frozen=True)
class Layout:
    """What lies in a set.

    at: the folder where its pictures begin, "" for its top. splits: the folder of each, in the
    order train, val, test; of `unclear` ones (two folders of one split, `train` and `Train`) the
    first. unused: for people, what beside the splits has pictures, and which split has none.
    noted: whether dataset.json at `at` or latents say what it is.
    """

    at: str
    splits: dict[str, str]
    unused: tuple[str, ...]
    noted: bool
    unclear: dict[str, str]

    def folder(self, split: str, tree: Tree, hint: str = "") -> str:
        """The folder of a split, or in it the one that wraps its classes (`train/images/a`).

        DataError if it has none, or two.
        """
        if split not in self.splits:
            raise DataError(
                f"{tree.where('')} has no split {split}; it has {', '.join(self.splits)}{hint}"
            )
        if split in self.unclear:
            raise DataError(
                f"{tree.where(self.at)} has more than one folder for the split {split}: "
                f"{self.unclear[split]}; join them, or rename what is not {split}"
            )
        return inside_split(tree, self.splits[split])


def inside_split(tree: Tree, at: str) -> str:
    """The folder of a split, or what wraps its classes in it: its only folder, of such a name."""
    lone = tree.folders(at)
    if len(lone) != 1 or not _WRAPPER.search(lone[0].lower()):
        return at
    below = f"{at}{lone[0]}/"
    if has_notes(tree, at) or any(_holds(tree, at)) or any(_holds(tree, below)):
        return at
    return inside_split(tree, below) if tree.has_data(below) else at


def understand(tree: Tree) -> Layout:
    """What lies in a set, by its names. DataError: its folders look like splits, spelled in no way
    that is known.
    """
    at = ""
    while True:
        splits, unclear = _splits(tree, at)
        noted = has_notes(tree, at)
        if splits or noted or any(_holds(tree, at)):
            break
        # no more than two are asked for: a set of a thousand classes is looked into but twice
        full = list(islice((n for n in tree.folders(at) if tree.has_data(f"{at}{n}/")), 2))
        if len(full) != 1:
            break
        below = f"{at}{full[0]}/"
        if any(_holds(tree, below)) and not has_notes(tree, below):
            break  # the folder of a single class
        at = below
    if not splits and not noted:
        _refuse_suspects(tree, at)
    return Layout(at, splits, _unused(tree, at, splits), noted, unclear)


def _splits(tree: Tree, at: str) -> tuple[dict[str, str], dict[str, str]]:
    """The folder of each split, and the names of those that have several."""
    named: dict[str, list[str]] = {}
    for split in SPLITS:
        if names := [name for name in tree.folders(at) if split_of(name) == split]:
            full = [name for name in names if tree.has_data(f"{at}{name}/")]
            named[split] = full or names[:1]
    if len(named) == 1:
        # two of these names together are no coincidence; one beside a folder full of pictures
        # is a class (of locomotives) unless it has classes in it, and an empty one beside
        # pictures is nothing
        others = [name for name in tree.folders(at) if split_of(name) is None]
        flat = any(any(_holds(tree, f"{at}{name}/")) for names in named.values() for name in names)
        if flat and any(any(_holds(tree, f"{at}{name}/")) for name in others):
            return {}, {}
        empty = not any(tree.has_data(f"{at}{name}/") for names in named.values() for name in names)
        if empty and (
            any(_holds(tree, at)) or any(tree.has_data(f"{at}{name}/") for name in others)
        ):
            return {}, {}
    unclear = {split: " and ".join(names) for split, names in named.items() if len(names) > 1}
    return {split: f"{at}{names[0]}/" for split, names in named.items()}, unclear


def _unused(tree: Tree, at: str, splits: dict[str, str]) -> tuple[str, ...]:
    if not splits:
        return ()
    used = {folder[len(at) : -1] for folder in splits.values()}
    others = [name for name in tree.folders(at) if name not in used]
    full = [name for name in others if tree.has_data(f"{at}{name}/")]
    empty = [name for name in others if split_of(name) and name not in full]
    bare = sorted(name for name in used if not tree.has_data(f"{at}{name}/"))
    empty += bare if len(bare) < len(used) else []
    loose = sum(1 for _ in _holds(tree, at))
    said = [f"{', '.join(full)} (no split's name)"] if full else []
    said += [f"{', '.join(empty)} (no pictures)"] if empty else []
    said += [f"{loose} picture{'s' * (loose > 1)} beside the splits"] if loose else []
    return tuple(said)


def _refuse_suspects(tree: Tree, at: str) -> None:
    """DataError if folders look like splits, two or more of them, and would become classes: if all
    do, or if some are called alike but for that (`seg_train`, `seg_test`), whatever is beside them.
    """
    alike: dict[str, dict[str, str]] = {}  # what is left of the name -> kind -> name
    beside = False
    for name in tree.folders(at):
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
        kind = next((split for split, form in _SUSPECT.items() if form.search(words)), None)
        if kind is not None:
            rest = re.sub(r"[\W_]+", " ", _SUSPECT[kind].sub(" ", words, count=1)).strip()
            alike.setdefault(rest, {})[kind] = name
        elif not beside:
            beside = tree.has_data(f"{at}{name}/")
    groups = [list(names.values()) for names in alike.values() if len(names) > 1]
    if not beside and len({kind for names in alike.values() for kind in names}) > 1:
        groups.append(sorted(name for names in alike.values() for name in names.values()))
    for names in groups:
        if sum(tree.has_data(f"{at}{name}/") for name in names) > 1:
            raise DataError(
                f"{tree.where(at)} has folders that look like splits but are not called so: "
                f"{', '.join(sorted(names))}; rename them to train, val, test, or give one of "
                "them (of an archive: unpacked) as the data set"
            )


def notes_limit(count: int) -> int:
    """Bytes that a dataset.json of so many files may have."""
    return (1 << 20) + 512 * count


def gives_labels(tree: Tree, at: str) -> bool:
    """Whether a dataset.json that speaks of labels lies in a folder."""
    return NOTES in tree.files(at) and speaks_of_labels(tree, at + NOTES)


def speaks_of_labels(tree: Tree, name: str) -> bool:
    """Whether a file called dataset.json has the word; what it says is read later. Errors:
    DataError for one without it that is no JSON: what it said is lost, and not that it said none.
    """
    whole = tree.read(name, notes_limit(1 << 20)) or b""
    wide = b"\0" in whole[:8]  # UTF-16 or 32, which JSON may be
    text = whole.replace(b"\0", b"") if wide else whole
    if b'"labels"' in text:
        return True
    try:
        json.loads(whole)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{tree.where(name)} is damaged ({first_line(error, 100)}): it would say of which "
            "classes the pictures are; bring it back, or remove it to do without"
        ) from None
    return False


def has_notes(tree: Tree, at: str) -> bool:
    """Whether such a note lies in a folder, or latents without any dataset.json."""
    return gives_labels(tree, at) or (NOTES not in tree.files(at) and tree.has_latents(at))


def notes_of(tree: Tree, layout: Layout, at: str) -> str | None:
    """The folder of the notes on the pictures of a split, `at`: its own, or that of all splits."""
    if has_notes(tree, at):
        return at
    return layout.at if gives_labels(tree, layout.at) else None
