"""What is drawn, and that it stays drawn."""

import pytest

from recipes.experiment.sampling import draw, mark, searches


def one(kind, values, seed=0, search=0):
    tree, sampled = draw(mark({"x": {"sample": kind, "from": values}}, "t"), search, (seed,))
    assert sampled == tree
    return tree["x"]


def many(kind, values, count=200):
    return [one(kind, values, seed) for seed in range(count)]


def test_the_three_kinds():
    mixed = [1, "a", [1, 2], {"lr": 0.1}, None, True, 0.5]
    found = many("list", mixed)
    assert all(any(type(v) is type(m) and v == m for m in mixed) for v in found)
    assert all(any(v == m and type(v) is type(m) for v in found) for m in mixed)
    assert set(many("range", [3])) == {0, 1, 2} and set(many("range", [2, 5])) == {2, 3, 4}
    assert set(many("range", [0, 10, 5])) == {0, 5} and set(many("range", [3, 0, -1])) == {3, 2, 1}
    assert set(many("range", [0.0, 1.0, 0.25])) == {0.0, 0.25, 0.5, 0.75}
    assert max(many("range", [1, 1.3, 0.1])) < 1.3  # of which (1.3 - 1) / 0.1 is a bit above 3
    assert {type(v) for v in many("range", [3])} == {int}
    spread = many("uniform", [0.01, 0.001])
    assert all(type(v) is float and 0.001 <= v <= 0.01 for v in spread) and len(set(spread)) == 200
    assert max(spread) > 0.009 and min(spread) < 0.002
    sized = one("uniform", [-1, 1, 4])
    assert type(sized) is list and len(sized) == 4 and all(-1 <= v <= 1 for v in sized)


def test_draws_are_those_of_the_seed_and_of_the_name():
    either = {"sample": "uniform", "from": [0, 1]}
    alone, _ = draw(mark({"a": either}, "t"), 0, (7,))
    both, sampled = draw(mark({"b": {"c": either}, "a": either}, "t"), 0, (7,))
    assert both["a"] == alone["a"] != both["b"]["c"]  # another parameter changes nothing
    assert sampled == {"b.c": both["b"]["c"], "a": both["a"]}
    assert draw(mark({"a": either}, "t"), 0, (7,))[0] == alone
    assert draw(mark({"a": either}, "t"), 0, (8,))[0] != alone
    inside, sampled = draw(mark({"transforms": [{"p": either}, 1]}, "t"), 0, (7,))
    assert list(sampled) == ["transforms[0].p"] and inside["transforms"][1] == 1


def test_searches():
    tree = mark(
        {
            "a": {"sample": "cartesian", "from": [1, 2]},
            "b": {"sample": "cartesian", "from": ["y", "z"]},
            "c": {"sample": "sequential", "from": [5, 6, 7]},
        },
        "t",
    )
    assert searches(tree, -1) == 4 and searches(tree, 5) == 5
    runs = [draw(tree, k, (0,))[0] for k in range(5)]
    assert [(r["a"], r["b"]) for r in runs] == [(1, "y"), (1, "z"), (2, "y"), (2, "z"), (1, "y")]
    assert [r["c"] for r in runs] == [5, 6, 7, 5, 6]
    assert searches(mark({"c": {"sample": "sequential", "from": [5, 6, 7]}}, "t"), -1) == 3
    assert searches({"a": 1}, -1) == 1 and searches({"a": 1}, 3) == 3
    huge = {k: {"sample": "cartesian", "from": list(range(50))} for k in "abcdef"}
    with pytest.raises(ValueError, match="a search of 15625000000 runs; n_search may be"):
        searches(mark(huge, "t"), -1)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"sample": "lst", "from": [1]}, "t.x: sample 'lst' is not one of list, range, .* list?"),
        ({"sample": "list", "form": [1]}, r"t\.x is sampled: .* not \['form', 'sample'\]"),
        ({"sample": "list", "from": []}, "t.x: from .* is no list of values"),
        ({"sample": "list", "from": 3}, "t.x: from 3 is no list of values"),
        ({"sample": "range", "from": [1, 0]}, "is an empty range"),
        ({"sample": "range", "from": [0, 1, 0]}, "is an empty range"),
        ({"sample": "range", "from": [0, 1, 2, 3]}, r"a range is \[stop\]"),
        ({"sample": "uniform", "from": [0]}, r"uniform is \[low, high\]"),
        ({"sample": "uniform", "from": ["1e-3", 1]}, "the text '1e-3'; YAML reads 1e-3 as one"),
        ({"sample": "uniform", "from": [0, 1, 2.5]}, "size 2.5 is no whole number"),
        ({"sample": "uniform", "from": [0, float("inf")]}, "not finite"),
        ({"sample": "uniform", "from": [0, True]}, "True, which is no number"),
    ],
)
def test_what_cannot_be_drawn_is_said(asked, said):
    with pytest.raises(ValueError, match=said):
        mark({"x": asked}, "t")
