"""Whether this tree does bit for bit what an earlier revision does.

    python -m tests.identity                              this tree against the default revision
    python -m tests.identity REV --only edm2              cases whose name has `edm2` in it
    python -m tests.identity --cache DIR                  keep the old tree's results, run it once
    python -m tests.identity --list                       the cases
    python -m tests.identity --keep DIR                   leave what they wrote in DIR/old, DIR/new
    python -m tests.identity --tree DIR                   another tree instead of this one
    python -m tests.identity --itself                     the old tree twice: nothing may differ

Every case of tests/identity_cases.py, which is a few command lines in a folder of its own, is run
with the old tree and with this one, in fresh folders, on one thread, the CPU, without a network.
Compared are exit codes; what was printed; which files were written; every tensor of every snapshot
and checkpoint; the values of metrics.jsonl and of JSON files; pictures and all other files by their
bytes. Left out, because two runs of one tree differ in them too: times, speeds, memory, paths,
commits, package versions, hashes of files that hold any of these, the picture of the curves.
Prints each difference and exits with 1 if there is one. Only command lines and files are used,
nothing of the code under test is imported here.

The commands run in forks of one process that has imported torch, but nothing of the tree: most of a
smoke run would be that import.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import io
import json
import math
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = "9f93de8"
TIMEOUT = 300.0
# What a command would spend seconds on importing; _dynamo comes with the first optimizer.
PRELOAD = ("numpy", "PIL.Image", "torch", "torch._dynamo", "torchvision", "matplotlib.figure")
Record = dict[str, str]  # what was found -> its value, as text

# ----------------------------------------------------------------------------- running the commands


def serve(preload: Sequence[str]) -> None:
    """Answer lines of JSON, {words, cwd, env, out, ranks}, with the exit codes of the ranks."""
    sys.path[0] = os.getcwd()  # the tree under test, not the folder of this file
    for module in preload:
        importlib.import_module(module)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        order = json.loads(line)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        children = []
        for rank in range(order["ranks"]):
            env, out = dict(order["env"]), f"{order['out']}.{rank}"
            if order["ranks"] > 1:
                env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
                env |= {"WORLD_SIZE": str(order["ranks"]), "MASTER_PORT": port}
            child = os.fork()
            if not child:
                _command(order["words"], order["cwd"], env, out)
            children.append(child)
        codes = [_wait(child) for child in children]
        print(json.dumps(codes), file=answers, flush=True)


def _wait(child: int) -> int:
    end = time.monotonic() + TIMEOUT
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)


def _command(words: list[str], cwd: str, env: dict[str, str], out: str) -> None:
    """A command in this forked process, as `python words...` would run it; never returns."""
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{out}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = list(words)
    code: Any = 0
    try:
        if words[0].endswith(".py"):
            runpy.run_path(words[0], run_name="__main__")
        else:
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code
        if not isinstance(code, int | None):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code or 0)


class Server:
    """A process that runs commands of a tree."""

    def __init__(self, tree: Path, preload: Sequence[str] = PRELOAD) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "WANDB"))}
        env |= {
            "PYTHONPATH": str(tree),
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "COLUMNS": "100",
            "WANDB_MODE": "disabled",
            "http_proxy": "http://127.0.0.1:9",
            "https_proxy": "http://127.0.0.1:9",
        }
        self.tree = tree
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--serve", *preload],
            cwd=tree,
            env=env,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, words: list[str], folder: Path, out: Path, ranks: int = 1) -> list[int]:
        """Exit codes of the ranks of one command, run in `folder`."""
        homes = {n: str(folder / n.lower()) for n in ("DATA_HOME", "MODELS_HOME", "RESULTS_HOME")}
        env = homes | {"IMLE_LAB_DIRS": str(folder / "dirs.json")}
        target = str(self.tree / words[0]) if words[0].endswith(".py") else words[0]
        order = {"words": [target, *words[1:]], "cwd": str(folder), "env": env}
        order |= {"out": str(out), "ranks": ranks}
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def run_case(server: Server, case: Any, work: Path) -> Record:
    """Run a case's commands one after the other in work/NAME; what they left and said."""
    folder, logs = work / case.name, work / "logs" / case.name
    for path in (folder, logs):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    if case.make is not None:
        case.make(folder)
    made = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    record: Record = {}
    hidden = {str(server.tree): "TREE", str(work): "WORK", sys.executable: "PYTHON"}
    for number, command in enumerate(case.commands):
        words = expanded(command.words, folder)
        codes = server.run(words, folder, logs / str(number), command.ranks)
        name = f"{number}: {' '.join(words)[:60]}"
        record[f"{name}: exit codes"] = str(codes)
        for rank in range(0 if command.silent else command.ranks):
            for stream in ("stdout", "stderr"):
                text = (logs / f"{number}.{rank}.{stream}").read_text(errors="replace")
                record |= text_record(f"{name}: {stream} {rank}", text, hidden, sort=rank > 0)
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_symlink():
            record[f"{name}: link"] = normal(os.readlink(file), hidden)
        elif file.is_file() and name not in made and not skipped(name):
            record[f"{name}: there"] = "yes"
            record |= {f"{name}: {k}": v for k, v in file_record(file, hidden).items()}
    return record


