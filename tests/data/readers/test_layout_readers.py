"""COCO, COCO-Stuff's maps, Visual Genome, CelebAMask-HQ and scenes as layout sets."""

import json

import numpy as np
import pytest
from PIL import Image

from data.layout_registry import layout_splits, open_layouts, rule_of, views_of
from data.layouts import BoxFaults, LayoutSource, ObjectRule, clean_boxes, select, shares
from data.listing import listing_of
from data.readers.celeba_mask import CLASSES, merge_parts
from data.readers.coco_names import NAMES
from data.readers.rle import decode_mask, from_polygons
from data.readers.visual_genome import VisualGenome
from data.views.layouts import Augment
from storage.errors import DataError
from tests.data.layout_files import make_celeba, make_coco, make_genome, make_maps

ANY = ObjectRule()


def open_any(root, split="train", **more):
    return open_layouts(str(root), root.parent, split=split, rule=ANY, **more)


def test_coco(tmp_path):
    root = make_coco(tmp_path / "coco")
    source = open_layouts("coco", tmp_path, rule=ANY, masks=True)
    assert isinstance(source, LayoutSource) and source.name == "coco/train" and len(source) == 2
    one = source.annotated(0)
    assert one.image.shape == (24, 40, 3) and one.captions == ("picture 1 ",)
    want = np.array([[0, 0, 20, 12], [4, 6, 10, 12], [10, 2, 25, 20], [30, 10, 10, 8]])
    assert np.allclose(one.boxes * [40, 24, 40, 24], want, atol=1e-5)
    # "wood", id 182, is class 181 of 182: no background's number
    assert one.classes.tolist() == [0, 17, 2, 181] and len(source.object_classes) == 182
    assert source.object_classes[181] == NAMES[181] == "wood"
    for mask, (x, y, w, h) in zip(one.masks, want, strict=True):
        assert mask.sum() == w * h and mask[y : y + h, x : x + w].all()
    assert source.faults.counts == {"empty": 2, "outside": 2, "reversed": 2}
    said = source.faults.said()
    assert "6 bad boxes left out: 2 empty (000000000001.jpg #104: 5,5,0,8" in said
    assert listing_of(source).name == "coco/train" and layout_splits("coco", tmp_path) == (
        "train", "val")  # fmt: skip
    assert views_of("coco/val", tmp_path) == (Augment(), "bicubic")
    # as published: more than 2 % of the picture, 3 to 100 of them, 3 to 8 to validate on
    assert rule_of(str(root), tmp_path, "val") == ObjectRule(share=0.02, least=3, most=8)
    assert len(open_layouts("coco/val", tmp_path).annotated(1).classes) == 4
    with pytest.raises(DataError, match="no picture of train2017 has 5 to 9 objects"):
        open_layouts("coco", tmp_path, rule=ObjectRule(least=5, most=9))
    large = open_layouts("coco", tmp_path, rule=ObjectRule(share=0.12))
    assert large.annotated(0).classes.tolist() == [0, 17, 2]
    for name in ("stuffthingmaps/train2017", "annotations/stuff_train2017_pixelmaps"):
        with pytest.raises(DataError, match="no classes of pixels"):
            open_any(root, segmentation=True)
        (root / name).mkdir(parents=True)
        for key in (1, 2):
            maps = np.full((24, 40), 255 if "thing" in name else 0, np.uint8)
            maps[:4] = 181 if "thing" in name else 182
            maps[4:8] = 255 if "thing" in name else 183
            Image.fromarray(maps).save(root / name / f"{key:012d}.png")
        found = open_any(root, segmentation=True).annotated(1).segmentation
        assert (found[:4] == 181).all() and (found[4:] == 255).all()
        (root / name).rename(tmp_path / name.replace("/", "-"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("categories"), "is no file of COCO's"),
        (lambda v: v["annotations"][0].update(category_id=200), "category 200 is not in 1 to 183"),
        (lambda v: v["annotations"][0].update(bbox=[1, 2, 3]), "bbox of four numbers"),
        (lambda v: v["images"][0].pop("width"), "an image or category without its id, name"),
    ],
)
def test_damaged_annotations_are_a_line(change, message, tmp_path):
    root = make_coco(tmp_path / "coco")
    file = root / "annotations" / "instances_train2017.json"
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))
    with pytest.raises(DataError, match=message) as caught:
        open_any(root)
    assert "\n" not in str(caught.value)
    file.write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        open_any(root)


