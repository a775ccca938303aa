import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import data
from data.pyramids import Pyramid
from data.readers.layout import list_files
from data.readers.lmdb_store import LmdbSource
from data.registry import open_source
from data.SetupDataset import get_parser, main
from storage.errors import DataBusyError
from storage.files import locked
from tests.data.pictures import make_set, zip_folder

SCRIPT = Path(data.__file__).parent / "SetupDataset.py"


def run(*words):
    return main([str(w) for w in words])


@pytest.mark.parametrize(
    ("words", "sizes"),
    [
        ([], [16, 32, 64, 128, 256]),
        (["--sizes", "16", "32"], [16, 32]),
        (["--sizes", "[16,", "32,", "64]"], [16, 32, 64]),
        (["--sizes", "[16,32]"], [16, 32]),
        (["--sizes", "[32, 16, 16]"], [16, 32]),
        (["--sizes", "0"], []),
        (["--sizes", "-1"], []),
        (["--sizes", "[-1]"], []),
    ],
)
def test_sizes(words, sizes):
    assert get_parser().parse_args(["--data", "x", *words]).sizes == sizes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sizes", "a"], "not a list of whole numbers"),
        (["--sizes", "16.5"], "not a list of whole numbers"),
        (["--sizes", "0", "16"], "must lie in 1"),
        (["--sizes", "999999"], "must lie in 1"),
        (["--sizes", "[]"], "at least one number"),
        (["--data", "../evil"], "cannot be a data set's name"),
        (["--data", "train"], "cannot be a data set's name"),
        (["--data", "scenes"], "nothing to prepare"),
        (["--data", "cv"], "means something else"),
        (["--data", "downloads"], "means something else"),
        (["--data", "cls_first"], "means something else"),
        (["--workers", "-1"], "number of processes"),
        (["--workers", "nan"], "number of processes"),
        (["--crop", "fit"], "invalid choice"),
        (["--source", "a", "--use_existing", "b"], "not both"),
    ],
)
def test_usage_errors_exit_2(words, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as caught:
        run("--data", "x", "--data_path", tmp_path, *words)
    assert caught.value.code == 2 and message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_needed(capsys):
    with pytest.raises(SystemExit):
        main([])
    assert "--data NAME is needed" in capsys.readouterr().err


def test_from_folder_to_pyramid(tmp_path, capsys):
    make_set(tmp_path / "src", {"train": {"a": 3, "b": 2}, "val": {"a": 1}})
    words = ["--data", "mine", "--data_path", tmp_path / "d", "--sizes", "8", "16"]
    assert run(*words, "--source", tmp_path / "src", "--also_cls_first") == 0
    assert "train with --data mine --data_path" in capsys.readouterr().err
    assert list_files(tmp_path / "d/cls_first/mine_8x8/a") == [
        "train/000.png",
        "train/001.png",
        "train/002.png",
        "val/000.png",
    ]
    pyramid = Pyramid(open_source("mine", tmp_path / "d"), [8, 16])
    assert pyramid._native == {8: True, 16: True} and len(pyramid) == 5
    assert run(*words) == 0  # the source need not be named again
    assert "up to date" in capsys.readouterr().err


def test_the_default_place_need_not_be_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DATA_HOME", str(tmp_path / "d"))
    make_set(tmp_path / "src", {"train": {"a": 3}})
    assert run("--data", "mine", "--sizes", "0", "--source", tmp_path / "src") == 0
    assert "train with --data mine\n" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["camnet3_lmdb", "camnet3_deci_lmdb"])
def test_lmdb_of_camnet3(tmp_path, name, capsys):
    make_set(tmp_path / "camnet3", {"train": {"a": 20, "b": 10}, "val": {"a": 2, "b": 1}})
    assert run("--data", name, "--data_path", tmp_path, "--sizes", "8", "16") == 0
    source = open_source(name, tmp_path)
    assert isinstance(source, LmdbSource)
    assert len(source) == (3 if "deci" in name else 30) and source.classes == ["a", "b"]
    assert len(open_source(name, tmp_path, split="val")) == 3
    plain = Pyramid(open_source(name.removesuffix("_lmdb"), tmp_path), [8, 16])
    stored = Pyramid(source, [8, 16])
    assert stored._native == {8: True, 16: True}
    for i in range(len(source)):
        assert (plain[i][1][0] == stored[i][1][0]).all() and plain.label(i) == stored.label(i)
    capsys.readouterr()
    assert run("--data", name, "--data_path", tmp_path, "--sizes", "8", "16") == 0
    assert capsys.readouterr().err.count("up to date") == 6


def test_lmdb_of_any_set_unresized(tmp_path):
    make_set(tmp_path / "src", {"train": {"a": 3, "b": 3}})
    words = ["--data", "mine", "--lmdb", "--sizes", "0", "--data_path", tmp_path / "d"]
    assert run(*words, "--source", tmp_path / "src") == 0
    source = open_source("mine_lmdb", tmp_path / "d")
    assert source.image(0).shape == (24, 30, 3) and len(source) == 6
    want = open_source("mine", tmp_path / "d")
    assert all((source.image(i) == want.image(i)).all() for i in range(6))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--data", "nothing"], 6, "give --source FOLDER or ARCHIVE"),
        (["--data", "x", "--source", "/no/such"], 6, "does not exist"),
        (["--data", "x", "--source", __file__], 6, "neither a folder nor"),
        (["--data", "x", "--use_existing", "/no/such"], 6, "does not exist"),
        (["--data", "x" * 300], 7, "File name too long"),
    ],
)
def test_bad_data_is_one_line(tmp_path, capsys, words, code, message):
    assert run(*words, "--data_path", tmp_path) == code
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == []


