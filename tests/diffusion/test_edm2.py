"""The EDM2 network: structure, attention, dropout of rows, weight normalisation while training."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from torch import Tensor

from diffusion import (
    Block,
    Precond,
    UNet,
    frozen_weights,
    normalize_weights,
    per_pixel_loss,
    set_forced_weight_norm,
)
from diffusion.edm2 import attention
from diffusion.mp import MPConv, normalize


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small(seed: int = 0, **settings) -> Precond:
    """8 x 8, two levels, attention at 4; the gains, which begin at 0, are set."""
    torch.manual_seed(seed)
    settings = {
        "model_channels": 16,
        "channel_mult": (1, 2),
        "num_blocks": 1,
        "attn_resolutions": (4,),
        "channels_per_head": 16,
        "logvar_channels": 16,
        **settings,
    }
    net = Precond(8, 3, 5, **settings)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith("gain"):
                p.copy_(torch.rand([]) + 0.3)
    return net


def batch(n: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, sigma, noise, labels."""
    sigma = (randn(n, seed=1) - 0.4).exp()
    labels = torch.eye(5)[torch.arange(n) % 5]
    return randn(n, 3, 8, 8) * 0.5, sigma, randn(n, 3, 8, 8, seed=2), labels


# ---------------------------------------------------------------------------------------- structure

WIDTHS = {"xxs": 64, "xs": 128, "s": 192, "m": 256, "l": 320, "xl": 384, "xxl": 448}
# Of NVIDIA's network; the two data sets with their empty class. Resolution, channels, label_dim.
INPUTS = [(64, 4, 1000), (64, 3, 1000), (64, 3, 201), (32, 3, 11), (64, 3, 0)]
COUNTS = {
    "xxs": (31_309_029, 31_307_877, 31_103_333, 29_678_437, 31_051_877),
    "xs": (124_713_253, 124_710_949, 124_301_861, 118_699_557, 124_198_949),
    "s": (280_212_837, 280_209_381, 279_595_749, 267_063_525, 279_441_381),
    "m": (497_807_781, 497_803_173, 496_984_997, 474_770_341, 496_779_173),
    "l": (777_498_085, 777_492_325, 776_469_605, 741_820_005, 776_212_325),
    "xl": (1_119_283_749, 1_119_276_837, 1_118_049_573, 1_068_212_517, 1_117_740_837),
    "xxl": (1_523_164_773, 1_523_156_709, 1_521_724_901, 1_453_947_877, 1_521_364_709),
}


@pytest.mark.parametrize("preset", COUNTS)
def test_parameter_counts(preset):
    for where, expected in zip(INPUTS, COUNTS[preset], strict=True):
        with torch.device("meta"):
            net = Precond(*where, model_channels=WIDTHS[preset])
        assert sum(p.numel() for p in net.parameters()) == expected
        assert sum(b.numel() for b in net.buffers()) == 2 * (WIDTHS[preset] + 128)


def test_state_dict_names():
    settings = dict(model_channels=16, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[8])
    net = Precond(16, 3, 7, channels_per_head=16, logvar_channels=32, **settings)
    state = {name: list(value.shape) for name, value in net.state_dict().items()}
    assert sum(math.prod(shape) for shape in state.values()) == 181_595
    for name, shape in {
        "unet.out_gain": [],
        "unet.emb_fourier.freqs": [16],
        "unet.emb_label.weight": [32, 7],
        "unet.enc.16x16_conv.weight": [16, 4, 3, 3],
        "unet.enc.8x8_down.emb_gain": [],
        "unet.enc.8x8_block0.attn_qkv.weight": [96, 32, 1, 1],
        "unet.dec.8x8_in0.attn_proj.weight": [32, 32, 1, 1],
        "unet.dec.8x8_block1.conv_skip.weight": [32, 48, 1, 1],
        "unet.dec.16x16_block1.conv_res0.weight": [16, 32, 3, 3],
        "logvar_fourier.phases": [32],
        "logvar_linear.weight": [1, 32],
    }.items():
        assert state[name] == shape
    assert "unet.dec.8x8_in1.attn_qkv.weight" not in state
    assert not any(name.endswith("bias") for name in state)


