"""Learning rates of EDM2: linear ramp-up, then decay with the inverse square root of the steps.

arXiv:2312.02696, equation 67. With online selection a step trains on `mini_batch` of `super_batch`
images, f = super_batch / mini_batch. A selecting step counts as f steps of a run without selection,
so that step e of a selecting run has the rate of step e f of the other.
"""

from __future__ import annotations

import math


def edm2_lr(
    nimg: float, batch: int, *, ref_lr: float, ref_batches: float, rampup_Mimg: float
) -> float:
    """Learning rate at `nimg` images in batches of `batch`.

    ref_lr: the peak. ref_batches: the step from which it decays; <= 0: no decay. rampup_Mimg:
    millions of images of the ramp from 0; <= 0: no ramp.
    """
    return ref_lr * _decay(nimg / batch, ref_batches) * _ramp(nimg, rampup_Mimg)


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
    """Learning rate at `nimg` trained images and `step` steps of a run with selection.

    selecting: whether steps select now. early: they did until change_step (change_nimg images),
    0 if that is still to come; late: they do since then. ref_lr, ref_batches, rampup_Mimg: as in
    `edm2_lr`, of the run without selection. ramp "reference" is the original's, which jumps by f or
    1 / f if the switch comes before the ramp has ended; "continuous" counts selecting steps as f in
    the ramp too, as in the decay; without a switch the two are the same.
    Errors: ValueError.
    """
    if ramp not in ("continuous", "reference"):
        raise ValueError(f"ramp {ramp!r} is neither continuous nor reference")
    if not 0 < mini_batch <= super_batch:
        raise ValueError(f"mini_batch {mini_batch} is not in 1 .. super_batch {super_batch}")
    if selecting and mini_batch == super_batch:
        raise ValueError(f"selecting {mini_batch} of {super_batch} images selects nothing")
    f = super_batch / mini_batch
    was = early and not selecting  # it selected until the change
    since = late and selecting  # it selects since the change

    def counted(total: float, until: float, worth: float) -> float:
        """`total` with what was selected multiplied by `worth`."""
        if was:
            return total + (worth - 1) * until
        if since:
            return worth * total - (worth - 1) * until
        return worth * total if selecting else total

    step_counted = counted(step, change_step, f)
    # A selecting step has 1 / f of the images and is worth f steps: f^2 for an image.
    images = counted(nimg, change_nimg, f * f)
    if ramp == "reference":
        images = counted(nimg, change_nimg if change_step else 0, f) * (f if selecting else 1)
    return ref_lr * _ramp(images, rampup_Mimg) * _decay(step_counted, ref_batches)


def _decay(step: float, ref_batches: float) -> float:
    return 1 / math.sqrt(max(step / ref_batches, 1)) if ref_batches > 0 else 1.0


def _ramp(nimg: float, rampup_Mimg: float) -> float:
    return min(nimg / (rampup_Mimg * 1e6), 1) if rampup_Mimg > 0 else 1.0
