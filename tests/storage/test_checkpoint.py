"""The commit protocol under kills, full disks and damage."""

import errno
import json
import os
import random
import resource
import shutil
import signal
import time
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch

from storage import checkpoint as ck
from storage.errors import CheckpointError, DiskError
from storage.files import hash_file
from tests.storage.states import Bomb, equal

POINTS = [
    "pre-write",
    "half-file",
    "pre-fsync",
    "post-fsync",
    "post-manifest",
    "post-rename",
    "mid-prune",
]


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """It protects from power cuts, which no test here makes, and takes most of the time."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def test_everything_is_flushed_before_the_rename(tmp_path, monkeypatch):
    """Order of the protocol: files, manifest last, their directory, rename, the parent."""
    events, rename = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: events.append(os.readlink(f"/proc/self/fd/{fd}")))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(f"to {b}"), rename(a, b)))
    save(tmp_path, 3)
    short = [e.replace(str(tmp_path), "DIR").replace(str(tmp_path.name), "") for e in events]
    names_only = ["/".join(e.split("/")[2:]) if ".tmp-" in e else e for e in short]
    files = ["net.pt", "loader.pt", "meta.json", "manifest.json", ""]
    assert names_only == [*files, "to DIR/step-000000003", "DIR"]


def state_at(step):
    """Some state that is a function of the step, of several kinds of values."""
    g = torch.Generator().manual_seed(step)
    return {
        "net": OrderedDict(w=torch.randn(40, 5, generator=g), b=torch.randn(5, generator=g)),
        "loader": {"order": list(range(step)), "name": "x", "none": None, "nested": [(1, 2.5)]},
    }


def save(directory, step, milestone=False, said=None):
    say = (lambda text: None) if said is None else said.append
    return ck.save_state(directory, step, state_at(step), {"nimg": 7 * step}, milestone, say)


def check_is(loaded, step):
    assert loaded.step == step and loaded.meta == {"nimg": 7 * step}
    assert equal(loaded.state, state_at(step))


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def quiet(text):
    pass


def test_round_trip(tmp_path):
    assert ck.load_latest(tmp_path / "no") is None
    path = save(tmp_path, 12)
    assert path == tmp_path / "step-000000012"
    check_is(ck.load_latest(tmp_path), 12)
    check_is(ck.load_path(path), 12)
    with pytest.raises(CheckpointError, match="step-000000013/manifest.json: missing"):
        ck.load_path(tmp_path / "step-000000013")


def test_milestones_stay_while_they_are_small(tmp_path, monkeypatch):
    """As many as fit, from the newest on; the newest checkpoints stay whatever they are."""
    for step in range(1, 7):
        save(tmp_path, step, milestone=step != 5)
    size = sum(e["size"] for e in ck.verify(tmp_path / "step-000000006")["files"].values())
    assert ck.steps_of(tmp_path) == [1, 2, 3, 4, 5, 6]
    monkeypatch.setattr(ck, "MILESTONE_BYTES", 3.5 * size)
    ck.prune(tmp_path, 2)
    assert ck.steps_of(tmp_path) == [3, 4, 5, 6]
    ck.prune(tmp_path, 0)
    assert ck.steps_of(tmp_path) == [3, 4, 5, 6]
    ck.prune(tmp_path, 1)
    assert ck.steps_of(tmp_path) == [3, 4, 6]
    monkeypatch.setattr(ck, "MILESTONE_BYTES", 0)
    ck.prune(tmp_path, 1)
    assert ck.steps_of(tmp_path) == [6]


def test_a_number_to_keep(tmp_path):
    for step in range(1, 7):
        ck.save_state(tmp_path, step, state_at(step), {}, keep=4)
    assert ck.steps_of(tmp_path) == [3, 4, 5, 6]
    for step in range(7, 12):
        ck.save_state(tmp_path, step, state_at(step), {}, keep=0)
    assert ck.steps_of(tmp_path) == list(range(3, 12))


def test_keeps_two_and_the_milestones(tmp_path):
    for step in range(1, 11):
        save(tmp_path, step, milestone=step % 4 == 0)
    assert ck.steps_of(tmp_path) == [4, 8, 9, 10]
    assert names(tmp_path) == [f"step-{s:09d}" for s in (4, 8, 9, 10)]


def test_saving_a_step_again_keeps_a_good_one_and_replaces_a_bad_one(tmp_path):
    save(tmp_path, 5)
    inode = (tmp_path / "step-000000005").stat().st_ino
    save(tmp_path, 5, milestone=True)
    assert (tmp_path / "step-000000005").stat().st_ino == inode
    assert ck.verify(tmp_path / "step-000000005")["milestone"] is True
    for step in (6, 7, 8):
        save(tmp_path, step)
    assert ck.steps_of(tmp_path) == [5, 7, 8]  # it became a milestone
    (tmp_path / "step-000000008" / "net.pt").write_bytes(b"")
    said = []
    save(tmp_path, 8, said=said)
    check_is(ck.load_latest(tmp_path), 8)
    assert "net.pt" in said[0] and (tmp_path / "step-000000008.bad").exists()


# ------------------------------------------------------------------------------------------- kills


def run_in_child(work):
    """Exit status of a forked child that does `work`."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_point_leaves_the_old_state_or_the_new(tmp_path, point):
    for step in (1, 2):
        save(tmp_path, step)
    died, stride = 0, 9 if point == "half-file" else 1  # torch.save writes in many small pieces
    for n in range(1, 100, stride):
        work = tmp_path.parent / f"{tmp_path.name}-{n}"
        shutil.copytree(tmp_path, work)

        def child(work=work, n=n):
            os.environ["IMLE_LAB_FAILPOINT"] = f"{point}:{n}"
            save(work, 3)

        status = run_in_child(child)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        died += killed
        said = []
        ck.sweep(work, said.append)
        late = point in ("post-rename", "mid-prune") or not killed
        check_is(ck.load_latest(work, pytest.fail), 3 if late else 2)
        assert all(name.startswith("step-") for name in names(work))  # no rubbish left
        assert bool(said) == (killed and point != "post-rename")
        if not killed:
            assert status == 0
            break
        save(work, 4)
        check_is(ck.load_latest(work), 4)
    else:
        pytest.fail("the point is passed without end")
    once = ("post-manifest", "post-rename", "mid-prune")
    assert died == (1 if point in once else 4) or (point == "half-file" and died >= 4)


