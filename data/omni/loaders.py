"""Batches of every domain: endless ones for training, whose position is in the checkpoint, and one
pass in order for validation.

    loaders = make_loaders({"train": {"rf": samples, ..}, "val": {..}}, 2, Reading(seed))
    for batches in multi_batches(loaders.train):     # {"rf": batch, "rn": batch, ..}
        batches["rf"].data.x                         # or batches["rf"]["data"]["x"]

A batch is a dict, whose keys are attributes too:

    data       x float32 [B, 3, H, W]; a map as in `data.omni` if at least one sample has it
    present    key of a map in data -> bool [B], the samples that have it; the others are 0,
               NO_CLASS in s
    paths      key -> list of B paths, None where a sample has no such map
    domain     list of B times the domain
    mode       list of B times the mode
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data.omni.samples import DomainSamples, Item
from data.omni.words import MAPS, MODES, NO_CLASS, Attributes
from data.samplers import StepSampler
from runtime.workers import read
from storage.errors import DataError
from storage.listing import Listing

Batch = Attributes


def collate(items: Sequence[Item], domain: str, mode: str) -> Batch:
    """A batch of samples. Errors: DataError where pictures have several sizes."""
    shapes = {tuple(item.x.shape[1:]) for item in items}
    if len(shapes) > 1:
        named = " and ".join(f"{h}x{w}" for h, w in sorted(shapes)[:2])
        raise DataError(
            f"pictures of a batch of {domain} are {named}: end the transforms with a resize or crop"
        )
    data: dict[str, Tensor] = {"x": torch.stack([item.x for item in items])}
    present: dict[str, Tensor] = {}
    paths: dict[str, list[str | None]] = {"x": [item.paths["x"] for item in items]}
    for key in MAPS:
        like = next((item.maps[key] for item in items if key in item.maps), None)
        if like is None:
            continue
        absent = torch.full_like(like, NO_CLASS if key == "s" else 0)
        data[key] = torch.stack([item.maps.get(key, absent) for item in items])
        present[key] = torch.tensor([key in item.maps for item in items])
        paths[key] = [item.paths.get(key) if key in item.maps else None for item in items]
    return Attributes(
        data=Attributes(data),
        present=Attributes(present),
        paths=Attributes(paths),
        domain=[domain] * len(items),
        mode=[mode] * len(items),
    )


@dataclass(frozen=True)
class Reading:
    """How batches are read. shuffle: whether training has orders of its own, of `seed`, pass after
    pass. num_workers: of each domain. rank, world_size: whose share of a training batch it is."""

    seed: int = 0
    shuffle: bool = True
    num_workers: int = 0
    pin_memory: bool = False
    rank: int = 0
    world_size: int = 1
    worker_init: Any = None


class Batches:
    """The batches of one domain in one mode.

    Of training: iterating goes on for ever, pass after pass, each in an order of its own, and goes
    on where it was left; `state_dict` holds the position. Of validation: once through, in order,
    the last batch with what is left. `len`: batches of a pass.
    """

    def __init__(self, samples: DomainSamples, batch_size: int, how: Reading) -> None:
        self.samples, self.batch_size = samples, batch_size
        self.trains = samples.mode == "train"
        self.sampler = StepSampler(
            len(samples), batch_size, seed=how.seed, shuffle=how.shuffle, rank=how.rank,
            world_size=how.world_size, with_draws=True,
        )  # fmt: skip
        order: dict[str, Any] = {"batch_sampler": self.sampler}
        if not self.trains:
            order = {"batch_size": batch_size, "shuffle": False}
        self.loader = DataLoader(
            samples,
            num_workers=how.num_workers,
            pin_memory=how.pin_memory,
            worker_init_fn=how.worker_init,
            # of its own: else workers' seeds would be drawn from the step's
            generator=torch.Generator().manual_seed(how.seed),
            collate_fn=self._collate,
            **order,
        )

    def _collate(self, items: Sequence[Item]) -> Batch:
        return collate(items, self.samples.domain, self.samples.mode)

    def __len__(self) -> int:
        return -(-len(self.samples) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self.sampler.batches(self.loader) if self.trains else read(self.loader)

    def state_dict(self) -> dict[str, int]:
        """The position of training."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there. Errors: DataError if the list has another length, or the seed is
        another."""
        self.sampler.load_state_dict(state)


class Loaders(Attributes):
    """{mode: {domain: Batches}}; `loaders.train.rf` works too."""

    def state_dict(self) -> dict[str, dict[str, int]]:
        """Positions of training, by domain."""
        return {domain: batches.state_dict() for domain, batches in self["train"].items()}

    def load_state_dict(self, state: Mapping[str, dict[str, int]]) -> None:
        """Go on from there. Errors: DataError where the domains are others."""
        if set(state) != set(self["train"]):
            raise DataError(f"trained on {sorted(state)} before, on {sorted(self['train'])} now")
        for domain, batches in self["train"].items():
            batches.load_state_dict(state[domain])

    def listing(self) -> Listing | None:
        """The names of all samples that are trained on; None if all are drawn."""
        parts = [b.samples.listing() for b in self["train"].values()]
        names = [name for part in parts if part is not None for name in part.used]
        return Listing("omnigan", names, names) if names else None

    @property
    def epoch(self) -> int:
        """Batches of one pass over the longest domain of training; shorter ones begin again."""
        return max(len(batches) for batches in self["train"].values())


def make_loaders(
    samples: Mapping[str, Mapping[str, DomainSamples]], batch_size: int, how: Reading | None = None
) -> Loaders:
    """`loaders[mode][domain]` of the samples that there are; modes and domains may be missing.

    batch_size: of training over all ranks. Validation is done by one rank. Errors: DataError.
    """
    how = how or Reading()
    modes = {"train": how, "val": replace(how, rank=0, world_size=1)}
    loaders = Loaders({mode: Attributes() for mode in MODES})
    for mode, domains in samples.items():
        for domain, found in domains.items():
            loaders[mode][domain] = Batches(found, batch_size, modes[mode])
    return loaders


def multi_batches(domains: Mapping[str, Batches]) -> Iterator[dict[str, Batch]]:
    """Batches of all domains at once, for ever in training: `{domain: batch}`, in the order given.

    Of validation it ends with the shortest domain.
    """
    streams = {domain: iter(batches) for domain, batches in domains.items()}
    while True:
        try:
            yield {domain: next(stream) for domain, stream in streams.items()}
        except StopIteration:
            return
