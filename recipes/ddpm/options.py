"""What may be asked of train_ddpm.py: the option table, rules between options, the run's name."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from diffusion.beside import KINDS as CONCATENATED
from diffusion.ddpm_generate import CLIPS, SCHEDULES, Drawing, make_gaussian
from diffusion.ddpm_samplers import SAMPLERS
from diffusion.gaussian import PREDICTIONS, TIME_INPUTS, VARIANCES, Gaussian
from diffusion.gaussian_loss import LOSSES
from diffusion.respace import SPACINGS
from diffusion.schedule_sampler import NAMES as SCHEDULE_SAMPLERS
from models.ddpm import LAYOUT_ATTENTION
from recipes import best_of, measuring, selection
from recipes.command import INIT_FROM, read_options
from recipes.ddpm.founding import with_config
from recipes.ddpm.presets import PRESETS
from recipes.words import image_count, period, period_steps
from runtime.options import ADDED, EXECUTION, LENGTH, USUAL, Rules, Table, tagged
from runtime.types import (
    at_once,
    blocks,
    count,
    data_set,
    dir_path,
    file_path,
    finite_float,
    integer,
    levels,
    list_of,
    network,
    nonnegative_float,
    nonnegative_int,
    number,
    positive_float,
    positive_int,
    probability,
    short_name,
    side,
    text_called,
    wide,
)
from selection import Picker

__all__ = ["OPTIONS", "PRESETS", "get_args"]

LAYOUTS = ("none", "boxes", "masks", "segmentation")
LDM = "ldm"  # latent-diffusion's loss, beside those of `gaussian_loss.LOSSES`
DRAWN = (*LOSSES, LDM)
share = number(0, 1, hi_open=True)

# fmt: off
OPTIONS: Table = {
    "data": [
        ("--data", data_set, "scenes", "NAME, NAME/SPLIT, a folder, a zip, an LMDB or "
         "torchvision:NAME; with --layout a layout set (data/SetupLayoutData.py)", USUAL),
        ("--data_path", dir_path, None, "where data sets are stored (default: the data directory)",
         EXECUTION),
        ("--res", side, None, "resolution (default: the data's own; 64 for scenes and "
         "layout sets)", USUAL),
        ("--crop", ("center", "squash"), "center", "how pictures that are not square become it",
         USUAL),
        ("--gray", bool, False, "one channel, the mean of the three"),
        ("--xflip", bool, False, "the data twice, once mirrored; with --layout mirrored at random, "
         "and cropped by up to a fifth"),
        ("--views", ("xflip", "published"), "xflip", "random views of a layout set: as --xflip "
         "says, or as published for it: COCO mirrored and cropped by up to a fifth, CelebAMask-HQ "
         "and scenes mirrored, Visual Genome neither, each made smaller by its filter", ADDED),
        ("--cache", ("none", "memory"), "none", "keep decoded images in memory", EXECUTION),
        ("--cond", bool, None, "condition on the class (default: where the data has classes)",
         USUAL),
        ("--layout", LAYOUTS, "none", "condition on what stands where: boxes with classes, their "
         "objects' own pixels (masks), or the class of every pixel", USUAL),
        ("--concat", CONCATENATED, "none", "an image beside the noised one, which the network is "
         "given: the picture in grey, made smaller, or the class of every pixel (of a layout set)",
         ADDED),
        ("--lowres_factor", integer(2, 64), 4, "how many times smaller, of --concat lowres",
         ADDED),
        ("--latents", text_called("FILE|NAME"), None, "train on latents of an autoencoder of "
         "latent diffusion: its file (or a whole checkpoint), or a name of data/SetupLayoutData.py "
         "fetch-models (default: on pixels)", ADDED, USUAL),
        ("--latent_scale", positive_float, None, "what latents are multiplied by: 0.18215 in "
         "Stable Diffusion (default: 1 over their standard deviation)", ADDED),
        ("--latents_cache", ("disk", "memory"), "disk", "where latents are kept, encoded once: "
         "below the data directory, or not at all", EXECUTION, ADDED),
        ("--max_objects", count(4096), 8, "boxes of a picture, the largest of more"),
    ],
    "what to train": [
        ("--channels", wide, 128, "channels at full resolution", USUAL),
        INIT_FROM,
        ("--freeze", ("none", "base"), "none", "base: train layout attention and task prompts "
         "alone, what a network of --init_from without layouts does not have"),
        ("--config", file_path, None, "options from a JSON file of LayoutDiffuse's code, whose "
         "keys are all known or refused; what is typed beside it wins (default: none)", EXECUTION),
        ("--model", text_called("FILE:NAME"), None, "train by the training_step of a class of "
         "your own, derived from diffusion.DDPMTraining or DDIMTraining (default: by the loop of "
         "the script)"),
        ("--look", text_called("FILE:NAME"), None, "call FUNCTION(step, outputs, run_dir) "
         "with what training_step and validation_step return, at every snapshot (default: none)",
         EXECUTION),
    ],
    "length": [
        ("--duration", image_count, 102_400_000, "images to train on, 128Ki, 8Mi ...; those only "
         "looked at do not count", EXECUTION, LENGTH, USUAL),
        ("--epochs", positive_int, None, "--duration in passes over the data", EXECUTION, USUAL),
        ("--bs", at_once, 128, "images of a step, over all GPUs", USUAL),
        ("--bs_gpu", count(1 << 24, 0), 0, "images a GPU takes at once; 0: all of its share",
         USUAL),
        ("--lr", positive_float, 2e-4, "learning rate of Adam", USUAL),
    ],
    "validation": [
        ("--val_images", count(1 << 24, 0), 0, "held-out pictures whose loss, at the same steps "
         "and noise every time, is logged at every snapshot as val/..; 0: none", EXECUTION, ADDED,
         USUAL),
        ("--bits_per_dim", count(1 << 24, 0), 0, "held-out pictures whose bits a dimension are "
         "logged there, by as many evaluations each as there are --timesteps; 0: none", EXECUTION,
         ADDED),
        ("--data_val", data_set, None, "where they are from (default: split val of --data, else "
         "test)", EXECUTION, ADDED),
        *measuring.rows(),
    ],
    "output": [
        ("--snapshot_every", period, "5000", "steps between snapshots, or images: 128Ki, 8Mi",
         EXECUTION, USUAL),
        ("--snapshot_epochs", positive_int, None, "the same in passes over the data (default: by "
         "--snapshot_every)", EXECUTION),
        ("--sample_images", count(10_000, 0), 16, "in the pictures of every snapshot; 0: none",
         EXECUTION, USUAL),
        ("--sample_steps", levels, 50, "steps of their sampler", EXECUTION),
        ("--sampler", tuple(SAMPLERS), "ddim", "their sampler", EXECUTION),
        ("--spacing", SPACINGS, "trailing", "which steps it visits", EXECUTION),
        ("--eta", nonnegative_float, 0.0, "noise that ddim adds: 0 none, 1 as much as ddpm",
         EXECUTION),
        ("--guidance", finite_float, 1.0, "weight of classifier-free guidance; 1: none", EXECUTION),
        ("--clip", CLIPS, "unit", "of predicted clean images while sampling: to [-1, 1], by their "
         "0.9 quantile, or not", EXECUTION),
        ("--frames", levels, 8, "of a history from noise to picture", EXECUTION),
        ("--suffix", short_name, None, "appended to the run's name"),
    ],
    "network": [
        ("--channel_mult", list_of(positive_float), [1.0, 2.0, 2.0, 2.0], "channels of each "
         "resolution over --channels"),
        ("--num_blocks", blocks, 2, "blocks at each resolution"),
        ("--attn_factors", list_of(positive_int, empty_word="none"), [2], "with attention, by how "
         "many times smaller than the picture"),
        ("--num_heads", wide, 1, "heads of an attention"),
        ("--channels_per_head", wide, None, "channels of a head, instead of --num_heads "
         "(default: by --num_heads)"),
        ("--scale_shift", bool, False, "time and class scale and shift normalised activations, "
         "instead of being added before the norm, which takes them out again where there are 32 "
         "channels or fewer"),
        ("--updown", bool, False, "resample in residual blocks (BigGAN)"),
        ("--dropout", share, 0.1, "probability of dropping an activation"),
        ("--layout_attn", tuple(n for n in LAYOUT_ATTENTION if n != "segmentation"),
         "layout_partial_v2", "how layout attention sees boxes: each in itself; with the "
         "background averaged in; or all of the picture"),
        ("--layout_factors", list_of(positive_int), [2, 4], "with layout attention, as "
         "--attn_factors"),
        ("--layout_dim", wide, 128, "numbers of a class's embedding"),
        ("--res_block", text_called("NAME"), "ResBlock", "class of residual blocks, of "
         "models/ddpm/registry.py or of --blocks"),
        ("--attn_block", text_called("NAME"), "AttentionBlock", "class of attention, or none"),
        ("--task_prompts", count(4096, 0), 0, "learned prompts of every transformer (--attn_block "
         "SpatialTransformer), to which pixels attend beside themselves, without effect at first; "
         "0: none", ADDED),
        ("--blocks", file_path, None, "classes of your own for --res_block and "
         "--attn_block (default: none)"),
        ("--denoiser", text_called("FILE:NAME"), None, "a whole network of your own: "
         "CLASS(in_channels, out_channels), called as net(x, t), with y=, layout= or concat= if "
         "conditional (default: the U-Net)"),
        ("--recompute", bool, False, "compute activations again in the backward pass: less memory",
         EXECUTION),
        ("--channels_last", bool, False, "memory format", EXECUTION),
        ("--bench", bool, True, "let cuDNN choose its algorithms by trying", EXECUTION),
    ],
    "diffusion": [
        ("--timesteps", count(1 << 17), 1000, "steps T of the diffusion"),
        ("--schedule", SCHEDULES, "linear", "betas: DDPM's linear, improved DDPM's cosine, or by "
         "latent-diffusion's names (its linear is linear in sqrt(beta))"),
        ("--beta_start", number(0, 1, lo_open=True, hi_open=True), 1e-4, "first beta of ldm-"),
        ("--beta_end", number(0, 1, lo_open=True, hi_open=True), 2e-2, "last beta of ldm-"),
        ("--cosine_s", positive_float, 8e-3, "offset of ldm-cosine"),
        ("--zero_snr", bool, False, "stretch the schedule to end in pure noise"),
        ("--predict", PREDICTIONS, "eps", "what the network is asked for"),
        ("--variance", VARIANCES, "fixed_large", "of a step back; learned: the network makes twice "
         "as many channels"),
        ("--time_input", TIME_INPUTS, "step", "what the network is told: the step, the step of "
         "1000, or sqrt(alphas_cumprod)"),
    ],
    "loss and optimizer": [
        ("--loss", DRAWN, "mse", "mse: of the prediction (L_simple), with a learned variance also "
         "the bound; rescaled_mse: L_hybrid; kl: the bound alone; ldm: latent-diffusion's"),
        ("--simple_weight", nonnegative_float, 1.0, "of ldm's squared error"),
        ("--elbo_weight", nonnegative_float, 0.0, "of ldm's bound"),
        ("--snr_gamma", positive_float, None, "min-SNR weights of the squared error (default: "
         "none)"),
        ("--schedule_sampler", SCHEDULE_SAMPLERS, "uniform", "how steps are drawn"),
        ("--class_dropout", probability, 0.0, "probability of training without the class, for "
         "guidance"),
        ("--layout_dropout", probability, 0.0, "the same of the layout, independent of it"),
        *best_of.ROWS,
        ("--weight_decay", nonnegative_float, 0.0, "of Adam, added to the gradient"),
        ("--warmup", nonnegative_int, 0, "steps of the learning rate's linear ramp"),
        ("--grad_clip", nonnegative_float, 1.0, "largest norm of the gradients; 0: any"),
        ("--ema", share, 0.9999, "of the weights: what a step keeps of the average, less at the "
         "beginning, (1 + step) / (10 + step)"),
    ],
    "selection": [
        *selection.whether_rows(),
        ("--ref", network, None, "snapshot of another network of this script: the reference of "
         "JEST (default: the own EMA)"),
        *selection.how_rows(
            num_chunks=8, keep_all=False, unit="rows",
            scales="z-scores in the draw; mean and raw: the loss; autoguided: that times the batch",
        ),
    ],
}
# fmt: on


def get_args(doc: str | None, argv: Sequence[str] | None = None) -> Namespace:
    """The options of train_ddpm.py. doc: what --help begins with. Wrong ones exit with code 2."""
    known = with_config(PRESETS, argv)

    def checked(args: Namespace) -> None:
        if known.error:
            raise ValueError(known.error)
        check(args)

    return read_options(doc, OPTIONS, known.presets, checked, known.argv, save_every=1000)


def check(args: Namespace) -> None:
    """Rules between options, and what follows from several. Errors: ValueError."""
    rules = Rules(args, OPTIONS, PRESETS)
    diffusion = gaussian(args)
    drawing(args).check()
    for name in ("beta_start", "beta_end"):
        rules.belongs(name, "--schedule ldm-...", args.schedule.startswith("ldm-"))
    rules.belongs("cosine_s", "--schedule ldm-cosine", args.schedule == "ldm-cosine")
    for name in ("simple_weight", "elbo_weight"):
        rules.belongs(name, "--loss ldm", args.loss == LDM)
    rules.belongs("snr_gamma", "--loss mse and rescaled_mse", args.loss.endswith("mse"))
    if args.loss.startswith("rescaled_kl") and args.snr_gamma is not None:
        raise ValueError("--snr_gamma weights a squared error, which --loss rescaled_kl has not")
    if diffusion.learned and args.loss == LDM:
        raise ValueError("--loss ldm teaches no variance: --loss rescaled_mse does")
    if args.snr_gamma is not None and args.predict == "x_prev":
        raise ValueError("--snr_gamma: weights are for eps, x0 and v")
    has_layout = args.layout != "none"
    for name in ("layout_factors", "layout_dim", "layout_dropout"):
        rules.belongs(name, "--layout", has_layout)
    for name in ("layout_attn", "max_objects"):
        rules.belongs(name, "--layout boxes and masks", args.layout in ("boxes", "masks"))
    rules.belongs("lowres_factor", "--concat lowres", args.concat == "lowres")
    if args.cond and args.concat == "segmentation":
        raise ValueError("--cond: layout sets, which --concat segmentation needs, have no class")
    _settle_views(args, rules)
    transformer = args.attn_block == "SpatialTransformer"
    rules.belongs("task_prompts", "--attn_block SpatialTransformer", transformer)
    if args.freeze == "base" and not (args.init_from and (has_layout or args.task_prompts)):
        raise ValueError(
            "--freeze base trains what --layout and --task_prompts add to a network of --init_from"
        )
    rules.belongs("eta", "--sampler ddim", args.sampler == "ddim")
    rules.belongs("spacing", "samplers other than heun", args.sampler != "heun")
    for name in ("sample_steps", "sampler", "spacing", "guidance", "frames", "look"):
        rules.belongs(name, "--sample_images", args.sample_images > 0)
    rules.excludes("num_heads", "channels_per_head")
    _check_latents(args, rules)
    _check_own_code(args, rules, diffusion.learned)
    best_of.check(args, OPTIONS)
    rules.belongs("data_val", "--val_images or --bits_per_dim",
                  bool(args.val_images or args.bits_per_dim))  # fmt: skip
    measuring.check(args, rules)
    if args.metrics_every is not None and (has_layout or args.concat != "none"):
        raise ValueError("--metrics_every draws without a layout or an image beside")
    selection.check(args, OPTIONS, PRESETS)
    selection.check_jest_options(args, OPTIONS, PRESETS)
    if args.ref and not (args.acid or args.early or args.late):
        raise ValueError("--ref is for --acid, --early and --late; nothing here compares")
    if (args.early or args.late) and not (args.acid or args.ref):
        raise ValueError("--early and --late of a random selection need a --ref")
    check_shares(args, max(1, len(args.gpus or [])))


def _settle_views(args: Namespace, rules: Rules) -> None:
    """--views of a preset are for layout sets, and give way to an --xflip that was typed."""
    layouts = args.layout != "none" or args.concat == "segmentation"
    rules.belongs("views", "--layout", layouts)
    from_preset: set[str] = getattr(args, "from_preset", set())
    if rules.typed("views") and rules.typed("xflip"):
        raise ValueError("--views published and --xflip exclude each other: give one")
    if "views" in from_preset and ("xflip" not in from_preset or not layouts):
        args.views = "xflip"


def _check_latents(args: Namespace, rules: Rules) -> None:
    for name in ("latent_scale", "latents_cache"):
        rules.belongs(name, "--latents", args.latents is not None)
    if args.latents is None:
        return
    if args.gray:
        raise ValueError("--gray: an autoencoder of --latents has three channels")
    if args.concat in ("gray", "lowres"):
        raise ValueError(f"--concat {args.concat} is of pixels, --latents keep none")
    if args.bits_per_dim:
        raise ValueError("--bits_per_dim is of pixels, --latents have no bound on theirs")
    if rules.typed("clip") and args.clip != "none":
        raise ValueError(f"--clip {args.clip}: latents have no range to be clipped to")


def clip_of(args: Namespace) -> str:
    """What is done to predicted clean images while sampling; latents are left alone."""
    return "none" if args.latents else args.clip


def _check_own_code(args: Namespace, rules: Rules, learned: bool) -> None:
    if args.model:
        _check_model(args, rules, learned)
    if args.denoiser:
        for name in ("blocks", "res_block", "attn_block"):
            if rules.typed(name):
                raise ValueError(f"{rules.shown(name)} is of the U-Net, --denoiser is another")
    for option, place in (("model", args.model), ("look", args.look), ("denoiser", args.denoiser)):
        if place is not None and not place.rpartition(":")[0].endswith(".py"):
            raise ValueError(f"--{option} {place}: FILE.py:NAME, a Python file and a name in it")


def _check_model(args: Namespace, rules: Rules, learned: bool) -> None:
    """What a class of the user's says itself, and what it has no place for."""
    elsewhere = {
        "selection": bool(args.selection), "acid": args.acid, "best_of_k": args.best_of_k > 1,
        "snr_gamma": args.snr_gamma is not None, "concat": args.concat != "none",
    }  # fmt: skip
    for name, asked in elsewhere.items():
        if asked:
            raise ValueError(f"{rules.shown(name)}: --model says itself how a batch is trained")
    if args.compile:
        raise ValueError("--compile: --model's classes call the network as it is")
    if args.sampler == "heun":
        raise ValueError("--sampler heun: --model's classes have no such sampler")
    losses = ("rescaled_mse",) if learned else (LDM, "mse", "rescaled_mse")
    if args.loss not in losses:
        kind = "DDIMTraining has" if learned else "DDPMTraining have"
        raise ValueError(f"--loss {args.loss}: --model's classes of {kind} {', '.join(losses)}")
    if args.cond is None:
        args.cond = False  # a class is given labels and decides; an embedding is for --cond
    steps = "the loop of the script, --model has trailing steps"
    rules.belongs("spacing", steps, args.spacing == "trailing")
    rules.belongs("eta", "the loop of the script, --model has none", False)
    rules.belongs("schedule_sampler", "--model's classes of DDIMTraining", learned)
    rules.belongs("class_dropout", "--cond", args.cond)


