"""Attention within regions, in four forms that give the same numbers.

For every pixel p: the mean over the regions n that contain p of softmax over s in n of q_p k_s
/ sqrt(d), times v_s (Cheng et al. 2023, arXiv:2302.08908, equation 5). `loop` is that sentence,
region by region of image by image; the others take any number of images at once:

closed    regions of an image share one score matrix. With E = exp(S), Z = E M^T, W = E o ((share^T
          / Z) M) the result is W v: about 2 L^2 d + 2 L^2 N operations, whatever the regions are.
expanded  N masked attentions an image over all pixels: N L^2 d.
packed    every region's pixels gathered, regions of alike size together: the sum of their areas^2.

Which is fastest depends on the regions: benchmarks/README.md has the figures, `choose` the rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.ddpm.attention import attend, merge_heads, split_qkv

# E is scaled so that its largest value of a pixel is exp(_TOP), and a region's sum counts as
# exp(_LEAST) at least: scores within 120 of a pixel's largest keep all their digits in fp32.
_TOP, _LEAST = 40.0, math.exp(-80.0)


class Pack(NamedTuple):
    """Regions of alike size: `rows` int64 [R * length], those of [B * L, ...] to gather.

    valid bool [R, 1, 1, length]: which of them belong to the region; None: all.
    """

    rows: Tensor
    regions: int
    valid: Tensor | None


class Packing(NamedTuple):
    """Everything that the form "packed" gathers, and where it goes."""

    packs: list[Pack]
    target: Tensor  # int64 [T]: the pixel in [0, B * L] of every gathered row, in that order
    weight: Tensor  # [T, 1]: what it counts there


class Regions(NamedTuple):
    """The regions of a feature map, made once a forward pass for all layers of that size."""

    masks: Tensor  # bool [B, N, L]
    mean: Tensor  # [B, N, L]: masks / their number at that pixel
    share: Tensor  # [B, N, L]: what each region's attention counts at a pixel
    rest: Tensor  # [B, L]: what the background's attention counts there
    form: str
    packing: Packing | None  # of the form "packed"
    outside: Tensor | None  # int64 [B, Lb]: pixels with `rest`, L to fill up; None: take all


Form = Callable[[Tensor, int, Regions, bool], Tensor]


def make_regions(masks: Tensor, *, with_background: bool, form: str | None = None) -> Regions:
    """Regions of masks bool [B, N, L]. with_background: the background's attention is one more
    member of the mean at every pixel of a region (the variant v1). form: None is `choose`'s.
    Errors: ValueError."""
    number = masks.sum(1, keepdim=True).float()
    mean = masks / number.clamp_min(1)
    share = masks / (number + 1) if with_background else mean
    rest = (1 / (number + 1) if with_background else (number == 0).float())[:, 0]
    if form is None:
        form = choose(masks)
    if form not in FORMS:
        raise ValueError(f"form {form!r} of layout attention is not {', '.join(FORMS)}")
    packing = _packing(masks, share) if form == "packed" else None
    look = masks.device.type == "cpu" and not torch.compiler.is_compiling()
    return Regions(masks, mean, share, rest, form, packing, _outside(rest) if look else None)


def choose(masks: Tensor) -> str:
    """The form that costs least for masks [B, N, L].

    On a CPU packed while the regions' areas are small enough, otherwise closed. Elsewhere, and
    while a graph is recorded, closed: it alone needs no look at the values.
    """
    if masks.device.type != "cpu" or torch.compiler.is_compiling():
        return "closed"
    areas, (images, _, pixels) = masks.sum(2).double(), masks.shape
    packed = float((areas * (areas + _ROW_COST)).sum())
    return "packed" if packed <= _CLOSED_COST * images * pixels**2 else "closed"


# Measured in one thread: what a gathered pixel costs beside its scores, and the closed form's cost
# of a score, both in units of a score of the packed form.
_ROW_COST, _CLOSED_COST = 100, 0.9


def loop(qkv: Tensor, heads: int, regions: Regions, fused: bool = True) -> Tensor:
    """Region by region: qkv [B, L, 3 C] -> [B, L, C], 0 where no region is."""
    q, k, v = split_qkv(qkv, heads)
    out = torch.zeros_like(q)
    for image, masks in enumerate(regions.masks):
        for n, mask in enumerate(masks):
            inside = mask.nonzero()[:, 0]
            if len(inside):
                part = attend(
                    q[image, :, inside], k[image, :, inside], v[image, :, inside], fused=fused
                )
                share = regions.share[image, n, inside]
                out[image, :, inside] += part * share[:, None].to(part.dtype)
    return merge_heads(out)


def closed(qkv: Tensor, heads: int, regions: Regions, fused: bool = True) -> Tensor:
    """One score matrix for all regions of an image: shapes as `loop`. Computes in fp32 or 64.

    Exact while a pixel's scores in each of its regions reach to within 120 of its largest score
    anywhere; a region further below counts less than it should.
    """
    kind = torch.float64 if qkv.dtype == torch.float64 else torch.float32
    q, k, v = (t.to(kind) for t in split_qkv(qkv, heads))
    masks = regions.masks[:, None].to(q.dtype)
    out = _Closed.apply(q, k, v, masks, regions.share[:, None].to(q.dtype))
    return merge_heads(out.to(qkv.dtype))


def _without_autocast(device: str) -> AbstractContextManager[object]:
    """Products in the dtype of what is multiplied."""
    if torch.amp.is_autocast_available(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


class _Closed(torch.autograd.Function):
    """W v of the form "closed", with its gradient: autograd would keep three [L, L] matrices for
    one, and square 1 / Z, which may be as large as exp(80)."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, masks: Tensor, share: Tensor):
        with _without_autocast(q.device.type):
            ctx.scale = q.shape[-1] ** -0.5
            scores = (q * ctx.scale) @ k.transpose(-2, -1)
            E = scores.sub_(scores.amax(-1, keepdim=True) - _TOP).exp_()
            inverse = (E @ masks.transpose(-2, -1)).clamp_min_(_LEAST).reciprocal_()
            W = ((share.transpose(-2, -1) * inverse) @ masks).mul_(E)
            ctx.save_for_backward(q, k, v, masks, share, E, inverse)
            return W @ v

    @staticmethod
    @once_differentiable  # a second derivative would be wrong, silently
    def backward(ctx, grad: Tensor):
        q, k, v, masks, share, E, inverse = ctx.saved_tensors
        with _without_autocast(q.device.type):
            weights = share.transpose(-2, -1) * inverse  # [B, heads, L, N]
            spread = weights @ masks
            grad_v = (E * spread).transpose(-2, -1) @ grad
            # Softmax, region by region: dS = sum over n of w_n a_n (dW - D_n), D_n = sum a_n dW,
            # with a_n = E M_n / Z_n.
            dW = (grad @ v.transpose(-2, -1)).mul_(E)
            D = (dW @ masks.transpose(-2, -1)) * inverse
            dS = dW.mul_(spread).sub_(((weights * D) @ masks).mul_(E))
            dS.mul_(ctx.scale)
            return dS @ k, dS.transpose(-2, -1) @ q, grad_v, None, None


