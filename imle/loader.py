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
from collections.abc import Callable, Container, Iterator, Sequence
from itertools import chain
from numbers import Integral
from typing import Any, cast

import torch
from torch import Tensor

from imle.adaptive import Adaptive, Memory, Searched, check_adaptive, memory_of
from imle.contract import check_pieces
from imle.loop_search import LoopSearch
from imle.loops import Found, Loop, SearchReport, no_losses, rows_of
from imle.order import StreamOrder
from imle.reading import Item, Read, chunks, collate, kept, read_items
from imle.rejection import Rejection
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
    is_keyed_codes,
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


def _check_counts(num_workers: int, rescore: int, **positive: int) -> None:
    """Errors: ValueError for a number that is none, and for a batch that ranks cannot share."""
    for name, value, least in (
        *((name, value, 1) for name, value in positive.items()),
        ("num_workers", num_workers, 0),
        ("rescore", rescore, 0),
    ):
        if not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
    ranks = distributed.world_size()
    if positive["batch_size"] % ranks:
        raise ValueError(
            f"batch_size {positive['batch_size']} cannot be divided among {ranks} ranks; use a "
            "multiple of it"
        )


class CIMLEDataLoader(LoopSearch):
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
    Searcher. cells, local_ns: spatial noise chosen cell by cell, see CodeSearch. adaptive: which
    images keep the codes they have; rejection: which candidates are too near (imle.adaptive,
    imle.rejection; a searcher looks after rejection itself).

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
        adaptive: Adaptive | None = None,
        rejection: Rejection | None = None,
    ) -> None:
        if subsample_size is None:
            subsample_size = len(kkm) if is_sized(kkm) else len(dataset)  # type: ignore[arg-type]
        _check_counts(
            num_workers, rescore, code_bs=code_bs, subsample_size=subsample_size,
            num_iteration=num_iteration, batch_size=batch_size, prefetch_factor=prefetch_factor,
        )  # fmt: skip
        check_pieces(kkm, model, corruptor, z_gen, loss_fn, searcher=searcher)
        if adaptive is not None:
            check_adaptive(z_gen, corruptor, searcher)

        super().__init__(
            model, corruptor, z_gen, loss_fn, num_samples, sample_parallelism, code_bs,
            augment=augment, device=device, on_chunk=on_chunk, precision=precision,
            rescore=rescore, channels_last=channels_last, searcher=searcher, cells=cells,
            local_ns=local_ns, rejection=rejection,
        )  # fmt: skip
        self.dataset, self.kkm, self.adaptive = dataset, kkm, adaptive
        self.subsample_size = int(subsample_size)
        self.num_iteration, self.batch_size = int(num_iteration), int(batch_size)
        self.pin_memory, self.num_workers = pin_memory, int(num_workers)
        self.shuffle, self.drop_last = shuffle is None or bool(shuffle), bool(drop_last)
        self.seed, self.cache_images = int(seed), bool(cache_images)
        self.prefetch_factor, self.worker_init_fn = prefetch_factor, worker_init_fn
        self._begin()

    def _begin(self) -> None:
        """Nothing is searched yet."""
        self.last_ids: list[int] = []
        self._report: SearchReport | None = None
        self._begun = -1  # number of the loop begun last
        self._current: tuple[Loop, int] | None = None  # loop and batches yielded of it
        self._resume: tuple[Loop, int] | None = None
        self._fresh: State | None = None  # kkm's state before the very first search
        self._memory = Memory.blank()  # of the images, behind the newest search
        self._order = self._order_of(self.subsample_size)

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
            store: dict[int, Item] = {}
            reader = self._read(loop.number, [], loop.trained, store, first)
            yield from self._train(loop, first, reader, store)
            return
        number, before, memory = self._begun + 1, self._kkm_state(), self._memory
        if self._current is None:
            self._fresh = before
        self._begun = number
        try:
            ids = self._pop()
            store = {}
            loop, reader = self._choose(number, ids, store)
            batches = self._train(loop, 0, reader, store)
            batch = next(batches)
        except BaseException:
            if self._begun == number and before is not None:
                # abandoned: the next iteration does exactly the same again
                self._begun, self._fresh, self._memory = number - 1, None, memory
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

    def _order_of(self, images: int) -> StreamOrder:
        return StreamOrder(
            images,
            self.batch_size,
            shuffle=self.shuffle,
            drop_last=self.drop_last,
            seed=self.seed,
        )

    def _batch_ids(self, ids: list[int], loop: int, first: int) -> Iterator[list[int]]:
        """Image ids of this rank's slice of each batch from number `first` on."""
        share = self.batch_size // distributed.world_size()
        here = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
        order = self._order if len(ids) == self.subsample_size else self._order_of(len(ids))
        for b in range(first, self.num_iteration):
            yield [ids[p] for p in order.positions(loop, b)[here]]

    def _pop(self) -> list[int]:
        if is_many(self.kkm):
            return [int(i) for i in self.kkm.pop_many(self.subsample_size)]
        return [int(self.kkm.pop()) for _ in range(self.subsample_size)]

    def _kkm_state(self) -> State | None:
        return self.kkm.state_dict() if is_stateful(self.kkm) else None

    # --------------------------------------------------------------------------------- images

    def _plan(
        self, loop: int, share: list[int], ids: list[int], first: int, known: Container[int]
    ) -> Iterator[list[int]]:
        """Ids of what is read, read by read: images `share`, then the batches from `first` on.

        With `cache_images` what the batches need comes once, without order, but for what is known.
        """
        rest: Iterator[list[int]] = self._batch_ids(ids, loop, first) if ids else iter(())
        if self.cache_images:
            needed = dict.fromkeys(i for batch in rest for i in batch if i not in known)
            rest = chunks(list(needed), self.code_bs)
        return chain(chunks(share, self.code_bs), rest)

    def _read(
        self, loop: int, share: list[int], ids: list[int], store: dict[int, Item], first: int = 0
    ) -> Iterator[Read]:
        """Everything that `_plan` says; with `cache_images` it is kept in `store`."""
        reader = read_items(
            self.dataset,
            lambda: self._plan(loop, share, ids, first, {*store, *share}),
            seed=int(mix(_TAG_WORKERS, self.seed, loop)) & (2**63 - 1),
            num_workers=self.num_workers,
            pin_memory=self.pin_memory and self.device.type == "cuda",
            prefetch_factor=self.prefetch_factor,
            worker_init_fn=self.worker_init_fn,
        )
        return kept(reader, store) if self.cache_images else reader

    # --------------------------------------------------------------------------------- search

    def _choose(
        self, number: int, ids: list[int], store: dict[int, Item]
    ) -> tuple[Loop, Iterator[Read]]:
        """Searches codes for the images of a loop; what its batches are made from, and a reader of
        what they need."""
        began = time.perf_counter()
        if is_rounded(self.loss_fn):  # ProjectedDistance: new matrices each loop
            self.loss_fn.set_round(number)
        images = list(dict.fromkeys(ids))
        row, kkm = rows_of(ids), self._kkm_state()
        if self.adaptive is None:
            share = images if self.searcher is not None else self._share(images)
            reader = self._read(number, share, ids, store)
            found = self._search(number, images, reader)
            empty = found.empty.any(1) if self._skips else None
            cells = self._cells_of(found.winners)
            loop = Loop(
                number, ids, kkm, row, found.winners, cells, found.codes, found.inputs, empty
            )
            self._report = self._reported(number, images, images, found, 0, began)
            if len(loop.trained) < len(ids):  # what is read ahead is of all
                reader = self._read(number, [], loop.trained, store)
            return loop, reader
        last: list[Found] = []

        def search(due: list[int]) -> Searched:
            share = due if self.searcher is not None else self._share(due)
            last.append(self._search(number, due, self._read(number, share, [], store)))
            return Searched(last[0].winners, last[0].losses, last[0].empty.any(1))

        def check(looked: list[int], of: Memory) -> Tensor:
            return self._measured(looked, of, self._read(number, self._share(looked), [], store))

        turn = self.adaptive.turn(self._memory, images, number, check, search, skips=self._skips)
        self._memory = turn.memory
        loop = self._remembered(number, ids, kkm, turn.memory)
        self._report = self._reported(
            number, images, turn.searched, last[0] if last else None, turn.checked, began
        )
        return loop, self._read(number, [], loop.trained, store)

    @property
    def _skips(self) -> bool:
        """Whether images all of whose candidates are rejected are left out."""
        return self.rejection is not None and self.rejection.empty == "skip"

    def _remembered(self, number: int, ids: list[int], kkm: State | None, memory: Memory) -> Loop:
        """A loop whose images have the codes that a memory has of them."""
        row = rows_of(ids)
        at = memory.rows(list(row))
        winners, empty = memory.winners[at], memory.empty[at] if self._skips else None
        cells = self._cells_of(winners)
        return Loop(
            number, ids, kkm, row, winners, cells, None, None, empty, memory.loop[at], memory
        )

    def _reported(
        self,
        number: int,
        images: list[int],
        searched: list[int],
        found: Found | None,
        checked: int,
        began: float,
    ) -> SearchReport:
        levels = self._memory.winners[:1].shape[1:2] if found is None else found.losses.shape[1:]
        depth = int(levels[0])
        evaluations = checked * depth
        if found is not None:
            evaluations += self._evaluations(len(searched), depth)
        rejection = None
        if self.rejection is not None and found is not None:
            rejection = (found.rejected, int(found.empty.any(1).sum()))
        none = no_losses(depth)
        return SearchReport(
            number,
            torch.tensor(searched, dtype=torch.int64),
            none.long() if found is None else found.winners,
            none if found is None else found.losses,
            time.perf_counter() - began,
            None if found is None else found.first,
            None if found is None else found.whole,
            None if self.adaptive is None else (len(searched) / len(images), evaluations),
            rejection,
        )

    # ------------------------------------------------------------------------------- training

    def _train(
        self, loop: Loop, first: int, reader: Iterator[Read], store: dict[int, Item]
    ) -> Iterator[Batch]:
        if self.cache_images:
            for _ in reader:
                pass
        winners = loop.winners.to(self.device)
        batches = self._batch_ids(loop.trained, loop.number, first)
        for b in range(first, self.num_iteration):
            if self.cache_images:
                read = collate([(i, store[i]) for i in next(batches)])
            else:
                read = next(reader)
            ids = read[0].tolist()
            row = torch.tensor([loop.row[i] for i in ids])
            if loop.drawn is not None:
                cx, codes, ys = self._made(read, loop.drawn[row], loop.winners[row])
            else:
                rows = row.to(self.device, non_blocking=True)
                image_ids, x, ys = self._prepare(*read, loop.number)
                if loop.inputs is not None:
                    cx = loop.inputs[rows]
                else:
                    cx = self._corrupt(x, loop.number, image_ids)
                if loop.codes is not None:
                    codes = [c[rows] for c in loop.codes]
                else:
                    codes = self._codes(loop.number, image_ids, winners[rows], loop.cells)
            self._current, self._fresh, self.last_ids = (loop, b + 1), None, ids
            yield cx, codes, ys

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
            "adaptive": self.adaptive and f"{self.adaptive.described()} cells {self.cells}",
            "rejection": self.rejection and self.rejection.described(),
        }

    def state_dict(self) -> State:
        """The state after the last batch yielded, whatever has been begun since.

        Tensors and plain values: kkm's and z_gen's state, number of the loop, batches yielded of
        it, the subsample's ids, the winners' numbers of its U different images, [U, L], or with
        cells [U, L, 1 + most cells] beside the cells of each level along a side; with a plain z_gen
        or corruptor also their codes or corrupted inputs. With adaptive the memory of all images
        that came up, in place of winners; with rejection its radius, and the images left out. The
        same on all ranks.
        """
        state: State = {"version": _STATE_VERSION, "settings": self._settings()}
        state["z"] = self.z_gen.state_dict() if is_stateful(self.z_gen) else None
        if self.rejection is not None:
            state["rejection"] = self.rejection.state_dict()
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
            **({} if loop.empty is None else {"empty": loop.empty}),
            **({} if loop.memory is None else {"memory": loop.memory.state_dict()}),
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
        if self.rejection is not None:
            self.rejection.load_state_dict(state["rejection"])
        self._begun, self._fresh, self.last_ids = int(state["loop"]), None, []
        self._memory = memory_of(state.get("memory"))
        if self._begun < 0:
            self._current = self._resume = None
            return
        ids = state["ids"].tolist()
        if self.adaptive is not None:
            loop = self._remembered(self._begun, ids, state["kkm"], self._memory)
        else:
            loop = Loop(
                self._begun,
                ids,
                state["kkm"],
                rows_of(ids),
                state["winners"],
                state.get("cells", []),
                None if codes is None else [c.to(self.device) for c in codes],
                None if inputs is None else inputs.to(self.device),
                state.get("empty"),
            )
        self._current = self._resume = (loop, int(state["batch"]))
