"""runs.py: listing, showing, comparing, ranking and removing runs by what their folders say."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipes.runs import figures, layout
from recipes.runs.reading import find_run, read_run, scan
from storage import files
from storage.errors import RunError, UsageError
from tests.runtime import toy
from tests.scripts.made_runs import IMLE, leave_lock, make_run, write
from tests.scripts.support import ROOT, load

EDM2 = {"data": "mnist", "res": 32, "cond": True, "lr": 0.01, "selection": False, "acid": False}


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "results"
    folder.mkdir()
    monkeypatch.setenv("RESULTS_HOME", str(folder))
    return folder


@pytest.fixture
def runs(capsys):
    """runs.py in this process: words -> what it printed."""
    script = load("runs")

    def call(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        assert script.main(script.get_args(None, list(words))) == code
        return capsys.readouterr().out

    return call


def as_json(text: str):
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def command(*words: str, stdin=subprocess.DEVNULL, **env: str) -> subprocess.CompletedProcess:
    """runs.py as a process."""
    return subprocess.run(
        [sys.executable, "runs.py", *words],
        cwd=ROOT, env={**os.environ, **env}, stdin=stdin, capture_output=True, text=True,
        errors="replace", timeout=60,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------- ls


def test_ls_tells_what_matters_of_each_run_the_latest_first(home, runs):
    make_run(home, age=3 * 3600)
    rows = [{"step": 7, "Loss": 0.25, "loss/sigma 0-1": 0.3, "Learning rate": 0.01}]
    make_run(home, "edm2-mnist-baseline-11111111", script="train_edm2", options=EDM2, age=60,
             rows=rows)  # fmt: skip
    lines = runs("ls").splitlines()
    assert " ".join(lines[0].split()) == "name method task data state step figures when"
    assert re.fullmatch(
        r"edm2-mnist-baseline-11111111  EDM2 +32 px, all images +mnist +finished +20  "
        r"Loss 0\.2500 +1 min ago", lines[1],
    ), lines[1]  # fmt: skip
    assert re.fullmatch(
        r"camnet-photos-0a1b2c3d +IMLE +super-resolution, 8 to 32 px +photos +finished +20  "
        r"val/best_psnr 18\.00, val/psnr 14\.00 +3 h ago", lines[2],
    ), lines[2]  # fmt: skip
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("script", "options", "method", "task", "data"),
    [
        (
            "TrainGeneratorWandB",
            {**IMLE, "unconditional": True},
            "IMLE",
            "unconditional, 32 px",
            "photos",
        ),
        (
            "TrainGeneratorWandB",
            {**IMLE, "res": [64, 64], "grayscale": 1},
            "IMLE",
            "colorization, 64 px",
            "photos",
        ),
        (
            "TrainGeneratorWandB",
            {**IMLE, "res": [32, 64], "mask_frac": 0.2},
            "IMLE",
            "inpainting, 32 to 64 px",
            "photos",
        ),
        ("train_edm2", {**EDM2, "selection": True, "acid": True}, "EDM2", "32 px, JEST", "mnist"),
        (
            "train_edm2",
            {**EDM2, "acid": True, "guide_path": "x", "early": True, "cond": False},
            "EDM2",
            "32 px, AJEST early, no classes",
            "mnist",
        ),
        ("train_edm2", {"data": "x", "cond": True}, "EDM2", "the data's own size, all images", "x"),
        ("train_edm2", {**EDM2, "selection": True}, "EDM2", "32 px, random", "mnist"),
        (
            "TrainSimCLR",
            {"data": "cifar10", "backbone": "resnet18"},
            "SimCLR",
            "resnet18",
            "cifar10",
        ),
        (
            "TrainSimCLR",
            {"data": "cifar10", "probe_only": "pixels"},
            "SimCLR",
            "probes only",
            "cifar10",
        ),
        (
            "TrainISICLE",
            {"data": "cifar10", "backbone": "resnet18", "pair": "mixed"},
            "ISICLE",
            "resnet18, mixed views",
            "cifar10",
        ),
        (
            "toy_example",
            {"cls": "A", "layers": 2, "dim": 16},
            "EDM2 toy",
            "2 x 16, all images",
            "tree A",
        ),
        ("train_autoencoder", {"data": "scenes"}, "train_autoencoder", "-", "scenes"),
        ("TrainGeneratorWandB", {"res": "?"}, "IMLE", "-", "-"),
    ],
)
def test_method_task_and_data(home, runs, script, options, method, task, data):
    make_run(home, script=script, options=options)
    (run,) = as_json(runs("ls", "--json"))["runs"]
    assert (run["method"], run["task"], run["data"]) == (method, task, data)


def test_ls_as_json_has_the_promised_keys(home, runs):
    folder = make_run(home)
    told = as_json(runs("ls", "--json"))
    assert told.keys() == {"results", "runs", "unreadable", "others"}
    assert told["results"] == [str(home)] and told["unreadable"] == told["others"] == []
    (run,) = told["runs"]
    assert run.pop("started").startswith("20") and run.pop("updated").startswith("20")
    assert run == {
        "name": "camnet-photos-0a1b2c3d", "path": str(folder), "script": "TrainGeneratorWandB",
        "hash": "0a1b2c3d", "method": "IMLE", "task": "super-resolution, 8 to 32 px",
        "data": "photos", "state": "finished", "message": "", "holder": None, "step": 20,
        "nimg": 160, "snapshot": str(folder / "snapshots" / "network-latest.safetensors"),
        "figures": {
            "val/psnr": {"step": 20, "value": 14.0}, "val/best_psnr": {"step": 20, "value": 18.0},
            "batch loss": {"step": 20, "value": 0.4}, "nimg": {"step": 20, "value": 160.0},
        },
    }  # fmt: skip


def test_ls_filters_and_sorts(home, runs):
    make_run(home, "a-00000001", age=10 * 86400)
    make_run(home, "b-00000002", script="train_edm2", options=EDM2, state="preempted", age=7200)
    make_run(home, "c-00000003", script="TrainSimCLR", options={"data": "Mnist"}, age=60)

    def listed(*words: str) -> str:
        told = as_json(runs("ls", "--json", *words))["runs"]
        return "".join(run["name"][0] for run in told)

    assert listed() == "cba" and listed("--sort", "name") == "abc"
    assert listed("--limit", "2") == "cb" and listed("--limit", "0") == "cba"
    assert listed("--script", "train_edm2") == listed("--script", "edm2") == "b"
    assert listed("--script", "train_edm2.py") == "b" and listed("--script", "nothing") == ""
    assert listed("--state", "preempted") == "b" and listed("--data", "mnist") == "cb"
    assert listed("--since", "2d") == "cb" and listed("--since", "30min") == "c"
    assert listed("--since", "2001-05-05") == "cba"
    assert "no such runs" in runs("ls", "--state", "failed")


@pytest.mark.parametrize("word", ["soon", "3", "-2d", "2026-13-01", ""])
def test_a_time_that_is_none_is_refused(home, runs, word, capsys):
    with pytest.raises(SystemExit):
        runs("ls", f"--since={word}")
    assert "is no time: 30min, 12h, 2d" in capsys.readouterr().err


def test_ls_looks_into_other_folders_too(home, runs, tmp_path):
    make_run(home)
    there = make_run(tmp_path / "other", "x-00000009").parent.parent
    deep = make_run(home, "deep-00000008", script="train_edm2/by/outdir")
    assert {r["name"] for r in as_json(runs("ls", "--json"))["runs"]} == {
        "camnet-photos-0a1b2c3d", deep.name
    }  # fmt: skip
    both = as_json(runs("ls", str(there), str(home), "--json"))["runs"]
    assert len(both) == 3
    assert [r["name"] for r in as_json(runs("ls", "--json", "--results_path", str(there)))["runs"]]
    assert [r["name"] for r in as_json(runs("ls", "--json", str(deep)))["runs"]] == [deep.name]
    with pytest.raises(UsageError, match="nowhere: no such folder"):
        runs("ls", str(tmp_path / "nowhere"))


def test_an_empty_results_folder(home, runs):
    assert runs("ls") == f"no runs in {home}\n"
    assert as_json(runs("ls", "--json"))["runs"] == []


# ------------------------------------------------------------------------------------------ states


@pytest.mark.parametrize("state", ["finished", "failed", "preempted", "stopped"])
def test_a_state_is_as_the_run_wrote_it(home, state):
    assert read_run(make_run(home, state=state)).state == state


def test_running_is_who_holds_the_lock_and_died_who_held_it(home, runs):
    folder = make_run(home, state="running")
    assert read_run(folder).state == "died"
    leave_lock(folder)
    assert read_run(folder).state == "died"
    lock = files.Lock(folder / "lock", json.dumps({"host": "node7", "pid": 12, "job": "345"}))
    run = read_run(folder)
    assert run.state == "running" and run.holder == "job 345 on node7"
    assert as_json(runs("ls", "--json"))["runs"][0]["holder"] == "job 345 on node7"
    lock.release()
    assert read_run(folder).state == "died"


def test_a_finished_run_that_is_looked_into_again_is_running(home):
    folder = make_run(home)
    lock = files.Lock(folder / "lock", "no json")
    assert (read_run(folder).state, read_run(folder).holder) == ("running", "another process")
    lock.release()
    assert read_run(folder).state == "finished"


def test_a_run_of_another_machine_is_alive_as_long_as_it_writes(home):
    folder = make_run(home, state="running")
    leave_lock(folder, "another-host")
    assert read_run(folder).state == "running"
    old = make_run(home, "old-00000001", state="running", age=3600)
    leave_lock(old, "another-host")
    for file in old.iterdir():
        os.utime(file, (time.time() - 3600,) * 2)
    assert read_run(old).state == "died"


def test_a_copy_is_as_old_as_the_run(home, tmp_path):
    old = make_run(home, age=5000)
    copy = shutil.copytree(old, tmp_path / "copied", copy_function=shutil.copyfile)
    assert layout.ago(read_run(copy).updated) == layout.ago(read_run(old).updated) == "1 h ago"
    (copy / "status.json").unlink()
    (copy / "metrics.jsonl").unlink()
    assert layout.ago(read_run(copy).updated) in ("now", *(f"{k} s ago" for k in range(60)))


def test_a_launch_that_has_not_begun_is_new(home):
    run = read_run(make_run(home, state=None, rows=[]))
    assert run.state == "new" and run.step is None


def test_a_run_is_read_while_it_runs_and_after(tmp_path):
    """What `Run` itself writes, not what these tests make up."""
    with toy.open_run(toy.toy_args(tmp_path)) as run:
        found = read_run(run.dir)
        assert found.hash == run.config_hash
        assert found.state == "running" and f"process {os.getpid()} on " in str(found.holder)
        folder = run.dir
    assert read_run(folder).state == "stopped" and read_run(folder).holder is None
    toy.train(toy.toy_args(tmp_path, total=7))
    (found,) = [run for run in scan([tmp_path]).runs if run.state == "finished"]
    assert (
        found.step == 7 and found.options["total"] == 7 and "loss" in figures.newest(found.rows())
    )


def test_figures_may_be_further_than_the_status(home):
    folder = make_run(home, state="running", rows=[{"step": 48, "batch loss": 1.0, "nimg": 480}])
    run = read_run(folder)
    assert run.step == 48 and run.nimg == 480


# ------------------------------------------------------------------- what is damaged or no run's


def test_damaged_runs_are_named_and_the_others_listed(home, runs):
    make_run(home)
    half = make_run(home, "half-00000002")
    (half / "args.json").write_text('{"script": "Tra')
    gone = make_run(home, "gone-00000003")
    (gone / "args.json").unlink()
    foreign = make_run(home, "foreign-00000004")
    write(foreign / "args.json", ["no", "run"])
    binary = make_run(home, "binary-00000005")
    (binary / "args.json").write_bytes(bytes(range(256)))
    out = runs("ls")
    assert out.count("camnet-photos") == 1
    reasons = {half: "args.json cannot be read", gone: "no args.json", binary: "cannot be read",
               foreign: "not of a run of this toolkit"}  # fmt: skip
    for folder, why in reasons.items():
        assert re.search(rf"^cannot be read: {folder}: .*{why}.*$", out, re.M), why
    told = as_json(runs("ls", "--json"))
    assert len(told["unreadable"]) == 4 and len(told["runs"]) == 1
    with pytest.raises(UsageError, match=r"half-00000002: args\.json cannot be read"):
        runs("show", "half")


@pytest.mark.parametrize("name", ["status.json", "metrics.jsonl", "launches.jsonl", "lock"])
@pytest.mark.parametrize(
    "bytes_",
    [b"", b"\x00\xff{", b'{"step": "x", "state": 3, "time": []}\n{"step": 5', b"[[[[" * 9999],
    ids=["empty", "binary", "half", "deep"],
)
def test_half_written_files_are_read_as_far_as_they_go(home, runs, name, bytes_):
    folder = make_run(home)
    (folder / name).write_bytes(bytes_)
    assert "camnet-photos-0a1b2c3d" in runs("ls")
    assert "camnet-photos-0a1b2c3d" in runs("show", "camnet", "--json")
    assert "camnet-photos-0a1b2c3d" in runs("show", "camnet")
    (folder / name).unlink()
    (folder / name).mkdir()
    assert "camnet-photos-0a1b2c3d" in runs("ls") and runs("show", "camnet")


def test_what_is_no_number_is_no_figure(home, runs):
    folder = make_run(home, rows=[])
    (folder / "metrics.jsonl").write_text(
        '{"step": 1, "val/psnr": 3.0, "a": "word", "b": [1], "c": true}\n'
        '{"step": 2, "val/psnr": null, "a": NaN, "loss": Infinity}\n'
        '{"step": 2.5, "val/psnr": 9}\n{"val/psnr": 9}\n7\n{"step": 3, "val/ps'
    )
    (run,) = as_json(runs("ls", "--json"))["runs"]
    assert run["figures"] == {"val/psnr": {"step": 1, "value": 3.0}}
    told = as_json(runs("show", "camnet", "--json"))["figures"]
    assert told == {
        "val/psnr": {
            "newest": {"step": 1, "value": 3.0}, "best": {"step": 1, "value": 3.0}, "better": "max"
        }
    }  # fmt: skip


def test_other_folders_are_left_alone_and_said(home, runs):
    make_run(home)
    pictures = home / "generate_images" / "network-latest-1234abcd"
    pictures.mkdir(parents=True)
    (pictures / "provenance.json").write_text("{}")
    (home / "wandb").mkdir()
    out = runs("ls")
    assert out.splitlines()[-1].startswith("1 other folder is no run (pictures drawn, say)")
    assert f"no run: {home / 'generate_images'}" in runs("ls", "--all")
    (pictures.parent / "other-1234abcd").mkdir()
    assert runs("ls").splitlines()[-1].startswith("2 other folders are no runs")
    assert f"no run: {pictures}\n" in runs("ls", "--all")
    with pytest.raises(UsageError, match="is a folder, but no run's"):
        runs("show", str(pictures))
    with pytest.raises(UsageError, match="no run's"):
        runs("rm", "--yes", str(pictures))
    assert (pictures / "provenance.json").exists()


def snapshot_of(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.lstat().st_mtime_ns, p.lstat().st_size) for p in folder.rglob("*")}


def test_looking_writes_nothing_and_needs_no_right_to(home, runs):
    folder = make_run(home, state="running")
    make_run(home, "b-00000002")
    before = snapshot_of(home)
    for path in [*home.rglob("*"), home]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        for words in (["ls"], ["show", "camnet"], ["compare", "camnet", "b-"],
                      ["best", "--by", "val/psnr"], ["ls", "--json"]):  # fmt: skip
            assert runs(*words)
    finally:
        for path in [home, *home.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert snapshot_of(home) == before and folder.is_dir()


def test_looking_is_quick_and_needs_no_torch(home):
    """Two hundred runs; what takes time is Python's start, so the modules are what is looked at."""
    rows = [{"step": k, "batch loss": 1 / (k + 1), "val/psnr": k} for k in range(50)]
    for k in range(200):
        make_run(home, f"run-{k:08d}", rows=rows)
    code = (
        "import sys, time, runpy; start = time.process_time(); sys.argv = ['runs.py', 'ls']\n"
        "try: runpy.run_path('runs.py', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'numpy', 'PIL', 'safetensors'} & sys.modules.keys()\n"
        "print(heavy, time.process_time() - start, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ, capture_output=True, text=True
    )
    heavy, seconds = done.stderr.rsplit(" ", 1)
    assert heavy == "set()" and len(done.stdout.splitlines()) == 201
    assert float(seconds) < 3, "0.3 s on an idle machine"


