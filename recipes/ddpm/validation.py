"""What train_ddpm.py looks at: histories from noise to picture, and the loss by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffusion.ddpm_generate import Drawing, draw_states
from diffusion.ddpm_rows import KeyedRandn, keyed_noise
from diffusion.gaussian import Gaussian
from recipes.ddpm.step import Lost, Objective, Rows
from runtime.counter_rng import mix
from storage.layout_pictures import layout_maps, segmentation_maps, with_boxes
from storage.pictures import Captions

SAMPLES = 0x73616D706C65  # "sample", apart from the keys of training noise
BANDS = 4  # of steps, for which the loss is told
WAYS = ("restore", "sampling")


class History(NamedTuple):
    """model_output [B, C, H, W]; model_history_output [B, frames, C, H, W], frame 0 the noise, the
    last one the output; steps: of the network that each frame but the first was made at."""

    model_output: Tensor
    model_history_output: Tensor
    steps: list[int]


@torch.no_grad()
def history(
    net: nn.Module,
    x_T: Tensor,
    gaussian: Gaussian,
    how: Drawing,
    *,
    frames: int,
    cond: dict[str, Any],
    without: dict[str, Any],
    keys: Tensor,
    each: Callable[[int, int], object] = lambda done, total: None,
) -> History:
    """From noise to images, with about `frames` states on the way. each: is given (steps done, of
    how many)."""
    count, states = draw_states(
        net, x_T, gaussian, how, cond=cond, uncond=without, randn=KeyedRandn(keys)
    )
    every, kept, steps = max(1, count // frames), [x_T], []
    for k, state in enumerate(states, 1):
        each(k, count)
        if (count - k) % every == 0:
            kept.append(state.x)
            steps.append(int(state.step))
    return History(kept[-1], torch.stack(kept, 1), steps)


def look(
    net: nn.Module,
    how: Objective,
    drawing: Drawing,
    rows: Rows,
    *,
    frames: int,
    each: Callable[[int, int], object] = lambda done, total: None,
) -> dict[str, Any]:
    """What `DDPMTraining.validation_step` returns, of `net` and rows of the data.

    {"y_0_image", "restore", "sampling"}, of latents the pictures they decode to; "given", what
    --concat has made of the pictures. restore begins at the rows' images, noised to the last step,
    sampling in pure noise, the same every time; both with the rows' conditions.
    """
    x0, gaussian = how.images(rows), how.gaussian
    keys = sample_keys(rows)
    noise = keyed_noise(keys, x0.shape[1:])
    starts = {"restore": gaussian.q_sample(x0, gaussian.T - 1, noise), "sampling": noise}
    cond, without = how.conditions(rows, dropping=False), how.without(rows)
    found: dict[str, Any] = {"y_0_image": how.shown(x0)}
    if how.concat in ("gray", "lowres"):
        found["given"] = cond["concat"]
    for name, x_T in starts.items():
        drawn = history(
            net, x_T, gaussian, drawing, frames=frames, cond=cond, without=without, keys=keys,
            each=each,
        )._asdict()  # fmt: skip
        found[name] = {k: how.shown(v) if isinstance(v, Tensor) else v for k, v in drawn.items()}
    return found


def sample_keys(rows: Rows) -> Tensor:
    """Keys int64 [n] of the noise that the rows' pictures are drawn from, the same every time."""
    return mix(torch.arange(len(rows.keys), device=rows.keys.device), SAMPLES)


class Sheet(NamedTuple):
    """images [n, C, H, W] in [0, 1], in `columns` columns, with what stands on them."""

    images: Tensor
    columns: int
    captions: Captions


