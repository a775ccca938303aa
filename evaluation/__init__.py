"""Statistics on images, samples and features; distances and networks come in as arguments.

`evaluation.knn.knn` and `evaluation.linear_probe.linear_probe` stay in modules of their own name.
"""

from evaluation.features import Features, extract, fingerprint, frozen, load_features, save_features
from evaluation.frechet import FeatureStats, Moments, frechet_distance, load_moments, save_moments
from evaluation.intervals import (
    mean_interval,
    mean_share_interval,
    paired_images,
    paired_t,
    proportion_interval,
)
from evaluation.linear_probe import l2_sweep
from evaluation.probes import augmented_probe, draw_episodes, few_shot, stable_lr
from evaluation.protocols import judge, knn_method, linear_method
from evaluation.splits import stratified_folds, stratified_slice

__all__ = [
    "FeatureStats",
    "Features",
    "Moments",
    "augmented_probe",
    "draw_episodes",
    "extract",
    "few_shot",
    "fingerprint",
    "frechet_distance",
    "frozen",
    "judge",
    "knn_method",
    "l2_sweep",
    "linear_method",
    "load_features",
    "load_moments",
    "mean_interval",
    "mean_share_interval",
    "paired_images",
    "paired_t",
    "proportion_interval",
    "save_features",
    "save_moments",
    "stable_lr",
    "stratified_folds",
    "stratified_slice",
]
