"""--init_from of every script: weights of a file, all else new, what does not fit named."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from recipes.imle.options import OPTIONS
from recipes.simclr.files import open_encoder, read_encoder
from runtime.options import EXECUTION, tagged
from runtime.rundir import shaping
from storage import checkpoint
from storage.errors import CheckpointError, UsageError
from storage.snapshot import load_snapshot, save_snapshot
from tests import kill_harness as harness
from tests.imle.test_mapping import as_release
from tests.models.test_original import original
from tests.scripts import simclr_support, support, test_train_edm2, test_TrainISICLE
from tests.scripts import test_toy_example as toy


@pytest.fixture(scope="module", autouse=True)
def light():
    """One thread and a small encoder."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with simclr_support.light():
        yield
    torch.set_num_threads(before)


def record(run_dir: Path) -> dict:
    return json.loads((run_dir / "init_from.json").read_text())


def state_at(run_dir: Path, step: int, name: str = "net") -> dict:
    return checkpoint.load_path(run_dir / "checkpoints" / f"step-{step:09d}").state[name]


def near(a: dict, b: dict, far: float = 1e-6) -> bool:
    """Whether two networks are one but for a step at a rate of next to nothing."""
    return all(torch.allclose(a[k].float(), b[k].float(), atol=far) for k in a)


# -------------------------------------------------------------------------------------------- IMLE

TINY_STEP = "--outer_loops 1 --num_iteration 1 --lr 1e-9 --weight_decay 0".split()


@pytest.fixture(scope="module")
def camnet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("camnet") / "run"
    support.train(folder, "--outer_loops", "1")
    return folder


def test_imle_begins_with_the_weights_and_all_else_is_new(camnet, tmp_path, capsys):
    support.train(tmp_path / "run", "--init_from", str(camnet), *TINY_STEP)
    first = load_snapshot(camnet / "snapshots" / "network-latest.safetensors")
    out = capsys.readouterr().out
    count = len(first.state_dict)
    assert f"weights of network-latest.safetensors: {count} of {count} tensors, 100.0%" in out
    loaded = checkpoint.load_path(tmp_path / "run" / "checkpoints" / "step-000000001")
    assert near(loaded.state["net"], first.state_dict)
    assert near(loaded.state["ema"]["module"], first.state_dict) and loaded.meta["nimg"] == 4
    assert loaded.state["ema"]["updates"] == 1
    assert {int(s["step"]) for s in loaded.state["optimizer"]["state"].values()} == {1}
    told = record(tmp_path / "run")
    assert told["share"] == 1 and told["missing"] == told["unused"] == []
    snapshot = load_snapshot(tmp_path / "run" / "snapshots" / "network-latest.safetensors")
    assert snapshot.provenance["init_from"] == told
    # Validation before the first step is of these weights.
    before = support.metrics(camnet, "val/best_lpips_random")
    now = support.metrics(tmp_path / "run", "val/best_lpips_random")
    assert now[0] == pytest.approx(before[4], rel=1e-3) and now[0] != before[0]


def test_imle_needs_the_file_no_more_when_it_resumes(camnet, tmp_path, capsys):
    shutil.copytree(camnet / "snapshots", tmp_path / "gone" / "snapshots")
    words = ["--init_from", str(tmp_path / "gone"), "--num_iteration", "1", "--outer_loops", "2"]
    support.train(tmp_path / "run", *words, "--chunk_epochs", "1")
    support.train(tmp_path / "whole", *words)
    shutil.rmtree(tmp_path / "gone")
    capsys.readouterr()
    support.train(tmp_path / "run", *words)
    assert "weights of" not in capsys.readouterr().out
    runs = [tmp_path / "run", tmp_path / "whole"]
    assert not harness.differences(*(harness.final_state(run) for run in runs))
    snapshot = load_snapshot(tmp_path / "run" / "snapshots" / "network-latest.safetensors")
    assert snapshot.provenance["init_from"] == record(tmp_path / "run")
    with pytest.raises(CheckpointError, match="gone"):  # from scratch it is read
        support.train(tmp_path / "run", *words, "--resume", "0")


