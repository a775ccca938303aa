"""One's own code in train_ddpm.py: blocks, a network, the class that trains, what looks at results.

    --blocks FILE.py   --denoiser FILE.py:CLASS   --model FILE.py:CLASS   --look FILE.py:FUNCTION

What is wrong with such a file before training begins - a name that is not there, an import, an
exception while something of it is made - is one line with its place; see `storage.user_code`.
"""

from __future__ import annotations

import inspect
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion import DDIMTraining, DDPMTraining
from models.ddpm import ConditionBlock, EmbedBlock
from recipes.ddpm.options import LDM, clip_of
from recipes.ddpm.step import Objective, Rows
from storage.errors import UsageError, one_line
from storage.user_code import at_work, blame, load_classes, load_object

Look = Callable[[int, dict[str, Any], Path], object]


UNGUIDED = "the class of --model has no method unconditional, what guidance leads away from"


def check(args: Namespace) -> None:
    """Run the files that are named, before anything that takes long. Errors: UsageError."""
    blocks_of(args.blocks)
    look_of(args)
    for option in ("denoiser", "model"):
        if place := getattr(args, option):
            load_object(place, f"--{option}")
    typed = args.guidance != 1 and "guidance" not in getattr(args, "from_preset", ())
    if typed and unguided(args):
        raise UsageError(f"--guidance {args.guidance:g}: {UNGUIDED}")


def unguided(args: Namespace) -> bool:
    """Whether a class of --model has nothing to be guided away from. Errors: UsageError."""
    if args.model is None:
        return False
    made = load_object(args.model, "--model")
    return getattr(made, "unconditional", None) is DDPMTraining.unconditional


def blocks_of(file: str | None) -> Mapping[str, type[nn.Module]] | None:
    """Classes of a user's file for --res_block and --attn_block. Errors: UsageError."""
    if file is None:
        return None
    return load_classes(file, (EmbedBlock, ConditionBlock, nn.Module), "--blocks")


def network(place: str, channels: int, out: int) -> nn.Module:
    """A user's whole network. Errors: UsageError."""
    make = load_object(place, "--denoiser")
    with at_work(place, "--denoiser"):
        net = make(in_channels=channels, out_channels=out)
    if not isinstance(net, nn.Module):
        raise UsageError(f"--denoiser {place} made a {type(net).__name__}, not a torch module")
    return net


def training(args: Namespace, net: nn.Module, how: Objective) -> DDPMTraining | None:
    """The class of --model around the network; None without. Errors: UsageError."""
    if args.model is None:
        return None
    make = load_object(args.model, "--model")
    if not (isinstance(make, type) and issubclass(make, DDPMTraining)):
        raise UsageError(f"--model {args.model}: no class of diffusion.DDPMTraining")
    called = "process_batch(self, batch, mode='train')"
    _takes(
        make.process_batch, f"--model {args.model}: process_batch", called, None, (), mode="train"
    )
    if issubclass(make, DDIMTraining) != how.gaussian.learned:
        raise UsageError(
            f"--model {args.model}: a class of DDIMTraining learns the variance, for which it is "
            "--variance learned_range; one of DDPMTraining does not"
        )
    given: dict[str, Any] = {
        "gaussian": how.gaussian, "clip_denoised": clip_of(args) == "unit",
        "dynamic_thresholding": clip_of(args) == "dynamic",
        "optim_args": {"lr": args.lr, "weight_decay": args.weight_decay},
        "use_fast_sampling": args.sampler != "ddpm" or args.sample_steps < how.gaussian.T,
        "fast_sampler": args.sampler, "fast_sampling_steps": args.sample_steps,
        "guidance_scale": args.guidance, "sample_num": args.frames,
    }  # fmt: skip
    if issubclass(make, DDIMTraining):
        given["schedule_sampler"] = how.schedule_sampler
    else:
        weighted = args.loss == LDM
        given["loss_simple_weight"] = args.simple_weight if weighted else 1.0
        given["loss_elbo_weight"] = args.elbo_weight if weighted else 0.0
    with at_work(args.model, "--model"):
        return make(net, **given).to(next(net.parameters()).device)


