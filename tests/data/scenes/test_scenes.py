"""Scenes: determinism, agreement of all outputs with one another, and with themselves across
sizes.
"""

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data.scenes import (
    CLASSES,
    FAR,
    IN_SKY,
    OBJECTS,
    SEGMENT,
    SEGMENT_OF,
    SEGMENTS,
    STYLES,
    TOP,
    Scenes,
    SceneSample,
)
from data.scenes.painting.picture import Picture
from data.scenes.sheet import main, maps_of, sheet

ROOT = Path(__file__).resolve().parents[3]
SOME = range(30)
ARRAYS = ("image", "boxes", "box_labels", "masks", "segmentation", "depth", "height", "water")


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Scenes()


@pytest.fixture(scope="module")
def pairs(scenes: Scenes) -> list[tuple[SceneSample, SceneSample]]:
    """(dry, flooded) at 64 px."""
    return [tuple(scenes.render(i, 64, flooded=f) for f in (False, True)) for i in SOME]


def same(a: SceneSample, b: SceneSample) -> bool:
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ARRAYS) and a.label == b.label


def digest(scenes: Scenes, indices: range, size: int) -> str:
    h = hashlib.sha256()
    for i in indices:
        sample = scenes.render(i, size)
        for name in ARRAYS:
            h.update(np.ascontiguousarray(getattr(sample, name)).tobytes())
    return h.hexdigest()


# -- form ------------------------------------------------------------------------------------------
def test_shapes_types_ranges(pairs):
    for sample in (s for pair in pairs for s in pair):
        n = len(sample.boxes)
        assert sample.image.shape == (64, 64, 3) and sample.image.dtype == np.uint8
        assert sample.image.flags.c_contiguous
        assert sample.boxes.shape == (n, 4) and sample.boxes.dtype == np.float32
        assert sample.box_labels.shape == (n,) and sample.box_labels.dtype == np.int64
        assert sample.masks.shape == (n, 64, 64) and sample.masks.dtype == bool
        assert sample.segmentation.shape == (64, 64) and sample.segmentation.dtype == np.uint8
        assert sample.depth.shape == (64, 64) and sample.depth.dtype == np.float32
        assert sample.height.shape == (64, 64) and sample.height.dtype == np.float32
        assert sample.water.shape == (64, 64) and sample.water.dtype == bool
        assert sample.boxes.min() >= 0 and sample.boxes.max() <= 1
        assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()
        assert sample.box_labels.max() < len(OBJECTS)
        assert sample.segmentation.max() < len(SEGMENTS)
        assert 0.4 < sample.depth.min() and sample.depth.max() <= FAR
        assert sample.height.max() <= TOP
        assert np.isfinite(sample.depth).all() and np.isfinite(sample.height).all()
        sky = sample.segmentation == SEGMENT["sky"]
        assert (sample.depth[sky] == FAR).all() and (sample.height[sky] == TOP).all()


def test_is_a_source(scenes):
    assert len(scenes) == 4096 and len(Scenes("val")) == 512 and len(Scenes(count=7)) == 7
    assert scenes.name == "scenes" and scenes.classes == list(CLASSES)
    assert scenes.path(123) == "scenes/train/000123"
    assert Scenes("val").path(5) == "scenes/val/000005"
    assert np.array_equal(scenes.native(3, 32), scenes.image(3, 32))
    assert scenes.image(3).shape == (64, 64, 3)
    assert np.array_equal(scenes.image(3, 64), scenes.render(3, 64).image)
    assert len(set(OBJECTS)) == len(OBJECTS) == len(SEGMENT_OF) and len(SEGMENTS) <= 19


def test_labels(scenes):
    labels = np.array([scenes.label(i) for i in range(2000)])
    counts = np.bincount(labels, minlength=len(CLASSES))
    assert len(counts) == len(CLASSES) and counts.min() > 140
    assert all(scenes.render(i, 8).label == scenes.label(i) for i in range(20))
    # Not dealt in turn: a class says nothing about the index.
    assert len({tuple(labels[k : k + 10]) for k in range(0, 200, 10)}) == 20


