"""--to onnx: a program for ONNX runtimes; see `recipes.convert.programs`.

The packages onnx and onnxscript write it, onnxruntime tries it; none of them is needed otherwise.
"""

from __future__ import annotations

import importlib.util
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recipes.convert.exported import ROWS, difference, quiet, traced
from recipes.convert.program import ABOUT, Program
from recipes.convert.programs import make_program
from recipes.convert.targets import Given
from runtime.progress import Progress
from storage.errors import CheckpointError, DiskError, UsageError, one_line
from storage.files import move, scratch

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_NEEDED = ("onnx", "onnxscript")


def write_onnx(given: Given, path: Path, args: Namespace) -> list[str]:
    """Write the program that --program asks for; where onnxruntime is installed, try it.

    Errors: UsageError without the packages; CheckpointError for a program with an operation that
    torch's exporter has not; DiskError.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"--to onnx needs packages: pip install {' '.join(missing)}")
    program = make_program(given, args)
    text = program.text(path.name)
    can_try = importlib.util.find_spec("onnxruntime") is not None
    parts = 3 + (len(ROWS) if can_try else 0)
    with Progress(parts, desc="program", unit="part", brief=True) as bar:
        graph = traced(program)
        bar.update()
        made = _as_onnx(program, graph)
        made.model.metadata_props[ABOUT] = text
        bar.update()
        try:
            with scratch(path) as whole:
                made.save(str(whole))
                beside = whole.with_name(f"{whole.name}.data")
                if beside.exists():
                    beside.unlink()
                    raise UsageError(
                        f"--to onnx: over 2 GB, which one {path.suffix} file cannot hold"
                    )
                bar.update()
                said = "not tried: package onnxruntime is not installed"
                if can_try:
                    run = _runtime(whole, list(program.inputs))
                    said = difference(program, run, bar.update)
                move(whole, path, durable=True)
        except OSError as error:
            raise DiskError(f"cannot write {path}: {error}") from error
    return [said, f"without this toolkit: {program.usage(path.name)}"]


def _as_onnx(program: Program, graph: ExportedProgram) -> Any:
    graph = _decomposed(graph)
    with quiet():
        try:
            made = torch.onnx.export(
                graph, (), dynamo=True, input_names=list(program.inputs), output_names=["output"],
                verbose=False, external_data=False,
            )  # fmt: skip
        except Exception as error:  # torch's own, of any kind
            said = one_line(error.__cause__ or error, 300)
            raise CheckpointError(
                f"torch.onnx {torch.__version__} cannot export it ({said}); --to pt2 can"
            ) from error
    assert made is not None
    return made


def _decomposed(graph: ExportedProgram) -> ExportedProgram:
    """With the enlargement of `imle.base` as two products of matrices: ONNX has none like it."""
    with torch.no_grad(), quiet():
        table = torch.export.default_decompositions()
        table[torch.ops.aten._upsample_bicubic2d_aa.default] = _bicubic
        table[torch.ops.aten._upsample_bicubic2d_aa.vec] = lambda x, size, corners, scale: _bicubic(
            x, size, corners
        )
        return graph.run_decompositions(table)


def _bicubic(x: Tensor, size: Any, align_corners: bool, *scales: Any) -> Tensor:
    rows, columns = (_matrix(x.shape[dim], size[dim - 2], x.device) for dim in (2, 3))
    return rows @ x @ columns.T


def _matrix(here: int, there: int, device: torch.device) -> Tensor:
    """`here` pixels in a row at the size `there`, [there, here]: Keys' cubic with a = -1/2 about
    each output position, wider where it shrinks, normalised at the border."""
    kind = {"dtype": torch.float64, "device": device}
    centre = (torch.arange(there, **kind) + 0.5) * (here / there)  # type: ignore[call-overload]
    pixel = torch.arange(here, **kind) + 0.5  # type: ignore[call-overload]
    x = (pixel - centre[:, None]).abs() / max(1.0, here / there)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((2.5 - 0.5 * x) * x - 4) * x + 2
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    return (weights / weights.sum(1, keepdim=True)).float()


def _runtime(file: Path, names: list[str]) -> Callable[..., Tensor]:
    """The file as a function, by onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's own
        raise CheckpointError(f"onnxruntime does not run it: {one_line(error, 300)}") from error

    def run(*inputs: Tensor) -> Tensor:
        feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, feed)[0])

    return run
