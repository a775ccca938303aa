"""Every option of train_ddpm.py does what its help says, and nothing else: as test_options_imle."""

import pytest
import torch

from recipes import selection as recipe
from recipes.ddpm.options import get_args
from selection import EarlyLateSwitch
from storage.errors import UsageError
from tests.effects import check_changed, launch, pictures, seen
from tests.scripts.support import load, metrics

pytestmark = pytest.mark.usefixtures("one_thread")

SCRIPT = load("train_ddpm")
PLAIN = """--preset smoke --bs 8 --duration 32 --snapshot_every 100 --sample_images 0 --log_every 1
--warmup 0 --lr 0.01"""
BASES = {
    "plain": PLAIN,
    "folder": f"{PLAIN} --data FOLDER --res 8",
    "saves": f"{PLAIN} --save_every 1 --keep 0",
    "grids": f"{PLAIN} --duration 8 --sample_images 2 --sample_steps 4 --frames 2",
    "guided": f"{PLAIN} --sample_images 2 --sample_steps 4 --guidance 2",
    "noisy": f"{PLAIN} --duration 8 --sample_images 2 --sample_steps 3 --sampler ddpm",
    "layout": f"{PLAIN} --no-cond --layout boxes",
    "ldm": f"{PLAIN} --loss ldm --schedule ldm-cosine",
    "start": f"{PLAIN} --schedule ldm-sqrt_linear",
    "learned": f"{PLAIN} --variance learned_range --loss rescaled_mse --timesteps 3 --duration 64",
    "random": f"{PLAIN} --bs 40 --duration 16 --selection",
    "jest": f"{PLAIN} --bs 40 --duration 16 --acid --ref WEAK",
    "own": f"{PLAIN} --bs 40 --duration 16 --acid",
    "easy": f"{PLAIN} --bs 20 --duration 24 --n 2 --acid --ref WEAK --no-diff",
    "rounding": f"{PLAIN} --bs 26 --duration 20 --acid --ref WEAK",
    "two": f"{PLAIN} --best_of_k 2",
}
EFFECTS = [
    ("own", "--ref WEAK", "files first later net weights"),
    ("plain", "--data FOLDER", "name files shapes config later net weights"),
    ("folder", "--data NAMED --data_path HOME", "name"),
    ("plain", "--res 16", "config first later net weights"),
    ("folder", "--crop squash", "later net weights"),
    ("plain", "--gray", "shapes config first later net weights"),
    ("plain", "--xflip", "later net weights"),
    ("plain", "--cond False", "shapes config later net weights"),
    ("layout", "--layout segmentation", "name config later net weights"),
    ("layout", "--max_objects 2", "later net weights"),
    ("layout", "--layout none", "name shapes config later net weights"),
    ("plain", "--channels 32", "name shapes config later net weights"),
    ("plain", "--init_from WEAK", "files first later net weights"),
    ("plain", "--duration 40", "files steps rates later net weights"),
    ("plain", "--bs 4", "files steps rates first later net weights"),
    ("plain", "--lr 0.02", "rates later net weights"),
    ("plain", "--snapshot_every 2", "files"),
    ("plain", "--sample_images 2", "files pictures"),
    ("grids", "--sample_images 3", "pictures"),
    ("grids", "--sample_steps 2", "pictures"),
    ("grids", "--sampler dpmpp", "pictures"),
    ("grids", "--spacing leading", "pictures"),
    ("grids", "--eta 1", "pictures"),
    ("noisy", "--clip none", "config pictures"),
    ("plain", "--suffix x", "name"),
    ("plain", "--log_every 2", "rates first later"),
    ("saves", "--save_every 2", "files"),
    ("saves", "--keep 1", "files"),
    ("plain", "--channel_mult 1 1", "shapes config later net weights"),
    ("plain", "--num_blocks 2", "shapes config later net weights"),
    ("plain", "--attn_factors none", "shapes config later net weights"),
    ("plain", "--num_heads 4", "config later net weights"),
    ("plain", "--channels_per_head 8", "config later net weights"),
    ("plain", "--no-scale_shift", "shapes config later net weights"),
    ("plain", "--updown", "shapes config later net weights"),
    ("plain", "--dropout 0.5", "config later net weights"),
    ("layout", "--layout_attn layout_no_partial", "config later net weights"),
    ("layout", "--layout_factors 2", "shapes config later net weights"),
    ("layout", "--layout_dim 16", "shapes config later net weights"),
    ("layout", "--layout_dropout 0.9", "later net weights"),
    ("plain", "--attn_block none", "shapes config later net weights"),
    ("plain", "--recompute", "config"),
    ("plain", "--channels_last", "later net weights"),
    ("plain", "--timesteps 30", "config first later net weights"),
    ("start", "--beta_start 0.01", "config later net weights"),
    ("start", "--beta_end 0.3", "config later net weights"),
    ("ldm", "--cosine_s 0.1", "config later net weights"),
    ("plain", "--zero_snr --predict v", "config first later net weights"),
    ("plain", "--predict v", "config first later net weights"),
    ("plain", "--variance fixed_small", "config"),
    ("plain", "--variance learned_range", "shapes config first later net weights"),
    ("plain", "--time_input step1000", "config later net weights"),
    ("plain", "--loss rescaled_kl", "first later net weights"),
    ("learned", "--loss mse", "first later net weights"),
    ("ldm", "--simple_weight 2", "first later net weights"),
    ("ldm", "--elbo_weight 1", "first later net weights"),
    ("plain", "--snr_gamma 5", "first later net weights"),
    ("plain", "--class_dropout 0.9", "later net weights"),
    ("plain", "--best_of_k 2", "first later net weights"),
    ("two", "--best_of_reject 100", "first later net weights"),
    ("plain", "--weight_decay 0.1", "later net weights"),
    ("plain", "--warmup 4", "rates later net weights"),
    ("plain", "--grad_clip 0.01", "later net weights"),
    ("plain", "--ema 0", "config weights"),
    ("plain", "--selection", "name files steps rates first later net weights"),
    ("plain", "--acid", "name files steps rates first later net weights"),
    ("jest", "--filt 0.5", "files steps rates first later net weights"),
    ("jest", "--n 2", "first later net weights"),
    ("jest", "--no-diff", "first later net weights"),
    ("jest", "--invert", "first later net weights"),
    ("jest", "--score_scale raw", "first later net weights"),
    ("jest", "--temperature 9", "first later net weights"),
    ("jest", "--score_by_sigma", "first later net weights"),
    ("jest", "--first_chunk scored", "first later net weights"),
    ("jest", "--no-normalise", "first later net weights"),
    ("plain", "--seed 1", "first later net weights"),
    ("plain", "--trick", ""),
    ("folder", "--epochs 1", "files steps rates later net weights"),
    ("folder", "--snapshot_epochs 1", "files"),
    ("guided", "--guidance 4", "pictures"),
    ("grids", "--frames 4", "pictures"),
    ("plain", "--schedule ldm-sqrt_linear", "config later net weights"),
    ("learned", "--schedule_sampler loss-second-moment", "later net weights"),
    ("easy", "--easy_reference source", "first later"),
    ("rounding", "--rounding reference", "files steps rates first later net weights"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(base, more words) -> what the run left behind; bases are run once."""
    home = tmp_path_factory.mktemp("options")
    pictures(home / "pictures" / "a", 12)
    pictures(home / "pictures" / "b", 12, first=12)
    pictures(home / "home" / "named" / "a", 12)
    pictures(home / "home" / "named" / "b", 12, first=12)
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


def test_early_and_late_switch(tmp_path, monkeypatch):
    """--early, --late: with a switch that is due after three steps in any case."""

    class AtTheThird(EarlyLateSwitch):
        def observe(self, ahead, **when):
            return super().observe(-1.0, **when)

    monkeypatch.setattr(
        recipe, "EarlyLateSwitch", lambda mode: AtTheThird(mode, z=0.0, min_observations=3)
    )
    taken = {}
    for words in ("--early", "--late"):
        whole = f"{PLAIN} --bs 20 --acid --duration 72 {words}"
        seen_images = metrics(launch(SCRIPT.main, read, tmp_path / words, *whole.split()), "nimg")
        steps = [0, *seen_images.values()]
        taken[words] = [b - a for a, b in zip(steps, steps[1:], strict=False)]
    assert taken["--early"][:3] == [4, 4, 4] and set(taken["--early"][3:]) == {20}
    assert taken["--late"][:3] == [20, 20, 20] and set(taken["--late"][3:]) == {4}


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


def test_bench_is_what_cudnn_is_told(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(
        SCRIPT.Run, "trains_on", lambda *a: told.append(torch.backends.cudnn.benchmark)
    )
    before = torch.backends.cudnn.benchmark
    for words in ("--bench", "--no-bench"):
        typed = [*PLAIN.split(), "--duration", "1", words]
        launch(SCRIPT.main, read, tmp_path / words, *typed)
    torch.backends.cudnn.benchmark = before
    assert told == [True, False]


def test_a_precision_that_the_device_has_not(tmp_path):
    with pytest.raises(UsageError, match="fp16"):
        launch(SCRIPT.main, read, tmp_path, *PLAIN.split(), "--precision", "fp16")
