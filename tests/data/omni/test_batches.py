"""Samples and batches of four domains."""

import json

import numpy as np
import pytest
import torch

from data.omni import (
    DOMAINS,
    NO_CLASS,
    DomainSamples,
    Reading,
    depth_of,
    make_loaders,
    multi_batches,
    open_samples,
)
from data.omni.transforms import read_steps
from data.process_data import main
from data.scenes import Scenes
from storage.errors import DataError
from tests.data.omni.folders import make_folder

STEPS = read_steps([{"name": "hflip"}, {"name": "resize", "new_size": 16}])


@pytest.fixture
def listed(tmp_path):
    main(["--path", str(make_folder(tmp_path / "set"))])
    return str(tmp_path / "set/data.json")


def _samples(word, domain, mode="train", **more):
    return DomainSamples(open_samples(word, domain, mode, **more), domain, mode, STEPS)


def test_tensors_have_the_ranges_they_should(listed):
    item = _samples(listed, "sn")[2]
    assert item.x.dtype == torch.float32 and item.x.shape == (3, 16, 16)
    assert torch.allclose(item.x[2], torch.tensor(80 / 127.5 - 1))  # blue is 40 * 2
    assert item.maps["s"].dtype == torch.int64 and item.maps["s"].unique().tolist() == [0, 1]
    assert item.maps["d"].shape == (1, 16, 16)
    assert torch.allclose(item.maps["d"], torch.tensor((1 / 12 - 1 / 255) * 3))
    assert torch.allclose(depth_of(item.maps["d"]), torch.tensor(12.0))
    assert item.maps["h"][0, 0, 0] == 0 and item.maps["h"][0, -1, 0] == 1
    assert item.paths["d"].endswith("Depth/a2.png")


def test_units_and_choice_of_maps(listed):
    item = _samples(listed, "sn", keep=["d"], depth_unit=0.5)[2]
    assert list(item.maps) == ["d"]
    assert torch.allclose(depth_of(item.maps["d"]), torch.tensor(6.0))


def test_maps_of_another_resolution_fit_their_picture(listed, tmp_path):
    np.save(tmp_path / "set/Segmentation/a0.npy", np.zeros((10, 10), int))
    with pytest.raises(DataError, match="do not cover the same view"):
        _samples(listed, "sn")[0]
    np.save(tmp_path / "set/Segmentation/a0.npy", np.tile([0] * 7 + [1] * 8, (10, 1)))
    assert _samples(listed, "sn")[0].maps["s"].shape == (16, 16)


def test_a_batch_says_which_maps_are_there(listed):
    loaders = make_loaders({"val": {"sn": _samples(listed, "sn", "val")}}, 4)
    batches = list(loaders.val.sn)
    assert [len(b.domain) for b in batches] == [4, 2] and len(loaders.val.sn) == 2
    first, last = batches
    assert first["data"]["x"] is first.data.x and first["mode"] == ["val"] * 4
    assert "w" not in last.data and list(last.data) == ["x", "d", "h", "s"]
    assert last.present.h.tolist() == [True, False] and last.present.s.all()
    assert (last.data.h[1] == 0).all() and last.paths.h[1] is None
    with pytest.raises(AttributeError, match="no key 'y'; there are x, d, h, s"):
        last.data.y  # noqa: B018


def test_a_missing_segmentation_is_of_no_class(listed, tmp_path):
    entries = json.loads((tmp_path / "set/data.json").read_text())
    del entries[0]["s"]
    (tmp_path / "set/data.json").write_text(json.dumps(entries))
    batch = next(iter(make_loaders({"val": {"rf": _samples(listed, "rf", "val")}}, 3).val.rf))
    assert (batch.data.s[0] == NO_CLASS).all() and batch.present.s.tolist() == [False, True, True]


