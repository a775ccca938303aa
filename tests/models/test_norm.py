"""Synchronised BatchNorm: several gloo processes against torch's module on the whole batch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from models.norm import SyncBatchNorm, convert_sync_bn
from runtime import distributed
from tests import gloo

SPLITS = {2: (5, 3), 4: (2, 1, 4, 1)}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-6}


def close(a, b, dtype, scale=None):
    scale = b.abs().max().clamp(min=1e-3) if scale is None else scale
    return bool((a.double() - b).abs().max() <= TOLERANCE[dtype] * scale)


def net(dtype=torch.float64, momentum=0.1, affine=True):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6, momentum=momentum, affine=affine),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3, bias=False),
        nn.BatchNorm2d(5, momentum=momentum, affine=affine),
        nn.Flatten(),
        nn.Linear(5 * 36, 4),
        nn.BatchNorm1d(4, momentum=momentum, affine=affine),
    ).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.normal_(1.0, 0.3)
    return model


def batch(n, dtype, step=0):
    g = torch.Generator().manual_seed(1 + step)
    x = torch.randn(n, 3, 8, 8, generator=g, dtype=torch.float64) * 2 + 5
    weights = torch.randn(n, 4, generator=g, dtype=torch.float64)
    return x.to(dtype), weights.to(dtype)


def steps(model, parts, channels_last=False):
    """Two forwards and backwards on rows `parts` of each; everything that must agree."""
    total = sum(SPLITS[len(parts)]) if isinstance(parts, tuple) else parts
    rows = slice(0, total)
    if isinstance(parts, tuple):
        rank = distributed.rank()
        rows = slice(sum(parts[:rank]), sum(parts[: rank + 1]))
    dtype = next(model.parameters()).dtype
    outs, grads = [], []
    for step in range(2):
        x, weights = batch(total, dtype, step)
        x = x[rows].clone()
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        z = model(x)
        (z * z * weights[rows]).sum().backward()
        outs.append(z.detach())
        grads.append(x.grad)
    params = [p.grad for p in model.parameters()]
    return outs, grads, params, list(model.buffers())


def child(parts, dtype, momentum, affine, channels_last):
    model = convert_sync_bn(net(dtype, momentum, affine))
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    return steps(model, parts, channels_last)


@pytest.mark.parametrize(
    ("world", "dtype", "momentum", "affine", "channels_last"),
    [
        (2, torch.float64, 0.1, True, False),
        (4, torch.float64, None, True, False),
        (2, torch.float64, 0.3, False, True),
        (2, torch.float32, 0.1, True, True),
        (4, torch.float32, 0.1, True, False),
    ],
)
def test_ranks_equal_one_process(world, dtype, momentum, affine, channels_last):
    parts = SPLITS[world]
    ranks = gloo.run(world, child, parts, dtype, momentum, affine, channels_last)
    # The oracle is float64 for float32 too; torch's own float32 errs as much as ours.
    oracle = net(dtype, momentum, affine).double()
    outs, grads, params, buffers = steps_of_cast(oracle, sum(parts), dtype)
    for step in range(2):
        assert close(torch.cat([r[0][step] for r in ranks]), outs[step], dtype)
        assert close(torch.cat([r[1][step] for r in ranks]), grads[step], dtype)
    # Of the whole gradient: a bias in front of BatchNorm has the gradient 0, and only noise in it.
    size = max(p.abs().max() for p in params)
    for i, want in enumerate(params):
        assert close(sum(r[2][i].double() for r in ranks), want, dtype, size), i
    for i, want in enumerate(buffers):
        assert all(torch.equal(r[3][i], ranks[0][3][i]) for r in ranks)
        assert close(ranks[0][3][i], want.double(), dtype), i


def steps_of_cast(model, n, dtype):
    """`steps` in float64 on the values that the ranks saw in `dtype`."""
    outs, grads = [], []
    for step in range(2):
        x, weights = (t.double() for t in batch(n, dtype, step))
        x.requires_grad_()
        z = model(x)
        (z * z * weights).sum().backward()
        outs.append(z.detach())
        grads.append(x.grad)
    return outs, grads, [p.grad for p in model.parameters()], list(model.buffers())


def layer_child(dtype, channels_last):
    """One layer: nothing but BatchNorm can err."""
    bn = SyncBatchNorm(6).to(dtype)
    with torch.no_grad():
        bn.weight.copy_(torch.linspace(-1, 2, 6))
    x = torch.randn(9, 6, 5, 7, generator=torch.Generator().manual_seed(3)) * 2 + 5
    x = (x[:6], x[6:])[distributed.rank()].to(dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    y = bn(x)
    assert not channels_last or y.is_contiguous(memory_format=torch.channels_last)
    (y**3 + y).sum().backward()
    return x.detach(), y.detach(), x.grad, bn.weight.grad, bn.bias.grad, bn.running_var


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("channels_last", [False, True])
def test_one_layer(dtype, channels_last):
    a, b = gloo.run(2, layer_child, dtype, channels_last)
    x = torch.cat([a[0], b[0]])
    ours = [torch.cat([a[1], b[1]]), torch.cat([a[2], b[2]]), a[3].double() + b[3]]
    ours += [a[4].double() + b[4], a[5]]
    torchs, exact = one_layer(x, channels_last), one_layer(x.double(), channels_last)
    for got, theirs, want in zip(ours, torchs, exact, strict=True):
        # channels_last in float32 on the CPU: torch's own sums err by up to 1e-5 here.
        size = want.abs().max()
        allowed = max(TOLERANCE[dtype] * size, (theirs.double() - want).abs().max())
        assert (got.double() - want).abs().max() <= allowed
    assert torch.equal(a[5], b[5])


def one_layer(x, channels_last):
    """torch's BatchNorm on the whole batch: output, gradients, running variance."""
    bn = nn.BatchNorm2d(6).to(x.dtype)
    with torch.no_grad():
        bn.weight.copy_(torch.linspace(-1, 2, 6))
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    x = x.clone().requires_grad_()
    y = bn(x)
    (y**3 + y).sum().backward()
    return [y.detach(), x.grad, bn.weight.grad, bn.bias.grad, bn.running_var]


