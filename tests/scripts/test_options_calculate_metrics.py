"""Every option of calculate_metrics.py changes what it should of a record, and nothing else."""

import json
import os

import pytest
import torch

from diffusion import Precond
from evaluation.statistics import load_statistics
from generators import edm2
from recipes.metrics import parts, pictures
from recipes.metrics.options import get_args
from storage.errors import UsageError
from storage.snapshot import save_snapshot
from tests.effects import check_changed
from tests.effects import pictures as draw_pictures
from tests.generators import tiny
from tests.scripts.support import load

SCRIPT = load("calculate_metrics")
PLAIN = "--metrics fd_pixels --gpus cpu --num_workers 0 --bootstrap 0"
BASES = {
    "calc": f"calc --images MADE --ref REAL --num 20 {PLAIN}",
    "prdc": f"calc --images MADE --ref REAL --num 20 {PLAIN} --metrics prdc_pixels",
    "modes": f"calc --images MADE --ref REAL --num 20 {PLAIN} --metrics modes_pixels",
    "sorted": f"calc --images MADE --ref REAL --num 7 {PLAIN} --metrics top --classifier CLASSES "
    "--weights CLASSES=CLASSFILE",
    "held": f"calc --images MADE --ref REAL --held HELD --num 20 {PLAIN} --metrics memorisation",
    "random": f"calc --images MADE --ref REAL --num 6 {PLAIN} --metrics fd --extractor RESNET "
    "--weights random",
    "gen": f"gen --net NET --ref REAL --num 8 --steps 3 {PLAIN}",
    "ranges": f"gen --net NET --ref REAL --seeds 0-7 --steps 2 {PLAIN}",
    "guided": f"gen --net NET --guide OTHER --guidance 2 --ref REAL --num 8 --steps 2 {PLAIN}",
    "churn": f"gen --net NET --ref REAL --num 8 --steps 2 --S_churn 4 {PLAIN}",
    "camnet": "gen --net CAMNET --data REAL --num_images 3 --samples 2 --gpus cpu --metrics psnr "
    "--num_workers 0",
}  # fmt: skip
BASES["held"] = BASES["held"].replace("--metrics memorisation", "--metrics memorisation_pixels")
EFFECTS = [
    ("calc", "--images REAL", "samples values"),
    ("calc", "--ref HELD", "reference values"),
    ("calc", "--metrics fd_pixels kid_pixels", "names"),
    ("calc", "--extractor pixels --metrics fd", ""),
    ("calc", "--resize tf1", "extractors values"),
    ("calc", "--num 12", "samples values"),
    ("calc", "--seed 1", "samples values"),
    ("calc", "--res 8", "samples reference values"),
    ("calc", "--res 8 --crop squash", "samples reference values"),
    ("calc", "--batch 3", ""),
    ("calc", "--bootstrap 20", "intervals"),
    ("calc", "--features", "files"),
    ("random", "--extractor RESNETSMALL", "extractors values"),
    ("held", "--held MADE", "held values"),
    ("prdc", "--nearest 3", "values"),
    ("modes", "--clusters 3", "values"),
    ("sorted", "--label_order ORDER", "values"),
    ("gen", "--net OTHER", "samples values"),
    ("gen", "--seed 3", "samples values"),
    ("ranges", "--seeds 3-10", "samples values"),
    ("gen", "--class 1", "samples values"),
    ("gen", "--no-random", "samples values"),
    ("gen", "--precision bf16", "samples values"),
    ("gen", "--steps 4", "samples values"),
    ("gen", "--sigma_min 0.1", "samples values"),
    ("gen", "--sigma_max 20", "samples values"),
    ("gen", "--rho 3", "samples values"),
    ("gen", "--S_churn 4", "samples values"),
    ("churn", "--S_min 9", "samples values"),
    ("churn", "--S_max 9", "samples values"),
    ("churn", "--S_noise 2", "samples values"),
    ("guided", "--guidance 3", "samples values"),
    ("guided", "--guide NET", "samples values"),
    ("guided", "--guidance_interval 1 20", "samples values"),
    ("camnet", "--data HELD", "samples values"),
    ("camnet", "--num_images 2", "samples values"),
    ("camnet", "--samples 3", "samples values"),
    ("camnet", "--consistency project", "samples values"),
    ("camnet", "--temperature 0.5", "samples values"),
    ("camnet", "--metrics lpips --lpips random", "names"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    home = tmp_path_factory.mktemp("options")
    for k, (name, side) in enumerate((("real", 20), ("made", 26), ("held", 20))):
        for c in "ab":
            draw_pictures(home / name / c, 12, first=100 * k + 50 * (c == "b"), size=(side, 30))
    found = {name.upper(): home / name for name in ("real", "made", "held")}
    torch.manual_seed(0)
    for name in ("NET", "OTHER"):
        net = Precond(8, 3, 2, model_channels=8, channel_mult=[1], num_blocks=1)
        for gain in (p for p in net.parameters() if p.ndim == 0):
            torch.nn.init.ones_(gain)  # 0: neither the class nor the network has any influence
        config = {"net": net.config, "encoder": {"name": "rgb"}, "classes": ["a", "b"]}
        path = home / f"{name}.safetensors"
        found[name] = save_snapshot(path, net.state_dict(), "edm2", config, {})
    found["CAMNET"] = save_snapshot(home / "camnet.safetensors", *tiny.snapshot(1))
    from torchvision.models import resnet18

    torch.save(resnet18(num_classes=2).state_dict(), home / "classes.pth")
    (home / "order.txt").write_text("1\n0\n")
    return found | {
        "CLASSES": "torchvision:resnet18,side=32", "ORDER": home / "order.txt",
        "CLASSES=CLASSFILE": f"torchvision:resnet18={home / 'classes.pth'}",
        "RESNET": "torchvision:resnet18,side=32", "RESNETSMALL": "torchvision:resnet18,side=40",
    }  # fmt: skip


def options(places, words, *more):
    return get_args(None, [*(str(places.get(word, word)) for word in words.split()), *more])


@pytest.fixture(scope="module")
def measure(places, tmp_path_factory):
    """(base, more words) -> aspects of the record."""
    home, known = tmp_path_factory.mktemp("measured"), {}

    def measure(base, words=""):
        if (base, words) not in known:
            out = home / f"out{len(known)}"
            SCRIPT.main(options(places, f"{BASES[base]} {words}", "--outdir", str(out)))
            record = json.loads((out / "metrics.json").read_text())
            said = record["settings"]
            known[base, words] = {
                "values": {k: v["value"] for k, v in record["figures"].items()},
                "names": sorted(record["figures"]),
                "intervals": [k for k, v in record["figures"].items() if v["low"] is not None],
                "files": sorted(p.name for p in out.iterdir()),
                **{k: said[k] for k in ("samples", "reference", "held", "extractors")},
            }
        return known[base, words]

    return measure


@pytest.mark.parametrize(("base", "words", "aspects"), EFFECTS)
def test_an_option_changes_what_it_should(base, words, aspects, measure):
    one, other = (dict(measure(base, more)) for more in ("", words))
    both = one["values"].keys() & other["values"].keys()
    for side in (one, other):
        side["values"] = {k: side["values"][k] for k in both}
        side["intervals"] = [k for k in side["intervals"] if k in both]
    check_changed(one, other, aspects)


def test_pictures_that_are_not_square_are_cut_or_squashed(measure):
    """--crop."""
    assert (
        measure("calc", "--res 8")["values"] != measure("calc", "--res 8 --crop squash")["values"]
    )


def test_weights_are_random_when_asked(measure):
    """--weights."""
    assert measure("random")["names"] == ["fd_random_resnet18"]


def test_a_classifier_tells_right_from_wrong(measure):
    """--classifier: the shares of two orders of two classes add up to 1."""
    values = [measure("sorted", more)["values"] for more in ("", "--label_order ORDER")]
    assert sum(v["top1"] for v in values) == pytest.approx(1) and values[0]["top5"] == 1


def test_a_record_is_written_anew(places, tmp_path, capsys):
    """--outdir, --overwrite."""
    for words, says in (("", "figures:"), ("", "done already"), ("--overwrite", "figures:")):
        SCRIPT.main(options(places, f"{BASES['calc']} {words}", "--outdir", str(tmp_path / "out")))
        assert capsys.readouterr().out.splitlines()[-1].startswith(says)
    with pytest.raises(UsageError, match="of other settings"):
        words = f"{BASES['calc']} --num 9"
        SCRIPT.main(options(places, words, "--outdir", str(tmp_path / "out")))


def test_pictures_are_decoded_by_so_many_processes(places, tmp_path, monkeypatch):
    """--num_workers."""
    for workers in (0, 1):
        notes, read = tmp_path / f"pids{workers}", pictures._Read.__getitem__

        def noted(self, i, notes=notes, read=read):
            with notes.open("a") as file:
                file.write(f"{os.getpid()}\n")
            return read(self, i)

        monkeypatch.setattr(pictures._Read, "__getitem__", noted)
        words = f"{BASES['calc']} --num_workers {workers} --outdir {tmp_path / str(workers)}"
        SCRIPT.main(options(places, words))
        monkeypatch.undo()
        assert (str(os.getpid()) in notes.read_text().split()) == (workers == 0)


def test_data_sets_are_looked_for_in_a_folder(places, tmp_path):
    """--data_path."""
    words = BASES["calc"].replace("REAL", "real").replace("MADE", "made")
    words += f" --data_path {places['REAL'].parent} --outdir {tmp_path / 'out'}"
    SCRIPT.main(options(places, words))


def test_networks_are_compiled_on_a_device(places, tmp_path, monkeypatch):
    """--compile; --noise_device cuda needs a GPU; --vae is of networks on latents."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module, **how: compiled.append(module) or module)
    SCRIPT.main(options(places, f"{BASES['gen']} --compile --outdir {tmp_path / 'out'}"))
    assert len(compiled) == 1
    with pytest.raises(UsageError, match="--vae anywhere: .* draws pixels"):
        SCRIPT.main(options(places, f"{BASES['gen']} --vae anywhere --outdir {tmp_path / 'out'}"))
    asked = []
    monkeypatch.setattr(edm2, "check_noise_device", asked.append)
    args = options(places, f"{BASES['gen']} --noise_device cuda")
    found = parts.network(args, torch.device("cpu"))
    assert asked[-1] == "cuda" and found.net.setup.noise_device == "cuda"


def test_lpips_is_read_where_it_is_said_to_be(places, tmp_path):
    """--lpips_path, --lpips."""
    file = tmp_path / "vgg.pth"
    words = BASES["camnet"].replace("psnr", "lpips")
    with pytest.raises(UsageError, match=f"there is no {file}"):
        SCRIPT.main(options(places, f"{words} --lpips_path {file}"))


@pytest.fixture(scope="module")
def refer(places, tmp_path_factory):
    home = tmp_path_factory.mktemp("ref")

    def refer(words=""):
        dest = home / f"s{len(list(home.iterdir()))}"
        base = f"ref --data REAL --metrics fd_pixels --gpus cpu --num_workers 0 {words}"
        SCRIPT.main(options(places, base, "--dest", str(dest)))
        found = load_statistics(dest)
        m = found.moments.get("pixels")
        return {
            "names": sorted(found.moments), "features": sorted(found.features),
            "mean": None if m is None else [round(v, 9) for v in m.mean.tolist()],
            "images": {m.images for m in found.moments.values()},
        }  # fmt: skip

    return refer


@pytest.mark.parametrize(
    ("words", "aspects"),
    [
        ("--data MADE", "mean"),
        ("--metrics fd --extractor RESNET --weights random", "names mean"),
        ("--num 9", "mean images"),
        ("--num 9 --seed 2", "mean images"),
        ("--res 8", "mean"),
        ("--res 8 --crop squash", "mean"),
        ("--resize tf1", "mean"),
        ("--features", "features"),
        ("--batch 5", ""),
    ],
)
def test_an_option_of_ref_changes_what_it_should(words, aspects, refer):
    check_changed(refer(), refer(words), aspects)


def test_statistics_are_written_where_they_are_wanted(places, tmp_path, capsys):
    """--dest, --overwrite, --num_workers, --data_path."""
    words = f"ref --data real --data_path {places['REAL'].parent} --metrics fd_pixels --gpus cpu"
    words += f" --num_workers 1 --dest {tmp_path / 'deep' / 'x.pkl'}"
    for more, says in (("", "statistics of pixels"), ("", "done already"), ("--overwrite", "stat")):
        SCRIPT.main(options(places, f"{words} {more}"))
        assert capsys.readouterr().out.splitlines()[-1].startswith(says)


def test_compare_has_a_margin(places, tmp_path, capsys):
    """<runs>, --margin, --resamples."""
    for name in ("NET", "OTHER"):
        words = BASES["gen"].replace("NET", name).replace("--num 8", "--seeds 0-7 8-15 16-23")
        SCRIPT.main(options(places, words, "--outdir", str(tmp_path / name)))
    capsys.readouterr()
    runs = f"compare {tmp_path / 'NET'} {tmp_path / 'OTHER'} --gpus cpu"
    SCRIPT.main(options(places, runs))
    assert "1.3% of the figure" in capsys.readouterr().out
    SCRIPT.main(options(places, f"{runs} --margin 0.9"))
    assert "not distinguished" in capsys.readouterr().out
    for name in ("NET", "OTHER"):
        words = BASES["gen"].replace("NET", name) + " --features"
        SCRIPT.main(options(places, words, "--outdir", str(tmp_path / f"one{name}")))
    seen = []
    for count in (20, 40):
        capsys.readouterr()
        one = f"compare {tmp_path / 'oneNET'} {tmp_path / 'oneOTHER'} --gpus cpu"
        SCRIPT.main(options(places, f"{one} --resamples {count}"))
        seen.append(capsys.readouterr().out)
    assert seen[0] != seen[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("calc --ref x", "--images is missing"),
        ("gen --ref x", "--net is missing"),
        ("ref --dest x", "--data is missing"),
        ("ref --data x", "--dest is missing"),
        ("ref --data x --dest y --metrics kid", "statistics are of Frechet distances"),
        ("calc --images x", "--ref is missing"),
        ("calc --images x --ref y --metrics fld", "needs --held"),
        ("calc --images x --ref y --metrics top", "needs --classifier"),
        ("calc --images x --ref y --metrics psnr", "is of gen"),
        ("calc --images x --ref y --metrics fd_nothing", "--metrics fd_nothing"),
        ("calc --images x --ref y --nearest 3", "--nearest 3 is of --metrics prdc"),
        ("calc --images x --ref y --clusters 3", "--clusters 3 is of --metrics modes"),
        ("calc --images x --ref y --held z", "--held z is of --metrics fdr"),
        ("calc --images x --ref y --classifier z", "--classifier z is of --metrics top"),
        ("calc --images x --ref y --label_order z", "--label_order z is of --classifier"),
        ("calc --images x --ref y --bootstrap 3", "at least 20"),
        ("gen --net x --ref y --lpips random", "--lpips random is of --metrics lpips"),
        ("gen --net x --ref y --seeds 0-9 20-24", "ranges of [5, 10] seeds do not compare"),
        ("gen --net x --ref y --seeds 0-9 5-14", "ranges share seeds"),
        ("gen --net x --ref y --seeds 0-9 --num 5", "--num 5 and --seeds: give one"),
        ("compare x", "the following arguments are required"),
    ],
)
def test_what_cannot_go_together_is_refused(words, says, capsys):
    with pytest.raises(SystemExit, match="2"):
        get_args(None, words.split())
    assert says in capsys.readouterr().err
