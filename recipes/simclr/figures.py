"""The figures of a run: what is asked of `validation`, and how it is logged, said and written."""

from argparse import Namespace
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data.registry import open_source
from data.sources import Source, labels_of, split_of
from data.views.recipes import Recipe
from data.views.splits import get_data_splits
from evaluation.effective_rank import COLLAPSED, effective_rank
from evaluation.features import Pixels, fingerprint, frozen, save_features
from evaluation.linear_probe import Sweep
from evaluation.probes import METHODS, draw_episodes
from evaluation.protocols import Judged, Method, judge, smallest_bank
from models import SimCLR, export_torchvision
from recipes.simclr import parts, validation
from recipes.simclr.options import OPTIONS, PROBE
from recipes.simclr.parts import Pictures, Say
from recipes.simclr.validation import EPISODE, Rows
from runtime import rundir
from runtime.distributed import gather_object
from runtime.options import tagged
from runtime.run import Run
from storage.dirs import data_home
from storage.errors import DiskError, UsageError, first_line
from storage.files import read_object, write_json
from storage.pictures import Captions
from storage.torchfile import write_torch

# What the figures of `final_probes` depend on, besides the network and its recipe.
FOLDS = 5  # where --folds is not given and no class is smaller
RANKED = 4096  # pictures whose features are looked at where there is nothing else to evaluate
NEIGHBOURS = (8, 8)  # pictures of a sheet, and how many stand in a row of it
ASKED = (*tagged(OPTIONS, PROBE), "precision", "seed")


class Found(NamedTuple):
    """What the probes gave.

    figures: by name. right: by name, which pictures held out (of train under cv) are right, bool
    [N]. sweeps: how l2 of the convex probe was chosen, fold by fold.
    """

    figures: dict[str, float]
    right: dict[str, Tensor]
    sweeps: list[Sweep]


def check(args: Namespace, trained: Pictures, say: Say) -> None:
    """UsageError now for an evaluation that could not be made at the end; --folds if not given."""
    given, args.folds = args.folds is not None, args.folds or FOLDS
    if len(trained.classes) < 2:
        say(
            f"{trained.name} has no classes: no kNN and no probes, but a sheet of neighbours; "
            "figures need a folder for each class"
        )
    else:
        counts = trained.labels.cpu().bincount(minlength=len(trained.classes))
        fewest = int(counts.min())
        which = f"class {trained.classes[int(counts.argmin())]!r} of {trained.name} has {fewest}"
        if args.eval == "cv" and not given and 1 < fewest < FOLDS:
            args.folds = fewest
            said = f"{which} pictures: {args.folds} folds instead of {FOLDS}"
            if args.probe and fewest == 2:
                args.probe = False
                said += ", and no linear probe, whose l2 is chosen on a second one outside of each"
            say(said)
        folds = args.folds if args.eval == "cv" else None
        if folds and fewest < folds:
            raise UsageError(
                f"{which} pictures, too few for --folds {folds}; "
                + (f"give --folds {fewest}" if fewest > 1 else "leave that class out")
            )
        if args.probe and smallest_bank(fewest, folds) < 2:
            kept = " outside of a fold" if folds else ""
            raise UsageError(f"{which} to fit on{kept}, and l2 is chosen on one; --no-probe")
    if args.probe and args.few_shot:
        novel = novel_source(args)
        known = set(novel.classes) & set(trained.classes)
        if known:
            say(
                f"--few_shot {args.few_shot}: {len(known)} of its {len(novel.classes)} classes are "
                f"among train's ({min(known)}, ...): episodes are not of novel classes alone"
            )
        try:
            draw_episodes(torch.from_numpy(labels_of(novel)), *EPISODE, first=0, count=1)
        except ValueError as error:
            raise UsageError(f"--few_shot {args.few_shot}: {error}") from None


def novel_source(args: Namespace) -> Source:
    """The pictures of --few_shot: a split of --data, or another data set."""
    home, split = args.data_path or data_home(), split_of(args.few_shot)
    if split is None:
        return open_source(args.few_shot, home)
    held: Any = get_data_splits(args.data, split, home)[1]
    return held


