from __future__ import annotations

import json
import math

import numpy as np
import pytest

from selection import EarlyLateSwitch


def first_change(switch: EarlyLateSwitch, differences) -> int | None:
    """Number of the observation that changed sides."""
    for i, x in enumerate(differences, 1):
        if switch.observe(x):
            return i
    return None


def by_formula(xs: np.ndarray, half_life: float) -> tuple[float, float]:
    """Mean and standard error as the docstring has them, from the whole history."""
    w = 0.5 ** (np.arange(len(xs))[::-1] / half_life)
    mean = (w * xs).sum() / w.sum()
    variance = (w[1:] * np.diff(xs) ** 2).sum() / (2 * w[1:].sum())
    return mean, math.sqrt(variance * (w**2).sum()) / w.sum()


def test_running_sums_are_the_formula():
    rng = np.random.default_rng(0)
    xs = 3 + 0.01 * np.arange(300) + rng.standard_normal(300)
    switch = EarlyLateSwitch("early", half_life=20)
    assert math.isnan(switch.mean) and math.isnan(switch.error)
    for i, x in enumerate(xs, 1):
        switch.observe(x)
        if i > 1:
            mean, error = by_formula(xs[:i], 20)
            assert switch.mean == pytest.approx(mean, rel=1e-12)
            assert switch.error == pytest.approx(error, rel=1e-12)


def test_early_then_off_for_good():
    switch = EarlyLateSwitch("early")
    assert switch.selecting and switch.waiting
    rng = np.random.default_rng(0)
    for _ in range(200):
        assert not switch.observe(1 + rng.standard_normal(), nimg=1, step=1)
    assert switch.selecting and switch.waiting and switch.change_step == switch.change_nimg == 0
    for step in range(200, 1000):
        if switch.observe(-1 + rng.standard_normal(), nimg=step * 100, step=step):
            break
    assert not switch.selecting and not switch.waiting
    assert switch.change_step == step and switch.change_nimg == step * 100 and 200 < step < 350
    for _ in range(500):  # worse again: nothing more happens
        assert not switch.observe(50.0, nimg=7, step=7)
    assert not switch.selecting and switch.change_step == step


def test_late_then_on_for_good():
    switch = EarlyLateSwitch("late")
    assert not switch.selecting and switch.waiting
    assert first_change(switch, [-1.0] * 100) == switch.min_observations == 32
    assert switch.selecting and not switch.waiting
    assert first_change(switch, [5.0] * 100) is None and switch.selecting


@pytest.mark.parametrize("selecting", [True, False])
def test_without_a_mode_nothing_changes(selecting):
    switch = EarlyLateSwitch(None, selecting=selecting)
    assert switch.selecting is selecting and not switch.waiting
    assert first_change(switch, [-1e9] * 100) is None
    assert switch.selecting is selecting and switch.observations == 0


def test_one_noisy_round_is_not_enough():
    """The Autoguided code's rule, mean below zero once, would switch at once."""
    rng = np.random.default_rng(1)
    xs = 0.2 + rng.standard_normal(5000)
    assert (xs[:50] < 0).any()
    assert first_change(EarlyLateSwitch("early"), xs) is None


def test_false_switches_on_noise_about_zero():
    """Runs of 4000 steps without any difference: nearly none switches; with z = 3 many do."""
    rng = np.random.default_rng(2)
    runs = rng.standard_normal((60, 4000))
    strict = sum(first_change(EarlyLateSwitch("early"), run) is not None for run in runs)
    loose = sum(first_change(EarlyLateSwitch("early", z=3), run) is not None for run in runs)
    # expected: 0.04 of 60 and about 22 of 60
    assert strict <= 1
    assert 10 <= loose <= 40


@pytest.mark.parametrize(("d", "least", "most"), [(0.5, 50, 200), (1.0, 32, 45), (3.0, 32, 32)])
def test_detection_delay(d, least, most):
    """A mean d deviations below zero is found in about (z / d)^2 = (5 / d)^2 steps."""
    rng = np.random.default_rng(3)
    delays = [
        first_change(EarlyLateSwitch("early"), run - d) for run in rng.standard_normal((60, 1000))
    ]
    assert None not in delays and least <= np.median(delays) <= most


def test_a_learner_that_catches_up_is_found_soon_after():
    """Difference 2 exp(-t / 300) - 0.5 with noise 0.5: zero at t = 416."""
    rng = np.random.default_rng(4)
    t = np.arange(3000)
    found = [
        first_change(
            EarlyLateSwitch("early"),
            2 * np.exp(-t / 300) - 0.5 + 0.5 * rng.standard_normal(len(t)),
        )
        for _ in range(40)
    ]
    assert None not in found and min(found) > 416 and np.median(found) < 416 + 300


def test_exact_differences_need_no_noise():
    assert first_change(EarlyLateSwitch("early"), [0.0] * 500) is None
    assert first_change(EarlyLateSwitch("early"), [-1e-9] * 500) == 32


def test_values_that_are_not_finite_are_left_out():
    rng = np.random.default_rng(5)
    xs = (rng.standard_normal(200) - 0.6).tolist()
    clean = EarlyLateSwitch("early")
    at = first_change(clean, xs)
    assert at is not None
    dirty, changed = EarlyLateSwitch("early"), None
    for i, x in enumerate(xs, 1):
        for bad in (math.nan, math.inf, -math.inf):
            assert not dirty.observe(bad)
        if dirty.observe(x):
            changed = i
            break
    assert changed == at and dirty.mean == clean.mean


@pytest.mark.parametrize("mode", ["early", "late"])
@pytest.mark.parametrize("cut", [0, 1, 2, 40, 150])
def test_saved_and_restored_it_goes_on_exactly(mode, cut):
    rng = np.random.default_rng(6)
    xs = np.concatenate([rng.standard_normal(100) + 0.5, rng.standard_normal(400) - 0.6])
    whole = EarlyLateSwitch(mode)
    changes = [whole.observe(x, nimg=8 * i, step=i) for i, x in enumerate(xs)]
    first = EarlyLateSwitch(mode)
    start = [first.observe(x, nimg=8 * i, step=i) for i, x in enumerate(xs[:cut])]
    state = json.loads(json.dumps(first.state_dict()))  # numbers and strings, nothing else
    second = EarlyLateSwitch(mode)
    second.load_state_dict(state)
    assert second.state_dict() == first.state_dict()
    rest = [second.observe(x, nimg=8 * i, step=i) for i, x in enumerate(xs) if i >= cut]
    assert start + rest == changes and sum(changes) == 1
    assert second.state_dict() == whole.state_dict()
    assert second.change_step == changes.index(True)


def test_state_of_another_test_is_refused():
    state = EarlyLateSwitch("early").state_dict()
    for other in (EarlyLateSwitch("late"), EarlyLateSwitch("early", z=3)):
        with pytest.raises(ValueError, match="was saved with (mode early|z 5.0), here it is"):
            other.load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(mode="sometimes"), "'sometimes' is not one of: early, late, None"),
        (dict(mode="early", half_life=0), "half_life 0 must be positive"),
        (dict(mode="early", z=-1), "z -1 not negative"),
        (dict(mode="early", min_observations=1), "min_observations 1 is below 2"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        EarlyLateSwitch(**arguments)
