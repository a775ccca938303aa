"""Random seeds as functions of what they are for, so that a resumed run draws what it would have.

Nothing is carried from step to step: before step k every generator of the process is seeded from
(seed, k, rank).  A run that stopped after step k therefore goes on exactly as if it had not.
"""

import hashlib
import random
from typing import Any

import numpy as np
import torch

from runtime.preemption import shield_worker


def hash64(*key: int | str) -> int:
    """Hash a key of integers and strings to [0, 2**63); the same in every process and version.

    `1` and `"1"` differ, and so do ("ab", "c") and ("a", "bc").
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in key:
        if isinstance(part, bool) or not isinstance(part, (int, str)):
            raise TypeError(f"hash64 takes ints and strings, not {type(part).__name__} {part!r}")
        word = f"{'i' if isinstance(part, int) else 's'}{part}".encode()
        digest.update(len(word).to_bytes(8, "little") + word)
    return int.from_bytes(digest.digest(), "little") >> 1


def seed_all(seed: int) -> None:
    """Seed python, numpy and torch (CPU and every GPU) with one number in [0, 2**63)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Seed python, numpy and torch for the 0-based `step` on `rank`."""
    seed_all(hash64("step", seed, step, rank))


def generator(device: torch.device | str, *key: int | str) -> torch.Generator:
    """Make a torch generator on `device` seeded by `key`."""
    return torch.Generator(device).manual_seed(hash64("generator", *key))


def seed_worker(worker_id: int) -> None:
    """Set up a DataLoader worker (`worker_init_fn`): seeds, and signals left to the parent.

    torch gives each worker its own torch seed; numpy and python get theirs from it here.
    """
    seed = hash64("worker", torch.initial_seed())
    random.seed(seed)
    np.random.seed(seed % 2**32)
    shield_worker()


def rng_state(device: torch.device) -> dict[str, Any]:
    """State of every generator of the process, as tensors and plain numbers only."""
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=False)
    state = {
        "python": {"version": version, "words": list(words), "gauss": gauss},
        "numpy": {
            "name": numpy_state["bit_generator"],
            "key": [int(k) for k in numpy_state["state"]["key"]],
            "pos": int(numpy_state["state"]["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Restore what `rng_state` returned; a GPU state is left out where there is no GPU."""
    py, npy = state["python"], state["numpy"]
    random.setstate((py["version"], tuple(py["words"]), py["gauss"]))
    np.random.set_state(
        {
            "bit_generator": npy["name"],
            "state": {"key": np.array(npy["key"], dtype=np.uint32), "pos": npy["pos"]},
            "has_gauss": npy["has_gauss"],
            "gauss": npy["gauss"],
        }
    )
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
