"""<epoch>.pt: what is in it, load_() of ours and of the original SimCLR code's
pickled objects, which never run."""

from __future__ import annotations

import argparse
import os
import sys
import types
import zipfile

import pytest
import torch
from torch import nn

import models.simclr
from models import SimCLR, original_config
from models.optim import LARC
from recipes.simclr import files, parts
from recipes.simclr.options import get_args
from storage.errors import CheckpointError
from storage.files import temporary
from storage.foreign.objects import read_objects
from storage.snapshot import save_snapshot
from storage.torchfile import load_torch
from tests.models.test_original import Head, Headed, Wrapped, original
from tests.scripts.simclr_support import TINY, small_backbone


class FakeRun:
    """What save_epoch asks of a run."""

    is_main, completed = True, 12

    def __init__(self, folder, args):
        self.dir, self.args, self.said = folder, args, []

    def snapshot(self, name, module, kind, config):
        self.config = config

    def say(self, text):
        self.said.append(text)


def trained(*words):
    """A network and optimizer some steps old."""
    args = get_args(None, [*TINY, *words])
    torch.manual_seed(0)
    model = SimCLR(proj_dim=8, proj_hidden=16)
    optimizer = parts.optimizer(args, model)
    for _ in range(2):
        model(torch.rand(4, 3, 8, 8)).square().sum().backward()
        optimizer.step()
    return args, model, optimizer


@pytest.mark.parametrize("words", ["--opt adam", "--opt sgd --lars 0", "--opt lars"])
def test_load_gives_back_what_was_saved(tmp_path, monkeypatch, words):
    monkeypatch.setattr(models.simclr, "build_backbone", small_backbone)
    args, model, optimizer = trained(*words.split())
    run = FakeRun(tmp_path, args)
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "loss_tr": 2.5, "nimg": 3}\n')
    files.save_epoch(run, model, optimizer, parts.view_recipe(args), 3)
    assert (tmp_path / "latest.pt").resolve() == tmp_path / "3.pt" and not run.said
    load_torch(tmp_path / "3.pt")  # weights only: no objects in it
    again, restored, epoch, saved, results = files.load_(tmp_path / "latest.pt")
    assert epoch == 3 and results == {"loss_tr": [[5, 2.5]]}
    assert vars(saved) == {k: v for k, v in vars(args).items()}
    x = torch.rand(4, 3, 8, 8)
    assert torch.equal(again.eval()(x), model.eval()(x))
    for m, o in ((model, optimizer), (again, restored)):  # and both go on alike
        m.train().zero_grad()
        m(x).square().sum().backward()
        o.step()
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )


class WritingRun(FakeRun):
    """One whose snapshots are there."""

    def snapshot(self, name, module, kind, config):
        path = self.dir / "snapshots" / f"{name}.safetensors"
        told = {"args": {"keep": 1} if self.tells else {}}
        save_snapshot(path, module.state_dict(), kind, config, told)


@pytest.mark.parametrize(
    ("words", "epochs", "there"),
    [
        ("", [0, 1, 2], [2]),
        ("--keep 2", [0, 1, 2], [1, 2]),
        ("--keep 0", [0, 1, 2], [0, 1, 2]),
        ("", [5, 0, 1], [1, 5]),  # begun again: what is later is not the newest
    ],
)
def test_files_of_earlier_epochs_go(tmp_path, monkeypatch, words, epochs, there):
    monkeypatch.setattr(models.simclr, "build_backbone", small_backbone)
    args, model, optimizer = trained(*words.split())
    run = WritingRun(tmp_path, args)
    run.tells = True
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "generator-latest.safetensors").write_bytes(b"another's")
    for epoch in epochs:
        files.save_epoch(run, model, optimizer, parts.view_recipe(args), epoch)
    kept = {f"{n}.safetensors" for n in there} | {"generator-latest.safetensors"}
    assert {p.name for p in (tmp_path / "snapshots").iterdir()} == kept
    assert {p.name for p in tmp_path.glob("*.pt")} == {f"{n}.pt" for n in there} | {"latest.pt"}


def test_files_of_a_version_that_kept_all_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(models.simclr, "build_backbone", small_backbone)
    args, model, optimizer = trained()
    run = WritingRun(tmp_path, args)
    (tmp_path / "snapshots").mkdir()
    for epoch, run.tells in ((0, False), (1, True), (2, True)):
        files.save_epoch(run, model, optimizer, parts.view_recipe(args), epoch)
    assert sorted(p.name for p in tmp_path.glob("snapshots/*")) == [
        "0.safetensors",
        "2.safetensors",
    ]
    assert (tmp_path / "0.pt").exists() and not (tmp_path / "1.pt").exists()


