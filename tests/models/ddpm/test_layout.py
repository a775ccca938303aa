"""Layouts: regions of boxes and masks, the forms of attention against a float64 sum, prompts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.ddpm import LAYOUT_ATTENTION, Layout
from models.ddpm.layout import ClassEmbedder, LayoutAttention
from models.ddpm.layout_forms import FORMS, choose, make_regions, region_attention
from models.ddpm.regions import box_regions, grid_classes, region_masks
from models.ddpm.transformer import PromptAttention
from tests.models.ddpm.nets import LAYOUT, TRANSFORMER, inputs, layouts, randomised, tiny


def brute_force(qkv: Tensor, background: Tensor, heads: int, masks: Tensor, v1: bool) -> Tensor:
    """Pixel by pixel, in float64, as the sentence in `layout_forms` says: [B, L, C]."""
    batch, pixels, triple = qkv.shape
    width = triple // (3 * heads)
    out = torch.zeros(batch, pixels, heads, width, dtype=torch.float64)
    rows = qkv.double().view(batch, pixels, heads, 3, width)
    behind = background.double().view(batch, pixels, heads, 3, width)
    for b in range(batch):
        for h in range(heads):
            for p in range(pixels):
                found = [
                    attended(rows[b, :, h], p, mask.nonzero()[:, 0]) for mask in masks[b] if mask[p]
                ]
                if not found or v1:
                    found.append(attended(behind[b, :, h], p, torch.arange(pixels)))
                out[b, p, h] = torch.stack(found).mean(0)
    return out.flatten(2)


def attended(rows: Tensor, p: int, others: Tensor) -> Tensor:
    scores = rows[others, 1] @ rows[p, 0] / math.sqrt(rows.shape[-1])
    return scores.softmax(0) @ rows[others, 2]


@pytest.mark.parametrize("v1", [False, True])
@pytest.mark.parametrize("form", [*FORMS, None])
def test_forms_are_the_sum_over_regions(form, v1):
    masks = region_masks(layouts(), 5, 4)
    generator = torch.Generator().manual_seed(3)
    qkv, background = 2 * torch.randn(2, 3, 20, 24, generator=generator, dtype=torch.float64)
    wanted = brute_force(qkv, background, 2, masks, v1)
    regions = make_regions(masks, with_background=v1, form=form)
    for fused in (True, False):
        found = region_attention(qkv.float(), background.float(), 2, regions, fused)
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
        if form is not None:  # each image alone
            for b in range(3):
                one = make_regions(masks[b : b + 1], with_background=v1, form=form)
                alone = region_attention(qkv[b : b + 1], background[b : b + 1], 2, one, fused)
                torch.testing.assert_close(alone[0], wanted[b], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_forms(form):
    """Against differences, in float64."""
    masks = region_masks(layouts(), 3, 3)
    regions = make_regions(masks, with_background=False, form=form)
    given = torch.randn(2, 3, 9, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r: region_attention(r[0], r[1], 1, regions), (given,))


@pytest.mark.parametrize("form", FORMS)
def test_scores_a_hundred_apart_lose_nothing(form):
    """A region whose scores are far below those of another has its own attention all the same."""
    masks = torch.zeros(1, 2, 8, dtype=torch.bool)
    masks[0, 0, :5] = masks[0, 1, 3:] = True
    qkv = torch.randn(1, 8, 12, generator=torch.Generator().manual_seed(0))
    qkv[:, :, :4] = 1.0
    qkv[:, :4, 4:8] += 50.0  # keys of the first region: scores 100 above the others'
    qkv.requires_grad_()
    regions = make_regions(masks, with_background=False, form=form)
    out = FORMS[form](qkv, 1, regions, True)
    (gradient,) = torch.autograd.grad(out.square().sum(), qkv)
    wanted = brute_force(qkv.detach(), qkv.detach(), 1, masks, False)
    torch.testing.assert_close(out.double(), wanted, rtol=1e-4, atol=1e-4)
    assert gradient.isfinite().all()
    exact = qkv.detach().double().requires_grad_()
    by_loop = FORMS["loop"](exact, 1, regions, True)
    (wanted,) = torch.autograd.grad(by_loop.square().sum(), exact)
    torch.testing.assert_close(gradient.double(), wanted, rtol=1e-3, atol=1e-3)


def test_no_boxes_and_no_images():
    empty = make_regions(region_masks(Layout.empty(2), 4, 4), with_background=False)
    rows = torch.randn(2, 16, 12)
    everywhere = region_attention(rows, rows, 1, empty)
    assert everywhere.shape == (2, 16, 4) and everywhere.isfinite().all()
    for form in FORMS:
        filled = Layout(torch.rand(2, 3, 4), torch.full((2, 3), -1))
        regions = make_regions(region_masks(filled, 4, 4), with_background=False, form=form)
        torch.testing.assert_close(region_attention(rows, rows, 1, regions), everywhere)
    with pytest.raises(ValueError, match="form 'fast' of layout attention is not loop, closed"):
        make_regions(region_masks(filled, 4, 4), with_background=False, form="fast")


def test_the_form_follows_the_areas():
    small, large = torch.zeros(2, 3, 1024), torch.ones(2, 3, 1024)
    small[:, :, :50] = 1
    assert choose(small.bool()) == "packed" and choose(large.bool()) == "closed"
    assert choose(small.bool().to("meta")) == "closed"


# ------------------------------------------------------------------------------- boxes and masks


def test_boxes_on_a_grid():
    boxes = torch.tensor(
        [
            [0.0, 0.0, 1.0, 1.0],  # all
            [0.99, 0.99, 0.5, 0.5],  # beyond the edge: the last cell
            [0.25, 0.5, 0.0, 0.0],  # a point: its cell
            [-0.25, -0.5, 0.5, 0.75],  # begins outside
            [0.225, 0.225, 0.3, 0.3],  # cells 0.9 to 2.1
        ]
    )
    released = [[0, 4, 0, 4], [3, 4, 3, 4], [2, 3, 1, 2], [0, 1, 0, 1], [0, 2, 0, 2]]
    covering = [[0, 4, 0, 4], [3, 4, 3, 4], [2, 3, 1, 2], [0, 1, 0, 1], [0, 3, 0, 3]]
    for rule, wanted in (("released", released), ("covering", covering)):
        found = box_regions(boxes, 4, 4, rule).clamp_max(4)
        assert found.tolist() == wanted, rule
    masks = region_masks(Layout(boxes[None], torch.tensor([[0, 1, 2, 3, -1]])), 4, 4)
    assert masks.sum(2).tolist() == [[16, 1, 1, 1, 0]]
    assert masks[0, 2].view(4, 4)[2, 1] and masks[0, 3].view(4, 4)[0, 0]
    with pytest.raises(ValueError, match="region rule 'ceil' is not released or covering"):
        box_regions(boxes, 4, 4, "ceil")


def test_masks_of_instances_and_segmentations():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 5, 2] = True  # one pixel is enough for its cell
    layout = Layout.pad(
        [torch.tensor([[0.0, 0.0, 1.0, 1.0, 3.0]])], num_classes=4, masks=[mask], least=3
    )
    assert layout.masks.shape == (1, 3, 8, 8) and layout.classes.tolist() == [[3, -1, -1]]
    cells = region_masks(layout, 4, 4)
    assert cells.nonzero().tolist() == [[0, 0, 4 * 2 + 1]]
    segmentation = torch.arange(64).view(1, 8, 8)
    assert grid_classes(segmentation, 4, 4)[0].tolist() == [
        8 * i + j for i in (1, 3, 5, 7) for j in (1, 3, 5, 7)
    ]
    bytes_, numbers = (
        ClassEmbedder(64, 4).prompts(
            Layout.empty(1)._replace(segmentation=kind), [(4, 4)], "segmentation"
        )
        for kind in (
            segmentation.where(segmentation != 9, 255).byte(),
            segmentation.where(segmentation != 9, 255),
        )
    )
    assert torch.equal(bytes_.classes[4, 4], numbers.classes[4, 4])
    assert bytes_.classes[4, 4][0, 0] == 64  # 255 is the background
    with pytest.raises(ValueError, match="a segmentation of 8 x 8 on features of 3 x 3"):
        grid_classes(segmentation, 3, 3)


def test_masks_of_boxes_are_those_boxes():
    net, given = tiny(**LAYOUT), inputs()
    layout = layouts()
    cells = region_masks(layout, 8, 8).unflatten(2, (8, 8))
    masked = layout._replace(boxes=torch.zeros_like(layout.boxes), masks=cells)
    # On the half-size grid a mask covers every cell it touches, which a box there does not.
    net.output_blocks[0][2], net.output_blocks[1][2] = torch.nn.Identity(), torch.nn.Identity()
    net.input_blocks[3][2] = torch.nn.Identity()
    found = net(**given, layout=masked)
    torch.testing.assert_close(found, net(**given, layout=layout))


def test_padding_joining_and_dropping():
    layout = layouts()
    assert layout.classes.tolist() == [[2, 6, 0], [-1, -1, -1], [1, 4, -1]]
    both = Layout.cat([layout, Layout.empty(2)])
    assert both.classes.shape == (5, 3) and (both.classes[3:] == -1).all()
    assert torch.equal(both.take(slice(0, 3)).boxes, layout.boxes)
    net, given = tiny(**LAYOUT), inputs()
    dropped = net(**given, layout=layout.drop(torch.tensor([False, True, True])))
    nothing, whole = net(**given), net(**given, layout=layout)
    close = dict(rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dropped[0], nothing[0], **close)
    torch.testing.assert_close(dropped[1:], whole[1:], **close)
    assert not torch.allclose(whole[0], nothing[0], **close)
    # Instances beside that only fill up, or come in another order, change nothing.
    grown = layout._grown(6)
    turned = grown._replace(boxes=grown.boxes.flip(1), classes=grown.classes.flip(1))
    torch.testing.assert_close(net(**given, layout=turned), whole, **close)
    with pytest.raises(ValueError, match="some of the layouts have masks"):
        Layout.cat([layout, layout._replace(masks=torch.zeros(3, 3, 2, 2, dtype=torch.bool))])


# ---------------------------------------------------------------------------------------- classes


def test_no_class_shares_the_embedding_of_the_background():
    """COCO's id 182 is class 181: a table of 181 classes and the background has no place for it."""
    row = torch.tensor([[0.0, 0.0, 0.5, 0.5, 181.0]])
    with pytest.raises(ValueError, match="has class 181; the network has classes 0 to 180"):
        Layout.pad([row], num_classes=181)
    layout = Layout.pad([row], num_classes=182)
    with pytest.raises(ValueError, match="has class 181; the network has classes 0 to 180"):
        ClassEmbedder(181, 4).prompts(layout, [(2, 2)])
    prompts = ClassEmbedder(182, 4).prompts(layout, [(2, 2)])
    assert not torch.equal(prompts.instances[0, 0], prompts.background)
    for wrong in (-2.0, 7.0, math.nan):
        with pytest.raises(ValueError, match="the network has classes 0 to 6"):
            Layout.pad([torch.tensor([[0.0, 0.0, 1.0, 1.0, wrong]])], num_classes=7)
    with pytest.raises(ValueError, match="has class 9; the network has"):
        Layout.of_segmentation(torch.tensor([[[1, 9], [255, 0]]]), num_classes=7)


