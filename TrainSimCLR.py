"""Train an image encoder without labels by SimCLR (Chen et al. 2020, arXiv:2002.05709): two random
views of every picture, an encoder that must find each view's partner among all others of the batch.

    python TrainSimCLR.py --preset smoke                         # embedded data, CPU, seconds
    python TrainSimCLR.py --preset cifar10-r18 --data cifar10
    torchrun --standalone --nproc-per-node 4 TrainSimCLR.py --preset cifar10-r50-seed
    python TrainSimCLR.py --preset mini-64cv --few_shot test
    python TrainSimCLR.py --probe_only RUN/snapshots/999.safetensors --data cifar10 --eval test

Running the same command again resumes. Every --eval_iter epochs a weighted kNN on the features h
tells how they come along; at the end a convex linear probe and a probe on augmented pictures stand
beside it. All are fitted on train pictures alone, on a backbone that is proved frozen.
"""

import argparse
import json
import os
import zipfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data.registry import open_source
from data.sources import Source, evenly, labels_of, split_of
from data.uint8_cache import UInt8Cache
from data.views.recipes import (
    CIFAR_MEAN,
    CIFAR_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    RECIPES,
    ExactViews,
    FoldedViews,
    Recipe,
    described,
    own_options,
    view_keys,
)
from data.views.splits import Plain, get_data_splits, get_ssl_data_augs, own_eval, pooled_splits
from evaluation.features import Pixels, fingerprint, frozen, save_features
from evaluation.linear_probe import Sweep, moments
from evaluation.probes import METHODS, augmented_probe, draw_episodes, few_shot, stable_lr
from evaluation.protocols import Method, judge, knn_method, linear_method, smallest_bank
from models import SimCLR
from models.losses import DCL, DCLW, NTXent
from models.optim import (
    LARC,
    LARS,
    SEMANTICS,
    google_lr,
    lars_groups,
    scaled_lr,
    seed_epoch_lr,
    warmup_cosine,
)
from models.original import lab_config, lab_optimizer, load_lab
from models.simclr import HEADS, export_torchvision, two_views
from runtime import rundir
from runtime.cli import parse
from runtime.counter_rng import permutation
from runtime.distributed import gather_object, interleave
from runtime.launch import launch
from runtime.meters import Stopwatch
from runtime.options import add_run_args, add_table
from runtime.run import Run
from runtime.types import (
    integer,
    list_of,
    nonnegative_float,
    nonnegative_int,
    number,
    one_of,
    positive_float,
    positive_int,
    text,
)
from storage.checkpoint import write_atomic
from storage.dirs import data_home, find_snapshot
from storage.errors import CheckpointError, DataError, DiskError, NonFiniteError, UsageError
from storage.foreign.objects import module_state, optimizer_state, plain_value, read_objects
from storage.snapshot import load_snapshot, load_torch
from storage.torchfile import reading, write_torch

PRESETS = {
    "smoke": {
        "_help": "embedded scenes, CPU, seconds",
        "data": "scenes", "num_images": 256, "crop_size": 8, "bs": 32, "epochs": 2, "n_ramp": 1,
        "eval": "cv", "folds": 3, "eval_iter": 1, "save_iter": 1, "probe_epochs": 2,
        "color_s": 0.5, "log_every": 2, "num_workers": 0, "wandb": "disabled", "gpus": [],
    },
    "cifar10-r18": {
        "_help": "ResNet-18 on CIFAR-10: 1000 epochs, google's optimizer and rates",
        "data": "cifar10", "bs": 512, "epochs": 1000, "opt": "lars", "lr": 1.0, "lr_scaling":
        "linear", "lr_schedule": "google", "wd": 1e-4, "color_s": 0.5, "temp": 0.5, "eval": "test",
    },
    "cifar10-r50-seed": {
        "_help": "what the lab's 92 % was made with: ResNet-50, Adam in a LARC, bs 1000",
        "data": "cifar10", "backbone": "resnet50", "bs": 1000, "epochs": 1000, "opt": "adam",
        "mm": [0.9, 0.99], "lr": 1e-3, "wd": 1e-6, "lars": 1, "color_s": 0.5, "temp": 0.5,
        "eval": "test",
    },
    "mini-64cv": {
        "_help": "miniImagenet, cross-validated within its 64 train classes; episodes on the 20 "
        "test classes",
        "data": "miniImagenet", "crop_size": 128, "bs": 512, "epochs": 400, "opt": "lars",
        "lr": 0.3, "lr_scaling": "linear", "wd": 1e-4, "color_s": 0.5, "eval": "cv",
        "few_shot": "test",
    },
    "mini-100": {
        "_help": "miniImagenet, all 100 classes: 500 pictures of each to train on, 100 to test on",
        "data": "miniImagenet", "crop_size": 128, "bs": 512, "epochs": 400, "opt": "lars",
        "lr": 0.3, "lr_scaling": "linear", "wd": 1e-4, "color_s": 0.5, "eval": "pooled",
    },
}  # fmt: skip

