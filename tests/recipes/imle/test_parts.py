"""Options -> network, loss, rates, search; the perceptual distance that options name."""

import contextlib
import math
import multiprocessing
from types import SimpleNamespace

import pytest
import torch

from data.samplers import StepSampler
from imle import CAMNet, PixelLoss, UnconditionalGenerator
from recipes.imle import parts
from recipes.imle.options import get_args
from recipes.imle.perceptual import perceptual_loss
from storage.errors import UsageError
from tests.scripts.support import TINY, train

CPU = torch.device("cpu")


def test_search_precision_reaches_the_loader(tmp_path, monkeypatch):
    seen, original = [], parts.CIMLEDataLoader

    def loader(*args, **kwargs):
        seen.append(kwargs["precision"])
        return original(*args, **kwargs)

    monkeypatch.setattr(parts, "CIMLEDataLoader", loader)
    for name in ("auto", "bf16", "fp32"):
        words = f"--outer_loops 1 --num_iteration 1 --search_precision {name}".split()
        train(tmp_path / name, *words)
    assert seen == ["fp32", "bf16", "fp32"]  # auto: no GPU here


def test_a_network_has_what_its_options_say():
    args = get_args(None, [*TINY, "--color_space", "lab", "--init", "reference"])
    net = parts.network(args, CPU)
    assert isinstance(net, CAMNet) and parts.kind(args) == "camnet"
    config = net.config
    for name in ("res", "map_nc", "latent_nc", "resid_nc", "n_blocks", "color_space", "init"):
        assert config[name] == getattr(args, name)
    args.unconditional, args.res, args.max_nc = True, [16], 24
    net = parts.network(args, CPU)
    assert isinstance(net, UnconditionalGenerator) and parts.kind(args) == "imle-unconditional"
    assert max(net.config["channels"]) == 24


def test_rates_warm_up_and_follow_the_schedule():
    args = get_args(None, [*TINY, "--warmup", "4", "--lr", "1e-2"])
    factor = parts.lr_factor(args, 100)
    assert [factor(step) for step in range(3)] == pytest.approx([0.25, 0.5, 0.75], rel=1e-2)
    assert factor(50) == pytest.approx(0.5) and factor(100) == pytest.approx(0, abs=1e-12)
    args.lr_schedule = "constant"
    assert parts.lr_factor(args, 100)(99) == 1
    args.lr_schedule = "reference"  # from --lr to 1e-4, no warm-up
    factor = parts.lr_factor(args, 100)
    assert factor(0) == 1 and factor(100) == pytest.approx(1e-2)
    assert factor(25) == pytest.approx(1e-2 + 0.99 * 0.5 * (1 + math.cos(math.pi / 4)))


def test_search_precision_is_what_was_asked_for():
    assert parts.search_precision("bf16", CPU) == "bf16"
    assert parts.search_precision("auto", CPU) == parts.search_precision("fp32", CPU) == "fp32"


@pytest.mark.parametrize(
    ("resume", "completed", "end"), [("auto", 0, 4), ("auto", 5, 8), ("2", 0, 12), ("0", 4, 4)]
)
def test_a_chunk_ends_with_its_loop(resume, completed, end):
    args = get_args(None, [*TINY, "--chunk_epochs", "1", "--resume", resume])
    assert parts.stop_at(args, completed) == end
    args.chunk_epochs = 0
    assert parts.stop_at(args, completed) is None


def test_ranks_share_whole_batches():
    args = get_args(None, TINY)
    parts.check_ranks(args, 2)
    with pytest.raises(UsageError, match="--bs 4 cannot be shared by 3 processes"):
        parts.check_ranks(args, 3)


