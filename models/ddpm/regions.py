"""Layouts: which classes are where in an image, and which pixels of a feature map that is.

Cheng et al. 2023, "LayoutDiffuse" (arXiv:2302.08908). Shapes never depend on values, so nothing
here waits for a GPU; only on a CPU, where that costs nothing, values are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING = -1  # the class of a row that is no instance
NO_CLASS = 255  # the class of a pixel of a segmentation that is background
RULES = ("released", "covering")


class Layout(NamedTuple):
    """Instances of B images, at most N each; or the class of every pixel.

    boxes float [B, N, 4]: x_min, y_min, width, height as shares of the image's sides. classes
    int64 [B, N] from 0; -1 marks a row that only fills up. masks bool [B, N, h, w]: the instances'
    pixels, which then count instead of their boxes. segmentation int or uint8 [B, h, w]: classes,
    255 is background.
    """

    boxes: Tensor
    classes: Tensor
    masks: Tensor | None = None
    segmentation: Tensor | None = None

    @staticmethod
    def pad(
        rows: Sequence[Tensor],
        *,
        num_classes: int,
        masks: Sequence[Tensor] | None = None,
        least: int = 0,
    ) -> Layout:
        """Images' instances, each [n, 5] x_min, y_min, width, height, class, filled up to one N.

        masks: bool [n, h, w] each. least: an N of at least that, so that shapes do not change
        between batches. Errors: ValueError for shapes, and for a class that is not in
        [0, num_classes): the embedding behind the last is the background's (COCO's id 182 is class
        181 and needs num_classes >= 182).
        """
        most = max([least, *(len(r) for r in rows)])
        boxes = torch.zeros(len(rows), most, 4)
        classes = torch.full((len(rows), most), PADDING)
        for i, r in enumerate(rows):
            if r.ndim != 2 or r.shape[1] != 5:
                raise ValueError(f"a layout of shape {list(r.shape)} instead of [n, 5]")
            check_classes(r[:, 4], num_classes)
            boxes[i, : len(r)] = r[:, :4]
            classes[i, : len(r)] = r[:, 4].long()
        filled = None
        if masks is not None:
            if [len(m) for m in masks] != [len(r) for r in rows]:
                raise ValueError("layouts and masks are of different numbers of instances")
            height, width = masks[0].shape[1:] if masks else (1, 1)
            filled = torch.zeros(len(rows), most, height, width, dtype=torch.bool)
            for i, m in enumerate(masks):
                if tuple(m.shape[1:]) != (height, width):
                    raise ValueError(
                        f"masks of {list(m.shape[1:])} and of {[height, width]} in one batch"
                    )
                filled[i, : len(m)] = m
        return Layout(boxes, classes, filled)

    @staticmethod
    def of_segmentation(classes: Tensor, *, num_classes: int) -> Layout:
        """Per-pixel classes int [B, h, w], 255 background. Errors: ValueError."""
        check_classes(classes[classes != NO_CLASS], num_classes)
        return Layout.empty(len(classes), device=classes.device)._replace(
            segmentation=classes.long()
        )

    @staticmethod
    def of_label_map(classes: Tensor, *, num_classes: int) -> Layout:
        """Instances of per-pixel classes int [B, h, w], 255 background: every class that an image
        has is one of its instances, its pixels the mask, the box around them. Errors: ValueError.
        """
        check_classes(classes[classes != NO_CLASS], num_classes)
        height, width = classes.shape[1:]
        rows, masks = [], []
        for image in classes:
            present = image[image != NO_CLASS].unique()
            inside = image == present[:, None, None]
            boxes = []
            for mask in inside:
                (i, j), sides = mask.nonzero().t(), torch.tensor([width, height])
                low = torch.stack([j.min(), i.min()]) / sides
                boxes.append(
                    torch.cat([low, torch.stack([j.max() + 1, i.max() + 1]) / sides - low])
                )
            named = present[:, None].float()
            placed = torch.stack(boxes) if boxes else torch.zeros(0, 4)
            rows.append(torch.cat([placed, named], 1))
            masks.append(inside)
        return Layout.pad(rows, num_classes=num_classes, masks=masks)

    @staticmethod
    def empty(batch: int, *, device: torch.device | str | None = None) -> Layout:
        """Images without any instance: all is background."""
        boxes = torch.zeros(batch, 0, 4, device=device)
        return Layout(boxes, torch.zeros(batch, 0, dtype=torch.int64, device=device))

    @staticmethod
    def cat(layouts: Sequence[Layout]) -> Layout:
        """The images of several layouts, one after the other; all or none have masks."""
        most = max(layout.classes.shape[1] for layout in layouts)
        grown = [layout._grown(most) for layout in layouts]
        parts = []
        for pieces in zip(*grown, strict=True):
            present = [piece for piece in pieces if piece is not None]
            if present and len(present) < len(pieces):
                raise ValueError("some of the layouts have masks or a segmentation, some have none")
            parts.append(torch.cat(present) if present else None)
        return Layout(*parts)  # type: ignore[arg-type]

    def _grown(self, most: int) -> Layout:
        more = most - self.classes.shape[1]
        if not more:
            return self
        masks = None if self.masks is None else F.pad(self.masks, (0, 0, 0, 0, 0, more))
        classes = F.pad(self.classes, (0, more), value=PADDING)
        return self._replace(boxes=F.pad(self.boxes, (0, 0, 0, more)), classes=classes, masks=masks)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Layout:
        """The same on a device."""
        return self._each(lambda t: t.to(device, non_blocking=non_blocking))

    def take(self, rows: Tensor | slice) -> Layout:
        """Some of the images, in the order asked for."""
        return self._each(lambda t: t[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Layout:
        masks = None if self.masks is None else change(self.masks)
        segmentation = None if self.segmentation is None else change(self.segmentation)
        return Layout(change(self.boxes), change(self.classes), masks, segmentation)

    def drop(self, keep: Tensor) -> Layout:
        """The images with keep False [B] lose their instances: for classifier-free guidance."""
        classes = torch.where(keep[:, None], self.classes, PADDING)
        segmentation = self.segmentation
        if segmentation is not None:
            segmentation = torch.where(keep[:, None, None], segmentation, NO_CLASS)
        return self._replace(classes=classes, segmentation=segmentation)


def check_classes(classes: Tensor, num_classes: int) -> None:
    """Errors: ValueError for a class that is not in [0, num_classes)."""
    wrong = classes[~((classes >= 0) & (classes < num_classes))]
    if len(wrong):
        raise ValueError(
            f"a layout has class {float(wrong[0]):g}; the network has classes 0 to "
            f"{num_classes - 1} (layout_classes)"
        )


def box_regions(boxes: Tensor, height: int, width: int, rule: str = "released") -> Tensor:
    """Rows and columns of boxes [..., 4] on a grid: int64 [..., 4], i0, i1, j0, j1 (half-open).

    released: i0 = min(H - 1, floor(y H)), i1 = i0 + max(1, ceil(h H)), and so the columns; a
    box between grid lines may miss its last row. covering: every cell that the box touches, floor
    of its beginning to ceil of its end. i1 and j1 may lie outside: clip. A box that begins left of
    or above the image is cut off there.
    """
    if rule not in RULES:
        raise ValueError(f"region rule {rule!r} is not {' or '.join(RULES)}")
    sides = torch.stack([boxes.new_full((), float(side)) for side in (width, height)])
    start, extent = boxes[..., :2] * sides, boxes[..., 2:] * sides
    low = start.floor().minimum(sides - 1)
    if rule == "released":
        high = low + extent.ceil().clamp_min(1)
    else:
        high = (start + extent).ceil()
    low = low.clamp_min(0)
    high = high.maximum(low + 1)
    (j0, i0), (j1, i1) = low.long().unbind(-1), high.long().unbind(-1)
    return torch.stack([i0, i1, j0, j1], -1)


def region_masks(layout: Layout, height: int, width: int, rule: str = "released") -> Tensor:
    """Pixels of each instance on a grid: bool [B, N, height * width]; none for filling rows.

    Of masks: every cell in which the instance has a pixel.
    """
    present = (layout.classes >= 0)[:, :, None]
    if layout.masks is not None:
        if not layout.masks.shape[1]:
            return layout.masks.new_zeros(*layout.masks.shape[:2], height * width)
        inside = F.adaptive_max_pool2d(layout.masks.float(), (height, width)) > 0
        return inside.flatten(2) & present
    i0, i1, j0, j1 = box_regions(layout.boxes, height, width, rule)[..., None].unbind(-2)
    i = torch.arange(height, device=layout.boxes.device)
    j = torch.arange(width, device=layout.boxes.device)
    rows, columns = (i >= i0) & (i < i1), (j >= j0) & (j < j1)
    return (rows[..., None] & columns[..., None, :]).flatten(2) & present


def grid_classes(segmentation: Tensor, height: int, width: int) -> Tensor:
    """A segmentation [B, h, w] at the size of a feature map [B, height * width].

    Every r-th pixel from r // 2, with r = h / height, as released. Errors: ValueError where the
    sizes are no multiples.
    """
    h, w = segmentation.shape[1:]
    if h % height or w % width or h // height != w // width:
        raise ValueError(f"a segmentation of {h} x {w} on features of {height} x {width}")
    r = h // height
    return segmentation[:, r // 2 :: r, r // 2 :: r].flatten(1)
