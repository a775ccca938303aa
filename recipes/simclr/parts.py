"""TrainSimCLR.py's options -> pictures, views, network, loss, optimizer, learning rate."""

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from data.registry import asking_for
from data.sizes import shorter_side
from data.sources import Source, evenly
from data.told import told
from data.uint8_cache import UInt8Cache
from data.views.recipes import (
    NORMALISATIONS,
    ExactViews,
    FoldedViews,
    Recipe,
)
from data.views.splits import get_data_splits, get_ssl_data_augs, own_eval, pooled_splits
from models import DCL, DCLW, LARC, LARS, NTXent, SimCLR, lars_groups, scaled_lr, warmup_cosine
from models.optim import google_lr, original_lr
from recipes import room
from recipes.known import inputs_of
from recipes.take import take
from runtime.inputs import Inputs
from runtime.options import EXECUTION, Rules, Table, tagged
from runtime.place import place
from runtime.run import Run
from storage.dirs import data_home
from storage.errors import DataError, UsageError

Say = Callable[[str], None]
LOSSES: dict[str, Callable[..., NTXent | DCL]] = {
    "ntxent": NTXent,
    "dcl": DCL,
    "dclw": DCLW,
}
LIST_SEED = 0  # of which pictures are held out: the same for every --seed
LEAST_SIDE = 8  # of views whose size is taken from the pictures

# ------------------------------------------------------------ what follows from the pictures


def fit(args: Namespace, table: Table) -> list[str]:
    """Fill in what is not given and follows from the pictures; lines that say what came out.

    The side of views, of a data set that the registry does not know. With --steps the batch, a
    power of two, if there are fewer pictures; --epochs, --eval_iter and --snapshot_every where
    they are not given.
    A run is known by what was `asked` for instead; gone on with, it finds the same values, since
    other pictures are refused.
    table: the options' rows. Errors: DataError, UsageError.
    """
    if args.crop_size is not None and args.steps is None:
        return []
    source = trained_on(args)
    said = [] if args.crop_size is not None else [_fit_views(args, source)]
    return said if args.steps is None else [*said, _fit_length(args, source, Rules(args, table))]


def asked(args: Namespace, table: Table) -> tuple[Namespace, tuple[str, ...]]:
    """Before `fit`: the options that a run is known by, and the names of those that are not.

    What follows from the pictures is none of them, so that with other pictures it is the same run,
    which says that they have changed; what it follows from as well is.
    """
    options, free = Namespace(**vars(args)), set(tagged(table, EXECUTION))
    if args.steps is not None and not Rules(args, table).given("epochs"):
        options.epochs = None
    if args.crop_size is None:
        free.remove("crop_max")
    return options, tuple(sorted(free))


def trained_on(args: Namespace) -> Source:
    """The pictures that a run with these options trains on."""
    unsaid = Namespace(**vars(args))  # --eval auto stays: it is the word that names the run
    source, _ = splits(unsaid, lambda text: None)
    return evenly(source, args.num_images)


def inputs(args: Namespace) -> Inputs:
    """What a run reads, known by content. Errors: DataError."""
    return inputs_of(args, {"data": trained_on(args)}, {"init_from": None})


def _fit_views(args: Namespace, source: Source) -> str:
    side = shorter_side(source)
    fits = args.crop_max if side is None else min(side, args.crop_max)
    args.crop_size = max(LEAST_SIDE, 1 << (fits.bit_length() - 1))
    args.picture_size = args.picture_size or args.crop_size
    try:
        view_recipe(args)
    except DataError as error:
        raise UsageError(str(error)) from None
    have = f"have a shorter side of {side} px (the median)" if side else "are drawn at any size"
    return (
        f"views of {args.crop_size} px: the pictures of {source.name} {have}, --crop_max is "
        f"{args.crop_max}; --crop_size asks for another"
    )


