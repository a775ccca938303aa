"""The parts of the page, from top to bottom, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evaluation.intervals import Interval
from recipes.report import measured, times, told
from recipes.report.curves import told_first
from recipes.report.html import Markup, el, table
from recipes.report.reading import Read
from recipes.runs.figures import Point, main_figures, newest, short
from recipes.runs.layout import counted, figure
from runtime.rundir import timestamp

COLOURS = 8  # of runs; more have the same ones with dashes
_STATES = {
    "died": "it left no word: killed, or the machine went down; the same command goes on",
    "preempted": "it was asked to stop; the same command goes on",
    "stopped": "it waits; the same command goes on",
    "new": "it has not begun its first step",
}


def swatch(k: int) -> Markup:
    """The mark of a run's curves."""
    return el("span", class_=f"swatch c{k % COLOURS} d{min(k // COLOURS, 3)}", aria_hidden="true")


def name_of(reads: Sequence[Read], k: int) -> Markup:
    """A run's mark and name."""
    return el("span", swatch(k), " ", reads[k].run.name, class_="run")


def top(reads: Sequence[Read], every: float | None, back: str | None) -> Markup:
    """Title, links, and the buttons of the page."""
    title = reads[0].run.name if len(reads) == 1 else f"{len(reads)} runs"
    links = [
        ("Runs", "runs"), ("Curves", "curves"), ("Samples", "samples"), ("Figures", "figures"),
        ("Time and memory", "time"), ("Launches", "launches"), ("Reproduce", "reproduce"),
    ]  # fmt: skip
    there = [(words, to) for words, to in links if to != "samples" or any(r.sheets for r in reads)]
    watch: list[Markup] = []
    if every:
        button = el("button", "Pause refreshing", type="button", id="pause", aria_pressed="false")
        watch = [button, el("span", f"every {every:g} s", class_="quiet")]
    return el(
        "header",
        el("a", "Skip to the runs", href="#main", class_="skip"),
        el("h1", title),
        el("p", f"as of {timestamp()}", class_="quiet", id="asof"),
        el("nav", [el("a", "All runs", href=back)] if back else [],
           [el("a", words, href=f"#{to}") for words, to in there], aria_label="parts of this page"),
        el("div", watch, el("button", "Theme: as the system", type="button", id="theme"),
           class_="tools"),
    )  # fmt: skip


def all_of(
    reads: Sequence[Read], ordered: Sequence[str], said: Sequence[str], command: str
) -> list[Markup]:
    """Everything below the title."""
    launched = [times.launches(read) for read in reads]
    groups = told.groups_of(reads)
    found = [
        runs(reads),
        differences(reads),
        curves(reads, groups),
        samples() if any(read.sheets for read in reads) else None,
        figures(reads, groups, ordered),
        cost(reads, launched),
        launches(reads, launched),
        reproduce(reads),
        about_page(said, command),
    ]
    return [part for part in found if part is not None]


def runs(reads: Sequence[Read]) -> Markup:
    """What ran."""
    facts = [told.summary(read) for read in reads]
    rows = []
    for k, (read, fact) in enumerate(zip(reads, facts, strict=True)):
        last = newest(read.rows)
        best = [f"{short(name)} {figure(last[name]._asdict())}" for name in main_figures(last)]
        state = el("span", fact["state"], class_=f"state {fact['state']}",
                   title=_STATES.get(fact["state"]))  # fmt: skip
        more = fact["message"] or (fact["holder"] and f"by {fact['holder']}") or ""
        box = el("label", el("input", type="checkbox", checked=True, data_run=k, class_="show"),
                 " ", name_of(reads, k))  # fmt: skip
        rows.append([
            box, f"{fact['method']}: {fact['task']}", fact["data"], fact["seed"],
            [state, f" {more}" if more else ""], _number(fact["step"]), _number(fact["nimg"]),
            ", ".join(best) or "-", (fact["updated"] or "-")[:16].replace("T", " "),
        ])  # fmt: skip
    head = ["run (ticked: shown)", "method and task", "data", "seed", "state", "step",
            "images seen", "newest figures", "last wrote"]  # fmt: skip
    return el("section", el("h2", "What ran"), table(None, head, rows, class_="wide"),
              _problems(reads, facts), id="runs")  # fmt: skip


