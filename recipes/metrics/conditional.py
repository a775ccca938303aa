"""Several samples of every input: fidelity, diversity, and both in one figure."""

from __future__ import annotations

from argparse import Namespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evaluation.features import fingerprint, gather_rows
from evaluation.intervals import Interval, mean_interval
from evaluation.replicates import Replicates
from evaluation.samples import (
    best_of_k,
    distance_to_target,
    fwv,
    fwv_form,
    pairwise_diversity,
    psnr,
    ssim,
)
from imle import ResolutionLoss
from recipes.imle.perceptual import perceptual_loss
from recipes.metrics.pictures import Batch
from storage.errors import UsageError

SIGMAS = (0.15, 0.2, 0.25, 0.3)
LARGEST_PSNR = 100.0  # dB; two equal pictures have inf, and so would the mean of all


class Figure(NamedTuple):
    """A value with its 95 % interval, of n. less: whether less is better, None: neither.
    more: what else belongs to it, JSON values. replicates: what the interval is made of."""

    value: float
    low: float | None
    high: float | None
    n: int
    less: bool | None
    more: dict[str, Any]
    replicates: Replicates | None = None


class Conditional:
    """Looks at the samples of each input as they come: `watch` for `recipes.metrics.passing.look`.

    wanted: measures, of lpips, fwv, psnr, ssim. targets: uint8 [N, 3, r, r]. Errors: UsageError
    without weights of LPIPS.
    """

    def __init__(
        self, wanted: set[str], targets: Tensor, args: Namespace, each: int, device: torch.device
    ) -> None:
        self.wanted, self.targets, self.each, self.device = wanted, targets, each, device
        self._rows: dict[str, list[Tensor]] = {}
        self._ids: list[int] = []
        self._distance: ResolutionLoss | None = None
        self.name = "lpips"
        if each < 2 and wanted & {"fwv"}:
            raise UsageError("--metrics fwv: variance needs at least 2 samples of each input")
        if wanted & {"lpips", "fwv"}:
            made = perceptual_loss(args.lpips, args.lpips_path, alpha=0.0)
            assert isinstance(made, ResolutionLoss)
            self._distance, self.name = made.to(device), made.name
            self._content = fingerprint(made)

    def __call__(self, batch: Batch) -> None:
        """All samples of the inputs in a batch."""
        for first in range(0, len(batch.numbers), self.each):
            images = torch.stack(batch.images[first : first + self.each]).to(self.device)
            i = batch.numbers[first] // self.each
            self._one(images.float() / 255, self.targets[i].to(self.device).float() / 255)
            self._ids.append(i)

    @torch.no_grad()
    def _one(self, samples: Tensor, target: Tensor) -> None:
        rows: dict[str, Tensor] = {}
        y = target.expand_as(samples)
        if "psnr" in self.wanted:
            found = psnr(samples, y).clamp(max=LARGEST_PSNR)
            rows |= {"psnr": found.mean(), "best_psnr": found.max()}
        if "ssim" in self.wanted:
            found = ssim(samples, y)
            rows |= {"ssim": found.mean(), "best_ssim": found.max()}
        if self._distance is not None:
            far = distance_to_target(samples[None], target[None], self._lpips)
            if "lpips" in self.wanted:
                rows |= {self.name: far.mean(), f"best_{self.name}": best_of_k(far)[0]}
                if self.each > 1:
                    rows["diversity"] = pairwise_diversity(samples[None], self._lpips)[0]
            if "fwv" in self.wanted:
                spread = distance_to_target(samples[None], samples[None].mean(1), self._lpips)
                values = fwv(far, spread, SIGMAS)
                rows |= {f"fwv_{s:g}": v for s, v in zip(SIGMAS, values, strict=True)}
        for name, value in rows.items():
            self._rows.setdefault(name, []).append(value.double().cpu())

    def _lpips(self, a: Tensor, b: Tensor) -> Tensor:
        assert self._distance is not None
        return self._distance.terms(a.float(), b.float()).lpips

    def figures(self) -> dict[str, Figure]:
        """Means over inputs, of all ranks, with intervals over inputs. All ranks call."""
        ids = torch.tensor(self._ids, dtype=torch.int64)
        names = sorted({*self._rows, *self._expected()})
        found = {}
        for name in names:
            own = self._rows.get(name, [])
            rows = torch.stack(own) if own else torch.zeros(0, dtype=torch.float64)
            values = gather_rows(rows, ids)
            mean = Interval(float(values.mean()), float("nan"), float("nan"), len(values))
            if len(values) > 1:
                mean = mean_interval(values)
            more: dict[str, Any] = {"samples_per_input": self.each, "over": "inputs"}
            if name.startswith("fwv"):
                more["form"] = fwv_form([float(name[4:])])
                more["distance"] = self.name
            if self._distance is not None and not name.endswith(("psnr", "ssim")):
                more["lpips_sha256"] = self._content
            if name.endswith("psnr"):
                more["at_most"] = LARGEST_PSNR
            less = None if name == "diversity" else "lpips" in name
            known = len(values) > 1
            label = f"{self.name}_diversity" if name == "diversity" else name
            found[label] = Figure(
                mean.mean, mean.low if known else None, mean.high if known else None,
                len(values), less, more, Replicates("means", values) if known else None,
            )  # fmt: skip
        return found

    def _expected(self) -> set[str]:
        """Names of all figures, also on a rank that was given no input."""
        names = {n for w in ("psnr", "ssim") if w in self.wanted for n in (w, f"best_{w}")}
        if "lpips" in self.wanted:
            names |= {self.name, f"best_{self.name}"} | ({"diversity"} if self.each > 1 else set())
        if "fwv" in self.wanted:
            names |= {f"fwv_{s:g}" for s in SIGMAS}
        return names