def test_the_perceptual_distance(tmp_path, monkeypatch):
    assert isinstance(perceptual_loss("none", None), PixelLoss)
    a, b = (perceptual_loss("random", None, alpha=0.5) for _ in range(2))
    x, y = torch.rand(2, 2, 3, 16, 16)
    assert a.name == "lpips_random" and a.alpha == 0.5
    assert torch.equal(a(x, y), b(x, y))  # the same distance in every run
    monkeypatch.setenv("MODELS_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="fetch-weights"):
        perceptual_loss("pretrained", None)
    (tmp_path / "vgg.pth").write_bytes(b"no weights")
    with pytest.raises((UsageError, Exception), match="vgg.pth"):
        perceptual_loss("pretrained", str(tmp_path / "vgg.pth"))


@pytest.mark.parametrize(
    "words",
    [
        "--base input",
        "--base none",
        "--init reference",
        "--color_space lab --lab_range reference",
    ],
)
def test_a_preset_with_a_learnt_base_and_another_asked_for(words):
    args = get_args(None, f"--preset cpu-small-color --data scenes {words}".split())
    assert args.base != "learned"
    assert (args.base_loops, args.base_context, args.freeze_base) == (0, 0, False)


def test_a_base_is_frozen_where_it_knows_something():
    words = "--preset cpu-small-color --data scenes".split()
    assert get_args(None, words).freeze_base
    assert not get_args(None, [*words, "--base_loops", "0"]).freeze_base
    assert get_args(None, [*words, "--base_loops", "0", "--init_from", "x.safetensors"]).freeze_base


def test_a_schedule_for_each_loss():
    """A warm-up and a cosine to 0 over the steps by MSE, by LPIPS, and of samples."""
    words = "--preset cpu-small-color --data scenes --base_loops 2 --base_lpips_loops 1 --warmup 2"
    args = get_args(None, f"{words} --num_iteration 4 --outer_loops 3".split())
    assert parts.phase_starts(args) == (0, 8, 12)
    factor = parts.lr_factor(args, 24)
    for first, length in ((0, 8), (8, 4), (12, 12)):
        for k in range(length):
            warm, cosine = min(1, (k + 1) / 2), 0.5 * (1 + math.cos(math.pi * k / length))
            assert factor(first + k) == pytest.approx(warm * cosine)
    assert [parts.work(args, step) for step in (0, 7, 8, 11, 12, 13)] == [
        "base", "base", "base by lpips", "base by lpips", None, "step",
    ]  # fmt: skip
    alone = get_args(None, [*words.split(), "--base_loops", "0", "--num_iteration", "4"])
    assert parts.phase_starts(alone) == (0, 0, 4)


def test_what_a_base_is_trained_by():
    words = "--preset cpu-small-color --data scenes --base_loops 1 --base_lpips_loops 1"
    args = get_args(None, f"{words} --num_iteration 3 --base_bs 6 --bs 5 --bs_gpu 2".split())
    loss_fn = object()
    for step in range(3):
        name, loss, rows = parts.base_loss(args, loss_fn, step)
        assert (name, type(loss), rows) == ("base mse", PixelLoss, 6)
    for step in range(3, 6):
        assert parts.base_loss(args, loss_fn, step) == ("base loss", loss_fn, 2)


def test_pictures_of_a_base_go_on_by_the_number_of_the_draw():
    """--base_bs pictures a step, then --bs, none left out, whichever step is begun at."""
    words = "--preset cpu-small-color --data scenes --base_loops 1 --base_lpips_loops 1"
    args = get_args(None, f"{words} --num_iteration 3 --base_bs 6 --bs 4 --flip 0".split())
    train, _ = parts.sources(args)
    trained, _, _ = parts.pictures(args, train, train, lambda line: None)
    corruption, _ = parts.corruption(args)

    def base_pictures(completed):
        run = SimpleNamespace(completed=completed, rank=0, world_size=1, device=CPU)
        return parts.base_pictures(args, run, trained, corruption)

    def drawn(completed):
        return list(base_pictures(completed))

    whole = drawn(0)
    assert [len(batch.cx) for batch in whole] == [6, 6, 6, 4, 4, 4]
    order = next(iter(StepSampler(len(trained), 30, seed=args.seed)))
    assert [i for batch in whole for i in batch.ids] == order
    there = torch.stack([trained[i][1][-1].float() / 255 for i in order])
    assert torch.equal(torch.cat([batch.ys[-1] for batch in whole]), there)
    args.num_workers = 1  # which ends with the last batch
    for completed in (2, 3, 5):
        for batch, again in zip(whole[completed:], drawn(completed), strict=True):
            assert batch.ids == again.ids and torch.equal(batch.cx, again.cx)
            assert all(torch.equal(y, o) for y, o in zip(batch.ys, again.ys, strict=True))
    with contextlib.closing(base_pictures(5)) as batches:
        next(batches)
        assert not multiprocessing.active_children()


def test_the_average_begins_with_the_samples():
    """Of each phase its own; at the first step of each the average is the network."""
    words = "--preset cpu-small-color --data scenes --base_loops 1 --base_lpips_loops 1 --bs 8"
    args = get_args(None, [*words.split(), "--num_iteration", "4"])
    over = [parts.averaged(args, step, step * args.bs) for step in range(12)]
    assert over == [8 * n for n in (1, 2, 3, 4)] * 3
    net = torch.nn.Linear(1, 1)
    ema = parts.average(args, net)
    for step in range(9):
        with torch.no_grad():
            net.weight.fill_(step)
        ema.update(net, over[step], args.bs)
    assert float(ema.module.weight) == 8
