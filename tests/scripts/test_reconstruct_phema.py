"""reconstruct_phema: averages of other widths from a run's snapshots, and what it refuses."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch

from diffusion import Precond
from recipes.phema.inputs import OURS
from recipes.phema.options import get_args
from runtime import ema
from storage.errors import CheckpointError, UsageError
from storage.snapshot import load_snapshot, save_snapshot
from tests.scripts.support import load

SCRIPT = load("reconstruct_phema")
STEPS, EVERY, BATCH = 120, 10, 40
NET = dict(
    img_resolution=8, img_channels=1, label_dim=2, model_channels=8, channel_mult=[1],
    num_blocks=1, attn_resolutions=[], logvar_channels=4, channels_per_head=8,
)  # fmt: skip


def reconstruct(*words):
    SCRIPT.main(get_args(None, [str(w) for w in words]))


def weights(path):
    return load_snapshot(path).state_dict


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(snapshots folder, trajectory [{name: weights}], true averages {(step, std): weights})."""
    folder = tmp_path_factory.mktemp("phema") / "run" / "snapshots"
    torch.manual_seed(0)
    net = Precond(**NET)
    stored, others = (0.05, 0.10), (0.03, 0.07, 0.15)
    averages = {std: ema.EMA(net, ema.power(std)) for std in (*stored, *others)}
    goals = [torch.randn_like(p) for p in net.parameters()]
    path, true = [], {}
    for step in range(1, STEPS + 1):
        with torch.no_grad():
            for p, goal in zip(net.parameters(), goals, strict=True):
                p += 0.05 * (goal - p) + 0.02 * torch.randn_like(p)
        path.append({k: p.detach().clone() for k, p in net.named_parameters()})
        for std, average in averages.items():
            average.update(net, step * BATCH, BATCH)
            if step % EVERY:
                continue
            state = average.module.state_dict()
            true[step, std] = {k: v.clone() for k, v in state.items()}
            if std in stored:
                config = {
                    "net": net.config, "encoder": {"name": "rgb"}, "classes": ["a", "b"],
                    "ema_std": std, "step": step, "nimg": step * BATCH,
                }  # fmt: skip
                origin = {"run": "r1", "config_hash": "h1", "step": step}
                name = f"network-snapshot-{step:07d}-{std:.3f}.safetensors"
                save_snapshot(folder / name, state, "edm2", config, origin)
    return folder, path, true


def error_of(found, truth):
    """Largest difference of any weight, relative to the largest weight of its tensor."""
    assert found.keys() == truth.keys()
    return max(
        float((found[k] - truth[k]).abs().max() / truth[k].abs().max().clamp(min=1e-3))
        for k in truth
    )


def test_widths_also_tracked_directly(run, tmp_path):
    folder, _, true = run
    reconstruct("--indir", folder, "--outdir", tmp_path, "--outstd", "0.05,0.07,0.10,0.15,0.03")
    files = {p.name: p for p in tmp_path.iterdir()}
    assert len(files) == 5
    for std, allowed in [(0.05, 0), (0.10, 0), (0.07, 2e-3), (0.15, 4e-3), (0.03, 3e-2)]:
        file = files[f"phema-{STEPS:07d}-{std:.3f}.safetensors"]
        assert error_of(weights(file), true[STEPS, std]) <= allowed, std
    # none of which would pass for another
    assert error_of(true[STEPS, 0.10], true[STEPS, 0.07]) > 1e-2


def test_against_float64_over_the_trajectory(run, tmp_path):
    folder, path, _ = run
    reconstruct("--indir", folder, "--outdir", tmp_path, "--outstd", 0.07, "--out_step", 80)
    found = weights(tmp_path / "phema-0000080-0.070.safetensors")
    edges = (np.arange(81) / 80) ** (ema.power_exponent(0.07) + 1)
    for name in path[0]:
        steps = torch.stack([p[name] for p in path[:80]]).double()
        truth = torch.tensordot(torch.from_numpy(np.diff(edges)), steps, 1)
        assert (found[name] - truth).abs().max() < 3e-3 * truth.abs().max().clamp(min=1), name


