"""An experiment file -> its runs, each with all options of its trainer.

    experiment:                 # about all runs
      exp_desc: what is tried   # also: name, script, defaults, config, base_dir, repeat, n_search,
    runs:                       # seed, array, on_nodes, dev_mode, no_wandb
      - trainer: {lr: 0.1}      # also: sbatch, wandb, script, n_search

Priority: runs[i].trainer > config > defaults, each a mapping or the path of a YAML file with one,
under `experiment` or at the top. What the keys mean: docs/experiment.md.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recipes.experiment import sampling
from recipes.experiment.params import SBATCH, sbatch_of, told_of
from runtime.near import closest, hint
from runtime.settings import merge
from storage.dirs import results_home
from storage.errors import UsageError
from storage.files import expanded, with_variables
from storage.yaml_files import read_yaml

DEFAULT_SCRIPT = "train_omnigan.py"
_FLAGS = ("dev_mode", "no_wandb", "no_comet")
_EXPERIMENT = (
    "name", "exp_desc", "script", "defaults", "config", "base_dir", "repeat", "n_search", "seed",
    "array", "on_nodes", *_FLAGS,
)  # fmt: skip
_TOP = ("experiment", "defaults", "config", "runs")
_RUN = ("trainer", "sbatch", "wandb", "comet", "script", "n_search")
_WANDB = ("note", "tags")


@dataclass(frozen=True)
class Planned:
    """One run. index: in the file's list, copy: of `repeat`, search: number in its search.

    script: its file and the words in front of its options. trainer: its options. sampled: those
    that were drawn, by dotted name. asked: `sbatch`, `wandb` as in the file. command: filled in by
    `recipes.experiment.scripts.with_command`.
    """

    index: int
    copy: int
    search: int
    script: tuple[str, ...]
    trainer: dict[str, Any]
    sampled: dict[str, Any]
    asked: dict[str, Any]
    command: tuple[str, ...] = ()

    def as_run(self) -> dict[str, Any]:
        """As `recipes.experiment.template.write_run_template` takes a run."""
        return {**self.asked, "trainer": self.trainer, "command": self.command}


@dataclass(frozen=True)
class Experiment:
    """A file's experiment. about: its `experiment` section, with name and seed filled in.

    array: how many of its runs may go on at once as one array of jobs, 0 for all; None: no array.
    """

    file: Path
    about: dict[str, Any]
    base_dir: Path
    runs: list[Planned]
    array: int | None


def read_experiment(file: Path, seed: int | None = None) -> Experiment:
    """An experiment's runs in order, values drawn. seed: over the file's own.

    Errors: UsageError of one line, which begins with the file's name and the key.
    """
    try:
        return _read(file, seed)
    except (ValueError, UsageError) as error:
        text = str(error)
        raise UsageError(text if text.startswith(str(file)) else f"{file}: {text}") from None


def _read(file: Path, seed: int | None) -> Experiment:
    whole = _mapping(read_yaml(file), "the file")
    _known(whole, _TOP, "", also="x-")
    about = dict(_mapping(whole.get("experiment") or {}, "experiment"))
    _known(about, _EXPERIMENT, "experiment.")
    about["name"] = _safe_name(about.get("name") or file.stem)
    about["seed"] = _whole(about.get("seed") or 0, "experiment.seed", 0) if seed is None else seed
    for key in _FLAGS:
        if not isinstance(about.get(key, False), bool | None):
            raise UsageError(f"experiment.{key} {about[key]!r} is not true or false")
    if not isinstance(about.get("exp_desc") or "", str | int | float):
        raise UsageError(f"experiment.exp_desc {about['exp_desc']!r} is no text")
    about["on_nodes"] = _on_nodes(about.get("on_nodes"))
    runs = whole.get("runs")
    if not isinstance(runs, list) or not runs:
        raise UsageError("runs: a list with a run or more is needed, each `- trainer: {...}`")
    base: dict[str, Any] = {}
    for level in ("defaults", "config"):
        over = sampling.mark(_level(whole, about, level, file), level)
        base = merge(base, over)
    repeat = _whole(about.get("repeat", 1), "experiment.repeat", 1)
    planned: list[Planned] = []
    for i, run in enumerate(runs):
        for k in range(repeat):
            planned += _planned(run, i, k, base, about)
            if len(planned) > sampling.MOST_RUNS:
                raise UsageError(f"more than {sampling.MOST_RUNS} runs: make several experiments")
    return Experiment(file, about, _base_dir(about), planned, _array(about))


def _planned(
    run: Any, i: int, copy: int, base: Mapping[str, Any], about: Mapping[str, Any]
) -> list[Planned]:
    """The runs that one entry of the list is: one, or those of a search."""
    where = f"runs[{i}]"
    run = _mapping({} if run is None else run, where)
    if run.get("trainer", ...) is None and (odd := [key for key in run if key not in _RUN]):
        raise UsageError(
            f"{where}: trainer is empty and {odd[0]} stands beside it: options of a run are "
            "indented further than `trainer:`"
        )
    _known(run, _RUN, f"{where}.")
    if run.get("wandb") and run.get("comet"):
        raise UsageError(f"{where}: wandb and comet are the same block: give one")
    for block in ("sbatch", "wandb", "comet"):
        _mapping(run.get(block) or {}, f"{where}.{block}")
    _known(run.get("wandb") or run.get("comet") or {}, _WANDB, f"{where}.wandb.")
    asked = {key: run[key] for key in ("sbatch", "wandb", "comet") if run.get(key)}
    try:
        sbatch_of(run)
        told_of(about, run)
    except UsageError as error:
        raise UsageError(f"{where}.{error}") from None
    over = sampling.mark(_mapping(run.get("trainer") or {}, f"{where}.trainer"), f"{where}.trainer")
    tree = merge(base, over)
    asked_for = run.get("n_search", about.get("n_search", -1))
    n_search = -1 if asked_for == -1 else _whole(asked_for, f"{where}.n_search", 1)
    script = _script(run.get("script") or about.get("script") or DEFAULT_SCRIPT, where)
    found = Planned(i, copy, 0, script, {}, {}, asked)
    key = (about["seed"], i, copy)
    planned = []
    for search in range(sampling.searches(tree, n_search)):
        trainer, sampled = sampling.draw(tree, search, (*key, search))
        planned.append(replace(found, search=search, trainer=trainer, sampled=sampled))
    return planned


def _level(
    whole: Mapping[str, Any], about: Mapping[str, Any], key: str, file: Path
) -> dict[str, Any]:
    """`defaults` or `config`: a mapping, or the path of a file with one, from the experiment's own
    folder or the working directory."""
    if whole.get(key) is not None and about.get(key) is not None:
        raise UsageError(f"{key} and experiment.{key}: give one")
    value = whole.get(key) if about.get(key) is None else about[key]
    if not isinstance(value, str):
        return _mapping({} if value is None else value, key)
    path = _expanded(value, key)
    beside = file.parent / path
    path = beside if beside.is_file() else path
    if not path.is_file():
        raise UsageError(f"{key}: there is no file {value}, beside {file.name} or from here")
    found = read_yaml(path)
    return _mapping({} if found is None else found, f"{key} ({path})")


def _base_dir(about: Mapping[str, Any]) -> Path:
    """The folder that the runs' folders go to, absolute."""
    given = about.get("base_dir")
    if given is None:
        return results_home() / "experiment" / str(about["name"])
    if not isinstance(given, str) or not given.strip() or not given.isprintable():
        raise UsageError(f"experiment.base_dir {given!r} is no folder's name")
    return Path(os.path.abspath(_expanded(given, "experiment.base_dir")))


