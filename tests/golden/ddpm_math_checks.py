"""Checks of the DDPM vectors about maths: schedules, respacing, Gaussian, samplers, the rest.

Schedules, counts, kinds of loss and variance come from the names in the file. Tolerances are those
of the vectors' README.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion.ddpm_guidance import classifier_free
from diffusion.ddpm_samplers import ancestral, ddim, ddim_reverse, plms
from diffusion.gaussian import Gaussian
from diffusion.gaussian_loss import (
    clip_unit,
    discretized_log_likelihood,
    elbo_weight,
    normal_cdf,
    normal_kl,
    prior_bpd,
    training_losses,
    vb_terms,
)
from diffusion.respace import ldm_steps, timesteps_of
from diffusion.schedule_sampler import LossSecondMoment
from diffusion.schedules import guided_betas, latent_betas
from models.ddpm.embedding import timestep_embedding
from runtime import ema
from tests.golden.support import Check, Vectors, assert_close

PREDICTION = {"EPSILON": "eps", "START_X": "x0", "PREVIOUS_X": "x_prev", "V": "v"}


def assert_table(actual: Tensor, expected: Tensor, what: str) -> None:
    assert_close(actual, expected, what, rtol=1e-10, atol=1e-300)


# ------------------------------------------------------------------------------ schedules, respace


def betas_named(name: str) -> Tensor:
    """gd_linear_1000, ldm_linear_0.0015_0.0195_1000, ldm_sqrt_60 (1e-4 to 2e-2), ..."""
    project, *schedule, T = re.sub(r"_every\d+$", "", name).split("_")
    ends = [float(word) for word in schedule if re.fullmatch(r"[\d.e-]+", word)]
    curve = "_".join(schedule[: len(schedule) - len(ends)])
    return guided_betas(curve, int(T)) if project == "gd" else latent_betas(curve, int(T), *ends)


# Names of the vectors for what `Gaussian` calls otherwise
RENAMED = {"ldm_posterior_log_variance_clipped": "posterior_log_variance_clipped"}


def check_schedules(v: Vectors) -> None:
    names = dict.fromkeys(key.split("__")[0] for key in v.keys("*__*"))
    assert names, "no schedule"
    for name in names:
        betas = betas_named(name)
        every = re.search(r"_every(\d+)$", name)
        stored = slice(None, None, int(every[1]) if every else 1)
        tables = Gaussian(betas)
        floored = Gaussian(betas, log_variance_floor=1e-20)
        for key in v.keys(f"{name}__*"):
            table = key.removeprefix(f"{name}__")
            if table == "ldm_lvlb_weights_noise_f32":
                # Theirs has 1 - A of A rounded to float32, off by 2^-25 and more by the difference.
                slack = 1e-5 + 2**-24 / (1 - tables.alphas_cumprod)
                slack[0] = slack[1]
                far = elbo_weight(tables)[stored] / v[key].double() - 1
                assert (far.abs() <= slack[stored]).all(), f"{key}: {far.abs().max()}"
            elif table == "ldm_lvlb_weights_y0_f32_as_released":
                # Released with 2 - A for 2 (1 - A); ours is the latter.
                A = tables.alphas_cumprod
                slip = A.sqrt() / 2 / (2 - A)
                slip[0] = slip[1]
                assert_close(slip[stored].float(), v[key], key, rtol=1e-5, atol=0)
                ours = elbo_weight(Gaussian(betas, prediction_type="x0"))
                assert_close(ours[1:] * (2 - 2 * A)[1:], (slip * (2 - A))[1:], key, rtol=1e-9)
            else:
                of = floored if table.startswith("ldm_") else tables
                assert_table(getattr(of, RENAMED.get(table, table))[stored], v[key], key)


def check_respace(v: Vectors) -> None:
    specs = v.array("specs").tolist()
    assert specs, "no spec"
    for i, case in enumerate(specs):
        T, spec = int(case.split("|")[0]), case.split("|")[1]
        steps = timesteps_of(spec, T)
        assert steps == v[f"steps_{i}"].tolist(), case
        for key in v.keys(f"spaced_betas_{i}_*"):
            spaced = Gaussian(guided_betas(key.split("_")[-1], T)).respaced(steps)
            assert_table(spaced.betas, v[key], key)
            assert_table(spaced.alphas_cumprod, v[key.replace("betas", "alphas_cumprod")], key)
            assert spaced.timesteps == steps
    for case in v.array("error_specs").tolist():
        T, spec, _ = case.split("|")
        with pytest.raises(ValueError):
            timesteps_of(spec, int(T))
    A = torch.cumprod(1 - latent_betas("linear", 1000, 0.00085, 0.012), 0)
    for key in v.keys("ldm_*"):
        match = re.fullmatch(r"ldm_(uniform|quad)_(\d+)", key)
        if match is None:
            continue
        steps = ldm_steps(1000, int(match[2]), match[1])
        assert steps == v[key].tolist(), key
        if f"{key}_alphas" not in v:
            continue
        here = A[steps]
        before = torch.cat([A[:1], here[:-1]])
        assert_table(here, v[f"{key}_alphas"], key)
        assert_table(before, v[f"{key}_alphas_prev"], key)
        for sigmas in v.keys(f"{key}_eta*_sigmas"):
            eta = float(sigmas.split("_eta")[1].removesuffix("_sigmas"))
            expected = v[sigmas]
            assert_close(noise_added(A, steps, eta), expected, sigmas, rtol=1e-9, atol=1e-12)


def noise_added(A: Tensor, steps: list[int], eta: float) -> Tensor:
    """What `ddim` multiplies its noise with, seen from outside: the noise is 1, all else is 0."""
    betas = 1 - A / torch.cat([torch.ones(1, dtype=A.dtype), A[:-1]])
    gaussian = Gaussian(betas).respaced(steps)
    zero = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    found, x = [], zero
    # Without noise, x' = scale * x for a network that says eps = 0: what is more was added.
    for i, state in enumerate(
        ddim(
            lambda x, t: torch.zeros_like(x), zero, gaussian, eta=eta, last_alpha=float(A[0]),
            randn=torch.ones_like,
        )
    ):  # fmt: skip
        index = len(steps) - 1 - i
        below = float(A[steps[index - 1]]) if index else float(A[0])
        found.append(state.x.item() - x.item() * (below / float(A[steps[index]])) ** 0.5)
        x = state.x
    return torch.tensor(found[::-1], dtype=torch.float64)


# ---------------------------------------------------------------------------------------- gaussian


def check_gaussian(v: Vectors) -> None:
    betas = guided_betas(str(v.array("schedule")), int(v.number("T")))
    x0, t, noise, x_t, output = (v[k] for k in ("x0", "t", "noise", "x_t", "model_output"))
    channels = x0.shape[1]

    def gaussian(prediction: str = "EPSILON", variance: str = "FIXED_LARGE") -> Gaussian:
        return Gaussian(
            betas, prediction_type=PREDICTION[prediction], variance_type=variance.lower()
        )

    def said(variance: str) -> Tensor:
        return output if variance.startswith("LEARNED") else output[:, :channels]

    g = gaussian()

    def close(
        actual: Tensor, key: str, tolerance: float = 1e-5, small: Tensor | None = None
    ) -> None:
        """small [T]: what was divided by, which makes more of what float32 leaves of its inputs."""
        assert actual.dtype == torch.float32 and len(actual) == len(t)
        for row, (a, b) in enumerate(zip(actual, v[key], strict=True)):
            slack = 0.0 if small is None else 1e-6 / float(small[t[row]])
            what = f"{key}, t {int(t[row])}"
            assert_close(a, b, what, rtol=tolerance, atol=tolerance + slack)

    close(g.q_sample(x0, t, noise), "x_t")
    for name, value in zip(
        ("mean", "variance", "log_variance"), g.q_mean_variance(x0, t), strict=True
    ):
        close(value, f"q_{name}")
    for name, value in zip(
        ("mean", "variance", "log_variance"), g.q_posterior(x0, x_t, t), strict=True
    ):
        close(value, f"posterior_{name}")
    root, step_back = g.sqrt_alphas_cumprod, g.posterior_mean_coef1
    close(g.x0_from_eps(x_t, t, noise), "xstart_from_eps", small=root)
    close(g.x0_from_x_prev(x_t, t, v["xprev"]), "xstart_from_xprev", small=step_back)
    level = g.sqrt_one_minus_alphas_cumprod
    close(g.eps_from_x0(x_t, t, x0), "eps_from_xstart", small=level)
    close(g.v_from(x0, t, noise), "v_target")
    close(g.x0_from_v(x_t, t, v["v_model"]), "xstart_from_v")
    close(g.eps_from_v(x_t, t, v["v_model"]), "eps_from_v")

    fields = {"mean": 0, "variance": 1, "log_variance": 2, "pred_xstart": 3}
    pattern = r"pmv_(PREVIOUS_X|START_X|EPSILON)_(.+)_clip([01])_(" + "|".join(fields) + ")"
    for key in v.keys("pmv_*"):
        match = re.fullmatch(pattern, key)
        assert match, f"{key} is no known name"
        mean, variance, clip, field = match.groups()
        p = gaussian(mean, variance).p_mean_variance(
            said(variance), x_t, t, clip_unit if clip == "1" else None
        )
        small = {"EPSILON": root, "PREVIOUS_X": step_back}.get(mean) if field != "mean" else None
        loose = field == "pred_xstart" and mean == "PREVIOUS_X"
        close(p[fields[field]], key, 1e-4 if loose else 1e-5, small)

    cases = dict.fromkeys(
        re.fullmatch(r"loss_(.+)_(LEARNED_RANGE|LEARNED|FIXED_LARGE|FIXED_SMALL)_\w+", k).groups()
        for k in v.keys("loss_*")
    )
    assert cases, "no loss"
    for kind, variance in cases:
        found = training_losses(
            gaussian(variance=variance), said(variance), x0, x_t, t, noise, loss_type=kind.lower()
        )
        keys = v.keys(f"loss_{kind}_{variance}_*")
        for key in keys:
            part = key.removeprefix(f"loss_{kind}_{variance}_")
            close(found[part], key, 1e-5 if part == "mse" else 1e-4)
    _check_bits(v, gaussian(variance="LEARNED_RANGE"), x0, t, noise, x_t, output)
    _check_guidance(v, gaussian(variance="LEARNED_RANGE"), x_t, t, output)


def _check_bits(
    v: Vectors, g: Gaussian, x0: Tensor, t: Tensor, noise: Tensor, x_t: Tensor, output: Tensor
) -> None:
    vb = vb_terms(g, output, x0, x_t, t, clip_unit)
    assert_close(vb, v["vb_clip1"], "vb_clip1", rtol=1e-4, atol=1e-4)
    leaf = output.clone().requires_grad_()
    losses = training_losses(g, leaf, x0, x_t, t, noise, loss_type="rescaled_mse")
    losses["loss"].mean().backward()
    key = "hybrid_grad_model_output"
    assert_close(leaf.grad, v[key], key, rtol=1e-3, atol=1e-6)
    assert_close(prior_bpd(g, x0), v["prior_bpd"], "prior_bpd", rtol=1e-5, atol=1e-7)
    found = discretized_log_likelihood(x0, v["dg_means"], v["dg_log_scales"])
    assert_close(found, v["dg_log_likelihood"], "dg_log_likelihood", rtol=1e-4, atol=1e-4)
    kl = normal_kl(v["kl_mean1"], v["kl_logvar1"], v["kl_mean2"], v["kl_logvar2"])
    assert_close(kl, v["kl"], "kl", rtol=1e-5, atol=1e-5)
    assert_close(normal_cdf(v["cdf_x"]), v["cdf_y"], "cdf_y", rtol=1e-5, atol=1e-6)


def _check_guidance(v: Vectors, g: Gaussian, x_t: Tensor, t: Tensor, output: Tensor) -> None:
    """A classifier's gradient in a step of the samplers, row by row at the row's own step."""
    grad = v["cond_grad"]
    for row, step in enumerate(t.tolist()):
        here = slice(row, row + 1)
        one = {
            "model": lambda x, t, here=here: output[here],
            "x_T": x_t[here],
            "x0_fn": clip_unit,
            "cond_fn": lambda x, t, here=here: grad[here],
        }
        upper = Upper(g, step)
        state = next(ancestral(gaussian=upper, randn=torch.zeros_like, **one))
        assert_close(state.x, v["cond_mean"][here], f"cond_mean, t {step}", rtol=1e-5, atol=1e-5)
        state = next(ddim(gaussian=upper, **one))
        what = f"cond_score_pred_xstart, t {step}"
        expected = v["cond_score_pred_xstart"][here]
        slack = 1e-6 / float(g.sqrt_alphas_cumprod[step])
        assert_close(state.x0, expected, what, rtol=1e-4, atol=1e-4 + slack)
        mean = g.q_posterior_mean(state.x0, x_t[here], step)
        expected = v["cond_score_mean"][here]
        assert_close(mean, expected, f"cond_score_mean, t {step}", rtol=1e-4, atol=1e-4)


class Upper(Gaussian):
    """A diffusion as if it began at one of its steps, so that a sampler's first is that one."""

    def __init__(self, whole: Gaussian, step: int) -> None:
        self.__dict__.update(whole.__dict__)
        self.T = step + 1


