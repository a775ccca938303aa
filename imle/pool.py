"""The search of unconditional IMLE: one pool of samples a loop, the nearest of them to each image.

Implicit maximum likelihood (Li & Malik, "Implicit Maximum Likelihood Estimation", 2018): draw a
pool of samples, find for every *real image* its nearest sample, and pull that sample towards the
image. The other direction (for every sample its nearest image) would allow modes to be dropped, and
a distance averaged over several images picks the sample nearest to their mean. Here each image
chooses alone, among all samples of the pool, exactly.

The pool is streamed. Candidate c of a loop is a function of (seed, loop, c) alone, so nothing of it
is kept: a chunk is generated, turned into features, compared and dropped; what stays is each
image's best distance and candidate number, from which its code is drawn again. Memory: the features
of the images [S, D] in fp32, one chunk of the generator, and a block of distances of about 16 MB.

With a radius (`imle.rejection`) each image first rejects, for all, its nearest few samples that are
nearer than that; this takes a second pass over the pool.

A sample may be chosen by several images. A quota on its use would break the estimator (the image
that comes too late gets a sample that is not its nearest); the remedy for blur by sharing is a
larger pool. `used_fraction` says how far it is.

`PoolSearch` is the `searcher` of a CIMLEDataLoader:

    loader = CIMLEDataLoader(..., searcher=PoolSearch(4096))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from imle.contract import image_of_level
from imle.rejection import Rejection
from imle.search import NonFiniteSearchError, resolve_dtype
from imle.types import KeyedCodes, Model, OnChunk, PlainCodes, device_of, is_keyed_codes
from runtime import distributed

Features = Callable[[Tensor], Tensor]
"""images [N, C, H, W] -> [N, D], e.g. `pixel_features` or the `project` of a ProjectedDistance."""

POOL_IMAGE_ID = -1
"""The image id a pool's codes are drawn with: its noise must not depend on who will choose it."""

KNN_IGNORE = 5
"""How many samples an image may reject, as the code release of RS-IMLE has it."""

_BLOCK = 1 << 22  # elements of a block of distances, and of a piece of differences
_NONE = torch.iinfo(torch.int64).max  # no finite candidate so far; larger than any id


class PoolWinners(NamedTuple):
    """What a pool search found, in the order of the images."""

    candidates: Tensor  # [S, 1] int64: number of the nearest candidate, 0 .. pool_size - 1
    distances: Tensor  # [S] float64: its squared distance in feature space
    rejected: int = 0  # samples that were left out


def used_fraction(winners: Tensor) -> float:
    """Different winners over images, of winners [S, ...]: 1 is a sample each, 1/S one for all."""
    return winners.unique().numel() / max(1, winners.shape[0])


