"""Does it matter which images EDM2 trains on? `python -m benchmarks.edm2_arms --guide W --out DIR`.

Arms train the same network on equally many images, chosen in different ways out of super-batches:

none         batches of the size that the others choose; nothing to choose from
random       a random fifth of every super-batch
jest         JEST, the reference being the learner's own EMA
ajest-T      autoguided JEST at temperature T (standardised scores); the reference is --guide
ajest-T-sigma  with the last T, ranked among rows of like sigma

Every arm is a run of train_edm2.py below DIR (its command is in args.json), which resumes when this
command is run again. Learning rates are equal step by step. All arms of a seed have the same
initial weights. What is compared is the EMA's loss on held-out images at sigmas that cut the
training distribution into parts of equal weight, one noise an image and sigma, the same for all.
report.md: mean over seeds, and the paired log-ratio against `none` and `random` with a 95 %
t-interval over seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.labelled import LabelledImages
from data.registry import open_source
from diffusion import EDM2Loss, Precond, frozen_weights
from diffusion.edm2_loss import per_pixel_loss
from evaluation.intervals import mean_interval
from runtime.cli import prepare
from runtime.counter_rng import mix, normal
from selection import selection_size
from storage.dirs import data_home
from storage.files import write_text
from storage.snapshot import load_snapshot

TRAIN_EDM2 = Path(__file__).resolve().parents[1] / "train_edm2.py"
FILTER = 0.8
SIGMAS = 8
TEMPERATURES = ("1", "0.25")
NETWORK = "--channel_mult 1 2 2 --num_blocks 1"


def get_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--guide", help="snapshot of the weak network (required but for --quick)")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--data", default="mnist", help="with a train and a test split")
    parser.add_argument("--res", type=int, default=32)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--super_batch", type=int, default=160)
    parser.add_argument("--duration", type=int, default=30720, help="images every arm trains on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", help="only these (default: all)")
    parser.add_argument("--held_out", type=int, default=2000)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument(
        "--quick", action="store_true", help="two tiny arms on scenes, a minute: does it run?"
    )
    prepare(parser)
    args = parser.parse_args(argv)
    args.split = "val" if args.quick else "test"
    if args.quick:
        args.data, args.res, args.channels, args.super_batch = "scenes", 8, 8, 20
        args.duration, args.seeds, args.held_out = 40, [0], 20
        args.arms = [name for name in ("none", "jest") if name in (args.arms or ("none", "jest"))]
    elif args.guide is None:
        parser.error("the following arguments are required: --guide")
    return args


def arms(args: argparse.Namespace) -> dict[str, str]:
    """Name -> the options of train_edm2.py that make it."""
    weak = f"--acid --guide-path {args.guide}"
    found = {"none": "", "random": "--selection", "jest": "--acid"}
    found |= {f"ajest-{t}": f"{weak} --temperature {t}" for t in TEMPERATURES}
    last = TEMPERATURES[-1]
    found[f"ajest-{last}-sigma"] = f"{weak} --temperature {last} --score_by_sigma"
    return {name: words for name, words in found.items() if name in (args.arms or found)}


def train(args: argparse.Namespace, name: str, words: str, seed: int) -> Path:
    """Run the arm to its end, in a process of its own; its folder."""
    mini = selection_size(args.super_batch, FILTER)
    f = args.super_batch / mini
    # The schedule counts steps of the baseline, f of which are one selecting step; with these the
    # rate of every step is that of `none`: ramp of 5120 images, decay from step 200 on.
    batch, ramp, decay = (mini, 0.00512, 200.0)
    if name != "none":
        batch, ramp, decay = (args.super_batch, ramp * f * f, decay * f)
    folder = args.out / f"seed{seed}" / name
    command = (
        f"--data {args.data}/train --res {args.res} --channels {args.channels} "
        f"--channels_per_head {args.channels} {NETWORK} --batch {batch} --batch_gpu 64 "
        f"--duration {args.duration} --rampup {ramp!r} --decay {decay} --filt {FILTER} {words} "
        f"--seed {seed} --precision {args.precision} --channels_last --ema_stds 0.1 "
        "--sample_images 0 --wandb disabled --gpus cpu --num_workers 0 --cache memory "
        f"--save_every 50 --log_every 20 --snapshot 1000000 --run-dir {folder}"
    )
    done = subprocess.run([sys.executable, TRAIN_EDM2, *command.split()])
    if done.returncode:  # it has said why; 75: stopped by a signal, run this again
        sys.exit(done.returncode)
    return folder


@torch.no_grad()
def held_out_loss(args: argparse.Namespace, folder: Path) -> float:
    """Mean over images, values and sigmas of the EMA's weighted loss, without u(sigma)."""
    file = sorted((folder / "snapshots").glob("*.safetensors"))[-1]
    snapshot = load_snapshot(file)
    net = Precond(**snapshot.config["net"])
    net.load_state_dict(snapshot.state_dict)
    net.eval().compute_dtype = torch.float32
    images = LabelledImages(open_source(f"{args.data}/{args.split}", data_home()), args.res)
    count = min(args.held_out, len(images))
    loss_fn = EDM2Loss(**snapshot.config["loss"])
    # Midpoints of SIGMAS parts of equal weight of ln(sigma) ~ N(P_mean, P_std^2).
    parts = (torch.arange(SIGMAS, dtype=torch.float64) + 0.5) / SIGMAS
    levels = loss_fn.sigma(torch.special.ndtri(parts)).float()
    total = 0.0
    with frozen_weights(net):
        for first in range(0, count, 100):
            rows = torch.arange(first, min(first + 100, count))
            items = [images[int(i) * len(images) // count] for i in rows]
            x = torch.stack([image for _, image, _ in items]).float() / 127.5 - 1
            labels = torch.eye(max(1, net.label_dim))[[label for *_, label in items]]
            for k, sigma in enumerate(levels):
                noise = normal(mix(rows, k), x[0].numel()).view_as(x)
                loss = per_pixel_loss(
                    WithoutU(net), x, sigma.expand(len(x)), noise, labels, sigma_data=0.5
                )
                total += float(loss.mean((1, 2, 3)).double().sum())
    return total / count / SIGMAS


class WithoutU(torch.nn.Module):
    """The denoiser with u = 0: what is compared is D alone."""

    def __init__(self, net: Precond) -> None:
        super().__init__()
        self.net = net

    def forward(self, x, sigma, labels, return_logvar):
        return self.net(x, sigma, labels), torch.zeros(len(x), 1, 1, 1)


def result(args: argparse.Namespace, name: str, words: str, seed: int) -> dict[str, Any]:
    """Train, measure, keep in result.json of the arm's folder."""
    file = args.out / f"seed{seed}" / name / "result.json"
    if file.is_file():
        return json.loads(file.read_text())
    folder = train(args, name, words, seed)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found: dict[str, Any] = {"arm": name, "seed": seed, "loss": held_out_loss(args, folder)}
    for key in ("perplexity / B", "time/selection_s", "time/training_s"):
        values = [line[key] for line in lines if key in line]
        found[key] = float(np.mean(values)) if values else None
    write_text(file, json.dumps(found))
    return found


def report(results: list[dict[str, Any]]) -> str:
    """Markdown: a row an arm."""
    by = {(r["arm"], r["seed"]): r for r in results}
    names = list(dict.fromkeys(r["arm"] for r in results))
    seeds = sorted({r["seed"] for r in results})
    whole = [s for s in seeds if all((n, s) in by for n in names)]
    lines = [
        f"seeds {whole}",
        "",
        "| arm | held-out loss | against none | against random | perplexity / B | selection, "
        "training s a step |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        own = [by[name, s] for s in whole]
        cells = [f"{np.mean([r['loss'] for r in own]):.5f}"]
        for other in ("none", "random"):
            ratio = [
                math.log(by[name, s]["loss"] / by[other, s]["loss"])
                for s in whole
                if (other, s) in by
            ]
            cells.append("" if other == name else interval(ratio))
        spread = [r["perplexity / B"] for r in own if r["perplexity / B"] is not None]
        cells.append(f"{np.mean(spread):.3f}" if spread else "")
        times = [np.mean([r[f"time/{k}_s"] or 0.0 for r in own]) for k in ("selection", "training")]
        cells.append(f"{times[0]:.2f}, {times[1]:.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def interval(ratios: list[float]) -> str:
    """Mean of log-ratios as per cent, with its 95 % t-interval."""
    if len(ratios) < 2:
        return f"{100 * math.expm1(ratios[0]):+.1f} %" if ratios else ""
    if not all(map(math.isfinite, ratios)):
        return "not finite"
    mean, low, high = (100 * math.expm1(x) for x in mean_interval(ratios)[:3])
    return f"{mean:+.1f} % ({low:+.1f} to {high:+.1f})"


def main(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in args.seeds:
        for name, words in arms(args).items():
            results.append(result(args, name, words, seed))
            write_text(args.out / "report.md", report(results))
    print(report(results))


if __name__ == "__main__":
    main(get_args())
