"""Small image files for the tests of this folder."""

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def noise(seed: int, height: int = 24, width: int = 30) -> np.ndarray:
    """uint8 [H, W, 3], smooth enough to survive JPEG."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def encoded(seed: int, kind: str = "PNG", **options) -> bytes:
    """One picture's bytes."""
    out = io.BytesIO()
    Image.fromarray(noise(seed)).save(out, kind, **options)
    return out.getvalue()


def make_set(root: Path, counts: dict[str, dict[str, int]], suffix: str = "png") -> Path:
    """`root/split/class/k.suffix`; the picture is a function of its path."""
    for split, classes in counts.items():
        for name, count in classes.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for k in range(count):
                kind = "JPEG" if suffix == "jpg" else "PNG"
                seed = zlib.crc32(f"{split}/{name}/{k}".encode())
                (folder / f"{k:03d}.{suffix}").write_bytes(encoded(seed, kind))
    return root


def zip_folder(
    root: Path, file: Path, prefix: str = "", method: int = zipfile.ZIP_DEFLATED
) -> Path:
    """A zip of everything under root."""
    with zipfile.ZipFile(file, "w", method) as out:
        for path in sorted(root.rglob("*")):
            if path.is_file():
                out.write(path, prefix + str(path.relative_to(root)))
    return file


def truncate(file: Path) -> None:
    """Cut a file in half, as a broken download does."""
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