def test_a_class_moves_its_own_pixels_only_within_its_box():
    """Between projections nothing outside a box depends on what is in it, the prompt included."""
    block = randomised(LayoutAttention(16, 8))
    embedder = randomised(ClassEmbedder(7, 8), 1)
    x = torch.randn(1, 16, 6, 6)
    rows = torch.tensor([[0.0, 0.0, 0.5, 0.5, 2.0], [0.5, 0.5, 0.5, 0.5, 3.0]])
    other = rows.clone()
    other[0, 4] = 5.0
    first, second = (
        block(x, embedder.prompts(Layout.pad([r], num_classes=7), [(6, 6)])) for r in (rows, other)
    )
    changed = (first - second).abs().amax(1)[0] > 1e-6
    assert changed[:3, :3].all() and not changed[3:].any() and not changed[:, 3:].any()


# ----------------------------------------------------------------------------------- task prompts


def test_gated_prompts_begin_as_nothing():
    given = dict(heads=2, dim_head=4, num_prompts=3, prompt_dim=5, image_in_kv=True)
    plain = randomised(PromptAttention(8, 6, heads=2, dim_head=4))
    gated = PromptAttention(8, 6, **given, gated=True)
    gated.load_state_dict(plain.state_dict(), strict=False)
    released = PromptAttention(8, 6, **given)
    released.load_state_dict({k: v for k, v in gated.state_dict().items() if k != "gate"})
    x, text = torch.randn(2, 7, 8), torch.randn(2, 4, 6)
    out = gated(x, text)
    assert torch.equal(out, plain(x, text))
    assert not torch.allclose(released(x, text), out)
    out.sum().backward()
    assert gated.gate.grad.abs() > 0
    with torch.no_grad():
        gated.gate.fill_(1)
    torch.testing.assert_close(gated(x, text), released(x, text))
    assert gated.adapters() == [
        "prompt", "gate", "prompt_to_context_dim.weight", "image_to_context_dim.weight"
    ]  # fmt: skip


