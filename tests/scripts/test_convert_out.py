"""convert.py --to: what is written computes what the network does, without this toolkit."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from data.views.recipes import Recipe
from diffusion import Precond, toy
from diffusion.ddpm_generate import Drawing, draw_states
from diffusion.guidance import guided
from diffusion.samplers import SeedStack, heun
from diffusion.toy_eval import sample
from generators import ddpm, omnigan
from generators.base import Setup
from generators.door import make_generator, open_generator
from generators.files import open_network
from generators.imle import SAMPLING_LOOP
from imle import CAMNet, CodeGenerator, UnconditionalGenerator
from models import SimCLR
from models.ddpm import Layout, UNet
from recipes.convert import programs_ddpm, programs_omnigan
from recipes.convert.exported import difference, traced
from recipes.convert.options import get_args
from recipes.convert.targets import TARGETS, can_be_made
from recipes.simclr.encoder import Encoder
from runtime.counter_rng import mix, randint, uniform
from storage.errors import CheckpointError, UsageError
from storage.snapshot import Snapshot, load_snapshot, save_snapshot
from tests.golden.support import Vectors
from tests.scripts.support import ROOT, load

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def convert(*words: object) -> None:
    load("convert").main(get_args(None, [str(word) for word in words]))


def camnet(codes=None, corruption=None, **options) -> Snapshot:
    torch.manual_seed(0)
    small = dict(res=[8, 16], resid_nc=[4], dense_nc=[4], n_blocks=1, map_nc=4, latent_nc=8)
    net = CAMNet(**{**small, **(corruption or {}), **options})
    config = {"net": net.config, "codes": codes or {}, "corruption": corruption or {}}
    return Snapshot(net.state_dict(), "camnet", config, {"args": {"seed": 3}})


def unconditional() -> Snapshot:
    torch.manual_seed(0)
    net = UnconditionalGenerator(8, z_nc=4, latent_nc=8, map_layers=1, channels=[8, 8], out_nc=1)
    return Snapshot(net.state_dict(), "imle-unconditional", {"net": net.config, "codes": {}}, {})


def edm2(seed=0) -> Snapshot:
    torch.manual_seed(seed)
    net = Precond(
        8, 3, 4, model_channels=8, channel_mult=[1], num_blocks=1, attn_resolutions=[8],
        channels_per_head=8,
    )  # fmt: skip
    for name, parameter in net.named_parameters():
        if name.endswith("gain"):
            nn.init.ones_(parameter)
    config = {"net": net.config, "encoder": {"name": "rgb"}, "classes": list("abcd"), "nimg": 64}
    return Snapshot(net.state_dict(), "edm2", config, {})


def points(seed=0) -> Snapshot:
    torch.manual_seed(seed)
    net = toy.ToyModel(hidden_dim=8, num_layers=2)
    nn.init.constant_(net.gain, 0.1)  # more, and points run away, which enlarges rounding
    return Snapshot(net.state_dict(), "edm2-toy", {"net": net.config}, {})


def encoder(stem="small", picture_size=24) -> Snapshot:
    torch.manual_seed(0)
    net = SimCLR(stem=stem, resolution=16, proj_hidden=8, proj_dim=4)
    recipe = Recipe(16, mean=MEAN, std=STD)._asdict()
    config = {"net": net.config, "recipe": recipe, "picture_size": picture_size, "epoch": 1}
    return Snapshot(net.state_dict(), "simclr", config, {"step": 7})


def written(folder: Path, name: str, snapshot: Snapshot, to: str, *words: object) -> Path:
    file = save_snapshot(folder / f"{name}.safetensors", *snapshot)
    out = folder / f"{name}{TARGETS[to].ending or '-out'}"
    convert(file, "--to", to, "--out", out, *words)
    return out


def pictures(n, side):
    random = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (n, 3, side, side), generator=random, dtype=torch.uint8)


# ------------------------------------------------------------------------------------------ pt2

ALONE = """
import sys
sys.path.append(sys.argv[1])  # without `site`, so that an editable install of the toolkit is not seen
import torch
for name in ("imle", "models", "diffusion", "generators", "recipes", "storage", "runtime", "data"):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"the toolkit's {name} can be imported")
cases = torch.load("cases.pt", weights_only=True)
for name, (inputs, wanted) in cases.items():
    program = torch.export.load(f"{name}.pt2").module()
    with torch.no_grad():
        found = program(*inputs)
        one = program(*(x[:1] for x in inputs))
    assert found.dtype == wanted.dtype and found.shape == wanted.shape, name
    assert torch.allclose(one.double(), found[:1].double(), atol=1 if one.dtype == torch.uint8 else 1e-4), name
    apart = (found.double() - wanted.double()).abs()
    print(name, float(apart.max()), float((apart > 0).double().mean()), float(wanted.double().abs().max()))