def test_result_is_a_snapshot_of_the_same_network(run, tmp_path):
    folder, _, true = run
    reconstruct("--indir", folder, "--outdir", tmp_path, "--outstd", 0.08, "--outprefix", "x")
    found = load_snapshot(tmp_path / f"x-{STEPS:07d}-0.080.safetensors")
    last = load_snapshot(folder / f"network-snapshot-{STEPS:07d}-0.100.safetensors")
    assert found.kind == "edm2" and found.config == {**last.config, "ema_std": 0.08}
    net = Precond(**found.config["net"])
    net.load_state_dict(found.state_dict)
    for name, buffer in net.named_buffers():  # taken over, not summed
        assert torch.equal(buffer, last.state_dict[name])
    made = found.provenance["reconstructed"]
    assert len(made["inputs"]) == 2 * STEPS // EVERY
    assert sum(i["weight"] for i in made["inputs"]) == pytest.approx(1)
    assert made["inputs"][0]["file"] == "network-snapshot-0000010-0.050.safetensors"
    assert len(made["inputs"][0]["sha256"]) == 64
    assert found.provenance["run"] == "r1" and 0 < made["profile_mismatch"] < 0.1


def test_batches_and_single_runs_agree(run, tmp_path):
    folder, _, _ = run
    common = ["--indir", folder, "--outstd", "0.06,0.07,...,0.09"]
    reconstruct(*common, "--outdir", tmp_path / "a")
    reconstruct(*common, "--outdir", tmp_path / "b", "--batch", 3)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert len(names) == 4 and names == sorted(p.name for p in (tmp_path / "b").iterdir())
    for name in names:
        a, b = weights(tmp_path / "a" / name), weights(tmp_path / "b" / name)
        assert all(torch.allclose(a[k], b[k], rtol=1e-6, atol=1e-7) for k in a)


def test_chunks_change_nothing(run, tmp_path, monkeypatch):
    folder, _, _ = run
    reconstruct("--indir", folder, "--outdir", tmp_path / "a", "--outstd", 0.07)
    monkeypatch.setattr(SCRIPT, "CHUNK", 100)
    reconstruct("--indir", folder, "--outdir", tmp_path / "b", "--outstd", 0.07)
    name = f"phema-{STEPS:07d}-0.070.safetensors"
    a, b = weights(tmp_path / "a" / name), weights(tmp_path / "b" / name)
    assert all(torch.allclose(a[k], b[k], rtol=1e-6, atol=1e-7) for k in a)


def test_one_stored_width_is_enough(run, tmp_path):
    folder, _, true = run
    reconstruct("--indir", folder, "--outdir", tmp_path, "--instd", 0.1, "--outstd", 0.12)
    found = load_snapshot(tmp_path / f"phema-{STEPS:07d}-0.120.safetensors")
    stds = {i["ema_std"] for i in found.provenance["reconstructed"]["inputs"]}
    assert stds == {0.10}
    assert found.provenance["reconstructed"]["profile_mismatch"] < 0.05


def test_run_folder_defaults_and_skip(run, tmp_path, capsys):
    shutil.copytree(run[0], tmp_path / "run" / "snapshots")
    words = ["--indir", tmp_path / "run", "--outstd", "0.07", "0.08", "--outkimg", 2]
    with pytest.raises(UsageError, match=r"at \[2000, 2400, 2800\] images; choose by --out_step"):
        reconstruct(*words)
    words[-2:] = ["--out-epoch", 30]
    reconstruct(*words)
    files = sorted((tmp_path / "run" / "snapshots").glob("phema*"))
    assert [f.name[-17:] for f in files] == ["0.070.safetensors", "0.080.safetensors"]
    files[0].unlink()
    before = files[1].stat().st_mtime_ns
    reconstruct(*words, "--skip")
    assert files[0].exists() and files[1].stat().st_mtime_ns == before
    capsys.readouterr()
    for more in (["--skip"], []):  # the results of before are no inputs
        reconstruct(*words, *more)
        assert "done already: 2 averages in" in capsys.readouterr().out
        assert files[1].stat().st_mtime_ns == before
    reconstruct(*words, "--overwrite")
    assert files[1].stat().st_mtime_ns != before


