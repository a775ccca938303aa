"""CONTRIBUTING.md, "How to add": every section is done in a copy of the repository as it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^(?P<said>[^\n]+:)\n\n```(?P<kind>python|sh)\n(?P<code>.*?)^```$", re.S | re.M)


def sections() -> dict[str, str]:
    """The sections of "How to add" by their titles."""
    how = TEXT.split("\n## How to add\n")[1].split("\n## ")[0]
    titled = how.split("\n### ")[1:]
    return dict(section.split("\n", 1) for section in titled)


def apply(said: str, code: str, tree: Path) -> None:
    """Do what the sentence above a block of Python says with it."""
    words = re.findall(r"`([^`]+)`", said)
    file = tree / words[0]
    if said.startswith("New file "):
        assert not file.exists(), file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code, encoding="utf-8")
        return
    before = file.read_text(encoding="utf-8")
    assert before.count(words[1]) == 1, f"{words[0]} has {words[1]!r} {before.count(words[1])} x"
    if ", after " in said:
        line = re.search(rf"^.*{re.escape(words[1])}.*\n", before, re.M)
        after = before.replace(line[0], line[0] + code)
    else:
        assert ", instead of " in said, said
        after = before.replace(words[1], code.rstrip("\n"))
    file.write_text(after, encoding="utf-8")


@pytest.fixture
def tree(tmp_path):
    """A copy of what git has or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if name.startswith(("docs/", "tests/golden/vectors/")) or not (ROOT / name).is_file():
            continue
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "copy" / name)
    return tmp_path / "copy"


@pytest.fixture
def environment(tree, tmp_path):
    pictures = tmp_path / "pictures"
    random = np.random.default_rng(0)
    for split, label, count in (("train", "hat", 12), ("train", "shoe", 12), ("val", "hat", 4)):
        folder = pictures / split / label
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    homes = {f"{name}_HOME": str(tmp_path / name) for name in ("DATA", "MODELS", "RESULTS")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {
        **os.environ, **homes, "PATH": path, "PYTHONPATH": str(tree), "PICTURES": str(pictures),
        "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled",
    }  # fmt: skip


@pytest.mark.parametrize(
    "title",
    [t if t == "An option" else pytest.param(t, marks=pytest.mark.slow) for t in sections()],
)
def test_adding_works_as_written(title, tree, environment):
    section = sections()[title]
    blocks = [match.groupdict() for match in BLOCK.finditer(section)]
    assert len(blocks) == section.count("```") // 2 >= 2, "every block has a sentence above it"
    assert [b["kind"] for b in blocks].index("sh") == len(blocks) - 1
    for block in blocks[:-1]:
        apply(block["said"], block["code"], tree)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", blocks[-1]["code"]],
        cwd=tree, env=environment, capture_output=True, text=True, timeout=570,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    frozen = subprocess.run(
        [sys.executable, "-m", "tests.frozen_cli"],
        cwd=tree, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert frozen.returncode == 0, frozen.stdout[-2000:] + frozen.stderr[-2000:]
    if shutil.which("ruff", path=environment["PATH"]):
        for words in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
            tidy = subprocess.run(
                ["ruff", *words, "."], cwd=tree, env=environment, capture_output=True, text=True
            )
            assert tidy.returncode == 0, tidy.stdout


def test_every_promised_section_is_there():
    assert list(sections()) == [
        "A data set", "A selection method", "A generator", "A loss", "An option", "A script"
    ]  # fmt: skip


def test_rooms_named_on_the_way_of_a_batch_exist():
    way = TEXT.split("## One batch, from disk to loss")[1].split("\n## ")[0]
    steps = re.findall(r"^(\d+)\. (.+)$", way, re.M)
    assert [int(n) for n, _ in steps] == list(range(1, 11))
    for _, line in steps:
        files = re.findall(r"`([\w/]+\.py|[\w/]+/)`", line)
        assert files, line
        assert all((ROOT / name).exists() for name in files), line
