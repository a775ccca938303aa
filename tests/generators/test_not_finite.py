"""Networks whose weights are NaN or infinite: refused when they are read, whatever they are for."""

import pytest
import torch

from generators.files import open_network
from generators.toy import Toy
from recipes.toy import parts
from storage.errors import CheckpointError
from storage.snapshot import refuse_not_finite, save_snapshot


def harmed(path, value, name="weights"):
    net = parts.untrained(0, "cpu")
    state = net.state_dict()
    name = next(n for n, v in state.items() if v.is_floating_point() and v.numel() > 1)
    state[name].view(-1)[0] = value
    return save_snapshot(path, state, Toy.kind, {"net": net.config}, {}), name


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    file, name = harmed(tmp_path / "guide.safetensors", value)
    with pytest.raises(CheckpointError, match="its weights are not finite") as caught:
        open_network(file)
    assert name in str(caught.value) and str(file) in str(caught.value)
    assert caught.value.exit_code == 3


def test_weights_that_are_large_are_finite():
    """A sum of them overflows; none of them is infinite."""
    refuse_not_finite({"w": torch.full((10,), 3e38), "n": torch.tensor([2**62])}, "x")
