"""The 2-D tree (Karras et al. 2024, arXiv:2406.02507): diffusion, autoguidance and online data
selection on a density whose score is known, in minutes on a CPU.

    python toy_example.py train --preset smoke                            # seconds
    python toy_example.py train --dim 32 --total-iter 512 --outdir Ref    # a small guide
    python toy_example.py train --acid --guidance --guide-path Ref/iter0512.pkl --outdir AJEST
    python toy_example.py test --net-path AJEST/iter4096.pkl --guide-path Ref/iter0512.pkl --mandala
    python toy_example.py plot --net AJEST/iter4096.pkl --gnet Ref/iter0512.pkl

Modes of train, each with --early (only until the learner beats the reference) or --late (only from
then on):
    baseline   trains on all of every batch
    random     --selection: on a random part of it, 1 - --filt
    JEST       --acid: on points that the learner finds hard and the reference, its own EMA, easy
    AJEST      --acid --guidance --guide-path WEAK: the weak guide is the reference

Running the same command again resumes. A network is named by its path, or by its path below the
results of this script; .pkl stands for our .safetensors of the same name.
`extract_results_from_log` and `plot_loss` read what --logging wrote.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from diffusion import toy
from diffusion.guidance import guided
from diffusion.toy_eval import examine, panels
from generators.files import open_network
from runtime import ema as emas
from runtime.cli import parse
from runtime.launch import launch
from runtime.memory import keep_freed_memory
from runtime.meters import Stopwatch
from runtime.options import add_run_args, add_table
from runtime.place import choose_device
from runtime.run import Run
from runtime.seeding import generator
from runtime.types import finite_float, nonnegative_int, number, positive_float, positive_int, text
from selection import (
    EarlyLateSwitch,
    draw_spread,
    jointly_sample_batch,
    random_baseline,
    scaled,
    selection_size,
    sigma_strata,
)
from storage.dirs import results_home
from storage.errors import CheckpointError, UsageError
from storage.find import find_file
from storage.textlog import TextLog, read_figures

# Of train; test and plot have a smoke of their own.
PRESETS = {
    "smoke": {
        "_help": "tiny, seconds; takes the options of every mode",
        "layers": 2, "dim": 16, "total_iter": 24, "batch_size": 512, "val_every": 8,
        "val_samples": 64, "test_samples": 64, "viz_every": 0, "snapshot_every": 8,
        "save_every": 8, "log_every": 4, "wandb": "disabled",
    },
}  # fmt: skip
TEST_PRESETS = {"smoke": {"_help": "an untrained network unless given one", "n_samples": 64}}
PLOT_PRESETS = {"smoke": {"_help": "an untrained network unless given one", "n_samples": 256}}
COMMANDS = ("train", "test", "plot")

# Flags that say how a run is executed or how long, not what it computes.
EXECUTION_ONLY = (
    "command", "total_iter", "outdir", "device", "verbose", "debug", "logging", "trick",
    "val", "test", "val_every", "val_samples", "test_samples", "external", "mandala", "viz",
    "viz_every", "snapshot_every",
)  # fmt: skip
EMA_STD = 0.010
GUIDANCE = 3.0
SCORE_SCALES = ("standardised", "seed", "raw", "mean")


def get_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of a command, the first word (default train). What cannot work exits with code 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words.pop(0) if words and words[0] in COMMANDS else "train"
    return {"train": train_args, "test": test_args, "plot": plot_args}[command](words)


def new_parser(command: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"toy_example.py {command}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def train_args(argv: list[str]) -> argparse.Namespace:
    parser = new_parser("train")
    add_run_args(parser, save_every=512)
    # fmt: off
    add_table(parser, "data, network, length", [
        ("--cls", ("A", "B", "AB"), "A", "class of the tree"),
        ("--layers", positive_int, 4, "hidden layers"),
        ("--dim", positive_int, 64, "their width"),
        ("--total-iter", positive_int, 4096, "optimizer steps"),
        ("--batch-size", positive_int, 4096, "points of a step: the super-batch"),
        ("--lr", positive_float, 1e-2, "peak learning rate of Adam"),
        ("--decay", positive_float, 512, "steps after which it falls as 1 / sqrt(step)"),
        ("--device", device_word, None, "cpu, or the number of a GPU (default cpu)"),
    ])
    add_table(parser, "guide and selection", [
        ("--guidance", bool, None, "use the guide: as the reference of --acid, and in metrics"),
        ("--guide-path", text, None, "snapshot of a small network; implies --guidance"),
        ("--interpol", bool, False, "train and select by the loss of the guided score"),
        ("--selection", bool, None, "train on a part of every batch, at random unless --acid"),
        ("--acid", bool, False, "choose it by JEST"),
        ("--filt", number(0, 1, hi_open=True), 0.8, "filter ratio: the part not trained on"),
        ("--n", positive_int, 16, "chunks in which JEST draws"),
        ("--diff", bool, True, "score: learner loss - reference loss; else - reference loss"),
        ("--invert", bool, False, "prefer low scores"),
        ("--early", bool, False, "select only until the learner beats the reference"),
        ("--late", bool, False, "select only from then on"),
        ("--trick", bool, False, "no effect: probabilities are computed in logarithms anyway"),
        ("--score_scale", SCORE_SCALES, "standardised", "z-scores in the draw; seed and mean: "
         "losses as logged, the original's; raw: summed over both dimensions"),
        ("--temperature", positive_float, 1.0, "of the draw"),
        ("--score_by_sigma", bool, False, "rank points among those of like sigma: keeps P(sigma)"),
        ("--first_chunk", ("uniform", "scored"), "uniform", "how the first chunk is drawn"),
        ("--normalise", bool, True, "scores over 2n + 1, as the original; else as published"),
        ("--rounding", ("exact", "reference"), "exact", "reference: cut off as the original's"),
    ])
    add_table(parser, "metrics, pictures, logs", [
        ("--val", bool, True, "metrics during training"),
        ("--val_every", positive_int, 128, "steps between them"),
        ("--val_samples", positive_int, 512, "points they are taken over"),
        ("--test", bool, True, "metrics at the end"),
        ("--test_samples", positive_int, 1024, "points they are taken over"),
        ("--external", bool, False, "also on the deep branches of the tree"),
        ("--mandala", bool, False, "also mandala and classification scores"),
        ("--viz", bool, True, "pictures of samples"),
        ("--viz_every", nonnegative_int, 512, "steps between them; 0: at the end only"),
        ("--snapshot_every", positive_int, 256, "steps between snapshots of the EMA"),
        ("--outdir", text, None, "the run's folder; a relative one lies in the results of this "
         "script"),
        ("--logging", text, None, "file for the original's text log"),
        ("--verbose", bool, False, "print the figures of every log interval"),
        ("--debug", bool, False, "print these and how selective the draws are"),
    ])
    # fmt: on
    args = parse(parser, PRESETS, argv)
    args.command = "train"
    try:
        check_train(args)
    except ValueError as error:
        parser.error(str(error))
    return args


def check_train(args: argparse.Namespace) -> None:
    """Rules between options, and what follows from several. Errors: ValueError."""
    set_device(args)
    if args.outdir is not None:
        if args.run_dir is not None:
            raise ValueError(f"--outdir {args.outdir} and --run-dir {args.run_dir}: give one")
        args.run_dir = str(Path(args.results_path or results_home()) / "toy_example" / args.outdir)
    if args.guidance is False and args.guide_path:
        raise ValueError(f"--no-guidance with --guide-path {args.guide_path}: give one")
    if args.guidance and not args.guide_path:
        raise ValueError("--guidance needs a guide: --guide-path FILE, a small network's snapshot")
    args.guidance = bool(args.guide_path)
    if args.interpol and not args.guidance:
        raise ValueError("--interpol guides the score: it needs --guide-path")
    if args.acid and args.selection is False:
        raise ValueError("--acid selects and --no-selection does not: give one")
    args.selection = bool(args.selection or args.acid)
    if args.early and args.late:
        raise ValueError("--early ends the selection where --late begins it: give one")
    if (args.early or args.late) and not args.selection:
        raise ValueError(f"--{'early' if args.early else 'late'} needs --selection or --acid")
    if (args.early or args.late) and not (args.acid or args.guidance):
        raise ValueError("--early and --late of a random selection need a --guide-path")
    if args.selection:
        selection_size(args.batch_size, args.filt, args.n if args.acid else 1, args.rounding)


def device_word(word: str) -> str:
    """Type of --device: cpu or a GPU's number."""
    if word != "cpu":
        nonnegative_int(word)
    return word


