"""From features to figures: every metric by its name, with what belongs beside it."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evaluation.accuracy import correct
from evaluation.bootstrap import frechet_groups, frechet_replicates
from evaluation.classes import classification, inception_score, inception_score_replicates
from evaluation.frechet import Moments, fd_ratio, frechet_distance
from evaluation.kernel_distance import kid_blocks, kid_groups, kid_subsets
from evaluation.likelihood import fld_replicates
from evaluation.manifolds import NAMES, prdc, prdc_replicates
from evaluation.memorisation import memorisation, memorisation_replicates
from evaluation.modes import (
    cluster_centres,
    count_modes,
    mode_proportions,
    modes_replicates,
    nearest_centre,
)
from evaluation.replicates import Replicates, interval
from evaluation.statistics import distance_name
from recipes.metrics.conditional import Figure
from recipes.metrics.names import Metric, fdr_words
from recipes.metrics.passing import Seen
from storage.errors import UsageError

KID_SUBSETS, KID_SIZE = 100, 1000
KID_BLOCKS = 10  # at least, of the interval of so many times KID_SIZE pictures and more
RESAMPLES = 100
CLASSIFIER = "classifier"  # the name under which its logits are
NO_FEATURES = (
    "--metrics {metric} needs features of {option}, which has moments alone: make it by `ref "
    "--features`, or give the data set"
)
SHARE, ABOVE = (0.0, 1.0), (0.0, math.inf)  # where figures lie
# Work of a bootstrap, in multiplications, that passes without being asked for: a minute or so.
_QUICK = 1e13


@dataclass(frozen=True)
class Sides:
    """What is compared. samples: what is judged; reference, held: real pictures; None: not given.

    Each by extractor's name. device: where long sums are made.
    """

    samples: Seen
    reference: Seen | None
    held: Seen | None
    args: Namespace
    device: torch.device

    @property
    def resamples(self) -> int:
        """Of every bootstrap; 0: no intervals."""
        return RESAMPLES if self.args.bootstrap is None else self.args.bootstrap

    def frechet(self, pairs: Sequence[tuple[Tensor, Moments]]) -> list[Replicates]:
        """Of the Frechet distances of features [N, d] to references, all by one method: a bootstrap
        if that is quick or asked for, else without group after group. [] for no intervals."""
        if not self.resamples or any(len(features) < 4 for features, _ in pairs):
            return []
        sizes = [features.shape for features, _ in pairs]
        work = self.resamples * sum(n * d * d + 10.0 * d**3 for n, d in sizes)
        quick = work < _QUICK * (100 if self.device.type == "cuda" else 1)
        found = []
        for features, reference in pairs:
            x = features.to(self.device)
            if self.args.bootstrap or quick:
                found.append(frechet_replicates(x, reference, resamples=self.resamples))
            else:
                found.append(frechet_groups(x, reference))
        return found

    def figure(
        self, value: float, n: int, less: bool | None, more: dict[str, Any],
        replicates: Replicates | None = None, within: tuple[float, float] = (-math.inf, math.inf),
    ) -> Figure:  # fmt: skip
        """A figure with the interval that its replicates tell, which is cut to what can be."""
        bad = replicates is not None and not bool(replicates.values.isfinite().all())
        if replicates is None or not self.resamples or len(replicates.values) < 2 or bad:
            return Figure(value, None, None, n, less, more)
        found = interval(value, replicates, n)
        low, high = max(found.low, within[0]), min(found.high, within[1])
        how = {"interval": replicates.method, "replicates": found.resamples}
        if replicates.method == "bootstrap":
            how["bias"] = found.bias
        return Figure(value, low, high, n, less, {**more, **how}, replicates)

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
    more: dict[str, Any] = {"reference_pictures": other.images}
    features = sides.samples.features.get(name)
    drawn = [] if features is None else sides.frechet([(features, other)])
    figure = sides.figure(value, sides.samples.n, True, more, next(iter(drawn), None), ABOVE)
    return {distance_name(name): figure}


def suffix(measure: str, name: str) -> str:
    """What a measure of an extractor is called."""
    return measure if name in ("", "inception") else f"{measure}_{name}"


def _kid(metric: Metric, name: str, sides: Sides) -> Result:
    ours = sides.features(sides.samples, name, metric, "the pictures")
    real = sides.features(sides.real(metric), name, metric, "--ref")
    size = min(KID_SIZE, len(ours), len(real))
    found = kid_subsets(ours, real, subsets=KID_SUBSETS, subset_size=size)
    more = {"std": found.std, "subsets": KID_SUBSETS, "subset_size": size}
    block = min(KID_SIZE, min(len(ours), len(real)) // KID_BLOCKS)
    apart = None
    if sides.resamples and len(ours) < KID_BLOCKS * KID_SIZE:
        apart = kid_groups(ours, real) if len(ours) > 2 else None
    elif sides.resamples and block >= 2:
        apart = kid_blocks(ours, real, block=block)
        more["block"] = block
    return {suffix("kid", name): sides.figure(found.mean, len(ours), True, more, apart)}


def _prdc(metric: Metric, name: str, sides: Sides) -> Result:
    ours = sides.features(sides.samples, name, metric, "the pictures")
    real = sides.features(sides.real(metric), name, metric, "--ref")
    without: Mapping[str, Replicates] = {}
    if sides.resamples:
        found, without = prdc_replicates(ours, real, k=sides.args.nearest)
    else:
        found = prdc(ours, real, k=sides.args.nearest)
    more = {"k": found.k, "reference_pictures": len(real)}
    return {
        suffix(what, name): sides.figure(
            getattr(found, what), len(ours), False, more, without.get(what),
            ABOVE if what == "density" else SHARE,
        )
        for what in NAMES
    }  # fmt: skip


def _fld(metric: Metric, name: str, sides: Sides) -> Result:
    ours, real, held = _three(metric, name, sides)
    found, without = fld_replicates(ours, real, held)
    more = {k: v for k, v in found._asdict().items() if k not in ("fld", "gap")}
    more["held_pictures"] = len(held)
    return {
        suffix("fld", name): sides.figure(found.fld, len(ours), True, more, without["fld"]),
        suffix("fld_gap", name): sides.figure(found.gap, len(ours), None, more, without["gap"]),
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
    drawn: dict[str, Replicates] = {}
    if sides.resamples and len(ours) > 1:
        drawn = memorisation_replicates(found, resamples=sides.resamples)
    return {
        suffix("nearest_train_ratio", name): sides.figure(
            found.ratio, len(ours), None, {**more, "held_out_is": 1.0}, drawn.get("ratio"), ABOVE
        ),
        suffix("nearest_train_share_below", name): sides.figure(
            found.share_below, len(ours), None, {**more, "held_out_is": found.low},
            drawn.get("share_below"), SHARE,
        ),
    }  # fmt: skip


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
    drawn = _fdr_replicates(sides, held, count)
    return {
        suffix("fdr", name) if name else "fdr": sides.figure(
            found.mean, count, True, more, drawn, ABOVE
        )
    }


def _fdr_replicates(sides: Sides, held: Mapping[str, Moments], count: int) -> Replicates | None:
    """Of the same rows for every extractor, over the distances of the held-out pictures."""
    assert sides.reference is not None
    real = sides.reference.moments
    parts = sides.frechet([(sides.samples.rows(name, count), real[name]) for name in held])
    if not parts:
        return None
    over = [frechet_distance(theirs, real[name]) for name, theirs in held.items()]
    values = [part.values / own for part, own in zip(parts, over, strict=True)]
    return Replicates(parts[0].method, torch.stack(values).mean(0))


def _is(metric: Metric, name: str, sides: Sides) -> Result:
    if name not in sides.samples.logits:
        raise UsageError(f"--metrics {metric.name}: {name} has no classes")
    splits = min(10, sides.samples.n)
    logits = sides.samples.logits[name].to(sides.device)
    found = inception_score(logits, splits=splits)
    more = {"std": found.std, "splits": splits}
    drawn = None
    if sides.resamples:
        drawn = inception_score_replicates(logits, splits=splits, resamples=sides.resamples)
    figure = sides.figure(found.mean, sides.samples.n, False, more, drawn, (1.0, math.inf))
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
        own = {**more, "per_class": dict(zip(classes, per, strict=False)), "interval": "shares"}
        right = Replicates("shares", correct(logits, labels, k).double())
        result[f"top{k}"] = Figure(share.mean, share.low, share.high, share.n, False, own, right)
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
    drawn = None
    if sides.resamples and sides.samples.n > 1:
        drawn = modes_replicates(ours, found, resamples=sides.resamples)
    figure = sides.figure(found.tv, sides.samples.n, True, more, drawn, SHARE)
    return {suffix("modes_tv", name or CLASSIFIER): figure}


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
