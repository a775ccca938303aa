import numpy as np
import pytest
import torch

from data import SetupMiniImagenet
from data.labelled import LabelledImages
from data.readers.layout import list_files
from data.registry import KNOWN, Known
from data.views.splits import Plain, get_data_splits, get_ssl_data_augs, own_eval
from storage.errors import DataError
from tests.data.pictures import make_set, zip_folder

COUNTS = {"train": {"a": 4, "b": 4}, "test": {"a": 2, "b": 2}}


def test_splits(tmp_path):
    make_set(tmp_path / "mine", COUNTS)
    train, held = get_data_splits("mine", "cv", tmp_path)
    assert held == "cv" and len(train) == 8 and train.classes == ["a", "b"]
    train, held = get_data_splits(str(tmp_path / "mine"), "test", tmp_path)
    assert len(train) == 8 and len(held) == 4
    assert not {train.path(i) for i in range(8)} & {held.path(i) for i in range(4)}
    _, held = get_data_splits("mine/train", "test", tmp_path)
    assert len(held) == 4


def test_a_missing_split_is_never_replaced_by_training_pictures(tmp_path):
    make_set(tmp_path / "mine", COUNTS)
    with pytest.raises(DataError, match="no split val; it has train, test"):
        get_data_splits("mine", "val", tmp_path)
    with pytest.raises(DataError, match="'best' is none of cv, val, test"):
        get_data_splits("mine", "best", tmp_path)


def test_what_has_no_splits_holds_nothing_out(tmp_path):
    """Such a set opens under any name of a split, and would be judged by what it was fitted on."""
    (make_set(tmp_path / "made", COUNTS) / "train").rename(tmp_path / "flat")
    zip_folder(tmp_path / "flat", tmp_path / "flat2.zip")
    for name in ("flat", str(tmp_path / "flat"), "flat2.zip"):
        assert len(get_data_splits(name, "cv", tmp_path)[0]) == 8
        with pytest.raises(DataError, match=f"{name} has no splits, so no test"):
            get_data_splits(name, "test", tmp_path)


def test_a_split_is_not_held_out_from_itself(tmp_path):
    make_set(tmp_path / "mine", COUNTS)
    for name in ("mine/test", "mine/test/", str(tmp_path / "mine" / "test")):
        with pytest.raises(DataError, match="is the split test itself"):
            get_data_splits(name, "test", tmp_path)


def test_what_figures_are_of_when_nothing_is_said(tmp_path):
    make_set(tmp_path / "mine", COUNTS)
    make_set(tmp_path / "whole", {**COUNTS, "val": {"b": 2}})
    make_set(tmp_path / "novel", {**COUNTS, "val": {"c": 2}})
    (make_set(tmp_path / "made", COUNTS) / "train").rename(tmp_path / "flat")
    found = {name: own_eval(name, tmp_path) for name in ("mine", "whole", "novel", "flat")}
    assert found == {"mine": "cv", "whole": "val", "novel": "cv", "flat": "cv"}  # test: never
    assert own_eval("whole/train", tmp_path) == "val" and own_eval("whole/val", tmp_path) == "cv"
    assert own_eval(str(tmp_path / "whole"), tmp_path) == "val"


def test_resolutions(tmp_path):
    make_set(tmp_path / "mine", COUNTS)
    train, held = get_data_splits("mine", "test", tmp_path, 16)
    assert isinstance(train, LabelledImages) and train[0][1].shape == (3, 16, 16)
    assert held[3][2] == 1
    train, held = get_data_splits("mine", "cv", tmp_path, [8, 16])
    assert [t.resolution for t in train] == [8, 16] and held == "cv"


def test_a_data_set_is_one_entry_of_the_registry(tmp_path, monkeypatch):
    monkeypatch.setitem(KNOWN, "mine", Known("a test", recipe="strong", size=24))
    make_set(tmp_path / "mine", COUNTS)
    assert len(get_data_splits("mine", "test", tmp_path)[1]) == 4
    augs = get_ssl_data_augs("mine")
    assert (augs.train.size, augs.train.scale, augs.train.gray_p) == (24, (0.2, 1.0), 0.1)


