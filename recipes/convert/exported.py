"""Programs traced by torch.export: with any batch, without the traces of the machine, and tried."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recipes.convert.program import Program
from storage.errors import CheckpointError, one_line

if TYPE_CHECKING:
    from torch.export import ExportedProgram

ROWS = (1, 3)  # batches that a written program is tried with; it is traced with another one
_TRACED = 2
_NEAR = 1e-5
# Of nodes of a graph: file names and lines of who made it.
_TRACES = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn", "custom")


def traced(program: Program) -> ExportedProgram:
    """The program as a graph. Errors: CheckpointError for one that cannot be traced."""
    from torch.export import Dim, export

    example = program.example(_TRACED)
    batch = Dim("batch")
    with torch.no_grad(), quiet():
        # Once without tracing: what is made once and kept (imle.consistency) is made of numbers.
        program.module(*example)
        named = _by_parameter(program, [{0: batch}] * len(example))
        try:
            made = export(program.module, example, dynamic_shapes=named, strict=False)
        except Exception as error:  # torch's own, of any kind
            raise CheckpointError(
                f"torch.export {torch.__version__} cannot trace it: {one_line(error, 300)}"
            ) from error
    for module in made.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            for name in _TRACES:
                node.meta.pop(name, None)
    return made


def _by_parameter(program: Program, dims: list[dict[int, object]]) -> dict[str, object]:
    """The dimensions by the names of forward's parameters, the last of which may take the rest."""
    found: dict[str, object] = {}
    rest = list(dims)
    for name, parameter in inspect.signature(program.module.forward).parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            if rest:
                found[name] = tuple(rest)
        else:
            found[name] = rest.pop(0)
    return found


def difference(
    program: Program, run: Callable[..., Tensor], tried: Callable[[], object] = lambda: None
) -> str:
    """How far what was written is from the network, in words. tried: called after each of ROWS.
    Errors: CheckpointError if farther than rounding takes it.

    A number that is rounded to uint8 may fall on the other side: one in a thousand, by one.
    """
    worst = 0.0
    for rows in ROWS:
        example = program.example(rows, seed=rows)
        with torch.no_grad(), quiet():
            wanted, found = program.module(*example), run(*example)
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            kinds = [f"{t.dtype} {list(t.shape)}" for t in (wanted, found)]
            raise CheckpointError(f"the written program gives {kinds[1]}, the network {kinds[0]}")
        apart = (found.double() - wanted.double()).abs()
        if wanted.dtype == torch.uint8:
            fits = apart.max() <= 1 and (apart > 0).double().mean() <= 1e-3
        elif not wanted.is_floating_point():  # numbers of classes: the largest of near ones
            fits = (apart > 0).double().mean() <= 1e-3
        else:
            apart = apart / wanted.abs().max().clamp_min(1)
            fits = bool(apart.max() <= _NEAR)
        if not fits:
            raise CheckpointError(
                f"the written program is {float(apart.max()):.2g} off the network on {rows} rows"
            )
        worst = max(worst, float(apart.max()))
        tried()
    return (
        f"tried on batches of {' and '.join(map(str, ROWS))}: at most {worst:.2g} off the network"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch's exporters say about themselves."""
    names = ("torch", "torch.export", "torch._export", "torch.onnx", "onnxscript", "onnx_ir")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
