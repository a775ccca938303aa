"""The main job from its command line: options, a whole run, interruptions, wrong arguments."""

import gc
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
import weakref

import pytest
import torch
from PIL import Image

from storage import checkpoint
from storage.snapshot import load_snapshot
from tests import kill_harness as harness
from tests.scripts.support import ROOT, TINY, get_args, load, metrics, train

SCRIPT = load("TrainGeneratorWandB")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run of the tiny settings."""
    run_dir = tmp_path_factory.mktemp("train") / "run"
    train(run_dir)
    return run_dir


def test_a_whole_run(finished):
    """Every promised file is there and says what it should."""
    status = json.loads((finished / "status.json").read_text())
    assert (status["state"], status["step"], status["nimg"]) == ("finished", 12, 48)
    assert checkpoint.steps_of(finished / "checkpoints") == [4, 8, 12]  # milestones are kept
    loss = metrics(finished, "batch loss")
    assert sorted(loss) == list(range(1, 13)) and all(v > 0 for v in loss.values())
    rates = metrics(finished, "learning rate")  # of the step itself: warm-up of 2 steps, cosine
    assert rates[1] == pytest.approx(get_args(SCRIPT, TINY).lr / 2) and rates[12] > 0
    best = metrics(finished, "val/best_lpips_random")
    assert sorted(best) == [0, 4, 8, 12]
    assert not metrics(finished, "val/lpips")  # random weights never pass for LPIPS
    grids = sorted((finished / "samples").glob("val-*.png"))
    assert [int(re.search(r"(\d+)\.png", g.name)[1]) for g in grids] == [0, 4, 8, 12]
    with Image.open(grids[-1]) as grid:  # 2 rows of target | input | bicubic | 2 samples | spread
        assert grid.width >= 6 * 132 - 4 and 2 * 132 + 40 < grid.height < 2 * 132 + 120
    snapshot = load_snapshot(finished / "snapshots" / "network-latest.safetensors")
    assert snapshot.kind == "camnet" and snapshot.config["net"]["res"] == [8, 16]
    assert snapshot.provenance["step"] == 12


def test_learning_lowers_the_distance(tmp_path):
    """Not a quality claim: the loop must be connected, so that its own loss falls by a third."""
    words = "--outer_loops 10 --num_iteration 12 --lr 3e-3 --alpha 3 --base none --consistency none"
    train(tmp_path / "run", *words.split())
    best = metrics(tmp_path / "run", "val/best_combined")
    assert best[120] < 0.67 * best[0]


def test_the_same_command_on_a_finished_run_says_so(finished, capsys):
    before = (finished / "metrics.jsonl").read_text()
    train(finished)
    assert "finished" in capsys.readouterr().out
    assert (finished / "metrics.jsonl").read_text() == before


def same_end(run_dir, reference):
    assert not harness.differences(harness.final_state(run_dir), harness.final_state(reference))
    assert harness.metrics(run_dir) == harness.metrics(reference)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_signal_in_the_middle_of_a_loop(finished, tmp_path, workers, monkeypatch):
    """SIGTERM in step 6 of 12, in the middle of an outer loop: exit 75, then bit for bit."""
    run_dir, words = tmp_path / "run", ("--num_workers", workers)
    original, steps = SCRIPT.Run.backward, []

    def backward(self, *args, **kwargs):
        steps.append(self.completed)
        if self.completed == 5 and steps.count(5) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(SCRIPT.Run, "backward", backward)
    with pytest.raises(SystemExit) as stop:
        train(run_dir, *words)
    assert stop.value.code == 75
    assert checkpoint.steps_of(run_dir / "checkpoints")[-1] == 6
    assert json.loads((run_dir / "status.json").read_text())["wants_requeue"]
    train(run_dir, *words)
    same_end(run_dir, finished)


def test_a_run_that_is_over_keeps_nothing(tmp_path, monkeypatch):
    """Neither its network nor its data: one process may call scripts one after the other."""
    seen, original = [], SCRIPT.Run.restore

    def restore(self, **parts):
        seen.extend(weakref.ref(part) for part in (self, *parts.values()))
        return original(self, **parts)

    monkeypatch.setattr(SCRIPT.Run, "restore", restore)
    train(tmp_path / "run", "--outer_loops", "1")
    gc.collect()
    assert len(seen) == 6 and all(part() is None for part in seen)


@pytest.mark.parametrize("opt", ["adamw", "muon"])
def test_a_base_is_trained_alone_at_first(opt, tmp_path, monkeypatch):
    """A loop of regression by the MSE, one by LPIPS, in which nothing is searched, and one of
    samples; SIGTERM in each: every step as without."""
    words = "--base learned --base_nc 6 --base_blocks 1 --base_loops 1 --base_bs 6".split()
    words += ["--base_lpips_loops", "1", "--outer_loops", "1"]
    words += ["--num_workers", "2", "--freeze_base", "--base_opt", opt]
    train(tmp_path / "whole", *words)
    whole = tmp_path / "whole"
    for name, steps in (("base mse", 0), ("base loss", 4), ("batch loss", 8)):
        assert sorted(metrics(whole, name)) == list(range(steps + 1, steps + 5))
    assert sorted(metrics(whole, "search loss")) == [9]
    for name in ("batch loss", "base loss"):  # of the same kind, and another than the first
        assert sum(metrics(whole, name).values()) > 2 * sum(metrics(whole, "base mse").values())
    run_dir, original, stops = tmp_path / "run", SCRIPT.Run.backward, [2, 6, 10]

    def backward(self, *args, **kwargs):
        if stops and self.completed == stops[0]:
            stops.pop(0)
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(SCRIPT.Run, "backward", backward)
    for step in (3, 7, 11):
        with pytest.raises(SystemExit) as stop:
            train(run_dir, *words)
        assert stop.value.code == 75
        assert checkpoint.steps_of(run_dir / "checkpoints")[-1] == step
    train(run_dir, *words)
    same_end(run_dir, whole)
    net = load_snapshot(run_dir / "snapshots" / "network-latest.safetensors")
    assert net.config["net"]["base"] == "learned" and "regression.stem.0.weight_v" in net.state_dict


@pytest.mark.parametrize("freeze", [False, True])
def test_where_another_loss_begins(freeze, tmp_path, monkeypatch):
    """The optimizer begins anew, and behind its loops a base that is frozen keeps its weights."""
    original, seen = SCRIPT.parts.begin_loss, []

    def spied(args, net, optimizer, step):
        moments = len(optimizer.state)
        original(args, net, optimizer, step)
        weights = torch.cat([p.detach().reshape(-1) for p in net.regression.parameters()])
        seen.append((step, moments, len(optimizer.state), weights))

    monkeypatch.setattr(SCRIPT.parts, "begin_loss", spied)
    words = "--base learned --base_nc 6 --base_blocks 1 --base_loops 1 --base_bs 6".split()
    words += ["--base_lpips_loops", "1", "--freeze_base", str(freeze)]
    train(tmp_path / "run", *words)
    steps, before, after, weights = zip(*seen, strict=True)
    assert steps == tuple(range(len(steps))) and len(steps) > 12
    for step in steps:
        assert (after[step] == 0) == (step in (0, 4, 8))
        assert (before[step] == 0) == (step == 0)
    # it learns by either loss, in every step
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(weights[:9]))
    assert all(torch.equal(w, weights[8]) == freeze for w in weights[9:])


def test_signal_in_a_search(finished, tmp_path, monkeypatch):
    """The search of loop 1 is abandoned, the state of step 4 kept, the search repeated exactly."""
    run_dir = tmp_path / "run"
    original, calls = SCRIPT.Run.check_preempted, []

    def check(self):
        calls.append(self.completed)
        if self.completed == 4 and calls.count(4) == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
        return original(self)

    monkeypatch.setattr(SCRIPT.Run, "check_preempted", check)
    with pytest.raises(SystemExit) as stop:
        train(run_dir)
    assert stop.value.code == 75
    assert checkpoint.steps_of(run_dir / "checkpoints")[-1] == 4
    train(run_dir)
    same_end(run_dir, finished)


def at_a_search(run_dir):
    """Where a killed process was: in a save, or between loops (in the search), or in a step."""
    if list((run_dir / "checkpoints").glob(".tmp-*")):
        return "save"
    file = run_dir / "metrics.jsonl"
    steps = [json.loads(x)["step"] for x in file.read_text().splitlines()] if file.exists() else []
    return "search" if steps and steps[-1] % 4 == 0 else "other"


@pytest.mark.parametrize("kills", [10, pytest.param(30, marks=pytest.mark.slow)])
def test_kills_at_any_moment(kills, finished, tmp_path):
    """kill -9 at moments in searches, saves and between: the end is the uninterrupted one."""
    # How long a launch and its loop take here and now; the first also starts the fork server.
    for name in ("warm-up", "measured"):
        start = time.monotonic()
        code = harness.finish(train, (str(tmp_path / name),), tmp_path / "log.txt")
        whole = time.monotonic() - start
        assert code == 0, (tmp_path / "log.txt").read_text()[-2000:]
    rows = (tmp_path / "measured" / "metrics.jsonl").read_text().splitlines()
    loop = json.loads(rows[-1])["time"] - json.loads(rows[0])["time"]
    report = harness.kill_and_resume(
        train,
        lambda run_dir: (str(run_dir), "--save_every", "1"),
        tmp_path,
        kills=kills,
        seconds=(0.5 * (whole - loop), (whole - loop) + 0.3 * loop),
        failpoints=[
            "half-file:4",
            "pre-fsync:2",
            "post-manifest:2",
            "post-rename:3",
            "mid-prune:1",
        ],
        classify=at_a_search,
        check=lambda run_dir: same_end(run_dir, finished),
    )
    assert report.kills == kills
    assert report.where["save"] and report.where["search"], report


def test_chunks_of_a_job_array(finished, tmp_path):
    """--chunk_epochs 1 --resume N runs outer loop N; three of them are the whole run."""
    run_dir = tmp_path / "run"
    for n in range(3):
        train(run_dir, "--chunk_epochs", "1", "--resume", str(n))
        assert checkpoint.steps_of(run_dir / "checkpoints")[-1] == 4 * (n + 1)
    same_end(run_dir, finished)


def test_a_chunk_that_is_done_is_not_followed_by_the_next(tmp_path, capsys):
    words = ("--chunk_epochs", "1", "--resume", "0")
    for _ in range(2):
        train(tmp_path / "run", *words)
        assert checkpoint.steps_of(tmp_path / "run" / "checkpoints") == [4]
    assert "stopped: 4 of 12" in capsys.readouterr().out


def test_changed_options_are_refused_with_a_table(finished):
    with pytest.raises(Exception, match=r"(?s)lr.*0\.003.*0\.002") as error:
        train(finished, "--lr", "2e-3")
    assert error.value.exit_code == 2


def test_execution_only_options_may_change(finished):
    train(finished, *"--sp 4 --code_bs 3 --num_workers 1 --spi 3 --job_id 8".split())


def test_sp_and_code_bs_do_not_change_the_result(finished, tmp_path):
    train(tmp_path / "run", *"--sp 3 --code_bs 5".split())
    ours, theirs = metrics(tmp_path / "run", "batch loss"), metrics(finished, "batch loss")
    assert ours == pytest.approx(theirs, rel=1e-4)


SMALLEST = "--samples 1 --num_val_images 1 --bs 1 --bs_gpu 1 --subsample_size 1 --code_bs 1"


@pytest.mark.parametrize(
    "words",
    [
        "--color_space lab",
        "--color_space lab --lab_range reference --base none",
        "--sample_method mixture",
        "--grayscale 0.5 --mask_frac 0.4 --fill color",
        "--proj_dim 20",
        "--lpips_weighting reference --lr_schedule reference --init reference",
        "--mapping_init reference --init_type normal --lr_schedule constant --ema_std 0",
        "--res 16 16 32 --resid_nc 6 4 --dense_nc 4 4 --crop center --cache memory",
        "--bs 20 --subsample_size 3",
        "--precision bf16 --search_precision bf16 --rescore 2",
        "--unconditional --lpips none --res 8 --pool_size 16 --sample_method mixture",
        "--unconditional --res 16 --pool_size 16 --proj_dim 10",
        "--unconditional --lpips none --res 8 --pool_size 8 --spi 1",
        f"--unconditional --lpips none --res 8 --pool_size 1 {SMALLEST}",
        f"--ns 1 --sp 1 --rescore 1 {SMALLEST}",
    ],
)
def test_options_run(words, tmp_path):
    train(tmp_path / "run", *"--outer_loops 1 --num_iteration 2".split(), *words.split())
    shared = metrics(tmp_path / "run", "used_fraction")
    assert len(shared) == ("--unconditional" in words) and all(0 < x <= 1 for x in shared)
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "finished"


def test_pretrained_lpips_is_never_replaced_silently(tmp_path, monkeypatch):
    monkeypatch.setenv("MODELS_HOME", str(tmp_path / "models"))
    with pytest.raises(Exception, match="fetch-weights") as error:
        train(tmp_path / "run", "--lpips", "pretrained")
    assert error.value.exit_code == 2


def test_lpips_from_a_local_file(tmp_path):
    from torchvision.models import vgg16

    torch.manual_seed(0)
    path = tmp_path / "vgg.pth"
    torch.save({k: v for k, v in vgg16().state_dict().items() if k.startswith("features")}, path)
    train(
        tmp_path / "run",
        *f"--lpips pretrained --lpips_path {path} --outer_loops 1 --num_iteration 1".split(),
    )
    assert metrics(tmp_path / "run", "val/lpips")


@pytest.mark.parametrize(
    "words, says",
    [
        ("--data_tr nowhere_at_all", "nowhere_at_all"),
        ("--gpus 7", "7"),
        (f"--lpips pretrained --lpips_path {ROOT / 'setup.py'}", "setup.py"),
    ],
)
def test_what_is_missing_is_named(words, says, tmp_path):
    with pytest.raises(Exception, match=says) as error:
        train(tmp_path / "run", *words.split())
    assert error.value.exit_code in (2, 6)


def test_truncated_and_odd_images_are_survived(tmp_path, capfd):
    """A truncated JPEG is named and substituted; grey, CMYK and 16-bit pictures are converted."""
    generator = torch.Generator().manual_seed(0)
    folder = tmp_path / "pictures" / "train" / "a"
    folder.mkdir(parents=True)
    for i in range(24):
        pixels = torch.randint(0, 256, (20, 24, 3), generator=generator, dtype=torch.uint8).numpy()
        image = Image.fromarray(pixels)
        if i == 1:
            image = image.convert("CMYK")
        if i == 2:
            image = image.convert("L")
        image.save(folder / f"{i:02d}.jpg")
    broken = folder / "03.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    train(
        tmp_path / "run",
        *f"--data_tr {tmp_path / 'pictures'} --subsample_size 10 --outer_loops 2".split(),
    )
    assert "03.jpg" in capfd.readouterr().err


def test_two_ranks_equal_one(tmp_path):
    """Losses of every step to 1e-6 relative; not Adam-updated weights (see the issue of biases)."""
    words = [*TINY, "--bs", "4", "--mini_bs", "4", "--outer_loops", "1", "--lr", "1e-9"]
    words += [
        "--base",
        "learned",
        "--base_loops",
        "1",
        "--base_bs",
        "6",
        "--base_lpips_loops",
        "1",
        "--base_nc",
        "6",
        "--base_opt",
        "muon",
        "--muon_lr",
        "1e-9",
        "--freeze_base",
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "TrainGeneratorWandB.py"), *words, "--run-dir"]
    one = subprocess.run([*command, tmp_path / "one"], env=env, capture_output=True, text=True)
    assert one.returncode == 0, one.stderr
    env["IMLE_LAB_CPU_RANKS"] = "2"
    two = subprocess.run([*command, tmp_path / "two"], env=env, capture_output=True, text=True)
    assert two.returncode == 0, two.stderr
    for name in ("base mse", "base loss", "batch loss"):
        assert len(metrics(tmp_path / "one", name)) == 4
        assert metrics(tmp_path / "two", name) == pytest.approx(
            metrics(tmp_path / "one", name), rel=1e-6
        )


def test_ranks_share_an_unconditional_run(tmp_path):
    """Its validation searches a pool, which all ranks do together."""
    words = "--unconditional --lpips none --res 8 --pool_size 16 --outer_loops 1".split()
    command = [sys.executable, str(ROOT / "TrainGeneratorWandB.py"), *TINY, *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "IMLE_LAB_CPU_RANKS": "2"}
    done = subprocess.run(
        [*command, "--run-dir", tmp_path], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert sorted(metrics(tmp_path, "val/nearest_mse")) == [0, 4]


def test_help_costs_no_more_than_torch(tmp_path):
    """Nothing heavy beside torch and torchvision is imported for --help."""
    code = (
        "import sys, runpy\n"
        "sys.argv = ['TrainGeneratorWandB.py', '--help']\n"
        "try: runpy.run_path('TrainGeneratorWandB.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = ('wandb', 'lpips', 'matplotlib', 'lmdb', 'gdown', 'scipy', 'torch._dynamo')\n"
        "print('HEAVY', [m for m in heavy if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "HEAVY []" in result.stdout, result.stdout[-300:] + result.stderr[-300:]
