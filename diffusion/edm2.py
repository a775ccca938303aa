"""The EDM2 network: U-Net of magnitude-preserving blocks and its preconditioning.

Karras et al., arXiv:2312.02696 (configuration G), with the parameter names of the published
weights. `Precond` is the denoiser D(x; sigma, labels) that losses and samplers call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.mp import (
    SILU_MAGNITUDE,
    MPConv,
    MPFourier,
    mp_cat,
    mp_silu,
    mp_sum,
    normalize,
    resample,
    set_forced_weight_norm,
    sum_weights,
)
from runtime.counter_rng import row_dropout
from storage.arguments import Between, Share, Width

Multiple = Annotated[int, Between(1, 1024)]  # of the base width


def attention(qkv: Tensor, heads: int, fused: bool | None = None) -> Tensor:
    """Cosine attention over pixels: qkv [N, 3 C, H, W] -> [N, C, H, W].

    Channel order of qkv: head slowest, then channel of the head, then q, k, v. Each of the three is
    normalised over the channels of its head. `fused`: torch's scaled_dot_product_attention, which
    pays on a GPU (no [HW, HW] matrix in memory); None: there only.
    """
    n, channels, height, width = qkv.shape
    per_head = channels // (3 * heads)
    qkv = normalize(qkv.reshape(n * heads, per_head, 3, height * width), dim=1)
    if qkv.is_cuda if fused is None else fused:
        # its fast kernels want the channels of a head side by side
        q, k, v = qkv.permute(2, 0, 3, 1).contiguous().view(3, n, heads, -1, per_head).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v).transpose(2, 3)
    else:
        q, k, v = qkv.unbind(2)
        logits = torch.bmm(q.transpose(1, 2) * (1 / math.sqrt(per_head)), k)
        out = torch.bmm(v, logits.softmax(2).transpose(1, 2))
    return out.reshape(n, -1, height, width)


class Block(nn.Module):
    """Residual block of the encoder ("enc") or decoder ("dec"), figure 21 of the paper.

    x [N, in, H, W], emb [N or 1, emb_channels] -> [N, out, H', W']. Attention has
    out_channels // channels_per_head heads; with none there is no attention, silently.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        flavor: str = "enc",
        resample_mode: str = "keep",
        resample_filter: Sequence[float] = (1, 1),
        attention: bool = False,
        channels_per_head: int = 64,
        dropout: float = 0.0,
        res_balance: float = 0.3,
        attn_balance: float = 0.3,
        clip_act: float | None = 256,
    ) -> None:
        super().__init__()
        if flavor not in ("enc", "dec"):
            raise ValueError(f"flavor {flavor!r} of a block is neither enc nor dec")
        if resample_mode not in ("keep", "up", "down"):
            raise ValueError(f"resample_mode {resample_mode!r} is not keep, up or down")
        if channels_per_head < 1:
            raise ValueError(f"channels_per_head {channels_per_head} is not positive")
        if not resample_filter or len(resample_filter) % 2:
            raise ValueError(f"resample_filter {list(resample_filter)} has no even length")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout {dropout} is not in [0, 1]")
        self.flavor = flavor
        self.resample_mode = resample_mode
        self.resample_filter = tuple(resample_filter)
        self.heads = out_channels // channels_per_head if attention else 0
        if self.heads and out_channels % self.heads:
            raise ValueError(
                f"{out_channels} channels do not divide into {self.heads} attention heads "
                f"(channels_per_head {channels_per_head})"
            )
        self.dropout = dropout
        self.res_balance = res_balance
        self.attn_balance = attn_balance
        self.clip_act = clip_act
        self.layer = 0  # which dropout mask is this block's; set by the UNet
        conv_in = out_channels if flavor == "enc" else in_channels
        self.emb_gain = nn.Parameter(torch.zeros([]))
        self.conv_res0 = MPConv(conv_in, out_channels, [3, 3])
        self.emb_linear = MPConv(emb_channels, out_channels, [])
        self.conv_res1 = MPConv(out_channels, out_channels, [3, 3])
        self.conv_skip = None
        if in_channels != out_channels:
            self.conv_skip = MPConv(in_channels, out_channels, [1, 1])
        self.attn_qkv = self.attn_proj = None
        if self.heads:
            self.attn_qkv = MPConv(out_channels, 3 * out_channels, [1, 1])
            self.attn_proj = MPConv(out_channels, out_channels, [1, 1])

    def forward(self, x: Tensor, emb: Tensor, dropout_keys: Tensor | None = None) -> Tensor:
        x = resample(x, self.resample_filter, self.resample_mode)
        if self.flavor == "enc":
            if self.conv_skip is not None:
                x = self.conv_skip(x)
            x = normalize(x, dim=1)  # pixel norm

        # The constants of mp_silu and of the residual mp_sum ride on the weights, which are smaller
        wx, wy = sum_weights(self.res_balance)
        y = self.conv_res0(F.silu(x), gain=1 / SILU_MAGNITUDE)
        c = self.emb_linear(emb, gain=self.emb_gain) + 1
        y = F.silu(y * c[:, :, None, None].to(y.dtype))
        if self.training and self.dropout:
            if dropout_keys is None:
                y = F.dropout(y, self.dropout)
            else:
                y = row_dropout(y, self.dropout, dropout_keys, self.layer)
        y = self.conv_res1(y, gain=wy / SILU_MAGNITUDE)

        if self.flavor == "dec" and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = torch.add(y, x, alpha=wx)
        if self.attn_qkv is not None and self.attn_proj is not None:
            wx, wy = sum_weights(self.attn_balance)
            y = self.attn_proj(attention(self.attn_qkv(x), self.heads), gain=wy)
            x = torch.add(y, x, alpha=wx)
        return x if self.clip_act is None else x.clamp(-self.clip_act, self.clip_act)


