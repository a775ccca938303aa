"""Pickles with the structure of NVIDIA's EDM2 files, around networks of our own.

Their `persistence` reduces a decorated object to `_reconstruct_persistent_obj(meta)` with
meta = {type, version, module_src, class_name, state}; loading runs `module_src`. Here a pickler
does the same to chosen classes.
"""

import io
import pickle
import sys
import types

import torch

from diffusion.edm2 import Block, Precond, UNet
from diffusion.mp import MPConv, MPFourier
from diffusion.toy import MPLinear, MPSiLU, ToyModel


class EasyDict(dict):
    """Stands for dnnlib's."""

    __module__ = "dnnlib.util"
    __qualname__ = "EasyDict"


def _reconstruct_persistent_obj(meta):
    raise AssertionError("code of a file ran")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Raw:
    """Pickles as whatever (callable, args) says."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


class StandardRGBEncoder:
    pass


class StabilityVAEEncoder:
    pass


class EDM2Loss:
    pass


def put_modules(monkeypatch):
    """The modules that pickling names by."""
    for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj
    sys.modules["dnnlib.util"].EasyDict = EasyDict


def dumps(value, *, classes=(), source="raise SystemExit", protocol=4):
    """`value` pickled; objects of `classes` (and the stand-ins above) as persistent objects."""
    persistent = (*classes, StandardRGBEncoder, StabilityVAEEncoder, EDM2Loss)

    class Pickler(pickle.Pickler):
        def reducer_override(self, obj):
            if not isinstance(obj, persistent):
                return NotImplemented
            state = dict(obj.__dict__)
            state.setdefault("_init_args", ())
            state.setdefault("_init_kwargs", EasyDict())
            meta = EasyDict(
                type="class",
                version=6,
                module_src=source,
                class_name=type(obj).__name__,
                state=state,
            )
            return (_reconstruct_persistent_obj, (meta,), None)

    out = io.BytesIO()
    Pickler(out, protocol).dump(value)
    return out.getvalue()


def snapshot_dict(net, kwargs, *, encoder="rgb", loss=None, vae=None):
    """What NVIDIA's training loop pickles: half-precision weights, encoder, loss, data set."""
    net = net.half()
    net.__dict__["_init_args"] = ()
    net.__dict__["_init_kwargs"] = EasyDict(kwargs)
    made = StandardRGBEncoder() if encoder == "rgb" else StabilityVAEEncoder()
    if vae is not None:
        made._init_kwargs = EasyDict(vae)
    loss_fn = EDM2Loss()
    loss_fn._init_kwargs = EasyDict({"P_mean": -0.4, "P_std": 1.0} if loss is None else loss)
    return EasyDict(
        encoder=made,
        dataset_kwargs=EasyDict(path="datasets/img.zip", use_labels=True),
        loss_fn=loss_fn,
        ema=net,
    )


TINY = dict(
    img_resolution=8, img_channels=3, label_dim=3, model_channels=8, channel_mult=[1, 2],
    num_blocks=1, attn_resolutions=[4], channels_per_head=8,
)  # fmt: skip


def edm2_pickle(seed=0, scale=1.0, **changes):
    """Bytes of a pickle of a tiny EDM2 network with random weights; its modules must be put."""
    torch.manual_seed(seed)
    kwargs = {**TINY, **changes}
    net = Precond(**kwargs)
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.copy_(
                torch.full_like(p, 0.5) if name.endswith("gain") else scale * torch.randn_like(p)
            )
    return dumps(snapshot_dict(net, kwargs), classes=(Precond, UNet, Block, MPConv, MPFourier))


def toy_pickle(seed=0, hidden=8):
    """Bytes of a pickle of a small network of the toy."""
    torch.manual_seed(seed)
    net = ToyModel(hidden_dim=hidden, num_layers=2)
    net.__dict__["_init_kwargs"] = EasyDict(hidden_dim=hidden, num_layers=2)
    return dumps(net, classes=(ToyModel, MPLinear, MPSiLU))