def test_one_file_for_use_unless_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(models.simclr, "build_backbone", small_backbone)
    args, model, optimizer = trained("--no-save_pt")
    run = WritingRun(tmp_path, args)
    run.tells = True
    (tmp_path / "snapshots").mkdir()
    files.save_epoch(run, model, optimizer, parts.view_recipe(args), 3)
    assert not list(tmp_path.glob("*.pt"))
    again, recipe, _ = files.open_encoder(tmp_path)  # a run's folder
    assert recipe == parts.view_recipe(args)
    x = torch.rand(4, 3, 8, 8)
    assert torch.equal(again.eval()(x), model.eval()(x))


def test_a_file_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(models.simclr, "build_backbone", small_backbone)
    args, model, optimizer = trained()

    def full(value, fh):
        raise OSError(28, "No space left on device")

    run = FakeRun(tmp_path, args)
    monkeypatch.setattr(torch, "save", full)
    files.save_epoch(run, model, optimizer, parts.view_recipe(args), 3)
    assert "No space left" in run.said[0] and not list(tmp_path.iterdir())


# -------------------------------------------------------------------- the original's whole objects


class Wrapper:
    """Stands for the original's LARS around an optimizer: any object that has one."""

    def __init__(self, optim, eta):
        self.optim, self.eta = optim, eta


class Results:
    """Stands for a log of theirs."""

    def __init__(self):
        self.scalars = {"Loss/train": [3.0, 2.0]}


@pytest.fixture
def old_file(tmp_path, monkeypatch):
    """A checkpoint of pickled objects, of classes that are gone when it is read."""
    module = types.ModuleType("Models")
    for cls in (Headed, Head, Wrapped, Wrapper, Results):
        monkeypatch.setattr(cls, "__module__", "Models")
        setattr(module, cls.__name__, cls)
    monkeypatch.setitem(sys.modules, "Models", module)
    model = original(hidden=16, out=8).train()
    weights = [p for n, p in model.named_parameters() if "bn" not in n]
    norms = [p for n, p in model.named_parameters() if "bn" in n]
    inner = torch.optim.Adam([{"params": weights}, {"params": norms}], lr=0.004, betas=(0.9, 0.99))
    for _ in range(2):
        inner.zero_grad()
        model(torch.rand(4, 3, 32, 32))[1].square().sum().backward()
        inner.step()
    for group in inner.param_groups:
        group["weight_decay"] = 1e-6
    args = argparse.Namespace(lr=0.004, crop_size=32, trust=0.002, data="cifar10", mm=[0.9, 0.99])
    value = {"model": model, "optimizer": Wrapper(inner, 0.001), "last_epoch": 99, "args": args}
    value["tb_results"] = Results()
    torch.save(value, tmp_path / "99.pt")
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        want = model.eval()(x)
    named = dict(model.named_parameters())
    state = {n: inner.state[p] for n, p in named.items() if p in inner.state}
    monkeypatch.delitem(sys.modules, "Models")
    return tmp_path / "99.pt", x, want, state


def test_pickled_objects_of_the_original_are_read(old_file):
    path, x, (h, z), state = old_file
    model, optimizer, epoch, args, results = files.load_(path)
    assert epoch == 99 and results == {"scalars": {"Loss/train": [3.0, 2.0]}}
    assert args.lr == 0.004 and args.mm == [0.9, 0.99]
    with torch.no_grad():
        assert torch.equal(model.eval().features(x), h) and torch.equal(model(x), z)
    assert isinstance(optimizer, LARC) and optimizer.trust == 0.002
    assert optimizer.param_groups[0]["lr"] == 0.004
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.99)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [1e-6, 0.0]
    ours = dict(model.named_parameters())
    for old, new in (
        ("model.projection.model.fc1.weight", "projector.fc1.weight"),
        ("model.backbone.model.0.weight", "backbone.conv1.weight"),
        ("model.backbone.model.4.0.downsample.1.bias", "backbone.layer2.0.downsample.1.bias"),
    ):
        kept = optimizer.state[ours[new]]
        assert torch.equal(kept["exp_avg_sq"], state[old]["exp_avg_sq"]) and kept["step"] == 2
    model.train()(x).square().sum().backward()
    optimizer.step()


