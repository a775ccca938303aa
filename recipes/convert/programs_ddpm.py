"""Networks of kind ddpm as programs: the predicted clean image at a step, and DDIM's method."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from diffusion.encoders import StabilityVAEEncoder
from diffusion.gaussian import Gaussian
from diffusion.respace import timesteps_of
from generators.ddpm import DDPM
from recipes.convert.program import Program, Value
from recipes.convert.programs_edm2 import Pixels
from storage.errors import UsageError

STEPS = 50


class Clean(nn.Module):
    """x0(x, step, class): x [N, C, R, R], step int64 [N], classes int64 [N] where there are any
    (-1: no class) -> [N, C, R, R]. Whatever the network predicts, x0 is linear in it and x."""

    times: Tensor
    of_x: Tensor
    of_made: Tensor

    def __init__(self, net: nn.Module, gaussian: Gaussian, channels: int) -> None:
        super().__init__()
        self.net, self.channels = net, channels
        kept, parts = torch.arange(gaussian.T), (1, 2 if gaussian.learned else 1)
        one, none = torch.ones(gaussian.T, 1, dtype=torch.float64), torch.zeros(gaussian.T, 1)
        self.register_buffer("times", gaussian.model_time(kept, one))
        of_x = gaussian.x0_of(none.double().repeat(parts), one, kept)
        of_made = gaussian.x0_of(one.repeat(parts), none.double(), kept)
        for name, value in (("of_x", of_x), ("of_made", of_made)):
            self.register_buffer(name, value.float().view(-1, 1, 1, 1))

    def forward(self, x: Tensor, step: Tensor, *classes: Tensor) -> Tensor:
        made = self.net(x, self.times[step], *classes)[:, : self.channels]
        return cast(Tensor, self.of_x[step] * x + self.of_made[step] * made)


class DDIM(nn.Module):
    """`diffusion.ddpm_samplers.ddim`, eta 0: noise [N, ...], classes [N] -> samples, decoded.

    A step is traced once and looped over, as in `programs_edm2.Heun`.
    """

    signals: Tensor
    noises: Tensor

    def __init__(self, clean: Clean, gaussian: Gaussian, clip: bool, decode: nn.Module) -> None:
        super().__init__()
        self.clean, self.clip, self.decode, self.steps = clean, clip, decode, gaussian.T
        levels = torch.cat([torch.ones(1, dtype=torch.float64), gaussian.alphas_cumprod])
        self.register_buffer("signals", levels.sqrt().float())
        self.register_buffer("noises", (1 - levels).sqrt().float())

    def forward(self, noise: Tensor, *classes: Tensor) -> Tensor:
        from torch._higher_order_ops.while_loop import while_loop

        def goes_on(i: Tensor, x: Tensor) -> Tensor:
            return (i > 0).all()

        def step(i: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            below = i - 1  # of the tables of `clean`, which lack the level without noise
            x0 = self.clean(x, below.expand(x.shape[0]), *classes)
            x0 = x0.clamp(-1, 1) if self.clip else x0
            signal, spread = self.signals.index_select(0, i), self.noises.index_select(0, i)
            eps = (x - signal * x0) / spread
            signal, spread = self.signals.index_select(0, below), self.noises.index_select(0, below)
            return below, signal * x0 + spread * eps

        count = torch.full((1,), self.steps, dtype=torch.int64, device=noise.device)
        _, x = while_loop(goes_on, step, (count, noise.clone()))
        return cast(Tensor, self.decode(x))


def program(generator: DDPM, word: str, steps: int) -> Program:
    """`images` in so many steps of DDIM, or the `denoiser`. Errors: UsageError for a network of
    layouts or of pictures beside, whose inputs no program has, and for what only denoises."""
    if generator.layout != "none" or generator.concat:
        what = "layouts" if generator.layout != "none" else "a picture beside the noised one"
        raise UsageError(f"a program of a network that draws from {what} is not made here")
    gaussian, size, channels = generator.gaussian, generator.side, generator.channels
    shape, count = (channels, size, size), len(generator.classes) if generator.by_class else 0
    about: dict[str, Any] = {"precision": "fp32"}
    classes = {}
    if count:
        about["classes"] = generator.classes
        classes["classes"] = Value("number", (), f"0 to {count - 1}; -1: no class", count)
    if word == "denoiser":
        inputs = {
            "x": Value("normal", shape, "images in [-1, 1], or latents, noised to the step"),
            "step": Value("number", (), f"of the diffusion, 0 to {gaussian.T - 1}", gaussian.T),
        }
        about |= {
            "preprocessing": "none",
            "postprocessing": "the clean image of what the network predicts, not clipped",
            "alphas_cumprod": gaussian.alphas_cumprod.tolist(),
        }
        output = Value("normal", shape, "the expected image without noise")
        made = Clean(generator.net, gaussian, channels)
        return Program(made, {**inputs, **classes}, output, about)
    if generator.latent or isinstance(generator.encoder, StabilityVAEEncoder):
        raise UsageError("of a network of latents only --program denoiser is made here")
    if generator.clip == "dynamic":
        raise UsageError("a network drawn with dynamic clipping: only --program denoiser is made")
    if steps < gaussian.T:
        chosen = timesteps_of(f"trailing:{steps}", gaussian.T, gaussian.alphas_cumprod)
        gaussian = gaussian.respaced(chosen)
    about |= {
        "preprocessing": "none",
        "postprocessing": "[-1, 1] to 0..255",
        "sampler": {"name": "ddim", "steps": gaussian.T, "timesteps": gaussian.timesteps},
    }
    inputs = {"noise": Value("normal", shape, "standard normal numbers (torch.randn)")}
    output = Value("picture", (3, size, size), "RGB; grey as three channels")
    made_of = DDIM(
        Clean(generator.net, gaussian, channels), gaussian, generator.clip == "unit", Pixels()
    )
    return Program(made_of, {**inputs, **classes}, output, about)
