"""How steps are drawn: frequencies, the history of losses, ranks."""

import math

import pytest
import torch

from diffusion.rows import row_keys
from diffusion.schedule_sampler import LossSecondMoment, UniformSampler, schedule_sampler
from runtime import distributed
from tests import gloo

CPU = torch.device("cpu")


def keys(n, step=0, first=0, stride=1):
    return row_keys(7, step, first, stride, n, CPU)


def test_uniform():
    t, weight = UniformSampler(10).sample(keys(20000))
    share = torch.bincount(t, minlength=10) / 20000
    assert (share - 0.1).abs().max() < 4.5 * math.sqrt(0.09 / 20000)
    assert torch.equal(weight, torch.ones(20000))
    assert UniformSampler(1).sample(keys(5))[0].tolist() == [0] * 5


def warm(T=4, history=3):
    sampler = LossSecondMoment(T, history=history, uniform_prob=0.1)
    for i in range(history):
        sampler.update(torch.arange(T), torch.arange(1.0, T + 1) * (i + 1))
    return sampler


def test_steps_come_in_proportion_to_the_root_of_the_mean_square():
    sampler = LossSecondMoment(4, history=3, uniform_prob=0.1)
    assert torch.equal(sampler.probabilities(), torch.full((4,), 0.25, dtype=torch.float64))
    sampler = warm()
    p = 0.9 * torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64) + 0.1 / 4
    assert torch.allclose(sampler.probabilities(), p)
    t, weight = sampler.sample(keys(20000))
    share = torch.bincount(t, minlength=4) / 20000
    assert (share - p).abs().max() < 4.5 * math.sqrt(0.25 / 20000)
    assert torch.allclose(weight.double(), 1 / (4 * p[t]), rtol=1e-6)
    # so a weighted mean over draws is one over all steps
    loss = torch.tensor([5.0, 1.0, 2.0, 8.0])
    assert (weight * loss[t]).mean().item() == pytest.approx(4.0, abs=0.15)


def test_the_oldest_loss_leaves_and_what_is_not_finite_does_not_enter():
    sampler = LossSecondMoment(2, history=2)
    for loss in (1.0, 2.0, 3.0, math.nan, math.inf):
        sampler.update(torch.tensor([1]), torch.tensor([loss]))
    assert sampler.losses.tolist() == [[0, 0], [2, 3]] and sampler.counts.tolist() == [0, 2]
    assert not sampler.warmed_up
    zero = LossSecondMoment(2, history=1)
    zero.update(torch.tensor([0, 1]), torch.zeros(2))
    assert torch.equal(zero.probabilities(), torch.full((2,), 0.5, dtype=torch.float64))


def test_state_goes_on_where_it_was():
    ours, other = warm(), LossSecondMoment(4, history=3, uniform_prob=0.1)
    other.load_state_dict(ours.state_dict())
    for sampler in (ours, other):
        sampler.update(torch.tensor([2, 2]), torch.tensor([9.0, 1.0]))
    assert torch.equal(ours.weights(), other.weights())
    assert all(map(torch.equal, ours.sample(keys(50)), other.sample(keys(50))))
    with pytest.raises(ValueError, match="of 4 steps"):
        LossSecondMoment(5).load_state_dict(ours.state_dict())
    with pytest.raises(ValueError, match="history of 3"):
        LossSecondMoment(4).load_state_dict(ours.state_dict())


def _train(steps, batch):
    """A few updates whose losses follow from the rows; what the last step draws, and the state."""
    rank, world = distributed.rank(), distributed.world_size()
    sampler = LossSecondMoment(3, history=2)
    for step in range(steps):
        mine = keys(batch // world, step, rank, world)
        t, weight = sampler.sample(mine)
        sampler.update(t, (mine % 1000).abs().float())
    return distributed.interleave(t), distributed.interleave(weight), sampler.state_dict()


def test_two_processes_are_one():
    t, weight, state = _train(6, 8)
    for other_t, other_weight, other in gloo.run(2, _train, 6, 8):
        assert torch.equal(other_t, t) and torch.equal(other_weight, weight)
        assert torch.equal(other["losses"], state["losses"])
        assert torch.equal(other["counts"], state["counts"])
    assert state["counts"].sum() > 4


def test_wrong_uses():
    assert type(schedule_sampler("uniform", 3)) is UniformSampler
    assert type(schedule_sampler("loss-second-moment", 3)) is LossSecondMoment
    with pytest.raises(ValueError, match="'fast'"):
        schedule_sampler("fast", 3)
    with pytest.raises(ValueError, match="not 0"):
        UniformSampler(0)
    with pytest.raises(ValueError, match="history 0"):
        LossSecondMoment(3, history=0)
    with pytest.raises(ValueError, match="do not fit"):
        LossSecondMoment(3).update(torch.tensor([1, 2]), torch.tensor([1.0]))
