"""CIMLEDataLoader: accounting, keys, independence of workers and ranks, exact resume."""

import copy
import io
import os

import numpy as np
import pytest
import torch

from imle.augment import KeyedFlip
from imle.codes import CodeGenerator
from imle.kkm import KorKMinusOne
from imle.loader import CIMLEDataLoader
from imle.search import NonFiniteSearchError
from runtime import distributed
from runtime.counter_rng import mix, uniform
from tests import gloo
from tests.imle.test_search import oracle
from tests.imle.toys import PlainModel, PreparedLoss, ToyCascade, ToyImages, mse


class KeyedNoise:
    """A corruption keyed by loop and image, as the real one is."""

    def keyed(self, x, loop, image_ids):
        noise = uniform(mix(3, loop, image_ids), x[0].numel()).view_as(x)
        return 0.5 * x + 0.5 * noise


def make(n=9, cls=CIMLEDataLoader, **change):
    """A loader over n toy pyramids, our own objects throughout."""
    levels = change.pop("levels", 2)
    model = change.pop("model", None) or ToyCascade(levels)
    kwargs = dict(
        dataset=ToyImages(n, levels),
        kkm=KorKMinusOne(range(n), shuffle=True, seed=1),
        model=model,
        corruptor=KeyedNoise(),
        z_gen=CodeGenerator(model.code_sizes, seed=2) if hasattr(model, "code_sizes") else None,
        loss_fn=mse,
        num_samples=4,
        sample_parallelism=3,
        code_bs=2,
        subsample_size=6,
        num_iteration=5,
        batch_size=2,
        seed=5,
        augment=KeyedFlip(4),
    )
    return cls(**(kwargs | change))


def take(loader, loops=1, mark=lambda: None):
    """Everything yielded in so many iterations, with the image ids."""
    out = []
    for _ in range(loops):
        for cx, codes, ys in loader:
            out.append((list(loader.last_ids), cx, codes, ys))
            mark()
    return out


def same(a, b, exact=True):
    assert [x[0] for x in a] == [x[0] for x in b]
    close = {} if not exact else dict(rtol=0, atol=0)
    for (_, *left), (_, *right) in zip(a, b, strict=True):
        torch.testing.assert_close(left, right, **close)
    return True


def ids_of(batches):
    return [i for b in batches for i in b[0]]


# ------------------------------------------------------------------------------------ accounting


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(
    "num_iteration, subsample, bs",
    [(1, 8, 2), (10, 8, 2), (17, 8, 2), (250, 100, 1), (250, 200, 2), (5, 3, 4), (9, 7, 3),
     (1, 1, 1), (3, 1, 5), (2, 20, 9), (4, 4, 4), (3, 2, 7)],
)  # fmt: skip
def test_exactly_num_iteration_full_batches(num_iteration, subsample, bs, drop_last):
    loader = make(
        n=11,
        subsample_size=subsample,
        num_iteration=num_iteration,
        batch_size=bs,
        drop_last=drop_last,
        levels=1,
        num_samples=1,
        code_bs=50,
    )
    assert len(loader) == num_iteration
    for _ in range(2):
        batches = take(loader)
        assert len(batches) == num_iteration == len(loader)
        assert all(len(ids) == len(cx) == len(c[0]) == bs for ids, cx, c, _ in batches)


def test_the_readme_case_of_ten_thousand_batches():
    loader = make(n=400, subsample_size=400, num_iteration=10_000, batch_size=2)
    assert len(loader) == 10_000
    assert sorted(p for b in range(9_800, 10_000) for p in loader.positions(0, b)) == list(
        range(400)
    )


@pytest.mark.parametrize("size, bs", [(7, 3), (8, 2), (5, 5), (4, 9), (1, 3)])
def test_stream_carries_over(size, bs):
    """drop_last=False: the batches, laid end to end, are whole passes."""
    loader = make(n=size, subsample_size=size, batch_size=bs)
    flat = [p for b in range(60) for p in loader.positions(2, b)]
    for first in range(0, len(flat) - size, size):
        assert sorted(flat[first : first + size]) == list(range(size))
    passes = {tuple(flat[i : i + size]) for i in range(0, len(flat) - size, size)}
    assert len(passes) > 1 or size == 1
    assert flat != [p for b in range(60) for p in loader.positions(3, b)] or size == 1


