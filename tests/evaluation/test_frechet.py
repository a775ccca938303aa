"""Frechet distance against scipy's matrix square root, streaming statistics, safe files."""

import io
import pickle

import numpy as np
import pytest
import torch

from evaluation.frechet import (
    FeatureStats,
    Moments,
    fd_ratio,
    frechet_distance,
    load_moments,
    save_moments,
)
from runtime import distributed
from tests import gloo


def features(n, dim=12, seed=0):
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=g, dtype=torch.float64)
    return torch.randn(n, dim, generator=g, dtype=torch.float64) @ mix + seed


def stats_of(x):
    stats = FeatureStats(x.shape[1])
    stats.update(x)
    return stats


def test_moments_are_numpys():
    x = features(50)
    found = stats_of(x).moments()
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.cov, np.cov(x.numpy(), rowvar=False), rtol=1e-9, atol=1e-12)
    assert found.images == 50 and torch.equal(found.cov, found.cov.T)


def test_batches_merging_and_state_change_nothing():
    x = features(50)
    whole = stats_of(x).moments()
    parts = FeatureStats(12)
    for part in x[:30].split(7):
        parts.update(part)
    again = FeatureStats(12)
    again.load_state_dict(torch.load(saved(parts.state_dict()), weights_only=True))
    again.merge(stats_of(x[30:]))
    for a, b in zip(again.moments()[:2], whole[:2], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    assert again.count == 50


def saved(state):
    out = io.BytesIO()
    torch.save(state, out)
    out.seek(0)
    return out


def test_half_precision_features_are_summed_wide():
    x = (features(5000) / 50 + 3).half()
    found = stats_of(x).moments()
    np.testing.assert_allclose(found.mean, x.double().mean(0), rtol=1e-12)


def on_a_rank():
    stats = stats_of(features(40)[10 * distributed.rank() : 10 * distributed.rank() + 10])
    if distributed.rank() == 1:
        stats.update(features(40)[20:])  # ranks may have seen unequal numbers
    stats.reduce()
    return [m.tolist() for m in stats.moments()[:2]], stats.count


def test_ranks_together_are_one():
    whole = stats_of(features(40)).moments()
    for (mean, cov), count in gloo.run(2, on_a_rank):
        assert count == 40
        np.testing.assert_allclose(mean, whole.mean, rtol=1e-10)
        np.testing.assert_allclose(cov, whole.cov, rtol=1e-9, atol=1e-12)
    alone = stats_of(features(40))
    alone.reduce()
    assert torch.equal(alone.moments().cov, whole.cov)


def oracle(a, b):
    linalg = pytest.importorskip("scipy.linalg")
    root = linalg.sqrtm(a.cov.numpy() @ b.cov.numpy())
    gap = ((a.mean - b.mean) ** 2).sum()
    return float(gap + np.trace(a.cov.numpy() + b.cov.numpy() - 2 * np.real(root)))


@pytest.mark.parametrize("dim", [1, 2, 12, 100])
def test_distance_is_that_of_the_matrix_square_root(dim):
    a, b = (stats_of(features(3 * dim + 2, dim, seed)).moments() for seed in (0, 1))
    assert frechet_distance(a, b) == pytest.approx(oracle(a, b), rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_distance_is_torch_fidelitys():
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    a, b = features(150, 40), features(90, 40, 1)
    theirs = [fid_features_to_statistics(x) for x in (a, b)]
    oracle = fid_statistics_to_metric(*theirs, verbose=False)["frechet_inception_distance"]
    found = frechet_distance(stats_of(a).moments(), stats_of(b).moments())
    assert found == pytest.approx(oracle, rel=1e-9)


def test_ratio_to_real_images():
    real, drawn, other = (
        {name: stats_of(features(60, dim, seed)).moments() for name, dim in (("x", 4), ("y", 9))}
        for seed in (0, 1, 2)
    )
    found = fd_ratio(drawn, other, real)
    each = {
        name: frechet_distance(drawn[name], real[name]) / frechet_distance(other[name], real[name])
        for name in ("x", "y")
    }
    assert found.each == each and found.mean == pytest.approx((each["x"] + each["y"]) / 2)
    assert fd_ratio(other, other, real).mean == 1
    few = {"x": stats_of(features(30, 4, 1)).moments(), "y": drawn["y"]}
    for call, says in (
        (lambda: fd_ratio(few, other, real), "x: 30 samples against 60"),
        (lambda: fd_ratio(drawn, real, real), "distance 0"),
        (lambda: fd_ratio({"x": drawn["x"]}, other, real), "differ"),
    ):
        with pytest.raises(ValueError, match=says):
            call()


def test_closed_forms():
    eye = torch.eye(3, dtype=torch.float64)
    zero = torch.zeros(3, dtype=torch.float64)
    a = Moments(zero, 4 * eye)
    assert frechet_distance(a, a) == 0
    assert frechet_distance(a, Moments(zero + 2, 9 * eye)) == pytest.approx(12 + 3)  # (2-3)^2 each
    commuting = Moments(zero, torch.diag(torch.tensor([1.0, 4.0, 0.0], dtype=torch.float64)))
    assert frechet_distance(a, commuting) == pytest.approx(1 + 0 + 4)


def test_fewer_images_than_dimensions():
    # Singular covariances, where sqrtm of the product is known to fail; b is a rotated by 90
    # degrees in planes orthogonal to a's span or in it, so that the truth is known.
    x = torch.zeros(6, 40, dtype=torch.float64)
    x[:, :5] = features(6, 5)
    y = torch.zeros_like(x)
    y[:, 20:25] = x[:, :5]
    a, b = stats_of(x).moments(), stats_of(y).moments()
    gap = (a.mean - b.mean).square().sum().item()
    apart = gap + 2 * a.cov.trace().item()  # orthogonal supports: the root vanishes
    assert frechet_distance(a, b) == pytest.approx(apart, rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_wrong_shapes_and_values():
    a, b = (stats_of(features(30, dim)).moments() for dim in (3, 4))
    with pytest.raises(ValueError, match="do not fit"):
        frechet_distance(a, b)
    with pytest.raises(ValueError, match="NaN"):
        frechet_distance(a, Moments(a.mean * torch.nan, a.cov))
    with pytest.raises(ValueError, match=r"\[5, 4\]"):
        FeatureStats(3).update(torch.zeros(5, 4))
    with pytest.raises(ValueError, match="1 images"):
        stats_of(features(1)).moments()
    with pytest.raises(ValueError, match="3 and 4"):
        FeatureStats(3).merge(FeatureStats(4))
    bad = stats_of(torch.full((3, 2), torch.inf))
    with pytest.raises(ValueError, match="NaN or infinite"):
        bad.moments()


# ------------------------------------------------------------------------------------------- files


def test_files_round_trip(tmp_path):
    moments = {
        "fid": stats_of(features(30)).moments(),
        "fd_dinov2": stats_of(features(30, 5)).moments()._replace(images=None),
    }
    path = save_moments(tmp_path / "ref.npz", moments)
    found = load_moments(path)
    assert found.keys() == moments.keys()
    for name, m in moments.items():
        assert torch.equal(found[name].mean, m.mean) and torch.equal(found[name].cov, m.cov)
        assert found[name].images == m.images
    with np.load(path, allow_pickle=False) as file:  # the names that other tools know
        assert np.array_equal(file["mu"], moments["fid"].mean)
        assert np.array_equal(file["sigma"], moments["fid"].cov)
    assert [p.name for p in tmp_path.iterdir()] == ["ref.npz"]


def test_foreign_statistics(tmp_path):
    x = features(30).numpy().astype(np.float32)
    np.savez(tmp_path / "a.npz", mu=x.mean(0), sigma=np.cov(x, rowvar=False))
    found = load_moments(tmp_path / "a.npz")["fid"]
    assert found.images is None and found.mean.dtype == torch.float64


class Payload:
    def __reduce__(self):
        return print, ("executed",)


def test_bad_files_are_one_line_and_nothing_runs(tmp_path, capsys):
    def write(name, **arrays):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Payload()))
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Payload()))
    cut = save_moments(tmp_path / "c.npz", {"fid": stats_of(features(30)).moments()})
    cut.write_bytes(cut.read_bytes()[:-200])
    flipped = save_moments(tmp_path / "f.npz", {"fid": stats_of(features(30)).moments()})
    data = bytearray(flipped.read_bytes())
    data[400] ^= 1
    flipped.write_bytes(bytes(data))
    mu, sigma = np.zeros(3), np.eye(3)
    for path, says in [
        (tmp_path / "a.pkl", "not an .npz"),
        (tmp_path / "b.npz", "not an .npz"),
        (cut, "not an .npz"),
        (flipped, "CRC"),
        (tmp_path / "none.npz", "No such file"),
        (tmp_path, "Is a directory"),
        (write("d.npz", mu=np.array([Payload()]), sigma=sigma), "pickle"),
        (write("e.npz", x=mu), "no statistics"),
        (write("g.npz", mu=mu), "sigma"),
        (write("h.npz", mu=mu, sigma=np.eye(4)), "do not fit"),
        (write("i.npz", mu=mu * np.nan, sigma=sigma), "NaN"),
        (write("j.npz", mu=np.array(["a"] * 3), sigma=sigma), "type"),
        (write("k.npz", **{"m.mean": mu, "m.cov": sigma, "m.count": mu}), "k.npz"),
    ]:
        with pytest.raises(ValueError, match=says) as error:
            load_moments(path)
        assert "\n" not in str(error.value) and path.name in str(error.value)
    assert "executed" not in capsys.readouterr().out


def test_wrong_names(tmp_path):
    moments = stats_of(features(30)).moments()
    with pytest.raises(ValueError, match=".npz"):
        save_moments(tmp_path / "a.pkl", {"fid": moments})
    with pytest.raises(ValueError, match="'a.b'"):
        save_moments(tmp_path / "a.npz", {"a.b": moments})
    assert not list(tmp_path.iterdir())