# ------------------------------------------------------------------------------------------- names


def test_a_run_is_found_by_what_one_has_at_hand(home, monkeypatch):
    folder = make_run(home)
    make_run(home, "camnet-clothes-11112222")
    for word in ("camnet-photos-0a1b2c3d", "camnet-ph", "0a1b2c3d", str(folder), f"{folder}/",
                 "TrainGeneratorWandB/camnet-photos-0a1b2c3d",
                 "TrainGeneratorWandB/camnet-p"):  # fmt: skip
        assert find_run(word, [home]) == folder, word
    monkeypatch.chdir(folder.parent)
    assert find_run("camnet-photos-0a1b2c3d", []) == folder
    monkeypatch.chdir(folder)
    assert find_run("../camnet-photos-0a1b2c3d", []) == folder


def test_a_whole_name_is_meant_before_the_beginning_of_another(home):
    one = make_run(home, "run-00000001")
    make_run(home, "run-00000001x-00000002")
    assert find_run("run-00000001", [home]) == one


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("camnet", r"camnet may be .*camnet-clothes-11112222.*camnet-photos-0a1b2c3d.*more of the"),
        ("edm2", r"edm2: no run of that name in .*results; `runs.py ls` lists them"),
        ("", "no run of that name"),
        ("..", "is a folder, but no run's|no run of that name"),
        ("*", "no run of that name"),
    ],
)
def test_a_name_that_is_none_or_several(home, word, said):
    make_run(home)
    make_run(home, "camnet-clothes-11112222")
    with pytest.raises(UsageError, match=said):
        find_run(word, [home])


