"""What `benchmarks.pictures` found, as the tables and sheets of docs/studies/pictures.md.

The page is prose between which the report writes: what stands between `<!-- NAME -->` and
`<!-- /NAME -->` is the table NAME, a function of results.json alone.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.intervals import mean_interval, t_test
from storage.files import write_text

Found = dict[str, Any]  # of a piece: arm, seed, steps, cpu_s, figures, ...
PAGE = "pictures.md"
SHOWN = ["cpu-small/present-short", "cpu-quick/new", "cpu-quick/new-x8"] + [
    f"{part}/{kind}"
    for part in ("cpu-small", "color", "mask", "mnist", "mnist-mask", "uncond-small")
    for kind in ("present", "new")
]


def recipe(asked: Mapping[str, Any]) -> str:
    """What tells the options of one piece from those of another."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass
class Results:
    """settings: of the command, that all pieces share. probes: arm -> seconds of a start and of a
    loop. pieces: what was found, in order."""

    settings: dict[str, float]
    probes: dict[str, dict[str, float]]
    pieces: list[Found]

    @classmethod
    def read(cls, file: Path) -> Results:
        """Errors: ValueError, KeyError, TypeError for a file of something else."""
        kept = json.loads(file.read_text())
        pieces = [found for found in kept["pieces"] if found["arm"] and found["figures"]]
        return cls(dict(kept["settings"]), dict(kept["probes"]), pieces)

    def text(self) -> str:
        """As a file."""
        lines = ",\n".join(json.dumps(found) for found in self.pieces)
        kept = {"settings": self.settings, "probes": self.probes}
        return f'{json.dumps(kept)[:-1]}, "pieces": [\n{lines}\n]}}\n'

    def published(self) -> str:
        """As a file without what no table needs: options, of which their digest is kept, and logs
        of other runs than the demo."""
        kept = [
            {name: value for name, value in found.items() if name != "asked"}
            | ({"recipe": recipe(found["asked"])} if "asked" in found else {})
            | ({} if found["arm"].startswith("demo/") else {"own": {}})
            for found in self.pieces
        ]
        return Results(self.settings, {}, kept).text()

    def find(self, arm: str, seed: int) -> Found | None:
        """A piece, if it is done."""
        for found in self.pieces:
            if (found["arm"], found["seed"]) == (arm, seed):
                return found
        return None

    def of(self, arm: str) -> list[Found]:
        """An arm's pieces, by seed."""
        return sorted((f for f in self.pieces if f["arm"] == arm), key=lambda f: f["seed"])

    def arms(self, *starts: str) -> list[str]:
        """Names of the arms that are there and begin so, in order."""
        names = dict.fromkeys(found["arm"] for found in self.pieces)
        return [name for name in names if name.startswith(starts)]


Value = Callable[[Found], float | None]


def figure(name: str, factor: float = 1.0) -> Value:
    """A figure of a piece; `LOSS` in its name stands for what its perceptual loss is called."""

    def value(found: Found) -> float | None:
        figures = found["figures"]
        loss = next((n for n in ("lpips_random", "lpips") if n in figures), "")
        wanted = figures.get(name.replace("LOSS", loss))
        return None if wanted is None else factor * wanted

    return value


def ratio(name: str, other: str) -> Value:
    """One figure over another."""

    def value(found: Found) -> float | None:
        a, b = figure(name)(found), figure(other)(found)
        return None if a is None or not b else a / b

    return value


def above(name: str, other: str) -> Value:
    """One figure minus another."""

    def value(found: Found) -> float | None:
        a, b = figure(name)(found), figure(other)(found)
        return None if a is None or b is None else a - b

    return value


