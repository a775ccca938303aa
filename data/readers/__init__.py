"""Where pictures lie: folders, zips, LMDB, arrays. Each reader says what is its own and opens it.

A new kind of place is a file here with a function `recognise(place) -> Found | None`, and a line in
`READERS`.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from data.readers import arrays, edm_zip, folders, lmdb_store, zips
from data.readers.base import Found, Reader, refused

# The first that knows a place has it: what is special stands before what would take anything.
READERS: list[Reader] = [
    arrays.recognise,
    lmdb_store.recognise_environment,
    edm_zip.recognise,
    lmdb_store.recognise,
    folders.recognise,
    zips.recognise,
]


def recognise(place: Path) -> Found | None:
    """What lies at a path, by the first reader that knows it; None if nothing is there."""
    try:
        os.stat(place)
    except OSError as error:
        if error.errno == errno.EACCES:
            return refused(f"{place}: no permission to look there")
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            return None  # a name too long or otherwise impossible names nothing
    for reader in READERS:
        if (found := reader(place)) is not None:
            return found
    if place.exists():
        return refused(
            f"{place} is neither a folder nor a zip; unpack it with "
            f"`python data/SetupDataset.py --data NAME --source {place}`"
        )
    return None
