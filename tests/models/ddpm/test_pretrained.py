"""Base weights in a network with adapters, and freezing."""

from __future__ import annotations

import pytest
import torch

from models.ddpm import UNet
from models.ddpm.pretrained import adapters, base_names, freeze, load_pretrained
from tests.models.ddpm.nets import LAYOUT, TINY, inputs, layouts, tiny

TEXT = {"attn_block_type": "SpatialTransformer", "attn_block_args": {"text_dim": 12}}
PROMPTS = {"text_dim": 12, "num_prompts": 3, "prompt_dim": 6, "image_in_kv": True, "gated": True}
FULL = {**TEXT, "attn_block_args": PROMPTS, **LAYOUT}


@pytest.fixture
def given():
    torch.manual_seed(0)
    return {**inputs(), "text": torch.randn(3, 4, 12)}


def test_a_pretrained_network_is_unchanged_at_the_start(given):
    base, net = tiny(**TEXT), UNet(3, 3, **TINY, **FULL)
    state = base.state_dict()
    assert load_pretrained(net, state) == adapters(net)
    assert torch.equal(net(**given, layout=layouts()), base(**given))
    # The decoder's Upsample comes one place later behind layout attention.
    assert "output_blocks.1.2.conv.weight" in state
    assert base_names(net)["output_blocks.1.2.conv.weight"] == "output_blocks.1.3.conv.weight"
    assert "input_blocks.1.1.attention.to_prompt_token.weight" in adapters(net)
    assert "cls_embedder.class_embedder.weight" in adapters(net)
    assert adapters(base) == []


def test_a_whole_network_and_tied_tables():
    net = tiny(**FULL)
    state = net.state_dict()
    other = UNet(3, 3, **TINY, **FULL)
    table = state["cls_embedder.class_embedder.weight"]
    tied = "input_blocks.1.1.attention.class_embedder.class_embedder.weight"
    assert load_pretrained(other, {**state, tied: table.clone()}) == []
    loaded = other.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in state.items())
    with pytest.raises(ValueError, match="another table of classes at input_blocks.1.1"):
        load_pretrained(other, {**state, tied: table + 1})


def test_weights_of_another_network():
    net, state = UNet(3, 3, **TINY, **FULL), tiny(**TEXT).state_dict()
    with pytest.raises(ValueError, match=r"1 of the weights' \d+ names are not in the network"):
        load_pretrained(net, {**state, "input_blocks.9.0.weight": torch.ones(1)})
    missing = {k: v for k, v in state.items() if k != "out.2.bias"}
    with pytest.raises(ValueError, match="missing in the file, such as out.2.bias"):
        load_pretrained(net, missing)
    before = net.state_dict()["out.2.bias"].clone()
    with pytest.raises(ValueError, match=r"out.2.bias has shape \[4\] in the file and \[3\]"):
        load_pretrained(net, {**state, "out.2.bias": torch.ones(4)})
    assert torch.equal(net.state_dict()["out.2.bias"], before)


def test_freezing_frees_the_gradients(given):
    net = tiny(**FULL)
    names = adapters(net)
    recorded = []
    for name in ("time_embed", "input_blocks.0", "input_blocks.1.0", "input_blocks.1.1"):
        net.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: recorded.append((name, out.requires_grad))
        )
    whole = net(**given, layout=layouts())
    whole.square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert all(needs for _, needs in recorded)
    recorded.clear()

    trained = freeze(net, names)
    assert [p for p in net.parameters() if p.requires_grad] == trained
    assert {n for n, p in net.named_parameters() if p.grad is None} == {
        n for n, _ in net.named_parameters() if n not in names
    }
    for p in trained:
        p.grad = None
    net(**given, layout=layouts()).square().mean().backward()
    assert {n for n, p in net.named_parameters() if p.grad is not None} == set(names)
    # No graph up to the first layout attention.
    assert dict(recorded) == {
        "time_embed": False,
        "input_blocks.0": False,
        "input_blocks.1.0": False,
        "input_blocks.1.1": True,
    }
    with pytest.raises(ValueError, match="no parameter adapter"):
        freeze(net, ["adapter"])
    with pytest.raises(ValueError, match="no parameter is left to train"):
        freeze(net, [])


def test_a_trained_adapter_gets_the_gradients_of_the_whole_network(given):
    net = tiny(**FULL)
    names = adapters(net)
    net(**given, layout=layouts()).square().mean().backward()
    wanted = {n: p.grad.clone() for n, p in net.named_parameters() if n in names}
    net.zero_grad()
    freeze(net, names)
    net(**given, layout=layouts()).square().mean().backward()
    found = {n: p.grad for n, p in net.named_parameters() if n in names}
    assert all(torch.equal(wanted[n], found[n]) for n in names)
