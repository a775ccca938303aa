"""Features of frozen networks."""

import pytest
import torch

import models.simclr
from evaluation.features import Pixels
from models import SimCLR
from recipes.simclr import parts
from recipes.simclr.validation import Rows, features, majority, verdict
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


def test_the_majority_class_is_train_s_and_its_share_of_what_is_judged():
    labels = torch.tensor([2, 2, 2, 0, 1])
    h = torch.zeros(5, 3)
    assert majority(Rows(h, labels, None, 3)) == pytest.approx(0.6)
    held = (torch.zeros(4, 3), torch.tensor([2, 0, 0, 0]))
    assert majority(Rows(h, labels, held, 3)) == pytest.approx(0.25)


def test_the_verdict_names_a_probe_of_each_kind_beside_the_majority_class():
    figures = {
        "knn(k=20, T=0.07, h), 3 folds acc1": 0.412, "knn(k=20, T=0.07, h), 3 folds acc5": 0.9,
        "knn(k=20, T=0.07, h), 3 folds low": 0.3, "knn(k=170, T=0.1, h), 3 folds acc1": 0.3,
        "linear(l2 swept, standardised, h), 3 folds acc1": 0.5,
        "5-way 1-shot(prototypes, 15 queries, h) acc1": 0.7,
    }  # fmt: skip
    assert verdict(figures, 0.1) == "kNN 41.2 %, linear probe 50.0 % (majority class 10.0 %)"
