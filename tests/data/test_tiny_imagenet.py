"""The layout of tiny-imagenet-200 as its authors distribute it, folder and zip."""

import numpy as np
import pytest

from data.labelled import LabelledImages
from data.prepare.acquire import acquire
from data.prepare.sizes import prepare_folders
from data.registry import full_name, open_source, train_val_sources
from data.sources import Subset, labels_of
from storage.errors import DataError
from tests.data.pictures import encoded, zip_folder

WNIDS = ["n01443537", "n01629819", "n02124075"]
WORDS = "n00001740\tentity\nn01443537\tgoldfish, Carassius auratus\nn01629819\tcrane\n"
WORDS += "n02124075\tcrane, bird\n"


def official(root):
    for w in WNIDS:
        folder = root / "train" / w / "images"
        folder.mkdir(parents=True)
        for k in range(3):
            (folder / f"{w}_{k}.JPEG").write_bytes(encoded(k, "JPEG"))
        (root / "train" / w / f"{w}_boxes.txt").write_text("x\t0\t0\t1\t1\n")
    lines = []
    for split in ("val", "test"):
        (root / split / "images").mkdir(parents=True)
        for k in range(4):
            (root / split / "images" / f"{split}_{k}.JPEG").write_bytes(encoded(k, "JPEG"))
            lines.append(f"val_{k}.JPEG\t{WNIDS[(k + 1) % 2 * 2]}\t0\t0\t63\t63\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines[:4]))
    (root / "wnids.txt").write_text("\n".join(reversed(WNIDS)))
    (root / "words.txt").write_text(WORDS)
    return root


@pytest.mark.parametrize("kind", ["folder", "zip", "wrapped zip"])
def test_classes_of_train_and_val_agree(tmp_path, kind):
    root = official(tmp_path / "tiny-imagenet-200")
    path = root
    if kind != "folder":
        prefix = "tiny-imagenet-200/" if kind == "wrapped zip" else ""
        path = zip_folder(root, tmp_path / "t.zip", prefix)
    train, val = train_val_sources(str(path), None, tmp_path)
    assert train.classes == val.classes == WNIDS
    assert labels_of(train).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert labels_of(val).tolist() == [2, 0, 2, 0]  # no picture of the middle class
    names = ["goldfish", "crane (n01629819)", "crane (n02124075)"]
    assert train.class_names == val.class_names == names
    assert LabelledImages(Subset(val, [0, 1]), 8).classes == names
    assert LabelledImages(val, 8).label_dim == 3


@pytest.mark.parametrize("packed", [False, True])
def test_prepared_under_its_names(tmp_path, packed):
    source = official(tmp_path / "src" / "tiny-imagenet-200")
    if packed:
        source = zip_folder(source, tmp_path / "tiny.zip", "tiny-imagenet-200/")
    root = acquire("tinyImagenet", tmp_path / "data", source)
    prepare_folders(root, [8], workers=1)
    for name in ("tinyImagenet", "tiny"):
        train, val = train_val_sources(name, None, tmp_path / "data")
        assert train.classes == val.classes == WNIDS and len(val) == 4
        assert val.class_names[0] == "goldfish"
        images = LabelledImages(val, 8, crop="squash")  # from the folder of that size
        assert val.has_native(8) and [images[k][2] for k in range(4)] == [2, 0, 2, 0]
        assert (images[1][1].permute(1, 2, 0).numpy() == val.native(1, 8)).all()
        tenth = open_source(f"{name}_deci", tmp_path / "data")
        assert len(tenth) == 3 and np.unique(labels_of(tenth)).tolist() == [0, 1, 2]


def test_short_names():
    assert full_name("tiny") == "tinyImagenet" and full_name("tiny_deci") == "tinyImagenet_deci"
    assert full_name("tiny_coco") == "tiny_coco" and full_name("mnist") == "mnist"


def test_a_set_of_ones_own_called_tiny_comes_first(tmp_path):
    (tmp_path / "tiny" / "a").mkdir(parents=True)
    (tmp_path / "tiny" / "a" / "x.png").write_bytes(encoded(0))
    assert len(open_source("tiny", tmp_path)) == 1
    with pytest.raises(DataError, match="tinyImagenet is not prepared in .*--data tinyImagenet"):
        open_source("tiny", tmp_path / "nothing")


def test_a_picture_without_a_row(tmp_path):
    root = official(tmp_path / "t")
    (root / "val" / "images" / "val_9.JPEG").write_bytes(encoded(0, "JPEG"))
    with pytest.raises(DataError, match="val_annotations.txt in .* says no class of images/val_9"):
        open_source(f"{root}/val", tmp_path)
