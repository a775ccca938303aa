"""generate_images: from a run's snapshot to pictures."""

import json
import shutil

import pytest
from PIL import Image

from tests.scripts.support import load, train

SCRIPT = load("generate_images")


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("generate") / "run"
    train(run_dir, *"--outer_loops 1 --num_iteration 1 --grayscale 0.5".split())
    return run_dir / "snapshots" / "network-latest.safetensors"


def generate(*words):
    SCRIPT.main(SCRIPT.get_args([str(w) for w in words]))


def test_smoke_needs_nothing(tmp_path, capsys):
    generate("--preset", "smoke", "--outdir", tmp_path)
    assert "untrained" in capsys.readouterr().out
    assert (tmp_path / "grid.png").is_file()


def test_samples_are_functions_of_seed_input_and_number(snapshot, tmp_path):
    words = ["--snapshot", snapshot, "--data", "scenes/val", "--gpus", "cpu", "--num_images", 2]
    generate(*words, "--samples", 3, "--outdir", tmp_path / "a")
    generate(*words, "--samples", 1, "--first", 2, "--batch", 1, "--outdir", tmp_path / "b")
    generate(*words, "--samples", 1, "--first", 2, "--seed", 1, "--outdir", tmp_path / "c")
    names = sorted(p.name for p in (tmp_path / "a").glob("*_2.png"))
    assert len(names) == 2 and len(list((tmp_path / "a").glob("*.png"))) == 7
    for name in names:
        same = (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        other = (tmp_path / "a" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()
        assert same and not other
    with Image.open(tmp_path / "a" / "grid.png") as grid:  # input and 3 samples at 16 px
        assert grid.size == (4 * 18 - 2, 2 * 18 - 2)
    facts = json.loads((tmp_path / "a" / "provenance.json").read_text())
    assert facts["kind"] == "camnet" and facts["snapshot"]["step"] == 1


def test_unconditional(tmp_path):
    words = "--unconditional --lpips none --res 8 --pool_size 8 --outer_loops 1 --num_iteration 1"
    train(tmp_path / "run", *words.split())
    file = tmp_path / "run" / "snapshots" / "network-latest.safetensors"
    generate("--snapshot", file, "--num_images", 2, "--samples", 3, "--outdir", tmp_path / "out")
    with Image.open(tmp_path / "out" / "grid.png") as grid:
        assert grid.size == (3 * 10 - 2, 2 * 10 - 2)


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-9]), "damaged|mismatch"),
        (lambda p: p.write_bytes(b"not a snapshot"), "damaged|foreign"),
        (lambda p: p.unlink(), "no such file"),
    ],
)
def test_bad_snapshots_are_named(snapshot, tmp_path, spoil, says):
    file = tmp_path / "network.safetensors"
    shutil.copy(snapshot, file)
    spoil(file)
    with pytest.raises(Exception, match=says) as error:
        generate("--snapshot", file, "--data", "scenes", "--outdir", tmp_path / "out")
    assert error.value.exit_code == 3
    assert not (tmp_path / "out").exists()


def test_a_file_where_images_should_go(snapshot, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(Exception, match="--outdir .*out") as error:
        generate("--snapshot", snapshot, "--data", "scenes", "--outdir", tmp_path / "out")
    assert error.value.exit_code == 2


def test_inputs_are_asked_for(snapshot, tmp_path):
    with pytest.raises(Exception, match="--data") as error:
        generate("--snapshot", snapshot, "--outdir", tmp_path / "out")
    assert error.value.exit_code == 2
    with pytest.raises(SystemExit) as stop:
        SCRIPT.get_args([])
    assert stop.value.code == 2
