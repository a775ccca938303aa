"""Run: its folder, its lock, and where it resumes."""

import json
import os
import signal

import pytest
import torch

from runtime.run import Run
from storage.errors import CheckpointError, LockError, UsageError
from storage.files import read_lines
from tests import kill_harness as harness
from tests.runtime import toy
from tests.runtime.runs import exits, status, steps_in
from tests.runtime.toy import open_run, toy_args, train

pytestmark = pytest.mark.usefixtures("one_thread", "no_fsync")

# --------------------------------------------------------------------------------------- directory


def test_files_of_a_run(tmp_path, capsys):
    run = train(toy_args(tmp_path, total=7))
    assert run.dir.parent == tmp_path / "toy" and run.dir.name == f"toy-{run.config_hash}"
    args = json.loads((run.dir / "args.json").read_text())
    assert args["args"]["lr"] == 0.01 and args["args"]["total"] == 7 and args["script"] == "toy"
    assert args["provenance"]["command"] and args["provenance"]["packages"]["torch"]
    launch = json.loads((run.dir / "launches.jsonl").read_text())
    assert launch["from_step"] == 0 and launch["world_size"] == 1
    assert status(run) | {"time": 0} == {
        "state": "finished",
        "step": 7,
        "nimg": 56,
        "exit_code": 0,
        "message": "",
        "wants_requeue": False,
        "time": 0,
    }
    assert run.finished and run.completed == 7 and run.nimg == 56
    assert steps_in(run) == [7]
    assert str(run.dir) in capsys.readouterr().out
    assert [line["step"] for line in harness.metrics(run.dir)] == list(range(1, 8))


def test_the_name_depends_on_what_shapes_the_run_only(tmp_path):
    def name(**changes):
        run = open_run(toy_args(tmp_path, **changes))
        return run.config_hash

    base = name()
    same = [
        {"num_workers": 3, "save_every": 7, "log_every": 9, "wandb": "offline", "gpus": [0]},
        {"resume": "3", "run_dir": "x", "results_path": "y", "preset": "z", "spi": 1},
        {"lr": 0.01, "width": 8.0},
        {"compile": True, "deterministic": True},
    ]
    assert all(name(**changes) == base for changes in same)
    shaped = [{"lr": 0.02}, {"width": 9}, {"seed": 1}, {"precision": "bf16"}]
    assert len({name(**changes) for changes in shaped} | {base}) == 5


def test_a_sibling_with_other_flags_is_mentioned(tmp_path, capsys):
    first = train(toy_args(tmp_path, total=1))
    capsys.readouterr()
    train(toy_args(tmp_path, total=1, lr=0.5))
    out = capsys.readouterr().out
    assert out.count("another run of this name") == 1 and first.dir.name in out


