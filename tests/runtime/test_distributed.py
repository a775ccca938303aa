"""Joining several processes, and collectives against one-process arithmetic."""

import contextlib
import importlib
import io
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from runtime import distributed, launch, meeting
from runtime.place import place
from storage.errors import RunError, WaitError
from tests import gloo

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in list(os.environ):
        if name in LAUNCHER or name.startswith(("SLURM_", "IMLE_LAB_")):
            monkeypatch.delenv(name)


def test_alone_nothing_is_initialised():
    distributed.init(torch.device("cpu"))
    assert not torch.distributed.is_initialized()
    assert (distributed.rank(), distributed.world_size(), distributed.local_rank()) == (0, 1, 0)
    assert distributed.is_main() and gloo.shard(5) == range(5)
    x = torch.arange(6.0).view(2, 3)
    for f in (distributed.all_reduce_sum, distributed.mean, distributed.gather):
        assert torch.equal(f(x), x) and f(x).data_ptr() != x.data_ptr()
    assert distributed.gather_grad(x) is x
    assert distributed.gather_object("a") == ["a"] and distributed.all_reduce_max(3) == 3
    distributed.barrier()
    distributed.shutdown()


# --- joining


def slurm_rank(port):
    rank = os.environ["RANK"]
    for name in (*LAUNCHER[:3], "IMLE_LAB_STORE"):
        os.environ.pop(name)
    os.environ.update({"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NTASKS": "2"})
    os.environ.update({"SLURM_JOB_NODELIST": "thishost", "SLURM_JOB_ID": str(port - 10000)})
    distributed.init(torch.device("cpu"), timeout_s=30)
    return place().source, distributed.gather_object(distributed.rank())


def free_port():
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_slurm_tasks_meet():
    port = free_port()
    if not 10000 <= port:
        pytest.skip("no port in SLURM's range")
    env = {"MASTER_PORT": str(port)}
    assert gloo.run(2, slurm_rank, port, join=False, env=env) == [("slurm", [0, 1])] * 2


def lonely_rank():
    os.environ.pop("IMLE_LAB_STORE")
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "RANK": "1"})
    try:
        distributed.init(torch.device("cpu"), timeout_s=1)
    except RunError as error:
        return str(error)


def test_ranks_that_do_not_meet_say_so():
    (said,) = gloo.run(1, lonely_rank, join=False, env={"WORLD_SIZE": "2"}, timeout=30)
    assert said.startswith("rank 1 of 2 could not meet the others at 127.0.0.1:")
    assert "\n" not in said


def waiting_rank(kind):
    os.environ.pop("IMLE_LAB_STORE")
    if kind == "slurm":
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            os.environ.pop(name)
        os.environ.update(SLURM_PROCID="0", SLURM_NTASKS="4", SLURM_STEP_ID="0")
        os.environ.update(SLURM_JOB_NODELIST="gpu03", SLURM_NNODES="1", SLURM_JOB_ID="1")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    meeting._AT_ONCE_S = 0.1
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            distributed.init(torch.device("cpu"), timeout_s=0.5)
        except WaitError as error:
            return said.getvalue(), str(error), error.exit_code
        return "they met", "", 0


@pytest.mark.parametrize(
    ("kind", "alone"), [("slurm", "env -u SLURM_PROCID"), ("torchrun", "env -u RANK -u WORLD_SIZE")]
)
def test_whom_a_process_waits_for_is_said_at_once(kind, alone):
    """As in a shell of `srun -n4 --pty`, or with the variables of a job before."""
    ((said, failed, code),) = gloo.run(
        1, waiting_rank, kind, join=False, env={"WORLD_SIZE": "4"}, timeout=30
    )
    assert code == 9 and said.count("\n") == 1
    assert "process 0 of 4: waiting for the others at 127.0.0.1:" in said
    assert "(1 of 4 are there), at most 0.5 s" in said
    assert f"to run alone: {alone} python" in said and alone in failed
    assert failed.startswith("rank 0 of 4 could not meet the others at 127.0.0.1:")


