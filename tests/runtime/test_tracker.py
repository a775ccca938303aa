"""metrics.jsonl whatever happens, W&B that cannot stall, curves.

Everything that starts W&B runs in a process of its own, for W&B leaves threads behind.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from runtime import tracker
from runtime.tracker import Tracker

ROOT = Path(__file__).resolve().parents[2]


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def steps(folder):
    return [line["step"] for line in lines(folder)]


def offline_free(folder, **options):
    return Tracker(folder, "disabled", **options)


# --- metrics.jsonl


def test_figures_are_one_line_per_step(tmp_path):
    t = offline_free(tmp_path)
    t.log({"loss": torch.tensor(0.5), "n": 3, "lr": np.float32(0.25)}, 1)
    t.log({"loss": 0.25, "flag": True}, 2)
    t.log({"val": 1.5, "loss": 0.125}, 2)  # merged, the later value wins
    t.log({"loss": 1}, 3)
    plain = [{k: v for k, v in line.items() if k != "time"} for line in lines(tmp_path)]
    assert plain == [
        {"step": 1, "loss": 0.5, "n": 3, "lr": 0.25},
        {"step": 2, "loss": 0.125, "flag": 1, "val": 1.5},
        {"step": 3, "loss": 1},
    ]
    assert all(abs(line["time"] - time.time()) < 60 for line in lines(tmp_path))


def test_merging_goes_on_after_a_restart(tmp_path):
    offline_free(tmp_path).log({"a": 1.23456789}, 7)
    t = offline_free(tmp_path, resume_step=7)
    t.log({"a": 2, "b": 3}, 7)  # a shorter line than the one it replaces would leave a tail
    t.log({"a": 4}, 8)
    assert [(r["step"], r["a"]) for r in lines(tmp_path)] == [(7, 2), (8, 4)]


def test_what_is_not_finite_is_null(tmp_path):
    t = offline_free(tmp_path)
    t.log({"a": float("nan"), "b": torch.tensor(float("inf")), "c": 1.0}, 1)
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert (lines(tmp_path)[0]["a"], lines(tmp_path)[0]["b"]) == (None, None)


def test_only_numbers_are_figures(tmp_path):
    for bad in (torch.zeros(2), "text", None, [1]):
        with pytest.raises(TypeError, match="one number"):
            offline_free(tmp_path).log({"a": bad}, 1)


def test_a_half_line_is_repaired_at_the_start(tmp_path):
    t = offline_free(tmp_path)
    for s in range(4):
        t.log({"loss": 1.0 / (s + 1)}, s)
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    start = whole[:-1].rfind(b"\n") + 1  # of the last line
    for cut in (start + 1, start + 10, len(whole) - 2):
        (tmp_path / "metrics.jsonl").write_bytes(whole[:cut])
        assert list(tracker.read_series(tmp_path / "metrics.jsonl")["loss"][0]) == [0, 1, 2]
        offline_free(tmp_path).log({"loss": 9}, 3)
        assert steps(tmp_path) == [0, 1, 2, 3] and lines(tmp_path)[3]["loss"] == 9
    # Whole but for its line break: the line counts, and the next one must not stick to it.
    (tmp_path / "metrics.jsonl").write_bytes(whole[:-1])
    offline_free(tmp_path).log({"loss": 9}, 4)
    assert steps(tmp_path) == [0, 1, 2, 3, 4]


def test_junk_in_the_file_is_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(
        b'{"step": 1, "a": 1}\n\x00\xff\x00\n[1]\n{"a": 2}\n{"step": "x"}\n\n{"step": 2, "a": 2}\n'
    )
    offline_free(tmp_path)
    assert steps(tmp_path) == [1, 2]


def test_resume_forgets_later_steps(tmp_path):
    t = offline_free(tmp_path)
    for s in range(10):
        t.log({"loss": float(s)}, s)
    t = offline_free(tmp_path, resume_step=6)
    assert steps(tmp_path) == list(range(7))
    t.log({"loss": -1.0}, 7)
    assert steps(tmp_path) == list(range(8)) and lines(tmp_path)[7]["loss"] == -1
    t.rewind(0)
    assert steps(tmp_path) == [0]
    offline_free(tmp_path)  # no resume_step: nothing is forgotten
    assert steps(tmp_path) == [0]
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_an_interrupted_rewind_leaves_the_old_file(tmp_path, monkeypatch):
    t = offline_free(tmp_path)
    for s in range(4):
        t.log({"a": s}, s)

    def fail(*args):
        raise OSError("killed here")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError):
        t.rewind(1)
    assert steps(tmp_path) == [0, 1, 2, 3] and len(os.listdir(tmp_path)) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_does_not_stop_training(tmp_path, capsys):
    t = offline_free(tmp_path)
    t.metrics = Path("/dev/full")
    t.log({"a": 1}, 1)
    assert "step 1 not written: No space left" in capsys.readouterr().err


@pytest.mark.usefixtures("curves")
def test_other_ranks_write_nothing(tmp_path):
    t = Tracker(tmp_path / "run", "online", is_main=False)
    t.log({"a": 1}, 1)
    t.image("x", tmp_path / "x.png", 1)
    t.rewind(0)
    t.curves()
    t.finish()
    assert not (tmp_path / "run").exists()


def test_an_unknown_mode_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'dryrun'"):
        Tracker(tmp_path, "dryrun")


# --- curves


def pixels(path):
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.usefixtures("curves")
def test_curves(tmp_path):
    t = offline_free(tmp_path)
    assert not t.curves().exists()  # nothing to draw
    for s in range(300):
        t.log({"loss": 10.0 ** (-s / 60), "acc": s / 300, "signed": s - 150}, s)
    t.log({"nan": float("nan"), "once": 1.0}, 300)
    path = t.curves()
    assert path == tmp_path / "curves.png" and pixels(path).std() > 5
    assert sorted(os.listdir(tmp_path)) == ["curves.png", "metrics.jsonl"]


# --- W&B

SCRIPT = """
import json, sys, time
from runtime.tracker import Tracker
mode, folder = sys.argv[1], sys.argv[2]
out = []
for turn in range(2):
    start = time.monotonic()
    t = Tracker(folder, mode, name="r", config={"lr": 1e-3, "path": sys}, resume_step=turn)
    opened = time.monotonic() - start
    t.log({"loss": 0.5, "bad": float("nan")}, turn + 1)
    t.image("grid", t.curves(), turn + 1, caption="c")
    start = time.monotonic()
    t.finish(75)
    t.finish(0)
    out.append((t.id, t.mode, opened, time.monotonic() - start))
    if len(sys.argv) > 3:
        break