def set_device(args: argparse.Namespace) -> None:
    """--gpus from --device; the CPU unless asked. Errors: ValueError."""
    asked = None if args.device is None else [] if args.device == "cpu" else [int(args.device)]
    if asked is not None and args.gpus not in (None, asked):
        raise ValueError(f"--device {args.device} and --gpus {args.gpus}: give one")
    args.gpus = asked or args.gpus or []
    if len(args.gpus) > 1:
        raise ValueError(f"--gpus {args.gpus}: the toy runs in one process")


def train(args: argparse.Namespace) -> None:
    keep_freed_memory()
    # Read first: a path that is wrong leaves no run directory behind.
    guide = load_net(args.guide_path, torch.device("cpu"), args.results_path)
    with Run(
        args, script="toy_example", name=run_name(args), shaping_exclude=EXECUTION_ONLY
    ) as run:
        # Density, networks, optimizer, EMA; the guide, and the reference of the selection.
        tree = toy.tree(args.cls).to(run.device)
        net = toy.ToyModel(2, args.layers, args.dim).to(run.device)
        net.forced_weight_norm = False  # below, once a step
        optimizer = torch.optim.Adam(net.parameters(), lr=args.lr, betas=(0.9, 0.99), fused=True)
        average = emas.EMA(net, emas.power(EMA_STD))
        guide = guide and guide.to(run.device)
        reference = average.module if guide is None else guide
        switch = EarlyLateSwitch("early" if args.early else "late" if args.late else None)
        journal = Journal(args)
        run.restore(net=net, optimizer=optimizer, average=average, switch=switch, journal=journal)
        journal.log.begin(run.dir.name, run.completed)
        watch = Stopwatch(run.device)

        for step in run.steps(args.total_iter):
            net.normalize_weights()
            watch.start()
            g = generator(run.device, "batch", args.seed, step)
            sigma = toy.sigmas(args.batch_size, generator=g, device=run.device)
            x = tree.sample(args.batch_size, sigma, generator=g)
            selecting, waiting = args.selection and switch.selecting, switch.waiting
            scoring = selecting and args.acid

            # First pass, without gradients: learner and reference on the whole super-batch.
            learner = ref = rows = None
            if scoring or waiting:
                target = tree.score(x, sigma)
                with torch.no_grad():
                    learner = loss_of(net, guide, x, sigma, target, args)
                    ref = toy.loss(reference.score(x, sigma), target, sigma)
            if selecting:
                rows = choose(args, learner, ref, sigma, step, journal)
                x, sigma = x[rows], sigma[rows]
            seconds = watch.stop()

            # Second pass: train on the chosen points, or on all.
            watch.start()
            target = tree.score(x, sigma)
            loss = loss_of(net, guide, x, sigma, target, args).mean()
            run.backward(loss)
            for group in optimizer.param_groups:
                group["lr"] = toy.lr(step, ref_lr=args.lr, ref_steps=args.decay)
            if run.step(optimizer):
                average.update(net, step + 1, 1)
            run.nimg += len(x)

            figures = {"Average Learner Loss": loss.detach()}
            if learner is not None:
                figures["Average Super-Batch Learner Loss"] = learner.mean()
                figures["Average Super-Batch Reference Loss"] = ref.mean()
            run.log(**figures)
            journal.note(figures, training=watch.stop(), selection=seconds * args.selection)
            if waiting and switch.observe(
                (learner - ref).mean().item(), nimg=run.nimg, step=step + 1
            ):
                word = "begins" if switch.selecting else "ends"
                run.say(f"step {step + 1}: the learner beats the reference, selection {word}")

            last = step + 1 == args.total_iter
            nets = {"Learner": net, "EMA": average.module}
            if (step + 1) % args.log_every == 0 or last:
                journal.write(run, step + 1)
            if args.val and (step + 1) % args.val_every == 0:
                judge(args, run, journal, tree, nets, guide, "Validation", args.val_samples)
            if args.test and last:
                judge(args, run, journal, tree, nets, guide, "Test", args.test_samples)
            if args.viz and (last or args.viz_every and (step + 1) % args.viz_every == 0):
                draw(run, tree, nets, guide, step + 1)
            if last or (step + 1) % args.snapshot_every == 0:
                config = {"net": net.config, "cls": args.cls, "ema_std": EMA_STD, "step": step + 1}
                run.snapshot(f"iter{step + 1:04d}", average.module, "edm2-toy", config)
            if last:
                config["ema_std"] = None
                run.snapshot(f"iter{step + 1:04d}learner", net, "edm2-toy", config)


