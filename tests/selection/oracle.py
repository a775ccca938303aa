"""Brute force: equation (1) with whole B x B arrays, and the probability of every outcome."""

from __future__ import annotations

import itertools

import numpy as np


def pair_scores(learner: np.ndarray, ref: np.ndarray, learnability: bool, inverted: bool):
    """s_ij [B, B] from losses [B] (s_ij = learner_i - ref_j) or [B, B]."""
    if learner.ndim == 1:
        learner, ref = np.meshgrid(learner, ref, indexing="ij")
    scores = learner - ref if learnability else -ref
    return -scores if inverted else scores


def logits(scores: np.ndarray, sampled, normalise: bool = True) -> np.ndarray:
    """Logits of all rows after `sampled`, by masks; -inf where sampled."""
    drawn = np.zeros(len(scores))
    drawn[list(sampled)] = 1
    joint = (scores * drawn[:, None]).sum(0) + (scores * drawn[None, :]).sum(1)
    out = np.diag(scores) + joint
    if normalise:
        out = out / (2 * drawn.sum() + 1)
    return np.where(drawn > 0, -np.inf, out)


def softmax(x: np.ndarray) -> np.ndarray:
    p = np.exp(x - x.max())
    return p / p.sum()


def probabilities(scores, sampled, *, first_chunk, normalise, temperature) -> np.ndarray:
    """Probabilities of the next row of a chunk that begins after `sampled`."""
    if len(sampled) == 0 and first_chunk == "uniform":
        return np.full(len(scores), 1 / len(scores))
    return softmax(logits(scores, sampled, normalise) / temperature)


def outcomes(
    scores, sizes, *, first_chunk="uniform", normalise=True, temperature=1.0
) -> dict[tuple[int, ...], float]:
    """Probability of every sequence of rows: successive draws, logits renewed at each chunk."""
    settings = dict(first_chunk=first_chunk, normalise=normalise, temperature=temperature)
    found = {(): 1.0}
    for c in sizes:
        longer = {}
        for before, weight in found.items():
            p = probabilities(scores, before, **settings)
            rest = [j for j in range(len(scores)) if j not in before]
            for chunk in itertools.permutations(rest, c):
                chance, left = weight, 1.0
                for j in chunk:
                    chance *= p[j] / left
                    left -= p[j]
                longer[before + chunk] = chance
        found = longer
    return found


def draw(scores, sizes, rng, *, first_chunk="uniform", normalise=True, temperature=1.0):
    """One draw by NumPy's choice from the masked logits."""
    sampled: list[int] = []
    for c in sizes:
        p = probabilities(
            scores, sampled, first_chunk=first_chunk, normalise=normalise, temperature=temperature
        )
        sampled += rng.choice(len(scores), c, replace=False, p=p).tolist()
    return sampled
