"""What the updates of one step share: one encoder pass over the pictures of all domains."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.omnigan.domains import DOMAINS, domain_of, other_reality
from models.omnigan.generator import OmniGenerator

Batches = Mapping[str, Mapping[str, Any]]
Parts = Mapping[str, tuple[Tensor, ...]]


@contextlib.contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """What is computed inside has a gradient for its inputs and none for these modules' weights."""
    weights = [p for module in modules for p in module.parameters() if p.requires_grad]
    for p in weights:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in weights:
            p.requires_grad_(True)


def over_parts(module: nn.Module, call: Callable[..., Any], parts: Parts) -> dict[str, Any]:
    """call(*part) of each part, in one call of all where that is the same.

    It is, unless the module has batch normalisation in training, whose statistics are of a part's
    own. A call gives a tensor, a list of lists of tensors (a multi-scale discriminator's), or a
    dict of them; each is cut along its first dimension.
    """
    if not parts:
        return {}
    if len(parts) == 1 or _has_batch_statistics(module):
        return {name: call(*part) for name, part in parts.items()}
    sizes = [len(part[0]) for part in parts.values()]
    out = call(*(torch.cat(column) for column in zip(*parts.values(), strict=True)))
    return dict(zip(parts, _cut(out, sizes), strict=True))


def _cut(out: Any, sizes: list[int]) -> list[Any]:
    if isinstance(out, Tensor):
        return list(out.split(sizes))
    if isinstance(out, dict):
        cut = {name: _cut(value, sizes) for name, value in out.items()}
        return [{name: cut[name][i] for name in out} for i in range(len(sizes))]
    columns = [_cut(value, sizes) for value in out]
    return [[column[i] for column in columns] for i in range(len(sizes))]


def _has_batch_statistics(module: nn.Module) -> bool:
    return any(
        isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in module.modules()
    )


class Shared:
    """The pictures of a multi-batch, their latents, and what is decoded of these.

    batches: {domain: {"data": {"x": [B, 3, H, W], and labels that there are}, "present": {task:
    bool [B]} of which samples have one}}. x, z: of each domain. Latents are computed once, when
    first asked for; updates of one step that share this object thus see the generator as it was
    when the step began. Errors: ValueError for a domain that there is not, or no batch at all.
    """

    def __init__(self, G: OmniGenerator, batches: Batches) -> None:
        for domain in batches:
            domain_of(domain)
        if not batches:
            raise ValueError("a step needs a batch of one domain at least")
        self.G, self.batches = G, batches
        self.domains = [domain for domain in DOMAINS if domain in batches]
        self.x: dict[str, Tensor] = {d: batches[d]["data"]["x"] for d in self.domains}
        self._z: dict[str, Tensor] | None = None
        self._decoded: dict[str, dict[str, Tensor]] | None = None

    @property
    def z(self) -> dict[str, Tensor]:
        """Latents."""
        if self._z is None:
            self._z = self.encode(self.x)
        return self._z

    @property
    def decoded(self) -> dict[str, dict[str, Tensor]]:
        """The outputs of all task decoders, whatever labels there are."""
        if self._decoded is None:
            self._decoded = self.decode(self.z)
        return self._decoded

    def label(self, domain: str, task: str) -> tuple[Tensor, Tensor | None] | None:
        """(labels, which samples have one, or None: all); None if the batch has none."""
        batch = self.batches[domain]
        if task not in batch["data"]:
            return None
        return batch["data"][task], (batch.get("present") or {}).get(task)

    def paired(self, across: Callable[[str], str] = other_reality) -> list[str]:
        """The domains whose partner is there too."""
        return [domain for domain in self.domains if across(domain) in self.domains]

    def encode(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Latents of pictures of several domains, in one pass."""
        return over_parts(self.G.encoder, self.G.encode, {d: (v,) for d, v in x.items()})

    def decode(self, z: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """{domain: outputs of the task decoders}, in one pass of each decoder."""
        return over_parts(self.G.decoders, self.G.decode_tasks, {d: (v,) for d, v in z.items()})

    def adapt(self, z: Mapping[str, Tensor], reality: str) -> dict[str, Tensor]:
        """Latents as real or simulated pictures."""
        parts = {d: (v,) for d, v in z.items()}
        return over_parts(self.G.decoders["a"], lambda v: self.G.adapt(v, reality), parts)

    def translate(
        self,
        z: Mapping[str, Tensor],
        decoded: Mapping[str, Mapping[str, Tensor]],
        to: Callable[[str], str],
    ) -> dict[str, Tensor]:
        """Latents of domains as pictures of the domain to(domain), each sample told its own."""
        G = self.G
        parts: dict[str, tuple[Tensor, ...]] = {}
        for d, v in z.items():
            target = torch.full((len(v),), domain_of(to(d)), device=v.device)
            cond = (G.conditioning(decoded[d]),) if G.spade else ()
            parts[d] = (v, target, *cond)

        def call(v: Tensor, target: Tensor, cond: Tensor | None = None) -> Tensor:
            return G.translate(v, cond, target)

        return over_parts(G.decoders["t"], call, parts)