# Flags that say how a run is executed and looked at, not what it computes.
EXECUTION_ONLY = (
    "data_path", "place", "eval_iter", "save_iter", "folds", "probe", "probe_epochs", "probe_augs",
    "few_shot", "export_features", "export_backbone",
)  # fmt: skip
NORMALISATIONS = {"none": (None, None), "cifar": (CIFAR_MEAN, CIFAR_STD)}
NORMALISATIONS["imagenet"] = (IMAGENET_MEAN, IMAGENET_STD)
LOSSES = {"ntxent": NTXent, "dcl": DCL, "dclw": DCLW}
FORMAT = "imle-lab-simclr-1"
# What the figures of final_probes depend on, besides the network and its recipe
PROBE_OPTIONS = (
    "data", "data_path", "picture_size", "eval", "held_out", "num_images", "folds", "probe",
    "probe_epochs", "probe_augs", "few_shot", "export_features", "export_backbone", "precision",
    "exact_augs", "seed",
)  # fmt: skip
FEATURES_AT_ONCE = 512
PROBE_BATCH = 512
BASELINES = ("untrained", "pixels")  # of --probe_only
PROBE_DRAWS = 1 << 20  # number of the view that probes are trained on; training's are 0, 1, ...
EPISODE = (5, 5, 15)  # ways, most shots, queries
LIST_SEED = 0  # of which pictures are held out: the same for every --seed


class Pictures(NamedTuple):
    """A data set in memory: images uint8 [N, 3, s, s] on the run's device (with --place memmap on
    the host, mapped from disk), labels int64 [N] beside them, and what the classes are called.
    """

    images: Tensor
    labels: Tensor
    classes: list[str]
    name: str


def get_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The lab's options under their names, and ours. Wrong ones exit with 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_simclr_args(parser)
    add_table(parser, "another use", [
        ("--probe_only", text, None, "no training: probes of a snapshot, an <epoch>.pt or a run's "
         "newest; untrained: of the network that training would begin with; pixels: of pictures"),
    ])  # fmt: skip
    args = parse(parser, PRESETS, argv)
    check_simclr_args(parser, args)
    if args.probe_only == "pixels" and args.export_backbone:
        parser.error("--probe_only pixels has no backbone for --export_backbone")
    return args


