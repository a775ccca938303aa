"""Which folder a launch goes on in: by its W&B id, and by what it reads."""

import argparse
import json
import signal

import pytest
import torch

from runtime import lookup, rundir
from runtime.cli import parse
from runtime.inputs import alike, word_of
from runtime.options import EXECUTION, LENGTH, add_options, add_run_args, tagged
from runtime.run import Run
from runtime.types import positive_int, wandb_id
from storage.errors import CheckpointError, UsageError
from tests.runtime.runs import exits

pytestmark = pytest.mark.usefixtures("one_thread", "no_fsync")

TABLE = {
    "all": [
        ("--loops", positive_int, 3, "how long", LENGTH),
        ("--lr", float, 0.1, "rate"),
        ("--data", str, "here/mine", "a set"),
        ("--uid", wandb_id, None, "id", EXECUTION),
    ]
}


def train(root, *words, kill_at=None, sets=None):
    """A run of two steps a loop. sets: path -> what is known of the set that lies there."""
    parser = argparse.ArgumentParser()
    add_run_args(parser, save_every=2)
    add_options(parser, TABLE)
    own = ["--wandb", "disabled", "--gpus", "cpu", "--log_every", "1", "--results_path", str(root)]
    args = parse(parser, {}, [*own, *map(str, words)])
    mark = (sets or {}).get(args.data)
    with Run(
        args,
        script="x",
        name="-".join(part for part in ("x", args.uid) if part),
        shaping_exclude=tagged(TABLE, EXECUTION),
        length=tagged(TABLE, LENGTH),
        inputs=lambda: {} if mark is None else {"data": mark},
        uid=args.uid,
        milestone_every=2,
    ) as run:
        net = torch.nn.Linear(3, 1)
        optimizer = torch.optim.SGD(net.parameters(), lr=args.lr)
        run.restore(net=net, optimizer=optimizer)
        for step in run.steps(2 * args.loops):
            if step == kill_at:
                signal.raise_signal(signal.SIGTERM)
            run.backward(net(torch.randn(4, 3)).square().mean())
            run.step(optimizer)
            run.log(loss=1.0)
    return run


def folders(root):
    return sorted(path.name for path in (root / "x").iterdir())


# -------------------------------------------------------------------------------------- by its id


def test_uid_is_the_id_in_wandb_and_the_run_is_found_by_it(tmp_path, capsys):
    with exits(75):
        train(tmp_path, "--uid", "abc", kill_at=3)
    (name,) = folders(tmp_path)
    assert (tmp_path / "x" / name / "wandb_id").read_text() == "abc\n"
    capsys.readouterr()
    run = train(tmp_path, "--uid", "abc", "--resume", "1")  # the original way
    assert run.completed == 6 and "resumed step 2" in capsys.readouterr().out
    assert folders(tmp_path) == [name] and run._logs.wandb_id == "abc"
    meta = json.loads((run.dir / "checkpoints/step-000000006/meta.json").read_text())
    assert meta["wandb_id"] == "abc"


def test_uid_finds_a_run_whose_id_was_made(tmp_path, capsys):
    """As the original code's ids are, which one reads in W&B; its name does not have it."""
    first = train(tmp_path)
    (first.dir / "wandb_id").write_text("f00d1234\n")
    capsys.readouterr()
    again = train(tmp_path, "--uid", "f00d1234", "--loops", 5)
    assert again.dir == first.dir and again.completed == 10 and len(folders(tmp_path)) == 1
    assert f"going on with {first.dir.name}, the run of --uid f00d1234" in capsys.readouterr().out


def test_uid_with_other_options_is_refused_with_a_table_of_them(tmp_path):
    train(tmp_path, "--uid", "abc")
    for more in ((), ("--resume", "1")):
        with pytest.raises(UsageError, match="--lr *| 0.1 *| 0.2"):
            train(tmp_path, "--uid", "abc", "--lr", "0.2", *more)
    assert len(folders(tmp_path)) == 1


def test_uid_that_no_run_has_is_told_with_those_that_are_near(tmp_path):
    train(tmp_path, "--uid", "abcdef")
    with pytest.raises(CheckpointError, match="--uid abcdeg: no run .*did you mean abcdef"):
        train(tmp_path, "--uid", "abcdeg", "--resume", "1")
    with pytest.raises(CheckpointError, match="ids there: abcdef"):
        train(tmp_path, "--uid", "zzz", "--resume", "1")
    assert len(folders(tmp_path)) == 1
    assert train(tmp_path, "--uid", "zzz", "--resume", "0").completed == 6  # begins
    with pytest.raises(CheckpointError, match="there are no runs with one"):
        train(tmp_path / "empty", "--uid", "zzz", "--resume", "2")


