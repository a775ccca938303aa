"""The toy example from its command line: modes, resuming, logs, test and plot."""

import io
import json
import re

import pytest
import torch
from PIL import Image

import diffusion.toy_eval
from recipes.toy.options import get_args as read_options
from storage.errors import CheckpointError, DataError, NonFiniteError, UsageError
from storage.snapshot import load_snapshot, save_snapshot
from tests.diffusion.edm2_pickles import put_modules, toy_pickle
from tests.scripts.support import load, metrics
from tests.server import serving

SCRIPT = load("toy_example")
TINY = """train --preset smoke --total-iter 8 --batch-size 200 --dim 8 --save_every 4
--snapshot_every 4 --log_every 2 --val_every 4 --val_samples 16 --test_samples 16
--no-viz""".split()


def get_args(words):
    return read_options(None, words)


def run(*words: str) -> None:
    SCRIPT.main(get_args(words))


def train(run_dir, *words: str) -> None:
    run(*TINY, "--run-dir", str(run_dir), *words)


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    """A trained network that others use as their guide."""
    run_dir = tmp_path_factory.mktemp("guide") / "run"
    train(run_dir, "--logging", str(run_dir.parent / "log.txt"))
    return run_dir


def snapshot_of(run_dir, name="iter0008"):
    return str(run_dir / "snapshots" / f"{name}.safetensors")


# --------------------------------------------------------------------------------------- training


def test_flags_of_autoguided_and_defaults():
    args = get_args("train --acid --guidance --guide-path Ref/iter0512.pkl".split())
    assert args.selection and args.guidance and args.gpus == []
    assert (args.layers, args.dim, args.total_iter, args.batch_size) == (4, 64, 4096, 4096)
    assert (args.filt, args.n, args.diff, args.invert) == (0.8, 16, True, False)
    many = """train --outdir O --cls AB --layers 2 --dim 32 --total-iter 9 --batch-size 64 --no-val
    --no-test --guidance --guide-path G --interpol --selection --acid --filt 0.5 --n 4 --diff False
    --invert --late --trick --seed 3 --verbose --debug --logging L --viz False --device 0"""
    args = get_args(many.split())
    assert args.gpus == [0] and not args.val and not args.viz and args.late and not args.diff
    assert get_args([]).command == "train"


@pytest.mark.parametrize(
    "words, says",
    [
        ("--guidance", "--guide FILE"),
        ("--no-guidance --guide-path x", "give one"),
        ("--interpol", "--interpol"),
        ("--early --late --acid", "give one"),
        ("--early", "--early needs"),
        ("--selection --early", "--guide"),
        ("--acid --no-selection", "give one"),
        ("--selection --batch-size 4", "keeps no row"),
        ("--acid --filt 1", "--filt"),
        ("--dim 0", "--dim"),
        ("--cls C", "--cls"),
        ("--device x", "--gpus"),
        ("--gpus 0 1", "one process"),
        ("--temperature 0", "--temperature"),
    ],
)
def test_wrong_options_are_one_line(words, says, capsys):
    with pytest.raises(SystemExit) as caught:
        get_args(["train", *words.split()])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and says in error and len(error.splitlines()) == 1


def test_without_a_word_it_asks_for_a_command(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["toy_example.py"])
    with pytest.raises(SystemExit, match="2"):
        read_options(None)
    assert "which command: train, test or plot?" in capsys.readouterr().err
    assert get_args(["--total-iter", "8"]).command == "train"


