"""curves.png: the figures of a metrics.jsonl over steps."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage.files import writing
from storage.pictures import new_figure, own_style

Series = Mapping[str, tuple[list[int], list[float]]]  # name -> steps, values

COUNTERS = ("nimg", "epoch", "Examples Seen")  # they say no more than the step does
MOST = 6  # panels in a row
PANEL = (3.6, 2.6)  # inches
LEFT, RIGHT, BELOW, ABOVE = 0.75, 0.20, 0.45, 0.42  # of it that is beside the axes
LETTERS = 38  # of a title's line, so that it is not wider than its panel

# What the vertical axis measures, by the end of a name; else the name itself.
UNITS = (
    (r"psnr", "dB"),
    (r"tflop_per_s", "TFLOP per second"),
    (r"per_s", "per second"),
    (r"_s|\[s\]", "seconds"),
    (r"\[min\]", "minutes"),
    (r"ms_per_\w+", "milliseconds"),
    (r"_gb", "GB"),
    (
        r"acc_val| acc\d|top\d|majority class|acceptance|synthetic|stood_in|Score|used_fraction",
        "share",
    ),
    (r"[Dd]istance", "distance"),
    (r"lr|[Ll]earning rate", "learning rate"),
    (r"[Ll]oss(_\w+)?|loss/.*|loss by .*|combined", "loss"),
    (r"lpips\w*", "LPIPS"),
    (r"mse", "MSE"),
)

COSTS = (
    "TFLOP per second", "share of peak", "per second", "seconds", "minutes", "milliseconds", "GB",
)  # fmt: skip  # units of what comes last
BY_LEVEL = "loss by noise level"  # the panel of all `loss/sigma LOW-HIGH`
SIGMA = re.compile(r"loss/(sigma (\d[\d.]*(?:e[-+]?\d+)?)-.*)")
TITLES = (
    (r"combined$", "loss: perceptual + weighted MSE"),
)  # what a name is, where it does not say so


def draw_curves(series: Series, path: Path) -> bool:
    """Draw the panels of `panels_of` into a PNG; False, and no file, if there is none.

    A panel whose values are all positive and span more than two decades gets a log scale.
    """
    panels = panels_of(series)
    if not panels:
        return False
    # Not flushed to the disk: it is drawn again at the next occasion.
    with own_style(), writing(path, durable=False) as file:
        figure = figure_of(panels)
        figure.savefig(file, format="png", dpi=100)
    return True


def panels_of(series: Series) -> dict[str, Series]:
    """{name: its curves}, losses first, without counters and curves of fewer than two points.

    A name joins the panel of the shortest that ends its last word: val/best_psnr that of val/psnr.
    Then come figures of validation, others, learning rates, and last what it costs, all by name.
    """
    names = sorted(n for n, (steps, _) in series.items() if len(steps) > 1 and n not in COUNTERS)
    panels: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
    for name in names:
        head, _, last = name.rpartition("/")
        words = last.split("_")
        tails = ["_".join(words[-n:]) for n in range(1, len(words))]
        homes = (f"{head}/{tail}" if head else tail for tail in tails)
        home = next((n for n in homes if n in names), name)
        panels.setdefault(BY_LEVEL if SIGMA.fullmatch(name) else home, {})[name] = series[name]
    return {title: dict(sorted(panels[title].items(), key=lambda item: _place(item[0], title)))
            for title in sorted(panels, key=lambda title: (_rank(title), title))}  # fmt: skip


def _place(name: str, title: str) -> tuple[bool, float]:
    """Where a curve stands in its panel: the one it is named after first, noise levels by sigma."""
    level = SIGMA.fullmatch(name)
    return name != title, float(level[2]) if level else 0.0


def _rank(title: str) -> int:
    """Where a panel stands: losses of training, validation, others, learning rates, costs."""
    unit = unit_of(title)
    if unit in COSTS or unit == "learning rate":
        return 4 if unit in COSTS else 3
    if re.search(r"\bval|_val\b|[Vv]alidation", title):
        return 1
    return 0 if unit == "loss" else 2


def title_of(name: str) -> str:
    """What stands above the panel of a figure: its name, or what that means."""
    for pattern, words in TITLES:
        name = re.sub(pattern, words, name)
    return name


def figure_of(panels: Mapping[str, Series]) -> Any:
    """The matplotlib figure of panels: a title of its own above each, both axes named."""
    ncol = min(len(panels), max(2, math.ceil(math.sqrt(len(panels)))), MOST)
    nrow = -(-len(panels) // ncol)
    figure = new_figure(PANEL[0] * ncol, PANEL[1] * nrow)
    for i, (title, curves) in enumerate(panels.items()):
        axes = figure.add_subplot(nrow, ncol, i + 1)
        for number, (name, (steps, values)) in enumerate(curves.items()):
            plot(axes, steps, values, color=f"C{number}", label=label_of(name, title))
        values = [value for _, own in curves.values() for value in own]
        if min(values) > 0 and max(values) / min(values) > 100:
            axes.set_yscale("log")
        axes.set_title("\n".join(textwrap.wrap(title_of(title), LETTERS)), fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.set_ylabel(unit_of(title), fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.locator_params(axis="x", nbins=5)
        if len(curves) > 1:
            axes.legend(fontsize=7)
    # Room for labels by measure: to find it out takes matplotlib as long as to draw.
    width, height = PANEL[0] * ncol, PANEL[1] * nrow
    figure.set_layout_engine(None)
    figure.subplots_adjust(
        left=LEFT / width, right=1 - RIGHT / width, bottom=BELOW / height, top=1 - ABOVE / height,
        wspace=(LEFT + RIGHT) / (PANEL[0] - LEFT - RIGHT),
        hspace=(BELOW + ABOVE) / (PANEL[1] - BELOW - ABOVE),
    )  # fmt: skip
    return figure


def plot(axes: Any, steps: list[int], values: list[float], *, color: str, label: str) -> None:
    """One curve; of more than 100 points the mean of windows of about a fiftieth on top of it."""
    import numpy as np

    x, y = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    many, few = len(y) > 100, len(y) < 3
    mark, alpha = "o" if few else None, 0.35 if many else 1.0
    name = None if many else label
    axes.plot(x, y, marker=mark, markersize=3, linewidth=0.8, alpha=alpha, color=color, label=name)
    if many:
        width = max(2, len(y) // 50)
        whole = len(y) // width * width
        means = (part[:whole].reshape(-1, width).mean(1) for part in (x, y))
        axes.plot(*means, linewidth=1.4, color=color, label=label)


def label_of(name: str, title: str) -> str:
    """What a curve is called in the panel of `title`: val/best_psnr in that of val/psnr is best."""
    if level := SIGMA.fullmatch(name):
        return level[1]
    last, own = name.rpartition("/")[2], title.rpartition("/")[2]
    if name == title:
        return re.sub(r"^combined$", "loss", last)
    return last.removesuffix(f"_{own}")


def unit_of(name: str) -> str:
    """The name of the vertical axis of a figure."""
    for pattern, unit in UNITS:
        if re.search(rf"({pattern})$", name):
            return unit
    own = re.split(r"(?<! )/(?! )", name)[-1]
    return own if len(own) <= 24 else own.split()[-1][-24:]
