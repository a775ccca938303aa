"""What is measured: pictures of a data set, or those that a network draws, by number.

Both are numbered 0 .. len - 1 and give any of them: ranks share the numbers, and nothing depends on
who makes which. Nothing is written.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.decode import resize_rgb
from data.listing import fingerprint
from data.pyramids import Pyramid
from data.registry import find, open_source
from data.sources import (
    Source,
    Subset,
    channels_of,
    evenly,
    has_native,
    is_drawn,
    is_labelled,
    keyed_order,
    labels_of,
    names_of,
    native,
)
from data.views.naming import set_name
from diffusion.ddpm_generate import Drawing
from diffusion.generate import Item
from generators.base import Generator
from generators.ddpm import DDPM
from generators.edm2 import EDM2, NOT_FINITE
from generators.imle import ConditionalIMLE, UnconditionalIMLE
from generators.omnigan import Omnigan
from models.ddpm import Layout
from recipes.generate import parts
from recipes.generate.folders import class_number
from recipes.words import compact_seeds
from runtime.workers import read
from storage.dirs import data_home
from storage.errors import DataError, NonFiniteError, UsageError


class Batch(NamedTuple):
    """numbers: which of the pictures. images: uint8 [3, H, W] each. labels: their classes, None
    where there are none."""

    numbers: list[int]
    images: list[Tensor]
    labels: list[int] | None


class Pictures(Protocol):
    """Numbered pictures.

    about: what they are, JSON values, which decide them. classes: names. block: so many numbers
    beside one another are of one input, and are made by one rank.
    """

    about: dict[str, Any]
    classes: list[str]
    block: int

    def __len__(self) -> int: ...

    def batches(self, numbers: Sequence[int], size: int) -> Iterator[Batch]:
        """These of them, at most `size` at a time, in any order."""
        ...


# ------------------------------------------------------------------------------------- data sets


class Stored:
    """Pictures of a data set: `num` of them, drawn by `seed`, all for None. `Pictures`.

    res, crop: squares of that side; None: as they are. A picture that cannot be read is an error: a
    stand-in would be measured twice. Errors: DataError, UsageError for fewer pictures than num.
    """

    def __init__(
        self,
        source: Source,
        num: int | None = None,
        *,
        seed: int = 0,
        res: int | None = None,
        crop: str = "center",
        workers: int = 0,
        option: str = "--images",
    ) -> None:
        if channels_of(source) != 3:
            raise DataError(f"{source.name} holds latents, which are no pictures")
        if num is not None and num > len(source):
            raise UsageError(
                f"{option} {source.name} has {len(source)} pictures, --num is {num}: give --num "
                f"{len(source)} or less"
            )
        if res is None and is_drawn(source):
            raise UsageError(f"{option} {source.name} are drawn at any size: give --res")
        self.source: Source = source
        if num is not None and num < len(source):
            self.source = Subset(source, np.sort(keyed_order(len(source), seed)[:num]))
        self.classes = names_of(source) if is_labelled(source) else []
        self.block = 1
        self.workers = workers
        self._read = _Read(self.source, res, crop)
        self._labels = labels_of(self.source) if self.classes else None
        counts = None if self._labels is None else np.bincount(self._labels)
        self.about = {
            "kind": "data set",
            "data": set_name(source),
            "split": set_name(source).rpartition("/")[2] if "/" in set_name(source) else None,
            "pictures": len(self.source),
            "of": len(source),
            "seed": seed if len(self.source) < len(source) else None,
            "res": res or "as they are",
            "crop": crop if res else None,
            "per_class": None if counts is None else [int(counts.min()), int(counts.max())],
            "file_format": _formats(self.source),
            "content": fingerprint(self.source) or {"name": source.name},
        }

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, numbers: Sequence[int], size: int) -> Iterator[Batch]:
        """Batches in the order of `numbers`. Errors: DataError for a picture that is bad."""
        loader = DataLoader(
            self._read, batch_size=size, sampler=list(numbers),
            num_workers=min(self.workers, -(-len(numbers) // size)), collate_fn=list,
        )  # fmt: skip
        for rows in read(loader):
            found = [i for i, _ in rows]
            labels = None if self._labels is None else [int(self._labels[i]) for i in found]
            yield Batch(found, [image for _, image in rows], labels)


def _formats(source: Source) -> str:
    """The endings of files, as far as paths tell: what JPEG takes away moves a FID too."""
    shown = range(0, len(source), max(1, len(source) // 1000))
    found = {Path(source.path(i)).suffix.lower().lstrip(".") for i in shown}
    return "drawn" if is_drawn(source) else ", ".join(sorted(found - {""})) or "not told"


class _Read(Dataset):
    """(number, uint8 [3, H, W]) of a source, for worker processes."""

    def __init__(self, source: Source, res: int | None, crop: str) -> None:
        self.source, self.res, self.crop = source, res, crop
        self.native = res is not None and has_native(source, res, crop)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> tuple[int, Tensor]:
        if self.res is not None and self.native:
            image = native(self.source, i, self.res)
        else:
            image = self.source.image(i)
            if self.res is not None:
                image = resize_rgb(image, self.res, self.crop)
        return i, torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def stored(
    args: Namespace,
    word: str,
    option: str,
    *,
    split: str = "train",
    num: int | None = None,
    res: int | None = None,
    crop: str | None = None,
) -> Stored:
    """The pictures of a data set that an option names. split: where the word says none."""
    home = Path(args.data_path or data_home())
    splits = find(word, home).splits or ()
    if splits and split not in splits:
        split = splits[0]
    res = args.res or res
    source = open_source(word, home, split=split, sizes=[res] if res else [])
    return Stored(
        source, num, seed=args.seed, res=res, crop=crop or args.crop, workers=args.num_workers,
        option=option,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------- networks


class Drawn:
    """Pictures of a range of seeds of a network: number k is that of seed seeds[k]. `Pictures`.

    labels: the class of each, drawn or asked for. draw(seeds, labels): uint8 [n, 3, H, W].
    """

    def __init__(
        self,
        about: dict[str, Any],
        seeds: Sequence[int],
        draw: Callable[[list[int]], Tensor],
        labels: Sequence[int] | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        self.seeds, self._draw, self.classes = seeds, draw, list(classes)
        self.block = 1
        self._labels = None if labels is None else list(labels)
        counts = None if labels is None else np.bincount(labels, minlength=len(classes))
        self.about = {
            **about,
            "seeds": compact_seeds(seeds),
            "pictures": len(seeds),
            "per_class": None if counts is None else [int(counts.min()), int(counts.max())],
        }

    def __len__(self) -> int:
        return len(self.seeds)

    def batches(self, numbers: Sequence[int], size: int) -> Iterator[Batch]:
        """Batches in the order of `numbers`, drawn now. Errors: NonFiniteError."""
        for first in range(0, len(numbers), size):
            part = list(numbers[first : first + size])
            labels = None if self._labels is None else [self._labels[i] for i in part]
            yield Batch(part, list(self._draw(part)), labels)


def about_net(args: Namespace, net: Generator) -> dict[str, Any]:
    """What decides how a network's pictures look, beside seeds."""
    return {
        "kind": net.kind,
        "net": net.file.name if net.file else "untrained",
        "content": net.content,
        "precision": args.precision,
        "noise_device": args.noise_device,
        "step": net.snapshot.config.get("step") or net.snapshot.provenance.get("step"),
        "file_format": "none: as drawn, uint8",
    }


