"""All small files of a run's folder damaged or gone at once; and a run found by its W&B id."""

import json
import re

import pytest

from storage.errors import DataError
from tests.data.pictures import encoded
from tests.scripts.test_scratch import SCRIPTS, homes, launch, pictures, runs  # noqa: F401

SMALL = "args.json data.json inputs.json status.json launches.jsonl log.txt metrics.jsonl".split()


@pytest.mark.parametrize(
    ("name", "text"), [("train_edm2", None), *((name, '{"half') for name in SCRIPTS)]
)
def test_a_run_whose_small_files_are_damaged_goes_on(name, text, tmp_path, capsys):
    data, run = pictures(tmp_path / "mine"), tmp_path / "run"
    launch(name, data, "--outdir", run)
    kept = {file: json.loads((run / file).read_text()) for file in SMALL[:3]}
    for file in SMALL:
        (run / file).unlink() if text is None else (run / file).write_text(text)
    capsys.readouterr()
    launch(name, data, "--outdir", run)
    out = capsys.readouterr().out
    assert re.search(r"resumed step [1-9]", out)
    assert "restored from checkpoint" in out and "metrics.jsonl lacks" in out
    if text is not None:
        assert "data.json is damaged" in out and "inputs.json is damaged" in out
    now = {file: json.loads((run / file).read_text()) for file in SMALL[:3]}
    assert now["args.json"]["shaping"] == kept["args.json"]["shaping"]
    assert now["data.json"] == kept["data.json"] and now["inputs.json"] == kept["inputs.json"]
    # With the lists gone again, a set that has changed is still refused, by the checkpoint.
    for file in ("data.json", "data.txt.gz", "inputs.json"):
        (run / file).unlink()
    (data / "train" / "cat" / "new.png").write_bytes(encoded(0))
    with pytest.raises(DataError, match="has changed: 1. pictures before, 1. now"):
        launch(name, data, "--outdir", run)


def test_records_that_say_something_else_than_the_checkpoint(tmp_path, capsys):
    """Whole JSON, with a byte changed or of another run: what has a checksum is believed."""
    data, run = pictures(tmp_path / "mine"), tmp_path / "run"
    launch("train_edm2", data, "--outdir", run)
    for name in ("data.json", "inputs.json"):
        right = (run / name).read_text()
        digest = re.search(r'"digest": "(\w+)"', right)[1]
        for wrong in (right.replace(digest, "0" * 64), "{}", '{"data": {}}', right[:-9] + "}"):
            (run / name).write_text(wrong)
            capsys.readouterr()
            launch("train_edm2", data, "--outdir", run)
            out = capsys.readouterr().out
            assert "resumed step" in out and f"{name} is damaged" in out, wrong
            assert (run / name).read_text() == right


def test_uid_and_resume_of_the_original_code(tmp_path, capsys):
    name, words = "TrainGeneratorWandB", ("--uid", "abc123", "--outer_loops", 2)
    launch(name, "scenes", *words)
    (run,) = runs(tmp_path, name)
    assert (run / "wandb_id").read_text() == "abc123\n" and "abc123" in run.name
    capsys.readouterr()
    launch(name, "scenes", *words, "--resume", 1, "--job_id", 7)  # stands in names of other runs
    out = capsys.readouterr().out
    assert "resumed step 4" in out and f"going on with {run.name}, the run of --uid abc123" in out
    assert runs(tmp_path, name) == [run]