@pytest.mark.parametrize("size, bs", [(7, 3), (8, 3), (6, 2)])
def test_stream_drops_the_rest_of_each_pass(size, bs):
    loader = make(n=size, subsample_size=size, batch_size=bs, drop_last=True)
    per = size // bs
    for p in range(8):
        seen = [i for b in range(p * per, (p + 1) * per) for i in loader.positions(0, b)]
        assert len(set(seen)) == per * bs
    short = make(n=size, subsample_size=size, batch_size=size + 2, drop_last=True)
    carried = make(n=size, subsample_size=size, batch_size=size + 2)
    assert [short.positions(0, b) for b in range(9)] == [carried.positions(0, b) for b in range(9)]


def test_shuffle():
    def order(**kw):
        loader = make(num_iteration=6, batch_size=3, **kw)
        ids = ids_of(take(loader))
        return [ids[i : i + 6] for i in (0, 6, 12)]

    popped = KorKMinusOne(range(9), shuffle=True, seed=1).pop_many(6)
    assert order(shuffle=False) == [popped] * 3
    for shuffle in (None, True):
        passes = order(shuffle=shuffle)
        assert all(sorted(p) == sorted(popped) for p in passes)
        assert len({tuple(p) for p in passes}) == 3
        assert passes == order()
    assert order(seed=6) != order(seed=5)


def test_subsamples_follow_kkm():
    loader = make(n=9, subsample_size=6, num_iteration=3, batch_size=2)
    popped = KorKMinusOne(range(9), shuffle=True, seed=1)
    for _ in range(4):
        assert sorted(ids_of(take(loader))) == sorted(popped.pop_many(6))
    whole = make(n=9, subsample_size=None, num_iteration=3, batch_size=3)
    assert sorted(ids_of(take(whole))) == list(range(9))
    wider = make(n=3, subsample_size=7, num_iteration=7, batch_size=1)  # images come repeatedly
    assert sorted(ids_of(take(wider))).count(0) in (2, 3)
    assert len(wider.last_search.image_ids) == 3  # but are searched once


# ------------------------------------------------------------------------ what a batch consists of


@pytest.mark.parametrize("keyed", [True, False])
def test_batches_hold_the_flipped_corrupted_images_and_the_best_codes(keyed):
    data, flip, model = ToyImages(9), KeyedFlip(4), ToyCascade(2)
    z = CodeGenerator(model.code_sizes, seed=2, method="mixture")
    corruptor = KeyedNoise() if keyed else lambda x: (x * 0.5).add_(0.1)
    loader = make(model=model, z_gen=z, corruptor=corruptor, num_samples=[4, 6])
    for loop in range(2):
        for ids, cx, codes, ys in take(loader):
            ids_t = torch.tensor(ids)
            items = [data[i] for i in ids]
            x = torch.stack([i[0] for i in items])
            targets = [torch.stack([i[1][k] for i in items]) for k in range(2)]
            x, *targets = (t.float() / 255 for t in flip([x, *targets], loop, ids_t))
            expected = corruptor.keyed(x, loop, ids_t) if keyed else x * 0.5 + 0.1
            assert torch.equal(cx, expected)
            assert all(torch.equal(a, b) for a, b in zip(ys, targets, strict=True))
            _, best, _ = oracle(model, z, cx, ys, ids_t, loop, [4, 6])
            for a, b in zip(codes, best, strict=True):
                assert torch.equal(a, b)