@pytest.mark.parametrize("name", ["ENOSPC", "EIO", "EDQUOT"])
def test_an_error_at_the_nth_write_leaves_the_old_state_or_the_new(tmp_path, name):
    """SQLite's test: fail the n-th operation for n = 1, 2, ... until nothing fails."""
    for step in (1, 2):
        save(tmp_path, step)
    for n in range(1, 200, 1 if name == "ENOSPC" else 7):
        work = tmp_path.parent / f"{tmp_path.name}-{n}"
        shutil.copytree(tmp_path, work)
        os.environ["IMLE_LAB_FAILPOINT"] = f"any:{n}={name}"
        try:
            save(work, 3)
            failed = False
        except DiskError as error:
            failed = True
            assert "cannot save step 3" in str(error) and "needed" in str(error)
            assert error.__cause__.errno == getattr(errno, name)
        finally:
            left = os.environ.pop("IMLE_LAB_FAILPOINT")
        found = ck.load_latest(work, pytest.fail)
        check_is(found, found.step)
        assert found.step in ((2, 3) if failed else (3,))
        save(work, 3)  # the next attempt works
        check_is(ck.load_latest(work), 3)
        ck.sweep(work, quiet)  # an error while deleting an old one leaves its grave
        assert all(x.startswith("step-") for x in names(work))
        shutil.rmtree(work)
        if left:  # fewer than n operations: all have failed once
            assert not failed and n > 15
            break
    else:
        pytest.fail("no end")


