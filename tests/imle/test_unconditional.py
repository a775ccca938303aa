"""The unconditional generator: shapes, scale, interface, and the identities its design rests on."""

import pytest
import torch
import torch.nn.functional as F

from imle import parameter_groups
from imle.codes import CodeGenerator
from imle.sampling import draw_samples
from imle.search import search
from imle.unconditional import (
    ModulatedConv2d,
    UnconditionalGenerator,
    default_channels,
    resolutions,
)


def small(resolution=16, **options):
    torch.manual_seed(0)
    sides = len(resolutions(resolution))
    defaults = {"z_nc": 6, "latent_nc": 12, "map_layers": 2, "channels": [8] * sides}
    return UnconditionalGenerator(resolution, **{**defaults, **options})


def codes_of(net, n, seed=1):
    return torch.randn(n, net.code_sizes[0], generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("resolution", "sides"),
    [(4, [4]), (7, [7]), (8, [4, 8]), (28, [7, 14, 28]), (48, [6, 12, 24, 48]), (64, None)],
)
def test_sides_double_up_to_the_resolution(resolution, sides):
    got = resolutions(resolution)
    assert got == (sides or [4, 8, 16, 32, 64])
    assert len(default_channels(resolution)) == len(got)


@pytest.mark.parametrize("resolution", [0, 3, 9, 36, 100, 129])
def test_an_impossible_resolution_is_refused_with_a_possible_one(resolution):
    with pytest.raises(ValueError, match=str(resolution)) as error:
        resolutions(resolution)
    if resolution > 7:
        assert resolutions(int(str(error.value).rsplit(" ", 1)[1]))


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("resolution", [4, 8, 28, 32, 64, 128])
def test_images_have_the_resolution_and_lie_in_0_1(resolution, noise):
    net = small(resolution, noise=noise, channels=[4] * len(resolutions(resolution)))
    image = net(None, [codes_of(net, 2)], loi=-1)
    assert image.shape == (2, 3, resolution, resolution)
    assert image.dtype == torch.float32
    assert 0 <= image.min() and image.max() <= 1
    planes = sum((1 if i == 0 else 2) * s * s for i, s in enumerate(net.sides))
    assert net.code_sizes == [6 + (planes if noise else 0)]


@pytest.mark.parametrize("resolution", [8, 32])
def test_at_initialisation_the_candidates_differ_and_are_not_saturated(resolution):
    torch.manual_seed(0)
    net = UnconditionalGenerator(resolution)
    code = codes_of(net, 32)
    assert 0.5 < net.style(code).square().mean().sqrt() < 1.5
    images = net.sample(code)
    assert images.std(0).mean() > 0.1
    assert ((images > 0.02) & (images < 0.98)).float().mean() > 0.8


def test_a_code_is_the_whole_randomness_of_its_image():
    for noise in (False, True):
        net = small(noise=noise)
        code = codes_of(net, 5)
        torch.manual_seed(1)
        first = net.sample(code)
        torch.manual_seed(2)
        assert torch.equal(first, net.sample(code))
        assert torch.allclose(first[3:4], net.sample(code[3:4]), atol=1e-6)
        # and every part of it is used
        code.requires_grad_(True)
        (net.sample(code) - 0.3).square().sum().backward()
        assert (code.grad != 0).float().mean() > 0.99


def test_modulated_convolution_equals_one_weight_copy_a_row():
    torch.manual_seed(0)
    conv = ModulatedConv2d(3, 5, 3, 4, demodulate=True).double()
    x, w = torch.randn(2, 3, 6, 6).double(), torch.randn(2, 4).double()
    got = conv(x, w)
    for n in range(2):
        weight = conv.weight * conv.affine(w[n])[None, :, None, None]  # StyleGAN2 eq. 1
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()  # eq. 3
        want = F.conv2d(x[n : n + 1], weight, padding=1)[0]
        assert torch.allclose(got[n], want, atol=1e-12)


