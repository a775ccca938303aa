"""What a run's data sets and files are known by."""

import shutil

import pytest

from recipes.imle import parts
from recipes.known import of_views
from runtime.inputs import alike
from tests.data.pictures import make_set
from tests.scripts.support import TINY, get_args, load


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_HOME", str(tmp_path / "data"))
    return make_set(tmp_path / "mine", {"train": {"cat": 5}, "val": {"cat": 3}})


def known(*words):
    args = get_args(load("TrainGeneratorWandB"), [*TINY, *map(str, words)])
    return parts.inputs(args, *parts.sources(args))


def test_validation_pictures_of_their_own_are_known_too(data, tmp_path):
    there = shutil.copytree(data, tmp_path / "scratch" / "mine")
    here = known("--data", data, "--data_val", data / "val")
    elsewhere = known("--data", there, "--data_val", there / "val")
    assert list(here) == ["data_tr", "data_val"] and here == elsewhere
    assert (here["data_tr"]["pictures"], here["data_val"]["pictures"]) == (5, 3)
    assert list(known("--data", data, "--data_val", "cv")) == ["data_tr"]


def test_drawn_scenes_and_missing_networks_are_known_by_their_words(data):
    assert known("--data", "scenes", "--init_from", data / "gone.safetensors") == {}


def test_stored_views_are_known_by_their_notes(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "views-train.json").write_text("{}")
    one, two = (of_views(str(tmp_path / name)) for name in ("one", "two"))
    assert alike(one["cache"], two["cache"]) and of_views(None) == {}
    (tmp_path / "two" / "views-train.json").write_text("{ }")
    assert not alike(one["cache"], of_views(str(tmp_path / "two"))["cache"])
