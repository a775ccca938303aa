"""Adaptive re-selection: who is searched again, that codes, flips and corruptions are those of the
loop they were searched in, and that force 1 is the plain search."""

import pytest
import torch

from imle.adaptive import Adaptive, Memory, Searched, by_loop, schedule
from imle.codes import CodeGenerator
from imle.kkm import KorKMinusOne
from imle.pool import PoolSearch
from imle.rejection import Rejection
from imle.search import CodeSearch, search
from tests import gloo
from tests.imle.loaders import make, same, save, take
from tests.imle.test_cells import toy_loader
from tests.imle.test_rejection import Pictures, Tiny
from tests.imle.toys import ToyCascade, mse


def follow(loader, loops):
    reports, batches = [], []
    for _ in range(loops):
        batches.append(take(loader))
        reports.append(loader.last_search)
    return reports, batches


def flat(batches):
    return [b for loop in batches for b in loop]


def test_force_1_is_the_plain_search_bit_for_bit():
    plain, adaptive = make(), make(adaptive=Adaptive(0.04, 1, 1))
    same(flat(follow(plain, 4)[1]), flat(follow(adaptive, 4)[1]))
    report = adaptive.last_search
    assert report.adaptive == (1.0, 6 * 8)
    assert torch.equal(report.winners, plain.last_search.winners)
    assert torch.equal(report.losses, plain.last_search.losses)


@pytest.mark.parametrize("change", [dict(num_workers=2), dict(cache_images=True), dict(code_bs=5)])
def test_workers_chunks_and_caches_change_nothing(change):
    adaptive = dict(adaptive=Adaptive(0.04, 1, 3))
    same(flat(follow(make(**adaptive), 4)[1]), flat(follow(make(**adaptive, **change), 4)[1]))


def test_ages_count_appearances_and_force_ends_them():
    """All of nine come up in every loop; the loss does not fall, so only force searches again."""
    loader = make(adaptive=Adaptive(0.04, 2, 3), subsample_size=9, kkm=KorKMinusOne(range(9)))
    reports, _ = follow(loader, 7)
    assert [r.adaptive[0] for r in reports] == [1, 0, 0, 1, 0, 0, 1]
    # loss of the stored code is asked for from staleness on, but not where force decides
    assert [r.adaptive[1] for r in reports] == [9 * 8, 0, 9 * 2, 9 * 8, 0, 9 * 2, 9 * 8]
    assert reports[1].figures().keys() == {"search/searched_fraction", "search/evaluations"}
    # an image that comes up twice in a loop is searched once, and its age rises by one
    twice = make(adaptive=Adaptive(0.04, 3, 3), n=2, subsample_size=6, kkm=KorKMinusOne(range(2)))
    reports, _ = follow(twice, 4)
    assert [r.adaptive[0] for r in reports] == [1, 0, 0, 1]
    assert len(reports[0].image_ids) == 2


def test_codes_flips_and_corruptions_are_of_the_loop_they_were_searched_in():
    keeps = dict(adaptive=Adaptive(0.04, 9, 9))
    plain, loader = (make(subsample_size=9, **more) for more in ({}, keeps))
    first = {i: row for ids, *b in take(plain) for i, row in zip(ids, rows_of(b), strict=True)}
    for _ in range(3):
        for ids, *batch in take(loader):
            for i, row in zip(ids, rows_of(batch), strict=True):
                if i in first:
                    torch.testing.assert_close(row, first[i], rtol=0, atol=0)


def rows_of(batch):
    cx, codes, ys = batch
    return [(cx[k], [c[k] for c in codes], [y[k] for y in ys]) for k in range(len(cx))]


