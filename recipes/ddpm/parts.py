"""train_ddpm.py's options -> data, network, objective, optimizer, averages, snapshots."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data.labelled import LabelledImages
from data.latents import LatentImages
from data.layout_images import LayoutBatch, LayoutImages
from data.layout_registry import Views, open_layouts, views_of
from data.layouts import LayoutSource
from data.registry import open_source
from data.samplers import StepSampler
from data.sources import is_drawn
from data.views.layouts import Augment
from diffusion import DDPMTraining
from diffusion.beside import channels_beside
from diffusion.encoders import Encoder, make_encoder
from diffusion.schedule_sampler import schedule_sampler
from generators.autoencoder import copy_autoencoder, encoder_of
from generators.ddpm import DDPM, KIND
from generators.door import open_generator
from models.ddpm import UNet
from models.ddpm.pretrained import adapters, base_names, freeze
from recipes import batches, initial, room
from recipes.ddpm import founding, own
from recipes.ddpm.options import (
    OPTIONS,
    check_shares,
    clip_of,
    gaussian,
    gaussian_config,
)
from recipes.ddpm.step import Objective, Rows
from recipes.edm2.parts import choose_conditioning
from recipes.known import inputs_of
from runtime import ema as emas
from runtime.inputs import Inputs
from runtime.run import Run
from storage.dirs import data_home
from storage.errors import UsageError
from storage.user_code import at_work, blame

Pictures = LabelledImages | LayoutImages
Images = Pictures | LatentImages
LAYOUT_SIZE = 64  # pixels of a layout set where --res does not say


def shares(args: Namespace, ranks: int) -> tuple[int, int]:
    """Images of a step that a rank reads, and how many of them it takes at once. Errors: UsageError
    if so many processes cannot share a batch."""
    return batches.shares(args, ranks, args.bs, args.bs_gpu, check_shares)


def data(args: Namespace) -> Pictures:
    """The pictures to train on, with their layouts under --layout. Errors: DataError."""
    home = args.data_path or data_home()
    if not has_layouts(args):
        source = open_source(args.data, home, sizes=[args.res] if args.res else [])
        return LabelledImages(source, args.res, crop=args.crop, xflip=args.xflip, cache=args.cache)
    layouts = layout_source(args, args.data, home)
    views = layout_views(args, layouts, home)
    stored = args.latents is not None  # mirrored pictures have latents of their own, parts none
    return LayoutImages(
        layouts,
        args.res or LAYOUT_SIZE,
        augment=None if stored else views.augment,
        xflip=stored and views.augment is not None and views.augment.flip > 0,
        filter=views.filter,
        crop=args.crop,
        max_objects=args.max_objects,
        least=args.max_objects,
        seed=args.seed,
    )


def has_layouts(args: Namespace) -> bool:
    """Whether the pictures are of a layout set."""
    return args.layout != "none" or args.concat == "segmentation"


def layout_views(args: Namespace, layouts: LayoutSource, home: Path) -> Views:
    """How the pictures of a layout set are looked at in training."""
    if args.views == "published":
        return views_of(args.data, home)
    return Views(Augment(flip=0.5, crop=not is_drawn(layouts)) if args.xflip else None)


def layout_source(args: Namespace, spec: str, home: Path, split: str = "train") -> LayoutSource:
    """A layout set with what --layout and --concat need of it. Errors: DataError."""
    return open_layouts(
        spec, home, split=split, masks=args.layout == "masks",
        segmentation="segmentation" in (args.layout, args.concat),
    )  # fmt: skip


def latents(args: Namespace, run: Run, images: Pictures) -> tuple[Images, Encoder]:
    """What the network is trained on, and the encoder that makes it: of --latents the latents of
    the pictures, encoded now if they are not stored, else the pictures as they are.

    Errors: UsageError, CheckpointError, DataError.
    """
    if args.latents is None:
        return images, make_encoder({"name": "rgb" if images.channels == 3 else "stability-vae"})
    if images.channels != 3:
        raise UsageError(f"--latents: {images.source.name} holds latents already")
    encoder, model, sha256 = encoder_of(args.latents, args.latent_scale)
    if images.resolution % model.factor:
        raise UsageError(
            f"--latents {args.latents}: pictures of {images.resolution} px do not become "
            f"{model.factor} times smaller; --res"
        )
    model.to(run.device)
    side, channels = images.resolution // model.factor, model.embed_dim * (2 if model.kl else 1)
    folder = None
    if args.latents_cache == "disk":
        folder = Path(args.data_path or data_home()) / "latents"
    found = LatentImages(
        images, lambda pictures: encoder.encode_pixels(pictures.to(run.device)),
        shape=(channels, side, side), digest=sha256, folder=folder, workers=args.num_workers,
    )  # fmt: skip
    if args.latent_scale is None:
        encoder.scale = found.unit_scale(model.embed_dim, model.kl)
    if run.is_main:
        copy_autoencoder(run.dir, model, sha256)
    run.say(
        f"latents of {Path(encoder.file).name}, {model.embed_dim} channels of {side} px, times "
        f"{encoder.scale:.5g}{f'; in {found.folder}' if folder else ''}"
    )
    return found, encoder


def pictures(images: Images) -> Pictures:
    """The pictures, where the network is trained on latents of them."""
    return images.of if isinstance(images, LatentImages) else images


def conditioning(args: Namespace, images: Pictures) -> str:
    """Settle --cond by the data where it is not given, and lengths that are in passes over it; a
    line that says what is conditioned on. Errors: UsageError."""
    if args.epochs is not None:
        args.duration = args.epochs * len(images)
    if args.snapshot_epochs is not None:
        args.snapshot_every = str(max(1, args.snapshot_epochs * len(images) // args.bs))
    if isinstance(images, LabelledImages):
        return choose_conditioning(args, images)
    if args.cond:
        raise UsageError(f"--cond: the pictures of {images.source.name} have layouts, no class")
    args.cond = False
    if args.concat == "segmentation" and not beside_classes(args, images):
        raise UsageError(f"--concat segmentation: {images.source.name} has none")
    if args.layout == "none":
        return f"with the class of every pixel beside, of {len(beside_classes(args, images))}"
    if not layout_classes(args, images) or (args.layout == "masks" and images[0].masks is None):
        raise UsageError(f"--layout {args.layout}: {images.source.name} has none")
    what = {"boxes": "boxes", "masks": "objects' pixels"}.get(args.layout, "every pixel's class")
    return f"conditional on {what}, of {len(layout_classes(args, images))} classes"


def layout_classes(args: Namespace, images: Images) -> list[str]:
    """Names of what is in layouts; [] without."""
    if args.layout == "none":
        return []
    source = cast(LayoutSource, images.source)
    named = source.segment_classes if args.layout == "segmentation" else source.object_classes
    return list(named)


def beside_classes(args: Namespace, images: Images) -> list[str]:
    """Names of the classes of pixels of --concat segmentation; [] without."""
    if args.concat != "segmentation":
        return []
    return list(cast(LayoutSource, images.source).segment_classes)


def classes(images: Images) -> list[str]:
    """Names of the classes of pictures."""
    images = pictures(images)
    return images.classes if isinstance(images, LabelledImages) else []


def said(args: Namespace, images: Images) -> str:
    """What there is to say of bad boxes and of idle keys of --config; "" for nothing."""
    lines = []
    if isinstance(images, LayoutImages):
        if faults := images.source.faults.said():
            lines.append(faults)
        if args.views == "published":
            lines.append(f"random views, as published for {args.data}: {_views_said(images)}")
    if args.config and (keys := founding.idle(Path(args.config).expanduser())):
        lines.append(f"{args.config}: without effect here: {', '.join(keys)}")
    if args.guidance != 1 and own.unguided(args):
        lines.append(f"guidance {args.guidance:g} has no effect: {own.UNGUIDED}")
    return "\n".join(lines)


def _views_said(images: LayoutImages) -> str:
    one = images.augment
    mirrored = images.xflip or (one is not None and one.flip > 0)
    kinds = {"mirrored": mirrored, "cropped": one is not None and one.crop}
    return " and ".join(kind for kind, there in kinds.items() if there) or "none"


def inputs(args: Namespace, images: Images) -> Inputs:
    """What the run reads, known by content."""
    networks = {"ref": "train_ddpm", "init_from": None, "latents": None}
    return inputs_of(args, {"data": images.source}, networks)


def loader(args: Namespace, run: Run, images: Images) -> tuple[StepSampler, DataLoader]:
    """What reads this rank's images of every step; the sampler says which, and is checkpointed.
    Errors: UsageError for more at once than memory holds."""
    values = images.resolution**2 * (3 if args.denoiser else args.channels)  # of the first layer
    names = ("bs", "bs_gpu", "channels", "res")
    room.batch(shares(args, run.world_size)[1], values, run.device, args, OPTIONS, names)
    return batches.step_loader(
        args, run, images, args.bs,
        with_draws=isinstance(pictures(images), LayoutImages),
        collate=None if isinstance(images, LabelledImages) else images.collate,
    )  # fmt: skip


def rows(batch: Any, keys: Tensor, device: torch.device) -> Rows:
    """A batch of the loader on the device."""

    def moved(t: Tensor) -> Tensor:
        return t.to(device, non_blocking=True)

    n = len(keys)
    none = torch.zeros(n, 0, dtype=torch.uint8).view(n, 0, 1)
    if not isinstance(batch, LayoutBatch):
        index, raw, labels = (moved(t) for t in batch)
        boxes, no = torch.zeros(n, 0, 4), torch.zeros(n, 0, dtype=torch.int64)
        last = [moved(t) for t in (boxes, no, none, none[:, None].bool())]
        return Rows(index, raw, labels, keys, *last)
    labels = torch.zeros(n, dtype=torch.int64)
    pixels = none if batch.segmentation is None else batch.segmentation
    masks = none[:, None].bool() if batch.masks is None else batch.masks
    tensors = (batch.ids, batch.image, labels), (batch.boxes, batch.classes, pixels, masks)
    (index, raw, labels), last = ([moved(t) for t in part] for part in tensors)
    return Rows(index, raw, labels, keys, *last)


def objective(
    args: Namespace, run: Run, images: Images, encoder: Encoder, net: nn.Module
) -> Objective:
    """The loss, the diffusion and how steps are drawn. Errors: UsageError."""
    diffusion = gaussian(args)
    return Objective(
        encoder,
        diffusion,
        schedule_sampler(args.schedule_sampler, diffusion.T),
        run.precision.autocast,
        loss=args.loss,
        simple_weight=args.simple_weight,
        elbo_weight=args.elbo_weight,
        snr_gamma=args.snr_gamma,
        gray=args.gray,
        labelled=args.cond,
        layout=args.layout,
        class_dropout=args.class_dropout,
        layout_dropout=args.layout_dropout,
        concat=args.concat,
        concat_classes=len(beside_classes(args, images)),
        lowres_factor=args.lowres_factor,
        side=images.resolution,
        keyed=isinstance(net, UNet),
    )


def network(args: Namespace, run: Run, images: Images, encoder: Encoder) -> nn.Module:
    """The network in training, on the run's device. Errors: UsageError for options, data or code of
    the user's that make none."""
    channels = channels_of(args, images, encoder)
    if encoder.config["name"] == "stability-vae":
        if args.gray or args.sample_images:
            raise UsageError(
                f"{images.source.name} holds latents: --no-gray --sample_images 0 (they are drawn "
                "by generate_images.py, with the autoencoder)"
            )
    out = channels * (2 if gaussian(args).learned else 1)
    try:
        if args.denoiser:
            net = own.network(args.denoiser, channels, out)
        else:
            blocks, given = own.blocks_of(args.blocks), _unet(args, images)
            make = partial(UNet, channels, out, blocks=blocks, **given)
            sizes = ("channels", "channel_mult", "num_blocks", "layout_dim")
            net = (
                _made(args, make)
                if blocks
                else room.network(make, run.device, args, OPTIONS, sizes)
            )
    except ValueError as error:
        raise UsageError(str(error)) from None
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    return net.to(run.device).to(memory_format=layout).train()


