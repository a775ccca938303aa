"""Writing whole or not at all, killed at every point and at random moments, with full disks and two
at once; the lock; and that nobody writes otherwise."""

from __future__ import annotations

import ast
import contextlib
import errno
import hashlib
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from storage import files
from storage.errors import DataBusyError, DataDiskError, first_line, one_line

ROOT = Path(__file__).resolve().parents[2]
POINTS = ("file-begun", "file-half", "file-written", "file-flushed", "file-renamed")
OLD, NEW = b"old " * 5000, b"new " * 7000


def fork(work):
    """Process number of a child that does `work`."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def end(pid, number=None):
    """Wait for a child, which gets a signal first if one is given. Its status."""
    if number is not None:
        os.kill(pid, number)
    return os.waitpid(pid, 0)[1]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# ---------------------------------------------------------------------------------- whole files


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("before", [OLD, None])
def test_a_kill_at_any_point_leaves_the_old_bytes_or_the_new(tmp_path, point, before, durable):
    file = tmp_path / "x.bin"
    if before is not None:
        file.write_bytes(before)

    def write():
        os.environ["IMLE_LAB_FAILPOINT"] = point
        files.write_bytes(file, NEW, durable=durable)

    assert os.WTERMSIG(end(fork(write))) == signal.SIGKILL
    there = file.read_bytes() if file.exists() else None
    assert there == (NEW if point == "file-renamed" else before)
    litter = [name for name in names(tmp_path) if name != "x.bin"]
    assert len(litter) == (point != "file-renamed") and all(map(files.is_temporary, litter))
    assert files.temporaries(tmp_path, "y.bin") == []
    files.write_bytes(tmp_path / "y.bin", b"")
    assert [name for name in names(tmp_path) if files.is_temporary(name)] == litter  # not its own
    files.write_bytes(file, NEW)
    assert file.read_bytes() == NEW and names(tmp_path) == ["x.bin", "y.bin"]


@pytest.mark.parametrize("word", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("point", POINTS[:-1])
def test_a_disk_that_refuses_leaves_the_old_bytes_and_nothing_else(
    tmp_path, monkeypatch, point, word
):
    file = tmp_path / "x.bin"
    files.write_bytes(file, OLD)
    monkeypatch.setenv("IMLE_LAB_FAILPOINT", f"{point}={word}")
    with pytest.raises(OSError) as caught:
        files.write_bytes(file, NEW)
    assert caught.value.errno == getattr(errno, word)
    assert "\n" not in one_line(caught.value) and one_line(caught.value)
    assert file.read_bytes() == OLD and names(tmp_path) == ["x.bin"]
    files.write_bytes(file, NEW)
    assert file.read_bytes() == NEW


def test_a_full_disk_seen_when_flushing(tmp_path, monkeypatch):
    files.write_text(tmp_path / "x", "old")

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_text(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "old" and names(tmp_path) == ["x"]


def test_any_error_of_the_writer_leaves_the_old_bytes(tmp_path):
    files.write_text(tmp_path / "x", "old")
    for error in (ValueError("no"), KeyboardInterrupt()):
        with pytest.raises(type(error)), files.writing(tmp_path / "x") as file:
            file.write(b"half")
            raise error
        assert (tmp_path / "x").read_text() == "old" and names(tmp_path) == ["x"]
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "x", object())
    assert names(tmp_path) == ["x"]


def test_order_of_the_protocol(tmp_path, monkeypatch):
    events, rename = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: events.append(os.readlink(f"/proc/self/fd/{fd}")))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(f"to {b}"), rename(a, b)))
    files.write_text(tmp_path / "x", "durable")
    first, *rest = events
    assert files.is_temporary(Path(first).name)
    assert rest == [f"to {tmp_path / 'x'}", str(tmp_path)]
    events.clear()
    files.write_text(tmp_path / "x", "not", durable=False)
    assert events == [f"to {tmp_path / 'x'}"]


def blob(number):
    return number.to_bytes(4, "big") * (200_000 + 997 * (number % 97))


def test_random_kills_of_a_writer(tmp_path, monkeypatch):
    """The file is always one whole version, never an earlier one than before."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # for power cuts; takes most of the time
    file, rng, newest, begun = tmp_path / "x", random.Random(0), 0, 0

    def write():
        for number in range(newest, 20_000):
            files.write_bytes(file, blob(number))

    for _ in range(40):
        status = end_after(fork(write), rng.uniform(0.0, 0.05))
        assert os.WTERMSIG(status) == signal.SIGKILL
        begun += any(files.is_temporary(name) for name in names(tmp_path))
        if file.exists():
            data = file.read_bytes()
            found = int.from_bytes(data[:4], "big")
            assert data == blob(found) and found >= newest
            newest = found
    files.write_bytes(file, OLD)
    assert names(tmp_path) == ["x"]
    assert newest > 3 and begun > 0  # otherwise nothing was tested


def end_after(pid, seconds):
    time.sleep(seconds)
    return end(pid, signal.SIGKILL)


