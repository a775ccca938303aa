"""From the options of `recipes.imle.options` to pictures, network, loss, optimizer and loader."""

import math
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data.pyramids import Pyramid
from data.registry import train_val_sources
from data.samplers import StepSampler
from data.sources import Source
from data.told import told
from imle import (
    Adaptive,
    CAMNet,
    CIMLEDataLoader,
    CodeGenerator,
    Corruption,
    KeyedFlip,
    KorKMinusOne,
    PixelLoss,
    PoolSearch,
    ProjectedDistance,
    Rejection,
    ResolutionLoss,
    UnconditionalGenerator,
    default_channels,
    parameter_groups,
    pixel_features,
    reference_names,
    to_hierarchical,
    to_learned,
)
from imle.losses import LossTarget
from imle.rejection import parse as rejection_of
from imle.targets import TargetCache
from models.muon import Muon
from recipes import initial, room
from recipes.imle.options import CORRUPTION, OPTIONS
from recipes.imle.perceptual import perceptual_loss
from recipes.imle.step import BasePictures
from recipes.known import inputs_of
from recipes.take import take
from runtime import ema as emas
from runtime.inputs import Inputs
from runtime.options import default_of, tagged
from runtime.run import Run
from runtime.seeding import seed_worker
from storage.dirs import data_home
from storage.errors import UsageError

Generator = CAMNet | UnconditionalGenerator
# Options of a CAM-Net that say what it computes, whatever the weights.
FUNCTION = ("base", "padding", "norm")
Loss = ResolutionLoss | PixelLoss


def check_ranks(args: Namespace, ranks: int) -> None:
    """UsageError for a batch that the processes cannot share."""
    for name in ("bs", "base_bs") if args.base_loops else ("bs",):
        if getattr(args, name) % ranks:
            raise UsageError(
                f"--{name} {getattr(args, name)} cannot be shared by {ranks} processes"
            )


def sources(args: Namespace) -> tuple[Source, Source]:
    """The sets to train and to validate on. Errors: DataError."""
    home = args.data_path or data_home()
    return train_val_sources(
        args.data_tr,
        args.data_val,
        home,
        val_fraction=args.cv_frac,
        seed=args.seed,
        sizes=_resolutions(args),
    )


def _resolutions(args: Namespace) -> list[int]:
    return [args.res[-1]] * 2 if args.unconditional else args.res


def inputs(args: Namespace, train: Source, val: Source) -> Inputs:
    """What the run reads, known by content; train, val: of `sources`. Errors: DataError."""
    own = {"data_tr": train} | ({} if args.data_val in (None, "cv") else {"data_val": val})
    return inputs_of(args, own, {"init_from": None})


def pictures(
    args: Namespace, train: Source, val: Source, say: Callable[[str], None] = print
) -> tuple[Pyramid, Tensor, Tensor]:
    """Training pictures at every resolution; inputs and last-level targets to validate on.

    The latter two uint8 [N, 3, r_0, r_0] and [N, 3, r_L, r_L], N being --num_val_images or as many
    as there are. train, val: of `sources`. `say` is told what is trained on. Errors: DataError.
    """
    say(told(train, val))
    res = _resolutions(args)
    trained = Pyramid(train, res, crop=args.crop, cache=args.cache)
    count = min(args.num_val_images, len(val))
    if count < args.num_val_images:
        say(
            f"validation: {val.name} has {count} picture{'s' * (count != 1)}, fewer than the "
            f"{args.num_val_images} asked for (--num_val_images): all are taken"
        )
    return trained, *_evenly(Pyramid(val, res, crop=args.crop), count)


