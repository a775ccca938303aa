"""generate_views: snapshots as sources of views, and the command that keeps them."""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from data.registry import open_source
from data.sources import Subset, evenly
from data.uint8_cache import UInt8Cache
from data.views.generated import CachedViews, FilteredViews, GeneratedViews
from data.views.stored import FORMATS, open_views, root_ids
from imle import CAMNet, CodeGenerator, Corruption
from storage.errors import CheckpointError, Preempted, UsageError
from storage.snapshot import Snapshot, save_snapshot
from tests import gloo
from tests.scripts.support import ROOT, load

SCRIPT = load("generate_views")
RES, LAST = [8, 16, 32], 32


def network(seed=0, **options):
    torch.manual_seed(seed)
    return CAMNet(
        res=RES, resid_nc=[6, 6], dense_nc=[4, 4], n_blocks=1, map_nc=4, latent_nc=8, **options
    )


def snapshot(seed=0, codes=None, corruption=None, **options):
    net = network(seed, **options)
    config = {"net": net.config, "codes": codes or {}, "corruption": corruption or {}}
    return Snapshot(net.state_dict(), "camnet", {**config, "crop": "squash"}, {"step": 1})


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    made = snapshot(corruption={"grayscale": 1, "mask_frac": 0.25, "mask_res": 4})
    return save_snapshot(tmp_path_factory.mktemp("net") / "net.safetensors", *made)


def inputs(n=6):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 3, RES[0], RES[0], generator=generator)


IDS = torch.tensor([3, 0, 5, 3, 9, 2])
DRAWS = torch.tensor([0, 1, 2, 3, 4, 1 << 40])


# ------------------------------------------------------------------------------------- the sampler


@pytest.mark.parametrize("size, levels", [(32, 2), (16, 1), (12, 1), (20, 2), (40, 2), (None, 2)])
def test_images_are_the_network_s_at_the_encoder_s_size(size, levels):
    made, x = snapshot(), inputs()
    sampler = SCRIPT.view_sampler(made, size=size, channels_last=False)
    assert (sampler.size, sampler.input_size) == (size or LAST, RES[0])
    assert sampler.levels == levels and len(sampler._net.stages) == levels  # and no more
    net = network().eval()
    z = CodeGenerator(net.code_sizes)
    codes = [
        torch.stack(
            [
                z.draw(level, -4, IDS[b : b + 1], DRAWS[b : b + 1])[0]  # one picture at a time
                for b in range(len(IDS))
            ]
        )
        for level in range(levels)
    ]
    with torch.no_grad():
        expected = net(x, codes, loi=levels - 1)
    if size not in (None, expected.shape[-1]):
        shrinks = expected.shape[-1] > size
        expected = torch.nn.functional.interpolate(
            expected, size=(size, size), mode="bicubic", antialias=shrinks
        )
    got = sampler.sample(x, IDS, DRAWS)
    assert got.shape[-1] == sampler.size
    assert torch.allclose(got, expected, atol=1e-4)
    assert not torch.equal(got, sampler.sample(x, IDS, DRAWS + 1))


def test_precision_and_layout_change_little():
    x = inputs()
    plain = SCRIPT.view_sampler(snapshot(), size=32, channels_last=False).sample(x, IDS, DRAWS)
    for precision, layout, tolerance in (("fp32", True, 1e-4), ("bf16", True, 0.05)):
        sampler = SCRIPT.view_sampler(
            snapshot(), size=32, precision=precision, channels_last=layout
        )
        assert (sampler.sample(x, IDS, DRAWS) - plain).abs().max() < tolerance
    assert not torch.equal(sampler.sample(x, IDS, DRAWS), plain)  # bf16 it was


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_view_does_not_depend_on_the_batch(precision, channels_last):
    sampler = SCRIPT.view_sampler(
        snapshot(), size=32, precision=precision, channels_last=channels_last
    )
    pictures = (inputs(19) * 255).byte()
    source = GeneratedViews(pictures, sampler, rows=8)
    ids = torch.arange(19)
    whole = source(ids, 3)
    order = torch.randperm(19, generator=torch.Generator().manual_seed(0))
    assert torch.equal(source(order, 3), whole[order])
    for size in (1, 5, 8):
        assert torch.equal(torch.cat([source(part, 3) for part in ids.split(size)]), whole)
    wide = source(ids.repeat(2), torch.tensor([3, 4]).repeat_interleave(19))
    assert torch.equal(wide[:19], whole)


