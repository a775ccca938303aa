"""Heun's sampler against the probability-flow ODE's exact solution, and random numbers of seeds."""

import math

import pytest
import torch

from diffusion.samplers import SeedStack, heun, sigma_levels

SD = 0.5


def gaussian(mean=0.3, sd=SD):
    """The ideal denoiser of N(mean, sd^2)."""
    return lambda x, s: (sd**2 * x + s**2 * mean) / (sd**2 + s**2)


def exact(noise, mean=0.3, sd=SD, sigma_max=80.0):
    """Where the flow takes noise * sigma_max: (x - mean) scales as sqrt(sd^2 + sigma^2)."""
    return mean + (noise * sigma_max - mean) * sd / math.sqrt(sd**2 + sigma_max**2)


def noise(n=64, seed=0, dtype=torch.float64):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_levels_are_those_of_the_formula():
    levels = sigma_levels()
    assert len(levels) == 33 and levels[-1] == 0
    assert levels[:4] == pytest.approx([80, 66.93, 55.74, 46.19], abs=5e-3)
    assert levels[-4:-1] == pytest.approx([0.0085, 0.0043, 0.0020], abs=1e-4)
    assert sigma_levels(1) == pytest.approx([80, 0])
    assert sigma_levels(3, 1, 9, 1) == pytest.approx([9, 5, 1, 0])


def test_second_order_convergence_to_the_exact_flow():
    x = noise()
    errors = []
    for steps in (32, 64, 128):
        found = heun(gaussian(), x, steps=steps, sigma_min=0.02)
        errors.append((found - exact(x)).abs().max().item())
    # the last step, sigma_min -> 0, is Euler's, but its error is of order sigma_min^2 here
    assert errors[0] / errors[1] > 3 and errors[1] / errors[2] > 3
    assert errors[2] < 2e-4


def test_number_and_arguments_of_the_evaluations():
    seen = []

    def denoise(x, sigma, *, label):
        assert label == "cat" and x.shape == (2, 3)
        assert sigma.ndim == 0 and sigma.dtype == x.dtype
        seen.append(float(sigma))
        return 0 * x

    out = heun(denoise, noise(2), steps=5, cond={"label": "cat"})
    levels = sigma_levels(5)
    assert len(seen) == 2 * 5 - 1
    assert seen == pytest.approx([v for t in levels[:-1] for v in (t, t)][1:])
    assert out.abs().max() == 0  # a denoiser that says 0 leads there exactly


def test_trajectory_begins_with_the_noise_and_ends_with_the_samples():
    x = noise(4)
    states = heun(gaussian(), x, steps=6, trajectory=True)
    assert states.shape == (7, 4, 3)
    assert torch.allclose(states[0], 80 * x)
    assert torch.equal(states[-1], heun(gaussian(), x, steps=6))


def test_churn_keeps_the_distribution_and_raises_the_level():
    seen = []
    main = gaussian()

    def denoise(x, sigma):
        seen.append(float(sigma))
        return main(x, sigma)

    generator = torch.Generator().manual_seed(1)
    draws = []

    def randn(x):
        draws.append(torch.randn(x.shape, generator=generator, dtype=x.dtype))
        return draws[-1]

    x = noise(4000)
    options = dict(steps=40, S_churn=20, S_min=0.05, S_max=50, randn=randn)
    found = heun(denoise, x, **options)
    levels = sigma_levels(40)
    inside = [0.05 <= t <= 50 for t in levels[:-1]]
    assert len(draws) == sum(inside)  # none drawn outside [S_min, S_max]
    for t, t_hat, churned in zip(levels, seen[::2], inside, strict=False):
        assert t_hat == pytest.approx(t * 1.4142135623730951 if churned else t)  # 20/40 is clamped
    # 12000 numbers of N(0.3, 0.5^2): standard errors 0.0046 and 0.0032; the allowance for the
    # discretisation is of the same size
    assert found.mean().item() == pytest.approx(0.3, abs=0.02)
    assert found.std().item() == pytest.approx(SD, abs=0.02)

    # most of the starting noise is forgotten, which a deterministic sampler never does
    def tie(y):
        return torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1].item()

    assert tie(found) < 0.5 and tie(heun(main, x, steps=40)) > 0.999


def test_levels_at_the_ends_of_the_churn_interval_belong_to_it():
    draws, level = [], sigma_levels(8)[3]
    heun(
        gaussian(), noise(2), steps=8, S_churn=8, S_min=level, S_max=level,
        randn=lambda x: draws.append(x) or torch.zeros_like(x),
    )  # fmt: skip
    assert len(draws) == 1