def _evenly(pyramid: Pyramid, count: int) -> tuple[Tensor, Tensor]:
    """Inputs and last-level targets of `count` pictures, evenly spaced over the set."""
    items = [pyramid[i * len(pyramid) // count] for i in range(count)]
    return torch.stack([x for x, _ in items]), torch.stack([ys[-1] for _, ys in items])


def layout(args: Namespace) -> torch.memory_format:
    """Of the network and of what it is compared by."""
    return torch.channels_last if args.channels_last else torch.contiguous_format


def kind(args: Namespace) -> str:
    """What snapshots call the network."""
    return "imle-unconditional" if args.unconditional else "camnet"


def network(args: Namespace, device: torch.device) -> Generator:
    """A CAM-Net, or a StyleGAN-like generator without input; new weights from torch's stream."""
    make: Callable[[], Generator] = partial(_unconditional, args)
    if not args.unconditional:
        make = partial(take, CAMNet, args)
    sizes = ("resid_nc", "dense_nc", "n_blocks", "latent_nc", "map_nc", "code_nc", "max_nc")
    net: Generator = room.network(make, device, args, OPTIONS, sizes)
    first = args.res[-1] ** 2 * (args.max_nc if args.unconditional else args.resid_nc[-1])
    room.batch(min(args.bs, args.mini_bs), first, device, args, OPTIONS, ("mini_bs", "res"))
    return net.to(device).to(memory_format=layout(args))


def _unconditional(args: Namespace) -> UnconditionalGenerator:
    return UnconditionalGenerator(
        args.res[-1],
        z_nc=args.map_nc,
        latent_nc=args.latent_nc,
        channels=default_channels(args.res[-1], cap=args.max_nc),
    )


def loss(args: Namespace, device: torch.device) -> Loss:
    """Images [B, 3, r, r] and targets -> their distance [B]. Errors: UsageError."""
    loss_fn = perceptual_loss(
        args.lpips, args.lpips_path, alpha=args.alpha, weighting=args.lpips_weighting
    )
    return loss_fn.to(device).to(memory_format=layout(args))


def targets(
    args: Namespace, run: Run, loss_fn: Loss
) -> Callable[[int, Sequence[int], list[Tensor]], Sequence[Tensor | LossTarget]]:
    """(outer loop, pictures, targets) -> targets as the loss takes them: prepared once a loop with
    --cache_targets, else as they are."""
    if args.cache_targets and args.lpips != "none":
        return TargetCache(loss_fn, run.precision.autocast)
    return lambda loop, ids, ys: ys


def described_distance(args: Namespace) -> str:
    """What images are compared by, in a line."""
    if args.lpips == "random":
        return (
            "images are compared by LPIPS on random VGG16 weights: its figures are called "
            "lpips_random and compare with one another only (`python data/SetupDataset.py "
            "fetch-weights` gets the pretrained ones)"
        )
    what = "LPIPS on pretrained VGG16 weights" if args.lpips == "pretrained" else "the pixel MSE"
    return f"images are compared by {what}"


def optimizer(args: Namespace, net: nn.Module) -> torch.optim.Optimizer:
    """AdamW, or for the hidden layers of a base alone Muon (`begin_loss` ends it); the mapping
    network learns at its own rate."""
    if args.base_opt == "muon":
        groups = parameter_groups(net, args.lr, args.mapping_lr_mult, args.muon_lr / args.lr)
        return Muon(groups, args.lr, weight_decay=args.weight_decay)
    groups = parameter_groups(net, args.lr, args.mapping_lr_mult)
    return torch.optim.AdamW(groups, betas=(0.9, 0.999), weight_decay=args.weight_decay, fused=True)


def lr_factor(args: Namespace, total: int) -> Callable[[int], float]:
    """Step -> learning rate over --lr: linear warm-up, then the named schedule over `total`; one
    over --base_loops, one over --base_lpips_loops, and another over the loops behind them."""

    def factor(step: int) -> float:
        start = phase_start(args, step)
        end = min([edge for edge in phase_starts(args) if edge > step], default=total)
        step, length = step - start, end - start
        warm = min(1.0, (step + 1) / max(1, args.warmup))
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, length))))
        if args.lr_schedule == "constant":
            return warm
        if args.lr_schedule == "reference":  # CosineAnnealingLR(eta_min=1e-4), no warm-up
            floor = 1e-4 / args.lr
            return floor + (1 - floor) * cosine
        return warm * cosine  # --lr_schedule cosine

    return factor


