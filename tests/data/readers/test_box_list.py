"""Layouts written by hand: a box a line, and JSON."""

import json

import numpy as np
import pytest

from data.readers.box_list import box_list_text, read_box_list, read_layouts
from storage.errors import DataError

NAMES = ["person", "Sky-other", "hot dog, really"]


def test_a_box_a_line(tmp_path):
    file = tmp_path / "room.txt"
    file.write_text(
        "# a room\n0.1, 0.5,0.3,0.4,person\n\n0,0,1,0.25,sky-OTHER\n0.5,0.5,0.1,0.1,2\n"
        "0.2,0.2,0.1,0.1,hot dog, really\n0.9,-0.1,0.3,0.3,0\n"
        "0.1,0.1,0,0.2,person\n0.5,0.5,-0.2,0.1,person\n1.2,0,0.1,0.1,person\n"
    )
    found = read_box_list(file, NAMES)
    assert found.classes.tolist() == [0, 1, 2, 2, 0] and found.boxes.dtype == np.float32
    assert np.allclose(found.boxes[0], [0.1, 0.5, 0.3, 0.4])
    assert np.allclose(found.boxes[4], [0.9, 0, 0.1, 0.2])  # cut at the edges
    assert found.faults.counts == {"empty": 1, "reversed": 1, "outside": 1}
    assert "1 empty (line 8: 0.1,0.1,0,0.2)" in found.faults.said()
    for names in ((), NAMES):
        file.write_text(box_list_text(found.boxes, found.classes, names))
        again = read_box_list(file, NAMES)
        assert np.allclose(again.boxes, found.boxes) and (again.classes == found.classes).all()
    file.write_text("inf,0,1,1,person\n0,nan,1,1,person\n")
    assert read_box_list(file, NAMES).faults.counts == {"not finite": 2}
    file.write_text("")
    assert read_box_list(file, NAMES).boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,0,1,1", "line 1: '0,0,1,1' is not x,y,w,h,class"),
        ("#\n0,0,1,y,person", r"line 2: \['0', '0', '1', 'y'\] are not four numbers"),
        ("0,0,1,1,persn", "no class 'persn'; did you mean person"),
        ("0,0,1,1,3", "class 3; there are 0 to 2"),
        ("0,0,1,1,zebra", "no class 'zebra'; there are person, Sky-other, hot dog"),
        ("0,0,1,1," + "9" * 5000, "class 9{60}; there are 0 to 2"),
        ("10,20,100,50,person", "are pixels; give shares"),
        ("\xff".encode("latin-1"), "is no text"),
    ],
)
def test_what_is_no_box(text, message, tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        read_box_list(file, NAMES)


def test_json(tmp_path):
    file = tmp_path / "a.json"
    box = {"x": 0.1, "y": 0.2, "w": 0.3, "h": 0.4, "class": "person"}
    lists = {"boxes": [[0.1, 0.2, 0.3, 0.4], [0, 0, 0, 0]], "classes": [1, "person"]}
    for value, count in (([box], 1), (lists, 1), ([lists, lists], 2), ([[box], [box, box]], 2)):
        file.write_text(json.dumps(value))
        found = read_layouts(file, NAMES)
        assert len(found) == count and np.allclose(found[0].boxes, [[0.1, 0.2, 0.3, 0.4]])
    with pytest.raises(DataError, match="has 2 layouts; one is wanted"):
        read_box_list(file, NAMES)
    for value, message in (
        ({"boxes": [[0, 0, 1]], "classes": [0]}, "not four numbers"),
        ({"boxes": [], "classes": [0]}, "of one length"),
        ({"x": 1}, "is no list of boxes"),
        ([{**box, "class": True}], "no class True"),
        ([{**box, "x": 10**400}], "not four numbers"),
        ([{**box, "x": True}], "not four numbers"),
        (None, "null is no list of boxes"),
    ):
        file.write_text(json.dumps(value))
        with pytest.raises(DataError, match=message):
            read_layouts(file, NAMES)
    file.write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        read_layouts(file, NAMES)
    with pytest.raises(DataError, match="cannot be read|is not there"):
        read_layouts(tmp_path / "none.txt", NAMES)
