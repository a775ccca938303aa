"""IMLE's generators: what they draw, and snapshots as sources of views."""

import math

import pytest
import torch

from data.views.generated import GeneratedViews
from generators.door import make_generator
from generators.imle import CAMNetSampler, codes_of, truncated
from imle import CodeGenerator, Corruption
from imle.consistency import consistency
from recipes.views.parts import opened
from storage.errors import CheckpointError, UsageError
from storage.snapshot import Snapshot, save_snapshot
from tests.generators.tiny import LAST, RES, network, snapshot, view_sampler
from tests.imle.test_consistency import picture


def inputs(n=6):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 3, RES[0], RES[0], generator=generator)


IDS = torch.tensor([3, 0, 5, 3, 9, 2])
DRAWS = torch.tensor([0, 1, 2, 3, 4, 1 << 40])


# ------------------------------------------------------------------------------------- the sampler


@pytest.mark.parametrize("size, levels", [(32, 2), (16, 1), (12, 1), (20, 2), (40, 2), (None, 2)])
def test_images_are_the_network_s_at_the_encoder_s_size(size, levels):
    made, x = snapshot(), inputs()
    sampler = view_sampler(made, size=size, channels_last=False)
    assert (sampler.size, sampler.input_size) == (size or LAST, RES[0])
    assert sampler.levels == levels and len(sampler._net.stages) == levels  # and no more
    net = network().eval()
    z = CodeGenerator(net.code_sizes)
    codes = [
        torch.stack(
            [
                z.draw(level, -4, IDS[b : b + 1], DRAWS[b : b + 1])[0]  # one picture at a time
                for b in range(len(IDS))
            ]
        )
        for level in range(levels)
    ]
    with torch.no_grad():
        expected = net(x, codes, loi=levels - 1)
    if size not in (None, expected.shape[-1]):
        shrinks = expected.shape[-1] > size
        expected = torch.nn.functional.interpolate(
            expected, size=(size, size), mode="bicubic", antialias=shrinks
        )
    got = sampler.sample(x, IDS, DRAWS)
    assert got.shape[-1] == sampler.size
    assert torch.allclose(got, expected, atol=1e-4)
    assert not torch.equal(got, sampler.sample(x, IDS, DRAWS + 1))


def test_precision_and_layout_change_little():
    x = inputs()
    plain = view_sampler(snapshot(), size=32, channels_last=False).sample(x, IDS, DRAWS)
    for precision, layout, tolerance in (("fp32", True, 1e-4), ("bf16", True, 0.05)):
        sampler = view_sampler(snapshot(), size=32, precision=precision, channels_last=layout)
        assert (sampler.sample(x, IDS, DRAWS) - plain).abs().max() < tolerance
    assert not torch.equal(sampler.sample(x, IDS, DRAWS), plain)  # bf16 it was


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_view_does_not_depend_on_the_batch(precision, channels_last):
    sampler = view_sampler(snapshot(), size=32, precision=precision, channels_last=channels_last)
    pictures = (inputs(19) * 255).byte()
    source = GeneratedViews(pictures, sampler, rows=8)
    ids = torch.arange(19)
    whole = source(ids, 3)
    order = torch.randperm(19, generator=torch.Generator().manual_seed(0))
    assert torch.equal(source(order, 3), whole[order])
    for size in (1, 5, 8):
        assert torch.equal(torch.cat([source(part, 3) for part in ids.split(size)]), whole)
    wide = source(ids.repeat(2), torch.tensor([3, 4]).repeat_interleave(19))
    assert torch.equal(wide[:19], whole)


def test_the_input_is_corrupted_alike_whatever_the_draw():
    own = {"grayscale": 0.5, "mask_frac": 0.5, "mask_res": 4, "fill": "color"}
    x = inputs()
    sampler = view_sampler(snapshot(corruption=own), size=16, seed=3)
    expected = Corruption(**own, seed=3).keyed(x, -4, IDS)
    assert torch.equal(sampler.corrupt(x, IDS), expected)
    assert not torch.equal(expected[0], expected[3])  # the same id, another picture
    other = view_sampler(snapshot(corruption=own), size=16, corruption={"mask_frac": 0.0})
    assert torch.equal(
        other.corrupt(x, IDS), Corruption(**{**own, "mask_frac": 0.0}).keyed(x, -4, IDS)
    )
    coarse = view_sampler(snapshot(), size=16, lr_factor=4).corrupt(x, IDS)
    assert coarse.shape == x.shape and coarse.std((2, 3)).mean() < 0.5 * x.std((2, 3)).mean()


