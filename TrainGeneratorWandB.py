"""Train a generator by IMLE: for every image draw many codes, keep the one whose output is nearest,
take gradient steps on those pairs, repeat (IMLE: Li and Malik 2018; conditional: Li et al. 2020;
CAM-Net, which generates and searches level by level: Peng et al. 2021, arXiv 2106.09015).

    python TrainGeneratorWandB.py --preset smoke                    # embedded data, CPU, seconds
    python TrainGeneratorWandB.py --preset cpu-small --data_tr DIR  # half an hour on a laptop
    python TrainGeneratorWandB.py --data_tr camnet3 --data_val camnet3 --res 16 32 64 128 256
    torchrun --standalone --nproc-per-node 4 TrainGeneratorWandB.py --preset camnet-sr16
    python TrainGeneratorWandB.py --preset uncond-small --data_tr mnist

Running the same command again resumes. generate_images.py samples from the snapshots.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from data.prepare.weights import LPIPS_BACKBONES, weights_folder
from data.pyramids import Pyramid
from data.registry import train_val_sources
from evaluation.samples import best_of_k, bicubic, pairwise_diversity, psnr
from imle import (
    CAMNet,
    CIMLEDataLoader,
    CodeGenerator,
    Corruption,
    KeyedFlip,
    KorKMinusOne,
    PixelLoss,
    PoolSearch,
    ProjectedDistance,
    ResolutionLoss,
    UnconditionalGenerator,
    default_channels,
    draw_samples,
    parameter_groups,
    pixel_features,
)
from runtime import ema as emas
from runtime.cli import parse
from runtime.launch import launch
from runtime.options import add_run_args, add_table
from runtime.run import Run
from runtime.seeding import seed_worker
from runtime.types import (
    IntList,
    integer,
    list_of,
    nonnegative_float,
    nonnegative_int,
    number,
    one_of,
    positive_float,
    positive_int,
    probability,
    text,
)
from storage.dirs import data_home, models_home
from storage.errors import UsageError

VALIDATION_LOOP = -1  # validation noise is that of a loop which is never trained

PRESETS = {
    "smoke": {
        "_help": "embedded scenes, CPU, seconds",
        "data_tr": "scenes", "res": [8, 16, 32], "resid_nc": [16, 16], "dense_nc": [8, 8],
        "n_blocks": 1, "map_nc": 16, "latent_nc": 64, "bs": 8, "ns": [8], "sp": [8], "code_bs": 8,
        "subsample_size": 32, "num_iteration": 24, "outer_loops": 5, "alpha": 10.0, "lr": 3e-3,
        "warmup": 16, "num_val_images": 6, "spi": 4, "lpips": "random",
        "wandb": "disabled", "num_workers": 0, "gpus": [],
    },
    "cpu-small": {
        "_help": "x4 super-resolution 16 -> 64, half an hour of two cores",
        "data_tr": "scenes", "res": [16, 32, 64], "resid_nc": [32, 16], "dense_nc": [16, 16],
        "n_blocks": 2, "map_nc": 64, "latent_nc": 128, "bs": 16, "mini_bs": 16, "ns": [16, 8],
        "sp": [16, 8], "code_bs": 16, "subsample_size": 128, "num_iteration": 64, "outer_loops": 30,
        "alpha": 10.0, "lr": 2e-3, "num_val_images": 20, "num_workers": 0, "cache": "memory",
    },
    "camnet-sr16": {
        "_help": "CAM-Net x16 super-resolution 16 -> 256 (widths and search of the paper's code)",
        "data_tr": "camnet3", "res": [16, 32, 64, 128, 256], "bs": 8, "ns": [120], "sp": [20],
        "code_bs": 4, "subsample_size": 400, "num_iteration": 1000,
    },
    "camnet-color": {
        "_help": "colorization at 128",
        "data_tr": "camnet3", "res": [64, 64, 64, 64, 128], "grayscale": 1.0, "bs": 8, "ns": [120],
        "sp": [20], "code_bs": 4, "subsample_size": 400, "num_iteration": 1000,
    },
    "camnet-mask": {
        "_help": "inpainting at 128, a quarter of the cells masked",
        "data_tr": "camnet3", "res": [64, 64, 64, 64, 128], "mask_frac": 0.25, "bs": 8,
        "ns": [120], "sp": [20], "code_bs": 4, "subsample_size": 400, "num_iteration": 1000,
    },
    "uncond-small": {
        "_help": "unconditional at 32 with mixture noise, half an hour of two cores",
        "data_tr": "mnist", "unconditional": True, "res": [32], "sample_method": "mixture",
        "map_nc": 64, "latent_nc": 128, "max_nc": 64, "bs": 64, "mini_bs": 64, "lpips": "none",
        "subsample_size": 1024, "pool_size": 4096, "num_iteration": 64, "outer_loops": 30,
        "code_bs": 64, "lr": 2e-3, "mapping_lr_mult": 1.0, "warmup": 50, "flip": 0.0,
        "num_workers": 0, "cache": "memory",
    },
}  # fmt: skip

# Flags that say how a run is executed, not what it computes: they may differ when it resumes.
EXECUTION_ONLY = (
    "data_path", "spi", "chunk_epochs", "code_bs", "sp", "uid", "job_id", "snapshot_every",
    "lpips_path", "cache", "epochs", "ipc",
)  # fmt: skip


def get_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The seed's options with their meanings, and ours. What cannot work exits with code 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_run_args(parser, save_every=500)
    # fmt: off
    add_table(parser, "data", [
        ("--data_tr", text, None, "data to train on: NAME, NAME/SPLIT, a folder, a zip or an LMDB"),
        ("--data_val", text, None, "same, to validate on (default: its val split, else 'cv')"),
        ("--data_path", text, None, "where data sets are stored (default: the data directory)"),
        ("--cv_frac", probability, 0.1, "slice of the train images that 'cv' holds out"),
        ("--res", IntList, [64, 64, 64, 64, 128], "resolutions; each equals or doubles the last"),
        ("--crop", ("squash", "center"), "squash", "how pictures that are not square become it"),
        ("--flip", probability, 0.5, "probability of a horizontal flip"),
        ("--cache", ("none", "memory"), "none", "keep decoded images in memory"),
    ])
    add_table(parser, "IMLE", [
        ("--outer_loops", positive_int, 20, "times to search codes and train on them"),
        ("--num_iteration", positive_int, 1, "optimizer steps in an outer loop"),
        ("--subsample_size", integer(1, 10**7), None, "images in an outer loop (default: all)"),
        ("--ns", list_of(integer(1, 10**6)), [128], "candidate codes an image, one number or one a"
         " level"),
        ("--sp", IntList, [128], "candidates evaluated in parallel, one number or one a level"),
        ("--code_bs", positive_int, 2, "images searched in parallel"),
        ("--sample_method", ("normal", "mixture"), "normal", "distribution of the codes"),
        ("--num_components", positive_int, 5, "components of the mixture"),
        ("--proj_dim", integer(0, 10**5), 0, "search in LPIPS features projected to so many "
         "dimensions (the original's 1000 had no effect); 0: search in the loss itself"),
        ("--search_precision", ("auto", "fp32", "bf16"), "auto", "bf16 scores first, then fp32 "
         "the best few; auto: on GPUs that have bf16"),
        ("--rescore", positive_int, 4, "how many are the best few"),
        ("--unconditional", bool, False, "no input: a StyleGAN-like generator at the last --res"),
        ("--pool_size", integer(1, 10**8), 4096, "unconditional: samples all images choose from"),
    ])
    add_table(parser, "corruption of the input", [
        ("--grayscale", one_of(0, 0.5, 1), 0, "1: grey; 0.5: two random channels averaged; 0: off"),
        ("--mask_res", positive_int, 8, "cells along a side of the masking grid"),
        ("--mask_frac", probability, 0.0, "fraction of cells masked"),
        ("--fill", ("color", "zero"), "zero", "what masked cells show"),
    ])
    add_table(parser, "network", [
        ("--code_nc", positive_int, 5, "spatial noise channels of a code"),
        ("--in_nc", positive_int, 3, "input channels. SHOULD ALWAYS BE THREE."),
        ("--out_nc", positive_int, 3, "output channels, equal to --in_nc"),
        ("--map_nc", positive_int, 128, "entries of a code that go through the mapping net"),
        ("--latent_nc", positive_int, 512, "width of the mapping net"),
        ("--resid_nc", IntList, [128, 64, 64, 64], "residual channels of each level"),
        ("--dense_nc", IntList, [256, 192, 128, 64], "dense channels of each level"),
        ("--n_blocks", positive_int, 6, "RRDB blocks in a level"),
        ("--max_nc", positive_int, 128, "unconditional: channels of the coarse resolutions"),
        ("--act_type", ("leakyrelu",), "leakyrelu", "activation"),
        ("--init_type", ("kaiming", "normal"), "kaiming", "NN weight initialization method"),
        ("--init_scale", positive_float, 0.1, "scale of the initial weights"),
        ("--init", ("default", "reference"), "default", "reference: the weights the original really"
         " started from, its init_type and init_scale having had no effect on convolutions"),
        ("--mapping_init", ("default", "reference"), "default", "reference: styles start at 1e-9"),
        ("--color_space", ("rgb", "lab"), "rgb", "colours inside the network"),
        ("--lab_range", ("correct", "reference"), "correct", "correct: a and b are signed"),
        ("--channels_last", bool, True, "memory format"),
    ])
    add_table(parser, "loss and optimizer", [
        ("--alpha", nonnegative_float, 0.1, "weight of the pixel MSE beside LPIPS"),
        ("--lpips", ("pretrained", "random", "none"), "pretrained", "random: a seeded random VGG16,"
         " figures are then called lpips_random; none: pixel MSE alone (unconditional only)"),
        ("--lpips_path", text, None, "VGG16 weights (default: from SetupDataset.py fetch-weights)"),
        ("--lpips_weighting", ("lpips", "reference"), "lpips", "reference: the refactor's layers"),
        ("--bs", integer(1, 10**6), 512, "images an optimizer step, all GPUs together"),
        ("--mini_bs", positive_int, 8, "images a GPU takes at once; gradients add up to --bs"),
        ("--lr", positive_float, 1e-4, "peak learning rate of AdamW"),
        ("--lr_schedule", ("cosine", "constant", "reference"), "cosine", "reference: ends at 1e-4"),
        ("--warmup", nonnegative_int, 100, "steps of linear warm-up"),
        ("--mapping_lr_mult", positive_float, 0.01, "learning rate of the mapping net over --lr"),
        ("--weight_decay", nonnegative_float, 1e-4, "AdamW's"),
        ("--grad_clip", nonnegative_float, 0.0, "largest gradient norm; 0: no limit"),
        ("--ema_std", number(0, 0.28), 0.05, "relative width of the power-function EMA; 0: no EMA"),
    ])
    add_table(parser, "validation and names", [
        ("--num_val_images", positive_int, 10, "validation images, evenly spaced"),
        ("--spi", positive_int, 6, "samples per validation image, showing the model's diversity"),
        ("--snapshot_every", nonnegative_int, 0, "loops between snapshots kept beside the latest"),
        ("--chunk_epochs", one_of(0, 1), 0, "1: stop after one outer loop (job arrays)"),
        ("--suffix", text, None, "appended to the run's name"),
        ("--job_id", text, None, "SLURM job id; stands in the run's name, before --uid"),
        ("--uid", text, None, "W&B run id; stands in the run's name"),
        ("--epochs", positive_int, 20, "no effect, as in the original: see --outer_loops"),
        ("--ipc", positive_int, 10240, "no effect but its check: see --num_iteration"),
    ])
    # fmt: on
    args = parse(parser, PRESETS, argv)
    try:
        check(args)
    except ValueError as error:
        parser.error(str(error))
    return args


def check(args: argparse.Namespace) -> None:
    """Rules between options; broadcasts --ns and --sp to one number a level. Errors: ValueError."""
    if args.data_tr is None:
        raise ValueError("--data_tr is missing: a data set's name or a folder (built in: scenes)")
    if args.ipc % args.mini_bs:
        raise ValueError(f"--ipc {args.ipc} is not a multiple of --mini_bs {args.mini_bs}")
    ranks = max(1, len(args.gpus or []))
    if args.bs % ranks:
        raise ValueError(f"--bs {args.bs} cannot be shared by {ranks} GPUs: take a multiple of it")
    if args.code_bs < ranks:
        raise ValueError(f"--code_bs {args.code_bs} leaves some of {ranks} GPUs idle: at least one")
    if 0 < args.ema_std < 1e-3:
        raise ValueError(f"--ema_std {args.ema_std}: 0 for no EMA, else at least 0.001")
    if args.sample_method == "mixture" and args.num_components < 2:
        raise ValueError(f"--num_components {args.num_components}: a mixture has at least two")
    if args.unconditional:
        try:
            default_channels(args.res[-1])
        except ValueError as error:
            raise ValueError(f"--res {args.res[-1]}: {error}") from None
        if args.lpips == "none" and args.proj_dim:
            raise ValueError(f"--proj_dim {args.proj_dim}: --lpips none has no features to project")
        if args.lpips != "none" and args.res[-1] < 16:
            raise ValueError(f"--res {args.res[-1]} is too small for VGG16 (16): take --lpips none")
        return
    if args.lpips == "none":
        raise ValueError("--lpips none is for --unconditional: CAM-Net is trained by LPIPS + MSE")
    levels = len(args.res) - 1
    if levels < 1:
        raise ValueError(f"--res {args.res[0]}: give the input's and an output's resolution")
    for low, high in zip(args.res, args.res[1:], strict=False):
        if high not in (low, 2 * low):
            raise ValueError(f"--res: {high} after {low}; each must equal or double the one before")
    if args.res[1] < 16:
        raise ValueError(f"--res: the first output, {args.res[1]}, is too small for VGG16 (16)")
    if args.mask_frac and args.mask_res > args.res[0]:
        raise ValueError(f"--mask_res {args.mask_res} is finer than inputs of {args.res[0]} pixels")
    for name in ("ns", "sp"):
        values = getattr(args, name)
        if len(values) not in (1, levels):
            raise ValueError(f"--{name} has {len(values)} values, --res {levels} levels: 1 or that")
        setattr(args, name, values * levels if len(values) == 1 else values)
    for name in ("resid_nc", "dense_nc"):
        if len(getattr(args, name)) < levels:
            raise ValueError(f"--{name} {getattr(args, name)}: --res asks for {levels} numbers")
    if args.in_nc != 3 or args.out_nc != 3:
        raise ValueError(f"--in_nc {args.in_nc} --out_nc {args.out_nc}: images have 3 channels")


def main(args: argparse.Namespace) -> None:
    with Run(
        args,
        script="TrainGeneratorWandB",
        name=run_name(args),
        display_name=seed_name(args),
        shaping_exclude=EXECUTION_ONLY,
        milestone_every=args.num_iteration,
    ) as run:
        if args.bs % run.world_size:
            raise UsageError(f"--bs {args.bs} cannot be shared by {run.world_size} processes")
        # Data: one picture at every resolution. Flip and corruption are functions of (loop, image),
        # because a code belongs to the very input it was searched for.
        train_source, val_source = train_val_sources(
            args.data_tr,
            args.data_val,
            args.data_path or data_home(),
            val_fraction=args.cv_frac,
            seed=args.seed,
        )
        res = [args.res[-1]] * 2 if args.unconditional else args.res
        train = Pyramid(train_source, res, crop=args.crop, cache=args.cache)
        val = val_images(Pyramid(val_source, res, crop=args.crop), args.num_val_images)
        noise = {
            "grayscale": args.grayscale,
            "mask_res": args.mask_res,
            "mask_frac": args.mask_frac,
            "fill": args.fill,
        }
        corruption = Corruption(**noise, seed=args.seed)

        # Network, loss, optimizer, schedule, EMA.
        kind, net = build_net(args)
        layout = torch.channels_last if args.channels_last else torch.contiguous_format
        net = net.to(run.device, memory_format=layout)
        loss_fn = build_loss(args).to(run.device, memory_format=layout)
        optimizer = torch.optim.AdamW(
            parameter_groups(net, args.lr, args.mapping_lr_mult),
            betas=(0.9, 0.999),
            weight_decay=args.weight_decay,
            fused=True,
        )
        total = args.outer_loops * args.num_iteration
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor(args, total))
        ema = emas.EMA(net, emas.power(args.ema_std) if args.ema_std else 0.0)

        # Codes, and the loader that searches them: a new subsample and new codes every outer loop.
        mixing = {"method": args.sample_method, "num_components": args.num_components}
        z_gen = CodeGenerator(net.code_sizes, seed=args.seed, **mixing)
        search_loss, pool = loss_fn, None
        if args.proj_dim:
            search_loss = ProjectedDistance(loss_fn.features, args.proj_dim, seed=args.seed)
        if args.unconditional:
            features = search_loss.project if args.proj_dim else pixel_features
            pool = PoolSearch(args.pool_size, features=features)
        bf16 = args.search_precision == "bf16" or (
            args.search_precision == "auto"
            and run.device.type == "cuda"
            and torch.cuda.is_bf16_supported()
        )
        loader = CIMLEDataLoader(
            train,
            KorKMinusOne(range(len(train)), shuffle=True, seed=args.seed),
            net,
            corruption,
            z_gen,
            search_loss,
            args.ns,
            args.sp,
            args.code_bs,
            subsample_size=args.subsample_size,
            num_iteration=args.num_iteration,
            pin_memory=True,
            batch_size=args.bs,
            num_workers=args.num_workers,
            seed=args.seed,
            augment=KeyedFlip(args.seed, args.flip),
            device=run.device,
            on_chunk=run.phase("codes"),
            precision="bf16" if bf16 else "fp32",
            rescore=args.rescore,
            channels_last=args.channels_last,
            worker_init_fn=seed_worker,
            searcher=pool,
        )
        run.restore(net=net, optimizer=optimizer, scheduler=scheduler, ema=ema, loader=loader)
        forward = run.compile(net)

        def look(shown: nn.Module) -> None:
            grid = validate_pool if args.unconditional else validate
            if run.is_main or args.unconditional:  # a search of the pool is shared by all ranks
                grid(run, shown, loss_fn, z_gen, corruption, val, args)

        if run.completed == 0:
            look(net)
        batches = loader.forever()
        # With --chunk_epochs: after the loop that --resume N names, else the one we are in.
        named = str(args.resume).isdecimal()
        loop = int(args.resume) if named else run.completed // args.num_iteration
        stop_at = (loop + 1) * args.num_iteration if args.chunk_epochs else None
        for step in run.steps(total, images_per_step=args.bs, stop_at=stop_at):
            cx, codes, ys = next(batches)
            if step % args.num_iteration == 0:  # a search came first
                run.log(
                    **{
                        "search loss": loader.last_search.losses.sum(1).mean(),
                        "time/search_s": loader.last_search.seconds,
                    }
                )
            batch_loss, rate = 0.0, scheduler.get_last_lr()[0]
            for first in range(0, len(cx), args.mini_bs):
                part = slice(first, first + args.mini_bs)
                with run.precision.autocast():
                    images = forward(cx[part], [code[part] for code in codes])
                    terms = [loss_fn(x, y[part]).mean() for x, y in zip(images, ys, strict=True)]
                loss = sum(terms) * (len(cx[part]) / len(cx))
                run.backward(loss, loader.last_ids[part], last=part.stop >= len(cx))
                batch_loss = batch_loss + loss.detach()
            if run.step(optimizer, clip=args.grad_clip or None):
                scheduler.step()
                ema.update(net, run.nimg + args.bs, args.bs)
            run.log(**{"batch loss": batch_loss, "learning rate": rate})

            if (step + 1) % args.num_iteration == 0:  # the end of an outer loop
                look(ema.module)
                loops = (step + 1) // args.num_iteration
                names = ["network-latest"]
                if args.snapshot_every and loops % args.snapshot_every == 0:
                    names.append(f"network-{step + 1:09d}")
                config = {"net": net.config, "codes": mixing, "corruption": noise}
                for name in names:
                    run.snapshot(name, ema.module, kind, {**config, "crop": args.crop})
        run.say(f"snapshot {run.dir / 'snapshots' / 'network-latest.safetensors'}")


@torch.no_grad()
def validate(
    run: Run,
    net: nn.Module,
    loss_fn: ResolutionLoss,
    z_gen: CodeGenerator,
    corruption: Corruption,
    val: tuple[Tensor, Tensor],
    args: argparse.Namespace,
) -> None:
    """A grid with a row an image, target | input | samples, nearest first, and figures of the last
    level. The noise is the same every time, so that grids of different steps can be compared."""
    columns: dict[str, list[Tensor]] = {}
    rows = []
    for i, (x, y) in enumerate(zip(*(t.split(1) for t in val), strict=True)):
        ids = torch.tensor([i], device=run.device)
        x, y = (t.to(run.device).float() / 255 for t in (x, y))
        cx = corruption.keyed(x, VALIDATION_LOOP, ids)
        samples = draw_samples(net, z_gen, cx, ids, args.spi, loop=VALIDATION_LOOP).clamp(0, 1)
        size = samples.shape[-1]
        terms = loss_fn.terms(samples[0], y)
        baseline = bicubic(cx, size)
        figures = {
            loss_fn.name: terms.lpips.mean(),
            "mse": terms.mse.mean(),
            "combined": terms.combined.mean(),
            f"best_{loss_fn.name}": terms.lpips.min(),
            "best_combined": best_of_k(terms.combined[None])[0],
            "psnr": psnr(samples[0], y.expand_as(samples[0])).mean(),
            "best_psnr": psnr(samples[0], y.expand_as(samples[0])).max(),
            "bicubic_psnr": psnr(baseline, y)[0],
            f"bicubic_{loss_fn.name}": loss_fn.terms(baseline, y).lpips[0],
        }
        if args.spi > 1:  # the mean over pairs of samples
            pairs = loss_fn.pairwise(samples[0])
            figures[f"diversity_{loss_fn.name}"] = pairs.sum() / (args.spi * (args.spi - 1))
        for name, value in figures.items():
            columns.setdefault(f"val/{name}", []).append(value)
        shown = nn.functional.interpolate(cx, size=size, mode="nearest")
        rows.append(torch.cat([y, shown, samples[0][terms.combined.argsort()]]))
    run.log_now(**{name: torch.stack(values).mean() for name, values in columns.items()})
    run.sample_grid("val", torch.cat(rows), ncol=2 + args.spi)


@torch.no_grad()
def validate_pool(
    run: Run,
    net: nn.Module,
    loss_fn: nn.Module,
    z_gen: CodeGenerator,
    corruption: Corruption,
    val: tuple[Tensor, Tensor],
    args: argparse.Namespace,
) -> None:
    """Unconditional: a grid of samples, and how far validation images are from a pool of them."""
    found = PoolSearch(args.pool_size).search(
        net, z_gen, [(None, None, [val[1].to(run.device).float() / 255])], VALIDATION_LOOP
    )
    ids = torch.arange(args.num_val_images, device=run.device)
    none = torch.zeros(len(ids), 0, device=run.device)
    samples = draw_samples(net, z_gen, none, ids, args.spi, loop=VALIDATION_LOOP).clamp(0, 1)
    mse = lambda a, b: (a - b).square().mean((1, 2, 3))  # noqa: E731
    run.log_now(
        **{
            "val/nearest_mse": found[1].mean(),
            "val/diversity_mse": pairwise_diversity(samples, mse).mean(),
        }
    )
    run.sample_grid("val", samples.flatten(0, 1), ncol=args.spi)


def val_images(pyramid: Pyramid, count: int) -> tuple[Tensor, Tensor]:
    """Inputs and last-level targets, uint8 [N, 3, r, r], evenly spaced over the validation set."""
    if count > len(pyramid):
        raise UsageError(
            f"--num_val_images {count}: {pyramid.source.name} has {len(pyramid)} images"
        )
    items = [pyramid[i * len(pyramid) // count] for i in range(count)]
    return torch.stack([x for x, _ in items]), torch.stack([ys[-1] for _, ys in items])


def build_loss(args: argparse.Namespace) -> nn.Module:
    """LPIPS + alpha MSE a row, or the pixel MSE. Errors: UsageError without VGG16 weights."""
    if args.lpips == "none":
        return PixelLoss()
    if args.lpips == "random":
        return ResolutionLoss(
            random_seed=0, alpha=args.alpha, weighting=args.lpips_weighting
        )  # the same distance in every run, whatever --seed
    path = Path(args.lpips_path or weights_folder(models_home()) / LPIPS_BACKBONES["vgg"])
    if not path.is_file():
        raise UsageError(
            f"LPIPS needs VGG16 weights, there is no {path}: run `python data/SetupDataset.py "
            "fetch-weights`, or give --lpips_path FILE, or --lpips random (not comparable)"
        )
    try:
        return ResolutionLoss(path, alpha=args.alpha, weighting=args.lpips_weighting)
    except ValueError as error:
        raise UsageError(f"--lpips_path: {error}") from error


def build_net(args: argparse.Namespace) -> tuple[str, torch.nn.Module]:
    """Its kind, as snapshots name it, and the network."""
    if args.unconditional:
        size = args.res[-1]
        return "imle-unconditional", UnconditionalGenerator(
            size,
            z_nc=args.map_nc,
            latent_nc=args.latent_nc,
            channels=default_channels(size, cap=args.max_nc),
        )
    return "camnet", CAMNet(
        res=args.res,
        in_nc=args.in_nc,
        out_nc=args.out_nc,
        code_nc=args.code_nc,
        map_nc=args.map_nc,
        latent_nc=args.latent_nc,
        resid_nc=args.resid_nc,
        dense_nc=args.dense_nc,
        n_blocks=args.n_blocks,
        act_type=args.act_type,
        color_space=args.color_space,
        lab_range=args.lab_range,
        init=args.init,
        init_type=args.init_type,
        init_scale=args.init_scale,
        mapping_init=args.mapping_init,
    )


def lr_factor(args: argparse.Namespace, total: int) -> Callable[[int], float]:
    """Step -> learning rate over --lr: linear warm-up, then the named schedule."""

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, args.warmup))
        along = min(1.0, step / total)
        cosine = 0.5 * (1 + math.cos(math.pi * along))
        if args.lr_schedule == "constant":
            return warm
        if args.lr_schedule == "reference":  # CosineAnnealingLR(eta_min=1e-4), no warm-up
            floor = 1e-4 / args.lr
            return floor + (1 - floor) * cosine
        return warm * cosine

    return factor


def run_name(args: argparse.Namespace) -> str:
    """The run directory's readable part; a hash of the shaping options follows it."""
    parts = ["uncond" if args.unconditional else "camnet", data_name(args.data_tr)]
    parts += ["x".join(map(str, args.res)), args.job_id or args.uid, args.suffix]
    return "-".join(part for part in parts if part)


def seed_name(args: argparse.Namespace) -> str:
    """The founding text's run name, which W&B shows."""
    ns, res = ("_".join(map(str, v)) for v in (args.ns, args.res))
    name = (
        f"{data_name(args.data_tr)}-bs{args.bs}-OuterLoops{args.outer_loops}"
        f"-grayscale{args.grayscale}-ipc{args.ipc}-lr{args.lr:.2e}-ns{ns}-res{res}-seed{args.seed}"
    )
    return "-".join(part for part in (name, args.job_id or args.uid, args.suffix) if part)


def data_name(spec: str) -> str:
    """`camnet3/train`, `some/where/camnet3` -> camnet3."""
    parts = [part for part in Path(spec).parts if part not in ("train", "val", "test", "/")]
    return Path(parts[-1]).stem if parts else "data"


if __name__ == "__main__":
    launch(main, get_args())
