"""CAM-Net: a cascade of generators, one latent code and one image per resolution.

Peng, Moazeni and Li, "Cascading Modular Network (CAM-Net) for Multimodal Image Synthesis" (arXiv
2106.09015), in the form of the CIMLE refactoring; the four tasks of the CAM-Net code release are
reached through `feedback`, `rgb_from` and `head` (`load_reference` sets them). Level i, at
resolution r_i, computes from the image x_i `[B, in_nc, r_i, r_i]`, the code z_i = (z_map
`[B, map_nc]`, noise `[B, code_nc, r_i, r_i]`) and the previous feature F_{i-1}:

    c = concat(x_i, noise, s_i * F_{i-1})          w = mapping(z_map)
    h = conv(c);  h = h + style(h, w)              (imle.rrdb.StyleBlock)
    F_i = up(h)                                     (doubles the resolution if r_{i+1} = 2 r_i)
    t = tanh(conv(F_i)), or tanh(conv(h)) where nothing is doubled
    x_{i+1} = (t + 1) / 2, the output of the level and the input of the next

or, with base="input", x_{i+1} = enlarged x_i + t / 2 (imle.base), with base="learned" also + d_i,
detail that follows from x_0 alone (imle.regression). With consistency="project" x_{i+1} is moved to
where it agrees with x_0 (imle.consistency).

Deviations from the CIMLE refactoring, each with a switch back: `init` (its own was silently undone
by weight norm), `mapping_init` (its styles started at 1e-9), `lab_range` (its LAB could not leave
[0, 1]).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from imle.base import filled, on_base
from imle.color import LabRange, lab_to_rgb, rgb_to_lab
from imle.consistency import project, to_show
from imle.corruption import Corruption
from imle.initial_weights import draw_weights
from imle.mapping import mapping_net
from imle.regression import Regression
from imle.rrdb import (
    Norm,
    Padding,
    StyleBlock,
    Upsample,
    conv_act,
    freeze,
    set_padding,
)
from imle.settings import check_choice, check_settings
from imle.types import SpatialNoise
from storage.arguments import Count, Depth, Share, Side, Width

Feedback = Literal["reranged", "raw", "none"]
RgbFrom = Literal["auto", "up", "trunk", "trunk_but_last"]
Head = Literal["rgb", "ab"]


class CascadeState(NamedTuple):
    """What level i hands to level i + 1; every tensor has the running batch as dim 0.

    image: input of the next level in the network's colour space. feature: F_i, None before level 0.
    pending: with feedback="none" the conditioning images of later levels, flattened, one row an
    input (so that rows can be gathered like any other tensor); None otherwise. origin: the input of
    the cascade in RGB, where later levels need it; None otherwise. styles: outputs of the mapping
    networks so far, side by side, where later ones are conditioned on them; None otherwise.
    details: what `Regression` found, of a network with a learnt base; None otherwise.
    """

    image: Tensor
    feature: Tensor | None
    pending: Tensor | None
    origin: Tensor | None = None
    styles: Tensor | None = None
    details: Tensor | None = None


class Level(nn.Module):
    """One resolution of the cascade.

    Args: in_nc channels of its image; code_nc spatial noise channels; prev_nc channels of the
    previous feature (0 at level 0); nc residual and gc dense channels; double: enlarges x2;
    rgb_from_trunk: image from h (before `up`) instead of from `up(h)`; skip_up: nobody needs F;
    norm: see `imle.rrdb.modulate`; before: earlier levels that the mapping network looks at.
    """

    def __init__(
        self,
        in_nc: int,
        code_nc: int,
        prev_nc: int,
        out_nc: int,
        map_nc: int,
        latent_nc: int,
        nc: int,
        gc: int,
        n_blocks: int,
        *,
        double: bool,
        rgb_from_trunk: bool,
        feat_scale: float,
        skip_up: bool,
        before: int = 0,
        norm: Norm = "instance",
    ) -> None:
        super().__init__()
        self.map_nc, self.code_nc = map_nc, code_nc
        self.doubles, self.rgb_from_trunk, self.skip_up = double, rgb_from_trunk, skip_up
        self.feat_scale = feat_scale
        self.mapping_net = mapping_net(map_nc, latent_nc, before)
        self.feat_net = conv_act(in_nc + code_nc + prev_nc, nc, act=False)
        self.style_block = StyleBlock(nc, gc, latent_nc, n_blocks, norm)
        self.upsample_block = Upsample(nc, double=double)
        self.out_conv = conv_act(nc, out_nc, act=False)
        self.out_conv.keep_fp32 = True  # type: ignore[assignment]  # a mark for `freeze`

    def style_of(self, code: Tensor, earlier: Tensor | None) -> Tensor:
        """w `[B, latent_nc]` of codes `[B, d]`; earlier: those of the levels before, or None."""
        z = code[:, : self.map_nc]
        return self.mapping_net(z) if earlier is None else self.mapping_net(z, earlier)

    def forward(
        self, image: Tensor, feature: Tensor | None, code: Tensor, w: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(tanh image `[B, out_nc, ..]` in float32, feature `[B, nc, ..]`) of equal batches."""
        noise = code[:, self.map_nc :].reshape(code.shape[0], self.code_nc, *image.shape[2:])
        parts = [image, noise] if feature is None else [image, noise, self.feat_scale * feature]
        h = self.feat_net(torch.cat(parts, 1))
        h = self.style_block(h, w)
        if not self.rgb_from_trunk:
            feature = self.upsample_block(h)
            return self._image(feature), feature
        return self._image(h), h if self.skip_up else self.upsample_block(h)

    def _image(self, feature: Tensor) -> Tensor:
        # float32 whatever the autocast: bf16 steps of 1/256 in the image would hide the candidates
        with torch.autocast(feature.device.type, enabled=False):
            return torch.tanh(self.out_conv(feature.float()))