def _made(args: Namespace, make: Callable[[], nn.Module]) -> nn.Module:
    """A network with blocks of the user's, whose mistakes are told with their place."""
    try:
        return make()
    except Exception as error:
        if not blame(error):
            raise
        with at_work(args.blocks, "--blocks"):
            raise


def channels_of(args: Namespace, images: Images, encoder: Encoder) -> int:
    """Channels that the network denoises."""
    return 1 if args.gray else encoder.latent_channels(images.channels)


def _unet(args: Namespace, images: Images) -> dict[str, Any]:
    names = layout_classes(args, images)
    layouts: dict[str, Any] = {}
    if names:
        kind = "segmentation" if args.layout == "segmentation" else args.layout_attn
        layouts = {
            "layout_attn_type": kind, "layout_attn_resolutions": tuple(args.layout_factors),
            "layout_classes": len(names), "layout_dim": args.layout_dim,
        }  # fmt: skip
    prompts: dict[str, Any] = {}
    if args.task_prompts:
        prompts = {"attn_block_args": {"num_prompts": args.task_prompts, "gated": True}}
    return {
        "model_channels": args.channels,
        "channel_mult": tuple(args.channel_mult),
        "num_res_blocks": args.num_blocks,
        "attention_resolutions": tuple(args.attn_factors),
        "dropout": args.dropout,
        "num_classes": len(classes(images)) if args.cond else None,
        "concat_channels": channels_beside(args.concat, len(beside_classes(args, images))),
        "num_heads": args.num_heads,
        "num_head_channels": args.channels_per_head,
        "use_scale_shift_norm": args.scale_shift,
        "resblock_updown": args.updown,
        "embed": "noise_level" if args.time_input == "noise_level" else "time",
        "res_block_type": args.res_block,
        "attn_block_type": args.attn_block,
        "image_size": images.resolution,
        "use_checkpoint": args.recompute,
        **layouts,
        **prompts,
    }


