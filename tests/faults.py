"""`make faults`: kills and injected faults, over and over, of the training scripts as they are.

    python -m tests.faults                        # some minutes of two cores
    python -m tests.faults --kills 50 --only toy_example train_edm2
    python -m tests.faults --write                # counts into docs/reliability.md

For each script in its smoke mode: SIGKILL at random moments of a launch until so many died, then
the end of the run is compared with that of one that nobody disturbed, bit for bit; then the n-th
passing of a fail point of `storage.files` and `storage.checkpoint` answers with an error of the
disk, for n = 1, 2, 4, ..., and the launch has to end with 0 or 7, and the next one as the
undisturbed did; then signals at random moments, each of which has to give 75, or 0 at the very end.
It fails with a traceback at the first promise that is broken.
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
from pathlib import Path
from typing import Any, NamedTuple

from runtime.types import positive_int
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
}


class Counts(NamedTuple):
    """Of one script: kills, and how many of them in a save; faults, and what they ended with;
    signals, and what they ended with."""

    kills: int
    in_a_save: int
    faults: Counter[int]
    signals: Counter[int]


def run(name: str, words: list[str], run_dir: str) -> None:
    """Entry of a child process: a script's main, as its last line calls it."""
    script = load(name)
    script.main(get_args(script, [*words, *PLAIN, "--run-dir", run_dir]))


def check(run_dir: Path, reference: Path) -> None:
    """That a run ended as the undisturbed one did. Errors: AssertionError."""
    found = harness.differences(harness.final_state(run_dir), harness.final_state(reference))
    found = [name for name in found if ".seconds" not in name]  # the toy keeps the clock's
    assert not found, f"{run_dir}: {found}"
    assert harness.metrics(run_dir) == harness.metrics(reference), f"{run_dir}: metrics.jsonl"
    left = [p.name for p in run_dir.rglob(".tmp-*") if "wandb" not in p.parts]
    assert not left, f"{run_dir}: left over {left}"


def disturb(name: str, kills: int, faults: int, signals: int, folder: Path) -> Counts:
    """All that one script goes through."""
    words = SCRIPTS[name].split()

    def given(run_dir: Path) -> tuple[Any, ...]:
        return name, words, str(run_dir)

    log, reference = folder / "log.txt", folder / "reference"
    start = time.monotonic()
    code = harness.finish(run, given(reference), log, timeout=600)
    assert code == 0, log.read_text()[-3000:]
    whole = time.monotonic() - start
    report = harness.kill_and_resume(
        run,
        given,
        folder,
        kills=kills,
        seconds=(0.3 * whole, whole),
        failpoints=["half-file:9", "pre-fsync:5", "post-manifest:2", "mid-prune:1"][: kills // 2],
        check=lambda run_dir: check(run_dir, reference),
    )
    broken: Counter[int] = Counter()
    for n in range(faults):
        run_dir, error = folder / f"fault-{n}", ERRORS[n % len(ERRORS)]
        spec = f"any:{1 + n * n}={error}"
        code = harness.finish(run, given(run_dir), log, {"IMLE_LAB_FAILPOINT": spec}, timeout=600)
        assert code in (0, 7), f"{spec}: {code}\n{log.read_text()[-3000:]}"
        broken[code] += 1
        code = harness.finish(run, given(run_dir), log, timeout=600)
        assert code == 0, f"after {spec}: {code}\n{log.read_text()[-3000:]}"
        check(run_dir, reference)
    rng, sent, run_dir = random.Random(0), Counter[int](), folder / "signals"
    while sum(sent.values()) < signals:
        process = harness.launch(run, given(run_dir), log)
        process.join(rng.uniform(0.5 * whole, whole))
        number = rng.choice([signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
        if process.exitcode is None and process.pid is not None:
            os.kill(process.pid, number)
            code = harness.wait(process, 600)
            # The fork server's child has no handlers while it imports; a script has.
            assert code in (0, 75, -number), f"{number}: {code}\n{log.read_text()[-3000:]}"
            sent[code] += 1
        run_dir = folder / f"signals-{sum(sent.values())}" if process.exitcode == 0 else run_dir
    return Counts(report.kills, report.where["save"], broken, sent)


def table(found: dict[str, Counts]) -> str:
    """The counts as a table of docs/reliability.md."""
    lines = [
        "| script | kills (in a save) | faults injected | signals |",
        "|---|---|---|---|",
    ]
    for name, counts in found.items():
        ends = [
            ", ".join(f"{n} ended with {code}" for code, n in sorted(each.items())) or "none"
            for each in (counts.faults, counts.signals)
        ]
        lines.append(f"| {name} | {counts.kills} ({counts.in_a_save}) | {ends[0]} | {ends[1]} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """The command; see the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=positive_int, default=8, help="of each script")
    parser.add_argument("--faults", type=positive_int, default=6, help="of each script")
    parser.add_argument("--signals", type=positive_int, default=4, help="of each script")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS))
    parser.add_argument("--write", action="store_true", help="write the counts into the page")
    args = parser.parse_args(argv)
    found = {}
    for name in args.only:
        with tempfile.TemporaryDirectory(prefix="imle-lab-faults-") as folder:
            start = time.monotonic()
            counts = (args.kills, args.faults, args.signals)
            found[name] = disturb(name, *counts, Path(folder))
            print(f"{name}: {found[name]} in {time.monotonic() - start:.0f} s", flush=True)
    print(table(found))
    if args.write:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        write_text(PAGE, f"{before}{BEGIN}\n{table(found)}\n{END}{after}")


if __name__ == "__main__":
    sys.exit(main())
