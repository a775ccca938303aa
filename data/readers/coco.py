"""COCO and COCO-Stuff: boxes, masks, captions and classes of pixels.

Two layouts on disk. COCO's own, any of whose parts but the first may lack:

    annotations/instances_train2017.json    things: boxes, masks
    annotations/stuff_train2017.json        stuff, of COCO-Stuff, likewise
    annotations/captions_train2017.json     five sentences a picture
    train2017/  or  images/train2017/       the pictures
    stuffthingmaps/train2017/               classes of pixels, id - 1, 255: none
    annotations/stuff_train2017_pixelmaps/  the same of stuff alone, as ids (92 to 182)

and that of SPADE's sample (`train_img`, `train_label`, `train_inst`): label maps of id - 1, 255:
none, and instance maps; boxes are drawn around the instances.

A class is COCO's id less 1: 182 of them, "wood" is 181. A network's row for background is its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from data.decode import decode
from data.layouts import NO_CLASS, Annotated, BoxFaults, ObjectRule, extents, select, wanted
from data.readers.coco_names import NAMES
from data.readers.label_maps import read_labels
from data.readers.rle import decode_mask
from data.sources import PathTable, Place
from storage.errors import DataError
from storage.files import ANNOTATIONS, Damaged, read_json

NUM_CLASSES = len(NAMES)  # 182
OTHER = 183  # "other": things, to COCO-Stuff
TRAIN = ObjectRule(share=0.02, least=3, most=100)  # LayoutDiffuse's
HELD = ObjectRule(share=0.02, least=3, most=8)
_INSTANCES = re.compile(r"instances_(train|val|test|minival)(\d{4})\.json")


def coco_splits(root: Path) -> dict[str, str]:
    """{split: `train2017`} of COCO's layout at a folder; of several years the latest."""
    found: dict[str, str] = {}
    folder = root / "annotations"
    for file in sorted(folder.glob("instances_*.json")) if folder.is_dir() else []:
        if match := _INSTANCES.fullmatch(file.name):
            found[match[1].removeprefix("mini")] = match[1] + match[2]
    return found


def spade_splits(root: Path) -> dict[str, str]:
    """{split: `train`} of folders `train_img` with `train_label` and `train_inst`."""
    return {
        split: split
        for split in ("train", "val", "test")
        if all((root / f"{split}_{part}").is_dir() for part in ("img", "label", "inst"))
    }


class _Pictures:
    """What both ways of laying COCO out share: pictures by number, and the names of classes."""

    labelled = False
    _files: PathTable
    _pictures: Path

    def _begin(self, root: Path, split: str, splits: Iterable[str], name: str | None) -> None:
        self.name = name or f"{root.name}/{split}"
        self.root, self.split = root, split
        self.place: Place | None = Place(f"the folder {root}", tuple(splits))
        self.classes = [root.name]
        self.flip_pairs: tuple[tuple[int, int], ...] = ()
        self.faults = BoxFaults(self.name)
        self.object_classes = list(NAMES)

    def __len__(self) -> int:
        return len(self._files)

    def label(self, i: int) -> int:
        """0: pictures have no class, their objects have."""
        return 0

    def path(self, i: int) -> str:
        """The picture's file."""
        return str(self._pictures / self._files[i])

    def relative(self, i: int) -> str:
        """Its name."""
        return self._files[i]

    def image(self, i: int) -> np.ndarray:
        """uint8 [H, W, 3]."""
        return decode(self.path(i))

    def _none_counts(self, rule: ObjectRule) -> DataError:
        return DataError(
            f"{self.root}: no picture of {self.split} has {rule.least} to {rule.most} objects "
            f"larger than {rule.share:g} of it"
        )


