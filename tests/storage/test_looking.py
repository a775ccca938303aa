"""What is read of files that somebody else is writing: logs' ends, locks' holders."""

from __future__ import annotations

import json
import os

import pytest

from storage import files


def test_the_end_of_a_log_is_that_of_the_whole(tmp_path):
    log = tmp_path / "log.jsonl"
    records = [{"step": k, "word": "x" * (k % 7)} for k in range(200)]
    log.write_text("".join(json.dumps(r) + "\n" for r in records) + '{"step": 200, "wo')
    assert files.read_last_lines(log) == files.read_lines(log) == records
    last = files.read_last_lines(log, limit=1000)
    assert 10 < len(last) < 60 and last == records[-len(last) :]
    assert files.read_last_lines(log, limit=3) == []
    assert files.read_last_lines(tmp_path / "none") == []


def test_a_line_that_begins_where_the_limit_does_may_be_lost_but_never_torn(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"a": 1}\n{"b": 22}\n')
    for limit in range(30):
        found = files.read_last_lines(log, limit=limit)
        assert found in ([], [{"b": 22}], [{"a": 1}, {"b": 22}])
    with pytest.raises(OSError):
        files.read_last_lines(tmp_path)


def test_who_holds_a_lock_is_told_without_taking_it(tmp_path):
    path = tmp_path / "lock"
    assert files.holder_of(path) is None and not path.exists()
    lock = files.Lock(path, "me")
    before = path.stat().st_mtime_ns
    assert files.holder_of(path) == "me"
    with pytest.raises(files.Busy):
        files.Lock(path, "another")
    lock.release()
    assert files.holder_of(path) is None
    path.write_text("one that was killed")
    assert files.holder_of(path) is None
    assert path.read_text() == "one that was killed" and before
    files.Lock(path, "free again").release()


def test_a_lock_where_the_system_knows_none(tmp_path, monkeypatch):
    """Then whoever is named is taken to be there."""

    def refuse(handle, how):
        raise OSError(38, os.strerror(38))

    path = tmp_path / "lock"
    path.write_text("somebody")
    monkeypatch.setattr(files.fcntl, "flock", refuse)
    assert files.holder_of(path) == "somebody"
    path.write_text("")
    assert files.holder_of(path) is None
    assert files.holder_of(tmp_path / "no" / "lock") is None
