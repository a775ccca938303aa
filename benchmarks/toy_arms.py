"""The arms that `benchmarks.toy_selection` compares, and the sizes of everything in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

TEMPERATURES = (1.0, 0.5, 0.25)


@dataclass(frozen=True)
class Arm:
    """One way to train. steps: its length; the lr schedule is stretched by steps / settings'."""

    name: str
    method: str  # none | random | jest (own EMA) | ajest (guide)
    rows: int
    steps: int
    scale: str = "standardised"
    temperature: float = 1.0
    by_sigma: bool = False

    @property
    def scores(self) -> bool:
        """Does it look at the loss of every row of the super-batch?"""
        return self.method in ("jest", "ajest")


@dataclass(frozen=True)
class Settings:
    """What shapes the results; a folder belongs to one of these."""

    steps: int = 4096
    batch: int = 4096
    rows: int = 816
    chunks: int = 16
    guide_steps: int = 512
    dim: int = 64
    guide_dim: int = 32
    layers: int = 4
    evals: int = 16
    levels: int = 16  # held-out sigmas
    points: int = 65536  # held-out points, all sigmas together
    samples: int = 16384
    ref_lr: float = 1e-2
    ref_steps: int = 512

    @property
    def filter_ratio(self) -> float:
        return 1 - self.rows / self.batch


QUICK = Settings(
    steps=12,
    batch=320,
    rows=64,
    guide_steps=6,
    dim=16,
    guide_dim=8,
    layers=2,
    evals=3,
    levels=4,
    points=256,
    samples=64,
    ref_steps=4,
)


def ajest(t: float, s: Settings, *, by_sigma: bool = False) -> Arm:
    """AJEST at temperature t, ranked within strata of sigma if so wanted."""
    name = f"ajest-{t:g}" + ("-sigma" if by_sigma else "")
    return Arm(name, "ajest", s.rows, s.steps, temperature=t, by_sigma=by_sigma)


def tuning_arms(s: Settings) -> list[Arm]:
    """What runs on the tuning seeds, to choose the temperature by."""
    return [Arm("none-816", "none", s.rows, s.steps), *(ajest(t, s) for t in TEMPERATURES)]


def finalists(s: Settings, plan: dict[str, Any]) -> list[Arm]:
    """What runs on every seed. plan: what the tuning seeds said (`toy_selection.Study.plan`)."""
    none = Arm("none-816", "none", s.rows, s.steps)
    return [
        none,
        Arm("random-816", "random", s.rows, s.steps),
        ajest(plan["temperature"], s),
        ajest(plan["temperature"], s, by_sigma=True),
        replace(none, name="none-816-long", steps=round(s.steps * plan["long"])),
        replace(none, name="none-816-long+", steps=round(s.steps * plan["long+"])),
    ]


def all_arms(s: Settings, plan: dict[str, Any]) -> list[Arm]:
    """The finalists and the arms that run on the first seeds only."""
    arms = [
        Arm("none-4096", "none", s.batch, s.steps),
        Arm("jest", "jest", s.rows, s.steps, scale="raw"),
        *(ajest(t, s) for t in TEMPERATURES),
    ]
    known = {arm.name: arm for arm in finalists(s, plan) + arms}
    return list(known.values())
