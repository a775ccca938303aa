"""Signals while no run heeds them: one line and the documented code, to the very end."""

import os
import signal

import pytest

from runtime.preemption import PreemptionFlag
from storage.ending import Ends


def child(work):
    """(exit status, what it wrote to stderr) of a forked child that does `work`."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(out)
        os.dup2(into, 2)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        try:
            work()
        finally:
            os._exit(33)
    os.close(into)
    with os.fdopen(out, "rb") as said:
        text = said.read().decode()
    return os.waitpid(pid, 0)[1], text


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGHUP"])
def test_before_and_after_a_run(name):
    number = getattr(signal, name)

    def unsettled():
        Ends().install()
        signal.raise_signal(number)

    status, said = child(unsettled)
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 75
    assert said == f"{name}: ended; the same command goes on from what is saved, or begins anew\n"

    for code in (0, 5):

        def settled(code=code):
            Ends().install()  # as storage.environment does
            ends = Ends()
            ends.install()
            ends.settle(code)
            signal.raise_signal(number)

        status, said = child(settled)
        assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == code and said == ""


def test_what_a_run_ended_with_holds_until_the_next_one_begins():
    def work(*codes):
        Ends().install()
        for code in codes:
            flag = PreemptionFlag()
            flag.install()
            flag.restore(code)
        signal.raise_signal(signal.SIGTERM)

    for codes, expected in (((None, 5), 5), ((0,), 0), ((0, None), 75)):
        status, said = child(lambda codes=codes: work(*codes))
        assert os.WEXITSTATUS(status) == expected and bool(said) == (expected == 75)


def test_signals_that_are_somebodys_stay_theirs():
    def work():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        signal.signal(signal.SIGUSR1, lambda *_: os._exit(4))
        Ends().install()
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGUSR1)

    assert os.WEXITSTATUS(child(work)[0]) == 4


def test_a_program_that_is_none_of_ours_gets_its_signals_back():
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        ends = Ends()
        ends.install()
        assert signal.getsignal(signal.SIGTERM) == ends._end
        ends.settle(0)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is not ends._end
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_forked_child_is_ended_as_ever():
    def work():
        Ends().install()
        pid = os.fork()
        if pid == 0:
            signal.raise_signal(signal.SIGTERM)
            os._exit(1)
        os._exit(7 if os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGTERM else 1)

    assert os.WEXITSTATUS(child(work)[0]) == 7
