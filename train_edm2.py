"""Train EDM2, a denoising diffusion network (Karras et al. 2023, arXiv:2312.02696), on all images
or on those that an online selection picks from every super-batch (JEST: Evans et al. 2024,
arXiv:2406.17711; with a weak guide as the reference: autoguided JEST).

    python train_edm2.py --preset smoke                               # embedded data, CPU, seconds
    python train_edm2.py --preset edm2-tiny-xxs --data tinyImagenet --outdir Ref
    torchrun --standalone --nproc-per-node 2 train_edm2.py --preset edm2-tiny-xs --data tinyImagenet
        --outdir AJEST --acid --guide-path Ref/network-snapshot-0005000-0.100

Modes, each with --early (only until the learner beats the reference) or --late (only from then on):
    baseline   trains on all of every batch
    random     --selection: on a random part of it, 1 - --filt
    JEST       --acid: on rows that the learner finds hard and a reference easy. The reference is a
               stronger network, --ref-path, or the learner's own EMA
    AJEST      --acid --guide-path WEAK: the weak guide is the reference

Running the same command again resumes. generate_images.py samples from the snapshots,
reconstruct_phema.py makes EMAs of other lengths out of them.
"""

import argparse
import contextlib
import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data.labelled import LabelledImages
from data.registry import open_source
from data.samplers import StepSampler
from diffusion import EDM2Loss, Precond, frozen_weights, normalize_weights, set_forced_weight_norm
from diffusion.edm2_loss import loss_per_sigma_bin
from diffusion.encoders import Encoder, make_encoder
from diffusion.guidance import bind, guided
from diffusion.lr import selection_lr
from diffusion.rows import Rows, row_keys, row_losses, score
from diffusion.samplers import heun
from generators.files import open_network
from recipes.words import image_count, period, period_steps
from runtime import distributed
from runtime import ema as emas
from runtime.cli import parse
from runtime.counter_rng import mix, normal
from runtime.launch import launch
from runtime.meters import Stopwatch
from runtime.options import add_run_args, add_table
from runtime.place import place
from runtime.run import Run
from runtime.seeding import generator, seed_worker
from runtime.types import (
    IntList,
    list_of,
    nonnegative_float,
    nonnegative_int,
    number,
    positive_float,
    positive_int,
    probability,
    text,
)
from selection import (
    METHODS,
    EarlyLateSwitch,
    draw_spread,
    scaled,
    select,
    selection_size,
    sigma_strata,
)
from storage.dirs import data_home, results_home
from storage.errors import UsageError
from storage.find import find_network
from storage.index_log import IndexLog

_IMG512 = {"data": "img512", "decay": 70000, "P_mean": -0.4, "P_std": 1.0}
_IMG64 = {"data": "img64", "decay": 35000, "P_mean": -0.8, "P_std": 1.6}
_TINY = {
    "data": "tinyImagenet", "duration": 167_618_560, "decay": 5463, "rampup": 0.780288,
    "P_mean": -0.4, "P_std": 1.0, "dropout": 0.0, "save_every": 1000, "snapshot": 500,
}  # fmt: skip
_CIFAR10 = {
    "data": "cifar10", "channels": 64, "lr": 0.017, "decay": 2731, "rampup": 0.38912,
    "P_mean": -0.4, "P_std": 1.0, "dropout": 0.0,
}  # fmt: skip

