"""The command lines as a table: every option of every script, what it takes and its default.

    python -m tests.frozen_cli              what differs from the table; exit code 1 if anything
    python -m tests.frozen_cli --write      write the table anew, after a change made on purpose

The table is tests/cli/, one file a script, one line an option. It is read off the running scripts:
each is started as a command, and the parser that it is about to use is caught in `argparse`, so
nothing here knows which module an option is declared in. An option's type is told by what it does
with a list of words (`WORDS`) and by what it says of the first that it refuses, not by its name.
Help texts are left out; they may change.

A line:
    --lr VALUE | dest lr | default 0.01 | float of 1 2 8 64 ('': is not a finite number > 0)
Marks after it: `required`, `hidden` (no help), `nargs N`, `const X`, `repeatable` (adds up).
Other names that options answer to, which --help does not show, follow; then presets with the
values that they set (those unlike the defaults).
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import difflib
import io
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).parent / "cli"

# A file or module, and the words in front of its options.
COMMANDS: dict[str, tuple[str, ...]] = {
    "TrainGeneratorWandB": ("TrainGeneratorWandB.py",),
    "TrainSimCLR": ("TrainSimCLR.py",),
    "TrainISICLE": ("TrainISICLE.py",),
    "train_edm2": ("train_edm2.py",),
    "train_ddpm": ("train_ddpm.py",),
    "train_omnigan": ("train_omnigan.py",),
    "toy_example": ("toy_example.py",),
    "toy_example.test": ("toy_example.py", "test"),
    "toy_example.plot": ("toy_example.py", "plot"),
    "generate_images": ("generate_images.py",),
    "generate_views": ("generate_views.py",),
    "reconstruct_phema": ("reconstruct_phema.py",),
    "convert": ("convert.py",),
    **{
        f"calculate_metrics.{name}": ("calculate_metrics.py", name)
        for name in ("ref", "calc", "gen", "compare")
    },
    **{f"runs.{name}": ("runs.py", name) for name in ("ls", "show", "compare", "best", "rm")},
    "report": ("report.py",),
    "experiment": ("experiment.py",),
    "data.SetupDataset": ("data/SetupDataset.py",),
    "data.SetupDataset.fetch-weights": ("data/SetupDataset.py", "fetch-weights"),
    "data.SetupDataset.fetch-networks": ("data/SetupDataset.py", "fetch-networks"),
    "data.SetupMiniImagenet": ("data/SetupMiniImagenet.py",),
    "data.SetupLayoutData": ("data/SetupLayoutData.py",),
    "data.SetupLayoutData.fetch-models": ("data/SetupLayoutData.py", "fetch-models"),
    "data.InvertDirStructure": ("data/InvertDirStructure.py",),
    "data.dataset_tool": ("data/dataset_tool.py",),
    "data.process_data": ("data/process_data.py",),
    "data.scenes": ("data.scenes",),
    **{
        f"benchmarks.{name}": (f"benchmarks.{name}",)
        for name in (
            "augment",
            "candidates",
            "code_search",
            "ddpm_runs",
            "edm2_arms",
            "edm2_step",
            "gradient_average",
            "isicle_arms",
            "layout_attention",
            "metrics",
            "ntxent",
            "omnigan_runs",
            "omnigan_step",
            "pictures",
            "scenes",
            "selection",
            "simclr_step",
            "toy_selection",
            "train_step",
            "unet",
        )
    },
}

# Tried on every option; what becomes of them tells its type.
WORDS = (
    "", "?", "word", "-1", "0", "1", "2", "8", "64", "0.5", "0.1", "1e-3", "1e30", "-0.5", "nan",
    "inf", "True", "no", "none", "auto", "cpu", "[]", "[1,2]", "2,2", "0,1", "0.5,1", "1-3", "3-1",
    "0:1",
    "0.2:0.8", "8x8", "128Ki", "1.5Mi", "abcdef0123", "99999999999999999999",
)  # fmt: skip


class Caught(BaseException):
    """Carries a parser out of the script that was about to use it."""

    def __init__(self, parser: argparse.ArgumentParser, values: dict[str, Any]) -> None:
        super().__init__()
        self.parser = parser
        self.values = values


# ---------------------------------------------------------------------------------------- catching


def is_finder(parser: argparse.ArgumentParser) -> bool:
    """Whether `parser` only looks for --preset, ahead of the real one."""
    return {a.dest for a in parser._actions} <= {"preset"}


def catch(run: Callable[[], Any]) -> Caught:
    """The first parser that `run` uses, and what it made of the command line.

    Required options may lack. Errors: RuntimeError if `run` ends without parsing anything; whatever
    it raises before.
    """
    original = argparse.ArgumentParser.parse_known_args

    def stop(parser, args=None, namespace=None):
        if is_finder(parser):
            return original(parser, args, namespace)
        caught = Caught(parser, {})
        required = {a: a.required for a in parser._actions}
        if not any(isinstance(a, argparse._SubParsersAction) for a in parser._actions):
            for action in parser._actions:
                action.required = False
            caught.values = vars(original(parser, args, namespace)[0])
        for action, was in required.items():
            action.required = was
        raise caught

    argparse.ArgumentParser.parse_known_args = stop
    try:
        run()
    except Caught as caught:
        return caught
    finally:
        argparse.ArgumentParser.parse_known_args = original
    raise RuntimeError("the command ended before it read its options")


def start(command: tuple[str, ...], *words: str) -> Caught:
    """Run a command of COMMANDS as `__main__` up to its parser."""
    target, *front = command
    argv, path = sys.argv, list(sys.path)
    sys.argv = [target, *front, *words]
    try:
        if target.endswith(".py"):
            return catch(lambda: runpy.run_path(str(ROOT / target), run_name="__main__"))
        return catch(lambda: runpy.run_module(target, run_name="__main__", alter_sys=True))
    finally:
        sys.argv, sys.path[:] = argv, path


# --------------------------------------------------------------------------------------- describing


def stable(value: Any) -> str:
    """repr of a value as it is on every machine: no addresses, paths as text."""
    if isinstance(value, Path):
        value = str(value)
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value)).replace(str(ROOT), "ROOT")


def kind_of(value: Any) -> str:
    if isinstance(value, Path):
        return "path"
    if isinstance(value, list | tuple):
        inner = sorted({kind_of(v) for v in value})
        return f"{type(value).__name__}[{'|'.join(inner)}]"
    return type(value).__name__


def tried(parser: argparse.ArgumentParser, action: argparse.Action, word: str) -> Any:
    """What `action` makes of one word. Errors: argparse.ArgumentError."""
    if action.option_strings and word.startswith("-") and not _negative(word):
        raise argparse.ArgumentError(None, "looks like an option")
    space = argparse.Namespace(**{action.dest: copy.copy(action.default)})
    if isinstance(action, argparse._AppendAction):
        setattr(space, action.dest, None)
    parser.error = _refuse  # what a list action may call instead of raising
    values = parser._get_values(action, [word])
    name = action.option_strings[0] if action.option_strings else None
    action(parser, space, values, name)
    return getattr(space, action.dest)


def _refuse(message: str) -> NoReturn:
    raise argparse.ArgumentError(None, message)


def _negative(word: str) -> bool:
    return re.fullmatch(r"-\d+|-\d*\.\d+", word) is not None


def takes(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """What an option does with WORDS, in words."""
    if action.nargs == 0:
        return "no value"
    if action.choices is not None:
        return "one of " + " ".join(str(c) for c in action.choices)
    groups: dict[str, list[str]] = {}
    results: dict[str, Any] = {}
    refusal = ""
    for word in WORDS:
        try:
            value = results[word] = tried(parser, action, word)
        except argparse.ArgumentError as error:
            if not refusal and error.message != "looks like an option":
                refusal = f" ({word!r}: {error.message})".replace(f": {word!r} ", ": ")
            continue
        plain = _looks_like(word, value)
        groups.setdefault(kind_of(value), []).append(word if plain else f"{word}={stable(value)}")
    if results == {"0": False, "1": True, "True": True, "no": False}:
        return f"yes or no{refusal}"
    for kind, same in (("text", str), ("path", Path), ("list of texts", lambda word: [word])):
        as_they_are = all(type(v) in (str, list) or isinstance(v, Path) for v in results.values())
        if as_they_are and all(value == same(word) for word, value in results.items()):
            if set(WORDS) - set(results) <= {""}:
                return f"any {kind}" + refusal
    accepted = "; ".join(f"{kind} of {' '.join(words)}" for kind, words in groups.items())
    return (accepted or "none of the words tried") + refusal


def _looks_like(word: str, value: Any) -> bool:
    if isinstance(value, str):
        return value == word
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return float(word) == value or value != value
    except ValueError:
        return False


def line_of(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """One option or positional argument in one line."""
    metavar = "" if action.metavar is None else f" {action.metavar}"
    name = "/".join(action.option_strings) or f"<{action.dest}>"
    parts = [name + metavar, f"dest {action.dest}", f"default {stable(action.default)}"]
    parts.append(takes(parser, action))
    if action.nargs not in (None, 0):
        parts.append(f"nargs {action.nargs}")
    if action.const is not None and type(action.const) is not object:
        parts.append(f"const {stable(action.const)}")
    if isinstance(action, argparse._AppendAction):
        parts.append("repeatable")
    if action.required:
        parts.append("required")
    if action.help == argparse.SUPPRESS:
        parts.append("hidden")
    return " | ".join(re.sub(r"\s+", " ", part) for part in parts)


def describe(parser: argparse.ArgumentParser) -> list[str]:
    """A parser, line by line; the parsers of its subcommands after it."""
    names = parser._option_string_actions
    dashed = [n for n in names if n.startswith("--") and "-" in n[2:]]
    either = dashed and all("--" + n[2:].replace("-", "_") in names for n in dashed)
    how = ["abbreviations" if parser.allow_abbrev else "no abbreviations"]
    how += ["- and _ alike"] if either else []
    lines = [f"# {parser.prog}: {', '.join(how)}"]
    rest = [a for a in parser._actions if not isinstance(a, argparse._HelpAction)]
    commands = [a for a in rest if isinstance(a, argparse._SubParsersAction)]
    positional = [a for a in rest if not a.option_strings and a not in commands]
    options = sorted((a for a in rest if a.option_strings), key=lambda a: a.option_strings)
    lines += [line_of(parser, a) for a in (*positional, *options)]
    lines += sorted(
        f"{name} | hidden, the same as {a.option_strings[0]}"
        for a in options
        for name in getattr(a, "hidden_names", ())
    )
    for group in parser._mutually_exclusive_groups:
        members = " ".join(sorted(a.option_strings[0] for a in group._group_actions))
        lines.append(f"only one of: {members}{' (required)' if group.required else ''}")
    for action in commands:
        for sub in action.choices.values():
            lines += describe(sub)
    return lines


def presets_of(command: tuple[str, ...]) -> list[str]:
    """Names of a command's presets: those it lists when asked for one that it has not."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            start(command, "--preset", "?")
    except SystemExit:
        pass
    found = re.search(r"there are: (.*?)(?: \(see --help\))?$", said.getvalue().strip())
    return [] if found is None or found[1] == "none here" else found[1].split(", ")


