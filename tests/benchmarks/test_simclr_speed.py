"""benchmarks.ntxent and benchmarks.augment: they run, and compare like with like."""

from __future__ import annotations

import argparse

import pytest
import torch

import models.simclr
from benchmarks import augment, ntxent, simclr_step
from data.views.recipes import view_keys
from tests.scripts.simclr_support import small_backbone


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows(text: str) -> list[list[str]]:
    """Cells of the table's rows."""
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_both_forms_of_ntxent_are_one_function():
    args = argparse.Namespace(temperature=0.1, chunk=None, dim=16, seed=0)
    views = [v.detach().double().requires_grad_() for v in ntxent.projections(30, args, "cpu")]
    values, grads = {}, {}
    for name, loss in ntxent.methods(args).items():
        values[name] = loss(*views)
        grads[name] = torch.autograd.grad(values[name], views)
    torch.testing.assert_close(values["ours"], values["plain"], rtol=1e-12, atol=1e-12)
    for a, b in zip(grads["ours"], grads["plain"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_ntxent_prints_a_table(capsys, monkeypatch):
    monkeypatch.setattr(ntxent, "peak", lambda n, name, *_: {"plain": 8.0, "ours": 2.0}[name])
    ntxent.main(["--quick", "--device", "cpu"])
    plain, ours = rows(capsys.readouterr().out)
    assert plain[:2] == ["2 x 128", "plain"] and ours[:2] == ["2 x 128", "ours"]
    assert float(plain[2]) >= 0 and ours[5] == "4.0" and float(ours[6]) < 1e-4


@pytest.mark.slow
def test_peak_of_a_fresh_process():
    args = argparse.Namespace(
        temperature=0.5, chunk=None, dim=16, seed=0, quick=True, threads=1, processes=1
    )
    plain, ours = (ntxent.peak(1024, name, args, torch.device("cpu")) for name in ("plain", "ours"))
    # S alone is 16 MiB; at once it is held at least twice
    assert plain > 2 * 2048 * 2048 * 4 > ours > 0


def test_augment_prints_a_table(capsys):
    augment.main(["--quick", "--sizes", "32"])
    table = rows(capsys.readouterr().out)
    table, folding = table[:3], table[5:]
    assert [row[2] for row in table] == ["per sample", "exact", "folded"]
    assert [row[1] for row in folding] == ["smooth", "scenes"]
    assert all(float(row[3]) > 0 for row in table) and table[0][5] == "1.0 (1.0-1.0)"


def test_a_step_prints_its_tables(capsys, monkeypatch):
    monkeypatch.setattr(models.simclr, "build_backbone", small_backbone)
    simclr_step.main(["--quick"])
    table = rows(capsys.readouterr().out)
    names = [row[0] for row in table if row[0] != "method" and "---" not in row[0]]
    assert names[:4] == ["fp32", "fp32, channels_last", "bf16", "bf16, channels_last"]
    assert names[4:] == ["per sample", "per sample bf16", "exact", "folded"]


def test_augment_makes_two_different_views_of_the_size(monkeypatch):
    """Every method does the whole work: two views of every picture asked for."""
    made = []
    stack = torch.stack
    monkeypatch.setattr(
        torch, "stack", lambda x, *a, **k: made.append(stack(x, *a, **k)) or made[-1]
    )
    plan, images = augment.RECIPES[32], augment.pictures(6, 32, 0)
    makers = augment.methods(plan, images, "cpu")
    makers["per sample"](torch.tensor([4, 1, 2]), 0)
    views = [x for x in made if x.shape == (3, 3, 32, 32)]
    assert len(views) == 2 and not torch.equal(*views)
    monkeypatch.undo()
    calls = []
    kind = augment.ExactViews
    plain = kind.__call__
    monkeypatch.setattr(
        kind, "__call__", lambda self, x, keys: calls.append((x, keys)) or plain(self, x, keys)
    )
    makers["exact"](torch.tensor([4, 1, 2]), 3)
    for view, (batch, keys) in enumerate(calls):
        assert torch.equal(batch, images[[4, 1, 2]])
        assert torch.equal(keys, view_keys(0, 3, torch.tensor([4, 1, 2]), view))
    assert len(calls) == 2