def test_plain_objects_of_the_originals():
    """Lists of float tensors, an nn.Module that knows nothing of candidates, lambdas."""
    torch.manual_seed(0)
    n, model = 8, PlainModel(ToyCascade(2)).train()
    data = [(torch.rand(3, 4, 4), [torch.rand(3, 8, 8), torch.rand(3, 16, 16)]) for _ in range(n)]
    sizes = model.inner.code_sizes
    loader = CIMLEDataLoader(
        data,
        KorKMinusOne(range(n), shuffle=True),
        model,
        lambda x: x + 0.01 * torch.randn_like(x),
        lambda n, i="all": (
            [torch.randn(n, d) for d in sizes] if i == "all" else torch.randn(n, sizes[i])
        ),
        lambda fx, y: ((fx - y) ** 2).mean((1, 2, 3)),
        [8],
        [3],
        2,
        subsample_size=4,
        num_iteration=6,
        batch_size=2,
    )
    seen = {}
    count, gain = 0, 0.0
    for cx, codes, ys in loader:
        count += 1
        with torch.no_grad():
            fx = model.eval()(cx, codes, loi=1)
            other = model(cx, [codes[0], torch.randn_like(codes[1])], loi=1)
        gain += (mse(other, ys[1]) - mse(fx, ys[1])).mean().item()
        for k, i in enumerate(loader.last_ids):
            assert torch.equal(ys[0][k], data[i][1][0])
            assert (cx[k] - data[i][0]).abs().max() < 0.1
            # one corruption and one code an image and loop
            if i in seen:
                assert torch.equal(seen[i][0], cx[k]) and torch.equal(seen[i][1], codes[1][k])
            seen[i] = cx[k], codes[1][k]
    assert count == 6 and len(seen) == 4 and gain > 0


def test_plain_code_generator_and_corruption_survive_a_resume():
    def plain(corruptor, z_gen):
        return make(corruptor=corruptor, z_gen=z_gen, loss_fn=PreparedLoss())

    sizes = ToyCascade(2).code_sizes
    torch.manual_seed(3)
    whole, states = plain(lambda x: x + torch.rand_like(x), lambda bs, level: torch.randn(
        bs, sizes[level])), []  # fmt: skip
    batches = take(whole, mark=lambda: states.append(save(whole)))
    again = plain(None, None)
    again.corruptor = again.z_gen = lambda *a, **k: pytest.fail("the saved ones are used")
    again.load_state_dict(states[1])
    same(take(again), batches[2:])


def test_targets_may_be_one_tensor_and_one_level():
    model = ToyCascade(1)
    data = [(torch.rand(3, 4, 4), torch.rand(3, 8, 8)) for _ in range(4)]
    loader = make(n=4, dataset=data, model=model, augment=None, corruptor=None, subsample_size=4)
    for ids, cx, codes, ys in take(loader):
        assert len(codes) == len(ys) == 1
        assert torch.equal(cx, torch.stack([data[i][0] for i in ids]))
        assert torch.equal(ys[0], torch.stack([data[i][1] for i in ids]))


@pytest.mark.parametrize(
    "change",
    [
        dict(num_workers=2),
        dict(num_workers=1, cache_images=True),
        dict(cache_images=True),
        dict(sample_parallelism=[1, 2], code_bs=4),
        dict(sample_parallelism=100, code_bs=100),
        dict(loss_fn=PreparedLoss()),
    ],
)
def test_result_does_not_depend_on_how_it_is_computed(change):
    expected, got = take(make(), 2), take(make(**change), 2)
    same(expected, got)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files as Linux does")
def test_cached_images_hold_no_files_open():
    loader = make(
        n=200, levels=1, subsample_size=200, num_samples=1, num_workers=1, cache_images=True
    )
    before = len(os.listdir("/proc/self/fd"))
    batches = iter(loader)
    next(batches)
    assert len(os.listdir("/proc/self/fd")) < before + 100


def test_images_are_decoded_once_more_a_use_unless_cached():
    for cached, reads in ((False, 6 + 10), (True, 6)):
        data = ToyImages(9)
        take(make(dataset=data, cache_images=cached))
        assert data.reads == reads


def test_low_precision_search_is_a_matter_of_the_search():
    same(take(make(precision="bf16", rescore=4)), take(make()))


def test_global_generators_are_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for workers in (0, 1):
        take(make(num_workers=workers))
    assert torch.equal(torch.get_rng_state(), before)


def test_independent_iterators():
    alone = take(make(), 2)
    loader = make()
    a, b = iter(loader), iter(loader)
    got_a, got_b = [], []
    for _ in range(5):
        for it, got in ((a, got_a), (b, got_b)):
            cx, codes, ys = next(it)
            got.append((list(loader.last_ids), cx, codes, ys))
    same(got_a + got_b, alone)
    for it in (a, b):
        with pytest.raises(StopIteration):
            next(it)
    same(take(loader), take(make(), 3)[10:])


