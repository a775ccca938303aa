"""A progress bar for people and a line every half minute for logs.

On a terminal this is a tqdm bar; in a SLURM log, a pipe or a notebook's file it is one plain line
about every 30 s, because a bar would fill the log with thousands of half-lines. Only rank 0 shows
either. Everything that may take longer than two seconds shows its progress by this, or by `track`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from storage.console import tell

if TYPE_CHECKING:
    from runtime.eta import TimeLeft

EVERY_S = 30.0
SOON_S = 1.0  # before this nobody needs a bar
TICK_S = 0.1  # between two looks at the clock, where thousands of things a second are done

T = TypeVar("T")


class Progress:
    """Counts steps from `initial` to `total`: `update(n)`, `postfix(figures)`, `close()`.

    `total` None = unknown. `cycle`: steps after which kinds of steps repeat, for the time left (see
    `runtime.eta`). `main` None: on rank 0; `stream` None is stderr.
    `every_s`: seconds between lines where there is no terminal. `brief`: what it counts may be over
    in a moment, or be thousands a second: no bar in the first second, and without a terminal no
    line but those of every `every_s`; its steps count alike. unit "B": bytes, shown as 12.3 MB;
    they are brief.
    """

    def __init__(
        self,
        total: int | None = None,
        *,
        desc: str = "",
        unit: str = "step",
        initial: int = 0,
        main: bool | None = None,
        stream: TextIO | None = None,
        every_s: float = EVERY_S,
        cycle: int = 1,
        brief: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.desc, self.unit, self.n = total, desc, unit, initial
        self._stream = sys.stderr if stream is None else stream
        self._main = _is_main() if main is None else main
        self._bytes = unit == "B"
        self._brief, self._held, self._looked = brief or self._bytes, 0, clock()
        self._every, self._clock, self._initial = every_s, clock, initial
        self._start = self._said = clock()
        self._time_left: TimeLeft | None = None
        if not self._brief:
            from runtime.eta import TimeLeft  # needs NumPy, which a look at runs does without

            self._time_left = TimeLeft(cycle, clock)
        self._estimated = -EVERY_S
        self._values: dict[str, str] = {}
        self._values_of: int | None = None
        self._note, self._noted = "", self._start
        self._bar = None
        self._last_n = -1
        if self._main and _is_terminal(self._stream):
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                desc=desc or None,
                unit=unit,
                initial=initial,
                file=self._stream,
                unit_scale=self._bytes,
                delay=SOON_S if self._brief else 0,
                dynamic_ncols=True,
                bar_format=_bar_format(None),
            )

    def update(self, n: int = 1) -> None:
        """`n` more are done."""
        self.n += n
        if not self._main:
            return
        if self._brief:
            self._held += n
            if self._clock() - self._looked < min(TICK_S, self._every):
                return
            n, self._held, self._looked = self._held, 0, self._clock()
        self._show(n)

    def _show(self, n: int) -> None:
        if self._time_left is not None:
            self._time_left.done(self.n, n)
        if self._bar is not None:
            self._estimate()
            self._bar.update(n)
        elif self._clock() - self._said >= self._every:
            self._say()

    def set_total(self, total: int) -> None:
        """Correct the number of steps there will be."""
        if total != self.total:
            self.total = total
            if self._bar is not None:
                self._bar.total = total

    def postfix(self, values: Mapping[str, float | int | str], at: int | None = None) -> None:
        """The figures shown beside the bar, replacing those shown before.

        at: their step, which a line of another step says; give those of a step before its `update`,
        which may print it.
        """
        self._values_of = at
        self._values = {
            k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in values.items()
        }
        if self._bar is not None:
            self._bar.set_postfix(self._values, refresh=False)

    def note(self, text: str) -> None:
        """Where a long phase inside a step stands, e.g. "codes 3/40"; "" ends it."""
        self._note = text
        now = self._clock()
        if self._bar is not None:
            if not text or now - self._noted >= 0.2:  # a phase may report a thousand times a second
                self._noted = now
                self._estimate()
                self._bar.set_postfix({**self._values, **({"in": text} if text else {})})
        elif text and self._main and now - self._said >= self._every:
            self._say()

    def write(self, line: str) -> None:
        """Print a line without tearing the bar; other ranks stay silent."""
        if self._bar is not None:
            self._bar.write(line, file=self._stream)
        elif self._main:
            tell(line, self._stream)

    def close(self) -> None:
        """Finish the bar; without a terminal, say the last count if it was not said yet."""
        if self._main and self._held:
            held, self._held = self._held, 0
            self._show(held)
        unsaid = self.n not in (self._last_n, self._initial)
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif self._main and unsaid and not (self._brief and self._last_n < 0):
            self._say()
        self._main = False

    def _left(self) -> float | None:
        """Seconds to the end, None as long as nobody knows."""
        if self.total is None:
            return None
        if self._time_left is not None:
            return self._time_left.seconds(self.n, self.total)
        done, passed = self.n - self._initial, self._clock() - self._start
        return passed / done * max(0, self.total - self.n) if done else None

    def _estimate(self) -> None:
        """Put the time left on the bar; tqdm would take the last few steps for all to come."""
        now = self._clock()
        if self._bar is not None and now - self._estimated >= 0.5:
            self._estimated = now
            self._bar.bar_format = _bar_format(self._left())

    def _say(self) -> None:
        now = self._clock()
        done = self.n - self._initial
        rate = done / (now - self._start) if now > self._start else 0.0
        parts = [f"{self.desc}: " if self.desc else ""]
        if self._bytes:
            parts.append(in_bytes(self.n))
            parts += [] if self.total is None else [f" of {in_bytes(self.total)}"]
            parts += [f", {in_bytes(int(rate))}/s"] if rate > 0 else []
        else:
            parts.append(f"{self.unit} {self.n}")
            parts += [] if self.total is None else [f"/{self.total}"]
            parts += [f", {rate:.3g} {self.unit}/s"] if rate > 0 else []
        if rate > 0 and (left := self._left()) is not None:
            parts.append(f", {_duration(left)} left")
        parts += [f", {k} {v}" for k, v in self._values.items()]
        if self._values and self._values_of not in (None, self.n):
            parts.append(f" (at {self.unit} {self._values_of})")
        parts += [f", in {self._note}"] if self._note else []
        tell("".join(parts), self._stream)
        self._said, self._last_n = now, self.n

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def track(items: Iterable[T], total: int, desc: str, unit: str = "picture") -> Iterator[T]:
    """The items, `total` in number, with their progress shown while they are taken."""
    with Progress(total, desc=desc, unit=unit, brief=True) as bar:
        for item in items:
            yield item
            bar.update()


class Counted:
    """A bar for work that reports (done, total): `with Counted(name) as report`."""

    def __init__(self, desc: str, unit: str = "part") -> None:
        self._bar: Progress | None = None
        self._desc, self._unit = desc, unit

    def __enter__(self) -> Counted:
        return self

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = Progress(total, desc=self._desc, unit=self._unit, brief=True)
        self._bar.update(done - self._bar.n)

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()


class Watched:
    """Lets somebody see how far work is that calls a function often: `watched(f)` is f, and every
    call of one is reported. total: of calls. report: is given (calls done, total)."""

    def __init__(self, total: int, report: Callable[[int, int], object]) -> None:
        self.done, self.total, self._report = 0, total, report

    def __call__(self, function: Callable[..., T]) -> Callable[..., T]:
        def watched(*args: Any, **kwargs: Any) -> T:
            out = function(*args, **kwargs)
            self.done += 1
            self._report(self.done, self.total)
            return out

        return watched


def in_bytes(count: int) -> str:
    """A number of bytes as people say it: 560.1 MB."""
    size = float(count)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _is_main() -> bool:
    ranks = sys.modules.get("runtime.distributed")  # not imported: there is no other process
    return ranks is None or ranks.is_main()


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # not a real file, or already closed
        return False


def _bar_format(left: float | None) -> str:
    shown = "?" if left is None else _duration(left)
    return "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<" + shown + ", {rate_fmt}{postfix}]"


def _duration(seconds: float) -> str:
    s = max(0, int(seconds))
    return f"{s // 3600}:{s % 3600 // 60:02d}:{s % 60:02d}"
