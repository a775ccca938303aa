"""What the IMLE benchmarks share: configurations, trained weights, timing, the machine."""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from data.pyramids import Pyramid
from data.scenes import Scenes
from imle import CAMNet, CIMLEDataLoader, CodeGenerator, KorKMinusOne, ResolutionLoss
from recipes.imle.step import imle_loss
from runtime.cli import prepare
from storage.snapshot import load_snapshot, save_snapshot


@dataclass(frozen=True)
class Config:
    """A network and a search. `train_steps` of batch 4 before anything is measured."""

    res: tuple[int, ...]
    sp: int
    ns: int
    train_steps: int
    network: dict = field(default_factory=dict)

    def model(self) -> CAMNet:
        return CAMNet(list(self.res), **self.network)


_SMALL = dict(resid_nc=[32, 16, 16, 16], dense_nc=[16, 16, 16, 16], n_blocks=2)

CONFIGS = {
    # the widths that the preset cpu-small of TrainGeneratorWandB.py had at first
    "small": Config((16, 32, 64), 32, 64, 300, _SMALL),
    # default widths and depth of TrainGeneratorWandB.py
    "default": Config((16, 32, 64), 32, 32, 6),
    # the case in which re-running earlier levels for every candidate costs most
    "cascade-small": Config((64, 64, 64, 64, 128), 1, 12, 30, _SMALL),
    "cascade-default": Config((64, 64, 64, 64, 128), 1, 2, 0),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of both benchmarks."""
    parser.add_argument("--configs", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the methods take turns")
    parser.add_argument("--quick", action="store_true", help="a minute: does it run?")
    parser.add_argument("--train_steps", type=int, default=None, help="override the configs'")
    parser.add_argument("--snapshot", type=Path, default=None, help="weights of a run instead")
    parser.add_argument("--vgg", type=Path, default=None, help="VGG16 weights; default random")
    parser.add_argument("--keep", type=Path, default=None, help="folder to keep weights in")
    parser.add_argument("--seed", type=int, default=0)


def start(args: argparse.Namespace) -> torch.device:
    """Apply threads and seed, print the machine."""
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    print(machine(device), flush=True)
    return device


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """A benchmark's parser, which shows the text of its file as it stands there."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_running(
    parser: argparse.ArgumentParser, *, device: str | None = None, seed: bool = True
) -> None:
    """The options of every benchmark that is one process, behind all others: what it runs on.

    device: where the features lie, for benchmarks of these; None: a GPU if there is one.
    """
    own = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    told = None if device is None else "where the features lie"
    parser.add_argument("--device", default=device or own, help=told)
    if seed:
        parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="seconds: does it run?")
    prepare(parser)


def begin(args: argparse.Namespace) -> torch.device:
    """Apply the options of `add_running`, print the machine; the device."""
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    print(machine(device), flush=True)
    return device


def machine(device: torch.device) -> str:
    """One line: processor or GPU, threads, versions."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = next(
            (
                line.split(":", 1)[1].strip()
                for line in _lines("/proc/cpuinfo")
                if line.startswith("model name")
            ),
            platform.processor(),
        )
        name += f", {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    return f"{name}; torch {torch.__version__}, Python {platform.python_version()}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def make_loss(
    args: argparse.Namespace, device: torch.device, *, fused: bool = True
) -> ResolutionLoss:
    """The loss of training and search. Random VGG16 weights cost the same as the real ones."""
    if args.vgg is not None:
        return ResolutionLoss(args.vgg, fused=fused).to(device)
    return ResolutionLoss(random_seed=0, fused=fused).to(device)


def trained(
    name: str, config: Config, loss: ResolutionLoss, args: argparse.Namespace, device: torch.device
) -> CAMNet:
    """The config's network after its training steps on scenes, or the weights of `--snapshot`."""
    torch.manual_seed(args.seed)
    model = config.model().to(device)
    if args.snapshot is not None:
        model.load_state_dict(load_snapshot(args.snapshot).state_dict)
        return model
    steps = config.train_steps if args.train_steps is None else args.train_steps
    steps = min(steps, 5) if args.quick else steps
    kept = args.keep / f"{name}-{steps}-{args.seed}.safetensors" if args.keep else None
    if kept is not None and kept.exists():
        model.load_state_dict(load_snapshot(kept).state_dict)
        return model
    began = time.perf_counter()
    loader = CIMLEDataLoader(
        Pyramid(Scenes(count=256), list(config.res)),
        KorKMinusOne(range(256), shuffle=True, seed=args.seed),
        model,
        None,
        CodeGenerator(model.code_sizes, seed=args.seed),
        loss,
        num_samples=4,
        sample_parallelism=4,
        code_bs=8,
        subsample_size=min(64, 4 * max(steps, 1)),
        num_iteration=64,
        batch_size=4,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)
    batches = loader.forever()
    for _ in range(steps):
        cx, codes, ys = next(batches)
        total = imle_loss(loss, model(cx, codes), ys)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    if steps:
        print(
            f"{name}: {steps} training steps in {time.perf_counter() - began:.0f} s, "
            f"last loss {total.item():.4f}",
            flush=True,
        )
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_snapshot(kept, model.state_dict(), "camnet", model.config, {"steps": steps})
    return model


def batch_of(config: Config, count: int, device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """Inputs and targets of validation scenes, floats in [0, 1]."""
    images = Pyramid(Scenes("val", count=count), list(config.res))
    items = [images[i] for i in range(count)]
    x = torch.stack([x for x, _ in items])
    ys = [torch.stack(level) for level in zip(*(ys for _, ys in items), strict=True)]
    return x.to(device).float() / 255, [y.to(device).float() / 255 for y in ys]


def take_turns(
    methods: dict[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each method, `repeats` rounds in which all take a turn, after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(repeats + 1):
        for name, run in methods.items():
            _wait(device)
            began = time.perf_counter()
            run()
            _wait(device)
            if turn:
                times[name].append(time.perf_counter() - began)
    return times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(times: dict[str, list[float]], work: float, unit: str) -> str:
    """Markdown: best and median seconds, work per second, ratio to the first method.

    The ratio is the median over rounds of first / this one, with its range.
    """
    first = next(iter(times.values()))
    rows = [f"| method | best s | median s | {unit}/s | times faster |", "|---|---|---|---|---|"]
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(first, seconds, strict=True)]
        rows.append(
            f"| {name} | {min(seconds):.3f} | {statistics.median(seconds):.3f} | "
            f"{work / statistics.median(seconds):.1f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f}-{max(ratios):.2f}) |"
        )
    return "\n".join(rows)
