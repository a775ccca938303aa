"""A batch script with `{{param}}` in it -> the script of one run.

A line without `{{` stays as it is, to the last space. A line `#SBATCH` of which a parameter has no
value is left out; anywhere else that is an error, and so is a name that nothing gives a value to.
How a value is written so that it stays one: `recipes.experiment.shell`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from recipes.experiment.params import Code, Param, params_of
from recipes.experiment.shell import DIRECTIVE, Scanner, number, plain, quoted
from runtime.near import closest, hint
from storage.errors import UsageError
from storage.files import read_bytes, write_text

# Parameters that may stand in the place of a command's name: nothing in them is a user's.
OWN = ("command", "exports", "main_partition", "python")
# By these a script can start a run, or find it.
STARTS = ("command", "config", "output_path")
_PLACE = re.compile(r"\{\{\s*(\w+)\s*\}\}")


class Filled(NamedTuple):
    """text: of the script. left_out: parameters without a value, whose lines are not in it."""

    text: str
    left_out: list[str]


def read_template(file: Path) -> str:
    """The text of a template. Errors: UsageError."""
    try:
        text = read_bytes(file).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(f"--template {file}: {why}") from None
    if "\r" in text or "\0" in text:
        raise UsageError(f"--template {file}: no shell reads its line breaks: make them Unix's")
    return text


def read_whole(file: Path) -> str:
    """The text of a template that starts something of a run. Errors: UsageError."""
    text = read_template(file)
    if not names_in(text) & set(STARTS):
        raise UsageError(
            f"--template {file}: it has no {{{{command}}}}, nor {{{{config}}}} or "
            "{{output_path}}: its jobs would start no run"
        )
    return text


def names_in(template: str) -> set[str]:
    """The parameters that a template has."""
    return set(_PLACE.findall(template))


def fill(template: str, params: Mapping[str, Param], where: str) -> Filled:
    """A template with its parameters' values. where: its name, for messages.

    Errors: UsageError of one line, for a parameter that is unknown or has no value, and for a value
    that would not stay one where it stands.
    """
    kept, left_out, scanner = [], [], Scanner()
    for row, line in enumerate(template.splitlines(), 1):
        at = f"{where}:{row}"
        names = _PLACE.findall(line)
        if rest := _PLACE.sub("", line).partition("{{")[1:]:
            if rest[0]:
                raise UsageError(f"{at}: {{{{ without a parameter's name and }}}} after it: {line}")
        for name in names:
            if name not in params:
                near = hint(closest(name, params))
                known = "" if near else f"; there are {', '.join(sorted(params))}"
                raise UsageError(f"{at}: {{{{{name}}}}} is no parameter{near}{known}")
        empty = [name for name in names if params[name] is None]
        directive = line.startswith(DIRECTIVE)
        if empty and directive:
            left_out += empty
            continue
        if empty:
            raise UsageError(f"{at}: {{{{{empty[0]}}}}} has no value: give sbatch.{empty[0]}")
        kept.append(_filled(line, params, at, scanner, directive))
        scanner.end_line()
        if scanner.fault:
            raise UsageError(f"{at}: {scanner.fault}, behind values: it would read them as code")
    return Filled("\n".join(kept) + "\n", left_out)


def _filled(
    line: str, params: Mapping[str, Param], at: str, scanner: Scanner, directive: bool
) -> str:
    parts, end = [], 0
    for found in _PLACE.finditer(line):
        before = line[end : found.start()]
        scanner.read(before)
        name = found[1]
        value = in_place(name, params[name], line[: found.start()], line[found.end() :])
        parts += [before, _written(name, value, at, scanner, directive)]
        if not directive and not scanner.comment:
            scanner.value(str(value))
        end = found.end()
    scanner.read(line[end:])
    text = "".join([*parts, line[end:]])
    if not directive and text.lstrip().startswith(DIRECTIVE) and params["main_partition"] != text:
        raise UsageError(f"{at}: a value would make this a line of {DIRECTIVE}")
    return text


def _written(name: str, value: Param, at: str, scanner: Scanner, directive: bool) -> str:
    """A value as it stands in the script."""
    words = value if isinstance(value, tuple) else (str(value),)
    if "\0" in "".join(words):
        raise UsageError(f"{at}: the value of {{{{{name}}}}} has a zero byte in it")
    if directive:
        if isinstance(value, Code) or not all(map(plain, words)):
            raise UsageError(
                f"{at}: {name} {' '.join(words)!r} cannot stand in a line of {DIRECTIVE}, which "
                "takes letters, digits and _@%+=:,./- only"
            )
        return " ".join(words)
    if scanner.comment:
        return " ".join("".join(c if c.isprintable() else " " for c in w) for w in words)
    if len(words) == 1 and number(words[0]):
        return words[0]
    code = isinstance(value, Code)
    itself = len(words) == 1 and plain(words[0]) and not code
    count = ("", "") if code else words
    if why := scanner.refusal(count, quotes=itself, own=name in OWN):
        raise UsageError(
            f"{at}: {{{{{name}}}}} stands {why}: let it be a word by itself, of a command that "
            "reads it as data; it is quoted where it needs to be"
        )
    if isinstance(value, str) and not code and (command := scanner.option(value)):
        raise UsageError(
            f"{at}: {{{{{name}}}}} is {value!r}, which `{command}` could take for an option, in "
            f"quotes too: write `-- {{{{{name}}}}}` where the command knows `--`, or "
            f"`--opt={{{{{name}}}}}`, or another value (a file: ./{value})"
        )
    return words[0] if itself or code else quoted(words)


def in_place(name: str, value: Param, before: str, after: str) -> Param:
    """Values whose form depends on what the template has around them: `mem` of a bare number is
    gigabytes, and `gpu` is as --gres or --gpus want it."""
    if name == "mem" and str(value).isdigit() and not re.match(r"[KMGT]", after):
        return f"{value}G"
    if name == "gpu" and value is not None:
        if before.endswith("gres="):
            return f"gpu:{value}"
        return f":{value}" if before.endswith("gpu") else value
    return value


def write_run_template(
    xopts: Mapping[str, Any], i: int, template_path: str | Path, write_path: str | Path
) -> None:
    """Fill a template for run `i` of an experiment and write it.

    xopts: {"experiment": {...}, "runs": [{"sbatch": ..., "wandb": ..., "trainer": ...}]}, each
    run's trainer with all of its options; the run's folder is `trainer.output_path`, or that of
    `write_path`. Errors: UsageError, as `fill`; OSError.
    """
    run, target = xopts["runs"][i], Path(write_path)
    folder = Path(str(run.get("trainer", {}).get("output_path") or target.parent))
    params = params_of(xopts["experiment"], run, folder)
    filled = fill(read_template(Path(template_path)), params, str(template_path))
    write_text(target, filled.text)