def drawn_edm2(args: Namespace, net: EDM2, guide: EDM2 | None, seeds: Sequence[int]) -> Drawn:
    """Pictures of a diffusion network; classes as generate_images.py chooses them.

    Errors: UsageError.
    """
    labels = _labels(args, net, seeds)
    sampler = parts.sampler(args)

    def draw(numbers: list[int]) -> Tensor:
        items = [Item(seeds[i], labels[i] if labels else None) for i in numbers]
        (made,) = net.pictures(
            [items], guide=guide, guidance=args.guidance, interval=args.guidance_interval,
            sampler=sampler,
        )  # fmt: skip
        if not made.finite:
            raise NonFiniteError(f"seeds {compact_seeds([i.seed for i in items])}: {NOT_FINITE}")
        return made.images.expand(-1, 3, -1, -1)

    used = None if args.guidance == 1 else guide
    about = {
        **about_net(args, net),
        "guide": used.content if used else None,
        "guidance": args.guidance,
        "guidance_interval": args.guidance_interval if used else None,
        "sampler": {n: str(v) for n, v in sampler.keywords.items()},  # type: ignore[attr-defined]
        "class": _rule(args),
        "vae": args.vae,
    }
    return Drawn(about, seeds, draw, labels or None, net.classes)


def _rule(args: Namespace) -> Any:
    return vars(args)["class"] or ("random" if args.random else "seed modulo classes")


