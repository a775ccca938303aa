"""Root scripts as modules, so that a test runs them without a new interpreter."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from torch import nn

from recipes.imle import parts, perceptual

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = (
    "TrainSimCLR",
    "TrainISICLE",
    "TrainGeneratorWandB",
    "generate_images",
    "generate_views",
    "reconstruct_phema",
    "train_edm2",
    "train_ddpm",
    "train_omnigan",
    "toy_example",
)

# The whole main job, as small as four poolings let it be.
TINY = """--preset smoke --res 8 16 --resid_nc 6 --dense_nc 4 --map_nc 4 --latent_nc 8 --bs 4
--mini_bs 2 --ns 4 --sp 2 --code_bs 4 --subsample_size 6 --num_iteration 4 --outer_loops 3
--warmup 2 --num_val_images 2 --spi 2 --log_every 1""".split()


def load(name: str) -> ModuleType:
    """The root script `name`.py as a module; imported once."""
    key = f"_script_{name}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, ROOT / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module
        spec.loader.exec_module(module)
    return sys.modules[key]


def get_args(script: ModuleType, words: list[str]) -> argparse.Namespace:
    """A script's options; those that a recipe reads are told what --help begins with."""
    takes_doc = "doc" in inspect.signature(script.get_args).parameters
    return script.get_args(None, words) if takes_doc else script.get_args(words)


def presets(script: ModuleType) -> dict[str, dict]:
    """A script's presets, which stand beside its options."""
    return sys.modules[script.get_args.__module__].PRESETS


@functools.cache
def thin_loss(*args, **options) -> nn.Module:
    """`perceptual_loss` with a sixteenth of VGG16's channels, which makes a run three times as
    fast; made once for all that ask for the same."""
    loss = perceptual.perceptual_loss(*args, **options)
    features = getattr(loss, "features", nn.Module())
    for name, values in list(features.named_buffers()):
        if name[0] in "wb":
            values = values[::16]
        if name.startswith("root") or name[0] == "w" and name != "w0":
            values = values[:, ::16]
        setattr(features, name, values.contiguous())
    return loss


def train(run_dir: Path | str, *words: str) -> None:
    """One launch of the main job on the tiny settings; module-level, for the fork harness."""
    script = load("TrainGeneratorWandB")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "perceptual_loss", thin_loss)
        script.main(get_args(script, [*TINY, "--run-dir", str(run_dir), *words]))


def metrics(run_dir: Path, key: str) -> dict[int, float]:
    """{step: value} of a key of metrics.jsonl."""
    rows = [json.loads(line) for line in (Path(run_dir) / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row[key] for row in rows if key in row}
