"""What train_omnigan.py looks at: figures of every task and domain, panels of pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from data.omni import NO_CLASS, depth_of
from evaluation.maps import (
    Sums,
    added,
    confusion,
    depth_sums,
    means,
    overlap_sums,
    segmentation_figures,
)
from evaluation.samples import psnr
from models.omnigan import OmniGenerator, Shared, other_flood, other_reality
from models.omnigan.domains import domain_of
from storage.layout_pictures import street_map
from storage.pictures import Captions

Move = Callable[[Mapping[str, Any]], dict[str, Any]]


class Panel(NamedTuple):
    """images [n * columns, 3, H, W] in [0, 1], row by row, and what stands on them."""

    images: Tensor
    columns: int
    captions: Captions


@contextlib.contextmanager
def evaluating(*modules: nn.Module | None) -> Iterator[None]:
    """Networks as they are used, without gradients; afterwards as they were."""
    there = [m for m in modules if m is not None]
    was = [m.training for m in there]
    for module in there:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in zip(there, was, strict=True):
            module.train(training)


def measure(
    G: OmniGenerator,
    C: nn.Module | None,
    loaders: Mapping[str, Any],
    move: Move,
    samples: int,
    each: Callable[[int, int], object] = lambda done, total: None,
) -> dict[str, float]:
    """Figures of up to `samples` samples of each domain, `val/s/miou/rf` and so on.

    s: accuracy, miou, majority (the accuracy of the most frequent class); d: abs_rel, rmse, delta1
    up to 100 m; h: mae; w: iou; t: psnr of a picture and itself through its own translation, and
    before and after, the shares of w's water in pictures that are translated; classifier: accuracy
    (of four domains that cannot be told apart it is a quarter).
    """
    found: dict[str, float] = {}
    with evaluating(G, C):
        for number, (domain, batches) in enumerate(loaders.items()):
            each(number, len(loaders))
            count = -(-samples // batches.batch_size)
            sums: Sums = {}
            counts: Tensor | None = None
            for batch in islice(batches, count):
                on = move({domain: batch})
                shared = Shared(G, on)
                sums = added(sums, _sums(shared, C, domain))
                if "s" in G.tasks and (label := _labelled(on[domain], "s")) is not None:
                    logits = shared.decoded[domain]["s"]
                    this = confusion(
                        logits.argmax(1)[label[1]], label[0], logits.shape[1], NO_CLASS
                    )
                    counts = this if counts is None else counts + this
            named = means(sums)
            if counts is not None:
                named |= {f"s/{k}": v for k, v in segmentation_figures(counts).items()}
            found |= {f"val/{name}/{domain}": value for name, value in named.items()}
    return found


def _labelled(batch: Mapping[str, Any], task: str) -> tuple[Tensor, Tensor] | None:
    """(labels of the samples that have one, which those are); None if there are none."""
    if task not in batch["data"]:
        return None
    rows = batch["present"][task].nonzero()[:, 0]
    return batch["data"][task][rows], rows


def _sums(shared: Shared, C: nn.Module | None, domain: str) -> Sums:
    G, batch, decoded = shared.G, shared.batches[domain], shared.decoded[domain]
    sums: Sums = {}
    for task in ("d", "h", "w"):
        if task not in G.tasks or (label := _labelled(batch, task)) is None:
            continue
        output = decoded[task][label[1]].float()
        if task == "d":
            known = depth_sums(depth_of(output), depth_of(label[0]))
            sums |= {f"d/{k}": v for k, v in known.items()}
        elif task == "h":
            sums["h/mae"] = (float((output - label[0]).abs().sum()), float(output.numel()))
        else:
            sums["w/iou"] = overlap_sums(G.wet(output), label[0] > 0.5)["iou"]
    if "t" in G.tasks:
        own = shared.translate(shared.z, shared.decoded, lambda d: d)[domain]
        value = psnr(_unit(own), _unit(shared.x[domain]))
        sums["t/psnr"] = (float(value.sum()), float(len(value)))
        if "w" in G.tasks:
            other = shared.translate(shared.z, shared.decoded, other_flood)
            after = G.wet(shared.decode(shared.encode(other))[domain]["w"])
            for name, wet in (("before", G.wet(decoded["w"])), ("after", after)):
                sums[f"t/water_{name}"] = (float(wet.sum()), float(wet.numel()))
    if C is not None:
        right = C(shared.z[domain]).argmax(1) == domain_of(domain)
        sums["classifier/accuracy"] = (float(right.sum()), float(len(right)))
    return sums


def panels(G: OmniGenerator, loaders: Mapping[str, Any], move: Move, rows: int) -> dict[str, Panel]:
    """A panel of each domain: pictures, under each task what the label says and what the decoder,
    adapted to the other reality, translated to the other flood and back."""
    found = {}
    with evaluating(G):
        for domain, batches in loaders.items():
            batch = next(iter(batches))
            on = move({domain: batch})
            shared = Shared(G, on)
            columns = _columns(shared, domain)
            n = min(rows, len(shared.x[domain]))
            stack = torch.stack([c[:n].float().cpu() for c in columns.values()], 1)
            title = Captions(f"{domain}: labels and what is made of the picture", list(columns))
            found[domain] = Panel(stack.flatten(0, 1), len(columns), title)
    return found


def _columns(shared: Shared, domain: str) -> dict[str, Tensor]:
    G, batch, x = shared.G, shared.batches[domain], shared.x[domain]
    columns = {"x": _unit(x)}
    for task in G.conditions:
        if task in batch["data"]:
            columns[f"{task} label"] = street_map(task, batch["data"][task])
        output = shared.decoded[domain][task]
        seen = output.argmax(1) if task == "s" else G.water(output) if task == "w" else output
        columns[task] = street_map(task, seen)
    if "a" in G.tasks:
        to = other_reality(domain)
        columns[f"a to {to}"] = _unit(shared.adapt(shared.z, to[0])[domain])
    if "t" in G.tasks:
        fake = shared.translate(shared.z, shared.decoded, other_flood)
        z = shared.encode(fake)
        back = shared.translate(z, shared.decode(z), lambda d: d)
        columns[f"t to {other_flood(domain)}"] = _unit(fake[domain])
        columns["and back"] = _unit(back[domain])
    return columns


def _unit(x: Tensor) -> Tensor:
    return ((x.float() + 1) / 2).clamp(0, 1)


def verdict(figures: Mapping[str, float], domains: Sequence[str]) -> str:
    """What the last figures say, in a line."""
    said = []
    for name, word in (("s/accuracy", "segmentation"), ("s/majority", "its most frequent class")):
        values = [figures[k] for d in domains if (k := f"val/{name}/{d}") in figures]
        if values:
            said.append(f"{word} {sum(values) / len(values):.3f}")
    for name, word in (("d/delta1", "depth within a quarter"), ("w/iou", "water IoU")):
        values = [figures[k] for d in domains if (k := f"val/{name}/{d}") in figures]
        if values:
            said.append(f"{word} {sum(values) / len(values):.3f}")
    return ", ".join(said) or "no labels to measure by"
