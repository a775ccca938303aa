"""Run: the loop, its updates, what it logs and draws."""

import json
import signal
from functools import partial

import pytest
import torch

from runtime import logs
from runtime.progress import Progress
from storage.errors import NonFiniteError, UsageError
from storage.snapshot import load_snapshot
from tests import kill_harness as harness
from tests.runtime import toy
from tests.runtime.runs import exits, linear, status, steps_in
from tests.runtime.toy import open_run, toy_args, train

pytestmark = pytest.mark.usefixtures("one_thread", "no_fsync")

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


def test_a_line_at_a_log_step_and_at_the_end_has_its_own_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(logs, "Progress", partial(Progress, every_s=0))  # a line at every step
    with open_run(toy_args(tmp_path, log_every=2)) as run:
        run.restore()
        for step in run.steps(5):
            run.log(a=step + 1)
    said = [line.split(": step ")[1] for line in capsys.readouterr().err.splitlines()]
    shown = [(line[:3], line.partition(", a ")[2]) for line in said]
    assert shown == [
        ("1/5", ""), ("2/5", "1.5"), ("3/5", "1.5 (at step 2)"), ("4/5", "3.5"), ("5/5", "5"),
    ]  # fmt: skip


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
    assert picture.size == (2 * 160 + 4, 2 * 128 + 4)  # each pixel 32 x 32
    assert picture.getpixel((159, 127)) == (255, 0, 0) and picture.getpixel((164, 0)) == (0, 0, 0)
    assert picture.getpixel((0, 132)) == (255, 255, 255)
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
