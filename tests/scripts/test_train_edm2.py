"""train_edm2.py: every mode runs and resumes bit-exactly, ranks change nothing, one-line errors."""

import copy
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from data.samplers import StepSampler
from diffusion import EDM2Loss, Precond
from diffusion.encoders import RGBEncoder
from diffusion.rows import row_losses
from recipes import selection as recipe
from recipes.edm2 import options
from recipes.edm2 import step as edm2_step
from runtime import rundir
from selection import METHODS, EarlyLateSwitch, Method, picker, selection_size
from storage import checkpoint
from storage.index_log import read_index_log
from storage.snapshot import load_snapshot
from tests import kill_harness as harness
from tests.scripts.support import ROOT, load, metrics

SHORT = "--preset smoke --duration 240 --snapshot 4 --sample_images 0 --save_every 3 --log_every 1"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def get_args(*words):
    return options.get_args(None, words)


def train(run_dir, *words):
    """One launch; module-level, for the fork harness."""
    script = load("train_edm2")
    script.main(get_args(*SHORT.split(), "--run-dir", str(run_dir), *words))


def refused(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        get_args(*words.split())
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    return said[0]


@pytest.fixture(scope="module")
def weak(tmp_path_factory):
    """A finished baseline run, whose early snapshot is the weak network of the others."""
    folder = tmp_path_factory.mktemp("weak")
    train(folder)
    return folder


def guide_of(weak):
    return str(weak / "snapshots" / "network-snapshot-0000002-0.100.safetensors")


# ----------------------------------------------------------------------------------------- options


def test_every_option_of_autoguided_is_accepted():
    args = get_args(
        *"""--outdir AJEST --dataset tiny --preset edm2-tiny-xs --cond True --duration 8Mi --batch
        2048 --channels 128 --dropout 0.1 --P_mean -0.4 --P_std 1.0 --lr 0.012 --decay 5463
        --batch-gpu 128 --fp16 True --ls 1 --bench True --status 64 --snapshot 4096 --checkpoint
        65536 --seed 0 --selection --acid --guide-path G.pkl --filt 0.8 --n 8 --diff --no-invert
        --early --trick -n""".split()
    )
    assert args.data == "tinyImagenet" and args.precision == "fp16" and args.dry_run
    assert args.duration == 2**23 and args.save_every == 65536 and args.log_every == 64
    assert args.outdir == "AJEST" and args.run_dir is None


def test_presets_are_the_rows_of_the_paper_and_of_autoguided():
    """(preset, images, channels, lr, decay, dropout, P_mean, P_std, rampup)."""
    mi = 2**20
    rows = [
        ("img512-xxs", 2048 * mi, 64, 0.0170, 70000, 0.0, -0.4, 1.0),
        ("img512-xs", 2048 * mi, 128, 0.0120, 70000, 0.0, -0.4, 1.0),
        ("img512-s", 2048 * mi, 192, 0.0100, 70000, 0.0, -0.4, 1.0),
        ("img512-m", 2048 * mi, 256, 0.0090, 70000, 0.1, -0.4, 1.0),
        ("img512-l", 1792 * mi, 320, 0.0080, 70000, 0.1, -0.4, 1.0),
        ("img512-xl", 1280 * mi, 384, 0.0070, 70000, 0.1, -0.4, 1.0),
        ("img512-xxl", 896 * mi, 448, 0.0065, 70000, 0.1, -0.4, 1.0),
        ("img64-xs", 1024 * mi, 128, 0.0120, 35000, 0.0, -0.8, 1.6),
        ("img64-s", 1024 * mi, 192, 0.0100, 35000, 0.0, -0.8, 1.6),
        ("img64-m", 2048 * mi, 256, 0.0090, 35000, 0.1, -0.8, 1.6),
        ("img64-l", 1024 * mi, 320, 0.0080, 35000, 0.1, -0.8, 1.6),
        ("img64-xl", 640 * mi, 384, 0.0070, 35000, 0.1, -0.8, 1.6),
        ("tiny-xxs", 167_618_560, 64, 0.0170, 5463, 0.0, -0.4, 1.0),
        ("tiny-xs", 167_618_560, 128, 0.0120, 5463, 0.0, -0.4, 1.0),
        ("cifar10-xxs", 83_808_256, 64, 0.0170, 2731, 0.0, -0.4, 1.0),
    ]
    others = {"smoke", "cpu-small", "test-training", "test-random"}
    assert set(options.PRESETS) == {f"edm2-{row[0]}" for row in rows} | others
    before = copy.deepcopy(options.PRESETS)
    for name, *row in rows:
        a = get_args("--preset", f"edm2-{name}")
        got = [a.duration, a.channels, a.lr, a.decay, a.dropout, a.P_mean, a.P_std]
        assert got == row, name
        ramp = {"tiny": 0.780288, "cifar10": 0.38912}.get(name.split("-")[0], 10.0)
        assert a.rampup == ramp and a.batch == 2048, name
        a.channel_mult.append(9)
    assert options.PRESETS == before
    assert get_args("--preset", "test-random").selection
    assert get_args("--preset", "edm2-tiny-xs").ref_channels == 64


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--fp16 True --precision bf16", "--fp16 True and --precision bf16"),
        ("--acid --no-selection", "--no-selection"),
        ("--method random --no-selection", "--no-selection"),
        ("--acid --method random", "--acid is --method jest"),
        ("--method nothing", "invalid choice"),
        ("--ref-path a", "--ref is for --acid"),
        ("--ema_stds 0.05 0.0501", "two are alike"),
        ("--selection --filt 0", "out of range"),
        ("--acid --early --late", "give one"),
        ("--early", "--early needs"),
        ("--selection --early", "--guide or --ref"),
        ("--acid --guide-path a --ref-path b", "one reference"),
        ("--selection --batch 4", "keeps no row of a super-batch of 4"),
        ("--acid --filt 1", "out of range"),
        ("--acid --batch 96 --batch-gpu 20 --select_scope rank", "--bs_gpu 20 does not divide"),
        ("--acid --batch 96 --batch-gpu 4 --select_scope rank", "super-batch of 4"),
        ("--selection --temperature 0.5", "--temperature 0.5 is of --acid"),
        ("--score_by_sigma", "--score_by_sigma is of --acid"),
        ("--dataset folder", "--data PATH"),
        ("--dataset nothing", "invalid choice"),
        ("--duration 3K", "number of images"),
        ("--snapshot 0", "out of range"),
        ("--ema_stds 0.3", "out of range"),
        ("--preset edm2-img64-xxs", "is not a preset"),
        ("--gpus 0 1 --batch 33", "cannot be shared by 2 GPUs"),
    ],
)
def test_wrong_options_are_one_line(words, says, capsys):
    assert says in refused(words, capsys)


