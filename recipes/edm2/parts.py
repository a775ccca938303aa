"""train_edm2.py's options -> data, network, optimizer, averages, snapshots."""

from argparse import Namespace
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from data.labelled import LabelledImages
from data.registry import open_source
from data.samplers import StepSampler
from diffusion import EDM2Loss, Precond, selection_lr
from diffusion.encoders import Encoder, make_encoder
from generators.door import open_generator
from generators.edm2 import EDM2
from recipes import batches, room
from recipes.edm2 import validation
from recipes.edm2.options import OPTIONS, check_shares, mini_batch
from recipes.edm2.step import Objective
from recipes.known import inputs_of
from recipes.take import take
from runtime import ema as emas
from runtime.inputs import Inputs
from runtime.run import Run
from selection import EarlyLateSwitch
from storage.dirs import data_home
from storage.errors import UsageError


def shares(args: Namespace, ranks: int) -> tuple[int, int]:
    """Images of a step that a rank reads, and how many of them it takes at once. Errors: UsageError
    if so many processes cannot share a batch."""
    return batches.shares(args, ranks, args.batch, args.batch_gpu, check_shares)


def data(args: Namespace) -> LabelledImages:
    """The images to train on. Errors: DataError."""
    sizes = [args.res] if args.res else []
    source = open_source(args.data, args.data_path or data_home(), sizes=sizes)
    return LabelledImages(source, args.res, crop=args.crop, xflip=args.xflip, cache=args.cache)


def inputs(args: Namespace, images: LabelledImages) -> Inputs:
    """What the run reads, known by content."""
    networks = {"guide_path": "train_edm2", "ref_path": "train_edm2", "init_from": None}
    return inputs_of(args, {"data": images.source}, networks)


def choose_conditioning(args: Namespace, images: LabelledImages) -> str:
    """Settle --cond by the images where it is not given; a line that says which it is.

    Errors: UsageError where classes are asked for and there are none.
    """
    name, classes = images.source.name, images.label_dim
    if args.cond and not classes:
        raise UsageError(
            f"--cond: {name} has no classes; leave --cond out to train without them, or put the "
            "pictures of each class into a folder of its own"
        )
    if args.cond is None:
        args.cond = bool(classes)
    alone = len(images.source) == 1
    note = f"; {name} is one picture, which the network can only learn by heart" if alone else ""
    if args.cond:
        many = "classes" if classes > 1 else "class"
        return f"conditional on the {classes} {many} of {name}{note}"
    why = f"{name} has no classes" if not classes else "as --cond says"
    return f"unconditional: {why}{note}"


def loader(args: Namespace, run: Run, images: LabelledImages) -> tuple[StepSampler, DataLoader]:
    """What reads this rank's images of every step; the sampler says which, and is checkpointed."""
    return batches.step_loader(args, run, images, args.batch)


def network(args: Namespace, run: Run, images: LabelledImages) -> tuple[Precond, Encoder]:
    """The network in training, on the run's device, and the encoder it works behind.

    Errors: UsageError for options or data that make no network, EncoderError for a VAE that is
    missing.
    """
    label_dim = label_width(args, images)
    kind = "rgb" if images.channels == 3 else "stability-vae"
    if kind == "rgb" and args.vae is not None:
        raise UsageError(
            f"--vae {args.vae}: {images.source.name} has pixels, which need no decoder"
        )
    encoder = make_encoder({"name": kind}, vae=args.vae)
    make = partial(
        take,
        Precond,
        args,
        img_resolution=images.resolution,
        img_channels=encoder.latent_channels(images.channels),
        label_dim=label_dim,
        use_fp16=run.precision.name != "fp32",
        model_channels=args.channels,
    )
    try:
        sizes = ("channels", "channel_mult", "num_blocks", "label_dim")
        net = room.network(make, run.device, args, OPTIONS, sizes)
    except ValueError as error:
        raise UsageError(str(error)) from None
    rows, first = shares(args, run.world_size)[1], net.img_resolution**2 * args.channels
    room.batch(rows, first, run.device, args, OPTIONS, ("batch", "batch_gpu", "channels", "res"))
    if kind != "rgb" and args.vae is not None and args.sample_images and run.is_main:
        encoder.decode(torch.zeros(1, net.img_channels, 1, 1))  # fails now, not at the first grid
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    net = net.to(run.device).to(memory_format=layout).train()
    net.compute_dtype = run.precision.dtype
    return net, encoder


def label_width(args: Namespace, images: LabelledImages) -> int:
    """Width of the one-hot labels; 0 for none. Errors: UsageError."""
    if not args.cond:
        if args.label_dim is not None:
            raise UsageError(f"--label_dim {args.label_dim}: the network is without classes")
        return 0
    if args.label_dim is not None and args.label_dim < images.label_dim:
        raise UsageError(f"--label_dim {args.label_dim}: there are {images.label_dim} classes")
    return args.label_dim or images.label_dim


