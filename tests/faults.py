"""`make faults`: kills and injected faults, over and over, of the training scripts as they are.

    python -m tests.faults                        # some minutes of two cores
    python -m tests.faults --kills 50 --only toy_example train_edm2
    python -m tests.faults --write                # counts into docs/reliability.md

For each script in its smoke mode: SIGKILL at random moments of a launch until so many died, then
the end of the run is compared with that of one that nobody disturbed, bit for bit; then the n-th
passing of a fail point of `storage.files` and `storage.checkpoint` answers with an error of the
disk, for n = 1, 2, 5, 10, ..., and the launch has to end with 0 or 7, and the next one as the
undisturbed did; then signals at random moments, each of which has to give 75, or 0 at the very end.
It fails with a traceback at the first promise that is broken. A launch that takes ten times as long
as an undisturbed one, and a minute, has hung: its log then says where. What --minutes leave no time
for is left out, and the table has what was done.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, NamedTuple

from runtime.launch import launch
from runtime.types import nonnegative_int, positive_float
from storage.ending import Ends
from storage.files import write_text
from tests import kill_harness as harness
from tests.scripts.support import get_args, load

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- faults -->", "<!-- end of faults -->"
ERRORS = ("EIO", "ENOSPC", "EFBIG", "EROFS")
PLAIN = "--gpus cpu --wandb disabled".split()
# A smoke mode of each that takes a few seconds.
SCRIPTS = {
    "toy_example": "train --preset smoke --total-iter 60 --batch-size 64 --dim 8 --save_every 4 "
    "--snapshot_every 30 --no-viz --no-val --no-test",
    "train_edm2": "--preset smoke --duration 96 --save_every 2 --sample_images 0",
    "train_ddpm": "--preset smoke --duration 64 --save_every 2 --sample_images 0",
    "TrainSimCLR": "--preset smoke --epochs 3 --save_every 2",
    "TrainGeneratorWandB": "--preset smoke --outer_loops 3 --save_every 2",
    "TrainISICLE": "--preset smoke --save_every 2",
    "train_omnigan": "--preset smoke --save_every 2 --set val.every_n_steps=100",
}


class Counts(NamedTuple):
    """Of one script: kills, and how many of them in a save; faults, and what they ended with;
    signals, and what they ended with."""

    kills: int
    in_a_save: int
    faults: Counter[int]
    signals: Counter[int]


def run(name: str, words: list[str], run_dir: str) -> None:
    """Entry of a child process: a script from its first line to its last."""
    Ends().install()  # as storage.environment does in a script's own process
    script = load(name)
    launch(script.main, get_args(script, [*words, *PLAIN, "--run-dir", run_dir]))


def check(run_dir: Path, reference: Path) -> None:
    """That a run ended as the undisturbed one did. Errors: AssertionError."""
    found = harness.differences(harness.final_state(run_dir), harness.final_state(reference))
    found = [name for name in found if ".seconds" not in name]  # the toy keeps the clock's
    assert not found, f"{run_dir}: {found}"
    assert harness.metrics(run_dir) == harness.metrics(reference), f"{run_dir}: metrics.jsonl"
    left = [p.name for p in run_dir.rglob(".tmp-*") if "wandb" not in p.parts]
    assert not left, f"{run_dir}: left over {left}"


class Case(NamedTuple):
    """A script under test: its options, where everything goes, seconds that an undisturbed launch
    takes, and the time (time.monotonic) from which on nothing more is begun."""

    name: str
    folder: Path
    whole: float
    until: float

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def reference(self) -> Path:
        return self.folder / "reference"

    @property
    def timeout(self) -> float:
        """Seconds after which a launch hangs."""
        return 60.0 + 10.0 * self.whole

    def given(self, run_dir: Path) -> tuple[Any, ...]:
        """What `run` takes."""
        return self.name, SCRIPTS[self.name].split(), str(run_dir)

    def finish(self, run_dir: Path, env: dict[str, str] | None = None) -> int:
        """Exit code of a launch that is waited for."""
        return harness.finish(run, self.given(run_dir), self.log, env, timeout=self.timeout)

    def said(self) -> str:
        """The end of what the launches have printed."""
        return self.log.read_text()[-3000:]

    def more(self, done: int, asked: int) -> bool:
        """Whether there is another to do, and time for it."""
        return done < asked and time.monotonic() < self.until


def begin(name: str, folder: Path, minutes: float) -> Case:
    """The run that nobody disturbs, twice: the first one also imports what later ones have."""
    case = Case(name, folder, 60.0, time.monotonic() + 60 * minutes)
    for run_dir in (folder / "warm-up", case.reference):
        start = time.monotonic()
        code = case.finish(run_dir)
        assert code == 0, case.said()
        whole = time.monotonic() - start
    return case._replace(whole=whole)


def faults(case: Case, count: int) -> Counter[int]:
    """Launches in which the disk fails once, each in a run of its own; what they ended with."""
    broken: Counter[int] = Counter()
    while case.more(n := broken.total(), count):
        run_dir = case.folder / f"fault-{n}"
        spec = f"any:{1 + n * n}={ERRORS[n % len(ERRORS)]}"
        code = case.finish(run_dir, {"IMLE_LAB_FAILPOINT": spec})
        assert code in (0, 7), f"{spec}: {code}\n{case.said()}"
        broken[code] += 1
        code = case.finish(run_dir)
        assert code == 0, f"after {spec}: {code}\n{case.said()}"
        check(run_dir, case.reference)
    return broken


def signals(case: Case, count: int) -> Counter[int]:
    """Signals at random moments of a run, until it is finished, and then of another; what the
    launches ended with. One that ended before its signal has the next come earlier."""
    rng, sent, number, earlier = random.Random(0), Counter[int](), 0, 1.0
    while case.more(sent.total(), count):
        run_dir = case.folder / f"signals-{number}"
        process = harness.launch(run, case.given(run_dir), case.log)
        process.join(earlier * rng.uniform(0.3 * case.whole, case.whole))
        sign = rng.choice([signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
        there = process.exitcode is None
        if there:
            os.kill(process.pid, sign)
        code = harness.wait(process, case.timeout)
        assert code in ((0, 75) if there else (0,)), f"{sign!r}: {code}\n{case.said()}"
        sent[code] += there
        earlier *= 1.0 if there else 0.8
        number += code == 0
    run_dir = case.folder / f"signals-{number}"
    if run_dir.exists():
        assert case.finish(run_dir) == 0, case.said()
    for each in case.folder.glob("signals-*"):
        check(each, case.reference)
    return +sent


def disturb(name: str, counts: tuple[int, int, int], folder: Path, minutes: float) -> Counts:
    """All that one script goes through; counts: of kills, faults and signals."""
    case = begin(name, folder, minutes)
    points = ["half-file:9", "pre-fsync:5", "post-manifest:2", "mid-prune:1"]
    report = harness.kill_and_resume(
        run,
        case.given,
        folder,
        kills=counts[0],
        seconds=(0.3 * case.whole, case.whole),
        failpoints=points[: counts[0] // 2],
        check=lambda run_dir: check(run_dir, case.reference),
        timeout=case.timeout,
        until=case.until,
    )
    broken = faults(case, counts[1])
    return Counts(report.kills, report.where["save"], broken, signals(case, counts[2]))


HEAD = "| script | kills (in a save) | faults injected | signals |\n|---|---|---|---|"


def row(name: str, counts: Counts) -> str:
    """A script's counts as a line of the table in docs/reliability.md."""
    ends = [
        ", ".join(f"{n} ended with {code}" for code, n in sorted(each.items())) or "none"
        for each in (counts.faults, counts.signals)
    ]
    return f"| {name} | {counts.kills} ({counts.in_a_save}) | {ends[0]} | {ends[1]} |"


