"""Launches of TrainSimCLR.py with an encoder of some thousand weights."""

from __future__ import annotations

import contextlib
import importlib
import os
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import nn

import models.simclr
import runtime.tracker
from recipes.simclr.options import get_args
from tests.scripts.support import load

TINY = """--preset smoke --num_images 64 --bs 16 --log_every 1 --save_every 2 --proj_hidden 16
--proj_dim 8 --folds 2 --probe_epochs 1 --save_pt""".split()


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


@contextlib.contextmanager
def light() -> Iterator[None]:
    """A small encoder; no curves either, in processes that conftest's fixtures do not reach."""
    kept, curves = models.simclr.build_backbone, runtime.tracker.Tracker.curves
    models.simclr.build_backbone = small_backbone
    runtime.tracker.Tracker.curves = lambda self: None
    try:
        yield
    finally:
        models.simclr.build_backbone, runtime.tracker.Tracker.curves = kept, curves


def train(run_dir: Path | str, *words: str) -> None:
    """One launch; module-level, for the fork harness."""
    script = load("TrainSimCLR")
    with light():
        script.main(script.get_args(None, [*TINY, "--run-dir", str(run_dir), *words]))


def stopped(run_dir: Path | str, turn: int, name: str, *words: str) -> None:
    """A launch that gets a SIGTERM when a function is called for the turn-th time, from 0.

    name: of a function of the script, or with its module: `recipes.simclr.validation.features`.
    """
    module, _, name = name.rpartition(".")
    home = importlib.import_module(module) if module else load("TrainSimCLR")
    turns, whole = iter(range(10**6)), getattr(home, name)

    def counted(*args, **options):
        if next(turns) == turn:
            os.kill(os.getpid(), 15)
        return whole(*args, **options)

    setattr(home, name, counted)
    train(run_dir, *words)


def options(*words: str) -> Namespace:
    """The tiny launch's options, and what `words` change."""
    return get_args(None, [*TINY, *words])


class Coloured:
    """Six pictures of a colour for each class of `names`."""

    def __init__(self, name, names):
        self.name, self.classes = name, names

    def __len__(self):
        return 6 * len(self.classes)

    def image(self, i):
        return np.full((8, 8, 3), 7 * i, np.uint8)

    def label(self, i):
        return i % len(self.classes)

    def path(self, i):
        return f"{self.name}/{i}"
