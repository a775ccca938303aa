"""Joint transforms of pictures, boxes, masks and segmentations: boxes follow what they are of."""

import numpy as np
import pytest

from data.layouts import (
    Annotated,
    BoxFaults,
    ObjectRule,
    box_fault,
    clean_boxes,
    extents,
    shares,
    wanted,
)
from data.views.layouts import Augment, Window, caption, central, crop, flip, resize

H, W = 30, 44


def blocks(seed=0, n=4):
    """Rectangles of whole pixels, each of its own colour and class, later ones above."""
    rng = np.random.default_rng(seed)
    boxes = np.stack([rng.integers(0, W - 12, n), rng.integers(0, H - 12, n),
                      rng.integers(4, 12, n), rng.integers(4, 12, n)], 1)  # fmt: skip
    masks = np.zeros((n, H, W), bool)
    segmentation = np.full((H, W), 255, np.uint8)
    image = np.zeros((H, W, 3), np.uint8)
    for k, (x, y, w, h) in enumerate(boxes):
        masks[k, y : y + h, x : x + w] = True
        segmentation[masks[k]] = k
        image[masks[k]] = 60 * (k + 1)
    return Annotated(image, shares(boxes, W, H), np.arange(n), masks, segmentation, ("a", "b"))


def around(mask):
    return extents(mask.astype(np.uint8), [1])[0]


@pytest.mark.parametrize("seed", range(6))
def test_boxes_stay_around_their_masks(seed):
    one = blocks(seed)
    for window in (Window(5, 3, 30, 20), Window(0, 0, 44, 12), central(W, H)):
        cut = crop(one, window)
        assert cut.image.shape[:2] == cut.masks.shape[1:] == (window.height, window.width)
        for box, mask, klass in zip(cut.boxes, cut.masks, cut.classes, strict=True):
            assert np.allclose(box, around(mask), atol=1e-6)
            there = cut.segmentation == klass
            assert (mask | ~there).all() and (cut.image[there] == 60 * (klass + 1)).all()
        left = one.masks[:, window.top : window.top + window.height,
                         window.left : window.left + window.width].any((1, 2))  # fmt: skip
        assert cut.classes.tolist() == np.flatnonzero(left).tolist()
        bare = Annotated(one.image, one.boxes, one.classes)  # the same without masks to go by
        assert np.array_equal(crop(bare, window).boxes, cut.boxes)
    mirrored = flip(one)
    for box, mask in zip(mirrored.boxes, mirrored.masks, strict=True):
        assert np.allclose(box, around(mask), atol=1e-6)
    again = flip(mirrored)
    assert (again.image == one.image).all() and np.allclose(again.boxes, one.boxes, atol=1e-6)


def test_a_mirrored_left_eye_is_a_right_one():
    one = blocks(1)
    swapped = flip(one, ((0, 2),))
    assert swapped.classes.tolist() == [2, 1, 0, 3]
    mirror = one.segmentation[:, ::-1]
    assert ((swapped.segmentation == 2) == (mirror == 0)).all()
    assert ((swapped.segmentation == 0) == (mirror == 2)).all()
    assert ((swapped.segmentation == 255) == (mirror == 255)).all()


def test_resizing():
    one = blocks(2)
    small = resize(one, 16, mask_size=10)
    assert small.image.shape == (16, 16, 3) and small.masks.shape == (4, 10, 10)
    assert (small.boxes == one.boxes).all()
    for r in range(10):
        for c in range(10):  # the pixel under the middle of each
            y, x = int((r + 0.5) * H / 10), int((c + 0.5) * W / 10)
            assert small.segmentation[r, c] == one.segmentation[y, x]
            assert (small.masks[:, r, c] == one.masks[:, y, x]).all()
    doubled = resize(blocks(2), 88)
    assert (doubled.masks[:, :, ::2] == doubled.masks[:, :, 1::2]).all()
    with pytest.raises(ValueError, match="none of bicubic"):
        resize(one, 16, filter="cubic")


