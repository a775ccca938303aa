"""Snapshots of tiny networks."""

import torch

from generators.door import make_generator
from imle import CAMNet
from storage.snapshot import Snapshot

RES, LAST = [8, 16, 32], 32


def network(seed=0, **options):
    torch.manual_seed(seed)
    return CAMNet(
        res=RES, resid_nc=[6, 6], dense_nc=[4, 4], n_blocks=1, map_nc=4, latent_nc=8, **options
    )


def snapshot(seed=0, codes=None, corruption=None, **options):
    net = network(seed, **options)
    config = {"net": net.config, "codes": codes or {}, "corruption": corruption or {}}
    return Snapshot(net.state_dict(), "camnet", {**config, "crop": "squash"}, {"step": 1})


def view_sampler(made, size, **options):
    return make_generator(made).view_sampler(size, **options)
