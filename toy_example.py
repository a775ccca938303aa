"""The 2-D tree (Karras et al. 2024, arXiv:2406.02507): diffusion, autoguidance and online data
selection on a density whose score is known, in minutes on a CPU.

    python toy_example.py train --preset smoke                            # seconds
    python toy_example.py train --preset cpu-small                        # under half an hour
    python toy_example.py train --dim 32 --total-iter 512 --outdir Ref    # a small guide
    python toy_example.py train --acid --guidance --guide Ref/iter0512.pkl --outdir AJEST
    python toy_example.py test --net AJEST/iter4096.pkl --guide Ref/iter0512.pkl --mandala
    python toy_example.py plot --net AJEST/iter4096.pkl --guide Ref/iter0512.pkl

Modes of train; those that have a reference also with --early (only until the learner has surely
beaten it) or --late (only from then on):
    baseline   trains on all of every batch
    random     --selection: on a random part of it, 1 - --filt
    JEST       --acid: on points drawn in favour of those that the learner finds hard and the
               reference, its own EMA, easy
    AJEST      --acid --guidance --guide WEAK: the weak guide is the reference

Running the same command again resumes. A network is named by its path, or by its path below the
results of this script; .pkl stands for our .safetensors of the same name.
`extract_results_from_log` and `plot_loss` read what --logging wrote. What each option means and
which go together: recipes/toy/options.py; the draw: recipes/selection.py.
"""

from argparse import Namespace

import storage.environment  # noqa: F401  (says what to do where torch is missing)

import torch

from diffusion import toy
from diffusion.toy_eval import examine
from recipes import initial
from recipes.selection import early_late_switch, spoil_blind
from recipes.toy import parts, validation
from recipes.toy.journal import Journal, extract_results_from_log, plot_loss  # noqa: F401
from recipes.toy.options import (
    OPTIONS,
    execution_options,
    get_args,
    run_name,
    selection_picker,
)
from recipes.toy.parts import EMA_STD, GUIDANCE
from runtime import ema as emas
from runtime.launch import launch
from runtime.memory import keep_freed_memory
from runtime.meters import Stopwatch
from runtime.options import LENGTH, tagged
from runtime.place import choose_device
from runtime.progress import Counted
from runtime.run import Run
from runtime.seeding import generator
from storage.textlog import TextLog


