"""Where data, models and results live on this machine.

For each of the three, in this order:
1. the environment variable DATA_HOME, MODELS_HOME or RESULTS_HOME;
2. the entry of this host in `dirs.json`:
       {"gpu03": {"data": "/scratch/me/data", "models": "...", "results": "..."}, "*": {...}}
   where "*" stands for every host without an entry of its own, and a missing kind falls through;
3. ~/imle-lab/data, ~/imle-lab/models, ~/imle-lab/results.
Bytes never go into the repository. The folder is created when missing, and so is `dirs.json`, with
the default folders of this host, as the place to change them.

`dirs.json` lies at $IMLE_LAB_DIRS, else $XDG_CONFIG_HOME/imle-lab/dirs.json, else
~/.config/imle-lab/dirs.json. Once there it is only read: one that cannot be understood is an error,
never replaced, since it is somebody's handwriting.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

from storage.errors import UsageError
from storage.files import write_new

KINDS = ("data", "models", "results")


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
    path = Path(word).expanduser()
    if path.is_absolute() or word.split("/")[0] in (".", ".."):
        return path
    folder = (results_home() if results is None else Path(results)) / script / path
    if path.is_dir() and not folder.exists():
        say(f"--outdir {word} is {folder}; for the folder {word} of this directory: ./{word}")
    return folder


def find_output(word: str, script: str) -> Path:
    """What a script wrote into the folder that its `--outdir` called `word`: that path as it is, or
    below RESULTS/SCRIPT; the path as it is if nothing is there either."""
    path = Path(word).expanduser()
    below = results_home() / script / path
    return below if not path.exists() and below.exists() else path


def dirs_file() -> Path:
    """Where `dirs.json` is looked for; it need not exist."""
    if os.environ.get("IMLE_LAB_DIRS"):
        return Path(os.environ["IMLE_LAB_DIRS"]).expanduser()
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
    folder = Path(os.path.abspath(Path(path).expanduser()))
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
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        _create(file)
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {file}: {error}") from error
    try:
        hosts = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{file} is not JSON ({error}); mend or remove it") from error
    if not isinstance(hosts, dict):
        raise UsageError(f"{file} must be an object keyed by host, found {type(hosts).__name__}")
    for host, entry in hosts.items():
        if not isinstance(entry, dict):
            raise UsageError(f"{file}: the entry of host {host!r} must be an object")
        for key, value in entry.items():
            if key not in KINDS:
                raise UsageError(f"{file}: host {host!r} has {key!r}; known: {', '.join(KINDS)}")
            if not isinstance(value, str) or not os.path.isabs(os.path.expanduser(value)):
                raise UsageError(
                    f"{file}: {key!r} of host {host!r} is not an absolute path: {value!r}"
                )
    name = socket.gethostname()
    for host in (name, name.split(".")[0], "*"):
        if kind in hosts.get(host, {}):
            return hosts[host][kind]
    return None
