"""What networks of train_ddpm.py are worth, in figures: `python -m benchmarks.ddpm_runs PART ...`.

digits     --net RUN: pictures by class, of which a classifier of real ones says whether they show
           the class that was asked for. A sheet of them.
bounds     --net RUN [RUN ...]: bits a dimension of held-out pictures, with the variance that the
           network has learned and with the fixed ones; the same pictures and noise for all.
samplers   --net RUN: Frechet distance (FD) of that classifier's features between samples and the
           held-out pictures, by sampler and number of evaluations of the network.
layouts    --net RUN: is what was asked for where it was asked for? A classifier of real objects'
           crops looks into the boxes of samples. Chance is what it finds in the boxes of another
           picture's layout; what it finds in the real pictures is as much as it can find.
best_of    seconds of a training step by --best_of_k (no network is needed).

Every piece is kept in --out when it is measured, so that the same command goes on where it was
stopped. `--quick`: does it run?
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.imle_setup import add_running, begin, parser_of
from benchmarks.layout_attention import seconds
from data.labelled import LabelledImages
from data.layout_images import LayoutImages
from data.layout_registry import open_layouts
from data.registry import open_source
from diffusion.ddpm_generate import Drawing, make_betas
from diffusion.ddpm_rows import KeyedRandn
from diffusion.ddpm_samplers import SAMPLERS
from diffusion.encoders import make_encoder
from diffusion.gaussian import Gaussian
from diffusion.gaussian_loss import bits_per_dim
from diffusion.schedule_sampler import UniformSampler
from evaluation.classes import classification
from evaluation.crops import box_crops
from evaluation.frechet import FeatureStats, Moments, frechet_distance
from evaluation.intervals import mean_interval, mean_share_interval, paired_t
from generators.ddpm import DDPM, KIND
from generators.door import open_generator
from models.ddpm import UNet
from recipes.ddpm.step import Objective, Rows
from runtime.counter_rng import mix
from storage.dirs import data_home
from storage.errors import DataError, RunError
from storage.files import make_folder, read_object, write_json
from storage.find import find_network
from storage.layout_pictures import layout_maps, with_boxes
from storage.pictures import Captions, save_sheet
from storage.snapshot import load_snapshot, save_snapshot

FIXED = ("fixed_small", "fixed_large")
CROP, LEAST = 16, 3  # side that crops of objects are brought to, and that they have at least
FEATURES = 32


class Judge(nn.Module):
    """A small classifier: x [B, C, S, S] in [-1, 1] -> features [B, 32] and logits [B, classes]."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 32, 3, padding=1)
        self.third = nn.Linear(32 * (size // 4) ** 2, FEATURES)
        self.last = nn.Linear(FEATURES, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for conv in (self.first, self.second):
            x = F.max_pool2d(F.relu(conv(x)), 2)
        features = F.relu(self.third(x.flatten(1)))
        return features, self.last(features)


def judge(file: Path, x: Tensor, y: Tensor, classes: int, args: argparse.Namespace) -> Judge:
    """The classifier of pictures x uint8 [n, C, S, S] with labels y, kept in `file`."""
    torch.manual_seed(args.seed)
    net = Judge(x.shape[1], x.shape[2], classes)
    if file.is_file():
        net.load_state_dict(load_snapshot(file).state_dict)
        return net.eval()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(args.seed)
    for _ in range(args.epochs):
        for rows in torch.randperm(len(x), generator=generator).split(128):
            optimizer.zero_grad()
            F.cross_entropy(net(signed(x[rows]))[1], y[rows]).backward()
            optimizer.step()
    save_snapshot(file, net.state_dict(), "benchmark-judge", {"classes": classes}, {})
    return net.eval()


@torch.no_grad()
def judged(net: Judge, x: Tensor) -> tuple[Tensor, Tensor]:
    """Features and logits of pictures uint8 [n, C, S, S]."""
    parts = [net(signed(part)) for part in x.split(512)]
    features, logits = (torch.cat(each) for each in zip(*parts, strict=True))
    return features, logits


def signed(x: Tensor) -> Tensor:
    """uint8 -> [-1, 1]."""
    return x.float() / 127.5 - 1


def pictures_of(
    args: argparse.Namespace, net: DDPM, split: str, most: int | None = None
) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [n, C, S, S] of a split, as the network has them, and their classes; `most`
    of them, evenly over the split."""
    source = open_source(f"{args.data}/{split}", data_home())
    images = LabelledImages(source, net.resolution)
    count = min(most or len(images), len(images))
    items = [images[k * len(images) // count] for k in range(count)]
    x = torch.stack([image for _, image, _ in items])[:, : net.channels]
    return x, torch.tensor([label for *_, label in items])


def network(args: argparse.Namespace, word: str) -> tuple[DDPM, str]:
    """The network that a word names, and its file's name with its run's."""
    file = find_network(word, "train_ddpm")
    net = cast(DDPM, open_generator(file, kinds=[KIND], device=args.device, say=lambda line: None))
    return net, f"{file.parent.parent.name}/{file.stem}"


def kept(
    args: argparse.Namespace, name: str, asked: dict[str, Any], make: Callable[[], Any]
) -> Any:
    """What `make` gives, or what an earlier call with the same `asked` and the same data and judge
    has left in --out."""
    file = args.out / f"{name}.json"
    of_judge = ("data", "split", "train", "held_out", "epochs", "max_objects", "seed")
    asked = asked | {option: getattr(args, option) for option in of_judge}
    found = read_object(file) if file.is_file() else None
    if found is None or found.get("asked") != asked:
        found = {"asked": asked, "found": make()}
        write_json(file, found, indent=1)
    return found["found"]


# ------------------------------------------------------------------------------------- digits


def digit_judge(args: argparse.Namespace, net: DDPM) -> tuple[Judge, Tensor, Tensor]:
    """The classifier of the training split, and its features of and accuracy on held-out ones."""
    x, y = pictures_of(args, net, "train", args.train)
    seen = f"{args.train or 'all'}-{args.epochs}-{args.seed}"
    found = judge(judge_file(args, net, seen), x, y, len(net.classes), args)
    held, labels = pictures_of(args, net, args.split, args.held_out)
    features, logits = judged(found, held)
    return found, features, (logits.argmax(1) == labels).float().mean()


def judge_file(args: argparse.Namespace, net: DDPM, seen: str, of: str = "") -> Path:
    """Where a classifier of --data is kept, which may be a path."""
    data = args.data.strip("/").replace("/", "-")
    return args.out / f"judge-{data}-{of}{net.resolution}-{seen}.safetensors"


def digits(args: argparse.Namespace) -> None:
    """As many samples a class as --each, judged."""
    net, name = network(args, args.net[0])
    classes = len(net.classes)
    found, _, right = digit_judge(args, net)
    how = Drawing(args.sampler, args.steps, guidance=args.guidance, clip=net.clip)
    labels = torch.arange(classes).repeat(args.each)

    def measure() -> dict[str, Any]:
        x = net.draw(len(labels), seed=args.seed, labels=labels.tolist(), drawing=how, batch=50)
        x = x[:, : net.channels]
        result = classification(judged(found, x)[1], labels, top=(1,))
        shown = x[: 10 * classes].unflatten(0, (-1, classes)).transpose(0, 1).flatten(0, 1)
        captions = Captions(f"{name}: samples by class", rows=net.classes)
        save_sheet(args.out / "digits.png", shown.float() / 255, len(shown) // classes, captions)
        return {"accuracy": list(result.accuracy[1]), "per_class": result.per_class[1].tolist()}

    asked = {"net": name, "each": args.each, "seed": args.seed, "how": vars(how)}
    figures = kept(args, "digits", asked, measure)
    share, low, high, n = figures["accuracy"]
    print(f"{name}: {how.sampler}, {how.steps} steps, guidance {how.guidance:g}")
    print(f"the classifier is right about {100 * right:.1f} % of held-out pictures")
    print(f"as asked: {100 * share:.1f} % ({100 * low:.1f} to {100 * high:.1f}) of {n} samples, "
          f"{args.each} a class\n")  # fmt: skip
    print(f"| {' | '.join(net.classes)} |\n|{'---|' * classes}")
    print(f"| {' | '.join(f'{100 * v:.0f} %' for v in figures['per_class'])} |")


# ------------------------------------------------------------------------------------- bounds


class Remembered:
    """A network that is asked once at each step: the same x_t comes with every variance."""

    def __init__(self, net: nn.Module) -> None:
        self.net, self.known = net, dict[float, Tensor]()
        self.channels = 0  # of the output that are wanted; 0: all

    def __call__(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        key = float(t[0])
        if key not in self.known:
            self.known[key] = self.net(x, t, **cond)
        return self.known[key][:, : self.channels or None]


def with_variance(net: DDPM, variance: str) -> Gaussian:
    """The network's diffusion with another variance."""
    own = net.gaussian
    return Gaussian(
        own.betas, prediction_type=own.prediction_type, variance_type=variance,
        time_input=own.time_input,
    )  # fmt: skip


@torch.no_grad()
def bound_rows(net: DDPM, x0: Tensor, labels: Tensor, chunk: int) -> dict[str, Any]:
    """{variance: {"total": of each picture, "vb": mean of each step}}."""
    own = [net.gaussian.variance_type] if net.gaussian.learned else []
    found: dict[str, Any] = {v: {"total": [], "vb": 0.0} for v in (*own, *FIXED)}
    for rows in torch.arange(len(x0)).split(chunk):
        asked = Remembered(net.net.eval())
        for variance, figures in found.items():
            asked.channels = 0 if variance in own else x0.shape[1]
            bits = bits_per_dim(
                asked, with_variance(net, variance), x0[rows],
                cond={"y": labels[rows]} if net.classes else {}, randn=KeyedRandn(mix(rows)),
            )  # fmt: skip
            figures["total"] += bits["total"].tolist()
            figures["vb"] = figures["vb"] + bits["vb"].double().sum(0) / len(x0)
    for figures in found.values():
        figures["vb"] = figures["vb"].tolist()
    return found


def bounds(args: argparse.Namespace) -> None:
    """Bits a dimension of --pictures held-out pictures for each of --net."""
    tables: dict[tuple[str, str], dict[str, Any]] = {}
    for word in args.net:
        net, name = network(args, word)
        x, y = pictures_of(args, net, args.split, args.pictures)
        asked = {"net": name, "pictures": len(x), "split": args.split, "data": args.data}
        piece = f"bounds-{name.replace('/', '-')}"
        found = kept(args, piece, asked, partial(bound_rows, net, signed(x), y, 16))
        tables |= {(name, variance): figures for variance, figures in found.items()}
    first = next(iter(tables.values()))
    last = len(first["vb"]) - 1
    print(f"n = {len(first['total'])} pictures of {args.data}/{args.split}, all {last + 1} steps\n")
    print("| network | variance | bits/dim | less than the first | steps 0 | 1-9 | 10-99 | rest |")
    print("|---|---|---|---|---|---|---|---|")
    for (name, variance), figures in tables.items():
        vb, total = torch.tensor(figures["vb"]), figures["total"]
        parts = [vb[0], vb[1:10].sum(), vb[10:100].sum(), vb[100:].sum()]
        less = "" if figures is first else _less(total, first["total"])
        mean, low, high, _ = mean_interval(total)
        print(f"| {name} | {variance} | {mean:.3f} ({low:.3f} to {high:.3f}) | {less} | "
              f"{' | '.join(f'{float(p):.3f}' for p in parts)} |")  # fmt: skip


def _less(total: list[float], first: list[float]) -> str:
    difference, low, high, *_ = paired_t(first, total)
    return f"{difference:.3f} ({low:.3f} to {high:.3f})"


# ----------------------------------------------------------------------------------- samplers


class Counted:
    """Counts a network's evaluations while it is open."""

    def __init__(self, net: nn.Module) -> None:
        self.count = 0
        self.handle = net.register_forward_pre_hook(self._one)

    def _one(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        self.count += 1


def steps_of(sampler: str, evaluations: int) -> int:
    """Steps of a sampler that need at most so many evaluations."""
    return {"heun": (evaluations + 1) // 2, "plms": evaluations - 1}.get(sampler, evaluations)


def samplers(args: argparse.Namespace) -> None:
    """FD of --pictures samples by sampler and evaluations."""
    net, name = network(args, args.net[0])
    found, held, _ = digit_judge(args, net)
    reference = moments(held)
    labels = (torch.arange(args.pictures) % len(net.classes)).tolist()

    def measure(sampler: str, steps: int) -> dict[str, float]:
        counted = Counted(net.net)
        how = Drawing(sampler, steps, clip=net.clip)
        x = net.draw(args.pictures, seed=args.seed, labels=labels, drawing=how, batch=64)
        counted.handle.remove()
        features, logits = judged(found, x[:, : net.channels])
        right = (logits.argmax(1) == torch.tensor(labels)).float().mean()
        return {
            "fd": frechet_distance(moments(features), reference), "right": float(right),
            "evaluations": counted.count / -(-args.pictures // 64),
        }  # fmt: skip

    def cell(sampler: str, steps: int) -> str:
        asked = {"net": name, "pictures": args.pictures, "seed": args.seed}
        found = kept(args, f"samplers-{sampler}-{steps}", asked, lambda: measure(sampler, steps))
        print(f"{sampler} {steps}: {found}", flush=True)
        return f"{found['fd']:.2f} ({100 * found['right']:.0f} %)"

    lines = []
    for sampler in SAMPLERS:
        cells = [cell(sampler, steps_of(sampler, k)) for k in args.evaluations]
        lines.append(f"| {' | '.join([sampler, *cells])} |")
    long = cell("ddpm", args.ddpm_steps)
    x, y = pictures_of(args, net, "train", args.pictures)
    features, logits = judged(found, x)
    real = frechet_distance(moments(features), reference)
    print(f"\n{name}: FD of n = {args.pictures} samples to {args.data}/{args.split}; in brackets "
          "how many are of the class asked for")  # fmt: skip
    print(f"ddpm with {args.ddpm_steps} steps: {long}; as many real pictures: {real:.2f} "
          f"({100 * float((logits.argmax(1) == y).float().mean()):.0f} %)\n")  # fmt: skip
    print(f"| sampler | {' | '.join(f'{k} evaluations' for k in args.evaluations)} |")
    print("\n".join([f"|{'---|' * (1 + len(args.evaluations))}", *lines]))


def moments(features: Tensor) -> Moments:
    """Mean and covariance of features [n, 32]."""
    stats = FeatureStats(features.shape[1])
    stats.update(features)
    return stats.moments()


# ------------------------------------------------------------------------------------ layouts


def crops(images: Tensor, boxes: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What is in the boxes [n, N, 4] of images uint8 [n, C, S, S]: crops [m, C, 16, 16], their
    classes and the images they are of. Boxes of fewer than 3 pixels a side are left out."""
    parts, labels, owners = [], [], []
    for i, image in enumerate(images):
        real = classes[i] >= 0
        corners = torch.cat([boxes[i][:, :2], boxes[i][:, :2] + boxes[i][:, 2:]], 1)[real]
        inside, which = box_crops(image, corners, min_side=LEAST)
        for crop in inside:
            large = F.interpolate(crop[None].float(), (CROP, CROP), mode="bilinear")
            parts.append(large.round().byte()[0])
        labels.append(classes[i][real][which])
        owners.append(torch.full((len(which),), i))
    return torch.stack(parts), torch.cat(labels), torch.cat(owners)


def scenes_of(args: argparse.Namespace, net: DDPM, split: str, most: int) -> Any:
    """A batch of the first pictures of a layout set's split, with their layouts."""
    source = open_layouts(f"{args.data}/{split}", data_home())
    images = LayoutImages(source, net.resolution, max_objects=args.max_objects)
    return images.collate([images[i] for i in range(min(most, len(images)))])


def layouts(args: argparse.Namespace) -> None:
    """How many boxes of samples hold what was asked for there."""
    net, name = network(args, args.net[0])
    real = scenes_of(args, net, "train", args.train or 4096)
    seen = f"{args.train}-{args.epochs}-{args.seed}-{args.max_objects}"
    x, y, _ = crops(real.image, real.boxes, real.classes)
    found = judge(judge_file(args, net, seen, "crops-"), x, y, len(net.objects), args)
    batch = scenes_of(args, net, args.split, args.pictures)
    n = len(batch.image)
    how = Drawing(args.sampler, args.steps, guidance=args.guidance, clip=net.clip)
    given = [b[c >= 0] for b, c in zip(_rows(batch), batch.classes, strict=True)]

    def measure() -> dict[str, Any]:
        layout = net.layouts(given * args.each)
        drawn = net.draw(n * args.each, seed=args.seed, layout=layout, drawing=how, batch=32)
        plain = net.draw(n, seed=args.seed, layout=net.layouts([b[:0] for b in given]),
                         drawing=Drawing(how.sampler, how.steps, clip=net.clip))  # fmt: skip
        show_layouts(args, net, batch, drawn)
        other = torch.arange(n).roll(-1)
        asked, shuffled = (batch.boxes, batch.classes), (batch.boxes[other], batch.classes[other])
        groups = drawn.split(n)
        figures = {
            "real pictures": inside(found, [batch.image], batch.image, *asked),
            "samples": inside(found, groups, batch.image, *asked),
            "samples, layouts shuffled": inside(found, groups, batch.image[other], *shuffled),
            "samples without a layout": inside(found, [plain], batch.image, *asked),
        }
        commonest = y.bincount(minlength=len(net.objects)).argmax()
        one, labels, _ = crops(batch.image, *asked)
        return {"rows": figures, "commonest": float((labels == commonest).float().mean()),
                "boxes": len(one)}  # fmt: skip

    asked = {"net": name, "pictures": n, "each": args.each, "seed": args.seed, "how": vars(how),
             "split": args.split, "data": args.data}  # fmt: skip
    result = kept(args, "layouts", asked, measure)
    print(f"{name}: n = {n} layouts of {args.data}/{args.split} ({result['boxes']} boxes of at "
          f"least {LEAST} pixels a side), {args.each} samples a layout")  # fmt: skip
    print(f"{how.sampler}, {how.steps} steps, guidance {how.guidance:g}; of {len(net.objects)} "
          f"classes the commonest is asked for in {100 * result['commonest']:.1f} %\n")  # fmt: skip
    print("| boxes of | class as asked | mean over classes | colour error |\n|---|---|---|---|")
    for row, (share, low, high, by_class, colour) in result["rows"].items():
        print(f"| {row} | {100 * share:.1f} % ({100 * low:.1f} to {100 * high:.1f}) | "
              f"{100 * by_class:.1f} % | {colour:.3f} |")  # fmt: skip


def _rows(batch: Any) -> list[Tensor]:
    """[N, 5] of each picture: boxes with their classes."""
    return list(torch.cat([batch.boxes, batch.classes[..., None].float()], 2))


def inside(
    net: Judge, groups: Sequence[Tensor], real: Tensor, boxes: Tensor, classes: Tensor
) -> list[float]:
    """Of the boxes of pictures: share with the class asked for and its interval (over layouts), the
    mean of that over classes, and how far the mean colour is from that of the real picture there.

    groups: pictures uint8 [n, 3, S, S], each with the same layouts; real: of those layouts.
    """
    wanted = crops(real, boxes, classes)[0].float().mean((2, 3)) / 255
    right, colour, labels, owners = [], [], [], []
    for images in groups:
        x, y, owner = crops(images, boxes, classes)
        right.append((judged(net, x)[1].argmax(1) == y).double())
        colour.append((x.float().mean((2, 3)) / 255 - wanted).square().mean(1).sqrt())
        labels.append(y)
        owners.append(owner)
    hits, y, owner = torch.cat(right), torch.cat(labels), torch.cat(owners)
    of_layout = [float(hits[owner == i].mean()) for i in owner.unique().tolist()]
    _, low, high, _ = mean_share_interval(of_layout)
    by_class = [float(hits[y == c].mean()) for c in y.unique().tolist()]
    return [
        float(hits.mean()),
        low,
        high,
        statistics.mean(by_class),
        float(torch.cat(colour).mean()),
    ]


def show_layouts(args: argparse.Namespace, net: DDPM, batch: Any, drawn: Tensor) -> None:
    """A sheet: layouts, the pictures they are of, samples with their boxes and without."""
    few = min(8, len(batch.image))
    boxes, classes = batch.boxes[:few], batch.classes[:few]
    real, samples = batch.image[:few].float() / 255, drawn[:few].float() / 255
    framed = with_boxes(samples, boxes, classes, net.objects)
    size = framed.shape[-1]
    maps = layout_maps(boxes, classes, net.objects, size=size)
    real, samples = (F.interpolate(t, (size, size), mode="nearest") for t in (real, samples))
    each = torch.stack([maps, real, framed, samples], 1).flatten(0, 1)
    columns = ["layout", "the picture it is of", "sample, boxes drawn", "sample"]
    save_sheet(args.out / "layouts.png", each, 4, Captions("", columns))


# ------------------------------------------------------------------------------------ best_of


def best_of(args: argparse.Namespace) -> None:
    """Seconds of a training step, forward, backward and Adam, by how many noises are tried."""
    torch.manual_seed(args.seed)
    net = UNet(
        1, 1, model_channels=args.channels, channel_mult=(1, 2, 2), num_res_blocks=1,
        attention_resolutions=(4,), num_heads=4, use_scale_shift_norm=True,
    ).to(args.device)  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 1e-4)
    how = Objective(
        make_encoder({"name": "rgb"}), Gaussian(make_betas("linear", 1000)), UniformSampler(1000),
        nullcontext, gray=True,
    )  # fmt: skip
    rows = random_rows(args)

    def step(count: int) -> None:
        optimizer.zero_grad()
        noise = how.best_noise(net, rows, count, 0.0) if count > 1 else None
        how.row_losses(net, rows, noise).loss.mean().backward()
        optimizer.step()

    took: dict[int, list[float]] = {k: [] for k in args.best_of_k}
    for turn in range(args.repeats + 1):
        for k in took:
            spent = seconds(partial(step, k), torch.device(args.device))
            if turn:  # the first one pays for what is loaded at first use
                took[k].append(spent)
    print(f"{sum(p.numel() for p in net.parameters()):,} parameters, batch {len(rows.keys)} of "
          f"{args.res} x {args.res}\n")  # fmt: skip
    print("| K | median s a step | times K = 1 |\n|---|---|---|")
    for k, times in took.items():
        ratios = [a / b for a, b in zip(times, took[args.best_of_k[0]], strict=True)]
        print(f"| {k} | {statistics.median(times):.3f} | {statistics.median(ratios):.2f} "
              f"({min(ratios):.2f}-{max(ratios):.2f}) |")  # fmt: skip


def random_rows(args: argparse.Namespace) -> Rows:
    """Rows of noise for a batch of --batch."""
    n, none = args.batch, torch.zeros(args.batch, 0, dtype=torch.int64)
    raw = torch.randint(256, (n, 3, args.res, args.res)).byte()
    keys = mix(torch.arange(n))
    labels, boxes, maps = none.sum(1), torch.zeros(n, 0, 4), none[:, :, None]
    found = Rows(torch.arange(n), raw, labels, keys, boxes, none, maps, maps[..., None].bool())
    return Rows(*(t.to(args.device) for t in found))


PARTS = {
    "digits": digits, "bounds": bounds, "samplers": samplers, "layouts": layouts,
    "best_of": best_of,
}  # fmt: skip
SETS = {"layouts": ("scenes", "val")}  # what data a part looks at, if not MNIST


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--net", nargs="+", default=[], help="runs or snapshots of train_ddpm.py")
    parser.add_argument("--out", type=Path, default=Path("ddpm_runs"), help="figures and sheets")
    parser.add_argument("--data", default=None, help="(default: mnist; scenes for layouts)")
    parser.add_argument("--split", default=None, help="held out (default: test; val for layouts)")
    parser.add_argument("--train", type=int, default=None, help="pictures the classifier sees")
    parser.add_argument("--held_out", type=int, default=None, help="pictures that FD is to (all)")
    parser.add_argument("--epochs", type=int, default=3, help="of the classifier")
    parser.add_argument("--each", type=int, default=2, help="samples a class, a layout")
    parser.add_argument("--pictures", type=int, default=256, help="samples, layouts, held out")
    parser.add_argument("--sampler", default="ddim")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--evaluations", nargs="+", type=int, default=[5, 10, 20, 50])
    parser.add_argument("--ddpm_steps", type=int, default=250)
    parser.add_argument("--max_objects", type=int, default=12, help="boxes of a layout")
    parser.add_argument("--best_of_k", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--channels", type=int, default=32, help="of best_of's network")
    parser.add_argument("--res", type=int, default=28, help="of best_of's pictures")
    parser.add_argument("--batch", type=int, default=32, help="of best_of's step")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of best_of")
    add_running(parser)
    args = parser.parse_args(argv)
    data, split = SETS.get(args.part, ("mnist", "test"))
    args.data, args.split = args.data or data, args.split or split
    if not args.net and args.part != "best_of":
        parser.error(f"{args.part}: which network? --net RUN")
    if args.quick:
        args.train, args.held_out, args.pictures, args.steps, args.each = 64, 16, 16, 2, 1
        args.evaluations, args.ddpm_steps, args.batch, args.repeats = [3], 4, 2, 1
        args.best_of_k, args.channels, args.res, args.epochs = [1, 2], 8, 8, 1
    make_folder(args.out)
    begin(args)
    try:
        PARTS[args.part](args)
    except (RunError, DataError) as error:
        sys.exit(f"ddpm_runs: {error}")


if __name__ == "__main__":
    main()
