"""Names of metrics: a measure, and the extractor whose features or logits it is of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from evaluation.extractors import KINDS, NAMED

# What is measured on features of an extractor, on logits, on the classifier, on samples of inputs.
OF_FEATURES = ("fd", "kid", "prdc", "fld", "memorisation", "modes", "fdr")
OF_MOMENTS = ("fd", "fdr")  # of these what needs no features of the reference
OF_LOGITS = ("is",)
OF_CROPS = ("scenefid",)  # of boxes, embedded apart
CONDITIONAL = frozenset(("lpips", "fwv", "psnr", "ssim"))
MEASURES = (*OF_FEATURES, *OF_LOGITS, *OF_CROPS, "top", *sorted(CONDITIONAL))
_KINDS = [kind for kind in KINDS if kind not in NAMED]


class Metric(NamedTuple):
    """name: as it was asked for. word: of the extractor, None where it needs none, or where
    `fdr` takes all."""

    name: str
    measure: str
    word: str | None


def metrics_of(names: Sequence[str], extractors: Sequence[str]) -> list[Metric]:
    """Metrics by their names, those without an extractor for each of `extractors`.

    fid is fd of inception. Errors: ValueError for a name that is none.
    """
    found: list[Metric] = []
    for name in names:
        measure, word = ("fd", "inception") if name == "fid" else _split(name)
        if measure in CONDITIONAL or measure == "top":
            found.append(Metric(name, measure, None))
        elif measure == "fdr" and word is None:
            found.append(Metric(name, measure, None))
        else:
            words = [word] if word else list(extractors)
            found += [Metric(name, measure, w) for w in words]
    return list(dict.fromkeys(found))


def _split(name: str) -> tuple[str, str | None]:
    measure, _, word = name.partition("_")
    if measure not in MEASURES or (word and word not in _KINDS):
        raise ValueError(
            f"--metrics {name}: fid, or one of {', '.join(MEASURES)}, and after it, if it is of "
            f"one extractor alone, _ and {', '.join(_KINDS)} (others: --extractor)"
        )
    if word and measure in (*CONDITIONAL, "top"):
        raise ValueError(f"--metrics {name}: {measure} is of no extractor")
    return measure, word or None


def by_classifier(wanted: Sequence[Metric]) -> list[Metric]:
    """Metrics where a classifier names the modes, which are then of no extractor."""
    found = [m._replace(word=None) if m.measure == "modes" else m for m in wanted]
    return list(dict.fromkeys(found))


def fdr_words(wanted: Sequence[Metric], extractors: Sequence[str]) -> list[str]:
    """Words of the extractors that an `fdr` without one is the mean over: those of the Frechet
    distances that are asked for, else all of `extractors`."""
    words = [m.word for m in wanted if m.measure == "fd" and m.word] or list(extractors)
    return list(dict.fromkeys(words))


def words_of(wanted: Sequence[Metric], extractors: Sequence[str]) -> list[str]:
    """Words of all extractors that metrics need, in order."""
    words = [m.word for m in wanted if m.word is not None]
    if any(m.measure == "fdr" and m.word is None for m in wanted):
        words += fdr_words(wanted, extractors)
    return list(dict.fromkeys(words))
