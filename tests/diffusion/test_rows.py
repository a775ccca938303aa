"""Rows that carry the seed of their noise: two passes give the gradient of one."""

import pytest
import torch

from diffusion import EDM2Loss, Precond
from diffusion.encoders import RGBEncoder, StabilityVAEEncoder
from diffusion.rows import Rows, row_keys, row_losses, super_batch_losses

CPU = torch.device("cpu")
LOSS = EDM2Loss(-0.4, 1.0, 0.5)


def make_net(**changes):
    torch.manual_seed(0)
    small = {
        "model_channels": 8,
        "channel_mult": [1, 2],
        "num_blocks": 1,
        "attn_resolutions": [4],
        "channels_per_head": 8,
        "dropout": 0.3,
    }
    net = Precond(8, 3, 5, use_fp16=False, **(small | changes)).train()
    net.forced_weight_norm = False
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith("gain"):
                p.fill_(0.7)
    return net


def make_rows(n=12, step=3, seed=1):
    g = torch.Generator().manual_seed(5)
    raw = torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=g)
    labels = torch.randint(0, 5, (n,), generator=g)
    return Rows(torch.arange(n), raw, labels, row_keys(seed, step, 0, 1, n, CPU))


def test_keys_do_not_depend_on_who_holds_a_row():
    whole = row_keys(1, 7, 0, 1, 12, CPU)
    for world in (2, 3):
        for rank in range(world):
            assert torch.equal(row_keys(1, 7, rank, world, 12 // world, CPU), whole[rank::world])
    others = [row_keys(2, 7, 0, 1, 12, CPU), row_keys(1, 8, 0, 1, 12, CPU)]
    assert len(torch.cat([whole, *others]).unique()) == 36


def test_parts_cover_all_rows_once_and_in_order():
    rows = make_rows(11)
    for size in (0, 1, 4, 11, 20):
        parts = list(rows.parts(size))
        assert torch.equal(torch.cat([p.index for p in parts]), rows.index)
        assert max(len(p.keys) for p in parts) <= (size or 11)
    assert list(rows.take(slice(0, 0)).parts(4)) == []


def test_two_passes_give_the_gradient_of_one_with_dropout():
    """One pass: the loss of all rows with gradients, then the chosen ones' sum."""
    net, rows = make_net(), make_rows()
    chosen = torch.tensor([7, 2, 11])
    losses, sigma = row_losses(net, rows, LOSS, RGBEncoder(), label_dim=5)
    losses[chosen].sum().backward()
    one = {name: p.grad.clone() for name, p in net.named_parameters()}

    net.zero_grad()
    scored, levels = super_batch_losses(net, rows, LOSS, RGBEncoder(), label_dim=5, part=5)
    torch.testing.assert_close(scored, losses.detach(), rtol=1e-5, atol=1e-3)
    assert torch.equal(levels, sigma)
    for part in rows.take(chosen).parts(2):
        row_losses(net, part, LOSS, RGBEncoder(), label_dim=5)[0].sum().backward()
    for name, p in net.named_parameters():
        assert (p.grad - one[name]).abs().max() <= 1e-4 * one[name].abs().max() + 1e-6, name
    # The check can fail: other masks give another gradient.
    net.zero_grad()
    other = rows.take(chosen)._replace(keys=rows.keys[chosen] + 1)
    row_losses(net, other, LOSS, RGBEncoder(), label_dim=5)[0].sum().backward()
    far = [
        (p.grad - one[name]).abs().max() > 0.05 * one[name].abs().max()
        for name, p in net.named_parameters()
    ]
    assert sum(far) > 0.9 * len(far)


def test_learner_and_reference_share_their_noise_unless_told_otherwise():
    net, rows = make_net(dropout=0.0).eval(), make_rows()
    options = {"label_dim": 5, "part": 12}
    first, sigma = super_batch_losses(net, rows, LOSS, RGBEncoder(), **options)
    again, same = super_batch_losses(net, rows, LOSS, RGBEncoder(), **options)
    other, levels = super_batch_losses(net, rows, LOSS, RGBEncoder(), **options, draw=1)
    assert torch.equal(first, again) and torch.equal(sigma, same)
    assert not torch.isclose(sigma, levels).any() and not torch.isclose(first, other).any()


def test_noise_levels_are_lognormal():
    rows = Rows(*[t.expand(4000, *t.shape[1:]) for t in make_rows(1)])
    rows = rows._replace(keys=row_keys(0, 0, 0, 1, 4000, CPU))

    def nothing(x, sigma, labels, return_logvar, dropout_keys):
        return x, torch.zeros(len(x), 1, 1, 1)

    levels = row_losses(nothing, rows, LOSS, RGBEncoder(), label_dim=5)[1].log()
    assert abs(float(levels.mean()) + 0.4) < 4 / 4000**0.5 and abs(float(levels.std()) - 1) < 0.05


def test_the_noise_of_a_latent_is_a_third_draw():
    """Mean 0 and standard deviation 1 stored: the latent is its own noise, scaled."""
    encoder = StabilityVAEEncoder()
    raw = torch.cat([torch.zeros(2, 4, 8, 8), torch.ones(2, 4, 8, 8)], 1)
    rows = make_rows(2)._replace(raw=raw)
    seen = []

    def net(x, sigma, labels, return_logvar, dropout_keys):
        seen.append((x, sigma))
        return x, torch.zeros(len(x), 1, 1, 1)

    assert row_losses(net, rows, LOSS, encoder, label_dim=0)[0].shape == (2,)
    row_losses(net, rows.take(torch.tensor([1])), LOSS, encoder, label_dim=0)
    assert seen[0][0].shape == (2, 4, 8, 8)
    assert torch.equal(seen[1][0], seen[0][0][1:])


@pytest.mark.parametrize("part", [1, 5, 12])
def test_scores_do_not_depend_on_the_micro_batch(part):
    net, rows = make_net(), make_rows()
    whole = super_batch_losses(net, rows, LOSS, RGBEncoder(), label_dim=5, part=12)[0]
    parts = super_batch_losses(net, rows, LOSS, RGBEncoder(), label_dim=5, part=part)[0]
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-3)