def test_the_input_is_corrupted_alike_whatever_the_draw():
    own = {"grayscale": 0.5, "mask_frac": 0.5, "mask_res": 4, "fill": "color"}
    x = inputs()
    sampler = SCRIPT.view_sampler(snapshot(corruption=own), size=16, seed=3)
    expected = Corruption(**own, seed=3).keyed(x, -4, IDS)
    assert torch.equal(sampler.corrupt(x, IDS), expected)
    assert not torch.equal(expected[0], expected[3])  # the same id, another picture
    other = SCRIPT.view_sampler(snapshot(corruption=own), size=16, corruption={"mask_frac": 0.0})
    assert torch.equal(
        other.corrupt(x, IDS), Corruption(**{**own, "mask_frac": 0.0}).keyed(x, -4, IDS)
    )
    coarse = SCRIPT.view_sampler(snapshot(), size=16, lr_factor=4).corrupt(x, IDS)
    assert coarse.shape == x.shape and coarse.std((2, 3)).mean() < 0.5 * x.std((2, 3)).mean()


def test_temperature_truncation_and_the_fixed_code():
    x = inputs()
    cold = SCRIPT.view_sampler(snapshot(), size=16, temperature=0.0)
    assert torch.equal(cold.sample(x, IDS, DRAWS), cold.sample(x, IDS, DRAWS + 7))
    half = SCRIPT.view_sampler(snapshot(), size=16, temperature=0.5)
    plain = SCRIPT.view_sampler(snapshot(), size=16)
    assert torch.equal(half.codes(0, IDS, DRAWS), 0.5 * plain.codes(0, IDS, DRAWS))
    bounded = SCRIPT.view_sampler(snapshot(), size=16, truncation=0.8, temperature=0.5)
    assert bounded.codes(0, IDS, DRAWS).abs().max() <= 0.4
    fixed = SCRIPT.view_sampler(snapshot(), size=16, code="fixed")
    z = fixed.codes(0, IDS, DRAWS)
    assert bool((z == z[0]).all()) and z.std() > 0.5
    assert torch.equal(fixed.sample(x, IDS, DRAWS), fixed.sample(x, IDS + 1, DRAWS + 1))


def test_truncated_normals_have_their_distribution():
    z = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    for bound in (0.5, 1.0, 2.0, 5.0):
        t = SCRIPT.truncated(z, bound)
        density = math.exp(-bound * bound / 2) / math.sqrt(2 * math.pi)
        variance = 1 - 2 * bound * density / math.erf(bound / math.sqrt(2))
        assert t.abs().max() <= bound
        assert abs(float(t.var()) - variance) < 0.01 and abs(float(t.mean())) < 0.01
        assert bool((t.sort().values == t[z.argsort()]).all())
    assert torch.allclose(SCRIPT.truncated(z, 30.0), z, atol=1e-4)


def test_mixtures_can_be_drawn_but_not_truncated():
    mixed = snapshot(codes={"method": "mixture", "num_components": 3})
    sampler = SCRIPT.view_sampler(mixed, size=16)
    z = CodeGenerator(network().code_sizes, method="mixture", num_components=3)
    assert torch.equal(sampler.codes(0, IDS, DRAWS), z.draw(0, -4, IDS, DRAWS[:, None]))
    with pytest.raises(UsageError, match="mixture"):
        SCRIPT.view_sampler(mixed, size=16, truncation=1.0)


def test_update_takes_the_weights_of_the_moment():
    net, x = network(), inputs()
    sampler = SCRIPT.CAMNetSampler(net, 16)
    before = sampler.sample(x, IDS, DRAWS)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1.1)
    assert torch.equal(sampler.sample(x, IDS, DRAWS), before)
    sampler.update(net)
    after = sampler.sample(x, IDS, DRAWS)
    assert not torch.equal(after, before)
    assert torch.equal(after, SCRIPT.CAMNetSampler(net, 16).sample(x, IDS, DRAWS))


@pytest.mark.parametrize(
    "options, says",
    [
        ({"code": "one"}, "code"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"truncation": 0.0}, "truncation"),
        ({"lr_factor": 3}, "lr_factor 3"),
        ({"corruption": {"grayscale": 2}}, "grayscale"),
        ({"corruption": {"mask_frac": 0.5, "mask_res": 16}}, "mask_res 16"),
        ({"precision": "fp16"}, "fp16"),
    ],
)
def test_settings_that_cannot_be(options, says):
    with pytest.raises(UsageError, match=says):
        SCRIPT.view_sampler(snapshot(), size=16, **options)