# Batches of 2048. edm2-img512 and edm2-img64 are EDM2's; the rest after them Autoguided's.
PRESETS = {
    "smoke": {
        "_help": "embedded scenes, CPU, seconds; takes the options of every mode",
        "data": "scenes", "res": 8, "channels": 8, "channel_mult": [1, 2], "num_blocks": 1,
        "attn_resolutions": [4], "channels_per_head": 8, "batch": 40, "batch_gpu": 16,
        "duration": 640, "rampup": 0.00008, "decay": 100, "dropout": 0.1, "n": 4, "snapshot": 8,
        "save_every": 8, "log_every": 4, "sample_images": 4, "sample_steps": 4,
        "wandb": "disabled", "num_workers": 0, "gpus": [],
    },
    "edm2-img512-xxs": {**_IMG512, "duration": "2048Mi", "channels": 64, "lr": 0.017},
    "edm2-img512-xs": {**_IMG512, "duration": "2048Mi", "channels": 128, "lr": 0.012},
    "edm2-img512-s": {**_IMG512, "duration": "2048Mi", "channels": 192, "lr": 0.010},
    "edm2-img512-m": {**_IMG512, "duration": "2048Mi", "channels": 256, "lr": 0.009, "dropout": .1},
    "edm2-img512-l": {**_IMG512, "duration": "1792Mi", "channels": 320, "lr": 0.008, "dropout": .1},
    "edm2-img512-xl": {**_IMG512, "duration": "1280Mi", "channels": 384, "lr": .007, "dropout": .1},
    "edm2-img512-xxl": {
        **_IMG512, "duration": "896Mi", "channels": 448, "lr": 0.0065, "dropout": 0.1,
    },
    "edm2-img64-xs": {**_IMG64, "duration": "1024Mi", "channels": 128, "lr": 0.012},
    "edm2-img64-s": {**_IMG64, "duration": "1024Mi", "channels": 192, "lr": 0.010},
    "edm2-img64-m": {**_IMG64, "duration": "2048Mi", "channels": 256, "lr": 0.009, "dropout": 0.1},
    "edm2-img64-l": {**_IMG64, "duration": "1024Mi", "channels": 320, "lr": 0.008, "dropout": 0.1},
    "edm2-img64-xl": {**_IMG64, "duration": "640Mi", "channels": 384, "lr": 0.007, "dropout": 0.1},
    "edm2-tiny-xxs": {**_TINY, "channels": 64, "lr": 0.017},
    "edm2-tiny-xs": {**_TINY, "channels": 128, "lr": 0.012, "ref_channels": 64},
    "edm2-cifar10-xxs": {**_CIFAR10, "duration": 83_808_256, "snapshot": 40},
    "test-training": {**_CIFAR10, "duration": 40_960, "save_every": 20, "snapshot": 40},
    "test-random": {
        **_CIFAR10, "duration": 40_960, "save_every": 20, "snapshot": 40, "selection": True,
    },
}  # fmt: skip

# Names of the founding command line for data that lies under another name here.
DATASETS = ("img512", "img64", "cifar10", "tiny", "folder", "generated")
# Flags that say how a run is executed or how long, not what it computes.
EXECUTION_ONLY = (
    "data_path", "dataset", "duration", "status", "snapshot", "checkpoint", "sample_images",
    "sample_steps", "sample_guidance", "bench", "dry_run", "outdir", "vae",
    "channels_last", "cache", "fp16", "trick",
)  # fmt: skip
JEST_ONLY = {
    "diff": True, "invert": False, "score_scale": "standardised", "temperature": 1.0,
    "score_by_sigma": False, "first_chunk": "uniform", "normalise": True,
}  # fmt: skip
SAMPLES = 0x73616D706C65  # "sample", apart from the keys of training noise
SIGMA_EDGES = (-1.5, -0.75, 0.0, 0.75, 1.5)  # in standard deviations of ln(sigma)


