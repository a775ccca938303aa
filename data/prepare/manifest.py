"""What is noted beside the originals of a set when every picture has been looked at.

NAME/manifest-{split}.jsonl          a line a picture: bytes, sha256, size, or the fault
NAME/index-{split}.json              counts, digests and the bad pictures
"""

from __future__ import annotations

from pathlib import Path

from data.readers.folders import INDEX
from storage.files import read_lines, read_object


def read_index(root: Path, split: str) -> dict:
    """What the last look at a split found: count, digests, bad pictures; {} if none was."""
    return read_object(root / INDEX.format(split=split)) or {}


def read_manifest(file: Path) -> dict[str, dict]:
    """Records by path; a line cut off by a kill is dropped."""
    return {r["path"]: r for r in read_lines(file) if isinstance(r.get("path"), str)}
