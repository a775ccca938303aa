"""The study of generated views: pieces and their order, one command, its report, going on."""

from __future__ import annotations

import json

import pytest
import torch

import models.simclr
from benchmarks import isicle_arms as study
from imle import CAMNet
from storage.errors import CheckpointError, UsageError
from storage.snapshot import save_snapshot
from tests.data.pictures import make_set
from tests.scripts.simclr_support import small_backbone

TINY = (
    "--crop_size 8 --num_images 16 --bs 8 --n_ramp 0 --precision fp32 --log_every 1 "
    "--eval_iter 99 --save_iter 99 --save_every 99"
)
DRAW = "--view_batch 8 --view_precision fp32"


@pytest.fixture(autouse=True)
def light(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(models.simclr, "build_backbone", small_backbone)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def words(tmp_path):
    torch.manual_seed(0)
    net = CAMNet(res=[4, 8], map_nc=4, latent_nc=8, resid_nc=[6], dense_nc=[4], n_blocks=1)
    config = {"net": net.config, "codes": {}, "corruption": {}, "crop": "center"}
    file = save_snapshot(tmp_path / "net.safetensors", net.state_dict(), "camnet", config, {})
    counts = {"train": {"a": 8, "b": 8}, "val": {"a": 4, "b": 4}}
    data = make_set(tmp_path / "set", counts)
    return f"--out {tmp_path / 'out'} --net {file} --data {data} --epochs 1".split()


def args_of(words, *more):
    return study.get_args([*words, "--k", "2", "--extra", TINY, "--draw", DRAW, *more])


def test_pieces_are_whole_and_in_order(words):
    args = args_of(words, "--seeds", "3", "4")
    found = study.pieces(args)
    assert len(found) == len(set(found)) == 14 + 4
    assert {p.arm for p in found if p.seed == 4} == {
        f"{augs}-{pair}" for augs in ("full", "crop+flip") for pair in ("real-real", "mixed")
    }
    arms = [p.arm for p in found if p.seed == 3]
    assert set(arms[-2:]) == {"full-real-real-long", "crop+flip-real-real-long"}
    exact = study.Piece("full-real-real-exact", 0)
    assert exact.arm not in arms and "--exact_augs" in study.command(args, exact, 1)
    only = study.pieces(args_of(words, "--only", "full-*real", "--key"))
    assert [p.arm for p in only] == ["full-real-real"]
    more = {piece.arm for piece in study.pieces(args_of(words, "--only", "*", "--key"))}
    assert more == set(study.ARMS) and {"none-synth-synth", "full-multi"} <= more - set(arms)
    with pytest.raises(SystemExit):
        args_of(words, "--only", "nothing")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--draw", "--temprature 1"], "--temprature"),
        (["--draw", "'"], '--draw "\'": No closing quotation'),
        (["--extra", "--bs nought"], "nought"),
        (["--k", "-1"], "--k -1"),
    ],
)
def test_wrong_options_are_said_before_anything_is_trained(words, tmp_path, capsys, wrong, says):
    with pytest.raises(SystemExit) as end:
        study.main(args_of(words, *wrong))
    assert end.value.code == 2 and says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--extra", f"{TINY} --epochs 3"], "--epochs is what makes an arm"),
        (["--extra", f"{TINY} --augs full"], "--augs is what makes an arm"),
        (["--draw", "--views 3"], "no --views, --num_images"),
        (["--draw", "--num_images 4"], "no --views, --num_images"),
    ],
)
def test_what_makes_an_arm_is_not_overridden(words, tmp_path, wrong, says):
    with pytest.raises(UsageError, match=says):
        study.main(args_of(words, *wrong))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--k", "1", "--only", "none-*"], "none-synth-synth with --k 1: both views"),
        (["--only", "none-*", "--draw", f"{DRAW} --code fixed"], "both views of a picture would"),
        (["--only", "none-synth-synth", "--draw", f"{DRAW} --temperature 0"], "would be equal"),
    ],
)
def test_equal_views_are_refused_before_any_is_drawn(words, tmp_path, wrong, says):
    with pytest.raises(UsageError, match=says):
        study.main(args_of(words, *wrong))
    assert not (tmp_path / "out").exists()


