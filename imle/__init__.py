"""Conditional and unconditional IMLE: CAM-Net, code search, loaders, losses, corruptions."""

from imle.adaptive import Adaptive
from imle.augment import KeyedFlip
from imle.codes import CodeGenerator
from imle.corruption import Corruption
from imle.generator import CAMNet
from imle.kkm import KorKMinusOne
from imle.loader import CIMLEDataLoader
from imle.losses import PixelLoss, ProjectedDistance, ResolutionLoss
from imle.mapping import mapped, parameter_groups, to_hierarchical
from imle.original import load_reference, reference_names
from imle.pool import PoolSearch, pixel_features
from imle.regression import to_learned
from imle.rejection import Rejection
from imle.sampling import draw_samples
from imle.unconditional import UnconditionalGenerator, default_channels

__all__ = [
    "Adaptive",
    "CAMNet",
    "CIMLEDataLoader",
    "CodeGenerator",
    "Corruption",
    "KeyedFlip",
    "KorKMinusOne",
    "PixelLoss",
    "PoolSearch",
    "ProjectedDistance",
    "Rejection",
    "ResolutionLoss",
    "UnconditionalGenerator",
    "default_channels",
    "draw_samples",
    "load_reference",
    "mapped",
    "reference_names",
    "parameter_groups",
    "pixel_features",
    "to_hierarchical",
    "to_learned",
]
