"""The training step on two gloo processes gives the gradients of one."""

import torch

from imle import CAMNet, CodeGenerator, ResolutionLoss
from runtime import distributed
from tests import gloo


def gradients() -> list[torch.Tensor]:
    """Gradients of one step on this rank's slice of a batch of 4, averaged over the ranks."""
    torch.manual_seed(0)
    net = CAMNet(
        res=[8, 16, 32], resid_nc=[8, 6], dense_nc=[4, 4], n_blocks=1, map_nc=4, latent_nc=8
    )
    loss_fn = ResolutionLoss(random_seed=0, alpha=1.0)
    x = torch.rand(4, 3, 8, 8)
    ys = [torch.rand(4, 3, 16, 16), torch.rand(4, 3, 32, 32)]
    z = CodeGenerator(net.code_sizes, seed=0)
    codes = [
        z.draw(level, 0, torch.arange(4), torch.zeros(1, dtype=torch.int64)) for level in (0, 1)
    ]
    share = gloo.shard(4)
    part = slice(share.start, share.stop)
    images = net(x[part], [c[part] for c in codes])
    sum(loss_fn(fx, y[part]).mean() for fx, y in zip(images, ys, strict=True)).backward()
    distributed.average_gradients(net.parameters())
    return [p.grad for p in net.parameters() if p.grad is not None]


def test_gradients_of_two_ranks_are_those_of_one():
    one = gradients()
    largest = max(float(g.abs().max()) for g in one)
    assert largest > 1e-3
    for two in gloo.run(2, gradients):
        assert len(two) == len(one)
        for a, b in zip(one, two, strict=True):
            # absolute, because biases before an instance norm have only rounding for a gradient
            torch.testing.assert_close(b, a, rtol=0, atol=3e-6 * largest)
