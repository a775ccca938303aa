"""Checks of the 2-D tree's golden vectors (file `toy*` of `edm2`).

Tolerances are those of the vectors' README. Which nets, sizes and noise levels there are comes from
the file.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from diffusion import toy
from diffusion.guidance import guided
from diffusion.samplers import heun
from tests.golden.support import Check, Vectors, assert_close

WEIGHT = 3.0
STEPS, GUIDED_STEPS = 32, 20
REL = 1e-5  # of a net's outputs, relative to the largest
# 1e-9, and what float64 itself resolves far from the tree, where logp is -1e5
LOGP64 = dict(atol=1e-9, rtol=1e-13)
SCORE32 = dict(atol=1e-3, rtol=1e-3)


def close_rel(actual: Tensor, expected: Tensor, what: str, rel: float) -> None:
    """max |a - b| <= rel max |b|."""
    scale = expected.abs().max().item()
    assert_close(actual, expected, what, atol=rel * scale, rtol=0)


def check_toy(v: Vectors) -> None:
    trees = check_trees(v)
    tree = trees["A"]
    check_density(v, tree)
    check_samples(v, tree)
    check_exact_sampling(v, tree)
    check_nets(v, tree)
    check_metrics(v, tree)


def check_trees(v: Vectors) -> dict[str, toy.Mixture]:
    found = {}
    for classes in ("A", "B", "AB"):
        tree = found[classes] = toy.tree(classes)
        for name in ("phi", "mu", "Sigma"):
            assert_close(getattr(tree, name), v[f"{classes}_{name}"], name, atol=1e-6, rtol=0)
        assert torch.equal(tree.depth, v[f"{classes}_depth"])
    return found


def check_density(v: Vectors, tree: toy.Mixture) -> None:
    x = v["pts"]
    levels = [key[len("logp_s") :] for key in v.keys("logp_s*")]
    assert levels, f"{v.name}: no logp_s*"
    cases = [(torch.tensor(float(name)), f"s{name}") for name in levels]
    for sigma, name in [*cases, (v["sigma_vec"], "vec")]:
        logp, score = v[f"logp_{name}"], v[f"score_{name}"]
        ours = tree.logp_and_score(x.double(), sigma)
        assert_close(ours[0], logp, f"logp_{name}", **LOGP64)
        assert_close(ours[1], score, f"score_{name}", atol=1e-9, rtol=1e-9)
        ours = tree.logp_and_score(x, sigma)
        assert all(t.isfinite().all() for t in ours), f"{name}: not finite in float32"
        near = logp.abs() < 1e3
        assert_close(ours[0][near], logp[near].float(), f"logp_{name}, fp32", atol=1e-3, rtol=0)
        assert_close(ours[1][near], score[near].float(), f"score_{name}, fp32", **SCORE32)
        if f"src32_logp_{name}" in v:  # where the reference did not underflow, it says the same
            theirs, theirs_score = v[f"src32_logp_{name}"], v[f"src32_score_{name}"]
            fine = (theirs > -50) & theirs_score.isfinite().all(1)
            assert fine.any()
            assert_close(ours[0][fine], theirs[fine], f"src32_logp_{name}", atol=1e-2, rtol=0)
            assert_close(
                ours[1][fine], theirs_score[fine], f"src32_score_{name}", atol=1e-2, rtol=1e-2
            )
    outer = toy.outer(tree)
    assert len(outer.phi) == v.number("outer_n")
    assert_close(outer.logp(x.double()), v["outer_logp"], "outer_logp", **LOGP64)


def check_samples(v: Vectors, tree: toy.Mixture) -> None:
    n = 20000
    x = tree.sample(n, generator=torch.Generator().manual_seed(v.number("sample_seed")))
    first, mean, cov = v["sample_first"], v["sample_mean"], v["sample_cov"]
    assert_close(x[: len(first)], first, "sample_first", atol=1e-5, rtol=0)
    error = 4 * x.std(0) / math.sqrt(n)
    assert ((x.mean(0) - mean).abs() < error).all()
    assert_close(x.T.cov(), cov, "sample_cov", atol=4 * 0.12 * math.sqrt(2 / n), rtol=0)
    inside = (tree.logp(x) >= toy.LEVEL).double().mean()
    assert_close(inside.float(), v["in_fractal_frac"], "in_fractal_frac", atol=2e-3, rtol=0)


def check_exact_sampling(v: Vectors, tree: toy.Mixture) -> None:
    start, mid, last = v["gt_x_init"], v["gt_traj_mid"], v["gt_traj_last"]
    states = sampled(tree.denoise, start, STEPS, trajectory=True)
    assert_close(states[STEPS // 2], mid, "gt_traj_mid", atol=1e-3, rtol=0)
    assert_close(states[-1], last, "gt_traj_last", atol=1e-3, rtol=0)


def sampled(denoise, start: Tensor, steps: int, **options) -> Tensor:
    return heun(denoise, start / toy.SIGMA_MAX, steps=steps, sigma_max=toy.SIGMA_MAX, **options)


def net_of(config: dict, state: dict[str, Tensor]) -> toy.ToyModel:
    net = toy.ToyModel(**config)
    net.load_state_dict(state)
    return net.eval()


def before_step(state: dict[str, Tensor], grad: dict[str, Tensor], lr: float) -> dict[str, Tensor]:
    """Weights before the training step, whose first Adam step changed them by lr g / (|g| + eps).

    The vectors' `tm/*` are the weights after it (the step was done in place), its outputs are of
    those before. Forced normalisation w -> w / (eps + r) came first; a row of RMS q then had RMS
    r = eps q / (1 - q), which gives w back.
    """
    out = {}
    for name, after in state.items():
        g = grad[name].double()
        w = after.double() + lr * g / (g.abs() + 1e-8)
        if w.ndim:
            q = w.square().mean(1, keepdim=True).sqrt()
            w = w * (1e-4 / (1 - q))
        out[name] = w.float()
    return out


def check_nets(v: Vectors, tree: toy.Mixture) -> None:
    config, state = v.json("tm_cfg"), v.tree("tm")
    grad, after = v.tree("train_grad"), v.tree("train_after")
    lr = v.number("train_lr")
    assert_close(toy.lr(v.number("train_iter")), lr, "train_lr", atol=0, rtol=1e-12)
    if all(torch.equal(state[k], after[k]) for k in state):
        state = before_step(state, grad, lr)
    net = net_of(config, state)
    guide = net_of(v.json("tg_cfg"), v.tree("tg"))
    x, sigma = v["tm_x"], v["tm_sigma"]
    target = tree.score(x, sigma)
    with torch.no_grad():
        score, other = net.score(x, sigma), guide.score(x, sigma)
        close_rel(net.logp(x, sigma), v["tm_logp"], "tm_logp", REL)
        close_rel(score, v["tm_score"], "tm_score", REL)
        close_rel(other, v["tg_score"], "tg_score", REL)
        close_rel(toy.loss(score, target, sigma), v["tm_loss"], "tm_loss", 10 * REL)
        steered = toy.extrapolate(score, other, WEIGHT)
        close_rel(steered, v["tm_interp_score_w3"], "tm_interp_score_w3", REL)
    expected = v["tm_traj_last"]
    start = v["gt_x_init"][: len(expected)]
    with torch.no_grad():
        ours = sampled(net.denoise, start, STEPS)
        assert_close(ours, expected, "tm_traj_last", atol=1e-3, rtol=0)
        ours = sampled(guided(net.denoise, guide.denoise, WEIGHT), start, GUIDED_STEPS)
        far = v["tm_traj_last_guid3"]
        # Guided by this net samples run off to 1e8, so 1e-3 is of their norm, where that is > 1.
        error = (ours - far).norm(dim=1) / far.norm(dim=1).clamp_min(1)
        assert error.median() < 1e-5 and error.max() < 5e-3, f"tm_traj_last_guid3: {error}"

    for autograd in (False, True):  # the hand-written gradient, and the graph of a gradient
        net = net_of(config, state).train()
        if autograd:
            leaf = x.clone().requires_grad_()
            score = torch.autograd.grad(net.logp(leaf, sigma).sum(), leaf, create_graph=True)[0]
        else:
            score = net.score(x, sigma)
        loss = toy.loss(score, target, sigma).mean()
        assert_close(loss, v["train_loss"], "train_loss", atol=0, rtol=1e-5)
        loss.backward()
        for name, p in net.named_parameters():
            close_rel(p.grad, grad[name], f"train_grad/{name}", 1e-3)
        torch.optim.Adam(net.parameters(), lr=lr, betas=(0.9, 0.99)).step()
        for name, p in net.named_parameters():
            sure = grad[name].abs() > 1e-3 * grad[name].abs().max()
            assert_close(p[sure], after[name][sure], f"train_after/{name}", atol=2e-4, rtol=0)


def check_metrics(v: Vectors, tree: toy.Mixture) -> None:
    x = v["mandala_samples"]
    cells, hits = toy.mandala(x, tree.logp(x.double()))
    np.testing.assert_allclose(float(cells), v.number("mandala"), atol=0.002)
    np.testing.assert_allclose(float(hits), v.number("classification"), atol=0.002)


FAMILIES: dict[str, Check] = {"toy*": check_toy}
