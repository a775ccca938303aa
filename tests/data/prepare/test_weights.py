import hashlib

import pytest

from data.prepare import weights
from data.SetupDataset import main
from storage.errors import DataError


def test_fetch_from_a_mirror_by_hash(tmp_path, monkeypatch, capsys):
    data = b"weights" * 100
    digest = hashlib.sha256(data).hexdigest()[:8]
    name = f"vgg16-{digest}.pth"
    monkeypatch.setitem(weights.LPIPS_BACKBONES, "vgg", name)
    monkeypatch.setattr(weights, "PYTORCH", "http://127.0.0.1:9/")
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / name).write_bytes(b"<html>sign in</html>")
    command = ["fetch-weights", "--models_path", str(tmp_path / "m"), "--mirror", mirror.as_uri()]
    assert main(command) == 6
    said = capsys.readouterr().err
    file = tmp_path / "m/hub/checkpoints" / name
    assert said.count("\n") == 1 and said.endswith(f"Place the file at {file}\n")
    (mirror / name).write_bytes(data)
    assert main(command) == 0 and file.read_bytes() == data
    (mirror / name).unlink()
    assert main(command) == 0  # there already


def test_unknown_net(tmp_path):
    with pytest.raises(DataError, match="there are vgg, alex, squeeze"):
        weights.fetch_weights(tmp_path, ["resnet"])


def test_an_encoder_is_known_by_its_first_copy(tmp_path, monkeypatch, capsys):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    row = weights.ENCODERS["deeplabv2"]
    (mirror / row.file).write_bytes(b"PK" + bytes(90))
    command = ["fetch-weights", "--nets", "deeplabv2", "--models_path", str(tmp_path / "m"),
               "--mirror", mirror.as_uri()]  # fmt: skip
    assert main(command) == 0
    file = weights.encoder_file(tmp_path / "m", "deeplabv2")
    assert file.read_bytes() == (mirror / row.file).read_bytes()
    file.write_bytes(b"PK" + bytes(91))
    assert main(command) == 6 and "is there but" in capsys.readouterr().err


def test_an_extractor_has_its_own_place_and_digest(tmp_path, monkeypatch, capsys):
    data = b"DINOv2" * 50
    own = tmp_path / "meta"
    own.mkdir()
    row = weights.EXTRACTORS["dinov2"]._replace(
        folder=own.as_uri(), sha256=hashlib.sha256(data).hexdigest()
    )
    monkeypatch.setitem(weights.EXTRACTORS, "dinov2", row)
    command = ["fetch-weights", "--nets", "dinov2", "--models_path", str(tmp_path / "m")]
    (own / row.file).write_bytes(data[1:])
    assert main(command) == 6 and "sha256" in capsys.readouterr().err
    (own / row.file).write_bytes(data)
    assert main(command) == 0
    assert weights.extractor_file(tmp_path / "m", "dinov2").read_bytes() == data
