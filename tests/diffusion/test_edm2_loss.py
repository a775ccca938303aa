"""Loss of EDM2 against its formula, the order of its random numbers, means per noise level."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffusion.edm2_loss import EDM2Loss, loss_per_sigma_bin, loss_weight, per_pixel_loss


class Fake(torch.nn.Module):
    """A denoiser that can be written down; remembers its inputs."""

    def forward(self, x, sigma, class_labels=None, *, return_logvar=False, **rest):
        self.seen = dict(x=x, sigma=sigma, labels=class_labels, rest=rest)
        logvar = 0.3 * sigma.log()
        return (x * 0.9, logvar) if return_logvar else x * 0.9


def test_loss_is_the_formula():
    g = torch.Generator().manual_seed(0)
    images, noise = torch.randn(5, 2, 3, 3, generator=g), torch.randn(5, 2, 3, 3, generator=g)
    sigma = torch.rand(5, generator=g) + 0.1
    net = Fake()
    loss = per_pixel_loss(net, images, sigma, noise, sigma_data=0.5)
    assert loss.shape == images.shape
    for i, s in enumerate(sigma.tolist()):
        weight = (s**2 + 0.25) / (s * 0.5) ** 2
        x = images[i].double()
        u = 0.3 * math.log(s)
        error = (0.9 * (x + s * noise[i].double()) - x).square()
        torch.testing.assert_close(
            loss[i].double(), weight / math.exp(u) * error + u, rtol=1e-5, atol=1e-5
        )
    again = per_pixel_loss(net, images, sigma.reshape(5, 1, 1, 1), noise, sigma_data=0.5)
    assert torch.equal(loss, again)
    assert net.seen["labels"] is None and net.seen["rest"] == {}


def test_weight_makes_the_untrained_loss_one():
    # D = c_skip x: the expected squared error is the inverse of the weight, at every sigma
    g = torch.Generator().manual_seed(0)
    for s in (0.02, 0.5, 20.0):
        sigma = torch.tensor(s)
        x = 0.5 * torch.randn(200_000, generator=g)
        noisy = x + s * torch.randn(200_000, generator=g)
        error = (0.25 / (s**2 + 0.25) * noisy - x).square().mean()
        assert error * loss_weight(sigma, 0.5) == pytest.approx(1, abs=0.02)


def test_keys_and_labels_reach_the_network():
    images, labels, keys = torch.zeros(2, 1, 2, 2), torch.eye(2), torch.arange(2)
    net = Fake()
    per_pixel_loss(net, images, torch.ones(2), images, labels, sigma_data=0.5, dropout_keys=keys)
    assert net.seen["labels"] is labels and net.seen["rest"] == {"dropout_keys": keys}


def test_random_numbers_are_drawn_in_the_references_order():
    images = torch.randn(4, 3, 2, 2)
    loss = EDM2Loss(P_mean=-0.8, P_std=1.6, sigma_data=0.7)
    torch.manual_seed(3)
    z, noise = torch.randn(4, 1, 1, 1), torch.randn(4, 3, 2, 2)
    sigma = (-0.8 + 1.6 * z).exp()
    expected = per_pixel_loss(Fake(), images, sigma, noise, sigma_data=0.7)
    torch.manual_seed(3)
    net = Fake()
    assert torch.equal(loss(net, images), expected)
    torch.testing.assert_close(net.seen["sigma"], sigma)
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(loss(net, images, generator=generator), expected)


def test_levels_are_lognormal():
    z = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    logs = EDM2Loss(-0.4, 1.0).sigma(z).log()
    assert logs.mean() == pytest.approx(-0.4, abs=0.03)
    assert logs.std() == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(
    ("sigma", "noise"),
    [((3,), (4, 1, 2, 2)), ((), (4, 1, 2, 2)), ((4,), (4, 1, 2, 3)), ((4,), (1,))],
)
def test_shapes_that_do_not_fit(sigma, noise):
    with pytest.raises(ValueError, match="do not fit images") as error:
        per_pixel_loss(
            Fake(), torch.zeros(4, 1, 2, 2), torch.ones(sigma), torch.zeros(noise), sigma_data=0.5
        )
    assert "\n" not in str(error.value)


def brute_bins(loss: Tensor, sigma: Tensor, edges: list[float]) -> tuple[list[float], list[int]]:
    sums, counts = [0.0] * (len(edges) + 1), [0] * (len(edges) + 1)
    for value, s in zip(loss.tolist(), sigma.tolist(), strict=True):
        level = sum(s >= edge for edge in edges)
        sums[level] += value
        counts[level] += 1
    return sums, counts


def test_sums_per_noise_level():
    g = torch.Generator().manual_seed(0)
    sigma = torch.randn(500, generator=g).exp()
    sigma[:2] = torch.tensor([0.5, 2.0])  # on an edge: the bin that starts there
    loss = torch.randn(500, generator=g).requires_grad_()
    edges = [0.25, 0.5, 1.0, 2.0, 1e6]
    sums, counts = loss_per_sigma_bin(loss, sigma.reshape(-1, 1, 1, 1), torch.tensor(edges))
    expected, counted = brute_bins(loss, sigma, edges)
    torch.testing.assert_close(sums, torch.tensor(expected), rtol=1e-5, atol=1e-5)
    assert counts.tolist() == counted and counts[-1] == 0
    assert not sums.requires_grad
    with pytest.raises(ValueError, match="do not fit"):
        loss_per_sigma_bin(loss, sigma[1:], torch.tensor(edges))


def test_bins_wait_for_no_value():
    empty = torch.empty(8, device="meta")
    sums, counts = loss_per_sigma_bin(empty, empty, torch.empty(3, device="meta"))
    assert sums.shape == counts.shape == (4,)
