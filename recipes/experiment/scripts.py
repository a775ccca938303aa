"""A run's options as the command line of its script, checked by the script's own table.

Any script at the top of the toolkit can be run: the line that imports `get_args` says which recipe
has its options. Nothing of the script itself is imported.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import io
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from recipes.experiment.inputs import refuse_missing
from recipes.experiment.params import ROOT, sbatch_of, staged, told_of
from recipes.experiment.plan import Planned
from runtime.near import closest, hint
from runtime.settings import flat
from storage.errors import UsageError
from storage.files import write_text
from storage.yaml_files import yaml_text

# Whose options are a file, --config: the module that sees whether their networks can be made.
CONFIGURED = {"train_omnigan.py": "recipes.omnigan.parts"}
CONFIG = "config.yaml"


@cache
def option_reader(script: str) -> Callable[[list[str]], argparse.Namespace]:
    """What reads the command line of a script at the top of the toolkit.

    Errors: UsageError for a script that is not there, or has no options in a recipe.
    """
    scripts = sorted(file.name for file in ROOT.glob("*.py") if _module(file))
    if script not in scripts:
        near = hint(closest(script, scripts)) or f"; there are {', '.join(scripts)}"
        raise UsageError(f"script {script!r} is none of the toolkit's{near}")
    get_args = importlib.import_module(str(_module(ROOT / script))).get_args

    def read(words: list[str]) -> argparse.Namespace:
        said, program = io.StringIO(), sys.argv
        sys.argv = [script]
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                return get_args(None, words)
        except SystemExit as stop:
            if stop.code == 0:
                raise UsageError("--help is no option of a run") from None
            line = re.sub(r" \(see --help\)$", "", said.getvalue().strip().splitlines()[-1])
            raise UsageError(re.sub(r"^.*?: error: |^error: ", "", line)) from None
        finally:
            sys.argv = program

    return read


def _module(file: Path) -> str | None:
    """The recipe out of which a script imports `get_args`; None if it does not."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("recipes."):
            if any(alias.name == "get_args" for alias in node.names):
                return None if file.name == "experiment.py" else node.module
    return None


def with_command(run: Planned, about: Mapping[str, Any], folder: Path) -> Planned:
    """A run with the words that start it, checked by its script. folder: the run's, not yet made.

    Errors: UsageError of one line that says which run.
    """
    try:
        name, *front = run.script
        read = option_reader(name)
        if name in CONFIGURED:
            run, words, args = _configured(run, about, folder, read)
        else:
            words = [*front, *words_of(run.trainer)]
            args = read(words)
            refuse_own_folder(args)
            if hasattr(args, "outdir"):
                words += ["--outdir", str(folder)]
        check_stage(run, words)
        stage = str(sbatch_of(run.asked)["stage"])
        refuse_missing(args, stage, [folder.parent, *map(Path, about.get("on_nodes") or [])])
        return replace(run, command=(str(ROOT / name), *words))
    except (UsageError, ValueError) as error:
        raise UsageError(f"runs[{run.index}] ({' '.join(run.script)}): {error}") from None


def _configured(
    run: Planned,
    about: Mapping[str, Any],
    folder: Path,
    read: Callable[[list[str]], argparse.Namespace],
) -> tuple[Planned, list[str], argparse.Namespace]:
    """Of a script whose options are a file: the run with what W&B is told of it, its words, and
    what they were read to."""
    run = _told_once(run, about)
    front = list(run.script[1:])
    if any(word.partition("=")[0] == "--config" for word in front):
        raise UsageError("--config: the settings are the experiment's; a file of them: defaults")
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / CONFIG
        write_text(file, yaml_text(run.trainer), durable=False)
        try:
            args = read([*front, "--config", str(file)])
            refuse_own_folder(args)
            importlib.import_module(CONFIGURED[run.script[0]]).try_to_make(args.opts)
        except UsageError as error:
            raise UsageError(str(error).replace(str(file), "trainer")) from None
    words = [*front, "--config", str(folder / CONFIG), "--outdir", str(folder)]
    stage = str(sbatch_of(run.asked)["stage"])
    if stage:
        words += [
            w for k, v in flat(run.trainer).items() if v == stage for w in ("--set", f"{k}={v}")
        ]
    args.config = None  # which is gone
    return run, words, args


