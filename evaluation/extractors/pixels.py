"""The picture itself, 8 x 8 pixels, as features: no network, so nothing to fetch or to trust.

A distance of these says whether colours and coarse layout are right, and nothing of what people
see. It is what smoke presets and tests measure.
"""

from __future__ import annotations

from torch import Tensor, nn

from evaluation.extractors.base import Extractor, Outputs, Request, facts, policy
from storage.errors import UsageError

SIDE = 8


def open_pixels(request: Request) -> Extractor:
    """192 values in [0, 1]. Errors: UsageError for weights, which it has not."""
    if request.weights is not None:
        raise UsageError("pixels have no weights")
    resize, name = policy(request.resize, "clean")
    none = nn.Identity()
    about = {**facts(request, none, SIDE, name), "weights": "none"}

    def prepare(images: Tensor) -> Tensor:
        return resize(images, SIDE) / 255

    return Extractor(
        "pixels", none, lambda x: Outputs(x.flatten(1), None), prepare, about, device=request.device
    )
