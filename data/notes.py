"""Notes beside data, as JSON: whether one has the form that its readers count on.

A note may have been written by another program, edited or damaged. What is of another form is
damage, said in one line, or as good as no note where it can be made anew; never a traceback.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from storage.errors import DataError, first_line
from storage.files import Damaged, read_json

COUNT = "count"  # a whole number of at least 0


def fits(value: Any, form: Any) -> bool:
    """Whether a JSON value is of a form.

    form: a type (a bool is no int); COUNT; [form]: a list of such; (form, ..): a list of as many
    values, each of its form; {name: form}: an object with these, and perhaps others; a name that
    ends in `?` may be missing.
    """
    if form == COUNT:
        return type(value) is int and value >= 0
    if isinstance(form, type):
        return type(value) is form
    if isinstance(form, list):
        return isinstance(value, list) and all(fits(v, form[0]) for v in value)
    if isinstance(form, tuple):
        listed = isinstance(value, list) and len(value) == len(form)
        return listed and all(map(fits, value, form))
    if not isinstance(value, dict):
        return False
    return all(
        fits(value[key.rstrip("?")], inner) if key.rstrip("?") in value else key.endswith("?")
        for key, inner in form.items()
    )


def read_note(file: Path, form: Any, again: str) -> Any:
    """The note in a file, None if there is no file. again: what to do about a damaged one. Errors:
    DataError for what is no JSON, or of another form."""
    try:
        value = read_json(file)
    except Damaged as error:
        raise DataError(f"{file} is damaged ({first_line(error, 100)}); {again}") from None
    if value is None and not file.exists():
        return None
    if not fits(value, form):
        raise DataError(f"{file} is damaged (not of the form that it was written in); {again}")
    return value
