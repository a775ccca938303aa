"""generate_views: the command that draws views and keeps them."""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from data.registry import open_source
from data.sources import Subset, evenly
from data.uint8_cache import UInt8Cache
from data.views.generated import CachedViews, FilteredViews
from data.views.naming import root_ids
from data.views.stored import open_views
from data.views.writing import FORMATS
from recipes.views import parts
from recipes.views.options import get_args
from storage.errors import DataError, Preempted
from storage.snapshot import save_snapshot
from tests import gloo
from tests.data.pictures import noise
from tests.generators.tiny import snapshot
from tests.scripts.support import ROOT, load

SCRIPT = load("generate_views")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    made = snapshot(corruption={"grayscale": 1, "mask_frac": 0.25, "mask_res": 4})
    return save_snapshot(tmp_path_factory.mktemp("net") / "net.safetensors", *made)


def arguments(file, out, *words):
    return [str(w) for w in (
        "--net", file, "--data", "scenes", "--num_images", 7, "--views", 3, "--size", 16,
        "--view_batch", 6, "--gpus", "cpu", "--out", out, *words,
    )]  # fmt: skip


def generate(file, out, *words):
    SCRIPT.main(get_args(None, arguments(file, out, *words)))


def online(file, *words, keys=None, picked=None):
    """The source of views that a training script would make, and its pictures."""
    args = get_args(None, arguments(file, "unused", *words))
    source = evenly(open_source("scenes", "."), 7)  # as training takes --num_images
    source = source if picked is None else Subset(source, picked)
    sampler, settings = parts.sampler(args, args.net, 16, torch.device("cpu"), lambda line: None)
    small, real = (UInt8Cache(source, s, quiet=True).images for s in (8, 16))
    return parts.source(args, sampler, small, real, root_ids(source)), source, settings


def stop_after(monkeypatch, pictures):
    """A signal comes when so many pictures are written."""
    put = SCRIPT.ViewWriter.put

    def putting(self, views):
        put(self, views)
        if self.done >= pictures:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(SCRIPT.ViewWriter, "put", putting)


@pytest.mark.parametrize("format", FORMATS)
def test_a_cache_holds_what_is_drawn_online(file, tmp_path, format, capsys):
    generate(file, tmp_path, "--format", format)
    said = capsys.readouterr().out
    assert "21 views of 16 px" in said and "bytes" in said and "ms_per_view" in said
    source, pictures, settings = online(file)
    cache = open_views(tmp_path, pictures, 16, quiet=True)
    cached, ids = CachedViews(cache.images, rows=cache.rows), torch.arange(7)
    for j in range(5):
        assert torch.equal(cached(ids, j), source(ids, j % 3))
    assert not torch.equal(source(ids, 0), source(ids, 1))
    for name in ("snapshot", "seed", "corruption", "rows", "filter"):
        assert cache.settings[name] == settings[name], name
    note = json.loads((tmp_path / "views-train.json").read_text())
    assert note["facts"]["ms_per_view"] > 0 and note["facts"]["torch"]
    part = [5, 2]
    of_part, pictures, _ = online(file, picked=part)
    cache = open_views(tmp_path, pictures, 16, quiet=True)
    rows = torch.arange(2)
    assert torch.equal(CachedViews(cache.images, rows=cache.rows)(rows, 1), of_part(rows, 1))


@pytest.mark.parametrize("format", FORMATS)
def test_a_stopped_command_goes_on(file, tmp_path, monkeypatch, format):
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(Preempted, match="SIGTERM: 4 of 7 .* goes on") as stop:
            generate(file, tmp_path / "a", "--format", format)
        assert stop.value.exit_code == 75
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # handlers given back
    generate(file, tmp_path / "a", "--format", format)
    generate(file, tmp_path / "b", "--format", format)
    pictures = evenly(open_source("scenes", "."), 7)
    a, b = (open_views(tmp_path / n, pictures, 16, verify=True, quiet=True) for n in "ab")
    assert torch.equal(a.images[a.rows], b.images[b.rows])


