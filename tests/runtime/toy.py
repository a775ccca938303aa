"""A training script in small, with one of everything that has state."""

import argparse
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from runtime.cli import parse
from runtime.ema import EMA, constant
from runtime.options import add_run_args
from runtime.run import Run
from runtime.seeding import seed_worker


def toy_args(root: Path, **changes: Any) -> argparse.Namespace:
    """Parsed options of the toy; runs go below `root`."""
    parser = argparse.ArgumentParser()
    add_run_args(parser, save_every=5)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--total", type=int, default=40)
    parser.add_argument("--spi", type=int, default=6)
    args = parse(parser, {}, [])
    args.results_path, args.wandb, args.gpus, args.log_every = str(root), "disabled", [], 1
    args.num_workers = 0
    for name, value in changes.items():
        assert hasattr(args, name), name
        setattr(args, name, value)
    return args


def open_run(args: argparse.Namespace, **more: Any) -> Run:
    """The toy's Run."""
    return Run(args, script="toy", name="toy", shaping_exclude=["spi", "total"], **more)


class Sampler:
    """Endless batches of indices; the state is the number of batches drawn."""

    def __init__(self, size: int, batch: int) -> None:
        self.size, self.batch, self.drawn = size, batch, 0

    def next(self) -> list[int]:
        """Indices of the next batch."""
        order = torch.randperm(self.size, generator=torch.Generator().manual_seed(self.drawn))
        self.drawn += 1
        return order[: self.batch].tolist()

    def state_dict(self) -> dict[str, int]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.drawn = state["drawn"]


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """64 points of a smooth function."""
    x = torch.linspace(-1, 1, 64)[:, None]
    return x, torch.sin(4 * x)


def build(args: argparse.Namespace) -> dict[str, Any]:
    """Everything with state."""
    net = torch.nn.Sequential(
        torch.nn.Linear(1, args.width),
        torch.nn.Tanh(),
        torch.nn.Dropout(0.1),
        torch.nn.Linear(args.width, 1),
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=args.lr)
    return {
        "net": net,
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.total),
        "ema": EMA(net, constant(0.9)),
        "sampler": Sampler(64, 8),
    }


def train(
    args: argparse.Namespace,
    drop: str | None = None,
    slow: float = 0.0,
    stop_at: int | None = None,
    milestone_every: int | None = None,
    signals: dict[int, list[int]] | None = None,
    hook: Any = None,
) -> Run:
    """Train the toy.

    drop: forget this object's state on resume (the negative control).  slow: seconds a step.
    signals: {step: signals that the process sends itself in it}.  hook(run, step, objects).
    """
    with open_run(args, milestone_every=milestone_every) as run:
        objects = build(args)
        fresh = None if drop is None else objects[drop].state_dict()
        saved = {k: v.clone() if torch.is_tensor(v) else v for k, v in (fresh or {}).items()}
        run.restore(**objects)
        if drop is not None and run.completed:
            objects[drop].load_state_dict(saved)
        net, sampler = objects["net"], objects["sampler"]
        x, y = data()
        for step in run.steps(args.total, stop_at=stop_at, images_per_step=8):
            ids = sampler.next()
            rows = [i for j, i in enumerate(ids) if j % run.world_size == run.rank]
            loader = DataLoader(
                TensorDataset(x[rows], y[rows]),
                batch_size=len(rows),
                num_workers=args.num_workers,
                worker_init_fn=seed_worker,
                generator=torch.Generator().manual_seed(step),
            )
            bx, by = next(iter(loader))
            noise = random.random() + np.random.rand() + torch.rand(())
            for signum in (signals or {}).get(step, []):
                signal.raise_signal(signum)
            loss = (net(bx + 0.01 * noise) - by).square().mean()
            if hook is not None:
                loss = hook(run, step, loss)
            run.backward(loss, rows)
            if run.step(objects["optimizer"], clip=1.0):
                objects["scheduler"].step()
                objects["ema"].update(net, run.nimg + 8, 8)
            run.log(loss=loss, lr=objects["scheduler"].get_last_lr()[0])
            time.sleep(slow)
    return run


def main(root: str, changes: dict[str, Any], more: dict[str, Any]) -> None:
    """Entry of a child process."""
    train(toy_args(Path(root), **changes), **more)