"""  # noqa: E501


def normals(snapshot, sizes, n, seed):
    """Codes as `draw` has them, of input 0."""
    z = CodeGenerator(sizes, seed=seed, **snapshot.config["codes"])
    ids = torch.zeros(1, dtype=torch.int64)
    return [z.draw(i, SAMPLING_LOOP, ids, torch.arange(n)) for i in range(len(sizes))]


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("imle", "guided")]


@pytest.mark.parametrize("which", ["edm2", *SLOW])
def test_programs_run_where_the_toolkit_cannot_be_imported(tmp_path, which):
    """Against what the toolkit itself draws or encodes."""
    cases = {}
    n, shown = 3, pictures(1, 8)
    if which == "imle":
        made = camnet(base="input", consistency="project", padding="reflect")
        written(tmp_path, "camnet", made, "pt2")
        drawn = make_generator(made).draw(n, seed=4, inputs=shown.float() / 255)
        codes = normals(made, make_generator(made).code_sizes, n, 4)
        cases["camnet"] = [shown.expand(n, -1, -1, -1).contiguous(), *codes], drawn
        made = unconditional()
        written(tmp_path, "unconditional", made, "pt2")
        codes = normals(made, make_generator(made).code_sizes, n, 4)
        cases["unconditional"] = codes, make_generator(made).draw(n, seed=4)
        written(tmp_path, "encoder", encoder(), "pt2")
        rows = pictures(n, 24)
        cases["encoder"] = [rows], Encoder.of(encoder())(rows)
    elif which == "guided":
        guide = save_snapshot(tmp_path / "guide.safetensors", *edm2(1))
        written(tmp_path, "edm2", edm2(), "pt2", "--steps", 3, "--guide", guide, "--guidance", 2)
        drawn = make_generator(edm2()).draw(
            n, seed=4, labels=[1, 3, 0], guide=open_generator(guide), guidance=2.0,
            sampler=partial(heun, steps=3),
        )  # fmt: skip
        cases["edm2"] = [SeedStack([4, 5, 6]).randn(3, 8, 8), torch.tensor([1, 3, 0])], drawn
    else:
        labels, noise, net = [1, 3, 0], torch.randn(n, 3, 8, 8), make_generator(edm2())
        written(tmp_path, "denoiser", edm2(), "pt2", "--program", "denoiser")
        sigma = torch.tensor([0.1, 1.0, 30.0])
        onehot = nn.functional.one_hot(torch.tensor(labels), 4).float()
        onehot[2] = 0  # "no class"
        wanted = net.net(noise * sigma.view(-1, 1, 1, 1), sigma, onehot)
        noisy = noise * sigma.view(-1, 1, 1, 1)
        cases["denoiser"] = [noisy, sigma, torch.tensor([1, 3, -1])], wanted
        weak = save_snapshot(tmp_path / "weak.safetensors", *points(1))
        written(tmp_path, "toy", points(), "pt2", "--steps", 4, "--guide", weak, "--guidance", 2)
        start = torch.randn(n, 2, generator=torch.Generator().manual_seed(4))
        nets = [make_generator(points(seed)).net.denoise for seed in (0, 1)]
        denoise = guided(*nets, 2.0)
        cases["toy"] = [start], sample(denoise, start * toy.SIGMA_MAX, steps=4)
    torch.save(cases, tmp_path / "cases.pt")
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", ALONE, Path(torch.__file__).parent.parent],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:] + ran.stdout
    said = [line.split() for line in ran.stdout.splitlines()]
    assert {line[0] for line in said} == set(cases)
    for name, worst, share, size in said:
        if cases[name][1].dtype == torch.uint8:  # rounding may fall on the other side
            assert float(worst) <= 1 and float(share) <= 1e-2, (name, worst, share)
        else:
            assert float(worst) <= 1e-5 * max(1.0, float(size)), (name, worst)


def test_a_program_of_ddpm_draws_as_its_generator():
    """DDIM and the denoiser against the samplers; the denoiser as torch.export traces it."""
    net = make_generator(ddpm.untrained(), Setup(precision="fp32"))
    noise, classes = torch.randn(3, 3, 16, 16), torch.tensor([0, 2, -1])
    program = programs_ddpm.program(net, "images", 4)
    with torch.no_grad():
        _, states = draw_states(net.net, noise, net.gaussian, Drawing(), cond={"y": classes})
        _, few = draw_states(net.net, noise, net.gaussian, Drawing(steps=4), cond={"y": classes})
        *_, last = few
        assert torch.equal(program.module(noise, classes), net.encoder.decode(last.x))
        first = next(iter(states))
        clean = programs_ddpm.program(net, "denoiser", 4)
        found = clean.module(noise, torch.full((3,), 49), classes).clamp(-1, 1)
    assert (found - first.x0).abs().max() <= 1e-5
    fixed = clean._replace(module=clean.module.eval().requires_grad_(False))
    assert "at most" in difference(fixed, traced(fixed).module())


BESIDE = {
    "gray": dict(kind="gray"),
    "lowres": dict(kind="lowres", factor=4),
    "segmentation": dict(kind="segmentation", classes=list("abc")),
}


def ddpm_given(concat: str = "none", layout: str = "none") -> Snapshot:
    """A network of 16 px that is given something beside noise, of random weights."""
    torch.manual_seed(0)
    wide = {"gray": 1}.get(concat, 3) if concat != "none" else 0
    attention = {"boxes": "layout_partial_v2"}.get(layout, layout)
    more = dict(layout_attn_type=attention, layout_classes=4, layout_attn_resolutions=[1, 2])
    net = UNet(
        3, 3, model_channels=16, channel_mult=(1, 2), num_res_blocks=1, concat_channels=wide,
        **(more if layout != "none" else {}),
    )  # fmt: skip
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    config = dict(ddpm.untrained().config, net=net.config, classes=[], layout=layout)
    config |= dict(concat=BESIDE.get(concat, {}), objects=list("abcd") if layout != "none" else [])
    return Snapshot(net.state_dict(), "ddpm", config, {"args": {"max_objects": 3}})


def places(layout):
    """Two layouts: of boxes, the second of one; of pixels' classes, some of none."""
    if layout == "boxes":
        rows = torch.tensor([[[0.1, 0.2, 0.5, 0.5, 1], [0.3, 0.3, 0.6, 0.4, 3]],
                             [[0.0, 0.0, 1.0, 0.4, 2], [0.0, 0.0, 0.0, 0.0, -1]]])  # fmt: skip
        rows = nn.functional.pad(rows, (0, 0, 0, 1), value=-1)  # of three
        return [rows[..., :4], rows[..., 4].long()]
    maps = torch.arange(256).view(1, 16, 16).repeat(2, 1, 1) // 7 % 4
    maps[1, :4] = 255
    return [maps]


