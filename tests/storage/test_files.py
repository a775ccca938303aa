"""Writing whole or not at all, killed at every point and at random moments, with full disks and two
at once; the lock; and that nobody writes otherwise."""

from __future__ import annotations

import ast
import contextlib
import errno
import hashlib
import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from storage import files, waiting
from storage.errors import DataBusyError, DataDiskError, UsageError, first_line, one_line
from storage.textlog import read_figures
from storage.yaml_files import read_yaml

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
    file, rng, newest, begun, kills = tmp_path / "x", random.Random(0), 0, 0, 0

    def write():
        for number in range(newest, 20_000):
            files.write_bytes(file, blob(number))

    while kills < 40 or (not begun and kills < 400):  # on a busy machine few come in mid-write
        kills += 1
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


def test_what_killed_writers_left_is_swept_by_the_folder(tmp_path):
    """Of any name, and below; what a living one writes stays, and so does all that is none."""

    def write(file):
        os.environ["IMLE_LAB_FAILPOINT"] = "file-half"
        files.write_bytes(file, NEW)

    (tmp_path / "below" / "deep").mkdir(parents=True)
    for name in ("a.json", "below/b.png", "below/deep/c"):
        file = tmp_path / name
        assert os.WTERMSIG(end(fork(lambda file=file: write(file)))) == signal.SIGKILL
    (tmp_path / ".tmp-mine").write_text("")
    with files.writing(tmp_path / "alive"):
        assert [p.name[:12] for p in files.sweep_dead(tmp_path)] == [".tmp-a.json-"]
        assert len(files.sweep_dead(tmp_path, below=True)) == 2
    assert names(tmp_path) == [".tmp-mine", "alive", "below"]
    assert files.sweep_dead(tmp_path / "nowhere", below=True) == []


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


