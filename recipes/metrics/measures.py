"""From features to figures: every metric by its name, with what belongs beside it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evaluation.bootstrap import frechet_interval
from evaluation.classes import classification, inception_score
from evaluation.frechet import fd_ratio, frechet_distance
from evaluation.kernel_distance import kid_subsets
from evaluation.likelihood import fld
from evaluation.manifolds import prdc
from evaluation.memorisation import memorisation
from evaluation.modes import cluster_centres, count_modes, mode_proportions, nearest_centre
from evaluation.statistics import distance_name
from recipes.metrics.conditional import Figure
from recipes.metrics.names import Metric, fdr_words
from recipes.metrics.passing import Seen
from storage.errors import UsageError

KID_SUBSETS, KID_SIZE = 100, 1000
CLASSIFIER = "classifier"  # the name under which its logits are
NO_FEATURES = (
    "--metrics {metric} needs features of {option}, which has moments alone: make it by `ref "
    "--features`, or give the data set"
)
# Work of a bootstrap, in multiplications, that passes without being asked for: a minute or so.
_QUICK = 1e13


@dataclass(frozen=True)
class Sides:
    """What is compared. samples: what is judged; reference, held: real pictures; None: not given.

    Each by extractor's name. resamples: of Frechet distances; None: 100 where that is quick.
    device: where long sums are made.
    """

    samples: Seen
    reference: Seen | None
    held: Seen | None
    args: Namespace
    device: torch.device

    def resamples(self, features: Tensor) -> int:
        """How many times the rows [N, d] are drawn anew; 0: not at all."""
        if self.args.bootstrap is not None:
            return self.args.bootstrap
        n, d = features.shape
        work = 100.0 * (n * d * d + 10.0 * d**3)
        return 100 if work < _QUICK * (100 if self.device.type == "cuda" else 1) else 0

    def real(self, metric: Metric) -> Seen:
        """The reference. Errors: UsageError without one."""
        if self.reference is None:
            raise UsageError(f"--metrics {metric.name} needs --ref")
        return self.reference

    def features(self, seen: Seen, name: str, metric: Metric, option: str) -> Tensor:
        """Features of an extractor. Errors: UsageError of statistics that kept none."""
        if name not in seen.features:
            raise UsageError(NO_FEATURES.format(metric=metric.name, option=option))
        return seen.features[name].to(self.device)


Result = dict[str, Figure]


def figures(wanted: Sequence[Metric], names: Mapping[str, str], sides: Sides) -> Result:
    """All figures by name. names: word of an extractor -> its name. Errors: UsageError."""
    found: Result = {}
    for metric in wanted:
        if metric.measure not in _MEASURES:
            continue  # of samples of inputs: recipes.metrics.conditional
        name = names[metric.word] if metric.word is not None else ""
        try:
            if metric.measure == "fdr" and not name:
                mean_of = fdr_words(wanted, sides.args.extractor)
                found |= _fdr(metric, name, sides, [names[word] for word in mean_of])
            else:
                found |= _MEASURES[metric.measure](metric, name, sides)
        except ValueError as error:
            raise UsageError(f"--metrics {metric.name}: {error}") from None
    return found


def _fd(metric: Metric, name: str, sides: Sides) -> Result:
    reference = sides.real(metric)
    if name not in reference.moments:
        known = ", ".join(sorted(reference.moments)) or "nothing: it is one picture"
        raise UsageError(f"--ref has no statistics of {name}, only of {known}")
    if name not in sides.samples.moments:
        raise UsageError(f"--metrics {metric.name}: of one picture there is no distance")
    other = reference.moments[name]
    value = frechet_distance(sides.samples.moments[name], other)
    low = high = None
    more: dict[str, Any] = {"reference_pictures": other.images}
    if name in sides.samples.features:
        features = sides.samples.features[name]
        if resamples := sides.resamples(features):
            found = frechet_interval(features.to(sides.device), other, resamples=resamples)
            low, high = found.low, found.high
            more |= {"resamples": resamples, "bias": found.bias}
    return {distance_name(name): Figure(value, low, high, sides.samples.n, True, more)}


def _suffix(measure: str, name: str) -> str:
    return measure if name in ("", "inception") else f"{measure}_{name}"


def _kid(metric: Metric, name: str, sides: Sides) -> Result:
    ours = sides.features(sides.samples, name, metric, "the pictures")
    real = sides.features(sides.real(metric), name, metric, "--ref")
    size = min(KID_SIZE, len(ours), len(real))
    found = kid_subsets(ours, real, subsets=KID_SUBSETS, subset_size=size)
    more = {"std": found.std, "subsets": KID_SUBSETS, "subset_size": size}
    return {_suffix("kid", name): Figure(found.mean, None, None, len(ours), True, more)}


def _prdc(metric: Metric, name: str, sides: Sides) -> Result:
    ours = sides.features(sides.samples, name, metric, "the pictures")
    real = sides.features(sides.real(metric), name, metric, "--ref")
    found = prdc(ours, real, k=sides.args.nearest)
    more = {"k": found.k, "reference_pictures": len(real)}
    return {
        _suffix(what, name): Figure(getattr(found, what), None, None, len(ours), False, more)
        for what in ("precision", "recall", "density", "coverage")
    }


def _fld(metric: Metric, name: str, sides: Sides) -> Result:
    ours, real, held = _three(metric, name, sides)
    found = fld(ours, real, held)
    more = {k: v for k, v in found._asdict().items() if k not in ("fld", "gap")}
    more["held_pictures"] = len(held)
    return {
        _suffix("fld", name): Figure(found.fld, None, None, len(ours), True, more),
        _suffix("fld_gap", name): Figure(found.gap, None, None, len(ours), None, more),
    }


def _memorisation(metric: Metric, name: str, sides: Sides) -> Result:
    ours, real, held = _three(metric, name, sides)
    found = memorisation(ours, real, held)
    more = {
        "held_pictures": len(held),
        "train_pictures": len(real),
        "low": found.low,
        "copied": found.copied,
        "held_out_copied": found.held_out_copied,
        "z": found.z,
    }
    return {
        _suffix("nearest_train_ratio", name): Figure(
            found.ratio, None, None, len(ours), None, {**more, "held_out_is": 1.0}
        ),
        _suffix("nearest_train_share_below", name): Figure(
            found.share_below, None, None, len(ours), None, {**more, "held_out_is": found.low}
        ),
    }


def _three(metric: Metric, name: str, sides: Sides) -> tuple[Tensor, Tensor, Tensor]:
    if sides.held is None:
        raise UsageError(f"--metrics {metric.name} needs --held")
    return (
        sides.features(sides.samples, name, metric, "the pictures"),
        sides.features(sides.real(metric), name, metric, "--ref"),
        sides.features(sides.held, name, metric, "--held"),
    )


def _fdr(metric: Metric, name: str, sides: Sides, of: Sequence[str] = ()) -> Result:
    """name: an extractor's, or "": the mean over those of `of`."""
    if sides.held is None:
        raise UsageError(f"--metrics {metric.name} needs --held")
    reference = sides.real(metric)
    names = [name] if name else sorted(of)
    count = min(sides.samples.n, sides.held.n)  # a Frechet distance falls with the number
    ours = {n: sides.samples.part(n, count) for n in names}
    held = {n: sides.held.part(n, count) for n in names}
    missing = [n for n in names if n not in reference.moments]
    if missing:
        raise UsageError(f"--ref has no statistics of {missing[0]}")
    found = fd_ratio(ours, held, {n: reference.moments[n] for n in names})
    parts = ", ".join(f"{n} {ratio:.4g}" for n, ratio in found.each.items())
    more = {"each": found.each, "real_pictures_have": 1.0, "form": f"mean of {parts}"}
    return {_suffix("fdr", name) if name else "fdr": Figure(
        found.mean, None, None, count, True, more
    )}  # fmt: skip


