"""CIMLEDataLoader: its state, abandoned searches, and two ranks that equal one."""

import copy

import pytest
import torch

from imle.kkm import KorKMinusOne
from imle.search import NonFiniteSearchError
from runtime import distributed
from tests import gloo
from tests.imle.loaders import KeyedNoise, make, same, save, take
from tests.imle.toys import PreparedLoss

# ------------------------------------------------------------------------------------------ state


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("drop_last, cached", [(False, False), (True, True)])
def test_resume_anywhere_is_exact(workers, drop_last, cached):
    def fresh(**kw):
        return make(subsample_size=7, num_iteration=4, batch_size=3, drop_last=drop_last, **kw)

    loader = fresh()
    states = [save(loader)]
    whole = take(loader, 3, mark=lambda: states.append(save(loader)))
    assert len(states) == 13
    for done in range(0, 9, 1 if workers == 0 else 3):
        again = fresh(num_workers=workers, cache_images=cached, kkm=KorKMinusOne(range(9), True))
        again.load_state_dict(states[done])
        assert save(again)["batch"] == states[done]["batch"]
        batches = again.forever()
        got = []
        for _ in range(done, 12):
            cx, codes, ys = next(batches)
            got.append((list(again.last_ids), cx, codes, ys))
        same(got, whole[done:])
    # in loops: what is left of the running one, then whole ones
    again = fresh()
    again.load_state_dict(states[6])
    assert [len(take(again)) for _ in range(2)] == [2, 4]
    again.load_state_dict(states[8])
    assert len(take(again)) == 4 and len(again) == 4


def test_mid_loop_resume_needs_no_search():
    loader = make()
    stream = loader.forever()
    for _ in range(3):
        next(stream)
    again = make(on_chunk=lambda *a: pytest.fail("nothing is searched again"))
    again.load_state_dict(save(loader))
    take(again)


def test_state_is_small_and_means_after_the_last_batch_yielded():
    loader = make(num_workers=2)  # workers read ahead, the state does not
    stream = iter(loader)
    for done in range(1, 4):
        next(stream)
        state = save(loader)
        assert (state["loop"], state["batch"]) == (0, done)
    assert state["winners"].shape == (6, 2) and state["codes"] is state["inputs"] is None
    sizes = [v.numel() for v in state.values() if isinstance(v, torch.Tensor)]
    assert sum(sizes) == 6 + 12


@pytest.mark.parametrize("when", range(1, 7))
@pytest.mark.parametrize("loops_before", [0, 2])
def test_an_abandoned_search_leaves_no_trace(when, loops_before):
    class Preempted(BaseException):
        pass

    def stop(done, total):
        assert total == 3 * 4 and done <= total
        if armed and done == when:
            states.append(save(loader))
            raise Preempted

    expected = take(make(), loops_before + 2)[5 * loops_before :]
    armed, states = False, []
    loader = make(on_chunk=stop)
    take(loader, loops_before)
    states.append(save(loader))
    armed = True
    with pytest.raises(Preempted):
        next(iter(loader))
    states.append(save(loader))
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        for key in state:
            if isinstance(state[key], torch.Tensor):
                assert torch.equal(state[key], states[0][key])
            else:
                assert state[key] == states[0][key]
    # repeated in a new process ...
    again = make()
    again.load_state_dict(states[1])
    if loops_before:
        assert again._resume is not None
    same(take(again, 2), expected)
    # ... and in this one
    armed = False
    same(take(loader, 2), expected)


def test_state_for_other_streams_is_refused():
    state = save(make())
    for change, said in (
        (dict(batch_size=3), "batch_size 2 -> 3"),
        (dict(num_iteration=7), "num_iteration 5 -> 7"),
        (dict(drop_last=True), "drop_last False -> True"),
        (dict(subsample_size=5), "subsample_size 6 -> 5"),
    ):
        with pytest.raises(ValueError, match=said):
            make(**change).load_state_dict(state)
    make(code_bs=1, sample_parallelism=1, num_workers=1).load_state_dict(state)


