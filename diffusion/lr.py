"""Learning-rate schedules of EDM2: linear ramp-up, then decay with the inverse square root.

arXiv:2312.02696, equation 67. With online selection a step trains on `mini_batch` of `super_batch`
images; `selection_lr` then gives step e the rate that the baseline has at step
e * super_batch / mini_batch, so that equal numbers of trained images have equal rates.
"""

from __future__ import annotations

import math


def edm2_lr(
    nimg: float, batch: int, *, ref_lr: float, ref_batches: float, rampup_Mimg: float
) -> float:
    """Learning rate after `nimg` images in batches of `batch`.

    ref_lr: peak rate. ref_batches: steps after which it decays; <= 0: no decay. rampup_Mimg:
    millions of images of the ramp from 0; <= 0: none.
    """
    lr = ref_lr
    if ref_batches > 0:
        lr /= math.sqrt(max(nimg / (ref_batches * batch), 1))
    if rampup_Mimg > 0:
        lr *= min(nimg / (rampup_Mimg * 1e6), 1)
    return lr


def selection_lr(
    nimg: float,
    step: float,
    *,
    selecting: bool,
    early: bool,
    late: bool,
    mini_batch: int,
    super_batch: int,
    ref_lr: float,
    ref_batches: float,
    rampup_Mimg: float,
    change_nimg: float = 0,
    change_step: float = 0,
    ramp: str = "continuous",
) -> float:
    """Learning rate of a run with online selection. See the file."""
    if ramp not in ("continuous", "reference"):
        raise ValueError(f"ramp {ramp!r} is neither continuous nor reference")
    if super_batch < mini_batch:
        raise ValueError(f"super_batch {super_batch} is smaller than mini_batch {mini_batch}")
    if selecting and super_batch == mini_batch:
        raise ValueError(f"selecting {mini_batch} of {super_batch} images is no selection")
    f = super_batch / mini_batch
    batch = mini_batch if selecting else super_batch
    if change_step != 0:
        if early and not selecting:
            nimg += (f - 1) * change_nimg
            step += (f - 1) * change_step
        elif late and selecting:
            nimg -= (f - 1) / f * change_nimg
            step -= (f - 1) / f * change_step
    step *= super_batch / batch
    nimg *= super_batch / batch
    length = rampup_Mimg * 1e6 * batch / super_batch
    lr = ref_lr
    if rampup_Mimg > 0:
        progress = (
            nimg / length if ramp == "reference" else step * super_batch / (rampup_Mimg * 1e6)
        )
        lr *= min(progress, 1)
    if ref_batches > 0:
        lr /= math.sqrt(max(step / ref_batches, 1))
    return lr
