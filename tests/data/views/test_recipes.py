import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.transforms import v2
from torchvision.transforms.functional import to_pil_image

from data.views.ops import ORDERS
from data.views.recipes import (
    RECIPES,
    Draws,
    ExactViews,
    FoldedViews,
    Recipe,
    _orders,
    check_recipe,
    draw,
    odd_tenth,
    per_sample,
    recipe,
    view_keys,
)
from storage.errors import DataError

STATS = dict(mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))
# one of each kind: reducing, enlarging, oblong pictures, blur, normalisation, hue of any turn
PLANS = {
    "cifar": (recipe("cifar", color_s=0.5), 32, 32),
    "paper": (recipe("paper", crop_size=40, **STATS), 40, 40),
    "oblong": (recipe("imagenet", crop_size=24, color_s=2.5), 50, 31),
    "mini": (recipe("miniImagenet", crop_size=48), 42, 42),
    "real": (recipe("real", crop_size=20), 26, 33),
}


def pictures(n: int, height: int, width: int, smooth: bool = False) -> torch.Tensor:
    """uint8; half of them (or all) smooth."""
    generator = torch.Generator().manual_seed(n)
    noise = torch.randint(0, 256, (n, 3, height, width), generator=generator).float()
    coarse = torch.rand(n, 3, 5, 5, generator=generator)
    soft = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear") * 255
    keep = torch.arange(n).view(-1, 1, 1, 1) % 2 == 1
    return torch.where(keep & (not smooth), noise, soft).to(torch.uint8)


def keys(n: int, *, seed: int = 0, view: int = 0) -> torch.Tensor:
    return view_keys(seed, 3, torch.arange(n), view)


def torchvision_view(plan: Recipe, image: torch.Tensor, draws: Draws, row: int) -> torch.Tensor:
    """The view of one picture (uint8 [3, H, W]) with the parameters of `draws` at `row`.

    By torchvision's functions on float32, one after the other: the oracle of the batched ways.
    """
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    d = draws.rows(slice(row, row + 1))
    x = image.to(torch.float32) / 255
    box = d.boxes[0].tolist()
    size = [plan.size, plan.size]
    x = F.resized_crop(x, *box, size, interpolation=InterpolationMode.BILINEAR, antialias=True)
    if d.flip[0]:
        x = F.horizontal_flip(x)
    if d.jitter[0]:
        steps = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
        for op in ORDERS[int(d.order[0])]:
            x = steps[op](x, float(d.factors[0, op]))
    if d.gray[0]:
        x = F.rgb_to_grayscale(x, num_output_channels=3)
    if d.blur[0]:
        x = F.gaussian_blur(x, [plan.blur_kernel] * 2, [float(d.sigma[0])] * 2)
    if plan.mean is not None and plan.std is not None:
        x = F.normalize(x, list(plan.mean), list(plan.std))
    return x


def by_torchvision(plan, images, draws):
    return torch.stack([torchvision_view(plan, x, draws, i) for i, x in enumerate(images)])


# ------------------------------------------------------------------------------------ exact


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("way", ["blocks", "device"])
def test_the_whole_chain_is_torchvisions(name, way):
    plan, height, width = PLANS[name]
    images = pictures(96, height, width)
    draws = draw(plan, keys(96), height, width)
    views = ExactViews(plan)
    out = views.apply(images, draws)
    if way == "device":  # what runs on a GPU, where nothing may wait for a number
        out = views._on_device(images, draws)
    assert out.shape == (96, 3, plan.size, plan.size) and out.dtype == torch.float32
    low = 1e-4 if plan.hue else 2e-5
    scale = 1 if plan.std is None else 1 / min(plan.std)
    expected = by_torchvision(plan, images, draws)
    torch.testing.assert_close(out, expected, rtol=0, atol=low * scale)
    # and closer still, but for pixels next to a jump of the hue
    assert (out - expected).abs().mean() < 1e-6 * scale


@pytest.mark.parametrize("kind", [ExactViews, FoldedViews])
@pytest.mark.parametrize("name", ["cifar", "paper", "oblong"])
def test_a_view_depends_on_its_key_and_picture_alone(kind, name):
    plan, height, width = PLANS[name]
    images, some = pictures(60, height, width), keys(60)
    views = kind(plan)
    whole = views(images, some)
    assert torch.equal(whole, views(images, some))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    part = order[:17]
    torch.testing.assert_close(views(images[part], some[part]), whole[part], rtol=0, atol=2e-6)
    views._block = lambda: 3
    torch.testing.assert_close(views(images, some), whole, rtol=0, atol=2e-6)
    assert (views(images, keys(60, view=1)) - whole).abs().mean() > 0.01


