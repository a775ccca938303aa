"""TensorBoard's event files: every point once, as in metrics.jsonl, even if a run is killed."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from runtime.event_files import EventFiles
from runtime.tracker import Tracker
from tests.runtime.runs import exits
from tests.runtime.toy import open_run, toy_args, train

pytestmark = pytest.mark.usefixtures("one_thread", "no_fsync")


class Killed(Exception):
    pass


def events(folder):
    """What `tensorboard --logdir` shows: {tag: [(step, value)]}, {tag: [(step, PNG)]}."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), {"scalars": 0, "images": 0}).Reload()
    scalars = {
        tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]
    }
    images = {
        tag: [(e.step, e.encoded_image_string) for e in found.Images(tag)]
        for tag in found.Tags()["images"]
    }
    return scalars, images


def metrics(folder):
    """{name: [(step, value)]} of metrics.jsonl, in TensorBoard's precision."""
    found = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for name, value in record.items():
            if name not in ("step", "time") and value is not None:
                found.setdefault(name, []).append((record["step"], float(np.float32(value))))
    return found


def show(run, step, loss):
    run.log_now(**{"val/loss": float(loss.detach())})
    if step % 4 == 0:
        run.sample_grid("x", torch.full((2, 3, 4, 4), step / 40), 2)
    return loss


def dies(at):
    def hook(run, step, loss):
        show(run, step, loss)
        if step == at:
            raise Killed
        return loss

    return hook


def test_a_run_that_was_killed_has_every_point_once(tmp_path):
    args = {"tensorboard": True, "save_every": 6}
    for at in (3, 17, 20, 20, 33):  # before any checkpoint; of steps that are done again
        with pytest.raises(Killed):
            train(toy_args(tmp_path, **args), hook=dies(at))
    run = train(toy_args(tmp_path, **args), hook=show)
    assert len(list(run.dir.glob("events.out.tfevents.*"))) == 6
    scalars, images = events(run.dir)
    assert scalars == metrics(run.dir) and len(scalars["loss"]) == 40
    assert [step for step, _ in scalars["val/loss"]] == sorted({s for s, _ in scalars["val/loss"]})
    assert [step for step, _ in images["x"]] == list(range(0, 40, 4))
    for step, png in images["x"]:
        assert png == (run.dir / "samples" / f"x-{step:09d}.png").read_bytes()


def test_all_runs_are_shown_by_their_names(tmp_path):
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    runs = [train(toy_args(tmp_path, tensorboard=True, total=2, lr=lr)) for lr in (0.1, 0.2)]
    found = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    assert set(found.Runs()) == {f"toy/{run.dir.name}" for run in runs}


def test_begun_later_it_has_what_was_before(tmp_path):
    train(toy_args(tmp_path), stop_at=10)
    train(toy_args(tmp_path, tensorboard=True), stop_at=20)
    run = train(toy_args(tmp_path, tensorboard=True))
    assert events(run.dir)[0] == metrics(run.dir)


def test_it_changes_nothing(tmp_path):
    plain, shown = toy_args(tmp_path), toy_args(tmp_path, tensorboard=True)
    assert open_run(plain).config_hash == open_run(shown).config_hash
    run = train(plain)
    assert not list(run.dir.glob("events*"))


def test_a_figure_that_is_told_twice_is_there_once(tmp_path):
    tracker = Tracker(tmp_path, "disabled", tensorboard=True)
    tracker.log({"a": 1.5, "b": float("nan")}, 4)
    tracker.log({"a": 1.5, "c": 2}, 4)
    again = Tracker(tmp_path, "disabled", tensorboard=True, resume_step=4)
    again.log({"c": 2, "d": 3}, 4)
    assert events(tmp_path)[0] == metrics(tmp_path)


def test_files_of_one_second_are_read_in_order(tmp_path):
    for step in (3, 2, 1):
        EventFiles(tmp_path, step, []).scalars({"step": step, "x": float(step)})
    names = sorted(p.name for p in tmp_path.iterdir())
    assert len(names) == 3 and events(tmp_path)[0] == {"x": [(1, 1.0)]}


def test_a_failure_does_not_end_the_run(tmp_path, monkeypatch, capsys):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("runtime.event_files.append_bytes", full)
    run = train(toy_args(tmp_path, tensorboard=True), hook=show)
    assert run.finished and len(metrics(run.dir)["loss"]) == 40
    said = capsys.readouterr().out
    assert said.count("tensorboard stopped") == 1 and "No space left" in said


def test_without_the_package_it_is_told_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find(name)
    )
    run = train(toy_args(tmp_path, tensorboard=True))
    assert capsys.readouterr().out.count("python -m pip install tensorboard") == 1
    assert run.finished and not list(run.dir.glob("events*"))


def test_a_preempted_run_too(tmp_path):
    import signal

    with exits(75):
        train(toy_args(tmp_path, tensorboard=True, log_every=4), signals={17: [signal.SIGTERM]})
    run = train(toy_args(tmp_path, tensorboard=True, log_every=4))
    assert events(run.dir)[0] == metrics(run.dir)
