"""Figures of toy networks: losses, distances to exact samples, mandala; and their pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from diffusion import toy
from diffusion.guidance import guided
from diffusion.samplers import heun
from storage.files import writing
from storage.pictures import new_figure, own_style

TRUTH = "ground truth"  # the title of its panels


def sample(
    denoise: Callable[..., Tensor], start: Tensor, *, steps: int = 32, batch: int = 65536
) -> Tensor:
    """Deterministic Heun samples [N, 2] from points [N, 2] of the mixture at sigma = SIGMA_MAX."""
    parts = start.split(batch)
    return torch.cat([heun(denoise, p / toy.SIGMA_MAX, sigma_max=toy.SIGMA_MAX, steps=steps)
                      for p in parts])  # fmt: skip


def calls_of(samples: int, n: int, *, batch: int = 65536, steps: int = 32) -> int:
    """How often denoisers are asked for `samples` times n points by `sample`."""
    return samples * -(-n // batch) * (2 * steps - 1)


@torch.no_grad()
def examine(
    tree: toy.Mixture,
    nets: Mapping[str, toy.ToyModel],
    guide: toy.ToyModel | None,
    n: int,
    *,
    word: str,
    batch: int = 1024,
    weight: float = 3.0,
    external: bool = False,
    mandala: bool = False,
    generator: torch.Generator | None = None,
    watch: Callable[[Callable[..., Tensor]], Callable[..., Tensor]] = lambda denoise: denoise,
) -> dict[str, float]:
    """Figures of `nets` (by name, as "Learner", "EMA") over n samples, under the log's names.

    Always: loss (at training's noise levels) of nets and guide, and mean distance of a net's
    samples to those of the exact score from the same noise ("L2 Distance"). With a guide also that
    of samples guided with `weight`. external: the same on the deep branches ("Outer").
    mandala: also the share of cells and of samples inside (`toy.mandala`), guided ones' too.
    word: "Validation" or "Test". batch: points at once. generator: on the mixture's device. watch:
    gives the denoiser that is used for each, which may count its calls (`calls_of`).
    """
    found: dict[str, float] = {}
    parts = [("", tree)] + ([("Outer ", toy.outer(tree))] if external else [])
    for region, mixture in parts:
        device = mixture.phi.device
        sigma = toy.sigmas(n, generator=generator, device=device)
        x = mixture.sample(n, sigma, generator=generator)
        start = mixture.sample(n, toy.SIGMA_MAX, generator=generator)
        target = mixture.score(x, sigma)
        exact = sample(watch(mixture.denoise), start, batch=batch)
        judged = dict(nets) | ({} if guide is None else {"Guide": guide})
        for name, net in judged.items():
            scores = [net.score(a, s) for a, s in zip(x.split(batch), sigma.split(batch))]  # noqa: B905
            loss = toy.loss(torch.cat(scores), target, sigma).mean()
            found[f"Average {region}{word} {name} Loss"] = float(loss)
        for name, net in nets.items():
            ways = [("", net.denoise)]
            if guide is not None:
                ways.append(("Guided ", guided(net.denoise, guide.denoise, weight)))
            for way, denoise in ways:
                y = sample(watch(denoise), start, batch=batch)
                key = f"Average {region}{word} {way}{name} L2 Distance"
                found[key] = float(toy.distance(y, exact))
                if mandala and not region:
                    cells, hits = toy.mandala(y, tree.logp(y))
                    found[f"{word} {way}{name} Mandala Score"] = float(cells)
                    found[f"{word} {way}{name} Classification Score"] = float(hits)
    return found


@own_style()
@torch.no_grad()
def panels(
    tree: toy.Mixture,
    nets: Sequence[tuple[str, Callable[..., Tensor]]],
    path: str | Path,
    *,
    n: int = 4096,
    generator: torch.Generator | None = None,
    note: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Draw panels into a PNG: samples above, their mandala below. note: for its metadata.

    The first column is the ground truth, then comes one for each of `nets`, (title, denoiser). All
    samples start from the same noise. Green cells have a sample inside the tree, red ones only
    others. Returns the share of samples in the tree, in [0, 1], by title.
    """

    device = tree.phi.device
    truth = tree.sample(n, generator=generator)
    start = tree.sample(n, toy.SIGMA_MAX, generator=generator)
    columns = [(TRUTH, truth), *((title, sample(f, start)) for title, f in nets)]

    side, points = 3.0, 201
    axis = torch.linspace(-side / 2, side / 2, points, device=device)
    grid = torch.cartesian_prod(axis + toy.ORIGIN[0], axis + toy.ORIGIN[1])
    level = tree.logp(grid).unflatten(0, (points, points)).T.cpu().numpy()
    xs, ys = (axis.cpu().numpy() + o for o in toy.ORIGIN)
    box = (xs[0], xs[-1], ys[0], ys[-1])

    found: dict[str, float] = {}
    figure = new_figure(len(columns) * 3.2, 2 * 3.3)
    from matplotlib.colors import ListedColormap

    colors = ListedColormap(["white", "#d9534f", "#2f8f4e"])
    figure.suptitle(
        "Above samples, below the cells that they lie in:\ngreen with a sample in the tree, red "
        "with none there",
        fontsize=10,
    )
    ncol = len(columns)
    for k, (title, x) in enumerate(columns):
        above, below = (figure.add_subplot(2, ncol, row * ncol + k + 1) for row in range(2))
        for ax in (above, below):
            ax.set(xlim=box[:2], ylim=box[2:], xticks=[], yticks=[], aspect="equal")
            ax.contour(xs, ys, level, levels=[toy.LEVEL], colors="0.6", linewidths=0.6,
                       linestyles="solid")  # fmt: skip
        above.set_title(title, fontsize=10)
        logp = tree.logp(x)
        hits, seen, _ = toy.mandala_cells(x, logp)
        cells, hit = toy.mandala(x, logp)
        points_ = x.cpu().numpy()
        above.scatter(points_[:, 0], points_[:, 1], s=0.7, linewidths=0, color="C0")
        value = (seen.int() + hits.int()).T.cpu().numpy()
        half = side / 200
        extent = (box[0] - half, box[1] + half, box[2] - half, box[3] + half)
        below.imshow(value, origin="lower", extent=extent, cmap=colors, vmin=0, vmax=2)
        below.set_title(
            f"in the tree: samples {100 * hit:.1f} %, cells {100 * cells:.1f} %", fontsize=9
        )
        found[title] = float(hit)
    with writing(Path(path)) as file:
        figure.savefig(file, format="png", dpi=110, metadata=dict(note or {}))
    return found
