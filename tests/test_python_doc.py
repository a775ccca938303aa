"""docs/python.md: its examples run as they stand, in a folder of somebody else's."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.scripts.support import get_args, load

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.S | re.M)

# One process for all: each example in a namespace of its own, its output on a line of JSON.
RUNNER = """
import contextlib, io, json, sys, traceback
for code in json.load(open(sys.argv[1])):
    said, failed = io.StringIO(), ""
    with contextlib.redirect_stdout(said):
        try:
            exec(compile(code, "example", "exec"), {"__name__": "__main__"})
        except BaseException:
            failed = traceback.format_exc()
    print(json.dumps([said.getvalue(), failed]), flush=True)
"""
# The runs that the page asks for, shortened; their names begin as those of the presets alone.
COMMANDS = (
    "TrainGeneratorWandB.py --preset smoke --outer_loops 1 --num_iteration 2 --subsample_size 8 "
    "--ns 2 --sp 2 --num_val_images 2 --spi 2",
    "train_edm2.py --preset smoke --duration 40",
    "TrainSimCLR.py --preset smoke --epochs 1 --n_ramp 0 --no-probe --num_images 64",
)


def make_photos(folder: Path, count: int = 6) -> None:
    """Photographs of a kind, of no common size."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(count):
        coarse = random.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((50 + i, 40), Image.Resampling.BICUBIC).save(
            folder / f"{i}.jpg"
        )


@pytest.fixture(scope="session")
def python_results(tmp_path_factory):
    """RESULTS_HOME with a run of each method, made once."""
    home = tmp_path_factory.mktemp("results")
    for command in COMMANDS:
        name, *words = command.split()
        script = load(name.removesuffix(".py"))
        script.main(get_args(script, [*words, "--results_path", str(home)]))
    return home


@pytest.fixture(scope="session")
def printed(python_results, tmp_path_factory):
    """(output, traceback or "") of every example, run outside the repository."""
    folder = tmp_path_factory.mktemp("elsewhere")
    make_photos(folder / "photos")
    (folder / "data").mkdir()  # pictures of somebody's, in nobody's way
    (folder / "examples.json").write_text(json.dumps(BLOCKS))
    env = {
        **os.environ, "RESULTS_HOME": str(python_results), "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, "examples.json"],
        cwd=folder, env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def expected(code: str) -> list[str]:
    """What stands behind `#` after each print of an example."""
    return re.findall(r"^ *print\(.*\)  # (.+)$", code, re.M)


@pytest.mark.parametrize("k", range(len(BLOCKS)))
def test_an_example_runs_and_prints_what_it_says(k, printed):
    said, failed = printed[k]
    assert not failed, failed
    assert said.splitlines() == expected(BLOCKS[k])


def test_every_example_stands_for_itself():
    assert len(BLOCKS) >= 9
    for code in BLOCKS:
        ast.parse(code)
        assert code.startswith("import imle_lab\n") and expected(code), code
        assert len(code.splitlines()) <= 20 and max(map(len, code.splitlines())) <= 110
        assert len(expected(code)) == code.count("print("), "each output is said"


def test_the_steps_are_of_every_method():
    steps = TEXT.split("## A step of each method by hand")[1].split("\n## ")[0]
    assert steps.count("backward()") == 4
    for name in ("CodeSearch", "EDM2Loss", "jointly_sample_batch", "two_views"):
        assert name in steps
