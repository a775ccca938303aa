"""A pretrained network's weights in one with adapters, and training a part of a network only.

The adapters are what LayoutDiffuse adds to a base U-Net: layout attention and its class embeddings,
task prompts and image tokens. Inserting layout attention moves what comes behind it in a stage
(the decoder's Upsample); weights are found again by counting without the adapters.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from models.ddpm.base import BlockSequence
from models.ddpm.layout import ClassEmbedder, LayoutAttention
from models.ddpm.transformer import PromptAttention

# A tied copy of the one table, in each block of the release's files.
_TIED = ".attention.class_embedder.class_embedder.weight"
_TABLE = "cls_embedder.class_embedder.weight"


def adapters(net: nn.Module) -> list[str]:
    """Names of the parameters that a base network does not have, in the network's order."""
    found = set()
    for prefix, module in net.named_modules():
        names: Collection[str] = ()
        if isinstance(module, LayoutAttention | ClassEmbedder):
            names = [name for name, _ in module.named_parameters()]
        elif isinstance(module, PromptAttention):
            names = module.adapters()
        found |= {f"{prefix}.{name}" if prefix else name for name in names}
    return [name for name, _ in net.named_parameters() if name in found]


def base_names(net: nn.Module) -> dict[str, str]:
    """{name in the base network: name in `net`} of everything in `net` that is no adapter."""
    moved = {}
    for prefix, module in net.named_modules():
        if isinstance(module, BlockSequence):
            place = 0
            for i, block in enumerate(module):
                if not isinstance(block, LayoutAttention):
                    moved[f"{prefix}.{i}."] = f"{prefix}.{place}."
                    place += 1
    added, names = set(adapters(net)), {}
    for name in net.state_dict():
        if name not in added:
            start = next((m for m in moved if name.startswith(m)), "")
            names[moved.get(start, "") + name.removeprefix(start)] = name
    return names


def load_pretrained(net: nn.Module, state_dict: Mapping[str, Tensor]) -> list[str]:
    """Weights into `net` by name, of a whole network of its kind or of its base without adapters.

    Returns the names of the parameters that the file has not, which keep their values: adapters.
    In the network's dtype. Errors: ValueError for weights of another network.
    """
    given = {name: value for name, value in state_dict.items() if not name.endswith(_TIED)}
    own = net.state_dict()
    for name, value in state_dict.items():
        if name.endswith(_TIED) and name not in own:
            table = given.setdefault(_TABLE, value)
            if table.shape != value.shape or not bool((table == value).all()):
                raise ValueError(f"the weights have another table of classes at {name}")
    added = set(adapters(net))
    if added & set(given) or not added:
        named = {name: name for name in own}
    else:
        named = base_names(net)
    if unknown := sorted(set(given) - set(named)):
        raise ValueError(
            f"{len(unknown)} of the weights' {len(given)} names are not in the network, such as "
            f"{unknown[0]}: another network, or other arguments of it"
        )
    if missing := sorted(set(named) - set(given) - added):
        raise ValueError(
            f"{len(missing)} of the network's {len(named)} weights are missing in the file, such "
            f"as {missing[0]}: another network, or other arguments of it"
        )
    for name, value in given.items():
        if own[named[name]].shape != value.shape:
            raise ValueError(
                f"{name} has shape {list(value.shape)} in the file and "
                f"{list(own[named[name]].shape)} in the network"
            )
    net.load_state_dict({named[name]: value for name, value in given.items()}, strict=False)
    loaded = {named[name] for name in given}
    return [name for name, _ in net.named_parameters() if name not in loaded]


def freeze(net: nn.Module, trained: Collection[str]) -> list[nn.Parameter]:
    """Train these parameters alone: the others lose `requires_grad`. Returns the trained ones.

    Nothing is recorded up to the first block with a trained parameter, which therefore keeps no
    activations and takes no part in the backward pass; frozen weights behind it get no gradient,
    nothing of them is averaged over ranks. Errors: ValueError for a name that is none.
    """
    parameters = dict(net.named_parameters())
    if unknown := sorted(set(trained) - set(parameters)):
        raise ValueError(f"the network has no parameter {unknown[0]}")
    if not trained:
        raise ValueError("no parameter is left to train")
    wanted = set(trained)
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in wanted)
        if name not in wanted:
            parameter.grad = None
    return [p for p in parameters.values() if p.requires_grad]
