"""What `make` says and would do; nothing is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(*words: str) -> subprocess.CompletedProcess[str]:
    """`make WORDS` as typed in a shell: the flags of a `make test` around it are not inherited."""
    of_make = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "VENV", "PYTHON", "TORCH")
    environment = {name: value for name, value in os.environ.items() if name not in of_make}
    return subprocess.run(
        ["make", *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def test_make_alone_and_make_help_list_every_target():
    done = make()
    assert done.returncode == 0 and done.stderr == "" and done.stdout == make("help").stdout
    targets = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    assert re.findall(r"^  make ([a-z-]+) +\S", done.stdout, re.M) == targets
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_the_demo_says_its_price_shows_progress_and_how_to_go_on(tmp_path):
    would = make("-n", "demo", f"VENV={tmp_path}/env").stdout
    lines = would.splitlines()
    said = next(i for i, line in enumerate(lines) if "5.8 GB" in line and "echo" in line)
    installs = [i for i, line in enumerate(lines) if " pip install " in line]
    assert len(installs) == 1 and said < installs[0]
    assert "--quiet" not in would and " -q" not in would
    assert f". {tmp_path}/env/bin/activate" in lines[-1]


def test_the_build_without_cuda_is_installed_before_the_requirements(tmp_path):
    would = make("-n", "demo", "TORCH=cpu", f"VENV={tmp_path}/env").stdout.splitlines()
    first, second = (line for line in would if " pip install " in line)
    assert "--index-url https://download.pytorch.org/whl/cpu $(grep '^torch' " in first
    assert second.endswith("-r requirements.txt")
    named = [
        line for line in (ROOT / "requirements.txt").read_text().splitlines()
        if line.startswith("torch")
    ]  # fmt: skip
    assert [re.match(r"\w+", line)[0] for line in named] == ["torch", "torchvision"]


def test_another_build_is_refused_before_anything_is_installed(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    done = make("demo", "TORCH=gpu", f"VENV={tmp_path}")
    assert done.returncode == 2 and "TORCH=gpu is not known" in done.stderr