def late_rank():
    distributed.init(torch.device("cpu"), timeout_s=0.5)
    distributed.barrier()
    if distributed.rank() == 1:
        time.sleep(1.5)
        return None
    with contextlib.redirect_stderr(io.StringIO()) as said:
        return launch.call_main(lambda _: distributed.barrier(), None), said.getvalue()


def test_a_collective_without_one_rank_ends_in_a_line():
    (code, said), _ = gloo.run(2, late_rank, join=False, timeout=30)
    assert code == 9 and said.count("\n") == 1
    assert "another rank" in said and "IMLE_LAB_WAIT_S" in said


# --- collectives


def rank_collectives():
    r, out = distributed.rank(), {}
    out["info"] = (r, distributed.world_size(), distributed.is_main(), distributed.local_rank())
    x = torch.arange(4.0).view(2, 2) + 10 * r
    out["sum"], out["mean"] = distributed.all_reduce_sum(x), distributed.mean(x)
    out["untouched"] = torch.equal(x, torch.arange(4.0).view(2, 2) + 10 * r)
    out["int mean"] = distributed.mean(torch.tensor([r, 3]))
    # 256 + 1 is not a bf16 number, so bf16 sums would lose all the ones.
    half = torch.tensor([256.0 if r == 0 else 1.0], dtype=torch.bfloat16)
    out["half sum"] = distributed.all_reduce_sum(half)
    out["transposed"] = distributed.all_reduce_sum(x.t())
    out["max"] = [distributed.all_reduce_max(v) for v in (r, -r, int(r == 1), r << 40)]
    out["gather"] = {
        str(t.dtype): distributed.gather(t)
        for t in (
            x,
            x.bfloat16(),
            x.half(),
            x.double(),
            x.long(),
            x.to(torch.uint8),
            x > 10,
            torch.complex(x, -x),
        )
    }
    out["scalar"] = distributed.gather(torch.tensor(float(r)))
    out["empty"] = distributed.gather(torch.empty(0, 3)).shape
    out["object"] = distributed.gather_object({"rank": r, "text": "x" * r})
    out["shards"] = [gloo.shard(n) for n in (0, 1, 3, 10)]
    distributed.barrier()
    return out


def test_collectives_against_arithmetic():
    world = 3
    results = gloo.run(world, rank_collectives)
    base = torch.arange(4.0).view(2, 2)
    per_rank = [base + 10 * r for r in range(world)]
    for r, out in enumerate(results):
        assert out["info"] == (r, world, r == 0, r)
        assert torch.equal(out["sum"], sum(per_rank)) and out["untouched"]
        assert torch.equal(out["mean"], sum(per_rank) / world)
        assert torch.equal(out["int mean"], torch.tensor([1.0, 3.0], dtype=torch.float64))
        assert out["half sum"].dtype == torch.bfloat16 and out["half sum"].item() == 258
        assert torch.equal(out["transposed"], sum(per_rank).t())
        assert out["max"] == [2, 0, 1, 2 << 40]
        whole = torch.cat(per_rank)
        for dtype, got in out["gather"].items():
            expected = torch.cat([p > 10 for p in per_rank]) if "bool" in dtype else whole
            expected = torch.complex(whole, -whole) if "complex" in dtype else expected
            assert str(got.dtype) == dtype and torch.equal(got, expected.to(got.dtype))
        assert len(out["gather"]) == 8
        assert out["scalar"].tolist() == [0, 1, 2]
        assert out["empty"] == (0, 3)
        assert out["object"] == [{"rank": i, "text": "x" * i} for i in range(world)]
    for i, n in enumerate((0, 1, 3, 10)):
        shares = [out["shards"][i] for out in results]
        assert [j for share in shares for j in share] == list(range(n))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def rank_contrastive(x, weight):
    """A loss in which every row meets every other: what gather_grad exists for."""
    rows = x[gloo.shard(len(x)).start : gloo.shard(len(x)).stop].clone()
    w = weight.clone().requires_grad_()
    z = torch.tanh(rows @ w)
    everything = distributed.gather_grad(z)
    first = distributed.rank() * len(z)
    logits = z @ everything.t()
    target = torch.arange(first, first + len(z))
    loss = torch.nn.functional.cross_entropy(logits, target)
    loss.backward()
    p = torch.nn.Parameter(w.detach())
    p.grad = w.grad
    distributed.average_gradients([p])
    return distributed.mean(loss.detach()), p.grad, everything.detach()


