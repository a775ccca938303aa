"""Networks whose features pictures are compared by: a file a kind, and one registry.

    extractor = open_extractor("dinov2_vitb14", Request(weights=Path("dinov2_vitb14_pretrain.pth")))
    features, logits = extractor([picture, ...])        # uint8 [3, H, W] of any sizes

A word is `KIND`, or `KIND:NAME`, and after it `,setting=value`:
    inception                     the InceptionV3 of FID, 2048 features
    dinov2, dinov2_vitl14         DINOv2 ViT-L/14, 1024 features;  dinov2_vitb14: ViT-B/14, 768
    torchvision:NAME, timm:NAME   any classifier of these, e.g. torchvision:resnet50
    file:PATH                     a TorchScript file or a .pt2 of torch.export
    pixels                        the picture itself at 8 x 8
An encoder of ours is `simclr:PATH`, which `recipes.metrics.extractors` opens. Another kind is a
file here with a function `open_KIND(request) -> Extractor`, and an entry of KINDS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from evaluation.extractors.base import Extractor, Outputs, Request
from evaluation.extractors.dinov2 import open_dinov2
from evaluation.extractors.inception import open_inception
from evaluation.extractors.library import open_timm, open_torchvision
from evaluation.extractors.pixels import open_pixels
from evaluation.extractors.programs import open_program
from storage.errors import UsageError

__all__ = ["KINDS", "Extractor", "Outputs", "Request", "open_extractor", "split_word"]

Kind = Callable[[Request], Extractor]
KINDS: dict[str, Kind] = {
    "inception": open_inception,
    "dinov2": open_dinov2,
    "dinov2_vitl14": open_dinov2,
    "dinov2_vitb14": partial(open_dinov2, size="vitb14"),
    "torchvision": open_torchvision,
    "timm": open_timm,
    "file": open_program,
    "pixels": open_pixels,
}
NAMED = ("torchvision", "timm", "file", "simclr")  # kinds that a name or a path belongs to


def split_word(word: str) -> tuple[str, str, dict[str, str]]:
    """`file:net.pt2,side=64` -> ("file", "net.pt2", {"side": "64"}). Errors: UsageError."""
    head, *rest = word.split(",")
    kind, _, name = head.partition(":")
    settings: dict[str, str] = {}
    for part in rest:
        key, equals, value = part.partition("=")
        if not equals or not key or not value:
            raise UsageError(f"extractor {word}: after a comma come settings, such as side=64")
        settings[key] = value
    if kind in NAMED and not name:
        raise UsageError(f"extractor {word}: which one? {kind}:NAME")
    if kind not in NAMED and name:
        raise UsageError(f"extractor {word}: {kind} takes no name")
    return kind, name, settings


def open_extractor(word: str, request: Request | None = None) -> Extractor:
    """The extractor of a word, with what else is asked. Errors: UsageError, CheckpointError."""
    kind, name, settings = split_word(word)
    if kind not in KINDS:
        raise UsageError(f"extractor {word}: there are {', '.join(KINDS)}, simclr")
    if settings and kind not in ("torchvision", "timm", "file"):
        raise UsageError(f"extractor {word}: {kind} has no settings")
    return KINDS[kind](replace(request or Request(), name=name, settings=settings))
