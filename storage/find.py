"""Which file a network is: published ones by name, the same run's at another EMA length.

Names are `<beginning>-<number>-<EMA length>`, as `network-snapshot-0005000-0.100` of a run,
`phema-0005000-0.130` of reconstruct_phema.py and `edm2-img512-s-2147483-0.130` of NVIDIA, with
.safetensors or .pkl after it.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from storage.dirs import find_snapshot, models_home
from storage.errors import CheckpointError, UsageError

SUFFIXES = (".safetensors", ".pkl")  # in this order, when both are there
_NAME = re.compile(r"(?P<begin>.+)-(?P<number>\d{7,})-(?P<std>\d\.\d{3,})")
_PUBLISHED = re.compile(r"edm2-img(64|512)-[\w.*-]+")


def find_network(word: str, script: str = "train_edm2") -> Path:
    """The file of a network: a path (see `storage.dirs.find_snapshot`), or a published name.

    A published name may have `*` in it and is looked for in the models directory and two levels of
    folders below. Errors: UsageError for a folder, or a name that several files have;
    CheckpointError for what is missing.
    """
    if "://" in word:
        raise UsageError(f"{word} is a URL: download it first, then give the path of the file")
    path = find_snapshot(word, script)
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a snapshot in it")
    if _opened(path).is_file():
        return path
    name, home = word.removesuffix(".pkl"), models_home()
    if not _PUBLISHED.fullmatch(name):
        if path.suffix in SUFFIXES:
            return path  # `open_network` says what is missing
        raise CheckpointError(f"network {path}: no such file, with or without .safetensors")
    found: dict[str, Path] = {}
    for suffix in SUFFIXES:
        for depth in ("", "*/", "*/*/"):
            for file in sorted(home.glob(f"{depth}{name}{suffix}")):
                found.setdefault(file.name.removesuffix(suffix), file)
    if len(found) > 1:
        raise UsageError(f"{name} may be {' or '.join(sorted(found))}: choose one by --net, --gnet")
    if not found:
        star = ", * standing for any" if "*" in name else ""
        raise CheckpointError(
            f"{name}.pkl or .safetensors is missing in {home} (or a folder there){star}: NVIDIA "
            "publishes it with https://github.com/NVlabs/edm2; download it, put it there"
        )
    return next(iter(found.values()))


def ema_sibling(path: Path, std: float) -> Path:
    """The file of the same run and moment at EMA length `std`, rounded to a thousandth.

    Same beginning of the name first, then any other, such as phema. Errors: UsageError if `path`
    has no such name, or there is no such file.
    """
    own = _NAME.fullmatch(_stem(path))
    if own is None:
        raise UsageError(
            f"{path.name} is not named NAME-STEP-EMA, so its EMA lengths cannot be told apart"
        )
    there: dict[str, Path] = {}
    others = [f for s in SUFFIXES for f in sorted(path.parent.glob(f"*-{own['number']}-*{s}"))]
    others.sort(key=lambda f: not f.name.startswith(f"{own['begin']}-{own['number']}-"))
    for file in others:
        match = _NAME.fullmatch(_stem(file))
        if match and match["number"] == own["number"] and _related(own["begin"], match["begin"]):
            there.setdefault(f"{float(match['std']):.3f}", file)
    if f"{std:.3f}" not in there:
        raise UsageError(
            f"no EMA length {std:.3f} beside {path.name}, there are {', '.join(sorted(there))}; "
            "reconstruct_phema.py makes others"
        )
    return there[f"{std:.3f}"]


def _related(one: str, other: str) -> bool:
    # Two published networks lie in one folder and are trained equally long without being one run.
    return one == other or "phema" in (one, other)


def _opened(path: Path) -> Path:
    """The file that `open_network` takes for `path`: our sibling of a .pkl, if there is one."""
    ours = path.with_suffix(".safetensors")
    return ours if path.suffix == ".pkl" and ours.is_file() else path


def _stem(path: Path) -> str:
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.name


def identity(path: Path) -> str:
    """What tells a network's content from others: the checksum in a snapshot, or of the file.

    Errors: CheckpointError.
    """
    path = _opened(path)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                said = (file.metadata() or {}).get("sha256")
            if said:
                return said
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: damaged or foreign ({error})") from error
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            sha.update(chunk)
    return sha.hexdigest()
