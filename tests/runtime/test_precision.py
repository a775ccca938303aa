"""What --precision means on this machine, and the loss scale."""

import pytest
import torch

from runtime.precision import LossScaler, Precision, full_fp32
from storage.errors import UsageError


def test_auto_is_fp32_on_a_cpu():
    p = Precision("auto", "cpu")
    assert (p.name, p.dtype, p.scaler) == ("fp32", torch.float32, None)
    with p.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_bf16_autocasts_and_needs_no_scaler():
    p = Precision("bf16", "cpu")
    assert p.scaler is None
    with p.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(UsageError, match="needs a GPU"):
        Precision("fp16", "cpu")


def test_unknown_name():
    with pytest.raises(UsageError, match="fp8"):
        Precision("fp8", "cpu")


@pytest.mark.parametrize("has_bf16", [True, False])
def test_auto_on_a_gpu_asks_the_gpu(monkeypatch, has_bf16):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    assert Precision("auto", "cuda:0").name == ("bf16" if has_bf16 else "fp32")
    assert isinstance(Precision("fp16", "cuda:0").scaler, LossScaler)
    if not has_bf16:
        with pytest.raises(UsageError, match="Old GPU"):
            Precision("bf16", "cuda:0")


def tf32():
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


def test_tf32_policy():
    before = tf32()
    try:
        Precision("auto", "cpu").apply_tf32_policy()
        assert tf32() == ("high", True)
        with full_fp32(), Precision("bf16", "cpu").autocast():
            assert tf32() == ("highest", False)
        assert tf32() == ("high", True)
        Precision("fp32", "cpu").apply_tf32_policy()
        assert tf32() == ("highest", False)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def test_the_scale_backs_off_and_grows():
    scaler = LossScaler(init=8.0, growth_interval=3)
    history = []
    for overflow in (True, False, False, True, False, False, False, False):
        scaler.update(overflow)
        history.append(scaler.scale)
    assert history == [4, 4, 4, 2, 2, 2, 4, 4]
    other = LossScaler(init=1.0, growth_interval=3)
    other.load_state_dict(scaler.state_dict())
    for _ in range(2):
        scaler.update(False), other.update(False)
    assert other.scale == scaler.scale == 8


def test_the_scale_is_exhausted_below_one():
    scaler = LossScaler(init=2.0)
    assert not scaler.exhausted
    scaler.update(True)
    assert not scaler.exhausted
    scaler.update(True)
    assert scaler.exhausted
    for _ in range(100):
        scaler.update(True)
    assert scaler.scale > 0


@pytest.mark.parametrize(
    "name, machine, capability, slow",
    [
        ("bf16", "x86_64", "AVX2", True),
        ("bf16", "x86_64", "AVX512", False),
        ("bf16", "arm64", "DEFAULT", False),
        ("fp32", "x86_64", "AVX2", False),
    ],
)
def test_emulated_bf16_is_said(name, machine, capability, slow, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr("platform.machine", lambda: machine)
    warning = Precision(name, "cpu").warning
    assert (warning is not None) == slow and (not slow or "--precision fp32" in warning)
