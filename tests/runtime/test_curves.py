"""curves.png: which panels, what stands on them, and that nothing of it ends a run."""

import itertools
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from runtime import curves, tracker
from runtime.curves import draw_curves, figure_of, panels_of, unit_of
from runtime.logs import Logs
from tests.runtime.test_tracker import offline_free


def curve(*values):
    return list(range(len(values))), [float(v) for v in values]


LONG = "final/augmented(crop+flip, 20 epochs, standardised, h), 3 folds acc1"
SERIES = {
    "nimg": curve(8, 16, 24),
    "epoch": curve(0, 0, 1),
    "once": ([7], [1.0]),
    "val/psnr": curve(10, 11, 12),
    "val/best_psnr": curve(11, 12, 13),
    "val/bicubic_psnr": curve(21, 21, 21),
    "search loss": curve(3, 2, 1),
    "time/step_s": curve(1, 2, 3),
    LONG: curve(0.1, 0.2, 0.3),
    LONG.replace("3 folds", "no folds at all"): curve(0.1, 0.2, 0.3),
    "eval/" + "x" * 90: curve(0.1, 0.2, 0.3),
}


def test_no_panel_of_a_counter_or_of_a_single_point():
    panels = panels_of(SERIES)
    assert not {"nimg", "epoch", "once"} & set(panels)
    assert list(panels["val/psnr"]) == ["val/psnr", "val/best_psnr", "val/bicubic_psnr"]
    assert "val/best_psnr" not in panels and len(panels) == 6
    alone = panels_of({"val/best_psnr": curve(1, 2), "best": curve(1, 2)})
    assert list(alone) == ["val/best_psnr", "best"]
    nested = ["val/lpips", "val/diversity_lpips", "val/consistent_diversity_lpips"]
    assert set(panels_of({name: curve(1, 2) for name in nested})["val/lpips"]) == set(nested)


def test_no_title_overlaps_and_both_axes_are_named():
    figure = figure_of(panels_of(SERIES))
    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)  # lays it out
    whole = figure.get_window_extent(renderer)
    words, axes = [], figure.axes
    for panel in axes:
        assert panel.get_xlabel() == "step" and panel.get_ylabel()
        parts = [panel.title, panel.xaxis.label, panel.yaxis.label]
        words += [part.get_window_extent(renderer) for part in parts]
    for one, other in itertools.combinations(words, 2):
        assert not one.overlaps(other)
    for word in words:
        assert whole.x0 <= word.x0 and word.x1 <= whole.x1
        for panel in axes:
            assert not word.overlaps(panel.get_window_extent(renderer))
    named = {panel.get_title().replace("\n", " "): panel for panel in axes}
    assert LONG in named and named["val/psnr"].get_ylabel() == "dB"
    texts = [text.get_text() for text in named["val/psnr"].get_legend().get_texts()]
    assert texts == ["psnr", "best", "bicubic"]


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("val/best_psnr", "dB"), ("time/images_per_s", "per second"), ("time/step_s", "seconds"),
        ("memory/peak_gb", "GB"), ("val/lpips_random", "LPIPS"), ("loss_tr", "loss"),
        ("loss/sigma 0.15-0.317", "loss"), ("acc_val", "share"),
        ("perplexity / B", "perplexity / B"), ("Learning rate", "learning rate"),
        ("entropy", "entropy"), (LONG, "share"),
        ("Average Validation EMA L2 Distance", "distance"),
    ],
)  # fmt: skip
def test_the_vertical_axis_says_what_it_measures(name, unit):
    assert unit_of(name) == unit


def test_losses_and_validation_come_first_and_costs_last():
    names = ["Learning rate", "Loss", "Mandala Score", "acc_val", "entropy", "lr", "memory/peak_gb"]
    names += ["search loss", "time/step_s", "val/psnr"]
    order = ["Loss", "search loss", "acc_val", "val/psnr", "Mandala Score", "entropy"]
    order += ["Learning rate", "lr", "memory/peak_gb", "time/step_s"]
    assert list(panels_of({name: curve(1, 2) for name in names})) == order


