"""Train an image encoder without labels by SimCLR (Chen et al. 2020, arXiv:2002.05709): two random
views of every picture, an encoder that must find each view's partner among all others of the batch.

    python TrainSimCLR.py --preset smoke                         # embedded data, CPU, seconds
    python TrainSimCLR.py --preset cifar10-r18 --data cifar10
    torchrun --standalone --nproc-per-node 4 TrainSimCLR.py --preset cifar10-r50-seed

Running the same command again resumes. Every --eval_iter epochs a weighted kNN on the features h
tells how they come along; at the end a convex linear probe is added, fitted on train images alone.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from data.registry import open_source, train_val_sources
from data.sources import Source, Subset
from data.uint8_cache import UInt8Cache
from data.views import RECIPES, ExactViews, FoldedViews, Recipe, recipe, view_keys
from models import SimCLR
from models.knn import knn_figures
from models.linear_probe import l2_sweep
from models.losses import DCL, DCLW, NTXent
from models.optim import LARC, LARS, lars_groups, scaled_lr, warmup_cosine
from models.simclr import two_views
from runtime.cli import (
    FloatList,
    add_run_args,
    add_table,
    nonnegative_float,
    nonnegative_int,
    one_of,
    parse,
    positive_float,
    positive_int,
    text,
)
from runtime.counter_rng import permutation
from runtime.dirs import data_home
from runtime.distributed import launch
from runtime.errors import UsageError
from runtime.meters import Stopwatch
from runtime.run import Run

PRESETS = {
    "smoke": {
        "_help": "embedded scenes, CPU, seconds",
        "data": "scenes", "num_images": 256, "crop_size": 8, "bs": 32, "epochs": 2, "n_ramp": 1,
        "eval": "cv", "eval_iter": 1, "save_iter": 1, "color_s": 0.5, "log_every": 2,
        "wandb": "disabled", "gpus": [],
    },
    "cifar10-r18": {
        "_help": "ResNet-18 on CIFAR-10: 1000 epochs of google's recipe",
        "data": "cifar10", "bs": 512, "epochs": 1000, "opt": "lars", "lr": 1.0, "lr_scaling":
        "linear", "wd": 1e-4, "color_s": 0.5, "temp": 0.5, "eval": "test", "precision": "auto",
    },
    "cifar10-r50-seed": {
        "_help": "what the lab's 92 % was made with: ResNet-50, Adam in a LARC, bs 1000",
        "data": "cifar10", "backbone": "resnet50", "bs": 1000, "epochs": 1000, "opt": "adam",
        "mm": [0.9, 0.99], "lr": 1e-3, "wd": 1e-6, "lars": 1, "color_s": 0.5, "temp": 0.5,
        "eval": "test",
    },
    "mini-64cv": {
        "_help": "miniImagenet, cross-validated within its 64 train classes",
        "data": "miniImagenet", "recipe": "miniImagenet", "crop_size": 128, "bs": 512,
        "epochs": 400, "opt": "lars", "lr": 0.3, "lr_scaling": "linear", "wd": 1e-4,
        "color_s": 0.5, "eval": "cv",
    },
}  # fmt: skip

EXECUTION_ONLY = ("data_path", "eval_iter", "save_iter", "probe")
FEATURES_AT_ONCE = 512
KNN_SETTINGS = ((20, 0.07), (200, 0.1))  # DINO's and MoCo's


def get_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The lab's options under their names, and ours. Wrong ones exit with 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_run_args(parser, save_every=500)
    # fmt: off
    add_table(parser, "data and views", [
        ("--data", text, "cifar10", "NAME, a folder, a zip or an LMDB"),
        ("--data_path", text, None, "where data sets are stored (default: the data directory)"),
        ("--eval", ("val", "cv", "test"), "val", "what is held out: its val or test split, or a "
         "slice of train"),
        ("--num_images", positive_int, None, "train on the first so many of them alone"),
        ("--recipe", tuple(RECIPES), "cifar", "augmentations"),
        ("--crop_size", positive_int, 32, "side of a view"),
        ("--color_s", nonnegative_float, 1.0, "strength of the colour jitter"),
        ("--gaussian_blur", one_of(0, 1), 0, "1: blur, with the recipe's chance"),
        ("--unreal_augs", one_of(0, 1), 1, "0: crop and flip alone"),
        ("--views", ("folded", "exact"), "folded", "exact: torchvision's arithmetic, slower"),
    ])
    add_table(parser, "network and loss", [
        ("--backbone", ("resnet18", "resnet34", "resnet50"), "resnet18", "encoder"),
        ("--stem", ("auto", "small", "standard"), "auto", "first layers, by --crop_size if auto"),
        ("--head", ("seed", "paper", "v2", "lightly", "solo", "leftthomas", "dkobak", "none"),
         "seed", "projection"),
        ("--proj_dim", positive_int, None, "its dimensions (default: the head's own)"),
        ("--loss", ("ntxent", "dcl", "dclw"), "ntxent", "contrastive loss"),
        ("--temp", positive_float, 0.5, "temperature"),
        ("--sync_bn", bool, True, "batch statistics over all ranks"),
        ("--channels_last", bool, True, "memory format"),
    ])
    add_table(parser, "optimizer", [
        ("--opt", ("adam", "sgd", "lars"), "adam", "optimizer"),
        ("--lars", one_of(0, 1), 1, "wrap adam or sgd in the lab's LARC"),
        ("--trust", positive_float, 0.001, "trust coefficient of LARS and LARC"),
        ("--lr", positive_float, 1e-3, "peak learning rate"),
        ("--lr_scaling", ("none", "linear", "sqrt"), "none", "of --lr by the batch"),
        ("--mm", FloatList, [0.9, 0.999], "betas of adam; the first is the others' momentum"),
        ("--wd", nonnegative_float, 1e-6, "weight decay"),
        ("--bs", positive_int, 1000, "pictures of a step, over all GPUs"),
        ("--epochs", positive_int, 1000, "passes over the data"),
        ("--n_ramp", nonnegative_int, 10, "epochs of warm-up"),
    ])
    add_table(parser, "evaluation and names", [
        ("--eval_iter", positive_int, 10, "epochs between evaluations by kNN"),
        ("--save_iter", positive_int, 100, "epochs between snapshots"),
        ("--probe", bool, True, "fit the linear probe at the end"),
        ("--suffix", text, None, "appended to the run's name"),
    ])
    # fmt: on
    args = parse(parser, PRESETS, argv)
    if args.bs % max(1, len(args.gpus or [])):
        parser.error(f"--bs {args.bs} cannot be shared by {len(args.gpus)} GPUs")
    if args.n_ramp > args.epochs:
        parser.error(f"--n_ramp {args.n_ramp} is longer than --epochs {args.epochs}")
    return args


def main(args: argparse.Namespace) -> None:
    with Run(
        args, script="TrainSimCLR", name=run_name(args), shaping_exclude=EXECUTION_ONLY
    ) as run:
        # Data: uint8 pictures in memory, on the device; views are made there too.
        train, held = splits(args)
        trained, tested = (in_memory(source, args, run) for source in (train, held))
        pictures = trained[0]
        plan = recipe(
            args.recipe,
            crop_size=args.crop_size,
            color_s=args.color_s,
            gaussian_blur=bool(args.gaussian_blur),
            unreal_augs=bool(args.unreal_augs),
        )
        make_views = (FoldedViews if args.views == "folded" else ExactViews)(
            plan, channels_last=args.channels_last
        )

        # Network, loss, optimizer.
        model = SimCLR(
            args.backbone,
            stem=args.stem,
            resolution=args.crop_size,
            proj_dim=args.proj_dim,
            head=args.head,
            sync_bn=args.sync_bn and run.world_size > 1,
        )
        run.say(model.describe())
        layout = torch.channels_last if args.channels_last else torch.contiguous_format
        model = model.to(run.device, memory_format=layout)
        loss_fn = {"ntxent": NTXent, "dcl": DCL, "dclw": DCLW}[args.loss](args.temp)
        optimizer = build_optimizer(model, args)
        steps_per_epoch = len(pictures) // args.bs
        if not steps_per_epoch:
            raise UsageError(f"--bs {args.bs}: {train.name} has {len(pictures)} pictures")
        total = args.epochs * steps_per_epoch
        warmup = args.n_ramp * steps_per_epoch
        peak = (
            args.lr if args.lr_scaling == "none" else scaled_lr(args.lr, args.bs, args.lr_scaling)
        )

        run.restore(model=model, optimizer=optimizer)
        forward = run.compile(model)
        watch = Stopwatch(run.device)
        for step in run.steps(total, images_per_step=args.bs):
            watch.start()
            epoch, place = divmod(step, steps_per_epoch)
            if place == 0 or step == run.completed:
                order = permutation(len(pictures), args.seed, epoch)
            chosen = order[place * args.bs : (place + 1) * args.bs][run.rank :: run.world_size]
            images = pictures[chosen.to(run.device)]
            a, b = (
                make_views(images, view_keys(args.seed, epoch, chosen.to(run.device), view))
                for view in (0, 1)
            )
            with run.precision.autocast():
                z0, z1 = two_views(forward, a, b)
            loss = loss_fn(z0, z1)
            run.backward(loss, chosen)
            for group in optimizer.param_groups:
                group["lr"] = warmup_cosine(step, total, warmup, peak=peak)
            run.step(optimizer)
            run.log(
                **{
                    "loss_tr": loss.detach(),
                    "lr": optimizer.param_groups[0]["lr"],
                    "contrastive_top1": loss_fn.top1(z0.detach(), z1.detach()),
                    "time/images_per_s": args.bs / watch.stop(),
                }
            )
            if place == steps_per_epoch - 1:  # the end of an epoch
                last = epoch + 1 == args.epochs
                if last or (epoch + 1) % args.eval_iter == 0:
                    evaluate(run, model, trained, tested, plan, probe=last and args.probe)
                if last or (epoch + 1) % args.save_iter == 0:
                    config = {"net": model.config, "recipe": plan._asdict(), "epoch": epoch}
                    run.snapshot(f"{epoch}", model, "simclr", config)
        run.say(f"snapshots {run.dir / 'snapshots'}")


def splits(args: argparse.Namespace) -> tuple[Source, Source]:
    """Pictures to train on and pictures held out."""
    home = args.data_path or data_home()
    if args.eval == "cv":
        return train_val_sources(args.data, "cv", home, val_fraction=0.1, seed=args.seed)
    return open_source(args.data, home), open_source(f"{args.data}/{args.eval}", home)


def in_memory(source: Source, args: argparse.Namespace, run: Run) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [N, 3, s, s] at the views' size and labels int64 [N], on the device."""
    source = Subset(source, range(min(len(source), args.num_images or len(source))))
    cache = UInt8Cache(source, args.crop_size, quiet=not run.is_main).to(run.device)
    return cache.images, cache.labels


