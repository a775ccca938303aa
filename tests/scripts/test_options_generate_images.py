"""Every option of generate_images.py changes the pictures it should, and no others."""

import pytest
import torch

from generators import ddpm
from imle import CAMNet
from recipes.generate.options import get_args
from storage.errors import UsageError
from storage.snapshot import save_snapshot
from tests.effects import check_changed, pictures, pixels
from tests.scripts.support import load
from tests.scripts.test_generate_ddpm import network
from tests.scripts.test_generate_images import tiny

SCRIPT = load("generate_images")
EDM2 = "--gpus cpu --net NETS/net-0000008-0.050.safetensors --seeds 0-3 --steps 3"
IMLE = "--gpus cpu --net NETS/camnet.safetensors --data FOLDER --num_images 2 --samples 2"
DDPM = "--gpus cpu --net NETS/ddpm.safetensors --steps 4"
BASES = {
    "edm2": EDM2,
    "guided": f"{EDM2} --guide NETS/guide.safetensors --guidance 2",
    "churn": f"{EDM2} --S_churn 3",
    "imle": IMLE,
    "ddpm": f"{DDPM} --seeds 0-1",
    "ddpm guided": f"{DDPM} --seeds 0-1 --guidance 3",
    "ddpm layout": "--gpus cpu --net NETS/boxed/network-snapshot-0000001.safetensors --seeds 0-1 "
    "--steps 3",
}
# Which pictures there are, and what those show that are there with the option and without.
EFFECTS = [
    ("edm2", "--net NETS/guide.safetensors", "show"),
    ("edm2", "--guide NETS/guide.safetensors --guidance 2", "show"),
    ("guided", "--guidance 3", "show"),
    ("guided", "--guidance_interval 0 1", "show"),
    ("edm2", "--seeds 0-1", "names show"),  # a smaller grid
    ("edm2", "--class 1", "show"),
    ("edm2", "--no-random", "show"),
    ("edm2", "--grid_only", "names"),
    ("edm2", "--subdirs", "names"),
    ("edm2", "--name_class", "names show"),
    ("edm2", "--trajectory", "names"),
    ("guided", "--sweep_guidance 1 3", "names"),
    ("edm2", "--sweep_ema 0.05 0.1", "names"),
    ("edm2", "--precision bf16", "show"),
    ("edm2", "--batch 3", ""),
    ("edm2", "--steps 2", "show"),
    ("edm2", "--sigma_min 0.5", "show"),
    ("edm2", "--sigma_max 5", "show"),
    ("edm2", "--rho 2", "show"),
    ("edm2", "--S_churn 3", "show"),
    ("churn", "--S_min 70", "show"),
    ("churn", "--S_max 1", "show"),
    ("churn", "--S_noise 1.5", "show"),
    ("ddpm", "--sampler plms", "show"),
    ("ddpm", "--spacing leading", "show"),
    ("ddpm", "--eta 1", "show"),
    ("ddpm", "--clip none", "show"),
    ("ddpm", "--guidance 3", "show"),
    ("ddpm guided", "--guidance_interval 0 1", "show"),
    ("ddpm guided", "--rescale 0.7", "show"),
    ("ddpm layout", "--layout ROOM", "names show"),
    ("imle", "--data OTHER", "show"),
    ("imle", "--data NAMED --data_path HOME", ""),  # the same pictures
    ("imle", "--num_images 1", "names show"),
    ("imle", "--samples 1", "names show"),
    ("imle", "--seed 1", "show"),
    ("imle", "--first 3", "names show"),
    ("imle", "--consistency project", "show"),
    ("imle", "--temperature 0.5", "show"),
    ("imle", "--temperature 0.5 1", "show"),
]


@pytest.fixture(scope="module")
def draw(tmp_path_factory):
    """(base, more words) -> which pictures there are, and what they show."""
    home = tmp_path_factory.mktemp("options")
    nets = home / "nets"
    for seed, name in enumerate(("net-0000008-0.050", "net-0000008-0.100", "guide")):
        tiny(nets / f"{name}.safetensors", seed=seed)
    torch.manual_seed(0)
    net = CAMNet(res=[8, 16], resid_nc=[4], dense_nc=[4], n_blocks=1, map_nc=4, latent_nc=8)
    corruption = {"grayscale": 0, "mask_frac": 0.5, "mask_res": 4, "fill": "zero"}
    config = {"net": net.config, "codes": {}, "corruption": corruption, "crop": "center"}
    save_snapshot(nets / "camnet.safetensors", net.state_dict(), "camnet", config, {})
    made = ddpm.untrained()
    save_snapshot(nets / "ddpm.safetensors", made.state_dict, made.kind, made.config, {})
    network(nets / "boxed")
    (home / "room.txt").write_text("0.1,0.1,0.8,0.8,tree\n")
    pictures(home / "pictures" / "a", 5)
    pictures(home / "home" / "pictures" / "a", 5)
    pictures(home / "others" / "b", 5, first=9)
    places = {"FOLDER": home / "pictures", "OTHER": home / "others", "NAMED": "pictures"}
    places |= {"HOME": home / "home", "ROOM": home / "room.txt"}
    known = {}

    def draw(base, words=""):
        if (base, words) not in known:
            typed = f"{BASES[base]} {words}".replace("NETS", str(nets)).split()
            out = home / f"out{len(known)}"
            typed = [str(places.get(w, w)) for w in typed]
            SCRIPT.main(get_args(None, [*typed, "--outdir", str(out)]))
            found = sorted(out.rglob("*.png"))
            known[base, words] = {str(p.relative_to(out)): pixels(p) for p in found}
        return known[base, words]

    return draw


@pytest.mark.parametrize(("base", "words", "aspects"), EFFECTS)
def test_an_option_changes_what_it_should(base, words, aspects, draw):
    one, other = draw(base), draw(base, words)
    both = one.keys() & other.keys()
    check_changed(
        {"names": sorted(one), "show": {name: one[name] for name in both}},
        {"names": sorted(other), "show": {name: other[name] for name in both}},
        aspects,
    )


def test_compile_compiles_the_networks(draw, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module, **how: compiled.append(module) or module)
    draw("guided", "--compile")
    assert len(compiled) == 2


def test_a_vae_is_refused_where_there_are_no_latents(draw):
    with pytest.raises(UsageError, match="--vae anywhere: .* draws pixels"):
        draw("edm2", "--vae anywhere")


@pytest.mark.parametrize("option", ["--S_min 1", "--S_max 9", "--S_noise 2"])
def test_what_has_no_effect_is_refused(option, capsys):
    """--S_min, --S_max, --S_noise are of the churn."""
    with pytest.raises(SystemExit, match="2"):
        get_args(None, ["--net", "x", *option.split()])
    assert f"{option} is of --S_churn" in capsys.readouterr().err
