from __future__ import annotations

import itertools
import math

import pytest
import torch

from selection import (
    draw_spread,
    entropy,
    jointly_sample_batch,
    perplexity,
    scaled,
    selection_logits,
    sigma_strata,
)
from selection.scores import SCALES


def sums(B: int = 200, pixels: int = 768) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses like those of a step: large sums, close to one another."""
    generator = torch.Generator().manual_seed(0)
    ref = pixels * (0.2 + torch.rand(B, generator=generator))
    return ref + 5 * torch.randn(B, generator=generator) + 3, ref


def scores(learner, ref, *, learnability=True, inverted=False, **how):
    """What a draw ranks by: losses that are scaled, subtracted, and negated where that is asked."""
    learner, ref = scaled(learner, ref, learnability=learnability, **how)
    score = learner - ref if learnability else -ref
    return -score if inverted else score


# ------------------------------------------------------------------------------------------- scales


def test_what_each_scale_is():
    learner, ref = sums()
    a, b = learner.double(), ref.double()
    assert torch.equal(scores(learner, ref, scale="raw"), a - b)
    torch.testing.assert_close(scores(learner, ref, scale="mean", pixels=768), (a - b) / 768)
    by_gpu = scores(learner, ref, scale="autoguided", loss_scaling=2.0, batch_gpu_total=1024)
    torch.testing.assert_close(by_gpu, (a - b) * 2 / 1024)
    standard = scores(learner, ref)
    torch.testing.assert_close(standard, (a - b - (a - b).mean()) / (a - b).std(correction=0))
    for scale in SCALES:
        both = dict(scale=scale, pixels=768, batch_gpu_total=1024)
        x, y = scaled(learner, ref, **both)
        assert x.dtype == y.dtype == torch.float64
        torch.testing.assert_close(scores(learner, ref, **both), x - y)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("learnability", [True, False])
def test_standardised_scores_have_mean_0_and_deviation_1(learnability, inverted):
    learner, ref = sums()
    kind = dict(learnability=learnability, inverted=inverted)
    score = scores(learner, ref, **kind)
    assert abs(score.mean()) < 1e-12 and abs(score.std(correction=0) - 1) < 1e-12
    raw = scores(learner, ref, scale="raw", **kind)
    assert torch.equal(score.argsort(), raw.argsort())
    # what a draw sees of the scaled pair is this score
    pair = scaled(learner, ref, learnability=learnability)
    logits = selection_logits(*pair, [], **kind)
    torch.testing.assert_close(logits, score)


def test_standardised_scores_do_not_depend_on_units():
    learner, ref = sums()
    expected = scores(learner, ref)
    for factor, shift in ((12 / 1024, 0.0), (1e-6, 0.0), (1e30, 0.0), (1.0, 1e3)):
        a, b = learner.double() * factor + shift, ref.double() * factor
        torch.testing.assert_close(scores(a, b), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e30, -7.3])
def test_equal_scores_become_zeros(value):
    _, ref = sums()
    ref = ref.double()
    flat = torch.full_like(ref, value)
    for learner, other, learnability in (
        (flat, torch.zeros_like(ref), True),
        (ref, ref, True),
        (ref, flat, False),
    ):
        score = scores(learner, other, learnability=learnability)
        assert torch.equal(score.abs(), torch.zeros_like(score))
    assert torch.equal(scores(ref[:1], flat[:1]), torch.zeros(1).double())
    assert abs(draw_spread(*scaled(ref, ref)).relative - 1) < 1e-12


def test_rounding_of_an_equal_difference_is_not_a_score():
    """learner = ref + 0.1 in float64: the differences differ in their last digits only."""
    ref = sums()[1].double()
    assert (ref + 0.1 - ref).unique().numel() > 1
    assert scores(ref + 0.1, ref).abs().max() == 0


def test_bad_losses_have_no_part_in_the_statistics():
    learner, ref = sums()
    learner[3], learner[8], ref[20] = torch.nan, torch.inf, -torch.inf
    good = torch.ones(200, dtype=torch.bool)
    good[[3, 8, 20]] = False
    for learnability in (True, False):
        score = scores(learner, ref, learnability=learnability)
        alone = scores(learner[good], ref[good], learnability=learnability)
        torch.testing.assert_close(score[good], alone)
        assert not score[~good].isfinite().any()
        rows = jointly_sample_batch(
            *scaled(learner, ref, learnability=learnability), 4, 0.05, learnability=learnability
        )
        assert good[rows].all()
    nan = torch.full((5,), torch.nan)
    assert scores(nan, nan).isnan().all()


def test_standardised_within_strata():
    learner, ref = sums(203)
    learner[11] = torch.nan
    sigma = torch.rand(203, generator=torch.Generator().manual_seed(1))
    learner = learner + 1000 * sigma  # scores of high sigma are all higher
    strata = sigma_strata(sigma, 7)
    score = scores(learner, ref, strata=strata)
    for rows in strata:
        rows = rows[rows >= 0]
        alone = scores(learner[rows], ref[rows])
        torch.testing.assert_close(score[rows], alone, equal_nan=True)
    assert score.isnan().sum() == 1


def test_pair_losses_have_scales_too():
    a, b = torch.randn(5, 5), torch.randn(5, 5)
    torch.testing.assert_close(scores(a, b, scale="mean", pixels=4), (a - b).double() / 4)
    with pytest.raises(ValueError, match=r"pair losses \[B, B\] take 'raw'"):
        scaled(a, b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(scale="z"), "'z' is not one of: standardised, autoguided, raw, mean"),
        (dict(scale="mean"), "divides by pixels = C[*]H[*]W, got None"),
        (dict(scale="mean", pixels=0), "got 0"),
        (dict(scale="autoguided"), "batch of one GPU, got None"),
        (dict(strata=torch.zeros(2, 3).long()), "not sigma_strata of 10 rows"),
        (dict(ref_loss=torch.zeros(9)), r"ref_loss is \[9\]"),
    ],
)
def test_bad_scales(arguments, message):
    given = dict(learner_loss=torch.zeros(10), ref_loss=torch.zeros(10)) | arguments
    with pytest.raises(ValueError, match=message):
        scaled(**given)


# ------------------------------------------------------------------------------------------- strata


@pytest.mark.parametrize(("B", "K"), [(64, 4), (65, 4), (67, 4), (10, 10), (10, 1), (203, 7)])
def test_strata_are_sorted_equal_and_complete(B, K):
    sigma = torch.rand(B, generator=torch.Generator().manual_seed(B)).exp()
    strata = sigma_strata(sigma.view(B, 1, 1, 1), K)
    assert strata.shape == (K, -(-B // K)) and strata.dtype == torch.int64
    rows = strata.flatten()
    rows = rows[rows >= 0]
    assert torch.equal(rows, sigma.argsort())
    counts = (strata >= 0).sum(1)
    assert counts.max() - counts.min() <= 1


def test_default_number_of_strata():
    assert [len(sigma_strata(torch.rand(B))) for B in (1, 31, 32, 128, 512, 4096)] == [
        1,
        1,
        2,
        8,
        32,
        32,
    ]
    for K in (0, 11):
        with pytest.raises(ValueError, match=f"{K} sigma strata of 10 rows"):
            sigma_strata(torch.rand(10), K)


def test_quotas():
    """Every stratum gives its share, up or down to a whole number; on average, exactly it."""
    generator = torch.Generator().manual_seed(0)
    for B, K, ratio in ((64, 4, 0.8), (65, 4, 0.7), (100, 9, 0.45), (50, 50, 0.9), (30, 7, 0.1)):
        learner, ref = torch.randn(B), torch.randn(B)
        strata = sigma_strata(torch.rand(B), K)
        member = torch.zeros(B, dtype=torch.int64)
        for k, rows in enumerate(strata):
            member[rows[rows >= 0]] = k
        size = (strata >= 0).sum(1)
        total = torch.zeros(K)
        draws = 200
        for _ in range(draws):
            rows = jointly_sample_batch(learner, ref, 4, ratio, strata=strata, generator=generator)
            b = len(rows)
            assert len(rows.unique()) == b == len(jointly_sample_batch(learner, ref, 4, ratio))
            quota = member[rows].bincount(minlength=K)
            share = b * size.double() / B
            assert ((quota - share).abs() < 1).all()
            assert ((quota.cumsum(0) - share.cumsum(0)).abs() < 1).all()
            total += quota
        spread = ((share - share.floor()) * (1 - share + share.floor()) / draws).sqrt()
        assert ((total / draws - share).abs() <= 4.5 * spread + 1e-6).all()


def test_p_of_sigma_is_preserved():
    """Scores that grow with sigma: a plain draw moves P(sigma) up, one in strata does not."""
    generator = torch.Generator().manual_seed(0)
    B, K, ratio = 2048, 32, 0.8
    distance = {"plain": [], "strata": []}
    gain = {"plain": [], "strata": []}
    for _ in range(10):
        z = torch.randn(B, generator=generator)
        sigma = (z * 1.0 - 0.4).exp()
        noise = torch.randn(B, generator=generator)
        learner, ref = 2 * z + noise, torch.zeros(B)
        strata = sigma_strata(sigma, K)
        plain = jointly_sample_batch(
            *scaled(learner, ref), 16, ratio, temperature=0.25, generator=generator
        )
        kept = jointly_sample_batch(
            *scaled(learner, ref, strata=strata),
            16,
            ratio,
            temperature=0.25,
            generator=generator,
            strata=strata,
        )
        grid = sigma.sort().values
        for name, rows in (("plain", plain), ("strata", kept)):
            chosen = sigma[rows].sort().values
            cdf = torch.searchsorted(chosen, grid, right=True) / len(rows)
            below = torch.arange(1, B + 1) / B
            distance[name].append((cdf - below).abs().max().item())
            gain[name].append(noise[rows].mean().item())
    # at the edges within 1/b, between two of them within a stratum more
    assert max(distance["strata"]) < 1 / K + 1 / 409
    assert min(distance["plain"]) > 0.3
    # and it selects: what the score says beyond sigma
    assert min(gain["strata"]) > 0.5


# ------------------------------------------------------------------------------------------- spread


def test_entropy_and_perplexity():
    B = 50
    assert perplexity(torch.zeros(B)).item() == pytest.approx(B)
    logits = torch.full((B,), -torch.inf)
    logits[:4] = 7.0
    assert perplexity(logits).item() == pytest.approx(4)
    assert entropy(logits).item() == pytest.approx(math.log(4))
    logits[0] = 1e30
    assert perplexity(logits).item() == 1
    x = torch.randn(3, B)
    p = x.double().softmax(1)
    torch.testing.assert_close(entropy(x), -(p * p.log()).sum(1))
    assert perplexity(x.half()).dtype == torch.float64


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("first_chunk", ["uniform", "scored"])
def test_spread_is_that_of_the_second_chunk_over_all_rows(first_chunk, normalise):
    learner, ref = sums()
    pair = scaled(learner, ref)
    for N, n in ((8, 5), (4, 10)):  # 40 of 200
        a = (n + 1) / (2 * n + 1) if normalise else n + 1
        for temperature in (1.0, 0.3):
            found = draw_spread(
                *pair, N, first_chunk=first_chunk, normalise=normalise, temperature=temperature
            )
            expected = perplexity(a * (pair[0] - pair[1]) / temperature)
            torch.testing.assert_close(found.perplexity, expected)
            torch.testing.assert_close(found.relative, expected / 200)
            torch.testing.assert_close(found.entropy, expected.log())


def test_spread_of_one_chunk():
    pair = scaled(*sums())
    assert draw_spread(*pair, 1).relative.item() == pytest.approx(1)
    scored = draw_spread(*pair, 1, first_chunk="scored").perplexity
    torch.testing.assert_close(scored, perplexity(pair[0] - pair[1]))


def test_spread_counts_bad_rows_as_never_drawn():
    learner, ref = torch.zeros(20), torch.zeros(20)
    learner[:5] = torch.nan
    for N, first_chunk in itertools.product((1, 4), ("uniform", "scored")):
        found = draw_spread(learner, ref, N, 0.5, first_chunk=first_chunk)
        assert found.perplexity.item() == pytest.approx(15)


def test_spread_in_strata_adds_up():
    learner, ref = sums(203)
    strata = sigma_strata(torch.rand(203), 7)
    pair = scaled(learner, ref, strata=strata)
    n = 2  # ceil(40 * 29 / 203) = 6 rows of each stratum, in 4 chunks
    expected = 0
    for rows in strata:
        rows = rows[rows >= 0]
        expected += perplexity((n + 1) / (2 * n + 1) * (pair[0] - pair[1])[rows]).item()
    found = draw_spread(*pair, 4, strata=strata)
    assert found.perplexity.item() == pytest.approx(expected)
    flat = draw_spread(ref, ref, 4, strata=strata)
    assert flat.relative.item() == pytest.approx(1)


def test_gaussian_scores_at_temperature_one_keep_most_rows_in_play():
    """softmax(z / 2) of standard normal z: perplexity / B = exp(-1/8) = 0.88."""
    z = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    pair = scaled(z, torch.zeros_like(z))
    for temperature, expected in ((1.0, -1 / 8), (0.5, -1 / 2), (0.25, -2.0)):
        relative = draw_spread(*pair, 16, temperature=temperature).relative.item()
        assert relative == pytest.approx(math.exp(expected), rel=0.1)
