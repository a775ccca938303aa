"""Counter-based random numbers: a value is a function of its keys, not of what was drawn before.

Words come from Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as
1, 2, 3", SC 2011) evaluated with int64 tensor arithmetic, so the integer streams are bit-identical
on CPU and CUDA and do not depend on batching, chunking, workers or world size. Gaussians are
Box-Muller in float32 and agree between devices to a few ulp (sin, cos and log differ there).

Layout: row seed word s (64 bits) and element e of stream t use the counter
(e // 4, t, s mod 2^32, s >> 32) under a fixed key and the (e mod 4)-th of the four output words.
Philox is a bijection for a fixed key, hence different (row, stream, element) never share a block.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_M0, _M1 = 0xD2511F53, 0xCD9E8D57  # Philox multipliers
_W0, _W1 = 0x9E3779B9, 0xBB67AE85  # Weyl increments of the key
_MASK32 = 0xFFFFFFFF
_MASK64 = 0xFFFFFFFFFFFFFFFF
_KEY = (0x494D4C45, 0x4C616273)  # "IMLE", "Labs"

# Counters per internal chunk: six int64 buffers that stay in the L2 cache of a core, or that keep a
# GPU busy; the temporary memory is 6 * 8 bytes times this, whatever is asked for.
_CHUNK_CPU = 1 << 13
_CHUNK_CUDA = 1 << 20


def _signed(x: int) -> int:
    """The int64 with the low 64 bits of x."""
    x &= _MASK64
    return x - (1 << 64) if x >> 63 else x


def _fmix_int(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK64
    return x ^ (x >> 31)


def _fmix_tensor(x: Tensor) -> Tensor:
    # int64 products wrap, which leaves the right low 64 bits; the mask makes the shift logical
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _signed(0x94D049BB133111EB)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def mix(*keys: int | Tensor) -> Tensor:
    """Hash keys into 64-bit seed words.

    Integers and int64 tensors are hashed in order (splitmix64 finaliser, Stafford variant 13, after
    each); tensors broadcast. Returns an int64 tensor of the broadcast shape on the tensors' device,
    `[]` when every key is an integer. The order of the keys matters.
    """
    state: int | Tensor = 0x243F6A8885A308D3
    for key in keys:
        if isinstance(key, Tensor):
            if key.is_floating_point() or key.is_complex() or key.dtype == torch.bool:
                raise TypeError(f"mix() hashes integers, got a tensor of {key.dtype}")
            key = key.to(torch.int64)
        elif isinstance(key, bool) or not isinstance(key, int):
            raise TypeError(f"mix() hashes integers and int64 tensors, got {type(key).__name__}")
        if isinstance(state, int) and isinstance(key, int):
            state = _fmix_int((state * 3 + key + 0x9E3779B97F4A7C15) & _MASK64)
        else:
            previous = _signed(state * 3) if isinstance(state, int) else state * 3
            addend = _signed(key) if isinstance(key, int) else key
            total = previous + addend + _signed(0x9E3779B97F4A7C15)
            assert isinstance(total, Tensor)  # one of the two is
            state = _fmix_tensor(total)
    if isinstance(state, int):
        return torch.tensor(_signed(state), dtype=torch.int64)
    return state


def _philox(counter: list[Tensor], key: tuple[int, int], rounds: int) -> list[Tensor]:
    """Philox rounds on broadcastable int64 counter words; returns four full words in [0, 2^32).

    Words 1 and 3 carry junk above bit 31 between rounds: it falls to the mask after the xor.
    """
    c0, c1, c2, c3 = counter
    shape = torch.broadcast_shapes(*(c.shape for c in counter))
    k0, k1 = key
    t0: Tensor | None = None
    t1: Tensor | None = None
    for r in range(rounds):
        if t0 is not None and t1 is not None and c0.shape == c2.shape == shape:
            torch.mul(c0, _M0, out=t0)
            torch.mul(c2, _M1, out=t1)
            torch.bitwise_right_shift(t1, 32, out=c0)
            torch.bitwise_right_shift(t0, 32, out=c2)
            c0.bitwise_xor_(c1).bitwise_xor_(k0).bitwise_and_(_MASK32)
            c2.bitwise_xor_(c3).bitwise_xor_(k1).bitwise_and_(_MASK32)
            full1, full3 = c1.shape == shape, c3.shape == shape
            c1, t1 = t1, (c1 if full1 else torch.empty_like(t1))
            c3, t0 = t0, (c3 if full3 else torch.empty_like(t0))
        else:  # the first rounds work on rows or columns only, out of place
            p0, p1 = c0 * _M0, c2 * _M1
            c0 = (((p1 >> 32) ^ c1) ^ k0) & _MASK32
            c2 = (((p0 >> 32) ^ c3) ^ k1) & _MASK32
            c1, c3 = p1, p0
            if c0.shape == c2.shape == shape and r + 1 < rounds:
                t0, t1 = torch.empty_like(c0), torch.empty_like(c0)
        k0, k1 = (k0 + _W0) & _MASK32, (k1 + _W1) & _MASK32
    return [c0.expand(shape), (c1 & _MASK32).expand(shape), c2.expand(shape), c3 & _MASK32]


def _check(seed_words: Tensor, n: int) -> Tensor:
    if seed_words.dtype != torch.int64 or seed_words.dim() != 1:
        raise ValueError(
            f"seed words must be an int64 tensor [B] (see mix), got {seed_words.dtype} "
            f"{list(seed_words.shape)}"
        )
    if n < 0 or n > 1 << 34:
        raise ValueError(f"n must be in [0, 2^34], got {n}")
    return seed_words


def _blocks(seed_words: Tensor, n: int, stream: int):
    """Yield (rows, first element, four words [rows, blocks]) chunk by chunk."""
    limit = _CHUNK_CUDA if seed_words.is_cuda else _CHUNK_CPU
    total = (n + 3) // 4
    width = min(total, limit)
    height = max(1, limit // max(width, 1))
    device = seed_words.device
    stream_word = torch.full((1, 1), stream & _MASK32, dtype=torch.int64, device=device)
    for top in range(0, seed_words.numel() if total else 0, height):
        rows = slice(top, min(top + height, seed_words.numel()))
        word = seed_words[rows, None]
        low, high = word & _MASK32, (word >> 32) & _MASK32
        for left in range(0, total, width):
            index = torch.arange(left, min(left + width, total), device=device)[None]
            yield rows, 4 * left, _philox([index, stream_word, low, high], _KEY, 10)


def _put(out: Tensor, rows: slice, first: int, lane: int, values: Tensor) -> None:
    target = out[rows, first + lane : first + 4 * values.shape[1] : 4]
    target.copy_(values[:, : target.shape[1]])


def words(seed_words: Tensor, n: int, *, stream: int = 0) -> Tensor:
    """Random words [B, n], int64 in [0, 2^32); row b is a function of (seed_words[b], stream)."""
    out = torch.empty(len(_check(seed_words, n)), n, dtype=torch.int64, device=seed_words.device)
    for rows, first, block in _blocks(seed_words, n, stream):
        for lane, word in enumerate(block):
            _put(out, rows, first, lane, word)
    return out


def uniform(seed_words: Tensor, n: int, *, stream: int = 0) -> Tensor:
    """Uniform float32 [B, n] in [0, 1): the upper 24 bits of each word, exact on every device."""
    out = torch.empty(len(_check(seed_words, n)), n, device=seed_words.device)
    for rows, first, block in _blocks(seed_words, n, stream):
        for lane, word in enumerate(block):
            _put(out, rows, first, lane, (word >> 8).to(torch.float32).mul_(2.0**-24))
    return out


def randint(seed_words: Tensor, n: int, high: int, *, stream: int = 0) -> Tensor:
    """Integers int64 [B, n] in [0, high), 1 <= high < 2^31.

    By multiply-shift; the bias of a value is below high / 2^32.
    """
    if not 1 <= high < 1 << 31:
        raise ValueError(f"high must be in [1, 2^31), got {high}")
    return (words(seed_words, n, stream=stream) * high) >> 32


def normal(seed_words: Tensor, n: int, *, stream: int = 0) -> Tensor:
    """Standard normals float32 [B, n] by Box-Muller; |value| <= 6.67.

    Words 0 and 1 of a block give elements 0 and 1, words 2 and 3 give elements 2 and 3, so a prefix
    of a row does not depend on n.
    """
    out = torch.empty(len(_check(seed_words, n)), n, device=seed_words.device)
    for rows, first, block in _blocks(seed_words, n, stream):
        for lane, values in enumerate(_box_muller(block)):
            _put(out, rows, first, lane, values)
    return out


def _box_muller(block: list[Tensor]) -> list[Tensor]:
    """Four words in [0, 2^32) -> four standard normals."""
    out = []
    for lane in (0, 2):
        # u in (0, 1]: the logarithm never meets zero
        radius = (block[lane] + 1).to(torch.float32).mul_(2.0**-32)
        radius.log_().mul_(-2.0).sqrt_()
        angle = block[lane + 1].to(torch.float32).mul_(2.0 * math.pi * 2.0**-32)
        sine = torch.sin(angle)
        out += [angle.cos_().mul_(radius), sine.mul_(radius)]
    return out


class Mosaic(NamedTuple):
    """Which of several rows of numbers each element is taken from, see `mosaic`."""

    block: Tensor  # [P] int64: the pieces, blocks of four elements of one of the rows
    row: Tensor  # [P] int64
    source: Tensor  # [n] int64: 4 * piece + place in the block of every element


def mosaic(rows: Tensor) -> Mosaic:
    """The pieces of a row whose element e is that of the row `rows[e]`, int64 [n] >= 0, any device.

    A block that lies in one row is one piece, so that wide patches cost no more than a plain row.
    """
    place = torch.arange(len(rows))
    pair = torch.stack([place // 4, rows.cpu()], 1)
    pieces, piece = pair.unique(dim=0, return_inverse=True)
    parts = (pieces[:, 0].contiguous(), pieces[:, 1].contiguous(), 4 * piece + place % 4)
    return Mosaic(*(part.to(rows.device) for part in parts))


def normal_mosaic(seed_words: Tensor, pattern: Mosaic, *, stream: int = 0) -> Tensor:
    """Standard normals float32 [B, n], element e being `normal`'s for seed_words[:, rows[e]].

    seed_words: int64 [B, R]; pattern: `mosaic(rows)`. Bit-equal to gathering from R full rows.
    """
    device = seed_words.device
    count, pieces = len(seed_words), len(pattern.block)
    out = torch.empty(count, len(pattern.source), device=device)
    limit = _CHUNK_CUDA if seed_words.is_cuda else _CHUNK_CPU
    stream_word = torch.full((1, 1), stream & _MASK32, dtype=torch.int64, device=device)
    height = max(1, limit // max(pieces, 1))
    for top in range(0, count if pieces else 0, height):
        word = seed_words[top : top + height, pattern.row]
        counter = [pattern.block[None], stream_word, word & _MASK32, (word >> 32) & _MASK32]
        block = torch.stack(_box_muller(_philox(counter, _KEY, 10)), 2)
        out[top : top + height] = block.flatten(1)[:, pattern.source]
    return out


def row_dropout(x: Tensor, p: float, keys: Tensor, layer: int) -> Tensor:
    """Dropout whose mask of row i is a function of (keys[i], layer, element) alone.

    x [N, ...], 0 <= p <= 1, keys int64 [N]. p is rounded to a multiple of 2^-16; kept elements are
    divided by the (rounded) 1 - p.
    """
    drop = round(p * 65536)
    if drop == 0:
        return x
    if drop >= 65536:
        return x * 0
    count = x[0].numel()
    index = torch.arange((count + 3) // 4, device=x.device)
    # four 16-bit numbers in each 64-bit hash
    bits = mix(keys[:, None], layer, index).view(torch.int16)
    keep = (bits[:, :count] >= drop - 32768).view(x.shape)
    return torch.where(keep, x * (65536 / (65536 - drop)), 0.0)


def permutation(n: int, *keys: int) -> Tensor:
    """A permutation of range(n), int64 [n] on the CPU, that is a function of the integer keys."""
    seed = mix(*keys, n).reshape(1)
    pair = words(seed, 2 * n).view(n, 2)
    # 63-bit sort keys; a tie (probability n^2 / 2^64) falls to the smaller index
    return torch.argsort((pair[:, 0] << 31) ^ pair[:, 1], stable=True)