def offset_child(mean):
    x = mean + torch.randn(64, 3, generator=torch.Generator().manual_seed(distributed.rank()))
    bn = SyncBatchNorm(3)
    return x, bn(x).detach(), bn.running_var


def test_a_large_mean_does_not_drown_the_variance():
    # Sums of squares in float32 would keep no digit of a variance of 1 beside a mean of 3000.
    ranks = gloo.run(2, offset_child, 3000.0)
    x = torch.cat([r[0] for r in ranks]).double()
    want = nn.BatchNorm1d(3).double()
    out = want(x)
    assert torch.allclose(torch.cat([r[1] for r in ranks]).double(), out, atol=2e-3)
    assert torch.allclose(ranks[0][2].double(), want.running_var, rtol=1e-5)


def empty_child():
    torch.manual_seed(0)
    bn = SyncBatchNorm(3).double()
    x = torch.randn(7, 3, 2, 2, dtype=torch.float64)
    x = (x if distributed.rank() else x[:0]).clone().requires_grad_()
    y = bn(x)
    y.pow(3).sum().backward()
    return y.detach(), x.grad, bn.weight.grad, bn.running_var


def test_a_rank_without_rows():
    none, all_ = gloo.run(2, empty_child)
    torch.manual_seed(0)
    bn = nn.BatchNorm2d(3).double()
    x = torch.randn(7, 3, 2, 2, dtype=torch.float64).requires_grad_()
    y = bn(x)
    y.pow(3).sum().backward()
    assert none[0].shape == none[1].shape == (0, 3, 2, 2) and not none[2].any()
    assert torch.allclose(all_[0], y) and torch.allclose(all_[1], x.grad, atol=1e-10)
    assert torch.allclose(all_[2], bn.weight.grad) and torch.equal(none[3], all_[3])