def build_optimizer(model: SimCLR, args: argparse.Namespace) -> torch.optim.Optimizer:
    """LARS (google's semantics), or adam or sgd with nesterov momentum, in a LARC if asked for."""
    groups = lars_groups(model, args.wd)
    if args.opt == "lars":
        return LARS(groups, args.lr, momentum=args.mm[0], weight_decay=args.wd, trust=args.trust)
    if args.opt == "adam":
        inner = torch.optim.Adam(groups, lr=args.lr, betas=tuple(args.mm[:2]))
    else:
        inner = torch.optim.SGD(groups, lr=args.lr, momentum=args.mm[0], nesterov=True)
    return LARC(inner, trust=args.trust) if args.lars else inner


@torch.no_grad()
def evaluate(
    run: Run,
    model: SimCLR,
    train: tuple[Tensor, Tensor],
    held: tuple[Tensor, Tensor],
    plan: Recipe,
    probe: bool,
) -> None:
    """Accuracy on held-out pictures of kNN on h, and of the linear probe fitted on train."""
    model.eval()
    h, y = features(run, model, train[0], plan), train[1]
    h_held, y_held = features(run, model, held[0], plan), held[1]
    model.train()
    classes = int(y.max()) + 1
    settings = [(min(k, len(h)), t) for k, t in KNN_SETTINGS]
    figures = knn_figures(h, y, h_held, y_held, classes, settings=settings)
    if probe:
        found = l2_sweep(h.cpu(), y.cpu(), classes, standardise=True, seed=run.args.seed)
        figures |= found.probe.figures(h_held.cpu(), y_held.cpu())
    run.log_now(**{f"eval/{name}": value for name, value in figures.items()})
    run.say(", ".join(f"{k} {v:.4f}" for k, v in figures.items() if k.endswith("acc1")))


def features(run: Run, model: SimCLR, pictures: Tensor, plan: Recipe) -> Tensor:
    """h float32 [N, d] of pictures uint8 [N, 3, s, s] as they are, without augmentation."""
    rows = []
    for part in pictures.split(FEATURES_AT_ONCE):
        x = part.float() / 255
        if plan.mean is not None:
            mean, std = (x.new_tensor(v).view(1, 3, 1, 1) for v in (plan.mean, plan.std))
            x = (x - mean) / std
        with run.precision.autocast():
            rows.append(model.features(x).float())
    return torch.cat(rows)


def run_name(args: argparse.Namespace) -> str:
    """The run directory's readable part; a hash of the shaping options follows it."""
    parts = [Path(args.data).stem, args.backbone, f"bs{args.bs}", f"lr{args.lr:g}"]
    return "-".join([*parts, *([args.suffix] if args.suffix else [])])


if __name__ == "__main__":
    launch(main, get_args())