def _problems(reads: Sequence[Read], facts: Sequence[dict[str, Any]]) -> Markup | None:
    items = [
        el("li", name_of(reads, k), ": ", sentence)
        for k, fact in enumerate(facts)
        for sentence in fact["problems"]
    ]
    if not items:
        return None
    return el("div", el("h3", "What is missing or damaged"), el("ul", items), class_="problems",
              role="note")  # fmt: skip


def differences(reads: Sequence[Read]) -> Markup:
    """In what they differ; of one run, what is not at its default."""
    parts: list[Markup] = []
    if len(reads) > 1:
        found = told.differences(reads)
        head = ["", *(name_of(reads, k) for k in range(len(reads)))]
        titles = {
            "options": "options that decide what is computed",
            "origin": "code, data, machine",
            "execution": "options that say how and where it ran",
        }
        for kind, title in titles.items():
            if rows := found[kind]:
                named = [[r.name if kind == "origin" else _code(r.name), *r.values] for r in rows]
                parts.append(table(title, head, named))
        if not found["options"]:
            parts.insert(0, el("p", "No option differs that decides what is computed."))
        if some := found["some"]:
            inner = table("", head, [[_code(row.name), *row.values] for row in some])
            words = counted(len(some), "option", "options") + " of only some of these scripts"
            parts.append(el("details", el("summary", words), inner))
    for k, read in enumerate(reads):
        own = told.changed(read)
        summary = el("summary", name_of(reads, k), f": {counted(len(own), 'option', 'options')} "
                     "not at the default")  # fmt: skip
        inner = table("", ["option", "value"], [[_code(name), words] for name, words in own])
        parts.append(el("details", summary, inner, open_=len(reads) == 1 and len(own) <= 40))
    title = "How they differ" if len(reads) > 1 else "What was asked for"
    return el("section", el("h2", title), parts, id="differences")


def _code(text: str) -> Markup:
    return el("code", text)


def curves(reads: Sequence[Read], groups: Sequence[told.Group]) -> Markup:
    """The frame of the charts, and what one can do with them."""
    legend = [
        el("button", name_of(reads, k), type="button", class_="toggle", aria_pressed="true",
           data_run=k)
        for k in range(len(reads))
    ]  # fmt: skip
    across = [("step", "step"), ("nimg", "images seen"), ("h", "hours of training")]
    tools = [
        el("label", "over ", el("select", [el("option", w, value=v) for v, w in across], id="x")),
        el("label", el("input", type="checkbox", id="log"), " log scale"),
        el("label", "smoothing ",
           el("input", type="range", id="smooth", min=0, max=0.98, step=0.02, value=0,
              aria_describedby="smoothed"),
           el("output", "none", id="smoothed", for_="smooth")),
        el("label", el("input", type="checkbox", id="mean"), " mean and range over seeds")
        if groups else None,
        el("button", "All of it", type="button", id="unzoom", disabled=True),
    ]  # fmt: skip
    choice = el(
        "details",
        el("summary", "Figures: ", el("span", id="chosen")),
        el("label", "find ", el("input", type="search", id="find", autocomplete="off")),
        el("button", "as at first", type="button", id="firstones"),
        el("button", "none", type="button", id="noones"),
        el("div", id="choice", role="group", aria_label="figures to draw"),
        id="chooser",
    )
    how = (
        "Drag across a chart to zoom all of them to these steps; a double click shows all again. "
        "With the keyboard: Tab to a chart, arrows move, + and - zoom, 0 shows all. Dashed lines "
        "stand where a run was launched again."
    )
    return el(
        "section", el("h2", "Curves"),
        el("div", el("div", legend, class_="legend", role="group", aria_label="runs to show"),
           el("div", tools, class_="controls"), class_="sticky"),
        choice, el("p", how, class_="quiet"),
        el("noscript", el("p", "Curves and sheets are drawn by this page's own script, which this "
                          "browser does not run.")),
        el("div", id="charts", class_="charts"),
        el("p", id="spoken", class_="hidden", role="status", aria_live="polite"),
        id="curves",
    )  # fmt: skip


def samples() -> Markup:
    """The frame of the sheets, and their slider."""
    return el(
        "section", el("h2", "Samples"),
        el("div",
           el("label", "sheet ", el("select", id="sheet")),
           el("label", "step ", el("input", type="range", id="step", min=0, max=0, value=0,
                                   aria_describedby="atstep")),
           el("output", id="atstep", for_="step"),
           el("button", "Play", type="button", id="play", aria_pressed="false"),
           class_="controls"),
        el("p", "Of each run the newest sheet up to this step. A click shows it in its full size.",
           class_="quiet"),
        el("div", id="sheets", class_="sheets"),
        id="samples",
    )  # fmt: skip


