"""What train_edm2.py looks at: samples, and the loss by noise level."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from diffusion import EDM2Loss, Precond, frozen_weights
from diffusion.edm2_loss import loss_per_sigma_bin
from diffusion.encoders import Encoder
from diffusion.guidance import bind, guided
from diffusion.samplers import heun
from runtime.counter_rng import mix, normal
from runtime.progress import Watched
from storage.pictures import Captions

SAMPLES = 0x73616D706C65  # "sample", apart from the keys of training noise
SIGMA_EDGES = (-1.5, -0.75, 0.0, 0.75, 1.5)  # in standard deviations of ln(sigma)


@torch.no_grad()
def samples(
    net: Precond,
    guide: Precond | None,
    encoder: Encoder,
    *,
    count: int,
    steps: int,
    weight: float,
    device: torch.device,
    each: Callable[[int, int], object] = lambda done, total: None,
) -> dict[str, Tensor]:
    """Images in [0, 1], [count, C, H, W], from the same noise every time, class by class.

    "samples" of the network alone, and "guided" with `weight` if there is a guide. steps: of Heun.
    each: is given (evaluations done, of how many).
    """
    keys = mix(torch.arange(count, device=device), SAMPLES)
    shape = (net.img_channels, net.img_resolution, net.img_resolution)
    noise = normal(keys, net.img_channels * net.img_resolution**2).view(count, *shape)
    labels = None
    if net.label_dim:
        classes = torch.arange(count, device=device) % net.label_dim
        labels = nn.functional.one_hot(classes, net.label_dim).float()
    ways = {"samples": bind(net, labels)}
    if guide is not None:
        ways["guided"] = guided(bind(net, labels), bind(guide, labels), weight)
    found, watched = {}, Watched(len(ways) * (2 * steps - 1), each)
    for name, denoise in ways.items():
        with frozen_weights(net):
            drawn = heun(watched(denoise), noise, steps=steps)
            found[name] = encoder.decode(drawn).float() / 255
    return found


def captions(count: int, label_dim: int, names: list[str], guidance: float | None) -> Captions:
    """What stands on a sheet of `samples`: classes above; names: of those that have one."""
    title = "samples of the EMA" + (f", guidance {guidance:g}" if guidance is not None else "")
    classes = [k % label_dim for k in range(count)] if label_dim else []
    return Captions(title, each=[names[c] if c < len(names) else f"class {c}" for c in classes])


def noise_levels(loss_fn: EDM2Loss, device: torch.device) -> tuple[Tensor, list[str]]:
    """Sigmas that cut the training distribution into bins, and names of the bins."""
    edges = loss_fn.sigma(torch.tensor(SIGMA_EDGES, device=device))
    ends = [f"{edge:.3g}" for edge in (0.0, *edges.tolist(), float("inf"))]
    return edges, [f"{low}-{high}" for low, high in zip(ends, ends[1:], strict=False)]


def loss_figures(
    loss: Tensor, sigma: Tensor, edges: Tensor, names: list[str]
) -> dict[str, tuple[Tensor | float, Tensor | float]]:
    """Sums and counts of the loss of all rows [n] and by noise level, of `noise_levels`."""
    bins = zip(*loss_per_sigma_bin(loss, sigma, edges), strict=True)
    figures: dict[str, tuple[Tensor | float, Tensor | float]] = {
        f"loss/sigma {name}": pair for name, pair in zip(names, bins, strict=True)
    }
    return figures | {"Loss": (loss.sum(), float(len(loss)))}


def verdict(steps: Sequence[int], losses: Sequence[float]) -> str:
    """How far the logged loss has come, in a line.

    What it says of 1: c_skip (x + sigma n) alone, the preconditioned network with F = 0, has a
    weighted squared error of 1 at every sigma if images have the mean square sigma_data^2 (Karras
    et al. 2022, arXiv:2206.00364, table 1).
    """
    if not losses:
        return "no loss has been logged"
    ends = sorted({0, len(losses) - 1})
    said = ", ".join(f"{losses[i]:.3f} at step {steps[i]}" for i in ends)
    return f"loss {said}; about 1 is that of the noisy image scaled, without a network"
