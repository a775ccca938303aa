"""W&B offline over kills and resumes: the files of one id together hold every point once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import wandb_files

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import os, sys
from pathlib import Path
import torch
from runtime.tracker import Tracker
from storage.pictures import save_sheet
folder = Path(sys.argv[1])
for words in sys.argv[2:]:
    begin, end, how = words.split(":")
    begin, end = int(begin), int(end)
    t = Tracker(folder, "offline", config={"a": "\\udce9"}, resume_step=begin)
    assert t._run is not None
    for step in range(begin + 1, end + 1):
        t.log({"loss": step / 8, "bad": float("nan")}, step)
        t.log({"val/psnr": 20.0 + step}, step)
        if step % 5 == 0:
            path = folder / "samples" / f"grid-{step:09d}.png"
            path.parent.mkdir(exist_ok=True)
            t.image("grid", save_sheet(path, torch.zeros(1, 3, 4, 4), 1), step)
    if how == "kill":
        os.kill(os.getpid(), 9)
    t.finish(0)
"""


def launches(folder, *words):
    bare = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    env = bare | {"HOME": str(folder.parent), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), *words], env=env, capture_output=True, text=True
    )
    assert done.returncode in (0, -9), done.stderr


def rows(folder):
    """(W&B's number, the row) of all files of the run, in order."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for file in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        for _, record in wandb_files.records(file.read_bytes(), Record.FromString):
            row = {k: json.loads(v) for k, v in wandb_files._row(record).items()}
            if row:
                found.append((record.history.step.num, row))
    return found


def test_every_point_is_there_once_over_ends_and_kills(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    # Ends well at 10, goes on from 6; is killed at 12, with its points still in memory, and goes
    # on from 8, the last save.
    launches(folder, "0:10:ends", "6:12:kill")
    launches(folder, "8:14:ends")
    told = rows(folder)
    assert [(n, row["trainer/step"]) for n, row in told] == [(n, n) for n in range(1, 15)]
    assert all(row["loss"] == n / 8 and row["val/psnr"] == 20 + n for n, row in told)
    assert [n for n, row in told if "grid" in row] == [5, 10]


@pytest.mark.parametrize("cut", [0, 5, 7, 100, 40_000, 70_000])
def test_a_file_that_was_cut_anywhere_is_read_to_there(tmp_path, cut):
    from wandb.proto.wandb_internal_pb2 import Record

    whole = b":W&B" + bytes(3)
    wanted = []
    for step in range(1, 60):  # records over several blocks, some of them longer than one
        record = Record()
        record.history.step.num = step
        for key, value in (("trainer/step", step), ("text", "x" * (997 if step % 9 else 40_000))):
            record.history.item.add(key=key, value_json=json.dumps(value))
        whole += pieces(record.SerializeToString(), len(whole))
        wanted.append((len(whole), step))
    file = tmp_path / "offline-run-1-abc" / "run-abc.wandb"
    file.parent.mkdir()
    file.write_bytes(whole[:cut])
    found = wandb_files.held(tmp_path, "abc", 20, "trainer/step", Record.FromString)
    there = [step for end, step in wanted if end <= cut and step <= 20]
    assert sorted(found.names) == there and found.native == (there[-1] if there else -1)
    assert wandb_files.held(tmp_path, "abc", 20, "trainer/step", Record.FromString) == found
    file.write_bytes(whole)
    wandb_files.held(tmp_path, "abc", 20, "trainer/step", Record.FromString)
    assert file.read_bytes() == whole[: dict((s, e) for e, s in wanted)[20]]


def pieces(data, at):
    """A record as W&B writes it at byte `at`."""
    out, first = b"", True
    while True:
        left = (1 << 15) - (at + len(out)) % (1 << 15)
        if left < 7:
            out += bytes(left)
            continue
        part, data = data[: left - 7], data[left - 7 :]
        kind = (1 if first else 4) if not data else (2 if first else 3)
        out += wandb_files._PIECE.pack(0, len(part), kind) + part
        first = False
        if not data:
            return out


def test_a_file_that_was_synced_is_left_alone(tmp_path):
    from wandb.proto.wandb_internal_pb2 import Record

    record = Record()
    record.history.step.num = 9
    record.history.item.add(key="trainer/step", value_json="30")
    file = tmp_path / "offline-run-1-abc" / "run-abc.wandb"
    file.parent.mkdir()
    before = b":W&B" + bytes(3)
    before += pieces(record.SerializeToString(), len(before))
    file.write_bytes(before)
    file.with_name("run-abc.wandb.synced").touch()
    found = wandb_files.held(tmp_path, "abc", 20, "trainer/step", Record.FromString)
    assert found == wandb_files.Held({}, 9) and file.read_bytes() == before
