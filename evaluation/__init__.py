"""Statistics on images, samples and features; distances and networks come in as arguments.

`evaluation.knn.knn` and `evaluation.linear_probe.linear_probe` stay in modules of their own name.
"""

from evaluation.features import Features, extract, frozen, load_features, save_features
from evaluation.intervals import paired_images, paired_t
from evaluation.knn import knn_figures
from evaluation.linear_probe import l2_sweep
from evaluation.probes import augmented_probe, cross_validate, draw_episodes, few_shot, stable_lr
from evaluation.protocols import judge, knn_method, linear_method
from evaluation.splits import stratified_folds, stratified_slice

__all__ = [
    "Features",
    "augmented_probe",
    "cross_validate",
    "draw_episodes",
    "extract",
    "few_shot",
    "frozen",
    "judge",
    "knn_figures",
    "knn_method",
    "l2_sweep",
    "linear_method",
    "load_features",
    "paired_images",
    "paired_t",
    "save_features",
    "stable_lr",
    "stratified_folds",
    "stratified_slice",
]
