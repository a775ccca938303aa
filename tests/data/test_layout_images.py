"""Batches of pictures with layouts, as training reads them."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data.layout_images import LayoutImages
from data.layout_registry import open_layouts
from data.layouts import Annotated, BoxFaults, LayoutSubset, ObjectRule
from data.samplers import StepSampler
from data.views.layouts import Augment
from storage.errors import DataError
from tests.data.layout_files import make_coco

ANY = ObjectRule()


class Few:
    """Pictures with 2, 0 and 5 boxes; number 1 cannot be read once `broken` is set."""

    name, classes, labelled = "few", ["few"], False
    object_classes, segment_classes = [f"c{k}" for k in range(9)], ["a", "b"]
    flip_pairs, faults, broken = ((0, 1),), BoxFaults(), False

    def __len__(self):
        return 3

    def image(self, i):
        if self.broken and i == 1:
            raise DataError("bad image 1 (empty file)")
        return np.full((8, 10, 3), 50 * i, np.uint8)

    def label(self, i):
        return 0

    def path(self, i):
        return f"few/{i}"

    def annotated(self, i, size=None):
        n = (2, 0, 5)[i]
        boxes = np.tile(np.array([0.25, 0.25, 0.5, 0.5], np.float32), (n, 1))
        boxes[:, 2] += np.arange(n) * 0.05
        masks = np.zeros((n, 8, 10), bool)
        masks[:, 2:6, 2:8] = True
        segmentation = np.full((8, 10), 1, np.uint8)
        return Annotated(self.image(i), boxes, np.arange(n), masks, segmentation)


def test_a_batch_is_padded():
    images = LayoutImages(Few(), 4, mask_size=2)
    batch = next(iter(DataLoader(images, batch_size=3, collate_fn=images.collate)))
    assert batch.image.shape == (3, 3, 4, 4) and batch.image.dtype == torch.uint8
    assert batch.boxes.shape == (3, 5, 4) and batch.classes.dtype == torch.int64
    assert batch.ids.tolist() == [0, 1, 2] and batch.objects.tolist() == [2, 0, 5]
    assert batch.classes.tolist() == [[0, 1, -1, -1, -1], [-1] * 5, [0, 1, 2, 3, 4]]
    assert (batch.valid.sum(1) == batch.objects).all()
    assert (batch.boxes[~batch.valid] == 0).all() and not batch.masks[~batch.valid].any()
    assert batch.masks.shape == (3, 5, 2, 2) and batch.segmentation.shape == (3, 2, 2)
    assert batch.text == ["c0, c1", "", "c0, c1, c2, c3, c4"]
    assert LayoutImages(Few(), 4, least=7).collate([images[0]]).boxes.shape == (1, 7, 4)
    few = LayoutImages(Few(), 4, max_objects=2)[2]
    assert few.classes.tolist() == [3, 4]  # the largest two, in their order
    # no object in the whole batch
    assert images.collate([images[1]]).boxes.shape == (1, 0, 4)


def test_views_depend_on_the_draw_alone():
    source = open_layouts("scenes", "nowhere", masks=True)
    images = LayoutImages(source, 16, augment=Augment(), seed=5)

    def seen(workers, rank, ranks):
        sampler = StepSampler(40, 4, seed=5, rank=rank, world_size=ranks, with_draws=True)
        loader = DataLoader(
            LayoutImages(LayoutSubset(source, range(40)), 16, augment=Augment(), seed=5),
            batch_sampler=sampler, num_workers=workers, collate_fn=images.collate,
        )  # fmt: skip
        batches = sampler.batches(loader)
        out = [next(batches) for _ in range(3)]
        return [(int(b.ids[k]), b.image[k], b.boxes[k, : b.objects[k]], b.classes[k])
                for b in out for k in range(len(b.ids))]  # fmt: skip

    alone, first, second = seen(0, 0, 1), seen(1, 0, 2), seen(0, 1, 2)
    shared = [pair for both in zip(first, second, strict=True) for pair in both]
    for a, b in zip(alone, shared, strict=True):
        assert a[0] == b[0] and torch.equal(a[1], b[1]) and torch.equal(a[2], b[2])
    assert not torch.equal(images[3, 0].image, images[3, 1].image)
    assert torch.equal(images[3].image, images[3].image)  # validation draws nothing
    assert torch.equal(images[3].image, torch.from_numpy(source.image(3, 16)).permute(2, 0, 1))


def test_mirrored_labels_change_places():
    images = LayoutImages(Few(), 4, augment=Augment(flip=1.0, crop=False))
    assert images[2].classes.tolist() == [0, 1, 2, 3, 4]
    assert images[2, 0].classes.tolist() == [1, 0, 2, 3, 4]
    assert images[2, 0].segmentation.unique().tolist() == [0]


def test_a_bad_picture_is_replaced_and_named(capsys):
    source = Few()
    source.broken = True
    images = LayoutImages(source, 4)
    assert images[1].image.unique().tolist() in ([0], [100]) and images[1].id == 1
    assert capsys.readouterr().err.count("bad image 1 (empty file)") == 1
    with pytest.raises(DataError, match="at most 0 are let pass"):
        LayoutImages(source, 4, max_bad=0)[1]


def test_framing_and_captions(tmp_path):
    make_coco(tmp_path / "coco")
    source = open_layouts("coco", tmp_path, rule=ANY)
    squashed, central = (LayoutImages(source, 12, crop=c)[0] for c in ("squash", "center"))
    assert len(squashed.classes) == 4 and torch.isclose(squashed.boxes[0, 2], torch.tensor(0.5))
    # the square from 8 to 32: the box 0..20 is cut to 0..12 of 24, that at 30..40 to its edge
    assert torch.allclose(central.boxes[0], torch.tensor([0, 0, 0.5, 0.5]))
    assert torch.allclose(central.boxes[3], torch.tensor([22 / 24, 10 / 24, 2 / 24, 8 / 24]))
    assert squashed.text == "picture 1, person, dog, car, wood"
    for wrong in ({"crop": "fit"}, {"filter": "x"}, {"resolution": 0}):
        with pytest.raises(DataError):
            LayoutImages(**{"source": source, "resolution": 8, **wrong})