# ------------------------------------------------------------------------------------ trajectories


def check_trajectories(v: Vectors) -> None:
    T, spec = int(v.number("T")), str(v.array("respacing"))
    betas = guided_betas(str(v.array("schedule")), T)
    steps = timesteps_of(spec, T)
    assert steps == v["timesteps"].tolist()
    x_T, noises = v["x_T"], v["noise_seq"]

    def gaussian(variance: str = "fixed_large") -> Gaussian:
        return Gaussian(betas, variance_type=variance).respaced(steps)

    def compare(states, key: str, atol: float = 1e-4) -> None:
        states = list(states)
        assert_close(torch.stack([s.x for s in states]), v[f"{key}_x"], key, rtol=0, atol=atol)
        if f"{key}_pred_x0" in v:
            found = torch.stack([s.x0 for s in states])
            assert_close(found, v[f"{key}_pred_x0"], key, rtol=1e-5, atol=atol)

    def in_order(tensors: Tensor):
        left = iter(tensors)
        return lambda *_: next(left)

    for key in v.keys("ddim_seq_*_x"):
        eta, clip = re.fullmatch(r"ddim_seq_eta([\d.]+)_clip([01])_x", key).groups()
        compare(
            ddim(
                in_order(v["eps_seq"]), x_T, gaussian(), eta=float(eta), randn=in_order(noises),
                x0_fn=clip_unit if clip == "1" else None,
            ),
            key.removesuffix("_x"),
        )  # fmt: skip

    W, b, u = v["net_W"], v["net_b"], v["net_u"]
    seen: list[float] = []

    def net(x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        seen.append(t[0].item())
        on = torch.ones(len(x)) if cond is None else cond
        shift = b * t[:, None] / 1000 + on[:, None] * u
        return torch.tanh(torch.einsum("oc,bchw->bohw", W, x) + shift[:, :, None, None])

    compare(ddim(net, x_T, gaussian(), x0_fn=clip_unit), "ddim_net_eta0_clip1")
    assert seen == v["net_timesteps_seen"].tolist()
    start = v["ddim_net_eta0_clip1_x"][-1]
    compare(ddim_reverse(net, start, gaussian()), "ddim_reverse_net")
    for key in v.keys("ancestral_net_*_x"):
        variance, clip = re.fullmatch(r"ancestral_net_(.+)_clip([01])_x", key).groups()
        compare(
            ancestral(
                net, x_T, gaussian(variance.lower()), randn=in_order(noises),
                x0_fn=clip_unit if clip == "1" else None,
            ),
            key.removesuffix("_x"),
        )  # fmt: skip
    _check_latent(v, net, x_T, compare)


def _check_latent(v: Vectors, net, x_T: Tensor, compare) -> None:
    """latent-diffusion's samplers, which leave the noise of step 0 in the result."""
    arguments = v.json("ldm_beta_args")
    curve, T = arguments.pop("schedule"), arguments.pop("n_timestep")
    betas = latent_betas(curve, T, **arguments)
    S = int(v.number("ldm_S"))
    for prediction in ("eps", "v"):
        whole = Gaussian(betas, prediction_type=prediction)
        first = float(whole.alphas_cumprod[0])
        spaced = whole.respaced(ldm_steps(T, S))
        if prediction == "v":
            compare(ddim(net, x_T, spaced, last_alpha=first), "ldm_ddim_v", 2e-4)
            continue
        samplers = {"ddim": ddim, "plms": plms}
        for name in samplers:
            assert spaced.timesteps == v[f"ldm_{name}_timesteps"].tolist()
        for key in v.keys("ldm_*_gs*_x"):
            name, weight = re.fullmatch(r"ldm_(\w+)_gs([\d.]+)_x", key).groups()
            model = classifier_free(net, {"cond": torch.zeros(1)}, float(weight))
            cond = {"cond": torch.ones(len(x_T))}
            states = samplers[name](model, x_T, spaced, last_alpha=first, cond=cond)
            compare(states, key.removesuffix("_x"), 2e-4)


# -------------------------------------------------------------------------------------------- misc


def check_misc(v: Vectors) -> None:
    T = int(v.number("num_timesteps"))
    sampler = LossSecondMoment(T, int(v.number("history_per_term")), v.number("uniform_prob"))
    ends = v["update_sizes"].cumsum(0).tolist()
    pieces = zip([0, *ends[:-1]], ends, strict=True)
    for i, (first, end) in enumerate(pieces):
        sampler.update(v["update_ts"][first:end], v["update_losses"][first:end])
        assert_close(sampler.weights(), v["weights_after_each"][i], f"update {i}", rtol=1e-10)
        assert sampler.warmed_up == bool(v["warmed_up_after_each"][i]), f"update {i}"
    assert_close(sampler.losses, v["loss_history_final"], "history", rtol=1e-12, atol=0)
    assert torch.equal(sampler.counts, v["loss_counts_final"].long())
    p = sampler.probabilities()
    assert_close(p, v["probabilities_final"], "probabilities", rtol=1e-10, atol=0)
    every = sampler.importance(torch.arange(T))
    expected = v["importance_weights_final"].float()
    assert_close(every, expected, "importance", rtol=1e-6, atol=0)
    legacy = np.random.RandomState(int(v.number("sampled_indices_np_seed")))
    wanted = v["sampled_indices"]
    t = torch.from_numpy(legacy.choice(T, len(wanted), p=p.numpy()))
    assert torch.equal(t, wanted)
    assert_close(sampler.importance(t), v["sampled_weights"], "sampled_weights", rtol=1e-6, atol=0)

    net = torch.nn.Module()
    net.p = torch.nn.Parameter(torch.zeros_like(v["ema_sources"][0]))
    average = ema.EMA(net, float(v.number("ema_rate")))
    for i, (source, target) in enumerate(zip(v["ema_sources"], v["ema_targets"], strict=True)):
        net.p.data.copy_(source)
        average.update(net, i + 1, 1)
        assert_close(average.module.p, target, f"ema {i}", rtol=1e-5, atol=1e-7)

    for key in v.keys("temb_*dim*"):
        period, dim = re.fullmatch(r"temb_(?:max_period_(\d+)_)?dim(\d+)", key).groups()
        found = timestep_embedding(v["temb_t"], int(dim), float(period or 10000))
        # An angle near 1000 has steps of 6e-5 in fp32, and processors round exp differently.
        assert_close(found, v[key], key, rtol=0, atol=1e-4)


FAMILIES: dict[str, Check] = {
    "schedules*": check_schedules,
    "respace*": check_respace,
    "gaussian*": check_gaussian,
    "trajectories*": check_trajectories,
    "misc*": check_misc,
}
