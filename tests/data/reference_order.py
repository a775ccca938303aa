"""Order of images and seeds of the EDM2 reference's training loop, to compare a run with its.

Ours are `data.samplers.StepSampler` and `runtime.seeding`; these depend on the rank and on NumPy's
legacy generator, and exist to reproduce numbers of the original.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def reference_seed(*keys: int) -> int:
    """hash(keys) mod 2^31, CPython's hash of a tuple of integers (3.8 on, 64 bits).

    The reference seeds torch and NumPy with the keys (seed, rank, images seen) before every step,
    and the order of a pass with (seed, pass).
    """
    return hash(tuple(int(k) for k in keys)) % (1 << 31)


def reference_order(
    n: int, *, seed: int = 0, rank: int = 0, replicas: int = 1, start: int = 0
) -> Iterator[int]:
    """Endless image numbers of one rank: position start + rank and every `replicas`-th after it.

    Position i is entry i % n of the shuffled order of pass i // n, over all ranks together.
    Errors: ValueError.
    """
    if n < 1:
        raise ValueError("an empty data set has no order")
    if not 0 <= rank < replicas:
        raise ValueError(f"rank {rank} of {replicas} processes makes no sense")
    if start < 0:
        raise ValueError(f"start {start} is negative")
    return _walk(n, seed, start + rank, replicas)


def _walk(n: int, seed: int, position: int, stride: int) -> Iterator[int]:
    current, order = -1, np.zeros(0, np.int64)
    while True:
        number, at = divmod(position, n)
        if number != current:
            current, order = number, np.arange(n)
            np.random.RandomState(reference_seed(seed, number)).shuffle(order)
        yield int(order[at])
        position += stride