class CocoLayouts(_Pictures):
    """A split of COCO's own layout: a `LayoutSource`.

    split: `train2017`. masks: give the objects' pixels too; segmentation: and every pixel's class,
    from `stuffthingmaps` or the pixelmaps. rule: which objects and pictures count (crowds and
    "other" never do). Pictures without any annotation of stuff are left out where there is stuff,
    as everybody does. Errors: DataError, naming the file and what is wrong in it.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        rule: ObjectRule = TRAIN,
        masks: bool = False,
        segmentation: bool = False,
        name: str | None = None,
    ) -> None:
        self._begin(root, split, coco_splits(root), name)
        self.rule = rule
        self._pictures = _first_folder(root / split, root / "images" / split)
        folder = root / "annotations"
        things = _read(folder / f"instances_{split}.json", self.object_classes)
        stuff_file = folder / f"stuff_{split}.json"
        stuff = _read(stuff_file, self.object_classes) if stuff_file.is_file() else None
        self._maps, self._of_stuff = self._find_maps() if segmentation else (None, False)
        self.segment_classes = self.object_classes if self._maps is not None else []
        images = {image["id"]: image for image in things["images"]}
        found = _Objects(masks)
        with_stuff = set(images)
        for part, file in ((things, f"instances_{split}.json"), (stuff, stuff_file.name)):
            if part is not None:
                self._collect(part, folder / file, images, found)
        if stuff is not None:
            with_stuff = {a.get("image_id") for a in stuff["annotations"]}
        self._index(images, found, with_stuff)
        self._captions = _captions(folder / f"captions_{split}.json", self._ids)

    def _find_maps(self) -> tuple[Path | None, bool]:
        """The folder of classes of pixels, and whether it knows stuff alone."""
        whole = (self.root / "stuffthingmaps", self.root / "annotations" / "stuffthingmaps")
        for folder in whole:
            if (folder / self.split).is_dir():
                return folder / self.split, False
        name = f"stuff_{self.split}_pixelmaps"
        for folder in (self.root / "annotations" / name, self.root / name):
            if folder.is_dir():
                return folder, True
        raise DataError(
            f"{self.root} has no classes of pixels: neither stuffthingmaps/{self.split} nor "
            f"annotations/{name}"
        )

    def _collect(self, part: dict, file: Path, images: dict, found: _Objects) -> None:
        for a in part["annotations"]:
            try:
                image = images.get(a["image_id"])
                klass, box = a["category_id"], [float(v) for v in a["bbox"]]
                if len(box) != 4 or not isinstance(klass, int):
                    raise ValueError
            except (KeyError, TypeError, ValueError):
                raise DataError(
                    f"{file}: an annotation without image_id, category_id and a bbox of four "
                    f"numbers: {json.dumps(a)[:80]}"
                ) from None
            if image is None or klass == OTHER or a.get("iscrowd"):
                continue
            if not 1 <= klass <= NUM_CLASSES:
                raise DataError(f"{file}: category {klass} is not in 1 to {OTHER}")
            found.add(image["id"], klass - 1, box, a)

    def _index(self, images: dict, found: _Objects, with_stuff: set) -> None:
        """What every picture has: flat arrays, pictures in the order of the json file."""
        keys = list(images)
        number = {key: k for k, key in enumerate(keys)}
        sizes = np.array([[images[k]["width"], images[k]["height"]] for k in keys], np.int64)
        owner = np.array([number[key] for key in found.images], np.int64)

        def name(row: int) -> str:
            return f"{images[found.images[row]]['file_name']} #{found.names[row]}"

        left = select(
            owner,
            np.array(found.boxes, np.float64).reshape(-1, 4),
            sizes.reshape(-1, 2),
            self.rule,
            name,
            self.faults,
            np.array([key in with_stuff for key in keys], bool),
        )
        if not len(left.pictures):
            raise self._none_counts(self.rule)
        chosen = [keys[k] for k in left.pictures]
        self._ids, self._sizes = np.array(chosen), sizes[left.pictures]
        self._files = PathTable(images[k]["file_name"] for k in chosen)
        self._boxes, self._ends = left.boxes, left.ends
        self._classes = np.array(found.classes, np.int64)[left.rows]
        self._masks = PathTable(found.masks[r] for r in left.rows) if found.with_masks else None

    def annotated(self, i: int, size: int | None = None) -> Annotated:
        """Picture i and its layout; `size` has no meaning here."""
        image = self.image(i)
        width, height = (int(v) for v in self._sizes[i])
        if image.shape[:2] != (height, width):
            raise DataError(
                f"bad image {self.path(i)} (it is {image.shape[1]}x{image.shape[0]}, its "
                f"annotations are of {width}x{height})"
            )
        rows = slice(int(self._ends[i]), int(self._ends[i + 1]))
        masks = None
        if self._masks is not None:
            each = [self._mask(r, width, height) for r in range(rows.start, rows.stop)]
            masks = np.stack(each) if each else np.zeros((0, height, width), bool)
        return Annotated(
            image,
            self._boxes[rows],
            self._classes[rows],
            masks,
            None if self._maps is None else self._segmentation(i, width, height),
            () if self._captions is None else self._captions[i],
        )

    def _mask(self, row: int, width: int, height: int) -> np.ndarray:
        assert self._masks is not None
        try:
            return decode_mask(json.loads(self._masks[row]), width, height)
        except ValueError as error:
            raise DataError(f"{self.name}: object {row}: {error}") from None

    def _segmentation(self, i: int, width: int, height: int) -> np.ndarray:
        assert self._maps is not None
        labels = read_labels(self._maps / f"{Path(self._files[i]).stem}.png", width, height)
        if self._of_stuff:
            labels = np.where((labels == 0) | (labels >= OTHER), NO_CLASS + 1, labels) - 1
        return _checked(labels, str(self._maps))


class _Objects:
    """Annotations, while the files are read."""

    def __init__(self, with_masks: bool) -> None:
        self.with_masks = with_masks
        self.images: list[Any] = []
        self.boxes: list[list[float]] = []
        self.classes: list[int] = []
        self.names: list[Any] = []
        self.masks: list[str] = []

    def add(self, image: Any, klass: int, box: list[float], annotation: dict) -> None:
        self.images.append(image)
        self.boxes.append(box)
        self.classes.append(klass)
        self.names.append(annotation.get("id", len(self.names)))
        if self.with_masks:
            self.masks.append(json.dumps(annotation.get("segmentation")))


class CocoMaps(_Pictures):
    """A split of SPADE's layout of COCO-Stuff: a `LayoutSource`. Arguments as `CocoLayouts`."""

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        rule: ObjectRule = TRAIN,
        masks: bool = False,
        segmentation: bool = False,
        name: str | None = None,
    ) -> None:
        self._begin(root, split, spade_splits(root), name)
        self.with_masks, self._pictures = masks, root / f"{split}_img"
        self.segment_classes = self.object_classes if segmentation else []
        self._with_maps = segmentation
        pictures = sorted(p.name for p in self._pictures.iterdir() if p.is_file())
        stems = {p.stem for p in (root / f"{split}_label").glob("*.png")}
        stems &= {p.stem for p in (root / f"{split}_inst").glob("*.png")}
        files, boxes, classes, keys, ends = [], [], [], [], [0]
        for file in pictures:
            if Path(file).stem not in stems:
                continue
            labels, instances = self._maps(Path(file).stem)
            pairs = _instances(labels, instances)
            found = extents(_joined(labels, instances), [b * 256 + a for a, b in pairs])
            height, width = labels.shape
            good = wanted(found, width, height, rule)
            if not rule.counts(len(good)):
                continue
            files.append(file)
            boxes.append(found[good])
            classes += [pairs[k][0] for k in good]
            keys += [pairs[k][1] for k in good]
            ends.append(len(classes))
        if not files:
            raise self._none_counts(rule)
        self._files, self._ends = PathTable(files), np.array(ends, np.int64)
        self._boxes = np.concatenate(boxes)
        self._classes, self._keys = np.array(classes, np.int64), np.array(keys, np.int64)

    def _maps(self, stem: str) -> tuple[np.ndarray, np.ndarray]:
        labels = read_labels(self.root / f"{self.split}_label" / f"{stem}.png")
        height, width = labels.shape
        file = self.root / f"{self.split}_inst" / f"{stem}.png"
        return _checked(labels, str(self.root)), read_labels(file, width, height)

    def annotated(self, i: int, size: int | None = None) -> Annotated:
        """Picture i and its layout; `size` has no meaning here."""
        image = self.image(i)
        rows = slice(int(self._ends[i]), int(self._ends[i + 1]))
        boxes, classes = self._boxes[rows], self._classes[rows]
        if not (self.with_masks or self._with_maps):
            return Annotated(image, boxes, classes)
        labels, instances = self._maps(Path(self._files[i]).stem)
        if labels.shape != image.shape[:2]:
            raise DataError(
                f"bad image {self.path(i)} (it is {image.shape[1]}x{image.shape[0]}, its labels "
                f"are of {labels.shape[1]}x{labels.shape[0]})"
            )
        masks = None
        if self.with_masks:
            pairs = list(zip(classes.tolist(), self._keys[rows].tolist(), strict=True))
            masks = np.zeros((len(pairs), *labels.shape), bool)
            for k, (klass, key) in enumerate(pairs):
                masks[k] = (labels == klass) & (instances == key)
        return Annotated(image, boxes, classes, masks, labels if self._with_maps else None)


