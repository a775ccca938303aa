"""Where data, models and results live on this machine.

For each of the three, in this order:
1. the environment variable DATA_HOME, MODELS_HOME or RESULTS_HOME;
2. the entry of this host in `dirs.json`, in one of two forms, each keyed by host:
       {"gpu03": {"data": "/scratch/me/data", "models": "...", "results": "..."}, "*": {...}}
       {"gpu03": {"system_name": "LAB", "system_home": "/home/me/code", "data_home": "/scratch/...",
                  "models_home": "...", "results_home": "..."}, "else": {...}}
   The second is that of PyVDirs, which the Autoguided code uses. "*" and "else" stand for every
   host without an entry of its own, and a missing kind falls through;
3. ~/imle-lab/data, ~/imle-lab/models, ~/imle-lab/results.
Bytes never go into the repository. A folder is created when missing.

`dirs.json` lies at $IMLE_LAB_DIRS; else in the working directory, if there is one; else at
$XDG_CONFIG_HOME/imle-lab/dirs.json or ~/.config/imle-lab/dirs.json, which is created when missing,
with the default folders of this host, as the place to change them. As PyVDirs does, a host that a
file of its form knows nothing of gets an entry there, with the folders that hold for it now, where
the file may be written (a line on stderr says so; the file is replaced as a whole). Nothing else is
ever changed in a file, and one that cannot be understood is an error, never replaced: it is
somebody's handwriting.

`DATA_HOME`, `MODELS_HOME` and `RESULTS_HOME` of this module are the same folders, as attributes:
looked up anew each time, nothing happens at import.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.errors import UsageError
from storage.files import expanded, read_bytes, write_json, write_new

KINDS = ("data", "models", "results")
OTHER_HOSTS = ("*", "else")  # entries for hosts that have none, the second in PyVDirs' form
_PYVDIRS = tuple(f"{kind}_home" for kind in KINDS)
_BESIDE = ("system_name", "system_home")  # further keys of that form

if TYPE_CHECKING:
    DATA_HOME: Path
    MODELS_HOME: Path
    RESULTS_HOME: Path
else:

    def __getattr__(name: str) -> Path:
        """`DATA_HOME`, `MODELS_HOME`, `RESULTS_HOME`: the folders, existing. Errors: UsageError."""
        kind = name.removesuffix("_HOME").lower()
        if kind in KINDS and name == f"{kind.upper()}_HOME":
            return _home(kind)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def data_home() -> Path:
    """The folder of data sets, existing. Errors: UsageError."""
    return _home("data")


def models_home() -> Path:
    """The folder of downloaded network weights, existing. Errors: UsageError."""
    return _home("models")


def results_home() -> Path:
    """The folder runs go to, existing. Errors: UsageError."""
    return _home("results")


def output_folder(
    word: str,
    script: str,
    results: str | Path | None = None,
    say: Callable[[str], object] = print,
) -> Path:
    """The folder that `--outdir` means, in every script alike.

    word: `~/there` and absolute paths are themselves, and what begins with `./` or `../` is from
    the working directory; anything else lies below RESULTS/SCRIPT.
    results: the folder runs go to, by default results_home().
    say: told if a folder of that name in the working directory might have been meant.
    """
    path = expanded(word)
    if path.is_absolute() or word.split("/")[0] in (".", ".."):
        return path
    folder = (results_home() if results is None else Path(results)) / script / path
    if path.is_dir() and not folder.exists():
        say(f"--outdir {word} is {folder}; for the folder {word} of this directory: ./{word}")
    return folder


def find_output(word: str, script: str) -> Path:
    """What a script wrote into the folder that its `--outdir` called `word`: that path as it is, or
    below RESULTS/SCRIPT; the path as it is if nothing is there either."""
    path = expanded(word)
    below = results_home() / script / path
    return below if not path.exists() and below.exists() else path


def dirs_file() -> Path:
    """Where `dirs.json` is looked for; it need not exist."""
    if os.environ.get("IMLE_LAB_DIRS"):
        return expanded(os.environ["IMLE_LAB_DIRS"])
    here = Path("dirs.json")
    if here.is_file():
        return here.absolute()
    return _users_file()


def _users_file() -> Path:
    config = os.environ.get("XDG_CONFIG_HOME", "")
    # The XDG specification: a relative path there is to be ignored.
    base = Path(config) if os.path.isabs(config) else Path.home() / ".config"
    return base / "imle-lab" / "dirs.json"


def _home(kind: str) -> Path:
    variable = f"{kind.upper()}_HOME"
    path, source = os.environ.get(variable), f"${variable}"
    if not path:
        path, source = _from_file(kind), str(dirs_file())
    if path is None:
        path, source = _default(kind), "the default"
    folder = Path(os.path.abspath(expanded(path)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot create the {kind} folder {folder} (from {source}): {error.strerror}; "
            f"set {variable} to a folder you may write to"
        ) from error
    return folder


def _default(kind: str) -> str:
    return str(Path.home() / "imle-lab" / kind)


def _create(file: Path) -> None:
    """Write a `dirs.json` that says what holds now; an existing one stays, even in a race."""
    entry = {socket.gethostname(): {kind: _default(kind) for kind in KINDS}}
    with contextlib.suppress(OSError):  # a read-only home: the defaults hold all the same
        file.parent.mkdir(parents=True, exist_ok=True)
        write_new(file, json.dumps(entry, indent=2) + "\n")


def _from_file(kind: str) -> str | None:
    """This host's entry of `dirs.json`, or None. The whole file is checked, whatever is asked."""
    file = dirs_file()
    try:
        hosts = _read(file)
    except UsageError as error:
        if os.environ.get("IMLE_LAB_DIRS") or file == _users_file():
            raise
        why = "it was taken because it lies in the working directory"
        raise UsageError(f"{error}; {why}, IMLE_LAB_DIRS names another file") from error
    if hosts is None:
        _create(file)
        return None
    name = socket.gethostname()
    own = [host for host in (name, name.split(".")[0]) if host in hosts]
    if not own:
        _add_host(file, hosts, name)
    for host in (*own, *OTHER_HOSTS):
        found = _entry(hosts.get(host, {}), file)
        if kind in found:
            return found[kind]
    return None


