"""generate_images: its options, and which of them are of which kind of network."""

import contextlib
import csv
import os
import re
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from diffusion.generate import Item
from recipes.generate.ddpm import class_map
from recipes.generate.folders import captions_of, levels_of, point_folders
from recipes.generate.options import (
    ANY,
    EDM2,
    FAMILIES,
    IMLE,
    OPTIONS,
    PRESETS,
    SAMPLER,
    check_unused,
    get_args,
)
from runtime.options import names_of, tagged
from storage.errors import DataError, UsageError


def test_defaults_are_those_of_the_original():
    args = get_args(None, ["--net", "x"])
    assert (args.seeds, args.batch, args.guidance) == ([16, 17, 18, 19], 32, 1.0)
    assert (args.steps, args.sigma_min, args.sigma_max, args.rho) == (32, 0.002, 80, 7)
    assert (args.S_churn, args.S_min, args.S_max, args.S_noise) == (0, 0, float("inf"), 1)


@pytest.mark.parametrize(
    "words, says",
    [
        (["--seeds", "5-3"], "upwards"),
        (["--seeds", "a"], "neither a seed"),
        (["--seeds", "-1"], "."),
        (["--seeds", ","], "no value"),
        (["--seeds", "0-99999999"], "at most"),
        (["--seeds", "4294967296"], "4294967295"),
        (["--sigma_min", "5", "--sigma_max", "1"], "sigma_min"),
        (["--sigma_min", "0"], "range"),
        (["--rho", "0"], "rho"),
        (["--steps", "0"], "steps"),
        (["--guidance_interval", "5", "1", "--gnet", "g"], "interval \\(5"),
        (["--guidance_interval", "5", "--gnet", "g"], "LO HI"),
        (["--sweep_guidance", "2", "2.0000001", "--gnet", "g"], "2 2: values not told apart"),
        (["--sweep_ema", "0.1", "0.1001"], "0.100 0.100: values not told apart"),
        (["--trajectory", "--grid_only"], "--trajectory"),
        (["--rho", "1e-300"], "fp32 cannot hold"),
        (["--S_min", "2", "--S_max", "1"], "S_min"),
        (["--no-guidance", "2"], "no value"),
        (["--class"], "class"),
        (["--precision", "int8"], "int8"),
        (["--sigma", "1"], "sigma"),
    ],
)
def test_wrong_options(words, says, capsys):
    with pytest.raises(SystemExit) as stop:
        get_args(None, ["--net", "x", *words])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and len(said.splitlines()) == 1
    assert re.search(says, said), said


@pytest.mark.parametrize(
    "words", ["--guidance 2", "--sweep_guidance 1 2", "--guidance_interval 1 5"]
)
def test_edm2_is_guided_by_a_guide_alone(words):
    """A network of DDPM is guided by itself, so that this is known once the network is open."""
    args = get_args(None, ["--net", "x", *words.split()])
    with pytest.raises(UsageError, match="the guide is missing, --guide FILE"):
        check_unused(args, "edm2")
    args = get_args(None, ["--net", "x", *words.split(), "--guide", "g"])
    check_unused(args, "edm2")


def test_words_of_the_original(capsys):
    args = get_args(None, ["checkpoint", "--net", "x", "--guide-weight", "1.0"])
    assert args.net == "x" and args.guidance == 1
    assert "checkpoint: not needed" in capsys.readouterr().out
    preset = ["--preset", "edm2-img512-s-autog-dino"]
    args = get_args(None, ["pretrained", *preset, "--outdir=images_test"])
    assert (args.net, args.gnet) == ("edm2-img512-s-2147483-0.120", "edm2-img512-xs-0134217-0.165")
    assert args.guidance == 2.45
    assert get_args(None, [*preset, "--guidance"]).guidance == 2.45
    assert get_args(None, [*preset, "--no-guidance"]).guidance == 1
    assert get_args(None, [*preset, "--guidance", "3"]).guidance == 3


def test_presets_do_not_change_and_agree_with_their_names():
    before = repr(PRESETS)
    for name, preset in PRESETS.items():
        args = get_args(None, ["--preset", name])
        args.seeds.append(1)
        if name.startswith("edm2-"):
            size, kind = name.split("-")[2], name.rsplit("-", 1)[-1]
            assert args.net.startswith("-".join(name.split("-")[:2]) + f"-{size}-")
            assert ("guid" in name or "autog" in name) == (args.guidance != 1)
            assert (args.gnet is None) == (args.guidance == 1) and kind in ("fid", "dino")
            assert preset["_help"].startswith("FID" if kind == "fid" else "FD-DINOv2")
    assert repr(PRESETS) == before