def evaluate(
    run: Run, net: SimCLR, trained: Pictures, tested: Pictures | None, recipe: Recipe
) -> dict[str, float]:
    """Figures of kNN, logged as eval/..., of held-out pictures or by cross-validation of train,
    and the effective rank of train's features.

    Of a set without classes the rank alone, of RANKED pictures. All ranks call it.
    """
    if len(trained.classes) < 2:
        count = min(RANKED, len(trained.images))
        some = trained.images[torch.arange(count) * len(trained.images) // count]
        with frozen(net):
            _log_rank(run, _features(run, net, some, recipe))
        return {}
    with frozen(net):
        rows = _embedded(run, net, trained, tested, recipe)
    _log_rank(run, rows.features)
    figures = _judged(run, rows, validation.knn(rows, folds=run.args.folds)).figures
    top = _top(figures)
    share = validation.majority(rows)
    run.log_now(acc_val=next(iter(top.values())), **{f"eval/{k}": v for k, v in top.items()})
    run.log_now(**{"eval/majority class": share})
    run.say(", ".join(f"{k} {v:.4f}" for k, v in top.items()) + f" (majority class {share:.4f})")
    return figures


def final_probes(
    run: Run, net: SimCLR | Pixels, trained: Pictures, tested: Pictures | None, recipe: Recipe
) -> dict[str, float]:
    """kNN, the convex probe, the probe on augmented pictures, episodes: after the loop, once.

    Logged as final/.... Written into the run's folder: probes.json {"figures", "asked", "step",
    "network", "l2" of the convex probe, fold by fold}, and right.pt: by name, which pictures of
    `tested` (of train under cv) are right, bool [N]. Once they are there for this network and these
    options, they are read. All ranks call it. A signal ends it; the same command begins it again.
    """
    file, network = run.dir / "probes.json", fingerprint(net)
    asked = {key: getattr(run.args, key) for key in ASKED} | {"recipe": recipe._asdict()}
    asked = rundir.plain(asked)
    known = gather_object(read_object(file))[0]
    if known and known.get("asked") == asked and known.get("network") == network:
        run.say(f"figures are in {file}")
        return known["figures"]
    with frozen(net):
        rows = _embedded(run, net, trained, tested, recipe)
        found = _probed(run, net, trained, rows, recipe)
    _show_neighbours(run, trained, rows)
    _log_rank(run, rows.features)
    _log(run, found, share=validation.majority(rows) if rows.classes > 1 else None)
    record = {"figures": found.figures, "asked": asked, "step": run.completed, "network": network}
    record["l2"] = [sweep.l2 for sweep in found.sweeps]
    if run.is_main:
        run.check_folder()
        try:
            _export(run, net, trained, tested, rows, network=network)
            write_torch(run.dir / "right.pt", found.right)
            write_json(file, record, indent=1)  # last: all the rest is there
        except (OSError, RuntimeError) as error:  # torch's own, where a file cannot be written
            said = first_line(error)
            raise DiskError(f"{run.dir}: figures not written: {said}") from None
    return found.figures


def _embedded(
    run: Run, net: SimCLR | Pixels, trained: Pictures, tested: Pictures | None, recipe: Recipe
) -> Rows:
    layer = "pixels" if isinstance(net, Pixels) else "h"
    encode = lambda images: _features(run, net, images, recipe)  # noqa: E731
    return validation.embedded(encode, trained, tested, layer)


def _features(run: Run, net: SimCLR | Pixels, images: Tensor, recipe: Recipe) -> Tensor:
    each = run.phase("features")
    return validation.features(net, images, recipe, run.device, run.precision.autocast, each)


def _log_rank(run: Run, h: Tensor) -> None:
    """The effective rank of features [N, d] into the logs, and a warning where they collapsed."""
    if not run.is_main:
        return
    rank = float(f"{effective_rank(h):.6g}")  # the last bits depend on where memory lies
    run.log_now(**{"health/effective_rank": rank})
    run.say(f"effective rank of the features: {rank:.1f} of {min(h.shape)}")
    if rank < COLLAPSED:
        run.say(
            "WARNING: the features have collapsed, nearly all of them lie on one line; a lower "
            "--lr, a longer warm-up (--n_ramp) or a larger --bs may help"
        )


def _judged(run: Run, rows: Rows, method: Method) -> Judged:
    folds, seed = run.args.folds, run.args.seed
    return judge(rows.features, rows.labels, [method], held=rows.held, folds=folds, seed=seed)


def _probed(run: Run, net: SimCLR | Pixels, trained: Pictures, rows: Rows, recipe: Recipe) -> Found:
    """All that is asked for, method by method."""
    args, found = run.args, Found({}, {}, [])
    methods: list[Method] = []
    if rows.classes > 1:
        methods.append(validation.knn(rows, folds=args.folds))
    if rows.classes > 1 and args.probe:
        methods.append(
            validation.linear(
                rows,
                seed=args.seed,
                found=found.sweeps.append,
                each=run.phase("linear probe", together=False),
            )
        )
    if rows.classes > 1 and args.probe and args.probe_epochs:
        own = recipe
        if args.probe_augs != "train":  # crop and flip
            own = recipe._replace(jitter_p=0.0, gray_p=0.0, blur_p=0.0)
        methods.append(
            validation.augmented(
                net,
                trained.images,
                rows,
                parts.views(args, own),
                name=args.probe_augs,
                epochs=args.probe_epochs,
                seed=args.seed,
                device=run.device,
                autocast=run.precision.autocast,
                each=run.phase("probe on augmented pictures"),
            )
        )
    for method in methods:
        judged = _judged(run, rows, method)
        found.figures.update(judged.figures)
        found.right.update(judged.right)
        run.check_preempted()
    if args.probe and args.few_shot:
        novel = parts.in_memory(args, novel_source(args), run, whole=True)
        h = _features(run, net, novel.images, recipe)
        labels = novel.labels.to(h.device)
        for shots, head in product((1, EPISODE[1]), METHODS):
            found.figures.update(validation.episodes(h, labels, shots, head, args.seed))
            run.check_preempted()
    return found


def _log(run: Run, found: Found, *, share: float | None) -> None:
    """Into the logs what was found, and on the screen; share: the majority class's, if any."""
    top = _top(found.figures)
    if top:
        named = {f"final/{name}": value for name, value in top.items()}
        run.log_now(**({"acc_val": next(iter(top.values()))} if share is not None else {}), **named)
    for key, value in top.items():
        name = key.removesuffix(" acc1")
        low, high = found.figures.get(f"{name} low"), found.figures.get(f"{name} high")
        interval = f" [{low:.4f}, {high:.4f}]" if low is not None else ""
        run.say(f"{name}: {value:.4f}{interval}")
    for sweep in found.sweeps:
        if sweep.at_edge:
            run.say(f"linear: l2 {sweep.l2:g} is at the edge of those tried")
    if share is not None:
        run.log_now(**{"final/majority class": share})
        run.say(f"validation: {validation.verdict(found.figures, share)}")


def _show_neighbours(run: Run, trained: Pictures, rows: Rows) -> None:
    """A sheet: pictures evenly spaced over train, each before those nearest to it by cosine."""
    if not run.is_main:
        return
    count, (height, width) = len(rows.features), NEIGHBOURS
    shown = torch.arange(min(height, count), device=rows.features.device) * count
    shown = shown // min(height, count)
    h = torch.nn.functional.normalize(rows.features)
    near = (h[shown] @ h.T).topk(min(width, count)).indices
    pictures = parts.images_at(trained.images, near.flatten(), run.device)
    names = ["picture", *(f"nearest {k}" for k in range(1, near.shape[1]))]
    title = f"pictures of {trained.name} and those most like them, by the cosine of {rows.layer}"
    captions = Captions(title, names)
    run.sample_grid("neighbours", pictures.float() / 255, near.shape[1], captions)


def _top(figures: dict[str, float]) -> dict[str, float]:
    """The top-1 accuracies among figures."""
    return {name: value for name, value in figures.items() if name.endswith(" acc1")}


def _export(
    run: Run,
    net: SimCLR | Pixels,
    trained: Pictures,
    tested: Pictures | None,
    rows: Rows,
    *,
    network: str,
) -> None:
    """Features and backbone, where they are asked for; network: its fingerprint."""
    if run.args.export_features:
        folder = run.dir / "features"
        folder.mkdir(exist_ok=True)
        export = {"train": (trained, rows.features)}
        if tested is not None and rows.held is not None:
            export["held"] = (tested, rows.held[0])
        for name, (pictures, h) in export.items():
            facts = {"layer": rows.layer, "snapshot": network, "dataset": pictures.name}
            save_features(folder / f"{name}.safetensors", h, pictures.labels, **facts)
    if run.args.export_backbone and isinstance(net, SimCLR):
        write_torch(run.dir / f"{run.args.backbone}-torchvision.pt", export_torchvision(net))
