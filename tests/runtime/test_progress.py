"""Bars on a terminal, sparse lines elsewhere, silence on other ranks."""

import io

from runtime import progress
from runtime.progress import Counted, Progress, track


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_are_sparse_where_there_is_no_terminal():
    out, clock = io.StringIO(), Clock()
    bar = Progress(1000, desc="train", initial=100, main=True, stream=out, clock=clock)
    for _ in range(90):
        clock.now += 1
        bar.update()
    bar.postfix({"loss": 0.123456})
    bar.close()
    lines = out.getvalue().splitlines()
    assert len(lines) == 3  # at 30, 60 and 90 s; close has nothing new to say
    assert lines[0] == "train: step 130/1000, 1 step/s, 0:14:30 left"
    assert bar.n == 190


def test_close_says_the_last_count_once():
    out, clock = io.StringIO(), Clock()
    with Progress(5, main=True, stream=out, clock=clock) as bar:
        bar.postfix({"loss": 0.5, "lr": "1e-4"})
        bar.update(5)
    assert out.getvalue() == "step 5/5, loss 0.5, lr 1e-4\n"
    bar.close()
    assert out.getvalue().count("\n") == 1


def test_a_line_of_another_step_says_whose_figures_it_shows():
    out, clock = io.StringIO(), Clock()
    bar = Progress(4, main=True, stream=out, clock=clock, every_s=0)
    bar.update()
    bar.postfix({"loss": 0.5}, at=2)
    bar.update()
    bar.update()
    assert out.getvalue().splitlines() == [
        "step 1/4", "step 2/4, loss 0.5", "step 3/4, loss 0.5 (at step 2)"
    ]  # fmt: skip


def test_nothing_done_says_nothing():
    out = io.StringIO()
    Progress(5, initial=5, main=True, stream=out).close()
    assert out.getvalue() == ""


def test_unknown_total():
    out, clock = io.StringIO(), Clock()
    bar = Progress(main=True, stream=out, clock=clock, every_s=0, unit="image")
    clock.now += 2
    bar.update(8)
    assert out.getvalue() == "image 8, 4 image/s\n"


def test_a_terminal_gets_a_bar():
    out = Terminal()
    bar = Progress(3, desc="go", main=True, stream=out)
    bar.update()
    bar.postfix({"loss": 1.0})
    bar.write("a line")
    bar.update(2)
    bar.close()
    assert "3/3" in out.getvalue() and "loss=1" in out.getvalue()
    assert "a line\n" in out.getvalue()


def test_other_ranks_are_silent():
    for stream in (io.StringIO(), Terminal()):
        bar = Progress(3, main=False, stream=stream, every_s=0)
        bar.update(3)
        bar.write("x")
        bar.close()
        assert stream.getvalue() == "" and bar.n == 3


def test_a_note_is_shown_until_it_ends():
    out, clock = io.StringIO(), Clock()
    bar = Progress(10, main=True, stream=out, clock=clock)
    bar.note("codes 1/40")
    assert out.getvalue() == ""  # not yet time for a line
    clock.now += 31
    bar.note("codes 30/40")
    assert out.getvalue() == "step 0/10, in codes 30/40\n"
    bar.note("")
    bar.update(10)
    bar.close()
    assert out.getvalue().splitlines()[-1].startswith("step 10/10")
    assert "codes" not in out.getvalue().splitlines()[-1]


def test_a_note_on_a_terminal():
    out, clock = Terminal(), Clock()
    with Progress(10, main=True, stream=out, clock=clock) as bar:
        clock.now += 1
        bar.note("codes 3/40")
        assert "codes 3/40" in out.getvalue()


def test_what_is_brief_is_silent_unless_it_lasts():
    out, clock = io.StringIO(), Clock()
    with Progress(9, main=True, stream=out, clock=clock, brief=True) as bar:
        for _ in range(9):
            clock.now += 1
            bar.update()
    assert out.getvalue() == "" and bar.n == 9
    with Progress(400, desc="x", main=True, stream=out, clock=clock, brief=True) as bar:
        for _ in range(400):
            clock.now += 0.1
            bar.update()
    said = out.getvalue().splitlines()
    assert len(said) == 2 and said[0].startswith("x: step 30")
    assert said[0].endswith("/400, 10 step/s, 0:00:09 left")
    assert said[1] == "x: step 400/400, 10 step/s, 0:00:00 left"


def test_bytes_are_written_as_people_say_them():
    out, clock = io.StringIO(), Clock()
    bar = Progress(3_000_000, desc="f", unit="B", main=True, stream=out, clock=clock, every_s=0)
    clock.now += 2
    bar.update(1_000_000)
    assert out.getvalue() == "f: 1.0 MB of 3.0 MB, 500.0 kB/s, 0:00:04 left\n"


def test_a_brief_bar_counts_all_and_comes_late(monkeypatch):
    out = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", out)
    assert list(track(iter("abc"), 3, "letters", "letter")) == ["a", "b", "c"]
    assert out.getvalue() == ""  # it was over in a moment
    monkeypatch.setattr(progress, "SOON_S", 0)
    list(track(range(5000), 5000, "numbers", "number"))
    with Counted("parts") as report:
        report(1, 2)
        report(2, 2)
    assert "5000/5000" in out.getvalue() and "number/s" in out.getvalue()
    assert "parts: 100%" in out.getvalue() and "2/2" in out.getvalue()
