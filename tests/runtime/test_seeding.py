"""Seeds: stable over versions and processes, different for different keys, restorable."""

import itertools
import os
import random
import signal
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from runtime import seeding


def draw():
    return (
        random.random(),
        float(np.random.rand()),
        float(torch.rand(())),
        int(torch.randint(9, ())),
    )


def test_hash64_is_frozen():
    """A change of these numbers would change every run that is resumed, and every process."""
    assert seeding.hash64("step", 0, 0, 0) == 5607837160581583583
    assert seeding.hash64() == 6510301506637419378


def test_hash64_tells_keys_apart():
    parts = [0, 1, -1, 10, "0", "1", "", "a", "ab", "b", 2**64]
    keys = [k for n in range(4) for k in itertools.product(parts, repeat=n)]
    assert len({seeding.hash64(*k) for k in keys}) == len(keys)
    assert all(0 <= seeding.hash64(*k) < 2**63 for k in keys[:200])


@pytest.mark.parametrize("bad", [1.0, None, True, b"x", (1,)])
def test_hash64_refuses_what_has_no_stable_form(bad):
    with pytest.raises(TypeError):
        seeding.hash64(bad)


def test_a_step_draws_the_same_whatever_came_before():
    seeding.seed_step(3, 100)
    first = draw()
    for _ in range(5):
        draw()
    seeding.seed_step(3, 100)
    assert draw() == first


def test_seed_step_rank_and_step_all_matter():
    seen = set()
    for seed, step, rank in itertools.product(range(4), range(4), range(4)):
        seeding.seed_step(seed, step, rank)
        seen.add(draw())
    assert len(seen) == 64


def test_generator_is_its_own():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    a = torch.rand(3, generator=seeding.generator("cpu", "noise", 1))
    b = torch.rand(3, generator=seeding.generator("cpu", "noise", 1))
    c = torch.rand(3, generator=seeding.generator("cpu", "noise", 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(before, torch.get_rng_state())


def test_rng_state_round_trips_through_a_weights_only_file(tmp_path):
    seeding.seed_all(5)
    random.gauss(0, 1), np.random.randn()  # leaves a cached second value in both
    state = seeding.rng_state(torch.device("cpu"))
    expected = draw(), random.gauss(0, 1), np.random.randn()
    torch.save(state, tmp_path / "rng.pt")
    seeding.seed_all(99)
    loaded = torch.load(tmp_path / "rng.pt", weights_only=True)
    seeding.set_rng_state(loaded, torch.device("cpu"))
    assert (draw(), random.gauss(0, 1), np.random.randn()) == expected


class Noise(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        return torch.tensor([random.random(), np.random.rand(), os.getpid()], dtype=torch.float64)


def test_workers_have_their_own_numpy_and_python_seeds():
    def rows(seed):
        loader = DataLoader(
            Noise(),
            num_workers=2,
            worker_init_fn=seeding.seed_worker,
            generator=torch.Generator().manual_seed(seed),
        )
        return torch.cat(list(loader))[:, :2]

    first = rows(0)
    assert len(torch.unique(first)) == 16
    assert torch.equal(first, rows(0)) and not torch.equal(first, rows(1))


def test_workers_survive_the_signals_of_the_job_and_end_with_the_loader():
    loader = DataLoader(Noise(), num_workers=1, worker_init_fn=seeding.seed_worker)
    it = iter(loader)
    pid = int(next(it)[0, 2])
    for signum in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        os.kill(pid, signum)
    time.sleep(0.1)
    assert sum(1 for _ in it) == 7  # all others still come
    del it
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the worker outlived its loader")
