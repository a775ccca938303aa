"""The scenes with their boxes, masks and segmentation, as a layout set."""

from __future__ import annotations

import numpy as np

from data.layouts import Annotated, BoxFaults, ObjectRule, wanted
from data.scenes.source import Scenes
from data.scenes.things import OBJECTS
from data.scenes.world import SEGMENTS

RULE = ObjectRule(share=0.002, largest=16)  # things of a few pixels are no things to draw


class SceneLayouts(Scenes):
    """`Scenes` that are a `LayoutSource`; drawn at the size that is asked for (default 64).

    rule: which things count: `share` and `largest`; no scene is left out. A box is cut at the
    picture's edge and at the water. The other arguments are those of Scenes.
    """

    def __init__(
        self,
        split: str = "train",
        count: int | None = None,
        seed: int = 0,
        style: str = "real",
        flooded: bool | None = None,
        *,
        rule: ObjectRule = RULE,
        masks: bool = False,
        segmentation: bool = False,
    ) -> None:
        super().__init__(split, count, seed, style, flooded)
        self.rule, self.with_masks, self._with_map = rule, masks, segmentation
        self.object_classes = list(OBJECTS)
        self.segment_classes = list(SEGMENTS) if segmentation else []
        self.flip_pairs: tuple[tuple[int, int], ...] = ()
        self.faults = BoxFaults(f"scenes/{split}")

    def annotated(self, i: int, size: int | None = None) -> Annotated:
        """Scene i drawn at a size, and its layout."""
        size = size or 64
        sample = self.render(i, size)
        boxes = sample.boxes.copy()
        boxes[:, 2:] -= boxes[:, :2]
        good = wanted(boxes, size, size, self.rule)
        return Annotated(
            sample.image,
            np.ascontiguousarray(boxes[good]),
            sample.box_labels[good],
            sample.masks[good] if self.with_masks else None,
            sample.segmentation.astype(np.uint8) if self._with_map else None,
        )
