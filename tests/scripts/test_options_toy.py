"""Every option of toy_example.py does what its help says, alone: as test_options_imle."""

import re

import pytest

from diffusion.toy import ToyModel
from recipes import selection as recipe
from recipes.toy.options import get_args
from selection import EarlyLateSwitch
from tests.effects import check_changed, launch, pixels, seen
from tests.scripts.support import load, metrics

SCRIPT = load("toy_example")
PLAIN = """train --preset smoke --total-iter 4 --bs 40 --dim 8 --layers 1 --save_every 4
--val_every 2 --snapshot_every 4 --val_samples 32 --test_samples 32 --log_every 1 --no-viz"""
JEST = f"{PLAIN} --acid --guide WEAK"
BASES = {
    "plain": PLAIN,
    "pictures": f"{PLAIN} --viz",
    "saves": f"{PLAIN} --save_every 1 --keep 0",
    "random": f"{PLAIN} --selection",
    "own": f"{PLAIN} --acid",
    "jest": JEST,
    "easy": f"{JEST} --no-diff",
    "rounding": f"{JEST} --bs 150",
}
UPDATE = "later net weights val"
TRAINING = f"first {UPDATE}"
EFFECTS = [
    ("plain", "--cls B", f"name config {TRAINING}"),
    ("plain", "--layers 2", f"name shapes config {UPDATE}"),
    ("plain", "--dim 4", f"name shapes config {UPDATE}"),
    ("plain", "--guide WEAK", "files val"),
    ("own", "--guide WEAK", f"name files {TRAINING}"),
    ("plain", "--total-iter 6", f"steps files {UPDATE}"),
    ("plain", "--bs 30", TRAINING),
    ("plain", "--lr 0.1", UPDATE),
    ("plain", "--decay 1", UPDATE),
    ("plain", "--no-val", "val"),
    ("plain", "--val_every 1", "val"),
    ("plain", "--val_samples 16", "val"),
    ("plain", "--no-test", "val"),
    ("plain", "--test_samples 16", "val"),
    ("plain", "--external", "later"),
    ("plain", "--mandala", "later"),
    ("plain", "--viz", "files pictures val"),
    ("pictures", "--viz_every 2", "files pictures val"),
    ("plain", "--snapshot_every 2", "files"),
    ("saves", "--save_every 2", "files"),
    ("saves", "--keep 1", "files"),
    ("plain", "--log_every 2", "first later"),
    ("plain", "--seed 1", TRAINING),
    ("plain", "--selection", f"name {TRAINING}"),
    ("random", "--acid", f"name {TRAINING}"),
    ("jest", "--interpol", f"name {TRAINING}"),
    ("jest", "--no-diff", TRAINING),
    ("easy", "--easy_reference source", TRAINING),
    ("jest", "--invert", TRAINING),
    ("jest", "--filt 0.5", TRAINING),
    ("jest", "--n 2", TRAINING),
    ("jest", "--score_scale raw", TRAINING),
    ("jest", "--score_by_sigma", TRAINING),
    ("jest", "--temperature 9", TRAINING),
    ("jest", "--first_chunk scored", TRAINING),
    ("jest", "--no-normalise", TRAINING),
    ("rounding", "--rounding reference", TRAINING),
    ("plain", "--trick", ""),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(base, more words) -> what the run left behind; bases are run once."""
    home, known = tmp_path_factory.mktemp("options"), {}
    weak = launch(SCRIPT.main, read, home / "weak", *PLAIN.split(), "--seed", "9")
    guide = str(weak / "snapshots" / "iter0004.safetensors")

    def run(base, words=""):
        if (base, words) not in known:
            typed = f"{BASES[base]} {words}".replace("WEAK", guide).split()
            folder = home / f"run{len(known)}"
            known[base, words] = seen(launch(SCRIPT.main, read, folder, *typed))
        return known[base, words]

    run.guide = guide
    yield run


def read(words):
    return get_args(None, words)


@pytest.mark.parametrize(("base", "words", "aspects"), EFFECTS)
def test_an_option_changes_what_it_should(base, words, aspects, run):
    check_changed(run(base), run(base, words), aspects)


def test_early_and_late_switch(run, tmp_path, monkeypatch):
    """--early, --late: with a switch that is due after two steps in any case."""

    class AtTheSecond(EarlyLateSwitch):
        def observe(self, ahead, **when):
            return super().observe(-1.0, **when)

    monkeypatch.setattr(
        recipe, "EarlyLateSwitch", lambda mode: AtTheSecond(mode, z=0.0, min_observations=2)
    )
    for when, points in (("early", [8, 8, 40, 40]), ("late", [40, 40, 8, 8])):
        words = f"{PLAIN} --acid --filt 0.8 --n 2 --{when}"
        images = metrics(launch(SCRIPT.main, read, tmp_path / when, *words.split()), "nimg")
        assert [
            b - a for a, b in zip([0, *images.values()], images.values(), strict=False)
        ] == points


def test_what_is_printed_and_written_for_autoguided(run, tmp_path, capsys):
    """--verbose, --debug, --logging."""
    said = {}
    for words in ("", "--verbose", "--debug"):
        log = tmp_path / f"{words}.txt"
        typed = f"{PLAIN} --acid --n 2 {words} --logging {log}".split()
        launch(SCRIPT.main, read, tmp_path / f"run{words}", *typed)
        said[words] = capsys.readouterr().out
        assert "Average Learner Loss" in log.read_text()
    assert "Average Learner Loss =" not in said[""]
    assert "Average Learner Loss =" in said["--verbose"]
    assert "Selection Perplexity" in said["--debug"] and "Perplexity" not in said["--verbose"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--num_workers 1", "--num_workers 1 is of data that are read"),
        ("--compile", "--compile is of larger networks"),
        ("--precision bf16", "--precision bf16: the toy computes in fp32"),
        ("--deterministic", "--deterministic is of larger networks"),
        ("--selection --temperature 2", "--temperature 2 is of --acid"),
        ("--filt 0.5", "--filt 0.5 is of --selection"),
    ],
)
def test_what_the_toy_has_no_use_for_is_refused(words, says, capsys):
    with pytest.raises(SystemExit, match="2"):
        read(["train", *words.split()])
    assert says in capsys.readouterr().err


def figures(capsys, *words):
    """{figure: value} that `test` prints."""
    capsys.readouterr()
    SCRIPT.main(read(["test", "--preset", "smoke", "--samples", "64", *map(str, words)]))
    return dict(re.findall(r"^(.+?) = (.+)$", capsys.readouterr().out, re.M))


@pytest.mark.parametrize(
    ("words", "same"),
    [
        ("--net GUIDE", False),
        ("--ema-path GUIDE", False),
        ("--guide GUIDE", False),
        ("--cls B", False),
        ("--samples 32", False),
        ("--seed 1", False),
        ("--external", False),
        ("--mandala", False),
        ("--acid", True),  # accepted for old command lines
        ("--verbose", True),
    ],
)
def test_an_option_of_test_changes_the_figures(words, same, run, capsys):
    other = figures(capsys, *words.replace("GUIDE", run.guide).split())
    assert (figures(capsys) == other) == same


def test_points_at_once_and_the_log_of_test(capsys, tmp_path, monkeypatch):
    """--batch, --logging of test."""
    sizes, score = [], ToyModel.score

    def counted(self, x, *more):
        sizes.append(x.numel() // 2)
        return score(self, x, *more)

    monkeypatch.setattr(ToyModel, "score", counted)
    log = tmp_path / "log.txt"
    found = figures(capsys, "--batch", 16, "--logging", log)
    assert max(sizes) == 16
    sizes.clear()
    figures(capsys)
    assert max(sizes) == 64
    assert all(name in log.read_text() for name in found)


@pytest.mark.parametrize(
    "words",
    [
        "--net GUIDE",
        "--guide GUIDE",
        "--guide GUIDE --guidance 9",
        "--cls B",
        "--samples 99",
        "--seed 1",
    ],
)
def test_an_option_of_plot_changes_the_picture(words, run, tmp_path):
    def drawn(name, more):
        typed = f"plot --preset smoke --save {tmp_path / name} {more}".replace("GUIDE", run.guide)
        SCRIPT.main(read(typed.split()))
        return pixels(tmp_path / name)

    base = words.split(" --guidance")[0] if "--guidance" in words else ""
    assert drawn("a.png", base) != drawn("b.png", words)