def get_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of EDM2 and of Autoguided under their names, and ours. Wrong ones exit with 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_run_args(parser, save_every=1024)
    parser.add_argument("-n", "--dry-run", action="store_true", help="print the options and exit")
    # fmt: off
    add_table(parser, "data", [
        ("--data", text, "scenes", "NAME, NAME/SPLIT, a folder, a zip or an LMDB; pixels or latents"
         " (data/dataset_tool.py)"),
        ("--dataset", DATASETS, None, "a founding name instead of --data; folder, generated: with"
         " --data PATH"),
        ("--data_path", text, None, "where data sets are stored (default: the data directory)"),
        ("--res", positive_int, None, "resolution (default: the data's own; 64 for scenes)"),
        ("--crop", ("center", "squash"), "center", "how pictures that are not square become it"),
        ("--xflip", bool, False, "the data twice, once mirrored"),
        ("--cache", ("none", "memory"), "none", "keep decoded images in memory"),
        ("--cond", bool, True, "condition on the class"),
        ("--label_dim", positive_int, None, "width of the one-hot label (default: the classes)"),
        ("--vae", text, None, "latents: where the VAE that decodes samples is (default: no grids)"),
    ])
    add_table(parser, "length and batch", [
        ("--duration", image_count, 2048 * 2**20, "images to train on (not those only looked at)"),
        ("--batch", positive_int, 2048, "images of a step, over all GPUs: the super-batch"),
        ("--batch-gpu", nonnegative_int, 0, "images a GPU takes at once; 0: all of its share"),
        ("--status", period, None, "period of a line in the logs (default: --log_every)"),
        ("--snapshot", period, "4096", "period of snapshots; a quarter of it up to step 1000"),
        ("--checkpoint", period, None, "period of checkpoints (default: --save_every). Periods are "
         "in steps, or in images with Ki, Mi, Gi"),
    ])
    add_table(parser, "network", [
        ("--channels", positive_int, 192, "channels at full resolution"),
        ("--channel_mult", IntList, [1, 2, 3, 4], "channels of each resolution over --channels"),
        ("--num_blocks", positive_int, 3, "blocks at each resolution"),
        ("--attn_resolutions", list_of(positive_int, empty_word="none"), [16, 8], "with attention"),
        ("--channels_per_head", positive_int, 64, "channels of an attention head"),
        ("--dropout", probability, 0.0, "probability of dropping an activation"),
        ("--fp16", bool, None, "True: --precision fp16, False: --precision fp32"),
        ("--channels_last", bool, False, "memory format"),
        ("--bench", bool, True, "let cuDNN choose its algorithms by trying"),
    ])
    add_table(parser, "loss and optimizer", [
        ("--P_mean", number(-20, 20), -0.4, "mean of ln(sigma)"),
        ("--P_std", positive_float, 1.0, "standard deviation of ln(sigma)"),
        ("--lr", positive_float, 0.01, "peak learning rate of Adam"),
        ("--decay", nonnegative_float, 70000, "steps after which it decays; 0: it does not"),
        ("--rampup", nonnegative_float, 10.0, "millions of images of its linear ramp"),
        ("--ramp", ("continuous", "reference"), "continuous", "of a selection that begins or ends: "
         "reference jumps as the original"),
        ("--ls", positive_float, 1.0, "loss scaling"),
        ("--ema_stds", list_of(number(0, 0.288, lo_open=True), unique=True), [0.05, 0.1],
         "relative widths of the power-function EMAs"),
    ])
    add_table(parser, "selection", [
        ("--selection", bool, None, "train on a part of every batch, at random unless --acid"),
        ("--acid", bool, False, "choose it by JEST"),
        ("--method", tuple(METHODS), None, "choose it by this method of selection/methods.py"),
        ("--guide-path", text, None, "snapshot of a weaker network: reference of AJEST, and guide "
         "of the sample grids"),
        ("--ref-path", text, None, "snapshot of a stronger network: reference of JEST"),
        ("--filt", number(0, 1, lo_open=True, hi_open=True), 0.8, "filter ratio: the part not "
         "trained on"),
        ("--n", positive_int, 8, "chunks in which JEST draws"),
        ("--diff", bool, True, "score: learner loss - reference loss; else - reference loss"),
        ("--invert", bool, False, "prefer low scores"),
        ("--early", bool, False, "select only until the learner beats the reference"),
        ("--late", bool, False, "select only from then on"),
        ("--trick", bool, False, "no effect: probabilities are computed in logarithms anyway"),
        ("--score_scale", ("standardised", "mean", "raw", "seed"), "standardised", "z-scores in the"
         " draw, loss a pixel, summed loss, or that times --ls over a GPU's batch as the original"),
        ("--temperature", positive_float, 1.0, "of the draw"),
        ("--score_by_sigma", bool, False, "rank rows among those of like sigma: keeps P(sigma)"),
        ("--first_chunk", ("uniform", "scored"), "uniform", "how the first chunk is drawn"),
        ("--normalise", bool, True, "scores over 2n + 1, as the original; else as published"),
        ("--rounding", ("exact", "reference"), "exact", "reference: cut off as the original's"),
        ("--select_scope", ("global", "rank"), "global", "draw from the whole super-batch, or per "
         "GPU and round of --batch-gpu as the original"),
        ("--unpaired", bool, False, "another sigma and noise for the reference, as the original"),
        ("--ref_channels", positive_int, None, "channels that the reference must have"),
    ])
    add_table(parser, "samples", [
        ("--sample_images", nonnegative_int, 16, "in the grid of every snapshot; 0: no grid"),
        ("--sample_steps", positive_int, 18, "Heun steps"),
        ("--sample_guidance", positive_float, 2.0, "weight, with --guide-path"),
        ("--outdir", text, None, "the run's folder; a relative one lies in the results directory"),
        ("--suffix", text, None, "appended to the run's name"),
    ])
    # fmt: on
    args = parse(parser, PRESETS, argv)
    try:
        check(args)
    except ValueError as error:
        parser.error(str(error))
    return args