def reschedule(args: Namespace, run: Run, scheduler: torch.optim.lr_scheduler.LambdaLR) -> None:
    """After run.restore: the schedule is over the length that holds now, which may be another than
    the checkpoint's."""
    step, groups = scheduler.last_epoch, scheduler.optimizer.param_groups

    def factor(outer_loops: int) -> Callable[[int], float]:
        return lr_factor(args, base_steps(args) + outer_loops * args.num_iteration)

    now = factor(run.length.schedule)
    scheduler.lr_lambdas = [now] * len(groups)
    scheduler._last_lr = [base * now(step) for base in scheduler.base_lrs]
    for group, rate in zip(groups, scheduler._last_lr, strict=True):
        group["lr"] = rate
    if args.lr_schedule != "constant":
        run.length.note_rate(lambda loops: args.lr * factor(loops)(step))


def average(args: Namespace, net: nn.Module) -> emas.EMA:
    """The moving average of the weights that is validated and kept."""
    return emas.EMA(net, emas.power(args.ema_std) if args.ema_std else 0.0)


def base_steps(args: Namespace) -> int:
    """Steps that train a learnt base alone, before those of samples."""
    return (args.base_loops + args.base_lpips_loops) * args.num_iteration


def phase_starts(args: Namespace) -> tuple[int, int, int]:
    """The first steps of a base by the MSE, of a base by the loss of samples, and of samples: each
    phase has a schedule, an optimizer and a moving average of its own."""
    return (0, args.base_loops * args.num_iteration, base_steps(args))


def base_loss(args: Namespace, loss_fn: Loss, step: int) -> tuple[str, Loss, int]:
    """What a learnt base is trained by in one of its steps: the name of its figure, the loss, and
    how many rows are taken at once. loss_fn: that of samples."""
    if step < phase_starts(args)[1]:
        return "base mse", PixelLoss(), args.base_bs
    return "base loss", loss_fn, args.mini_bs


def phase_start(args: Namespace, step: int) -> int:
    """The first step of the phase that a step is of."""
    return max(edge for edge in phase_starts(args) if edge <= step)


def averaged(args: Namespace, step: int, nimg: int) -> int:
    """Images behind a step over which the EMA goes: of its phase alone, so that the average begins
    at what the phase before left."""
    return nimg + args.bs - phase_start(args, step) * args.bs


def start_from(args: Namespace, run: Run, net: Generator, ema: emas.EMA) -> None:
    """After run.restore: begin with the weights at --init_from, in a fresh run."""

    def read(file: Path, say: initial.Say) -> initial.Weights:
        found = initial.read_weights(file, say)
        if not isinstance(net, CAMNet):
            return found
        state, brought = found.state, as_trained(args, found.built)
        if found.kind is None:  # of an original code base
            if brought.get("base", net.base) != "none":
                raise UsageError(
                    f"--init_from {args.init_from}: an original's weights, whose output is the "
                    f"picture: --base none goes with them, not --base {net.base}"
                )
            state = reference_names(state, net)
        if found.kind in (None, kind(args)):
            base = "none" if found.kind is None else str(found.built.get("base", "none"))
            if (base, net.base) == ("input", "learned"):
                state = to_learned(state, net)
                say(f"{file.name} has the enlarged input as its base: what is learnt begins at 0")
            elif base != net.base and "learned" in (base, net.base):
                raise UsageError(
                    f"--init_from {args.init_from}: weights of a network with --base {base}, not "
                    f"--base {net.base}: give --base {base}"
                )
            elif base == "learned":
                for name in ("base_nc", "base_blocks", "base_context"):
                    if (theirs := found.built.get(name, default_of(OPTIONS, name))) != (
                        mine := net.config[name]
                    ):
                        raise UsageError(
                            f"--init_from {args.init_from}: weights of a network with --{name} "
                            f"{theirs}, not {mine}: samples were trained around that base"
                        )
        if net.config["mapping"] == "hierarchical":
            state, widened = to_hierarchical(state, net)
            if widened:
                say(
                    f"{file.name} is of independent mapping networks: {len(widened)} of them get "
                    "columns of 0 for earlier levels, so that they compute what they did"
                )
        return found._replace(state=state, as_built=brought)

    initial.start(run, net, args.init_from, kind(args), averages=[ema], read=read)
    brought = run.facts.get("init_from", {}).get("as_built", {})  # of this or of an earlier launch
    if brought and isinstance(net, CAMNet):
        for one in (net, cast(CAMNet, ema.module)):
            one.compute_as(brought)
        words = " ".join(f"--{name} {value}" for name, value in brought.items())
        run.say(
            f"{words}, as the weights were trained, instead of as --preset {args.preset} has it"
        )


