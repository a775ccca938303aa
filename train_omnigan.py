r"""Train omnigan: from a latent of a street's picture its depth, height, segmentation and water,
and the picture flooded, learned from real and simulated, flooded and dry pictures without pairs.

    python train_omnigan.py --preset smoke                    # embedded scenes, CPU, seconds
    python train_omnigan.py --preset cpu-small                # half an hour of two cores
    python train_omnigan.py --config configs/omnigan.yaml --set gen.opt.lr=2e-4 train.epochs=200
    torchrun --standalone --nproc-per-node 4 train_omnigan.py --config FILE.yaml
    python train_omnigan.py --config FILE.yaml --summary      # layers and parameters, no training

Four domains: real or simulated (r, s), flooded or not (f, n). Six tasks:
    d h s w    decoders of depth, height, segmentation, water, where there are labels
    a          adaptation: pictures of one reality as of the other
    t          translation: flooded pictures dry and dry ones flooded, conditioned on d, h, s, w
First the representation is trained (encoder, d h s w, a), then the translation; each step updates
the generator G, then the discriminators D, then the domain classifier C.

Running the same command again resumes. Every setting and its default: recipes/omnigan/schema.py;
how networks and losses are made of them: recipes/omnigan/parts.py; what a step's losses are:
models/omnigan/steps.py; lists of one's own pictures: data/process_data.py.
"""

from argparse import Namespace
from functools import partial
from typing import Any

import storage.environment  # noqa: F401  (says what to do where torch is missing)

from data.omni import multi_batches
from models.omnigan import (
    Shared,
    classifier_loss,
    discriminator_loss,
    generator_loss,
    settled,
    summary,
)
from recipes.omnigan import parts, validation, weighing
from recipes.omnigan import step as steps
from recipes.omnigan.options import OPTIONS, execution_options, get_args, run_name
from runtime.launch import launch
from runtime.options import LENGTH, tagged
from runtime.run import Run


def main(args: Namespace) -> None:
    opts = args.opts
    if args.summary:
        weighing.check(opts)
        print(summary(parts.make(opts).G, parts.size_of(opts))[0])
        return
    parts.announce(opts)
    with Run(
        args,
        script="train_omnigan",
        name=run_name(args),
        shaping_exclude=execution_options(),
        length=tagged(OPTIONS, LENGTH),
    ) as run:
        # Data: loaders[mode][domain], each with its own list.
        loaders = parts.loaders(opts, args, run)
        run.trains_on(loaders.listing())
        for line in parts.remarks(opts, loaders):
            run.say(line)
        total = args.steps or opts["train"]["epochs"] * loaders.epoch
        batch_size = opts["data"]["loaders"]["batch_size"]
        move = partial(parts.on_device, device=run.device)

        # Players, what they lose, optimizers; what keeps the representation in the second phase.
        weighing.check(opts, run.device, run.world_size)
        trainer = parts.make(opts)
        for module in trainer.players.values():
            module.to(memory_format=parts.layout(args)).to(run.device)
        G, D, C, losses = trainer.G, trainer.D, trainer.C, trainer.losses
        optimizers = parts.optimizers(opts, trainer)
        weights, train, clip = parts.weights(opts), opts["train"], opts["train"]["grad_clip"]
        keeper, low = parts.keeper(opts, G), train["flood_height"]
        measuring = parts.measuring(opts, args, run)

        state: dict[str, Any] = {**trainer.players, "loaders": loaders}
        state |= {f"optimizer_{name}": optimizer for name, optimizer in optimizers.items()}
        state |= {} if keeper is None else {"keeper": keeper}
        run.restore(**state)
        parts.compile_parts(args, trainer)
        batches = run.spent.waits(multi_batches(loaders.train))
        seen: dict[str, float] = {}

        @run.spent.on("validation")
        def look() -> None:
            """Figures and panels of the validation pictures, of which every rank but 0 has none."""
            if not run.is_main or not loaders.val:
                return
            report = run.phase("validation", together=False)
            samples = opts["val"]["samples"]
            seen.update(validation.measure(G, C, loaders.val, move, samples, report))
            run.log_now(**seen)
            rows = opts["val"]["max_log_images"]
            drawn = validation.panels(G, loaders.val, move, rows) if rows else {}
            for domain, panel in drawn.items():
                run.sample_grid(f"panel-{domain}", panel.images, panel.columns, panel.captions)

        def work(step: int) -> tuple[str, ...]:
            """What tells steps apart that compute more or less."""
            return steps.phases(opts, step)

        images = batch_size * len(loaders.train)
        for step in run.steps(total, images_per_step=images, work=work):
            batch = move(next(batches))
            phases, factors = steps.phases(opts, step), {}
            if steps.begins_translation(opts, step):
                with settled(*optimizers.values()):
                    steps.remember(keeper, trainer, batch, weights)
            second = phases == ("translation",)
            if second:
                factors = steps.second_phase(opts, trainer, optimizers)
            steps.set_learning_rates(opts, optimizers, step, loaders.epoch, factors)
            players = {}

            # G: tasks, auto-encoding, adaptation, fooling C; or translation, back, and what it must
            # keep. One encoder pass for the pictures of all domains; D and C use what it made.
            with run.precision.autocast():
                shared = Shared(G, batch)
                g = generator_loss(shared, D, C, losses, weights, phases, train["mask"], low)
                if second and keeper is not None:
                    g.add("kept", steps.kept(keeper, trainer, shared), train["keep_weight"])
            run.backward(g.total)
            run.step(optimizers["G"], clip=clip or None)
            players["G"] = g

            # D: for each domain's batch a real and a fake term for a and for t, sixteen in all.
            if "D" in optimizers:
                with run.precision.autocast():
                    dis = opts["dis"]
                    d = discriminator_loss(shared, D, losses, g.fakes, r1=dis["r1"], gp=dis["gp"])
                run.backward(d.total)
                run.step(optimizers["D"], clip=clip or None)
                steps.bound(opts, trainer)
                players["D"] = d

            # C: which of the four domains a latent is of.
            if C is not None:
                with run.precision.autocast():
                    c = classifier_loss(shared, C, losses, weights)
                run.backward(c.total)
                run.step(optimizers["C"], clip=clip or None)
                players["C"] = c

            run.log(**steps.figures(train["log_level"], players))
            # What is kept and looked at is of whole updates, also between an ExtraAdam's halves.
            last = step + 1 == total
            with settled(*optimizers.values()):
                if last or (step + 1) % args.snapshot_every == 0:
                    config = parts.snapshot_config(opts, G, step + 1)
                    run.snapshot(f"network-snapshot-{step + 1:07d}", G, parts.KIND, config)
                if last or (step + 1) % opts["val"]["every_n_steps"] == 0:
                    look()
                if measuring.due(step + 1):
                    measuring(G, parts.KIND, parts.snapshot_config(opts, G, step + 1))
        if seen or not loaders.val:  # a finished run looks at nothing again
            run.say(f"validation: {validation.verdict(seen, list(loaders.val))}")
        run.say(f"snapshots {run.dir / 'snapshots'}")


if __name__ == "__main__":
    launch(main, get_args(__doc__))