def check(args: argparse.Namespace) -> None:
    """Rules between options, and what follows from several. Errors: ValueError."""
    if args.fp16 is not None:
        asked = "fp16" if args.fp16 else "fp32"
        if args.precision not in ("auto", asked):
            raise ValueError(f"--fp16 {args.fp16} and --precision {args.precision}: give one")
        args.precision = asked
    given = args.data != PRESETS.get(args.preset or "", {}).get("data", "scenes")
    if args.dataset in ("folder", "generated") and not given:
        raise ValueError(f"--dataset {args.dataset}: give its folder, --data PATH")
    if args.dataset is not None and not given:  # over the preset's
        args.data = "tinyImagenet" if args.dataset == "tiny" else args.dataset
    if args.res is None and args.data.split("/")[0] == "scenes":
        args.res = 64
    if args.outdir is not None:
        if args.run_dir is not None:
            raise ValueError(f"--outdir {args.outdir} and --run-dir {args.run_dir}: give one")
        args.run_dir = str((Path(args.results_path or results_home()) / "train_edm2") / args.outdir)
    if (args.acid or args.method) and args.selection is False:
        raise ValueError("--no-selection with --acid or --method, which select: give one")
    if args.acid and args.method not in (None, "jest"):
        raise ValueError(f"--acid is --method jest, not {args.method}: give one")
    args.acid = args.acid or args.method == "jest"
    args.selection = bool(args.selection or args.acid or args.method)
    if args.method == ("jest" if args.acid else "random"):
        args.method = None  # said twice
    if args.early and args.late:
        raise ValueError("--early ends the selection where --late begins it: give one")
    if (args.early or args.late) and not args.selection:
        raise ValueError(f"--{'early' if args.early else 'late'} needs --selection or --acid")
    needs_ref = METHODS[method_name(args)].needs_ref
    if args.guide_path and args.ref_path and needs_ref:
        raise ValueError("--acid with --guide-path and --ref-path: there is one reference")
    if args.ref_path and not (needs_ref or args.early or args.late):
        raise ValueError("--ref-path is for --acid, --early and --late; nothing here compares")
    if (args.early or args.late) and not (needs_ref or args.guide_path or args.ref_path):
        raise ValueError(
            "--early and --late of a random selection need a --guide-path or --ref-path"
        )
    if not args.acid:
        for name, usual in JEST_ONLY.items():
            if getattr(args, name) != usual:
                raise ValueError(f"--{name} has an effect on --acid only")
    if len({f"{std:.3f}" for std in args.ema_stds}) < len(args.ema_stds):
        raise ValueError(f"--ema_stds {args.ema_stds}: two are alike in names of snapshots")
    if args.status is not None:
        args.log_every = period_steps(args.status, args.batch)
    if args.checkpoint is not None:
        args.save_every = period_steps(args.checkpoint, args.batch)
    check_shares(args, max(1, len(args.gpus or [])))


def check_shares(args: argparse.Namespace, ranks: int) -> None:
    """That the batch can be shared by so many processes. Errors: ValueError."""
    share, rest = divmod(args.batch, ranks)
    if rest:
        raise ValueError(f"--batch {args.batch} cannot be shared by {ranks} GPUs")
    if args.select_scope == "rank" and args.selection and share % (args.batch_gpu or share):
        raise ValueError(
            f"--batch-gpu {args.batch_gpu} does not divide a GPU's {share} images, which "
            "--select_scope rank draws from one part at a time"
        )
    if args.selection:
        mini_batch(args, ranks)


def method_name(args: argparse.Namespace) -> str:
    """Of the selection: a key of selection.METHODS."""
    return args.method or ("jest" if args.acid else "random")


