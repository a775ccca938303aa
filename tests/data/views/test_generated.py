"""View sources against loops over pictures; everything is a function of (id, draw)."""

import math

import pytest
import torch

from data.views.generated import (
    MODES,
    CachedViews,
    FilteredViews,
    Fraction,
    GeneratedViews,
    UpsampledViews,
    cached_draws,
    fraction,
    gather_views,
    ms_per_view,
    number_of_views,
    online_draws,
    synthetic_mask,
    to_size,
    to_uint8,
)

N, S, R = 11, 8, 4


class Toy:
    """Enlarges the input and adds a number of (id, draw); keeps how many rows it was given."""

    size, input_size = S, R

    def __init__(self):
        self.rows = []

    def sample(self, inputs, ids, draw):
        self.rows.append(len(inputs))
        shift = ((7 * ids + 13 * draw) % 101).float() / 101 - 0.4
        return inputs.repeat_interleave(2, 2).repeat_interleave(2, 3) + shift[:, None, None, None]

    def corrupt(self, inputs, ids):
        return inputs * (1 + ids[:, None, None, None] % 3) / 3


def pictures(n=N, size=S, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)


def one(inputs, i, j, key=None):
    """The view of one picture by float64 arithmetic."""
    key = i if key is None else key
    x = inputs[i].double() / 255 * (1 + key % 3) / 3
    x = x.repeat_interleave(2, 1).repeat_interleave(2, 2) + ((7 * key + 13 * j) % 101) / 101 - 0.4
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)


def test_generated_views_against_a_loop():
    inputs, toy = pictures(size=R), Toy()
    source = GeneratedViews(inputs, toy, rows=4)
    ids = torch.tensor([3, 9, 3, 0, 10, 5, 5, 1, 2])
    draws = torch.tensor([0, 1, 2, 0, 7, 7, 8, 1 << 33, 3])
    expected = torch.stack([one(inputs, int(i), int(j)) for i, j in zip(ids, draws, strict=True)])
    got = source(ids, draws)
    assert got.dtype == torch.uint8
    assert (got.int() - expected.int()).abs().max() <= 1  # float32 may round the other way
    assert (got != expected).float().mean() < 1e-2
    assert toy.rows == [4, 4, 4]  # always whole batches
    assert torch.equal(source(ids, 5), source(ids, torch.full((9,), 5)))
    assert torch.equal(source(ids, torch.tensor(5)), source(ids, 5))
    assert source(ids[:0], 5).shape == (0, 3, S, S)


def test_a_view_does_not_depend_on_its_company():
    source = GeneratedViews(pictures(size=R), Toy(), rows=3)
    ids = torch.arange(N)
    whole = source(ids, 2)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    assert torch.equal(source(order, 2), whole[order])
    assert torch.equal(torch.cat([source(part, 2) for part in ids.split(2)]), whole)
    assert not torch.equal(source(ids, 3), whole)


def test_a_part_of_a_set_has_the_views_of_the_whole():
    inputs, chosen = pictures(size=R), torch.tensor([8, 2, 5])
    whole = GeneratedViews(inputs, Toy())
    part = GeneratedViews(inputs[chosen], Toy(), keys=chosen)
    assert torch.equal(part(torch.arange(3), 4), whole(chosen, 4))
    unkeyed = GeneratedViews(inputs[chosen], Toy())
    assert not torch.equal(unkeyed(torch.arange(3), 4), whole(chosen, 4))


def test_upsampled_views_know_no_draw():
    inputs, toy = pictures(size=R), Toy()
    source = UpsampledViews(inputs, S, corrupt=toy.corrupt)
    ids = torch.tensor([4, 2, 2])
    shown = toy.corrupt(inputs[ids].float() / 255, ids)
    expected = torch.nn.functional.interpolate(shown, size=(S, S), mode="bicubic")
    assert torch.equal(source(ids, 0), (expected.clamp(0, 1) * 255).round().byte())
    assert torch.equal(source(ids, 0), source(ids, torch.tensor([9, 8, 7])))
    plain = UpsampledViews(inputs, R)
    assert torch.equal(plain(ids, 1), inputs[ids])
    assert to_size(shown, 2).shape[-1] == 2


def test_cached_views_are_the_draws_they_were_made_of():
    source, ids, k = GeneratedViews(pictures(size=R), Toy()), torch.arange(N), 3
    cache = torch.stack([source(ids, j) for j in range(k)], 1)
    cached = CachedViews(cache)
    assert cached.k == k and cached.size == S
    for j in range(7):
        assert torch.equal(cached(ids, j), source(ids, j % k))
    mixed = torch.tensor([0, 2, 1])
    assert torch.equal(cached(ids[:3], mixed), source(ids[:3], mixed))
    rows = torch.tensor([7, 1, 4])
    assert torch.equal(
        CachedViews(cache, rows=rows)(torch.tensor([2, 0]), 1), source(rows[[2, 0]], 1)
    )


