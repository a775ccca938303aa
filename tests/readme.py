"""The commands of README.md, from top to bottom, as somebody who has just cloned it runs them.

    python -m tests.readme                # an hour; what takes half an hour is stopped and resumed
    python -m tests.readme --slow         # everything to its end
    python -m tests.readme --only flat --keep DIR

For each of two folders of photographs, made here (one with a folder per class, one flat): a fresh
clone of HEAD, an empty home, and every line of every block ```sh, by bash, one shell's variables
and folder after the other. What is said after ```sh, which no reader sees, is:

    slow [OPTIONS]     each command takes half an hour. It gets SIGTERM when it has trained a while,
                       must end with 75, resume, and end with 75 again; then it is run to its end
                       with OPTIONS, which make it short, so that what follows finds its result.
    full-size          wants a GPU, a download or days: the script's own parser must understand it.
    elsewhere          not of this repository (a cluster's commands): not run.

Nothing is downloaded: the clone gets an environment that sees the packages of the one this runs in
(--install makes the README's own, as `make demo` does on a new machine). Ends with 1 if a command
fails, or leaves a traceback.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data.scenes import Scenes
from storage.files import read_lines

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("", "slow", "full-size", "elsewhere")
# Variables that a new user does not have.
_OURS = re.compile(
    r"(DATA|MODELS|RESULTS)_HOME|IMLE_LAB_.*|WANDB_.*|XDG_.*|PYTHON.*|VIRTUAL_ENV|MAKE.*|VENV|TORCH"
)

# The command in $3, in the state that those before left: variables in $1, the folder in $2.
_SHELL = r"""
set -a; . "$1"; cd "$(cat "$2")"
. "$3"
code=$?
export -p > "$1"; pwd > "$2"
exit $code
"""
# In blocks of full size python and torchrun only look at the options.
_UNDERSTOOD = r"""
python() { command python -m tests.readme_options "$@"; }
torchrun() { command python -m tests.readme_options "$@"; }
"""


@dataclasses.dataclass(frozen=True)
class Block:
    """Commands of one fence. kind: of KINDS. short: what makes slow ones short. line: its own."""

    kind: str
    short: str
    commands: list[str]
    line: int


@dataclasses.dataclass
class Result:
    """How a command went. wrong: why it failed, or an empty string."""

    command: str
    how: str
    seconds: float
    wrong: str


# ------------------------------------------------------------------------------------ the document


def blocks(text: str) -> Iterator[Block]:
    """The blocks ```sh of a document. Errors: ValueError for an unknown word after it."""
    for found in re.finditer(r"^```sh\b[ \t]*([^\n]*)\n(.*?)^```$", text, re.S | re.M):
        kind, _, short = found[1].strip().partition(" ")
        line = text.count("\n", 0, found.start()) + 1
        if kind not in KINDS:
            raise ValueError(f"line {line}: ```sh {kind} is none of {', '.join(KINDS[1:])}")
        yield Block(kind, short, commands(found[2]), line)


def commands(code: str) -> list[str]:
    """Logical lines: continued ones joined, comments and empty ones left out."""
    lines = re.sub(r"\\\n[ \t]*", "", code).splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


# ----------------------------------------------------------------------------------- what is there


def make_photographs(folder: Path, count: int, *, classes: bool) -> None:
    """Write `count` scenes as JPEGs of many sizes, in a folder per class or in one."""
    scenes, random = Scenes("train", style="real"), np.random.default_rng(0)
    for i in range(count):
        height, width = random.integers(120, 300, 2)
        size = int(max(height, width))
        sample = scenes.render(i, size)
        top, left = (size - height) // 2, (size - width) // 2
        pixels = sample.image[top : top + height, left : left + width]
        place = folder / f"class{sample.label:02d}" if classes else folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"IMG_{i:04d}.jpg", quality=90)


