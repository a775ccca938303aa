"""Networks and objectives of SimCLR and ISICLE."""

from models.lab import lab_config, load_lab
from models.norm import SyncBatchNorm, convert_sync_bn
from models.simclr import SimCLR, build_backbone, export_torchvision, two_views

__all__ = [
    "SimCLR",
    "SyncBatchNorm",
    "build_backbone",
    "convert_sync_bn",
    "export_torchvision",
    "lab_config",
    "load_lab",
    "two_views",
]
