"""Networks of torchvision and timm by name: features are what the last linear layer is given.

    torchvision:resnet50        side, mean and std as its newest published weights have them
    timm:vit_small_patch16_224  as timm's own configuration says; only where timm is installed

Both are classifiers too: their logits give top-1 and top-5 of generated pictures. The number of
classes is that of the weights file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from evaluation.extractors.base import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Extractor,
    Outputs,
    Request,
    facts,
    load_into,
    metric_name,
    needs_weights,
    policy,
    seeded,
    side_of,
    state_of,
)
from evaluation.extractors.dinov2 import normalised
from storage.errors import UsageError, one_line


class Look(NamedTuple):
    """How pictures are shown to a network: side in pixels, mean and std of each channel."""

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Tapped(nn.Module):
    """A classifier that gives what its last linear layer is given, beside its logits.

    order: columns of the logits in the order that is wanted. Errors: UsageError for a network that
    does not end in a linear layer.
    """

    def __init__(self, net: nn.Module, name: str, order: Tensor | None = None) -> None:
        super().__init__()
        last = [m for m in net.modules() if isinstance(m, nn.Linear)]
        if not last:
            raise UsageError(f"{name} has no linear layer, so there are no features in front of it")
        self.net, self.classes = net, last[-1].out_features
        self._seen: list[Tensor] = []
        last[-1].register_forward_pre_hook(lambda _, given: self._seen.append(given[0]))
        self.order = order
        self.name = name

    def forward(self, x: Tensor) -> Outputs:
        self._seen.clear()
        logits = self.net(x)
        if not self._seen or self._seen[-1].ndim != 2 or logits.ndim != 2:
            raise UsageError(f"{self.name} does not end in a linear layer over features [N, d]")
        features = self._seen[-1]
        self._seen.clear()
        if self.order is not None:
            logits = logits[:, self.order.to(logits.device)]
        return Outputs(features, logits)


def open_torchvision(request: Request) -> Extractor:
    """A classifier of torchvision by its name there. Errors: UsageError, CheckpointError."""
    from torchvision import models

    name = request.name
    try:
        listed = models.get_model_weights(name).DEFAULT
    except (ValueError, AttributeError):
        raise UsageError(
            f"torchvision:{name}: torchvision has no classifier of that name; "
            "torchvision.models.list_models() names them"
        ) from None
    shown = listed.transforms()
    look = Look(shown.crop_size[0], tuple(shown.mean), tuple(shown.std))
    return _open(request, "torchvision", look, lambda **more: models.get_model(name, **more))


def open_timm(request: Request) -> Extractor:
    """A classifier of timm by its name there. Errors: UsageError, CheckpointError."""
    try:
        import timm
    except ImportError:
        raise UsageError(f"timm:{request.name} needs timm: pip install timm") from None
    if not timm.is_model(request.name):
        raise UsageError(f"timm:{request.name}: timm has no network of that name")
    said = timm.get_pretrained_cfg(request.name)
    size = (said.test_input_size or said.input_size) if said else (3, 224, 224)
    if said and said.fixed_input_size:
        size = said.input_size
    mean, std = (said.mean, said.std) if said else (IMAGENET_MEAN, IMAGENET_STD)
    look = Look(size[-1], tuple(mean), tuple(std))
    return _open(
        request,
        "timm",
        look,
        lambda **more: timm.create_model(request.name, pretrained=False, **more),
    )


def _open(request: Request, library: str, look: Look, make: Callable[..., nn.Module]) -> Extractor:
    word = f"{library}:{request.name}"
    look = look._replace(side=side_of(request.settings.get("side", str(look.side)), word))
    state: dict[str, Tensor] | None = None
    more: dict[str, Any] = {}
    if request.random is None:
        file = needs_weights(request, word)
        state = state_of(file)
        matrices = [value for value in state.values() if value.ndim == 2]
        if matrices:
            more = {"num_classes": len(matrices[-1])}
    try:
        net = seeded(lambda: make(**more), request.random)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{word}: {one_line(error, 200)}") from None
    if state is not None and request.weights is not None:
        load_into(net, _renamed(state, net), request.weights, word)
    net = Tapped(net, word, _checked(request.order, net, word)).to(request.device)
    resize, policy_name = policy(request.resize, "bicubic")
    own = request.name.replace(".", "_")
    return Extractor(
        metric_name(own, request),
        net,
        net,
        normalised(resize, look.side, look.mean, look.std, request.device),
        {**facts(request, net, look.side, policy_name), "classes": net.classes},
        device=request.device,
    )


def _checked(order: Tensor | None, net: nn.Module, word: str) -> Tensor | None:
    """The order of labels, if it is one of this network's. Errors: UsageError."""
    linear = [m for m in net.modules() if isinstance(m, nn.Linear)]
    if order is not None and linear and int(order.max()) >= linear[-1].out_features:
        raise UsageError(
            f"--label_order names class {int(order.max())}, {word} has {linear[-1].out_features}"
        )
    return order


def _renamed(state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """A state dict under the names that the network has now: timm keeps, beside each network, what
    turns those of its earlier versions and of the originals into them."""
    if set(state) == set(net.state_dict()):
        return state
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    return convert(dict(state), net) if convert is not None else state
