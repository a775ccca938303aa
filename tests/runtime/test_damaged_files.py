"""Files of a run's folder that are damaged, cut or gone: what is said, and what goes on."""

import contextlib
import json
import os

import pytest

from recipes.runs.reading import Unreadable, read_run
from runtime import points
from storage.errors import CheckpointError, UsageError
from storage.files import remove
from tests import kill_harness as harness
from tests.runtime.runs import rewrite_meta
from tests.runtime.test_lookup import mark, train

pytestmark = pytest.mark.usefixtures("one_thread", "no_fsync")

DAMAGED = [None, "", "\0\0\0", '{"args": {', '{"script": "x"}']


@pytest.mark.parametrize("text", DAMAGED)
def test_args_json_is_restored_from_a_checkpoint(tmp_path, capsys, text):
    run = train(tmp_path)
    before = json.loads((run.dir / "args.json").read_text())
    harm(run.dir / "args.json", text)
    capsys.readouterr()
    again = train(tmp_path, "--loops", 4)
    out = capsys.readouterr().out
    assert again.dir == run.dir and again.completed == 8
    assert out.count("restored from checkpoint step-000000006") == 1
    now = json.loads((run.dir / "args.json").read_text())
    assert all(now[key] == before[key] for key in ("script", "shaping", "config_hash", "args"))


def test_args_json_of_another_run_or_with_a_byte_changed(tmp_path, capsys):
    run, other = train(tmp_path), train(tmp_path, "--lr", 0.2)
    file = run.dir / "args.json"
    right = file.read_text()
    for text in ((other.dir / "args.json").read_text(), right.replace('"lr": 0.1', '"lr": 0.7')):
        file.write_text(text)
        capsys.readouterr()
        assert train(tmp_path, "--outdir", run.dir).completed == 6
        out = capsys.readouterr().out
        assert "args.json is not what this run was made with: restored from checkpoint" in out
        assert json.loads(file.read_text())["shaping"] == json.loads(right)["shaping"]
    with pytest.raises(UsageError, match="--lr"):
        train(tmp_path, "--outdir", run.dir, "--lr", 0.7)


@pytest.mark.parametrize("text", DAMAGED)
def test_args_json_of_a_run_without_checkpoints(tmp_path, capsys, text):
    run = train(tmp_path)
    for path in (run.dir / "checkpoints").iterdir():
        path.rename(run.dir / path.name)
    harm(run.dir / "args.json", text)
    capsys.readouterr()
    assert train(tmp_path).completed == 6
    assert ("nothing was saved here: the run begins anew" in capsys.readouterr().out) == (
        text is not None
    )


@pytest.mark.parametrize(
    "name", ["launches.jsonl", "status.json", "log.txt", "lock", "wandb_id", "inputs.json"]
)
@pytest.mark.parametrize("text", [None, "", "[]\n5"])
def test_other_files_are_no_reason_to_stop(tmp_path, capsys, name, text):
    sets = {"mine": mark()}
    run = train(tmp_path, "--data", "mine", sets=sets)
    harm(run.dir / name, text)
    capsys.readouterr()
    again = train(tmp_path, "--data", "mine", "--loops", 4, sets=sets)
    assert again.dir == run.dir and again.completed == 8
    if name == "inputs.json":
        assert json.loads((run.dir / name).read_text())["data"]["digest"] == "d"
        assert ("inputs.json is damaged" in capsys.readouterr().out) == (text is not None)


def test_pipes_in_the_place_of_files_are_not_waited_for(tmp_path, capsys):
    run = train(tmp_path)
    names = ("args.json", "launches.jsonl", "status.json", "log.txt", "wandb_id", "metrics.jsonl")
    for name in names:
        harm(run.dir / name, None)
        os.mkfifo(run.dir / name)
    again = train(tmp_path, "--loops", 4)
    assert again.dir == run.dir and again.completed == 8
    assert {name for name in names if (run.dir / name).is_fifo()} <= {"wandb_id", "metrics.jsonl"}
    assert "metrics.jsonl: step 8 not written" in capsys.readouterr().err


def test_a_line_of_metrics_that_no_json_parser_takes(tmp_path):
    run = train(tmp_path)
    with open(run.dir / "metrics.jsonl", "a") as file:
        file.write("[" * 100_000 + "\n")
    assert train(tmp_path, "--loops", 4).completed == 8
    assert [line["step"] for line in harness.metrics(run.dir)][-2:] == [7, 8]