def test_the_file_is_part_of_the_run_s_name():
    script = support.load("TrainGeneratorWandB")

    def flags(*words):
        args = support.get_args(script, [*support.TINY, *words])
        return shaping(args, tagged(OPTIONS, EXECUTION))

    assert "init_from" not in flags() and flags("--init_from", "a")["init_from"] == "a"


def test_what_does_not_fit_is_named_and_new(camnet, tmp_path, capsys):
    words = ["--res", "8", "16", "32", "--resid_nc", "6", "4", "--dense_nc", "5", "4"]
    support.train(tmp_path / "run", *words, "--init_from", str(camnet), *TINY_STEP)
    told, out = record(tmp_path / "run"), capsys.readouterr().out
    assert all(name.startswith("levels.1.") for name in told["missing"]) and told["missing"]
    assert 0 < told["share"] < 1 and told["misshapen"] and not told["unused"]
    assert f"not there, so new ({len(told['missing'])}): levels.1." in out
    assert f"of another shape there, so new ({len(told['misshapen'])}): levels.0." in out
    assert out.count(", ...") >= 1  # names in a line are few


def test_a_hierarchical_mapping_begins_with_an_independent_one(tmp_path, capsys):
    """Of a run, and of the CAM-Net code release: what it computes stays, and the log says so."""
    levels = ["--res", "8", "16", "32", "--resid_nc", "6", "4", "--dense_nc", "4", "4"]
    as_theirs = "--base none --padding zeros --norm instance --ema_std 0".split()
    support.train(tmp_path / "plain", *levels, *TINY_STEP, *as_theirs)
    file = tmp_path / "plain" / "snapshots" / "network-latest.safetensors"
    state = load_snapshot(file).state_dict
    torch.save(as_release(state), tmp_path / "release.pth")
    for word in (tmp_path / "plain", tmp_path / "release.pth"):
        capsys.readouterr()
        words = [*levels, "--mapping", "hierarchical", "--init_from", str(word), *TINY_STEP]
        support.train(tmp_path / word.stem / "run", *words)
        assert "1 of them get columns of 0 for earlier levels" in capsys.readouterr().out
        told = record(tmp_path / word.stem / "run")
        assert told["share"] == 1 and not told["missing"]
        before, now = (
            support.metrics(folder, "val/lpips_random")[step]
            for folder, step in ((tmp_path / "plain", 1), (tmp_path / word.stem / "run", 0))
        )
        assert now == pytest.approx(before, rel=1e-4)


def test_imle_begins_with_an_original_s_weights(camnet, tmp_path):
    """Of the CAM-Net code release (other names), and a bare state_dict of the refactoring's."""
    state = load_snapshot(camnet / "snapshots" / "network-latest.safetensors").state_dict
    torch.save({"model": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "bare.pth")
    parts = {"mapping_net.model": "map", "feat_net": "feat", "style_block": "style"}
    parts |= {"out_conv": "out", "upsample_block.model.0": "up", "upsample_block.model.1.0": "up.3"}
    released = {}
    for name, value in state.items():
        _, level, rest = name.split(".", 2)
        part = max((p for p in parts if rest.startswith(f"{p}.")), key=len)
        released[f"level_{int(level) + 1}_{parts[part]}.{rest[len(part) + 1 :]}"] = value
    torch.save(released, tmp_path / "release.pth")
    for name in ("bare", "release"):
        file = str(tmp_path / f"{name}.pth")
        support.train(tmp_path / name, "--init_from", file, *TINY_STEP)
        assert record(tmp_path / name)["taken"] == len(state)
        assert near(state_at(tmp_path / name, 1), state)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "run"
    simclr_support.train(folder, "--epochs", "1", "--no-probe", "--save_pt")
    return folder


def test_a_network_of_another_kind_is_refused(encoder, camnet, tmp_path):
    where = tmp_path / "run"
    with pytest.raises(UsageError, match="is a SimCLR encoder, which cannot start a CAM-Net"):
        support.train(where, "--init_from", str(encoder))
    assert not where.exists()  # nothing is left of a wrong command
    with pytest.raises(UsageError, match="is a CAM-Net, which cannot start a SimCLR encoder"):
        simclr_support.train(where, "--init_from", str(camnet))
    for name in ("", "0.pt"):
        with pytest.raises(UsageError, match="is a SimCLR encoder, which cannot start a network"):
            toy.train(where, "--init_from", str(encoder / name))
    assert not where.exists()


def test_files_without_weights_of_use_are_refused(tmp_path):
    def begin(file):
        toy.train(tmp_path / "run", "--init_from", str(tmp_path / file))

    torch.save({"state_dict": {"fc.weight": torch.zeros(3)}}, tmp_path / "other.pt")
    with pytest.raises(UsageError, match="no weight of it fits a network of the toy .*fc.weight"):
        begin("other.pt")
    with pytest.raises(CheckpointError, match="nowhere"):
        begin("nowhere.safetensors")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.raises(CheckpointError, match="no weights in it"):
        begin("empty.pt")
    torch.save({"gain": torch.tensor(torch.nan)}, tmp_path / "nan.pt")
    with pytest.raises(CheckpointError, match="its weights are not finite .gain."):
        begin("nan.pt")
    (tmp_path / "x.safetensors").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="damaged or foreign"):
        begin("x.safetensors")
    save_snapshot(tmp_path / "y.safetensors", {"a": torch.zeros(1)}, "strange", {}, {})
    with pytest.raises(UsageError, match="of kind 'strange', which cannot start"):
        begin("y.safetensors")
    assert not (tmp_path / "run").exists()


