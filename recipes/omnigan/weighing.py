"""Whether memory holds what the settings of omnigan ask for, asked before it is taken."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from models.omnigan import OmniGenerator, make_discriminators
from recipes import room
from recipes.omnigan.options import active, domains
from recipes.omnigan.parts import generator_arguments, size_of
from recipes.omnigan.schema import SCHEMA
from runtime.settings import flat, leaves

NETWORKS = (
    "gen.encoder.dim", "gen.encoder.n_downsample", "gen.encoder.n_res", "gen.deeplabv2.proj_dim",
    "gen.s.output_dim", "gen.t.spade_kernel_size", *(f"gen.{task}.n_res" for task in "adhstw"),
    *(f"dis.{task}.{name}" for task in "at" for name in ("ndf", "n_layers", "num_D")),
)  # fmt: skip
BATCHES = ("data.loaders.batch_size", "gen.encoder.dim")


def check(
    opts: Mapping[str, Any], device: torch.device | None = None, ranks: int | None = None
) -> None:
    """That the device (default: the host) holds G and D and what trains them, and, of `ranks`
    processes (None: nothing is trained), the share of a batch of each domain.

    Errors: UsageError, with the settings that are larger than by default.
    """
    device = device or torch.device("cpu")
    said = {name: value for name, value in flat(opts).items() if isinstance(value, int)}
    args = Namespace(**said, typed_as={name: name for name in said})
    table = {"settings": [(name, None, leaf.default, "") for name, leaf in leaves(SCHEMA)]}
    tasks = active(opts)

    def make() -> nn.Module:
        heads = {
            task: {n: v for n, v in opts["dis"][task].items() if not n.startswith("init_")}
            for task in "at"
        }
        G = OmniGenerator(tasks, **generator_arguments(opts))
        return nn.ModuleList([G, make_discriminators(tasks, **heads)])

    try:
        copies = 1 if ranks is None else room.COPIES
        room.weigh(make, device, args, table, NETWORKS, copies=copies)
    except ValueError:  # settings that do not go together: whoever makes the networks says so
        return
    if ranks is not None:
        munit = opts["gen"]["encoder"]["architecture"] == "munit"
        height, width = size_of(opts)
        values = height * width * (opts["gen"]["encoder"]["dim"] if munit else 3)
        rows = opts["data"]["loaders"]["batch_size"] // ranks * len(domains(opts, "train"))
        room.batch(rows, values, device, args, table, BATCHES)
