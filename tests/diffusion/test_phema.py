"""Post-hoc EMA against brute-force integrals and averages of a recorded trajectory."""

import numpy as np
import pytest

from diffusion import phema
from runtime.ema import power_exponent


def profile(s, time, gamma):
    return np.where(s <= time, (gamma + 1) / time * (s / time) ** gamma, 0.0)


def test_response_is_the_profile_at_the_snapshots():
    times = np.arange(1, 41)
    weights = phema.response(times, 30.0, 7.0)
    expected = profile(times, 30.0, 7.0)
    np.testing.assert_allclose(weights, expected / expected.sum(), rtol=1e-12)
    both = phema.response(times, [[10.0], [30.0]], [3.0, 7.0])
    assert both.shape == (40, 2, 2)
    np.testing.assert_allclose(both.sum(0), 1)
    np.testing.assert_allclose(both[:, 1, 1], weights)


def test_response_of_sharp_profiles_does_not_overflow():
    weights = phema.response(np.arange(64), 7.0, 197.0)
    assert np.isfinite(weights).all() and weights[8:].sum() == 0


@pytest.mark.parametrize(
    "a, b", [((10, 3), (10, 7)), ((10, 3), (25, 7)), ((25, 3), (10, 7)), ((9, 17), (10, 0.7))]
)
def test_correlation_is_the_inner_product(a, b):
    n = 400_000
    s = (np.arange(n) + 0.5) / n * max(a[0], b[0])  # midpoint rule
    expected = (profile(s, *a) * profile(s, *b)).mean() * max(a[0], b[0])
    assert phema.correlation(*a, *b) == pytest.approx(expected, rel=1e-5)
    assert phema.correlation(*b, *a) == pytest.approx(phema.correlation(*a, *b), rel=1e-12)


def inputs(count=20, stds=(0.05, 0.10), last=1000.0):
    times = np.repeat(np.linspace(last / count, last, count), len(stds))
    return times, np.tile([power_exponent(s) for s in stds], count)


def test_coefficients_are_the_least_squares_fit_on_a_grid():
    times, gammas = inputs(6)
    out = power_exponent(0.07)
    n = 50_000
    s = (np.arange(n) + 0.5) / n * 1000
    basis = np.stack([profile(s, t, g) for t, g in zip(times, gammas, strict=True)], axis=1)
    fit, *_ = np.linalg.lstsq(basis, profile(s, 1000.0, out), rcond=None)
    found = phema.coefficients(times, gammas, 1000.0, out)[:, 0]
    np.testing.assert_allclose(found, fit / fit.sum(), atol=1e-4)
    left = profile(s, 1000.0, out) - basis @ found
    expected = np.sqrt((left**2).sum() / (profile(s, 1000.0, out) ** 2).sum())
    assert phema.mismatch(found[:, None], times, gammas, 1000.0, out)[0] == pytest.approx(
        expected, rel=1e-2
    )


def test_columns_sum_to_one_and_depend_on_relative_times_only():
    times, gammas = inputs()
    outs = [power_exponent(s) for s in (0.03, 0.07, 0.15, 0.25)]
    found = phema.coefficients(times, gammas, 1000.0, outs)
    np.testing.assert_allclose(found.sum(0), 1, rtol=1e-12)
    scaled = phema.coefficients(times * 2**21, gammas, 1000.0 * 2**21, outs)
    np.testing.assert_allclose(found, scaled, atol=1e-9)


def test_an_output_among_the_inputs_is_taken_as_it_is():
    times, gammas = inputs()
    found = phema.coefficients(times, gammas, [500.0, 1000.0], [gammas[0], gammas[1]])
    expected = np.zeros((40, 2))
    expected[18, 0] = expected[39, 1] = 1
    assert np.array_equal(found, expected)
    assert (phema.mismatch(found, times, gammas, [500.0, 1000.0], gammas[:2]) < 1e-7).all()


def test_more_snapshots_come_nearer():
    out = power_exponent(0.07)
    far = []
    for count in (2, 4, 8, 16, 32):
        times, gammas = inputs(count)
        weights = phema.coefficients(times, gammas, 1000.0, out)
        far.append(phema.mismatch(weights, times, gammas, 1000.0, out)[0])
    assert all(a > b for a, b in zip(far, far[1:], strict=False)) and far[-1] < 5e-3


def test_reconstruction_of_a_recorded_trajectory():
    """Truth: float64 averages of every width, tracked over a noisy descent."""
    rng = np.random.default_rng(0)
    steps, every = 2000, 50
    path = np.cumsum(rng.normal(size=(steps, 7)), axis=0) * 0.02 + np.linspace(3, 0, steps)[:, None]

    def average(std, upto):
        # unrolled: value i weighs t_i^(g+1) - t_(i-1)^(g+1)
        edges = (np.arange(upto + 1) / upto) ** (power_exponent(std) + 1)
        return np.diff(edges) @ path[:upto]

    times = np.repeat(np.arange(every, steps + 1, every), 2)
    stds = np.tile([0.05, 0.10], steps // every)
    stored = np.stack([average(s, t) for s, t in zip(stds, times, strict=True)])
    gammas = [power_exponent(s) for s in stds]
    for out_time, std, allowed in [
        (2000, 0.07, 1e-3),
        (2000, 0.15, 2e-3),
        (1500, 0.085, 1e-3),
        (2000, 0.03, 2e-2),  # narrower than anything stored: extrapolation
    ]:
        used = times <= out_time
        weights = phema.coefficients(
            times[used], np.array(gammas)[used], out_time, power_exponent(std)
        )
        truth = average(std, out_time)
        error = np.abs(weights[:, 0] @ stored[used] - truth).max() / np.abs(truth).max()
        assert error < allowed, (out_time, std, error)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (([1, 1], [3, 3], 1, 4), "same time and width"),
        (([0, 1], [3, 3], 1, 4), "times above 0"),
        (([1, 2], [3, 3], -1, 4), "times above 0"),
        (([1, 2], [3, -0.6], 1, 4), "above -0.5"),
        (([], [], 1, 4), "inputs"),
        ((1.0, 3.0, 1, 4), "inputs"),
    ],
)
def test_impossible_inputs(arguments, says):
    with pytest.raises(ValueError, match=says):
        phema.coefficients(*arguments)