def test_variety(scenes):
    kinds = {OBJECTS[k] for i in range(250) for k in scenes.render(i, 4, flooded=False).box_labels}
    assert kinds == set(OBJECTS)
    used = {int(v) for i in range(60) for v in np.unique(scenes.render(i, 32).segmentation)}
    assert {SEGMENTS[k] for k in used} >= set(SEGMENTS) - {"item", "sun_moon"}
    counts = [len(scenes.render(i, 4, flooded=False).boxes) for i in range(80)]
    assert min(counts) >= 1 and np.mean(counts) > 6
    small = np.stack([scenes.image(i, 8) for i in range(100)]).reshape(100, -1).astype(np.float32)
    apart = np.abs(small[:, None] - small[None]).mean(-1) + 1e9 * np.eye(100)
    assert apart.min() > 2.0


# -- determinism -----------------------------------------------------------------------------------
def test_independent_of_order_and_of_other_sizes():
    first = Scenes().render(11, 48)
    again = Scenes(count=50)
    for i in (3, 11, 40):
        for size in (16, 48, 64, 33):
            again.image(i, size)
    assert same(first, again.render(11, 48))
    assert same(first, pickle.loads(pickle.dumps(again)).render(11, 48))
    again.render(11, 48).image[:] = 0  # what is handed out is the caller's
    assert same(first, again.render(11, 48))


def test_independent_of_process():
    code = (
        "from data.scenes import Scenes; from tests.data.scenes.test_scenes import digest;"
        "print(digest(Scenes(), range(9, -1, -1), 32))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == digest(Scenes(), range(9, -1, -1), 32)


def test_index_seed_and_split_are_keys(scenes):
    base = scenes.image(5, 32)
    assert not np.array_equal(base, scenes.image(6, 32))
    assert not np.array_equal(base, Scenes(seed=1).image(5, 32))
    assert not np.array_equal(base, Scenes("val").image(5, 32))
    assert np.array_equal(base, Scenes(count=6).image(5, 32))


def test_splits_are_disjoint():
    train = {Scenes(style="sim").image(i, 16).tobytes() for i in range(80)}
    val = {Scenes("val", style="sim").image(i, 16).tobytes() for i in range(80)}
    assert len(train) == 80 and len(val) == 80 and not train & val
    assert not {Scenes().path(i) for i in range(99)} & {Scenes("val").path(i) for i in range(99)}


# -- one scene at every resolution -----------------------------------------------------------------
def shrink(image: np.ndarray, size: int) -> np.ndarray:
    k = image.shape[0] // size
    return image.astype(np.float64).reshape(size, k, size, k, 3).mean((1, 3))


@pytest.mark.parametrize(
    ("style", "flooded", "mean", "worst"),
    [("real", False, 3.2, 6.5), ("real", True, 3.2, 6.5), ("sim", False, 1.5, 4.0)],
)
def test_low_resolution_is_the_area_average_of_high(scenes, style, flooded, mean, worst):
    """In grey levels of 255; two different scenes are about 60 apart."""
    errors, shifts = [], []
    for i in SOME:
        high = shrink(scenes.render(i, 256, style, flooded).image, 64)
        low = scenes.render(i, 64, style, flooded).image
        errors.append(np.abs(high - low).mean())
        shifts.append(abs((high - low).mean()))
    assert np.mean(errors) < mean and max(errors) < worst
    assert max(shifts) < 2.5


def test_sixteen_pixels_are_the_same_scene(scenes):
    errors = [np.abs(shrink(scenes.image(i, 64), 16) - scenes.image(i, 16)).mean() for i in SOME]
    assert np.mean(errors) < 7.0 and max(errors) < 14.0


def test_sixty_four_pixels_carry_detail(scenes):
    """Super-resolution from 16 px has something to do: what nearest enlargement misses."""
    misses = [
        np.abs(
            scenes.image(i, 16).repeat(4, 0).repeat(4, 1) - scenes.image(i, 64).astype(float)
        ).mean()
        for i in SOME
    ]
    assert np.mean(misses) > 8.0


def test_maps_agree_across_sizes(scenes):
    for i in SOME:
        low, high = scenes.render(i, 32), scenes.render(i, 128)
        assert np.array_equal(low.boxes, high.boxes)
        assert np.array_equal(low.box_labels, high.box_labels)
        centre = high.segmentation[1::4, 1::4]
        assert (centre == low.segmentation).mean() > 0.88
        share = high.water.mean() - low.water.mean()
        assert abs(share) < 0.03
        near = high.depth.reshape(32, 4, 32, 4)
        lo, hi = near.min((1, 3)) * 0.8, near.max((1, 3)) * 1.25
        assert ((low.depth >= lo) & (low.depth <= hi)).mean() > 0.98


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 13, 512])
def test_extreme_sizes(scenes, size):
    for i in range(20 if size < 512 else 2):
        for style in ("real", "sim"):
            with np.errstate(all="raise", under="ignore"):
                sample = scenes.render(i, size, style, flooded=bool(i % 2))
            assert sample.image.shape == (size, size, 3)
            assert np.isfinite(sample.depth).all()
            assert (sample.masks.sum(0) <= 1).all()


