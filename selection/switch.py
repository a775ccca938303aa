"""When to stop selecting (early), or begin to (late): when the learner has caught up.

The Autoguided code switches as soon as one rank, in one round, measures mean(learner) below
mean(reference): with thousands of looks at a noisy number, that is soon met by chance. Here the
difference is averaged over steps and must lie below zero by `z` of its own standard errors.
"""

from __future__ import annotations

import math
from typing import Any

MODES = ("early", "late")


class EarlyLateSwitch:
    """Says at every step whether to select; changes its mind once, for good.

    mode "early": selects until the learner beats the reference, then no more. "late": the
    reverse. None: `selecting` stays as given, nothing is observed.

        switch = EarlyLateSwitch("early")
        ...
        if switch.waiting:
            switch.observe(mean_of_learner_minus_ref, nimg=nimg, step=step)

    The test. Of the observations x_t, one a step, with weights w_t halving every `half_life` steps:
    m = sum w x / sum w; variance v from successive differences, sum w' (x_t - x_{t-1})^2 / (2 sum
    w') (von Neumann 1941: the slow fall of the mean that is waited for does not inflate it);
    standard error sqrt(v sum w^2) / sum w. The learner has caught up when m < -z standard errors,
    at the earliest at observation `min_observations`. Measured for the defaults: Gaussian noise
    about a mean of exactly zero passes at some time in 10,000 steps in 1 run of 700 (z 4: 1 of 15;
    z 3: 2 of 3), noise with a long tail of large losses (exponential) in 1 of 25. A mean d standard
    deviations of one observation below zero is found in about (z / d)^2 steps; it must exceed
    0.6 z / sqrt(half_life) = 0.38 to be found soon, and below half of that hardly ever is.

    Pure float arithmetic on the host: ranks that observe the same all-reduced number switch at
    the same step, and a restored switch goes on exactly. Attributes: `selecting`, `waiting` (the
    change is still to come, and the reference still needed), `change_nimg`, `change_step` (as given
    to the `observe` that changed it, else 0), `observations`, `mean` and `error` (of it; nan before
    the second).
    """

    def __init__(
        self,
        mode: str | None,
        *,
        selecting: bool = True,
        half_life: float = 64.0,
        z: float = 5.0,
        min_observations: int = 32,
    ) -> None:
        if mode is not None and mode not in MODES:
            raise ValueError(f"switch mode {mode!r} is not one of: {', '.join(MODES)}, None")
        if not (half_life > 0 and z >= 0):
            raise ValueError(f"half_life {half_life} must be positive and z {z} not negative")
        if min_observations < 2:
            raise ValueError(f"min_observations {min_observations} is below 2: no error is known")
        self.mode = mode
        self.half_life, self.z, self.min_observations = half_life, z, min_observations
        self.selecting = selecting if mode is None else mode == "early"
        self.waiting = mode is not None
        self.change_nimg = self.change_step = 0
        self.observations = 0
        self._last = 0.0
        # running sums of w, w^2, w x; w', w' (x_t - x_{t-1})^2
        self._sums = [0.0] * 5

    @property
    def mean(self) -> float:
        w, _, wx, _, _ = self._sums
        return wx / w if w else math.nan

    @property
    def error(self) -> float:
        w, w2, _, d, dx2 = self._sums
        return math.sqrt(dx2 / (2 * d) * w2) / w if d else math.nan

    def observe(self, mean_difference: float, *, nimg: int = 0, step: int = 0) -> bool:
        """Take mean(learner_loss - ref_loss) of a step's super-batch; True if this changes sides.

        The same number on all ranks. A non-finite one is left out. After the change, or with mode
        None, nothing happens.
        """
        x = float(mean_difference)
        if not self.waiting or not math.isfinite(x):
            return False
        keep = 0.5 ** (1 / self.half_life)
        w, w2, wx, d, dx2 = self._sums
        if self.observations:
            d, dx2 = keep * d + 1, keep * dx2 + (x - self._last) ** 2
        self._sums = [keep * w + 1, keep * keep * w2 + 1, keep * wx + x, d, dx2]
        self._last = x
        self.observations += 1
        if self.observations < self.min_observations or not self.mean < -self.z * self.error:
            return False
        self.selecting, self.waiting = not self.selecting, False
        self.change_nimg, self.change_step = nimg, step
        return True

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes, and the settings it depends on; numbers and strings only."""
        return {
            "mode": self.mode,
            "half_life": self.half_life,
            "z": self.z,
            "min_observations": self.min_observations,
            "selecting": self.selecting,
            "waiting": self.waiting,
            "change_nimg": self.change_nimg,
            "change_step": self.change_step,
            "observations": self.observations,
            "last": self._last,
            "sums": list(self._sums),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken. ValueError when it was taken with another mode or test."""
        for name in ("mode", "half_life", "z", "min_observations"):
            here = getattr(self, name)
            if state[name] != here:
                raise ValueError(
                    f"the switch was saved with {name} {state[name]}, here it is {here}"
                )
        self.selecting, self.waiting = bool(state["selecting"]), bool(state["waiting"])
        self.change_nimg, self.change_step = int(state["change_nimg"]), int(state["change_step"])
        self.observations = int(state["observations"])
        self._last = float(state["last"])
        self._sums = [float(v) for v in state["sums"]]