def test_a_link_to_a_run_is_listed(home, tmp_path):
    real = make_run(tmp_path / "elsewhere")
    (home / "TrainGeneratorWandB").mkdir()
    (home / "TrainGeneratorWandB" / "linked").symlink_to(real)
    (home / "loop").symlink_to(home)
    (home / "itself").symlink_to("itself")
    (home / "nowhere").symlink_to("not/there")
    assert [run.name for run in scan([home]).runs] == ["linked"]


# -------------------------------------------------------------------------------------------- show


def test_show_tells_all_of_a_run(home, runs):
    folder = make_run(home, options={**IMLE, "preset": "smoke", "mask_frac": 0.5, "cv_frac": 0.1})
    out = runs("show", "camnet")
    for line in (
        r"folder      " + re.escape(str(folder)),
        r"method      IMLE \(TrainGeneratorWandB\.py\): inpainting, 8 to 32 px",
        r"state       finished",
        r"step        20, 160 images seen",
        r"begun       20\S+, 1 launch",
        r"code        commit abc123abc1 and changes, Python 3\.11\.1, on here",
        r"typed       /env/bin/python TrainGeneratorWandB\.py --data_tr 'my photos'",
        r"options that are not at their defaults, among them those of --preset smoke",
        r"  --mask_frac 0\.5",
        r"  --res 8 16 32",
        r"to train it for longer: this, with a larger --outer_loops",
        r"  val/best_psnr +18\.00 +20 +18\.00 +20",
        r"  val/psnr +14\.00 +20 +15\.00 +10",
        r"  batch loss +0\.4000 +20 +0\.2000 +15",
        r"files, \S+ kB",
        r"  checkpoints/ +3\.0 kB  1 file",
        r"  cd '/some where' && /env/bin/python TrainGeneratorWandB\.py --data_tr 'my photos'",
        rf"  python generate_images\.py --net {folder}/snapshots/network-latest\.safetensors "
        r"--data photos",
    ):
        assert re.search(rf"^{line}$", out, re.M), line
    assert "--cv_frac" not in out and "--preset smoke\n  --preset" not in out


