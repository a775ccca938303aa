"""generate_images: from a run's snapshot to pictures."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion import Precond
from diffusion.encoders import RGBEncoder
from diffusion.samplers import SeedStack, heun
from diffusion.toy import ToyModel
from generators.door import open_generator
from generators.toy import Toy
from recipes.generate.options import get_args
from storage.errors import UsageError
from storage.snapshot import load_snapshot, save_snapshot
from tests import gloo
from tests.diffusion.edm2_pickles import edm2_pickle, put_modules
from tests.scripts.support import load, train
from tests.server import serving
from tests.sheets import places

SCRIPT = load("generate_images")


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("generate") / "run"
    train(run_dir, *"--outer_loops 1 --num_iteration 1 --grayscale 0.5".split())
    return run_dir / "snapshots" / "network-latest.safetensors"


def generate(*words):
    SCRIPT.main(get_args(None, [str(w) for w in words]))


def test_smoke_needs_nothing(tmp_path, capsys):
    generate("--preset", "smoke", "--outdir", tmp_path)
    assert "untrained" in capsys.readouterr().out
    assert (tmp_path / "grid.png").is_file()


def test_samples_are_functions_of_seed_input_and_number(snapshot, tmp_path):
    words = ["--snapshot", snapshot, "--data", "scenes/val", "--gpus", "cpu", "--num_images", 2]
    generate(*words, "--samples", 3, "--outdir", tmp_path / "a")
    generate(*words, "--samples", 1, "--first", 2, "--batch", 1, "--outdir", tmp_path / "b")
    generate(*words, "--samples", 1, "--first", 2, "--seed", 1, "--outdir", tmp_path / "c")
    names = sorted(p.name for p in (tmp_path / "a").glob("*_2.png"))
    assert len(names) == 2 and len(list((tmp_path / "a").glob("*.png"))) == 7
    for name in names:
        same = (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        other = (tmp_path / "a" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()
        assert same and not other
    grid = pixels(tmp_path / "a" / "grid.png")  # name, target, input, bicubic, 3 samples at 16 px
    for number, name in enumerate(names):
        files = [tmp_path / "a" / name.replace("_2.png", f"_{k}.png") for k in range(3)]
        ((top, left),), *others = (places(grid, pixels(file)) for file in files)
        assert others == [[(top, left + 132)], [(top, left + 264)]] and left > 3 * 132
        assert top > number * 132  # below the names of the columns
    facts = json.loads((tmp_path / "a" / "provenance.json").read_text())
    assert facts["kind"] == "camnet" and facts["snapshot"]["step"] == 1


def test_samples_of_a_sheet_are_numbered_from_1_and_the_title_says_of_what(
    snapshot, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr("recipes.generate.sheets.save_sheet", lambda *sheet: seen.append(sheet[-1]))
    words = ["--snapshot", snapshot, "--data", "scenes/val", "--gpus", "cpu", "--num_images", 1]
    generate(*words, "--samples", 2, "--first", 3, "--outdir", tmp_path)
    (words,) = seen
    assert "in the order of their codes" in words.title
    assert list(words.columns)[-2:] == ["sample 4", "sample 5"]


def test_unconditional(tmp_path):
    words = "--unconditional --lpips none --res 8 --pool_size 8 --outer_loops 1 --num_iteration 1"
    train(tmp_path / "run", *words.split())
    file = tmp_path / "run" / "snapshots" / "network-latest.safetensors"
    generate("--snapshot", file, "--num_images", 2, "--samples", 3, "--outdir", tmp_path / "out")
    grid = pixels(tmp_path / "out" / "grid.png")  # 3 samples at 8 px beside the rows' names
    found = [places(grid, pixels(f)) for f in sorted((tmp_path / "out").glob("row0001_*.png"))]
    assert [left - found[0][0][1] for ((_, left),) in found] == [0, 132, 264]


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-9]), "damaged|mismatch"),
        (lambda p: p.write_bytes(b"not a snapshot"), "damaged|foreign"),
        (lambda p: p.unlink(), "no such file"),
    ],
)
def test_bad_snapshots_are_named(snapshot, tmp_path, spoil, says):
    file = tmp_path / "network.safetensors"
    shutil.copy(snapshot, file)
    spoil(file)
    with pytest.raises(Exception, match=says) as error:
        generate("--snapshot", file, "--data", "scenes", "--outdir", tmp_path / "out")
    assert error.value.exit_code == 3
    assert not (tmp_path / "out").exists()


def test_a_file_where_images_should_go(snapshot, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(Exception, match="--outdir .*out") as error:
        generate("--snapshot", snapshot, "--data", "scenes", "--outdir", tmp_path / "out")
    assert error.value.exit_code == 2


def test_inputs_are_asked_for(snapshot, tmp_path):
    with pytest.raises(Exception, match="--data") as error:
        generate("--snapshot", snapshot, "--outdir", tmp_path / "out")
    assert error.value.exit_code == 2
    with pytest.raises(SystemExit) as stop:
        get_args(None, [])
    assert stop.value.code == 2


# ------------------------------------------------------------------------------------------- EDM2


def tiny(path, *, seed=0, label_dim=3, res=8, channels=3, classes=("cat", "dog", "owl"), std=None):
    """Write a snapshot of a tiny network whose output matters (its gains are not zero)."""
    torch.manual_seed(seed)
    net = Precond(
        res, channels, label_dim, model_channels=8, channel_mult=[1, 2], num_blocks=1,
        attn_resolutions=[4], channels_per_head=8,
    )  # fmt: skip
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith("gain"):
                p.fill_(0.5)
    config = {
        "net": net.config, "encoder": {"name": "rgb"}, "ema_std": std, "nimg": 64, "step": 8,
        "sigma_data": 0.5, "classes": list(classes) if classes else None,
    }  # fmt: skip
    return save_snapshot(Path(path), net.state_dict(), "edm2", config, {"run": f"seed {seed}"})


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """A run's snapshots at three EMA lengths, a guide, an unconditional one."""
    folder = tmp_path_factory.mktemp("nets")
    for i, std in enumerate((0.05, 0.1)):
        tiny(folder / f"network-snapshot-0000008-{std:.3f}.safetensors", seed=i, std=std)
    tiny(folder / "phema-0000008-0.150.safetensors", seed=5, std=0.15)
    tiny(folder / "other-0000009-0.200.safetensors", seed=6, std=0.2)
    tiny(folder / "guide.safetensors", seed=2)
    tiny(folder / "uncond.safetensors", seed=3, label_dim=0, classes=None)
    return folder