@pytest.mark.parametrize(
    ("concat", "layout", "word"),
    [
        ("gray", "none", "denoiser"),
        ("segmentation", "segmentation", "denoiser"),
        ("lowres", "boxes", "denoiser"),
        pytest.param("lowres", "boxes", "images", marks=pytest.mark.slow),
        pytest.param("segmentation", "segmentation", "images", marks=pytest.mark.slow),
    ],
)
def test_what_ddpm_is_given_is_an_input(concat, layout, word):
    """A picture or a map beside, boxes, classes of pixels: drawn and denoised as the network."""
    net = make_generator(ddpm_given(concat, layout), Setup(precision="fp32"))
    noise = torch.randn(2, 3, 16, 16)
    maps = places("segmentation")[0]  # here of three classes
    shown = maps.where(maps == 255, maps % 3) if concat == "segmentation" else pictures(2, 16)
    inputs, cond = [shown], {"concat": net.beside(shown)}
    if layout != "none":
        inputs += places(layout)
        boxes = layout == "boxes"
        cond["layout"] = Layout(*inputs[1:]) if boxes else net.labelled(inputs[1])
    clean = programs_ddpm.program(net, "denoiser", 3)
    with torch.no_grad():
        _, states = draw_states(net.net, noise, net.gaussian, Drawing(), cond=cond)
        start = [noise, torch.full((2,), 49)]
        x0 = clean.module(*start, *inputs)
        assert (x0.clamp(-1, 1) - next(iter(states)).x0).abs().max() <= 1e-5
        for k in range(len(inputs)):  # each of them matters
            others = [x.flip(0) if i == k else x for i, x in enumerate(inputs)]
            assert (clean.module(*start, *others) - x0).abs().max() > 1e-4, k
        made = programs_ddpm.program(net, word, 3)
        made = made._replace(module=made.module.eval().requires_grad_(False))
        program = traced(made).module()
        assert "at most" in difference(made, program)
        if word == "images":
            _, few = draw_states(net.net, noise, net.gaussian, Drawing(steps=3), cond=cond)
            *_, last = few
            found, drawn = program(noise, *inputs).int(), net.encoder.decode(last.x).int()
            assert (found - drawn).abs().max() <= 1 and (found != drawn).float().mean() <= 1e-2


