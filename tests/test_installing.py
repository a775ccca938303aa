"""Installing the toolkit harms no other project, and --golden-dir works without a plugin."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
IGNORED = shutil.ignore_patterns("__pycache__", "vectors")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The editable wheel that `pip install -e .` makes; of a copy, since building leaves traces."""
    tree = tmp_path_factory.mktemp("tree")
    for file in ROOT.iterdir():
        if file.suffix in (".py", ".toml", ".md", ".txt"):
            shutil.copy(file, tree)
        elif (file / "__init__.py").is_file():
            shutil.copytree(file, tree / file.name, ignore=IGNORED)
    dist = tmp_path_factory.mktemp("dist")
    program = f"from setuptools.build_meta import build_editable as b; print(b({str(dist)!r}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return next(dist.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A fresh environment with that wheel and pytest (linked): how its `pytest` is started."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    wanted, seen = ["pytest"], set()
    while wanted:
        name = wanted.pop()
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # one for another platform
            continue
        for file in found.files or ():
            top = file.parts[0]
            if top not in seen and top not in ("..", "__pycache__"):
                seen.add(top)
                os.symlink(found.locate_file(top), site / top)
        for needed in found.requires or ():
            if "extra ==" not in needed:
                wanted.append(re.match(r"[\w.-]+", needed)[0])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    program = folder / "bin" / "pytest"
    python = folder / "bin" / "python"
    program.write_text("import pytest, sys\nsys.exit(pytest.main())\n")
    return [python, program]


def run(command: list[object], cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "PYTHON"))}
    return subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True)


def test_neither_tests_nor_a_plugin_is_installed(wheel):
    with zipfile.ZipFile(wheel) as archive:
        files = {Path(name).name: archive.read(name).decode() for name in archive.namelist()}
    tops = files["top_level.txt"].split()
    assert {"data", "imle", "imle_lab", "runtime", "storage"} <= set(tops)
    assert not {"tests", "benchmarks", "conftest"} & set(tops)
    assert "pytest11" not in files.get("entry_points.txt", "")
    finder = next(text for name, text in files.items() if name.endswith("finder.py"))
    assert "'storage':" in finder and "'tests':" not in finder


def test_another_projects_tests_run(environment, tmp_path):
    package = tmp_path / "tests"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "test_a.py").write_text("import tests\ndef test_a():\n    import storage.files\n")
    done = run([*environment, "-q"], tmp_path)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


@pytest.fixture
def tree(tmp_path):
    """The repository with one golden test, so that nothing else is collected."""
    tree = tmp_path / "repository"
    for name in (
        *("conftest.py", "pyproject.toml", "setup.py"),
        *("tests/__init__.py", "tests/conftest.py", "tests/golden_option.py"),
    ):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    (tree / "tests" / "golden").mkdir()
    (tree / "tests" / "golden" / "__init__.py").touch()
    (tree / "tests" / "golden" / "test_one.py").write_text(
        "import pytest\n"
        "def pytest_generate_tests(metafunc):\n"
        "    if 'at' in metafunc.fixturenames:\n"
        "        metafunc.parametrize('at', [metafunc.config.getoption('--golden-dir')])\n"
        "@pytest.mark.golden\n"
        "def test_folder(golden_dir, at):\n"
        "    assert at == golden_dir\n"
        "    print('FOLDER', golden_dir)\n"
        "def test_other():\n"
        "    pass\n"
    )
    (tmp_path / "vectors").mkdir()
    return tree


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "golden", "--golden-dir", "DIR", "tests"],
        ["-m", "golden", "--golden-dir=DIR", "tests"],
        ["-m", "golden", "--golden-dir=DIR"],
        ["tests", "-m", "golden", "--golden-dir", "DIR"],
        ["-q", "--golden-dir", "DIR", "tests", "-m", "golden", "-x"],
        ["--golden-dir", "DIR", "-m", "golden", "tests/golden/test_one.py"],
        ["--golden-dir", "DIR", "-m", "golden", "tests/golden/test_one.py::test_folder"],
        ["--golden-dir", "DIR", "-m", "golden", "FULL/tests"],
        ["--golden-dir", "../vectors", "-m", "golden", "tests"],
    ],
    ids=" ".join,
)
def test_golden_dir_is_known_in_every_order(words, tree, environment):
    given = tree.parent / "vectors"
    words = [w.replace("DIR", str(given)).replace("FULL", str(tree)) for w in words]
    done = run([*environment, "-s", *words], tree)
    assert done.returncode == 0, done.stdout + done.stderr
    said = re.search(r"FOLDER (.+)", done.stdout)
    assert said and (tree / said[1]).resolve() == given and "1 passed" in done.stdout


def test_golden_dir_is_known_elsewhere_and_has_a_default(tree, environment):
    given = tree.parent / "vectors"
    done = run(
        [*environment, "-s", tree / "tests", "-m", "golden", "--golden-dir", given], Path("/")
    )
    assert done.returncode == 0 and f"FOLDER {given}\n" in done.stdout, done.stdout + done.stderr
    done = run([*environment, "-s", "-m", "golden"], tree)
    assert done.returncode == 0 and f"FOLDER {tree}/tests/golden/vectors\n" in done.stdout


def test_a_plugin_that_is_still_installed_does_no_harm(tree, environment):
    """Versions before installed `tests.golden_option` as one."""
    words = ["-p", "tests.golden_option", "-s", "-m", "golden", "--golden-dir", "/", "tests"]
    done = run([environment[0], "-m", "pytest", *words], tree)
    assert done.returncode == 0 and "FOLDER /\n" in done.stdout, done.stdout + done.stderr
