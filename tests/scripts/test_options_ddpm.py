"""Every option of train_ddpm.py does what its help says, and nothing else: as test_options_imle."""

import pytest
import torch

import runtime.tracker
from recipes.ddpm.options import get_args
from tests.effects import check_changed, launch, pictures, seen
from tests.scripts.support import load

SCRIPT = load("train_ddpm")
PLAIN = """--preset smoke --bs 8 --duration 32 --snapshot_every 100 --sample_images 0 --log_every 1
--warmup 0 --lr 0.01"""
BASES = {
    "plain": PLAIN,
    "folder": f"{PLAIN} --data FOLDER --res 8",
    "saves": f"{PLAIN} --save_every 1 --keep 0",
    "grids": f"{PLAIN} --duration 8 --sample_images 2 --sample_steps 3 --frames 2",
    "noisy": f"{PLAIN} --duration 8 --sample_images 2 --sample_steps 3 --sampler ddpm",
    "layout": f"{PLAIN} --no-cond --layout boxes",
    "ldm": f"{PLAIN} --loss ldm --schedule ldm-cosine",
    "start": f"{PLAIN} --schedule ldm-sqrt_linear",
    "learned": f"{PLAIN} --variance learned_range --loss rescaled_mse --timesteps 3",
    "random": f"{PLAIN} --bs 40 --duration 16 --selection",
    "jest": f"{PLAIN} --bs 40 --duration 16 --acid --ref WEAK",
    "easy": f"{PLAIN} --bs 40 --duration 16 --acid --ref WEAK --no-diff",
    "two": f"{PLAIN} --best_of_k 2",
}
EFFECTS: list[tuple[str, str, str]] = [
]  # fmt: skip


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

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime.tracker.Tracker, "curves", lambda self: None)
        weak = launch(SCRIPT.main, read, home / "weak", *PLAIN.split())
        places["WEAK"] = sorted((weak / "snapshots").iterdir())[0]
        yield run


def read(words):
    return get_args(None, words)


@pytest.mark.parametrize(("base", "words", "aspects"), EFFECTS)
def test_an_option_changes_what_it_should(base, words, aspects, run):
    check_changed(run(base), run(base, words), aspects)
