"""ISICLE: TrainSimCLR.py on views that a generator draws, so that two views of a picture differ as
real pictures differ. Everything else is SimCLR's, and so are its options.

    python TrainISICLE.py --preset smoke                        # embedded data, CPU, seconds
    python TrainISICLE.py --preset tiny25 --net RUN/snapshots/network-latest
    python TrainISICLE.py --net FILE --pair real-synth --augs crop+flip
    python TrainISICLE.py --net FILE --f 0:1                    # more and more synthetic views
    python TrainISICLE.py --net FILE --refresh 5 --k 8          # 8 views a picture, anew every 5
    python TrainISICLE.py --views cache --cache DIR             # made by generate_views.py
    python TrainISICLE.py --joint 5 --imle_steps 200 --imle "--preset cpu-small"
    python TrainISICLE.py --pair real-real                      # TrainSimCLR.py, bit for bit

Where synthetic views come from: drawn in every step (the default), from a folder (--views cache),
drawn anew every R epochs (--refresh); with --joint the generator goes on being trained by IMLE
between epochs, as in TrainGeneratorWandB.py, and the encoder's loss never reaches it. On a GPU the
next step's views are drawn on a stream of their own while the encoder works.

Figures are of real pictures only. Running the same command again resumes.
"""

import argparse
import hashlib
import json
import shlex
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import TrainGeneratorWandB as generator
from data.pyramids import Pyramid, free_memory
from data.sources import Source
from data.uint8_cache import UInt8Cache
from data.views.generated import (
    MODES,
    Acceptance,
    CachedViews,
    FilteredViews,
    Sampler,
    ViewSource,
    cached_draws,
    fraction,
    gather_views,
    ms_per_view,
    number_of_views,
    online_draws,
    synthetic_mask,
)
from data.views.recipes import Recipe, described, view_keys
from data.views.splits import Plain
from data.views.stored import ViewCache, open_views, root_ids
from generators.base import build
from generators.files import open_network
from imle import CAMNet, CIMLEDataLoader, CodeGenerator, Corruption, KeyedFlip, KorKMinusOne
from imle import parameter_groups as generator_groups
from models import MultiPositive, SimCLR
from models.domain_norm import by_domain, convert_domain_bn, real_state
from models.simclr import two_views
from recipes.simclr import figures, parts
from recipes.simclr import options as simclr
from recipes.simclr.files import save_epoch
from recipes.simclr.parts import Pictures
from recipes.views import parts as view_parts
from recipes.views.options import GENERATOR, add_generator_options, check_generator
from runtime import ema as emas
from runtime.cli import parse
from runtime.counter_rng import permutation
from runtime.distributed import gather
from runtime.launch import launch
from runtime.meters import Stopwatch
from runtime.options import EXECUTION, add_options, add_run_args, add_table, rows_of, tagged
from runtime.run import Run
from runtime.seeding import seed_worker
from runtime.types import nonnegative_int, positive_int, text
from storage.errors import UsageError
from storage.find import find_network

TINY_IMLE = (
    "--preset smoke --res 8 16 --resid_nc 6 --dense_nc 4 --map_nc 4 --latent_nc 8 --bs 4 "
    "--mini_bs 4 --ns 4 --sp 4 --code_bs 4 --subsample_size 8"
)
PRESETS = {
    "smoke": {
        "_help": "embedded scenes, a tiny generator trained on the way, CPU, seconds",
        "data": "scenes", "num_images": 64, "crop_size": 16, "stem": "standard", "bs": 16,
        "epochs": 2, "n_ramp": 1, "eval": "cv", "folds": 2, "eval_iter": 1, "save_iter": 1,
        "probe_epochs": 0, "color_s": 0.5, "log_every": 2, "num_workers": 0, "wandb": "disabled",
        "gpus": [], "joint": 1, "imle_steps": 3, "imle": TINY_IMLE, "view_batch": 16,
    },
    "tiny25": {
        "_help": "25 classes of tiny ImageNet at 64 px, 20 epochs: benchmarks/isicle_arms.py",
        "data": "tiny_imagenet_25", "crop_size": 64, "recipe": "small", "stem": "standard",
        "bs": 256, "epochs": 20, "n_ramp": 2, "opt": "adam", "lars": 0, "lr": 1e-3, "color_s": 0.5,
        "temp": 0.2, "eval": "val", "eval_iter": 5, "save_iter": 20, "probe_epochs": 0,
        "precision": "bf16", "view_precision": "bf16", "num_workers": 0, "log_every": 8,
        "save_every": 16,
    },
}  # fmt: skip

