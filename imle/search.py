"""Hierarchical code search: for every image and level the best of many candidate codes.

Level by level (hierarchical sampling of Peng, Moazeni and Li, "Cascading Modular Network (CAM-Net)
for Multimodal Image Synthesis", arXiv 2106.09015): candidates of level l are judged by the loss of
level l's output with the codes of the levels below already chosen; the best is frozen and the next
level is searched.

What makes it fast and small:

- cascade cache: the state after the chosen code of a level (picture and features) is gathered from
  the candidates' own forward pass, so no earlier level ever runs again, whatever the chunk size;
- the target's features are computed once per level, not once per chunk;
- candidate codes are drawn on the device from their numbers, chunk by chunk, and forgotten: what is
  kept is the best number and loss so far. Memory depends on images x `sp`, not on `ns`;
- nothing is fetched from the device inside the loop over chunks;
- optionally losses are taken in bf16 or fp16, and those of the best m of each image again in fp32,
  or, where few candidates make that most of a search, of none (m = 0).

Candidates nearer than a radius may be rejected (`imle.rejection`): the nearest of the others is
chosen, and where there is none the farthest.

Ties go to the smaller candidate number. A candidate whose loss is not finite is never accepted and
hides no other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from imle.cascade import LevelLosses, cast_like, map_tree, no_tf32, where_tree
from imle.cells import (
    CellGrid,
    Chosen,
    Judge,
    Sweep,
    cell_grids,
    check_cells,
    choose_cells,
    stacked,
    sweeps,
    wanted,
)
from imle.draws import KeyedDraw, PlainDraw, draw_of, listed_draw
from imle.rejection import Near
from imle.shortlist import Shortlist
from imle.types import Cascade, Draw, KeyedCodes, Loss, Model, OnChunk, PlainCodes, PreparedLoss

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LARGE = torch.iinfo(torch.int64).max


class NonFiniteSearchError(ValueError):
    """Some image has no candidate of finite loss: the model or its input has diverged."""

    exit_code = 5


class SearchResult(NamedTuple):
    """What a search chose for B images and L levels, on the images' device.

    winners: [B, L] int64 candidate numbers, -1 where no candidate was finite; with cells
        [B, L, 1 + most cells of a level], see `imle.cells`.
    """

    winners: Tensor
    losses: Tensor  # [B, L] float32: the losses of what was chosen, inf where there is none
    codes: list[Tensor]  # per level [B, d_l]: what was chosen
    all_losses: list[Tensor] | None  # per level [B, ns_l], in candidate order, if asked for
    first: Tensor  # [B, L] float32: losses of each level's first candidate
    whole: Tensor  # [B, L] float32: of the best candidate as it is; `losses` where no cells are
    rejected: Tensor  # [B, L] int64: how many whole candidates were nearer than the radius
    empty: Tensor  # [B, L] bool: all of them were, so the winner is the farthest

    @property
    def failed(self) -> Tensor:
        """Images without a finite candidate at some level: bool [B]."""
        return (self.winners < 0).flatten(1).any(1)

    @staticmethod
    def joined(parts: Sequence[SearchResult]) -> SearchResult:
        """The results of several batches of images as one."""
        tables = [p.all_losses for p in parts if p.all_losses is not None]
        return SearchResult(
            torch.cat([p.winners for p in parts]),
            torch.cat([p.losses for p in parts]),
            [torch.cat(c) for c in zip(*(p.codes for p in parts), strict=True)],
            [torch.cat(t) for t in zip(*tables, strict=True)] if tables else None,
            torch.cat([p.first for p in parts]),
            torch.cat([p.whole for p in parts]),
            torch.cat([p.rejected for p in parts]),
            torch.cat([p.empty for p in parts]),
        )


def per_level(value: int | Sequence[int], levels: int, name: str, *, least: int = 1) -> list[int]:
    """Broadcast one number, or one number a level, to `levels` whole numbers >= `least`."""
    values = [value] if isinstance(value, (int, Integral)) else list(value)
    if len(values) == 1:
        values = values * levels
    if len(values) != levels:
        raise ValueError(f"{name} has {len(values)} values for {levels} levels: give 1 or {levels}")
    for v in values:
        if int(v) != v or v < least:
            kind = "positive whole numbers" if least else "whole numbers, at least 0"
            raise ValueError(f"{name} must be {kind}, got {values}")
    return [int(v) for v in values]


def resolve_dtype(precision: str | torch.dtype) -> torch.dtype:
    """fp32 | bf16 | fp16, or the torch dtype itself."""
    dtype = _DTYPES.get(precision) if isinstance(precision, str) else precision
    if dtype is None or dtype not in _DTYPES.values():
        raise ValueError(f"search precision must be one of {', '.join(_DTYPES)}, got {precision}")
    return dtype


class _Best(NamedTuple):
    loss: Tensor  # [B]
    ids: Tensor  # [B]
    code: Tensor  # [B, d]
    state: Any


class _Losses:
    """Losses of a level's candidates: those of the first, and all of them if asked for."""

    def __init__(self, keep_all: bool) -> None:
        self.keep_all = keep_all
        self.chunks: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        """Losses [B, K] of the next chunk."""
        if self.keep_all or not self.chunks:
            self.chunks.append(loss if self.keep_all else loss[:, :1].clone())


