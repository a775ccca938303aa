"""What a run reads is looked for before anything is submitted, as far as its paths can be known.

A path is what begins with `/`, `~`, `./` or `../`, and any value of an option that takes nothing
but a file from here; a file of weights by a relative name is looked for where its script does. A
bare name is left to the job: what it means depends on the directories of the machine there. So is
what another run of the experiment may make, what is copied to a node's own disk, and what lies in a
folder that the experiment says only the nodes have.
"""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.omni import is_scenes
from data.registry import fraction_of
from data.sources import split_of
from runtime.settings import flat
from storage.errors import UsageError
from storage.files import expanded
from storage.find import SUFFIXES, find_file, opened, published

# Options, as in the scripts' tables: a file from here; perhaps one, perhaps a name or a word.
FILES = ("blocks", "config", "file", "label_order", "lpips_path")
EITHER = (
    "cache", "classifier", "code", "data", "data_tr", "data_val", "denoiser", "few_shot", "folders",
    "gnet", "guide", "guide_path", "held", "indir", "init_from", "latents", "layout", "look",
    "metrics_ref", "metrics_weights", "model", "net", "probe_only", "ref", "ref_path", "resume",
    "runs", "vae", "weights",
)  # fmt: skip
# Written, or no trouble where they are missing.
NOT_READ = ("data_path", "dest", "logging", "out", "outdir", "results_path", "run_dir", "save")
_WEIGHTS = (*SUFFIXES, ".pt", ".pth")
_PATH = re.compile(r"[/~]|\.\.?/")


def refuse_missing(args: Namespace, stage: str, elsewhere: Sequence[Path]) -> None:
    """UsageError for the first file or folder that a run would read and that is not there.

    args: of its script. stage: what is copied to the nodes first, "" for nothing. elsewhere:
    folders in which nothing is looked for.
    """
    results = getattr(args, "results_path", None)
    aside = [Path(os.path.abspath(expanded(place))) for place in elsewhere]
    for option, word, from_here in _read_by(args, stage):
        bare = word.removeprefix("file:")
        if bare == stage or not (from_here or _PATH.match(bare) or _is_weights(bare)):
            continue
        path = Path(os.path.abspath(expanded(bare)))
        if any(path.is_relative_to(place) for place in aside):
            continue
        try:
            if path.exists() or not from_here and _found(bare, results):
                continue
        except OSError:  # it cannot be looked at: its reader will say why
            continue
        raise UsageError(
            f"{option} {word}: there is no such file or folder, seen from {os.getcwd()}; if only "
            "the jobs' machines have it, name a folder above it in experiment.on_nodes"
        )


def _read_by(args: Namespace, stage: str) -> Iterator[tuple[str, str, bool]]:
    """(option, value, whether it is a path from here) of what may be read."""
    for option in (*FILES, *EITHER):
        value = getattr(args, option, None)
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, str) and word and not word.startswith("-"):
                yield f"--{option}", word, option in FILES
    if isinstance(opts := getattr(args, "opts", None), Mapping):
        yield from _of_settings(flat(opts), stage)


def _of_settings(opts: Mapping[str, Any], stage: str) -> Iterator[tuple[str, str, bool]]:
    """Of omnigan's settings: weights, and lists, which lie in the folder that is their base."""
    base = opts.get("data.files.base")
    for name, word in opts.items():
        if not isinstance(word, str) or not word:
            continue
        if name in ("gen.pretrained", "data.files.base"):
            yield name, word, True
        elif name.startswith("data.files.") and word != "none" and not is_scenes(word):
            if not base:
                yield name, word, True
            elif base != stage:
                yield name, os.path.join(base, expanded(word)), True


def _is_weights(word: str) -> bool:
    """Whether a word is a file's name, of weights that no one publishes."""
    return word.endswith(_WEIGHTS) and "*" not in word and not published(word) and "://" not in word


def _found(word: str, results: str | None) -> bool:
    """Whether a word means something that is there, in one of the ways that options read words: a
    path, with or without its ending; a part of a set, or of an archive; `PATH:NAME`. Errors:
    OSError.
    """
    if "*" in word or opened(find_file(word, None, results)).exists():
        return True
    words = [word, word.rpartition(":")[0], fraction_of(word)[0]]
    paths = [expanded(each) for each in words if each]
    paths += [path.parent for path in paths if split_of(path.name)]
    return any(_exists(path) or any(map(os.path.isfile, path.parents)) for path in paths)


def _exists(path: Path) -> bool:
    """Whether something is there, with or without an ending. Errors: OSError."""
    return path.exists() or any(Path(f"{path}{end}").exists() for end in (*SUFFIXES, ".zip"))