@pytest.fixture
def edm2(nets, tmp_path):
    """A launch on the tiny network: edm2("--seeds", "0-3", out="a", net="uncond") -> its folder."""

    def launch(*words, out="out", net="network-snapshot-0000008-0.050"):
        generate(
            "--net", nets / f"{net}.safetensors", "--gpus", "cpu", "--steps", 3,
            "--outdir", tmp_path / out, *words,
        )  # fmt: skip
        return tmp_path / out

    return launch


def pixels(path):
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image)).int()


def images(folder):
    """{name: pixels} of the single images."""
    return {
        p.relative_to(folder).as_posix(): pixels(p)
        for p in sorted(folder.rglob("*.png"))
        if p.name[0].isdigit()
    }


def assert_alike(a, b):
    """Same names and pictures; the last bits of another batch size may move a pixel by one."""
    assert a.keys() == b.keys() and a
    for name in a:
        assert (a[name] - b[name]).abs().max() <= 1, name


def times(folder):
    return {p.name: p.stat().st_mtime_ns for p in folder.rglob("*.png") if p.name[0].isdigit()}


def test_smoke_edm2_needs_nothing(tmp_path, capsys):
    generate("--preset", "smoke-edm2", "--outdir", tmp_path)
    assert "untrained" in capsys.readouterr().out
    assert list(images(tmp_path)) == [f"{i:06d}.png" for i in range(4)]
    assert (tmp_path / "grid.png").is_file()
    facts = json.loads((tmp_path / "provenance.json").read_text())
    assert facts["kind"] == "edm2" and facts["args"]["seeds"] == "0-3"
    assert facts["toolkit"]["torch"] == torch.__version__ and "git" in facts["toolkit"]


def in_two_ranks(file, out):
    words = ["--net", file, "--gpus", "cpu", "--steps", "3", "--outdir", out]
    generate(*words, "--seeds", "0-6", "--batch", "2", "--S_churn", "5")


