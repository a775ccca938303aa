"""--to pt2: a program of torch.export, which torch alone runs; see `recipes.convert.programs`."""

from __future__ import annotations

import json
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from recipes.convert.exported import ROWS, difference, quiet, traced
from recipes.convert.program import ABOUT, FORMAT
from recipes.convert.programs import make_program
from recipes.convert.targets import Given
from runtime.progress import Progress
from storage.errors import DiskError
from storage.files import writing

_MOST = 1 << 24  # bytes of what a file may say of itself


def write_pt2(given: Given, path: Path, args: Namespace) -> list[str]:
    """Write the program that --program asks for, try it, and say how it is run.

    Errors: UsageError, CheckpointError; DiskError.
    """
    import torch.export

    program = make_program(given, args)
    text = program.text(path.name)
    with Progress(3 + len(ROWS), desc="program", unit="part", brief=True) as bar:
        made = traced(program)
        bar.update()
        try:
            with writing(path) as file:
                with quiet():
                    torch.export.save(made, file, extra_files={ABOUT: text})
                    bar.update()
                    file.flush()
                    with open(file.name, "rb") as written:
                        run = torch.export.load(written).module()
                bar.update()
                said = difference(program, run, bar.update)
        except OSError as error:
            raise DiskError(f"cannot write {path}: {error}") from error
    return [said, f"without this toolkit: {program.usage(path.name)}"]


def about_pt2(path: Path) -> str | None:
    """What a .pt2 of ours says of itself, in a line; None for any other file. Nothing is run."""
    told = told_by(path)
    if told is None:
        return None
    inputs = ", ".join(f"{n} {v['dtype']} {v['shape']}" for n, v in told["inputs"].items())
    output = told["output"]
    return (
        f"torch.export program: {told['program']} of a {told['kind']!r} network; {inputs} -> "
        f"{output['dtype']} {output['shape']}; {told['usage']}"
    )


def told_by(path: Path) -> dict[str, Any] | None:
    """The `Program.text` of a .pt2; None for a file that has none."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith(f"/extra/{ABOUT}"))
            if archive.getinfo(name).file_size > _MOST:
                return None
            told = json.loads(archive.read(name))
        fits = told["format"] == FORMAT and all(k in told for k in ("program", "kind", "usage"))
        return told if fits and all("dtype" in v for v in told["inputs"].values()) else None
    except (OSError, zipfile.BadZipFile, StopIteration, ValueError, KeyError, TypeError):
        return None
    except (AttributeError, NotImplementedError, RuntimeError):  # of a zip that is encrypted, ...
        return None
