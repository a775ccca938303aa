"""What W&B's files of earlier launches of a run hold: `DIR/wandb/*run-*-ID*/run-ID.wandb`.

W&B keeps what a run logs in memory and writes a block now and then: a launch that is killed has
points in metrics.jsonl that no file of W&B has. And what it had written of steps after the last
save, the next launch does again. So the next launch cuts the files back to the step that it begins
at, and tells what they lack.

The format is LevelDB's log: a header of seven bytes, blocks of 32 KiB, in them pieces with a CRC, a
length and a type (whole, first, middle, last), each record a protocol buffer of W&B's.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from storage.files import LOGS, read_bytes, write_bytes

_HEADER, _BLOCK, _PIECE = 7, 1 << 15, struct.Struct("<IHB")
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4

Parse = Callable[[bytes], Any]  # the bytes of a record -> W&B's Record


class Held(NamedTuple):
    """names: of the figures and pictures that the files hold, by step. native: W&B's own number of
    the last row, -1 for none."""

    names: dict[int, set[str]]
    native: int


def held(folder: Path, run_id: str, step: float, step_key: str, parse: Parse) -> Held:
    """What the files of a run hold of steps up to `step`; offline ones are cut back to that.

    A file that was synced stays, since its points are on the server. A file that cannot be read
    counts as empty. Errors: OSError where one cannot be cut.
    """
    names: dict[int, set[str]] = {}
    native = -1
    for file in sorted(folder.glob(f"*run-*-{run_id}*/run-{run_id}.wandb")):
        final = not file.parent.name.startswith("offline-") or _is_synced(file)
        end, data = 0, _bytes(file)
        for end_of_record, record in records(data, parse):
            row = _row(record)
            at = _number(row.get(step_key))
            if at is not None and at > step and not final:
                break
            end = end_of_record
            if row:
                native = max(native, int(record.history.step.num))
            if at is not None and at <= step:
                names.setdefault(int(at), set()).update(row)
        if not final and _HEADER < end < len(data):
            write_bytes(file, data[:end])
    return Held(names, native)


def records(data: bytes, parse: Parse) -> Iterator[tuple[int, Any]]:
    """(where it ends, record) of a file's whole records, in order, up to one that is damaged."""
    at, whole = _HEADER, b""
    while at + _PIECE.size <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _PIECE.size:  # the end of a block, too short for a piece, is padding
            at += left
            continue
        _, length, kind = _PIECE.unpack_from(data, at)
        at += _PIECE.size
        piece = data[at : at + length]
        at += length
        if kind not in (_WHOLE, _FIRST, _MIDDLE, _LAST) or len(piece) < length:
            return
        whole = piece if kind in (_WHOLE, _FIRST) else whole + piece
        if kind in (_WHOLE, _LAST):
            try:
                record = parse(whole)
            except Exception:  # protobuf has several kinds, of several versions
                return
            yield at, record


def _row(record: Any) -> dict[str, str]:
    """The names and values, as JSON, of a row of figures; empty for another record."""
    if record.WhichOneof("record_type") != "history":
        return {}
    items = record.history.item  # a picture is several, under one name
    return {item.key or item.nested_key[0]: item.value_json for item in items}


def _number(value: str | None) -> float | None:
    found = None if value is None else json.loads(value)
    return found if isinstance(found, int | float) else None


def _is_synced(file: Path) -> bool:
    return file.with_name(file.name + ".synced").exists()


def _bytes(file: Path) -> bytes:
    try:
        return read_bytes(file, LOGS)
    except OSError:
        return b""
