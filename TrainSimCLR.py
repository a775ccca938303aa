"""Train an image encoder without labels by SimCLR (Chen et al. 2020, arXiv:2002.05709): two random
views of every picture, an encoder that must find each view's partner among all others of the batch.

    python TrainSimCLR.py --preset smoke                         # embedded data, CPU, seconds
    python TrainSimCLR.py --preset cpu-small --data DIR          # half an hour of two cores
    python TrainSimCLR.py --preset cifar10-r18 --data cifar10
    torchrun --standalone --nproc-per-node 4 TrainSimCLR.py --preset cifar10-r50-original
    python TrainSimCLR.py --preset mini-64cv --few_shot test
    python TrainSimCLR.py --probe_only RUN/snapshots/999.safetensors --data cifar10 --eval test

Running the same command again resumes. Every --eval_iter epochs a weighted kNN on the features h
tells how they come along; at the end a convex linear probe and a probe on augmented pictures stand
beside it. All are fitted on train pictures alone, on a backbone that is proved frozen.

What each option means and which go together: recipes/simclr/options.py. How the parts are made of
them: recipes/simclr/parts.py. How the features are judged: recipes/simclr/validation.py.
"""

import argparse
from pathlib import Path

import storage.environment  # noqa: F401  (says what to do where torch is missing)

from data.listing import listing_of
from data.views.recipes import described, view_keys
from evaluation.features import Pixels
from models import SimCLR
from models.simclr import two_views
from recipes import initial
from recipes.simclr import figures, parts
from recipes.simclr.files import (  # noqa: F401  (load_: the API)
    find_encoder,
    load_,
    open_encoder,
    read_encoder,
    save_epoch,
)
from recipes.simclr.options import OPTIONS, get_args, run_name
from runtime.counter_rng import permutation
from runtime.launch import launch
from runtime.meters import Stopwatch
from runtime.options import EXECUTION, LENGTH, tagged
from runtime.run import Run
from storage.find import missing, say_found

BASELINES = ("untrained", "pixels")  # of --probe_only: what a trained encoder has to beat


def main(args: argparse.Namespace) -> None:
    if args.probe_only:
        return probe(args)
    asked, free = parts.asked(args, OPTIONS)
    fitted = parts.fit(args, OPTIONS)  # what follows from the pictures
    with Run(
        args,
        script="TrainSimCLR",
        name=run_name(asked),
        asked=asked,
        shaping_exclude=free,
        length=tagged(OPTIONS, LENGTH),
        keep_schedule=args.keep_schedule,
        inputs=lambda: parts.inputs(args),
    ) as run:
        for line in fitted:
            run.say(line)
        # Data: uint8 pictures in memory, on the device; views are made there too.
        trained, tested = parts.pictures(args, run)
        run.trains_on(listing_of(trained.source))
        figures.check(args, trained, run.say)
        steps_per_epoch = parts.epoch_steps(args, trained, run.world_size)
        recipe = parts.view_recipe(args)
        run.say(described(recipe))
        make_views = parts.views(args, recipe)

        # Network, loss, optimizer.
        net = parts.network(args, run.world_size, run.device)
        run.say(net.describe())
        net.to(memory_format=parts.layout(args)).to(run.device)
        loss_fn = parts.loss(args)
        optimizer = parts.optimizer(args, net)

        run.restore(model=net, optimizer=optimizer)
        initial.start(run, net, args.init_from, "simclr", read=read_encoder)
        parts.note_rate(args, run, run.completed, steps_per_epoch)
        forward = run.compile(net)
        watch = Stopwatch(run.device)
        total, cycle = args.epochs * steps_per_epoch, args.eval_iter * steps_per_epoch
        for step in run.steps(total, images_per_step=args.bs, cycle=cycle):
            watch.start()
            epoch, batch = divmod(step, steps_per_epoch)
            if batch == 0 or step == run.completed:
                order = permutation(len(trained.images), args.seed, epoch)

            # Two views of this rank's share of the batch, each drawn by (seed, epoch, picture).
            ids = order[batch * args.bs : (batch + 1) * args.bs][run.rank :: run.world_size]
            images = parts.images_at(trained.images, ids, run.device)
            ids = ids.to(run.device)
            a, b = (make_views(images, view_keys(args.seed, epoch, ids, view)) for view in (0, 1))

            # Both views in one forward, so that they share batch statistics; the loss compares
            # each projection with those of all ranks.
            with run.precision.autocast():
                z0, z1 = two_views(forward, a, b)
            loss = loss_fn(z0, z1)
            run.backward(loss, ids)
            lr = parts.learning_rate(args, step, steps_per_epoch, run.length.schedule)
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

            if batch == steps_per_epoch - 1:  # the end of an epoch
                last = epoch + 1 == args.epochs
                if not last and (epoch + 1) % args.eval_iter == 0:
                    with run.spent.on("validation"):
                        figures.evaluate(run, net, trained, tested, recipe)
                if last or (epoch + 1) % args.save_iter == 0:
                    save_epoch(run, net, optimizer, recipe, epoch)
        figures.final_probes(run, net, trained, tested, recipe)


def probe(args: argparse.Namespace) -> None:
    """Figures of a finished network, or of what it has to beat, in a run's folder of their own."""
    net: SimCLR | Pixels | None = Pixels() if args.probe_only == "pixels" else None
    path, recipe, size = None, None, None
    if args.probe_only not in BASELINES:
        path = find_encoder(args.probe_only, args.results_path)
        if not path.exists():
            raise missing(args.probe_only, args.results_path, "--probe_only")
        net, recipe, size = open_encoder(path)
        args.backbone = net.config["backbone"]
    fitted = [] if recipe else parts.fit(args, OPTIONS)
    recipe = recipe or parts.view_recipe(args)
    args.crop_size, args.picture_size = recipe.size, size or args.picture_size
    name = f"probes-{Path(args.data).stem}-{Path(args.probe_only).stem}"
    exclude = tagged(OPTIONS, EXECUTION)
    with Run(args, script="TrainSimCLR", name=name, shaping_exclude=exclude) as run:
        if path is not None:
            say_found(args.probe_only, path, run.say)
        for line in fitted:
            run.say(line)
        if net is None:  # as training would begin with
            net = parts.network(args, run.world_size)
        if isinstance(net, SimCLR):
            run.say(net.describe())
        trained, tested = parts.pictures(args, run)
        figures.check(args, trained, run.say)
        net.to(memory_format=parts.layout(args)).to(run.device)
        figures.final_probes(run, net, trained, tested, recipe)
        run.finished = True


if __name__ == "__main__":
    launch(main, get_args(__doc__))
