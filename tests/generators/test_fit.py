"""Snapshots whose configuration says what it will, or is of other weights: one line, at once, and
no memory taken, for every kind in the same way."""

import json
import math
import time
from types import SimpleNamespace

import pytest
import torch

from diffusion.ddpm_generate import make_gaussian
from generators import edm2, imle
from generators.base import Setup
from generators.door import KINDS, make_generator, open_generator
from generators.fit import Unfit
from imle import UnconditionalGenerator
from models import SimCLR
from models.ddpm import UNet
from models.omnigan import OmniGenerator
from recipes.edm2 import parts as edm2_parts
from recipes.generate import parts as generate_parts
from recipes.generate.options import get_args as generate_args
from recipes.simclr.files import encoder_of
from recipes.toy import parts as toy
from storage.errors import CheckpointError, RunError
from storage.snapshot import Snapshot, save_snapshot

BAD = (10**18, -1, 1e300, math.nan, True, None, "x" * 5000, [10**9] * 3, {"a": [1]})


def _ddpm():
    net = UNet(3, 3, model_channels=8, channel_mult=(1,), attention_resolutions=())
    gaussian = {"schedule": "linear", "T": 1000, "prediction_type": "eps"}
    gaussian |= {"variance_type": "fixed_small", "time_input": "step"}
    config = {"net": net.config, "gaussian": gaussian, "encoder": {"name": "rgb"}}
    return net, config | {"resolution": 8, "classes": [], "objects": [], "clip": "unit"}


def snapshots():
    torch.manual_seed(0)
    one = UnconditionalGenerator(8, z_nc=4, latent_nc=8, map_layers=1, channels=[8, 8])
    encoder = SimCLR("resnet18", head="original")
    recipe = {"net": encoder.config, "recipe": None, "picture_size": 32}
    plain = toy.untrained(0, "cpu")
    ddpm, config = _ddpm()
    small = {"n_res": 1, "activation": "tanh"}
    street = OmniGenerator(
        "adst", encoder={"dim": 4, "n_downsample": 2, "n_res": 1}, a=small, d=small,
        s={**small, "output_dim": 5}, condition_on="raw",
    )  # fmt: skip
    return {
        "omnigan": Snapshot(street.state_dict(), "omnigan", {"net": street.config}, {}),
        "edm2": edm2.untrained(),
        "camnet": imle.untrained(),
        "imle-unconditional": Snapshot(
            one.state_dict(), "imle-unconditional", {"net": one.config, "codes": {}}, {}
        ),
        "edm2-toy": Snapshot(plain.state_dict(), "edm2-toy", {"net": plain.config}, {}),
        "ddpm": Snapshot(ddpm.state_dict(), "ddpm", config, {}),
        "simclr": Snapshot(encoder.state_dict(), "simclr", recipe, {}),
    }


ALL = snapshots()


def opened(snapshot):
    return encoder_of(snapshot) if snapshot.kind == "simclr" else make_generator(snapshot)


def test_all_kinds_are_here_and_fit():
    assert set(ALL) == {*KINDS, "simclr"}
    for snapshot in ALL.values():
        opened(snapshot)


def changed(config):
    """(what was done, configuration) for every entry on two levels and every bad value."""
    copy = json.loads(json.dumps(config))
    for key, value in copy.items():
        yield f"no {key}", {k: v for k, v in copy.items() if k != key}
        for bad in BAD:
            yield f"{key} {bad!r:.30}", copy | {key: bad}
        if isinstance(value, dict):
            for inner in value:
                yield (
                    f"no {key}.{inner}",
                    copy | {key: {k: v for k, v in value.items() if k != inner}},
                )
                for bad in BAD[::2]:
                    yield f"{key}.{inner} {bad!r:.30}", copy | {key: value | {inner: bad}}
            yield f"more in {key}", copy | {key: value | {"colour": 1}}


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind != "simclr"])
def test_a_configuration_of_nonsense_is_one_line(kind):
    snapshot = ALL[kind]
    count = refused = 0
    for what, config in changed(snapshot.config):
        start = time.monotonic()
        try:
            opened(snapshot._replace(config=config))
        except RunError as error:
            refused += 1
            assert error.exit_code in (2, 3) and len(str(error)) < 600, (what, error)
        except Exception as error:  # an error of the house, which carries its code
            assert getattr(error, "exit_code", None) in (2, 3), (what, repr(error))
        assert time.monotonic() - start < 5, what
        count += 1
    assert refused > count / 3 > 10


