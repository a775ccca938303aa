"""Options -> extractors: their weights, their resizing, and encoders of ours among them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from data.prepare.weights import EXTRACTORS, extractor_file
from evaluation.extractors import Extractor, Outputs, Request, open_extractor, split_word
from evaluation.features import fingerprint
from recipes.simclr.encoder import Encoder
from storage.dirs import models_home
from storage.errors import CheckpointError, UsageError
from storage.files import expanded, read_bytes
from storage.find import find_file

_SAME = {"dinov2_vitl14": "dinov2"}  # another word for one


class Weights(NamedTuple):
    """files: word of an extractor -> its weights. random: words that get random ones; None in it:
    all that have no file."""

    files: dict[str, Path]
    random: frozenset[str | None]


def weights_of(words: Sequence[str] | None) -> Weights:
    """--weights: `random`, `WORD=random`, `WORD=FILE`. Errors: UsageError."""
    files: dict[str, Path] = {}
    random: set[str | None] = set()
    for said in words or ():
        word, equals, value = said.rpartition("=")
        if said == "random":
            random.add(None)
        elif not equals or not word:
            raise UsageError(f"--weights {said}: WORD=FILE, such as inception=FILE, or random")
        elif value == "random":
            random.add(word)
        else:
            files[word] = expanded(value)
    return Weights(files, frozenset(random))


def open_all(
    words: Sequence[str], args: Namespace, device: torch.device, resize: Mapping[str, str]
) -> dict[str, Extractor]:
    """Extractors by their words. resize: policy by an extractor's name, for --resize auto.

    Errors: UsageError, also for two of one name, or weights that are of none; CheckpointError.
    """
    weights = weights_of(args.weights)
    given = [*words, *([args.classifier] if getattr(args, "classifier", None) else [])]
    bare = {_bare(word) for word in given}
    for word in (*weights.files, *(w for w in weights.random if w)):
        if word not in bare:
            raise UsageError(f"--weights {word}=: {word} is not among {', '.join(sorted(bare))}")
    found: dict[str, Extractor] = {}
    for word in words:
        policy = None if args.resize == "auto" else args.resize
        found[word] = open_one(word, weights, device, policy, resize)
    names = [e.name for e in found.values()]
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise UsageError(f"--extractor: two are called {twice}, which names of metrics cannot tell")
    return found


def open_one(
    word: str,
    weights: Weights,
    device: torch.device,
    resize: str | None = None,
    known: Mapping[str, str] | None = None,
    order: Tensor | None = None,
) -> Extractor:
    """The extractor of a word. known: resize by name, where none is asked for."""
    kind, name, _ = split_word(word)
    bare = _bare(word)
    file = weights.files.get(bare)
    random = None
    if file is None and (bare in weights.random or None in weights.random):
        random = None if kind in ("file", "simclr", "pixels") else 0
    own = resize or (known or {}).get(kind)
    if kind == "simclr":
        if own not in (None, "own"):
            raise UsageError(
                f"--resize {own}: {word} is shown pictures as it was trained, no other"
            )
        return encoder(name, device)
    net = _SAME.get(kind, kind)
    if file is None and random is None and net in EXTRACTORS:
        file = extractor_file(models_home(), net)
        if not file.is_file():
            raise UsageError(
                f"{kind} needs its weights, there is no {file}: run `python data/SetupDataset.py "
                f"fetch-weights --nets {net}`, or give --weights {bare}=FILE, or --weights random "
                "(not comparable with anything)"
            )
    if file is None and random is None and kind == "torchvision":
        file = _torchvision_file(name)
    request = Request(weights=file, random=random, resize=own, order=order, device=device)
    return open_extractor(word, request)


def _bare(word: str) -> str:
    """A word without its settings: what --weights names it by."""
    return word.split(",")[0]


def _torchvision_file(name: str) -> Path | None:
    """Where torchvision's own newest weights of a network lie, if it has fetched them."""
    from torchvision import models

    try:
        address = models.get_model_weights(name).DEFAULT.url
    except (ValueError, AttributeError):
        return None  # whoever opens it says so
    file = models_home() / "hub" / "checkpoints" / address.rsplit("/", 1)[-1]
    if not file.is_file():
        raise UsageError(
            f"torchvision:{name} needs its weights: place {address} at {file}, or give "
            f"--weights torchvision:{name}=FILE, or --weights random (not comparable)"
        )
    return file


def encoder(path: str, device: torch.device) -> Extractor:
    """An encoder of TrainSimCLR.py or TrainISICLE.py as an extractor: simclr:RUN.

    Pictures are made what it was trained on: the central square, Pillow's bicubic, normalised.
    Errors: CheckpointError, UsageError.
    """
    own = Encoder.open(find_file(path), device=device)

    def prepare(images: Tensor) -> Tensor:
        return own.prepare(list(images.cpu()))

    about = {
        "resize": "own: central square, Pillow's bicubic, as it was trained",
        "side": own.size,
        "weights": Path(path).name,
        "sha256": fingerprint(own.net),
    }
    return Extractor(
        "simclr", own.net, lambda x: Outputs(own.net.features(x), None), prepare, about,
        device=device,
    )  # fmt: skip


def label_order(file: str | None) -> Tensor | None:
    """--label_order: the classifier's number of each class of the data, int64 [C], or None.

    Errors: UsageError for a file that is no list of different whole numbers.
    """
    if file is None:
        return None
    try:
        words = read_bytes(expanded(file)).decode().split()
        found = torch.tensor([int(float(word)) for word in words], dtype=torch.int64)
    except OSError as error:
        raise UsageError(f"--label_order {file}: {error.strerror}") from error
    except (ValueError, UnicodeDecodeError, OverflowError):
        raise UsageError(f"--label_order {file}: not a list of whole numbers") from None
    if not len(found) or len(found.unique()) < len(found) or int(found.min()) < 0:
        raise UsageError(f"--label_order {file}: {len(found)} numbers, each class once from 0 on")
    return found


def classifier(args: Namespace, device: torch.device) -> Extractor | None:
    """The network of --classifier, its classes in the data's order. Errors: UsageError,
    CheckpointError."""
    if args.classifier is None:
        return None
    order = label_order(args.label_order)
    found = open_one(args.classifier, weights_of(args.weights), device, order=order)
    if "classes" not in found.about and order is not None:
        raise CheckpointError(f"--label_order: {args.classifier} says nothing of its classes")
    return found
