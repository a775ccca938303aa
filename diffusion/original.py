"""NVIDIA's EDM2 files and those of its toy -> the arguments and weights of our networks.

Their `.pkl` are pickles of whole modules with Python source inside; they are read as data
(`storage.foreign.modules`) and become a snapshot: kind "edm2" or "edm2-toy", float32 weights under
the reference's names. What arguments may be is what `Precond` and `ToyModel` say themselves.

    python -m diffusion.original edm2-img512-xs-2147483-0.135.pkl  # writes a .safetensors beside it
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from diffusion.arguments import given_arguments, is_number
from diffusion.edm2 import Precond
from diffusion.toy import ToyModel
from storage.errors import CheckpointError, RunError
from storage.files import hash_file
from storage.foreign.modules import keywords, read_modules, reading, tensors_of
from storage.foreign.pickles import Inert, PickleError
from storage.snapshot import Snapshot, save_snapshot


class _Network(NamedTuple):
    """What becomes of a class of the originals."""

    kind: str
    make: type[nn.Module]


_NETWORKS = {"Precond": _Network("edm2", Precond), "ToyModel": _Network("edm2-toy", ToyModel)}
# The toy's classes lie in a script, NVIDIA's others are persistent objects of any module.
_CLASSES = re.compile(r"(__main__|(\w+\.)*toy_example)\.(ToyModel|MPLinear|MPSiLU)")
_WHAT = "EDM2 pickle"
# class of the file -> our name
_ENCODERS = {"StandardRGBEncoder": "rgb", "StabilityVAEEncoder": "stability-vae"}
_STATISTICS = ("raw_mean", "raw_std", "final_mean", "final_std")
_RELEASED = re.compile(r"edm2-img(?:64|512)-\w+(?:-uncond)?-(\d{7})-\d\.\d{3}")


def import_pickle(path: str | Path) -> Snapshot:
    """A `.pkl` of NVIDIA's EDM2 code (or of a copy of it) as a snapshot; nothing of it runs.

    Raises CheckpointError: "refused: global X in FILE" for what such a file has no use for, and
    for damage, tensors that claim more than the file holds, or arguments that do not go with them.
    """
    path = Path(path)
    if not path.is_file():
        other = path.with_suffix(".safetensors").name
        raise CheckpointError(f"network {path}: no such file (and no {other} beside it)")
    with reading(path, _WHAT):
        return _snapshot(read_modules(path, _CLASSES), path)


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


def _snapshot(root: Any, path: Path) -> Snapshot:
    whole = root if isinstance(root, dict) else {"ema": root}
    net = next((whole[key] for key in ("ema", "net") if whole.get(key) is not None), None)
    if not isinstance(net, Inert):
        raise PickleError("holds no network (no 'ema')")
    name = net.cls.rsplit(".", 1)[-1]
    if name not in _NETWORKS:
        raise PickleError(f"holds a {name[:80]}, neither of {', '.join(_NETWORKS)}")
    kind, make = _NETWORKS[name]
    config = _arguments(net, make)
    entries, size = tensors_of(net), path.stat().st_size
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
        "sha256": hash_file(path),
        "dataset": _plain(whole.get("dataset_kwargs")),
    }
    return Snapshot(state, kind, facts, provenance)


def _facts(whole: dict, config: dict[str, Any], path: Path) -> dict[str, Any]:
    """What else a snapshot of ours says, as far as the file or its name tells."""
    std = re.search(r"-(\d\.\d{3})$", path.stem)
    released = _RELEASED.fullmatch(path.stem)
    loss = keywords(whole.get("loss_fn"))
    level_density = {k: loss[k] for k in ("P_mean", "P_std") if is_number(loss.get(k))}
    # kimg in the name are those of a whole number of 1024-image ticks
    nimg = (int(released[1]) * 1000 + 999) // 1024 * 1024 if released else None
    return {
        "encoder": _encoder(whole.get("encoder"), config["img_channels"]),
        "ema_std": float(std[1]) if std else None,
        "nimg": nimg,
        "step": None,
        "classes": None,
        "loss": level_density or None,
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
    given = keywords(encoder)
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
            fits = all(is_number(v) for v in listed)
        else:
            fits = key.startswith("final") and is_number(listed)
        if not fits:
            raise PickleError(f"has an encoder whose {key} is no statistic of 4 channels")
        result[key] = listed
    return result


def _arguments(net: Inert, make: type[nn.Module]) -> dict[str, Any]:
    state = net.state if isinstance(net.state, dict) else {}
    args, given = state.get("_init_args", ()), dict(keywords(net))
    given.pop("class_name", None)
    if not isinstance(args, (tuple, list)):
        raise PickleError(f"has a {make.__name__} made with other arguments than it takes")
    try:
        return given_arguments(make, args, given)
    except ValueError as error:
        raise PickleError(str(error)) from None


def _check_shapes(kind: str, config: dict[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
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
    return value if value is None or isinstance(value, bool) or is_number(value) else None


def main(argv: list[str] | None = None) -> int:
    """The command: `python -m diffusion.original FILE.pkl ...`. Returns its exit code."""
    paths = list(sys.argv[1:] if argv is None else argv)
    if not paths or any(p.startswith("-") for p in paths):
        print("usage: python -m diffusion.original FILE.pkl [FILE.pkl ...]", file=sys.stderr)
        return 0 if paths in (["-h"], ["--help"]) else 2
    try:
        for path in paths:
            convert(path)
    except RunError as error:
        print(f"diffusion.original: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
