"""Where pictures lie: folders, zips, LMDB, arrays, files. Each reader says what is its own and
opens it.

A new kind is a file here with `recognise(path) -> Found | None`, and a line in `READERS`.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from data.readers import arrays, folders, lmdb_store, picture, zips
from data.readers.base import Found, Reader, refused

# The first that knows a path has it: what is special stands before what would take anything.
READERS: list[Reader] = [
    arrays.recognise,
    lmdb_store.recognise_environment,
    lmdb_store.recognise,
    folders.recognise,
    zips.recognise,
    picture.recognise,
]


def recognise(path: Path) -> Found | None:
    """What lies at a path, by the first reader that knows it; None if nothing is there."""
    try:
        os.stat(path)
    except OSError as error:
        if error.errno == errno.EACCES:
            return refused(f"{path}: no permission to look there")
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            return None  # a name too long or otherwise impossible names nothing
    for reader in READERS:
        if (found := reader(path)) is not None:
            return found
    if path.exists():
        return refused(
            f"{path} is neither a folder nor a zip; unpack it with "
            f"`python data/SetupDataset.py --data NAME --source {path}`"
        )
    return None
