"""Pictures that train_ddpm.py does not train on: what its network loses at them, and bits a
dimension.

    held_out = HeldOut(args, run, images)
    for step in run.steps(total):
        ...
        held_out(ema.module, how)  # at a snapshot, on all ranks

Steps and noise are the same every time, functions of a picture's number, so that figures of two
snapshots, or of two runs, differ by their networks alone.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from data.labelled import LabelledImages
from data.layout_images import LayoutImages
from data.layout_registry import layout_splits
from data.layouts import LayoutSource, LayoutSubset
from data.registry import bare, find, open_source, without_split
from data.sources import evenly
from diffusion.ddpm_rows import KeyedRandn, keyed_noise
from diffusion.gaussian_loss import bits_per_dim, rows_mean
from recipes.ddpm import parts
from recipes.ddpm.step import Objective, Rows
from recipes.ddpm.validation import band_ends
from runtime import distributed
from runtime.counter_rng import mix, uniform
from runtime.run import Run
from storage.dirs import data_home
from storage.errors import UsageError

HELD = 0x68656C64  # "held", apart from the keys of training noise
_STEP = 0x73746570
OPTIONS = ("val_images", "bits_per_dim")


class HeldOut:
    """Figures of held-out pictures; with neither --val_images nor --bits_per_dim nothing.

    train: the pictures that are trained on, whose classes and size these must have. Errors:
    UsageError, DataError.
    """

    def __init__(self, args: Namespace, run: Run, train: parts.Pictures) -> None:
        self.args, self.run = args, run
        self.images: parts.Pictures | None = None
        if any(getattr(args, name) for name in OPTIONS):
            self.images = held_out_images(args, train)
            run.say(f"held out: {len(self.images)} pictures of {self.images.source.name}")

    def __call__(self, net: nn.Module, how: Objective) -> None:
        """Log what `net` loses, as val/...; all ranks call. Errors: UsageError."""
        if self.images is not None:
            with self.run.spent.on("validation"):
                self._log(net, how)

    def _log(self, net: nn.Module, how: Objective) -> None:
        figures: dict[str, float] = {}
        if self.args.val_images:
            sums = self._summed(self.args.val_images, lambda rows: losses_at(net, how, rows))
            T = how.gaussian.T
            figures["val/mse"] = float(sums.mean())
            for (low, high), value in zip(band_ends(T), sums.tolist(), strict=True):
                figures[f"val/t {low}-{high}"] = value
        if self.args.bits_per_dim:
            found = self._summed(self.args.bits_per_dim, lambda rows: bits_of(net, how, rows))
            figures["val/bits_per_dim"] = float(found.sum())
            figures["val/bits_per_dim_prior"] = float(found[-1])
            for (low, high), value in zip(band_ends(how.gaussian.T), found.tolist(), strict=False):
                figures[f"val/bits t {low}-{high}"] = value
        self.run.log_now(**figures)
        said = ", ".join(
            f"{name.removeprefix('val/')} {figures[name]:.4g}"
            for name in ("val/mse", "val/bits_per_dim") if name in figures
        )  # fmt: skip
        self.run.say(f"held-out pictures: {said}")

    @torch.no_grad()
    def _summed(self, count: int, of: Callable[[Rows], Tensor]) -> Tensor:
        """The mean of `of(rows)` [n, k] over the first `count` pictures and all ranks: [k]."""
        total = None
        report = self.run.phase("held-out pictures", together=False)
        mine = range(self.run.rank, min(count, len(self.images or ())), self.run.world_size)
        for done, rows in self._rows(mine):
            found = of(rows).double().sum(0).cpu()
            total = found if total is None else total + found
            report(done, len(mine))
        width = distributed.all_reduce_max(0 if total is None else len(total))
        total = torch.zeros(width, dtype=torch.float64) if total is None else total
        parts_of = distributed.gather(total.to(self.run.device)).view(-1, width)
        return parts_of.cpu().sum(0) / min(count, len(self.images or ()))

    def _rows(self, numbers: range) -> Iterator[tuple[int, Rows]]:
        images = self.images
        assert images is not None
        _, at_once = parts.shares(self.args, self.run.world_size)
        collate: Callable[[Any], Any] = (
            images.collate if isinstance(images, LayoutImages) else default_collate
        )
        for first in range(0, len(numbers), at_once):
            some = numbers[first : first + at_once]
            keys = mix(torch.tensor(list(some), device=self.run.device), HELD)
            batch = collate([images[i] for i in some])
            yield first + len(some), parts.rows(batch, keys, self.run.device)


def held_out_images(args: Namespace, train: parts.Pictures) -> parts.Pictures:
    """The pictures of --data_val, or of the set's own split val, else test: as many as are asked
    for, spread over the classes. Errors: UsageError, DataError."""
    home = Path(args.data_path or data_home())
    spec, split = _held_spec(args, home)
    most = max(getattr(args, name) for name in OPTIONS)
    if isinstance(train, LayoutImages):
        source = parts.layout_source(args, spec, home, split)
        numbers = range(0, len(source), max(1, len(source) // most))[:most]
        _same_names(args, train.source.object_classes, source.object_classes)
        few: LayoutSource = LayoutSubset(source, numbers, source.name)
        return LayoutImages(
            few, train.resolution, crop=args.crop, max_objects=args.max_objects,
            least=args.max_objects, filter=train.filter,
        )  # fmt: skip
    pictures = open_source(spec, home, split=split, sizes=[train.resolution])
    held = LabelledImages(evenly(pictures, most), train.resolution, crop=args.crop)
    if args.cond:
        _same_names(args, train.classes, held.classes)
    if held.channels != train.channels:
        raise UsageError(f"--data_val {spec}: latents and pictures are not the same data")
    return held


def _held_spec(args: Namespace, home: Path) -> tuple[str, str]:
    """What is held out, as (set, split). Errors: UsageError where that would be trained on."""
    own = without_split(args.data)
    spec = bare(args.data_val or own)
    if args.data_val and without_split(spec) != spec:
        return spec, "val"  # names its split itself
    layouts = parts.has_layouts(args)
    splits = layout_splits(spec, home) if layouts else find(spec, home).splits
    trained = args.data.rpartition("/")[2] if own != bare(args.data) else "train"
    for split in ("val", "test"):
        if split in (splits or ()) and (spec != own or split != trained):
            return spec, split
    if args.data_val and spec != own and not splits:
        return spec, "train"  # a folder of its own, whole
    raise UsageError(
        f"--val_images, --bits_per_dim: {spec} has no split val or test beside what is trained on; "
        "--data_val NAME gives pictures that are not"
    )


def _same_names(args: Namespace, ours: list[str], theirs: list[str]) -> None:
    if list(ours) != list(theirs):
        raise UsageError(
            f"--data_val: held-out pictures have {len(theirs)} classes ({', '.join(theirs[:3])}, "
            f"..), those of {args.data} {len(ours)} ({', '.join(ours[:3])}, ..)"
        )


def losses_at(net: nn.Module, how: Objective, rows: Rows) -> Tensor:
    """The squared error [n, BANDS] of what the network predicts, at one step in each quarter of
    the steps; step and noise are functions of the rows' keys."""
    x0, gaussian = how.images(rows), how.gaussian
    cond = how.conditions(rows, dropping=False)
    columns = []
    for band, (low, high) in enumerate(band_ends(gaussian.T)):
        keys = mix(rows.keys, _STEP + band)
        inside = (uniform(keys, 1)[:, 0] * (high + 1 - low)).long()
        t = (low + inside).clamp_max(gaussian.T - 1)
        eps = keyed_noise(keys, x0.shape[1:])
        x_t = gaussian.q_sample(x0, t, eps)
        output = _called(net, how)(x_t, gaussian.model_time(t, x_t), **cond)
        said = gaussian.split(output, x0.shape[1])[0]
        columns.append(rows_mean((gaussian.target(x0, x_t, t, eps) - said).square()))
    return torch.stack(columns, 1)


def bits_of(net: nn.Module, how: Objective, rows: Rows) -> Tensor:
    """Bits a dimension [n, BANDS + 1]: of each quarter of the steps, and of the prior; the sum is
    the bound. Errors: UsageError for pictures that are not of 256 values."""
    x0, T = how.images(rows), how.gaussian.T
    values = (x0 + 1) * 127.5
    if (values - values.round()).abs().max() > 1e-2:
        raise UsageError("--bits_per_dim: means of coloured pictures are not of 256 values")
    cond = how.conditions(rows, dropping=False)
    found = bits_per_dim(
        _called(net, how), how.gaussian, x0, cond=cond, randn=KeyedRandn(rows.keys)
    )
    bands = [found["vb"][:, low : high + 1].sum(1) for low, high in band_ends(T)]
    return torch.stack([*bands, found["prior"]], 1)


def _called(net: nn.Module, how: Objective) -> Callable[..., Tensor]:
    def model(x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        with how.autocast():
            return net(x, t, **cond).float()

    return model
