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
METHODS = ("imle", "models", "diffusion", "selection", "evaluation")
# From the ground up; a package imports itself and what is below it. Parts do not see one another.
FLOORS = (("storage",), ("runtime",), ("data", *METHODS), ("generators",), ("recipes",))
FLOOR = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}
# What of runtime has no run in it, so that networks, losses and readers may use it.
PROCESSLESS = {
    "data": r"runtime\.(counter_rng|precision|progress|workers)(\.|$)",
    **dict.fromkeys(METHODS, r"runtime\.(distributed|counter_rng|precision|workers)(\.|$)"),
}
SKIPPED = {".venv", "venv", "build", "dist", "__pycache__", "results", "runs", "wandb", "datasets"}

# Third-party plumbing lives in one place each, and is imported inside the function that needs it.
HOMES = {
    "wandb": r"runtime/tracker\.py",
    "tensorboard": r"runtime/event_files\.py",
    "lmdb": r"data/readers/lmdb_store\.py",
    "lpips": r"imle/(losses|perceptual)\.py",
    "gdown": r"data/prepare/download\.py",
    "matplotlib": r".*",
    "diffusers": r"diffusion/encoders\.py",
    "onnx": r"recipes/convert/to_onnx\.py",
    "onnxscript": r"recipes/convert/to_onnx\.py",
    "onnxruntime": r"recipes/convert/to_onnx\.py",
    "timm": r"evaluation/extractors/library\.py",
}

# The only files that may read what could carry code. Every other one calls their functions.
LOADERS = ("storage/torchfile.py", "imle/perceptual.py")

# Imports of root scripts that are still there, as (file, script): how many statements. There are
# none left, and none is to come back.
EXCEPTIONS: dict[tuple[str, str], int] = {}


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
        if not test and is_root_script(top):
            say(line, f"imports the root script {top}")
        if package in FLOOR and top in ("tests", "benchmarks"):
            say(line, f"{package} imports {name}, which is above it")
        if package in FLOOR and top in FLOOR and top != package:
            command = package == "data" and is_command(tree)
            if FLOOR[top] > FLOOR[package]:
                say(line, f"{package} imports {name}, which is above it")
            elif FLOOR[top] == FLOOR[package]:
                # A command composes; the method only where it is used.
                if not (command and not at_import and name.startswith("diffusion.encoders.")):
                    say(line, f"{package} imports {name}, which is beside it")
            elif top == "runtime" and package in PROCESSLESS and not command:
                if not re.match(PROCESSLESS[package], name):
                    say(line, f"{package} imports {name}, where a process is")
        if top in HOMES and not test:
            if not re.fullmatch(HOMES[top], file) and package in (*FLOOR, ""):
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


def is_root_script(module: str) -> bool:
    """Whether a module is a command at the top: the door `imle_lab.py` and setup.py are none."""
    file = ROOT / f"{module}.py"
    return module not in ("imle_lab", "setup", "conftest") and file.is_file()


def test_our_files_keep_the_rules():
    files = our_files()
    assert len(files) > 20 and ROOT / "runtime" / "cli.py" in files
    found = [p for f in files for p in problems(f.read_text(), f.relative_to(ROOT).as_posix())]
    of_scripts: dict[tuple[str, str], int] = {}
    others = []
    for problem in dict.fromkeys(found):  # an import statement once, however many names it has
        match = re.fullmatch(r"(.+):\d+: imports the root script (\w+)", problem)
        if match is None:
            others.append(problem)
        else:
            of_scripts[match.groups()] = of_scripts.get(match.groups(), 0) + 1
    assert not others, "\n" + "\n".join(others)
    assert of_scripts == EXCEPTIONS, "take from EXCEPTIONS what is gone, and add nothing"