def main(args: argparse.Namespace) -> None:
    if args.probe_only:
        return probe(args)
    with Run(
        args, script="TrainSimCLR", name=run_name(args), shaping_exclude=EXECUTION_ONLY
    ) as run:
        # Data: uint8 pictures in memory, on the device; views are made there too.
        train, held = splits(args, run)
        trained = in_memory(train, args, run)
        tested = held_pictures(held, trained, args, run)
        check_evaluation(args, trained, run)
        steps_per_epoch = epoch_steps(trained, args, run)
        plan = build_recipe(args)
        run.say(described(plan))
        make_views = views_of(plan, args)

        # Network, loss, optimizer.
        model = build_model(args, run)
        loss_fn = build_loss(args)
        optimizer = build_optimizer(model, args)

        run.restore(model=model, optimizer=optimizer)
        forward = run.compile(model)
        watch = Stopwatch(run.device)
        for step in run.steps(args.epochs * steps_per_epoch, images_per_step=args.bs):
            watch.start()
            epoch, place = divmod(step, steps_per_epoch)
            if place == 0 or step == run.completed:
                order = epoch_order(len(trained.images), args, epoch)
            ids = order[place * args.bs : (place + 1) * args.bs][run.rank :: run.world_size]
            images, ids = take(trained.images, ids, run.device), ids.to(run.device)
            a, b = (make_views(images, view_keys(args.seed, epoch, ids, v)) for v in (0, 1))
            with run.precision.autocast():
                z0, z1 = two_views(forward, a, b)
            loss = loss_fn(z0, z1)
            run.backward(loss, ids)
            lr = learning_rate(args, step, steps_per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = lr
            run.step(optimizer)
            run.log(
                **{
                    "loss_tr": loss.detach(),
                    "lr": lr,
                    "epoch": epoch,
                    "contrastive_top1": loss_fn.top1(z0.detach(), z1.detach()),
                    "time/images_per_s": args.bs / watch.stop(),
                }
            )
            if place == steps_per_epoch - 1:  # the end of an epoch
                last = epoch + 1 == args.epochs
                if not last and (epoch + 1) % args.eval_iter == 0:
                    evaluate(run, model, trained, tested, plan)
                if last or (epoch + 1) % args.save_iter == 0:
                    save_epoch(run, model, optimizer, plan, epoch)
        final_probes(run, model, trained, tested, plan)


def probe(args: argparse.Namespace) -> None:
    """Figures of a finished network, or of what it has to beat, in a run's folder of their own."""
    model, plan, size = None, None, None
    if args.probe_only not in BASELINES:
        path = find_snapshot(args.probe_only, "TrainSimCLR", args.results_path)
        model, plan, size = open_encoder(path)
        args.backbone = model.config["backbone"]
    plan = plan or build_recipe(args)
    args.crop_size, args.picture_size = plan.size, size or args.picture_size
    name = f"probes-{Path(args.data).stem}-{Path(args.probe_only).stem}"
    with Run(args, script="TrainSimCLR", name=name, shaping_exclude=EXECUTION_ONLY) as run:
        if args.probe_only == "pixels":
            model = Pixels()
        elif model is None:
            model = build_model(args, run)
        else:
            run.say(model.describe())
        train, held = splits(args, run)
        trained = in_memory(train, args, run)
        tested = held_pictures(held, trained, args, run)
        check_evaluation(args, trained, run)
        final_probes(run, on_device(model, args, run), trained, tested, plan)
        run.finished = True


# ------------------------------------------------------------------------------------------ options


def add_simclr_args(parser: argparse.ArgumentParser) -> None:
    """The options of TrainSimCLR.py, those of every run among them."""
    add_run_args(parser, save_every=500)
    # fmt: off
    add_table(parser, "data and views", [
        ("--data", text, "cifar10", "NAME, a folder, a zip or an LMDB"),
        ("--data_path", text, None, "where data sets are stored (default: the data directory)"),
        ("--eval", ("auto", "val", "cv", "test", "pooled"), "auto", "what figures are of: its val "
         "or test split; cv: folds of train; pooled: all splits as one, of which --held_out of "
         "every class are held out; auto: val, where there is one of train's classes, else cv"),
        ("--folds", integer(2, 1000), 5, "folds of --eval cv"),
        ("--held_out", positive_int, 100, "pictures a class for --eval pooled; always the same"),
        ("--num_images", positive_int, None, "use so many of them alone, equally many of a class"),
        ("--place", ("memory", "memmap"), "memory", "where pictures lie: on the device, or in a "
         "file that is mapped"),
        ("--picture_size", positive_int, None, "side of the pictures that views are cut from "
         "(default: --crop_size)"),
        ("--recipe", tuple(RECIPES), None, "augmentations (default: the data set's)"),
        ("--crop_size", positive_int, None, "side of a view (default: the data set's)"),
        ("--color_s", nonnegative_float, None, "strength of the colour jitter (default: 1, or what "
         "--recipe has)"),
        ("--gaussian_blur", one_of(0, 1), None, "1: blur, with the recipe's chance (default: 0, or "
         "what --recipe has)"),
        ("--unreal_augs", one_of(0, 1), 1, "0: crop and flip alone"),
        ("--normalise", tuple(NORMALISATIONS), "none", "mean and deviation taken out of views"),
        ("--exact_augs", bool, False, "torchvision's arithmetic in augmentations, slower"),
    ])
    add_table(parser, "network and loss", [
        ("--backbone", ("resnet18", "resnet34", "resnet50"), "resnet18", "encoder"),
        ("--stem", ("auto", "small", "standard"), "auto", "first layers, by --crop_size if auto"),
        ("--head", (*HEADS, "none"), "seed", "projection"),
        ("--proj_dim", positive_int, None, "its dimensions (default: the head's own)"),
        ("--proj_hidden", positive_int, None, "its hidden width (default: the head's own)"),
        ("--loss", tuple(LOSSES), "ntxent", "contrastive loss"),
        ("--temp", positive_float, 0.5, "temperature (0.1 is dcl's and dclw's own)"),
        ("--sigma", positive_float, 0.5, "of dclw's weights"),
        ("--sync_bn", bool, True, "batch statistics over all ranks"),
        ("--channels_last", bool, True, "memory format"),
    ])
    add_table(parser, "optimizer", [
        ("--opt", ("adam", "sgd", "lars"), "adam", "optimizer"),
        ("--lars", one_of(0, 1), 1, "wrap adam or sgd in the lab's LARC"),
        ("--lars_semantics", SEMANTICS, "google", "whose LARS --opt lars is"),
        ("--trust", positive_float, 0.001, "trust coefficient of LARS and LARC"),
        ("--lr", positive_float, 1e-3, "peak learning rate"),
        ("--lr_scaling", ("none", "linear", "sqrt"), "none", "of --lr by the batch"),
        ("--lr_schedule", ("cosine", "google", "seed"), "cosine", "after the warm-up; google: its "
         "code's steps; seed: the lab's, by epochs"),
        ("--mm", list_of(number(0, 1, hi_open=True)), [0.9, 0.999], "betas of adam; the first is "
         "the others' momentum"),
        ("--wd", nonnegative_float, 1e-6, "weight decay"),
        ("--bs", integer(2), 1000, "pictures of a step, over all GPUs"),
        ("--epochs", positive_int, 1000, "passes over the data"),
        ("--n_ramp", nonnegative_int, 10, "epochs of warm-up"),
    ])
    add_table(parser, "evaluation and names", [
        ("--eval_iter", positive_int, 10, "epochs between evaluations by kNN"),
        ("--save_iter", positive_int, 100, "epochs between files of the network"),
        ("--probe", bool, True, "fit the probes at the end"),
        ("--probe_epochs", nonnegative_int, 100, "of the probe on augmented pictures; 0: none"),
        ("--probe_augs", ("crop+flip", "train"), "crop+flip", "its augmentations; train: the "
         "training's own, as the lab did"),
        ("--few_shot", text, None, "episodes of 5 ways on other classes: a split of --data, or "
         "another data set"),
        ("--export_features", bool, False, "at the end, write the features h of all pictures"),
        ("--export_backbone", bool, False, "at the end, write the backbone under torchvision's "
         "names"),
        ("--suffix", text, None, "appended to the run's name"),
    ])
    # fmt: on


def check_simclr_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Fill in what follows from other options; what cannot be goes out through parser.error."""
    color_s, blur = (1.0, False) if args.recipe is None else own_options(args.recipe)
    args.color_s = color_s if args.color_s is None else args.color_s
    args.gaussian_blur = int(blur) if args.gaussian_blur is None else args.gaussian_blur
    if args.sigma != 0.5 and args.loss != "dclw":
        parser.error(f"--sigma {args.sigma:g} is of --loss dclw, not of {args.loss}")
    try:
        own = get_ssl_data_augs(args.data, crop_size=args.crop_size)
        args.crop_size = own.train.size
        args.picture_size = args.picture_size or args.crop_size
        build_recipe(args)
    except DataError as error:
        parser.error(str(error))
    if args.bs % max(1, len(args.gpus or [])):
        parser.error(f"--bs {args.bs} cannot be shared by {len(args.gpus)} GPUs")
    if args.n_ramp > args.epochs:
        parser.error(f"--n_ramp {args.n_ramp} is longer than --epochs {args.epochs}")
    if args.lr_schedule == "seed" and args.n_ramp == args.epochs:
        parser.error(f"--n_ramp {args.n_ramp} leaves --lr_schedule seed no epoch after it")
    if args.few_shot and split_of(args.few_shot) == "train":
        parser.error(f"--few_shot {args.few_shot}: episodes are of other pictures than train's")
    if len(args.mm) > 2 or args.opt == "adam" and len(args.mm) != 2:
        parser.error(f"--mm has {len(args.mm)} values; adam takes 2, the others 1")


def build_recipe(args: argparse.Namespace) -> Recipe:
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


def run_name(args: argparse.Namespace) -> str:
    """The run directory's readable part; a hash of the shaping options follows it."""
    parts = [Path(args.data).stem, args.backbone, f"bs{args.bs}", f"lr{args.lr:g}"]
    return "-".join([*parts, *([args.suffix] if args.suffix else [])])


# --------------------------------------------------------------------------------------------- data


def splits(args: argparse.Namespace, run: Run) -> tuple[Source, Source | None]:
    """Pictures to train on, and those held out; None: figures are by cross-validation of train.

    args.eval "auto" becomes what it stands for.
    """
    home = args.data_path or data_home()
    if args.eval == "auto":
        args.eval = own_eval(args.data, home)
        run.say(f"figures are of {args.data}: --eval {args.eval}")
    if args.eval == "pooled":
        return pooled_splits(args.data, home, args.held_out, seed=LIST_SEED)
    train, held = get_data_splits(args.data, args.eval, home)
    return train, None if held == "cv" else held


def in_memory(
    source: Source, args: argparse.Namespace, run: Run, *, whole: bool = False
) -> Pictures:
    """The pictures at --picture_size, --num_images of them unless `whole`."""
    source = source if whole else evenly(source, args.num_images)
    home = Path(args.data_path or data_home())
    folder = None if args.place == "memory" else home / "uint8"
    cache = UInt8Cache(
        source,
        args.picture_size,
        args.place,
        folder=folder,
        workers=args.num_workers // run.world_size,
        quiet=not run.is_main,
    )
    if args.place == "memory":
        cache.to(run.device)
    return Pictures(cache.images, cache.labels, cache.classes, cache.name)


def held_pictures(
    source: Source | None, trained: Pictures, args: argparse.Namespace, run: Run
) -> Pictures | None:
    """What figures are of, with labels as numbers of train's classes; None under cv.

    UsageError for a class that train does not have: nothing fitted on train can name it.
    """
    if source is None:
        return None
    held = in_memory(source, args, run)
    if held.classes == trained.classes:
        return held
    strange = [c for c in held.classes if c not in trained.classes]
    if strange:
        raise UsageError(
            f"--eval {args.eval}: {held.name} has classes that {trained.name} has not "
            f"({strange[0]}, ...); use --eval cv or pooled, and --few_shot {args.eval}"
        )
    numbers = torch.tensor([trained.classes.index(c) for c in held.classes])
    return held._replace(
        labels=numbers.to(held.labels.device)[held.labels], classes=trained.classes
    )


def take(pictures: Tensor, ids: Tensor, device: torch.device) -> Tensor:
    """Pictures uint8 [B, 3, s, s] on the device, of numbers int64 [B] wherever they are."""
    if ids.device != pictures.device:
        ids = ids.to(pictures.device)
    return pictures.index_select(0, ids).to(device, non_blocking=True)


def views_of(plan: Recipe, args: argparse.Namespace) -> ExactViews | FoldedViews:
    """views(images uint8, keys) -> float32 [B, 3, r, r]."""
    kind = ExactViews if args.exact_augs else FoldedViews
    return kind(plan, channels_last=args.channels_last)


# ------------------------------------------------------------------------- network, loss, optimizer


def build_model(args: argparse.Namespace, run: Run) -> SimCLR:
    """The network on the run's device; what it is, is said."""
    try:
        model = SimCLR(
            args.backbone,
            stem=args.stem,
            resolution=args.crop_size,
            proj_dim=args.proj_dim,
            proj_hidden=args.proj_hidden,
            head=args.head,
            sync_bn=args.sync_bn and run.world_size > 1,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    run.say(model.describe())
    return on_device(model, args, run)


def on_device(model: SimCLR, args: argparse.Namespace, run: Run) -> SimCLR:
    """The model where the run computes, in the memory format asked for."""
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    return model.to(run.device, memory_format=layout)


def build_loss(args: argparse.Namespace) -> NTXent | DCL:
    """loss(z0, z1) of the projections of two views."""
    options = {"sigma": args.sigma} if args.loss == "dclw" else {}
    return LOSSES[args.loss](args.temp, **options)


def build_optimizer(model: SimCLR, args: argparse.Namespace) -> torch.optim.Optimizer:
    """LARS, or adam or sgd with nesterov momentum, in a LARC if asked for."""
    groups, momentum = lars_groups(model, args.wd), args.mm[0]
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
        if args.opt == "adam":
            inner = torch.optim.Adam(groups, lr=args.lr, betas=tuple(args.mm))
        else:
            inner = torch.optim.SGD(groups, args.lr, momentum, nesterov=momentum > 0)
        return LARC(inner, trust=args.trust) if args.lars else inner
    except ValueError as error:
        raise UsageError(str(error)) from None


def epoch_steps(pictures: Pictures, args: argparse.Namespace, run: Run) -> int:
    """Steps of an epoch: whole batches. UsageError for a batch that cannot be."""
    if args.bs % run.world_size:
        raise UsageError(f"--bs {args.bs} cannot be shared by {run.world_size} processes")
    if len(pictures.images) < args.bs:
        raise UsageError(f"--bs {args.bs}: {pictures.name} has {len(pictures.images)} pictures")
    return len(pictures.images) // args.bs


def epoch_order(n: int, args: argparse.Namespace, epoch: int) -> Tensor:
    """Order of n pictures in an epoch, int64 [n]."""
    return permutation(n, args.seed, epoch)


def learning_rate(args: argparse.Namespace, step: int, steps_per_epoch: int) -> float:
    """Rate of a step, a function of its number alone."""
    peak = args.lr
    if args.lr_scaling != "none":
        peak = scaled_lr(args.lr, args.bs, args.lr_scaling)
    if args.lr_schedule == "seed":
        return seed_epoch_lr(step // steps_per_epoch + 1, args.epochs, args.n_ramp, peak)
    if args.lr_schedule == "google":
        return google_lr(
            step,
            examples=steps_per_epoch * args.bs,
            batch=args.bs,
            epochs=args.epochs,
            warmup_epochs=args.n_ramp,
            peak=peak,
        )
    total, warmup = args.epochs * steps_per_epoch, args.n_ramp * steps_per_epoch
    return warmup_cosine(step, total, warmup, peak=peak)


# --------------------------------------------------------------------------------------- evaluation


def check_evaluation(args: argparse.Namespace, trained: Pictures, run: Run) -> None:
    """UsageError now for an evaluation that could not be made at the end."""
    if len(trained.classes) > 1:
        counts = trained.labels.cpu().bincount(minlength=len(trained.classes))
        folds, fewest = args.folds if args.eval == "cv" else None, int(counts.min())
        which = f"class {trained.classes[int(counts.argmin())]!r} of {trained.name} has {fewest}"
        if folds and fewest < folds:
            raise UsageError(f"{which} pictures, too few for --folds {folds}")
        if args.probe and smallest_bank(fewest, folds) < 2:
            kept = " outside of a fold" if folds else ""
            raise UsageError(f"{which} to fit on{kept}, and l2 is chosen on one; --no-probe")
    if args.probe and args.few_shot:
        novel = novel_source(args)
        known = set(novel.classes) & set(trained.classes)
        if known:
            run.say(
                f"--few_shot {args.few_shot}: {len(known)} of its {len(novel.classes)} classes are "
                f"among train's ({min(known)}, ...): episodes are not of novel classes alone"
            )
        try:
            draw_episodes(torch.from_numpy(labels_of(novel)), *EPISODE, 0, 1)
        except ValueError as error:
            raise UsageError(f"--few_shot {args.few_shot}: {error}") from None


def novel_source(args: argparse.Namespace) -> Source:
    """The pictures of --few_shot: a split of --data, or another data set."""
    home = args.data_path or data_home()
    if split_of(args.few_shot):
        return get_data_splits(args.data, split_of(args.few_shot), home)[1]
    return open_source(args.few_shot, home)


def evaluate(
    run: Run, model: SimCLR, trained: Pictures, tested: Pictures | None, plan: Recipe
) -> dict[str, float]:
    """Figures of kNN, logged as eval/..., of held-out pictures or by cross-validation of train.

    Nothing for a set without classes.
    """
    if len(trained.classes) < 2:
        return {}
    with frozen(model):
        h, y, held = embedded(run, model, trained, tested, plan)
    folds = run.args.folds if tested is None else None
    methods = [knn_method(h, y, len(trained.classes), folds=folds)]
    figures = judge(h, y, methods, held=held, folds=run.args.folds, seed=run.args.seed).figures
    top = {k: v for k, v in figures.items() if k.endswith(" acc1")}
    run.log_now(acc_val=next(iter(top.values())), **{f"eval/{k}": v for k, v in top.items()})
    run.say(", ".join(f"{k} {v:.4f}" for k, v in top.items()))
    return figures


def final_probes(
    run: Run, model: SimCLR, trained: Pictures, tested: Pictures | None, plan: Recipe
) -> dict[str, float]:
    """kNN, the convex probe, the probe on augmented pictures, episodes: after the loop, once.

    Logged as final/.... Written into the run's folder: probes.json {"figures", "asked", "step",
    "network", "l2" of the convex probe, fold by fold}, and right.pt: by name, which pictures of
    `tested` (of train under cv) are right, bool [N]. Once they are there for this network and these
    options, they are read. All ranks call it. A signal ends it; the same command begins it again.
    """
    args, file = run.args, run.dir / "probes.json"
    asked = {key: getattr(args, key) for key in PROBE_OPTIONS} | {"recipe": plan._asdict()}
    asked = rundir.plain(asked)
    network = fingerprint(model)
    found = gather_object(read_json(file))[0]
    if found and found.get("asked") == asked and found.get("network") == network:
        run.say(f"figures are in {file}")
        return found["figures"]
    classes, folds = len(trained.classes), args.folds if tested is None else None
    figures, right, methods = {}, {}, []
    sweeps: list[Sweep] = []
    layer = "pixels" if isinstance(model, Pixels) else "h"
    with frozen(model):
        h, y, held = embedded(run, model, trained, tested, plan)
        if classes < 2:
            run.say(f"{trained.name} has no classes: no probes")
        else:
            methods.append(knn_method(h, y, classes, folds=folds, layer=layer))
        if classes > 1 and args.probe:
            methods.append(
                linear_method(h, y, classes, seed=args.seed, layer=layer, found=sweeps.append)
            )
        if classes > 1 and args.probe and args.probe_epochs:
            methods.append(augmented_method(run, model, trained, h, y, plan, layer))
        for method in methods:
            part = judge(h, y, [method], held=held, folds=args.folds, seed=args.seed)
            figures, right = figures | part.figures, right | part.right
            run.check_preempted()
        if args.probe and args.few_shot:
            novel = in_memory(novel_source(args), args, run, whole=True)
            q, z = features(run, model, novel.images, plan), novel.labels.to(h.device)
            for shots, method in product((1, EPISODE[1]), METHODS):
                figures |= episodes(q, z, shots, method, args.seed)
                run.check_preempted()
    top = {k: v for k, v in figures.items() if k.endswith(" acc1")}
    if top:
        named = {f"final/{name}": value for name, value in top.items()}
        run.log_now(**({"acc_val": next(iter(top.values()))} if classes > 1 else {}), **named)
    for name in [k.removesuffix(" acc1") for k in top]:
        low, high = figures.get(f"{name} low"), figures.get(f"{name} high")
        interval = f" [{low:.4f}, {high:.4f}]" if low is not None else ""
        run.say(f"{name}: {figures[f'{name} acc1']:.4f}{interval}")
    for sweep in sweeps:
        if sweep.at_edge:
            run.say(f"linear: l2 {sweep.l2:g} is at the edge of those tried")
    record = {"figures": figures, "asked": asked, "step": run.completed, "network": network}
    record["l2"] = [sweep.l2 for sweep in sweeps]
    try:
        if args.export_features and run.is_main:
            folder = run.dir / "features"
            folder.mkdir(exist_ok=True)
            export = {"train": (trained, h)} | ({"held": (tested, held[0])} if held else {})
            for name, (pictures, rows) in export.items():
                facts = {"layer": layer, "snapshot": network, "dataset": pictures.name}
                save_features(folder / f"{name}.safetensors", rows, pictures.labels, **facts)
        if args.export_backbone and run.is_main:
            write_torch(run.dir / f"{args.backbone}-torchvision.pt", export_torchvision(model))
        if run.is_main:
            write_torch(run.dir / "right.pt", right)
            write_atomic(file, json.dumps(record, indent=1) + "\n")  # last: all the rest is there
    except (OSError, RuntimeError) as error:  # torch's own, where a file cannot be written
        raise DiskError(f"{run.dir}: figures not written: {str(error).splitlines()[0]}") from None
    return figures


def embedded(
    run: Run, model: SimCLR, trained: Pictures, tested: Pictures | None, plan: Recipe
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    """h and labels of train, and of what is held out."""
    h = features(run, model, trained.images, plan)
    held = None
    if tested is not None:
        held = features(run, model, tested.images, plan), tested.labels.to(h.device)
    return h, trained.labels.to(h.device), held


def augmented_method(
    run: Run, model: SimCLR, trained: Pictures, h: Tensor, y: Tensor, plan: Recipe, layer: str
) -> Method:
    """A linear head trained by SGD on views drawn anew in every epoch: crop and flip, or train's.

    Features are standardised by the plain ones, and the rate is the largest that is surely stable
    for them: an under-trained head is what once made augmented probes look necessary.
    """
    args = run.args
    own = (
        plan if args.probe_augs == "train" else plan._replace(jitter_p=0.0, gray_p=0.0, blur_p=0.0)
    )
    make_views = views_of(own, args)

    def function(x: Tensor) -> Tensor:
        with run.precision.autocast():
            return model.features(x)

    def scores(rows: Tensor, query: Tensor) -> dict[str, Tensor]:
        chosen, bs = rows.cpu(), min(PROBE_BATCH, len(rows))
        mean, std = moments(h[rows])

        def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            run.check_preempted()
            order = chosen[permutation(len(chosen), args.seed, PROBE_DRAWS, epoch)]
            for ids in order.split(bs):
                images, ids = take(trained.images, ids, run.device), ids.to(run.device)
                yield make_views(images, view_keys(args.seed, epoch, ids, PROBE_DRAWS)), y[ids]

        head = augmented_probe(
            function,
            batches,
            len(trained.classes),
            epochs=args.probe_epochs,
            steps_per_epoch=-(-len(chosen) // bs),
            lr=stable_lr((h[rows].double() - mean) / std),
            standardise=(mean, std),
        )
        name = f"augmented({args.probe_augs}, {args.probe_epochs} epochs, standardised, {layer})"
        return {name: head.logits(query)}

    return scores


def episodes(h: Tensor, y: Tensor, shots: int, method: str, seed: int) -> dict[str, float]:
    """Few-shot figures on classes that nothing was fitted on, with 95 % intervals over episodes."""
    ways, _, queries = EPISODE
    done = few_shot(h, y, ways=ways, shots=shots, queries=queries, seed=seed, method=method)
    name, i = done.name(), done.interval
    return {f"{name} acc1": i.mean, f"{name} low": i.low, f"{name} high": i.high}


def features(run: Run, model: SimCLR, pictures: Tensor, plan: Recipe) -> Tensor:
    """h float32 [N, d] of pictures uint8 [N, 3, s, s] without augmentation, on the run's device.

    Ranks share the work. Call it inside `frozen(model)`. NonFiniteError for a diverged network.
    """
    plain = Plain(plan.size, plan.mean, plan.std)
    share = -(-len(pictures) // run.world_size)  # the last ranks repeat a picture or so
    own = (torch.arange(share) * run.world_size + run.rank).clamp(max=len(pictures) - 1)
    rows = []
    for part in own.split(FEATURES_AT_ONCE):
        with run.precision.autocast():
            rows.append(model.features(plain(take(pictures, part, run.device))).float())
    h = interleave(torch.cat(rows))[: len(pictures)]
    if not h.isfinite().all():
        raise NonFiniteError(
            "features that are not finite: the network has diverged; lower --lr, and start anew or "
            "from an earlier checkpoint"
        )
    return h


# -------------------------------------------------------------------------------------------- files


def save_epoch(
    run: Run,
    model: SimCLR,
    optimizer: torch.optim.Optimizer,
    plan: Recipe,
    epoch: int,
    kind: str = "simclr",
) -> None:
    """Write <epoch>.pt and latest.pt beside the run's other files, and snapshots/<epoch>.

    epoch: of the last epoch run, from 0. The .pt is for `load_`: state dicts and plain values only.
    A full disk is said and training goes on. All ranks call it.
    """
    config = {"net": model.config, "recipe": plan._asdict(), "epoch": epoch}
    config["picture_size"] = run.args.picture_size
    run.snapshot(f"{epoch}", model, kind, config)
    if run.is_main:
        value = {
            "format": FORMAT,
            "model": model.state_dict(),
            "config": config,
            "optimizer": optimizer.state_dict(),
            "last_epoch": epoch,
            "args": rundir.plain(vars(run.args)),
            "results": results_of(run.dir),
        }
        path = run.dir / f"{epoch}.pt"
        try:
            write_torch(path, value)
            link = run.dir / ".latest.pt.tmp"
            link.unlink(missing_ok=True)  # of a launch that was killed
            link.symlink_to(path.name)
            os.replace(link, run.dir / "latest.pt")
        except (OSError, RuntimeError) as error:  # torch's own, where a file cannot be written
            run.say(f"{path} not written: {str(error).splitlines()[0]}")


def load_(
    path: str | Path,
) -> tuple[SimCLR, torch.optim.Optimizer | None, int, argparse.Namespace, dict[str, Any]]:
    """(model, optimizer, last epoch, args, results) of an <epoch>.pt, ours or the lab's.

    last epoch: index of the last one run before saving; training goes on with the next. results:
    ours {name: [[step, value], ...]}; the lab's, as the file has them. The lab's files are pickled
    objects: read as data, nothing in them runs. Their optimizer becomes ours of the same kind, with
    the state of every parameter; it is None where there is none. CheckpointError for what cannot be
    read.
    """
    path = Path(path)
    try:
        found = load_torch(path)
    except CheckpointError as error:
        if not zipfile.is_zipfile(path) or "refused: global" not in str(error):
            raise
        found = read_objects(path)
    if not isinstance(found, dict) or "model" not in found:
        raise CheckpointError(f"{path}: no checkpoint of SimCLR (a dict with 'model' in it)")
    with reading(path):
        return _load_ours(found) if found.get("format") == FORMAT else _load_lab(found)


def _load_ours(found: dict[str, Any]) -> tuple[Any, ...]:
    args = argparse.Namespace(**found["args"])
    model = network_of(found["config"]["net"], found["model"])
    optimizer = build_optimizer(model, args)
    optimizer.load_state_dict(found["optimizer"])
    return model, optimizer, int(found["last_epoch"]), args, dict(found["results"])


def _load_lab(found: dict[str, Any]) -> tuple[Any, ...]:
    old = found["model"]
    tensors = dict(old) if isinstance(old, dict) else module_state(old)
    config, state = lab_config(tensors), load_lab(tensors)
    args = plain_value(found.get("args"))
    args = args if isinstance(args, argparse.Namespace) else argparse.Namespace()
    model = network_of({**config, "resolution": int(getattr(args, "crop_size", 32))}, state)
    inner, optimizer = optimizer_state(found.get("optimizer")), None
    if inner is not None:
        optimizer = lab_optimizer(model, state, inner, float(getattr(args, "trust", 1e-3)))
    results = plain_value(found.get("tb_results", {}))
    epoch = int(found.get("last_epoch", -1))
    return model, optimizer, epoch, args, results if isinstance(results, dict) else {}


def open_encoder(path: str | Path) -> tuple[SimCLR, Recipe | None, int | None]:
    """The network of a snapshot, an <epoch>.pt or a run's folder (its latest.pt), the recipe of its
    training and the side of its pictures, if the file says so (the lab's do not).
    """
    path = Path(path)
    path = path / "latest.pt" if path.is_dir() else path
    if path.suffix != ".safetensors":
        model, _, _, args, _ = load_(path)
        with reading(path):
            ours = hasattr(args, "picture_size")
            return model, *((build_recipe(args), int(args.picture_size)) if ours else (None, None))
    snapshot = load_snapshot(path)
    config = snapshot.config
    if not {"net", "recipe", "picture_size"} <= config.keys():
        raise CheckpointError(f"{path} is a snapshot of {snapshot.kind}, not of SimCLR")
    with reading(path):
        recipe = {k: tuple(v) if isinstance(v, list) else v for k, v in config["recipe"].items()}
        model = network_of(config["net"], snapshot.state_dict)
        return model, Recipe(**recipe), int(config["picture_size"])


def network_of(config: dict[str, Any], state: dict[str, Tensor]) -> SimCLR:
    """The network of a file. ValueError for weights that are not finite; whatever else is wrong
    raises what it raises, before memory is taken for it.
    """
    with torch.device("meta"):
        SimCLR(**config).load_state_dict(state, assign=True)
    strange = [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if strange:
        raise ValueError(f"weights that are not finite ({strange[0]}): the network has diverged")
    model = SimCLR(**config)
    model.load_state_dict(state)
    return model


def results_of(run_dir: Path) -> dict[str, list[list[float]]]:
    """{name: [[step, value], ...]} of losses, rates and accuracies in metrics.jsonl."""
    out: dict[str, list[list[float]]] = {}
    try:
        lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:  # a full disk cut it
            continue
        for key in row:
            if key in ("loss_tr", "lr", "acc_val") or key.startswith(("eval/", "final/")):
                out.setdefault(key, []).append([row["step"], row[key]])
    return out


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a small file, None if there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


if __name__ == "__main__":
    launch(main, get_args())