def test_an_image_depends_on_its_seed_alone(edm2, nets, tmp_path):
    together = images(edm2("--seeds", "0-6", "--S_churn", 5, out="a"))
    apart = images(edm2("--seeds", "6,5,0-4", "--S_churn", 5, "--batch", 2, out="b"))
    assert_alike(together, apart)
    assert len({v.sum().item() for v in together.values()}) > 3
    gloo.run(2, in_two_ranks, nets / "network-snapshot-0000008-0.050.safetensors", tmp_path / "c")
    assert_alike(together, images(tmp_path / "c"))
    grids = [pixels(tmp_path / d / "grid.png") for d in "ac"]
    assert (grids[0] - grids[1]).abs().max() <= 1


def test_guided_is_the_manual_lerp(edm2, nets):
    def load_net(name):
        snapshot = load_snapshot(nets / f"{name}.safetensors")
        net = Precond(**snapshot.config["net"])
        net.load_state_dict(snapshot.state_dict)
        return net.eval()

    net, guide = load_net("network-snapshot-0000008-0.050"), load_net("guide")
    label = torch.eye(3)[[1]]

    def manual(x, sigma):
        weak = guide(x, sigma, label)
        return weak + 1.7 * (net(x, sigma, label) - weak)

    want = RGBEncoder().decode(heun(manual, SeedStack([7]).randn(3, 8, 8), steps=3))[0]
    words = ["--seeds", 7, "--class", "dog", "--gnet", nets / "guide.safetensors"]
    got = images(edm2(*words, "--guidance", 1.7))["000007.png"]
    assert (got - want.permute(1, 2, 0)).abs().max() <= 1
    alias = images(edm2(*words, "--guidance", "--guide-weight=1.7", out="alias"))
    assert_alike(alias, {"000007.png": got})
    none = images(edm2(*words, "--no-guidance", out="none"))["000007.png"]
    assert (none - got).abs().max() > 3


def test_the_guide_is_not_read_at_guidance_1(edm2, nets, capsys):
    alone = images(edm2(out="a"))
    with_it = images(edm2("--gnet", nets / "nowhere.safetensors", "--guidance", 1, out="b"))
    assert_alike(alone, with_it)
    assert "not read" in capsys.readouterr().out


def test_guidance_only_inside_the_interval(edm2, nets):
    words = ["--seeds", "0", "--gnet", nets / "guide.safetensors", "--guidance", 3]
    every = images(edm2(*words, out="a"))
    inside = images(edm2(*words, "--guidance_interval", 0.1, 10, out="b"))
    never = images(edm2(*words, "--guidance_interval", 90, "inf", out="c"))
    alone = images(edm2("--seeds", "0", out="d"))
    assert_alike(never, alone)
    assert (every["000000.png"] - inside["000000.png"]).abs().max() > 1
    assert (alone["000000.png"] - inside["000000.png"]).abs().max() > 1


def test_unconditional_edm2(edm2, nets):
    assert len(images(edm2("--seeds", "0-2", net="uncond"))) == 3
    assert len(images(edm2("--seeds", "0", "--no-random", net="uncond", out="b"))) == 1
    uncond = nets / "uncond.safetensors"
    assert images(edm2("--gnet", uncond, "--guidance", 1.5, "--seeds", 0, out="c"))
    with pytest.raises(Exception, match="no classes") as error:
        edm2("--class", 0, net="uncond", out="d")
    assert error.value.exit_code == 2


def test_names_of_files(edm2, tmp_path):
    edm2("--seeds", "1,1999", "--subdirs", out="a")
    assert list(images(tmp_path / "a")) == ["000000/000001.png", "001000/001999.png"]
    names = list(images(edm2("--seeds", "3-5", "--no-random", "--name_class", out="b")))
    assert names == ["000003_00000.png", "000004_00001.png", "000005_00002.png"]
    drawn = images(edm2("--seeds", "0-9", "--name_class", out="c"))
    plain = images(edm2("--seeds", "0-9", out="d"))
    assert_alike({n.split("_")[0] + ".png": v for n, v in drawn.items()}, plain)
    assert len({n[-9:-4] for n in drawn}) > 1  # several classes


