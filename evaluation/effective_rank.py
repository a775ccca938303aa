"""The effective rank of features, which needs no labels: RankMe (Garrido et al. 2023,
arXiv:2210.02885)."""

from __future__ import annotations

import torch
from torch import Tensor

from evaluation.accuracy import check_features

MOST = 25600  # rows that are looked at, as in the paper
_EPS = 1e-7  # of equation 1 there
_ROWS = 8192  # rows made float64 at a time
COLLAPSED = 2.0  # a rank below this means that nearly everything lies on one line


@torch.no_grad()
def effective_rank(Z: Tensor, most: int = MOST) -> float:
    """exp(-sum_k p_k log p_k), p_k = s_k / sum s + 1e-7, s the singular values of Z [N, d].

    Between 1 (all rows are multiples of one) and min(N, d). Features are not centred, as in the
    paper. Of more than `most` rows as many are taken, evenly spaced. All in float64. Errors:
    ValueError.
    """
    check_features(Z, "features")
    if len(Z) > most:
        Z = Z[torch.arange(most, device=Z.device) * len(Z) // most]
    rest = Z[:0].double()  # has the singular values of the rows so far: the R of their QR
    for part in Z.split(_ROWS):
        rest = torch.cat((rest, part.double()))
        if len(rest) > rest.shape[1]:
            rest = torch.linalg.qr(rest, mode="r").R
    s = torch.linalg.svdvals(rest)
    total = s.sum()
    if total == 0:
        return 1.0  # all zero
    p = s / total + _EPS
    return float((-(p * p.log()).sum()).exp())