class UNet(nn.Module):
    """x [N, C, R, R], noise_labels [N or 1] fp32, labels [N or 1, label_dim] -> [N, C, R, R].

    Computes in x's dtype; the embedding is fp32 throughout. make_block: `Block`, or a partial of it
    with other settings than its defaults.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_noise: int | None = None,
        channel_mult_emb: int | None = None,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (16, 8),
        label_balance: float = 0.5,
        concat_balance: float = 0.5,
        make_block: Callable[..., Block] = Block,
    ) -> None:
        super().__init__()
        levels = len(channel_mult)
        if not levels or img_resolution < 1 or img_resolution % 2 ** (levels - 1):
            raise ValueError(
                f"img_resolution {img_resolution} cannot be halved between the {levels} levels of "
                f"channel_mult {list(channel_mult)}"
            )
        widths = [model_channels * mult for mult in channel_mult]
        noise_channels = model_channels * (channel_mult_noise or channel_mult[0])
        emb_channels = model_channels * (channel_mult_emb or max(channel_mult))
        for channels in (*widths, noise_channels, emb_channels, img_channels):
            if channels != int(channels) or channels < 1:
                raise ValueError(
                    f"{channels} channels: channel counts are positive whole numbers "
                    f"(model_channels {model_channels}, channel_mult {list(channel_mult)})"
                )
        if label_dim < 0:
            raise ValueError(f"label_dim {label_dim} is negative; 0 is unconditional")
        widths = [int(width) for width in widths]
        noise_channels, emb_channels = int(noise_channels), int(emb_channels)
        self.label_dim = label_dim
        self.label_balance = label_balance
        self.concat_balance = concat_balance
        self.out_gain = nn.Parameter(torch.zeros([]))

        def block(cin: int, cout: int, flavor: str, mode: str = "keep", attn: bool = False):
            return make_block(cin, cout, emb_channels, flavor, mode, attention=attn)

        self.emb_fourier = MPFourier(noise_channels)
        self.emb_noise = MPConv(noise_channels, emb_channels, [])
        self.emb_label = MPConv(label_dim, emb_channels, []) if label_dim else None

        self.enc = nn.ModuleDict()
        cout = img_channels + 1  # with a constant 1, in place of biases
        skips = []
        for level, width in enumerate(widths):
            res = img_resolution >> level
            if level == 0:
                self.enc[f"{res}x{res}_conv"] = MPConv(cout, width, [3, 3])
                cout = width
            else:
                self.enc[f"{res}x{res}_down"] = block(cout, cout, "enc", "down")
            skips.append(cout)
            for i in range(num_blocks):
                attn = res in attn_resolutions
                self.enc[f"{res}x{res}_block{i}"] = block(cout, width, "enc", attn=attn)
                cout = width
                skips.append(cout)

        self.dec = nn.ModuleDict()
        for level, width in reversed(list(enumerate(widths))):
            res = img_resolution >> level
            if level == levels - 1:
                self.dec[f"{res}x{res}_in0"] = block(cout, cout, "dec", attn=True)
                self.dec[f"{res}x{res}_in1"] = block(cout, cout, "dec")
            else:
                self.dec[f"{res}x{res}_up"] = block(cout, cout, "dec", "up")
            for i in range(num_blocks + 1):
                attn = res in attn_resolutions
                name = f"{res}x{res}_block{i}"
                self.dec[name] = block(cout + skips.pop(), width, "dec", attn=attn)
                cout = width
        self.out_conv = MPConv(cout, img_channels, [3, 3])
        for layer, module in enumerate(m for m in self.modules() if isinstance(m, Block)):
            module.layer = layer

    def embedding(self, noise_labels: Tensor, labels: Tensor | None) -> Tensor:
        """[N or 1, emb_channels], fp32."""
        emb = self.emb_noise(self.emb_fourier(noise_labels))
        if self.emb_label is not None:
            if labels is None:
                raise ValueError(f"labels are missing: the network has {self.label_dim} classes")
            # one-hot rows have magnitude 1/sqrt(label_dim)
            label_emb = self.emb_label(labels.to(emb.dtype) * math.sqrt(self.label_dim))
            emb = mp_sum(emb, label_emb, self.label_balance)
        return mp_silu(emb)

    def forward(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None = None,
        dropout_keys: Tensor | None = None,
    ) -> Tensor:
        emb = self.embedding(noise_labels, class_labels)
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        skips = []
        for module in self.enc.values():
            x = module(x) if isinstance(module, MPConv) else module(x, emb, dropout_keys)
            skips.append(x)
        for name, module in self.dec.items():
            if "block" in name:
                x = mp_cat(x, skips.pop(), t=self.concat_balance)
            x = module(x, emb, dropout_keys)
        if x.dtype == torch.bfloat16:
            x = x.float()  # 8 bits would be coarse for the output
        return self.out_conv(x, gain=self.out_gain)


class Precond(nn.Module):
    """The denoiser D(x; sigma, labels) = c_skip x + c_out F(c_in x; ln(sigma) / 4, labels).

    Preconditioning of EDM (Karras et al. 2022, arXiv:2206.00364, table 1), and the head u(sigma)
    of the uncertainty loss (arXiv:2312.02696, equation 17). All arguments are in `config`, from
    which `Precond(**config)` builds the same network. The bounds in the signature are what a file
    of others may ask for (`storage.arguments`). Errors: ValueError.
    """

    def __init__(
        self,
        img_resolution: Annotated[int, Between(1, 8192)],
        img_channels: Annotated[int, Between(1, 1024)],
        label_dim: Annotated[int, Between(0, 1 << 20)],
        use_fp16: bool = True,
        sigma_data: Annotated[float, Between(1e-6, 1e6)] = 0.5,
        logvar_channels: Width = 128,
        *,
        model_channels: Width = 192,
        channel_mult: Sequence[Multiple] = (1, 2, 3, 4),
        channel_mult_noise: Multiple | None = None,
        channel_mult_emb: Multiple | None = None,
        num_blocks: Annotated[int, Between(1, 64)] = 3,
        attn_resolutions: Sequence[Annotated[int, Between(0, 8192)]] = (16, 8),
        label_balance: Share = 0.5,
        concat_balance: Share = 0.5,
        resample_filter: Sequence[Annotated[float, Between(-1e6, 1e6)]] = (1, 1),
        channels_per_head: Width = 64,
        dropout: Share = 0.0,
        res_balance: Share = 0.3,
        attn_balance: Share = 0.3,
        clip_act: Annotated[float, Between(0, 1e9)] | None = 256,
    ) -> None:
        super().__init__()
        unet: dict[str, Any] = dict(
            model_channels=model_channels,
            channel_mult=list(channel_mult),
            channel_mult_noise=channel_mult_noise,
            channel_mult_emb=channel_mult_emb,
            num_blocks=num_blocks,
            attn_resolutions=list(attn_resolutions),
            label_balance=label_balance,
            concat_balance=concat_balance,
        )
        block: dict[str, Any] = dict(
            resample_filter=list(resample_filter),
            channels_per_head=channels_per_head,
            dropout=dropout,
            res_balance=res_balance,
            attn_balance=attn_balance,
            clip_act=clip_act,
        )
        self.config: dict[str, Any] = dict(
            img_resolution=img_resolution,
            img_channels=img_channels,
            label_dim=label_dim,
            use_fp16=use_fp16,
            sigma_data=sigma_data,
            logvar_channels=logvar_channels,
            **unet,
            **block,
        )
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.label_dim = label_dim
        self.use_fp16 = use_fp16
        self.sigma_data = sigma_data
        self.compute_dtype: torch.dtype | None = None
        if sigma_data <= 0:
            raise ValueError(f"sigma_data {sigma_data} is not positive")
        make_block = partial(Block, **block)
        self.unet = UNet(img_resolution, img_channels, label_dim, **unet, make_block=make_block)
        self.logvar_fourier = MPFourier(logvar_channels)
        self.logvar_linear = MPConv(logvar_channels, 1, [])

    @property
    def forced_weight_norm(self) -> bool:
        """Whether forward passes in training mode overwrite weights by their normalised value."""
        return self.logvar_linear.forced

    @forced_weight_norm.setter
    def forced_weight_norm(self, on: bool) -> None:
        set_forced_weight_norm(self, on)

    def _dtype(self, device: torch.device, force_fp32: bool) -> torch.dtype:
        if force_fp32:
            return torch.float32
        if self.compute_dtype is not None:
            return self.compute_dtype
        return torch.float16 if self.use_fp16 and device.type == "cuda" else torch.float32

    def _check(self, x: Tensor, sigma: Tensor, labels: Tensor | None, keys: Tensor | None) -> None:
        channels, side = self.img_channels, self.img_resolution
        if x.ndim != 4 or x.shape[1:] != (channels, side, side):
            raise ValueError(
                f"images of shape {list(x.shape)} instead of [N, {channels}, {side}, {side}]"
            )
        n = x.shape[0]
        if tuple(sigma.shape) not in ((), (1,), (n,), (1, 1, 1, 1), (n, 1, 1, 1)):
            raise ValueError(f"sigma of shape {list(sigma.shape)} for {n} images: [] or [{n}]")
        if labels is not None and self.label_dim:
            if tuple(labels.shape) not in ((n, self.label_dim), (1, self.label_dim)):
                raise ValueError(
                    f"labels of shape {list(labels.shape)} instead of [{n}, {self.label_dim}]"
                )
        if keys is not None and (tuple(keys.shape) != (n,) or keys.dtype != torch.int64):
            raise ValueError(
                f"dropout_keys are {keys.dtype} {list(keys.shape)} instead of int64 [{n}]"
            )

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        class_labels: Tensor | None = None,
        *,
        force_fp32: bool = False,
        return_logvar: bool = False,
        dropout_keys: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """x [N, C, R, R] with noise of standard deviation sigma > 0 -> denoised, fp32 [N, C, R, R].

        sigma [], [N] or [N, 1, 1, 1]. class_labels [N or 1, label_dim], one-hot; None is "no class"
        for a conditional network, and an unconditional one ignores them. `dropout_keys` int64 [N]:
        see `runtime.counter_rng.row_dropout`; None: torch's own dropout. `return_logvar`: also
        u(sigma) [N, 1, 1, 1]. Errors: ValueError for shapes that do not fit.
        """
        sigma = torch.as_tensor(sigma, device=x.device)
        self._check(x, sigma, class_labels, dropout_keys)
        x = x.float()
        sigma = sigma.float().reshape(-1, 1, 1, 1)
        labels = None
        if self.label_dim:
            labels = class_labels
            if labels is None:
                labels = torch.zeros(1, self.label_dim, device=x.device)
            labels = labels.float()
        dtype = self._dtype(x.device, force_fp32)
        variance = sigma.square() + self.sigma_data**2
        c_skip = self.sigma_data**2 / variance
        c_out = sigma * self.sigma_data / variance.sqrt()
        c_in = 1 / variance.sqrt()
        c_noise = sigma.flatten().log() / 4
        out = self.unet((c_in * x).to(dtype), c_noise, labels, dropout_keys)
        denoised = c_skip * x + c_out * out.float()
        if not return_logvar:
            return denoised
        logvar = self.logvar_linear(self.logvar_fourier(c_noise)).reshape(-1, 1, 1, 1)
        return denoised, logvar.expand(x.shape[0], 1, 1, 1)
