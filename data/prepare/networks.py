"""Networks over http(s): NVIDIA's published ones by name or address, others by address.

Under the models directory:
    edm2/NAME.pkl, edm2/toy-example/...     NVIDIA's (`data.prepare.published`)
    urls/HOST/PATH/NAME                     any other
with NAME.sha256 beside each, the digest of the first download, which is compared ever after.
$IMLE_LAB_NETWORKS names other roots for NVIDIA's, such as a mirror without the internet.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from data.prepare.digests import read_record, record_of
from data.prepare.download import fetch
from data.prepare.published import (
    LICENCE,
    PUBLISHED,
    RECONSTRUCTIONS,
    ROOT,
    TOY_GUIDE,
    TOY_NET,
    is_published,
)
from storage.errors import DataError, UsageError
from storage.files import hash_file

ROOTS = "IMLE_LAB_NETWORKS"
ENDINGS = (".pkl", ".safetensors", ".pt", ".pth", ".ckpt", ".tar")


def is_url(word: str | Path) -> bool:
    """Whether a word is an address, of whatever scheme."""
    return re.match(r"[a-z][a-z0-9+.-]*://", str(word).strip(), re.IGNORECASE) is not None


def roots() -> list[str]:
    """Where NVIDIA's release is fetched from: its own address, or those in $IMLE_LAB_NETWORKS."""
    return [root.rstrip("/") for root in os.environ.get(ROOTS, "").split()] or [ROOT]


def published_path(word: str) -> str | None:
    """Where a network of NVIDIA's lies below a root: of a name, or of an address there; None for
    any other."""
    if is_published(name := word.removesuffix(".pkl")):
        return f"{RECONSTRUCTIONS}/{name}.pkl"
    for root in (ROOT, *roots()):
        if word.startswith(f"{root}/"):
            return unquote(urlsplit(word.removeprefix(f"{root}/")).path)
    return None


def place(word: str, home: Path) -> Path:
    """The file below the models directory `home` that a name or an address is kept in.

    Errors: UsageError for an address that cannot be one of a network.
    """
    if (path := published_path(word)) is not None:
        return home / "edm2" / Path(*_parts(path.removeprefix(f"{RECONSTRUCTIONS}/"), word))
    try:
        url = urlsplit(word)
        host, _ = url.hostname, url.port
    except ValueError as error:
        raise UsageError(f"{word}: {error}") from None
    if url.scheme.lower() not in ("http", "https") or not host:
        raise UsageError(f"{word}: an address begins with https://HOST/ or http://HOST/")
    if not url.path.lower().endswith(ENDINGS):
        raise UsageError(f"{word}: the address of a network ends in {', '.join(ENDINGS)}")
    parts = _parts(unquote(url.path), word)
    if url.query:  # another file, perhaps; not in the name, since there may be keys in it
        parts.insert(-1, hashlib.sha256(url.query.encode()).hexdigest()[:8])
    server = re.sub(r"[^\w.-]", "_", url.netloc.rpartition("@")[2])
    return home.joinpath("urls", *_parts(server, word), *parts)


def _parts(path: str, word: str) -> list[str]:
    parts = list(PurePosixPath(path).parts)
    parts = parts[1:] if parts[:1] == ["/"] else parts
    if not parts or any(p in (".", "..") or "\0" in p or len(p.encode()) > 200 for p in parts):
        raise UsageError(f"{word}: no path of a file")
    return parts


def networks_of(name: str) -> list[str]:
    """The networks that a preset, `toy`, a network's name or an address stands for.

    Errors: UsageError, with names like it.
    """
    for row in PUBLISHED:
        if row.name == name:
            return [word for word in (row.net, row.gnet) if word]
    if name == "toy":
        return [f"{ROOT}/{TOY_NET}", f"{ROOT}/{TOY_GUIDE}"]
    if is_url(name) or is_published(name.removesuffix(".pkl")):
        return [name]
    like = get_close_matches(name, [row.name for row in PUBLISHED], n=3)
    hint = f" (did you mean {' or '.join(like)}?)" if like else ""
    raise UsageError(f"{name}: no preset, network or URL{hint}; without a name they are listed")


def fetch_network(
    word: str,
    home: Path,
    *,
    check: Callable[[Path], str | None] | None = None,
    begun: Callable[[], object] | None = None,
    bar: bool = True,
) -> Path:
    """Have the file of a published name or an address below the models directory `home`.

    Size, licence and progress are shown. check (default: `pickle_fault`), begun, bar: as of
    `data.prepare.download.fetch`.
    Errors: UsageError for what is no address; DataError, which says what was answered and where to
    place the file, also for one that is not what it was at the first download.
    """
    word = word.strip()
    file, path = place(word, home), published_path(word)
    addresses = [word] if path is None else [f"{root}/{path}" for root in roots()]
    licence = "licence not known" if path is None else f"NVIDIA's, licence {LICENCE}"
    where = urlsplit(addresses[0])
    about = f"{licence}; from {where.netloc.rpartition('@')[2]} to {file}"
    return fetch(
        addresses,
        file,
        check=check or pickle_fault,
        bar=bar,
        about=about if bar else "",
        begun=begun,
    )


def pickle_fault(file: Path) -> str | None:
    """What is wrong with a file that should be a pickle, by its first and last byte; None also for
    a file of another name. A `check` of `fetch`."""
    if not file.name.removesuffix(".part").endswith(".pkl"):
        return None
    with open(file, "rb") as handle:
        first = handle.read(1)
        handle.seek(-1, os.SEEK_END)
        last = handle.read(1)
    return None if first + last == b"\x80." else "is no pickle, or one cut short"


def check_record(file: Path) -> None:
    """That a file which was fetched is what it was then; one that was placed by hand may be any.

    Nothing is written, so that a models directory may be read-only. Errors: DataError.
    """
    known = set(read_record(file).values())
    if known and hash_file(file) not in known:
        raise DataError(
            f"{file} is not what it was when it was fetched ({record_of(file).name} has another "
            "sha256): remove it to fetch it again, or both if it is to be trusted"
        )
