"""The classes of DDPM: what they return, and that they train as a page of its own does."""

import copy

import pytest
import torch
from torch import nn

from diffusion import DDIMBase, DDIMTraining, DDPMBase, DDPMTraining
from diffusion.ddpm_rows import keyed_noise, noisy_rows
from diffusion.gaussian import Gaussian
from diffusion.gaussian_loss import ldm_losses, training_losses
from diffusion.rows import row_keys
from diffusion.schedule_sampler import LossSecondMoment, UniformSampler
from diffusion.schedules import latent_betas
from runtime import distributed
from tests import gloo

SCHEDULE = {"schedule": "linear", "n_timestep": 20, "linear_start": 1e-3, "linear_end": 0.3}
BETAS = latent_betas("linear", 20, 1e-3, 0.3)
CPU = torch.device("cpu")


class Tiny(nn.Module):
    """One tensor in, one out."""

    def __init__(self, channels=1, out=1):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, padding=1)
        self.scale = nn.Parameter(torch.zeros(out))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x, t, shift=None):
        out = self.conv(x) + self.scale[:, None, None] * t.reshape(-1, 1, 1, 1) / 20
        return out if shift is None else out + shift.reshape(-1, 1, 1, 1)


class DDPM_MNIST(DDPMTraining):
    def process_batch(self, y_0, mode="train"):
        return super().process_batch(y_0[0], mode)


def images(n=6, seed=0):
    return torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def keys(step, n=6, first=0, stride=1):
    return row_keys(3, step, first, stride, n, CPU)


def tiny(out=1):
    torch.manual_seed(5)
    net = Tiny(out=out)
    net.dropout = nn.Identity()
    return net


def test_the_published_example_runs_as_it_is_written():
    model = DDPM_MNIST(Tiny(), beta_schedule_args=SCHEDULE, optim_args={"lr": 1e-2})
    optimizer = model.configure_optimizers()
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images(12), torch.arange(12)), batch_size=6
    )
    for index, batch in enumerate(loader):
        outputs = model.training_step(batch, index)
        optimizer.zero_grad()
        outputs["loss"].backward()
        optimizer.step()
    assert list(outputs) == ["loss", "raw_image", "model_input", "model_output", "y_0_hat"]
    assert outputs["loss"].shape == () and torch.equal(outputs["raw_image"], batch[0])
    for name in list(outputs)[1:]:
        assert outputs[name].shape == (6, 1, 6, 6) and not outputs[name].requires_grad
    assert outputs["y_0_hat"].abs().max() <= 1
    assert set(model.logged) == {"train_loss", "train_loss_simple", "train_loss_vlb"}
    assert model.logged["train_loss"] == outputs["loss"].detach()
    assert all("alphas" not in name for name in model.state_dict())
    assert model.alphas_cumprod.shape == (20,) and model.alphas_cumprod.dtype == torch.float32


def test_process_batch():
    model = DDPMTraining(Tiny(), beta_schedule_args=SCHEDULE)
    y_0 = images()
    model.row_keys = keys(0)
    y_t, target, t, raw, model_kwargs = model.process_batch(y_0, "train")
    assert t.dtype == torch.int64 and 0 <= t.min() and t.max() < 20 and len(t.unique()) > 1
    assert raw is y_0 and model_kwargs == {}
    assert torch.equal(y_t, model.q_sample(y_0, t, target))
    again = model.process_batch(y_0, "train")
    assert torch.equal(again.y_t, y_t)
    for mode in ("val", "test"):
        assert model.process_batch(y_0, mode).t.tolist() == [19] * 6
    model.row_keys = None
    assert not torch.equal(model.process_batch(y_0).y_t, model.process_batch(y_0).y_t)
    with pytest.raises(ValueError, match="'eval'"):
        model.process_batch(y_0, "eval")
    with pytest.raises(ValueError, match="list: a subclass"):
        model.training_step([y_0, 1])
    model.row_keys = keys(0, 5)
    with pytest.raises(ValueError, match="5 row_keys"):
        model.training_step(y_0)


