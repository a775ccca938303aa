"""CAM-Nets with a base, consistency, another padding, another gain of codes: every task."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from imle import CAMNet, CodeGenerator, Corruption, draw_samples, to_learned
from imle.color import rgb_to_lab
from imle.consistency import consistency, fill_in, known_pixels
from imle.search import CodeSearch
from tests.imle.test_consistency import picture

TINY = dict(resid_nc=[6, 5], dense_nc=[3, 4], n_blocks=1, map_nc=4, latent_nc=8, code_nc=2)
TASKS = {
    "super-resolution": ((8, 16, 32), {}),
    "colorization": ((16, 16), dict(grayscale=1)),
    "colorization, enlarged": ((8, 8, 16), dict(grayscale=1)),
    "two channels": ((8, 8, 16), dict(grayscale=0.5)),
    "inpainting": ((16, 16, 16), dict(mask_frac=0.25)),
    "inpainting, enlarged": ((8, 8, 16), dict(mask_frac=0.25, mask_res=4, fill="color")),
    "both": ((16, 16, 32), dict(mask_frac=0.25, grayscale=1)),
}
ALL = list(itertools.product(TASKS, ["rgb", "lab"]))


def network(name: str, color_space: str = "rgb", **options) -> tuple[CAMNet, torch.Tensor]:
    """A network of a task, and three inputs of it."""
    res, corruption = TASKS[name]
    torch.manual_seed(0)
    net = CAMNet(list(res), **{**TINY, **corruption, "color_space": color_space, **options})
    for stage in net.stages:  # far from where it starts, so that there is something to agree on
        stage.out_conv[0].weight_g.data *= 4
    x = picture(res[0]).clamp(1 / 255, 1)
    return net, Corruption(**corruption, seed=1).keyed(x, 0, torch.arange(3))


def codes(net: CAMNet, rows: int = 3) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return [torch.randn(rows, d, generator=g) for d in net.code_sizes]


@pytest.mark.parametrize("base", ["none", "input", "learned"])
@pytest.mark.parametrize(("name", "color_space"), ALL)
def test_every_level_agrees_with_the_input_and_teaches(name, color_space, base):
    net, cx = network(name, color_space, base=base, consistency="project", padding="reflect")
    images = net(cx, codes(net))
    for image in images:
        assert consistency(image, cx, net.task).largest.max() < 2e-6
    sum(image.square().sum() for image in images).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
    assert all(stage.out_conv[0].weight_v.grad.abs().max() > 1e-4 for stage in net.stages)
    plain, _ = network(name, color_space, base=base, padding="reflect")
    apart = consistency(plain(cx, codes(plain), loi=0), cx, net.task).mean.max()
    kept = base != "none" and net.task.mask_frac and net.res[1] == net.res[0]
    assert apart < 1e-4 if kept else apart > 1e-3


@pytest.mark.parametrize("base", ["input", "learned"])
@pytest.mark.parametrize(("name", "color_space"), ALL)
def test_a_frozen_copy_is_equal_and_candidates_are_rows(name, color_space, base):
    options = dict(base=base, consistency="project", padding="replicate")
    net, cx = network(name, color_space, **options)
    one = codes(net)
    with torch.no_grad():
        images = net(cx, one)
        for layout in (True, False):
            frozen = net.frozen_copy(channels_last=layout)
            torch.testing.assert_close(frozen(cx, one), images, atol=5e-5, rtol=1e-3)
        many = [torch.cat([z, z.flip(0)], 1).view(6, -1) for z in one]
        both = net(cx, many)
        for image, pair in zip(images, both, strict=True):
            torch.testing.assert_close(pair[::2], image, atol=5e-5, rtol=1e-3)
        low = net.frozen_copy(dtype=torch.bfloat16)(cx, one)
        for image, near in zip(images, low, strict=True):
            assert near.dtype == torch.float32 and (near - image).abs().max() < 0.2
            assert consistency(near, cx, net.task).largest.max() < 2e-6
        with torch.autocast("cpu", torch.bfloat16):
            mixed = net(cx, one)
        assert consistency(mixed[-1], cx, net.task).largest.max() < 2e-6


def test_super_resolution_adds_to_the_enlarged_input():
    net, cx = network("super-resolution", base="input")
    for stage in net.stages:
        stage.out_conv[0].weight_g.data.zero_()
    with torch.no_grad():
        images = net(cx, codes(net))
    for image, below in zip(images, [cx, *images], strict=False):
        size = image.shape[2:]
        up = F.interpolate(below, size=size, mode="bicubic", antialias=True)
        torch.testing.assert_close(image, up, atol=1e-6, rtol=0)


def test_the_tanh_output_is_halved_and_added():
    net, cx = network("super-resolution", base="input")
    plain, _ = network("super-resolution")
    z = codes(net)
    with torch.no_grad():
        tanh = 2 * plain(cx, z, loi=0) - 1
        up = F.interpolate(cx, size=16, mode="bicubic", antialias=True)
        torch.testing.assert_close(net(cx, z, loi=0), up + tanh / 2, atol=1e-6, rtol=0)


def test_colorization_in_lab_keeps_lightness():
    net, cx = network("colorization", "lab", base="input")
    with torch.no_grad():
        _, state = net.advance(net.start(cx), codes(net)[0], 0)
    lab = rgb_to_lab(cx)
    assert torch.equal(state.image[:, :1], lab[:, :1])
    assert (state.image[:, 1:] - lab[:, 1:]).abs().max() > 0.01


@pytest.mark.parametrize("color_space", ["rgb", "lab"])
def test_inpainting_keeps_what_is_known_and_begins_smoothly(color_space):
    net, cx = network("inpainting", color_space, base="input")
    known = known_pixels(cx, net.task)
    z = codes(net)
    with torch.no_grad():
        images = net(cx, z)
        for image in images:
            apart = (image - cx).abs() * known
            assert apart.max() < 1e-6 if color_space == "rgb" else apart.max() < 2e-4
        for stage in net.stages:
            stage.out_conv[0].weight_g.data.zero_()
        start = net(cx, z, loi=-1)
    torch.testing.assert_close(start, fill_in(cx, known), atol=2e-4, rtol=0)
    # what a network says of a hole's edge counts half as much as inside
    assert (images[0] - start).abs().mul(~known).max() > 0.05


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["super-resolution", "both"])
def test_a_search_sees_what_training_sees(name, precision):
    """The winners' losses are those of the network itself, whose images agree with the inputs."""
    net, cx = network(name, base="input", consistency="project", padding="reflect")
    z = CodeGenerator(net.code_sizes, seed=3)
    ids = torch.arange(len(cx))
    ys = [picture(r, seed=4) for r in net.res[1:]]

    def loss(fx: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (fx - y).square().mean((1, 2, 3))

    with CodeSearch(net, loss, 6, 4, precision=precision, rescore=2) as search:
        found = search(cx, ys, lambda level, k: z.draw(level, 0, ids, k, None))
    with torch.no_grad():
        images = net(cx, found.codes)
    for level, image in enumerate(images):
        torch.testing.assert_close(
            loss(image, ys[level]), found.losses[:, level], rtol=1e-4, atol=0
        )
        assert consistency(image, cx, net.task).largest.max() < 2e-6


@pytest.mark.parametrize("name", TASKS)
def test_samples_shown_of_any_network(name):
    """In range and in eight bits; `asked` leaves the network and its levels as they are."""
    net, cx = network(name)
    z, ids = CodeGenerator(net.code_sizes, seed=3), torch.arange(3)

    def far(one: CAMNet) -> tuple[torch.Tensor, torch.Tensor]:
        drawn = draw_samples(one, z, cx, ids, 2, loop=0).flatten(0, 1)
        rounded = (255 * drawn.clamp(0, 1)).round() / 255
        return drawn, consistency(rounded, cx.repeat_interleave(2, 0), net.task).mean.max() * 255

    before, plain = far(net)
    projected, after = far(net.asked("project"))
    assert after < 1 < plain and projected.min() >= 0 and projected.max() <= 1
    assert torch.equal(far(net)[0], before) and torch.equal(far(net.asked(None))[0], before)
    trained, _ = network(name, consistency="project")
    assert far(trained)[1] < 1
    assert torch.equal(far(trained.asked("none"))[0], before)
    with pytest.raises(ValueError, match="consistency must be one of none, project, got 'x'"):
        net.asked("x")


def test_networks_that_make_no_picture_of_a_picture():
    ab = CAMNet([8, 8], **TINY, in_nc=1, out_nc=2, feedback="none", head="ab")
    with pytest.raises(ValueError, match="makes no RGB picture of one"):
        ab.asked("project")
    raw = CAMNet([8, 16], **TINY, feedback="raw")
    assert raw.asked("project").shows == "project"


@pytest.mark.parametrize("padding", ["reflect", "replicate"])
def test_padding_is_of_all_convolutions(padding):
    """A flat picture without noise stays flat; with zeros it has a border."""
    for mode, flat in ((padding, True), ("zeros", False)):
        net, _ = network("super-resolution", padding=mode, code_nc=0)
        z = codes(net)
        x = torch.full((3, 3, 8, 8), 0.3)
        with torch.no_grad():
            for one in (net, net.frozen_copy(), net.frozen_copy(channels_last=False)):
                image = one(x, z, loi=-1)
                spread = (image - image.mean((2, 3), keepdim=True)).abs().max()
                assert bool(spread < 1e-3) is flat


def test_without_a_norm_a_flat_picture_has_no_ripples():
    """Instance norm brings the faintest texture to the variance of any other."""
    texture = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = {}
    for norm in ("instance", "none"):
        net, _ = network("super-resolution", norm=norm, padding="reflect", code_nc=0)
        z = [c[:1] for c in codes(net)]
        flat = torch.full((1, 3, 8, 8), 0.3)
        with torch.no_grad():
            for one in (net, net.frozen_copy(), net.frozen_copy(channels_last=False)):
                moved = one(flat + 1e-3 * texture, z, loi=-1) - one(flat, z, loi=-1)
                found.setdefault(norm, []).append(float(moved.std()))
    assert max(found["none"]) < 3e-3
    assert min(found["instance"]) > 3 * max(found["none"])


def test_compiled_it_is_the_same():
    """torch.compile traces a network with base and projection whole: no graph breaks."""
    for name in ("super-resolution", "inpainting"):
        net, cx = network(name, padding="reflect", norm="none")
        z = codes(net)
        compiled = torch.compile(net, backend="eager", fullgraph=True)
        for a, b in zip(compiled(cx, z), net(cx, z), strict=True):
            torch.testing.assert_close(a, b)


def test_codes_start_as_loud_as_told():
    a, b = (network("super-resolution", code_gain=gain)[0] for gain in (0.3, 0.6))
    wa, wb = (n.stages[1].feat_net[0].weight() for n in (a, b))
    torch.testing.assert_close(wb[:, 3:5], 2 * wa[:, 3:5])
    torch.testing.assert_close(wb[:, :3], wa[:, :3])
    ta, tb = (n.stages[0].style_block.sub["transform_0"].weight for n in (a, b))
    torch.testing.assert_close(tb[6:], 2 * ta[6:])
    assert torch.equal(tb[:6], ta[:6])


def test_defaults_are_the_function_of_before():
    """Keys that older snapshots do not have are what they were without."""
    net, cx = network("super-resolution")
    added = "base consistency padding code_gain grayscale mask_frac mask_res fill".split()
    older = CAMNet(**{k: v for k, v in net.config.items() if k not in added})
    older.load_state_dict(net.state_dict())
    assert older.config == net.config
    assert all(map(torch.equal, older(cx, codes(net)), net(cx, codes(net))))
    state = net.start(cx)
    assert state.origin is None and net.shown(cx, cx) is cx


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(base="up"), "base must be one of none, input, learned, got 'up'"),
        (dict(consistency="yes"), "consistency must be one of none, project, got 'yes'"),
        (dict(padding="wrap"), "padding must be one of zeros, reflect, replicate, got 'wrap'"),
        (dict(code_gain=0), "code_gain must be positive and finite, got 0"),
        (dict(base="input", feedback="raw"), "base input needs .* feedback reranged"),
        (dict(consistency="project", feedback="none"), "consistency project needs .* reranged"),
        (
            dict(base="input", in_nc=1, out_nc=2, head="ab", feedback="none"),
            "base input needs in_nc 3, out_nc 3, head rgb",
        ),
        (dict(base="input", color_space="lab", lab_range="reference"), "needs lab_range correct"),
        (dict(padding="reflect", res=[1, 2]), "padding reflect needs images of 2 pixels"),
        (dict(grayscale=2), "grayscale must be 0, 0.5 or 1, got 2"),
        (dict(mask_frac=2), "mask_frac must be in"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        CAMNet(**{**TINY, "res": [8, 16], **settings})


# ------------------------------------------------------------------------------ a base that learns


LEARNED = dict(base="learned", base_nc=6, base_blocks=2, consistency="project", padding="reflect")


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize(("name", "color_space"), ALL)
def test_a_learnt_base_is_what_samples_are_without_their_own_part(name, color_space, context):
    net, cx = network(name, color_space, **LEARNED, base_context=context)
    net.regression.head[0].weight_g.data *= 30
    for stage in net.stages:
        stage.out_conv[0].weight_g.data.zero_()
    with torch.no_grad():
        regressed, samples = net.regressed(cx), net(cx, codes(net))
    for one, other in zip(regressed, samples, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    plain, _ = network(name, color_space, **{**LEARNED, "base": "input"})
    for stage in plain.stages:
        stage.out_conv[0].weight_g.data.zero_()
    with torch.no_grad():
        assert (plain(cx, codes(plain), loi=-1) - samples[-1]).abs().max() > 1e-3


def test_a_learnt_base_is_trained_without_codes_and_alone():
    net, cx = network("super-resolution", **LEARNED, base_context=1)
    torch.testing.assert_close(
        net.regressed(cx), net.frozen_copy().regressed(cx), atol=5e-5, rtol=0
    )
    sum(image.square().sum() for image in net.regressed(cx)).backward()
    taught = {name for name, p in net.named_parameters() if p.grad is not None}
    assert taught == {n for n, _ in net.named_parameters() if n.startswith("regression.")}
    plain, _ = network("super-resolution", base="input")
    assert plain.regression is None and not any("regression" in n for n in plain.state_dict())
    with pytest.raises(ValueError, match="base input learns nothing: base learned does"):
        plain.regressed(cx)


@pytest.mark.parametrize(("name", "color_space"), ALL)
def test_a_network_gets_a_learnt_base_without_changing_its_function(name, color_space):
    before, cx = network(name, color_space, **{**LEARNED, "base": "input"})
    net, _ = network(name, color_space, **LEARNED, base_context=1)
    net.load_state_dict(to_learned(before.state_dict(), net))
    z = codes(net)
    with torch.no_grad():
        for one, other in zip(net(cx, z), before(cx, z), strict=True):
            assert torch.equal(one, other)
    net(cx, z, loi=-1).square().sum().backward()
    assert net.regression.head[0].weight_g.grad.abs().max() > 0  # and learns from there


def test_context_lets_a_learnt_base_see_the_whole_picture():
    sees = []
    for context in (0, 3):
        net = CAMNet(**{**TINY, "res": [32, 64], **LEARNED, "base_context": context})
        net.regression.head[0].weight_g.data *= 30
        cx = torch.rand(1, 3, 32, 32, requires_grad=True)
        net.regression(cx).reshape(-1)[:3].sum().backward()  # of the first pixel
        sees.append(bool((cx.grad[0, :, -1, -1] != 0).any()))
    assert sees == [False, True]


@pytest.mark.parametrize(
    ("task", "sees"),
    [
        (dict(grayscale=1, base_context=1), True),
        (dict(grayscale=1), False),  # as before there was context
        (dict(mask_frac=0.5, mask_res=4, base_context=1), False),
    ],
)
def test_levels_look_at_what_is_learnt(task, sees):
    """Where it is of their resolution and has context: level 0's features change with the base; in
    inpainting levels see the picture with its holes."""
    torch.manual_seed(0)
    net = CAMNet(**{**TINY, "res": [8, 8], **LEARNED, **task})
    cx, code = torch.rand(2, 3, 8, 8), torch.randn(2, net.code_sizes[0])
    features = []
    with torch.no_grad():
        for gain in (0, 30):
            net.regression.head[0].weight_g.fill_(gain)
            features.append(net.advance(net.start(cx), code, 0)[1].feature)
    assert torch.equal(*features) != sees


@pytest.mark.parametrize("context", [-1, 2, 4, 40])
def test_context_that_does_not_come_out_even(context):
    message = (
        "at least 0" if context < 0 else f"halves inputs of 12 pixels {context} times, .* 2 or more"
    )
    if context == 2:  # 3 pixels are left
        CAMNet(**{**TINY, "res": [12, 24], **LEARNED, "base_context": context})
        return
    with pytest.raises(ValueError, match=message):
        CAMNet(**{**TINY, "res": [12, 24], **LEARNED, "base_context": context})


def test_samples_begin_near_a_learnt_base():
    off = []
    for base in ("input", "learned"):
        torch.manual_seed(0)
        net = CAMNet(**{**TINY, "res": [8, 16], **LEARNED, "base": base, "consistency": "none"})
        stage = net.stages[0]
        off.append(float(stage.out_conv[0].weight_g.detach().abs().mean()))
    assert off[1] == pytest.approx(off[0] * 0.1, rel=0.3)