def test_forever():
    loader, expected = make(), take(make(), 3)
    batches = loader.forever()
    got = []
    for _ in range(13):
        cx, codes, ys = next(batches)
        got.append((list(loader.last_ids), cx, codes, ys))
    same(got, expected[:13])


# ------------------------------------------------------------------------------------------ state


def save(loader):
    """A state as a checkpoint keeps it: tensors and plain values only."""
    file = io.BytesIO()
    torch.save(loader.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


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


# ----------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "workers, error", [(0, KeyError), (0, IndexError), (0, StopIteration), (1, KeyError)]
)
def test_exceptions_of_the_dataset_come_through(workers, error):
    class Broken(ToyImages):
        def __getitem__(self, i):
            if i == 3:
                raise error("picture 3 is broken")
            return super().__getitem__(i)

    loader = make(n=6, dataset=Broken(6), num_workers=workers)
    seen = RuntimeError if error is StopIteration else error
    with pytest.raises(seen, match="picture 3 is broken"):
        take(loader)
    assert loader.state_dict()["loop"] == -1
    assert loader.kkm.state_dict() == KorKMinusOne(range(6), True, seed=1).state_dict()


def test_an_image_without_finite_loss_is_named():
    class Corrupted(KeyedNoise):
        def keyed(self, x, loop, image_ids):
            x = super().keyed(x, loop, image_ids)
            x[image_ids == 4] = torch.nan
            return x

    with pytest.raises(NonFiniteSearchError, match=r"1 of 6 images \(ids 4\)"):
        take(make(n=6, corruptor=Corrupted()))


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(batch_size=0), "batch_size must be a whole number >= 1, got 0"),
        (dict(batch_size=None), "batch_size"),
        (dict(num_iteration=0), "num_iteration"),
        (dict(subsample_size=0), "subsample_size"),
        (dict(code_bs=0), "code_bs"),
        (dict(num_workers=-1), "num_workers"),
        (dict(num_samples=[1, 2, 3]), "num_samples has 3 values for 2 levels"),
        (dict(sample_parallelism=0), "sample_parallelism must be positive"),
        (dict(precision="fp8"), "fp32, bf16, fp16"),
        (dict(rescore=0), "rescore"),
    ],
)
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        make(**change)


def test_items_of_the_wrong_form():
    x, y = torch.rand(3, 4, 4), torch.rand(3, 8, 8)
    for item in (x, (x,), (x, y, y), (x.numpy(), [y]), (x, [y.numpy()]), (x, [])):
        with pytest.raises(ValueError, match=r"must be tensors \(x, \[y_1, ..., y_L\]\)"):
            take(make(n=4, dataset=[item] * 4, subsample_size=4))
    for other in ((x, [y]), (x[:, :2], [y, y]), (x, [y, y[:1]])):
        data = [(x, [y, y])] * 3 + [other]
        with pytest.raises(ValueError, match=r"item \d of the data set has images of .* be alike"):
            take(make(n=4, dataset=data, subsample_size=4, code_bs=4))


def test_numbers_may_come_from_numpy():
    same(take(make(num_samples=np.int64(4), batch_size=np.int32(2))), take(make()))


# -------------------------------------------------------------------------------------- searchers


def test_a_searcher_replaces_the_search():
    class Fixed:
        def search(self, model, z_gen, batches, loop, on_chunk):
            seen = [(ids, cx, ys) for ids, cx, ys in batches]
            ids = torch.cat([s[0] for s in seen])
            assert sum(len(s[1]) for s in seen) == len(ids) == 6
            on_chunk(1, 1)
            return ids[:, None] * 10 + loop, torch.zeros(6, 1)

        def codes(self, z_gen, loop, image_ids, winners):
            assert torch.equal(winners[:, 0], image_ids * 10 + loop)
            return [z_gen.draw(0, loop, torch.tensor([-1]), winners[:, 0])]

    calls, model = [], ToyCascade(1)
    z = CodeGenerator(model.code_sizes)
    loader = make(
        model=model, z_gen=z, searcher=Fixed(), on_chunk=lambda *a: calls.append(a), levels=1
    )
    for ids, _, codes, _ in take(loader):
        expected = z.draw(0, 0, torch.tensor([-1]), torch.tensor(ids) * 10)
        assert torch.equal(codes[0], expected)
    assert calls == [(1, 1)]


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
