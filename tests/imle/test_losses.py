"""Losses against brute force and against the `lpips` package's own forward."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from imle import ProjectedDistance, ResolutionLoss, fused_distance
from imle.fused_distance import distance
from imle.losses import LossTarget
from imle.perceptual import VGG16Features, lpips_lins

INDICES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


@pytest.fixture(scope="module")
def loss() -> ResolutionLoss:
    return ResolutionLoss(random_seed=0, alpha=0.2)


def images(n: int, height: int = 16, width: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


def vgg_state(features: VGG16Features) -> dict[str, torch.Tensor]:
    state = {}
    for k, index in enumerate(INDICES):
        state[f"features.{index}.weight"] = getattr(features, f"w{k}")
        state[f"features.{index}.bias"] = getattr(features, f"b{k}")
    return state


def brute_features(features: VGG16Features, x: torch.Tensor) -> list[torch.Tensor]:
    """Five normalised maps of ONE image `[3, H, W]`, in float64."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    h = ((2 * x.double() - 1 - shift.double()[:, None, None]) / scale.double()[:, None, None])[None]
    maps = []
    for k in range(13):
        if k in (2, 4, 7, 10):
            h = F.max_pool2d(h, 2)
        w, b = getattr(features, f"w{k}"), getattr(features, f"b{k}")
        h = F.conv2d(h, w.double(), b.double(), padding=1).relu()
        if k in (1, 3, 6, 9, 12):
            length = (h.pow(2).sum(1, keepdim=True) + 1e-10).sqrt() + 1e-10
            maps.append((h / length)[0])
    return maps