def gaussian(args: Namespace) -> Gaussian:
    """The diffusion that is asked for. Errors: ValueError."""
    return make_gaussian(gaussian_config(args))


def gaussian_config(args: Namespace) -> dict[str, object]:
    """The same as JSON values."""
    config = {
        "schedule": args.schedule, "T": args.timesteps, "zero_snr": args.zero_snr,
        "prediction_type": args.predict, "variance_type": args.variance,
        "time_input": args.time_input,
    }  # fmt: skip
    if args.schedule.startswith("ldm-"):
        config |= {k: getattr(args, k) for k in ("beta_start", "beta_end", "cosine_s")}
    return config


def drawing(args: Namespace) -> Drawing:
    """How the pictures of a snapshot are drawn."""
    return Drawing(
        args.sampler, args.sample_steps, args.spacing, args.eta, args.guidance, clip=clip_of(args)
    )


def check_shares(args: Namespace, ranks: int) -> None:
    """That so many ranks can share a batch, and what is selected of it. Errors: ValueError."""
    if args.bs % ranks:
        raise ValueError(f"--bs {args.bs} images cannot be shared by {ranks} GPUs")
    mini = mini_batch(args)
    if args.schedule_sampler != "uniform" and mini % ranks:
        raise ValueError(
            f"--selection leaves {mini} rows, which {ranks} GPUs cannot share evenly, as "
            f"--schedule_sampler {args.schedule_sampler} needs them"
        )