def test_a_signal_at_the_end_changes_nothing(file, tmp_path, monkeypatch):
    stop_after(monkeypatch, 7)
    generate(file, tmp_path, "--format", "memmap")
    assert (tmp_path / "views-train.json").exists()


def test_a_finished_cache_is_left_alone(file, tmp_path, monkeypatch):
    generate(file, tmp_path)
    files = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*.png")}
    monkeypatch.setattr(SCRIPT, "draw_rest", None)
    generate(file, tmp_path)
    assert {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*.png")} == files
    assert len(files) == 21


@pytest.mark.parametrize(
    "words, says",
    [
        (["--views", "2"], "--views 3 before, 2 now"),
        (["--temperature", "0.5"], "--temperature 1.0 before, 0.5 now"),
        (["--view_seed", "1"], "--view_seed 0 before, 1 now"),
        (["--lpips", "random", "--lpips_max", "9"], "--lpips_max"),
        (["--num_images", "5"], "--data or --num_images means"),
    ],
)
def test_other_settings_need_another_folder(file, tmp_path, words, says):
    generate(file, tmp_path, "--num_images", 3)
    with pytest.raises(Exception, match=says) as error:
        generate(file, tmp_path, "--num_images", 3, *words)
    assert error.value.exit_code == 6


def test_the_filter_of_the_command_is_that_of_training(file, tmp_path, capsys):
    source, pictures, _ = online(file, "--lpips", "random", "--lpips_max", "1000")
    assert isinstance(source, FilteredViews)
    ids = torch.arange(7)
    d = torch.stack([source._distances(source.source(ids, j), source.real) for j in range(3)])
    low, high = float(d.quantile(0.3)), float(d.quantile(0.7))
    words = ["--lpips", "random", "--lpips_min", low, "--lpips_max", high, "--tries", 2]
    generate(file, tmp_path, *words)
    said = capsys.readouterr().out
    assert "acceptance" in said and "stood_in" in said
    filtered, pictures, settings = online(file, *words)
    cache = open_views(tmp_path, pictures, 16, quiet=True)
    views = cache.images[cache.rows]
    for j in range(3):
        assert torch.equal(views[:, j], filtered(ids, j))
        again = filtered._distances(views[:, j].contiguous(), filtered.real)
        same = (views[:, j] == filtered.real).flatten(1).all(1)
        assert bool((same | ((again >= low) & (again <= high))).all())
    figures = filtered.take_counts().figures()
    facts = json.loads((tmp_path / "views-train.json").read_text())["facts"]
    assert facts["acceptance"] == figures["acceptance"] < 1
    assert facts["stood_in"] == figures["stood_in"]
    assert settings["filter"] == [low, high, 2, "random"]


def test_views_to_add_another_time(file, tmp_path):
    generate(file, tmp_path / "a", "--views", 4)
    generate(file, tmp_path / "b", "--views", 2, "--first", 2)
    a, b = (tmp_path / n / "train" for n in "ab")
    late = sorted(p.relative_to(b) for p in b.rglob("*.png"))
    assert len(late) == 14 and all("_aug2." in p.name or "_aug3." in p.name for p in late)
    assert all((a / p).read_bytes() == (b / p).read_bytes() for p in late)


def test_the_control_without_a_generator(file, tmp_path):
    generate(file, tmp_path, "--view_source", "upsampled", "--views", 2)
    source, pictures, _ = online(file, "--view_source", "upsampled")
    cache = open_views(tmp_path, pictures, 16, quiet=True)
    views = cache.images[cache.rows]
    assert torch.equal(views[:, 0], views[:, 1])
    assert torch.equal(views[:, 0], source(torch.arange(7), 0))


def test_smoke_needs_nothing(tmp_path, capsys):
    SCRIPT.main(get_args(None, ["--preset", "smoke", "--out", str(tmp_path)]))
    assert "untrained" in capsys.readouterr().out
    assert len(list(tmp_path.rglob("*_aug?.png"))) == 18


def test_what_is_not_there_is_named(file, tmp_path):
    with pytest.raises(Exception, match="no such file") as error:
        generate(tmp_path / "none.safetensors", tmp_path / "out")
    assert error.value.exit_code == 3
    with pytest.raises(Exception, match="VGG16 weights") as error:
        generate(file, tmp_path / "out", "--lpips_max", 1)
    assert error.value.exit_code == 2
    with pytest.raises(Exception, match="no data set") as error:
        generate(file, tmp_path / "out", "--data", "nothing_of_that_name")
    assert error.value.exit_code == 6
    assert not list((tmp_path / "out").rglob("*.png"))


def _rank(file, out):
    args = get_args(None, arguments(file, out, "--format", "memmap"))
    SCRIPT.generate(args, torch.device("cpu"), argparse.Namespace(is_set=False, signal=None))


def test_two_processes_share_the_work(file, tmp_path):
    gloo.run(2, _rank, file, tmp_path / "two")
    generate(file, tmp_path / "one", "--format", "memmap")
    two, one = ((tmp_path / n / "train.views.u8").read_bytes() for n in ("two", "one"))
    assert two == one


@pytest.mark.slow
def test_sigterm_to_the_real_command(file, tmp_path):
    words = ["--num_images", 3000, "--num_workers", 0, "--format", "memmap"]
    command = [sys.executable, ROOT / "generate_views.py", *arguments(file, tmp_path / "out")]
    command += [str(w) for w in words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    progress = tmp_path / "out" / "building-views-train.json"
    try:
        limit = time.monotonic() + 120
        while time.monotonic() < limit:
            if progress.exists() and json.loads(progress.read_text())["done"]:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75
    assert "the same command goes on" in said and "Traceback" not in said


# -------------------------------------------------------------- nothing is overwritten or mixed


@pytest.fixture
def photos(tmp_path):
    """a/photos and b/photos: other pictures under the same names."""
    for k, name in enumerate("ab"):
        folder = tmp_path / name / "photos"
        folder.mkdir(parents=True)
        for i in range(3):
            Image.fromarray(noise(10 * k + i)).save(folder / f"{i:03d}.png")
    return tmp_path


def content(folder):
    """{name: bytes} of all files but locks and notes of launches."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files if p.suffix != ".lock"}


def test_pictures_of_the_same_names_do_not_mix(file, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RESULTS_HOME", str(tmp_path / "results"))
    a, b = (str(photos / name / "photos") for name in "ab")
    common = ["--net", file, "--views", "1", "--gpus", "cpu", "--data"]
    for data in (a, b, a):
        SCRIPT.main(get_args(None, [*map(str, common), data]))
    folders = list((tmp_path / "results" / "generate_views").iterdir())
    assert len(folders) == 2 and capsys.readouterr().out.count("done already: 3 views in") == 1
    generate(file, tmp_path / "out", "--data", a)
    before = content(tmp_path / "out")
    with pytest.raises(DataError, match="--data means something else than before.*--overwrite"):
        generate(file, tmp_path / "out", "--data", b)
    with pytest.raises(DataError, match="--data photos before, scenes/train now"):
        generate(file, tmp_path / "out", "--data", "scenes")
    assert content(tmp_path / "out") == before
    # A version before did not tell them apart: its folders go on.
    note = tmp_path / "out" / "views-train.json"
    old = json.loads(note.read_text())
    old["plan"] = {k: v for k, v in old["plan"].items() if k not in ("data", "content")}
    note.write_text(json.dumps(old))
    generate(file, tmp_path / "out", "--data", a)


@pytest.mark.parametrize("after", FORMATS)
@pytest.mark.parametrize("before", FORMATS)
def test_overwriting_takes_the_noted_views_alone(file, photos, tmp_path, before, after):
    a, b = (photos / name / "photos" for name in "ab")
    out = tmp_path / "out"
    generate(file, out, "--data", a, "--format", before)
    (out / "train" / "photos").mkdir(parents=True, exist_ok=True)
    mine = {"train/photos/mine_aug0.png": b"own", "train/photos/000_aug7.png": b"own", "x": b"own"}
    for name, data in mine.items():
        (out / name).write_bytes(data)
    generate(file, out, "--data", b, "--format", after, "--overwrite")
    generate(file, tmp_path / "alone", "--data", b, "--format", after)
    source = open_source(str(b), ".")
    for folder in (out, tmp_path / "alone"):
        if after != "folder":
            assert open_views(folder, source, 16, quiet=True).images.shape[:2] == (3, 3)
    now, alone = content(out), content(tmp_path / "alone")
    assert now.keys() == alone.keys() | mine.keys()
    assert {name: now[name] for name in mine} == mine
    same = [name for name in alone if name.endswith((".png", ".u8"))]
    assert {name: now[name] for name in same} == {name: alone[name] for name in same}


def test_nothing_goes_before_all_is_open(file, photos, tmp_path):
    a, b = (photos / name / "photos" for name in "ab")
    generate(file, tmp_path / "out", "--data", a)
    before = content(tmp_path / "out")
    for words in (["--lpips_max", 1], ["--net", tmp_path / "none"], ["--data", tmp_path / "none"]):
        with pytest.raises(Exception, match="VGG16|none"):
            generate(file, tmp_path / "out", "--data", b, "--overwrite", *words)
        assert content(tmp_path / "out") == before
    (tmp_path / "foreign" / "train" / "photos").mkdir(parents=True)
    (tmp_path / "foreign" / "train" / "photos" / "000_aug1.png").write_bytes(b"own")
    for more in ([], ["--overwrite"]):
        with pytest.raises(DataError, match="another folder"):
            generate(file, tmp_path / "foreign", "--data", b, *more)
    assert [p.read_bytes() for p in (tmp_path / "foreign").rglob("*.png")] == [b"own"]


@pytest.mark.parametrize("format", FORMATS)
def test_an_interrupted_overwriting_is_taken_up(file, photos, tmp_path, format, monkeypatch):
    a, b = (photos / name / "photos" for name in "ab")
    words = ["--format", format, "--data"]
    for data in (a, b):
        generate(file, tmp_path / f"{data.parent.name}.views", *words, data)
    pixels = [
        open_views(tmp_path / f"{n}.views", open_source(str(data), "."), 16, quiet=True).images
        for n, data in (("a", a), ("b", b))
    ]
    for number in range(1, 20):  # killed at each step of it
        out = tmp_path / f"out{number}"
        shutil.copytree(tmp_path / "a.views", out)
        calls = []

        def stop(self, *args, calls=calls, number=number, unlink=Path.unlink, **kwargs):
            if self.name.startswith(".tmp-") or tmp_path not in self.parents:
                return unlink(self, *args, **kwargs)
            calls.append(self)
            if len(calls) == number:
                raise KeyboardInterrupt
            return unlink(self, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", stop)
            try:
                generate(file, out, *words, b, "--overwrite")
            except KeyboardInterrupt:
                pass
            else:
                break
        if number % 2:  # the former command makes whole what is left of its views
            with contextlib.suppress(DataError):  # the new ones were begun
                generate(file, out, *words, a)
                source = open_source(str(a), ".")
                assert torch.equal(open_views(out, source, 16, quiet=True).images, pixels[0])
        generate(file, out, *words, b, "--overwrite")
        source = open_source(str(b), ".")
        assert torch.equal(open_views(out, source, 16, quiet=True).images, pixels[1])
    assert 3 < number < 19


def test_views_do_not_become_a_part_of_the_data(file, photos):
    data = photos / "a" / "photos"
    with pytest.raises(DataError, match="--outdir .* lies in the data set"):
        generate(file, data / "views", "--data", data)
    assert not (data / "views").exists()


def test_views_of_a_single_picture(file, photos, tmp_path):
    picture = photos / "a" / "photos" / "001.png"
    generate(file, tmp_path / "out", "--data", picture)
    views = sorted(p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*.png"))
    assert [str(v) for v in views] == [f"train/001/001_aug{j}.png" for j in range(3)]
