"""Every option that TrainISICLE.py has beside those of TrainSimCLR.py does what its help says.

Without synthetic views the two are the same bit for bit (test_TrainISICLE.py), so that for the
others tests/scripts/test_options_simclr.py speaks.
"""

import shlex

import pytest

import models.simclr
from recipes.isicle.options import get_args
from storage.snapshot import save_snapshot
from tests.effects import check_changed, launch, seen
from tests.generators.tiny import snapshot
from tests.scripts.simclr_support import small_backbone
from tests.scripts.support import load

SCRIPT = load("TrainISICLE")
PLAIN = """--preset smoke --num_images 24 --bs 8 --epochs 1 --n_ramp 0 --proj_hidden 16 --proj_dim 8
--log_every 1 --no-probe --joint 0 --crop_size 16"""
NET = f"{PLAIN} --net NET"
TINY = "--preset smoke --res 8 16 --resid_nc 4 --dense_nc 4 --map_nc 4 --latent_nc 8 --bs 4"
TINY = f"{TINY} --ns 2 --sp 2 --code_bs 4 --subsample_size 4"
BASES = {
    "real": f"{PLAIN} --pair real-real",
    "net": NET,
    "multi": f"{NET} --pair multi",
    "masked": f"{NET} --mask_frac 0.5",
    "refresh": f"{NET} --refresh 1",
    "joint": f"{PLAIN} --joint 1 --imle_steps 2 --imle '{TINY}'",
}
UPDATE = "later net weights"
TRAINING = f"first {UPDATE}"
EFFECTS = [
    ("net", "--pair real-synth", f"name {TRAINING}"),
    ("net", "--f 0.9", TRAINING),
    ("multi", "--num_synth 3", TRAINING),
    ("multi", "--reduce in", TRAINING),
    ("net", "--augs none", f"config {TRAINING}"),
    ("net", "--domain_bn", TRAINING),
    ("net", "--refresh 1", TRAINING),
    ("refresh", "--k 1", TRAINING),
    ("joint", "--imle_steps 3", f"steps files {UPDATE}"),
    ("joint", "--epochs 2 --joint 2", "steps rates files later net"),
    ("joint", f"--imle '{TINY} --lr 1e-2'", TRAINING),
    ("net", "--net OTHER", TRAINING),
    ("net", "--view_source upsampled", TRAINING),
    ("net", "--code fixed", TRAINING),
    ("net", "--temperature 0.1", TRAINING),
    ("net", "--truncation 0.1", TRAINING),
    ("net", "--grayscale 1", TRAINING),
    ("net", "--mask_frac 0.5", TRAINING),
    ("masked", "--mask_res 2", TRAINING),
    ("masked", "--fill color", TRAINING),
    ("net", "--lr_factor 2", TRAINING),
    ("net", "--consistency project", TRAINING),
    ("net", "--view_seed 1", TRAINING),
    ("net", "--view_precision bf16", TRAINING),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(base, more words) -> what the run left behind, without pictures; bases are run once."""
    home = tmp_path_factory.mktemp("options")
    places = {}
    for name, how in (("NET", {}), ("OTHER", {"seed": 1})):
        made = snapshot(corruption={"grayscale": 0, "mask_frac": 0, "mask_res": 4}, **how)
        places[name] = save_snapshot(home / f"{name}.safetensors", *made)
    known = {}

    def run(base, words=""):
        if (base, words) not in known:
            typed = [str(places.get(w, w)) for w in shlex.split(f"{BASES[base]} {words}")]
            folder = launch(SCRIPT.main, read, home / f"run{len(known)}", *typed)
            known[base, words] = {**seen(folder), "val": None, "pictures": None}
        return known[base, words]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models.simclr, "build_backbone", small_backbone)
        yield run


def read(words):
    return get_args(None, words)


@pytest.mark.parametrize(("base", "words", "aspects"), EFFECTS)
def test_an_option_changes_what_it_should(base, words, aspects, run):
    check_changed(run(base), run(base, words), aspects)
