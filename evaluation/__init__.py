"""Statistics on images, samples and features; distances and networks come in as arguments.

`evaluation.knn.knn`, `evaluation.linear_probe.linear_probe` and
`evaluation.memorisation.memorisation` stay in modules of their own name.
"""

from evaluation.bootstrap import (
    frechet_groups,
    frechet_interval,
    frechet_paired,
    frechet_replicates,
)
from evaluation.classes import (
    classification,
    inception_score,
    inception_score_replicates,
    reorder_classes,
)
from evaluation.crops import box_crops
from evaluation.features import (
    Features,
    extract,
    fingerprint,
    frozen,
    gather_rows,
    load_features,
    save_features,
)
from evaluation.frechet import (
    FeatureStats,
    Moments,
    fd_ratio,
    frechet_distance,
    load_moments,
    save_moments,
)
from evaluation.intervals import (
    mean_interval,
    mean_share_interval,
    paired_images,
    paired_t,
    proportion_interval,
)
from evaluation.kernel_distance import kid, kid_blocks, kid_groups, kid_subsets
from evaluation.likelihood import fld, fld_replicates
from evaluation.linear_probe import l2_sweep
from evaluation.manifolds import prdc, prdc_replicates
from evaluation.modes import (
    cluster_centres,
    count_modes,
    mode_proportions,
    modes_replicates,
    nearest_centre,
)
from evaluation.probes import augmented_probe, draw_episodes, few_shot, stable_lr
from evaluation.protocols import judge, knn_method, linear_method
from evaluation.replicates import Replicates, interval, paired
from evaluation.splits import stratified_folds, stratified_slice
from evaluation.verdict import compare, seed_ranges

__all__ = [
    "FeatureStats",
    "Features",
    "Moments",
    "Replicates",
    "augmented_probe",
    "box_crops",
    "classification",
    "cluster_centres",
    "compare",
    "count_modes",
    "draw_episodes",
    "extract",
    "fd_ratio",
    "few_shot",
    "fingerprint",
    "fld",
    "fld_replicates",
    "frechet_distance",
    "frechet_groups",
    "frechet_interval",
    "frechet_paired",
    "frechet_replicates",
    "frozen",
    "gather_rows",
    "inception_score",
    "inception_score_replicates",
    "interval",
    "judge",
    "kid",
    "kid_blocks",
    "kid_groups",
    "kid_subsets",
    "knn_method",
    "l2_sweep",
    "linear_method",
    "load_features",
    "load_moments",
    "mean_interval",
    "mean_share_interval",
    "mode_proportions",
    "modes_replicates",
    "nearest_centre",
    "paired",
    "paired_images",
    "paired_t",
    "prdc",
    "prdc_replicates",
    "proportion_interval",
    "reorder_classes",
    "save_features",
    "save_moments",
    "seed_ranges",
    "stable_lr",
    "stratified_folds",
    "stratified_slice",
]