def test_show_as_json_has_the_promised_keys(home, runs):
    make_run(home)
    told = as_json(runs("show", "0a1b2c3d", "--json"))
    listed = as_json(runs("ls", "--json"))["runs"][0]
    assert told.keys() == listed.keys() | {
        "options", "changed", "preset", "files", "bytes", "launches", "commands", "origin"
    }  # fmt: skip
    assert told["commands"].keys() == {"typed", "go_on", "use"}
    assert told["options"] == IMLE and told["bytes"] == sum(f["bytes"] for f in told["files"])


def launch(folder: Path, step: int, **options) -> None:
    """A later launch, that began at a step."""
    record = {"from_step": step, "args": {**EDM2, **options}}
    with open(folder / "launches.jsonl", "a") as file:
        file.write(json.dumps(record) + "\n")


def test_a_run_that_was_made_longer_has_that_length(home, runs):
    from imle_lab import open_run

    options = {"cls": "A", "seed": 1, "total_iter": 4}
    folder = make_run(home, "toy-00000001", script="toy_example", options=options)
    other = make_run(home, "toy-00000002", script="toy_example", options=options)
    launch(folder, 4, total_iter=20, seed=2)
    launch(folder, 20, total_iter=5)  # it has more: nothing was done
    assert as_json(runs("show", folder.name, "--json"))["options"] == options | {"total_iter": 20}
    assert re.search(r"--total-iter +20\n", runs("show", folder.name))
    told = as_json(runs("compare", folder.name, other.name, "--json"))
    assert (told["options"] | told["execution"])["total_iter"] == [20, 4]
    assert open_run(folder).options["total_iter"] == 20
    launch(folder, 20, total_iter=30)
    (folder / "status.json").write_text('{"state": "preempted", "step": 20}')
    assert open_run(folder).options["total_iter"] == 30


