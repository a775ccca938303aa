"""Diffusion: EDM2 network, loss and schedules, samplers with guidance, encoders, post-hoc EMA;
the maths of DDPM."""

import storage.environment  # noqa: F401  (says what to do where torch is missing)

from diffusion.ddpm import DDPMBase, DDPMTraining
from diffusion.edm2 import Block, Precond, UNet
from diffusion.edm2_loss import EDM2Loss, loss_per_sigma_bin, per_pixel_loss
from diffusion.gaussian import Gaussian
from diffusion.improved import DDIMBase, DDIMTraining
from diffusion.lr import edm2_lr, selection_lr
from diffusion.mp import frozen_weights, normalize_weights, set_forced_weight_norm

__all__ = [
    "Block",
    "DDIMBase",
    "DDIMTraining",
    "DDPMBase",
    "DDPMTraining",
    "EDM2Loss",
    "Gaussian",
    "Precond",
    "UNet",
    "edm2_lr",
    "frozen_weights",
    "loss_per_sigma_bin",
    "normalize_weights",
    "per_pixel_loss",
    "selection_lr",
    "set_forced_weight_norm",
]
