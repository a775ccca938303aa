"""Counts without end: refused when options are read, by name, before memory is taken for them."""

import time
from argparse import Namespace

import pytest
import torch
from torch import nn

from recipes import room
from recipes.edm2.options import OPTIONS as EDM2
from recipes.edm2.options import get_args as edm2
from recipes.generate.options import get_args as generate
from recipes.imle.options import get_args as imle
from recipes.isicle.options import get_args as isicle
from recipes.simclr.options import get_args as simclr
from recipes.toy.options import get_args as toy
from recipes.views.options import get_args as views
from runtime.memory import as_out_of_memory
from storage.errors import UsageError

# What an attack found: 2^63 - 1 gave a traceback, 10^9 was not answered.
HUGE = [
    (toy, "train", "--batch-size --dim --test_samples --layers"),
    (edm2, "", "--channels --channel_mult --label_dim --sample_images --num_blocks --sample_steps "
     "--batch --bs_gpu --res --channels_per_head"),
    (simclr, "", "--crop_size --picture_size --proj_dim --proj_hidden --bs"),
    (isicle, "", "--crop_size --picture_size --proj_dim --proj_hidden --view_batch --num_synth"),
    (imle, "", "--code_nc --dense_nc --latent_nc --map_nc --resid_nc --n_blocks --spi --sp "
     "--code_bs --res --max_nc --num_components"),
    (views, "--net x --data y", "--view_batch --views --size --first"),
    (generate, "--net x", "--steps --first --samples --batch --num_images"),
]  # fmt: skip


@pytest.mark.parametrize("number", [2**63 - 1, 2**63, 10**30])
@pytest.mark.parametrize(
    "read, words, names", HUGE, ids=lambda value: getattr(value, "__module__", "")
)
def test_numbers_that_no_machine_holds_are_one_line(read, words, names, number, capsys):
    for name in names.split():
        start = time.monotonic()
        with pytest.raises(SystemExit, match="2"):
            read(None, [*words.split(), name, str(number)])
        said = capsys.readouterr().err
        assert "out of range" in said and len(said.splitlines()) == 1, said
        assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    "read, words",
    [
        (toy, "train --layers"), (edm2, "--num_blocks"), (imle, "--n_blocks"), (imle, "--spi"),
        (edm2, "--sample_steps"), (generate, "--net x --steps"), (generate, "--net x --samples"),
        (generate, "--net x --batch"), (generate, "--net x --num_images"), (toy, "train --dim"),
        (edm2, "--channels"), (edm2, "--batch"), (toy, "train --test_samples"),
    ],
)  # fmt: skip
def test_a_thousand_million_is_refused_where_nothing_has_so_many(read, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        read(None, [*words.split(), "1000000000"])
    assert "at most" in capsys.readouterr().err


def test_a_network_that_no_memory_holds_is_not_built(monkeypatch):
    args = Namespace(channels=65536, channel_mult=[1, 2, 3, 4], num_blocks=3)
    built = []

    def make():
        built.append(torch.empty(0).device.type)
        return nn.Linear(args.channels, 100 * args.channels)

    before = torch.get_rng_state()
    with pytest.raises(UsageError, match=r"6.* GB at least.* lower --channels 65536$") as caught:
        room.network(
            make, torch.device("cpu"), args, EDM2, ("channels", "channel_mult", "num_blocks")
        )
    assert built == ["meta"] and caught.value.exit_code == 2
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(UsageError, match="16777216 rows at once.*lower --channels 65536"):
        room.batch(1 << 24, 1 << 16, torch.device("cpu"), args, EDM2, ("channels",))


def test_building_a_network_draws_what_it_drew_before():
    """That it is looked at first changes no weight."""
    torch.manual_seed(1)
    plain = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    torch.manual_seed(1)
    args = Namespace(channels=8)
    made = room.network(
        lambda: nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)),
        torch.device("cpu"), args, EDM2, ("channels",),
    )  # fmt: skip
    assert torch.equal(plain[0].weight, made[0].weight)


def test_a_want_of_memory_names_the_option_that_is_wide():
    error = as_out_of_memory(
        MemoryError(), 3, {"batch": 32, "channels": 65536, "res": 64}, torch.device("cpu")
    )
    assert "lower --channels (65536), --batch (32)" in str(error)