@pytest.mark.parametrize("name", ["proj_dim", "proj_hidden", "resolution", "backbone", "head"])
def test_an_encoder_of_nonsense_is_one_line(name):
    snapshot = ALL["simclr"]
    for bad in (10**9, -1, 1.5, "x", [1], {}):
        net = snapshot.config["net"] | {name: bad}
        with pytest.raises(CheckpointError):
            opened(snapshot._replace(config=snapshot.config | {"net": net}))


@pytest.mark.parametrize("kind", ALL)
def test_weights_that_are_not_those_of_the_configuration(kind):
    snapshot = ALL[kind]
    state = snapshot.state_dict
    name = next(n for n, v in state.items() if v.is_floating_point() and v.ndim > 1)
    for harmed in (
        {k: v for k, v in state.items() if k != name},
        state | {"colour": torch.zeros(3)},
        state | {name: torch.zeros(1, 2, 3, 5)},
        state | {name: state[name].to(torch.int64)},
        {},
    ):
        with pytest.raises(CheckpointError):
            opened(snapshot._replace(state_dict=harmed))


CPU = SimpleNamespace(
    device=torch.device("cpu"), precision=SimpleNamespace(requested="fp32"), say=lambda line: None
)
GUIDES = {  # how each script opens a guide, or a reference
    "train_edm2": ("edm2", lambda file, net: edm2_parts.load_network(file, net.net, CPU)),
    "generate_images": (
        "edm2",
        lambda file, net: generate_parts.guide(
            generate_args(None, ["--net", "x", "--guide", file]), net, CPU.device, CPU.say
        ),
    ),
    "toy_example": ("edm2-toy", lambda file, net: toy.load_net(file, CPU.device)),
}


@pytest.mark.parametrize("harm", ["missing", "extra", "misshapen"])
@pytest.mark.parametrize("script", GUIDES)
def test_a_guide_that_does_not_fit_is_one_line_in_every_script(script, harm, tmp_path):
    kind, opens = GUIDES[script]
    snapshot = ALL[kind]
    name = next(n for n, v in snapshot.state_dict.items() if v.ndim > 1)
    state = {
        "missing": {k: v for k, v in snapshot.state_dict.items() if k != name},
        "extra": snapshot.state_dict | {"colour": torch.zeros(3)},
        "misshapen": snapshot.state_dict | {name: torch.zeros(1, 2, 3, 5)},
    }[harm]
    file = save_snapshot(tmp_path / "x.safetensors", state, kind, snapshot.config, {})
    with pytest.raises(CheckpointError) as caught:
        opens(str(file), make_generator(snapshot, Setup()))
    assert "\n" not in str(caught.value) and caught.value.exit_code == 3


def test_bounds_are_asked_before_anything_is_built():
    snapshot = ALL["edm2"]
    for name, value in {"num_blocks": 10**9, "model_channels": 10**9, "label_balance": 1e9}.items():
        config = snapshot.config | {"net": snapshot.config["net"] | {name: value}}
        with pytest.raises(Unfit, match=name):
            make_generator(snapshot._replace(config=config), Setup())
    with pytest.raises(ValueError, match="T 1000000000"):
        make_gaussian(ALL["ddpm"].config["gaussian"] | {"T": 10**9})


@pytest.mark.parametrize("config", [[], 3, "x", None])
def test_a_header_that_is_no_object(tmp_path, config):
    file = save_snapshot(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, "edm2", config, {})
    with pytest.raises(CheckpointError, match="no object"):
        open_generator(file, say=lambda line: None)
