"""torchvision's data sets, unchanged: `torchvision:MNIST`.

    torchvision:NAME                        a class of torchvision.datasets
    torchvision:NAME/val                    one of its splits
    torchvision:EMNIST:split=letters        with arguments of its constructor
    torchvision:FakeData:size=100,num_classes=3

The files lie under the data directory, in `torchvision/`, as torchvision puts them there;
`SetupDataset.py --data torchvision:NAME` has it fetch them. It reads them by its own code, pickles
among them where a set is distributed so (CIFAR); the sets that have a name here are read as data.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.decode import bad_image, to_rgb
from data.readers.base import Found, refused
from data.sources import SPLIT_ALIASES, Place, Source, check_split, split_of
from storage.errors import DataError, first_line

PREFIX = "torchvision:"
FOLDER = "torchvision"
_SPEC = re.compile(r"torchvision:(?P<name>\w+)(?::(?P<arguments>.*))?")
_SPLITS = ("split", "image_set")  # arguments that choose one by name


def is_torchvision(spec: str) -> bool:
    """Whether a spec names one of torchvision's sets."""
    return spec.startswith(PREFIX)


def recognise(spec: str, data_path: Path) -> Found:
    """What a spec `torchvision:...` names. What is wrong with it is told when it is opened."""
    try:
        made = Torchvision(spec, data_path)
        own = made.own
        return Found(None if own else made.splits(), lambda split: made.open(own or split))
    except DataError as error:
        return refused(str(error))


class Torchvision:
    """A spec, understood: which class, which arguments, which split if it names one (`own`).

    Errors: DataError for a class or an argument that there is not.
    """

    def __init__(self, spec: str, data_path: Path) -> None:
        head, _, last = spec.rpartition("/")
        self.own = split_of(last) if head and "=" not in last else None
        if self.own:
            spec = head
        match = _SPEC.fullmatch(spec)
        if match is None:
            raise DataError(f"{spec} is not torchvision:NAME[:argument=value,...][/split]")
        self.spec, self.name = spec, match["name"]
        self.root = data_path / FOLDER
        self.make = _class(self.name)
        self.parameters = _parameters(self.make)
        self.arguments = _arguments(match["arguments"] or "", self.parameters, spec)

    def splits(self) -> tuple[str, ...]:
        """Those there are to choose from, () where it has none."""
        if "train" in self.parameters and "train" not in self.arguments:
            return ("train", "test")
        chosen = self._chooser()
        if chosen is None:
            return ()
        found = []
        for split, words in SPLIT_ALIASES.items():
            if any(self._accepts(chosen, word) for word in words):
                found.append(split)
        return tuple(found)

    def open(self, split: str, *, download: bool = False) -> Source:
        """The set as a Source. Errors: DataError, with how to fetch it if it is not there."""
        split = check_split(split)
        dataset, label = self._dataset(split, download), self.splits()
        name = f"{self.name}/{split}" if label else self.name
        return TorchvisionSource(
            dataset, name, self.spec, Place(f"torchvision's files in {self.root}", label)
        )

    def fetch(self) -> list[str]:
        """Have torchvision download what it can: the splits that are there then."""
        self.root.mkdir(parents=True, exist_ok=True)
        splits = [self.own] if self.own else list(self.splits() or ("train",))
        for split in splits:
            self.open(split, download=True)
        return splits

    def _dataset(self, split: str, download: bool) -> Any:
        arguments = dict(self.arguments)
        if "root" in self.parameters:
            arguments.setdefault("root", str(self.root))
        if "download" in self.parameters:
            arguments["download"] = download
        if "train" in self.parameters and "train" not in arguments:
            if split == "val":
                raise DataError(f"{self.spec} has no split val; it has train, test")
            arguments["train"] = split == "train"
        elif (chosen := self._chooser()) is not None:
            there = self.splits()
            if split not in there:
                raise DataError(f"{self.spec} has no split {split}; it has {', '.join(there)}")
            words = SPLIT_ALIASES[split]
            arguments[chosen] = next(w for w in words if self._accepts(chosen, w))
        try:
            return self.make(**arguments)
        except DataError:
            raise
        except Exception as error:  # of torchvision's, any kind
            raise DataError(self._told(error, download)) from None

    def _told(self, error: Exception, download: bool) -> str:
        text = first_line(error, 200)
        if not download and re.search(
            r"download=True|not found|No such file|corrupted", str(error)
        ):
            return (
                f"{self.spec} is not in {self.root} ({text}); run `python data/SetupDataset.py "
                f"--data {self.spec}` or give --data_path"
            )
        return f"{self.spec}: torchvision says: {text}"

    def _chooser(self) -> str | None:
        return next((n for n in _SPLITS if n in self.parameters and n not in self.arguments), None)

    def _accepts(self, chosen: str, word: str) -> bool:
        """Whether a constructor knows a split: it says so before it looks for files."""
        arguments = {**self.arguments, chosen: word}
        if "root" in self.parameters:
            arguments.setdefault("root", str(self.root))
        if "download" in self.parameters:
            arguments["download"] = False
        try:
            self.make(**arguments)
        except ValueError as error:
            return not re.search(rf"\b{chosen}\b|[Uu]nknown value", str(error))
        except Exception:
            pass
        return True


