"""Number formats: autocast, loss scaling for fp16, and when TF32 may be used."""

import contextlib
import platform
from collections.abc import Callable, Iterator
from typing import Any

import torch

from storage.errors import UsageError

NAMES = ("auto", "fp32", "bf16", "fp16")
# Of a softmax, wherever one is taken: cosines or scores divided by less, summed over a batch,
# leave the range of fp32, and what comes out is 0, infinite or NaN.
LOWEST_TEMPERATURE = 1e-30


class LossScaler:
    """Dynamic loss scale for fp16 (Micikevicius et al. 2018, section 3.2), kept on the host.

    torch's GradScaler fetches its own flag from the device; `Run.step` has already fetched the norm
    of the gradients, reduced over ranks, so this one only needs to be told how the turn went.
    It changes between turns, never between two optimizers of one.

    init: first scale; grows by 2 after `growth_interval` good turns, halves after a bad one.
    """

    def __init__(self, init: float = 2.0**16, growth_interval: int = 2000) -> None:
        self.scale = init
        self.growth_interval = growth_interval
        self.good_turns = 0

    def update(self, overflow: bool) -> None:
        """Move the scale after a turn; `overflow`: some gradient of it was not finite."""
        if overflow:
            self.scale = max(self.scale / 2, 2.0**-14)
            self.good_turns = 0
            return
        self.good_turns += 1
        if self.good_turns >= self.growth_interval:
            self.scale = min(self.scale * 2, 2.0**24)
            self.good_turns = 0

    @property
    def exhausted(self) -> bool:
        """Scaling cannot be the reason any more: gradients overflow even when scaled down."""
        return self.scale < 1.0

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale, "good_turns": self.good_turns}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scale = float(state["scale"])
        self.good_turns = int(state["good_turns"])


class Precision:
    """What `--precision` means on `device`.

    name: `auto` (bf16 on GPUs that have it in hardware, else fp32), `fp32`, `bf16`, `fp16`.
    dtype: the autocast format; torch.float32 means no autocast.
    scaler: a LossScaler for fp16, else None.
    fp16 on a CPU is a UsageError, and so is bf16 on a GPU without it.
    """

    def __init__(self, name: str, device: torch.device | str) -> None:
        if name not in NAMES:
            raise UsageError(f"--precision {name}: must be one of {', '.join(NAMES)}")
        self.device = torch.device(device)
        cuda = self.device.type == "cuda"
        has_bf16 = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
        self.name = ("bf16" if has_bf16 else "fp32") if name == "auto" else name
        if self.name == "fp16" and not cuda:
            raise UsageError("--precision fp16 needs a GPU; on a CPU use fp32 or bf16")
        if self.name == "bf16" and cuda and not has_bf16:
            raise UsageError(
                f"--precision bf16: {torch.cuda.get_device_name(self.device)} has no bf16; use fp16"
            )
        self.requested = name
        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[
            self.name
        ]
        self.scaler = LossScaler() if self.name == "fp16" else None

    @property
    def warning(self) -> str | None:
        """A line to say where this format is there but slow: processors without AVX-512 emulate
        bf16 (VGG16 forward and backward, 64 pixels: 30 times slower than fp32 on AVX2)."""
        if self.device.type != "cpu" or self.name != "bf16":
            return None
        capability = torch.backends.cpu.get_cpu_capability()
        if platform.machine().lower() not in ("x86_64", "amd64") or "512" in capability:
            return None
        return (
            f"warning: --precision bf16 on a processor without AVX-512 ({capability}): it is "
            "emulated there, many times slower than --precision fp32"
        )

    def autocast(self) -> torch.autocast:
        """Context for forward passes and losses; does nothing in fp32."""
        enabled = self.dtype != torch.float32
        return torch.autocast(
            self.device.type, dtype=self.dtype if enabled else torch.bfloat16, enabled=enabled
        )

    def apply_tf32_policy(self) -> None:
        """Let what is left in fp32 use TF32, except where fp32 was asked for by name."""
        _set_tf32(self.requested != "fp32")

    def apply(self, say: Callable[[str], object]) -> None:
        """The policy of TF32 for this process, and what there is to warn of."""
        self.apply_tf32_policy()
        if self.warning:
            say(self.warning)


@contextlib.contextmanager
def full_fp32() -> Iterator[None]:
    """No TF32 and no autocast inside: for metrics, which must not depend on the card."""
    matmul, conv = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    _set_tf32(False)
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = conv


def _set_tf32(allowed: bool) -> None:
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
