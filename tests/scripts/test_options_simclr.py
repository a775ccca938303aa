"""Every option of TrainSimCLR.py does what its help says, alone: as test_options_imle."""

import functools
import importlib.util

import pytest
import torch

import models.simclr
from evaluation.probes import few_shot
from recipes.simclr import parts, validation
from recipes.simclr.options import get_args
from tests.effects import check_changed, launch, pictures, seen
from tests.scripts.simclr_support import small_backbone
from tests.scripts.support import load

SCRIPT = load("TrainSimCLR")
PLAIN = """--preset smoke --num_images 40 --bs 16 --epochs 1 --n_ramp 0 --log_every 1
--proj_hidden 16 --proj_dim 8 --folds 2 --probe_epochs 0"""
BASES = {
    "plain": PLAIN,
    "folder": f"{PLAIN} --data FOLDER",
    "steps": PLAIN.replace("--epochs 1", ""),
    "large": f"{PLAIN} --crop_size 32",
    "epochs": f"{PLAIN} --epochs 2",
    "saves": f"{PLAIN} --epochs 2 --save_every 1 --keep 0",
    "pooled": f"{PLAIN} --eval pooled --held_out 2",
    "dclw": f"{PLAIN} --loss dclw",
    "lars": f"{PLAIN} --opt lars",
    "probe": f"{PLAIN} --probe_epochs 1",
}
UPDATE = "later net weights"
TRAINING = f"first {UPDATE}"
NETWORK = f"shapes config {TRAINING}"
EFFECTS = [
    # data
    ("plain", "--data FOLDER", f"name files {TRAINING}"),
    ("folder", "--data NAMED --data_path HOME", "name"),  # the same pictures
    ("plain", "--num_images 60", f"steps rates files {TRAINING}"),
    ("plain", "--crop_size 16", f"config {TRAINING}"),
    ("plain", "--recipe imagenet --color_s 0.5 --crop_size 32", f"config {TRAINING}"),
    ("plain", "--color_s 1", f"config {TRAINING}"),
    ("large", "--gaussian_blur 1", f"config {TRAINING}"),
    ("plain", "--unreal_augs 0", f"config {TRAINING}"),
    ("plain", "--normalise imagenet", f"config {TRAINING}"),
    ("plain", "--exact_augs", TRAINING),
    ("plain", "--picture_size 16", f"config {TRAINING}"),
    # what to train
    ("plain", "--loss dcl", TRAINING),
    ("plain", "--temp 0.1", TRAINING),
    ("dclw", "--sigma 2", TRAINING),
    # length
    ("plain", "--epochs 2", f"steps files rates config {UPDATE}"),
    ("steps", "--steps 8", f"steps files rates config {UPDATE}"),
    ("plain", "--bs 8", f"name steps files rates {TRAINING}"),
    ("plain", "--opt sgd", UPDATE),
    ("plain", "--lr 1", f"name rates {UPDATE}"),
    ("plain", "--n_ramp 1", f"rates {UPDATE}"),
    # validation
    ("plain", "--eval val", "val"),
    ("epochs", "--eval_iter 2", "val"),
    ("plain", "--folds 3", "val"),
    ("pooled", "--held_out 3", TRAINING),
    ("plain", "--no-probe", "val"),
    ("plain", "--probe_epochs 1", "val"),
    ("probe", "--probe_augs train", "val"),
    # output
    ("saves", "--snapshot_every 2", "files"),
    ("plain", "--save_pt", "files"),
    ("plain", "--export_features", "files"),
    ("plain", "--export_backbone", "files"),
    ("plain", "--suffix x", "name"),
    ("saves", "--save_every 2", "files"),
    ("epochs", "--keep 0", "files"),
    ("plain", "--log_every 2", "first later rates"),
    # network
    ("plain", "--head lightly", f"config {UPDATE}"),
    ("plain", "--proj_dim 4", NETWORK),
    ("plain", "--proj_hidden 8", NETWORK),
    # loss and optimizer
    ("plain", "--lars 0", UPDATE),
    ("lars", "--lars_semantics bolts", "net weights"),
    ("lars", "--trust 1", UPDATE),
    ("plain", "--lr_scaling linear", f"rates {UPDATE}"),
    ("plain", "--lr_schedule google", "rates net weights"),
    ("plain", "--lr_schedule original", "rates net weights"),
    ("plain", "--mm 0.5 0.5", "later? net weights"),  # Adam's first update is the same
    ("plain", "--weight_decay 1", UPDATE),
    # of every run
    ("plain", "--seed 1", TRAINING),
    ("plain", "--precision bf16", TRAINING),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(base, more words) -> what the run left behind, without pictures; bases are run once."""
    home = tmp_path_factory.mktemp("options")
    for k in range(4):
        pictures(home / "pictures" / f"class{k}", 12, first=9 * k, size=(16, 16))
        pictures(home / "home" / "named" / f"class{k}", 12, first=9 * k, size=(16, 16))
    places = {"FOLDER": home / "pictures", "NAMED": "named", "HOME": home / "home"}
    known = {}

    def run(base, words=""):
        if (base, words) not in known:
            typed = [str(places.get(w, w)) for w in f"{BASES[base]} {words}".split()]
            found = seen(launch(SCRIPT.main, read, home / f"run{len(known)}", *typed))
            found.pop("pictures")  # of the views, and of what kNN takes for alike
            known[base, words] = found
        return known[base, words]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models.simclr, "build_backbone", small_backbone)
        yield run


def read(words):
    return get_args(None, words)


@pytest.mark.parametrize(("base", "words", "aspects"), EFFECTS)
def test_an_option_changes_what_it_should(base, words, aspects, run):
    one, other = dict(run(base)), dict(run(base, words))
    if "val" not in aspects:  # accuracies of so few pictures may differ or not
        one.pop("val"), other.pop("val")
    check_changed(one, other, aspects)


def test_the_network_is_the_one_asked_for(monkeypatch):
    """--backbone, --stem, --channels_last, of real ResNets."""
    spec = importlib.util.spec_from_file_location("anew", models.simclr.__file__)
    anew = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(anew)
    monkeypatch.setattr(models.simclr, "build_backbone", anew.build_backbone)

    def network(words):
        return parts.network(read([*PLAIN.split(), *words.split()]), 1)

    small, standard = network("--stem small"), network("--stem standard --backbone resnet34")
    kernels = [
        next(w for w in net.parameters() if w.ndim == 4).shape[-1] for net in (small, standard)
    ]
    assert kernels == [3, 7]
    assert len(list(standard.parameters())) > len(list(small.parameters()))
    for words, layout in (
        ("", torch.channels_last),
        ("--no-channels_last", torch.contiguous_format),
    ):
        assert parts.layout(read([*PLAIN.split(), *words.split()])) == layout


def test_views_are_no_larger_than_crop_max():
    for words, side in (("--crop_max 64", 64), ("--crop_max 16", 16)):
        args = read(["--data", "scenes", *words.split()])
        parts.fit(args, SCRIPT.OPTIONS)
        assert args.crop_size == side


def test_episodes_are_of_the_classes_that_are_named(run, tmp_path, monkeypatch):
    """--few_shot: figures of episodes on another data set, whose classes are others."""
    monkeypatch.setattr(validation, "few_shot", functools.partial(few_shot, episodes=20))
    for k in range(5):
        pictures(tmp_path / "novel" / f"other{k}", 20, first=20 * k, size=(16, 16))
    words = [*PLAIN.split(), "--eval", "val", "--few_shot", str(tmp_path / "novel")]
    figures = seen(launch(SCRIPT.main, read, tmp_path / "runs", *words))["val"]
    assert any("shot" in key for row in figures for key in row)
    assert not any("shot" in key for row in run("plain")["val"] for key in row)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--unreal_augs 0 --color_s 0.3", "--color_s 0.3 is of --unreal_augs 1"),
        ("--unreal_augs 0 --gaussian_blur 1", "--gaussian_blur 1 is of --unreal_augs 1"),
        ("--recipe real --color_s 0.3", "--color_s 0.3 is of recipes other than real"),
        ("--recipe real --gaussian_blur 1", "--gaussian_blur 1 is of recipes other than real"),
        ("--crop_size 32 --crop_max 64", "--crop_max 64 is of a --crop_size that"),
        ("--opt lars --lars 0", "--lars 0 is of --opt adam and sgd"),
        ("--lars_semantics bolts", "--lars_semantics bolts is of --opt lars"),
        ("--lars 0 --trust 1", "--trust 1 is of LARS and LARC"),
        ("--held_out 3", "--held_out 3 is of --eval pooled"),
        ("--probe_epochs 0 --probe_augs train", "--probe_augs train is of --probe_epochs"),
        ("--sigma 2", "--sigma 2 is of --loss dclw"),
    ],
)
def test_what_has_no_effect_is_refused(words, says, capsys):
    with pytest.raises(SystemExit, match="2"):
        read(words.split())
    assert says in capsys.readouterr().err
