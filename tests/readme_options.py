"""Does a script understand a command line? Its own parser and rules say; nothing is done.

    python -m tests.readme_options train_edm2.py --preset edm2-tiny-xs --outdir AJEST
    python -m tests.readme_options -m data.scenes --out sheet.png

Ends as the script would at a mistake, and with code 0 where the work would begin.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

# Options of torchrun that have a value of their own, in front of the script.
_WITH_VALUE = ("--nproc-per-node", "--nnodes", "--node-rank", "--master-port", "--rdzv-endpoint")


def target(words: Sequence[str]) -> tuple[str, bool, list[str]]:
    """(script or module, whether it is a module, its options) of what follows python or torchrun.

    Errors: ValueError if no script is named.
    """
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "-m" and left:
            return left[0], True, left[1:]
        if word.endswith(".py"):
            return word, False, left
        if word in _WITH_VALUE and left:
            left.pop(0)
    raise ValueError(f"no script in {' '.join(words)!r}")


def _enough(*args: object, **kwargs: object) -> NoReturn:
    print("options understood")
    raise SystemExit(0)


def understand(words: Sequence[str]) -> None:
    """Run a script up to where its options are read. SystemExit, with code 0 if they are right."""
    name, module, options = target(words)
    import runtime.launch

    runtime.launch.launch = _enough
    file = Path(name.replace(".", "/") + ".py") if module else Path(name)
    if not file.is_file():
        file = Path(name.replace(".", "/")) / "__main__.py"
    if "launch(" not in file.read_text(encoding="utf-8"):
        # A data command or a measurement: its parser, and no rules after it.
        parse = argparse.ArgumentParser.parse_args

        def parse_and_stop(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> NoReturn:
            parse(self, *args, **kwargs)
            _enough()

        argparse.ArgumentParser.parse_args = parse_and_stop  # type: ignore[method-assign]
    sys.argv = [name, *options]
    if module:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(name, run_name="__main__")
    raise SystemExit(f"{name} ended before its options were read")


if __name__ == "__main__":
    understand(sys.argv[1:])
