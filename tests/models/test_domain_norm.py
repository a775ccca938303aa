"""Norms with domains against two plain norms, each on its own rows; in processes and in one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from models.domain_norm import (
    DomainBatchNorm,
    by_domain,
    convert_domain_bn,
    domain_norms,
    real_state,
)
from models.norm import convert_sync_bn
from models.optim import lars_groups
from models.simclr import SimCLR, build_backbone, export_torchvision
from runtime import distributed
from tests import gloo


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1, bias=False),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * 16, 4),
        nn.BatchNorm1d(4),
    ).double()


def batch(n=9):
    g = torch.Generator().manual_seed(3)
    x = torch.randn(n, 3, 4, 4, generator=g, dtype=torch.float64)
    synthetic = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 0], dtype=torch.bool)[:n]
    x[synthetic] = 3 * x[synthetic] + 2
    return x, synthetic


def test_each_domain_has_a_plain_norm_of_its_own():
    x, synthetic = batch()
    model = convert_domain_bn(net())
    with torch.no_grad():  # apart from the start, so that a mix-up shows
        for norm in domain_norms(model):
            norm.synthetic.weight.mul_(2)
            norm.synthetic.bias.add_(1)
    parts = []
    for domain in (0, 1):
        plain = net()
        for mine, theirs in ((1, 1), (5, 5)):
            norm = model[theirs].synthetic if domain else model[theirs]
            plain[mine].load_state_dict({k: norm.state_dict()[k] for k in plain[mine].state_dict()})
        parts.append(plain)
    z = by_domain(model, x, synthetic)
    real, made = parts[0](x[~synthetic]), parts[1](x[synthetic])
    assert torch.allclose(z[~synthetic], real, atol=1e-12)
    assert torch.allclose(z[synthetic], made, atol=1e-12)
    z.square().sum().backward()
    (real.square().sum() + made.square().sum()).backward()
    for at in (1, 5):
        for name in ("weight", "bias"):
            for domain, norm in enumerate((model[at], model[at].synthetic)):
                wanted = getattr(parts[domain][at], name).grad
                assert torch.allclose(getattr(norm, name).grad, wanted, atol=1e-9)
        assert torch.allclose(model[at].running_mean, parts[0][at].running_mean)
        assert torch.allclose(model[at].synthetic.running_var, parts[1][at].running_var)
    shared = parts[0][0].weight.grad + parts[1][0].weight.grad
    assert torch.allclose(model[0].weight.grad, shared, atol=1e-9)

    model.eval()
    parts[0].eval()
    assert torch.equal(model(x), parts[0](x))
    fresh = net().eval()
    fresh.load_state_dict(real_state(model))
    assert torch.equal(fresh(x), model(x))


def test_all_real_is_the_plain_network_and_leaves_the_other_domain_alone():
    x, _ = batch()
    plain, model = net(), convert_domain_bn(net())
    before = copy.deepcopy(model[1].synthetic.state_dict())
    z = by_domain(model, x, torch.zeros(len(x), dtype=torch.bool))
    assert torch.equal(z, plain(x))
    z.sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in model[1].synthetic.state_dict().items())
    assert model[1].synthetic.weight.grad is None
    assert real_state(model).keys() == plain.state_dict().keys()


def test_a_lonely_row_takes_running_statistics():
    x, _ = batch(3)
    model = convert_domain_bn(net())
    z = by_domain(model, x, torch.tensor([False, True, False]))
    assert torch.isfinite(z).all() and z[1].abs().sum() > 0
    assert int(model[5].synthetic.num_batches_tracked) == 0
    assert int(model[5].num_batches_tracked) == 1


def test_simclr_keeps_torchvisions_names_and_every_norm_stays_out_of_decay():
    model = SimCLR("resnet18", resolution=8)
    keys = list(model.state_dict())
    convert_domain_bn(model)
    assert list(real_state(model)) == keys
    plain = build_backbone("resnet18", "small")
    plain.load_state_dict(export_torchvision(model))
    assert len(domain_norms(model)) == 22
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["projector.bn2.bias", "projector.bn2.synthetic.bias"]
    adapted = {id(p) for p in lars_groups(model)[0]["params"]}
    for norm in domain_norms(model):
        assert not adapted & {id(p) for p in norm.parameters()}
    z = by_domain(model, torch.rand(6, 3, 8, 8), torch.arange(6) % 2 == 0)
    z.sum().backward()
    assert isinstance(model.backbone.bn1, DomainBatchNorm)


def test_what_cannot_be_is_said():
    x, synthetic = batch()
    with pytest.raises(ValueError, match="convert_domain_bn"):
        by_domain(net(), x, synthetic)
    with pytest.raises(ValueError, match=r"bool \[9\]"):
        by_domain(convert_domain_bn(net()), x, synthetic.long())
    with pytest.raises(ValueError, match="affine"):
        convert_domain_bn(nn.Sequential(nn.BatchNorm1d(3, affine=False)))
    model = convert_domain_bn(net())
    with pytest.raises(ValueError, match="rows where the split"):
        by_domain(nn.Sequential(_Doubled(), model), x, synthetic)


class _Doubled(nn.Module):
    def forward(self, x):
        return torch.cat([x, x])


def child(rows):
    model = convert_domain_bn(convert_sync_bn(net()))
    x, synthetic = batch()
    part = slice(*rows[distributed.rank()])
    z = by_domain(model, x[part], synthetic[part])
    weights = torch.linspace(0, 1, 36, dtype=torch.float64).view(9, 4)
    (z * weights[part]).sum().backward()
    grads = [None if p.grad is None else p.grad for p in model.parameters()]
    return z.detach(), grads, list(model.state_dict().values())


# the last has a rank without a synthetic row, and one whose only real row is alone on it
@pytest.mark.parametrize("rows", [((0, 5), (5, 9)), ((0, 3), (3, 9)), ((5, 7), (0, 5), (7, 9))])
def test_synchronised_domains_are_one_process(rows):
    results = gloo.run(len(rows), child, rows)
    if rows[0] == (5, 7):
        assert not batch()[1][5:7].any()
    covered = [i for a, b in rows for i in range(a, b)]
    alone = convert_domain_bn(net())
    x, synthetic = batch()
    z = by_domain(alone, x, synthetic)
    (z * torch.linspace(0, 1, 36, dtype=torch.float64).view(9, 4)).sum().backward()
    together = torch.cat([r[0] for r in results])
    assert torch.allclose(together, z[covered], atol=1e-9)
    for i, p in enumerate(alone.parameters()):
        total = sum(r[1][i] for r in results)
        assert torch.allclose(total, p.grad, atol=1e-9)
    for i, value in enumerate(alone.state_dict().values()):
        for r in results:
            assert torch.allclose(r[2][i].double(), value.double(), atol=1e-9)
