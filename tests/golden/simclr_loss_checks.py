"""Checks of the SimCLR golden vectors that concern losses, LARS and learning rates.

Tolerances of the vectors' README: F64 and F32 are our code run in float64 and float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from models.losses import DCL, DCLW, MultiPositive, NTXent
from models.optim import (
    LARC,
    LARS,
    google_lr,
    google_steps,
    original_lr,
    scaled_lr,
    warmup_cosine,
)
from tests import gloo
from tests.golden.support import Check, Vectors, assert_close, assert_rel

BOTH = (torch.float64, torch.float32)
# Rows of S at a time: our choice, less than the views, more than some
CHUNKS = (None, 7, 30)


def _assert_gradient(actual: Tensor, expected: Tensor, what: str, rel: float, atol: float) -> None:
    size = float(expected.abs().max())
    assert_close(actual, expected, what, rtol=0, atol=max(rel * size, atol))


def _assert_rows(actual: Tensor, expected: Tensor, what: str, rel: float, atol: float) -> None:
    """As _assert_gradient, but every row [.., d] by its own largest entry."""
    assert actual.shape == expected.shape, f"{what}: {tuple(actual.shape)}"
    far = (actual.double() - expected).abs().amax(-1)
    assert (far <= (rel * expected.abs().amax(-1)).clamp_min(atol)).all(), f"{what}: {far.max()}"


def _gradient(
    loss: Callable[..., Tensor], inputs: list[Tensor], dtype: torch.dtype
) -> tuple[Tensor, list[Tensor]]:
    leaves = [t.to(dtype, copy=True).requires_grad_() for t in inputs]
    value = loss(*leaves)
    assert value.dtype == dtype and value.shape == ()
    value.backward()
    return value.detach(), [leaf.grad for leaf in leaves]


def check_ntxent(v: Vectors) -> None:
    """Two views, or several when the file has them as one array."""
    if "views" in v:
        return _check_multiview(v)
    cases = v.strings("cases")
    assert cases, "no cases"
    for case in cases:
        for dtype in BOTH:
            for chunk in CHUNKS:
                _check_case(v, case, dtype, chunk)
        _check_figures(v, case)


def _check_case(v: Vectors, case: str, dtype: torch.dtype, chunk: int | None) -> None:
    what = f"{case}, {dtype}, chunk {chunk}"
    loss = NTXent(v.number(f"{case}/temperature"), chunk=chunk)
    inputs = [v[f"{case}/out0"], v[f"{case}/out1"]]
    value, grads = _gradient(loss, inputs, dtype)
    expected = v.number(f"{case}/loss")
    exact = dtype == torch.float64
    scale = (1e-10 if exact else 2e-6) * max(1.0, abs(expected))
    if case.startswith("opposite") and not exact:
        scale = 2e-5
    assert_close(value, np.array(expected), f"{what}, loss", rtol=0, atol=scale)
    per_anchor = loss.per_anchor(*(t.to(dtype) for t in inputs))
    # one anchor's error is not averaged away: its logit's own resolution, 1 / T, comes in
    single = scale if exact else max(scale, 1e-6 / v.number(f"{case}/temperature"))
    assert_close(per_anchor, v[f"{case}/per_anchor"], f"{what}, anchors", rtol=0, atol=single)
    rel, atol = (1e-8, 1e-12) if exact else (2e-5, 1e-7)
    check = _assert_gradient
    if not exact and case.startswith("collapsed"):
        rel = 1e-3
    if not exact and case.startswith("identical"):
        rel, atol = 1e-4, 0.0  # gradients of 1e-5: an absolute tolerance would hide everything
    if case.startswith("norms"):
        check, rel = _assert_rows, rel if exact else 1e-4
    for i, grad in enumerate(grads):
        check(grad, v[f"{case}/grad{i}"], f"{what}, grad{i}", rel, atol)
    if inputs[0].shape[0] == 1:
        assert value == 0 and not any(g.any() for g in grads), f"{what}: one image is exactly 0"


def _check_figures(v: Vectors, case: str) -> None:
    """Contrastive top-1, and the figures in the file that are of other codes."""
    out = [v[f"{case}/out{i}"].double() for i in (0, 1)]
    loss = v.number(f"{case}/loss")
    ours = NTXent(v.number(f"{case}/temperature")).top1(*out).item()
    # Exact ties (the same row twice) are broken by order in the file, evenly by us.
    z = torch.nn.functional.normalize(torch.cat(out), dim=1)
    cosines = (z @ z.T).fill_diagonal_(-2)
    rows = torch.arange(len(z))
    positive = cosines[rows, rows.roll(len(out[0]))]
    cosines[rows, rows.roll(len(out[0]))] = -2
    ties = float(((positive - cosines.amax(1)).abs() < 1e-12).double().mean())
    assert abs(ours - v.number(f"{case}/contrastive_top1")) <= ties + 1e-9, f"{case}: top-1 {ours}"
    np.testing.assert_allclose(v.number(f"{case}/loss_numpy"), loss, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(v.number(f"{case}/loss_google_sum"), 2 * loss, rtol=1e-12)
    for name in ("lightly", "seed_formula"):  # float32 of others: the latter overflows when cold
        v.number(f"{case}/loss_{name}_fp32")


def _check_multiview(v: Vectors) -> None:
    views = v["views"]
    for reduce in ("in", "out"):
        for dtype in BOTH:
            for chunk in CHUNKS:
                what = f"{reduce}, {dtype}, chunk {chunk}"
                loss = MultiPositive(v.number("temperature"), reduce, chunk=chunk)
                value, (grad,) = _gradient(loss, [views], dtype)
                exact = dtype == torch.float64
                expected = v.number(f"loss_{reduce}")
                atol = (1e-10 if exact else 2e-6) * max(1.0, abs(expected))
                assert_close(value, np.array(expected), f"{what}, loss", rtol=0, atol=atol)
                rel, atol = (1e-8, 1e-12) if exact else (2e-5, 1e-7)
                _assert_gradient(grad, v[f"grad_{reduce}"], f"{what}, gradient", rel, atol)


def check_dcl(v: Vectors) -> None:
    cases = v.strings("cases")
    assert cases, "no cases"
    for case in cases:
        temperature, sigma = v.number(f"{case}/temperature"), v.number(f"{case}/sigma")
        for dtype in BOTH:
            for chunk in CHUNKS:
                what = f"{case}, {dtype}, chunk {chunk}"
                loss = DCL(temperature, chunk=chunk)
                if sigma >= 0:
                    loss = DCLW(temperature, sigma, chunk=chunk)
                inputs = [v[f"{case}/out0"], v[f"{case}/out1"]]
                value, grads = _gradient(loss, inputs, dtype)
                exact = dtype == torch.float64
                expected = np.array(v.number(f"{case}/loss"))
                # a float32 has 6e-8 of its own size, and this loss reaches 1 / T
                atol = 1e-10 if exact else max(5e-6, 2e-7 * float(abs(expected)))
                assert_close(value, expected, f"{what}, loss", rtol=0, atol=atol)
                for i, grad in enumerate(grads):
                    rel = 1e-8 if exact else 5e-5
                    assert_rel(grad, v[f"{case}/grad{i}"], f"{what}, grad{i}", rel)


# ------------------------------------------------------------------------------- several processes


def _rank_losses(
    out0: Tensor, out1: Tensor, temperature: float, dtype: torch.dtype, name: str, gather: bool
) -> tuple[float, Tensor, Tensor]:
    """On one of the ranks: its loss, and the gradients of its rows as it sees them."""
    from runtime import distributed

    rank = distributed.rank()
    loss = {"ntx": NTXent, "dcl": DCL}[name](temperature, chunk=5, gather=gather)
    value, (grad0, grad1) = _gradient(loss, [out0[rank], out1[rank]], dtype)
    return value.item(), grad0, grad1


def _spread(t: Tensor, world: int) -> Tensor:
    """[W, n, d] of the file's ranks -> the same rows on `world` ranks."""
    return t.reshape(world, -1, t.shape[-1])


