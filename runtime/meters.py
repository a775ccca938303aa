"""Running means of logged scalars that leave the device only when a line is written."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from storage.errors import UsageError

Gather = Callable[[Any], list[Any]]


Number = torch.Tensor | float


class Meters:
    """Sums and counts by name; tensors are summed where they are, in float64."""

    def __init__(self) -> None:
        self._sums: dict[str, Number] = {}
        self._counts: dict[str, Number] = {}

    def add(self, values: Mapping[str, Number]) -> None:
        """Add one value a name; a tensor must have one element."""
        for name, value in values.items():
            self._add(name, value, 1)

    def add_sums(self, values: Mapping[str, tuple[Number, Number]]) -> None:
        """Add the sum of some values a name, and how many they are; none at all is fine."""
        for name, (total, count) in values.items():
            self._add(name, total, count)

    def _add(self, name: str, value: Number, count: Number) -> None:
        for book, amount in ((self._sums, value), (self._counts, count)):
            if isinstance(amount, torch.Tensor):
                if amount.numel() != 1:
                    raise UsageError(f"run.log({name}=...): one number, not {tuple(amount.shape)}")
                wide = torch.float32 if amount.device.type == "mps" else torch.float64
                amount = amount.detach().reshape(()).to(wide, copy=True)
            elif book is self._sums:
                amount = float(amount)
            book[name] = amount + book[name] if name in book else amount

    def state_dict(self, gather: Gather) -> dict[str, list[float]]:
        """{name: [sum, count]} over ranks; `gather` is distributed.gather_object."""
        sums, counts = _fetched([self._sums, self._counts])
        total: dict[str, list[float]] = {}
        for part in gather({name: [sums[name], int(counts[name])] for name in sums}):
            for name, (value, count) in part.items():
                old = total.get(name, [0.0, 0])
                total[name] = [old[0] + value, old[1] + count]
        return total

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        """Take over what `state_dict` returned."""
        self._sums = {name: float(value) for name, (value, _) in state.items()}
        self._counts = {name: int(count) for name, (_, count) in state.items()}

    def pop(self, gather: Gather) -> dict[str, float]:
        """Means since the last call, over ranks too; starts anew. A mean of nothing is left out."""
        total = self.state_dict(gather)
        self._sums, self._counts = {}, {}
        return {name: value / count for name, (value, count) in total.items() if count}


def _fetched(books: list[dict[str, Number]]) -> list[dict[str, float]]:
    """The same with numbers for tensors, in one transfer a device."""
    by_device: dict[torch.device, list[tuple[int, str, torch.Tensor]]] = {}
    for i, book in enumerate(books):
        for name, value in book.items():
            if isinstance(value, torch.Tensor):
                by_device.setdefault(value.device, []).append((i, name, value))
    out: list[dict[str, float]] = [dict(book) for book in books]  # type: ignore[arg-type]
    for entries in by_device.values():
        values = torch.stack([value for _, _, value in entries]).tolist()
        for (i, name, _), value in zip(entries, values, strict=True):
            out[i][name] = value
    return out


class Stopwatch:
    """Seconds that work takes on `device`, without waiting for it.

    On a GPU `stop` gives the last measured span that is already over, since asking for the present
    one would make the host wait, which it does for the first; elsewhere the span just measured.
    One watch for each kind of span.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._begun: torch.cuda.Event | float | None = None
        self._spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._last: float | None = None

    def start(self) -> None:
        """Begin a span."""
        self._begun = self._mark()

    def stop(self) -> float:
        """End the span begun last; returns seconds."""
        if not self._cuda:
            return time.monotonic() - self._begun  # type: ignore[operator]
        self._spans.append((self._begun, self._mark()))  # type: ignore[arg-type]
        if self._last is None:
            self._spans[0][1].synchronize()
        while self._spans and self._spans[0][1].query():
            begun, ended = self._spans.pop(0)
            self._last = begun.elapsed_time(ended) / 1000
        return self._last  # type: ignore[return-value]

    def _mark(self) -> "torch.cuda.Event | float":
        if not self._cuda:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
