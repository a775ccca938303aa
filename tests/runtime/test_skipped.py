"""Updates that are not made: a run in which none was is not finished, and a draw that sees nothing
is one of those that count."""

import pytest
import torch

from storage.errors import NonFiniteError
from tests.runtime.runs import linear, status, steps_in
from tests.runtime.toy import open_run, toy_args

pytestmark = pytest.mark.usefixtures("one_thread", "no_fsync")


def bad_steps(tmp_path, total, bad, **changes):
    """A run whose loss is NaN in the steps `bad`."""
    with open_run(toy_args(tmp_path, total=total, **changes)) as run:
        net, optimizer = linear(run)
        for step in run.steps(total):
            loss = net(torch.ones(1, 3)).sum()
            run.backward(loss * float("nan") if step in bad else loss)
            run.step(optimizer)
    return run


@pytest.mark.parametrize("total", [1, 2])
def test_a_short_run_of_skipped_steps_is_not_finished(tmp_path, total):
    with pytest.raises(NonFiniteError, match=f"none of the {total} step"):
        bad_steps(tmp_path, total, range(total))
    (folder,) = (tmp_path / "toy").iterdir()
    assert not any((folder / "checkpoints").glob("step-*"))


def test_a_run_that_was_updated_is_finished_though_its_last_steps_were_skipped(tmp_path):
    run = bad_steps(tmp_path, 4, (2, 3))
    assert steps_in(run) == [4] and status(run)["state"] == "finished"


def test_a_draw_that_sees_nothing_counts(tmp_path, capsys):
    """No update in such a step, though the loss is finite; three of them end the run."""
    with pytest.raises(NonFiniteError, match="the reference") as caught:
        with open_run(toy_args(tmp_path, total=9)) as run:
            net, optimizer = linear(run)
            for step in run.steps(9):
                run.spoil(
                    torch.tensor(step > 1), "scores of the selection", "look at the reference"
                )
                before = net.weight.clone()
                run.backward(net(torch.ones(1, 3)).sum())
                assert run.step(optimizer) == (step <= 1)
                assert torch.equal(net.weight, before) == (step > 1)
    assert caught.value.exit_code == 5 and run.completed == 4
    assert "non-finite scores of the selection (rank 0, step 2); skipped 1/3" in (
        capsys.readouterr().out
    )