# -- what is where ---------------------------------------------------------------------------------
def test_masks_boxes_and_segmentation_agree(pairs):
    seen = total = 0
    for sample in (s for pair in pairs for s in pair):
        assert (sample.masks.sum(0) <= 1).all()
        edge = 1.01 / 64
        for mask, box, kind in zip(sample.masks, sample.boxes, sample.box_labels, strict=True):
            total += 1
            if not mask.any():
                continue
            seen += 1
            rows, cols = np.nonzero(mask)
            assert cols.min() / 64 >= box[0] - edge and (cols.max() + 1) / 64 <= box[2] + edge
            assert rows.min() / 64 >= box[1] - edge and (rows.max() + 1) / 64 <= box[3] + edge
            expected = SEGMENT[SEGMENT_OF[OBJECTS[kind]]]
            assert (sample.segmentation[mask] == expected).all()
    assert seen > 0.9 * total


def test_boxes_are_tight_where_nothing_hides(scenes):
    """A whole thing in the open fills its box: its mask reaches all four sides."""
    checked = 0
    for i in SOME:
        sample = scenes.render(i, 256, flooded=False)
        for k, (box, kind) in enumerate(zip(sample.boxes, sample.box_labels, strict=True)):
            alone = all(
                min(box[2], b[2]) <= max(box[0], b[0]) or min(box[3], b[3]) <= max(box[1], b[1])
                for j, b in enumerate(sample.boxes)
                if j != k
            )
            inside = box.min() > 0.01 and box.max() < 0.99
            if not (alone and inside) or OBJECTS[kind] not in (
                "car",
                "boat",
                "sun",
                "cactus",
                "conifer",
            ):
                continue
            rows, cols = np.nonzero(sample.masks[k])
            if not len(rows):
                continue
            found = np.array([cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]) / 256
            slack = 0.02 + 0.22 * (box[2] - box[0])
            assert np.abs(found - box).max() < slack, (i, OBJECTS[kind], found, box)
            checked += 1
    assert checked > 8


@pytest.mark.parametrize("flooded", [False, True])
def test_the_nearest_thing_is_painted(scenes, flooded):
    """The instance of every pixel against a z-buffer over the things' own silhouettes."""
    overlaps = 0
    for i in range(60):
        picture = Picture(scenes.scene(i), 64, "real", flooded, trace=True)
        best = np.full((64, 64), np.inf)
        owner = np.full((64, 64), -1)
        for k, silhouette, depth in picture.layers:
            nearer = silhouette & (depth <= best)
            overlaps += int((silhouette & np.isfinite(best)).sum())
            best[nearer] = depth[nearer]
            owner[nearer] = k
        owner[picture.water] = -1
        differ = (owner != picture.instance) & ~picture.water
        # Things in the sky may be cut by a ridge in front of them.
        things = scenes.scene(i).things
        cut = np.isin(owner, [k for k, t in enumerate(things) if t.kind in IN_SKY])
        assert not (differ & ~cut).any(), (i, np.argwhere(differ & ~cut)[:3])
        here = picture.instance >= 0
        assert np.allclose(picture.depth[here], best[here])
    assert overlaps > 2000


