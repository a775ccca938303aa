"""The pool search against brute force in float64, and that IMLE on it memorises a few images."""

import os

import pytest
import torch
import torch.multiprocessing as mp

from imle.codes import CodeGenerator
from imle.kkm import KorKMinusOne
from imle.loader import CIMLEDataLoader
from imle.losses import ProjectedDistance
from imle.perceptual import VGG16Features
from imle.pool import (
    Nearest,
    PoolSearch,
    pixel_features,
    pool_codes,
    pool_search,
    used_fraction,
)
from imle.search import NonFiniteSearchError
from imle.unconditional import UnconditionalGenerator


def small(resolution=8, z_nc=6):
    torch.manual_seed(0)
    sides = 2 if resolution == 8 else 3
    return UnconditionalGenerator(
        resolution, z_nc=z_nc, latent_nc=16, map_layers=2, channels=[16] * sides
    )


def images(n, resolution=8, seed=0):
    return torch.rand(n, 3, resolution, resolution, generator=torch.Generator().manual_seed(seed))


def brute(queries, rows):
    """Nearest row of each query in float64: (row numbers, squared distances)."""
    d = (queries.double()[:, None] - rows.double()[None]).square().sum(2)
    return d.argmin(1), d.amin(1)


def offer(queries, rows, chunk):
    nearest = Nearest(queries)
    for i in range(0, len(rows), chunk):
        nearest.update(rows[i : i + chunk], torch.arange(i, min(i + chunk, len(rows))))
    return nearest.result()


# -- nearest neighbour -----------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 7, 64, 200])
def test_nearest_equals_brute_force(chunk):
    g = torch.Generator().manual_seed(0)
    queries, rows = torch.randn(33, 20, generator=g), torch.randn(101, 20, generator=g)
    found = offer(queries, rows, chunk)
    ids, d = brute(queries, rows)
    assert torch.equal(found.candidates, ids[:, None])
    assert torch.equal(found.distances, d)


def test_nearest_is_exact_where_the_expanded_form_cancels():
    """Far from the origin, rows nearly equal: fp32 |a|^2 + |b|^2 - 2ab chooses by chance."""
    g = torch.Generator().manual_seed(0)
    base = torch.randn(1, 64, generator=g) * 3
    queries = base + 1e-3 * torch.randn(20, 64, generator=g)
    queries[0] += 1000.0  # keeps the mean away from the others, so that centring cannot save it
    rows = base + 1e-3 * torch.randn(300, 64, generator=g)
    found = offer(queries, rows, 50)
    ids, d = brute(queries, rows)
    naive = (queries.square().sum(1)[:, None] + rows.square().sum(1) - 2 * queries @ rows.T).argmin(
        1
    )
    assert (naive != ids).sum() > 5
    assert torch.equal(found.candidates[:, 0], ids)
    assert torch.allclose(found.distances, d, rtol=1e-12)


def test_a_collapsed_pool_and_ties_go_to_the_smallest_number():
    queries = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    rows = torch.zeros(40, 8)
    assert offer(queries, rows, 16).candidates.unique().tolist() == [0]
    nearest = Nearest(queries)  # also when the smaller number comes later, as from another rank
    for ids in (torch.arange(20, 40), torch.arange(0, 20)):
        nearest.update(rows[ids], ids)
    found = nearest.result()
    assert found.candidates.unique().tolist() == [0]
    assert used_fraction(found.candidates) == pytest.approx(1 / 5)


def test_blocks_of_queries_and_pairs_do_not_change_the_result(monkeypatch):
    g = torch.Generator().manual_seed(0)
    queries, rows = torch.randn(40, 12, generator=g), torch.randn(60, 12, generator=g)
    rows[30:] = rows[:30]
    whole = offer(queries, rows, 60)
    monkeypatch.setattr("imle.pool._BLOCK", 70)
    pieces = offer(queries, rows, 60)
    assert torch.equal(whole.candidates, pieces.candidates)
    assert torch.equal(whole.distances, pieces.distances)


def test_rows_that_are_not_finite_never_win_and_hide_nobody():
    g = torch.Generator().manual_seed(0)
    queries, rows = torch.randn(9, 5, generator=g), torch.randn(30, 5, generator=g)
    rows[::2, 3] = torch.nan
    rows[1, 0] = torch.inf
    found = offer(queries, rows, 8)
    good = torch.arange(3, 30, 2)
    assert torch.equal(found.candidates[:, 0], good[brute(queries, rows[good])[0]])
    with pytest.raises(NonFiniteSearchError, match="no sample"):
        offer(queries, torch.full((4, 5), torch.nan), 2)
    with pytest.raises(NonFiniteSearchError, match="images"):
        Nearest(rows)


