"""Blocks: their frozen forms, precision, layouts, gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from imle.rrdb import (
    RDB,
    RRDB,
    MappingNet,
    StyleBlock,
    Upsample,
    WNConv2d,
    freeze,
    modulate,
)
from tests.imle import camnet_oracle as oracle

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def _double(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.detach().double() for key, value in module.state_dict().items()}


def test_weight_norm_is_g_v_over_norm():
    torch.manual_seed(0)
    conv = WNConv2d(3, 5)
    with torch.no_grad():
        conv.weight_g.uniform_(0.5, 2)
        conv.bias.uniform_(-1, 1)
    x = torch.rand(2, 3, 4, 6)
    norms = conv.weight().flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, conv.weight_g.flatten())
    expected = oracle.conv({f"c.{k}": v for k, v in _double(conv).items()}, "c", x.double())
    torch.testing.assert_close(conv(x), expected.float())


def test_set_weight_sets_what_acts():
    conv, weight = WNConv2d(3, 4), torch.randn(4, 3, 3, 3)
    conv.set_weight_(weight)
    torch.testing.assert_close(conv.weight(), weight)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("nc", "gc"), [(6, 4), (4, 7), (1, 3)])
def test_frozen_rrdb_equals_plain(layout: torch.memory_format, nc: int, gc: int):
    torch.manual_seed(0)
    block = RRDB(nc, gc)
    for x in (torch.randn(2, nc, 5, 7), torch.randn(1, nc, 4, 4)):
        kept = x.clone()
        expected = oracle.rrdb({f"b.{k}": v for k, v in _double(block).items()}, "b", x.double())
        with torch.no_grad():
            frozen = freeze(block, torch.float32, layout)(x)
        assert torch.equal(x, kept), "a frozen block wrote into its input"
        torch.testing.assert_close(block(x), expected.float(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(frozen, expected.float(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_frozen_form_is_a_copy(layout: torch.memory_format):
    torch.manual_seed(0)
    block, x = StyleBlock(4, 3, 5, 2), torch.randn(2, 4, 6, 6)
    w = torch.randn(2, 5)
    with torch.no_grad():
        frozen = freeze(block, torch.float32, layout)
        before = frozen(x, w)
        for parameter in block.parameters():
            parameter.add_(1)
        assert torch.equal(frozen(x, w), before)
    assert not any(p.requires_grad for p in frozen.parameters())
    own = {t.data_ptr() for t in block.parameters()}
    assert not own & {t.data_ptr() for t in [*frozen.parameters(), *frozen.buffers()]}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bfloat16_stays_near(layout: torch.memory_format):
    torch.manual_seed(0)
    block, x, w = StyleBlock(8, 4, 5, 2), torch.randn(4, 8, 8, 8), torch.randn(4, 5)
    with torch.no_grad():
        expected = block(x, w)
        low = freeze(block, torch.bfloat16, layout)(x.bfloat16(), w)
    error = (low.float() - expected).square().mean().sqrt() / expected.std()
    assert 1e-5 < error < 0.03


def test_modulate_with_and_without_grad():
    torch.manual_seed(0)
    u, style = torch.randn(3, 4, 5, 6) * 3 + 7, torch.randn(3, 8)
    mean = u.double().mean((2, 3), keepdim=True)
    var = u.double().var((2, 3), keepdim=True, correction=0)
    g, b = style.double()[:, :, None, None].chunk(2, 1)
    expected = ((1 + g) * (u - mean) / (var + 1e-5).sqrt() + b).float()
    torch.testing.assert_close(modulate(u, style), expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(modulate(u, style), expected, atol=1e-5, rtol=1e-5)
        nhwc = u.contiguous(memory_format=torch.channels_last)
        out = modulate(nhwc, style)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_rdb_gradients():
    torch.manual_seed(0)
    block = RDB(2, 2).double()
    x = torch.randn(1, 2, 3, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(block, x)
    g = block.conv2[0].weight_g
    block(x).sum().backward()
    with torch.no_grad():
        high, low = [], []
        for sign, found in ((1, high), (-1, low)):
            g[0] += sign * 1e-6
            found.append(block(x).sum())
            g[0] -= sign * 1e-6
    numeric = (high[0] - low[0]) / 2e-6
    torch.testing.assert_close(g.grad[0].squeeze(), numeric, rtol=1e-6, atol=1e-8)


def test_channels_last_training_keeps_the_layout():
    torch.manual_seed(0)
    block = RRDB(8, 4)
    x = torch.randn(2, 8, 6, 6)
    expected = block(x)
    block = block.to(memory_format=torch.channels_last)
    out = block(x.contiguous(memory_format=torch.channels_last))
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-5)
    out.sum().backward()
    assert all(p.grad is not None for p in block.parameters())


@pytest.mark.parametrize("double", [True, False])
def test_upsample(double: bool):
    torch.manual_seed(0)
    block, x = Upsample(3, double=double), torch.randn(2, 3, 4, 5)
    s = {f"u.{k}": v for k, v in _double(block).items()}
    h = oracle.double(x.double()) if double else x.double()
    h = oracle.act(oracle.conv(s, f"u.model.0.{int(double)}", h))
    h = oracle.act(oracle.conv(s, "u.model.1.0", h))
    torch.testing.assert_close(block(x), h.float(), atol=1e-6, rtol=1e-5)


def test_mapping_net():
    torch.manual_seed(0)
    net, z = MappingNet(5, 7), torch.randn(3, 5)
    h = z.double()
    for layer in net.model[::2]:
        h = F.leaky_relu(F.linear(h, layer.weight.double(), layer.bias.double()), 0.2)
    torch.testing.assert_close(net(z), h.float())
    assert len(net.model) == 16
