"""What is measured of a run's steps beside its results: what they compute, and on demand a profile.

The results are the same with and without; only the main rank measures.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path

import torch

from runtime.flops import StepFlops, matmul_peak
from runtime.profile import StepProfile

Work = Callable[[int], Hashable]  # what a step computes, by its number; see `runtime.flops`


class Gauges:
    """`begin` before the loop; in it `turn`, after each update `updated`, `end`; last `close`.

    dtype: the format that training multiplies in. profile: steps to record, 0 for none.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        dtype: torch.dtype,
        profile: int,
        *,
        main: bool,
        say: Callable[[str], object],
    ) -> None:
        self._device, self._dtype, self._main = device, dtype, main
        self._flops = StepFlops()
        self._profile = StepProfile(folder, profile, device, say) if main and profile else None
        self._peak = 0.0

    def begin(self, completed: int, end: int) -> None:
        """The loop is to go from step `completed` to `end`: measure the peak, once a process."""
        if self._main:
            self._peak = matmul_peak(self._device, self._dtype)
        if self._profile is not None:
            self._profile.begin(completed, end)

    def turn(self, step: int, kind: Hashable) -> None:
        """Step `step` begins."""
        if self._profile is not None:
            self._profile.turn(step)
        if self._main:
            self._flops.begin(kind)

    def updated(self) -> None:
        """An update of the step is done."""
        self._flops.updated()

    def end(self) -> None:
        """The step is over."""
        self._flops.end()
        if self._profile is not None:
            self._profile.end()

    def close(self) -> None:
        """The loop is left, somehow."""
        self._flops.close()
        if self._profile is not None:
            self._profile.close()

    def figures(self, seconds: float) -> dict[str, float]:
        """Of the steps since the last call, which took so many seconds with all that is beside
        them: TFLOP/s of the model, and their share of the peak. Empty where FLOPs are not known."""
        flops = self._flops.pop()
        if not flops or seconds <= 0:
            return {}
        rate = flops / seconds
        return {"time/tflop_per_s": rate / 1e12, "time/share_of_matmul_peak": rate / self._peak}