def test_filtered_views_against_a_loop():
    inputs, real, tries = pictures(size=R), pictures(seed=1), 3
    source = GeneratedViews(inputs, Toy(), rows=5)
    low, high = 0.30, 0.36

    def distance(x, y):
        assert len(x) == 4 and x.dtype == torch.float32 and float(x.max()) <= 1
        d = (x - y).abs().mean((1, 2, 3))
        return torch.where(d > 0.5, math.nan, d)

    filtered = FilteredViews(source, real, distance, low, high, tries=tries, rows=4)
    ids, draws = torch.arange(N).repeat(3), torch.arange(3).repeat_interleave(N)
    got = filtered(ids, draws)
    asked = drawn = accepted = stood = 0
    for row, (i, j) in enumerate(zip(ids.tolist(), draws.tolist(), strict=True)):
        expected, asked = real[i], asked + 1
        for attempt in range(tries):
            view = source(torch.tensor([i]), j + attempt * ((1 << 32) + 15))[0]
            d = float((view.float() / 255 - real[i].float() / 255).abs().mean())
            drawn += 1
            if low <= d <= high:
                expected, accepted = view, accepted + 1
                break
        else:
            stood += 1
        assert torch.equal(got[row], expected), row
    counts = filtered.take_counts()
    assert [int(c) for c in counts] == [asked, drawn, accepted, stood]
    assert 0 < stood < asked and drawn > asked  # all ways were taken
    assert counts.figures() == {"acceptance": accepted / drawn, "stood_in": stood / asked}
    assert [int(c) for c in filtered.take_counts()] == [0, 0, 0, 0]
    assert torch.equal(filtered(ids[5:9], draws[5:9]), got[5:9])
    assert torch.equal(
        FilteredViews(source, real, distance, tries=1, rows=4)(ids[:2], 0)[0],
        source(ids[:2], 0)[0],
    )


def test_a_distance_that_is_no_number_is_not_accepted():
    real = pictures(3)
    source = GeneratedViews(pictures(3, R), Toy())
    nan = FilteredViews(source, real, lambda x, y: torch.full((len(x),), math.nan))
    assert torch.equal(nan(torch.arange(3), 0), real)
    assert nan.take_counts().figures() == {"acceptance": 0.0, "stood_in": 1.0}


