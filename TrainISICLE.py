"""ISICLE: TrainSimCLR.py on views that a generator draws, so that two views of a picture differ as
real pictures differ: by default each of the two views of a picture is drawn with probability 1/2,
else it is the picture (--pair, --f). Everything else is SimCLR's, and so are its options.

    python TrainISICLE.py --preset smoke                        # embedded data, CPU, seconds
    python TrainISICLE.py --preset cpu-small --data DIR         # half an hour of two cores
    python TrainISICLE.py --preset tiny25 --net RUN/snapshots/network-latest
    python TrainISICLE.py --net FILE --pair real-synth --augs crop+flip
    python TrainISICLE.py --net FILE --f 0:1                    # more and more synthetic views
    python TrainISICLE.py --net FILE --refresh 5 --k 8          # 8 views a picture, anew every 5
    python TrainISICLE.py --views cache --cache DIR             # made by generate_views.py
    python TrainISICLE.py --joint 5 --imle_steps 200 --imle "--preset cpu-small"
    python TrainISICLE.py --pair real-real                      # TrainSimCLR.py, bit for bit

Where synthetic views come from: drawn in every step (the default), from a folder (--views cache),
drawn anew every R epochs (--refresh); with --joint R the generator is trained by IMLE before every
R epochs, as in TrainGeneratorWandB.py, from new weights or on from --net, and the encoder's loss
never reaches it. On a GPU the next step's views are drawn on a stream of their own while the
encoder works.

Accuracies are of real pictures only. Running the same command again resumes.

What each option means and which go together: recipes/isicle/options.py. How a batch is made:
recipes/isicle/supply.py. How the generator is trained: recipes/isicle/generator.py.
"""

import argparse
import time

import storage.environment  # noqa: F401  (says what to do where torch is missing)

from data.listing import listing_of
from data.views.recipes import described, view_keys
from recipes.isicle import parts
from recipes.isicle.generator import Joint
from recipes.isicle.options import OPTIONS, get_args, run_name
from recipes.isicle.supply import Ahead, Supply, Turns, log_views
from recipes.simclr import figures
from recipes.simclr import parts as simclr
from runtime.launch import launch
from runtime.meters import Stopwatch
from runtime.options import LENGTH, tagged
from runtime.run import Run


def main(args: argparse.Namespace) -> None:
    asked, free = parts.asked(args)
    fitted = parts.fit(args)  # what follows from the pictures
    with Run(
        args,
        script="TrainISICLE",
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
        trained, tested = simclr.pictures(args, run)
        run.trains_on(listing_of(trained.source))
        figures.check(args, trained, run.say)
        steps_per_epoch = simclr.epoch_steps(args, trained, run.world_size)
        recipe = simclr.view_recipe(args)
        plain = f"views of {recipe.size} px as they are"
        run.say(plain if args.augs == "none" else described(recipe))
        augment = parts.augmentation(args, recipe)

        # Network, loss, optimizer.
        net = parts.network(args, run)
        loss_fn = parts.loss(args)
        optimizer = simclr.optimizer(args, net)

        # Synthetic views, and with --joint what trains their generator: before every --joint epochs
        # of the encoder come --imle_steps steps of IMLE, and then views are drawn from its EMA.
        turns = Turns(steps_per_epoch, args.epochs, args.joint, args.imle_steps)
        run.say(turns.told())
        joint = Joint(args, run, trained.source) if args.joint else None
        measuring = joint and joint.measuring(args, run, tested.source if tested else None)
        generator_file = joint.file if joint else args.net
        # source: (pictures, draw) -> views. sampler: the generator in it, which is told its new
        # weights after each phase. origin: what resuming checks that the generator still is.
        source, sampler, origin = parts.synthetic_views(args, generator_file, run, trained)
        objects = joint.objects() if joint else {}
        if source is not None and joint is None:
            objects["views"] = parts.Origin(origin)

        run.restore(model=net, optimizer=optimizer, **objects)
        parts.start_from(args, run, net)
        simclr.note_rate(args, run, turns.encoder_steps(run.completed), steps_per_epoch)
        if joint and sampler:
            joint.begin(run, sampler, turns._replace(epochs=run.length.schedule).imle_steps)
        supply = Supply(args, run, trained.images, source, steps_per_epoch)
        ahead = Ahead(supply.at, run.device)
        if run.device.type != "cuda" and source is not None:
            run.say("no GPU: views are made in turn with the encoder's steps, not beside them")
        if run.completed == 0 and joint is None:
            parts.show(run, trained, source)
        forward = run.compile(net)
        watch = Stopwatch(run.device)
        cycle = turns.cycle or args.eval_iter * steps_per_epoch
        for turn in run.steps(turns.total, cycle=cycle, work=turns.work):
            begun = time.process_time()
            step, imle_step = turns.at(turn)
            if step is None:  # the generator's turn
                assert joint and sampler, "without --joint there is no such turn"
                joint.step(run, imle_step)
                if measuring and measuring.due(imle_step + 1):
                    measuring(joint.ema.module, "camnet", joint.config)
                run.log(**{"time/cpu_s": time.process_time() - begun})
                if joint.phase_is_over(imle_step):
                    joint.hand_over(run, sampler)
                    parts.show(run, trained, source)
                continue

            # Of every picture some views, each real or drawn by the generator; both kinds are
            # augmented by one recipe, each view by a draw of its own (seed, epoch, picture, view).
            watch.start()
            epoch, batch_number = divmod(step, steps_per_epoch)
            with run.spent.on("data"):  # drawing views, where that is not done beside the encoder
                batch = ahead.take(step)
            views = [
                augment(pictures, view_keys(args.seed, epoch, batch.ids, view))
                for view, pictures in enumerate(batch.pictures)
            ]

            # SimCLR: every view is to find the others of its picture among those of the batch.
            # The loss reaches the encoder alone.
            with run.precision.autocast():
                z = parts.encode(forward, views, batch.synthetic if args.domain_bn else None)
            loss, top1 = parts.contrast(loss_fn, z)
            run.backward(loss, batch.ids)
            if supply.follows(step) and turns.at(turn + 1)[0] is not None:
                ahead.start(step + 1)  # the next views are drawn while the GPU does this step
            lr = simclr.learning_rate(args, step, steps_per_epoch, run.length.schedule)
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

            if batch_number == steps_per_epoch - 1:  # the end of an epoch
                last = epoch + 1 == args.epochs
                if not last and (epoch + 1) % args.eval_iter == 0:
                    with run.spent.on("validation"):
                        figures.evaluate(run, net, trained, tested, recipe)
                if last or (epoch + 1) % args.save_iter == 0:
                    parts.save(run, net, optimizer, recipe, epoch)
        figures.final_probes(run, parts.for_real(run, net), trained, tested, recipe)


if __name__ == "__main__":
    launch(main, get_args(__doc__))
