"""Files of pictures and maps as arrays."""

import numpy as np
import pytest
from PIL import Image

from data.omni.maps import read_map, read_picture
from storage.errors import DataError


@pytest.fixture
def made(tmp_path):
    def make(name, array):
        path = tmp_path / name
        np.save(path, array) if name.endswith(".npy") else Image.fromarray(array).save(path)
        return str(path)

    return make


def test_depth_stands_as_in_the_file(made):
    depth = np.array([[0, 2.5], [1000, 3]], np.float32)
    assert np.array_equal(read_map("d", made("d.npy", depth)), depth)
    grey = np.array([[0, 7], [255, 3]], np.uint8)
    assert np.array_equal(read_map("d", made("d.png", grey)), grey.astype(np.float32))
    deep = np.array([[0, 7], [65535, 300]], np.uint16)
    assert np.array_equal(read_map("d", made("d16.png", deep)), deep.astype(np.float32))
    colours = np.repeat(grey[:, :, None], 3, 2)  # grey, saved as a colour picture
    assert np.array_equal(read_map("d", made("d3.png", colours)), grey.astype(np.float32))


def test_height_is_a_share(made):
    assert read_map("h", made("h.png", np.array([[0, 255]], np.uint8))).tolist() == [[0, 1]]
    assert read_map("h", made("h16.png", np.array([[0, 65535]], np.uint16))).tolist() == [[0, 1]]
    assert read_map("h", made("h.npy", np.array([[0.25, 1]]))).tolist() == [[0.25, 1]]


def test_water_is_yes_or_no(made):
    assert read_map("w", made("w.png", np.array([[0, 1, 255]], np.uint8))).tolist() == [[0, 1, 1]]
    assert read_map("w", made("w.npy", np.array([[False, True]]))).tolist() == [[0, 1]]


def test_segments_are_numbers_of_classes(made, tmp_path):
    assert read_map("s", made("s.npy", np.array([[0, 255, -1, 18]])), 19).tolist() == [
        [0, 255, 255, 18]
    ]
    image = Image.fromarray(np.array([[0, 3]], np.uint8)).convert("P")
    image.putdata([0, 3])
    image.save(tmp_path / "p.png")
    assert read_map("s", str(tmp_path / "p.png"), 19).tolist() == [[0, 3]]


@pytest.mark.parametrize(
    "key, name, array, says",
    [
        ("s", "s.jpg", np.zeros((4, 4), np.uint8), "changes the numbers of classes"),
        ("s", "s.png", np.zeros((4, 4, 3), np.uint8), "its mode is RGB"),
        ("s", "s.npy", np.full((2, 2), 19), "class 19 of 19, which are numbered from 0"),
        ("s", "s.npy", np.full((2, 2), 0.5), "numbers of classes are whole"),
        ("d", "d.npy", np.full((2, 2), -1.0), "none is negative"),
        ("d", "d.npy", np.full((2, 2), np.nan), "not finite"),
        ("d", "d.npy", np.zeros((2, 2, 2)), "an array of 2x2x2, a map is HxW"),
        ("d", "d.npy", np.zeros((0, 2)), "no array of numbers"),
        ("h", "h.npy", np.full((2, 2), 3.0), "from 3 to 3: in [0, 1]"),
        ("w", "w.png", np.eye(6, dtype=np.uint8)[:, :3].reshape(2, 3, 3) * 99, "colour picture"),
    ],
)
def test_what_is_wrong_is_a_line_that_names_the_file(made, key, name, array, says):
    path = made(name, array)
    with pytest.raises(DataError) as caught:
        read_map(key, path, 19)
    assert says in str(caught.value) and path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_files_are_a_line(tmp_path):
    for name in ("d.png", "d.npy", "d.txt"):
        (tmp_path / name).write_bytes(b"\x89PNG\r\n nonsense")
        for key in ("s", "d"):
            with pytest.raises(DataError, match=f"bad image .*{name}"):
                read_map(key, str(tmp_path / name), 19)


def test_a_picture_may_be_an_array(made):
    grey = made("x.npy", np.array([[0, 1.0]]))
    assert read_picture(grey).tolist() == [[[0, 0, 0], [255, 255, 255]]]
    with pytest.raises(DataError, match="uint8, or values in"):
        read_picture(made("y.npy", np.full((2, 2, 3), 300)))
    with pytest.raises(DataError, match="a picture is HxWx3"):
        read_picture(made("z.npy", np.zeros((2, 2, 4), np.uint8)))


def test_what_an_array_claims_takes_no_memory(tmp_path):
    """A header alone, of 8 TB; and a file of as much, all of it a hole."""
    file = tmp_path / "d.npy"
    with open(file, "wb") as out:
        claim = {"descr": "<f8", "fortran_order": False, "shape": (1 << 20, 1 << 20)}
        np.lib.format.write_array_header_1_0(out, claim)
        for size in (out.tell(), out.tell() + (1 << 43)):
            out.truncate(size)
            with pytest.raises(DataError, match="bad image .*d.npy"):
                read_map("d", str(file))