def loss_of(
    net: toy.ToyModel,
    guide: toy.ToyModel | None,
    x: Tensor,
    sigma: Tensor,
    target: Tensor,
    args: argparse.Namespace,
) -> Tensor:
    """Loss of every point [N], of the guided score with --interpol."""
    score = net.score(x, sigma)
    if args.interpol:
        with torch.no_grad():
            other = guide.score(x, sigma)
        score = toy.extrapolate(score, other, GUIDANCE)
    return toy.loss(score, target, sigma)


def choose(
    args: argparse.Namespace,
    learner: Tensor | None,
    ref: Tensor | None,
    sigma: Tensor,
    step: int,
    journal: "Journal",
) -> Tensor:
    """The rows to train on."""
    g = generator(sigma.device, "selection", args.seed, step)
    if not args.acid:
        return random_baseline(sigma, args.filt, rounding=args.rounding, generator=g)
    strata = sigma_strata(sigma) if args.score_by_sigma else None
    # The library wants losses summed over the values of a row; ours are means over two.
    scale = "mean" if args.score_scale == "seed" else args.score_scale
    learner, ref = scaled(
        2 * learner, 2 * ref, scale=scale, learnability=args.diff, pixels=2, strata=strata
    )
    how = dict(
        learnability=args.diff,
        inverted=args.invert,
        first_chunk=args.first_chunk,
        normalise=args.normalise,
        rounding=args.rounding,
        temperature=args.temperature,
        strata=strata,
    )
    spread = draw_spread(learner, ref, args.n, args.filt, **how)
    journal.note({"Selection Perplexity": spread.relative})
    return jointly_sample_batch(learner, ref, args.n, args.filt, generator=g, **how)