def table(command: tuple[str, ...]) -> list[str]:
    """The lines of one command."""
    plain = start(command)
    lines = describe(plain.parser)
    if any("--preset" in a.option_strings for a in plain.parser._actions):
        for name in presets_of(command):
            values = start(command, "--preset", name).values
            changed = [
                f"{key}={stable(value)}"
                for key, value in sorted(values.items())
                if key != "preset" and value != plain.values.get(key)
            ]
            lines.append(f"preset {name}: {', '.join(changed)}")
    return lines


# ------------------------------------------------------------------------------- tables and files


def tables(names: list[str]) -> dict[str, list[str]]:
    """{command: its lines}, read in a process of its own, which imports this tree's packages."""
    return captured("tests.frozen_cli", names)


def captured(module: str, names: list[str]) -> dict[str, Any]:
    """{command: what a module says of it with --capture}, from a process of its own."""
    homes = {n: os.devnull for n in ("DATA_HOME", "MODELS_HOME", "RESULTS_HOME")}
    env = os.environ | homes | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-m", module, "--capture", *names],
        cwd=ROOT,
        env=env,
        text=True,
        capture_output=True,
    )
    if done.returncode:
        raise RuntimeError(f"the scripts could not be started:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def differences(frozen: list[str], found: list[str]) -> list[str]:
    """Lines that went (-) and that came (+)."""
    diff = difflib.unified_diff(frozen, found, lineterm="", n=0)
    return [line for line in list(diff)[2:] if not line.startswith("@@")]


def read(name: str) -> list[str]:
    """The frozen lines of a command; none if it has no table yet."""
    file = TABLE / f"{name}.txt"
    return file.read_text().splitlines() if file.exists() else []


def unknown_files() -> Iterator[str]:
    """Tables of commands that are no more."""
    yield from sorted(f.stem for f in TABLE.glob("*.txt") if f.stem not in COMMANDS)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], prog="frozen_cli")
    parser.add_argument("names", nargs="*", metavar="COMMAND", help="these only")
    parser.add_argument("--write", action="store_true", help="write the table anew")
    parser.add_argument("--capture", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    names = args.names or list(COMMANDS)
    if args.capture:
        print(json.dumps({name: table(COMMANDS[name]) for name in names}))
        return 0
    changed = 0
    for name, lines in tables(names).items():
        lost = differences(read(name), lines)
        changed += bool(lost)
        if lost:
            print(name, *lost, sep="\n  ")
        if args.write:
            TABLE.mkdir(exist_ok=True)
            (TABLE / f"{name}.txt").write_text("\n".join(lines) + "\n")
    if args.write and not args.names:
        for name in unknown_files():
            (TABLE / f"{name}.txt").unlink()
    return 0 if args.write else int(changed > 0)


if __name__ == "__main__":
    sys.exit(main())