class CodeSearch:
    """A search phase: use as a context manager around searches with unchanged weights.

    Inside, the model is in eval mode (every submodule's mode is restored at the end, whatever
    happens) and its frozen copy, if it has one, is made once.

    model: `start`/`advance` (`imle.types`) or any plain callable
        `model(x, codes, loi=level) -> image`.
    loss_fn: `loss_fn(fx [R, ...], y [R, ...]) -> [R]`; one with `prepare(y) -> target` is called
        as `loss_fn(fx [B*K, ...], target)` with the target prepared once a level.
    num_samples, sample_parallelism: candidates of a level, and how many of them at a time.
    precision: fp32, or bf16 / fp16 for all losses, those of the best `rescore` of each image and
        level taken again in fp32 (without TF32), which decides. rescore 0, of bf16: it decides
        alone, and what is said below to be in fp32 is in it.
    channels_last: memory format handed to `model.frozen_copy`.
    cells: along a side of the grid in which spatial noise is chosen cell by cell behind the search
        over whole codes (`imle.cells`); 0: none. One number or one a level.
    local_ns: candidates of that, default `num_samples`.
    ValueError: the model, or the loss, is not one for cells.
    """

    def __init__(
        self,
        model: Cascade | Model,
        loss_fn: Loss | PreparedLoss,
        num_samples: int | Sequence[int],
        sample_parallelism: int | Sequence[int],
        *,
        precision: str | torch.dtype = torch.float32,
        rescore: int = 4,
        channels_last: bool = True,
        cells: int | Sequence[int] = 0,
        local_ns: int | Sequence[int] | None = None,
    ) -> None:
        self._exact: LevelLosses  # inside `with`
        self._fast: LevelLosses | None = None  # ... where the precision is low
        if rescore < 0:
            raise ValueError(f"rescore must be at least 0, got {rescore}")
        self.model, self.loss_fn = model, loss_fn
        self.num_samples, self.sample_parallelism = num_samples, sample_parallelism
        self.dtype = resolve_dtype(precision)
        if rescore == 0 and self.dtype == torch.float16:
            raise ValueError("rescore 0 is of bf16: losses of fp16 may overflow, which fp32 mends")
        self.rescore = rescore
        self.channels_last = channels_last
        self.cells, self.local_ns = cells, num_samples if local_ns is None else local_ns
        self._grids: dict[tuple[int, torch.device], list[CellGrid | None]] = {}
        self._modes: list[tuple[nn.Module, bool]] | None = None

    def __enter__(self) -> CodeSearch:
        modules = [m for m in (self.model, self.loss_fn) if isinstance(m, nn.Module)]
        self._modes = [(m, m.training) for top in modules for m in top.modules()]
        for top in modules:
            top.eval()
        try:
            with torch.no_grad():
                made = [
                    LevelLosses(self.model, self.loss_fn, dtype, self.channels_last)
                    for dtype in dict.fromkeys([torch.float32] * (self.rescore > 0) + [self.dtype])
                ]
                self._exact, self._fast = made[0], made[1] if len(made) > 1 else None
        except BaseException:
            self._restore_modes()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        del self._exact
        self._fast = None
        self._restore_modes()

    def _restore_modes(self) -> None:
        for module, training in self._modes or []:
            module.training = training
        self._modes = None

    def plan(self, levels: int) -> list[list[tuple[int, int]]]:
        """Candidate ranges [first, last) of each chunk of each level; together exactly ns."""
        ns = per_level(self.num_samples, levels, "num_samples")
        sp = per_level(self.sample_parallelism, levels, "sample_parallelism")
        return [[(i, min(i + s, n)) for i in range(0, n, s)] for n, s in zip(ns, sp, strict=True)]

    def local_sweeps(self, levels: int) -> list[list[Sweep]]:
        """The sweeps of the choice cell by cell of each level, none where there is no such."""
        cells = per_level(self.cells, levels, "cells", least=0)
        ns = per_level(self.local_ns, levels, "local_ns")
        sp = per_level(self.sample_parallelism, levels, "sample_parallelism")
        return [sweeps(c, n, s) if c else [] for c, n, s in zip(cells, ns, sp, strict=True)]

    def local_plan(self, levels: int) -> list[list[tuple[int, int]]]:
        """Their chunks, [first, last) within a sweep, of which the first is what stands already."""
        plans = self.local_sweeps(levels)
        return [[chunk for sweep in plan for chunk in sweep.chunks] for plan in plans]

    def chunks(self, levels: int) -> int:
        """How often `on_chunk` is called for a batch of images."""
        return sum(len(c) for c in (*self.plan(levels), *self.local_plan(levels)))

    def grids(self, levels: int, draw: Draw, device: torch.device) -> list[CellGrid | None]:
        """The grid of cells of each level, None where there is none. Errors: ValueError."""
        if not wanted(self.cells):
            return [None] * levels
        if (levels, device) not in self._grids:
            z: object = draw
            if isinstance(draw, KeyedDraw | PlainDraw):
                z = draw.z if isinstance(draw, KeyedDraw) else draw.z_gen
            check_cells(self.model, z, self.loss_fn)
            cells = per_level(self.cells, levels, "cells", least=0)
            self._grids[levels, device] = cell_grids(self.model, cells, device)
        return self._grids[levels, device]

    @torch.no_grad()
    def __call__(
        self,
        cx: Tensor,
        ys: Sequence[Tensor],
        draw: Draw,
        *,
        on_chunk: Callable[[], None] | None = None,
        return_losses: bool = False,
        radii: Sequence[float] | None = None,
    ) -> SearchResult:
        """Search codes for inputs cx [B, ...] and the targets of every level.

        draw: where candidates come from (see imle.draws). radii: of each level, below which whole
            candidates are rejected; 0 rejects none.
        on_chunk: called after every chunk, equally often for every batch; what it raises ends
            the search and passes through.
        """
        if self._modes is None:
            raise RuntimeError("CodeSearch is used inside `with`")
        fast = self._fast
        if len(cx) == 0:
            raise ValueError("nothing to search: the batch of inputs is empty")
        local, grids = self.local_sweeps(len(ys)), self.grids(len(ys), draw, cx.device)
        state = self._exact.start(cx)
        fast_state = fast.start(cx) if fast else None
        best: list[_Best] = []
        whole: list[Tensor] = []
        losses: list[_Losses] = []
        nears = [Near(r, len(cx), cx.device) for r in radii or [0.0] * len(ys)]
        for level, (y, grid) in enumerate(zip(ys, grids, strict=True)):
            losses.append(_Losses(return_losses))
            exact = Judge(self._exact, state, self._exact.prepare(y))
            low = None if fast is None else Judge(fast, fast_state, None)
            found, low, fast_state = self._whole_codes(
                level, len(ys), y, exact, low, draw, on_chunk, losses[level], nears[level]
            )
            whole.append(found.loss)
            if grid is not None:
                assert isinstance(draw, KeyedDraw), "check_cells sees to it"
                if low is not None and low.target is None:
                    low = low._replace(target=low.losses.prepare(y))
                after = fast_state if level + 1 < len(ys) else None
                kept = choose_cells(
                    level, grid, exact, low, Chosen(*found, after), draw, local[level], on_chunk
                )
                found, fast_state = _Best(*kept[:4]), kept.fast_state
            state = found.state
            best.append(found._replace(state=None))
        ids_of = [b.ids for b in best]
        return SearchResult(
            stacked(ids_of) if any(grids) else torch.stack(ids_of, 1),
            torch.stack([b.loss for b in best], 1),
            [b.code for b in best],
            [torch.cat(row.chunks, 1) for row in losses] if return_losses else None,
            torch.stack([row.chunks[0][:, 0] for row in losses], 1),
            torch.stack(whole, 1),
            torch.stack([near.count for near in nears], 1),
            torch.stack([w < near.radius for w, near in zip(whole, nears, strict=True)], 1),
        )

    def _whole_codes(
        self,
        level: int,
        levels: int,
        y: Tensor,
        exact: Judge,
        low: Judge | None,
        draw: Draw,
        on_chunk: Callable[[], None] | None,
        row: _Losses,
        near: Near,
    ) -> tuple[_Best, Judge | None, Any]:
        """The best of a level's candidates as they are; `low` again, with its target if that was
        needed; and its state behind the level."""
        ids = [torch.arange(*chunk, device=y.device) for chunk in self.plan(levels)[level]]
        few = sum(len(c) for c in ids) <= self.rescore  # all would be taken again
        if low is not None and not few:
            low = low._replace(target=low.losses.prepare(y))
            found, after = self._two_stage(
                low.losses, exact.state, low.state, y, low.target, exact.target, level, ids, draw,
                on_chunk, row, near,
            )  # fmt: skip
            return found, low, after
        with no_tf32(y.device, low is not None):
            found = self._argmin(exact.state, exact.target, level, ids, draw, on_chunk, row, near)
        after = None if low is None else low.state
        if low is not None and level + 1 < levels:
            one = map_tree(lambda t: t[:1], low.state)
            after = low.losses.as_mine(found.state, one, found.code[:1], level)
        return found, low, after

    @torch.no_grad()
    def measure(self, cx: Tensor, ys: Sequence[Tensor], codes: Sequence[Tensor]) -> Tensor:
        """Losses [B, L] of given codes, per level [B, d_l], for inputs cx and targets ys; in fp32,
        inf where they are not finite."""
        state, rows = self._exact.start(cx), []
        for level, (y, code) in enumerate(zip(ys, codes, strict=True)):
            loss, state = self._exact.losses(state, code, level, self._exact.prepare(y))
            rows.append(loss)
        return torch.stack(rows, 1)

    def _argmin(
        self,
        state: Any,
        target: Any,
        level: int,
        chunks: Iterable[Tensor],
        draw: Draw,
        on_chunk: Callable[[], None] | None = None,
        row: _Losses | None = None,
        near: Near | None = None,
    ) -> _Best:
        """Streaming first argmin in fp32; chunks of ids [K], or [B, K] ascending along K.

        An id of -1 stands for no candidate.
        """
        best: _Best | None = None
        spare: _Best | None = None  # the farthest of those that are too near
        for ids in chunks:
            code = draw(level, ids.clamp_min(0))
            loss, new = self._exact.losses(state, code, level, target)
            loss = loss.view(-1, ids.shape[-1])
            loss = torch.where(ids < 0, torch.inf, loss)
            if row is not None:
                row.add(loss)
            if near:
                near.met(loss)
                spare = _keep_better(spare, near.farthest_first(loss), ids, code, new)
                loss = near.without(loss)
            best = _keep_better(best, loss, ids, code, new)
            del new
            if on_chunk is not None:
                on_chunk()
        assert best is not None, "a level has a chunk"
        if spare is None:
            return best
        spare = spare._replace(loss=-spare.loss)
        empty = ~torch.isfinite(best.loss) & torch.isfinite(spare.loss)
        return _Best(*(where_tree(empty, n, o) for n, o in zip(spare, best, strict=True)))

    def _two_stage(
        self,
        fast: LevelLosses,
        state: Any,
        fast_state: Any,
        y: Tensor,
        quick: Any,
        target: Any,
        level: int,
        chunks: list[Tensor],
        draw: Draw,
        on_chunk: Callable[[], None] | None,
        row: _Losses,
        near: Near,
    ) -> tuple[_Best, Any]:
        """Score all in low precision, the best few again in fp32; the fp32 state is the truth.

        quick, target: y prepared in either precision. With a radius, on whose other side either
        precision may see a candidate, the best few are the nearest beyond it and the farthest
        within.
        """
        keep = min(self.rescore, sum(len(c) for c in chunks))
        width = max(len(c) for c in chunks)
        best, spare = (Shortlist(len(y), keep, y.device) for _ in range(2))
        for ids in chunks:
            code = draw(level, ids)
            loss, new = fast.losses(fast_state, code, level, quick)
            template = map_tree(lambda t: t[:1], new)
            del new
            loss = loss.view(-1, len(ids))
            row.add(loss)
            # codes are kept only of sources that cannot draw a candidate a second time
            kept = code.view(len(y), len(ids), -1) if isinstance(draw, PlainDraw) else None
            if near:
                near.met(loss)
                spare.offer(near.farthest_first(loss), ids, kept)
                loss = near.without(loss)
            best.offer(loss, ids, kept)
            if on_chunk is not None:
                on_chunk()
        top_ids, codes = (best + spare if near else best).numbers()

        # in ascending order of their numbers, absent ones last, so that the first minimum is right
        top_ids, order = torch.where(top_ids < 0, _LARGE, top_ids).sort(dim=1)
        top_ids = torch.where(top_ids == _LARGE, -1, top_ids)
        again = draw
        if codes is not None:
            codes = codes.gather(1, order[:, :, None].expand(-1, -1, codes.shape[2]))
            again = listed_draw(top_ids, codes)
        few, beyond = top_ids.split(width, 1), Near(near.radius, len(y), y.device)
        with no_tf32(y.device):
            found = self._argmin(state, target, level, few, again, None, None, beyond)
        # all that were looked at are too near, and others seemed not to be
        bad = ~torch.isfinite(found.loss) | (found.loss < near.radius) & best.overflowed
        if codes is None and bool(bad.any()):
            # nothing finite in low precision (fp16 overflows early): fp32 has the last word
            with no_tf32(y.device):
                full = self._argmin(state, target, level, chunks, draw, None, None, beyond)
            found = _Best(*(where_tree(bad, n, o) for n, o in zip(full, found, strict=True)))
        return found, cast_like(found.state, template)