def test_autocast_does_not_reach_the_distances():
    g = torch.Generator().manual_seed(0)
    queries, rows = torch.randn(33, 20, generator=g), torch.randn(101, 20, generator=g)
    with torch.autocast("cpu", torch.bfloat16):
        found = offer(queries, rows, 32)
    assert torch.equal(found.candidates[:, 0], brute(queries, rows)[0])


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="do not fit"):
        Nearest(torch.zeros(2, 3)).update(torch.zeros(2, 4), torch.arange(2))
    for bad in (torch.zeros(0, 3), torch.zeros(3)):
        with pytest.raises(ValueError, match="features"):
            Nearest(bad)


# -- the pool --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["normal", "mixture"])
def test_pool_search_equals_brute_force_over_the_whole_pool(method):
    net = small()
    z = CodeGenerator(net.code_sizes, seed=5, method=method)
    y = images(11)
    found = pool_search(net, z, [y[:4], y[4:]], 3, pool_size=50, chunk=16)
    with torch.no_grad():
        pool = net.sample(pool_codes(z, 3, torch.arange(50)))
    ids, d = brute(pixel_features(y), pixel_features(pool))
    assert torch.equal(found.candidates[:, 0], ids)
    assert torch.allclose(found.distances, d, rtol=1e-4)
    assert torch.allclose(d, (y - pool[ids]).square().mean((1, 2, 3)).double(), rtol=1e-4)


def test_the_search_may_use_any_features():
    net = small()
    z = CodeGenerator(net.code_sizes)
    y = images(6)
    mean_colour = lambda x: x.mean((2, 3))  # noqa: E731
    found = pool_search(net, z, [y], 0, pool_size=30, chunk=30, features=mean_colour)
    with torch.no_grad():
        pool = net.sample(pool_codes(z, 0, torch.arange(30)))
    assert torch.equal(found.candidates[:, 0], brute(mean_colour(y), mean_colour(pool))[0])


def test_the_projected_features_of_the_loss_serve_as_features():
    features = VGG16Features(random_seed=0)
    projected = ProjectedDistance(features, proj_dim=50)
    net = small(16)
    z = CodeGenerator(net.code_sizes)
    y = images(2, 16)
    found = pool_search(net, z, [y], 0, pool_size=6, chunk=4, features=projected.project)
    with torch.no_grad():
        pool = net.sample(pool_codes(z, 0, torch.arange(6)))
        d = projected(pool.repeat(2, 1, 1, 1), y).view(2, 6)
    assert torch.equal(found.candidates[:, 0], d.argmin(1))
    assert torch.allclose(found.distances.float(), d.amin(1), rtol=1e-3)


def test_winners_depend_neither_on_chunks_nor_on_the_batching_of_images():
    net = small()
    z = CodeGenerator(net.code_sizes, seed=1)
    y = images(9)
    runs = [
        pool_search(net, z, batches, 2, pool_size=45, chunk=chunk)
        for chunk, batches in [(45, [y]), (7, y.split(2)), (1000, y.split(1))]
    ]
    for other in runs[1:]:
        assert torch.equal(runs[0].candidates, other.candidates)
        assert torch.allclose(runs[0].distances, other.distances, rtol=1e-5)
    again = pool_search(net, z, [y], 3, pool_size=45, chunk=45)
    assert not torch.equal(runs[0].candidates, again.candidates)  # another loop, another pool