def test_programs_of_omnigan_draw_and_see_as_their_generator(tmp_path):
    """A file of --domain n, and what the decoders see; the other ones as torch.export traces."""
    made, rows = omnigan.untrained(), pictures(3, 32)
    net = make_generator(made, Setup(precision="fp32"))
    program = torch.export.load(written(tmp_path, "o", made, "pt2", "--domain", "n")).module()
    assert torch.equal(program(rows), net.draw(1, inputs=rows.float() / 255, to="n"))
    assert not torch.equal(program(rows), net.draw(1, inputs=rows.float() / 255))
    seen = net.see(rows.float() / 255)
    for word, task in programs_omnigan.TASKS.items():
        one = programs_omnigan.program(net, word, "f")
        one = one._replace(module=one.module.eval().requires_grad_(False))
        found = traced(one).module()(rows)
        assert found.shape[1:] == one.output.shape and found.dtype == one.output.dtype
        assert (found - seen[task]).abs().max() <= 1e-6, word
    with pytest.raises(UsageError, match="--domain f is of --program translate"):
        written(tmp_path, "x", made, "pt2", "--program", "water", "--domain", "f")
    net.net.bits = "domain"
    with pytest.raises(UsageError, match="--domain f: .* is told one of rf, rn, sf, sn"):
        programs_omnigan.program(net, "translate", "f")


