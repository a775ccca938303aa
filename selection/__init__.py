"""Online data selection: losses of a super-batch -> indices of the rows to train on."""

from selection.arrays import UnknownKeyword
from selection.jest import draw_spread, jointly_sample_batch, selection_logits
from selection.methods import METHODS, Method, select
from selection.picker import Picked, Picker
from selection.scores import Spread, entropy, perplexity, scaled, sigma_strata
from selection.sizes import chunk_sizes, reference_size, selection_size
from selection.switch import EarlyLateSwitch
from selection.uniform import random_baseline

__all__ = [
    "EarlyLateSwitch",
    "METHODS",
    "Method",
    "Picked",
    "Picker",
    "Spread",
    "UnknownKeyword",
    "chunk_sizes",
    "draw_spread",
    "entropy",
    "jointly_sample_batch",
    "perplexity",
    "random_baseline",
    "reference_size",
    "scaled",
    "select",
    "selection_logits",
    "selection_size",
    "sigma_strata",
]