def _told_once(run: Planned, about: Mapping[str, Any]) -> Planned:
    """A run of which W&B is told the same by its settings and by what its job exports.

    Note and tags are those of runs[i].wandb or of trainer.wandb. Errors: UsageError where both have
    one, and they are not alike, or where the settings describe another experiment.
    """
    key = "comet" if "comet" in run.trainer else "wandb"
    said = run.trainer.get(key) or {}
    if not isinstance(said, Mapping):  # as its schema will say
        return run
    ours, theirs = told_of(about, run.asked), told_of(about, {"wandb": said})
    both = {}
    for name in ("note", "tags"):
        if ours[name] and theirs[name] and ours[name] != theirs[name]:
            raise UsageError(
                f"wandb.{name} is {ours[name]!r}, and trainer.{key}.{name} is {theirs[name]!r}: "
                f"give one, and take away what defaults have by `{name}: null` in the trainer's"
            )
        if found := ours[name] or theirs[name]:
            both[name] = found
    about_it, other = ours["description"], said.get("description")
    if other and other != about_it:
        raise UsageError(
            f"trainer.{key}.description {other!r}: of an experiment that is experiment.exp_desc"
        )
    if both:
        run = replace(run, asked={k: v for k, v in run.asked.items() if k != "comet"})
        run = replace(run, asked={**run.asked, "wandb": both})
    block = {**both, "description": about_it} if about_it else dict(both)
    block = {k: " ".join(v.split()) if isinstance(v, str) else v for k, v in block.items()}
    return replace(run, trainer={**run.trainer, key: {**said, **block}}) if block else run


def refuse_own_folder(args: argparse.Namespace) -> None:
    """UsageError where a run's options name its folder, which is the experiment's to name."""
    asked = {"output_path": getattr(args, "opts", {}).get("output_path")}
    asked |= {name: getattr(args, name, None) for name in ("outdir", "run_dir")}
    for name, value in asked.items():
        if value is not None:
            raise UsageError(
                f"{name} {value}: the folder of the run is experiment.base_dir's run_NNN; give "
                "base_dir instead"
            )


def check_stage(run: Planned, words: list[str]) -> None:
    """UsageError where sbatch.stage is copied and nothing would read the copy."""
    stage = str(sbatch_of(run.asked)["stage"])
    if stage and staged(words, stage) == staged(words, ""):
        raise UsageError(
            f"sbatch.stage {stage!r} is no option's value: nothing would read the copy"
        )


def words_of(trainer: Mapping[str, Any]) -> list[str]:
    """{option: value} as one types it: true `--x`, false `--no-x`, null not at all, a list its
    values in a row. Errors: UsageError for what no command line can say."""
    words: list[str] = []
    for name, value in trainer.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise UsageError(f"trainer.{name!r} is no option's name")
        if name in ("help", "help_all", "help-all"):
            raise UsageError("--help is no option of a run")
        option = f"--{name}"
        if isinstance(value, bool):
            words.append(option if value else f"--no-{name}")
        elif isinstance(value, list):
            values = [_word(each, name) for each in value] or ["[]"]
            if any(re.match(r"-(?![\d.])", each) for each in values):
                raise UsageError(
                    f"trainer.{name}: {values!r} has a value that looks like an option"
                )
            words += [option, *values]
        elif value is not None:
            word = _word(value, name)
            words += [f"{option}={word}"] if word.startswith("-") else [option, word]
    return words


def _word(value: Any, name: str) -> str:
    if isinstance(value, Mapping | list | bool | None):
        kind = "a mapping" if isinstance(value, Mapping) else repr(value)
        raise UsageError(f"trainer.{name} is {kind}: the script's options are single values, lists")
    if isinstance(value, str) and "\0" in value:
        raise UsageError(f"trainer.{name} has a zero byte in it")
    return repr(value) if isinstance(value, float) else str(value)
