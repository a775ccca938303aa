"""YAML as data."""

import pytest
import yaml

from storage.yaml_files import parse_yaml, read_yaml, yaml_text


def test_anchors_and_merge_keys_are_those_of_yaml(tmp_path):
    text = "gen:\n  default: &d\n    lr: 0.5\n    n: 3\n  s:\n    <<: *d\n    n: 4\n  t: *d\n"
    (tmp_path / "a.yaml").write_text(text)
    found = read_yaml(tmp_path / "a.yaml")
    assert found == yaml.safe_load(text)
    assert found["gen"]["s"] == {"lr": 0.5, "n": 4}


@pytest.mark.parametrize(
    "text, value",
    [
        ("12:00:00", "12:00:00"),  # YAML 1.1: 43200
        ("010", "010"),  # 8
        ("2020-01-01", "2020-01-01"),  # a date
        ("1e-3", "1e-3"),  # a text in YAML 1.1 too
        ("1.0e-3", 0.001),
        ("-3", -3),
        (".5", 0.5),
        ("0x1F", 31),
        ("[1, 2.5, yes, ~, a]", [1, 2.5, True, None, "a"]),
        ("", None),
    ],
)
def test_what_is_a_number(text, value):
    found = parse_yaml(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "text, says",
    [
        ("a: 1\nb: 2\na: 3", "line 3: 'a' stands in line 1 already"),
        ("a: [1", "line 1, column 6"),
        ("a: *b", "undefined alias"),
        ("a: !!python/object/apply:os.system [ls]", "python/object/apply:os.system"),
        ("no: 1", "False: a key has to be a text; put it in quotes"),
        ("a: &a [*a]", "more than 40 sections"),
        ("[" * 3000, "sections lie in one another"),
        ("a: \x01", "is no YAML"),
        ("a: 1\n--- \nb: 2", "expected a single document in the stream, but found another"),
        ("a: !!binary aGk=", "a: bytes is no plain value"),
    ],
)
def test_what_is_refused_is_a_line_that_names_the_file(tmp_path, text, says):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError) as caught:
        read_yaml(tmp_path / "a.yaml")
    assert str(caught.value).startswith(f"{tmp_path / 'a.yaml'}: ")
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_means_more_than_memory_is_refused():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(ValueError, match="means more than"):
        parse_yaml("\n".join(lines))


def test_files_that_cannot_be_read_are_a_line(tmp_path):
    with pytest.raises(ValueError, match="no.yaml: cannot be read"):
        read_yaml(tmp_path / "no.yaml")
    (tmp_path / "b.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ValueError, match="b.yaml: is no text"):
        read_yaml(tmp_path / "b.yaml")


def test_what_is_written_is_read_back():
    shared = [1, 2]
    value = {"z": 1e-05, "a": {"t": "1e-3", "d": "12:00:00", "n": "no", "l": shared, "m": shared}}
    text = yaml_text(value)
    assert parse_yaml(text) == value == yaml.safe_load(text)
    assert "&" not in text and text.startswith("z:")
    with pytest.raises(ValueError, match="set is no plain value"):
        yaml_text({"a": {1}})