@pytest.mark.parametrize("own", [{}, {"grayscale": 1}, {"grayscale": 0.5, "mask_frac": 0.5}])
def test_pictures_agree_with_their_input_if_asked(own):
    """Whatever the network was trained with; the corruption that is asked for counts."""

    def far(images, cx, task):
        return float(consistency(images, cx, task).mean.max()) * 255

    x, task = picture(RES[0], batch=6), Corruption(**own)
    older, trained = snapshot(corruption=own), snapshot(corruption=own, consistency="project")
    for made in (older, trained):
        net = make_generator(made)
        cx = net.corrupt(x)
        plain = net.draw(2, inputs=x)
        for word, agrees in ((None, made is trained), ("project", True), ("none", False)):
            drawn = net.draw(2, inputs=x, consistency=word).float() / 255
            assert (far(drawn, cx.repeat_interleave(2, 0), task) < 1) is agrees
        assert torch.equal(net.draw(2, inputs=x), plain)
        views = net.view_sampler(16, consistency="project")
        assert far(views.sample(views.corrupt(x, IDS), IDS, DRAWS), views.corrupt(x, IDS), task) < 1
        other = net.view_sampler(32, consistency="project", corruption={"grayscale": 1})
        seen = other.corrupt(x, IDS)
        task_there = Corruption(**{**own, "grayscale": 1})
        assert far(other.sample(seen, IDS, DRAWS), seen, task_there) < 1
    assert torch.equal(
        make_generator(older).draw(2, inputs=x),
        make_generator(trained).draw(2, inputs=x, consistency="none"),
    )
    with pytest.raises(UsageError, match="--consistency must be one of none, project, got 'x'"):
        make_generator(older).draw(1, inputs=x, consistency="x")


def test_temperature_truncation_and_the_fixed_code():
    x = inputs()
    cold = view_sampler(snapshot(), size=16, temperature=0.0)
    assert torch.equal(cold.sample(x, IDS, DRAWS), cold.sample(x, IDS, DRAWS + 7))
    half = view_sampler(snapshot(), size=16, temperature=0.5)
    plain = view_sampler(snapshot(), size=16)
    assert torch.equal(half.codes(0, IDS, DRAWS), 0.5 * plain.codes(0, IDS, DRAWS))
    bounded = view_sampler(snapshot(), size=16, truncation=0.8, temperature=0.5)
    assert bounded.codes(0, IDS, DRAWS).abs().max() <= 0.4
    fixed = view_sampler(snapshot(), size=16, code="fixed")
    z = fixed.codes(0, IDS, DRAWS)
    assert bool((z == z[0]).all()) and z.std() > 0.5
    assert torch.equal(fixed.sample(x, IDS, DRAWS), fixed.sample(x, IDS + 1, DRAWS + 1))


@pytest.mark.parametrize("codes", [{}, {"method": "mixture", "num_components": 3}])
def test_temperature_scales_the_codes_of_samples(codes, monkeypatch):
    net, x = make_generator(snapshot(codes=codes)), inputs()[:2]
    draw = CodeGenerator.draw
    plain = net.draw(3, inputs=x)
    assert torch.equal(net.draw(3, inputs=x, temperature=1.0), plain)
    half = net.draw(3, inputs=x, temperature=0.5)
    assert not torch.equal(half, plain)
    monkeypatch.setattr(CodeGenerator, "draw", lambda *a, **k: 0.5 * draw(*a, **k))
    assert torch.equal(net.draw(3, inputs=x), half)
    monkeypatch.undo()
    cold = net.draw(3, inputs=x, temperature=0.0)
    assert torch.equal(cold[:3], cold[:1].expand(3, -1, -1, -1))
    middle = net.draw(3, inputs=x, temperature=[0.0, 1.0])  # of each input: 0, 1, 1
    assert torch.equal(middle[0::3], cold[0::3])
    assert torch.equal(middle[1::3], plain[1::3]) and torch.equal(middle[2::3], plain[2::3])
    # of a sample by its number, whatever is drawn beside it
    assert torch.equal(net.draw(1, inputs=x, temperature=[0.0, 1.0], first=1), plain[1::3])
    for bad in (-1.0, 101.0, math.inf, math.nan, [], [1.0, -1.0]):
        with pytest.raises(UsageError, match="from 0 to 100"):
            net.draw(1, inputs=x, temperature=bad)