def optimizer(
    args: Namespace, net: nn.Module, model: DDPMTraining | None, device: torch.device
) -> torch.optim.Optimizer:
    """Adam on what is trained, or what a --model configures. Errors: UsageError."""
    if args.freeze == "base":
        freeze(net, adapters(net))
    if model is not None:
        return own.optimizer(args, model)
    trained = [p for p in net.parameters() if p.requires_grad]
    fused = True if device.type == "cuda" else None
    return torch.optim.Adam(trained, lr=args.lr, weight_decay=args.weight_decay, fused=fused)


def average(args: Namespace, net: nn.Module) -> emas.EMA[nn.Module]:
    """The average of the weights that snapshots keep."""
    return emas.EMA(net, emas.warmed(args.ema))


def read_base(net: nn.Module) -> Callable[[Path, Any], initial.Weights]:
    """Reads a file for --init_from: of a network without layout attention by the names that its
    weights have in `net`, whose stages are longer."""

    def read(file: Path, say: Any) -> initial.Weights:
        found = initial.read_weights(file, say)
        added = set(adapters(net))
        if not added or added & set(found.state):
            return found
        moved = base_names(net)
        return found._replace(state={moved.get(k, k): v for k, v in found.state.items()})

    return read


def reference(args: Namespace, run: Run, net: nn.Module) -> nn.Module | None:
    """The network of --ref; None without. Errors: UsageError, CheckpointError."""
    if args.ref is None:
        return None
    found = open_generator(
        args.ref, kinds=[KIND], script="train_ddpm", device=run.device, say=run.say, option="--ref"
    )
    assert isinstance(found, DDPM)
    ours, theirs = (getattr(n, "config", {}) for n in (net, found.net))
    fits = ("in_channels", "out_channels", "num_classes", "layout_classes", "concat_channels")
    for name in fits:
        if ours.get(name) != theirs.get(name):
            raise UsageError(
                f"--ref {args.ref}: {name} {theirs.get(name)}, the learner's is {ours.get(name)}"
            )
    return found.net