def test_the_options_that_say_how_long_a_run_is():
    from recipes.runs.defaults import table_of
    from recipes.runs.reading import LENGTHS
    from runtime.options import LENGTH, tagged

    scripts = (
        "TrainGeneratorWandB", "train_edm2", "train_ddpm", "train_omnigan", "TrainSimCLR",
        "TrainISICLE", "toy_example",
    )  # fmt: skip
    tables = {name: tagged(table_of(name), LENGTH) for name in scripts}
    assert all(tables.values())
    assert {name for names in tables.values() for name in names} | {"steps"} == set(LENGTHS)


def test_show_says_options_in_todays_words(home, runs):
    """A run begun before an option's value was renamed has the former one in its files."""
    make_run(home, script="TrainSimCLR", options={"head": "seed", "lr": 0.5, "data": "mnist"})
    told = as_json(runs("show", "camnet", "--json"))
    assert told["options"]["head"] == "seed" and told["changed"] == {"lr": 0.5, "data": "mnist"}


@pytest.mark.parametrize(
    ("script", "options", "use"),
    [
        ("train_edm2", EDM2, "generate_images.py --net"),
        ("TrainGeneratorWandB", {**IMLE, "unconditional": True}, "generate_images.py --net"),
        ("TrainGeneratorWandB", {**IMLE, "data_val": "cv"}, "--data photos"),
        ("TrainSimCLR", {"data": "my set"}, "--data 'my set'"),
        ("TrainISICLE", {"data": "x"}, "TrainSimCLR.py --probe_only"),
        ("TrainSimCLR", {"data": "x", "probe_only": "pixels"}, None),
    ],
)
def test_how_a_snapshot_is_used(home, runs, script, options, use):
    make_run(home, script=script, options=options)
    told = as_json(runs("show", "camnet", "--json"))["commands"]["use"]
    assert told is None if use is None else use in told


