"""Files of torch.save, read without being run."""

import pytest
import torch

from storage.foreign.modules import StoredTensor
from storage.foreign.pickles import PickleError
from storage.foreign.saved import read_saved


def call(name, args):
    """Tensors as what stands for them; everything else as a dict."""
    if name == "torch._utils._rebuild_tensor_v2":
        return StoredTensor(args[0], args[1], args[2], args[3])
    return {}


@pytest.mark.parametrize("whole", [True, False])
def test_a_flipped_bit_of_a_weight_is_damage(tmp_path, whole):
    file = tmp_path / "x.pt"
    weight = torch.arange(64.0)
    torch.save({"w": weight if whole else weight[3:9]}, file)
    bytes_of = bytearray(file.read_bytes())
    at = bytes_of.index(weight.numpy().tobytes())
    read = read_saved(file, allowed=lambda name: True, call=call)
    assert torch.equal(read["w"].make(), weight if whole else weight[3:9])
    bytes_of[at + 5 * 4] ^= 1
    file.write_bytes(bytes_of)
    damaged = read_saved(file, allowed=lambda name: True, call=call)["w"]
    if whole:
        with pytest.raises(PickleError, match="damaged"):
            damaged.make()
    else:  # a part is read alone, and has no checksum of its own
        assert damaged.make().shape == (6,)