def expanded(words: Sequence[str], folder: Path) -> list[str]:
    """`@PATTERN` is the last file that fits it, relative to `folder`."""
    found = []
    for word in words:
        if word.startswith("@"):
            fits = sorted(str(Path(p)) for p in _glob(folder, word[1:]))
            word = fits[-1] if fits else word[1:]
        found.append(word)
    return found


def _glob(folder: Path, pattern: str) -> Iterator[str]:
    import glob

    yield from glob.glob(pattern, root_dir=folder)


# -------------------------------------------------------------------------------- what is compared

# Last part of a key in JSON and in checkpoints: what depends on the clock, machine or checkout.
VOLATILE = re.compile(
    r"(time|times|date|when|started|ended|updated|heartbeat|host|pid|platform|python|packages|git"
    r"|commit|dirty|torch|sha256|digest|mtime|mtime_ns|created|elapsed|[a-z_]*seconds|[a-z_]*_at"
    r"|[a-z_]*hostname|[a-z_]*versions?|[a-z_]*ms_per_[a-z]+|[a-z_]*_per_s)"
)
TIMED = ("time/", "memory/")


def skipped(name: str) -> bool:
    """Files that no two runs of one tree share."""
    path = Path(name)
    return (
        "provenance" in path.parts[:-1]
        or path.name in ("lock", "lock.mdb")
        or path.suffix in (".lock", ".pyc")
    )


MASKS = (
    (re.compile(r"\x1b\[[0-9;]*[A-Za-z]"), ""),
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?"), "DATE"),
    (re.compile(r"\b\d+:\d\d(:\d\d)?\b"), "CLOCK"),
    (
        re.compile(
            r"\b\d+(\.\d+)?(e[+-]?\d+)? ?"
            r"((step|images|image|img|views|view|scenes|it|pictures|MB)/s|ms|s|min|h|"
            r"seconds|minutes|[GMK]i?B)\b"
        ),
        "TIME",
    ),
    (re.compile(r"((?:Training|Selection|Total|Elapsed) Time \[min\] = )\S+"), r"\1TIME"),
    (re.compile(r"((?:ms_per_\w+|\w+_per_s|\w+_s) )[-+.\de]+"), r"\1TIME"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "SHA256"),
    (re.compile(r"\bpid \d+|process \d+"), "PID"),
)


def normal(text: str, hidden: dict[str, str]) -> str:
    """Text without paths, times and speeds."""
    for path in sorted(hidden, key=len, reverse=True):
        text = text.replace(path, hidden[path])
    for pattern, stand_in in MASKS:
        text = pattern.sub(stand_in, text)
    return text


