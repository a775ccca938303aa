"""Which file a network is: by path, by published name, by EMA length."""

from pathlib import Path

import pytest
import torch

from storage.errors import CheckpointError, UsageError
from storage.find import (
    ema_sibling,
    find_file,
    find_network,
    identity,
    newest_epoch,
    newest_snapshot,
)
from storage.snapshot import save_snapshot


@pytest.fixture
def models(tmp_path, monkeypatch):
    home = tmp_path / "models"
    (home / "a" / "b" / "c").mkdir(parents=True)
    monkeypatch.setenv("MODELS_HOME", str(home))
    monkeypatch.setenv("RESULTS_HOME", str(tmp_path / "results"))
    monkeypatch.chdir(tmp_path)
    return home


def touch(path):
    path.write_bytes(b"x")
    return path


@pytest.mark.parametrize("folder", ["", "a", "a/b"])
@pytest.mark.parametrize("suffix", [".pkl", ".safetensors"])
def test_a_published_name_is_found_in_the_models_directory(models, folder, suffix):
    file = touch(models / folder / f"edm2-img512-s-2147483-0.130{suffix}")
    for word in ("edm2-img512-s-2147483-0.130", "edm2-img512-s-2147483-*", "edm2-img512-s-*"):
        assert find_network(word) == file
    with pytest.raises(CheckpointError, match="edm2-img512-s-uncond"):
        find_network("edm2-img512-s-uncond-*")


def test_our_format_comes_first(models):
    touch(models / "edm2-img64-s-1073741-0.045.pkl")
    ours = touch(models / "a" / "edm2-img64-s-1073741-0.045.safetensors")
    assert find_network("edm2-img64-s-*-0.045") == ours


def test_what_is_missing_says_where_it_belongs(models):
    with pytest.raises(CheckpointError) as error:
        find_network("edm2-img512-xs-0134*-0.125")
    said = str(error.value)
    assert str(models) in said and "github.com/NVlabs/edm2" in said and "\n" not in said
    touch(models / "a" / "b" / "c" / "edm2-img512-s-2147483-0.130.pkl")  # too deep
    with pytest.raises(CheckpointError):
        find_network("edm2-img512-s-2147483-0.130")


def test_a_name_that_may_be_two_files_is_refused(models):
    touch(models / "edm2-img512-s-2147483-0.130.pkl")
    touch(models / "edm2-img512-s-2147483-0.190.pkl")
    with pytest.raises(UsageError, match=r"0\.130 or edm2.*0\.190: choose one"):
        find_network("edm2-img512-s-2147483-*")


def test_paths_are_paths(models, tmp_path):
    file = touch(tmp_path / "net.safetensors")
    assert find_network(str(file)) == file
    assert find_network("net.safetensors").resolve() == file
    assert find_network("nowhere.safetensors").name == "nowhere.safetensors"
    with pytest.raises(CheckpointError, match="network-snapshot-0000008-0.10: no such file"):
        find_network("network-snapshot-0000008-0.10")
    with pytest.raises(UsageError, match="https://host/edm2.pkl is a URL: download"):
        find_network("https://host/edm2.pkl")
    with pytest.raises(UsageError, match="is a folder, but not a run's: name a snapshot"):
        find_network(str(tmp_path))


def test_siblings(tmp_path):
    own = touch(tmp_path / "network-snapshot-0000008-0.050.safetensors")
    other = touch(tmp_path / "network-snapshot-0000008-0.100.pkl")
    phema = touch(tmp_path / "phema-0000008-0.150.safetensors")
    touch(tmp_path / "phema-0000008-0.100.safetensors")
    touch(tmp_path / "network-snapshot-0000009-0.200.safetensors")
    touch(tmp_path / "edm2-img64-s-0000008-0.250.safetensors")
    assert ema_sibling(own, 0.05) == own
    assert ema_sibling(own, 0.1) == other  # of the same name, before phema
    assert ema_sibling(own, 0.15) == phema
    assert ema_sibling(phema, 0.05) == own
    for std in (0.2, 0.25):
        with pytest.raises(UsageError, match=r"there are 0\.050, 0\.100, 0\.150; reconstruct"):
            ema_sibling(own, std)
    with pytest.raises(UsageError, match="NAME-STEP-EMA"):
        ema_sibling(tmp_path / "network-latest.safetensors", 0.1)


def test_identity_is_of_the_content(tmp_path):
    def save(name, value):
        return save_snapshot(tmp_path / name, {"w": torch.tensor([value])}, "k", {}, {})

    a, b, c = save("a.safetensors", 1.0), save("b.safetensors", 1.0), save("c.safetensors", 2.0)
    assert identity(a) == identity(b) != identity(c)
    pkl = touch(tmp_path / "d.pkl")
    first = identity(pkl)
    pkl.write_bytes(b"y")
    assert identity(pkl) != first
    assert identity(tmp_path / "a.pkl") == identity(a)  # its sibling is what is opened
    (tmp_path / "e.safetensors").write_bytes(b"no snapshot")
    with pytest.raises(CheckpointError, match="e.safetensors"):
        identity(tmp_path / "e.safetensors")