def _labels(args: Namespace, net: EDM2 | DDPM, seeds: Sequence[int]) -> list[int]:
    """The class of each seed, as generate_images.py chooses it; [] without. Errors: UsageError."""
    words, count = vars(args)["class"], len(net.classes)
    if words and not count:
        raise UsageError(f"--class {' '.join(words)}: this network has no classes")
    if words and words != ["all"]:
        wanted = list(dict.fromkeys(class_number(word, net) for word in words))
        return [wanted[k % len(wanted)] for k in range(len(seeds))]
    if count and (words == ["all"] or not args.random):
        return [seed % count for seed in seeds]
    return net.seed_classes(seeds) if count else []


class OfLayouts(Protocol):
    """Layouts that pictures are drawn of, by number, as many as there are of them."""

    about: dict[str, Any]
    boxes: list[Tensor]

    def layout(self, number: int, objects: int) -> Layout:
        """One as the network takes it."""
        ...


def drawn_ddpm(
    args: Namespace, net: DDPM, layouts: OfLayouts | None, seeds: Sequence[int]
) -> Drawn:
    """Pictures of a network of DDPM: by class, or of layouts in turns, picture k of layout k modulo
    their number; without them of nothing but background. Errors: UsageError."""
    labels = _labels(args, net, seeds)
    how = Drawing(steps=args.steps, guidance=args.guidance, clip=net.clip)

    def draw(numbers: list[int]) -> Tensor:
        items = [Item(seeds[i], labels[i] if labels else None) for i in numbers]
        rows = None
        if layouts is not None:
            count, kinds = len(layouts.boxes), len(net.objects)
            rows = {item: layouts.layout(i % count, kinds)
                    for item, i in zip(items, numbers, strict=True)}  # fmt: skip
        (made,) = net.pictures([items], drawing=how, layouts=rows)
        if not made.finite:
            raise NonFiniteError(f"seeds {compact_seeds([i.seed for i in items])}: {NOT_FINITE}")
        return made.images.expand(-1, 3, -1, -1)

    about = {
        **about_net(args, net),
        "guidance": args.guidance,
        "sampler": {"name": how.sampler, "steps": how.steps, "spacing": how.spacing},
        "class": _rule(args) if net.classes else None,
        "layouts": layouts.about if layouts is not None else None,
    }
    return Drawn(about, seeds, draw, labels or None, net.classes)


def drawn_unconditional(args: Namespace, net: UnconditionalIMLE, seeds: Sequence[int]) -> Drawn:
    """Samples of an unconditional IMLE network: seed s is sample s of the codes of seed 0."""

    def draw(numbers: list[int]) -> Tensor:
        first, last = seeds[numbers[0]], seeds[numbers[-1]]
        if last - first + 1 == len(numbers):  # a range at once
            return net.draw(len(numbers), first=first, batch=len(numbers))
        return torch.cat([net.draw(1, first=seeds[i]) for i in numbers])

    return Drawn(about_net(args, net), seeds, draw)