def test_gather_grad_equals_one_process():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(6, 4, generator=g, dtype=torch.float64)
    w = torch.randn(4, 3, generator=g, dtype=torch.float64)
    whole = w.clone().requires_grad_()
    z = torch.tanh(x @ whole)
    loss = torch.nn.functional.cross_entropy(z @ z.t(), torch.arange(6))
    loss.backward()
    for world in (2, 3):
        for got_loss, got_grad, got_z in gloo.run(world, rank_contrastive, x, w):
            torch.testing.assert_close(got_loss, loss.detach(), rtol=1e-12, atol=0)
            torch.testing.assert_close(got_grad, whole.grad, rtol=1e-10, atol=1e-14)
            torch.testing.assert_close(got_z, z.detach(), rtol=1e-12, atol=0)


def rank_cotangents():
    t = torch.full((2, 1), 1.0 + distributed.rank(), requires_grad=True)
    scale = torch.arange(4.0).view(4, 1) * (distributed.rank() + 1)
    (distributed.gather_grad(t) * scale).sum().backward()
    return t.grad.flatten().tolist()


def _threads_after_shutdown():
    importlib.import_module("torch.distributed.nn.functional")  # as torch.optim may, at any time
    distributed.gather(torch.zeros(3))
    distributed.shutdown()
    names = [Path(f"/proc/self/task/{t}/comm").read_text() for t in os.listdir("/proc/self/task")]
    return [name.strip() for name in names if "gloo" in name]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_thread_of_gloo_outlives_the_group():
    """One that lets go of a tensor while the interpreter ends aborts the process."""
    assert gloo.run(2, _threads_after_shutdown) == [[], []]


def test_gather_grad_sums_cotangents():
    # Row i has cotangent i on rank 0 and 2i on rank 1.
    assert gloo.run(2, rank_cotangents) == [[0.0, 3.0], [6.0, 9.0]]


def rank_unequal():
    said = []
    r = distributed.rank()
    for t in (torch.zeros(2 + r, 3), torch.zeros(2, dtype=[torch.float32, torch.float64][r])):
        for f in (distributed.gather, distributed.gather_grad):
            try:
                f(t)
            except ValueError as error:
                said.append(str(error))
    return said, distributed.all_reduce_max(r)  # the group still works


def test_unequal_tensors_are_an_error_on_every_rank():
    results = gloo.run(2, rank_unequal)
    assert results[0] == results[1] and results[0][1] == 1
    shapes, shapes_grad, types, _ = results[0][0]
    assert shapes == (
        "gather needs equal tensors on every rank, got different shapes [(2, 3), (3, 3)] by rank"
    )
    assert shapes_grad.startswith("gather_grad needs") and "types" in types


def make_params():
    """Parameters of many kinds, with the gradients rank r would have."""
    g = torch.Generator().manual_seed(distributed.rank())
    params = []
    kinds = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    for i, dtype in enumerate(kinds * 2):
        p = torch.nn.Parameter(torch.zeros(3, i + 1, dtype=dtype))
        p.grad = torch.randn(3, i + 1, generator=g).to(dtype)
        params.append(p)
    image = torch.randn(2, 3, 4, 4, generator=g).to(memory_format=torch.channels_last)
    params.append(torch.nn.Parameter(torch.zeros_like(image)))
    params[-1].grad = image
    if distributed.rank() == 1:
        params[0].grad = None  # not used by this rank's batch
    params[1].grad = None  # used by nobody
    params[2].requires_grad_(False)
    params[2].grad = None
    return params


def rank_average(bucket_bytes):
    distributed.BUCKET_BYTES = bucket_bytes
    params = make_params()
    before = [None if p.grad is None else p.grad.clone() for p in params]
    distributed.average_gradients(iter(params))
    return before, [p.grad for p in params]


