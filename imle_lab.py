"""IMLE Lab from Python: the one module that another project needs. docs/python.md has examples.

    import imle_lab

    net = imle_lab.load_generator("RUN")          # a run, a snapshot, NVIDIA's .pkl
    images = net.draw(16, seed=0)                 # uint8 [16, 3, H, W]
    encoder = imle_lab.load_encoder("RUN")        # of TrainSimCLR.py or TrainISICLE.py
    features = encoder(pictures)                  # float32 [N, D]
    run = imle_lab.open_run("RUN")
    run.metrics["val/psnr"], run.snapshot

A RUN is named as for runs.py: its folder's name below the results, the beginning of it, the hash
at its end, or a path. Errors are exceptions whose text is one sentence: UsageError for an argument
that cannot be, CheckpointError for a file that is missing, damaged or of another kind, DataError
for pictures; all are to be had from here. Importing this module is quick: torch is imported by the
function that needs it.

The toolkit's packages have everybody's names (`data`, `models`), so it wants an environment where
no other project's packages are called so: importing this says which are in the way (ImportError).
A folder of such a name that is no package, pictures in ./data say, is in nobody's way.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, Any

_HOME = Path(__file__).resolve().parent
_PACKAGES = (
    "storage", "runtime", "data", "imle", "models", "diffusion", "selection", "evaluation",
    "generators", "recipes",
)  # fmt: skip


class _Own:
    """Finds the toolkit's packages before folders of their names that are no packages."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in _PACKAGES:
            return None
        file = _HOME / name / "__init__.py"
        return importlib.util.spec_from_file_location(
            name, file, submodule_search_locations=[str(file.parent)]
        )


def _refuse_strangers() -> None:
    """ImportError if packages of other projects have our packages' names."""
    for name in _PACKAGES:
        loaded = sys.modules.get(name)
        spec = importlib.util.find_spec(name) if loaded is None else None
        file: str | None = getattr(loaded, "__file__", None) or (spec.origin if spec else None)
        if file is None and loaded is None:  # nothing, or a folder without __init__.py
            if _Own not in sys.meta_path:
                sys.meta_path.insert(0, _Own)
        elif file is None or Path(file).resolve().parent != _HOME / name:
            where = file or list(getattr(loaded, "__path__", []))
            raise ImportError(
                f"the package {name!r} here is {where}, not that of IMLE Lab in {_HOME}: the "
                "toolkit needs an environment, and a working folder, without another package of "
                "that name; rename yours, or start Python in another folder"
            )


_refuse_strangers()

from storage.errors import CheckpointError, DataError, RunError, UsageError  # noqa: E402

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from generators.base import Generator
    from recipes.runs.opened import OpenedRun
    from recipes.simclr.encoder import Encoder

__all__ = [
    "CheckpointError", "DataError", "RunError", "UsageError", "load_encoder",
    "load_generator", "load_pictures", "open_run",
]  # fmt: skip


def load_generator(
    path: str | Path,
    *,
    results: str | Path | None = None,
    device: torch.device | str = "cpu",
    precision: str | None = None,
    compile: bool = False,
    vae: str | None = None,
    noise_device: str = "cpu",
    say: Callable[[str], object] | None = None,
) -> Generator:
    """The trained generator of a run (its newest snapshot), or in a file, ready to draw.

    path: a run; a snapshot, .safetensors or a .pkl of NVIDIA's, also below the results or the
    models directory; a published name (edm2-img512-s-2147483-0.130) or an http(s) address, which
    are fetched into the models directory. results: the folder of runs
    (default: $RESULTS_HOME, or what dirs.json says). precision: fp32, bf16, fp16 or auto; None:
    fp32, or, for EDM2, as the network was trained. compile: torch.compile it. vae: folder or name
    of the VAE of networks on latents. noise_device: where EDM2's noise is drawn; "cuda": the
    images of NVIDIA's code. say: is told, in lines, which file was taken.

    Returns a `generators.base.Generator`: `draw(n, seed=0, batch=32)` gives uint8 [n, 3, H, W] in
    0..255 on the CPU, the same for the same seed. A conditional one (kind camnet) needs
    `inputs`, float [B, 3, r, r] in [0, 1] with r = `input_size`, and gives n images of each; so
    does omnigan, whose sides may be others, and which takes `to`, "f" (flooded) or "n". EDM2
    takes `labels`, `guide`, `guidance` and `sampler` too. `net` is the plain module, in evaluation
    mode; `classes`, `resolution`, `code_sizes` and `snapshot.provenance` tell of it.
    Errors: UsageError, CheckpointError, DataError for what cannot be fetched.
    """
    from generators.door import UnknownKind, open_generator

    try:
        return open_generator(
            _run_or(path, results), results=results, device=_device(device), precision=precision,
            compile=compile, vae=vae, noise_device=noise_device, say=say or (lambda line: None),
        )  # fmt: skip
    except UnknownKind as error:
        if error.kind != "simclr":
            raise
        why = f"{path} holds an encoder, which does not draw: load_encoder is for it"
        raise CheckpointError(why) from None


