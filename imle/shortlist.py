"""The best few candidates of each image, as chunks of them come by."""

from __future__ import annotations

import copy

import torch
from torch import Tensor


class Shortlist:
    """Keeps `keep` candidates of the smallest keys for each of B images.

    Ties go to the smaller number, if candidates come in ascending order of theirs. A candidate
    whose key is not finite is none.
    """

    def __init__(self, batch: int, keep: int, device: torch.device) -> None:
        self.keys = torch.full((batch, keep), torch.inf, device=device)
        self._ids = torch.full((batch, keep), -1, device=device)
        self.codes: Tensor | None = None  # [B, keep, d], where they are given
        self.offered = torch.zeros(batch, dtype=torch.int64, device=device)  # of finite key

    def offer(self, keys: Tensor, ids: Tensor, codes: Tensor | None = None) -> None:
        """keys: [B, K]; ids: int64 [K]; codes: [B, K, d] if they are to be kept."""
        keep = self.keys.shape[1]
        self.offered += torch.isfinite(keys).sum(1)
        # earlier candidates stand first and the sort is stable
        every, order = torch.cat([self.keys, keys], 1).sort(dim=1, stable=True)
        self.keys, order = every[:, :keep], order[:, :keep]
        self._ids = torch.cat([self._ids, ids.expand(len(keys), -1)], 1).gather(1, order)
        if codes is not None:
            if self.codes is None:
                self.codes = codes.new_zeros(len(keys), keep, codes.shape[2])
            index = order[:, :, None].expand(-1, -1, codes.shape[2])
            self.codes = torch.cat([self.codes, codes], 1).gather(1, index)

    def numbers(self) -> tuple[Tensor, Tensor | None]:
        """Numbers, int64 [B, keep], -1 where there are fewer; their codes, if they were kept."""
        return torch.where(torch.isfinite(self.keys), self._ids, -1), self.codes

    def __add__(self, other: Shortlist) -> Shortlist:
        """Those of both, side by side; they have none in common."""
        both = copy.copy(self)
        both.keys = torch.cat([self.keys, other.keys], 1)
        both._ids = torch.cat([self._ids, other._ids], 1)
        if self.codes is not None and other.codes is not None:
            both.codes = torch.cat([self.codes, other.codes], 1)
        return both

    @property
    def overflowed(self) -> Tensor:
        """Images of which not all candidates are here: bool [B]."""
        return self.offered > self.keys.shape[1]
