"""torchvision's data sets by name, unchanged."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from data.labelled import LabelledImages
from data.listing import fingerprint
from data.readers.torchvision_sets import Torchvision
from data.registry import find, open_source, train_val_sources
from data.SetupDataset import main
from data.sources import is_labelled, labels_of
from storage.errors import DataError
from tests.data.layouts import idx_files

FAKE = "torchvision:FakeData:size=30,image_size=3x9x9,num_classes=3"


@pytest.fixture
def mnist(tmp_path):
    """MNIST's files of a few digits where torchvision looks for them."""
    idx_files(tmp_path / "torchvision" / "MNIST" / "raw")
    return tmp_path


def test_mnist_is_torchvisions(mnist):
    source = open_source("torchvision:MNIST", mnist)
    theirs = datasets.MNIST(str(mnist / "torchvision"), train=True)
    assert len(source) == len(theirs) and find("torchvision:MNIST", mnist).splits == (
        "train", "test")  # fmt: skip
    assert labels_of(source).tolist() == theirs.targets.tolist()
    assert source.classes == theirs.classes and source.name == "MNIST/train"
    for i in range(len(theirs)):
        assert (source.image(i) == np.asarray(theirs[i][0].convert("RGB"))).all()
    number, image, label = LabelledImages(source, 32)[1]
    assert image.shape == (3, 32, 32) and label == theirs[1][1]
    test = open_source("torchvision:MNIST/test", mnist)
    assert len(test) == len(datasets.MNIST(str(mnist / "torchvision"), train=False))
    train, val = train_val_sources("torchvision:MNIST", None, mnist, val_fraction=0.4)
    assert len(train) + len(val) == len(source)  # has no val: a part of train is cut off
    with pytest.raises(DataError, match="has no split val; it has train, test"):
        open_source("torchvision:MNIST/val", mnist)
    assert fingerprint(source)["pictures"] == len(source)


def test_arguments_and_targets(tmp_path):
    source = open_source(FAKE, tmp_path)
    theirs = datasets.FakeData(30, (3, 9, 9), 3)
    assert labels_of(source).tolist() == [int(theirs[i][1]) for i in range(30)]
    assert len(source.classes) == 3 and is_labelled(source) and find(FAKE, tmp_path).splits == ()
    part = open_source(f"{FAKE}_deci", tmp_path)
    assert 3 <= len(part) < 30
    folder = tmp_path / "torchvision"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        Image.new("L", (4, 4), 9).save(folder / name / "0.png")
    pictures = open_source("torchvision:ImageFolder", tmp_path)
    assert pictures.classes == ["a", "b"] and labels_of(pictures).tolist() == [0, 1]


def test_tensors_and_arrays_are_pictures_too(tmp_path, monkeypatch):
    class Given(datasets.VisionDataset):
        values = [torch.full((1, 4, 5), 0.2), np.full((4, 5), 7, np.uint8), np.ones((2, 4, 5))]

        def __init__(self, root=None):
            super().__init__(root)

        def __len__(self):
            return len(self.values)

        def __getitem__(self, i):
            return self.values[i], {"boxes": []}

    monkeypatch.setattr(datasets, "Given", Given, raising=False)
    source = open_source("torchvision:Given", tmp_path)
    assert not is_labelled(source) and source.classes == ["Given"]
    assert (source.image(0) == 51).all() and source.image(0).shape == (4, 5, 3)
    assert (source.image(1) == 7).all()
    with pytest.raises(
        DataError, match=r"bad image torchvision:Given:2 \(it is uint8 of shape \[2, 4, 5\]"
    ):
        source.image(2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision:mnist", "did you mean MNIST"),
        ("torchvision:MNIST", "SetupDataset.py --data torchvision:MNIST"),
        ("torchvision:SVHN/val", "has no split val; it has train, test"),
        ("torchvision:CIFAR10:size=3", "'size=3' is no argument=value; arguments are"),
        ("torchvision:", "is not torchvision:NAME"),
        ("torchvision:EMNIST", "missing 1 required positional argument"),
        ("torchvision:EMNIST:split=letters", "EMNIST:split=letters is not in"),
    ],
)
def test_what_is_wrong_is_a_line(spec, message, tmp_path):
    with pytest.raises(DataError, match=message) as caught:
        open_source(spec, tmp_path)
    assert "\n" not in str(caught.value) and not any(tmp_path.iterdir())


def test_setting_up_has_torchvision_fetch(tmp_path, monkeypatch, capsys):
    fetched = []

    class Far(datasets.FakeData):
        def __init__(self, root, train=True, download=False):
            fetched.append((root, train, download))
            if not download:
                raise RuntimeError("Dataset not found. You can use download=True to download it")
            super().__init__(4, (3, 4, 4))

    monkeypatch.setattr(datasets, "Far", Far, raising=False)
    words = ["--data", "torchvision:Far", "--data_path", str(tmp_path)]
    assert main(words) == 0 and "ready: train, test of torchvision:Far" in capsys.readouterr().err
    assert fetched == [(str(tmp_path / "torchvision"), t, True) for t in (True, False)]
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--lmdb"])
    assert "is fetched by torchvision" in capsys.readouterr().err
    assert main(["--data", "torchvision:Fra", "--data_path", str(tmp_path)]) == 6
    assert Torchvision("torchvision:Far/train", tmp_path).own == "train"
