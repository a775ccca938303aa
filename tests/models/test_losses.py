"""Contrastive losses against a plain float64 form, under ranks, autocast and bad arguments."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models import losses
from models.losses import DCL, DCLW, MultiPositive, NTXent
from runtime import distributed
from tests import gloo


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def views(V: int = 2, n: int = 9, d: int = 6, *, seed: int = 0, noise: float = 0.5) -> Tensor:
    """[V, n, d] float64: noisy copies of n directions, of different lengths."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(1, n, d, generator=g, dtype=torch.float64)
    z = z + noise * torch.randn(V, n, d, generator=g, dtype=torch.float64)
    return z * (torch.rand(V, n, 1, generator=g, dtype=torch.float64) * 3 + 0.1)


def plain(x: Tensor, T: float, kind: str, sigma: float = 0.5) -> Tensor:
    """Losses per anchor [V, n] by explicit loops over anchors; differentiable."""
    V, n, d = x.shape
    z = (x / x.norm(dim=-1, keepdim=True)).reshape(V * n, d)
    S = z @ z.T / T
    cosine = (z[:n] * z[n : 2 * n]).sum(1).detach()
    w = 2 - n * (cosine / sigma).softmax(0) if kind == "dclw" else torch.ones(n)
    losses = []
    for i in range(V * n):
        pos = [u * n + i % n for u in range(V) if u != i // n]
        other = [k for k in range(V * n) if k != i]
        negative = [k for k in other if k not in pos]
        if kind in ("dcl", "dclw"):
            losses.append(S[i, negative].logsumexp(0) - w[i % n] * S[i, pos[0]])
        elif kind == "in":
            losses.append(S[i, other].logsumexp(0) - S[i, pos].logsumexp(0))
        else:
            losses.append(S[i, other].logsumexp(0) - S[i, pos].mean())
    return torch.stack(losses).view(V, n)


def module(kind: str, T: float, **how) -> torch.nn.Module:
    if kind in ("in", "out"):
        return MultiPositive(T, kind, **how)
    return {"ntx": NTXent, "dcl": DCL, "dclw": DCLW}[kind](T, **how)


def make(kind: str, T: float, **how):
    """The loss of that name as a function of [V, n, d]."""
    loss = module(kind, T, **how)
    return loss if isinstance(loss, MultiPositive) else lambda x: loss(*x)


CASES = [
    ("ntx", 2),
    ("dcl", 2),
    ("dclw", 2),
    ("in", 2),
    ("out", 2),
    ("in", 4),
    ("out", 3),
    ("out", 4),
]


@pytest.mark.parametrize("T", [0.5, 0.07, 0.01])  # 0.01: the shifted form
@pytest.mark.parametrize(("kind", "V"), CASES)
def test_equal_to_the_plain_form(kind, V, T):
    x = views(V).requires_grad_()
    expected = plain(x, T, kind).mean()
    (grad,) = torch.autograd.grad(expected, x)
    for chunk in (None, 1, 4, 9, 100):
        got = make(kind, T, chunk=chunk)(x)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(torch.autograd.grad(got, x)[0], grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("T", [0.5, 0.01])
@pytest.mark.parametrize(("kind", "V"), CASES)
def test_per_anchor(kind, V, T):
    x = views(V)
    loss = module(kind, T, chunk=4)
    got = loss.per_anchor(x) if isinstance(loss, MultiPositive) else loss.per_anchor(*x).view(V, -1)
    torch.testing.assert_close(got, plain(x, T, kind), rtol=1e-12, atol=1e-12)
    assert not got.requires_grad


def test_gradcheck():
    x = views(3, 4, 3).requires_grad_()
    for kind in ("in", "out"):
        assert torch.autograd.gradcheck(make(kind, 0.3, chunk=3), (x,))


def test_the_gradient_scales_and_adds_up():
    x = views().requires_grad_()
    (once,) = torch.autograd.grad(NTXent(0.2)(*x), x)
    (got,) = torch.autograd.grad(-3 * NTXent(0.2)(*x) + (x * 2).sum(), x)
    torch.testing.assert_close(got, -3 * once + 2)
    a, b = x.detach().unbind()
    (one_sided,) = torch.autograd.grad(NTXent(0.2)(a.requires_grad_(), b), a)
    torch.testing.assert_close(one_sided, once[0])


def test_a_second_derivative_is_refused():
    x = views().requires_grad_()
    with pytest.raises(RuntimeError, match="differentiable twice"):
        torch.autograd.grad(NTXent()(*x), x, create_graph=True)


def test_one_image():
    x = views(2, 1).requires_grad_()
    for kind in ("ntx", "in", "out"):
        loss = make(kind, 0.1)(x)
        assert loss.item() == 0
        assert torch.autograd.grad(loss, x)[0].abs().max() == 0
    assert NTXent().top1(*x) == 1
    assert NTXent().per_anchor(*x).tolist() == [0, 0]
    for loss in (DCL(), DCLW()):
        with pytest.raises(ValueError, match="at least 2"):
            loss(*x)


def test_near_perfect_alignment_keeps_its_precision():
    """fp32: a loss of 1e-9 and its gradient; 1 - P as a difference would be 0."""
    x = torch.eye(8, dtype=torch.float64)
    x = torch.stack([x, x + 1e-3 * views(1, 8, 8, seed=1)[0]]).requires_grad_()
    expected = plain(x, 0.05, "in").mean()
    (grad,) = torch.autograd.grad(expected, x)
    single = x.detach().float().requires_grad_()
    loss = NTXent(0.05)(*single)
    (got,) = torch.autograd.grad(loss, single)
    assert 0 < expected < 1e-6
    assert abs(loss.double() - expected) < 1e-5 * expected
    # of the unit direction fp32 keeps 6e-8; the gradient is tangential, 1e-3 of what it is made of
    assert (got.double() - grad).abs().max() < 1e-3 * grad.abs().max()


@pytest.mark.parametrize("T", [1.0, 0.1, 0.025, 0.0249, 0.001, 1e-6])
def test_extreme_temperatures_are_finite_in_fp32(T):
    for x in (views(), torch.ones(2, 5, 3), torch.stack([views()[0], -views()[0]])):
        x = x.float().requires_grad_()
        loss = NTXent(T)(*x)
        (grad,) = torch.autograd.grad(loss, x)
        assert loss.isfinite() and grad.isfinite().all()
        assert 0 <= loss <= (2 / T + math.log(2 * x.shape[1] - 1)) * (1 + 1e-5)


def test_collapse_is_the_logarithm_of_the_number_of_others():
    x = torch.ones(2, 16, 4)
    assert NTXent()(*x).item() == pytest.approx(math.log(31), rel=1e-6)
    assert NTXent().top1(*x).item() == pytest.approx(1 / 31)  # ties: chance


def test_top1():
    x = views(2, 30, 4, noise=0.6)
    z = torch.nn.functional.normalize(x, dim=-1).flatten(0, 1)
    nearest = (z @ z.T).fill_diagonal_(-2).argmax(1)
    expected = (nearest % 30 == torch.arange(60) % 30).double().mean()
    assert 0.1 < expected < 0.9
    assert NTXent(chunk=7).top1(*x) == pytest.approx(expected.item())
    assert MultiPositive().top1(x) == pytest.approx(expected.item())


def test_dclw_weights_carry_no_gradient_and_average_one():
    x = views(n=12)
    loss = DCLW(0.2, sigma=0.3)
    w = loss._weight(torch.nn.functional.normalize(x, dim=-1))
    assert w.mean().item() == pytest.approx(1) and w.std() > 0.01
    torch.testing.assert_close(DCLW(0.2, sigma=1e6)(*x), DCL(0.2)(*x), rtol=1e-5, atol=1e-5)


def test_number_formats():
    x = views(2, 40, 32)
    exact = NTXent(0.1)(*x)
    assert exact.dtype == torch.float64
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        low = x.to(dtype).requires_grad_()
        loss = NTXent(0.1)(*low)
        assert loss.dtype == torch.float32
        # only the input is rounded: as the same numbers in fp64 give
        torch.testing.assert_close(
            loss.double(), NTXent(0.1)(*low.detach().double()), rtol=2e-6, atol=2e-6
        )
        loss.backward()
        assert low.grad.dtype == dtype


def test_autocast_changes_nothing():
    x = views(2, 40, 32).float().requires_grad_()
    loss = NTXent(0.1)(*x)
    (grad,) = torch.autograd.grad(loss, x)
    with torch.autocast("cpu", torch.bfloat16):
        under = NTXent(0.1)(*x)
        figures = NTXent(0.1).per_anchor(*x)
    assert under == loss
    assert torch.equal(torch.autograd.grad(under, x)[0], grad)
    assert torch.equal(figures, NTXent(0.1).per_anchor(*x))


class Precisions(TorchDispatchMode):
    """Notes what matrix products of fp32 are allowed to be."""

    def __init__(self):
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(name in str(func) for name in ("mm", "matmul")):
            self.seen.append(torch.get_float32_matmul_precision())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("T", [0.5, 0.01])
def test_no_tf32(T):
    before = torch.get_float32_matmul_precision()
    x = views(2, 12, 8).float().requires_grad_()
    try:
        torch.set_float32_matmul_precision("high")
        with Precisions() as products:
            NTXent(T, chunk=5)(*x).backward()
            NTXent(T, chunk=5).top1(*x)
        assert len(products.seen) > 4 and set(products.seen) == {"highest"}
        with pytest.raises(ValueError, match="at least 2"):
            DCL()(*x[:, :1])
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_without_a_graph():
    x = views().requires_grad_()
    with torch.no_grad():
        quiet = NTXent()(*x)
    assert not quiet.requires_grad and quiet == NTXent()(*x)
    with torch.inference_mode():
        assert NTXent()(*views()) == quiet


def test_a_row_of_zeros_is_finite():
    x = views().float()
    x[0, 3] = 0
    x.requires_grad_()
    loss = NTXent()(*x)
    loss.backward()
    assert loss.isfinite() and x.grad.isfinite().all()


class Operations(TorchDispatchMode):
    """Notes every operation, and the number of entries of every tensor that one returns."""

    def __init__(self):
        super().__init__()
        self.names, self.sizes = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.names.append(func)
        self.sizes.extend(t.numel() for t in tree_leaves(out) if isinstance(t, Tensor))
        return out


@pytest.mark.parametrize("T", [0.5, 0.01])
def test_memory_is_rows_times_columns(T):
    """No tensor of columns x columns is ever made."""
    x = views(2, 256, 4).float().requires_grad_()
    with Operations() as seen:
        NTXent(T, chunk=16)(*x).backward()
    assert 512 * 4 <= max(seen.sizes) <= 16 * 512


def test_what_is_kept_between_the_passes_changes_nothing(monkeypatch):
    monkeypatch.setitem(losses.BLOCK_SIDE, "cpu", 16)
    x = views(2, 30, 4).requires_grad_()  # blocks of 16 and of 12
    found = []
    for entries in (10**6, 0):
        monkeypatch.setitem(losses.KEPT_ENTRIES, "cpu", entries)
        with Operations() as seen:
            loss = NTXent(0.5)(*x)
        products = seen.names.count(torch.ops.aten.mm.out)
        found.append((loss, *torch.autograd.grad(loss, x), products))
    (kept, kept_grad, fewer), (anew, anew_grad, more) = found
    assert torch.equal(kept, anew) and torch.equal(kept_grad, anew_grad)
    assert (fewer, more) == (10, 20)


def test_nothing_is_kept_where_there_is_one_pass(monkeypatch):
    monkeypatch.setitem(losses.BLOCK_SIDE, "cpu", 16)
    x = views(2, 30, 4).requires_grad_()
    for grad in (True, False):
        with torch.set_grad_enabled(grad), Operations() as seen:
            NTXent(0.5)(*x)
        assert (max(seen.sizes) > 16 * 16) == grad  # a block


@pytest.mark.parametrize("T", [0, -0.1, math.nan, math.inf, "warm", None])
def test_bad_temperatures(T):
    for make_loss in (NTXent, DCL, DCLW, MultiPositive):
        with pytest.raises(ValueError, match="temperature=") as error:
            make_loss(T)
        assert "\n" not in str(error.value)


def test_bad_arguments():
    a = torch.randn(4, 3)
    for wrong, word in (
        ((a, a[:3]), r"\(4, 3\), \(3, 3\)"),
        ((a[0], a[0]), "n, d"),
        ((a, None), "NoneType"),
        ((a[:0], a[:0]), "empty"),
        ((a, a.double()), "type or device"),
        ((a.long(), a.long()), "floating"),
    ):
        for loss in (NTXent(), DCL(), DCLW()):
            with pytest.raises(ValueError, match=word) as error:
                loss(*wrong)
            assert "\n" not in str(error.value)
    for wrong, word in ((a, "V, n, d"), (a[None], "at least 2"), ([a, a], "list")):
        with pytest.raises(ValueError, match=word):
            MultiPositive()(wrong)
    with pytest.raises(ValueError, match="reduce='mean'"):
        MultiPositive(0.5, "mean")
    for chunk in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="chunk="):
            NTXent(chunk=chunk)
    with pytest.raises(ValueError, match="sigma=0"):
        DCLW(sigma=0)


# ------------------------------------------------------------------------------- several processes


def step(kind: str, x: Tensor, T: float, chunk: int | None) -> tuple[Tensor, list[Tensor]]:
    """Loss, and gradients of an encoder that all ranks share, averaged over them."""
    world, rank = distributed.world_size(), distributed.rank()
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 5, bias=False)
    ).to(x.dtype)
    n = x.shape[1] // world
    mine = x[:, rank * n : (rank + 1) * n]
    loss = make(kind, T, chunk=chunk)(net(mine.flatten(0, 1)).view(len(x), n, -1))
    loss.backward()
    distributed.average_gradients(net.parameters())
    return distributed.mean(loss), [p.grad for p in net.parameters()]


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_equal_one_process(world):
    got = gloo.run(world, every_kind, world)
    for kind, V, dtype, rel in KINDS:
        loss, grads = step(kind, views(V, 8).to(dtype), 0.2, 3)
        for answers in got:
            there, theirs = answers[kind, V, dtype]
            torch.testing.assert_close(there, loss, rtol=rel, atol=rel)
            for g, expected in zip(theirs, grads, strict=True):
                size = max(h.abs().max() for h in grads)
                assert (g - expected).abs().max() <= rel * size