def as_trained(args: Namespace, built: Mapping[str, Any]) -> dict[str, str]:
    """Of base, padding and norm what weights bring along from their network, built so: those that a
    preset alone would have otherwise. What it does not name it has as the originals."""
    theirs = {name: built.get(name, default_of(OPTIONS, name)) for name in FUNCTION}
    if "learned" in (theirs["base"], args.base):  # has weights of its own
        del theirs["base"]
    preset: set[str] = getattr(args, "from_preset", set())
    return {k: v for k, v in theirs.items() if k in preset and v != getattr(args, k)}


def corruption(args: Namespace) -> tuple[Corruption, dict[str, Any]]:
    """What is taken away from inputs, and its settings as snapshots keep them."""
    settings = {name: getattr(args, name) for name in tagged(OPTIONS, CORRUPTION)}
    return Corruption(**settings, seed=args.seed), settings


def codes(args: Namespace, net: Generator) -> tuple[CodeGenerator, dict[str, Any]]:
    """What draws latent codes, and its settings as snapshots keep them."""
    settings = {"method": args.sample_method, "num_components": args.num_components}
    if args.sample_method == "mixture":
        settings["means_seed"] = (
            args.seed
        )  # who draws with another seed draws from the same mixture
    return CodeGenerator(net.code_sizes, seed=args.seed, **settings), settings


def loader(
    args: Namespace,
    run: Run,
    trained: Pyramid,
    net: Generator,
    corruption: Corruption,
    z_gen: CodeGenerator,
    loss_fn: Loss,
) -> CIMLEDataLoader:
    """Searches codes for a new subsample every --num_iteration steps, and yields batches.

    Codes are searched in the loss itself, or with --proj_dim in projected features; without an
    input by the pixel MSE, or with --proj_dim likewise.
    """
    searched: nn.Module = loss_fn
    features: Callable[[Tensor], Tensor] = pixel_features
    if args.proj_dim:
        assert isinstance(loss_fn, ResolutionLoss), "options see to it"
        projected = ProjectedDistance(loss_fn.features, args.proj_dim, seed=args.seed)
        searched, features = projected, projected.project
    near = rejection(args)
    pool = None
    if args.unconditional:
        pool = PoolSearch(args.pool_size, features=features, rejection=near)
    return CIMLEDataLoader(
        trained,
        KorKMinusOne(range(len(trained)), shuffle=True, seed=args.seed),
        net,
        corruption,
        z_gen,
        searched,
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
        precision=search_precision(args.search_precision, run.device),
        rescore=args.rescore,
        channels_last=args.channels_last,
        worker_init_fn=seed_worker,
        searcher=pool,
        cells=0 if args.unconditional else args.cells or 0,
        local_ns=args.local_ns,
        adaptive=adaptive(args),
        rejection=near,
    )


def base_pictures(
    args: Namespace, run: Run, trained: Pyramid, corruption: Corruption
) -> Iterator[BasePictures]:
    """After run.restore: what a learnt base is trained on, a batch a step: --base_bs pictures in
    --base_loops, then --bs.

    Pictures, flip and corruption are functions of the number of the draw.
    """
    _, by_lpips, samples = phase_starts(args)
    done = run.completed
    if done < by_lpips:
        first = done * args.base_bs
        yield from _drawn(args, run, trained, corruption, args.base_bs, first, by_lpips - done)
        done = by_lpips
    if done < samples:
        first = by_lpips * args.base_bs + (done - by_lpips) * args.bs
        yield from _drawn(args, run, trained, corruption, args.bs, first, samples - done)


