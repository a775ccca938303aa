"""Checks of the golden vectors of augmentation operations. What a file holds decides what is
checked. Tolerance: 2e-5 absolute, 1e-4 where the hue is turned.
"""

from __future__ import annotations

import re

import torch

from data.views.ops import (
    blur,
    brightness_,
    contrast_,
    crop_bilinear,
    crop_resize,
    grayscale_,
    hue_,
    jitter_in_order_,
    jitter_masked_,
    saturation_,
)
from tests.golden.support import Check, Vectors, assert_close

CLOSE = dict(atol=2e-5, rtol=0)
HUE = dict(atol=1e-4, rtol=0)
LETTERS = "bcsh"  # numbers of the operations in data.views.ops.ORDERS
FACTORS = ("brightness", "contrast", "saturation", "hue")
ONE_BY_ONE = dict(zip(FACTORS, (brightness_, contrast_, saturation_, hue_), strict=True))


def check_aug_ops(v: Vectors) -> None:
    images = v["images"]
    x = images.to(torch.float32) / 255
    if "torchvision" in v:
        v.array("torchvision")  # the version that made them
    checked = 0
    for key in v.keys("out_*"):
        _check(v, key.removeprefix("out_"), key, images, x)
        checked += 1
    assert checked, f"{v.name}: nothing to check"


def _check(v: Vectors, what: str, key: str, images: torch.Tensor, x: torch.Tensor) -> None:
    if what in ONE_BY_ONE:
        close = HUE if what == "hue" else CLOSE
        assert_close(ONE_BY_ONE[what](x.clone(), v[what].float()), v[key], key, **close)
    elif what == "gray":
        out = grayscale_(x.clone())
        assert_close(out, v[key].expand_as(out), key, **CLOSE)
    elif what == "blur":
        assert_close(blur(x, v["sigma"].float(), int(v.number("kernel"))), v[key], key, **CLOSE)
    elif match := re.fullmatch(r"crop(\d+)_antialias", what):
        boxes, size = v["boxes_tlhw"].to(torch.int64), int(match[1])
        assert_close(crop_resize(images, boxes, size), v[key], key, **CLOSE)
        assert_close(crop_resize(x, boxes, size), v[key], f"{key} of floats", **CLOSE)
        kept = boxes[:, 2:].amax(1) <= size  # enlarged: there antialiasing does nothing
        bilinear = crop_bilinear(images[kept], boxes[kept], size)
        assert_close(bilinear, v[key][kept], f"{key}, bilinear", **CLOSE)
    elif set(what) <= set(LETTERS) and len(set(what)) == len(what) == 4:
        factors = torch.stack([v[name].float() for name in FACTORS], 1)
        order = tuple(LETTERS.index(letter) for letter in what)
        assert_close(jitter_in_order_(x.clone(), order, factors), v[key], key, **HUE)
        orders = torch.tensor(order).expand(len(x), 4)
        on = torch.ones(len(x), dtype=torch.bool)
        masked = jitter_masked_(x.clone(), orders, factors, on)
        assert_close(masked, v[key], f"{key}, masked", **HUE)
    else:
        raise AssertionError(f"{v.name}: no check for {key}")


FAMILIES: dict[str, Check] = {"aug_ops*": check_aug_ops}