def check_distributed(v: Vectors) -> None:
    """Ranks against the file: F64 1e-9, F32 as losses of one process are; and F32 ranks against
    one F32 process: 1e-6, more below T = .1 as a logit's own resolution is.
    """
    out = [v["out0"], v["out1"]]
    temperature, written = v.number("temperature"), int(v.number("world"))
    assert out[0].shape[0] == written
    worlds = {w for w in (2, 4, written) if (out[0].shape[0] * out[0].shape[1]) % w == 0}
    for name, loss in (("ntx", NTXent), ("dcl", DCL)):
        for dtype in BOTH:
            flat = [t.reshape(-1, t.shape[-1]) for t in out]
            alone = _gradient(loss(temperature), flat, dtype)
            for world in sorted(worlds):
                _check_ranks(v, name, out, temperature, world, dtype, alone)
        if (key := f"{name}/local_only_loss_per_rank") in v or name == "ntx":
            got = gloo.run(written, _rank_losses, *out, temperature, torch.float64, name, False)
            losses = torch.tensor([g[0] for g in got], dtype=torch.float64)
            assert_rel(losses, v[key], f"{name} without gathering", 1e-9)


def _check_ranks(
    v: Vectors,
    name: str,
    out: list[Tensor],
    temperature: float,
    world: int,
    dtype: torch.dtype,
    alone: tuple[Tensor, list[Tensor]],
) -> None:
    what = f"{name}, {world} ranks, {dtype}"
    written, exact = len(out[0]), dtype == torch.float64
    shared = [_spread(t, world) for t in out]
    got = gloo.run(world, _rank_losses, *shared, temperature, dtype, name, True)
    losses = torch.tensor([g[0] for g in got], dtype=torch.float64)

    def near(expected: Tensor, rel: float) -> dict[str, float]:
        # float32 resolves logits, not losses near 0
        size = float(expected.abs().max())
        return dict(rtol=0, atol=rel * (size if exact else max(1.0, size)))

    whole, rel = v[f"{name}/global_loss"], 1e-9 if exact else 2e-6
    assert_close(losses.mean(), whole, f"{what}, mean loss", **near(whole, rel))
    if world == written:
        each = v[f"{name}/loss_per_rank"]
        assert_close(losses, each, f"{what}, losses", **near(each, rel))
    twin = 1e-9 if exact else 1e-6 * max(1.0, 0.1 / temperature)
    one = alone[0].double()
    assert_close(losses.mean(), one, f"{what}, loss of one process", **near(one, twin))
    rel = 1e-9 if exact else {"ntx": 2e-5, "dcl": 5e-5}[name]
    for i in (0, 1):
        grad = torch.stack([g[1 + i] for g in got])
        expected = _spread(v[f"{name}/grad{i}_per_rank"], world) * (world / written)
        assert_rel(grad, expected, f"{what}, grad{i}", rel)
        # averaging over ranks, as DDP does, gives one process's gradient
        mean = grad / world
        assert_rel(mean, _spread(alone[1][i], world), f"{what}, one process's grad{i}", twin)
        if (key := f"{name}/global_grad{i}") in v or name == "ntx":
            assert_rel(mean, _spread(v[key], world), f"{what}, averaged grad{i}", rel)


