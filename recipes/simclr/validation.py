"""What an encoder has learnt, as figures of a frozen network on pictures; no run, no options.

with frozen(net):
    rows = embedded(encode, trained, tested)
    judged = judge(rows.features, rows.labels, [knn(rows, folds=5)], held=rows.held, folds=5)
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from data.views.recipes import ExactViews, FoldedViews, Recipe, view_keys
from data.views.splits import Plain
from evaluation.linear_probe import Sweep, moments
from evaluation.probes import augmented_probe, few_shot, stable_lr
from evaluation.protocols import Method, knn_method, linear_method
from recipes.simclr.parts import Pictures, images_at
from runtime import distributed
from runtime.counter_rng import permutation
from storage.errors import NonFiniteError

FEATURES_AT_ONCE = 512
PROBE_BATCH = 512
PROBE_DRAWS = 1 << 20  # number of the view that probes are trained on; training's are 0, 1, ...
PROBES = {"knn": "kNN", "linear": "linear probe", "augmented": "probe on augmented pictures"}
EPISODE = (5, 5, 15)  # ways, most shots, queries

Autocast = Callable[[], AbstractContextManager[None]]
Report = Callable[[int, int], object]  # is told (how much is done, of how much)


def unheard(done: int, total: int) -> None:
    """A `Report` that nobody wants."""


class Encoder(Protocol):
    """A network that has features: views float32 [N, 3, r, r] -> h [N, d]."""

    def features(self, x: Tensor) -> Tensor: ...


class Rows(NamedTuple):
    """What probes are fitted on and judged by, all on one device.

    features: h float32 [N, d] of the training pictures, labels int64 [N] their classes. held: the
    same of the pictures held out; None: figures are of folds of train. layer: what h is.
    """

    features: Tensor
    labels: Tensor
    held: tuple[Tensor, Tensor] | None
    classes: int
    layer: str = "h"


def features(
    net: Encoder,
    images: Tensor,
    recipe: Recipe,
    device: torch.device,
    autocast: Autocast,
    each: Report = unheard,
) -> Tensor:
    """h float32 [N, d] of pictures uint8 [N, 3, s, s] without augmentation, on the device.

    Ranks share the work. each: is given (pictures done, of how many). Call it inside `frozen(net)`.
    NonFiniteError for a diverged network.
    """
    plain = Plain(recipe.size, recipe.mean, recipe.std)
    rank, ranks = distributed.rank(), distributed.world_size()
    share = -(-len(images) // ranks)  # the last ranks repeat a picture or so
    own = (torch.arange(share) * ranks + rank).clamp(max=len(images) - 1)
    found, done = [], 0
    for rows in own.split(FEATURES_AT_ONCE):
        with autocast():
            found.append(net.features(plain(images_at(images, rows, device))).float())
        done += len(rows)
        each(done, share)
    h = distributed.interleave(torch.cat(found))[: len(images)]
    if not h.isfinite().all():
        raise NonFiniteError(
            "features that are not finite: the network has diverged; lower --lr, and start anew or "
            "from an earlier checkpoint"
        )
    return h


def embedded(
    encode: Callable[[Tensor], Tensor],
    trained: Pictures,
    tested: Pictures | None,
    layer: str = "h",
) -> Rows:
    """Features and labels of train, and of what is held out.

    encode: pictures uint8 [N, 3, s, s] -> h [N, d], such as `features` of a network.
    """
    h = encode(trained.images)
    held = None if tested is None else (encode(tested.images), tested.labels.to(h.device))
    return Rows(h, trained.labels.to(h.device), held, len(trained.classes), layer)


def majority(rows: Rows) -> float:
    """What always saying train's commonest class gets right of what is judged: a share in [0, 1].

    rows with at least one training picture.
    """
    commonest = rows.labels.bincount().argmax()
    judged = rows.labels if rows.held is None else rows.held[1]
    return float((judged == commonest).double().mean())


def verdict(figures: Mapping[str, float], share: float) -> str:
    """Accuracies in a line, the first of each kind of probe, beside the majority class's share."""
    said: dict[str, str] = {}
    for name, value in figures.items():
        kind = name.split("(")[0]
        if name.endswith(" acc1") and kind in PROBES:
            said.setdefault(kind, f"{PROBES[kind]} {100 * value:.1f} %")
    return f"{', '.join(said.values())} (majority class {100 * share:.1f} %)"


def knn(rows: Rows, *, folds: int) -> Method:
    """Weighted kNN; folds: those of train, where nothing is held out."""
    return knn_method(
        rows.features,
        rows.labels,
        rows.classes,
        folds=folds if rows.held is None else None,
        layer=rows.layer,
    )


def linear(
    rows: Rows, *, seed: int, found: Callable[[Sweep], None], each: Report = unheard
) -> Method:
    """The convex probe; found: is given what came out as its l2, fold by fold, and each, which
    fits of a fold are done."""
    return linear_method(
        rows.features, rows.labels, rows.classes, seed=seed, layer=rows.layer, found=found,
        each=each,
    )  # fmt: skip


def augmented(
    net: Encoder,
    images: Tensor,
    rows: Rows,
    make_views: ExactViews | FoldedViews,
    *,
    name: str,
    epochs: int,
    seed: int,
    device: torch.device,
    autocast: Autocast,
    each: Report = unheard,
) -> Method:
    """A linear head trained by SGD on views of train that are drawn anew in every epoch.

    Features are standardised by the plain ones, and the rate is the largest that is surely stable
    for them: an under-trained head is what once made augmented probes look necessary.
    images: uint8 [N, 3, s, s], those of `rows`. name: of the augmentations. each: is given (epochs
    done, of how many) in every fold when one begins, and may raise.
    """

    def function(x: Tensor) -> Tensor:
        with autocast():
            return net.features(x)

    def predict(fitted_on: Tensor, query: Tensor) -> dict[str, Tensor]:
        chosen, batch = fitted_on.cpu(), min(PROBE_BATCH, len(fitted_on))
        mean, std = moments(rows.features[fitted_on])

        def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            each(epoch, epochs)
            order = chosen[permutation(len(chosen), seed, PROBE_DRAWS, epoch)]
            for ids in order.split(batch):
                part, ids = images_at(images, ids, device), ids.to(device)
                views = make_views(part, view_keys(seed, epoch, ids, PROBE_DRAWS))
                yield views, rows.labels[ids]

        head = augmented_probe(
            function,
            batches,
            rows.classes,
            epochs=epochs,
            steps_per_epoch=-(-len(chosen) // batch),
            lr=stable_lr((rows.features[fitted_on].double() - mean) / std),
            standardise=(mean, std),
        )
        each(epochs, epochs)
        full = f"augmented({name}, {epochs} epochs, standardised, {rows.layer})"
        return {full: head.logits(query)}

    return predict


def episodes(h: Tensor, labels: Tensor, shots: int, method: str, seed: int) -> dict[str, float]:
    """Few-shot figures on classes that nothing was fitted on, with 95 % intervals over episodes."""
    ways, _, queries = EPISODE
    done = few_shot(h, labels, ways=ways, shots=shots, queries=queries, seed=seed, method=method)
    name, (mean, low, high, _) = done.name(), done.interval
    return {f"{name} acc1": mean, f"{name} low": low, f"{name} high": high}
