"""Networks and batches of omnigan that are computed in no time."""

from __future__ import annotations

from typing import Any

import torch

from models.omnigan import DOMAINS, DomainClassifier, OmniGenerator, make_discriminators

SIDE, CLASSES = 16, 3
_DECODER = {"n_res": 1, "res_norm": "none"}
NET: dict[str, Any] = {
    "encoder": {"dim": 2, "n_downsample": 2, "n_res": 1, "norm": "none", "res_norm": "none"},
    "a": _DECODER, "d": _DECODER, "h": _DECODER, "w": _DECODER,
    "s": {**_DECODER, "output_dim": CLASSES},
}  # fmt: skip


def generator(seed: int = 0, **change: Any) -> Any:
    torch.manual_seed(seed)
    return OmniGenerator(**{**NET, **change})


def discriminators(seed: int = 1, tasks: str = "adhstw", **change: Any) -> Any:
    torch.manual_seed(seed)
    how = {"ndf": 4, "n_layers": 1, **change}
    return make_discriminators(tasks, a=how, t=how)


def classifier(seed: int = 2, **change: Any) -> DomainClassifier:
    torch.manual_seed(seed)
    return DomainClassifier((8, SIDE // 4, SIDE // 4), **change)


def batches(domains: tuple[str, ...] = DOMAINS, n: int = 1, side: int = SIDE) -> dict[str, Any]:
    """A batch for each domain, with all labels."""
    g = torch.Generator().manual_seed(3)
    found = {}
    for domain in domains:
        u = torch.rand(3, n, 3, side, side, generator=g)
        found[domain] = {
            "data": {
                "x": u[0] * 2 - 1, "d": u[1, :, :1] * 3, "h": u[1, :, 1:2],
                "s": (u[2, :, 0] * CLASSES).long(), "w": (u[2, :, 1:2] > 0.5).float(),
            },
            "domain": [domain] * n,
        }  # fmt: skip
    return found