def test_a_state_dict_of_the_original_is_read(tmp_path):
    old = original(hidden=16, out=8)
    torch.save({"model": old.state_dict(), "last_epoch": 7}, tmp_path / "7.pt")
    model, optimizer, epoch, _, results = files.load_(tmp_path / "7.pt")
    assert (optimizer, epoch, results) == (None, 7, {})
    assert original_config(old.state_dict())["proj_dim"] == model.config["proj_dim"] == 8


class Runs:
    """What a pickle would run, were it believed, is seen."""

    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


@pytest.mark.parametrize("call", [open, os.system, eval, exec, print])
def test_what_a_file_wants_to_run_is_refused(tmp_path, call):
    seen = tmp_path / "ran"
    text = {os.system: f"touch {seen}"}.get(call, f"open({str(seen)!r}, 'w')")
    args = (str(seen), "w") if call is open else (text,)
    for at in ("model", "args", "tb_results", "optimizer"):
        value = {"model": {"a": torch.ones(1)}, "last_epoch": 1, at: Runs(call, *args)}
        torch.save(value, tmp_path / "1.pt")
        with pytest.raises(CheckpointError, match="refused: global") as caught:
            files.load_(tmp_path / "1.pt")
        assert "\n" not in str(caught.value)
    assert not seen.exists()


def test_a_file_of_before_zip_files_is_refused_by_what_it_wants(tmp_path):
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "1.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"refused: global torch.nn.\S+Linear in .*1.pt"):
        files.load_(tmp_path / "1.pt")


