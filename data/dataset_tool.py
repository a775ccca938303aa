"""Data sets for EDM2, in NVIDIA's layout: one zip (or folder) of pictures, or of VAE latents.

    python data/dataset_tool.py convert --source pictures --dest img64.zip \\
        --transform center-crop-dhariwal --resolution 64x64
    python data/dataset_tool.py encode --source img512.zip --dest img512-sd.zip
    python data/dataset_tool.py decode --source img512-sd.zip --dest back.zip

--source of `convert` is whatever the training scripts take: a folder (split/class/picture,
class/picture or pictures), a zip of one, a set of this layout, a name in the data directory
(`mnist`, `camnet3_deci`), "scenes", a tar or folder of CIFAR or STL-10, a folder of MNIST's idx
files, COCO's root folder (all its pictures; train2017 and val2017 are classes, as NVIDIA's tool has
it). Grey pictures become RGB. Labels are those of its dataset.json, else of its class folders if
there are two or more. --dest is NAME.zip, or a folder that is empty or not there; it appears when
it is whole. Afterwards `--data NAME.zip` works.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if __name__ == "__main__":  # run as a file: the repository, not data/, is where imports start
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import storage.environment  # noqa: F401  (says what to do where torch is missing)

import numpy as np
from PIL import Image

from data.readers.edm_zip import LABELS, LATENTS, EdmSource, is_edm
from data.readers.folders import FolderSource
from data.readers.tree import unwrapped
from data.sources import Source, channels_of, is_drawn, is_labelled, latent, names_of, native
from runtime.cli import prepare
from runtime.options import add_names
from storage import files
from storage.errors import DISK_FAILURES, DataDiskError, DataError
from storage.files import locked, make_folder

if TYPE_CHECKING:
    import torch

MODEL = "stabilityai/sd-vae-ft-mse"
MAX_SIZE = 8192
_IN_FLIGHT = 1 << 28  # bytes of pictures that processes are ahead of the writer


# ------------------------------------------------------------------------------- transforms
# uint8 [H, W, 3] -> uint8 [H', W', 3]; width and height are those asked for.


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Lanczos, the whole picture; untouched if it has that size."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def center_crop(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """The central square, then Lanczos."""
    h, w = image.shape[:2]
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    return resize(image[top : top + side, left : left + side], width, height)


def center_crop_wide(image: np.ndarray, width: int, height: int) -> np.ndarray | None:
    """For wide pictures: round(width * h / w) rows of the middle, Lanczos, on a black square of
    side `width`. None for a picture that is too small."""
    h, w = image.shape[:2]
    rows = round(width * h / w)
    if w < width or rows < height:
        return None
    top = (h - rows) // 2
    out = np.zeros((width, width, 3), np.uint8)
    above = (width - height) // 2
    out[above : above + height] = resize(image[top : top + rows], width, height)
    return out


def center_crop_dhariwal(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """As ADM (Dhariwal and Nichol 2021): halved by averaging while the smaller side is at least
    twice the target, then bicubic until it is the target, then the central square."""
    picture = Image.fromarray(image)
    while min(picture.size) >= 2 * width:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = width / min(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    array = np.asarray(picture.resize(size, Image.Resampling.BICUBIC))
    top, left = (array.shape[0] - height) // 2, (array.shape[1] - width) // 2
    return array[top : top + height, left : left + width]


TRANSFORMS: dict[str, Callable[[np.ndarray, int, int], np.ndarray | None]] = {
    "center-crop": center_crop,
    "center-crop-wide": center_crop_wide,
    "center-crop-dhariwal": center_crop_dhariwal,
}


def transform(
    image: np.ndarray, name: str | None, resolution: tuple[int, int] | None
) -> np.ndarray | None:
    """One picture as the options say; None if it is to be left out."""
    if resolution is None:
        return image
    return TRANSFORMS.get(name or "", resize)(image, *resolution)


# ----------------------------------------------------------------------------------- output


class Writer(Protocol):
    """Puts one file into the data set."""

    def __call__(self, name: str, data: bytes) -> None: ...


@contextlib.contextmanager
def writing(dest: Path) -> Iterator[Writer]:
    """A new zip (uncompressed members, same bytes for the same input) or folder at `dest`.

    It appears under its name when the block ends well, and not at all otherwise. DataError if
    something is there already, DataDiskError if it cannot be written.
    """
    dest = Path(os.path.abspath(dest))
    packed = dest.suffix.lower() == ".zip"
    make_folder(dest.parent)
    lock = dest.with_name(f".{dest.name}.lock")
    with locked(lock, wait=False, what=str(dest)):
        try:
            if packed and dest.exists():
                raise DataError(f"{dest} is there already; remove it or give another --dest")
            if not packed and dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
                raise DataError(f"{dest} is no empty folder; empty it or give another --dest")
            if packed:
                with files.writing(dest) as file:
                    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                        yield partial(_into_zip, archive)
            else:
                with files.staging(dest) as part:
                    part.mkdir()
                    yield partial(_into_folder, part)
        except OSError as error:
            if error.errno in DISK_FAILURES:
                raise DataDiskError(f"cannot write {dest}: {error.strerror}") from None
            raise
        finally:
            lock.unlink(missing_ok=True)


def _into_zip(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name)  # dated 1980, so that the zip depends on its content alone
    info.external_attr = 0o644 << 16
    archive.writestr(info, data)


def _into_folder(folder: Path, name: str, data: bytes) -> None:
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    files.write_bytes(file, data, durable=False)  # by the thousand


def png(image: np.ndarray) -> bytes:
    """An uncompressed PNG: quick to read, and a zip of many packs no better."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG", compress_level=0, optimize=False)
    return out.getvalue()