@pytest.mark.parametrize("bucket_bytes", [1, 25 * 2**20])
def test_average_gradients(bucket_bytes):
    world = 3
    results = gloo.run(world, rank_average, bucket_bytes)
    for i in range(len(results[0][0])):
        inputs, outputs = [r[0][i] for r in results], [r[1][i] for r in results]
        if all(g is None for g in inputs):
            assert outputs == [None] * world
            continue
        like = next(g for g in inputs if g is not None)
        wide = [torch.zeros_like(like).double() if g is None else g.double() for g in inputs]
        expected = sum(wide) / world
        for out in outputs:
            assert torch.equal(out, outputs[0])  # bit-identical on all ranks
            assert out.dtype == like.dtype and out.stride() == like.stride()
            # fp32 accumulation: as near as the type itself allows
            torch.testing.assert_close(
                out.double(), expected, rtol=torch.finfo(out.dtype).eps, atol=1e-7
            )


def rank_disagree():
    sizes = [[3, 4], [3, 4 + distributed.rank()], [3, 4, 5][: 2 + distributed.rank()]]
    said = []
    for some in sizes:
        params = [torch.nn.Parameter(torch.zeros(n)) for n in some]
        for p in params:
            p.grad = torch.ones_like(p)
        try:
            distributed.average_gradients(params)
            said.append("fine")
        except ValueError as error:
            said.append(str(error))
    distributed.average_gradients([])
    return said


def test_average_gradients_of_different_parameters_is_an_error():
    results = gloo.run(2, rank_disagree)
    assert results[0] == results[1]
    assert results[0][0] == "fine" and all("different" in s for s in results[0][1:])


def rank_interleaved(whole, lists):
    me, world = distributed.rank(), distributed.world_size()
    mine = whole[me::world]
    shares = [distributed.take_interleaved([mine, mine[:, 0].half()], rows) for rows in lists]
    return distributed.interleave(mine), shares


@pytest.mark.parametrize("world", [1, 2, 3])
def test_rows_shared_one_by_one(world):
    whole = torch.randint(0, 256, (12, 3, 2), dtype=torch.uint8)
    lists = [[0], [11, 3, 3, 7, 0], [0, 3, 6, 9], [1, 4], list(range(12)), []]
    lists = [torch.tensor(rows, dtype=torch.int64) for rows in lists]
    results = gloo.run(world, rank_interleaved, whole, lists)
    for me, (order, shares) in enumerate(results):
        assert torch.equal(order, whole)
        for rows, (taken, halves) in zip(lists, shares, strict=True):
            assert torch.equal(taken, whole[rows[me::world]])
            assert torch.equal(halves, whole[rows[me::world]][:, 0].half())


# --- the helper itself


def rank_fails(how):
    if distributed.rank() == 1:
        if how == "raise":
            raise ValueError("boo")
        if how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    distributed.barrier()


@pytest.mark.parametrize(
    ("how", "said"), [("raise", "ValueError: boo"), ("die", "died"), ("sleep", "no answer in 1 s")]
)
def test_gloo_run_reports_failures(how, said):
    start = time.monotonic()
    with pytest.raises(gloo.ChildFailed) as error:
        gloo.run(2, rank_fails, how, timeout=1 if how == "sleep" else 30)
    assert said in str(error.value) or "peer" in str(error.value)
    assert time.monotonic() - start < 10


def test_gloo_run_wants_a_module_level_function():
    with pytest.raises(TypeError, match="module-level"):
        gloo.run(2, lambda: 1)


def test_where_autograd_has_threads_ranks_are_not_forked(monkeypatch):
    methods = []

    def once(method, *rest):
        methods.append(method)
        if method == "fork":
            raise gloo.ChildFailed("Unable to handle .. with fork-based multiprocessing")
        return ["done"]

    monkeypatch.setattr(gloo, "_run", once)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gloo.run(1, gloo.shard, 3) == ["done"] and methods == ["fork", "forkserver"]
