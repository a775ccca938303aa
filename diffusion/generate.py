"""Images of numbered seeds, for any denoiser, guide and sampler.

What an image shows depends on its seed, its class and the settings; not on the batch it is drawn
in, the rank that draws it, or what else is drawn. (A batch of another size may take another path
through the arithmetic of a device, and then the last bits differ.)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from diffusion.guidance import bind, guided
from diffusion.mp import frozen_weights
from diffusion.samplers import Denoise, SeedStack

Sampler = Callable[..., Tensor]


class Network(Protocol):
    """What is needed of a denoiser with classes: what a `diffusion.Precond` has."""

    img_resolution: int
    img_channels: int
    label_dim: int  # number of classes, 0 for none

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor | None, /) -> Any: ...


class Item(NamedTuple):
    """One image to draw; `label` None: the class is drawn from the seed, if there are classes."""

    seed: int
    label: int | None = None


class Drawn(NamedTuple):
    """A batch of `generate`: items with their classes known (None: no classes)."""

    items: list[Item]
    latents: Tensor  # [N, C, H, W], for the encoder's decode
    denoised: Tensor | None  # [kept, N, C, H, W], answers of the denoiser on the way


def split_batches(
    items: Sequence[Item], batch: int, *, rank: int = 0, world: int = 1
) -> list[list[Item]]:
    """This rank's batches of at most `batch` items; over all ranks each item comes once.

    The number of batches is a multiple of `world` and their sizes differ by at most one, so ranks
    are equally busy and a compiled network meets two shapes. Some are empty when items are few;
    those are left out. Errors: ValueError.
    """
    if batch < 1 or not 0 <= rank < world:
        raise ValueError(f"batch {batch}, rank {rank} of {world}")
    count = -(-len(items) // (batch * world)) * world
    edges = [len(items) * i // max(count, 1) for i in range(count + 1)]
    parts = [list(items[edges[i] : edges[i + 1]]) for i in range(rank, count, world)]
    return [part for part in parts if part]


def check_guide(net: Network, guide: Network) -> None:
    """That `guide` denoises what `net` does, for the same classes or none. Errors: ValueError."""
    for name, what in (("img_resolution", "pixels a side"), ("img_channels", "channels")):
        ours, theirs = getattr(net, name), getattr(guide, name)
        if ours != theirs:
            raise ValueError(f"the guide works on {theirs} {what}, the network on {ours}")
    if guide.label_dim not in (0, net.label_dim):
        raise ValueError(
            f"the guide has {guide.label_dim} classes, the network {net.label_dim}; "
            "a guide has the same ones or none"
        )


def seed_classes(
    net: Network,
    seeds: Sequence[int],
    classes: int,
    *,
    noise_device: torch.device | str = "cpu",
) -> list[int]:
    """The class that `generate` draws from each seed. Errors: ValueError."""
    _check_classes(net, classes)
    size = (net.img_channels, net.img_resolution, net.img_resolution)
    found: list[int] = []
    for start in range(0, len(seeds), 64):
        random = SeedStack(seeds[start : start + 64], draw_on=noise_device)
        random.randn(*size)
        found += random.randint(classes).tolist()
    return found


@torch.no_grad()
def generate(
    net: Network,
    batches: Sequence[Sequence[Item]],
    sampler: Sampler,
    *,
    device: torch.device | str = "cpu",
    classes: int | None = None,
    guide: Network | None = None,
    guidance: float = 1.0,
    interval: tuple[float, float] | None = None,
    keep_every: int = 0,
    noise_device: torch.device | str = "cpu",
) -> Iterator[Drawn]:
    """Draw batch after batch from `net`.

    sampler: called as sampler(denoise, noise, randn=f), e.g. functools.partial(heun, steps=32).
    The numbers of a seed are drawn in the order noise [C, H, W], class, noise of the sampler; the
    class also when the item has its own, so that the latter does not depend on that.
    classes: how many may be drawn, at most (and by default) net.label_dim.
    guide, guidance, interval: as `diffusion.guidance.guided`; the guide gets the same classes.
    keep_every: n > 0 also gives every n-th answer of the (guided) denoiser, from the first on:
    n = 2 is one a step of Heun's method, whose second answer is a correction within the step.
    noise_device: where random numbers are made: on the CPU the same everywhere, on "cuda" those of
    EDM2's own code.
    Errors: ValueError.
    """
    guide = None if guidance == 1 else guide
    if guide is not None:
        check_guide(net, guide)
    classes = net.label_dim if classes is None else classes
    _check_classes(net, classes)
    for item in (item for batch in batches for item in batch):
        if item.label is not None and not 0 <= item.label < classes:
            raise ValueError(f"class {item.label} of a network of {classes} classes")

    size = (net.img_channels, net.img_resolution, net.img_resolution)
    nets: tuple[Any, ...] = (net, guide)
    with frozen_weights(*(n for n in nets if isinstance(n, nn.Module))):
        for batch in batches:
            random = SeedStack([item.seed for item in batch], device, draw_on=noise_device)
            noise = random.randn(*size)
            labels, items = None, [Item(item.seed) for item in batch]
            if classes:
                drawn = random.randint(classes).tolist()
                picked = [
                    c if i.label is None else i.label for i, c in zip(batch, drawn, strict=True)
                ]
                items = [Item(item.seed, c) for item, c in zip(batch, picked, strict=True)]
                index = torch.tensor(picked, device=device)
                labels = nn.functional.one_hot(index, net.label_dim).float()
            main = bind(net, labels)
            weak = None if guide is None else bind(guide, labels)
            denoise = guided(main, weak, guidance, interval)
            seen: list[Tensor] = []
            asked = _watched(denoise, seen, keep_every) if keep_every else denoise
            latents = sampler(asked, noise, randn=random.randn_like)
            yield Drawn(items, latents, torch.stack(seen) if keep_every else None)


def _check_classes(net: Network, classes: int) -> None:
    if not 0 <= classes <= net.label_dim:
        raise ValueError(f"{classes} classes of a network of {net.label_dim}")


def _watched(denoise: Denoise, seen: list[Tensor], every: int) -> Denoise:
    """`denoise`, which also puts every `every`-th answer into `seen`."""
    calls = itertools.count()

    def watch(f: Denoise) -> Denoise:
        def call(x: Tensor, sigma: Tensor, **cond: object) -> Tensor:
            out = f(x, sigma, **cond)
            if next(calls) % every == 0:
                seen.append(out)
            return out

        return call

    watched = watch(denoise)
    if hasattr(denoise, "at"):  # see diffusion.samplers
        watched.at = lambda sigma: watch(denoise.at(sigma))  # type: ignore[attr-defined]
    return watched