def _keep_better(best: _Best | None, loss: Tensor, ids: Tensor, code: Tensor, state: Any) -> _Best:
    """Merge a chunk [B, K] into the best so far; strictly better wins, the first of equals."""
    rows, width = loss.shape
    low = loss.amin(1)
    # argmin of equal values is unspecified, the smallest position among the minima is not
    column = torch.arange(width, device=loss.device)
    column = torch.where(loss == low[:, None], column, width).amin(1)
    index = torch.arange(rows, device=loss.device) * width + column
    finite = torch.isfinite(low)
    new_ids = ids[column] if ids.dim() == 1 else ids.gather(1, column[:, None])[:, 0]
    new = _Best(
        low, torch.where(finite, new_ids, -1), code[index], map_tree(lambda t: t[index], state)
    )
    if best is None:
        return new
    better = low < best.loss
    return _Best(*(where_tree(better, n, o) for n, o in zip(new, best, strict=True)))


def check_found(failed: Tensor, image_ids: Sequence[int]) -> None:
    """NonFiniteSearchError naming the images [B] marked in `failed`."""
    bad = [i for i, f in zip(image_ids, failed.tolist(), strict=True) if f]
    if bad:
        shown = ", ".join(map(str, bad[:10])) + (" ..." if len(bad) > 10 else "")
        raise NonFiniteSearchError(
            f"no candidate code has a finite loss for {len(bad)} of {len(failed)} images (ids "
            f"{shown}): look at these images, or lower the learning rate"
        )