def _read(file: Path) -> dict[str, dict[str, Any]] | None:
    """The hosts of a `dirs.json`, checked; None if there is no such file. Errors: UsageError."""
    try:
        text = read_bytes(file).decode("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {file}: {error}") from error
    try:
        hosts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} is not JSON ({error}); mend or remove it") from error
    if not isinstance(hosts, dict):
        raise UsageError(f"{file} must be an object keyed by host, found {type(hosts).__name__}")
    for host, entry in hosts.items():
        if not isinstance(entry, dict):
            raise UsageError(f"{file}: the entry of host {host!r} must be an object")
        for key, value in entry.items():
            if key not in (*KINDS, *_PYVDIRS, *_BESIDE):
                known = f"{', '.join(KINDS)}, or of PyVDirs {', '.join((*_PYVDIRS, *_BESIDE))}"
                raise UsageError(f"{file}: host {host!r} has {key!r}; known: {known}")
            if key in _BESIDE:
                continue
            absolute = isinstance(value, str) and os.path.isabs(os.path.expanduser(value))
            # PyVDirs' entries are of several machines, whose paths may be another system's.
            if not (absolute or key in _PYVDIRS and isinstance(value, str) and value):
                raise UsageError(
                    f"{file}: {key!r} of host {host!r} is not an absolute path: {value!r}"
                )
        twice = [kind for kind in KINDS if kind in entry and f"{kind}_home" in entry]
        if twice:
            kind = twice[0]
            raise UsageError(f"{file}: host {host!r} has {kind!r} and '{kind}_home': keep one")
    return hosts


def _entry(entry: dict[str, Any], file: Path) -> dict[str, str]:
    """Folders by kind of a host's entry; those of PyVDirs' form may be relative to the file."""
    found = {kind: entry[kind] for kind in KINDS if kind in entry}
    for kind, key in zip(KINDS, _PYVDIRS, strict=True):
        if key in entry:
            found[kind] = os.path.join(file.parent, os.path.expanduser(entry[key]))
    return found


def _add_host(file: Path, hosts: dict[str, dict[str, Any]], name: str) -> None:
    """Give this host an entry in a file of PyVDirs' form, unless "*" covers it.

    Where the file cannot be written nothing happens: the folders hold all the same. Of two hosts at
    one instant one may be left out; it gets its entry when it next asks.
    """
    if "*" in hosts or not any(key in _PYVDIRS for entry in hosts.values() for key in entry):
        return
    covered = _entry(hosts.get("else", {}), file)
    folders = {kind: covered.get(kind, _default(kind)) for kind in KINDS}
    new = {"system_name": "UKN", "system_home": os.getcwd()}
    new |= {f"{kind}_home": folder for kind, folder in folders.items()}
    try:
        target = Path(os.path.realpath(file))  # a link stays one
        mode = target.stat().st_mode & 0o777
        if not os.access(target, os.W_OK) or _read(file) != hosts:
            return
        write_json(target, hosts | {name: new}, indent=2)
        os.chmod(target, mode)
    except OSError:
        return
    print(
        f"{file}: new entry for the host {name}: {', '.join(folders.values())}; change them there",
        file=sys.stderr,
    )
