"""A user's own blocks and denoising module: a file in a folder, named from outside."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.ddpm import ConditionBlock, EmbedBlock, UNet
from storage.user_code import load_classes, load_object
from tests.models.ddpm.nets import TINY, inputs, randomised

OWN = '''
import torch
from torch import nn
from models.ddpm import AttentionBlock, ConditionBlock, EmbedBlock, ResBlock
from beside import FACTOR


class DoubledTime(ResBlock):
    """Another use of the time embedding."""

    def forward(self, x, emb, keys=None):
        return super().forward(x, FACTOR * emb, keys)


class TimeAndLatent(EmbedBlock, ConditionBlock):
    """From scratch, with the arguments that blocks are made with: emb and z, no dropout keys."""

    def __init__(self, channels, emb_channels, dropout=0.0, *, out_channels=None,
                 use_scale_shift_norm=False, up=False, down=False, slope=1.0):
        super().__init__()
        self.slope = slope
        self.conv = nn.Conv2d(channels, out_channels, 1)
        self.linear = nn.Linear(emb_channels, out_channels)

    def forward(self, x, emb, z):
        return self.conv(x) + self.slope * self.linear(emb)[:, :, None, None] * z[:, None, None, None]


class Latent(AttentionBlock, ConditionBlock):
    """Attention that is scaled by z."""

    def forward(self, x, z):
        return x + z[:, None, None, None] * (super().forward(x) - x)


class Denoiser(nn.Module):
    """A whole module."""

    def forward(self, x, t):
        return x * t[:, None, None, None]


class _Hidden(ResBlock):
    pass


LIMIT = 3
'''  # noqa: E501


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "beside.py").write_text("FACTOR = 2\n")
    (tmp_path / "mine.py").write_text(OWN)
    return tmp_path


@pytest.fixture
def blocks(folder):
    return load_classes(folder / "mine.py", (EmbedBlock, ConditionBlock))


def test_blocks_are_found_in_a_file(folder, blocks):
    assert list(blocks) == ["DoubledTime", "TimeAndLatent", "Latent"]
    again = load_classes(folder / "mine.py", (EmbedBlock, ConditionBlock))
    assert again == blocks  # the same classes: the file is run once


def test_a_network_of_own_residual_blocks(blocks):
    given = inputs()
    net = randomised(UNet(3, 3, **TINY, res_block_type="DoubledTime", blocks=blocks))
    plain = randomised(UNet(3, 3, **TINY))
    assert net.state_dict().keys() == plain.state_dict().keys()
    found, before = net(**given), plain(**given)
    assert not torch.allclose(found, before)
    for module in plain.modules():
        if isinstance(module, EmbedBlock):
            module.emb_layers[0] = nn.Sequential(Twice(), nn.SiLU())
    assert torch.equal(plain(**given), found)
    # By its name in the configuration; the file is named again.
    assert net.config["res_block_type"] == "DoubledTime"
    copy = UNet(**net.config, blocks=blocks)
    copy.load_state_dict(net.state_dict())
    assert torch.equal(copy(**given), found)


class Twice(nn.Module):
    def forward(self, x):
        return 2 * x


def test_an_extra_latent_reaches_the_blocks_that_take_one(blocks):
    given = inputs()
    net = randomised(UNet(3, 3, **TINY, attn_block_type="Latent", blocks=blocks))
    plain = randomised(UNet(3, 3, **TINY))
    torch.testing.assert_close(net(**given, z=torch.ones(3)), plain(**given), rtol=0, atol=1e-5)
    without = net(**given, z=torch.zeros(3))
    assert not torch.allclose(without, plain(**given))
    own = UNet(
        3,
        3,
        **TINY,
        res_block_type="TimeAndLatent",
        res_block_args={"slope": 0.5},
        attn_block_type="none",
        blocks=blocks,
        use_checkpoint=True,
    )
    randomised(own)
    z = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    own(**given, z=z, dropout_keys=torch.arange(3)).sum().backward()
    assert z.grad.abs().min() > 0


def test_a_whole_module(folder):
    net = load_object(f"{folder}/mine.py:Denoiser", "denoising module")()
    given = inputs()
    assert torch.equal(net(**given), given["x"] * given["t"][:, None, None, None])


def test_blocks_that_cannot_be(blocks):
    with pytest.raises(ValueError, match="unknown res_block_type 'Mine': known are ResBlock, Doub"):
        UNet(3, 3, res_block_type="Mine", blocks=blocks)
    with pytest.raises(ValueError, match=r"one of your own: name its file too \(--blocks FILE.py"):
        UNet(3, 3, attn_block_type="Latent")
    with pytest.raises(ValueError, match="unknown res_block_type 'none'"):
        UNet(3, 3, res_block_type="none")
    with pytest.raises(ValueError, match="res_block_type TimeAndLatent: .*'width'"):
        UNet(3, 3, res_block_type="TimeAndLatent", res_block_args={"width": 3}, blocks=blocks)
    for kind in (EmbedBlock, ConditionBlock):
        with pytest.raises(TypeError, match="abstract"):
            kind()
