import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from data.pyramids import Pyramid
from data.readers.folders import FolderSource
from data.registry import open_source
from storage.errors import DataError
from tests.data.pictures import make_set, truncate


@pytest.fixture
def folder(tmp_path):
    return make_set(tmp_path / "s", {"train": {"a": 6, "b": 6}})


def test_every_level_is_pillows_bicubic_of_the_same_original(folder):
    pyramid = Pyramid(FolderSource(folder / "train"), [4, 8, 8, 16])
    assert len(pyramid) == 12
    x, ys = pyramid[7]
    assert [tuple(t.shape) for t in (x, *ys)] == [(3, 4, 4), (3, 8, 8), (3, 8, 8), (3, 16, 16)]
    original = Image.open(folder / "train/b/001.png")
    for t in (x, *ys):
        assert t.dtype == torch.uint8
        want = np.asarray(original.resize((t.shape[2],) * 2, Image.Resampling.BICUBIC))
        assert (t.permute(1, 2, 0).numpy() == want).all()
    assert (pyramid[-5][0] == x).all() and pyramid.label(7) == 1


class Counting:
    name, classes = "counting", ["x"]

    def __init__(self):
        self.decoded = self.rendered = 0

    def __len__(self):
        return 4

    def image(self, i):
        self.decoded += 1
        return np.full((9, 9, 3), i, np.uint8)

    def label(self, i):
        return 0

    def path(self, i):
        return str(i)


class Rendering(Counting):
    def native(self, i, size):
        self.rendered += 1
        return np.full((size, size, 3), 100 + i, np.uint8)


def test_repeated_sizes_are_decoded_once_and_native_sizes_asked_for():
    source = Counting()
    Pyramid(source, [8, 8, 8, 16])[1]
    assert source.decoded == 1
    source = Rendering()
    x, (a, b) = Pyramid(source, [8, 16, 16])[2]
    assert (source.decoded, source.rendered) == (0, 1) and int(b[0, 0, 0]) == 102


def test_drawn_pictures_are_reduced_like_any_other(tmp_path):
    """Drawn at each size for itself, the smaller would be of another picture than the largest."""
    x, ys = Pyramid(open_source("scenes/train", tmp_path), [8, 16, 32])[3]
    original = Image.fromarray(ys[-1].permute(1, 2, 0).numpy())
    for t in (x, ys[0]):
        want = np.asarray(original.resize((t.shape[2],) * 2, Image.Resampling.BICUBIC))
        assert (t.permute(1, 2, 0).numpy() == want).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_cache_gives_the_same_and_decodes_once(workers):
    source = Counting()
    plain, cached = Pyramid(source, [2, 4]), Pyramid(source, [2, 4], cache="memory")
    want = [plain[i] for i in range(4)]
    source.decoded = 0
    for _ in range(2):
        loader = DataLoader(cached, num_workers=workers, multiprocessing_context=None)
        for (x, ys), (wx, wys) in zip(loader, want, strict=True):
            assert (x[0] == wx).all() and (ys[0][0] == wys[0]).all()
    x, _ = cached[1]
    x.zero_()  # what a caller does to its copy
    assert (cached[1][0] == 1).all()
    assert source.decoded == (4 if workers == 0 else 0)  # workers filled it for us too


def test_cache_too_large_is_refused():
    class Huge(Counting):
        def __len__(self):
            return 10**9

    with pytest.raises(DataError, match="GiB"):
        Pyramid.__init__(Pyramid.__new__(Pyramid), Huge(), [4096], cache="memory", max_bad=1)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_image_is_substituted_the_same_everywhere(folder, capfd, workers):
    truncate(folder / "train/a/003.png")
    pyramid = Pyramid(FolderSource(folder / "train"), [4, 8])
    passes = []
    for _ in range(2):
        loader = DataLoader(pyramid, num_workers=workers)
        passes.append(torch.cat([x for x, _ in loader]))
    assert (passes[0] == passes[1]).all()
    said = [line for line in capfd.readouterr().err.splitlines() if "bad image" in line]
    assert len(said) == 1 and "train/a/003.png (" in said[0] and said[0].endswith("; 1/12")
    number = int(said[0].split("substituted #")[1].split(";")[0])
    assert number != 3 and (passes[0][3] == passes[0][number]).all()
    assert pyramid.bad_count == 1


def test_too_many_bad_images_end_it(folder):
    for k in range(5):
        truncate(folder / f"train/a/{k:03d}.png")
    pyramid = Pyramid(FolderSource(folder / "train"), [4, 8])
    with pytest.raises(DataError, match="4 bad images of 12.* at most 3") as caught:
        for batch in DataLoader(pyramid, num_workers=1):
            del batch
    assert "\n" not in str(caught.value)


def test_all_bad_is_an_error_not_a_loop(tmp_path):
    folder = make_set(tmp_path / "s", {"train": {"a": 2}})
    for k in range(2):
        truncate(folder / f"train/a/{k:03d}.png")
    with pytest.raises(DataError, match="stand-ins"):
        Pyramid(FolderSource(folder / "train"), [4])[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"res": []}, "positive integers"),
        ({"res": [8, 0]}, "positive integers"),
        ({"res": [8, 16.5]}, "positive integers"),
        ({"res": [8], "crop": "fit"}, "squash, center"),
        ({"res": [8], "cache": "disk"}, "none nor memory"),
    ],
)
def test_bad_arguments(folder, options, message):
    with pytest.raises(DataError, match=message):
        Pyramid(FolderSource(folder / "train"), **options)
