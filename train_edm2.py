r"""Train EDM2, a denoising diffusion network (Karras et al. 2023, arXiv:2312.02696), on all images
or on those that an online selection picks from every super-batch (JEST: Evans et al. 2024,
arXiv:2406.17711; with a weak guide as the reference: autoguided JEST).

    python train_edm2.py --preset smoke                               # embedded data, CPU, seconds
    python train_edm2.py --preset cpu-small --data DIR                # half an hour of two cores
    python train_edm2.py --preset edm2-tiny-xxs --data tinyImagenet --outdir Ref
    torchrun --standalone --nproc-per-node 2 train_edm2.py --preset edm2-tiny-xs \
        --data tinyImagenet --outdir AJEST --acid \
        --guide Ref/network-snapshot-0005000-0.100

Modes:
    baseline   trains on all of every batch
    random     --selection: on a random part of it, 1 - --filt
    JEST       --acid: on rows drawn at random, in favour of those that the learner finds hard and a
               reference easy. The reference is a stronger network, --ref, or the learner's
               own EMA, the first of --ema_stds
    AJEST      --acid --guide WEAK: the weak guide is the reference
    others     --method NAME: of selection/methods.py
Those that have a reference (random: by --guide or --ref) also with --early, only until
the learner has surely beaten it (selection/switch.py), or --late, only from then on.

Running the same command again resumes. generate_images.py samples from the snapshots,
reconstruct_phema.py makes EMAs of other lengths out of them. What each option means and which go
together: recipes/edm2/options.py; how the parts are made of them: recipes/edm2/parts.py; the draw:
recipes/selection.py.
"""

import json
from argparse import Namespace
from functools import partial

import storage.environment  # noqa: F401  (says what to do where torch is missing)

import torch

from data.listing import listing_of
from data.told import told
from diffusion import normalize_weights, set_forced_weight_norm
from diffusion.rows import Rows, row_keys
from recipes import initial
from recipes.edm2 import parts, validation
from recipes.edm2.options import (
    OPTIONS,
    execution_options,
    get_args,
    mini_batch,
    run_name,
    selection_picker,
    snapshot_period,
)
from recipes.metrics.during import During
from recipes.selection import choose, early_late_switch, spoil_blind
from runtime import distributed
from runtime.launch import launch
from runtime.meters import Stopwatch
from runtime.options import LENGTH, tagged
from runtime.place import place
from runtime.run import Run
from runtime.seeding import generator
from runtime.tracker import read_series
from storage.index_log import IndexLog