def test_a_class_by_number_or_name_and_rows_of_classes(edm2, tmp_path):
    number = images(edm2("--seeds", "0-1", "--class", 2, out="a"))
    name = images(edm2("--seeds", "0-1", "--class", "owl", out="b"))
    assert_alike(number, name)
    many = images(edm2("--seeds", "0-1", "--class", "all", out="c"))
    assert len(many) == 6 and (many["000001_00002.png"] - number["000001.png"]).abs().max() <= 1
    grid = pixels(tmp_path / "c" / "grid.png")  # 3 rows of 2 at 8 px
    (((first, left),), ((top, right),)) = (
        places(grid, many[name]) for name in ("000000_00000.png", "000001_00002.png")
    )
    assert (top - first, right - left) == (2 * 132, 132) and first > 10 and left > 10  # captions
    two = images(edm2("--seeds", "0-1", "--class", "owl", "cat", out="c"))  # joins the others
    assert two.keys() == many.keys()


def test_trajectory(edm2, tmp_path):
    edm2("--seeds", "0", "--trajectory")
    strip = pixels(tmp_path / "out" / "000000_trajectory.png")
    image = pixels(tmp_path / "out" / "000000.png")
    assert strip.shape[1] == 3 * 132 - 4 and strip.shape[0] > 128  # noise levels stand above
    ((top, left),) = places(strip, image, tolerance=1)  # the last answer is the image
    assert top == strip.shape[0] - 128 and left == 264


def test_what_is_there_is_not_drawn_again(edm2, tmp_path, capsys):
    edm2("--seeds", "0-3")
    before, old = times(tmp_path / "out"), images(tmp_path / "out")
    (tmp_path / "out" / "000002.png").unlink()
    edm2("--seeds", "0-5")  # more seeds may join
    assert "3 of 6 images are there already" in capsys.readouterr().out
    after, new = times(tmp_path / "out"), images(tmp_path / "out")
    assert len(after) == 6
    assert {n for n, t in before.items() if after[n] == t} == set(before) - {"000002.png"}
    assert_alike(old, {n: v for n, v in new.items() if n in old})
    edm2("--seeds", "0-5", "--overwrite")
    assert all(t > after[n] for n, t in times(tmp_path / "out").items())


def test_other_settings_are_refused_and_overwritten_on_demand(edm2, tmp_path):
    edm2("--seeds", "0-3")
    before = times(tmp_path / "out")
    with pytest.raises(Exception, match="--steps 3 before, 4 now; .*--overwrite") as error:
        edm2("--seeds", "0-1", "--steps", 4)
    assert error.value.exit_code == 2 and times(tmp_path / "out") == before
    (tmp_path / "out" / "mine.png").write_bytes(b"")
    edm2("--seeds", "0-1", "--steps", 4, "--overwrite")
    assert set(times(tmp_path / "out")) == {"000000.png", "000001.png"}
    assert (tmp_path / "out" / "mine.png").exists()


def test_pictures_of_unknown_origin_are_kept(edm2, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "000016.png").write_bytes(b"precious")
    with pytest.raises(Exception, match="000016.png that this command did not write") as error:
        edm2()
    assert error.value.exit_code == 2
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["000016.png"]
    assert (tmp_path / "out" / "000016.png").read_bytes() == b"precious"


def test_an_interrupted_launch_goes_on(edm2, tmp_path, monkeypatch):
    whole = images(edm2("--seeds", "0-5", "--batch", 2, out="whole"))
    calls, decode = [], RGBEncoder.decode

    def fail(self, latents):
        calls.append(len(latents))
        if len(calls) == 4:  # the probe and two batches before
            raise KeyboardInterrupt
        return decode(self, latents)

    monkeypatch.setattr(RGBEncoder, "decode", fail)
    with pytest.raises(KeyboardInterrupt):
        edm2("--seeds", "0-5", "--batch", 2)
    monkeypatch.undo()
    kept = times(tmp_path / "out")
    assert len(kept) == 4
    assert_alike(whole, images(edm2("--seeds", "0-5", "--batch", 2)))
    assert kept.items() <= times(tmp_path / "out").items()