MODES = {
    "baseline": "",
    "random": "--selection",
    "jest": "--acid --score_scale seed --rounding reference",
    "ajest": "--acid --guide-path G --temperature 0.5",
    "ajest-early": "--acid --early --guide-path G --score_by_sigma",
    "random-late": "--selection --late --guide-path G",
    "easy": "--acid --no-diff --invert --first_chunk scored --score_scale raw --no-normalise",
    "interpol": "--acid --interpol --guide-path G",
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_runs_and_resumes_bit_exactly(mode, guide, tmp_path):
    words = ["--no-val", "--no-test", *MODES[mode].replace("G", snapshot_of(guide)).split()]
    train(tmp_path / "whole", *words)
    train(tmp_path / "parts", *words, "--total-iter", "6")
    train(tmp_path / "parts", *words)
    for name in ("iter0008", "iter0008learner"):
        whole, parts = (
            load_snapshot(tmp_path / d / "snapshots" / f"{name}.safetensors")
            for d in ("whole", "parts")
        )
        assert whole.kind == "edm2-toy" and whole.config["net"]["hidden_dim"] == 8
        for key, value in whole.state_dict.items():
            assert torch.equal(value, parts.state_dict[key]), key
    losses = metrics(tmp_path / "whole", "Average Learner Loss")
    assert len(losses) == 4 and losses == metrics(tmp_path / "parts", "Average Learner Loss")


def test_modes_train_on_different_rows(guide, tmp_path):
    words = {k: MODES[k].replace("G", snapshot_of(guide)).split() for k in MODES}
    seen = {}
    for mode in ("baseline", "random", "jest", "ajest"):
        train(tmp_path / mode, "--no-val", "--no-test", *words[mode])
        weights = load_snapshot(tmp_path / mode / "snapshots" / "iter0008learner.safetensors")
        seen[mode] = weights.state_dict["layers.2.weight"]
        rows = json.loads((tmp_path / mode / "status.json").read_text())["nimg"] / 8
        # 200 * (1 - 0.8), in 16 equal chunks for the reference's rounding
        assert rows == {"baseline": 200, "random": 40, "jest": 32, "ajest": 40}[mode]
    names = list(seen)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            assert not torch.equal(seen[a], seen[b]), (a, b)


def test_guide_metrics_at_iteration_0_do_not_crash(guide, tmp_path, capsys):
    """Bugs T1 and T2 of the original: a guide without --external, and outer L2 without a guide."""
    train(tmp_path / "a", "--guidance", "--guide-path", snapshot_of(guide), "--val_every", "1")
    keys = json.loads((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[0])
    assert keys["Average Validation Guided EMA L2 Distance"] > 0
    assert keys["Average Validation Guide Loss"] > 0
    train(tmp_path / "b", "--external", "--mandala")
    assert 0 <= metrics(tmp_path / "b", "Test EMA Mandala Score")[8] <= 1
    said = capsys.readouterr().out
    assert "Test EMA share of cells in the tree = " in said and "Mandala Score" not in said
    assert metrics(tmp_path / "b", "Average Outer Test EMA L2 Distance")[8] > 0


def test_snapshots_are_named_by_iteration(guide):
    names = sorted(p.name for p in (guide / "snapshots").iterdir())
    assert names == [f"iter{k}.safetensors" for k in ("0004", "0008", "0008learner")]


def test_outdir_and_paths_of_autoguided(guide, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RESULTS_HOME", str(tmp_path))
    run(*TINY, "--outdir", "Ref/one")
    assert (tmp_path / "toy_example" / "Ref" / "one" / "snapshots").is_dir()
    run("test", "--net-path", "Ref/one/iter0008.pkl", "--n-samples", "8")
    assert "Average Test Learner Loss" in capsys.readouterr().out


def test_a_guide_below_the_run_s_own_results(tmp_path):
    at = ["--results_path", str(tmp_path), "--no-val", "--no-test"]
    run(*TINY, *at, "--outdir", "Ref")
    run(*TINY, *at, "--outdir", "A", "--guide-path", "Ref/iter0008.pkl")
    assert (tmp_path / "toy_example" / "A" / "snapshots" / "iter0008.safetensors").is_file()
    with pytest.raises(CheckpointError, match="Ref/iter0009"):
        run(*TINY, *at, "--outdir", "B", "--guide-path", "Ref/iter0009.pkl")
    assert not (tmp_path / "toy_example" / "B").exists()  # found out before there is a run


# ------------------------------------------------------------------------------------------- logs


def test_text_log_is_the_original_s(guide):
    text = (guide.parent / "log.txt").read_text().splitlines()
    form = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d \| (INFO|DEBUG|WARNING) +\| .+")
    assert all(form.fullmatch(line) for line in text)
    found = SCRIPT.extract_results_from_log(guide.parent / "log.txt")
    assert list(found["Average Learner Loss"]) == [2, 4, 6, 8]
    assert found["Examples Seen"] == {k: 200 * k for k in (2, 4, 6, 8)}
    assert found["Training Time [min]"][8] > 0 == found["Selection Time [min]"][8]
    logged = metrics(guide, "Average Learner Loss")
    assert found["Average Learner Loss"] == pytest.approx(logged, rel=1e-4)
    for word, steps in (("Validation", [4, 8]), ("Test", [8])):
        for name in ("Learner", "EMA"):
            assert list(found[f"Average {word} {name} Loss"]) == steps
            assert list(found[f"Average {word} {name} L2 Distance"]) == steps


def test_resuming_repeats_nothing_in_the_text_log(tmp_path):
    log = tmp_path / "log.txt"
    train(tmp_path / "a", "--logging", str(log), "--total-iter", "6")
    train(tmp_path / "a", "--logging", str(log))
    steps = [
        line.rsplit("= ", 1)[1] for line in log.read_text().splitlines() if "Iteration" in line
    ]
    assert steps == ["2", "4", "4", "6", "6", "8", "8", "8"]  # figures, validation, test


def test_plot_loss(guide, tmp_path):
    path = SCRIPT.plot_loss(guide.parent / "log.txt", tmp_path / "loss.png")
    assert Image.open(path).size[0] > 500
    (tmp_path / "empty.txt").write_text("nothing\n")
    with pytest.raises(UsageError, match="no loss"):
        SCRIPT.plot_loss(tmp_path / "empty.txt")
    with pytest.raises(UsageError, match="cannot read"):
        SCRIPT.extract_results_from_log(tmp_path / "missing.txt")


# ------------------------------------------------------------------------------------ test, plot


def test_test_needs_no_log_no_guide_and_no_external(guide, capsys):
    """Bug T4 of the original."""
    run("test", "--net-path", snapshot_of(guide), "--n-samples", "32")
    out = capsys.readouterr().out
    assert "Average Test Learner Loss = " in out and "Guided" not in out


def test_test_with_everything(guide, tmp_path, capsys):
    log = tmp_path / "t.txt"
    run(
        "test", "--net-path", snapshot_of(guide, "iter0008learner"), "--ema-path",
        snapshot_of(guide), "--guide-path", snapshot_of(guide, "iter0004"), "--n-samples", "40",
        "--batch-size", "16", "--external", "--mandala", "--logging", str(log), "--acid",
    )  # fmt: skip
    found = SCRIPT.extract_results_from_log(log)
    for name in ("Learner", "EMA"):
        for region in ("", "Outer "):
            for way in ("", "Guided "):
                assert found[f"Average {region}Test {way}{name} L2 Distance"][0] > 0
        for way in ("", "Guided "):
            assert 0 <= found[f"Test {way}{name} Mandala Score"][0] <= 1
            assert 0 <= found[f"Test {way}{name} Classification Score"][0] <= 1
    assert found["Average Test Guide Loss"][0] > 0


def test_batches_do_not_change_the_figures(guide, tmp_path, capsys):
    """Bug T3 of the original: sums over batches instead of means."""
    logs = []
    for batch in ("64", "7"):
        logs.append(tmp_path / f"{batch}.txt")
        words = ["--guide-path", snapshot_of(guide, "iter0004"), "--n-samples", "64"]
        words += ["--batch-size", batch, "--logging", str(logs[-1])]
        run("test", "--net-path", snapshot_of(guide), *words)
    one, many = (SCRIPT.extract_results_from_log(log) for log in logs)
    for name, value in one.items():
        assert many[name][0] == pytest.approx(value[0], rel=1e-3), name


def test_plot_draws_two_panels_for_each_network(guide, tmp_path, capsys):
    for words, columns in ((["--gnet", snapshot_of(guide, "iter0004")], 4), ([], 2)):
        path = tmp_path / "deep" / f"{len(words)}.png"
        run("plot", "--net", snapshot_of(guide), "--samples", "64", "--save", str(path), *words)
        width, height = Image.open(path).size
        assert (
            width / height == pytest.approx(columns * 3.2 / 6.6, rel=0.02)
            and path.stat().st_size > 10_000
        )


def test_smoke_of_test_and_plot(tmp_path, capsys):
    run("test", "--preset", "smoke")
    run("plot", "--preset", "smoke", "--save", str(tmp_path / "x"))
    assert (
        tmp_path / "x.png"
    ).is_file() and f"picture: {tmp_path}/x.png" in capsys.readouterr().out
    with pytest.raises(UsageError, match="is a folder"):
        run("plot", "--preset", "smoke", "--save", str(tmp_path))


def test_plot_without_options_fetches_the_published_networks(tmp_path, monkeypatch, capsys):
    put_modules(monkeypatch)
    for kind in ("results", "models"):
        monkeypatch.setenv(f"{kind.upper()}_HOME", str(tmp_path / kind))
    with pytest.raises(DataError, match="iter4096.pkl: .*refused.*Place the file at ") as error:
        run("plot", "--samples", "64")
    assert error.value.exit_code == 6
    files = {
        "toy-example/clsA-layers04-dim64/iter4096.pkl": toy_pickle(0),
        "toy-example/clsA-layers04-dim32/iter0512.pkl": toy_pickle(1),
    }
    with serving(files=files) as server:
        monkeypatch.setenv("IMLE_LAB_NETWORKS", server.url)
        run("plot", "--samples", "64")
        assert [path for path, _ in server.hits] == list(files)
    assert "CC BY-NC-SA 4.0" in capsys.readouterr().err
    (picture,) = (tmp_path / "results" / "toy_example").glob("tree-*.png")
    width, height = Image.open(picture).size  # two panels for each of four kinds of samples
    assert width / height == pytest.approx(4 * 3.2 / 6.6, rel=0.02)
    monkeypatch.setenv("IMLE_LAB_NETWORKS", "http://127.0.0.1:9")
    run("plot", "--samples", "64")
    assert "done already" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run("plot", "--cls", "B")
    assert "--cls B: NVIDIA's network is of class A" in capsys.readouterr().err


def test_training_begins_and_is_guided_by_addresses(guide, tmp_path, monkeypatch):
    monkeypatch.setenv("MODELS_HOME", str(tmp_path / "models"))
    with open(snapshot_of(guide), "rb") as file:
        files = {"iter0008.safetensors": file.read()}
    with serving(files=files) as server:
        url = f"{server.url}/iter0008.safetensors"
        words = ["--no-val", "--no-test", "--init_from", url, "--guide", url]
        train(tmp_path / "run", *words, "--layers", "2")
        assert len(server.hits) == 1
    record = json.loads((tmp_path / "run" / "init_from.json").read_text())
    assert record["asked"] == url and record["share"] == 1
    assert record["file"].startswith(str(tmp_path / "models"))


def test_a_plot_is_not_replaced_by_another(guide, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RESULTS_HOME", str(tmp_path / "results"))
    words = ["plot", "--net", snapshot_of(guide), "--samples", "64"]
    for more in ([], ["--seed", "1"], []):  # a file for each setting
        run(*words, *more)
    files = sorted((tmp_path / "results" / "toy_example").glob("tree-*.png"))
    assert (
        len(files) == 2 and f"done already: 1 picture, {files[0].parent}" in capsys.readouterr().out
    )
    save = ["--save", str(tmp_path / "mine.png")]
    run(*words, *save)
    before = (tmp_path / "mine.png").read_bytes()
    with pytest.raises(UsageError, match="--seed 0 before, 1 now; another --save, or --overwrite"):
        run(*words, *save, "--seed", "1")
    assert (tmp_path / "mine.png").read_bytes() == before
    run(*words, *save, "--seed", "1", "--overwrite")
    assert (tmp_path / "mine.png").read_bytes() != before
    for content in (b"no picture", _png()):
        (tmp_path / "mine.png").write_bytes(content)
        for more in ([], ["--overwrite"]):
            with pytest.raises(UsageError, match="says not that this script"):
                run(*words, *save, *more)
        assert (tmp_path / "mine.png").read_bytes() == content


def _png():
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    return file.getvalue()


def test_tensorboard_has_pictures_of_training_under_one_name(tmp_path):
    from tests.runtime.test_event_files import events

    for steps in ("4", "8"):
        train(tmp_path, "--viz", "--no-val", "--no-test", "--tensorboard", "--total-iter", steps)
    assert {tag: [s for s, _ in shown] for tag, shown in events(tmp_path)[1].items()} == {
        "tree": [4, 8]
    }


def test_pictures_of_training(tmp_path, monkeypatch, capsys):
    train(tmp_path / "a", "--viz", "--no-val", "--no-test")
    assert (tmp_path / "a" / "samples" / "tree-000000008.png").is_file()
    said = capsys.readouterr().out
    assert re.search(
        r"validation: samples in the tree: learner .* %, EMA .* ground truth's own 9", said
    )
    (share,) = metrics(tmp_path / "a", "in the tree/EMA").values()
    assert f"EMA {100 * share:.1f} %" in said

    def fail(*args, **kwargs):
        raise ValueError("no such colour")

    monkeypatch.setattr(diffusion.toy_eval, "new_figure", fail)  # a picture that fails ends nothing
    train(tmp_path / "b", "--viz", "--no-val", "--no-test")
    assert "samples tree-000000008.png not written: no such colour" in capsys.readouterr().out
    assert snapshot_of(tmp_path / "b") and not list((tmp_path / "b").glob("samples/*.png"))


def test_a_network_is_needed(capsys):
    with pytest.raises(SystemExit) as caught:
        get_args(["test"])
    assert caught.value.code == 2 and "missing" in capsys.readouterr().err


def test_foreign_networks_are_refused_in_one_line(guide, tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        run("plot", "--net", str(tmp_path / "nothing.safetensors"))
    with pytest.raises(DataError, match="Connection refused.*Place the file at"):
        run("plot", "--net", "http://127.0.0.1:9/iter4096.pkl")
    from storage.snapshot import save_snapshot

    weights = load_snapshot(guide / "snapshots" / "iter0008.safetensors").state_dict
    other = save_snapshot(tmp_path / "a.safetensors", weights, "camnet", {}, {})
    with pytest.raises(CheckpointError, match="kind camnet"):
        run("plot", "--net", str(other))
    for config in ({}, {"net": {"hidden_dim": 9}}, {"net": {"nonsense": 1}}):
        other = save_snapshot(tmp_path / "b.safetensors", weights, "edm2-toy", config, {})
        with pytest.raises(CheckpointError, match="no toy network"):
            run("plot", "--net", str(other))


def test_flags_of_test_and_plot_are_promises(capsys):
    for command, names in {
        "test": "net-path ema-path guide-path acid n-samples batch-size external mandala seed "
        "logging device",
        "plot": "net gnet guidance save n_samples",
    }.items():
        for name in names.split():
            with pytest.raises(SystemExit):
                get_args([command, f"--{name}="])
            assert "unrecognized" not in capsys.readouterr().err, name


def test_a_reference_that_sees_nothing_ends_the_run(guide, tmp_path):
    """Its weights are finite, and so large that every loss is infinite."""
    found = load_snapshot(snapshot_of(guide))
    state = found.state_dict | {"gain": torch.tensor(3e38)}
    file = save_snapshot(tmp_path / "large.safetensors", state, found.kind, found.config, {})
    with pytest.raises(NonFiniteError, match="non-finite scores of the selection"):
        train(tmp_path / "run", "--acid", "--guidance", "--guide", str(file))