def test_an_autoguided_name_of_data_goes_over_the_presets():
    def data(words):
        return get_args(*words.split()).data

    assert data("--dataset cifar10") == "cifar10"
    assert data("--preset edm2-tiny-xs --dataset cifar10") == "cifar10"
    assert data("--preset edm2-img64-s --dataset tiny") == "tinyImagenet"
    assert data("--preset edm2-img64-s --dataset folder --data F") == "F"
    assert data("--data F --dataset tiny") == "F"


def test_two_words_for_one_thing_are_one_run():
    def flags(words):
        args = get_args(*words.split())
        return rundir.shaping(args, options.execution_options(args))

    for one, other in (
        ("--fp16 False", "--precision fp32"),
        ("--acid", "--method jest"),
        ("--acid", "--acid --selection --trick"),
        ("--selection", "--method random"),
    ):
        assert flags(one) == flags(other)
    assert flags("--acid") != flags("--selection")


def test_a_dry_run_prints_the_options_and_leaves_nothing(tmp_path, capsys):
    script = load("train_edm2")
    script.main(get_args("--preset", "smoke", "-n", "--run-dir", str(tmp_path / "r")))
    assert json.loads(capsys.readouterr().out)["channels"] == 8
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("words", "says", "code"),
    [
        ("--acid --guide-path nowhere.pkl", "nowhere", 3),
        ("--acid --guide-path WEAK --res 16", "img_resolution 8", 2),
        ("--acid --guide-path WEAK --label_dim 9", "classes", 2),
        ("--acid --guide-path WEAK --ref_channels 64", "has 8 channels", 2),
        ("--data scenes --label_dim 1", "--label_dim 1", 2),
        ("--data nothing", "nothing", 6),
        ("--res 7", "cannot be halved", 2),
        ("--precision fp16", "fp16", 2),
    ],
)
def test_what_does_not_fit_is_named_and_leaves_nothing(words, says, code, weak, tmp_path):
    words = words.replace("WEAK", guide_of(weak)).split()
    log = tmp_path / "log"
    assert harness.finish(train, [tmp_path / "run", *words], log) == code
    said = [line for line in log.read_text().splitlines() if "run directory" not in line]
    assert says in said[-1] and "Traceback" not in log.read_text()
    assert not (tmp_path / "run").exists()


