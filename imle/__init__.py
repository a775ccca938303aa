"""Conditional and unconditional IMLE: CAM-Net, code search, loaders, losses, corruptions."""

from imle.augment import KeyedFlip
from imle.codes import CodeGenerator
from imle.corruption import Corruption
from imle.generator import CAMNet, parameter_groups
from imle.kkm import KorKMinusOne
from imle.losses import ProjectedDistance, ResolutionLoss
from imle.reference import load_reference

__all__ = [
    "CAMNet",
    "CodeGenerator",
    "Corruption",
    "KeyedFlip",
    "KorKMinusOne",
    "ProjectedDistance",
    "ResolutionLoss",
    "load_reference",
    "parameter_groups",
]
