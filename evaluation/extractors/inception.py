"""InceptionV3 as FID needs it: the network of 2015-12-05 that Heusel et al. 2017 used.

Szegedy et al. 2015 (arXiv:1512.00567), figures 5 to 7 and 10. The weights are TensorFlow's, in the
layout of torchvision's `Inception3` that pytorch-fid and torch-fidelity share
(pt_inception-2015-12-05-6726825d.pth). That network is not quite torchvision's: it has 1008 classes
and no auxiliary head, averages leave the zeros of the padding out, and the last block has a
maximum where others have an average.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluation.extractors.base import (
    Extractor,
    Outputs,
    Request,
    facts,
    load_into,
    metric_name,
    needs_weights,
    policy,
    seeded,
    state_of,
)

SIDE = 299
CLASSES = 1008
# Buffers of BatchNorm that torch has added since the file was written.
_COUNTERS = "num_batches_tracked"


class Conv(nn.Module):
    """Convolution without bias, BatchNorm, ReLU. Child names are those of the weights file."""

    def __init__(self, inner: int, outer: int, **shape: int | tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, bias=False, **shape)  # type: ignore[arg-type]
        self.bn = nn.BatchNorm2d(outer, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def _mean(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class Mixed(nn.Module):
    """Branches side by side, concatenated.

    branches: for each the names of its convolutions in order; a name with `|` splits into two that
    lie beside each other, and "=max", "=mean", "=half" are poolings without weights (a maximum or
    a mean over 3x3 that keeps the size, a maximum that halves it). convs: name -> (in, out, shape).
    """

    def __init__(
        self,
        branches: Sequence[Sequence[str]],
        convs: dict[str, Conv],
    ) -> None:
        super().__init__()
        self._branches = branches
        for name, conv in convs.items():
            self.add_module(name, conv)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._branch(x, names) for names in self._branches], 1)

    def _branch(self, x: Tensor, names: Sequence[str]) -> Tensor:
        for name in names:
            x = self._step(x, name)
        return x

    def _step(self, x: Tensor, name: str) -> Tensor:
        if name == "=mean":
            return _mean(x)
        if name == "=max":
            return F.max_pool2d(x, 3, stride=1, padding=1)
        if name == "=half":
            return F.max_pool2d(x, 3, stride=2)
        if "|" in name:
            return torch.cat([self._step(x, part) for part in name.split("|")], 1)
        return self.get_submodule(name)(x)


_WIDE: dict[str, int | tuple[int, int]] = {"kernel_size": (1, 7), "padding": (0, 3)}
_TALL: dict[str, int | tuple[int, int]] = {"kernel_size": (7, 1), "padding": (3, 0)}


def _block35(inner: int, pooled: int) -> Mixed:
    """Figure 5: 1x1, 5x5, two 3x3, pooling; at 35 x 35."""
    return Mixed(
        [["branch1x1"], ["branch5x5_1", "branch5x5_2"],
         ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], ["=mean", "branch_pool"]],
        {
            "branch1x1": Conv(inner, 64, kernel_size=1),
            "branch5x5_1": Conv(inner, 48, kernel_size=1),
            "branch5x5_2": Conv(48, 64, kernel_size=5, padding=2),
            "branch3x3dbl_1": Conv(inner, 64, kernel_size=1),
            "branch3x3dbl_2": Conv(64, 96, kernel_size=3, padding=1),
            "branch3x3dbl_3": Conv(96, 96, kernel_size=3, padding=1),
            "branch_pool": Conv(inner, pooled, kernel_size=1),
        },
    )  # fmt: skip


def _to17(inner: int) -> Mixed:
    """Figure 10: 35 x 35 to 17 x 17."""
    return Mixed(
        [["branch3x3"], ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], ["=half"]],
        {
            "branch3x3": Conv(inner, 384, kernel_size=3, stride=2),
            "branch3x3dbl_1": Conv(inner, 64, kernel_size=1),
            "branch3x3dbl_2": Conv(64, 96, kernel_size=3, padding=1),
            "branch3x3dbl_3": Conv(96, 96, kernel_size=3, stride=2),
        },
    )


def _block17(inner: int, width: int) -> Mixed:
    """Figure 6 with n = 7: factorised 7x7; at 17 x 17."""
    return Mixed(
        [["branch1x1"], ["branch7x7_1", "branch7x7_2", "branch7x7_3"],
         [f"branch7x7dbl_{k}" for k in range(1, 6)], ["=mean", "branch_pool"]],
        {
            "branch1x1": Conv(inner, 192, kernel_size=1),
            "branch7x7_1": Conv(inner, width, kernel_size=1),
            "branch7x7_2": Conv(width, width, **_WIDE),
            "branch7x7_3": Conv(width, 192, **_TALL),
            "branch7x7dbl_1": Conv(inner, width, kernel_size=1),
            "branch7x7dbl_2": Conv(width, width, **_TALL),
            "branch7x7dbl_3": Conv(width, width, **_WIDE),
            "branch7x7dbl_4": Conv(width, width, **_TALL),
            "branch7x7dbl_5": Conv(width, 192, **_WIDE),
            "branch_pool": Conv(inner, 192, kernel_size=1),
        },
    )  # fmt: skip


def _to8(inner: int) -> Mixed:
    """17 x 17 to 8 x 8."""
    return Mixed(
        [["branch3x3_1", "branch3x3_2"], [f"branch7x7x3_{k}" for k in range(1, 5)], ["=half"]],
        {
            "branch3x3_1": Conv(inner, 192, kernel_size=1),
            "branch3x3_2": Conv(192, 320, kernel_size=3, stride=2),
            "branch7x7x3_1": Conv(inner, 192, kernel_size=1),
            "branch7x7x3_2": Conv(192, 192, **_WIDE),
            "branch7x7x3_3": Conv(192, 192, **_TALL),
            "branch7x7x3_4": Conv(192, 192, kernel_size=3, stride=2),
        },
    )


def _block8(inner: int, pooling: str) -> Mixed:
    """Figure 7: branches that split in two; at 8 x 8. pooling: "=mean", at last "=max"."""
    flat: dict[str, int | tuple[int, int]] = {"kernel_size": (1, 3), "padding": (0, 1)}
    high: dict[str, int | tuple[int, int]] = {"kernel_size": (3, 1), "padding": (1, 0)}
    return Mixed(
        [["branch1x1"], ["branch3x3_1", "branch3x3_2a|branch3x3_2b"],
         ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a|branch3x3dbl_3b"],
         [pooling, "branch_pool"]],
        {
            "branch1x1": Conv(inner, 320, kernel_size=1),
            "branch3x3_1": Conv(inner, 384, kernel_size=1),
            "branch3x3_2a": Conv(384, 384, **flat),
            "branch3x3_2b": Conv(384, 384, **high),
            "branch3x3dbl_1": Conv(inner, 448, kernel_size=1),
            "branch3x3dbl_2": Conv(448, 384, kernel_size=3, padding=1),
            "branch3x3dbl_3a": Conv(384, 384, **flat),
            "branch3x3dbl_3b": Conv(384, 384, **high),
            "branch_pool": Conv(inner, 192, kernel_size=1),
        },
    )  # fmt: skip


class InceptionV3(nn.Module):
    """Pictures [N, 3, 299, 299] in [-1, 1) -> features [N, 2048] and logits [N, 1008].

    The logits are without the bias of the last layer, as the Inception score of the original code
    has them (torch-fidelity calls them unbiased).
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, kernel_size=3, stride=2)
        self.Conv2d_2a_3x3 = Conv(32, 32, kernel_size=3)
        self.Conv2d_2b_3x3 = Conv(32, 64, kernel_size=3, padding=1)
        self.Conv2d_3b_1x1 = Conv(64, 80, kernel_size=1)
        self.Conv2d_4a_3x3 = Conv(80, 192, kernel_size=3)
        self.Mixed_5b = _block35(192, 32)
        self.Mixed_5c = _block35(256, 64)
        self.Mixed_5d = _block35(288, 64)
        self.Mixed_6a = _to17(288)
        self.Mixed_6b = _block17(768, 128)
        self.Mixed_6c = _block17(768, 160)
        self.Mixed_6d = _block17(768, 160)
        self.Mixed_6e = _block17(768, 192)
        self.Mixed_7a = _to8(768)
        self.Mixed_7b = _block8(1280, "=mean")
        self.Mixed_7c = _block8(2048, "=max")
        self.fc = nn.Linear(2048, CLASSES)

    def forward(self, x: Tensor) -> Outputs:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = F.max_pool2d(x, 3, stride=2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        features = x.mean((2, 3))
        return Outputs(features, F.linear(features, self.fc.weight))


def open_inception(request: Request) -> Extractor:
    """The FID network: 2048 features, resized as clean-fid unless another policy is asked for.

    Errors: UsageError, CheckpointError.
    """
    net = seeded(InceptionV3, request.random)
    assert isinstance(net, InceptionV3)
    if request.random is None:
        file = needs_weights(request, "inception")
        state = {k: v for k, v in state_of(file).items() if not k.endswith(_COUNTERS)}
        own = {k: v for k, v in net.state_dict().items() if k.endswith(_COUNTERS)}
        load_into(net, state | own, file, "the InceptionV3 of FID (pt_inception-2015-12-05)")
    resize, name = policy(request.resize, "clean")
    net = net.to(request.device).to(memory_format=torch.channels_last)
    prepare = partial(_prepare, resize=resize)
    about = facts(request, net, SIDE, name)
    own_name = metric_name("inception", request)
    return Extractor(own_name, net, net, prepare, about, device=request.device)


def _prepare(images: Tensor, resize: Callable[[Tensor, int], Tensor]) -> Tensor:
    x = (resize(images, SIDE) - 128) / 128
    return x.contiguous(memory_format=torch.channels_last)
