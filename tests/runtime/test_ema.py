"""EMA against closed forms."""

import copy

import numpy as np
import pytest
import torch

from runtime import ema


def scalar_net(value=0.0):
    net = torch.nn.Module()
    net.w = torch.nn.Parameter(torch.tensor([value], dtype=torch.float64))
    return net


def test_constant_is_the_geometric_sum():
    net, rng = scalar_net(1.0), np.random.default_rng(0)
    average, values = ema.EMA(net, 0.9), rng.normal(size=20)
    for i, v in enumerate(values):
        net.w.data.fill_(v)
        assert average.update(net, 4 * (i + 1), 4) == 0.9
    weights = 0.1 * 0.9 ** np.arange(19, -1, -1)
    expected = 0.9**20 * 1.0 + (weights * values).sum()
    assert average.module.w.item() == pytest.approx(expected, rel=1e-12)


def test_half_life_halves_whatever_the_batch():
    # The network jumps from 1 to 0; after one half-life of images 1/2 is left.
    for batch in (1, 10, 50):
        net = scalar_net(1.0)
        average = ema.EMA(net, ema.half_life(100, ramp=None))
        net.w.data.zero_()
        for i in range(100 // batch):
            average.update(net, 1000 + batch * (i + 1), batch)
        assert average.module.w.item() == pytest.approx(0.5, rel=1e-12)


def test_half_life_ramps_up_with_images_seen():
    beta = ema.half_life(1000, ramp=0.05)
    assert beta(200, 10) == 0.5 ** (10 / 10)  # 5 % of 200 images
    assert beta(20_000, 10) == 0.5 ** (10 / 1000)
    assert beta(10**6, 10) == 0.5 ** (10 / 1000)
    assert beta(10, 10) < 1e-5  # the initial weights are forgotten at once


@pytest.mark.parametrize(
    ("std", "gamma"), [(0.005, 196.9975), (0.05, 16.97220), (0.10, 6.93720), (0.25, 0.71982)]
)
def test_power_exponent(std, gamma):
    assert ema.power_exponent(std) == pytest.approx(gamma, abs=2e-4)
    assert ema.power_std(ema.power_exponent(std)) == pytest.approx(std, rel=1e-9)


def test_power_average_is_the_weighted_sum_of_the_profile():
    # Unrolled: value i has weight t_i^(g+1) - t_(i-1)^(g+1) over t_n^(g+1), for any batch sizes.
    rng = np.random.default_rng(1)
    batches, values = rng.integers(1, 9, size=30), rng.normal(size=30)
    t = np.concatenate([[0], np.cumsum(batches)]).astype(float)
    g = ema.power_exponent(0.1)
    net = scalar_net(123.0)  # the initial weights must leave no trace
    average = ema.EMA(net, ema.power(0.1))
    for i, v in enumerate(values):
        net.w.data.fill_(v)
        average.update(net, t[i + 1], batches[i])
    weights = np.diff((t / t[-1]) ** (g + 1))
    assert weights.sum() == pytest.approx(1)
    assert average.module.w.item() == pytest.approx((weights * values).sum(), rel=1e-11)


def test_power_profile_has_its_width():
    n = 4000
    net = scalar_net()
    average = ema.EMA(net, ema.power(0.1))
    second = ema.EMA(net, ema.power(0.1))
    for i in range(1, n + 1):  # the averages of t and t^2 under the profile
        net.w.data.fill_(i / n)
        average.update(net, i, 1)
        net.w.data.fill_((i / n) ** 2)
        second.update(net, i, 1)
    mean, square = average.module.w.item(), second.module.w.item()
    assert (square - mean**2) ** 0.5 == pytest.approx(0.1, rel=2e-3)


def test_first_power_update_copies_exactly():
    net = torch.nn.Linear(3, 2)
    average = ema.EMA(net, ema.power(0.05))
    with torch.no_grad():
        net.weight.normal_()
    average.update(net, 8, 8)
    assert torch.equal(average.module.weight, net.weight)


def test_equal_weights_stay_bit_equal():
    net = torch.nn.Linear(50, 50)
    average = ema.EMA(net, 0.999)
    for i in range(5):
        average.update(net, i + 1, 1)
    assert torch.equal(average.module.weight, net.weight)


def test_buffers_are_copied_and_half_precision_is_widened():
    net = torch.nn.Sequential(torch.nn.Linear(2, 2).bfloat16(), torch.nn.BatchNorm1d(2))
    torch.nn.init.ones_(net[0].weight)
    average = ema.EMA(net, 0.9999)
    assert average.module[0].weight.dtype == torch.float32
    with torch.no_grad():
        net[0].weight.fill_(2)
        net[1].running_mean.fill_(7)
        net[1].num_batches_tracked.fill_(3)
    average.update(net, 1, 1)
    # In bf16 the next number after 1 is 1.0078: this step would be lost.
    moved = average.module[0].weight
    torch.testing.assert_close(moved, torch.full_like(moved, 1.0001), rtol=1e-6, atol=0)
    assert average.module[1].running_mean.tolist() == [7, 7]
    assert average.module[1].num_batches_tracked.item() == 3


def test_the_copy_is_for_evaluation_and_its_own():
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout())
    average = ema.EMA(net, 0.5)
    assert not average.module.training and net.training
    assert not any(p.requires_grad for p in average.module.parameters())
    assert all(p.requires_grad for p in net.parameters())
    average.update(net, 1, 1)
    assert average.module[0].weight.data_ptr() != net[0].weight.data_ptr()


def test_state_round_trip_goes_on_bit_equal():
    net = torch.nn.Linear(4, 4)
    first = ema.EMA(net, ema.power(0.1))
    for i in range(3):
        with torch.no_grad():
            net.weight.normal_()
        first.update(net, i + 1, 1)
    state = copy.deepcopy(first.state_dict())
    second = ema.EMA(torch.nn.Linear(4, 4), ema.power(0.1))
    second.load_state_dict(state)
    for average in (first, second):
        average.update(net, 4, 1)
    assert torch.equal(first.module.weight, second.module.weight)
    assert second.updates == 4
    with pytest.raises(RuntimeError):
        ema.EMA(torch.nn.Linear(3, 3), 0.5).load_state_dict(state)
    with pytest.raises(KeyError):
        second.load_state_dict({"updates": 1})


@pytest.mark.parametrize(
    "make",
    [
        lambda: ema.constant(1.0),
        lambda: ema.constant(float("nan")),
        lambda: ema.half_life(0),
        lambda: ema.half_life(float("inf"), ramp=None),
        lambda: ema.half_life(float("nan")),
        lambda: ema.half_life(10, ramp=0),
        lambda: ema.power(0),
        lambda: ema.power(0.29),
        lambda: ema.power(float("nan")),
    ],
)
def test_impossible_profiles_are_refused(make):
    with pytest.raises(ValueError, match="EMA"):
        make()


def test_impossible_updates_are_refused():
    net = torch.nn.Linear(2, 2)
    average = ema.EMA(net, 0.5)
    with pytest.raises(ValueError, match="cannot include"):
        average.update(net, 0, 8)
    with pytest.raises(ValueError, match="bias"):
        average.update(torch.nn.Linear(2, 2, bias=False), 8, 8)
