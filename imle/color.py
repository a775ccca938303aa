"""sRGB <-> CIE XYZ <-> CIE LAB (D65, 2 degrees) as differentiable tensor functions.

Constants and thresholds are those of scikit-image, which both originals follow (agreement 4e-5 in
LAB units). Channels are dim 1 of `[B, 3, H, W]`; RGB in [0, 1]; LAB with L in [0, 100] and a, b in
about [-127, 127]; "normalised" LAB is L / 100, a / 127, b / 127.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

LabRange = Literal["correct", "reference"]

_RGB_TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_XYZ_TO_RGB = (
    (3.24048134, -1.53715152, -0.49853633),
    (-0.96925495, 1.87599, 0.04155593),
    (0.05564664, -0.20404134, 1.05731107),
)
_WHITE = (0.95047, 1.0, 1.08883)


def _mix(x: Tensor, matrix: tuple[tuple[float, float, float], ...]) -> Tensor:
    c0, c1, c2 = x.unbind(1)
    return torch.stack([r[0] * c0 + r[1] * c1 + r[2] * c2 for r in matrix], 1)


def rgb_to_xyz(rgb: Tensor) -> Tensor:
    """sRGB `[B, 3, H, W]` in [0, 1] -> XYZ."""
    # The untaken branch of each `where` gets a safe base: 0 ** 2.4 has a gradient, negatives have
    # not
    curved = ((rgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    return _mix(torch.where(rgb > 0.04045, curved, rgb / 12.92), _RGB_TO_XYZ)


def xyz_to_rgb(xyz: Tensor) -> Tensor:
    """XYZ -> sRGB, linear light clamped below at 0 and not above (so values may exceed 1)."""
    linear = _mix(xyz, _XYZ_TO_RGB).clamp(min=0)
    # 1e-12 keeps the gradient of the power finite at 0
    curved = 1.055 * (linear + 1e-12) ** (1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, curved, linear * 12.92)


def xyz_to_lab(xyz: Tensor) -> Tensor:
    """XYZ -> LAB, L in [0, 100]."""
    t = torch.stack([c / w for c, w in zip(xyz.unbind(1), _WHITE, strict=True)], 1)
    f = torch.where(t > 0.008856, t.clamp(min=0.008856) ** (1 / 3), 7.787 * t + 16 / 116)
    fx, fy, fz = f.unbind(1)
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], 1)


def lab_to_xyz(lab: Tensor) -> Tensor:
    """LAB -> XYZ; the z term is clamped at 0 before cubing, as in scikit-image."""
    light, a, b = lab.unbind(1)
    fy = (light + 16) / 116
    f = torch.stack([a / 500 + fy, fy, (fy - b / 200).clamp(min=0)], 1)
    t = torch.where(f > 0.2068966, f**3, (f - 16 / 116) / 7.787)
    return torch.stack([c * w for c, w in zip(t.unbind(1), _WHITE, strict=True)], 1)


def _scale(x: Tensor, factors: tuple[float, float, float]) -> Tensor:
    # Python scalars, not a tensor of factors: that would be copied to the device, with a sync
    return torch.stack([c * f for c, f in zip(x.unbind(1), factors, strict=True)], 1)


def rgb_to_lab(rgb: Tensor, *, lab_range: LabRange = "correct") -> Tensor:
    """sRGB in [0, 1] -> normalised LAB (L / 100, a / 127, b / 127).

    lab_range "reference" divides b by 127 once more, as the CIMLE refactoring did (its weights were
    trained with that input).
    """
    b_unit = 127.0 if lab_range == "correct" else 127.0 * 127.0
    return _scale(xyz_to_lab(rgb_to_xyz(rgb)), (1 / 100.0, 1 / 127.0, 1 / b_unit))


def lab_to_rgb(lab: Tensor, *, convention: Literal["plain", "albl"] = "plain") -> Tensor:
    """Normalised LAB -> sRGB, not clamped above 1.

    convention "albl" is the original CAM-Net's: L clamped to >= 0.01 and a, b divided by it first.
    """
    if convention == "albl":
        light = lab[:, :1].clamp(min=0.01)
        lab = torch.cat([light, lab[:, 1:] / light], 1)
    return xyz_to_rgb(lab_to_xyz(_scale(lab, (100.0, 127.0, 127.0))))
