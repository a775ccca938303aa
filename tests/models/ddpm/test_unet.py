"""The U-Net: counts of the published networks, its inputs, checkpointing, dropout, graphs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.ddpm import Layout, UNet
from models.ddpm.classifier import Classifier
from models.ddpm.configs import CONFIGS, unet_config
from models.ddpm.embedding import timestep_embedding
from tests.models.ddpm.nets import LAYOUT, TRANSFORMER, inputs, layouts, tiny

# Parameters of the references' networks, made by running them.
COUNTS = {
    "adm-64": 295_904_454,
    "adm-128": 421_529_606,
    "adm-256": 553_838_086,
    "adm-256-uncond": 552_814_086,
    "adm-512": 558_997_638,
    "improved-64": 121_063_942,
    "improved-cifar10": 52_546_438,
    "ddpm-cifar10": 35_746_307,
    "layoutdiffuse-celeb": 289_288_483,
    # one class more than released, because the last must not be the background's
    "layoutdiffuse-coco": 903_162_692 + 128,
    "layoutdiffuse-sd15": 904_248_260 + 128,
    "layoutdiffuse-sd21": 910_638_020 + 128,
}
MNIST = {  # model_channels, channel_mult, num_res_blocks, factors with attention, channels out
    (32, (1, 2, 2), 1, (4,), 1): 1_112_801,
    (32, (1, 2, 2), 2, (4,), 1): 1_623_169,
    (64, (1, 2, 2), 2, (2, 4), 1): 6_801_409,
    (64, (1, 2, 4), 2, (2, 4), 1): 16_054_145,
    (64, (1, 2, 2, 2), 2, (2, 4), 2): 9_281_858,
    (128, (1, 2, 2), 2, (2,), 1): 25_833_985,
}


def count(net: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("name", CONFIGS)
def test_published_networks_have_their_number_of_parameters(name):
    with torch.device("meta"):
        net = UNet(**CONFIGS[name])
        assert count(net) == COUNTS[name]
        assert list(UNet(**net.config).state_dict()) == list(net.state_dict())


def test_other_counts_of_the_references():
    with torch.device("meta"):
        for (width, mult, blocks, factors, out), wanted in MNIST.items():
            net = UNet(
                1,
                out,
                model_channels=width,
                channel_mult=mult,
                num_res_blocks=blocks,
                attention_resolutions=factors,
                num_heads=4,
            )
            assert count(net) == wanted, (width, mult, blocks)
        assert count(Classifier(64, 3, 1000, num_res_blocks=2)) == 41_287_016
        assert count(Classifier(64, 3, 1000, num_res_blocks=4)) == 65_438_568


def test_classifier_is_a_function_of_each_row():
    net = Classifier(8, 3, 5, model_channels=32, channel_mult=(1, 2), num_head_channels=16)
    given = inputs()
    logits = net(given["x"], given["t"])
    assert logits.shape == (3, 5)
    alone = net(given["x"][1:2], given["t"][1:2])
    torch.testing.assert_close(logits[1:2], alone, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="image_size 9 cannot be halved 1 times"):
        Classifier(9, 3, 5, channel_mult=(1, 2))


def test_a_new_network_gives_zero_and_a_noise_level_is_a_time():
    given = inputs()
    assert not UNet(3, 6, model_channels=32)(**given).any()
    level = tiny(embed="noise_level")
    time = tiny()
    alpha = torch.tensor([1.0, 0.5, 0.003])
    torch.testing.assert_close(level(given["x"], alpha), time(given["x"], 1000 * alpha))
    wanted = torch.tensor([[2.5, 0.0]]).cos()  # frequency 1 alone: cos(t), sin(t)
    assert timestep_embedding(torch.tensor([2.5]), 2)[0, 0] == wanted[0, 0]


def test_classes_and_their_absence():
    # Without scale and shift what is added to 32 channels is gone behind a norm of 32 groups.
    net, given = tiny(num_classes=4, use_scale_shift_norm=True), inputs()
    y = torch.tensor([2, -1, 0])
    with torch.no_grad():
        out, none = net(**given, y=y), net(**given)
        torch.testing.assert_close(out[1], none[1])
        assert (out[0] - none[0]).abs().max() > 1e-3
        assert torch.equal(out, net(given["x"].double().float(), given["t"], y))
        one = net(given["x"], given["t"][0], y)  # one time for all
        torch.testing.assert_close(one[0], out[0], rtol=1e-5, atol=1e-5)


def test_an_image_beside():
    net, given = tiny(concat_channels=2), inputs()
    assert net.input_blocks[0][0].weight.shape[1] == 5
    small = torch.randn(3, 2, 4, 4)
    large = torch.nn.functional.interpolate(small, (8, 8), mode="bilinear")
    assert torch.equal(net(**given, concat=small), net(**given, concat=large))
    with pytest.raises(ValueError, match="concat is none; the network has 2 channels"):
        net(**given)
    with pytest.raises(ValueError, match=r"concat is \[3, 1, 8, 8\]; the network has 2"):
        net(**given, concat=large[:, :1])


# --------------------------------------------------------------------------------- checkpointing


def gradients(net: UNet, **given) -> list[Tensor]:
    net.zero_grad()
    x = given.pop("x").clone().requires_grad_()
    torch.manual_seed(5)  # torch's own dropout
    out = net(x, **given)
    out.square().sum().backward()
    return [out.detach(), x.grad, *(p.grad for p in net.parameters() if p.grad is not None)]


SEGMENTATION = {**LAYOUT, "layout_attn_type": "segmentation"}
KEYS = torch.tensor([5, -7, 2**40])


@pytest.mark.parametrize(
    ("more", "given"),
    [
        ({"resblock_updown": True, "num_classes": 4}, {"y": torch.tensor([1, -1, 3])}),
        ({"dropout": 0.3}, {}),
        ({"dropout": 0.3, "use_scale_shift_norm": True}, {"dropout_keys": KEYS}),
        (LAYOUT, {"layout": layouts()}),
        (SEGMENTATION, {"layout": Layout.of_segmentation(torch.arange(192).view(3, 8, 8) % 7,
                                                         num_classes=7)}),
        ({**LAYOUT, **TRANSFORMER}, {"text": torch.randn(3, 4, 12), "layout": layouts()}),
        ({**LAYOUT, **TRANSFORMER}, {}),
    ],
    ids=["classes", "dropout", "keyed", "boxes", "segmentation", "text", "no-text"],
)  # fmt: skip
def test_recomputed_activations_give_the_same_gradients(more, given):
    net = tiny(**more).train()
    wanted = gradients(net, **inputs(), **given)
    net.set_checkpoint(True)
    found = gradients(net, **inputs(), **given)
    assert len(wanted) == len(found) > 50
    assert all(map(torch.equal, wanted, found))
    again = tiny(**more, use_checkpoint=True).train()
    assert all(map(torch.equal, wanted, gradients(again, **inputs(), **given)))
    # With a part of it frozen, too.
    for name, parameter in net.named_parameters():
        parameter.requires_grad_("out_layers.3" in name)
    some = gradients(net, **inputs(), **given)
    net.set_checkpoint(False)
    assert all(map(torch.equal, some, gradients(net, **inputs(), **given)))


# --------------------------------------------------------------------------------------- dropout


def test_dropout_belongs_to_rows():
    net, given = tiny(dropout=0.5).train(), inputs()
    out = net(**given, dropout_keys=KEYS)
    order = torch.tensor([2, 0, 1])
    moved = net(given["x"][order], given["t"][order], dropout_keys=KEYS[order])
    torch.testing.assert_close(moved, out[order], rtol=1e-5, atol=1e-5)
    other = net(**given, dropout_keys=KEYS + 1)
    assert not torch.allclose(other, out)
    layers = [m.layer for m in net.modules() if hasattr(m, "layer")]
    assert layers == list(range(len(layers))) and len(layers) > 5
    assert torch.equal(net.eval()(**given, dropout_keys=KEYS), net(**given))


# ------------------------------------------------------------------------------- graphs and syncs


@pytest.mark.parametrize(
    "kind", ["plain", "layout_partial_v2", "layout_partial_v1", "segmentation"]
)
def test_nothing_waits_for_a_gpu(kind):
    """On tensors without values whatever needs one (.item(), nonzero, a copy back) fails."""
    more = {} if kind == "plain" else {**LAYOUT, **TRANSFORMER, "layout_attn_type": kind}
    with torch.device("meta"):
        net = tiny_fake(**more)
        given = {"x": torch.randn(3, 3, 8, 8), "t": torch.rand(3)}
        given["dropout_keys"] = torch.arange(3)
        if kind == "plain":
            given["y"] = torch.arange(3)
        else:
            given["text"] = torch.randn(3, 4, 12)
            given["layout"] = Layout(
                torch.rand(3, 5, 4),
                torch.ones(3, 5, dtype=torch.int64),
                None,
                torch.ones(3, 16, 16, dtype=torch.int64) if kind == "segmentation" else None,
            )
        out = net(given.pop("x"), given.pop("t"), **given)
        assert out.shape == (3, 3, 8, 8)
        out.sum().backward()
        left = [name for name, p in net.named_parameters() if p.grad is None]
        assert left == ([] if kind == "plain" else ["label_emb.weight"])
        with pytest.raises(RuntimeError):
            out.max().item()


def tiny_fake(**more) -> UNet:
    size = dict(model_channels=16, channel_mult=(1, 2), num_res_blocks=1, num_heads=2)
    more = {"attention_resolutions": (2,), "dropout": 0.1, **more}
    return UNet(3, 3, **size, **more, num_classes=4).train()


def test_one_graph_for_a_compiler():
    net, given = tiny(**LAYOUT, dropout=0.2).train(), inputs()
    wanted = net(**given, layout=layouts(), dropout_keys=KEYS)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    found = compiled(**given, layout=layouts(), dropout_keys=KEYS)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()


def test_memory_format_is_kept():
    net, given = tiny(**LAYOUT), inputs()
    wanted = net(**given, layout=layouts())
    assert wanted.is_contiguous()
    net.to(memory_format=torch.channels_last)
    seen = []
    for block in (*net.input_blocks, *net.output_blocks):
        block.register_forward_hook(
            lambda _, __, out: seen.append(out.is_contiguous(memory_format=torch.channels_last))
        )
    found = net(given["x"].to(memory_format=torch.channels_last), given["t"], layout=layouts())
    assert all(seen) and len(seen) > 5
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


# ----------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"image_size": 28, "channel_mult": (1, 2, 2, 2)},
            "image_size 28 cannot be halved 3 times",
        ),
        ({"attention_resolutions": (16,)}, "16 is no down-sampling factor of the network"),
        ({"num_heads": 3}, "32 channels do not divide into 3 heads"),
        ({"num_head_channels": 5}, "32 channels do not divide into heads of 5"),
        ({"embed": "alpha"}, "embed 'alpha' is not time or noise_level"),
        ({"dropout": 1.0}, "dropout 1.0 is not in"),
        ({"channel_mult": ()}, "channel_mult"),
        ({"out_channels": 0}, "out_channels 0: at least 1"),
        ({"layout_attn_type": "segmentation"}, "needs layout_classes"),
        ({**LAYOUT, "layout_attn_type": "boxes"}, "layout_attn_type 'boxes' is not one of layout_"),
        ({**LAYOUT, "layout_region_rule": "round"}, "layout_region_rule 'round' is not"),
        ({"attn_block_args": {"text_dim": 3}}, "attn_block_type AttentionBlock: .*text_dim"),
    ],
)
def test_arguments_that_cannot_be(more, said):
    with pytest.raises(ValueError, match=said):
        tiny(**{"out_channels": 3, **more})


def test_inputs_that_do_not_fit():
    net, given = tiny(), inputs()
    x, t = given["x"], given["t"]
    for said, call in {
        "no classes": lambda: net(x, t, torch.zeros(3, dtype=torch.int64)),
        r"x of shape \[3, 1, 8, 8\] instead of \[B, 3": lambda: net(x[:, :1], t),
        r"t of shape \[2\] for 3 images": lambda: net(x, t[:2]),
        "images of 7 x 8 cannot be halved": lambda: net(x[:, :, 1:], t),
        "no layout attention": lambda: net(x, t, layout=layouts()),
        "layouts of 3 images for 2": lambda: tiny(**LAYOUT)(x[:2], t[:2], layout=layouts()),
        r"text \[3, T, 12\] is missing": lambda: tiny(
            attn_block_type="SpatialTransformer", attn_block_args={"text_dim": 12}
        )(x, t),
        r"text of shape \[3, 4, 9\]": lambda: tiny(**TRANSFORMER)(x, t, text=x.new_zeros(3, 4, 9)),
    }.items():
        with pytest.raises(ValueError, match=said):
            call()


def test_released_arguments():
    with pytest.raises(ValueError, match="n_embed 5 is not known here; known are"):
        unet_config({"in_channel": 1, "n_embed": 5})
    with pytest.raises(ValueError, match="instance_prompt_args has an unknown kind"):
        unet_config({"instance_prompt_args": {"kind": 1}})
    released = {"in_channel": 1, "out_channel": 2, "num_head_channels": -1, "num_prompt": 64}
    wanted = {"in_channels": 1, "out_channels": 2, "num_head_channels": None}
    assert unet_config(released) == wanted  # no transformer, no prompts