def test_random_kills(tmp_path):
    """Kills at random times: the newest committed step loads and never goes backwards."""
    rng = random.Random(0)
    newest, in_save = 0, 0

    def child():
        loaded = ck.load_latest(tmp_path, quiet)
        step = loaded.step if loaded else 0
        while True:
            step += 1
            save(tmp_path, step)

    for _ in range(25):
        pid = os.fork()
        if pid == 0:
            try:
                child()
            finally:
                os._exit(1)
        time.sleep(rng.uniform(0.0, 0.06))
        os.kill(pid, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        in_save += bool(list(tmp_path.glob(".tmp-*")))
        ck.sweep(tmp_path, quiet)
        loaded = ck.load_latest(tmp_path, pytest.fail)
        step = loaded.step if loaded else 0
        assert step >= newest
        newest = step
        if loaded:
            check_is(loaded, step)
    assert newest > 5 and in_save > 0  # otherwise nothing was tested


# ------------------------------------------------------------------------------------ full disks


def test_a_file_size_limit(tmp_path):
    """F3: RLIMIT_FSIZE; the write fails in the middle of the file."""
    save(tmp_path, 1)
    big = {"net": {"w": torch.zeros(100_000)}}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(DiskError) as caught:
            ck.save_state(tmp_path, 2, big, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot save step 2" in str(caught.value) and "keeping step 1" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["step-000000001"]
    ck.save_state(tmp_path, 2, big, {})
    assert ck.load_latest(tmp_path).step == 2


def test_too_little_space_is_found_before_writing(tmp_path, monkeypatch):
    save(tmp_path, 1)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    monkeypatch.setattr(ck, "_stage", lambda *a: pytest.fail("it wrote"))
    with pytest.raises(DiskError, match="keeping step 1"):
        save(tmp_path, 2)


def test_a_disk_that_lies_is_found_by_reading_back(tmp_path, monkeypatch):
    save(tmp_path, 1)
    fsync = os.fsync

    def lossy(fd):
        fsync(fd)
        path = os.readlink(f"/proc/self/fd/{fd}")
        if path.endswith("net.pt"):
            os.pwrite(os.open(path, os.O_RDWR), b"\0\0\0\0", 100)

    monkeypatch.setattr(os, "fsync", lossy)
    with pytest.raises(DiskError, match="sha256 mismatch"):
        save(tmp_path, 2)
    monkeypatch.undo()
    check_is(ck.load_latest(tmp_path, pytest.fail), 1)


def test_errors_that_are_not_the_disks_come_through(tmp_path, monkeypatch):
    def broken(*args):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        save(tmp_path, 1)
    assert names(tmp_path) == []


# ---------------------------------------------------------------------------------------- damage


def files_of(path):
    return sorted(p for p in path.iterdir())


@pytest.fixture
def two(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2)
    return tmp_path


def check_falls_back(directory, word):
    said = []
    check_is(ck.load_latest(directory, said.append), 1)
    assert len(said) == 1 and word in said[0] and "renamed step-000000002.bad" in said[0], said
    assert names(directory) == ["step-000000001", "step-000000002.bad"]


@pytest.mark.parametrize("part", [0, 0.3, 0.99])
@pytest.mark.parametrize("file", ["net.pt", "loader.pt", "meta.json", "manifest.json"])
def test_truncated(two, file, part):
    path = two / "step-000000002" / file
    os.truncate(path, int(path.stat().st_size * part))
    check_falls_back(two, file)


@pytest.mark.parametrize("file", ["net.pt", "loader.pt", "meta.json", "manifest.json"])
def test_deleted(two, file):
    (two / "step-000000002" / file).unlink()
    check_falls_back(two, f"{file}: missing")


def test_every_flipped_bit_is_found(two):
    rng = random.Random(1)
    for path in files_of(two / "step-000000002"):
        good = path.read_bytes()
        for _ in range(100):
            at, bit = rng.randrange(len(good)), 1 << rng.randrange(8)
            bad = bytearray(good)
            bad[at] ^= bit
            path.write_bytes(bad)
            if path.name == "manifest.json" and same_json(good, bad):
                continue  # white space: means the same
            with pytest.raises(CheckpointError, match=path.name):
                ck.verify(path.parent)
        path.write_bytes(good)
    ck.verify(two / "step-000000002")


def same_json(a, b):
    try:
        return json.loads(a) == json.loads(b)
    except ValueError:
        return False


def test_swapped_files(two):
    folder = two / "step-000000002"
    os.rename(folder / "net.pt", folder / "x")
    os.rename(folder / "loader.pt", folder / "net.pt")
    os.rename(folder / "x", folder / "loader.pt")
    check_falls_back(two, "net.pt")


def test_files_of_another_step(two):
    shutil.copy(two / "step-000000001" / "net.pt", two / "step-000000002" / "net.pt")
    check_falls_back(two, "net.pt: sha256 mismatch")


def test_a_renamed_checkpoint_is_not_of_that_step(two):
    os.rename(two / "step-000000002", two / "step-000000009")
    said = []
    check_is(ck.load_latest(two, said.append), 1)
    assert "says step 2" in said[0]


def test_none_intact_is_an_error_now_and_later(two):
    for step in (1, 2):
        (two / f"step-{step:09d}" / "net.pt").write_bytes(b"x")
    for _ in range(2):  # also when the damaged ones were set aside by an earlier start
        with pytest.raises(CheckpointError, match="no checkpoint .* is intact") as caught:
            ck.load_latest(two, quiet)
        assert caught.value.exit_code == 3
    ck.supersede(two, -1, quiet)
    assert ck.load_latest(two, quiet) is None
    assert all("superseded" in name for name in names(two))


def test_a_second_damaged_one_of_the_same_step_does_not_collide(two):
    for _ in range(3):
        (two / "step-000000002" / "net.pt").write_bytes(b"x")
        check_is(ck.load_latest(two, quiet), 1)
        save(two, 2)
    assert names(two)[2:] == ["step-000000002.bad", "step-000000002.bad2", "step-000000002.bad3"]


@pytest.mark.parametrize("link", [False, True])
def test_what_is_no_folder_under_a_checkpoints_name_is_passed_over(tmp_path, link):
    odd = tmp_path / "step-000000009"
    odd.symlink_to("nowhere") if link else odd.write_text("notes")
    what = "step-000000009 is a link that leads nowhere" if link else "step-000000009 is a file"
    with pytest.raises(CheckpointError, match=f"^there is no checkpoint in .*, but {what}: bring"):
        ck.newest_good(tmp_path)
    said = []
    ck.save_state(tmp_path, 5, {"net": {"x": torch.ones(2)}}, {}, say=said.append)
    assert said == [] and ck.steps_of(tmp_path) == [5]
    assert ck.newest_good(tmp_path, said.append) == tmp_path / "step-000000005"
    assert said.pop() == f"{tmp_path}: {what}, no checkpoint: passed over" and os.path.lexists(odd)
    ck.save_state(tmp_path, 9, {"net": {"x": torch.ones(2)}}, {}, say=said.append)
    assert said[0].endswith("not a checkpoint; renamed step-000000009.foreign") and len(said) == 1
    assert ck.load_latest(tmp_path, said.append).step == 9 and len(said) == 1


def test_a_manifest_of_any_size_is_damage(two):
    os.truncate(two / "step-000000002" / "manifest.json", 100 << 30)
    os.truncate(two / "step-000000001" / "meta.json", 100 << 30)
    with pytest.raises(CheckpointError, match="sha256 mismatch"):
        ck.read_meta(two / "step-000000001")
    said = []
    with pytest.raises(CheckpointError, match="no checkpoint in .* is intact"):
        ck.newest_good(two, said.append)
    assert "manifest.json: 107374182400 bytes, too large; renamed" in said[0]


def test_a_newer_format_is_not_damage(two):
    path = two / "step-000000002" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["format"] = 2
    manifest["digest"] = ck._digest(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="newer version"):
        ck.load_latest(two, quiet)
    assert names(two) == ["step-000000001", "step-000000002"]


def test_supersede_renames_what_is_later_and_deletes_nothing(tmp_path):
    for step in range(1, 6):
        save(tmp_path, step, milestone=True)
    ck.supersede(tmp_path, 3, quiet)
    assert ck.steps_of(tmp_path) == [1, 2, 3]
    assert names(tmp_path)[3:] == ["step-000000004.superseded", "step-000000005.superseded"]


# -------------------------------------------------------------------------------- what may be saved


class Thing:
    pass


@pytest.mark.parametrize(
    "bad",
    [np.zeros(2), np.float64(1), Thing(), Thing, lambda: 0, {1, frozenset([2])}, range(3)],
    ids=lambda bad: type(bad).__name__,
)
def test_what_could_not_be_loaded_is_refused_when_saving(tmp_path, bad):
    with pytest.raises(CheckpointError, match=r"sampler\['deep'\]\[0\]"):
        ck.save_state(tmp_path, 1, {"sampler": {"deep": [bad]}}, {})
    assert not tmp_path.exists() or names(tmp_path) == []


def test_what_is_allowed_loads(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 3, 5])
    plain = {
        "t": torch.arange(3),
        "bf16": torch.ones(2, dtype=torch.bfloat16),
        "counter": Counter("aab"),
        "size": torch.Size([1, 2]),
        "dtype": torch.float16,
        "set": {1, 2},
        "bytes": b"x",
        "tuple": (1, (2, None)),
        3: "int key",
    }
    state = {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "plain": plain,
    }
    ck.save_state(tmp_path, 1, state, {})
    loaded = ck.load_latest(tmp_path).state
    assert equal(loaded["net"], dict(net.state_dict()))
    assert equal(loaded["plain"], plain)
    assert loaded["schedule"]["milestones"] == Counter([3, 3, 5])
    optimizer.load_state_dict(loaded["optimizer"])


def test_a_view_is_saved_without_what_it_is_a_view_of(tmp_path):
    big = torch.zeros(1_000_000)
    path = ck.save_state(tmp_path, 1, {"x": {"part": big[5:8], "row": big.view(1000, -1)[3]}}, {})
    assert (path / "x.pt").stat().st_size < 20_000


def test_a_poisoned_file_inside_a_checkpoint_with_right_hashes_is_refused(two):
    """Whoever can write the checkpoint can write its hashes too."""
    marker, folder = two / "executed", two / "step-000000002"
    torch.save(Bomb(marker), folder / "net.pt")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["net.pt"] = {
        "size": (folder / "net.pt").stat().st_size,
        "sha256": hash_file(folder / "net.pt"),
    }
    manifest["digest"] = ck._digest(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="refused: global posix.system"):
        ck.load_latest(two, quiet)
    assert not marker.exists()


def test_a_manifest_that_is_no_file_is_one_line(tmp_path):
    path = ck.save_state(tmp_path, 1, {"a": {"x": torch.zeros(2)}}, {})
    (path / "manifest.json").unlink()
    (path / "manifest.json").mkdir()
    with pytest.raises(CheckpointError, match="Is a directory"):
        ck.read_meta(path)
