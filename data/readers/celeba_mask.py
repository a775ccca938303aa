"""CelebAMask-HQ: faces with the class of every pixel (Lee et al. 2020, arXiv:1907.11922).

    CelebA-HQ-img/0.jpg ..                  30,000 faces, 1024 px
    CelebAMask-HQ-mask/0.png ..             classes of pixels, 512 px: made of the parts by
                                            SetupLayoutData.py (the release's g_mask); also found as
                                            CelebAMaskHQ-mask
    train.txt, val.txt, test.txt            numbers, one a line; or:
    CelebA-HQ-to-CelebA-mapping.txt         the number of each in CelebA, which has published splits

Class 0 is what is none of the 18 parts. A mirrored face's left eye is a right one: FLIP_PAIRS.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from data.decode import decode
from data.layouts import Annotated, BoxFaults, ObjectRule, extents, wanted
from data.readers.label_maps import read_labels
from data.sources import PathTable, Place
from storage.errors import DataError
from storage.files import read_text

# In the order in which they are laid over one another.
PARTS = (
    *("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth"),
    *("u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth"),
)
CLASSES = ("background", *PARTS)
FLIP_PAIRS: tuple[tuple[int, int], ...] = ((4, 5), (6, 7), (8, 9))
PICTURES, MASKS, PART_MASKS = "CelebA-HQ-img", "CelebAMask-HQ-mask", "CelebAMask-HQ-mask-anno"
MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
SIDE = 512
RULE = ObjectRule()
# CelebA's list_eval_partition: the first number of val, and of test.
_VAL_FROM, _TEST_FROM = 162770, 182637


class CelebAMask:
    """A split of CelebAMask-HQ: a `LayoutSource`.

    Its boxes are drawn around the pixels of each part (two eyes are two classes). masks: the parts
    one by one; segmentation: True gives all in one map. Errors: DataError.
    """

    labelled = False

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        rule: ObjectRule = RULE,
        masks: bool = False,
        segmentation: bool = True,
        name: str | None = None,
    ) -> None:
        self.name = name or f"{root.name}/{split}"
        self.root, self.rule = root, rule
        self.classes, self.object_classes = [root.name], list(CLASSES)
        self.segment_classes = list(CLASSES) if segmentation else []
        self.with_masks, self._with_map = masks, segmentation
        self.flip_pairs = FLIP_PAIRS
        self.faults = BoxFaults(self.name)
        folder = mask_folder(root)
        if folder is None:
            raise DataError(
                f"{root} has no {MASKS}: `python data/SetupLayoutData.py --data celebamask "
                f"--source {root}` makes it of the parts' masks"
            )
        self._masks = folder
        parts = splits(root)
        self.place: Place | None = Place(f"the folder {root}", tuple(parts))
        if parts and split not in parts:
            raise DataError(f"{root} has no split {split}; it has {', '.join(parts)}")
        keys = parts[split] if parts else all_keys(root)
        if not keys:
            raise DataError(f"{root} has no pictures in {split}")
        self._keys = PathTable(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def label(self, i: int) -> int:
        """0: all are faces."""
        return 0

    def path(self, i: int) -> str:
        """The picture's file."""
        return str(self.root / PICTURES / self.relative(i))

    def relative(self, i: int) -> str:
        """Its name: `17.jpg`."""
        return f"{self._keys[i]}.jpg"

    def image(self, i: int) -> np.ndarray:
        """uint8 [H, W, 3]."""
        return decode(self.path(i))

    def annotated(self, i: int, size: int | None = None) -> Annotated:
        """Picture i, brought to the size of its mask, and its layout; `size` has no meaning."""
        file = self._masks / f"{self._keys[i]}.png"
        labels = read_labels(file).astype(np.uint8)
        if int(labels.max(initial=0)) >= len(CLASSES):
            raise DataError(f"{file} has pixels of class {int(labels.max())}; there are 0 to 18")
        image = self.image(i)
        height, width = labels.shape
        if image.shape[:2] != (height, width):  # 1024 px, its mask 512
            small = Image.fromarray(image).resize((width, height), Image.Resampling.BOX)
            image = np.asarray(small)
        present = np.array([v for v in np.unique(labels).tolist() if v], np.int64)
        boxes = extents(labels, present.tolist())
        rows = wanted(boxes, width, height, self.rule)
        masks = labels == present[rows, None, None] if self.with_masks else None
        return Annotated(
            image, boxes[rows], present[rows], masks, labels if self._with_map else None
        )


def mask_folder(root: Path) -> Path | None:
    """Where the classes of pixels lie, by either name; None if nowhere."""
    for name in (MASKS, "CelebAMaskHQ-mask"):
        if (root / name).is_dir():
            return root / name
    return None


def all_keys(root: Path) -> list[str]:
    """The numbers of the pictures there are, in order."""
    stems = [p.stem for p in (root / PICTURES).glob("*.jpg")]
    return sorted(stems, key=lambda s: (0, int(s), s) if s.isdecimal() else (1, 0, s))


def splits(root: Path) -> dict[str, list[str]]:
    """{split: numbers}, of the lists, or else of CelebA's own splits; {} where neither is there."""
    lists = {s: root / f"{s}.txt" for s in ("train", "val", "test")}
    told = {
        split: [line.strip().removesuffix(".jpg") for line in _lines(file) if line.strip()]
        for split, file in lists.items()
        if file.is_file()
    }
    if told:
        for split, keys in told.items():
            for key in keys:
                if not key.isdecimal():
                    raise DataError(f"{lists[split]}: {key!r} is no number of a picture")
        return told
    file = root / MAPPING
    if not file.is_file():
        return {}
    out: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for line in _lines(file)[1:]:
        words = line.split()
        if not words:
            continue
        if len(words) < 2 or not (words[0].isdecimal() and words[1].isdecimal()):
            raise DataError(f"{file}: {line[:60]!r} is no pair of numbers")
        number = int(words[1])
        split = "train" if number < _VAL_FROM else "val" if number < _TEST_FROM else "test"
        out[split].append(words[0])
    return out


def merge_parts(folder: Path, key: int) -> np.ndarray:
    """The masks of a face's parts -> uint8 [512, 512]: the release's g_mask.

    `folder/8/16000_hair.png`, 2000 faces a folder; a later part lies over an earlier one; a part
    that the face does not show has no file. Errors: DataError for a mask that cannot be read or has
    another size.
    """
    out = np.zeros((SIDE, SIDE), np.uint8)
    for number, part in enumerate(PARTS, 1):
        file = folder / str(key // 2000) / f"{key:05d}_{part}.png"
        if not os.path.lexists(file):
            continue
        shown = decode(file)[:, :, 0] != 0
        if shown.shape != out.shape:
            raise DataError(f"{file} is {shown.shape[1]}x{shown.shape[0]}, not {SIDE}x{SIDE}")
        out[shown] = number
    return out


def _lines(file: Path) -> list[str]:
    try:
        return read_text(file).splitlines()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror})") from None
