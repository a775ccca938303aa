"""The runs' folders, BASE_DIR/run_001 and on, each whole or not at all, and all of them or none.

    exp.sh          the batch script
    config.yaml     all options of the trainer, with what was drawn
    exp_I.yaml      the experiment file as it was; I is the run's place in its list
    hash.txt        the commit of the code
    sampled.json    what was drawn, and with which random seed

The script that is run adds its own files: that folder is its run folder.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from recipes.experiment import scripts
from recipes.experiment.params import params_of
from recipes.experiment.plan import Experiment, Planned, check_sbatch
from recipes.experiment.shell import DIRECTIVE, plain
from recipes.experiment.template import Filled, fill, names_in
from runtime import provenance
from runtime.settings import flat
from storage import files
from storage.errors import DiskError, UsageError
from storage.yaml_files import yaml_text

_RUN = re.compile(r"run_(\d+)")
# Of these an array has its own.
_OWN = re.compile(rf"{DIRECTIVE}\s+(--job-name|--output|--error|--array|-[Joea])")


@dataclass(frozen=True)
class Job:
    """A run with its folder, which is not made yet, and its batch script."""

    run: Planned
    folder: Path
    script: Filled


def first_number(base_dir: Path) -> int:
    """The number that the next run gets: above all that are there."""
    if not base_dir.is_dir():
        return 1
    found = (_RUN.fullmatch(entry.name) for entry in base_dir.iterdir())
    return 1 + max((int(match[1]) for match in found if match), default=0)


def jobs_of(experiment: Experiment, template: str, where: str, first: int) -> list[Job]:
    """All runs with their commands, checked by the scripts themselves, and their batch scripts.

    template, where: its text and its name. first: number of the first run. Errors: UsageError.
    """
    jobs, names = [], names_in(template)
    for number, run in enumerate(experiment.runs, first):
        folder = experiment.base_dir / f"run_{number:03d}"
        check_sbatch(run, names)
        run = scripts.with_command(run, experiment.about, folder)
        params = params_of(experiment.about, run.as_run(), folder)
        jobs.append(Job(run, folder, fill(template, params, where)))
    return jobs


def write(experiment: Experiment, jobs: list[Job]) -> None:
    """Make the folders of all runs; after an error there is none of them. Errors: DiskError."""
    origin = files.read_bytes(experiment.file)
    commit = provenance.commit() or "unknown: not a checkout of git"
    made: list[Path] = []
    try:
        for job in jobs:
            run = job.run
            with files.staging(job.folder, durable=True) as folder:
                folder.mkdir()
                told = {"seed": experiment.about["seed"], "run": run.index, "copy": run.copy}
                told |= {"search": run.search, "sampled": run.sampled}
                files.write_text(folder / "exp.sh", job.script.text)
                files.write_text(folder / scripts.CONFIG, yaml_text(run.trainer))
                files.write_bytes(folder / f"exp_{run.index}.yaml", origin)
                files.write_text(folder / "hash.txt", commit + "\n")
                files.write_json(folder / "sampled.json", told, indent=1)
            made.append(job.folder)
    except BaseException as error:
        for folder in made:
            files.remove(folder)
        if isinstance(error, OSError):
            raise DiskError(
                f"cannot write {job.folder}: {error.strerror}; nothing was submitted"
            ) from None
        raise


@contextmanager
def numbering(base_dir: Path) -> Iterator[Callable[[], int]]:
    """While numbers are taken below a folder, nobody else takes any. Errors: DataDiskError."""
    files.make_folder(base_dir)
    with files.locked(base_dir / ".lock", wait=True, what=f"the runs of {base_dir}"):
        yield lambda: first_number(base_dir)


def array_script(jobs: list[Job], at_once: int, name: str) -> str:
    """The batch script of an array whose tasks are these runs' own scripts. at_once: 0 for all.

    Errors: UsageError where runs ask for different resources.
    """
    heads = [_head(job.script.text) for job in jobs]
    for job, head in zip(jobs, heads, strict=True):
        if head != heads[0]:
            odd = (set(head) ^ set(heads[0])).pop()
            raise UsageError(
                f"runs[{job.run.index}] asks for other resources than the first ({odd}): the runs "
                "of an array have the same"
            )
    log = f"{array_file(jobs).with_suffix('')}-%a.out"
    if not plain(log.replace("%a", "")):
        raise UsageError(f"{log!r} cannot stand in a line of {DIRECTIVE}: another base_dir")
    limit = f"%{at_once}" if at_once else ""
    return "\n".join(
        [
            "#!/bin/bash",
            f"{DIRECTIVE} --job-name={name}",
            f"{DIRECTIVE} --output={log}",
            f"{DIRECTIVE} --array=0-{len(jobs) - 1}{limit}",
            *heads[0],
            "# The signal of SLURM goes to this shell, which becomes that of the run.",
            'case "$SLURM_ARRAY_TASK_ID" in',
            *(
                f"{k}) exec bash {shlex.quote(str(j.folder / 'exp.sh'))} ;;"
                for k, j in enumerate(jobs)
            ),
            "esac",
            "exit 1",
            "",
        ]
    )


def _head(text: str) -> list[str]:
    """What a batch script asks of SLURM, but for what an array has of its own.

    As for sbatch, its first command ends it: behind that such a line may be one of a value.
    """
    front = takewhile(lambda line: not line.strip() or line.lstrip()[0] == "#", text.splitlines())
    return [line for line in front if line.startswith(DIRECTIVE) and not _OWN.match(line)]


def array_file(jobs: list[Job]) -> Path:
    """Where the batch script of an array is written: beside the folders of its runs."""
    return jobs[0].folder.parent / f"array_{jobs[0].folder.name[4:]}.sh"


def varying(jobs: list[Job]) -> list[list[Any]]:
    """Rows of a table of the options that differ between runs: its head, then a row a run."""
    options = [flat(job.run.trainer) for job in jobs]
    names = dict.fromkeys(name for each in options for name in each)
    missing = object()
    differ = [
        name for name in names if any(o.get(name, missing) != options[0].get(name, missing)
                                      for o in options)
    ]  # fmt: skip
    rows: list[list[Any]] = [["run", "script", *differ]]
    for job, each in zip(jobs, options, strict=True):
        shown = ["-" if name not in each else each[name] for name in differ]
        rows.append([job.folder.name, " ".join(job.run.script), *shown])
    return rows
