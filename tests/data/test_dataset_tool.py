import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from data import SetupDataset
from data import dataset_tool as tool
from data.labelled import LabelledImages
from data.readers.edm_zip import EdmSource
from data.registry import open_source
from diffusion.encoders import StabilityVAEEncoder
from storage.errors import DataError
from storage.files import temporaries
from tests.data.pictures import encoded, make_set, noise, truncate, zip_folder
from tests.data.readers.test_arrays import mnist, official, tarred
from tests.data.readers.test_edm_zip import latent_files, latents, png, write

ROOT = Path(tool.__file__).parents[1]


def run(*words, code=0):
    assert tool.main([str(w) for w in words]) == code


def members(path):
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        return {p.relative_to(path).as_posix(): p.read_bytes() for p in files}
    with zipfile.ZipFile(path) as archive:
        assert all(m.compress_type == zipfile.ZIP_STORED for m in archive.infolist())
        return {m.filename: archive.read(m) for m in archive.infolist()}


def pixels(data):
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG" and image.mode == "RGB"
    return np.asarray(image)


# ---------------------------------------------------------------------------- transforms, by Pillow


def oracle(image, name, width, height):
    """The transforms with Pillow's own crops, written from their description."""
    picture = Image.fromarray(image)
    w, h = picture.size
    lanczos = Image.Resampling.LANCZOS
    if name is None:
        return np.asarray(picture.resize((width, height), lanczos))
    if name == "center-crop":
        side = min(w, h)
        box = ((w - side) // 2, (h - side) // 2, (w + side) // 2, (h + side) // 2)
        return np.asarray(picture.crop(box).resize((width, height), lanczos))
    if name == "center-crop-wide":
        rows = int(np.round(width * h / w))
        if w < width or rows < height:
            return None
        box = (0, (h - rows) // 2, w, (h + rows) // 2)
        canvas = Image.new("RGB", (width, width))
        canvas.paste(picture.crop(box).resize((width, height), lanczos), (0, (width - height) // 2))
        return np.asarray(canvas)
    while min(w, h) >= 2 * width:
        w, h = w // 2, h // 2
        picture = picture.resize((w, h), Image.Resampling.BOX)
    factor = width / min(w, h)
    w, h = round(w * factor), round(h * factor)
    picture = picture.resize((w, h), Image.Resampling.BICUBIC)
    left, top = (w - width) // 2, (h - width) // 2
    return np.asarray(picture.crop((left, top, left + width, top + width)))


SIZES = [
    (24, 30),
    (30, 24),
    (33, 70),
    (70, 33),
    (64, 64),
    (65, 131),
    (16, 16),
    (15, 200),
    (200, 15),
]


@pytest.mark.parametrize("name", [None, *tool.TRANSFORMS])
@pytest.mark.parametrize("target", [(16, 16), (32, 20), (9, 9)])
def test_transforms(name, target):
    if name == "center-crop-dhariwal" and target[0] != target[1]:
        pytest.skip("squares only")
    left_out = 0
    for k, (h, w) in enumerate(SIZES):
        image = noise(k, h, w)
        got, want = tool.transform(image, name, target), oracle(image, name, *target)
        if want is None:
            assert got is None
            left_out += 1
            continue
        assert got.dtype == np.uint8 and (got == want).all(), (name, (h, w))
    assert left_out == 0 or name == "center-crop-wide"


def test_wide_leaves_black_bars():
    got = tool.center_crop_wide(np.full((90, 160, 3), 200, np.uint8), 32, 18)
    assert got.shape == (32, 32, 3)
    assert not got[:7].any() and (got[7:25] == 200).all() and not got[25:].any()


# ------------------------------------------------------------------------------------------ convert


@pytest.mark.parametrize("dest", ["out.zip", "out"])
@pytest.mark.parametrize("packed", [False, True])
def test_convert_class_folders(tmp_path, dest, packed):
    root = make_set(tmp_path / "s", {".": {"dog": 3, "cat": 2}})
    source = zip_folder(root, tmp_path / "s.zip") if packed else root
    out = tmp_path / "made" / dest
    run("convert", "--source", source, "--dest", out, "--transform", "center-crop",
        "--resolution", "16x16", "--workers", 1)  # fmt: skip
    found = members(out)
    names = [f"00000/img{k:08d}.png" for k in range(5)]
    assert sorted(found) == sorted([*names, "dataset.json"])
    note = json.loads(found["dataset.json"])
    assert note["labels"] == [[n, int(k >= 2)] for k, n in enumerate(names)]
    assert note["classes"] == ["cat", "dog"]
    for k, name in enumerate(names):
        original = np.asarray(
            Image.open(root / ("cat" if k < 2 else "dog") / f"{k - 2 * (k >= 2):03d}.png")
        )
        assert (pixels(found[name]) == oracle(original, "center-crop", 16, 16)).all()
        assert len(found[name]) > 16 * 16 * 3  # not compressed
    images = LabelledImages(open_source(str(out), tmp_path))
    assert (images.resolution, images.label_dim, len(images)) == (16, 2, 5)
    assert sorted(p.name for p in out.parent.iterdir()) == [dest]


def test_same_input_same_bytes_whatever_the_workers(tmp_path):
    root = make_set(tmp_path / "s", {".": {"a": 30, "b": 10}}, "jpg")
    for k in (1, 2):
        run("convert", "--source", root, "--dest", tmp_path / f"{k}.zip", "--workers", k,
            "--resolution", "8x8")  # fmt: skip
        time.sleep(0.1)
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()


@pytest.mark.parametrize(
    ("labels", "want"),
    [("default", [0, 1, 2]), (None, None), ("partial", None)],
)
def test_labels_of_a_dataset_json(tmp_path, labels, want):
    files = {f"x/{k}.png": png(noise(k, 16, 16)) for k in range(3)}
    if labels == "partial":
        labels = [["x/0.png", 3], ["x/2.png", 1]]
    source = write(tmp_path / "s.zip", files, labels)
    run("convert", "--source", source, "--dest", tmp_path / "o.zip")
    found = members(tmp_path / "o.zip")
    got = json.loads(found["dataset.json"])["labels"]
    assert (got if got is None else [v for _, v in got]) == want
    assert (pixels(found["00000/img00000002.png"]) == noise(2, 16, 16)).all()


def test_one_class_is_no_label_and_max_images(tmp_path):
    root = make_set(tmp_path / "s", {".": {"only": 5}})
    run("convert", "--source", root, "--dest", tmp_path / "o.zip", "--max-images", 2,
        "--resolution", "8x8")  # fmt: skip
    found = members(tmp_path / "o.zip")
    assert json.loads(found["dataset.json"]) == {"labels": None} and len(found) == 3


def test_splits_named_sets_and_parts(tmp_path):
    make_set(tmp_path / "data" / "pets", {"train": {"a": 20, "b": 10}, "val": {"a": 1, "b": 2}})
    options = ["--data_path", tmp_path / "data", "--resolution", "8x8"]
    for spec, more, count in (
        ("pets", [], 30),
        ("pets", ["--split", "val"], 3),
        ("pets/val", [], 3),
        ("pets_deci", [], 3),
        ("scenes", ["--max-images", 2], 2),
    ):
        dest = tmp_path / f"{count}{len(more)}{len(spec)}.zip"
        run("convert", "--source", spec, "--dest", dest, *options, *more)
        assert len(members(dest)) == count + 1
    run("convert", "--source", "scenes", "--dest", tmp_path / "x.zip", code=6)


def test_cifar_and_mnist_as_distributed(tmp_path, capsys):
    tar = tarred(official(tmp_path / "src"), tmp_path / "cifar-10-python.tar.gz")
    run("convert", "--source", tar, "--dest", tmp_path / "c.zip")
    source = EdmSource(tmp_path / "c.zip")
    assert (len(source), source.shape, len(source.classes)) == (15, (32, 32, 3), 10)
    straight = open_source(str(tar), tmp_path)
    for k in range(15):
        assert (source.image(k) == straight.image(k)).all() and source.label(k) == straight.label(k)
    folder = mnist(tmp_path / "raw")
    run("convert", "--source", folder, "--dest", tmp_path / "m.zip", code=6)
    assert "28x28, not a power of two; give --resolution 32x32" in capsys.readouterr().err
    run("convert", "--source", folder, "--dest", tmp_path / "m.zip", "--resolution", "32x32")
    assert EdmSource(tmp_path / "m.zip").shape == (32, 32, 3)


def test_wide_leaves_gaps_in_the_numbers(tmp_path, capsys):
    (tmp_path / "s").mkdir()
    for k, (h, w) in enumerate([(18, 32), (10, 10), (20, 33)]):
        Image.fromarray(noise(k, h, w)).save(tmp_path / "s" / f"{k}.png")
    options = ["--transform", "center-crop-wide", "--resolution", "32x18"]
    run("convert", "--source", tmp_path / "s", "--dest", tmp_path / "o.zip", *options)
    names = ["00000/img00000000.png", "00000/img00000002.png", "dataset.json"]
    assert sorted(members(tmp_path / "o.zip")) == names
    assert "2 from s, no labels, 1 left out as too small" in capsys.readouterr().err
    options[-1] = "64x36"
    run("convert", "--source", tmp_path / "s", "--dest", tmp_path / "p.zip", *options, code=6)
    assert "none of 3 pictures is large enough" in capsys.readouterr().err


def nothing_left(folder):
    return [p.name for p in folder.iterdir() if "out" in p.name]


@pytest.mark.parametrize("dest", ["out.zip", "out"])
@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ([(16, 16), (8, 8)], [], "1.png comes out as 8x8, others as 16x16"),
        ([(16, 8)], [], "0.png comes out as 8x16, not square; give --transform"),
        ([(12, 12)], [], "12x12, not a power of two; give --resolution 1"),
        ([(16, 16)], ["--resolution", "16x8"], "not square"),
    ],
)
def test_wrong_shapes_leave_nothing(tmp_path, capsys, dest, sizes, options, message):
    (tmp_path / "s").mkdir()
    for k, (h, w) in enumerate(sizes):
        Image.fromarray(noise(k, h, w)).save(tmp_path / "s" / f"{k}.png")
    words = ["convert", "--source", tmp_path / "s", "--dest", tmp_path / dest, *options]
    run(*words, code=6)
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1] and said[-1].startswith("dataset_tool: ")
    assert nothing_left(tmp_path) == []


def test_a_bad_picture_leaves_nothing(tmp_path, capsys):
    root = make_set(tmp_path / "s", {".": {"a": 40}})
    truncate(root / "a" / "037.png")
    for workers in (1, 2):
        run("convert", "--source", root, "--dest", tmp_path / "out.zip", "--resolution", "8x8",
            "--workers", workers, code=6)  # fmt: skip
        assert "037.png (" in capsys.readouterr().err and nothing_left(tmp_path) == []


def test_what_is_there_is_not_written_over(tmp_path, capsys):
    root = make_set(tmp_path / "s", {".": {"a": 1}})
    words = ["convert", "--source", root, "--resolution", "8x8", "--dest"]
    (tmp_path / "out.zip").write_bytes(b"mine")
    run(*words, tmp_path / "out.zip", code=6)
    assert (tmp_path / "out.zip").read_bytes() == b"mine"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    run(*words, tmp_path / "out", code=6)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]
    assert "there already" in capsys.readouterr().err
    assert not list(tmp_path.glob(".out*"))
    (tmp_path / "out" / "mine").unlink()
    run(*words, tmp_path / "out")
    assert len(members(tmp_path / "out")) == 2


