"""SimCLR's network: a torchvision ResNet and a projection head (Chen et al., 2002.05709)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from models.domain_norm import real_state
from models.norm import convert_sync_bn
from storage.arguments import Side, Width

FEATURE_DIMS = {"resnet18": 512, "resnet34": 512, "resnet50": 2048}
STEMS = ("small", "standard")
# Of encoders that solo-learn trained on CIFAR: "small" with a border of 2 instead of 1.
SOLO_STEM = "solo"
SMALL_UP_TO = 64  # px; above it the small stem costs 9 to 16 times the arithmetic for little

# ------------------------------------------------------------------------------------------- heads


def _sequential(*layers: tuple[str, nn.Module]) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def _bn(width: int, bias: bool = True) -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(width)
    norm.bias.requires_grad_(bias)  # a frozen bias stays at its initial zero
    return norm


def _linear(a: int, b: int, bias: bool = False) -> nn.Linear:
    return nn.Linear(a, b, bias=bias)


def _two_bn(d: int, hidden: int, out: int, last_bias: bool) -> nn.Sequential:
    return _sequential(
        ("fc1", _linear(d, hidden)),
        ("bn1", _bn(hidden)),
        ("relu", nn.ReLU()),
        ("fc2", _linear(hidden, out)),
        ("bn2", _bn(out, last_bias)),
    )


def _original(d: int, hidden: int, out: int) -> nn.Sequential:
    return _two_bn(d, hidden, out, last_bias=False)


def _lightly(d: int, hidden: int, out: int) -> nn.Sequential:
    return _two_bn(d, hidden, out, last_bias=True)


def _v2(d: int, hidden: int, out: int) -> nn.Sequential:
    return _sequential(
        ("fc1", _linear(d, hidden)),
        ("bn1", _bn(hidden)),
        ("relu1", nn.ReLU()),
        ("fc2", _linear(hidden, hidden)),
        ("bn2", _bn(hidden)),
        ("relu2", nn.ReLU()),
        ("fc3", _linear(hidden, out)),
        ("bn3", _bn(out, bias=False)),
    )


def _no_bn(d: int, hidden: int, out: int) -> nn.Sequential:
    return _sequential(
        ("fc1", _linear(d, hidden, True)), ("relu", nn.ReLU()), ("fc2", _linear(hidden, out, True))
    )


def _leftthomas(d: int, hidden: int, out: int) -> nn.Sequential:
    return _sequential(
        ("fc1", _linear(d, hidden)),
        ("bn1", _bn(hidden)),
        ("relu", nn.ReLU()),
        ("fc2", _linear(hidden, out, True)),
    )


class _Head(NamedTuple):
    build: Callable[[int, int, int], nn.Sequential]
    hidden: int | None  # its published width; None: as wide as the features
    out: int


HEADS = {
    "original": _Head(_original, 2048, 128),
    "paper": _Head(_original, None, 128),
    "v2": _Head(_v2, None, 128),
    "lightly": _Head(_lightly, None, 128),
    "solo": _Head(_no_bn, 2048, 256),
    "leftthomas": _Head(_leftthomas, 512, 128),
    "dkobak": _Head(_no_bn, 1024, 128),
}
# Former name -> name. Files and command lines of runs begun before have the former one.
FORMER_HEADS = {"seed": "original"}

# ---------------------------------------------------------------------------------------- backbone


def stem_for(resolution: int) -> str:
    """The stem of `stem="auto"`: "small" up to 64 px, "standard" above."""
    return "small" if resolution <= SMALL_UP_TO else "standard"


def build_backbone(backbone: str = "resnet18", stem: str = "standard") -> nn.Module:
    """torchvision's ResNet without its classifier, random weights: [N, 3, r, r] -> [N, d].

    d is 512 (18, 34) or 2048 (50). stem "standard": 7x7 stride 2 and max-pool; "small": conv1 is
    3x3 stride 1 ([64, 3, 3, 3]) and there is no max-pool (2002.05709, B.9); "solo" (SOLO_STEM) is
    "small" on pictures with a border of 2 pixels. Names are torchvision's in all. Errors:
    ValueError.
    """
    if backbone not in tuple(FEATURE_DIMS):
        raise ValueError(f"backbone is {backbone!r}; use one of {', '.join(FEATURE_DIMS)}")
    if stem not in (*STEMS, SOLO_STEM):
        raise ValueError(f"stem is {stem!r}; use one of {', '.join(STEMS)}")
    import torchvision  # about a second: only those who build a network wait for it

    net = getattr(torchvision.models, backbone)(weights=None)
    net.fc = nn.Identity()
    if stem in ("small", SOLO_STEM):
        border = 2 if stem == SOLO_STEM else 1
        net.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=border, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        net.maxpool = nn.Identity()
    return net


class SimCLR(nn.Module):
    """Backbone f and projection head g: images x [N, 3, r, r] -> z = g(f(x)) [N, proj_dim].

    x: normalised floats. z is not normalised in length: the loss does that. h = f(x), which probes
    use, is `features(x)`.

    `stem`: "small", "standard", "solo", or "auto" = `stem_for(resolution)`; `stem_said` says what
    came of it. `proj_dim`, `proj_hidden`: None = the head's own. `head`, for d features:
      original    d -> 2048 -> 128, BN after both, no linear bias, last BN's bias frozen at 0: as in
                  the original SimCLR code (`models.original`)
      paper       the same with hidden width d (2002.05709)
      v2          d -> d -> d -> 128, BN after each, likewise (2006.10029); `features(x, kept=True)`
                  goes through the first layer, which v2 keeps for fine-tuning
      lightly     d -> d -> 128, BN after both, all trained
      solo        d -> 2048 -> 256, linear biases, no BN
      leftthomas  d -> 512 -> 128, BN after the first, linear bias in the second
      dkobak      d -> 1024 -> 128, linear biases, no BN
      none        z = h
    `sync_bn`: statistics over all ranks (`models.norm`). State keys: backbone.<torchvision name>,
    projector.{fc1,bn1,...}. `SimCLR(**model.config)` rebuilds the same network. Errors: ValueError.
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        *,
        stem: str = "auto",
        resolution: Side = 32,
        proj_dim: Width | None = None,
        proj_hidden: Width | None = None,
        head: str = "original",
        sync_bn: bool = False,
    ) -> None:
        super().__init__()
        if stem not in ("auto", *STEMS, SOLO_STEM):
            raise ValueError(f"stem is {stem!r}; use auto, {' or '.join(STEMS)}")
        if head not in ("none", *HEADS, *FORMER_HEADS):
            raise ValueError(f"head is {head!r}; use one of {', '.join(HEADS)}, none")
        _whole("resolution", resolution)
        why = ""
        if stem == "auto":
            stem, why = stem_for(resolution), f", chosen for {resolution} px"
        self.backbone = build_backbone(backbone, stem)
        self.feature_dim = d = FEATURE_DIMS[backbone]
        self.projector, proj_dim, proj_hidden = _head(head, d, proj_dim, proj_hidden)
        small = stem in ("small", SOLO_STEM)
        shape = "3x3 stride 1, no max-pool" if small else "7x7 stride 2, max-pool"
        self.stem_said = f"stem {stem} ({shape}){why}"
        # The stem that came out, not "auto": a checkpoint must not depend on a later threshold.
        self.config: dict[str, Any] = {
            "backbone": backbone,
            "stem": stem,
            "resolution": int(resolution),
            "proj_dim": proj_dim,
            "proj_hidden": proj_hidden,
            "head": head,
            "sync_bn": bool(sync_bn),
        }
        if sync_bn:
            convert_sync_bn(self)

    def features(self, x: torch.Tensor, *, kept: bool = False) -> torch.Tensor:
        """h [N, feature_dim], before the head; `kept`: after the first layer of a v2 head.

        Errors: ValueError for anything but float images [N, 3, r, r], or `kept` without v2.
        """
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
            raise ValueError(
                f"SimCLR takes float images [N, 3, r, r], got {x.dtype} {list(x.shape)}"
            )
        if kept and self.config["head"] != "v2":
            raise ValueError(f"a head of kind {self.config['head']} keeps no layer; only v2 does")
        h = self.backbone(x)
        return self.projector[:3](h) if kept else h

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """z [N, proj_dim], not normalised. Errors: ValueError as `features`."""
        return self.projector(self.features(x))

    def describe(self) -> str:
        """One line for the start of a run: what was built, and how large it is."""
        c, n = self.config, parameter_counts(self)
        head = FORMER_HEADS.get(c["head"], c["head"])
        dims = [self.feature_dim, *[m.out_features for m in self.projector if _is_linear(m)]]
        return (
            f"{c['backbone']}, {self.stem_said}; head {head} {'->'.join(map(str, dims))}"
            f"{', synchronised BN' if c['sync_bn'] else ''}; parameters: {n['backbone']:,} + "
            f"{n['projector']:,} = {n['total']:,}, {n['trainable']:,} trained"
        )


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)


