"""Whether one record of figures is better than another, on paired seeds."""

from __future__ import annotations

import math
import zipfile
import zlib
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluation.bootstrap import frechet_paired
from evaluation.frechet import Moments
from evaluation.replicates import Replicates, Resampled
from evaluation.replicates import paired as paired_replicates
from evaluation.statistics import extractor_of
from evaluation.verdict import Verdict
from evaluation.verdict import compare as judged
from recipes.metrics.record import FEATURES, REPLICATES, of_pictures
from storage.errors import DataError, UsageError

# What decides figures beside pictures and networks -> the option that says it.
_ALIKE = {
    "held": "--held", "clusters": "--clusters", "nearest": "--nearest",
    "classifier": "--classifier", "label_order": "--label_order",
}  # fmt: skip
Record = tuple[Path, Mapping[str, Any]]


def verdicts(args: Namespace, a: Record, b: Record, device: torch.device) -> list[str]:
    """A line for every figure that both have, and what is compared above it.

    Errors: UsageError for records whose figures do not compare.
    """
    first, second = a[1], b[1]
    check_comparable(first, second)
    lines = [f"A: {of_pictures(first['settings']['samples'][0])}",
             f"B: {of_pictures(second['settings']['samples'][0])}"]  # fmt: skip
    common = [name for name in first["figures"] if name in second["figures"]]
    if not common:
        raise UsageError(f"{a[0]} and {b[0]} have no figure in common")
    for name in common:
        one, other = first["figures"][name], second["figures"][name]
        values = [float(figure["value"]) for figure in (one, other)]  # a word where not finite
        shown = f"{name}: A {values[0]:.5g}, B {values[1]:.5g}"
        less = one["less_is_better"]
        if not all(map(math.isfinite, values)):
            lines.append(f"{shown}; not distinguished (a figure is not finite)")
        elif less is None:
            lines.append(f"{shown} (neither less nor more is better)")
        else:
            found = verdict(args, name, a, b, larger=not less, device=device)
            lines.append(f"{shown}; {found}")
    return lines


def check_comparable(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """UsageError unless both were measured alike: extractors, reference, numbers, seeds."""
    one, other = a["settings"], b["settings"]
    for name in one["extractors"].keys() & other["extractors"].keys():
        for fact in ("sha256", "resize", "side"):
            mine, theirs = one["extractors"][name][fact], other["extractors"][name][fact]
            if mine != theirs:
                raise UsageError(f"not measured alike: {name} {fact} {mine} against {theirs}")
    if one["reference"] != other["reference"]:
        said = [of_pictures(s["reference"]) if s["reference"] else "none" for s in (one, other)]
        raise UsageError(f"not measured against the same: {said[0]}, and {said[1]}")
    for name, option in _ALIKE.items():
        mine, theirs = one.get(name), other.get(name)
        if mine != theirs:
            words = f"{option} {_short(mine)} against {_short(theirs)}"
            raise UsageError(f"not measured alike: {words}")
    for name in a["figures"].keys() & b["figures"].keys():
        nets = [r["ranges"][0]["figures"][name]["more"].get("lpips_sha256") for r in (a, b)]
        if None not in nets and nets[0] != nets[1]:
            raise UsageError(f"not measured alike: {name} by other weights of LPIPS")
    inputs = [s["samples"][0].get("inputs") for s in (one, other)]
    if inputs[0] != inputs[1]:
        raise UsageError("not of the same inputs: another --data or --num_images")
    seeds = [[r["seeds"] for r in record["ranges"]] for record in (a, b)]
    if seeds[0] != seeds[1]:
        raise UsageError(f"not of the same seeds: {seeds[0]} against {seeds[1]}")
    counts = [s["samples"][0]["pictures"] for s in (one, other)]
    if counts[0] != counts[1]:
        raise UsageError(f"{counts[0]} pictures against {counts[1]}: figures depend on the number")


def _short(value: Any) -> str:
    return of_pictures(value) if isinstance(value, Mapping) else str(value)


def verdict(
    args: Namespace, name: str, a: Record, b: Record, *, larger: bool, device: torch.device
) -> Verdict | str:
    """Of one figure: by its ranges of seeds, or, on one range, by pairs of replicates; a word where
    neither is there."""
    values = [[r["figures"][name]["value"] for r in record["ranges"]] for _, record in (a, b)]
    distance = is_distance(name)
    # FDr is such a distance too, in parts of that of held-out pictures
    ratio = name == "fdr" or name.startswith("fdr_")
    margin = args.margin if distance or ratio else 0.0
    try:
        if len(values[0]) > 1:
            return judged(*values, margin=margin, larger_is_better=larger)
        interval = paired(args, name, a[0], b[0], device) if distance else None
        if interval is None:
            interval = of_replicates(name, a, b)
        if interval is None:
            return (
                "not distinguished (no interval: measure with two ranges of seeds, or without "
                "--bootstrap 0)"
            )
        return judged(*values, interval=interval, margin=margin, larger_is_better=larger)
    except DataError:
        raise
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None


def is_distance(name: str) -> bool:
    """Whether a figure is a Frechet distance."""
    try:
        return bool(extractor_of(name))
    except ValueError:
        return False


def of_replicates(name: str, a: Record, b: Record) -> Resampled | None:
    """The interval of A - B from what both have kept of this figure; None if they have not."""
    found = []
    for folder, record in (a, b):
        figure = record["ranges"][0]["figures"][name]
        kept = arrays(folder / REPLICATES, (f"{name}.0",))
        if kept is None:
            return None
        method = figure["more"].get("interval", "means")
        found.append((float(figure["value"]), Replicates(method, torch.from_numpy(kept[0]))))
    return paired_replicates(found[0], found[1], a[1]["ranges"][0]["figures"][name]["n"])


def arrays(file: Path, names: Sequence[str]) -> list[np.ndarray] | None:
    """Arrays of an .npz; None where it is not there, or has not all of them. Errors: DataError."""
    if not file.exists():
        return None
    try:
        with np.load(file, allow_pickle=False) as opened:
            if not all(name in opened.files for name in names):
                return None
            return [opened[name] for name in names]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file}: {error}") from None


def paired(args: Namespace, name: str, a: Path, b: Path, device: torch.device) -> Resampled | None:
    """The interval of A - B from the features that both have kept; None if they have not."""
    extractor = extractor_of(name)
    found = []
    for folder in (a, b):
        keys = (f"{extractor}.0", f"{extractor}.mean", f"{extractor}.cov")
        kept = arrays(folder / FEATURES, keys)
        if kept is None:
            return None
        found.append([torch.from_numpy(array).to(device) for array in kept])
    (ours, mean, cov), (theirs, *_) = found
    reference = Moments(mean, cov)
    return frechet_paired(ours, theirs, reference, resamples=args.resamples)
