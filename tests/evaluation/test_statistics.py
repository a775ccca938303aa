"""Statistics as files: ours under any name, NVIDIA's pickles and others' .npz as data."""

import pickle

import numpy as np
import pytest
import torch

from evaluation.frechet import Moments
from evaluation.statistics import (
    distance_name,
    extractor_of,
    is_statistics,
    load_statistics,
    save_statistics,
)
from storage.errors import DataError


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_nvidias_code_are_read_as_data(protocol, tmp_path):
    rng = np.random.default_rng(0)
    square = rng.normal(size=(5, 5))
    said = dict(
        num_images=np.int64(50),
        fid=dict(mu=rng.normal(size=5), sigma=np.asfortranarray(square)),
        fd_dinov2=dict(mu=rng.normal(size=3).astype(">f8"), sigma=np.eye(3, dtype=np.float32)),
    )
    path = tmp_path / "img512.pkl"
    path.write_bytes(pickle.dumps(said, protocol=protocol))
    found = load_statistics(path)
    assert is_statistics(path) and found.moments["inception"].images == 50
    assert np.array_equal(found.moments["inception"].mean, said["fid"]["mu"])
    assert np.array_equal(found.moments["inception"].cov, square)
    assert np.array_equal(found.moments["dinov2"].mean, said["fd_dinov2"]["mu"])
    assert found.resize == {"inception": "tf1", "dinov2": "bicubic"}


def test_ours_under_any_name(tmp_path):
    moments = {
        "inception": Moments(torch.randn(4).double(), torch.eye(4).double(), 9),
        "random_dinov2": Moments(torch.randn(3).double(), torch.eye(3).double(), 9),
    }
    about = {"extractors": {"inception": {"resize": "clean"}}, "data": {"pictures": 9}}
    features = {"inception": torch.randn(9, 4)}
    path = save_statistics(tmp_path / "tiny.pkl", moments, about, features)
    found = load_statistics(path)
    assert is_statistics(path) and found.about["data"] == {"pictures": 9}
    assert found.resize == {"inception": "clean"}
    assert torch.equal(found.features["inception"], features["inception"])
    for name, m in moments.items():
        assert torch.equal(found.moments[name].mean, m.mean) and found.moments[name].images == 9


def test_an_npz_of_others_is_fid(tmp_path):
    np.savez(tmp_path / "x.npz", mu=np.zeros(3), sigma=np.eye(3))
    found = load_statistics(tmp_path / "x.npz")
    assert set(found.moments) == {"inception"} and found.resize == {}


class Evil:
    def __reduce__(self):
        return print, ("evil",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pickle.dumps({"fid": Evil()}), "refused: global builtins.print"),
        (pickle.dumps({"fid": {"mu": np.zeros(2), "sigma": np.eye(3)}}), "do not fit"),
        (pickle.dumps({"num_images": 3}), "no mu and sigma"),
        (pickle.dumps([1, 2]), "no dict"),
        (pickle.dumps({"fid": dict(mu=np.array(["a"]), sigma=np.eye(1))}), "not of numbers"),
        (b"PK\x03\x04", "."),
        (b"", "."),
    ],
)
def test_what_is_none_is_a_line(content, says, tmp_path, capsys):
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        load_statistics(path)
    assert "\n" not in str(caught.value) and "evil" not in capsys.readouterr().out


def test_names_of_distances():
    assert distance_name("inception") == "fid" and extractor_of("fid") == "inception"
    assert distance_name("random_inception") == "fd_random_inception"
    assert extractor_of("fd_dinov2") == "dinov2"
    with pytest.raises(ValueError, match="no Frechet distance"):
        extractor_of("kid")
