"""Held-out pictures: figures are the same every time, those of a plain loop, of pictures that are
not trained on."""

import pytest
import torch

from diffusion.ddpm_rows import KeyedRandn
from diffusion.encoders import make_encoder
from diffusion.gaussian_loss import bits_per_dim
from models.ddpm import UNet
from recipes.ddpm import parts
from recipes.ddpm.held_out import HeldOut, bits_of, losses_at
from recipes.ddpm.options import get_args
from runtime.precision import Precision
from runtime.spent import Spent
from storage.errors import UsageError
from tests.effects import pictures

SMOKE = "--preset smoke --sample_images 0 --timesteps 5 --val_images 5"


class FakeRun:
    """What HeldOut needs of a Run; a rank of so many, whose figures are kept."""

    def __init__(self, rank=0, world_size=1):
        self.rank, self.world_size, self.device = rank, world_size, torch.device("cpu")
        self.precision = Precision("fp32", self.device)
        self.logged, self.said, self.spent = [], [], Spent()
        self.say = self.said.append

    def phase(self, name, together=True):
        return lambda done, total: None

    def log_now(self, **figures):
        self.logged.append(figures)


def made(words, run):
    args = get_args(None, words.split())
    images = parts.data(args)
    parts.conditioning(args, images)
    torch.manual_seed(0)
    encoder = make_encoder({"name": "rgb"})
    net = parts.network(args, run, images, encoder).eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.05)
    assert isinstance(net, UNet)
    return args, images, net, parts.objective(args, run, images, encoder, net)


@pytest.mark.parametrize("words", [SMOKE, f"{SMOKE} --no-cond --layout boxes --variance learned"])
def test_figures_are_the_same_every_time_and_however_they_are_shared(words):
    run = FakeRun()
    args, images, net, how = made(f"{words} --bits_per_dim 2", run)
    held = HeldOut(args, run, images)
    held(net, how)
    held(net, how)
    first, second = run.logged
    assert first == second and 0 < first["val/mse"] < 9 and first["val/bits_per_dim"] > 0
    quarters = [v for k, v in first.items() if k.startswith("val/t ")]
    assert len(quarters) == 4 and sum(quarters) / 4 == pytest.approx(first["val/mse"])
    bits = [v for k, v in first.items() if k.startswith(("val/bits t", "val/bits_per_dim_p"))]
    assert len(bits) == 5 and sum(bits) == pytest.approx(first["val/bits_per_dim"])
    args.bs_gpu = 2
    held(net, how)
    assert run.logged[2] == pytest.approx(first, rel=1e-5)


def test_they_are_what_a_plain_loop_finds():
    run = FakeRun()
    args, images, net, how = made(SMOKE, run)
    held = HeldOut(args, run, images)
    ((_, rows),) = held._rows(range(3))
    found = losses_at(net, how, rows)
    assert found.shape == (3, 4)
    one = losses_at(net, how, rows.take(slice(1, 2)))
    torch.testing.assert_close(one[0], found[1])  # of the picture alone, whatever is beside it
    model = lambda x, t, **cond: net(x, t, **cond)  # noqa: E731
    whole = bits_per_dim(model, how.gaussian, how.images(rows), cond={"y": rows.labels},
                         randn=KeyedRandn(rows.keys))["total"]  # fmt: skip
    torch.testing.assert_close(bits_of(net, how, rows).sum(1), whole)


def test_nothing_asked_for_reads_nothing():
    run = FakeRun()
    args, images, net, how = made(SMOKE.replace("--val_images 5", ""), run)
    HeldOut(args, run, images)(net, how)
    assert not run.logged and not run.said


def test_pictures_that_are_trained_on_are_not_held_out(tmp_path):
    pictures(tmp_path / "flat", 4)
    pictures(tmp_path / "split" / "train" / "a", 4)
    pictures(tmp_path / "split" / "val" / "a", 3, first=4)
    run = FakeRun()

    def held(data, more=""):
        args = get_args(None, f"{SMOKE} --no-cond --res 8 --data {data} {more}".split())
        return HeldOut(args, run, parts.data(args)).images

    assert len(held(tmp_path / "split")) == 3
    with pytest.raises(UsageError, match="no split val or test beside"):
        held(tmp_path / "flat")
    with pytest.raises(UsageError, match="no split val or test beside"):
        held(tmp_path / "split" / "val")
    assert len(held(tmp_path / "flat", f"--data_val {tmp_path / 'split' / 'val'}")) == 3
    with pytest.raises(UsageError, match="classes"):
        args = get_args(None, f"{SMOKE} --data_val {tmp_path / 'split'}".split())
        args.cond = True
        HeldOut(args, run, parts.data(args))


def test_means_of_colours_have_no_bits():
    run = FakeRun()
    args, images, net, how = made(f"{SMOKE} --gray --bits_per_dim 1", run)
    with pytest.raises(UsageError, match="256 values"):
        HeldOut(args, run, images)(net, how)