def ramp(args: Namespace, step: int) -> float:
    """What the learning rate is multiplied by in the update that makes it `step` steps."""
    return min(1.0, step / args.warmup) if args.warmup else 1.0


def beside_config(args: Namespace, images: Images) -> dict[str, Any]:
    """What a snapshot says of the image beside; nothing without."""
    if args.concat == "none":
        return {}
    more: dict[str, Any] = {"kind": args.concat}
    if args.concat == "segmentation":
        more["classes"] = beside_classes(args, images)
    if args.concat == "lowres":
        more["factor"] = args.lowres_factor
    return {"concat": more}


def snapshot_config(
    args: Namespace, run: Run, net: nn.Module, how: Objective, images: Images
) -> dict[str, Any]:
    """What a snapshot says of the network, as JSON values."""
    config = {
        "net": getattr(net, "config", {}),
        "denoiser": args.denoiser.rpartition(":")[2] if args.denoiser else None,
        "gaussian": gaussian_config(args),
        "encoder": how.encoder.config,
        "resolution": images.resolution,
        "gray": args.gray,
        "classes": classes(images) if args.cond else [],
        "layout": args.layout,
        "objects": layout_classes(args, images),
        **beside_config(args, images),
        "clip": clip_of(args) if how.encoder.config["name"] == "rgb" else "none",
        "ema": args.ema,
        "step": run.completed + 1,
        "nimg": run.nimg,
    }
    if args.denoiser:
        channels = channels_of(args, images, how.encoder)
        out = channels * (2 if how.gaussian.learned else 1)
        config["net"] = {"in_channels": channels, "out_channels": out}
    return config