def test_a_solved_image_is_searched_again_and_its_threshold_follows_the_new_code():
    adaptive = Adaptive(0.1, 1, 50)
    memory, calls = Memory.blank(), []
    losses = {0: 1.0, 1: 2.0}

    def search_(images):
        calls.append(images)
        return Searched(
            torch.full((len(images), 2), len(calls)),
            torch.tensor([[losses[i] / 2, losses[i] / 2] for i in images]),
            torch.zeros(len(images), dtype=torch.bool),
        )

    now = {0: 0.95, 1: 1.7}  # of the stored codes: only image 1 is below 0.9 of its loss

    def check(images, of):
        assert of.images.tolist() == images
        return torch.tensor([now[i] for i in images])

    turns = []
    for loop in range(3):
        turn = adaptive.turn(memory, [0, 1], loop, check, search_)
        turns.append(turn)
        memory = turn.memory
        losses = {0: 5.0, 1: 3.0}
    assert [t.searched for t in turns] == [[0, 1], [1], [1]]  # 2.7 > 1.7: solved again
    assert memory.tau.tolist() == pytest.approx([0.9, 2.7])
    assert memory.age.tolist() == [2, 0] and memory.loop.tolist() == [0, 2]
    assert turns[0].memory.age.tolist() == [0, 0]  # nothing is changed in place
    compat = Adaptive(0.1, 1, 50, compat=True)
    memory = turns[0].memory
    turn = compat.turn(memory, [0, 1], 1, check, search_)
    assert turn.searched == [1] and turn.memory.tau.tolist() == pytest.approx([0.9, 0.9 * 1.7])


def test_an_image_that_was_emptied_is_searched_whenever_it_comes_up():
    """All its candidates were rejected, so that it is not trained on: it has no code to keep."""
    adaptive, calls, empty = Adaptive(0.1, 5, 9), [], {3}

    def search(images):
        calls.append(images)
        gone = torch.tensor([i in empty for i in images])
        return Searched(torch.tensor(images)[:, None], torch.ones(len(images), 1), gone)

    def check(images, of):
        raise AssertionError("nobody is old enough")

    def come_up(memory, loop, **how):
        return adaptive.turn(memory, [2, 3, 4], loop, check, search, **how)

    first = come_up(Memory.blank(), 0, skips=True)
    second = come_up(first.memory, 1, skips=True)
    assert second.searched == [3] and second.memory.empty.tolist() == [False, True, False]
    empty.clear()
    third = come_up(second.memory, 2, skips=True)
    assert third.searched == [3] and not third.memory.empty.any()
    assert third.memory.loop.tolist() == [0, 2, 0] and third.memory.age.tolist() == [2, 0, 2]
    assert come_up(third.memory, 3, skips=True).searched == []
    # where such images are kept, they have the code of their farthest candidate
    assert come_up(first.memory, 1).searched == []
    assert calls == [[2, 3, 4], [3], [3]]


def test_the_check_is_the_loss_that_the_search_found():
    """The weights stand still, so the loss of a stored code is what it was when it was chosen."""
    loader = make(adaptive=Adaptive(0.04, 1, 9), subsample_size=9, kkm=KorKMinusOne(range(9)))
    seen = []
    measured = loader._measured
    loader._measured = lambda *a: seen.append(measured(*a)) or seen[-1]
    follow(loader, 2)
    tau = loader._memory.tau / 0.96
    torch.testing.assert_close(seen[0].double(), tau, rtol=1e-5, atol=1e-7)


def loader_of(**change):
    return make(adaptive=Adaptive(0.04, 1, 3), kkm=KorKMinusOne(range(9), True, seed=1), **change)


@pytest.mark.parametrize("beside", ["nothing", "rejection", "cells"])
def test_resume_anywhere_is_exact(beside):
    def fresh():
        more = dict(num_iteration=3, subsample_size=5)
        if beside == "rejection":
            more["rejection"] = Rejection(quantile=0.7, levels="all")
        if beside == "cells":
            return toy_loader(adaptive=Adaptive(0.04, 1, 3), **more)
        return loader_of(**more)

    loader = fresh()
    states = [save(loader)]
    whole = take(loader, 6, mark=lambda: states.append(save(loader)))
    for done in (0, 2, 5, 9, 16):
        again = fresh()
        again.load_state_dict(states[done])
        batches, got = again.forever(), []
        for _ in range(done, 18):
            cx, codes, ys = next(batches)
            got.append((list(again.last_ids), cx, codes, ys))
        same(got, whole[done:])
    with pytest.raises(ValueError, match="adaptive"):
        make(num_iteration=3, subsample_size=5).load_state_dict(states[4])