# --------------------------------------------------------------------------- optimisers, schedules


def check_lars(v: Vectors) -> None:
    shapes = [tuple(int(n) for n in s.split(",")) for s in v.strings("shapes")]
    excluded = v["excluded"].bool().tolist()
    mu, decay, trust = (v.number(k) for k in ("momentum", "weight_decay", "trust"))
    sizes = [int(np.prod(s)) for s in shapes]

    def tensors(flat: Tensor, dtype: torch.dtype) -> list[Tensor]:
        parts = flat.to(dtype).split(sizes)
        return [part.reshape(s).clone() for part, s in zip(parts, shapes, strict=True)]

    def groups(
        params: list[Tensor], decay_of_excluded: float, semantics: str | None = None
    ) -> list[dict]:
        made = []
        for skip in (False, True):
            chosen = [p for p, e in zip(params, excluded, strict=True) if e == skip]
            wd = decay_of_excluded if skip else decay
            # without decay the published bolts adapts nothing, and ours wants that said
            adapt = not skip and (semantics != "bolts" or decay > 0)
            made.append({"params": chosen, "weight_decay": wd, "adapt": adapt})
        return made

    def run(make: Callable, lrs: Tensor, dtype: torch.dtype) -> Tensor:
        params = [torch.nn.Parameter(t) for t in tensors(v["params0"], dtype)]
        optimizer, after = make(params), []
        for grads, lr in zip(v["grads"], lrs.tolist(), strict=True):
            for p, grad in zip(params, tensors(grads, dtype), strict=True):
                p.grad = grad
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            after.append(torch.cat([p.detach().reshape(-1) for p in params]))
        return torch.stack(after)

    named = {
        "bolts": "bolts",
        "google_classic": "google",
        "google_popular": "google_popular",
        "larc_sgd": "larc",
    }
    for dtype in BOTH:
        rel = 1e-9 if dtype == torch.float64 else 1e-5
        for file_name, semantics in named.items():
            for nesterov in (False, True):
                key = f"{file_name}_{'nesterov' if nesterov else 'plain'}"
                # the wrapper decays everything
                wd = decay if semantics == "larc" else 0.0
                sgd = dict(momentum=mu, nesterov=nesterov)
                as_lars = dict(**sgd, trust=trust, semantics=semantics)
                ours = run(
                    lambda params, wd=wd, kw=as_lars: LARS(
                        groups(params, wd, kw["semantics"]), 1.0, **kw
                    ),
                    v["lrs"],
                    dtype,
                )
                assert_rel(ours, v[key], f"{key}, {dtype}", rel)
                if semantics == "larc":
                    ours = run(
                        lambda params, kw=sgd: LARC(
                            torch.optim.SGD(groups(params, decay), 1.0, **kw), trust=trust
                        ),
                        v["lrs"],
                        dtype,
                    )
                    assert_rel(ours, v[key], f"{key} by LARC, {dtype}", rel)
        ours = run(
            lambda params: LARC(torch.optim.Adam(groups(params, decay), 1.0), trust=trust),
            v["larc_adam_lrs"],
            dtype,
        )
        rel = 1e-9 if dtype == torch.float64 else 1e-4
        assert_rel(ours, v["larc_adam"], f"larc_adam, {dtype}", rel)


