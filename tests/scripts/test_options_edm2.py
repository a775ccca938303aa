"""Every option of train_edm2.py does what its help says, and nothing else: as test_options_imle."""

import pytest
import torch

from recipes import selection as recipe
from recipes.edm2.options import get_args
from selection import EarlyLateSwitch
from storage.errors import UsageError
from tests.effects import check_changed, launch, pictures, seen
from tests.scripts.support import load, metrics

SCRIPT = load("train_edm2")
PLAIN = """--preset smoke --bs 20 --bs_gpu 0 --duration 40 --snapshot_every 8 --sample_images 0
--log_every 1"""
SELECTING = f"{PLAIN} --duration 8"
JEST = f"{SELECTING} --acid --guide WEAK"
BASES = {
    "plain": PLAIN,
    "folder": f"{PLAIN} --data FOLDER --res 8",
    "saves": f"{PLAIN} --save_every 1 --keep 0",
    "grids": f"{PLAIN} --sample_images 4 --guide WEAK",
    "random": f"{SELECTING} --selection",
    "own": f"{SELECTING} --acid",
    "jest": JEST,
    "easy": f"{JEST} --no-diff",
    "autoguided": f"{JEST} --score_scale autoguided",
    "rounding": f"{JEST} --bs 26 --duration 20",
}
UPDATE = "later net weights"
TRAINING = f"first {UPDATE}"
SELECTION = f"name files steps rates {TRAINING}"
EFFECTS = [
    # data
    ("plain", "--data FOLDER", f"name files shapes config {TRAINING}"),
    ("folder", "--data NAMED --data_path HOME", "name"),  # the same pictures
    ("plain", "--res 16", f"shapes config {TRAINING}"),
    ("folder", "--crop squash", TRAINING),
    ("plain", "--xflip", TRAINING),
    ("plain", "--cond False", f"shapes config {TRAINING}"),
    ("plain", "--label_dim 20", f"shapes config {TRAINING}"),
    # what to train, length
    ("plain", "--channels 16", f"name shapes config {TRAINING}"),
    ("plain", "--duration 60", f"files steps rates {UPDATE}"),
    ("plain", "--bs 10", f"files steps rates {TRAINING}"),
    ("plain", "--lr 0.1", f"rates {UPDATE}"),
    # output
    ("plain", "--snapshot_every 1", "files"),
    ("plain", "--sample_images 4", "files pictures"),
    ("grids", "--sample_images 2", "pictures"),
    ("grids", "--sample_steps 2", "pictures"),
    ("grids", "--sample_guidance 3", "pictures"),
    ("plain", "--suffix x", "name"),
    ("plain", "--status 2", "first later rates"),
    ("plain", "--log_every 2", "first later rates"),
    ("saves", "--checkpoint 2", "files"),
    ("saves", "--save_every 2", "files"),
    ("saves", "--keep 1", "files"),
    # network
    ("plain", "--channel_mult 1 1", f"shapes config {TRAINING}"),
    ("plain", "--num_blocks 2", f"shapes config {TRAINING}"),
    ("plain", "--attn_resolutions none", f"shapes config {TRAINING}"),
    ("plain", "--channels_per_head 4", f"config {UPDATE}"),
    ("plain", "--dropout 0.5", f"config {UPDATE}"),
    # loss and optimizer
    ("plain", "--P_mean 0", f"config {TRAINING}"),
    ("plain", "--P_std 2", f"config {TRAINING}"),
    ("plain", "--decay 1", "rates net weights"),
    ("plain", "--rampup 0", f"rates {UPDATE}"),
    ("plain", "--ls 1e-9", UPDATE),
    ("plain", "--ema_stds 0.2", "files config weights"),
    # selection
    ("plain", "--selection", SELECTION),
    ("plain", "--acid", f"{SELECTION}"),
    ("random", "--method jest", f"name {TRAINING}"),
    ("own", "--guide WEAK", f"name files {TRAINING}"),
    ("own", "--ref WEAK", f"files {TRAINING}"),
    ("jest", "--filt 0.5", f"files steps rates {TRAINING}"),
    ("jest", "--n 2", TRAINING),
    ("jest", "--no-diff", TRAINING),
    ("easy", "--easy_reference source", "first later"),
    ("jest", "--invert", TRAINING),
    ("jest", "--score_scale raw", TRAINING),
    ("jest", "--score_scale mean", TRAINING),
    ("autoguided", "--ls 2", TRAINING),
    ("jest", "--temperature 9", TRAINING),
    ("jest", "--score_by_sigma", TRAINING),
    ("jest", "--first_chunk scored", TRAINING),
    ("jest", "--no-normalise", TRAINING),
    ("rounding", "--rounding reference", f"files steps rates {TRAINING}"),
    ("jest", "--select_scope rank --bs_gpu 10 --n 2", TRAINING),
    ("jest", "--unpaired", TRAINING),
    # of every run
    ("plain", "--seed 1", TRAINING),
    ("plain", "--precision bf16", f"config {UPDATE}"),
    # other words, and what has no effect
    ("plain", "--fp16 False", ""),
    ("plain", "--trick", ""),
]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(base, more words) -> what the run left behind; bases are run once."""
    home = tmp_path_factory.mktemp("options")
    pictures(home / "pictures" / "a", 24)
    pictures(home / "home" / "named" / "a", 24)
    places = {"FOLDER": home / "pictures", "NAMED": "named", "HOME": home / "home"}
    known = {}

    def run(base, words=""):
        if (base, words) not in known:
            typed = [str(places.get(w, w)) for w in f"{BASES[base]} {words}".split()]
            folder = home / f"run{len(known)}"
            known[base, words] = seen(launch(SCRIPT.main, read, folder, *typed))
        return known[base, words]

    weak = launch(SCRIPT.main, read, home / "weak", *PLAIN.split())
    places["WEAK"] = sorted((weak / "snapshots").iterdir())[0]
    yield run


def read(words):
    return get_args(None, words)


@pytest.mark.parametrize(("base", "words", "aspects"), EFFECTS)
def test_an_option_changes_what_it_should(base, words, aspects, run):
    check_changed(run(base), run(base, words), aspects)


def test_early_and_late_switch_and_the_ramp_jumps(tmp_path, monkeypatch):
    """--early, --late, --ramp: with a switch that is due after three steps in any case."""

    class AtTheThird(EarlyLateSwitch):
        def observe(self, ahead, **when):
            return super().observe(-1.0, **when)

    def switch(mode):
        return AtTheThird(mode, z=0.0, min_observations=3)

    monkeypatch.setattr(recipe, "EarlyLateSwitch", switch)
    common = f"{SELECTING} --acid --duration 72 --rampup 0.001 --decay 0"

    def images(name, words):
        """{step: images so far}, {step: rate}."""
        folder = launch(SCRIPT.main, read, tmp_path / name, *common.split(), *words.split())
        seen_images = metrics(folder, "nimg")
        steps = [0, *seen_images.values()]
        taken = [b - a for a, b in zip(steps, steps[1:], strict=False)]
        return taken, list(metrics(folder, "Learning rate").values())

    early, rates = images("early", "--early")
    assert early[:3] == [4, 4, 4] and set(early[3:]) == {20}
    late, _ = images("late", "--late")
    assert late[:3] == [20, 20, 20] and set(late[3:]) == {4}
    _, jumping = images("jumping", "--early --ramp reference")
    assert jumping[:3] != jumping[3:6] and jumping[3] < jumping[2] < rates[3]


@pytest.mark.parametrize(("cache", "times"), [("none", 2), ("memory", 1)])
def test_a_cache_decodes_a_picture_once(cache, times, monkeypatch):
    images = SCRIPT.parts.data(read([*PLAIN.split(), "--cache", cache]))
    decoded, native = [], type(images.source).native

    def counted(self, i, *more):
        decoded.append(i)
        return native(self, i, *more)

    monkeypatch.setattr(type(images.source), "native", counted)
    assert (images[3][1] == images[3][1]).all()
    assert len(decoded) == times


def test_channels_last_is_the_layout_of_the_weights(tmp_path, monkeypatch):
    layouts, original = {}, SCRIPT.parts.optimizer

    def optimizer(args, net, device):
        convs = [w for w in net.parameters() if w.ndim == 4 and w.shape[-1] > 1]
        last = torch.channels_last
        layouts[args.channels_last] = {w.is_contiguous(memory_format=last) for w in convs}
        return original(args, net, device)

    monkeypatch.setattr(SCRIPT.parts, "optimizer", optimizer)
    for words in ("--channels_last", "--no-channels_last"):
        launch(SCRIPT.main, read, tmp_path / words, *SELECTING.split(), "--duration", "1", words)
    assert layouts == {True: {True}, False: {False}}


def test_a_gpu_takes_so_many_images_at_once(tmp_path, monkeypatch):
    parts, backward = [], SCRIPT.Run.backward
    monkeypatch.setattr(
        SCRIPT.Run,
        "backward",
        lambda self, *a, **k: parts.append(len(a[1])) or backward(self, *a, **k),
    )
    for words in ("--bs_gpu 0", "--bs_gpu 8"):
        launch(
            SCRIPT.main,
            read,
            tmp_path / words[-1],
            *PLAIN.split(),
            *words.split(),
            "--duration",
            "1",
        )
    assert parts == [20, 8, 8, 4]


def test_bench_is_what_cudnn_is_told(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(
        SCRIPT.Run, "trains_on", lambda *a: told.append(torch.backends.cudnn.benchmark)
    )
    before = torch.backends.cudnn.benchmark
    for words in ("--bench", "--no-bench", "--bench --deterministic"):
        launch(
            SCRIPT.main, read, tmp_path / words, *PLAIN.split(), "--duration", "1", *words.split()
        )
    torch.backends.cudnn.benchmark = before
    assert told == [True, False, False]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--filt 0.5", "--filt 0.5 is of --selection"),
        ("--rounding reference", "--rounding reference is of --selection"),
        ("--selection --n 3", "--n 3 is of --acid"),
        ("--ramp reference", "--ramp reference is of --selection"),
        ("--select_scope rank", "--select_scope rank is of --selection"),
        ("--selection --unpaired", "--unpaired is of a comparison"),
        ("--ref_channels 9", "--ref_channels 9 is of --guide and --ref"),
        ("--sample_guidance 3", "--sample_guidance 3 is of --guide"),
        ("--sample_images 0 --sample_steps 3", "--sample_steps 3 is of --sample_images"),
        ("--attn_resolutions none --channels_per_head 4", "--channels_per_head 4 is of --attn"),
        ("--no-cond --label_dim 20", "--label_dim 20 is of --cond"),
    ],
)
def test_what_has_no_effect_is_refused(words, says, capsys):
    with pytest.raises(SystemExit, match="2"):
        read(["--preset", "smoke", *words.split()])
    assert says in capsys.readouterr().err


def test_what_has_no_effect_on_the_data_is_refused(tmp_path):
    pictures(tmp_path / "pictures", 3)
    for words, says in (
        ("--vae anywhere", "--vae anywhere: .* has pixels"),
        (f"--data {tmp_path / 'pictures'} --label_dim 9", "--label_dim 9: .* without classes"),
    ):
        with pytest.raises(UsageError, match=says):
            launch(SCRIPT.main, read, tmp_path / "runs", *PLAIN.split(), *words.split())


def test_the_reference_has_the_channels_it_must_have(tmp_path, run):
    with pytest.raises(UsageError, match="has 8 channels, --ref_channels wants 9"):
        run("jest", "--ref_channels 9")
