"""HTML out of values: whatever text a run brings is text in the page, and no more."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

_VOID = ("input", "meta", "br")


class Markup(str):
    """Text that is HTML already."""


def el(tag: str, *children: Any, **attributes: Any) -> Markup:
    """An element. children: Markup stays, lists are spread out, None is nothing, all else becomes
    escaped text. attributes: `class_` is class, `data_run` is data-run; True has no value, None
    and False leave it out."""
    words = [tag]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        words.append(name if value is True else f'{name}="{html.escape(str(value))}"')
    inside = "".join(_flat(children))
    return Markup(f"<{' '.join(words)}>" + ("" if tag in _VOID else f"{inside}</{tag}>"))


def _flat(children: Iterable[Any]) -> Iterable[str]:
    for child in children:
        if isinstance(child, Markup):
            yield child
        elif isinstance(child, list | tuple):
            yield from _flat(child)
        elif child is not None:
            yield html.escape(str(child))


def table(
    caption: Any,
    head: Sequence[Any],
    rows: Iterable[Sequence[Any]],
    *,
    class_: str = "",
    names: bool = True,
) -> Markup:
    """A table in a frame that scrolls sideways. head, rows: cells, each text or what `el` made (a
    whole th or td stays one). names: the first cell of a row is its name."""
    top = el("tr", [_cell("th", cell, scope="col") for cell in head])
    body = []
    for row in rows:
        first = _cell("th", row[0], scope="row") if names else _cell("td", row[0])
        body.append(el("tr", [first, [_cell("td", cell) for cell in row[1:]]]))
    inner = el(
        "table", el("caption", caption) if caption else None, el("thead", top), el("tbody", body)
    )
    label = caption if isinstance(caption, str) and not isinstance(caption, Markup) else "table"
    frame = el("div", inner, class_=f"scroll {class_}".strip(), tabindex="0", role="group",
               aria_label=label)  # fmt: skip
    return frame


def _cell(tag: str, cell: Any, **attributes: Any) -> Markup:
    if isinstance(cell, Markup) and cell.startswith(("<td", "<th")):
        return cell
    return el(tag, cell, **attributes)


def as_data(value: Any) -> Markup:
    """A JSON value that can stand in a script element: nothing in it ends that, or is HTML."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)
