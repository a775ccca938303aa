"""Code search against a brute-force oracle: every candidate through the full model, one by one."""

import pytest
import torch

from imle.codes import CodeGenerator
from imle.draws import KeyedDraw
from imle.generator import CAMNet
from imle.losses import ResolutionLoss
from imle.search import CodeSearch, NonFiniteSearchError, per_level, search
from tests.imle.toys import PlainModel, PreparedLoss, ToyCascade, mse

IDS = torch.tensor([7, 3, 100, 4, 12])


@pytest.fixture(autouse=True)
def one_seed():
    torch.manual_seed(0)


def problem(levels=2, batch=5):
    model = ToyCascade(levels)
    cx = torch.rand(batch, 3, 4, 4)
    ys = [torch.rand(batch, 3, 2 * s, 2 * s) for s in model.sides]
    return model, CodeGenerator(model.code_sizes, seed=3), cx, ys


@torch.no_grad()
def oracle(model, z, cx, ys, ids, loop, ns, loss=mse):
    """Winners, their codes and all losses; one image and one candidate at a time, no cache."""
    training = model.training
    model.eval()
    winners, codes, tables = [], [], []
    for b in range(len(cx)):
        chosen, won, table = [], [], []
        for level, n in enumerate(ns):
            losses = []
            for k in range(n):
                code = z.draw(level, loop, ids[b : b + 1], torch.tensor([k]))
                fx = model(cx[b : b + 1], [*chosen, code], loi=level)
                losses.append(loss(fx, ys[level][b : b + 1]).item())
            finite = [v if v == v and abs(v) != float("inf") else float("inf") for v in losses]
            won.append(finite.index(min(finite)))
            chosen.append(z.draw(level, loop, ids[b : b + 1], torch.tensor([won[-1]])))
            table.append(torch.tensor(losses))
        winners.append(won)
        codes.append(chosen)
        tables.append(table)
    model.train(training)
    return (
        torch.tensor(winners),
        [torch.cat([c[i] for c in codes]) for i in range(len(ns))],
        [torch.stack([t[i] for t in tables]) for i in range(len(ns))],
    )


