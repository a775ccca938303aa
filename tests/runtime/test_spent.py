"""Waiting for data and validation are told apart, a second a step."""

import json

import pytest

from runtime import spent
from tests.runtime.runs import linear
from tests.runtime.toy import open_run, toy_args


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(spent.time, "monotonic", lambda: now[0])
    return now


def test_by_what_it_went_to(clock):
    found = spent.Spent()

    def batches():
        for k in range(3):
            clock[0] += k
            yield k

    @found.on("validation")
    def look(seconds):
        clock[0] += seconds

    for batch in found.waits(batches()):
        clock[0] += 10  # training
        look(batch)
    found.add("data", -1.0)  # what of it something else times
    assert found.pop(2) == {"time/data_s": 1.0, "time/validation_s": 1.5}
    assert found.pop(2) == {}
    with pytest.raises(KeyError), found.on("validation"):
        clock[0] += 4
        raise KeyError
    assert found.pop(4) == {"time/validation_s": 1.0}


def test_a_run_logs_it(tmp_path):
    with open_run(toy_args(tmp_path, total=4, log_every=2)) as run:
        net, _ = linear(run)
        run.spent.add("data", 50.0)  # before the loop: it is of the start
        batches = run.spent.waits(iter(range(9)))
        for step in run.steps(4):
            next(batches)
            run.log(loss=net.weight.sum().detach())
            if step == 1:
                run.spent.add("validation", 3.0)
    rows = [json.loads(line) for line in (run.dir / "metrics.jsonl").read_text().splitlines()]
    assert [0 <= row["time/data_s"] < 1 for row in rows] == [True, True]
    assert [row.get("time/validation_s") for row in rows] == [1.5, None]