def test_snapshots_that_cannot_serve(monkeypatch):
    with pytest.raises(CheckpointError, match="'edm2' snapshot .* camnet"):
        SCRIPT.view_sampler(Snapshot({}, "edm2", {}, {}), size=16)
    broken = snapshot()
    name = next(iter(broken.state_dict))
    broken.state_dict[name].view(-1)[0] = math.nan
    with pytest.raises(CheckpointError, match="no finite weights"):
        SCRIPT.view_sampler(broken, size=16)
    other = snapshot(feedback="none")
    with pytest.raises(UsageError, match="RGB"):
        SCRIPT.view_sampler(other, size=16)
    missing = snapshot()
    missing.state_dict.popitem()
    with pytest.raises(CheckpointError, match="does not fit"):
        SCRIPT.view_sampler(missing, size=16)


def test_another_generator_is_one_entry(monkeypatch):
    class Plain:
        size, image_size, input_size = 4, 4, 4

        def sample(self, inputs, ids, draw):
            return inputs

        def corrupt(self, inputs, ids):
            return inputs

    monkeypatch.setitem(SCRIPT.SAMPLERS, "plain", lambda snapshot, **options: Plain())
    sampler = SCRIPT.view_sampler(Snapshot({}, "plain", {}, {}), size=4)
    pictures = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    args = SCRIPT.get_args(["--preset", "smoke"])
    source = SCRIPT.view_source(args, sampler, pictures)
    assert torch.equal(source(torch.arange(5), 0), pictures)


# ------------------------------------------------------------------------------------- the command


def arguments(file, out, *words):
    return [str(w) for w in (
        "--net", file, "--data", "scenes", "--num_images", 7, "--views", 3, "--size", 16,
        "--view_batch", 6, "--gpus", "cpu", "--out", out, *words,
    )]  # fmt: skip


def generate(file, out, *words):
    SCRIPT.main(SCRIPT.get_args(arguments(file, out, *words)))


def online(file, *words, keys=None, picked=None):
    """The source of views that a training script would make, and its pictures."""
    args = SCRIPT.get_args(arguments(file, "unused", *words))
    source = evenly(open_source("scenes", "."), 7)  # as training takes --num_images
    source = source if picked is None else Subset(source, picked)
    sampler, settings = SCRIPT.open_generator(args, 16, torch.device("cpu"), lambda line: None)
    small, real = (UInt8Cache(source, s, quiet=True).images for s in (8, 16))
    return SCRIPT.view_source(args, sampler, small, real, root_ids(source)), source, settings


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
        (["--views", "2"], "k 3, now 2"),
        (["--temperature", "0.5"], "temperature 1.0, now 0.5"),
        (["--view_seed", "1"], "seed 0, now 1"),
        (["--lpips", "random", "--lpips_max", "9"], "filter"),
        (["--num_images", "5"], "pictures"),
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
    SCRIPT.main(SCRIPT.get_args(["--preset", "smoke", "--out", str(tmp_path)]))
    assert "untrained" in capsys.readouterr().out
    assert len(list(tmp_path.rglob("*_aug?.png"))) == 18


@pytest.mark.parametrize(
    "words, says",
    [
        (["--data", "scenes"], "--net"),
        (["--net", "x"], "--data"),
        (["--net", "x", "--data", "d", "--lpips_min", "2", "--lpips_max", "1"], "lpips_min 2"),
        (["--net", "x", "--data", "d", "--views", "0"], "views"),
        (["--net", "x", "--data", "d", "--format", "zip"], "format"),
    ],
)
def test_wrong_arguments_are_one_line(words, says, capsys):
    with pytest.raises(SystemExit) as stop:
        SCRIPT.get_args(words)
    assert stop.value.code == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(said) == 1 and says in said[0]


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


@pytest.mark.parametrize("views, rows", [(8, 64), (7, 64), (3, 6), (100, 64), (5, 1), (1, 64)])
def test_turns_fill_batches(views, rows):
    pictures = SCRIPT.pictures_at_once(views, rows)
    assert pictures >= 1 and pictures * views <= 8 * max(views, rows)
    if pictures * views % rows:  # only where whole batches would have been too many
        assert math.lcm(views, rows) > 8 * max(views, rows)


def _rank(file, out):
    args = SCRIPT.get_args(arguments(file, out, "--format", "memmap"))
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