def make_environment(folder: Path) -> None:
    """An environment that sees the packages of this one, and that `make` takes for installed."""
    venv.create(folder, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "installed.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    python = folder / "bin" / "python"
    for program in Path(sys.executable).parent.iterdir():
        copy = folder / "bin" / program.name
        if copy.exists() or not program.is_file():
            continue
        head, _, rest = program.read_bytes().partition(b"\n")
        if head.startswith(b"#!") and b"python" in head:
            copy.write_bytes(f"#!{python}\n".encode() + rest)
            copy.chmod(0o755)
    for stamp in (".torch", ".installed", ".installed-dev"):
        (folder / stamp).touch()


def clone(folder: Path) -> None:
    """HEAD of this repository."""
    git = ["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(folder)]
    subprocess.run(git, check=True)


class Shell:
    """A home, a working directory and variables, in which commands run one after the other.

    home: becomes $HOME. place: where the first command runs. logs: a file a command.
    """

    def __init__(self, home: Path, place: Path, logs: Path) -> None:
        self.logs = logs
        logs.mkdir(parents=True, exist_ok=True)
        self.results = home / "imle-lab" / "results"
        self._variables, self._place = logs / "variables.sh", logs / "place"
        self._command = logs / "command.sh"
        self._place.write_text(f"{place}\n")
        self._variables.write_text("")
        kept = {k: v for k, v in os.environ.items() if not _OURS.fullmatch(k)}
        path = os.pathsep.join(
            p for p in kept.get("PATH", "").split(os.pathsep) if Path(p) != Path(sys.prefix) / "bin"
        )
        self._environ = {**kept, "HOME": str(home), "PATH": path}
        self._count = 0

    def run(
        self,
        command: str,
        timeout: float,
        until: Callable[[], bool] | None = None,
        before: str = "",
    ) -> tuple[int, str]:
        """Run a line of bash: (exit code, output). `until` true: SIGTERM to what it runs.

        before: bash in front of it. One that runs longer than `timeout` seconds is killed.
        """
        self._count += 1
        self._command.write_text(before + command + "\n")
        log = self.logs / f"{self._count:03d}.txt"
        told = False
        with log.open("w") as output:
            output.write(f"$ {command}\n")
            output.flush()
            words = ["bash", "-c", _SHELL, "bash", self._variables, self._place, self._command]
            process = subprocess.Popen(
                [*map(str, words)], env=self._environ, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            end = time.monotonic() + timeout
            try:
                while process.poll() is None:
                    if time.monotonic() > end:
                        output.write(f"killed after {timeout:.0f} s\n")
                        break
                    if until is not None and not told and until():
                        told = True
                        for child in children(process.pid):
                            os.kill(child, signal.SIGTERM)
                    time.sleep(0.2)
            finally:  # also when this program is interrupted
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        return process.returncode, log.read_text(errors="replace")


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True).stdout
    pairs = (line.split() for line in listed.splitlines())
    return [int(child) for child, parent in pairs if int(parent) == pid]


# ------------------------------------------------------------------------------------- running it


def wrong(code: int, output: str, wanted: int = 0) -> str:
    """Why a command failed; an empty string if it did not."""
    if "Traceback (most recent call last)" in output:
        return "left a traceback"
    return "" if code == wanted else f"ended with {code} instead of {wanted}"


def runs_in(results: Path) -> set[Path]:
    """Folders of runs below the results directory."""
    return {file.parent for file in results.glob("**/launches.jsonl")}


class Trained:
    """Says when the run that a command began, or goes on with, has trained for a while.

    That is when this launch has saved a step, or `seconds` after its first step is in the figures.
    """

    def __init__(self, results: Path, seconds: float) -> None:
        self._results, self._seconds = results, seconds
        self._before = {run: len(launches(run)) for run in runs_in(results)}
        self._since: float | None = None

    def run(self) -> Path | None:
        """The run's folder, once it is there."""
        for run in runs_in(self._results):
            if len(launches(run)) > self._before.get(run, 0):
                return run
        return None

    def __call__(self) -> bool:
        run = self.run()
        if run is None:
            return False
        begun = launches(run)[-1].get("from_step", 0)
        saved = [int(f.parent.name[5:]) for f in run.glob("checkpoints/step-*/manifest.json")]
        if max(saved, default=0) > begun:
            return True
        if self._since is None and step_of(run) > begun:
            self._since = time.monotonic()
        return self._since is not None and time.monotonic() - self._since > self._seconds


def step_of(run: Path) -> float:
    """The newest step of its figures."""
    try:
        return max((row.get("step", 0) for row in read_lines(run / "metrics.jsonl")), default=0)
    except OSError:
        return 0


def launches(run: Path) -> list[dict]:
    """Its launches.jsonl."""
    try:
        return read_lines(run / "launches.jsonl")
    except OSError:
        return []


def interrupt_and_resume(shell: Shell, command: str, seconds: float, timeout: float) -> str:
    """Stop a command twice while it trains; what went wrong. Its run's folder is gone after it."""
    for turn in ("first", "second"):
        trained = Trained(shell.results, seconds)
        code, output = shell.run(command, timeout, trained)
        run = trained.run()
        if why := wrong(code, output, 75):
            return f"{why}, after SIGTERM to the {turn} launch"
        if run is None:
            return "made no run"
    if not launches(run)[-1].get("from_step"):
        return "did not resume"
    shutil.rmtree(run)
    return ""


def go(shell: Shell, block: Block, options: argparse.Namespace) -> Iterator[Result]:
    """Run the commands of a block."""
    for command in block.commands:
        start = time.monotonic()
        if block.kind == "elsewhere":
            yield Result(command, "not run", 0.0, "")
            continue
        if block.kind == "full-size":
            code, output = shell.run(command, options.timeout, before=_UNDERSTOOD)
            how, why = "options", wrong(code, output)
        elif block.kind == "slow" and not options.slow:
            how = "stopped, resumed, short"
            why = interrupt_and_resume(shell, command, options.seconds, options.timeout)
            if not why:
                short = f"{strip_comment(command)} {block.short}"
                code, output = shell.run(short, options.timeout)
                why = wrong(code, output)
                why = why and f"{why}, with {block.short}"
        else:
            how = "run"
            code, output = shell.run(command, 4 * 3600 if options.slow else options.timeout)
            why = wrong(code, output)
        yield Result(command, how, time.monotonic() - start, why)


def strip_comment(command: str) -> str:
    """A command without the comment behind it."""
    quote = ""
    for i, letter in enumerate(command):
        if letter in "'\"" and quote in ("", letter):
            quote = "" if quote else letter
        elif letter == "#" and not quote and (i == 0 or command[i - 1].isspace()):
            return command[:i].rstrip()
    return command


def walk(text: str, folder: Path, classes: bool, options: argparse.Namespace) -> list[Result]:
    """A new user's way through the document, in `folder`: what came of every command."""
    home, place = folder / "home", folder / "clone"
    home.mkdir(parents=True)
    make_photographs(home / "photos", options.count, classes=classes)
    clone(place)
    if not options.install:
        make_environment(place / ".venv")
    shell = Shell(home, place, folder / "logs")
    results = []
    for block in blocks(text):
        for result in go(shell, block, options):
            results.append(result)
            said = f"FAILED: {result.wrong}" if result.wrong else "ok"
            print(
                f"{result.seconds:7.1f} s  {result.how:<24} {said:<4} {result.command}", flush=True
            )
            if result.wrong:
                log = max(shell.logs.glob("*.txt"))
                print("".join(f"    | {line}\n" for line in log.read_text().splitlines()[-15:]))
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """0 if all commands went well."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--slow", action="store_true", help="run what takes half an hour to its end"
    )
    parser.add_argument(
        "--install", action="store_true", help="a new environment, from the network"
    )
    parser.add_argument("--only", choices=["classes", "flat"], help="one of the two folders")
    parser.add_argument("--count", type=int, default=240, help="photographs")
    parser.add_argument("--seconds", type=float, default=20, help="of training before SIGTERM")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds of a command")
    parser.add_argument("--keep", type=Path, help="a new folder for all of it, which stays")
    options = parser.parse_args(argv)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    folder = options.keep or Path(tempfile.mkdtemp(prefix="readme-"))
    failed = 0
    try:
        for name in [options.only] if options.only else ["classes", "flat"]:
            print(f"== photographs: {name}; a fresh clone and an empty home in {folder / name}")
            start = time.monotonic()
            results = walk(text, folder / name, name == "classes", options)
            bad = [r for r in results if r.wrong]
            failed += len(bad)
            print(
                f"== {name}: {len(results)} commands, {len(bad)} failed, "
                f"{(time.monotonic() - start) / 60:.0f} minutes"
            )
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
