"""Command lines: checked types, the options every training script shares, presets.

A script builds an ordinary `argparse.ArgumentParser`, adds its own options and `add_run_args`,
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
import math
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NoReturn

_INT_MAX = 2**63 - 1  # torch's int64; anything larger would only fail later and obscurely
_UNSET = object()

# ------------------------------------------------------------------------------------------- types


def _bounds(lo: float | None, hi: float | None, lo_open: bool, hi_open: bool) -> str:
    parts = []
    if lo is not None:
        parts.append(f"{'>' if lo_open else '>='} {lo:g}")
    if hi is not None:
        parts.append(f"{'<' if hi_open else '<='} {hi:g}")
    return " and ".join(parts)


def integer(lo: int | None = None, hi: int | None = None) -> Callable[[str], int]:
    """Type of a whole number in [lo, hi] (None = no bound, but always within int64)."""
    allowed = "a whole number" + (
        " " + _bounds(lo, hi, False, False) if (lo, hi) != (None, None) else ""
    )

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {allowed}") from None
        if (lo is not None and value < lo) or (hi is not None and value > hi):
            raise argparse.ArgumentTypeError(f"{text} is out of range, allowed: {allowed}")
        if abs(value) > _INT_MAX:
            raise argparse.ArgumentTypeError(f"{text} is out of range, allowed: at most {_INT_MAX}")
        return value

    return convert


def number(
    lo: float | None = None,
    hi: float | None = None,
    *,
    lo_open: bool = False,
    hi_open: bool = False,
) -> Callable[[str], float]:
    """Type of a finite number in [lo, hi]; `lo_open`/`hi_open` exclude the bound itself."""
    bounds = _bounds(lo, hi, lo_open, hi_open)
    allowed = "a finite number" + (f" {bounds}" if bounds else "")

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {allowed}") from None
        below = lo is not None and (value <= lo if lo_open else value < lo)
        above = hi is not None and (value >= hi if hi_open else value > hi)
        if not math.isfinite(value) or below or above:
            raise argparse.ArgumentTypeError(f"{text} is out of range, allowed: {allowed}")
        return value

    return convert


positive_int = integer(1)
nonnegative_int = integer(0)
positive_float = number(0, lo_open=True)
nonnegative_float = number(0)
finite_float = number()
probability = number(0, 1)


def one_of(*values: str | int | float) -> Callable[[str], Any]:
    """Type of one of a few named values. If all are numbers, `0.50` and `.5` both mean 0.5."""
    listed = ", ".join(str(v) for v in values)
    numeric = all(isinstance(v, int | float) for v in values)

    def convert(text: str) -> Any:
        for value in values:
            if text == value:
                return value
            if numeric:
                try:
                    if float(text) == value:
                        return value
                except ValueError:
                    break
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {listed}")

    return convert


_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def image_count(value: str) -> int:
    """Type of a number of images: `20480`, `128Ki`, `1.5Mi`, `2Gi` (powers of 1024)."""
    number_, unit = (value[:-2], value[-2:]) if value[-2:] in _UNITS else (value, "")
    try:
        exact = Fraction(number_) * _UNITS.get(unit, 1)
    except (ValueError, ZeroDivisionError):
        exact = Fraction(0)
    if exact.denominator != 1 or not 0 < exact <= _INT_MAX:
        raise argparse.ArgumentTypeError(
            f"{value!r} is no whole positive number of images, like 20480, 128Ki, 8Mi or 2Gi"
        )
    return int(exact)


def period(value: str) -> str:
    """Type of how often something is done: `500` are steps, `128Ki` (Ki, Mi, Gi) are images."""
    if value[-2:] in _UNITS:
        image_count(value)
        return value
    return str(positive_int(value))


def period_steps(value: str, images_per_step: int) -> int:
    """Steps of a `period`; images are rounded to whole steps, at least one."""
    if value[-2:] in _UNITS:
        return max(1, round(Fraction(image_count(value), images_per_step)))
    return int(value)


def seed_range(word: str) -> range:
    """Type of a seed or a range of them: `7`, `16-19`."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
    if match is None:
        raise argparse.ArgumentTypeError(f"{word!r} is neither a seed nor a range such as 16-19")
    first, last = int(match[1]), int(match[2] or match[1])
    if not first <= last < 2**32:
        raise argparse.ArgumentTypeError(f"{word}: seeds go upwards, to 4294967295 at most")
    return range(first, last + 1)


