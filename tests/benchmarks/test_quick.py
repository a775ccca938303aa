"""`--quick` of those benchmarks that are long or take no options for a trial."""

import pytest

from benchmarks import (
    edm2_arms,
    isicle_arms,
    layout_attention,
    metrics,
    omnigan_step,
    pictures,
    scenes,
    unet,
)
from recipes.simclr.options import PRESETS


def test_scenes(capsys):
    scenes.main(["--quick"])
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 5 and all(line.split()[0] == "16" for line in said[1:])


def test_metrics(capsys):
    metrics.main(["--quick", "--parts", "frechet"])
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1] for line in said[4:]] == ["ours", "numpy", "ours", "eig", "sqrtm"]
    assert all(float(line.split(" | ")[-1].rstrip(" |")) < 1e-6 for line in said[-2:])


def test_features_a_second(capsys):
    metrics.main(["--quick", "--parts", "features"])
    said = capsys.readouterr().out.splitlines()
    rows = [line.split(" | ") for line in said if line.startswith("| 4 PNGs")]
    assert [row[1] for row in rows] == ["ours", "torch-fidelity"]
    assert float(rows[1][-1].rstrip(" |")) < 1e-5 and "pictures a second" in said[-1]


def test_edm2_arms(tmp_path, capsys, monkeypatch):
    args = edm2_arms.get_args(["--quick", "--out", str(tmp_path)])
    assert list(edm2_arms.arms(args)) == ["none", "jest"] and args.duration <= 100
    with pytest.raises(SystemExit):
        edm2_arms.get_args(["--out", str(tmp_path)])
    assert "--guide" in capsys.readouterr().err


def test_isicle_arms(tmp_path):
    args = isicle_arms.get_args(["--quick", "--out", str(tmp_path)])
    assert [piece.arm for piece in isicle_arms.pieces(args)] == [
        "crop+flip-real-real", "crop+flip-mixed"
    ]  # fmt: skip
    assert "--preset smoke" in " ".join(isicle_arms.training(args))


def test_pictures(tmp_path):
    args = pictures.get_args(["--quick", "--out", str(tmp_path)])
    wanted = ["present", "present+project", "together"]
    assert [piece.arm for piece in pictures.pieces(args)] == wanted
    asked = pictures.asked(args, pictures.Piece("together", 0))
    assert asked.res == [8, 16] and asked.data_tr == "scenes" and args.seconds <= 20


def test_the_preset_of_the_original_simclr_judges_as_the_original_did():
    assert PRESETS["cifar10-r50-original"]["probe_augs"] == "train"


def test_layout_attention(capsys):
    layout_attention.main(["--quick"])
    said = capsys.readouterr().out.splitlines()
    far = float(said[1].rsplit(" ", 1)[1])
    assert far < 1e-5 and [line.split(" | ")[:2] for line in said[-2:]] == [
        ["| 1", "2"],
        ["| 2", "2"],
    ]


def test_unet(capsys):
    unet.main(["--quick", "--checkpoint"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[-6:]]
    assert [row[0] for row in rows] == [
        "plain", "no checkpoint", "SDPA", "channels_last", "ours", "recomputed"
    ]  # fmt: skip
    assert all(float(row[3]) < 1e-4 for row in rows)


def test_omnigan_step(capsys):
    omnigan_step.main(["--quick", "--phases", "representation", "translation", "--parts"])
    said = capsys.readouterr().out.splitlines()
    rows = [line.split(" | ") for line in said if line.count(" | ") == 4 and "." in line]
    assert [row[0][2:] for row in rows] == 2 * [
        "plain", "detached", "one pass", "shared SPADE", "channels_last"
    ]  # fmt: skip
    for row in rows:  # the same losses and gradients as the original's way to compute them
        assert float(row[3]) < 1e-4 and float(row[4].rstrip(" |")) < 1e-2, row
    assert sum("| translation |" in line for line in said) == 4