def test_scenes_fill_four_domains_and_share_none():
    train = {d: _samples("scenes:8", d, keep=["s", "w"]) for d in DOMAINS}
    batches = next(multi_batches(make_loaders({"train": train}, 2).train))
    assert list(batches) == list(DOMAINS)
    for domain, batch in batches.items():
        assert batch.data.x.shape == (2, 3, 16, 16) and batch.domain == [domain] * 2
        assert list(batch.present) == ["s", "w"]
        assert batch.data.s.max() < 19 and batch.data.w.unique().tolist() in ([0, 1], [0], [1])
    flooded, dry = (torch.stack([train[d][i].maps["w"] for i in range(8)]) for d in ("rf", "rn"))
    assert flooded.mean() > dry.mean() + 0.1
    # the style of a domain, and no scene in two of them
    one = Scenes("train", 8, 2, "sim", True).image(3, 16).transpose(2, 0, 1).copy()
    assert torch.allclose(train["sf"][3].x, torch.from_numpy(one).float() / 127.5 - 1)
    heights = [train[d].samples.scenes.render(0, 8).height for d in DOMAINS]
    assert not np.array_equal(heights[0], heights[1])


def test_shorter_domains_begin_again_and_go_on_where_they_were(listed):
    def make():
        train = {"rf": _samples(listed, "rf"), "sn": _samples("scenes:4", "sn", keep=[])}
        return make_loaders({"train": train}, 3, Reading(5))

    loaders = make()
    assert loaders.epoch == 2
    stream = multi_batches(loaders.train)
    seen = [next(stream) for _ in range(7)]
    assert sorted(p for b in seen[:2] for p in b["rf"].paths.x) == sorted(
        p["x"] for p in loaders.train.rf.samples.samples.samples
    )  # a pass has every sample once
    state = loaders.state_dict()
    assert state["sn"]["drawn"] == 21
    ahead = [next(stream) for _ in range(3)]
    again = make()
    again.load_state_dict(state)
    for old, new in zip(ahead, multi_batches(again.train), strict=False):
        for domain in old:
            assert old[domain].paths == new[domain].paths
            assert torch.equal(old[domain].data.x, new[domain].data.x)


def test_state_of_other_data_is_refused(listed):
    loaders = make_loaders({"train": {"rf": _samples(listed, "rf")}}, 2)
    state = loaders.state_dict()
    with pytest.raises(DataError, match=r"trained on \['sn'\] before"):
        loaders.load_state_dict({"sn": state["rf"]})
    other = make_loaders({"train": {"rf": _samples("scenes:9", "rf")}}, 2)
    with pytest.raises(DataError, match="6 pictures before, 9"):
        other.load_state_dict(state)


def test_names_tell_whether_data_changed(listed):
    loaders = make_loaders(
        {"train": {"rf": _samples(listed, "rf"), "sn": _samples("scenes:4", "sn")}}, 2
    )
    assert list(loaders.listing().used) == [f"rf/a{i}.png" for i in range(6)]
    assert make_loaders({"train": {"sn": _samples("scenes:4", "sn")}}, 2).listing() is None


def test_pictures_of_several_sizes_are_a_line(listed, tmp_path):
    from PIL import Image

    Image.new("RGB", (10, 10)).save(tmp_path / "set/Data/a5.png")
    samples = DomainSamples(open_samples(listed, "rf", "val", keep=[]), "rf", "val", [])
    with pytest.raises(DataError, match="of rf are 10x10 and 20x30: end the transforms with"):
        list(make_loaders({"val": {"rf": samples}}, 6).val.rf)
    samples = DomainSamples(samples.samples, "rf", "val", [], multiple=4)
    with pytest.raises(DataError, match=r"a0.png is 20x30 behind the transforms of val: .* of 4"):
        samples[0]


@pytest.mark.parametrize("word, says", [("scenes:x", "scenes:COUNT"), ("l.txt", "is a .json")])
def test_a_wrong_word_is_a_line(word, says):
    with pytest.raises(DataError, match=says):
        open_samples(word, "rf", "train")
