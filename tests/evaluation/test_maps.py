"""Figures of maps against what one counts by hand."""

import pytest
import torch

from evaluation.maps import added, confusion, depth_sums, means, overlap_sums, segmentation_figures


def test_segmentation_by_hand():
    target = torch.tensor([[0, 0, 0, 1], [1, 2, 255, 255]])
    predicted = torch.tensor([[0, 0, 1, 1], [0, 2, 0, 3]])
    counts = confusion(predicted, target, 4)
    assert counts.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    found = segmentation_figures(counts)
    assert found["accuracy"] == pytest.approx(4 / 6) and found["majority"] == pytest.approx(3 / 6)
    assert found["miou"] == pytest.approx((2 / 4 + 1 / 3 + 1) / 3)  # class 3 is nowhere
    assert segmentation_figures(torch.zeros(2, 2)) == {}
    with pytest.raises(ValueError, match="outside of 0 to 1"):
        confusion(predicted, target, 2)


def test_depth_by_hand():
    target, predicted = torch.tensor([2.0, 4.0, 500.0, 0.0]), torch.tensor([3.0, 4.4, 1.0, 1.0])
    found = means({f"d/{k}": v for k, v in depth_sums(predicted, target).items()})
    assert found["d/abs_rel"] == pytest.approx((0.5 + 0.1) / 2)
    assert found["d/rmse"] == pytest.approx(((1 + 0.16) / 2) ** 0.5)
    assert found["d/delta1"] == 0.5


def test_parts_are_added():
    a = overlap_sums(torch.tensor([1, 1, 0]), torch.tensor([1, 0, 0]))
    b = overlap_sums(torch.tensor([1, 0, 0]), torch.tensor([1, 1, 1]))
    assert means(added(a, b)) == {"iou": pytest.approx(2 / 5)}
    assert means(overlap_sums(torch.zeros(3), torch.zeros(3))) == {}