def test_views_of_unknown_cost_are_refused(words, tmp_path):
    only = ["--only", "full-mixed", "--key", "--seeds", "0"]
    study.main(args_of(words, *only))
    results = json.loads((tmp_path / "out" / "results.json").read_text())["pieces"]
    file = tmp_path / "out" / "views-generated" / "views-train.json"
    note = json.loads(file.read_text())
    assert results[0]["drawing_s"] == pytest.approx(32 * note["facts"]["cpu_ms_per_view"] / 1000)
    # an arm keeps what it was trained on and what that cost, whatever becomes of the views
    file.rename(tmp_path / "note.json")
    study.main(args_of(words, *only))
    again = json.loads((tmp_path / "out" / "results.json").read_text())["pieces"]
    assert again == results
    file.write_text(json.dumps({**note, "plan": {**note["plan"], "temperature": 2.0}}))
    with pytest.raises(UsageError, match="full-mixed of seed 0 had other views"):
        study.main(args_of(words, *only))
    for name in ("cpu_ms_per_view", "ms_per_view"):
        del note["facts"][name]
    file.write_text(json.dumps(note))
    with pytest.raises(UsageError, match="does not say what a view took"):
        study.main(args_of(words, *only))


def test_the_longer_control_costs_what_mixed_costs(words):
    args = args_of(words, "--seeds", "0", "1", "--epochs", "20")
    piece = study.Piece("full-real-real-long", 1)
    time = {"wall_s": 1.0, "time is": "cpu_s"}
    done = {study.Piece("full-real-real", 0): {"cpu_s": 10.0, "drawing_s": 0.0, **time}}
    assert study.longer(args, piece, done) is None
    done[study.Piece("full-mixed", 0)] = {"cpu_s": 12.0, "drawing_s": 5.0, **time}
    assert study.longer(args, piece, done) == 34
    for found, wall in zip(done.values(), (10.0, 20.0), strict=True):
        found |= {"wall_s": wall, "time is": "wall_s"}
    assert study.longer(args, piece, done) == 50
    first = study.Piece("full-real-real-long", 0)
    assert study.longer(args, piece, {**done, first: {"epochs": 44}}) == 44  # all seeds alike
    done[study.Piece("full-real-real", 0)]["time is"] = "cpu_s"
    with pytest.raises(UsageError, match="timed on different devices"):
        study.longer(args, piece, done)
    assert study.longer(args, study.Piece("full-mixed", 1), {}) == 20


def test_one_command_trains_reports_and_goes_on(words, monkeypatch, tmp_path):
    args = args_of(words, "--seeds", "0", "1", "--only", "full-real-real", "full-mixed")
    study.main(args)
    text = (tmp_path / "out" / "report.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| full")]
    assert [row.split(" | ")[0] for row in rows] == ["| full-real-real", "| full-mixed"]
    assert "2 seeds" in rows[1] and "8 pictures" in rows[1]
    results = json.loads((tmp_path / "out" / "results.json").read_text())["pieces"]
    assert len(results) == 4 and all(r["steps"] == 2 and r["cpu_s"] > 0 for r in results)
    by = {(r["arm"], r["seed"]): r for r in results}
    assert all(r["wall_s"] > 0 and r["time is"] == "cpu_s" for r in results)
    with pytest.raises(UsageError, match=r"--epochs \| 1 +\| 2"):
        study.main(args_of([*words, "--epochs", "2"], "--seeds", "0", "1"))
    assert by["full-mixed", 0]["drawing_s"] > 0 == by["full-real-real", 0]["drawing_s"]
    assert by["full-mixed", 0]["synthetic"] > 0 == by["full-real-real", 0]["synthetic"]
    note = json.loads((tmp_path / "out" / "views-generated" / "views-train.json").read_text())
    assert note["plan"]["k"] == 2 and note["plan"]["size"] == 8

    # what is there is not done again; the control that waited runs now
    trained = []
    whole = study.run_script

    def run_script(name, args):
        if name == "TrainISICLE":
            trained.append(args.run_dir)
        whole(name, args)

    monkeypatch.setattr(study, "run_script", run_script)
    study.main(args_of(words, "--seeds", "0", "1", "--only", "full-real-real-long", "full-mixed"))
    assert [folder.rsplit("/", 1)[1] for folder in trained] == ["full-real-real-long"]
    assert "full-real-real-long" in (tmp_path / "out" / "report.md").read_text()