def pixel_features(images: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C*H*W] whose squared distance is the mean squared error of the pixels."""
    flat = images.flatten(1)
    return flat * flat.shape[1] ** -0.5


def pool_codes(
    z: KeyedCodes | PlainCodes,
    loop: int,
    candidates: Tensor,
    device: torch.device | None = None,
) -> Tensor:
    """Codes [K, d] of pool candidates [K] or [K, 1]; `z` is a CodeGenerator of one level."""
    if not is_keyed_codes(z):
        raise ValueError(
            "a pool is drawn by number, twice: z_gen must be a CodeGenerator, not a plain callable"
        )
    candidates = candidates.reshape(1, -1)
    device = candidates.device if device is None else device
    image = torch.tensor([POOL_IMAGE_ID], device=device)
    return z.draw(0, loop, image, candidates.to(device), device)


class PoolSearch:
    """A pool as the `searcher` of a CIMLEDataLoader: see `pool_search` for what is searched.

    pool_size, chunk, features, precision, knn_ignore: as there; rejection: says the radius of a
    loop. The losses it reports are the squared distances in feature space (for `pixel_features` the
    mean squared error), in float32. rejected_share: of the newest pool, what was rejected.
    """

    def __init__(
        self,
        pool_size: int,
        *,
        chunk: int = 256,
        features: Features = pixel_features,
        precision: str | torch.dtype = torch.float32,
        rejection: Rejection | None = None,
        knn_ignore: int = KNN_IGNORE,
    ) -> None:
        if pool_size < 1 or chunk < 1:
            raise ValueError(f"pool_size and chunk must be at least 1, got {pool_size} and {chunk}")
        self.pool_size, self.chunk = int(pool_size), int(chunk)
        self.features, self.dtype = features, resolve_dtype(precision)
        self.rejection, self.knn_ignore = rejection, int(knn_ignore)
        self.rejected_share = 0.0

    def search(
        self,
        model: Model,
        z_gen: KeyedCodes | PlainCodes,
        batches: Iterable[tuple[Any, Any, list[Tensor]]],
        loop: int,
        on_chunk: OnChunk | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Winners [S, 1] int64 and losses [S, 1] of the images ys[-1] of (image_ids, cx, ys)."""
        found = pool_search(
            model,
            z_gen,
            (ys[-1] for _, _, ys in batches),
            loop,
            pool_size=self.pool_size,
            chunk=self.chunk,
            features=self.features,
            precision=self.dtype,
            on_chunk=on_chunk,
            eps=self.rejection.radii(loop, 1)[0] if self.rejection else 0.0,
            knn_ignore=self.knn_ignore,
        )
        self.rejected_share = found.rejected / self.pool_size
        return found.candidates, found.distances[:, None].float()

    def codes(
        self, z_gen: KeyedCodes | PlainCodes, loop: int, image_ids: Tensor, winners: Tensor
    ) -> list[Tensor]:
        """[codes [b, d]] of winners [b, 1], on the winners' device; image_ids do not matter."""
        return [pool_codes(z_gen, loop, winners)]

    @torch.no_grad()
    def measure(self, model: Model, codes: list[Tensor], ys: list[Tensor]) -> Tensor:
        """Losses [b] of codes [[b, d]] for the images ys[-1], as `search` has them."""
        images = image_of_level(model, None, codes, -1)
        return (self.features(images).double() - self.features(ys[-1]).double()).square().sum(1)