def test_windows_are_those_of_torchvision():
    augment = Augment(scale=(0.3, 0.9), ratio=(0.5, 2.0))
    drawn = [augment.draw(80, 60, 0, k) for k in range(2000)]
    areas = np.array([w.width * w.height for _, w in drawn]) / 4800
    ratios = np.log([w.width / w.height for _, w in drawn])
    for _, w in drawn:
        assert 0 <= w.left <= w.left + w.width <= 80 and 0 <= w.top <= w.top + w.height <= 60
    assert 0.29 < areas.min() and areas.max() < 0.91 and abs(ratios).max() < np.log(2.1)
    assert 0.45 < np.mean([mirrored for mirrored, _ in drawn]) < 0.55
    import torch
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    blank = torch.empty(3, 60, 80)
    theirs = [RandomResizedCrop.get_params(blank, [0.3, 0.9], [0.5, 2.0]) for _ in range(2000)]
    top, left, height, width = np.array(theirs).T
    assert abs(areas.mean() - (width * height).mean() / 4800) < 0.015
    assert abs(ratios.mean() - np.log(width / height).mean()) < 0.05
    assert abs(np.mean([w.left for _, w in drawn]) - left.mean()) < 1.0
    assert abs(np.mean([w.top for _, w in drawn]) - top.mean()) < 1.0
    # a ratio that never fits: the largest central window of an allowed one, as there
    narrow = Augment(scale=(0.9, 1.0), ratio=(0.95, 1.05))
    assert narrow.draw(640, 480, 1)[1] == Window(68, 0, 504, 480)
    assert Augment(crop=False).draw(80, 60, 1)[1] == Window(0, 0, 80, 60)
    assert augment.draw(80, 60, 5, 7) == augment.draw(80, 60, 5, 7) != augment.draw(80, 60, 5, 8)


def test_bad_boxes_have_a_kind_and_are_counted():
    boxes = {(0, 0, 0, 5): "empty", (3, 3, -1, 5): "reversed", (44, 0, 5, 5): "outside",
             (-5, 0, 5, 5): "outside", (0, float("nan"), 1, 1): "not finite",
             (-5, 0, 6, 5): None, (40, 28, 100, 100): None}  # fmt: skip
    assert [box_fault(box, W, H) for box in boxes] == list(boxes.values())
    faults = BoxFaults("set")
    rows, kept = clean_boxes(np.array(list(boxes)), W, H, [f"#{k}" for k in range(7)], faults)
    assert rows.tolist() == [5, 6] and faults.total == 5
    assert np.allclose(kept * [W, H, W, H], [[0, 0, 1, 5], [40, 28, 4, 2]], atol=1e-5)
    assert faults.said() == (
        "set: 5 bad boxes left out: 1 empty (#0: 0,0,0,5), 2 outside (#2: 44,0,5,5; #3: -5,0,5,5), "
        "1 reversed (#1: 3,3,-1,5), 1 not finite (#4: 0,nan,1,1)"
    )
    assert BoxFaults().said() == ""


def test_which_objects_count():
    boxes = shares(
        np.array([[0, 0, 10, 10], [0, 0, 20, 20], [5, 5, 3, 30], [0, 0, 12, 12]]), 40, 40
    )
    assert wanted(boxes, 40, 40, ObjectRule()).tolist() == [0, 1, 2, 3]
    assert wanted(boxes, 40, 40, ObjectRule(share=0.0625)).tolist() == [
        1,
        3,
    ]  # more than, not as much
    assert wanted(boxes, 40, 40, ObjectRule(side=10)).tolist() == [0, 1, 3]
    assert wanted(boxes, 40, 40, ObjectRule(largest=2)).tolist() == [1, 3]


def test_captions():
    one = blocks(0).take([1, 3, 1])
    names = ["cat", "dog", "car", "sky"]
    assert caption(one, names) == "a, dog, sky"
    assert {caption(one, names, 0, k) for k in range(20)} == {"a, dog, sky", "b, dog, sky"}
    assert caption(Annotated(one.image, one.boxes, one.classes), names) == "dog, sky"
