"""Networks by path: our snapshots, and the EDM2 pickles of their first authors.

NVIDIA's `.pkl` files hold Python source that a plain `pickle.load` runs.  Here they are read as
data (`storage.foreign.pickles`): tensors, constructor arguments and a few plain values come in,
the source is skipped, and a file that names anything else is refused.

    python -m runtime.networks edm2-img512-xs-2147483-0.135.pkl    # writes a .safetensors beside it
"""

import hashlib
import io
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from storage.errors import CheckpointError, RunError, UsageError
from storage.foreign.pickles import Global, Inert, PickleError, Refused, file_end, read_pickle
from storage.snapshot import Snapshot, load_snapshot, save_snapshot

_GLOBALS = frozenset(
    "collections.OrderedDict copyreg._reconstructor copy_reg._reconstructor _codecs.encode "
    "builtins.object builtins.set builtins.frozenset builtins.bytearray "
    "__builtin__.object __builtin__.set __builtin__.frozenset "
    "numpy.dtype numpy.ndarray numpy.core.multiarray._reconstruct numpy.core.multiarray.scalar "
    "numpy._core.multiarray._reconstruct numpy._core.multiarray.scalar "
    "torch.device torch.Size torch.float16 torch.float32 torch.float64 torch.bfloat16 "
    "torch._utils._rebuild_tensor torch._utils._rebuild_tensor_v2 torch._utils._rebuild_parameter "
    "torch._utils._rebuild_parameter_with_state torch.nn.parameter.Parameter "
    "torch.storage._load_from_bytes".split()
)
# Module classes, whose state is all that counts; the two helpers that NVIDIA's and the seed's
# repositories keep in modules of various names; the parts of the toy network.
_PATTERNS = re.compile(
    r"torch\.nn\.modules\.\w+\.\w+"
    r"|(\w+\.)*persistence\._reconstruct_persistent_obj"
    r"|(\w+\.)*util\.EasyDict"
    r"|(__main__|(\w+\.)*toy_example)\.(ToyModel|MPLinear|MPSiLU)"
)
_STORAGES = {
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_NUMPY = {
    torch.float16: np.float16,
    torch.bfloat16: np.uint16,
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.int16: np.int16,
    torch.int8: np.int8,
    torch.uint8: np.uint8,
    torch.bool: np.bool_,
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # of torch.save before it wrote zips
_MAX_ENTRIES = 100_000
_STORAGE_OPS = 1000
_MAX_STEP = 1 << 48  # of an offset, size or stride, in numbers; in bytes it still fits an int64

# Arguments of the networks: (kind, lowest, highest, default); None as default: must be given.
_UNSET = object()
_PRECOND: dict[str, tuple[str, float, float, Any]] = {
    "img_resolution": ("int", 1, 8192, _UNSET),
    "img_channels": ("int", 1, 1024, _UNSET),
    "label_dim": ("int", 0, 1 << 20, _UNSET),
    "use_fp16": ("bool", 0, 1, True),
    "sigma_data": ("float", 1e-6, 1e6, 0.5),
    "logvar_channels": ("int", 1, 1 << 16, 128),
    "model_channels": ("int", 1, 1 << 16, 192),
    "channel_mult": ("ints", 1, 1024, [1, 2, 3, 4]),
    "channel_mult_noise": ("int?", 1, 1024, None),
    "channel_mult_emb": ("int?", 1, 1024, None),
    "num_blocks": ("int", 1, 64, 3),
    "attn_resolutions": ("ints", 0, 8192, [16, 8]),
    "label_balance": ("float", 0, 1, 0.5),
    "concat_balance": ("float", 0, 1, 0.5),
    "resample_filter": ("floats", -1e6, 1e6, [1, 1]),
    "channels_per_head": ("int", 1, 1 << 16, 64),
    "dropout": ("float", 0, 1, 0.0),
    "res_balance": ("float", 0, 1, 0.3),
    "attn_balance": ("float", 0, 1, 0.3),
    "clip_act": ("float?", 0, 1e9, 256),
}
_TOY: dict[str, tuple[str, float, float, Any]] = {
    "in_dim": ("int", 1, 1024, 2),
    "num_layers": ("int", 0, 1024, 4),
    "hidden_dim": ("int", 1, 1 << 16, 64),
    "sigma_data": ("float", 1e-6, 1e6, 0.5),
}
_NETWORKS = {"Precond": ("edm2", _PRECOND, 6), "ToyModel": ("edm2-toy", _TOY, 4)}
# class of the file -> our name
_ENCODERS = {"StandardRGBEncoder": "rgb", "StabilityVAEEncoder": "stability-vae"}
_STATISTICS = ("raw_mean", "raw_std", "final_mean", "final_std")
_RELEASED = re.compile(r"edm2-img(?:64|512)-\w+(?:-uncond)?-(\d{7})-\d\.\d{3}")


def open_network(path: str | Path, say: Callable[[str], object] = print) -> Snapshot:
    """The network at a path: a snapshot of ours, or an EDM2 pickle.

    A `.pkl` with a `.safetensors` of the same name beside it means that one (also when the `.pkl`
    itself is not there), and `say` is told so in one line.  Any other `.pkl` is imported: kind
    "edm2" (or "edm2-toy"), float32 weights under the reference's names, config
    {"net": constructor arguments, "encoder", "ema_std", "nimg", "sigma_data", "loss", ...} with
    None where the file does not say.
    Raises UsageError for a URL, CheckpointError for what is missing, damaged, foreign or refused.
    """
    if re.match(r"[a-z0-9+.-]+://", str(path).strip(), re.IGNORECASE):
        name = str(path).rstrip("/").rsplit("/", 1)[-1]
        raise UsageError(f"{path} is a URL: download it first, then give the path of {name}")
    path = Path(path)
    if path.suffix.lower() == ".pkl":
        sibling = path.with_suffix(".safetensors")
        if sibling.is_file():
            say(f"{path.name}: taking {sibling} instead")
            return load_snapshot(sibling)
        snapshot = import_pickle(path)
        count = len(snapshot.state_dict)
        say(f"imported {path.name}: {count} tensors; the code in the file was ignored")
        return snapshot
    if path.suffix.lower() != ".safetensors":
        raise CheckpointError(f"network {path}: neither a .safetensors nor a .pkl file")
    return load_snapshot(path)


def convert(
    path: str | Path, out: str | Path | None = None, say: Callable[[str], object] = print
) -> Path:
    """Import a `.pkl` and write it as a snapshot, by default beside it; returns where it is."""
    path = Path(path)
    out = path.with_suffix(".safetensors") if out is None else Path(out)
    if out.exists():
        raise CheckpointError(f"{out} exists already; remove it first")
    snapshot = import_pickle(path)
    save_snapshot(out, *snapshot)
    say(f"converted {path.name}: {len(snapshot.state_dict)} tensors; code ignored; wrote {out}")
    return out


def import_pickle(path: str | Path) -> Snapshot:
    """A `.pkl` of NVIDIA's EDM2 code (or of a copy of it) as a snapshot; nothing of it runs.

    Raises CheckpointError: "refused: global X in FILE" for what such a file has no use for, and
    for damage, tensors that claim more than the file holds, or arguments that do not go with them.
    """
    path = Path(path)
    if not path.is_file():
        other = path.with_suffix(".safetensors").name
        raise CheckpointError(f"network {path}: no such file (and no {other} beside it)")
    try:
        with open(path, "rb") as file:
            size = file_end(file)
            root = read_pickle(file, allowed=_allowed, call=_call)
        return _snapshot(root, path, size)
    except Refused as error:
        raise CheckpointError(f"refused: global {error.name} in {path}") from None
    except PickleError as error:
        raise CheckpointError(f"{path}: not a usable EDM2 pickle: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        # made of the right pieces in a way that nobody writes
        text = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{path}: not a usable EDM2 pickle ({text})") from None


# ------------------------------------------------------------------------------ what a file may say


class _Storage(NamedTuple):
    data: memoryview
    dtype: torch.dtype


class _Tensor(NamedTuple):
    """A view of a storage, checked to lie inside it; made only when it is wanted."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def numel(self) -> int:
        return math.prod(self.size)

    def make(self) -> torch.Tensor:
        """float32, contiguous, of its own memory."""
        numbers = np.frombuffer(self.storage.data, _NUMPY[self.storage.dtype])
        step = numbers.itemsize
        strides = [step * n for n in self.stride]
        view = np.lib.stride_tricks.as_strided(numbers[self.offset :], self.size, strides)
        if self.storage.dtype == torch.bfloat16:  # the upper half of a float32
            view = (view.astype(np.uint32) << 16).view(np.float32)
        return torch.from_numpy(np.array(view, np.float32, order="C"))


def _allowed(name: str) -> bool:
    return name in _GLOBALS or _PATTERNS.fullmatch(name) is not None


def _call(name: str, args: tuple) -> Any:
    """What stands for calling `name`: values for the few that carry them, else a description."""
    last = name.rsplit(".", 1)[-1]
    if last in ("OrderedDict", "EasyDict"):
        return _pairs(args)
    if last in ("set", "frozenset"):
        return list(args[0]) if args and isinstance(args[0], list) else []
    if name == "_codecs.encode":
        text, code = (*args, None, None)[:2]
        if not isinstance(text, str) or code not in ("latin1", "latin-1"):
            raise PickleError("encodes a string in an unknown way")
        return text.encode("latin-1")
    if last in ("_rebuild_tensor", "_rebuild_tensor_v2"):
        return _tensor(*_first(args, 4, name))
    if last in ("_rebuild_parameter", "_rebuild_parameter_with_state", "Parameter"):
        return _first(args, 1, name)[0]
    if last == "_load_from_bytes":
        return _storage(_first(args, 1, name)[0])
    if last == "_reconstruct_persistent_obj":
        return _persistent(_first(args, 1, name)[0])
    if last == "_reconstructor":
        cls = _first(args, 1, name)[0]
        return Inert(cls.name if isinstance(cls, Global) else "?")
    return Inert(name, args)


def _first(args: tuple, count: int, name: str) -> tuple:
    if len(args) < count:
        raise PickleError(f"calls {name} with {len(args)} arguments")
    return args[:count]


def _pairs(args: tuple) -> dict:
    if not args:
        return {}
    pairs = args[0].items() if isinstance(args[0], dict) else args[0]
    result = {}
    for pair in pairs if isinstance(args[0], (list, dict)) else [None]:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not isinstance(pair[0], str):
            raise PickleError("has a dict that is not made of names and values")
        result[pair[0]] = pair[1]
    return result


def _persistent(meta: Any) -> Inert:
    """A persistent object's class name and state; the source beside them is not looked at."""
    if not isinstance(meta, dict) or meta.get("type") != "class":
        raise PickleError("has a persistent object that is no class")
    name, state = meta.get("class_name"), meta.get("state")
    named = isinstance(name, str) and len(name) < 200 and name.isidentifier()
    if not named or not isinstance(state, dict):
        raise PickleError("has a persistent object without a name or a state")
    return Inert(name, state=state)


def _storage(data: Any) -> _Storage:
    """A storage in torch.save's old format: four small pickles, the count, the numbers."""
    if not isinstance(data, bytes):
        raise PickleError("has a tensor storage that is no bytes")
    file = io.BytesIO(data)

    def persistent(key: Any) -> tuple:
        if not isinstance(key, tuple) or len(key) < 5 or key[0] != "storage":
            raise PickleError("has a tensor storage of an unknown form")
        kind, count = key[1], key[4]
        if not isinstance(kind, Global) or type(count) is not int or any(key[5:]):
            raise PickleError("has a tensor storage of an unknown form")
        return (_STORAGES[kind.name], count)

    def part(allowed: Callable[[str], bool] = lambda name: False, **options: Any) -> Any:
        return read_pickle(file, allowed=allowed, call=Inert, max_ops=_STORAGE_OPS, **options)

    if part() != _LEGACY_MAGIC:
        raise PickleError("has a tensor storage in a format that is not torch.save's old one")
    part()  # the version of the protocol
    system = part()
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise PickleError("was written on a big-endian machine")
    found = part(_STORAGES.__contains__, persistent=persistent)
    part()  # the list of keys
    if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[0], torch.dtype):
        raise PickleError("has a tensor storage of an unknown form")
    dtype, count = found
    begin = file.tell() + 8
    said = int.from_bytes(data[begin - 8 : begin], "little", signed=True)
    there = len(data) - begin
    if said != count or count < 0 or count * dtype.itemsize != there:
        raise PickleError(f"has a storage of {count} numbers ({said} again) in {there} bytes")
    return _Storage(memoryview(data)[begin:], dtype)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise PickleError("has a tensor without a storage")
    numbers = (
        (offset, *size, *stride)
        if isinstance(size, tuple) and isinstance(stride, tuple)
        else (None,)
    )
    if any(type(v) is not int or not 0 <= v <= _MAX_STEP for v in numbers) or len(size) != len(
        stride
    ):
        raise PickleError("has a tensor whose shape is no list of numbers")
    if len(size) > 8:
        raise PickleError(f"has a tensor of {len(size)} dimensions")
    tensor = _Tensor(storage, offset, size, stride)
    held = len(storage.data) // storage.dtype.itemsize
    count = tensor.numel()
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and (last >= held or count > held):
        raise PickleError(f"has a tensor of shape {list(size)} in a storage of {held} numbers")
    return tensor


# ---------------------------------------------------------------------------------- what it becomes


def _snapshot(root: Any, path: Path, size: int) -> Snapshot:
    whole = root if isinstance(root, dict) else {"ema": root}
    net = next((whole[key] for key in ("ema", "net") if whole.get(key) is not None), None)
    if not isinstance(net, Inert):
        raise PickleError("holds no network (no 'ema')")
    name = net.cls.rsplit(".", 1)[-1]
    if name not in _NETWORKS:
        raise PickleError(f"holds a {name[:80]}, neither of {', '.join(_NETWORKS)}")
    kind, table, positional = _NETWORKS[name]
    config = _arguments(net, table, positional, name)
    entries = _collect(net)
    claimed = sum(t.numel() for t in entries.values())
    if claimed > size:  # a number takes two bytes in these files; one at the very least
        raise PickleError(f"claims {claimed} weights in a file of {size} bytes")
    _check_shapes(kind, config, {k: t.size for k, t in entries.items()})
    state = {}
    for key in list(entries):
        state[key] = entries.pop(key).make()
    facts: dict[str, Any] = {"net": config, "sigma_data": config["sigma_data"]}
    if kind == "edm2":
        facts.update(_facts(whole, config, path))
    provenance = {
        "imported": "a pickle of NVIDIA's EDM2 code; the code in it was ignored",
        "file": path.name,
        "sha256": _sha256(path),
        "dataset": _plain(whole.get("dataset_kwargs")),
    }
    return Snapshot(state, kind, facts, provenance)


def _facts(whole: dict, config: dict[str, Any], path: Path) -> dict[str, Any]:
    """What else a snapshot of ours says, as far as the file or its name tells."""
    std = re.search(r"-(\d\.\d{3})$", path.stem)
    released = _RELEASED.fullmatch(path.stem)
    loss = _keywords(whole.get("loss_fn"))
    numbers = {k: loss[k] for k in ("P_mean", "P_std") if _is_number(loss.get(k))}
    # kimg in the name are those of a whole number of 1024-image ticks
    nimg = (int(released[1]) * 1000 + 999) // 1024 * 1024 if released else None
    return {
        "encoder": _encoder(whole.get("encoder"), config["img_channels"]),
        "ema_std": float(std[1]) if std else None,
        "nimg": nimg,
        "step": None,
        "classes": None,
        "loss": numbers or None,
        "selection": {},
    }


def _encoder(encoder: Any, channels: int) -> dict[str, Any]:
    if not isinstance(encoder, Inert):
        return {"name": "stability-vae" if channels == 4 else "rgb"}
    name = encoder.cls.rsplit(".", 1)[-1]
    if name not in _ENCODERS:
        raise PickleError(f"has an encoder {name[:80]}, neither of {', '.join(_ENCODERS)}")
    result: dict[str, Any] = {"name": _ENCODERS[name]}
    if result["name"] == "rgb":
        return result
    given = _keywords(encoder)
    vae = given.get("vae_name")
    if isinstance(vae, str):
        # a name the file chose: of the hub's form, never a path
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", vae):
            raise PickleError(f"names a VAE {ascii(vae[:80])}, which is no name of a hub")
        result["vae"] = vae
    for key in _STATISTICS:
        value = given.get(key)
        listed = list(value) if isinstance(value, (list, tuple)) else value
        if value is None:
            continue
        if key.startswith("raw") and isinstance(listed, list) and len(listed) == 4:
            fits = all(_is_number(v) for v in listed)
        else:
            fits = key.startswith("final") and _is_number(listed)
        if not fits:
            raise PickleError(f"has an encoder whose {key} is no statistic of 4 channels")
        result[key] = listed
    return result


def _keywords(thing: Any) -> dict[str, Any]:
    """Constructor arguments given by name; those by position are not told apart here."""
    state = thing.state if isinstance(thing, Inert) else None
    kwargs = state.get("_init_kwargs") if isinstance(state, dict) else None
    return kwargs if isinstance(kwargs, dict) else {}


def _arguments(net: Inert, table: dict, positional: int, name: str) -> dict[str, Any]:
    state = net.state if isinstance(net.state, dict) else {}
    given = dict(_keywords(net))
    args = state.get("_init_args", ())
    if not isinstance(args, (tuple, list)) or len(args) > positional:
        raise PickleError(f"has a {name} made with other arguments than it takes")
    for key, value in zip(table, args, strict=False):
        if key in given:
            raise PickleError(f"has a {name} with two values of {key}")
        given[key] = value
    given.pop("class_name", None)
    unknown = [str(k)[:80] for k in given if k not in table]
    if unknown:
        raise PickleError(f"has a {name} with an unknown argument {unknown[0]}")
    config = {}
    for key, (kind, low, high, default) in table.items():
        value = given.get(key, default)
        if value is _UNSET:
            raise PickleError(f"has a {name} without its {key}")
        if not _fits(value, kind, low, high):
            raise PickleError(f"has a {name} with {key} {_said(value)}")
        config[key] = list(value) if kind in ("ints", "floats") else value
    return config


def _fits(value: Any, kind: str, low: float, high: float) -> bool:
    if kind.endswith("?"):
        return value is None or _fits(value, kind[:-1], low, high)
    if kind in ("ints", "floats"):
        if not isinstance(value, (list, tuple)) or len(value) > 32:
            return False
        return all(_fits(v, kind[:-1], low, high) for v in value)
    if kind == "bool":
        return isinstance(value, bool)
    if not _is_number(value) or (kind == "int" and type(value) is not int):
        return False
    return low <= value <= high


def _said(value: Any) -> str:
    """A value from a file for a message; never the text of something deep or huge."""
    if isinstance(value, str):
        return ascii(value[:60])
    if value is None or isinstance(value, (bool, float)):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if value.bit_length() < 200 else "a huge number"
    if isinstance(value, (list, tuple)) and len(value) <= 8:
        parts = [_said(v) if isinstance(v, (int, float)) else "..." for v in value]
        return f"[{', '.join(parts)}]"
    return f"a {type(value).__name__}"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300


def _collect(net: Inert) -> dict[str, _Tensor]:
    """Parameters and persistent buffers of a module and those inside, by state-dict name."""
    out: dict[str, _Tensor] = {}
    pending: list[tuple[Any, str]] = [(net, "")]
    visited = 0  # modules and entries, also of a table that many modules share
    while pending:
        module, prefix = pending.pop()
        visited += 1
        state = module.state if isinstance(module, Inert) else None
        if not isinstance(state, dict) or len(prefix) > 1000:
            raise PickleError(f"has no module at {ascii(prefix[:80])}")
        listed = state.get("_non_persistent_buffers_set")
        listed = listed if isinstance(listed, list) else []
        parameters, buffers, modules = (
            _table(state, kind, prefix) for kind in ("_parameters", "_buffers", "_modules")
        )
        visited += len(listed) + len(parameters) + len(buffers) + len(modules)
        if visited > _MAX_ENTRIES:
            raise PickleError(f"has more than {_MAX_ENTRIES} modules or tensors")
        skipped = {name for name in listed if isinstance(name, str)}
        for kind, table in (("parameter", parameters), ("buffer", buffers)):
            for name, value in table.items():
                if value is None or (kind == "buffer" and name in skipped):
                    continue
                if not isinstance(value, _Tensor):
                    raise PickleError(f"has no tensor at {ascii((prefix + name)[:80])}")
                out[prefix + name] = value
        inside = [(m, f"{prefix}{name}.") for name, m in modules.items() if m is not None]
        pending += reversed(inside)
    return out


def _table(state: dict, kind: str, prefix: str) -> dict[str, Any]:
    table = state.get(kind, {})
    if not isinstance(table, dict) or len(table) > _MAX_ENTRIES:
        raise PickleError(f"has no {kind} at {ascii(prefix[:80])}")
    if not all(isinstance(k, str) and len(k) < 200 for k in table):
        raise PickleError(f"has no {kind} at {ascii(prefix[:80])}")
    return table


def _check_shapes(kind: str, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    """The widths that the arguments say are those of the weights: building the network from them
    then takes no more memory than the file's own weights."""

    def expect(name: str, *want: int | None) -> None:
        got = shapes.get(name)
        if got is None:
            raise PickleError(f"has no weights {name}, which its arguments ask for")
        if len(got) != len(want) or any(w not in (None, g) for g, w in zip(got, want, strict=True)):
            raise PickleError(f"has {name} of shape {list(got)}, which its arguments do not give")

    if kind == "edm2-toy":
        hidden = config["hidden_dim"]
        expect("layers.0.weight", hidden, config["in_dim"] + 2)
        expect(f"layers.{2 * config['num_layers']}.weight", hidden, hidden)
        return
    width, mult = config["model_channels"], config["channel_mult"]
    if not mult:
        raise PickleError("has no levels (channel_mult is empty)")
    levels = [width * m for m in mult]
    emb = width * config["channel_mult_emb"] if config["channel_mult_emb"] else max(levels)
    noise = width * config["channel_mult_noise"] if config["channel_mult_noise"] else levels[0]
    expect("unet.emb_noise.weight", emb, noise)
    if config["label_dim"]:
        expect("unet.emb_label.weight", emb, config["label_dim"])
    expect("logvar_linear.weight", 1, config["logvar_channels"])
    expect("unet.out_conv.weight", config["img_channels"], levels[0], 3, 3)
    for level, channels in enumerate(levels):
        res = config["img_resolution"] >> level
        last = config["num_blocks"]
        expect(f"unet.enc.{res}x{res}_block{last - 1}.conv_res1.weight", channels, None, 3, 3)
        expect(f"unet.dec.{res}x{res}_block{last}.conv_res1.weight", channels, None, 3, 3)


def _plain(value: Any, depth: int = 0) -> Any:
    """A dict of plain values as JSON can hold it; whatever else there is, left out."""
    if isinstance(value, dict) and depth < 2 and len(value) < 100:
        return {str(k)[:200]: _plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, str):
        return value[:1000].encode("utf-8", "replace").decode()
    return value if value is None or isinstance(value, bool) or _is_number(value) else None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def main(argv: list[str] | None = None) -> int:
    """The command: `python -m runtime.networks FILE.pkl ...`. Returns its exit code."""
    paths = list(sys.argv[1:] if argv is None else argv)
    if not paths or any(p.startswith("-") for p in paths):
        print("usage: python -m runtime.networks FILE.pkl [FILE.pkl ...]", file=sys.stderr)
        return 0 if paths in (["-h"], ["--help"]) else 2
    try:
        for path in paths:
            convert(path)
    except RunError as error:
        print(f"networks: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
