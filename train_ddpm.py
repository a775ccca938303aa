r"""Train DDPM, a denoising diffusion network (Ho et al. 2020, arXiv:2006.11239), improved DDPM
(Nichol and Dhariwal 2021, arXiv:2102.09672), or LayoutDiffuse (Cheng et al. 2023,
arXiv:2302.08908), which is told what stands where.

    python train_ddpm.py --preset smoke                       # embedded data, CPU, seconds
    python train_ddpm.py --preset cpu-small --data DIR        # half an hour of two cores
    python train_ddpm.py --preset mnist                       # by digit; mnist-ddim: improved
    torchrun --standalone --nproc-per-node 2 train_ddpm.py --preset cifar10
    python train_ddpm.py --preset scenes-layout               # from boxes; coco-layout, ...
    python train_ddpm.py --config configs/MNIST.json          # a file of LayoutDiffuse's code

Conditions:
    none       --no-cond, or data without classes
    class      where the data has classes; --class_dropout 0.1 makes guidance possible
    layout     --layout boxes, masks or segmentation, of a layout set (data/SetupLayoutData.py);
               --init_from NET --freeze base teaches it to a network that was trained without
    image      --concat gray, lowres or segmentation: an image beside the noised one
Pixels, or with --latents FILE the latents of an autoencoder.
One's own code:
    --model FILE.py:CLASS      a class of diffusion.DDPMTraining, whose training_step trains
    --look FILE.py:FUNCTION    what its dictionaries are shown to
    --blocks FILE.py           blocks for --res_block and --attn_block; --denoiser: a whole network
Rows that are trained on:
    --selection, --acid        a part of every batch, as in train_edm2.py
    --best_of_k 4              each at the noise, of four, that it is lost least at

Running the same command again resumes. generate_images.py samples from the snapshots. What each
option means and which go together: recipes/ddpm/options.py; how the parts are made of them:
recipes/ddpm/parts.py; what a row loses: recipes/ddpm/step.py.
"""

from argparse import Namespace
from functools import partial
from typing import Any

import storage.environment  # noqa: F401  (says what to do where torch is missing)

import torch
from torch import Tensor

from data.listing import listing_of
from data.told import told
from diffusion import DDIMTraining
from diffusion.rows import row_keys
from recipes import initial
from recipes.ddpm import own, parts, validation
from recipes.ddpm.held_out import HeldOut
from recipes.ddpm.options import (
    OPTIONS,
    drawing,
    execution_options,
    get_args,
    mini_batch,
    picker,
    run_name,
    snapshot_period,
)
from recipes.ddpm.step import Lost
from recipes.metrics.during import During
from recipes.selection import choose, early_late_switch, spoil_blind
from runtime import distributed
from runtime.launch import launch
from runtime.meters import Stopwatch
from runtime.options import LENGTH, tagged
from runtime.run import Run
from runtime.seeding import generator
from runtime.tracker import read_series
from storage.index_log import IndexLog


