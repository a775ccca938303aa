"""Lists of samples: JSON or YAML files of `[{"x": PATH, "d": PATH, ..}, ..]`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.omni.words import MAPS
from storage.errors import DataError, first_line
from storage.files import ANNOTATIONS, read_bytes
from storage.yaml_files import read_yaml

KEYS = ("x", *MAPS)
SUFFIXES = (".json", ".yaml", ".yml")
_NAMED = 3  # of several faults of a kind

Sample = dict[str, str]  # key -> absolute path


def read_list(
    file: Path, keep: Sequence[str] = MAPS, unread: dict[str, int] | None = None
) -> list[Sample]:
    """The samples of a list file, in its order: absolute paths of `x` and of the maps in `keep`.

    Relative paths are relative to the file's folder. `x` is in every sample, any map may be
    missing. unread: is told of how many samples each other map is left out. Errors: DataError, one
    line: no JSON or YAML, no list of objects, an unknown key, a sample without x, two with the same
    x, paths where nothing is.
    """
    samples = [_sample(entry, i, file) for i, entry in enumerate(_load(file))]
    if not samples:
        raise DataError(f"{file} lists no sample")
    seen: dict[str, int] = {}
    for i, sample in enumerate(samples):
        if sample["x"] in seen:
            raise DataError(f"{file}: samples {seen[sample['x']]} and {i} are both {sample['x']}")
        seen[sample["x"]] = i
    if unread is not None:
        for key in MAPS:
            if key not in keep and (count := sum(key in sample for sample in samples)):
                unread[key] = count
    found = [{k: p for k, p in sample.items() if k in ("x", *keep)} for sample in samples]
    gone = [p for sample in found for p in sample.values() if not os.path.isfile(p)]
    if gone:
        more = f", .. {len(gone)} in all" if len(gone) > _NAMED else ""
        raise DataError(
            f"{file}: there is no file {', '.join(gone[:_NAMED])}{more}; relative paths are "
            f"relative to {file.parent}"
        )
    return found


def _load(file: Path) -> list[Any]:
    if file.suffix.lower() not in SUFFIXES:
        raise DataError(f"{file}: a list of samples is a {', '.join(SUFFIXES)} file")
    try:
        if file.suffix.lower() == ".json":
            value = json.loads(read_bytes(file, ANNOTATIONS), object_pairs_hook=_once)
        else:
            value = read_yaml(file)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from None
    except DataError:
        raise
    except RecursionError:
        raise DataError(f"{file}: lists lie too deep in one another") from None
    except ValueError as error:  # of JSON, which does not name the file, or of YAML, which does
        text = first_line(error, 200)
        raise DataError(text if text.startswith(str(file)) else f"{file}: {text}") from None
    if not isinstance(value, list):
        found = "an object" if isinstance(value, dict) else repr(value)[:40]
        raise DataError(
            f"{file}: {found}, not a list [{{x: PATH, d: PATH, ..}}, ..]; data/process_data.py "
            "makes one of folders"
        )
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Errors: ValueError for a key that stands in it twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{twice!r} stands twice in one sample")
    return found


def _sample(entry: Any, number: int, file: Path) -> Sample:
    where = f"{file}: sample {number}"
    if not isinstance(entry, Mapping):
        raise DataError(f"{where} is {entry!r:.60}, not {{x: PATH, d: PATH, ..}}")
    for key, path in entry.items():
        if key not in KEYS:
            raise DataError(f"{where} has the key {key!r}; there are {', '.join(KEYS)}")
        if not isinstance(path, str) or not path or "\0" in path:
            raise DataError(f"{where}: {key} is {path!r:.60}, not a path")
    if "x" not in entry:
        raise DataError(f"{where} has no x, the picture that its maps belong to")
    return {k: os.path.abspath(file.parent / os.path.expanduser(p)) for k, p in entry.items()}
