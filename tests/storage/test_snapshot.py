"""Snapshots: round trip, every damage seen, errors of one line."""

import random

import pytest
import torch

from storage.errors import CheckpointError, DiskError
from storage.snapshot import load_snapshot, save_snapshot, supersede
from tests.storage.states import equal


def weights():
    g = torch.Generator().manual_seed(0)
    shared = torch.randn(3, 3, generator=g)
    return {
        "w": torch.randn(4, 3, generator=g).t(),  # not contiguous
        "tied": shared,
        "tied_too": shared,
        "scalar": torch.tensor(3),
        "half": torch.randn(2, generator=g).bfloat16(),
        "flags": torch.tensor([True, False]),
        "none": torch.zeros(0, 4),
    }


def test_snapshot_round_trip(tmp_path):
    config = {"res": [16, 32], "name": "é", "lr": 1e-4, "none": None}
    path = save_snapshot(tmp_path / "s" / "a.safetensors", weights(), "camnet", config, {"g": 1})
    found = load_snapshot(path)
    assert found.kind == "camnet" and found.config == config and found.provenance == {"g": 1}
    assert equal(found.state_dict, weights())
    assert {k: v.dtype for k, v in found.state_dict.items()} == {
        k: v.dtype for k, v in weights().items()
    }
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]


def test_every_flipped_bit_of_a_snapshot_is_found(tmp_path):
    path = save_snapshot(tmp_path / "a.safetensors", weights(), "camnet", {"x": 1}, {"y": 2})
    good, rng = path.read_bytes(), random.Random(2)
    for _ in range(200):
        bad = bytearray(good)
        bad[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        try:
            found = load_snapshot(path)
        except CheckpointError as error:
            assert error.exit_code == 3 and "\n" not in str(error)
        else:  # padding of the header: nothing that is read has changed
            assert equal(found.state_dict, weights()) and found.config == {"x": 1}
    for part in (0, 0.3, 0.99):
        path.write_bytes(good[: int(len(good) * part)])
        with pytest.raises(CheckpointError):
            load_snapshot(path)


def test_snapshot_errors(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_snapshot(tmp_path / "none")
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="not a snapshot"):
        load_snapshot(tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="'n' is a int"):
        save_snapshot(tmp_path / "x", {"n": 3}, "k", {}, {})
    with pytest.raises(CheckpointError, match="config"):
        save_snapshot(tmp_path / "x", {}, "k", {"a": torch.zeros(1)}, {})
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError):
        save_snapshot(tmp_path / "file" / "x", {}, "k", {}, {})


def test_later_snapshots_are_set_aside(tmp_path):
    def there():
        return sorted(p.name for p in tmp_path.rglob("*.safetensors"))

    def write(name, origin, config=None):
        path = tmp_path / "snapshots" / f"{name}.safetensors"
        save_snapshot(path, {"w": torch.ones(2)}, "net", config or {}, origin)

    steps = {"0": 4, "1": 8, "network-latest": 9, "network-snapshot-0000099-0.100": 3}
    for name, step in {**steps, "generator-initial": 0}.items():
        write(name, {"step": step})
    write("phema-0000001-0.050", {}, {"step": 9})
    write("network-000000008", {})  # only its name tells
    (tmp_path / "snapshots" / "broken.safetensors").write_bytes(b"no")
    (tmp_path / "1.pt").write_bytes(b"")
    (tmp_path / "latest.pt").symlink_to("1.pt")
    said = []
    supersede(tmp_path, 4, said.append)
    assert there() == [
        "0.safetensors",
        "broken.safetensors",
        "generator-initial.safetensors",
        "network-snapshot-0000099-0.100.safetensors",
    ]
    assert len(said) == 1 and "network-latest" in said[0] and "*.superseded: 1, " in said[0]
    assert (tmp_path / "1.pt.superseded").exists() and not (tmp_path / "latest.pt").is_symlink()
    write("1", {"step": 8})
    supersede(tmp_path, -1, said.append)
    assert there() == ["generator-initial.safetensors"]
    assert (tmp_path / "snapshots" / "1.safetensors.superseded2").exists()
    supersede(tmp_path, -1, said.append)
    assert len(said) == 2
