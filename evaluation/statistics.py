"""Reference statistics as files: moments of features for each extractor, and what they are of.

    save_statistics("tiny.pkl", Statistics({"inception": moments}, about={...}))   # an .npz
    load_statistics("img512.pkl").moments["dinov2"]                                # NVIDIA's pickle

Written as .npz whatever the name says. Read are these, any .npz with `mu` and `sigma`, and the
pickles of NVIDIA's code, as data: nothing in a file is executed.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from evaluation.frechet import Moments
from storage.errors import CheckpointError, DataError, first_line
from storage.files import open_plain, writing
from storage.foreign.arrays import read_arrays

FORMAT = "imle-lab-statistics"
_SPECIAL = {
    "inception": "fid"
}  # extractor -> the name of its distance, where it has one of its own
# How NVIDIA's pickled statistics were made: by the code of EDM2.
NVIDIA_RESIZE = {"inception": "tf1", "dinov2": "bicubic"}


_DAMAGE = (
    AttributeError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class Statistics(NamedTuple):
    """moments, features: by extractor; features float32 [N, d], of those that were kept.

    about: what they are of, JSON values; of files of others {"format": whose it is}. resize: policy
    by extractor, as far as it is known.
    """

    moments: dict[str, Moments]
    about: dict[str, Any]
    features: dict[str, Tensor]
    resize: dict[str, str]


def distance_name(extractor: str) -> str:
    """The Frechet distance on an extractor's features: "fid", "fd_dinov2", "fd_random_dinov2"."""
    return _SPECIAL.get(extractor, f"fd_{extractor}")


def extractor_of(distance: str) -> str:
    """Inverse of `distance_name`. Errors: ValueError."""
    for extractor, name in _SPECIAL.items():
        if distance == name:
            return extractor
    if not distance.startswith("fd_") or len(distance) < 4:
        raise ValueError(f"{distance!r} is no Frechet distance: fid, or fd_EXTRACTOR")
    return distance[3:]


def save_statistics(
    path: Path,
    moments: Mapping[str, Moments],
    about: Mapping[str, Any],
    features: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write statistics by extractor to an .npz file of any name, whole or not at all.

    Arrays as `evaluation.frechet.save_moments` has them (`mu` and `sigma` of fid, `fd_X.mean`,
    `.cov`, `.count`), `fd_X.features`, and `about`, JSON. Errors: ValueError, OSError.
    """
    path = Path(path)
    arrays: dict[str, np.ndarray] = {}
    for extractor, m in moments.items():
        key = distance_name(extractor)
        if "." in key:
            raise ValueError(f"{key!r} is no name of a distance")
        names = ("mu", "sigma") if key == "fid" else (f"{key}.mean", f"{key}.cov")
        arrays |= {names[0]: m.mean.numpy(), names[1]: m.cov.numpy()}
        if m.images is not None:
            arrays[f"{key}.count"] = np.asarray(m.images)
        if features and extractor in features:
            arrays[f"{key}.features"] = features[extractor].float().cpu().numpy()
    said = json.dumps({"format": FORMAT, **about})
    arrays["about"] = np.frombuffer(said.encode(), np.uint8)
    with writing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return path


def is_statistics(path: Path) -> bool:
    """Whether a file holds statistics rather than pictures, by what it begins with."""
    path = Path(path)
    if not path.is_file():
        return False
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            return bool(names) and all(name.endswith(".npy") and "/" not in name for name in names)
        with open_plain(path) as file:
            return file.read(1) == b"\x80"
    except (OSError, zipfile.BadZipFile):
        return False


def load_statistics(path: Path) -> Statistics:
    """Read ours, a foreign .npz (taken as fid), or a pickle of NVIDIA's code.

    Errors: DataError of one line.
    """
    path = Path(path)
    try:
        with open_plain(path) as file:
            zipped = zipfile.is_zipfile(file)
        return _from_npz(path) if zipped else _from_pickle(path)
    except OSError as error:
        raise DataError(f"statistics {path}: {error.strerror or error}") from error
    except CheckpointError as error:
        raise DataError(f"statistics: {error}") from None
    except _DAMAGE as error:
        raise DataError(f"statistics {path}: {first_line(error)}") from error


def _from_npz(path: Path) -> Statistics:
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    about: dict[str, Any] = {"format": "an .npz of others"}
    if "about" in arrays:
        about = json.loads(arrays.pop("about").tobytes())
        if about.get("format") != FORMAT:
            raise ValueError("not of a format that is known here")
    pairs = {key[:-5]: (key, f"{key[:-5]}.cov") for key in arrays if key.endswith(".mean")}
    if "mu" in arrays:
        pairs["fid"] = ("mu", "sigma")
    moments, features = {}, {}
    for key, (mean, cov) in sorted(pairs.items()):
        if cov not in arrays:
            raise ValueError(f"no {cov} in it")
        count = arrays.get(f"{key}.count")
        name = extractor_of(key)
        moments[name] = _moments(arrays[mean], arrays[cov], None if count is None else int(count))
        if f"{key}.features" in arrays:
            kept = arrays[f"{key}.features"]
            if kept.ndim != 2 or kept.shape[1] != len(arrays[mean]) or kept.dtype != np.float32:
                raise ValueError(f"features {kept.dtype} {kept.shape} of {key} do not fit")
            features[name] = torch.from_numpy(kept)
    if not moments:
        raise ValueError("no statistics in it")
    known = about.get("extractors", {})
    resize = {name: known[name]["resize"] for name in moments if name in known}
    return Statistics(moments, about, features, resize)


def _from_pickle(path: Path) -> Statistics:
    value = read_arrays(path)
    if not isinstance(value, dict):
        raise ValueError("not NVIDIA's statistics: no dict")
    count = value.get("num_images")
    images = int(count) if isinstance(count, (int, np.integer)) else None
    moments = {}
    for key, inner in value.items():
        if isinstance(inner, dict) and {"mu", "sigma"} <= inner.keys():
            moments[extractor_of(str(key))] = _moments(inner["mu"], inner["sigma"], images)
    if not moments:
        raise ValueError("not NVIDIA's statistics: no mu and sigma in it")
    resize = {name: NVIDIA_RESIZE[name] for name in moments if name in NVIDIA_RESIZE}
    return Statistics(moments, {"format": "a pickle of NVIDIA's code"}, {}, resize)


def _moments(mean: Any, cov: Any, count: int | None) -> Moments:
    for a in (mean, cov):
        if not isinstance(a, np.ndarray) or a.dtype.kind != "f":
            raise ValueError("a mean or covariance that is not made of floating-point numbers")
    if mean.ndim != 1 or not mean.size or cov.shape != (len(mean), len(mean)):
        raise ValueError(f"mean {mean.shape} and covariance {cov.shape} do not fit")
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise ValueError("values that are NaN or infinite")
    double = [torch.from_numpy(a.astype(np.float64)) for a in (mean, cov)]
    return Moments(double[0], double[1], count)
