"""Network weights that a job without internet needs: fetched once, on a login node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data.prepare.download import fetch
from storage.errors import DataError

PYTORCH = "https://download.pytorch.org/models/"
# torchvision's ImageNet backbones under LPIPS; the name ends in the first digits of the sha256.
LPIPS_BACKBONES = {
    "vgg": "vgg16-397923af.pth",
    "alex": "alexnet-owt-7be5be79.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}


class Published(NamedTuple):
    """A file of weights: its name, the folder it is published in, its sha256 (or first digits of
    it), under which licence."""

    file: str
    folder: str
    sha256: str
    licence: str


# What calculate_metrics.py measures by. Inception's name has the digest in it; Meta publishes none,
# those of DINOv2 are of copies that others made, which agree.
_META = "https://dl.fbaipublicfiles.com/dinov2/"
EXTRACTORS = {
    "inception": Published(
        "pt_inception-2015-12-05-6726825d.pth",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/",
        "6726825d",
        "Apache 2.0",
    ),
    "dinov2": Published(
        "dinov2_vitl14_pretrain.pth",
        f"{_META}dinov2_vitl14/",
        "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
        "Apache 2.0",
    ),
    "dinov2_vitb14": Published(
        "dinov2_vitb14_pretrain.pth",
        f"{_META}dinov2_vitb14/",
        "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
        "Apache 2.0",
    ),
}
# What training begins with: Deeplabv2's ResNet-101 on ImageNet, by ADVENT, who publish no digest.
ENCODERS = {
    "deeplabv2": Published(
        "DeepLab_resnet_pretrained_imagenet.pth",
        "https://github.com/valeoai/ADVENT/releases/download/v0.1/",
        "",
        "Apache 2.0",
    ),
}
NETS = (*LPIPS_BACKBONES, *EXTRACTORS, *ENCODERS)


def weights_folder(models_home: Path) -> Path:
    """Where torchvision looks when TORCH_HOME is the models directory."""
    return models_home / "hub" / "checkpoints"


def vgg_file(models_home: Path) -> Path:
    """Where the weights of VGG16, under LPIPS, lie or are to lie."""
    return weights_folder(models_home) / LPIPS_BACKBONES["vgg"]


def extractor_file(models_home: Path, net: str) -> Path:
    """Where the weights of an extractor lie or are to lie. Errors: KeyError."""
    return weights_folder(models_home) / EXTRACTORS[net].file


def encoder_file(models_home: Path, net: str) -> Path:
    """Where the weights of an encoder lie or are to lie. Errors: KeyError."""
    return weights_folder(models_home) / ENCODERS[net].file


def fetch_weights(
    models_home: Path,
    nets: Sequence[str] = ("vgg",),
    *,
    mirrors: Sequence[str] = (),
    bar: bool = True,
) -> list[Path]:
    """The files of these networks (NETS), fetched if absent, from the mirrors or from whoever
    publishes them. DataError says where to put them."""
    files = []
    for net in nets:
        if net in EXTRACTORS or net in ENCODERS:
            name, folder, digest, licence = (EXTRACTORS | ENCODERS)[net]
        elif net in LPIPS_BACKBONES:
            name, folder, licence = LPIPS_BACKBONES[net], PYTORCH, ""
            digest = Path(name).stem.rsplit("-", 1)[1]
        else:
            raise DataError(f"no weights of {net!r}; there are {', '.join(NETS)}")
        files.append(
            fetch(
                [base.rstrip("/") + "/" + name for base in (*mirrors, folder)],
                weights_folder(models_home) / name,
                sha256=digest or None,
                bar=bar,
                about=f"licence {licence}" if licence and bar else "",
            )
        )
    return files
