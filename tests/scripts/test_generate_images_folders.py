"""generate_images: nothing is overwritten or mixed; runs and single pictures as inputs."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from storage.errors import DataError, UsageError
from tests import gloo
from tests.data.pictures import noise
from tests.kill_harness import launch
from tests.scripts.support import train
from tests.scripts.test_generate_images import generate, images, pixels, tiny
from tests.sheets import places


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("generate") / "run"
    train(run_dir, *"--outer_loops 1 --num_iteration 1 --grayscale 0.5".split())
    return run_dir / "snapshots" / "network-latest.safetensors"


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """A run's snapshots at two EMA lengths, and a guide."""
    folder = tmp_path_factory.mktemp("nets")
    for i, std in enumerate((0.05, 0.1)):
        tiny(folder / f"network-snapshot-0000008-{std:.3f}.safetensors", seed=i, std=std)
    tiny(folder / "guide.safetensors", seed=2)
    return folder


@pytest.fixture
def edm2(nets, tmp_path):
    """A launch on the tiny network: edm2("--seeds", "0-3", out="a") -> its folder."""

    def launched(*words, out="out"):
        net = nets / "network-snapshot-0000008-0.050.safetensors"
        common = ["--net", net, "--gpus", "cpu", "--steps", 3, "--outdir", tmp_path / out]
        generate(*common, *words)
        return tmp_path / out

    return launched


@pytest.fixture
def photos(tmp_path):
    """a/photos and b/photos: other pictures under the same names."""
    for k, name in enumerate("ab"):
        folder = tmp_path / name / "photos"
        folder.mkdir(parents=True)
        for i in range(4):
            Image.fromarray(noise(10 * k + i)).save(folder / f"{i:03d}.png")
    return tmp_path