def test_a_winner_drawn_again_is_the_image_that_won():
    net = small()
    z = CodeGenerator(net.code_sizes, seed=1, method="mixture")
    seen = []

    def model(cx, codes, loi=None):
        seen.append(net(cx, codes, loi=loi))
        return seen[-1]

    found = pool_search(model, z, [images(6)], 0, pool_size=64, chunk=16)
    ids = found.candidates[:, 0]
    won = torch.stack([seen[i // 16][i % 16] for i in ids.tolist()])
    whole = torch.cat(
        [net.sample(pool_codes(z, 0, torch.arange(i, i + 16))) for i in (0, 16, 32, 48)]
    )
    assert torch.equal(whole[ids], won)  # the same batch shape: bit for bit
    assert torch.allclose(net.sample(pool_codes(z, 0, found.candidates)), won, atol=1e-6)


def test_a_candidate_is_the_same_whoever_asks():
    z = CodeGenerator([10], seed=4)
    all_ = pool_codes(z, 1, torch.arange(20))
    assert torch.equal(pool_codes(z, 1, torch.tensor([[17], [3]])), all_[[17, 3]])
    assert not torch.equal(pool_codes(z, 2, torch.arange(20)), all_)
    assert not torch.equal(z.draw(0, 1, torch.tensor([0]), torch.arange(20)), all_)


def test_the_callback_counts_chunks_and_may_end_the_search():
    net, calls = small(), []
    z = CodeGenerator(net.code_sizes)
    pool_search(net, z, [images(2)], 0, pool_size=10, chunk=4, on_chunk=lambda *a: calls.append(a))
    assert calls == [(1, 3), (2, 3), (3, 3)]

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool_search(net, z, [images(2)], 0, pool_size=10, chunk=4, on_chunk=stop)


def test_a_pool_without_samples_is_refused():
    net = small()
    with pytest.raises(ValueError, match="pool_size"):
        pool_search(net, CodeGenerator(net.code_sizes), [images(2)], 0, pool_size=0)
    with pytest.raises(ValueError, match="CodeGenerator"):
        pool_search(net, lambda bs, level: torch.randn(bs, 6), [images(2)], 0, pool_size=4)


# -- in the loader ---------------------------------------------------------------------------------


def loader_of(net, z, y, **options):
    data = [(y[i], [y[i]]) for i in range(len(y))]
    return CIMLEDataLoader(
        data,
        KorKMinusOne(range(len(y)), shuffle=True, seed=1),
        net,
        None,
        z,
        None,
        1,
        1,
        4,
        subsample_size=6,
        num_iteration=5,
        batch_size=3,
        searcher=PoolSearch(40, chunk=16),
        **options,
    )


def test_the_loader_trains_on_the_winners_of_the_pool():
    net = small()
    z = CodeGenerator(net.code_sizes, seed=2, method="mixture")
    y = images(10)
    loader = loader_of(net, z, y)
    for loop in range(2):
        with torch.no_grad():
            pool = net.sample(pool_codes(z, loop, torch.arange(40)))
        ids, d = brute(pixel_features(y), pixel_features(pool))
        count = 0
        for _, codes, ys in loader:
            assert torch.equal(ys[0], y[loader.last_ids])
            assert torch.equal(codes[0], pool_codes(z, loop, ids[loader.last_ids]))
            count += 1
        assert count == 5
        report = loader.last_search
        assert torch.equal(report.winners[:, 0], ids[report.image_ids])
        assert torch.allclose(report.losses[:, 0], d[report.image_ids].float(), rtol=1e-4)


def test_the_loader_resumes_a_pool_loop_without_another_search():
    net = small()
    z = CodeGenerator(net.code_sizes, seed=2)
    y = images(10)
    whole, cut = loader_of(net, z, y), loader_of(net, z, y)
    want = list(whole)
    stream = iter(cut)
    next(stream), next(stream)
    state = cut.state_dict()
    again = loader_of(net, z, y)
    again.load_state_dict(state)
    net.const.data.add_(1.0)  # a search now would find others
    got = list(again)
    assert len(got) == 3
    for (_, a, b), (_, c, d) in zip(want[2:], got, strict=True):
        assert torch.equal(a[0], c[0]) and torch.equal(b[0], d[0])


def test_a_low_precision_pool_is_compared_in_fp32():
    net = small()
    z = CodeGenerator(net.code_sizes)
    y = images(4)
    found = pool_search(net, z, [y], 0, pool_size=32, chunk=32, precision="bf16")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        pool = net.sample(pool_codes(z, 0, torch.arange(32)))
    assert torch.equal(found.candidates[:, 0], brute(pixel_features(y), pixel_features(pool))[0])


# -- ranks -----------------------------------------------------------------------------------------


def _rank(rank, world, folder):
    os.environ.update(OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
    )
    net, calls = small(), []
    z = CodeGenerator(net.code_sizes, seed=1)
    found = pool_search(
        net, z, [images(9)], 2, pool_size=33, chunk=8, on_chunk=lambda *a: calls.append(a)
    )
    torch.save((found.candidates, found.distances, len(calls)), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_ranks_share_the_pool_and_agree_with_one(tmp_path):
    net = small()
    z = CodeGenerator(net.code_sizes, seed=1)
    want = pool_search(net, z, [images(9)], 2, pool_size=33, chunk=8)
    mp.start_processes(_rank, (2, str(tmp_path)), nprocs=2, start_method="fork")
    for rank in range(2):
        ids, d, calls = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.equal(ids, want.candidates)
        assert torch.allclose(d, want.distances, rtol=1e-5)
        assert calls == 3  # rank 1 has nothing in its last round, its callback comes all the same


# -- learning --------------------------------------------------------------------------------------


def test_imle_on_a_pool_memorises_a_few_images():
    """Four flat images of different colours: every one must get a sample of its own."""
    torch.manual_seed(0)
    net = small(z_nc=4)
    z = CodeGenerator(net.code_sizes, seed=0)
    colours = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.9, 0.9, 0.1]])
    y = colours[:, :, None, None].expand(-1, -1, 8, 8).contiguous()
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3, betas=(0.9, 0.99))
    first = None
    for loop in range(15):
        found = pool_search(net, z, [y], loop, pool_size=64, chunk=64)
        first = found.distances.mean() if first is None else first
        code = pool_codes(z, loop, found.candidates)
        for _ in range(8):
            loss = (net(None, [code])[0] - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    final = pool_search(net, z, [y], 99, pool_size=64, chunk=64)
    assert used_fraction(final.candidates) == 1.0
    assert final.distances.max() < 0.1 * first