EXECUTION_ONLY = (*tagged(simclr.OPTIONS, EXECUTION), "lpips_path")
AUGS = ("none", "crop+flip", "full")
# Of the generator's options those that a preset may set for a run that draws nothing.
HOW_DRAWN = ("view_batch", "view_precision", "view_channels_last", "lpips", "lpips_path")
# Options of TrainGeneratorWandB.py that --imle does not take: this run's own hold for the generator
# too, or they have no influence on it here. And those that are as a --net has them.
NOT_IMLE = (
    "run_dir", "results_path", "resume", "save_every", "log_every", "num_workers", "precision",
    "compile", "deterministic", "seed", "wandb", "gpus", "data_tr", "data_val", "data_path",
    "cv_frac", "crop", "cache", "outer_loops", "num_iteration", "proj_dim", "pool_size",
    "num_val_images", "spi", "snapshot_every", "chunk_epochs", "suffix", "job_id", "uid",
    "epochs", "max_nc",
)  # fmt: skip
OF_THE_NET = (
    "res", "in_nc", "out_nc", "code_nc", "map_nc", "latent_nc", "resid_nc", "dense_nc", "n_blocks",
    "act_type", "color_space", "lab_range", "init", "init_type", "init_scale", "mapping_init",
    "sample_method", "num_components", "grayscale", "mask_res", "mask_frac", "fill",
)  # fmt: skip
SHOWN = (8, 6)  # pictures and draws of a grid
CHUNK = 512  # pictures between two looks for a signal, when a cache is drawn


