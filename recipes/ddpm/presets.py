"""Presets of train_ddpm.py; what each option means is in `recipes.ddpm.options`."""

from __future__ import annotations

from typing import Any

# Networks of 32 channels have as many groups: normalising takes away what is added to a channel, so
# that the time (and the class) has to scale and shift instead.
_NARROW: dict[str, Any] = {
    "channels": 32, "channel_mult": [1, 2, 2], "num_blocks": 1, "attn_factors": [4],
    "num_heads": 4, "scale_shift": True, "dropout": 0.0,
}  # fmt: skip
# Ho et al. 2020 (arXiv:2006.11239), appendix B; Nichol and Dhariwal 2021 (arXiv:2102.09672), app. A
_CIFAR10: dict[str, Any] = {
    "data": "cifar10", "cond": False, "channels": 128, "channel_mult": [1, 2, 2, 2], "bs": 128,
    "ema": 0.9999, "sampler": "ddpm", "sample_steps": 250, "snapshot_every": 10_000,
}  # fmt: skip
_MNIST: dict[str, Any] = {
    **_NARROW, "data": "mnist", "gray": True, "bs": 128, "duration": 1_280_000,
    "lr": 5e-4, "warmup": 200, "ema": 0.999, "class_dropout": 0.1, "snapshot_every": 2000,
    "num_workers": 0,
}  # fmt: skip
_LEARNED: dict[str, Any] = {
    "variance": "learned_range", "loss": "rescaled_mse", "schedule": "cosine",
}  # fmt: skip
_LAYOUT: dict[str, Any] = {
    "layout": "boxes", "cond": False, "layout_dropout": 0.1, "guidance": 2.0, "xflip": True,
}  # fmt: skip
# LayoutDiffuse (arXiv:2302.08908) trains on latents of pretrained networks; these on pixels.
# Its views of COCO are those of xflip.
_PIXELS: dict[str, Any] = {
    **_LAYOUT, "res": 64, "channels": 128, "channel_mult": [1, 2, 3, 4], "num_blocks": 2,
    "attn_factors": [4, 8], "channels_per_head": 64, "scale_shift": True, "layout_factors": [2, 4],
    "schedule": "cosine", "crop": "squash", "bs": 128, "duration": "32Mi", "snapshot_every": 5000,
}  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "_help": "embedded scenes, CPU, seconds; takes the options of every mode",
        "data": "scenes", "res": 8, "channels": 16, "channel_mult": [1, 2], "num_blocks": 1,
        "attn_factors": [2], "scale_shift": True, "timesteps": 20, "schedule": "cosine",
        "bs": 16, "duration": 160, "warmup": 2, "ema": 0.9, "dropout": 0.1, "class_dropout": 0.1,
        "layout_factors": [1], "sample_images": 4, "sample_steps": 4, "snapshot_every": 5,
        "save_every": 5, "log_every": 2, "n": 4, "wandb": "disabled", "num_workers": 0, "gpus": [],
    },
    "cpu-small": {
        "_help": "32 px, 1.5 M parameters, one's own pictures with or without classes: half an "
        "hour of two cores",
        **_NARROW, "res": 32, "bs": 64, "duration": 100_000, "lr": 5e-4, "warmup": 100,
        "ema": 0.998, "xflip": True, "class_dropout": 0.1, "sample_steps": 25,
        "snapshot_every": 400, "save_every": 250, "channels_last": True, "cache": "memory",
        "num_workers": 0,
    },
    "mnist": {"_help": "MNIST at 28 px in grey, 1.1 M parameters, by digit", **_MNIST},
    "mnist-ddim": {
        "_help": "the same as improved DDPM: learned variance, steps drawn by their loss",
        **_MNIST, **_LEARNED, "schedule_sampler": "loss-second-moment",
    },
    "cifar10": {
        "_help": "CIFAR-10 as DDPM (35.7 M parameters, 800 k steps)",
        **_CIFAR10, "num_blocks": 2, "attn_factors": [2], "dropout": 0.1, "xflip": True,
        "lr": 2e-4, "warmup": 5000, "duration": 102_400_000,
    },
    "cifar10-iddpm": {
        "_help": "CIFAR-10 as improved DDPM: L_hybrid, cosine, T = 4000 (500 k steps)",
        **_CIFAR10, **_LEARNED, "num_blocks": 3, "attn_factors": [2, 4], "num_heads": 4,
        "scale_shift": True, "dropout": 0.3, "timesteps": 4000, "time_input": "step1000",
        "lr": 1e-4, "warmup": 0, "grad_clip": 0.0, "duration": 64_000_000,
    },
    "scenes-layout": {
        "_help": "embedded scenes at 32 px from boxes",
        **_LAYOUT, **_NARROW, "data": "scenes", "res": 32,
        "layout_factors": [1, 2], "max_objects": 12, "bs": 64, "duration": 320_000, "lr": 5e-4,
        "warmup": 100, "ema": 0.998, "sample_steps": 25, "snapshot_every": 1000,
        "num_workers": 0, "xflip": False,
    },
    "coco-layout": {
        "_help": "COCO (with COCO-Stuff where it is there) at 64 px from boxes",
        **_PIXELS, "data": "coco",
    },
    "celebamask-layout": {
        "_help": "CelebAMask-HQ at 64 px from the class of every pixel",
        **_PIXELS, "data": "celebamask", "layout": "segmentation", "guidance": 1.0,
        "views": "published",
    },
    "vg-layout": {
        "_help": "Visual Genome at 64 px from boxes",
        **_PIXELS, "data": "vg", "max_objects": 10, "views": "published",
    },
}  # fmt: skip