@pytest.mark.parametrize("kind", [ExactViews, FoldedViews])
def test_channels_last(kind):
    plan, height, width = PLANS["paper"]
    images = pictures(20, height, width)
    out = kind(plan, channels_last=True)(images, keys(20))
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(out, kind(plan)(images, keys(20)))


@pytest.mark.parametrize("kind", [ExactViews, FoldedViews])
@pytest.mark.parametrize("side", [30, 18])  # larger and smaller than the view
def test_any_layout_of_pictures(kind, side):
    plan = recipe("imagenet", crop_size=24)
    images = pictures(20, side, side + 3)
    expected = kind(plan)(images, keys(20))
    for other in (images.contiguous(memory_format=torch.channels_last), images.flip(3).flip(3)):
        assert torch.equal(kind(plan)(other, keys(20)), expected)
    part = torch.nn.functional.pad(images, (2, 5, 1, 4))[:, :, 1:-4, 2:-5]
    assert not part.is_contiguous() and torch.equal(kind(plan)(part, keys(20)), expected)


@pytest.mark.parametrize("kind", [ExactViews, FoldedViews])
def test_views_lie_in_0_to_1(kind):
    plan = recipe("imagenet", crop_size=24, color_s=2)
    out = kind(plan)(pictures(64, 24, 24), keys(64))
    assert out.min() >= -1e-6 and out.max() <= 1 + 1e-6  # a resize rounds, as torchvision's does
    assert kind(plan)(pictures(64, 24, 24)[:0], keys(0)).shape == (0, 3, 24, 24)


@pytest.mark.parametrize("kind", [ExactViews, FoldedViews])
def test_autocast_changes_nothing(kind):
    plan, height, width = PLANS["paper"]
    images = pictures(8, height, width)
    expected = kind(plan)(images, keys(8))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(kind(plan)(images, keys(8)), expected)


