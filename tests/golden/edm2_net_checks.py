"""Checks of the EDM2 vectors about the network: mp_ops, blocks, net_*, trainstep_*, lr_schedule.

Cases, sizes and settings come from the file. Tolerances are those of the vectors' README: "rel"
there is the largest difference over the largest absolute value of the array.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diffusion.edm2 import Block, Precond
from diffusion.edm2_loss import per_pixel_loss
from diffusion.lr import edm2_lr, selection_lr
from diffusion.mp import (
    MPConv,
    MPFourier,
    frozen_weights,
    mp_cat,
    mp_silu,
    mp_sum,
    normalize,
    normalize_weights,
    resample,
    set_forced_weight_norm,
)
from tests.golden.support import Check, Vectors, assert_close, assert_rel

EXACT = 2e-6


def assert_rel_per_sample(actual: Tensor, expected: Tensor, what: str, rel: float = 1e-5) -> None:
    assert actual.shape == expected.shape, f"{what}: {actual.shape} instead of {expected.shape}"
    for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert_rel(a, b, f"{what}[{i}]", rel)


# ----------------------------------------------------------------------------------------- mp_ops


def check_mp_ops(v: Vectors) -> None:
    x = v["norm_x"]
    assert_rel(normalize(x), v["norm_default"], "normalize", EXACT)
    assert_rel(normalize(x, dim=1), v["norm_dim1"], "normalize dim 1", EXACT)
    assert_rel(normalize(x, dim=[2, 3]), v["norm_dim23"], "normalize dim 2, 3", EXACT)
    assert_rel(normalize(v["norm_w2"]), v["norm_w2_out"], "normalize of a matrix", EXACT)
    zeros = v["norm_zero_out"]
    assert torch.equal(normalize(torch.zeros_like(zeros)), zeros), "normalize of zeros"
    half = normalize(v["norm_half_in"], dim=1)
    assert half.dtype == torch.float16
    assert_rel(half.float(), v["norm_half_out"].float(), "normalize in half precision", 2e-3)

    assert_rel(mp_silu(v["silu_x"]), v["silu_y"], "mp_silu", EXACT)
    a, b, c = v["a"], v["b"], v["c"]
    sums, cats = v.keys("sum_t*"), v.keys("cat_t*")
    assert sums and cats, "no mp_sum or mp_cat"
    for key in sums:
        assert_rel(mp_sum(a, b, float(key.removeprefix("sum_t"))), v[key], key, EXACT)
    for key in cats:
        assert_rel(mp_cat(a, c, t=float(key.removeprefix("cat_t"))), v[key], key, EXACT)

    x = v["resamp_x"]
    assert torch.equal(resample(x), x)
    outputs = [key for key in v.keys("resamp_*") if key != "resamp_x"]
    assert outputs, "no resample"
    for key in outputs:  # resamp_down, resamp_up_1331
        mode, _, taps = key.removeprefix("resamp_").partition("_")
        assert_rel(resample(x, [int(t) for t in taps or "11"], mode), v[key], key, EXACT)

    fourier = MPFourier(len(v["four_freqs"]))
    fourier.load_state_dict({"freqs": v["four_freqs"], "phases": v["four_phases"]})
    assert_rel(fourier(v["four_x"]), v["four_y"], "MPFourier", EXACT)

    layers = [key.removesuffix("_w_after") for key in v.keys("*_w_after")]
    assert layers, "no MPConv"
    for name in layers:
        _check_layer(v, name)


def _check_layer(v: Vectors, name: str) -> None:
    weight, gain = v[f"{name}_w"], v.number(f"{name}_gain")
    for given in (gain, torch.tensor(gain)):  # fixed and learned
        layer = MPConv(weight.shape[1], weight.shape[0], weight.shape[2:])
        layer.load_state_dict({"weight": weight})
        x = v[f"{name}_x"].requires_grad_()
        assert_rel(layer.eval()(x, given), v[f"{name}_eval"], f"{name} eval", EXACT)
        assert torch.equal(layer.weight, weight), f"{name}: evaluation changed the weight"
        y = layer.train()(x, given)
        assert_rel(y, v[f"{name}_train_y"], f"{name} train", EXACT)
        assert_rel(layer.weight, v[f"{name}_w_after"], f"{name} forced weight norm", EXACT)
        y.backward(v[f"{name}_gout"])
        assert_rel(layer.weight.grad, v[f"{name}_gw"], f"{name} weight gradient", 1e-5)
        assert_rel(x.grad, v[f"{name}_gx"], f"{name} input gradient", 1e-5)


# ----------------------------------------------------------------------------------------- blocks


def check_blocks(v: Vectors) -> None:
    cases = list(dict.fromkeys(key.split("/")[0] for key in v.keys()))
    assert cases, "no blocks"
    for case in cases:
        block = Block(**v.json(f"{case}/cfg")).eval()
        block.load_state_dict(v.tree(f"{case}/sd"))
        assert_rel(block(v[f"{case}/x"], v[f"{case}/emb"]), v[f"{case}/y"], case, 1e-5)


# ------------------------------------------------------------------------------------------ net_*


def network(v: Vectors) -> Precond:
    net = Precond(**{**v.json("config"), "use_fp16": False})
    net.load_state_dict(v.tree("sd"))
    return net


@torch.no_grad()
def check_net(v: Vectors) -> None:
    net = network(v).eval()
    x, sigma = v["x"], v["sigma"]
    labels = v["labels"] if "labels" in v else None
    scalar = torch.tensor(v.number("scalar_sigma"), dtype=torch.float32)
    with frozen_weights(net):
        for _ in range(2):  # the second time with kept weights
            denoised, logvar = net(x, sigma, labels, return_logvar=True)
            assert_rel_per_sample(denoised, v["D"], "D")
            assert_rel(logvar, v["logvar"], "logvar", 1e-5)  # one number a sample, maybe near 0
    assert_rel_per_sample(net(x, scalar, labels), v["D_scalar_sigma"], "D_scalar_sigma")
    assert_rel_per_sample(net(x, sigma), v["D_nolabel"], "D_nolabel")
    c_in = (sigma.square() + net.sigma_data**2).rsqrt().reshape(-1, 1, 1, 1)
    out = net.unet(c_in * x, sigma.log() / 4, labels)
    assert_rel_per_sample(out, v["F"], "F")
    assert net.config == Precond(**net.config).config


# ------------------------------------------------------------------------------------ trainstep_*


def check_trainstep(v: Vectors) -> None:
    """A training step, with the weights normalised by the layers themselves and by the script."""
    for own in (True, False):
        net = network(v.sibling("net_" + v.name.removeprefix("trainstep_"))).train()
        if not own:
            set_forced_weight_norm(net, False)
            normalize_weights(net)
        _check_trainstep(v, net)


def _check_trainstep(v: Vectors, net: Precond) -> None:
    images, sigma, noise = v["images"], v["sigma"], v["noise_unit"]
    labels = v["labels"] if "labels" in v else None
    seen = {}
    hook = net.register_forward_hook(lambda _, __, out: seen.update(D=out[0], logvar=out[1]))
    sigma_data = v.number("loss_sigma_data")
    loss = per_pixel_loss(net, images, sigma, noise, labels, sigma_data=sigma_data)
    hook.remove()
    assert_rel_per_sample(seen["D"], v["D"], "D")
    assert_rel(seen["logvar"], v["logvar"], "logvar", 1e-5)
    assert_rel(loss, v["loss_per_pixel"], "loss_per_pixel", 1e-4)
    assert_rel(loss.sum((1, 2, 3)), v["loss_per_sample_sum"], "loss_per_sample_sum", 1e-4)
    parameters = dict(net.named_parameters())
    norms = v.tree("wnorm_after_fwd")
    assert norms.keys() == parameters.keys()
    for name, norm in norms.items():
        assert_rel(parameters[name].norm(), norm, f"wnorm_after_fwd of {name}", 1e-5)

    (loss.sum() / len(images)).backward()
    gradient_norms, gradients = v.tree("gnorm"), v.tree("grad")
    assert gradient_norms.keys() == parameters.keys() and gradients
    for name, norm in gradient_norms.items():
        assert_rel(parameters[name].grad.norm(), norm, f"gnorm of {name}", 1e-3)
    for name, gradient in gradients.items():
        assert_rel(parameters[name].grad, gradient, f"grad of {name}", 1e-3)

    torch.optim.Adam(net.parameters(), lr=0.012, betas=(0.9, 0.99), eps=1e-8).step()
    updated = v.tree("after_adam")
    assert updated
    for name, value in updated.items():
        gradient = gradients.get(name, parameters[name].grad).abs()
        # the first step is lr times the sign of the gradient
        clear = gradient > 1e-3 * gradient.max()
        assert_close(
            parameters[name][clear], value[clear], f"after_adam of {name}", rtol=0, atol=2e-4
        )
    # informative, says the README: signs of gradients near 0 are as good as random
    assert v.tree("sum_after_adam").keys() == parameters.keys()


# ------------------------------------------------------------------------------------ lr_schedule


def check_lr(v: Vectors) -> None:
    rates = [
        edm2_lr(nimg, batch, ref_lr=lr, ref_batches=decay, rampup_Mimg=rampup)
        for nimg, batch, lr, decay, rampup in v["upstream_in"].tolist()
    ]
    assert_rel(np.array(rates), v["upstream_lr"], "upstream_lr", 1e-12)
    names = ("mini_batch", "super_batch", "ref_lr", "ref_batches", "rampup_Mimg")
    names += ("change_nimg", "change_step")
    rates = [
        selection_lr(
            nimg,
            step,
            selecting=bool(selecting),
            early=bool(early),
            late=bool(late),
            **dict(zip(names, rest, strict=True)),
            ramp="reference",
        )
        for nimg, step, selecting, early, late, *rest in v["seed_in"].tolist()
    ]
    assert_rel(np.array(rates), v["seed_lr"], "seed_lr", 1e-12)


FAMILIES: dict[str, Check] = {
    "mp_ops*": check_mp_ops,
    "blocks*": check_blocks,
    "net_*": check_net,
    "trainstep_*": check_trainstep,
    "lr_schedule*": check_lr,
}