def test_coco_without_stuff_and_a_picture_of_another_size(tmp_path):
    root = make_coco(tmp_path / "coco", stuff=False)
    assert len(open_any(root).annotated(0).classes) == 4
    Image.new("RGB", (9, 9)).save(root / "train2017" / "000000000001.jpg")
    with pytest.raises(DataError, match="it is 9x9, its annotations are of 40x24"):
        open_any(root).annotated(0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pycocotools itself
def test_polygons_and_run_lengths_are_pycocotools():
    coco = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for k in range(20):
        mask = np.asfortranarray(rng.random((13, 17)) < 0.05 * k, np.uint8)
        packed = coco.encode(mask)
        text = {"size": [13, 17], "counts": packed["counts"].decode()}
        assert (decode_mask(text, 17, 13) == mask.astype(bool)).all()
    plain = {"size": [2, 3], "counts": [1, 2, 3]}
    assert (decode_mask(plain, 3, 2) == coco.decode(coco.frPyObjects(plain, 2, 3))).all()
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = np.stack([50 + 30 * np.cos(angles), 40 + 25 * np.sin(angles)], 1).ravel().tolist()
    want = coco.decode(coco.frPyObjects([circle], 80, 100))[:, :, 0].astype(bool)
    ours = from_polygons([circle], 100, 80)
    assert (ours & want).sum() / (ours | want).sum() > 0.97  # its edges lie within half a pixel
    for bad in ({"size": [2, 3], "counts": [1, 2]}, {"size": [3, 3], "counts": [9]}, [[1, 2]], "x",
                {"size": [2, 3], "counts": "P"}, {"size": [2, 3], "counts": [-1, 7]}):  # fmt: skip
        with pytest.raises(ValueError):
            decode_mask(bad, 3, 2)


def test_a_polygon_is_its_pixels_whose_centres_it_holds():
    rng = np.random.default_rng(1)
    for _ in range(10):
        points = rng.uniform(-3, 15, (5, 2))
        ours = from_polygons([points.ravel().tolist()], 12, 11)
        for y in range(11):
            for x in range(12):  # a ray to the right of the centre, by the book
                crossings = 0
                for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
                    if (y0 <= y + 0.5) != (y1 <= y + 0.5):
                        crossings += x0 + (y + 0.5 - y0) * (x1 - x0) / (y1 - y0) > x + 0.5
                assert ours[y, x] == (crossings % 2 == 1)


def test_maps_of_instances(tmp_path):
    root = make_maps(tmp_path / "spade")
    source = open_any(root, masks=True, segmentation=True)
    one = source.annotated(0)
    assert one.classes.tolist() == [0, 0, 123]
    want = [[0, 0, 6, 6], [10, 2, 6, 8], [0, 6, 10, 4]]
    assert np.allclose(one.boxes * [20, 10, 20, 10], want, atol=1e-5)
    assert one.masks.sum((1, 2)).tolist() == [36, 48, 40]
    assert set(np.unique(one.segmentation).tolist()) == {0, 123, 255}
    Image.fromarray(np.full((10, 20), 190, np.uint8)).save(root / "train_label" / "7.png")
    with pytest.raises(DataError, match="pixels of class 190; there are 0 to 181"):
        open_any(root)
    with pytest.raises(DataError, match="has no split val; it has train"):
        open_any(root, "val")


def test_visual_genome(tmp_path):
    root = make_genome(tmp_path / "vg")
    rule = ObjectRule(least=2, most=5, largest=2, side=10, picture_side=20)
    source = VisualGenome(root, "train", rule=rule, least_count=4)
    # man and guy are one name; trees are as many, 3 a picture; the unicorn is too rare
    assert source.object_classes == ["tree", "man"] and len(source) == 2
    one = source.annotated(0)
    assert source.path(0).endswith("vg/images/VG_100K/1.jpg") and one.classes.tolist() == [1, 1]
    # 40x50 at (20, 5) reaches over the lower edge; of three, the two largest
    want = [[0, 0, 30, 30], [20, 5, 40, 35]]
    assert np.allclose(one.boxes * [60, 40, 60, 40], want, atol=1e-5)
    assert source.faults.counts == {"empty": 2} and "VG_100K/1.jpg #15" in source.faults.said()
    assert len(VisualGenome(root, "val", rule=rule, least_count=4)) == 1
    # all four are less than 200 px
    with pytest.raises(DataError, match="no name has 2000 objects in the 0 training pictures"):
        open_layouts("vg", tmp_path)
    with pytest.raises(DataError, match="boxes alone"):
        open_layouts("vg", tmp_path, masks=True)
    (root / "vg_splits.json").unlink()
    parts = [{v.path(i) for i in range(len(v))} for v in
             (VisualGenome(root, "train", rule=ANY, least_count=1) for _ in range(2))]  # fmt: skip
    assert parts[0] == parts[1] and len(parts[0]) == 3  # 0.85 of four, always the same


def test_celeba_mask(tmp_path):
    root = make_celeba(tmp_path / "faces")
    labels = merge_parts(root / "CelebAMask-HQ-mask-anno", 2001)
    want = np.zeros((512, 512), np.uint8)
    want[100:300, 100:300] = 1
    want[150:350, 150:180] = 4  # a later part lies over an earlier one
    want[0:200, 0:200] = 13
    assert (labels == want).all()
    with pytest.raises(DataError, match="SetupLayoutData.py --data celebamask"):
        open_any(root)
    (root / "CelebAMaskHQ-mask").mkdir()
    for key in (0, 2001):
        Image.fromarray(want).save(root / "CelebAMaskHQ-mask" / f"{key}.png")
    # CelebA's own splits: 119613 is training, 182637 the first of test
    assert [len(open_any(root, s)) for s in ("train", "test")] == [1, 1]
    one = open_any(root, masks=True, segmentation=True).annotated(0)
    assert one.image.shape == (512, 512, 3) and (one.segmentation == want).all()
    assert [CLASSES[c] for c in one.classes] == ["skin", "l_eye", "hair"]
    assert np.allclose(one.boxes[2] * 512, [0, 0, 200, 200])
    (root / "train.txt").write_text("0\n2001\n")
    assert len(open_any(root)) == 2
    (root / "train.txt").write_text("../../x\n")
    with pytest.raises(DataError, match="is no number of a picture"):
        open_any(root)


def test_scenes(tmp_path):
    source = open_layouts("scenes", tmp_path, masks=True, segmentation=True)
    one = source.annotated(3, 48)
    sample = source.render(3, 48)
    assert isinstance(source, LayoutSource) and one.image.shape == (48, 48, 3)
    assert (one.image == sample.image).all() and (one.segmentation == sample.segmentation).all()
    corner = one.boxes[:, :2] + one.boxes[:, 2:]
    for box, last, mask in zip(one.boxes, corner, one.masks, strict=True):
        ys, xs = np.nonzero(mask)  # what one sees of a thing lies in its box
        assert len(xs) == 0 or (
            box[0] * 48 <= xs.min() + 1 and xs.max() <= last[0] * 48
            and box[1] * 48 <= ys.min() + 1 and ys.max() <= last[1] * 48
        )  # fmt: skip
    assert 0 < len(one.classes) <= 16 and one.classes.max() < len(source.object_classes) == 19
    with pytest.raises(DataError, match="splits train and val"):
        open_layouts("scenes/test", tmp_path)


def test_what_is_no_layout_set(tmp_path):
    with pytest.raises(DataError, match="SetupLayoutData.py --data coco"):
        open_layouts("coco", tmp_path)
    with pytest.raises(DataError, match="known names: scenes, coco, vg, celebamask"):
        open_layouts("cooc", tmp_path)
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match="holds no layouts of a known kind"):
        open_layouts("photos", tmp_path)


