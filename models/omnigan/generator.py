"""omnigan's generator: an encoder, a decoder for each task, the translation that they condition.

G = OmniGenerator("adhstw", s={"output_dim": 11})
z = G.encode(x)                                    # [B, C, h, w]
decoded = G.decode_tasks(z)                        # {"d", "h", "s", "w"}
flooded = G.translate(z, G.conditioning(decoded), "f")
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from models.omnigan.arguments import check_names, defaults_of, made_of
from models.omnigan.blocks import BaseDecoder, ContentEncoder
from models.omnigan.deeplab import DeeplabEncoder
from models.omnigan.domains import (
    CONDITIONS,
    DOMAINS,
    FLOODS,
    REALITIES,
    checked_tasks,
    domain_of,
)
from models.omnigan.spade import SpadeDecoder, SpadeMunitDecoder

ENCODERS = {"munit": ContentEncoder, "deeplabv2": DeeplabEncoder}
_CHANNELS = {"a": 3, "d": 1, "h": 1, "s": 19, "t": 3, "w": 1}
# How the translation is told where to: channels in front of the condition, or a decoder each.
BITS = {"none": 0, "flood": 2, "domain": 4}
FORMS = ("plain", "spade", "spade-munit")

# What the published parameter counts are of: G 17,646,624.
_PUBLISHED_DECODER = {"n_res": 1, "n_upsample": 2}
PUBLISHED: dict[str, Any] = {
    "tasks": "adst",
    "encoder": {"dim": 64, "n_downsample": 2, "n_res": 1, "norm": "none", "res_norm": "none"},
    "a": _PUBLISHED_DECODER, "d": _PUBLISHED_DECODER, "s": _PUBLISHED_DECODER,
    "t": {
        **_PUBLISHED_DECODER, "form": "spade-munit", "bits": "domain", "shared": False,
        "spectral_norm": False,
    },
}  # fmt: skip


class OmniGenerator(nn.Module):
    """Pictures [B, 3, H, W] in [-1, 1] -> a latent -> depth, height, segmentation, water, and the
    picture in another domain.

    tasks: letters of `models.omnigan.domains`. encoder: arguments of ContentEncoder, or with
    architecture "deeplabv2" of DeeplabEncoder. a, d, h, s, w: arguments of BaseDecoder but
    res_dim. Their upsamplings are the encoder's downsamplings, and may be said. activation: of a,
    tanh; of the others none, so that s and w are logits. t: of the translation

    - form: spade, SpadeDecoder; spade-munit, SpadeMunitDecoder; plain, BaseDecoder;
    - bits: what tells it where to goes in front of the condition, "flood" as two channels, "domain"
      as four, behind it; "none": nothing;
    - shared: one decoder for both floods, or one each; one decoder needs bits;
    - n_upsample, and arguments of the decoder.

    condition_on: "probabilities", softmax of s and sigmoid of w, or "raw": outputs of decoders that
    end in an activation as they are, which is how networks of the original code were trained;
    logits become probabilities in any case. `config` is all of it, to make the same network again.
    Errors: ValueError, of one line.
    """

    def __init__(
        self,
        tasks: str | Iterable[str] = "adhstw",
        *,
        encoder: Mapping[str, Any] | None = None,
        a: Mapping[str, Any] | None = None,
        d: Mapping[str, Any] | None = None,
        h: Mapping[str, Any] | None = None,
        s: Mapping[str, Any] | None = None,
        w: Mapping[str, Any] | None = None,
        t: Mapping[str, Any] | None = None,
        condition_on: str = "probabilities",
    ) -> None:
        super().__init__()
        self.tasks = checked_tasks(tasks)
        if condition_on not in ("probabilities", "raw"):
            raise ValueError(f"condition_on {condition_on!r}: it is probabilities or raw")
        self.condition_on = condition_on
        given = {"a": a, "d": d, "h": h, "s": s, "t": t, "w": w}
        self.config: dict[str, Any] = {
            "tasks": "".join(self.tasks), "encoder": dict(encoder or {}),
            **{task: dict(given[task] or {}) for task in self.tasks}, "condition_on": condition_on,
        }  # fmt: skip
        self.encoder = _encoder(encoder or {})
        self.latent_dim = int(cast(Any, self.encoder).output_dim)
        self.n_downsample = int(cast(Any, self.encoder).n_downsample)
        self.conditions = tuple(task for task in CONDITIONS if task in self.tasks)
        self.output_dims: dict[str, int] = {}
        self.logits: set[str] = set()  # tasks whose decoders end without an activation
        decoders: dict[str, nn.Module] = {}
        for task in self.tasks:
            if task != "t":
                decoders[task] = self._decoder(task, given[task] or {})
        if "t" in self.tasks:
            decoders["t"] = self._translation(t or {})
        self.decoders = nn.ModuleDict(decoders)

    def _upsamplings(self, where: str, given: int | None) -> int:
        if given is not None and given != self.n_downsample:
            raise ValueError(
                f"{where}.n_upsample is {given}, but the encoder halves pictures "
                f"{self.n_downsample} times: they must be the same, or outputs are not as large as "
                "pictures"
            )
        return self.n_downsample

    def _decoder(self, task: str, given: Mapping[str, Any]) -> nn.Module:
        where, said = f"gen.{task}", dict(given)
        check_names(said, {**defaults_of(BaseDecoder), "output_dim": 0}, where)
        said["n_upsample"] = self._upsamplings(where, said.get("n_upsample"))
        said.setdefault("activation", "tanh" if task == "a" else "none")
        said.setdefault("output_dim", _CHANNELS[task])
        said["res_dim"] = self.latent_dim
        if said["activation"] == "none":
            self.logits.add(task)
        self.output_dims[task] = int(said["output_dim"])
        if task != "s" and self.output_dims[task] != _CHANNELS[task]:
            raise ValueError(f"{where}.output_dim is {said['output_dim']}: it is {_CHANNELS[task]}")
        if task != "a":
            return made_of(BaseDecoder, said, where)
        return nn.ModuleDict({name: made_of(BaseDecoder, said, where) for name in REALITIES})

    def _translation(self, given: Mapping[str, Any]) -> nn.Module:
        said = dict(given)
        form = said.pop("form", "spade")
        if form not in FORMS:
            raise ValueError(f"gen.t.form {form!r}: it is one of {', '.join(FORMS)}")
        shared = bool(said.pop("shared", form != "plain"))
        self.bits = said.pop("bits", "none" if form == "plain" or not shared else "flood")
        if self.bits not in BITS:
            raise ValueError(f"gen.t.bits {self.bits!r}: it is one of {', '.join(BITS)}")
        if form == "plain" and (shared or self.bits != "none"):
            raise ValueError(
                "gen.t.form plain: bits are a condition, and it has none; use spade, or shared: "
                "false and bits: none"
            )
        if shared and self.bits == "none":
            raise ValueError("gen.t.shared with bits none: one decoder could not know where to")
        n_up = self._upsamplings("gen.t", said.pop("n_upsample", None))
        self.cond_nc = sum(self.output_dims[task] for task in self.conditions) + BITS[self.bits]
        if form == "plain":
            said |= {"res_dim": self.latent_dim, "output_dim": 3, "n_upsample": n_up}
        else:
            said |= {"z_nc": self.latent_dim, "cond_nc": self.cond_nc, "n_up": n_up}
            if not self.conditions:
                raise ValueError(
                    f"gen.t.form {form}: there is no task of d, h, s, w to condition it"
                )
        make: Any = {"plain": BaseDecoder, "spade": SpadeDecoder}.get(form, SpadeMunitDecoder)
        self.spade = form != "plain"
        names = ("shared",) if shared else FLOODS
        return nn.ModuleDict({name: made_of(make, said, "gen.t") for name in names})

    # ------------------------------------------------------------------------------- what it does

    def encode(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> the latent [B, C, H / 2^n, W / 2^n]. Errors: ValueError for sides that
        are no multiple of 2^n."""
        n = 2**self.n_downsample
        if x.shape[-1] % n or x.shape[-2] % n:
            raise ValueError(
                f"pictures of {x.shape[-2]} x {x.shape[-1]}: sides must be multiples of {n}"
            )
        return self.encoder(x)

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """(C, h, w) of pictures of (H, W)."""
        n = 2**self.n_downsample
        return self.latent_dim, size[0] // n, size[1] // n

    def decode_tasks(self, z: Tensor, tasks: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Outputs of d, h, s, w (or of those asked for) on latents, in that order: [B, 1, H, W],
        s [B, classes, H, W]; of s and w logits."""
        wanted = self.conditions if tasks is None else tuple(tasks)
        return {task: self.decoders[task](z) for task in CONDITIONS if task in wanted}

    def conditioning(self, decoded: Mapping[str, Tensor]) -> Tensor:
        """What is decoded, as the translation's condition: [B, channels, H, W], in the order d, h,
        s, w. Errors: ValueError if a task is missing."""
        missing = [task for task in self.conditions if task not in decoded]
        if missing:
            raise ValueError(f"the translation is conditioned on {', '.join(missing)} too")
        maps = [self._condition(task, decoded[task]) for task in self.conditions]
        if not maps:
            raise ValueError("there is no task of d, h, s, w to condition the translation")
        return torch.cat(maps, 1)

    def _condition(self, task: str, output: Tensor) -> Tensor:
        raw = self.condition_on == "raw" and task not in self.logits
        if raw or task not in ("s", "w"):
            return output
        return output.softmax(1) if task == "s" else output.sigmoid()

    def wet(self, output: Tensor) -> Tensor:
        """Where an output of w says that there is water: bool, of its shape."""
        return output > (0 if "w" in self.logits else 0.5)  # a logit of 0 is a half

    def water(self, output: Tensor) -> Tensor:
        """An output of w as a probability in [0, 1]."""
        output = output.float()
        return output.sigmoid() if "w" in self.logits else output.clamp(0, 1)

    def adapt(self, z: Tensor, reality: str) -> Tensor:
        """Latents as real (r) or simulated (s) pictures [B, 3, H, W] in [-1, 1]."""
        return cast(nn.ModuleDict, self.decoders["a"])[reality](z)

    def translate(self, z: Tensor, cond: Tensor | None, target: str | Tensor) -> Tensor:
        """Latents as pictures [B, 3, H, W] in [-1, 1], flooded or not.

        cond: of `conditioning` (None where the form is plain). target: "f" or "n", a domain, or of
        each sample the index of its domain, int64 [B]. Errors: ValueError.
        """
        domains = self._targets(target, z)
        decoders = cast(nn.ModuleDict, self.decoders["t"])
        if self.spade:
            if cond is None:
                raise ValueError("this translation needs a condition: G.conditioning(decoded)")
            cond = self._with_bits(cond, domains)
        given = (z,) if cond is None or not self.spade else (z, cond)
        if "shared" in decoders:
            return decoders["shared"](*given)
        if isinstance(target, str):
            return decoders[target[-1]](*given)
        flooded = domains % 2 == 0  # rf 0, rn 1, sf 2, sn 3
        parts = {"f": flooded.nonzero()[:, 0], "n": (~flooded).nonzero()[:, 0]}
        made, order = [], []
        for name, rows in parts.items():
            if len(rows):
                made.append(decoders[name](*(part[rows] for part in given)))
                order.append(rows)
        return torch.cat(made)[torch.cat(order).argsort()]

    def _targets(self, target: str | Tensor, z: Tensor) -> Tensor:
        """The index of each sample's domain."""
        if isinstance(target, Tensor):
            return target.to(z.device)
        return torch.full((z.shape[0],), self.target_index(target), device=z.device)

    def target_index(self, target: str) -> int:
        """The number of a target of `translate`. Errors: ValueError."""
        if target in FLOODS and self.bits == "domain":
            raise ValueError(
                f"target {target!r}: this translation is told one of {', '.join(DOMAINS)}"
            )
        return FLOODS.index(target) if target in FLOODS else domain_of(target)

    def _with_bits(self, cond: Tensor, domains: Tensor) -> Tensor:
        """The condition, and one-hot channels of where to: [1, 0] flooded, [0, 1] not."""
        if self.bits == "none":
            return cond
        code = domains % 2 if self.bits == "flood" else domains
        hot = (code[:, None] == torch.arange(BITS[self.bits], device=code.device)).to(cond.dtype)
        maps = hot[:, :, None, None].expand(-1, -1, *cond.shape[-2:])
        return torch.cat([maps, cond] if self.bits == "flood" else [cond, maps], 1)

    def forward(self, x: Tensor, translator: str = "f") -> Tensor:
        """Pictures, flooded ("f") or not ("n"), or as of a domain: [B, 3, H, W] in [-1, 1]."""
        z = self.encode(x)
        cond = self.conditioning(self.decode_tasks(z)) if self.spade else None
        return self.translate(z, cond, translator)

    def representation(self) -> list[nn.Module]:
        """What is trained in the representation phase and conditions the translation: the encoder
        and the decoders of d, h, s, w."""
        return [self.encoder, *(self.decoders[task] for task in self.conditions)]


def _encoder(given: Mapping[str, Any]) -> nn.Module:
    said = dict(given)
    name = said.pop("architecture", "munit")
    if name not in ENCODERS:
        raise ValueError(f"gen.encoder.architecture {name!r}: it is one of {', '.join(ENCODERS)}")
    make: Any = ENCODERS[name]
    return made_of(make, said, "gen.encoder")
