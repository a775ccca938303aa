"""The effective rank of features, which needs no labels: RankMe (Garrido et al. 2023,
arXiv:2210.02885)."""

from __future__ import annotations

import torch
from torch import Tensor

from evaluation.accuracy import check_features

MOST = 25600  # rows that are looked at, as in the paper
_EPS = 1e-7  # of equation 1 there
_ROWS = 4096  # rows made float64 at a time
COLLAPSED = 2.0  # a rank below this means that nearly everything lies on one line


@torch.no_grad()
def effective_rank(Z: Tensor, most: int = MOST) -> float:
    """exp(-sum_k p_k log p_k), p_k = s_k / sum s + 1e-7, s the singular values of Z [N, d].

    Between 1 (all rows are multiples of one) and min(N, d). Features are not centred, as in the
    paper. Of more than `most` rows as many are taken, evenly spaced. In float64, by the eigenvalues
    of Z^T Z: singular values below 1e-8 of the largest are rounding, which changes the rank by less
    than d * 3e-7 of it. Errors: ValueError.
    """
    check_features(Z, "features")
    if len(Z) > most:
        Z = Z[torch.arange(most, device=Z.device) * len(Z) // most]
    wide = len(Z) < Z.shape[1]
    if wide:  # Z Z^T has the same singular values, and is the smaller one
        z = Z.double()
        gram = z @ z.T
    else:
        gram = torch.zeros(Z.shape[1], Z.shape[1], dtype=torch.float64, device=Z.device)
        for part in Z.split(_ROWS):
            part = part.double()
            gram += part.T @ part
    s = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    total = s.sum()
    if total == 0:
        return 1.0  # all zero
    p = s / total + _EPS
    return float((-(p * p.log()).sum()).exp())