def text_record(name: str, text: str, hidden: dict[str, str], sort: bool = False) -> Record:
    """The lines of a text. Of a bar that is drawn over and over, only its last state."""
    lines = [line.split("\r")[-1].rstrip() for line in text.split("\n")]
    lines = [normal(line, hidden) for line in lines]
    lines = [" ".join(line.split()) for line in lines if line and not PROGRESS.search(line)]
    lines = [line for line in lines if not VERDICT.match(line)]
    return {f"{name}[{i}]": line for i, line in enumerate(sorted(lines) if sort else lines)}


PROGRESS = re.compile(r"(TIME|CLOCK) left")
VERDICT = re.compile(r"(DATE\S* )?(validation|training): ")  # said in a line of its own since


def flat(value: Any, hidden: dict[str, str], where: str = "") -> Record:
    """{dotted keys: value} of nested dicts, lists and tensors, without what is VOLATILE."""
    import numpy as np
    import torch

    if isinstance(value, dict):
        found: Record = {} if value else {where: "{}"}
        for key, inner in value.items():
            if not VOLATILE.fullmatch(str(key)) and not str(key).startswith(TIMED):
                found |= flat(inner, hidden, f"{where}.{key}")
        return found
    if isinstance(value, torch.Tensor):
        data = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return {where: f"{value.dtype} {list(value.shape)} {hashlib.sha256(data).hexdigest()[:16]}"}
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:16]
        return {where: f"{value.dtype} {value.shape} {digest}"}
    if isinstance(value, list | tuple):
        if len(value) > 64 and all(isinstance(v, int | float) for v in value):
            return {where: hashlib.sha256(repr(value).encode()).hexdigest()[:16]}
        found = {} if value else {where: "[]"}
        for i, inner in enumerate(value):
            found |= flat(inner, hidden, f"{where}[{i}]")
        return found
    if isinstance(value, str):
        return {where: normal(value, hidden)}
    return {where: "nan" if isinstance(value, float) and math.isnan(value) else repr(value)}


def file_record(file: Path, hidden: dict[str, str]) -> Record:
    """What of a file must be equal in another run."""
    if file.suffix == ".safetensors":
        return safetensors_record(file, hidden)
    if file.suffix in (".pt", ".pth", ".pkl"):
        import torch

        with contextlib.suppress(Exception):
            return flat(torch.load(file, map_location="cpu", weights_only=True), hidden)
    if file.name == "manifest.json":  # sizes and hashes of files that hold times
        return {"files": " ".join(sorted(json.loads(file.read_text()).get("files", {})))}
    if file.suffix == ".json":
        with contextlib.suppress(ValueError):
            return flat(json.loads(file.read_text()), hidden)
    if file.suffix == ".jsonl":
        found: Record = {}
        for i, line in enumerate(file.read_text().splitlines()):
            found |= flat(json.loads(line), hidden, f"[{i}]")
        return found
    if file.suffix in (".txt", ".log", ".csv", ".html", ".md"):
        return text_record("", file.read_text(errors="replace"), hidden)
    if file.name == "curves.png":  # has curves of times in it
        return {}
    if file.suffix == ".zip":
        return zip_record(file, hidden)
    if file.name == "data.mdb":
        return lmdb_record(file.parent, hidden)
    return {"bytes": hashlib.sha256(file.read_bytes()).hexdigest()[:16]}


def lmdb_record(folder: Path, hidden: dict[str, str]) -> Record:
    """The entries of an LMDB; those that are JSON may hold times."""
    import lmdb

    found: Record = {}
    with lmdb.open(str(folder), readonly=True, lock=False) as opened, opened.begin() as entries:
        for key, value in entries.cursor():
            name = key.decode(errors="backslashreplace")
            try:
                found |= flat(json.loads(value), hidden, name)
            except ValueError:
                found[name] = hashlib.sha256(value).hexdigest()[:16]
    return found


def safetensors_record(file: Path, hidden: dict[str, str]) -> Record:
    from safetensors import safe_open

    found: Record = {}
    with safe_open(file, framework="pt") as opened:
        for key in opened.keys():
            found |= flat(opened.get_tensor(key), hidden, f"tensor {key}")
        for key, value in (opened.metadata() or {}).items():
            if VOLATILE.fullmatch(key):
                continue
            try:
                found |= flat(json.loads(value), hidden, key)
            except ValueError:
                found[key] = normal(value, hidden)
    return found


