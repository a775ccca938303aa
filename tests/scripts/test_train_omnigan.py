"""train_omnigan.py: both phases run, resume bit-exactly also between two halves of an update, and
what is wrong in a file of settings is a line."""

import json

import pytest
import torch

from models.omnigan import OmniGenerator
from recipes.omnigan import options
from storage.snapshot import load_snapshot
from tests import kill_harness as harness
from tests.scripts.support import load

SMALL = (
    "--preset smoke --steps 4 --save_every 100 --log_every 1 --set train.log_level=1 "
    'data.transforms=[{"name":"resize","new_size":8}] train.representation_steps=2 '
    "val.every_n_steps=100 val.samples=2 val.max_log_images=0"
)
WAYS = {
    "train": [],
    "freeze": ["train.freeze_representation=true"],
    "distill": ["train.keep_representation=distill", "train.representation_lr=0.1"],
    "ewc": ["train.keep_representation=ewc", "gen.opt.optimizer=Adam", "gen.opt.lr_policy=step",
            "gen.opt.lr_step_size=1"],
}  # fmt: skip


# Where the run is stopped: between the two halves of an update of ExtraAdam, in both phases; where
# the representation is frozen, just before.
STOPS = {"train": (1, 3), "freeze": (2,), "distill": (3,), "ewc": (3,)}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(run_dir, *words):
    """One launch; module-level, for the fork harness."""
    args = options.get_args(None, [*words, "--run-dir", str(run_dir)])
    load("train_omnigan").main(args)


def small(way):
    return [*SMALL.split(), "--set", *WAYS[way]] if WAYS[way] else SMALL.split()


def test_smoke_has_both_phases_figures_and_panels(tmp_path):
    train(tmp_path, "--preset", "smoke", "--log_every", "1")
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first, second = ({k for row in rows if row["step"] == s for k in row} for s in (2, 6))
    assert "G/task_loss/s/sf" in first and "G/t/gan/rn_to_rf" not in first
    assert "G/t/gan/rn_to_rf" in second and "G/task_loss/s/sf" not in second
    for names in (first, second):  # the sixteen updates of D in both
        assert len([n for n in names if n.startswith("D/") and n.count("/") == 3]) == 16
        assert {"C/classifier", "G/generator", "D/discriminator"} <= names
    last = {k: v for row in rows for k, v in row.items()}
    for domain in ("rf", "rn", "sf", "sn"):
        assert 0 <= last[f"val/s/miou/{domain}"] <= 1 and last[f"val/d/rmse/{domain}"] > 0
        assert list((tmp_path / "samples").glob(f"panel-{domain}-*8.png"))
    assert "val/w/iou/sf" in last and "val/w/iou/rf" not in last  # real ones have no such label
    (file,) = (tmp_path / "snapshots").glob("*.safetensors")
    config = load_snapshot(file).config
    OmniGenerator(**config["net"]).load_state_dict(load_snapshot(file).state_dict)
    assert config["classes"][0] == "sky" and config["resolution"] == [16, 16]


