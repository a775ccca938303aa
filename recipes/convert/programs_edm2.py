"""EDM2's networks and the toy's as programs: a denoiser, guided or not, and Heun's method."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion import Precond
from diffusion.encoders import StabilityVAEEncoder
from diffusion.mp import SILU_MAGNITUDE
from diffusion.samplers import sigma_levels
from diffusion.toy import SIGMA_MAX, ToyModel
from generators.edm2 import EDM2
from generators.toy import Toy
from recipes.convert.program import Program, Value
from storage.errors import UsageError


class Classes(nn.Module):
    """D(x; sigma, class): x [N, C, R, R], sigma [N], classes int64 [N] where there are any (one
    that is none, as -1, is "no class") -> [N, C, R, R]."""

    numbers: Tensor

    def __init__(self, net: Precond) -> None:
        super().__init__()
        self.net = net
        net.compute_dtype = torch.float32
        self.register_buffer("numbers", torch.arange(net.label_dim))

    def forward(self, x: Tensor, sigma: Tensor, classes: Tensor | None) -> Tensor:
        labels = None
        if classes is not None and self.net.label_dim:
            labels = torch.eq(classes[:, None], self.numbers).float()
        return cast(Tensor, self.net(x, sigma, labels))


class Points(nn.Module):
    """`ToyModel.denoise` of x [N, 2], sigma [N], in plain operations, as `diffusion.toy._Score` has
    the gradient: rows at once, so that a batch may have any number."""

    def __init__(self, net: ToyModel) -> None:
        super().__init__()
        self.sigma_data, self.count = net.sigma_data, len(net.linears())
        for k, layer in enumerate(net.linears()):
            self.register_buffer(f"weight_{k}", layer.effective().detach().clone())
        self.register_buffer("gain", net.gain.detach().clone())

    def forward(self, x: Tensor, sigma: Tensor, classes: Tensor | None) -> Tensor:
        weights = [getattr(self, f"weight_{k}") for k in range(self.count)]
        factor = (self.sigma_data**2 + sigma.square()).rsqrt()[:, None]
        scaled = x * factor
        h = torch.cat([scaled, sigma.log()[:, None] / 4, torch.ones_like(factor)], 1)
        slopes = []
        for weight in weights[:-1]:
            a = h @ weight.T
            p = torch.sigmoid(a)
            slopes.append((p + F.silu(a) * (1 - p)) / SILU_MAGNITUDE)
            h = F.silu(a) / SILU_MAGNITUDE
        y = h @ weights[-1].T
        e = y * (2 / (y.shape[1] * sigma))[:, None] * self.gain
        for weight, slope in zip(weights[:0:-1], slopes[::-1], strict=True):
            e = (e @ weight) * slope
        score = factor * (e @ weights[0][:, :2] - scaled)
        return x + sigma.square()[:, None] * score


class Denoiser(nn.Module):
    """x, sigma [N], classes [N] where there are any -> denoised: guide + weight (main - guide)."""

    def __init__(self, main: nn.Module, guide: nn.Module | None, weight: float) -> None:
        super().__init__()
        self.main, self.guide, self.weight = main, guide, weight

    def forward(self, x: Tensor, sigma: Tensor, *classes: Tensor) -> Tensor:
        label = classes[0] if classes else None
        made = self.main(x, sigma, label)
        return made if self.guide is None else self.guide(x, sigma, label).lerp(made, self.weight)


class Heun(nn.Module):
    """`diffusion.samplers.heun` without churn: noise [N, ...], classes [N] -> samples, decoded.

    A step is traced once and looped over: torch.export would unroll Python's own loop, to
    2 steps - 1 copies of the network. Rounded as there: levels and strides are made in float64.
    """

    levels: Tensor
    strides: Tensor

    def __init__(self, denoise: Denoiser, levels: list[float], decode: nn.Module) -> None:
        super().__init__()
        self.denoise, self.decode = denoise, decode
        self.steps, self.start = len(levels) - 1, levels[0]
        strides = [b - a for a, b in zip(levels, levels[1:], strict=False)]
        for name, values in (("levels", levels), ("strides", strides)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64).float())

    def forward(self, noise: Tensor, *classes: Tensor) -> Tensor:
        from torch._higher_order_ops.while_loop import while_loop

        def slope(x: Tensor, level: Tensor) -> Tensor:
            return (x - self.denoise(x, level.expand(x.shape[0]), *classes)) / level

        def goes_on(i: Tensor, x: Tensor) -> Tensor:
            return (i < self.steps - 1).all()

        def step(i: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            level, stride = self.levels.index_select(0, i), self.strides.index_select(0, i)
            first = slope(x, level)
            second = slope(x + stride * first, self.levels.index_select(0, i + 1))
            return i + 1, x + stride * 0.5 * (first + second)

        x = noise * self.start
        if self.steps > 1:
            count = torch.zeros(1, dtype=torch.int64, device=noise.device)
            _, x = while_loop(goes_on, step, (count, x))
        # to sigma 0, where there is no slope to correct with
        return self.decode(x + self.strides[-1:] * slope(x, self.levels[-2:-1]))


class Pixels(nn.Module):
    """Latents in [-1, 1] -> uint8 of three channels, as `diffusion.encoders.RGBEncoder`."""

    def forward(self, x: Tensor) -> Tensor:
        images = (x.to(torch.float32) * 127.5 + 128).clip(0, 255).to(torch.uint8)
        return images.expand(-1, 3, -1, -1).contiguous()


class Raw(nn.Module):
    """Latents -> those of the VAE itself, as its decoder takes them."""

    bias: Tensor
    scale: Tensor

    def __init__(self, encoder: StabilityVAEEncoder) -> None:
        super().__init__()
        for name in ("bias", "scale"):
            self.register_buffer(name, getattr(encoder, name).view(1, -1, 1, 1).clone())

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.bias) / self.scale


def program(
    generator: EDM2 | Toy, word: str, steps: int, guide: EDM2 | Toy | None, weight: float
) -> Program:
    """`images` in so many steps of Heun's method, or the `denoiser`. Errors: UsageError for a guide
    that works on other images."""
    shape: tuple[int, ...]
    if isinstance(generator, EDM2):
        if guide is not None:
            assert isinstance(guide, EDM2)
            try:
                generator.check_guide(guide)
            except ValueError as error:
                raise UsageError(f"--guide: {error}") from None
        net, size = generator.net, generator.net.img_resolution
        main: nn.Module = Classes(net)
        weak: nn.Module | None = None if guide is None else Classes(guide.net)
        shape, levels, count = (net.img_channels, size, size), sigma_levels(steps), net.label_dim
    else:
        main = Points(generator.net)
        weak = None if guide is None else Points(guide.net)  # type: ignore[arg-type]
        shape, levels, count = (2,), sigma_levels(steps, sigma_max=SIGMA_MAX), 0
    denoise = Denoiser(main, weak, weight)
    about: dict[str, Any] = {"precision": "fp32"}
    if guide is not None:
        about["guide"] = {"kind": guide.kind, "content": guide.content, "guidance": weight}
    classes = {}
    if count:
        about["classes"] = generator.classes
        classes["classes"] = Value("number", (), f"0 to {count - 1}; -1: no class", count)
    if word == "denoiser":
        inputs = {
            "x": Value("normal", shape, "images in [-1, 1], or latents, with noise of sigma"),
            "sigma": Value("level", (), "standard deviation of the noise"),
        }
        output = Value("normal", shape, "the expected image without noise")
        about |= {"preprocessing": "preconditioning of EDM", "postprocessing": "none"}
        return Program(denoise, {**inputs, **classes}, output, about)
    decode, output = _decoding(generator, shape)
    about |= {
        "preprocessing": "none",
        "postprocessing": output.says,
        "sampler": {"name": "heun", "steps": steps, "levels": levels},
    }
    inputs = {"noise": Value("normal", shape, "standard normal numbers (torch.randn)")}
    return Program(Heun(denoise, levels, decode), {**inputs, **classes}, output, about)


def _decoding(generator: EDM2 | Toy, shape: tuple[int, ...]) -> tuple[nn.Module, Value]:
    if isinstance(generator, Toy):
        return nn.Identity(), Value("normal", shape, "points of the plane")
    encoder = generator.encoder
    if isinstance(encoder, StabilityVAEEncoder):
        says = (
            f"latents of the VAE {encoder.vae}, which is not in this file: its decoder makes of "
            "them pictures in [0, 1] (diffusers: AutoencoderKL.decode(output).sample)"
        )
        return Raw(encoder), Value("normal", shape, says)
    return Pixels(), Value("picture", (3, *shape[1:]), "RGB; grey as three channels")
