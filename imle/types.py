"""What the loader and the searches ask of the objects they are given.

What every such object must do is a Protocol. What it may do besides is another one, and a function
`is_...` that says whether it does: by `hasattr`, so that wrappers which hand attributes through
(compiled modules, for one) count as what they wrap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from typing import Any, NamedTuple, Protocol, TypeGuard, TypeVar

import torch
from torch import Tensor

from runtime.counter_rng import Mosaic

Batch = tuple[Tensor, list[Tensor], list[Tensor]]
"""What a loader yields: cx, codes, ys."""

Targets = tuple[Tensor, Tensor, list[Tensor]]
"""What a search reads: image_ids int64 [b], cx, ys."""

OnChunk = Callable[[int, int], None]
"""Called with (done, total) after each chunk of a search; what it raises abandons the search."""

State = dict[str, Any]
"""Tensors and plain values, as `state_dict` gives them."""

Value = TypeVar("Value", covariant=True)


# -------------------------------------------------------------------------------- data and order


class Items(Protocol[Value]):
    """A data set: item i is (x, [y_1, .., y_L]) or (x, y)."""

    def __getitem__(self, index: int, /) -> Value: ...


class Indices(Protocol):
    """Hands out the indices that a subsample consists of, without end (KorKMinusOne)."""

    def pop(self) -> int: ...


class ManyIndices(Indices, Protocol):
    """... several at a time."""

    def pop_many(self, n: int, /) -> list[int]: ...


class Stateful(Protocol):
    """Can be saved and go on."""

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State, /) -> Any: ...


def is_many(kkm: object) -> TypeGuard[ManyIndices]:
    """Whether indices can be had several at a time."""
    return hasattr(kkm, "pop_many")


def is_stateful(thing: object) -> TypeGuard[Stateful]:
    """Whether a state is to be kept of it."""
    return hasattr(thing, "state_dict")


def is_sized(thing: object) -> TypeGuard[Sized]:
    """Whether it has a length."""
    return hasattr(thing, "__len__")


# ---------------------------------------------------------------------------------------- models


class Model(Protocol):
    """A generator: `model(x [B, C, H, W] or None, codes, loi=level) -> image`."""

    def __call__(self, x: Any, codes: list[Tensor], /, *, loi: int) -> Any: ...


class Cascade(Protocol):
    """A generator that goes on level by level from a state, a nest of tensors [B, ...].

    start(cx [B, ...]) -> state. advance(state of B rows, code [B*K, d], level) -> (image of B*K
    rows, state of B*K rows), K candidates of each image side by side.
    """

    def start(self, cx: Tensor, /) -> Any: ...

    def advance(self, state: Any, code: Tensor, level: int, /) -> tuple[Tensor, Any]: ...


class HasFrozenCopy(Protocol):
    """A generator that has a copy of itself for searching: weights folded, no gradients."""

    def frozen_copy(self, *, dtype: torch.dtype, channels_last: bool) -> Cascade: ...


class HasLevels(Protocol):
    """A generator that says how long the code of each level is."""

    code_sizes: list[int]


class HasShown(Protocol):
    """A generator whose images [B, ...] of inputs cx [B, ...] are finished before one sees them."""

    def shown(self, images: Tensor, cx: Tensor, /) -> Tensor: ...


def has_shown(model: object) -> TypeGuard[HasShown]:
    """Whether images are finished so."""
    return hasattr(model, "shown")


def is_cascade(model: object) -> TypeGuard[Cascade]:
    """Whether a level can be had from the state of the one below."""
    return hasattr(model, "start") and hasattr(model, "advance")


def has_frozen_copy(model: object) -> TypeGuard[HasFrozenCopy]:
    """Whether a generator makes its own copy for searching."""
    return hasattr(model, "frozen_copy")


def has_levels(model: object) -> TypeGuard[HasLevels]:
    """Whether a generator says how many levels it has."""
    return hasattr(model, "code_sizes")


class SpatialNoise(NamedTuple):
    """Where the spatial noise lies in the code of a level: `channels` planes of height x width,
    row-major, one after the other, from entry `first` on."""

    first: int
    channels: int
    height: int
    width: int


class HasSpatialNoise(HasLevels, Protocol):
    """... and where the spatial noise of a level's code is in it; None: it has none."""

    def spatial_noise(self, level: int, /) -> SpatialNoise | None: ...


def has_spatial_noise(model: object) -> TypeGuard[HasSpatialNoise]:
    """Whether a generator says how long its codes are and where spatial noise is in them."""
    return has_levels(model) and hasattr(model, "spatial_noise")