def mini_batch(args: argparse.Namespace, world_size: int) -> int:
    """Rows that a selecting step trains on, over all ranks. Errors: ValueError for none."""
    pool, draws = args.batch, 1
    if args.select_scope == "rank":
        pool = min(args.batch_gpu or args.batch, args.batch // world_size)
        draws = args.batch // pool
    chunks = 1 if method_name(args) == "random" else args.n
    return draws * selection_size(pool, args.filt, chunks, args.rounding)


def main(args: argparse.Namespace) -> None:
    if args.dry_run and place().rank == 0:
        print(json.dumps(vars(args), indent=1))
    if args.dry_run:
        return
    by_rank = ("batch_gpu",) if args.select_scope == "global" else ()
    with Run(
        args,
        script="train_edm2",
        name=run_name(args),
        shaping_exclude=EXECUTION_ONLY + by_rank,
        scale_loss=False,  # EDM2's fp16 recipe: a constant scale, and gradients forced finite
    ) as run:
        try:
            check_shares(args, run.world_size)
        except ValueError as error:
            raise UsageError(str(error)) from None
        torch.backends.cudnn.benchmark = args.bench and not args.deterministic
        share = args.batch // run.world_size
        part = min(args.batch_gpu or share, share)
        mini = mini_batch(args, run.world_size) if args.selection else args.batch

        # Data: every rank reads its rows of the (super-)batch.
        source = open_source(args.data, args.data_path or data_home())
        images = LabelledImages(
            source, args.res, crop=args.crop, xflip=args.xflip, cache=args.cache
        )
        sampler = StepSampler(
            len(images), args.batch, seed=args.seed, rank=run.rank, world_size=run.world_size
        )
        loader = DataLoader(
            images,
            batch_sampler=sampler,
            num_workers=args.num_workers,
            pin_memory=run.device.type == "cuda",
            worker_init_fn=seed_worker,
            generator=generator("cpu", "loader", args.seed),  # else it draws from the step's
        )

        # Network, loss, optimizer, EMAs; the reference and the guide.
        label_dim = label_width(args, images)
        net, encoder = new_network(args, run, images, label_dim)
        set_forced_weight_norm(net, False)  # below, once a step instead of in every pass
        loss_fn = EDM2Loss(args.P_mean, args.P_std, net.sigma_data)
        fused = {"fused": True} if run.device.type in ("cuda", "cpu") else {}
        optimizer = torch.optim.Adam(net.parameters(), lr=args.lr, betas=(0.9, 0.99), **fused)
        averages = {std: emas.EMA(net, emas.power(std)) for std in args.ema_stds}
        switch = EarlyLateSwitch("early" if args.early else "late" if args.late else None)
        guide = load_network(args, args.guide_path, net, run)
        reference = load_network(args, args.ref_path, net, run) or guide
        method = METHODS[method_name(args)]
        if method.needs_ref and reference is None:
            reference = next(iter(averages.values())).module

        run.restore(
            net=net,
            optimizer=optimizer,
            sampler=sampler,
            switch=switch,
            **{f"ema_{std:.3f}": average for std, average in averages.items()},
        )
        forward = run.compile(net)
        picked = None
        if args.selection and run.is_main:
            picked = IndexLog(run.dir / "selected.bin", run.completed)
        edges = loss_fn.sigma(torch.tensor(SIGMA_EDGES, device=run.device))
        bins = [f"{edge:.3g}" for edge in (0.0, *edges.tolist(), float("inf"))]
        numbers = net.img_channels * net.img_resolution**2  # of an image
        selection_time, training_time = Stopwatch(run.device), Stopwatch(run.device)
        batches = sampler.batches(loader)

        def losses_of(model: nn.Module, rows: Rows, draw: int = 0) -> tuple[Tensor, Tensor]:
            # Keeping scaled weights costs memory traffic, and pays from the second part on.
            with frozen_weights(model) if part < share else contextlib.nullcontext():
                return score(
                    model, rows, loss_fn, encoder, label_dim=label_dim, part=part, draw=draw
                )

        def total() -> int:
            now = mini if args.selection and switch.selecting else args.batch
            return run.completed + -(-max(0, args.duration - run.nimg) // now)

        for step in run.steps(total):
            normalize_weights(net)
            index, raw, labels = (t.to(run.device, non_blocking=True) for t in next(batches))
            keys = row_keys(args.seed, step, run.rank, run.world_size, share, run.device)
            rows, size = Rows(index, raw, labels, keys), args.batch
            selecting, waiting = args.selection and switch.selecting, switch.waiting

            # First pass, without gradients: what learner and reference lose on the super-batch,
            # under one sigma, noise and dropout. Then the draw.
            learner = ref = sigma = places = None
            if selecting or waiting:
                selection_time.start()
                if waiting or method.needs_ref:
                    ref, sigma = losses_of(reference, rows, draw=int(args.unpaired))
                if selecting and (waiting or method.needs_losses):
                    learner, sigma = losses_of(net, rows)
                if selecting:
                    rows, places = choose(args, run, step, rows, learner, ref, sigma, numbers)
                    size = mini
                run.log(**{"time/selection_s": selection_time.stop()})

            # Second pass: train on the chosen rows, or on all, `part` at a time.
            training_time.start()
            losses, sigmas = [], []
            for piece in rows.parts(part):
                loss, sigma = row_losses(forward, piece, loss_fn, encoder, label_dim=label_dim)
                # Gradients are averaged over ranks, so that this is the mean over the step's rows.
                run.backward(loss.sum() * (args.ls * run.world_size / size), piece.index)
                losses.append(loss.detach())
                sigmas.append(sigma)
            rate = learning_rate(args, run.nimg + size, step + 1, selecting, switch)
            for group in optimizer.param_groups:
                group["lr"] = rate
            if run.step(optimizer, force_finite=run.precision.name == "fp16"):
                for average in averages.values():
                    average.update(net, run.nimg + size, size)
            run.nimg += size
            run.log(**{"Learning rate": rate, "time/training_s": training_time.stop()})
            if losses:  # a rank may have got no rows
                mean_loss = torch.cat(losses) / numbers
                run.log_sums(**loss_figures(mean_loss, torch.cat(sigmas), edges, bins))
            if places is not None and picked is not None:  # the host waits, as in run.step
                picked.add(step, places.flatten().cpu().numpy())

            if waiting:  # is the learner better than the reference by now?
                learner = torch.cat(losses) if learner is None else learner
                ahead = distributed.mean((learner - ref).mean() / numbers).item()
                if switch.observe(ahead, nimg=run.nimg, step=step + 1):
                    word = "begins" if switch.selecting else "ends"
                    run.say(f"step {step + 1}: the learner beats the reference, selection {word}")
            for name, loss in (("Learner", learner), ("Reference", ref)):
                if loss is not None:
                    run.log(**{f"Super-Batch {name} Loss": loss.mean() / numbers})

            done = run.nimg >= args.duration
            if done or (step + 1) % snapshot_period(args, step + 1) == 0:
                save_snapshots(run, args, averages, encoder, images.classes)
                look(run, args, next(iter(averages.values())).module, guide, encoder)
        if picked is not None:
            picked.close()
        run.say(f"snapshots {run.dir / 'snapshots'}")


def choose(
    args: argparse.Namespace,
    run: Run,
    step: int,
    rows: Rows,
    learner: Tensor | None,
    ref: Tensor | None,
    sigma: Tensor | None,
    numbers: int,
) -> tuple[Rows, Tensor]:
    """This rank's share of the rows to train on, and which they are for all ranks: [2, b] with
    their places in the super-batch and in the data. Losses are sums over an image's `numbers`; a
    random draw takes none."""
    name = method_name(args)
    method = METHODS[name]

    def pick(learner: Tensor, ref: Tensor | None, sigma: Tensor | None, *key: int) -> Tensor:
        source = generator(run.device, "selection", args.seed, step, *key)
        common = {"filter_ratio": args.filt, "N": args.n, "rounding": args.rounding}
        strata, options = None, {}
        if ref is not None:
            strata = sigma_strata(sigma) if args.score_by_sigma else None
            learner, ref = scaled(
                learner,
                ref,
                scale=args.score_scale,
                learnability=args.diff,
                pixels=numbers,
                loss_scaling=args.ls,
                batch_gpu_total=args.batch // run.world_size,
                strata=strata,
            )
        if name == "jest":
            options = {
                "learnability": args.diff,
                "inverted": args.invert,
                "first_chunk": args.first_chunk,
                "normalise": args.normalise,
                "temperature": args.temperature,
                "strata": strata,
            }
            spread = draw_spread(learner, ref, **common, **options)
            run.log(**{"entropy": spread.entropy, "perplexity / B": spread.relative})
        return select(name, learner, ref, generator=source, options=options, **common)

    share = len(rows.keys)
    if not method.needs_losses:
        learner = torch.zeros(share, device=run.device)
    if not method.needs_ref:
        ref = sigma = None
    scores = (learner, ref, sigma)
    if args.select_scope == "rank":  # as the original: each GPU and round by itself
        part = args.batch_gpu or share
        own = torch.cat(
            [
                first + pick(*(t if t is None else t[first : first + part] for t in scores),
                             run.rank, first // part)
                for first in range(0, share, part)
            ]
        )  # fmt: skip
        rows = rows.take(own)
        places = distributed.gather(run.rank + run.world_size * own)
        return rows, torch.stack([places, distributed.gather(rows.index)])
    places = pick(*(t if t is None else distributed.interleave(t) for t in scores))
    # The same on every rank, unless their devices round differently: then rank 0 decides.
    places = distributed.gather(places)[: len(places)].sort().values
    index = distributed.interleave(rows.index)[places]
    return Rows(*distributed.take_interleaved(rows, places)), torch.stack([places, index])


def learning_rate(
    args: argparse.Namespace, nimg: int, step: int, selecting: bool, switch: EarlyLateSwitch
) -> float:
    """Rate of the step that makes it `step` steps and `nimg` images."""
    mini = mini_batch(args, distributed.world_size()) if args.selection else args.batch
    return selection_lr(
        nimg,
        step,
        selecting=selecting,
        early=args.early,
        late=args.late,
        mini_batch=mini,
        super_batch=args.batch,
        ref_lr=args.lr,
        ref_batches=args.decay,
        rampup_Mimg=args.rampup,
        change_nimg=switch.change_nimg,
        change_step=switch.change_step,
        ramp=args.ramp,
    )


def loss_figures(
    loss: Tensor, sigma: Tensor, edges: Tensor, names: list[str]
) -> dict[str, tuple[Tensor | float, Tensor | float]]:
    """Sums and counts of the loss of all rows [n] and by noise level, between consecutive `names`
    (of 0, the edges, infinity)."""
    bins = zip(*loss_per_sigma_bin(loss, sigma, edges), strict=True)
    figures = {f"loss/sigma {names[i]}-{names[i + 1]}": pair for i, pair in enumerate(bins)}
    return figures | {"Loss": (loss.sum(), float(len(loss)))}


def snapshot_period(args: argparse.Namespace, step: int) -> int:
    """Steps between snapshots; four times as many while training changes fastest."""
    whole = period_steps(args.snapshot, args.batch)
    return max(1, whole // 4) if step <= 1000 else whole


def save_snapshots(
    run: Run,
    args: argparse.Namespace,
    averages: dict[float, emas.EMA],
    encoder: Encoder,
    classes: list[str],
) -> None:
    """`network-snapshot-STEP-STD` of every EMA."""
    for std, average in averages.items():
        config = {
            "net": average.module.config,
            "encoder": encoder.config,
            "classes": classes,
            "ema_std": std,
            "step": run.completed + 1,
            "nimg": run.nimg,
            "loss": {"P_mean": args.P_mean, "P_std": args.P_std},
        }
        name = f"network-snapshot-{run.completed + 1:07d}-{std:.3f}"
        run.snapshot(name, average.module, "edm2", config)


@torch.no_grad()
def look(
    run: Run,
    args: argparse.Namespace,
    net: Precond,
    guide: Precond | None,
    encoder: Encoder,
) -> None:
    """Grids of samples, with and without the guide, from the same noise every time."""
    latents = encoder.config["name"] != "rgb"
    if not run.is_main or not args.sample_images or (latents and args.vae is None):
        return
    count = args.sample_images
    keys = mix(torch.arange(count, device=run.device), SAMPLES)
    shape = (net.img_channels, net.img_resolution, net.img_resolution)
    noise = normal(keys, net.img_channels * net.img_resolution**2).view(count, *shape)
    labels = None
    if net.label_dim:
        classes = torch.arange(count, device=run.device) % net.label_dim
        labels = nn.functional.one_hot(classes, net.label_dim).float()
    weights = {"samples": 1.0} | ({"guided": args.sample_guidance} if guide is not None else {})
    for name, weight in weights.items():
        with frozen_weights(net):
            denoise = guided(bind(net, labels), guide and bind(guide, labels), weight)
            images = encoder.decode(heun(denoise, noise, steps=args.sample_steps))
        run.sample_grid(name, images.float() / 255, ncol=max(1, round(count**0.5)))


def new_network(
    args: argparse.Namespace, run: Run, images: LabelledImages, label_dim: int
) -> tuple[Precond, Encoder]:
    """The network in training, on the run's device, and the encoder it works behind. Errors:
    UsageError for options or data that make no network, EncoderError for a VAE that is missing."""
    kind = "rgb" if images.channels == 3 else "stability-vae"
    encoder = make_encoder({"name": kind}, vae=args.vae)
    try:
        net = Precond(
            images.resolution,
            encoder.latent_channels(images.channels),
            label_dim,
            use_fp16=run.precision.name != "fp32",
            model_channels=args.channels,
            channel_mult=args.channel_mult,
            num_blocks=args.num_blocks,
            attn_resolutions=args.attn_resolutions,
            channels_per_head=args.channels_per_head,
            dropout=args.dropout,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    if kind != "rgb" and args.vae is not None and args.sample_images and run.is_main:
        encoder.decode(torch.zeros(1, net.img_channels, 1, 1))  # fails now, not at the first grid
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    net = net.to(run.device, memory_format=layout).train()
    net.compute_dtype = run.precision.dtype
    return net, encoder


def load_network(
    args: argparse.Namespace, path: str | None, net: Precond, run: Run
) -> Precond | None:
    """The network of a snapshot, for evaluation, next to which `net` is trained. Errors:
    UsageError if the two do not fit, CheckpointError."""
    if path is None:
        return None
    snapshot = open_network(find_network(path), run.say)
    if snapshot.kind != "edm2":
        raise UsageError(f"{path} holds a {snapshot.kind!r} network, not edm2")
    other = Precond(**snapshot.config["net"])
    other.load_state_dict(snapshot.state_dict)
    for what in ("img_resolution", "img_channels"):
        if getattr(other, what) != getattr(net, what):
            raise UsageError(
                f"{path}: {what} {getattr(other, what)}, the learner's is {getattr(net, what)}"
            )
    if other.label_dim not in (0, net.label_dim):
        raise UsageError(
            f"{path} knows {other.label_dim} classes, the learner {net.label_dim}; "
            f"give --label_dim {other.label_dim} if these are the same first ones"
        )
    width = other.config["model_channels"]
    if args.ref_channels is not None and width != args.ref_channels:
        raise UsageError(f"{path} has {width} channels, --ref_channels wants {args.ref_channels}")
    other.compute_dtype = net.compute_dtype
    return other.eval().requires_grad_(False).to(run.device)


def label_width(args: argparse.Namespace, images: LabelledImages) -> int:
    """Width of the one-hot labels; 0 for none. Errors: UsageError."""
    if not args.cond:
        return 0
    if not images.label_dim:
        raise UsageError(f"{images.source.name} has no classes: give --cond False")
    if args.label_dim is not None and args.label_dim < images.label_dim:
        raise UsageError(f"--label_dim {args.label_dim}: there are {images.label_dim} classes")
    return args.label_dim or images.label_dim


def run_name(args: argparse.Namespace) -> str:
    """The run directory's readable part; a hash of the shaping options follows it."""
    mode = "baseline"
    if args.selection:
        mode = "ajest" if args.acid and args.guide_path else method_name(args)
        mode = ("early-" if args.early else "late-" if args.late else "") + mode
    parts = ["edm2", Path(args.data).stem, f"c{args.channels}", mode, args.suffix]
    return "-".join(part for part in parts if part)


if __name__ == "__main__":
    launch(main, get_args())
