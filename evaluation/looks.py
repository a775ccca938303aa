"""What samples of one input are judged by beside their distance to the target: how much they
differ, and, task by task, hues and seams.

Images are [N, C, H, W] in [0, 1] unless it says otherwise; every function returns one value a row
and leaves averaging to the caller. Nothing here knows a network or a corruption.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evaluation.samples import best_of_k


def best_gain(distances: Tensor) -> Tensor:
    """By which share the best of K samples is nearer than they are on average: [N, K] -> [N].

    1 - min / mean, 0 where all are equal and where the mean is 0.
    """
    mean = distances.mean(1)
    return torch.where(mean > 0, 1 - best_of_k(distances) / mean, torch.zeros_like(mean))


def spread(samples: Tensor) -> Tensor:
    """Where samples differ: their standard deviation in each pixel, mean of channels.

    samples [N, K, C, H, W] -> [N, 1, H, W]; divided by K, so that one sample has 0.
    """
    return samples.std(1, correction=0).mean(1, keepdim=True)


def chroma_distance(lab: Tensor, other: Tensor) -> Tensor:
    """Mean over pixels of the distance in the plane of a and b, in units of CIE LAB.

    lab, other: [N, 3, H, W], L in [0, 100], a and b in about [-127, 127] -> [N]. About 2 is just
    seen; lightness has no influence.
    """
    return (lab - other)[:, 1:].square().sum(1).sqrt().flatten(1).mean(1)


def one_color(lab: Tensor) -> Tensor:
    """The same lightness with the mean of a and of b in every pixel: [N, 3, H, W] of CIE LAB."""
    means = lab[:, 1:].mean((2, 3), keepdim=True)
    return torch.cat([lab[:, :1], means.expand_as(lab[:, 1:])], 1)


def edge_gradient(images: Tensor, holes: Tensor) -> Tensor:
    """Mean absolute step between neighbours of which one lies in a hole and the other does not.

    images [N, C, H, W]; holes bool [1 or N, 1, H, W]. Neighbours in a row or in a column, mean of
    channels and of all such pairs -> [N]; nan for images without any. Of filled holes over that of
    the real pictures it says whether seams are seen: 1 is as in real pictures, more is a seam.
    """
    holes = holes.expand(len(images), -1, -1, -1)
    total = images.new_zeros(len(images))
    pairs = images.new_zeros(len(images))
    for dim in (2, 3):
        step = images.diff(dim=dim).abs().mean(1, keepdim=True)
        edge = holes.diff(dim=dim)
        total = total + (step * edge).flatten(1).sum(1)
        pairs = pairs + edge.flatten(1).sum(1)
    return total / pairs
