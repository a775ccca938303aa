"""Small models, losses and data sets for the tests of the search and the loader."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset


class ToyCascade(nn.Module):
    """Three numbers of code and r x r of noise a level; doubles from `first`. Counts its rows."""

    def __init__(self, levels: int = 2, first: int = 4, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.sides = [first * 2**i for i in range(levels)]
        self.code_sizes = [3 + s * s for s in self.sides]
        self.levels = levels
        self.mix = nn.ParameterList(
            nn.Parameter(0.5 * torch.randn(4, 8, 3, 3, generator=generator)) for _ in self.sides
        )
        self.out = nn.ParameterList(
            nn.Parameter(0.3 * torch.randn(3, 4, 3, 3, generator=generator)) for _ in self.sides
        )
        self.rows = [0] * levels
        self.dropout = nn.Dropout(0.5)  # so that a search in training mode would be noticed

    def start(self, cx: Tensor):
        return (cx, torch.zeros(len(cx), 1, *cx.shape[2:], dtype=cx.dtype, device=cx.device))

    def advance(self, state, code: Tensor, level: int):
        times = len(code) // len(state[0])
        image, feature = (t.repeat_interleave(times, 0) for t in state)
        side = self.sides[level]
        self.rows[level] += len(code)
        style, noise = code[:, :3, None, None], code[:, 3:].reshape(-1, 1, side, side)
        planes = style.expand(-1, -1, side, side)
        h = F.conv2d(torch.cat([image, planes, noise, feature], 1), self.mix[level], padding=1)
        h = F.interpolate(F.leaky_relu(h, 0.2), scale_factor=2)
        rgb = torch.sigmoid(self.dropout(F.conv2d(h, self.out[level], padding=1)))
        return rgb, (rgb, h[:, :1])

    def forward(self, cx: Tensor, codes, loi=None):
        state, images = self.start(cx), []
        for level in range(self.levels if loi is None else loi % self.levels + 1):
            rgb, state = self.advance(state, codes[level], level)
            images.append(rgb)
        return images if loi is None else images[-1]


class PlainModel(nn.Module):
    """The same network without the cascade interface, and without expanding rows by itself."""

    def __init__(self, cascade: ToyCascade) -> None:
        super().__init__()
        self.inner = cascade

    def forward(self, x: Tensor, codes, loi=None):
        assert all(len(c) == len(x) for c in codes)
        return self.inner(x, codes, loi=loi)


def mse(fx: Tensor, y: Tensor) -> Tensor:
    """A plain loss: one value a row, no broadcasting of targets."""
    assert fx.shape == y.shape
    return ((fx - y) ** 2).mean((1, 2, 3))


class PreparedLoss(nn.Module):
    """The loss with prepared targets that broadcast over candidates. Counts preparations."""

    def __init__(self) -> None:
        super().__init__()
        self.prepared = 0

    def prepare(self, y: Tensor) -> Tensor:
        self.prepared += 1
        return y.double().float() if y.dtype == torch.float32 else y

    def forward(self, fx: Tensor, target: Tensor) -> Tensor:
        return mse(fx.float(), target.repeat_interleave(len(fx) // len(target), 0))


class ToyImages(Dataset):
    """n uint8 pyramids, sides `first` * 2^i, a function of the index; `bad` raises when read."""

    def __init__(self, n: int, levels: int = 2, first: int = 4, bad: int | None = None) -> None:
        self.n, self.levels, self.first, self.bad = n, levels, first, bad
        self.reads = 0

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int):
        if i == self.bad:
            raise KeyError(f"picture {i} is broken")
        self.reads += 1
        generator = torch.Generator().manual_seed(1000 + i)
        images = [
            torch.randint(0, 256, (3, side, side), generator=generator, dtype=torch.uint8)
            for side in (self.first * 2**k for k in range(self.levels + 1))
        ]
        return images[0], images[1:]