def test_config_builds_the_same_network():
    net = small(dropout=0.1, clip_act=None, channel_mult_emb=3, resample_filter=(1, 3, 3, 1))
    again = Precond(**json.loads(json.dumps(net.config)))
    again.load_state_dict(net.state_dict())
    x, sigma, _, labels = batch()
    assert torch.equal(net.eval()(x, sigma, labels), again.eval()(x, sigma, labels))
    assert again.config == net.config
    assert (net.label_dim, net.img_resolution, net.img_channels, net.sigma_data) == (5, 8, 3, 0.5)


def test_a_new_network_scales_its_input():
    net = Precond(8, 3, 0, model_channels=8, channel_mult=(1, 2), num_blocks=1)
    x, sigma, _, _ = batch()
    weight = 0.25 / (sigma**2 + 0.25)
    expected = weight.reshape(-1, 1, 1, 1) * x
    torch.testing.assert_close(net(x, sigma), expected)


def test_no_heads_no_attention():
    assert Block(16, 16, 8, attention=True, channels_per_head=32).attn_qkv is None
    assert Block(16, 16, 8, attention=True, channels_per_head=16).attn_qkv is not None
    net = Precond(8, 3, 0, model_channels=8, channel_mult=(1,), num_blocks=1, attn_resolutions=(8,))
    assert not any("attn" in name for name in net.state_dict())


def test_activations_are_clipped():
    block = Block(8, 8, 4, "dec", clip_act=0.25).eval()
    x, emb = randn(2, 8, 4, 4), randn(2, 4)
    assert block(x, emb).abs().max() == 0.25
    block.clip_act = None
    assert block(x, emb).abs().max() > 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(img_resolution=20, channel_mult=(1, 2, 3, 4)), "img_resolution 20"),
        (dict(channel_mult=()), "img_resolution 8"),
        (dict(channel_mult=(1, 0.3)), "4.8"),
        (dict(model_channels=0), "0 channels"),
        (dict(dropout=1.5), "dropout 1.5"),
        (dict(channels_per_head=0), "channels_per_head 0"),
        (dict(model_channels=56, channel_mult=(1,), channels_per_head=16), "do not divide"),
        (dict(resample_filter=(1, 2, 1)), "resample_filter"),
        (dict(label_dim=-1), "label_dim -1"),
        (dict(sigma_data=0.0), "sigma_data 0.0"),
    ],
)
def test_impossible_networks(change, said):
    settings = dict(img_resolution=8, img_channels=3, label_dim=5, model_channels=16)
    settings |= dict(channel_mult=(1, 2), num_blocks=1) | change
    with pytest.raises(ValueError, match=said) as error, torch.device("meta"):
        Precond(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("x", "sigma", "labels", "keys", "said"),
    [
        ((6, 3, 8, 9), (6,), (6, 5), None, "8, 9"),
        ((6, 1, 8, 8), (6,), (6, 5), None, r"instead of \[N, 3, 8, 8\]"),
        ((3, 8, 8), (), (1, 5), None, "instead of"),
        ((6, 3, 8, 8), (5,), (6, 5), None, r"sigma of shape \[5\] for 6"),
        ((6, 3, 8, 8), (6, 2), (6, 5), None, "sigma"),
        ((6, 3, 8, 8), (1, 6), (6, 5), None, "sigma"),
        ((6, 3, 8, 8), (6,), (6, 6), None, r"labels of shape \[6, 6\]"),
        ((6, 3, 8, 8), (6,), (6,), None, r"labels of shape \[6\]"),
        ((6, 3, 8, 8), (6,), (5, 5), None, "labels"),
        ((6, 3, 8, 8), (6,), (6, 5), torch.zeros(5, dtype=torch.int64), "dropout_keys"),
        ((6, 3, 8, 8), (6,), (6, 5), torch.zeros(6), "dropout_keys are torch.float32"),
    ],
)
def test_wrong_shapes(x, sigma, labels, keys, said):
    net = small()
    with pytest.raises(ValueError, match=said) as error:
        net(torch.zeros(x), torch.ones(sigma), torch.zeros(labels), dropout_keys=keys)
    assert "\n" not in str(error.value)