def test_only_a_grid(edm2, tmp_path, capsys):
    edm2("--seeds", "0-4", "--grid_only")
    assert {p.name for p in (tmp_path / "out").glob("*.png")} == {"grid.png"}
    assert not (tmp_path / "out" / ".parts").exists()
    edm2("--seeds", "0-4", "--grid_only")
    assert "done already: the grid of 5 seeds" in capsys.readouterr().out
    alone = images(edm2("--seeds", "0-4", out="b"))
    grid = pixels(tmp_path / "out" / "grid.png")  # 3 columns
    (((top, left),),) = (places(grid, alone["000003.png"], tolerance=1),)
    assert left == 0 and 132 < top  # with a seed above each


def sweep_words(nets):
    return ["--seeds", "0-1", "--gnet", nets / "guide.safetensors",
            "--sweep_guidance", 1, 1.5, "--sweep_ema", 0.05, 0.1, 0.15]  # fmt: skip


def test_sweep(edm2, nets, tmp_path):
    edm2(*sweep_words(nets))
    out = tmp_path / "out"
    folders = [f"ema{e}-guidance{w}" for e in ("0.050", "0.100", "0.150") for w in ("1", "1.5")]
    assert sorted(p.name for p in out.iterdir() if p.name.startswith("ema")) == folders
    whole = json.loads((out / "sweep.json").read_text())
    assert [p["folder"] for p in whole["points"]] == folders
    assert {Path(p["net"]).name for p in whole["points"]} == {
        "network-snapshot-0000008-0.050.safetensors",
        "network-snapshot-0000008-0.100.safetensors",
        "phema-0000008-0.150.safetensors",
    }
    assert whole["points"][1]["settings"]["guidance"] == 1.5
    assert pixels(out / "sheet.png").float().std() > 1
    # A point is what the same settings give alone.
    alone = images(edm2("--seeds", "0-1", net="network-snapshot-0000008-0.100", out="alone"))
    assert_alike(alone, images(out / "ema0.100-guidance1"))
    guide = ["--gnet", nets / "guide.safetensors", "--guidance", 1.5]
    alone = images(edm2("--seeds", "0-1", *guide, net="phema-0000008-0.150", out="guided"))
    assert_alike(alone, images(out / "ema0.150-guidance1.5"))


def test_an_interrupted_sweep_keeps_its_points(edm2, nets, tmp_path, monkeypatch, capsys):
    draw, done = SCRIPT.draw, []

    def fail(*args):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(args[3])
        return draw(*args)

    monkeypatch.setattr(SCRIPT, "draw", fail)
    with pytest.raises(KeyboardInterrupt):
        edm2(*sweep_words(nets))
    monkeypatch.undo()
    out = tmp_path / "out"
    assert len(json.loads((out / "sweep.json").read_text())["points"]) == 3
    assert (out / "sheet.png").is_file()
    before = {p: p.stat().st_mtime_ns for p in out.glob("ema*/0*.png")}
    assert len(before) == 6
    monkeypatch.setattr(SCRIPT, "draw", fail)  # stops at once, and forgets none of the three
    done[:] = [1, 2]
    with pytest.raises(KeyboardInterrupt):
        edm2(*sweep_words(nets))
    monkeypatch.undo()
    assert len(json.loads((out / "sweep.json").read_text())["points"]) == 3
    capsys.readouterr()
    edm2(*sweep_words(nets))
    assert capsys.readouterr().out.count("done already: 2 pictures in") == 3
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    assert len(json.loads((out / "sweep.json").read_text())["points"]) == 6


def test_an_ema_length_that_is_not_there(edm2, nets, tmp_path):
    with pytest.raises(Exception, match=r"0\.200.*there are 0\.050, 0\.100, 0\.150") as error:
        edm2("--sweep_ema", 0.05, 0.2)
    assert error.value.exit_code == 2 and not (tmp_path / "out").exists()
    with pytest.raises(Exception, match="NAME-STEP-EMA"):
        edm2("--sweep_ema", 0.05, net="guide")


