"""Networks, objectives and probes of SimCLR and ISICLE.

`models.knn.knn` and `models.linear_probe.linear_probe` stay in modules of their own name.
"""

from models.features import Features, extract, frozen, load_features, save_features
from models.intervals import paired_images, paired_t
from models.knn import knn_figures
from models.lab import lab_config, lab_optimizer, load_lab
from models.linear_probe import l2_sweep
from models.losses import DCL, DCLW, MultiPositive, NTXent
from models.norm import SyncBatchNorm, convert_sync_bn
from models.optim import LARC, LARS, lars_groups, scaled_lr, warmup_cosine
from models.probes import augmented_probe, cross_validate, draw_episodes, few_shot, stable_lr
from models.protocols import judge, knn_method, linear_method
from models.simclr import SimCLR, build_backbone, export_torchvision, two_views
from models.splits import stratified_folds, stratified_slice

__all__ = [
    "DCL",
    "DCLW",
    "Features",
    "LARC",
    "LARS",
    "MultiPositive",
    "NTXent",
    "SimCLR",
    "SyncBatchNorm",
    "augmented_probe",
    "build_backbone",
    "convert_sync_bn",
    "cross_validate",
    "draw_episodes",
    "export_torchvision",
    "extract",
    "few_shot",
    "frozen",
    "judge",
    "knn_figures",
    "knn_method",
    "l2_sweep",
    "lab_config",
    "lab_optimizer",
    "lars_groups",
    "linear_method",
    "load_features",
    "load_lab",
    "paired_images",
    "paired_t",
    "save_features",
    "scaled_lr",
    "stable_lr",
    "stratified_folds",
    "stratified_slice",
    "two_views",
    "warmup_cosine",
]