def test_second_process_is_told(tmp_path, capsys):
    with locked(tmp_path / ".x.lock", wait=False, what="x"):
        assert run("--data", "x", "--source", tmp_path, "--data_path", tmp_path) == 4
    assert f"being prepared by process {os.getpid()}" in capsys.readouterr().err


def test_kill_9_at_random_moments_then_the_same_result(tmp_path):
    make_set(tmp_path / "src", {"train": {"a": 60, "b": 40}})
    archive = zip_folder(tmp_path / "src", tmp_path / "src.zip")
    commands = [["--sizes", "8", "16"], ["--sizes", "8", "16", "--lmdb"]]
    rng = random.Random(0)
    kills = 0
    for where in ("whole", "killed"):
        for words in commands:
            words = ["--data", "m", "--source", archive, "--data_path", tmp_path / where, *words]
            patience = 0.02
            while (status := _forked(words, patience if where == "killed" else None)) != 0:
                assert status == 9
                kills += 1
                patience *= rng.uniform(1.0, 1.6)
    assert kills >= 3
    whole, killed = ({p: _content(tmp_path / w / p) for p in _all(tmp_path / w)} for w in NAMES)
    assert whole == killed and any(p.startswith("m_16x16/") for p in whole)
    sources = [open_source("m_lmdb", tmp_path / w) for w in NAMES]
    assert all((sources[0].native(i, 8) == sources[1].native(i, 8)).all() for i in range(100))


NAMES = ("whole", "killed")


def _forked(words, patience):
    """Exit status of the command in a child, killed after `patience` seconds."""
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            code = run(*words, "--workers", "1")
        except BaseException:
            code = 99
        os._exit(code)
    if patience is not None:
        time.sleep(patience)
        os.kill(pid, 9)
    status = os.waitpid(pid, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def test_workers_of_a_killed_process_end_and_free_its_lock(tmp_path):
    make_set(tmp_path / "src", {"train": {"a": 200}})
    words = ["--data", "m", "--source", tmp_path / "src", "--data_path", tmp_path / "d"]
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        run(*words, "--sizes", "200", "--workers", "2")
        os._exit(0)
    children = Path(f"/proc/{pid}/task/{pid}/children")
    until = time.monotonic() + 20
    while len(children.read_text().split()) < 2:
        assert time.monotonic() < until
        time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    until = time.monotonic() + 10
    while True:
        try:
            with locked(tmp_path / "d/.m.lock", wait=False, what="m"):
                return
        except DataBusyError:
            assert time.monotonic() < until, "orphans still hold the lock"
            time.sleep(0.02)


@pytest.mark.parametrize(("what", "limits"), [("--sizes", (0, 400)), ("--lmdb", (0, 400, 40_000))])
def test_full_disk_is_one_line_and_goes_on_later(tmp_path, what, limits):
    make_set(tmp_path / "src", {"train": {"a": 3}})
    words = ["--data", "m", "--source", tmp_path / "src", "--data_path", tmp_path / "d"]
    words += ["--sizes", "100"] + ["--lmdb"] * (what == "--lmdb")
    command = [sys.executable, str(SCRIPT), *map(str, words), "--workers", "0"]
    for limit in limits:

        def shrink(limit=limit):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

        full = subprocess.run(command, capture_output=True, text=True, preexec_fn=shrink)
        assert full.returncode == 7, (limit, full.stderr)
        assert "Traceback" not in full.stderr and "cannot" in full.stderr.splitlines()[-1]
    assert run(*words) == 0
    spec = "m_lmdb" if what == "--lmdb" else "m"
    assert len(Pyramid(open_source(spec, tmp_path / "d"), [100])) == 3


def _all(root):
    """Files of a data directory but for locks, notes of times, and LMDB's own pages."""
    skip = ("manifest-", "origin", "data.mdb", "lock.mdb")
    return [p for p in list_files(root, lambda n: True) if not Path(p).name.startswith(skip)]


def _content(file):
    return file.read_bytes()


def test_from_a_checkout_without_install_and_without_torch(tmp_path):
    make_set(tmp_path / "src", {"train": {"a": 1}})
    spy = tmp_path / "spy"
    spy.mkdir()
    (spy / "torch.py").write_text("raise SystemExit('torch was imported')")
    command = [sys.executable, str(SCRIPT), "--data", "m", "--source", str(tmp_path / "src")]
    done = subprocess.run(
        [*command, "--sizes", "[8, 4]", "--data_path", str(tmp_path / "d")],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(spy)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "d/m_4x4/train/a/000.png").exists()


def test_the_last_lines_say_the_sizes_and_offer_the_weights_of_lpips(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MODELS_HOME", str(tmp_path / "models"))
    make_set(tmp_path / "in", {"train": {"a": 2}})
    words = ["--data", "mine", "--source", tmp_path / "in", "--data_path", tmp_path / "data"]
    assert run(*words, "--sizes", "8", "12", "--num_workers", "0") == 0
    *_, ready, offer = capsys.readouterr().err.splitlines()
    assert "mine, at 8 12; train with --data mine --data_path" in ready
    assert offer.endswith("python data/SetupDataset.py fetch-weights") and "vgg16" in offer
    assert run(*words, "--sizes", "0", "--num_workers", "0") == 0
    assert "mine; train with --data mine" in capsys.readouterr().err

    from data.prepare.weights import vgg_file

    file = vgg_file(tmp_path / "models")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    assert run(*words, "--sizes", "0", "--num_workers", "0") == 0
    assert "fetch-weights" not in capsys.readouterr().err
    monkeypatch.setenv("MODELS_HOME", str(file / "no"))  # nothing depends on it
    assert run(*words, "--sizes", "0", "--num_workers", "0") == 0
