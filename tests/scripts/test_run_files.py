"""docs/reference.md, "A run's folder": every file that a script leaves there is explained."""

from __future__ import annotations

import re

import pytest

from tests.scripts.support import ROOT, load
from tests.scripts.support import get_args as args_of

REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
LAUNCHES = {
    "TrainGeneratorWandB": "--res 8 16 --lpips random --outer_loops 1 --num_iteration 2 --bs 4 "
    "--num_val_images 2 --samples 2 --ns 2 --subsample_size 4",
    "TrainSimCLR": "--epochs 1 --n_ramp 0 --num_images 32",
    "train_edm2": "--duration 64 --acid",
    "toy_example": "--total-iter 4",
}


def explained() -> list[re.Pattern[str]]:
    """What the tables say a run's folder may have, as patterns of relative paths."""
    section = REFERENCE.split("\n## A run's folder\n")[1].split("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")]
    names = [name for row in rows for cell in row[:2] for name in re.findall(r"`([^`]+)`", cell)]
    holes = {"STEP": r"\d+", "WIDTH": r"[\d.]+", "NAME": r"[\w-]+", "N": r"\d+"}
    patterns = []
    for name in names:
        words = re.split(r"\b(STEP|WIDTH|NAME|N)\b", name)
        pattern = "".join(holes.get(word) or re.escape(word) for word in words)
        patterns.append(re.compile(pattern + (".*" if name.endswith("/") else "")))
    return patterns


@pytest.mark.parametrize("script", LAUNCHES)
def test_every_file_of_a_run_is_explained(script, tmp_path):
    words = ["train"] if script == "toy_example" else []
    words += ["--preset", "smoke", "--run-dir", str(tmp_path / "run"), *LAUNCHES[script].split()]
    module = load(script)
    module.main(args_of(module, words))
    files = [
        path.relative_to(tmp_path / "run").as_posix()
        for path in (tmp_path / "run").rglob("*")
        if path.is_file()
    ]
    known = explained()
    assert len(files) > 10
    assert not [name for name in files if not any(p.fullmatch(name) for p in known)]


def test_what_is_not_explained_is_seen():
    known = explained()
    assert any(p.fullmatch("checkpoints/step-000000004/net.pt") for p in known)
    assert any(p.fullmatch("snapshots/network-snapshot-0000004-0.100.safetensors") for p in known)
    assert not any(p.fullmatch("other.bin") or p.fullmatch("x/args.json") for p in known)
