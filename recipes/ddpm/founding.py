"""--config: a JSON file of LayoutDiffuse's code as options of train_ddpm.py.

Every key means an option, or is without effect here, which is said with the reason (`idle`), or is
refused. Arguments of its networks: `models.ddpm.configs.unet_config`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from models.ddpm.configs import TRANSFORMER, WITHOUT_EFFECT, unet_config
from storage.files import read_bytes

FLAG = "--config"
TARGETS = {"noise": "eps", "eps": "eps", "y0": "x0", "x0": "x0", "v": "v"}
SETS = {
    "mnist": "mnist", "cifar10": "cifar10", "cifar": "cifar10", "cocostuff": "coco",
    "coco": "coco", "vg": "vg", "celeb_mask": "celebamask", "celebamask": "celebamask",
}  # fmt: skip

# Keys that are known and change nothing here, by the section they stand in, and why.
IDLE: dict[str, dict[str, str]] = {
    "": {"callbacks": "snapshots and pictures are options", "iteration_callbacks": "as callbacks"},
    "trainer_args": {
        "limit_val_batches": "pictures are --sample_images", "strategy": "ranks average gradients",
        "num_nodes": "torchrun says it", "sync_batchnorm": "there is no batch norm",
        "gpu": "a GPU is taken where there is one, --gpus says which",
    },
    "save_model_config": {"save_top_k": "all snapshots are kept"},
    "diffusion.model_args": {
        "logvar_init": "of learn_logvar", "use_different_learning_rate": "there is one",
    },
    "data": {"val_args": "held-out pictures are --val_images and --data_val"},
    "data.train_args": {"data_len": "the set says its length"},
    "sampling_args": {
        "sampling_w_noise": "sampling begins in noise", "image_size": "the network says it",
        "in_channel": "the network says it", "callbacks": "generate_images.py draws",
    },
}  # fmt: skip
# Keys that may only say no.
NOT_HERE: dict[str, str] = {
    "text_model": "no text encoder is loaded",
    "learn_logvar": "only the class itself learns it: --model FILE.py:CLASS",
    "unet_init_weights": "weights to begin with are --init_from",
    "vqvae_init_weights": "its weights are of a vqvae_model",
    "text_model_init_weights": "no text encoder is loaded",
}
# U-Net arguments -> options.
NETWORK = {
    "model_channels": "channels", "channel_mult": "channel_mult", "num_res_blocks": "num_blocks",
    "attention_resolutions": "attn_factors", "dropout": "dropout", "num_heads": "num_heads",
    "num_head_channels": "channels_per_head", "use_scale_shift_norm": "scale_shift",
    "resblock_updown": "updown", "res_block_type": "res_block", "attn_block_type": "attn_block",
    "use_checkpoint": "recompute", "layout_attn_resolutions": "layout_factors",
    "layout_dim": "layout_dim",
}  # fmt: skip


class WithConfig(NamedTuple):
    """presets: with the file's as one more, which argv then asks for. error: "" for none."""

    presets: dict[str, Mapping[str, Any]]
    argv: list[str]
    error: str


def with_config(presets: Mapping[str, Mapping[str, Any]], argv: Sequence[str] | None) -> WithConfig:
    """The presets and the command line, with the file of --config, if there is one, as a preset."""
    words = list(sys.argv[1:] if argv is None else argv)
    file = _value_of(FLAG, words)
    if file is None:
        return WithConfig(dict(presets), words, "")
    if _value_of("--preset", words) is not None:
        return WithConfig(dict(presets), words, f"{FLAG} {file} and --preset: give one")
    try:
        options = read_config(Path(file).expanduser())
    except ValueError as error:
        return WithConfig(dict(presets), words, f"{FLAG} {file}: {error}")
    name = f"config-{Path(file).stem}"
    return WithConfig({**presets, name: options}, [*words, "--preset", name], "")


def _value_of(flag: str, words: Sequence[str]) -> str | None:
    for i, word in enumerate(words):
        if word == flag and i + 1 < len(words):
            return words[i + 1]
        if word.startswith(f"{flag}="):
            return word.split("=", 1)[1]
    return None