def test_checkpoints_on_a_disk_that_is_not_there(tmp_path):
    run = train(tmp_path)
    kept = (run.dir / "metrics.jsonl").read_bytes()
    (run.dir / "checkpoints").rename(tmp_path / "disk")
    (run.dir / "checkpoints").symlink_to(tmp_path / "not mounted")
    with pytest.raises(CheckpointError, match="a link that leads nowhere: bring the checkpoints"):
        train(tmp_path, "--loops", 4)
    assert (run.dir / "metrics.jsonl").read_bytes() == kept
    (tmp_path / "disk").rename(tmp_path / "not mounted")
    assert train(tmp_path, "--loops", 4).completed == 8


CUTS = {
    "half a line": (
        lambda lines: [*lines[:-1], lines[-1][:9]],
        "lacks 1 of 6 points",
        "after step 5",
    ),
    "the end": (lambda lines: lines[:2], "lacks 4 of 6 points", "those after step 2"),
    "the beginning": (lambda lines: lines[3:], "lacks 3 of 6 points", "from step 1 on"),
    "the middle": (lambda lines: lines[:2] + lines[4:], "lacks 2 of 6 points", "from step 3 on"),
    "everything": (lambda lines: [], "lacks 6 of 6 points", "none is left in it"),
    "the file": (None, "lacks 6 of 6 points", "the file is gone"),
}


@pytest.mark.parametrize("cut", CUTS)
def test_metrics_that_were_cut_are_told_at_resume(tmp_path, capsys, cut):
    run = train(tmp_path)
    file = run.dir / "metrics.jsonl"
    change, lacks, where = CUTS[cut]
    if change is None:
        file.unlink()
    else:
        file.write_text("\n".join(change(file.read_text().splitlines())))
    capsys.readouterr()
    train(tmp_path, "--loops", 4)
    out = capsys.readouterr().out
    assert f"metrics.jsonl {lacks} up to step 6 (" in out and where in out
    assert [line["step"] for line in harness.metrics(run.dir)][-2:] == [7, 8]
    train(tmp_path, "--loops", 5)  # said once: the next checkpoint counts what there is
    assert "lacks" not in capsys.readouterr().out


def test_whole_metrics_are_no_news(tmp_path, capsys):
    train(tmp_path)
    train(tmp_path, "--loops", 4)
    train(tmp_path, "--resume", 2)
    assert "metrics.jsonl" not in capsys.readouterr().out


def test_metrics_of_an_earlier_version_are_judged_by_their_end(tmp_path, capsys):
    run = train(tmp_path)
    for path in (run.dir / "checkpoints").iterdir():
        rewrite_meta(path, lambda meta: meta.pop("points"))
    train(tmp_path)
    assert "metrics.jsonl" not in capsys.readouterr().out
    file = run.dir / "metrics.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:3]))
    train(tmp_path)
    assert "metrics.jsonl lacks figures (those after step 3)" in capsys.readouterr().out


def test_points_of_a_file_that_is_not_there(tmp_path):
    assert points.count(tmp_path / "metrics.jsonl") == {"lines": 0, "last": 0}


def harm(file, text):
    if text is None:
        file.unlink(missing_ok=True)
    else:
        file.write_text(text, encoding="utf-8")


ODD = {
    "deep": "[" * 100_000,
    "a list": "[1, 2]",
    "a text": '"x"',
    "null": "null",
    "fields": '{"script": 3, "shaping": [], "args": 4, "state": [], "step": "x", "digest": {}}',
    "types": '{"script": "toy_example", "shaping": {}, "args": [], "inputs": 3, "config_hash": []}',
}


@pytest.mark.parametrize("name", ["args.json", "status.json", "inputs.json", "data.json", "lock"])
@pytest.mark.parametrize("text", ODD)
def test_side_files_of_any_shape_do_not_decide_a_run(tmp_path, name, text):
    run = train(tmp_path)
    (run.dir / name).write_text(ODD[text])
    with contextlib.suppress(Unreadable):
        read_run(run.dir)
    assert train(tmp_path, "--loops", 4).completed == 8


@pytest.mark.parametrize("name", ["launches.jsonl", "log.txt", "status.json", "wandb_id"])
def test_side_files_that_are_folders_or_lead_nowhere(tmp_path, name):
    run = train(tmp_path)
    harm(run.dir / name, None)
    (run.dir / name).mkdir()
    assert train(tmp_path, "--loops", 4).completed == 8
    read_run(run.dir).launches()
    remove(run.dir / name)
    (run.dir / name).symlink_to(tmp_path / "no" / "where")
    assert train(tmp_path, "--loops", 5).completed == 10