@pytest.mark.parametrize("kind", ["cascade", "plain", "prepared"])
@pytest.mark.parametrize("sp, code_bs", [([3, 4], 5), (1, 1), (100, 2), ([7, 1], 3), (2, 5)])
def test_equals_brute_force(kind, sp, code_bs):
    model, z, cx, ys = problem(levels=2)
    ns = [7, 9]
    winners, codes, tables = oracle(model, z, cx, ys, IDS, 2, ns)
    tested = PlainModel(model) if kind == "plain" else model
    loss = PreparedLoss() if kind == "prepared" else mse
    result = search(tested, loss, z, cx, ys, IDS, 2, ns, sp, code_bs=code_bs, return_losses=True)
    assert torch.equal(result.winners, winners) and result.winners.dtype == torch.int64
    for level in range(2):
        assert torch.equal(result.codes[level], codes[level])
        torch.testing.assert_close(result.all_losses[level], tables[level])
        best = tables[level].min(1).values
        torch.testing.assert_close(result.losses[:, level], best)
    assert len(winners.unique()) > 2  # the problem is not trivial
    if kind == "prepared":  # once for every level of every batch of images, not of every chunk
        assert loss.prepared == 2 * -(-5 // code_bs)
    # the final outputs of the full model have those losses
    with torch.no_grad():
        images = model.eval()(cx, result.codes)
    for level in range(2):
        torch.testing.assert_close(mse(images[level], ys[level]), result.losses[:, level])


def test_four_levels_and_earlier_levels_never_run_again():
    model, z, cx, ys = problem(levels=4, batch=2)
    ns = [5, 4, 3, 6]
    winners, _, _ = oracle(model, z, cx, ys, IDS[:2], 0, ns)
    model.rows = [0] * 4
    result = search(model, mse, z, cx, ys, IDS[:2], 0, ns, 2)
    assert torch.equal(result.winners, winners)
    assert model.rows == [2 * n for n in ns]  # exactly ns candidates of each image and level


def test_exact_number_of_candidates_and_callback():
    model, z, cx, ys = problem()
    drawn, calls = [], []

    class Counting:
        def draw(self, level, loop, image_ids, candidate_ids, device):
            drawn.append((level, len(image_ids), candidate_ids.tolist()))
            return z.draw(level, loop, image_ids, candidate_ids, device)

    search(
        model, mse, Counting(), cx, ys, IDS, 0, [7, 3], [3, 5], code_bs=3,
        on_chunk=lambda *a: calls.append(a),
    )  # fmt: skip
    chunks = [(0, [0, 1, 2]), (0, [3, 4, 5]), (0, [6]), (1, [0, 1, 2])]
    assert drawn == [(lv, b, c) for b in (3, 2) for lv, c in chunks]
    assert calls == [(i + 1, 8) for i in range(8)]


def test_ties_go_to_the_first_candidate():
    model, z, cx, ys = problem(levels=1)
    for values, first in (([1.0] * 6, 0), ([2.0, 1.0, 1.0, 3.0, 1.0, 1.0], 1)):
        given = torch.tensor(values)
        result = search(model, lambda fx, y, v=given: v, z, cx[:1], [ys[0][:1]], IDS[:1], 0, 6, 6)
        assert result.winners.tolist() == [[first]]
    # within and over chunks
    constant = lambda fx, y: torch.ones(len(fx))  # noqa: E731
    for precision in ("fp32", "bf16"):
        result = search(model, constant, z, cx, ys, IDS, 0, 7, 2, precision=precision, rescore=3)
        assert result.winners.flatten().tolist() == [0] * 5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("sp", [1, 4, 100])
def test_nan_candidates_are_skipped_and_hide_no_other(precision, sp):
    """Some candidates give nan or inf: the oracle's argmin is over the finite ones."""
    model, z, cx, ys = problem()

    class Poisoned:
        num = 0

        def draw(self, level, loop, image_ids, candidate_ids, device=None):
            code = z.draw(level, loop, image_ids, candidate_ids, device)
            ids = candidate_ids.expand(len(image_ids), -1).flatten()
            code[ids % 3 == 0] = torch.nan
            code[ids % 3 == 1, 0] = torch.inf
            return code

    winners, _, tables = oracle(model, Poisoned(), cx, ys, IDS, 0, [8, 8])
    assert not torch.isfinite(tables[0][:, 0]).any()
    result = search(model, mse, Poisoned(), cx, ys, IDS, 0, 8, sp, precision=precision, rescore=3)
    assert torch.equal(result.winners, winners) and (winners % 3 == 2).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_finite_candidate_names_the_images(precision):
    model, z, cx, ys = problem()
    cx[1], cx[3] = torch.nan, torch.inf
    with pytest.raises(NonFiniteSearchError, match=r"2 of 5 images \(ids 3, 4\)") as error:
        search(model, mse, z, cx, ys, IDS, 0, 6, 2, precision=precision)
    assert error.value.exit_code == 5
    with CodeSearch(model, mse, 6, 2, precision=precision) as engine:
        result = engine(cx, ys, KeyedDraw(z, 0, IDS))
    assert result.failed.tolist() == [False, True, False, True, False]
    assert (result.winners[1] == -1).all()
    good = [0, 2, 4]
    alone = search(model, mse, z, cx[good], [y[good] for y in ys], IDS[good], 0, 6, 2)
    assert torch.equal(result.winners[good], alone.winners)


def test_fp32_decides_when_low_precision_overflows():
    """All candidates are infinite in the low-precision pass; fp32 still finds the right one."""
    model, z, cx, ys = problem()

    def overflowing(fx, y):
        loss = mse(fx.float(), y)
        low = torch.is_autocast_enabled("cpu")
        return torch.where(torch.arange(len(fx)) < len(fx) * low, torch.inf, loss)

    winners, _, _ = oracle(model, z, cx, ys, IDS, 0, [6, 6])
    result = search(model, overflowing, z, cx, ys, IDS, 0, 6, 2, precision="bf16")
    assert torch.equal(result.winners, winners)


@pytest.mark.parametrize("kind", ["cascade", "plain"])
def test_low_precision_with_enough_rescoring_is_exact(kind):
    model, z, cx, ys = problem()
    winners, codes, tables = oracle(model, z, cx, ys, IDS, 0, [9, 12])
    tested = PlainModel(model) if kind == "plain" else model
    for sp, m in ((4, 11), (2, 9), (12, 11), (5, 12)):
        result = search(
            tested, PreparedLoss(), z, cx, ys, IDS, 0, [9, 12], sp, precision="bf16", rescore=m
        )
        assert torch.equal(result.winners, winners)
        for level in range(2):
            assert torch.equal(result.codes[level], codes[level])
            torch.testing.assert_close(result.losses[:, level], tables[level].min(1).values)


def test_low_precision_rescoring_beats_none():
    """m = 1 trusts bf16; m = 4 repairs what bf16 got wrong. Losses reported are fp32 losses."""
    torch.manual_seed(1)
    model = ToyCascade(2)
    batch = 24
    cx = torch.rand(batch, 3, 4, 4)
    ys = [torch.rand(batch, 3, 2 * s, 2 * s) for s in model.sides]
    z, ids = CodeGenerator(model.code_sizes, seed=5), torch.arange(batch)

    def coarse(fx, y):
        loss = mse(fx.float(), y)
        return loss.bfloat16() if torch.is_autocast_enabled("cpu") else loss

    exact = search(model, coarse, z, cx, ys, ids, 0, 40, 40)
    equal = []
    for m in (1, 4):
        low = search(model, coarse, z, cx, ys, ids, 0, 40, 40, precision="bf16", rescore=m)
        equal.append((low.winners == exact.winners)[:, 0].float().mean().item())
        assert (low.losses[:, 0] >= exact.losses[:, 0] - 1e-7).all()
    assert equal[0] < equal[1] and equal[1] >= 0.95


def test_low_precision_alone_decides_without_rescoring():
    """rescore 0: what is nearest in bf16 wins, and fp32 never computes."""
    model, z, cx, ys = problem()
    asked = []

    def coarse(fx, y):
        asked.append(torch.is_autocast_enabled("cpu"))
        return mse(fx.float(), y).bfloat16()

    low = search(model, coarse, z, cx, ys, IDS, 0, [9, 12], 5, precision="bf16", rescore=0)
    assert all(asked)
    with torch.autocast("cpu", torch.bfloat16):
        winners, codes, tables = oracle(model, z, cx, ys, IDS, 0, [9, 12], coarse)
    assert torch.equal(low.winners, winners)
    for level in range(2):
        assert torch.equal(low.codes[level], codes[level])
        assert torch.equal(low.losses[:, level], tables[level].min(1).values.float())
    fp32 = search(model, mse, z, cx, ys, IDS, 0, 7, 2)
    assert torch.equal(fp32.winners, search(model, mse, z, cx, ys, IDS, 0, 7, 2, rescore=0).winners)


def test_own_frozen_copy_is_used_and_closed():
    model, z, cx, ys = problem()
    winners, _, _ = oracle(model, z, cx, ys, IDS, 0, [5, 5])
    made = []

    class WithFrozenCopy(ToyCascade):
        def frozen_copy(self, *, dtype, channels_last):
            made.append((dtype, channels_last))
            return model.eval()

        def advance(self, *args):
            raise AssertionError("the frozen copy stands in for the model")

    with CodeSearch(WithFrozenCopy(), mse, 5, 2, precision="bf16", channels_last=False) as engine:
        for _ in range(2):
            result = engine(cx, ys, KeyedDraw(z, 0, IDS))
    assert made == [(torch.float32, False), (torch.bfloat16, False)]
    assert torch.equal(result.winners, winners)


def test_model_is_left_as_it_was():
    model, z, cx, ys = problem()
    model.train()
    model.dropout.eval()
    model.mix[0].requires_grad_(False)
    modes = [m.training for m in model.modules()]
    grads = [p.requires_grad for p in model.parameters()]
    result = search(model, mse, z, cx, ys, IDS, 0, 4, 2)
    assert not result.codes[0].requires_grad
    with pytest.raises(KeyboardInterrupt):

        def stop(done, total):
            if done == 3:
                raise KeyboardInterrupt

        search(model, mse, z, cx, ys, IDS, 0, 4, 2, on_chunk=stop)
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == grads
    assert all(p.grad is None for p in model.parameters())


def test_camnet_and_its_loss():
    """The real network, its frozen copy and the loss's, against one candidate at a time."""
    net = CAMNet([8, 16, 32], resid_nc=[8, 6], dense_nc=[4, 5], n_blocks=1, latent_nc=16, map_nc=8)
    loss, ns = ResolutionLoss(random_seed=0), [6, 9]
    cx, ys = torch.rand(3, 3, 8, 8), [torch.rand(3, 3, 16, 16), torch.rand(3, 3, 32, 32)]
    z = CodeGenerator(net.code_sizes, seed=1)
    winners, codes, tables = oracle(net, z, cx, ys, IDS[:3], 1, ns, loss)
    for sp, code_bs in ((4, 3), (1, 2), (9, 1)):
        for precision, m in (("fp32", 4), ("bf16", 5)):
            result = search(
                net, loss, z, cx, ys, IDS[:3], 1, ns, sp,
                code_bs=code_bs, precision=precision, rescore=m, return_losses=True,
            )  # fmt: skip
            assert torch.equal(result.winners, winners)
            for level in range(2):
                assert torch.equal(result.codes[level], codes[level])
                best = tables[level].min(1).values
                torch.testing.assert_close(result.losses[:, level], best, rtol=1e-5, atol=0)
                close = dict(rtol=1e-5, atol=0) if precision == "fp32" else dict(rtol=0.01, atol=0)
                torch.testing.assert_close(result.all_losses[level], tables[level], **close)


def test_supplied_pools():
    model, z, cx, ys = problem()
    ns = [6, 4]
    ids = [torch.arange(n) for n in ns]
    pools = [z.draw(i, 0, IDS, ids[i]).view(5, ns[i], -1) for i in range(2)]
    expected = search(model, mse, z, cx, ys, IDS, 0, ns, 3)
    for precision in ("fp32", "bf16"):
        for code_bs in (5, 2):
            result = search(
                model, mse, pools, cx, ys, IDS, 0, ns, 3,
                code_bs=code_bs, precision=precision, rescore=4,
            )  # fmt: skip
            assert torch.equal(result.winners, expected.winners)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_plain_z_gen_returns_the_codes_it_judged(precision):
    """Codes cannot be drawn again: the result must carry the best of those that were drawn."""
    model, _, cx, ys = problem()
    model.eval()
    drawn = [[], []]

    def z_gen(bs, level="all"):
        code = torch.randn(bs, model.code_sizes[level])
        drawn[level].append(code.view(5, -1, code.shape[1]))
        return code

    result = search(model, mse, z_gen, cx, ys, IDS, 0, [7, 5], 2, precision=precision, rescore=6)
    assert [sum(c.shape[1] for c in d) for d in drawn] == [7, 5]
    chosen = []
    for level in range(2):
        pool = torch.cat(drawn[level], 1)
        with torch.no_grad():
            losses = torch.stack(
                [
                    mse(model(cx, [*chosen, pool[:, k]], loi=level), ys[level])
                    for k in range(pool.shape[1])
                ],
                1,
            )
        assert torch.equal(losses.argmin(1), result.winners[:, level])
        chosen.append(pool[torch.arange(5), losses.argmin(1)])
        assert torch.equal(chosen[level], result.codes[level])


def test_memory_does_not_depend_on_the_number_of_candidates():
    model, z, cx, ys = problem()
    live, peak = 0, []

    class Counting:
        """Largest number of code values alive at once, counted by the tensors' finalisers."""

        def draw(self, *args):
            nonlocal live
            import weakref

            code = z.draw(*args)
            live += code.numel()
            peak[-1] = max(peak[-1], live)

            def gone(n):
                nonlocal live
                live -= n

            weakref.finalize(code, gone, code.numel())
            return code

    for ns in (8, 80):
        peak.append(0)
        live = 0
        search(model, mse, Counting(), cx, ys, IDS, 0, ns, 4)
    assert peak[0] == peak[1] > 0


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(num_samples=[1, 2, 3]), "num_samples has 3 values for 2 levels"),
        (dict(num_samples=0), "num_samples must be positive"),
        (dict(sample_parallelism=[2, 0]), "sample_parallelism must be positive"),
        (dict(precision="fp8"), "fp32, bf16, fp16"),
        (dict(rescore=-1), "rescore must be at least 0"),
        (dict(precision="fp16", rescore=0), "rescore 0 is of bf16"),
        (dict(code_bs=0), "code_bs"),
        (dict(loss_fn=lambda fx, y: ((fx - y) ** 2).mean()), "one value per row"),
    ],
)
def test_bad_arguments(change, message):
    model, z, cx, ys = problem()
    kwargs = dict(loss_fn=mse, num_samples=2, sample_parallelism=2) | change
    with pytest.raises(ValueError, match=message):
        search(model, z=z, cx=cx, ys=ys, image_ids=IDS, loop=0, **kwargs)


def test_bad_z_gen():
    model, _, cx, ys = problem()
    with pytest.raises(ValueError, match=r"z_gen\(10, 0\) must give 10 codes"):
        search(model, mse, lambda bs, level: torch.randn(bs + 1, 19), cx, ys, IDS, 0, 4, 2)


def test_per_level():
    assert per_level(3, 2, "x") == [3, 3]
    assert per_level([3], 2, "x") == [3, 3]
    assert per_level((1, 2), 2, "x") == [1, 2]