def load_network(
    path: str | None, net: Precond, run: Run, *, channels: int | None = None
) -> Precond | None:
    """The network of a snapshot, for evaluation beside `net`, which is trained; None for no path.

    channels: --ref_channels, which it must have. Errors: UsageError if the two do not fit,
    CheckpointError.
    """
    if path is None:
        return None
    found = open_generator(
        path,
        kinds=[EDM2.kind],
        script="train_edm2",
        device=run.device,
        precision=run.precision.requested,  # as the run's: EDM2 sets the policy on TF32 by it
        say=run.say,
    )
    assert isinstance(found, EDM2)
    other = found.net
    for what in ("img_resolution", "img_channels"):
        if getattr(other, what) != getattr(net, what):
            raise UsageError(
                f"{path}: {what} {getattr(other, what)}, the learner's is {getattr(net, what)}"
            )
    if other.label_dim not in (0, net.label_dim):
        raise UsageError(
            f"{path} knows {other.label_dim} classes, the learner {net.label_dim}; "
            f"give --label_dim {other.label_dim} if these are the same first ones"
        )
    width = other.config["model_channels"]
    if channels is not None and width != channels:
        raise UsageError(f"{path} has {width} channels, --ref_channels wants {channels}")
    other.compute_dtype = net.compute_dtype
    return other


def optimizer(args: Namespace, net: Precond, device: torch.device) -> torch.optim.Adam:
    """Adam as EDM2 uses it."""
    fused = True if device.type in ("cuda", "cpu") else None
    return torch.optim.Adam(net.parameters(), lr=args.lr, betas=(0.9, 0.99), fused=fused)


def averages(args: Namespace, net: Precond) -> dict[float, emas.EMA[Precond]]:
    """An EMA of the weights for each of --ema_stds, its relative width."""
    return {std: emas.EMA(net, emas.power(std)) for std in args.ema_stds}


def objective(
    args: Namespace, net: Precond, encoder: Encoder, share: int, at_once: int
) -> Objective:
    """What is lost at the rows of a step, of which this rank has `share`.

    ln sigma ~ N(P_mean, P_std^2); a row's loss is the sum over its pixels of
    lambda(sigma) / e^u (D(x + sigma n) - x)^2 + u (diffusion.edm2_loss.per_pixel_loss).
    """
    values = net.img_channels * net.img_resolution**2
    loss_fn = EDM2Loss(args.P_mean, args.P_std, net.sigma_data)
    return Objective(loss_fn, encoder, net.label_dim, values, share, at_once)


def look(
    args: Namespace,
    run: Run,
    net: Precond,
    guide: Precond | None,
    encoder: Encoder,
    classes: list[str],
) -> None:
    """Grids of samples of a network and, with a guide, of the two, on rank 0."""
    decodes = encoder.config["name"] == "rgb" or args.vae is not None
    if not (run.is_main and args.sample_images and decodes):
        return
    each = run.phase("samples", together=False)
    with run.spent.on("validation"):
        found = validation.samples(
            net, guide, encoder, count=args.sample_images, steps=args.sample_steps,
            weight=args.sample_guidance, device=run.device, each=each,
        )  # fmt: skip
        for name, pictures in found.items():
            weight = args.sample_guidance if name == "guided" else None
            words = validation.captions(len(pictures), net.label_dim, classes, weight)
            run.sample_grid(name, pictures, max(1, round(args.sample_images**0.5)), words)


def learning_rate(
    args: Namespace, ranks: int, nimg: int, step: int, selecting: bool, switch: EarlyLateSwitch
) -> float:
    """Rate of the step that makes it `step` steps and `nimg` images."""
    return selection_lr(
        nimg,
        step,
        selecting=selecting,
        early=args.early,
        late=args.late,
        mini_batch=mini_batch(args, ranks),
        super_batch=args.batch,
        ref_lr=args.lr,
        ref_batches=args.decay,
        rampup_Mimg=args.rampup,
        change_nimg=switch.change_nimg,
        change_step=switch.change_step,
        ramp=args.ramp,
    )


def save_snapshots(
    args: Namespace,
    run: Run,
    averages: dict[float, emas.EMA[Precond]],
    encoder: Encoder,
    classes: list[str],
) -> None:
    """`network-snapshot-STEP-STD` of every EMA."""
    for std, average in averages.items():
        config = snapshot_config(args, run, average.module, encoder, classes, std)
        name = f"network-snapshot-{run.completed + 1:07d}-{std:.3f}"
        run.snapshot(name, average.module, "edm2", config)


def snapshot_config(
    args: Namespace,
    run: Run,
    net: Precond,
    encoder: Encoder,
    classes: list[str],
    std: float | None = None,
) -> dict[str, Any]:
    """What a snapshot says of itself beside its weights. std: relative width of its EMA."""
    return {
        "net": net.config,
        "encoder": encoder.config,
        "classes": classes,
        "ema_std": std,
        "step": run.completed + 1,
        "nimg": run.nimg,
        "loss": {"P_mean": args.P_mean, "P_std": args.P_std},
    }
