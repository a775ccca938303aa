"""metrics.json: every figure with the conditions it holds under, and the same in words."""

from __future__ import annotations

import hashlib
import json
import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluation.verdict import seed_ranges
from recipes.metrics.conditional import Figure
from runtime.provenance import collect
from runtime.rundir import folder_name
from storage.dirs import output_folder, results_home
from storage.errors import DataError, UsageError, not_made
from storage.files import read_json, read_object, write_json, writing

FORMAT = "imle-lab-metrics"
FILE, FEATURES, REPLICATES = "metrics.json", "features.npz", "replicates.npz"
SCRIPT = "calculate_metrics"


def settings_of(
    args: Namespace,
    samples: Sequence[Mapping[str, Any]],
    reference: Mapping[str, Any] | None,
    held: Mapping[str, Any] | None,
    extractors: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """What decides the figures, as JSON values."""
    names = ("clusters", "nearest", "bootstrap", "lpips", "classifier", "label_order")
    return json.loads(
        json.dumps(
            {
                "metrics": [[m.name, m.word] for m in args.wanted],
                "samples": list(samples),
                "reference": reference,
                "held": held,
                "extractors": extractors,
                **{name: getattr(args, name, None) for name in names},
            }
        )
    )


def folder_of(args: Namespace, settings: Mapping[str, Any], stem: str) -> Path:
    """Where metrics.json goes: --outdir, or RESULTS/calculate_metrics/STEM-HASH."""
    if args.outdir:
        return output_folder(args.outdir, SCRIPT)
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return results_home() / SCRIPT / folder_name(stem, key)


def there_already(folder: Path, settings: Mapping[str, Any], args: Namespace) -> dict | None:
    """The record in a folder, if it is of these settings and has what is asked for.

    Errors: UsageError for a record of others, unless it is to be overwritten.
    """
    if args.overwrite or not (folder / FILE).exists():
        return None
    old = read_object(folder / FILE) or {}
    if old.get("settings") != settings:
        raise UsageError(f"{folder / FILE} is of other settings: another --outdir, or --overwrite")
    _check_whole(old, folder / FILE)
    return None if args.features and not (folder / FEATURES).exists() else old


def write(
    folder: Path,
    settings: Mapping[str, Any],
    ranges: Sequence[tuple[str | None, Mapping[str, Figure]]],
    run: str | None = None,
) -> dict[str, Any]:
    """Write metrics.json and return it. ranges: seeds, and the figures on them. run: whose network
    it is, if it is of a run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_made(f"--outdir {folder}: {error.strerror}", error) from error
    origin = collect(folder)
    told = ("command", "git", "python")
    record = {
        "format": FORMAT,
        "version": 1,
        "origin": {**{k: origin[k] for k in told}, "torch": torch.__version__, "run": run},
        "settings": dict(settings),
        "ranges": [
            {"seeds": seeds, "figures": {k: _plain_figure(f) for k, f in found.items()}}
            for seeds, found in ranges
        ],
        "figures": {k: plain(v) for k, v in summary(ranges).items()},
    }
    for name in (FEATURES, REPLICATES):  # those of an earlier record would be taken for this one's
        with suppress(FileNotFoundError):
            (folder / name).unlink()
    kept = {f"{name}.{k}": figure.replicates.values.numpy()
            for k, (_, found) in enumerate(ranges) for name, figure in found.items()
            if figure.replicates is not None}  # fmt: skip
    with writing(folder / REPLICATES) as file:
        np.savez(file, **kept)  # type: ignore[arg-type]
    write_json(folder / FILE, record, indent=1)
    return record


def summary(ranges: Sequence[tuple[str | None, Mapping[str, Figure]]]) -> dict[str, dict[str, Any]]:
    """By name: the figure of the one range, or the mean of several with least and most."""
    found = {}
    for name, first in ranges[0][1].items():
        values = [figures[name].value for _, figures in ranges]
        one: dict[str, Any] = {"value": first.value, "low": first.low, "high": first.high}
        method = first.more.get("interval") if len(values) == 1 else "ranges"
        if not all(map(math.isfinite, values)):
            one = {"value": math.nan if len(values) > 1 else first.value, "low": None, "high": None}
        elif len(values) > 1:
            over = seed_ranges(values)
            one = {"value": over.mean, "least": over.least, "most": over.most,
                   "low": over.interval.low if over.interval else None,
                   "high": over.interval.high if over.interval else None}  # fmt: skip
        found[name] = {**one, "n": first.n, "ranges": len(values), "less_is_better": first.less}
        if one["low"] is not None:
            found[name]["interval"] = method or "means"
    return found


def _plain_figure(figure: Figure) -> dict[str, Any]:
    """Without the replicates, which have a file of their own."""
    return plain({k: v for k, v in figure._asdict().items() if k != "replicates"})


def plain(value: Any) -> Any:
    """For JSON, which has no infinity and no nan."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def read(word: str) -> tuple[Path, dict[str, Any]]:
    """The folder and the record that a path means: a metrics.json, its folder, a folder's name
    below the results. Errors: DataError."""
    from storage.dirs import find_output
    from storage.files import expanded

    path = expanded(word)
    path = path if path.suffix == ".json" else find_output(word, SCRIPT) / FILE
    try:
        record = read_json(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; give a metrics.json or its folder") from error
    except ValueError as error:
        raise DataError(f"{path}: no JSON ({error})") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise DataError(f"{path}: no record of calculate_metrics.py")
    _check_whole(record, path)
    return path.parent, record


def _check_whole(record: Mapping[str, Any], path: Path) -> None:
    """That a record can be told. Errors: DataError."""
    try:
        lines(record)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise DataError(f"{path}: a damaged record; measure again with --overwrite") from None


def save_features(
    folder: Path,
    ranges: Sequence[Mapping[str, Tensor]],
    reference: Mapping[str, Any],
) -> None:
    """Features of every range by extractor, and the reference's moments, to features.npz."""
    arrays: dict[str, np.ndarray] = {}
    for k, found in enumerate(ranges):
        arrays |= {f"{name}.{k}": t.numpy() for name, t in found.items()}
    for name, moments in reference.items():
        arrays |= {f"{name}.mean": moments.mean.numpy(), f"{name}.cov": moments.cov.numpy()}
    with writing(folder / FEATURES) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------ words


def lines(record: Mapping[str, Any]) -> list[str]:
    """Every figure in a line, with the conditions that it holds under; what the pictures are."""
    settings = record["settings"]
    samples, reference = settings["samples"][0], settings["reference"]
    said = [f"pictures: {of_pictures(samples)}"]
    for what in ("inputs", "layouts"):
        if of := samples.get(what):
            said.append(f"{what}: {of['inputs']} of {set_in_words(of)}")
    if reference:
        said.append(f"reference: {of_pictures(reference)}")
    if settings["held"]:
        said.append(f"held out: {of_pictures(settings['held'])}")
    for name, about in settings["extractors"].items():
        side = "any size" if about["side"] is None else f"{about['side']} px"
        said.append(
            f"extractor {name}: {side}, resize {about['resize']}, weights {about['weights']}, "
            f"sha256 {about['sha256'][:12]}"
        )
    seeds = [r["seeds"] for r in record["ranges"] if r["seeds"]]
    for name, figure in record["figures"].items():
        more = record["ranges"][0]["figures"][name]["more"]
        conditions = _conditions(figure, samples, reference, seeds)
        if "subset_size" in more:
            conditions += f", {more['subsets']} subsets of {more['subset_size']}"
        said.append(f"{name} {in_words(figure)} ({conditions})")
        if "form" in more and (len(record["ranges"]) == 1 or "each" not in more):
            said.append(f"  {more['form']}")  # of FDr its parts, which differ from range to range
    return said


def set_in_words(of: Mapping[str, Any]) -> str:
    """The data set of inputs or layouts, with its split."""
    split = f"/{of['split']}"
    return str(of["data"]).removesuffix(split) + split


def in_words(figure: Mapping[str, Any]) -> str:
    """A figure of a record with its interval, and the least of several ranges."""

    def number(value: Any) -> str:
        return f"{value:.5g}" if isinstance(value, float) else str(value)

    said = number(figure["value"])
    if figure.get("low") is not None:
        said += f" [{number(figure['low'])}, {number(figure['high'])}]"
    if figure["ranges"] > 1 and "least" in figure:
        said = f"mean {said}, least {number(figure['least'])} of {figure['ranges']} seed ranges"
    return said


def _conditions(
    figure: Mapping[str, Any],
    samples: Mapping[str, Any],
    reference: Mapping[str, Any] | None,
    seeds: Sequence[str],
) -> str:
    said = [f"n {figure['n']}"]
    if samples.get("per_class"):
        low, high = samples["per_class"]
        said.append(f"{low} a class" if low == high else f"{low}-{high} a class")
    if samples.get("samples_per_input"):
        said.append(f"{samples['samples_per_input']} samples an input")
    split = samples.get("split")
    said += [f"split {split}"] if split else []
    said += [f"seeds {' and '.join(seeds)}"] if seeds else []
    if reference:
        said.append(f"against {reference.get('data') or reference.get('file')}")
    return ", ".join(said)


def of_pictures(about: Mapping[str, Any]) -> str:
    """What pictures are, in words."""
    if about.get("kind") == "statistics":
        return f"statistics {about['file']} ({about['format']})"
    if about.get("kind") != "data set":
        step = f" at step {about['step']}" if about.get("step") is not None else ""
        guided = f", guided with weight {about['guidance']:g}" if about.get("guide") else ""
        heats = np.atleast_1d(about.get("temperature", []))
        warm = f", temperature {' '.join(f'{heat:g}' for heat in heats)}" if len(heats) else ""
        return f"{about['pictures']} of {about['net']} ({about['kind']}{step}){guided}{warm}"
    part = "" if about["pictures"] == about["of"] else f" of {about['of']}, seed {about['seed']}"
    size = about["res"] if isinstance(about["res"], str) else f"{about['res']} px {about['crop']}"
    return f"{about['pictures']}{part} of {about['data']}, {size}, files {about['file_format']}"
