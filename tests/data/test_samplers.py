import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from data.samplers import StepSampler
from storage.errors import DataError


class Indices(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, i):
        return i


def drawn(sampler, batches, workers=0):
    loader = DataLoader(Indices(), batch_sampler=sampler, num_workers=workers)
    stream = sampler.batches(loader)
    return [next(stream).tolist() for _ in range(batches)]


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_pass_is_a_permutation_and_batches_are_full(shuffle):
    rows = drawn(StepSampler(10, 4, seed=3, shuffle=shuffle), 10)
    assert all(len(r) == 4 for r in rows)
    flat = sum(rows, [])
    passes = [flat[k : k + 10] for k in range(0, 40, 10)]
    assert all(sorted(p) == list(range(10)) for p in passes)
    assert (len({tuple(p) for p in passes}) == 4) == shuffle


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_from_the_count_alone(workers):
    whole = drawn(StepSampler(10, 4, seed=1), 12)
    first = StepSampler(10, 4, seed=1)
    assert drawn(first, 5, workers) == whole[:5]
    state = first.state_dict()
    assert state["drawn"] == 20  # although workers were asked for more
    second = StepSampler(10, 4, seed=1)
    second.load_state_dict(state)
    assert drawn(second, 7, workers) == whole[5:]


def test_ranks_share_the_same_global_batches():
    whole = drawn(StepSampler(10, 4, seed=1), 6)
    ranks = [drawn(StepSampler(10, 4, seed=1, rank=r, world_size=2), 6) for r in range(2)]
    for batch, a, b in zip(whole, *ranks, strict=True):
        assert batch[0::2] == a and batch[1::2] == b


def test_global_random_state_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    sampler = StepSampler(10, 4, seed=1)
    for _, _batch in zip(range(3), sampler, strict=False):
        pass
    assert (torch.get_rng_state() == before).all()


def test_refusals():
    for arguments in ((0, 4), (10, 0)):
        with pytest.raises(DataError):
            StepSampler(*arguments)
    with pytest.raises(DataError, match="multiple of 3"):
        StepSampler(10, 4, world_size=3)
    with pytest.raises(DataError, match="11 pictures before, 10 now"):
        StepSampler(10, 4).load_state_dict({"drawn": 0, "n": 11, "seed": 0})
