"""Launches of TrainSimCLR.py with an encoder of some thousand weights."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

from torch import nn

import models.simclr
import runtime.tracker
from tests.scripts.support import load

TINY = """--preset smoke --num_images 64 --bs 16 --log_every 1 --save_every 2 --proj_hidden 16
--proj_dim 8 --folds 2 --probe_epochs 1""".split()


def small_backbone(backbone: str = "resnet18", stem: str = "standard") -> nn.Module:
    """[N, 3, r, r] -> [N, 512], with a norm in it."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 8, 3, 2, 1, bias=False),
            bn1=nn.BatchNorm2d(8),
            relu=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(2),
            flat=nn.Flatten(),
            fc=nn.Linear(32, 512, bias=False),
        )
    )


def train(run_dir: Path | str, *words: str) -> None:
    """One launch; module-level, for the fork harness."""
    models.simclr.build_backbone = small_backbone
    runtime.tracker.Tracker.curves = lambda self: None  # a second each, and of no interest here
    script = load("TrainSimCLR")
    script.main(script.get_args([*TINY, "--run-dir", str(run_dir), *words]))


def stopped(run_dir: Path | str, turn: int, name: str, *words: str) -> None:
    """A launch that gets a SIGTERM when the script's function `name` is called for the turn-th
    time, from 0."""
    script = load("TrainSimCLR")
    turns, whole = iter(range(10**6)), getattr(script, name)

    def counted(*args, **options):
        if next(turns) == turn:
            os.kill(os.getpid(), 15)
        return whole(*args, **options)

    setattr(script, name, counted)
    train(run_dir, *words)
