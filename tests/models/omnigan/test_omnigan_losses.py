"""The tree of omnigan's losses, and those that golden vectors do not reach."""

from __future__ import annotations

import pytest
import torch

from models.omnigan import GANLoss, make_losses
from models.omnigan import task_losses as tl
from models.omnigan.gan_losses import clip_weights, gradient_penalty, r1_penalty
from tests.models.omnigan.tiny import discriminators


def test_the_tree():
    losses = make_losses()
    assert {k: set(v) for k, v in losses["G"].items() if k != "classifier"} == {
        "gan": {"a", "t"}, "cycle": {"a", "t"}, "auto": {"a", "t"}, "tasks": {"d", "h", "s", "w"},
    }  # fmt: skip
    assert set(losses) == {"G", "D", "C"} and losses["G"].keys() >= {"classifier"}
    assert isinstance(losses["D"], GANLoss) and isinstance(losses["G"]["gan"]["a"], GANLoss)
    assert (losses["D"].soft_shift, losses["D"].flip_prob) == (0.2, 0.05)
    assert losses["G"]["gan"]["t"].soft_shift == losses["G"]["gan"]["t"].flip_prob == 0
    few = make_losses("ads", gan="hinge")
    assert set(few["G"]["gan"]) == {"a"} and set(few["G"]["tasks"]) == {"d", "s"}
    assert few["D"].soft_shift == 0


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"gan": "gan"}, "gan 'gan': it is one of hinge, lsgan, vanilla, wgan"),
        ({"d": "huber"}, "loss 'huber' of d"), ({"classifier": "CE"}, "classifier 'CE'"),
        ({"gan": "hinge", "soft_shift": 0.2}, "hinge has no targets"),
        ({"flip_prob": 2}, "flip_prob 2: it is between 0 and 1"),
    ],
)  # fmt: skip
def test_what_it_refuses(how, said):
    with pytest.raises(ValueError, match=said):
        make_losses(**how)


def test_cross_entropy_of_ignored_and_wrong_labels():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    labels = torch.full((2, 4, 4), 255)
    nothing = tl.cross_entropy_2d(logits, labels)
    nothing.backward()
    assert float(nothing) == 0 and logits.grad is not None and not logits.grad.any()
    labels[0, 0, 0], labels[0, 0, 1] = 1, -1
    one = -logits.log_softmax(1)[0, 1, 0, 0]
    assert torch.allclose(tl.cross_entropy_2d(logits, labels), one)
    other = tl.cross_entropy_2d(logits, labels, torch.tensor([False, True]))
    assert float(other) == 0 and other.requires_grad
    labels[1, 2, 2] = 3
    with pytest.raises(ValueError, match="a pixel is of class 3, but the decoder has 3 classes"):
        tl.cross_entropy_2d(logits, labels)
    with pytest.raises(ValueError, match="segmentation of"):
        tl.cross_entropy_2d(logits, labels[:, :2])


@pytest.mark.parametrize("name", [*tl.DEPTH, *tl.WATER])
def test_labels_of_some_samples(name):
    loss = {**tl.DEPTH, **tl.WATER}[name]
    output = torch.randn(3, 1, 8, 8, requires_grad=True)
    target = (torch.rand(3, 1, 8, 8) > 0.5).float() + (0 if name in tl.WATER else torch.rand(1))
    some = torch.tensor([True, False, True])
    assert torch.allclose(loss(output, target, weight=some), loss(output[some], target[some]))
    none = loss(output, target, weight=torch.zeros(3, dtype=torch.bool))
    none.backward()
    assert float(none) == 0 and output.grad is not None and not output.grad.any()


def test_what_water_is_lowest_for():
    target = torch.zeros(1, 1, 4, 4)
    target[..., :2] = 1
    right, wrong = (target * 2 - 1) * 9, (1 - target * 2) * 9
    for loss in tl.WATER.values():
        assert float(loss(right, target)) < 0.05 < 5 < float(loss(wrong, target))


def test_depth_up_to_scale():
    target = torch.rand(1, 1, 16, 16)
    assert float(tl.sigm(3 * target + 2, target)) < 1e-3
    assert float(tl.simse(target + 2, target)) < 1e-6 < 1 < float(tl.l2(target + 2, target))


def test_shift_and_flip_are_the_generator_s():
    loss, p = GANLoss(soft_shift=0.5, flip_prob=0.5), torch.zeros(1, 1, 2, 2)

    def values(seed):
        g = torch.Generator().manual_seed(seed)
        return [float(loss(p, True, discriminator=True, generator=g)) for _ in range(6)]

    assert values(1) == values(1) != values(2)
    one_sided = GANLoss(soft_shift=0.5, smooth_fake=False)
    assert float(one_sided(p, False)) == 0


def test_penalties():
    head, x = discriminators()["a"]["r"].eval(), torch.randn(2, 3, 16, 16)
    for value in (r1_penalty(head, x), gradient_penalty(head, x, x.flip(0))):
        grads = torch.autograd.grad(value, head.model[0].parametrizations.weight.original)
        assert float(value) > 0 and grads[0].any()
    clip_weights([head], 0.01)
    assert max(float(p.abs().max()) for p in head.parameters()) <= 0.01
    assert GANLoss("wgan")(head(x), True).isfinite()