def content(folder):
    """{name: bytes} of all files."""
    files = (path for path in sorted(Path(folder).rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def pngs(folder):
    return {name: data for name, data in content(folder).items() if name.endswith(".png")}


def sample(net, out, *words):
    """Two samples of each of two inputs; returns the folder."""
    common = ["--net", net, "--gpus", "cpu", "--num_images", 2, "--samples", 2]
    generate(*common, *(["--outdir", out] if out else []), *words)
    return out


def test_two_data_sets_do_not_mix(snapshot, photos, tmp_path):
    out = sample(snapshot, tmp_path / "out", "--data", "scenes/val")
    before = content(out)
    for words, says in (
        (["--data", photos / "a" / "photos"], "--data scenes/val before, photos now"),
        (["--data", "scenes/val", "--seed", 1], "--seed 0 before, 1 now"),
        (["--data", "scenes/val", "--num_images", 3], "--num_images 2 before, 3 now"),
        (["--data", "scenes/train", "--seed", 1], "--data scenes/val before, .*, --seed 0 before"),
    ):
        with pytest.raises(UsageError, match=f"{says}.*another folder, or --overwrite") as error:
            sample(snapshot, out, *words)
        assert error.value.exit_code == 2 and "\n" not in str(error.value)
        assert content(out) == before
    a, b = (photos / name / "photos" for name in "ab")
    sample(snapshot, tmp_path / "a.out", "--data", a)
    with pytest.raises(UsageError, match=f"--data {a} before, {b} now"):
        sample(snapshot, tmp_path / "a.out", "--data", b)
    shutil.copy(b / "000.png", a / "000.png")
    with pytest.raises(UsageError, match=f"what --data {a} names has changed"):
        sample(snapshot, tmp_path / "a.out", "--data", a)


def test_a_folder_for_each_setting_by_default(snapshot, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RESULTS_HOME", str(tmp_path / "results"))
    a, b = (photos / name / "photos" for name in "ab")
    words = [[a], [b], [a, "--seed", 1], [a, "--samples", 3]]
    for one in [*words, *words]:
        sample(snapshot, None, "--data", *one)
    assert capsys.readouterr().out.count("done already: ") == 4
    folders = list((tmp_path / "results" / "generate_images").iterdir())
    assert len(folders) == 4
    assert all(f.name.startswith("run-photos-") for f in folders)
    assert all((f / "grid.png").is_file() for f in folders)


def test_done_says_so_and_writes_nothing(snapshot, edm2, tmp_path, capsys):
    for launched in (
        lambda: sample(snapshot, tmp_path / "imle", "--data", "scenes/val"),
        lambda: edm2("--seeds", "0-3", out="edm2"),
    ):
        out = launched()
        before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
        capsys.readouterr()
        launched()
        assert f"done already: 4 pictures in {out}" in capsys.readouterr().out
        assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


@pytest.mark.parametrize("kind", ["imle", "edm2", "sweep"])
def test_killed_anywhere_the_same_command_gives_the_same(snapshot, nets, tmp_path, kind, capsys):
    words = {
        "imle": ["--net", snapshot, "--data", "scenes/val", "--num_images", 3, "--samples", 2],
        "edm2": ["--net", nets / "guide.safetensors", "--steps", 2, "--seeds", "0-6", "--batch", 4],
        "sweep": ["--net", nets / "network-snapshot-0000008-0.050.safetensors", "--steps", 2,
                  "--seeds", "0-2", "--sweep_ema", 0.05, 0.1],
    }[kind]  # fmt: skip
    words = [*words, "--gpus", "cpu", "--outdir"]
    generate(*words, tmp_path / "whole")
    for point in ("file-written:1", "file-renamed:4", "file-flushed:7"):
        out, log = tmp_path / point, tmp_path / "log"
        env = {"IMLE_LAB_FAILPOINT": f"{point}=kill"}
        killed = launch(generate, [*words, out], log, env)
        killed.join(120)
        assert killed.exitcode == -signal.SIGKILL, log.read_text()
        assert len(pngs(out)) < len(pngs(tmp_path / "whole"))
        generate(*words, out)
        assert pngs(out) == pngs(tmp_path / "whole")
        capsys.readouterr()
        generate(*words, out)
        assert "done already: " in capsys.readouterr().out


def in_two_ranks(words):
    generate(*words)


def test_two_processes_draw_what_one_does(snapshot, tmp_path):
    words = ["--net", snapshot, "--data", "scenes/val", "--num_images", 3, "--samples", 2]
    words += ["--gpus", "cpu", "--outdir"]
    gloo.run(2, in_two_ranks, [*words, tmp_path / "two"])
    generate(*words, tmp_path / "one")
    assert pngs(tmp_path / "two") == pngs(tmp_path / "one")
    before = content(tmp_path / "two")
    generate(*words, tmp_path / "two")
    assert content(tmp_path / "two") == before


def test_overwriting_takes_away_what_is_listed_alone(snapshot, photos, tmp_path):
    out = sample(snapshot, tmp_path / "out", "--data", "scenes/val")
    mine = {"000099_mine_0.png": b"own", "notes.txt": b"own", "deeper/000000_x_0.png": b"own"}
    for name, data in mine.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(data)
    words = ["--data", photos / "a" / "photos", "--overwrite"]
    before = content(out)
    for wrong in (["--data", tmp_path / "nowhere"], ["--net", tmp_path / "nowhere.safetensors"]):
        with pytest.raises(Exception, match="nowhere"):
            sample(snapshot, out, *words, *wrong)
        assert content(out) == before  # nothing goes before all is open
    sample(snapshot, out, *words)
    alone = sample(snapshot, tmp_path / "alone", *words)
    now, wanted = content(out), content(alone)
    assert {name: now[name] for name in pngs(alone)} == pngs(alone)
    assert now.keys() == wanted.keys() | mine.keys()
    assert {name: now[name] for name in mine} == mine


@pytest.mark.parametrize("name", ["000000_000_0.png", "grid.png"])
def test_a_file_of_one_s_own_is_never_replaced(snapshot, photos, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_bytes(b"own")
    for more in ([], ["--overwrite"]):
        with pytest.raises(UsageError, match=f"has a {name} that this command did not write"):
            sample(snapshot, out, "--data", photos / "a" / "photos", *more)
    assert content(out) == {name: b"own"}


@pytest.mark.parametrize("point", ["gone", "file-written:1", "file-renamed:3"])
def test_an_interrupted_overwriting_is_taken_up(snapshot, photos, tmp_path, point):
    data = photos / "a" / "photos"
    out = sample(snapshot, tmp_path / "out", "--data", "scenes/val")
    old = pngs(out)
    if point == "gone":  # in the middle of taking away
        (out / min(old)).unlink()
        sample(snapshot, out, "--data", "scenes/val")  # is still of the old settings
        assert pngs(out) == old
        (out / min(old)).unlink()
    else:
        command = ["--net", snapshot, "--gpus", "cpu", "--num_images", 2, "--samples", 2]
        command += ["--data", data, "--overwrite", "--outdir", out]
        env = {"IMLE_LAB_FAILPOINT": f"{point}=kill"}
        killed = launch(generate, command, tmp_path / "log", env)
        killed.join(120)
        assert killed.exitcode == -signal.SIGKILL, (tmp_path / "log").read_text()
    # Once the folder says what it will hold, the command without the word goes on.
    sample(snapshot, out, "--data", data, *([] if point == "file-renamed:3" else ["--overwrite"]))
    assert pngs(out) == pngs(sample(snapshot, tmp_path / "alone", "--data", data))


def test_more_seeds_have_a_grid_of_their_own(edm2, snapshot, tmp_path):
    out = edm2("--seeds", "0-3")
    grid = (out / "grid.png").read_bytes()
    edm2("--seeds", "0-5")
    assert (out / "grid.png").read_bytes() == grid and (out / "grid-0-5.png").is_file()
    before = content(out)
    edm2("--seeds", "0-3")
    assert content(out) == before
    out = sample(snapshot, tmp_path / "imle", "--data", "scenes/val")
    grid = (out / "grid.png").read_bytes()
    sample(snapshot, out, "--data", "scenes/val", "--first", 2)
    assert (out / "grid.png").read_bytes() == grid and (out / "grid-2x2-3.png").is_file()
    whole = sample(snapshot, tmp_path / "whole", "--data", "scenes/val", "--samples", 4)
    assert images(out).keys() == images(whole).keys()


def test_sweeps_do_not_mix(edm2, nets):
    words = ["--seeds", "0-1", "--gnet", nets / "guide.safetensors"]
    out = edm2(*words, "--sweep_guidance", 1, 1.5)
    before = content(out)
    for more, says in (
        (["--sweep_guidance", 1, 2], "--sweep_guidance 1.0 1.5 before, 1.0 2.0 now"),
        (["--sweep_guidance", 1, 1.5, "--rho", 6], "--rho 7.0 before, 6.0 now"),
        (["--guidance", 2], "--guidance none before, 2.0 now"),
    ):
        with pytest.raises(UsageError, match=says):
            edm2(*words, *more)
        assert content(out) == before
    (out / "guidance1.5" / "mine.png").write_bytes(b"own")
    edm2(*words, "--sweep_guidance", 1, 2, "--overwrite")
    folders = sorted(p.name for p in out.iterdir() if p.name.startswith("guidance"))
    assert folders == ["guidance1", "guidance1.5", "guidance2"]
    assert [p.name for p in (out / "guidance1.5").rglob("*.png")] == ["mine.png"]
    sheet = (out / "sheet.png").read_bytes()
    edm2("--seeds", "0-2", *words[2:], "--sweep_guidance", 1, 2)
    assert (out / "sheet.png").read_bytes() == sheet
    assert (out / "sheet-0-2.png").is_file() and (out / "sweep-0-2.json").is_file()


def test_a_sweep_that_is_killed_while_it_is_overwritten_leaves_no_points(edm2, monkeypatch):
    from recipes.generate import folders

    def kill(folder):
        raise KeyboardInterrupt

    out = edm2("--seeds", "0-1", "--sweep_ema", 0.05, 0.1)
    assert len(list(out.glob("ema*/*.png"))) >= 4
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(folders, "clear", kill)
        edm2("--seeds", "0-1", "--sweep_ema", 0.05, "--overwrite")
    edm2("--seeds", "0-1", "--sweep_ema", 0.05, "--overwrite")
    assert {p.parent.name for p in out.glob("ema*/*.*")} == {"ema0.050-guidance1"}


def test_folders_of_the_version_before_go_on(edm2, snapshot, capsys):
    out = edm2("--seeds", "0-3")
    (out / "files.jsonl").unlink()
    before = content(out)
    edm2("--seeds", "0-3")
    assert "done already: 4 pictures" in capsys.readouterr().out and content(out) == before
    old = pngs(out)
    (out / "000001.png").unlink()
    edm2("--seeds", "0-1")
    edm2("--seeds", "0-3")
    assert old.items() <= pngs(out).items() or old.keys() <= pngs(out).keys()
    with pytest.raises(UsageError, match="--steps 3 before, 4 now"):
        edm2("--steps", 4)
    (out / "files.jsonl").unlink()
    with pytest.raises(UsageError, match="no list of its files .*choose another folder"):
        edm2("--steps", 4, "--overwrite")
    # IMLE's said nothing of what they show.
    (out / "provenance.json").write_text(json.dumps({"args": {"data": "scenes"}, "kind": "camnet"}))
    for more in ([], ["--overwrite"]):
        with pytest.raises(UsageError, match="provenance.json that does not say"):
            sample(snapshot, out, "--data", "scenes", *more)


def test_a_sweep_of_the_version_before_goes_on(edm2):
    words = ["--seeds", "0-1", "--sweep_ema", 0.05, 0.1]
    out = edm2(*words)
    old = pngs(out)
    for file in [*out.rglob("files.jsonl"), out / "provenance.json"]:
        file.unlink()
    edm2(*words)
    assert pngs(out) == old
    (out / "sweep.json").unlink()
    for name in ("files.jsonl", "provenance.json"):
        (out / name).unlink()
    with pytest.raises(UsageError, match="has a sheet.png that this command did not write"):
        edm2(*words)


# ------------------------------------------------------------------ runs and pictures as inputs


def test_a_single_picture(snapshot, photos, tmp_path):
    a, b = (photos / name / "photos" / "002.png" for name in "ab")
    out = sample(snapshot, tmp_path / "out", "--data", a)
    assert set(images(out)) == {"000000_002_0.png", "000000_002_1.png"}
    other = sample(snapshot, tmp_path / "other", "--data", b)
    assert images(out)["000000_002_0.png"].ne(images(other)["000000_002_0.png"]).any()
    with pytest.raises(UsageError, match=f"--data {a} before, {b} now"):
        sample(snapshot, out, "--data", b)
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    for name, says in (("bad.jpg", "bad image .*bad.jpg"), ("none.jpg", "no data set")):
        with pytest.raises(DataError, match=says):
            sample(snapshot, tmp_path / "bad", "--data", tmp_path / name)
    assert not (tmp_path / "bad").exists()


def test_pictures_that_cannot_be_read_are_left_out(snapshot, photos, tmp_path, capsys):
    (photos / "a" / "photos" / "001.png").write_bytes(b"no picture")
    out = sample(snapshot, tmp_path / "out", "--data", photos / "a" / "photos", "--num_images", 4)
    said = capsys.readouterr()
    assert "left out: bad image" in said.out and "3 x 2 samples" in said.out
    assert {name[:6] for name in images(out)} == {"000000", "000002", "000003"}


def test_the_target_is_shown_where_it_is_known(snapshot, photos, tmp_path):
    def first_sample(out):
        """Where the first row has it, counted in columns of the grid."""
        sheet, first = pixels(out / "grid.png"), min(images(out))
        ((top, left), *_) = places(sheet, images(out)[first])
        return top, left

    file = photos / "a" / "photos" / "000.png"
    large = sample(snapshot, tmp_path / "large", "--data", file)
    top, left = first_sample(large)
    with Image.open(file) as picture:
        wanted = np.asarray(picture.convert("RGB").resize((16, 16), Image.Resampling.BICUBIC))
    target = places(pixels(large / "grid.png"), torch.from_numpy(wanted.copy()).int())
    assert target == [(top, left - 3 * 132)]  # target, input, bicubic, samples
    Image.open(file).resize((10, 12)).save(tmp_path / "000.png")
    small = sample(snapshot, tmp_path / "small", "--data", tmp_path / "000.png")
    # It is smaller than what the network makes of it.
    assert first_sample(small) == (top, left - 132)


@pytest.mark.parametrize("below", ["", "out"])
def test_results_do_not_become_a_part_of_the_data(snapshot, photos, below):
    data = photos / "a" / "photos"
    before = content(data)
    with pytest.raises(DataError, match="--outdir .* lies in the data set .*: choose a folder"):
        sample(snapshot, data / below, "--data", data)
    assert content(data) == before
    picture = data / "000.png"
    out = sample(snapshot, photos / "a" / "photos" / "out", "--data", picture)  # of one, it may
    assert len(images(out)) == 2


def test_a_set_without_a_val_split(snapshot, photos, tmp_path, capsys):
    (photos / "a" / "photos").rename(photos / "a" / "train")
    sample(snapshot, tmp_path / "out", "--data", photos / "a")
    assert f"{photos / 'a'} has no split val: taking train" in capsys.readouterr().out


def test_a_run_s_folder_for_imle(snapshot, tmp_path, capsys):
    run = snapshot.parents[1]
    for word in (run, run / "snapshots", run / "checkpoints"):
        sample(word, tmp_path / word.name, "--data", "scenes/val")
        assert f"{word}: taking {snapshot}" in capsys.readouterr().out
    assert pngs(tmp_path / "run") == pngs(tmp_path / "checkpoints")
