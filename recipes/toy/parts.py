"""Networks of the 2-D tree: in training, by path, and without any training."""

from argparse import Namespace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffusion import toy
from generators.base import WrongKind
from generators.door import open_generator
from generators.fit import Unfit
from generators.toy import Toy
from recipes import room
from recipes.known import inputs_of
from recipes.toy.options import OPTIONS
from runtime.inputs import Inputs
from runtime.rundir import plain
from storage.errors import CheckpointError

EMA_STD = 0.010  # relative width of the power-function EMA
GUIDANCE = 3.0  # weight of the guide


def network(args: Namespace) -> toy.ToyModel:
    """The network in training. The caller normalises its weights, once a step."""
    make, host = partial(toy.ToyModel, 2, args.layers, args.dim), torch.device("cpu")
    net = room.network(make, host, args, OPTIONS, ("dim", "layers"))
    room.batch(args.batch_size, args.dim, host, args, OPTIONS, ("batch_size", "dim"))
    net.forced_weight_norm = False
    return net


def inputs(args: Namespace) -> Inputs:
    """What a run reads, known by content."""
    return inputs_of(args, {}, {"guide_path": "toy_example", "init_from": None})


def load_net(
    path: str | None, device: torch.device | str, results: str | None = None
) -> toy.ToyModel | None:
    """A toy network by its path; None for none. Errors: CheckpointError, UsageError.

    results: the results folder of a run that has one of its own.
    """
    found = load(path, device, results)
    return None if found is None else found.net


def load(path: str | None, device: torch.device | str, results: str | None = None) -> Toy | None:
    """As `load_net`, with what is known of the network."""
    if path is None:
        return None
    try:
        found = open_generator(
            path, kinds=[Toy.kind], script="toy_example", results=results, device=device
        )
    except WrongKind as error:
        raise CheckpointError(f"{path} is a network of kind {error.kind}, not of the toy") from None
    except Unfit as error:
        raise CheckpointError(f"{path} is no toy network: {error}") from None
    assert isinstance(found, Toy)
    return found


def note_of_picture(args: Namespace, net: Toy | None, guide: Toy | None) -> dict[str, Any]:
    """What `plot` draws: {"settings": what decides it, "args": the options}, JSON values."""
    settings = {
        "net": "untrained" if net is None else net.content,
        "guide": None if guide is None else guide.content,
        "guidance": None if guide is None else args.guidance,
        "cls": args.cls,
        "samples": args.n_samples,
        "seed": args.seed,
    }
    return {"settings": settings, "args": {key: plain(v) for key, v in vars(args).items()}}


def optimizer(args: Namespace, net: toy.ToyModel) -> torch.optim.Adam:
    """Adam as the toy of autoguidance uses it."""
    return torch.optim.Adam(net.parameters(), lr=args.lr, betas=(0.9, 0.99), fused=True)


def loss(
    net: toy.ToyModel,
    x: Tensor,
    sigma: Tensor,
    target: Tensor,
    guide: toy.ToyModel | None = None,
) -> Tensor:
    """Loss [N] of every point; with a guide, of the score that it guides.

    x [N, 2] noisy points, sigma [N], target [N, 2] the exact score there.
    """
    score = net.score(x, sigma)
    if guide is not None:
        with torch.no_grad():
            other = guide.score(x, sigma)
        score = toy.extrapolate(score, other, GUIDANCE)
    return toy.loss(score, target, sigma)


def summed(losses: Tensor | None) -> Tensor | None:
    """Losses [N] as sums over both dimensions, as a draw takes them: those of `loss` are means."""
    return None if losses is None else 2 * losses


def untrained(seed: int, device: torch.device) -> toy.ToyModel:
    """A small network as `seed` initialises it, for the smoke presets of test and plot."""
    torch.manual_seed(seed)
    return toy.ToyModel(2, 2, 16).to(device).eval().requires_grad_(False)
