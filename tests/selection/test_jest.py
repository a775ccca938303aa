"""The draw against brute force: same logits, same distribution, nothing B x B, no waiting."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from selection import (
    chunk_sizes,
    draw_spread,
    jointly_sample_batch,
    perplexity,
    random_baseline,
    scaled,
    select,
    selection_logits,
    selection_size,
    sigma_strata,
)
from selection.jest import _draw_by_numpy, _draw_by_torch, _noise
from tests.selection import oracle

KINDS = [dict(learnability=a, inverted=b) for a, b in itertools.product((True, False), repeat=2)]


def losses(B: int, seed: int = 0, pairs: bool = False, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    both = torch.randn((2, B, B) if pairs else (2, B), generator=generator, dtype=torch.float64)
    return both[0] * scale, both[1] * scale


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------------------------------ logits


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_masked_form(kind, normalise, pairs):
    learner, ref = losses(50, pairs=pairs)
    scores = oracle.pair_scores(learner.numpy(), ref.numpy(), **kind)
    for n in (0, 1, 3, 20, 49):
        sampled = torch.randperm(50, generator=seeded(n))[:n]
        expected = oracle.logits(scores, sampled.tolist(), normalise)
        for given in (sampled, sampled.tolist()):
            ours = selection_logits(learner, ref, given, **kind, normalise=normalise)
            assert ours.dtype == torch.float64
            np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-12, atol=1e-12)
        cool = selection_logits(
            learner, ref, sampled, **kind, normalise=normalise, temperature=0.25
        )
        np.testing.assert_allclose(cool.numpy(), expected / 0.25, rtol=1e-12, atol=1e-12)


def test_easy_reference_as_in_the_source():
    """Autoguided: the score matrix of -ref has one row, its diagonal is a single number."""
    learner, ref = losses(30)
    sampled = [4, 17, 2]
    row = -ref.numpy()[None, :]  # (1, B)
    drawn = np.isin(np.arange(30), sampled)
    # diagonal (1,), row sums broadcast over columns, column sums a constant
    joint = np.diag(row) + len(sampled) * row[0] + row[0][drawn].sum()
    expected = np.where(drawn, -np.inf, joint / 7)
    for inverted, sign in ((False, 1), (True, -1)):
        ours = selection_logits(
            learner, ref, sampled, learnability=False, inverted=inverted, easy_reference="source"
        )
        wanted = np.where(drawn, -np.inf, sign * expected)
        np.testing.assert_allclose(ours.numpy(), wanted, atol=1e-13)
    with pytest.raises(ValueError, match="learnability=False"):
        selection_logits(learner, ref, sampled, easy_reference="source")
    with pytest.raises(ValueError, match="not one of: intended, source"):
        selection_logits(learner, ref, sampled, easy_reference="bug")


def test_logits_of_losses_that_are_not_finite():
    learner, ref = losses(6)
    learner[1], ref[3] = torch.nan, torch.inf
    for kind in KINDS:
        ours = selection_logits(learner, ref, [0, 1], **kind)
        assert torch.isneginf(ours).tolist() == [True, True, False, True, False, False]


@pytest.mark.parametrize("first_chunk", ["uniform", "scored"])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_given_the_noise_the_picks_are_those_of_the_masked_form(
    kind, pairs, normalise, first_chunk
):
    """Gumbel-top-k of the oracle's logits with the very same noise, chunk by chunk."""
    B, N, ratio, temperature = 120, 6, 0.45, 0.7
    learner, ref = losses(B, pairs=pairs, scale=0.3)
    scores = oracle.pair_scores(learner.numpy(), ref.numpy(), **kind)
    noise = torch.cat(list(_noise(N, (B,), learner.device, seeded()))).numpy()
    expected: list[int] = []
    for c, log_e in zip(chunk_sizes(B, ratio, N), noise, strict=True):
        logits = oracle.logits(scores, expected, normalise) / temperature
        if not expected and first_chunk == "uniform":
            logits = np.zeros(B)
        expected += np.argsort(log_e - logits)[:c].tolist()
    rows = jointly_sample_batch(
        learner,
        ref,
        N,
        ratio,
        **kind,
        normalise=normalise,
        first_chunk=first_chunk,
        temperature=temperature,
        generator=seeded(),
    )
    assert rows.tolist() == expected