def test_uid_and_outdir_of_two_runs_exclude_each_other(tmp_path):
    one, two = train(tmp_path, "--uid", "one"), train(tmp_path, "--uid", "two")
    with pytest.raises(UsageError, match="--uid one is the id of"):
        train(tmp_path, "--uid", "one", "--outdir", two.dir)
    with pytest.raises(UsageError, match="--uid three is not that of .*: two"):
        train(tmp_path, "--uid", "three", "--outdir", two.dir)
    assert train(tmp_path, "--uid", "one", "--outdir", one.dir).dir == one.dir


def test_uid_that_several_runs_of_an_earlier_version_have(tmp_path):
    one, two = (train(tmp_path, "--lr", lr) for lr in (0.1, 0.2))
    for run in (one, two):
        known = json.loads((run.dir / "args.json").read_text())
        known["args"]["uid"] = "abc"
        (run.dir / "args.json").write_text(json.dumps(known))
    assert lookup.ids_of(one.dir) == ["abc"]
    with pytest.raises(UsageError, match="--uid abc is the id of several runs"):
        train(tmp_path, "--uid", "abc", "--resume", "1")
    assert train(tmp_path, "--uid", "abc", "--outdir", one.dir).dir == one.dir


@pytest.mark.parametrize("word", ["a/b", "", "x" * 129, "a:b", "ä", "..", "50%"])
def test_uid_that_wandb_does_not_take_is_refused(tmp_path, word):
    with exits(2):
        train(tmp_path, "--uid", word)


# --------------------------------------------------------------------------------- by what it reads


def mark(digest="d", look="8x8:00ff"):
    return {"name": "mine", "pictures": 4, "digest": digest, "sample": look}


def test_a_set_that_lies_elsewhere_is_the_same_run_also_when_it_is_longer(tmp_path, capsys):
    sets = {f"/{job}/mine": mark(look=f"8x8:0{job}ff") for job in range(3)}  # another decoder
    first = train(tmp_path, "--data", "/0/mine", sets=sets)
    second = train(tmp_path, "--data", "/1/mine", sets=sets)
    longer = train(tmp_path, "--data", "/2/mine", "--loops", 4, sets=sets)
    assert second.dir == first.dir == longer.dir and longer.completed == 8
    out = capsys.readouterr().out
    assert "the same run but for where the same data set (4 pictures) lies: --data /0/mine" in out
    assert "but for its length and for where the same data set" in out
    assert train(tmp_path, "--data", "/0/mine", "--loops", 4, sets=sets).dir == first.dir
    assert json.loads((first.dir / "inputs.json").read_text())["data"]["called"] == "mine"


@pytest.mark.parametrize(
    "other", [mark("e"), mark(look="8x8:00f0"), mark(look="8x9:00ff"), mark(look="unreadable")]
)
def test_another_set_is_another_run(tmp_path, other):
    sets = {"/0/mine": mark(), "/1/mine": other}
    runs = [train(tmp_path, "--data", path, sets=sets) for path in sets]
    assert runs[0].dir != runs[1].dir


def test_a_set_of_another_name_is_told(tmp_path, capsys):
    """Sets of equal names and looks may still be two, as a data set and its next version."""
    sets = {"/0/mine": mark(), "/0/yours": mark()}
    first = train(tmp_path, "--data", "/0/mine", sets=sets)
    capsys.readouterr()
    second = train(tmp_path, "--data", "/0/yours", sets=sets)
    assert second.dir != first.dir and f"add --outdir {first.dir.name}" in capsys.readouterr().out
    assert train(tmp_path, "--data", "/0/yours", "--outdir", first.dir, sets=sets).completed == 6


def test_other_options_and_scratch_from_the_beginning_stay_another_run(tmp_path):
    sets = {f"/{job}/mine": mark() for job in range(2)}
    first = train(tmp_path, "--data", "/0/mine", sets=sets)
    assert train(tmp_path, "--data", "/1/mine", "--lr", 0.3, sets=sets).dir != first.dir
    anew = train(tmp_path, "--data", "/1/mine", "--resume", 0, sets=sets)
    assert anew.dir != first.dir
    sets["/2/mine"] = mark()  # the job's command is run again: it goes on, as it does in one place
    assert train(tmp_path, "--data", "/2/mine", "--resume", 0, sets=sets).dir == anew.dir


def test_a_copied_link_is_called_by_what_it_leads_to(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to("mine")
    assert word_of(str(tmp_path / "link")) == "mine" == word_of(f"{tmp_path}/mine/train")
    assert word_of("cifar10") == "cifar10" and word_of(None) == ""


def test_records_that_are_damaged_are_of_another_set():
    assert alike(mark(), mark()) and not alike(mark(), mark(look="8x8:zz"))
    assert alike({"digest": "d"}, mark()) and not alike({"digest": "d"}, mark(), sure=True)
    assert alike({"sha256": "a"}, {"sha256": "a"}) and not alike({}, {"sha256": "a"})


def test_files_hold_what_a_launch_was_told(tmp_path):
    run = train(tmp_path)
    known, wrong = rundir.known_of(run.dir)
    assert known["shaping"]["lr"] == 0.1 and not wrong