def _on_nodes(value: Any) -> list[str]:
    """Folders that only the jobs' machines have, absolute."""
    words = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(w, str) and w for w in words):
        raise UsageError(f"experiment.on_nodes {value!r} is no list of folders")
    return [os.path.abspath(_expanded(word, "experiment.on_nodes")) for word in words]


def _expanded(word: str, key: str) -> Path:
    """A path with `~` and `$NAME` replaced."""
    try:
        return expanded(with_variables(word))
    except UsageError as error:
        raise UsageError(f"{key} {error}") from None


def _script(value: Any, where: str) -> tuple[str, ...]:
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list) or not words or not all(isinstance(w, str) for w in words):
        raise UsageError(f"{where}: script {value!r} is no script, such as train_edm2.py")
    return tuple(words)


def _array(about: Mapping[str, Any]) -> int | None:
    value = about.get("array")
    if value is None or value is False:
        return None
    return 0 if value is True else _whole(value, "experiment.array", 1)


def _safe_name(value: Any) -> str:
    """A name that can be a folder's and a job's."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", value):
        raise UsageError(
            f"experiment.name {value!r} (by default the file's name) names a folder and jobs: up "
            "to 80 letters, digits and . _ -"
        )
    return value


def _whole(value: Any, where: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{where} {value!r} is not a whole number >= {least}")
    return value


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} is no mapping `key: value`, but {type(value).__name__}")
    if odd := [key for key in value if not isinstance(key, str)]:
        raise UsageError(f"{where}: the key {odd[0]!r} is no text: put it in quotes")
    return dict(value)


def _known(value: Mapping[str, Any], names: Sequence[str], front: str, also: str = "") -> None:
    """UsageError for a key that is not one of `names`, nor begins with `also`."""
    for key in value:
        if key not in names and not (also and key.startswith(also)):
            near = hint(closest(key, names)) or f"; there are {', '.join(names)}"
            raise UsageError(f"{front}{key} is no key of an experiment{near}")


def check_sbatch(run: Planned, params: set[str]) -> None:
    """UsageError for a key of `sbatch` that neither SLURM nor the template knows."""
    for key in run.asked.get("sbatch", {}):
        if key not in SBATCH and key not in params:
            near = hint(closest(key, [*SBATCH, *params]))
            raise UsageError(
                f"runs[{run.index}].sbatch.{key}: neither SLURM nor the template has {{{{{key}}}}}"
                f"{near}"
            )