def zip_record(file: Path, hidden: dict[str, str]) -> Record:
    import zipfile

    found: Record = {}
    with zipfile.ZipFile(file) as opened:
        for name in opened.namelist():
            found[name] = hashlib.sha256(opened.read(name)).hexdigest()[:16]
    return found


def differences(old: Record, new: Record) -> list[str]:
    """Where two records of a case differ, in the order of the old one."""
    found = []
    for key in [*old, *(k for k in new if k not in old)]:
        was, now = old.get(key), new.get(key)
        if was != now:
            found.append(f"{key}\n      was {was}\n      is  {now}")
    return found


# Names of values that were changed on purpose since the default revision, as they are printed.
RENAMED = {"head seed ": "head original "}
# Sheets have captions; a run too short for a curve has no picture of it; figures that are new; 95 %
# intervals that stay within 0 and 1, of which all else of the line must be the same.
SHEET = re.compile(r"(.*/)?(samples/[^/]+|grid|sheet|\d+_trajectory)\.png: bytes")
ADDED = re.compile(r".*(metrics\.jsonl: \[\d+\]|\d+\.pt: \.results)\.((eval|final)/majority class"
                   r"|in the tree/.*|val/mean_picture_mse|val/(\w+_)?(consistency|style_std|seam)"
                   r"|val/consistent_diversity_\w+|val/(diversity_share|best_gain|border_error|ripple)"
                   r"|val/(best_)?chroma_error(_\w+)?|search/\w+)(\[\d\])*")  # fmt: skip
# Of a run that is done the newest checkpoint stays, of SimCLR the network of the last epoch; beside
# them the names of the pictures.
FORGOTTEN = re.compile(
    r".*(checkpoints/step-\d+/.+|snapshots/\d+\.safetensors|(\d+|latest)\.pt): .*"
)
OPTION = re.compile(
    r".*(args\.(save_minutes|keep|keep_schedule|tensorboard|save_pt)|\.schedule_length"
    r"|(args|config\.net)\.(base|consistency|padding|norm|code_gain)"
    r"|config\.net\.(fill|grayscale|mask_frac|mask_res))"
)
LISTING = re.compile(r".*data\.(json|txt\.gz): .*")
BOUND = re.compile(r".*probes\.json: \.figures\..* (low|high)")
ASIDE = re.compile(r" \(majority class [\d.]+\)| \[-?[\d.]+, -?[\d.]+\]$")
REFUSAL = re.compile(r"\S+\.py( \w+)?: error: ")


def meant(case: str, difference: str) -> bool:
    """Whether a difference is a value's new name, a refusal of options in other words, or one of
    those in the list above.

    A refusal must still be one line of the same script; its exit code is compared beside it.
    """
    key, was, now = difference.split("\n      ", 2)
    was, now = was.removeprefix("was "), now.removeprefix("is  ")
    for old, new in RENAMED.items():
        was = was.replace(old, new)
    if was == now or ASIDE.sub("", was) == ASIDE.sub("", now):
        return True
    if SHEET.fullmatch(key) or BOUND.fullmatch(key):
        return "None" not in (was, now)
    if FORGOTTEN.fullmatch(key) and now == "None":
        return True
    if any(new.fullmatch(key) for new in (ADDED, LISTING, OPTION)):
        return was == "None"
    if key.endswith("curves.png: there"):
        return now == "None"
    both = REFUSAL.match(was), REFUSAL.match(now)
    return case.startswith("wrong-") and "stderr" in key and all(both) and both[0][0] == both[1][0]


# ------------------------------------------------------------------------------------------- trees


@contextlib.contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """The files of a revision in a temporary folder; this repository is left as it is."""
    with tempfile.TemporaryDirectory(prefix="identity-tree-") as folder:
        packed = subprocess.run(
            ["git", "archive", revision], cwd=ROOT, capture_output=True, check=True
        ).stdout
        import tarfile

        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder).resolve()