def main(args: Namespace) -> None:
    if args.dry_run:
        if place().rank == 0:
            print(json.dumps(vars(args), indent=1))
        return
    # Data, before the run is named: whether it has classes shapes the run.
    images = parts.data(args)
    conditioning = parts.choose_conditioning(args, images)
    with Run(
        args,
        script="train_edm2",
        name=run_name(args),
        shaping_exclude=execution_options(args),
        length=tagged(OPTIONS, LENGTH),
        inputs=lambda: parts.inputs(args, images),
        scale_loss=False,  # EDM2's fp16 recipe: a constant scale, and gradients forced finite
    ) as run:
        run.say(told(images.source))
        run.say(conditioning)
        # Every rank reads its share of the (super-)batch, and computes on `at_once` of it.
        share, at_once = parts.shares(args, run.world_size)
        mini = mini_batch(args, run.world_size)  # the images that a selecting step trains on
        torch.backends.cudnn.benchmark = args.bench and not args.deterministic
        run.trains_on(listing_of(images.source))
        sampler, loader = parts.loader(args, run, images)

        # Network, loss, optimizer, EMAs.
        net, encoder = parts.network(args, run, images)
        set_forced_weight_norm(net, False)  # below, once a step instead of in every pass
        how = parts.objective(args, net, encoder, share, at_once)
        values = how.values  # of an image, which a loss sums over
        optimizer = parts.optimizer(args, net, run.device)
        averages = parts.averages(args, net)
        first_average = next(iter(averages.values())).module

        # The guide, the draw, and the reference that the learner is compared with.
        guide = parts.load_network(args.guide_path, net, run, channels=args.ref_channels)
        reference = parts.load_network(args.ref_path, net, run, channels=args.ref_channels) or guide
        picker = selection_picker(args, run.world_size, values)
        switch = early_late_switch(args)
        if picker.needs_ref and reference is None:
            reference = first_average  # the learner's own EMA

        run.restore(
            net=net,
            optimizer=optimizer,
            sampler=sampler,
            switch=switch,
            **{f"ema_{std:.3f}": average for std, average in averages.items()},
        )
        initial.start(run, net, args.init_from, "edm2", averages=averages.values())
        forward = run.compile(net)
        chosen_log = None
        if args.selection and run.is_main:
            chosen_log = IndexLog(run.dir / "selected.bin", run.completed, run.is_mine)
        measuring = During(
            args, run, images.source, res=images.resolution, crop=args.crop, vae=args.vae,
            steps=args.sample_steps,
        )  # fmt: skip
        edges, level_names = validation.noise_levels(how.loss_fn, run.device)
        selection_time, training_time = Stopwatch(run.device), Stopwatch(run.device)
        batches = run.spent.waits(sampler.batches(loader))

        def total() -> int:
            """Steps until --duration, if they go on as now."""
            left = args.duration - run.nimg
            if left < 0:  # whole steps that are too many, for a --duration that was lowered
                return run.completed - (-left) // args.batch
            now = mini if args.selection and switch.selecting else args.batch
            return run.completed + -(-left // now)

        def work(step: int) -> tuple[bool, bool]:
            """What tells steps apart that compute more or less."""
            return switch.selecting, switch.waiting

        for step in run.steps(total, cycle=snapshot_period(args, 1), work=work):
            normalize_weights(net)
            index, raw, labels = (t.to(run.device, non_blocking=True) for t in next(batches))
            keys = row_keys(args.seed, step, run.rank, run.world_size, share, run.device)
            rows, size = Rows(index, raw, labels, keys), args.batch
            selecting, waiting = args.selection and switch.selecting, switch.waiting

            # First pass, without gradients: what learner and reference lose on the super-batch,
            # under one sigma and noise (--unpaired: two), the learner with its dropout. Then the
            # draw.
            learner = ref = sigma = choice = None
            if selecting or waiting:
                selection_time.start()
                if reference is not None and (waiting or picker.needs_ref):
                    ref, sigma = how.scores(reference, rows, draw=int(args.unpaired))
                if selecting and (waiting or picker.needs_losses):
                    learner, sigma = how.scores(net, rows)
                if selecting:
                    choice = choose(
                        picker,
                        rows,
                        learner,
                        ref,
                        sigma,
                        random=partial(generator, run.device, "selection", args.seed, step),
                        part=at_once if args.select_scope == "rank" else None,
                    )
                    rows, size = choice.rows, mini
                    spoil_blind(run, choice.blind)
                    for spread in choice.spreads:
                        run.log(**{"entropy": spread.entropy, "perplexity / B": spread.relative})
                run.log(**{"time/selection_s": selection_time.stop()})

            # Second pass: train on the chosen rows, or on all, `at_once` at a time.
            training_time.start()
            losses, sigmas = [], []
            for piece in rows.parts(at_once):
                noise = how.best_noise(net, piece, args.best_of_k, args.best_of_reject)
                loss, sigma = how.row_losses(forward, piece, noise)
                # Gradients are averaged over ranks, so that this is the mean over the step's rows
                # of losses summed over pixels.
                run.backward(loss.sum() * (args.ls * run.world_size / size), piece.index)
                losses.append(loss.detach())
                sigmas.append(sigma)
            nimg = run.nimg + size
            rate = parts.learning_rate(args, run.world_size, nimg, step + 1, selecting, switch)
            for group in optimizer.param_groups:
                group["lr"] = rate
            if run.step(optimizer, force_finite=run.precision.name == "fp16"):
                for average in averages.values():
                    average.update(net, nimg, size)
            run.nimg = nimg
            run.log(**{"Learning rate": rate, "time/training_s": training_time.stop()})
            if losses:  # a rank may have got no rows
                mean_loss = torch.cat(losses) / values
                figures = validation.loss_figures(mean_loss, torch.cat(sigmas), edges, level_names)
                run.log_sums(**figures)
            if choice is not None and chosen_log is not None:  # the host waits, as in run.step
                chosen_log.add(step, choice.chosen.flatten().cpu().numpy())

            if waiting and ref is not None:  # is the learner better than the reference by now?
                learner = torch.cat(losses) if learner is None else learner
                ahead = distributed.mean((learner - ref).mean() / values).item()
                if switch.observe(ahead, nimg=run.nimg, step=step + 1):
                    word = "begins" if switch.selecting else "ends"
                    run.say(f"step {step + 1}: the learner beats the reference, selection {word}")
            for name, of_batch in (("Learner", learner), ("Reference", ref)):
                if of_batch is not None:
                    run.log(**{f"Super-Batch {name} Loss": of_batch.mean() / values})

            done = run.nimg >= args.duration
            if done or (step + 1) % snapshot_period(args, step + 1) == 0:
                parts.save_snapshots(args, run, averages, encoder, images.classes)
                parts.look(args, run, first_average, guide, encoder, images.classes)
            if measuring.due(step + 1):
                config = parts.snapshot_config(args, run, net, encoder, images.classes)
                measuring(first_average, "edm2", config)
        if chosen_log is not None:
            chosen_log.close()
        logged = read_series(run.dir / "metrics.jsonl").get("Loss", ([], []))
        run.say(f"training: {validation.verdict(*logged)}")
        run.say(f"snapshots {run.dir / 'snapshots'}")


if __name__ == "__main__":
    launch(main, get_args(__doc__))