def test_gated_prompts_without_text_are_beside_the_rows():
    plain = randomised(PromptAttention(8, heads=2, dim_head=4))
    gated = PromptAttention(8, heads=2, dim_head=4, num_prompts=3, prompt_dim=5, gated=True)
    gated.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 7, 8)
    assert torch.equal(gated(x), plain(x))
    with torch.no_grad():
        gated.gate.fill_(1)
    context = torch.cat([x, gated.prompt_to_context_dim(gated.prompt).expand(2, -1, -1)], 1)
    wide = PromptAttention(8, 8, heads=2, dim_head=4)
    wide.load_state_dict(plain.state_dict())
    torch.testing.assert_close(gated(x), wide(x, context))


def test_prompts_without_text_and_rows_of_a_batch():
    net, given = tiny(**LAYOUT, **TRANSFORMER), inputs()
    text = torch.randn(3, 4, 12)
    whole = net(**given, text=text, layout=layouts())
    for b in range(3):
        row = slice(b, b + 1)
        alone = net(given["x"][row], given["t"][row], text=text[row], layout=layouts().take(row))
        torch.testing.assert_close(alone[0], whole[b], rtol=1e-4, atol=1e-5)
    assert net(**given).isfinite().all()  # neither text nor layout


@pytest.mark.parametrize("kind", LAYOUT_ATTENTION)
def test_half_precision(kind):
    """Under autocast, forward and backward, in every form: close to fp32, of no mixed types."""
    net, given = tiny(**{**LAYOUT, **TRANSFORMER, "layout_attn_type": kind}), inputs()
    layout = layouts()._replace(segmentation=(torch.arange(192) % 7).view(3, 8, 8))
    text = torch.randn(3, 4, 12, generator=torch.Generator().manual_seed(2))
    wanted = net(**given, text=text, layout=layout)
    for form in FORMS if "partial_v" in kind else ("closed",):
        net.layout_form = form
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            out = net(**given, text=text, layout=layout)
        assert (out - wanted).norm() < 0.05 * wanted.norm(), form
        out.float().square().mean().backward()
        assert all(p.grad.isfinite().all() for p in net.parameters())
