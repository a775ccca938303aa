"""Checks of the EDM2 vectors about sampling: ema, sampler, encoders, frechet.

Cases, sizes and settings come from the file. Tolerances are those of the vectors' README: "rel"
there is the largest difference over the largest absolute value of the array.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diffusion import phema
from diffusion.edm2 import Precond
from diffusion.encoders import RGBEncoder, StabilityVAEEncoder
from diffusion.guidance import bind, guided
from diffusion.samplers import SeedStack, heun, sigma_levels
from evaluation.frechet import FeatureStats, Moments, frechet_distance
from runtime import ema
from tests.golden.support import Check, Vectors, assert_close, assert_rel


def exponents(stds: Tensor) -> np.ndarray:
    return np.array([ema.power_exponent(std) for std in stds.tolist()])


# -------------------------------------------------------------------------------------------- ema


def check_ema(v: Vectors) -> None:
    stds = v["stds"]
    gammas = exponents(stds)
    assert_rel(gammas, v["gammas"], "gammas", 1e-9)
    assert_rel(np.array([ema.power_std(g) for g in gammas]), v["std_back"], "std_back", 1e-9)
    delta, times = v.number("t_delta"), v["t_next"].tolist()
    beta = np.array([[ema.power(std)(t, delta) for t in times] for std in stds.tolist()])
    assert_rel(beta, v["beta"], "beta", 1e-9)

    expected = v["resp"]
    offsets = v["resp_ofs"].numpy()
    found = phema.response(np.arange(len(expected)), offsets[None], gammas[:, None])
    assert_rel(found, expected, "resp", 1e-9)

    ofs, g = v["corr_ofs"].numpy(), exponents(v["corr_std"])
    found = phema.correlation(ofs[:, None], g[:, None], ofs[None], g[None])
    assert_rel(found, v["corr"], "corr", 1e-9)

    in_ofs, in_g = v["ph_in_ofs"].numpy(), exponents(v["ph_in_std"])
    out_g = exponents(v["ph_out_std"])
    suffix = ""
    while f"ph_coef{suffix}" in v:
        out_ofs = v["ph_out_ofs" + suffix].numpy()
        found = phema.coefficients(in_ofs, in_g, out_ofs, out_g)
        assert_close(found, v["ph_coef" + suffix], f"ph_coef{suffix}", rtol=0, atol=1e-6)
        suffix = str(int(suffix or 1) + 1)
    assert suffix, "no ph_coef"
    _check_runs(v)


def _check_runs(v: Vectors) -> None:
    """The averages of a recorded trajectory, by the module that training uses."""
    params, batches, stds = v["run_params"], v["run_batch"].tolist(), v["run_stds"].tolist()
    net = torch.nn.Module()
    net.p = torch.nn.Parameter(torch.zeros_like(params[0]))
    half = ema.half_life(v.number("run_trad_halflife_Mimg") * 1e6, v.number("run_trad_rampup"))
    profiles = [ema.power(std) for std in stds]
    averages = [ema.EMA(net, profile) for profile in (*profiles, half)]
    nimg, rows = 0, []
    for value, batch in zip(params, batches, strict=True):
        nimg += batch
        net.p.data.copy_(value)
        for average in averages:
            average.update(net, nimg, batch)
        rows.append(torch.stack([average.module.p.detach().clone() for average in averages]))
    found = torch.stack(rows)
    assert_rel(found[:, :-1], v["run_ema"], "run_ema", 1e-6)
    assert_rel(found[:, -1], v["run_trad"], "run_trad", 1e-6)
    # and what the averages are by definition: weights of the profile, in float64
    t = np.cumsum(batches)
    for k, std in enumerate(stds):
        powers = np.concatenate([[0.0], (t / t[-1]) ** (ema.power_exponent(std) + 1)])
        assert_rel(np.diff(powers) @ params.double().numpy(), v["run_ema"][-1, k], "profile", 1e-5)


# ---------------------------------------------------------------------------------------- sampler


def check_sampler(v: Vectors) -> None:
    cases = [key.removesuffix("_cfg") for key in v.keys("*_cfg")]
    assert cases, "no case"
    for case in cases:
        _check_analytic(v, case)
    if "net_name" in v:
        _check_net(v)
    if "stacked_seeds" in v:
        seeds = SeedStack(v["stacked_seeds"].tolist())
        normals = v["stacked_randn"]
        assert torch.equal(seeds.randn(*normals.shape[1:]), normals)
        for key in v.keys("stacked_randint*"):
            high = int(key.removeprefix("stacked_randint"))
            assert torch.equal(seeds.randint(high), v[key])


def _check_analytic(v: Vectors, case: str) -> None:
    def denoiser(mu: Tensor, sd: float):
        return lambda x, s: (sd**2 * x + s**2 * mu) / (sd**2 + s**2)

    main = denoiser(v["mu"], v.number("net_sd"))
    guide = denoiser(v["gnet_mu"], v.number("gnet_sd"))
    cfg = v.json(f"{case}_cfg")
    settings = {"steps": cfg.pop("num_steps"), **cfg}
    denoise = guided(main, guide, settings.pop("guidance", 1))
    expected = v[f"{case}_traj"]
    for dtype in (torch.float32, torch.float64):
        draws = list(v[f"{case}_noise"]) if f"{case}_noise" in v else []
        found = heun(
            denoise,
            v["noise"],
            **settings,
            randn=lambda x, draws=draws: draws.pop(0),
            trajectory=True,
            dtype=dtype,
        )
        assert not draws, f"{case}: {len(draws)} noises were not used"
        for i, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert_rel(a.float(), b, f"{case}_traj[{i}], state {dtype}", 2e-5)
    if f"{case}_t" in v:
        names = ("steps", "sigma_min", "sigma_max", "rho")
        levels = sigma_levels(**{k: settings[k] for k in names if k in settings})
        assert_rel(np.array(levels, dtype=np.float32), v[f"{case}_t"], f"{case}_t", 1e-6)


def _check_net(v: Vectors) -> None:
    weights = v.sibling("net_" + v.json("net_name"))
    net = Precond(**{**weights.json("config"), "use_fp16": False}).eval()
    net.load_state_dict(weights.tree("sd"))
    denoise = bind(net, v["net_labels"] if "net_labels" in v else None)
    states = heun(denoise, v["net_noise"], steps=v.number("net_steps"), trajectory=True)
    assert_rel(states[-1], v["net_final"], "net_final", 1e-3)
    # Some states of the trajectory, in order; the file does not say which.
    last = -1
    for i, expected in enumerate(v["net_traj_some"]):
        index = int((states - expected).flatten(1).abs().amax(1).argmin())
        assert index > last, f"net_traj_some[{i}] is nearest to state {index}, after {last}"
        assert_rel(states[index], expected, f"net_traj_some[{i}]", 1e-3)
        last = index


# --------------------------------------------------------------------------------------- encoders


def check_encoders(v: Vectors) -> None:
    rgb = RGBEncoder()
    assert_rel(rgb.encode_latents(v["rgb_px"]), v["rgb_latent"], "rgb_latent", 1e-6)
    inputs, expected = v["rgb_dec_in"], v["rgb_dec_out"]
    found = rgb.decode(inputs)
    exact = inputs.double() * 127.5 + 128
    unsure = (exact - exact.round()).abs() < 1e-3
    off = (found.int() - expected.int()).abs()
    assert found.dtype == torch.uint8 and off[~unsure].sum() == 0 and off.max() <= 1

    vae = StabilityVAEEncoder()
    assert_rel(vae.scale, v["vae_scale"], "vae_scale", 1e-6)
    assert_rel(vae.bias, v["vae_bias"], "vae_bias", 1e-6)
    raw, eps = v["vae_raw"], v["vae_eps"]
    final = vae.encode_latents(raw, eps)
    assert_rel(final, v["vae_final"], "vae_final", 1e-6)
    mean, std = raw.chunk(2, dim=1)
    certain = torch.cat([mean, torch.zeros_like(std)], dim=1)
    assert_rel(vae.encode_latents(certain, eps), v["vae_final_zero_std"], "vae_zero_std", 1e-6)
    inverse = vae.raw_of(v["vae_final"])
    assert_rel(inverse, v["vae_affine_inverse"], "vae_affine_inverse", 1e-6)
    assert_rel(inverse, mean + eps * std, "inverse of final", 1e-5)


# ---------------------------------------------------------------------------------------- frechet


def check_frechet(v: Vectors) -> None:
    moments = {}
    for name in ("gen", "ref"):
        features = v[f"feat_{name}"]
        stats = FeatureStats(features.shape[1])
        for part in features.split(64):
            stats.update(part)
        moments[name] = stats.moments()
        assert_rel(moments[name].mean, v[f"mu_{name}"], f"mu_{name}", 1e-6)
        assert_rel(moments[name].cov, v[f"sigma_{name}"], f"sigma_{name}", 1e-6)
    given = [Moments(v[f"mu_{name}"], v[f"sigma_{name}"]) for name in ("gen", "ref")]
    for a, b in ((moments["gen"], moments["ref"]), given, reversed(given)):
        assert_close(frechet_distance(a, b), v["fd"], "fd", rtol=1e-6, atol=0)


FAMILIES: dict[str, Check] = {
    "ema*": check_ema,
    "sampler*": check_sampler,
    "encoders*": check_encoders,
    "frechet*": check_frechet,
}
