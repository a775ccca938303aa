"""Visual Genome: boxes with free names, brought to a list of classes as sg2im does.

    image_data.json     pictures: number, size, address
    objects.json        their objects: names, boxes
    object_alias.txt    `name,other name,...` a line: what is one thing (may lack)
    vg_splits.json      {"train": [numbers], "val": .., "test": ..}, sg2im's (may lack)
    images/VG_100K/, images/VG_100K_2/      or without images/

Johnson, Gupta and Fei-Fei 2018, "Image Generation from Scene Graphs" (arXiv:1804.01622), whose
preparation LayoutDiffuse uses: classes are names of at least 2000 training objects, objects are 32
px or more on both sides, pictures 200 px or more, with 3 to 30 objects, of which 10 are taken. It
also asks that a picture has a relation between two of them; relations are not read here, so that
some more pictures remain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.decode import decode
from data.layouts import Annotated, BoxFaults, ObjectRule, select
from data.sources import PathTable, Place, keyed_order
from storage.errors import DataError
from storage.files import ANNOTATIONS, Damaged, read_json, read_text

RULE = ObjectRule(least=3, most=30, largest=10, side=32, picture_side=200)
LEAST_COUNT = 2000  # training objects of a class
PARTS = {"train": 0.85, "val": 0.075, "test": 0.075}  # where no vg_splits.json says who is whose


class VisualGenome:
    """A split of Visual Genome: a `LayoutSource`, without masks.

    least_count: training objects that a name must have to be a class. Classes are in the order of
    their counts, of equal ones by name. Errors: DataError, naming the file and what is wrong in it.
    """

    labelled = False

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        rule: ObjectRule = RULE,
        least_count: int = LEAST_COUNT,
        masks: bool = False,
        segmentation: bool = False,
        name: str | None = None,
    ) -> None:
        if masks or segmentation:
            raise DataError(f"{root}: Visual Genome has boxes alone, neither masks nor classes "
                            "of pixels")  # fmt: skip
        self.name = name or f"{root.name}/{split}"
        self.root = root
        self.place: Place | None = Place(f"the folder {root}", tuple(PARTS))
        self.classes = [root.name]
        self.segment_classes: list[str] = []
        self.flip_pairs: tuple[tuple[int, int], ...] = ()
        self.faults = BoxFaults(self.name)
        alias = aliases(root / "object_alias.txt")
        images = _images(root / "image_data.json", rule.picture_side)
        objects = _objects(root / "objects.json")
        parts = splits(root, sorted(images))
        if split not in parts:
            raise DataError(f"{root} has no split {split}; it has {', '.join(parts)}")
        train = [key for key in parts["train"] if key in images]
        self.object_classes = vocabulary(objects, train, alias, least_count)
        numbers = {name: k for k, name in enumerate(self.object_classes)}
        keys = [key for key in parts[split] if key in images]
        owner, raw, classes, names = [], [], [], []
        for k, key in enumerate(keys):
            for o in objects.get(key, []):
                if (klass := _class_of(o, alias, numbers)) is not None:
                    owner.append(k)
                    raw.append(_box(o, images[key]["file"]))
                    classes.append(klass)
                    names.append(o.get("object_id", "?"))
        sizes = np.array([[images[k]["width"], images[k]["height"]] for k in keys], np.int64)
        left = select(
            np.array(owner, np.int64),
            np.array(raw, np.float64).reshape(-1, 4),
            sizes.reshape(-1, 2),
            rule,
            lambda row: f"{images[keys[owner[row]]]['file']} #{names[row]}",
            self.faults,
        )
        if not len(left.pictures):
            raise DataError(
                f"{root}: no picture of {split} has {rule.least} to {rule.most} objects"
            )
        self._folder = root / "images" if (root / "images").is_dir() else root
        self._files = PathTable(images[keys[k]]["file"] for k in left.pictures)
        self._boxes, self._ends = left.boxes, left.ends
        self._classes = np.array(classes, np.int64)[left.rows]

    def __len__(self) -> int:
        return len(self._files)

    def label(self, i: int) -> int:
        """0: pictures have no class, their objects have."""
        return 0

    def path(self, i: int) -> str:
        """The picture's file."""
        return str(self._folder / self._files[i])

    def relative(self, i: int) -> str:
        """Its name: `VG_100K/2.jpg`."""
        return self._files[i]

    def image(self, i: int) -> np.ndarray:
        """uint8 [H, W, 3]."""
        return decode(self.path(i))

    def annotated(self, i: int, size: int | None = None) -> Annotated:
        """Picture i and its layout; `size` has no meaning here."""
        rows = slice(int(self._ends[i]), int(self._ends[i + 1]))
        return Annotated(self.image(i), self._boxes[rows], self._classes[rows])


