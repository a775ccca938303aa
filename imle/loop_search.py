"""What a loop's codes are searched with, and how they, and the inputs, are made again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from numbers import Integral

import torch
from torch import Tensor

from imle.adaptive import Memory, by_loop
from imle.cells import CellGrid, cell_grids, check_cells, composed, wanted
from imle.contract import corrupted
from imle.draws import draw_of
from imle.loops import Found, rows_of
from imle.reading import Read
from imle.rejection import Rejection
from imle.search import CodeSearch, SearchResult, check_found, per_level, resolve_dtype
from imle.types import (
    Augments,
    Batch,
    Cascade,
    Corrupts,
    KeyedCodes,
    Loss,
    Model,
    OnChunk,
    PlainCodes,
    PreparedLoss,
    Searcher,
    Targets,
    device_of,
    has_levels,
    is_composed_codes,
    is_keyed_codes,
    is_keyed_corruption,
)
from runtime import distributed


class LoopSearch:
    """The search of a CIMLEDataLoader, whose docstring says what the arguments are. A loop's images
    are shared among the ranks, all of which call these methods together."""

    def __init__(
        self,
        model: Cascade | Model,
        corruptor: Corrupts | Callable[[Tensor], Tensor] | None,
        z_gen: KeyedCodes | PlainCodes,
        loss_fn: Loss | PreparedLoss,
        num_samples: int | Sequence[int],
        sample_parallelism: int | Sequence[int],
        code_bs: int,
        *,
        augment: Augments | None,
        device: torch.device | str | None,
        on_chunk: OnChunk | None,
        precision: str | torch.dtype,
        rescore: int,
        channels_last: bool,
        searcher: Searcher | None,
        cells: int | Sequence[int],
        local_ns: int | Sequence[int] | None,
        rejection: Rejection | None,
    ) -> None:
        levels = len(model.code_sizes) if has_levels(model) else None
        for name, number in (
            ("num_samples", num_samples),
            ("sample_parallelism", sample_parallelism),
        ):
            single = isinstance(number, (int, Integral))
            per_level(number, levels or (1 if single else len(number)), name)  # type: ignore[arg-type]
        resolve_dtype(precision)
        if wanted(cells):
            check_cells(model, z_gen, loss_fn, searcher=searcher)
            assert levels is not None, "check_cells sees to it"
            per_level(cells, levels, "cells", least=0)
            per_level(num_samples if local_ns is None else local_ns, levels, "local_ns")
        self.model, self.corruptor, self.z_gen, self.loss_fn = model, corruptor, z_gen, loss_fn
        self.num_samples, self.sample_parallelism = num_samples, sample_parallelism
        self.code_bs, self.augment, self.on_chunk = int(code_bs), augment, on_chunk
        self.device = torch.device(device) if device is not None else device_of(model)
        self.precision, self.rescore, self.channels_last = precision, rescore, channels_last
        self.searcher, self.cells, self.local_ns = searcher, cells, local_ns
        self.rejection = rejection
        self._grids: tuple[list[int], list[CellGrid | None]] | None = None

    # --------------------------------------------------------------------------------- images

    def _share(self, images: list[int]) -> list[int]:
        """Of different images, those that this rank searches: equally many on every rank.

        The last ranks repeat images when the number cannot be divided.
        """
        world, rank = distributed.world_size(), distributed.rank()
        size = -(-len(images) // world)
        return [images[i % len(images)] for i in range(rank * size, (rank + 1) * size)]

    def _prepare(self, image_ids: Tensor, x: Tensor, ys: list[Tensor], loop: int) -> Targets:
        """On the device, augmented, as floats: image_ids, x and ys, not yet corrupted."""
        image_ids = image_ids.to(self.device, non_blocking=True)
        images = [t.to(self.device, non_blocking=True) for t in (x, *ys)]
        if self.augment is not None:
            images = self.augment(images, loop, image_ids)
        images = [t.float().div_(255) if t.dtype == torch.uint8 else t for t in images]
        return image_ids, images[0], images[1:]

    @property
    def _keeps_inputs(self) -> bool:
        return self.corruptor is not None and not is_keyed_corruption(self.corruptor)

    def _corrupt(self, x: Tensor, loop: int, image_ids: Tensor) -> Tensor:
        if self.corruptor is None:
            return x
        if is_keyed_corruption(self.corruptor):
            return self.corruptor.keyed(x, loop, image_ids)
        assert callable(self.corruptor)
        return corrupted(self.corruptor, x)

    def _cells_of(self, winners: Tensor) -> list[int]:
        if winners.dim() < 3:
            return []
        return per_level(self.cells, winners.shape[1], "cells", least=0)

    def _evaluations(self, images: int, levels: int) -> int:
        """Outputs of a level that a search of so many images compares; a pool is one for all."""
        if self.searcher is not None:
            return getattr(self.searcher, "pool_size", 0)
        engine = self._engine()
        plans = (*engine.plan(levels), *engine.local_plan(levels))
        return images * sum(last - first for plan in plans for first, last in plan)

    def _search(self, number: int, images: list[int], reader: Iterator[Read]) -> Found:
        """What is found for different images of a loop; the first of `reader` are those of this
        rank."""
        share = images if self.searcher is not None else self._share(images)
        kept_inputs: list[Tensor] = []

        def batches() -> Iterator[Targets]:
            for _ in range(-(-len(share) // self.code_bs)):
                image_ids, x, ys = self._prepare(*next(reader), number)
                cx = self._corrupt(x, number, image_ids)
                if self._keeps_inputs:
                    kept_inputs.append(cx)
                yield image_ids, cx, ys

        codes: list[Tensor] | None = None
        first = whole = None
        if self.searcher is not None:
            winners, losses = self.searcher.search(
                self.model, self.z_gen, batches(), number, self.on_chunk
            )
            empty = torch.zeros_like(winners, dtype=torch.bool)
            rejected = getattr(self.searcher, "rejected_share", 0.0)
        else:
            result = self._search_each(number, len(share), batches())
            # every rank has searched equally many; repeated ones of the last rank fall off the end
            winners, losses, empty, count, first, whole = (
                self._gather(t, images)
                for t in (
                    result.winners,
                    result.losses,
                    result.empty,
                    result.rejected,
                    result.first,
                    result.whole,
                )
            )
            codes = [self._gather(c, images) for c in result.codes] or None
            of = per_level(self.num_samples, losses.shape[1], "num_samples")
            shares = (count.double().mean(0).cpu() / torch.tensor(of)).tolist()
            every = self.rejection is not None and self.rejection.levels == "all"
            rejected = sum(shares) / len(shares) if every else shares[-1]
        inputs = torch.cat(kept_inputs) if kept_inputs else None
        if inputs is not None:
            inputs = inputs[: len(images)] if self.searcher else self._gather(inputs, images)
        check_found((winners < 0).flatten(1).any(1), images)
        if self.rejection is not None:
            self.rejection.observe(number, (losses if whole is None else whole).cpu())
        first, whole = (None if t is None else t.cpu() for t in (first, whole))
        return Found(
            winners.cpu(), losses.cpu(), empty.cpu(), rejected, first, whole, codes, inputs
        )

    def _engine(self) -> CodeSearch:
        return CodeSearch(
            self.model,
            self.loss_fn,
            self.num_samples,
            self.sample_parallelism,
            precision=self.precision,
            rescore=self.rescore,
            channels_last=self.channels_last,
            cells=self.cells,
            local_ns=self.local_ns,
        )

    def _search_each(self, number: int, images: int, batches: Iterator[Targets]) -> SearchResult:
        """What is found for this rank's images; codes only where they cannot be drawn again."""
        results = []
        done = total = 0

        def report() -> None:
            nonlocal done
            done += 1
            if self.on_chunk is not None:
                self.on_chunk(done, total)

        keyed = is_keyed_codes(self.z_gen)
        with self._engine() as engine:
            for image_ids, cx, ys in batches:
                total = -(-images // self.code_bs) * engine.chunks(len(ys))
                draw = draw_of(self.z_gen, number, image_ids, self.device)
                radii = self.rejection.radii(number, len(ys)) if self.rejection else None
                found = engine(cx, ys, draw, on_chunk=report, radii=radii)
                results.append(found._replace(codes=[]) if keyed else found)
        return SearchResult.joined(results)

    def _measured(self, images: list[int], of: Memory, reader: Iterator[Read]) -> Tensor:
        """Losses of the codes that a memory has of different images [V], all levels together;
        `reader` has those of this rank."""
        row, parts = rows_of(images), []
        total = -(-len(self._share(images)) // self.code_bs)
        with self._engine() as engine:
            for done, read in enumerate(reader):
                rows = torch.tensor([row[i] for i in read[0].tolist()])
                cx, codes, ys = self._made(read, of.loop[rows], of.winners[rows])
                if self.searcher is not None:
                    parts.append(self.searcher.measure(self.model, codes, ys))  # type: ignore[attr-defined]
                else:
                    parts.append(engine.measure(cx, ys, codes).sum(1))
                if self.on_chunk is not None:
                    self.on_chunk(done + 1, total)
        return self._gather(torch.cat(parts), images)

    def _made(self, read: Read, loops: Tensor, won: Tensor) -> Batch:
        """A batch whose rows are of several loops [b]; won: their winners [b, ...]."""

        def make(loop: int, at: Tensor) -> Batch:
            ids, x, ys = read
            image_ids, x, ys = self._prepare(ids[at], x[at], [y[at] for y in ys], loop)
            numbers = won[at].to(self.device)
            codes = self._codes(loop, image_ids, numbers, self._cells_of(numbers))
            return self._corrupt(x, loop, image_ids), codes, ys

        return by_loop(loops, make)

    @staticmethod
    def _gather(t: Tensor, images: list[int]) -> Tensor:
        return distributed.gather(t)[: len(images)]

    def _codes(self, loop: int, image_ids: Tensor, won: Tensor, cells: list[int]) -> list[Tensor]:
        if self.searcher is not None:
            return self.searcher.codes(self.z_gen, loop, image_ids, won)
        if cells:
            if self._grids is None or self._grids[0] != cells:
                self._grids = (cells, cell_grids(self.model, cells, self.device))
            assert is_composed_codes(self.z_gen)
            return composed(self.z_gen, loop, image_ids, won, self._grids[1])
        assert is_keyed_codes(self.z_gen)
        return [
            self.z_gen.draw(level, loop, image_ids, won[:, level : level + 1], self.device)
            for level in range(won.shape[1])
        ]