def test_two_writers_of_one_file(tmp_path):
    """Neither sweeps what the other is writing, and a reader sees whole versions only."""
    file = tmp_path / "x"
    files.write_bytes(file, OLD)

    def write(data):
        for _ in range(150):
            files.write_bytes(file, data)

    children = [fork(lambda data=data: write(data)) for data in (OLD, NEW)]
    for _ in range(200):
        assert file.read_bytes() in (OLD, NEW)
    assert [end(pid) for pid in children] == [0, 0]
    assert file.read_bytes() in (OLD, NEW) and names(tmp_path) == ["x"]


def test_what_a_living_process_writes_is_not_swept(tmp_path):
    def hang():
        with files.writing(tmp_path / "x") as file:
            file.write(b"half")
            signal.pause()

    pid = fork(hang)
    wait_for(lambda: files.temporaries(tmp_path, "x"))
    time.sleep(0.05)
    files.write_text(tmp_path / "x", "mine")
    assert len(names(tmp_path)) == 2
    end(pid, signal.SIGKILL)
    files.write_text(tmp_path / "x", "mine again")
    assert names(tmp_path) == ["x"]


def test_long_and_odd_names(tmp_path):
    for name in ("n" * 255, "ä" * 127, "a b\nc", ".hidden", "[x]*", "x-12345678"):
        files.write_text(tmp_path / name, name)
        assert (tmp_path / name).read_text() == name
        left = files.temporary(tmp_path / name)
        left.touch()
        assert files.is_temporary(left.name) and files.temporaries(tmp_path, name) == [left]
        files.write_text(tmp_path / name, name)
        assert not left.exists()
    assert not any(files.is_temporary(name) for name in names(tmp_path))
    for name in ("x", ".tmp-x", "tmp-x-12345678", ".tmp-x-1234567", ".tmp-x-1234567g"):
        assert not files.is_temporary(name)


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "x", "")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_a_file_that_must_be_new(tmp_path):
    assert files.write_new(tmp_path / "x", "first") is True
    assert files.write_new(tmp_path / "x", "second") is False
    assert (tmp_path / "x").read_text() == "first" and names(tmp_path) == ["x"]


def test_links_are_replaced_whole(tmp_path):
    for target in ("1.pt", "2.pt"):
        files.temporary(tmp_path / "latest").symlink_to("nowhere")  # what a kill left
        files.write_link(tmp_path / "latest", target)
        assert os.readlink(tmp_path / "latest") == target and names(tmp_path) == ["latest"]


# --------------------------------------------------------------------------------- whole folders


def make(folder, text, parts=30):
    folder.mkdir()
    for k in range(parts):
        (folder / f"{k}").write_text(text)


@pytest.mark.parametrize("durable", [True, False])
def test_a_folder_appears_whole_or_not_at_all(tmp_path, durable):
    final, rng, whole = tmp_path / "set", random.Random(1), 0

    def build():
        with files.staging(final, durable=durable) as folder:
            make(folder, "content")

    for _ in range(30):
        end_after(fork(build), rng.uniform(0.0, 0.01))
        if final.exists():
            whole += 1
            assert len(list(final.iterdir())) == 30
            assert {p.read_text() for p in final.iterdir()} == {"content"}
            files.remove(final)
        assert all(map(files.is_temporary, names(tmp_path)))
        assert len(names(tmp_path)) <= 1  # each attempt sweeps those before it
    build()
    assert names(tmp_path) == ["set"] and whole < 30


def test_a_folder_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ValueError), files.staging(tmp_path / "set") as folder:
        make(folder, "x")
        raise ValueError
    assert names(tmp_path) == []
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine").touch()
    with pytest.raises(OSError), files.staging(tmp_path / "set") as folder:
        make(folder, "x")
    assert names(tmp_path) == ["set"] and names(tmp_path / "set") == ["mine"]


def test_scratch_is_gone_at_the_end_and_sweeps_its_own(tmp_path):
    make(files.temporary(tmp_path / "a"), "left by a kill")
    make(other := files.temporary(tmp_path / "a-b"), "another's")
    with files.scratch(tmp_path / "a") as room:
        make(room, "x")
        assert sorted(names(tmp_path)) == sorted([room.name, other.name])
    assert names(tmp_path) == [other.name]
    assert files.sweep(tmp_path) == [other] and names(tmp_path) == []


# ---------------------------------------------------------------------------------------- reading


def test_json(tmp_path):
    file = tmp_path / "x.json"
    assert files.read_json(file) is None and files.read_object(file) is None
    assert files.read_json(tmp_path / "x.json" / "below") is None
    for value, text in (({"ä": [1, None]}, '{"\\u00e4": [1, null]}\n'), ([1], "[1]\n")):
        files.write_json(file, value)
        assert file.read_text() == text and files.read_json(file) == value
        assert files.read_object(file) == (value if isinstance(value, dict) else None)
    for damage in (b'{"a": 1', b"\xff", b"", b"[" * 100_000):
        file.write_bytes(damage)
        with pytest.raises(files.Damaged) as caught:
            files.read_json(file)
        assert str(caught.value) and "\n" not in str(caught.value)
        assert files.read_object(file) is None
    with pytest.raises(files.Damaged, match="directory"):
        files.read_json(tmp_path)