@pytest.mark.parametrize("size", [(16, 16), (24, 40)])
@pytest.mark.parametrize("weighting", ["lpips", "reference", "original"])
def test_against_brute_force(loss: ResolutionLoss, size: tuple[int, int], weighting: str):
    other = ResolutionLoss(vgg_state(loss.features), alpha=0.2, weighting=weighting)
    y, fx = images(2, *size), images(6, *size, seed=1)
    terms = other.terms(fx, y)
    lins = [lin.double()[:, None, None] for lin in lpips_lins()]
    for row in range(0, 6, 2):
        pairs = zip(
            brute_features(loss.features, fx[row]),
            brute_features(loss.features, y[row // 3]),
            strict=True,
        )
        expected = 0.0
        for (a, b), lin in zip(pairs, lins, strict=True):
            squared = (lin * (a - b).pow(2)).sum()
            channels, height, width = a.shape
            expected += {
                "lpips": squared / (height * width),
                "original": squared / width**2,
                "reference": squared / (5 * channels * height * width),
            }[weighting]
        mse = (fx[row] - y[row // 3]).double().pow(2).mean()
        assert terms.lpips[row].item() == pytest.approx(expected.item(), rel=1e-5)
        assert terms.mse[row].item() == pytest.approx(mse.item(), rel=1e-6)
        assert terms.combined[row].item() == pytest.approx((expected + 0.2 * mse).item(), rel=1e-5)
    assert torch.equal(other(fx, y), terms.combined)


@pytest.mark.filterwarnings("ignore::UserWarning")  # lpips calls torchvision the old way
@pytest.mark.parametrize("size", [(16, 16), (32, 48)])
def test_equals_the_lpips_package(loss: ResolutionLoss, size: tuple[int, int]):
    lpips = pytest.importorskip("lpips")
    package = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
    state = vgg_state(loss.features)
    with torch.no_grad():
        convs = [m for m in package.net.modules() if isinstance(m, torch.nn.Conv2d)]
        assert len(convs) == 13
        for conv, index in zip(convs, INDICES, strict=True):
            conv.weight.copy_(state[f"features.{index}.weight"])
            conv.bias.copy_(state[f"features.{index}.bias"])
        a, b = images(3, *size), images(3, *size, seed=1)
        expected = package(a, b, normalize=True).flatten()
        torch.testing.assert_close(loss.terms(a, b).lpips, expected, rtol=1e-5, atol=1e-7)


def test_prepared_targets(loss: ResolutionLoss):
    y, fx = images(3), images(6, seed=1)
    expected = loss(fx, y)
    target = loss.prepare(y)
    assert torch.equal(loss(fx, target), expected)
    torch.testing.assert_close(loss(fx, loss.prepare(y, max_rows=2)), expected)
    rows = torch.tensor([2, 0])
    part = LossTarget(target.y[rows], tuple(f[rows] for f in target.features))
    torch.testing.assert_close(loss(fx[[4, 5, 0, 1]], part), expected[[4, 5, 0, 1]])
    assert not any(f.requires_grad for f in target.features)


def test_one_row_stays_a_row(loss: ResolutionLoss):
    assert loss(images(1), images(1, seed=1)).shape == (1,)
    assert loss(images(1), images(1)).item() == pytest.approx(0, abs=1e-9)


def test_nothing_of_the_loss_learns_or_is_saved(loss: ResolutionLoss):
    fx = images(2).requires_grad_()
    y = images(2, seed=1).requires_grad_()
    loss(fx, y).sum().backward()
    assert fx.grad.abs().sum() > 0 and y.grad is None
    assert list(loss.parameters()) == [] and loss.state_dict() == {}
    assert all(b.grad is None and not b.requires_grad for b in loss.buffers())


def test_gradient_by_finite_differences(loss: ResolutionLoss):
    state = {k: v.double() for k, v in vgg_state(loss.features).items()}
    y, fx = images(1), images(1, seed=1).requires_grad_()
    (grad,) = torch.autograd.grad(loss(fx, y).sum(), fx)
    assert state and grad.shape == fx.shape
    direction = images(1, seed=2) - 0.5
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            maps = zip(
                brute_features(loss.features, (fx + sign * 1e-4 * direction)[0]),
                brute_features(loss.features, y[0]),
                lpips_lins(),
                strict=True,
            )
            lpips = sum(
                (lin.double()[:, None, None] * (a - b).pow(2)).sum() / a[0].numel()
                for a, b, lin in maps
            )
            moved = fx.double() + sign * 1e-4 * direction.double()
            values.append(lpips + 0.2 * (moved - y.double()).pow(2).mean())
    slope = ((values[0] - values[1]) / 2e-4).item()
    assert (grad * direction).sum().item() == pytest.approx(slope, rel=2e-2)


def test_bfloat16_ranks_like_float32(loss: ResolutionLoss):
    y, fx = images(1), torch.cat([images(1).lerp(images(1, seed=1), t) for t in (0.2, 0.5, 0.9)])
    with torch.autocast("cpu", torch.bfloat16):
        low = loss(fx, loss.prepare(y))
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, loss(fx, y), rtol=0.05, atol=0)
    assert low.argsort().tolist() == [0, 1, 2]


def test_channels_last_images(loss: ResolutionLoss):
    y, fx = images(2), images(4, seed=1)
    found = loss(fx.contiguous(memory_format=torch.channels_last), y)
    torch.testing.assert_close(found, loss(fx, y), rtol=1e-4, atol=1e-6)


def test_names_and_random_weights(loss: ResolutionLoss):
    assert loss.name == "lpips_random"
    assert ResolutionLoss(vgg_state(loss.features)).name == "lpips"
    again, other = (VGG16Features(random_seed=s) for s in (0, 1))
    assert torch.equal(again.w5, loss.features.w5) and not torch.equal(other.w5, again.w5)


def test_weight_files(tmp_path: Path, loss: ResolutionLoss):
    state = vgg_state(loss.features)
    path = tmp_path / "vgg16.pth"
    torch.save({**state, "classifier.0.weight": torch.zeros(2)}, path)
    assert torch.equal(ResolutionLoss(path).features.w12, loss.features.w12)
    with pytest.raises(ValueError, match=r"no VGG16 weights at .*absent.pth"):
        ResolutionLoss(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("<html>quota exceeded</html>")
    with pytest.raises(ValueError, match="text.pth is not a readable VGG16 weight file"):
        ResolutionLoss(tmp_path / "text.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list"):
        ResolutionLoss(tmp_path / "list.pth")
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"not of torchvision's vgg16: no features.0.bias \(64,\)"):
        ResolutionLoss(tmp_path / "part.pth")


def test_pickles_are_not_executed(tmp_path: Path):
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return marker.touch, ()

    torch.save({"features.0.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="not a readable VGG16 weight file"):
        ResolutionLoss(tmp_path / "evil.pth")
    assert not marker.exists()


def test_bad_arguments(loss: ResolutionLoss):
    with pytest.raises(ValueError, match="exactly one"):
        ResolutionLoss()
    with pytest.raises(ValueError, match="exactly one"):
        ResolutionLoss("vgg16.pth", random_seed=0)
    with pytest.raises(ValueError, match="alpha must be finite and at least 0, got -1"):
        ResolutionLoss(random_seed=0, alpha=-1)
    with pytest.raises(ValueError, match="weighting must be lpips, reference or original"):
        ResolutionLoss(random_seed=0, weighting="vgg")
    with pytest.raises(ValueError, match=r"8 x 8 are too small .* at least 16 x 16"):
        loss(images(1, 8, 8), images(1, 8, 8))
    with pytest.raises(ValueError, match="5 images cannot be shared out over 2 targets"):
        loss(images(5), images(2))
    with pytest.raises(ValueError, match="differ"):
        loss(images(2), images(2, 32, 32))
    with pytest.raises(ValueError, match=r"\[N, 3, H, W\], got \[2, 1, 16, 16\]"):
        loss(images(2)[:, :1], images(2)[:, :1])


# projections


def test_projection_by_brute_force(loss: ResolutionLoss):
    distance = ProjectedDistance(loss.features, 20, seed=3)
    y, fx = images(2), images(4, seed=1)
    with torch.no_grad():
        rows = []
        for x in [*fx, *y]:
            parts = []
            for layer, f in enumerate(loss.features(x[None])):
                flat = f[0].reshape(-1)
                matrix = distance.matrix(layer, len(flat), flat.device)
                parts.append((flat[:, None].double() * matrix.double()).sum(0) / f.shape[3])
            rows.append(torch.cat(parts))
        expected = torch.stack(
            [(rows[i] - rows[4 + i // 2]).pow(2).sum() for i in range(4)]
        ).float()
        torch.testing.assert_close(distance(fx, y), expected, rtol=1e-4, atol=1e-8)
        torch.testing.assert_close(distance(fx, distance.prepare(y, max_rows=1)), expected)
        assert distance.project(fx).shape == (4, 20)


def test_projection_matrices(loss: ResolutionLoss):
    def make(seed: int) -> ProjectedDistance:
        return ProjectedDistance(loss.features, 50, seed=seed)

    one, same, other = make(1), make(1), make(2)
    device = torch.device("cpu")
    matrix = one.matrix(2, 300, device)
    assert matrix.shape == (300, 10)
    torch.testing.assert_close(matrix.norm(dim=1), torch.ones(300))
    assert torch.equal(matrix, same.matrix(2, 300, device))
    assert not torch.equal(matrix, other.matrix(2, 300, device))
    assert not torch.equal(matrix, one.matrix(3, 300, device))
    one.set_round(5)
    assert not torch.equal(matrix, one.matrix(2, 300, device))
    one.set_round(0)
    assert torch.equal(matrix, one.matrix(2, 300, device))
    assert one.state_dict() == {} and list(one.parameters()) == []


def test_projection_estimates_lpips(loss: ResolutionLoss):
    y, fx = images(1), torch.cat([images(1).lerp(images(1, seed=1), t) for t in (0.1, 0.4, 0.9)])
    distance = ProjectedDistance(loss.features, 2000)
    with torch.no_grad():
        estimate, exact = distance(fx, y), loss.terms(fx, y).lpips
    torch.testing.assert_close(estimate, exact, rtol=0.25, atol=0)
    assert estimate.argsort().tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="proj_dim must be at least 5"):
        ProjectedDistance(loss.features, 4)


def test_pairwise_equals_the_terms_of_every_pair():
    loss = ResolutionLoss(random_seed=0)
    x = torch.rand(3, 3, 16, 20, generator=torch.Generator().manual_seed(1))
    found = loss.pairwise(x)
    for i in range(3):
        for j in range(3):
            expected = loss.terms(x[i : i + 1], x[j : j + 1]).lpips[0]
            torch.testing.assert_close(found[i, j], expected, rtol=1e-5, atol=1e-7)


def test_images_may_be_prepared_as_targets_are():
    loss = ResolutionLoss(random_seed=0)
    x, y = images(4), images(2, seed=1)
    ready = loss.prepare(x)
    for own, prepared in zip(loss.terms(x, y), loss.terms(ready, y), strict=True):
        assert torch.equal(own, prepared)
    assert torch.equal(loss.pairwise(x), loss.pairwise(ready))
    with pytest.raises(ValueError, match="cannot be shared out"):
        loss.terms(ready, images(3))


@pytest.mark.parametrize("size", [(16, 16), (24, 40)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_fused_gradients_are_those_of_autograd(loss: ResolutionLoss, size, layout):
    """Of brute-force float64, of a loss that weighs rows differently."""
    eager = ResolutionLoss(vgg_state(loss.features), alpha=0.2, fused=False)
    weights, y = torch.tensor([1.0, -0.5, 3.0]), images(3, *size)
    made = {}
    for name, tested in (("fused", loss), ("eager", eager)):
        x = images(3, *size, seed=1).contiguous(memory_format=layout).requires_grad_()
        value = tested(x, tested.prepare(y))
        (value * weights).sum().backward()
        made[name] = (value.detach(), x.grad)
    for row in range(3):
        x = images(3, *size, seed=1)[row].double().requires_grad_()
        there = brute_features(loss.features, y[row])
        lins = [lin.double()[:, None, None] for lin in lpips_lins()]
        maps = zip(brute_features(loss.features, x), there, lins, strict=True)
        value = sum((lin * (a - b).square()).sum(0).mean() for a, b, lin in maps)
        value = value + 0.2 * (x - y[row].double()).square().mean()
        (value * weights[row].double()).backward()
        for found, grads in made.values():
            torch.testing.assert_close(found[row].double(), value.detach(), rtol=1e-5, atol=1e-7)
            # a ReLU at 0 up to rounding may go either way; the distance by itself: below
            assert (grads[row] - x.grad).norm() < 0.02 * x.grad.norm()


def test_fused_distance_of_empty_maps_and_low_precision():
    """Maps of zeros have the gradient of autograd; bfloat16 in, its gradient in bfloat16 out."""
    torch.manual_seed(0)
    there, root = torch.randn(3, 5, 4, 6), torch.rand(1, 5, 1, 1)
    f = torch.randn(3, 5, 4, 6)
    f[0], f[1, :, 1] = 0, 0
    for dtype, close in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        one, other = (f.to(dtype, copy=True).requires_grad_() for _ in range(2))
        rows = distance(one, there, root)
        full = other.float()
        length = torch.sqrt((full * full).sum(1, keepdim=True) + 1e-10) + 1e-10
        expected = (full / length * root - there).square().sum((1, 2, 3))
        torch.testing.assert_close(rows, expected)
        (rows * torch.tensor([1.0, 2.0, 0.5])).sum().backward()
        (expected * torch.tensor([1.0, 2.0, 0.5])).sum().backward()
        assert one.grad.dtype == dtype
        assert (one.grad - other.grad).float().norm() < close * other.grad.float().norm()


def test_fused_gradients_have_none_themselves(loss: ResolutionLoss):
    x = images(2).requires_grad_()
    value = loss(x, images(2, seed=1)).sum()
    with pytest.raises(RuntimeError, match="no second gradient: ask for fused=False"):
        torch.autograd.grad(value, x, create_graph=True)


def test_candidates_have_gradients_too(loss: ResolutionLoss):
    """Several images a target go by autograd, with the same gradient."""
    y, one = images(2), images(2, seed=1).requires_grad_()
    several = one.detach().repeat_interleave(3, 0).requires_grad_()
    loss(one, y).sum().backward()
    loss(several, y).sum().backward()
    torch.testing.assert_close(several.grad[::3], one.grad, rtol=1e-4, atol=1e-7)


def plainly_cast(features: VGG16Features, x: torch.Tensor) -> list[torch.Tensor]:
    """Maps in bfloat16, every weight cast by autocast in every call."""
    h, maps = (2 * x - 1 - features.shift) / features.scale, []
    with torch.autocast("cpu", torch.bfloat16):
        for k in range(13):
            h = F.max_pool2d(h, 2) if k in (2, 4, 7, 10) else h
            w, b = getattr(features, f"w{k}"), getattr(features, f"b{k}")
            h = F.conv2d(h, w, b, padding=1).relu()
            if k in (1, 3, 6, 9, 12):
                maps.append(h)
    return maps


def test_cast_weights_follow_the_weights():
    """Weights are cast once, and again where they are others: changed in place, replaced, moved."""
    features, x = VGG16Features(random_seed=0), images(2)

    def cast() -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return list(features.maps(x))

    def check() -> None:
        for _ in range(2):
            made = cast()
            assert all(
                torch.equal(a, b) for a, b in zip(made, plainly_cast(features, x), strict=True)
            )

    with torch.inference_mode():
        cast()
    check()
    once = features._cast
    check()
    assert features._cast is once
    features.w3.mul_(2)
    check()
    features.b12 = features.b12 + 0.1
    check()
    features.to(memory_format=torch.channels_last)
    check()
    assert copy.deepcopy(features)._cast is None
    assert features.half()._weights("cpu")[0][0].dtype == torch.float16


def test_a_loss_first_computed_in_inference_mode_can_train(loss: ResolutionLoss):
    fresh, y = ResolutionLoss(vgg_state(loss.features)), images(2)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.inference_mode():
            fresh(images(2, seed=1), y)
        x = images(2, seed=1).requires_grad_()
        fresh(x, y).sum().backward()
    assert x.grad.isfinite().all() and x.grad.norm() > 0


def test_fused_distance_in_parts(monkeypatch):
    """Parts of a batch that fit into a cache give what the batch at once gives."""
    torch.manual_seed(0)
    there, root = torch.randn(5, 4, 3, 2), torch.rand(1, 4, 1, 1)
    f = torch.randn(5, 4, 3, 2, requires_grad=True)
    whole = distance(f, there, root)
    (gradient,) = torch.autograd.grad(whole.sum(), f)
    for rows in (0, 1, 2, 4):
        monkeypatch.setattr(fused_distance, "_MAP_BYTES", rows * 4 * 24)
        parts = distance(f, there, root)
        assert torch.equal(parts, whole)
        assert torch.equal(torch.autograd.grad(parts.sum(), f)[0], gradient)
    empty = distance(f[:0], there[:0], root)
    assert len(empty) == 0 and torch.autograd.grad(empty.sum(), f)[0].norm() == 0


@pytest.mark.parametrize("size", [1.0, 100.0, 1000.0])
def test_scaled_gradients_of_half_precision(size):
    """A loss scale keeps gradients of float16 as near as autograd does, and overflows no sooner."""
    torch.manual_seed(0)
    there, root = torch.randn(2, 64, 2, 2), torch.rand(1, 64, 1, 1)
    f, scale = size * torch.randn(2, 64, 2, 2), 2.0**16

    def far(grad: torch.Tensor, oracle: torch.Tensor) -> float:
        return float((grad.double() - oracle).norm() / oracle.norm())

    def eager(h: torch.Tensor) -> torch.Tensor:
        length = torch.sqrt((h * h).sum(1, keepdim=True) + 1e-10) + 1e-10
        return (h / length * root.to(h.dtype) - there.to(h.dtype)).square().sum((1, 2, 3))

    exact, half, other = f.half().double(), f.half(), f.half()
    for made in (exact, half, other):
        made.requires_grad_()
    (oracle,) = torch.autograd.grad(scale * eager(exact).sum(), exact)
    (fused,) = torch.autograd.grad(scale * distance(half, there, root).sum(), half)
    (plain,) = torch.autograd.grad(scale * eager(other.float()).sum(), other)
    assert fused.isfinite().equal(plain.isfinite())
    if plain.isfinite().all():
        assert far(fused, oracle) < 1.1 * far(plain, oracle) + 1e-5