print(json.dumps([out, "wandb" in sys.modules]))
"""


def start(tmp_path, mode, *, turns=2, **env):
    """A process that opens and closes the tracker of one run directory twice."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "NETRC"))}
    bare = {k: v for k, v in bare.items() if not k.lower().endswith("_proxy")}
    bare |= {"HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env}
    words = [sys.executable, "-c", SCRIPT, mode, str(tmp_path / "run"), *["once"] * (turns == 1)]
    return subprocess.Popen(
        words,
        env=bare,
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process):
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    *said, last = out.splitlines()
    turns, imported = json.loads(last)
    return turns, imported, "\n".join(said)


def offline_runs(tmp_path):
    return list((tmp_path / "run" / "wandb").glob("offline-run-*"))


def test_disabled_imports_no_wandb(tmp_path):
    turns, imported, said = result(start(tmp_path, "disabled"))
    assert not imported and said == "" and steps(tmp_path / "run") == [1, 2]
    assert sorted(os.listdir(tmp_path / "run")) == ["curves.png", "metrics.jsonl"]


def test_no_key_goes_offline_with_one_id_for_life(tmp_path):
    turns, _, said = result(start(tmp_path, "online"))
    (one, mode, opened, closed), (two, *_) = turns
    assert one == two == (tmp_path / "run" / "wandb_id").read_text().strip() and mode == "offline"
    assert opened < 20 and closed < 20
    runs = offline_runs(tmp_path)
    # wandb numbers those of one second: offline-run-DATE_TIME-ID, ..-ID-1
    assert runs and all(re.fullmatch(rf"offline-run-\d+_\d+-{one}(-\d+)?", r.name) for r in runs)
    short = "wandb: no API key, so offline. `wandb login` stores one; --wandb disabled does without"
    assert said.splitlines().count(f"{short} W&B") == 2 and "wandb sync" not in said
    assert steps(tmp_path / "run") == [1, 2]


@pytest.mark.parametrize(("mode", "why"), [("online", "no API key, and "), ("offline", "")])
def test_a_wandb_that_does_not_start_is_one_line(tmp_path, monkeypatch, capsys, mode, why):
    monkeypatch.setattr(tracker, "_why_offline", lambda: tracker._NO_KEY)
    monkeypatch.setattr(tracker, "_bounded", lambda *args: ("late", None))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    tracker.Tracker(tmp_path, mode)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"wandb: {why}not recording offline (no answer in 5 s). Figures are in ")
    assert ("--wandb disabled" in line) == (mode == "online")


