"""Augmented views for contrastive learning: named recipes and three ways to make them.

    plan = recipe("cifar", color_s=0.5)
    views = FoldedViews(plan)                      # or ExactViews(plan)
    x0 = views(images, view_keys(seed, epoch, indices, 0))
    x1 = views(images, view_keys(seed, epoch, indices, 1))

per_sample      torchvision, one picture at a time: what benchmarks hold the others against
ExactViews      the same operations on a batch of uint8 pictures, in float32
FoldedViews     all colour operations in one affine map per picture; see there what that changes

What is drawn for a picture is a function of its key alone, so views do not depend on the batch,
the order, the workers, the ranks or the device.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data.views.ops import (
    GRAY,
    JITTERS,
    ORDERS,
    beside,
    blur,
    crop_bilinear,
    crop_resize,
    grayscale_,
    jitter_masked_,
)
from runtime.counter_rng import mix, words
from runtime.precision import full_fp32
from storage.errors import DataError

_TRIES = 10  # of RandomResizedCrop, before it takes the central crop
# Where in a key's random words its draws lie, and how many words there are
_AREA, _CORNER, _SWITCH, _ORDER, _FACTOR, _SIGMA, _WORDS = 0, 20, 22, 26, 27, 31, 32
# Values worked on at a time on a CPU, and pictures at least: few enough that some arrays of them
# stay in a core's cache, enough that calls cost little beside the work.
_BLOCK, _LEAST = 1 << 18, 16


class Recipe(NamedTuple):
    """What is done to a picture, in this order. Immutable; `_replace` makes another one.

    size: side of the view. scale, ratio: of RandomResizedCrop (area fraction, aspect). flip: chance
    of mirroring.
    jitter_p: chance of the colour jitter with `brightness` ... `hue` as torchvision's ColorJitter
    reads them (factors in [max(0, 1 - v), 1 + v], hue in [-v, v] turns). gray_p: chance of gray.
    blur_p, blur_kernel (odd), sigma: Gaussian blur. mean, std: a normalisation at the end, or None
    for views in [0, 1].
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter_p: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    gray_p: float = 0.0
    blur_p: float = 0.0
    blur_kernel: int = 0
    sigma: tuple[float, float] = (0.1, 2.0)
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Normalisation = tuple[tuple[float, float, float] | None, tuple[float, float, float] | None]
NORMALISATIONS: dict[str, Normalisation] = {
    "none": (None, None),
    "cifar": (CIFAR_MEAN, CIFAR_STD),
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
}


class _Named(NamedTuple):
    about: str
    size: int
    color_s: float
    scale: tuple[float, float] = (0.08, 1.0)
    gray_p: float = 0.2
    blur_p: float = 0.0
    blur_kernel: int | None = None  # None: a tenth of the size, made odd
    unreal: bool = True


RECIPES: dict[str, _Named] = {
    "cifar": _Named("the original SimCLR code's CIFAR recipe", 32, 0.5),
    "small": _Named("pictures of about 32 to 96 px: cifar at another size", 64, 0.5),
    "miniImagenet": _Named(
        "the original SimCLR code's first miniImagenet recipe: 23 taps of blur, always",
        128,
        0.5,
        (0.08, 1.0),
        0.2,
        1.0,
        23,
    ),
    "imagenet": _Named(
        "SimCLR's paper, crops as torchvision's: bilinear, 10 tries", 224, 1.0, blur_p=0.5
    ),
    "strong": _Named("crops from a fifth, less gray; CIFAR", 32, 0.5, (0.2, 1.0), 0.1),
    "real": _Named("crop and flip only: stays on the real manifold", 32, 0.5, unreal=False),
}
ALIASES = {"large": "imagenet", "paper": "imagenet", "mini": "miniImagenet", "crop+flip": "real"}