def aliases(file: Path) -> dict[str, str]:
    """What each name of object_alias.txt stands for: the first of its line."""
    out: dict[str, str] = {}
    if file.is_file():
        for line in read_text(file).splitlines():
            names = [name.strip() for name in line.split(",")]
            out |= dict.fromkeys(filter(None, names), names[0])
    return out


def splits(root: Path, keys: Sequence[int]) -> dict[str, list[int]]:
    """{split: numbers of pictures}: vg_splits.json, or shares of all (`PARTS`), always the same."""
    try:
        told = read_json(root / "vg_splits.json")
    except Damaged as error:
        raise DataError(f"{root}/vg_splits.json cannot be read ({error})") from None
    if told is None:
        order = [keys[k] for k in keyed_order(len(keys), 0)]
        ends = np.cumsum([0, *(round(len(keys) * part) for part in PARTS.values())])
        ends[-1] = len(keys)
        return {s: sorted(order[ends[k] : ends[k + 1]]) for k, s in enumerate(PARTS)}
    if not isinstance(told, dict) or not isinstance(told.get("train"), list):
        raise DataError(f"{root}/vg_splits.json is no object of lists with a train")
    return {str(split): list(numbers) for split, numbers in told.items()}


def vocabulary(
    objects: Mapping[int, list[dict]], train: Sequence[int], alias: Mapping[str, str], least: int
) -> list[str]:
    """Names that at least `least` objects of training pictures have, the most frequent first."""
    counts: Counter[str] = Counter()
    for key in train:
        for o in objects.get(key, []):
            counts.update({alias.get(n, n) for n in _names(o)})
    found = sorted((n for n in counts if counts[n] >= least), key=lambda n: (-counts[n], n))
    if not found:
        raise DataError(f"no name has {least} objects in the {len(train)} training pictures")
    return found


def _names(o: Mapping[str, Any]) -> list[str]:
    names = o.get("names")
    return [str(n) for n in names] if isinstance(names, list) else []


def _class_of(o: Mapping, alias: Mapping[str, str], numbers: Mapping[str, int]) -> int | None:
    for name in _names(o):
        if (known := numbers.get(alias.get(name, name))) is not None:
            return known
    return None


def _box(o: Mapping[str, Any], file: str) -> list[float]:
    try:
        return [float(o[k]) for k in "xywh"]
    except (KeyError, TypeError, ValueError):
        raise DataError(f"objects.json: an object of {file} has no x, y, w, h") from None


def _images(file: Path, least_side: int) -> dict[int, dict[str, Any]]:
    out = {}
    try:
        for image in _list(file):
            if min(image["width"], image["height"]) < max(1, least_side):
                continue
            parts = str(image["url"]).split("/")[-2:]
            if len(parts) != 2 or ".." in parts:
                raise ValueError
            out[int(image["image_id"])] = {
                "file": "/".join(parts), "width": image["width"], "height": image["height"],
            }  # fmt: skip
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{file}: a picture without image_id, url, width or height") from None
    return out


def _objects(file: Path) -> dict[int, list[dict]]:
    try:
        return {int(row["image_id"]): list(row["objects"]) for row in _list(file)}
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{file}: a row without image_id or objects") from None


def _list(file: Path) -> list[Any]:
    try:
        value = read_json(file, ANNOTATIONS)
    except Damaged as error:
        raise DataError(f"{file} cannot be read ({error}); fetch it again") from None
    if not isinstance(value, list):
        raise DataError(f"{file} is not there, or holds no list")
    return value