def test_the_objects_of_a_set_are_those_of_its_pictures_one_by_one():
    rng = np.random.default_rng(0)
    owner = rng.integers(0, 12, 80)
    sizes = rng.integers(20, 60, (12, 2))
    boxes = rng.integers(-8, 40, (80, 4)).astype(float)
    allowed = rng.random(12) < 0.8
    rule = ObjectRule(share=0.05, least=2, most=5, largest=3, side=6, picture_side=25)
    faults, told = BoxFaults(), BoxFaults()
    left = select(owner, boxes, sizes, rule, str, faults, allowed)
    want = []
    for k in range(12):
        width, height = sizes[k]
        rows = np.flatnonzero(owner == k)
        good, _ = clean_boxes(boxes[rows], width, height, rows.astype(str).tolist(), told)
        rows = [r for r in rows[good] if boxes[r, 2] * boxes[r, 3] > 0.05 * width * height
                and boxes[r, 2] >= 6 and boxes[r, 3] >= 6]  # fmt: skip
        if 2 <= len(rows) <= 5 and min(width, height) >= 25 and allowed[k]:
            want.append((k, sorted(sorted(rows, key=lambda r: -boxes[r, 2] * boxes[r, 3])[:3])))
    assert 2 < len(want) < 12 and left.pictures.tolist() == [k for k, _ in want]
    for n, (k, rows) in enumerate(want):
        mine = slice(left.ends[n], left.ends[n + 1])
        assert left.rows[mine].tolist() == rows
        assert np.allclose(left.boxes[mine], shares(boxes[rows], *sizes[k]))
    assert faults.counts == told.counts and faults.total > 5
