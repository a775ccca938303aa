"""Views that are not cut from the picture itself: where contrastive learning meets a generator.

A view source is a callable `source(ids, draw) -> uint8 [B, 3, s, s]`: ids int64 [B] are rows of the
training set, draw is a number or int64 [B]. While its sampler's network stays as it is, it is a
function of (its settings, id, draw), so resuming, ranks and caches need nothing: draw j drawn
online is view j of a cache, to the bit, because every source rounds to 8 bits. What draws the
images is a `Sampler`; this file knows no generator.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.counter_rng import mix, uniform

MODES = ("real-real", "real-synth", "synth-synth", "mixed", "multi")
_MASK_TAG, _PICK_TAG = 0x6D61736B, 0x7069636B  # "mask", "pick"
# A prime above 2^32: further tries of a draw meet no other draw's number, nor, modulo any k that
# fits a disk, the same view of a cache again.
_RETRY = (1 << 32) + 15

ViewSource = Callable[[Tensor, "Tensor | int"], Tensor]


class Sampler(Protocol):
    """An image-conditioned generator.

    input_size: side of its inputs; image_size: side of what it computes; size: side of the images
    that `sample` makes of that.
    """

    size: int
    image_size: int
    input_size: int

    def sample(self, inputs: Tensor, ids: Tensor, draw: Tensor) -> Tensor:
        """Images float [B, 3, size, size], nominally in [0, 1], of inputs float
        [B, 3, input_size, input_size] in [0, 1]; a function of (ids, draw) int64 [B] row by row.
        """
        ...

    def corrupt(self, inputs: Tensor, ids: Tensor) -> Tensor:
        """What the generator is shown of inputs (shapes as above): a function of ids alone."""
        ...

    def update(self, net: nn.Module) -> None:
        """Draw from the weights that a network of the same kind has now."""
        ...


# ------------------------------------------------------------------------------------------ sources


class GeneratedViews:
    """Images of a sampler.

    inputs: uint8 [N, 3, input_size, input_size], the pictures small, where views are to be made.
    keys: int64 [N], the numbers that pictures are known by to the random draws (default: their
    rows), so that a part of a set gets the views it has in the whole set. rows: images computed at
    a time, always exactly so many (the last ones are made up by repetition): the arithmetic of a
    row may depend on how many there are, never on which. Equal views need equal `rows`.
    """

    def __init__(
        self, inputs: Tensor, sampler: Sampler, *, keys: Tensor | None = None, rows: int = 64
    ) -> None:
        _check_pictures(inputs, sampler.input_size)
        if rows < 1:
            raise ValueError(f"rows must be at least 1, got {rows}")
        self.inputs, self.sampler, self.rows = inputs, sampler, rows
        self.keys, self.size = _check_keys(keys, inputs), sampler.size

    @torch.no_grad()
    def __call__(self, ids: Tensor, draw: Tensor | int) -> Tensor:
        """Views uint8 [B, 3, size, size] of rows ids int64 [B]; draw int64 [B] or one number."""
        ids = ids.to(self.inputs.device)
        draw = draw_numbers(draw, ids)
        out = torch.empty(len(ids), 3, self.size, self.size, dtype=torch.uint8, device=ids.device)
        for start in range(0, len(ids), self.rows):
            part = slice(start, start + self.rows)
            out[part] = self._chunk(ids[part], draw[part])
        return out

    def _chunk(self, ids: Tensor, draw: Tensor) -> Tensor:
        count = len(ids)
        if count < self.rows:
            again = torch.arange(self.rows, device=ids.device) % count
            ids, draw = ids[again], draw[again]
        keys = self.keys[ids]
        shown = self.sampler.corrupt(self.inputs[ids].float().div_(255), keys)
        return to_uint8(self.sampler.sample(shown, keys, draw)[:count])


class UpsampledViews:
    """The control without a generator: what it would be shown, enlarged. The draw changes nothing.

    inputs, keys: as in GeneratedViews. corrupt: as in Sampler, None to show inputs as they are.
    """

    def __init__(
        self,
        inputs: Tensor,
        size: int,
        *,
        corrupt: Callable[[Tensor, Tensor], Tensor] | None = None,
        keys: Tensor | None = None,
    ) -> None:
        _check_pictures(inputs, None)
        self.inputs, self.size, self.corrupt = inputs, size, corrupt
        self.keys = _check_keys(keys, inputs)

    @torch.no_grad()
    def __call__(self, ids: Tensor, draw: Tensor | int) -> Tensor:
        """Views uint8 [B, 3, size, size], bicubic."""
        ids = ids.to(self.inputs.device)
        x = self.inputs[ids].float().div_(255)
        if self.corrupt is not None:
            x = self.corrupt(x, self.keys[ids])
        return to_uint8(to_size(x, self.size))


class CachedViews:
    """Views made before: uint8 [M, k, 3, s, s], in memory, mapped or on a device.

    Draw j is view j mod k. Batches are formed where the views lie and sent to `device`. rows:
    int64 [N], where in `views` the N pictures of the training set are (default: in order).
    """

    def __init__(
        self,
        views: Tensor,
        device: torch.device | str | None = None,
        *,
        rows: Tensor | None = None,
    ) -> None:
        shape = list(views.shape)
        if views.dtype != torch.uint8 or len(shape) != 5 or shape[1] < 1 or shape[2] != 3:
            raise ValueError(f"cached views are uint8 [M, k, 3, s, s], got {views.dtype} {shape}")
        self.views, self.k, self.size = views, shape[1], shape[-1]
        self.rows = None if rows is None else rows.to(views.device)
        self.device = views.device if device is None else torch.device(device)

    def __call__(self, ids: Tensor, draw: Tensor | int) -> Tensor:
        """Views uint8 [B, 3, s, s]."""
        ids = ids.to(self.views.device)
        rows = ids if self.rows is None else self.rows[ids]
        rows = rows * self.k + draw_numbers(draw, ids) % self.k
        picked = self.views.flatten(0, 1).index_select(0, rows)
        return picked.to(self.device, non_blocking=True)


class Acceptance(NamedTuple):
    """What a filter did: views asked for, images drawn for them, drawn ones accepted, and views
    for which the real picture stands in (int64 tensors [] on the device)."""

    asked: Tensor
    drawn: Tensor
    accepted: Tensor
    stood_in: Tensor

    def figures(self) -> dict[str, float]:
        """acceptance: accepted / drawn; stood_in: share of the views that are real pictures."""
        asked, drawn, accepted, stood_in = torch.stack(list(self)).tolist()
        return {"acceptance": accepted / max(1, drawn), "stood_in": stood_in / max(1, asked)}


class FilteredViews:
    """Views of another source whose distance to the real picture lies in [low, high].

    Below `low` a view shows nothing new, above `high` it is broken. Try t of draw j is the source's
    draw j + t p, p a prime above 2^32; after `tries` the real picture stands in.

    real: uint8 [N, 3, s, s] at the source's size. distance: (x, y) float [B, 3, s, s] in [0, 1] ->
    [B], given `rows` pairs at a time as GeneratedViews gives its images. One wait for the device a
    try. `take_counts` returns what was accepted since it was last called; nothing depends on it.
    """

    def __init__(
        self,
        source: ViewSource,
        real: Tensor,
        distance: Callable[[Tensor, Tensor], Tensor],
        low: float = 0.0,
        high: float = float("inf"),
        *,
        tries: int = 4,
        rows: int = 64,
    ) -> None:
        _check_pictures(real, getattr(source, "size", None))
        if not 0 <= low < high:
            raise ValueError(f"distances from {low:g} to {high:g}: 0 <= low < high")
        if tries < 1 or rows < 1:
            raise ValueError(f"tries and rows must be at least 1, got {tries} and {rows}")
        self.source, self.real, self.distance = source, real, distance
        self.low, self.high, self.tries, self.rows = low, high, tries, rows
        self.size = real.shape[-1]
        self._counts = torch.zeros(4, dtype=torch.int64, device=real.device)

    @torch.no_grad()
    def __call__(self, ids: Tensor, draw: Tensor | int) -> Tensor:
        """Views uint8 [B, 3, s, s], arguments as for every source."""
        ids = ids.to(self.real.device)
        draw = draw_numbers(draw, ids)
        out = self.real[ids]
        open_ = torch.arange(len(ids), device=ids.device)
        drawn: int = 0
        accepted: Tensor | int = 0
        for attempt in range(self.tries):
            views = self.source(ids[open_], draw[open_] + attempt * _RETRY)
            d = self._distances(views, self.real[ids[open_]])
            good = (d >= self.low) & (d <= self.high)  # a distance that is not a number is not
            out[open_[good]] = views[good]
            drawn, accepted = drawn + len(open_), accepted + good.sum()
            open_ = open_[~good]
            if not len(open_):
                break
        self._counts += torch.stack(
            [torch.as_tensor(n, device=ids.device) for n in (len(ids), drawn, accepted, len(open_))]
        )
        return out

    def _distances(self, x: Tensor, y: Tensor) -> Tensor:
        out = torch.empty(len(x), device=x.device)
        for start in range(0, len(x), self.rows):
            part = slice(start, start + self.rows)
            count = len(x[part])
            pick = start + torch.arange(self.rows, device=x.device) % count
            a, b = (t[pick].float().div_(255) for t in (x, y))
            out[part] = self.distance(a, b)[:count].float()
        return out

    def take_counts(self) -> Acceptance:
        """The counts since the last call, which starts them anew."""
        counts, self._counts = self._counts, torch.zeros_like(self._counts)
        return Acceptance(*counts.unbind())


# ---------------------------------------------------------------------------- which views of a step


class Fraction(NamedTuple):
    """The share of synthetic views over a run: linear from `start`, first epoch, to `end`, last."""

    start: float
    end: float

    def at(self, epoch: int, epochs: int) -> float:
        """The share in an epoch, counted from 0."""
        along = epoch / (epochs - 1) if epochs > 1 else 1.0 if self.start == self.end else 0.0
        return self.start + (self.end - self.start) * min(1.0, along)

    def __str__(self) -> str:
        return f"{self.start:g}" + ("" if self.start == self.end else f":{self.end:g}")


def fraction(word: str | float) -> Fraction:
    """`0.5` or `0:1` as a Fraction; ValueError outside [0, 1]."""
    parts = str(word).split(":")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if len(values) not in (1, 2) or not all(0 <= v <= 1 for v in values):
        raise ValueError(f"{word!r} is no share of views: a number in 0 to 1, or two, as 0:1")
    return Fraction(values[0], values[-1])


def number_of_views(mode: str, k: int = 1) -> int:
    """Views a picture has in a step: 2, and 1 + k for "multi"."""
    if mode not in MODES:
        raise ValueError(f"pair mode {mode!r} is none of {', '.join(MODES)}")
    if k < 1:
        raise ValueError(f"multi needs at least 1 synthetic view, got {k}")
    return 1 + k if mode == "multi" else 2


def synthetic_mask(
    mode: str, ids: Tensor, *, seed: int = 0, epoch: int = 0, f: float = 0.5, k: int = 1
) -> Tensor:
    """Which views are synthetic: bool [V, B] on the device of ids int64 [B].

    real-real none; real-synth the second; synth-synth both; mixed: each with probability f, a
    function of (seed, epoch, id, view); multi: all but the first of 1 + k.
    """
    views = number_of_views(mode, k)
    if mode == "mixed":
        if not 0 <= f <= 1:
            raise ValueError(f"f {f} is no probability")
        number = torch.arange(views, device=ids.device)[:, None]
        keys = mix(_MASK_TAG, seed, epoch, ids[None], number)
        return uniform(keys.flatten(), 1).view(keys.shape) < f
    mask = torch.zeros(views, len(ids), dtype=torch.bool, device=ids.device)
    mask[{"real-real": views, "synth-synth": 0}.get(mode, 1) :] = True
    return mask


def online_draws(epoch: int, ids: Tensor, views: int = 2) -> Tensor:
    """Draw numbers int64 [V, B]: view v in epoch e is draw V e + v, never drawn before."""
    first = views * epoch + torch.arange(views, device=ids.device)
    return first[:, None].expand(views, len(ids))


def cached_draws(epoch: int, ids: Tensor, views: int, k: int, *, seed: int = 0) -> Tensor:
    """Draw numbers int64 [V, B] in [0, k): distinct for a picture as long as V <= k.

    A function of (seed, epoch, id); with V > k they repeat after k.
    """
    if k < 1:
        raise ValueError(f"a cache has at least 1 view a picture, got {k}")
    order = uniform(mix(_PICK_TAG, seed, epoch, ids), k).argsort(dim=1, stable=True)
    return order[:, torch.arange(views, device=ids.device) % k].T


def gather_views(
    real: Tensor, source: ViewSource | None, ids: Tensor, draws: Tensor, synthetic: Tensor
) -> Tensor:
    """The pictures of a step, uint8 [V, B, 3, s, s] on real's device, before augmentation.

    real: uint8 [N, 3, s, s]; ids: int64 [B]; draws int64 and synthetic bool, both [V, B]. All
    synthetic views of the step are one call of the source. With `synthetic` on the CPU nothing
    waits for the device.
    """
    views, count = synthetic.shape
    rows = ids.to(real.device)
    out = real.index_select(0, rows).expand(views, -1, -1, -1, -1)
    chosen = synthetic.flatten().nonzero()[:, 0]
    if not len(chosen):
        return out
    if source is None:
        raise ValueError("synthetic views are asked for, and there is no view source")
    chosen = chosen.to(real.device, non_blocking=real.is_cuda)
    made = source(rows[chosen % count], draws.to(real.device).flatten()[chosen])
    return out.flatten(0, 1).index_copy(0, chosen, made.to(real.device)).unflatten(0, (views, -1))


# ------------------------------------------------------------------------------------------ helpers


def draw_numbers(draw: Tensor | int, ids: Tensor) -> Tensor:
    """`draw` as int64 [B] beside ids."""
    if not isinstance(draw, Tensor):
        return torch.full_like(ids, int(draw))
    return draw.to(ids.device, torch.int64).expand(len(ids))


def to_uint8(images: Tensor) -> Tensor:
    """float images, clamped to [0, 1] and rounded to 255ths, as uint8 of the same shape."""
    return images.float().clamp(0, 1).mul_(255).round_().to(torch.uint8)


def to_size(images: Tensor, size: int) -> Tensor:
    """float [B, C, h, w] at size x size, bicubic, antialiased where it shrinks."""
    if images.shape[-2:] == (size, size):
        return images
    shrinks = min(images.shape[-2:]) > size
    return F.interpolate(images.float(), size=(size, size), mode="bicubic", antialias=shrinks)


def ms_per_view(source: ViewSource, ids: Tensor, *, repeats: int = 3) -> float:
    """Milliseconds a view takes: the fastest of `repeats` batches of these ids, after one more."""
    seconds = []
    for turn in range(repeats + 1):
        _finish(ids.device)
        start = time.perf_counter()
        views = source(ids, turn)
        _finish(views.device)
        seconds.append(time.perf_counter() - start)
    return 1000 * min(seconds[1:]) / max(1, len(ids))


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _check_pictures(pictures: Tensor, size: int | None) -> None:
    shape = list(pictures.shape)
    square = len(shape) == 4 and shape[1] == 3 and shape[2] == shape[3]
    if pictures.dtype != torch.uint8 or not square or (size is not None and shape[3] != size):
        want = "s, s" if size is None else f"{size}, {size}"
        raise ValueError(f"pictures must be uint8 [N, 3, {want}], got {pictures.dtype} {shape}")


def _check_keys(keys: Tensor | None, inputs: Tensor) -> Tensor:
    if keys is None:
        return torch.arange(len(inputs), device=inputs.device)
    if keys.dtype != torch.int64 or keys.shape != (len(inputs),):
        raise ValueError(
            f"keys must be int64 [{len(inputs)}], one a picture, got {keys.dtype} "
            f"{list(keys.shape)}"
        )
    return keys.to(inputs.device)