def test_augmentations_of_known_sets_and_paths(tmp_path):
    cifar = get_ssl_data_augs("cifar10", color_s=1)
    assert (cifar.train.size, cifar.train.brightness, cifar.train.blur_p) == (32, 0.8, 0)
    assert cifar.probe.jitter_p == cifar.probe.gray_p == 0 and cifar.probe.flip == 0.5
    assert get_ssl_data_augs("some/where/cifar10/train") == get_ssl_data_augs("cifar10")
    assert get_ssl_data_augs("cifar10_deci") == get_ssl_data_augs("cifar10")
    assert get_ssl_data_augs("tiny").train.size == 64
    mini = get_ssl_data_augs("miniImagenet").train
    assert (mini.size, mini.blur_p, mini.blur_kernel) == (128, 1, 23)
    assert get_ssl_data_augs("miniImagenet", gaussian_blur=False).train.blur_p == 0
    assert get_ssl_data_augs("cifar10", unreal_augs=False).train == cifar.probe
    folder = get_ssl_data_augs(str(tmp_path), crop_size=96).train
    assert (folder.blur_p, folder.blur_kernel, folder.hue) == (0.5, 9, 0.2)
    assert get_ssl_data_augs(str(tmp_path), crop_size=64).train.blur_p == 0
    with pytest.raises(DataError, match="give crop_size"):
        get_ssl_data_augs(str(tmp_path))


def test_plain_pictures():
    images = torch.randint(0, 256, (2, 3, 20, 30), dtype=torch.uint8)
    square = images[..., 5:25].float() / 255
    assert torch.equal(Plain(20)(images[..., 5:25]), square)
    torch.testing.assert_close(Plain(20)(images), square, rtol=0, atol=1e-6)
    expected = torch.nn.functional.interpolate(square, 8, mode="bilinear", antialias=True)
    torch.testing.assert_close(Plain(8)(images), expected, rtol=0, atol=1e-6)
    grey = Plain(20, (0.5,) * 3, (0.25,) * 3)(images)
    torch.testing.assert_close(grey, (square - 0.5) / 0.25, rtol=0, atol=1e-5)
    with pytest.raises(DataError, match="must be uint8"):
        Plain(20)(square)


@pytest.fixture
def tiny_mini(tmp_path, monkeypatch):
    """An archive split as miniImagenet, with 3/1/2 classes of 2."""
    monkeypatch.setattr(SetupMiniImagenet, "CLASSES", {"train": 3, "val": 1, "test": 2})
    monkeypatch.setattr(SetupMiniImagenet, "PER_CLASS", 2)
    counts = {"train": dict(a=2, b=2, c=2), "val": dict(d=2), "test": dict(e=2, f=2)}
    folder = make_set(tmp_path / "made" / "mini", counts, "jpg")
    return zip_folder(folder, tmp_path / "mini.zip", "mini/")


def run(*words):
    return SetupMiniImagenet.main([str(w) for w in words])


def test_setup_mini_imagenet(tiny_mini, tmp_path, capsys):
    home = tmp_path / "home"
    words = ["--source", tiny_mini, "--data_path", home, "--sizes", 16, "--also_cls_first"]
    assert run(*words) == 0
    assert "3/1/2 classes of 2, no class in two splits" in capsys.readouterr().err
    assert len(list_files(home / "miniImagenet" / "train")) == 6
    assert len(list_files(home / "miniImagenet_16x16" / "test")) == 4
    assert (home / "cls_first" / "miniImagenet" / "d" / "val" / "000.jpg").is_file()
    assert run(*words) == 0  # again: nothing to do
    train, val = get_data_splits("miniImagenet", "val", home, 16)
    assert len(train) == 6 and np.unique(val.labels).tolist() == [0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("CLASSES", {"train": 4, "val": 1, "test": 2}), "has 3 classes"),
        (("CLASSES", {"train": 3, "val": 1}), "has splits train, val, test"),
        (("PER_CLASS", 600), "has 2 pictures, not 600"),
    ],
)
def test_another_archive_is_refused(tiny_mini, tmp_path, monkeypatch, capsys, change, message):
    monkeypatch.setattr(SetupMiniImagenet, *change)
    words = ["--source", tiny_mini, "--data_path", tmp_path / "home", "--sizes", 0]
    assert run(*words) == 6
    err = capsys.readouterr().err
    assert message in err and "; remove " in err and "Traceback" not in err


def test_a_class_in_two_splits_is_refused(tiny_mini, tmp_path, capsys):
    (tmp_path / "made/mini/val/d").rename(tmp_path / "made/mini/val/a")
    words = ["--source", tmp_path / "made/mini", "--data_path", tmp_path / "home"]
    assert run(*words, "--sizes", 0) == 6
    assert "class a is in train and in val" in capsys.readouterr().err


def test_the_hash_is_checked_first(tiny_mini, tmp_path, capsys):
    words = ["--source", tiny_mini, "--data_path", tmp_path / "home", "--sizes", 0]
    assert run(*words, "--sha256", "0" * 64) == 6
    assert "fetch it again" in capsys.readouterr().err
    assert not (tmp_path / "home" / "miniImagenet").exists()
    with pytest.raises(SystemExit):
        run(*words, "--sha256", "xyz")
    with pytest.raises(SystemExit):
        run("--data", "cifar10")
