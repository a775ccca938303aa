"""Spatial noise chosen cell by cell: against a choice by hand, and what it must never change."""

import copy
import itertools

import pytest
import torch

from imle.cells import FIRST_NUMBER, cell_grids, sweeps
from imle.codes import CodeGenerator
from imle.draws import KeyedDraw
from imle.generator import CAMNet
from imle.losses import PixelLoss, ProjectedDistance, ResolutionLoss, cell_means
from imle.pool import PoolSearch
from imle.search import CodeSearch, search
from imle.types import SpatialNoise
from imle.unconditional import UnconditionalGenerator
from tests import gloo
from tests.imle.loaders import make, same, save, take
from tests.imle.toys import PlainModel, ToyCascade, mse

IDS = torch.tensor([7, 3, 100, 4, 12])


class CellToy(ToyCascade):
    """ToyCascade that says where its noise is."""

    def spatial_noise(self, level):
        return SpatialNoise(3, 1, self.sides[level], self.sides[level])


class MappedMSE(torch.nn.Module):
    """The pixel MSE, with maps."""

    def prepare(self, y):
        return y

    def forward(self, fx, y):
        return mse(fx.float(), y.repeat_interleave(len(fx) // len(y), 0))

    def maps(self, fx, y, cells):
        squared = (fx.float() - y.repeat_interleave(len(fx) // len(y), 0)).square().mean(1)
        return cell_means(squared, cells).unflatten(0, (len(y), -1))


def problem(levels=2, batch=5):
    model = CellToy(levels)
    torch.manual_seed(0)
    cx = torch.rand(batch, 3, 4, 4)
    ys = [torch.rand(batch, 3, 2 * s, 2 * s) for s in model.sides]
    return model, CodeGenerator(model.code_sizes, seed=3), cx, ys


@torch.no_grad()
def oracle(model, z, cx, ys, ids, loop, ns, local_ns, cells):
    """One image, one candidate and one cell at a time: numbers, codes and losses of every level."""
    model.eval()
    rows = [_by_hand(model, z, cx, ys, ids, loop, ns, local_ns, cells, b) for b in range(len(cx))]
    model.train()
    most = 1 + max(min(c, side) for c, side in zip(cells, model.sides, strict=True)) ** 2
    filled = [[[*own, *own[:1] * (most - len(own))] for own in numbers] for numbers, _, _ in rows]
    codes = [torch.cat(level) for level in zip(*(codes for _, codes, _ in rows), strict=True)]
    return torch.tensor(filled), codes, torch.tensor([losses for _, _, losses in rows])


def _by_hand(model, z, cx, ys, ids, loop, ns, local_ns, cells, b):
    numbers, codes, losses = [], [], []
    for level, side in enumerate(model.sides):
        y = ys[level][b : b + 1]

        def draw(k, level=level):
            return z.draw(level, loop, ids[b : b + 1], torch.tensor([k]))

        def output(code, level=level):
            return model(cx[b : b + 1], [*codes, code], loi=level)

        whole = [mse(output(draw(k)), y).item() for k in range(ns[level])]
        winner = whole.index(min(whole))
        style, count = draw(winner)[:, :3], min(cells[level], side)
        picks, used = [winner] * count**2, 0
        n = local_ns[level]
        plan = (
            [(n - n // 4 * 2, (0, 1)), (n // 4, (0,)), (n // 4, (1,))] if n >= 16 else [(n, (0, 1))]
        )
        for some, colours in plan:
            changes = [(i + j) % 2 in colours for i, j in itertools.product(range(count), repeat=2)]
            new = [FIRST_NUMBER + used + k for k in range(some)]
            tried = [
                picks,
                *([k if c else p for c, p in zip(changes, picks, strict=True)] for k in new),
            ]
            made = [output(_assembled(draw, style, side, count, t)) for t in tried]
            for cell in range(count**2):
                there = [_at_cell(m, y, side, count, cell) for m in made]
                picks = [*picks[:cell], tried[there.index(min(there))][cell], *picks[cell + 1 :]]
            used += some
        code = _assembled(draw, style, side, count, picks)
        loss = mse(output(code), y).item()
        if not loss < whole[winner]:
            code, loss, picks = draw(winner), whole[winner], [winner] * count**2
        codes.append(code)
        numbers.append([winner, *picks])
        losses.append(loss)
    return numbers, codes, losses


def _assembled(draw, style, side, count, picks):
    """A code of a style [1, 3] and the noise of candidate picks[cell] in each cell."""
    noises = {k: draw(k)[0, 3:].view(side, side) for k in set(picks)}
    noise = torch.empty(side, side)
    for p, q in itertools.product(range(side), repeat=2):
        noise[p, q] = noises[picks[p * count // side * count + q * count // side]][p, q]
    return torch.cat([style, noise.reshape(1, -1)], 1)


def _at_cell(made, y, side, count, cell):
    """The loss over the pixels of the output that are of a cell, wholly or in part."""
    down, across = (
        slice(k * 2 * side // count, -(-(k + 1) * 2 * side // count)) for k in divmod(cell, count)
    )
    return float((made - y).square()[0, :, down, across].mean())


@pytest.mark.parametrize("cells", [[2, 4], [3, 5], [1, 64]])
@pytest.mark.parametrize("sp, code_bs", [([3, 4], 5), (1, 2), (100, 3)])
def test_equals_a_choice_by_hand(cells, sp, code_bs):
    model, z, cx, ys = problem()
    ns, local_ns = [5, 4], [6, 18]
    numbers, codes, losses = oracle(model, z, cx, ys, IDS, 2, ns, local_ns, cells)
    found = search(
        model, MappedMSE(), z, cx, ys, IDS, 2, ns, sp, code_bs=code_bs, cells=cells,
        local_ns=local_ns,
    )  # fmt: skip
    assert torch.equal(found.winners, numbers)
    for level in range(2):
        assert torch.equal(found.codes[level], codes[level])
    torch.testing.assert_close(found.losses, losses)
    assert (numbers >= FIRST_NUMBER).any() and len(numbers.unique()) > 9
    assert (found.losses <= found.whole).all() and (found.losses < found.whole).any()
    assert (found.whole <= found.first).all()


def tiny_camnet():
    torch.manual_seed(3)
    net = CAMNet(
        res=[8, 16, 32], resid_nc=[8, 6], dense_nc=[4, 4], n_blocks=1, map_nc=4, latent_nc=8
    )
    cx = torch.rand(4, 3, 8, 8)
    ys = [torch.rand(4, 3, 16, 16), torch.rand(4, 3, 32, 32)]
    return net, ResolutionLoss(random_seed=0, alpha=1.0), CodeGenerator(net.code_sizes), cx, ys


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_camnet_is_never_worse_than_the_plain_search_and_mostly_better(precision):
    net, loss, z, cx, ys = tiny_camnet()
    one = [ys[0]]  # later levels go on from other states
    options = dict(precision=precision, rescore=2)
    plain = search(net, loss, z, cx, one, IDS[:4], 0, 6, 4, **options)
    found = search(net, loss, z, cx, one, IDS[:4], 0, 6, 4, cells=4, local_ns=8, **options)
    assert torch.equal(found.winners[:, :, 0], plain.winners)
    assert torch.equal(found.whole, plain.losses) and torch.equal(found.first, plain.first)
    assert (found.losses <= plain.losses).all() and (found.losses < plain.losses).sum() >= 2
    both = search(net, loss, z, cx, ys, IDS[:4], 0, 6, 4, cells=[4, 8], **options)
    assert torch.equal(both.losses[:, :1], search(
        net, loss, z, cx, one, IDS[:4], 0, 6, 4, cells=4, **options
    ).losses)  # fmt: skip
    with torch.no_grad():  # the codes have the losses that are told, in full precision
        images = net(cx, both.codes)
    for level, (fx, y) in enumerate(zip(images, ys, strict=True)):
        torch.testing.assert_close(loss(fx, y), both.losses[:, level], rtol=1e-4, atol=0)


def test_without_cells_nothing_changes_and_nothing_more_is_run():
    model, z, cx, ys = problem()
    results = []
    for options in ({}, {"cells": 0, "local_ns": 3}, {"cells": [0, 0]}):
        model.rows = [0, 0]
        results.append(search(model, mse, z, cx, ys, IDS, 0, 4, 3, **options))
        assert model.rows == [20, 20]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0)
    assert results[0].winners.shape == (5, 2)
    model.rows = [0, 0]
    some = search(model, MappedMSE(), z, cx, ys, IDS, 0, 4, 3, cells=[0, 2], local_ns=6)
    # the winner again, six more, and what they come to
    assert model.rows == [20, 20 + 5 * (1 + 6 + 1)] and some.winners.shape == (5, 2, 5)
    assert torch.equal(some.losses[:, 0], results[0].losses[:, 0])


class Coarse(MappedMSE):
    """Its losses in steps of `step`: many are equal."""

    step = 0.05

    def forward(self, fx, y):
        return (super().forward(fx, y) / self.step).floor()

    def maps(self, fx, y, cells):
        return (super().maps(fx, y, cells) / self.step).floor()


class Flat(Coarse):
    step = 1e9


def test_of_equals_the_first_wins_whatever_the_chunks():
    model, z, cx, ys = problem()
    how = dict(code_bs=3, cells=[2, 4], local_ns=[6, 18])
    flat = search(model, Flat(), z, cx, ys, IDS, 2, [5, 4], 2, **how).winners
    assert not flat.any()  # the first candidate, and in every cell the base
    found = [search(model, Coarse(), z, cx, ys, IDS, 2, [5, 4], sp, **how) for sp in (1, 3, 100)]
    assert all(torch.equal(found[0].winners, other.winners) for other in found[1:])
    assert (found[0].winners >= FIRST_NUMBER).any()


def test_chunks_of_the_second_search():
    assert sweeps(4, 8, 4) == [(0, [(0, 3), (3, 6), (6, 9)], None)]
    assert sweeps(4, 15, 8) == [(0, [(0, 8), (8, 16)], None)]
    assert sweeps(4, 1, 1) == [(0, [(0, 1), (1, 2)], None)]
    chequered = [(0, [(0, 10)], None), (9, [(0, 5)], 0), (13, [(0, 5)], 1)]
    assert sweeps(4, 17, 99) == chequered
    assert sweeps(1, 17, 99) == [(0, [(0, 18)], None)]  # one cell has no neighbours
    engine = CodeSearch(*problem()[:1], MappedMSE(), 4, 4, cells=[0, 2], local_ns=8)
    assert engine.local_sweeps(2) == [[], sweeps(2, 8, 4)] and engine.chunks(2) == 5
    assert engine.local_plan(2) == [[], [(0, 3), (3, 6), (6, 9)]]
    calls = []
    model, z, cx, ys = problem()
    search(model, MappedMSE(), z, cx, ys, IDS, 0, 4, 3, code_bs=2, cells=2, local_ns=4,
           on_chunk=lambda *at: calls.append(at))  # fmt: skip
    assert calls == [(i + 1, 24) for i in range(24)]


def test_images_without_a_finite_candidate_and_parts_that_are_not_finite():
    model, z, cx, ys = problem()

    class Broken(MappedMSE):
        def maps(self, fx, y, cells):
            found = super().maps(fx, y, cells)
            found[:, :, 0] = torch.nan  # of a row of cells nothing is known
            found[:, 1:, 1, 0] = torch.inf
            return found

    found = search(model, Broken(), z, cx, ys, IDS, 0, 4, 3, cells=2, local_ns=5)
    grid = found.winners[:, :, 1:].view(5, 2, 2, 2)
    assert (grid[:, :, 0] == found.winners[:, :, :1, None].expand(-1, -1, 1, 2)[:, :, 0]).all()
    assert torch.isfinite(found.losses).all()

    cx[1] = torch.nan
    with CodeSearch(model, MappedMSE(), 4, 2, cells=2) as engine:
        found = engine(cx, ys, KeyedDraw(z, 0, IDS))
    assert found.failed.tolist() == [False, True, False, False, False]
    assert torch.isinf(found.losses[1]).all()


@pytest.mark.parametrize("method", ["normal", "mixture"])
def test_composed_codes_are_bit_for_bit_those_of_their_candidates(method):
    model = CellToy(2)
    z = CodeGenerator(model.code_sizes, seed=3, method=method)
    for cells in (1, 3, 4):
        for level, grid in enumerate(cell_grids(model, [cells, cells], torch.device("cpu"))):
            numbers = torch.randint(0, 9, (5, 3, 1 + cells**2)) + FIRST_NUMBER
            made = z.compose(level, 4, IDS, numbers, grid.rows, grid.pattern).view(5, 3, -1)
            full = z.draw(level, 4, IDS, numbers.flatten(1)).view(5, 3, 1 + cells**2, -1)
            for e, row in enumerate(grid.rows.tolist()):
                assert torch.equal(made[:, :, e], full[:, :, row, e])
            side = model.sides[level]
            where = grid.rows[3:].view(side, side)
            assert grid.rows[:3].tolist() == [0] * 3
            assert where[0, 0] == 1 and where[-1, -1] == cells**2
            assert len(where.unique()) == cells**2


CELLS = dict(loss_fn=MappedMSE(), cells=[2, 3], local_ns=[5, 4], num_samples=3)


def toy_loader(**change):
    return make(**({"model": CellToy(2)} | CELLS | change))


@pytest.mark.parametrize("done", [1, 4, 5, 7])
def test_resume_within_a_loop_is_bit_exact(done):
    straight = take(toy_loader(), 2)
    first = toy_loader()
    batches = first.forever()
    for _ in range(done):
        next(batches)
    state = save(first)
    resumed = toy_loader(sample_parallelism=1, code_bs=4)
    resumed.load_state_dict(state)
    batches = resumed.forever()
    rest = [(list(resumed.last_ids), *batch) for batch in (next(batches) for _ in range(10 - done))]
    rest = [(straight[done + k][0], *batch[1:]) for k, batch in enumerate(rest)]
    assert same(rest, straight[done:])
    assert (resumed.last_search if done == 5 else first.last_search).winners.shape[1:] == (2, 10)


def test_codes_of_batches_are_those_that_were_judged():
    loader = toy_loader()
    batches = take(loader)
    report = loader.last_search
    model, loss = loader.model.eval(), MappedMSE()
    row = {int(i): r for r, i in enumerate(report.image_ids)}
    for ids, cx, codes, ys in batches:
        with torch.no_grad():
            images = model(cx, codes)
        for level in range(2):
            told = report.losses[[row[i] for i in ids], level]
            torch.testing.assert_close(loss(images[level], ys[level]), told)
    gains = report.gains()
    assert list(gains) == ["gain_0", "gain_1", "cells_gain_0", "cells_gain_1"]
    assert all(0 < float(g) < 1 for g in gains.values())
    plain = make(num_samples=3)
    take(plain)
    assert list(plain.last_search.gains()) == ["gain_0", "gain_1"]


def _rank(state):
    loader = toy_loader(batch_size=2, subsample_size=5, num_iteration=3)
    if state is not None:
        loader.load_state_dict(state)
    batches = take(loader, 1)
    return [(i, [c.numpy() for c in codes]) for i, _, codes, _ in batches], copy.deepcopy(
        loader.state_dict()
    )


def test_ranks_chunks_and_images_at_a_time_change_nothing():
    alone = toy_loader(batch_size=2, subsample_size=5, num_iteration=3)
    expected = take(alone)
    for change in ({"sample_parallelism": 1}, {"code_bs": 1}, {"sample_parallelism": 9}):
        other = toy_loader(batch_size=2, subsample_size=5, num_iteration=3, **change)
        assert same(take(other), expected)
    first = toy_loader(batch_size=2, subsample_size=5, num_iteration=3)
    next(iter(first))
    for state, done in ((None, 0), (save(first), 1)):
        ranks = gloo.run(2, _rank, state)
        assert torch.equal(ranks[0][1]["winners"], alone.state_dict()["winners"])
        for (ids, _, codes, _), *parts in zip(
            expected[done:], ranks[0][0], ranks[1][0], strict=True
        ):
            assert parts[0][0] + parts[1][0] == ids
            for level in range(2):
                both = torch.cat([torch.from_numpy(p[1][level]) for p in parts])
                assert torch.equal(both, codes[level])


def test_states_without_cells_load_and_are_as_they_were():
    plain = make(num_samples=3)
    batches = iter(plain)
    next(batches)
    state = save(plain)
    assert state["version"] == 1 and "cells" not in state and state["winners"].dim() == 2
    rest = take_rest(plain, batches)
    loader = make(num_samples=3, model=CellToy(2), loss_fn=MappedMSE(), cells=2)
    loader.load_state_dict(state)  # the loop that was begun ends as it began
    assert same(take_rest(loader, iter(loader)), rest)
    assert next(iter(loader)) and loader.last_search.winners.dim() == 3
    with pytest.raises(ValueError, match="version 3, this code reads 1 and 2"):
        loader.load_state_dict({**state, "version": 3})


def take_rest(loader, batches):
    return [(list(loader.last_ids), *batch) for batch in batches]


def refused():
    cascade = CellToy(2)
    net = CAMNet(
        res=[8, 16], code_nc=0, resid_nc=[4], dense_nc=[4], n_blocks=1, map_nc=4, latent_nc=8
    )
    distance = ResolutionLoss(random_seed=0)
    z = CodeGenerator(cascade.code_sizes)
    free = UnconditionalGenerator(16, z_nc=4, latent_nc=8, channels=[8, 8, 8])
    return [
        (dict(model=ToyCascade(2)), "a ToyCascade has no spatial noise"),
        (dict(model=PlainModel(cascade), z_gen=z), "a PlainModel has no spatial noise"),
        (dict(model=free), "a UnconditionalGenerator has no spatial noise"),
        (dict(model=net), "the codes of level 0 have no spatial noise"),
        (dict(z_gen=lambda bs, level: torch.rand(bs, 19)), "codes of a function cannot be put"),
        (dict(loss_fn=mse), "the loss mse is of whole images"),
        (dict(loss_fn=PixelLoss()), "the loss PixelLoss is of whole images"),
        (dict(loss_fn=ProjectedDistance(distance.features, 10)), "the loss ProjectedDistance is"),
        (dict(searcher=PoolSearch(8)), "a PoolSearch does not search level by level"),
        (dict(cells=-1), "cells must be whole numbers, at least 0"),
        (dict(cells=[2, 2, 2]), "cells has 3 values for 2 levels"),
        (dict(local_ns=0), "local_ns must be positive whole numbers"),
        (dict(local_ns=[1, 2, 3]), "local_ns has 3 values for 2 levels"),
    ]


@pytest.mark.parametrize("case", range(13))
def test_what_has_no_cells_is_refused_in_a_line(case):
    change, words = refused()[case]
    with pytest.raises(ValueError, match=words) as error:
        toy_loader(**change)
    assert "\n" not in str(error.value)
    if "searcher" not in change and "local_ns" not in change:
        model = change.get("model", CellToy(2))
        z = change.get("z_gen", CodeGenerator(model.code_sizes if "z_gen" not in change else [19]))
        with pytest.raises(ValueError, match=words):
            search(
                model, change.get("loss_fn", MappedMSE()), z, torch.rand(2, 3, 4, 4),
                [torch.rand(2, 3, 8, 8)] * len(getattr(model, "code_sizes", [0] * 2)), IDS[:2],
                0, 2, 2, cells=change.get("cells", 2),
            )  # fmt: skip
