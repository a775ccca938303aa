"""TrainISICLE.py's options -> views from a generator, what augments and encodes them, and what is
looked at and kept."""

import hashlib
import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from data.uint8_cache import UInt8Cache
from data.views.generated import (
    CachedViews,
    FilteredViews,
    Sampler,
    ViewSource,
    ms_per_view,
)
from data.views.naming import root_ids
from data.views.recipes import Recipe
from data.views.splits import Plain
from data.views.stored import ViewCache, open_views
from models import DCL, MultiPositive, NTXent, SimCLR
from models.domain_norm import both_domains, by_domain, convert_domain_bn, real_state
from models.simclr import two_views
from recipes import initial
from recipes.isicle.options import OPTIONS, all_synthetic
from recipes.known import inputs_of, of_views
from recipes.simclr import parts as simclr
from recipes.simclr.files import read_encoder, save_epoch
from recipes.simclr.parts import Pictures
from recipes.views import parts as view_parts
from recipes.views.options import is_filtered
from runtime.inputs import Inputs
from runtime.run import Run
from storage.dirs import find_output
from storage.errors import UsageError
from storage.pictures import Captions

SHOWN = (8, 6)  # pictures and draws of a grid

# ------------------------------------------------------------ what follows from the pictures


def fit(args: Namespace) -> list[str]:
    """As SimCLR's, and --joint from --joint_steps. Errors: DataError, UsageError."""
    said = simclr.fit(args, OPTIONS)
    if args.joint_steps:
        per_epoch = max(1, len(simclr.trained_on(args)) // args.bs)
        args.joint = -(-args.joint_steps // per_epoch)  # whatever --epochs, which may be raised
    return said


def asked(args: Namespace) -> tuple[Namespace, tuple[str, ...]]:
    """As SimCLR's: a run is known by --joint_steps where --joint follows from it."""
    options, free = simclr.asked(args, OPTIONS)
    known_by = {"joint_steps"} if args.joint_steps else set()
    return options, tuple(name for name in free if name not in known_by)


def inputs(args: Namespace) -> Inputs:
    """As SimCLR's, with the generator and the stored views."""
    sets = {"data": simclr.trained_on(args)}
    return inputs_of(args, sets, {"init_from": None, "net": None}) | of_views(args.cache)


# ------------------------------------------------------------------------------ network and loss


def network(args: Namespace, run: Run) -> SimCLR:
    """SimCLR's encoder on the run's device; with --domain_bn norms for both kinds of views."""
    net = simclr.network(args, run.world_size, run.device)
    run.say(net.describe())
    net.to(run.device).to(memory_format=simclr.layout(args))
    if args.domain_bn:
        convert_domain_bn(net)
    return net


def start_from(args: Namespace, run: Run, net: SimCLR) -> None:
    """After run.restore: begin with the weights at --init_from, in a fresh run. With --domain_bn
    both kinds of norms begin as the file's."""

    def read(file: Path, say: initial.Say) -> initial.Weights:
        found = read_encoder(file, say)
        return found._replace(state=both_domains(found.state, net))

    initial.start(run, net, args.init_from, "simclr", read=read)


def loss(args: Namespace) -> NTXent | DCL | MultiPositive:
    """SimCLR's, of two views; of --pair multi NT-Xent with several positives."""
    return MultiPositive(args.temp, args.reduce) if args.pair == "multi" else simclr.loss(args)


def augmentation(args: Namespace, recipe: Recipe) -> Callable[[Tensor, Tensor], Tensor]:
    """(uint8 [B, 3, s, s], keys int64 [B]) -> float32 [B, 3, r, r]."""
    if args.augs != "none":
        return simclr.views(args, recipe)
    plain = Plain(recipe.size, recipe.mean, recipe.std)
    return lambda images, keys: plain(images).contiguous(memory_format=simclr.layout(args))


def encode(forward: nn.Module, views: list[Tensor], synthetic: Tensor | None) -> list[Tensor]:
    """Projections [B, d] of each view, in one forward; synthetic [V, B] for domain norms."""
    if synthetic is not None:
        z = by_domain(forward, torch.cat(views), synthetic.flatten())
        return list(z.split(len(views[0])))
    if len(views) == 2:
        return list(two_views(forward, *views))
    return list(forward(torch.cat(views)).split(len(views[0])))


def contrast(loss_fn: NTXent | DCL | MultiPositive, z: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(loss, contrastive top-1) of the projections of each view."""
    if isinstance(loss_fn, MultiPositive):
        stacked = torch.stack(z)
        return loss_fn(stacked), loss_fn.top1(stacked.detach())
    return loss_fn(*z), loss_fn.top1(*(part.detach() for part in z))


# ----------------------------------------------------------------------- where views come from


def synthetic_views(
    args: Namespace, net: str | None, run: Run, trained: Pictures
) -> tuple[ViewSource | None, Sampler | None, str]:
    """The source that the options ask for, what draws for it (None where there is none), and a
    digest of the generator or the cache.

    net: the generator's file. Errors: UsageError.
    """
    if args.pair == "real-real":
        if args.net:
            run.say("--pair real-real: --net has no influence and is not read")
        return None, None, ""
    quiet, size = not run.is_main, args.picture_size
    if args.views == "cache":
        stored = open_views(
            find_output(args.cache, "generate_views"),
            trained.source,
            size,
            place=args.place,
            quiet=quiet,
        )
        refuse_equal_views(args, stored)
        images, rows = stored.images, stored.rows
        if args.place == "memory":
            images, rows = images.to(run.device), rows.to(run.device)
        made = json.dumps([stored.settings, list(images.shape)], sort_keys=True)
        origin = hashlib.sha256(made.encode()).hexdigest()
        return CachedViews(images, run.device, rows=rows), None, origin
    sampler, settings = view_parts.sampler(args, net, size, run.device, run.say)
    inputs = UInt8Cache(trained.source, sampler.input_size, quiet=quiet).to(run.device).images
    real = trained.images
    if real.device.type != run.device.type and is_filtered(args):
        raise UsageError("--lpips_min and --lpips_max on a GPU need --place memory")
    keys = root_ids(trained.source).to(run.device)
    source = view_parts.source(args, sampler, inputs, real, keys)
    return source, sampler, settings["snapshot"]


def refuse_equal_views(args: Namespace, stored: ViewCache) -> None:
    """UsageError for pairs without augmentation that are one and the same stored picture."""
    how = stored.settings
    alike = stored.images.shape[1] == 1 or how.get("code") == "fixed"
    alike = alike or how.get("source") == "upsampled" or how.get("temperature") == 0
    if args.augs == "none" and all_synthetic(args) and alike:
        raise UsageError(
            f"--pair {args.pair} --augs none: {args.cache} holds one view of a picture, or equal "
            "ones, and two equal views teach nothing"
        )


class Origin:
    """What a run's views are drawn from: a resumed run must not go on with others.

    Errors, when loaded: ValueError.
    """

    def __init__(self, digest: str) -> None:
        self.digest = digest

    def state_dict(self) -> dict[str, str]:
        return {"digest": self.digest}

    def load_state_dict(self, state: dict[str, str]) -> None:
        if state["digest"] != self.digest:
            raise ValueError(
                "--net or --cache has changed since this run began; put back what it was, or "
                "begin another run"
            )


# ----------------------------------------------------------------------- what is looked at, kept


def show(run: Run, trained: Pictures, source: ViewSource | None) -> None:
    """A grid: the real picture, then draws of it; and what a view costs."""
    if source is None or not run.is_main:
        return
    if not isinstance(source, CachedViews):
        ids = torch.arange(min(run.args.view_batch, len(trained.images)), device=run.device)
        cost = ms_per_view(source, ids, repeats=1)
        run.say(f"a view takes {cost:.3g} ms, {len(ids)} at a time")
    count = min(SHOWN[0], len(trained.images))
    ids = torch.arange(count) * len(trained.images) // count
    columns = [simclr.images_at(trained.images, ids, run.device)]
    columns += [source(ids.to(run.device), draw).to(run.device) for draw in range(SHOWN[1])]
    if isinstance(source, FilteredViews):
        found = source.take_counts().figures()  # these are not training's
        run.say(
            f"the filter takes {found['acceptance']:.0%} of the draws; of {found['stood_in']:.0%} "
            "of the views the picture itself stands in"
        )
    shown = torch.stack(columns, 1).flatten(0, 1).float() / 255
    names = ["picture", *(f"view {draw + 1}" for draw in range(SHOWN[1]))]
    labels = trained.labels[ids.to(trained.labels.device)].tolist()
    rows = [trained.classes[label] for label in labels] if len(trained.classes) > 1 else []
    title = "pictures and synthetic views of them, before augmentation"
    run.sample_grid("views", shown, len(columns), Captions(title, names, rows))


def save(
    run: Run, net: SimCLR, optimizer: torch.optim.Optimizer, recipe: Recipe, epoch: int
) -> None:
    """As TrainSimCLR.py. With --domain_bn it is the network for real pictures, beside an optimizer
    that has taken no step: checkpoints, not these files, are for resuming."""
    if run.args.domain_bn:
        net = for_real(run, net)
        optimizer = simclr.optimizer(run.args, net)
    save_epoch(run, net, optimizer, recipe, epoch)


def for_real(run: Run, net: SimCLR) -> SimCLR:
    """The network that real pictures see: of one with domains a copy with plain norms."""
    if not run.args.domain_bn:
        return net
    plain = SimCLR(**net.config)
    plain.load_state_dict(real_state(net))
    return plain.to(run.device).to(memory_format=simclr.layout(run.args)).train(net.training)