def test_shapes_that_are_right():
    net = small().eval()
    x, sigma, _, labels = batch()
    expected, u = net(x, sigma, labels, return_logvar=True)
    assert expected.shape == x.shape and u.shape == (6, 1, 1, 1)
    assert torch.equal(net(x, sigma.reshape(6, 1, 1, 1), labels), expected)
    same = torch.full((6,), 0.7)
    for scalar in (torch.tensor(0.7), torch.tensor([0.7]), torch.full((1, 1, 1, 1), 0.7), 0.7):
        found, u = net(x, scalar, labels[:1], return_logvar=True)
        assert u.shape == (6, 1, 1, 1)
        torch.testing.assert_close(found, net(x, same, labels[:1].expand(6, 5)))
    torch.testing.assert_close(net(x, sigma), net(x, sigma, torch.zeros(6, 5)))
    torch.testing.assert_close(net(x.double(), sigma.double(), labels.long()), expected)


def test_nothing_waits_for_the_device():
    # Meta tensors have no values: what fetched one would fail.
    with torch.device("meta"):
        net = small(dropout=0.1).train()
        x, sigma = torch.empty(4, 3, 8, 8), torch.empty(4)
        keys = torch.empty(4, dtype=torch.int64)
        loss = per_pixel_loss(
            net, x, sigma, torch.empty_like(x), None, sigma_data=0.5, dropout_keys=keys
        )
        loss.sum().backward()
        normalize_weights(net)


# ---------------------------------------------------------------------------------------- attention


def brute_attention(qkv: Tensor, heads: int) -> Tensor:
    """One head, one pixel at a time, float64."""
    n, channels, height, width = qkv.shape
    per_head = channels // 3 // heads
    out = torch.zeros(n, heads * per_head, height * width, dtype=torch.float64)
    for i in range(n):
        for head in range(heads):
            first = 3 * per_head * head
            rows = qkv[i, first : first + 3 * per_head].double().flatten(1)
            q, k, v = rows[0::3], rows[1::3], rows[2::3]
            q, k, v = (x / (1e-4 + x.square().mean(0).sqrt()) for x in (q, k, v))
            for pixel in range(height * width):
                scores = (q[:, pixel, None] * k).sum(0) / math.sqrt(per_head)
                share = scores.exp() / scores.exp().sum()
                out[i, per_head * head : per_head * (head + 1), pixel] = (v * share).sum(1)
    return out.reshape(n, -1, height, width)


