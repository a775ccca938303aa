"""Latent codes as functions of keys.

A candidate code is a function of (seed, loop, image id, level, candidate id): it does not depend
on how candidates are batched, and a search keeps the winner's number instead of its values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from runtime.counter_rng import Mosaic, mix, normal, normal_mosaic, randint
from storage.arguments import Count, Share

_TAG_CODE = 0x636F6465  # "code"
_TAG_MEANS = 0x6D65616E  # "mean"
_PLAIN = -1  # the "loop" of plain calls, so that they never repeat a searched candidate


class CodeGenerator:
    """Draws the latent codes of all levels.

    method "normal": z ~ N(0, I).
    method "mixture": z = m_k + sqrt(1 - s^2) e with e ~ N(0, I), k uniform over `num_components`.
        The component means are Gaussian draws standardised per dimension over the components
        (mean 0, mean square s^2), so that the marginal has zero mean and unit variance in every
        dimension and two means lie about s sqrt(2 d) apart: for a code of d = 1408 values and
        s = 0.5 that is 26 against a spread of 0.87 along the line between them. (The CIMLE
        refactoring's means had norm 1 in all of the d dimensions, lost in noise of norm sqrt(d).)

    code_sizes: length d_l of each level's code.
    mixture_scale: s in (0, 1).
    means_seed: of the component means (default: seed). A network knows the mixture it was trained
        with: whoever draws from it by another seed gives this one that of the training.
    device: where plain calls draw; `draw` follows its ids.
    """

    def __init__(
        self,
        code_sizes: Sequence[int],
        *,
        seed: int = 0,
        method: Literal["normal", "mixture"] = "normal",
        num_components: Count = 5,
        mixture_scale: Share = 0.5,
        means_seed: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.code_sizes = [int(d) for d in code_sizes]
        if not self.code_sizes or min(self.code_sizes) < 1:
            raise ValueError(f"code sizes must be positive and at least one, got {code_sizes}")
        if method not in ("normal", "mixture"):
            raise ValueError(f"the sample method must be normal or mixture, got {method!r}")
        if method == "mixture" and num_components < 2:
            raise ValueError(f"a mixture needs at least 2 components, got {num_components}")
        if not 0.0 < mixture_scale < 1.0:
            raise ValueError(f"mixture_scale must lie between 0 and 1, got {mixture_scale}")
        self.seed, self.method = int(seed), method
        self.num_components = int(num_components) if method == "mixture" else 0
        self.mixture_scale = float(mixture_scale) if method == "mixture" else 0.0
        self.means_seed = self.seed if means_seed is None else int(means_seed)
        self.device = torch.device(device) if device is not None else torch.device("cpu")
        self.calls = 0
        self._means = [
            self._make_means(level) for level in range(self.levels if self._mixed else 0)
        ]
        self._means_on: dict[tuple[int, torch.device], Tensor] = {}

    @property
    def levels(self) -> int:
        """Number of levels."""
        return len(self.code_sizes)

    @property
    def _mixed(self) -> bool:
        return self.method == "mixture"

    def _make_means(self, level: int) -> Tensor:
        keys = mix(_TAG_MEANS, self.means_seed, level, torch.arange(self.num_components))
        raw = normal(keys, self.code_sizes[level]).double()
        raw = (raw - raw.mean(0)) / raw.std(0, correction=0).clamp_min(1e-3)
        return (self.mixture_scale * raw).float()

    def means(self, level: int, device: torch.device | str = "cpu") -> Tensor:
        """Component means of a level, float32 [num_components, d_l]."""
        if not self._mixed:
            raise ValueError("normal codes have no component means")
        key = (level, torch.device(device))
        if key not in self._means_on:
            self._means_on[key] = self._means[level].to(device)
        return self._means_on[key]

    def _words(self, level: int, loop: int, image_ids: Tensor, candidate_ids: Tensor) -> Tensor:
        if not 0 <= level < self.levels:
            raise ValueError(f"level must be in [0, {self.levels - 1}], got {level}")
        if candidate_ids.dim() == 1:
            candidate_ids = candidate_ids[None]
        return mix(_TAG_CODE, self.seed, level, loop, image_ids[:, None], candidate_ids).flatten()

    def components(self, level: int, loop: int, image_ids: Tensor, candidate_ids: Tensor) -> Tensor:
        """Mixture component of each candidate, int64 [B*K], arguments as for `draw`."""
        words = self._words(level, loop, image_ids, candidate_ids)
        return randint(words, 1, self.num_components, stream=1)[:, 0]

    def draw(
        self,
        level: int,
        loop: int,
        image_ids: Tensor,
        candidate_ids: Tensor,
        device: torch.device | str | None = None,
        *,
        components: Tensor | None = None,
    ) -> Tensor:
        """Codes of given candidates, float32 [B*K, d_level], row b*K + k.

        image_ids: int64 [B]; candidate_ids: int64 [K] (the same for all images) or [B, K].
        device: where to draw, default the ids' device.
        components: int64 [B*K] overrides the component draw of a mixture (to show each in turn).
        """
        device = image_ids.device if device is None else torch.device(device)
        image_ids, candidate_ids = image_ids.to(device), candidate_ids.to(device)
        words = self._words(level, loop, image_ids, candidate_ids)
        code = normal(words, self.code_sizes[level])
        if not self._mixed:
            return code
        if components is None:
            components = randint(words, 1, self.num_components, stream=1)[:, 0]
        code.mul_(math.sqrt(1.0 - self.mixture_scale**2))
        return code.add_(self.means(level, device)[components.to(device)])

    def compose(
        self,
        level: int,
        loop: int,
        image_ids: Tensor,
        candidate_ids: Tensor,
        rows: Tensor,
        pattern: Mosaic,
    ) -> Tensor:
        """Codes put together from several candidates each, float32 [B*K, d_level], row b*K + k.

        image_ids: int64 [B]; candidate_ids: int64 [B, K, R]. rows: int64 [d_level]: entry e of code
        b*K + k is that of candidate `candidate_ids[b, k, rows[e]]`, bit for bit as `draw` has it.
        pattern: `runtime.counter_rng.mosaic(rows)`. All on one device.
        """
        parts = candidate_ids.shape[-1]
        words = self._words(level, loop, image_ids, candidate_ids.flatten(1)).view(-1, parts)
        code = normal_mosaic(words, pattern)
        if not self._mixed:
            return code
        components = randint(words.flatten(), 1, self.num_components, stream=1).view(-1, parts)
        place = torch.arange(len(rows), device=rows.device)
        code.mul_(math.sqrt(1.0 - self.mixture_scale**2))
        return code.add_(self.means(level, rows.device)[components[:, rows], place])

    def __call__(self, bs: int, level: int | Literal["all"] = "all") -> list[Tensor] | Tensor:
        """Fresh codes of all levels, a list of [bs, d_l], or of one level, [bs, d_level].

        Each call goes on from an internal counter that is part of the state.
        """
        if bs < 0:
            raise ValueError(f"cannot draw {bs} codes")
        call = torch.tensor([self.calls], device=self.device)
        rows = torch.arange(bs, device=self.device)
        self.calls += 1
        if level == "all":
            return [self.draw(i, _PLAIN, call, rows) for i in range(self.levels)]
        return self.draw(level, _PLAIN, call, rows)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values: the call counter, the seed and the mixture's means."""
        return {
            "calls": self.calls,
            "seed": self.seed,
            "method": self.method,
            "mixture_scale": self.mixture_scale,
            "code_sizes": list(self.code_sizes),
            "means": [m.clone() for m in self._means],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the saved generator. ValueError when it draws other kinds of codes."""
        for name in ("method", "code_sizes"):
            here = getattr(self, name)
            if state[name] != here:
                raise ValueError(
                    f"the code generator was saved with {name} {state[name]}, here it is {here}"
                )
        self.calls, self.seed = int(state["calls"]), int(state["seed"])
        self.mixture_scale = float(state["mixture_scale"])
        self._means = [m.to("cpu", torch.float32) for m in state["means"]]
        self.num_components = len(self._means[0]) if self._means else 0
        self._means_on.clear()