def _fit_length(args: Namespace, source: Source, rules: Rules) -> str:
    count, ranks = len(source), place().world
    if count < 2 * ranks:
        word = "picture" if count == 1 else "pictures"
        raise UsageError(
            f"{source.name} has {count} {word}: an encoder that is to tell pictures apart needs at "
            f"least two{' a process' if ranks > 1 else ''}, and learns from hundreds"
        )
    wanted = args.bs
    if count < wanted:
        args.bs = 1 << (count.bit_length() - 1)
        if args.bs % ranks:  # one of another number of processes would be another run
            raise UsageError(
                f"{source.name} has {count} pictures, for batches of {args.bs}, which {ranks} "
                f"processes cannot share: give --bs {args.bs - args.bs % ranks} (another run), or "
                "use a power of two of them"
            )
    said = f"batches of {args.bs}"
    if args.bs < wanted:
        said += f" instead of {wanted}, since {source.name} has {count} pictures"
    per_epoch = count // args.bs
    if not rules.given("epochs"):
        args.epochs = -(-args.steps // per_epoch)
        if not rules.given("eval_iter"):
            args.eval_iter = -(-args.epochs // 5)
        if not rules.given("save_iter"):
            args.save_iter = args.epochs
    return f"{said}, {args.epochs * per_epoch} steps: {args.epochs} epochs of {per_epoch}"


# ----------------------------------------------------------------------------------------- pictures


class Pictures(NamedTuple):
    """A data set in memory: images uint8 [N, 3, s, s] on the run's device (with --place memmap on
    the host, mapped from disk), labels int64 [N] beside them, what the classes are called, and the
    source they were read from, in the same order.
    """

    images: Tensor
    labels: Tensor
    classes: list[str]
    name: str
    source: Source


def pictures(args: Namespace, run: Run) -> tuple[Pictures, Pictures | None]:
    """What is trained on, and what is held out; None: figures are by cross-validation of train.

    args.eval "auto" becomes what it stands for.
    """
    train, held = splits(args, run.say)
    run.say(told(train, held))
    trained = in_memory(args, train, run)
    return trained, held_out(args, held, trained, run)


def splits(args: Namespace, say: Say) -> tuple[Source, Source | None]:
    """The sources of `pictures`."""
    side = args.picture_size or args.crop_size
    with asking_for([side] if side else []):
        return _splits(args, say)


def _splits(args: Namespace, say: Say) -> tuple[Source, Source | None]:
    home = args.data_path or data_home()
    if args.eval == "auto":
        args.eval = own_eval(args.data, home)
        say(f"figures are of {args.data}: --eval {args.eval}")
    if args.eval == "pooled":
        return pooled_splits(args.data, home, args.held_out, seed=LIST_SEED)
    train, held = get_data_splits(args.data, args.eval, home)
    return train, None if held == "cv" else held


def in_memory(args: Namespace, source: Source, run: Run, *, whole: bool = False) -> Pictures:
    """The pictures at --picture_size, --num_images of them unless `whole`."""
    source = source if whole else evenly(source, args.num_images)
    home = Path(args.data_path or data_home())
    cache = UInt8Cache(
        source,
        args.picture_size,
        args.place,
        folder=None if args.place == "memory" else home / "uint8",
        workers=args.num_workers // run.world_size,
        quiet=not run.is_main,
    )
    if args.place == "memory":
        cache.to(run.device)
    return Pictures(cache.images, cache.labels, cache.classes, cache.name, source)


def held_out(
    args: Namespace, source: Source | None, trained: Pictures, run: Run
) -> Pictures | None:
    """What figures are of, with labels as numbers of train's classes; None under cv.

    UsageError for a class that train does not have: nothing fitted on train can name it.
    """
    if source is None:
        return None
    held = in_memory(args, source, run)
    if held.classes == trained.classes:
        return held
    strange = [c for c in held.classes if c not in trained.classes]
    if strange:
        raise UsageError(
            f"--eval {args.eval}: {held.name} has classes that {trained.name} has not "
            f"({strange[0]}, ...); use --eval cv or pooled, and --few_shot {args.eval}"
        )
    label_in_train = torch.tensor([trained.classes.index(c) for c in held.classes])
    labels = label_in_train.to(held.labels.device)[held.labels]
    return held._replace(labels=labels, classes=trained.classes)


def epoch_steps(args: Namespace, trained: Pictures, ranks: int) -> int:
    """Steps of an epoch: whole batches. UsageError for a batch that cannot be."""
    if args.bs % ranks:
        raise UsageError(f"--bs {args.bs} cannot be shared by {ranks} processes")
    if len(trained.images) < args.bs:
        raise UsageError(
            f"--bs {args.bs}: {trained.name} has {len(trained.images)} pictures; give a --bs that "
            "is no larger"
        )
    return len(trained.images) // args.bs


def images_at(images: Tensor, rows: Tensor, device: torch.device) -> Tensor:
    """Chosen pictures uint8 [B, 3, s, s] on the device; rows int64 [B] wherever they are."""
    if rows.device != images.device:
        rows = rows.to(images.device)
    return images.index_select(0, rows).to(device, non_blocking=True)


# -------------------------------------------------------------------------------------------- views


def view_recipe(args: Namespace) -> Recipe:
    """Augmentations of the two training views; its size, mean and std are those of all views."""
    mean, std = NORMALISATIONS[args.normalise]
    return get_ssl_data_augs(
        args.data,
        name=args.recipe,
        crop_size=args.crop_size,
        color_s=args.color_s,
        gaussian_blur=bool(args.gaussian_blur),
        unreal_augs=bool(args.unreal_augs),
        mean=mean,
        std=std,
    ).train


def views(args: Namespace, recipe: Recipe) -> ExactViews | FoldedViews:
    """views(images uint8 [B, 3, s, s], keys int64 [B]) -> float32 [B, 3, r, r]."""
    kind = ExactViews if args.exact_augs else FoldedViews
    return kind(recipe, channels_last=args.channels_last)


# ------------------------------------------------------------------------- network, loss, optimizer


def network(args: Namespace, ranks: int = 1, device: torch.device | None = None) -> SimCLR:
    """The encoder and its projection head. device: where it is trained, with the batches of --bs;
    None: it is not. UsageError for options that do not fit one another, or that device."""
    sync_bn = args.sync_bn and ranks > 1
    make = partial(take, SimCLR, args, resolution=args.crop_size, sync_bn=sync_bn)
    host = torch.device("cpu")
    if device is not None:  # two views of every picture, and what the first convolution makes
        values = 3 * args.crop_size**2 + 64 * (args.crop_size // 2) ** 2
        room.batch(2 * args.bs // ranks, values, device, args, {}, ("bs", "crop_size"))
    try:
        return room.network(make, host, args, {}, ("proj_dim", "proj_hidden"), copies=1)
    except ValueError as error:
        raise UsageError(str(error)) from None


def layout(args: Namespace) -> torch.memory_format:
    """How pictures and convolutions lie in memory."""
    return torch.channels_last if args.channels_last else torch.contiguous_format


def loss(args: Namespace) -> NTXent | DCL:
    """loss(z0, z1) of the projections of two views."""
    return take(LOSSES[args.loss], args, temperature=args.temp)


def optimizer(args: Namespace, net: SimCLR) -> torch.optim.Optimizer:
    """LARS, or adam or sgd with nesterov momentum, in a LARC if asked for. Errors: UsageError."""
    groups, momentum = lars_groups(net, args.wd), args.mm[0]
    try:
        if args.opt == "lars":
            return LARS(
                groups,
                args.lr,
                momentum=momentum,
                weight_decay=args.wd,
                trust=args.trust,
                semantics=args.lars_semantics,
            )
        inner: torch.optim.Optimizer
        if args.opt == "adam":
            inner = torch.optim.Adam(groups, lr=args.lr, betas=tuple(args.mm))
        else:
            inner = torch.optim.SGD(groups, args.lr, momentum, nesterov=momentum > 0)
        return LARC(inner, trust=args.trust) if args.lars else inner
    except ValueError as error:
        raise UsageError(str(error)) from None


def learning_rate(
    args: Namespace, step: int, steps_per_epoch: int, epochs: int | None = None
) -> float:
    """Rate of a step, a function of its number alone.

    epochs: those that the schedule is over (default: --epochs); later ones have the rate of its
    end.
    """
    epochs = args.epochs if epochs is None else epochs
    peak = args.lr
    if args.lr_scaling != "none":
        peak = scaled_lr(args.lr, args.bs, args.lr_scaling)
    if args.lr_schedule == "seed":  # the kept word of `original`: see options.FORMER_SCHEDULES
        epoch = min(step // steps_per_epoch + 1, epochs)
        return original_lr(epoch, epochs, args.n_ramp, peak)
    if args.lr_schedule == "google":
        return google_lr(
            step,
            examples=steps_per_epoch * args.bs,
            batch=args.bs,
            epochs=epochs,
            warmup_epochs=args.n_ramp,
            peak=peak,
        )
    total, warmup = epochs * steps_per_epoch, args.n_ramp * steps_per_epoch
    return warmup_cosine(step, total, warmup, peak=peak)


def note_rate(args: Namespace, run: Run, step: int, steps_per_epoch: int) -> None:
    """Have run.steps say what becomes of the learning rate under other --epochs than before.

    step: the next one of the encoder.
    """
    run.length.note_rate(lambda e: learning_rate(args, step, steps_per_epoch, e))
