"""Features of frozen networks."""

import pytest
import torch

import models.simclr
from evaluation.features import Pixels
from models import SimCLR
from recipes.simclr import parts
from recipes.simclr.validation import features
from runtime.precision import Precision
from storage.errors import NonFiniteError
from tests.scripts.simclr_support import options, small_backbone

CPU = torch.device("cpu")
autocast = Precision("fp32", CPU).autocast


def test_pixels_are_their_own_features():
    recipe = parts.view_recipe(options())
    pictures = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    h = features(Pixels(), pictures, recipe, CPU, autocast)
    assert torch.equal(h, pictures.flatten(1) / 255)


def test_features_of_a_diverged_network_are_refused(monkeypatch):
    monkeypatch.setattr(models.simclr, "build_backbone", small_backbone)
    model, recipe = SimCLR().eval(), parts.view_recipe(options())
    pictures = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    assert features(model, pictures, recipe, CPU, autocast).shape == (5, 512)
    model.backbone.bn1.running_mean[2] = torch.nan
    with pytest.raises(NonFiniteError, match="the network has diverged"):
        features(model, pictures, recipe, CPU, autocast)