def test_depth_grows_towards_the_horizon(pairs, scenes):
    """Down a column of bare ground the depth falls, as the camera sees a plane."""
    for i, (dry, _) in zip(SOME, pairs, strict=True):
        scene = scenes.scene(i)
        bare = np.isin(
            dry.segmentation, [SEGMENT[n] for n in ("grass", "sand", "snow", "road", "pavement")]
        )
        assert bare.any()
        rows = (np.arange(64) + 0.5)[:, None] / 64
        plane = (scene.camera - dry.height) / np.maximum(rows - scene.horizon, 1e-3)
        # (A ridge's foot hides the last few metres before it.)
        near = bare & (plane > 0) & (plane < 150) & (dry.masks.sum(0) == 0)
        assert np.allclose(dry.depth[near], plane[near], rtol=1e-3)


def test_things_stand_on_the_ground(scenes):
    for i in SOME:
        scene = scenes.scene(i)
        for t in scene.things:
            if t.kind in IN_SKY or t.floats or t.kind == "lighthouse":
                continue
            assert t.foot == scene.elevation(t.x, t.z)
    grid = scenes.scene(3)
    x, z = np.meshgrid(np.linspace(-20, 20, 9), np.linspace(5, 100, 9))
    flat = [grid.elevation(float(a), float(b)) for a, b in zip(x.ravel(), z.ravel(), strict=True)]
    assert np.allclose(
        grid.elevation(x.astype(np.float32), z.astype(np.float32)).ravel(), flat, atol=1e-3
    )


# -- water -----------------------------------------------------------------------------------------
def test_water_follows_from_height_and_level(pairs):
    for dry, wet in pairs:
        for sample in (dry, wet):
            assert np.array_equal(sample.water, sample.height < sample.level)
            assert np.array_equal(sample.water, sample.segmentation == SEGMENT["water"])
            assert not sample.masks[:, sample.water].any()
        assert dry.level == 0 and 0.3 < wet.level < 1.1


def test_flooded_and_dry_share_the_scene(pairs):
    gained = changed = 0
    for dry, wet in pairs:
        boats = np.zeros((64, 64), bool)
        for sample in (dry, wet):
            floating = [OBJECTS[k] == "boat" for k in sample.box_labels]
            boats |= sample.masks[floating].any(0)
        still = ~boats
        assert np.array_equal(dry.height[still], wet.height[still])
        assert (wet.water | ~dry.water)[still].all()  # water only rises
        assert (wet.depth <= dry.depth * 1.0001)[still].mean() > 0.99
        assert len(wet.boxes) <= len(dry.boxes) and dry.label == wet.label
        above = ~wet.water & still
        same_segment = dry.segmentation[above] == wet.segmentation[above]
        assert same_segment.mean() > 0.995
        gained += wet.water.mean() - dry.water.mean()
        changed += np.abs(dry.image.astype(int) - wet.image)[wet.water & ~dry.water].mean() > 8
    assert gained / len(pairs) > 0.15 and changed > 0.8 * len(pairs)


def test_water_mirrors_the_far_side(scenes):
    """Just below the horizon of a lake lies, upside down, what stands just above it."""
    better = total = 0
    for i in range(200):
        if CLASSES[scenes.label(i)] != "mountain_lake":
            continue
        sample = scenes.render(i, 128, flooded=False)
        axis = scenes.scene(i).horizon * 128
        rows = np.arange(int(axis) + 4, min(int(axis) + 30, 127))
        mirror = (2 * axis - rows - 1).astype(int)
        here = (
            sample.water[rows]
            & (sample.masks.sum(0)[rows] == 0)
            & (sample.masks.sum(0)[mirror] == 0)
        )
        if here.sum() < 200:
            continue
        a = sample.image[rows].astype(float).mean(-1)[here]
        b = sample.image[mirror].astype(float).mean(-1)[here]
        total += 1
        better += np.corrcoef(a, b)[0, 1] > 0.3
    assert total >= 8 and better >= 0.7 * total


