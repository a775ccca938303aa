"""One step of IMLE: parts of a batch add up to the batch."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from imle import CAMNet, PixelLoss
from recipes.imle.step import imle_gradients, imle_loss


class Recorder:
    """What `runtime.run.Run` does with a loss, and what it was told."""

    def __init__(self):
        self.calls = []
        self.precision = SimpleNamespace(autocast=contextlib.nullcontext)

    def backward(self, loss, ids=None, last=True):
        self.calls.append((list(ids), last))
        loss.backward()


@pytest.fixture
def batch():
    torch.manual_seed(0)
    net = CAMNet(res=[4, 4, 8], map_nc=4, latent_nc=8, resid_nc=[6, 6], dense_nc=[4, 4], n_blocks=1)
    codes = [torch.randn(5, size) for size in net.code_sizes]
    ys = [torch.rand(5, 3, side, side) for side in net.res[1:]]
    return net, (torch.rand(5, 3, 4, 4), codes, ys)


def test_the_loss_is_the_sum_over_levels_of_means_over_rows(batch):
    net, (cx, codes, ys) = batch
    images = net(cx, codes)
    wanted = sum((x - y).square().mean((1, 2, 3)).mean() for x, y in zip(images, ys, strict=True))
    assert torch.allclose(imle_loss(PixelLoss(), images, ys), wanted)


@pytest.mark.parametrize("mini_bs", [1, 2, 5, 8])
def test_parts_of_a_batch_add_up_to_it(batch, mini_bs):
    net, (cx, codes, ys) = batch
    imle_loss(PixelLoss(), net(cx, codes), ys).backward()
    wanted = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    run = Recorder()
    ids = [10, 11, 12, 13, 14]
    loss = imle_gradients(run, net, PixelLoss(), (cx, codes, ys), ids, mini_bs=mini_bs)
    assert torch.allclose(loss, imle_loss(PixelLoss(), net(cx, codes), ys), rtol=1e-5)
    assert not loss.requires_grad
    for name, p in net.named_parameters():
        assert torch.allclose(p.grad, wanted[name], rtol=1e-3, atol=1e-7), name
    assert [i for part, _ in run.calls for i in part] == ids
    assert [last for _, last in run.calls] == [False] * (len(run.calls) - 1) + [True]
