"""NVIDIA's EDM2 files, those of its toy and of EDM -> the arguments and weights of networks.

Their `.pkl` are pickles of whole modules with Python source inside; they are read as data
(`storage.foreign.modules`) and become a snapshot: kind "edm2" or "edm2-toy", float32 weights under
the reference's names. What arguments may be is what `Precond` and `ToyModel` say themselves. Of EDM
(arXiv:2206.00364), whose networks are of other classes, weights and arguments come in as they are,
of kind "edm": there is no network here that takes them.

    python -m diffusion.original edm2-img512-xs-2147483-0.135.pkl  # writes a .safetensors beside it
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from diffusion.edm2 import Precond
from diffusion.toy import ToyModel
from storage.arguments import given_arguments, is_number
from storage.errors import CheckpointError, RunError
from storage.files import hash_file
from storage.foreign.modules import StoredTensor, keywords, read_modules, reading, tensors_of
from storage.foreign.pickles import Inert, PickleError
from storage.snapshot import Snapshot, save_snapshot


class _Network(NamedTuple):
    """What becomes of a class of the originals."""

    kind: str
    make: type[nn.Module]


class Parsed(NamedTuple):
    """What is in a file: tensors still to be made, and the facts of a snapshot."""

    entries: dict[str, StoredTensor]
    kind: str
    config: dict[str, Any]
    provenance: dict[str, Any]


_NETWORKS = {"Precond": _Network("edm2", Precond), "ToyModel": _Network("edm2-toy", ToyModel)}
_EDM = ("EDMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond")  # of EDM, which is not here
# The toy's classes lie in a script, NVIDIA's others are persistent objects of any module.
_CLASSES = re.compile(r"(__main__|(\w+\.)*toy_example)\.(ToyModel|MPLinear|MPSiLU)")
_WHAT = "EDM2 pickle"
# class of the file -> our name
_ENCODERS = {"StandardRGBEncoder": "rgb", "StabilityVAEEncoder": "stability-vae"}
_STATISTICS = ("raw_mean", "raw_std", "final_mean", "final_std")
_NUMBERED = re.compile(r".+-(\d{7,12})-\d\.\d{3}")


class PickleFile:
    """A `.pkl` as `storage.snapshot.SnapshotFile` has a snapshot: facts and layout when opened,
    float32 tensors one after the other.

    Raises CheckpointError as `import_pickle`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        entries, self.kind, self.config, self.provenance = parse_pickle(self.path)
        self.sha256: str = self.provenance["sha256"]
        self.layout = {name: (entry.size, "F32") for name, entry in entries.items()}

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, tensor) in order of names, on the CPU."""
        entries = parse_pickle(self.path).entries
        for name in sorted(entries):
            with reading(self.path, _WHAT):
                tensor = entries.pop(name).make()
            yield name, tensor


def import_pickle(path: str | Path) -> Snapshot:
    """A `.pkl` of NVIDIA's EDM2 code (or of a copy of it) as a snapshot; nothing of it runs.

    Raises CheckpointError: "refused: global X in FILE" for what such a file has no use for, and
    for damage, tensors that claim more than the file holds, or arguments that do not go with them.
    """
    entries, kind, config, provenance = parse_pickle(Path(path))
    with reading(Path(path), _WHAT):
        state = {name: entries.pop(name).make() for name in list(entries)}
    return Snapshot(state, kind, config, provenance)


def parse_pickle(path: Path) -> Parsed:
    """What is in a `.pkl`, its tensors not made yet. Raises CheckpointError as `import_pickle`."""
    if not path.is_file():
        other = path.with_suffix(".safetensors").name
        raise CheckpointError(f"network {path}: no such file (and no {other} beside it)")
    names: set[str] = set()
    with reading(path, _WHAT):
        return _parsed(read_modules(path, _CLASSES, names), path, names)


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


def _parsed(root: Any, path: Path, names: Set[str]) -> Parsed:
    whole = root if isinstance(root, dict) else {"ema": root}
    net = next((whole[key] for key in ("ema", "net") if whole.get(key) is not None), None)
    if not isinstance(net, Inert):
        raise PickleError("holds no network (no 'ema')")
    name = net.cls.rsplit(".", 1)[-1]
    entries, size = tensors_of(net), path.stat().st_size
    if name in _EDM:
        kind, config = "edm", {"class": name, **_plain(keywords(net))}
    elif name in _NETWORKS:
        kind, make = _NETWORKS[name]
        config = _arguments(net, make)
    else:
        known = ", ".join((*_NETWORKS, *_EDM))
        raise PickleError(f"holds a {name[:80]}, neither of {known}")
    claimed = sum(t.numel() for t in entries.values())
    if claimed > size:  # a number takes two bytes in these files; one at the very least
        raise PickleError(f"claims {claimed} weights in a file of {size} bytes")
    facts: dict[str, Any] = {"net": config, "sigma_data": config.get("sigma_data")}
    if kind != "edm":
        _check_shapes(kind, config, {k: t.size for k, t in entries.items()})
    if kind == "edm2":
        facts.update(_facts(whole, config, path, names))
    code = "EDM" if kind == "edm" else "EDM2"
    provenance = {
        "imported": f"a pickle of NVIDIA's {code} code; the code in it was ignored",
        "file": path.name,
        "sha256": hash_file(path),
        "dataset": _plain(whole.get("dataset_kwargs")),
    }
    return Parsed(entries, kind, facts, provenance)


def _facts(whole: dict, config: dict[str, Any], path: Path, names: Set[str]) -> dict[str, Any]:
    """What else a snapshot of ours says, as far as the file or its name tells."""
    std = re.search(r"-(\d\.\d{3})$", path.stem)
    nimg, step = counted(path.stem, autoguided=is_autoguided(names, whole.get("dataset_kwargs")))
    loss = keywords(whole.get("loss_fn"))
    level_density = {k: loss[k] for k in ("P_mean", "P_std") if is_number(loss.get(k))}
    return {
        "encoder": _encoder(whole.get("encoder"), config["img_channels"]),
        "ema_std": float(std[1]) if std else None,
        "nimg": nimg,
        "step": step,
        "classes": None,
        "loss": level_density or None,
        "selection": {},
    }


def is_autoguided(names: Set[str], dataset: Any) -> bool:
    """Whether Autoguided's copy of EDM2 wrote a file, whose modules lie in `karras` and `ours`.

    names: the globals in the file. dataset: its `dataset_kwargs`, or None.
    """
    kind = dataset.get("class_name") if isinstance(dataset, dict) else None
    return any(str(name).startswith(("karras.", "ours.")) for name in (*names, kind))


def counted(stem: str, *, autoguided: bool) -> tuple[int | None, int | None]:
    """(images, steps) that the number in a file's name says, as far as it does; else None.

    NVIDIA's code names a snapshot by thousands of images, rounded down, of a number that is a
    multiple of 1024; Autoguided's copy by steps.
    """
    match = _NUMBERED.fullmatch(stem)
    if match is None:
        return None, None
    number = int(match[1])
    if autoguided:
        return None, number
    nimg = (number * 1000 + 999) // 1024 * 1024
    return (nimg if nimg // 1000 == number else number * 1000), None


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
    if isinstance(value, (list, tuple)) and depth and len(value) < 100:
        return [_plain(v, 2) for v in value]
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