@pytest.mark.parametrize("sampler", [None, "ddim", "plms", "unipc", "dpmpp"])
def test_validation_returns_histories(sampler):
    fast = {"use_fast_sampling": sampler is not None, "fast_sampler": sampler}
    model = DDPM_MNIST(Tiny(), beta_schedule_args=SCHEDULE, fast_sampling_steps=7, **fast).train()
    model.row_keys = keys(1)
    batch = [images(), torch.arange(6)]
    outputs = model.validation_step(batch, 0)
    assert list(outputs) == ["y_0_image", "restore", "sampling"]
    assert model.training and model.denoise_fn.training and model.row_keys is None
    for name in ("restore", "sampling"):
        found = outputs[name]
        assert (
            found["model_output"].shape == (6, 1, 6, 6) and not found["model_output"].isnan().any()
        )
        frames = found["model_history_output"]
        assert frames.shape[:2] == (6, 8 if sampler else 11) and frames.shape[2:] == (1, 6, 6)
        assert torch.equal(frames[:, -1], found["model_output"])
    model.row_keys = keys(1)
    y_t = model.process_batch(batch, "val").y_t
    assert torch.equal(outputs["restore"]["model_history_output"][:, 0], y_t)
    start = outputs["sampling"]["model_history_output"][:, 0]
    assert abs(start.std() - 1) < 0.2 and not torch.equal(start, y_t)
    again = model.test_step(batch, 0)
    assert torch.equal(again["sampling"]["model_output"], outputs["sampling"]["model_output"])


def test_sampling_alone():
    model = DDPMTraining(Tiny(), beta_schedule_args=SCHEDULE)
    found = model.sampling(image_size=(2, 1, 6, 6), sample_num=4)
    assert found["model_history_output"].shape == (2, 5, 1, 6, 6)
    for wrong in ({}, {"noise": images(), "image_size": (1, 1, 6, 6)}):
        with pytest.raises(ValueError, match="one of them"):
            model.sampling(**wrong)
    noise = images(3)
    model.q_posterior(noise, noise, torch.tensor([0, 3, 19]))
    t = torch.tensor([0, 0, 19])
    drawn = model.p_sample(noise, t, noise=torch.ones_like(noise))
    p = model.p_mean_variance(noise, t)
    # each row by its own step: those at 0 get no noise
    assert torch.equal(drawn[:2], p.mean[:2]) and not torch.equal(drawn[2], p.mean[2])
    eps = images(3, seed=2)
    assert torch.allclose(
        model.predict_start_from_noise(model.q_sample(noise, t, eps), t, eps), noise, atol=1e-5
    )


def test_guidance_is_the_users_unconditional():
    class Shifted(DDPMTraining):
        def process_batch(self, batch, mode="train"):
            found = super().process_batch(batch, mode)
            return found._replace(model_kwargs={"shift": torch.ones(len(batch))})

        def unconditional(self, model_kwargs):
            return {"shift": torch.zeros(1)}

    net = Tiny()
    samples = {
        scale: Shifted(
            net, beta_schedule_args=SCHEDULE, guidance_scale=scale, clip_denoised=False
        ).sampling(noise=images(), model_kwargs={"shift": torch.ones(6)},
                   randn=torch.zeros_like)["model_output"]
        for scale in (1.0, 3.0)
    }  # fmt: skip
    model = DDPMTraining(net, beta_schedule_args=SCHEDULE, clip_denoised=False)
    for scale, found in samples.items():  # guiding a shift of 1 is a shift of `scale`
        kwargs = {"shift": torch.full((6,), scale)}
        expected = model.sampling(noise=images(), model_kwargs=kwargs, randn=torch.zeros_like)
        assert torch.allclose(found, expected["model_output"], atol=1e-4)
    assert Shifted(net, beta_schedule_args=SCHEDULE).training_step(images())["loss"].isfinite()