def test_noise_of_churn_is_scaled():
    ones = torch.ones(1, 1, dtype=torch.float64)
    states = heun(
        lambda x, s: x, ones, steps=2, S_churn=0.2, S_noise=3, randn=torch.ones_like,
        trajectory=True,
    )  # fmt: skip
    # D = x leaves x alone, so the state only moves by the noise; level 2 is sigma_min
    first = 80 + 3 * 80 * math.sqrt(1.1**2 - 1)
    assert states[1].item() == pytest.approx(first)
    assert states[2].item() == pytest.approx(first + 3 * 0.002 * math.sqrt(1.1**2 - 1))


def test_state_type():
    x = noise(8, dtype=torch.float32)
    assert heun(gaussian(), x).dtype == torch.float32
    wide = heun(gaussian(), x, dtype=torch.float64)
    assert wide.dtype == torch.float64
    assert torch.allclose(wide.float(), heun(gaussian(), x), atol=1e-5)
    seen = set()

    def denoise(x, sigma):
        seen.add((x.dtype, sigma.dtype))
        return 0 * x

    assert heun(denoise, x.bfloat16()).dtype == torch.float32
    assert seen == {(torch.bfloat16, torch.bfloat16)}


def test_no_graph_is_kept():
    weight = torch.ones((), requires_grad=True)
    assert not heun(lambda x, s: weight * x, noise(2), steps=2).requires_grad


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"steps": 0}, "at least 1 step"),
        ({"sigma_min": 0}, "sigma_min 0"),
        ({"sigma_min": 3, "sigma_max": 2}, "sigma_max 2"),
        ({"sigma_max": math.inf}, "inf"),
        ({"rho": 0}, "rho 0"),
        ({"rho": 1e-300}, "rho 1e-300"),
        ({"rho": 0.01}, "rho 0.01"),  # sigma_min ** 100 is 0
        ({"sigma_min": 1e-300}, "sigma_min 1e-300"),
        ({"sigma_max": 1e300}, "sigma_max 1e\\+300"),
        ({"S_churn": -1}, "S_churn -1"),
        ({"S_noise": math.nan}, "nan"),
    ],
)
def test_settings_that_cannot_be(options, says):
    with pytest.raises(ValueError, match=says):
        heun(gaussian(), noise(2), **options)


def test_a_denoiser_that_changes_shapes_is_named():
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        heun(lambda x, s: x[:1], noise(2))
    with pytest.raises(ValueError, match="floating"):
        heun(gaussian(), torch.zeros(2, 3, dtype=torch.int64))


# ------------------------------------------------------------------------------------------- seeds


def draw(seeds, device="cpu"):
    stack = SeedStack(seeds, device)
    x = stack.randn(3, 4, 4)
    return x, stack.randint(1000), stack.randn_like(x), stack.randint(2)


def test_rows_depend_on_their_seed_alone():
    together = draw([5, 0, 123, 7])
    alone = draw([123])
    other = draw([9, 123])
    for a, b, c in zip(together, alone, other, strict=True):
        assert torch.equal(a[2], b[0]) and torch.equal(a[2], c[1])
    assert not torch.equal(together[0][0], together[0][1])


def test_a_seed_is_a_torch_generator():
    x, label, again, _ = draw([42])
    g = torch.Generator().manual_seed(42)
    assert torch.equal(x[0], torch.randn(3, 4, 4, generator=g))
    assert label[0] == torch.randint(1000, (), generator=g)
    assert torch.equal(again[0], torch.randn(3, 4, 4, generator=g))
    assert torch.equal(draw([42 + 2**32])[0], x) and torch.equal(draw([42 - 2**32])[0], x)
    assert label.dtype == torch.int64


def test_samples_do_not_depend_on_the_batch():
    def sample(seeds):
        stack = SeedStack(seeds)
        return heun(gaussian(), stack.randn(3), steps=8, S_churn=8, randn=stack.randn_like)

    assert torch.equal(sample([1, 2, 3])[1:], sample([2, 3]))


def test_wrong_uses():
    stack = SeedStack([1, 2])
    with pytest.raises(ValueError, match="2 seeds"):
        stack.randn_like(torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"\[0, 0\)"):
        stack.randint(0)
    assert SeedStack([]).randn(3).shape == (0, 3)
