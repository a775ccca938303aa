"""Guidance: the formula, who is evaluated when, labels, and that no device is waited for."""

import math

import pytest
import torch

from diffusion import Precond
from diffusion.guidance import bind, guided
from diffusion.samplers import heun, sigma_levels


class Counting:
    """A denoiser that keeps the levels it was asked at."""

    def __init__(self, value):
        self.value, self.levels = value, []

    def __call__(self, x, sigma, **cond):
        self.levels.append(sigma)
        return x * 0 + self.value + sum(cond.values())


X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("weight", [-1.0, 0.0, 0.5, 1.7, 3.0])
def test_formula(weight):
    main, guide = Counting(2.0), Counting(5.0)
    found = guided(main, guide, weight)(X, torch.tensor(1.0))
    assert torch.allclose(found, torch.full_like(X, 5 + weight * (2 - 5)))


def test_weight_one_never_evaluates_the_guide():
    main, guide = Counting(2.0), Counting(5.0)
    assert guided(main, guide, 1) is main
    assert guided(main, None) is main
    heun(guided(main, guide, 1.0), X, steps=3)
    assert len(main.levels) == 5 and not guide.levels


def test_interval_is_open_below_and_closed_above():
    main, guide = Counting(2.0), Counting(5.0)
    both = guided(main, guide, 2.0, (0.5, 4.0))
    for sigma, inside in ((0.5, False), (0.51, True), (4.0, True), (4.01, False)):
        found = both(X, torch.tensor(sigma))
        assert torch.equal(found, torch.full_like(X, -1.0 if inside else 2.0)), sigma
    assert len(main.levels) == 4 and len(guide.levels) == 2


def test_sampler_evaluates_the_guide_only_inside():
    main, guide = Counting(2.0), Counting(5.0)
    heun(guided(main, guide, 2.0, (0.2, 10.0)), X, steps=16)
    inside = [t for t in sigma_levels(16) if 0.2 < t <= 10.0]
    assert 0 < len(inside) < 15
    assert len(main.levels) == 31 and len(guide.levels) == 2 * len(inside)
    assert {float(s) for s in guide.levels} == {float(torch.tensor(t)) for t in inside}


def test_interval_gives_what_masking_by_hand_gives():
    def denoiser(mean, sd):
        return lambda x, s: (sd**2 * x + s**2 * mean) / (sd**2 + s**2)

    main, guide = denoiser(0.4, 0.5), denoiser(0.1, 0.8)

    def by_hand(x, s):
        weight = 2.3 if 0.3 < float(s) <= 6 else 1.0
        return guide(x, s) + weight * (main(x, s) - guide(x, s))

    found = heun(
        guided(main, guide, 2.3, (0.3, 6.0)), X, steps=12, S_churn=4, randn=torch.ones_like
    )
    expected = heun(by_hand, X, steps=12, S_churn=4, randn=torch.ones_like)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, heun(guided(main, guide, 2.3), X, steps=12), atol=1e-2)


def test_the_level_is_never_read_from_the_device():
    """Sigma tensors that cannot be turned into numbers: the choice must come from the host."""

    class Sealed(torch.Tensor):
        def __float__(self):
            raise AssertionError("the level was read back")

        item = tolist = cpu = __float__

    def seal(f):
        def sealed(x, sigma, **cond):
            return f(x, sigma.as_subclass(Sealed), **cond)

        if hasattr(f, "at"):
            sealed.at = lambda level: seal(f.at(level))
        return sealed

    main, guide = Counting(2.0), Counting(5.0)
    heun(seal(guided(main, guide, 2.0, (0.2, 10.0))), X, steps=8)
    assert main.levels and guide.levels
    with pytest.raises(AssertionError, match="read back"):
        seal(lambda x, s: guided(main, guide, 2.0, (0.2, 10.0))(x, s))(X, torch.tensor(1.0))


def test_one_sigma_a_row():
    sigma = torch.tensor([0.5, 1.0, 4.0, 9.0])
    both = guided(Counting(2.0), Counting(5.0), 2.0, (0.5, 4.0))  # open below, closed above
    expected = torch.tensor([2.0, -1.0, -1.0, 2.0])[:, None].expand(4, 3)
    assert torch.equal(both(X, sigma), expected)
    assert torch.equal(both(X, sigma[:, None, None]), expected)


def test_both_get_the_conditions():
    both = guided(Counting(2.0), Counting(5.0), 2.0)
    assert torch.equal(heun(both, X, steps=1, cond={"shift": 1.0}), torch.zeros_like(X))


@pytest.mark.parametrize(
    ("weight", "interval", "says"),
    [
        (math.nan, None, "weight nan"),
        (math.inf, None, "weight inf"),
        (2.0, (3.0, 1.0), "interval"),
        (2.0, (-1.0, 1.0), "interval"),
        (2.0, (1.0, math.nan), "interval"),
    ],
)
def test_settings_that_cannot_be(weight, interval, says):
    with pytest.raises(ValueError, match=says):
        guided(Counting(0.0), Counting(0.0), weight, interval)


def test_a_missing_guide_is_named():
    with pytest.raises(ValueError, match="needs a guide"):
        guided(Counting(0.0), None, 1.5)


# ------------------------------------------------------------------------------------------ labels


def net(label_dim, seed):
    torch.manual_seed(seed)
    made = Precond(
        8, 2, label_dim, model_channels=8, channel_mult=[1], num_blocks=1, attn_resolutions=[],
        logvar_channels=4, channels_per_head=8,
    ).eval().requires_grad_(False)  # fmt: skip
    for p in made.parameters():
        if p.ndim == 0:  # gains, 0 at first: labels and noise level would have no influence
            p.fill_(1.0)
    return made


def test_bind_fixes_the_labels():
    conditional, unconditional = net(5, 0), net(0, 1)
    x, sigma = torch.randn(3, 2, 8, 8), torch.tensor(0.7)
    labels = torch.eye(5)[[0, 3, 4]]
    with_labels = conditional(x, sigma, labels)
    without = conditional(x, sigma)
    assert not torch.allclose(with_labels, without, atol=1e-4)
    assert torch.equal(bind(conditional, labels)(x, sigma), with_labels)
    assert torch.equal(bind(conditional)(x, sigma), without)
    # a guide without classes takes the same labels and passes over them
    assert torch.equal(bind(unconditional, labels)(x, sigma), unconditional(x, sigma))
    found = guided(bind(conditional, labels), bind(conditional), 1.5)(x, sigma)
    assert torch.allclose(found, without + 1.5 * (with_labels - without), atol=1e-5)
    assert bind(conditional, labels[:1])(x, sigma).shape == x.shape


def test_labels_of_another_net_are_refused():
    with pytest.raises(ValueError, match=r"\[3, 7\] do not fit a net of 5 classes"):
        bind(net(5, 0), torch.zeros(3, 7))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_two_streams_change_nothing():
    main, guide = net(5, 0).cuda(), net(0, 1).cuda()
    for n in (main, guide):
        n.compute_dtype = torch.float32
    x = torch.randn(4, 2, 8, 8, device="cuda")
    labels = torch.eye(5, device="cuda")[:4]
    one, two = (
        heun(guided(bind(main, labels), bind(guide), 2.0, (0.1, 20), two_streams=flag), x)
        for flag in (False, True)
    )
    assert torch.allclose(one, two, atol=1e-4)
