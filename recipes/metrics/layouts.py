"""Networks that draw from boxes: the layouts of a data set, and SceneFID on their crops."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.layout_images import LayoutImages
from data.layout_registry import layout_splits, open_layouts
from data.registry import bare
from data.sources import split_of
from evaluation.bootstrap import frechet_replicates
from evaluation.crops import box_crops
from evaluation.extractors import Extractor
from evaluation.features import gather_rows
from evaluation.frechet import frechet_distance
from generators.ddpm import DDPM
from models.ddpm import Layout
from recipes.metrics.conditional import Figure
from recipes.metrics.measures import Sides, suffix
from recipes.metrics.passing import Seen, look, moments_of
from recipes.metrics.pictures import Batch
from runtime import distributed
from storage.dirs import data_home
from storage.errors import UsageError

ADVICE = "a layout set has boxes: scenes, or one of data/SetupLayoutData.py"


class LayoutSet:
    """Layouts of --data, evenly spaced, and the real pictures that they are of. `Pictures`: number
    c is crop c, of boxes of at least `min_side` pixels at the network's resolution.

    boxes: of each, [n, 5] x_min, y_min, width, height, class, as the network takes them. where:
    which of them have a crop. of: the layout of each crop, int64 [C]; first: the first crop of each
    layout. Errors: DataError, UsageError.
    """

    def __init__(self, args: Namespace, net: DDPM, most: int) -> None:
        if net.layout != "boxes":
            raise UsageError(f"--data {args.data}: this network was trained without boxes")
        home = Path(args.data_path or data_home())
        splits = layout_splits(_set_of(args.data), home)
        named = split_of(bare(args.data).rpartition("/")[2]) if "/" in args.data else None
        split = next((n for n in (named, "val", "test", "train") if n in splits), splits[0])
        source = open_layouts(args.data, home, split=split)
        if list(source.object_classes) != net.objects:
            raise UsageError(
                f"--data {source.name} has {len(source.object_classes)} kinds of things, the "
                f"network {len(net.objects)}, or others: {ADVICE}"
            )
        self.pictures = LayoutImages(source, net.resolution, max_bad=0)
        count = min(args.num_images or most, most, len(source))
        self.picks = [i * len(source) // count for i in range(count)]
        self.boxes: list[Tensor] = []
        self.where: list[Tensor] = []
        blank = torch.zeros(1, net.resolution, net.resolution)
        kept: list[tuple[int, int]] = []
        for k, i in enumerate(self.picks):
            item = self.pictures[i]
            self.boxes.append(torch.cat([item.boxes, item.classes[:, None].float()], 1))
            low = item.boxes[:, :2]
            _, numbers = box_crops(
                blank, torch.cat([low, low + item.boxes[:, 2:]], 1), min_side=args.min_crop
            )
            self.where.append(numbers)
            kept += [(k, int(n)) for n in numbers]
        self.min_side = args.min_crop
        self.of = torch.tensor([k for k, _ in kept], dtype=torch.int64)
        self.classes: list[str] = []
        self.block = 1
        self.about: dict[str, Any] = {
            "kind": "data set",
            "data": source.name.removesuffix(f"/{split}"),
            "split": split,
            "inputs": count,
            "crops": len(kept),
            "min_side": args.min_crop,
            "content": {"name": source.name, "of": len(source)},
        }
        self.first = [0, *torch.bincount(self.of, minlength=count).cumsum(0).tolist()]
        self._real: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.of)

    def layout(self, number: int, objects: int) -> Layout:
        """Layout `number` as the network takes it."""
        most = max(len(boxes) for boxes in self.boxes)
        return Layout.pad([self.boxes[number]], num_classes=objects, least=most)

    def crops(self, number: int, image: Tensor) -> list[Tensor]:
        """The crops of layout `number` from a picture uint8 [3, H, W]."""
        boxes = self.boxes[number]
        corners = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:4]], 1)
        return box_crops(image, corners, min_side=self.min_side)[0]

    def batches(self, numbers: Sequence[int], size: int) -> Iterator[Batch]:
        """Real crops."""
        image, at = None, -1
        for first in range(0, len(numbers), size):
            part, found = list(numbers[first : first + size]), []
            for c in part:
                k = int(self.of[c])
                if k != at:
                    image, at = self.pictures[self.picks[k]].image, k
                assert image is not None
                found.append(self.crops(k, image)[c - self.first[k]])
            yield Batch(part, found, None)

    def real(self, extractors: dict[str, Extractor], batch: int) -> dict[str, Tensor]:
        """Features of all real crops by extractor, made once. All ranks call."""
        if not self._real:
            self._real = look(self, extractors, batch=batch, desc="real crops").features
        return self._real


def _set_of(word: str) -> str:
    head, _, last = bare(word).rpartition("/")
    return head if head and split_of(last) else bare(word)


class SceneFID:
    """Looks at drawn pictures as they come: `watch` for `recipes.metrics.passing.look`.

    Picture k is of layout k modulo their number; its crops are embedded at once, so that no picture
    is drawn twice.
    """

    def __init__(
        self, layouts: LayoutSet, extractors: dict[str, Extractor], args: Namespace,
        drawn: int, batch: int, device: torch.device,
    ) -> None:  # fmt: skip
        self.layouts, self.extractors, self.args, self.drawn = layouts, extractors, args, drawn
        self.batch, self.device = batch, device
        self._rows: dict[str, list[Tensor]] = {name: [] for name in extractors}
        self._ids: list[int] = []
        if len(layouts) < 2:
            raise UsageError(
                f"--metrics scenefid: {len(layouts)} boxes of --data are of at least "
                f"{args.min_crop} pixels a side; a smaller --min_crop, or more --num_images"
            )

    def __call__(self, batch: Batch) -> None:
        """Crops of these pictures."""
        count = len(self.layouts.boxes)
        crops: list[Tensor] = []
        for k, image in zip(batch.numbers, batch.images, strict=True):
            own = self.layouts.crops(k % count, image)
            crops += own
            before = k // count * len(self.layouts) + self.layouts.first[k % count]
            self._ids += range(before, before + len(own))
        for first in range(0, len(crops), self.batch):
            part = crops[first : first + self.batch]
            for name, extractor in self.extractors.items():
                self._rows[name].append(extractor(part, self.batch).features.cpu())

    def figures(self) -> dict[str, Figure]:
        """A Frechet distance for each extractor. All ranks call."""
        real = self.layouts.real(self.extractors, self.batch)
        counts = [len(self.layouts.where[k % len(self.layouts.where)]) for k in range(self.drawn)]
        pictures = torch.repeat_interleave(torch.arange(self.drawn), torch.tensor(counts))
        ids = torch.tensor(self._ids, dtype=torch.int64)
        found = {}
        for name, rows in self._rows.items():
            own = torch.cat(rows) if rows else torch.zeros(0, real[name].shape[1])
            features = gather_rows(own, ids)
            made = distributed.from_main(partial(self._figure, features, pictures, real[name]))
            found[suffix("scenefid", name)] = made
        return found

    def _figure(self, features: Tensor, pictures: Tensor, real: Tensor) -> Figure:
        about = self.layouts.about
        sides = Sides(Seen(len(features), {}), None, None, self.args, self.device)
        reference, samples = moments_of(real), moments_of(features)
        drawn = None
        if sides.resamples and len(pictures.unique()) > 1:
            # pictures are drawn anew, with all their crops: those of one are alike
            drawn = frechet_replicates(
                features.to(self.device), reference, resamples=sides.resamples,
                units=pictures.unique(return_inverse=True)[1],
            )  # fmt: skip
        more = {
            "crops": len(features), "real_crops": len(real), "min_side": self.layouts.min_side,
            "layouts": about["inputs"], "data": about["data"], "split": about["split"],
            "form": f"{len(features)} crops against {len(real)} of the same boxes of "
            f"{about['data']}/{about['split']}, at least {self.layouts.min_side} px a side",
        }  # fmt: skip
        value = frechet_distance(samples, reference)
        return sides.figure(value, len(features), True, more, drawn, (0.0, float("inf")))