@pytest.mark.parametrize("heads", [1, 3])
def test_attention(heads):
    qkv = randn(2, 3 * 12, 3, 5)
    expected = brute_attention(qkv, heads)
    gradient, grads = randn(2, 12, 3, 5, seed=1), []
    for fused in (False, True):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = qkv.to(memory_format=layout).detach().requires_grad_()
            y = attention(x, heads, fused=fused)
            torch.testing.assert_close(y, expected.float(), rtol=1e-5, atol=2e-6)
            y.backward(gradient)
            grads.append(x.grad)
    for g in grads[1:]:
        torch.testing.assert_close(g, grads[0], rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------------ dropout


def gradients(net: Precond, rows: Tensor, keys: Tensor | None, weights: Tensor) -> list[Tensor]:
    """Gradient of the weighted losses of some rows of the batch; rows [parts, n]."""
    images, sigma, noise, labels = batch()
    net.zero_grad()
    for r in rows:
        loss = per_pixel_loss(
            net,
            images[r],
            sigma[r],
            noise[r],
            labels[r],
            sigma_data=0.5,
            dropout_keys=None if keys is None else keys[r],
        )
        (loss.sum((1, 2, 3)) * weights[r]).sum().backward()
    return [p.grad.clone() for p in net.parameters()]


def assert_same_gradients(a: list[Tensor], b: list[Tensor], rel: float = 2e-4) -> None:
    for x, y in zip(a, b, strict=True):
        assert (x - y).abs().max() <= rel * y.abs().max()


def test_chosen_rows_have_the_gradient_they_have_in_the_batch():
    net = small(dropout=0.3).train()
    set_forced_weight_norm(net, False)
    normalize_weights(net)
    keys = torch.tensor([7, 2**61, -5, 11, 12, 13])
    everything, chosen = torch.arange(6)[None], torch.tensor([4, 1, 2, 0])
    weights = torch.zeros(6).index_fill(0, chosen, 1.0)
    one_pass = gradients(net, everything, keys, weights)
    assert_same_gradients(gradients(net, chosen[None], keys, weights), one_pass)
    assert_same_gradients(gradients(net, chosen.reshape(2, 2), keys, weights), one_pass)
    # and the mask matters
    other = gradients(net, chosen[None], keys + 1, weights)
    assert (
        max((a - b).abs().max() / b.abs().max() for a, b in zip(other, one_pass, strict=True))
        > 0.05
    )


def test_rows_of_outputs_under_dropout():
    net = small(dropout=0.3).train()
    set_forced_weight_norm(net, False)
    x, sigma, _, labels = batch()
    keys = torch.arange(6)
    with torch.no_grad():
        whole = net(x, sigma, labels, dropout_keys=keys)
        order = torch.tensor([3, 5, 0])
        some = net(x[order], sigma[order], labels[order], dropout_keys=keys[order])
        torch.testing.assert_close(some, whole[order], rtol=1e-5, atol=2e-6)
        assert not torch.allclose(net(x, sigma, labels, dropout_keys=keys + 6), whole, atol=1e-3)
        assert not torch.equal(net(x, sigma, labels), net(x, sigma, labels))  # torch's own
        net.eval()
        plain = net(x, sigma, labels)
        assert torch.equal(net(x, sigma, labels, dropout_keys=keys), plain)


def test_layers_have_their_own_masks():
    net = small(dropout=0.3)
    layers = [m.layer for m in net.modules() if isinstance(m, Block)]
    assert layers == list(range(len(layers))) and len(layers) > 5


# ----------------------------------------------------------------------------- weight normalisation


def train(net: Precond, steps: int, once: bool) -> list[float]:
    """Adam steps; `once`: weights normalised by the loop instead of the layers."""
    images, sigma, noise, labels = batch()
    set_forced_weight_norm(net, not once)
    assert net.forced_weight_norm is not once
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, betas=(0.9, 0.99))
    losses = []
    for step in range(steps):
        if once:
            normalize_weights(net)
        loss = per_pixel_loss(net, images, sigma, noise.roll(step, 0), labels, sigma_data=0.5)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        losses.append(loss.mean().item())
    return losses


def test_once_a_step_trains_the_same():
    own, once = small().train(), small().train()
    assert train(own, 8, once=False) == train(once, 8, once=True)
    for a, b in zip(own.parameters(), once.parameters(), strict=True):
        assert torch.equal(a, b)
    start = dict(small().named_parameters())
    assert all((p - start[name]).abs().max() > 0 for name, p in own.named_parameters())


def test_the_attribute_is_the_switch():
    net = small().train()
    net.forced_weight_norm = False
    assert not any(m.forced for m in net.modules() if isinstance(m, MPConv))
    before = net.unet.out_conv.weight.detach().clone()
    net(*batch()[:2])
    assert torch.equal(net.unet.out_conv.weight, before)
    net.forced_weight_norm = True
    net(*batch()[:2])
    assert torch.equal(net.unet.out_conv.weight, normalize(before))


@torch.no_grad()
def test_frozen_weights_change_nothing():
    net, guide = small().eval(), small(seed=1).eval()
    x, sigma, _, labels = batch()
    for dtype in (torch.float32, torch.bfloat16):
        net.compute_dtype = guide.compute_dtype = dtype
        expected = [n(x, sigma, labels, return_logvar=True) for n in (net, guide)]
        with frozen_weights(net, guide):
            for _ in range(2):
                for n, (denoised, u) in zip((net, guide), expected, strict=True):
                    found = n(x, sigma, labels, return_logvar=True)
                    assert torch.equal(found[0], denoised) and torch.equal(found[1], u)
        assert all(m.frozen is None for m in net.modules() if isinstance(m, MPConv))


