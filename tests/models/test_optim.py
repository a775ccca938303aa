"""LARS against the formulas tensor by tensor, its groups, state and refusals; learning rates."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
import torch.nn as nn

from models.optim import (
    LARC,
    LARS,
    SEMANTICS,
    google_lr,
    google_steps,
    lars_groups,
    original_lr,
    scaled_lr,
    warmup_cosine,
)

MU, TRUST, DECAY = 0.9, 0.01, 0.1


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tensors(seed: int) -> list[torch.Tensor]:
    """Two adapted tensors, one that is zero at first, one excluded."""
    g = torch.Generator().manual_seed(seed)
    made = [torch.randn(s, generator=g, dtype=torch.float64) for s in ((3, 4), (5,), (2, 2), (6,))]
    if seed == 0:
        made[2].zero_()
    return made


def groups(params, decay=DECAY, decay_of_excluded=0.0):
    return [
        {"params": params[:3], "weight_decay": decay, "adapt": True},
        {"params": params[3:], "weight_decay": decay_of_excluded, "adapt": False},
    ]


def by_formula(semantics: str, nesterov: bool, lrs: list[float]) -> list[torch.Tensor]:
    """The head of models/optim.py, one tensor and one number at a time."""
    out = []
    for k, w in enumerate(tensors(0)):
        v, wd, adapt = torch.zeros_like(w), DECAY if k < 3 else 0.0, k < 3
        for i, lr in enumerate(lrs):
            g = tensors(i + 1)[k] if (k, i) != (1, 0) else torch.zeros_like(w)
            moving = w.norm() > 0 and g.norm() > 0
            d = g + wd * w
            if semantics == "bolts" and adapt and not moving:
                d = g

            def ratio(x, w=w, adapt=adapt):
                return TRUST * w.norm() / x if adapt and w.norm() > 0 and x > 0 else 1.0

            if semantics == "google_popular":
                v = MU * v + d
                u = MU * v + d if nesterov else v
                w = w - lr * ratio(u.norm()) * u
                continue
            t = ratio(d.norm())
            if semantics == "bolts":
                t = ratio(g.norm() + wd * w.norm() + 1e-8) if moving else 1.0
            d = t * d * (lr if semantics == "google" else 1)
            v = MU * v + d
            u = MU * v + d if nesterov else v
            w = w - u * (1 if semantics == "google" else lr)
        out.append(w)
    return out


def steps(optimizer, params, lrs, first: int = 0):
    for i, lr in enumerate(lrs[first:], first):
        for k, (p, g) in enumerate(zip(params, tensors(i + 1), strict=True)):
            p.grad = g if (k, i) != (1, 0) else torch.zeros_like(g)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()


LRS = [0.5, 1.0, 0.2, 0.7]


def parameters():
    return [nn.Parameter(t) for t in tensors(0)]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("semantics", SEMANTICS)
def test_follows_the_formula(semantics, nesterov):
    params = parameters()
    how = dict(momentum=MU, trust=TRUST, nesterov=nesterov, semantics=semantics)
    steps(LARS(groups(params), 1.0, **how), params, LRS)
    for p, expected in zip(params, by_formula(semantics, nesterov, LRS), strict=True):
        torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_larc_wraps_sgd_into_lars_larc(nesterov):
    ours, wrapped = parameters(), parameters()
    sgd = dict(momentum=MU, nesterov=nesterov)
    steps(LARS(groups(ours), 1.0, trust=TRUST, semantics="larc", **sgd), ours, LRS)
    inner = torch.optim.SGD(groups(wrapped, decay_of_excluded=0.0), 1.0, **sgd)
    steps(LARC(inner, trust=TRUST), wrapped, LRS)
    for a, b in zip(ours, wrapped, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert [group["weight_decay"] for group in inner.param_groups] == [DECAY, 0.0]


@pytest.mark.parametrize("momentum", [0.0, MU])
def test_without_adaptation_it_is_sgd(momentum):
    ours, theirs = parameters(), parameters()
    for semantics in ("google_popular", "bolts", "larc"):
        ours, theirs = parameters(), parameters()
        plain = [{"params": ours, "adapt": False}]
        how = dict(momentum=momentum, weight_decay=DECAY)
        steps(LARS(plain, 1.0, semantics=semantics, **how), ours, LRS)
        steps(torch.optim.SGD(theirs, 1.0, **how), theirs, LRS)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("semantics", [*SEMANTICS, "adam"])
def test_resumes_bit_for_bit(semantics):
    def make(params):
        if semantics == "adam":
            return LARC(torch.optim.Adam(groups(params), 1.0), trust=TRUST)
        return LARS(groups(params), 1.0, trust=TRUST, semantics=semantics)

    whole, half = parameters(), parameters()
    steps(make(whole), whole, LRS)
    first = make(half)
    steps(first, half, LRS[:2])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    rest = copy.deepcopy(half)
    second = make(rest)
    second.load_state_dict(torch.load(file, weights_only=True))
    steps(second, rest, LRS, 2)
    assert all(torch.equal(a, b) for a, b in zip(whole, rest, strict=True))


def test_a_state_of_other_semantics_is_refused():
    params = parameters()
    state = LARS(groups(params), 1.0, semantics="google").state_dict()
    with pytest.raises(ValueError, match="'google', this one is 'bolts'"):
        LARS(groups(params), 1.0, semantics="bolts").load_state_dict(state)


def test_groups_go_by_type_of_module():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 1),
        nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)),
        nn.GroupNorm(2, 4),
        nn.Flatten(),
        nn.LayerNorm(4),
        nn.Linear(4, 2),
    )
    for p in net[7].parameters():
        p.requires_grad_(False)
    adapted, excluded = lars_groups(net, 1e-4)
    assert (adapted["weight_decay"], adapted["adapt"]) == (1e-4, True)
    assert (excluded["weight_decay"], excluded["adapt"]) == (0.0, False)
    assert {id(p) for p in adapted["params"]} == {id(net[i].weight) for i in (0, 2)} | {
        id(net[3][0].weight)
    }
    assert len(excluded["params"]) == 2 * 4 + 1
    assert len(lars_groups(nn.Linear(2, 2, bias=False))) == 1
    shared = nn.ModuleList([net[0], net[0]])
    assert len(lars_groups(shared)[0]["params"]) == 1
    with pytest.raises(ValueError, match="no parameter"):
        lars_groups(nn.ReLU())


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_trains_a_network(semantics):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    x = torch.randn(64, 4)
    y = x[:, :1] * x[:, 1:2]
    optimizer = LARS(lars_groups(net), 0.1, trust=0.1, semantics=semantics)
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        return loss

    for _ in range(60):
        losses.append(optimizer.step(closure).item())
    assert losses[-1] < 0.5 * losses[0]


def test_parameters_without_gradient_stay():
    params = parameters()
    params[0].grad = torch.ones_like(params[0])
    before = [p.detach().clone() for p in params]
    LARS(groups(params), 1.0).step()
    moved = [not torch.equal(a, b) for a, b in zip(before, params, strict=True)]
    assert moved == [True, False, False, False]


@pytest.mark.parametrize(
    ("how", "word"),
    [
        (dict(lr=-1), "lr=-1"),
        (dict(momentum=1.0), "momentum=1.0"),
        (dict(weight_decay=-1e-4), "weight_decay="),
        (dict(trust=math.nan), "trust=nan"),
        (dict(nesterov=True, momentum=0), "nesterov"),
        (dict(semantics="apex"), "google, google_popular, bolts, larc"),
        (dict(semantics="bolts", weight_decay=0), "adapts no group"),
    ],
)
def test_bad_arguments(how, word):
    with pytest.raises(ValueError, match=word) as error:
        LARS(parameters(), **{"lr": 1.0, **how})
    assert "\n" not in str(error.value)


def test_what_is_adapted_is_not_wrapped():
    with pytest.raises(ValueError, match="adapted already"):
        LARC(LARS(parameters(), 1.0))


# ----------------------------------------------------------------------------------- learning rate


def test_warmup_cosine():
    rates = [warmup_cosine(s, 100, 10, peak=2.0, end=0.1) for s in range(101)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == rates[10] == 2.0
    assert rates[99] == rates[100] == 0.1
    assert all(a > b for a, b in zip(rates[10:99], rates[11:100], strict=True))
    assert warmup_cosine(0, 1, 0) == 0 and warmup_cosine(0, 1, 1) == 1
    assert warmup_cosine(5, 6, 6) == 1


def test_rules_of_scaling_meet_at_4096():
    assert scaled_lr(0.3, 4096) == pytest.approx(4.8) == scaled_lr(0.075, 4096, "sqrt")


def test_google_ends_at_zero():
    of = dict(examples=1000, batch=10, epochs=5)
    assert google_steps(**of) == 501
    rates = [google_lr(s, **of, warmup_epochs=1, peak=3.0) for s in (0, 50, 100, 501, 600)]
    assert rates == [0, 1.5, 3.0, 0, 0]
    rates = [google_lr(s, **of, warmup_epochs=0.5, peak=3.0) for s in (0, 25, 50)]  # half an epoch
    assert rates == [0, 1.5, 3.0]


@pytest.mark.parametrize(
    "bad",
    [
        lambda: warmup_cosine(-1, 10, 2),
        lambda: warmup_cosine(0, 10, 11),
        lambda: warmup_cosine(0, 0, 0),
        lambda: scaled_lr(0.3, 0),
        lambda: scaled_lr(0.3, 256, "cube"),
        lambda: google_steps(0, 1, 1),
        lambda: google_lr(-1, examples=9, batch=3, epochs=1, warmup_epochs=0, peak=1.0),
        lambda: original_lr(0, 10, 1, 1.0),
        lambda: original_lr(1, 10, 10, 1.0),
    ],
)
def test_bad_schedules(bad):
    with pytest.raises(ValueError) as error:
        bad()
    assert "\n" not in str(error.value)