def test_what_is_taken_away_is_an_input(tmp_path):
    """Holes, colours, the kept channel and the mixture's component: as the keyed corruption's."""
    corruption = dict(mask_frac=0.3, mask_res=4, fill="color", grayscale=0.5)
    made = camnet(codes=dict(method="mixture", num_components=3), corruption=corruption)
    program = torch.export.load(written(tmp_path, "camnet", made, "pt2")).module()
    generator, shown, seed = make_generator(made), pictures(2, 8), 3
    drawn = generator.draw(1, seed=seed, inputs=shown.float() / 255)
    ids = torch.arange(2)
    keys = mix(seed, 0x636F7272, SAMPLING_LOOP, ids)
    ranks = uniform(keys, 16, stream=0).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    z = CodeGenerator(generator.code_sizes, seed=seed, **made.config["codes"])
    component = torch.zeros(2, dtype=torch.int64)  # `draw_samples` shows them in turn
    (code,) = [
        z.draw(i, SAMPLING_LOOP, ids, torch.zeros(1, dtype=torch.int64), components=component)
        for i in range(z.levels)
    ]
    code = (code - z.means(0)[component]) / (1 - z.mixture_scale**2) ** 0.5
    found = program(
        shown, code, component, randint(keys, 1, 3, stream=1)[:, 0],
        (ranks < 5).view(2, 4, 4), uniform(keys, 48, stream=2).view(2, 3, 4, 4),
    )  # fmt: skip
    apart = (found.int() - drawn.int()).abs()
    assert apart.max() <= 1 and (apart > 0).float().mean() <= 1e-2


@pytest.mark.slow
def test_colour_of_the_code_release_is_a_program_too(tmp_path):
    """feedback none, head ab: a picture in, RGB out."""
    made = camnet(in_nc=1, out_nc=2, head="ab", feedback="none", res=[8, 8])
    program = torch.export.load(written(tmp_path, "camnet", made, "pt2")).module()
    generator, shown = make_generator(made), pictures(1, 8)
    drawn = generator.draw(2, seed=4, inputs=shown.float() / 255)
    codes = normals(made, generator.code_sizes, 2, 4)
    found = program(shown.expand(2, -1, -1, -1).contiguous(), *codes)
    assert found.shape == (2, 3, 8, 8) and (found.int() - drawn.int()).abs().max() <= 1


def test_a_program_tells_of_itself_and_not_of_the_machine(tmp_path, capsys):
    out = written(tmp_path, "encoder", encoder(), "pt2", "--program", "projection")
    said = capsys.readouterr().out
    assert "at most" in said and 'torch.export.load("encoder.pt2")' in said
    extra = {"imle_lab.json": ""}
    program = torch.export.load(out, extra_files=extra).module()
    told = json.loads(extra["imle_lab.json"])
    assert (told["kind"], told["program"]) == ("simclr", "projection")
    assert told["inputs"]["pictures"]["shape"] == ["N", 3, 24, 24]
    assert told["source"]["file"] == "encoder.safetensors" and told["source"]["step"] == 7
    assert "resized to 16" in told["preprocessing"] and told["output"]["shape"] == ["N", 4]
    rows = pictures(2, 24)
    wanted = Encoder.of(encoder())
    z = wanted.net.projector(wanted.net.features(wanted.prepare(rows)))
    assert (program(rows) - z).abs().max() <= 1e-5 * z.abs().max().clamp_min(1)
    with zipfile.ZipFile(out) as archive:
        for name in archive.namelist():
            data = archive.read(name)
            assert str(tmp_path).encode() not in data, name
            assert b"site-packages" not in data and b"recipes/convert" not in data, name
    convert(out)
    assert "torch.export program: projection of a 'simclr' network" in capsys.readouterr().out
    with pytest.raises(UsageError, match="given out already, a torch.export program.*not come in"):
        convert(out, "--to", "snapshot", "--out", tmp_path / "again.safetensors")


