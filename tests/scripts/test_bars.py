"""Bars on a real terminal, with a rate and the time left, of commands of every kind; silence
elsewhere; and a last line that says where the results lie."""

import fcntl
import os
import re
import struct
import sys
import termios
import threading

import pytest
import torch

import models.simclr
from data import InvertDirStructure, SetupDataset
from data.scenes import sheet
from diffusion.toy import ToyModel
from runtime import logs, progress
from storage.snapshot import save_snapshot
from tests.data.pictures import make_set
from tests.scripts import simclr_support
from tests.scripts.made_runs import make_run
from tests.scripts.support import get_args, load

BAR = r"\d+/\d+ \[\d\d:\d\d<(\?|\d+:\d\d:\d\d), +(\?|[\d.]+k?)?(s/)?{unit}(/s)?"


@pytest.fixture
def terminal(monkeypatch):
    """Runs a function with a pseudo-terminal as stdout and stderr; what it showed there."""

    def run(function):
        ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))
        shown = []

        def read():
            try:
                while piece := os.read(ours, 1 << 16):
                    shown.append(piece)
            except OSError:  # the other side is closed
                pass

        reader = threading.Thread(target=read)
        reader.start()
        with open(theirs, "w", buffering=1) as stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            patch.setattr(sys, "stderr", stream)
            patch.setattr(progress, "SOON_S", 0.0)
            function()
        reader.join()
        os.close(ours)
        return b"".join(shown).decode()

    return run


def a_script(name, *words):
    script = load(name)
    return lambda: script.main(get_args(script, list(words)))


def commands(tmp, monkeypatch):
    """{name: (command, the unit of its bar, what its last line has in it)}."""
    monkeypatch.setenv("RESULTS_HOME", str(tmp / "results"))
    monkeypatch.setenv("DATA_HOME", str(tmp / "data"))
    monkeypatch.setenv("MODELS_HOME", str(tmp / "models"))
    monkeypatch.setattr(models.simclr, "build_backbone", simclr_support.small_backbone)
    torch.manual_seed(0)
    pictures = make_set(tmp / "mine", {"train": {"a": 3, "b": 3}, "val": {"a": 2, "b": 2}})
    make_run(tmp / "results")
    shown = ["--out", str(tmp / "sheet.png"), "--size", "16", "--count", "2"]
    invert = ["--folder", str(pictures), "--out", str(tmp / "out")]
    prepared = ["--data", "mine", "--source", str(pictures), "--sizes", "8", "--num_workers", "0"]
    drawn = ["--preset", "smoke", "--gpus", "cpu", "--outdir"]
    tested = ["test", "--preset", "smoke", "--samples", "64", "--gpus", "cpu"]
    plotted = ["plot", "--preset", "smoke", "--gpus", "cpu", "--save", str(tmp / "p.png")]
    kept = ["--preset", "smoke", "--outdir", str(tmp / "phema")]
    net = ToyModel(hidden_dim=8, num_layers=1)
    trained = [*simclr_support.TINY, "--wandb", "disabled", "--run-dir", str(tmp / "run")]
    toy = tmp / "toy.safetensors"
    save_snapshot(toy, net.state_dict(), "edm2-toy", {"net": net.config}, {})
    given = [str(toy), "--to", "pt2", "--program", "denoiser"]
    return {
        "convert": (a_script("convert", *given), "part", f"wrote {tmp / 'toy.pt2'}"),
        "data.scenes": (lambda: sheet.main(shown), "scene", str(tmp / "sheet.png")),
        "InvertDirStructure": (lambda: InvertDirStructure.main(invert), "link", str(tmp / "out")),
        "SetupDataset": (lambda: SetupDataset.main(prepared), "picture", None),
        "generate_images": (a_script("generate_images", *drawn, str(tmp / "i")), "i[a-z]+", "/i/"),
        "generate_views": (a_script("generate_views", *drawn, str(tmp / "v")), "picture", "/v"),
        "reconstruct_phema": (a_script("reconstruct_phema", *kept), "tensor", None),
        "toy_example test": (a_script("toy_example", *tested), "part", None),
        "toy_example plot": (a_script("toy_example", *plotted), "part", str(tmp / "p.png")),
        "TrainSimCLR": (a_script("TrainSimCLR", *trained), "step", f"results {tmp / 'run'}"),
    }


NAMES = (
    "convert", "data.scenes", "InvertDirStructure", "SetupDataset", "generate_images",
    "generate_views", "reconstruct_phema", "toy_example test", "toy_example plot", "TrainSimCLR",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_bar_on_a_terminal(name, tmp_path, monkeypatch, terminal):
    command, unit, last = commands(tmp_path, monkeypatch)[name]
    shown = terminal(command)
    assert re.search(BAR.replace("{unit}", unit), shown), shown[-2000:]
    lines = [line for line in re.split(r"[\r\n]+", shown) if line.strip()]
    assert last is None or last in lines[-1], lines[-3:]
    if name == "TrainSimCLR":  # what comes after its loop has bars of its own
        for phase in ("features", "linear probe", "probe on augmented pictures"):
            assert re.search(rf"{phase}: .*{BAR.replace('{unit}', 'part')}", shown), phase


@pytest.mark.parametrize("name", ["data.scenes", "SetupDataset", "reconstruct_phema"])
def test_no_bar_in_a_pipe(name, tmp_path, monkeypatch, capfd):
    command, unit, last = commands(tmp_path, monkeypatch)[name]
    command()
    said = "".join(capfd.readouterr())
    assert "\r" not in said and "%|" not in said and f"{unit}/s" not in said
    assert last is None or last in said.splitlines()[-1]


def test_runs_are_read_under_a_bar(tmp_path, monkeypatch, terminal):
    for k in range(3):
        make_run(tmp_path, f"camnet-photos-{k:08x}")
    script = load("runs")
    shown = terminal(
        lambda: script.main(script.get_args(None, ["ls", "--results_path", str(tmp_path)]))
    )
    assert re.search(BAR.replace("{unit}", "folder"), shown)


def test_a_phase_is_beside_the_bar_of_the_loop_and_has_one_of_its_own_elsewhere(terminal):
    def phases():
        told = logs.Logs(torch.device("cpu"), main=True)
        told.phase("before", 1, 2)
        told.phase("before", 2, 2)
        bar = told._bar = progress.Progress(10, desc="loop", main=True)
        monotonic = bar._clock()
        bar._clock = lambda: monotonic + 1
        told.phase("inside", 1, 2)
        told.close_bar()

    shown = terminal(phases)
    assert re.search(r"before: 100%.* 2/2 ", shown) and "in=inside 1/2" in shown