# ------------------------------------------------------------------------------------ distribution


def chi_square(counts: dict, expected: dict[tuple, float], draws: int) -> tuple[float, int]:
    """Statistic and degrees of freedom; outcomes expected less than 5 times are pooled."""
    assert set(counts) <= set(expected)
    observed = [(counts.get(k, 0), p * draws) for k, p in expected.items()]
    rare = [o for o in observed if o[1] < 5]
    cells = [o for o in observed if o[1] >= 5]
    if sum(e for _, e in rare) > 0.5:
        cells.append((sum(o for o, _ in rare), sum(e for _, e in rare)))
    return sum((o - e) ** 2 / e for o, e in cells), len(cells) - 1


def assert_distributed(draw, expected: dict[tuple[int, ...], float], draws: int = 6000) -> None:
    """Ordered outcomes of `draw(generator)` follow `expected`, by chi-square at 1e-4."""
    np.testing.assert_allclose(sum(expected.values()), 1, rtol=1e-9)
    generator = seeded(7)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(draws):
        outcome = tuple(draw(generator).tolist())
        counts[outcome] = counts.get(outcome, 0) + 1
    statistic, freedom = chi_square(counts, expected, draws)
    # Wilson-Hilferty: (x / k)^(1/3) is nearly normal; 3.72 standard deviations is 1e-4
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / (2 / (9 * freedom)) ** 0.5
    assert z < 3.72, f"chi-square {statistic:.1f} with {freedom} degrees of freedom"


@pytest.mark.parametrize(
    ("pairs", "settings"),
    [
        (False, {}),
        (False, dict(learnability=False)),
        (False, dict(inverted=True, first_chunk="scored")),
        (False, dict(normalise=False, temperature=2.0)),
        (True, {}),
        (True, dict(first_chunk="scored", normalise=False, learnability=False)),
    ],
)
def test_every_sequence_is_as_likely_as_by_brute_force(pairs, settings):
    B, N, ratio = 5, 2, 0.4
    learner, ref = losses(B, seed=3, pairs=pairs)
    scores = oracle.pair_scores(
        learner.numpy(),
        ref.numpy(),
        settings.get("learnability", True),
        settings.get("inverted", False),
    )
    rule = {k: settings[k] for k in ("first_chunk", "normalise", "temperature") if k in settings}
    expected = oracle.outcomes(scores, chunk_sizes(B, ratio, N), **rule)
    assert len(expected) == 60 and chunk_sizes(B, ratio, N) == [2, 1]
    assert_distributed(
        lambda g: jointly_sample_batch(learner, ref, N, ratio, **settings, generator=g), expected
    )


def test_the_distribution_test_can_fail():
    learner, ref = losses(5, seed=3)
    wrong = oracle.outcomes(
        oracle.pair_scores(learner.numpy(), ref.numpy(), True, False), [2, 1], temperature=0.8
    )
    with pytest.raises(AssertionError, match="chi-square"):
        assert_distributed(lambda g: jointly_sample_batch(learner, ref, 2, 0.4, generator=g), wrong)


def test_random_baseline_is_uniform():
    expected = {p: 1 / 60 for p in itertools.permutations(range(5), 3)}
    loss = torch.randn(5)
    assert_distributed(lambda g: random_baseline(loss, 0.4, generator=g), expected)


def test_strata_are_super_batches_of_their_own():
    learner, ref = losses(8, seed=5)
    strata = torch.tensor([[0, 3, 5, 6], [1, 2, 4, 7]])
    scores = oracle.pair_scores(learner.numpy(), ref.numpy(), True, False)
    parts = []
    for rows in strata.tolist():
        part = oracle.outcomes(scores[np.ix_(rows, rows)], [1, 1])
        parts.append({tuple(rows[j] for j in key): p for key, p in part.items()})
    expected = {
        (a[0], b[0], a[1], b[1]): p * q
        for (a, p), (b, q) in itertools.product(parts[0].items(), parts[1].items())
    }
    assert_distributed(
        lambda g: jointly_sample_batch(learner, ref, 2, 0.5, generator=g, strata=strata), expected
    )