def test_nothing_is_written_of_a_program_that_differs(tmp_path, monkeypatch):
    """It is tried before it gets its name."""
    import recipes.convert.to_pt2 as to_pt2

    file = save_snapshot(tmp_path / "toy.safetensors", *points())
    other = points()
    other.state_dict["gain"] += 0.1
    saved = torch.export.save

    def save(made, file, **more):
        made.state_dict.clear()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.export, "save", save)
    with pytest.raises(Exception, match="cannot write .*No space left"):
        convert(file, "--to", "pt2", "--program", "denoiser")
    monkeypatch.setattr(torch.export, "save", saved)

    def worse(program, run, *rest):
        return difference(program, lambda *inputs: run(*inputs) + 1e-3, *rest)

    difference = to_pt2.difference
    monkeypatch.setattr(to_pt2, "difference", worse)
    with pytest.raises(CheckpointError, match="off the network on 1 rows"):
        convert(file, "--to", "pt2", "--program", "denoiser")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["toy.safetensors"]


@pytest.mark.parametrize(
    ("made", "words", "why"),
    [
        (encoder, ["--program", "denoiser"], "has: features, projection"),
        (encoder, ["--steps", "3"], "of --program images of EDM2 and DDPM"),
        (unconditional, ["--guide", "g.safetensors", "--guidance", "2"], "is not guided"),
        (edm2, ["--program", "denoiser", "--steps", "3"], "of --program images of EDM2 and DDPM"),
    ],
)
def test_a_program_that_a_kind_has_not_is_refused(tmp_path, made, words, why):
    with pytest.raises(UsageError, match=why):
        written(tmp_path, "x", made(), "pt2", *words)
    assert not list(tmp_path.glob("x.pt2"))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--program", "denoiser"], "of --to pt2 or onnx"),
        (["--to", "safetensors", "--steps", "3"], "of --to pt2 or onnx"),
        (["--to", "pt2", "--guidance", "2"], "needs --guide"),
        (["--to", "pt2", "--guide", "x"], "needs --guidance"),
    ],
)
def test_options_without_effect_are_refused(words, why, capsys):
    with pytest.raises(SystemExit):
        get_args(None, ["x.safetensors", *words])
    assert why in capsys.readouterr().err


# ----------------------------------------------------------------------------------------- onnx


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (points, ["--program", "denoiser"]),
        pytest.param(unconditional, [], marks=pytest.mark.slow),
        pytest.param(lambda: camnet(base="input"), [], marks=pytest.mark.slow),
        pytest.param(encoder, [], marks=pytest.mark.slow),
        pytest.param(edm2, ["--steps", "3"], marks=pytest.mark.slow),
    ],
)
def test_onnx_is_tried_by_its_runtime(tmp_path, capsys, made, words):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    import onnx
    import onnxruntime

    out = written(tmp_path, "x", made(), "onnx", *words)
    assert "tried on batches of 1 and 3" in capsys.readouterr().out
    told = json.loads({p.key: p.value for p in onnx.load(out).metadata_props}["imle_lab.json"])
    run = onnxruntime.InferenceSession(str(out))
    assert [x.name for x in run.get_inputs()] == list(told["inputs"])
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".tmp")] == []