def rewritten(path, change):
    """A copy of a torch.save file with some of its members changed."""
    out = path.with_name("changed.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            data = change(info.filename, old.read(info))
            if data is not None:
                new.writestr(info.filename, data)
    return out


def test_damage_is_one_line(old_file, tmp_path):
    path = old_file[0]
    small = tmp_path / "small.pt"
    small.write_bytes(path.read_bytes()[:1000])
    cases = {
        "not a file of torch.save": lambda n, d: None if n.endswith("data.pkl") else d,
        "numbers of its storage": lambda n, d: d[:-4] if n.endswith("data/0") else d,
        "of its storage": lambda n, d: None if n.endswith("data/1") else d,
        "the file ends before|damaged|has no end": lambda n, d: (
            d[: len(d) // 2] if n.endswith("data.pkl") else d
        ),
    }
    for match, change in cases.items():
        with pytest.raises(CheckpointError, match=match) as caught:
            read_objects(rewritten(path, change))
        assert "\n" not in str(caught.value)
    for missing in (small, tmp_path / "none.pt", tmp_path):
        with pytest.raises(CheckpointError):
            read_objects(missing)


def test_tensors_come_as_they_were(tmp_path):
    a = torch.arange(24.0).reshape(4, 6)
    b = nn.Parameter(torch.randn(3, dtype=torch.float64))
    value = {"a": a, "view": a.t()[1:3], "b": b, "same": [b, b], "none": torch.empty(0, 3)}
    value |= {"half": torch.randn(5).bfloat16(), "flag": torch.tensor([True, False])}
    torch.save(value, tmp_path / "x.pt")
    got = read_objects(tmp_path / "x.pt")
    for key in ("a", "view", "b", "none", "half", "flag"):
        assert got[key].dtype == value[key].dtype and torch.equal(got[key], value[key].detach())
    assert got["same"][0] is got["same"][1] is got["b"]


def test_files_of_something_else(tmp_path):
    for value, match in (
        ({"weights": torch.ones(1)}, "no checkpoint of SimCLR"),
        ([1, 2], "no checkpoint of SimCLR"),
        ({"model": nn.Linear(2, 2), "last_epoch": 1}, "not a key of the original SimCLR code"),
        ({"model": {"a": 3}, "last_epoch": 1}, "expected a state_dict"),
        ({"format": files.FORMAT, "model": {}, "args": {}}, "config"),
    ):
        torch.save(value, tmp_path / "1.pt")
        with pytest.raises(CheckpointError, match=match) as caught:
            files.load_(tmp_path / "1.pt")
        assert "\n" not in str(caught.value)


def put(tree, keys, value):
    """A copy of nested dicts with one entry changed."""
    first, *rest = keys
    return tree | {first: put(tree[first], rest, value) if rest else value}


WRONG = [
    (["args", "mm"], []),
    (["args", "lr"], "x"),
    (["args"], [1]),
    (["optimizer"], None),
    (["optimizer"], {"state": {}, "param_groups": []}),
    (["last_epoch"], "last"),
    (["results"], 3),
    (["model"], {}),
    (["model"], None),
    (["model", "backbone.conv1.weight"], torch.full((8, 3, 3, 3), torch.nan)),
    (["config"], {}),
    (["config", "net", "backbone"], [1]),
    (["config", "net", "frobnicate"], 1),
    (["config", "net", "proj_hidden"], 10**12),  # 2 PB, if it were believed
]


@pytest.fixture
def own_files(tmp_path, monkeypatch):
    """<epoch>.pt of ours and its snapshot, as values; written by what they are given."""
    monkeypatch.setattr(models.simclr, "build_backbone", small_backbone)
    args, model, optimizer = trained()
    run = FakeRun(tmp_path, args)
    files.save_epoch(run, model, optimizer, parts.view_recipe(args), 3)
    return load_torch(tmp_path / "3.pt"), run.config


@pytest.mark.parametrize(("keys", "value"), WRONG)
def test_a_file_of_ours_with_wrong_content_is_one_line(own_files, tmp_path, keys, value):
    torch.save(put(own_files[0], keys, value), tmp_path / "4.pt")
    of_network = keys[0] in ("model", "config")  # all that an encoder is made of
    for read in (files.load_, *[files.open_encoder] * of_network):
        with pytest.raises(CheckpointError, match="4.pt: ") as caught:
            read(tmp_path / "4.pt")
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        *[(keys[1:], value) for keys, value in WRONG if keys[:2] == ["config", "net"]],
        (["net", "proj_dim"], 9),
        (["recipe", "unheard"], 1),
        (["recipe"], [2]),
        (["picture_size"], "x"),
    ],
)
def test_a_snapshot_with_wrong_content_is_one_line(own_files, tmp_path, keys, value):
    file = tmp_path / "4.safetensors"
    weights, config = own_files[0]["model"], own_files[1]
    save_snapshot(file, weights, "simclr", config, {})
    assert files.open_encoder(file)[2] == 8
    save_snapshot(file, weights, "simclr", put(config, keys, value), {})
    with pytest.raises(CheckpointError, match="4.safetensors: ") as caught:
        files.open_encoder(file)
    assert "\n" not in str(caught.value)
    weights = weights | {"projector.bn2.bias": torch.full((8,), torch.inf)}
    save_snapshot(file, weights, "simclr", config, {})
    with pytest.raises(CheckpointError, match=r"not finite \(projector.bn2.bias\)"):
        files.open_encoder(file)


def test_a_runs_folder_stands_for_its_newest_file(own_files, tmp_path):
    model, plan, size = files.open_encoder(tmp_path)
    assert (plan.size, size) == (8, 8)
    assert torch.equal(model.projector.fc1.weight, own_files[0]["model"]["projector.fc1.weight"])
    with pytest.raises(CheckpointError, match="latest.pt"):
        files.open_encoder(tmp_path / "..")


def test_results_are_read_past_a_line_that_was_cut(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "lr": 2.0}\n{"step": 2, "l\n{"step": 3, "lr": 4.0}\n'
    )
    assert files.results_of(tmp_path) == {"lr": [[1, 2.0], [3, 4.0]]}


def test_what_a_kill_left_is_no_hindrance(own_files, tmp_path):
    temporary(tmp_path / "latest.pt").symlink_to("nowhere")
    args, model, optimizer = trained()
    run = FakeRun(tmp_path, args)
    files.save_epoch(run, model, optimizer, parts.view_recipe(args), 5)
    assert (tmp_path / "latest.pt").resolve().name == "5.pt" and not run.said
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_run_means_its_encoder_and_not_the_generator_beside_it(tmp_path):
    folder = tmp_path / "run" / "snapshots"
    folder.mkdir(parents=True)
    for name in ("9", "10", "generator-initial", "generator-latest"):
        (folder / f"{name}.safetensors").touch()
    assert files.find_encoder(tmp_path / "run").stem == "10"
    assert files.find_encoder(folder).stem == "10"
    assert files.find_encoder(folder / "9").stem == "9"
    assert files.find_encoder(folder / "generator-latest").stem == "generator-latest"
