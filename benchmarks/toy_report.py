"""What `benchmarks.toy_selection` found: comparisons of its arms, their report, and curves.

A record is what one arm did under one seed (`toy_selection.Seed.records`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.intervals import t_test
from storage.files import writing
from storage.pictures import new_figure, own_style


@dataclass(frozen=True)
class Comparison:
    """log(arm / baseline) of a figure over paired seeds; below 0 the arm is better."""

    question: str
    arm: str
    baseline: str
    figure: str
    n: int
    mean: float
    half: float  # of the 95 % interval
    p: float
    better: int = 0  # seeds in which the arm has less
    holm: float = math.nan


def compare(question: str, arm: str, baseline: str, figure: str, values: dict) -> Comparison | None:
    """values[seed, arm] -> record. None with fewer than two pairs.

    A figure that is not finite (samples that ran off to infinity) has no ratio: p is 1 then, and
    mean and interval are NaN, so that nothing is concluded.
    """
    seeds = sorted(k for k, name in values if name == arm and (k, baseline) in values)
    pairs = [(values[k, arm][figure], values[k, baseline][figure]) for k in seeds]
    n = len(pairs)
    if n < 2:
        return None
    better = sum(a < b or (math.isfinite(a) and not math.isfinite(b)) for a, b in pairs)
    if not all(math.isfinite(v) for pair in pairs for v in pair):
        nan = math.nan
        return Comparison(question, arm, baseline, figure, n, nan, nan, 1.0, better)
    t = t_test([math.log(a / b) for a, b in pairs])
    half = t.high - t.difference
    return Comparison(question, arm, baseline, figure, n, t.difference, half, t.p, better)


def holm(found: Sequence[Comparison]) -> list[Comparison]:
    """Holm's step-down correction over all of them, in the order given."""
    order = sorted(range(len(found)), key=lambda i: found[i].p)
    adjusted, worst = [0.0] * len(found), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, found[i].p * (len(found) - rank)))
        adjusted[i] = worst
    return [replace(c, holm=p) for c, p in zip(found, adjusted, strict=True)]


FIGURES = {"loss": "EMA loss", "guided_l2": "guided L2"}


def comparisons(records: Sequence[dict[str, Any]]) -> list[Comparison]:
    values = {(r["seed"], r["arm"]): r for r in records}
    names = {name for _, name in values}
    selecting = sorted(n for n in names if n.startswith(("ajest", "jest")))
    finalist = [n.removesuffix("-sigma") for n in selecting if n.endswith("-sigma")]
    finalist += [n for n in selecting if n.endswith("-sigma")]
    found = []
    for figure in FIGURES:
        for arm in selecting:
            for baseline in ("none-816", "random-816"):
                found.append(compare("equal examples", arm, baseline, figure, values))
        for arm in finalist:
            for baseline in ("none-816-long", "none-816-long+"):
                found.append(compare("equal seconds", arm, baseline, figure, values))
    return holm([c for c in found if c is not None])


def verdicts(found: Sequence[Comparison]) -> list[str]:
    """A sentence a selection arm, figure and question."""
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for c in found:
        groups.setdefault((c.question, c.figure, c.arm), []).append(c)
    out = []
    for (question, figure, arm), cs in groups.items():
        better = all(c.mean + c.half < 0 and c.holm < 0.05 for c in cs)
        worse = all(c.mean - c.half > 0 and c.holm < 0.05 for c in cs)
        word = "helps" if better else "hurts" if worse else "makes no difference that shows"
        out.append(f"{question}, {FIGURES[figure]}: {arm} {word}")
    return out


