"""`launch`: exit codes, spawned ranks, signals; nobody outlives anybody."""

import argparse
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from runtime import distributed
from runtime import launch as launch_module
from runtime.grace import GRACE
from runtime.launch import call_main, launch
from runtime.place import choose_device
from runtime.preemption import PreemptionFlag
from runtime.rundir import exit_code_of
from storage.errors import DiskError, NonFiniteError, UsageError, not_made

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in list(os.environ):
        if name in LAUNCHER or name.startswith(("SLURM_", "IMLE_LAB_")):
            monkeypatch.delenv(name)


def script(args):
    """What the launcher is given in these tests; `args.mode` says how it ends."""
    distributed.init(choose_device(args.gpus), timeout_s=60)
    rank, mode = distributed.rank(), args.mode
    print(f"rank {rank} of {distributed.world_size()}", flush=True)
    if mode == "usage":
        raise UsageError("bs 3 is not a multiple of 2")
    if mode == "one rank non-finite":
        if rank == 1:
            raise NonFiniteError("three in a row")
        distributed.barrier()
    if mode == "bug":
        raise KeyError("oops")
    if mode == "memory":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nmore lines")
    if mode == "cpu memory":
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")
    if mode == "disk":
        raise OSError(errno.ENOSPC, "No space left on device")
    if mode == "long name":
        Path("x" * 300).is_dir()
    if mode == "exit 75":
        sys.exit(75)
    if mode == "text exit":
        sys.exit("finished badly")
    if mode == "kill 1, rest hangs" and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "wait for a signal":
        got = []
        for s in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
            signal.signal(s, lambda number, frame: got.append(number))
        distributed.barrier()
        # Whole lines in one write: with PYTHONUNBUFFERED print() makes two, and ranks get mixed up.
        sys.stdout.write("READY\n")
        sys.stdout.flush()
        while not got:
            time.sleep(0.01)
        sys.stdout.write(f"got {' '.join(signal.Signals(n).name for n in got)}\n")
        sys.stdout.flush()
        distributed.barrier()
        sys.exit(75)
    if mode == "save or stop":
        flag = PreemptionFlag()
        flag.install()
        distributed.barrier()
        flag.saving = True
        print("READY", flush=True)
        while flag.signal is None:
            time.sleep(0.01)
        if rank == int(os.environ.get("STOPPED", -1)):
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(1.3)  # beyond the time, within twice the time
        print("saved", flush=True)
        flag.restore()
        sys.exit(75)
    if mode in ("kill 1, rest hangs", "sleep"):
        print("READY", flush=True)
        while True:  # a rank that ignores even SIGTERM
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(0.05)


def _launched(log, ranks, mode, gpus, env):
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    os.environ.update(env)
    if ranks > 1:
        os.environ["IMLE_LAB_CPU_RANKS"] = str(ranks)
    torch.set_num_threads(1)
    launch_module._SPARE_S = launch_module._LOOK_S = 0.1
    launch(script, argparse.Namespace(gpus=gpus, mode=mode), start_method="fork", grace_s=0.5)


class Launched:
    """`launch` in a process of its own; forked: importing torch takes seconds."""

    def __init__(self, tmp_path, ranks, mode, gpus=None, env=None):
        self.log = tmp_path / "log"
        context = torch.multiprocessing.get_context("fork")
        self.process = context.Process(
            target=_launched, args=(self.log, ranks, mode, gpus, env or {})
        )
        self.process.start()

    def text(self):
        return self.log.read_text() if self.log.exists() else ""

    def wait_for(self, word, times):
        deadline = time.monotonic() + 20
        while self.text().count(word) < times:
            assert time.monotonic() < deadline and self.process.is_alive(), self.text()
            time.sleep(0.02)

    def end(self, seconds=30):
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(f"still running: {self.text()}")
        return self.process.exitcode, self.text()


@pytest.mark.parametrize(
    ("mode", "code", "said"),
    [
        ("fine", 0, ""),
        ("usage", 2, "error: bs 3 is not a multiple of 2\n"),
        ("memory", 8, "error: out of memory: CUDA out of memory. Tried to allocate 20 GiB"),
        ("cpu memory", 8, "error: out of memory: [enforce fail]"),
        ("disk", 7, "error: no space left"),
        ("long name", 2, f"error: {'x' * 77}...: a name in this path is too long\n"),
        ("exit 75", 75, ""),
        ("text exit", 1, "error: finished badly\n"),
    ],
)
def test_one_process_exit_codes(tmp_path, mode, code, said):
    got, text = Launched(tmp_path, 1, mode, gpus=[]).end()
    assert got == code
    assert text.startswith("rank 0 of 1\n") and said in text
    assert "Traceback" not in text and text.count("\n") == 1 + bool(said)


def test_a_bug_keeps_its_traceback(tmp_path):
    code, text = Launched(tmp_path, 1, "bug", gpus=[]).end()
    assert code == 1 and "Traceback" in text and "error: KeyError: 'oops'" in text


def test_tracebacks_on_request(tmp_path):
    code, text = Launched(tmp_path, 1, "usage", [], {"IMLE_LAB_TRACEBACK": "1"}).end()
    assert code == 2 and "Traceback" in text