def expanded(qkv: Tensor, heads: int, regions: Regions, fused: bool = True) -> Tensor:
    """N masked attentions an image: shapes as `loop`."""
    q, k, v = split_qkv(qkv, heads)
    batch, n = regions.masks.shape[:2]
    if not n:
        return torch.zeros_like(merge_heads(q))
    q, k, v = (t[:, None].expand(-1, n, -1, -1, -1).flatten(0, 1) for t in (q, k, v))
    # A filling row has no pixel; its attention counts nothing, but must be a number.
    keys = regions.masks | ~regions.masks.any(2, keepdim=True)
    out = attend(q, k, v, keys.flatten(0, 1)[:, None, None], fused=fused)
    share = regions.share.to(out.dtype)
    return merge_heads(torch.einsum("bnhld,bnl->bhld", out.unflatten(0, (batch, n)), share))


def packed(qkv: Tensor, heads: int, regions: Regions, fused: bool = True) -> Tensor:
    """Attention over gathered pixels: shapes as `loop`. Looks at values when it is planned."""
    packing = regions.packing or _packing(regions.masks, regions.share)
    flat, rows = qkv.flatten(0, 1), []
    for pack in packing.packs:
        gathered = flat.index_select(0, pack.rows).unflatten(0, (pack.regions, -1))
        q, k, v = split_qkv(gathered, heads)
        rows.append(merge_heads(attend(q, k, v, pack.valid, fused=fused)).flatten(0, 1))
    return _placed(qkv, rows, packing.target, packing.weight)


