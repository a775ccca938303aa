"""The time left of training whose steps are not alike, by a clock that the test sets."""

import io
import re

import pytest

from runtime.eta import TimeLeft
from runtime.progress import Progress
from tests.runtime.test_progress import Clock, Terminal

LOOPS, STEPS, SEARCH, STEP, LOOK = 30, 64, 20.0, 0.5, 3.0
TOTAL = LOOPS * STEPS


def durations():
    """Seconds of every step of a run of IMLE: a search first, a look at the result last."""
    for n in range(TOTAL):
        place = n % STEPS
        yield STEP + SEARCH * (place == 0) + LOOK * (place == STEPS - 1)


def estimates(first=0, cycle=STEPS):
    """(step, seconds into it, what is said, what is true) in every step and during searches."""
    clock = Clock()
    left, each = TimeLeft(cycle, clock), list(durations())
    for n in range(first, TOTAL):
        for part in (0, 0.5, 0.9):
            clock.now += (part and 0.4 if part != 0.5 else 0.5) * each[n]
            yield n, part, left.seconds(n, TOTAL), sum(each[n:]) - part * each[n]
        clock.now += 0.1 * each[n]
        left.done(n + 1)


def test_the_search_counts():
    """From the first whole loop on within 2 %, before it never wild."""
    for n, _, said, true in estimates():
        if n < 2:
            assert said is None
        elif n < STEPS:
            assert said == pytest.approx(true, rel=0.15), n
        else:
            assert said == pytest.approx(true, rel=0.02, abs=1), n


def test_without_the_cycle_it_would_swing():
    """The negative control: what a mean over all steps says is far off in the first loops."""
    off = [said / true for n, _, said, true in estimates(cycle=1) if 2 <= n < STEPS]
    assert max(off) > 1.15


def test_a_run_that_goes_on_in_the_middle_of_a_loop():
    for n, _, said, true in estimates(first=3 * STEPS + 40):
        if n >= 5 * STEPS:
            assert said == pytest.approx(true, rel=0.02, abs=1), n
        elif n > 3 * STEPS + 41:
            assert true / 2 < said < true * 1.05, n


def test_noise_and_a_machine_that_becomes_slower():
    clock = Clock()
    left = TimeLeft(8, clock)
    for n in range(4096 * 3):
        clock.now += (1.0 if n < 4096 else 2.0) * (1.5 if n % 3 else 0.5)
        left.done(n + 1)
    wanted = 800 * 2.0 * 3.5 / 3
    assert left.seconds(n + 1, n + 801) == pytest.approx(wanted, rel=0.15)


def test_the_end():
    clock = Clock()
    left = TimeLeft(4, clock)
    for n in range(8):
        clock.now += 1
        left.done(n + 1)
    assert left.seconds(8, 8) == 0 and left.seconds(9, 8) == 0
    clock.now += 50  # a step that takes longer than any before
    assert left.seconds(8, 9) == 0


def shown(text):
    h, m, s = map(int, re.findall(r"(\d+):(\d\d):(\d\d)", text)[-1])
    return 3600 * h + 60 * m + s


def test_lines_and_bars_say_it():
    whole = sum(durations())
    for out, mark in ((io.StringIO(), " left"), (Terminal(), "<")):
        clock = Clock()
        bar = Progress(TOTAL, main=True, stream=out, clock=clock, cycle=STEPS, every_s=0)
        for n, seconds in enumerate(durations()):
            if n == 2 * STEPS:
                break
            clock.now += seconds
            bar.update()
        clock.now += 10
        bar.note("codes 3/6")  # the middle of a search
        last = [line for line in re.split("[\r\n]", out.getvalue()) if "codes 3/6" in line][-1]
        if mark == "<":
            last = last.split("<")[1].split(",")[0]
        else:
            last = last.split(mark)[0]
        assert shown(last) == pytest.approx(whole * 28 / 30 - 10, rel=0.02)
        bar.close()