def train(args: Namespace) -> None:
    """Train a network on the tree, with or without a selection of the points."""
    keep_freed_memory()
    # Read first: a path that is wrong leaves no run directory behind.
    guide = parts.load_net(args.guide_path, torch.device("cpu"), args.results_path)
    with Run(
        args,
        script="toy_example",
        name=run_name(args),
        shaping_exclude=execution_options(),
        length=tagged(OPTIONS, LENGTH),
        inputs=lambda: parts.inputs(args),
    ) as run:
        # Density, network, optimizer, EMA.
        run.say(
            f"data: the tree of --cls {args.cls}, built in; points are drawn anew in every step"
        )
        tree = toy.tree(args.cls).to(run.device)
        net = parts.network(args).to(run.device)
        optimizer = parts.optimizer(args, net)
        average = emas.EMA(net, emas.power(EMA_STD))

        # The guide, the draw, and the reference that the learner is compared with.
        guide = None if guide is None else guide.to(run.device)
        reference = average.module if guide is None else guide
        steering = guide if args.interpol else None  # of the score that is trained and compared
        picker, switch = selection_picker(args), early_late_switch(args)
        journal = Journal(args.logging, verbose=args.verbose, debug=args.debug)
        run.restore(net=net, optimizer=optimizer, average=average, switch=switch, journal=journal)
        initial.start(run, net, args.init_from, "edm2-toy", averages=[average])
        journal.log.begin(run.dir.name, run.completed)
        watch = Stopwatch(run.device)

        def judge(word: str, count: int) -> None:
            """Metrics over `count` points to every log, from the same points each time."""
            found = examine(
                tree,
                {"Learner": net, "EMA": average.module},
                guide,
                count,
                word=word,
                weight=GUIDANCE,
                external=args.external,
                mandala=args.mandala,
                generator=generator(run.device, word, args.seed),
                watch=validation.examining(
                    2, count, run.phase(word.lower()), guide=guide is not None,
                    external=args.external,
                ),
            )  # fmt: skip
            journal.metrics(run, run.completed + 1, found, say=word == "Test")

        def draw() -> None:
            """A picture of samples."""
            random = generator(run.device, "picture", 0)
            shares = run.picture(
                "tree",
                lambda path: validation.training_picture(
                    tree, net, average.module, guide, GUIDANCE, path, random
                ),
            )
            if shares:
                run.log_now(**{f"in the tree/{title}": share for title, share in shares.items()})
                run.say(f"validation: {validation.verdict(shares)}")

        def work(step: int) -> tuple[bool, bool]:
            """What tells steps apart that compute more or less."""
            return switch.selecting, switch.waiting

        for step in run.steps(args.total_iter, work=work):
            net.normalize_weights()
            watch.start()
            random = generator(run.device, "batch", args.seed, step)
            sigma = toy.sigmas(args.batch_size, generator=random, device=run.device)
            x = tree.sample(args.batch_size, sigma, generator=random)
            selecting, waiting = args.selection and switch.selecting, switch.waiting

            # First pass, without gradients: learner and reference on the whole super-batch. Then
            # the draw.
            learner: torch.Tensor | None = None
            ref: torch.Tensor | None = None
            if (selecting and picker.needs_losses) or waiting:
                target = tree.score(x, sigma)
                with torch.no_grad():
                    learner = parts.loss(net, x, sigma, target, steering)
                    ref = parts.loss(reference, x, sigma, target)
            if selecting:
                random = generator(run.device, "selection", args.seed, step)
                sums = parts.summed(learner), parts.summed(ref)
                rows, spread = picker.pick(len(x), *sums, sigma, random=random)
                spoil_blind(run, picker.blind(*sums))
                if spread is not None:
                    journal.note({"Selection Perplexity": spread.relative})
                x, sigma = x[rows], sigma[rows]
            selection_seconds = watch.stop() if args.selection else 0.0

            # Second pass: train on the chosen points, or on all.
            watch.start()
            loss = parts.loss(net, x, sigma, tree.score(x, sigma), steering).mean()
            run.backward(loss)
            for group in optimizer.param_groups:
                group["lr"] = toy.lr(step, ref_lr=args.lr, ref_steps=args.decay)
            if run.step(optimizer):
                average.update(net, step + 1, 1)
            run.nimg += len(x)

            figures = {"Average Learner Loss": loss.detach()}
            if learner is not None and ref is not None:
                figures["Average Super-Batch Learner Loss"] = learner.mean()
                figures["Average Super-Batch Reference Loss"] = ref.mean()
            run.log(**figures)
            journal.note(figures, training=watch.stop(), selection=selection_seconds)
            if waiting and learner is not None and ref is not None:
                # Is the learner better than the reference by now?
                ahead = (learner - ref).mean().item()
                if switch.observe(ahead, nimg=run.nimg, step=step + 1):
                    word = "begins" if switch.selecting else "ends"
                    run.say(f"step {step + 1}: the learner beats the reference, selection {word}")

            done, last = step + 1, step + 1 == args.total_iter
            if done % args.log_every == 0 or last:
                journal.write(run, done)
            if args.val and done % args.val_every == 0:
                judge("Validation", args.val_samples)
            if args.test and last:
                judge("Test", args.test_samples)
            if args.viz and (last or (args.viz_every and done % args.viz_every == 0)):
                draw()
            config = {"net": net.config, "cls": args.cls, "ema_std": EMA_STD, "step": done}
            if last or done % args.snapshot_every == 0:
                run.snapshot(f"iter{done:04d}", average.module, "edm2-toy", config)
            if last:
                config["ema_std"] = None
                run.snapshot(f"iter{done:04d}learner", net, "edm2-toy", config)


def test(args: Namespace) -> None:
    """Print the metrics of networks, and write them to the text log."""
    keep_freed_memory()
    device = choose_device(args.gpus)
    paths = {"Learner": args.net_path, "EMA": args.ema_path}
    loaded = {name: parts.load_net(path, device) for name, path in paths.items()}
    nets = {name: net for name, net in loaded.items() if net is not None}
    nets = nets or {"Learner": parts.untrained(args.seed, device)}
    guide = parts.load_net(args.guide_path, device)
    with Counted("test") as counted:
        found = examine(
            toy.tree(args.cls).to(device), nets, guide, args.n_samples, word="Test",
            batch=args.batch_size, weight=GUIDANCE, external=args.external, mandala=args.mandala,
            generator=generator(device, "Test", args.seed),
            watch=validation.examining(
                len(nets), args.n_samples, counted, guide=guide is not None,
                external=args.external, batch=args.batch_size,
            ),
        )  # fmt: skip
    log = TextLog(args.logging)
    for name, value in found.items():
        print(f"{name} = {value:.6g}")
        log.say(f"{name} = {value:.6g}")
    if args.logging:
        print(f"log: {args.logging}")


def plot(args: Namespace) -> None:
    """Draw ground truth, samples, the guide's samples and guided samples, and their mandalas."""
    device = choose_device(args.gpus)
    found, guide = parts.load(args.net, device), parts.load(args.gnet, device)
    net = parts.untrained(args.seed, device) if found is None else found.net
    note = parts.note_of_picture(args, found, guide)
    path = validation.picture_file(args, note["settings"])
    if validation.there_already(path, note, overwrite=args.overwrite):
        print(f"done already: 1 picture, {path}")
        return
    tree = toy.tree(args.cls).to(device)
    random = generator(device, "picture", args.seed)
    weak = None if guide is None else guide.net
    with Counted("samples") as counted:
        validation.network_picture(
            tree, net, weak, args.guidance, path, args.n_samples, random, note, counted
        )
    print(f"picture: {path}")


def main(args: Namespace) -> None:
    {"train": train, "test": test, "plot": plot}[args.command](args)


if __name__ == "__main__":
    launch(main, get_args(__doc__))