def test_it_is_not_of_the_generator_that_isicle_trains(tmp_path, capsys):
    script = support.load("TrainISICLE")
    with pytest.raises(SystemExit, match="2"):
        support.get_args(script, ["--preset", "smoke", "--imle", "--init_from x"])
    assert "--init_from has no influence there" in capsys.readouterr().err


# ----------------------------------------------------------------------------------- SimCLR, ISICLE

ONE_EPOCH = "--epochs 1 --n_ramp 0 --lr 1e-9 --wd 0 --lars 0 --no-probe".split()


def weights_of(run_dir: Path, name: str = "model") -> dict:
    return {k: v for k, v in harness.final_state(run_dir)[name].items() if "running" not in k}


@pytest.mark.parametrize("what", ["", "0.pt", "snapshots/0", "checkpoints/step-000000004/model.pt"])
def test_simclr_begins_with_an_encoder(encoder, tmp_path, what):
    simclr_support.train(tmp_path, "--init_from", str(encoder / what), *ONE_EPOCH)
    assert record(tmp_path)["share"] == 1
    want = open_encoder(encoder / "snapshots" / "0.safetensors")[0].state_dict()
    found = weights_of(tmp_path)
    assert near(found, {k: v for k, v in want.items() if k in found} | counted(found))


def counted(state):
    """Numbers of batches seen go on counting."""
    return {k: v for k, v in state.items() if k.endswith("num_batches_tracked")}


def test_simclr_begins_with_a_resnet_under_torchvision_s_names(tmp_path, capsys):
    net = simclr_support.small_backbone()
    state = {k: v for k, v in net.state_dict().items() if not k.startswith("fc")}
    state |= {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "resnet.pth")
    words = ("--init_from", str(tmp_path / "resnet.pth"), *ONE_EPOCH)
    simclr_support.train(tmp_path / "run", *words)
    out, told = capsys.readouterr().out, record(tmp_path / "run")
    assert "there only, not used (1): backbone.fc.bias" in out
    assert "backbone.fc.weight [512, 32], there [1000, 512]" in out
    assert all(name.startswith("projector.") for name in told["missing"])
    found = weights_of(tmp_path / "run")
    assert torch.allclose(found["backbone.conv1.weight"], net.conv1.weight, atol=1e-6)


def test_the_names_of_the_original_simclr_code_become_ours(tmp_path):
    net = original(hidden=8, out=4)
    torch.save({"model": net.state_dict(), "last_epoch": 3}, tmp_path / "3.pt")
    kind, state, *_ = read_encoder(tmp_path / "3.pt")
    assert kind == "simclr" and "backbone.layer4.1.bn2.weight" in state
    assert "projector.fc1.weight" in state


