"""Learning rates: formula, continuity at a switch, the same with and without selection."""

from __future__ import annotations

import math

import pytest

from diffusion.lr import edm2_lr, selection_lr

RATE = dict(ref_lr=0.012, ref_batches=500, rampup_Mimg=0.2)
SIZES = dict(mini_batch=384, super_batch=2048)
F = 2048 / 384


def rate(nimg: float, step: float, selecting: bool, **settings) -> float:
    settings = {"early": False, "late": False, **SIZES, **RATE, **settings}
    return selection_lr(nimg, step, selecting=selecting, **settings)


def test_plain_schedule():
    assert edm2_lr(0, 2048, **RATE) == 0
    assert edm2_lr(0.1e6, 2048, **RATE) == pytest.approx(0.006)
    assert edm2_lr(0.2e6, 2048, **RATE) == pytest.approx(0.012)
    assert edm2_lr(500 * 2048, 2048, **RATE) == pytest.approx(0.012)
    assert edm2_lr(2000 * 2048, 2048, **RATE) == pytest.approx(0.006)
    flat = dict(ref_lr=0.3, ref_batches=0, rampup_Mimg=0)
    assert edm2_lr(0, 2048, **flat) == edm2_lr(1e9, 2048, **flat) == 0.3


@pytest.mark.parametrize("ramp", ["continuous", "reference"])
def test_without_a_switch(ramp):
    for e in (0, 1, 7, 60, 97.65625, 400, 5000):
        plain = edm2_lr(e * 2048, 2048, **RATE)
        for kind in (dict(early=True), dict(late=True), {}):
            if "early" not in kind:  # late waits, or no selection at all
                assert rate(e * 2048, e, False, ramp=ramp, **kind) == pytest.approx(
                    plain, rel=1e-12
                )
            if "late" not in kind:  # step e of a selecting run is step e f of the other
                later = edm2_lr(e * F * 2048, 2048, **RATE)
                assert rate(e * 384, e, True, ramp=ramp, **kind) == pytest.approx(later, rel=1e-12)


@pytest.mark.parametrize("switch", [3, 20, 100, 381, 2000])
@pytest.mark.parametrize("kind", ["early", "late"])
def test_no_jump_at_the_switch(kind, switch):
    early = kind == "early"
    nimg = switch * (384 if early else 2048)
    change = dict(change_step=switch, change_nimg=nimg, **{kind: True})
    before = rate(nimg, switch, early, **{kind: True})
    after = rate(nimg, switch, not early, **change)
    assert after == pytest.approx(before, rel=1e-12)

    # From there on a step counts as one or as f, and the counts add up.
    for e in (1, 10, 300):
        images = nimg + e * (2048 if early else 384)
        counted = switch * F + e if early else switch + e * F
        expected = edm2_lr(counted * 2048, 2048, **RATE)
        assert rate(images, switch + e, not early, **change) == pytest.approx(expected, rel=1e-12)


def test_the_reference_jumps_during_the_ramp_only():
    slow = dict(ref_lr=0.012, ref_batches=5463, rampup_Mimg=0.780288, ramp="reference")

    def ratio(kind: str, switch: int) -> float:
        early = kind == "early"
        nimg = switch * (384 if early else 2048)
        change = dict(change_step=switch, change_nimg=nimg, **{kind: True})
        after = rate(nimg, switch, not early, **slow, **change)
        return after / rate(nimg, switch, early, **slow, **{kind: True})

    assert ratio("early", 20) == pytest.approx(1 / F)
    assert ratio("late", 20) == pytest.approx(F)
    assert ratio("early", 100) == pytest.approx(0.262, abs=1e-3)
    assert ratio("late", 100) == pytest.approx(3.81, abs=1e-2)
    for switch in (382, 5000):
        assert ratio("early", switch) == pytest.approx(1)
        assert ratio("late", switch) == pytest.approx(1)


def test_terms_can_be_switched_off():
    off = dict(ref_lr=0.1, ref_batches=0, rampup_Mimg=0)
    assert rate(0, 0, True, **off) == rate(1e9, 1e6, False, **off) == 0.1
    decay = dict(ref_lr=0.1, ref_batches=100, rampup_Mimg=-1)
    assert rate(0, 400, False, **decay) == pytest.approx(0.05)
    assert rate(0, 400 / F, True, **decay) == pytest.approx(0.05)
    assert math.isfinite(rate(0, 0, False, **decay))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(ramp="smooth"), "'smooth'"),
        (dict(mini_batch=4096), "mini_batch 4096"),
        (dict(mini_batch=0), "mini_batch 0"),
        (dict(mini_batch=2048), "selects nothing"),
    ],
)
def test_refusals(change, said):
    with pytest.raises(ValueError, match=said):
        rate(0, 0, True, **change)
