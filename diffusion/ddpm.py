"""DDPM as two classes, for code that trains by `training_step` instead of a page of its own.

    class DDPM_MNIST(DDPMTraining):
        def process_batch(self, y_0, mode="train"):
            return super().process_batch(y_0[0], mode)

    model = DDPM_MNIST(net, beta_schedule_args={"schedule": "linear", "n_timestep": 1000})
    optimizer = model.configure_optimizers()
    for batch in loader:
        outputs = model.training_step(batch)
        outputs["loss"].backward()

`DDPMBase` has the coefficients and both processes, `DDPMTraining` what is done with a batch; a
method mostly overrides `process_batch` alone. The maths is `diffusion.gaussian`; the names y_0, y_t
and the returned dictionaries are those of LayoutDiffuse's code (`y` is an image, `x` elsewhere).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffusion.ddpm_guidance import classifier_free
from diffusion.ddpm_rows import KeyedRandn, keyed_noise
from diffusion.ddpm_samplers import SAMPLERS, ancestral
from diffusion.gaussian import Gaussian, Moments, Reverse, X0Fn
from diffusion.gaussian_loss import clip_unit, dynamic_threshold, ldm_losses
from diffusion.respace import timesteps_of
from diffusion.schedule_sampler import UniformSampler
from diffusion.schedules import latent_betas

TARGETS = {"noise": "eps", "y0": "x0", "v": "v", "eps": "eps", "x0": "x0"}
ERRORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": lambda a, b: (a - b).square(),
    "l2": lambda a, b: (a - b).square(),
    "l1": lambda a, b: (a - b).abs(),
}
FAST_SAMPLERS = ("ddim", "plms", "dpmpp", "unipc", "ddpm")


class Batch(NamedTuple):
    """What `process_batch` returns: the network's input y_t, what it is asked for, steps t [B], the
    clean images y_0, and keyword arguments of the network."""

    y_t: Tensor
    target: Tensor
    t: Tensor
    y_0: Tensor
    model_kwargs: dict[str, Any]


class DDPMBase(nn.Module):
    """Coefficients, and the diffusion and denoising processes, of a network.

    denoise_fn: called as denoise_fn(y_t, t, **model_kwargs) -> [B, C, H, W].
    beta_schedule_args: schedule, n_timestep, linear_start, linear_end, cosine_s, as of
    `latent_betas`; by default "linear" and 1000. gaussian: the diffusion itself, instead of that
    and of training_target. training_target: "noise", "y0" or "v". clip_denoised: clamp predicted
    images to [-1, 1]; dynamic_thresholding: by a quantile of each image instead.
    The tables are buffers too, float32 and not in the state dict. Errors: ValueError.
    """

    variance_type = "fixed_small"
    log_variance_floor: float | None = 1e-20

    def __init__(
        self,
        denoise_fn: nn.Module,
        *,
        beta_schedule_args: Mapping[str, Any] | None = None,
        training_target: str = "noise",
        gaussian: Gaussian | None = None,
        clip_denoised: bool = True,
        dynamic_thresholding: bool = False,
        dynamic_thresholding_percentile: float = 0.9,
    ) -> None:
        super().__init__()
        if training_target not in TARGETS:
            raise ValueError(f"training_target {training_target!r} is none of {', '.join(TARGETS)}")
        if gaussian is None:
            gaussian = Gaussian(
                _betas(beta_schedule_args or {}),
                prediction_type=TARGETS[training_target],
                variance_type=self.variance_type,
                log_variance_floor=self.log_variance_floor,
            )
        elif beta_schedule_args is not None:
            raise ValueError("give gaussian or beta_schedule_args, not both")
        self.denoise_fn = denoise_fn
        self.gaussian = gaussian
        self.n_timestep = gaussian.T
        self.x0_fn: X0Fn | None = clip_unit if clip_denoised else None
        if dynamic_thresholding:
            self.x0_fn = dynamic_threshold(dynamic_thresholding_percentile)
        for name, table in vars(gaussian).items():
            if isinstance(table, Tensor):
                self.register_buffer(name, table.float(), persistent=False)

    def forward(self, y_t: Tensor, t: Tensor, **model_kwargs: Any) -> Tensor:
        """The network's output at steps t, int64 [B]."""
        return self.denoise_fn(y_t, self.gaussian.model_time(t, y_t), **model_kwargs)

    def q_sample(self, y_0: Tensor, t: Tensor, noise: Tensor | None = None) -> Tensor:
        """y_t of q(y_t | y_0); noise of torch's generator where none is given."""
        return self.gaussian.q_sample(y_0, t, torch.randn_like(y_0) if noise is None else noise)

    def q_posterior(self, y_0: Tensor, y_t: Tensor, t: Tensor) -> Moments:
        """q(y_t-1 | y_t, y_0): mean, variance and log variance."""
        return self.gaussian.q_posterior(y_0, y_t, t)

    def predict_start_from_noise(self, y_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The clean image that y_t is made of with this noise."""
        return self.gaussian.x0_from_eps(y_t, t, noise)

    def p_mean_variance(self, y_t: Tensor, t: Tensor, **model_kwargs: Any) -> Reverse:
        """p(y_t-1 | y_t) of the network: mean, variance, log variance and the clean image."""
        output = self(y_t, t, **model_kwargs)
        return self.gaussian.p_mean_variance(output, y_t, t, self.x0_fn)

    @torch.no_grad()
    def p_sample(
        self, y_t: Tensor, t: Tensor, noise: Tensor | None = None, **model_kwargs: Any
    ) -> Tensor:
        """y_t-1 drawn of p(y_t-1 | y_t); rows at step 0 are the mean."""
        p = self.p_mean_variance(y_t, t, **model_kwargs)
        noise = torch.randn_like(y_t) if noise is None else noise
        later = (t > 0).to(p.mean).reshape(-1, *[1] * (y_t.ndim - 1))
        return p.mean + later * torch.exp(0.5 * p.log_variance) * noise


def _betas(args: Mapping[str, Any]) -> Tensor:
    known = {"schedule", "n_timestep", "linear_start", "linear_end", "cosine_s"}
    if unknown := sorted(args.keys() - known):
        raise ValueError(f"beta_schedule_args has no {', '.join(unknown)}; known: {sorted(known)}")
    rest = {k: float(v) for k, v in args.items() if k not in ("schedule", "n_timestep")}
    return latent_betas(args.get("schedule", "linear"), int(args.get("n_timestep", 1000)), **rest)


class DDPMTraining(DDPMBase):
    """What is done with a batch, in training, validation and test.

    loss_fn: "mse" or "l1", or its elementwise function of (prediction, target).
    loss_simple_weight, loss_elbo_weight: of latent-diffusion's two terms (`ldm_losses`), both 1 as
    LayoutDiffuse was released; elbo 0 is DDPM's L_simple. learn_logvar: weigh steps by a learned
    uncertainty that begins at logvar_init. optim_args: lr and weight_decay of Adam.
    use_fast_sampling: sample by fast_sampler in fast_sampling_steps instead of by all steps;
    guidance_scale: of `unconditional`; sample_num: frames of a history. More arguments:
    `DDPMBase`'s. Errors: ValueError.

    row_keys: set to keys int64 [B] of the rows of the next batch (`diffusion.rows.row_keys`), steps
    and noise are functions of those; otherwise they come from torch's generator. One batch uses
    them up. logged: scalars of the last training step.
    """

    def __init__(
        self,
        denoise_fn: nn.Module,
        *,
        loss_fn: str | Callable[[Tensor, Tensor], Tensor] = "mse",
        optim_args: Mapping[str, Any] | None = None,
        loss_simple_weight: float = 1.0,
        loss_elbo_weight: float = 1.0,
        learn_logvar: bool = False,
        logvar_init: float = 0.0,
        use_fast_sampling: bool = False,
        fast_sampler: str | None = "ddim",
        fast_sampling_steps: int = 50,
        guidance_scale: float = 5.0,
        sample_num: int = 10,
        **base: Any,
    ) -> None:
        super().__init__(denoise_fn, **base)
        if isinstance(loss_fn, str) and loss_fn not in ERRORS:
            raise ValueError(f"loss_fn {loss_fn!r} is none of {', '.join(ERRORS)}")
        fast_sampler = "ddpm" if fast_sampler is None else fast_sampler
        if fast_sampler not in FAST_SAMPLERS:
            raise ValueError(f"fast_sampler {fast_sampler!r} is none of {', '.join(FAST_SAMPLERS)}")
        self.error = ERRORS[loss_fn] if isinstance(loss_fn, str) else loss_fn
        self.optim_args = dict(optim_args or {})
        self.loss_simple_weight, self.loss_elbo_weight = loss_simple_weight, loss_elbo_weight
        self.use_fast_sampling, self.fast_sampler = use_fast_sampling, fast_sampler
        self.fast_sampling_steps = min(fast_sampling_steps, self.gaussian.T)
        self.guidance_scale, self.sample_num = guidance_scale, sample_num
        self.logvar: nn.Parameter | None = None
        if learn_logvar:
            self.logvar = nn.Parameter(torch.full((self.gaussian.T,), float(logvar_init)))
        self.row_keys: Tensor | None = None
        self.logged: dict[str, Tensor] = {}

    # ------------------------------------------------------------------------------------- a batch

    def process_batch(self, batch: Any, mode: str = "train") -> Batch:
        """Clean images [B, C, H, W] in [-1, 1] -> what the network is trained at.

        mode: "train" draws t of all steps, "val" and "test" take the last one, T - 1. A subclass
        takes from its batch what are images, and may add conditions to `model_kwargs`.
        Errors: ValueError.
        """
        if mode not in ("train", "val", "test"):
            raise ValueError(f"mode {mode!r} is none of train, val, test")
        if not isinstance(batch, Tensor):
            raise ValueError(
                f"process_batch wants images, not a {type(batch).__name__}: a subclass takes the "
                "images from the batch, as in super().process_batch(batch[0], mode)"
            )
        keys = self._keys(batch)
        t = self._steps(keys) if mode == "train" else torch.full_like(keys, self.gaussian.T - 1)
        noise = keyed_noise(keys, batch.shape[1:]).to(batch.dtype)
        y_t = self.gaussian.q_sample(batch, t, noise)
        return Batch(y_t, self.gaussian.target(batch, y_t, t, noise), t, batch, {})

    def _processed(self, batch: Any, mode: str) -> Batch:
        """What a subclass's `process_batch` returned. Errors: ValueError for anything else."""
        found: Any = self.process_batch(batch, mode=mode)
        if not isinstance(found, tuple | list) or len(found) != len(Batch._fields):
            what = (
                f"{len(found)} values"
                if isinstance(found, tuple | list)
                else "a " + type(found).__name__
            )
            raise ValueError(
                f"process_batch returned {what}; (model_input, target, t, y_0, model_kwargs) is "
                "wanted, as of super().process_batch"
            )
        return Batch(*found)

    def _keys(self, images: Tensor) -> Tensor:
        if self.row_keys is None:
            return torch.randint(2**62, (len(images),)).to(images.device)
        if len(self.row_keys) != len(images):
            raise ValueError(f"{len(self.row_keys)} row_keys do not fit {len(images)} images")
        return self.row_keys.to(images.device)

    def _steps(self, keys: Tensor) -> Tensor:
        return UniformSampler(self.gaussian.T).sample(keys)[0]

    # ----------------------------------------------------------------------------------- its steps

    def training_step(self, batch: Any, batch_idx: int = 0) -> dict[str, Tensor]:
        """{"loss" scalar; "raw_image", "model_input", "model_output", "y_0_hat" [B, C, H, W]}.

        The images are detached; y_0_hat, the predicted clean image, is clamped to [-1, 1].
        """
        with self._one_batch():
            y_t, target, t, y_0, model_kwargs = self._processed(batch, "train")
            output = self(y_t, t, **model_kwargs)
            losses = ldm_losses(
                self.gaussian, self.gaussian.split(output, y_0.shape[1])[0], t, target,
                simple_weight=self.loss_simple_weight, vlb_weight=self.loss_elbo_weight,
                logvar=self.logvar, error=self.error,
            )  # fmt: skip
        loss = losses["loss"].mean()
        self.log("train_loss", loss)
        self.log("train_loss_simple", losses["simple"].mean())
        self.log("train_loss_vlb", losses["vlb"].mean())
        if self.logvar is not None:
            self.log("logvar", self.logvar.mean())
        return {"loss": loss, **self._pictures(output, y_t, t, y_0)}

    def _pictures(self, output: Tensor, y_t: Tensor, t: Tensor, y_0: Tensor) -> dict[str, Tensor]:
        output = output.detach()
        prediction = self.gaussian.split(output, y_0.shape[1])[0]
        found = clip_unit(self.gaussian.x0_of(output, y_t, t))
        return {"raw_image": y_0, "model_input": y_t, "model_output": prediction, "y_0_hat": found}

    def validation_step(
        self, batch: Any, batch_idx: int = 0, dataloader_idx: int = 0
    ) -> dict[str, Any]:
        """{"y_0_image" [B, C, H, W], "restore", "sampling"}, the latter two as `sampling` returns.

        restore begins at y_0 noised to the last step, sampling in pure noise.
        """
        with self._one_batch():
            y_t, _, _, y_0, model_kwargs = self._processed(batch, "val")
            return self._samples(y_t, y_0, model_kwargs)

    def test_step(self, batch: Any, batch_idx: int = 0, dataloader_idx: int = 0) -> dict[str, Any]:
        """As `validation_step`."""
        with self._one_batch():
            y_t, _, _, y_0, model_kwargs = self._processed(batch, "test")
            return self._samples(y_t, y_0, model_kwargs)

    def _samples(self, y_t: Tensor, y_0: Tensor, model_kwargs: dict[str, Any]) -> dict[str, Any]:
        randn = KeyedRandn(self._keys(y_0))
        restore = self.sampling(noise=y_t, model_kwargs=model_kwargs, randn=randn)
        drawn = self.sampling(noise=randn(y_t), model_kwargs=model_kwargs, randn=randn)
        return {"y_0_image": y_0, "restore": restore, "sampling": drawn}

    def unconditional(self, model_kwargs: dict[str, Any]) -> dict[str, Any] | None:
        """The conditions that guidance pushes away from; None (here): no guidance."""
        return None

    @torch.no_grad()
    def sampling(
        self,
        noise: Tensor | None = None,
        image_size: Sequence[int] | None = None,
        sample_num: int | None = None,
        *,
        model_kwargs: dict[str, Any] | None = None,
        randn: Callable[[Tensor], Tensor] = torch.randn_like,
    ) -> dict[str, Tensor]:
        """Images from noise [B, C, H, W], or from new noise of image_size (B, C, H, W).

        {"model_output" [B, C, H, W], "model_history_output" [B, frames, C, H, W]}: frame 0 is the
        noise, then come about `sample_num` evenly spaced (None: the class's own), the last one the
        output. The network is in eval mode meanwhile. Errors: ValueError.
        """
        sample_num = self.sample_num if sample_num is None else sample_num
        if (noise is None) == (image_size is None):
            raise ValueError("sampling begins in noise or has an image_size, one of them")
        if sample_num < 1:
            raise ValueError(f"a history has at least 1 frame, not {sample_num}")
        if noise is None:
            device = next(self.parameters()).device
            noise = randn(torch.zeros(tuple(image_size or ()), device=device))
        gaussian, sampler = self.gaussian, ancestral
        if self.use_fast_sampling:
            steps = timesteps_of(f"trailing:{self.fast_sampling_steps}", gaussian.T)
            gaussian, sampler = gaussian.respaced(steps), SAMPLERS[self.fast_sampler]
        model: Callable[..., Tensor] = self.denoise_fn
        without = self.unconditional(model_kwargs or {})
        if without is not None:
            model = classifier_free(model, without, self.guidance_scale)
        drawing = {"randn": randn} if sampler in (SAMPLERS["ddpm"], SAMPLERS["ddim"]) else {}
        every = max(gaussian.T // sample_num, 1)
        frames = [noise]
        with self._evaluating():
            states = sampler(model, noise, gaussian, cond=model_kwargs, x0_fn=self.x0_fn, **drawing)
            for left, state in zip(reversed(range(gaussian.T)), states, strict=True):
                if left % every == 0:
                    frames.append(state.x)
        return {"model_output": frames[-1], "model_history_output": torch.stack(frames, 1)}

    # ------------------------------------------------------------------------------------- the rest

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam on what has gradients: frozen parameters are not in it. Errors: TypeError."""
        trained = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.Adam(trained, **self.optim_args)

    def log(self, name: str, value: Tensor) -> None:
        """Keep a scalar of this step in `logged`."""
        self.logged[name] = value.detach()

    @contextmanager
    def _one_batch(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.row_keys = None

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        was = self.denoise_fn.training
        self.denoise_fn.eval()
        try:
            yield
        finally:
            self.denoise_fn.train(was)