def odd_tenth(size: int) -> int:
    """Taps of the paper's blur: a tenth of the side, made odd (224 -> 23, 96 -> 9)."""
    return 2 * (size // 10 // 2) + 1


def recipe(
    name: str,
    *,
    crop_size: int | None = None,
    color_s: float | None = None,
    gaussian_blur: bool | float | None = None,
    unreal_augs: bool = True,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> Recipe:
    """A named recipe, with the options of the command lines; None: as the recipe has it.

    name: one of RECIPES or ALIASES. crop_size: side of the views. color_s: strength k of the
    colour jitter, brightness = contrast = saturation = .8 k and hue = .2 k, with p .8; 0: none.
    gaussian_blur: False none, True the recipe's chance (.5 where it has none), a number the chance.
    unreal_augs=False: crop and flip only. mean, std: normalisation; without, views are in [0, 1].
    DataError for what cannot be.
    """
    named = RECIPES.get(ALIASES.get(name, name))
    if named is None:
        raise DataError(f"no recipe {name!r}; there are {', '.join([*RECIPES, *ALIASES])}")
    size = named.size if crop_size is None else crop_size
    k = named.color_s if color_s is None else float(color_s)
    chance = named.blur_p if gaussian_blur is None else float(gaussian_blur)
    if gaussian_blur is True:
        chance = named.blur_p or 0.5
    plan = Recipe(size, named.scale, mean=mean, std=std)
    if unreal_augs and named.unreal:
        plan = plan._replace(
            jitter_p=0.8 if k else 0.0,
            brightness=0.8 * k,
            contrast=0.8 * k,
            saturation=0.8 * k,
            hue=0.2 * k,
            gray_p=named.gray_p,
            blur_p=chance,
            blur_kernel=(named.blur_kernel or odd_tenth(size)) if chance else 0,
        )
    return check_recipe(plan)


def own_options(name: str) -> tuple[float, bool]:
    """(color_s, gaussian_blur) that a recipe of RECIPES or ALIASES has itself."""
    named = RECIPES[ALIASES.get(name, name)]
    return named.color_s, named.blur_p > 0


def described(plan: Recipe) -> str:
    """What a recipe does, in a line."""
    p = plan
    parts = [f"views of {p.size} px: crop {p.scale[0]:g} to {p.scale[1]:g}, flip {p.flip:g}"]
    if p.jitter_p:
        strengths = "/".join(f"{x:g}" for x in (p.brightness, p.contrast, p.saturation, p.hue))
        parts.append(f"jitter {strengths} with p {p.jitter_p:g}")
    parts += [f"gray {p.gray_p:g}"] if p.gray_p else []
    parts += [f"blur of {p.blur_kernel} taps with p {p.blur_p:g}"] if p.blur_p else []
    return ", ".join(parts)


def check_recipe(plan: Recipe) -> Recipe:
    """`plan`, or DataError with the value that cannot be."""
    p = plan
    if isinstance(p.size, bool) or int(p.size) != p.size or p.size < 1:
        raise DataError(f"views of {p.size} px; give a positive whole number")
    if not 0 < p.scale[0] <= p.scale[1] <= 1 or not 0 < p.ratio[0] <= p.ratio[1]:
        raise DataError(f"crop scale {p.scale}, ratio {p.ratio}: 0 < low <= high (scale <= 1)")
    for what in ("flip", "jitter_p", "gray_p", "blur_p"):
        if not 0 <= getattr(p, what) <= 1:
            raise DataError(f"{what} {getattr(p, what)} is no chance; give 0 to 1")
    for what in ("brightness", "contrast", "saturation"):
        if not 0 <= getattr(p, what) < math.inf:
            raise DataError(f"{what} {getattr(p, what)} must be 0 or more")
    if not 0 <= p.hue <= 0.5:
        raise DataError(f"hue {p.hue:g} must lie in 0 to 0.5 (color_s at most 2.5)")
    if p.blur_p and p.blur_kernel == 1:
        raise DataError(
            f"a blur of 1 tap changes nothing: views of {p.size} px are too small for a tenth of "
            "their side; another crop_size, or gaussian_blur off"
        )
    if p.blur_p and not (p.blur_kernel % 2 == 1 and 0 < p.blur_kernel // 2 + 1 <= p.size):
        raise DataError(
            f"a blur of {p.blur_kernel} taps on views of {p.size} px: an odd number of taps, less "
            "than twice the size; another crop_size, or gaussian_blur off"
        )
    if p.blur_p and not 0 < p.sigma[0] <= p.sigma[1]:
        raise DataError(f"blur sigma {p.sigma} must be 0 < low <= high")
    if (p.mean is None) != (p.std is None) or (p.std is not None and min(p.std) <= 0):
        raise DataError(f"mean {p.mean} and std {p.std}: give both or neither, std above 0")
    return plan


# ------------------------------------------------------------------------------------ what is drawn


class Draws(NamedTuple):
    """Parameters of B views. boxes: int64 [B, 4] (top, left, height, width); flip, jitter, gray,
    blur: bool [B]; order: int64 [B], a number of ops.ORDERS; factors: float32 [B, 4]
    (brightness, contrast, saturation, hue); sigma: float32 [B].
    """

    boxes: Tensor
    flip: Tensor
    jitter: Tensor
    order: Tensor
    factors: Tensor
    gray: Tensor
    blur: Tensor
    sigma: Tensor

    def rows(self, index: Tensor | slice) -> Draws:
        """Some of the views."""
        return Draws(*(t[index] for t in self))

    def to(self, device: torch.device) -> Draws:
        """On another device; a copy to a CPU is waited for, since the host reads it at once."""
        return Draws(*(t.to(device, non_blocking=device.type == "cuda") for t in self))


def view_keys(seed: int, epoch: int, indices: Tensor, view: int) -> Tensor:
    """Keys int64 [B] of view number `view` of pictures `indices` (int64 [B]) in an epoch."""
    return mix(0x7669657773, seed, epoch, indices, view)


def draw(plan: Recipe, keys: Tensor, height: int, width: int) -> Draws:
    """Draw the parameters of one view for each key, pictures being height x width.

    keys: int64 [B], well mixed (`view_keys`). The distributions are torchvision's:
    RandomResizedCrop (ten tries, then the central crop), ColorJitter, GaussianBlur.
    """
    b, c, s, h = plan.brightness, plan.contrast, plan.saturation, plan.hue
    w = words(keys, _WORDS)
    u = (w >> 8).to(torch.float32).mul_(2.0**-24)  # [0, 1)
    # as numbers: a tensor of them would have to be copied to the device
    ranges = [(max(0.0, 1 - v), 1 + v) for v in (b, c, s)] + [(-h, h)]
    factors = torch.stack(
        [low + (high - low) * u[:, _FACTOR + k] for k, (low, high) in enumerate(ranges)], 1
    )
    chances = (plan.flip, plan.jitter_p, plan.gray_p, plan.blur_p)
    flip, jitter, gray, blurred = (u[:, _SWITCH + k] < p for k, p in enumerate(chances))
    order = (w[:, _ORDER] * len(ORDERS)) >> 32
    sigma = plan.sigma[0] + (plan.sigma[1] - plan.sigma[0]) * u[:, _SIGMA]
    boxes = _boxes(plan, u[:, _AREA:_CORNER], w[:, _CORNER:_SWITCH], height, width)
    return Draws(boxes, flip, jitter, order, factors, gray, blurred, sigma)


def _boxes(plan: Recipe, u: Tensor, corner: Tensor, height: int, width: int) -> Tensor:
    u = u.reshape(-1, _TRIES, 2).to(torch.float64)
    area = height * width * (plan.scale[0] + (plan.scale[1] - plan.scale[0]) * u[:, :, 0])
    low, high = math.log(plan.ratio[0]), math.log(plan.ratio[1])
    aspect = (low + (high - low) * u[:, :, 1]).exp()
    w = (area * aspect).sqrt().round().to(torch.int64)
    h = (area / aspect).sqrt().round().to(torch.int64)
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    found = fits.any(1)
    whole_w, whole_h = width, height
    if width / height < plan.ratio[0]:
        whole_h = round(width / plan.ratio[0])
    elif width / height > plan.ratio[1]:
        whole_w = round(height * plan.ratio[1])
    w = torch.where(found, w.gather(1, first)[:, 0], whole_w)
    h = torch.where(found, h.gather(1, first)[:, 0], whole_h)
    top = torch.where(found, (corner[:, 0] * (height - h + 1)) >> 32, (height - h) // 2)
    left = torch.where(found, (corner[:, 1] * (width - w + 1)) >> 32, (width - w) // 2)
    return torch.stack([top, left, h, w], 1)


# ------------------------------------------------------------------------------------ the oracle


def per_sample(plan: Recipe) -> Any:
    """torchvision's transform of the recipe: PIL picture (or uint8 tensor [3, H, W]) -> float32.

    The slow way, with torchvision's own draws from the global generator; `ExactViews` has the same
    distribution on float pictures. Needs torchvision.
    """
    from torchvision import transforms as T

    steps: list[Any] = [
        T.RandomResizedCrop(plan.size, scale=plan.scale, ratio=plan.ratio),
        T.RandomHorizontalFlip(plan.flip),
    ]
    if plan.jitter_p:
        jitter = T.ColorJitter(plan.brightness, plan.contrast, plan.saturation, plan.hue)
        steps.append(T.RandomApply([jitter], p=plan.jitter_p))
    if plan.gray_p:
        steps.append(T.RandomGrayscale(plan.gray_p))
    if plan.blur_p:
        blurred = T.GaussianBlur(plan.blur_kernel, plan.sigma)
        steps.append(T.RandomApply([blurred], p=plan.blur_p))
    steps.append(_to_float)
    if plan.mean is not None:
        steps.append(T.Normalize(plan.mean, plan.std))
    return T.Compose(steps)


def _to_float(picture: Any) -> Tensor:
    from torchvision.transforms import functional as F

    if isinstance(picture, Tensor):
        return F.convert_image_dtype(picture, torch.float32)
    return F.to_tensor(picture)


# ------------------------------------------------------------------------------------ batches


class _Views:
    """Common part: checks, draws, the output's layout."""

    def __init__(self, plan: Recipe, *, channels_last: bool = False) -> None:
        self.recipe = check_recipe(plan)
        self.channels_last = bool(channels_last)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """One view of each picture.

        images: uint8 [B, 3, H, W]; keys: int64 [B] on any device (`view_keys`). Returns float32
        [B, 3, r, r] on the images' device, in [0, 1] before the recipe's normalisation.
        """
        self._check(images)
        if keys.shape != (len(images),) or keys.dtype != torch.int64:
            raise DataError(
                f"keys must be int64 [{len(images)}], one a picture, got {keys.dtype} "
                f"{list(keys.shape)}"
            )
        return self.apply(images, draw(self.recipe, keys, *images.shape[-2:]))

    def _check(self, images: Tensor) -> None:
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3:
            raise DataError(
                f"pictures must be uint8 [B, 3, H, W], got {images.dtype} {list(images.shape)}"
            )

    def _empty(self, images: Tensor) -> Tensor:
        r = self.recipe.size
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return torch.empty(len(images), 3, r, r, device=images.device, memory_format=layout)

    def _block(self) -> int:
        """Pictures worked on at a time on a CPU."""
        return max(_LEAST, _BLOCK // (3 * self.recipe.size**2))

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """The views with parameters already drawn."""
        raise NotImplementedError

    def _normalise_(self, x: Tensor) -> Tensor:
        if self.recipe.mean is None or self.recipe.std is None:
            return x
        mean, std = (beside(x, v).view(1, 3, 1, 1) for v in (self.recipe.mean, self.recipe.std))
        return x.sub_(mean).div_(std)


class ExactViews(_Views):
    """torchvision's operations, each picture with its own draws.

    Given the same parameters it equals torchvision's functions on float32 pictures within 2e-5
    (1e-4 where the hue is turned). Against the PIL pipeline it lacks the rounding to 8 bits after
    each operation. On a CPU pictures are sorted by what is to be done to them and worked on in
    blocks that fit the cache; on a GPU nothing waits for the device.
    """

    @full_fp32()  # crops are products of matrices: in TF32 they would err by 5e-4
    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """The views with parameters already drawn: float32 [B, 3, r, r]."""
        self._check(images)
        out = self._empty(images)
        draws = draws.to(images.device)
        if images.is_cuda:
            return out.copy_(self._on_device(images, draws))
        order, rows = torch.where(draws.jitter, draws.order, len(ORDERS)).sort(stable=True)
        draws, block = draws.rows(rows), self._block()
        for start in range(0, len(images), block):
            part = slice(start, start + block)
            d = draws.rows(part)
            x = crop_resize(images[rows[part]], d.boxes, self.recipe.size, d.flip)
            if self.recipe.jitter_p:
                _jitter_sorted_(x, order[part], d.factors)
            if self.recipe.gray_p:
                chosen = d.gray.nonzero()[:, 0]
                x[chosen] = grayscale_(x[chosen])
            if self.recipe.blur_p:
                chosen = d.blur.nonzero()[:, 0]
                x[chosen] = blur(x[chosen], d.sigma[chosen], self.recipe.blur_kernel)
            out[rows[part]] = self._normalise_(x)
        return out

    def _on_device(self, images: Tensor, d: Draws) -> Tensor:
        plan = self.recipe
        x = crop_resize(images, d.boxes, plan.size, d.flip)
        if plan.jitter_p:
            x = jitter_masked_(x, _orders(d.order), d.factors, d.jitter)
        if plan.gray_p:
            x = torch.where(d.gray.view(-1, 1, 1, 1), grayscale_(x.clone()), x)
        if plan.blur_p:
            x = torch.where(d.blur.view(-1, 1, 1, 1), blur(x, d.sigma, plan.blur_kernel), x)
        return self._normalise_(x)


def _orders(number: Tensor) -> Tensor:
    """int64 [B, 4], the operation at each position, of numbers of ORDERS; nothing is copied over.

    In lexicographic order the k-th operation is a digit of the number in factorial base, counted
    among the operations not yet used.
    """
    left = torch.arange(4, device=number.device).expand(len(number), 4)
    chosen = []
    for count, below in ((4, 6), (3, 2), (2, 1), (1, 1)):
        digit = (number // below) % count
        chosen.append(left.gather(1, digit[:, None]))
        kept = torch.arange(count - 1, device=number.device)
        left = left.gather(1, kept + (kept >= digit[:, None]))
    return torch.cat(chosen, 1)


def _jitter_sorted_(x: Tensor, order_numbers: Tensor, factors: Tensor) -> Tensor:
    """Colour jitter of pictures sorted by the number of their order (len(ORDERS): none).

    At each position neighbours with the same operation are done together.
    """
    found, counts = order_numbers.unique_consecutive(return_counts=True)
    stops = counts.cumsum(0).tolist()
    orders = [ORDERS[k] if k < len(ORDERS) else None for k in found.tolist()]
    for position in range(4):
        start = 0
        for group, (order, stop) in enumerate(zip(orders, stops, strict=True)):
            if order is None:
                break  # the last group
            op = order[position]
            after = orders[group + 1] if group + 1 < len(orders) else None
            if after is None or after[position] != op:
                JITTERS[op](x[start:stop], factors[start:stop, op])
                start = stop
    return x


class FoldedViews(_Views):
    """The recipe with all colour operations in one affine map of RGB per picture.

    The draws, their distribution and the result of crop, flip, gray and blur are those of
    ExactViews for the same keys. What differs:
    - the hue is turned by a rotation about the gray axis of RGB, not around the hexcone of HSV
      (saturated colours come out duller or brighter; grays stay in both);
    - values are clipped to [0, 1] once, at the end, not after each operation, and contrast takes
      the mean luma of unclipped values.
    So views come out brighter and more often saturated: at color_s .5 their mean is 0.2 to 0.4 %
    higher and 1.3 to 1.6 times as many values are at 0 or 1, at color_s 1 up to 2 % and up to 2.4
    times (`python -m benchmarks.augment`; by the pictures). Training was not seen to notice
    (docs/studies/simclr.md). The fold stays as it is for the runs that were begun with it.
    Without colour jitter it equals ExactViews to float32 rounding (1e-4 for pictures not larger
    than the view, which are sampled by `grid_sample`).
    tests/data/views/test_recipes.py holds the mean absolute difference below 0.03 (color_s .5) and
    0.06 (color_s 1) on smooth pictures.
    """

    @full_fp32()
    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """The views with parameters already drawn: float32 [B, 3, r, r]."""
        self._check(images)
        out = self._empty(images)
        d = draws.to(images.device)
        colour = None
        if self.recipe.jitter_p or self.recipe.gray_p:
            # x -> own x + other mean(x): a contrast refers to the mean, all else to the pixel
            colour = _fold(d, bool(self.recipe.jitter_p))
        block = len(images) if images.is_cuda else self._block()
        for start in range(0, len(images), max(block, 1)):
            part = slice(start, start + block)
            x = self._geometry(images[part], d.rows(part))
            if self.recipe.blur_p:
                x = self._blurred(x, draws.blur[part], d.sigma[part])
            if colour is not None:
                own, other = colour
                x = _affine(x, own[part], other[part])
            out[part] = self._normalise_(x.clamp_(0, 1))
        return out

    def _geometry(self, images: Tensor, d: Draws) -> Tensor:
        plan = self.recipe
        # known without asking the device: nothing is reduced, so there is nothing to antialias
        enlarges = max(images.shape[-2:]) <= plan.size
        crop = crop_bilinear if enlarges else crop_resize
        return crop(images, d.boxes, plan.size, d.flip)

    def _blurred(self, x: Tensor, asked: Tensor, sigma: Tensor) -> Tensor:
        """x with the pictures blurred for which it is `asked`: bool [B], where it was drawn."""
        if asked.is_cuda and x.is_cuda:  # nothing waits for which ones: all are, some are taken
            return torch.where(asked.view(-1, 1, 1, 1), blur(x, sigma, self.recipe.blur_kernel), x)
        chosen = asked.nonzero()[:, 0].to(x.device, non_blocking=x.is_cuda)
        if len(chosen):
            x[chosen] = blur(x[chosen], sigma[chosen], self.recipe.blur_kernel)
        return x


def _fold(d: Draws, jitters: bool) -> tuple[Tensor, Tensor]:
    """Matrices [B, 3, 3] of all colour operations: x -> own x + other m, m the mean colour of x.

    Every operation is affine in the pixel and the mean of the picture it meets: f x (brightness),
    f x + (1 - f) L x (saturation, gray for f = 0), f x + (1 - f) L mean (contrast), R x (hue), with
    L the luma in every channel. The mean the k-th operation meets is (own + other) m.
    """
    device, n = d.factors.device, len(d.factors)
    eye = torch.eye(3, device=device)
    luma = beside(d.factors, GRAY).expand(3, 3)
    own, other = eye.repeat(n, 1, 1), torch.zeros(n, 3, 3, device=device)
    if jitters:
        angle = (2 * math.pi) * d.factors[:, 3]
        cross = torch.stack([eye.roll(1, 0) - eye.roll(-1, 0)]) / math.sqrt(3)
        mean = torch.full((1, 3, 3), 1 / 3, device=device)
        cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
        turn = cos * eye + sin * cross + (1 - cos) * mean  # Rodrigues' formula
        for op in _orders(d.order).unbind(1):
            f = d.factors.gather(1, op[:, None]).view(-1, 1, 1)
            op = torch.where(d.jitter, op, -1).view(-1, 1, 1)
            blend = f * eye
            gray = (1 - f) * luma
            step = torch.where(op == 3, turn, blend)
            step = torch.where(op == 2, blend + gray, step)
            step = torch.where(op == -1, eye, step)
            added = torch.where(op == 1, gray @ (own + other), 0)
            own, other = step @ own, step @ other + added
    to_gray = torch.where(d.gray.view(-1, 1, 1), luma, eye)
    return to_gray @ own, to_gray @ other


def _affine(x: Tensor, own: Tensor, other: Tensor) -> Tensor:
    pixels = x.view(len(x), 3, -1)
    offset = other @ pixels.mean(2, keepdim=True)
    return torch.baddbmm(offset, own, pixels).view_as(x)