def main(args: Namespace) -> None:
    own.check(args)
    # Data, before the run is named: whether it has classes shapes the run.
    pictures = parts.data(args)
    conditioning = parts.conditioning(args, pictures)
    with Run(
        args,
        script="train_ddpm",
        name=run_name(args),
        shaping_exclude=execution_options(args),
        length=tagged(OPTIONS, LENGTH),
        inputs=lambda: parts.inputs(args, pictures),
    ) as run:
        for line in (told(pictures.source), parts.said(args, pictures), conditioning):
            run.say(line)
        share, at_once = parts.shares(args, run.world_size)
        torch.backends.cudnn.benchmark = args.bench and not args.deterministic
        run.trains_on(listing_of(pictures.source))
        images, encoder = parts.latents(args, run, pictures)  # without --latents pixels
        sampler, loader = parts.loader(args, run, images)

        # Network; what it loses at a row, which knows the diffusion x_t = sqrt(A) x_0 +
        # sqrt(1 - A) eps and how t is drawn; optimizer; EMA.
        net = parts.network(args, run, images, encoder)
        how = parts.objective(args, run, images, encoder, net)
        gaussian, schedule = how.gaussian, how.schedule_sampler
        model, shown_to = own.training(args, net, how), own.look_of(args)
        optimizer = parts.optimizer(args, net, model, run.device)
        rates = [group["lr"] for group in optimizer.param_groups]
        ema = parts.average(args, net)
        switch, pick = early_late_switch(args), picker(args, run.world_size)

        state: dict[str, Any] = {"net": net, "optimizer": optimizer, "sampler": sampler, "ema": ema}
        state |= {"schedule_sampler": schedule, "switch": switch}
        run.restore(**state, **({} if model is None else {"model": model}))
        read = parts.read_base(net)
        initial.start(run, net, args.init_from, parts.KIND, averages=[ema], read=read)
        reference = parts.reference(args, run, net)
        if reference is None and pick.needs_ref:
            reference = ema.module  # the learner's own average
        forward = run.compile(net)
        chosen_log = None
        if args.selection and run.is_main:
            chosen_log = IndexLog(run.dir / "selected.bin", run.completed, run.is_mine)
        measuring = During(
            args, run, pictures.source, res=pictures.resolution, crop=args.crop, vae=args.latents
        )
        held_out = HeldOut(args, run, pictures)
        selection_time, best_time = Stopwatch(run.device), Stopwatch(run.device)
        batches = run.spent.waits(sampler.batches(loader))

        @run.spent.on("validation")
        def look(outputs: dict[str, Any]) -> None:
            """Histories from noise to picture, of the average, with --model by its
            validation_step; --look has what they are drawn of, and the outputs of the step."""
            if not (run.is_main and args.sample_images):
                return
            count = min(args.sample_images, len(images))
            keys = torch.arange(count, device=run.device)
            batch = loader.collate_fn([images[i] for i in range(count)])
            seen = parts.rows(batch, keys, run.device)
            if model is None:
                each = run.phase("samples", together=False)
                found = validation.look(
                    ema.module, how, drawing(args), seen, frames=args.frames, each=each
                )
            else:
                seen = seen._replace(keys=validation.sample_keys(seen))
                found, logged = own.validated(model, ema.module, how, seen)
                run.log_now(**logged)
            names, objects = parts.classes(images), parts.layout_classes(args, images)
            labels = names if args.cond else []
            for name, sheet in validation.sheets(found, seen, labels, objects).items():
                run.sample_grid(name, sheet.images, sheet.columns, sheet.captions)
            if shown_to is not None:
                shown_to(run.completed + 1, outputs | found, run.dir)

        def total() -> int:
            """Steps until --duration, if they go on as now."""
            now = mini_batch(args) if args.selection and switch.selecting else args.bs
            return run.completed + -(-max(0, args.duration - run.nimg) // now)

        def work(step: int) -> tuple[bool, bool]:
            """What tells steps apart that compute more or less."""
            return switch.selecting, switch.waiting

        for step in run.steps(total, cycle=snapshot_period(args), work=work):
            keys = row_keys(args.seed, step, run.rank, run.world_size, share, run.device)
            rows, size = parts.rows(next(batches), keys, run.device), args.bs
            selecting, waiting = args.selection and switch.selecting, switch.waiting

            # First pass, without gradients: what learner and reference lose at every row, under one
            # t, noise and dropout; then the draw.
            learner = ref = sigma = choice = None
            if selecting or waiting:
                selection_time.start()
                if reference is not None and (waiting or pick.needs_ref):
                    ref, sigma = how.scores(reference, rows, at_once)
                if selecting and (waiting or pick.needs_losses):
                    learner, sigma = how.scores(net, rows, at_once)
                if selecting:
                    choice = choose(
                        pick, rows, learner, ref, sigma,
                        random=partial(generator, run.device, "selection", args.seed, step),
                    )  # fmt: skip
                    rows, size = choice.rows, mini_batch(args)
                    spoil_blind(run, choice.blind)
                    for spread in choice.spreads:
                        run.log(**{"entropy": spread.entropy, "perplexity / B": spread.relative})
                run.log(**{"time/selection_s": selection_time.stop()})

            # Second pass: train on the chosen rows, or on all, `at_once` at a time. Gradients are
            # averaged over ranks, so that this is the mean over the step's rows.
            losses: list[Lost] = []
            outputs: dict[str, Any] = {}
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * parts.ramp(args, step + 1)
            for part in rows.parts(at_once):
                weight = len(part.keys) * run.world_size / size
                if model is not None:
                    with run.precision.autocast():
                        outputs = own.trained(model, how, part, step)
                    run.backward(outputs["loss"] * weight, part.index)
                    run.log(Loss=outputs["loss"].detach(), **model.logged)
                    if isinstance(model, DDIMTraining):
                        flat, t = outputs["loss_flat"], outputs["t"]
                        losses.append(Lost(flat, schedule.importance(t), t, flat))
                    continue
                noise = None
                if args.best_of_k > 1:  # of several noises the one at which a row loses least
                    best_time.start()
                    noise = how.best_noise(net, part, args.best_of_k, args.best_of_reject)
                    run.log(**{"time/best_of_s": best_time.stop()})
                lost = how.row_losses(forward, part, noise)
                run.backward((lost.weight * lost.loss).mean() * weight, part.index)
                losses.append(Lost(lost.loss.detach(), *lost[1:]))

            if run.step(optimizer, clip=args.grad_clip or None):
                ema.update(net, run.nimg + size, size)
                if losses:
                    loss, _, t, _ = (torch.cat(each) for each in zip(*losses, strict=True))
                    schedule.update(t, loss)
            run.nimg += size
            run.log(**{"Learning rate": optimizer.param_groups[0]["lr"]})
            if losses and model is None:
                run.log_sums(**validation.loss_figures(losses, gaussian.T))
            if choice is not None and chosen_log is not None:
                chosen_log.add(step, choice.chosen.flatten().cpu().numpy())
            if waiting and ref is not None:  # is the learner better than the reference by now?
                behind: Tensor = torch.cat([x.loss for x in losses]) if learner is None else learner
                ahead = distributed.mean((behind - ref).mean()).item()
                if switch.observe(ahead, nimg=run.nimg, step=step + 1):
                    word = "begins" if switch.selecting else "ends"
                    run.say(f"step {step + 1}: the learner beats the reference, selection {word}")

            if run.nimg >= args.duration or (step + 1) % snapshot_period(args) == 0:
                config = parts.snapshot_config(args, run, net, how, images)
                name = f"network-snapshot-{run.completed + 1:07d}"
                run.snapshot(name, ema.module, parts.KIND, config)
                look(outputs)
                held_out(ema.module, how)
            if measuring.due(step + 1):
                config = parts.snapshot_config(args, run, net, how, images)
                measuring(ema.module, parts.KIND, config)
        if chosen_log is not None:
            chosen_log.close()
        series = read_series(run.dir / "metrics.jsonl")
        logged = series.get("loss/mse", series.get("train_loss_simple", ([], [])))
        run.say(f"training: {validation.verdict(*logged)}")
        run.say(f"snapshots {run.dir / 'snapshots'}")


if __name__ == "__main__":
    launch(main, get_args(__doc__))
