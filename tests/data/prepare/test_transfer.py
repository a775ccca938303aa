"""One file over http: gone on with where it stopped, never mixed, never waited for without end."""

import hashlib
import os

import pytest

from data.prepare import download, transfer
from data.prepare.download import fetch, lock_of
from data.prepare.transfer import part_of
from runtime.progress import in_bytes
from storage.errors import DataDiskError, DataError
from storage.files import Lock
from tests.server import serving

BODY = os.urandom(300_000)
OTHER = os.urandom(300_000)
CUT = 100_000


def cut_once(server, file, **options):
    server.files.setdefault("a", BODY)
    server.cut["a"] = CUT
    with pytest.raises(DataError, match=f"ended after {CUT} of 300000 bytes"):
        fetch([f"{server.url}/a"], file, bar=False, **options)
    assert not file.exists()
    server.hits.clear()


@pytest.mark.parametrize("tags", [True, False])
def test_goes_on_where_it_stopped(tmp_path, tags, capsys):
    pin = {} if tags else {"sha256": hashlib.sha256(BODY).hexdigest()}
    with serving(tags=tags) as server:
        cut_once(server, tmp_path / "a", **pin)
        assert part_of(tmp_path / "a").stat().st_size == CUT
        fetch([f"{server.url}/a"], tmp_path / "a", about="made up", bar=False, **pin)
        assert server.hits == [("a", f"bytes={CUT}-")]
    assert (tmp_path / "a").read_bytes() == BODY
    assert "fetching a, 300.0 kB (100.0 kB of it are here): made up" in capsys.readouterr().err
    record = ["a.sha256"] if tags else []
    assert sorted(p.name for p in tmp_path.iterdir()) == [".a.lock", "a", *record]


def test_parts_of_two_versions_that_nothing_tells_apart_are_never_mixed(tmp_path):
    with serving(tags=False) as server:
        cut_once(server, tmp_path / "a")
        server.files["a"] = OTHER  # as long as the first
        fetch([f"{server.url}/a"], tmp_path / "a", bar=False)
    assert (tmp_path / "a").read_bytes() == OTHER


@pytest.mark.parametrize(
    "how", ["no ranges", "another version", "another length", "another address", "too long a part"]
)
def test_what_cannot_be_gone_on_with_comes_whole(tmp_path, how):
    with serving() as server:
        cut_once(server, tmp_path / "a")
        want, name = BODY, "a"
        if how == "no ranges":
            server.ranges = False
        elif how == "another version":
            server.files["a"] = want = OTHER
        elif how == "another length":
            server.tags, server.files["a"] = False, OTHER[:200_000]
            want = server.files["a"]
        elif how == "another address":
            server.files["b"], name = OTHER, "b"
            want = OTHER
        else:
            server.files["a"] = want = OTHER[:1000]
        fetch([f"{server.url}/{name}"], tmp_path / "a", bar=False)
    assert (tmp_path / "a").read_bytes() == want


def test_a_part_of_another_file_is_caught_by_the_digest(tmp_path):
    with serving(tags=False) as server:
        cut_once(server, tmp_path / "a", sha256=hashlib.sha256(OTHER).hexdigest())
        server.files["a"] = OTHER
        pin = {"sha256": hashlib.sha256(OTHER).hexdigest(), "bar": False}
        with pytest.raises(DataError, match="expected sha256"):
            fetch([f"{server.url}/a"], tmp_path / "a", **pin)
        assert not part_of(tmp_path / "a").exists()  # so that the next one begins anew
        fetch([f"{server.url}/a"], tmp_path / "a", **pin)
    assert (tmp_path / "a").read_bytes() == OTHER


def test_a_transfer_that_creeps_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "PATIENCE", 0.1)
    with serving(files={"a": BODY}, creep={"a"}) as server:
        with pytest.raises(DataError, match=r"too slow: \d+ bytes in"):
            fetch([f"{server.url}/a"], tmp_path / "a", bar=False)


def test_no_room_is_seen_before_anything_is_fetched(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda folder: usage)
    with serving(files={"a": BODY}) as server:
        with pytest.raises(DataDiskError, match=r"No space left: 300.0 kB to fetch, 1.0 kB"):
            fetch([f"{server.url}/a"], tmp_path / "a", bar=False)
    assert not part_of(tmp_path / "a").exists()


def test_a_log_has_lines_of_progress(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(transfer, "EVERY", 0.0)
    with serving(files={"a": BODY}) as server:
        fetch([f"{server.url}/a"], tmp_path / "a")
    assert "a: 300.0 kB of 300.0 kB" in capsys.readouterr().err


def test_the_wait_for_another_process_is_said_and_ends(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(download, "WAIT", 0.2)
    held = Lock(lock_of(tmp_path / "a"), "process 7 on x")
    with pytest.raises(DataError, match="being prepared by process 7.*nothing came") as error:
        fetch(["http://127.0.0.1:9/a"], tmp_path / "a")
    held.release()
    assert error.value.exit_code == 4
    assert capsys.readouterr().err.startswith("waiting: a is being prepared by process 7 on x")


def test_what_is_no_address(tmp_path):
    for address in ("http://127.0.0.1:x/a", "http:///a", "nowhere", "http://[::1/a", "x://y/a"):
        with pytest.raises(DataError, match=r"Place the file at .*/a$"):
            fetch([address], tmp_path / "a", bar=False)


def test_sizes_in_words():
    assert [in_bytes(n) for n in (12, 1234, 560_100_000, 3 * 10**9)] == [
        "12 bytes", "1.2 kB", "560.1 MB", "3.0 GB",
    ]  # fmt: skip
