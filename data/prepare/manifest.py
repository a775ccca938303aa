"""What is noted beside the originals of a set when every picture has been looked at.

NAME/manifest-{split}.jsonl          a line a picture: bytes, sha256, size, or the fault
NAME/index-{split}.json              counts, digests and the bad pictures
"""

from __future__ import annotations

from pathlib import Path

from data.notes import COUNT, fits
from data.readers.folders import INDEX
from storage.files import read_lines, read_object

_RECORD = {"path": str, "sha256": str, "bytes": COUNT}
_INDEX = {"count": COUNT, "digest": str, "bad": [str]}


def read_index(root: Path, split: str) -> dict:
    """What the last look at a split found: count, digests, bad pictures; {} if none was."""
    note = read_object(root / INDEX.format(split=split))
    return note if note is not None and fits(note, _INDEX) else {}


def read_manifest(file: Path) -> dict[str, dict]:
    """Records by path; a line cut off by a kill, or of another form, is dropped."""
    return {r["path"]: r for r in read_lines(file) if fits(r, _RECORD)}
