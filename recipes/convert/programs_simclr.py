"""An encoder of SimCLR as a program: uint8 pictures, normalised as in training -> features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from data.views.ops import resize_weights
from models import SimCLR
from recipes.convert.program import Program, Value
from recipes.simclr.encoder import Encoder


class Features(nn.Module):
    """pictures uint8 [N, 3, p, p] -> h [N, D] float32, or z, after the head."""

    mean: Tensor
    std: Tensor
    weights: Tensor

    def __init__(
        self,
        net: SimCLR,
        side: int,
        size: int,
        mean: tuple[float, ...] | None,
        std: tuple[float, ...] | None,
        projection: bool,
    ) -> None:
        super().__init__()
        self.net, self.resizes, self.projection = net, side != size, projection
        nothing = mean is None or std is None
        for name, value in (("mean", mean), ("std", std)):
            number = (0.0 if name == "mean" else 1.0,) if nothing else value
            self.register_buffer(name, torch.tensor(number).view(1, -1, 1, 1))
        if self.resizes:  # [size, side], of a whole picture: the same for rows and columns
            start, whole = torch.tensor([0]), torch.tensor([side])
            self.register_buffer("weights", resize_weights(side, start, whole, size)[0].clone())

    def forward(self, pictures: Tensor) -> Tensor:
        x = pictures.to(torch.float32) / 255
        if self.resizes:
            x = self.weights @ x @ self.weights.T
        h = self.net.features((x - self.mean) / self.std)
        return (self.net.projector(h) if self.projection else h).float()


def encoder(made: Encoder, *, projection: bool) -> Program:
    """h = f(x), or z = g(h)."""
    net, side, size = made.net, made.picture_size, made.size
    mean, std = made.plain.mean, made.plain.std
    resized = f", resized to {size}" if side != size else ""
    normal = f", minus {list(mean)}, over {list(std)}" if mean and std else ""
    about = {
        "preprocessing": f"divided by 255{resized}{normal}",
        "postprocessing": "none",
        "stem": net.config["stem"],
        "backbone": net.config["backbone"],
    }
    wide = net.config["proj_dim"] if projection else made.dim
    says = "z, not normalised in length" if projection else "h, what probes use"
    pictures = Value(
        "picture", (3, side, side),
        f"RGB, the short side reduced to {side} pixels (Pillow, bicubic), the central square",
    )  # fmt: skip
    module = Features(net, side, size, mean, std, projection)
    return Program(module, {"pictures": pictures}, Value("normal", (wide,), says), about)