class Journal:
    """Means and times between two lines of the logs, and the text log; has state, so it resumes."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.log = TextLog(args.logging)
        self.verbose, self.debug = args.verbose or args.debug, args.debug
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.seconds = {"Training": 0.0, "Selection": 0.0}

    def note(
        self, values: dict[str, Tensor], *, training: float = 0.0, selection: float = 0.0
    ) -> None:
        """Add the figures of a step; nothing waits for the device."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.double()
            self.counts[name] = self.counts.get(name, 0) + 1
        self.seconds["Training"] += training
        self.seconds["Selection"] += selection

    def write(self, run: Run, step: int) -> None:
        """Means since the last line to the text log and, if wanted, to the terminal."""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        spread = means.pop("Selection Perplexity", None)
        values = {"Examples Seen": run.nimg}
        values |= {f"{kind} Time [min]": s / 60 for kind, s in self.seconds.items()} | means
        self.log.figures(step, values)
        if spread is not None:
            run.log(**{"Selection Perplexity": spread})
            self.log.say(f"Selection Perplexity = {spread:.6g}", "DEBUG")
        if self.verbose:
            run.say(f"Iteration = {step}, " + shown(values))
        if self.debug and spread is not None:
            run.say(f"Selection Perplexity = {spread:.6g} of the super-batch")

    def state_dict(self) -> dict:
        return {"sums": self.sums, "counts": self.counts, "seconds": self.seconds}

    def load_state_dict(self, state: dict) -> None:
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])
        self.seconds = dict(state["seconds"])


def shown(values: dict[str, float]) -> str:
    return ", ".join(f"{name} = {value:.4g}" for name, value in values.items())


