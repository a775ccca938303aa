"""The perceptual distance that options name: LPIPS on pretrained or on random VGG16 features."""

from pathlib import Path

from data.prepare.weights import vgg_file
from imle import PixelLoss, ResolutionLoss
from imle.losses import Weighting
from storage.dirs import models_home
from storage.errors import UsageError


def weights_file(path: str | None) -> Path:
    """The pretrained VGG16 weights, whether they are there or not.

    path: as --lpips_path says (default: where SetupDataset.py puts them).
    """
    return Path(path) if path else vgg_file(models_home())


def perceptual_loss(
    lpips: str, path: str | None, *, alpha: float = 0.1, weighting: Weighting = "lpips"
) -> ResolutionLoss | PixelLoss:
    """LPIPS + alpha MSE a row (`imle.ResolutionLoss`), or the pixel MSE alone (`imle.PixelLoss`).

    lpips: "pretrained", "random" (VGG16 weights from a fixed seed) or "none". path: the pretrained
    weights (default: where SetupDataset.py puts them). weighting: of layers, see ResolutionLoss.
    Errors: UsageError without VGG16 weights, or for a file that has none.
    """
    if lpips == "none":
        return PixelLoss()
    if lpips == "random":  # the same distance in every run, whatever --seed
        return ResolutionLoss(random_seed=0, alpha=alpha, weighting=weighting)
    file = weights_file(path)
    if not file.is_file():
        raise UsageError(
            f"LPIPS needs VGG16 weights, there is no {file}: run `python data/SetupDataset.py "
            "fetch-weights`, or give --lpips_path FILE, or --lpips random (not comparable)"
        )
    try:
        return ResolutionLoss(file, alpha=alpha, weighting=weighting)
    except ValueError as error:
        raise UsageError(f"--lpips_path: {error}") from error
