"""Magnitude-preserving primitives against formulas in float64 and loops."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion import mp
from diffusion.mp import (
    EPS,
    MPConv,
    MPFourier,
    frozen_weights,
    mp_cat,
    mp_silu,
    mp_sum,
    normalize,
    normalize_weights,
    resample,
    set_forced_weight_norm,
)
from runtime.counter_rng import row_dropout


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def oracle(x: Tensor, dim: tuple[int, ...]) -> Tensor:
    """x / (eps + RMS), float64, differentiated by autograd."""
    return x / (EPS + x.double().square().mean(dim, keepdim=True).sqrt())


def assert_rel(actual: Tensor, expected: Tensor, rel: float) -> None:
    error = (actual.double() - expected.double()).abs().max() / expected.double().abs().max()
    assert error <= rel, error


# --------------------------------------------------------------------------- values and gradients


@pytest.mark.parametrize("dim", [(1,), (2, 3), (1, 2, 3), (0,)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 300.0])
def test_normalize_and_its_gradient(dim, scale):
    x = (randn(3, 5, 4, 6) * scale).requires_grad_()
    exact = x.detach().double().requires_grad_()
    gradient = randn(3, 5, 4, 6, seed=1)
    y, expected = normalize(x, dim), oracle(exact, dim)
    assert_rel(y, expected, 1e-6)
    y.backward(gradient)
    expected.backward(gradient.double())
    assert_rel(x.grad, exact.grad, 2e-6)


@pytest.mark.parametrize("f", [normalize, lambda x: MPConv(4, 3, [])(x)])
def test_second_derivatives_are_refused(f):
    x = randn(2, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(normalize(f(x)).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


def test_normalize_of_zeros_has_a_gradient():
    x = torch.zeros(2, 3, requires_grad=True)
    y = normalize(x)
    assert torch.equal(y, torch.zeros(2, 3))
    y.backward(torch.ones(2, 3))
    assert torch.equal(x.grad, torch.full((2, 3), 1 / EPS))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_normalize_sums_in_float32(dtype):
    x = (randn(2, 4096) * 3000).to(dtype).requires_grad_()  # their norms overflow fp16
    y = normalize(x)
    assert y.dtype == dtype
    eps = torch.finfo(dtype).eps
    assert_rel(y, oracle(x.detach(), (1,)), eps)
    y.backward(x.detach())
    assert x.grad.dtype == dtype and x.grad.isfinite().all()


@pytest.mark.parametrize("kernel", [[], [1, 1], [3, 3]])
@pytest.mark.parametrize("learned", [False, True])
def test_layer_and_its_gradients(kernel, learned):
    layer = MPConv(5, 7, kernel).eval()
    x = (randn(2, 5, 4, 4) if kernel else randn(2, 5)).requires_grad_()
    gain = torch.tensor(0.7, requires_grad=True) if learned else 0.7
    y = layer(x, gain)
    gradient = randn(*y.shape, seed=1)
    y.backward(gradient)

    w = layer.weight.detach().double().requires_grad_()
    g = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    exact = x.detach().double().requires_grad_()
    scaled = oracle(w, tuple(range(1, w.ndim))) * g / math.sqrt(w[0].numel())
    if kernel:
        expected = F.conv2d(exact, scaled, padding=kernel[0] // 2)
    else:
        expected = exact @ scaled.T
    expected.backward(gradient.double())
    assert_rel(y, expected, 2e-6)
    assert_rel(x.grad, exact.grad, 2e-6)
    assert_rel(layer.weight.grad, w.grad, 5e-6)
    if learned:
        assert_rel(gain.grad, g.grad, 1e-5)


@torch.no_grad()
def test_magnitudes_are_preserved():
    a, b = randn(64, 256), randn(64, 64, seed=1)
    for t in (0.0, 0.3, 0.5, 1.0):
        assert mp_sum(a, randn(64, 256, seed=2), t).square().mean() == pytest.approx(1, abs=0.05)
        joined = mp_cat(a, b, t=t)
        assert joined.square().mean() == pytest.approx(1, abs=0.05)
        first, second = joined[:, :256].square().sum(), joined[:, 256:].square().sum()
        assert second / (first + second) == pytest.approx(t**2 / (t**2 + (1 - t) ** 2), abs=0.02)
    assert mp_silu(randn(1000, 100)).square().mean() == pytest.approx(1, abs=0.02)
    assert MPFourier(512)(randn(100)).square().mean() == pytest.approx(1, abs=0.02)
    layer = MPConv(256, 64, [])
    assert layer.eval()(a).square().mean() == pytest.approx(1, abs=0.05)


def test_fourier_features_are_computed_in_float32():
    fourier = MPFourier(16)
    x = torch.tensor([0.5, 3.0], dtype=torch.bfloat16)
    assert fourier(x).dtype == torch.bfloat16
    assert torch.equal(fourier(x), fourier(x.float()).bfloat16())


# --------------------------------------------------------------------------------------- resample


def brute_resample(x: Tensor, f: list[float], mode: str) -> Tensor:
    """The definition: spread or gather every pixel with every pair of taps."""
    taps = torch.tensor(f, dtype=torch.float64) / sum(f)
    pad, (n, c, h, w) = (len(f) - 1) // 2, x.shape
    if mode == "down":
        out = torch.zeros(n, c, h // 2, w // 2, dtype=torch.float64)
        for i, j in ((i, j) for i in range(h // 2) for j in range(w // 2)):
            for a, b in ((a, b) for a in range(len(f)) for b in range(len(f))):
                p, q = 2 * i + a - pad, 2 * j + b - pad
                if 0 <= p < h and 0 <= q < w:
                    out[:, :, i, j] += taps[a] * taps[b] * x[:, :, p, q]
        return out
    out = torch.zeros(n, c, 2 * h, 2 * w, dtype=torch.float64)
    for i, j in ((i, j) for i in range(h) for j in range(w)):
        for a, b in ((a, b) for a in range(len(f)) for b in range(len(f))):
            p, q = 2 * i + a - pad, 2 * j + b - pad
            if 0 <= p < 2 * h and 0 <= q < 2 * w:
                out[:, :, p, q] += 4 * taps[a] * taps[b] * x[:, :, i, j]
    return out


@pytest.mark.parametrize("f", [[1, 1], [2, 2], [1, 3, 3, 1], [1, 2], [0, 1, 2, 3, 0, 1]])
@pytest.mark.parametrize("mode", ["up", "down"])
def test_resample(f, mode):
    x = randn(2, 3, 4, 6)
    assert_rel(resample(x, f, mode), brute_resample(x, f, mode), 1e-6)


def test_resample_refuses():
    x = randn(1, 1, 4, 4)
    with pytest.raises(ValueError, match="sideways"):
        resample(x, [1, 1], "sideways")
    with pytest.raises(ValueError, match="odd length"):
        resample(x, [1, 2, 1], "up")
    assert resample(x) is x


# ------------------------------------------------------------------- forced weight normalisation


class Layers(nn.Module):
    """Linear layers and convolutions, some of equal fan-in."""

    def __init__(self) -> None:
        super().__init__()
        shapes = [(9, 4, []), (4, 7, [3, 3]), (36, 5, []), (4, 2, [3, 3]), (4, 9, [1, 1])]
        self.layers = nn.ModuleList(MPConv(*shape) for shape in shapes)
        self.other = nn.Linear(3, 3)


@pytest.mark.parametrize("stack", [0, 100, 1 << 20])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_all_at_once_is_what_each_layer_does(monkeypatch, stack, layout):
    monkeypatch.setattr(mp, "_STACK_CPU", stack)
    torch.manual_seed(0)
    net = Layers().to(memory_format=layout)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    strides = [layer.weight.stride() for layer in net.layers]
    normalize_weights(net)
    for name, p in net.named_parameters():
        if name.startswith("other"):
            assert torch.equal(p, before[name])
            continue
        torch.testing.assert_close(p, normalize(before[name]), rtol=5e-7, atol=0)
        if layout == torch.contiguous_format:
            assert torch.equal(p, normalize(before[name]))
        assert p.requires_grad and p.grad_fn is None
    assert strides == [layer.weight.stride() for layer in net.layers]


def test_fixed_point_of_the_forced_normalisation():
    layer = MPConv(64, 8, [3, 3]).train()

    def rms() -> Tensor:
        return layer.weight.detach().square().mean((1, 2, 3)).sqrt()

    x = randn(1, 64, 4, 4)
    layer(x)
    assert torch.allclose(rms(), torch.tensor(1 - EPS), atol=5e-5)
    for _ in range(2):
        layer(x)
    torch.testing.assert_close(rms(), torch.full((8,), 1 - EPS), rtol=2e-6, atol=0)


def test_the_switch():
    layer = MPConv(8, 4, [])
    before = layer.weight.detach().clone()
    set_forced_weight_norm(nn.Sequential(layer), False)
    layer.train()(randn(2, 8))
    assert torch.equal(layer.weight, before)
    set_forced_weight_norm(layer, True)
    layer.eval()(randn(2, 8))
    assert torch.equal(layer.weight, before)
    layer.train()(randn(2, 8))
    assert torch.equal(layer.weight, normalize(before))


@pytest.mark.slow
def test_forced_normalisation_of_a_compiled_layer():
    # A graph that wrote to the weight itself would lose what it wrote (Inductor, torch 2.15).
    torch.manual_seed(0)
    layer = MPConv(8, 6, [3, 3]).train()
    compiled = copy.deepcopy(layer)
    graph = torch.compile(compiled)
    x = randn(2, 8, 4, 4)
    for _ in range(2):
        a, b = layer(x), graph(x)
        torch.testing.assert_close(a, b)
        a.sum().backward()
        b.sum().backward()
        torch.testing.assert_close(layer.weight, compiled.weight, rtol=1e-6, atol=0)
        torch.testing.assert_close(layer.weight.grad, compiled.weight.grad, rtol=1e-4, atol=1e-5)
        with torch.no_grad():  # as an optimizer would
            layer.weight.mul_(1.5)
            compiled.weight.mul_(1.5)


# ------------------------------------------------------------------------------------------ frozen


def counted(monkeypatch) -> list[int]:
    """How often a weight is scaled."""
    calls = []
    scale = MPConv._scaled_weight
    monkeypatch.setattr(
        MPConv, "_scaled_weight", lambda self, *a: calls.append(1) or scale(self, *a)
    )
    return calls


def test_frozen_weights_are_scaled_once(monkeypatch):
    layer, x = MPConv(8, 4, [3, 3]).eval(), randn(2, 8, 4, 4)
    calls = counted(monkeypatch)
    with torch.no_grad():
        expected = {gain: layer(x, gain) for gain in (1.0, 0.3)}
        low = layer(x.bfloat16())
        calls.clear()
        with frozen_weights(layer):
            for _ in range(3):
                for gain, y in expected.items():
                    assert torch.equal(layer(x, gain), y)
                assert torch.equal(layer(x.bfloat16()), low)
            assert len(calls) == 3  # two gains and another dtype
            with frozen_weights(layer):  # the inner one must not end the outer one
                layer(x)
            assert layer.frozen is not None and len(calls) == 3
        assert layer.frozen is None
        layer(x)
        assert len(calls) == 4


def test_frozen_weights_notice_changes():
    layer, x = MPConv(8, 4, [3, 3]).eval(), randn(2, 8, 4, 4)
    changes = [
        lambda: layer.weight.mul_(randn(4, 1, 1, 1)),
        lambda: layer.load_state_dict({"weight": randn(4, 8, 3, 3, seed=5)}),
        lambda: normalize_weights(layer),
        lambda: torch._foreach_lerp_([layer.weight], [randn(4, 8, 3, 3, seed=6)], 0.5),
    ]
    with torch.no_grad(), frozen_weights(layer):
        layer(x)
        for change in changes:
            change()
            layer.frozen, kept = None, layer.frozen
            expected = layer(x)
            layer.frozen = kept
            assert torch.equal(layer(x), expected)


def test_frozen_weights_keep_nothing_for_gradients():
    layer, x = MPConv(8, 4, []).eval(), randn(2, 8)
    with frozen_weights(layer):
        with torch.no_grad():
            layer(x)
        layer(x).sum().backward()
    assert layer.weight.grad is not None
    with pytest.raises(RuntimeError, match="within"):
        with frozen_weights(layer):
            raise RuntimeError("within")
    assert layer.frozen is None


def test_frozen_weights_in_inference_mode():
    with torch.inference_mode():
        layer = MPConv(8, 4, []).eval()
        x = randn(2, 8)
        with frozen_weights(layer):
            assert torch.equal(layer(x), layer(x))


def test_forced_normalisation_under_frozen_weights():
    layer, x = MPConv(8, 4, []).train(), randn(2, 8)
    expected = normalize(layer.weight.detach())
    with torch.no_grad(), frozen_weights(layer):
        layer(x)
        layer(x)
    assert torch.equal(layer.weight, expected)


# ----------------------------------------------------------------------------------------- dropout


def test_rows_keep_their_masks():
    x = torch.ones(6, 3, 5, 7)
    keys = torch.tensor([5, -3, 2**62, 8, 9, 10])
    whole = row_dropout(x, 0.4, keys, 2)
    order = torch.tensor([4, 1, 5])
    assert torch.equal(row_dropout(x[:3], 0.4, keys[order], 2), whole[order])
    pieces = [row_dropout(x[i : i + 2], 0.4, keys[i : i + 2], 2) for i in (0, 2, 4)]
    assert torch.equal(torch.cat(pieces), whole)
    rows = {tuple(row.flatten().tolist()) for row in whole}
    assert len(rows) == len(keys)
    assert not torch.equal(row_dropout(x, 0.4, keys, 3), whole)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_rate_and_scale(p):
    x, keys = torch.ones(64, 10_000), torch.arange(64)
    y = row_dropout(x, p, keys, 0)
    kept = y != 0
    spread = math.sqrt(p * (1 - p))
    assert abs(kept.float().mean() - (1 - p)) < 5 * spread / math.sqrt(x.numel())
    assert torch.allclose(y[kept], torch.tensor(1 / (1 - p)), rtol=1e-4)
    # rows, columns, neighbours (four share a hash) and layers are independent
    rows = (kept.float().mean(1) - (1 - p)) / (spread / math.sqrt(10_000))
    assert rows.abs().max() < 4.5 and 0.6 < rows.std() < 1.4
    columns = (kept.float().mean(0) - (1 - p)) / (spread / 8)
    assert columns.abs().max() < 6 and 0.95 < columns.std() < 1.05
    z = (kept.float() - (1 - p)) / spread
    other = ((row_dropout(x, p, keys, 1) != 0).float() - (1 - p)) / spread
    for a, b in [(z[:, :-k], z[:, k:]) for k in (1, 2, 3, 4)] + [(z, other), (z[1:], z[:-1])]:
        assert abs((a * b).mean()) < 5 / math.sqrt(a.numel())


def test_dropout_gradient_and_limits():
    x, keys = randn(3, 10).requires_grad_(), torch.arange(3)
    y = row_dropout(x, 0.5, keys, 0)
    y.sum().backward()
    assert torch.equal(x.grad, torch.where(y == 0, 0.0, 2.0))
    assert row_dropout(x, 0.0, keys, 0) is x
    assert torch.equal(row_dropout(x, 1.0, keys, 0), torch.zeros(3, 10))
    assert row_dropout(x.bfloat16(), 0.5, keys, 0).dtype == torch.bfloat16
