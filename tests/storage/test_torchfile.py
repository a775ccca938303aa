"""Files of torch.save, written whole; faults of their content in one line."""

import pickle

import pytest
import torch

from storage.errors import CheckpointError
from storage.files import temporary
from storage.torchfile import load_foreign, load_torch, reading, write_torch
from tests.storage.states import Bomb, equal


def test_a_file_is_the_old_one_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "1.pt"
    write_torch(path, {"a": torch.ones(3)})
    temporary(path).write_bytes(b"what a kill left")

    def full(value, fh):
        fh.write(b"half of")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(torch, "save", full)
        write_torch(path, {"a": torch.zeros(3)})
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["1.pt"]
    write_torch(path, {"a": torch.zeros(3)})
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.zeros(3))


def test_faults_are_one_line_and_name_the_file(tmp_path):
    for error, says in (
        (TypeError("first\n\n  second"), "a.pt: first second"),
        (IndexError(), "a.pt: IndexError"),
        (CheckpointError("refused"), "a.pt: refused$"),
        (CheckpointError(f"in {tmp_path / 'a.pt'} x"), "^in .*a.pt x$"),
    ):
        with pytest.raises(CheckpointError, match=says) as caught, reading(tmp_path / "a.pt"):
            raise error
        assert "\n" not in str(caught.value)
    for error in (MemoryError, KeyboardInterrupt):  # no fault of the content
        with pytest.raises(error), reading(tmp_path / "a.pt"):
            raise error


# --- of other programs


def test_a_poisoned_file_is_refused_and_never_runs(tmp_path):
    marker = tmp_path / "executed"
    torch.save({"w": torch.zeros(1), "x": Bomb(marker)}, tmp_path / "a.pt")
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({"x": Bomb(marker)}))
    for name in ("a.pt", "b.pkl"):
        with pytest.raises(CheckpointError) as caught:
            load_foreign(tmp_path / name)
        assert caught.value.exit_code == 3
        assert str(caught.value) == f"refused: global posix.system in {tmp_path / name}"
    assert not marker.exists()


def test_whole_modules_of_others_are_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(CheckpointError, match="refused: global torch.nn.modules.linear.Linear"):
        load_foreign(tmp_path / "module.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_foreign_weights_load(tmp_path, zipped):
    state = {"a.w": torch.randn(3), "epoch": 4}
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert equal(load_foreign(tmp_path / "a.pth"), state)


@pytest.mark.parametrize("content", [b"", b"<html>quota</html>", b"PK\x03\x04rubbish", b"\x80\x02"])
def test_what_is_no_weights_file(tmp_path, content):
    for name in ("a.pt", "a.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            load_foreign(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="no such file"):
        load_foreign(tmp_path / "missing.pt")


def test_a_bare_tensor_is_no_dict_of_weights(tmp_path):
    torch.save(torch.zeros(2), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="holds a Tensor"):
        load_foreign(tmp_path / "a.pt")


@pytest.mark.parametrize("part", [0.5, 0.0])
def test_a_file_that_was_cut_off_is_one_line(part, tmp_path):
    file = tmp_path / "cut.pth"
    torch.save({"a": torch.zeros(300)}, file)
    data = file.read_bytes()
    size = int(part * len(data))
    file.write_bytes(data[:size])
    with pytest.raises(CheckpointError) as error:
        load_torch(file)
    wanted = f"cut off or damaged, {size} bytes are there: fetch or copy it again"
    assert str(error.value) == f"{file}: not a readable weights file ({wanted})"