def picker(args: Namespace, ranks: int = 1) -> Picker:
    """The draw of --selection. A row's loss is a mean over its values: 1 of them."""
    return selection.picker(
        args, "jest" if args.acid else "random", values=1, batch_gpu_total=args.bs // ranks
    )


def mini_batch(args: Namespace) -> int:
    """Images that a selecting step trains on, over all ranks; without selection all. Errors:
    ValueError where a selection leaves none."""
    return picker(args).size(args.bs) if args.selection else args.bs


def snapshot_period(args: Namespace) -> int:
    """Steps between snapshots."""
    return period_steps(args.snapshot_every, args.bs)


def execution_options(args: Namespace) -> tuple[str, ...]:
    """Names of options that do not change what the run computes."""
    return (*tagged(OPTIONS, EXECUTION), "bs_gpu")


def run_name(args: Namespace) -> str:
    """The run directory's readable part; a hash of the shaping options follows it."""
    stem = Path(args.data.removeprefix("torchvision:")).stem
    mode = "jest" if args.acid else "random" if args.selection else None
    parts = ["ddpm", stem, f"c{args.channels}", mode, args.suffix]
    if args.layout != "none":
        parts.insert(2, args.layout)
    if args.concat != "none":
        parts.insert(2, f"by-{args.concat}")
    return "-".join(part for part in parts if part)
