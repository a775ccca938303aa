"""Images of seeds: functions of seed, class and settings, not of batch, rank or company."""

import functools

import pytest
import torch

from diffusion import Precond
from diffusion.generate import Item, check_guide, generate, seed_classes, split_batches
from diffusion.samplers import SeedStack, heun, sigma_levels

SAMPLER = functools.partial(heun, steps=4)
CHURN = functools.partial(heun, steps=4, S_churn=8.0)


def make(label_dim=3, seed=0, res=8, channels=8, image_channels=3):
    """A tiny network whose output matters (its gains are not zero)."""
    torch.manual_seed(seed)
    net = Precond(
        res, image_channels, label_dim, model_channels=channels, channel_mult=[1, 2],
        num_blocks=1, attn_resolutions=[4], channels_per_head=8,
    )  # fmt: skip
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith("gain"):
                p.fill_(0.7)
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def net():
    return make()


def draw(net, items, batch=32, sampler=SAMPLER, **options):
    """{(seed, label): latents} and the batches."""
    out = list(generate(net, split_batches(items, batch), sampler, **options))
    return {i: x for d in out for i, x in zip(d.items, d.latents, strict=True)}, out


@pytest.mark.parametrize("sampler", [SAMPLER, CHURN])
def test_an_image_depends_on_its_seed_alone(net, sampler):
    items = [Item(seed) for seed in range(10, 17)]
    together, _ = draw(net, items, sampler=sampler)
    few, _ = draw(net, items[::-1], batch=2, sampler=sampler)
    assert together.keys() == few.keys() and len(together) == 7
    for item, x in together.items():
        torch.testing.assert_close(few[item], x, rtol=1e-4, atol=1e-4)
    assert len({tuple(x.flatten()[:3].tolist()) for x in together.values()}) == 7


def test_ranks_share_the_items():
    items = [Item(s) for s in range(23)]
    for world in (1, 2, 3, 5):
        for batch in (1, 4, 32):
            parts = [split_batches(items, batch, rank=r, world=world) for r in range(world)]
            flat = [i for part in parts for b in part for i in b]
            assert sorted(flat) == items and len(flat) == 23
            sizes = {len(b) for part in parts for b in part}
            assert max(sizes) <= batch and max(sizes) - min(sizes) <= 1
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert split_batches([], 4) == []
    assert [split_batches(items[:2], 4, rank=r, world=3) for r in range(3)].count([]) == 1
    for batch, rank, world in ((0, 0, 1), (1, 1, 1), (1, -1, 2)):
        with pytest.raises(ValueError):
            split_batches(items, batch, rank=rank, world=world)


def test_numbers_are_drawn_noise_first_then_the_class_then_churn(net):
    items = [Item(5), Item(6)]
    got, _ = draw(net, items, sampler=CHURN)
    random = SeedStack([5, 6])
    noise = random.randn(3, 8, 8)
    labels = random.randint(3)
    assert sorted(got) == [Item(5, int(labels[0])), Item(6, int(labels[1]))]
    want = CHURN(lambda x, s: net(x, s, torch.eye(3)[labels]), noise, randn=random.randn_like)
    torch.testing.assert_close(torch.stack([got[i] for i in sorted(got)]), want)
    # A class that is given changes nothing else: the churn noise is the same.
    fixed, _ = draw(net, sorted(got), sampler=CHURN)
    assert all(torch.equal(fixed[i], x) for i, x in got.items())


def test_classes_matter_and_may_be_fewer_than_the_labels(net):
    seeds = range(40)
    by_class, _ = draw(net, [Item(1, c) for c in range(3)])
    assert not torch.allclose(by_class[Item(1, 0)], by_class[Item(1, 1)])
    drawn, _ = draw(net, [Item(s) for s in seeds], sampler=functools.partial(heun, steps=1))
    assert {i.label for i in drawn} == {0, 1, 2}
    drawn, _ = draw(
        net, [Item(s) for s in seeds], sampler=functools.partial(heun, steps=1), classes=2
    )
    assert {i.label for i in drawn} == {0, 1}
    assert [i.label for i in drawn] == seed_classes(net, seeds, 2)