# ---------------------------------------------------------------------------------------- precision


def test_bf16_follows_fp32():
    net = small().train()
    images, sigma, noise, labels = batch()
    results, seen, last = [], [], []
    net.unet.enc["8x8_block0"].register_forward_hook(lambda *args: seen.append(args[2].dtype))
    net.unet.out_conv.register_forward_hook(lambda *args: last.append(args[2].dtype))
    for dtype in (torch.float32, torch.bfloat16):
        net.compute_dtype = dtype
        net.zero_grad()
        emb = net.unet.embedding(sigma.log() / 4, labels)
        noisy = images + noise * sigma.reshape(-1, 1, 1, 1)
        denoised, u = net(noisy, sigma, labels, return_logvar=True)
        assert denoised.dtype == u.dtype == emb.dtype == torch.float32
        (denoised.square().mean() + u.mean()).backward()
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in net.parameters())
        results.append((denoised.detach(), [p.grad.clone() for p in net.parameters()]))
    assert seen == [torch.float32, torch.bfloat16] and last == [torch.float32] * 2
    (a, grads), (b, low) = results
    assert (a - b).abs().max() < 0.02 * a.abs().max()
    for x, y in zip(grads, low, strict=True):
        assert (x - y).norm() <= 0.05 * x.norm() + 1e-4
    exact = net(images, sigma, labels, force_fp32=True)
    net.compute_dtype = None  # the rule: fp32 but on a GPU
    torch.testing.assert_close(net(images, sigma, labels), exact, rtol=1e-3, atol=1e-4)


def test_layouts_agree():
    net, images = small().eval(), batch()
    x, sigma, _, labels = images
    expected = net(x, sigma, labels)
    net = net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(x, sigma, labels), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("use_fp16", [True, False])
def test_the_references_rule_for_the_number_format(use_fp16):
    net = small(use_fp16=use_fp16)
    for device, force, dtype in [
        ("cuda", False, torch.float16 if use_fp16 else torch.float32),
        ("cuda", True, torch.float32),
        ("cpu", False, torch.float32),
    ]:
        assert net._dtype(torch.device(device), force) == dtype


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_recipes():
    net = small().cuda().train()
    x, sigma, _, labels = (t.cuda() for t in batch())
    exact = net(x, sigma, labels, force_fp32=True)
    for use, dtype, error in [(True, None, 0.01), (True, torch.bfloat16, 0.03), (False, None, 0)]:
        net.use_fp16, net.compute_dtype = use, dtype
        found = net(x, sigma, labels)
        assert found.dtype == torch.float32
        assert (found - exact).abs().max() <= error * exact.abs().max() + 1e-4


# ------------------------------------------------------------------------------------------ compile


@pytest.mark.slow
def test_compiled_network_is_the_network():
    net = small(dropout=0.2).train()
    images, sigma, noise, labels = batch()
    settings = dict(sigma_data=0.5, dropout_keys=torch.arange(6))
    set_forced_weight_norm(net, False)
    eager, compiled = copy.deepcopy(net), copy.deepcopy(net)
    graph = torch.compile(compiled, fullgraph=True, dynamic=False)
    for _ in range(2):
        losses = [
            per_pixel_loss(n, images, sigma, noise, labels, **settings) for n in (eager, graph)
        ]
        torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-4)
        for loss in losses:
            loss.mean().backward()
        for p, q in zip(eager.parameters(), compiled.parameters(), strict=True):
            assert (p.grad - q.grad).abs().max() <= 1e-3 * p.grad.abs().max()


def test_unet_alone():
    net = UNet(8, 3, 0, model_channels=8, channel_mult=(1, 2), num_blocks=1)
    assert net(randn(2, 3, 8, 8), torch.zeros(2)).shape == (2, 3, 8, 8)
