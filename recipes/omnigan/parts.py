"""Settings of omnigan -> data, networks, losses, optimizers.

trainer = make(read_settings(file="configs/omnigan.yaml"))
sum(p.numel() for p in trainer.G.parameters())
trainer.losses["G"]["tasks"]["s"]
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from data.omni import (
    CLASSES,
    MODES,
    DomainSamples,
    Loaders,
    Reading,
    is_scenes,
    make_loaders,
    open_samples,
    pictures_of,
)
from data.omni.transforms import output_size, read_steps
from data.prepare.weights import encoder_file
from data.scenes import SEGMENTS
from data.sources import Source
from models.omnigan import (
    CONDITIONS,
    EWC,
    DeeplabEncoder,
    Distillation,
    DomainClassifier,
    ExtraAdam,
    OmniGenerator,
    Weights,
    init_weights,
    load_pretrained,
    make_discriminators,
    make_losses,
    parameter_groups,
)
from recipes.metrics.during import During
from recipes.omnigan.options import active, domains, of_scenes, unread_defaults
from runtime.run import Run
from runtime.seeding import seed_worker
from storage.dirs import models_home
from storage.errors import DataError, UsageError, first_line
from storage.snapshot import load_snapshot, refuse_not_finite

KIND = "omnigan"
ADVENT = "advent"  # in the place of a file: the weights that fetch-weights gets
SIZE = 256  # of pictures whose size no transform says
BLOCKS = ("n_res", "res_norm", "activ", "pad_type")


@dataclass(frozen=True)
class Omnigan:
    """The generator G, the discriminators D["a"]["r"], .., the domain classifier C (None: there is
    none), and losses["G"], losses["D"], losses["C"]."""

    G: OmniGenerator
    D: nn.ModuleDict
    C: DomainClassifier | None
    losses: dict[str, Any]

    @property
    def players(self) -> dict[str, nn.Module]:
        """Those of G, D and C that have something to train."""
        found = {"G": self.G, "D": self.D, "C": self.C}
        return {k: m for k, m in found.items() if m is not None and len(list(m.parameters()))}


def make(opts: Mapping[str, Any]) -> Omnigan:
    """Networks at their beginning, drawn from torch's generator, and losses. Errors: UsageError."""
    gen, dis = opts["gen"], opts["dis"]
    try_to_make(opts)
    file = pretrained_file(opts)
    trainer = _players(opts)
    for task, decoder in trainer.G.decoders.items():
        init_weights(decoder, gen[task]["init_type"], gen[task]["init_gain"])
    for task, head in trainer.D.items():
        init_weights(head, dis[task]["init_type"], dis[task]["init_gain"])
    if trainer.C is not None:
        init = opts["classifier"]
        init_weights(trainer.C, init["init_type"], init["init_gain"])
    if file is not None:
        load_pretrained(trainer.G.encoder, file)
    if gen["pretrained"]:
        _take_weights(trainer.G, Path(gen["pretrained"]).expanduser())
    return trainer


def _take_weights(G: OmniGenerator, file: Path) -> None:
    """Begin with the weights of a snapshot. Errors: UsageError, CheckpointError."""
    snapshot = load_snapshot(file)
    if snapshot.kind != KIND:
        raise UsageError(f"gen.pretrained {file}: is of {snapshot.kind}, not of {KIND}")
    refuse_not_finite(snapshot.state_dict, file)
    own = G.state_dict()
    theirs = snapshot.state_dict
    odd = [n for n in own if n not in theirs or theirs[n].shape != own[n].shape]
    if odd or len(own) < len(theirs):
        name = (odd or [n for n in theirs if n not in own])[0]
        raise UsageError(f"gen.pretrained {file}: is of other tasks or another size, see {name}")
    G.load_state_dict(theirs)


def try_to_make(opts: Mapping[str, Any]) -> None:
    """See whether `make` would do it, and whether pictures of the size that is trained on go
    through what it makes, in no time and memory. Errors: UsageError."""
    pretrained_file(opts)
    with torch.device("meta"), torch.no_grad():
        trainer = _players(opts)
        x = torch.empty(opts["data"]["loaders"]["batch_size"], 3, *size_of(opts))
        _through(trainer, x, f"pictures of {x.shape[2]} x {x.shape[3]} px")


def _through(trainer: Omnigan, x: Tensor, what: str) -> None:
    """Send pictures through each network. Errors: UsageError with what is too small for them."""
    G = trainer.G
    try:
        z = G.encode(x)
        decoded = G.decode_tasks(z)
        if "a" in G.tasks:
            G.adapt(z, "r")
        if "t" in G.tasks:
            G.translate(z, G.conditioning(decoded) if G.spade else None, "rf")
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"gen: {what}: {first_line(error, 200)}") from None
    for task, heads in trainer.D.items():
        try:
            next(iter(cast(nn.ModuleDict, heads).values()))(x)
        except (ValueError, RuntimeError):
            raise UsageError(
                f"dis.{task}: {what} are too small for its n_layers and num_D, which halve them "
                "again and again: make these fewer, or pictures larger (data.transforms)"
            ) from None


