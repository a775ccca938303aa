"""The import rules of the house, read from the source of every file.

Imports go downhill only, third-party plumbing stays in its home and is lazy, and what could run
code from a file happens in one guarded place.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("runtime", "data", "imle", "models", "diffusion", "selection", "evaluation")
METHODS = ("imle", "models", "diffusion", "selection", "evaluation")
SKIPPED = {".venv", "venv", "build", "dist", "__pycache__", "results", "runs", "wandb", "datasets"}

# Third-party plumbing lives in one place each, and is imported inside the function that needs it.
HOMES = {
    "wandb": r"runtime/tracker\.py",
    "lmdb": r"data/[^/]+\.py",
    "lpips": r"imle/(losses|perceptual)\.py",
    "gdown": r"data/[^/]+\.py",
    "matplotlib": r".*",
    "diffusers": r"diffusion/encoders\.py",
}

# The only files that may read what could carry code. Every other one calls their functions.
LOADERS = ("runtime/checkpoint.py", "runtime/snapshot.py", "imle/perceptual.py")


def is_command(tree: ast.Module) -> bool:
    """A file one runs (`if __name__ == "__main__"`): it may compose packages."""
    return any(
        isinstance(node, ast.If)
        and any(isinstance(n, ast.Name) and n.id == "__name__" for n in ast.walk(node.test))
        for node in tree.body
    )


def imported(tree: ast.Module, file: str) -> list[tuple[str, int, bool]]:
    """(full dotted name, line, executed at import time) of every import in a file."""
    found = []

    def visit(node: ast.AST, lazy: bool, typing: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name, node.lineno, not (lazy or typing)) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = list(Path(file).parent.parts)
                base = ".".join(package[: len(package) - node.level + 1] + [base] * bool(base))
            found.extend(
                (f"{base}.{alias.name}", node.lineno, not (lazy or typing)) for alias in node.names
            )
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in ("importlib.import_module", "import_module", "__import__") and node.args:
                if isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
                    found.append((node.args[0].value, node.lineno, not (lazy or typing)))
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            visit(child, inside, typing or guarded)

    visit(tree, False, False)
    return found


def problems(source: str, file: str) -> list[str]:
    """What `source`, lying at `file` (relative to the root), does against the rules."""
    tree = ast.parse(source)
    package = file.split("/")[0] if "/" in file else ""
    out = []

    def say(line: int, what: str) -> None:
        out.append(f"{file}:{line}: {what}")

    for name, line, at_import in imported(tree, file):
        top, test = name.split(".")[0], package == "tests"
        if name.endswith(".*"):
            say(line, f"star import of {name[:-2]}")
        if package in METHODS and top in PACKAGES and top != package:
            if not re.match(r"runtime\.(distributed|counter_rng|precision)(\.|$)", name):
                say(line, f"{package} imports {name}: of runtime not")
        if package in ("data", "runtime") and top in PACKAGES and top != package:
            usable = r"runtime\.(dirs|pickles|counter_rng|precision)(\.|$)"
            allowed = package == "data" and re.match(usable, name)
            if package == "data" and is_command(tree):
                # what a command composes; a method only where it is used
                method = not at_import and name.startswith("diffusion.encoders.")
                allowed = allowed or top == "runtime" or method
            if not allowed:
                say(line, f"{package} imports {name}")
        if package in PACKAGES and (
            top in ("tests", "benchmarks") or (ROOT / f"{top}.py").exists()
        ):
            say(line, f"{package} imports {name}, which is above it")
        if top in HOMES and not test:
            if not re.fullmatch(HOMES[top], file) and package in (*PACKAGES, ""):
                say(line, f"{top} is imported outside its home ({HOMES[top]})")
            if at_import:
                say(line, f"{top} is imported when the module is; import it where it is used")
        if top in ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"):
            if file not in LOADERS and not test:
                say(line, f"{top} outside {LOADERS[0]}")
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if called == "torch.load" and keywords.get("weights_only") != "True":
            say(node.lineno, "torch.load without weights_only=True")
        if package == "tests":
            continue
        loads = called in ("torch.load", "pickle.load", "pickle.loads", "torch.jit.load")
        if loads and file not in LOADERS:
            say(node.lineno, f"{called} outside {LOADERS[0]}")
        if called.endswith(("np.load", "numpy.load")):
            if keywords.get("allow_pickle", "False") != "False":
                say(node.lineno, "numpy.load with allow_pickle runs code from the file")
        if called.startswith("yaml.") and called.split(".")[1] in (
            "load",
            "unsafe_load",
            "full_load",
        ):
            say(node.lineno, f"{called}: use yaml.safe_load")
        if called in ("eval", "exec"):
            say(node.lineno, called)
    return out


def our_files() -> list[Path]:
    return sorted(
        path
        for path in ROOT.rglob("*.py")
        if not any(
            part in SKIPPED or part.startswith(".") or part.endswith(".egg-info")
            for part in path.relative_to(ROOT).parts
        )
    )


def test_our_files_keep_the_rules():
    files = our_files()
    assert len(files) > 20 and ROOT / "runtime" / "cli.py" in files
    found = [p for f in files for p in problems(f.read_text(), f.relative_to(ROOT).as_posix())]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("imle/a.py", "from data.pyramids import Pyramid"),
        ("imle/a.py", "import models.simclr"),
        ("imle/a.py", "from runtime import cli"),
        ("imle/a.py", "from runtime.run import Run"),
        ("imle/a.py", "def f():\n    from evaluation import fid"),
        ("imle/sub/a.py", "from ...data import x"),
        ("imle/a.py", "import importlib\nimportlib.import_module('data.registry')"),
        ("models/omnigan/a.py", "import diffusion"),
        ("data/a.py", "from runtime import cli"),
        ("data/a.py", "import imle"),
        ("data/a.py", "def f():\n    from diffusion.encoders import RGBEncoder"),
        ("data/Tool.py", "from diffusion.encoders import x\nif __name__ == '__main__':\n    x"),
        ("data/Tool.py", "def f():\n    import imle.codes\nif __name__ == '__main__':\n    f()"),
        ("runtime/a.py", "from data import registry"),
        ("runtime/a.py", "import tests.gloo"),
        ("runtime/a.py", "from os.path import *"),
        ("Train.py", "from imle import *"),
        ("runtime/tracker.py", "import wandb"),
        ("runtime/tracker.py", "try:\n    import wandb\nexcept ImportError:\n    wandb = None"),
        ("runtime/run.py", "def f():\n    import wandb"),
        ("Train.py", "def f():\n    import wandb"),
        ("data/lmdb_store.py", "import lmdb"),
        ("imle/codes.py", "def f():\n    import lpips"),
        ("imle/losses.py", "import lpips"),
        ("evaluation/a.py", "def f():\n    import gdown"),
        ("runtime/tracker.py", "import matplotlib.pyplot as plt"),
        ("imle/a.py", "import torch\ntorch.load('x', weights_only=True)"),
        ("imle/a.py", "import pickle"),
        ("runtime/checkpoint.py", "import torch\ntorch.load('x')"),
        ("runtime/checkpoint.py", "import torch\ntorch.load('x', weights_only=False)"),
        ("tests/a.py", "import torch\ntorch.load('x', weights_only=flag)"),
        ("data/a.py", "import numpy as np\nnp.load('x', allow_pickle=True)"),
        ("experiment.py", "import yaml\nyaml.load('x')"),
        ("models/a.py", "eval('1')"),
    ],
)
def test_a_breach_is_seen(file, source):
    assert len(problems(source, file)) >= 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("imle/a.py", "from runtime import distributed\nfrom runtime.distributed import gather"),
        ("diffusion/a.py", "from runtime import counter_rng\nfrom runtime.counter_rng import mix"),
        ("imle/a.py", "from imle.kkm import KorKMinusOne\nfrom . import rrdb\nimport torch"),
        ("data/a.py", "from runtime import dirs\nfrom runtime.dirs import data_home"),
        ("data/a.py", "from runtime.pickles import read_pickle"),
        ("data/a.py", "from runtime.counter_rng import mix"),
        ("data/a.py", "from runtime.precision import full_fp32"),
        ("models/a.py", "from runtime.precision import full_fp32"),
        ("data/Setup.py", "from runtime import cli\nif __name__ == '__main__':\n    cli"),
        (
            "data/Tool.py",
            "def f():\n    from diffusion.encoders import RGBEncoder\n"
            "if __name__ == '__main__':\n    f()",
        ),
        ("runtime/tracker.py", "def f():\n    import wandb\n    import matplotlib.figure"),
        ("data/lmdb_store.py", "def f():\n    import lmdb"),
        ("Train.py", "import imle, data, runtime, models"),
        ("runtime/checkpoint.py", "import pickle, torch\ntorch.load('x', weights_only=True)"),
        ("data/a.py", "import numpy as np\nnp.load('x')"),
        ("imle/a.py", "model.eval()\nstate.load('x')"),
        (
            "runtime/a.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from runtime import x",
        ),
    ],
)
def test_what_is_allowed_passes(file, source):
    assert problems(source, file) == []
