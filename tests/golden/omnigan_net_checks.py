"""Checks of the omnigan vectors about networks: blocks, encoder, decoders, SPADE, discriminators,
classifier. Weights have the reference's names; tolerances are those of the vectors' README.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from models.omnigan.blocks import BaseDecoder, ContentEncoder, Conv2dBlock, ResBlocks
from models.omnigan.classifier import DomainClassifier
from models.omnigan.discriminators import MultiscaleDiscriminator, PatchDiscriminator, Patches
from models.omnigan.domains import DOMAINS
from models.omnigan.losses import DomainLoss
from models.omnigan.names import our_names
from models.omnigan.norms import SpectralNorm
from models.omnigan.spade import SPADE, SpadeDecoder, SPADEResnetBlock
from tests.golden.support import Check, Vectors, assert_close

OUTPUT = {"rtol": 1e-4, "atol": 1e-5}
GRADIENT = {"rtol": 1e-3, "atol": 1e-4}
PATCH = {"rtol": 1e-3, "atol": 1e-4}


def cases(v: Vectors, prefix: str) -> list[str]:
    """The cases of a file that begin so."""
    return [key.split("/")[0] for key in v.keys(f"{prefix}*/meta")]


def load(net: Any, state: dict[str, Tensor]) -> Any:
    """The network with the reference's weights, all of them."""
    net.load_state_dict(our_names(state))
    return net


def _spade_arguments(meta: dict[str, Any]) -> dict[str, Any]:
    return {
        "spectral_norm": meta["spade_use_spectral_norm"],
        "param_free_norm": meta["spade_param_free_norm"],
        "kernel_size": meta["spade_kernel_size"],
    }


def _backward(v: Vectors, case: str, net: nn.Module, inputs: dict[str, Tensor], out: str) -> None:
    """Outputs, and the gradients of inputs for the one that is given."""
    leaves = {name: value.requires_grad_() for name, value in inputs.items()}
    y = net(*leaves.values())
    assert_close(y, v[f"{case}/{out}"], f"{v.name} {case}: {out}", **OUTPUT)
    y.backward(v[f"{case}/gy"])
    for name, leaf in leaves.items():
        assert_close(leaf.grad, v[f"{case}/g{name}"], f"{v.name} {case}: g{name}", **GRADIENT)


# ------------------------------------------------------------------------------- blocks


def check_conv_blocks(v: Vectors) -> None:
    for case in cases(v, "c"):
        meta = v.json(f"{case}/meta")
        net = load(Conv2dBlock(**meta), v.tree(f"{case}/sd"))
        x, what = v[f"{case}/x"], f"{v.name} {case}"
        assert_close(net(x), v[f"{case}/y_train"], f"{what}: y", **OUTPUT)
        if meta["norm"] == "batch":
            for name in ("mean", "var"):
                after = getattr(net.norm, f"running_{name}")
                assert_close(after, v[f"{case}/running_{name}_after"], f"{what}: {name}", **OUTPUT)
            assert_close(net.eval()(x), v[f"{case}/y_eval_after"], f"{what}: eval", **OUTPUT)
        if meta["norm"].startswith("spectral"):
            _check_spectral(v, case, net, x)


def _check_spectral(v: Vectors, case: str, net: Any, x: Tensor) -> None:
    what = f"{v.name} {case}"
    norm = net.conv.parametrizations.weight[0]
    assert isinstance(norm, SpectralNorm)
    for name in ("u", "v"):
        value = getattr(norm, f"_{name}")
        assert_close(value, v[f"{case}/{name}_after_1"], f"{what}: {name}", **OUTPUT)
    raw = net.conv.parametrizations.weight.original
    u, w = norm._u, norm._v
    used = raw / torch.dot(u, raw.flatten(1) @ w)
    assert_close(used, v[f"{case}/eff_weight_1"], f"{what}: effective weight", **OUTPUT)
    assert_close(net(x), v[f"{case}/y_train_2"], f"{what}: second output", **OUTPUT)
    norm.converge(raw, 2000)
    sigma = torch.linalg.matrix_norm(raw.detach().flatten(1), 2)
    assert_close(sigma, v[f"{case}/sigma_max"], f"{what}: sigma", **OUTPUT)
    outputs = net.eval()(x), net(x)
    assert torch.equal(*outputs), "in evaluation there is no iteration"
    assert_close(outputs[0], v[f"{case}/y_converged"], f"{what}: converged", **OUTPUT)


def check_encoder_decoder(v: Vectors) -> None:
    for case in cases(v, "res"):
        meta = v.json(f"{case}/meta")
        net: Any = ResBlocks(
            meta["num_blocks"], meta["dim"], meta["norm"], meta["activation"], meta["pad_type"]
        )
        load(net, v.tree(f"{case}/sd"))
        _backward(v, case, net, {"x": v[f"{case}/x"]}, "y")
    for case in cases(v, "enc"):
        net = ContentEncoder(**v.json(f"{case}/meta"))
        load(net, v.tree(f"{case}/sd"))
        z = net(v[f"{case}/x"])
        assert_close(z, v[f"{case}/z"], f"{v.name} {case}: z", **OUTPUT)
        assert z.shape[1] == net.output_dim
    for case in cases(v, "dec"):
        meta = v.json(f"{case}/meta")
        meta["res_dim"] = meta.pop("dim")
        state, z = v.tree(f"{case}/sd"), v[f"{case}/z"]
        for activation, name in (("tanh", "y"), ("none", "y_before_final_activation")):
            net = load(BaseDecoder(**meta, activation=activation), state)
            assert_close(net(z), v[f"{case}/{name}"], f"{v.name} {case}: {name}", **OUTPUT)


