"""The study of pictures: its arms, one command that goes on, its report."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import pictures as study
from benchmarks import pictures_report as report
from recipes.imle import options as imle_options
from storage.errors import UsageError
from tests.scripts.support import get_args, load

TINY = (
    "--lpips random --res 8 16 --resid_nc 6 --dense_nc 4 --n_blocks 1 --map_nc 4 --latent_nc 8 "
    "--bs 4 --bs_gpu 4 --ns 2 --sp 2 --code_bs 4 --subsample_size 8 --num_iteration 4"
)


@pytest.fixture(autouse=True)
def light():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def launched(monkeypatch):
    """Runs of arms, in this process: (folder, words) of each."""
    done = []

    def run(words, seconds_file, watch=lambda seconds: None, every=2.0):
        args = get_args(script := load("TrainGeneratorWandB"), list(words))
        done.append((args.run_dir, list(words)))
        if "probes" in args.run_dir:  # a start of 3 seconds, 1 a quarter of a loop
            samples = Path(args.run_dir) / "samples"
            samples.mkdir(parents=True)
            for sheet, seconds in enumerate((2.0, 4.0, 5.0, 6.0, 7.0)):
                (samples / f"val-{sheet}.png").touch()
                watch(seconds)
        else:
            script.main(args)
        return 7.5

    monkeypatch.setattr(study, "run", run)
    return done


def args_of(folder, *more):
    words = ["--out", str(folder), "--data", "scenes", "--mnist", "scenes", "--pictures", "2"]
    return study.get_args([*words, "--samples", "2", "--seconds", "12", "--extra", TINY, *more])


def test_every_arm_is_a_command_that_the_script_takes(tmp_path):
    plain = study.get_args(["--out", str(tmp_path), "--data", "scenes", "--mnist", "scenes"])
    for name in study.arms():
        asked = study.asked(plain, study.Piece(name, 3))
        assert asked.seed == 3 and asked.gpus == [] and asked.wandb == "disabled"
    assert study.asked(plain, study.Piece("color/new", 0)).grayscale == 1
    assert study.asked(plain, study.Piece("uncond-small/present", 0)).unconditional


def test_present_stays_what_it_was_whatever_presets_become(tmp_path, monkeypatch):
    args = args_of(tmp_path)
    before = {n: study.asked(args, study.Piece(f"{n}/present", 0)) for n in ("cpu-small", "color")}
    changed = {**imle_options.PRESETS[study.PLAIN], "alpha": 3.0, "resid_nc": [64, 32]}
    for preset in ("cpu-small", study.PLAIN):
        monkeypatch.setitem(imle_options.PRESETS, preset, changed)
    for name, asked in before.items():
        now = study.asked(args, study.Piece(f"{name}/present", 0))
        assert study.compared(now) == study.compared(asked) and now.alpha == 10
    assert study.asked(args, study.Piece("together", 0)).alpha == 3


def test_parts_are_put_in_as_the_preset_has_them_and_left_out_as_they_were(monkeypatch):
    monkeypatch.setattr(study, "PARTS", {
        "rate": {"lr": ("1e-4", "5e-3"), "warmup": ("100", "7")}, "clip": {"grad_clip": ("0", "1")}
    })  # fmt: skip
    preset = {"data_tr": "scenes", "lr": 2e-3, "ns": [16, 8]}
    monkeypatch.setitem(imle_options.PRESETS, study.PLAIN, preset)
    arms = study.arms()
    assert arms["present+rate"].words.endswith("--lr 0.002 --warmup 7")
    assert arms["together-rate"].words.endswith("--lr 1e-4 --warmup 100")
    assert "together+rate" not in arms and "together-clip" not in arms
    assert arms["together+clip"].words == "--preset cpu-quick --grad_clip 1"
    assert arms["present+clip"].words.endswith("--grad_clip 1")


def test_an_option_said_twice_has_its_last_values():
    words = "--res 8 16 --cells 4 --flip 0 --res 16 32 --adaptive".split()
    assert study.last_said(words) == "--cells 4 --flip 0 --res 16 32 --adaptive".split()
    assert study.last_said(["odd", "--res", "8"]) == ["odd", "--res", "8"]


def test_longer_and_shorter_runs_are_the_presets_but_for_their_loops(tmp_path):
    args = args_of(tmp_path)

    def loops(name: str) -> int:
        return study.asked(args, study.Piece(name, 0)).outer_loops

    quick = loops("cpu-quick/new")
    assert loops("cpu-quick/new-x2") == 2 * quick and loops("cpu-quick/new-x4") == 4 * quick
    assert loops("cpu-small/present-short") == study.SHORT < loops("cpu-small/present")


def test_pieces_are_in_order_and_wrong_words_are_said(tmp_path, capsys):
    args = args_of(tmp_path, "--only", "present*", "demo/*", "--seeds", "4", "5")
    found = study.pieces(args)
    assert found[:2] == [study.Piece("present", 4), study.Piece("present+project", 4)]
    assert found[-1] == study.Piece("demo/new", 5) and len(found) == len(set(found))
    for wrong, says in (
        (["--only", "nothing"], "no arm 'nothing'"), (["--extra", "'"], "No closing quotation"),
        (["--samples", "1"], "2 of --samples"), (["--seconds", "0"], "--seconds above 0"),
    ):  # fmt: skip
        with pytest.raises(SystemExit):
            args_of(tmp_path, *wrong)
        assert says in capsys.readouterr().err
    with pytest.raises(UsageError, match="--seed is of this study"):
        study.main(args_of(tmp_path / "out", "--extra", f"{TINY} --seed 3"))
    with pytest.raises(SystemExit):
        study.main(args_of(tmp_path / "out", "--extra", f"{TINY} --bs nought"))
    assert not (tmp_path / "out").exists()


def test_one_command_trains_judges_reports_and_goes_on(tmp_path, launched, capsys):
    out = tmp_path / "out"
    only = ["--only", "present", "present+project", "together", "--seeds", "0", "1"]
    study.main(args_of(out, *only, "--only", "present*project", "present", "--seeds", "0"))
    # 4 s a loop of 4 quarters after a start of 3: 2 loops in 12 s.
    folders = [folder for folder, _ in launched]
    assert folders == [str(out / "probes" / "present"), str(out / "runs" / "seed0" / "present")]
    assert "--num_val_images 1 --samples 2" in " ".join(launched[1][1])
    found = json.loads((out / "results.json").read_text())
    assert found["probes"] == {"present": {"start_s": 3.0, "loop_s": 4.0}}
    first, projected = found["pieces"]
    assert (first["arm"], projected["arm"]) == ("present", "present+project")
    assert first["steps"] == 8 and first["cpu_s"] == 7.5
    assert first["figures"]["consistency"] > 0.01 > projected["figures"]["consistency"]
    assert (out / "sheets" / "present+project-seed0.png").is_file()
    # What is there is not done again; a killed run goes on, which is the script's business.
    study.main(args_of(out, *only))
    folders = [folder for folder, _ in launched[2:]]
    wanted = ["probes/together", "runs/seed0/together", "runs/seed1/present", "runs/seed1/together"]
    assert folders == [str(out / name) for name in wanted]
    text = (out / report.PAGE).read_text()
    assert "| present | 2 |" in text and "| together against present |" not in text
    assert "| present+project against present |" in text
    # The report is a function of results.json; prose around tables stays.
    alone = report.Results.read(out / "pictures.json")
    assert report.page(text, alone) == text and report.page(text, alone).count("| present") == 3
    edited = text.replace("# Study", "My words.\n\n# Study").replace("| present | 2 |", "| old |")
    (out / report.PAGE).write_text(edited)
    study.main(args_of(out, "--report"))
    assert (out / report.PAGE).read_text() == text.replace("# Study", "My words.\n\n# Study")
    with pytest.raises(UsageError, match="seconds"):
        study.main(args_of(out, *only, "--seconds", "9"))
    with pytest.raises(UsageError, match="alpha"):
        study.main(args_of(out, "--extra", f"{TINY} --alpha 3", *only))
    (out / "results.json").write_text("{}")
    with pytest.raises(UsageError, match="is not a results.json"):
        study.main(args_of(out, *only))


def test_a_projected_arm_needs_the_run_that_it_looks_at(tmp_path):
    with pytest.raises(UsageError, match="looks at present: run that first"):
        study.main(args_of(tmp_path, "--only", "present+project", "--seeds", "0"))


def test_presets_to_their_ends(tmp_path, launched):
    only = ["--only", "color/new", "mask/present", "uncond-small/new", "demo/new", "--seeds", "0"]
    tiny = TINY.replace("--lpips random ", "").replace("--res 8 16 ", "")
    tiny += " --num_val_images 1 --samples 2 --outer_loops 1"
    cut = {"color/new": "--lpips random --res 16 16", "mask/present": "--lpips random --res 16 16",
           "uncond-small/new": "--res 8 --pool_size 8", "demo/new": "--res 8 16"}  # fmt: skip
    words = study.get_args(["--out", str(tmp_path), "--data", "scenes", "--mnist", "scenes",
                            "--pictures", "2", "--samples", "2", *only])  # fmt: skip
    every = study.arms()

    def arms():
        return {n: every[n]._replace(words=f"{every[n].words} {tiny} {cut[n]}") for n in cut}

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(study, "arms", arms)
        study.main(words)
    assert len(launched) == 4
    text = (tmp_path / report.PAGE).read_text()
    assert "| one colour a picture |" in text and "error of hues" in text
    assert "| seams |" in text and "| mask/present | 1 |" in text
    assert "MSE to the nearest sample" in text and "| uncond-small/new | 1 |" in text
    assert "seconds by the clock" in text
    assert "](pictures-color-new.png)" in text and (tmp_path / "pictures-color-new.png").is_file()


def test_a_middle_is_drawn_beside_five_samples(tmp_path, launched, monkeypatch):
    only = ["--only", "cpu-quick/new", "cpu-quick/new+middle", "--seeds", "0"]
    words = study.get_args(["--out", str(tmp_path), "--data", "scenes", "--pictures", "2", *only])
    every = study.arms()
    tiny = {n: a._replace(words=f"{a.words} {TINY} --outer_loops 1") for n, a in every.items()}
    drawn = []
    original = study.validation.draw_samples

    def draw(*args, **options):
        drawn.append(options["temperature"])
        return original(*args, **options)

    monkeypatch.setattr(study, "arms", lambda: tiny)
    monkeypatch.setattr(study.validation, "draw_samples", draw)
    study.main(words)
    # 1.0: of the run's own validation
    assert len(launched) == 1 and set(drawn) == {1.0, (1.0,), study.MIDDLE}
    plain, middle = json.loads((tmp_path / "results.json").read_text())["pieces"]
    assert (plain["arm"], middle["arm"]) == ("cpu-quick/new", "cpu-quick/new+middle")
    assert middle["figures"]["diversity_share"] != plain["figures"]["diversity_share"]
    other = {n: a._replace(temperature=(0.0, 1.5)) for n, a in tiny.items() if "+middle" in n}
    monkeypatch.setattr(study, "arms", lambda: tiny | other)
    with pytest.raises(UsageError, match="temperature"):
        study.main(words)
    # and a published file, which has no options but their digest
    file = tmp_path / "results.json"
    file.write_text(report.Results.read(file).published())
    assert "asked" not in file.read_text()
    with pytest.raises(UsageError, match=r"cpu-quick/new\+middle of seed 0 in .* other options"):
        study.main(words)
    monkeypatch.setattr(study, "arms", lambda: tiny)
    study.main(words)
    assert len(launched) == 1


def test_seconds_of_a_process_and_of_what_it_starts():
    busy = "import time\nwhile time.process_time() < 0.4: pass\n"
    nested = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {busy!r}]);"
    with subprocess.Popen([sys.executable, "-c", nested + "time.sleep(30)"]) as child:
        try:
            deadline = time.monotonic() + 20
            while study.tree_seconds(child.pid) < 0.4 and time.monotonic() < deadline:
                time.sleep(0.05)
            assert 0.4 <= study.tree_seconds(child.pid) < 5
        finally:
            child.kill()


SCRIPT = """
import signal, sys, time
def ended(*_):
    open(sys.argv[1], "a").write("ended ")
    sys.exit(75)
