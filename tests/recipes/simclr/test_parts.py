"""Options -> pictures, network, loss, rates; several ranks have the gradients of one."""

import pytest
import torch

import models.simclr
from data.sources import Joined
from data.views.recipes import CIFAR_MEAN, view_keys
from data.views.splits import get_ssl_data_augs
from models import SimCLR
from models.optim import google_lr, original_lr, warmup_cosine
from models.simclr import two_views
from recipes.simclr import parts
from recipes.simclr.options import get_args
from runtime import distributed
from runtime.counter_rng import permutation
from storage.errors import UsageError
from tests import gloo
from tests.scripts.simclr_support import Coloured, options, small_backbone


def gradients(world: int, dtype: torch.dtype) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and averaged gradients of one step, pictures shared as the script does."""
    args = options("--crop_size", "12")
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models.simclr, "build_backbone", small_backbone)
        model = SimCLR(proj_dim=8, proj_hidden=16, sync_bn=world > 1).to(dtype)
    pictures = torch.randint(0, 256, (24, 3, 12, 12), dtype=torch.uint8)
    ids = permutation(24, args.seed, 3)[:16][distributed.rank() :: world]
    make_views = parts.views(args, parts.view_recipe(args))
    images = parts.images_at(pictures, ids, torch.device("cpu"))
    a, b = (make_views(images, view_keys(0, 3, ids, v)).to(dtype) for v in (0, 1))
    loss = parts.loss(args)(*two_views(model, a, b))
    loss.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    distributed.average_gradients(trained.values())
    return float(distributed.mean(loss.detach())), {k: p.grad for k, p in trained.items()}


def worst(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> float:
    return max(float((got[k].double() - want[k].double()).abs().max()) for k in want)


FOUR = pytest.param(4, marks=pytest.mark.slow)


@pytest.mark.parametrize("world", [2, FOUR])
def test_ranks_have_the_loss_and_gradients_of_one_process(world):
    loss, want = gradients(1, torch.float64)
    for other, got in gloo.run(world, gradients, world, torch.float64):
        assert abs(other - loss) < 1e-9 and worst(got, want) < 1e-9
    loss32, want32 = gradients(1, torch.float32)
    for other, got in gloo.run(world, gradients, world, torch.float32):
        assert abs(other - loss32) < 1e-6 * loss32
        # both are fp32's rounding away from float64: several ranks not further than one process
        assert worst(got, want) < 2 * worst(want32, want) < 2e-5


def test_rates_are_those_of_the_published_schedules():
    words = "--bs 64 --lr 0.3 --epochs 7 --n_ramp 2 --lr_scaling".split()
    for rule, peak in (("none", 0.3), ("linear", 0.075), ("sqrt", 2.4)):
        plain = options(*words, rule)
        google = options(*words, rule, "--lr_schedule", "google")
        original = options(*words, rule, "--lr_schedule", "seed")  # `original`, by its former word
        for step in range(35):
            want = warmup_cosine(step, 35, 10, peak=peak)
            assert parts.learning_rate(plain, step, 5) == pytest.approx(want, rel=1e-12)
            want = google_lr(step, examples=320, batch=64, epochs=7, warmup_epochs=2, peak=peak)
            assert parts.learning_rate(google, step, 5) == pytest.approx(want, rel=1e-12)
            want = original_lr(step // 5 + 1, 7, 2, peak)
            assert parts.learning_rate(original, step, 5) == pytest.approx(want, rel=1e-12)


def test_sizes_and_recipes_are_the_data_sets_own():
    args = get_args(None, ["--preset", "mini-64cv"])
    assert (args.crop_size, args.picture_size) == (128, 128)
    assert parts.view_recipe(args).blur_p == 0  # opt-in
    args = get_args(None, ["--data", "miniImagenet", "--gaussian_blur", "1"])
    plan = parts.view_recipe(args)
    assert (plan.size, plan.blur_p, plan.blur_kernel) == (128, 1.0, 23)
    for name, k, blur in (("strong", 0.5, 0), ("imagenet", 1.0, 0.5), ("miniImagenet", 0.5, 1)):
        args = get_args(None, ["--data", "miniImagenet", "--recipe", name])
        plan = parts.view_recipe(args)  # one that is named is itself
        assert plan == get_ssl_data_augs("miniImagenet", name=name).train
        assert (args.color_s, plan.brightness, plan.blur_p) == (k, 0.8 * k, blur)
        args = get_args(None, ["--recipe", name, "--color_s", "0.25", "--gaussian_blur", "0"])
        assert (parts.view_recipe(args).hue, parts.view_recipe(args).blur_p) == (0.05, 0)
    args = get_args(None, ["--data", "miniImagenet"])
    assert (args.color_s, args.gaussian_blur) == (1.0, 0)  # as in the original SimCLR code
    args = get_args(None, ["--data", "cifar10", "--normalise", "cifar", "--unreal_augs", "0"])
    plan = parts.view_recipe(args)
    assert plan.size == 32 and plan.jitter_p == 0 and plan.mean == CIFAR_MEAN


class FakeRun:
    device, rank, world_size, is_main = torch.device("cpu"), 0, 1, True


def test_labels_of_what_is_held_out_are_those_of_train():
    args = options("--eval", "val")
    trained = parts.in_memory(args, Coloured("t", ["a", "b", "c"]), FakeRun)
    held = parts.held_out(args, Coloured("v", ["c", "a"]), trained, FakeRun)
    assert held.labels.tolist() == [2, 0] * 6 and held.classes == ["a", "b", "c"]
    with pytest.raises(UsageError, match=r"classes that t has not \(d, \.\.\.\)"):
        parts.held_out(args, Coloured("v", ["a", "d"]), trained, FakeRun)
    assert parts.held_out(args, None, trained, FakeRun) is None


@pytest.mark.parametrize(("data", "means"), [("scenes", "val"), ("scenes/val", "cv")])
def test_eval_is_by_what_the_set_has(data, means):
    args, said = options("--eval", "auto", "--data", data, "--crop_size", "8"), []
    run = FakeRun()
    run.say = said.append
    held = parts.splits(args, said.append)[1]
    assert args.eval == means and said == [f"figures are of {data}: --eval {means}"]
    assert (held is None) == (means == "cv")


def test_pictures_are_taken_evenly():
    args = options("--num_images", "7")
    source = Joined([Coloured("t", ["a", "b"]), Coloured("u", ["c"])], "both")
    few = parts.in_memory(args, source, FakeRun)
    assert sorted(few.labels.bincount().tolist()) == [2, 2, 3]
    assert len(parts.in_memory(args, source, FakeRun, whole=True).images) == 18