def run_cases(tree: Path, cases: Sequence[Any], keep: Path | None) -> Iterator[tuple[Any, Record]]:
    """(case, its record) one after the other, as each ends."""
    with tempfile.TemporaryDirectory(prefix="identity-work-") as folder:
        work = Path(folder).resolve()
        server = Server(tree)
        try:
            for case in cases:
                start = time.monotonic()
                record = run_case(server, case, work)
                print(f"  {case.name}: {time.monotonic() - start:.1f} s", flush=True)
                yield case, record
        finally:
            server.close()
            if keep is not None:
                shutil.rmtree(keep, ignore_errors=True)
                shutil.copytree(work, keep, symlinks=True)


def chosen(cases: Sequence[Any], pattern: str | None) -> list[Any]:
    """Cases whose name has `pattern` in it, and those that they read files of, in order."""
    wanted = {c.name for c in cases if pattern is None or re.search(pattern, c.name)}
    for case in reversed(cases):
        if case.name in wanted:
            wanted |= set(case.needs)
    return [c for c in cases if c.name in wanted]


def old_records(revision: str, cases: Sequence[Any], cache: Path | None, keep: Path | None):
    """{name: record} of an old revision, from the cache where it has them."""
    records: dict[str, Record] = {}
    for case in cases if cache is not None else ():
        file = cache / revision / f"{case.name}.json"
        if file.exists():
            stored = json.loads(file.read_text())
            if stored["case"] == case.text():
                records[case.name] = stored["record"]
    missing = [c.name for c in cases if c.name not in records]
    needed = [c for c in cases if any(c in chosen(cases, f"^{re.escape(m)}$") for m in missing)]
    if missing:
        print(f"{revision}: {len(needed)} cases", flush=True)
        with checkout(revision) as tree:
            for case, record in run_cases(tree, needed, keep and keep / "old"):
                records[case.name] = record
                if cache is not None:
                    file = cache / revision / f"{case.name}.json"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text(json.dumps({"case": case.text(), "record": record}, indent=0))
    return records


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="identity", description=__doc__.split("\n")[0])
    parser.add_argument("revision", nargs="?", default=DEFAULT, help=f"default: {DEFAULT}")
    parser.add_argument("--only", metavar="PATTERN", help="cases whose name fits it")
    parser.add_argument("--list", action="store_true", help="name the cases, run nothing")
    parser.add_argument("--cache", type=Path, help="folder of the old revision's results")
    parser.add_argument("--keep", type=Path, help="leave what the cases wrote in DIR/old, DIR/new")
    parser.add_argument("--old-only", action="store_true", help="only fill the cache")
    parser.add_argument("--tree", type=Path, default=ROOT, help="another tree than this one")
    parser.add_argument("--itself", action="store_true", help="run the old revision once more")
    parser.add_argument("--jobs", type=int, default=1, choices=[1], help="one at a time")
    parser.add_argument("--most", type=int, default=12, help="differences shown of a case")
    args = parser.parse_args(argv)
    from tests.identity_cases import CASES

    cases = chosen(CASES, args.only)
    if args.list:
        for case in cases:
            print(f"{case.name}: {'; '.join(' '.join(c.words) for c in case.commands)}")
        return 0
    old = old_records(args.revision, cases, args.cache, args.keep)
    if args.old_only:
        return 0
    different = 0
    with contextlib.ExitStack() as stack:
        tree = stack.enter_context(checkout(args.revision)) if args.itself else args.tree.resolve()
        print(f"{tree}: {len(cases)} cases", flush=True)
        for case, record in run_cases(tree, cases, args.keep and args.keep / "new"):
            found = differences(old[case.name], record)
            other = [line for line in found if not meant(case.name, line)]
            if len(other) < len(found):
                print(f"  {case.name}: {len(found) - len(other)} lines in other words, as meant")
            found = other
            different += bool(found)
            if found:
                print(f"  {case.name}: {len(found)} DIFFERENCES")
                for line in found[: args.most]:
                    print(f"    {line}")
    print(f"{len(cases) - different} of {len(cases)} cases equal {args.revision}")
    return int(different > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2:])
    else:
        sys.exit(main())
