"""Seconds of a Frechet distance, and features a second: `python -m benchmarks.metrics`.

Of a Frechet distance from moments:

ours     evaluation.frechet: singular values of the product of two triangular factors.
eig      roots of the eigenvalues of the product of the covariances, as torch-fidelity has it.
sqrtm    scipy's root of that product, as the first public code of FID and NVIDIA's have it.

On the CPU: `--threads` threads (1), their processor time (other work on the machine does not
count), the methods in turns, medians. The last column is the difference to ours, relative. The
features are `--rows` rows of rectified random projections: not negative, correlated and of full
rank, as Inception's are. Another line is the moments of such features, ours against numpy's.
scipy and torch-fidelity are needed (requirements-dev.txt). `--quick`: does it run?

Of intervals: every figure of such features with its 95 % interval against the figure alone.

Of features: pictures a second of InceptionV3 on `--pictures` PNGs of `--side` px in a folder, read,
resized and embedded as `calculate_metrics.py` does (with the resizing of torch-fidelity's network,
so that the results are equal; the last column is how far they are) against torch-fidelity's own
extraction of the same folder. Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.imle_setup import add_running, begin, parser_of
from data.registry import open_source
from data.scenes import Scenes
from evaluation.bootstrap import frechet_groups, frechet_interval
from evaluation.classes import inception_score, inception_score_replicates
from evaluation.extractors import Request, open_extractor
from evaluation.extractors.inception import InceptionV3
from evaluation.frechet import FeatureStats, Moments, frechet_distance
from evaluation.kernel_distance import kid_groups, kid_subsets
from evaluation.likelihood import fld, fld_replicates
from evaluation.manifolds import prdc, prdc_replicates
from evaluation.memorisation import memorisation, memorisation_replicates
from evaluation.replicates import interval
from recipes.metrics.passing import look
from recipes.metrics.pictures import Stored
from storage.files import writing

Part = Callable[[argparse.Namespace, torch.device], list[str]]


def features(rows: int, dim: int, seed: int) -> Tensor:
    """[rows, dim] fp32, with other projections' scale for another seed."""
    generator = torch.Generator().manual_seed(0)
    project = torch.randn(dim // 4, dim, generator=generator) / (dim // 4) ** 0.5
    generator.manual_seed(seed)
    hidden = torch.randn(rows, dim // 4, generator=generator) * (1 + 0.1 * seed)
    return (hidden @ project).relu_()


def ours_moments(x: Tensor) -> Moments:
    stats = FeatureStats(x.shape[1], x.device)
    for batch in x.split(1000):
        stats.update(batch)
    return stats.moments()


def numpy_moments(x: Tensor) -> Moments:
    array = x.double().cpu().numpy()
    mean, cov = array.mean(0), np.cov(array, rowvar=False)
    return Moments(torch.from_numpy(mean), torch.from_numpy(cov), len(x))


def by_eig(a: Moments, b: Moments) -> float:
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    stats = [{"mu": m.mean.numpy(), "sigma": m.cov.numpy()} for m in (a, b)]
    return fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]


def by_sqrtm(a: Moments, b: Moments) -> float:
    from scipy.linalg import sqrtm

    root = sqrtm(a.cov.numpy() @ b.cov.numpy())
    gap = (a.mean - b.mean).square().sum()
    return float(gap + a.cov.trace() + b.cov.trace()) - 2 * float(np.trace(root).real)


def turns(
    methods: Mapping[str, Callable[[], object]], args: argparse.Namespace, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, object]]:
    """({method: seconds of each turn}, {method: result}), the methods one after the other."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    took: dict[str, list[float]] = {name: [] for name in methods}
    results: dict[str, object] = {}
    for _ in range(args.repeats):
        for name, method in methods.items():
            began = clock()
            results[name] = method()
            took[name].append(clock() - began)
    return took, results


def rows_of(took: Mapping[str, list[float]], last: Mapping[str, str], what: str) -> list[str]:
    """Lines of the table; ratios are over the first method's seconds of the same turn."""
    ours, lines = next(iter(took.values())), []
    for name, seconds in took.items():
        ratios = [a / b for a, b in zip(seconds, ours, strict=True)]
        lines.append(
            f"| {what} | {name} | {statistics.median(seconds):.3f} | "
            f"{statistics.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f}) | "
            f"{last.get(name, '')} |"
        )
    return lines


def frechet(args: argparse.Namespace, device: torch.device) -> list[str]:
    """Moments and distances of two sets of features."""
    x, y = (features(args.rows, args.dim, seed).to(device) for seed in (0, 1))
    what = f"{args.rows} x {args.dim}"
    took, results = turns(
        {"ours": lambda: ours_moments(x), "numpy": lambda: numpy_moments(x)}, args, device
    )
    table = [
        "| features | method | median s | times ours | difference |",
        "|---|---|---|---|---|",
        *rows_of(took, {}, f"{what}, moments"),
    ]
    first, second = results["ours"], ours_moments(y)
    assert isinstance(first, Moments)
    took, results = turns(
        {
            "ours": lambda: frechet_distance(first, second),
            "eig": lambda: by_eig(first, second),
            "sqrtm": lambda: by_sqrtm(first, second),
        },
        args,
        device,
    )
    distances = {name: float(str(value)) for name, value in results.items()}
    own = distances.pop("ours")
    far = {name: f"{abs(value / own - 1):.0e}" for name, value in distances.items()}
    return table + rows_of(took, far, f"{what}, distance {own:.6g}")