@pytest.mark.parametrize(
    "other, says",
    [
        (dict(res=16), "16 pixels"),
        (dict(channels=1), "1 channels"),
        (dict(label_dim=4, classes=None), "4 classes"),
    ],
)
def test_guides_that_do_not_fit(edm2, tmp_path, other, says):
    guide = tiny(tmp_path / "g.safetensors", **other)
    with pytest.raises(Exception, match=f"--guide .*{says}") as error:
        edm2("--gnet", guide, "--guidance", 2)
    assert error.value.exit_code == 2 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words, says, code",
    [
        (["--class", "3"], "classes are 0 to 2", 2),
        (["--class", "bird"], "--class bird", 2),
        (["--data", "scenes"], "--data scenes", 2),
        (["--samples", "3"], "--samples 3", 2),
        (["--precision", "fp16"], "fp16 needs a GPU", 2),
    ],
)
def test_what_the_network_cannot_do(edm2, tmp_path, words, says, code):
    with pytest.raises(Exception, match=says) as error:
        edm2(*words)
    assert error.value.exit_code == code and not (tmp_path / "out").exists()


def test_options_of_the_other_kind(snapshot, tmp_path):
    with pytest.raises(Exception, match="--trajectory True: no use .* camnet") as error:
        generate("--net", snapshot, "--trajectory", "--outdir", tmp_path / "out")
    assert error.value.exit_code == 2


def test_no_folder_for_the_images(edm2, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Exception, match="--outdir .*file") as error:
        edm2(out="file/out")
    assert error.value.exit_code == 2


def test_numbers_that_are_not_finite(tmp_path):
    file = tiny(tmp_path / "bad.safetensors")
    snapshot = load_snapshot(file)
    snapshot.state_dict["unet.out_gain"].fill_(3e38)  # finite, and what it makes is not
    save_snapshot(file, *snapshot)
    with pytest.raises(Exception, match="seeds 16-19: not finite") as error:
        generate("--net", file, "--gpus", "cpu", "--steps", 2, "--outdir", tmp_path / "out")
    assert error.value.exit_code == 5 and not images(tmp_path / "out")


@pytest.mark.parametrize("spoil", ["net", "encoder", "no encoder", "classes", "weights"])
def test_snapshots_that_do_not_fit_themselves(tmp_path, spoil):
    file = tiny(tmp_path / "bad.safetensors")
    snapshot = load_snapshot(file)
    if spoil == "net":
        snapshot.config["net"]["colour"] = "red"
    elif spoil == "encoder":
        snapshot.config["encoder"] = {"name": "morse"}
    elif spoil == "no encoder":
        snapshot.config["encoder"] = None
    elif spoil == "classes":
        snapshot.config["classes"] = 5
    else:
        del snapshot.state_dict["unet.out_gain"]
    save_snapshot(file, *snapshot)
    with pytest.raises(Exception, match="fit itself|no usable encoder|no list of") as error:
        generate("--net", file, "--gpus", "cpu", "--outdir", tmp_path / "out")
    assert error.value.exit_code == 3 and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_other_snapshots_are_named(tmp_path):
    says = {"edm2-toy": "'edm2-toy' snapshot", "simclr": "SimCLR encoder, which does not draw"}
    for kind, words in says.items():
        file = save_snapshot(tmp_path / "other.safetensors", {}, kind, {}, {})
        with pytest.raises(Exception, match=words) as error:
            generate("--net", file, "--gpus", "cpu", "--outdir", tmp_path / "out")
        assert error.value.exit_code == 3


