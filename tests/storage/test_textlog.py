"""The text log of figures."""

import pytest

from storage.errors import UsageError
from storage.textlog import TextLog, read_figures


def test_figures_come_back(tmp_path):
    log = TextLog(tmp_path / "deep" / "log.txt")
    log.figures(3, {"Loss": 0.25, "Time [min]": 1e-5})
    log.figures(4, {"Loss": float("nan")})
    found = read_figures(log.path)
    assert found["Time [min]"] == {3: 1e-5}
    assert found["Loss"][3] == 0.25 and found["Loss"][4] != found["Loss"][4]


def test_other_forms_of_lines(tmp_path):
    """Substring and last number, as the originals' scripts look for them."""
    path = tmp_path / "log.txt"
    path.write_text(
        "2026-01-01 10:00 | INFO     | Average Loss = 0.5\n"
        "2026-01-01 10:00 | INFO     | Iteration: 7\n"
        "2026-01-01 10:00 | INFO     | Average Loss 1.5e-03\n"
        "2026-01-01 10:00 | WARNING  | Selection has been deactivated\n\n"
    )
    assert read_figures(path) == {"Average Loss": {0: 0.5, 7: 1.5e-3}}


def test_a_resumed_run_forgets_what_came_later(tmp_path):
    log = TextLog(tmp_path / "log.txt")
    log.begin("a", 0)
    for step in (1, 2, 3):
        log.figures(step, {"Loss": step})
    log.begin("a", 2)
    assert read_figures(log.path)["Loss"] == {1: 1, 2: 2}
    log.figures(3, {"Loss": 30})
    log.begin("b", 0)
    log.figures(1, {"Loss": 10})
    before = log.path.read_text()
    log.begin("a", 1)  # b came after it
    assert log.path.read_text().startswith(before)


def test_no_path_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = TextLog(None)
    log.begin("a", 3)
    log.figures(1, {"Loss": 1.0})
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_said(tmp_path):
    with pytest.raises(UsageError, match="cannot write the log"):
        TextLog(tmp_path).say("x")