def test_killed_half_way(tmp_path):
    """SIGKILL while writing: nothing under the name; the next run cleans up and finishes."""
    root = make_set(tmp_path / "s", {".": {"a": 300}})
    for dest in ("out.zip", "out"):
        words = ["convert", "--source", root, "--dest", tmp_path / dest, "--workers", "1"]
        words += ["--resolution", "256x256"]
        process = subprocess.Popen([sys.executable, ROOT / "data" / "dataset_tool.py", *words])
        try:
            for _ in range(600):
                if any(p.is_file() or any(p.rglob("*.png")) for p in temporaries(tmp_path, dest)):
                    break
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
        finally:
            process.wait()
        assert not (tmp_path / dest).exists() and temporaries(tmp_path, dest)
        run(*words, "--max-images", 3)
        assert len(members(tmp_path / dest)) == 4 and not temporaries(tmp_path, dest)


def test_full_disk(tmp_path, monkeypatch, capsys):
    root = make_set(tmp_path / "s", {".": {"a": 3}})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tool, "_into_zip", full)
    run("convert", "--source", root, "--dest", tmp_path / "out.zip", "--resolution", "8x8", code=7)
    assert "No space left" in capsys.readouterr().err and nothing_left(tmp_path) == []


def test_interrupted(tmp_path, monkeypatch, capsys, request):
    # Started in the background by a shell, python ignores Ctrl-C, and so would the test.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    root = make_set(tmp_path / "s", {".": {"a": 3}})
    monkeypatch.setattr(tool, "png", lambda image: os.kill(os.getpid(), signal.SIGINT))
    words = ["convert", "--source", root, "--dest", tmp_path / "out", "--resolution", "8x8"]
    run(*words, "--workers", 1, code=130)
    assert "stopped; nothing was written" in capsys.readouterr().err
    assert nothing_left(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["convert", "--source", "x"], "--dest"),
        (["convert", "--source", "x", "--dest", "y", "--transform", "center-crop"], "--resolution"),
        (["convert", "--source", "x", "--dest", "y", "--resolution", "64"], "WIDTHxHEIGHT"),
        (["convert", "--source", "x", "--dest", "y", "--resolution", "0x0"], "WIDTHxHEIGHT"),
        (["convert", "--source", "x", "--dest", "y", "--max-images", "0"], "positive"),
        (
            "convert --source x --dest y --transform center-crop-dhariwal --resolution 8x4".split(),
            "squares",
        ),
        (
            "convert --source x --dest y --transform center-crop-wide --resolution 4x8".split(),
            "width",
        ),
        ([], "COMMAND"),
    ],
)
def test_usage(words, message, capsys):
    with pytest.raises(SystemExit) as caught:
        tool.main(words)
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_flags_are_frozen():
    """The command line is a promise; names as NVIDIA's, plus ours."""
    commands = tool.get_parser()._subparsers._group_actions[0].choices
    found = {
        name: {o for o, a in command._option_string_actions.items() if "help" not in a.dest}
        for name, command in commands.items()
    }
    both = {"--data_path", "--dest", "--num_images", "--max-images", "--source", "--split"}
    models = both | {"--batch", "--gpus", "--device", "--model-url"}
    assert found == {
        "convert": both | {"--resolution", "--transform", "--num_workers", "--workers"},
        "encode": models,
        "decode": models,
    }
    args = tool.get_parser().parse_args("encode --source a --dest b".split())
    assert args.model_url == "stabilityai/sd-vae-ft-mse"


