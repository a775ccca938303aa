"""calculate_metrics.py: the same figures wherever pictures lie and whoever makes them."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion import Precond
from diffusion.samplers import heun
from evaluation.extractors import open_extractor
from evaluation.frechet import FeatureStats, Moments, frechet_distance, load_moments
from evaluation.statistics import load_statistics
from generators.door import open_generator
from recipes.metrics import record
from recipes.metrics.names import by_classifier, fdr_words, metrics_of, words_of
from recipes.metrics.options import get_args
from recipes.metrics.passing import look
from recipes.metrics.pictures import stored
from storage.errors import DataError, UsageError
from storage.snapshot import save_snapshot
from tests import gloo
from tests.effects import pictures
from tests.generators import tiny
from tests.scripts.support import load

SCRIPT = load("calculate_metrics")
PIXELS = "--metrics fd_pixels --gpus cpu --num_workers 0 --bootstrap 0"


def measured(out, *words):
    """Figures of a command with --outdir, and its whole record."""
    SCRIPT.main(get_args(None, [*(" ".join(map(str, words)).split()), "--outdir", str(out)]))
    return json.loads((out / "metrics.json").read_text())


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Two sets of pictures of mixed sizes in classes, a network, and statistics."""
    home = tmp_path_factory.mktemp("metrics")
    for k, name in enumerate("ab"):
        pictures(home / "real" / name, 12, first=40 * k)
        pictures(home / "made" / name, 11, first=20 + 40 * k, size=(24, 24))
        pictures(home / "held" / name, 12, first=300 + 40 * k)
    torch.manual_seed(0)
    for name in ("net", "other"):
        net = Precond(8, 3, 2, model_channels=8, channel_mult=[1], num_blocks=1)
        torch.nn.init.ones_(net.unet.out_gain)
        config = {"net": net.config, "encoder": {"name": "rgb"}, "classes": ["a", "b"]}
        save_snapshot(home / f"{name}.safetensors", net.state_dict(), "edm2", config, {})
    save_snapshot(home / "camnet.safetensors", *tiny.snapshot(1))
    return home


def test_smoke_needs_nothing(tmp_path, capsys):
    for command in ("calc", "gen"):
        out = tmp_path / command
        SCRIPT.main(get_args(None, [command, "--preset", "smoke", "--outdir", str(out)]))
        said = capsys.readouterr().out
        assert (out / "metrics.json").is_file() and "fd_pixels" in said
        assert ("seeds 0-15" in said) == (command == "gen")
        assert ("split train" in said) == (command == "calc")
        SCRIPT.main(get_args(None, [command, "--preset", "smoke", "--outdir", str(out)]))
        assert "done already" in capsys.readouterr().out


