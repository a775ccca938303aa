"""Joint transforms of a picture and its maps."""

import numpy as np
import pytest

from data.omni.transforms import DEFAULT, drawn_size, output_size, read_steps, transformed
from storage.errors import DataError


def _arrays(height=24, width=36):
    """Maps that say of every pixel where it is; the picture says the same, by its colours."""
    rows, columns = np.mgrid[:height, :width]
    x = np.stack([rows * 255 / height, columns * 255 / width, rows * 0], -1).astype(np.uint8)
    return {"x": x, "s": (rows * width + columns) % 7, "d": columns / width, "h": rows / height}


STEPS = [
    {"name": "hflip"},
    {"name": "resize", "new_size": [32, 48]},
    {"name": "crop", "height": 16, "width": 20},
]


def test_picture_and_maps_go_alike():
    steps, moved, mirrored = read_steps(STEPS), set(), set()
    for draw in range(24):
        out = transformed(_arrays(), steps, "train", (0, "rf", 3, draw))
        assert {k: a.shape[:2] for k, a in out.items()} == dict.fromkeys("xsdh", (16, 20))
        inner = np.s_[2:-2, 2:-2]
        assert np.abs(out["x"][..., 1] / 255 - out["d"])[inner].max() < 0.06
        assert np.abs(out["x"][..., 0] / 255 - out["h"])[inner].max() < 0.06
        moved.add(float(out["h"][0, 0]))
        mirrored.add(bool(out["d"][0, 0] > out["d"][0, -1]))
    assert len(moved) > 3 and mirrored == {True, False}


def test_a_draw_is_a_function_of_its_key():
    steps = read_steps(STEPS)
    one, same, other = (
        transformed(_arrays(), steps, "train", (0, "rf", 3, k))["x"] for k in (5, 5, 6)
    )
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_validation_has_no_randomness():
    out = transformed(_arrays(), read_steps(STEPS), "val", None)
    again = transformed(_arrays(), read_steps(STEPS), "val", None)
    assert np.array_equal(out["x"], again["x"])
    assert out["d"][0, 0] < out["d"][0, -1]  # not mirrored
    assert abs(out["h"].mean() - 0.48) < 0.02 and abs(out["d"].mean() - 0.49) < 0.02  # central


def test_no_value_appears_that_is_not_in_the_file():
    two = np.zeros((20, 30), np.int32)
    two[3:9, 4:17] = 18
    arrays = {"x": np.zeros((20, 30, 3), np.uint8), "s": two, "d": two * 100.0}
    for size in (7, 64, [13, 51]):
        out = transformed(arrays, read_steps([{"name": "resize", "new_size": size}]), "train", None)
        assert set(np.unique(out["s"])) == {0, 18} and set(np.unique(out["d"])) == {0, 1800}


@pytest.mark.parametrize("size, ok", [(24, True), (25, False)])
def test_a_crop_may_take_all_and_no_more(size, ok):
    steps = read_steps([{"name": "crop", "height": size, "width": 36}])
    if ok:
        assert transformed(_arrays(), steps, "train", (1,))["x"].shape == (24, 36, 3)
    else:
        with pytest.raises(DataError, match="a.png is 24x36, smaller than the 25x36"):
            transformed(_arrays(), steps, "train", (1,), "a.png")


def test_what_is_ignored_is_left_out():
    entries = [
        {"name": "resize", "new_size": 8, "ignore": True},
        {"name": "resize", "new_size": 6, "ignore": "val"},
    ]
    steps = read_steps(entries)
    assert transformed(_arrays(), steps, "train", None)["x"].shape == (6, 6, 3)
    assert transformed(_arrays(), steps, "val", None)["x"].shape == (24, 36, 3)
    assert (output_size(steps, "train"), output_size(steps, "val")) == ((6, 6), None)


def test_sides_may_keep_their_ratio():
    steps = read_steps([{"name": "resize", "new_size": 12, "keep_aspect_ratio": True}])
    assert transformed(_arrays(), steps, "train", None)["x"].shape == (12, 18, 3)
    assert output_size(steps) is None


def test_sizes_of_the_defaults():
    steps = read_steps(DEFAULT)
    assert output_size(steps) == (256, 256) and drawn_size(steps, "train") == 256
    assert drawn_size(read_steps([{"name": "crop", "height": 32, "width": 64}]), "train") == 72


@pytest.mark.parametrize(
    "entry, says",
    [
        (3, "transform 0 is 3"),
        ({"name": "flip"}, "name 'flip' is none of hflip, resize, crop"),
        ({"name": ["hflip"]}, "name ['hflip'] is none of hflip, resize, crop"),
        ({"name": "hflip", "q": 1}, "hflip: 'q' is none of name, ignore, p"),
        ({"name": "hflip", "p": 2}, "p 2 is no probability"),
        ({"name": "resize"}, "new_size None is no number of pixels"),
        ({"name": "resize", "new_size": [1, 2, 3]}, "neither a number nor"),
        ({"name": "resize", "new_size": 0}, "new_size 0 is no number of pixels"),
        ({"name": "resize", "new_size": "64"}, "new_size '64' is no number of pixels"),
        ({"name": "crop", "height": 4}, "width None is no number"),
        ({"name": "crop", "height": 4, "width": 4, "center": "no"}, "center 'no' is none of"),
        ({"name": "hflip", "ignore": 1}, "ignore 1 is none of"),
    ],
)
def test_a_wrong_transform_is_a_line(entry, says):
    with pytest.raises(ValueError) as caught:
        read_steps([entry])
    assert says in str(caught.value)