def test_results_of_other_snapshots_are_not_replaced(run, tmp_path, capsys):
    shutil.copytree(run[0], tmp_path / "in")
    words = ["--indir", tmp_path / "in", "--outdir", tmp_path / "out", "--outstd", 0.07]
    reconstruct(*words, "--instd", 0.05)
    file = next((tmp_path / "out").iterdir())
    before = file.read_bytes()
    with pytest.raises(UsageError, match=r"0\.070.* snapshots before, .* now.*or --overwrite"):
        reconstruct(*words)
    with pytest.raises(UsageError, match="width 0.07 before, 0.0702 now"):
        reconstruct(*words[:-1], 0.0702, "--instd", 0.05)
    assert file.read_bytes() == before
    reconstruct(*words, "--overwrite")
    assert file.read_bytes() != before
    shutil.copy(next((tmp_path / "in").iterdir()), file)
    before = file.read_bytes()
    for more in ([], ["--overwrite"]):
        with pytest.raises(UsageError, match="is no result of this script: another --outdir"):
            reconstruct(*words, *more)
    assert file.read_bytes() == before


def test_kimg_names_the_time(run, tmp_path):
    folder, _, true = run
    reconstruct("--indir", folder, "--outdir", tmp_path, "--outstd", 0.05, "--outkimg", 0,
                "--inprefix", "network-snapshot-0000010")  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["phema-0000010-0.050.safetensors"]


# ------------------------------------------------------------------------------- what is refused


def write(folder, step, std, state=None, *, kind="edm2", config=None, origin=None, nimg=None):
    state = {"w": torch.full((3,), float(step))} if state is None else state
    facts = {"net": {}, "ema_std": std, "step": step, "nimg": nimg or 10 * step, **(config or {})}
    name = f"network-snapshot-{step:07d}-{std or 0:.3f}.safetensors"
    return save_snapshot(folder / name, state, kind, facts, origin or {})


@pytest.mark.parametrize(
    "second, says",
    [
        (dict(kind="edm2-toy"), "a 'edm2' and a 'edm2-toy'"),
        (dict(config={"net": {"x": 1}}), "their net differ"),
        (dict(config={"classes": ["a"]}), "their classes differ"),
        (dict(state={"w": torch.zeros(4)}), r"w has shapes \(3,\) and \(4,\)"),
        (dict(state={"v": torch.zeros(3)}), r"v has shapes None and \(3,\)"),
        (dict(origin={"run": "b", "config_hash": "k"}), "they come from a and b"),
        (dict(nimg=5), "steps 2 and 1 at 5 and 10 images"),
    ],
)
def test_other_runs_are_refused(tmp_path, second, says):
    write(tmp_path, 1, 0.1, origin={"run": "a", "config_hash": "h"})
    write(tmp_path, 2, 0.1, **second)
    with pytest.raises(CheckpointError, match=f"not of one run: {says}"):
        reconstruct("--indir", tmp_path, "--outstd", 0.2)
    assert not list(tmp_path.glob("phema*"))


def test_a_renamed_or_prolonged_run_is_still_one(tmp_path):
    write(tmp_path, 1, 0.1, origin={"run": "a", "config_hash": "h"})
    write(tmp_path, 2, 0.1, origin={"run": "b", "config_hash": "h"})
    write(tmp_path, 3, 0.1, origin={"run": "b", "config_hash": "i"})
    reconstruct("--indir", tmp_path, "--outstd", 0.2)
    assert list(tmp_path.glob("phema*"))


def test_the_same_average_twice(tmp_path):
    file = write(tmp_path, 1, 0.1)
    file.with_name("network-snapshot-copy.safetensors").write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match="both are the average of width 0.1 at 10 images"):
        reconstruct("--indir", tmp_path, "--outstd", 0.2)


