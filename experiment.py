r"""Run many trainings out of one file, as jobs of SLURM or here, one after the other.

    python experiment.py --experiment experiments/smoke.yaml --local       # here, seconds
    python experiment.py --experiment experiments/edm2.yaml --dry-run      # what would be submitted
    python experiment.py --experiment MINE.yaml                            # by sbatch
    python experiment.py --experiment MINE.yaml --template MINE.sh

A run is any script of the toolkit with its options:

    experiment:
      script: train_edm2.py
      exp_desc: which learning rate
    defaults: {preset: cifar10}       # of all runs; config: a second level above it
    runs:
      - sbatch: {gpu: 1, time: "12:00:00"}
        trainer:                      # of this one
          lr: {sample: cartesian, from: [0.005, 0.01, 0.02]}

Options are checked by the script's own table before anything is written. Each run gets a folder,
BASE_DIR/run_001, with its batch script, its options, the experiment's file, the commit and what was
drawn; the script writes its own files there, and the job that is preempted goes on there.
docs/experiment.md has all keys; experiments/template.sh is the batch script.
"""

from argparse import Namespace

import storage.environment  # noqa: F401  (says what to do where torch is missing)

from recipes.experiment.folders import (
    Job,
    array_file,
    array_script,
    first_number,
    jobs_of,
    numbering,
    varying,
    write,
)
from recipes.experiment.options import get_args
from recipes.experiment.plan import Experiment, read_experiment
from recipes.experiment.starting import command_line, require_sbatch, run_here, submit
from recipes.experiment.template import read_whole, write_run_template
from recipes.runs.layout import printable, table
from runtime.launch import launch
from storage.console import tell
from storage.errors import RunError
from storage.files import expanded, write_text
from storage.yaml_files import yaml_text

__all__ = ["write_run_template"]


def main(args: Namespace) -> None:
    experiment = read_experiment(expanded(args.experiment), args.seed)
    template = read_whole(args.template)
    dev = bool(experiment.about.get("dev_mode"))
    if not (args.dry_run or args.local or dev):
        require_sbatch()

    # Checked as a whole, then written as a whole: nothing is submitted before.
    first = first_number(experiment.base_dir)
    jobs = jobs_of(experiment, template, str(args.template), first)
    if args.dry_run:
        show(experiment, jobs)
        return
    with numbering(experiment.base_dir) as now:
        if first != now():  # another experiment took numbers meanwhile
            jobs = jobs_of(experiment, template, str(args.template), now())
        array = None if experiment.array is None else array_of(experiment, jobs)
        write(experiment, jobs)
        if array is not None:
            write_text(array_file(jobs), array)
    say(table(varying(jobs)))
    print(f"written: {jobs[0].folder} .. {jobs[-1].folder.name} ({len(jobs)})")
    unsaid = dict.fromkeys(name for job in jobs for name in job.script.left_out)
    if unsaid and not args.local:
        print(f"not asked of SLURM, since sbatch says nothing of it: {', '.join(unsaid)}")

    if args.local:
        if failed := run_here(jobs, experiment.about, tell):
            raise RunFailed(f"{len(failed)} of {len(jobs)} runs failed", failed[0][1])
    elif dev:
        print(f"dev_mode: nothing is submitted; one runs here by: {command_line(jobs[0])}")
    elif array is not None:
        print(f"submitted {array_file(jobs).name}: job {submit(array_file(jobs))}")
    else:
        submit_all(jobs)


class RunFailed(RunError):
    """Runs that were run here failed; the exit code is the first one's."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code if exit_code > 0 else 1


def submit_all(jobs: list[Job]) -> None:
    """One job a run. Errors: RunError that says which are left."""
    for k, job in enumerate(jobs):
        try:
            number = submit(job.folder / "exp.sh")
        except RunError as error:
            left = f"{k} of {len(jobs)} were submitted; the others: sbatch RUN/exp.sh"
            raise RunError(f"{error}; {left}") from None
        print(f"submitted {job.folder.name}: job {number}")


def array_of(experiment: Experiment, jobs: list[Job]) -> str:
    """The batch script of the experiment's array."""
    return array_script(jobs, experiment.array or 0, str(experiment.about["name"]))


def show(experiment: Experiment, jobs: list[Job]) -> None:
    """What would be written and submitted."""
    say(table(varying(jobs)))
    for job in jobs:
        print(f"\n# {job.folder}: {command_line(job)}")
        print("\n".join(f"#   {line}" for line in yaml_text(job.run.trainer).splitlines()))
        print(job.script.text, end="")
    if experiment.array is not None:
        print(f"\n# {array_file(jobs)}\n{array_of(experiment, jobs)}", end="")
    print(f"\nnothing was written or submitted; {len(jobs)} runs, of random seed ", end="")
    print(experiment.about["seed"])


def say(lines: list[str]) -> None:
    """Print lines of a table."""
    for line in lines:
        print(printable(line))


if __name__ == "__main__":
    launch(main, get_args(__doc__))