def test_a_record_after_a_torn_one_is_a_line_of_its_own(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text('{"a": 1}\n{"b"')
    files.append_line(file, '{"c": 3}')
    with files.appending(file) as log:
        log.write('{"d": 4}\n{"e": ')
    with files.appending(file) as log:
        log.write('{"f": 6}\n')
    assert files.read_lines(file) == [{"a": 1}, {"c": 3}, {"d": 4}, {"f": 6}]
    assert "\n\n" not in file.read_text()
    for start in ("", "\n"):
        file.write_text(start)
        files.append_line(file, "{}")
        assert file.read_text() == start + "{}\n"


def test_a_log_may_be_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    pid = fork(lambda: files.append_line(tmp_path / "pipe", "said"))
    assert (tmp_path / "pipe").read_text() == "said\n" and end(pid) == 0


def test_what_is_no_file_is_not_waited_for(tmp_path):
    """A pipe to which nobody writes, and a device that gives bytes without end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, said in (("pipe", "a pipe"), ("zero", "a device")):
        path = tmp_path / name
        for read in (files.read_bytes, files.hash_file, files.read_lines, files.read_last_lines):
            with pytest.raises(OSError, match=f"{said}, not a file"):
                read(path)
        with pytest.raises(files.Damaged, match=said):
            files.read_json(path)
        assert files.read_object(path) is None


def hollow(file, size=100 << 30):
    """A file of a size that is not on the disk."""
    with open(file, "wb") as opened:
        opened.truncate(size)
    return file


def test_what_is_too_large_to_be_what_it_should_be_is_not_read(tmp_path):
    file = hollow(tmp_path / "args.json")
    with pytest.raises(files.Damaged, match=r"^107374182400 bytes, too large$"):
        files.read_json(file)
    assert files.read_object(file) is None and files.read_last_lines(file) == []
    for read in (files.read_bytes, files.read_text, files.read_lines):
        with pytest.raises(OSError, match="107374182400 bytes, too large"):
            read(file)
    with pytest.raises(ValueError, match=r"args.json: cannot be read \(107374182400 bytes, too l"):
        read_yaml(file)
    with pytest.raises(OSError, match="a line of 16777216 bytes and more"):
        files.read_lines(hollow(tmp_path / "metrics.jsonl", 1 << 30))
    with pytest.raises(UsageError, match="cannot read the log .* 107374182400 bytes, too large"):
        read_figures(file)


def test_a_reserved_file_is_of_zeros_whatever_it_was(tmp_path):
    for size in (0, 5000, 7):
        files.reserve(tmp_path / "x", size)
        assert (tmp_path / "x").read_bytes() == bytes(size)
        (tmp_path / "x").write_bytes(b"more than that" * 999)


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


def _hold(path, pipe):
    with files.locked(path, wait=False, what="x"):
        pipe.send(os.getpid())
        pipe.recv()


def test_who_waits_for_a_lock_says_whom_for_and_not_without_end(tmp_path, monkeypatch, capsys):
    path = tmp_path / "lock"
    ours, theirs = multiprocessing.Pipe()
    holder = multiprocessing.get_context("fork").Process(target=_hold, args=(path, theirs))
    holder.start()
    pid = ours.recv()
    os.kill(pid, signal.SIGSTOP)
    while waiting.state_of(pid) != "T":
        time.sleep(0.001)
    monkeypatch.setenv(waiting.WAIT, "0.3")
    said = f"x is being prepared by process {pid} on {os.uname().nodename}, which is stopped"
    with pytest.raises(DataBusyError, match=said) as caught:
        with files.locked(path, wait=True, what="x"):
            pass
    assert "IMLE_LAB_WAIT_S" in str(caught.value)
    assert capsys.readouterr().err == f"waiting for {said.replace(' is', ', which is', 1)}\n"
    os.kill(pid, signal.SIGCONT)
    ours.send("done")
    with files.locked(path, wait=True, what="x"):
        holder.join()


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
    # Its very purpose: hard links to pictures.
    ("data/InvertDirStructure.py", "os.link"),
    # In a folder of `scratch` or `staging`, which appears whole when all of it is there.
    ("data/prepare/acquire.py", "save"),
    ("data/prepare/download.py", "open"),
    # What is fetched of a file, which is renamed when it is whole and checked.
    ("data/prepare/transfer.py", "open"),
    ("storage/checkpoint.py", "open"),
    # To a file that hashes on its way into such a folder.
    ("storage/checkpoint.py", "torch.save"),
    # What `storage.files` gives out as its own.
    ("storage/locks.py", "fcntl.flock"),
    # Logs of a run that holds the lock; resuming cuts off what a kill left.
    ("storage/index_log.py", "open"),
    ("runtime/tracker.py", "open"),
    # A switch of the kernel.
    ("benchmarks/ntxent.py", "write_text"),
    ("benchmarks/selection.py", "write_text"),
}
CALLS = {
    "os.replace", "os.rename", "os.renames", "os.link", "os.fsync", "os.fdatasync",
    "fcntl.flock", "fcntl.lockf", "tempfile.mkstemp", "tempfile.NamedTemporaryFile",
    "shutil.move", "hashlib.file_digest",
}  # fmt: skip
# Calls that write to what they are given, and which argument that is.
SAVES = {"np.save": 0, "np.savez": 0, "np.savez_compressed": 0, "np.savetxt": 0, "torch.save": 1}
SAVES |= {"np.memmap": 0, "np.lib.format.open_memmap": 0, "json.dump": 1, "pickle.dump": 1}


def open_files(tree):
    """Names that stand for what `writing` gave, or for bytes in memory."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.withitem) and isinstance(node.context_expr, ast.Call):
            called = ast.unparse(node.context_expr.func)
            if called.removeprefix("files.") in ("writing", "appending") and node.optional_vars:
                found.add(ast.unparse(node.optional_vars))
        if isinstance(node, ast.Assign) and ast.unparse(node.value) == "io.BytesIO()":
            found |= {ast.unparse(target) for target in node.targets}
    return found


def plain_write(call, safe):
    """The function's name, if a call may write to a path; `safe`: names of open files."""
    called, last = ast.unparse(call.func), ast.unparse(call.func).rpartition(".")[2]
    texts = [
        value.value
        for value in (*call.args, *(k.value for k in call.keywords if k.arg == "mode"))
        for value in ast.walk(value)
        if isinstance(value, ast.Constant) and isinstance(value.value, str)
    ]
    if last in ("write_text", "write_bytes"):
        return last if isinstance(call.func, ast.Attribute) and called != f"files.{last}" else None
    if last in ("open", "fdopen") and called != "Image.open":
        modes = [text for text in texts if set(text) <= set("rwxabt+")]
        return "open" if any(set(mode) & set("wxa+") for mode in modes) else None
    if called.endswith("memmap"):  # r+ and c take a file that is there
        return called if any(text.startswith("w") for text in texts) else None
    if last in ("touch", "tofile"):
        return last
    if called in SAVES:
        given = call.args[SAVES[called] :][:1]
    elif last == "savefig" or (last == "save" and called.startswith("Image.")):
        called, given = last, call.args[:1]
    else:
        return None
    return None if given and ast.unparse(given[0]) in safe else called


def breaches(source, file):
    """Calls in `source` that belong into storage/files.py."""
    found = []
    tree = ast.parse(source)
    safe = open_files(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            called = called if called in CALLS else plain_write(node, safe)
            if called is not None and (file, called) not in ALLOWED:
                found.append(f"{file}:{node.lineno}: {called}")
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "fcntl"):
            taken = {f"{node.module}.{alias.name}" for alias in node.names} & CALLS
            found += [f"{file}:{node.lineno}: {name}" for name in sorted(taken)]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = ast.unparse(node)
            if "hashlib." in body and ".update(" in body and ".read(" in body:
                found.append(f"{file}:{node.lineno}: {node.name} hashes a file")
    return found


def sources():
    """(path, text) of every Python file of ours but the tests and storage/files.py."""
    ours = [p for p in ROOT.rglob("*.py") if not p.relative_to(ROOT).parts[0].startswith(".")]
    ours = [p.relative_to(ROOT).as_posix() for p in ours]
    ours = [p for p in ours if not p.startswith(("tests/", "build/")) and p != HOME]
    return [(p, (ROOT / p).read_text()) for p in sorted(ours)]


def test_nobody_else_writes_renames_flushes_locks_or_hashes_files():
    ours = sources()
    assert len(ours) > 100
    found = [b for p, text in ours for b in breaches(text, p)]
    assert not found, "\n" + "\n".join(found) + "\nuse storage.files"


def test_what_is_allowed_is_still_there():
    found = [b for p, text in sources() for b in breaches(text, f"now {p}")]
    found = {(b.split(":")[0], b.rpartition(": ")[2]) for b in found}
    assert {(f"now {p}", called) for p, called in ALLOWED} <= found


@pytest.mark.parametrize(
    "source",
    [
        "os.replace(a, b)",
        "from os import replace",
        "with open(x) as f:\n    os.fsync(f.fileno())",
        "fcntl.flock(f, 2)",
        "def h(f):\n    d = hashlib.sha256()\n    while b := f.read(9):\n        d.update(b)",
        "path.write_text(text)",
        "Path(x).write_bytes(b)",
        "open(path, 'w')",
        "open(path, mode='ab')",
        "path.open('x')",
        "open(path, 'r+b' if there else 'w+b')",
        "figure.savefig(path, dpi=110)",
        "with open(x) as file:\n    figure.savefig(file)",
        "np.save(path, array)",
        "torch.save(value, path)",
        "np.memmap(path, np.uint8, 'w+', shape=shape)",
        "Image.fromarray(pixels).save(path)",
    ],
)
def test_a_breach_is_seen(source):
    assert breaches(source, "data/x.py")


@pytest.mark.parametrize(
    "source",
    [
        "with writing(path) as file:\n    figure.savefig(file, format='png')",
        "with files.writing(path) as out:\n    torch.save(value, out)",
        "out = io.BytesIO()\nnp.save(out, array)",
        "files.write_bytes(path, data)\nwrite_text(path, text)",
        "open(path, 'rb')\nopen('/a/w')\npath.open()\nsource.open('train')",
        "np.memmap(path, np.uint8, 'r+', shape=shape)",
    ],
)
def test_what_is_no_breach(source):
    assert not breaches(source, "data/x.py")


def test_a_home_that_nobody_has_is_said(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert [str(files.expanded(p)) for p in ("~/x", Path("~"), "a/~b", "./~b")] == [
        *("/home/me/x", "/home/me", "a/~b", "~b"),
    ]
    with pytest.raises(UsageError, match=r"^~nobody-here/x: .* \./~nobody-here/x"):
        files.expanded("~nobody-here/x")
