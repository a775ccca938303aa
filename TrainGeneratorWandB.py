r"""Train a generator by IMLE: for every image draw many codes, keep the one whose output is
nearest, take gradient steps on those pairs, repeat (IMLE: Li and Malik 2018; conditional: Li et al.
2020; CAM-Net, which generates and searches level by level: Peng et al. 2021, arXiv 2106.09015).

    python TrainGeneratorWandB.py --preset smoke                    # embedded data, CPU, a minute
    python TrainGeneratorWandB.py --preset cpu-quick --data DIR      # 10 minutes of two cores, bf16
    python TrainGeneratorWandB.py --preset cpu-small --data DIR      # 35 minutes, nearer samples
    python TrainGeneratorWandB.py --preset cpu-small-color --data DIR  # or cpu-small-mask
    python TrainGeneratorWandB.py --data camnet3 --res 16 32 64 128 256 --bs 8 --ns 120 \
        --sp 20 --subsample_size 400 --num_iteration 1000
    torchrun --standalone --nproc-per-node 4 TrainGeneratorWandB.py --preset camnet-sr16
    python TrainGeneratorWandB.py --preset uncond-small --data mnist

What follows from an input alone is learnt first (--base_loops, --base_lpips_loops); samples are
made around it. Codes are searched with the network as it is, validated and kept is its EMA. Without
an input (--unconditional) all images choose from one pool of samples. Running the same command
again resumes. generate_images.py samples from the snapshots.

What each option means and which go together: recipes/imle/options.py; how the parts are made of
them: recipes/imle/parts.py; the loss of a batch: recipes/imle/step.py.
"""

import argparse
from functools import partial

import storage.environment  # noqa: F401  (says what to do where torch is missing)

import torch
from torch import nn

from data.listing import listing_of
from imle.pool import used_fraction
from recipes.imle import parts, validation
from recipes.imle.options import OPTIONS, display_name, get_args, idle, run_name
from recipes.imle.step import imle_gradients, regression_gradients
from recipes.metrics.during import During
from runtime.launch import launch
from runtime.options import EXECUTION, LENGTH, tagged
from runtime.run import Run


def main(args: argparse.Namespace) -> None:
    train, val = parts.sources(args)  # before the run, which is known by what it reads
    with Run(
        args,
        script="TrainGeneratorWandB",
        name=run_name(args),
        display_name=display_name(args),
        shaping_exclude=tagged(OPTIONS, EXECUTION),
        length=tagged(OPTIONS, LENGTH),
        keep_schedule=args.keep_schedule,
        inputs=lambda: parts.inputs(args, train, val),
        uid=args.uid,
        milestone_every=args.num_iteration,
    ) as run:
        # Data: one picture at every resolution. Flip and corruption are functions of (loop, image),
        # because a code belongs to the very input it was searched for.
        parts.check_ranks(args, run.world_size)
        trained, val_inputs, val_targets = parts.pictures(args, train, val, run.say)
        run.trains_on(listing_of(trained.source))
        corruption, corrupted_by = parts.corruption(args)
        if note := idle(args):
            run.say(note)

        # Network; loss, of two images LPIPS + alpha MSE (--lpips none: MSE), of a batch the mean
        # over rows of the sum over levels; optimizer, schedule, EMA.
        net = parts.network(args, run.device)
        loss_fn = parts.loss(args, run.device)
        run.say(parts.described_distance(args))
        optimizer = parts.optimizer(args, net)
        base_steps = parts.base_steps(args)
        total = base_steps + args.outer_loops * args.num_iteration
        factor = parts.lr_factor(args, total)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        ema = parts.average(args, net)

        # Codes, and the loader that searches them: a new subsample and new codes every outer loop.
        z_gen, drawn_by = parts.codes(args, net)
        loader = parts.loader(args, run, trained, net, corruption, z_gen, loss_fn)
        run.restore(net=net, optimizer=optimizer, scheduler=scheduler, ema=ema, loader=loader)
        parts.reschedule(args, run, scheduler)
        parts.start_from(args, run, net, ema)
        forward = run.compile(net)

        measuring = During(args, run, train, res=args.res[-1], crop=args.crop, inputs=val)

        @run.spent.on("validation")
        def look(shown: nn.Module) -> None:
            """Samples for validation images, and how far they are from the true ones."""
            if not (run.is_main or args.unconditional):  # a search of the pool is all ranks' work
                return
            found = validation.look(
                shown, loss_fn, z_gen, corruption, val_inputs, val_targets, run.device,
                samples=args.spi, pool_size=args.pool_size,
                each=run.phase("validation", together=False),
            )  # fmt: skip
            run.log_now(**{f"val/{name}": value for name, value in found.figures.items()})
            run.sample_grid("val", found.pictures, found.columns, found.captions)
            run.say(f"validation: {found.verdict}")

        config = {"net": net.config, "codes": drawn_by, "corruption": corrupted_by}
        config["crop"] = args.crop

        def keep(loops: int) -> None:
            """The EMA as `network-latest`; every --snapshot_every loops also under its step."""
            names = ["network-latest"]
            if args.snapshot_every and loops % args.snapshot_every == 0:
                names.append(f"network-{loops * args.num_iteration:09d}")
            for name in names:
                run.snapshot(name, ema.module, parts.kind(args), config)

        if run.completed == 0:
            look(net)
        pictures = run.spent.waits(parts.base_pictures(args, run, trained, corruption))
        batches = run.spent.waits(loader.forever())
        prepared = parts.targets(args, run, loss_fn)
        stop_at = parts.stop_at(args, run.completed)
        work = partial(parts.work, args)
        for step in run.steps(total, images_per_step=args.bs, stop_at=stop_at, work=work):
            parts.begin_loss(args, net, optimizer, step)
            if step < base_steps:  # first what the samples of an input are to have in common
                name, distance, rows = parts.base_loss(args, loss_fn, step)
                loss = regression_gradients(run, net, distance, next(pictures), mini_bs=rows)
                losses = {name: loss}
            else:
                # Inputs; for every level the code whose output was nearest to the target; targets.
                cx, codes, ys = next(batches)
                targets = prepared(step // args.num_iteration, loader.last_ids, ys)
                if step % args.num_iteration == 0:  # the loader has just searched
                    search = loader.last_search
                    run.log(**search.figures(), **{"time/search_s": search.seconds})
                    run.spent.add("data", -search.seconds)
                    if args.unconditional and len(search.winners):
                        # Far below 1: images share samples, a larger pool helps.
                        run.log(used_fraction=used_fraction(search.winners))

                # The loss of the outputs on all levels, --bs_gpu rows at a time.
                batch, ids = (cx, codes, targets), loader.last_ids
                loss = imle_gradients(run, forward, loss_fn, batch, ids, mini_bs=args.mini_bs)
                losses = {"batch loss": loss}
            rate = scheduler.get_last_lr()[0]
            if run.step(optimizer, clip=args.grad_clip or None):
                scheduler.step()
                ema.update(net, parts.averaged(args, step, run.nimg), args.bs)
            run.log(**losses, **{"learning rate": rate})

            if measuring.due(step + 1):
                measuring(ema.module, parts.kind(args), config)
            loops, steps_left = divmod(step + 1, args.num_iteration)
            if steps_left == 0:  # the end of an outer loop
                look(ema.module)
                keep(loops)
        run.say(f"snapshot {run.dir / 'snapshots' / 'network-latest.safetensors'}")


if __name__ == "__main__":
    launch(main, get_args(__doc__))
