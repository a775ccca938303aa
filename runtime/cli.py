"""Command lines: presets over defaults, both spellings of a name, errors of one line.

A script builds an ordinary `argparse.ArgumentParser`, adds its own options (`runtime.options`),
and calls `parse(parser, PRESETS)`. PRESETS is a literal dict at the top of the script:

    PRESETS = {
        "smoke": {"_help": "CPU, seconds, no download", "bs": 4, "lr": 1e-3, "gpus": []},
    }

Keys are option names, values what one would type, as a number, a bool, a string or a list of
those; they pass the same checks. `_help` is the line shown by `--help`. The command line always
wins.

`-` and `_` are the same thing inside an option's name (`--save-every` is `--save_every`), names are
never abbreviated, and every mistake is one line on stderr and exit code 2, with what was probably
meant (`runtime.near`).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from runtime.help import HelpAll, help_text
from runtime.near import closest, closest_option, hint
from runtime.options import add_preset
from runtime.types import BoolAction, ListAction, canonical
from storage.console import tell


class Options(argparse.Namespace):
    """Parsed arguments. No arguments are: `typed_as`, the option of each as --help shows it,
    `from_preset`, the names of those that have a preset's value because nobody typed one, and
    `absent_at`, the value of some at which they are as good as absent (`options.ADDED`)."""

    __slots__ = ("absent_at", "from_preset", "typed_as")
    absent_at: dict[str, Any]
    typed_as: dict[str, str]
    from_preset: set[str]


def _one_line_error(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    # argparse prints the whole usage first: sixty lines before the one that matters.
    message = re.sub(
        r"invalid choice: '(?P<word>[^']*)' \(choose from (?P<words>[^)]*)\)$",
        lambda found: found[0] + hint(closest(found["word"], re.split(r"[', ]+", found["words"]))),
        message,
    )
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


def prepare(
    parser: argparse.ArgumentParser,
    presets: Mapping[str, str] | None = None,
    *,
    fail: Callable[[str], NoReturn] | None = None,
) -> None:
    """Make a parser speak as all do here: help by `runtime.help`, mistakes in one line, both
    spellings of every option, and by its parse_args what is given twice. presets: name ->
    description. fail: as in `parse`."""
    parser.error = fail or types.MethodType(_one_line_error, parser)  # type: ignore
    parser.parse_args = types.MethodType(_parse_args, parser)  # type: ignore
    lines = dict(presets or {})
    parser.format_help = lambda: help_text(parser, lines, everything=False)  # type: ignore
    parser.format_help_all = lambda: help_text(parser, lines)  # type: ignore
    parser.preset_lines = lines  # type: ignore[attr-defined]
    table = parser._option_string_actions
    if parser.add_help and "--help-all" not in table:
        parser.add_argument("--help-all", action=HelpAll, help="list every option")
    for action in parser._actions:  # a parser's parents do not hand these on
        for name in getattr(action, "hidden_names", ()):
            table.setdefault(name, action)
    # Both spellings of every option; one that a script defined itself is never overridden. Where
    # names may be abbreviated, argparse would find two.
    for option, action in list(table.items()):
        if option.startswith("--") and not parser.allow_abbrev:
            table.setdefault(canonical(option), action)
            table.setdefault("--" + option[2:].replace("-", "_"), action)


def _parse_args(
    parser: argparse.ArgumentParser,
    args: Sequence[str] | None = None,
    namespace: argparse.Namespace | None = None,
) -> argparse.Namespace:
    """As argparse's own; options that are given twice are said, those of a subcommand too."""
    words = list(sys.argv[1:] if args is None else args)
    found = argparse.ArgumentParser.parse_args(parser, words, namespace)
    table = dict(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            chosen = action.choices.get(str(getattr(found, action.dest, "")))
            table |= {} if chosen is None else chosen._option_string_actions
    _say_twice(parser.prog, found, _typed(table, words))
    return found


def _typed(table: Mapping[str, argparse.Action], words: Sequence[str]) -> list[argparse.Action]:
    """The options among words, one for each time that it is there."""
    found = (table.get(word.split("=")[0]) for word in words if word.startswith("-"))
    return [action for action in found if action is not None]


def published(action: argparse.Action) -> str:
    """An option's name as --help shows it, without the short form (`-n`) that a few have."""
    long = [option for option in action.option_strings if option.startswith("--")]
    return [*long, *action.option_strings][0]


def parse(
    parser: argparse.ArgumentParser,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    argv: Sequence[str] | None = None,
    *,
    fail: Callable[[str], NoReturn] | None = None,
) -> Options:
    """Parse `argv` (default: the process's own) over the chosen preset's values over the defaults.

    Every preset is checked each time, chosen or not: a bad one must not wait for its first user.
    The parser keeps its own defaults and can parse again; `presets` is never modified.
    fail: what a mistake is told to, for options that do not come from the command line itself; it
    must raise. Errors: whatever `fail` raises; by default SystemExit(2) after one line on stderr.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    values, helps = _split_presets(presets or {})
    parser.allow_abbrev = False
    if presets and not any("--preset" in a.option_strings for a in parser._actions):
        add_preset(parser)
    prepare(parser, helps, fail=fail)
    table = parser._option_string_actions
    converted = {name: _converted(parser, name, preset) for name, preset in values.items()}
    options = {a.dest: a for a in parser._actions if a.option_strings}
    saved = [(a, a.default, a.required) for a in parser._actions]
    try:
        chosen = _typed_preset(parser, argv) if "preset" in options else None
        if chosen is not None and chosen not in converted:
            listed = ", ".join(converted) or "none here"
            parser.error(
                f"argument --preset: {chosen!r} is not a preset; there are: {listed}"
                + hint(closest(chosen, converted))
            )
        for key, value in converted.get(chosen or "", {}).items():
            options[key].default = value
            options[key].required = False
        args, extra = parser.parse_known_args(argv, Options())
        if extra:
            near = None
            if extra[0].startswith("--"):
                shown = {
                    option: option if option in action.option_strings else published(action)
                    for option, action in table.items()
                    if option.startswith("--") and action.help != argparse.SUPPRESS
                }
                near = closest_option(extra[0].split("=")[0], shown)
            parser.error(f"unrecognized arguments: {' '.join(extra)}{hint(near)}")
        args.typed_as = {name: published(action) for name, action in options.items()}
        args.absent_at = {a.dest: v for a, v, _ in saved if getattr(a, "added", False)}
        words = _typed(table, argv)
        typed = {action.dest for action in words}
        _say_twice(parser.prog, args, words)
        args.from_preset = set(converted.get(chosen or "", {})) - typed
        # A default list belongs to the parser (or the script): hand out copies only.
        for key, value in vars(args).items():
            if isinstance(value, list):
                setattr(args, key, list(value))
        return args
    finally:
        for action, default, required in saved:
            action.default, action.required = default, required


def _say_twice(prog: str, args: argparse.Namespace, typed: Sequence[argparse.Action]) -> None:
    """Say of options that were given more than once that the last one counts, and which that is."""
    if os.environ.get("RANK", "0") != "0":
        return
    for action in dict.fromkeys(typed):
        if typed.count(action) > 1 and hasattr(args, action.dest):
            value = getattr(args, action.dest)
            shown = " ".join(map(str, value)) if isinstance(value, list) else value
            times = {2: "twice"}.get(typed.count(action), f"{typed.count(action)} times")
            tell(f"{prog}: {published(action)} is given {times}; {shown} counts", sys.stderr)


def _converted(
    parser: argparse.ArgumentParser, name: str, preset: Mapping[str, Any]
) -> dict[str, Any]:
    """A preset's values, checked, by the names of arguments. Its keys may be any name of an option.
    Errors: as `parse`."""
    options = {a.dest: a for a in parser._actions if a.option_strings}
    found: dict[str, Any] = {}
    for key, value in preset.items():
        action = options.get(key) or parser._option_string_actions.get(f"--{key}")
        if action is None or action.dest in ("preset", "help", "help_all"):
            near = closest(key, [o for o in options if o not in ("preset", "help", "help_all")])
            meant = hint(near and repr(near))
            parser.error(f"preset {name!r} sets {key!r}, which is no option of this script{meant}")
        try:
            found[action.dest] = _convert_preset_value(parser, action, value)
        except argparse.ArgumentError as error:
            parser.error(f"preset {name!r}: {error}")
    return found