def optimizer(args: Namespace, model: DDPMTraining) -> torch.optim.Optimizer:
    """What the class configures. Errors: UsageError."""
    with at_work(args.model, "--model"):
        found = model.configure_optimizers()
    if not isinstance(found, torch.optim.Optimizer):
        raise UsageError(
            f"--model {args.model}: configure_optimizers returned a {type(found).__name__}, not "
            "one optimizer"
        )
    return found


def look_of(args: Namespace) -> Look | None:
    """The function of --look; None without. Errors: UsageError."""
    if args.look is None:
        return None
    found = load_object(args.look, "--look")
    if not callable(found):
        raise UsageError(f"--look {args.look}: no function")
    _takes(found, f"--look {args.look}", "FUNCTION(step, outputs, run_dir)", 1, {}, Path())
    return found


def _takes(function: Callable[..., object], what: str, as_: str, *args: Any, **named: Any) -> None:
    """That it can be called so, asked before training: a snapshot may be hours away. Errors:
    UsageError."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of C; it is called and seen
        return
    try:
        signature.bind(*args, **named)
    except TypeError as error:
        raise UsageError(f"{what} is called as {as_}, which it does not take: {error}") from None


def batch_of(how: Objective, part: Rows, *, dropping: bool = True) -> tuple[Any, ...]:
    """A batch as a data set gives it, for `process_batch`: images in [-1, 1], labels, and the
    layouts where there are any. dropping: some go without (label -1), as in `conditions`."""
    found = how.conditions(part, dropping=dropping)
    layouts = (found["layout"],) if how.layout != "none" else ()
    return (how.images(part), found.get("y", part.labels), *layouts)


def trained(model: DDPMTraining, how: Objective, part: Rows, step: int) -> dict[str, Any]:
    """What the class's training_step returns of rows, by their keys: its "loss" is a scalar.

    Errors: UsageError without one, and for a batch that the class or the network does not take;
    those of the class.
    """
    model.row_keys = part.keys
    with _refused(model):
        outputs = model.training_step(batch_of(how, part), step)
    if not isinstance(outputs, dict) or not isinstance(outputs.get("loss"), Tensor):
        raise UsageError(
            f"--model: training_step of {type(model).__name__} returned no dictionary with a loss"
        )
    return outputs


def validated(
    model: DDPMTraining, net: nn.Module, how: Objective, rows: Rows
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the class's own validation_step returns of rows, with `net` for its denoise_fn and
    latents decoded, and the scalars that it has logged. Steps and noise are of the rows' keys.

    Errors: UsageError for what is no dictionary; those of the class.
    """
    trained, logged = model.denoise_fn, model.logged
    modes = [(module, module.training) for module in model.modules()]
    model.denoise_fn, model.logged, model.row_keys = net, {}, rows.keys
    model.eval()
    try:
        with torch.no_grad(), _refused(model):
            outputs = model.validation_step(batch_of(how, rows, dropping=False), 0)
        told = model.logged
    finally:
        model.denoise_fn, model.logged, model.row_keys = trained, logged, None
        for module, mode in modes:
            module.training = mode
    if not isinstance(outputs, dict):
        raise UsageError(
            f"--model: validation_step of {type(model).__name__} returned a "
            f"{type(outputs).__name__}, not a dictionary"
        )
    return _shown(outputs, how), told


@contextmanager
def _refused(model: DDPMTraining) -> Iterator[None]:
    """What this toolkit says of the class's batches, in a line; failures in its own file pass."""
    try:
        yield
    except ValueError as error:
        if blame(error):
            raise
        raise UsageError(f"--model: {type(model).__name__}: {one_line(error)}") from error


def _shown(outputs: Mapping[str, Any], how: Objective) -> dict[str, Any]:
    """Latents among the outputs decoded; what is decoded already, or no picture, stays."""

    def one(value: Any) -> Any:
        if isinstance(value, Mapping):
            return _shown(value, how)
        latent = isinstance(value, Tensor) and value.ndim in (4, 5)
        return how.shown(value) if latent and value.shape[-1] == how.side else value

    return {key: one(value) for key, value in outputs.items()} if how.latent else dict(outputs)