def test_statistics_have_any_name(tmp_path, places, monkeypatch):
    """`ref --dataset tiny --dest tiny.pkl`: an .npz under any name."""
    monkeypatch.setenv("DATA_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(places / "real", tmp_path / "tinyImagenet" / "train")
    words = "ref --dataset tiny --dest tiny.pkl --metrics fd_pixels --gpus cpu --num_workers 0"
    SCRIPT.main(get_args(None, words.split()))
    assert zipfile.is_zipfile("tiny.pkl")
    found = load_statistics(tmp_path / "tiny.pkl")
    assert found.moments["pixels"].images == 24 and found.resize == {"pixels": "clean"}
    assert load_moments(tmp_path / "tiny.pkl")["fd_pixels"].images == 24  # of others' readers


def test_a_folder_a_zip_and_statistics_give_the_same_figure(tmp_path, places, capsys):
    base = f"calc --images {places}/made --num 22 {PIXELS}"
    first = measured(tmp_path / "a", base, f"--ref {places}/real")
    with zipfile.ZipFile(tmp_path / "real.zip", "w") as archive:
        for file in sorted((places / "real").rglob("*.png")):
            archive.write(file, file.relative_to(places / "real"))
    stats = tmp_path / "real.npz"
    words = f"ref --data {places}/real --dest {stats} --metrics fd_pixels --gpus cpu"
    SCRIPT.main(get_args(None, f"{words} --num_workers 0".split()))
    value = first["figures"]["fd_pixels"]["value"]
    for k, ref in enumerate((tmp_path / "real.zip", stats)):
        found = measured(tmp_path / f"b{k}", base, f"--ref {ref} --batch {3 + 4 * k}")
        assert found["figures"]["fd_pixels"]["value"] == pytest.approx(value, rel=1e-6)
    said = capsys.readouterr().out
    assert said.count("warning: the pictures are of 24 px, the reference of ") == 2  # not of "b1"
    assert first["settings"]["samples"][0]["file_format"] == "png"
    assert first["settings"]["samples"][0]["per_class"] == [11, 11]


def test_what_cannot_be_measured_is_said_before_pictures_are_drawn(tmp_path, places, monkeypatch):
    monkeypatch.setattr(SCRIPT, "look", lambda *args, **kwargs: pytest.fail("looked at pictures"))
    pictures(tmp_path / "bare", 3)
    (tmp_path / "odd.pkl").write_bytes(b"no pickle")
    drawn = f"gen --net {places}/net.safetensors --num 4 --gpus cpu"
    for words, told in (
        (f"{drawn} --metrics is --extractor pixels", "--metrics is: pixels has no classes"),
        (
            f"calc --images {tmp_path}/bare --num 3 --gpus cpu --metrics top --classifier "
            "torchvision:resnet18 --weights random",
            "--metrics top: the pictures have no classes",
        ),
        (f"{drawn} {PIXELS} --ref {tmp_path}/odd.pkl", "odd.pkl holds no statistics: neither"),
    ):
        with pytest.raises(UsageError, match=told):
            measured(tmp_path / "out", words)


def test_drawn_pictures_are_those_of_generate_images(tmp_path, places):
    """Against moments of what `draw` gives, and range by range."""
    record = measured(
        tmp_path / "out", f"gen --net {places}/net.safetensors --ref {places}/real {PIXELS}",
        "--seeds 5-20 30-45 --steps 3 --features",
    )  # fmt: skip
    assert [r["seeds"] for r in record["ranges"]] == ["5-20", "30-45"]
    net = open_generator(places / "net.safetensors", say=lambda line: None)
    images = net.draw(16, seed=5, sampler=partial(heun, steps=3))
    features = open_extractor("pixels")(list(images)).features
    with np.load(tmp_path / "out" / "features.npz") as file:
        np.testing.assert_allclose(file["pixels.0"], features, atol=1e-6)
        reference = torch.from_numpy(file["pixels.mean"]), torch.from_numpy(file["pixels.cov"])
    stats = FeatureStats(features.shape[1])
    stats.update(features)
    value = frechet_distance(stats.moments(), Moments(*reference))
    found = record["ranges"][0]["figures"]["fd_pixels"]["value"]
    assert found == pytest.approx(value, rel=1e-6)
    both = [r["figures"]["fd_pixels"]["value"] for r in record["ranges"]]
    assert record["figures"]["fd_pixels"]["least"] == min(both)


def ranks(out, words):
    SCRIPT.main(get_args(None, [*words.split(), "--outdir", out]))


@pytest.mark.parametrize("command", ["gen", "calc"])
def test_two_processes_give_what_one_gives(command, tmp_path, places):
    own = "--images IN --num 22" if command == "calc" else "--net NET --num 13 --steps 2"
    own = own.replace("IN", str(places / "made")).replace("NET", f"{places}/net.safetensors")
    words = f"{command} {own} --ref {places}/real --held {places}/held --gpus cpu --num_workers 0 "
    words += "--metrics fd kid prdc fdr memorisation --extractor pixels --batch 4 --bootstrap 0"
    words += " --res 8" if command == "calc" else ""
    one = measured(tmp_path / "one", words)["figures"]
    gloo.run(2, ranks, str(tmp_path / "two"), words, join=False)
    two = json.loads((tmp_path / "two" / "metrics.json").read_text())["figures"]
    assert one.keys() == two.keys() and len(one) == 9
    for name, figure in one.items():
        assert two[name]["value"] == pytest.approx(figure["value"], rel=1e-6, abs=1e-9), name


def test_samples_of_inputs(tmp_path, places):
    words = f"gen --net {places}/camnet.safetensors --data {places}/real --num_images 4 --gpus cpu"
    words += " --num_workers 0 --metrics lpips fwv psnr ssim --lpips random"
    few = measured(tmp_path / "few", words, "--samples 2")["figures"]
    assert {"psnr", "best_psnr", "ssim", "best_ssim", "lpips_random", "best_lpips_random",
            "lpips_random_diversity", "fwv_0.2"} <= few.keys()  # fmt: skip
    assert few["psnr"]["n"] == 4 and few["best_psnr"]["value"] >= few["psnr"]["value"]
    more = measured(tmp_path / "more", words, "--samples 4")["figures"]
    assert more["best_lpips_random"]["value"] < few["best_lpips_random"]["value"]
    gloo.run(2, ranks, str(tmp_path / "two"), f"{words} --samples 2", join=False)
    two = json.loads((tmp_path / "two" / "metrics.json").read_text())["figures"]
    for name, figure in few.items():
        assert two[name]["value"] == pytest.approx(figure["value"], rel=1e-6)


def test_comparing(tmp_path, places, capsys):
    words = f"--ref {places}/real {PIXELS} --steps 2"
    for name in ("net", "other"):
        measured(tmp_path / name, f"gen --net {places}/{name}.safetensors --num 30 {words}",
                 "--features")  # fmt: skip
    capsys.readouterr()
    SCRIPT.main(get_args(None, ["compare", str(tmp_path / "net"), str(tmp_path / "other")]))
    assert "bootstrap of 30 pairs" in capsys.readouterr().out
    SCRIPT.main(get_args(None, ["compare", str(tmp_path / "net"), str(tmp_path / "net")]))
    assert "not distinguished" in capsys.readouterr().out
    more = words.replace("--bootstrap 0", "").replace(
        "fd_pixels", "fd_pixels kid_pixels prdc_pixels"
    )
    for name in ("net", "other"):
        found = measured(tmp_path / f"{name}2", f"gen --net {places}/{name}.safetensors --num 30",
                         more)["figures"]  # fmt: skip
        assert all(figure["low"] <= figure["value"] <= figure["high"] for figure in found.values())
    capsys.readouterr()
    SCRIPT.main(get_args(None, ["compare", str(tmp_path / "net2"), str(tmp_path / "other2")]))
    said = capsys.readouterr().out
    assert "kid_pixels" in said and said.count("(jackknife of 30 pairs, n = 1)") == 5
    assert "bootstrap of 30 pairs" in said
    assert "no interval" not in said
    measured(tmp_path / "few", f"gen --net {places}/net.safetensors --num 20 {words}")
    with pytest.raises(UsageError, match="not of the same seeds: .*0-29.*0-19"):
        SCRIPT.main(get_args(None, ["compare", str(tmp_path / "net"), str(tmp_path / "few")]))


def test_records_that_do_not_compare(tmp_path, places, capsys):
    words = f"calc --images {places}/made --num 20 --ref {places}/real {PIXELS} --features "
    words = words.replace("fd_pixels", "fd_pixels prdc_pixels")
    for name, more in (("a", ""), ("b", "--nearest 3"), ("c", "")):
        measured(tmp_path / name, words + more)

    def compare(a, b):
        SCRIPT.main(get_args(None, ["compare", str(tmp_path / a), str(tmp_path / b)]))
        return capsys.readouterr().out

    with pytest.raises(UsageError, match="--nearest 5 against 3"):
        compare("a", "b")
    record = json.loads((tmp_path / "c" / "metrics.json").read_text())
    for part in (record["figures"], record["ranges"][0]["figures"]):
        part["precision_pixels"]["value"] = "nan"  # as one that is not finite is written
    (tmp_path / "c" / "metrics.json").write_text(json.dumps(record))
    assert "B nan; not distinguished" in compare("a", "c")
    (tmp_path / "c" / "features.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(DataError, match="features.npz"):
        compare("a", "c")
    del record["settings"]
    (tmp_path / "c" / "metrics.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match="a damaged record"):
        compare("a", "c")
    measured(tmp_path / "a", words.replace("--features", "--overwrite"))
    assert not (tmp_path / "a" / "features.npz").exists()  # of another measurement


def test_the_real_side_of_fdr_is_of_all_classes(tmp_path, places):
    """Held-out pictures lie sorted by class: as many as there are samples are drawn among them."""
    for name in ("a", "b"):
        side = 8 if name == "a" else 40
        for k in range(10):
            value = torch.randint(256, (side, side, 3), generator=torch.Generator().manual_seed(k))
            (tmp_path / "h" / name).mkdir(parents=True, exist_ok=True)
            image = value * (0 if name == "a" else 1)
            Image.fromarray(image.numpy().astype(np.uint8)).save(tmp_path / "h" / name / f"{k}.png")
    args = get_args(None, f"calc --images {tmp_path}/h --ref x {PIXELS} --num 20".split())
    held = stored(args, str(tmp_path / "h"), "--images")
    seen = look(held, {"pixels": open_extractor("pixels")}, batch=8)
    black = (seen.features["pixels"].std(1) == 0).double().mean()
    assert black == 0.5
    means = seen.part("pixels", 10).mean.mean() / seen.moments["pixels"].mean.mean()
    assert 0.3 < means < 1.7 and means != 1 and seen.part("pixels", 20).images == 20


def test_fdr_is_of_the_networks_that_are_asked_for(tmp_path, places, capsys):
    words = f"calc --images {places}/made --num 20 --ref {places}/real --held {places}/held"
    words += " --gpus cpu --num_workers 0 --bootstrap 0 --weights random --metrics fd_pixels fdr"
    record = measured(tmp_path / "a", words)
    more = record["ranges"][0]["figures"]["fdr"]["more"]
    assert more["each"].keys() == {"pixels"} and "mean of pixels" in capsys.readouterr().out
    wanted = metrics_of(["fd_pixels", "fdr", "kid_dinov2"], ["inception"])
    assert fdr_words(wanted, ["inception"]) == ["pixels"]
    assert words_of(by_classifier(metrics_of(["modes", "modes_dinov2"], ["inception"])), []) == []


def test_nvidias_statistics_bring_their_resizing(tmp_path, places):
    """A pickle of EDM2's code, read as data, is compared with on pictures resized as its were."""
    rng = np.random.default_rng(0)
    square = rng.normal(size=(2048, 64))
    fid = dict(mu=rng.normal(size=2048), sigma=square @ square.T / 64)
    (tmp_path / "img.pkl").write_bytes(pickle.dumps(dict(num_images=50, fid=fid)))
    words = f"calc --images {places}/made --num 2 --metrics fid --gpus cpu --num_workers 0"
    words += f" --weights random --bootstrap 0 --batch 2 --ref {tmp_path}/img.pkl"
    with pytest.raises(UsageError, match="no statistics of random_inception, only of inception"):
        measured(tmp_path / "a", words)
    record = measured(tmp_path / "b", words.replace("--metrics fid", "--metrics is"))
    assert record["settings"]["extractors"]["random_inception"]["resize"] == "tf1"
    assert "is_random_inception" in record["figures"]


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        ("calc --images REAL --ref REAL", UsageError, "has 24 pictures, --num is 50000"),
        ("calc --images GONE --ref REAL --num 2", DataError, "no data set"),
        ("calc --images REAL --ref REAL --num 9 --metrics fid", UsageError, "--nets inception"),
        ("calc --images REAL --ref REAL --num 9 --weights dinov2=x", UsageError, "dinov2 is not"),
        ("calc --images scenes --ref REAL --num 9", UsageError, "drawn at any size: give --res"),
        ("gen --net NET --ref REAL --num 9 --class c", UsageError, "--class c"),
        ("gen --net NET --ref REAL --num 9 --metrics psnr", UsageError, "not of edm2"),
        ("gen --net CAMNET --ref REAL --guide NET --guidance 2", UsageError, "--guide"),
        (
            "calc --images REAL --ref REAL --num 1",
            UsageError,
            "one picture there is no",
        ),
        ("calc --images REAL --ref ONE --num 9", UsageError, "nothing: it is one picture"),
        ("ref --data ONE --dest OUT", DataError, "reference, pixels: statistics of 1 images"),
        ("calc --images REAL --ref BAD --num 9", DataError, "refused: global builtins.print"),
    ],
)
def test_what_cannot_be_is_a_line(words, error, says, places, tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("evil",)

    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"fid": Evil()}))
    known = {"REAL": places / "real", "NET": places / "net.safetensors",
             "CAMNET": places / "camnet.safetensors", "BAD": tmp_path / "bad.pkl",
             "ONE": tmp_path / "one", "OUT": tmp_path / "out" / "x.npz"}  # fmt: skip
    pictures(tmp_path / "one", 1)
    words = [str(known.get(word, word)) for word in words.split()]
    if "--metrics" not in words:
        words += ["--metrics", "fd_pixels"]
    place = [] if words[0] == "ref" else ["--outdir", str(tmp_path / "out")]
    with pytest.raises(error, match=says):
        SCRIPT.main(get_args(None, [*words, "--gpus", "cpu", "--num_workers", "0", *place]))
    assert not any((tmp_path / "out").glob("*"))