# -------------------------------------------------------------------------------------------- runs


def test_a_whole_run(weak):
    loss = metrics(weak, "Loss")
    assert list(loss) == [1, 2, 3, 4, 5, 6] and loss[6] < loss[1]
    rate = metrics(weak, "Learning rate")  # ramp of 80 images in steps of 40
    assert rate[1] == 0.005 and rate[2] == rate[6] == 0.01
    names = {f"network-snapshot-{s:07d}-{e}.safetensors" for s in range(1, 7) for e in EMAS}
    assert {p.name for p in (weak / "snapshots").iterdir()} == names
    snapshot = load_snapshot(weak / "snapshots" / "network-snapshot-0000006-0.050.safetensors")
    assert snapshot.kind == "edm2" and snapshot.config["nimg"] == 240
    net = Precond(**snapshot.config["net"])
    net.load_state_dict(snapshot.state_dict)
    bins = [
        k for k in json.loads((weak / "metrics.jsonl").read_text().splitlines()[0]) if "/s" in k
    ]
    assert len([b for b in bins if b.startswith("loss/sigma")]) >= 5


EMAS = ("0.050", "0.100")
MODES = {
    "baseline": "",
    "random": "--selection",
    "jest-own-ema": "--acid",
    "jest": "--acid --ref-path STRONG",
    "ajest": "--acid --guide-path WEAK",
    "ajest-by-sigma": "--acid --guide-path WEAK --score_by_sigma --temperature 0.5",
    "ajest-as-autoguided": "--acid --guide-path WEAK --select_scope rank --batch-gpu 20 --n 2 "
    "--score_scale seed --rounding reference --unpaired --ramp reference",
    "early": "--acid --guide-path WEAK --early",
    "late": "--acid --guide-path WEAK --late",
    "early-random": "--selection --guide-path WEAK --early",
}


def words_of(mode, weak):
    strong = str(weak / "snapshots" / "network-snapshot-0000006-0.050.safetensors")
    return MODES[mode].replace("WEAK", guide_of(weak)).replace("STRONG", strong).split()


# The others in `make test-slow`.
QUICK = ("baseline", "random", "ajest-as-autoguided")


@pytest.mark.parametrize(
    "mode", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in MODES]
)
def test_every_mode_runs_and_resumes_bit_exactly(mode, weak, tmp_path):
    """Stopped by a signal in the first step, killed without warning in the sixth, and gone on."""
    words = ["--duration", "80", "--save_every", "2", *words_of(mode, weak)]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert harness.finish(train, [whole, *words], tmp_path / "log") == 0
    assert harness.finish(stopped, [broken, 0, *words], tmp_path / "log") == 75
    if mode not in ("baseline", "late"):  # two steps
        assert harness.finish(killed, [broken, 5, *words], tmp_path / "log") == -9
    assert harness.finish(train, [broken, *words], tmp_path / "log") == 0
    assert harness.differences(harness.final_state(whole), harness.final_state(broken)) == []
    assert harness.metrics(whole) == harness.metrics(broken)
    assert (whole / "selected.bin").exists() == (mode != "baseline")
    if mode != "baseline":
        assert (whole / "selected.bin").read_bytes() == (broken / "selected.bin").read_bytes()
    for file in (whole / "snapshots").iterdir():
        a, b = load_snapshot(file), load_snapshot(broken / "snapshots" / file.name)
        assert all(torch.equal(a.state_dict[k], b.state_dict[k]) for k in a.state_dict)


def test_a_finished_run_goes_on_to_a_longer_duration(weak, tmp_path):
    words = words_of("ajest", weak)
    train(tmp_path / "whole", "--duration", "64", *words)
    train(tmp_path / "twice", "--duration", "32", *words)
    train(tmp_path / "twice", "--duration", "64", *words)
    states = [harness.final_state(tmp_path / name) for name in ("whole", "twice")]
    assert states[0]["step"] == 8 and harness.differences(*states) == []
    assert harness.metrics(tmp_path / "whole") == harness.metrics(tmp_path / "twice")
    whole, twice = (tmp_path / name / "selected.bin" for name in ("whole", "twice"))
    assert whole.read_bytes() == twice.read_bytes()


