"""Numbers of large tensors stay in the file of a pickle until they are wanted."""

from __future__ import annotations

import io
import os
import pickle
import random
import re

import pytest
import torch

from storage.foreign import modules
from storage.foreign.modules import StoredTensor, read_modules
from storage.foreign.pickles import Inert, PickleError, Span, read_pickle

NONE = re.compile("(?!)")


class _Legacy:
    """Pickles a tensor as NVIDIA's files have them: a storage in torch.save's old format."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        storage = io.BytesIO()
        torch.save(
            torch.storage.TypedStorage(
                wrap_storage=self.tensor.untyped_storage(), dtype=self.tensor.dtype, _internal=True
            ),
            storage,
            _use_new_zipfile_serialization=False,
        )
        made = Raw(torch.storage._load_from_bytes, storage.getvalue())
        size, stride = tuple(self.tensor.size()), tuple(self.tensor.stride())
        offset = self.tensor.storage_offset()
        return torch._utils._rebuild_tensor_v2, (made, offset, size, stride, False, {})


class Raw:
    """Pickles as a call of a function with bytes."""

    def __init__(self, function, data):
        self.function, self.data = function, data

    def __reduce__(self):
        return self.function, (self.data,)


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 30, generator=generator)
    return {
        "half": x.half(), "float": x, "double": x.double(), "bfloat16": x.bfloat16(),
        "int64": (x * 100).long(), "bool": x > 0, "transposed": x.t(), "row": x[7],
        "column": x[:, 3], "sparse": x[::13, ::7], "scalar": x[3, 4], "empty": x[:0],
        "expanded": x[:1].expand(5, 30), "overlapping": x.flatten().as_strided((50, 8), (2, 1)),
    }  # fmt: skip


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "x.pkl"
    values = {name: _Legacy(tensor) for name, tensor in tensors().items()}
    path.write_bytes(pickle.dumps(values, protocol=4))
    return path


@pytest.mark.parametrize("least", [1, 256, 1 << 30])
def test_values_are_those_of_the_file(file, monkeypatch, least):
    monkeypatch.setattr(modules, "_UNREAD", least)
    found = read_modules(file, NONE)
    for name, expected in tensors().items():
        tensor = found[name]
        assert isinstance(tensor, StoredTensor), name
        for _ in range(2):
            made = tensor.make()
            assert made.dtype == torch.float32 and made.is_contiguous(), name
            assert torch.equal(made, expected.float()), name
            made.add_(1)  # of its own memory


def test_nothing_is_read_twice_and_nothing_kept(file, monkeypatch):
    monkeypatch.setattr(modules, "_UNREAD", 256)
    read, whole = [], modules.Whole.read
    monkeypatch.setattr(
        modules.Whole, "read", lambda self, at, n: read.append(n) or whole(self, at, n)
    )
    dense = ("half", "float", "double", "bfloat16", "int64", "transposed")
    found = read_modules(file, NONE)
    headers = len(read)
    for name in dense:
        found[name].make()
        assert found[name].storage._data is None
    numbers = sum(t.numel() * t.element_size() for k, t in tensors().items() if k in dense)
    assert sum(read[headers:]) == numbers
    for _ in range(3):  # with gaps: all of the storage, once
        found["sparse"].make()
    assert sum(read[headers:]) == numbers + 40 * 30 * 4


@pytest.mark.parametrize("how", ["replaced", "longer", "shorter", "gone"])
def test_a_file_that_changes_meanwhile_is_told(file, monkeypatch, how):
    monkeypatch.setattr(modules, "_UNREAD", 256)
    found, data = read_modules(file, NONE), file.read_bytes()
    if how == "replaced":
        (file.parent / "y").write_bytes(data)
        os.replace(file.parent / "y", file)
    elif how == "gone":
        file.unlink()
    else:
        file.write_bytes(data + b"x" if how == "longer" else data[:2000])
    with pytest.raises((PickleError, FileNotFoundError)):
        found["float"].make()


def test_what_is_not_read_is_no_string_and_no_arguments(tmp_path):
    path = tmp_path / "x.pkl"
    long = b"y" * 1000

    def load(value, **options):
        path.write_bytes(pickle.dumps(value, protocol=4))
        with open(path, "rb") as file:
            return read_pickle(file, allowed=lambda name: True, call=Inert, unread=100, **options)

    value = load({"a": long, "b": b"short", "c": long.decode()})
    assert isinstance(value["a"], Span) and len(value["a"]) == 1000
    with open(path, "rb") as file:
        file.seek(value["a"].offset)
        assert file.read(1000) == long
    assert value["b"] == b"short" and value["c"] == long.decode()
    with pytest.raises(PickleError, match="no plain value"):
        load({long: 1})
    path.write_bytes(b"\x80\x04cos\nsystem\nB" + (1000).to_bytes(4, "little") + long + b"R.")
    with open(path, "rb") as file, pytest.raises(PickleError, match="calls what is no name"):
        read_pickle(file, allowed=lambda name: True, call=Inert, unread=100)
    path.write_bytes(b"\x80\x04\x8e" + (1 << 62).to_bytes(8, "little") + long + b".")
    with open(path, "rb") as file, pytest.raises(PickleError, match="the file ends before"):
        read_pickle(file, allowed=lambda name: True, call=Inert, unread=100)


def test_damaged_files_are_errors_of_one_kind(file, monkeypatch):
    """Bits turned and ends cut off: read as something, or refused; nothing else."""
    monkeypatch.setattr(modules, "_UNREAD", 64)
    good, rng = file.read_bytes(), random.Random(0)
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        file.write_bytes(data)
        try:
            found = read_modules(file, NONE)
            for value in found.values() if isinstance(found, dict) else ():
                if isinstance(value, StoredTensor) and value.numel() < 1 << 20:
                    value.make()
        except PickleError:
            pass
