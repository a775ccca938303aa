"""Signals in a script's last moments, when all is done that was promised: it ends as it would."""

import json
import os
import signal

import pytest

from runtime import launch as launching
from runtime.run import Run
from runtime.rundir import RunDir
from storage.ending import Ends
from storage.errors import NonFiniteError
from tests import faults
from tests import kill_harness as harness
from tests.scripts.support import get_args, load
from tests.scripts.test_experiment import TWO


def signal_after(kind, name):
    """Have this process get SIGTERM whenever the method, or the function of a module, returns."""
    original = getattr(kind, name)

    def after(*args, **named):
        found = original(*args, **named)
        os.kill(os.getpid(), signal.SIGTERM)
        return found

    setattr(kind, name, after)


def after_its_run(name, words, run_dir, fails=False):
    """Entry of a child: a script whose run gives back its lock, and the signals before that."""
    signal_after(RunDir, "release")
    if fails:
        Run.step = not_finite
    faults.run(name, words, run_dir)


def not_finite(*args):
    raise NonFiniteError("three in a row")


def after_its_main(name, words):
    """Entry of a child: a script whose `main` has returned."""
    signal_after(launching, "shutdown")
    Ends().install()
    script = load(name)
    launching.launch(script.main, get_args(script, words))


@pytest.mark.parametrize(
    "name",
    [n if n == "toy_example" else pytest.param(n, marks=pytest.mark.slow) for n in faults.SCRIPTS],
)
def test_a_finished_run_stays_finished(name, tmp_path):
    log, run_dir = tmp_path / "log", tmp_path / "run"
    words = faults.SCRIPTS[name].split()
    assert harness.finish(after_its_run, (name, words, str(run_dir)), log) == 0, log.read_text()
    status = json.loads((run_dir / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("finished", 0)
    assert "SIGTERM" not in log.read_text() and "Traceback" not in log.read_text()


def test_a_run_that_failed_keeps_its_exit_code(tmp_path):
    log, run_dir = tmp_path / "log", tmp_path / "run"
    args = ("toy_example", [], str(run_dir), True)
    assert harness.finish(after_its_run, args, log) == 5, log.read_text()
    assert json.loads((run_dir / "status.json").read_text())["exit_code"] == 5


@pytest.mark.parametrize(
    "name, words",
    [
        ("experiment", "--experiment {0}/e.yaml --dry-run"),
        ("generate_images", "--preset smoke --num_images 1 --samples 1 --outdir {0}/images"),
        ("generate_views", "--preset smoke --num_images 1 --outdir {0}/views"),
        ("calculate_metrics", "ref --preset smoke --dest {0}/ref.npz"),
    ],
)  # fmt: skip
def test_a_script_whose_work_is_done(name, words, tmp_path):
    (tmp_path / "e.yaml").write_text(TWO.replace("BASE", str(tmp_path / "runs")))
    log = tmp_path / "log"
    words = words.format(tmp_path).split()
    assert harness.finish(after_its_main, (name, words), log) == 0, log.read_text()
    assert "SIGTERM: ended" not in log.read_text() and "Traceback" not in log.read_text()