class _WithoutTypes(ast.NodeTransformer):
    """Takes out what stands under `if TYPE_CHECKING:`."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if "TYPE_CHECKING" in ast.unparse(node.test) else node


def _without_types(tree: ast.Module) -> ast.Module:
    return _WithoutTypes().visit(tree)


def modules_graph(files: list[Path]) -> dict[str, set[str]]:
    """Our modules and which of ours each imports, lazily too; not what is for types alone."""
    names = {}
    for file in files:
        parts = file.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    graph: dict[str, set[str]] = {}
    for module, file in names.items():
        tree = _without_types(ast.parse(file.read_text()))
        graph[module] = set()
        for name, _, _ in imported(tree, file.relative_to(ROOT).as_posix()):
            while name and name not in names:
                name = name.rpartition(".")[0]
            if name and name != module:
                graph[module].add(name)
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A way from a module back to itself, or an empty list."""
    done: set[str] = set()

    def walk(node: str, way: list[str]) -> list[str]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node in done:
            return []
        for below in sorted(graph.get(node, ())):
            if found := walk(below, [*way, node]):
                return found
        done.add(node)
        return []

    for node in sorted(graph):
        if found := walk(node, []):
            return found
    return []


def test_imports_run_in_no_circle():
    graph = modules_graph([f for f in our_files() if "tests" not in f.relative_to(ROOT).parts])
    # A package's __init__ gathers its modules' names; a module that imports a sibling is no circle.
    packages = {m for m in graph if (ROOT / m.replace(".", "/") / "__init__.py").is_file()}
    plain = {m: below - packages for m, below in graph.items() if m not in packages}
    assert len(plain) > 80
    assert not (found := circle(plain)), " -> ".join(found)


def test_recipes_import_simpler_recipes_only():
    graph = modules_graph(our_files())
    recipes: dict[str, set[str]] = {}
    for module, below in graph.items():
        if module.startswith("recipes."):
            own = recipes.setdefault(module.split(".")[1], set())
            own |= {b.split(".")[1] for b in below if b.startswith("recipes.")}
    recipes = {name: below - {name} for name, below in recipes.items()}
    assert not (found := circle(recipes)), " -> ".join(found)


def test_a_circle_is_seen():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


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
        ("storage/a.py", "from runtime import distributed"),
        ("storage/a.py", "def f():\n    from data import registry"),
        ("runtime/a.py", "from generators import door"),
        ("data/a.py", "from recipes.imle import parts"),
        ("generators/a.py", "from recipes.take import take"),
        ("recipes/imle/a.py", "import train_edm2"),
        ("generators/a.py", "def f():\n    from generate_images import draw"),
        ("benchmarks/a.py", "from TrainSimCLR import get_args"),
        ("train_ddpm.py", "import train_edm2"),
        ("data/a.py", "from runtime import distributed"),
        ("Train.py", "from imle import *"),
        ("runtime/tracker.py", "import wandb"),
        ("runtime/tracker.py", "try:\n    import wandb\nexcept ImportError:\n    wandb = None"),
        ("runtime/run.py", "def f():\n    import wandb"),
        ("Train.py", "def f():\n    import wandb"),
        ("data/readers/lmdb_store.py", "import lmdb"),
        ("imle/codes.py", "def f():\n    import lpips"),
        ("imle/losses.py", "import lpips"),
        ("evaluation/a.py", "def f():\n    import gdown"),
        ("runtime/tracker.py", "import matplotlib.pyplot as plt"),
        ("imle/a.py", "import torch\ntorch.load('x', weights_only=True)"),
        ("imle/a.py", "import pickle"),
        ("storage/torchfile.py", "import torch\ntorch.load('x')"),
        ("storage/torchfile.py", "import torch\ntorch.load('x', weights_only=False)"),
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
        ("data/a.py", "from storage import dirs\nfrom storage.dirs import data_home"),
        ("data/a.py", "from storage.foreign.pickles import read_pickle"),
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
        ("data/readers/lmdb_store.py", "def f():\n    import lmdb"),
        ("Train.py", "import imle, data, runtime, models"),
        ("Train.py", "from recipes.imle import parts\nfrom generators import door"),
        ("recipes/a.py", "from generators.door import open_generator\nfrom runtime.run import Run"),
        (
            "generators/a.py",
            "import imle\nfrom data.registry import open_source\nimport runtime.ema",
        ),
        ("diffusion/a.py", "from storage.foreign.pickles import read_pickle"),
        ("runtime/a.py", "from storage.errors import UsageError"),
        ("benchmarks/a.py", "from recipes.imle.options import get_args"),
        ("storage/torchfile.py", "import pickle, torch\ntorch.load('x', weights_only=True)"),
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