def test_a_run_may_be_named_below_the_results_and_without_its_snapshots_folder(models, tmp_path):
    folder = tmp_path / "results" / "TrainX" / "run" / "snapshots"
    folder.mkdir(parents=True)
    file = touch(folder / "network-0000008.safetensors")
    for word in ("run/snapshots/network-0000008.safetensors", "run/network-0000008", "run"):
        assert find_file(word, "TrainX") == find_network(word, "TrainX") == file
    assert find_file("run", "TrainY") == file  # else a run of another script
    assert find_file("nothing", "none", tmp_path / "results").name == "nothing"
    assert find_file("run", "TrainX", tmp_path / "results") == file
    (models / "Images").mkdir()
    ours = touch(models / "Images" / "old.safetensors")
    assert find_file("old", "TrainX") == ours
    assert find_file("old.pkl", "TrainX") == ours.with_suffix(".pkl")  # `opened` takes its sibling


def test_what_is_missing_is_named_with_the_places_and_names_like_it(models, tmp_path):
    for name in ("photos-edm2", "photos-x4", "else"):
        (tmp_path / "results" / "TrainX" / name / "snapshots").mkdir(parents=True)
    says = f"--net photo: no such file.* in {tmp_path}/results, .*models.; did you mean photos-edm2"
    with pytest.raises(CheckpointError, match=says):
        find_network("photo", option="--net")
    with pytest.raises(CheckpointError, match="--init_from photos_x4: .*did you mean photos-x4"):
        find_network("photos_x4", option="--init_from")
    with pytest.raises(CheckpointError, match="`runs.py ls` lists the runs"):
        find_network("nosuch")


def test_without_a_script_all_results_are_searched(models, tmp_path):
    folders = [tmp_path / "results" / name / "run" / "snapshots" for name in ("TrainX", "TrainY")]
    for folder in folders:
        folder.mkdir(parents=True)
    one = touch(folders[0] / "network-0000008.safetensors")
    assert find_file("run") == find_network("run") == one
    two = touch(folders[1] / "network-0000009.safetensors")
    assert find_network("run", "TrainX") == one and find_network("run", "TrainY") == two
    assert find_network("run/network-0000009") == two
    with pytest.raises(UsageError, match="run may be .*TrainX.* or .*TrainY.*: give the path"):
        find_network("run")


@pytest.mark.parametrize(
    "names, newest",
    [
        (["network-latest", "network-000000128"], "network-latest"),
        (["network-000000128", "network-000001024"], "network-000001024"),
        (
            ["network-snapshot-0000016-0.050", "network-snapshot-0000016-0.100",
             "network-snapshot-0000008-0.150"],
            "network-snapshot-0000016-0.100",
        ),
        (["iter0008learner", "iter0008", "iter0004"], "iter0008"),
        (["generator-initial", "generator-latest"], "generator-latest"),
        (["9", "10"], "10"),
        (
            ["network-snapshot-0000016-0.050", "phema-0000016-0.150", "phema-0000024-0.050"],
            "network-snapshot-0000016-0.050",
        ),
        (["phema-0000016-0.150"], None),
        ([], None),
    ],
)  # fmt: skip
def test_the_newest_snapshot_of_a_run(tmp_path, names, newest):
    (tmp_path / "snapshots").mkdir()
    for name in names:
        touch(tmp_path / "snapshots" / f"{name}.safetensors")
    found = newest_snapshot(tmp_path)
    assert (found and found.stem) == (newest and Path(f"{newest}.safetensors").stem)


def test_a_run_or_a_folder_in_it_means_its_newest_snapshot(models, tmp_path, monkeypatch):
    run = tmp_path / "run"
    for folder in ("snapshots", "checkpoints/step-000000008", "checkpoints/step-000000012"):
        (run / folder).mkdir(parents=True)
    with pytest.raises(UsageError, match="run has no snapshot yet"):
        find_network(run)
    touch(run / "snapshots" / "network-000000008.safetensors")
    newest = touch(run / "snapshots" / "network-latest.safetensors")
    for word in ("run", "run/", "run/snapshots", "run/checkpoints", run):
        assert find_network(word).resolve() == newest
    assert find_network("run/checkpoints/step-000000012") == newest
    old = find_network(run / "checkpoints" / "step-000000008")
    assert old.name == "network-000000008.safetensors"
    monkeypatch.chdir(run / "snapshots")
    assert find_network(".") == newest
    monkeypatch.chdir(run / "checkpoints")
    assert find_network("step-000000008") == old and find_network("..") == newest
    (tmp_path / "early" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UsageError, match="early has no snapshot yet"):
        find_network(tmp_path / "early")


def test_a_url_is_refused_in_any_case():
    for word in ("HTTPS://host/a.pkl", " s3://host/a.pkl"):
        with pytest.raises(UsageError, match="give the path of a.pkl"):
            find_network(word)


def test_the_last_epoch_is_told_by_its_number(tmp_path):
    folder = tmp_path / "snapshots"
    assert newest_epoch(tmp_path) is None
    folder.mkdir()
    for name in ("2", "10", "9", "generator-latest", "network-000000099", "11x"):
        (folder / f"{name}.safetensors").touch()
    (folder / "99.pt").touch()
    assert newest_epoch(tmp_path) == folder / "10.safetensors"
