import numpy as np
import pytest

from data.sources import PathTable, Subset, allowed_bad, keyed_order, split_of, stratified
from storage.errors import DataError


class Numbers:
    name, classes = "numbers", ["even", "odd"]

    def __len__(self):
        return 10

    def image(self, i):
        return np.full((2, 2, 3), i, np.uint8)

    def label(self, i):
        return i % 2

    def path(self, i):
        return f"n/{i}"


def test_path_table_is_a_list_of_strings():
    paths = ["", "a/b.png", "ü/\udcff.jpg", "c"]
    table = PathTable(paths)
    assert list(table) == paths and table[-1] == "c" and len(table) == 4
    with pytest.raises(IndexError):
        table[4]
    many = PathTable(f"class/{i}.png" for i in range(10_000))
    assert many[9_876] == "class/9876.png"


def test_keyed_order_is_a_permutation_fixed_for_ever():
    assert sorted(keyed_order(100, 3, 4)) == list(range(100))
    # frozen: splits and sampler orders of saved runs depend on these
    assert keyed_order(8, 0, 0).tolist() == FROZEN
    assert keyed_order(50, 0, 1).tolist() != keyed_order(50, 0, 2).tolist()
    assert keyed_order(5, -1).tolist() == keyed_order(5, -1).tolist()


FROZEN = [0, 3, 7, 5, 1, 2, 6, 4]


def test_stratified_counts_and_nesting():
    labels = np.array([0] * 100 + [1] * 30 + [2] * 3)
    tenth, hundredth = stratified(labels, 0.1, 0), stratified(labels, 0.01, 0)
    assert np.bincount(labels[tenth]).tolist() == [10, 3, 1]
    assert np.bincount(labels[hundredth]).tolist() == [1, 1, 1]
    assert set(hundredth) <= set(tenth)


def test_subset():
    part = Subset(Numbers(), [7, 2], "part")
    assert len(part) == 2 and part.label(0) == 1 and part.path(1) == "n/2"
    assert part.image(0)[0, 0, 0] == 7 and not part.has_native(16)
    with pytest.raises(DataError, match="asks for image 10"):
        Subset(Numbers(), [10])


def test_split_names_and_limit():
    assert [split_of(s) for s in ("Train", "validation", "valid", "bird")] == [
        "train",
        "val",
        "val",
        None,
    ]
    assert [allowed_bad(n) for n in (10, 5000, 50_000, 10_000_000)] == [3, 5, 50, 100]