def compact_seeds(seeds: Sequence[int]) -> str:
    """[0, 1, 2, 7] -> "0-2,7"."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][1] + 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def text(value: str) -> str:
    """Type of a non-empty string without NUL or line break: a path, a name."""
    if not value.strip() or any(c in value for c in "\0\n\r"):
        raise argparse.ArgumentTypeError(f"{value!r} is empty or has a line break in it")
    return value


_TRUE, _FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}


def boolean(value: str) -> bool:
    """Type of True|False|1|0 (also yes/no, on/off), any case."""
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise argparse.ArgumentTypeError(f"{value!r} is not True, False, 1 or 0")


# ----------------------------------------------------------------------------------------- actions


class _ListAction(argparse.Action):
    """Several values: `16 32 64`, `16,32,64`, `[16,32,64]`, `[16, 32, 64]` (split by the shell)."""

    item: Callable[[str], Any] = staticmethod(positive_int)
    unique = False
    empty_word: str | None = None

    def __init__(
        self,
        option_strings: Sequence[str],
        dest: str,
        default: Any = None,
        required: bool = False,
        help: str | None = None,
        metavar: str | None = None,
    ) -> None:
        super().__init__(
            option_strings,
            dest,
            nargs="+",
            default=default,
            required=required,
            help=help,
            metavar=metavar or "N",
        )

    def convert(self, words: Sequence[str]) -> list[Any]:
        """Words of the command line -> list of checked values. Errors: argparse.ArgumentError."""
        joined = " ".join(words).strip()
        if self.empty_word is not None and joined.lower() in (self.empty_word, "[]"):
            return []
        if joined.startswith("[") != joined.endswith("]"):
            raise argparse.ArgumentError(self, f"{joined!r} has only one of the two brackets")
        inner = joined[1:-1] if joined.startswith("[") else joined
        parts = [p for p in re.split(r"[,\s]+", inner.strip()) if p]
        if not parts:
            raise argparse.ArgumentError(self, f"{joined!r} names no value")
        try:
            values = [type(self).item(p) for p in parts]
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from None
        if self.unique and len(set(values)) < len(values):
            raise argparse.ArgumentError(self, f"{joined!r} names the same value twice")
        return values

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        setattr(namespace, self.dest, self.convert(values))


def list_of(
    item: Callable[[str], Any], *, unique: bool = False, empty_word: str | None = None
) -> type[argparse.Action]:
    """Action of an option that takes a list; every element passes `item`.

    `unique` refuses repeated values; `empty_word` is what one types for the empty list, which is
    refused otherwise.
    """
    fields = {"item": staticmethod(item), "unique": unique, "empty_word": empty_word}
    return type("ListAction", (_ListAction,), fields)


IntList = list_of(positive_int)
FloatList = list_of(finite_float)


class _BoolAction(argparse.Action):
    """`--cond`, `--no-cond`, `--cond False`, `--cond=1`."""

    def __init__(
        self,
        option_strings: Sequence[str],
        dest: str,
        default: bool | None = None,
        help: str | None = None,
    ) -> None:
        negative = [f"--no-{o[2:]}" for o in option_strings if o.startswith("--")]
        self._negative = {_canonical(o) for o in negative}
        super().__init__(
            [*option_strings, *negative],
            dest,
            nargs="?",
            const=_UNSET,
            default=default,
            help=help,
            metavar="BOOL",
        )

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        if _canonical(option_string or "") in self._negative:
            if values is not _UNSET:
                raise argparse.ArgumentError(
                    self, f"{option_string} takes no value, got {values!r}"
                )
            value = False
        else:
            try:
                value = True if values is _UNSET else boolean(values)
            except argparse.ArgumentTypeError as error:
                raise argparse.ArgumentError(self, str(error)) from None
        setattr(namespace, self.dest, value)


def add_bool(
    parser: argparse._ActionsContainer, name: str, default: bool | None, help: str
) -> argparse.Action:
    """Add a yes/no option: `--cond`, `--no-cond` and `--cond True|False|1|0` all work."""
    return parser.add_argument(name, action=_BoolAction, default=default, help=help)


def add_table(
    parser: argparse.ArgumentParser,
    title: str,
    rows: Sequence[tuple[str, Any, Any, str]],
) -> None:
    """Add a group of options, one row each: (name, kind, default, help); --help shows the default.

    kind: a type of this module, a list action (`IntList`), `bool`, or a tuple of allowed words.
    """
    group = parser.add_argument_group(title)
    for name, kind, default, help_ in rows:
        if default is not None:
            help_ = f"{help_} (default: %(default)s)"
        if kind is bool:
            add_bool(group, name, default, help_)
        elif isinstance(kind, tuple):
            group.add_argument(name, choices=kind, default=default, help=help_)
        elif isinstance(kind, type) and issubclass(kind, argparse.Action):
            group.add_argument(name, action=kind, default=default, help=help_)
        else:
            group.add_argument(name, type=kind, default=default, help=help_, metavar="VALUE")


# ---------------------------------------------------------------------------------- shared options


def add_run_args(parser: argparse.ArgumentParser, *, save_every: int = 500) -> None:
    """Add the options of `runtime.run.Run`: where it lives, how it resumes, what it runs on."""
    g = parser.add_argument_group("run", "where the run lives, how it resumes, what it runs on")
    g.add_argument("--preset", metavar="NAME", help="a named set of options; the command line wins")
    g.add_argument(
        "--run-dir",
        type=text,
        metavar="DIR",
        help="the run's folder (default: RESULTS/SCRIPT/NAME-HASH, the same for the same options)",
    )
    g.add_argument(
        "--results_path",
        type=text,
        metavar="DIR",
        help="the folder runs go to (default: $RESULTS_HOME, or what dirs.json says)",
    )
    g.add_argument(
        "--resume",
        type=text,
        metavar="auto|N|PATH",
        help="auto (default): newest good checkpoint of the run's folder, if any; N: go on from "
        "the end of loop N-1 (0 = from scratch); PATH: a checkpoint or another run's folder",
    )
    g.add_argument(
        "--save_every",
        type=positive_int,
        default=save_every,
        metavar="STEPS",
        help="steps between checkpoints (default %(default)s)",
    )
    g.add_argument(
        "--log_every",
        type=positive_int,
        default=10,
        metavar="STEPS",
        help="steps between lines in metrics.jsonl (default %(default)s)",
    )
    g.add_argument(
        "--num_workers",
        type=integer(0, 1024),
        default=2,
        metavar="N",
        help="processes that read data, per rank; 0 = none (default %(default)s)",
    )
    g.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="auto (default): bf16 on GPUs that have it, fp32 elsewhere",
    )
    add_bool(g, "--compile", False, "torch.compile the networks (default no)")
    g.add_argument("--seed", type=nonnegative_int, default=0, help="seed of everything (default 0)")
    add_bool(g, "--deterministic", False, "bit-equal reruns on GPUs too, slower (default no)")
    g.add_argument(
        "--wandb",
        type=lambda word: {"1": "online", "0": "disabled"}.get(word, word),
        choices=("online", "offline", "disabled"),
        default="online",
        help="Weights & Biases; online (default, or 1) goes offline without a key or a network; "
        "disabled (or 0): none",
    )
    g.add_argument(
        "--gpus",
        action=list_of(nonnegative_int, unique=True, empty_word="cpu"),
        metavar="N",
        help="GPU numbers, one process each; `cpu` = none (default: all there are)",
    )


# ------------------------------------------------------------------------------------------- parse


def _canonical(option: str) -> str:
    """`--run_dir` -> `--run-dir`: the one spelling under which names are compared."""
    return option.replace("_", "-")


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
    if isinstance(action, _ListAction):
        if not isinstance(value, list | tuple):
            value = [value]
        return action.convert([word(v) for v in value] or ["[]"])
    if isinstance(action, _BoolAction) or action.nargs == 0:
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
) -> argparse.Namespace:
    """Parse `argv` (default: the process's own) over the chosen preset's values over the defaults.

    Every preset is checked each time, chosen or not: a bad one must not wait for its first user.
    The parser keeps its own defaults and can parse again; `presets` is never modified.
    Errors: SystemExit(2) after one line on stderr.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    values, helps = _split_presets(presets or {})
    parser.allow_abbrev = False
    parser.error = types.MethodType(_one_line_error, parser)  # type: ignore[method-assign]
    if presets and not any("--preset" in a.option_strings for a in parser._actions):
        parser.add_argument("--preset", metavar="NAME", help="a named set of options")

    # Both spellings of every option; one that a script defined itself is never overridden.
    table = parser._option_string_actions
    for option, action in list(table.items()):
        if option.startswith("--"):
            table.setdefault(_canonical(option), action)
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