def test_statistics_of_others_are_no_done_already(tmp_path, places, capsys, monkeypatch):
    ref = "ref --metrics fd_pixels --gpus cpu --num_workers 0"

    def run(words):
        SCRIPT.main(get_args(None, words.split()))
        return capsys.readouterr().out

    run(f"{ref} --data {places}/real --dest {tmp_path}/x.npz")
    assert "done already" in run(f"{ref} --data {places}/real --dest {tmp_path}/x.npz")
    for other in (f"{places}/made", f"{places}/real --features", f"{places}/real --resize tf1"):
        with pytest.raises(UsageError, match="of other pictures or networks: another --dest"):
            run(f"{ref} --data {other} --dest {tmp_path}/x.npz")
    monkeypatch.setattr(SCRIPT, "look", None)  # said before any picture is looked at
    for metric, says in (("kid_pixels", "moments alone"), ("fd_inception", "only of pixels")):
        with pytest.raises(UsageError, match=says):
            run(
                f"calc --images {places}/made --ref {tmp_path}/x.npz --num 4 --gpus cpu "
                f"--num_workers 0 --weights inception=random --metrics {metric} fd_inception"
            )


def test_a_program_of_one_size_and_pictures_of_several(tmp_path, places):
    script = torch.jit.trace(torch.nn.AdaptiveAvgPool2d(2), torch.rand(1, 3, 16, 16))
    script.save(str(tmp_path / "own.pt"))
    words = f"calc --images {places}/mixed --ref {places}/made --num 4 --gpus cpu --num_workers 0"
    words += f" --metrics fd --extractor file:{tmp_path}/own.pt,input=unit --batch 4"
    pictures(places / "mixed" / "y", 2, size=(16, 16))
    pictures(places / "mixed" / "x", 2, first=2, size=(24, 24))
    with pytest.raises(DataError, match="pictures: own takes pictures as they come.*give a side"):
        measured(tmp_path / "a", words)


def test_an_extractor_that_no_metric_takes(capsys):
    with pytest.raises(SystemExit):
        get_args(None, "calc --images a --ref b --extractor pixels".split())
    assert "--extractor pixels is of metrics that name none" in capsys.readouterr().err


def test_a_damaged_record_of_these_settings_is_one_line(tmp_path):
    args = SimpleNamespace(overwrite=False, features=False)
    (tmp_path / "metrics.json").write_text('{"settings": {"metrics": []}, "figures": 3}')
    with pytest.raises(DataError, match="a damaged record; measure again with --overwrite"):
        record.there_already(tmp_path, {"metrics": []}, args)