def test_nothing_to_use_and_nothing_to_go_on_with(home, runs):
    folder = make_run(home, state="running")
    (folder / "snapshots" / "network-latest.safetensors").unlink()
    lock = files.Lock(folder / "lock", "{}")
    out = runs("show", "camnet")
    lock.release()
    assert "to go on" not in out and "to use" not in out and "held by another process" in out


# ----------------------------------------------------------------------------------------- compare


def test_compare_shows_what_differs(home, runs):
    make_run(home)
    make_run(home, "camnet-clothes-11112222", options={**IMLE, "lr": 0.1, "data_tr": "clothes",
             "spi": 9, "new": 4}, rows=[{"step": 5, "val/psnr": 20.0}])  # fmt: skip
    out = runs("compare", "camnet-photos", "camnet-clothes")
    assert re.search(
        r"^A: +camnet-photos-0a1b2c3d +IMLE +finished +step 20 +data photos$", out, re.M
    )
    shaping, execution = out.split("how it ran")
    for line in (r"  --lr +0\.003 +0\.1", r"  --data +photos +clothes", r"  --new +- +4"):
        assert re.search(rf"^{line}$", shaping, re.M), line
    assert "--bs" not in out and re.search(r"^  --samples +4 +9$", execution, re.M)
    assert re.search(r"^  val/psnr +14\.00 +20\.00$", execution, re.M)
    assert re.search(r"^  batch loss +0\.4000 +-$", execution, re.M)
    told = as_json(runs("compare", "camnet-photos", "11112222", "--json"))
    assert told.keys() == {"runs", "options", "execution", "figures"}
    assert told["options"] == {
        "data_tr": ["photos", "clothes"], "lr": [0.003, 0.1], "new": [None, 4]
    }  # fmt: skip
    assert told["execution"] == {"spi": [4, 9]}
    assert told["figures"]["val/psnr"] == {
        "newest": [{"step": 20, "value": 14.0}, {"step": 5, "value": 20.0}],
        "best": [{"step": 10, "value": 15.0}, {"step": 5, "value": 20.0}],
        "better": "max",
    }


def test_compare_runs_of_two_scripts_by_what_both_have(home, runs):
    make_run(home)
    make_run(home, "edm2-00000001", script="train_edm2", options=EDM2)
    out = runs("compare", "camnet", "edm2")
    assert re.search(r"^  --lr +0\.003 +0\.01$", out, re.M) and "--data_tr" not in out
    assert "more are options of only some of these scripts" in out


def test_compare_equal_runs_and_too_few(home, runs, capsys):
    make_run(home)
    make_run(home, "twin-00000001")
    assert "no option differs that decides what is computed" in runs("compare", "twin", "camnet")
    with pytest.raises(SystemExit):
        runs("compare", "twin")
    assert "takes two runs or more" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------- best


def three(home: Path) -> None:
    for name, values in (("a", [3.0, 9.0, 1.0]), ("b", [4.0, 5.0, 6.0]), ("c", [])):
        rows = [{"step": k, "val/best_psnr": v, "val/lpips": v} for k, v in enumerate(values)]
        make_run(home, f"{name}-0000000{ord(name) % 9}", rows=rows)


def test_best_ranks_by_the_best_value_and_says_at_which_step(home, runs):
    three(home)
    told = as_json(runs("best", "--by", "val/best_psnr", "--json"))
    assert told.keys() == {"by", "better", "guessed", "runs"}
    assert told["better"] == "max" and told["guessed"]
    shown = [(r["rank"], r["run"]["name"][0], r["step"], r["value"], r["newest"]["value"])
             for r in told["runs"]]  # fmt: skip
    assert shown == [(1, "a", 1, 9.0, 1.0), (2, "b", 2, 6.0, 6.0)]
    told = as_json(runs("best", "--by", "val/lpips", "--json"))
    assert [(r["run"]["name"][0], r["value"]) for r in told["runs"]] == [("a", 1.0), ("b", 4.0)]
    told = as_json(runs("best", "--by", "val/lpips", "--max", "--json"))
    assert told["better"] == "max" and not told["guessed"] and told["runs"][0]["value"] == 9.0
    out = runs("best", "--by", "val/psnr_best", "--limit", "1")
    assert out.startswith("val/best_psnr: more is better, as its name tells")
    assert len(out.splitlines()) == 3