def report(
    records: Sequence[dict[str, Any]], plan: dict[str, Any] | None, sigmas: Sequence[float]
) -> str:
    """Markdown of what is done so far. plan: what the tuning seeds said; None: not yet.

    sigmas: the held-out noise levels that `loss_at` of a record is at.
    """
    lines = ["# Does autoguided selection pay? (2-D tree)", ""]
    if plan is not None:
        lines += [f"Plan from the tuning seeds: `{json.dumps(plan)}`", ""]
    head = (
        "| arm | seeds | steps | EMA loss | guided L2 | L2 | CPU s | data | guide | score | train"
    )
    lines += [head + " | perplexity / B | shift of ln sigma |", "|---" * 13 + "|"]
    for name in dict.fromkeys(r["arm"] for r in records):
        rows = [r for r in records if r["arm"] == name]
        cells = [name, str(len(rows)), str(rows[0]["steps"])]
        for figure in ("loss", "guided_l2", "l2"):
            logs = np.log([r[figure] for r in rows])
            sd = float(np.std(logs, ddof=1)) if len(rows) > 1 else 0.0
            cells.append(f"{math.exp(np.mean(logs)):.5f} (sd of ln {sd:.2f})")
        cells.append(f"{np.mean([sum(r['seconds'].values()) for r in rows]):.1f}")
        for kind in ("data", "guide", "score", "train"):
            cells.append(f"{np.mean([r['seconds'][kind] for r in rows]):.1f}")
        for key, form in (("perplexity", ".3f"), ("ln_sigma_shift", "+.3f")):
            known = [r[key] for r in rows if r.get(key) is not None]
            cells.append(f"{np.mean(known):{form}}" if known else "-")
        lines.append("| " + " | ".join(cells) + " |")
    found = comparisons(records)
    lines += ["", "Geometric means. Paired ln(arm / baseline), below 0 = the arm is better:", ""]
    head = "| question | figure | arm | baseline | seeds | better in | mean | 95 % interval"
    lines += [head + " | p | Holm |", "|---" * 10 + "|"]
    for c in found:
        lines.append(
            f"| {c.question} | {FIGURES[c.figure]} | {c.arm} | {c.baseline} | {c.n}"
            f" | {c.better} | {c.mean:+.3f}"
            f" | {c.mean - c.half:+.3f} to {c.mean + c.half:+.3f} | {c.p:.4f} | {c.holm:.4f} |"
        )
    lines += ["", *(f"- {text}" for text in verdicts(found)), "", *by_sigma(records, sigmas), ""]
    return "\n".join(lines)


def by_sigma(records: Sequence[dict[str, Any]], sigmas: Sequence[float]) -> list[str]:
    """A table of mean paired ln(loss / that of none-816) at every held-out sigma.

    The mean over sigmas, the primary figure, is mostly that of the smallest ones.
    """
    values = {(r["seed"], r["arm"]): r["loss_at"] for r in records}
    names = [n for n in dict.fromkeys(name for _, name in values) if n not in ("none-816", "guide")]
    if not names:
        return []
    lines = ["Mean ln(EMA loss / that of none-816) at each held-out sigma:", ""]
    lines += ["| arm | " + " | ".join(f"{v:.3g}" for v in sigmas) + " |"]
    lines += ["|---" * (len(sigmas) + 1) + "|"]
    for name in names:
        pairs = [(at, values[k, "none-816"]) for (k, arm), at in values.items() if arm == name]
        means = np.mean([np.log(np.array(a) / np.array(b)) for a, b in pairs], 0)
        lines.append(f"| {name} | " + " | ".join(f"{v:+.2f}" for v in means) + " |")
    return lines


@own_style()
def plot(records: Sequence[dict[str, Any]], folder: Path) -> None:
    """Loss against examples and against seconds: geometric means over seeds, and their range."""
    records = [r for r in records if r["arm"] != "guide"]
    for axis in ("examples", "seconds"):
        figure = new_figure(8, 5.5)
        ax = figure.add_subplot()
        for k, name in enumerate(dict.fromkeys(r["arm"] for r in records)):
            curves = [r["curve"] for r in records if r["arm"] == name]
            x = np.mean([[p[axis] for p in c] for c in curves], 0)
            y = np.log([[p["loss"] for p in c] for c in curves])
            color = f"C{k % 10}"
            style = "--" if k >= 10 or "long" in name else "-"
            label = f"{name} ({len(curves)})"
            ax.plot(x, np.exp(y.mean(0)), style, color=color, label=label)
            ax.fill_between(x, np.exp(y.min(0)), np.exp(y.max(0)), color=color, alpha=0.08)
        ax.set(xscale="log", yscale="log", ylabel="EMA loss, held-out points")
        ax.set_xlabel("examples trained on" if axis == "examples" else "CPU seconds, one thread")
        ax.legend(fontsize=8, title="arm (seeds)")
        ax.grid(alpha=0.3, which="both")
        with writing(folder / f"loss-{axis}.png") as file:
            figure.savefig(file, format="png", dpi=120)
