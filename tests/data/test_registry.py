import numpy as np
import pytest

from data import registry
from data.registry import cut, names, open_source, train_val_sources
from data.sources import labels_of
from storage.errors import DataError
from tests.data.pictures import encoded, make_set, zip_folder


def paths(source):
    return [source.path(i) for i in range(len(source))]


@pytest.fixture
def data(tmp_path):
    make_set(tmp_path / "both", {"train": {"a": 4, "b": 4}, "val": {"a": 1, "b": 2}})
    make_set(tmp_path / "only", {"train": {"a": 20, "b": 10}})
    make_set(tmp_path / "tested", {"train": {"a": 4, "b": 4}, "test": {"a": 2}})
    make_set(
        tmp_path / "camnet3", {"train": {"n01531178": 30, "butterfly": 20}, "val": {"n01531178": 2}}
    )
    make_set(tmp_path / "elsewhere", {"classes": {"x": 2, "y": 2}})
    return tmp_path


def test_one_set_by_every_way_of_naming_it(data, monkeypatch):
    want = paths(open_source("both", data))
    assert len(want) == 8
    for spec in ("both/train", str(data / "both"), str(data / "both/train")):
        assert paths(open_source(spec, data)) == want
    monkeypatch.chdir(data)
    relative = open_source("./both/train", "/nowhere")
    assert len(relative) == 8
    assert len(open_source("both", data, split="val")) == 3
    assert len(open_source("both/val", data)) == 3
    zip_folder(data / "both", data / "packed.zip")
    for spec in ("packed", "packed/train", str(data / "packed.zip"), f"{data}/packed.zip/train"):
        packed = open_source(spec, data)
        assert [packed.relative(i) for i in range(8)] == ["/".join(p.split("/")[-2:]) for p in want]
    assert len(open_source(str(data / "elsewhere/classes"), data)) == 4
    assert {"camnet3", "scenes", "bird"} <= set(names())


def test_a_split_given_as_a_path_finds_its_resolutions(data):
    source = open_source(str(data / "both/train"), "/nowhere")
    assert source.prebuilt_root(8) == data / "both_8x8/train"


def test_parts_of_sets(data):
    bird = open_source("bird", data)
    assert len(bird) == 30 and all("n01531178" in p for p in paths(bird))
    assert len(open_source("butterfly/train", data)) == 20
    tenth, hundredth = open_source("camnet3_deci", data), open_source("camnet3_centi", data)
    assert np.bincount(labels_of(tenth)).tolist() == [2, 3]
    assert len(hundredth) == 2 and set(paths(hundredth)) <= set(paths(tenth))
    assert len(open_source("bird_deci", data)) == 3
    assert paths(open_source("camnet3_deci", data)) == paths(tenth)
    assert len(open_source("camnet3_deci", data, split="val")) == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("both/test", "no split test; it has train, val"),
        ("tested/val", "no split val; it has train, test"),
        ("cifar10", "SetupDataset.py --data cifar10"),
        ("cifar10/train", "SetupDataset.py --data cifar10"),
        ("strawberry", "has no class strawberry"),
        ("bth", "did you mean both"),
        ("", "empty"),
        ("both/nonsense", "no data set"),
        ("/no/such/place", "no data set"),
        ("scenes/test", "train and val"),
    ],
)
def test_errors_say_what_to_do(data, spec, message):
    with pytest.raises(DataError, match=message) as caught:
        open_source(spec, data)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 6


def test_files_that_are_no_data_set(data):
    (data / "x.tar").write_bytes(b"x")
    with pytest.raises(DataError, match="neither a folder nor a zip"):
        open_source(str(data / "x.tar"), data)
    (data / "cifar10_64x64").mkdir()
    (data / "other_64x64").mkdir()
    with pytest.raises(DataError, match="other_64x64"):
        open_source("other", data)


@pytest.mark.parametrize(
    ("tr", "val", "sizes"),
    [
        ("both", None, (8, 3)),
        ("both", "both", (8, 3)),
        ("both/train", "both/val", (8, 3)),
        ("both/train", None, (8, 3)),
        ("both", "cv", (6, 2)),
        ("only", None, (27, 3)),
        ("only/train", "only", (27, 3)),
        ("only", "cv", (27, 3)),
        ("tested", None, (6, 2)),
        ("tested", "tested/test", (8, 2)),
        ("tested", "both", (8, 3)),
        ("only", "elsewhere/classes", (30, 4)),
        ("elsewhere/classes", None, (2, 2)),
        ("elsewhere/classes", "elsewhere/classes", (2, 2)),
    ],
)
def test_train_and_val(data, tr, val, sizes):
    a, b = train_val_sources(tr, val, data)
    assert (len(a), len(b)) == sizes
    assert not set(paths(a)) & set(paths(b))


def test_missing_val_of_another_set_is_an_error(data):
    with pytest.raises(DataError, match="no split val"):
        train_val_sources("both", "tested", data)
    with pytest.raises(DataError, match="no split val"):
        train_val_sources("only", "only/val", data)
    for fraction in (0, 1, -0.1, float("nan")):
        with pytest.raises(DataError, match="between 0 and 1"):
            train_val_sources("both", "cv", data, val_fraction=fraction)


def test_the_cut_is_stratified_whole_and_repeatable(data):
    full = open_source("only", data)
    train, val = cut(full, 0.2, 5)
    assert sorted(paths(train) + paths(val)) == sorted(paths(full))
    assert np.bincount(labels_of(val)).tolist() == [4, 2]
    assert paths(cut(full, 0.2, 5)[1]) == paths(val)
    assert paths(cut(full, 0.2, 6)[1]) != paths(val)


def test_cut_of_tiny_sets(tmp_path):
    make_set(tmp_path / "each", {"train": {"a": 1, "b": 1, "c": 1}})
    train, val = train_val_sources("each", "cv", tmp_path)
    assert (len(train), len(val)) == (2, 1)
    (tmp_path / "one").mkdir()
    (tmp_path / "one/x.png").write_bytes(encoded(1))
    with pytest.raises(DataError, match="nothing to validate on"):
        train_val_sources("one", "cv", tmp_path)


def test_known_sets_hang_together():
    for known in registry.KNOWN.values():
        assert bool(known.mirrors) != bool(known.base)
        assert (
            known.base is None
            or registry.fraction_of(known.base)[0] in registry.KNOWN
            or (known.base in registry.KNOWN)
        )


def test_a_name_that_no_disk_can_hold_names_nothing(data):
    assert registry.find("x" * 300, data).splits == ()
    with pytest.raises(DataError, match="no data set"):
        train_val_sources("both", "x" * 300, data)


def test_each_path_is_looked_at_once(data, monkeypatch):
    from data import readers

    looked = []

    def note(path):
        looked.append(path)

    monkeypatch.setattr(readers, "READERS", [note, *readers.READERS])
    train_val_sources("both", None, data)
    assert looked == [data / "both"]


def test_the_hint_has_the_sizes_that_were_asked_for(tmp_path):
    for spec in ("cifar10", "cifar10/train", "camnet3_deci", "tiny"):
        with pytest.raises(DataError, match="--sizes 8 24 96` or give"):
            open_source(spec, tmp_path, sizes=[8, 24, 24, 96])
        with pytest.raises(DataError, match="--sizes 48 96`"):
            train_val_sources(spec, None, tmp_path, sizes=[48, 96])
    with pytest.raises(DataError, match="no data set 'mine': neither a path"):
        open_source("mine", tmp_path, sizes=[8])