def get_args(argv: list[str] | None = None) -> argparse.Namespace:
    """TrainSimCLR.py's options, those of generated views, and how they are paired."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_run_args(parser, save_every=500)
    add_options(parser, simclr.OPTIONS)
    add_generator_options(parser)
    # fmt: off
    add_table(parser, "pairs", [
        ("--pair", MODES, "mixed", "what the views of a picture are; mixed: each is synthetic with "
         "probability --f; multi: one is real, --num_synth are not"),
        ("--f", text, None, "of mixed: a share, or START:END over the epochs (default: 0.5)"),
        ("--num_synth", positive_int, 2, "synthetic views of multi"),
        ("--reduce", ("out", "in"), "out", "of multi: where the loss sums over positives"),
        ("--augs", AUGS, None, "on top of all views (default: full, as --unreal_augs says)"),
        ("--domain_bn", bool, False, "batch norms of their own for synthetic views; figures and "
         "snapshots have the real ones"),
    ])
    add_table(parser, "where synthetic views come from", [
        ("--views", ("online", "cache"), "online", "drawn when they are needed, or from --cache"),
        ("--cache", text, None, "folder of views, as generate_views.py writes it"),
        ("--refresh", nonnegative_int, 0, "draw --k views a picture every so many epochs; 0: draw "
         "in every step"),
        ("--k", positive_int, 4, "views a picture of --refresh"),
        ("--joint", nonnegative_int, 0, "train the generator before every so many epochs"),
        ("--imle_steps", positive_int, 100, "its steps each time, on codes searched anew"),
        ("--imle", text, "--preset cpu-small", "options of TrainGeneratorWandB.py for it, in "
         "quotes; with --net none of the network's, its codes' and its corruption's"),
    ])
    # fmt: on
    args = parse(parser, PRESETS, argv)
    if args.augs is not None:
        if args.augs == "full" and not args.unreal_augs:
            parser.error("--unreal_augs 0 and --augs full exclude each other")
        args.unreal_augs = int(args.augs == "full")
    try:
        simclr.check(args)
        check_generator(args)
        check(args)
    except ValueError as error:
        parser.error(str(error))
    return args


def check(args: argparse.Namespace) -> None:
    """Rules between the options. Errors: ValueError."""
    if args.f is not None and args.pair != "mixed":
        raise ValueError(f"--f {args.f} is of --pair mixed, not of {args.pair}")
    share = fraction(args.f or 0.5)
    if args.views == "cache" and not args.cache:
        raise ValueError("--views cache needs --cache FOLDER")
    if args.cache and args.views != "cache":
        raise ValueError(f"--cache {args.cache} needs --views cache")
    for name in ("net", "refresh", "joint"):
        if args.cache and getattr(args, name):
            raise ValueError(f"--views cache draws nothing, so it takes no --{name}")
    for flag, _, default, *_ in rows_of(GENERATOR):
        name = flag.removeprefix("--")
        if args.cache and name not in HOW_DRAWN and getattr(args, name) != default:
            raise ValueError(f"--views cache draws nothing, so it takes no {flag}")
    if args.pair == "real-real":
        if args.joint or args.refresh or args.cache:
            raise ValueError(
                "--pair real-real has no synthetic views: no --joint, --refresh, --cache"
            )
    elif not (args.net or args.cache or args.joint):
        raise ValueError(
            f"--pair {args.pair} takes synthetic views from somewhere: give --net SNAPSHOT, "
            "--views cache --cache FOLDER, or --joint R"
        )
    one_draw = (
        args.temperature == 0
        or args.code == "fixed"
        or args.view_source == "upsampled"
        or bool(args.refresh and args.k == 1)
    )
    all_real = args.pair == "real-real" or args.pair == "mixed" and share == (0, 0)
    all_drawn = args.pair == "synth-synth" or args.pair == "mixed" and share == (1, 1)
    if args.augs == "none" and (all_real or all_drawn and one_draw):
        raise ValueError(f"--pair {args.pair} --augs none: two equal views teach nothing")
    if args.k != 4 and not args.refresh:
        raise ValueError(f"--k {args.k} is of --refresh; without it views are drawn in every step")
    for name, default in (("num_synth", 2), ("reduce", "out")):
        if getattr(args, name) != default and args.pair != "multi":
            raise ValueError(f"--{name} {getattr(args, name)} is of --pair multi, not {args.pair}")
    if args.pair == "multi" and args.loss != "ntxent":
        raise ValueError(f"--pair multi has NT-Xent for many views only, not --loss {args.loss}")
    if args.domain_bn and args.pair in ("real-real", "synth-synth"):
        raise ValueError(f"--domain_bn: --pair {args.pair} has one kind of views only")
    if args.domain_bn and args.compile:
        raise ValueError("--domain_bn and --compile exclude each other: batches split unevenly")
    if args.joint and args.refresh and args.joint % args.refresh:
        raise ValueError(
            f"--joint {args.joint} is not a multiple of --refresh {args.refresh}: a resumed run "
            "could not draw again what an earlier generator drew"
        )
    if args.joint:
        imle_args(args)


def main(args: argparse.Namespace) -> None:
    with Run(
        args, script="TrainISICLE", name=run_name(args), shaping_exclude=EXECUTION_ONLY
    ) as run:
        # Data: uint8 pictures in memory, on the device; views are made there too.
        trained, tested = parts.pictures(args, run)
        figures.check(args, trained, run.say)
        steps_per_epoch = parts.epoch_steps(args, trained, run.world_size)
        plan = parts.view_recipe(args)
        run.say(described(plan) if args.augs != "none" else f"views of {plan.size} px as they are")
        augment = augmentation(plan, args)

        # Network, loss, optimizer.
        model = parts.network(args, run.world_size)
        run.say(model.describe())
        model.to(run.device, memory_format=parts.layout(args))
        if args.domain_bn:
            convert_domain_bn(model)
        loss_fn = parts.loss(args)
        if args.pair == "multi":
            loss_fn = MultiPositive(args.temp, args.reduce)
        optimizer = parts.optimizer(args, model)

        # Synthetic views, and what trains their generator.
        turns = Turns(steps_per_epoch, args.epochs, args.joint, args.imle_steps)
        chosen = trained.source
        joint = Joint(args, run, chosen, turns) if args.joint else None
        net = args.net if joint is None else joint.file
        source, sampler, origin = synthetic_views(args, net, run, chosen, trained)
        objects = {} if joint is None else joint.objects()
        if joint is None and source is not None:
            objects["views"] = Origin(origin)

        run.restore(model=model, optimizer=optimizer, **objects)
        if joint is not None:
            joint.begin(run, sampler)
        supply = Supply(args, run, trained, source, steps_per_epoch)
        ahead = Ahead(supply.at, run.device)
        if run.device.type != "cuda" and source is not None:
            run.say("no GPU: views are made in turn with the encoder's steps, not beside them")
        if run.completed == 0 and joint is None:
            show(run, trained, source)
        forward = run.compile(model)
        watch = Stopwatch(run.device)
        for turn in run.steps(turns.total):
            begun = time.process_time()
            step, imle_step = turns.at(turn)
            if step is None:
                joint.step(run, imle_step)
                run.log(**{"time/cpu_s": time.process_time() - begun})
                if joint.phase_is_over(imle_step):
                    joint.hand_over(run, sampler)
                    show(run, trained, source)
                continue
            watch.start()
            epoch, place = divmod(step, steps_per_epoch)
            batch = ahead.take(step)
            views = [
                augment(pictures, view_keys(args.seed, epoch, batch.ids, v))
                for v, pictures in enumerate(batch.pictures)
            ]
            with run.precision.autocast():
                z = encode(forward, views, batch.synthetic if args.domain_bn else None)
            loss, top1 = contrast(loss_fn, z)
            run.backward(loss, batch.ids)
            if supply.follows(step) and turns.at(turn + 1)[0] is not None:
                ahead.start(step + 1)
            lr = parts.learning_rate(args, step, steps_per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = lr
            run.step(optimizer)
            run.log(
                **{
                    "loss_tr": loss.detach(),
                    "lr": lr,
                    "epoch": epoch,
                    "contrastive_top1": top1,
                    "synthetic": batch.synthetic.float().mean(),
                    "time/images_per_s": args.bs / watch.stop(),
                    "time/cpu_s": time.process_time() - begun,
                }
            )
            log_views(run, batch)
            run.nimg += args.bs
            if place == steps_per_epoch - 1:  # the end of an epoch
                last = epoch + 1 == args.epochs
                if not last and (epoch + 1) % args.eval_iter == 0:
                    figures.evaluate(run, model, trained, tested, plan)
                if last or (epoch + 1) % args.save_iter == 0:
                    save(run, model, optimizer, plan, epoch)
        figures.final_probes(run, for_real(model, args, run), trained, tested, plan)


# ------------------------------------------------------------------------------- a step of ISICLE


class Turns(NamedTuple):
    """What each turn of the loop is: a step of the encoder, or one of the generator.

    Before every `every` epochs come `phase` steps of the generator (every 0: never).
    """

    per_epoch: int
    epochs: int
    every: int
    phase: int

    @property
    def phases(self) -> int:
        """How often the generator is trained."""
        return -(-self.epochs // self.every) if self.every else 0

    @property
    def total(self) -> int:
        """Turns of the whole run."""
        return self.epochs * self.per_epoch + self.phases * self.phase

    def at(self, turn: int) -> tuple[int | None, int]:
        """(step of the encoder, -1), or (None, step of the generator)."""
        if not self.every:
            return turn, -1
        between = self.every * self.per_epoch
        cycle, place = divmod(turn, self.phase + between)
        if place < self.phase:
            return None, cycle * self.phase + place
        return cycle * between + place - self.phase, -1


class Batch(NamedTuple):
    """The pictures of a step before augmentation.

    ids: rows of train, int64 [B] on the run's device. pictures: uint8 [V, B, 3, s, s] there.
    synthetic: bool [V, B] on the CPU. counts: of the filter, if there is one. seconds: they took.
    """

    ids: Tensor
    pictures: Tensor
    synthetic: Tensor
    counts: Acceptance | None
    seconds: float


class Supply:
    """Batches by step number: a function of (options, step) and of the generator's weights."""

    def __init__(
        self,
        args: argparse.Namespace,
        run: Run,
        trained: Pictures,
        source: ViewSource | None,
        steps_per_epoch: int,
    ) -> None:
        self.args, self.run, self.real, self.source = args, run, trained.images, source
        self.steps_per_epoch = steps_per_epoch
        self.views = number_of_views(args.pair, args.num_synth)
        self.share = fraction(args.f or 0.5)
        self._watch = Stopwatch(run.device)
        self._order: tuple[int, Tensor] | None = None
        self._drawn: tuple[int, CachedViews] | None = None

    def at(self, step: int) -> Batch:
        """The batch of an encoder's step."""
        args, run = self.args, self.run
        epoch, place = divmod(step, self.steps_per_epoch)
        source = self._refreshed(step) if args.refresh else self.source
        self._watch.start()
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, permutation(len(self.real), args.seed, epoch))
        part = slice(place * args.bs, (place + 1) * args.bs)
        ids = self._order[1][part][run.rank :: run.world_size]
        f = self.share.at(epoch, args.epochs)
        synthetic = synthetic_mask(
            args.pair, ids, seed=args.seed, epoch=epoch, f=f, k=args.num_synth
        )
        draws = online_draws(epoch, ids, self.views)
        if isinstance(source, CachedViews):
            draws = cached_draws(epoch, ids, self.views, source.k, seed=args.seed)
        pictures = gather_views(self.real, source, ids, draws, synthetic)
        filtered = isinstance(source, FilteredViews)
        return Batch(
            ids.to(run.device, non_blocking=True),
            pictures.to(run.device, non_blocking=True),
            synthetic,
            source.take_counts() if filtered else None,
            self._watch.stop(),
        )

    def follows(self, step: int) -> bool:
        """Whether the next step has its views from where this one has them."""
        now, then = (s // self.steps_per_epoch for s in (step, step + 1))
        every = self.args.refresh
        return then < self.args.epochs and (not every or now // every == then // every)

    def _refreshed(self, step: int) -> CachedViews:
        """The views of this refresh, drawn if they are not at hand."""
        number, place = divmod(step, self.args.refresh * self.steps_per_epoch)
        if self._drawn is None or self._drawn[0] != number:
            self._drawn = None  # not two at a time
            self._drawn = (number, CachedViews(self._draw(number, first=place == 0)))
        return self._drawn[1]

    def _draw(self, number: int, first: bool) -> Tensor:
        """k views of every picture, uint8 [N, k, 3, s, s]; ranks share the work.

        Views j of refresh r are the draws r k + j: never the same twice. first: not drawn again by
        a resumed run, whose log has the figures already.
        """
        k, run, n = self.args.k, self.run, len(self.real)
        share = -(-n // run.world_size)
        own = (torch.arange(share) + run.rank * share) % n  # the last ranks repeat a few
        side = self.real.shape[-1]
        need, free = share * run.world_size * k * 3 * side**2, free_memory()
        if run.device.type == "cuda":
            free = torch.cuda.mem_get_info(run.device)[0]
        if free is not None and 2 * need > free:
            raise UsageError(
                f"--refresh: {k} views of {n} pictures of {side} px take {need / 2**30:.1f} GiB, "
                f"{free / 2**30:.1f} are free; a smaller --k, or generate_views.py"
            )
        views = torch.empty(share, k, 3, side, side, dtype=torch.uint8, device=run.device)
        report = run.phase(f"views, refresh {number}")
        begun = time.monotonic()
        for start in range(0, share, CHUNK):
            ids = own[start : start + CHUNK].to(run.device)
            for j in range(k):
                views[start : start + CHUNK, j] = self.source(ids, number * k + j)
            report(min(start + CHUNK, share), share)
        if run.device.type == "cuda":
            torch.cuda.synchronize(run.device)
        seconds = time.monotonic() - begun
        counts = self.source.take_counts() if isinstance(self.source, FilteredViews) else None
        if first:
            run.log(**{"time/refresh_s": seconds, "time/ms_per_view": 1000 * seconds / (share * k)})
            if counts is not None:
                log_acceptance(run, counts)
        return gather(views)[:n]


class Ahead:
    """One batch ahead: `start` makes it on a stream of its own while the encoder works.

    Without a GPU `start` does nothing, and `take` makes the batch. Batches are the same either way.
    """

    def __init__(self, make: Callable[[int], Batch], device: torch.device) -> None:
        self._make, self._device = make, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ready: tuple[int, Batch] | None = None
        self._mark: torch.cuda.Event | None = None

    def take(self, step: int) -> Batch:
        """The batch of a step."""
        ready, self._ready = self._ready, None
        if self._stream is None:
            return self._make(step)
        here = torch.cuda.current_stream(self._device)
        if ready is not None:
            # whether it is the one wanted or not: nothing may still be using the generator
            here.wait_stream(self._stream)
        if ready is None or ready[0] != step:
            batch = self._make(step)
        else:
            batch = ready[1]
            for tensor in (batch.ids, batch.pictures, *(batch.counts or ())):
                tensor.record_stream(here)
        # What is queued up to here must be over before the next batch is begun; the encoder's
        # work, which is queued after it, need not.
        self._mark = here.record_event()
        return batch

    def start(self, step: int) -> None:
        """Begin the batch of a step."""
        if self._stream is None:
            return
        self._stream.wait_event(self._mark)
        with torch.cuda.stream(self._stream):
            self._ready = (step, self._make(step))


def augmentation(plan: Recipe, args: argparse.Namespace) -> Callable[[Tensor, Tensor], Tensor]:
    """(uint8 [B, 3, s, s], keys int64 [B]) -> float32 [B, 3, r, r]."""
    if args.augs != "none":
        return parts.views(args, plan)
    plain = Plain(plan.size, plan.mean, plan.std)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    return lambda images, keys: plain(images).contiguous(memory_format=layout)


def encode(
    forward: Callable[[Tensor], Tensor], views: list[Tensor], synthetic: Tensor | None
) -> list[Tensor]:
    """Projections [B, d] of each view, in one forward; synthetic [V, B] for domain norms."""
    if synthetic is not None:
        z = by_domain(forward, torch.cat(views), synthetic.flatten())
        return list(z.split(len(views[0])))
    if len(views) == 2:
        return list(two_views(forward, *views))
    return list(forward(torch.cat(views)).split(len(views[0])))


def contrast(loss_fn: torch.nn.Module, z: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(loss, contrastive top-1) of the projections of each view."""
    if isinstance(loss_fn, MultiPositive):
        stacked = torch.stack(z)
        return loss_fn(stacked), loss_fn.top1(stacked.detach())
    return loss_fn(*z), loss_fn.top1(*(part.detach() for part in z))


def log_views(run: Run, batch: Batch) -> None:
    """What the synthetic views of a batch cost, and how many the filter let pass."""
    count = int(batch.synthetic.sum())
    if count and not run.args.refresh:
        run.log(**{"time/ms_per_view": 1000 * batch.seconds / count})
    if batch.counts is not None:
        log_acceptance(run, batch.counts)


def log_acceptance(run: Run, counts: Acceptance) -> None:
    """Shares of the draws accepted, and of the views for which the real picture stands in."""
    run.log_sums(
        acceptance=(counts.accepted, counts.drawn), stood_in=(counts.stood_in, counts.asked)
    )


def save(
    run: Run, model: SimCLR, optimizer: torch.optim.Optimizer, plan: Recipe, epoch: int
) -> None:
    """As TrainSimCLR.py. With --domain_bn it is the network for real pictures, beside an optimizer
    that has taken no step: checkpoints, not these files, are for resuming."""
    if run.args.domain_bn:
        model = for_real(model, run.args, run)
        optimizer = parts.optimizer(run.args, model)
    save_epoch(run, model, optimizer, plan, epoch)


def for_real(model: SimCLR, args: argparse.Namespace, run: Run) -> SimCLR:
    """The network that real pictures see: of one with domains a copy with plain norms."""
    if not args.domain_bn:
        return model
    plain = SimCLR(**model.config)
    plain.load_state_dict(real_state(model))
    return plain.to(run.device, memory_format=parts.layout(args)).train(model.training)


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
    columns = [parts.images_at(trained.images, ids, run.device)]
    columns += [source(ids.to(run.device), draw).to(run.device) for draw in range(SHOWN[1])]
    if isinstance(source, FilteredViews):
        found = source.take_counts().figures()  # these are not training's
        run.say(
            f"the filter takes {found['acceptance']:.0%} of the draws; of {found['stood_in']:.0%} "
            "of the views the picture itself stands in"
        )
    run.sample_grid("views", torch.stack(columns, 1).flatten(0, 1).float() / 255, len(columns))


# --------------------------------------------------------------------------- where views come from


def synthetic_views(
    args: argparse.Namespace, net: str | None, run: Run, chosen: Source, trained: Pictures
) -> tuple[ViewSource | None, Sampler | None, str]:
    """The source that the options ask for, what draws for it (None where there is none), and a
    digest of the generator or the cache.

    net: the generator's file. chosen: the pictures of `trained`, in its order.
    """
    if args.pair == "real-real":
        if args.net:
            run.say("--pair real-real: --net has no influence and is not read")
        return None, None, ""
    quiet = not run.is_main
    if args.views == "cache":
        stored = open_views(args.cache, chosen, args.picture_size, place=args.place, quiet=quiet)
        refuse_equal_views(args, stored)
        images, rows = stored.images, stored.rows
        if args.place == "memory":
            images, rows = images.to(run.device), rows.to(run.device)
        made = json.dumps([stored.settings, list(images.shape)], sort_keys=True)
        origin = hashlib.sha256(made.encode()).hexdigest()
        return CachedViews(images, run.device, rows=rows), None, origin
    size, device = args.picture_size, run.device
    sampler, settings = view_parts.sampler(args, net, size, device, run.say)
    inputs = UInt8Cache(chosen, sampler.input_size, quiet=quiet).to(run.device).images
    real = trained.images
    if real.device.type != run.device.type and (args.lpips_min, args.lpips_max) != (None, None):
        raise UsageError("--lpips_min and --lpips_max on a GPU need --place memory")
    source = view_parts.source(args, sampler, inputs, real, root_ids(chosen).to(run.device))
    return source, sampler, settings["snapshot"]


def refuse_equal_views(args: argparse.Namespace, stored: ViewCache) -> None:
    """UsageError for pairs without augmentation that are one and the same stored picture."""
    drawn = args.pair == "synth-synth" or args.pair == "mixed" and fraction(args.f or 0.5) == (1, 1)
    how = stored.settings
    alike = stored.images.shape[1] == 1 or how.get("code") == "fixed"
    alike = alike or how.get("source") == "upsampled" or how.get("temperature") == 0
    if args.augs == "none" and drawn and alike:
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


# ------------------------------------------------------------------------- training the generator


def named(words: list[str]) -> dict[str, str]:
    """Option as it is written, --no-compile or --lr=1 -> its name, compile or lr."""
    options = [word for word in words if word.startswith("--")]
    names = [word.split("=")[0].lstrip("-").replace("-", "_") for word in options]
    return {o: name.removeprefix("no_") for o, name in zip(options, names, strict=True)}


def imle_args(args: argparse.Namespace, res: list[int] | None = None) -> argparse.Namespace:
    """--imle as TrainGeneratorWandB.py reads it; res: of a network that is there already.

    Errors: SystemExit(2) as there, ValueError.
    """
    try:
        words = shlex.split(args.imle)
    except ValueError as error:
        raise ValueError(f"--imle {args.imle!r}: {error}") from None
    for word, name in named(words).items():
        if name in NOT_IMLE:
            raise ValueError(
                f"--imle: {word} has no influence there: leave it out. What this run has an option "
                "for is as that says; --joint and --imle_steps say how long the generator trains"
            )
    words += ["--data_tr", args.data, "--seed", str(args.seed)]
    words += ["--num_iteration", str(args.imle_steps)]
    words += [] if res is None else ["--res", *map(str, res)]
    found = generator.get_args(words)
    if found.unconditional:
        raise ValueError("--imle --unconditional: views need a generator that takes a picture")
    return found


class Joint:
    """The generator's side of a joint run: network, optimizer, EMA, codes, their loader.

    Phase by phase: codes are searched for a subsample, then `phase` steps train on them, exactly as
    in TrainGeneratorWandB.py. Views are drawn from the EMA.
    """

    def __init__(self, args: argparse.Namespace, run: Run, chosen: Source, turns: Turns) -> None:
        self.phase = turns.phase
        if args.net:
            file = find_network(args.net, "TrainGeneratorWandB")
            snapshot = open_network(file, run.say)
            if snapshot.kind != "camnet":
                raise UsageError(f"--joint trains a CAM-Net, {file.name} is {snapshot.kind!r}")
            net = build(CAMNet, snapshot).train().requires_grad_(True)
            own = imle_args(args, snapshot.config["net"]["res"])
            mixing, noise = snapshot.config["codes"], snapshot.config["corruption"]
            idle = [o for o, name in named(shlex.split(args.imle)).items() if name in OF_THE_NET]
            if idle:
                run.say(f"--imle: {', '.join(idle)} have no influence, they are as in {file.name}")
        else:
            own = imle_args(args)
            _, net = generator.build_net(own)
            mixing = {"method": own.sample_method, "num_components": own.num_components}
            noise = {k: getattr(own, k) for k in ("grayscale", "mask_res", "mask_frac", "fill")}
        if own.bs % run.world_size:
            raise UsageError(f"--imle --bs {own.bs}: not for {run.world_size} processes")
        self.own = own
        self.config = {"net": net.config, "codes": mixing, "corruption": noise, "crop": "center"}
        layout = torch.channels_last if own.channels_last else torch.contiguous_format
        self.net = net.to(run.device, memory_format=layout)
        self.loss_fn = generator.build_loss(own).to(run.device, memory_format=layout)
        groups = generator_groups(self.net, own.lr, own.mapping_lr_mult)
        self.optimizer = torch.optim.AdamW(
            groups, betas=(0.9, 0.999), weight_decay=own.weight_decay, fused=True
        )
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.factor = generator.lr_factor(own, turns.phases * turns.phase)
        self.ema = emas.EMA(self.net, emas.power(own.ema_std) if own.ema_std else 0.0)
        on_gpu = run.device.type == "cuda"
        bf16 = own.search_precision == "bf16" or (
            own.search_precision == "auto" and on_gpu and torch.cuda.is_bf16_supported()
        )
        self.loader = CIMLEDataLoader(
            Pyramid(chosen, self.net.res, crop="center", cache="memory"),
            KorKMinusOne(range(len(chosen)), shuffle=True, seed=own.seed),
            self.net,
            Corruption(**noise, seed=own.seed),
            CodeGenerator(self.net.code_sizes, seed=own.seed, **mixing),
            self.loss_fn,
            own.ns,
            own.sp,
            own.code_bs,
            subsample_size=own.subsample_size,
            num_iteration=turns.phase,
            pin_memory=True,
            batch_size=own.bs,
            num_workers=args.num_workers,
            seed=own.seed,
            augment=KeyedFlip(own.seed, own.flip),
            device=run.device,
            on_chunk=run.phase("codes"),
            precision="bf16" if bf16 else "fp32",
            rescore=own.rescore,
            channels_last=own.channels_last,
            worker_init_fn=seed_worker,
        )
        self._forward = run.compile(self.net)
        self.file = args.net
        if not args.net:  # so that what views are drawn from is opened as any other
            path = run.snapshot("generator-initial", self.net, "camnet", self.config)
            self.file = str(path)

    def objects(self) -> dict[str, Any]:
        """What run.restore takes over."""
        return {
            "generator": self.net,
            "generator_optimizer": self.optimizer,
            "generator_ema": self.ema,
            "generator_loader": self.loader,
        }

    def begin(self, run: Run, sampler: Sampler) -> None:
        """After run.restore."""
        self._batches = self.loader.forever()
        sampler.update(self.ema.module)

    def phase_is_over(self, number: int) -> bool:
        """Whether step `number` of the generator is the last for now."""
        return (number + 1) % self.phase == 0

    def hand_over(self, run: Run, sampler: Sampler) -> None:
        """Draw views from what has been learnt."""
        sampler.update(self.ema.module)
        run.snapshot("generator-latest", self.ema.module, "camnet", self.config)

    def step(self, run: Run, number: int) -> None:
        """One step of IMLE on the whole batch of the loader."""
        own = self.own
        cx, codes, ys = next(self._batches)
        if number % self.phase == 0:
            found = self.loader.last_search
            run.log(
                **{"imle/search loss": found.losses.sum(1).mean(), "time/search_s": found.seconds}
            )
        rate = self.factor(number)
        for group, peak in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = peak * rate
        batch_loss: Any = 0.0
        for first in range(0, len(cx), own.mini_bs):
            part = slice(first, first + own.mini_bs)
            with run.precision.autocast():
                images = self._forward(cx[part], [code[part] for code in codes])
                terms = [self.loss_fn(x, y[part]).mean() for x, y in zip(images, ys, strict=True)]
            loss = sum(terms) * (len(cx[part]) / len(cx))
            run.backward(loss, self.loader.last_ids[part], last=part.stop >= len(cx))
            batch_loss = batch_loss + loss.detach()
        if run.step(self.optimizer, clip=own.grad_clip or None):
            self.ema.update(self.net, (number + 1) * own.bs, own.bs)
        run.log(**{"imle/batch loss": batch_loss, "imle/learning rate": self.rates[0] * rate})


def run_name(args: argparse.Namespace) -> str:
    """The run directory's readable part; a hash of the shaping options follows it."""
    return f"{simclr.run_name(args)}-{args.pair}"


if __name__ == "__main__":
    launch(main, get_args())