class TorchvisionSource:
    """A torchvision data set as a `Source`.

    Labels are its targets where those are whole numbers (read without decoding the pictures if it
    keeps them in a list), else there are none. Pictures that it gives as tensors or arrays must be
    uint8, or floats in 0..1.
    """

    def __init__(self, dataset: Any, name: str, spec: str, place: Place) -> None:
        self.dataset, self.name, self._spec = dataset, name, spec
        self.place: Place | None = place
        targets = _targets(dataset)
        self.labelled = targets is not None and len(targets) > 0
        self._labels = targets if targets is not None else np.zeros(len(dataset), np.int64)
        count = int(self._labels.max(initial=0)) + 1
        names = getattr(dataset, "classes", None)
        if not self.labelled:
            self.classes = [name.partition("/")[0]]
        elif isinstance(names, (list, tuple)) and len(names) >= count:
            self.classes = [c if isinstance(c, str) else str(c) for c in names]
        else:
            self.classes = [str(k) for k in range(count)]
        if self.labelled and int(self._labels.min()) < 0:
            raise DataError(f"{spec} has the label {int(self._labels.min())}: labels count from 0")

    def __len__(self) -> int:
        return len(self.dataset)

    def label(self, i: int) -> int:
        """Class index; 0 in a set without classes."""
        return int(self._labels[i])

    def path(self, i: int) -> str:
        """`torchvision:MNIST:17`: there need be no file."""
        return f"{self._spec}:{i}"

    def image(self, i: int) -> np.ndarray:
        """uint8 [H, W, 3]; DataError naming the picture."""
        try:
            item = self.dataset[i]
        except IndexError:
            raise
        except Exception as error:  # of torchvision's or a decoder's, any kind
            raise bad_image(self.path(i), first_line(error, 120)) from None
        picture = item[0] if isinstance(item, (tuple, list)) else item
        if isinstance(picture, Image.Image):
            try:
                return np.asarray(to_rgb(picture))
            except ValueError as error:
                raise bad_image(self.path(i), first_line(error)) from None
        return _pixels(np.asarray(picture), self.path(i))


def _pixels(picture: np.ndarray, name: str) -> np.ndarray:
    if picture.ndim == 3 and picture.shape[0] in (1, 3) and picture.shape[2] not in (1, 3):
        picture = picture.transpose(1, 2, 0)
    if picture.dtype.kind == "f" and picture.size and 0 <= picture.min() and picture.max() <= 1:
        picture = (picture * 255).round().astype(np.uint8)
    if picture.ndim == 2:
        picture = picture[:, :, None]
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (1, 3):
        raise bad_image(name, f"it is {picture.dtype} of shape {list(picture.shape)}")
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture.copy()


def _targets(dataset: Any) -> np.ndarray | None:
    """int64 [n]; None where targets are not whole numbers, or there are none."""
    for name in ("targets", "labels", "_labels", "samples", "_samples", "imgs"):
        values = getattr(dataset, name, None)
        if values is None or not hasattr(values, "__len__") or len(values) != len(dataset):
            continue
        if name in ("samples", "_samples", "imgs"):
            if not all(isinstance(v, (tuple, list)) and len(v) == 2 for v in values):
                continue
            values = [v[1] for v in values]
        try:
            found = np.asarray(values)
        except ValueError:
            continue
        return found.astype(np.int64) if found.ndim == 1 and found.dtype.kind in "iu" else None
    numbers = []
    for i in range(len(dataset)):  # drawn or decoded one by one
        item = dataset[i]
        target = item[1] if isinstance(item, (tuple, list)) and len(item) > 1 else None
        if getattr(target, "ndim", 1) == 0 and hasattr(target, "item"):
            target = target.item()  # type: ignore[union-attr]
        if not isinstance(target, (int, np.integer)) or isinstance(target, bool):
            return None
        numbers.append(int(target))
    return np.array(numbers, np.int64)


def _class(name: str) -> Callable[..., Any]:
    from torchvision import datasets

    known = [
        n for n in dir(datasets)
        if inspect.isclass(getattr(datasets, n)) and issubclass(getattr(datasets, n),
                                                                datasets.VisionDataset)
        and n != "VisionDataset"
    ]  # fmt: skip
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        lower = [n for n in known if n.lower() == name.lower()]
        hint = f"did you mean {(lower or near)[0]}?" if lower or near else f"one is {known[0]}"
        raise DataError(f"torchvision has no data set {name!r}; {hint}")
    return getattr(datasets, name)


def _parameters(make: Callable[..., Any]) -> set[str]:
    """Names of a constructor's arguments, with its bases' where it passes others on."""
    names: set[str] = set()
    for base in inspect.getmro(make):  # type: ignore[arg-type]
        if "__init__" not in vars(base) or base is object:
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names - {"self"}


def _arguments(text: str, parameters: set[str], spec: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for word in filter(None, text.split(",")):
        name, sign, value = word.partition("=")
        name = name.strip()
        if not sign or name not in parameters:
            known = ", ".join(sorted(parameters - {"root", "download"}))
            raise DataError(f"{spec}: {word!r} is no argument=value; arguments are {known}")
        out[name] = _value(value.strip())
    return out


def _value(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if "x" in text and all(part.isdecimal() for part in text.split("x")):
        return tuple(int(part) for part in text.split("x"))  # image_size=3x32x32
    return text