def drawn_any(args: Namespace, net: Generator, seeds: Sequence[int]) -> Drawn:
    """Image 0 of every seed, of a kind that is known by its protocol alone."""

    def draw(numbers: list[int]) -> Tensor:
        return torch.cat([net.draw(1, seed=seeds[i]) for i in numbers])

    return Drawn(about_net(args, net), seeds, draw)


class Inputs(NamedTuple):
    """x: float [N, 3, r0, r0] in [0, 1]; targets: uint8 [N, 3, r, r]; ids: their numbers in the
    set; about: JSON values."""

    x: Tensor
    targets: Tensor
    ids: Tensor
    about: dict[str, Any]


def inputs_of(args: Namespace, net: ConditionalIMLE | Omnigan) -> Inputs:
    """Inputs of --data with their targets, evenly over classes. Errors: UsageError, DataError."""
    if args.data is None:
        raise UsageError("--data is missing: this network needs input images")
    home = Path(args.data_path or data_home())
    splits = find(args.data, home).splits or ()
    split = next((name for name in ("val", "test", "train") if name in splits), "val")
    sizes = [net.input_size or net.resolution, net.resolution]
    whole = open_source(args.data, home, split=split, sizes=sizes)
    return inputs_from(evenly(whole, args.num_images), net)


def inputs_from(source: Source, net: ConditionalIMLE | Omnigan) -> Inputs:
    """All pictures of a source as inputs, with their targets. Errors: DataError for a bad one."""
    sizes = [net.input_size or net.resolution, net.resolution]
    pyramid = Pyramid(source, sizes, crop=net.snapshot.config.get("crop", "center"), max_bad=0)
    rows = [pyramid[i] for i in range(len(source))]
    about = {
        "data": set_name(source),
        "split": source.name.rpartition("/")[2],
        "inputs": len(source),
        "content": fingerprint(source) or {"name": source.name},
    }
    return Inputs(
        torch.stack([x for x, _ in rows]).float() / 255,
        torch.stack([y for _, (y,) in rows]),
        torch.arange(len(source)),
        about,
    )


def drawn_conditional(
    args: Namespace, net: ConditionalIMLE, inputs: Inputs, samples: Sequence[int]
) -> Drawn:
    """Samples of a CAM-Net: number k is sample samples[k mod K] of input k div K, codes of seed 0.

    samples: K numbers of samples, a range, each drawn of every input.
    """
    count, each = len(inputs.x), len(samples)
    # results of before the option have no word of it
    heat = parts.temperature_of(args)
    how: dict[str, Any] = {} if heat == 1 else {"temperature": heat}

    def draw(numbers: list[int]) -> Tensor:
        made = []
        while numbers:
            i, first = divmod(numbers[0], each)
            same = [k for k in numbers if k // each == i]
            numbers = numbers[len(same) :]
            made.append(
                net.draw(
                    len(same), inputs=inputs.x[i : i + 1], ids=inputs.ids[i : i + 1],
                    first=samples[first], consistency=args.consistency, batch=len(same), **how,
                )
            )  # fmt: skip
        return torch.cat(made)

    about = {
        **about_net(args, net), "inputs": inputs.about, "consistency": args.consistency,
        "samples_per_input": each, **how,
    }  # fmt: skip
    found = Drawn(about, range(count * each), draw)
    found.about["seeds"] = f"0, samples {compact_seeds(samples)} of each input"
    found.block = each
    return found


def drawn_translated(args: Namespace, net: Omnigan, inputs: Inputs) -> Drawn:
    """Translations of omnigan: number k is input k as --to says. Errors: UsageError."""

    def draw(numbers: list[int]) -> Tensor:
        return net.draw(1, inputs=inputs.x[numbers], to=args.to, batch=len(numbers))

    about = {**about_net(args, net), "inputs": inputs.about, "to": args.to}
    found = Drawn(about, range(len(inputs.x)), draw)
    found.about["seeds"] = "none: nothing is drawn by chance"
    return found
