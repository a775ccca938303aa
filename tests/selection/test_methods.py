from __future__ import annotations

import pytest
import torch

from selection import METHODS, Method, jointly_sample_batch, select, selection_size


def hardest(learner_loss, filter_ratio=0.8, *, N=16, rounding="exact", generator=None):
    b = selection_size(len(learner_loss), filter_ratio, N, rounding)
    return learner_loss.topk(b).indices


def widest(
    learner_loss, ref_loss, filter_ratio=0.8, *, N=16, rounding="exact", generator=None, sign=1
):
    b = selection_size(len(learner_loss), filter_ratio, N, rounding)
    return (sign * (learner_loss - ref_loss)).topk(b).indices


def test_what_there_is():
    assert {name: m.needs_ref for name, m in METHODS.items()} == {"jest": True, "random": False}


def test_a_new_method_is_a_function_and_a_line(monkeypatch):
    monkeypatch.setitem(METHODS, "hardest", Method(hardest, needs_ref=False))
    monkeypatch.setitem(METHODS, "widest", Method(widest, needs_ref=True))
    learner, ref = torch.arange(10.0), torch.arange(10.0).flip(0) * 2
    assert select("hardest", learner, filter_ratio=0.7).tolist() == [9, 8, 7]
    # a reference that is there anyway does not reach a method without need of it
    assert select("hardest", learner, ref, filter_ratio=0.7).tolist() == [9, 8, 7]
    assert select("widest", learner, ref, filter_ratio=0.7).tolist() == [9, 8, 7]
    chosen = select("widest", learner, ref, filter_ratio=0.7, options={"sign": -1})
    assert chosen.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="'widest' needs the reference's losses"):
        select("widest", learner)


def test_select_passes_everything_on():
    learner, ref = torch.randn(64), torch.randn(64)
    generator = torch.Generator()
    ours = select(
        "jest",
        learner,
        ref,
        filter_ratio=0.6,
        N=5,
        rounding="reference",
        generator=generator.manual_seed(1),
        options={"temperature": 0.1, "first_chunk": "scored"},
    )
    direct = jointly_sample_batch(
        learner,
        ref,
        5,
        0.6,
        rounding="reference",
        generator=generator.manual_seed(1),
        temperature=0.1,
        first_chunk="scored",
    )
    assert torch.equal(ours, direct) and len(ours) == 25


def test_every_method_keeps_the_conventions():
    learner, ref = torch.randn(100), torch.randn(100)
    for name in METHODS:
        rows = select(name, learner, ref, filter_ratio=0.8, N=8)
        assert rows.dtype == torch.int64 and rows.device == learner.device
        assert rows.shape == (20,) == rows.unique().shape


def test_mistakes_are_named():
    learner = torch.randn(10)
    with pytest.raises(ValueError, match="'jst' is not one of: jest, random"):
        select("jst", learner)
    with pytest.raises(ValueError, match="'jest' needs the reference's losses: give ref_loss"):
        select("jest", learner)
    with pytest.raises(TypeError, match="temprature"):
        select("jest", learner, learner, filter_ratio=0.5, options={"temprature": 1})