def test_onnx_without_its_packages_says_which(tmp_path, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install onnx onnxscript"):
        written(tmp_path, "x", points(), "onnx")


# ------------------------------------------------------------------------------------ weights alone


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("stem", ["small", "standard"])
def test_torchvision_computes_the_features(tmp_path, stem, ending, capsys):
    """By torchvision's own class and the printed lines, and in again."""
    import torchvision
    from safetensors.torch import load_file

    made = encoder(stem, 16)
    file = save_snapshot(tmp_path / "e.safetensors", *made)
    out = tmp_path / f"net{ending}"
    convert(file, "--to", "torchvision", "--out", out)
    said = capsys.readouterr().out
    line = next(x for x in said.splitlines() if x.startswith("without this toolkit: "))
    code = line.removeprefix("without this toolkit: ").replace("FILE", "out")
    names = {"torch": torch, "torchvision": torchvision, "out": out}
    code = code.replace("safetensors.torch.load_file", "load_file")
    exec(code, names | {"load_file": load_file}, found := {})
    rows, wanted = pictures(3, 16), Encoder.of(made)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    with torch.no_grad():
        h = found["net"]((rows / 255 - mean) / std)
    assert (h - wanted(rows)).abs().max() <= 1e-5
    back = open_network(out, lambda line: None)
    assert back.kind == "simclr" and back.config["net"]["stem"] == stem
    assert back.config["net"]["head"] == "none"
    for name, value in back.state_dict.items():
        assert torch.equal(value, made.state_dict[name]), name


@pytest.mark.parametrize("made", [camnet, unconditional, edm2, points, encoder])
def test_plain_safetensors_come_in_again(tmp_path, made, capsys):
    from safetensors import safe_open

    before = made()
    out = written(tmp_path, "x", before, "safetensors")
    with safe_open(out, framework="pt") as file:
        assert file.metadata()["format"] == "pt"  # what transformers and diffusers ask for
        assert set(file.keys()) == set(before.state_dict)
    convert(out)
    assert f"plain weights of a '{before.kind}' network" in capsys.readouterr().out
    again = tmp_path / "again.safetensors"
    convert(out, "--to", "snapshot", "--out", again)
    after = load_snapshot(again)
    assert (after.kind, after.config) == (before.kind, json.loads(json.dumps(before.config)))
    for name, value in before.state_dict.items():
        assert torch.equal(after.state_dict[name], value.detach()), name
    if before.kind == "edm2":
        images = [make_generator(s).draw(1, seed=1) for s in (before, after)]
        assert torch.equal(*images)


# --------------------------------------------------------------------------------------- diffusers


def test_diffusers_says_why_not(tmp_path):
    with pytest.raises(UsageError, match="magnitude-preserving"):
        written(tmp_path, "x", edm2(), "diffusers")
    with pytest.raises(UsageError, match="no UNet; --to torchvision"):
        written(tmp_path, "x", encoder(), "diffusers")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.safetensors"]


def test_a_guided_diffusion_file_becomes_a_folder_for_diffusers(tmp_path, capsys):
    vectors = Vectors(ROOT / "tests/golden/vectors/ddpm/unet_a.npz")
    state = {
        key.removeprefix("sd__"): torch.from_numpy(vectors.array(key).astype(np.float32))
        for key in vectors.keys("sd__*")
    }
    torch.save(state, tmp_path / "model001000.pt")
    with pytest.raises(UsageError, match="how many heads"):
        convert(tmp_path / "model001000.pt", "--to", "diffusers", "--out", tmp_path / "out")
    (tmp_path / "heads.json").write_text('{"num_heads": 4}')
    words = ("--to", "diffusers", "--out", tmp_path / "out", "--config", tmp_path / "heads.json")
    convert(tmp_path / "model001000.pt", *words)
    assert "UNet2DModel.from_pretrained" in capsys.readouterr().out
    names = ["README.md", "config.json", "diffusion_pytorch_model.safetensors"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    convert(tmp_path / "out")
    assert "a UNet2DModel for diffusers, of model001000.pt" in capsys.readouterr().out
    with pytest.raises(UsageError, match="exists already"):
        convert(tmp_path / "model001000.pt", *words)
    convert(tmp_path / "model001000.pt", *words, "--overwrite")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    diffusers = pytest.importorskip("diffusers")
    net = diffusers.UNet2DModel.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        out = net(vectors["x"], vectors["t"]).sample
    assert (out - vectors["out"]).abs().max() <= 2e-5


def test_what_can_be_made_is_no_promise_that_is_broken():
    """Formats whose writers refuse a kind are not named as what can be made of it."""
    assert can_be_made("edm2") == ["snapshot", "safetensors", "pt2", "onnx"]
    assert can_be_made("ddpm") == [
        "snapshot", "safetensors", "diffusers", "pt2", "onnx",
    ]  # fmt: skip
    assert "torchvision" in can_be_made("simclr") and "pt2" not in can_be_made("climategan")
