"""Candidates nearer than a radius are rejected: against brute force, in fp32 and in low precision,
in a pool, and in the loop of a loader."""

import pytest
import torch

from imle.codes import CodeGenerator
from imle.draws import draw_of
from imle.pool import PoolSearch, pixel_features, pool_codes, pool_search
from imle.rejection import Rejection, nearest_outside, outside, parse, rs_loss
from imle.search import CodeSearch, search
from imle.shortlist import Shortlist
from runtime import distributed
from tests import gloo
from tests.imle.loaders import ids_of, make, same, save, take
from tests.imle.toys import PlainModel, ToyCascade, mse

IDS = torch.tensor([7, 3, 100, 4, 12])


def problem():
    torch.manual_seed(0)
    model = ToyCascade(2)
    cx = torch.rand(5, 3, 4, 4)
    ys = [torch.rand(5, 3, 2 * s, 2 * s) for s in model.sides]
    return model, CodeGenerator(model.code_sizes, seed=3), cx, ys


def found(radii, ns=9, z=None, model=None, **how):
    own, keyed, cx, ys = problem()
    z = z or keyed
    return search(model or own, mse, z, cx, ys, IDS, 2, ns, 4, radii=radii, **how)


def radius(table, share):
    """A loss between two candidates', so that no rounding decides."""
    values = table.flatten().sort().values
    at = int(share * len(values))
    return float((values[at - 1] + values[at]) / 2)