@pytest.mark.parametrize("kind", [ExactViews, FoldedViews])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same(kind):
    plan, height, width = PLANS["paper"]
    images = pictures(64, height, width)
    expected = kind(plan)(images, keys(64))
    for some in (keys(64), keys(64).cuda()):
        for there in (images, images.cuda()):
            out = kind(plan)(there, some)
            torch.testing.assert_close(out.cpu(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", [ExactViews, FoldedViews])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_not_waited_for(kind):
    plan, height, width = PLANS["paper"]
    images, some = pictures(64, height, width).cuda(), keys(64).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        kind(plan)(images, some)
    finally:
        torch.cuda.set_sync_debug_mode("default")


class OnlyOnTheGPU(TorchDispatchMode):
    """Fails where an operation reads or makes a tensor of the host: one waits for the other."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        assert all(t.is_cuda for t in tensors), func
        return out


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("kind", [ExactViews, FoldedViews])
def test_a_gpu_would_not_be_waited_for(kind, name):
    """Without one: tensors that have a device and a shape and nothing in them.

    What depends on their contents, such as nonzero, fails of itself.
    """
    plan, height, width = PLANS[name]
    with FakeTensorMode():
        images = torch.empty(8, 3, height, width, dtype=torch.uint8, device="cuda")
        some = torch.empty(8, dtype=torch.int64, device="cuda")
        with OnlyOnTheGPU():
            out = kind(plan)(images, some)
    assert out.shape == (8, 3, plan.size, plan.size) and out.is_cuda


# ------------------------------------------------------------------------------------ folded


@pytest.mark.parametrize("name", ["real", "mini"])
def test_folded_without_jitter_is_exact(name):
    plan, height, width = PLANS[name]
    plan = plan._replace(jitter_p=0)
    images = pictures(64, height, width)
    draws = draw(plan, keys(64), height, width)
    expected = by_torchvision(plan, images, draws)
    torch.testing.assert_close(FoldedViews(plan).apply(images, draws), expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("k", range(len(ORDERS)))
def test_folded_is_exact_where_nothing_is_clipped_and_hue_permutes(k):
    """A third of a turn permutes the channels in RGB as in HSV."""
    plan = recipe("small", crop_size=16)
    images = pictures(3, 16, 16, smooth=True) // 4 + 80
    draws = draw(plan, keys(3), 16, 16)
    factors = torch.tensor([[1.1, 0.9, 0.8, 1 / 3], [0.8, 1.2, 1.1, -1 / 3], [1.2, 0.9, 1.1, 0]])
    on = torch.ones(3, dtype=torch.bool)
    order, gray = torch.full((3,), k), torch.tensor([False, False, True])
    draws = draws._replace(factors=factors, jitter=on, order=order, gray=gray)
    expected = by_torchvision(plan, images, draws)
    assert expected.min() > 0 and expected.max() < 1
    torch.testing.assert_close(FoldedViews(plan).apply(images, draws), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("color_s", "mean", "most"), [(0.5, 0.03, 0.1), (1.0, 0.06, 0.3)])
def test_what_folding_changes(color_s, mean, most):
    """Mean absolute difference to the exact views: over all, and of the worst view."""
    plan = recipe("imagenet", crop_size=32, color_s=color_s)
    images, some = pictures(512, 32, 32, smooth=True), keys(512)
    change = (ExactViews(plan)(images, some) - FoldedViews(plan)(images, some)).abs()
    assert 1e-3 < change.mean() < mean
    assert change.mean((1, 2, 3)).max() < most


@pytest.mark.parametrize(("color_s", "brighter", "more"), [(0.5, 0.01, 1.7), (1.0, 0.02, 2.4)])
def test_in_which_direction_folding_changes_views(color_s, brighter, more):
    """As --help of --exact_augs and docs/simclr.md have it: brighter, more values at 0 or 1."""
    plan = recipe("cifar", color_s=color_s)
    images, some = pictures(512, 32, 32, smooth=True), keys(512)
    exact, folded = ExactViews(plan)(images, some), FoldedViews(plan)(images, some)
    assert 1 < folded.mean() / exact.mean() < 1 + brighter
    ends = [((x <= 0) | (x >= 1)).double().mean() for x in (exact, folded)]
    assert 1.2 < ends[1] / ends[0] < more


# ------------------------------------------------------------------------------------ draws


def many(plan: Recipe, height: int, width: int, n: int = 4000) -> Draws:
    return draw(plan, keys(n), height, width)


def drawn_by_torchvision(transform, height: int, width: int, n: int = 4000) -> list[dict]:
    torch.manual_seed(0)
    image = torch.zeros(3, height, width)
    return [transform.make_params([image]) for _ in range(n)]


@pytest.mark.parametrize(
    ("height", "width", "options"),
    [
        (32, 32, {}),
        (96, 96, dict(scale=(0.2, 1.0))),
        (40, 90, {}),
        (30, 120, dict(scale=(0.9, 1.0))),  # mostly the central crop
        (120, 30, dict(scale=(0.9, 1.0))),
    ],
)
def test_crops_are_distributed_as_torchvisions(height, width, options):
    plan = Recipe(32, **options)
    theirs = drawn_by_torchvision(v2.RandomResizedCrop(32, plan.scale), height, width)
    ours = many(plan, height, width).boxes
    top, left, h, w = ours.unbind(1)
    assert (top >= 0).all() and (left >= 0).all() and (h > 0).all() and (w > 0).all()
    assert (top + h <= height).all() and (left + w <= width).all()
    for k, name in enumerate(("top", "left", "height", "width")):
        found = stats.ks_2samp(ours[:, k].numpy(), [p[name] for p in theirs])
        assert found.pvalue > 1e-3, name
    area = stats.ks_2samp((h * w).numpy(), [p["height"] * p["width"] for p in theirs])
    assert area.pvalue > 1e-3


def test_colours_are_distributed_as_torchvisions():
    plan = recipe("cifar", color_s=1.5)  # 1 - 1.2 is below 0
    jitter = v2.ColorJitter(plan.brightness, plan.contrast, plan.saturation, plan.hue)
    theirs = drawn_by_torchvision(jitter, 8, 8)
    ours = many(plan, 8, 8)
    for k, name in enumerate(("brightness", "contrast", "saturation", "hue")):
        expected = [p[f"{name}_factor"] for p in theirs]
        assert stats.ks_2samp(ours.factors[:, k].numpy(), expected).pvalue > 1e-3, name
    assert stats.chisquare(ours.order.bincount(minlength=24)).pvalue > 1e-3
    codes = [ORDERS.index(tuple(p["fn_idx"].tolist())) for p in theirs]
    table = [ours.order.bincount(minlength=24).tolist(), np.bincount(codes, minlength=24)]
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_chances_and_blur():
    plan = recipe("imagenet")
    ours = many(plan, 8, 8)
    for name, p in (("flip", 0.5), ("jitter", 0.8), ("gray", 0.2), ("blur", 0.5)):
        assert abs(getattr(ours, name).float().mean() - p) < 4 * math.sqrt(p * (1 - p) / 4000)
    theirs = drawn_by_torchvision(v2.GaussianBlur(9, (0.1, 2.0)), 8, 8)
    assert stats.ks_2samp(ours.sigma.numpy(), [p["sigma"][0] for p in theirs]).pvalue > 1e-3


def test_draws_are_independent_of_each_other_and_of_the_other_view():
    plan = recipe("imagenet")
    columns = []
    for view in (0, 1):
        d = draw(plan, keys(4000, view=view), 96, 96)
        columns += [*d.boxes.T, *d.factors.T, d.sigma, d.order]
        columns += [d.flip, d.jitter, d.gray, d.blur]
    r = np.abs(np.corrcoef(np.stack([c.numpy().astype(float) for c in columns])))
    n = len(columns) // 2
    np.fill_diagonal(r, 0)
    for first in (0, n):  # the four numbers of a box depend on each other, of course
        r[first : first + 4, first : first + 4] = 0
    assert r.max() < 5 / math.sqrt(4000)


def test_keys():
    some = view_keys(1, 2, torch.arange(1000), 0)
    assert len(some.unique()) == 1000 and some.dtype == torch.int64
    others = [view_keys(*k) for k in ((0, 2, torch.arange(1000), 0), (1, 3, torch.arange(1000), 0))]
    others.append(view_keys(1, 2, torch.arange(1000), 1))
    assert not any((some == other).any() for other in others)


def test_orders_by_number():
    assert torch.equal(_orders(torch.arange(24)), torch.tensor(ORDERS))


# ------------------------------------------------------------------------------------ recipes


def test_recipes():
    seed = recipe("cifar")
    assert seed[:4] == (32, (0.08, 1.0), (3 / 4, 4 / 3), 0.5)
    assert (seed.jitter_p, seed.brightness, seed.hue, seed.gray_p) == (0.8, 0.4, 0.1, 0.2)
    assert seed.blur_p == 0 and seed.mean is None
    mini = recipe("miniImagenet")
    assert (mini.size, mini.blur_p, mini.blur_kernel, mini.sigma) == (128, 1, 23, (0.1, 2.0))
    paper = recipe("paper")
    assert (paper.size, paper.blur_p, paper.blur_kernel, paper.contrast) == (224, 0.5, 23, 0.8)
    strong = recipe("strong")
    assert (strong.scale, strong.gray_p, strong.brightness) == ((0.2, 1.0), 0.1, 0.4)
    real = recipe("real")
    assert real.jitter_p == real.gray_p == real.blur_p == 0 and real.flip == 0.5
    assert recipe("cifar", unreal_augs=False) == real
    assert recipe("cifar", gaussian_blur=True).blur_p == 0.5
    assert recipe("cifar", gaussian_blur=0.3).blur_kernel == 3
    assert recipe("paper", gaussian_blur=False).blur_p == 0
    assert recipe("cifar", color_s=0).jitter_p == 0
    assert [odd_tenth(r) for r in (32, 96, 128, 224)] == [3, 9, 13, 23]
    with pytest.raises(AttributeError):
        seed.size = 3


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs(name):
    plan = recipe(name)
    images = pictures(4, 40, 40)
    assert ExactViews(plan)(images, keys(4)).shape == (4, 3, plan.size, plan.size)
    assert FoldedViews(plan)(images, keys(4)).shape == (4, 3, plan.size, plan.size)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(size=0), "views of 0 px"),
        (dict(scale=(0.5, 0.1)), "crop scale"),
        (dict(flip=1.5), "flip 1.5 is no chance"),
        (dict(hue=0.6), "color_s at most 2.5"),
        (dict(contrast=-1), "contrast -1"),
        (dict(blur_p=1.0, blur_kernel=4), "a blur of 4 taps"),
        (dict(blur_p=1.0, blur_kernel=65), "a blur of 65 taps"),
        (dict(blur_p=1.0, blur_kernel=3, sigma=(0.0, 1.0)), "sigma"),
        (dict(mean=(0.5,) * 3), "give both or neither"),
    ],
)
def test_bad_recipes(change, message):
    with pytest.raises(DataError, match=message):
        check_recipe(recipe("cifar")._replace(**change))


def test_bad_calls():
    with pytest.raises(DataError, match="no recipe 'cifra'; there are cifar"):
        recipe("cifra")
    views, images = ExactViews(recipe("cifar")), pictures(4, 32, 32)
    with pytest.raises(DataError, match="must be uint8"):
        views(images.float(), keys(4))
    with pytest.raises(DataError, match="one a picture"):
        views(images, keys(5))


def test_per_sample_has_the_same_distribution():
    """The oracle that draws itself, on PIL pictures: mean and spread over many views of one."""
    plan = recipe("imagenet", crop_size=24)
    image = pictures(1, 32, 32, smooth=True)
    torch.manual_seed(0)
    slow = per_sample(plan)
    theirs = torch.stack([slow(to_pil_image(image[0])) for _ in range(1500)])
    ours = ExactViews(plan)(image.expand(1500, -1, -1, -1), keys(1500))
    assert theirs.shape == ours.shape and theirs.dtype == ours.dtype
    for measure in (
        lambda x: x.mean((1, 2, 3)),
        lambda x: x.std((1, 2, 3)),
        lambda x: x[:, 0, 3, 5],
    ):
        assert stats.ks_2samp(measure(theirs).numpy(), measure(ours).numpy()).pvalue > 1e-3
    tensor = slow(image[0])
    assert tensor.shape == (3, 24, 24) and tensor.dtype == torch.float32