def _joined(labels: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """One number for each pair of class and instance."""
    return instances.astype(np.int32) * 256 + labels


def _instances(labels: np.ndarray, instances: np.ndarray) -> list[tuple[int, int]]:
    """(class, instance number) of everything that is of a class, in order."""
    values = np.unique(_joined(labels, instances)).tolist()
    return sorted((v % 256, v // 256) for v in values if v % 256 != NO_CLASS)


def _checked(labels: np.ndarray, where: str) -> np.ndarray:
    worst = int(labels[labels != NO_CLASS].max(initial=0))
    if worst >= NUM_CLASSES:
        raise DataError(f"{where} has pixels of class {worst}; there are 0 to {NUM_CLASSES - 1}")
    return labels.astype(np.uint8)


def _first_folder(*folders: Path) -> Path:
    for folder in folders:
        if folder.is_dir():
            return folder
    raise DataError(f"no pictures: neither {' nor '.join(map(str, folders))} is there")


def _read(file: Path, names: list[str]) -> dict[str, Any]:
    """A file of annotations; puts the names of its classes in their places."""
    try:
        value = read_json(file, ANNOTATIONS)
    except Damaged as error:
        raise DataError(f"{file} cannot be read ({error}); fetch it again") from None
    parts = ("images", "annotations", "categories")
    if not isinstance(value, dict) or not all(isinstance(value.get(p), list) for p in parts):
        raise DataError(f"{file} is no file of COCO's: it lacks {' or '.join(parts)}")
    try:
        for category in value["categories"]:
            if 1 <= category["id"] <= NUM_CLASSES:
                names[category["id"] - 1] = str(category["name"])
        for image in value["images"]:
            if min(image["width"], image["height"]) < 1 or not image["file_name"]:
                raise ValueError
            image["id"]  # noqa: B018
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{file}: an image or category without its id, name or size") from None
    return value


def _captions(file: Path, ids: Iterable[int]) -> list[tuple[str, ...]] | None:
    if not file.is_file():
        return None
    try:
        value = read_json(file, ANNOTATIONS)
        found: dict[int, list[str]] = {}
        for a in value["annotations"]:
            found.setdefault(a["image_id"], []).append(str(a["caption"]))
    except (Damaged, KeyError, TypeError) as error:
        raise DataError(f"{file} cannot be read ({error}); fetch it again") from None
    return [tuple(found.get(int(k), ())) for k in ids]