def test_shares_and_their_schedule():
    assert fraction("0.5") == Fraction(0.5, 0.5) and str(fraction("0.5")) == "0.5"
    assert fraction("0:1") == Fraction(0, 1) and str(fraction("0:1")) == "0:1"
    assert [fraction("0.25").at(e, 7) for e in (0, 3, 6)] == [0.25] * 3
    assert [fraction("0:1").at(e, 5) for e in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert fraction("1:0.5").at(4, 5) == 0.5 and fraction("0:1").at(0, 1) == 0
    for word in ("", "x", "1.1", "-0.1", "0:1:0", "0:2", "nan", ":"):
        with pytest.raises(ValueError, match="share"):
            fraction(word)


def test_masks_of_the_modes():
    ids = torch.arange(6)
    false, true = torch.zeros(6, dtype=torch.bool), torch.ones(6, dtype=torch.bool)
    expected = {
        "real-real": [false, false],
        "real-synth": [false, true],
        "synth-synth": [true, true],
        "multi": [false, true, true, true],
    }
    for mode, rows in expected.items():
        assert torch.equal(synthetic_mask(mode, ids, k=3), torch.stack(rows)), mode
        assert number_of_views(mode, 3) == len(rows)
    assert set(expected) | {"mixed"} == set(MODES)


def test_mixed_masks_are_functions_of_seed_epoch_picture_and_view():
    ids = torch.arange(20_000)
    mask = synthetic_mask("mixed", ids, seed=3, epoch=2, f=0.3)
    assert mask.shape == (2, len(ids))
    for row in mask.float():
        assert abs(float(row.mean()) - 0.3) < 4 * math.sqrt(0.21 / len(ids))
    both = float((mask[0] & mask[1]).float().mean())
    assert abs(both - 0.09) < 4 * math.sqrt(0.09 * 0.91 / len(ids))  # independent of each other
    part = torch.tensor([17, 4, 19_999])
    assert torch.equal(synthetic_mask("mixed", part, seed=3, epoch=2, f=0.3), mask[:, part])
    for other in (dict(seed=4, epoch=2), dict(seed=3, epoch=3)):
        assert not torch.equal(synthetic_mask("mixed", ids, f=0.3, **other), mask)
    more = synthetic_mask("mixed", ids, seed=3, epoch=2, f=0.6)
    assert bool((more | ~mask).all())  # a larger share adds views and takes none away
    assert not synthetic_mask("mixed", ids, f=0.0).any()
    assert synthetic_mask("mixed", ids, f=1.0).all()


def test_draw_numbers():
    ids = torch.arange(4000)
    seen = torch.cat([online_draws(epoch, ids[:2], 3)[:, 0] for epoch in range(4)])
    assert seen.tolist() == list(range(12))
    picks = cached_draws(5, ids, 2, 4, seed=1)
    assert picks.shape == (2, len(ids)) and bool((picks[0] != picks[1]).all())
    pairs = torch.bincount(picks[0] * 4 + picks[1], minlength=16).view(4, 4)
    expected = len(ids) / 12
    off = pairs[~torch.eye(4, dtype=torch.bool)]
    assert float(((off - expected) ** 2 / expected).sum()) < 31.3  # chi^2, 11 dof, p 0.001
    assert torch.equal(cached_draws(5, ids[7:9], 2, 4, seed=1), picks[:, 7:9])
    assert not torch.equal(cached_draws(6, ids, 2, 4, seed=1), picks)
    assert not cached_draws(0, ids[:5], 2, 1).any()
    five = cached_draws(0, ids, 5, 3)
    assert torch.equal(five[:2], five[3:]) and bool(
        (five[:3].sort(0).values.T == torch.arange(3)).all()
    )


def test_a_step_s_views_against_a_loop():
    real, calls = pictures(seed=2), []
    made = GeneratedViews(pictures(size=R), Toy(), rows=4)

    def source(ids, draw):
        calls.append(len(ids))
        return made(ids, draw)

    ids = torch.tensor([4, 0, 10, 4, 7])
    draws = online_draws(3, ids, 3)
    mask = synthetic_mask("mixed", ids, f=0.5, seed=5)
    mask = torch.cat([mask, ~mask[:1]])
    got = gather_views(real, source, ids, draws, mask)
    for v in range(3):
        for b, i in enumerate(ids.tolist()):
            view = made(ids[b : b + 1], int(draws[v, b]))[0] if mask[v, b] else real[i]
            assert torch.equal(got[v, b], view), (v, b)
    assert calls == [int(mask.sum())]  # all of the step at once
    none = synthetic_mask("real-real", ids)
    assert torch.equal(
        gather_views(real, None, ids, draws[:2], none), real[ids].expand(2, -1, -1, -1, -1)
    )
    with pytest.raises(ValueError, match="no view source"):
        gather_views(real, None, ids, draws[:2], ~none)


def test_rounding_is_to_the_nearest():
    x = torch.tensor([-0.5, 0.0, 0.499 / 255, 0.501 / 255, 254.6 / 255, 1.0, 3.0])
    assert to_uint8(x).tolist() == [0, 0, 0, 1, 255, 255, 255]
    assert to_uint8(x.bfloat16()).dtype == torch.uint8


def test_time_is_measured():
    assert 0 < ms_per_view(GeneratedViews(pictures(size=R), Toy()), torch.arange(4)) < 1000


@pytest.mark.parametrize(
    "make",
    [
        lambda: GeneratedViews(pictures(size=S), Toy()),
        lambda: GeneratedViews(pictures(size=R).float(), Toy()),
        lambda: GeneratedViews(pictures(size=R), Toy(), rows=0),
        lambda: GeneratedViews(pictures(size=R), Toy(), keys=torch.arange(3)),
        lambda: UpsampledViews(pictures(size=R)[0], S),
        lambda: CachedViews(pictures()),
        lambda: FilteredViews(GeneratedViews(pictures(size=R), Toy()), pictures(size=R), min),
        lambda: FilteredViews(CachedViews(pictures()[:, None]), pictures(), min, 0.5, 0.5),
        lambda: FilteredViews(CachedViews(pictures()[:, None]), pictures(), min, tries=0),
        lambda: synthetic_mask("synth-real", torch.arange(3)),
        lambda: synthetic_mask("mixed", torch.arange(3), f=1.5),
        lambda: synthetic_mask("multi", torch.arange(3), k=0),
        lambda: cached_draws(0, torch.arange(3), 2, 0),
    ],
)
def test_what_cannot_be_is_refused(make):
    with pytest.raises(ValueError):
        make()