def device_of(model: Any) -> torch.device:
    """Where a model's parameters are; the CPU for one without."""
    parameters = model.parameters() if hasattr(model, "parameters") else iter(())
    first = next(iter(parameters), None)
    return torch.device("cpu") if first is None else first.device


# ----------------------------------------------------------------------------------------- codes


class KeyedCodes(Protocol):
    """Codes by the numbers of candidates, the same each time (CodeGenerator).

    draw(level, loop, image_ids [B], candidate_ids [K] or [B, K], device) -> [B*K, d_level].
    """

    def draw(
        self,
        level: int,
        loop: int,
        image_ids: Tensor,
        candidate_ids: Tensor,
        device: torch.device | None,
        /,
    ) -> Tensor: ...


class ComposedCodes(KeyedCodes, Protocol):
    """... and codes put together from several candidates each: see `CodeGenerator.compose`."""

    def compose(
        self,
        level: int,
        loop: int,
        image_ids: Tensor,
        candidate_ids: Tensor,
        rows: Tensor,
        pattern: Mosaic,
        /,
    ) -> Tensor: ...


PlainCodes = Callable[..., Any]
"""`z_gen(bs, level)`: other codes with every call."""


def is_keyed_codes(z: object) -> TypeGuard[KeyedCodes]:
    """Whether codes can be drawn again by their numbers."""
    return hasattr(z, "draw")


def is_composed_codes(z: object) -> TypeGuard[ComposedCodes]:
    """Whether a code can be put together from several candidates."""
    return hasattr(z, "draw") and hasattr(z, "compose")


class Draw(Protocol):
    """Codes of candidates: level, ids [K] or [B, K] -> [B*K, d_level], row b*K + k."""

    def __call__(self, level: int, candidate_ids: Tensor, /) -> Tensor: ...


# ----------------------------------------------------------------------- losses and corruptions


Loss = Callable[..., Tensor]
"""`loss(fx [R, C, H, W], y [R, C, H, W]) -> [R]`."""


class PreparedLoss(Protocol):
    """A loss whose target [B, ...] is prepared once for all candidates: fx has B*K rows."""

    def prepare(self, y: Tensor, /) -> Any: ...

    def __call__(self, fx: Tensor, target: Any, /) -> Tensor: ...


class MappedLoss(PreparedLoss, Protocol):
    """... and that says what each part of an image adds to it: the mean over the cells of a grid of
    cells x cells is the loss [B, K, cells, cells] -> [B*K] (where cells divides the side)."""

    def maps(self, fx: Tensor, target: Any, cells: int, /) -> Tensor: ...


class RoundedLoss(Protocol):
    """A loss that changes with the loop (ProjectedDistance: new matrices)."""

    def set_round(self, loop: int, /) -> Any: ...


def is_prepared(loss: object) -> TypeGuard[PreparedLoss]:
    """Whether a loss prepares its target."""
    return hasattr(loss, "prepare")


def is_mapped(loss: object) -> TypeGuard[MappedLoss]:
    """Whether a loss can be had cell by cell."""
    return hasattr(loss, "prepare") and hasattr(loss, "maps")


def is_rounded(loss: object) -> TypeGuard[RoundedLoss]:
    """Whether a loss is to be told the loop."""
    return hasattr(loss, "set_round")


class Corrupts(Protocol):
    """A corruption that is a function of keys (Corruption): images x [B, ...] of a loop."""

    def keyed(self, x: Tensor, loop: int, image_ids: Tensor, /) -> Tensor: ...


def is_keyed_corruption(corruptor: object) -> TypeGuard[Corrupts]:
    """Whether a corruption can be repeated."""
    return hasattr(corruptor, "keyed")


class Augments(Protocol):
    """Changes [x, *ys] of the same images alike, as a function of keys (KeyedFlip)."""

    def __call__(self, images: list[Tensor], loop: int, image_ids: Tensor, /) -> list[Tensor]: ...


# ---------------------------------------------------------------------------------------- search


class Searcher(Protocol):
    """Replaces the search per image (keyword `searcher`), e.g. by one over a shared pool.

    `search` gets the model, `z_gen`, batches of (image_ids [b], cx, ys) of *all* images of the
    subsample on every rank, the loop and a callback (done, total); it returns the winners [U, L]
    int64 and their losses [U, L], the same on all ranks, in the order of the batches.
    `codes` gives the codes of given winners [b, L], a list of [b, d_l].
    """

    def search(
        self,
        model: Any,
        z_gen: Any,
        batches: Iterable[Targets],
        loop: int,
        on_chunk: OnChunk | None,
        /,
    ) -> tuple[Tensor, Tensor]: ...

    def codes(
        self, z_gen: Any, loop: int, image_ids: Tensor, winners: Tensor, /
    ) -> list[Tensor]: ...