def figures(
    reads: Sequence[Read], groups: Sequence[told.Group], ordered: Sequence[str]
) -> Markup | None:
    """Results side by side, with intervals over seeds."""
    rows = told.measured(reads, groups, told_first(ordered))
    apart = measured.section(reads, lambda k: name_of(reads, k))
    if not rows:
        return el("section", el("h2", "Figures"), el("p", "No results were logged yet."), apart,
                  id="figures")  # fmt: skip
    head: list[Any] = ["figure"]
    head += [el("th", name_of(reads, k), scope="col") for k in range(len(reads))]
    for group in groups:
        marks = [swatch(k) for k in group.runs]
        seeds = f"seeds {', '.join(map(str, group.seeds))}"
        head.append(el("th", marks, f" {len(group.runs)} seeds", scope="col", title=seeds))
    body = []
    for row in rows:
        arrow = {"max": " ↑", "min": " ↓", None: ""}[row.better]
        cells: list[Any] = [[row.name, el("span", arrow, class_="quiet", title=_way(row.better))]]
        for last, best in zip(row.newest, row.best, strict=True):
            cells.append(_points(last, best))
        for at, spread, tops in zip(row.at, row.spread, row.best_spread, strict=True):
            cells.append(_interval(at, spread, tops))
        body.append(cells)
    main, rest = body[:14], body[14:]
    words = (
        "The newest value of each run, and below it the best one and its step (↑ more is better, ↓ "
        "less is; as the figure's name tells). "
    )
    words += (
        "Runs that differ by the seed alone are put together: mean and 95 % interval (Student's t) "
        "at the last step that all of them have, and of their best values."
        if groups
        else "No two of these runs differ by the seed alone, so there are no intervals over seeds: "
        "a difference between single runs may be that of their seeds."
        if len(reads) > 1
        else "Of one run there is no interval over seeds."
    )
    more = el("details", el("summary", counted(len(rest), "more figure", "more figures")),
              table("", head, rest, class_="numbers")) if rest else None  # fmt: skip
    return el("section", el("h2", "Figures"), el("p", words, class_="quiet"),
              table(None, head, main, class_="numbers"), more, apart, id="figures")  # fmt: skip


def _way(better: str | None) -> str | None:
    return {"max": "more is better", "min": "less is better"}.get(better or "")


def _points(last: Point | None, best: Point | None) -> Markup:
    if last is None:
        return el("td", "-")
    top = el("span", f"best {figure(best._asdict())} at {best.step}", class_="quiet small") \
        if best else None  # fmt: skip
    return el("td", figure(last._asdict()), top, title=f"at step {last.step}")


def _interval(at: int | None, spread: Interval | None, tops: Interval | None) -> Markup:
    if spread is None or at is None:
        return el("td", "-", title="no step that all of them have")
    best = el("span", f"best {_spread(tops)}", class_="quiet small") if tops else None
    return el("td", f"{_spread(spread)}", best, title=f"at step {at}, n = {spread.n}")


def _spread(found: Interval) -> str:
    return f"{found.mean:#.4g} ± {(found.high - found.low) / 2:.2g}"


def _number(found: int | None) -> str:
    return "-" if found is None else str(found)


def cost(reads: Sequence[Read], launched: Sequence[Sequence[times.Launch]]) -> Markup:
    """Speed, memory, and where the time went."""
    said = [told.speed_of(read, own) for read, own in zip(reads, launched, strict=True)]
    names = list(dict.fromkeys(name for own in said for name, _ in own))
    head = ["", *(name_of(reads, k) for k in range(len(reads)))]
    rows = [[name, *(dict(own).get(name, "-") for own in said)] for name in names]
    parts = [table("speed and memory", head, rows, class_="numbers")] if rows else []
    if not any("GPU memory, peak" in names_ for names_ in [dict(own) for own in said]):
        parts.append(el("p", "No GPU was used, and memory of the host is not logged.",
                        class_="quiet"))  # fmt: skip
    totals = [_together(own) for own in launched]
    kinds = list(dict.fromkeys(name for total in totals for name in total))
    kinds = [k for k in kinds if k != times.REST] + [times.REST] * (times.REST in kinds)
    if kinds:
        parts.append(el("h3", "Where the time of the launches went"))
        parts += [_bar(reads, k, total, kinds) for k, total in enumerate(totals)]
        parts.append(el("dl", [
            [el("dt", el("span", class_=f"key p{i % 7}", aria_hidden="true"), " ", kind),
             el("dd", times.MEANS.get(kind, "as the script times it"))]
            for i, kind in enumerate(kinds)
        ], class_="keys"))  # fmt: skip
    lost = [_losses(reads, k, own) for k, own in enumerate(launched)]
    if any(lost):
        parts += [el("h3", "Lost between launches"), el("ul", lost)]
    return el("section", el("h2", "Time and memory"), parts, id="time")