def test_losses_by_noise_level_are_lines_of_one_panel():
    levels = ["0-2e-05", "2e-05-0.15", "0.15-0.317", "0.317-0.67", "2.96-10", "10-inf"]
    series = {f"loss/sigma {level}": curve(1, 2) for level in reversed(levels)}
    (panel,) = figure_of(panels_of(series)).axes
    assert (panel.get_title(), panel.get_ylabel()) == ("loss by noise level", "loss")
    texts = [text.get_text() for text in panel.get_legend().get_texts()]
    assert texts == [f"sigma {level}" for level in levels]


def test_combined_is_called_what_it_is():
    series = {"val/combined": curve(2, 1), "val/best_combined": curve(1, 0.5)}
    (panel,) = figure_of(panels_of(series)).axes
    title = panel.get_title().replace("\n", " ")
    assert (title, panel.get_ylabel()) == ("val/loss: perceptual + weighted MSE", "loss")
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["loss", "best"]


def test_log_scale_only_where_it_helps():
    series = {
        "wide": curve(1e-3, 1),
        "narrow": curve(0.1, 1),
        "with zero": curve(0, 1e3),
        "negative": curve(-1, 1e3),
    }
    scales = {panel.get_title(): panel.get_yscale() for panel in figure_of(panels_of(series)).axes}
    assert scales == {name: "log" if name == "wide" else "linear" for name in series}


def test_nothing_to_draw_leaves_no_file(tmp_path):
    assert not draw_curves({"once": ([1], [2.0]), "nimg": curve(1, 2)}, tmp_path / "curves.png")
    assert list(tmp_path.iterdir()) == []
    assert draw_curves({"a": curve(*range(300))}, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert np.asarray(image).std() > 5


DRAW = """
import os, sys
from pathlib import Path
from runtime.curves import draw_curves
assert draw_curves({"a": ([1, 2], [1.0, 2.0])}, Path(sys.argv[1]))
assert os.environ["MPLBACKEND"] == "no-such-backend" and "matplotlib.pyplot" not in sys.modules
"""


def test_whatever_the_backend_of_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "no-such-backend")
    words = [sys.executable, "-c", DRAW, str(tmp_path / "curves.png")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tracker.__file__[:-18])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "curves.png").is_file()


@pytest.mark.usefixtures("curves")
@pytest.mark.parametrize("error", [OSError(28, "No space left"), ValueError("a\nb"), ImportError()])
def test_a_drawing_that_fails_ends_no_run(tmp_path, monkeypatch, capsys, error):
    def fail(*args):
        raise error

    own = offline_free(tmp_path)
    own.log({"a": 1.0}, 1)
    own.log({"a": 2.0}, 2)
    logs = Logs(device=None, main=True)
    logs._tracker, logs.folder = own, tmp_path
    monkeypatch.setattr(curves, "figure_of", fail)
    logs.draw_curves()
    assert "curves.png not drawn: " in capsys.readouterr().out
    picture = logs.picture("x", fail, stamp=2, completed=2)
    assert picture is None and "samples x-000000002.png not written" in capsys.readouterr().out


def test_curves_within_the_loop_are_not_drawn_all_the_time(monkeypatch):
    """At most once a minute, the first time a minute behind the loop's begin; at the end always."""
    drawn, now = [], [1000.0]
    monkeypatch.setattr("runtime.logs.time.monotonic", lambda: now[0])
    logs = Logs(device=None, main=True)
    logs._tracker = SimpleNamespace(curves=lambda: drawn.append(now[0]))
    logs._drawn = now[0]
    for now[0] in (1010.0, 1059.0, 1060.0, 1100.0, 1119.0, 1121.0):
        logs.redraw_curves()
    assert drawn == [1060.0, 1121.0]
    logs.draw_curves()
    assert drawn == [1060.0, 1121.0, 1121.0]