def test_best_of_a_figure_that_is_none(home, runs, capsys):
    three(home)
    with pytest.raises(
        UsageError, match="no run here has such a figure; there are 'val/best_psnr'"
    ):
        runs("best", "--by", "fid")
    with pytest.raises(UsageError, match="may be 'val/best_psnr', 'val/lpips': give the whole"):
        runs("best", "--by", "val")
    make_run(home, "d-00000009", rows=[{"step": 1, "strange": 1.0}])
    with pytest.raises(UsageError, match="--by strange: whether more or less is better"):
        runs("best", "--by", "strange")
    assert runs("best", "--by", "strange", "--min")
    for words in (["best"], ["best", "--by", "x", "--max", "--min"]):
        with pytest.raises(SystemExit):
            runs(*words)
        assert "--by is missing" in (err := capsys.readouterr().err) or "exclude" in err


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("val/best_psnr", "max"), ("val/ssim", "max"), ("acc_val", "max"), ("val/lpips", "min"),
        ("val/diversity_lpips_random", "max"), ("final/knn(k=20, h), 3 folds acc1", "max"),
        ("Loss", "min"), ("loss/sigma 0-0.15", "min"), ("FID", "min"), ("val/mse", "min"),
        ("contrastive_top1", "max"), ("time/images_per_s", "max"), ("time/step_s", "min"),
        ("Average Test EMA L2 Distance", "min"), ("lr", None), ("epoch", None), ("strange", None),
        ("Learning rate", None), ("FD", "min"), ("search loss", "min"),
        ("val/consistency", "min"), ("val/consistent_diversity_lpips", "max"), ("val/seam", "min"),
        ("val/chroma_error", "min"), ("val/diversity_share", "max"), ("val/best_gain", "max"),
    ],
)  # fmt: skip
def test_which_way_is_better(name, better):
    assert figures.direction_of(name) == better


# ---------------------------------------------------------------------------------------------- rm


def test_rm_without_a_terminal_removes_nothing(home, runs):
    folder = make_run(home)
    done = command("rm", "camnet")
    assert done.returncode == 2 and str(folder) in done.stdout and "kB" in done.stdout
    assert done.stderr.strip() == (
        "error: nothing is removed: there is nobody to ask; --yes removes without"
    )
    done = command("rm", "camnet", "--json")
    assert done.returncode == 2 and folder.is_dir()


@pytest.mark.parametrize(
    ("answer", "gone"),
    [("yes\n", True), ("y\n", True), ("no\n", False), ("\n", False), ("\x04", False)],
)
def test_rm_asks_and_does_what_it_is_told(home, answer, gone):
    folder, other = make_run(home), make_run(home, "other-00000001")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "runs.py", "rm", "camnet"],
        cwd=ROOT, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    os.write(ours, answer.encode())
    out, _ = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert "remove this run, " in out and "for good? yes or no" in out
    assert folder.is_dir() == (not gone) and other.is_dir() and "Traceback" not in out
    assert ("removed" if gone else "nothing is removed") in out
    assert os.listdir(folder.parent) == ([other.name] if gone else os.listdir(folder.parent))


def test_rm_yes_removes_all_that_is_named_and_nothing_else(home, runs):
    one, two = make_run(home), make_run(home, "other-00000001")
    kept = make_run(home, "kept-00000002")
    told = as_json(runs("rm", "camnet", "00000001", "other", "--yes", "--json"))
    assert [entry["path"] for entry in told["removed"]] == [str(one), str(two)]
    assert all(entry["bytes"] > 5000 for entry in told["removed"])
    assert os.listdir(kept.parent) == [kept.name]


def test_rm_refuses_a_running_run_and_with_it_all(home, runs):
    folder, other = make_run(home, state="running"), make_run(home, "other-00000001")
    lock = files.Lock(folder / "lock", json.dumps({"host": "h", "pid": 7, "job": None}))
    with pytest.raises(UsageError, match="nothing is removed: .*in use by process 7 on h"):
        runs("rm", "other", "camnet", "--yes")
    assert folder.is_dir() and other.is_dir()
    lock.release()


def test_rm_refuses_what_begins_to_run_meanwhile(home, monkeypatch):
    from recipes.runs import removal

    folder = make_run(home)
    assert removal.why_not(folder, [home]) is None
    lock = files.Lock(folder / "lock", "{}")
    with pytest.raises(RunError, match="in use by now") as caught:
        removal.remove_run(folder)
    assert caught.value.exit_code == 4 and folder.is_dir()
    lock.release()


def test_a_run_in_the_folder_of_another_is_listed_and_kept(home, runs):
    outer = make_run(home)
    inner = make_run(home, f"{outer.name}/second")
    (outer / "notes").mkdir()
    assert {run.path for run in scan([home]).runs} == {outer, inner}
    assert scan([home]).others == []
    with pytest.raises(UsageError, match=f"nothing is removed: .*another run in it, {inner}"):
        runs("rm", "--yes", outer.name)
    with pytest.raises(UsageError, match="another run in it"):
        runs("rm", "--yes", outer.name, "second")
    assert (inner / "args.json").exists() and (outer / "args.json").exists()
    runs("rm", "--yes", "second")
    assert outer.is_dir() and not inner.exists()
    from recipes.runs import removal

    assert removal.why_not(outer, [home]) is None
    deep = make_run(home, f"{outer.name}/checkpoints/a/b/c/d")  # begun meanwhile
    with pytest.raises(RunError, match="another run in it by now"):
        removal.remove_run(outer)
    shutil.rmtree(deep)
    runs("rm", "--yes", outer.name)
    assert not outer.exists()