@pytest.mark.parametrize("pairs", [False, True])
def test_inclusion_frequencies_are_those_of_the_masked_algorithm(pairs):
    B, N, ratio, draws = 40, 4, 0.7, 1500
    learner, ref = losses(B, seed=1, pairs=pairs, scale=4 if pairs else 1.5)
    scores = oracle.pair_scores(learner.numpy(), ref.numpy(), True, False)
    sizes = chunk_sizes(B, ratio, N)
    rng, generator = np.random.default_rng(0), seeded(0)
    counts = np.zeros((2, B))
    for _ in range(draws):
        counts[0, oracle.draw(scores, sizes, rng)] += 1
        counts[1, jointly_sample_batch(learner, ref, N, ratio, generator=generator)] += 1
    p = counts.mean(0) / draws
    z = (counts[0] - counts[1]) / np.sqrt(2 * draws * p * (1 - p))
    assert np.abs(z).max() < 4 and 0.6 < np.sqrt((z**2).mean()) < 1.4
    assert p.max() / p.min() > 3  # the draw is far from uniform: there is something to compare


# ------------------------------------------------------------------------------ numbers at the edge


def test_numpy_and_torch_loops_draw_the_same():
    for B, sizes in ((10, [3, 3, 3]), (300, [40, 40, 39]), (5000, [400] * 5), (9000, [9000])):
        score = losses(B)[0][None]
        score[0, 0] = -1e300
        for uniform, normalise in itertools.product((True, False), repeat=2):
            picks = [
                by(
                    score.clone(),
                    sizes,
                    uniform,
                    normalise,
                    _noise(len(sizes), score.shape, score.device, seeded()),
                )
                for by in (_draw_by_numpy, _draw_by_torch)
            ]
            assert torch.equal(*picks) and picks[0].dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_losses_of_any_precision(dtype):
    """Numbers that every dtype holds give the same picks: the draw itself is always float64."""
    learner, ref = (x.mul(8).round().div(4) for x in losses(200))
    expected = jointly_sample_batch(learner, ref, 8, generator=seeded())
    rows = jointly_sample_batch(learner.to(dtype), ref.to(dtype), 8, generator=seeded())
    assert torch.equal(rows, expected) and rows.dtype == torch.int64
    for kind in KINDS:
        ours = selection_logits(learner.to(dtype), ref.to(dtype), rows, **kind)
        assert torch.equal(ours, selection_logits(learner, ref, rows, **kind))


@pytest.mark.parametrize("pairs", [False, True])
def test_huge_scores(pairs):
    B = 64
    order = torch.randperm(B, generator=seeded())
    learner, ref = torch.zeros(B), torch.zeros(B)
    learner[order] = torch.arange(B, 0, -1) * 1e30  # float32
    if pairs:  # pair scores that are diagonal: the same ranking
        learner, ref = torch.diag(learner), torch.diag(ref)
    rows = jointly_sample_batch(learner, ref, 4, 0.5, first_chunk="scored")
    assert torch.equal(rows, order[:32])
    rows = jointly_sample_batch(learner, ref, 4, 0.5, inverted=True, first_chunk="scored")
    assert torch.equal(rows, order.flip(0)[:32])
    uniform = jointly_sample_batch(learner, ref, 4, 0.5)
    assert len(uniform.unique()) == 32
    logits = selection_logits(learner, ref, rows)
    assert not logits.isnan().any() and not torch.isposinf(logits).any()
    relative = draw_spread(learner, ref, 4, 0.5).relative
    torch.testing.assert_close(relative.item(), 1 / B)


@pytest.mark.parametrize("value", [0.0, 1e30, -1e30, 3.0])
def test_equal_scores_are_drawn_uniformly(value):
    B, draws = 10, 4000
    learner, ref = torch.full((B,), value), torch.zeros(B)
    generator, counts = seeded(), np.zeros(B)
    for _ in range(draws):
        counts[jointly_sample_batch(learner, ref, 2, 0.7, generator=generator)] += 1
    z = (counts - 0.3 * draws) / (draws * 0.3 * 0.7) ** 0.5
    assert np.abs(z).max() < 4


