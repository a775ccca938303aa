"""Checks of the DDPM vectors about networks: unet_*, layout_attention, layout_unet, regions,
task_prompt_attention, and the time embedding of misc.

Cases, sizes and settings come from the file. Tolerances are those of the vectors' README: outputs
atol 2e-5, gradients rtol 1e-3 and atol 1e-4.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from models.ddpm import LAYOUT_ATTENTION, Layout, LayoutAttention, UNet
from models.ddpm.configs import unet_config
from models.ddpm.embedding import timestep_embedding
from models.ddpm.layout import ClassEmbedder
from models.ddpm.layout_forms import FORMS
from models.ddpm.pretrained import load_pretrained
from models.ddpm.regions import box_regions
from models.ddpm.transformer import PromptAttention
from tests.golden.support import Check, Vectors, assert_close

OUTPUT = {"rtol": 0, "atol": 2e-5}
GRADIENT = {"rtol": 1e-3, "atol": 1e-4}
_TABLE = "attention.class_embedder.class_embedder.weight"


def weights(v: Vectors, prefix: str = "sd__") -> dict[str, Tensor]:
    """Parameters, kept as exact float16."""
    return {key[len(prefix) :]: v[key].float() for key in v.keys(prefix + "*")}


def network(v: Vectors) -> UNet:
    """The network of a file, with its weights."""
    net = UNet(**unet_config(v.json("config"))).eval()
    assert load_pretrained(net, weights(v)) == []
    assert sum(p.numel() for p in net.parameters()) == v.number("n_params")
    assert UNet(**net.config).config == net.config
    return net


# ---------------------------------------------------------------------------------------- unet_*


def check_unet(v: Vectors) -> None:
    net = network(v)
    labels = v["y"] if "y" in v else None
    cases = [
        {"fused": fused, "last": last, "again": again}
        for fused, last, again in ((True, False, False), (False, True, False), (True, False, True))
    ]
    for case in cases:
        _set_fused(net, case["fused"])
        net.set_checkpoint(case["again"])
        net.to(memory_format=torch.channels_last if case["last"] else torch.contiguous_format)
        net.zero_grad()
        x = v["x"].requires_grad_()
        out = net(x, v["t"], labels)
        assert_close(out, v["out"], f"out {case}", **OUTPUT)
        (out * v["cotangent"]).sum().backward()
        assert_close(x.grad, v["grad_x"], f"grad_x {case}", **GRADIENT)
        gradients = {n: p.grad for n, p in net.named_parameters()}
        keys = v.keys("grad__*")
        assert keys
        for key in keys:
            assert_close(gradients[key.removeprefix("grad__")], v[key], f"{key} {case}", **GRADIENT)
    assert_close(net.embedding(v["t"], None, len(v["t"])), v["emb"], "emb", **OUTPUT)


def _set_fused(net: nn.Module, fused: bool) -> None:
    for module in net.modules():
        if hasattr(module, "fused"):
            module.fused = fused


# -------------------------------------------------------------------------------- layout_attention


def check_layout_attention(v: Vectors) -> None:
    """Every variant, case by case and all its cases in one batch, in every form."""
    size = v.number("channels"), v.number("embedding_dim")
    heads, classes = v.number("num_heads"), v.number("num_classes")
    sd = weights(v)
    embedder = ClassEmbedder(classes, size[1])
    embedder.load_state_dict({"class_embedder.weight": sd.pop(_TABLE)})
    variants = {key.rsplit("_", 2)[0] for key in v.keys("*_context")}
    assert variants and variants <= set(LAYOUT_ATTENTION)
    for kind in sorted(variants):
        block = LayoutAttention(*size, kind, heads)
        block.load_state_dict(sd)
        cases = [k.removesuffix("_context") for k in v.keys(f"{kind}_[0-9]*_context")]
        for case in cases:
            if f"{case}_regions" in v:
                _check_regions(v, case)
        restricted = kind.startswith("layout_partial")
        for form in FORMS if restricted else ("closed",):
            _check_batch(v, block, embedder, cases, form)
            for case in cases:
                _check_batch(v, block, embedder, [case], form)
        if kind == "layout_partial_v2":
            _check_gradient_sums(v, block, embedder, cases)


def _check_regions(v: Vectors, case: str) -> None:
    height, width = v[f"{case}_x"].shape[2:]
    boxes = v[f"{case}_context"][0, :, :4]
    _same_cells(box_regions(boxes, height, width), v[f"{case}_regions"], height, width, case)


def _same_cells(found: Tensor, wanted: Tensor, height: int, width: int, what: str) -> None:
    """Regions [n, 4] as i0, i1, j0, j1 that clip to the same cells."""
    limit = torch.tensor([height, height, width, width])
    assert torch.equal(found.minimum(limit), wanted.minimum(limit)), what


def _run(
    v: Vectors, block: LayoutAttention, embedder: ClassEmbedder, cases: list[str], form: str
) -> tuple[Tensor, Tensor]:
    """(x, out) of some cases in one batch."""
    x = torch.cat([v[f"{case}_x"] for case in cases]).requires_grad_()
    contexts = [v[f"{case}_context"] for case in cases]
    count = embedder.num_classes
    if block.kind == "segmentation":
        layout = Layout.of_segmentation(torch.cat(contexts), num_classes=count)
    else:
        layout = Layout.pad([c[0] for c in contexts], num_classes=count)
    grid = (x.shape[2], x.shape[3])
    prompts = embedder.prompts(layout, [grid], block.kind, form=form)
    if block.kind == "segmentation":
        merged = prompts.table[prompts.classes[grid]]
    else:
        regions = prompts.regions[grid]
        outside = ~regions.masks.any(1)
        merged = regions.mean.transpose(1, 2) @ prompts.instances
        merged = merged + outside[..., None] * prompts.background
    wanted = torch.cat([v[f"{case}_prompt_embedding"] for case in cases]).flatten(1, 2)
    assert_close(merged, wanted, f"{cases} prompt_embedding", **OUTPUT)
    return x, block(x, prompts)


def _check_batch(
    v: Vectors, block: LayoutAttention, embedder: ClassEmbedder, cases: list[str], form: str
) -> None:
    x, out = _run(v, block, embedder, cases, form)
    parts = {n: torch.cat([v[f"{c}_{n}"] for c in cases]) for n in ("out", "cotangent", "grad_x")}
    what = f"{', '.join(cases)}, {form}"
    assert_close(out, parts["out"], f"out of {what}", **OUTPUT)
    (grad,) = torch.autograd.grad((out * parts["cotangent"]).sum(), x)
    assert_close(grad, parts["grad_x"], f"grad_x of {what}", **GRADIENT)


def _check_gradient_sums(
    v: Vectors, block: LayoutAttention, embedder: ClassEmbedder, cases: list[str]
) -> None:
    for form in FORMS:
        both = nn.ModuleList([block, embedder])
        both.zero_grad()
        _, out = _run(v, block, embedder, cases, form)
        (out * torch.cat([v[f"{case}_cotangent"] for case in cases])).sum().backward()
        found = {name: p.grad for name, p in block.named_parameters()}
        found[_TABLE] = embedder.class_embedder.weight.grad
        sums = v.keys("gradsum__*")
        assert len(sums) == len(found)
        for key in sums:
            name = key.removeprefix("gradsum__")
            assert_close(found[name], v[key], f"{key}, {form}", **GRADIENT)


# -------------------------------------------------------------------- layout_unet, regions, prompts


@torch.no_grad()
def check_layout_unet(v: Vectors) -> None:
    net = network(v)
    classes = net.config["layout_classes"]
    boxes, text, t = v["boxes"], v["text"], v["t"]
    layout = Layout.pad(list(boxes), num_classes=classes)
    both = Layout.cat([layout, Layout.empty(len(boxes))])
    for form in (*FORMS, None):
        net.layout_form = form
        out = net(v["x"], t, text=text, layout=layout)
        assert_close(out, v["out"], f"out, {form}", **OUTPUT)
        for nothing in (None, Layout.empty(len(boxes))):
            out = net(v["x"], t, text=text, layout=nothing)
            assert_close(out, v["out_empty_layout"], f"out_empty_layout, {form}", **OUTPUT)
        x, doubled = v["x"].repeat(2, 1, 1, 1), text.repeat(2, 1, 1)
        out = net(x, t.repeat(2), text=doubled, layout=both)
        wanted = torch.cat([v["out"], v["out_empty_layout"]])
        assert_close(out, wanted, f"a doubled batch, {form}", **OUTPUT)


def check_regions(v: Vectors) -> None:
    keys = v.keys("region_*")
    assert keys
    for key in keys:
        height, width = map(int, re.fullmatch(r"region_(\d+)x(\d+)", key).groups())
        _same_cells(box_regions(v["boxes"], height, width), v[key], height, width, key)


@torch.no_grad()
def check_task_prompts(v: Vectors) -> None:
    names = [key.removesuffix("_config") for key in v.keys("*_config")]
    assert names
    for name in names:
        config = v.json(f"{name}_config")
        block = PromptAttention(
            config.pop("query_dim"),
            config.pop("text_context_dim"),
            config.pop("heads"),
            config.pop("dim_head"),
            num_prompts=config.pop("num_prompt"),
            prompt_dim=config.pop("prompt_dim", 1),
            image_in_kv=config.pop("image_in_kv"),
        )
        assert not config, f"{name}: {config} is not looked at"
        block.load_state_dict(weights(v, f"{name}__sd__"))
        out = block(v[f"{name}_x"], v[f"{name}_context"])
        assert_close(out, v[f"{name}_out"], name, **OUTPUT)


# ---------------------------------------------------------------------------------- of misc


def check_timestep_embedding(v: Vectors) -> None:
    """temb_t -> temb_dim<D> and temb_max_period_<P>_dim<D>."""
    keys = v.keys("temb_*dim*")
    assert keys
    for key in keys:
        period = re.search(r"max_period_(\d+)", key)
        found = timestep_embedding(
            v["temb_t"],
            int(re.search(r"dim(\d+)$", key)[1]),
            float(period[1]) if period else 10000.0,
        )
        # An angle of a thousand has 6e-5 between two of its float32 neighbours.
        atol = 1e-7 * max(100, float(v["temb_t"].abs().max()))
        assert_close(found, v[key], key, rtol=0, atol=atol)


FAMILIES: dict[str, Check] = {
    "unet_*": check_unet,
    "layout_attention*": check_layout_attention,
    "layout_unet*": check_layout_unet,
    "regions*": check_regions,
    "task_prompt_attention*": check_task_prompts,
}