def test_truncated_normals_have_their_distribution():
    z = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    for bound in (0.5, 1.0, 2.0, 5.0):
        t = truncated(z, bound)
        density = math.exp(-bound * bound / 2) / math.sqrt(2 * math.pi)
        variance = 1 - 2 * bound * density / math.erf(bound / math.sqrt(2))
        assert t.abs().max() <= bound
        assert abs(float(t.var()) - variance) < 0.01 and abs(float(t.mean())) < 0.01
        assert bool((t.sort().values == t[z.argsort()]).all())
    assert torch.allclose(truncated(z, 30.0), z, atol=1e-4)


def test_mixtures_can_be_drawn_but_not_truncated():
    mixed = snapshot(codes={"method": "mixture", "num_components": 3})
    sampler = view_sampler(mixed, size=16)
    z = CodeGenerator(network().code_sizes, method="mixture", num_components=3)
    assert torch.equal(sampler.codes(0, IDS, DRAWS), z.draw(0, -4, IDS, DRAWS[:, None]))
    with pytest.raises(UsageError, match="mixture"):
        view_sampler(mixed, size=16, truncation=1.0)


def test_update_takes_the_weights_of_the_moment():
    net, x = network(), inputs()
    sampler = CAMNetSampler(net, 16)
    before = sampler.sample(x, IDS, DRAWS)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1.1)
    assert torch.equal(sampler.sample(x, IDS, DRAWS), before)
    sampler.update(net)
    after = sampler.sample(x, IDS, DRAWS)
    assert not torch.equal(after, before)
    assert torch.equal(after, CAMNetSampler(net, 16).sample(x, IDS, DRAWS))


@pytest.mark.parametrize(
    "options, says",
    [
        ({"code": "one"}, "code"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"truncation": 0.0}, "truncation"),
        ({"lr_factor": 3}, "lr_factor 3"),
        ({"corruption": {"grayscale": 2}}, "grayscale"),
        ({"corruption": {"mask_frac": 0.5, "mask_res": 16}}, "mask_res 16"),
        ({"precision": "fp16"}, "fp16"),
    ],
)
def test_settings_that_cannot_be(options, says):
    with pytest.raises(UsageError, match=says):
        view_sampler(snapshot(), size=16, **options)


def test_snapshots_that_cannot_serve(tmp_path):
    file = save_snapshot(tmp_path / "other.safetensors", {}, "edm2", {}, {})
    with pytest.raises(CheckpointError, match="an EDM2 network, .* takes a CAM-Net"):
        opened(str(file))
    broken = snapshot()
    name = next(iter(broken.state_dict))
    broken.state_dict[name].view(-1)[0] = math.nan
    with pytest.raises(CheckpointError, match="no finite weights"):
        view_sampler(broken, size=16)
    other = snapshot(feedback="none", in_nc=20)
    with pytest.raises(UsageError, match="RGB"):
        view_sampler(other, size=16)
    missing = snapshot()
    missing.state_dict.popitem()
    with pytest.raises(CheckpointError, match="does not fit"):
        view_sampler(missing, size=16)


@pytest.mark.parametrize("kept", ["config", "provenance"])
def test_a_mixture_is_that_of_the_training_whatever_seed_draws(kept):
    """The code of a network that gives its code back lies about the means of the training's seed,
    also where only the provenance of a snapshot knows it."""
    settings = {"method": "mixture", "num_components": 2, "mixture_scale": 0.999}
    provenance = {}
    if kept == "config":
        settings["means_seed"] = 5
    else:
        provenance = {"args": {"seed": 5}}
    snapshot = Snapshot({}, "imle-unconditional", {"codes": settings}, provenance)
    z = CodeGenerator([40], seed=9, **codes_of(snapshot))
    means = CodeGenerator([40], seed=5, **{**settings, "means_seed": None}).means(0)
    others = CodeGenerator([40], seed=9, **{**settings, "means_seed": None}).means(0)
    drawn = z.draw(0, 0, torch.arange(20), torch.zeros(1, dtype=torch.int64))
    assert torch.cdist(drawn, means).amin(1).max() < 1
    assert torch.cdist(drawn, others).amin(1).min() > 3
