"""The command that walks through README.md, and that README.md is fit for it."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import Counter

import pytest
from PIL import Image

from tests import readme
from tests.readme import ROOT, Block, Shell, blocks, commands, go
from tests.readme_options import target
from tests.test_imports import is_root_script

README = (ROOT / "README.md").read_text(encoding="utf-8")
OPTIONS = argparse.Namespace(slow=False, install=False, seconds=0.2, timeout=60)

# A run that saves when it is told to stop, and is done when it is short.
STUB = """
import json, pathlib, signal, sys, time
run = pathlib.Path.home() / "imle-lab" / "results" / "stub" / "run"
run.mkdir(parents=True, exist_ok=True)
saved = run / "step"
step = int(saved.read_text()) if saved.exists() and "--forget" not in sys.argv else 0
with open(run / "launches.jsonl", "a") as file:
    print(json.dumps({"from_step": step}), file=file)
if "--short" in sys.argv:
    print("short")
    sys.exit(0)
def stop(*_):
    saved.write_text(str(step + 1))
    sys.exit(1 if "--careless" in sys.argv else 75)
signal.signal(signal.SIGTERM, stop)
while True:
    (run / "metrics.jsonl").write_text(json.dumps({"step": step + 1}))
    time.sleep(0.05)
"""


@pytest.fixture
def shell(tmp_path):
    for name in ("home", "place"):
        (tmp_path / name).mkdir()
    (tmp_path / "place" / "stub.py").write_text(STUB)
    return Shell(tmp_path / "home", tmp_path / "place", tmp_path / "logs")


def test_blocks_and_commands_are_found():
    text = (
        "x\n```sh\n# said\nA=1   # here\npython a.py --b \\\n    c\n\n```\n"
        "```python\nimport a\n```\n"
        "```sh slow --short 1 --n 2\nb\n```\n```sh full-size\nc\n```\n"
    )
    assert list(blocks(text)) == [
        Block("", "", ["A=1   # here", "python a.py --b c"], 2),
        Block("slow", "--short 1 --n 2", ["b"], 12),
        Block("full-size", "", ["c"], 15),
    ]
    with pytest.raises(ValueError, match="line 1: ```sh slowly is none of slow, full-size"):
        list(blocks("```sh slowly\nb\n```\n"))
    assert commands("a\n  # b\n c\n") == ["a", "c"]
    assert readme.strip_comment("a 'b # c'   # d") == "a 'b # c'"


def test_a_shell_keeps_variables_folder_and_home(shell):
    assert shell.run("mkdir inner && cd inner && WORD='two words'", 9)[0] == 0
    code, output = shell.run('echo "$WORD" in "${PWD##*/}" of "$HOME"', 9)
    assert code == 0 and f"two words in inner of {shell.results.parents[1]}" in output
    assert shell.run('test -z "$RESULTS_HOME"', 9)[0] == 0
    assert shell.run("sleep 60", 0.3)[0] != 0


def results(shell, kind, *lines, short="--short"):
    return [result.wrong for result in go(shell, Block(kind, short, list(lines), 1), OPTIONS)]


def test_failures_are_seen(shell):
    assert results(shell, "", "true", "false") == ["", "ended with 1 instead of 0"]
    said = f"{sys.executable} -c '1 / 0' || true"
    assert results(shell, "", said) == ["left a traceback"]
    assert results(shell, "elsewhere", "no_such_command") == [""]


def test_what_is_slow_is_stopped_resumed_and_made_short(shell):
    run = shell.results / "stub" / "run"
    python = sys.executable
    assert results(shell, "slow", f"{python} stub.py   # half an hour") == [""]
    assert len(readme.launches(run)) == 1, "the folder of the stopped run is gone"
    last = max(shell.logs.glob("*.txt")).read_text()
    assert last.startswith(f"$ {python} stub.py --short\n") and "short\n" in last
    assert results(shell, "slow", f"{python} stub.py --forget") == ["did not resume"]
    assert results(shell, "slow", f"{python} stub.py --careless") == [
        "ended with 1 instead of 75, after SIGTERM to the first launch"
    ]
    assert results(shell, "slow", "true") == [
        "ended with 0 instead of 75, after SIGTERM to the first launch"
    ]


def understood(line: str) -> subprocess.CompletedProcess[str]:
    words = line.split()
    words = [sys.executable, "-m", "tests.readme_options", *words[1:]]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    "line",
    [
        "torchrun --standalone --nproc-per-node 2 TrainSimCLR.py --preset smoke",
        "python -m data.scenes --out sheet.png",
    ],
)
def test_options_are_understood_and_nothing_is_done(line):
    done = understood(line)
    assert (done.returncode, done.stdout) == (0, "options understood\n"), done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "python TrainGeneratorWandB.py --preset smoke --fill 3 --unconditional --mask_frac 2",
        "python data/InvertDirStructure.py --nothing nowhere",
    ],
)
def test_options_that_are_wrong_are_refused(line):
    done = understood(line)
    assert done.returncode == 2 and "options understood" not in done.stdout


def test_the_script_is_found_among_the_words():
    assert target(["train.py", "--a", "b.py"]) == ("train.py", False, ["--a", "b.py"])
    words = ["--standalone", "--nproc-per-node", "2", "-m", "benchmarks.x", "--quick"]
    assert target(words) == ("benchmarks.x", True, ["--quick"])
    with pytest.raises(ValueError, match="no script"):
        target(["--standalone"])


@pytest.mark.parametrize("classes", [True, False])
def test_photographs_are_of_many_sizes(tmp_path, classes):
    readme.make_photographs(tmp_path, 12, classes=classes)
    files = sorted(tmp_path.rglob("*.jpg"))
    sizes = Counter(Image.open(file).size for file in files)
    assert len(files) == 12 and len(sizes) > 6
    assert len({file.parent for file in files}) == (
        1 if not classes else len(set(file.parent for file in files))
    )
    assert (files[0].parent == tmp_path) is not classes


def test_the_environment_has_the_packages_of_this_one(tmp_path, shell):
    readme.make_environment(tmp_path / "place" / ".venv")
    assert shell.run(". .venv/bin/activate", 30)[0] == 0
    code, output = shell.run(
        "python -c 'import sys, torch; print(sys.prefix)' && pytest --version", 99
    )
    assert code == 0 and f"{tmp_path}/place/.venv\n" in output, output


# ------------------------------------------------------------------------------------- README.md


def test_every_fence_of_the_readme_is_marked():
    kinds = Counter(block.kind for block in blocks(README))
    assert kinds[""] >= 3 and kinds["slow"] >= 3 and kinds["full-size"] >= 2
    fences = re.findall(r"^```(.*)$", README, re.M)
    assert len(fences) % 2 == 0 and all(fence.startswith("sh") for fence in fences[::2])


def test_the_readme_names_every_command():
    scripts = [p.name for p in ROOT.glob("*.py") if is_root_script(p.stem)]
    of_data = [
        f"data/{p.name}"
        for p in (ROOT / "data").glob("*.py")
        if "\n    sys.path[0] = " in p.read_text(encoding="utf-8")
    ]
    modules = [f"benchmarks.{p.stem}" for p in (ROOT / "benchmarks").glob("*.py")
               if '__name__ == "__main__"' in p.read_text(encoding="utf-8")]  # fmt: skip
    targets = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    wanted = [*scripts, *of_data, *modules, "data.scenes", "diffusion.original"]
    wanted += [f"make {name}" for name in targets]
    assert not [name for name in wanted if name not in README]