def test_one_absurd_loss_leaves_the_others_comparable():
    learner, ref = torch.zeros(100), torch.zeros(100)
    learner[7] = 1e25
    learner[50:] = 20.0
    for _ in range(5):
        rows = jointly_sample_batch(learner, ref, 5, 0.8, first_chunk="scored", normalise=False)
        assert rows[0] == 7 and (rows[1:] >= 50).all()


BAD = [torch.nan, torch.inf, -torch.inf]


@pytest.mark.parametrize("first_chunk", ["uniform", "scored"])
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_with_bad_losses_are_drawn_last(kind, pairs, first_chunk):
    B = 40
    learner, ref = losses(B, pairs=pairs)
    bad = torch.tensor([0, 5, 6, 17, 30, 39])
    for row, value in zip(bad.tolist(), BAD + BAD, strict=True):
        side = learner if row < 17 else ref
        side[row] = value
        if pairs:
            side[:, row] = value
    settings = dict(**kind, first_chunk=first_chunk)
    for seed in range(20):
        rows = jointly_sample_batch(learner, ref, 5, 0.25, **settings, generator=seeded(seed))
        assert len(rows.unique()) == 30 and not torch.isin(rows, bad).any()
        # 38 of 40: all 34 good ones, then four of the others
        rows = jointly_sample_batch(learner, ref, 5, 0.05, **settings, generator=seeded(seed))
        assert len(rows.unique()) == 38 and not torch.isin(rows[:34], bad).any()
    everything = jointly_sample_batch(learner, ref, 5, 0, **settings)
    assert sorted(everything.tolist()) == list(range(B))


@pytest.mark.parametrize("first_chunk", ["uniform", "scored"])
def test_bad_losses_in_strata(first_chunk):
    learner, ref = losses(41)
    bad = torch.tensor([0, 3, 9, 20])
    learner[bad] = torch.nan
    strata = sigma_strata(torch.arange(41.0), 4)
    for seed in range(20):
        rows = jointly_sample_batch(
            learner, ref, 3, 0.5, strata=strata, first_chunk=first_chunk, generator=seeded(seed)
        )
        assert len(rows.unique()) == 20 and rows.min() >= 0 and not torch.isin(rows, bad).any()
        rows = jointly_sample_batch(
            learner, ref, 3, 0, strata=strata, first_chunk=first_chunk, generator=seeded(seed)
        )
        assert sorted(rows.tolist()) == list(range(41))


def test_random_avoids_bad_losses_too():
    loss = torch.randn(50)
    loss[::2] = torch.nan
    for seed in range(20):
        rows = random_baseline(loss, 0.5, generator=seeded(seed))
        assert len(rows.unique()) == 25 and (rows % 2 == 1).all()
    assert sorted(random_baseline(loss, 0).tolist()) == list(range(50))


def test_all_losses_bad():
    nan = torch.full((20,), torch.nan)
    assert len(jointly_sample_batch(nan, nan, 4, 0.5).unique()) == 10
    assert len(jointly_sample_batch(nan, nan, 4, 0.5, first_chunk="scored").unique()) == 10
    matrix = nan.expand(20, 20)
    assert len(jointly_sample_batch(matrix, matrix, 4, 0.5).unique()) == 10


def test_bad_pairs_of_good_rows():
    """A pair that is not finite costs its row only once its partner was drawn."""
    learner, ref = losses(30, pairs=True)
    learner[3, 4] = torch.nan
    for seed in range(20):
        rows = jointly_sample_batch(learner, ref, 30, 0.5, generator=seeded(seed)).tolist()
        assert len(set(rows)) == 15 and not {3, 4} <= set(rows)


# ------------------------------------------------------------------------------------------ conduct