def test_missing_source_is_one_line(tmp_path, capsys):
    run("convert", "--source", tmp_path / "no", "--dest", tmp_path / "o.zip", code=6)
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


# ------------------------------------------------------------------------------- encode and decode


class FakeVae(torch.nn.Module):
    """Means over 8x8 blocks and a constant; what it makes of its latents can be inverted."""

    def encode(self, x):
        self.low, self.high = float(x.min()), float(x.max())
        blocks = torch.nn.functional.avg_pool2d(x, 8)
        mean = torch.cat([blocks, torch.full_like(blocks[:, :1], 7.0)], dim=1)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=mean * 0 + 0.25))

    def decode(self, z):
        return SimpleNamespace(sample=torch.nn.functional.interpolate(z[:, :3], scale_factor=8))


@pytest.fixture
def fake(monkeypatch):
    model = FakeVae()
    monkeypatch.setattr(StabilityVAEEncoder, "_load", lambda self, device: model)
    return model


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_encode_and_decode(tmp_path, fake, kind, capsys):
    suffix = ".zip" if kind == "zip" else ""
    root = make_set(tmp_path / "s", {".": {"a": 4, "b": 3}})
    pictures, coded, back = (tmp_path / f"{n}{suffix}" for n in ("p", "c", "b"))
    run("convert", "--source", root, "--dest", pictures, "--resolution", "32x32")
    run("encode", "--source", pictures, "--dest", coded, "--batch", 3, "--device", "cpu")
    found = members(coded)
    names = [f"00000/img-mean-std-{k:08d}.npy" for k in range(7)]
    assert sorted(found) == sorted([*names, "dataset.json"])
    note = json.loads(found["dataset.json"])
    assert note == {"labels": [[n, int(k > 3)] for k, n in enumerate(names)], "classes": ["a", "b"]}
    assert 0 <= fake.low and 0.5 < fake.high <= 1  # the VAE is fed [0, 1]
    source = EdmSource(pictures)
    for k, name in enumerate(names):
        raw = np.load(io.BytesIO(found[name]), allow_pickle=False)
        assert raw.dtype == np.float32 and raw.shape == (8, 4, 4)
        blocks = source.image(k).reshape(4, 8, 4, 8, 3).mean((1, 3)).transpose(2, 0, 1) / 255
        assert np.allclose(raw[:3], blocks, atol=1e-6)
        assert (raw[3] == 7).all() and (raw[4:] == 0.25).all()
    images = LabelledImages(open_source(str(coded), tmp_path))
    assert (images.channels, images.resolution, images.label_dim) == (8, 4, 2)
    run("decode", "--source", coded, "--dest", back, "--batch", 4, "--device", "cpu")
    found = members(back)
    assert json.loads(found["dataset.json"])["labels"][6] == ["00000/img00000006.png", 1]
    for k in range(7):
        blocks = source.image(k).reshape(4, 8, 4, 8, 3).mean((1, 3))
        want = blocks.repeat(8, 0).repeat(8, 1)
        got = pixels(found[f"00000/img{k:08d}.png"]).astype(float)
        assert np.abs(got - want).max() <= 1.01  # the fraction is cut off
    assert f"ready: {back}: 7 from c, labelled" in capsys.readouterr().err


