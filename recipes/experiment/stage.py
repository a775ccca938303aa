"""A data set's copy on a node's own disk: `python -m recipes.experiment.stage SOURCE FOLDER`.

The copy lies in FOLDER/KEY under the source's name, KEY being of the source's path and of the
names, sizes and times of its files: data that changed are another copy, and a job that reads the
old one is not disturbed. It appears whole or not at all, when its files are those of the source by
name and size and the source is as it was; a copy that is there, and still whole, is used again, by
other jobs too. Whoever comes while it is made waits. A tar is unpacked, to a folder of its name
without the ending; a zip stays one, of which every member's checksum is tried.

It prints where the copy lies; with `--where` it only says where it would be.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from data.prepare.download import extract
from storage import files
from storage.errors import DataDiskError, DataError

Listing = dict[str, tuple[int, int]]  # relative name -> size, time of change in ns
TARS = (".tar", ".tar.gz", ".tar.xz", ".tar.bz2", ".tgz", ".txz", ".tbz", ".tbz2")
RECORD = "files.json"  # beside the copy: names and sizes of its files


def listing(path: Path) -> Listing:
    """The files of a folder, or the file itself under "". Errors: DataError."""
    found: Listing = {}

    def fail(error: OSError) -> None:
        raise error

    def add(name: str, file: Path) -> None:
        told = file.stat()
        found[name] = (told.st_size, told.st_mtime_ns)

    try:
        if not path.is_dir():
            add("", path)
            return found
        seen: set[str] = set()
        for folder, below, names in os.walk(path, onerror=fail, followlinks=True):
            real = os.path.realpath(folder)
            below[:] = [] if real in seen else sorted(below)  # links that lead in a circle
            if real not in seen:
                for name in names:
                    add(os.path.relpath(os.path.join(folder, name), path), Path(folder, name))
            seen.add(real)
    except OSError as error:
        raise DataError(
            f"sbatch.stage: {error.filename or path}: {error.strerror or error}"
        ) from None
    if not found:
        raise DataError(f"sbatch.stage: {path} is an empty folder")
    return found


def place(source: Path, folder: Path) -> Path:
    """Where the copy of a source lies, or is to lie. Errors: DataError."""
    return _place(source, folder, listing(source))


def _place(source: Path, folder: Path, found: Listing) -> Path:
    text = json.dumps([str(source.absolute()), sorted(found.items())])
    name = source.name
    ending = next((e for e in sorted(TARS, key=len, reverse=True) if name.endswith(e)), "")
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    return folder.absolute() / key / (name[: -len(ending)] if ending else name)


def stage(source: Path, folder: Path) -> Path:
    """Have the copy, and say where it lies. Errors: DataError, DataDiskError."""
    found = listing(source)
    copy = _place(source, folder, found)
    with files.locked(copy.parent.with_suffix(".lock"), wait=True, what=str(copy)):
        if _whole(copy):
            return copy
        files.remove(copy)
        free = shutil.disk_usage(files.make_folder(copy.parent)).free
        needed = sum(size for size, _ in found.values())
        if needed > free:
            raise DataDiskError(
                f"sbatch.stage: {source} has {needed} bytes, and {copy.parent} {free} free"
            )
        try:
            _make(source, found, copy)
            if listing(source) != found:
                files.remove(copy)
                raise DataError(f"sbatch.stage: {source} changed while it was copied")
            files.write_json(copy.parent / RECORD, _sizes(listing(copy)))
        except OSError as error:
            raise DataDiskError(
                f"sbatch.stage: cannot copy {source} to {copy}: {error.strerror or error}"
            ) from None
    return copy


def _sizes(found: Listing) -> dict[str, int]:
    return {name: size for name, (size, _) in found.items()}


def _whole(copy: Path) -> bool:
    """Whether a copy is there with all of its files: some systems clear old ones away."""
    record = files.read_object(copy.parent / RECORD) if (copy.parent / RECORD).is_file() else None
    if record is None or not copy.exists():
        return False
    try:
        return _sizes(listing(copy)) == record
    except DataError:
        return False


def _make(source: Path, found: Listing, copy: Path) -> None:
    """Copy or unpack, whole or nothing. Errors: DataError, OSError."""
    if source.is_file() and source.name != copy.name:
        extract(source, copy, bar=False)
        return
    with files.staging(copy) as part:
        if source.is_file():
            shutil.copyfile(source, part)
        for name in found:
            if name:
                files.make_folder((part / name).parent)
                shutil.copyfile(source / name, part / name)
        if _sizes(listing(part)) != _sizes(found):
            raise DataError(f"sbatch.stage: the copy of {source} has not the source's files")
        if source.is_file() and zipfile.is_zipfile(part):
            with zipfile.ZipFile(part) as opened:
                if bad := opened.testzip():
                    raise DataError(f"sbatch.stage: {source} is damaged: {bad}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="recipes.experiment.stage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, help="a folder, or a file")
    parser.add_argument("folder", type=Path, help="on the node's own disk")
    parser.add_argument("--where", action="store_true", help="copy nothing")
    args = parser.parse_args(argv)
    try:
        print((place if args.where else stage)(args.source, args.folder))
    except (DataError, zipfile.BadZipFile) as error:
        print(error, file=sys.stderr)
        return DataError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