def test_unconditional():
    net = make(label_dim=0)
    drawn, _ = draw(net, [Item(3), Item(4)])
    assert list(drawn) == [Item(3), Item(4)]
    with pytest.raises(ValueError, match="class 0"):
        draw(net, [Item(3, 0)])


def test_guided_is_the_manual_lerp(net):
    guide, items = make(seed=1, channels=16), [Item(0, 1), Item(1, 2)]
    labels = torch.eye(3)[[1, 2]]

    def manual(x, sigma):
        main, weak = net(x, sigma, labels), guide(x, sigma, labels)
        return weak + 2.5 * (main - weak)

    got, _ = draw(net, items, guide=guide, guidance=2.5)
    want = heun(manual, SeedStack([0, 1]).randn(3, 8, 8), steps=4)
    torch.testing.assert_close(torch.stack(list(got.values())), want, rtol=1e-4, atol=1e-4)
    alone, _ = draw(net, items)
    assert not torch.allclose(alone[items[0]], got[items[0]], atol=1e-2)


def test_a_guide_without_classes_gets_none(net):
    guide, items = make(label_dim=0, seed=1), [Item(0, 1)]
    label = torch.eye(3)[[1]]
    got, _ = draw(net, items, guide=guide, guidance=1.5)
    want = heun(
        lambda x, s: guide(x, s).lerp(net(x, s, label), 1.5), SeedStack([0]).randn(3, 8, 8), steps=4
    )
    torch.testing.assert_close(got[items[0]], want[0], rtol=1e-4, atol=1e-4)


def test_the_guide_is_not_asked_at_guidance_1_nor_outside_the_interval(net):
    asked = []

    class Asked(torch.nn.Module):
        img_resolution, img_channels, label_dim = 8, 3, 3

        def forward(self, x, sigma, labels=None):
            asked.append(float(sigma))
            return torch.zeros_like(x)

    items = [Item(0, 1)]
    alone, _ = draw(net, items)
    same, _ = draw(net, items, guide=Asked(), guidance=1.0)
    assert torch.equal(alone[items[0]], same[items[0]]) and not asked
    inside, _ = draw(net, items, guide=Asked(), guidance=2.0, interval=(0.01, 10.0))
    levels = sigma_levels(4)
    assert {round(s, 4) for s in asked} == {round(s, 4) for s in levels if 0.01 < s <= 10}
    assert not torch.equal(inside[items[0]], alone[items[0]])


def test_answers_on_the_way(net):
    drawn, out = draw(net, [Item(0, 1), Item(1, 1)], keep_every=2)
    way = out[0].denoised
    assert way.shape == (4, 2, 3, 8, 8)
    first = net(80.0 * SeedStack([0]).randn(3, 8, 8), torch.tensor(80.0), torch.eye(3)[[1]])
    torch.testing.assert_close(way[0, 0], first[0], rtol=1e-4, atol=1e-5)
    # the step to sigma 0 goes to what the denoiser answers
    torch.testing.assert_close(way[-1, 0], drawn[Item(0, 1)], rtol=1e-4, atol=1e-5)
    _, out = draw(
        net, [Item(0, 1)], keep_every=2, guide=make(seed=1), guidance=2.0, interval=(1.0, 50.0)
    )
    assert len(out[0].denoised) == 4


@pytest.mark.parametrize(
    "other, says",
    [
        (dict(res=16), "16 pixels"),
        (dict(image_channels=4), "4 channels"),
        (dict(label_dim=5), "5 classes"),
    ],
)
def test_guides_that_do_not_fit(net, other, says):
    with pytest.raises(ValueError, match=says):
        check_guide(net, make(**other))
    with pytest.raises(ValueError, match=says):
        draw(net, [Item(0)], guide=make(**other), guidance=2.0)
    draw(net, [Item(0)], guide=make(**other), guidance=1.0)


def test_a_guide_with_classes_does_not_fit_a_network_without():
    with pytest.raises(ValueError, match="3 classes, the network 0"):
        check_guide(make(label_dim=0), make())
    check_guide(make(), make(label_dim=0))


def test_classes_out_of_range(net):
    with pytest.raises(ValueError, match="class 3"):
        draw(net, [Item(0, 3)])
    with pytest.raises(ValueError, match="class -1"):
        draw(net, [Item(0, -1)])
    with pytest.raises(ValueError, match="4 classes"):
        draw(net, [Item(0)], classes=4)
