"""The batches of ISICLE: whose turn it is, which pictures, which of their views are synthetic, and
how the next ones are drawn while the encoder works."""

import time
from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from data.pyramids import free_memory
from data.views.generated import (
    Acceptance,
    CachedViews,
    FilteredViews,
    ViewSource,
    cached_draws,
    fraction,
    gather_views,
    number_of_views,
    online_draws,
    synthetic_mask,
)
from runtime.counter_rng import permutation
from runtime.distributed import gather
from runtime.meters import Stopwatch
from runtime.run import Run
from storage.errors import UsageError

CHUNK = 512  # pictures between two looks for a signal, when a cache is drawn


class Turns(NamedTuple):
    """What each turn of the loop is: a step of the encoder, or one of the generator.

    Before every `every` epochs come `phase` steps of the generator (every 0: never).
    """

    per_epoch: int
    epochs: int
    every: int
    phase: int

    @property
    def phases(self) -> int:
        """How often the generator is trained."""
        return -(-self.epochs // self.every) if self.every else 0

    @property
    def imle_steps(self) -> int:
        """Steps of the generator in the whole run."""
        return self.phases * self.phase

    @property
    def total(self) -> int:
        """Turns of the whole run."""
        return self.epochs * self.per_epoch + self.imle_steps

    @property
    def cycle(self) -> int:
        """Turns from one phase of the generator to the next; 0 where there are none."""
        return self.phase + self.every * self.per_epoch if self.every else 0

    def told(self) -> str:
        """When the generator is trained, and the steps of both, in a line; "" for never."""
        if not self.every:
            return ""
        again = "before every epoch" if self.every == 1 else f"before every {self.every} epochs"
        often = f"{self.phases} times, {again}" if self.phases > 1 else "once, before the epochs"
        each = f"{self.phase} steps{' each time' if self.phases > 1 else ''}"
        return (
            f"the generator is trained {often}: {each}. Both are counted: {self.total} steps, "
            f"{self.epochs * self.per_epoch} of the encoder and {self.imle_steps} of the generator"
        )

    def encoder_steps(self, turn: int) -> int:
        """Steps of the encoder before a turn."""
        if not self.every:
            return turn
        cycle, position = divmod(turn, self.phase + self.every * self.per_epoch)
        return cycle * self.every * self.per_epoch + max(0, position - self.phase)

    def at(self, turn: int) -> tuple[int | None, int]:
        """(step of the encoder, -1), or (None, step of the generator)."""
        if not self.every:
            return turn, -1
        between = self.every * self.per_epoch
        cycle, position = divmod(turn, self.cycle)
        if position < self.phase:
            return None, cycle * self.phase + position
        return cycle * between + position - self.phase, -1

    def work(self, turn: int) -> str | None:
        """What tells turns apart that compute more or less (`runtime.flops`): the first of a phase
        of the generator has a search in it."""
        step, number = self.at(turn)
        if step is not None:
            return "encoder"
        return "generator" if number % self.phase else None


class Batch(NamedTuple):
    """The pictures of a step before augmentation.

    ids: rows of train, int64 [B] on the run's device. pictures: uint8 [V, B, 3, s, s] there.
    synthetic: bool [V, B] on the CPU. counts: of the filter, if there is one. seconds: they took.
    """

    ids: Tensor
    pictures: Tensor
    synthetic: Tensor
    counts: Acceptance | None
    seconds: float


class Supply:
    """Batches by step number: a function of (options, step) and of the generator's weights."""

    def __init__(
        self,
        args: Namespace,
        run: Run,
        real: Tensor,
        source: ViewSource | None,
        steps_per_epoch: int,
    ) -> None:
        self.args, self.run, self.real, self.source = args, run, real, source
        self.steps_per_epoch = steps_per_epoch
        self.views = number_of_views(args.pair, args.num_synth)
        self.share = fraction(args.f or 0.5)
        self._watch = Stopwatch(run.device)
        self._order: tuple[int, Tensor] | None = None
        self._drawn: tuple[int, CachedViews] | None = None

    def at(self, step: int) -> Batch:
        """The batch of an encoder's step."""
        args, run = self.args, self.run
        epoch, batch_number = divmod(step, self.steps_per_epoch)
        source = self._refreshed(step) if args.refresh else self.source
        self._watch.start()
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, permutation(len(self.real), args.seed, epoch))
        part = slice(batch_number * args.bs, (batch_number + 1) * args.bs)
        ids = self._order[1][part][run.rank :: run.world_size]
        f = self.share.at(epoch, run.length.schedule)
        synthetic = synthetic_mask(
            args.pair, ids, seed=args.seed, epoch=epoch, f=f, k=args.num_synth
        )
        draws = online_draws(epoch, ids, self.views)
        if isinstance(source, CachedViews):
            draws = cached_draws(epoch, ids, self.views, source.k, seed=args.seed)
        pictures = gather_views(self.real, source, ids, draws, synthetic)
        return Batch(
            ids.to(run.device, non_blocking=True),
            pictures.to(run.device, non_blocking=True),
            synthetic,
            source.take_counts() if isinstance(source, FilteredViews) else None,
            self._watch.stop(),
        )

    def follows(self, step: int) -> bool:
        """Whether the next step is there, and draws its views from the same refresh as this one."""
        now, then = (s // self.steps_per_epoch for s in (step, step + 1))
        every = self.args.refresh
        return then < self.args.epochs and (not every or now // every == then // every)

    def _refreshed(self, step: int) -> CachedViews:
        """The views of this refresh, drawn if they are not at hand."""
        number, steps_since = divmod(step, self.args.refresh * self.steps_per_epoch)
        if self._drawn is None or self._drawn[0] != number:
            self._drawn = None  # not two at a time
            self._drawn = (number, CachedViews(self._draw(number, first=steps_since == 0)))
        return self._drawn[1]

    def _draw(self, number: int, first: bool) -> Tensor:
        """k views of every picture, uint8 [N, k, 3, s, s]; ranks share the work.

        Views j of refresh r are the draws r k + j: never the same twice. first: not drawn again by
        a resumed run, whose log has the figures already.
        """
        k, run, n, source = self.args.k, self.run, len(self.real), self.source
        assert source is not None, "views are refreshed from somewhere"
        share = -(-n // run.world_size)
        own = (torch.arange(share) + run.rank * share) % n  # the last ranks repeat a few
        side = self.real.shape[-1]
        need, free = share * run.world_size * k * 3 * side**2, free_memory()
        if run.device.type == "cuda":
            free = torch.cuda.mem_get_info(run.device)[0]
        if free is not None and 2 * need > free:
            raise UsageError(
                f"--refresh: {k} views of {n} pictures of {side} px take {need / 2**30:.1f} GiB, "
                f"{free / 2**30:.1f} are free; a smaller --k, or generate_views.py"
            )
        views = torch.empty(share, k, 3, side, side, dtype=torch.uint8, device=run.device)
        report = run.phase(f"views, refresh {number}")
        begun = time.monotonic()
        for start in range(0, share, CHUNK):
            ids = own[start : start + CHUNK].to(run.device)
            for j in range(k):
                views[start : start + CHUNK, j] = source(ids, number * k + j)
            report(min(start + CHUNK, share), share)
        if run.device.type == "cuda":
            torch.cuda.synchronize(run.device)
        seconds = time.monotonic() - begun
        counts = source.take_counts() if isinstance(source, FilteredViews) else None
        if first:
            run.log(**{"time/refresh_s": seconds, "time/ms_per_view": 1000 * seconds / (share * k)})
            if counts is not None:
                log_acceptance(run, counts)
        return gather(views)[:n]


class Ahead:
    """One batch ahead: `start` makes it on a stream of its own while the encoder works.

    Without a GPU `start` does nothing, and `take` makes the batch. Batches are the same either way.
    """

    def __init__(self, make: Callable[[int], Batch], device: torch.device) -> None:
        self._make, self._device = make, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ready: tuple[int, Batch] | None = None
        self._mark: torch.cuda.Event  # of the last `take`

    def take(self, step: int) -> Batch:
        """The batch of a step."""
        ready, self._ready = self._ready, None
        if self._stream is None:
            return self._make(step)
        here = torch.cuda.current_stream(self._device)
        if ready is not None:
            # whether it is the one wanted or not: nothing may still be using the generator
            here.wait_stream(self._stream)
        if ready is None or ready[0] != step:
            batch = self._make(step)
        else:
            batch = ready[1]
            for tensor in (batch.ids, batch.pictures, *(batch.counts or ())):
                tensor.record_stream(here)
        # What is queued up to here must be over before the next batch is begun; the encoder's
        # work, which is queued after it, need not.
        self._mark = here.record_event()
        return batch

    def start(self, step: int) -> None:
        """Begin the batch of a step."""
        if self._stream is None:
            return
        self._stream.wait_event(self._mark)
        with torch.cuda.stream(self._stream):
            self._ready = (step, self._make(step))


def log_views(run: Run, batch: Batch) -> None:
    """What the synthetic views of a batch cost, and how many the filter let pass."""
    count = int(batch.synthetic.sum())
    if count and not run.args.refresh:
        run.log(**{"time/ms_per_view": 1000 * batch.seconds / count})
    if batch.counts is not None:
        log_acceptance(run, batch.counts)


def log_acceptance(run: Run, counts: Acceptance) -> None:
    """Shares of the draws accepted, and of the views for which the real picture stands in."""
    run.log_sums(
        acceptance=(counts.accepted, counts.drawn), stood_in=(counts.stood_in, counts.asked)
    )