def sheets(
    outputs: dict[str, Any], rows: Rows, names: Sequence[str], objects: Sequence[str]
) -> dict[str, Sheet]:
    """The pictures of a look: a strip over time for each row, restored and sampled; the samples
    in a square; with layouts, the layout, the data's picture and the sample, boxes drawn. What a
    class of the user's does not return, or what is no picture, is left out.

    names, objects: of classes and of what is in layouts.
    """
    found: dict[str, Sheet] = {}
    pictures = _picture(outputs.get("y_0_image"))
    for way in WAYS:
        if (sheet := _strips(way, outputs.get(way), pictures)) is not None:
            found[way] = sheet
    drawn = outputs.get("sampling")
    samples = _picture(drawn.get("model_output") if isinstance(drawn, dict) else None)
    if samples is None:
        return found
    if "given" in outputs and pictures is not None:
        given = nn.functional.interpolate(_unit(outputs["given"]), samples.shape[2:])
        found["inputs"] = _beside(given.cpu(), pictures, samples, "given")
    of_rows = len(samples) == len(rows.keys)
    labels = [names[c] if c < len(names) else "" for c in rows.labels.tolist()] if names else []
    side = max(1, round(len(samples) ** 0.5))
    found["samples"] = Sheet(samples, side, Captions("samples", each=labels if of_rows else []))
    if pictures is None or not of_rows:
        return found
    if rows.segmentation.numel():
        maps = segmentation_maps(rows.segmentation)
        maps = nn.functional.interpolate(maps, samples.shape[2:], mode="nearest")
        found["layouts"] = _beside(maps, pictures, samples)
    elif rows.classes.shape[1] and objects:
        data, made = (with_boxes(x, rows.boxes, rows.classes, objects) for x in (pictures, samples))
        maps = layout_maps(rows.boxes, rows.classes, objects, size=data.shape[-1])
        found["layouts"] = _beside(maps, data, made)
    return found


def _strips(way: str, outputs: Any, pictures: Tensor | None) -> Sheet | None:
    """A strip over time for each row; None without a history [n, frames, C, H, W]."""
    strips = outputs.get("model_history_output") if isinstance(outputs, dict) else None
    if not isinstance(strips, Tensor) or strips.ndim != 5 or strips.shape[2] not in (1, 3):
        return None
    frames = _unit(strips)
    steps = outputs.get("steps")
    columns = ["noise"] + ([f"t {s}" for s in steps] if steps else [""] * (strips.shape[1] - 1))
    if way == "restore" and pictures is not None and pictures.shape == frames[:, 0].shape:
        frames = torch.cat([frames, pictures.to(frames.device)[:, None]], 1)
        columns.append("data")  # the picture itself at the end of its row
    return Sheet(frames.flatten(0, 1), frames.shape[1], Captions(f"{way}, from noise on", columns))


def _picture(x: Any) -> Tensor | None:
    """Images [n, 1 or 3, H, W] in [-1, 1] as ones in [0, 1]; None for anything else."""
    image = isinstance(x, Tensor) and x.ndim == 4 and x.shape[1] in (1, 3)
    return _unit(x).cpu() if image else None


def _beside(maps: Tensor, data: Tensor, samples: Tensor, first: str = "layout") -> Sheet:
    each = [t.expand(-1, 3, -1, -1) for t in (maps, data, samples)]
    words = Captions("what was asked for, the picture it is of, the sample",
                     [first, "data", "sample"])  # fmt: skip
    return Sheet(torch.stack(each, 1).flatten(0, 1), 3, words)


def _unit(x: Tensor) -> Tensor:
    return (x.float() + 1) / 2


def loss_figures(
    losses: Sequence[Lost], T: int
) -> dict[str, tuple[Tensor | float, Tensor | float]]:
    """Sums and counts, of all rows and by a quarter of the steps: the loss that is minimised, its
    squared error, and that in each quarter, which their draw does not change."""
    weighted = torch.cat([lost.loss.detach() * lost.weight for lost in losses])
    mse, t = (torch.cat([getattr(lost, name) for lost in losses]) for name in ("mse", "t"))
    found: dict[str, tuple[Tensor | float, Tensor | float]] = {
        "Loss": (weighted.sum(), float(len(weighted))),
        "loss/mse": (mse.sum(), float(len(mse))),
    }
    band = (t * BANDS // T).clamp_max(BANDS - 1)
    for k, (low, high) in enumerate(band_ends(T)):
        inside = (band == k).float()
        found[f"loss/t {low}-{high}"] = ((mse * inside).sum(), inside.sum())
    return found


def band_ends(T: int) -> list[tuple[int, int]]:
    """The first and the last step of each quarter of the steps, for which a loss is told."""
    return [(T * k // BANDS, T * (k + 1) // BANDS - 1) for k in range(BANDS)]


def verdict(steps: Sequence[int], losses: Sequence[float]) -> str:
    """How far the logged squared error has come, in a line. 1 is that of predicting eps or v by 0,
    for pictures of mean square 1."""
    if not losses:
        return "no loss has been logged"
    ends = sorted({0, len(losses) - 1})
    said = ", ".join(f"{losses[i]:.4f} at step {steps[i]}" for i in ends)
    return f"squared error {said}; predicting nothing has 1 (of eps)"
