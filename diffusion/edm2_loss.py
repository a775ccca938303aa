"""Loss of EDM2: weighted denoising error under a learned uncertainty of the noise level."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def loss_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2. EDM, equation 8."""
    return (sigma.square() + sigma_data**2) / (sigma * sigma_data).square()


def per_pixel_loss(
    net: nn.Module,
    images: Tensor,
    sigma: Tensor,
    noise: Tensor,
    labels: Tensor | None = None,
    *,
    sigma_data: float,
    dropout_keys: Tensor | None = None,
) -> Tensor:
    """lambda(sigma) / e^u (D(x + sigma noise) - x)^2 + u, unreduced: [N, C, H, W].

    images [N, C, H, W] of standard deviation sigma_data, sigma [N] or [N, 1, 1, 1], noise standard
    normal [N, C, H, W]. u = u(sigma) of `net`. arXiv:2312.02696, equation 17 (the mean over pixels
    and images, of which this is the summand). Errors: ValueError for shapes that do not fit.
    """
    if sigma.numel() != images.shape[0] or noise.shape != images.shape:
        raise ValueError(
            f"sigma {list(sigma.shape)} and noise {list(noise.shape)} do not fit images "
            f"{list(images.shape)}"
        )
    sigma = sigma.reshape(-1, 1, 1, 1)
    keys = {} if dropout_keys is None else {"dropout_keys": dropout_keys}
    denoised, logvar = net(images + noise * sigma, sigma, labels, return_logvar=True, **keys)
    weight = loss_weight(sigma, sigma_data) / logvar.exp()
    return weight * (denoised - images).square() + logvar


class EDM2Loss:
    """Draws noise levels ln(sigma) ~ N(P_mean, P_std^2) and noise, then `per_pixel_loss`."""

    def __init__(self, P_mean: float = -0.4, P_std: float = 1.0, sigma_data: float = 0.5) -> None:
        self.P_mean = P_mean
        self.P_std = P_std
        self.sigma_data = sigma_data

    def sigma(self, z: Tensor) -> Tensor:
        """exp(P_mean + P_std z) for standard normal z."""
        return (self.P_mean + self.P_std * z).exp()

    def __call__(
        self,
        net: nn.Module,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        dropout_keys: Tensor | None = None,
    ) -> Tensor:
        """Per-pixel loss [N, C, H, W]; noise levels are drawn before the noise."""
        n, device = images.shape[0], images.device
        z = torch.randn(n, 1, 1, 1, generator=generator, device=device)
        noise = torch.randn(images.shape, generator=generator, device=device, dtype=images.dtype)
        return per_pixel_loss(
            net,
            images,
            self.sigma(z),
            noise,
            labels,
            sigma_data=self.sigma_data,
            dropout_keys=dropout_keys,
        )


def loss_per_sigma_bin(
    loss_per_sample: Tensor, sigma: Tensor, edges: Tensor
) -> tuple[Tensor, Tensor]:
    """Sums and counts of a loss [N] in K bins of sigma [N]; both fp32 [K] and on the loss' device.

    edges [K - 1], increasing values of sigma: bin 0 lies below the first, bin K - 1 starts at the
    last. Mean of a bin: sum / count, NaN where it is empty. Errors: ValueError.
    """
    if loss_per_sample.numel() != sigma.numel() or edges.ndim != 1:
        raise ValueError(
            f"losses {list(loss_per_sample.shape)}, sigma {list(sigma.shape)} and edges "
            f"{list(edges.shape)} do not fit; give [N], [N], [K - 1]"
        )
    loss = loss_per_sample.detach().flatten().float()
    index = torch.bucketize(sigma.detach().flatten(), edges.to(sigma), right=True)
    both = torch.stack([loss, torch.ones_like(loss)], 1)
    totals = both.new_zeros(edges.numel() + 1, 2).index_add_(0, index, both)
    return totals[:, 0], totals[:, 1]
