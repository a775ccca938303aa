"""Reading the items of a data set by plan: lists of numbers in, stacked images out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from imle.types import Items
from runtime.workers import read

Read = tuple[Tensor, Tensor, list[Tensor]]  # image ids, x, ys on the CPU
Item = tuple[Tensor, list[Tensor]]  # x, ys of one image


def read_items(
    dataset: Items[Any],
    plan: Callable[[], Iterator[list[int]]],
    *,
    seed: int,
    num_workers: int = 0,
    pin_memory: bool = False,
    prefetch_factor: int = 2,
    worker_init_fn: Callable[[int], None] | None = None,
) -> Iterator[Read]:
    """Every list of `plan()` read and stacked, by one DataLoader: workers start once and stay.

    seed: in [0, 2^63), of the workers' generators. ValueError: an item that is no (x, [y_1, ..]) of
    tensors, or shapes that differ in a list.
    """
    loader: DataLoader[Any] = DataLoader(
        _Numbered(dataset),
        batch_sampler=_Plan(plan),
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        prefetch_factor=prefetch_factor if num_workers else None,
        worker_init_fn=worker_init_fn,
        # its own generator: torch's DataLoader would draw from the global one
        generator=torch.Generator().manual_seed(seed),
    )
    return read(loader)


class _Numbered(Dataset):
    """Items with their numbers."""

    def __init__(self, dataset: Items[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> tuple[int, Any]:
        try:
            return index, self.dataset[index]
        except StopIteration as error:  # on its way up it would pass for the end of the data
            raise RuntimeError(
                f"item {index} of the data set raised StopIteration: {error}"
            ) from error


class _Plan:
    """A batch sampler that makes its lists as they are asked for."""

    def __init__(self, make: Callable[[], Iterator[list[int]]]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[list[int]]:
        return self.make()


def collate(items: list[tuple[int, Any]]) -> Read:
    """Numbered items (number, (x, ys)) -> numbers int64 [b], x [b, ...], ys [b, ...]."""
    rows = [_images_of(i, item) for i, item in items]
    shapes = [[list(image.shape) for image in row] for row in rows]
    for (i, _), shape in zip(items, shapes, strict=True):
        if shape != shapes[0]:
            raise ValueError(
                f"item {i} of the data set has images of {shape}, item {items[0][0]} of "
                f"{shapes[0]}: all must be alike"
            )
    x, *ys = (torch.stack(images) for images in zip(*rows, strict=True))
    return torch.tensor([i for i, _ in items]), x, ys


def _images_of(number: int, item: Any) -> list[Tensor]:
    """[x, y_1, .., y_L] of an item (x, [y_1, .., y_L]) or (x, y)."""
    if isinstance(item, (tuple, list)) and len(item) == 2:
        x, ys = item
        images = [x, ys] if isinstance(ys, Tensor) else [x, *ys]
        if len(images) > 1 and all(isinstance(image, Tensor) for image in images):
            return images
    raise ValueError(f"item {number} of the data set must be tensors (x, [y_1, ..., y_L])")


def chunks(ids: list[int], size: int) -> Iterator[list[int]]:
    """Lists of `size`, the last one maybe shorter."""
    return (ids[i : i + size] for i in range(0, len(ids), size))


def kept(reads: Iterable[Read], store: dict[int, Item]) -> Iterator[Read]:
    """The reads, of which `store` keeps every image."""
    for image_ids, x, ys in reads:
        # copies: a tensor from a worker holds an open file as long as it lives
        for k, image in enumerate(image_ids.tolist()):
            store[image] = (x[k].clone(), [y[k].clone() for y in ys])
        yield image_ids, x, ys
