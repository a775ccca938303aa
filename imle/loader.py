"""CIMLEDataLoader: subsample, search codes, and yield batches of (input, codes, targets).

One iteration over the loader is one outer loop of conditional IMLE: a subsample is popped from
KorKMinusOne, a code is searched for each of its images, and exactly `num_iteration` batches of it
are yielded, so that training is two loops:

    for loop in range(outer_loops):
        for cx, codes, ys in loader:
            ...

Everything random is a function of keys: candidate codes of (seed, loop, image, level, candidate),
flip and corruption of (seed, loop, image), the order of pass p of (seed, loop, p). So the result
does not depend on workers, chunk sizes or ranks, and the state is small and exact: which loop, how
many batches, which images, and the numbers of the winning candidates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from imle.cells import CellGrid, cell_grids, check_cells, composed, wanted
from imle.contract import check_pieces, corrupted
from imle.draws import draw_of
from imle.order import StreamOrder
from imle.reading import Item, Read, chunks, collate, read_items
from imle.search import CodeSearch, SearchResult, check_found, per_level, resolve_dtype
from imle.types import (
    Augments,
    Batch,
    Cascade,
    Corrupts,
    Indices,
    Items,
    KeyedCodes,
    Loss,
    Model,
    OnChunk,
    PlainCodes,
    PreparedLoss,
    Searcher,
    State,
    Stateful,
    Targets,
    device_of,
    has_levels,
    is_composed_codes,
    is_keyed_codes,
    is_keyed_corruption,
    is_many,
    is_rounded,
    is_sized,
    is_stateful,
)
from runtime import distributed
from runtime.counter_rng import mix

_TAG_WORKERS = 0x776F726B  # "work"
_STATE_VERSION = 1
_CELLS_VERSION = 2  # of a state whose winners are put together from cells


class SearchReport(NamedTuple):
    """What the search of a loop found."""

    loop: int
    image_ids: Tensor  # [U] int64, different images of the subsample
    winners: Tensor  # [U, L] int64; with cells [U, L, 1 + most cells of a level]
    losses: Tensor  # [U, L] float32, of what was chosen
    seconds: float
    first: Tensor | None = None  # [U, L] float32, of each level's first candidate
    whole: Tensor | None = None  # [U, L] float32, of the best candidate as it is, without cells

    def gains(self) -> dict[str, Tensor]:
        """`gain_0`, ..: what part of the mean loss of a first candidate the search of each level
        took away; with cells `cells_gain_0`, ..: what part of the winners' loss they took away.
        Nothing for a search that is not level by level (`Searcher`)."""
        if self.first is None or self.whole is None:
            return {}
        named = {"gain": 1 - self.losses.mean(0) / self.first.mean(0)}
        if self.winners.dim() == 3:
            named["cells_gain"] = 1 - self.losses.mean(0) / self.whole.mean(0)
        return {f"{name}_{i}": g for name, gain in named.items() for i, g in enumerate(gain)}


class _Loop(NamedTuple):
    """An outer loop whose codes are known."""

    number: int
    ids: list[int]  # [S] the subsample, in the order popped
    kkm: State | None  # state after popping it
    row: dict[int, int]  # image id -> row of the tensors below
    winners: Tensor  # [U, L] int64, CPU; [U, L, 1 + most cells] with cells
    cells: list[int]  # of each level, along a side, in the order of winners; [] without
    codes: list[Tensor] | None  # per level [U, d_l], when they cannot be drawn again
    inputs: Tensor | None  # [U, ...] corrupted inputs, when the corruption cannot be repeated


class CIMLEDataLoader:
    """Iterating yields `num_iteration` tuples (cx, codes, ys) on the device.

    cx [b, C, r_0, r_0]: corrupted inputs. codes: per level [b, d_l]. ys: per level
    [b, C, r_l, r_l]. Each `iter()` is the next outer loop; iterators are independent of one
    another. `forever()` goes from loop to loop without end.

    Batches are full. The stream of a loop is passes over the subsample, one after the other;
    `drop_last=False` lets a batch reach into the next pass, `drop_last=True` drops what is left of
    each pass (unless the subsample is smaller than a batch: then the stream wraps all the same).

    Under several ranks (runtime.distributed) every rank constructs the same loader; all pop the
    same subsample, the search is shared, and each rank gets its slice of each batch.

    dataset: item i is (x, [y_1, .., y_L]) of tensors, uint8 (divided by 255 on the device) or
        float (taken as is). Items are decoded by the DataLoader's workers: once for the search and
        once for every use in a batch, unless `cache_images`.
    kkm: KorKMinusOne over the dataset's indices.
    model, corruptor, z_gen and loss_fn are ours, or plain callables that keep this contract:
        model(x [R, C, h, w], codes, loi=level) -> the picture of that level alone, [R, C, H, W] as
            the target of the level: x and each of the level + 1 codes [R, d] have a row for every
            candidate. Only used to search, in eval mode and without gradient. (`start`/`advance`
            of imle.types.Cascade, as CAMNet has them, spare the levels below.)
        z_gen(R, level) -> R new codes of a level, [R, d]; winning ones are kept and saved. An
            object with `draw` (CodeGenerator) can draw them again, from their numbers alone.
        corruptor(x [b, C, h, w]) -> b inputs; None: x itself. Applied once per image and loop,
            results kept and saved; `keyed(x, loop, image_ids)` (Corruption) can be repeated.
        loss_fn(output [R, C, H, W], target [R, C, H, W]) -> one value a row, [R]. Only used to
            search; with `prepare(y)` the target is prepared once for all candidates (imle.types).
    What breaks it is a ValueError that says how. docs/from_the_originals.md has an example.
    num_samples, sample_parallelism: candidates, and how many at a time; one number or one a level.
    code_bs: images searched at a time on each rank.
    subsample_size: images of an outer loop, default all that kkm has. May exceed their number.
    num_iteration: batches of an outer loop; `len(loader)`.
    pin_memory: copy through pinned memory (GPU only).
    shuffle: None or True: a fresh order each pass; False: the order popped.
    batch_size: images of a batch, all ranks together.
    num_workers, drop_last: as torch's DataLoader, see above. Workers live as long as the loop.

    seed: key of pass order. device: default the model's. augment: `(images, loop, image_ids) ->
    images`, applied to [x, *ys] before the corruption (KeyedFlip). on_chunk(done, total): called
    after each chunk of the search, equally often on all ranks; raising abandons the search, and
    then the state is still that of the last batch yielded. precision, rescore, channels_last: see
    CodeSearch. cache_images: keep the decoded subsample in memory for the loop. prefetch_factor:
    batches each worker decodes ahead. worker_init_fn: handed to torch's DataLoader. searcher: see
    Searcher. cells, local_ns: spatial noise chosen cell by cell, see CodeSearch.

    last_ids: ids of the images of the last yielded (local) batch.
    """

    def __init__(
        self,
        dataset: Items[Any],
        kkm: Indices,
        model: Cascade | Model,
        corruptor: Corrupts | Callable[[Tensor], Tensor] | None,
        z_gen: KeyedCodes | PlainCodes,
        loss_fn: Loss | PreparedLoss,
        num_samples: int | Sequence[int],
        sample_parallelism: int | Sequence[int],
        code_bs: int,
        subsample_size: int | None = None,
        num_iteration: int = 1,
        pin_memory: bool = False,
        shuffle: bool | None = None,
        batch_size: int = 1,
        num_workers: int = 0,
        drop_last: bool = False,
        *,
        seed: int = 0,
        augment: Augments | None = None,
        device: torch.device | str | None = None,
        on_chunk: OnChunk | None = None,
        precision: str | torch.dtype = torch.float32,
        rescore: int = 4,
        channels_last: bool = True,
        cache_images: bool = False,
        prefetch_factor: int = 2,
        worker_init_fn: Callable[[int], None] | None = None,
        searcher: Searcher | None = None,
        cells: int | Sequence[int] = 0,
        local_ns: int | Sequence[int] | None = None,
    ) -> None:
        if subsample_size is None:
            subsample_size = len(kkm) if is_sized(kkm) else len(dataset)  # type: ignore[arg-type]
        for name, value, least in (
            ("code_bs", code_bs, 1),
            ("subsample_size", subsample_size, 1),
            ("num_iteration", num_iteration, 1),
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("prefetch_factor", prefetch_factor, 1),
            ("rescore", rescore, 1),
        ):
            if not isinstance(value, Integral) or value < least:
                raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
        if batch_size % distributed.world_size():
            raise ValueError(
                f"batch_size {batch_size} cannot be divided among {distributed.world_size()} "
                "ranks; use a multiple of it"
            )
        levels = len(model.code_sizes) if has_levels(model) else None
        for name, number in (
            ("num_samples", num_samples),
            ("sample_parallelism", sample_parallelism),
        ):
            single = isinstance(number, (int, Integral))
            per_level(number, levels or (1 if single else len(number)), name)  # type: ignore[arg-type]
        resolve_dtype(precision)
        check_pieces(kkm, model, corruptor, z_gen, loss_fn, searcher=searcher)
        if wanted(cells):
            check_cells(model, z_gen, loss_fn, searcher=searcher)
            assert levels is not None, "check_cells sees to it"
            per_level(cells, levels, "cells", least=0)
            per_level(num_samples if local_ns is None else local_ns, levels, "local_ns")

        self.dataset, self.kkm, self.model, self.corruptor = dataset, kkm, model, corruptor
        self.z_gen, self.loss_fn = z_gen, loss_fn
        self.num_samples, self.sample_parallelism = num_samples, sample_parallelism
        self.code_bs, self.subsample_size = int(code_bs), int(subsample_size)
        self.num_iteration, self.batch_size = int(num_iteration), int(batch_size)
        self.pin_memory, self.num_workers = pin_memory, int(num_workers)
        self.shuffle = shuffle is None or bool(shuffle)
        self.drop_last = bool(drop_last)
        self.seed, self.augment, self.on_chunk = int(seed), augment, on_chunk
        self.device = torch.device(device) if device is not None else device_of(model)
        self.precision, self.rescore, self.channels_last = precision, rescore, channels_last
        self.cache_images, self.prefetch_factor = bool(cache_images), prefetch_factor
        self.worker_init_fn, self.searcher = worker_init_fn, searcher
        self.cells, self.local_ns = cells, local_ns

        self.last_ids: list[int] = []
        self._report: SearchReport | None = None
        self._begun = -1  # number of the loop begun last
        self._current: tuple[_Loop, int] | None = None  # loop and batches yielded of it
        self._resume: tuple[_Loop, int] | None = None
        self._fresh: State | None = None  # kkm's state before the very first search
        self._grids: tuple[list[int], list[CellGrid | None]] | None = None
        self._order = StreamOrder(
            self.subsample_size,
            self.batch_size,
            shuffle=self.shuffle,
            drop_last=self.drop_last,
            seed=self.seed,
        )

    @property
    def last_search(self) -> SearchReport:
        """What the newest search found. Errors: RuntimeError before the first one."""
        if self._report is None:
            raise RuntimeError("nothing has been searched yet: take a batch first")
        return self._report

    def __len__(self) -> int:
        """Batches of one iteration: `num_iteration`."""
        return self.num_iteration

    def __iter__(self) -> Iterator[Batch]:
        # a generator: nothing happens before the first batch is asked for
        resume, self._resume = self._resume, None
        if resume is not None and resume[1] < self.num_iteration:
            loop, first = resume
            reader = self._read(loop.ids, loop.number, first)
            yield from self._train(loop, first, reader, {})
            return
        number, before = self._begun + 1, self._kkm_state()
        if self._current is None:
            self._fresh = before
        self._begun = number
        try:
            ids = self._pop()
            reader = self._read(ids, number, None)
            store: dict[int, Item] = {}
            batches = self._train(self._search(number, ids, reader, store), 0, reader, store)
            batch = next(batches)
        except BaseException:
            if self._begun == number and before is not None:
                # abandoned: the next iteration does exactly the same again
                self._begun, self._fresh = number - 1, None
                cast(Stateful, self.kkm).load_state_dict(before)
            raise
        yield batch
        yield from batches

    def forever(self) -> Iterator[Batch]:
        """Batches without end, outer loop after outer loop."""
        while True:
            yield from self

    # ---------------------------------------------------------------------------------- order

    def positions(self, loop: int, batch: int) -> list[int]:
        """Positions in the subsample that batch `batch` of `loop` consists of, over all ranks."""
        return self._order.positions(loop, batch)

    def _batch_ids(self, ids: list[int], loop: int, batch: int) -> list[int]:
        """Image ids of this rank's slice of a batch."""
        share = self.batch_size // distributed.world_size()
        first = distributed.rank() * share
        return [ids[p] for p in self.positions(loop, batch)[first : first + share]]

    def _pop(self) -> list[int]:
        if is_many(self.kkm):
            return [int(i) for i in self.kkm.pop_many(self.subsample_size)]
        return [int(self.kkm.pop()) for _ in range(self.subsample_size)]

    def _kkm_state(self) -> State | None:
        return self.kkm.state_dict() if is_stateful(self.kkm) else None

    # --------------------------------------------------------------------------------- images

    def _share(self, ids: list[int]) -> list[int]:
        """Images this rank searches: each image once, equally many on every rank.

        The last ranks repeat images when the number cannot be divided.
        """
        unique = list(dict.fromkeys(ids))
        if self.searcher is not None:
            return unique
        world, rank = distributed.world_size(), distributed.rank()
        size = -(-len(unique) // world)
        return [unique[i % len(unique)] for i in range(rank * size, (rank + 1) * size)]

    def _plan(self, ids: list[int], loop: int, first: int | None) -> Iterator[list[int]]:
        """Ids of everything this rank reads in a loop, read by read.

        first: number of the first training batch when the codes are known; None begins with the
        chunks of the search. With `cache_images` what the batches need comes once, without order.
        """
        share = self._share(ids) if first is None else []
        yield from chunks(share, self.code_bs)
        rest: Iterator[list[int]] = (
            self._batch_ids(ids, loop, b) for b in range(first or 0, self.num_iteration)
        )
        if self.cache_images:
            known = set(share)
            needed = dict.fromkeys(i for batch in rest for i in batch if i not in known)
            rest = chunks(list(needed), self.code_bs)
        yield from rest

    def _read(self, ids: list[int], loop: int, first: int | None) -> Iterator[Read]:
        """All reads of a loop."""
        return read_items(
            self.dataset,
            lambda: self._plan(ids, loop, first),
            seed=int(mix(_TAG_WORKERS, self.seed, loop)) & (2**63 - 1),
            num_workers=self.num_workers,
            pin_memory=self.pin_memory and self.device.type == "cuda",
            prefetch_factor=self.prefetch_factor,
            worker_init_fn=self.worker_init_fn,
        )

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

    # --------------------------------------------------------------------------------- search

    def _search(
        self, number: int, ids: list[int], reader: Iterator[Read], store: dict[int, Item]
    ) -> _Loop:
        began = time.perf_counter()
        if is_rounded(self.loss_fn):  # ProjectedDistance: new matrices each loop
            self.loss_fn.set_round(number)
        share = self._share(ids)
        unique = list(dict.fromkeys(ids))
        kept_inputs: list[Tensor] = []

        def batches() -> Iterator[Targets]:
            for _ in range(-(-len(share) // self.code_bs)):
                read = next(reader)
                self._keep(read, store)
                image_ids, x, ys = self._prepare(*read, number)
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
        else:
            found = self._search_each(number, len(share), batches())
            # every rank has searched equally many; repeated ones of the last rank fall off the end
            winners, losses = (
                self._gather(found.winners, unique),
                self._gather(found.losses, unique),
            )
            first, whole = (self._gather(t, unique).cpu() for t in (found.first, found.whole))
            codes = [self._gather(c, unique) for c in found.codes] or None
        inputs = torch.cat(kept_inputs) if kept_inputs else None
        if inputs is not None:
            inputs = inputs[: len(unique)] if self.searcher else self._gather(inputs, unique)
        check_found((winners < 0).flatten(1).any(1), unique)
        winners = winners.cpu()
        seconds = time.perf_counter() - began
        self._report = SearchReport(
            number, torch.tensor(unique), winners, losses.cpu(), seconds, first, whole
        )
        cells = (
            [] if winners.dim() < 3 else per_level(self.cells, winners.shape[1], "cells", least=0)
        )
        return self._loop(number, ids, self._kkm_state(), winners, cells, codes, inputs)

    def _search_each(self, number: int, images: int, batches: Iterator[Targets]) -> SearchResult:
        """What is found for this rank's images; codes only where they cannot be drawn again."""
        engine = CodeSearch(
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
        results = []
        done = total = 0

        def report() -> None:
            nonlocal done
            done += 1
            if self.on_chunk is not None:
                self.on_chunk(done, total)

        keyed = is_keyed_codes(self.z_gen)
        with engine:
            for image_ids, cx, ys in batches:
                total = -(-images // self.code_bs) * engine.chunks(len(ys))
                draw = draw_of(self.z_gen, number, image_ids, self.device)
                found = engine(cx, ys, draw, on_chunk=report)
                results.append(found._replace(codes=[]) if keyed else found)
        return SearchResult.joined(results)

    @staticmethod
    def _gather(t: Tensor, unique: list[int]) -> Tensor:
        return distributed.gather(t)[: len(unique)]

    @staticmethod
    def _loop(
        number: int,
        ids: list[int],
        kkm: State | None,
        winners: Tensor,
        cells: list[int],
        codes: list[Tensor] | None,
        inputs: Tensor | None,
    ) -> _Loop:
        row = {image: r for r, image in enumerate(dict.fromkeys(ids))}
        return _Loop(number, ids, kkm, row, winners, cells, codes, inputs)

    def _keep(self, read: Read, store: dict[int, Item]) -> None:
        if self.cache_images:
            image_ids, x, ys = read
            # copies: a tensor from a worker holds an open file as long as it lives
            for k, image in enumerate(image_ids.tolist()):
                store[image] = (x[k].clone(), [y[k].clone() for y in ys])

    # ------------------------------------------------------------------------------- training

    def _train(
        self, loop: _Loop, first: int, reader: Iterator[Read], store: dict[int, Item]
    ) -> Iterator[Batch]:
        if self.cache_images:
            for read in reader:
                self._keep(read, store)
        winners = loop.winners.to(self.device)
        for b in range(first, self.num_iteration):
            if self.cache_images:
                read = collate([(i, store[i]) for i in self._batch_ids(loop.ids, loop.number, b)])
            else:
                read = next(reader)
            ids = read[0].tolist()
            rows = torch.tensor([loop.row[i] for i in ids]).to(self.device, non_blocking=True)
            image_ids, x, ys = self._prepare(*read, loop.number)
            if loop.inputs is not None:
                cx = loop.inputs[rows]
            else:
                cx = self._corrupt(x, loop.number, image_ids)
            codes = self._codes(loop, image_ids, rows, winners[rows])
            self._current, self._fresh, self.last_ids = (loop, b + 1), None, ids
            yield cx, codes, ys

    def _codes(self, loop: _Loop, image_ids: Tensor, rows: Tensor, won: Tensor) -> list[Tensor]:
        if self.searcher is not None:
            return self.searcher.codes(self.z_gen, loop.number, image_ids, won)
        if loop.codes is not None:
            return [c[rows] for c in loop.codes]
        if loop.cells:
            if self._grids is None or self._grids[0] != loop.cells:
                self._grids = (loop.cells, cell_grids(self.model, loop.cells, self.device))
            assert is_composed_codes(self.z_gen)
            return composed(self.z_gen, loop.number, image_ids, won, self._grids[1])
        assert is_keyed_codes(self.z_gen)
        return [
            self.z_gen.draw(level, loop.number, image_ids, won[:, level : level + 1], self.device)
            for level in range(won.shape[1])
        ]

    # ---------------------------------------------------------------------------------- state

    def _settings(self) -> State:
        """What the order of the stream depends on."""
        return {
            "seed": self.seed,
            "subsample_size": self.subsample_size,
            "num_iteration": self.num_iteration,
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
        }

    def state_dict(self) -> State:
        """The state after the last batch yielded, whatever has been begun since.

        Tensors and plain values: kkm's and z_gen's state, number of the loop, batches yielded of
        it, the subsample's ids, the winners' numbers of its U different images, [U, L], or with
        cells [U, L, 1 + most cells] beside the cells of each level along a side; with a plain z_gen
        or corruptor also their codes or corrupted inputs. The same on all ranks.
        """
        state: State = {"version": _STATE_VERSION, "settings": self._settings()}
        state["z"] = self.z_gen.state_dict() if is_stateful(self.z_gen) else None
        if self._current is None:
            kkm = self._fresh if self._fresh is not None else self._kkm_state()
            return {**state, "kkm": kkm, "loop": -1, "batch": 0}
        loop, batch = self._current
        return {
            **state,
            "kkm": loop.kkm,
            "loop": loop.number,
            "batch": batch,
            "ids": torch.tensor(loop.ids),
            "winners": loop.winners,
            **({"version": _CELLS_VERSION, "cells": loop.cells} if loop.cells else {}),
            "codes": None if loop.codes is None else [c.cpu() for c in loop.codes],
            "inputs": None if loop.inputs is None else loop.inputs.cpu(),
        }

    def load_state_dict(self, state: State) -> None:
        """The next iteration goes on after the saved batch. ValueError if the stream would differ.

        World size, workers, code_bs, sample_parallelism and caching may differ from the saving run.
        """
        if state["version"] not in (_STATE_VERSION, _CELLS_VERSION):
            raise ValueError(
                f"the loader state has version {state['version']}, this code reads {_STATE_VERSION}"
                f" and {_CELLS_VERSION}"
            )
        here = self._settings()
        differing = [
            f"{k} {state['settings'].get(k)} -> {v}"
            for k, v in here.items()
            if state["settings"].get(k) != v
        ]
        if differing:
            raise ValueError(
                f"the loader state was saved with other values: {', '.join(differing)}"
            )
        codes, inputs = state.get("codes"), state.get("inputs")
        drawn_again = self.searcher is not None or is_keyed_codes(self.z_gen)
        if state["loop"] >= 0 and (
            (inputs is not None) != self._keeps_inputs or (codes is None and not drawn_again)
        ):
            raise ValueError(
                "the loader state was saved with another kind of corruptor or z_gen: keyed ones "
                "keep numbers in it, plain ones what they gave"
            )
        if state["kkm"] is not None:
            cast(Stateful, self.kkm).load_state_dict(state["kkm"])
        if state["z"] is not None:
            cast(Stateful, self.z_gen).load_state_dict(state["z"])
        self._begun, self._fresh, self.last_ids = int(state["loop"]), None, []
        if self._begun < 0:
            self._current = self._resume = None
            return
        loop = self._loop(
            self._begun,
            state["ids"].tolist(),
            state["kkm"],
            state["winners"],
            state.get("cells", []),
            None if codes is None else [c.to(self.device) for c in codes],
            None if inputs is None else inputs.to(self.device),
        )
        self._current = self._resume = (loop, int(state["batch"]))