def test_order_is_that_of_drawing():
    """A draw in one scored chunk of very different scores comes out from the highest down."""
    learner = torch.randperm(50, generator=seeded()).double() * 1e4
    rows = jointly_sample_batch(learner, torch.zeros(50).double(), 1, 0.5, first_chunk="scored")
    assert torch.equal(learner[rows], learner.sort(descending=True).values[:25])


def test_many_sizes():
    for B, N, ratio in itertools.product((1, 2, 7, 64, 1500), (1, 4, 16, 2000), (0, 0.3, 0.5)):
        if B * (1 - ratio) < 1:
            continue
        learner, ref = losses(B)
        rows = jointly_sample_batch(learner, ref, N, ratio)
        assert rows.shape == (selection_size(B, ratio),) == rows.unique().shape
        assert rows.min() >= 0 and rows.max() < B


def test_a_generator_decides_and_nothing_global_is_touched():
    learner, ref = losses(64)
    pairs = losses(64, pairs=True)
    strata = sigma_strata(learner)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    for draw in (
        lambda g: jointly_sample_batch(learner, ref, 4, 0.5, generator=g),
        lambda g: jointly_sample_batch(learner, ref, 4, 0.6, strata=strata, generator=g),
        lambda g: jointly_sample_batch(*pairs, 4, 0.5, generator=g),
        lambda g: random_baseline(learner, 0.5, generator=g),
    ):
        assert torch.equal(draw(seeded(3)), draw(seeded(3)))
        assert not torch.equal(draw(seeded(3)), draw(seeded(4)))
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()


def test_losses_are_left_alone_and_no_graph_is_kept():
    learner, ref = losses(64)
    for a, b in ((learner, ref), losses(64, pairs=True)):
        copies = a.clone(), b.clone()
        a.requires_grad_()

        def kept(_):
            raise AssertionError("a tensor is saved for a backward pass")

        with torch.autograd.graph.saved_tensors_hooks(kept, lambda x: x):
            rows = jointly_sample_batch(a, b, 4, 0.5)
            logits = selection_logits(a, b, rows)
            spread = draw_spread(a, b, 4)
            if a.dim() == 1:
                jointly_sample_batch(*scaled(a, b), 4, 0.5, strata=sigma_strata(a))
                random_baseline(a)
        assert not (logits.requires_grad or spread.entropy.requires_grad)
        assert torch.equal(a.detach(), copies[0]) and torch.equal(b, copies[1])


def test_the_seeds_arguments():
    learner, ref = losses(64)
    ours = jointly_sample_batch(learner, ref, 8, 0.5, True, False, generator=seeded())
    named = jointly_sample_batch(
        learner_loss=learner,
        ref_loss=ref,
        N=8,
        filter_ratio=0.5,
        learnability=True,
        inverted=False,
        numeric_stability_trick=True,
        generator=seeded(),
    )
    assert torch.equal(ours, named)


