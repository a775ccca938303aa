"""Files that the originals' own code has written: `<golden-dir>/foreign`.

Beside NAME.pt lies NAME.npz with inputs of the network in it and what the original computed.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from generators.files import open_network
from generators.foreign.formats import identify
from imle import CAMNet
from storage.snapshot import load_snapshot, save_snapshot
from tests.golden.support import Vectors, assert_close, files_of

pytestmark = pytest.mark.golden


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "path" in metafunc.fixturenames:
        folder = metafunc.config.getoption("--golden-dir") / "foreign"
        files = [file for file in files_of(folder) if file.suffix != ".npz"]
        metafunc.parametrize("path", files, ids=[file.name for file in files])


def test_folder_has_files(golden_dir: Path):
    found = files_of(golden_dir / "foreign")
    assert found and {f.stem for f in found if f.suffix != ".npz"} == {f.stem for f in found}


def test_a_network_computes_what_the_original_did(path: Path, tmp_path: Path):
    assert path.name.startswith("cimle_"), f"{path.name} is of a family that no test knows"
    assert identify(path).format == "cimle"
    direct = open_network(path, lambda line: None)
    save_snapshot(tmp_path / "converted.safetensors", *direct)
    for snapshot in (direct, load_snapshot(tmp_path / "converted.safetensors")):
        net = CAMNet(**snapshot.config["net"])
        net.load_state_dict(snapshot.state_dict)
        vectors = Vectors(path.with_suffix(".npz"))
        images = net.eval()(vectors["x"], vectors.numbered("code"))
        for i, (image, expected) in enumerate(zip(images, vectors.numbered("out"), strict=True)):
            assert_close(image, expected, f"{path.name}: out{i}", atol=5e-6, rtol=1e-4)
        vectors.assert_all_used()
    assert direct.provenance["outer_loop"] >= 0
    assert all(torch.isfinite(v).all() for v in direct.state_dict.values())