def test_rm_refuses_links_and_what_lies_elsewhere(home, runs, tmp_path):
    real = make_run(tmp_path / "elsewhere")
    (home / "linked").symlink_to(real)
    with pytest.raises(UsageError, match="linked is a link; remove it yourself"):
        runs("rm", "--yes", str(home / "linked"))
    with pytest.raises(UsageError, match=r"is not in .*results \(--results_path says where\)"):
        runs("rm", "--yes", str(real))
    (home / "way").symlink_to(tmp_path / "elsewhere")  # a way out of the results
    with pytest.raises(UsageError, match="is not in"):
        runs("rm", "--yes", str(home / "way" / "TrainGeneratorWandB" / real.name))
    with pytest.raises(UsageError, match="is not in"):
        runs("rm", "--yes", str(real), "--results_path", str(real))
    assert (real / "args.json").exists() and (home / "linked").is_symlink()
    assert runs("rm", "--yes", real.name, "--results_path", str(tmp_path / "elsewhere"))
    assert not real.exists()


def test_rm_of_a_damaged_run_is_left_to_its_owner(home, runs):
    folder = make_run(home)
    (folder / "args.json").write_text("{")
    with pytest.raises(UsageError, match="nothing is removed: .*cannot be read"):
        runs("rm", "--yes", "camnet")
    assert folder.is_dir()


# ---------------------------------------------------------------------------------- the terminal


def test_tables_fit_the_terminal(home, runs, monkeypatch):
    make_run(home, "a-very-long-name-of-a-run-that-goes-on-and-on-0a1b2c3d")
    make_run(home, "b-00000001")
    monkeypatch.setattr("recipes.runs.layout.terminal_width", lambda: 80)
    monkeypatch.setattr(load("runs"), "terminal_width", lambda: 80)
    for words in (["ls"], ["best", "--by", "val/psnr"], ["compare", "a-very", "b-"]):
        lines = runs(*words).splitlines()
        assert max(map(len, lines)) <= 80, words
        assert any("~" in line for line in lines), words


def test_a_pipe_takes_whole_lines(home, runs):
    name = "a-very-long-name-of-a-run-that-goes-on-and-on-and-on-0a1b2c3d"
    make_run(home, name)
    assert name in command("ls", COLUMNS="20").stdout


def test_names_of_all_characters_are_shown_as_far_as_the_console_can(home):
    make_run(home, "Läufe-日本-0a1b2c3d", options={**IMLE, "data_tr": "bäume\x1b[31m"})
    done = command("ls", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 0 and "L?ufe-??-0a1b2c3d" in done.stdout and "\x1b" not in done.stdout
    done = command("show", "0a1b2c3d", PYTHONIOENCODING="utf-8")
    assert done.returncode == 0 and "Läufe-日本-0a1b2c3d" in done.stdout
    assert as_json(command("ls", "--json", PYTHONIOENCODING="ascii").stdout)["runs"]


def test_a_table_keeps_its_columns_under_wide_characters():
    lines = layout.table(
        [["name", "x"], ["日本語日本語", "1"], ["e\u0301", "2"]], width=12, shrink=[0]
    )
    assert [layout.columns_of(line) for line in lines] == [12, 12, 12] and "~" in lines[1]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (99_400, "99.4 kB"), (150_000, "150 kB"),
     (999_600, "1.0 MB"), (5_600_000_000, "5.6 GB"), (7e15, "7000 TB")],
)  # fmt: skip
def test_sizes(count, text):
    assert layout.size(count) == text


@pytest.mark.parametrize(
    ("past", "text"),
    [(0, "now"), (42, "42 s ago"), (180, "3 min ago"), (7300, "2 h ago"), (5 * 86400, "5 d ago")],
)
def test_times(past, text):
    assert layout.ago(time.time() - past) == text


def test_a_reader_that_goes_away_is_no_error(home):
    for k in range(300):
        make_run(home, f"run-{k:08d}", rows=[])
    process = subprocess.Popen(
        [sys.executable, "runs.py", "ls"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(timeout=60) == 0


def test_errors_are_one_line_and_an_exit_code(home):
    for words, said in (
        (["show", "nothing"], "error: nothing: no run of that name"),
        (["ls", "/no/such/folder"], "error: /no/such/folder: no such folder"),
        (["list"], "runs.py: error: argument command: invalid choice: 'list'"),
        ([], "the following arguments are required: command"),
        (["show"], "the following arguments are required: RUN"),
    ):
        done = command(*words)
        assert done.returncode == 2 and said in done.stderr, done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_help_shows_every_command():
    done = command("--help")
    assert done.returncode == 0
    for name in ("ls", "show", "compare", "best", "rm"):
        assert f"runs.py {name} " in done.stdout
        assert command(name, "--help").returncode == 0