signal.signal(signal.SIGTERM, ended)
while time.process_time() < 0.3: pass
open(sys.argv[1], "a").write("begun ")
while "--stay" in sys.argv: time.sleep(0.05)
"""


def test_a_signal_ends_the_run_too_and_its_seconds_are_kept(tmp_path, monkeypatch):
    script, said, file = tmp_path / "script.py", tmp_path / "said", tmp_path / "run.json"
    script.write_text(SCRIPT)
    monkeypatch.setattr(study, "SCRIPT", script)

    def watch(seconds):
        if said.is_file():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.run([str(said), "--stay"], file, watch, 0.05)
    assert said.read_text() == "begun ended "
    # The seconds of the first launch are added to those of the next.
    kept = json.loads(file.read_text())
    seen = []
    total = study.run([str(said)], file, seen.append, 0.05)
    assert total == pytest.approx(kept + seen[-1]) and seen[-1] >= 0.2
    script.write_text("import sys; sys.exit(75)")
    with pytest.raises(SystemExit) as end:
        study.run([], file)
    assert end.value.code == 75 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def pieces_of(arm, *values):
    names = {"psnr": 20.0, "best_psnr": 21.0, "bicubic_psnr": 20.5, "lpips": 0.06,
             "best_lpips": 0.05, "bicubic_lpips": 0.0625, "consistency": 0.01,
             "diversity_share": 0.1}  # fmt: skip
    return [
        {"arm": arm, "seed": seed, "steps": 64, "cpu_s": 90.0, "wall_s": 50.0, "own": {},
         "figures": {**names, "psnr": value}}
        for seed, value in enumerate(values)
    ]  # fmt: skip


def test_the_page_of_the_repository_has_what_its_figures_say():
    page = study.ROOT / "docs" / "studies" / report.PAGE
    text, figures = page.read_text(), page.with_suffix(".json")
    for name in [*report.TABLES, "sheets"]:
        assert f"<!-- {name} -->\n" in text and f"<!-- /{name} -->\n" in text
    if figures.is_file():
        assert report.page(text, report.Results.read(figures)) == text


def test_intervals_are_over_seeds_and_differences_are_paired():
    pieces = [*pieces_of("present", 20.0, 20.2, 20.4), *pieces_of("present+base", 21.0, 21.3, 21.3)]
    results = report.Results({}, {}, pieces)
    # t of two degrees of freedom is 4.303: 20.2 with a deviation of 0.2 is 0.497 off at most.
    assert "| present | 3 | 20.20 ± 0.50 / 21.00 ± 0.00 |" in report.ablation(results)
    rows = report.differences(results).splitlines()
    assert rows[2].startswith("| present+base against present | +1.00 (+0.75 to +1.25) |")
    one = report.Results({}, {}, [*pieces_of("present", 20.0), *pieces_of("present+base", 21.0)])
    assert "| present+base against present | +1.00 |" in report.differences(one)
    assert report.Results({}, {}, []).text() and not report.differences(report.Results({}, {}, []))