@pytest.mark.parametrize(
    "way",
    ["train", "freeze", *(pytest.param(w, marks=pytest.mark.slow) for w in ("distill", "ewc"))],
)
def test_every_way_resumes_bit_exactly(way, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(whole, *small(way))
    for steps in STOPS[way]:
        train(broken, *small(way), "--steps", str(steps))
    before = harness.final_state(broken)["G"]
    train(broken, *small(way))
    one, two = (harness.final_state(f) for f in (whole, broken))
    assert harness.differences(one, two) == []
    if way == "freeze":
        moved = {k for k, value in one["G"].items() if not torch.equal(before[k], value)}
        weights = {k for k in moved if not k.endswith(("._u", "._v"))}
        assert weights and all(k.startswith(("decoders.a.", "decoders.t.")) for k in weights)


def test_snapshots_between_the_halves_are_of_whole_updates(tmp_path):
    train(tmp_path, *small("train"), "--snapshot_every", "1")
    found = [load_snapshot(f).state_dict for f in sorted((tmp_path / "snapshots").iterdir())]
    weights = [k for k in found[0] if not k.endswith(("._u", "._v"))]
    same = [all(torch.equal(a[k], b[k]) for k in weights)
            for a, b in zip(found, found[1:], strict=False)]  # fmt: skip
    assert same == [False, True, False]  # after 1, 2, 3, 4 half-steps


def test_a_kill_loses_nothing(tmp_path):
    words = [*small("train"), "--save_every", "1"]
    train(tmp_path / "whole", *words)
    log = tmp_path / "log"
    env = {"IMLE_LAB_FAILPOINT": "post-manifest:3"}
    assert harness.finish(train, [tmp_path / "broken", *words], log, env) == -9, log.read_text()
    assert harness.committed(tmp_path / "broken") < 4
    train(tmp_path / "broken", *words)
    one, two = (harness.final_state(tmp_path / n) for n in ("whole", "broken"))
    assert harness.differences(one, two) == []


@pytest.mark.parametrize("level, count", [(0, 0), (1, 3)])
def test_log_levels(level, count, tmp_path):
    train(tmp_path, *SMALL.split(), "--steps", "1", "--set", f"train.log_level={level}")
    row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    found = {k for k in row if k.startswith(("G/", "D/", "C/"))}
    assert (len(found) > count) if level else not found
    assert all(
        k.split("/")[1] in ("representation", "generator", "discriminator", "classifier")
        for k in found
    )


def test_summary_trains_nothing(tmp_path, capsys):
    train(tmp_path / "run", "--preset", "smoke", "--summary")
    assert "encoder" in capsys.readouterr().out and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "text, says",
    [
        ("gen: {encoder: {dimm: 3}}", "c.yaml: gen.encoder.dimm is no setting; did you mean "
         "gen.encoder.dim?"),
        ("gen: {opt: {lr: 1e-3}}", "gen.opt.lr '1e-3' is a text"),
        ("tasks: [x]", "tasks[0] 'x' is none of a, d, h, s, t, w"),
        ("data: {transforms: [{name: rotate}]}", "data.transforms: transform 0: name 'rotate'"),
        ("data: {files: {train: {rf: none, sf: none}}}", "task t needs domains that are flooded"),
        ("comet: {note: a}\nwandb: {note: b}", "comet and wandb are one section"),
        ("train: {freeze_representation: true, representation_lr: 0.5}", "what is frozen has no"),
        ("a: [", "c.yaml: line 1"),
    ],
)  # fmt: skip
def test_wrong_settings_are_a_line(text, says, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(SystemExit) as caught:
        options.get_args(None, ["--preset", "smoke", "--config", str(tmp_path / "c.yaml")])
    shown = capsys.readouterr().err
    assert caught.value.code == 2 and says in shown and shown.count("\n") == 1


def test_options_of_the_run(tmp_path, monkeypatch):
    """--seed, --log_every, --snapshot_every, --suffix."""
    monkeypatch.setenv("RESULTS_HOME", str(tmp_path))
    words = [*SMALL.split(), "--steps", "2", "--set", "val.samples=1"]
    script = load("train_omnigan")
    for more in ([], ["--seed", "1"], ["--suffix", "x", "--snapshot_every", "1"]):
        script.main(options.get_args(None, [*words, *more]))
    plain, seeded, named = sorted((tmp_path / "train_omnigan").iterdir(), key=lambda p: (
        "-x-" in p.name, harness.final_state(p)["loaders"]["rf"]["seed"]))  # fmt: skip
    one, two = (harness.final_state(p)["G"] for p in (plain, seeded))
    assert any(not torch.equal(one[k], two[k]) for k in one)
    assert len(list((plain / "snapshots").iterdir())) == 1
    assert len(list((named / "snapshots").iterdir())) == 2
    assert [r["step"] for r in map(json.loads, (plain / "metrics.jsonl").open()) if "G/generator"
            in r] == [1, 2]  # fmt: skip
    train(tmp_path / "rare", *words, "--log_every", "2")
    rows = map(json.loads, (tmp_path / "rare/metrics.jsonl").open())
    assert [r["step"] for r in rows if "G/generator" in r] == [2]


def test_what_changes_nothing_but_roundings(tmp_path):
    """--channels_last exactly the same losses to 1e-4, --precision bf16 roughly."""
    found = {}
    for name, more in (
        ("plain", []), ("last", ["--channels_last"]), ("bf16", ["--precision", "bf16"]),
    ):  # fmt: skip
        train(tmp_path / name, *SMALL.split(), "--steps", "1", *more)
        rows = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        found[name] = json.loads(rows[0])["G/generator"]
    assert found["last"] == pytest.approx(found["plain"], rel=1e-4)
    assert found["bf16"] == pytest.approx(found["plain"], rel=0.05)
    assert found["bf16"] != found["plain"]