def _as_a_page(improved, world=1, rank=0):
    """The loop that a script has, on this rank's rows of the batch; the trained weights."""
    net = tiny(2 if improved else 1)
    gaussian = Gaussian(
        BETAS, variance_type="learned_range" if improved else "fixed_small",
    )  # fmt: skip
    sampler = LossSecondMoment(20, history=1) if improved else UniformSampler(20)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2, weight_decay=0.1)
    for step in range(30):
        mine = keys(step, 8 // world, rank, world)
        x0 = images(8, seed=step)[rank::world]
        rows = noisy_rows(gaussian, x0, mine, sampler)
        target = gaussian.target(x0, rows.x_t, rows.t, rows.eps)
        output = net(rows.x_t, gaussian.model_time(rows.t, rows.x_t))
        if improved:
            losses = training_losses(
                gaussian, output, x0, rows.x_t, rows.t, target, loss_type="rescaled_mse"
            )
            loss = (rows.weight * losses["loss"]).mean()
        else:
            loss = ldm_losses(gaussian, output, rows.t, target, vlb_weight=1.0)["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        distributed.average_gradients(net.parameters())
        optimizer.step()
        if improved:
            sampler.update(rows.t, losses["loss"])
    return [p.detach().clone() for p in net.parameters()]


def _as_a_class(improved, world=1, rank=0):
    kind = DDIMTraining if improved else DDPMTraining
    extra = {"schedule_sampler": LossSecondMoment(20, history=1)} if improved else {}
    net = tiny(2 if improved else 1)
    model = kind(
        net, beta_schedule_args=SCHEDULE, optim_args={"lr": 1e-2, "weight_decay": 0.1}, **extra
    )
    optimizer = model.configure_optimizers()
    for step in range(30):
        model.row_keys = keys(step, 8 // world, rank, world)
        outputs = model.training_step(images(8, seed=step)[rank::world], step)
        optimizer.zero_grad()
        outputs["loss"].backward()
        distributed.average_gradients(model.parameters())
        optimizer.step()
        if improved:
            model.schedule_sampler.update(outputs["t"], outputs["loss_flat"])
    if improved:
        assert model.schedule_sampler.warmed_up
    return [p.detach().clone() for p in net.parameters()]


@pytest.mark.parametrize("improved", [False, True])
def test_a_page_and_the_class_train_equal_weights(improved):
    page, of_class = _as_a_page(improved), _as_a_class(improved)
    assert all(map(torch.equal, page, of_class))
    assert not torch.equal(page[0], tiny(2 if improved else 1).conv.weight)


def _rank():
    return _as_a_class(True, distributed.world_size(), distributed.rank())


def test_two_processes_train_what_one_does():
    alone = _as_a_class(True)
    first, second = gloo.run(2, _rank)
    assert all(map(torch.equal, first, second))
    for a, b in zip(alone, first, strict=True):
        assert torch.allclose(a, b, atol=1e-5)  # sums in another order


def test_improved_returns_steps_and_losses():
    model = DDIMTraining(
        Tiny(out=2), beta_schedule_args=SCHEDULE, schedule_sampler="loss-second-moment"
    )
    outputs = model.training_step(images())
    assert list(outputs)[-2:] == ["t", "loss_flat"]
    assert outputs["t"].dtype == torch.int64 and outputs["loss_flat"].shape == (6,)
    assert not outputs["loss_flat"].requires_grad
    assert outputs["model_output"].shape == (6, 1, 6, 6)
    # until the history is full all weights are 1
    assert torch.allclose(outputs["loss"], outputs["loss_flat"].mean())
    assert model.validation_step(images())["restore"]["model_output"].shape == (6, 1, 6, 6)
    assert model.gaussian.variance_type == "learned_range" and issubclass(DDIMTraining, DDIMBase)
    assert isinstance(model, DDPMBase)


def test_uncertainty_of_steps_is_learned():
    model = DDPMTraining(
        Tiny(), beta_schedule_args=SCHEDULE, learn_logvar=True, logvar_init=0.5,
        loss_elbo_weight=0.0, training_target="v",
    )  # fmt: skip
    optimizer = model.configure_optimizers()
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))
    model.training_step(images())["loss"].backward()
    assert model.logvar.grad.count_nonzero() > 0 and "logvar" in model.logged
    frozen = copy.deepcopy(model)
    frozen.denoise_fn.conv.weight.requires_grad_(False)
    held = sum(len(g["params"]) for g in frozen.configure_optimizers().param_groups)
    assert held == len(list(model.parameters())) - 1


def test_draws_are_of_the_key():
    k = keys(0)
    assert torch.equal(keyed_noise(k, (2, 3))[4:], keyed_noise(k[4:], (2, 3)))
    g, x0 = Gaussian(BETAS), images()
    one, two = (noisy_rows(g, x0, k, UniformSampler(20), draw=d) for d in (0, 1))
    assert torch.equal(one.t, two.t) and not torch.equal(one.eps, two.eps)
    assert torch.equal(one.x_t, g.q_sample(x0, one.t, one.eps))
    with pytest.raises(ValueError, match="5 keys"):
        noisy_rows(g, x0, k[:5], UniformSampler(20))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"training_target": "x"}, "'x'"),
        ({"loss_fn": "l3"}, "'l3'"),
        ({"fast_sampler": "euler"}, "'euler'"),
        ({"beta_schedule_args": {"steps": 10}}, "no steps"),
        ({"beta_schedule_args": {}, "gaussian": Gaussian(BETAS)}, "not both"),
        ({"schedule_sampler": UniformSampler(9)}, "of 9 steps"),
        ({"schedule_sampler": "fast"}, "'fast'"),
        ({"learn_logvar": True}, "no learn_logvar"),
    ],
)
def test_options_that_cannot_be(options, says):
    kind = DDPMTraining if "loss_fn" in options else DDIMTraining
    with pytest.raises(ValueError, match=says):
        kind(Tiny(out=2), **options)
    with pytest.raises(TypeError, match="unknown"):
        DDPMTraining(Tiny(), unknown=1)
