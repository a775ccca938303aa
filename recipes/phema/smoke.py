"""A made-up run, for the smoke preset of reconstruct_phema.py."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from runtime import ema
from storage.snapshot import save_snapshot


def make_inputs(folder: Path, stds: Sequence[float]) -> dict[float, dict[str, Tensor]]:
    """The smoke preset's run: a linear net in noisy descent, snapshots of widths 0.05 and 0.10.

    Returns the averages of widths `stds` at its end, tracked directly, as state dicts.
    """
    steps, every, batch = 400, 20, 64
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same run each time
        net = torch.nn.Linear(16, 16)
    generator = torch.Generator().manual_seed(0)
    averages = {std: ema.EMA(net, ema.power(std)) for std in sorted({0.05, 0.10, *stds})}
    with torch.no_grad():
        for step in range(1, steps + 1):
            for p in net.parameters():
                noise = torch.randn(p.shape, generator=generator)
                p.add_(0.02 * (1 - p) + 0.02 * noise)
            for average in averages.values():
                average.update(net, step * batch, batch)
            if step % every:
                continue
            for std in (0.05, 0.10):
                config = {"net": {}, "step": step, "nimg": step * batch, "ema_std": std}
                path = folder / f"network-snapshot-{step:07d}-{std:.3f}.safetensors"
                state = averages[std].module.state_dict()
                save_snapshot(path, state, "phema-smoke", config, {"run": "smoke"})
    return {std: averages[std].module.state_dict() for std in stds}
