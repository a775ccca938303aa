"""Files of torch.save, written whole; faults of their content in one line."""

import pytest
import torch

from storage.errors import CheckpointError
from storage.torchfile import reading, write_torch


def test_a_file_is_the_old_one_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "1.pt"
    write_torch(path, {"a": torch.ones(3)})
    (tmp_path / ".1.pt.tmp").write_bytes(b"what a kill left")

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