KINDS = [
    (kind, V, dtype, rel)
    for kind, V in CASES
    for dtype, rel in ((torch.float64, 1e-9), (torch.float32, 1e-6))
]


def every_kind(world: int) -> dict:
    return {(k, V, t): step(k, views(V, 8).to(t), 0.2, None) for k, V, t, _ in KINDS}


def one_image_each() -> list[float]:
    x = views(2, 2)[:, distributed.rank() : distributed.rank() + 1]
    return [NTXent(0.2)(*x).item(), DCL(0.2)(*x).item(), DCL(0.2).top1(*x).item()]


def test_one_image_on_each_of_two_ranks():
    got = torch.tensor(gloo.run(2, one_image_each), dtype=torch.float64).mean(0)
    x = views(2, 2)
    expected = [NTXent(0.2)(*x), DCL(0.2)(*x), DCL(0.2).top1(*x)]
    torch.testing.assert_close(got, torch.stack(expected))


def unequal() -> str:
    x = views(2, 3 + distributed.rank())
    try:
        NTXent()(*x)
    except ValueError as error:
        return str(error)
    return "no error"


def test_unequal_batches_are_an_error_on_every_rank():
    for said in gloo.run(2, unequal):
        assert "equal" in said and "(2, 3, 6), (2, 4, 6)" in said and "\n" not in said


def local() -> tuple[float, float]:
    x = views(2, 4, seed=distributed.rank())
    return NTXent(gather=False)(*x).item(), NTXent()(*x).item()


def test_gather_can_be_switched_off():
    for rank, (alone, together) in enumerate(gloo.run(2, local)):
        assert alone == pytest.approx(NTXent()(*views(2, 4, seed=rank)).item(), rel=1e-12)
        assert together > alone + 0.1


@pytest.mark.parametrize("loss", [NTXent, MultiPositive, DCL, DCLW])
def test_temperatures_that_leave_the_range_are_refused(loss):
    for temperature in (9e-31, 1e-37, 1e-38, 1e-45, 1e-320):
        with pytest.raises(ValueError, match="is below 1e-30, where"):
            loss(temperature)
    with pytest.raises(ValueError, match="sigma=1e-38 is below"):
        DCLW(sigma=1e-38)
    views = torch.randn(2, 256, 8, generator=torch.Generator().manual_seed(0))
    views.requires_grad_()
    found = (loss(1e-30)(views) if loss is MultiPositive else loss(1e-30)(*views)) * 1e-30
    found.backward()
    assert found.isfinite() and views.grad is not None and views.grad.isfinite().all()