def npy(array: np.ndarray) -> bytes:
    """An .npy file of float32."""
    out = io.BytesIO()
    np.save(out, np.ascontiguousarray(array, dtype=np.float32), allow_pickle=False)
    return out.getvalue()


def member(number: int, kind: str) -> str:
    """Name inside the set: 5 leading digits as folder, `kind` img (.png) or img-mean-std (.npy)."""
    digits = f"{number:08d}"
    return (
        f"{digits[:5]}/{kind}{digits}.png" if kind == "img" else f"{digits[:5]}/{kind}{digits}.npy"
    )


class _Labels:
    """What dataset.json will say; null unless every picture has a label."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.there = is_labelled(source)
        self.pairs: list[list[Any]] = []

    def add(self, name: str, i: int) -> None:
        self.pairs.append([name, self.source.label(i)])

    def json(self) -> bytes:
        note: dict[str, Any] = {"labels": self.pairs if self.there else None}
        names = names_of(self.source)
        if self.there and names != [str(k) for k in range(len(names))]:
            note["classes"] = names  # NVIDIA's reader does not look at it
        return json.dumps(note).encode()


# --------------------------------------------------------------------------------- commands


def convert(
    source: Source,
    dest: Path,
    *,
    max_images: int | None = None,
    crop: str | None = None,
    resolution: tuple[int, int] | None = None,
    workers: int = 1,
) -> int:
    """Write pictures as uncompressed PNG; returns how many.

    crop: None or a key of TRANSFORMS (then with resolution (width, height)). Names carry the number
    in the source, so a picture left out by center-crop-wide leaves a gap. DataError, and nothing
    written, for an unreadable picture or if results are not square, of a power of two and of one
    size.
    """
    from data.prepare.workers import parallel_map
    from runtime.progress import track

    count = len(source) if max_images is None else min(max_images, len(source))
    if channels_of(source) != 3:
        raise DataError(f"{source.name} holds latents; `dataset_tool.py decode` makes pictures")
    if is_drawn(source) and resolution is None:
        raise DataError(f"{source.name} are drawn at any size; give --resolution")
    work = partial(_convert_one, source, crop, resolution)
    labels, size = _Labels(source), None
    width, height = resolution or (512, 512)
    window = max(2 * workers, _IN_FLIGHT // (3 * width * height))
    with writing(dest) as put:
        results = parallel_map(work, range(count), workers, window)
        for i, result in enumerate(track(results, count, dest.name)):
            if result is None:
                continue
            data, shape = result
            size = _check_size(source.path(i), shape, size)
            name = member(i, "img")
            put(name, data)
            labels.add(name, i)
        if not labels.pairs:
            raise DataError(f"none of {count} pictures is large enough for {crop} at {resolution}")
        put(LABELS, labels.json())
    return len(labels.pairs)


def _convert_one(
    source: Source, crop: str | None, resolution: tuple[int, int] | None, i: int
) -> tuple[bytes, tuple[int, ...]] | None:
    if resolution is not None and is_drawn(source):
        image = native(source, i, max(resolution))
    else:
        image = source.image(i)
    made = transform(image, crop, resolution)
    return None if made is None else (png(made), made.shape)


def _check_size(path: str, shape: tuple[int, ...], size: tuple[int, ...] | None) -> tuple[int, ...]:
    height, width = shape[:2]
    told = f"{path} comes out as {width}x{height}"
    if size is not None and shape != size:
        raise DataError(
            f"{told}, others as {size[1]}x{size[0]}: all must be of one size; give --resolution"
        )
    if width != height:
        raise DataError(f"{told}, not square; give --transform center-crop and --resolution")
    if width & (width - 1):
        near = 1 << round(np.log2(width))
        raise DataError(f"{told}, not a power of two; give --resolution {near}x{near}")
    return shape


def encode(
    source: Source,
    dest: Path,
    encoder: Callable[[torch.Tensor], torch.Tensor],
    *,
    max_images: int | None = None,
    batch: int = 8,
    device: str = "cpu",
) -> int:
    """Write VAE latents of pictures; returns how many.

    encoder: uint8 [N, 3, H, W] on `device` -> [N, 8, h, w], mean then standard deviation. Pictures
    must be square and of one size.
    """
    import torch

    if channels_of(source) != 3:
        raise DataError(f"{source.name} holds latents already")

    def read(i: int) -> np.ndarray:
        image = source.image(i).transpose(2, 0, 1)
        if image.shape[1] != image.shape[2] or image.shape[1] % 8:
            raise DataError(
                f"{source.path(i)} is {image.shape[2]}x{image.shape[1]}, not a square with sides "
                "divisible by 8; bring the set into shape with `dataset_tool.py convert` first"
            )
        return image

    def code(images: np.ndarray) -> Iterable[bytes]:
        raw = encoder(torch.from_numpy(images).to(device)).float().cpu().numpy()
        if raw.ndim != 4 or raw.shape[:2] != (len(images), LATENTS):
            raise ValueError(f"the encoder gave {raw.shape} for {images.shape}")
        return map(npy, raw)

    return _in_batches(source, dest, read, code, "img-mean-std-", max_images, batch)


def decode(
    source: Source,
    dest: Path,
    decoder: Callable[[torch.Tensor], torch.Tensor],
    *,
    max_images: int | None = None,
    batch: int = 8,
    device: str = "cpu",
) -> int:
    """Write pictures of VAE latents (of their means; nothing is drawn); returns how many.

    decoder: float32 raw [N, 8, h, w] on `device` -> uint8 [N, 3, H, W].
    """
    import torch

    if channels_of(source) == 3:
        raise DataError(f"{source.name} holds pictures; decode takes latents (img-mean-std-*.npy)")

    def code(raw: np.ndarray) -> Iterable[bytes]:
        images = decoder(torch.from_numpy(raw).to(device)).cpu().numpy()
        return map(png, np.ascontiguousarray(images.transpose(0, 2, 3, 1)))

    read = partial(latent, source)
    return _in_batches(source, dest, read, code, "img", max_images, batch)


def _in_batches(
    source: Source,
    dest: Path,
    read: Callable[[int], np.ndarray],
    code: Callable[[np.ndarray], Iterable[bytes]],
    kind: str,
    max_images: int | None,
    batch: int,
) -> int:
    from runtime.progress import Progress

    count = len(source) if max_images is None else min(max_images, len(source))
    labels, shape = _Labels(source), None
    with writing(dest) as put, Progress(count, desc=dest.name, unit="picture", brief=True) as shown:
        for start in range(0, count, batch):
            chosen = range(start, min(count, start + batch))
            arrays = [read(i) for i in chosen]
            for i, array in zip(chosen, arrays, strict=True):
                shape = array.shape if shape is None else shape
                if array.shape != shape:
                    raise DataError(
                        f"{source.path(i)} has the shape {list(array.shape)}, others have "
                        f"{list(shape)}: all must be of one size"
                    )
            for i, data in zip(chosen, code(np.stack(arrays)), strict=True):
                name = member(i, kind)
                put(name, data)
                labels.add(name, i)
                shown.update()
        put(LABELS, labels.json())
    return count


def _is_coco(root: Path) -> bool:
    """Whether a folder is COCO's root: annotations beside train2017 and the like."""
    if not (root / "annotations").is_dir() or (root / LABELS).exists():
        return False
    years = re.compile(r"(train|val|test|unlabeled)20\d\d")
    return any(years.fullmatch(e.name) and e.is_dir() for e in root.iterdir())


