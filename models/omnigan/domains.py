"""omnigan's letters: four domains, six tasks.

| domain | index | pictures |
|---|---|---|
| rf | 0 | real, flooded |
| rn | 1 | real, not flooded |
| sf | 2 | simulated, flooded |
| sn | 3 | simulated, not flooded |

| task | what a decoder makes of the latent |
|---|---|
| a | adaptation: the picture as a real one (r) or as a simulated one (s) |
| d | depth |
| h | height over the ground |
| s | segmentation, logits of classes |
| t | translation: the picture flooded (f) or not (n) |
| w | water, one logit |
"""

from __future__ import annotations

from collections.abc import Iterable

DOMAINS = ("rf", "rn", "sf", "sn")
TASKS = ("a", "d", "h", "s", "t", "w")
REALITIES = ("r", "s")
FLOODS = ("f", "n")
# Those whose outputs condition the translation, in the order of their channels
CONDITIONS = ("d", "h", "s", "w")


def other_flood(domain: str) -> str:
    """The domain across the flood: rf <-> rn, sf <-> sn."""
    return domain[0] + ("n" if domain[1] == "f" else "f")


def other_reality(domain: str) -> str:
    """The domain across reality: rf <-> sf, rn <-> sn."""
    return ("s" if domain[0] == "r" else "r") + domain[1]


def checked_tasks(tasks: Iterable[str]) -> tuple[str, ...]:
    """Tasks, sorted. Errors: ValueError for none, a letter twice, or one that is no task."""
    given = list(tasks)
    wrong = sorted({task for task in given if task not in TASKS or given.count(task) > 1})
    if wrong or not given:
        raise ValueError(
            f"tasks {''.join(given)!r}: each is one of {' '.join(TASKS)}, once, and there is at "
            "least one"
        )
    return tuple(sorted(given))


def domain_of(domain: str) -> int:
    """The index of a domain. Errors: ValueError."""
    if domain not in DOMAINS:
        raise ValueError(f"domain {domain!r}: it is one of {', '.join(DOMAINS)}")
    return DOMAINS.index(domain)
