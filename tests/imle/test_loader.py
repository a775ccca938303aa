"""CIMLEDataLoader: accounting, keys, independence of workers, errors, searchers."""

import os

import numpy as np
import pytest
import torch

from imle.augment import KeyedFlip
from imle.codes import CodeGenerator
from imle.kkm import KorKMinusOne
from imle.loader import CIMLEDataLoader
from imle.search import NonFiniteSearchError
from tests.imle.loaders import KeyedNoise, ids_of, make, same, save, take
from tests.imle.test_search import oracle
from tests.imle.toys import PlainModel, PreparedLoss, ToyCascade, ToyImages, mse

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
    alone = make(precision="bf16", rescore=0)  # other winners, found again after a restart
    again = make(precision="bf16", rescore=0)
    same(take(alone), take(again))


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
        (dict(rescore=-1), "rescore must be a whole number >= 0, got -1"),
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
