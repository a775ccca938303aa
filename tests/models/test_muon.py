"""Muon against torch's (of matrices alone), AdamW against torch's, the iteration against an SVD."""

import copy

import pytest
import torch
from torch import Tensor, nn

from models.muon import NEWTON_SCHULZ, STEPS, Muon, orthogonalised

SHAPES = [(6, 4, 3, 3), (6, 4, 3, 3), (12, 2, 3, 3), (40, 3, 3, 3), (5, 7)]


def weights(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def gradients(params: list[nn.Parameter], step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(p.shape, generator=generator) for p in params]


def moved(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        for p, grad in zip(params, gradients(params, step), strict=True):
            p.grad = grad
        optimizer.step()


@pytest.mark.parametrize("size", [0.002, 0.01, 0.1, 0.5, 0.9, 1.0])
def test_how_far_from_1_a_singular_value_may_end(size):
    assert 0.68 < float(curve(torch.tensor(size, dtype=torch.float64))) < 1.21


def curve(s: Tensor) -> Tensor:
    """What the iteration does to a singular value, in float64."""
    a, b, c = NEWTON_SCHULZ
    for _ in range(STEPS):
        s = a * s + b * s**3 + c * s**5
    return s


@pytest.mark.parametrize("shape", [(8, 8), (5, 17), (17, 5), (3, 6, 20)])
def test_singular_vectors_stay_and_singular_values_become_about_1(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    s = s / s.square().sum(-1, keepdim=True).sqrt()
    wanted = u @ torch.diag_embed(curve(s)) @ vh
    torch.testing.assert_close(orthogonalised(x, dtype=torch.float64), wanted)
    torch.testing.assert_close(orthogonalised(x.float()), wanted.float(), rtol=1e-4, atol=1e-5)
    made = torch.linalg.svdvals(orthogonalised(x))
    assert 0.65 < float(made[s > 0.03].min()) and float(made.max()) < 1.25


def test_matrices_of_a_stack_are_as_they_are_alone():
    x = torch.randn(4, 6, 36, generator=torch.Generator().manual_seed(2))
    alone = torch.stack([orthogonalised(one) for one in x])
    torch.testing.assert_close(orthogonalised(x), alone)


def test_nothing_stays_nothing_and_the_scale_does_not_matter():
    assert not orthogonalised(torch.zeros(4, 6)).any()
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(orthogonalised(1e-3 * x), orthogonalised(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_moves_matrices_as_torch_does(decay):
    mine = weights()
    theirs = [nn.Parameter(p.detach().flatten(1).clone()) for p in mine]
    optimizer = Muon(
        [{"params": mine, "muon": 1.0}], 0.02, weight_decay=decay, dtype=torch.bfloat16
    )
    reference = torch.optim.Muon(
        theirs, lr=0.02, weight_decay=decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for step in range(4):
        grads = gradients(mine, step)
        for p, q, grad in zip(mine, theirs, grads, strict=True):
            p.grad, q.grad = grad, grad.flatten(1).clone()
        optimizer.step()
        reference.step()
    for p, q, start in zip(mine, theirs, weights(), strict=True):
        size = (q - start.flatten(1)).abs().mean()
        # bfloat16 rounds products of a stack in another order
        assert (p.flatten(1) - q).abs().mean() < 0.05 * size


def test_its_rate_is_so_many_times_lr():
    one, other = weights(), weights()
    moved(Muon([{"params": one, "muon": 4.0}], 0.01, weight_decay=0.1), one, range(2))
    moved(Muon([{"params": other, "muon": 1.0}], 0.04, weight_decay=0.1), other, range(2))
    for p, q in zip(one, other, strict=True):
        torch.testing.assert_close(p, q)


def test_a_group_may_go_on_by_adamw():
    params, theirs = weights(), weights()
    optimizer = Muon([{"params": params, "muon": 2.0}], 0.01)
    moved(optimizer, params, range(2))
    for p, q in zip(params, theirs, strict=True):
        q.data.copy_(p.data)
    optimizer.param_groups[0]["muon"] = 0.0
    optimizer.state.clear()
    moved(optimizer, params, range(2, 4))
    moved(torch.optim.AdamW(theirs, 0.01, weight_decay=0, fused=True), theirs, range(2, 4))
    assert all(torch.equal(p, q) for p, q in zip(params, theirs, strict=True))


def test_an_entry_moves_as_far_as_by_adamw():
    """About 0.2 lr in the mean square: the factor of Liu et al. 2025."""
    (p, *_) = params = [nn.Parameter(torch.zeros(48, 48, 3, 3))]
    moved(Muon([{"params": params, "muon": 1.0}], 0.02), params, range(1))
    assert float(p.detach().square().mean().sqrt()) == pytest.approx(0.2 * 0.02, rel=0.15)


def test_other_groups_take_adamws_step_to_the_last_bit():
    mine, theirs = weights(), weights()
    optimizer = Muon(mine, 0.01, betas=(0.9, 0.99), weight_decay=0.1)
    reference = torch.optim.AdamW(theirs, 0.01, betas=(0.9, 0.99), weight_decay=0.1, fused=True)
    moved(optimizer, mine, range(4))
    moved(reference, theirs, range(4))
    assert all(torch.equal(p, q) for p, q in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_goes_on_from_its_state(layout):
    def made() -> tuple[list[nn.Parameter], Muon]:
        params = [
            nn.Parameter(p.detach().contiguous(memory_format=layout) if p.ndim == 4 else p.detach())
            for p in weights()
        ]
        groups = [{"params": params[:3], "muon": 1.0, "lr": 0.02}, {"params": params[3:]}]
        return params, Muon(groups, 0.01)

    whole, optimizer = made()
    moved(optimizer, whole, range(4))
    begun, first = made()
    moved(first, begun, range(2))
    resumed, second = made()
    for p, q in zip(resumed, begun, strict=True):
        p.data.copy_(q.data)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    moved(second, resumed, range(2, 4))
    assert all(torch.equal(p, q) for p, q in zip(whole, resumed, strict=True))


def test_its_state_is_restored_to_the_device_of_a_parameter():
    """Checkpoints are read to the CPU; AdamW's fused step wants its count beside the weights."""
    params = weights()
    first = Muon([{"params": params[:3], "muon": 2.0}, {"params": params[3:]}], 0.01)
    moved(first, params, range(2))
    there = [nn.Parameter(torch.empty_like(p, device="meta")) for p in params]
    second = Muon([{"params": there[:3], "muon": 2.0}, {"params": there[3:]}], 0.01)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert [group["muon"] for group in second.param_groups] == [2.0, 0.0]
    for p in there:
        assert second.state[p] and all(t.device == p.device for t in second.state[p].values())


def test_the_layout_of_weights_does_not_matter():
    plain, last = weights(), weights()
    for p in last[:4]:
        p.data = p.data.contiguous(memory_format=torch.channels_last)
    for params in (plain, last):
        moved(Muon([{"params": params, "muon": 1.0}], 0.02), params, range(2))
    for p, q in zip(plain, last, strict=True):
        torch.testing.assert_close(p, q)


def test_without_a_gradient_it_leaves_a_weight_alone():
    params = weights()
    optimizer = Muon([{"params": params, "muon": 1.0}], 0.02, weight_decay=0.1)
    params[0].grad = torch.ones_like(params[0])
    optimizer.step()
    assert not torch.equal(params[0], weights()[0])
    assert all(torch.equal(p, q) for p, q in zip(params[1:], weights()[1:], strict=True))


def test_a_closure_is_called_with_gradients():
    p = nn.Parameter(torch.ones(2, 3))
    optimizer = Muon([{"params": [p], "muon": 1.0}], 0.02)

    def closure() -> Tensor:
        loss = p.square().sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == 6 and float(p.detach().mean()) < 1


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"lr": -1.0}, "lr=-1.0"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"eps": float("inf")}, "eps=inf: it must be at least 0 and finite"),
    ],
)
def test_numbers_out_of_range_are_refused(said, words):
    with pytest.raises(ValueError, match=words):
        Muon(weights(), **{"lr": 0.1, **said})


def test_a_vector_is_no_matrix():
    with pytest.raises(ValueError, match=r"shape \(5,\) is no matrix"):
        Muon([{"params": [nn.Parameter(torch.ones(5))], "muon": 1.0}], 0.1)