def cell(pieces: Sequence[Found], *values: Value, digits: int = 2) -> str:
    """Means over seeds, of several values apart by a slash, with 95 % intervals where there are
    seeds enough; empty where a figure is missing."""
    shown = []
    for value in values:
        each = [value(found) for found in pieces]
        if not each or any(v is None for v in each):
            return ""
        known = [v for v in each if v is not None]
        mean = sum(known) / len(known)
        half = ""
        if len(known) > 1:
            interval = mean_interval(known)
            half = f" ± {(interval.high - interval.low) / 2:.{digits}f}"
        shown.append(f"{mean:.{digits}f}{half}")
    return " / ".join(shown)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; columns that are empty in all rows are left out."""
    kept = [i for i in range(len(head)) if not i or any(row[i] for row in rows)]
    lines = [
        [head[i] for i in kept],
        ["---"] * len(kept),
        *([row[i] for i in kept] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


COLUMNS: list[tuple[str, Callable[[Sequence[Found]], str]]] = [
    ("seeds", lambda p: str(len(p))),
    ("PSNR, mean / best", lambda p: cell(p, figure("psnr"), figure("best_psnr"))),
    ("mean above {other}, dB", lambda p: cell(p, above("psnr", "bicubic_psnr"))),
    ("perceptual, mean / best", lambda p: cell(p, figure("LOSS"), figure("best_LOSS"), digits=4)),
    (
        "over that of {other}, mean / best",
        lambda p: cell(p, ratio("LOSS", "bicubic_LOSS"), ratio("best_LOSS", "bicubic_LOSS")),
    ),
    ("off the input, of 255", lambda p: cell(p, figure("consistency", 255))),
    ("diversity", lambda p: cell(p, figure("diversity_LOSS"), digits=4)),
    ("consistent", lambda p: cell(p, figure("consistent_diversity_LOSS"), digits=4)),
    ("share of the distance, %", lambda p: cell(p, figure("diversity_share", 100), digits=1)),
    (
        "error of hues, mean / best",
        lambda p: cell(p, figure("chroma_error"), figure("best_chroma_error")),
    ),
    (
        "within a picture",
        lambda p: cell(p, figure("chroma_error_within"), figure("best_chroma_error_within")),
    ),
    ("border error", lambda p: cell(p, figure("border_error"))),
    ("ripples", lambda p: cell(p, figure("ripple"))),
    ("seams", lambda p: cell(p, figure("seam"))),
    ("steps", lambda p: cell(p, lambda found: found["steps"], digits=0)),
    ("CPU minutes", lambda p: cell(p, lambda found: found["cpu_s"] / 60, digits=1)),
]


def compared(results: Results, other: str, *parts: str) -> str:
    """A row an arm of parts of the study, below what they are compared with, called `other`."""
    names = results.arms(*(f"{part}/" for part in parts))
    if not names:
        return ""
    head = ["", *(name.format(other=other) for name, _ in COLUMNS)]
    first = results.of(names[0])
    rows = [baseline(first, other)]
    if figure("chroma_error_mean_color")(first[0]) is not None:
        rows[0] = [*rows[0]]
        rows[0][HUES] = cell(first[:1], figure("chroma_error_grey"))
        one = [""] * len(head)
        one[0], one[HUES] = (
            "one colour a picture",
            cell(first[:1], figure("chroma_error_mean_color")),
        )
        rows.append(one)
    rows += [[name, *(show(results.of(name)) for _, show in COLUMNS)] for name in names]
    return table(head, rows)


HUES = 1 + [name for name, _ in COLUMNS].index("error of hues, mean / best")


def baseline(pieces: Sequence[Found], name: str) -> list[str]:
    """The row of what samples are compared with; the same for all seeds."""
    one = pieces[:1]
    shown = {
        "PSNR, mean / best": cell(one, figure("bicubic_psnr")),
        "perceptual, mean / best": cell(one, figure("bicubic_LOSS"), digits=4),
        "off the input, of 255": cell(one, figure("bicubic_consistency", 255)),
        "seams": cell(one, figure("input_seam")),
    }
    return [name, *(shown.get(column, "") for column, _ in COLUMNS)]


def ablation(results: Results) -> str:
    """All arms of equal time."""
    names = results.arms("present", "together")
    if not names:
        return ""
    own = [
        ("gain of the best, %", lambda p: cell(p, figure("best_gain", 100), digits=1)),
        ("styles", lambda p: cell(p, figure("style_std"), digits=3)),
    ]
    columns = [*COLUMNS[:-2], *own, *COLUMNS[-2:]]
    head = ["", *(name.format(other="bicubic") for name, _ in columns)]
    left_out = ("perceptual, mean / best", "diversity", "consistent")  # of one network alike
    kept = [i for i, name in enumerate(head) if name not in left_out]
    rows = [[*baseline(results.of(names[0]), "bicubic")[:-2], "", "", "", ""]]
    rows += [[name, *(show(results.of(name)) for _, show in columns)] for name in names]
    return table([head[i] for i in kept], [[row[i] for i in kept] for row in rows])


COMPARED: list[tuple[str, Value, int]] = [
    ("PSNR of the mean sample, dB", figure("psnr"), 2),
    ("perceptual of the mean sample over that of bicubic", ratio("LOSS", "bicubic_LOSS"), 3),
    ("of the best", ratio("best_LOSS", "bicubic_LOSS"), 3),
    ("share of the distance, points", figure("diversity_share", 100), 1),
]


def differences(results: Results) -> str:
    """Each arm with one part more or less against `present` or `together`, paired by seed."""
    rows = []
    for name in results.arms("present", "together"):
        reference = re.split(r"[+-]", name)[0]
        pairs = [
            (found, other)
            for found in results.of(name)
            if (other := results.find(reference, found["seed"])) is not None
        ]
        if name == reference or not pairs:
            continue
        row = [f"{name} against {reference}"]
        for _, value, digits in COMPARED:
            apart = [value(a) - value(b) for a, b in pairs]  # type: ignore[operator]
            mean = f"{sum(apart) / len(apart):+.{digits}f}"
            if len(apart) > 1:
                t = t_test(apart)
                mean += f" ({t.low:+.{digits}f} to {t.high:+.{digits}f})"
            row.append(mean)
        rows.append(row)
    return table(["", *(name for name, *_ in COMPARED)], rows) if rows else ""


def digits(results: Results) -> str:
    """MNIST: super-resolution, inpainting, and without an input."""
    found = [
        compared(results, "bicubic", "mnist"),
        compared(results, "the enlarged input", "mnist-mask"),
    ]
    rows = []
    for name in results.arms("uncond-small/"):
        pieces = results.of(name)
        rows.append([
            name,
            str(len(pieces)),
            cell(pieces, figure("nearest_mse"), digits=4),
            cell(pieces, figure("mean_picture_mse"), digits=4),
            cell(pieces, figure("diversity_mse"), digits=4),
            cell(pieces, lambda f: f["steps"], digits=0),
            cell(pieces, lambda f: f["cpu_s"] / 60, digits=1),
        ])  # fmt: skip
    if rows:
        head = ["", "seeds", "MSE to the nearest sample", "to the mean of the other pictures",
                "between samples", "steps", "CPU minutes"]  # fmt: skip
        found.append(table(head, rows))
    return "\n\n".join(text for text in found if text)


def demo(results: Results) -> str:
    """What `make demo` says of itself at its end."""

    def own(name: str) -> Value:
        return lambda found: found["own"].get(f"val/{name}")

    rows = [
        [
            name,
            cell(results.of(name), own("psnr"), own("best_psnr")),
            cell(results.of(name), own("bicubic_psnr")),
            cell(results.of(name), lambda f: f["cpu_s"], digits=0),
            cell(results.of(name), lambda f: f["wall_s"], digits=0),
        ]
        for name in results.arms("demo/")
    ]
    head = ["", "PSNR, mean / best", "bicubic", "CPU seconds", "seconds by the clock"]
    return table(head, rows) if rows else ""


SKELETON = "# Study: pictures of conditional IMLE\n"  # of a page that is not there yet
TABLES: dict[str, Callable[[Results], str]] = {
    "full": lambda results: compared(results, "bicubic", "cpu-small", "cpu-quick"),
    "color": lambda results: compared(results, "the enlarged input", "color"),
    "mask": lambda results: compared(results, "the enlarged input", "mask"),
    "digits": digits,
    "demo": demo,
    "arms": ablation,
    "differences": differences,
}


def page(text: str, results: Results, sheets: str = "") -> str:
    """A page with its tables written anew; what is not marked stays. A table of which nothing is
    done stays as it is."""
    for name, found in [
        *((name, make(results)) for name, make in TABLES.items()),
        ("sheets", sheets),
    ]:
        if found:
            marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
            text = marked.sub(lambda m, found=found: f"{m[1]}{found}\n{m[2]}", text)
    return text


def write_pages(results: Results, sheets: Path, folder: Path) -> str:
    """Write pictures.md in a folder, and beside it pictures.json, which alone gives its tables, and
    the sheets of the first seed; returns the page.

    sheets: where ARM-seedN.png are; those that are not there are left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown = []
    for arm in SHOWN:
        name = arm.replace("/", "-")
        found = results.of(arm)
        file = sheets / f"{name}-seed{found[0]['seed']}.png" if found else None
        if file is not None and file.is_file():
            target = folder / f"pictures-{name}.png"
            shutil.copyfile(file, target)
            shown.append(f"`{arm}`\n\n![Samples of {arm}]({target.name})")
    file = folder / PAGE
    marks = "".join(f"\n<!-- {name} -->\n<!-- /{name} -->\n" for name in [*TABLES, "sheets"])
    before = file.read_text() if file.is_file() else SKELETON + marks
    text = page(before, results, "\n\n".join(shown))
    write_text(file, text)
    write_text(file.with_suffix(".json"), results.published())
    return text
