"""What pieces from outside (model, z_gen, corruptor, loss_fn) must do, checked in sentences.

The contract itself stands in the docstring of `imle.loader.CIMLEDataLoader`, in types in
`imle.types`. A piece that breaks it is met here, with what it did and what it is to do, instead of
somewhere in the search by whatever happens to go wrong first.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from imle.types import is_cascade, is_keyed_codes, is_keyed_corruption, is_prepared

MODEL = "model(x, codes, loi=LEVEL) -> the picture of that level, [rows, C, H, W]"
Z_GEN = "z_gen(rows, LEVEL) -> codes [rows, d]"
CORRUPTOR = "corruptor(x [b, C, H, W]) -> as many pictures, [b, ...]"
LOSS = "loss_fn(output [rows, C, H, W], target [rows, C, H, W]) -> one value a row, [rows]"


def check_pieces(
    kkm: object,
    model: object,
    corruptor: object,
    z_gen: object,
    loss: object,
    *,
    searcher: object = None,
) -> None:
    """Refuse what cannot be called as the loader calls it. Errors: ValueError, a sentence.

    No corruptor is no corruption; z_gen may be given later; a searcher needs no loss.
    """
    if not hasattr(kkm, "pop"):
        raise ValueError(f"kkm is a {_kind(kkm)} without pop() -> index: KorKMinusOne has it")
    if not is_cascade(model):
        _takes("model", model, MODEL, (None, []), loi=0)
    if not is_keyed_codes(z_gen) and z_gen is not None and not isinstance(z_gen, (list, tuple)):
        _takes("z_gen", z_gen, Z_GEN, (1, 0))
    if corruptor is not None and not is_keyed_corruption(corruptor):
        _takes("corruptor", corruptor, CORRUPTOR, (None,))
    if not is_prepared(loss) and (loss is not None or searcher is None):
        _takes("loss_fn", loss, LOSS, (None, None))


def _takes(
    name: str, piece: object, contract: str, arguments: tuple[Any, ...], **keywords: Any
) -> None:
    if not callable(piece):
        raise ValueError(f"{name} is a {_kind(piece)}, which cannot be called; it is {contract}")
    function = piece.forward if isinstance(piece, nn.Module) else piece
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of C code: it is seen when it is called
        return
    try:
        signature.bind(*arguments, **keywords)
    except TypeError as error:
        raise ValueError(
            f"{name} is to be called as {contract}, and takes {signature}: {error}"
        ) from None


def image_of_level(
    model: Callable[..., Any], x: Tensor | None, codes: Sequence[Tensor], level: int
) -> Tensor:
    """`model(x, codes, loi=level)`, checked: a picture for each row of the codes, [rows, C, H, W].

    Errors: ValueError.
    """
    try:
        image = model(x, list(codes), loi=level)
    except TypeError as error:
        if "'loi'" not in str(error):
            raise
        raise ValueError(f"model is to be called as {MODEL}: {error}") from error
    return checked_image(image, len(codes[0]), level)


def checked_image(
    image: object, rows: int, level: int, like: tuple[int, ...] | None = None
) -> Tensor:
    """What a model gave for a level: [rows, C, H, W], with the last three `like` the target's.

    Errors: ValueError.
    """
    asked = f"with loi={level} it is to return the picture of that level alone, a tensor "
    if not isinstance(image, Tensor):
        many = f" of {len(image)}" if isinstance(image, (list, tuple)) else ""
        raise ValueError(f"model returned a {_kind(image)}{many}: {asked}[{rows}, C, H, W]")
    if image.dim() != 4 or len(image) != rows:
        raise ValueError(f"model returned {list(image.shape)}: {asked}[{rows}, C, H, W]")
    if like is not None and tuple(image.shape[1:]) != like:
        raise ValueError(
            f"model returned {list(image.shape)} for level {level}, whose targets are "
            f"{list(like)}: they are to be alike"
        )
    return image


def corrupted(corruptor: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    """`corruptor(x)`, checked: as many pictures as x has. Errors: ValueError."""
    out = corruptor(x)
    if not isinstance(out, Tensor) or out.dim() == 0 or len(out) != len(x):
        got = list(out.shape) if isinstance(out, Tensor) else f"a {_kind(out)}"
        raise ValueError(f"corruptor returned {got} for {list(x.shape)}; it is {CORRUPTOR}")
    return out


def _kind(thing: object) -> str:
    return type(thing).__name__