def test_a_new_method_trains_by_its_name(weak, tmp_path, monkeypatch):
    """As selection/methods.py says: a function, a line, and --method."""
    seen = []

    def hardest(learner_loss, filter_ratio=0.8, *, N=16, rounding="exact", generator=None):
        seen.append(learner_loss)
        return learner_loss.topk(selection_size(len(learner_loss), filter_ratio, N)).indices

    def least_ref(learner_loss, ref_loss, filter_ratio=0.8, *, N=16, rounding, generator):
        return (-ref_loss).topk(selection_size(len(ref_loss), filter_ratio, N)).indices

    monkeypatch.setitem(METHODS, "hardest", Method(hardest, needs_ref=False))
    monkeypatch.setitem(METHODS, "least_ref", Method(least_ref, needs_ref=True))
    train(tmp_path / "a", "--duration", "8", "--method", "hardest")
    ((_, indices),) = read_index_log(tmp_path / "a" / "selected.bin")
    assert sorted(indices[:8].tolist()) == seen[0].topk(8).indices.sort().values.tolist()
    assert metrics(tmp_path / "a", "Super-Batch Learner Loss")
    assert not metrics(tmp_path / "a", "Super-Batch Reference Loss")
    train(
        tmp_path / "b", "--duration", "8", "--method", "least_ref", "--guide-path", guide_of(weak)
    )
    assert metrics(tmp_path / "b", "Super-Batch Reference Loss")


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    """A zip of latents in NVIDIA's layout: 44 of 8x8, of 3 classes."""
    file = tmp_path_factory.mktemp("latents") / "latents.zip"
    rng, labels = np.random.default_rng(0), []
    with zipfile.ZipFile(file, "w") as out:
        for i in range(44):
            raw = rng.normal(size=(8, 8, 8)).astype(np.float32)
            raw[4:] = abs(raw[4:])
            with out.open(name := f"00000/img{i:08d}.npy", "w") as entry:
                np.lib.format.write_array(entry, raw)
            labels.append([name, i % 3])
        out.writestr("dataset.json", json.dumps({"labels": labels}))
    return str(file)


def test_latents(latents, tmp_path, monkeypatch):
    """Their loss has half as many values as what is stored, a mean and a deviation for each."""
    seen, plain = [], picker.scaled

    def scaled(*losses, pixels, **options):
        seen.append(pixels)
        return plain(*losses, pixels=pixels, **options)

    monkeypatch.setattr(picker, "scaled", scaled)
    words = ["--data", latents, "--duration", "16", "--acid", "--score_scale", "mean"]
    train(tmp_path, *words)
    assert seen == [4 * 8 * 8] * 2
    file = tmp_path / "snapshots" / "network-snapshot-0000002-0.050.safetensors"
    config = load_snapshot(file).config
    assert config["encoder"]["name"] == "stability-vae" and config["net"]["img_channels"] == 4


def test_a_vae_that_is_missing_is_found_out_before_training(latents, tmp_path):
    words = ["--data", latents, "--vae", str(tmp_path), "--sample_images", "4"]
    log = tmp_path / "log"
    assert harness.finish(train, [tmp_path / "run", *words], log) == 2
    assert "VAE" in log.read_text().splitlines()[-1] and not (tmp_path / "run").exists()


def at_step(run_dir, step, act, words):
    """A launch in which `act` comes in the middle of a step."""
    script = load("train_edm2")
    normalize = script.normalize_weights
    count = checkpoint.steps_of(Path(run_dir) / "checkpoints")[-1:] or [0]
    turns = iter(range(count[0], 10**6))

    def counted(net):
        if next(turns) == step:
            act()
        normalize(net)

    script.normalize_weights = counted
    train(run_dir, *words)


def stopped(run_dir, step, *words):
    at_step(run_dir, step, lambda: os.kill(os.getpid(), 15), words)


def killed(run_dir, step, *words):
    at_step(run_dir, step, lambda: os.kill(os.getpid(), 9), words)


def test_what_was_selected_is_on_file(weak, tmp_path):
    train(tmp_path, "--duration", "40", *words_of("ajest", weak))
    records = list(read_index_log(tmp_path / "selected.bin"))
    assert [step for step, _ in records] == [0, 1, 2, 3, 4]
    images = harness.final_state(tmp_path)["sampler"]["n"]
    sampler = StepSampler(images, 40, seed=0)
    for step, rows in records:
        positions, index = rows.reshape(2, 8)
        assert len(np.unique(positions)) == 8 and positions.max() < 40
        assert [sampler.index(40 * step + int(p)) for p in positions] == index.tolist()