def test_damage_is_found_and_nothing_is_written(tmp_path):
    for step in (1, 2, 3):
        file = write(tmp_path, step, 0.1)
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="0000003-0.100.*sha256 mismatch"):
        reconstruct("--indir", tmp_path, "--outdir", tmp_path / "out", "--outstd", 0.2)
    assert not list((tmp_path / "out").iterdir())
    file.write_bytes(b"foreign")
    with pytest.raises(CheckpointError, match="0000003-0.100"):
        reconstruct("--indir", tmp_path, "--outstd", 0.2)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named(tmp_path, value):
    write(tmp_path, 1, 0.1)
    write(tmp_path, 2, 0.1, {"w": torch.tensor([1.0, value, 0.0])})
    write(tmp_path, 3, 0.1)
    with pytest.raises(CheckpointError, match="0000002-0.100.safetensors: w is not finite"):
        reconstruct("--indir", tmp_path, "--outstd", 0.2)
    with pytest.raises(CheckpointError, match="w is not finite"):  # alone, or the same in all
        reconstruct("--indir", tmp_path, "--outstd", 0.2, "--inprefix", "network-snapshot-0000002")


def test_raw_networks_and_results_are_no_inputs(tmp_path, capsys):
    write(tmp_path, 1, 0.1)
    write(tmp_path, 2, None)
    reconstruct("--indir", tmp_path, "--outstd", 0.2, "--outprefix", "network-snapshot-x")
    reconstruct("--indir", tmp_path, "--outstd", 0.15)
    said = capsys.readouterr().out
    assert "0000002-0.000.safetensors: passed over, not a snapshot of an average" in said
    assert "network-snapshot-x-0000001-0.200.safetensors: passed over, itself recon" in said


def test_types_of_results(tmp_path):
    for step in (1, 2):
        state = {
            "half": torch.full((2,), step, dtype=torch.bfloat16),
            "wide": torch.full((2,), step, dtype=torch.float64),
            "count": torch.tensor(step),
            "same": torch.tensor([0.1], dtype=torch.float16),
            "scalar": torch.tensor(float(step)),
            "empty": torch.zeros(0, 3),
        }
        write(tmp_path, step, 0.1, state)
    reconstruct("--indir", tmp_path, "--outstd", 0.15)
    found = weights(tmp_path / "phema-0000002-0.150.safetensors")
    assert found["half"].dtype == found["same"].dtype == torch.float32
    assert found["wide"].dtype == torch.float64
    assert found["count"] == 2 and found["count"].dtype == torch.int64
    assert found["same"] == torch.tensor([0.1], dtype=torch.float16)
    assert found["scalar"].shape == () and 1 < found["scalar"] < 2
    assert found["empty"].shape == (0, 3)
    assert torch.allclose(found["half"].double(), found["wide"])


def test_no_input_is_overwritten(tmp_path):
    write(tmp_path, 1, 0.1)
    with pytest.raises(UsageError, match="0000001-0.100.safetensors is an input"):
        reconstruct("--indir", tmp_path, "--outstd", 0.1, "--outprefix", "network-snapshot")


def test_missing_times_and_folders(tmp_path):
    for step in range(1, 12):
        write(tmp_path, step, 0.1, nimg=step * 2000)
    with pytest.raises(
        UsageError, match=r"--out_step 99: .* there are: 1, 2, 3, 4, ..., 9, 10, 11"
    ):
        reconstruct("--indir", tmp_path, "--outstd", 0.2, "--out_step", 99)
    with pytest.raises(UsageError, match="--outkimg 3: no snapshot then; there are: 2, 4, 6, 8"):
        reconstruct("--indir", tmp_path, "--outstd", 0.2, "--outkimg", 3)
    with pytest.raises(UsageError, match="none: no such folder"):
        reconstruct("--indir", tmp_path / "none", "--outstd", 0.2)
    with pytest.raises(UsageError, match="no snapshots network-snapshot.*of EMA width 0.050 in"):
        reconstruct("--indir", tmp_path, "--outstd", 0.2, "--instd", 0.05)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--outdir .*file"):
        reconstruct("--indir", tmp_path, "--outstd", 0.2, "--outdir", tmp_path / "file")


def test_widths_out_of_range_in_a_file(tmp_path):
    write(tmp_path, 1, 0.4)
    with pytest.raises(CheckpointError, match="0.4 is not in"):
        reconstruct("--indir", tmp_path, "--outstd", 0.2)


