import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from data.decode import bad_image
from data.labelled import LabelledImages, own_size
from data.readers.folders import FolderSource
from data.registry import open_source
from data.sources import Subset
from storage.errors import DataError
from tests.data.pictures import make_set, truncate


class Given:
    """Pictures in a list; None is one that cannot be read."""

    name = "given"

    def __init__(self, images, labels, classes=("a", "b")):
        self.images, self.labels, self.classes = images, labels, list(classes)

    def __len__(self):
        return len(self.images)

    def image(self, i):
        if self.images[i] is None:
            raise bad_image(self.path(i), "truncated")
        return self.images[i]

    def label(self, i):
        return self.labels[i]

    def path(self, i):
        return f"given/{i}"


class Latents(Given):
    channels = 8

    def latent(self, i):
        return self.images[i].copy()

    def image(self, i):
        raise AssertionError("latents are no pictures")


def pictures(n, size=6):
    rng = np.random.default_rng(n)
    return [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(n)]


def latents(n, size=4):
    rng = np.random.default_rng(n)
    return [rng.standard_normal((8, size, size)).astype(np.float32) for _ in range(n)]


def test_items_are_index_image_label(tmp_path):
    source = FolderSource(make_set(tmp_path / "s", {"train": {"a": 3, "b": 4}}) / "train")
    images = LabelledImages(source, 16)
    assert (len(images), images.label_dim, images.channels, images.resolution) == (7, 2, 3, 16)
    assert images.classes == ["a", "b"] and images.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    index, image, label = images[4]
    assert (index, label) == (4, 1) and type(index) is int and type(label) is int
    assert image.dtype == torch.uint8 and image.shape == (3, 16, 16) and image.is_contiguous()
    whole = Image.open(tmp_path / "s/train/b/001.png")  # 30 x 24
    want = whole.crop((3, 0, 27, 24)).resize((16, 16), Image.Resampling.BICUBIC)
    assert (image.permute(1, 2, 0).numpy() == np.asarray(want)).all()
    squashed = LabelledImages(source, 16, crop="squash")[4][1].permute(1, 2, 0).numpy()
    assert (squashed == np.asarray(whole.resize((16, 16), Image.Resampling.BICUBIC))).all()
    with pytest.raises(IndexError):
        images[7]
    assert images[-1][0] == 6


@pytest.mark.parametrize("cache", ["none", "memory"])
@pytest.mark.parametrize("kind", ["pictures", "latents"])
def test_xflip_doubles_the_set(cache, kind):
    source = (
        Given(pictures(5), [0, 1, 0, 1, 1])
        if kind == "pictures"
        else Latents(latents(5), [0, 1, 0, 1, 1])
    )
    images = LabelledImages(source, cache=cache, xflip=True)
    assert len(images) == 10
    for _ in range(2):  # the second time from the cache, which a flip must not have touched
        for i in range(5):
            a, b = images[i], images[5 + i]
            raw = source.images[i]
            want = torch.from_numpy(raw.transpose(2, 0, 1) if kind == "pictures" else raw)
            assert torch.equal(a[1], want) and torch.equal(b[1], want.flip(2))
            assert (a[0], b[0]) == (i, 5 + i) and a[2] == b[2] == source.labels[i]
            assert b[0] % len(source) == i and b[1].is_contiguous()
            b[1].zero_()


def test_own_resolution_of_pictures_and_latents():
    assert LabelledImages(Given(pictures(3, 6), [0, 0, 1])).resolution == 6
    images = LabelledImages(Latents(latents(3, 4), [0, 0, 1]))
    assert (images.resolution, images.channels) == (4, 8)
    assert images[1][1].dtype == torch.float32 and images[1][1].shape == (8, 4, 4)
    with pytest.raises(DataError, match="latents of 4x4; they cannot be brought to 8x8"):
        LabelledImages(Latents(latents(3, 4), [0, 0, 1]), 8)
    with pytest.raises(DataError, match="drawn at any size; give a resolution"):
        LabelledImages(Subset(open_source("scenes", "."), range(3)))
    part = LabelledImages(Subset(Latents(latents(3, 4), [0, 0, 1]), [2, 1]))
    assert (part.channels, part[0][2]) == (8, 1)


def test_mixed_sizes_are_an_error_not_a_bad_picture():
    mixed = [*pictures(3, 6), *pictures(3, 7)]
    with pytest.raises(DataError, match="is not of one size: given/0 is 6x6, given/3 is 7x7"):
        LabelledImages(Given(mixed, [0] * 6))
    assert LabelledImages(Given(mixed, [0] * 6), 4)[5][1].shape == (3, 4, 4)
    oblong = [np.zeros((4, 6, 3), np.uint8)] * 2
    with pytest.raises(DataError, match="given/0 is 6x4, not square"):
        own_size(Given(oblong, [0, 0]))
    hidden = pictures(100, 6)
    hidden[3] = pictures(1, 7)[0]  # not among those looked at first
    images = LabelledImages(Given(hidden, [0] * 100))
    with pytest.raises(DataError, match="given/3 is 7x7, others of given are 6x6"):
        images[3]


def test_label_follows_the_stand_in(capfd):
    shots = pictures(40)
    labels = [i % 2 for i in range(40)]
    for bad in (3, 8):
        shots[bad] = None
    for cache in ("none", "memory"):
        images = LabelledImages(Given(shots, labels), 6, cache=cache, xflip=True)
        for _ in range(2):
            for i in (3, 8, 43, 48):
                index, image, label = images[i]
                shown = images._pyramid.shown(i % 40)
                want = torch.from_numpy(shots[shown].transpose(2, 0, 1).copy())
                assert index == i and label == labels[shown]
                assert torch.equal(image, want if i < 40 else want.flip(2))
        assert images.bad_count == 2
    capfd.readouterr()


@pytest.mark.parametrize(
    ("classes", "labels", "dim"), [(["all"], [0, 0, 0], 0), (["a", "b", "c"], [0, 2, 2], 3)]
)
def test_label_dim_is_the_true_class_count(classes, labels, dim):
    assert LabelledImages(Given(pictures(3), labels, classes), 6).label_dim == dim


def test_labels_outside_the_classes_are_refused():
    with pytest.raises(DataError, match="labels 0 to 2 but 2 classes"):
        LabelledImages(Given(pictures(3), [0, 1, 2]), 6)
    with pytest.raises(DataError, match="labels -1 to 1"):
        LabelledImages(Given(pictures(3), [0, 1, -1]), 6)


def test_scenes_and_parts_of_sets():
    scenes = open_source("scenes", ".")
    images = LabelledImages(Subset(scenes, range(4)), 8)
    assert images.label_dim == 10 and images[2][1].shape == (3, 8, 8)
    assert torch.equal(images[2][1].permute(1, 2, 0), torch.from_numpy(scenes.native(2, 8)))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_give_the_same_in_order(tmp_path, start):
    folder = make_set(tmp_path / "s", {"train": {"a": 5, "b": 5}})
    truncate(folder / "train/a/003.png")
    images = LabelledImages(FolderSource(folder / "train"), 8, xflip=True, cache="memory")
    loader = DataLoader(images, batch_size=8, num_workers=1, multiprocessing_context=start)
    batches = list(loader)
    index = torch.cat([b[0] for b in batches])
    assert index.tolist() == list(range(20)) and index.dtype == torch.int64
    got = torch.cat([b[1] for b in batches])
    labels = torch.cat([b[2] for b in batches])
    for i in range(20):
        assert torch.equal(got[i], images[i][1]) and int(labels[i]) == images[i][2]