def test_perplexity_falls_with_temperature(weak, tmp_path):
    seen = []
    for t in (100.0, 1.0, 0.1):
        train(
            tmp_path / str(t), "--duration", "40", "--temperature", str(t), *words_of("ajest", weak)
        )
        seen.append(float(np.mean(list(metrics(tmp_path / str(t), "perplexity / B").values()))))
    assert 1 >= seen[0] > 0.99 > seen[1] > seen[2] > 0


def test_two_ranks_equal_one(weak, tmp_path):
    """Global scope: the same rows are chosen, and losses and weights agree to rounding."""
    words = ["--duration", "48", *words_of("ajest", weak), "--batch-gpu", "5"]
    train(tmp_path / "one", *words)
    for process in (
        ranks := harness.launch_ranks(train, [tmp_path / "two", *words], tmp_path / "log", 2)
    ):
        assert harness.wait(process) == 0, (tmp_path / "log").read_text()
    assert len(ranks) == 2
    picked = [sorted_rows(tmp_path / name / "selected.bin") for name in ("one", "two")]
    assert picked[0] == picked[1]
    for key in ("Loss", "Super-Batch Reference Loss", "perplexity / B"):
        a, b = metrics(tmp_path / "one", key), metrics(tmp_path / "two", key)
        assert a.keys() == b.keys() and all(abs(a[k] - b[k]) < 1e-5 for k in a), key
    a, b = (harness.final_state(tmp_path / name)["net"] for name in ("one", "two"))
    for name in a:
        assert torch.allclose(a[name], b[name], atol=2e-4), name


def noting(run_dir, *words):
    """A launch that leaves the norm of its last gradient in a file."""
    script = load("train_edm2")

    class Noting(script.Run):
        def step(self, *args, **kwargs):
            done = super().step(*args, **kwargs)
            Path(f"{run_dir}-norm-{self.rank}").write_text(str(self.grad_norm))
            return done

    script.Run = Noting
    train(run_dir, *words)


def test_the_gradient_is_the_mean_over_the_chosen_rows(weak, tmp_path, monkeypatch):
    """Its size is what Adam would not tell: in micro-batches of 2, and on ranks with 3 and 2."""
    script = load("train_edm2")
    choose, chosen, nets = script.choose, [], []

    def losses_of(net, *args, **options):
        nets.append(copy.deepcopy(net))
        return row_losses(net, *args, **options)

    monkeypatch.setattr(
        script, "choose", lambda *a, **k: chosen.append(choose(*a, **k)) or chosen[-1]
    )
    monkeypatch.setattr(edm2_step, "row_losses", losses_of)
    words = ["--batch", "26", "--duration", "5", "--batch-gpu", "2", *words_of("ajest", weak)]
    train(tmp_path / "here", *words)
    net, rows = nets[0], chosen[0][0]
    losses, _ = row_losses(
        net, rows, EDM2Loss(-0.4, 1.0, 0.5), RGBEncoder(), label_dim=net.label_dim
    )
    assert len(losses) == 5
    norm = torch.nn.utils.get_total_norm(torch.autograd.grad(losses.mean(), [*net.parameters()]))
    assert norm > 0

    assert harness.finish(noting, [tmp_path / "one", *words], tmp_path / "log") == 0
    for process in harness.launch_ranks(noting, [tmp_path / "two", *words], tmp_path / "log", 2):
        assert harness.wait(process) == 0, (tmp_path / "log").read_text()
    for name in ("one-norm-0", "two-norm-0", "two-norm-1"):
        assert float((tmp_path / name).read_text()) == pytest.approx(norm.item(), rel=1e-4), name


def sorted_rows(file):
    return [(step, np.sort(n.reshape(2, -1)[0]).tolist()) for step, n in read_index_log(file)]


def test_ranks_without_rows_join_in(weak, tmp_path):
    """One row is chosen of five: the second of two ranks never has any."""
    words = ["--batch", "6", "--filt", "0.8", "--duration", "4", *words_of("ajest", weak)]
    train(tmp_path / "one", *words)
    for process in harness.launch_ranks(train, [tmp_path / "two", *words], tmp_path / "log", 2):
        assert harness.wait(process) == 0, (tmp_path / "log").read_text()
    a, b = (harness.final_state(tmp_path / name)["net"] for name in ("one", "two"))
    for name in a:
        assert torch.allclose(a[name], b[name], atol=2e-4), name