def test_probes_alone_take_no_weights_to_begin_with(capsys):
    with pytest.raises(SystemExit, match="2"):
        simclr_support.options("--probe_only", "untrained", "--init_from", "x")


@pytest.fixture
def isicle_set(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("data") / "set"
    test_TrainISICLE.make_set(folder, {"train": {"a": 13, "b": 13}})
    monkeypatch.setenv("ISICLE_TEST_SET", str(folder))


def test_isicle_begins_with_a_simclr_encoder(isicle_set, encoder, tmp_path):
    """With norms of two domains, both begin as the file's; the generator is another's business."""
    words = [*test_TrainISICLE.JOINT, "--domain_bn", "True", "--proj_dim", "8"]
    test_TrainISICLE.train(tmp_path, *words, "--init_from", str(encoder), *ONE_EPOCH)
    assert record(tmp_path)["share"] == 1 and not record(tmp_path)["missing"]
    want = open_encoder(encoder / "snapshots" / "0.safetensors")[0].state_dict()
    found = weights_of(tmp_path)
    for name in ("backbone.bn1.weight", "projector.bn1.weight", "backbone.conv1.weight"):
        assert torch.allclose(found[name], want[name], atol=1e-6)
    assert torch.allclose(found["backbone.bn1.synthetic.weight"], want["backbone.bn1.weight"])


# --------------------------------------------------------------------------------------- EDM2, toy


@pytest.fixture(scope="module")
def edm2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edm2") / "run"
    test_train_edm2.train(folder, "--duration", "80")
    return folder


def test_edm2_begins_with_a_snapshot(edm2, tmp_path, capsys):
    words = ("--init_from", str(edm2), "--duration", "40", "--lr", "1e-12")
    test_train_edm2.train(tmp_path / "run", *words)
    told = record(tmp_path / "run")
    assert told["file"].endswith("network-snapshot-0000002-0.100.safetensors")
    assert told["share"] == 1 and not told["missing"]
    start = load_snapshot(Path(told["file"])).state_dict
    end = state_at(tmp_path / "run", 1)
    for name, value in start.items():
        if value.ndim < 2:
            assert torch.allclose(end[name], value, atol=1e-5), name
            continue
        rows = nn.functional.normalize(value.flatten(1).double(), dim=1)  # as every step makes them
        assert torch.allclose(
            nn.functional.normalize(end[name].flatten(1).double(), dim=1), rows, atol=1e-4
        ), name


def test_edm2_of_other_classes_and_another_resolution(edm2, tmp_path, capsys):
    words = ("--init_from", str(edm2), "--duration", "40")
    test_train_edm2.train(tmp_path / "classes", *words, "--label_dim", "12")
    told = record(tmp_path / "classes")
    assert told["misshapen"] == ["unet.emb_label.weight"] and not told["missing"]
    assert "unet.emb_label.weight [" in capsys.readouterr().out
    test_train_edm2.train(tmp_path / "larger", *words, "--res", "16")
    told = record(tmp_path / "larger")
    assert any("16x16" in name for name in told["missing"])
    assert any("4x4" in name for name in told["unused"]) and 0 < told["share"] < 1


def test_the_toy_begins_with_a_snapshot(tmp_path, edm2):
    toy.train(tmp_path / "first")
    words = ("--init_from", str(tmp_path / "first"), "--lr", "1e-9", "--total-iter", "1")
    toy.train(tmp_path / "run", *words)
    start = load_snapshot(tmp_path / "first" / "snapshots" / "iter0008.safetensors").state_dict
    average = state_at(tmp_path / "run", 1, "average")["module"]
    assert record(tmp_path / "run")["share"] == 1 and average.keys() == start.keys()
    assert torch.allclose(average["gain"], start["gain"], atol=1e-6)
    with pytest.raises(UsageError, match="is an EDM2 network, which cannot start a network of the"):
        toy.train(tmp_path / "none", "--init_from", str(edm2))


def test_the_toy_begins_with_the_weights_in_a_checkpoint(tmp_path):
    toy.train(tmp_path / "toy")
    file = str(tmp_path / "toy" / "checkpoints" / "step-000000008" / "net.pt")
    toy.train(tmp_path / "run", "--init_from", file)
    assert record(tmp_path / "run")["share"] == 1
