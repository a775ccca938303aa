"""Which file is meant: by a path, below the results, in a run's folder, by a published name.

Names of networks are `<beginning>-<number>-<EMA length>`, as `network-snapshot-0005000-0.100` of a
run, `phema-0005000-0.130` of reconstruct_phema.py and `edm2-img512-s-2147483-0.130` of NVIDIA, with
.safetensors or .pkl after it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

from storage.dirs import models_home, results_home
from storage.errors import CheckpointError, UsageError
from storage.files import expanded, hash_file

SUFFIXES = (".safetensors", ".pkl")  # in this order, when both are there
_OURS = SUFFIXES[0]
_NAME = re.compile(r"(?P<begin>.+)-(?P<number>\d{7,})-(?P<std>\d\.\d{3,})")
_PUBLISHED = re.compile(r"edm2-img(64|512)-[\w.*-]+")


def find_file(
    word: str | Path, script: str | None = None, results: str | Path | None = None
) -> Path:
    """The file of weights that a command line means by a path.

    word: as it is; or below the results of `script`, else of any (in `results`, by default
    results_home()), where it need not name the `snapshots` folder of a run; or below the models
    directory (and its `Images`, as Autoguided). `.safetensors` may be left out, and a `.pkl` is
    found where there is only its sibling in our format (`opened` is the one to read). A run's
    folder, or its `snapshots` or `checkpoints`, means its newest snapshot, one of its checkpoints
    the snapshot of that step, if there is one. Returns `word` itself if nothing is there, so that
    whoever opens it says so.
    Errors: UsageError for a path that is below the results of several scripts.
    """
    asked = expanded(word)
    home = results_home() if results is None else Path(results)
    own = [home / script] if script else []
    every = sorted(p for p in home.glob("*") if p.is_dir())
    for places in ([Path()], own, every, [models_home() / "Images"], [models_home()]):
        found = {file: None for place in places if (file := _file_at(place / asked)) is not None}
        if len(found) > 1:
            raise UsageError(f"{word} may be {' or '.join(map(str, found))}: give the path of one")
        if found:
            return next(iter(found))
    return asked


def _file_at(path: Path) -> Path | None:
    for folder in (path.parent, path.parent / "snapshots"):
        file = folder / path.name
        if file.is_file() or file.suffix == ".pkl" and file.with_suffix(_OURS).is_file():
            return file
        if file.suffix != _OURS and Path(f"{file}{_OURS}").is_file():
            return Path(f"{file}{_OURS}")
    run, step = run_of(path)
    if run is None:
        return None
    return (newest_snapshot(run, step) if step is not None else None) or newest_snapshot(run)


def run_of(folder: Path) -> tuple[Path | None, int | None]:
    """The run that a folder is or lies in, if any, and the step if it is one of its checkpoints."""
    run, step = Path(os.path.abspath(folder)), None  # "." has no name
    match = re.fullmatch(r"step-(\d+)(\.\w+)?", run.name)
    if match and run.parent.name == "checkpoints":
        run, step = run.parent, int(match[1])
    if run.name in ("snapshots", "checkpoints"):
        run = run.parent
    return (run, step) if folder.is_dir() and (run / "snapshots").is_dir() else (None, None)


def newest_snapshot(run: Path, of: int | None = None) -> Path | None:
    """The newest of the snapshots in a run's folder, or of those of the step `of`; None if it has
    none.

    That is the one called latest, else the one of the highest step in its name; of several EMA
    lengths of that step the longest that the run itself has kept: what reconstruct_phema.py wrote
    beside its inputs is meant by its own name alone.
    """

    def age(file: Path) -> tuple[bool, int, float, int]:
        name = _stem(file)
        number, named = re.search(r"\d+", name), _NAME.fullmatch(name)
        step, std = int(number[0]) if number else -1, float(named["std"]) if named else -1.0
        # iter0008 before iter0008learner: an average of weights has the shorter name
        return name.endswith("latest"), step, std, -len(name)

    files = [f for f in (run / "snapshots").glob(f"*{_OURS}") if not _is_phema(f)]
    return max((f for f in files if of in (None, age(f)[1])), key=age, default=None)


def newest_epoch(run: Path) -> Path | None:
    """The snapshot of a run's last epoch, of those that an epoch's number is the name of; None if
    there is none. Encoders are kept so, and not the generators that ISICLE has beside them."""
    found = [file for file in (run / "snapshots").glob(f"*{_OURS}") if file.stem.isdigit()]
    return max(found, key=lambda file: int(file.stem), default=None)


def _is_phema(file: Path) -> bool:
    named = _NAME.fullmatch(_stem(file))
    return named is not None and named["begin"] == "phema"


def find_network(
    word: str | Path,
    script: str | None = None,
    results: str | Path | None = None,
    option: str = "network",
) -> Path:
    """The file of a network: as `find_file`, or a published name.

    A published name may have `*` in it and is looked for in the models directory and two levels of
    folders below. option: what the word was given as, for errors.
    Errors: UsageError for a URL, a folder without snapshots, or a name that several files have;
    CheckpointError for what is missing.
    """
    refuse_url(word)
    path = find_file(word, script, results)
    if path.is_dir():
        if run_of(path)[0] is not None or (path / "checkpoints").is_dir():
            raise UsageError(f"{path} has no snapshot yet: let the run come to one")
        raise UsageError(f"{path} is a folder, but not a run's: name a snapshot, or a run's folder")
    if opened(path).is_file():
        return path
    name, home = str(word).removesuffix(".pkl"), models_home()
    if not published(word):
        if path.suffix in SUFFIXES:
            return path  # `generators.door.open_network` says what is missing
        raise missing(word, results, option)
    found: dict[str, Path] = {}
    for suffix in SUFFIXES:
        for depth in ("", "*/", "*/*/"):
            for file in sorted(home.glob(f"{depth}{name}{suffix}")):
                found.setdefault(file.name.removesuffix(suffix), file)
    if len(found) > 1:
        raise UsageError(
            f"{name} may be {' or '.join(sorted(found))}: choose one by --net, --guide"
        )
    if not found:
        star = ", * standing for any" if "*" in name else ""
        raise CheckpointError(
            f"{name}.pkl or .safetensors is missing in {home} (or a folder there){star}: NVIDIA "
            "publishes it with https://github.com/NVlabs/edm2; download it, put it there"
        )
    return next(iter(found.values()))


def published(word: str | Path) -> bool:
    """Whether a word has the form of a published network's name."""
    return _PUBLISHED.fullmatch(str(word).removesuffix(".pkl")) is not None