def _drawn(
    args: Namespace,
    run: Run,
    trained: Pyramid,
    corruption: Corruption,
    bs: int,
    first: int,
    count: int,
) -> Iterator[BasePictures]:
    """`count` batches of `bs` pictures, all ranks together, from draw number `first` on."""
    order = StepSampler(len(trained), bs, seed=args.seed, rank=run.rank, world_size=run.world_size)
    order.drawn = first
    loaded = DataLoader(
        trained,
        batch_sampler=order,
        num_workers=args.num_workers,
        worker_init_fn=seed_worker,
        pin_memory=run.device.type == "cuda",
    )
    flip = KeyedFlip(args.seed, args.flip)
    batches = order.batches(loaded)
    for number in range(count):
        x, ys = next(batches)
        draws = range(order.drawn - bs + run.rank, order.drawn, run.world_size)
        ids = [order.index(draw) for draw in draws]
        if number == count - 1:
            batches.close()  # and the loader's workers with it
        keys = torch.tensor(draws, device=run.device)
        images = [image.to(run.device, non_blocking=True).float() / 255 for image in (x, *ys)]
        cx, *targets = flip(images, 0, keys)
        yield BasePictures(corruption.keyed(cx, 0, keys), targets, ids)


def begin_loss(
    args: Namespace, net: Generator, optimizer: torch.optim.Optimizer, step: int
) -> None:
    """Before each step: where another loss begins, so does the optimizer: Adam divides by the size
    of past gradients, and those of a base's MSE are so much smaller that the next steps would go
    astray. In steps of samples all weights take AdamW's step, and a learnt base keeps its own with
    --freeze_base.

    A signal in the search that follows goes back to the last save, from where this is done again.
    """
    base = net.regression if isinstance(net, CAMNet) else None
    if base is not None and args.freeze_base and step >= base_steps(args):
        base.requires_grad_(False)
    if isinstance(optimizer, Muon) and step >= base_steps(args):
        for group in optimizer.param_groups:
            group["muon"] = 0.0
    if step in phase_starts(args):
        optimizer.state.clear()


def adaptive(args: Namespace) -> Adaptive | None:
    """Which pictures keep their codes; None: all are searched in every loop."""
    if not args.adaptive:
        return None
    force = args.adaptive_force
    staleness = args.adaptive_staleness or min(7, force)
    return Adaptive(args.adaptive_gamma, staleness, force, args.adaptive_compat)


def rejection(args: Namespace) -> Rejection | None:
    """Which candidates are too near to be chosen; None: none is."""
    if args.rejection is None:
        return None
    eps, quantile = rejection_of(args.rejection)
    return Rejection(
        eps, quantile=quantile, levels=args.rejection_levels, empty=args.rejection_empty
    )


def search_precision(asked: str, device: torch.device) -> str:
    """fp32 or bf16; asked: one of them, or auto: bf16 on a GPU that has it."""
    if asked != "auto":
        return asked
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def work(args: Namespace, step: int) -> str | None:
    """What tells steps apart that compute more or less (`runtime.flops`): those of a base alone,
    by either loss, and the first of an outer loop, which has a search in it."""
    if step < base_steps(args):
        return "base" if step < phase_starts(args)[1] else "base by lpips"
    return "step" if step % args.num_iteration else None


def stop_at(args: Namespace, completed: int) -> int | None:
    """--chunk_epochs: the step that ends the loop which --resume N names, else the one we are in.

    completed: steps that are done.
    """
    if not args.chunk_epochs:
        return None
    named = str(args.resume).isdecimal()
    loop = int(args.resume) if named else completed // args.num_iteration
    return (loop + 1) * args.num_iteration
