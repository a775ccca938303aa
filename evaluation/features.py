"""Features of a frozen network: the proof that it was frozen, extraction, files.

with frozen(model):
    bank, labels = extract(model.features, batches, device)
save_features(path, bank, labels, layer="h", snapshot=fingerprint(model), dataset="cifar10")
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from runtime import distributed
from storage.errors import first_line
from storage.files import write_bytes

_FORMAT = "imle-lab-features"


class Features(NamedTuple):
    """Float32 [N, d] and int64 [N] on the CPU, and what they are features of.

    layer: such as "h". snapshot: fingerprint of the network. dataset: name of set and split.
    """

    features: Tensor
    labels: Tensor
    layer: str
    snapshot: str
    dataset: str


class Pixels(nn.Module):
    """The picture itself as its features: what an encoder has to beat."""

    def features(self, x: Tensor) -> Tensor:
        """[N, 3, r, r] -> [N, 3 r r]."""
        return x.flatten(1)


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters and buffers.

    Buffers that a state dict leaves out are in it. Copies everything to the host once.
    """
    digest = hashlib.sha256()
    named: list[tuple[str, Tensor]] = [*module.named_parameters(remove_duplicate=False)]
    named += module.named_buffers(remove_duplicate=False)
    for name, tensor in sorted(named, key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _training(module: nn.Module) -> str | None:
    """Name of the first submodule in train mode."""
    return next((name or "it" for name, m in module.named_modules() if m.training), None)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within: eval mode and no gradient; on leaving, proof that nothing of the module changed.

    Parameters and buffers (statistics of BatchNorm among them) are hashed on entry and on leaving.
    Modes of all submodules come back as they were. What a module holds outside of parameters,
    buffers and submodules is not seen. Errors: RuntimeError if anything changed, or if a submodule
    is in train mode then (or stays so in spite of eval()); an error from inside goes first.
    """
    modes = [(m, m.training) for m in module.modules()]
    try:
        module.eval()
        _assert_eval(module, "in spite of eval()")
        before = fingerprint(module)
        with torch.no_grad():
            yield
        _assert_eval(module, "while it should be frozen")
        if fingerprint(module) != before:
            raise RuntimeError(
                "the frozen network changed: a parameter or a buffer (statistics of BatchNorm?) "
                "is not what it was"
            )
    finally:
        for m, mode in modes:
            m.training = mode


def _assert_eval(module: nn.Module, when: str) -> None:
    name = _training(module)
    if name is not None:
        raise RuntimeError(f"the frozen network is not frozen: {name} is in train mode {when}")


@torch.no_grad()
def extract(
    function: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device | str | None = None,
    *,
    out: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Features of all batches: (float32 [N, d], labels int64 [N]).

    function: images as the batches have them -> features [n, d], any floating type. device: where
    the images go first, default where they are. out: where the result lies, default where the
    features are made: then nothing waits for that device until the end. Errors: ValueError.
    """
    rows, labels = [], []
    for images, y in batches:
        if device is not None:
            images = images.to(device, non_blocking=True)
        h = function(images)
        if h.dim() != 2 or not h.is_floating_point() or len(h) != len(images):
            raise ValueError(
                f"{len(images)} images gave {h.dtype} {list(h.shape)} instead of floats "
                f"[{len(images)}, d]"
            )
        if y.shape != (len(h),):
            raise ValueError(f"{len(h)} images came with labels {list(y.shape)}")
        rows.append(h.to(out, torch.float32) if out is not None else h.float())
        labels.append(y)
    if not rows:
        raise ValueError("no batch came: there is nothing to extract")
    beside = [y.to(rows[0].device, torch.int64, non_blocking=True) for y in labels]
    return torch.cat(rows), torch.cat(beside)


def gather_rows(rows: Tensor, ids: Tensor) -> Tensor:
    """Rows of all ranks in the order of their numbers, the same on every rank; all ranks call it.

    rows: [n, ...] of this rank, n may differ and be 0. ids: int64 [n], the number of each row (its
    seed, its place in the data set). So what depends on the order of rows (subsets, splits, pairs)
    does not depend on how ranks shared the work. Errors: ValueError on all ranks for a number that
    comes twice; for shapes that do not fit.
    """
    if ids.shape != rows.shape[:1] or ids.dtype != torch.int64:
        raise ValueError(f"rows {list(rows.shape)} and their numbers {ids.dtype} {list(ids.shape)}")
    most = distributed.all_reduce_max(len(rows))
    size = distributed.gather(torch.tensor(len(rows)))
    kept = torch.arange(most) < size[:, None]

    def everyone(t: Tensor) -> Tensor:
        padded = t.new_zeros(most, *t.shape[1:])
        padded[: len(t)] = t
        return distributed.gather(padded)[kept.flatten().to(t.device)]

    numbers, order = everyone(ids.to(rows.device)).sort()
    twice = (numbers[1:] == numbers[:-1]).nonzero()
    if len(twice):
        raise ValueError(f"row {int(numbers[twice[0, 0]])} came twice")
    return everyone(rows)[order]


def save_features(
    path: Path, features: Tensor, labels: Tensor, *, layer: str, snapshot: str, dataset: str
) -> Path:
    """Write features [N, d] (as float32) and labels [N] with their facts, one safetensors file.

    Tensors `features` and `labels`; facts and a SHA-256 of both in the header. Atomic: written
    beside the file, flushed, renamed. Errors: ValueError for shapes and empty facts; OSError.
    """
    from safetensors.torch import save

    path = Path(path)
    features = features.detach().to("cpu", torch.float32).contiguous()
    labels = labels.detach().to("cpu", torch.int64).contiguous()
    facts = {"layer": layer, "snapshot": snapshot, "dataset": dataset}
    if features.dim() != 2 or labels.shape != (len(features),):
        raise ValueError(f"features {list(features.shape)} and labels {list(labels.shape)}")
    for key, value in facts.items():
        if not isinstance(value, str) or not value:
            raise ValueError(f"{key}={value!r}: features are of no use without it")
    digest = _digest(features, labels)
    header = {"format": _FORMAT, "version": "1", "sha256": digest, **facts}
    content = save({"features": features, "labels": labels}, metadata=header)
    write_bytes(path, content)
    return path


def load_features(path: Path) -> Features:
    """Read what `save_features` wrote. Errors: ValueError for a missing, foreign, damaged file."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            if header.get("format") != _FORMAT or header.get("version") != "1":
                raise ValueError("no features of ours, version 1")
            features, labels = file.get_tensor("features"), file.get_tensor("labels")
        if header.get("sha256") != _digest(features, labels):
            raise ValueError("damaged: the checksum is another")
        facts = [header[key] for key in ("layer", "snapshot", "dataset")]
    except OSError as error:
        raise ValueError(f"features {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, SafetensorError) as error:
        raise ValueError(f"features {path}: {first_line(error)}") from error
    return Features(features, labels, *facts)


def _digest(features: Tensor, labels: Tensor) -> str:
    digest = hashlib.sha256(f"{list(features.shape)} {list(labels.shape)};".encode())
    digest.update(_bytes(features))
    digest.update(_bytes(labels))
    return digest.hexdigest()
