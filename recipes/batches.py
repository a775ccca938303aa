"""Batches that ranks share, in the diffusion trainers: how much each reads, and what reads it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader, Dataset

from data.samplers import StepSampler
from runtime.run import Run
from runtime.seeding import generator, seed_worker
from storage.errors import UsageError


def shares(
    args: Namespace, ranks: int, batch: int, part: int, check: Callable[[Namespace, int], None]
) -> tuple[int, int]:
    """Images of a step that a rank reads, and how many of them it takes at once.

    batch: of a step, over all ranks. part: what a rank is asked to take at once, 0 for all. check:
    the script's own, ValueError if so many processes cannot share a batch, which is UsageError
    here.
    """
    try:
        check(args, ranks)
    except ValueError as error:
        raise UsageError(str(error)) from None
    share = batch // ranks
    return share, min(part or share, share)


def step_loader(
    args: Namespace,
    run: Run,
    images: Dataset,
    batch: int,
    *,
    with_draws: bool = False,
    collate: Callable[[Any], Any] | None = None,
) -> tuple[StepSampler, DataLoader]:
    """What reads this rank's images of every step; the sampler says which, and is checkpointed.

    with_draws: items are (number, draw), for what is augmented. collate: of the DataLoader.
    """
    sampler = StepSampler(
        len(images), batch, seed=args.seed, rank=run.rank, world_size=run.world_size,  # type: ignore[arg-type]
        with_draws=with_draws,
    )  # fmt: skip
    return sampler, DataLoader(
        images,
        batch_sampler=sampler,
        num_workers=args.num_workers,
        pin_memory=run.device.type == "cuda",
        worker_init_fn=seed_worker,
        generator=generator("cpu", "loader", args.seed),  # else it draws from the step's
        collate_fn=collate,
    )
