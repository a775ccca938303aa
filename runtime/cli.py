"""Command lines: presets over defaults, both spellings of a name, errors of one line.

A script builds an ordinary `argparse.ArgumentParser`, adds its own options (`runtime.options`),
and calls `parse(parser, PRESETS)`. PRESETS is a literal dict at the top of the script:

    PRESETS = {
        "smoke": {"_help": "CPU, seconds, no download", "bs": 4, "lr": 1e-3, "gpus": []},
    }

Keys are option names (`dest`), values what one would type, as a number, a bool, a string or a
list of those; they pass the same checks. `_help` is the line shown by `--help`. The command line
always wins.

`-` and `_` are the same thing inside an option's name (`--run_dir` is `--run-dir`), names are
never abbreviated, and every mistake is one line on stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import difflib
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from runtime.types import BoolAction, ListAction, canonical


def _one_line_error(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    # argparse prints the whole usage first: sixty lines before the one that matters.
    print(f"{parser.prog}: error: {message} (see --help)", file=sys.stderr)
    raise SystemExit(2)


def _split_presets(
    presets: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    values = {
        name: {key.replace("-", "_"): v for key, v in preset.items() if key != "_help"}
        for name, preset in presets.items()
    }
    return values, {name: str(preset.get("_help", "")) for name, preset in presets.items()}


def _convert_preset_value(
    parser: argparse.ArgumentParser, action: argparse.Action, value: Any
) -> Any:
    """A preset's value, checked as a typed one. Errors: argparse.ArgumentError."""

    def word(v: Any) -> str:
        if isinstance(v, bool) or not isinstance(v, str | int | float):
            raise argparse.ArgumentError(action, f"{v!r} is not what one could type for it")
        return repr(v) if isinstance(v, float) else str(v)

    if value is None:
        if action.default is not None:
            raise argparse.ArgumentError(action, "None is not a value of this option")
        return None
    if isinstance(action, ListAction):
        if not isinstance(value, list | tuple):
            value = [value]
        return action.convert([word(v) for v in value] or ["[]"])
    if isinstance(action, BoolAction) or action.nargs == 0:
        if not isinstance(value, bool):
            raise argparse.ArgumentError(action, f"{value!r} is not True or False")
        return value
    if action.nargs in ("+", "*") or isinstance(action.nargs, int):
        if not isinstance(value, list | tuple):
            value = [value]
        if isinstance(action.nargs, int) and len(value) != action.nargs:
            raise argparse.ArgumentError(action, f"{value!r}: expected {action.nargs} values")
        if action.nargs == "+" and not value:
            raise argparse.ArgumentError(action, "expected at least one value")
        return [_check_word(parser, action, word(v)) for v in value]
    return _check_word(parser, action, word(value))


def _check_word(parser: argparse.ArgumentParser, action: argparse.Action, word: str) -> Any:
    value = parser._get_value(action, word)
    parser._check_value(action, value)
    return value


def _typed_preset(parser: argparse.ArgumentParser, argv: Sequence[str]) -> str | None:
    """The value of `--preset` in argv, read before anything else because it supplies defaults."""
    finder = argparse.ArgumentParser(prog=parser.prog, add_help=False, allow_abbrev=False)
    finder.error = parser.error  # type: ignore[method-assign]
    finder.add_argument("--preset", metavar="NAME")
    return finder.parse_known_args(list(argv))[0].preset


def parse(
    parser: argparse.ArgumentParser,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    argv: Sequence[str] | None = None,
    *,
    fail: Callable[[str], NoReturn] | None = None,
) -> argparse.Namespace:
    """Parse `argv` (default: the process's own) over the chosen preset's values over the defaults.

    Every preset is checked each time, chosen or not: a bad one must not wait for its first user.
    The parser keeps its own defaults and can parse again; `presets` is never modified.
    fail: what a mistake is told to, for options that do not come from the command line itself; it
    must raise. Errors: whatever `fail` raises; by default SystemExit(2) after one line on stderr.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    values, helps = _split_presets(presets or {})
    parser.allow_abbrev = False
    parser.error = fail or types.MethodType(_one_line_error, parser)  # type: ignore
    if presets and not any("--preset" in a.option_strings for a in parser._actions):
        parser.add_argument("--preset", metavar="NAME", help="a named set of options")

    # Both spellings of every option; one that a script defined itself is never overridden.
    table = parser._option_string_actions
    for option, action in list(table.items()):
        if option.startswith("--"):
            table.setdefault(canonical(option), action)
            table.setdefault("--" + option[2:].replace("-", "_"), action)

    options = {a.dest: a for a in parser._actions if a.option_strings}
    converted: dict[str, dict[str, Any]] = {}
    for name, preset in values.items():
        converted[name] = {}
        for key, value in preset.items():
            if key not in options or key in ("preset", "help"):
                near = difflib.get_close_matches(key, options, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                parser.error(
                    f"preset {name!r} sets {key!r}, which is no option of this script{hint}"
                )
            try:
                converted[name][key] = _convert_preset_value(parser, options[key], value)
            except argparse.ArgumentError as error:
                parser.error(f"preset {name!r}: {error}")

    saved = [(a, a.default, a.required, a.help) for a in parser._actions]
    try:
        preset_action = options.get("preset")
        chosen = None
        if preset_action is not None:
            chosen = _typed_preset(parser, argv)
            if chosen is not None and chosen not in converted:
                listed = ", ".join(converted) or "none here"
                parser.error(f"argument --preset: {chosen!r} is not a preset; there are: {listed}")
            lines = "; ".join(f"{n}: {h}" if h else n for n, h in helps.items())
            preset_action.help = f"{preset_action.help} [{lines or 'none'}]".replace("%", "%%")
        for key, value in converted.get(chosen or "", {}).items():
            options[key].default = value
            options[key].required = False
        args, extra = parser.parse_known_args(argv)
        if extra:
            near = difflib.get_close_matches(extra[0].split("=")[0], table, n=1)
            hint = f"; did you mean {near[0]}?" if near and extra[0].startswith("-") else ""
            parser.error(f"unrecognized arguments: {' '.join(extra)}{hint}")
        # A default list belongs to the parser (or the script): hand out copies only.
        for key, value in vars(args).items():
            if isinstance(value, list):
                setattr(args, key, list(value))
        return args
    finally:
        for action, default, required, help_ in saved:
            action.default, action.required, action.help = default, required, help_
