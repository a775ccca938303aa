"""What a run reads - data sets, networks - known by what it is and not by where it lies.

    inputs.json    {option: {"name", "pictures", "digest", "sample"}} for a data set,
                   {option: {"sha256"}} for a file

Two launches whose options differ in such a path alone are one run if the set, or the file, is the
same: a job that stages its data in a scratch folder of its own goes on with the run of the job
before. What a set is known by is made in `data.listing.fingerprint`. Checkpoints remember it too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from storage import listing
from storage.errors import data_changed
from storage.files import read_object, write_json

RECORD = "inputs.json"
TOLERANCE = 2  # of 255: decoders of one picture differ by less, two pictures by more

Inputs = dict[str, dict[str, Any]]


def named(inputs: Inputs, flags: Mapping[str, Any]) -> Inputs:
    """Inputs with what each set is called now, by the launch's flags: a link may go."""
    return {
        option: {**what, "called": word_of(flags.get(option))} if "digest" in what else dict(what)
        for option, what in inputs.items()
        if option in flags
    }


def read(folder: Path, meta: Mapping[str, Any] | None = None) -> Inputs:
    """What the run in `folder` reads, by option, as a checkpoint's `meta` says, which has a
    checksum, or else its file; empty where neither does. A set that an earlier version noted stands
    under ""."""
    for known in ((meta or {}).get("inputs"), read_object(folder / RECORD)):
        if isinstance(known, dict) and known and all(map(_is_mark, known.values())):
            return known
    before = read_object(folder / listing.RECORD)
    return {"": before} if before is not None and _is_mark(before) else {}


def _is_mark(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("digest", value.get("sha256")), str)


def is_whole(folder: Path, inputs: Inputs) -> bool:
    """Whether inputs.json says of all `inputs` what is said of them today, and of the set that is
    trained on, which is no other, what it is."""
    known, main = read_object(folder / RECORD) or {}, _main(inputs)
    return all(
        _is_mark(known.get(option))
        and what.keys() <= known[option].keys()
        and (option != main or alike(known[option], what))
        for option, what in inputs.items()
    )


def digest_of(inputs: Inputs) -> str | None:
    """The digest of the names of the set that is trained on; None for drawn scenes."""
    main = _main(inputs)
    return None if main is None else inputs[main]["digest"]


def refuse_changed(folder: Path, data: listing.Listing, before: Inputs, now: Inputs) -> None:
    """DataError if the set that is trained on is another than before: by its names, as the record
    or else data.json has them, or where pictures that were looked at are others under equal names.
    """
    main = _main(now)
    known = before.get(main) if main else None
    if known is None or main is None or known.get("digest") != now[main]["digest"]:
        listing.refuse_changed(folder, data)
    if known is None or main is None or alike(known, now[main]):
        return
    if known.get("digest") != now[main]["digest"]:
        count = known.get("pictures")
        raise data_changed(count if isinstance(count, int) else 0, len(data.whole))
    looks = [str(what.get("sample")).split(" ") for what in (known, now[main])]
    others = sum(not _same_look(*pair) for pair in zip(*looks, strict=False))
    raise data_changed(
        len(data.whole), len(data.whole), f"{others} of {len(looks[1])} that were compared are "
        "other pictures under the same names"
    )  # fmt: skip


def tell_changed(before: Inputs, now: Inputs, say: Callable[[str], object]) -> None:
    """Say of other sets, and of files, that they are not what they were."""
    for option, what in now.items():
        if option != _main(now) and option in before and not alike(before[option], what):
            kind = "data set" if "digest" in what else "file"
            say(f"--{option}: the {kind} is not what it was when this run began")


def write(folder: Path, inputs: Inputs) -> None:
    """Write down what the run in `folder` reads. Errors: OSError."""
    if inputs and read_object(folder / RECORD) != inputs:
        write_json(folder / RECORD, inputs, indent=1)


def word_of(path: Any) -> str:
    """What a set is called by its path, links resolved: that of its folder or archive, without the
    split; for a name, the name. "" where it is no text."""
    if not isinstance(path, str):
        return ""
    real = Path(os.path.realpath(path)) if os.path.exists(path) else Path(path)
    parts = [part for part in real.parts if part not in ("train", "val", "test", "/")]
    return Path(parts[-1]).stem if parts else ""


def moved(
    folder: Path, record: Mapping[str, Any], now: Inputs, flags: Mapping[str, Any]
) -> frozenset[str]:
    """Options by which a launch of these flags names what the run in `folder` reads, wherever that
    lies now. record: of an earlier launch, from args.json or a checkpoint."""
    return same(read(folder, record), now, (record["shaping"], flags), sure=False)


def same(
    before: Inputs,
    now: Inputs,
    flags: tuple[Mapping[str, Any], Mapping[str, Any]],
    *,
    sure: bool,
) -> frozenset[str]:
    """Options that name the same set or file in two launches of the given flags (then, now).

    sure: as for a run that was not named: the set must be called the same, and its pictures have
    been looked at.
    """
    found = set()
    for option, mine in now.items():
        theirs = before.get(option)
        if theirs is None and "digest" in mine and option == _main(now):
            theirs = before.get("")
        if theirs is None or not alike(theirs, mine, sure=sure):
            continue
        words = [word_of(said.get(option)) for said in flags]
        if "digest" in mine and sure and words[0] != words[1]:
            if theirs.get("called", words[0]) != mine.get("called", words[1]):
                continue
        found.add(option)
    return frozenset(found)


def alike(before: Mapping[str, Any], now: Mapping[str, Any], *, sure: bool = False) -> bool:
    """Whether two records are of the same set or file. sure: what is not known counts as other."""
    if "sha256" in now or "sha256" in before:
        return before.get("sha256") == now.get("sha256")
    if before.get("digest") != now.get("digest"):
        return False
    looks, others = before.get("sample"), now.get("sample")
    if not isinstance(looks, str) or not isinstance(others, str):
        return not sure
    return _same_looks(looks, others)


def _same_looks(before: str, now: str) -> bool:
    ours, theirs = before.split(" "), now.split(" ")
    return len(ours) == len(theirs) and all(map(_same_look, ours, theirs))


def _same_look(before: str, now: str) -> bool:
    if before == now:
        return True
    (size, _, means), (other, _, others) = before.partition(":"), now.partition(":")
    try:
        pairs = list(zip(bytes.fromhex(means), bytes.fromhex(others), strict=True))
    except ValueError:
        return False
    return size == other and all(abs(a - b) <= TOLERANCE for a, b in pairs)


def _main(inputs: Inputs) -> str | None:
    """The option of the set that is trained on: the first of a set."""
    return next((option for option, what in inputs.items() if "digest" in what), None)
