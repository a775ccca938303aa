"""omnigan's networks: counts and shapes of the published ones, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.omnigan import (
    PUBLISHED,
    DomainClassifier,
    OmniGenerator,
    init_weights,
    load_pretrained,
    make_discriminators,
    summary,
)
from models.omnigan.deeplab import DeeplabEncoder, published_names
from models.omnigan.norms import AdaIN, LayerNorm, is_spectral
from storage.errors import CheckpointError
from storage.torchfile import write_torch
from tests.models.omnigan.tiny import SIDE, classifier, discriminators, generator


def count(module: nn.Module) -> int:
    return sum(int(np.prod(p.shape)) for p in module.parameters())


def test_published_counts():
    with torch.device("meta"):
        G = OmniGenerator(**PUBLISHED)
        C = DomainClassifier((256, 64, 64))
    assert count(G) == 17_646_624 and count(C) == 595_332
    parts = {task: count(decoder) for task, decoder in G.decoders.items()}
    assert count(G.encoder) == 1_845_376
    assert parts == {"a": 4_428_294, "d": 2_207_873, "s": 2_264_339, "t": 6_900_742}
    text, total = summary(G)
    assert total == 9_766_807 and "Total params: 9,766,807" in text
    assert G.latent_shape((256, 256)) == (256, 64, 64)


def test_counts_of_discriminators_and_of_the_later_configuration():
    D = make_discriminators()
    # The published 11,124,424 has the vectors of the power iteration, which are buffers here
    vectors = sum(b.numel() for b in D.buffers())
    assert count(D) == 11_058_948 and count(D) + vectors == 11_124_424
    with torch.device("meta"):
        G = OmniGenerator()
    assert count(G) == 49_524_127 and count(G.decoders["t"]) == 9_287_171
    assert G.cond_nc == 24 and G.latent_shape((256, 256)) == (256, 32, 32)


def test_a_generator_s_outputs_and_its_config():
    G = generator()
    x = torch.rand(2, 3, SIDE, 2 * SIDE) * 2 - 1
    z = G.encode(x)
    assert tuple(z.shape[1:]) == G.latent_shape((SIDE, 2 * SIDE)) == (8, SIDE // 4, SIDE // 2)
    decoded = G.decode_tasks(z)
    assert list(decoded) == ["d", "h", "s", "w"] and decoded["s"].shape == (2, 3, SIDE, 2 * SIDE)
    cond = G.conditioning(decoded)
    assert torch.allclose(cond[:, 2:5].sum(1), torch.ones(()), atol=1e-5)
    assert cond[:, 5].amin() >= 0 and cond[:, 5].amax() <= 1
    assert G.adapt(z, "r").shape == x.shape
    again = OmniGenerator(**G.config)
    again.load_state_dict(G.state_dict())
    for flood in "fn":
        assert torch.equal(again(x, flood), G.translate(z, cond, flood))
    with pytest.raises(ValueError, match="conditioned on w too"):
        G.conditioning({k: v for k, v in decoded.items() if k != "w"})


@pytest.mark.parametrize(
    "t",
    [
        {}, {"shared": False, "bits": "none"}, {"form": "plain", "n_res": 1, "res_norm": "none"},
        {"form": "spade-munit", "n_res": 1}, {"form": "spade-munit", "n_res": 1, "bits": "domain"},
        {"shared": False, "bits": "domain"},
    ],
)  # fmt: skip
def test_each_sample_is_told_where_to(t):
    G = generator(t=t).eval()
    z = G.encode(torch.rand(4, 3, SIDE, SIDE) * 2 - 1)
    cond = G.conditioning(G.decode_tasks(z))
    mixed = G.translate(z, cond, torch.tensor([1, 0, 3, 2]))
    for row, domain in enumerate(("rn", "rf", "sn", "sf")):
        alone = G.translate(z[row : row + 1], cond[row : row + 1], domain)
        assert torch.allclose(mixed[row : row + 1], alone, atol=1e-5)
    assert not torch.allclose(G.translate(z, cond, "rf"), G.translate(z, cond, "rn"), atol=1e-3)
    assert mixed.shape == (4, 3, SIDE, SIDE) and mixed.abs().max() <= 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"d": {"n_upsample": 3}}, "gen.d.n_upsample is 3, but the encoder halves"),
        ({"d": {"n_ress": 1}}, "gen.d: 'n_ress' is no argument; did you mean n_res"),
        ({"encoder": {"dims": 2}}, "gen.encoder: 'dims' is no argument; did you mean dim"),
        ({"t": {"bits": "none"}}, "one decoder could not know where to"),
        ({"t": {"form": "plain", "bits": "flood"}}, "it has none; use spade"),
        ({"tasks": "adx"}, "each is one of a d h s t w"),
        ({"tasks": "at", "t": {}}, "no task of d, h, s, w to condition it"),
        ({"encoder": {"architecture": "resnet"}}, "it is one of munit, deeplabv2"),
        ({"h": {"output_dim": 2}}, "gen.h.output_dim is 2: it is 1"),
        ({"d": {"activation": "swish"}}, "gen.d: activation 'swish'"),
        ({"condition_on": "logits"}, "it is probabilities or raw"),
    ],
)  # fmt: skip
def test_what_a_generator_refuses(change, said):
    with pytest.raises(ValueError, match=said) as error:
        generator(**change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("activation", ["none", "tanh"])
def test_logits_are_no_condition(activation):
    """What a decoder ends without an activation is a logit, also where outputs go in raw."""
    how = {"n_res": 1, "res_norm": "none", "activation": activation}
    G = generator(tasks="stw", a=None, d=None, h=None, s={**how, "output_dim": 3}, w=how,
                  condition_on="raw")  # fmt: skip
    decoded = {"s": torch.randn(1, 3, 4, 4) * 4, "w": torch.tensor([-3.0, 0.2, 0.6, 3]).view(
        1, 1, 2, 2).repeat(1, 1, 2, 2)}  # fmt: skip
    cond = G.conditioning(decoded)
    logits = activation == "none"
    expected = [decoded["s"].softmax(1), decoded["w"].sigmoid()] if logits else decoded.values()
    assert torch.equal(cond, torch.cat(list(expected), 1))
    assert torch.equal(G.wet(decoded["w"]), decoded["w"] > (0 if logits else 0.5))
    water = G.water(decoded["w"])
    assert water.min() >= 0 and water.max() <= 1 and torch.equal(water > 0.5, G.wet(decoded["w"]))


def test_pictures_that_do_not_fit():
    G = generator()
    with pytest.raises(ValueError, match="sides must be multiples of 4"):
        G.encode(torch.zeros(1, 3, 18, 16))
    with pytest.raises(ValueError, match="pictures are too small"):
        OmniGenerator("d", encoder={"dim": 2}).encode(torch.zeros(1, 3, 8, 8))


def test_layer_norm_and_adain():
    x = torch.randn(2, 3, 4, 5)
    norm = LayerNorm(3)
    one = (x[:1] - x[:1].mean()) / (x[:1].std() + 1e-5)
    assert torch.allclose(norm(x)[:1], one * norm.gamma[:, None, None], atol=1e-5)
    gamma, beta = torch.rand(2, 3), torch.rand(2, 3)
    y = AdaIN(3)(x, gamma, beta)
    assert torch.allclose(y.mean((2, 3)), beta, atol=1e-5)
    assert torch.allclose(y.std((2, 3), correction=0), gamma, atol=1e-3)


def test_spectral_norms_are_still_in_evaluation_and_not_trained():
    D = discriminators()
    assert all(is_spectral(m) for m in D.modules() if isinstance(m, nn.Conv2d))
    head, x = D["a"]["r"], torch.randn(1, 3, SIDE, SIDE)
    head.eval()
    assert torch.equal(head(x), head(x))
    before = {k: v.clone() for k, v in head.state_dict().items()}
    head.train()(x)
    moved = {k for k, v in head.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all(k.endswith(("_u", "_v")) for k in moved)


@pytest.mark.parametrize("kind", ["kaiming", "normal", "orthogonal", "xavier"])
def test_initial_weights(kind):
    D = discriminators()
    old = {k: v.clone() for k, v in D.named_parameters()}
    init_weights(D, kind, 0.5)
    for name, p in D.named_parameters():
        assert not p.any() if name.endswith("bias") else not torch.equal(p, old[name])
    conv = D["a"]["r"].model[0].eval()
    assert abs(float(torch.linalg.matrix_norm(conv.weight.detach().flatten(1), 2)) - 1) < 0.05
    with pytest.raises(ValueError, match="init 'he'"):
        init_weights(D, "he")


@pytest.mark.parametrize(("n_layers", "norm"), [(1, "none"), (2, "batch"), (4, "layer")])
def test_layers_of_a_discriminator(n_layers, norm):
    D: Any = make_discriminators("a", a={"ndf": 2, "n_layers": n_layers, "norm": norm})
    head = D["a"]["r"]
    convs = [m for m in head.modules() if isinstance(m, nn.Conv2d)]
    assert [c.stride[0] for c in convs] == [2] * n_layers + [1, 1]
    assert [c.out_channels for c in convs] == [2 * min(2**n, 8) for n in range(n_layers + 1)] + [1]
    side = 64 // 2**n_layers - 2
    assert head(torch.randn(1, 3, 64, 64)).shape == (1, 1, side, side)


@pytest.mark.parametrize("shape", [(8, 1, 1), (4, 3, 5), (16, 7, 2), (256, 2, 2)])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_classifier_takes_any_latent(shape, norm):
    for loss in ("cross_entropy", "l1"):
        C = DomainClassifier(shape, loss, norm)
        out = C(torch.randn(1, *shape))
        assert out.shape == (1, 4) and out.isfinite().all()
        if loss == "l1":
            assert torch.allclose(out.sum(1), torch.ones(1))
    assert classifier()(torch.randn(3, 8, 9, 2)).shape == (3, 4)


def test_deeplab(tmp_path):
    with torch.device("meta"):
        encoder = DeeplabEncoder(n_res=4)
    body = count(encoder) - count(encoder.project) - count(encoder.resblocks)
    assert body == 42_500_160  # 344,506,432 of the original are 302,006,272 in blocks behind it
    for side in (256, 224):
        x = torch.empty(1, 3, side, side, device="meta")
        assert encoder(x).shape == (1, 256, side // 8, side // 8)
    encoder.train()
    norms = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(m.training or m.weight.requires_grad for m in norms)
    own = encoder.state_dict()
    published = {f"Scale.{name}": value for name, value in own.items()}
    published |= {"Scale.layer5.conv2d_list.0.weight": torch.empty(19, 2048, 3, 3)}
    found = published_names(published, own)
    assert found.keys() == own.keys()
    with pytest.raises(ValueError, match="weights are missing"):
        published_names({"Scale.conv1.weight": own["conv1.weight"]}, own)
    write_torch(tmp_path / "w.pth", {"Scale.conv1.weight": torch.zeros(64, 3, 7, 7)})
    with pytest.raises(CheckpointError, match="is no Deeplabv2 of ADVENT"):
        load_pretrained(encoder, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="this one is MUNIT's"):
        load_pretrained(generator().encoder, tmp_path / "w.pth")
