"""What is noted beside the originals of a set when every picture has been looked at.

NAME/manifest-{split}.jsonl          a line a picture: bytes, sha256, size, or the fault
NAME/index-{split}.json              counts, digests and the bad pictures
"""

from __future__ import annotations

import json
from pathlib import Path

from data.readers.folders import INDEX


def read_index(root: Path, split: str) -> dict:
    """What the last look at a split found: count, digests, bad pictures; {} if none was."""
    return read_json(root / INDEX.format(split=split)) or {}


def read_json(file: Path) -> dict | None:
    """A JSON object, or None if the file is absent or not one."""
    try:
        value = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def read_manifest(file: Path) -> dict[str, dict]:
    """Records by path; a line cut off by a kill is dropped."""
    records = {}
    if file.exists():
        for line in file.read_text().splitlines():
            try:
                record = json.loads(line)
                records[record["path"]] = record
            except (ValueError, KeyError, TypeError):
                continue
        if not file.read_bytes().endswith(b"\n"):
            with open(file, "a") as log:
                log.write("\n")  # so that the next record does not join the broken line
    return records
