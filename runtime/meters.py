"""Running means of logged scalars that leave the device only when a line is written."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from runtime.errors import UsageError

Gather = Callable[[Any], list[Any]]


class Meters:
    """Sums and counts by name; tensors are summed where they are, in float64."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor | float] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, torch.Tensor | float]) -> None:
        """Add one value a name; a tensor must have one element."""
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                if value.numel() != 1:
                    raise UsageError(f"run.log({name}=...): one number, not {tuple(value.shape)}")
                wide = torch.float32 if value.device.type == "mps" else torch.float64
                value = value.detach().reshape(()).to(wide, copy=True)
            else:
                value = float(value)
            self._sums[name] = value + self._sums[name] if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def state_dict(self, gather: Gather) -> dict[str, list[float]]:
        """{name: [sum, count]} over ranks; `gather` is distributed.gather_object."""
        tensors = {k: v for k, v in self._sums.items() if isinstance(v, torch.Tensor)}
        fetched: dict[str, float] = {k: v for k, v in self._sums.items() if k not in tensors}
        by_device: dict[torch.device, list[str]] = {}
        for name, value in tensors.items():
            by_device.setdefault(value.device, []).append(name)
        for names in by_device.values():  # one transfer a device
            values = torch.stack([tensors[n] for n in names]).tolist()
            fetched.update(zip(names, values, strict=True))
        total: dict[str, list[float]] = {}
        for part in gather({k: [fetched[k], self._counts[k]] for k in self._sums}):
            for name, (value, count) in part.items():
                old = total.get(name, [0.0, 0])
                total[name] = [old[0] + value, old[1] + count]
        return total

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        """Take over what `state_dict` returned."""
        self._sums = {name: float(value) for name, (value, _) in state.items()}
        self._counts = {name: int(count) for name, (_, count) in state.items()}

    def pop(self, gather: Gather) -> dict[str, float]:
        """Means since the last call, over ranks too; starts anew."""
        total = self.state_dict(gather)
        self._sums, self._counts = {}, {}
        return {name: value / count for name, (value, count) in total.items()}