def _whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; use a whole number above 0")


def _head(
    kind: str, d: int, out: int | None, hidden: int | None
) -> tuple[nn.Sequential, int, int | None]:
    for name, value in (("proj_dim", out), ("proj_hidden", hidden)):
        if value is not None:
            _whole(name, value)
    if kind == "none":
        if out not in (None, d):
            raise ValueError(f"proj_dim is {out}, but without a head z has {d} dimensions")
        if hidden is not None:
            raise ValueError(f"proj_hidden is {hidden}, but there is no head")
        return nn.Sequential(), d, None
    head = HEADS[FORMER_HEADS.get(kind, kind)]
    out = head.out if out is None else out
    hidden = (head.hidden or d) if hidden is None else hidden
    return head.build(d, hidden, out), out, hidden


def parameter_counts(model: SimCLR) -> dict[str, int]:
    """Numbers of parameters: backbone, projector, total, and trainable of the total."""
    parts = {name: sum(p.numel() for p in getattr(model, name).parameters()) for name in _PARTS}
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {**parts, "total": sum(parts.values()), "trainable": trainable}


_PARTS = ("backbone", "projector")


def two_views(
    model: nn.Module, a: torch.Tensor, b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """z0, z1 [N, proj_dim] of two views [N, 3, r, r] of the same images, in one forward.

    One forward, so that both views share BatchNorm's statistics and cannot be told apart by them
    (2002.05709, sec. 2). Errors: ValueError if the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"the two views differ in shape: {list(a.shape)} and {list(b.shape)}")
    z = model(torch.cat([a, b]))
    return z[: len(a)], z[len(a) :]


def export_torchvision(model: SimCLR) -> dict[str, torch.Tensor]:
    """The backbone as a state_dict of `torchvision.models.resnetXX`, without fc; copies.

    Loads strictly once `net.fc` is an Identity (or with strict=False, which then names fc only);
    timm's ResNets of the same name have the same keys. With the small stem conv1.weight is
    [64, 3, 3, 3]: the net needs a 3x3 stride 1 conv1 and no max-pool, as `build_backbone` makes.
    Of norms with domains it is the one of real pictures.
    """
    return {k: v.detach().clone() for k, v in real_state(model.backbone).items()}
