"""List files of samples."""

import json

import pytest

from data.omni.lists import read_list
from storage.errors import DataError


@pytest.fixture
def files(tmp_path):
    for name in ("a.png", "b.png", "a.npy"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_json_and_yaml_say_the_same(files):
    entries = [{"x": "a.png", "s": "a.npy"}, {"x": str(files / "b.png")}]
    (files / "l.json").write_text(json.dumps(entries))
    (files / "l.yaml").write_text("- x: a.png\n  s: a.npy\n- x: ./b.png\n")
    found = read_list(files / "l.json")
    assert found == read_list(files / "l.yaml")
    assert found == [
        {"x": str(files / "a.png"), "s": str(files / "a.npy")}, {"x": str(files / "b.png")},
    ]  # fmt: skip
    assert read_list(files / "l.json", keep=["d"])[0] == {"x": str(files / "a.png")}


@pytest.mark.parametrize(
    "name, text, says",
    [
        ("l.txt", "[]", "is a .json, .yaml, .yml file"),
        ("l.json", "{", "l.json: Expecting property name"),
        ("l.json", '{"a": {"x": "a.png"}}', "an object, not a list"),
        ("l.json", "[]", "lists no sample"),
        ("l.json", '[{"x": "a.png", "x": "b.png"}]', "l.json: 'x' stands twice in one sample"),
        ("l.json", "[3]", "sample 0 is 3, not"),
        ("l.json", '[{"s": "a.npy"}]', "sample 0 has no x"),
        ("l.json", '[{"x": "a.png", "q": "a.npy"}]', "has the key 'q'; there are x, d, h, s, w"),
        ("l.json", '[{"x": 3}]', "x is 3, not a path"),
        ("l.json", '[{"x": "a.png"}, {"x": "a.png"}]', "samples 0 and 1 are both"),
        ("l.json", '[{"x": "a.png", "d": "no.png"}]', "no.png; relative paths are relative to"),
        ("l.yaml", "- x: [", "l.yaml: line 1"),
        ("no.yaml", None, "no.yaml: cannot be read"),
        ("no.json", None, "no.json cannot be read"),
    ],
)
def test_a_wrong_list_is_a_line(files, name, text, says):
    if text is not None:
        (files / name).write_text(text)
    with pytest.raises(DataError) as caught:
        read_list(files / name)
    assert says in str(caught.value) and "\n" not in str(caught.value)