def test_decode_reads_what_nvidia_wrote(tmp_path, fake):
    """npy files in the layout of their tool, without a dataset.json."""
    source = write(tmp_path / "c.zip", latent_files(3), "none")
    run("decode", "--source", source, "--dest", tmp_path / "o.zip", "--max-images", 2)
    found = members(tmp_path / "o.zip")
    assert len(found) == 3 and json.loads(found["dataset.json"]) == {"labels": None}
    want = (np.clip(latents(3)[1][:3].transpose(1, 2, 0), 0, 1) * 255).repeat(8, 0).repeat(8, 1)
    assert np.abs(pixels(found["00000/img00000001.png"]).astype(float) - want).max() <= 1.01


def test_encode_and_decode_refuse_each_others_input(tmp_path, fake, capsys):
    pictures = write(tmp_path / "p.zip", {"a.png": png(noise(0, 16, 16))}, None)
    odd = write(tmp_path / "q.zip", {"a.png": png(noise(0, 12, 12))}, None)
    coded = write(tmp_path / "c.zip", latent_files(1), None)
    out = tmp_path / "out.zip"
    for command, source, message in (
        ("decode", pictures, "holds pictures"),
        ("encode", coded, "holds latents already"),
        ("convert", coded, "holds latents"),
        ("encode", odd, "12x12, not a square with sides divisible by 8"),
    ):
        run(command, "--source", source, "--dest", out, code=6)
        assert message in capsys.readouterr().err and nothing_left(tmp_path) == []