def _counted(on_chunk: OnChunk | None, total: int) -> Callable[[], None]:
    """What calls on_chunk(done, total) with a count of its own calls."""
    numbers = itertools.count(1)

    def report() -> None:
        done = next(numbers)
        if on_chunk is not None:
            on_chunk(done, total)

    return report


def search(
    model: Cascade | Model,
    loss_fn: Loss | PreparedLoss,
    z: KeyedCodes | PlainCodes | Sequence[Tensor],
    cx: Tensor,
    ys: Sequence[Tensor],
    image_ids: Tensor,
    loop: int,
    num_samples: int | Sequence[int],
    sample_parallelism: int | Sequence[int],
    *,
    code_bs: int | None = None,
    precision: str | torch.dtype = torch.float32,
    rescore: int = 4,
    channels_last: bool = True,
    cells: int | Sequence[int] = 0,
    local_ns: int | Sequence[int] | None = None,
    on_chunk: OnChunk | None = None,
    return_losses: bool = False,
    radii: Sequence[float] | None = None,
) -> SearchResult:
    """One search over images that are all in memory.

    z: a CodeGenerator (`z.draw`), a plain `z_gen(bs, level)`, or supplied candidates as a list
        of tensors [B, ns_l, d_l], one a level.
    cx [B, ...], ys: list of [B, ...], image_ids: int64 [B], loop: keys of the candidates' noise.
    code_bs: images at a time, default all. on_chunk(done, total) after each chunk.
    radii: as a CodeSearch is called. The remaining arguments are those of CodeSearch.
    NonFiniteSearchError: see `check_found`.
    """
    engine = CodeSearch(
        model,
        loss_fn,
        num_samples,
        sample_parallelism,
        precision=precision,
        rescore=rescore,
        channels_last=channels_last,
        cells=cells,
        local_ns=local_ns,
    )
    code_bs = len(cx) if code_bs is None else code_bs
    if code_bs < 1:
        raise ValueError(f"code_bs must be at least 1 (and the batch not empty), got {code_bs}")
    image_ids = image_ids.to(cx.device)
    counted = _counted(on_chunk, -(-len(cx) // code_bs) * engine.chunks(len(ys)))
    parts: list[SearchResult] = []
    with engine:
        for i in range(0, len(cx), code_bs):
            at = slice(i, i + code_bs)
            part = [pool[at] for pool in z] if isinstance(z, (list, tuple)) else z
            draw = draw_of(part, loop, image_ids[at], cx.device)
            found = engine(
                cx[at], [y[at] for y in ys], draw,
                on_chunk=counted, return_losses=return_losses, radii=radii,
            )  # fmt: skip
            parts.append(found)
    result = SearchResult.joined(parts)
    check_found(result.failed, image_ids.tolist())
    return result