def check_lr_schedules(v: Vectors) -> None:
    exact = dict(rtol=1e-12, atol=1e-15)
    for key in v.keys("*/lr"):
        case = key[: -len("/lr")]
        args, expected = v[f"{case}/args"].tolist(), v[key]
        if case.startswith("cosine_warmup"):
            total, warmup = int(args[0]), int(args[1])
            ours = [
                warmup_cosine(s, total, warmup, peak=args[2], end=args[3]) for s in range(total)
            ]
        elif case.startswith(("google_linear", "google_sqrt")):
            examples, batch, epochs = (int(a) for a in args[:3])
            warmup = args[3]  # epochs, not always whole
            peak = scaled_lr(args[4], batch, "linear" if "linear" in case else "sqrt")
            of = dict(examples=examples, batch=batch, epochs=epochs)
            steps = range(google_steps(**of))
            ours = [google_lr(s, **of, warmup_epochs=warmup, peak=peak) for s in steps]
        elif case.startswith("seed_epoch"):
            epochs, warmup = int(args[0]), int(args[1])
            ours = [original_lr(e + 1, epochs, warmup, *args[2:]) for e in range(epochs)]
        else:
            raise AssertionError(f"no schedule {case}")
        assert_close(np.array(ours), expected, case, **exact)
    for key in v.keys("scaling/*_*"):
        rule, base = key[len("scaling/") :].split("_")
        ours = [scaled_lr(float(base), b, rule) for b in v["scaling/batch"].tolist()]
        assert_close(np.array(ours), v[key], key, **exact)


FAMILIES: dict[str, Check] = {
    "ntxent*": check_ntxent,
    "distributed*": check_distributed,
    "dcl*": check_dcl,
    "lars*": check_lars,
    "lr_schedules*": check_lr_schedules,
}