def judge(
    args: argparse.Namespace,
    run: Run,
    journal: Journal,
    tree: toy.Mixture,
    nets: dict[str, toy.ToyModel],
    guide: toy.ToyModel | None,
    word: str,
    n: int,
) -> None:
    """Metrics to every log, from the same points each time."""
    found = examine(
        tree, nets, guide, n, word=word, weight=GUIDANCE, external=args.external,
        mandala=args.mandala, generator=generator(run.device, word, args.seed),
    )  # fmt: skip
    run.log_now(**found)
    journal.log.figures(run.completed + 1, found)
    if journal.verbose or word == "Test":
        run.say(f"Iteration = {run.completed + 1}, {shown(found)}")


def draw(
    run: Run,
    tree: toy.Mixture,
    nets: dict[str, toy.ToyModel],
    guide: toy.ToyModel | None,
    step: int,
) -> None:
    """Samples of the learner, the EMA and the guided EMA."""
    learner, average = nets["Learner"].denoise, nets["EMA"].denoise
    steered = guide and guided(average, guide.denoise, GUIDANCE)
    path = run.dir / "samples" / f"tree-{step:04d}.png"
    path.parent.mkdir(exist_ok=True)
    last = f"guided by {GUIDANCE:g}" if guide else "no guide"
    columns = [("learner", learner), ("EMA", average), (last, steered)]
    panels(tree, columns, path, generator=generator(run.device, "picture", 0))
    run.say(f"samples {path}")


def run_name(args: argparse.Namespace) -> str:
    """The run directory's readable part; a hash of the shaping options follows it."""
    kind = "jest" if args.acid else "random" if args.selection else "baseline"
    kind = "a" + kind if args.acid and args.guidance else kind
    when = ["early"] * args.early + ["late"] * args.late + ["interpol"] * args.interpol
    return "-".join([args.cls, f"{args.layers}x{args.dim}", kind, *when])


def load_net(
    path: str | None, device: torch.device, results: str | None = None
) -> toy.ToyModel | None:
    """A toy network by its path; None for none. Errors: CheckpointError, UsageError.

    results: the results folder of a run that has one of its own.
    """
    if path is None:
        return None
    # A URL is refused by open_network, in its own words.
    found = path if "://" in path else find_file(path, "toy_example", results)
    snapshot = open_network(found)
    if snapshot.kind != "edm2-toy":
        raise CheckpointError(f"{path} is a network of kind {snapshot.kind}, not of the toy")
    try:
        net = toy.ToyModel(**snapshot.config["net"])
        net.load_state_dict(snapshot.state_dict)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        line = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path} is no toy network: {line}") from None
    return net.to(device).eval().requires_grad_(False)


# ------------------------------------------------------------------------------------ test, plot


def test_args(argv: list[str]) -> argparse.Namespace:
    parser = new_parser("test")
    # fmt: off
    add_table(parser, "test", [
        ("--net-path", text, None, "network to test, called Learner in the figures"),
        ("--ema-path", text, None, "another, called EMA"),
        ("--guide-path", text, None, "guide; guided figures are with weight 3"),
        ("--cls", ("A", "B", "AB"), "A", "class of the tree"),
        ("--acid", bool, False, "no effect, as in the original"),
        ("--n-samples", positive_int, 1024, "points the figures are taken over"),
        ("--batch-size", positive_int, 1024, "points at once"),
        ("--external", bool, False, "also on the deep branches of the tree"),
        ("--mandala", bool, False, "also mandala and classification scores"),
        ("--seed", nonnegative_int, 0, "of points and noise"),
        ("--logging", text, None, "file for the original's text log"),
        ("--verbose", bool, False, "no effect: everything is printed"),
        ("--device", device_word, None, "cpu, or the number of a GPU (default cpu)"),
    ])
    # fmt: on
    parser.add_argument("--preset", metavar="NAME", help="a named set of options")
    args = parse(parser, TEST_PRESETS, argv)
    args.command, args.gpus = "test", None
    if args.net_path is None and args.ema_path is None and args.preset != "smoke":
        parser.error("--net-path is missing: the snapshot of a network, iter4096.safetensors say")
    set_device(args)
    return args


