"""Code generator: keys, marginals, mixture, plain calls, state."""

import io

import pytest
import torch

from imle.codes import CodeGenerator

IDS = torch.tensor([5, 0, 123456789012])


@pytest.mark.parametrize("method", ["normal", "mixture"])
def test_a_code_is_a_function_of_its_key(method):
    z = CodeGenerator([7, 30], seed=4, method=method)
    ids = torch.arange(6)
    whole = z.draw(1, 2, IDS, ids)
    assert whole.shape == (18, 30) and whole.dtype == torch.float32
    table = whole.view(3, 6, 30)
    for b in range(3):
        assert torch.equal(z.draw(1, 2, IDS[b : b + 1], ids[2:5]), table[b, 2:5])
    mixed = torch.tensor([[3, 1], [0, 0], [5, 2]])
    expected = torch.stack([table[b, mixed[b]] for b in range(3)]).flatten(0, 1)
    assert torch.equal(z.draw(1, 2, IDS, mixed), expected)
    assert torch.equal(CodeGenerator([7, 30], seed=4, method=method).draw(1, 2, IDS, ids), whole)
    others = [
        CodeGenerator([7, 30], seed=5, method=method).draw(1, 2, IDS, ids),
        z.draw(1, 3, IDS, ids),
        z.draw(1, 2, IDS + 1, ids),
        z.draw(1, 2, IDS, ids + 6),
        torch.cat([z.draw(0, 2, IDS, ids)] * 5, 1)[:, :30],
    ]
    for other in others:
        assert not (other == whole).any()


def test_normal_codes_are_standard_normal():
    x = CodeGenerator([3000]).draw(0, 0, torch.arange(10), torch.arange(8)).double()
    assert abs(x.mean()) < 4 / x.numel() ** 0.5
    assert abs(x.var() - 1) < 4 * (2 / x.numel()) ** 0.5
    corr = torch.corrcoef(x) - torch.eye(80)
    assert corr.abs().max() < 5.5 / 3000**0.5


def test_mixture_means_something():
    d, k, s = 1000, 5, 0.5
    z = CodeGenerator([d], seed=1, method="mixture", num_components=k, mixture_scale=s)
    means = z.means(0)
    assert means.shape == (k, d)
    # exact standardisation over the components: the marginal has mean 0 and variance 1 everywhere
    torch.testing.assert_close(means.mean(0), torch.zeros(d), atol=1e-5, rtol=0)
    torch.testing.assert_close(means.square().mean(0), torch.full((d,), s * s))
    assert ((means.norm(dim=1) / (s * d**0.5)) - 1).abs().max() < 0.15
    images, ids = torch.arange(40), torch.arange(25)
    x = z.draw(0, 0, images, ids)
    component = z.components(0, 0, images, ids)
    counts = component.bincount(minlength=k)
    assert (counts - 200).abs().max() < 5 * (1000 * 0.2 * 0.8) ** 0.5
    assert abs(x.mean()) < 0.01 and abs(x.double().var() - 1) < 0.01
    # a point's nearest mean is that of its own component, and what is left has variance 1 - s^2
    assert torch.equal(torch.cdist(x, means).argmin(1), component)
    assert (x - means[component]).double().var() == pytest.approx(1 - s * s, rel=0.01)
    shown = z.draw(0, 0, images[:5], ids[:1], components=torch.arange(5))
    assert torch.cdist(shown, means).argmin(1).tolist() == [0, 1, 2, 3, 4]


def test_plain_calls():
    z = CodeGenerator([4, 6], seed=1)
    codes = z(3)
    assert [tuple(c.shape) for c in codes] == [(3, 4), (3, 6)]
    assert z(2, level=1).shape == (2, 6)
    assert z(2, "all")[0].shape == (2, 4)
    assert not torch.equal(z(3, level=0), z(3, level=0))
    state = z.state_dict()
    expected = z(5)
    again = CodeGenerator([4, 6], seed=77)
    again.load_state_dict(state)
    for a, b in zip(again(5), expected, strict=True):
        assert torch.equal(a, b)


def test_state_keeps_the_mixture():
    z = CodeGenerator([9, 9], seed=1, method="mixture")
    z._means[1].add_(1.0)  # as if made by another version
    file = io.BytesIO()
    torch.save(z.state_dict(), file)
    file.seek(0)
    again = CodeGenerator([9, 9], seed=2, method="mixture")
    again.means(1)
    again.load_state_dict(torch.load(file, weights_only=True))
    ids = torch.arange(4)
    assert torch.equal(again.draw(1, 0, ids, ids), z.draw(1, 0, ids, ids))
    with pytest.raises(ValueError, match="method mixture, here it is normal"):
        CodeGenerator([9, 9]).load_state_dict(z.state_dict())
    with pytest.raises(ValueError, match="code_sizes"):
        CodeGenerator([9], method="mixture").load_state_dict(z.state_dict())


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(code_sizes=[]), "code sizes"),
        (dict(code_sizes=[0]), "code sizes"),
        (dict(code_sizes=[3], method="uniform"), "normal or mixture"),
        (dict(code_sizes=[3], method="mixture", num_components=1), "at least 2"),
        (dict(code_sizes=[3], method="mixture", mixture_scale=1.0), "between 0 and 1"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        CodeGenerator(**kwargs)


def test_bad_level():
    with pytest.raises(ValueError, match=r"level must be in \[0, 1\]"):
        CodeGenerator([3, 4])(2, level=2)
