"""Tiny sets of pictures with layouts, as they are distributed, made for the tests."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.pictures import noise

# (x, y, w, h, category id): the last three are none.
COCO_BOXES = [
    (0, 0, 20, 12, 1), (4, 6, 10, 12, 18), (30, 10, 10, 8, 182), (10, 2, 25, 20, 3),
    (5, 5, 0, 8, 1), (50, 2, 8, 8, 1), (20, 10, -6, 8, 1),
]  # fmt: skip


def make_coco(root: Path, pictures: int = 2, stuff: bool = True) -> Path:
    """COCO 2017's layout: pictures of 40x24 with COCO_BOXES, ids from 182 on in the stuff file."""
    for split in ("train", "val"):
        folder = root / f"{split}2017"
        folder.mkdir(parents=True)
        (root / "annotations").mkdir(exist_ok=True)
        images = []
        for k in range(1, pictures + 1):
            Image.fromarray(noise(k, 24, 40)).save(folder / f"{k:012d}.jpg")
            images.append({"id": k, "file_name": f"{k:012d}.jpg", "width": 40, "height": 24})
        parts: dict[str, list] = {"instances": [], "stuff": []}
        for image in images:
            for n, (x, y, w, h, category) in enumerate(COCO_BOXES):
                parts["stuff" if category > 91 and stuff else "instances"].append(
                    {"id": 100 * image["id"] + n, "image_id": image["id"], "bbox": [x, y, w, h],
                     "category_id": category, "iscrowd": 0,
                     "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
                )  # fmt: skip
            crowd = {"id": 9, "image_id": image["id"], "bbox": [0, 0, 40, 24], "category_id": 1}
            parts["instances"].append({**crowd, "iscrowd": 1, "segmentation": []})
            parts["stuff"].append({**crowd, "category_id": 183, "segmentation": []})
        names = [{"id": 1, "name": "person"}, {"id": 182, "name": "wood"}]
        for part, annotations in parts.items():
            if part == "instances" or stuff:
                value = {"images": images, "annotations": annotations, "categories": names}
                file = root / "annotations" / f"{part}_{split}2017.json"
                file.write_text(json.dumps(value))
        captions = [{"image_id": i["id"], "caption": f"picture {i['id']} "} for i in images]
        (root / "annotations" / f"captions_{split}2017.json").write_text(
            json.dumps({"annotations": captions})
        )
    return root


def make_maps(root: Path) -> Path:
    """SPADE's layout: one training picture, 20x10: two persons, grass (class 123), 255."""
    labels = np.full((10, 20), 255, np.uint8)
    labels[0:6, 0:6] = labels[2:10, 10:16] = 0
    labels[6:10, 0:10] = 123
    instances = labels.copy()
    instances[2:10, 10:16] = 1
    for part, picture in (("img", noise(3, 10, 20)), ("label", labels), ("inst", instances)):
        (root / f"train_{part}").mkdir(parents=True)
        suffix = "jpg" if part == "img" else "png"
        Image.fromarray(picture).save(root / f"train_{part}" / f"7.{suffix}")
    return root


def make_genome(root: Path) -> Path:
    """Visual Genome: pictures 1 to 3 of 60x40 and 4, which is too small."""
    images, objects = [], []
    for key in (1, 2, 3, 4):
        size = (60, 40) if key < 4 else (60, 8)
        folder = root / "images" / "VG_100K"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(key, size[1], size[0])).save(folder / f"{key}.jpg")
        images.append(
            {"image_id": key, "width": size[0], "height": size[1],
             "url": f"https://example.org/x/VG_100K/{key}.jpg"}
        )  # fmt: skip
        boxes = [
            ("man", 0, 0, 30, 30), ("guy", 20, 5, 40, 50), ("tree", 1, 1, 15, 15),
            ("tree", 5, 5, 4, 4), ("unicorn", 0, 0, 20, 20), ("tree", 0, 0, 0, 12),
        ]  # fmt: skip
        objects.append(
            {"image_id": key, "objects": [
                {"object_id": 10 * key + n, "names": [name], "x": x, "y": y, "w": w, "h": h}
                for n, (name, x, y, w, h) in enumerate(boxes[: 6 if key != 3 else 5])]}
        )  # fmt: skip
    (root / "image_data.json").write_text(json.dumps(images))
    (root / "objects.json").write_text(json.dumps(objects))
    (root / "object_alias.txt").write_text("man,guy,gentleman\n")
    (root / "vg_splits.json").write_text(json.dumps({"train": [1, 2, 4], "val": [3]}))
    return root


def make_celeba(root: Path, side: int = 512) -> Path:
    """CelebAMask-HQ as in its zip: faces 0 and 2001 of 64 px with masks of parts of 512 px."""
    for key in (0, 2001):
        (root / "CelebA-HQ-img").mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(key, 64, 64)).save(root / "CelebA-HQ-img" / f"{key}.jpg")
        folder = root / "CelebAMask-HQ-mask-anno" / str(key // 2000)
        folder.mkdir(parents=True)
        for part, (top, left) in {"skin": (100, 100), "l_eye": (150, 150), "hair": (0, 0)}.items():
            mask = np.zeros((side, side, 3), np.uint8)
            mask[top : top + 200, left : left + (30 if part == "l_eye" else 200)] = 255
            Image.fromarray(mask).save(folder / f"{key:05d}_{part}.png")
    (root / "CelebA-HQ-to-CelebA-mapping.txt").write_text(
        "idx orig_idx orig_file\n0  119613  119614.jpg\n2001  182637  182638.jpg\n"
    )
    return root
