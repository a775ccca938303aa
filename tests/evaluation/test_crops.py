"""Crops are the pixels that boxes touch."""

import pytest
import torch

from evaluation.crops import box_crops


def test_crops_of_known_pixels():
    image = torch.arange(2 * 10 * 20).view(2, 10, 20)
    boxes = torch.tensor([
        [0.3, 0.3, 0.7, 0.6],  # on edges of pixels, as far as float32 knows
        [0.31, 0.35, 0.69, 0.55],  # inside of them
        [-1.0, 0.5, 0.05, 2.0],  # over the edge
        [0.5, 0.5, 0.5, 0.9],  # no area
        [0.51, 0.51, 0.52, 0.52],  # one pixel
        [2.0, 0.0, 3.0, 1.0],  # outside
    ])  # fmt: skip
    crops, kept = box_crops(image, boxes)
    assert kept.tolist() == [0, 1, 2, 4]
    wanted = [image[:, 3:6, 6:14], image[:, 3:6, 6:14], image[:, 5:, :1], image[:, 5:6, 10:11]]
    assert all(torch.equal(a, b) for a, b in zip(crops, wanted, strict=True))
    assert box_crops(image, boxes, min_side=2)[1].tolist() == [0, 1]
    assert box_crops(image, boxes[:0])[0] == []


def test_what_cannot_be():
    image = torch.zeros(3, 4, 4)
    for call, says in (
        (lambda: box_crops(image[0], torch.zeros(1, 4)), "image"),
        (lambda: box_crops(image, torch.zeros(4)), r"\[n, 4\]"),
        (lambda: box_crops(image, torch.full((1, 4), torch.nan)), "finite"),
        (lambda: box_crops(image, torch.zeros(1, 4), min_side=0), "min_side 0"),
    ):
        with pytest.raises(ValueError, match=says):
            call()
