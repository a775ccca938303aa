"""Networks of kind ddpm as programs: the predicted clean image at a step, and DDIM's method."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from diffusion.beside import gray, lowres, one_hot
from diffusion.encoders import RGBEncoder, StabilityVAEEncoder
from diffusion.gaussian import Gaussian
from diffusion.respace import timesteps_of
from generators.ddpm import DDPM
from models.ddpm import Layout, UNet
from recipes.convert.program import Program, Value
from recipes.convert.programs_edm2 import Pixels
from storage.errors import UsageError

STEPS = 50
OBJECTS = 8  # boxes of a picture, where the file does not say
MOST_OBJECTS = 4096  # that a run can be asked for


class Given(NamedTuple):
    """What a network is given beside noise, in the order of a program's inputs.

    names: of "y", "concat", and "boxes", "objects" or "map" of a layout. beside: what becomes of
    the input of "concat", once for all steps.
    """

    names: tuple[str, ...]
    beside: Callable[[Tensor], Tensor]

    def prepared(self, given: Sequence[Tensor]) -> list[Tensor]:
        """The inputs as `words` takes them."""
        pairs = zip(self.names, given, strict=True)
        return [self.beside(x) if name == "concat" else x for name, x in pairs]

    def words(self, given: Sequence[Tensor]) -> dict[str, Any]:
        """The network's keywords."""
        words: dict[str, Any] = dict(zip(self.names, given, strict=True))
        if "boxes" in words:
            words["layout"] = Layout(words.pop("boxes"), words.pop("objects"))
        elif "map" in words:
            segmentation = words.pop("map")
            none = segmentation.flatten(1)[:, :0]  # no instances
            boxes = none[..., None].expand(-1, -1, 4).float()
            words["layout"] = Layout(boxes, none, None, segmentation)
        return words


class Clean(nn.Module):
    """x0(x, step, ...): x [N, C, R, R], step int64 [N], then what `Given` names, as classes int64
    [N] (-1: no class) -> [N, C, R, R]. Whatever the network predicts, x0 is linear in it and x."""

    times: Tensor
    of_x: Tensor
    of_made: Tensor

    def __init__(self, net: nn.Module, gaussian: Gaussian, channels: int, given: Given) -> None:
        super().__init__()
        self.net, self.channels, self.given = net, channels, given
        kept, parts = torch.arange(gaussian.T), (1, 2 if gaussian.learned else 1)
        one, none = torch.ones(gaussian.T, 1, dtype=torch.float64), torch.zeros(gaussian.T, 1)
        self.register_buffer("times", gaussian.model_time(kept, one))
        of_x = gaussian.x0_of(none.double().repeat(parts), one, kept)
        of_made = gaussian.x0_of(one.repeat(parts), none.double(), kept)
        for name, value in (("of_x", of_x), ("of_made", of_made)):
            self.register_buffer(name, value.float().view(-1, 1, 1, 1))

    def forward(self, x: Tensor, step: Tensor, *given: Tensor) -> Tensor:
        return self.x0(x, step, *self.given.prepared(given))

    def x0(self, x: Tensor, step: Tensor, *given: Tensor) -> Tensor:
        """The same of what is prepared."""
        made = self.net(x, self.times[step], **self.given.words(given))[:, : self.channels]
        return cast(Tensor, self.of_x[step] * x + self.of_made[step] * made)