def test_what_floods_by_itself():
    flags = [Scenes().render(i, 4).flooded for i in range(200)]
    assert 0.1 < np.mean(flags) < 0.3
    assert all(Scenes(flooded=True).render(i, 4).flooded for i in range(5))
    assert not Scenes(flooded=True).render(0, 4, flooded=False).flooded


# -- styles ----------------------------------------------------------------------------------------
def test_styles_share_the_geometry_and_differ_in_the_picture(scenes):
    flat = saturated = 0
    for i in SOME:
        real, sim = (scenes.render(i, 64, style=s) for s in ("real", "sim"))
        for name in ARRAYS[1:]:
            if name in ("boxes", "box_labels"):
                assert np.array_equal(getattr(real, name), getattr(sim, name))
            else:  # soft edges (clouds) move a label by a pixel
                assert (getattr(real, name) == getattr(sim, name)).mean() > 0.97
        assert np.abs(real.image.astype(int) - sim.image).mean() > 6
        spread = [s.image.astype(int).max(-1) - s.image.min(-1) for s in (real, sim)]
        saturated += spread[1].mean() > spread[0].mean()
        colours = [len(np.unique((s.image // 4).reshape(-1, 3), axis=0)) for s in (real, sim)]
        flat += colours[1] < 0.7 * colours[0]
    assert flat >= 0.85 * len(SOME) and saturated > 0.8 * len(SOME)


def test_mixed_style_is_by_index():
    mixed = Scenes(style="mixed")
    got = [mixed.render(i, 16).style for i in range(40)]
    assert set(got) == {"real", "sim"}
    for i in range(6):
        assert np.array_equal(mixed.image(i, 16), Scenes(style=got[i]).image(i, 16))
    assert set(STYLES) == {"real", "sim", "mixed"}


# -- mistakes --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"split": "test"}, "split 'test'"),
        ({"count": 0}, "count 0"),
        ({"count": 2.5}, "count 2.5"),
        ({"seed": "a"}, "seed 'a'"),
        ({"style": "cartoon"}, "style 'cartoon'"),
        ({"flooded": "yes"}, "flooded 'yes'"),
    ],
)
def test_wrong_arguments(arguments, says):
    with pytest.raises(ValueError, match=says) as caught:
        Scenes(**arguments)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 6


def test_wrong_requests(scenes):
    for size in (0, -3, 2.0, "64", 1 << 20, True):
        with pytest.raises(ValueError, match="size"):
            scenes.image(0, size)
    with pytest.raises(ValueError, match="style"):
        scenes.render(0, 8, style="")
    with pytest.raises(ValueError, match="index"):
        scenes.image(1.5)
    for i in (-1, 4096):
        for ask in (scenes.image, scenes.label, scenes.path, scenes.render):
            with pytest.raises(IndexError, match="4096"):
                ask(i)
    assert scenes.image(np.int64(3), np.int32(8)).shape == (8, 8, 3)


# -- the sheet -------------------------------------------------------------------------------------
def test_contact_sheet(tmp_path, scenes, capsys):
    main(["--out", str(tmp_path / "a" / "sheet.png"), "--size", "24"])
    assert "sheet.png" in capsys.readouterr().out
    from PIL import Image

    with Image.open(tmp_path / "a" / "sheet.png") as picture:
        assert picture.size[0] == 4 * 28 - 4 and picture.size[1] == 5 * 28 - 4
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["sheet.png"]
    assert all(m.shape == (16, 16, 3) for m in maps_of(scenes.render(0, 16)))
    assert sheet([np.zeros((4, 4, 3), np.uint8)] * 3, 2, gap=2).shape == (10, 10, 3)
