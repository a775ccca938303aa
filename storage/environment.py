"""Whether what the toolkit stands on is installed: imported first by whatever is run.

A script imports torch at its top, before a function of ours could be called. So this module, and no
other, does something when it is imported: where torch is missing it ends the script in one line
that says what to do, instead of a traceback. Ctrl-C is one line too while imports take their
seconds, and still a KeyboardInterrupt to whoever catches it; the signals of schedulers end a script
with the exit code that has the same command run again. And what is printed never ends a script:
`storage.console`.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

from storage.console import settle_streams, tell
from storage.ending import Ends

ROOT = Path(__file__).resolve().parents[1]


def missing(names: Sequence[str] = ("torch", "numpy")) -> str:
    """What to do, in one line, if one of these packages is not installed; else an empty string."""
    absent = [name for name in names if find_spec(name) is None]
    if not absent:
        return ""
    activate = ROOT / ".venv" / "bin" / "activate"
    todo = f". {os.path.relpath(activate)}"
    if not activate.is_file():
        here = "" if ROOT == Path.cwd() else f"-C {os.path.relpath(ROOT)} "
        todo = f"make {here}demo, which installs it, and then {todo}"
    return f"error: {sys.executable} has no {' and no '.join(absent)}; run: {todo}"


def stranded() -> str:
    """What to do, in one line, if the working directory is gone; else an empty string."""
    try:
        os.getcwd()
    except OSError:
        return (
            "error: the working directory was removed; cd into one that is there, and run it again"
        )
    return ""


def _is_ours(program: str) -> bool:
    """Whether what runs is a script or module of this repository and not somebody's program."""
    if program == "-m":
        return True
    if program in ("", "-c"):  # an interpreter's, or a worker of pytest-xdist
        return False
    file = Path(program).absolute()  # unresolved: an environment's own files may be links
    installed = (Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "scripts"))
    if any(file.is_relative_to(place) for place in installed):  # pytest's, of a .venv in here
        return False
    return file.resolve().is_relative_to(ROOT)


def quiet_interrupts() -> None:
    """From now on a KeyboardInterrupt that nobody catches is a line, of spawned ranks none.

    The process still ends by SIGINT (130 in a shell). IMLE_LAB_TRACEBACK=1 shows the traceback.
    """
    before = sys.excepthook
    spawned = "--multiprocessing-fork" in sys.orig_argv  # its launcher says it

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt) or os.environ.get("IMLE_LAB_TRACEBACK") == "1":
            before(kind, error, trace)
        elif not spawned:
            print("interrupted", file=sys.stderr)

    sys.excepthook = hook


def end_by_signals() -> None:
    """Let `Ends` have the signals from now on, but in spawned processes."""
    if "--multiprocessing-fork" not in sys.orig_argv:
        Ends().install()


if _is_ours(sys.argv[0]):
    settle_streams()
    end_by_signals()
    if _said := stranded():  # libraries of torch's would not be found
        tell(_said, sys.stderr)
        sys.exit(2)
    if _said := missing():
        sys.exit(_said)
    quiet_interrupts()
