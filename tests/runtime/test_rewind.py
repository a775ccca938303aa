"""`--resume N` and `--resume PATH` set aside what is later, but not where they are refused."""

import pytest
import torch

from storage.errors import CheckpointError, DataError
from storage.find import newest_epoch, newest_snapshot
from storage.listing import Listing
from storage.snapshot import load_snapshot
from tests.runtime import toy
from tests.runtime.runs import status, steps_in
from tests.runtime.toy import open_run, toy_args, train

pytestmark = pytest.mark.usefixtures("one_thread", "no_fsync")


def snapshots(run, step, loss):
    """An epoch is 4 steps; the newest weights are in network-latest after each."""
    if (step + 1) % 4 == 0:
        net = torch.nn.Linear(1, 1)
        names = [f"{step // 4}", "network-latest", f"network-snapshot-{step + 1:07d}-0.100"]
        for name in names:
            run.snapshot(name, net, "linear", {})
    return loss


def launch(root, stop_at, **changes):
    return train(toy_args(root, **changes), stop_at=stop_at, milestone_every=4, hook=snapshots)


def found(run):
    return sorted(p.stem for p in (run.dir / "snapshots").glob("*.safetensors"))


def test_the_network_of_before_a_rewind_is_not_found(tmp_path, capsys):
    run = launch(tmp_path, 12)
    assert newest_epoch(run.dir).stem == "2"
    capsys.readouterr()
    launch(tmp_path, 5, resume="1")
    assert found(run) == ["0", "network-snapshot-0000004-0.100"]
    assert newest_snapshot(run.dir).stem == "network-snapshot-0000004-0.100"
    said = capsys.readouterr().out
    assert "snapshots of later steps renamed *.superseded: 1, 2, network-latest, network-s" in said
    assert "snapshots of later steps" in (run.dir / "log.txt").read_text()
    launch(tmp_path, 8, resume="1")  # the same command goes on: nothing is set aside
    assert newest_epoch(run.dir).stem == "1" and newest_snapshot(run.dir).stem == "network-latest"
    launch(tmp_path, 5, resume=str(run.dir / "checkpoints" / "step-000000004"))
    assert newest_epoch(run.dir).stem == "0"
    launch(tmp_path, 3, resume="0")
    assert newest_epoch(run.dir) is None and newest_snapshot(run.dir) is None
    launch(tmp_path, 4, resume="0")
    origin = load_snapshot(newest_snapshot(run.dir)).provenance
    assert (
        newest_epoch(run.dir).stem == "0" and origin["step"] == 3
    )  # the hook is before the update
    assert len(list((run.dir / "snapshots").glob("*.superseded*"))) == 10


def refused(root, data=None, **changes):
    with open_run(toy_args(root, **changes), milestone_every=4) as run:
        run.trains_on(data)
        objects = toy.build(run.args)
        if data is None:
            objects["net"] = torch.nn.Linear(3, 3)
        run.restore(**objects)


@pytest.mark.parametrize("how", ["data", "objects"])
def test_a_refused_launch_has_not_rewound(how, tmp_path, capsys):
    names = ["a", "b"]
    with open_run(toy_args(tmp_path), milestone_every=4) as run:
        run.trains_on(Listing("mine", names, names))
        run.restore(**toy.build(run.args))
    run = launch(tmp_path, 12)
    before, there = steps_in(run), found(run)
    more = Listing("mine", [*names, "c"], [*names, "c"]) if how == "data" else None
    paths = ["1", str(run.dir / "checkpoints" / "step-000000004")]
    for resume in paths:
        with pytest.raises(DataError if how == "data" else CheckpointError):
            refused(tmp_path, more, resume=resume)
        assert steps_in(run) == before and found(run) == there
    capsys.readouterr()
    launch(tmp_path, 13)
    said = capsys.readouterr().out
    assert "resumed step 12" in said and "an earlier launch" not in said


def test_a_rewind_on_purpose_is_no_loss(tmp_path, capsys):
    """A launch that rewinds and is killed before it saves anything; the next is a plain one."""
    launch(tmp_path, 12, total=12)
    with pytest.raises(RuntimeError), open_run(toy_args(tmp_path, resume="1"), milestone_every=4):
        raise RuntimeError
    for after, resume in ((4, "1"), (0, "0")):
        launch(tmp_path, 12, total=12)
        with open_run(toy_args(tmp_path, resume=resume), milestone_every=4) as run:
            run.restore(**toy.build(run.args))
            (run.dir / "status.json").rename(run.dir / "kept")  # as a kill here leaves it
        (run.dir / "kept").rename(run.dir / "status.json")
        assert status(run)["step"] == after
        capsys.readouterr()
        launch(tmp_path, after + 1)
        assert "an earlier launch" not in capsys.readouterr().out
