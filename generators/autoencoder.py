"""An autoencoder of latent diffusion, from a file of others, a run's own copy, or by its name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.prepare.pretrained import PRETRAINED, model_file
from diffusion.encoders import AutoencoderEncoder, Encoder, make_encoder
from generators.base import build
from generators.files import is_ours
from generators.foreign import autoencoder
from generators.foreign.contents import Asked, open_contents
from models.ddpm.autoencoder import Autoencoder
from storage.dirs import models_home
from storage.errors import CheckpointError, UsageError
from storage.files import expanded
from storage.find import identity
from storage.foreign.modules import reading
from storage.snapshot import Snapshot, load_snapshot, refuse_not_finite, save_snapshot

KIND = "autoencoder"
COPY = "autoencoder.safetensors"  # in the folder of a run that trains on its latents
# Of latents where nothing is said: as latent diffusion was released.
SCALES = {True: 0.18215, False: 1.0}  # KL, VQ
_WHAT = "autoencoder"


def autoencoder_file(word: str) -> Path:
    """The file that --latents or --vae names: a path, or the name of a published network.

    Errors: UsageError for what is neither, or is not fetched yet.
    """
    file = expanded(word)
    if file.is_file():
        return file
    if word not in PRETRAINED:
        raise UsageError(
            f"{word}: no such file, and no published autoencoder: {', '.join(PRETRAINED)}"
        )
    file = model_file(models_home(), word, "autoencoder")
    if not file.is_file():
        raise UsageError(
            f"{word} is not in {models_home()}; run "
            f"`python data/SetupLayoutData.py fetch-models {word}`"
        )
    return file


def open_autoencoder(file: Path) -> tuple[Autoencoder, str]:
    """The autoencoder in a file, read as data, and a checksum of it; a copy has its original's.

    Errors: CheckpointError.
    """
    if is_ours(file):
        snapshot = load_snapshot(file)
        if snapshot.kind != KIND:
            raise CheckpointError(f"{file} holds a {snapshot.kind!r} network, no autoencoder")
    else:
        with reading(file, _WHAT):
            found = autoencoder.find(open_contents(file), Asked())
            if found is None:
                raise CheckpointError(f"{file}: no autoencoder of latent diffusion in it")
            snapshot = found.snapshot(file)
    refuse_not_finite(snapshot.state_dict, file)
    known = snapshot.provenance.get("sha256")
    return build(Autoencoder, snapshot), known if isinstance(known, str) else identity(file)


def copy_autoencoder(folder: Path, model: Autoencoder, sha256: str) -> None:
    """Lay it into a run's folder, so that its snapshots go on drawing when the file is gone.

    Errors: DiskError.
    """
    if not (folder / COPY).is_file():
        made = Snapshot(model.state_dict(), KIND, {"net": model.config}, {"sha256": sha256})
        save_snapshot(folder / COPY, *made)


def encoder_of(word: str, scale: float | None) -> tuple[AutoencoderEncoder, Autoencoder, str]:
    """The encoder around an autoencoder, that, and its checksum. scale: what latents are multiplied
    by; None: to be set. Errors: UsageError, CheckpointError."""
    file = autoencoder_file(word)
    model, sha256 = open_autoencoder(file)
    made = AutoencoderEncoder(
        lambda: model, file=str(file), sha256=sha256, kl=model.kl, channels=model.embed_dim,
        factor=model.factor, scale=1.0 if scale is None else scale,
    )  # fmt: skip
    return made, model, sha256


def snapshot_encoder(config: Mapping[str, Any], vae: str | None, file: Path | None) -> Encoder:
    """The encoder that a snapshot names; of an autoencoder, which is read at the first picture.

    vae: the autoencoder's file instead. file: the snapshot's, in or beside whose folder is a copy.
    Errors: ValueError.
    """
    if config.get("name") != AutoencoderEncoder.name:
        return make_encoder(config, vae=vae)
    settings = {k: v for k, v in config.items() if k != "name"}

    def load() -> Autoencoder:
        model, sha256 = open_autoencoder(_where(config, vae, file))
        ours = (model.kl, model.embed_dim, model.factor)
        if vae is None and sha256 != config["sha256"]:
            raise CheckpointError(f"{config['file']} is another autoencoder than in training")
        if ours != (config["kl"], config["channels"], config["factor"]):
            raise CheckpointError(f"{vae}: its latents are not those that were trained on")
        return model

    return AutoencoderEncoder(load, **settings)


def _where(config: Mapping[str, Any], vae: str | None, file: Path | None) -> Path:
    if vae is not None:
        return autoencoder_file(vae)
    folders = [file.parent, file.parent.parent] if file is not None else []
    for place in [*(folder / COPY for folder in folders), Path(config["file"])]:
        if place.is_file():
            return place
    raise CheckpointError(
        f"{file or 'the network'} makes latents of the autoencoder {config['file']}, which is "
        "gone, and has no copy of it beside it: --vae FILE"
    )