def test_wrong_requests_are_usage_errors(tmp_path, monkeypatch):
    for i, (gpus, env, said) in enumerate(
        [
            ([99], {}, "--gpus 99: this machine has"),
            ([0, 1], {"IMLE_LAB_CPU_RANKS": "2"}, "exclude each other"),
            (None, {"IMLE_LAB_CPU_RANKS": "two"}, "'two' is not a number of processes"),
            (None, {"IMLE_LAB_CPU_RANKS": "\u00b2"}, "'\u00b2' is not a number of processes"),
            (None, {"IMLE_LAB_CPU_RANKS": "0"}, "'0' is not a number of processes"),
        ]
    ):
        folder = tmp_path / str(i)
        folder.mkdir()
        code, text = Launched(folder, 1, "fine", gpus, env).end()
        assert code == 2 and said in text and text.count("\n") == 1


def test_several_ranks_run(tmp_path):
    code, text = Launched(tmp_path, 3, "fine").end()
    assert code == 0 and sorted(text.splitlines()) == [f"rank {r} of 3" for r in range(3)]


def test_the_meaningful_code_wins(tmp_path):
    code, text = Launched(tmp_path, 2, "one rank non-finite").end()
    assert code == 5
    assert "error: rank 1: three in a row\n" in text and "Traceback" not in text


def test_preempted_ranks_give_75(tmp_path):
    assert Launched(tmp_path, 2, "exit 75").end()[0] == 75


def test_a_dead_rank_takes_the_others_down(tmp_path):
    start = time.monotonic()
    code, text = Launched(tmp_path, 2, "kill 1, rest hangs").end()
    assert code == 128 + signal.SIGKILL and "error: rank 1 died (SIGKILL)" in text
    assert time.monotonic() - start < 20  # 0.5 s of grace, 10 s after SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
def test_signals_reach_every_rank_once(tmp_path, number):
    launched = Launched(tmp_path, 2, "wait for a signal")
    launched.wait_for("READY", 2)
    os.kill(launched.process.pid, number)
    code, text = launched.end()
    assert code == 75 and text.count(f"got {number.name}\n") == 2


def test_ranks_that_save_have_the_grace_time_once_more(tmp_path):
    launched = Launched(tmp_path, 2, "save or stop", env={GRACE: "0.8"})
    launched.wait_for("READY", 2)
    os.kill(launched.process.pid, signal.SIGTERM)
    code, text = launched.end()
    assert code == 75 and text.count("saved") == 2


def test_ranks_do_not_have_it_where_one_is_stopped(tmp_path):
    launched = Launched(tmp_path, 2, "save or stop", env={GRACE: "0.8", "STOPPED": "1"})
    launched.wait_for("READY", 2)
    os.kill(launched.process.pid, signal.SIGTERM)
    start = time.monotonic()
    code, text = launched.end()
    assert code != 0 and "saved" not in text and time.monotonic() - start < 5


def test_ranks_never_outlive_a_killed_launcher(tmp_path):
    launched = Launched(tmp_path, 2, "sleep")
    launched.wait_for("READY", 2)
    children = Path(f"/proc/{launched.process.pid}/task/{launched.process.pid}/children")
    if not children.exists():
        pytest.skip("needs /proc")
    ranks = [int(p) for p in children.read_text().split()]
    assert len(ranks) == 2
    launched.process.kill()
    launched.process.join()

    def alive(pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            return False

    deadline = time.monotonic() + 10
    while any(alive(p) for p in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.02)


SCRIPT = """
import argparse
from runtime.launch import launch
from tests.runtime.test_launch import script

def main(args):
    script(args)

if __name__ == "__main__":
    launch(main, argparse.Namespace(gpus=None, mode="wait for a signal"))
"""


def test_a_real_script_spawns_its_ranks(tmp_path):
    file = tmp_path / "script.py"
    file.write_text(SCRIPT)
    env = {**os.environ, "IMLE_LAB_CPU_RANKS": "2", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, file], env=env, stdout=subprocess.PIPE, text=True) as p:
        lines = []
        while lines.count("READY\n") < 2:
            lines.append(p.stdout.readline())
            assert lines[-1], lines
        p.send_signal(signal.SIGUSR1)
        rest = p.stdout.read()
        assert p.wait(30) == 75 and rest.count("got SIGUSR1\n") == 2


@pytest.mark.parametrize(
    "number", [errno.EIO, errno.EFBIG, errno.EROFS, errno.ESTALE, errno.ENOSPC]
)
def test_a_disk_that_fails_is_exit_7_and_one_line(number, capsys):
    """In whatever file: args.json, launches.jsonl, a picture of generate_images.py."""

    def main(args):
        raise OSError(number, os.strerror(number), "RUN/args.json")

    assert call_main(main, argparse.Namespace()) == 7
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "RUN/args.json" in said and os.strerror(number) in said
    assert exit_code_of(OSError(number, "x")) == 7
    assert isinstance(not_made("x", OSError(number, "y")), DiskError)


def test_a_folder_that_may_not_be_made_is_a_wrong_option():
    assert isinstance(not_made("x", OSError(errno.EACCES, "y")), UsageError)
    assert isinstance(not_made("x", OSError(errno.ENOTDIR, "y")), UsageError)