@torch.no_grad()
def pool_search(
    model: Model,
    z: KeyedCodes | PlainCodes,
    targets: Iterable[Tensor],
    loop: int,
    *,
    pool_size: int,
    chunk: int = 256,
    features: Features = pixel_features,
    precision: str | torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    on_chunk: OnChunk | None = None,
    eps: float = 0.0,
    knn_ignore: int = KNN_IGNORE,
) -> PoolWinners:
    """For every image the nearest of `pool_size` samples; ties go to the smaller candidate number.

    model: callable `model(None, [code], loi=-1) -> images`. z: `draw(level, loop, image_ids,
    candidate_ids, device)`. targets: chunks of images [b, C, H, W] (any sizes of b), read once.
    chunk: samples generated at a time on one rank. features: `[N, C, H, W] -> [N, D]`, applied to
    images and samples alike; distances are squared Euclidean in there, in fp32 whatever autocast
    says. precision: bf16 or fp16 generates the pool under autocast; its images are compared as they
    come. on_chunk(done, total) is called after each chunk, equally often on every rank, and may
    raise to abandon the search. eps: a squared distance; samples nearer than that to an image, as
    far as they are among its `knn_ignore` nearest, are left out for all images, unless none would
    be left; 0 leaves out none.

    Several ranks share the pool: all must pass the same images, all get the same winners. Winners
    do not depend on chunk, rank or target chunking (but for the last bits of the generator, whose
    convolutions may round differently in batches of another size).
    ValueError: nothing to search. NonFiniteSearchError: an image, or the whole pool, is not finite.
    """
    if pool_size < 1 or chunk < 1:
        raise ValueError(f"pool_size and chunk must be at least 1, got {pool_size} and {chunk}")
    device = torch.device(device) if device is not None else device_of(model)
    nearest = Nearest(torch.cat([features(t.to(device)).float() for t in targets]))
    world, rank = distributed.world_size(), distributed.rank()
    chunk = min(chunk, -(-pool_size // world))
    rounds = -(-pool_size // (chunk * world))
    total = rounds * (2 if eps > 0 else 1)

    def samples(before: int) -> Iterator[tuple[Tensor, Tensor]]:
        for i in range(rounds):
            first = min((i * world + rank) * chunk, pool_size)
            ids = torch.arange(first, min(first + chunk, pool_size), device=device)
            # the last round may have nothing for this rank, but its callback must come
            if len(ids):
                with _autocast(precision, device):
                    images = image_of_level(model, None, [pool_codes(z, loop, ids)], -1)
                yield features(images), ids
            if on_chunk is not None:
                on_chunk(before + i + 1, total)

    none = torch.zeros(0, dtype=torch.int64, device=device)
    few = min(knn_ignore, pool_size)
    rejected = _too_near(nearest.queries, few, samples(0), eps, pool_size) if eps > 0 else none
    for rows, ids in samples(total - rounds):
        kept = ~torch.isin(ids, rejected) if len(rejected) else slice(None)
        nearest.update(rows[kept], ids[kept])
    return nearest.result()._replace(rejected=len(rejected))


def _autocast(precision: str | torch.dtype, device: torch.device) -> torch.autocast:
    """Autocast to a low precision, none to fp32."""
    dtype = resolve_dtype(precision)
    low = dtype != torch.float32
    return torch.autocast(device.type, dtype if low else torch.bfloat16, enabled=low)


def _too_near(
    queries: Tensor,
    few: int,
    chunks: Iterable[tuple[Tensor, Tensor]],
    eps: float,
    pool_size: int,
) -> Tensor:
    """Numbers of the samples that are left out for all images: none where all would be."""
    near = NearestFew(queries, few)
    for rows, ids in chunks:
        near.update(rows, ids)
    found = near.within(eps)
    return found[:0] if len(found) == pool_size else found


class NearestFew:
    """The k nearest rows of each query, of rows that come in chunks; squared distances in float64.

    queries: [S, D]. Ties go to the smaller number.
    """

    def __init__(self, queries: Tensor, k: int) -> None:
        self.queries = queries.double()
        self.center = self.queries.mean(0)
        shape, device = (len(queries), k), queries.device
        self.near = torch.full(shape, torch.inf, dtype=torch.float64, device=device)
        self.ids = torch.full(shape, _NONE, dtype=torch.int64, device=device)

    def update(self, rows: Tensor, ids: Tensor) -> None:
        """Offer rows [c, D] with their numbers ids [c] int64. Non-finite ones are never near."""
        moved = rows.double() - self.center
        step = max(1, _BLOCK // max(rows.shape))
        for top in range(0, len(self.queries), step):
            at = slice(top, top + step)
            a = self.queries[at] - self.center
            d = (a.square().sum(1)[:, None] + moved.square().sum(1) - 2 * (a @ moved.T)).clamp_min(
                0
            )
            d = torch.where(torch.isfinite(d), d, torch.inf)
            self._merge(at, d, ids.expand(len(a), -1))

    def _merge(self, at: slice, near: Tensor, ids: Tensor) -> None:
        ids, order = torch.cat([self.ids[at], ids], 1).sort(dim=1)
        near, best = torch.cat([self.near[at], near], 1).gather(1, order).sort(dim=1, stable=True)
        k = self.ids.shape[1]
        self.near[at], self.ids[at] = near[:, :k], ids.gather(1, best)[:, :k]

    def within(self, eps: float) -> Tensor:
        """Numbers, in ascending order, of those nearer than eps to a query; of all ranks' rows."""
        near, ids = distributed.gather(self.near[None]), distributed.gather(self.ids[None])
        self.near, self.ids = self.near[:, :0], self.ids[:, :0]
        k = near.shape[2]
        flat, numbers = near.movedim(0, 1).flatten(1), ids.movedim(0, 1).flatten(1)
        numbers, order = numbers.sort(dim=1)
        flat, best = flat.gather(1, order).sort(dim=1, stable=True)
        numbers = numbers.gather(1, best)
        return numbers[:, :k][flat[:, :k] < eps].unique()


class Nearest:
    """Exact nearest neighbour of each query among rows that come in chunks.

    queries [S, D]. ||a||^2 + ||b||^2 - 2ab costs one matrix product, but cancels: its error is
    relative to the norms, not to the distance. So it only screens: whatever its error bound cannot
    exclude against the best known is measured as sum((a - b)^2) in float64, and that decides. Few
    pairs remain, because the origin is moved to the queries' mean and only record breakers pass.
    """

    def __init__(self, queries: Tensor):
        if queries.ndim != 2 or 0 in queries.shape:
            raise ValueError(f"need features [S >= 1, D >= 1], got {list(queries.shape)}")
        self.queries = queries.float()
        self.center = self.queries.mean(0)
        if not bool(torch.isfinite(self.center).all()):
            raise NonFiniteSearchError("the images' features are not finite: look at the images")
        s, device = queries.shape[0], queries.device
        self.best = torch.full((s,), torch.inf, dtype=torch.float64, device=device)
        self.ids = torch.full((s,), _NONE, dtype=torch.int64, device=device)
        # Relative error of the screen: each factor of the product rounded once if the device may
        # use TF32 (11 bits), and fp32 sums of D terms, for which sqrt(D) is generous
        product = 2.0**-10 if queries.is_cuda else 0.0
        self.slack = product + 4 * (queries.shape[1] ** 0.5 + 4) * 2.0**-24

    def update(self, rows: Tensor, ids: Tensor) -> None:
        """Offer rows [c, D] with their numbers ids [c] int64 (>= 0). Non-finite rows never win."""
        rows = rows.float()
        if rows.ndim != 2 or rows.shape[1] != self.queries.shape[1]:
            raise ValueError(
                f"features of samples {list(rows.shape)} do not fit those of the images "
                f"{list(self.queries.shape)}"
            )
        with torch.autocast(rows.device.type, enabled=False):
            moved = rows - self.center
            norms = moved.square().sum(1)
            keep = torch.isfinite(norms)
            if not bool(keep.all()):
                rows, moved, norms, ids = rows[keep], moved[keep], norms[keep], ids[keep]
            if not len(rows):
                return
            step = max(1, _BLOCK // max(rows.shape))
            for top in range(0, len(self.queries), step):
                self._block(slice(top, top + step), rows, moved, norms, ids)

    def _block(self, at: slice, rows: Tensor, moved: Tensor, norms: Tensor, ids: Tensor) -> None:
        a = self.queries[at] - self.center
        size = a.square().sum(1)[:, None] + norms
        low = (1.0 - self.slack) * size - 2.0 * (a @ moved.T)  # a lower bound of each distance
        bound = torch.minimum((low + 2.0 * self.slack * size).amin(1).double(), self.best[at])
        query, row = (low <= bound[:, None]).nonzero(as_tuple=True)
        d = torch.empty(len(query), dtype=torch.float64, device=rows.device)
        step = max(1, _BLOCK // rows.shape[1])
        for i in range(0, len(query), step):
            q, r = query[i : i + step], row[i : i + step]
            d[i : i + step] = (self.queries[at][q].double() - rows[r].double()).square().sum(1)
        # amin has no order, so neither chunks nor atomics can change the winner or a tie
        best = self.best[at].scatter_reduce(0, query, d, "amin")
        kept = torch.where(best < self.best[at], _NONE, self.ids[at])
        wins = d == best[query]
        self.ids[at] = kept.scatter_reduce(0, query[wins], ids[row[wins]], "amin")
        self.best[at] = best

    def result(self) -> PoolWinners:
        """The winners over everything offered, on all ranks; every rank must call it."""
        best, ids = distributed.gather(self.best[None]), distributed.gather(self.ids[None])
        distance = best.amin(0)
        winner = torch.where(best == distance, ids, _NONE).amin(0)
        if bool((winner == _NONE).any()):
            raise NonFiniteSearchError("no sample of the pool is finite; lower the learning rate")
        return PoolWinners(winner[:, None], distance)