class CAMNet(nn.Module):
    """The cascade: (cx, one code per level) -> one image per level.

    Args:
        res: r_0, .., r_L; each next is equal or double. L = len(res) - 1 levels.
        in_nc, out_nc: channels of input and output (equal when an output is fed to the next level).
        code_nc, map_nc: spatial noise channels and mapping-network inputs of a code.
        latent_nc: width of the mapping network. resid_nc, dense_nc: per level, extra entries
        ignored. n_blocks: RRDBs per level.
        color_space: "rgb" or "lab" (inside; inputs and outputs are RGB). lab_range: "correct" gives
            a, b in [-1, 1]; "reference" is the CIMLE refactoring's, a, b in [0, 1] and b divided by
            127 twice. LAB outputs may slightly exceed 1 (out of gamut).
        feat_scales: s_0, .., s_{L-1} (s_0 unused), default s_i = 0.1 * i.
        feedback: next image is the re-ranged output in [0, 1] ("reranged"), the tanh output
            ("raw"), or a fresh conditioning image, cx being a list of L images ("none").
        rgb_from: where the output convolution sits: "up" after the enlargement, "trunk" before it,
            "trunk_but_last", or "auto" (after it where the resolution doubles, else before it).
        head: "rgb", or "ab": two raw tanh channels behind the input's lightness.
        init: "default" (kaiming or normal, see `imle.initial_weights`), or "reference": what the
            original really started from. mapping_init: "default" unit-scale styles or "reference".
        mapping: "independent", CAM-Net's, or "hierarchical", CHIMLE's (imle.mapping).
        base: what outputs are added to: "none", the originals', or "input", see `imle.base`, or
            "learned": that and what a network of base_nc channels, base_blocks residual blocks and
            base_context coarser resolutions makes of the input, see `imle.regression`, `regressed`.
        consistency: "none", or "project": every output agrees with the input of the cascade.
        padding: how pictures go on beyond their border, "zeros", the originals', "reflect" or
            "replicate". norm: of features before a style acts on them, "instance", the originals',
            or "none". code_gain: scale of the codes at the start, of styles and spatial noise.
        grayscale, mask_frac, mask_res, fill: how inputs are corrupted (`Corruption`), which base
            and consistency have to know; kept as `task`.

    Raises ValueError with the offending value for settings or inputs that do not fit together.
    """

    is_frozen = False  # True in what `frozen_copy` returns

    def __init__(
        self,
        res: Sequence[Side],
        *,
        in_nc: Width = 3,
        out_nc: Width = 3,
        code_nc: Count = 5,
        map_nc: Count = 128,
        latent_nc: Width = 512,
        resid_nc: Sequence[Width] = (128, 64, 64, 64),
        dense_nc: Sequence[Width] = (256, 192, 128, 64),
        n_blocks: Depth = 6,
        act_type: str = "leakyrelu",
        color_space: Literal["rgb", "lab"] = "rgb",
        lab_range: LabRange = "correct",
        feat_scales: Sequence[float] | None = None,
        feedback: Feedback = "reranged",
        rgb_from: RgbFrom = "auto",
        head: Head = "rgb",
        init: Literal["default", "reference"] = "default",
        init_type: Literal["kaiming", "normal"] = "kaiming",
        init_scale: float = 0.1,
        mapping_init: Literal["default", "reference"] = "default",
        mapping: Literal["independent", "hierarchical"] = "independent",
        base: Literal["none", "input", "learned"] = "none",
        base_nc: Width = 64,
        base_blocks: Depth = 8,
        base_context: int = 0,
        consistency: Literal["none", "project"] = "none",
        padding: Padding = "zeros",
        norm: Norm = "instance",
        code_gain: float = 0.3,
        grayscale: float = 0,
        mask_frac: Share = 0.0,
        mask_res: Side = 8,
        fill: Literal["zero", "color"] = "zero",
    ) -> None:
        super().__init__()
        levels = max(len(res) - 1, 0)
        feat_scales = [0.1 * i for i in range(levels)] if feat_scales is None else feat_scales
        self.config: dict[str, Any] = dict(
            res=[int(r) for r in res], in_nc=in_nc, out_nc=out_nc, code_nc=code_nc, map_nc=map_nc,
            latent_nc=latent_nc, resid_nc=[int(n) for n in resid_nc[:levels]],
            dense_nc=[int(n) for n in dense_nc[:levels]], n_blocks=n_blocks, act_type=act_type,
            color_space=color_space, lab_range=lab_range,
            feat_scales=[float(s) for s in feat_scales[:levels]], feedback=feedback,
            rgb_from=rgb_from, head=head, init=init, init_type=init_type, init_scale=init_scale,
            mapping_init=mapping_init, mapping=mapping, base=base, base_nc=base_nc,
            base_blocks=base_blocks, base_context=base_context, consistency=consistency,
            padding=padding, norm=norm, code_gain=code_gain, grayscale=grayscale,
            mask_frac=mask_frac, mask_res=mask_res, fill=fill,
        )  # fmt: skip
        check_settings(self.config)
        self.base, self.consistency = base, consistency
        self.task = Corruption(grayscale, mask_res, mask_frac, fill)
        self.shows: Literal["none", "project"] = consistency
        self.res = self.config["res"]
        self.color_space, self.lab_range = color_space, lab_range
        self.feedback, self.head, self.in_nc = feedback, head, in_nc
        # State-dict keys are `levels.I...` (the CIMLE refactoring's) while `.levels` is the count
        # that a code search asks for; hence the registration by hand, and `stages` for the modules
        self._modules["levels"] = nn.ModuleList(self._level(i) for i in range(levels))
        if base == "learned":
            self._modules["regression"] = Regression(self.res, base_nc, base_blocks, base_context)
        set_padding(self, padding)
        self.reset_parameters()

    def _level(self, i: int) -> Level:
        """A new level, as the settings have it."""
        c = self.config
        last, rgb_from = i == len(c["resid_nc"]) - 1, c["rgb_from"]
        return Level(
            c["in_nc"],
            c["code_nc"],
            c["resid_nc"][i - 1] if i else 0,
            c["out_nc"],
            c["map_nc"],
            c["latent_nc"],
            c["resid_nc"][i],
            c["dense_nc"][i],
            c["n_blocks"],
            double=c["res"][i + 1] == 2 * c["res"][i],
            rgb_from_trunk=rgb_from == "trunk"
            or (rgb_from == "trunk_but_last" and not last)
            or (rgb_from == "auto" and c["res"][i + 1] == c["res"][i]),
            feat_scale=c["feat_scales"][i],
            # the original decompression's last `up` is never run
            skip_up=rgb_from == "trunk" and last,
            before=i if c["mapping"] == "hierarchical" else 0,
            norm=c["norm"],
        )

    @property
    def stages(self) -> nn.ModuleList:
        """The `Level` modules."""
        return cast(nn.ModuleList, self._modules["levels"])

    @property
    def regression(self) -> Regression | None:
        """What a learnt base is made by; None for another base."""
        return cast(Regression | None, self._modules.get("regression"))

    @property
    def levels(self) -> int:
        """Number of levels L."""
        return len(self.stages)

    @property
    def code_sizes(self) -> list[int]:
        """Length of the code of each level: map_nc + code_nc * r_i^2, noise row-major last."""
        c = self.config
        return [c["map_nc"] + c["code_nc"] * r * r for r in self.res[:-1]]

    def spatial_noise(self, level: int) -> SpatialNoise | None:
        """Where in a level's code its spatial noise is; None where there are no channels of it."""
        code_nc, side = self.config["code_nc"], self.res[level]
        return SpatialNoise(self.config["map_nc"], code_nc, side, side) if code_nc else None

    def forward(
        self, cx: Tensor | Sequence[Tensor], codes: Sequence[Tensor], loi: int | None = None
    ) -> list[Tensor] | Tensor:
        """Images of all levels, or of level `loi` only (negative counts from the last).

        cx `[B, in_nc, r_0, r_0]` in [0, 1] (a list of L images for feedback="none"); codes: per
        level `[n * b, d_i]`, where b is the running batch; with n > 1 the running batch is
        repeated n times, row b * n + k. Returns `[rows, 3, r_{i+1}, r_{i+1}]` images (the
        original colorization: L, a, b).
        """
        last = self.levels - 1
        if loi is not None:
            if not -self.levels <= loi < self.levels:
                raise ValueError(f"loi {loi} names no level: there are {self.levels}")
            last = loi % self.levels
        if len(codes) <= last:
            raise ValueError(f"level {last} needs {last + 1} codes, got {len(codes)}")
        state = self.start(cx)
        images = []
        for i in range(last + 1):
            rgb, state = self.advance(state, codes[i], i)
            images.append(rgb)
        return images if loi is None else images[-1]

    def start(self, cx: Tensor | Sequence[Tensor]) -> CascadeState:
        """The state before level 0. cx as in `forward`."""
        if self.feedback == "none":
            images = [cx] if isinstance(cx, Tensor) else list(cx)
            if len(images) != self.levels:
                raise ValueError(
                    f"feedback none needs {self.levels} input images, got {len(images)}"
                )
            pending = (
                torch.cat([image.flatten(1) for image in images[1:]], 1) if images[1:] else None
            )
            return CascadeState(self._check_image(images[0]), None, pending)
        if not isinstance(cx, Tensor):
            if len(cx) != 1:
                raise ValueError(f"one input image is needed, got {len(cx)}")
            cx = cx[0]
        cx = self._check_image(cx)
        kept = cx if (self.base, self.consistency) != ("none", "none") else None
        details = None
        if self.regression is not None:
            if tuple(cx.shape[2:]) != (self.res[0], self.res[0]):
                raise ValueError(
                    f"base learned is of inputs of {self.res[0]} pixels, got {list(cx.shape)}"
                )
            with torch.no_grad() if self.is_frozen else contextlib.nullcontext():
                details = self.regression(filled(cx, self.task))
        if self.color_space == "lab":
            cx = rgb_to_lab(cx.float(), lab_range=self.lab_range)
        return CascadeState(cx, None, None, kept, None, details)

    def advance(self, state: CascadeState, code: Tensor, level: int) -> tuple[Tensor, CascadeState]:
        """Run one level: (image as returned by `forward`, state for the next level).

        code `[n * b, d_level]` for a state of b rows; the state given is not changed, so it can
        serve any number of candidate batches.
        """
        with torch.no_grad() if self.is_frozen else contextlib.nullcontext():
            return self._advance(state, code, level)

    def _advance(
        self, state: CascadeState, code: Tensor, level: int
    ) -> tuple[Tensor, CascadeState]:
        stage = cast(Level, self.stages[level])
        image, feature, pending, origin, styles, details = self._expand(state, code, level)
        w = stage.style_of(code, styles)
        tanh, feature = stage(self._seen(image, details, level), feature, code, w)
        if self.base != "none":
            times = image.shape[0] // state.image.shape[0]  # len() is not for torch.export
            base = self._base(state, level).repeat_interleave(times, 0)
            rgb, internal = self._on_base(tanh, base, cast(Tensor, origin), details, level)
        else:
            rgb, internal = self._output(tanh, image)
        if self.consistency == "project":
            rgb, internal = self._projected(rgb, cast(Tensor, origin))
        if self.feedback == "none" and level < self.levels - 1:
            assert pending is not None, "feedback none starts with the images of all levels"
            size = [2 * s if stage.doubles else s for s in image.shape[2:]]
            count = self.in_nc * size[0] * size[1]
            if pending.shape[1] < count:
                raise ValueError(f"input image {level + 1} is smaller than {size[0]} x {size[1]}")
            internal = pending[:, :count].reshape(-1, self.in_nc, *size)
            pending = pending[:, count:]
        if self.config["mapping"] == "hierarchical":
            styles = w if styles is None else torch.cat([styles, w], 1)
        return rgb, CascadeState(internal, feature, pending, origin, styles, details)

    def _seen(self, image: Tensor, details: Tensor | None, level: int) -> Tensor:
        """What a level looks at: the picture that it adds to, where a base with context is of its
        resolution, so that codes act on what was recognised; holes stay holes."""
        c, learned = self.config, self.regression
        if learned is None or not c["base_context"] or c["mask_frac"]:
            return image
        detail = learned.detail(cast(Tensor, details), level)
        return image + detail if detail.shape == image.shape else image

    def regressed(self, cx: Tensor) -> list[Tensor]:
        """Images of all levels where nothing is added to a learnt base: what it is trained by.

        cx `[B, 3, r_0, r_0]` in [0, 1], no codes; returns `[B, 3, r_{i+1}, r_{i+1}]` of level i.
        Errors: ValueError for another base, and for inputs of another size.
        """
        if self.regression is None:
            raise ValueError(f"base {self.base} learns nothing: base learned does")
        state, images = self.start(cx), []
        origin = cast(Tensor, state.origin)
        for level, side in enumerate(self.res[1:]):
            nothing = origin.new_zeros(len(origin), 3, side, side, dtype=torch.float32)
            rgb, internal = self._on_base(
                nothing, self._base(state, level), origin, state.details, level
            )
            if self.consistency == "project":
                rgb, internal = self._projected(rgb, origin)
            images.append(rgb)
            state = state._replace(image=internal)
        return images

    def _projected(self, rgb: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
        """(image, input of the next level) that agree with the input of the cascade."""
        rgb = project(rgb, origin, self.task)
        return rgb, rgb_to_lab(rgb) if self.color_space == "lab" else rgb

    def frozen_copy(
        self,
        *,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = True,
    ) -> CAMNet:
        """A frozen copy for one search phase: same start / advance / forward, no gradient.

        Weight norm is folded once; convolutions run in `dtype` (codes, mapping, statistics, output
        convolution and tanh stay float32), in channels_last unless told otherwise. It does not
        follow later updates of this model.
        """
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        frozen = cast(CAMNet, freeze(self, dtype, memory_format))
        frozen.is_frozen = True
        return frozen

    def _check_image(self, image: Tensor) -> Tensor:
        if image.ndim != 4 or image.shape[1] != self.in_nc:
            raise ValueError(f"an input image is [B, {self.in_nc}, H, W], got {list(image.shape)}")
        return image

    def _expand(self, state: CascadeState, code: Tensor, level: int) -> CascadeState:
        stage, batch = cast(Level, self.stages[level]), state.image.shape[0]
        height, width = state.image.shape[2:]
        length = stage.map_nc + stage.code_nc * height * width
        if code.ndim != 2 or code.shape[1] != length:
            raise ValueError(
                f"code of level {level} must be [rows, {length}] at {height} x {width} "
                f"(model built for res {self.res}), got {list(code.shape)}"
            )
        rows = code.shape[0]
        if rows < batch or rows % batch:
            raise ValueError(
                f"code of level {level} has {rows} rows, no multiple of the batch of {batch}"
            )
        if rows == batch:
            return state
        image, *rest = (None if t is None else t.repeat_interleave(rows // batch, 0) for t in state)
        return CascadeState(cast(Tensor, image), *rest)

    def _output(self, tanh: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """(returned image, input of the next level) from the tanh image and the level's input."""
        if self.head == "ab":
            return torch.cat([image.float(), tanh], 1), tanh
        if self.color_space == "lab":
            if self.lab_range == "correct":
                internal = torch.cat([(tanh[:, :1] + 1) / 2, tanh[:, 1:]], 1)
            else:
                internal = (tanh + 1) / 2
            return lab_to_rgb(internal), internal
        image = (tanh + 1) / 2
        return image, tanh if self.feedback == "raw" else image

    def _base(self, state: CascadeState, level: int) -> Tensor:
        """What a level adds to, in the network's colour space, before it is enlarged."""
        if level or self.task.mask_frac == 0:
            return state.image
        cx = filled(cast(Tensor, state.origin), self.task)
        return rgb_to_lab(cx) if self.color_space == "lab" else cx

    def _on_base(
        self, tanh: Tensor, base: Tensor, origin: Tensor, details: Tensor | None, level: int
    ) -> tuple[Tensor, Tensor]:
        """As `_output`, of a network with a base."""
        lab = self.color_space == "lab"
        learned = self.regression
        detail = None if learned is None else learned.detail(cast(Tensor, details), level)
        internal = on_base(tanh, base, origin, self.task, lab=lab, detail=detail)
        return lab_to_rgb(internal) if lab else internal, internal

    def shown(self, images: Tensor, cx: Tensor) -> Tensor:
        """Images of a level as one looks at them: those that are to agree with their inputs cx are
        cut to [0, 1] so that they still do, others are as they are."""
        return to_show(images, cx, self.task) if self.shows == "project" else images

    def asked(self, consistency: str | None, task: Corruption | None = None) -> CAMNet:
        """The same network, its weights shared, under another consistency of what it shows.

        consistency: "project", also for one that was trained without, whose levels then stay as
        they are and whose images are projected by `shown`; "none"; None: as it was trained. task:
        how inputs are corrupted (default: as it was trained). Errors: ValueError.
        """
        check_choice("consistency", consistency or "none", ("none", "project"))
        if consistency == "project" and not self.is_picture_to_picture:
            raise ValueError("consistency project: this CAM-Net makes no RGB picture of one")
        net = copy.copy(self)
        net.task = task or self.task
        net.shows = cast(Any, consistency or self.shows)
        if consistency == "none":
            net.consistency = "none"
        return net

    def compute_as(self, settings: Mapping[str, Any]) -> None:
        """Compute as another network does, with the weights it has: base, padding, norm of
        `settings`. Errors: ValueError."""
        config = {**self.config, **settings}
        check_settings(config)
        self.config, self.base = config, config["base"]
        set_padding(self, config["padding"])
        for stage in self.stages:
            cast(Level, stage).style_block.norm = config["norm"]

    @property
    def is_picture_to_picture(self) -> bool:
        """Whether it makes an RGB picture of one RGB picture."""
        c = self.config
        return (c["in_nc"], c["head"]) == (3, "rgb") and c["feedback"] != "none"

    def reset_parameters(self) -> None:
        """Draw all parameters anew from torch's global generator, see `imle.initial_weights`."""
        if not next(self.parameters()).is_meta:
            draw_weights(self, self.config)