@pytest.mark.parametrize("name", ["nimg", "step", "ema_std"])
@pytest.mark.parametrize(
    "value", [math.nan, math.inf, 10**400, "x", [1], {}, True, -1, 1.5], ids=lambda v: str(v)[:9]
)
def test_facts_of_a_file_that_are_nonsense_are_no_traceback(tmp_path, name, value, capsys):
    write(tmp_path, 1, 0.1)
    write(tmp_path, 2, 0.1)
    file = write(tmp_path, 3, 0.1, config={name: value}).rename(tmp_path / f"{OURS}-x.safetensors")
    try:
        reconstruct("--indir", tmp_path, "--outstd", 0.2)
        assert f"{file.name}: passed over" in capsys.readouterr().out
    except CheckpointError as error:
        assert name == "ema_std" and str(value) in str(error)


@pytest.mark.parametrize("note", [3, [], {}, {"inputs": [3]}, {"inputs": [{}]}])
def test_a_result_that_says_nonsense_is_none_of_this_script(tmp_path, note):
    write(tmp_path, 1, 0.1)
    old = {"w": torch.zeros(3)}
    save_snapshot(
        tmp_path / "phema-0000001-0.200.safetensors", old, "edm2", {}, {"reconstructed": note}
    )
    with pytest.raises(UsageError, match="no result of this script"):
        reconstruct("--indir", tmp_path, "--outstd", 0.2)


# ------------------------------------------------------------------------------------ command line


@pytest.mark.parametrize(
    "words, expected",
    [
        ("0.1", [0.1]),
        ("0.05,0.1,0.15", [0.05, 0.1, 0.15]),
        ("0.01,0.015,...,0.03", [0.01, 0.015, 0.02, 0.025, 0.03]),
        ("0.10 0.08 ... 0.04", [0.1, 0.08, 0.06, 0.04]),
        ("0.01,0.02,...,0.04,0.1,0.15,...,0.25", [0.01, 0.02, 0.03, 0.04, 0.1, 0.15, 0.2, 0.25]),
        ("0.010,0.012,...,0.250", [0.01 + 0.002 * i for i in range(121)]),
    ],
)
def test_lists_of_widths(words, expected):
    args = get_args(None, ["--indir", "x", "--outstd", *words.split()])
    assert args.outstd == pytest.approx(expected, abs=1e-12)
    assert args.outstd[-1] == expected[-1]


@pytest.mark.parametrize(
    "words, says",
    [
        ("--outstd 0.1", "--indir is missing"),
        ("--indir x", "--outstd is missing"),
        ("--indir x --outstd 0.3", "0.3 is out of range"),
        ("--indir x --outstd 0", "0 is out of range"),
        ("--indir x --outstd 0.1,...,0.2", "between a,b and c"),
        ("--indir x --outstd 0.1,0.12,...", "between a,b and c"),
        ("--indir x --outstd 0.1,0.12,...,0.15", "do not lead to 0.15"),
        ("--indir x --outstd 0.1,0.1,...,0.15", "do not lead"),
        ("--indir x --outstd 0.1,0.1001", "not told apart"),
        ("--indir x --outstd 0.0001", "not told apart"),
        ("--indir x --outstd 0.1 --outkimg 1 --out_step 2", "one time, not two"),
        ("--indir x --outstd 0.1 --batch 0", "batch"),
        ("--indir x --outstd 0.1 --outprefix ../x", "--outprefix ../x"),
    ],
)
def test_command_line_errors(words, says, capsys):
    with pytest.raises(SystemExit) as stop:
        get_args(None, words.split())
    err = capsys.readouterr().err
    assert stop.value.code == 2 and says in err and err.count("\n") == 1


def test_smoke(tmp_path, capsys):
    reconstruct("--preset", "smoke", "--outdir", tmp_path)
    reconstruct("--preset", "smoke", "--outdir", tmp_path)  # the same run each time
    assert "done already: 4 averages" in capsys.readouterr().out
    reconstruct("--preset", "smoke", "--outdir", tmp_path, "--overwrite")
    said = [line for line in capsys.readouterr().out.splitlines() if "tracked directly" in line]
    errors = [float(line.split(" by ")[1].split()[0]) for line in said]
    assert len(errors) == 4 and errors[0] == 0 and max(errors) < 1e-3
    assert len(list(tmp_path.iterdir())) == 4
