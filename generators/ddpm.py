"""Networks of DDPM as a generator: unconditional, by class, by layout, guided or not.

What an image shows depends on its seed, its class or layout, and the settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.beside import gray, lowres, one_hot
from diffusion.ddpm_generate import CLIPS, Drawing, draw_states, make_gaussian
from diffusion.ddpm_guidance import autoguided, classifier_gradient
from diffusion.ddpm_rows import KeyedRandn, keyed_noise
from diffusion.encoders import Encoder, RGBEncoder
from diffusion.gaussian import Gaussian
from diffusion.generate import Item, split_batches
from generators.autoencoder import SCALES, encoder_of, snapshot_encoder
from generators.base import Loaded, Setup, build, check_asked, check_same_kind
from generators.classifier import NoisedClassifier, open_classifier
from generators.edm2 import NOT_FINITE, Pictures
from generators.fit import MAX_SIDE, Unfit, names_in
from models.ddpm import ConditionBlock, EmbedBlock, Layout, UNet
from models.ddpm.configs import unet_config
from runtime.counter_rng import mix, randint
from runtime.precision import Precision
from storage.errors import CheckpointError, NonFiniteError, UsageError, one_line
from storage.snapshot import Snapshot
from storage.user_code import load_classes, load_object

KIND = "ddpm"
_SEED, _CLASS = 0x73656564, 0x636C617373  # "seed", "class"


class DDPM(Loaded):
    """A diffusion network: a `Generator`.

    encoder: between latents and images. gaussian: the diffusion. objects: names of what is in
    layouts, [] without. layout: "none", "boxes", "masks" or "segmentation". concat: kind, and what
    belongs to it, of the image that it is given beside the noised one; {} without. Networks with
    classes of the user's own need their file again (`Setup.code`): a snapshot keeps names, never
    code. Those of guided-diffusion have its linear schedule of 1000 steps, unless the file says
    another.
    Errors: CheckpointError for a snapshot that does not fit itself, UsageError.
    """

    kind = KIND
    input_size: int | None = None

    def __init__(
        self, snapshot: Snapshot, setup: Setup | None = None, file: Path | None = None
    ) -> None:
        super().__init__(snapshot, setup, file)
        config = snapshot.config
        own = config if "gaussian" in config else _imported(config, file)
        try:
            self.gaussian: Gaussian = make_gaussian(own["gaussian"])
            self.encoder: Encoder = snapshot_encoder(own["encoder"], self.setup.vae, file)
            self.side = int(own["resolution"])  # of what is denoised
            if not 1 <= self.side <= MAX_SIDE:
                raise ValueError(f"resolution {self.side} is not in 1 to {MAX_SIDE}")
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{file}: no usable diffusion ({one_line(error, 200)})") from None
        given = snapshot._replace(config={**config, "net": own["net"]})
        self.net: nn.Module = self._network(given, own.get("denoiser")).to(self.device)
        self.precision = Precision(self.setup.precision or "fp32", self.device)
        self.precision.apply_tf32_policy()
        self.channels = int(own["net"]["in_channels"])
        self.classes: list[str] = names_in(own, "classes")
        self.by_class = bool(self.classes)  # else classes are those of a classifier, if any
        self.classifier: NoisedClassifier | None = None
        self.classifier_scale = 1.0
        self.objects: list[str] = names_in(own, "objects")
        self.layout: str = own.get("layout", "none")
        self.concat: dict[str, Any] = dict(own.get("concat") or {})
        self.clip: str = own.get("clip", "unit")
        if not isinstance(self.layout, str) or self.clip not in CLIPS:
            raise ValueError(f"its layout or clip is none: {str((self.layout, self.clip))[:80]}")
        self.latent = bool(own.get("latent"))  # of an autoencoder that the file does not name
        if self.latent and self.setup.vae is not None:
            self._take_autoencoder(self.setup.vae, config.get("scale_factor"))
        self.code_sizes: list[int] = []
        self._called = torch.compile(self.net) if self.setup.compile else self.net

    def _network(self, snapshot: Snapshot, denoiser: str | None) -> nn.Module:
        code = self.setup.code
        if denoiser is not None:
            if code is None:
                raise UsageError(
                    f"{self.file}: its network is a class {denoiser} of somebody's own file; name "
                    "that file: --code FILE.py"
                )
            return build(load_object(f"{code}:{denoiser}", "--code"), snapshot, known=False)
        blocks: Mapping[str, type[nn.Module]] | None = None
        if code is not None:
            blocks = load_classes(code, (EmbedBlock, ConditionBlock, nn.Module), "--code")
        try:
            return build(partial(UNet, blocks=blocks), snapshot, known=blocks is None)
        except Unfit as error:
            if "--blocks" in str(error) and code is None:
                raise UsageError(
                    f"{self.file}: its network has blocks of somebody's own file; name that file: "
                    f"--code FILE.py ({error})"
                ) from None
            raise

    def take_classifier(self, word: str, scale: float) -> None:
        """Guide by a classifier of noised images (`generators.classifier`), times `scale`; a
        network without classes has its. Errors: UsageError, CheckpointError."""
        found = open_classifier(word, self.channels, self.side, self.device)
        if self.by_class and found.classes != len(self.classes):
            raise UsageError(
                f"--classifier {word} knows {found.classes} classes, the network "
                f"{len(self.classes)}"
            )
        self.classifier, self.classifier_scale = found, scale
        if not self.by_class:
            self.classes = [str(k) for k in range(found.classes)]

    def _take_autoencoder(self, vae: str, scale: float | None) -> None:
        """That of --vae, for a network of latent diffusion. Errors: UsageError, CheckpointError."""
        encoder, model, _ = encoder_of(vae, scale)
        if model.embed_dim != self.channels:
            raise UsageError(
                f"--vae {vae}: latents of {model.embed_dim} channels, the network makes "
                f"{self.channels}"
            )
        encoder.scale = SCALES[model.kl] if scale is None else scale
        self.encoder, self.latent = encoder, False

    def seed_classes(self, seeds: Sequence[int]) -> list[int]:
        """The class that is drawn from each seed, where none is asked for."""
        if not self.classes:
            return []
        return randint(mix(_CLASS, torch.tensor(seeds)), 1, len(self.classes))[:, 0].tolist()

    def check_pictures(self) -> None:
        """That it makes pictures, asked before hours of drawing. Errors: UsageError, EncoderError,
        CheckpointError."""
        probe = torch.zeros(1, self.channels, 8, 8, device=self.device)
        if self.latent:
            raise CheckpointError(
                f"{self.file} makes latents of {self.channels} channels, and not the autoencoder "
                "that makes pictures of them: --vae FILE"
            )
        self.encoder.decode(probe)

    def check_guide(self, guide: DDPM) -> None:
        """That `guide` predicts what this network does, of the same. Errors: ValueError."""
        for what in ("channels", "resolution", "classes", "objects", "layout", "concat"):
            if getattr(self, what) != getattr(guide, what):
                raise ValueError(f"the guide has other {what}")
        ours, theirs = self.gaussian, guide.gaussian
        same = ours.T == theirs.T and ours.prediction_type == theirs.prediction_type
        if not same or not torch.equal(ours.betas, theirs.betas) or ours.learned != theirs.learned:
            raise ValueError("the guide is of another diffusion, or predicts something else")

    def layouts(self, boxes: Sequence[Tensor]) -> Layout:
        """Layouts of lists of [n, 5] x_min, y_min, width, height, class; of a network that knows
        objects by their pixels these are all of their boxes'. Errors: UsageError."""
        if self.layout not in ("boxes", "masks"):
            raise UsageError(f"{self.file or 'the network'} was trained without boxes")
        try:
            return Layout.pad(list(boxes), num_classes=len(self.objects))
        except ValueError as error:
            raise UsageError(str(error)) from None

    @property
    def resolution(self) -> int:
        """Side of the pictures, in pixels."""
        return self.side * self.encoder.factor

    def labelled(self, segmentation: Tensor) -> Layout:
        """Layouts of maps of classes [B, h, w], 255 for none, brought to the pictures' side by the
        nearest pixel; of a network of masks every class is one object. Errors: UsageError."""
        found = self.sized(segmentation)
        try:
            if self.layout == "segmentation":
                return Layout.of_segmentation(found, num_classes=len(self.objects))
            if self.layout == "masks":
                return Layout.of_label_map(found, num_classes=len(self.objects))
        except ValueError as error:
            raise UsageError(str(error)) from None
        raise UsageError(f"{self.file or 'the network'} was trained without classes of pixels")

    def sized(self, segmentation: Tensor) -> Tensor:
        """Maps int [B, h, w] at the pictures' side, by the nearest pixel."""
        sizes = segmentation.shape[1:]
        steps = (torch.arange(self.resolution) + 0.5) / self.resolution
        rows, columns = ((steps * n).long() for n in sizes)
        return segmentation[:, rows[:, None], columns].long()

    def beside(self, given: Tensor) -> Tensor:
        """The image that the network is given beside the noised one.

        given: pictures uint8 [B, 3, H, W] of the network's resolution, or, where it takes a
        segmentation, maps of classes [B, h, w]. Errors: UsageError.
        """
        kind = self.concat.get("kind", "none")
        try:
            if kind == "segmentation" and given.ndim == 3:
                return one_hot(self.sized(given), len(self.concat["classes"]), self.side)
            if kind in ("gray", "lowres") and given.ndim == 4:
                pixels = RGBEncoder().encode_latents(given)
                return gray(pixels) if kind == "gray" else lowres(pixels, self.concat["factor"])
        except ValueError as error:
            raise UsageError(str(error)) from None
        wants = {"none": "no image beside", "segmentation": "a map of classes"}
        raise UsageError(f"the network takes {wants.get(kind, 'pictures')}, not this")

    def draw(
        self,
        n: int,
        *,
        seed: int = 0,
        labels: Sequence[int] | None = None,
        layout: Layout | None = None,
        given: Tensor | None = None,
        guide: DDPM | None = None,
        drawing: Drawing | None = None,
        batch: int = 32,
    ) -> Tensor:
        """Images of the seeds seed .. seed + n - 1: uint8 [n, 3, H, W] on the CPU.

        labels: n classes (default: drawn from the seeds); layout: n layouts, or one for all
        (default: none); given: n, or one for all, of what `beside` takes. guide: a weaker network,
        which guidance leads away from; without it that is the network itself without its
        conditions. drawing: sampler, steps, guidance.
        Errors: UsageError, ValueError, NonFiniteError.
        """
        check_asked(n, seed)
        if labels is not None and len(labels) != n:
            raise ValueError(f"{len(labels)} labels for {n} images")
        items = [Item(seed + k, None if labels is None else int(labels[k])) for k in range(n)]
        rows = None
        if layout is not None:
            count = len(layout.classes)
            if count not in (1, n):
                raise ValueError(f"{count} layouts for {n} images")
            rows = {item: layout.take(slice(k, k + 1)) if count > 1 else layout
                    for k, item in enumerate(items)}  # fmt: skip
        images = None
        if given is not None:
            if len(given) not in (1, n):
                raise ValueError(f"{len(given)} images beside for {n} images")
            each = self.beside(given)
            by_item = {item: each[k % len(each)][None] for k, item in enumerate(items)}
            images = by_item.__getitem__
        parts = []
        for part in self.pictures(
            split_batches(items, batch), drawing=drawing, guide=guide, layouts=rows, given=images
        ):
            if not part.finite:
                raise NonFiniteError(f"seeds {part.items[0].seed} and on: {NOT_FINITE}")
            parts.append(part.images)
        return torch.cat(parts).expand(-1, 3, -1, -1)

    @torch.no_grad()
    def pictures(
        self,
        batches: Sequence[Sequence[Item]],
        *,
        drawing: Drawing | None = None,
        guide: DDPM | None = None,
        layouts: Mapping[Item, Layout] | None = None,
        given: Callable[[Item], Tensor] | None = None,
        keep_every: int = 0,
    ) -> Iterator[Pictures]:
        """Batch after batch of images with chosen seeds and classes; other arguments as in `draw`.

        layouts: of each item, one row; given: the `beside` of an item, one row. keep_every: n > 0
        keeps every n-th predicted clean image.
        Errors: ValueError, UsageError.
        """
        if (given is None) == bool(self.concat):
            raise UsageError(
                f"{self.file or 'the network'} draws beside an image: {self.concat['kind']}"
                if self.concat else "the network takes no image beside"
            )  # fmt: skip
        how = drawing or Drawing(clip=self.clip)
        model: Any = self._called
        if guide is not None:
            check_same_kind(self.kind, guide)
            self.check_guide(guide)
            if how.guidance != 1:
                interval = self.gaussian.interval(*how.interval) if how.interval else None
                model = autoguided(
                    self._called, guide._called, how.guidance, interval=interval,
                    rescale=how.rescale,
                )  # fmt: skip
                how = Drawing(how.sampler, how.steps, how.spacing, how.eta, clip=how.clip)
        for batch in batches:
            items = self._classed(batch)
            cond, without = self._conditions(items, [layouts[i] for i in batch] if layouts else [])
            if given is not None:
                cond["concat"] = torch.cat([given(i) for i in batch]).to(self.device)
            seeds = torch.tensor([item.seed for item in items], device=self.device)
            keys = mix(_SEED, seeds)
            noise = keyed_noise(keys, (self.channels, self.side, self.side))
            kept = []
            gradient = None
            if self.classifier is not None:
                labels = torch.tensor([item.label or 0 for item in items], device=self.device)
                gradient = classifier_gradient(self.classifier, labels, self.classifier_scale)
            with self.precision.autocast():
                _, states = draw_states(
                    model, noise, self.gaussian, how,
                    cond=cond, uncond=without, cond_fn=gradient, randn=KeyedRandn(keys),
                )  # fmt: skip
                state = None
                for k, state in enumerate(states, 1):
                    if keep_every and k % keep_every == 0:
                        kept.append(self.encoder.decode(state.x0.float()).cpu())
            if state is None:
                raise ValueError("a sampler without a step makes no sample")
            finite = bool(torch.isfinite(state.x).all())
            images = self.encoder.decode(state.x.float()).cpu()
            ways = list(torch.stack(kept, 1)) if kept else []
            yield Pictures(items, images, finite, ways)

    def _classed(self, batch: Sequence[Item]) -> list[Item]:
        drawn = self.seed_classes([item.seed for item in batch])
        if not drawn:
            return list(batch)
        return [
            item if item.label is not None else Item(item.seed, c)
            for item, c in zip(batch, drawn, strict=True)
        ]

    def _conditions(
        self, items: Sequence[Item], layouts: Sequence[Layout]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        cond: dict[str, Any] = {}
        without: dict[str, Any] = {}
        if self.by_class:
            cond["y"] = torch.tensor([item.label or 0 for item in items], device=self.device)
            without["y"] = torch.full_like(cond["y"], -1)
        if self.layout != "none":
            n = len(items)
            layout = Layout.cat(layouts) if layouts else Layout.empty(n)
            cond["layout"] = layout.to(self.device)
            nothing = torch.zeros(n, dtype=torch.bool, device=self.device)
            without["layout"] = cond["layout"].drop(nothing)
        return cond, without


def _imported(config: Mapping[str, Any], file: Path | None) -> dict[str, Any]:
    """What a snapshot of guided-diffusion's or latent diffusion's UNet means, as ours say it."""
    released = {k: v for k, v in config["net"].items() if v is not None}
    try:
        net = unet_config(released)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from None
    if "num_heads" not in net and "num_head_channels" not in net:
        raise CheckpointError(
            f"{file}: the number of heads of its attentions is not known; convert.py --config can "
            "say it"
        )
    size = net.get("image_size")
    if size is None:
        raise CheckpointError(f"{file}: the size of its images is not known; convert.py --res")
    channels, count = net["in_channels"], net.get("num_classes") or 0
    gaussian: dict[str, Any] = {
        "schedule": config.get("schedule") or "linear", "T": 1000, "prediction_type": "eps",
        "variance_type": "learned_range" if net["out_channels"] == 2 * channels else "fixed_large",
        "time_input": "step",
    }  # fmt: skip
    if betas := config.get("betas"):
        gaussian |= {
            "schedule": "ldm-linear", "T": betas["steps"],
            "beta_start": betas["first"], "beta_end": betas["last"],
        }  # fmt: skip
    if isinstance(gaussian["schedule"], Mapping):
        raise CheckpointError(f"{file}: schedule {gaussian['schedule']!r} is not known")
    latent = "betas" in config or channels not in (1, 3)
    return {
        "net": net, "gaussian": gaussian, "encoder": {"name": "rgb"}, "resolution": size,
        "classes": [str(i) for i in range(count)], "clip": "none" if latent else "unit",
        "latent": latent,
    }  # fmt: skip


def untrained() -> Snapshot:
    """A tiny network with random weights, so that smoke presets need no earlier run."""
    torch.manual_seed(0)
    net = UNet(
        3, 3, model_channels=16, channel_mult=(1, 2), num_res_blocks=1, num_classes=4,
        use_scale_shift_norm=True,
    )  # fmt: skip
    for parameter in net.parameters():  # a new network is 0 everywhere
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    config = {
        "net": net.config, "gaussian": {"schedule": "cosine", "T": 50, "prediction_type": "v",
        "variance_type": "fixed_large", "time_input": "step"}, "encoder": {"name": "rgb"},
        "resolution": 16, "classes": list("abcd"), "clip": "unit",
    }  # fmt: skip
    return Snapshot(net.state_dict(), KIND, config, {})
