"""A command without torch says what to do, in one line."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from storage.environment import missing, quiet_interrupts

import pytest

from tests.test_imports import ROOT, is_root_script

PAGES = [p.name for p in sorted(ROOT.glob("*.py")) if is_root_script(p.stem)]
OF_DATA = [  # those that are run as files
    f"data/{p.name}"
    for p in sorted((ROOT / "data").glob("*.py"))
    if "\n    sys.path[0] = " in p.read_text(encoding="utf-8")
]
APART = ("TrainSimCLR.py", "runs.py")  # has all signals; imports no torch
MODULES = ["data.scenes", "data.synthetic", "diffusion.original", "benchmarks.ntxent"]


def without_torch(words: list[str], cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run Python without any installed package."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-S", *words]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("words", [*([p] for p in PAGES + OF_DATA), *(["-m", m] for m in MODULES)])
def test_a_command_without_torch_says_what_to_do(words):
    done = without_torch([*words, "--help"])
    assert done.returncode == 1
    assert done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert "has no torch and no numpy; run: " in done.stderr
    assert done.stderr.rstrip().endswith(". .venv/bin/activate")


def test_the_way_to_the_environment_is_from_where_one_stands(tmp_path):
    done = without_torch([str(ROOT / PAGES[0])], tmp_path)
    where = done.stderr.rstrip().split(" . ")[-1].split("run: . ")[-1]
    assert (tmp_path / where).resolve() == ROOT / ".venv" / "bin" / "activate"


def test_another_program_without_torch_is_not_ended(tmp_path):
    """It gets the ImportError of what it asks for, and may go on."""
    program = tmp_path / "program.py"
    program.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import data, storage.environment\n"
        "print('goes on')\n"
    )
    done = without_torch([str(program)], tmp_path)
    assert done.returncode == 0 and done.stdout == "goes on\n", done.stderr


def test_the_environment_is_made_first_if_it_is_not_there(tmp_path):
    """In a copy: another checkout may have one."""
    (tmp_path / "storage").mkdir()
    for name in ("__init__.py", "environment.py", "ending.py", "console.py", "errors.py"):
        shutil.copy(ROOT / "storage" / name, tmp_path / "storage" / name)
    (tmp_path / "page.py").write_text("import storage.environment\n")
    first = without_torch(["page.py"], tmp_path).stderr
    assert first.endswith("run: make demo, which installs it, and then . .venv/bin/activate\n")
    inner = without_torch(["../page.py"], tmp_path / "storage").stderr
    assert "run: make -C .. demo, " in inner and inner.endswith(" . ../.venv/bin/activate\n")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    assert without_torch(["page.py"], tmp_path).stderr.endswith("run: . .venv/bin/activate\n")


def test_what_is_missing_is_named():
    assert missing() == ""
    assert "has no none_such; run: " in missing(["torch", "none_such"])


def test_a_working_directory_that_is_gone(tmp_path):
    gone = f"mkdir {tmp_path}/a && cd {tmp_path}/a && rmdir ../a && exec {sys.executable}"
    for page in ("toy_example.py", "runs.py"):
        words = ["sh", "-c", f"{gone} {ROOT / page} ls"]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith("error: the working directory was removed; cd into one")
        assert done.stderr.count("\n") == 1


# ---------------------------------------------------------------------------------------- Ctrl-C


def interrupted(
    words: list[str], folder: Path, number: int = signal.SIGINT, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a script that gets a signal while it imports torch or numpy, whichever is first."""
    for name in ("torch", "numpy"):
        (folder / f"{name}.py").write_text(f"import os\nos.kill(os.getpid(), {int(number)})\n")
    env = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"} | env
    command = [sys.executable, *words]
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, preexec_fn=_hear_sigint
    )


def _hear_sigint() -> None:
    # Whatever a shell starts in the background ignores SIGINT, and so would its children.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("page", ["TrainGeneratorWandB.py", "generate_images.py"])
def test_ctrl_c_during_imports_is_one_line(tmp_path, page):
    done = interrupted([page], tmp_path)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "interrupted\n")
    assert "Traceback" in interrupted([page], tmp_path, IMLE_LAB_TRACEBACK="1").stderr


@pytest.mark.parametrize(
    "page, number",
    [
        *(("TrainSimCLR.py", number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)),
        *((page, signal.SIGTERM) for page in PAGES if page not in APART),
    ],
)
def test_a_scheduler_that_ends_it_during_imports_runs_it_again(tmp_path, page, number):
    done = interrupted([page], tmp_path, number)
    said = f"{number.name}: ended; the same command goes on from what is saved, or begins anew\n"
    assert (done.returncode, done.stderr) == (75, said)


def test_another_programs_ctrl_c_is_its_own(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import storage.environment\n"
        "assert sys.excepthook is sys.__excepthook__\n"
        "import torch\n"
    )
    done = interrupted([str(program)], tmp_path)
    assert done.stderr.endswith("KeyboardInterrupt\n") and "Traceback" in done.stderr


def test_a_spawned_rank_leaves_the_line_to_its_launcher(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(sys, "excepthook", lambda *about: seen.append(about[0]))
    monkeypatch.setattr(sys, "orig_argv", [*sys.orig_argv, "--multiprocessing-fork"])
    monkeypatch.delenv("IMLE_LAB_TRACEBACK", raising=False)
    quiet_interrupts()
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    sys.excepthook(ValueError, ValueError(), None)
    assert seen == [ValueError] and capsys.readouterr().err == ""