@pytest.mark.parametrize("change", [dict(corruptor=lambda x: x), dict(z_gen=lambda bs, level: 0)])
def test_state_of_keyed_objects_needs_keyed_objects(change):
    plain, keyed = make(loss_fn=PreparedLoss(), corruptor=lambda x: x), make()
    for loader in (plain, keyed):
        next(iter(loader))
    for state, other in ((save(keyed), make(**change)), (save(plain), make())):
        before = other.kkm.state_dict()
        with pytest.raises(ValueError, match="another kind of corruptor or z_gen"):
            other.load_state_dict(state)
        assert other.kkm.state_dict() == before


# ------------------------------------------------------------------------------------------ ranks


def _rank(subsample, batch_size, state):
    calls = []
    loader = make(
        subsample_size=subsample,
        batch_size=batch_size,
        num_iteration=3,
        # a collective in the callback, as a shared preemption flag makes one
        on_chunk=lambda *a: calls.append(distributed.all_reduce_max(a[0])),
    )
    if state is not None:
        loader.load_state_dict(state)
    batches = take(loader, 2)
    plain = make(
        subsample_size=subsample,
        batch_size=batch_size,
        num_iteration=2,
        corruptor=lambda x: x * 0.5,
        z_gen=lambda bs, level: torch.randn(
            bs, loader.z_gen.code_sizes[level], generator=torch.Generator().manual_seed(bs)
        ),
    )
    kept = take(plain)
    numpy = [(ids, cx.numpy(), [c.numpy() for c in cs]) for ids, cx, cs, _ in batches]
    kept = [(ids, cx.numpy(), [c.numpy() for c in cs]) for ids, cx, cs, _ in kept]
    return numpy, len(calls), copy.deepcopy(loader.state_dict()), kept


@pytest.mark.parametrize("subsample, batch_size", [(6, 4), (5, 2), (1, 2)])
def test_two_ranks_equal_one(subsample, batch_size):
    alone = make(subsample_size=subsample, batch_size=batch_size, num_iteration=3)
    states = [save(alone)]
    expected = take(alone, 2, mark=lambda: states.append(save(alone)))
    for done in (0, 2):
        ranks = gloo.run(2, _rank, subsample, batch_size, states[done] if done else None)
        assert ranks[0][1] == ranks[1][1] > 0  # equally many chunks
        for (ids, cx, codes, _), *parts in zip(
            expected[done:], ranks[0][0], ranks[1][0], strict=False
        ):
            assert parts[0][0] + parts[1][0] == ids
            both = torch.cat([torch.from_numpy(p[1]) for p in parts])
            torch.testing.assert_close(both, cx, rtol=0, atol=1e-6)
            for level in range(2):
                both = torch.cat([torch.from_numpy(p[2][level]) for p in parts])
                torch.testing.assert_close(both, codes[level], rtol=0, atol=0)
        final = ranks[0][2]
        if not done:
            assert torch.equal(final["winners"], alone.state_dict()["winners"])
        for key in ("loop", "batch", "kkm"):
            assert ranks[0][2][key] == ranks[1][2][key]
        assert torch.equal(ranks[0][2]["winners"], ranks[1][2]["winners"])
        # plain objects: an image has the same input and code in whichever rank and batch it comes
        seen = {}
        for _, _, _, kept in ranks:
            for ids, cx, codes in kept:
                for k, i in enumerate(ids):
                    row = (cx[k].tobytes(), codes[0][k].tobytes(), codes[1][k].tobytes())
                    assert seen.setdefault(i, row) == row


def _bad_rank():
    with pytest.raises(ValueError, match="batch_size 3 cannot be divided among 2 ranks"):
        make(batch_size=3)

    class Corrupted(KeyedNoise):
        def keyed(self, x, loop, image_ids):
            x = super().keyed(x, loop, image_ids)
            x[image_ids == 4] = torch.nan  # in one rank's share only
            return x

    with pytest.raises(NonFiniteSearchError, match=r"1 of 6 images \(ids 4\)"):
        take(make(n=6, corruptor=Corrupted()))
    return True


def test_errors_with_two_ranks_reach_both():
    assert gloo.run(2, _bad_rank) == [True, True]