def test_the_interface_is_that_of_a_cascade_of_one_level():
    net = small()
    code, cx = codes_of(net, 6), torch.rand(2, 3, 4, 4)
    want = net.sample(code)
    assert net.levels == len(net.code_sizes) == 1
    assert torch.equal(net(cx, [code])[0], want)
    assert torch.equal(net(None, [code], loi=0), want)
    image, state = net.advance(net.start(cx), code, 0)
    assert torch.equal(image, want)
    assert state.rows.shape[0] == 6
    for call in (
        lambda: net(None, [code], loi=1),
        lambda: net(None, [code, code]),
        lambda: net(None, [code[:, :-1]]),
    ):
        with pytest.raises(ValueError):
            call()


def test_the_hierarchical_search_and_the_sampler_take_it_too():
    net = small(8)
    z = CodeGenerator(net.code_sizes, seed=3)
    ids, y = torch.arange(2), torch.rand(2, 3, 8, 8)
    loss = lambda a, b: (a - b).square().mean((1, 2, 3))  # noqa: E731
    found = search(net, loss, z, torch.rand(2, 3, 8, 8), [y], ids, 0, 7, 3)
    images = net.sample(z.draw(0, 0, ids, torch.arange(7))).view(2, 7, 3, 8, 8)
    want = (images - y[:, None]).square().mean((2, 3, 4)).argmin(1)
    assert found.winners[:, 0].tolist() == want.tolist()
    shown = draw_samples(net, z, torch.rand(2, 3, 8, 8), ids, 3, loop=0)
    assert torch.allclose(shown, images[:, :3], atol=1e-6)


def test_every_parameter_learns_and_the_mapping_has_its_own_rate():
    net = small(noise=True)
    net.sample(codes_of(net, 4)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    groups = parameter_groups(net, 1e-3, 0.01)
    assert [g["lr"] for g in groups] == [1e-3, 1e-5]
    assert groups[1]["params"] == list(net.mapping_net.parameters())
    assert sum(len(g["params"]) for g in groups) == len(list(net.parameters()))


def test_config_builds_the_same_network_again():
    net = small(28, noise=True, out_nc=1)
    again = UnconditionalGenerator(**net.config)
    again.load_state_dict(net.state_dict())
    code = codes_of(net, 2)
    assert torch.equal(net.sample(code), again.sample(code))


def test_truncation_moves_the_styles_to_the_center():
    net = small()
    code = codes_of(net, 8)
    center = net.mean_style(codes_of(net, 500, seed=2))
    assert torch.equal(net.sample(code, truncation=1.0, center=center), net.sample(code))
    spread = [
        net.sample(code, truncation=t, center=center).std(0).mean().item() for t in (0, 0.5, 1)
    ]
    assert spread[0] < 1e-6 < spread[1] < spread[2]
    with pytest.raises(ValueError, match="center"):
        net.sample(code, truncation=0.7)


def test_style_mixing_takes_the_fine_blocks_from_the_second_code():
    net = small(16)
    a, b = codes_of(net, 2), codes_of(net, 2, seed=5)
    assert torch.equal(net.sample(a, mix_with=a, crossover=1), net.sample(a))
    mixed = net.sample(a, mix_with=b, crossover=2)
    assert not torch.allclose(mixed, net.sample(a)) and not torch.allclose(mixed, net.sample(b))
    net.blocks[2].to_rgb.weight.data.zero_()  # without the finest block only `a` can be seen
    assert torch.equal(net.sample(a, mix_with=b, crossover=2), net.sample(a))
    for crossover in (None, 0, 3):
        with pytest.raises(ValueError, match="crossover"):
            net.sample(a, mix_with=b, crossover=crossover)


def test_the_picture_is_made_in_fp32_under_autocast():
    net = small()
    code = codes_of(net, 4)
    with torch.autocast("cpu", torch.bfloat16):
        low = net.sample(code)
    assert low.dtype == torch.float32
    assert torch.allclose(low, net.sample(code), atol=0.03)


@pytest.mark.parametrize(
    "options", [{"channels": [8]}, {"channels": [8, 0, 8]}, {"z_nc": 0}, {"map_layers": 0}]
)
def test_impossible_widths_are_refused(options):
    with pytest.raises(ValueError):
        small(16, **options)
