"""Run: directory, resume, loop, guard, failures, ranks."""

import errno
import json
import os
import resource
import signal
from pathlib import Path

import pytest
import torch

from runtime.run import Run
from storage import checkpoint
from storage.errors import (
    CheckpointError,
    DiskError,
    LockError,
    NonFiniteError,
    OutOfMemory,
    UsageError,
)
from storage.snapshot import load_snapshot
from tests import kill_harness as harness
from tests.runtime import toy
from tests.runtime.toy import open_run, toy_args, train


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """It protects from power cuts, which no test here makes, and takes most of the time."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Drawing curves is the tracker's business and would take most of the time here."""
    from runtime.tracker import Tracker

    monkeypatch.setattr(Tracker, "curves", lambda self: self.dir / "curves.png")


def status(run):
    return json.loads((run.dir / "status.json").read_text())


def steps_in(run):
    return checkpoint.steps_of(run.dir / "checkpoints")


def exits(code):
    return pytest.raises(SystemExit, match=f"^{code}$")


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
    assert steps_in(run) == [5, 7]
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


def test_in_use(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "812")
    with open_run(toy_args(tmp_path)) as run:
        with pytest.raises(LockError, match=r"in use by job 812 on \S+; use --run-dir") as caught:
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
        table = str(caught.value).splitlines()[1:]
        cells = [[c.strip() for c in row.split("|")] for row in table]
        assert cells == [
            ["flag", "checkpoint", "now"],
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
    with pytest.raises(UsageError, match="args.json .*use another --run-dir"):
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


# -------------------------------------------------------------------------------------------- loop


def test_leaving_the_loop_by_break_is_an_error(tmp_path):
    def by_break(run):
        for _ in run.steps(5):
            break

    def by_return(run):
        for _ in run.steps(5):
            return

    def by_caught_exception(run):
        try:
            for _ in run.steps(5):
                raise ValueError
        except ValueError:
            pass

    def by_next(run):
        run.it = run.steps(5)
        next(run.it)

    for leave in (by_break, by_return, by_caught_exception, by_next):
        with pytest.raises(UsageError, match="break"):
            with open_run(toy_args(tmp_path)) as run:
                run.restore(sampler=toy.Sampler(4, 2))
                leave(run)
        assert status(run)["state"] == "failed" and status(run)["exit_code"] == 2
        assert steps_in(run) == []


def test_continue_is_a_step(tmp_path):
    with open_run(toy_args(tmp_path)) as run:
        run.restore()
        for step in run.steps(6):
            if step % 2:
                continue
    assert run.completed == 6 and status(run)["state"] == "finished"


def test_restore_comes_first(tmp_path):
    with open_run(toy_args(tmp_path)) as run, pytest.raises(UsageError, match="run.restore"):
        next(run.steps(3))


def test_an_exception_of_the_body_comes_through_and_is_noted(tmp_path):
    def boom(run, step, loss):
        if step == 7:
            raise ZeroDivisionError("in the body")
        return loss

    with pytest.raises(ZeroDivisionError):
        train(toy_args(tmp_path), hook=boom)
    run = train(toy_args(tmp_path), stop_at=8)  # not saved by the failing one: step 5 is newest
    assert json.loads((run.dir / "launches.jsonl").read_text().splitlines()[1])["from_step"] == 5


def test_one_turn_is_one_step_however_many_optimizers(tmp_path):
    a, b = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    oa, ob = torch.optim.SGD(a.parameters(), lr=0.1), torch.optim.SGD(b.parameters(), lr=0.1)
    with open_run(toy_args(tmp_path)) as run:
        run.restore(a=a, b=b)
        for _ in run.steps(4, images_per_step=3):
            run.backward(a(torch.ones(1, 1)).sum())
            assert run.step(oa)
            run.backward(b(torch.ones(1, 1)).sum())
            facts = run.provenance()  # of weights that have seen this step's images
            assert (facts["step"], facts["nimg"]) == (run.completed + 1, 3 * (run.completed + 1))
            assert run.step(ob) and run.step(oa)  # nothing pending is fine
        assert run.provenance()["nimg"] == 12
    assert run.completed == 4 and run.nimg == 12


def test_a_length_counted_in_images(tmp_path):
    """Ten images a step, then two from the third on; a resumed run asks the same question."""

    def until(run):
        return lambda: run.completed + -(-(36 - run.nimg) // (10 if run.completed < 3 else 2))

    for launch, (stop_at, wanted) in enumerate([(2, [0, 1]), (4, [2, 3]), (None, [4, 5])]):
        seen = []
        with open_run(toy_args(tmp_path)) as run:
            run.restore()
            for step in run.steps(until(run), stop_at=stop_at):
                run.nimg += 10 if step < 3 else 2
                seen.append(step)
        assert seen == wanted and run.finished == (launch == 2)
    assert run.nimg == 36 and status(run)["state"] == "finished"


def test_every_step_is_seeded(tmp_path):
    with open_run(toy_args(tmp_path, run_dir=str(tmp_path / "x"))) as run:
        run.restore()
        first = [float(torch.rand(())) for _ in run.steps(3)]
    with open_run(toy_args(tmp_path, run_dir=str(tmp_path / "y"))) as run:
        run.restore()
        second = []
        for _ in run.steps(3):
            second.append(float(torch.rand(())))
            torch.rand(7)
    assert first == second and len(set(first)) == 3


def test_networks_are_initialised_alike(tmp_path):
    torch.manual_seed(5)
    with open_run(toy_args(tmp_path)):
        a = torch.nn.Linear(3, 3).weight.clone()
    with open_run(toy_args(tmp_path)):
        b = torch.nn.Linear(3, 3).weight.clone()
    with open_run(toy_args(tmp_path, seed=1)):
        c = torch.nn.Linear(3, 3).weight.clone()
    assert torch.equal(a, b) and not torch.equal(a, c)


# ---------------------------------------------------------------------------------------- updates


def linear(run, lr=0.5):
    net = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    run.restore(net=net, optimizer=optimizer)
    return net, optimizer


def test_accumulation_equals_the_big_batch_and_clipping_that_of_torch(tmp_path):
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    with open_run(toy_args(tmp_path)) as run:
        net, optimizer = linear(run)
        oracle = torch.nn.Linear(3, 1)
        oracle.load_state_dict(net.state_dict())
        theirs = torch.optim.SGD(oracle.parameters(), lr=0.5)
        for step in run.steps(5):
            clip = 0.3 if step % 2 else None
            for part in range(4):
                rows = slice(2 * part, 2 * part + 2)
                loss = (net(x[rows]) - y[rows]).square().mean() / 4
                run.backward(loss, last=part == 3)
            assert run.step(optimizer, clip=clip)
            (oracle(x) - y).square().mean().backward()
            norm = torch.nn.utils.clip_grad_norm_(oracle.parameters(), clip or 1e9)
            assert run.grad_norm == pytest.approx(float(norm), rel=1e-5)
            theirs.step()
            theirs.zero_grad()
            torch.testing.assert_close(net.weight, oracle.weight)
            assert all(p.grad is None for p in net.parameters())


def test_a_promised_part_must_come(tmp_path):
    with pytest.raises(UsageError, match="last part"):
        with open_run(toy_args(tmp_path)) as run:
            net, optimizer = linear(run)
            for _ in run.steps(2):
                run.backward(net(torch.ones(1, 3)).sum(), last=False)
                run.step(optimizer)


def bad_loss(net):
    return net(torch.ones(1, 3)).sum() + float("nan")  # finite gradients!


def bad_gradient(net):
    return (net.bias * 0).sqrt().sum()  # 0, with an infinite derivative times 0


def test_gradients_forced_finite(tmp_path):
    with open_run(toy_args(tmp_path), scale_loss=False) as run:
        net, optimizer = linear(run)
        for step in run.steps(2):
            weight, bias = net.weight.detach().clone(), net.bias.detach().clone()
            loss = bad_loss(net) if step else net(torch.ones(1, 3)).sum() + bad_gradient(net)
            run.backward(loss)
            assert run.step(optimizer, force_finite=True) == (step == 0)  # a bad loss stays bad
            assert torch.equal(net.bias, bias) and torch.equal(net.weight, weight - 0.5) == (
                step == 0
            )


@pytest.mark.parametrize("bad, word", [(bad_loss, "loss"), (bad_gradient, "grad")])
def test_a_non_finite_step_is_skipped_and_named(tmp_path, capsys, bad, word):
    with open_run(toy_args(tmp_path, save_every=1)) as run:
        net, optimizer = linear(run)
        for step in run.steps(8):
            before = net.weight.detach().clone()
            for part in range(2):
                good = net(torch.randn(1, 3)).square().sum()
                broken = step in (2, 3, 5, 6) and part == 1
                run.backward(bad(net) if broken else good, [10 * part + step, 99])
            done = run.step(optimizer)
            assert done == (step not in (2, 3, 5, 6))
            assert torch.equal(before, net.weight) == (not done)
            if step == 3:  # two in a row are skipped, and nothing is saved meanwhile
                assert steps_in(run) == [1, 2]
    out = capsys.readouterr().out
    ids = "12,99" if word == "loss" else "2,99,12,99"
    assert f"non-finite {word} (rank 0, samples {ids}, step 2); skipped 1/3" in out
    assert "skipped 2/3" in out and status(run)["state"] == "finished"


def test_three_in_a_row_exit_5_and_save_nothing(tmp_path):
    with pytest.raises(NonFiniteError) as caught:
        with open_run(toy_args(tmp_path, save_every=1)) as run:
            net, optimizer = linear(run)
            for step in run.steps(20):
                loss = bad_loss(net) if step >= 4 else net(torch.ones(1, 3)).square().sum()
                run.backward(loss, torch.tensor([step]))
                run.step(optimizer)
    assert caught.value.exit_code == 5 and "samples 6, step 6" in str(caught.value)
    assert steps_in(run) == [3, 4] and status(run)["exit_code"] == 5
    assert not status(run)["wants_requeue"]


def test_lost_weights_are_never_saved(tmp_path):
    """A finite gradient and an infinite step: the loss would only show it one step later."""
    with pytest.raises(NonFiniteError, match="weights of net are not finite after step 3"):
        with open_run(toy_args(tmp_path, save_every=1)) as run:
            net, optimizer = linear(run)
            for step in run.steps(20):
                if step == 2:
                    optimizer.param_groups[0]["lr"] = float("inf")
                run.backward(net(torch.ones(1, 3)).square().sum())
                assert run.step(optimizer)
    assert steps_in(run) == [1, 2]


def test_fp16_overflow_is_how_the_scale_is_found(tmp_path, capsys):
    """The scaler with a loss that overflows above a scale of 8; on the CPU by hand."""
    from runtime.precision import LossScaler

    with open_run(toy_args(tmp_path)) as run:
        scaler = LossScaler(init=64.0, growth_interval=1000)
        run.precision.scaler = run._updater.scaler = scaler
        net, optimizer = linear(run, lr=0.0)
        done = []
        for _ in run.steps(6):
            out = net(torch.ones(1, 3)).sum() * 0 + net.bias.sum() * 1.5
            out.register_hook(lambda g: g * (float("inf") if g > 8 else 1))
            run.backward(out)
            done.append(run.step(optimizer))
    assert done == [False] * 3 + [True] * 3 and scaler.scale == 8
    assert run.grad_norm == pytest.approx(1.5)  # unscaled
    assert "non-finite" not in capsys.readouterr().out


# ---------------------------------------------------------------------------------------- failures


def test_save_failures_are_survived_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("IMLE_LAB_FAILPOINT", "post-fsync:all=ENOSPC")

    def recover(run, step, loss):
        if step == 11:
            os.environ["IMLE_LAB_FAILPOINT"] = ""
        return loss

    run = train(toy_args(tmp_path), hook=recover)
    out = capsys.readouterr().out
    assert out.count("cannot save step") == 2 and "(2/3)" in out
    assert run.finished and steps_in(run) == [35, 40]
    monkeypatch.setenv("IMLE_LAB_FAILPOINT", "post-fsync:all=EIO")
    with pytest.raises(DiskError, match=r"step 15: .*nothing is saved yet \(3/3\)") as caught:
        train(toy_args(tmp_path, run_dir=str(tmp_path / "b")))
    assert caught.value.exit_code == 7


def test_a_run_is_not_done_without_its_last_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("IMLE_LAB_FAILPOINT", "post-fsync:all=ENOSPC")
    with pytest.raises(DiskError, match="step 3"):
        train(toy_args(tmp_path, total=3))
    monkeypatch.setenv("IMLE_LAB_FAILPOINT", "")
    run = train(toy_args(tmp_path, total=3))
    assert steps_in(run) == [3] and status(run)["state"] == "finished"


def test_pictures_and_snapshots_on_a_full_disk(tmp_path, monkeypatch, capsys):
    """Said and survived, except that a run cannot finish without the snapshot of its last step."""
    full = {1}  # steps in which the disk is full

    def refuse(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def once(total):
        with open_run(toy_args(tmp_path, save_every=2)) as run:
            net, optimizer = linear(run)
            for step in run.steps(total):
                run.backward(net(torch.ones(1, 3)).sum())
                run.step(optimizer)
                with monkeypatch.context() as patch:
                    if step in full:
                        patch.setattr(os, "replace", refuse)
                    run.sample_grid("x", torch.zeros(1, 3, 4, 4), 1)
                    run.snapshot("net", net, "linear", {})
        return run

    run = once(4)
    out = capsys.readouterr().out
    assert "samples x-000000002.png not written" in out and "cannot write snapshot" in out
    assert steps_in(run) == [2, 4] and run.finished
    full.add(6)
    with pytest.raises(DiskError, match="cannot write snapshot"):
        once(7)
    assert steps_in(run) == [4, 6] and status(run)["exit_code"] == 7
    full.clear()
    assert steps_in(once(7)) == [6, 7]


def test_a_file_size_limit_and_the_run_goes_on(tmp_path, capsys):
    """F3 with a real limit: files above 20 kB cannot be written for a while."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(run, step, loss):
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000 if 5 <= step < 11 else soft, hard))
        return loss

    try:
        run = train(toy_args(tmp_path, width=800), hook=limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    out = capsys.readouterr().out
    assert "cannot save step 10" in out and os.strerror(errno.EFBIG) in out
    assert "keeping step 5" in out and run.finished and steps_in(run) == [35, 40]


@pytest.mark.parametrize(
    "error, word",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "in step 6"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate"),
            "",
        ),
        (MemoryError(), "lower --spi"),
        (
            RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed. "),
            "--num_workers (0)",
        ),
    ],
)
def test_out_of_memory(tmp_path, error, word):
    def boom(run, step, loss):
        if step == 6:
            raise error
        return loss

    with pytest.raises(OutOfMemory) as caught:
        train(toy_args(tmp_path, run_dir=str(tmp_path / "r")), hook=boom)
    assert caught.value.exit_code == 8 and word in str(caught.value)
    found = json.loads((tmp_path / "r" / "status.json").read_text())
    assert found["exit_code"] == 8 and found["step"] == 6
    assert checkpoint.steps_of(tmp_path / "r" / "checkpoints") == [5]  # none from half a step


# --------------------------------------------------------------------------------------- preemption


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGTERM], [signal.SIGUSR1], [signal.SIGINT], [signal.SIGUSR1, signal.SIGTERM]],
)
def test_a_signal_saves_the_step_and_skips_the_closing_code(tmp_path, capsys, signals):
    closing = []
    with exits(75):
        train(toy_args(tmp_path, run_dir=str(tmp_path / "r")), signals={7: signals})
        closing.append(1)
    found = json.loads((tmp_path / "r" / "status.json").read_text())
    assert found["state"] == "preempted" and found["wants_requeue"] and found["step"] == 8
    assert checkpoint.steps_of(tmp_path / "r" / "checkpoints") == [5, 8] and not closing
    name = signals[0].name
    assert f"{name}: state of step 8 is saved; run the same command" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # given back


def test_a_signal_during_a_save(tmp_path, monkeypatch):
    fsync, sent = os.fsync, []

    def shoot(fd):
        if not sent and ".tmp-step-000000010" in os.readlink(f"/proc/self/fd/{fd}"):
            sent.append(1)
            for signum in (signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM):
                signal.raise_signal(signum)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", shoot)
    with exits(75):
        train(toy_args(tmp_path, run_dir=str(tmp_path / "r")))
    assert sent and harness.committed(tmp_path / "r") == 10


def test_a_signal_in_the_last_step_is_a_finished_run(tmp_path):
    assert train(toy_args(tmp_path), signals={39: [signal.SIGTERM]}).finished


def test_a_signal_before_the_first_step(tmp_path):
    with exits(75), open_run(toy_args(tmp_path, run_dir=str(tmp_path / "r"))) as run:
        signal.raise_signal(signal.SIGTERM)
        run.restore()
        for _ in run.steps(3):
            pytest.fail("a step was taken")
    assert json.loads((tmp_path / "r" / "status.json").read_text())["state"] == "preempted"


def test_a_long_phase_is_left_at_once_and_the_last_step_saved(tmp_path):
    def search(run, step, loss):
        if step == 7:
            signal.raise_signal(signal.SIGTERM)
            run.check_preempted()
            pytest.fail("still searching")
        run.check_preempted()
        return loss

    args = toy_args(tmp_path, run_dir=str(tmp_path / "r"))
    with exits(75):
        train(args, hook=search)
    assert harness.committed(tmp_path / "r") == 7


def test_after_an_update_the_turn_is_finished_first(tmp_path):
    with exits(75), open_run(toy_args(tmp_path, run_dir=str(tmp_path / "r"))) as run:
        net, optimizer = linear(run)
        for step in run.steps(9):
            run.backward(net(torch.ones(1, 3)).sum())
            run.step(optimizer)
            if step == 2:
                signal.raise_signal(signal.SIGTERM)
            run.check_preempted()  # does nothing now
            reached = step
    assert reached == 2 and harness.committed(tmp_path / "r") == 3


def test_no_progress_in_three_launches_is_not_worth_a_fourth(tmp_path, capsys):
    for _ in range(3):
        with exits(75), open_run(toy_args(tmp_path, run_dir=str(tmp_path / "r"))) as run:
            signal.raise_signal(signal.SIGTERM)
            run.restore()
            next(run.steps(3))
        wanted = json.loads((tmp_path / "r" / "status.json").read_text())["wants_requeue"]
    assert not wanted and "no progress in 3 launches" in capsys.readouterr().out


def test_an_impatient_interrupt_saves_only_what_is_whole(tmp_path):
    def interrupt(at_update):
        with exits(75), open_run(toy_args(tmp_path, run_dir=str(tmp_path / str(at_update)))) as run:
            net, optimizer = linear(run)
            for step in run.steps(9):
                if step == 3 and not at_update:
                    raise KeyboardInterrupt
                run.backward(net(torch.ones(1, 3)).sum())
                run.step(optimizer)
                if step == 3 and at_update:
                    raise KeyboardInterrupt
        return harness.committed(tmp_path / str(at_update))

    assert interrupt(False) == 3
    assert interrupt(True) == 0


# --------------------------------------------------------------------------------- logs and outputs


def test_log_averages_and_never_fetches_between_lines(tmp_path, monkeypatch):
    fetched = []
    for name in ("item", "tolist", "__float__", "cpu"):
        original = getattr(torch.Tensor, name)

        def spy(self, *args, _original=original, _name=name):
            fetched.append(_name)
            return _original(self, *args)

        monkeypatch.setattr(torch.Tensor, name, spy)
    with open_run(toy_args(tmp_path, log_every=4, save_every=100)) as run:
        run.restore()
        for step in run.steps(10):
            fetched.clear()
            run.log(a=torch.tensor(float(step)), b=step)
            run.log(a=torch.tensor([3.0]))
            assert not fetched
    lines = harness.metrics(run.dir)
    assert [line["step"] for line in lines] == [4, 8, 10]
    assert [line["a"] for line in lines] == [(1.5 + 3) / 2, (5.5 + 3) / 2, (8.5 + 3) / 2]
    assert [line["b"] for line in lines] == [1.5, 5.5, 8.5]
    with pytest.raises(UsageError, match="one number"):
        run.log(x=torch.zeros(2))


def test_a_window_cut_by_a_preemption_is_completed(tmp_path):
    args = toy_args(tmp_path, log_every=8)
    with exits(75):
        train(args, signals={12: [signal.SIGTERM]})
    broken = train(args)
    whole = train(toy_args(tmp_path / "b", log_every=8))
    assert harness.metrics(broken.dir) == harness.metrics(whole.dir)


def test_sample_grid_and_snapshot(tmp_path, capsys):
    from PIL import Image

    with open_run(toy_args(tmp_path)) as run:
        net = torch.nn.Linear(2, 2)
        run.restore(net=net)
        for _ in run.steps(3):
            pass
        images = torch.zeros(3, 3, 4, 5)
        images[0, 0], images[2] = 1.0, 2.0  # red; beyond white is white
        path = run.sample_grid("val", images, ncol=2)
        run.log_now(psnr=20.0)
        file = run.snapshot("net", run.compile(net), "linear", {"n": 2}, data="scenes", res=(1, 2))
    assert (
        path == run.dir / "samples" / "val-000000003.png" and str(path) in capsys.readouterr().out
    )
    picture = Image.open(path)
    assert picture.size == (2 * 5 + 2, 2 * 4 + 2)
    assert picture.getpixel((0, 0)) == (255, 0, 0) and picture.getpixel((7, 0)) == (0, 0, 0)
    assert picture.getpixel((0, 6)) == (255, 255, 255)
    assert harness.metrics(run.dir) == [{"step": 3, "psnr": 20.0}]
    snapshot = load_snapshot(file)
    assert torch.equal(snapshot.state_dict["weight"], net.weight) and snapshot.config == {"n": 2}
    origin = snapshot.provenance
    assert origin["step"] == 3 and origin["data"] == "scenes" and origin["res"] == [1, 2]
    assert origin["command"] and origin["run"] == run.dir.name
    for bad in (torch.zeros(3, 4, 5), torch.zeros(0, 3, 4, 4), torch.zeros(1, 2, 4, 4)):
        with pytest.raises(UsageError, match="sample grid"):
            run.sample_grid("bad", bad, ncol=1)


def test_a_compiled_module_keeps_its_names(tmp_path):
    net = torch.nn.Linear(2, 2)
    args = toy_args(tmp_path, compile=True)
    with open_run(args) as run:
        compiled = run.compile(net)
        assert compiled is not net
        run.restore(net=compiled)
        for _ in run.steps(1):
            pass
    with open_run(args) as run:
        other = torch.nn.Linear(2, 2)
        run.restore(net=other)
    assert torch.equal(other.weight, net.weight)


# ------------------------------------------------------------------------------------------- ranks


def ranks_main(root, changes, more):
    """A toy whose rank 1 misbehaves at step 6 if asked to."""
    bad = more.pop("bad", None)

    def hook(run, step, loss):
        if run.rank == 1 and bad == "loss" and step in (6, 7, 8):
            return loss + float("nan")
        if run.rank == 1 and bad == "grad" and step == 6:
            return loss * float("inf") * 0 + loss
        if run.rank == 1 and bad == "signal" and step == 6:
            signal.raise_signal(signal.SIGTERM)
        return loss

    train(toy_args(Path(root), **changes), hook=hook, **more)


def run_ranks(tmp_path, name, more, world=2, **changes):
    """Exit codes of the ranks, and their output."""
    log = tmp_path / f"{name}.txt"
    args = ("unused", {"run_dir": str(tmp_path / name), "total": 12} | changes, more)
    codes = [harness.wait(p, 60) for p in harness.launch_ranks(ranks_main, args, log, world)]
    return codes, log.read_text()


def test_two_ranks_save_and_resume_together(tmp_path):
    codes, out = run_ranks(tmp_path, "a", {})
    assert codes == [0, 0], out
    codes, out = run_ranks(tmp_path, "b", {"bad": "signal"})  # only rank 1 got it
    assert codes == [75, 75], out
    assert harness.committed(tmp_path / "b") == 7
    codes, out = run_ranks(tmp_path, "b", {})
    assert codes == [0, 0] and out.count("resumed step 7") == 1, out
    found = harness.differences(
        harness.final_state(tmp_path / "a"), harness.final_state(tmp_path / "b")
    )
    assert not found, found
    assert len(checkpoint.load_latest(tmp_path / "a" / "checkpoints").state["_run"]["rng"]) == 2
    codes, out = run_ranks(tmp_path, "b", {}, world=1, total=14)
    assert codes == [0] and "world size 2 -> 1" in out, out


def test_one_bad_rank_of_two(tmp_path):
    codes, out = run_ranks(tmp_path, "grad", {"bad": "grad"})
    assert codes == [0, 0], out
    assert out.count("non-finite") == 1 and "(rank 1, samples" in out
    codes, out = run_ranks(tmp_path, "loss", {"bad": "loss"})
    assert codes == [5, 5], out
    assert "skipped 3/3" in out and "non-finite loss (rank 1, samples " in out
    order = toy.Sampler(64, 8)
    batches = [order.next() for _ in range(9)]
    assert f"samples {','.join(map(str, batches[8][1::2]))}, step 8)" in out
    assert harness.committed(tmp_path / "loss") == 5


def test_errors_of_the_first_rank_reach_all(tmp_path):
    codes, out = run_ranks(tmp_path, "a", {}, total=2)
    codes, out = run_ranks(tmp_path, "a", {}, lr=0.5)
    assert codes == [2, 2] and "--lr" in out, out


def test_a_launch_that_could_not_begin_leaves_no_directory(tmp_path):
    """Wrong options or data found after the directory was made: nothing is left of it."""
    run = open_run(toy_args(tmp_path))
    with pytest.raises(UsageError), run:
        made = run.dir
        assert made.is_dir()
        raise UsageError("--num_val_images 9: there are 3 images")
    assert not made.exists()


def test_a_directory_that_was_there_is_kept(tmp_path):
    train(toy_args(tmp_path))
    run = open_run(toy_args(tmp_path))
    with pytest.raises(UsageError), run:
        raise UsageError("no such file")
    assert run.dir.is_dir() and steps_in(run)
