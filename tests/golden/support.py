"""Reading golden vectors so that nothing in them is passed over in silence.

A system's tests list the files of `<golden-dir>/<system>`, each under a family known to them, read
arrays through `Vectors`, and end with `assert_all_used`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

# Files that may lie beside the vectors
DOCUMENTS = ("README*", "*.md", "*.txt", "SHA256SUMS*", "LICENSE*")

Check = Callable[["Vectors"], None]


class Vectors:
    """One .npz file; remembers which arrays were read."""

    def __init__(self, path: Path) -> None:
        self.name, self.path = path.stem, path
        with np.load(path, allow_pickle=False) as file:
            self._arrays = {key: file[key] for key in file.files}
        self._used: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._arrays

    def keys(self, pattern: str = "*") -> list[str]:
        """Names of the arrays that match, in file order; this does not count as reading them."""
        return [key for key in self._arrays if fnmatch(key, pattern)]

    def array(self, key: str) -> np.ndarray:
        if key not in self._arrays:
            raise AssertionError(f"{self.name}: array {key} is missing")
        self._used.add(key)
        return self._arrays[key]

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(np.array(self.array(key)))

    def number(self, key: str) -> float | int:
        return self.array(key).item()

    def json(self, key: str) -> Any:
        """A string array, or the text as uint8 bytes."""
        value = self.array(key)
        return json.loads(value.tobytes() if value.dtype == np.uint8 else value.item())

    def strings(self, key: str) -> list[str]:
        value = self.array(key)
        return value.item().split() if value.ndim == 0 else [str(v) for v in value]

    def tree(self, prefix: str) -> dict[str, Tensor]:
        """The arrays `prefix/...`, in file order, without the prefix."""
        start = prefix + "/"
        return {k[len(start) :]: self[k] for k in self._arrays if k.startswith(start)}

    def sibling(self, name: str) -> Vectors:
        """Another file of the same folder, for arrays that refer to it; what it has is not ours."""
        path = self.path.with_name(f"{name}.npz")
        assert path.is_file(), f"{self.name} refers to {path.name}, which is not beside it"
        return Vectors(path)

    def numbered(self, prefix: str) -> list[Tensor]:
        """prefix0, prefix1, ... as many as there are (at least one)."""
        found = []
        while f"{prefix}{len(found)}" in self:
            found.append(self[f"{prefix}{len(found)}"])
        assert found, f"{self.name}: no array {prefix}0"
        return found

    def assert_all_used(self) -> None:
        left = sorted(set(self._arrays) - self._used)
        assert not left, f"{self.name}: arrays that no test looked at: {left}"


def files_of(folder: Path) -> list[Path]:
    """The vector files of a system's folder, sorted; none if it is missing or empty."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if not any(fnmatch(p.name, d) for d in DOCUMENTS))


def vectors_of(metafunc: pytest.Metafunc, system: str) -> None:
    """`pytest_generate_tests` of a system: a test with an argument `path` runs for each file."""
    if "path" in metafunc.fixturenames:
        files = files_of(metafunc.config.getoption("--golden-dir") / system)
        metafunc.parametrize("path", files, ids=[p.name for p in files])


def check_file(path: Path, families: Mapping[str, Check]) -> None:
    """Run the check of the family that the name belongs to, and see that it read everything."""
    assert path.suffix == ".npz", f"{path.name} is no vector file (.npz) and no document"
    matching = [pattern for pattern in families if fnmatch(path.stem, pattern)]
    assert len(matching) == 1, (
        f"{path.name} belongs to {matching or 'no family'}; known: {', '.join(families)}"
    )
    vectors = Vectors(path)
    families[matching[0]](vectors)
    vectors.assert_all_used()


def assert_close(
    actual: Any, expected: Any, what: str, *, atol: float = 5e-6, rtol: float = 1e-4
) -> None:
    """numpy's assert_allclose with a name; shapes must be equal. Defaults: model outputs."""
    actual = actual.detach().cpu().numpy() if isinstance(actual, Tensor) else np.asarray(actual)
    expected = expected.numpy() if isinstance(expected, Tensor) else np.asarray(expected)
    assert actual.shape == expected.shape, f"{what}: {actual.shape} instead of {expected.shape}"
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol, err_msg=what)


def assert_rel(actual: Tensor | np.ndarray, expected: Tensor, what: str, rel: float) -> None:
    """Largest difference at most `rel` times the largest absolute value expected."""
    size = float(expected.abs().max())
    assert_close(actual, expected, what, rtol=0, atol=rel * (size or 1))
