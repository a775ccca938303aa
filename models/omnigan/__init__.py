"""omnigan: one latent of a street's picture, and from it depth, height, segments, water, and the
picture flooded."""

from models.omnigan.classifier import DomainClassifier
from models.omnigan.deeplab import DeeplabEncoder, load_pretrained
from models.omnigan.discriminators import make_discriminators
from models.omnigan.domains import CONDITIONS, DOMAINS, TASKS, other_flood, other_reality
from models.omnigan.extra_adam import ExtraAdam, settled
from models.omnigan.gan_losses import GANLoss, clip_weights
from models.omnigan.generator import PUBLISHED, OmniGenerator
from models.omnigan.losses import make_losses
from models.omnigan.names import our_names
from models.omnigan.norms import init_weights
from models.omnigan.phases import (
    EWC,
    Distillation,
    freeze,
    parameter_groups,
    phases_of,
    set_lr,
    unfreeze,
)
from models.omnigan.shared import Shared
from models.omnigan.steps import (
    Terms,
    Weights,
    classifier_loss,
    discriminator_loss,
    generator_loss,
)
from models.omnigan.summary import summary

__all__ = [
    "CONDITIONS",
    "DOMAINS",
    "EWC",
    "PUBLISHED",
    "TASKS",
    "DeeplabEncoder",
    "Distillation",
    "DomainClassifier",
    "ExtraAdam",
    "GANLoss",
    "OmniGenerator",
    "Shared",
    "Terms",
    "Weights",
    "classifier_loss",
    "clip_weights",
    "discriminator_loss",
    "freeze",
    "generator_loss",
    "init_weights",
    "load_pretrained",
    "make_discriminators",
    "make_losses",
    "other_flood",
    "other_reality",
    "our_names",
    "parameter_groups",
    "phases_of",
    "set_lr",
    "settled",
    "summary",
    "unfreeze",
]