def test_an_abandoned_search_leaves_no_trace():
    class Stop(Exception):
        pass

    def chunk(done, total):
        if armed and done == 2:
            raise Stop

    armed = False
    expected = flat(follow(loader_of(), 4)[1])
    loader = loader_of(on_chunk=chunk)
    got = flat(follow(loader, 2)[1])
    for _ in range(2):
        armed, before = True, save(loader)
        with pytest.raises(Stop):
            next(iter(loader))
        after = save(loader)
        assert all(torch.equal(before["memory"][k], after["memory"][k]) for k in before["memory"])
        armed = False
        got += take(loader)
    same(got, expected)


def _rank():
    loader = loader_of(subsample_size=5, num_iteration=2)
    batches = take(loader, 4)
    return [b[0] for b in batches], {k: v.numpy() for k, v in save(loader)["memory"].items()}


def test_two_ranks_equal_one():
    alone = _rank()
    ranks = gloo.run(2, _rank)
    assert [a + b for a, b in zip(ranks[0][0], ranks[1][0], strict=True)] == alone[0]
    for _, memory in ranks:
        for name in ("images", "age", "loop", "winners"):
            assert (memory[name] == alone[1][name]).all(), name


def test_a_pool_too():
    def loader(adaptive=None):
        return make(
            levels=1, model=Tiny(), z_gen=CodeGenerator([6], seed=1), loss_fn=None, corruptor=None,
            dataset=Pictures(), num_samples=1, sample_parallelism=1, adaptive=adaptive,
            searcher=PoolSearch(40), subsample_size=9, kkm=KorKMinusOne(range(9)),
        )  # fmt: skip

    same(flat(follow(loader(), 3)[1]), flat(follow(loader(Adaptive(0.04, 1, 1)), 3)[1]))
    reports, batches = follow(loader(Adaptive(0.04, 2, 4)), 6)
    assert [r.adaptive[0] for r in reports] == [1, 0, 0, 0, 1, 0]
    code = {i: c for ids, _, codes, _ in batches[0] for i, c in zip(ids, codes[0], strict=True)}
    for ids, _, codes, _ in batches[3]:
        for i, c in zip(ids, codes[0], strict=True):
            assert i not in code or torch.equal(c, code[i])


def test_pieces_that_cannot_be_had_again_are_refused():
    adaptive = Adaptive()
    for change, said in (
        (dict(z_gen=lambda bs, level: torch.zeros(bs, 3)), "codes of a function"),
        (dict(corruptor=lambda x: x), "what a function took away"),
    ):
        with pytest.raises(ValueError, match=said):
            make(adaptive=adaptive, **change)

    class Bare:
        search = codes = None

    with pytest.raises(ValueError, match="a Bare does not say"):
        make(adaptive=adaptive, searcher=Bare())
    for wrong in (dict(gamma=1.0), dict(gamma=-0.1), dict(staleness=0), dict(staleness=31)):
        with pytest.raises(ValueError):
            Adaptive(**wrong)


def test_by_loop_keeps_the_order_of_rows():
    loops = torch.tensor([3, 1, 3, 2, 1])
    made = by_loop(loops, lambda loop, at: (at * 10 + loop, [torch.full((len(at), 2), loop)]))
    assert made[0].tolist() == [3, 11, 23, 32, 41]
    assert made[1][0][:, 0].tolist() == loops.tolist()


def test_the_schedule_of_a_constant_loss():
    due, tau, age = schedule(Adaptive(0.5, 2, 3, compat=True), torch.full((7, 1), 0.4).double())
    assert due[:, 0].tolist() == [True, False, False, True, False, False, True]
    assert tau[:, 0].tolist() == pytest.approx([0.2] * 7)
    assert age[:, 0].tolist() == [1, 1, 2, 3, 1, 2, 3]


def test_rows_are_measured_as_a_search_of_them_alone():
    model = ToyCascade(2)
    z, cx = CodeGenerator(model.code_sizes, seed=3), torch.rand(3, 3, 4, 4)
    ys, ids = [torch.rand(3, 3, 2 * s, 2 * s) for s in model.sides], torch.tensor([5, 2, 8])
    found = search(model, mse, z, cx, ys, ids, 0, 4, 2)
    with CodeSearch(model, mse, 4, 2) as engine:
        torch.testing.assert_close(engine.measure(cx, ys, found.codes), found.losses)