def load_encoder(
    path: str | Path,
    *,
    results: str | Path | None = None,
    device: torch.device | str = "cpu",
) -> Encoder:
    """The encoder of a run of TrainSimCLR.py or TrainISICLE.py, or in a file.

    path: a run (its last epoch), a snapshot, an <epoch>.pt, ours or the original SimCLR code's.

    Returns a `recipes.simclr.encoder.Encoder`: called with pictures it gives features h, float32
    [N, dim] on the CPU. Pictures: a file or a list of files, uint8 [N, 3, H, W] (torch) or
    [N, H, W, 3] (numpy), PIL's; of any size, and made what the network was trained on. `prepare`
    does that alone, `net` is the plain module in evaluation mode, with `net.features`.
    Errors: UsageError, CheckpointError, DataError.
    """
    from recipes.simclr.encoder import Encoder

    return Encoder.open(_run_or(path, results), device=_device(device))


def load_pictures(
    place: str | Path,
    size: int,
    *,
    split: str = "train",
    crop: str = "center",
    count: int | None = None,
) -> Tensor:
    """Pictures of a data set: uint8 [N, 3, size, size] in 0..255, on the CPU.

    place: a folder, with or without classes and splits, a zip, an LMDB, or a name as `--data` takes
    it (scenes, mnist). crop: "center" cuts the central square, "squash" makes the whole picture
    square. count: so many, as equally many of every class as there are, always the same. In order
    of the files' names; a generator's inputs are
    `load_pictures(place, net.input_size).float() / 255`.
    Errors: DataError; UsageError for a size, a crop or a count that cannot be.
    """
    import torch

    from data.pyramids import Pyramid
    from data.registry import open_source
    from data.sources import evenly
    from storage.dirs import data_home

    if size < 1 or crop not in ("center", "squash") or (count is not None and count < 1):
        raise UsageError(f"size {size}, crop {crop!r}, count {count}: >= 1, center or squash, >= 1")
    source = evenly(open_source(str(place), data_home(), split=split), count)
    pictures = Pyramid(source, [size], crop=crop)
    return torch.stack([pictures[i][0] for i in range(len(pictures))])


def open_run(path: str | Path, *, results: str | Path | None = None) -> OpenedRun:
    """What a run has written so far; it may be running.

    Returns a `recipes.runs.opened.OpenedRun`: `options` {name: value}; `metrics`, a dict of arrays
    of one length, "step" int64 [n] and figures float64 [n] with nan where a line has none;
    `series(name)`, steps and values without gaps; `figures`, the newest values; `snapshot`, the
    newest snapshot's path or None; `state`, `step`, `method`, `task`, `data`, `samples`.
    Errors: UsageError if there is no such run, or several.
    """
    from recipes.runs.opened import OpenedRun
    from recipes.runs.reading import find_run

    return OpenedRun(find_run(path, _roots(results)))


def _device(wanted: torch.device | str) -> torch.device:
    """The device, tried. Errors: UsageError for one that is not there."""
    import torch

    try:
        return torch.empty(0, device=wanted).device
    except (RuntimeError, AssertionError, TypeError) as error:
        said = str(error).strip().splitlines()[0]
        raise UsageError(f"device {str(wanted)!r} cannot be used here: {said}") from None


def _roots(results: str | Path | None) -> Sequence[Path]:
    from storage.dirs import results_home

    return [results_home() if results is None else Path(results)]


def _run_or(word: str | Path, results: str | Path | None) -> str | Path:
    """The folder of a run that a word means, else the word as it is. Errors: UsageError for a
    beginning that several runs have."""
    from recipes.runs.reading import NoSuchRun, find_run
    from storage.files import expanded

    if "://" in str(word) or expanded(word).is_file():
        return word
    try:
        return find_run(word, _roots(results))
    except NoSuchRun:
        return word