def missing(word: str | Path, results: str | Path | None, option: str) -> CheckpointError:
    """What is said of a word that `find_file` finds nothing for: where it was looked for, and the
    folders of runs that have a name like it. option: what it was given as."""
    home = results_home() if results is None else Path(results)
    names = sorted({p.name: None for p in home.glob("*/*") if (p / "snapshots").is_dir()})
    text = str(word)
    like = [name for name in names if text and (name.startswith(text) or text in name)]
    like = (like or get_close_matches(text, names, n=3))[:3]
    hint = f"did you mean {' or '.join(like)}?" if like else "`runs.py ls` lists the runs"
    return CheckpointError(
        f"{option} {word}: no such file, with or without .safetensors, and no run of that name "
        f"(looked in the working directory, in the folders in {home}, and in {models_home()}); "
        f"{hint}"
    )


def say_found(word: str | Path, file: Path, say: Callable[[str], object]) -> None:
    """Tell in one line which file is taken, where a folder or a name with `*` was given."""
    if _stem(file) != _stem(Path(word)):
        say(f"{word}: taking {file}")


def refuse_url(word: str | Path) -> None:
    """UsageError for a URL: nothing is downloaded behind a path."""
    if re.match(r"[a-z0-9+.-]+://", str(word).strip(), re.IGNORECASE):
        name = str(word).rstrip("/").rsplit("/", 1)[-1]
        raise UsageError(f"{word} is a URL: download it first, then give the path of {name}")


def ema_sibling(path: Path, std: float) -> Path:
    """The file of the same run and moment at EMA length `std`, rounded to a thousandth.

    Same beginning of the name first, then any other, such as phema. Errors: UsageError if `path`
    has no such name, or there is no such file.
    """
    own = _NAME.fullmatch(_stem(path))
    if own is None:
        raise UsageError(
            f"{path.name} is not named NAME-STEP-EMA, so its EMA lengths cannot be told apart"
        )
    there: dict[str, Path] = {}
    others = [f for s in SUFFIXES for f in sorted(path.parent.glob(f"*-{own['number']}-*{s}"))]
    others.sort(key=lambda f: not f.name.startswith(f"{own['begin']}-{own['number']}-"))
    for file in others:
        match = _NAME.fullmatch(_stem(file))
        if match and match["number"] == own["number"] and _related(own["begin"], match["begin"]):
            there.setdefault(f"{float(match['std']):.3f}", file)
    if f"{std:.3f}" not in there:
        raise UsageError(
            f"no EMA length {std:.3f} beside {path.name}, there are {', '.join(sorted(there))}; "
            "reconstruct_phema.py makes others"
        )
    return there[f"{std:.3f}"]


def _related(one: str, other: str) -> bool:
    # Two published networks lie in one folder and are trained equally long without being one run.
    return one == other or "phema" in (one, other)


def opened(path: Path) -> Path:
    """The file to read for `path`: our sibling of a .pkl, if there is one."""
    ours = path.with_suffix(".safetensors")
    return ours if path.suffix == ".pkl" and ours.is_file() else path


def _stem(path: Path) -> str:
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.name


def identity(path: Path) -> str:
    """What tells a network's content from others: the checksum in a snapshot, or of the file.

    Errors: CheckpointError.
    """
    path = opened(path)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                said = (file.metadata() or {}).get("sha256")
            if said:
                return said
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: damaged or foreign ({error})") from error
    try:
        return hash_file(path)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