def test_logs(tmp_path):
    file = tmp_path / "x.jsonl"
    assert files.read_lines(file) == []
    for step in range(3):
        files.append_line(file, json.dumps({"step": step}))
    with open(file, "a") as log:
        log.write('[1]\n{"step": 3')
    assert files.read_lines(file) == [{"step": step} for step in range(3)]


def test_hash_of_a_file(tmp_path):
    data = os.urandom(3_000_001)
    (tmp_path / "x").write_bytes(data)
    assert files.hash_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_errors_in_one_line():
    assert one_line(ValueError("a\n  b\tc")) == "a b c" and one_line(ValueError("abc"), 2) == "ab"
    assert first_line(ValueError("\na\nb")) == "a" and first_line(ValueError("abc"), 2) == "ab"
    assert one_line(ValueError()) == first_line(ValueError(" ")) == "ValueError"


# --------------------------------------------------------------------------------------- the lock


def test_two_processes_and_the_lock(tmp_path):
    path = tmp_path / "deep" / ".x.lock"

    def hold():
        with files.locked(path, wait=False, what="x"):
            (tmp_path / "held").touch()
            signal.pause()

    pid = fork(hold)
    wait_for((tmp_path / "held").exists)
    with pytest.raises(DataBusyError, match=rf"x is being prepared by process {pid} on .+; wait"):
        with files.locked(path, wait=False, what="x"):
            pytest.fail("both have it")

    def waiting():
        with files.locked(path, wait=True, what="x"):
            (tmp_path / "then").touch()

    second = fork(waiting)
    time.sleep(0.1)
    assert not (tmp_path / "then").exists()
    end(pid, signal.SIGKILL)  # the system drops it however the process dies
    assert end(second) == 0 and (tmp_path / "then").exists()
    with files.locked(path, wait=False, what="x"):
        pass


def test_a_forked_worker_does_not_keep_the_lock(tmp_path):
    def owner():
        lock = files.Lock(tmp_path / "lock", "me")
        worker = fork(signal.pause)
        (tmp_path / "pid").write_text(str(worker))
        assert lock.held
        signal.pause()

    pid = fork(owner)
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    time.sleep(0.1)  # so that the worker is past its fork
    with pytest.raises(files.Busy, match="me"):
        files.Lock(tmp_path / "lock", "you")
    end(pid, signal.SIGKILL)
    worker = int((tmp_path / "pid").read_text())
    os.kill(worker, 0)  # lives
    lock = files.Lock(tmp_path / "lock", "you")
    lock.release()
    lock.release()
    assert not lock.held
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker, signal.SIGKILL)


def test_a_lock_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataDiskError, match="a file of that name is there"):
        with files.locked(tmp_path / "file" / "x.lock", wait=False, what="x"):
            pass
    with pytest.raises(DataDiskError, match="cannot write"):
        with files.locked(tmp_path, wait=False, what="x"):
            pass


# ------------------------------------------------------------------------------- nobody else does

HOME = "storage/files.py"
# What may stand elsewhere, and why.
ALLOWED = {
    ("data/InvertDirStructure.py", "os.link"),  # its very purpose: hard links to pictures
}
CALLS = {
    "os.replace", "os.rename", "os.renames", "os.link", "os.fsync", "os.fdatasync",
    "fcntl.flock", "fcntl.lockf", "tempfile.mkstemp", "tempfile.NamedTemporaryFile",
    "shutil.move", "hashlib.file_digest",
}  # fmt: skip


def breaches(source, file):
    """Calls in `source` that belong into storage/files.py."""
    found = []
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (called := ast.unparse(node.func)) in CALLS:
            if (file, called) not in ALLOWED:
                found.append(f"{file}:{node.lineno}: {called}")
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "fcntl"):
            taken = {f"{node.module}.{alias.name}" for alias in node.names} & CALLS
            found += [f"{file}:{node.lineno}: {name}" for name in sorted(taken)]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = ast.unparse(node)
            if "hashlib." in body and ".update(" in body and ".read(" in body:
                found.append(f"{file}:{node.lineno}: {node.name} hashes a file")
    return found


def test_nobody_else_renames_flushes_locks_or_hashes_files():
    ours = [p for p in ROOT.rglob("*.py") if not p.relative_to(ROOT).parts[0].startswith(".")]
    ours = [p.relative_to(ROOT).as_posix() for p in ours]
    ours = [p for p in ours if not p.startswith(("tests/", "build/")) and p != HOME]
    assert len(ours) > 100
    found = [b for p in sorted(ours) for b in breaches((ROOT / p).read_text(), p)]
    assert not found, "\n" + "\n".join(found) + "\nuse storage.files"


@pytest.mark.parametrize(
    "source",
    [
        "os.replace(a, b)",
        "from os import replace",
        "with open(x) as f:\n    os.fsync(f.fileno())",
        "fcntl.flock(f, 2)",
        "def h(f):\n    d = hashlib.sha256()\n    while b := f.read(9):\n        d.update(b)",
    ],
)
def test_a_breach_is_seen(source):
    assert breaches(source, "data/x.py")