def _is(metric: Metric, name: str, sides: Sides) -> Result:
    if name not in sides.samples.logits:
        raise UsageError(f"--metrics {metric.name}: {name} has no classes")
    splits = min(10, sides.samples.n)
    found = inception_score(sides.samples.logits[name].to(sides.device), splits=splits)
    more = {"std": found.std, "splits": splits}
    figure = Figure(found.mean, None, None, sides.samples.n, False, more)
    return {"inception_score" if name == "inception" else f"is_{name}": figure}


def _top(metric: Metric, name: str, sides: Sides) -> Result:
    logits, labels = sides.samples.logits.get(CLASSIFIER), sides.samples.labels
    if labels is None:
        raise UsageError("--metrics top: the pictures have no classes, so none can be right")
    if logits is None:
        raise UsageError(f"--classifier {sides.args.classifier} has no classes")
    found = classification(logits, labels)
    classes = sides.samples.classes
    more = {"classifier": sides.args.classifier, "label_order": sides.args.label_order}
    result = {}
    for k, share in found.accuracy.items():
        per = found.per_class[k].tolist()
        own = {**more, "per_class": dict(zip(classes, per, strict=False))}
        result[f"top{k}"] = Figure(share.mean, share.low, share.high, share.n, False, own)
    result["top1"].more["confusion"] = found.confusion.tolist()
    return result


def _modes(metric: Metric, name: str, sides: Sides) -> Result:
    reference = sides.real(metric)
    if sides.args.classifier is not None:
        if CLASSIFIER not in sides.samples.logits or CLASSIFIER not in reference.logits:
            raise UsageError(
                f"--metrics {metric.name}: --classifier needs classes, and --ref a data set"
            )
        ours, real = (s.logits[CLASSIFIER].argmax(1) for s in (sides.samples, reference))
        modes = sides.samples.logits[CLASSIFIER].shape[1]
        kind = f"classes of {sides.args.classifier}"
    else:
        features = sides.features(sides.samples, name, metric, "the pictures")
        data = sides.features(reference, name, metric, "--ref")
        modes = min(sides.args.clusters, len(data) // 2)
        centres = cluster_centres(data, modes)
        ours, real = (nearest_centre(f, centres).cpu() for f in (features, data))
        kind = f"{modes} clusters of the reference"
    found = mode_proportions(count_modes(ours, modes), count_modes(real, modes))
    more = {
        "modes": kind, "missing": found.missing, "different": found.different, "p": found.p,
        "by_chance": found.tv_by_chance, "shares": found.shares.tolist(),
        "data_shares": found.data_shares.tolist(),
    }  # fmt: skip
    return {
        _suffix("modes_tv", name or CLASSIFIER): Figure(
            found.tv, None, None, sides.samples.n, True, more
        )
    }


_MEASURES: dict[str, Callable[[Metric, str, Sides], Result]] = {
    "fd": _fd,
    "kid": _kid,
    "prdc": _prdc,
    "fld": _fld,
    "memorisation": _memorisation,
    "fdr": _fdr,
    "is": _is,
    "top": _top,
    "modes": _modes,
}
