"""Nested settings: merging, the schema, --set."""

import copy

import pytest

from runtime.settings import (
    Each,
    Leaf,
    assigned,
    checked,
    defaults,
    flat,
    merge,
    nested,
    unlike_defaults,
)
from runtime.types import positive_float, positive_int, text
from storage.yaml_files import parse_yaml


def _even(value):
    if value % 2:
        raise ValueError(f"{value} is odd")
    return value


SCHEMA = {
    "name": Leaf(text, None, "a word"),
    "tasks": Leaf(Each(("a", "d", "no"), least=1), ["a"]),
    "gen": {
        "opt": {"lr": Leaf(positive_float, 5e-4), "kind": Leaf(("adam", "sgd"), "adam")},
        "encoder": {"dim": Leaf(positive_int, 32, check=_even), "norm": Leaf(text, "none")},
        "any": Leaf(dict, {}, tags=("execution",)),
        "use": Leaf(bool, True),
    },
}


def test_merge_goes_into_sections_and_replaces_lists():
    base, over = {"a": {"b": 1, "c": [1, 2]}, "d": 1}, {"a": {"c": [3]}, "d": {"e": 2}}
    kept = copy.deepcopy((base, over))
    out = merge(base, over)
    assert out == {"a": {"b": 1, "c": [3]}, "d": {"e": 2}}
    out["a"]["c"].append(4)
    assert (base, over) == kept


def test_flat_and_nested():
    config = {"a": {"b": {"c": 1}, "d": []}, "e": {}}
    assert flat(config) == {"a.b.c": 1, "a.d": [], "e": {}}
    assert nested(flat(config)) == config
    with pytest.raises(ValueError, match="a is a value already"):
        nested({"a": 1, "a.b": 2})


def test_layers_over_defaults():
    file = parse_yaml("gen:\n  opt: {lr: 1}\n  encoder:\ntasks: [d, 'no']")
    layers = [checked(file, SCHEMA, "f.yaml"), checked(assigned("gen.use=off"), SCHEMA, "--set")]
    out = defaults(SCHEMA)
    for layer in layers:
        out = merge(out, layer)
    assert out["gen"]["opt"] == {"lr": 1.0, "kind": "adam"}
    assert out["tasks"] == ["d", "no"] and out["gen"]["use"] is False
    assert unlike_defaults(out, SCHEMA) == {
        "tasks": ["d", "no"],
        "gen.opt.lr": 1.0,
        "gen.use": False,
    }
    assert defaults(SCHEMA)["tasks"] == ["a"]


def test_what_a_run_is_known_by_leaves_tags_out():
    out = merge(defaults(SCHEMA), {"gen": {"any": {"x": 1}}})
    assert unlike_defaults(out, SCHEMA) == {"gen.any": {"x": 1}}
    assert unlike_defaults(out, SCHEMA, "execution") == {}


@pytest.mark.parametrize(
    "said, says",
    [
        ("gen: {encoder: {dimm: 3}}", "gen.encoder.dimm is no setting; did you mean gen.enc"),
        ("gen: {lr: 1}", "gen.lr is no setting; did you mean gen.opt.lr?"),
        ("wholly: {wrong: 1}", "wholly is no setting"),
        ("gen: {opt: {lr: 1e-3}}", "gen.opt.lr '1e-3' is a text: YAML reads a number in quotes, or "
         "one with e and without a point, so; write 0.001"),
        ("gen: {opt: {lr: 1e-9}}", "write 1.0e-09"),
        ("gen: {encoder: {dim: '8'}}", "gen.encoder.dim '8' is a text"),
        ("gen: {encoder: {dim: much}}", "gen.encoder.dim 'much' is not a number"),
        ("gen: {encoder: {dim: 4.5}}", "gen.encoder.dim '4.5' is not a whole number"),
        ("gen: {encoder: {dim: true}}", "gen.encoder.dim True is not a number"),
        ("gen: {encoder: {dim: 3}}", "gen.encoder.dim: 3 is odd"),
        ("gen: {encoder: {norm: no}}", "gen.encoder.norm False is not a text: YAML reads yes, no"),
        ("gen: {encoder: {norm: 3}}", "gen.encoder.norm 3 is a number, not a text; put"),
        ("gen: {encoder: {norm: }}", "gen.encoder.norm has no value; its default is 'none'"),
        ("gen: {encoder: 3}", "gen.encoder is a section (dim, norm, ..), not 3"),
        ("gen: {use: 1}", "gen.use 1 is not true or false"),
        ("gen: {opt: {kind: adm}}", "gen.opt.kind 'adm' is none of adam, sgd; did you mean adam?"),
        ("gen: {opt: {kind: [adam]}}", "gen.opt.kind is one value"),
        ("gen: {any: 3}", "gen.any is a section, not 3"),
        ("tasks: a", "tasks is a list"),
        ("tasks: []", "tasks needs 1 value or more"),
        ("tasks: [a, no]", "tasks[1] False: YAML reads yes, no, on and off so"),
        ("[1, 2]", "it is a section (name, tasks, gen, ..), not [1, 2]"),
    ],
)  # fmt: skip
def test_a_mistake_is_a_line(said, says):
    with pytest.raises(ValueError) as caught:
        checked(parse_yaml(said), SCHEMA, "f.yaml")
    assert str(caught.value).startswith("f.yaml: ")
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "word, value",
    [
        ("a.b=1e-3", {"a": {"b": 0.001}}),
        ("a.b=[1, x]", {"a": {"b": [1, "x"]}}),
        ("a=", {"a": None}),
        ("a=b=c", {"a": "b=c"}),
        ("a=off", {"a": False}),
    ],
)
def test_set_reads_a_value(word, value):
    assert assigned(word) == value


@pytest.mark.parametrize("word", ["a", "=1", "a..b=1", "a. b=1", "a=[1"])
def test_set_refuses(word):
    with pytest.raises(ValueError):
        assigned(word)
