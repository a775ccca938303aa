"""Adversarial losses, of discriminators of one scale and of several."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.omnigan.discriminators import Prediction

MODES = ("hinge", "lsgan", "vanilla", "wgan")


class GANLoss:
    """How far predictions are from what real, or fake, pictures should get: a scalar.

    mode: lsgan, mean (p - target)^2; vanilla, binary cross entropy of logits; hinge; wgan.
    soft_shift: s is drawn uniformly from [0, soft_shift) once a call; targets of real pictures are
    1 - s, and of fake ones s if smooth_fake (hinge and wgan have no targets to soften). flip_prob:
    how often a call takes real for fake and the other way round. Both are the discriminator's own:
    a generator's loss is without them. Of several scales, the mean of each one's last map.
    Errors: ValueError.
    """

    def __init__(
        self,
        mode: str = "lsgan",
        soft_shift: float = 0.0,
        flip_prob: float = 0.0,
        smooth_fake: bool = True,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"gan {mode!r}: it is one of {', '.join(MODES)}")
        for name, value in (("soft_shift", soft_shift), ("flip_prob", flip_prob)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} {value}: it is between 0 and 1")
        if soft_shift and mode in ("hinge", "wgan"):
            raise ValueError(f"soft_shift {soft_shift}: {mode} has no targets; set it to 0")
        self.mode, self.soft_shift, self.flip_prob = mode, soft_shift, flip_prob
        self.smooth_fake = smooth_fake

    def __call__(
        self,
        prediction: Prediction,
        real: bool,
        *,
        discriminator: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The loss of predictions for pictures that should count as real, or not.

        discriminator: whose loss it is; a generator's has real=True. generator: where shift and
        flip are drawn (default: torch's own).
        """
        flip = shift = 0.0
        if self.flip_prob:
            flip = float(torch.rand((), generator=generator))
            real = not real if flip < self.flip_prob else real
        if self.soft_shift:
            shift = float(torch.rand((), generator=generator)) * self.soft_shift
        maps = last_maps(prediction)
        losses = [self._of(p.float(), real, shift, discriminator) for p in maps]
        return torch.stack(losses).mean()

    def _of(self, p: Tensor, real: bool, shift: float, discriminator: bool) -> Tensor:
        if self.mode == "wgan":
            return -p.mean() if real else (p - 1).mean()
        if self.mode == "hinge":
            if not discriminator:
                return -p.mean() if real else p.mean()
            return F.relu(1 - p).mean() if real else F.relu(1 + p).mean()
        target = torch.full_like(p, 1 - shift if real else shift * self.smooth_fake)
        if self.mode == "vanilla":
            return F.binary_cross_entropy_with_logits(p, target)
        return F.mse_loss(p, target)


def last_maps(prediction: Prediction) -> list[Tensor]:
    """The predictions of each scale."""
    return [prediction] if isinstance(prediction, Tensor) else [maps[-1] for maps in prediction]


def feature_matching(real: Prediction, fake: Prediction) -> Tensor:
    """Mean over scales of the sum over layers but the last of the mean |fake - real|; no gradient
    into the real ones. Source: Wang et al. 2018 (pix2pixHD), equation 4. Errors: ValueError for a
    discriminator of one scale, which gives no features."""
    if isinstance(real, Tensor) or isinstance(fake, Tensor):
        raise ValueError("feature matching needs a multi-scale discriminator (num_D above 1)")
    total = fake[0][-1].new_zeros((), dtype=torch.float32)
    for ours, theirs in zip(fake, real, strict=True):
        for a, b in zip(ours[:-1], theirs[:-1], strict=True):
            total = total + F.l1_loss(a.float(), b.detach().float())
    return total / len(fake)


def r1_penalty(D: nn.Module, real: Tensor) -> Tensor:
    """Mean over pictures of the squared norm of the gradient of D at real ones, by pixels.

    Source: Mescheder et al. 2018, equation 9. Differentiable twice.
    """
    real = real.detach().requires_grad_()
    return _gradients(D, real).square().sum((1, 2, 3)).mean()


def gradient_penalty(
    D: nn.Module, real: Tensor, fake: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Mean (|gradient| - 1)^2 of D between real and fake pictures; WGAN's counts 10 times.

    Source: Gulrajani et al. 2017, equation 3.
    """
    share = torch.rand((len(real), 1, 1, 1), generator=generator).to(real)
    between = (real.detach() * share + fake.detach() * (1 - share)).requires_grad_()
    return (_gradients(D, between).flatten(1).norm(dim=1) - 1).square().mean()


def _gradients(D: nn.Module, x: Tensor) -> Tensor:
    summed = torch.stack([p.float().sum() for p in last_maps(D(x))]).sum()
    return torch.autograd.grad(summed, x, create_graph=True)[0]


@torch.no_grad()
def clip_weights(modules: Sequence[nn.Module], limit: float = 0.01) -> None:
    """All parameters into [-limit, limit]: the first WGAN's way (Arjovsky et al. 2017)."""
    for module in modules:
        for parameter in module.parameters():
            parameter.clamp_(-limit, limit)