def eval_child():
    model = net()
    mine = convert_sync_bn(copy.deepcopy(model))
    model.eval(), mine.eval()
    x = batch(4, torch.float64)[0][: 1 + distributed.rank()]  # no collective may be waited for
    if distributed.rank():
        return True
    same = torch.equal(model(x), mine(x))
    return same and all(map(torch.equal, model.buffers(), mine.buffers()))


def test_eval_is_torch_and_talks_to_nobody():
    assert all(gloo.run(2, eval_child))


def autocast_child(channels_last):
    torch.manual_seed(0)
    format_ = torch.channels_last if channels_last else torch.contiguous_format
    model = convert_sync_bn(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
    model = model.to(memory_format=format_)
    x = batch(8, torch.float32)[0][distributed.rank() * 4 :][:4].contiguous(memory_format=format_)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x.requires_grad_())
    assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=format_)
    assert all(b.dtype == torch.float32 for b in (model[1].running_mean, model[1].running_var))
    (y.float() ** 3).sum().backward()
    assert x.grad.dtype == torch.float32 and model[1].weight.grad.dtype == torch.float32
    return y.detach(), x.grad, model[1].weight.grad, model[1].running_var


@pytest.mark.parametrize("channels_last", [False, True])
def test_bfloat16_autocast(channels_last):
    ranks = gloo.run(2, autocast_child, channels_last)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    x = batch(8, torch.float32)[0].requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    (y.float() ** 3).sum().backward()
    # bf16 keeps 8 bits; the statistics, made in fp32, keep what the convolution's output has.
    assert torch.allclose(torch.cat([r[0] for r in ranks]).float(), y.float(), atol=0.03)
    gap = torch.cat([r[1] for r in ranks]) - x.grad
    assert gap.norm() <= 0.02 * x.grad.norm()
    assert torch.allclose(ranks[0][2] + ranks[1][2], model[1].weight.grad, rtol=0.02, atol=1.0)
    assert torch.allclose(ranks[0][3], model[1].running_var, rtol=1e-4)


def frozen_child():
    bn = SyncBatchNorm(3)
    bn.bias.requires_grad_(False)
    bn(torch.randn(4, 3)).sum().backward()
    return bn.bias.grad is None and bn.weight.grad is not None


def test_a_frozen_bias_gets_no_gradient():
    assert all(gloo.run(2, frozen_child))


def test_one_process_is_torch_bit_for_bit():
    model, mine = net(torch.float32), convert_sync_bn(net(torch.float32))
    a, b = steps(model, 8), steps(mine, 8)
    for want, got in zip(a, b, strict=True):
        assert all(map(torch.equal, want, got))


def test_conversion_keeps_names_state_and_objects():
    model = nn.ModuleDict({"a": net(), "b": nn.SyncBatchNorm(3), "c": nn.BatchNorm3d(2)})
    model["a"][1].eval()
    model["c"].bias.requires_grad_(False)
    names, params = list(model.state_dict()), list(model.parameters())
    state = copy.deepcopy(model.state_dict())
    out = convert_sync_bn(model)
    assert out is model and list(out.state_dict()) == names
    assert all(torch.equal(out.state_dict()[k], state[k]) for k in names)
    assert all(p is q for p, q in zip(params, out.parameters(), strict=True))
    assert sum(isinstance(m, SyncBatchNorm) for m in out.modules()) == 5
    assert not out["a"][1].training and out["a"][4].training and not out["c"].bias.requires_grad
    alone = nn.BatchNorm1d(3, eps=1e-3, momentum=None, affine=False, track_running_stats=False)
    new = convert_sync_bn(alone)
    assert isinstance(new, SyncBatchNorm) and new.eps == 1e-3 and new.momentum is None
    assert new.weight is None and new.running_mean is None and not new.track_running_stats
    assert torch.equal(new(torch.eye(3)), alone(torch.eye(3)))


def bad_child():
    said = []
    for shape in ((4,), (4, 2)):
        try:
            SyncBatchNorm(3)(torch.zeros(shape))
        except ValueError as error:
            said.append(str(error))
    return said


def test_bad_shapes_are_refused_before_anybody_waits():
    for said in gloo.run(2, bad_child):
        assert len(said) == 2 and all("\n" not in s for s in said)