def _together(launched: Sequence[times.Launch]) -> dict[str, float]:
    total: dict[str, float] = {}
    for launch in launched:
        for name, seconds in launch.parts.items():
            total[name] = total.get(name, 0.0) + seconds
    return total


def _bar(reads: Sequence[Read], k: int, total: dict[str, float], kinds: Sequence[str]) -> Markup:
    whole = sum(total.values())
    if not whole:
        return el("p", name_of(reads, k), ": not known.")
    cells, words = [], []
    for i, kind in enumerate(kinds):
        seconds = total.get(kind, 0.0)
        if seconds:
            share = 100 * seconds / whole
            told_ = f"{share:.0f} %" if share >= 1 else "less than 1 %"
            words.append(f"{kind} {times.duration(seconds)} ({told_})")
            cells.append(el("span", class_=f"p{i % 7}", data_share=f"{seconds / whole:.5f}"))
    return el(
        "div", el("div", name_of(reads, k), f", {times.duration(whole)}: "),
        el("div", cells, class_="bar", aria_hidden="true"),
        el("div", ", ".join(words), class_="small"), class_="spent",
    )  # fmt: skip


def _losses(reads: Sequence[Read], k: int, launched: Sequence[times.Launch]) -> Markup | None:
    if len(launched) < 2:
        return None
    pairs = list(zip(launched, launched[1:], strict=False))
    waited = sum(max(0.0, b.begun - a.ended) for a, b in pairs)
    again = sum(launch.lost for launch in launched)
    words = f": {counted(len(launched), 'launch', 'launches')}, {times.duration(waited)} between "
    words += f"them, {counted(again, 'step', 'steps')} done twice"
    return el("li", name_of(reads, k), words)


def launches(reads: Sequence[Read], launched: Sequence[Sequence[times.Launch]]) -> Markup:
    """Each start of each run."""
    rows = []
    for k, own in enumerate(launched):
        for number, launch in enumerate(own, start=1):
            origin = launch.record.get("provenance")
            host = origin.get("host") if isinstance(origin, dict) else None
            where = ", ".join(str(w)[:80] for w in (host, launch.record.get("job")) if w)
            steps = f"{launch.first} to {launch.last}"
            steps += f" ({launch.lost} of them done again)" if launch.lost else ""
            began, lasted = str(launch.record.get("time")), times.duration(launch.seconds)
            rows.append([name_of(reads, k), number, began, lasted, steps, where or "-", launch.how])
    if not rows:
        return el("section", el("h2", "Launches"), el("p", "None is on record."), id="launches")
    head = ["run", "launch", "began", "lasted", "steps", "where", "how it ended"]
    return el("section", el("h2", "Launches and interruptions"), table(None, head, rows),
              id="launches")  # fmt: skip


def reproduce(reads: Sequence[Read]) -> Markup:
    """The commands."""
    parts = []
    for k, read in enumerate(reads):
        parts.append(el("h3", name_of(reads, k)))
        parts.append(el("p", f"{told.code_of(read)}; {told.machine_of(read)}; {read.run.path}",
                        class_="quiet small"))  # fmt: skip
        found = told.commands(read)
        if not found:
            parts.append(el("p", "Its command is not on record."))
        for what, command in found:
            copy = el("button", "Copy", type="button", class_="copy")
            typed = el("pre", el("code", command), tabindex="0")
            parts.append(el("div", el("div", what, class_="small"), typed, copy, class_="command"))
    return el("section", el("h2", "Reproduce"), parts, id="reproduce")


def about_page(said: Sequence[str], command: str) -> Markup:
    """What is left out, and how the page was made."""
    parts: list[Markup] = [el("ul", [el("li", sentence) for sentence in said])] if said else [
        el("p", "Nothing is left out: all points, all sheets as they are.")]  # fmt: skip
    if command:
        parts.append(el("p", "Made by ", el("code", command)))
    return el("section", el("h2", "This page"), parts, id="page")
