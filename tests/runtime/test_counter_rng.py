"""Counter-based generator: known answers, distribution, independence of batching."""

import math

import pytest
import torch

from runtime import counter_rng
from runtime.counter_rng import (
    mix,
    mosaic,
    normal,
    normal_mosaic,
    permutation,
    randint,
    uniform,
    words,
)

F = 0xFFFFFFFF
PI = ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], (0xA4093822, 0x299F31D0))


def philox4x32(counter, key, rounds=10):
    """Four int64 tensors holding 32-bit words -> four of the same (broadcast) shape."""
    shape = torch.broadcast_shapes(*(c.shape for c in counter))
    return [o.expand(shape) for o in counter_rng._philox([c & F for c in counter], key, rounds)]


@pytest.mark.parametrize(
    "rounds, counter, key, answer",
    [  # Random123, kat_vectors
        (7, [0] * 4, (0, 0), "5f6fb709 0d893f64 4f121f81 4f730a48"),
        (7, [F] * 4, (F, F), "5207ddc2 45165e59 4d8ee751 8c52f662"),
        (7, *PI, "4dfccaba 190a87f0 c47362ba b6b5242a"),
        (10, [0] * 4, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (10, [F] * 4, (F, F), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (10, *PI, "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_known_answers(rounds, counter, key, answer):
    out = philox4x32([torch.tensor([c]) for c in counter], key, rounds)
    assert " ".join(f"{int(w):08x}" for w in out) == answer


def test_broadcast_rounds_equal_full_rounds():
    """The row/column short cut of the first rounds against plainly expanded counters."""
    rows, n = mix(5, torch.arange(7)), 41
    block = torch.arange(11)
    grid = [
        block.expand(7, 11),
        torch.full((7, 11), 3),
        (rows & F)[:, None].expand(7, 11),
        ((rows >> 32) & F)[:, None].expand(7, 11),
    ]
    full = philox4x32([g.contiguous() for g in grid], counter_rng._KEY)
    expected = torch.stack(full, dim=2).reshape(7, 44)[:, :n]
    assert torch.equal(words(rows, n, stream=3), expected)


def test_philox_matches_python_integers():
    def reference(c, k, rounds=10):
        c, k = list(c), list(k)
        for _ in range(rounds):
            p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
            c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & F, (p0 >> 32) ^ c[3] ^ k[1], p0 & F]
            k = [(k[0] + 0x9E3779B9) & F, (k[1] + 0xBB67AE85) & F]
        return c

    seed = mix(9, torch.arange(3))
    got = words(seed, 10, stream=77)
    for b in range(3):
        s = int(seed[b]) & 0xFFFFFFFFFFFFFFFF
        flat = [w for i in range(3) for w in reference([i, 77, s & F, s >> 32], counter_rng._KEY)]
        assert got[b].tolist() == flat[:10]


def test_mix_python_and_tensor_paths_agree_and_order_matters():
    t = torch.tensor
    whole = mix(3, -5, 2**63 - 1, 12345)
    assert whole.shape == ()
    assert mix(t([3]), -5, t([2**63 - 1]), 12345).item() == whole.item()
    assert mix(3, t([-5]), 2**63 - 1, t([12345])).item() == whole.item()
    assert mix(1, 2).item() != mix(2, 1).item()
    assert mix(0).item() != mix(0, 0).item()
    grid = mix(1, t([[1], [2]]), t([[5, 6, 7]]))
    assert grid.shape == (2, 3) and grid.unique().numel() == 6
    assert grid[1, 2].item() == mix(1, 2, 7).item()
    with pytest.raises(TypeError, match="hashes integers"):
        mix(0.5)
    with pytest.raises(TypeError, match="hashes integers"):
        mix(torch.zeros(2))


def test_mix_avalanche():
    keys = torch.arange(4096)
    base, bits = mix(7, keys), torch.arange(64)
    for bit in (0, 1, 17, 40, 62):
        flips = ((base ^ mix(7, keys ^ (1 << bit)))[:, None] >> bits) & 1
        rate = flips.float().mean(0)
        assert (rate - 0.5).abs().max() < 5 * 0.5 / math.sqrt(4096)
    assert base.unique().numel() == 4096


@pytest.mark.parametrize("draw", [words, uniform, normal])
def test_values_do_not_depend_on_batching_or_chunking(draw, monkeypatch):
    seed, n = mix(1, torch.arange(13)), 203
    whole = draw(seed, n)
    for i in range(13):
        for j in range(i + 1, 14, 4):
            assert torch.equal(draw(seed[i:j], n), whole[i:j])
    for k in (0, 1, 2, 3, 4, 5, 63, 202):
        assert torch.equal(draw(seed, k), whole[:, :k])
    for chunk in (7, 50, 64):
        monkeypatch.setattr(counter_rng, "_CHUNK_CPU", chunk)
        assert torch.equal(draw(seed, n), whole)
    assert draw(seed[:0], n).shape == (0, n)


def test_normal_is_normal():
    stats = pytest.importorskip("scipy.stats")
    x = normal(mix(2, torch.arange(64)), 4001).double()
    assert torch.isfinite(x).all()
    assert stats.kstest(x.flatten().numpy()[:100_000], "norm").pvalue > 1e-3
    n = x.numel()
    assert abs(x.mean()) < 4 / math.sqrt(n)
    assert abs(x.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs((x**4).mean() - 3) < 4 * math.sqrt(96 / n)
    assert (x.abs() > 3).double().mean().item() == pytest.approx(2.7e-3, rel=0.15)
    # the four lanes each are normal, and neighbours (the Box-Muller pairs) are uncorrelated
    for lane in range(4):
        part = x[:, lane:4000:4].flatten().numpy()
        assert stats.kstest(part, "norm").pvalue > 1e-3
    pair = x[:, :4000].reshape(-1, 4)
    assert (pair.T @ pair / len(pair) - torch.eye(4)).abs().max() < 0.025


@pytest.mark.parametrize("chunk", [1, 40, 1 << 13])
def test_mosaic_is_gathered_from_full_rows(chunk, monkeypatch):
    monkeypatch.setattr(counter_rng, "_CHUNK_CPU", chunk)
    torch.manual_seed(0)
    for n, parts, batch in [(1, 1, 1), (7, 3, 2), (130, 5, 9), (64, 17, 3)]:
        rows = torch.randint(0, parts, (n,))
        seeds = mix(1, torch.arange(batch)[:, None], torch.arange(parts))
        full = normal(seeds.flatten(), n).view(batch, parts, n)
        expected = full.gather(1, rows[None, None].expand(batch, 1, n))[:, 0]
        assert torch.equal(normal_mosaic(seeds, mosaic(rows)), expected)
    # wide patches cost what a plain row costs, single elements at most four times that
    assert len(mosaic(torch.arange(64) // 8).block) == 16
    assert len(mosaic(torch.arange(64)).block) == 64
    assert normal_mosaic(seeds[:0], mosaic(rows)).shape == (0, 64)


def test_uniform_and_randint():
    stats = pytest.importorskip("scipy.stats")
    seed = mix(3, torch.arange(50))
    u = uniform(seed, 2000)
    assert u.min() >= 0 and u.max() < 1
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3
    counts = randint(seed, 2000, 7).flatten().bincount(minlength=7)
    assert len(counts) == 7 and stats.chisquare(counts.numpy()).pvalue > 1e-3
    bits = ((words(seed, 2000).flatten()[:, None] >> torch.arange(32)) & 1).double().mean(0)
    assert (bits - 0.5).abs().max() < 5 * 0.5 / math.sqrt(100_000)
    with pytest.raises(ValueError, match="high"):
        randint(seed, 3, 0)


def test_neighbouring_keys_are_uncorrelated():
    n = 4096
    bound = 5.5 / math.sqrt(n)
    for rows in (
        torch.cat([normal(mix(s, torch.tensor([4])), n) for s in range(24)]),  # seeds
        normal(mix(0, torch.arange(24)), n),  # images
        torch.cat([normal(mix(0, torch.tensor([4])), n, stream=s) for s in range(24)]),  # streams
        normal(torch.arange(24), n),  # seed words that differ in one bit, unmixed
    ):
        corr = torch.corrcoef(rows) - torch.eye(24)
        assert corr.abs().max() < bound


def test_permutation():
    assert permutation(0, 1).tolist() == []
    assert permutation(1, 1).tolist() == [0]
    first = [permutation(5, 0, p).tolist() for p in range(2000)]
    assert all(sorted(p) == list(range(5)) for p in first)
    counts = torch.tensor([p[0] for p in first]).bincount(minlength=5)
    assert (counts - 400).abs().max() < 5 * math.sqrt(2000 * 0.2 * 0.8)
    assert len({tuple(p) for p in first}) == 120
    assert permutation(1000, 3, 1).tolist() == permutation(1000, 3, 1).tolist()


def test_bad_arguments():
    with pytest.raises(ValueError, match="int64 tensor"):
        normal(torch.zeros(3), 4)
    with pytest.raises(ValueError, match="int64 tensor"):
        normal(torch.zeros(3, 1, dtype=torch.int64), 4)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_streams_are_bit_identical():
    seed = mix(1, torch.arange(33))
    assert torch.equal(mix(1, torch.arange(33, device="cuda")).cpu(), seed)
    assert torch.equal(words(seed.cuda(), 5001).cpu(), words(seed, 5001))
    assert torch.equal(uniform(seed.cuda(), 5001).cpu(), uniform(seed, 5001))
    torch.testing.assert_close(normal(seed.cuda(), 5001).cpu(), normal(seed, 5001))