def _placed(like: Tensor, rows: list[Tensor], target: Tensor, weight: Tensor) -> Tensor:
    """Sum of the rows at their pixels: [B, L, C]; the last place takes what only filled up."""
    batch, pixels, channels = like.shape
    out = like.new_zeros(batch * pixels + 1, channels // 3)
    if rows:
        out = out.index_add(0, target, torch.cat(rows) * weight.to(out.dtype))
    return out[:-1].unflatten(0, (batch, pixels))


FORMS: dict[str, Form] = {
    "loop": loop,
    "closed": closed,
    "expanded": expanded,
    "packed": packed,
}


def region_attention(
    qkv: Tensor, background: Tensor, heads: int, regions: Regions, fused: bool = True
) -> Tensor:
    """Attention of regions and of what is in none: [B, L, C].

    qkv [B, L, 3 C] with the prompts of the regions; background the same with the background's,
    whose pixels attend to all pixels. Former channel order.
    """
    out = _background_attention(background, heads, regions, fused)
    if regions.masks.shape[1]:
        out = out + FORMS[regions.form](qkv, heads, regions, fused)
    return out


def _background_attention(qkv: Tensor, heads: int, regions: Regions, fused: bool) -> Tensor:
    """Attention to all pixels, times `rest`: [B, L, C]."""
    q, k, v = split_qkv(qkv, heads)
    rest, place = regions.rest[..., None].to(qkv.dtype), regions.outside
    if place is None:
        return merge_heads(attend(q, k, v, fused=fused)) * rest
    out = qkv.new_zeros(len(qkv), qkv.shape[1] + 1, qkv.shape[2] // 3)
    if place.shape[1]:
        chosen = place.clamp_max(q.shape[2] - 1)[:, None, :, None]
        few = q.gather(2, chosen.expand(-1, heads, -1, q.shape[3]))
        rows = merge_heads(attend(few, k, v, fused=fused))
        out = out.scatter(1, place[..., None].expand_as(rows), rows)
    return out[:, :-1] * rest


def _packing(masks: Tensor, share: Tensor) -> Packing:
    """Where the regions' pixels are gathered from and go to."""
    batch, _, pixels = masks.shape
    areas = masks.sum(2)
    image, n = areas.nonzero(as_tuple=True)
    order = areas[image, n].argsort(descending=True, stable=True)
    image, n = image[order], n[order]
    lengths = areas[image, n].tolist()
    packs, targets, weights = [], [], []
    for first, last in _alike(lengths):
        length, which = lengths[first], (image[first:last], n[first:last])
        place, valid = _places(masks[which], length)
        rows = place + which[0][:, None] * pixels
        ragged = lengths[last - 1] < length
        packs.append(Pack(rows.flatten(), last - first, valid[:, None, None] if ragged else None))
        targets.append(rows.where(valid, batch * pixels).flatten())
        weights.append(share[which].gather(1, place).flatten())
    target = torch.cat(targets) if targets else areas.new_zeros(0)
    weight = torch.cat(weights) if weights else share.new_zeros(0)
    return Packing(packs, target, weight[:, None])


def _places(masks: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The places of the first `most` True of each row [R, L], in order, others where it has fewer;
    and which are True: [R, most]."""
    place = masks.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    return place, masks.gather(1, place)


# Gathering the background's queries pays when it leaves out a good part of them.
_MOST_OUTSIDE = 0.85
# Regions share a pack while the smallest has this share of the largest's length.
_ALIKE = 0.7


def _outside(rest: Tensor) -> Tensor | None:
    """Pixels [B, Lb] for the background's attention, L to fill up; None if they are most."""
    masks = rest > 0
    most = int(masks.sum(1).max()) if len(rest) else 0
    if most > _MOST_OUTSIDE * rest.shape[1]:
        return None
    place, valid = _places(masks, most)
    return place.where(valid, rest.shape[1])


def _alike(lengths: list[int]) -> list[tuple[int, int]]:
    """Ranges of decreasing lengths that are packed together."""
    ranges, first = [], 0
    for i, length in enumerate(lengths):
        if length < _ALIKE * lengths[first]:
            ranges.append((first, i))
            first = i
    if lengths:
        ranges.append((first, len(lengths)))
    return ranges
