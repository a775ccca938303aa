"""Improved DDPM in the form of `diffusion.ddpm`: learned variance, the bound, resampled steps.

The classes are called DDIM as in LayoutDiffuse's code, where that means Nichol and Dhariwal's
"Improved Denoising Diffusion Probabilistic Models" (arXiv:2102.09672); the sampler of that name is
`diffusion.ddpm_samplers.ddim`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from diffusion.ddpm import DDPMBase, DDPMTraining
from diffusion.gaussian_loss import training_losses
from diffusion.schedule_sampler import UniformSampler
from diffusion.schedule_sampler import schedule_sampler as named_sampler


class DDIMBase(DDPMBase):
    """`DDPMBase` whose network says the variance too: denoise_fn makes [B, 2C, H, W].

    The variance of y_t -> y_t-1 lies between its two fixed choices, as the second C channels say.
    """

    variance_type = "learned_range"
    log_variance_floor = None


class DDIMTraining(DDIMBase, DDPMTraining):
    """`DDPMTraining` by the hybrid loss: squared error and, for the variance alone, the bound.

    schedule_sampler: how steps are drawn, "uniform", "loss-second-moment" or the sampler itself.
    Whoever trains calls `model.schedule_sampler.update(outputs["t"], outputs["loss_flat"])` after
    each step, and keeps its state in the checkpoint. loss_simple_weight and loss_elbo_weight are
    of the error and of T / 1000 times the bound. More arguments: `DDPMTraining`'s; loss_fn stays
    "mse" and learn_logvar off. Errors: ValueError.
    """

    def __init__(
        self,
        denoise_fn: nn.Module,
        *,
        schedule_sampler: str | UniformSampler = "uniform",
        **training: Any,
    ) -> None:
        if training.get("loss_fn", "mse") not in ("mse", "l2") or training.get("learn_logvar"):
            raise ValueError("the hybrid loss takes loss_fn mse and no learn_logvar")
        super().__init__(denoise_fn, **training)
        if isinstance(schedule_sampler, str):
            schedule_sampler = named_sampler(schedule_sampler, self.gaussian.T)
        if schedule_sampler.T != self.gaussian.T:
            raise ValueError(
                f"the schedule sampler is of {schedule_sampler.T} steps, the diffusion of "
                f"{self.gaussian.T}"
            )
        self.schedule_sampler = schedule_sampler

    def _steps(self, keys: Tensor) -> Tensor:
        return self.schedule_sampler.sample(keys)[0]

    def training_step(self, batch: Any, batch_idx: int = 0) -> dict[str, Tensor]:
        """As `DDPMTraining`'s, with "t" int64 [B] and "loss_flat" [B], the unweighted losses."""
        with self._one_batch():
            y_t, target, t, y_0, model_kwargs = self._processed(batch, "train")
            output = self(y_t, t, **model_kwargs)
        losses = training_losses(self.gaussian, output, y_0, y_t, t, target)
        flat = self.loss_simple_weight * losses["mse"]
        if "vb" in losses:
            flat = flat + (self.loss_elbo_weight * self.gaussian.T / 1000) * losses["vb"]
            self.log("train_loss_vlb", losses["vb"].mean())
        loss = (self.schedule_sampler.importance(t) * flat).mean()
        self.log("train_loss", loss)
        self.log("train_loss_simple", losses["mse"].mean())
        return {
            "loss": loss,
            **self._pictures(output, y_t, t, y_0),
            "t": t,
            "loss_flat": flat.detach(),
        }