def test(args: argparse.Namespace) -> None:
    """Print the metrics of networks, and write them to the text log."""
    keep_freed_memory()
    device = choose_device(args.gpus)
    nets = {"Learner": load_net(args.net_path, device), "EMA": load_net(args.ema_path, device)}
    nets = {name: net for name, net in nets.items() if net is not None}
    if not nets:
        nets = {"Learner": untrained(args.seed, device)}
    found = examine(
        toy.tree(args.cls).to(device), nets, load_net(args.guide_path, device), args.n_samples,
        word="Test", batch=args.batch_size, weight=GUIDANCE, external=args.external,
        mandala=args.mandala, generator=generator(device, "Test", args.seed),
    )  # fmt: skip
    log = TextLog(args.logging)
    for name, value in found.items():
        print(f"{name} = {value:.6g}")
        log.say(f"{name} = {value:.6g}")


def plot_args(argv: list[str]) -> argparse.Namespace:
    parser = new_parser("plot")
    # fmt: off
    add_table(parser, "plot", [
        ("--net", text, None, "network: a snapshot, or a toy pickle of NVIDIA's"),
        ("--gnet", text, None, "guide"),
        ("--guidance", finite_float, 3.0, "guidance weight"),
        ("--cls", ("A", "B", "AB"), "A", "class of the tree"),
        ("--n_samples", positive_int, 4096, "samples in a panel"),
        ("--save", text, None, "PNG to write (default: tree.png in the results of this script)"),
        ("--seed", nonnegative_int, 0, "of samples and noise"),
        ("--device", device_word, None, "cpu, or the number of a GPU (default cpu)"),
    ])
    # fmt: on
    parser.add_argument("--preset", metavar="NAME", help="a named set of options")
    args = parse(parser, PLOT_PRESETS, argv)
    args.command, args.gpus = "plot", None
    if args.net is None and args.preset != "smoke":
        parser.error(
            "--net is missing: a snapshot of `train` (the original downloaded networks; get "
            "edm2-toy's from NVIDIA yourself and give the path of the .pkl)"
        )
    set_device(args)
    return args


def plot(args: argparse.Namespace) -> None:
    """Draw ground truth, samples, the guide's samples and guided samples, and their mandalas."""
    device = choose_device(args.gpus)
    net, guide = load_net(args.net, device), load_net(args.gnet, device)
    net = untrained(args.seed, device) if net is None else net
    path = Path(args.save or results_home() / "toy_example" / "tree.png").expanduser()
    if path.is_dir():
        raise UsageError(f"--save {path} is a folder: give the PNG to write")
    path = path if path.suffix else path.with_suffix(".png")
    steered = guide and guided(net.denoise, guide.denoise, args.guidance)
    columns = [
        ("network", net.denoise),
        ("guide" if guide else "no guide", guide and guide.denoise),
    ]
    columns += [(f"guided by {args.guidance:g}", steered)] if guide else [("", None)]
    g = generator(device, "picture", args.seed)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        panels(toy.tree(args.cls).to(device), columns, path, n=args.n_samples, generator=g)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write {path}: {error}") from error
    print(f"picture: {path}")


def untrained(seed: int, device: torch.device) -> toy.ToyModel:
    torch.manual_seed(seed)
    return toy.ToyModel(2, 2, 16).to(device).eval().requires_grad_(False)


# ------------------------------------------------------------------------------------ text logs


def extract_results_from_log(path: str | Path) -> dict[str, dict[int, float]]:
    """{figure: {iteration: value}} of a log that --logging wrote. Errors: UsageError."""
    return read_figures(path)


def plot_loss(log: str | Path, save: str | Path | None = None) -> Path:
    """Draw all losses of a text log over iterations into a PNG (default: beside the log).

    Returns its path. Errors: UsageError for a log without a loss.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = {k: v for k, v in extract_results_from_log(log).items() if k.endswith("Loss")}
    if not found:
        raise UsageError(f"the log {log} has no loss in it")
    path = Path(save) if save is not None else Path(log).with_suffix(".png")
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    for name, curve in found.items():
        mark = "o" if len(curve) < 3 else None
        ax.plot(list(curve), list(curve.values()), label=name, lw=1, marker=mark, markersize=3)
    ax.set(xlabel="iteration", ylabel="loss", yscale="log")
    ax.legend(fontsize=8)
    ax.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=110)
    return path


def main(args: argparse.Namespace) -> None:
    {"train": train, "test": test, "plot": plot}[args.command](args)


if __name__ == "__main__":
    launch(main, get_args())