def _players(opts: Mapping[str, Any]) -> Omnigan:
    """Networks as their layers begin, and losses. Errors: UsageError."""
    dis, tasks = opts["dis"], active(opts)
    try:
        G = OmniGenerator(tasks, **generator_arguments(opts))
        heads = {k: {n: v for n, v in dis[k].items() if not n.startswith("init_")} for k in "at"}
        D = make_discriminators(tasks, **heads)
        losses = make_losses(
            tasks, gan=dis["gan"], soft_shift=dis["soft_shift"], flip_prob=dis["flip_prob"],
            smooth_fake=dis["smooth_fake"], classifier=opts["classifier"]["loss"],
            **opts["train"]["losses"],
        )  # fmt: skip
        C = None
        if not opts["classifier"]["ignore"]:
            shape = G.latent_shape(size_of(opts))
            C = DomainClassifier(shape, opts["classifier"]["loss"], opts["classifier"]["norm"])
    except ValueError as error:
        raise UsageError(str(error)) from None
    for task in D:
        if dis[task]["use_sigmoid"] and dis["gan"] != "lsgan":
            raise UsageError(
                f"dis.{task}.use_sigmoid is for dis.gan lsgan: {dis['gan']} takes numbers without "
                "bounds"
            )
        if opts["train"]["lambdas"]["G"][task]["features"] and dis[task]["num_D"] == 1:
            raise UsageError(
                f"train.lambdas.G.{task}.features compares several scales: dis.{task}.num_D above 1"
            )
    for mode in MODES:
        sides = size_of(opts, mode)
        if any(side % halved(opts) for side in sides):
            raise UsageError(
                f"data.transforms end in {sides[0]} x {sides[1]} px in {mode}: sides must be "
                f"multiples of {halved(opts)}, which the encoder makes smaller"
            )
    return Omnigan(G, D, C, losses)


def pretrained_file(opts: Mapping[str, Any]) -> Path | None:
    """The weights that a Deeplabv2 encoder begins with; None: it begins at random, or is another.

    Errors: UsageError where there is no such file.
    """
    word = opts["gen"]["deeplabv2"]["pretrained_model"]
    if opts["gen"]["encoder"]["architecture"] != "deeplabv2" or not word:
        return None
    named = word == ADVENT
    file = encoder_file(models_home(), "deeplabv2") if named else Path(word).expanduser()
    if not file.is_file():
        get = "run `python data/SetupDataset.py fetch-weights --nets deeplabv2`, " if named else ""
        raise UsageError(
            f"gen.deeplabv2.pretrained_model {word}: there is no {file}: {get}give the path of a "
            "file, or null"
        )
    return file


def generator_arguments(opts: Mapping[str, Any]) -> dict[str, Any]:
    """The settings `gen` as arguments of OmniGenerator, but tasks. Errors: UsageError."""
    gen, tasks = opts["gen"], active(opts)
    encoder = {k: v for k, v in gen["encoder"].items() if k in ("architecture", *BLOCKS)}
    if gen["encoder"]["architecture"] == "munit":
        encoder |= {k: gen["encoder"][k] for k in ("input_dim", "dim", "n_downsample", "norm")}
    else:
        encoder |= {"proj_dim": gen["deeplabv2"]["proj_dim"]}
    found: dict[str, Any] = {"encoder": encoder}
    for task in tasks.replace("t", ""):
        found[task] = {k: gen[task][k] for k in (*BLOCKS, "n_upsample")}
        if task == "s":
            found[task]["output_dim"] = gen["s"]["output_dim"]
    if "t" in tasks:
        found["t"] = _translation(gen["t"])
    return found


def _translation(t: Mapping[str, Any]) -> dict[str, Any]:
    form, bits, shared = t["form"], t["bits"], t["shared"]
    if t["use_spade"] is False:
        if t["use_bit_conditioning"]:
            raise UsageError("gen.t.use_bit_conditioning: bits are a condition of SPADE's")
        form = "plain"
    elif form == "plain" and t["use_spade"]:
        raise UsageError("gen.t.use_spade is true, and gen.t.form plain has none: give one")
    elif t["use_bit_conditioning"] is False:
        if shared or bits not in (None, "none"):
            raise UsageError(
                "gen.t.use_bit_conditioning is false, which is a decoder for each flood without "
                "bits: give it, or gen.t.bits and gen.t.shared"
            )
        bits, shared = "none", False
    out: dict[str, Any] = {"form": form, "n_upsample": t["spade_n_up"]}
    out |= {k: v for k, v in (("bits", bits), ("shared", shared)) if v is not None}
    if form != "plain":
        out["kernel_size"] = t["spade_kernel_size"]
        out["param_free_norm"] = t["spade_param_free_norm"]
        out["spectral_norm"] = t["spade_use_spectral_norm"]
    if form != "spade":
        out |= {k: t[k] for k in BLOCKS if form == "plain" or k != "res_norm"}
    return out