# ------------------------------------------------------------------------------- SPADE


def check_spade(v: Vectors) -> None:
    for case in cases(v, "s"):
        meta = v.json(f"{case}/meta")
        net: Any = SPADE(
            meta["norm_nc"], meta["cond_nc"], meta["kernel_size"], meta["param_free_norm_type"]
        )
        assert net.mlp_gamma.in_channels == meta["nhidden"]
        load(net, v.tree(f"{case}/sd"))
        inputs = {"x": v[f"{case}/x"], "cond": v[f"{case}/cond"]}
        _backward(v, case, net, inputs, "y_train")
        bias = net.mlp_gamma.bias.grad
        assert_close(bias, v[f"{case}/g_gamma_bias"], f"{v.name} {case}: gamma", **GRADIENT)
        if f"{case}/y_eval_after" in v:
            for name in ("mean", "var"):
                after = getattr(net.param_free_norm, f"running_{name}")
                assert_close(after, v[f"{case}/running_{name}_after"], f"{case}: {name}", **OUTPUT)
            with torch.no_grad():
                out = net.eval()(*inputs.values())
            assert_close(out, v[f"{case}/y_eval_after"], f"{v.name} {case}: eval", **OUTPUT)


def check_spade_block(v: Vectors) -> None:
    for case in cases(v, "b"):
        meta = v.json(f"{case}/meta")
        net = SPADEResnetBlock(meta["fin"], meta["fout"], meta["cond_nc"], **_spade_arguments(meta))
        load(net, v.tree(f"{case}/sd"))
        net.train(meta["mode"] == "train")
        for last in (False, True):
            form = torch.channels_last if last else torch.contiguous_format
            inputs = {"x": v[f"{case}/x"], "cond": v[f"{case}/cond"]}
            made = copy.deepcopy(net).to(memory_format=form)
            inputs = {k: x.contiguous(memory_format=form) for k, x in inputs.items()}
            _backward(v, case, made, inputs, "y")


def check_spade_decoder(v: Vectors) -> None:
    meta = v.json("meta")
    net = SpadeDecoder(
        meta["latent_shape"][0], meta["cond_nc"], meta["spade_n_up"], **_spade_arguments(meta)
    )
    assert net.conv_img.in_channels == meta["final_nc"]
    load(net, v.tree("sd"))
    assert_close(net(v["z"], v["cond"]), v["y"], f"{v.name}: y", **OUTPUT)


# ------------------------------------------------------------- discriminators, classifier


def check_discriminator(v: Vectors) -> None:
    net: Any
    names = ("input_nc", "ndf", "n_layers", "norm")
    for case in cases(v, "patch"):
        meta = v.json(f"{case}/meta")
        net = PatchDiscriminator(Patches(**{name: meta[name] for name in names}))
        load(net, v.tree(f"{case}/sd")).train(meta["mode"] == "train")
        x = v[f"{case}/x"].requires_grad_()
        y = net(x)
        assert isinstance(y, Tensor)
        assert_close(y, v[f"{case}/y"], f"{v.name} {case}: y", **PATCH)
        y.square().mean().backward()
        assert_close(x.grad, v[f"{case}/gx_of_mean_y2"], f"{v.name} {case}: gx", **PATCH)
    for case in cases(v, "multi"):
        meta = v.json(f"{case}/meta")
        shape = Patches(**{name: meta[name] for name in names})
        net = MultiscaleDiscriminator(shape, meta["num_D"])
        load(net, v.tree(f"{case}/sd"))
        scales = net(v[f"{case}/x"])
        assert len(scales) == meta["num_D"]
        for i, maps in enumerate(scales):
            kept = len(maps) if meta["get_intermediate_features"] else 1
            for j, y in enumerate(maps[-kept:]):
                what = f"{case}/y/{i}/{j}"
                assert_close(y, v[what], f"{v.name} {what}", **PATCH)


def check_classifier(v: Vectors) -> None:
    for case in cases(v, "c"):
        meta = v.json(f"{case}/meta")
        assert meta["n_out"] == len(DOMAINS)
        net = DomainClassifier(meta["latent_shape"], meta["loss"])
        load(net, v.tree(f"{case}/sd"))
        z, what = v[f"{case}/z"], f"{v.name} {case}"
        assert_close(net(z), v[f"{case}/y_train"], f"{what}: y", **OUTPUT)
        state = net.state_dict()
        for name, value in v.tree(f"{case}/after").items():
            assert_close(state[name], value, f"{what}: {name}", **OUTPUT)
        after = net.eval()(z)
        assert_close(after, v[f"{case}/y_eval_after_one_train_step"], f"{what}: eval", **OUTPUT)
    known = {
        "true_int": DomainLoss("cross_entropy"), "true_onehot": DomainLoss("l1"),
        "fool_int": DomainLoss("cross_entropy", fool=True),
        "fool_soft": DomainLoss("l2", fool=True),
    }  # fmt: skip
    for i, domain in enumerate(v.json("labels/domains") if "labels/domains" in v else []):
        for name, loss in known.items():
            wanted = v[f"labels/{name}"][i]
            assert torch.equal(loss.target(domain, 1)[0], wanted), f"{name} of {domain}"


FAMILIES: dict[str, Check] = {
    "conv2dblock*": check_conv_blocks,
    "resblocks*": check_encoder_decoder,
    "spade": check_spade,
    "spade_[!rd]*": check_spade,
    "spade_resblock*": check_spade_block,
    "spade_decoder*": check_spade_decoder,
    "discriminator*": check_discriminator,
    "classifier*": check_classifier,
}
