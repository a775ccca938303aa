"""Options -> the generator, its guide, its sampler, and the inputs of one that needs pictures."""

import functools
import hashlib
import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from data.pyramids import Pyramid
from data.registry import find, open_source
from data.sources import check_outside, has_native, is_drawn
from data.told import told
from data.views.naming import set_name
from diffusion.generate import Sampler
from diffusion.samplers import heun
from generators import ddpm, edm2, imle
from generators.base import Generator, Setup, WrongKind
from generators.ddpm import DDPM
from generators.door import make_generator, open_generator
from generators.edm2 import EDM2
from generators.imle import ConditionalIMLE
from generators.omnigan import Omnigan
from recipes import room
from recipes.generate.options import MAX_SEEDS, OPTIONS, SAMPLER
from recipes.take import take
from runtime.options import tagged
from storage.dirs import data_home
from storage.errors import DataError, UsageError


def generator(
    args: Namespace, device: torch.device, say: Callable[[str], object] = print
) -> Generator:
    """The network of --net, or of a smoke preset an untrained one. Errors: UsageError,
    CheckpointError, DataError for what cannot be fetched."""
    edm2.check_noise_device(args.noise_device)  # before hours of fetching
    if args.net is not None:
        return take(open_generator, args, path=args.net, device=device, say=say, option="--net")
    say("no --net: an untrained network with random weights, its images mean nothing")
    kinds = {"smoke-edm2": edm2.untrained, "smoke-ddpm": ddpm.untrained}
    made = kinds.get(args.preset, imle.untrained)()
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
        found = take(
            open_generator,
            args,
            path=path,
            kinds=[EDM2.kind],
            device=device,
            say=say,
            option=option.rstrip(":"),
        )
    except WrongKind as error:
        raise UsageError(f"{option} {error}") from None
    assert isinstance(found, EDM2)
    return found


def check_room(args: Namespace, net: Generator, pictures: int, samples: int = 0) -> None:
    """That memory holds a batch of `pictures`, and all `samples` of an input. Errors: UsageError,
    also for more pictures than a command draws.

    Of diffusion networks the features of the first convolution count, of IMLE those of the last
    level, of others the picture.
    """
    if pictures > MAX_SEEDS:
        raise UsageError(
            f"{pictures} pictures, at most {MAX_SEEDS} at a time: fewer --seeds, --samples or "
            "--num_images"
        )
    values = 3 * net.resolution**2
    if isinstance(net, EDM2 | DDPM):
        side = net.net.img_resolution if isinstance(net, EDM2) else net.side
        values = side**2 * next((p.shape[0] for p in net.net.parameters() if p.ndim == 4), 3)
    elif isinstance(net, ConditionalIMLE):
        values = net.resolution**2 * net.net.config["resid_nc"][-1]
    device = next(net.net.parameters()).device
    rows = min(args.batch, samples or pictures)
    room.batch(rows, values, device, args, OPTIONS, ("batch",))
    host = torch.device("cpu")
    room.batch(samples, 3 * net.resolution**2, host, args, OPTIONS, ("samples",))


def sampler(args: Namespace) -> Sampler:
    """Heun's method with the settings asked for."""
    settings = {name: getattr(args, name) for name in tagged(OPTIONS, SAMPLER)}
    return functools.partial(heun, **settings)


def temperature_of(args: Namespace) -> float | list[float]:
    """Of the samples, as records have it: a number where it is one for all, and the last once."""
    heats: list[float] = list(args.temperature)
    while heats[-2:-1] == heats[-1:]:
        heats.pop()
    return heats if len(heats) > 1 else heats[0]


def check_imle(args: Namespace, net: Generator) -> None:
    """UsageError where the network cannot do what --consistency or --temperature asks for."""
    if not isinstance(net, ConditionalIMLE):
        if args.consistency is not None:
            raise UsageError(f"--consistency {args.consistency}: this network has no input")
        if temperature_of(args) != 1:
            heats = " ".join(f"{heat:g}" for heat in args.temperature)
            raise UsageError(
                f"--temperature {heats}: this network has no input, and scales its codes to one "
                "length"
            )
    elif args.consistency is not None:
        imle.asked(net.net, args.consistency, net.net.task)


class Inputs(NamedTuple):
    """Pictures to draw from.

    data: the data set's name and split. names, ids int64 [N]: of the pictures. x: float
    [N, 3, r0, r0] in [0, 1]. targets: uint8 [N, 3, r, r], what the network's images are of; None
    for one that is not known, since the picture itself is smaller.
    """

    data: str
    names: list[str]
    ids: Tensor
    x: Tensor
    targets: list[Tensor | None]

    def checksum(self) -> str:
        """Of what decides how images look and are called, hex."""
        sha = hashlib.sha256(json.dumps([self.names, self.ids.tolist()]).encode())
        sha.update(self.x.contiguous().numpy().data)
        return sha.hexdigest()


def inputs(
    args: Namespace,
    net: ConditionalIMLE | Omnigan,
    outdir: Path | None = None,
    say: Callable[[str], object] = print,
) -> Inputs:
    """Pictures evenly spaced over the data, those left out that cannot be read.

    outdir: where results go, which must not be among the pictures. Errors: UsageError, DataError.
    """
    if args.data is None:
        raise UsageError("--data is missing: this network needs input images")
    if isinstance(net, ConditionalIMLE) and net.input_channels != 3:
        raise UsageError(
            f"--net {net.file} draws of maps of {net.input_channels} classes, which no --data has: "
            "imle_lab.load_generator(FILE).draw(inputs=...) takes them"
        )
    home = Path(args.data_path or data_home())
    splits = find(str(args.data), home).splits or ()
    split = next((name for name in ("val", "test", "train") if name in splits), "val")
    if splits and split != "val":
        say(f"{args.data} has no split val: taking {split}")
    sizes = [net.input_size or net.resolution, net.resolution]
    source = open_source(args.data, home, split=split, sizes=sizes)
    say(told(source))
    if outdir is not None:
        check_outside(source, outdir, "--outdir")
    crop = net.snapshot.config.get("crop", "center")
    pyramid = Pyramid(source, sizes, crop=crop, max_bad=len(source))
    count = min(args.num_images, len(source))
    numbers, shown, targets = [], [], []
    for i in (i * len(source) // count for i in range(count)):
        try:
            side = min(source.image(i).shape[:2])
            x, (target,) = pyramid[i]
        except DataError as error:
            if count == 1:
                raise
            say(f"left out: {error}")
            continue
        if pyramid.shown(i) != i:  # no stand-in either
            say(f"left out: {source.path(i)}, which cannot be read")
            continue
        exact = is_drawn(source) or has_native(source, net.resolution, pyramid.crop)
        numbers.append(i)
        shown.append(x)
        targets.append(target if exact or side >= net.resolution else None)
    if not numbers:
        raise DataError(f"--data {args.data}: none of {count} pictures can be read")
    names = [f"{i:06d}_{_short(Path(source.path(i)).stem)}" for i in numbers]
    x = torch.stack(shown).float() / 255
    return Inputs(set_name(source), names, torch.tensor(numbers), x, targets)


def _short(stem: str) -> str:
    """A name that leaves room for more in the name of a file."""
    return stem if len(stem.encode(errors="surrogateescape")) <= 200 else stem[:40]