def test_the_study_goes_on_elsewhere_with_its_results_alone(words, monkeypatch, tmp_path):
    only = ["--only", "full-real-real", "full-mixed", "--seeds", "0"]
    study.main(args_of(words, *only))
    text = (tmp_path / "out" / "report.md").read_text()
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "out" / "results.json").rename(other / "results.json")
    words[words.index("--out") + 1] = str(other)
    trained = []
    whole = study.run_script

    def run_script(name, args):
        if name == "TrainISICLE":
            trained.append(args.run_dir)
        whole(name, args)

    monkeypatch.setattr(study, "run_script", run_script)
    study.main(args_of(words, *only))
    assert not trained and (other / "report.md").read_text() == text
    # another seed's command leaves what is there in place
    study.main(args_of(words, "--only", "full-real-real", "--seeds", "1"))
    assert (
        len(trained) == 1 and len(json.loads((other / "results.json").read_text())["pieces"]) == 3
    )
    # views by another generator are refused before they are trained on
    torch.manual_seed(1)
    file = words[words.index("--net") + 1]
    config = study.open_network(file).config
    save_snapshot(file, CAMNet(**config["net"]).state_dict(), "camnet", config, {})
    with pytest.raises(UsageError, match="full-mixed of seed 0 had other views"):
        study.main(args_of(words, "--only", "full-synth-synth", "--seeds", "0"))
    assert len(trained) == 1
    record = {"generator": "", "pieces": [{"arm": "full-none", "seed": 0}]}
    (other / "results.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match="does not know: {'full-none'}"):
        study.main(args_of(words, *only))
    (other / "results.json").write_text("{}")
    with pytest.raises(UsageError, match="is not a results.json"):
        study.main(args_of(words, *only))


@pytest.mark.parametrize("k", ["0", "2"])
def test_controls_are_drawn_as_they_say(words, tmp_path, k):
    names = ["full-mixed-upsampled", "full-mixed-fixed"]
    study.main(args_of(words, "--k", k, "--only", *names, "--key", "--seeds", "0"))
    for arm, asked in zip(names, ({"view_source": "upsampled"}, {"code": "fixed"}), strict=True):
        args = json.loads((tmp_path / "out" / "seed0" / arm / "args.json").read_text())["args"]
        if k == "0":
            assert asked.items() <= args.items() and args["views"] == "online"
        else:
            note = json.loads(open(f"{args['cache']}/views-train.json").read())
            plan = {"view_source": note["plan"]["source"], "code": note["plan"]["code"]}
            assert asked.items() <= plan.items() and note["plan"]["k"] == 1


def test_a_generator_that_is_not_there_is_named_before_anything_is_trained(words, tmp_path):
    words[words.index("--net") + 1] = str(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="none.safetensors"):
        study.main(args_of(words, "--seeds", "0"))
    assert not (tmp_path / "out").exists()


GENERATOR = (
    "--res 8 16 --resid_nc 6 --dense_nc 4 --map_nc 4 --latent_nc 8 --n_blocks 1 --bs 4 --mini_bs 4 "
    "--ns 2 --sp 2 --code_bs 4 --subsample_size 8 --num_iteration 2 --outer_loops 1 "
    "--num_val_images 2 --spi 2 --lpips random --cv_frac 0.25"
)


def test_the_generator_is_trained_first_and_its_figures_are_told(words, tmp_path):
    words = [w for i, w in enumerate(words) if "--net" not in words[max(0, i - 1) : i + 1]]
    only = ["--only", "full-mixed", "--imle", GENERATOR, "--seeds", "0"]
    study.main(args_of(words, *only))
    text = (tmp_path / "out" / "report.md").read_text()
    said = next(line for line in text.splitlines() if line.startswith("Generator after 2 steps"))
    assert "hours by the clock" in said and "diversity_lpips" in said and "| full-mixed |" in text
    # the same is told of a generator that is given
    given = ["--net", str(tmp_path / "out" / "generator" / "snapshots" / "network-latest")]
    other = [*words[:1], str(tmp_path / "other"), *words[2:]]
    study.main(args_of([*other, *given], "--report"))
    assert said in (tmp_path / "other" / "report.md").read_text()


def test_accuracies_over_seeds_stay_within_0_and_100():
    assert study.over_seeds([0.412]) == "41.2"
    assert study.over_seeds([0.40, 0.41, 0.42]) == "41.0 ± 2.5"
    assert study.over_seeds([0.05, 0.9]) == "47.5 (0.0 to 100.0)"
    assert study.over_seeds([1.0, 1.0, 1.0]) == "100.0 (43.9 to 100.0)"