def test_without_diffusers(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    pictures = write(tmp_path / "p.zip", {"a.png": png(noise(0, 16, 16))}, None)
    run("encode", "--source", pictures, "--dest", tmp_path / "out.zip", code=2)
    assert "pip install diffusers" in capsys.readouterr().err and nothing_left(tmp_path) == []


def test_a_real_vae(tmp_path):
    """A tiny AutoencoderKL with random weights, from a folder; the encoder against its own code."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    blocks = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    vae = diffusers.AutoencoderKL(
        down_block_types=blocks[0], up_block_types=blocks[1], block_out_channels=(8,) * 4,
        latent_channels=4, norm_num_groups=4,
    ).eval()  # fmt: skip
    vae.save_pretrained(tmp_path / "vae")
    files = {f"00000/img{k:08d}.png": png(noise(k, 32, 32)) for k in range(3)}
    pictures = write(tmp_path / "p.zip", files)
    options = ["--model-url", tmp_path / "vae", "--device", "cpu"]
    run("encode", "--source", pictures, "--dest", tmp_path / "c.zip", *options)
    run("decode", "--source", tmp_path / "c.zip", "--dest", tmp_path / "b.zip", *options)
    coded, back = EdmSource(tmp_path / "c.zip"), EdmSource(tmp_path / "b.zip")
    with torch.no_grad():
        for k in range(3):
            x = torch.from_numpy(noise(k, 32, 32).transpose(2, 0, 1).copy())[None] / 255
            posterior = vae.encode(x).latent_dist
            want = torch.cat([posterior.mean, posterior.std], 1)[0].numpy()
            assert np.allclose(coded.latent(k), want, atol=1e-4)
            seen = vae.decode(posterior.mean).sample.clamp(0, 1)[0].numpy() * 255
            assert np.abs(back.image(k).transpose(2, 0, 1) - seen).max() <= 1.1


def test_writer_holds_its_place(tmp_path):
    with tool.writing(tmp_path / "a.zip") as put:
        put("x", b"1")
        with pytest.raises(DataError, match="being prepared by"), tool.writing(tmp_path / "a.zip"):
            pass
        assert not (tmp_path / "a.zip").exists()
    assert members(tmp_path / "a.zip") == {"x": b"1"} and len(list(tmp_path.iterdir())) == 1


def test_cocos_root_is_read_as_nvidias_tool_reads_it(tmp_path, capsys):
    """All pictures below it by path; folders at the top that have any are the classes."""
    for k, name in enumerate(("train2017", "val2017")):
        (tmp_path / "coco" / name).mkdir(parents=True)
        for i in range(3 - k):
            (tmp_path / "coco" / name / f"{i:012d}.jpg").write_bytes(encoded(10 * k + i, "JPEG"))
    (tmp_path / "coco" / "annotations").mkdir()
    (tmp_path / "coco" / "annotations" / "instances_train2017.json").write_text("{}")
    size = ["--transform", "center-crop", "--resolution", "16x16", "--num_workers", "1"]
    dest = tmp_path / "coco.zip"
    assert (
        tool.main(["convert", "--source", str(tmp_path / "coco"), "--dest", str(dest), *size]) == 0
    )
    with zipfile.ZipFile(dest) as archive:
        note = json.loads(archive.read("dataset.json"))
    assert [label for _, label in note["labels"]] == [0, 0, 0, 1, 1]
    assert note["classes"] == ["train2017", "val2017"]
    (tmp_path / "wrap").mkdir()
    (tmp_path / "coco").rename(tmp_path / "wrap" / "coco")
    again = ["convert", "--source", str(tmp_path / "wrap"), "--dest", str(tmp_path / "again.zip")]
    assert tool.main([*again, *size]) == 0
    with zipfile.ZipFile(tmp_path / "again.zip") as archive:
        assert json.loads(archive.read("dataset.json")) == note


@pytest.mark.parametrize("name", ["EIO", "ENOSPC", "EFBIG"])
def test_a_disk_that_fails_is_7(tmp_path, monkeypatch, capsys, name):
    make_set(tmp_path / "in", {"train": {"a": 2}})
    monkeypatch.setenv("IMLE_LAB_FAILPOINT", f"file-written:all={name}")
    words = ["--transform", "center-crop", "--resolution", "16x16", "--dest", tmp_path / "out.zip"]
    run("convert", "--source", tmp_path / "in", *words, code=7)
    assert len([x for x in capsys.readouterr().err.splitlines() if "cannot write" in x]) == 1
    assert not temporaries(tmp_path)


def test_a_want_of_memory_is_8_and_one_line(monkeypatch, capsys):
    def want(*given):
        raise MemoryError

    monkeypatch.setattr(tool, "run", want)
    run("convert", "--source", "a", "--dest", "b", code=8)
    assert SetupDataset.report("SetupDataset", want) == 8
    said = capsys.readouterr().err
    assert said == "dataset_tool: out of memory\nSetupDataset: out of memory\n"
