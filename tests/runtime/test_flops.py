"""FLOPs of steps against torch's own counter, and what is not to be counted."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from runtime import flops
from runtime.flops import FlopCounter, StepFlops, matmul_peak

pytestmark = pytest.mark.usefixtures("one_thread")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.strided = nn.Conv2d(8, 8, 4, stride=2, groups=2)
        self.heads = nn.Linear(8, 24)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        h = self.strided(F.silu(self.conv(x))).flatten(2).mT
        q, k, v = self.heads(h).chunk(3, -1)
        h = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return self.head(torch.einsum("bnc,bmc->bnm", h, h) @ h).mean((0, 1))


def a_step(net, x):
    net.zero_grad()
    net(x).square().sum().backward()
    return [p.grad.clone() for p in net.parameters()]


def test_it_counts_what_torch_counts_and_changes_nothing():
    net, x = Net(), torch.randn(2, 3, 8, 8)
    with FlopCounterMode(display=False) as oracle:
        a_step(net, x)
    plain = a_step(net, x)
    with FlopCounter() as counter:
        counted = a_step(net, x)
    assert counter.flops == oracle.get_total_flops() > 0
    assert all(torch.equal(a, b) for a, b in zip(plain, counted, strict=True))


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_forward_passes_without_gradients_are_counted(without):
    net, x = Net(), torch.randn(2, 3, 8, 8)
    with FlopCounterMode(display=False) as oracle:
        net(x)
    with without(), FlopCounter() as counter:
        net(x)
    assert counter.flops == oracle.get_total_flops()


def product(n):
    """2 n^3 FLOPs."""
    return torch.ones(n, n) @ torch.ones(n, n)


def turn(steps, kind, n, after=0):
    steps.begin(kind)
    product(n)
    steps.updated()
    if after:
        product(after)
    steps.end()


def test_the_second_step_of_a_kind_is_counted_and_stands_for_all():
    steps = StepFlops()
    turn(steps, "a", 16)  # warms up
    assert steps.pop() is None
    for n in (4, 8, 8):  # only the first of these is looked at
        turn(steps, "a", n, after=32)
    assert steps.pop() == 3 * 2 * 4**3
    assert steps.pop() is None  # no step since


def test_kinds_and_searches():
    steps = StepFlops()
    turn(steps, None, 64)  # a search, and then a step as those that follow
    turn(steps, "a", 4)
    turn(steps, "a", 4)
    assert steps.pop() == 3 * 2 * 4**3
    turn(steps, "b", 8)
    turn(steps, "a", 4)
    assert steps.pop() is None  # b is not known yet
    turn(steps, "b", 8)
    turn(steps, None, 64)
    turn(steps, "a", 4)
    assert steps.pop() == 2 * 8**3 + 2 * 2 * 4**3


def test_a_step_that_is_left_is_not_counted_on():
    steps = StepFlops()
    turn(steps, "a", 4)
    steps.begin("a")
    steps.close()
    seen = steps._counted
    product(4)
    steps.close()
    assert steps._counted == seen and torch._C._len_torch_dispatch_stack() == 0


def test_the_peak_is_measured_once_and_soon(monkeypatch):
    took = []
    measure = flops._seconds
    monkeypatch.setattr(flops, "_seconds", lambda a, b: took.append(measure(a, b)) or took[-1])
    matmul_peak.cache_clear()
    peak = matmul_peak(torch.device("cpu"), torch.float32)
    assert matmul_peak(torch.device("cpu"), torch.float32) == peak and len(took) <= 9
    assert 1e8 < peak < 1e14
    # every product that was timed is at most as fast
    sizes = [256] * 3 + [512] * 3 + [1024] * 3
    assert peak == max(2 * n**3 / s for n, s in zip(sizes, took, strict=False))
    state = torch.get_rng_state()
    matmul_peak.cache_clear()
    matmul_peak(torch.device("cpu"), torch.float64)
    assert torch.equal(state, torch.get_rng_state())