def test_radius_0_is_the_plain_search_bit_for_bit():
    plain, zero = found(None, return_losses=True), found([0.0, 0.0], return_losses=True)
    for a, b in zip(plain, zero, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not zero.rejected.any() and not zero.empty.any()


@pytest.mark.parametrize("how", [{}, dict(code_bs=2), dict(plain=True)])
@pytest.mark.parametrize("share", [0.2, 0.6])
def test_the_nearest_that_is_not_nearer_wins(how, share):
    model = PlainModel(problem()[0]) if how.pop("plain", False) else None
    table = found(None, return_losses=True).all_losses[0]
    eps = [radius(table, share), 0.0]
    got = found(eps, model=model, return_losses=True, **how)
    losses = got.all_losses[0]
    allowed = torch.where(losses < eps[0], torch.inf, losses)
    farthest = torch.where(losses < eps[0], losses, -torch.inf)
    empty = allowed.isinf().all(1)
    expected = torch.where(empty, farthest.argmax(1), allowed.argmin(1))
    assert torch.equal(got.winners[:, 0], expected)
    assert torch.equal(got.empty[:, 0], empty) and not got.empty[:, 1].any()
    assert torch.equal(got.rejected[:, 0], (losses < eps[0]).sum(1))
    # what is chosen at level 0 is what level 1 goes on from
    again = found([0.0, 0.0], z=[c[:, None] for c in got.codes], ns=1)
    torch.testing.assert_close(again.losses, got.losses)


def test_all_rejected_keeps_the_farthest():
    got = found([1e9, 1e9], return_losses=True)
    assert got.empty.all() and (got.rejected == 9).all() and not got.failed.any()
    for level, losses in enumerate(got.all_losses):
        assert torch.equal(got.winners[:, level], losses.argmax(1))
        torch.testing.assert_close(got.losses[:, level], losses.amax(1))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("share", [0.15, 0.5, 0.85, 1.0])
@pytest.mark.parametrize("kind", ["keyed", "plain"])
def test_low_precision_decides_as_fp32(precision, share, kind):
    """The winner lies at the radius, where the two precisions disagree about who is beyond it."""
    table = found(None, ns=40, return_losses=True)
    values = [t.flatten().sort().values for t in table.all_losses]
    eps = [float(v[min(int(share * len(v)), len(v) - 1)]) for v in values]
    model, z, cx, ys = problem()

    def codes():
        if kind == "keyed":
            return z
        pools = iter(
            z.draw(level, 2, IDS, ids) for level in range(2) for ids in torch.arange(40).split(4)
        )
        return lambda rows, level: next(pools)

    exact = search(model, mse, codes(), cx, ys, IDS, 2, 40, 4, radii=eps)
    low = search(
        model, mse, codes(), cx, ys, IDS, 2, 40, 4, radii=eps, precision=precision, rescore=8
    )
    assert torch.equal(low.winners, exact.winners) and torch.equal(low.empty, exact.empty)


def test_where_low_precision_is_wrong_about_all_fp32_looks_at_all(monkeypatch):
    model, z, cx, ys = problem()
    exact = search(model, mse, z, cx, ys, IDS, 2, 40, 4, return_losses=True)
    eps = radius(exact.all_losses[0], 0.5)
    wanted = search(model, mse, z, cx, ys, IDS, 2, 40, 4, radii=[eps, 0.0])
    engine = CodeSearch(model, mse, 40, 4, precision="bf16", rescore=2)
    with engine:
        fast = engine._fast

        def misled(state, code, level, target):  # every candidate seems to be just beyond
            loss, state = type(fast).losses(fast, state, code, level, target)
            return loss * 1e-3 + eps if level == 0 else loss, state

        monkeypatch.setattr(fast, "losses", misled)
        got = engine(cx, ys, draw_of(z, 2, IDS, cx.device), radii=[eps, 0.0])
    assert torch.equal(got.winners[:, 0], wanted.winners[:, 0])


def test_shortlist():
    torch.manual_seed(0)
    keys = torch.rand(3, 20)
    keys[1, 5:] = torch.inf
    keys[2, :] = 0.5
    short = Shortlist(3, 6, torch.device("cpu"))
    for ids in torch.arange(20).split(7):
        short.offer(keys[:, ids], ids, keys[:, ids, None])
    ids, codes = short.numbers()
    assert ids[0].tolist() == keys[0].argsort()[:6].tolist()
    assert sorted(ids[1].tolist()) == [-1, 0, 1, 2, 3, 4] and ids[2].tolist() == list(range(6))
    assert torch.equal(codes[0, :, 0], keys[0, ids[0]])
    assert short.overflowed.tolist() == [True, False, True]


# ------------------------------------------------------------------------------------- the loader


def run(loops=3, **change):
    loader = make(**change)
    batches, reports = [], []
    for _ in range(loops):
        batches.append(take(loader))
        reports.append(loader.last_search)
    return loader, batches, reports


def flat(batches):
    return [b for loop in batches for b in loop]


def test_a_loader_with_radius_0_is_one_without():
    same(flat(run(rejection=Rejection(0.0))[1]), flat(run()[1]))


def test_a_quantile_is_measured_in_the_first_loop_and_then_frozen():
    _, plain, first = run(1)
    rejection = Rejection(quantile=0.5, levels="all")
    _, batches, reports = run(rejection=rejection)
    same(batches[0], plain[0])
    expected = first[0].losses.double().quantile(0.5, dim=0).tolist()
    assert rejection.measured == pytest.approx(expected) and rejection.measured_in == 0
    assert reports[0].rejection == (0.0, 0) and reports[1].rejection[0] > 0
    assert reports[1].figures()["search/rejected_fraction"] == reports[1].rejection[0]
    last = Rejection(quantile=0.5)
    _, _, reports = run(rejection=last)
    assert last.radii(1, 2) == [0.0, last.measured[1]]


def test_empty_rows_are_left_out_or_kept_or_all_kept():
    found = run(1)[2][0].losses[:, 1]
    for times in torch.linspace(1.3, 2, 8).tolist():  # some images have no candidate left
        eps = float(found.median()) * times
        _, batches, reports = run(1, rejection=Rejection(eps))
        if 0 < reports[0].rejection[1] < 6:
            break
    _, kept, _ = run(1, rejection=Rejection(eps, empty="keep"))
    count = reports[0].rejection[1]
    assert 0 < count < 6
    trained = set(ids_of(batches[0]))
    assert len(trained) == 6 - count and len(set(ids_of(kept[0]))) == 6
    assert len(batches[0]) == 5 and all(len(ids) == 2 for ids, *_ in batches[0])
    for cached, workers in ((True, 0), (False, 2)):
        other = run(1, rejection=Rejection(eps), cache_images=cached, num_workers=workers)
        same(flat(other[1]), flat(batches))
    _, batches, reports = run(1, rejection=Rejection(1e9))
    assert reports[0].rejection == (1.0, 6) and len(set(ids_of(batches[0]))) == 6


@pytest.mark.parametrize("change", [dict(quantile=0.6, levels="all"), dict(eps=0.085)])
def test_resume_is_exact(change):
    whole = flat(run(3, rejection=Rejection(**change))[1])
    for done in (0, 3, 7):
        loader, stream = make(rejection=Rejection(**change)), None
        stream = loader.forever()
        for _ in range(done):
            next(stream)
        again = make(rejection=Rejection(**change))
        again.load_state_dict(save(loader))
        batches = again.forever()
        rest = []
        for _ in range(done, 15):
            cx, codes, ys = next(batches)
            rest.append((list(again.last_ids), cx, codes, ys))
        same(rest, whole[done:])
    with pytest.raises(ValueError, match="rejection"):
        make().load_state_dict(save(loader))


def _two(change):
    loader = make(rejection=Rejection(**change))
    batches = take(loader, 2)
    return [b[0] for b in batches], loader.state_dict()["winners"].numpy()


def test_two_ranks_equal_one():
    change = dict(quantile=0.6, levels="all")
    alone = _two(change)
    ranks = gloo.run(2, _two, change)
    assert [a + b for a, b in zip(ranks[0][0], ranks[1][0], strict=True)] == alone[0]
    assert all((r[1] == alone[1]).all() for r in ranks)


# ----------------------------------------------------------------------------------- pool, words


class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(6, 48)
        self.code_sizes = [6]

    def forward(self, x, codes, loi=None):
        return torch.sigmoid(self.linear(codes[0])).view(-1, 3, 4, 4)


def pool(eps, ignore, chunk=16):
    model, z = Tiny(), CodeGenerator([6], seed=1)
    y = torch.rand(7, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    got = pool_search(model, z, [y], 3, pool_size=50, chunk=chunk, eps=eps, knn_ignore=ignore)
    with torch.no_grad():
        images = model(None, [pool_codes(z, 3, torch.arange(50))])
    apart = pixel_features(y).double()[:, None] - pixel_features(images).double()
    return got, apart.square().sum(2)


@pytest.mark.parametrize("eps", [0.0, 0.09, 0.1, 9.0])
@pytest.mark.parametrize("ignore", [1, 5, 50])
def test_a_pool_is_chosen_from_outside_the_balls(eps, ignore):
    got, distances = pool(eps, ignore)
    kept = outside(distances, eps, ignore)
    if not kept.any():  # all of them: none is rejected
        assert got.rejected == 0 and ignore == 50
        with pytest.raises(ValueError, match="all 50 samples"):
            nearest_outside(distances, eps, ignore)
        return
    expected, rejected = nearest_outside(distances, eps, ignore)
    assert got.candidates[:, 0].tolist() == expected.tolist()
    assert got.rejected == int(rejected.sum())
    other, _ = pool(eps, ignore, chunk=7)
    assert torch.equal(other.candidates, got.candidates)


def _pool_rank(eps, ignore):
    got, _ = pool(eps, ignore, chunk=5)
    return got.candidates.tolist(), got.rejected, distributed.rank()


def test_ranks_share_a_pool_with_rejection():
    alone, _ = pool(0.1, 3)
    for candidates, rejected, _ in gloo.run(2, _pool_rank, 0.1, 3):
        assert candidates == alone.candidates.tolist() and rejected == alone.rejected


def test_a_searcher_takes_its_radius_from_the_loader():
    rejection = Rejection(quantile=0.5)
    kwargs = dict(
        levels=1, model=Tiny(), z_gen=CodeGenerator([6], seed=1), loss_fn=None, corruptor=None,
        dataset=Pictures(), num_samples=1, sample_parallelism=1,
    )  # fmt: skip
    loader = make(searcher=PoolSearch(40, rejection=rejection), rejection=rejection, **kwargs)
    take(loader)
    assert loader.last_search.rejection[0] == 0 and rejection.measured is not None
    take(loader)
    assert 0 < loader.last_search.rejection[0] < 1


class Pictures:
    def __len__(self):
        return 9

    def __getitem__(self, i):
        y = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(i))
        return y[:, :1, :1], [y]


def test_rs_loss_has_a_gradient_of_0_where_all_are_rejected():
    real, fake = torch.rand(3, 2), torch.rand(3, 4, 2, requires_grad=True)
    loss = rs_loss(real, fake, 100.0)
    loss.backward()
    assert loss == 0 and not fake.grad.any()
    near = (fake - real[:, None]).norm(dim=2)
    torch.testing.assert_close(rs_loss(real, fake, 0.0), near.amin(1).mean())
    # the one candidate left of the one row left is the farthest of all: the release drops it
    eps = float(near.detach().flatten().sort().values[-2])
    assert rs_loss(real, fake, eps) == near.amax() and rs_loss(real, fake, eps, published=True) == 0


def test_words_and_arguments():
    assert parse("0.02") == (0.02, None) and parse("q0.1") == (None, 0.1)
    for word in ("x", "q", "-1", "q0", "q1", "q1.5", "nan", "inf", "0.1q"):
        with pytest.raises(ValueError, match=word):
            parse(word)
    for wrong in (
        dict(), dict(eps=1, quantile=0.1), dict(eps=-1), dict(quantile=1.0),
        dict(eps=1, levels="x"), dict(eps=1, empty="x"),
    ):  # fmt: skip
        with pytest.raises(ValueError):
            Rejection(**wrong)
