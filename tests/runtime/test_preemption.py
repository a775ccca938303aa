"""The flag: what signals do and, more, what they do not."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from runtime.preemption import SIGNALS, PreemptionFlag, heeded


@pytest.fixture
def flag():
    before = {s: signal.getsignal(s) for s in SIGNALS}
    made = PreemptionFlag()
    made.install()
    yield made
    made.restore()
    assert {s: signal.getsignal(s) for s in SIGNALS} == before


@pytest.mark.parametrize("signum", heeded())
def test_a_signal_sets_the_flag_and_nothing_else(flag, signum):
    assert not flag.is_set
    os.kill(os.getpid(), signum)
    assert flag.is_set and flag.signal == signal.Signals(signum).name


def test_a_terminal_that_is_closed_is_nothing_to_nohup(monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN)
    assert heeded() == [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]


def test_further_signals_change_nothing(flag):
    os.kill(os.getpid(), signal.SIGUSR1)
    for _ in range(5):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)  # at once: torchrun and the terminal both send one
    assert flag.signal == "SIGUSR1"


def test_a_late_second_ctrl_c_is_for_the_impatient_but_not_during_a_save(flag, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    os.kill(os.getpid(), signal.SIGINT)
    clock[0] += 5
    flag.saving = True
    os.kill(os.getpid(), signal.SIGINT)
    flag.saving = False
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)


def test_a_forked_child_is_not_preempted(flag):
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(17 if flag.is_set else 0)
    assert os.waitpid(pid, 0)[1] == 0
    assert not flag.is_set


def test_outside_the_main_thread_nothing_is_taken_over():
    before = {s: signal.getsignal(s) for s in SIGNALS}
    made = PreemptionFlag()

    def work():
        made.install()
        made.restore()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert {s: signal.getsignal(s) for s in SIGNALS} == before


def test_interrupted_writes_go_on(flag, tmp_path):
    """A signal in the middle of system calls neither shortens nor fails them (PEP 475)."""
    stop = threading.Event()

    def shoot():
        while not stop.is_set():
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.001)

    thread = threading.Thread(target=shoot)
    thread.start()
    data = os.urandom(1 << 20) * 16
    for i in range(5):
        with open(tmp_path / str(i), "wb") as fh:
            fh.write(data)
            os.fsync(fh.fileno())
    stop.set()
    thread.join()
    assert all((tmp_path / str(i)).read_bytes() == data for i in range(5))


WORKERS_LEFT_OPEN = """
import torch
from torch.utils.data import DataLoader
from runtime.preemption import PreemptionFlag
from runtime.seeding import seed_worker

PreemptionFlag().install()
loader = DataLoader(torch.arange(8.0), num_workers=2, worker_init_fn=seed_worker)
kept = iter(loader)
next(kept)
frames = [kept]  # as the traceback of an error that something still holds
frames.append(frames)
raise SystemExit(75)
"""


def test_workers_left_open_do_not_hold_up_the_end():
    """They are deaf to the SIGTERM that multiprocessing would send before it waits for them."""
    done = subprocess.run([sys.executable, "-c", WORKERS_LEFT_OPEN], timeout=120)
    assert done.returncode == 75


STORM = """
import argparse, multiprocessing, os, signal, sys, time
from multiprocessing import context
from runtime import launch, preemption

def worker():
    preemption.shield_worker()
    time.sleep(1000)

def interrupting(function):  # as a signal of the storm does, once
    def first(*args, **named):
        setattr(*place[function], function)
        os.kill(os.getpid(), signal.SIGINT)
        return function(*args, **named)
    return first

place = {{}}
def strike(module, name):
    place[getattr(module, name)] = (module, name)
    setattr(module, name, interrupting(getattr(module, name)))

def main(args):
    flag = preemption.PreemptionFlag()
    flag.install()
    context.ForkProcess(target=worker, daemon=True).start()
    time.sleep(0.2)
    flag.restore()
    strike({place})
    raise KeyboardInterrupt

sys.argv = ["toy"]
launch.launch(main, argparse.Namespace(gpus=[]))
"""


@pytest.mark.parametrize("place", ["launch, 'tell'", "multiprocessing, 'active_children'"])
def test_ctrl_c_again_while_the_process_ends_does_not_leave_it_waiting(place):
    """Of an ISICLE launch that had said `error: interrupted` and stayed, in a storm of signals."""
    code = STORM.format(place=place)
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True)
    assert done.returncode == 130 and done.stderr == "error: interrupted\n"