def test_a_dead_server_goes_offline(tmp_path):
    env = {"WANDB_API_KEY": "f" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    turns, _, said = result(start(tmp_path, "online", turns=1, **env))
    assert turns[0][1] == "offline" and turns[0][2] < 20 and turns[0][3] < 20
    assert "wandb: unreachable (127.0.0.1: " in said and "wandb sync --id" in said
    assert len(offline_runs(tmp_path)) == 1


def test_a_server_that_never_answers_costs_less_than_20_s(tmp_path):
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(64)
        env = {
            "WANDB_API_KEY": "f" * 40,
            "WANDB_BASE_URL": f"http://127.0.0.1:{mute.getsockname()[1]}",
        }
        begun = time.monotonic()
        turns, _, said = result(start(tmp_path, "online", turns=1, **env))
        assert time.monotonic() - begun < 40  # nor is the end of the process held up
    ((_, mode, opened, closed),) = turns
    assert mode == "offline" and opened < 20 and closed < 20
    assert "wandb: unreachable" in said and steps(tmp_path / "run") == [1]
    assert len(offline_runs(tmp_path)) == 1


def test_wandb_mode_can_only_lower(tmp_path):
    turns, imported, _ = result(start(tmp_path, "online", WANDB_MODE="disabled"))
    assert turns[0][1] == "disabled" and not imported
    turns, imported, _ = result(start(tmp_path, "disabled", WANDB_MODE="online"))
    assert turns[0][1] == "disabled" and not imported


def test_the_id_of_the_directory_wins_over_the_checkpoints(tmp_path):
    file = tmp_path / "wandb_id"
    assert tracker._keep_id(file, "from-checkpoint") == "from-checkpoint"
    assert tracker._keep_id(file, "other") == "from-checkpoint"
    file.write_text("../bad id\n")
    assert tracker._keep_id(file, None) == file.read_text().strip() != "../bad id"


def test_a_key_is_looked_for_where_wandb_looks(tmp_path, monkeypatch):
    for name in [k for k in os.environ if k.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.chdir(tmp_path)
    assert not tracker._has_key("api.wandb.ai")
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password xyz\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert tracker._has_key("api.wandb.ai") and not tracker._has_key("other.host")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert not tracker._has_key("api.wandb.ai")
    monkeypatch.setenv("WANDB_API_KEY", "k")
    assert tracker._has_key("other.host")


class Stuck:
    """A run of W&B whose service was stopped: what is sent waits for it."""

    asked = 0

    def log(self, *args, **kwargs):
        self.asked += 1
        time.sleep(5)


def test_a_service_that_takes_nothing_is_let_go(tmp_path, monkeypatch, capsys):
    given_up = []
    wandb = SimpleNamespace(teardown=lambda exit_code: given_up.append(exit_code))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(tracker, "_SEND_S", 0.1)
    t = tracker.Tracker(tmp_path, "disabled")
    t._run = run = Stuck()
    for step in (1, 2):
        t.log({"loss": 0.5}, step)
    assert run.asked == 1 and given_up == [1] and steps(tmp_path) == [1, 2]
    assert "wandb stopped (its service took nothing in 0.1 s)" in capsys.readouterr().out


def test_bounded_work():
    assert tracker._bounded(lambda: 3, 5) == ("ok", 3)
    kind, error = tracker._bounded(lambda: 1 / 0, 5)
    assert kind == "error" and isinstance(error, ZeroDivisionError)
    dropped = []
    begun = time.monotonic()
    assert tracker._bounded(lambda: time.sleep(0.3) or 7, 0.05, dropped.append) == ("late", None)
    assert time.monotonic() - begun < 0.25
    time.sleep(0.5)
    assert dropped == [7]


class Broken:
    def log(self, values, step):
        raise RuntimeError("connection lost\nmore")


def test_a_failing_wandb_is_dropped(tmp_path, capsys):
    t = offline_free(tmp_path)
    t._run = Broken()
    t.log({"a": 1}, 1)
    t.log({"a": 2}, 2)
    assert steps(tmp_path) == [1, 2]
    assert capsys.readouterr().out.count("wandb stopped (connection lost)") == 1