def written(text: str, found: dict[str, Counts]) -> str:
    """The page with these scripts' rows in its table; those of others stay."""
    before, _, rest = text.partition(BEGIN)
    inner, _, after = rest.partition(END)
    rows = {line.split("|")[1].strip(): line for line in inner.splitlines() if line[:1] == "|"}
    rows |= {name: row(name, counts) for name, counts in found.items()}
    lines = [rows[name] for name in SCRIPTS if name in rows]
    return "\n".join([before + BEGIN, HEAD, *lines, END + after])


def main(argv: list[str] | None = None) -> None:
    """The command; see the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=nonnegative_int, default=8, help="of each script")
    parser.add_argument("--faults", type=nonnegative_int, default=6, help="of each script")
    parser.add_argument("--signals", type=nonnegative_int, default=4, help="of each script")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS))
    parser.add_argument("--minutes", type=positive_float, default=15.0, help="for each script")
    parser.add_argument("--write", action="store_true", help="write the counts into the page")
    args = parser.parse_args(argv)
    forkserver.set_forkserver_preload([*harness.PRELOAD, *args.only])
    forkserver.ensure_running()
    print(HEAD)
    for name in args.only:
        with tempfile.TemporaryDirectory(prefix="imle-lab-faults-") as folder:
            start = time.monotonic()
            asked = (args.kills, args.faults, args.signals)
            counts = disturb(name, asked, Path(folder), args.minutes)
        print(f"{row(name, counts)}  in {time.monotonic() - start:.0f} s", flush=True)
        if args.write:
            write_text(PAGE, written(PAGE.read_text(), {name: counts}))


if __name__ == "__main__":
    sys.exit(main())
