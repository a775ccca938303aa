"""The toy of autoguidance as a generator: an image shows the points that one seed draws."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from diffusion import toy
from diffusion.guidance import guided
from diffusion.toy_eval import sample
from generators.base import Loaded, Setup, build, check_asked, check_same_kind
from storage.snapshot import Snapshot


class Toy(Loaded):
    """A network of the 2-D tree: a `Generator`. Errors: CheckpointError."""

    kind = "edm2-toy"
    input_size: int | None = None
    resolution = 64
    side = 3.0  # of the square around the tree that an image shows

    def __init__(
        self, snapshot: Snapshot, setup: Setup | None = None, file: Path | None = None
    ) -> None:
        super().__init__(snapshot, setup, file)
        self.net = build(toy.ToyModel, snapshot).to(self.device)
        self.classes: list[str] = []
        self.code_sizes: list[int] = []

    def points(
        self, n: int, *, seed: int = 0, guide: Toy | None = None, guidance: float = 1.0
    ) -> Tensor:
        """n points [n, 2] of a seed, by Heun's method from the noise of the highest level. Errors:
        UsageError."""
        check_asked(n, seed)
        if guide is not None:
            check_same_kind(self.kind, guide)
        random = torch.Generator().manual_seed(seed)
        noise = torch.randn(n, 2, generator=random).to(self.device) * toy.SIGMA_MAX
        denoise = guided(self.net.denoise, guide.net.denoise, guidance) if guide else None
        return sample(denoise or self.net.denoise, noise)

    def draw(
        self,
        n: int,
        *,
        seed: int = 0,
        guide: Toy | None = None,
        guidance: float = 1.0,
        points: int = 4096,
        batch: int = 32,
    ) -> Tensor:
        """Pictures of the seeds seed .. seed + n - 1, uint8 [n, 3, 64, 64]: white where there is no
        point, darker the more there are. `batch` has no influence. Errors: UsageError."""
        check_asked(n, seed)
        images = []
        for k in range(n):
            found = self.points(points, seed=seed + k, guide=guide, guidance=guidance).cpu()
            cell = self.side / self.resolution
            where = ((found - torch.tensor(toy.ORIGIN) + self.side / 2) / cell).floor().long()
            where = where[((where >= 0) & (where < self.resolution)).all(1)]
            counts = torch.zeros(self.resolution, self.resolution)
            rows = self.resolution - 1 - where[:, 1]  # y points upwards
            counts.index_put_((rows, where[:, 0]), torch.ones(len(where)), accumulate=True)
            images.append((255 / (1 + counts)).byte().expand(3, -1, -1))
        return torch.stack(images)
