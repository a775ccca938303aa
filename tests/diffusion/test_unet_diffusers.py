"""ADM UNets under diffusers' names: what UNet2DModel has not. (Values: tests/golden.)"""

from __future__ import annotations

import pytest
import torch

from diffusion.unet_diffusers import to_diffusers
from tests.generators.foreign.test_unet import unet

NET = {
    "in_channels": 3, "out_channels": 6, "model_channels": 32, "channel_mult": [1, 2, 4],
    "num_res_blocks": 2, "attention_resolutions": [2, 4], "num_head_channels": 32,
    "use_new_attention_order": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"num_head_channels": None}, "does not say how many heads"),
        ({"num_head_channels": None, "num_heads": 4}, "4 heads of 16 and 32 channels"),
        ({"channel_mult": [0.5, 1, 2]}, "as wide as its first level"),
        ({"conv_resample": False}, "by pooling"),
        ({"use_spatial_transformer": True}, "spatial transformers"),
        ({"model_channels": 48}, "no multiples of 32"),
        ({"num_head_channels": 24}, "do not divide into heads of 24"),
        ({"num_res_blocks": 1}, "has weights without a place|incomplete"),
    ],
)
def test_what_it_has_not_is_said(changed, why):
    state = {name: torch.zeros(size) for name, size in unet().items()}
    with pytest.raises(ValueError, match=why):
        to_diffusers(state, NET | changed)


def test_every_weight_has_a_place_and_is_a_copy():
    state = {name: torch.ones(size) for name, size in unet().items()}
    made = to_diffusers(state, NET)
    assert made.notes == [] and made.config["attention_head_dim"] == 32
    assert sum(v.numel() for v in made.state.values()) == sum(v.numel() for v in state.values())
    for value in made.state.values():
        value.zero_()
    assert all((value == 1).all() for value in state.values())
    unsaid = to_diffusers(state, NET | {"use_new_attention_order": None})
    assert "the order of q, k and v" in unsaid.notes[0]
