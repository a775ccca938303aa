"""Options -> the generator, its guide, its sampler, and the inputs of one that needs pictures."""

import functools
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from data.pyramids import Pyramid
from data.registry import open_source
from diffusion.generate import Sampler
from diffusion.samplers import heun
from generators import edm2, imle
from generators.base import Generator, Setup, WrongKind
from generators.door import make_generator, open_generator
from generators.edm2 import EDM2
from generators.imle import ConditionalIMLE
from recipes.generate.options import OPTIONS, SAMPLER
from recipes.take import take
from runtime.options import tagged
from storage.dirs import data_home
from storage.errors import UsageError


def generator(
    args: Namespace, device: torch.device, say: Callable[[str], object] = print
) -> Generator:
    """The network of --net, or of a smoke preset an untrained one. Errors: UsageError,
    CheckpointError."""
    if args.net is not None:
        return take(open_generator, args, path=args.net, device=device, say=say)
    say("no --net: an untrained network with random weights, its images mean nothing")
    made = edm2.untrained() if args.preset == "smoke-edm2" else imle.untrained()
    return make_generator(made, take(Setup, args, device=device))


def guide(
    args: Namespace, net: EDM2, device: torch.device, say: Callable[[str], object] = print
) -> EDM2:
    """The network of --guide. Errors: UsageError if it is no guide for `net`."""
    found = _edm2(args, "--guide", args.gnet, device, say)
    try:
        net.check_guide(found)
    except ValueError as error:
        raise UsageError(f"--guide {args.gnet}: {error}") from None
    return found


def sibling(
    args: Namespace, file: Path, device: torch.device, say: Callable[[str], object] = print
) -> EDM2:
    """A network at another EMA length. Errors: UsageError if it is of another kind."""
    return _edm2(args, "--sweep_ema:", file, device, say)


def _edm2(
    args: Namespace,
    option: str,
    path: str | Path,
    device: torch.device,
    say: Callable[[str], object],
) -> EDM2:
    try:
        found = take(open_generator, args, path=path, kinds=[EDM2.kind], device=device, say=say)
    except WrongKind as error:
        raise UsageError(f"{option} {error}") from None
    assert isinstance(found, EDM2)
    return found


def sampler(args: Namespace) -> Sampler:
    """Heun's method with the settings asked for."""
    settings = {name: getattr(args, name) for name in tagged(OPTIONS, SAMPLER)}
    return functools.partial(heun, **settings)


def inputs(args: Namespace, net: ConditionalIMLE) -> tuple[list[str], Tensor, Tensor]:
    """Names, ids [N] and inputs [N, 3, r0, r0] in [0, 1], evenly spaced over the data. Errors:
    UsageError."""
    if args.data is None:
        raise UsageError("--data is missing: this network needs input images")
    source = open_source(args.data, Path(args.data_path or data_home()), split="val")
    pyramid = Pyramid(source, [net.input_size], crop=net.snapshot.config["crop"])
    count = min(args.num_images, len(source))
    ids = [i * len(source) // count for i in range(count)]
    names = [f"{i:06d}_{Path(source.path(i)).stem}" for i in ids]
    x = torch.stack([pyramid[i][0] for i in ids]).float() / 255
    return names, torch.tensor(ids), x