class Watch(TorchDispatchMode):
    """Forbids what waits for the device; remembers the largest result and all entries made."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "item")

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.gathered = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in self.WAITING, f"{name} waits for the device"
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            if not func.is_view and "detach" not in name:
                self.largest = max(self.largest, out.numel())
            if name == "index_select":
                self.gathered += out.numel()
        return out


def test_watch_sees_waiting():
    with pytest.raises(AssertionError, match="waits"), Watch():
        torch.ones(3)[0].item()
    with pytest.raises(AssertionError, match="waits"), Watch():
        torch.ones(3).nonzero()


def everything(device: str, B: int = 128) -> list[Tensor]:
    """Each public function on `device`; the tensors it returns."""
    learner, ref = torch.randn(B, device=device), torch.randn(B, device=device)
    sigma = torch.rand(B, 1, 1, 1, device=device)
    strata = sigma_strata(sigma)
    pairs = torch.randn(B, B, device=device), torch.randn(B, B, device=device)
    out = [strata]
    for first_chunk in ("uniform", "scored"):
        settings = dict(N=8, first_chunk=first_chunk)
        rows = jointly_sample_batch(learner, ref, **settings)
        out += [
            rows,
            jointly_sample_batch(*scaled(learner, ref, strata=strata), **settings, strata=strata),
            jointly_sample_batch(*pairs, **settings),
            selection_logits(learner, ref, rows),
            selection_logits(*pairs, rows),
            *draw_spread(learner, ref, **settings),
            *draw_spread(learner, ref, **settings, strata=strata),
            *scaled(learner, ref),
            perplexity(learner),
            random_baseline(learner),
            select("random", learner),
            select("jest", learner, ref, options={"temperature": 0.5}),
        ]
    return out


def test_nothing_waits_for_the_device():
    with Watch():
        everything("cpu")


def test_everything_stays_on_a_gpu():
    """Tensors without data that say they are on CUDA: whatever needs a value raises."""
    with FakeTensorMode():
        for out in everything("cuda"):
            assert out.device.type == "cuda"
        with pytest.raises(DataDependentOutputException):
            torch.ones(1, device="cuda").item()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_nothing_waits_for_a_real_gpu():
    everything("cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        outputs = everything("cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(out.is_cuda for out in outputs)
    generator = torch.Generator("cuda").manual_seed(0)
    learner, ref = (x.cuda() for x in losses(256))
    rows = jointly_sample_batch(learner, ref, 8, generator=generator)
    assert torch.equal(
        rows, jointly_sample_batch(learner, ref, 8, generator=generator.manual_seed(0))
    )


def test_memory_of_row_losses_is_linear():
    for B in (4096, 65536):
        learner, ref = torch.randn(B), torch.randn(B)
        with Watch() as watch:
            jointly_sample_batch(learner, ref, 16)
            draw_spread(learner, ref, 16)
        assert watch.largest <= 65536 and watch.largest <= 16 * B


def test_work_on_pair_losses_is_that_of_the_rows_drawn():
    B, N = 400, 8
    pairs = losses(B, pairs=True)
    sizes = chunk_sizes(B, 0.8, N)
    with Watch() as watch:
        jointly_sample_batch(*pairs, N)
    assert watch.largest <= max(B * max(sizes), B * N)
    # rows and columns of two matrices, for all chunks but the last: none is looked at twice
    assert watch.gathered == 2 * 2 * B * sum(sizes[:-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(ref_loss=torch.zeros(7)), r"learner_loss is \[8\] but ref_loss is \[7\]"),
        (dict(ref_loss=None), "give ref_loss"),
        (dict(ref_loss=[0.0] * 8), "ref_loss must be a floating-point tensor, got list"),
        (dict(learner_loss=torch.zeros(8).long()), "floating-point tensor, got torch.int64"),
        (dict(learner_loss=torch.zeros(8, 3)), r"\[B\] \(per row\) or \[B, B\]"),
        (dict(learner_loss=torch.zeros(())), r"got \[\]"),
        (dict(learner_loss=torch.zeros(0)), r"got \[0\]"),
        (dict(first_chunk="greedy"), "'greedy' is not one of: uniform, scored"),
        (dict(temperature=0), "temperature 0 is not a positive number"),
        (dict(temperature=float("nan")), "temperature nan"),
        (dict(temperature=float("inf")), "temperature inf"),
        (dict(strata=torch.zeros(3, 2).long()), "not sigma_strata of 8 rows"),
        (dict(strata=torch.zeros(8).long()), "not sigma_strata of 8 rows"),
        (dict(rounding="floor"), "'floor' is not one of"),
    ],
)
def test_bad_arguments(arguments, message):
    given = dict(learner_loss=torch.zeros(8), ref_loss=torch.zeros(8), filter_ratio=0.5)
    with pytest.raises(ValueError, match=message):
        jointly_sample_batch(**(given | arguments))


def test_strata_of_pairs_are_an_error():
    matrix = torch.zeros(8, 8)
    with pytest.raises(ValueError, match="not for pair losses"):
        jointly_sample_batch(matrix, matrix, 2, 0.5, strata=sigma_strata(torch.rand(8), 2))


def test_generator_of_another_device():
    with FakeTensorMode():
        loss = torch.zeros(8, device="cuda")
        with pytest.raises(ValueError, match=r"generator is on cpu: make it by torch.Generator"):
            jointly_sample_batch(loss, loss, 2, 0.5, generator=torch.Generator())
