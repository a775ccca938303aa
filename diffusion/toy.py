"""The 2-D tree: a density whose score is known, a network small enough for seconds, and metrics.

The density and the network are those of the toy example of autoguidance (Karras et al. 2024,
arXiv:2406.02507, section 3 and appendix C): a fractal tree of Gaussians, two classes, smoothed by
noise of level sigma. Everything here works on CPU and GPU, row by row, without loops over samples.

`Mixture.logp_and_score` has two paths. float64 points take a plain sum over components; it is the
oracle. float32 points take one that knows that a branch is a row of components with one covariance
and evenly spaced means: per branch the exponent is a quadratic in the position along the branch, so
a component costs an exponential and four additions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from diffusion.mp import SILU_MAGNITUDE, mp_silu, normalize
from storage.arguments import Between

SIGMA_MAX = 5.0  # the noise that sampling of the tree starts from
LEVEL = -2.12  # log-density at the rim of the tree: 99 % of its samples have more
ORIGIN = (0.0030, 0.0325)  # the root
LUT_SIZE = 65536
_BRANCH = 8  # components along a branch
_LOG_2PI = math.log(2 * math.pi)

# -------------------------------------------------------------------------------------- density


class Mixture(nn.Module):
    """A Gaussian mixture in the plane.

    phi [M] weights (normalised here), mu [M, 2], Sigma [M, 2, 2], depth [M] int64.
    branch: number of consecutive components that share weight and covariance and whose means are
    evenly spaced around their centre; 1 = nothing is known, and float32 is computed in float64.
    Errors: ValueError for shapes that do not fit and weights that are not positive.
    """

    phi: Tensor
    mu: Tensor
    Sigma: Tensor
    depth: Tensor
    lut: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor
    _weights: Tensor
    _values: Tensor
    _vectors: Tensor
    # Of branches [G, 1]: centre, direction, variances, step along both axes, log weight
    _centre_x: Tensor
    _centre_y: Tensor
    _q_x: Tensor
    _q_y: Tensor
    _var_1: Tensor
    _var_2: Tensor
    _step_1: Tensor
    _step_2: Tensor
    _log_phi: Tensor

    def __init__(
        self, phi: Tensor, mu: Tensor, Sigma: Tensor, depth: Tensor, *, branch: int = 1
    ) -> None:
        super().__init__()
        m = len(phi)
        if phi.shape != (m,) or mu.shape != (m, 2) or Sigma.shape != (m, 2, 2) or m == 0:
            raise ValueError(
                f"mixture of phi {tuple(phi.shape)}, mu {tuple(mu.shape)}, Sigma "
                f"{tuple(Sigma.shape)}: wanted [M], [M, 2], [M, 2, 2]"
            )
        if not bool((phi > 0).all()) or m % branch:
            raise ValueError(f"mixture: weights must be positive and {m} a multiple of {branch}")
        self.branch = branch
        keep = self.register_buffer
        weights = phi.double() / phi.double().sum()
        keep("_weights", weights, persistent=False)
        keep("phi", weights.float())
        keep("mu", mu.float())
        keep("Sigma", Sigma.float())
        keep("depth", depth)
        # The table of the reference: a component owns the entries between rounded cumulative
        # weights, which makes the sampled weights multiples of 1 / 65536.
        ends = (
            torch.cumsum(torch.cat([self.phi.new_zeros(1), self.phi]), 0) * LUT_SIZE + 0.5
        ).long()
        lut = torch.repeat_interleave(torch.arange(m, device=phi.device), ends.diff())
        keep("lut", lut)
        values, vectors = torch.linalg.eigh(self.Sigma)
        keep("eigenvalues", values.clamp_min(0))
        keep("eigenvectors", vectors)
        values, vectors = torch.linalg.eigh(self.Sigma.double())
        keep("_values", values.clamp_min(0), persistent=False)
        keep("_vectors", vectors, persistent=False)
        self._prepare_branches()

    def _prepare_branches(self) -> None:
        """Per branch, rotated into the eigenbasis of its covariance (float64, kept in float32)."""
        k = self.branch
        if k == 1:
            return
        mu = self.mu.double().unflatten(0, (-1, k))
        values, vectors = torch.linalg.eigh(self.Sigma.double().unflatten(0, (-1, k)).mean(1))
        tau = torch.linspace(-1, 1, k, dtype=torch.float64, device=mu.device)
        centre = mu.mean(1)
        # Least squares for mu_k = centre + tau_k step
        step = torch.einsum("k,gkc->gc", tau, mu - centre[:, None]) / tau.square().sum()
        fit = centre[:, None] + tau[:, None] * step[:, None]
        if (fit - mu).abs().max() > 1e-6:
            raise ValueError(f"mixture: the means of {k} consecutive components are not in a row")
        # The second axis is the first eigenvector turned by a right angle.
        q_x, q_y = vectors[:, 0, 0], vectors[:, 1, 0]
        phi = self.phi.double().unflatten(0, (-1, k)).mean(1)
        columns = {
            "centre_x": centre[:, 0],
            "centre_y": centre[:, 1],
            "q_x": q_x,
            "q_y": q_y,
            "var_1": values[:, 0].clamp_min(0),
            "var_2": values[:, 1].clamp_min(0),
            "step_1": q_x * step[:, 0] + q_y * step[:, 1],
            "step_2": q_x * step[:, 1] - q_y * step[:, 0],
            "log_phi": phi.log() - _LOG_2PI,
        }
        for name, column in columns.items():
            self.register_buffer(f"_{name}", column.float()[:, None], persistent=False)
        self._tau = tau.tolist()

    def logp(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """log density at x [N, 2] of the mixture smoothed by noise sigma (number, [] or [N])."""
        return self.logp_and_score(x, sigma)[0]

    def score(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """Gradient of `logp` with respect to x, [N, 2]."""
        return self.logp_and_score(x, sigma)[1]

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """E[clean | x] = x + sigma^2 score (Tweedie), the exact denoiser; sigma as for `logp`."""
        s2 = _rows(sigma, x).square()
        return x + s2[..., None] * self.score(x, sigma)

    @torch.no_grad()
    def logp_and_score(self, x: Tensor, sigma: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        """(log density [N], score [N, 2]) at x [N, 2]; never -inf or NaN where x is finite.

        sigma: number, [] or [N]. In chunks of points that keep the work inside the cache.
        """
        sigma = _rows(sigma, x)
        fast = x.dtype == torch.float32 and self.branch > 1
        part = self._fast if fast else self._exact
        if x.device.type == "cpu":
            width = len(self.phi) // self.branch if fast else len(self.phi)
            chunk = max(16, (2**15 if fast else 2**16) // width)
        else:
            chunk = 2**14
        logp, score = x.new_empty(len(x)), torch.empty_like(x)
        for i in range(0, len(x), chunk):
            rows = slice(i, i + chunk)
            part(x[rows], sigma[rows] if sigma.ndim else sigma, logp[rows], score[rows])
        return logp, score

    def _exact(self, x: Tensor, sigma: Tensor, logp: Tensor, score: Tensor) -> None:
        """Sum over all components in float64, log-sum-exp."""
        x = x.double()
        variance = self._values + sigma.double().square()[..., None, None]  # [n or -, M, 2]
        q = self._vectors
        d = x[:, None] - self.mu.double()
        u1 = d[..., 0] * q[:, 0, 0] + d[..., 1] * q[:, 1, 0]
        u2 = d[..., 0] * q[:, 0, 1] + d[..., 1] * q[:, 1, 1]
        v1, v2 = variance.unbind(-1)
        t1, t2 = u1 / v1, u2 / v2
        logits = self.phi.double().log() - _LOG_2PI - 0.5 * ((v1 * v2).log() + u1 * t1 + u2 * t2)
        total = torch.logsumexp(logits, 1)
        r = (logits - total[:, None]).exp_()
        logp.copy_(total)
        t1, t2 = t1.mul_(r), t2.mul_(r)
        score[:, 0] = -(t1 @ q[:, 0, 0] + t2 @ q[:, 0, 1])
        score[:, 1] = -(t1 @ q[:, 1, 0] + t2 @ q[:, 1, 1])

    def _fast(self, x: Tensor, sigma: Tensor, logp: Tensor, score: Tensor) -> None:
        """By branches, float32; arrays are [branches, points].

        Component k of a branch has the exponent B + tau_k beta - tau_k^2 gamma / 2, and both sums
        over it, S0 of the weights and S1 of tau times the weights, give the score of the branch.
        """
        s2 = sigma.square()
        a1, a2 = self._var_1 + s2, self._var_2 + s2
        base = torch.mul(a1, a2).log_().mul_(-0.5).add_(self._log_phi)
        a1, a2 = a1.reciprocal_(), a2.reciprocal_()
        dx, dy = x[:, 0] - self._centre_x, x[:, 1] - self._centre_y
        u1 = (dx * self._q_x).addcmul_(dy, self._q_y)
        u2 = dy.mul_(self._q_x).addcmul_(dx, self._q_y, value=-1)
        t1, t2 = a1 * u1, a2 * u2
        b = torch.addcmul(base, u1, t1, value=-0.5).addcmul_(u2, t2, value=-0.5)
        beta = (t1 * self._step_1).addcmul_(t2, self._step_2)
        a1.mul_(self._step_1), a2.mul_(self._step_2)
        gamma = (a1 * self._step_1).addcmul_(a2, self._step_2)
        # The exponent's maximum over tau in [-1, 1] bounds the components of a branch from above,
        # and from below to within half a spacing: as good a shift as their true maximum.
        peak = (beta / gamma).clamp_(-1, 1)
        top = (beta - (0.5 * peak).mul_(gamma)).mul_(peak).add_(b).amax(0)
        b.sub_(top)

        def component(tau: float) -> Tensor:
            e = torch.add(beta, gamma, alpha=-0.5 * tau)
            # Clamped, because denormal numbers are slow: e^-80 counts as little as nothing.
            return torch.add(b, e, alpha=tau, out=e).clamp_(min=-80).exp_()

        first, *others = self._tau
        s0 = component(first)
        s1 = first * s0
        for tau in others:
            e = component(tau)
            s1.add_(e, alpha=tau)
            s0.add_(e)
        total = s0.sum(0)
        torch.add(top, total.log(), out=logp)
        t1 = (s1 * a1).addcmul_(t1, s0, value=-1)
        t2 = s1.mul_(a2).addcmul_(t2, s0, value=-1)
        q_x, q_y = self._q_x.T, self._q_y.T
        score[:, 0] = (q_x @ t1 - q_y @ t2)[0] / total
        score[:, 1] = (q_y @ t1 + q_x @ t2)[0] / total

    def sample(
        self,
        n: int,
        sigma: Tensor | float = 0.0,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """n points [n, 2] of the mixture smoothed by sigma (number, [] or [n]).

        Random numbers as the reference draws them: n integers for the table, then 2 n normals.
        """
        device = self.phi.device
        pick = torch.randint(len(self.lut), (n,), generator=generator, device=device)
        z = torch.randn(n, 2, generator=generator, device=device)
        pick = self.lut[pick]
        q = self.eigenvectors[pick]
        deviation = (self.eigenvalues[pick] + _rows(sigma, z).square()[..., None]).sqrt()
        u = (q * z[:, :, None]).sum(1) * deviation  # Q^T z, stretched
        return self.mu[pick] + (q * u[:, None]).sum(2)


def _rows(sigma: Tensor | float, x: Tensor) -> Tensor:
    """sigma as a tensor [] or [N] beside x [N, 2]. Errors: ValueError."""
    sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
    if sigma.ndim > 1 or (sigma.ndim == 1 and len(sigma) != len(x)):
        raise ValueError(f"sigma {tuple(sigma.shape)} is neither one number nor one a point")
    return sigma


def tree(
    classes: str = "A",
    *,
    seed: int = 2,
    origin: tuple[float, float] = ORIGIN,
    scale: tuple[float, float] = (1.3136, 1.3844),
    depth: int = 7,
) -> Mixture:
    """The tree's mixture, float32 on the CPU: 8 * (2^depth - 1) components a class.

    classes: "A", "B" or "AB". B grows the other way and takes its random numbers after A.
    Errors: ValueError for another name.
    """
    if classes not in ("A", "B", "AB"):
        raise ValueError(f"classes {classes!r}: the tree has A, B and AB")
    rng = np.random.RandomState(seed)
    along = np.linspace(0.07, 0.93, _BRANCH)
    weights, means, covariances, depths, owners = [], [], [], [], []

    def grow(owner: str, start: np.ndarray, angle: float, d: int) -> None:
        if d == depth:
            return
        length = 0.292 * 0.8**d * (1 + 0.2 * rng.randn())
        thick = 0.2 * 0.8**d / length
        direction = np.array([np.cos(angle), np.sin(angle)])
        size = np.array(scale) * length * 0.06
        line = np.outer(direction, direction)
        covariance = (line + (np.eye(2) - line) * thick**2) * np.outer(size, size)
        for t in along:
            weights.append(length * 0.5**d)
            means.append((start + direction * length * t) * scale)
            covariances.append(covariance)
            depths.append(d)
            owners.append(owner)
        for sign in (1, -1):  # a leaf draws the angles of its children too
            turn = sign * 0.7**d * (1 + 0.2 * rng.randn())
            grow(owner, start + direction * length, angle + turn, d + 1)

    for owner, angle in (("A", math.pi / 4), ("B", 5 * math.pi / 4)):
        grow(owner, np.array(origin), angle, 0)
    keep = np.array([owner in classes for owner in owners])
    phi = np.array(weights)[keep]
    return Mixture(
        torch.tensor(phi),
        torch.tensor(np.array(means)[keep]),
        torch.tensor(np.array(covariances)[keep]),
        torch.tensor(np.array(depths)[keep]),
        branch=_BRANCH,
    )


def outer(mixture: Mixture, depth: int = 5) -> Mixture:
    """The part of a tree at `depth` and beyond: what a model finds hardest."""
    keep = mixture.depth >= depth
    return Mixture(
        mixture._weights[keep],
        mixture.mu[keep],
        mixture.Sigma[keep],
        mixture.depth[keep],
        branch=mixture.branch,
    )


# -------------------------------------------------------------------------------------- network


class MPLinear(nn.Module):
    """Bias-free linear layer [out, in] whose rows count by direction only (EDM2, section 2.3)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features))

    def effective(self) -> Tensor:
        """The matrix in use: unit rows over sqrt(fan-in), differentiable (traditional WN)."""
        return normalize(self.weight) / math.sqrt(self.weight.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.effective().T


class MPSiLU(nn.Module):
    """silu(x) / 0.596: variance 1 stays 1."""

    def forward(self, x: Tensor) -> Tensor:
        return mp_silu(x)


class ToyModel(nn.Module):
    """An energy model of the noisy density: logp(x, sigma) up to a constant, score = its gradient.

    in_dim must be 2. Forced weight normalisation inside forward in training mode is the reference's
    behaviour; loops that evaluate the network more than once a step set `forced_weight_norm` to
    False and call `normalize_weights` once a step, which trains exactly the same.
    Errors: ValueError for sizes below one.
    """

    def __init__(
        self,
        in_dim: Annotated[int, Between(1, 1024)] = 2,
        num_layers: Annotated[int, Between(0, 1024)] = 4,
        hidden_dim: Annotated[int, Between(1, 1 << 16)] = 64,
        sigma_data: Annotated[float, Between(1e-6, 1e6)] = 0.5,
    ) -> None:
        super().__init__()
        if in_dim != 2 or num_layers < 1 or hidden_dim < 1 or not sigma_data > 0:
            raise ValueError(
                f"ToyModel(in_dim={in_dim}, num_layers={num_layers}, hidden_dim={hidden_dim}, "
                f"sigma_data={sigma_data}): two inputs, the rest positive"
            )
        self.config = {
            "in_dim": in_dim,
            "num_layers": num_layers,
            "hidden_dim": hidden_dim,
            "sigma_data": sigma_data,
        }
        self.sigma_data = sigma_data
        self.forced_weight_norm = True
        layers: list[nn.Module] = [MPLinear(in_dim + 2, hidden_dim)]
        for _ in range(num_layers):
            layers += [MPSiLU(), MPLinear(hidden_dim, hidden_dim)]
        self.layers = nn.Sequential(*layers)
        self.gain = nn.Parameter(torch.zeros([]))

    def linears(self) -> list[MPLinear]:
        return [layer for layer in self.layers if isinstance(layer, MPLinear)]

    @torch.no_grad()
    def normalize_weights(self) -> None:
        """Forced weight normalisation (EDM2, section 2.3): rows of all weights to unit RMS."""
        for layer in self.linears():
            layer.weight.copy_(normalize(layer.weight))

    def _normalize_if_training(self) -> None:
        if self.training and self.forced_weight_norm:
            self.normalize_weights()

    def logp(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Unnormalised log density [N] at x [N, 2], by autograd's own operations."""
        self._normalize_if_training()
        sigma = _rows(sigma, x).expand(len(x))
        features, scaled, _ = _inputs(x, sigma, self.sigma_data)
        y = self.layers(features)
        return y.square().mean(1) * self.gain / sigma - 0.5 * scaled.square().sum(1)

    def score(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Gradient of `logp` with respect to x, [N, 2]; differentiable in the weights, not in x.

        Written out by hand (`_Score`), so that training needs one backward pass and no graph of a
        gradient. Equal to autograd's.
        """
        self._normalize_if_training()
        sigma = _rows(sigma, x).expand(len(x))
        weights = [layer.effective() for layer in self.linears()]
        return _Score.apply(x, sigma, self.sigma_data, self.gain, *weights)

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """`score`."""
        return self.score(x, sigma)

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """D = x + sigma^2 score: what samplers take."""
        return x + _rows(sigma, x).square()[..., None] * self.score(x, sigma)


_CHUNK = 512  # rows whose activations stay in the cache


def _inputs(x: Tensor, sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor]:
    """(network input [N, 4], scaled x [N, 2], its factor [N, 1])."""
    factor = (sigma_data**2 + sigma.square()).rsqrt()[:, None]
    scaled = x * factor
    features = torch.cat([scaled, sigma.log()[:, None] / 4, torch.ones_like(factor)], 1)
    return features, scaled, factor


class _Score(torch.autograd.Function):
    """g(x) = d logp / dx and, for a cotangent v of g, the derivative of v . g in the weights.

    Notation: a_l = W_l h_{l-1}, h_l = phi(a_l), y = a_L, f = c |y|^2,
    c = gain / (hidden sigma).
    First order: e_L = 2 c y, d_{l-1} = e_l W_l, e_{l-1} = d_{l-1} phi'(a_{l-1}); g = d_input.
    Second order: v . g is the derivative of f along v, so with tangents (dots) along v, whose
    adjoints are the e_l and d_l already there, one more reverse pass gives
        dW_l = e_l^T hdot_{l-1} + abar_l^T h_{l-1},   abar_L = 2 c ydot,
        abar_{l-1} = (abar_l W_l) phi'(a_{l-1}) + d_{l-1} phi''(a_{l-1}) adot_{l-1}.
    Three passes forward and three of reverse cost in all, the least there is.
    """

    @staticmethod
    def forward(ctx, x, sigma, sigma_data, gain, *weights):
        keep = any(ctx.needs_input_grad[3:])
        g = torch.empty_like(x)
        saved = []
        for i in range(0, len(x), _CHUNK):
            rows = slice(i, i + _CHUNK)
            s = sigma[rows]
            h, scaled, factor = _inputs(x[rows], s, sigma_data)
            hs, first, second = [h], [], []
            for w in weights[:-1]:
                a = h @ w.T
                p = torch.sigmoid(a)
                h = a * p
                rest = 1 - p
                slope = torch.addcmul(p, h, rest)  # silu' = p + silu (1 - p)
                if keep:
                    # silu'' = p (1 - p) (2 + a (1 - 2 p)) = (1 - p) (2 p + silu (1 - 2 p))
                    bend = (1 - 2 * p).mul_(h).add_(p, alpha=2).mul_(rest)
                    second.append(bend.mul_(1 / SILU_MAGNITUDE))
                first.append(slope.mul_(1 / SILU_MAGNITUDE))
                h = h.mul_(1 / SILU_MAGNITUDE)
                hs.append(h)
            y = h @ weights[-1].T
            c = (2 / (y.shape[1] * s))[:, None]  # 2 c of the notation, without the gain
            e = y * (c * gain)
            es, ds = [e], []
            for w, slope in zip(weights[:0:-1], first[::-1], strict=True):
                d = e @ w
                e = d * slope
                ds.append(d)
                es.append(e)
            w = weights[0][:, :2]
            torch.mul(factor, e @ w - scaled, out=g[rows])
            if keep:
                saved.append((hs, first, second, y, c, es[::-1], ds[::-1], factor))
        ctx.chunks, ctx.parameters = saved, (gain, weights)
        return g

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, v):
        gain, weights = ctx.parameters
        d_gain = torch.zeros_like(gain)
        d_weights = [torch.zeros_like(w) for w in weights]
        start = 0
        for hs, first, second, y, c, es, ds, factor in ctx.chunks:
            rows = slice(start, start + len(y))
            start += len(y)
            tangent = v[rows] * factor
            dot = tangent @ weights[0][:, :2].T
            dots, bends = [], []
            for w, slope, bend, d in zip(weights[1:], first, second, ds, strict=True):
                bends.append(bend * dot * d)
                dot = dot * slope
                dots.append(dot)
                dot = dot @ w.T
            dot = dot * c
            d_gain += (dot * y).sum()
            bar = dot * gain
            for k in range(len(weights) - 1, 0, -1):
                d_weights[k].addmm_(es[k].T, dots[k - 1]).addmm_(bar.T, hs[k])
                bar = torch.addcmul(bends[k - 1], bar @ weights[k], first[k - 1])
            d_weights[0].addmm_(bar.T, hs[0])
            d_weights[0][:, :2] += es[0].T @ tangent
        return None, None, None, d_gain, *d_weights


def loss(score: Tensor, target: Tensor, sigma: Tensor) -> Tensor:
    """sigma^2 times the mean over both dimensions of the squared error of the score, [N]."""
    return sigma.square() * (score - target).square().mean(1)


def extrapolate(score: Tensor, guide: Tensor, weight: float) -> Tensor:
    """Guidance: guide + weight (score - guide); weight 1 is none, 3 the toy's."""
    return guide.lerp(score, weight)


def lr(step: float, *, ref_lr: float = 1e-2, ref_steps: float = 512) -> float:
    """ref_lr / sqrt(max(step / ref_steps, 1)) for the 0-based step."""
    return ref_lr / math.sqrt(max(step / ref_steps, 1))


def sigmas(
    n: int,
    *,
    P_mean: float = -2.3,
    P_std: float = 1.5,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """n noise levels, log-normal."""
    z = torch.randn(n, generator=generator, device=device)
    return (z * P_std + P_mean).exp()


# -------------------------------------------------------------------------------------- metrics

Denoise = Callable[[Tensor, Tensor], Tensor]


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean Euclidean distance of paired points [N, 2]: the L2 of the logs, a 0-d tensor."""
    return (a - b).norm(dim=1).mean()


def mandala_cells(
    samples: Tensor, logp: Tensor, *, level: float = LEVEL, points: int = 101, side: float = 3.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Which cells around the tree have a hit, which any sample; which samples are hits.

    samples [N, 2]; logp [N]: their log density without noise; a hit has at least `level` and lies
    in the square of `side` around the tree's origin, whose points x points nodes have a cell each.
    Returns bool [points, points] twice (x first) and bool [N]. Errors: ValueError without samples.
    """
    if len(samples) == 0 or logp.shape != samples.shape[:1]:
        raise ValueError(f"mandala of samples {tuple(samples.shape)}, logp {tuple(logp.shape)}")
    centre = torch.tensor(ORIGIN, dtype=torch.float64, device=samples.device)
    spacing = side / (points - 1)
    cell = ((samples.double() - centre + side / 2) / spacing + 0.5).floor()
    inside = ((cell >= 0) & (cell < points)).all(1)
    hit = (logp >= level) & inside
    # The entry after the last cell takes the samples outside.
    outside = points * points
    where = torch.where(inside, (cell[:, 0] * points + cell[:, 1]).nan_to_num(), outside).long()
    cells = torch.zeros(2, outside + 1, dtype=torch.bool, device=samples.device)
    cells[0, torch.where(hit, where, outside)] = True
    cells[1, where] = True
    hits, seen = cells[:, :-1].unflatten(1, (points, points))
    return hits, seen, hit


def mandala(samples: Tensor, logp: Tensor, *, level: float = LEVEL) -> tuple[Tensor, Tensor]:
    """Two accuracies of samples, 0-d float64 tensors in [0, 1]: by cells, by samples.

    Cells with a hit over cells with any sample (logged as "Mandala Score"); hits over all samples
    ("Classification Score").
    Arguments, errors: `mandala_cells`.
    """
    hits, seen, hit = mandala_cells(samples, logp, level=level)
    return hits.sum().double() / seen.sum().clamp_min(1), hit.double().mean()