def test_rank_scope_on_two_ranks(weak, tmp_path):
    words = ["--duration", "32", *words_of("ajest", weak)]
    words += ["--select_scope", "rank", "--batch-gpu", "10", "--n", "2"]
    for process in harness.launch_ranks(train, [tmp_path, *words], tmp_path / "log", 2):
        assert harness.wait(process) == 0, (tmp_path / "log").read_text()
    for _, row in read_index_log(tmp_path / "selected.bin"):
        positions = row.reshape(2, 8)[0]
        share = [sorted((positions[positions % 2 == r] // 2).tolist()) for r in (0, 1)]
        # two of every round of ten, on each rank
        assert [sum(p < 10 for p in s) for s in share] == [2, 2] and [len(s) for s in share] == [
            4,
            4,
        ]


def test_rank_scope_refuses_a_share_that_does_not_divide(tmp_path):
    """One process could have had these rounds of 16 of 80; two have 40 each."""
    words = "--selection --batch 80 --batch-gpu 16 --select_scope rank".split()
    log = tmp_path / "log"
    for process in harness.launch_ranks(train, [tmp_path / "run", *words], log, 2):
        assert harness.wait(process) == 2
    assert "does not divide a GPU's 40 images" in log.read_text()
    assert not (tmp_path / "run").exists()


def test_the_switch_is_kept_and_changes_the_step(weak, tmp_path, monkeypatch):
    """Late, against an untrained reference: found at observation 4 here, then 8 rows a step."""

    def quick(mode):
        return EarlyLateSwitch(mode, z=0.0, min_observations=4)

    monkeypatch.setattr(recipe, "EarlyLateSwitch", quick)
    first = str(weak / "snapshots" / "network-snapshot-0000001-0.100.safetensors")
    train(tmp_path, "--duration", "400", "--acid", "--guide-path", first, "--late")
    state = harness.final_state(tmp_path)
    assert state["switch"]["selecting"] and not state["switch"]["waiting"]
    change = state["switch"]["change_step"]
    assert state["switch"]["change_nimg"] == 40 * change
    assert state["nimg"] == 400 and state["step"] == change + (400 - 40 * change) // 8
    assert [s for s, _ in read_index_log(tmp_path / "selected.bin")] == list(
        range(change, state["step"])
    )


def test_as_a_user_types_it(tmp_path):
    """A process of its own, --outdir, a .pkl name for the guide, grids with guidance."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "RESULTS_HOME": str(tmp_path)}
    common = [sys.executable, ROOT / "train_edm2.py", "--preset", "smoke", "--duration", "80"]
    for words in (
        "--outdir Ref",
        "--outdir AJEST --acid --guide-path Ref/network-snapshot-0000002-0.100.pkl",
    ):
        done = subprocess.run([*common, *words.split()], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert re.search(r"training: loss 0\.\d+ at step \d+.*; about 1 is that", done.stdout)
    assert ".safetensors" in done.stdout and ".pkl" in done.stdout
    grids = {p.name.split("-")[0] for p in (tmp_path / "train_edm2/AJEST/samples").iterdir()}
    assert grids == {"samples", "guided"}
    assert (tmp_path / "train_edm2/AJEST/curves.png").is_file()


def test_best_of_one_is_plain_and_the_best_of_several_loses_least(tmp_path, monkeypatch):
    train(tmp_path / "one", "--duration", "40", "--best_of_k", "1")
    with monkeypatch.context() as patch:  # without any choice of noise
        patch.setattr(edm2_step.Objective, "best_noise", lambda *a: None)
        train(tmp_path / "plain", "--duration", "40")
    train(tmp_path / "four", "--duration", "40", "--best_of_k", "4")
    train(tmp_path / "far", "--duration", "40", "--best_of_k", "4", "--best_of_reject", "1e9")
    nets = [harness.final_state(tmp_path / name)["net"] for name in ("plain", "one")]
    assert all(torch.equal(nets[0][k], nets[1][k]) for k in nets[0])
    plain, four, far = (metrics(tmp_path / n, "Loss")[1] for n in ("plain", "four", "far"))
    assert four < plain < far