def test_results_home_is_the_default_place(tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS_HOME", str(tmp_path / "home"))
    run = train(toy_args(tmp_path, total=1, results_path=None))
    assert run.dir.parent == tmp_path / "home" / "toy"


def test_same_command_resumes_and_a_finished_run_says_so(tmp_path, capsys):
    with exits(75):
        train(toy_args(tmp_path), signals={16: [signal.SIGTERM]})
    run = train(toy_args(tmp_path))
    assert "resumed step 17 (verified)" in capsys.readouterr().out
    straight = train(toy_args(tmp_path / "straight"))
    assert not harness.differences(harness.final_state(run.dir), harness.final_state(straight.dir))
    assert harness.metrics(run.dir) == harness.metrics(straight.dir)
    before = (run.dir / "checkpoints" / "step-000000040" / "net.pt").stat().st_mtime_ns
    again = train(toy_args(tmp_path))
    assert "finished: 40 of 40" in capsys.readouterr().out
    assert again.finished and status(again)["state"] == "finished"
    after = (run.dir / "checkpoints" / "step-000000040" / "net.pt").stat().st_mtime_ns
    assert before == after


def test_a_launch_after_one_cut_short_by_a_kill_is_noted(tmp_path):
    with exits(75):
        train(toy_args(tmp_path, run_dir=str(tmp_path / "a")), signals={16: [signal.SIGTERM]})
    log = tmp_path / "a" / "launches.jsonl"
    log.write_text(log.read_text() + '{"time": "half of a li')
    train(toy_args(tmp_path, run_dir=str(tmp_path / "a")))
    assert [launch["from_step"] for launch in read_lines(log)] == [0, 17]


def test_in_use(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "812")
    with open_run(toy_args(tmp_path)) as run:
        with pytest.raises(
            LockError, match=r"in use by job 812 on \S+; use another --outdir"
        ) as caught:
            train(toy_args(tmp_path))
        assert caught.value.exit_code == 4
        pid = os.fork()  # a data worker
        if pid == 0:
            signal.pause()
        held = run._lock._lock.held
    os.kill(pid, 0)
    assert held and not run._lock._lock.held
    train(toy_args(tmp_path, total=1))  # free again, though the worker lives
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_outdir_lies_in_the_scripts_results_unless_it_says_where(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    for word, where in (
        ("a/b", "results/toy/a/b"),
        ("./a", "a"),
        ("../" + tmp_path.name + "/c", "c"),
        (str(tmp_path / "d"), "d"),
        ("here", "results/toy/here"),
    ):
        run = train(toy_args(tmp_path / "results", outdir=word, total=1))
        assert run.dir == tmp_path / where
        said = capsys.readouterr().out
        assert f"run directory {run.dir}" in said
        assert ("./here" in said) == (word == "here")  # which of the two is meant
    with pytest.raises(UsageError, match="--outdir a and --run-dir b: give one"):
        train(toy_args(tmp_path, outdir="a", run_dir="b"))
    # what --run-dir said it says for good
    assert train(toy_args(tmp_path / "results", run_dir="e", total=1)).dir == tmp_path / "e"


def test_options_that_differ_are_named_as_they_are_typed(tmp_path):
    train(toy_args(tmp_path, total=3, outdir=str(tmp_path / "r")))
    args = toy_args(tmp_path, width=9, outdir=str(tmp_path / "r"))
    args.typed_as = {**args.typed_as, "width": "--channels"}
    with pytest.raises(UsageError, match="--channels *[|] 8 *[|] 9"):
        train(args)


def test_the_lock_of_a_killed_run_is_free_though_its_workers_live(tmp_path):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with open_run(toy_args(tmp_path)):
            worker = os.fork()
            if worker == 0:
                signal.pause()
            os.write(write, str(worker).encode())
            os.kill(os.getpid(), signal.SIGKILL)
    worker = int(os.read(read, 100))
    os.waitpid(pid, 0)
    os.kill(worker, 0)
    train(toy_args(tmp_path, total=1))
    os.kill(worker, signal.SIGKILL)


def test_changed_flags_are_refused_with_a_table(tmp_path):
    where = str(tmp_path / "mine")
    train(toy_args(tmp_path, run_dir=where, total=3))
    before = (tmp_path / "mine" / "args.json").read_bytes()
    train(toy_args(tmp_path, run_dir=where, total=4, spi=2, num_workers=0, save_every=9))
    for option in ({"run_dir": where}, {"resume": where}):
        with pytest.raises(UsageError) as caught:
            train(toy_args(tmp_path, lr=0.5, width=9, **option))
        advice, *table = str(caught.value).splitlines()
        assert "start another run (with another --outdir, and without --resume)" in advice
        cells = [[c.strip() for c in row.split("|")] for row in table]
        assert cells == [
            ["option", "before", "now"],
            ["--lr", "0.01", "0.5"],
            ["--width", "8", "9"],
        ]
    assert (tmp_path / "mine" / "args.json").read_bytes() == before
    with pytest.raises(UsageError, match="belongs to toy, not to other"):
        with Run(toy_args(tmp_path, run_dir=where), script="other", name="x"):
            pass


def test_flags_may_be_corrected_until_there_is_a_checkpoint(tmp_path):
    def typo(run, step, loss):
        raise UsageError("width 9 is wrong")

    where = str(tmp_path / "mine")
    with pytest.raises(UsageError, match="is wrong"):
        train(toy_args(tmp_path, run_dir=where, width=9), hook=typo)
    run = train(toy_args(tmp_path, run_dir=where, width=8, total=1))
    assert json.loads((run.dir / "args.json").read_text())["shaping"]["width"] == 8
    with pytest.raises(UsageError, match="--width"):
        train(toy_args(tmp_path, run_dir=where, width=9))


@pytest.mark.parametrize("text", ["[]", "{}", '{"script": "toy", "shaping": 5}', "junk"])
def test_a_foreign_args_json(tmp_path, text):
    (tmp_path / "args.json").write_text(text)
    with pytest.raises(UsageError, match="args.json .*use another --outdir"):
        train(toy_args(tmp_path, run_dir=str(tmp_path)))
    assert (tmp_path / "args.json").read_text() == text


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "f").write_text("")
    for path in ("f", "f/g"):
        with pytest.raises(UsageError, match="file in the way"):
            train(toy_args(tmp_path, run_dir=str(tmp_path / path)))


# ------------------------------------------------------------------------------------------ resume


def test_resume_needs_the_same_names(tmp_path):
    train(toy_args(tmp_path, total=2))
    with open_run(toy_args(tmp_path)) as run:
        objects = toy.build(run.args)
        ema = objects.pop("ema")
        with pytest.raises(CheckpointError, match="only in the checkpoint: ema; .*restore: ema2"):
            run.restore(**objects, ema2=ema)
    with open_run(toy_args(tmp_path)) as run:
        objects = toy.build(run.args)
        objects["net"] = torch.nn.Linear(3, 3)
        with pytest.raises(CheckpointError, match="cannot load 'net'"):
            run.restore(**objects)
    with open_run(toy_args(tmp_path)) as run, pytest.raises(UsageError, match="no state_dict"):
        run.restore(net=3)


def test_a_state_that_could_not_be_loaded_is_found_at_the_start(tmp_path):
    class Bad(toy.Sampler):
        def state_dict(self):
            return {"drawn": lambda: 0}

    with open_run(toy_args(tmp_path)) as run, pytest.raises(CheckpointError, match="drawn"):
        run.restore(sampler=Bad(1, 1))


def test_damaged_checkpoints_fall_back_and_none_left_is_exit_3(tmp_path, capsys):
    with exits(75):
        train(toy_args(tmp_path), signals={11: [signal.SIGTERM]})
    run = train(toy_args(tmp_path), stop_at=13)
    assert steps_in(run) == [12, 13]
    os.truncate(run.dir / "checkpoints" / "step-000000013" / "ema.pt", 10)
    run = train(toy_args(tmp_path), stop_at=13)
    out = capsys.readouterr().out
    assert "step-000000013/ema.pt: 10 bytes" in out and "resumed step 12 (verified)" in out
    for step in steps_in(run):
        (run.dir / "checkpoints" / f"step-{step:09d}" / "manifest.json").unlink()
    for _ in range(2):
        with pytest.raises(CheckpointError) as caught:
            train(toy_args(tmp_path))
        assert caught.value.exit_code == 3
    assert status(run)["state"] == "failed" and status(run)["exit_code"] == 3
    assert train(toy_args(tmp_path, resume="0", total=3), milestone_every=10).completed == 3


def test_loops(tmp_path):
    """The lineage rule: rewind once, then the same command goes on."""

    def go(resume, stop_at, **more):
        return train(toy_args(tmp_path, resume=resume), stop_at=stop_at, milestone_every=10, **more)

    def resumed(run):
        return json.loads((run.dir / "launches.jsonl").read_text().splitlines()[-1])

    run = go("0", 10)
    assert steps_in(run) == [5, 10] and status(run)["state"] == "stopped" and not run.finished
    with exits(75):
        go("1", 20, signals={13: [signal.SIGUSR1]})
    assert steps_in(run) == [10, 14]
    said = []
    run = go("1", 20, hook=lambda run, step, loss: (said.append(step), loss)[1])
    assert said == list(range(14, 20))  # went on, did not rewind
    run = go("auto", 33)
    assert steps_in(run) == [10, 20, 30, 33]
    reference = harness.final_state(run.dir)
    said.clear()
    run = go("2", 33, hook=lambda run, step, loss: (said.append(step), loss)[1])
    assert said == list(range(20, 33))  # rewound
    aside = sorted(p.name for p in (run.dir / "checkpoints").glob("*.superseded"))
    assert aside == ["step-000000030.superseded", "step-000000033.superseded"]
    assert not harness.differences(harness.final_state(run.dir), reference)
    assert [line["step"] for line in harness.metrics(run.dir)] == list(range(1, 34))
    with pytest.raises(CheckpointError, match=r"end of loop 6 \(step 70\).*10, 20, 30, 33"):
        go("7", 80)
    with pytest.raises(UsageError, match="no loops"):
        train(toy_args(tmp_path, resume="1"))
    said.clear()
    run = go("0", 3, hook=lambda run, step, loss: (said.append(step), loss)[1])
    assert said == [0, 1, 2] and steps_in(run) == [3]


def test_resume_from_a_path(tmp_path):
    run = train(toy_args(tmp_path), stop_at=13, milestone_every=4)
    at = run.dir / "checkpoints" / "step-000000008"
    seen = []

    def hook(run, step, loss):
        seen.append(step)
        return loss

    again = train(toy_args(tmp_path, resume=str(at)), stop_at=10, hook=hook)
    assert again.dir == run.dir and seen == [8, 9]
    assert not (run.dir / "checkpoints" / "step-000000013").exists()
    seen.clear()
    train(toy_args(tmp_path, resume=str(at)), stop_at=12, hook=hook)
    assert seen == [10, 11]  # the same command goes on
    seen.clear()
    other = toy_args(tmp_path, resume=str(run.dir), run_dir=str(tmp_path / "copy"))
    copy = train(other, stop_at=14, hook=hook)
    assert seen == [12, 13] and copy.dir == tmp_path / "copy" and steps_in(run)[-1] == 12
    aside = run.dir / "checkpoints" / "step-000000013.superseded"
    for bad in ("nowhere", str(tmp_path), str(at / "net.pt"), str(aside)):
        with pytest.raises(CheckpointError, match="--resume"):
            train(toy_args(tmp_path, resume=bad))


def test_a_run_that_starts_from_another_has_its_own_wandb_id(tmp_path):
    def track(run, step, loss):
        run._logs.wandb_id = run._logs.wandb_id or "first"
        return loss

    run = train(toy_args(tmp_path, total=2), hook=track)
    assert train(toy_args(tmp_path, total=2))._logs.wandb_id == "first"
    copy = toy_args(tmp_path, total=2, resume=str(run.dir), run_dir=str(tmp_path / "copy"))
    assert train(copy)._logs.wandb_id is None
