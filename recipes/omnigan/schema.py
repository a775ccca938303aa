"""Every setting of omnigan, as `configs/omnigan.yaml` has them; see `runtime.settings`."""

from __future__ import annotations

from typing import Any

from data.omni import DOMAINS, MAPS, MODES
from data.omni.transforms import DEFAULT, read_steps
from runtime.options import EXECUTION
from runtime.settings import Each, Leaf
from runtime.types import (
    at_once,
    classes,
    count,
    dir_path,
    file_path,
    many,
    nonnegative_float,
    nonnegative_int,
    number,
    positive_float,
    positive_int,
    probability,
    tag,
    text,
    wide,
)

EXE = (EXECUTION,)
beta = number(0, 1, hi_open=True)
INITS = ("normal", "xavier", "kaiming", "orthogonal")
DIFFERENCES = ("l1", "l2")
KEEPERS = ("none", "distill", "ewc")


def _transforms(entries: list[Any]) -> list[Any]:
    read_steps(entries)
    return entries


def _optimizer(beta1: float) -> dict[str, Leaf]:
    return {
        "optimizer": Leaf(("ExtraAdam", "Adam"), "ExtraAdam", "ExtraAdam updates by an "
                          "extrapolated point: two steps make one update"),
        "lr": Leaf(positive_float, 5e-4, "learning rate"),
        "beta1": Leaf(beta, beta1),
        "beta2": Leaf(beta, 0.999),
        "weight_decay": Leaf(nonnegative_float, 0.0),
        "lr_policy": Leaf(("constant", "step"), "constant", "step: times lr_gamma every "
                          "lr_step_size epochs"),
        "lr_step_size": Leaf(positive_int, 30, "epochs"),
        "lr_gamma": Leaf(positive_float, 0.5),
    }  # fmt: skip


_INIT: dict[str, Leaf] = {
    "init_type": Leaf(INITS, "kaiming", "how weights begin"),
    "init_gain": Leaf(positive_float, 0.2, "of the others than kaiming, which has none"),
}
_BLOCKS: dict[str, Leaf] = {
    "n_res": Leaf(count(256, 0), 4, "residual blocks"),
    "res_norm": Leaf(text, "instance", "none, batch, instance, layer or spectral"),
    "activ": Leaf(text, "lrelu", "relu, lrelu, prelu, selu, tanh, sigmoid, none"),
    "pad_type": Leaf(text, "reflect", "zero, reflect, replicate"),
}


def _decoder(**more: Leaf) -> dict[str, Leaf]:
    return {
        "ignore": Leaf(bool, False, "true: without this decoder, as if the task were not there"),
        **_BLOCKS,
        "n_upsample": Leaf(count(16), None, "null: as often as the encoder halves; another "
                           "number is refused"),
        **_INIT,
        **more,
    }  # fmt: skip


def _discriminator() -> dict[str, Leaf]:
    return {
        "ndf": Leaf(wide, 64, "channels after the first layer"),
        "n_layers": Leaf(count(16), 3),
        "norm": Leaf(text, "instance"),
        "use_sigmoid": Leaf(bool, False),
        "num_D": Leaf(count(16), 1, "scales"),
        **_INIT,
    }


def _weights(**defaults: float) -> dict[str, Leaf]:
    return {name: Leaf(nonnegative_float, value) for name, value in defaults.items()}


_NOTES: dict[str, Leaf] = {
    "note": Leaf(text, None, "of this run, for W&B", EXE),
    "tags": Leaf(Each(tag), [], "the same", EXE),
    "description": Leaf(text, None, "of the experiment that it is part of", EXE),
}