def test_presets_are_the_release_s_rows():
    """Name by name and number by number, with a copy of the release's table of its own."""
    with open(Path(__file__).parents[1] / "golden" / "edm2_presets.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 36
    for row in rows:
        preset = PRESETS[row["preset"]]
        assert preset["net"] == row["net"] and preset.get("gnet", "") == row["gnet"], row
        assert preset.get("guidance") == (float(row["guidance"]) if row["guidance"] else None), row
        about = preset["_help"]
        assert (
            about.startswith(f"{row['figure']} by NVIDIA's release") and "--noise_device" in about
        )
        args = get_args(None, ["--preset", row["preset"]])
        assert (args.net, args.gnet) == (row["net"], row["gnet"] or None)
        assert args.guidance == float(row["guidance"] or 1)
    assert {name for name in PRESETS if name.startswith("edm2-")} == {r["preset"] for r in rows}


def test_every_option_of_a_kind_is_refused_by_the_other():
    of_both = set(tagged(OPTIONS, IMLE)) & set(tagged(OPTIONS, EDM2))
    assert not of_both and {"samples", "data"} < set(tagged(OPTIONS, IMLE))
    sampler = names_of({"": OPTIONS["sampler of EDM2"]})
    assert set(tagged(OPTIONS, SAMPLER)) < set(sampler) < set(tagged(OPTIONS, EDM2))
    args = get_args(None, ["--net", "x", "--samples", "3"])
    check_unused(args, "camnet")
    with pytest.raises(UsageError, match="--samples 3: no use .* edm2"):
        check_unused(args, "edm2")
    args = get_args(None, ["--net", "x", "--seeds", "0-2"])
    check_unused(args, "edm2")
    with pytest.raises(UsageError, match=r"--seeds \[0, 1, 2\]"):
        check_unused(args, "imle-unconditional")
    for kind in FAMILIES:
        check_unused(get_args(None, ["--net", "x", "--seeds", "16-19"]), kind)
    assert set(tagged(OPTIONS, ANY)) == {"seeds"}
    check_unused(args, "edm2-toy")  # as any kind that the table does not know
    for words in (["--samples", "3"], ["--steps", "3"]):
        with pytest.raises(UsageError, match=f"{words[0]} 3: no use .* edm2-toy"):
            check_unused(get_args(None, ["--net", "x", *words]), "edm2-toy")


def test_a_trajectory_names_its_noise_levels():
    words = levels_of(get_args(None, ["--net", "x", "--steps", "3", "--sigma_max", "50"]))
    assert [word.split()[0] for word in words.each] == ["sigma"] * 3
    assert words.each[0] == "sigma 50" and words.each[-1] == "sigma 0.002"


def test_a_grid_names_seeds_and_classes():
    names = ["cat", "owl", "fox"]
    plain = captions_of([Item(3), Item(4), Item(5)], 2, [])
    assert list(plain.each) == ["seed 3", "seed 4", "seed 5"] and not plain.columns
    known = captions_of([Item(3, 0), Item(4, 1), Item(5, 2)], 2, names)
    assert list(known.each) == ["3: cat", "4: owl", "5: fox"]
    by_class = captions_of([Item(seed, c) for c in (0, 2) for seed in (7, 8, 9)], 3, names)
    assert list(by_class.columns) == ["seed 7", "seed 8", "seed 9"] and not by_class.each
    assert list(by_class.rows) == ["cat", "fox"]


def test_a_layout_that_is_no_picture_is_neither_waited_for_nor_a_traceback(tmp_path):
    file = tmp_path / "m.png"
    os.mkfifo(file)
    with pytest.raises(DataError, match="a pipe"):
        class_map(str(file))
    file.unlink()
    Image.new("L", (8, 8)).save(file)
    whole = file.read_bytes()
    for at in range(8, len(whole), 3):
        file.write_bytes(whole[:at])
        with contextlib.suppress(DataError):
            class_map(str(file))
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    file.write_bytes(whole[:16] + header + checksum + whole[33:])
    with pytest.raises(DataError, match="40000x40000|1600000000 pixels"):
        class_map(str(file))


@pytest.mark.parametrize("points", [None, 3, "x", {}, [3, None, {}, {"folder": 3}, {"folder": {}}]])
def test_points_of_a_sweep_of_another_shape(points):
    assert point_folders({"points": points}) == []
    assert point_folders({"points": [{"folder": "../a"}, {"folder": "b"}]}) == ["a", "b"]
