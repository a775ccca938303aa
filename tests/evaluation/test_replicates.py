"""Replicates from sums, against the figures themselves on those rows; intervals against many
independent samples, and pairs."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from evaluation.bootstrap import frechet_groups
from evaluation.classes import inception_score, inception_score_replicates
from evaluation.frechet import FeatureStats, frechet_distance
from evaluation.kernel_distance import kid, kid_blocks, kid_groups
from evaluation.likelihood import FLD, Mixture, fld, fld_replicates
from evaluation.manifolds import NAMES, prdc, prdc_replicates
from evaluation.memorisation import memorisation, memorisation_replicates
from evaluation.modes import count_modes, mode_proportions, modes_replicates
from evaluation.replicates import GROUPS, Replicates, groups_of, interval, paired, weights


def features(n, seed=0, dim=6, shift=0.0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)).double() + shift


def without(x, figure):
    """A figure of all rows but those of each group."""
    group = groups_of(len(x))
    return [figure(x[group != g]) for g in range(int(group.max()) + 1)]


def moments(x):
    found = FeatureStats(x.shape[1])
    found.update(x)
    return found.moments()


def test_groups_are_alike_and_drawn():
    group = groups_of(1010)
    assert set(torch.bincount(group).tolist()) == {50, 51} and int(group.max()) == GROUPS - 1
    classes = torch.arange(1010) % GROUPS  # seeds that count classes
    assert all(len(classes[group == g].unique()) > 10 for g in range(GROUPS))
    assert sorted(groups_of(5).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("n", [90, 15])
def test_what_is_left_without_a_group(n, monkeypatch):
    """From one pass over distances, or from sums: what the figure is on the other rows."""
    x, reference, held = features(n, 1, shift=0.3), features(60, 2), features(30, 3)
    monkeypatch.setattr("evaluation.distances._BLOCK", 300)
    found, replicates = prdc_replicates(x, reference, k=3)
    assert found == prdc(x, reference, k=3)
    wanted = np.array(without(x, lambda rows: prdc(rows, reference, k=3)[:4]))
    for name, values in zip(NAMES, wanted.T, strict=True):
        np.testing.assert_allclose(replicates[name].values, values, rtol=1e-12)
    distances = frechet_groups(x, moments(reference)).values
    wanted = without(x, lambda rows: frechet_distance(moments(rows), moments(reference)))
    np.testing.assert_allclose(distances, wanted, rtol=1e-9)
    whole, replicates = fld_replicates(x, reference, held)
    assert whole == fld(x, reference, held) and isinstance(whole, FLD)
    mean, std = held.mean(0), held.std(0)
    mixture = Mixture((x - mean) / std)
    mixture.fit(((reference - mean) / std)[torch.randperm(60)])
    group = groups_of(n)
    rows = (held - mean) / std
    _, left = mixture.nlls(rows, group)
    for g in range(int(group.max()) + 1):
        part = Mixture(mixture.centres[group != g])
        part.log_var = mixture.log_var[group != g]
        assert float(left[g]) == pytest.approx(part.nll(rows), rel=1e-9)
    assert len(replicates["fld"].values) == len(replicates["gap"].values) == min(GROUPS, n)


def test_draws_are_rows_drawn_anew():
    logits = features(40, 1, 5)
    found = inception_score_replicates(logits, splits=1, seed=None, resamples=20).values
    drawn = torch.randint(40, (20, 40), generator=torch.Generator().manual_seed(0))
    wanted = [inception_score(logits[rows], splits=1, seed=None).mean for rows in drawn]
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    many = inception_score_replicates(logits, splits=10).values
    assert many.mean() == pytest.approx(inception_score(logits).mean, rel=0.1)

    labels = torch.arange(41) % 7
    whole = mode_proportions(count_modes(labels, 7), torch.tensor([9, 1, 2, 3, 4, 5, 6]))
    rows = torch.randint(41, (41,), generator=torch.Generator().manual_seed(0))
    tv = mode_proportions(count_modes(labels[rows], 7), whole.data_counts).tv
    assert float(modes_replicates(labels, whole).values[0]) == pytest.approx(tv)

    x, train, held = features(41, 2), features(50, 3), features(20, 4)
    far = memorisation(x, train, held)
    ratio = memorisation(x[rows], train, held).ratio
    assert float(memorisation_replicates(far)["ratio"].values[0]) == pytest.approx(ratio)
    shares = memorisation_replicates(far)["share_below"]
    assert float(shares.values.mean()) == pytest.approx(far.share_below)
    assert [int(w.sum()) for w in weights(41, 20)] == [41] * 20


def test_intervals_are_as_wide_as_independent_samples_differ():
    """Of every method, against the spread of the figure over samples of the same distribution."""
    reference, held = features(200, 98), features(150, 99)
    centres = features(5, 97)

    def modes(x):
        labels = torch.cdist(x, centres).argmin(1)
        return mode_proportions(count_modes(labels, 5), torch.tensor([20] * 5)), labels

    figures = {
        "recall": lambda x: (prdc(x, reference).recall, prdc_replicates(x, reference)[1]["recall"]),
        "density": lambda x: (
            prdc(x, reference).density, prdc_replicates(x, reference)[1]["density"]
        ),
        "coverage": lambda x: (
            prdc(x, reference).coverage, prdc_replicates(x, reference)[1]["coverage"]
        ),
        "kid": lambda x: (kid(x, reference), kid_groups(x, reference)),
        "kid_blocks": lambda x: (kid(x, reference), kid_blocks(x, reference, block=20)),
        "is": lambda x: (inception_score(x).mean, inception_score_replicates(x)),
        "ratio": lambda x: (
            memorisation(x, reference, held).ratio,
            memorisation_replicates(memorisation(x, reference, held))["ratio"],
        ),
        "modes": lambda x: (modes(x)[0].tv, modes_replicates(modes(x)[1], modes(x)[0])),
    }  # fmt: skip
    for name, figure in figures.items():
        values, widths = [], []
        for seed in range(24):
            value, replicates = figure(features(150, seed, shift=0.4))
            found = interval(value, replicates, 150)
            assert found.low < value < found.high, name
            values.append(value)
            widths.append((found.high - found.low) / 2 / 1.96)
        # 24 values tell their spread to a seventh; blocks, and groups of a recall, are too wide
        ratio = np.mean(widths) / np.std(values, ddof=1)
        assert 0.65 < ratio < (2.3 if name in ("kid_blocks", "recall") else 1.6), (name, ratio)


def test_methods():
    x = torch.tensor([1.0, 2.0, 4.0, 3.5])
    found = interval(3.0, Replicates("means", x), 4)
    half = stats.t.ppf(0.975, 3) * stats.sem(x)
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half))
    # of a mean the jackknife over single rows is Student's t
    left = torch.tensor([(x.sum() - v) / 3 for v in x])
    found = interval(float(x.mean()), Replicates("jackknife", left), 4)
    assert found.high - found.value == pytest.approx(half, rel=1e-5)
    shares = Replicates("shares", torch.tensor([1.0, 0, 0, 0]))
    assert interval(0.25, shares, 4).low == pytest.approx(0.0456, abs=1e-3)  # Wilson's
    for bad in (Replicates("guess", x), Replicates("means", x[:1]), Replicates("means", x / 0)):
        with pytest.raises(ValueError, match="at least 2"):
            interval(1.0, bad, 4)
    with pytest.raises(ValueError, match="at least 20, of at least 2"):
        weights(1, 20)


def test_pairs_cancel_what_they_share():
    reference, x = features(300, 9), features(200, 1, shift=0.3)
    other = x * 1.05
    figures = [(prdc(y, reference).density, prdc_replicates(y, reference)[1]["density"])
               for y in (x, other)]  # fmt: skip
    both = paired(*figures, 200)
    apart = [interval(*figure, 200) for figure in figures]
    assert both.value == pytest.approx(figures[0][0] - figures[1][0])
    width = math.hypot(*(a.high - a.low for a in apart))
    assert both.high - both.low < 0.7 * width and both.method == "jackknife"
    same = paired(figures[0], figures[0], 200)
    assert same.value == same.low == same.high == 0
    right = [Replicates("shares", (features(50, s)[:, 0] > 0).double()) for s in (1, 2)]
    found = paired((0.5, right[0]), (0.25, right[1]), 50)
    assert found.low < 0.25 and found.resamples == 50
    with pytest.raises(ValueError, match="in pairs"):
        paired(figures[0], (0.25, right[0]), 200)