def test_a_kind_without_a_branch_of_its_own(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    net = ToyModel(2, 2, 16)
    config = {"net": net.config}
    file = save_snapshot(tmp_path / "toy.safetensors", net.state_dict(), "edm2-toy", config, {})
    out = tmp_path / "out"
    words = ["--net", file, "--gpus", "cpu", "--outdir", out]
    generate(*words, "--seeds", "3-6")
    assert set(images(out)) == {f"{seed:06d}.png" for seed in range(3, 7)}
    drawn = open_generator(file).draw(4, seed=3)
    for seed in range(3, 7):
        assert np.array_equal(pixels(out / f"{seed:06d}.png"), drawn[seed - 3].permute(1, 2, 0))
    height, width, _ = pixels(out / "grid.png").shape  # 64 px, a seed above each
    assert width == 2 * 132 - 4 and 2 * 132 + 20 < height
    facts = json.loads((out / "provenance.json").read_text())
    assert facts["kind"] == "edm2-toy" and facts["done"] and facts["args"]["seeds"] == "3-6"

    before = times(out)
    generate(*words, "--seeds", "3-7")  # what is there stays
    assert before.items() <= times(out).items() and "5 seeds" in capsys.readouterr().out
    with pytest.raises(Exception, match="other settings.*--overwrite") as error:
        generate(*words, "--precision", "bf16")
    assert error.value.exit_code == 2
    with pytest.raises(Exception, match="--trajectory True: no use .* edm2-toy") as error:
        generate(*words, "--trajectory")
    assert error.value.exit_code == 2
    generate("--net", file, "--gpus", "cpu", "--grid_only", "--outdir", tmp_path / "grid")
    assert [p.name for p in (tmp_path / "grid").rglob("*.png")] == ["grid.png"]
    monkeypatch.setattr(Toy, "input_size", 8)
    with pytest.raises(Exception, match="draws images of images") as error:
        generate(*words)
    assert error.value.exit_code == 3


def test_a_folder_means_its_newest_own_snapshot(edm2, nets, tmp_path, capsys):
    run = tmp_path / "run"
    (run / "snapshots").mkdir(parents=True)
    for name in ("network-snapshot-0000008-0.050", "phema-0000008-0.150"):
        shutil.copy(nets / f"{name}.safetensors", run / "snapshots")
    generate("--net", run, "--gpus", "cpu", "--steps", 2, "--outdir", tmp_path / "out")
    said = f"{run}: taking {run / 'snapshots' / 'network-snapshot-0000008-0.050.safetensors'}"
    assert said in capsys.readouterr().out


def test_a_preset_takes_its_files_from_the_models_directory(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MODELS_HOME", str(tmp_path / "models"))
    words = ["--preset", "edm2-img64-s-autog-fid", "--gpus", "cpu", "--steps", 2]
    with pytest.raises(Exception, match=r"edm2-img64-s-1073741-0\.045.*Place the file at") as error:
        generate(*words, "--outdir", tmp_path / "out")
    assert error.value.exit_code == 6 and not (tmp_path / "out").exists()

    def imported(path, of, seed=0):
        tiny(path, seed=seed)
        whole = load_snapshot(path)
        save_snapshot(path, *whole[:3], {"run": f"seed {seed}", "imported": "EDM2", "file": of})

    net, guide = "edm2-img64-s-1073741-0.045", "edm2-img64-xs-0134217-0.110"
    imported(tmp_path / "models" / f"{net}.safetensors", f"{net}.pkl")
    other = tmp_path / "models" / f"{guide[:-3]}175.safetensors"  # another EMA length
    imported(other, f"{other.stem}.pkl", seed=1)
    with pytest.raises(Exception, match=r"edm2-img64-xs-0134217-0\.110.pkl: .*Place the file at"):
        generate(*words, "--outdir", tmp_path / "out")
    file = tmp_path / "models" / "nvidia" / f"{guide}.safetensors"
    tiny(file, seed=1)  # the name alone is not enough
    with pytest.raises(Exception, match=f"does not say that it was imported from {guide}"):
        generate(*words, "--outdir", tmp_path / "out")
    imported(file, f"{guide}.pkl", seed=1)
    generate(*words, "--outdir", tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert facts["settings"]["guidance"] == 1.7 and facts["guide"]["run"] == "seed 1"
    assert len(images(tmp_path / "out")) == 4


def test_a_preset_fetches_what_it_needs(tmp_path, monkeypatch, capsys):
    put_modules(monkeypatch)
    monkeypatch.setenv("MODELS_HOME", str(tmp_path / "models"))
    names = ("edm2-img64-s-1073741-0.045", "edm2-img64-xs-0134217-0.110")
    files = {f"posthoc-reconstructions/{n}.pkl": edm2_pickle(k) for k, n in enumerate(names)}
    words = ["--preset", "edm2-img64-s-autog-fid", "--gpus", "cpu", "--steps", 2]
    with serving(files=files) as server:
        monkeypatch.setenv("IMLE_LAB_NETWORKS", server.url)
        generate(*words, "--outdir", tmp_path / "out")
        urls = [f"{server.url}/posthoc-reconstructions/{name}.pkl" for name in names]
        by_url = ["--net", urls[0], "--guide", urls[1], "--guidance", 1.7, *words[2:]]
        generate(*by_url, "--outdir", tmp_path / "out")  # the same networks: nothing to do
    said = capsys.readouterr()
    assert "done already" in said.out and said.err.count("CC BY-NC-SA 4.0") == 2
    assert len(images(tmp_path / "out")) == 4 and len(server.hits) == 2
    monkeypatch.setenv("IMLE_LAB_NETWORKS", "http://127.0.0.1:9")  # as where there is no network
    generate(*words, "--seeds", "16-20", "--outdir", tmp_path / "out")
    assert len(images(tmp_path / "out")) == 5


def test_noise_of_the_gpu(nets, tmp_path, monkeypatch):
    words = ["--net", nets / "network-snapshot-0000008-0.050.safetensors", "--gpus", "cpu",
             "--steps", 2, "--outdir", tmp_path]  # fmt: skip
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UsageError, match="^--noise_device cuda: CUDA finds no GPU here"):
        generate(*words, "--noise_device", "cuda")
    generate(*words)
    settings = json.loads((tmp_path / "provenance.json").read_text())["settings"]
    assert "noise_device" not in settings  # so that folders of before go on
    made = []

    def stack(seeds, device="cpu", *, draw_on="cpu"):
        made.append(str(draw_on))
        return SeedStack(seeds, device)

    monkeypatch.setattr("diffusion.generate.SeedStack", stack)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(UsageError, match="other settings"):
        generate(*words, "--noise_device", "cuda")
    assert made == []
    generate(*words, "--noise_device", "cuda", "--overwrite", "--name_class")
    assert set(made) == {"cuda"} and len(made) > 1  # of the classes and of the images
    settings = json.loads((tmp_path / "provenance.json").read_text())["settings"]
    assert settings["noise_device"] == "cuda"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_noise_of_the_gpu_is_that_of_the_original(nets):
    """One generator a seed on the GPU: noise first, then the class."""
    file = nets / "network-snapshot-0000008-0.050.safetensors"
    random = torch.Generator("cuda").manual_seed(5)
    noise = torch.randn(3, 8, 8, generator=random, device="cuda")
    label = int(torch.randint(3, (), generator=random, device="cuda"))
    net = open_generator(file, device="cuda", noise_device="cuda")
    assert net.seed_classes([5]) == [label]
    labels = torch.nn.functional.one_hot(torch.tensor([label], device="cuda"), 3).float()
    want = heun(lambda x, sigma: net.net(x, sigma, labels), noise[None])
    assert torch.equal(net.draw(1, seed=5), net.encoder.decode(want).cpu())
    assert not torch.equal(net.draw(1, seed=5), open_generator(file, device="cuda").draw(1, seed=5))


def test_a_pkl_stands_for_its_sibling(nets, tmp_path):
    file = nets / "network-snapshot-0000008-0.050.pkl"
    generate("--net", file, "--gpus", "cpu", "--steps", 2, "--outdir", tmp_path / "out")
    assert len(images(tmp_path / "out")) == 4


def test_the_default_folder_is_the_same_for_the_same_settings(nets, tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS_HOME", str(tmp_path))
    file = nets / "network-snapshot-0000008-0.050.safetensors"
    for words in (["--steps", 2], ["--steps", 2, "--seeds", 3], ["--steps", 1]):
        generate("--net", file, "--gpus", "cpu", *words)
    folders = sorted((tmp_path / "generate_images").iterdir())
    assert len(folders) == 2 and all(f.name.startswith(file.stem) for f in folders)
    assert sorted(len(images(f)) for f in folders) == [4, 5]


def test_the_default_folder_has_the_run_s_name(nets, tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS_HOME", str(tmp_path))
    file = tmp_path / "train_edm2" / "mine" / "snapshots" / "network-snapshot-0000008-0.050"
    file.parent.mkdir(parents=True)
    shutil.copy(nets / f"{file.name}.safetensors", f"{file}.safetensors")
    words = ["--net", "mine", "--gpus", "cpu", "--steps", 1]
    generate(*words, "--seeds", 3)
    (folder,) = (tmp_path / "generate_images").iterdir()
    assert folder.name.startswith(f"mine-{file.name}-")
    older = folder.with_name(folder.name.removeprefix("mine-"))  # as a version before named it
    folder.rename(older)
    generate(*words, "--seeds", 4)
    assert list((tmp_path / "generate_images").iterdir()) == [older]
    assert sorted(images(older)) == ["000003.png", "000004.png"]
