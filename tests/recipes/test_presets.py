"""Presets: each has a line of description, every training script has smoke and cpu-small."""

import importlib
import pkgutil

import pytest

import benchmarks
import recipes
from recipes.imle import options as imle
from tests.scripts.support import load, presets

TRAINING = (
    "TrainGeneratorWandB",
    "TrainSimCLR",
    "TrainISICLE",
    "train_edm2",
    "train_omnigan",
    "toy_example",
)


def tables():
    """(module, name of the table, its presets) of everything that has presets."""
    for package in (recipes, benchmarks):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(found.name)
            for name, value in vars(module).items():
                if name.endswith("PRESETS") and name not in ("FORMER_PRESETS", "MOST_PRESETS"):
                    yield found.name, name, value


def test_every_preset_has_a_line_of_description():
    seen = list(tables())
    assert len({module for module, *_ in seen}) >= 8
    silent = [
        f"{module}.{table}: {name}"
        for module, table, found in seen
        for name, preset in found.items()
        if not preset.get("_help", "").strip() or "\n" in preset["_help"]
    ]
    assert silent == []


@pytest.mark.parametrize("name", TRAINING)
def test_every_training_script_has_smoke_and_cpu_small(name):
    assert {"smoke", "cpu-small"} <= set(presets(load(name)))


def test_colorization_and_inpainting_have_it_too():
    color = imle.get_args(None, ["--preset", "cpu-small-color", "--data", "photos"])
    mask = imle.get_args(None, ["--preset", "cpu-small-mask", "--data", "photos"])
    assert color.grayscale == 1 and mask.mask_frac == 0.25
    assert color.res == mask.res == [32, 32, 64]
