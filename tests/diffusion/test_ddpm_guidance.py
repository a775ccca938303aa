"""Guidance of networks of DDPM: what is evaluated, what comes out, and the exact guided score."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from diffusion.ddpm_guidance import (
    autoguided,
    classifier_free,
    classifier_gradient,
    rescaled,
)
from diffusion.ddpm_samplers import ancestral, ddim, dpmpp_2m, heun_edm, last, plms, unipc
from diffusion.gaussian import Gaussian
from diffusion.respace import timesteps_of
from diffusion.schedules import latent_betas, zero_terminal_snr

BETAS = latent_betas("linear", 1000, 0.00085, 0.012)


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Net:
    """y + x in the prediction, y * 10 in the variance where it has one; remembers its batches."""

    def __init__(self, learned=False):
        self.sizes, self.learned = [], learned

    def __call__(self, x, t, y):
        self.sizes.append(len(x))
        assert len(x) == len(t) == len(y)
        out = y.reshape(-1, 1, 1, 1) + x
        return torch.cat([out, 10 * out], 1) if self.learned else out


def test_one_doubled_batch():
    x, t = numbers(3, 2, 1, 1), torch.tensor([5, 5, 5])
    y = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    for learned in (False, True):
        net = Net(learned)
        found = classifier_free(net, {"y": torch.tensor([0.5])}, 3.0)(x, t, y=y)
        assert net.sizes == [6]
        expected = 0.5 + 3 * (y - 0.5)
        assert torch.allclose(found[:, :2] - x, expected.reshape(-1, 1, 1, 1).expand(3, 2, 1, 1))
        if learned:  # the variance is that of the network with its condition
            assert torch.equal(found[:, 2:], net(x, t, y)[:, 2:])
    net = Net()
    assert classifier_free(net, {"y": y}, 1.0) is net
    assert torch.allclose(classifier_free(net, {"y": y * 0}, 0.0)(x, t, y=y), x)


class Boxes(NamedTuple):
    """Something like a layout: tensors of another length a row."""

    boxes: Tensor

    def take(self, rows):
        return Boxes(self.boxes[rows])

    @staticmethod
    def cat(parts):
        most = max(p.boxes.shape[1] for p in parts)
        return Boxes(
            torch.cat(
                [torch.nn.functional.pad(p.boxes, (0, most - p.boxes.shape[1])) for p in parts]
            )
        )


def test_conditions_of_every_kind():
    def net(x, t, *, y, more, layout, scale):
        assert len(y) == len(more["text"]) == len(layout.boxes) == len(x) and scale == 2.0
        total = y.reshape(-1, 1) + more["text"].sum(1, keepdim=True) + layout.boxes.sum(1)[:, None]
        return x + total[:, :, None, None]

    one = torch.ones(2, dtype=torch.float64)
    cond = {"y": one, "more": {"text": torch.ones(2, 3)}, "layout": Boxes(torch.ones(2, 4)),
            "scale": 2.0}  # fmt: skip
    without = {"y": one[:1] * 0, "more": {"text": torch.zeros(1, 3)},
               "layout": Boxes(torch.zeros(1, 1))}  # fmt: skip
    x = numbers(2, 1, 1, 1)
    found = classifier_free(net, without, 2.0)(x, torch.zeros(2), **cond)
    assert torch.allclose(found - x, torch.full_like(x, 16.0))
    wrong = [
        ({"z": one}, "no condition z"),
        ({"y": one.repeat(2)}, r"\[4\]"),
        ({"y": None}, "NoneType"),
        ({"more": {"words": one}}, "words"),
        ({"scale": 3.0}, "scale"),
    ]
    for uncond, says in wrong:
        with pytest.raises(ValueError, match=says):
            classifier_free(net, uncond, 2.0)(x, torch.zeros(2), **cond)


def test_an_interval_evaluates_one_network_outside():
    whole = Gaussian(BETAS)
    g = whole.respaced(timesteps_of("leading:10", 1000))
    net = Net()
    interval = whole.interval(whole.sigma(200), whole.sigma(500))
    model = classifier_free(net, {"y": torch.zeros(1)}, 2.0, interval=interval)
    last(ddim(model, numbers(1, 1, 1, 1), g, cond={"y": torch.ones(1)}))
    assert net.sizes == [1] * 4 + [2] * 3 + [1] * 3  # 500, 400, 300
    net.sizes.clear()
    last(heun_edm(model, numbers(1, 1, 1, 1), whole, steps=8, cond={"y": torch.ones(1)}))
    assert set(net.sizes) == {1, 2} and net.sizes[0] == 1 and net.sizes[-1] == 1
    with pytest.raises(ValueError, match="by step"):
        model(numbers(1, 1, 1, 1), torch.tensor([5]), y=torch.ones(1))


def test_rescaling_brings_the_spread_back():
    main, guided = numbers(4, 3, 8, 8), 5 * numbers(4, 3, 8, 8, seed=1)
    assert torch.allclose(
        rescaled(guided, main, 1.0).flatten(1).std(1), main.flatten(1).std(1), rtol=1e-9
    )
    assert torch.allclose(
        rescaled(guided, main, 0.7), 0.7 * rescaled(guided, main, 1.0) + 0.3 * guided
    )
    net = Net()
    y = torch.tensor([3.0], dtype=torch.float64)
    plain = classifier_free(net, {"y": y * 0}, 4.0)(main[:1], torch.zeros(1), y=y)
    found = classifier_free(net, {"y": y * 0}, 4.0, rescale=0.5)(main[:1], torch.zeros(1), y=y)
    assert torch.allclose(found, rescaled(plain, net(main[:1], torch.zeros(1), y), 0.5))


def test_autoguidance_extrapolates_from_the_weaker_network():
    x, t, y = numbers(2, 1, 1, 1), torch.zeros(2), torch.ones(2, dtype=torch.float64)
    strong, weak = Net(), lambda x, t, y: 0.5 * x
    found = autoguided(strong, weak, 2.5)(x, t, y=y)
    assert torch.allclose(found, 0.5 * x + 2.5 * (1 + x - 0.5 * x))
    assert autoguided(strong, weak, 1.0) is strong


def test_a_classifier_moves_the_samplers_to_its_class():
    """Data N(0, 1), so noise of every level is N(0, 1); p(y | x0) as N(x0; 2, 1) has at 2: then
    p(x0 | y) = N(1, 1/2), and log p(y | x_t) is that of N(2; sqrt(A) x_t, 2 - A)."""
    g = Gaussian(BETAS, prediction_type="v", time_input="noise_level")

    def gradient(x, t):
        alpha = t.to(x).reshape(-1, 1)
        return alpha * (2 - alpha * x) / (2 - alpha**2)

    def net(x, t):  # x0 = alpha x, eps = sigma x
        return torch.zeros_like(x)

    x = numbers(6000, 1)
    spaced = g.respaced(timesteps_of("trailing:100", 1000))
    for sampler in (ancestral, ddim, plms, dpmpp_2m, unipc, heun_edm):
        of = g if sampler is heun_edm else spaced
        found = last(sampler(net, x, of, cond_fn=gradient))
        # x_T begins unguided, which costs the mean 0.1; standard errors 0.01
        assert found.mean().item() == pytest.approx(1, abs=0.1), sampler
        assert found.std().item() == pytest.approx(0.5**0.5, abs=0.06), sampler
    pure = Gaussian(zero_terminal_snr(BETAS), prediction_type="v", time_input="noise_level")
    spaced = pure.respaced(timesteps_of("trailing:100", 1000))
    for sampler in (ancestral, ddim, plms, dpmpp_2m, unipc):
        found = last(sampler(net, x, spaced, cond_fn=gradient))
        assert found.mean().item() == pytest.approx(1, abs=0.06), sampler


def test_gradient_of_a_classifier():
    weight = numbers(5, 12)
    x, labels = numbers(3, 3, 2, 2), torch.tensor([0, 4, 2])
    cond_fn = classifier_gradient(lambda x, t: x.flatten(1) @ weight.T, labels, scale=2.0)
    with torch.no_grad():
        found = cond_fn(x, torch.zeros(3), y=labels)
    p = (x.flatten(1) @ weight.T).softmax(1)
    expected = 2 * (weight[labels] - p @ weight)
    assert torch.allclose(found.flatten(1), expected, atol=1e-5)
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: classifier_free(Net(), {}, math.nan), "nan"),
        (lambda: classifier_free(Net(), {}, 2.0, rescale=1.5), "1.5"),
        (lambda: autoguided(Net(), Net(), 2.0, interval=(5, 5)), "lo < hi"),
        (lambda: classifier_gradient(Net(), torch.zeros(1), math.inf), "inf"),
    ],
)
def test_settings_that_cannot_be(make, says):
    with pytest.raises(ValueError, match=says):
        make()
