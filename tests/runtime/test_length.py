"""A run that is asked to be longer or shorter goes on, or says that it is."""

import argparse
import json
import os
import signal
from pathlib import Path

import pytest
import torch

from runtime.cli import parse
from runtime.length import Length
from runtime.options import LENGTH, add_options, add_run_args, tagged
from runtime.run import Run
from runtime.types import positive_int
from storage.errors import LockError, UsageError
from tests import kill_harness as harness
from tests.runtime.runs import exits, status, steps_in

pytestmark = pytest.mark.usefixtures("one_thread", "no_fsync")

TABLE = {"all": [("--loops", positive_int, 5, "how long", LENGTH), ("--lr", float, 0.1, "rate")]}


def options(root: Path, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_run_args(parser, save_every=3)
    add_options(parser, TABLE)
    own = ["--wandb", "disabled", "--gpus", "cpu", "--log_every", "1", "--results_path", str(root)]
    return parse(parser, {}, [*own, *words])


def rate(args: argparse.Namespace, step: int, loops: int) -> float:
    """Falls to 0 over so many loops of two steps."""
    return args.lr * max(0.0, 1 - step / (2 * loops))


def train(args: argparse.Namespace, keep: bool = False, kill_at: int | None = None) -> Run:
    with Run(
        args,
        script="x",
        name="x",
        length=tagged(TABLE, LENGTH),
        keep_schedule=keep,
        milestone_every=2,
    ) as run:
        net = torch.nn.Linear(3, 1)
        optimizer = torch.optim.SGD(net.parameters(), lr=args.lr, momentum=0.9)
        run.restore(net=net, optimizer=optimizer)
        run.length.note_rate(lambda loops: rate(args, run.completed, loops))
        for step in run.steps(2 * args.loops, images_per_step=4):
            for group in optimizer.param_groups:
                group["lr"] = rate(args, step, run.length.schedule)
            if step == kill_at:
                signal.raise_signal(signal.SIGTERM)
            run.backward(net(torch.randn(4, 3)).square().mean() + net.bias.sum())
            run.step(optimizer)
            run.log(lr=optimizer.param_groups[0]["lr"])
    return run


def rates(run: Run) -> list[float]:
    return [line["lr"] for line in harness.metrics(run.dir)]


def same(a: Run, b: Run) -> bool:
    return not harness.differences(harness.final_state(a.dir), harness.final_state(b.dir))


def test_a_finished_run_goes_on_in_its_folder(tmp_path, capsys):
    first = train(options(tmp_path))
    assert status(first)["state"] == "finished" and steps_in(first)[-1] == 10
    capsys.readouterr()
    longer = train(options(tmp_path, "--loops", "6"))
    out = capsys.readouterr().out
    assert longer.dir == first.dir and [p.name for p in (tmp_path / "x").iterdir()] == [
        first.dir.name
    ]
    assert f"going on with {first.dir.name}, the same run but for its length" in out
    assert "--loops 5 at first, 6 now" in out
    assert "resumed step 10" in out and "length (loops): 5 before, 6 now" in out
    assert status(longer)["state"] == "finished" and status(longer)["step"] == 12
    record = json.loads((first.dir / "args.json").read_text())
    assert record["args"]["loops"] == 5  # the first launch's
    launches = [json.loads(x) for x in (first.dir / "launches.jsonl").read_text().splitlines()]
    assert [(x["args"]["loops"], x["from_step"]) for x in launches] == [(5, 0), (6, 10)]
    # The same command again means the same run, and so does the first one.
    again = train(options(tmp_path, "--loops", "6"))
    assert again.dir == first.dir and again.completed == 12


def test_schedules_are_over_the_new_length(tmp_path, capsys):
    args = options(tmp_path)
    train(args)
    longer = train(options(tmp_path, "--loops", "8"))
    want = [rate(args, step, 5) for step in range(10)] + [rate(args, s, 8) for s in range(10, 16)]
    assert rates(longer) == pytest.approx(want)
    said = "learning rate: its schedule is over --loops 8 from here on, not 5: 0.0375 in the next"
    assert said in capsys.readouterr().out


def test_schedules_may_be_kept(tmp_path, capsys):
    args = options(tmp_path)
    train(args)
    train(options(tmp_path, "--loops", "3", "--resume", "2"), keep=True)  # back to step 4, then 6
    out = capsys.readouterr().out
    assert "its schedule stays that of --loops 5: 0.06 in the next step" in out
    run = train(options(tmp_path, "--loops", "7"), keep=True)
    assert rates(run) == pytest.approx([rate(args, step, 5) for step in range(14)])
    train(options(tmp_path, "--loops", "9"), keep=True)
    assert "which has come to 0: nothing is learnt" in capsys.readouterr().out


@pytest.mark.parametrize("keep", [False, True])
def test_a_launch_killed_while_it_goes_on_ends_bit_for_bit(tmp_path, keep):
    train(options(tmp_path / "a"))
    train(options(tmp_path / "b"))
    straight = train(options(tmp_path / "a", "--loops", "9"), keep)
    with exits(75):
        train(options(tmp_path / "b", "--loops", "9"), keep, kill_at=13)
    halves = train(options(tmp_path / "b", "--loops", "9"), keep)
    assert same(halves, straight) and rates(halves) == rates(straight)


def test_without_a_schedule_it_is_as_one_long_run(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "rate", lambda args, step, loops: args.lr)
    straight = train(options(tmp_path / "a", "--loops", "7"))
    train(options(tmp_path / "b", "--loops", "4"))
    longer = train(options(tmp_path / "b", "--loops", "7"))
    assert same(longer, straight) and harness.metrics(longer.dir) == harness.metrics(straight.dir)


def test_a_shorter_length(tmp_path, capsys):
    with exits(75):
        train(options(tmp_path), kill_at=6)
    run = train(options(tmp_path, "--loops", "4"))  # more than the seven steps that are done
    assert run.finished and run.completed == 8
    before = {p: p.stat().st_mtime_ns for p in run.dir.rglob("*") if p.is_file()}
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        train(options(tmp_path, "--loops", "2"))
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "8 steps are done, more than the 4 that are asked for by --loops 2" in out
    assert "learning rate" not in out
    assert status(run)["state"] == "finished" and steps_in(run)[-1] == 8
    said = {"launches.jsonl", "log.txt", "status.json", "lock"}  # that it was asked
    after = {p: p.stat().st_mtime_ns for p in run.dir.rglob("*") if p.is_file()}
    assert {p: t for p, t in before.items() if p.name not in said} == {
        p: t for p, t in after.items() if p.name not in said
    }


def test_runs_of_several_lengths_from_an_earlier_version(tmp_path, capsys, monkeypatch):
    """Each goes on under its own command; another length goes on with what has most steps."""
    with monkeypatch.context() as patch:
        patch.setattr("runtime.lookup.folder", lambda path, *_: (path, []))
        runs = {n: train(options(tmp_path, "--loops", str(n))) for n in (4, 6, 5)}
    assert len({run.dir for run in runs.values()}) == 3
    for n, run in runs.items():
        assert train(options(tmp_path, "--loops", str(n))).dir == run.dir
    capsys.readouterr()
    longer = train(options(tmp_path, "--loops", "8"))
    assert longer.dir == runs[6].dir
    assert "of 3 such runs the one with the most steps" in capsys.readouterr().out
    assert train(options(tmp_path, "--loops", "8")).dir == runs[6].dir


def test_only_the_length_may_differ(tmp_path):
    first = train(options(tmp_path))
    assert train(options(tmp_path, "--loops", "6", "--lr", "0.2")).dir != first.dir
    where = ("--run-dir", str(first.dir))
    with pytest.raises(UsageError) as caught:
        train(options(tmp_path, *where, "--loops", "6", "--lr", "0.2"))
    assert "--lr" in str(caught.value) and "--loops" not in str(caught.value)
    assert train(options(tmp_path, *where, "--loops", "6")).completed == 12
    copy = ("--run-dir", str(tmp_path / "copy"), "--resume", str(first.dir))
    assert train(options(tmp_path, *copy, "--loops", "7")).completed == 14


def test_a_run_that_is_going_on_is_in_use_whatever_length_is_asked_for(tmp_path):
    with Run(options(tmp_path), script="x", name="x", length=("loops",)):
        with pytest.raises(LockError, match="in use"):
            train(options(tmp_path, "--loops", "6"))
    assert len(list((tmp_path / "x").iterdir())) == 1


def test_from_scratch_leaves_the_shorter_run_alone(tmp_path):
    first = train(options(tmp_path))
    other = train(options(tmp_path, "--loops", "6", "--resume", "0"))
    assert other.dir != first.dir and steps_in(first)[-1] == 10
    assert train(options(tmp_path, "--loops", "6", "--resume", "2")).dir == other.dir


def test_a_run_of_another_script_or_a_foreign_file_is_no_sibling(tmp_path):
    first = train(options(tmp_path))
    file = first.dir / "args.json"
    checkpoints = first.dir / "checkpoints"
    checkpoints.rename(first.dir / "elsewhere")  # else they tell what a damaged file does not
    for text in ("[]", "junk", '{"script": "y", "shaping": {}}', '{"script": "x"}'):
        file.write_text(text)
        with Run(options(tmp_path, "--loops", "6"), script="x", name="x", length=("loops",)) as run:
            assert run.dir != first.dir
        os.remove(run.dir / "args.json")


def test_a_sibling_with_a_damaged_record_is_known_by_its_checkpoints(tmp_path, capsys):
    first = train(options(tmp_path))
    (first.dir / "args.json").write_text("junk")
    assert train(options(tmp_path, "--loops", "6")).dir == first.dir
    assert "restored from checkpoint step-000000010" in capsys.readouterr().out


def test_a_checkpoint_of_an_earlier_version_has_no_length_of_schedules(tmp_path):
    length = Length(argparse.Namespace(loops=6), ["loops"], keep_schedule=True)
    assert length.go_on({"args": {"loops": 4}}) and length.schedule == 4
    assert Length(argparse.Namespace(), (), False).go_on({"args": {}}) == ""