class DDIM(nn.Module):
    """`diffusion.ddpm_samplers.ddim`, eta 0: noise [N, ...], what `Given` names -> samples,
    decoded.

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

    def forward(self, noise: Tensor, *given: Tensor) -> Tensor:
        from torch._higher_order_ops.while_loop import while_loop

        prepared = self.clean.given.prepared(given)

        def goes_on(i: Tensor, x: Tensor) -> Tensor:
            return (i > 0).all()

        def step(i: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            below = i - 1  # of the tables of `clean`, which lack the level without noise
            x0 = self.clean.x0(x, below.expand(x.shape[0]), *prepared)
            x0 = x0.clamp(-1, 1) if self.clip else x0
            signal, spread = self.signals.index_select(0, i), self.noises.index_select(0, i)
            eps = (x - signal * x0) / spread
            signal, spread = self.signals.index_select(0, below), self.noises.index_select(0, below)
            return below, signal * x0 + spread * eps

        count = torch.full((1,), self.steps, dtype=torch.int64, device=noise.device)
        _, x = while_loop(goes_on, step, (count, noise.clone()))
        return cast(Tensor, self.decode(x))


def program(generator: DDPM, word: str, steps: int) -> Program:
    """`images` in so many steps of DDIM, or the `denoiser`. Errors: UsageError for what only
    denoises, or for pictures that cannot be made as small as the network wants them."""
    gaussian, size, channels = generator.gaussian, generator.side, generator.channels
    shape = (channels, size, size)
    about: dict[str, Any] = {"precision": "fp32"}
    given, conditions = _given(generator, about)
    net = generator.net
    if isinstance(net, UNet):
        net = copy.copy(net)
        net.layout_form = "closed"  # which does not look at values
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
        made = Clean(net, gaussian, channels, given)
        return Program(made, {**inputs, **conditions}, output, about)
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
        Clean(net, gaussian, channels, given), gaussian, generator.clip == "unit", Pixels()
    )
    return Program(made_of, {**inputs, **conditions}, output, about)


def _given(generator: DDPM, about: dict[str, Any]) -> tuple[Given, dict[str, Value]]:
    """What the network takes beside noise, and as inputs; their names go into `about`."""
    side, names, inputs = generator.resolution, [], {}
    if generator.by_class:
        count = len(generator.classes)
        about["classes"] = generator.classes
        names.append("y")
        inputs["classes"] = Value("number", (), f"0 to {count - 1}; -1: no class", count)
    beside: Callable[[Tensor], Tensor] = nn.Identity()
    if generator.concat:
        kind = about["beside"] = generator.concat["kind"]
        names.append("concat")
        if kind == "segmentation":
            count = len(generator.concat["classes"])
            about["segments"] = list(generator.concat["classes"])
            beside = partial(one_hot, classes=count, side=generator.side)
            says = f"class of each pixel, 0 to {count - 1}; 255: none"
            inputs["segments"] = Value("number", (side, side), says, count)
        else:
            factor = 1 if kind == "gray" else generator.concat["factor"]
            if side % factor:
                raise UsageError(f"pictures of {side} x {side} become not {factor} times smaller")
            beside = _grey if kind == "gray" else partial(_smaller, factor=factor)
            becomes = "made grey" if kind == "gray" else f"made {factor} times smaller"
            says = f"RGB, which is {becomes} and given beside the noised image"
            inputs["pictures"] = Value("picture", (3, side, side), says)
    if generator.layout != "none":
        count = len(generator.objects)
        about["objects"] = generator.objects
        if generator.layout == "segmentation":
            names.append("map")
            says = f"class of each pixel, 0 to {count - 1}; 255: none"
            inputs["layout"] = Value("number", (side, side), says, count)
        else:
            most = _most_objects(generator)
            names += ["boxes", "objects"]
            says = "x_min, y_min, width, height in shares of the sides"
            inputs["boxes"] = Value("unit", (most, 4), says)
            says = f"class of each box, 0 to {count - 1}; -1: no box"
            inputs["objects"] = Value("number", (most,), says, count)
    return Given(tuple(names), beside), inputs


def _most_objects(generator: DDPM) -> int:
    """How many boxes a picture of the training had at most."""
    args = generator.snapshot.provenance.get("args")
    found = args.get("max_objects") if isinstance(args, dict) else None
    return found if isinstance(found, int) and 0 < found <= MOST_OBJECTS else OBJECTS


def _grey(pictures: Tensor) -> Tensor:
    return gray(RGBEncoder().encode_latents(pictures))


def _smaller(pictures: Tensor, factor: int) -> Tensor:
    return lowres(RGBEncoder().encode_latents(pictures), factor)
