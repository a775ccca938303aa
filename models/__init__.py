"""Networks, objectives and optimizers of SimCLR and ISICLE."""

from models.losses import DCL, DCLW, MultiPositive, NTXent
from models.norm import SyncBatchNorm, convert_sync_bn
from models.optim import LARC, LARS, lars_groups, scaled_lr, warmup_cosine
from models.original import load_original, original_config, original_optimizer
from models.simclr import SimCLR, build_backbone, export_torchvision, two_views

__all__ = [
    "DCL",
    "DCLW",
    "LARC",
    "LARS",
    "MultiPositive",
    "NTXent",
    "SimCLR",
    "SyncBatchNorm",
    "build_backbone",
    "convert_sync_bn",
    "export_torchvision",
    "lars_groups",
    "load_original",
    "original_config",
    "original_optimizer",
    "scaled_lr",
    "two_views",
    "warmup_cosine",
]
