"""calculate_metrics.py's options -> what is measured, against what, by what."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from evaluation.extractors import Extractor, split_word
from evaluation.extractors.resizing import POLICIES
from evaluation.statistics import Statistics, is_statistics, load_statistics
from generators import edm2
from generators.base import Generator, Setup
from generators.ddpm import DDPM
from generators.door import make_generator, open_generator
from generators.edm2 import EDM2
from generators.imle import ConditionalIMLE, UnconditionalIMLE
from generators.omnigan import Omnigan
from recipes import room
from recipes.generate.options import OPTIONS, SEEDS
from recipes.generate.options import check_unused as check_kind
from recipes.generate.parts import check_imle
from recipes.generate.parts import guide as open_guide
from recipes.metrics.conditional import Conditional
from recipes.metrics.extractors import classifier, open_all
from recipes.metrics.layouts import ADVICE, LayoutSet, SceneFID
from recipes.metrics.measures import CLASSIFIER, NO_FEATURES
from recipes.metrics.names import (
    CONDITIONAL,
    OF_CROPS,
    OF_FEATURES,
    OF_MOMENTS,
    Metric,
    words_of,
)
from recipes.metrics.passing import Seen, look
from recipes.metrics.pictures import (
    Drawn,
    Inputs,
    Stored,
    drawn_any,
    drawn_conditional,
    drawn_ddpm,
    drawn_edm2,
    drawn_translated,
    drawn_unconditional,
    inputs_of,
    stored,
)
from recipes.take import take
from runtime.distributed import say
from runtime.options import kept_name, rows_of
from storage.errors import UsageError
from storage.files import expanded, hash_file

# Kinds of extractors that are no classifiers; of a program only running it tells.
WITHOUT_CLASSES = ("dinov2", "dinov2_vitl14", "dinov2_vitb14", "simclr", "pixels")


class Tools(NamedTuple):
    """extractors: by name. names: word of each -> its name. classifier: None without one."""

    extractors: dict[str, Extractor]
    names: dict[str, str]
    classifier: Extractor | None

    def all(self) -> dict[str, Extractor]:
        """Extractors, and the classifier among them under its own word."""
        more = {} if self.classifier is None else {CLASSIFIER: self.classifier}
        return {**self.extractors, **more}

    def about(self) -> dict[str, Any]:
        """What stands beside figures, by name."""
        return {name: e.about for name, e in self.all().items()}


def batch_of(args: Namespace, device: torch.device) -> int:
    """Pictures that networks are given at a time."""
    return args.batch or (64 if device.type == "cuda" else 16)


def checked_batch(
    args: Namespace, device: torch.device, tools: Tools, pictures: int, res: int | None = None
) -> int:
    """`batch_of`, once it is known that memory holds so many of the pictures, as extractors take
    them, or of side `res` as they are drawn. Errors: UsageError."""
    batch = batch_of(args, device)
    sides = [res or 1, *(one.about.get("side") or 1 for one in tools.all().values())]
    room.batch(min(batch, pictures), 3 * max(sides) ** 2, device, args, {}, ("batch",))
    return batch


def tools(args: Namespace, device: torch.device, known: Statistics | None = None) -> Tools:
    """Extractors of all metrics, and the classifier. known: the reference, whose resize policy
    holds where none is asked for. Errors: UsageError, CheckpointError."""
    words = words_of(args.wanted, args.extractor)
    policies = {
        name.removeprefix("random_"): policy
        for name, policy in (known.resize if known else {}).items()
        if policy in POLICIES
    }
    opened = open_all(words, args, device, policies)
    names = {word: e.name for word, e in opened.items()}
    judge = classifier(args, device) if getattr(args, "classifier", None) else None
    return Tools({e.name: e for e in opened.values()}, names, judge)


def check_policies(found: Statistics, made: Mapping[str, Extractor], option: str) -> None:
    """That statistics are of these very networks, on pictures resized so. Errors: UsageError."""
    about = found.about.get("extractors", {})
    for name, extractor in made.items():
        if name not in found.moments:
            continue
        theirs, own = found.resize.get(name), extractor.about["resize"]
        if theirs is None:
            say(f"{option}: not known how its pictures were resized for {name}; here: {own}")
        elif theirs != own:
            raise UsageError(
                f"{option} is of pictures resized by {theirs}, not {own}: --resize {theirs}"
            )
        digest = about.get(name, {}).get("sha256")
        if digest is not None and digest != extractor.about["sha256"]:
            raise UsageError(f"{option} is of another network than {name} ({digest[:12]})")


def check_there(found: Statistics, wanted: Sequence[Metric], names: Mapping[str, str]) -> None:
    """That statistics have what metrics take of them, before pictures are drawn. UsageError."""
    for metric in wanted:
        if metric.measure == "modes" and metric.word is None:
            raise UsageError(
                f"--metrics {metric.name}: of --classifier's classes it needs a data set as --ref, "
                "statistics have none; without --classifier modes are clusters"
            )
        if metric.measure not in OF_FEATURES or metric.word is None:
            continue
        name, known = names[metric.word], ", ".join(sorted(found.moments))
        if name not in found.moments:
            raise UsageError(f"--ref has no statistics of {name}, only of {known}")
        if metric.measure not in OF_MOMENTS and name not in found.features:
            raise UsageError(NO_FEATURES.format(metric=metric.name, option="--ref"))


def check_classes(wanted: Sequence[Metric], labelled: bool) -> None:
    """That there are classes for metrics of classes, before pictures are drawn. labelled: whether
    the pictures have classes. Errors: UsageError."""
    for metric in wanted:
        kind = split_word(metric.word)[0] if metric.word else ""
        if metric.measure == "is" and kind in WITHOUT_CLASSES:
            raise UsageError(f"--metrics {metric.name}: {kind} has no classes, inception has")
        if metric.measure == "top" and not labelled:
            raise UsageError("--metrics top: the pictures have no classes, so none can be right")


def check_same(dest: Path, about: Mapping[str, Any], features: bool) -> None:
    """That a file has the statistics that would be written there. DataError, UsageError."""
    found = load_statistics(dest)
    same = all(found.about.get(k) == v for k, v in json.loads(json.dumps(about)).items())
    if not same or (features and not found.features):
        raise UsageError(f"{dest} is of other pictures or networks: another --dest, or --overwrite")


class Reference(NamedTuple):
    """--ref: statistics of a file, or pictures to look at."""

    statistics: Statistics | None
    pictures: Stored | None
    about: dict[str, Any]

    def seen(self, tools: Tools, batch: int, keep: bool) -> Seen:
        """Features and moments of all extractors. All ranks call."""
        if self.statistics is None:
            assert self.pictures is not None
            return look(self.pictures, tools.all(), batch=batch, keep=keep, desc="reference")
        s = self.statistics
        n = max((m.images or 0 for m in s.moments.values()), default=0)
        made = s.about.get("data")
        res = made.get("res") if isinstance(made, dict) else None
        side = res if isinstance(res, int) else 0
        return Seen(
            n, self.about, features=s.features, moments=s.moments, sides=(side, side)
        )  # fmt: skip


def warn_of_sizes(seen: Seen, real: Seen | None) -> None:
    """Say so where pictures and reference are of other sizes, which any network sees."""
    if real is None or not seen.sides[1] or not real.sides[1] or seen.sides == real.sides:
        return
    ours, theirs = (f"{a} px" if a == b else f"{a} to {b} px" for a, b in (seen.sides, real.sides))
    say(
        f"warning: the pictures are of {ours}, the reference of {theirs}, and figures tell that "
        "too; --res makes both alike"
    )


def reference(args: Namespace, res: int | None = None, crop: str | None = None) -> Reference | None:
    """What --ref names. res, crop: of pictures, unless --res says. DataError, UsageError."""
    if args.ref is None:
        return None
    path = expanded(args.ref)
    if is_statistics(path):
        found = load_statistics(path)
        about = {
            "kind": "statistics", "file": path.name, "format": found.about.get("format"),
            "sha256": hash_file(path), "of": found.about.get("data"),
        }  # fmt: skip
        return Reference(found, None, about)
    if path.is_file() and path.suffix.lower() in (".npz", ".pkl"):
        raise UsageError(
            f"--ref {args.ref} holds no statistics: neither of calculate_metrics.py ref, nor an "
            ".npz of mu and sigma, nor a pickle of NVIDIA's"
        )
    pictures = stored(args, args.ref, "--ref", split="train", res=res, crop=crop)
    return Reference(None, pictures, pictures.about)


def held_out(args: Namespace, res: int | None, crop: str | None) -> Stored | None:
    """The pictures of --held. Errors: DataError."""
    if args.held is None:
        return None
    return stored(args, args.held, "--held", split="val", res=res, crop=crop)


# ----------------------------------------------------------------------------------------- drawing


class Network(NamedTuple):
    """The network of gen, its guide, its inputs, its layouts."""

    net: Generator
    guide: EDM2 | None
    inputs: Inputs | None
    layouts: LayoutSet | None = None

    @property
    def crop(self) -> str | None:
        """How real pictures became its targets, where its snapshot says."""
        crop = self.net.snapshot.config.get("crop")
        return crop if crop in ("center", "squash") else None


def network(args: Namespace, device: torch.device) -> Network:
    """The network of --net, or of the smoke preset an untrained one. Errors: UsageError,
    CheckpointError, DataError."""
    edm2.check_noise_device(args.noise_device)
    if args.net is None:
        say("no --net: an untrained network with random weights, its figures mean nothing")
        net = make_generator(edm2.untrained(), take(Setup, args, device=device))
    else:
        net = take(open_generator, args, path=args.net, device=device, say=say, option="--net")
    _check_kind(args, net)
    guide, inputs, layouts = None, None, None
    if isinstance(net, DDPM):
        layouts = _layouts(args, net)
    elif isinstance(net, EDM2):
        net.check_pictures()
        guide = open_guide(args, net, device, say) if args.gnet and args.guidance != 1 else None
    elif isinstance(net, ConditionalIMLE | Omnigan):
        inputs = inputs_of(args, net)
    elif net.input_size is not None:
        raise UsageError(f"a {net.kind!r} snapshot draws images of images: only camnet's here")
    return Network(net, guide, inputs, layouts)


def _layouts(args: Namespace, net: DDPM) -> LayoutSet | None:
    net.check_pictures()
    if args.gnet:
        raise UsageError(f"--guide {args.gnet}: of EDM2's networks here, not of {net.kind}")
    if args.data is not None:
        return LayoutSet(args, net, max(len(seeds) for seeds in _seeds(args, args.num)))
    if odd := [m.name for m in args.wanted if m.measure in OF_CROPS]:
        raise UsageError(f"--metrics {odd[0]} needs --data LAYOUTS: {ADVICE}")
    return None


def _check_kind(args: Namespace, net: Generator) -> None:
    """An option or a metric of another kind of network does not pass silently. UsageError."""
    asked = Namespace(**vars(args))
    asked.seeds = SEEDS  # generate_images.py's own, as good as not given
    for name, value in _ABSENT.items():
        # of IMLE there, and here of networks with layouts too
        ours = isinstance(net, DDPM) and name in ("data", "data_path")
        if ours or not hasattr(asked, name) or name in ("num_images", "samples", "seed"):
            setattr(asked, name, value)
    check_kind(asked, net.kind)
    if isinstance(net, ConditionalIMLE | UnconditionalIMLE):
        check_imle(args, net)
    if args.guidance != 1 and not isinstance(net, EDM2 | DDPM):
        raise UsageError(
            f"--guidance {args.guidance:g}: no use for it with a network of {net.kind}"
        )
    odd = [m.name for m in args.wanted if m.measure in CONDITIONAL]
    if odd and not isinstance(net, ConditionalIMLE):
        raise UsageError(f"--metrics {odd[0]} is of networks with inputs, not of {net.kind}")
    odd = [m.name for m in args.wanted if m.measure in OF_CROPS]
    if odd and not isinstance(net, DDPM):
        raise UsageError(f"--metrics {odd[0]} is of networks with layouts, not of {net.kind}")


_ABSENT = {kept_name(row): row[2] for row in rows_of(OPTIONS)}


Watch = Conditional | SceneFID


def ranges(
    args: Namespace, found: Network, tools: Tools | None = None
) -> Iterator[tuple[Drawn, Watch | None]]:
    """The pictures of every range of seeds. tools: what embeds crops. Errors: UsageError."""
    measures = {m.measure for m in args.wanted} & CONDITIONAL
    for seeds in _ranges(args, found):
        net = found.net
        if isinstance(net, DDPM):
            yield drawn_ddpm(args, net, found.layouts, seeds), _crops(args, found, tools, seeds)
        elif isinstance(net, ConditionalIMLE):
            assert found.inputs is not None
            drawn = drawn_conditional(args, net, found.inputs, seeds)
            watch = None
            if measures:
                watch = Conditional(measures, found.inputs.targets, args, len(seeds), net.device)
            yield drawn, watch
        elif isinstance(net, EDM2):
            yield drawn_edm2(args, net, found.guide, seeds), None
        elif isinstance(net, Omnigan):
            assert found.inputs is not None
            yield drawn_translated(args, net, found.inputs), None
        elif isinstance(net, UnconditionalIMLE):
            yield drawn_unconditional(args, net, seeds), None
        else:
            yield drawn_any(args, net, seeds), None


def _crops(
    args: Namespace, found: Network, tools: Tools | None, seeds: Sequence[int]
) -> SceneFID | None:
    words = [m.word for m in args.wanted if m.measure in OF_CROPS]
    if not words or tools is None or found.layouts is None:
        return None
    names = [tools.names[word] for word in words if word is not None]
    own = {name: tools.extractors[name] for name in names}
    device = next(found.net.net.parameters()).device
    return SceneFID(found.layouts, own, args, len(seeds), batch_of(args, device), device)


def _ranges(args: Namespace, found: Network) -> Sequence[range]:
    if isinstance(found.net, Omnigan):
        if args.seeds is not None:
            raise UsageError("--seeds: omnigan draws nothing by chance")
        return [range(1)]
    return _seeds(args, args.samples if isinstance(found.net, ConditionalIMLE) else args.num)


def _seeds(args: Namespace, count: int) -> Sequence[range]:
    return [range(args.seed, args.seed + count)] if args.seeds is None else args.seeds


def stem(args: Namespace, net: Generator | None = None) -> str:
    """The readable part of the folder's name."""
    if net is None:
        return Path(args.images).name
    if net.file is None:
        return "untrained"
    run = run_of(net)
    return f"{run}-{net.file.stem}" if run else net.file.stem


def run_of(net: Generator) -> str | None:
    """The name of the run whose network it is; None if it is of none."""
    folders = net.file.parents if net.file is not None else ()
    return next((p.name for p in folders if (p / "args.json").exists()), None)