def open_input(spec: str, split: str, data_path: Path | None) -> Source:
    """The data set that --source names. A dataset.json that lacks labels counts as none at all."""
    from data.registry import open_source

    root = Path(os.path.expanduser(spec))
    if root.is_dir() and _is_coco(inner := unwrapped(root)):
        return FolderSource(inner, as_nvidia=True)
    for path in (root, Path(os.path.expanduser(f"{spec}.zip"))):
        if (path.is_dir() or zipfile.is_zipfile(path)) and is_edm(path):
            return EdmSource(path, partial=True)
    if data_path is None:
        from storage.dirs import data_home

        data_path = data_home()
    return open_source(spec, data_path, split=split)


def _resolution(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if not match or not all(1 <= int(v) <= MAX_SIZE for v in match.groups()):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT within 1..{MAX_SIZE}")
    return int(match[1]), int(match[2])


def _device(text: str) -> str:
    if re.fullmatch(r"\d+", text):
        return f"cuda:{text}"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is neither the number of a GPU nor cpu")
    return text


def _positive(text: str) -> int:
    if not re.fullmatch(r"\d{1,12}", text) or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    about = {
        "convert": "pictures of any origin to square PNGs of one size",
        "encode": "pictures to VAE latents (needs the package diffusers)",
        "decode": "VAE latents to pictures (needs the package diffusers)",
    }
    for name, text in about.items():
        command = commands.add_parser(name, help=text, description=text)
        add = command.add_argument
        add("--source", required=True, metavar="PATH|NAME", help="the data set to read")
        add("--dest", required=True, type=Path, metavar="ZIP|DIR", help="the data set to make")
        few = add(
            "--num_images",
            dest="max_images",
            type=_positive,
            metavar="N",
            help="only the first N (default: all)",
        )
        add_names(command, few, "--max-images")
        add("--split", default="train", metavar="NAME", help="which, if the source has splits")
        add(
            "--data_path",
            type=Path,
            metavar="DIR",
            help="where data sets are stored (default: DATA_HOME or dirs.json)",
        )
        if name == "convert":
            add(
                "--transform",
                choices=list(TRANSFORMS),
                help="how to make pictures square (default: they are)",
            )
            add(
                "--resolution",
                type=_resolution,
                metavar="WxH",
                help="size to bring them to (default: their own)",
            )
            processes = add(
                "--num_workers",
                dest="workers",
                type=_positive,
                metavar="N",
                help="processes (default: the cores there are, at most 16)",
            )
            add_names(command, processes, "--workers")
        else:
            add("--model-url", default=MODEL, metavar="NAME|DIR", help="name on the hub, or folder")
            add("--batch", type=_positive, default=8, metavar="N", help="pictures at a time")
            where = add(
                "--gpus",
                dest="device",
                type=_device,
                metavar="N|cpu",
                help="number of a GPU, or cpu (default: the first GPU, if there is one)",
            )
            add_names(command, where, "--device")
        prepare(command)
    prepare(parser)
    return parser


def _check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """What argparse cannot know about `convert`."""
    if args.transform is None:
        return
    if args.resolution is None:
        parser.error(f"--transform {args.transform} needs --resolution WxH")
    width, height = args.resolution
    if args.transform == "center-crop-dhariwal" and width != height:
        parser.error(f"--transform center-crop-dhariwal gives squares, not {width}x{height}")
    if args.transform == "center-crop-wide" and width < height:
        parser.error(f"--transform center-crop-wide needs a width above the height {height}")


def _vae(args: argparse.Namespace) -> tuple[Any, str]:
    import torch

    from diffusion.encoders import StabilityVAEEncoder

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return StabilityVAEEncoder(args.model_url, batch=args.batch), device


def run(args: argparse.Namespace) -> str:
    """Do what the command line says; what there is to say about it."""
    from data.told import told

    source = open_input(args.source, args.split, args.data_path)
    print(told(source), file=sys.stderr)
    if args.command == "convert":
        cores = min(16, len(os.sched_getaffinity(0)))
        count = convert(
            source,
            args.dest,
            max_images=args.max_images,
            crop=args.transform,
            resolution=args.resolution,
            workers=args.workers or cores,
        )
    else:
        encoder, device = _vae(args)
        options = dict(max_images=args.max_images, batch=args.batch, device=device)
        if args.command == "encode":
            count = encode(source, args.dest, encoder.encode_pixels, **options)
        else:

            def pixels(raw: torch.Tensor) -> torch.Tensor:
                mean = raw[:, : encoder.noise_channels]
                return encoder.decode(encoder.encode_latents(raw, mean.new_zeros(mean.shape)))

            count = decode(source, args.dest, pixels, **options)
    asked = len(source) if args.max_images is None else min(args.max_images, len(source))
    left_out = f", {asked - count} left out as too small" if asked > count else ""
    why = getattr(source, "unlabelled", "")
    labels = "labelled" if _Labels(source).there else f"no labels{f' ({why})' * bool(why)}"
    return f"ready: {args.dest}: {count} from {source.name}, {labels}{left_out}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code."""
    parser = get_parser()
    args = parser.parse_args(argv)
    if args.command == "convert":
        _check(args, parser)
    try:
        print(run(args), file=sys.stderr)
        return 0
    except KeyboardInterrupt:
        print("dataset_tool: stopped; nothing was written", file=sys.stderr)
        return 130
    except Exception as error:
        code = getattr(error, "exit_code", None)  # ours and runtime's errors carry one
        if isinstance(error, OSError):
            code = 7 if error.errno in DISK_FAILURES else 6
        if isinstance(error, MemoryError):
            code, error = 8, MemoryError(f"out of memory: {error}".removesuffix(": "))
        if code is None or os.environ.get("IMLE_LAB_TRACEBACK"):
            raise
        print(f"dataset_tool: {error}", file=sys.stderr)
        return code


if __name__ == "__main__":
    sys.exit(main())
