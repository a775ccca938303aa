"""A model that goes on level by level, with its loss, at one precision; states are nests.

The search knows nothing of what a state is; here are the few things it does with one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor

from imle.contract import checked_image, image_of_level
from imle.frozen_loss import frozen_loss
from imle.types import (
    Cascade,
    Loss,
    MappedLoss,
    Model,
    PreparedLoss,
    has_frozen_copy,
    is_cascade,
    is_prepared,
)


class PlainCascade:
    """The cascade interface for any `model(x, codes, loi=level)`, by running all levels again.

    Everything is expanded to the candidates' rows, so the model need not know about candidates.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    def start(self, cx: Tensor) -> tuple[Tensor, ...]:
        return (cx,)

    def advance(
        self, state: tuple[Tensor, ...], code: Tensor, level: int
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        times = code.shape[0] // state[0].shape[0]
        state = tuple(t.repeat_interleave(times, 0) for t in state)
        return image_of_level(self.model, state[0], [*state[1:], code], level), (*state, code)


def as_cascade(model: Cascade | Model) -> Cascade:
    """The model itself if it goes on level by level, else one that runs all levels again."""
    return model if is_cascade(model) else PlainCascade(cast(Model, model))


class LevelLosses:
    """The losses of candidates by a model and a loss at one precision, as a search needs them."""

    def __init__(
        self,
        model: Cascade | Model,
        loss_fn: Loss | PreparedLoss,
        dtype: torch.dtype,
        channels_last: bool,
    ) -> None:
        self.dtype = dtype
        frozen = frozen_loss(loss_fn, dtype, channels_last)
        self.loss_fn = loss_fn if frozen is None else frozen
        self.own_loss = frozen is not None
        # frozen copies look after their precision; anything else runs under autocast
        self.own = has_frozen_copy(model)
        self._like: tuple[int, ...] | None = None  # shape of a target of the level, [C, H, W]
        self.net: Cascade
        if has_frozen_copy(model):
            self.net = model.frozen_copy(dtype=dtype, channels_last=channels_last)
        else:
            self.net = as_cascade(model)

    def _autocast(self, device: torch.device, own: bool) -> torch.autocast:
        low = self.dtype != torch.float32 and not own
        return torch.autocast(device.type, self.dtype if low else torch.bfloat16, enabled=low)

    def start(self, cx: Tensor) -> Any:
        """The state before the first level, of inputs [B, ...]."""
        with self._autocast(cx.device, self.own):
            return self.net.start(cx)

    def prepare(self, y: Tensor) -> Any:
        """What `losses` compares with: the prepared target, or the target itself."""
        self._like = tuple(y.shape[1:])
        if not is_prepared(self.loss_fn):
            return y
        with self._autocast(y.device, self.own_loss):
            return self.loss_fn.prepare(y)

    def losses(self, state: Any, code: Tensor, level: int, target: Any) -> tuple[Tensor, Any]:
        """Losses of the candidates [rows] in fp32, inf where not finite, and their states."""
        rows = code.shape[0]
        rgb, state = self._advance(state, code, level)
        if not is_prepared(self.loss_fn):
            target = target.repeat_interleave(rows // target.shape[0], 0)
        with self._autocast(code.device, self.own_loss):
            loss = self.loss_fn(rgb, target)
        if not isinstance(loss, Tensor) or loss.numel() != rows:
            got = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"loss_fn must give one value per row ({rows} of them), got {got}")
        loss = loss.detach().reshape(rows).float()
        return torch.where(torch.isfinite(loss), loss, torch.inf), state

    def maps(self, state: Any, code: Tensor, level: int, target: Any, cells: int) -> Tensor:
        """Losses of the cells of K candidates for each of B images in fp32, [B, K, cells, cells],
        inf where not finite; the loss is one of `imle.types.MappedLoss`."""
        rgb, _ = self._advance(state, code, level)
        with self._autocast(code.device, self.own_loss):
            found = cast(MappedLoss, self.loss_fn).maps(rgb, target, cells).detach().float()
        return torch.where(torch.isfinite(found), found, torch.inf)

    def _advance(self, state: Any, code: Tensor, level: int) -> tuple[Tensor, Any]:
        """Images of a level and the states behind it, checked."""
        with self._autocast(code.device, self.own):
            made = self.net.advance(state, code, level)
        if not isinstance(made, tuple) or len(made) != 2:
            got = type(made).__name__
            raise ValueError(f"model.advance must give (images, state) of a level, got a {got}")
        return checked_image(made[0], len(code), level, self._like), made[1]

    def as_mine(self, state: Any, one: Any, code: Tensor, level: int) -> Any:
        """A state behind `level` in the formats used here; one, code: a row to find them out."""
        with self._autocast(code.device, self.own):
            return cast_like(state, self.net.advance(one, code, level)[1])


@contextlib.contextmanager
def no_tf32(device: torch.device, wanted: bool = True) -> Iterator[None]:
    """For losses taken again, fp32 means fp32: TF32 keeps as few mantissa bits as fp16."""
    if device.type != "cuda" or not wanted:
        yield
        return
    matmul, conv = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = conv


def map_tree(fn: Callable[..., Any], *trees: Any) -> Any:
    """Apply fn to the tensors of equally built nests of tuples, lists, dicts and None."""
    head = trees[0]
    if head is None:
        return None
    if isinstance(head, Tensor):
        return fn(*trees)
    if isinstance(head, dict):
        return {k: map_tree(fn, *(t[k] for t in trees)) for k in head}
    parts = [map_tree(fn, *part) for part in zip(*trees, strict=True)]
    return type(head)(*parts) if hasattr(head, "_fields") else type(head)(parts)


def cast_like(state: Any, template: Any) -> Any:
    """Cast the state's tensors to the formats of a template's."""
    return map_tree(
        lambda t, like: t.to(like.dtype, memory_format=memory_format(like)), state, template
    )


def where_tree(mask: Tensor, new: Any, old: Any) -> Any:
    """Rows of the new state where mask [B] says so, of the old one elsewhere."""
    if old is None:
        return new
    return map_tree(lambda n, o: torch.where(mask.view(-1, *[1] * (n.dim() - 1)), n, o), new, old)


def memory_format(t: Tensor) -> torch.memory_format:
    """The memory format of a tensor, as `to` takes it."""
    if t.dim() == 4 and t.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.preserve_format