SCHEMA: dict[str, Any] = {
    "output_path": Leaf(dir_path, None, "the run's folder, where --outdir is not given", EXE),
    "tasks": Leaf(Each(("a", "d", "h", "s", "t", "w"), least=1), list("adhstw"), "adaptation, "
                  "depth, height, segmentation, translation, water"),
    "data": {
        "files": {
            "base": Leaf(dir_path, None, "folder of relative list files (null: the working "
                         "directory)", EXE),
            **{
                mode: {
                    domain: Leaf(file_path, "scenes", "a list of samples (.json, .yaml), scenes, "
                                 "scenes:COUNT; none: without this domain",
                                 () if mode == "train" else EXE)
                    for domain in DOMAINS
                }
                for mode in MODES
            },
        },
        "labels": {
            domain: Leaf(Each(MAPS), list("dhsw") if domain[0] == "s" else list("ds"),
                         "maps that are read, of those that there are")
            for domain in DOMAINS
        },
        "loaders": {
            "batch_size": Leaf(at_once, 2, "samples of each domain in a step, over all GPUs"),
            "shuffle": Leaf(bool, True),
        },
        "transforms": Leaf(Each(dict), [dict(t) for t in DEFAULT], "hflip, resize, crop; "
                           "`ignore: val` leaves one out there", check=_transforms),
        "depth_unit": Leaf(positive_float, 1.0, "metres of a unit in depth files"),
        "no_class": Leaf(count(254, 0), None, "a number in segmentations that is no class, as "
                         "255 is"),
    },
    "gen": {
        "opt": _optimizer(0.9),
        "pretrained": Leaf(file_path, None, "a snapshot of train_omnigan.py whose weights the "
                           "generator begins with (null: at random)"),
        "default": Leaf(dict, {}, "a place for an anchor; nothing reads it", EXE),
        "encoder": {
            "architecture": Leaf(("munit", "deeplabv2"), "munit"),
            "input_dim": Leaf(wide, 3, "channels of a picture"),
            "dim": Leaf(wide, 32, "of munit: channels at full resolution"),
            "n_downsample": Leaf(count(16), 3, "of munit: how often it halves"),
            "norm": Leaf(text, "spectral", "of munit, outside of residual blocks"),
            **_BLOCKS,
        },
        "deeplabv2": {
            "pretrained_model": Leaf(file_path, None, "a file of ADVENT's weights, or advent, the "
                                     "one that fetch-weights gets (null: begins at random)"),
            "proj_dim": Leaf(wide, 256, "channels of the latent"),
        },
        "a": _decoder(),
        "d": _decoder(),
        "h": _decoder(),
        "s": _decoder(output_dim=Leaf(classes, 19, "classes")),
        "w": _decoder(),
        "t": {
            "ignore": Leaf(bool, False),
            "form": Leaf(("spade", "spade-munit", "plain"), "spade"),
            "bits": Leaf(("flood", "domain", "none"), None, "what tells it where to (null: flood, "
                         "if one decoder is shared)"),
            "shared": Leaf(bool, None, "one decoder for both floods (null: yes, unless plain)"),
            "use_spade": Leaf(bool, None, "false: form plain"),
            "use_bit_conditioning": Leaf(bool, None, "false: a decoder for each flood"),
            "spade_n_up": Leaf(count(16), None, "null: as often as the encoder halves"),
            "spade_kernel_size": Leaf(count(255), 3),
            "spade_param_free_norm": Leaf(("instance", "batch"), "instance"),
            "spade_use_spectral_norm": Leaf(bool, True),
            **{**_BLOCKS, "pad_type": Leaf(text, "zero")},
            **_INIT,
        },
    },
    "dis": {
        "gan": Leaf(("lsgan", "vanilla", "hinge", "wgan"), "lsgan"),
        "soft_shift": Leaf(number(0, 0.5), None, "largest shift of targets (null: 0.2; hinge and "
                           "wgan, which have no targets: 0)"),
        "flip_prob": Leaf(probability, 0.05, "probability of an exchanged target"),
        "smooth_fake": Leaf(bool, True, "shift the targets of fakes too"),
        "r1": Leaf(nonnegative_float, 0.0, "weight of the penalty on gradients at real pictures"),
        "gp": Leaf(nonnegative_float, 0.0, "weight of WGAN's gradient penalty"),
        "clip": Leaf(nonnegative_float, 0.0, "of wgan: weights are kept within it (published: "
                     "0.01); 0: as they are"),
        "opt": _optimizer(0.5),
        "default": Leaf(dict, {}, "a place for an anchor", EXE),
        "a": _discriminator(),
        "t": _discriminator(),
    },
    "classifier": {
        "ignore": Leaf(bool, False, "true: no domain classifier"),
        "loss": Leaf(("cross_entropy", "l1", "l2"), "cross_entropy"),
        "norm": Leaf(("batch", "group"), "batch"),
        "opt": _optimizer(0.5),
        **_INIT,
    },
    "train": {
        "epochs": Leaf(positive_int, 1000, "passes over the longest domain", EXE),
        "representational_training": Leaf(bool, True, "first the representation, then the "
                                          "translation; false: both all the time"),
        "representation_steps": Leaf(nonnegative_int, 10000, "steps of the first phase"),
        "freeze_representation": Leaf(bool, False, "in the second phase"),
        "representation_lr": Leaf(nonnegative_float, 1.0, "in the second phase, times its "
                                  "learning rate"),
        "keep_representation": Leaf(KEEPERS, "none", "in the second phase: distillation to a "
                                    "frozen copy, or elastic weight consolidation"),
        "keep_weight": Leaf(nonnegative_float, 1.0, "of keep_representation"),
        "mask": Leaf(("non-water", "ones"), "non-water", "where a translation keeps d, h, s"),
        "flood_height": Leaf(nonnegative_float, 0.1, "where decoded heights are below it, "
                             "lambdas.G.t.wm wants water in what is flooded"),
        "losses": {
            "cycle": Leaf(DIFFERENCES, "l2"),
            "auto": Leaf(DIFFERENCES, "l2"),
            "d": Leaf(("l1", "l2", "simse", "sigm", "dada"), "l2"),
            "h": Leaf(DIFFERENCES, "l2"),
            "w": Leaf(("bce", "dice_bce"), "bce"),
        },
        "lambdas": {
            "G": {
                **_weights(d=1, h=1, s=1, w=1),
                "a": _weights(auto=1, cycle=1, gan=1, features=0),
                "t": _weights(auto=1, cycle=1, gan=1, features=0, sm=1, dm=1, hm=1, wm=0,
                              tv=0),
                **_weights(classifier=1),
            },
            **_weights(C=1),
        },
        "grad_clip": Leaf(nonnegative_float, 0.0, "largest norm of a player's gradients; 0: any"),
        "log_level": Leaf((0, 1, 2), 1, "0: no losses are logged; 1: sums; 2: every loss", EXE),
    },
    "val": {
        "every_n_steps": Leaf(positive_int, 1000, "steps between figures and panels", EXE),
        "samples": Leaf(many, 64, "samples of each domain that figures are of", EXE),
        "max_log_images": Leaf(count(1000, 0), 4, "rows of a panel; 0: no panels", EXE),
    },
    "wandb": _NOTES,
}  # fmt: skip
