"""What is drawn, shown or printed beside a run decides neither its exit code nor its status."""

import io
import json
import os
import subprocess
import sys

import pytest
import torch

from runtime import tracker
from runtime.progress import Progress
from storage import console
from storage.errors import RunError
from storage.pictures import new_figure, own_style
from tests.runtime.runs import exits, linear, status
from tests.runtime.toy import open_run, toy_args, train

pytestmark = pytest.mark.usefixtures("one_thread", "no_fsync")


class Refusing(io.StringIO):
    """A stream that refuses what is written to it."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error


@pytest.mark.parametrize(
    "error", [BrokenPipeError(32, "x"), OSError(28, "full"), ValueError("I/O operation on closed")]
)
def test_streams_that_refuse(tmp_path, monkeypatch, error):
    monkeypatch.setattr(sys, "stdout", Refusing(error))
    monkeypatch.setattr(sys, "stderr", Refusing(error))
    run = train(toy_args(tmp_path))
    assert run.finished and status(run)["state"] == "finished"
    bar = Progress(3, main=True, stream=Refusing(error))
    bar.update(3)
    bar.write("line")
    bar.close()


def test_what_an_encoding_lacks_is_escaped(tmp_path, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", out)
    run = train(toy_args(tmp_path, run_dir=str(tmp_path / "é\udce9€")))
    assert run.finished and rb"\xe9\udce9\u20ac" in out.buffer.getvalue()
    assert r"é\udce9€" in (run.dir / "log.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("error", [RuntimeError("no"), OSError(28, "full"), SystemExit("out")])
def test_what_fails_at_the_end_leaves_a_finished_run(tmp_path, monkeypatch, capsys, error):
    def fail(*args, **more):
        raise error

    monkeypatch.setattr(tracker.Tracker, "curves", fail)
    monkeypatch.setattr(tracker.Tracker, "finish", fail)
    run = train(toy_args(tmp_path))
    assert run.finished and status(run) | {"time": 0} == status(run) | {
        "time": 0, "state": "finished", "exit_code": 0
    }  # fmt: skip
    said = capsys.readouterr().out
    assert "curves.png not drawn: " in said and "W&B did not end well: " in said


@pytest.mark.parametrize(
    ("error", "code"),
    [(ZeroDivisionError("why"), 1), (SystemExit("why"), 1), (OSError(28, "why"), 7)],
)
@pytest.mark.parametrize("when", ["before the first step", "in a step", "after the loop"])
def test_an_error_of_the_run_itself_is_its_status(tmp_path, error, code, when):
    with pytest.raises(type(error)), open_run(toy_args(tmp_path)) as run:
        net, optimizer = linear(run)
        if when == "before the first step":
            raise error
        for _ in run.steps(2):
            run.backward(net(torch.ones(1, 3)).sum())
            run.step(optimizer)
            if when == "in a step":
                raise error
        raise error
    told = status(run)
    assert (told["state"], told["exit_code"]) == ("failed", code) and "why" in told["message"]


def test_an_error_of_ending_is_the_status(tmp_path, monkeypatch):
    from runtime.run import Run

    def fail(self, error):
        raise RuntimeError("while ending")

    with pytest.raises(RuntimeError), open_run(toy_args(tmp_path)) as run:
        linear(run)
        monkeypatch.setattr(Run, "_end_preempted", fail)
        raise KeyboardInterrupt
    assert (status(run)["state"], status(run)["message"]) == ("failed", "while ending")


def test_a_wandb_that_ends_the_process_at_its_import(tmp_path, monkeypatch, capsys):
    (tmp_path / "wandb.py").write_text("raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("WANDB_MODE", "bogus")
    with exits(0):
        train(toy_args(tmp_path, wandb="offline"))
        sys.exit(0)
    said = capsys.readouterr().out
    assert "WANDB_MODE=bogus is not disabled, offline, online" in said
    assert "wandb cannot be imported" in said


def test_a_run_directory_where_nothing_can_be_written(tmp_path, monkeypatch, capsys):
    """Of what W&B and figures want to write there: the run itself is another matter."""
    t = tracker.Tracker(tmp_path, "disabled")
    for step in range(4):
        t.log({"a": step}, step)

    def full(*args, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tracker, "write_text", full)
    t = tracker.Tracker(tmp_path, "disabled", resume_step=1)
    t.log({"a": 9}, 2)
    lines = [json.loads(line) for line in t.metrics.read_text().splitlines()]
    assert [(line["step"], line["a"]) for line in lines] == [(0, 0), (1, 1), (2, 9)]
    assert tracker._keep_id(tmp_path / "wandb_id", "given") == "given"
    assert "metrics.jsonl: not written anew: No space left" in capsys.readouterr().err


def test_figures_are_our_own_whatever_matplotlib_is_told(tmp_path, monkeypatch):
    import matplotlib

    monkeypatch.setenv("MPLBACKEND", "module://nowhere")
    pictures = []
    for told in ({}, {"text.usetex": True, "font.size": 30.0, "savefig.dpi": 7}):
        with matplotlib.rc_context(told):
            path = tmp_path / f"{len(pictures)}.png"
            with own_style(), open(path, "wb") as file:
                figure = new_figure(2, 2)
                figure.add_subplot().set_title("title")
                figure.savefig(file, format="png")
            assert all(matplotlib.rcParams[key] == value for key, value in told.items())
            pictures.append(path.read_bytes())
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("line", ["raise RuntimeError('broken')", "raise SystemExit('broken')"])
def test_no_matplotlib_is_one_line(tmp_path, monkeypatch, line):
    (tmp_path / "matplotlib.py").write_text(line)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(RunError, match=r"matplotlib, .* cannot be imported: broken"), own_style():
        pass


PRINTS = """
import sys
from storage.console import refused, settle_streams
settle_streams()
for _ in range(3):
    print("é\\udce9 " * 5000)
    print("x", file=sys.stderr)
sys.exit(3 if refused(sys.stdout) else 0)
"""


@pytest.mark.parametrize("where", ["full", "closed pipe", "closed", "ascii"])
def test_settled_streams_never_end_a_process(tmp_path, where):
    env = os.environ | {"PYTHONPATH": os.getcwd(), "PYTHONIOENCODING": "ascii"}
    words = [sys.executable, "-c", PRINTS]
    if where == "closed":
        words = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *words]
    reading, writing = os.pipe()
    os.close(reading)
    out = {"full": open("/dev/full", "w"), "closed pipe": writing}.get(where, subprocess.PIPE)
    done = subprocess.run(words, env=env, stdout=out, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == (3 if where in ("full", "closed pipe") else 0), done.stderr
    assert done.stderr == ("" if where == "closed" else "x\n" * 3)
    if where == "ascii":
        assert done.stdout == (r"\xe9\udce9 " * 5000 + "\n") * 3


def test_escaped():
    assert console.escaped("é\udce9", "ascii") == r"\xe9\udce9"
    assert console.escaped("é\udce9") == r"é\udce9"
