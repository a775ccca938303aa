"""One draw with its settings: what reaches the method, and what it says of itself."""

from __future__ import annotations

import math

import pytest
import torch

from selection import (
    METHODS,
    Method,
    Picker,
    draw_spread,
    jointly_sample_batch,
    random_baseline,
    scaled,
    selection_size,
    sigma_strata,
)

B = 120


def seeded(key: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(key)


def losses() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    learner, ref, sigma = torch.rand(3, B, generator=seeded(1))
    return 48 * learner, 48 * ref, sigma


@pytest.mark.parametrize("scale", ["standardised", "autoguided", "raw", "mean"])
@pytest.mark.parametrize("by_sigma", [False, True])
def test_jest_gets_every_setting(scale, by_sigma):
    learner, ref, sigma = losses()
    picker = Picker(
        method="jest", filter_ratio=0.7, num_chunks=6, rounding="reference", scale=scale, values=48,
        loss_scaling=2.0, batch_gpu_total=60, by_sigma=by_sigma, learnability=False, inverted=True,
        temperature=0.5, first_chunk="scored", normalise=False,
    )  # fmt: skip
    rows, spread = picker.pick(B, learner, ref, sigma, random=seeded())

    strata = sigma_strata(sigma) if by_sigma else None
    both = scaled(
        learner, ref, scale=scale, learnability=False, pixels=48, loss_scaling=2.0,
        batch_gpu_total=60, strata=strata,
    )  # fmt: skip
    how = dict(
        learnability=False, inverted=True, first_chunk="scored", normalise=False,
        rounding="reference", temperature=0.5, strata=strata,
    )  # fmt: skip
    assert torch.equal(rows, jointly_sample_batch(*both, 6, 0.7, generator=seeded(), **how))
    assert spread == draw_spread(*both, 6, 0.7, **how)
    assert len(rows) == picker.size(B) == selection_size(B, 0.7, 6, "reference")
    silent = picker.pick(B, learner, ref, sigma, random=seeded(), spread=False)
    assert torch.equal(silent.rows, rows) and silent.spread is None


def test_random_looks_at_nothing():
    picker = Picker(method="random", filter_ratio=0.7, num_chunks=50, rounding="reference")
    assert not picker.needs_losses and not picker.needs_ref
    rows, spread = picker.pick(B, random=seeded())
    expected = random_baseline(torch.zeros(B), 0.7, rounding="reference", generator=seeded())
    assert torch.equal(rows, expected) and spread is None and len(rows) == picker.size(B)
    bad = torch.full((B,), torch.nan)
    assert torch.equal(picker.pick(B, bad, bad, bad, random=seeded()).rows, rows)


def test_a_method_of_ones_own(monkeypatch):
    def easiest(learner_loss, ref_loss, filter_ratio, *, N, rounding, generator):
        return (
            (ref_loss - learner_loss).topk(selection_size(len(ref_loss), filter_ratio, N)).indices
        )

    monkeypatch.setitem(METHODS, "easiest", Method(easiest, needs_ref=True))
    learner, ref, sigma = losses()
    picker = Picker(method="easiest", scale="raw")
    rows, spread = picker.pick(B, learner, ref, random=seeded())
    assert torch.equal(rows, (ref.double() - learner.double()).topk(24).indices) and spread is None


def test_what_is_missing_is_said():
    learner, ref, _ = losses()
    with pytest.raises(ValueError, match="learner's losses"):
        Picker(method="jest").pick(B, None, ref, random=seeded())
    with pytest.raises(ValueError, match="reference"):
        Picker(method="jest").pick(B, learner, random=seeded())
    with pytest.raises(ValueError, match="needs sigma"):
        Picker(method="jest", by_sigma=True).pick(B, learner, ref, random=seeded())
    with pytest.raises(ValueError, match="keeps no row"):
        Picker(method="random").size(4)


@pytest.mark.parametrize("method, sees", [("jest", True), ("random", False)])
def test_a_draw_is_blind_without_one_finite_score(method, sees):
    picker = Picker(method=method, filter_ratio=0.5, num_chunks=4)
    learner, ref, _ = losses()
    assert not picker.blind(learner, ref)
    one = torch.full_like(ref, math.nan)
    assert bool(picker.blind(learner, one)) == sees
    one[3] = 1.0
    assert not picker.blind(learner, one)
    learner[3] = math.inf
    assert bool(picker.blind(learner, one)) == sees