def size_of(opts: Mapping[str, Any], mode: str = "train") -> tuple[int, int]:
    """Height and width of the pictures of a mode; SIZE where no transform says it."""
    return output_size(read_steps(opts["data"]["transforms"]), mode) or (SIZE, SIZE)


def halved(opts: Mapping[str, Any]) -> int:
    """How many times larger than the latent a picture's sides are."""
    encoder = opts["gen"]["encoder"]
    munit = encoder["architecture"] == "munit"
    return 2 ** (encoder["n_downsample"] if munit else DeeplabEncoder.n_downsample)


def weights(opts: Mapping[str, Any]) -> Weights:
    """By what each loss counts."""
    of_g = opts["train"]["lambdas"]["G"]
    flat = {f"{t}_{k}": v for t in "at" for k, v in of_g[t].items()}
    flat |= {k: v for k, v in of_g.items() if k not in "at"}
    return Weights(**flat, C=opts["train"]["lambdas"]["C"])


# ------------------------------------------------------------------------------------- data


def loaders(opts: Mapping[str, Any], args: Namespace, run: Run) -> Loaders:
    """`loaders[mode][domain]`. Errors: DataError, UsageError."""
    data, size = opts["data"], opts["data"]["loaders"]["batch_size"]
    if size % run.world_size:
        raise UsageError(
            f"data.loaders.batch_size {size} cannot be shared by {run.world_size} GPUs"
        )
    steps = read_steps(data["transforms"])
    conditions = [task for task in active(opts) if task in "dhsw"]
    samples = {
        mode: {
            domain: DomainSamples(
                open_samples(
                    data["files"][mode][domain],
                    domain,
                    mode,
                    keep=[k for k in data["labels"][domain] if k in conditions],
                    base=data["files"]["base"],
                    classes=opts["gen"]["s"]["output_dim"],
                    depth_unit=data["depth_unit"],
                    no_class=data["no_class"],
                ),
                domain, mode, steps, args.seed, halved(opts),
            )
            for domain in domains(opts, mode)
        }
        for mode in data["files"] if mode != "base"
    }  # fmt: skip
    words = [w for mode in ("train", "val") for w in data["files"][mode].values()]
    if (
        any(map(is_scenes, words))
        and "s" in active(opts)
        and opts["gen"]["s"]["output_dim"] < CLASSES
    ):
        raise DataError(
            f"gen.s.output_dim {opts['gen']['s']['output_dim']}: scenes have {CLASSES} classes"
        )
    workers = -(-args.num_workers // len(samples["train"]))
    how = Reading(
        args.seed, data["loaders"]["shuffle"], workers, run.device.type == "cuda", run.rank,
        run.world_size, seed_worker,
    )  # fmt: skip
    return make_loaders(samples, size, how)


def class_names(opts: Mapping[str, Any]) -> list[str]:
    """Names of the classes of `s`: the scenes', or numbers."""
    count = opts["gen"]["s"]["output_dim"]
    return (
        list(SEGMENTS)
        if of_scenes(opts) and count == len(SEGMENTS)
        else list(map(str, range(count)))
    )


def on_device(batches: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Multi-batches with their tensors on a device."""

    def moved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {k: v.to(device, non_blocking=True) for k, v in tensors.items()}

    return {
        domain: {**batch, "data": moved(batch["data"]), "present": moved(batch["present"])}
        for domain, batch in batches.items()
    }


# ------------------------------------------------------------------------------- optimizers


def optimizers(opts: Mapping[str, Any], trainer: Omnigan) -> dict[str, torch.optim.Optimizer]:
    """An optimizer of each player, by its letter."""
    found: dict[str, torch.optim.Optimizer] = {}
    for name, module in trainer.players.items():
        said = _said(opts, name)
        groups: Any = [{"params": list(module.parameters())}]
        if name == "G":
            groups = parameter_groups(trainer.G, said["lr"])
        how: dict[str, Any] = {
            "lr": said["lr"], "betas": (said["beta1"], said["beta2"]),
            "weight_decay": said["weight_decay"],
        }  # fmt: skip
        if said["optimizer"] == "Adam":
            found[name] = torch.optim.Adam(groups, **how)
        else:
            found[name] = ExtraAdam(groups, **how, alternating=True)
    return found


def learning_rate(opts: Mapping[str, Any], player: str, step: int, epoch_steps: int) -> float:
    """A player's in a step that counts from 0: a function of the step alone, so that it needs no
    state."""
    said = _said(opts, player)
    if said["lr_policy"] == "constant":
        return said["lr"]
    return said["lr"] * said["lr_gamma"] ** (step // epoch_steps // said["lr_step_size"])


def _said(opts: Mapping[str, Any], player: str) -> dict[str, Any]:
    return opts[{"G": "gen", "D": "dis", "C": "classifier"}[player]]["opt"]


def keeper(opts: Mapping[str, Any], G: OmniGenerator) -> Distillation | EWC | None:
    """What keeps the representation from being forgotten; None without."""
    how = opts["train"]["keep_representation"]
    return None if how == "none" else Distillation(G) if how == "distill" else EWC(G)


# ------------------------------------------------------------------------------------- files


def remarks(opts: Mapping[str, Any], loaders: Loaders) -> list[str]:
    """What a run begins with that one may not have thought of, a line each."""
    lines = []
    if opts["gen"]["encoder"]["architecture"] == "deeplabv2":
        file = pretrained_file(opts)
        lines.append(
            f"encoder deeplabv2 begins with the weights of {file}" if file else "encoder deeplabv2 "
            "begins at random: gen.deeplabv2.pretrained_model is null (advent, or a file)"
        )  # fmt: skip
    if of_scenes(opts):
        lines.append("data.files.train has no lists: pictures are embedded scenes")
    lines += [
        f"{what} is in no section beside it, and default itself is not read"
        for what in unread_defaults(opts)
    ]
    trained = [batches.samples for batches in loaders.train.values()]
    lines += [
        f"task {task}: no sample that is trained on has a map {task} that is read, so its decoder "
        "does not learn it"
        for task in active(opts)
        if task in CONDITIONS and not any(samples.has(task) for samples in trained)
    ]
    for mode, those in loaders.items():
        for domain, batches in those.items():
            unread = getattr(batches.samples.samples, "unread", {})
            for key, count in unread.items():
                why = f"task {key} is off" if key not in active(opts) else (
                    f"data.labels.{domain} is {', '.join(opts['data']['labels'][domain])}"
                )  # fmt: skip
                lines.append(f"{mode} {domain}: {key} of {count} samples is not read: {why}")
    return lines


def announce(opts: Mapping[str, Any]) -> None:
    """Tell W&B the note, the tags and the experiment of the settings, in the environment that it
    reads; what stands there already counts."""
    said = opts["wandb"]
    for name, value in (
        ("WANDB_NOTES", said["note"]),
        ("WANDB_TAGS", ",".join(said["tags"])),
        ("WANDB_RUN_GROUP", said["description"]),
    ):
        if value:
            os.environ.setdefault(name, value)


def snapshot_config(opts: Mapping[str, Any], G: OmniGenerator, step: int) -> dict[str, Any]:
    """What a snapshot says of the network, as JSON values."""
    return {
        "net": G.config,
        "resolution": list(size_of(opts)),
        "classes": class_names(opts) if "s" in G.tasks else [],
        "step": step,
    }


def measuring(opts: Mapping[str, Any], args: Namespace, run: Run) -> During:
    """What --metrics_every asks for: dry pictures of validation, flooded, against flooded ones of
    training, real ones where there are any. Errors: UsageError, DataError."""
    found: list[Source] = []
    if args.metrics_every is not None:
        files = opts["data"]["files"]
        for what, mode, flood in (("flooded", "train", "f"), ("not flooded", "val", "n")):
            domain = next((d for d in domains(opts, mode) if d[1] == flood), None)
            if domain is None:
                raise UsageError(
                    f"--metrics_every: data.files.{mode} has no pictures that are {what}"
                )
            word = files[mode][domain]
            found.append(pictures_of(open_samples(word, domain, mode, keep=(), base=files["base"])))
    train, inputs = found or (None, None)
    return During(args, run, train, res=min(size_of(opts)), crop="center", inputs=inputs)


# ------------------------------------------------------------------------------- how it runs


def layout(args: Namespace) -> torch.memory_format:
    """The memory format of networks."""
    return torch.channels_last if args.channels_last else torch.contiguous_format


def compile_parts(args: Namespace, trainer: Omnigan) -> None:
    """--compile: every network by itself, in its place, so that names of weights stay."""
    if args.compile:
        for module in (trainer.G.encoder, *_parts(trainer.G.decoders), *_parts(trainer.D)):
            module.compile()


def _parts(module: nn.Module) -> list[nn.Module]:
    """The networks in a dictionary of networks, or of such dictionaries."""
    if not isinstance(module, nn.ModuleDict):
        return [module]
    return [part for child in module.values() for part in _parts(child)]
