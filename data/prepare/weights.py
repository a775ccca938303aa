"""Network weights that a job without internet needs: fetched once, on a login node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data.prepare.download import fetch
from storage.errors import DataError

PYTORCH = "https://download.pytorch.org/models/"
# torchvision's ImageNet backbones under LPIPS; the name ends in the first digits of the sha256.
LPIPS_BACKBONES = {
    "vgg": "vgg16-397923af.pth",
    "alex": "alexnet-owt-7be5be79.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}


def weights_folder(models_home: Path) -> Path:
    """Where torchvision looks when TORCH_HOME is the models directory."""
    return models_home / "hub" / "checkpoints"


def vgg_file(models_home: Path) -> Path:
    """Where the weights of VGG16, under LPIPS, lie or are to lie."""
    return weights_folder(models_home) / LPIPS_BACKBONES["vgg"]


def fetch_weights(
    models_home: Path,
    nets: Sequence[str] = ("vgg",),
    *,
    mirrors: Sequence[str] = (PYTORCH,),
    bar: bool = True,
) -> list[Path]:
    """The files of these LPIPS backbones, fetched if absent. DataError says where to put them."""
    files = []
    for net in nets:
        if net not in LPIPS_BACKBONES:
            raise DataError(f"no LPIPS backbone {net!r}; there are {', '.join(LPIPS_BACKBONES)}")
        name = LPIPS_BACKBONES[net]
        digest = Path(name).stem.rsplit("-", 1)[1]
        files.append(
            fetch(
                [base.rstrip("/") + "/" + name for base in mirrors],
                weights_folder(models_home) / name,
                sha256=digest,
                bar=bar,
            )
        )
    return files