def features_per_second(args: argparse.Namespace, device: torch.device) -> list[str]:
    """Pictures of a folder to features of InceptionV3, ours against torch-fidelity's."""
    from torch_fidelity import utils

    with tempfile.TemporaryDirectory(prefix="imle-lab-metrics-") as home:
        folder, weights = Path(home) / "pictures", Path(home) / "inception.pth"
        write_pictures(folder, args.pictures, args.side)
        torch.manual_seed(0)
        with writing(weights) as file:
            torch.save(InceptionV3().state_dict(), file)
        own = open_extractor("inception", Request(weights=weights, resize="tf1", device=device))
        other = utils.create_feature_extractor(
            "inception-v3-compat", ["2048"], cuda=device.type == "cuda", verbose=False,
            feature_extractor_weights_path=str(weights),
        )  # fmt: skip

        def ours() -> Tensor:
            pictures = Stored(open_source(str(folder), Path(home)), workers=args.workers)
            seen = look(pictures, {"inception": own}, batch=args.batch)
            return seen.features["inception"]

        def theirs() -> Tensor:
            data = utils.prepare_input_from_id(1, input1=str(folder), verbose=False)
            found = utils.get_featuresdict_from_dataset(
                data, other, args.batch, device.type == "cuda", True, False
            )
            return found["2048"]

        took, results = turns({"ours": ours, "torch-fidelity": theirs}, args, device)
    one, two = (results[name] for name in took)
    assert isinstance(one, Tensor) and isinstance(two, Tensor)
    far = {"torch-fidelity": f"{(one - two).abs().max() / two.abs().max():.0e}"}
    what = f"{args.pictures} PNGs of {args.side} px, batch {args.batch}"
    rates = {name: args.pictures / statistics.median(seconds) for name, seconds in took.items()}
    return [
        "| pictures | method | median s | times ours | difference |",
        "|---|---|---|---|---|",
        *rows_of(took, far, what),
        "",
        ", ".join(f"{name} {rate:.2f} pictures a second" for name, rate in rates.items()),
    ]


def write_pictures(folder: Path, count: int, side: int) -> None:
    """Scenes as PNGs."""
    from PIL import Image

    folder.mkdir(parents=True)
    scenes = Scenes(split="train")
    for i in range(count):
        with writing(folder / f"{i:05d}.png", durable=False) as file:
            Image.fromarray(scenes.native(i, side)).save(file, "PNG")


def intervals(args: argparse.Namespace, device: torch.device) -> list[str]:
    """Figures with their intervals, against the figures alone."""
    x, y = (features(args.rows, args.dim, seed).to(device) for seed in (0, 1))
    held, logits = y[: args.rows // 4] + 0.01, x[:, : min(args.dim, 1000)]
    other = ours_moments(y)
    figure = frechet_distance(ours_moments(x), other)
    far = memorisation(x, y, held)
    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "fd, bootstrap": (
            lambda: frechet_distance(ours_moments(x), other),
            lambda: frechet_interval(x, other),
        ),
        "fd, groups": (
            lambda: frechet_distance(ours_moments(x), other),
            lambda: interval(figure, frechet_groups(x, other), len(x)),
        ),
        "kid": (
            lambda: kid_subsets(x, y, subset_size=min(1000, args.rows)),
            lambda: (
                kid_subsets(x, y, subset_size=min(1000, args.rows)),
                kid_groups(x, y),
            ),
        ),
        "prdc": (lambda: prdc(x, y), lambda: prdc_replicates(x, y)),
        "is": (
            lambda: inception_score(logits),
            lambda: (inception_score(logits), inception_score_replicates(logits)),
        ),
        "fld": (lambda: fld(x, y, held), lambda: fld_replicates(x, y, held)),
        "memorisation": (
            lambda: memorisation(x, y, held),
            lambda: (memorisation(x, y, held), memorisation_replicates(far)),
        ),
    }
    lines = [
        "| features | figure | median s | times it alone | difference |",
        "|---|---|---|---|---|",
    ]
    for name, (alone, with_interval) in pairs.items():
        took, _ = turns({f"{name}, alone": alone, name: with_interval}, args, device)
        lines += rows_of(took, {}, f"{args.rows} x {args.dim}")
    return lines


PARTS: dict[str, Part] = {
    "frechet": frechet, "features": features_per_second, "intervals": intervals,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--rows", type=int, default=10000, help="rows of each set of features")
    parser.add_argument("--dim", type=int, default=2048, help="numbers of a row")
    parser.add_argument("--pictures", type=int, default=64, help="of the features' part")
    parser.add_argument("--side", type=int, default=64, help="of those pictures")
    parser.add_argument("--batch", type=int, default=16, help="pictures at a time")
    parser.add_argument("--workers", type=int, default=0, help="processes that read them")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the methods take turns")
    add_running(parser, device="cpu", seed=False)
    args = parser.parse_args(argv)
    if args.quick:
        args.rows, args.dim, args.repeats = 200, 32, 1
        args.pictures, args.side, args.batch = 4, 32, 2
    device = begin(args)
    for part in args.parts:
        print()
        print("\n".join(PARTS[part](args, device)), flush=True)


if __name__ == "__main__":
    main()