def read_config(file: Path) -> dict[str, Any]:
    """The options that a file means. Errors: ValueError, of one line."""
    return translate(_load(file))


def idle(file: Path) -> list[str]:
    """Keys of a file that change nothing here, as `section.key (why)`. Errors: ValueError."""
    notes: dict[str, str] = {}
    translate(_load(file), notes)
    return [f"{key} ({why})" for key, why in notes.items()]


def _load(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(read_bytes(file).decode("utf-8"))
    except RecursionError:
        raise ValueError(
            "is no JSON that can be read (objects lie too deep in one another)"
        ) from None
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"is no JSON ({error})") from None
    if not isinstance(config, dict):
        raise ValueError("is no JSON object")
    return config


class _Section:
    """Keys of one object, each taken once; what is left over is refused. notes: keys without effect
    and why, of all sections of a file."""

    def __init__(self, value: Any, name: str, notes: dict[str, str]) -> None:
        if value is not None and not isinstance(value, Mapping):
            raise ValueError(f"{name or 'the file'} is no object")
        self.left, self.name, self.notes = dict(value or {}), name, notes
        for key, why in IDLE.get(name, {}).items():
            self.drop(key, why)

    def path(self, key: str) -> str:
        return f"{self.name}.{key}".lstrip(".")

    def take(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        value = self.left.pop(key, default)
        number = isinstance(value, bool) and bool not in (
            kind if isinstance(kind, tuple) else (kind,)
        )
        if value is not None and (number or not isinstance(value, kind)):
            raise ValueError(f"{self.path(key)} {value!r} is of another kind than it should be")
        return value

    def section(self, key: str) -> _Section:
        return _Section(self.left.pop(key, None), self.path(key), self.notes)

    def drop(self, key: str, why: str) -> None:
        """Note a key that has no effect, if it is there."""
        if key in self.left:
            self.left.pop(key)
            self.note(key, why)

    def note(self, key: str, why: str) -> None:
        """The same of a key that was taken."""
        self.notes[self.path(key)] = why

    def word(self, key: str, known: Mapping[str, Any], default: str) -> Any:
        value = self.take(key, str, default)
        if value not in known:
            raise ValueError(f"{self.path(key)} {value!r} is none of {', '.join(known)}")
        return known[value]

    def end(self) -> None:
        """Errors: ValueError for a key that nobody took."""
        for key, why in NOT_HERE.items():
            if self.left.pop(key, None):
                raise ValueError(f"{self.path(key)}: {why}")
        if self.left:
            raise ValueError(f"unknown key {self.path(sorted(self.left)[0])}")


NUMBER = (int, float)


def translate(config: Mapping[str, Any], notes: dict[str, str] | None = None) -> dict[str, Any]:
    """The keys of a file -> options, as a preset has them. notes: keys that have no effect are
    entered there, with the reason. Errors: ValueError."""
    top = _Section(config, "", {} if notes is None else notes)
    found: dict[str, Any] = {"_help": "the options of a file"}
    name, folder = top.take("expt_name", str), top.take("expt_dir", str)
    # What it is made of its weights say; that there is one says that it is trained on latents.
    found["latents"] = top.take("vqvae_model", dict)
    for key in found["latents"] or ():
        top.note(f"vqvae_model.{key}", "its weights say it")
    if name:
        found["outdir"] = str(Path(folder).expanduser() / name) if folder else name
    elif folder:
        top.note("expt_dir", "there is no expt_name")
    for read in (_trainer, _saving, _network, _diffusion, _data, _sampling):
        read(top, found)
    top.end()
    if found["latents"] is None:
        found.pop("latents")
    parts = found.pop("devices") * found.pop("accumulate")
    found["bs_gpu"], found["bs"] = found["bs"], found["bs"] * parts
    return found


def _trainer(top: _Section, found: dict[str, Any]) -> None:
    part = top.section("trainer_args")
    found["epochs"] = part.take("max_epochs", int, 1000)
    said = "devices" in part.left
    devices = part.take("devices", (list, int), 1)
    found["devices"] = len(devices) if isinstance(devices, list) else devices
    accelerator = part.take("accelerator", str)
    if accelerator not in (None, "auto", "cpu", "gpu", "cuda"):
        raise ValueError(f"trainer_args.accelerator {accelerator!r} is none of auto, cpu, gpu")
    if accelerator == "cpu":
        found["gpus"] = []
    elif said and isinstance(devices, list):
        found["gpus"] = devices
    found["accumulate"] = part.take("accumulate_grad_batches", int, 1)
    found["grad_clip"] = float(part.take("gradient_clip_val", NUMBER, 0.0))
    precision = part.take("precision", (int, str))
    if precision is not None:
        known = {"32": "fp32", "16": "fp16", "bf16": "bf16"}
        if str(precision) not in known:
            raise ValueError(f"trainer_args.precision {precision!r} is none of {', '.join(known)}")
        found["precision"] = known[str(precision)]
    every = part.take("check_val_every_n_epoch", int)
    if every is not None:
        found["snapshot_epochs"] = every
    part.end()


def _saving(top: _Section, found: dict[str, Any]) -> None:
    part = top.section("save_model_config")
    every = part.take("every_n_epochs", int)
    if every is not None:
        if found.get("snapshot_epochs", every) != every:
            part.notes["trainer_args.check_val_every_n_epoch"] = (
                "pictures are made at snapshots, save_model_config.every_n_epochs counts"
            )
        found["snapshot_epochs"] = every
    part.end()


def _own_class(name: str) -> bool:
    return name.rpartition(":")[0].endswith(".py")


def _network(top: _Section, found: dict[str, Any]) -> None:
    part = top.section("denoising_model")
    model = part.take("model", str, "UNet")
    args = part.section("model_args")
    part.end()
    for one in ("in_channel", "out_channel"):
        if not {one, f"{one}s"} & set(args.left):
            raise ValueError(f"{args.path(one)} is missing")
    try:
        net = unet_config(args.left)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{args.name}: {error}") from None
    channels, made = net.pop("in_channels"), net.pop("out_channels")
    latent = bool(found["latents"])
    if channels not in (1, 3) and not latent:
        raise ValueError(f"{args.path('in_channel')} {channels}: pixels have 1 or 3")
    if made not in (channels, 2 * channels):
        raise ValueError(
            f"{args.path('out_channel')} {made}: {channels}, or {2 * channels} with a learned "
            "variance"
        )
    found["gray"], found["learned"] = channels == 1 and not latent, made == 2 * channels
    if _own_class(model):
        found["denoiser"] = model
        if more := sorted(set(args.left) - {"in_channel", "in_channels", *_OUT}):
            raise ValueError(
                f"{args.path(more[0])}: {model} is made with in_channels and out_channels alone"
            )
        return
    if model.rpartition(".")[2].lower() != "unet":
        raise ValueError(f"denoising_model.model {model!r}: UNet, or FILE.py:CLASS of your own")
    _unet_notes(args, net)
    _unet(args, net, found)


_OUT = ("out_channel", "out_channels")
# Values of the network's arguments that are what is done here, and have no option.
_FIXED = {"conv_resample": True, "num_heads_upsample": None, "concat_channels": 0}
_FIXED_TRANSFORMER = {"depth": 1, "text_dim": None, "prompt_dim": 128, "image_in_kv": False,
                      "use_linear": False, "new_order": False}  # fmt: skip


def _unet_notes(args: _Section, net: Mapping[str, Any]) -> None:
    """Which of the network's keys have no effect, and why."""
    reasons = dict.fromkeys(WITHOUT_EFFECT, "there is one way here")
    reasons["use_fp16"] = "precision is trainer_args.precision"
    reasons["image_size"] = "the pictures say it"
    reasons["num_classes"] = "that there are classes counts, the data says how many"
    if net.get("attn_block_type") != "SpatialTransformer":
        reasons |= dict.fromkeys(TRANSFORMER, "there is no transformer")
    if net.get("num_head_channels") is not None:
        reasons["num_heads"] = "num_head_channels counts"
    if net.get("layout_attn_type") is None:
        reasons["instance_attn_res"] = "there is no instance_prompt_attn_type"
        reasons["instance_prompt_args"] = reasons["instance_attn_res"]
    elif "num_classes" in (args.left.get("instance_prompt_args") or {}):
        args.note("instance_prompt_args.num_classes", "the data says how many")
    for key, why in reasons.items():
        args.drop(key, why)


def _unet(args: _Section, net: dict[str, Any], found: dict[str, Any]) -> None:
    net.pop("image_size", None)
    kind = net.pop("layout_attn_type", None)
    found["cond"] = bool(net.pop("num_classes", None))
    net.pop("layout_classes", None)  # of the data
    if kind is not None:
        found["layout"] = "segmentation" if kind == "segmentation" else "boxes"
        found |= {"views": "published", "xflip": True}
        if kind != "segmentation":
            found["layout_attn"] = kind
    prompts = net.pop("attn_block_args", {})
    if count := prompts.pop("num_prompts", 0):
        found["task_prompts"] = count
    for key, value in prompts.items():
        if value != _FIXED_TRANSFORMER[key]:
            raise ValueError(f"{args.name}: {key} {value!r} has no option here")
    for key, value in net.items():
        if value is None or (key in _FIXED and value == _FIXED[key]):
            continue
        if key not in NETWORK:
            raise ValueError(f"{args.name}: {key} {value!r} has no option here")
        found[NETWORK[key]] = list(value) if isinstance(value, tuple) else value
    found.setdefault("dropout", 0.0)  # that of the U-Net where a file says nothing
    if net.get("num_head_channels") is not None:
        found.pop("num_heads", None)
    if "layout" not in found:
        for key in ("layout_factors", "layout_dim"):
            found.pop(key, None)


def _diffusion(top: _Section, found: dict[str, Any]) -> None:
    part = top.section("diffusion")
    model = part.take("model", str, "DDPMTraining")
    args = part.section("model_args")
    part.end()
    if _own_class(model):
        found["model"] = model
        improved = found["learned"]
    else:
        last = model.rpartition(".")[2]
        if not last.startswith(("DDPM", "DDIM")):
            raise ValueError(f"diffusion.model {model!r}: DDPM..., DDIM..., or FILE.py:CLASS")
        improved = last.startswith("DDIM")
    if improved != found.pop("learned"):
        raise ValueError(
            f"diffusion.model {model}: a DDIM class learns the variance, for which out_channel is "
            "twice in_channel; a DDPM class does not"
        )
    if args.take("loss_fn", str, "mse") not in ("mse", "l2"):
        raise ValueError("diffusion.model_args.loss_fn: mse alone")
    found["predict"] = args.word("training_target", TARGETS, "noise")
    simple = float(args.take("loss_simple_weight", NUMBER, 1.0))
    elbo = float(args.take("loss_elbo_weight", NUMBER, 1.0))
    if improved:
        if (simple, elbo) != (1.0, 1.0):
            raise ValueError("diffusion.model_args: a DDIM class has both loss weights 1")
        found |= {"variance": "learned_range", "loss": "rescaled_mse"}
        found["schedule_sampler"] = args.take("schedule_sampler", str, "uniform")
    else:
        found |= {"variance": "fixed_small", "loss": "ldm"}
        found |= {"simple_weight": simple, "elbo_weight": elbo}
    _betas(args, found)
    optim = args.section("optim_args")
    found["lr"] = float(optim.take("lr", NUMBER, 1e-3))
    found["weight_decay"] = float(optim.take("weight_decay", NUMBER, 0.0))
    optim.end()
    _sampled(args, found)
    _latents(args, found)
    if args.take("freeze_pretrained_weights", bool, False):
        raise ValueError(
            "diffusion.model_args.freeze_pretrained_weights: --freeze base with --init_from"
        )
    args.end()


def _betas(args: _Section, found: dict[str, Any]) -> None:
    betas = args.section("beta_schedule_args")
    schedule = betas.take("schedule", str, "linear")
    unused = ("linear_start", "linear_end") if schedule == "cosine" else ("cosine_s",)
    for key in unused:
        if key in betas.left:
            betas.note(key, f"the schedule is {schedule}")
    found["schedule"] = f"ldm-{schedule}"
    found["timesteps"] = betas.take("n_timestep", int, 1000)
    start = float(betas.take("linear_start", NUMBER, 1e-4))
    end = float(betas.take("linear_end", NUMBER, 2e-2))
    offset = float(betas.take("cosine_s", NUMBER, 8e-3))
    found |= {"beta_start": start, "beta_end": end}
    if schedule == "cosine":
        found["cosine_s"] = offset
    betas.end()


def _sampled(args: _Section, found: dict[str, Any]) -> None:
    """How pictures are drawn."""
    if found["latents"]:
        for key in ("clip_denoised", "dynamic_thresholding"):
            args.drop(key, "latents have no range to be clipped to")
    clipped = args.take("clip_denoised", bool)
    found["clip"] = "none" if found["latents"] or clipped is False else "unit"
    if args.take("dynamic_thresholding", bool, False):
        found["clip"] = "dynamic"
        if clipped is not None:
            args.note("clip_denoised", "dynamic_thresholding counts")
    if args.take("dynamic_thresholding_percentile", NUMBER, 0.9) != 0.9:
        raise ValueError("diffusion.model_args.dynamic_thresholding_percentile: 0.9 alone")
    if args.take("use_fast_sampling", bool, False):
        found["sampler"] = args.take("fast_sampler", str) or "ddpm"
        found["sample_steps"] = args.take("fast_sampling_steps", int, 50)
    else:
        for key in ("fast_sampler", "fast_sampling_steps"):
            args.drop(key, "use_fast_sampling is not on")
        found |= {"sampler": "ddpm", "sample_steps": found["timesteps"]}
    said = "guidance_scale" in args.left
    guidance = float(args.take("guidance_scale", NUMBER, 1.0))
    condition = "layout" in found or bool(found.get("cond"))
    if condition or "model" in found:
        found["guidance"] = guidance
    elif said:
        args.note("guidance_scale", "there is no class and no layout to lead away from")
    if condition and guidance != 1:  # what it leads away from has to be trained
        found["layout_dropout" if "layout" in found else "class_dropout"] = 0.1


def _latents(args: _Section, found: dict[str, Any]) -> None:
    """The autoencoder's weights and the factor of its latents."""
    scale = float(args.take("scale_factor", NUMBER, 1.0))
    if not found["latents"]:
        if scale != 1.0:
            raise ValueError("diffusion.model_args.scale_factor is of latents, pixels have none")
        return
    weights = args.take("vqvae_init_weights", str)
    if weights is None:
        raise ValueError(
            "vqvae_model: diffusion.model_args.vqvae_init_weights, its file, is missing"
        )
    found |= {"latents": weights, "latent_scale": scale}


def _data(top: _Section, found: dict[str, Any]) -> None:
    part = top.section("data")
    name = part.take("dataset", str)
    if not name:
        raise ValueError("data.dataset is missing")
    short = name.rpartition(".")[2]
    if name.startswith("torchvision.datasets."):
        name = f"torchvision:{short}"
    else:
        name = SETS.get(short.lower(), name)
    root = part.take("root", str)
    if root:
        found["data_path"] = str(Path(root).expanduser())
    size = part.take("image_size", (int, list))
    if isinstance(size, list):
        if len(set(size)) != 1:
            raise ValueError(f"data.image_size {size}: square pictures alone")
        size = size[0]
    if size is not None:
        found["res"] = size
    found["bs"] = part.take("batch_size", int, 1)
    shown = part.take("val_batch_size", int)
    if shown is not None:
        found["sample_images"] = shown
    split = part.section("train_args")
    word = split.take("split", str)
    split.end()
    found["data"] = f"{name}/{word}" if word else name
    more = part.section("dataset_args")
    rates = [more.take(k, NUMBER, 0.0) for k in ("train_empty_string", "val_empty_string")]
    if any(rates):
        raise ValueError("data.dataset_args: no text is trained on")
    more.end()
    part.end()


def _sampling(top: _Section, found: dict[str, Any]) -> None:
    part = top.section("sampling_args")
    count = part.take("num_samples", int)
    if count is not None:
        if found.get("sample_images", count) != count:
            top.note("data.val_batch_size", "sampling_args.num_samples counts")
        found["sample_images"] = count
    part.end()
