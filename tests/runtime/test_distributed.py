"""Rendezvous from the environment, collectives against one-process arithmetic, the launcher."""

import argparse
import errno
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from runtime import distributed
from storage.errors import NonFiniteError, RunError, UsageError
from tests import gloo

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in list(os.environ):
        if name in LAUNCHER or name.startswith(("SLURM_", "IMLE_LAB_")):
            monkeypatch.delenv(name)


# --- rendezvous


def test_alone_nothing_is_initialised():
    distributed.init(torch.device("cpu"))
    assert not torch.distributed.is_initialized()
    assert (distributed.rank(), distributed.world_size(), distributed.local_rank()) == (0, 1, 0)
    assert distributed.is_main() and distributed.shard(5) == range(5)
    x = torch.arange(6.0).view(2, 3)
    for f in (distributed.all_reduce_sum, distributed.mean, distributed.gather):
        assert torch.equal(f(x), x) and f(x).data_ptr() != x.data_ptr()
    assert distributed.gather_grad(x) is x
    assert distributed.gather_object("a") == ["a"] and distributed.all_reduce_max(3) == 3
    distributed.barrier()
    distributed.shutdown()


def test_torchrun_variables():
    env = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    assert distributed.place(env) == (3, 8, 1, "torchrun")
    assert distributed.place({**env, "SLURM_PROCID": "0", "SLURM_NTASKS": "2"}).source == "torchrun"
    with pytest.raises(UsageError, match="rank 8 of 8"):
        distributed.place({**env, "RANK": "8"})
    with pytest.raises(UsageError, match="WORLD_SIZE='many'"):
        distributed.place({**env, "WORLD_SIZE": "many"})


def test_slurm_variables():
    env = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}
    assert distributed.place(env) == (5, 8, 1, "slurm")
    assert distributed.place({**env, "SLURM_STEP_NUM_TASKS": "6"}).world == 6
    assert distributed.place({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}) == (0, 1, 0, "one")


def test_a_batch_script_is_one_process():
    # Outside srun the batch shell has PROCID 0 of all the job's tasks, which nobody started.
    env = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0", "SLURM_TASK_PID": "77"}
    assert distributed.place(env) == (0, 1, 0, "one")
    assert distributed.place({**env, "SLURM_STEP_ID": "0"}) == (0, 8, 0, "slurm")


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu03", "gpu03"),
        ("gpu[03-05,07]", "gpu03"),
        ("gpu[7,9]", "gpu7"),
        ("gpu03,gpu04", "gpu03"),
        ("a-b[001-010]-ib,other", "a-b001-ib"),
        ("r[1-2]n[3-4].cluster.org", "r1n3.cluster.org"),
    ],
)
def test_first_host_without_scontrol(monkeypatch, nodes, host):
    monkeypatch.setattr(distributed.shutil, "which", lambda name: None)
    assert distributed.first_host(nodes) == host


@pytest.mark.parametrize("nodes", ["", "  ", "[1-2]", "gpu[1-", "gpu]", "-x"])
def test_first_host_never_guesses(monkeypatch, nodes):
    monkeypatch.setattr(distributed.shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match="MASTER_ADDR"):
        distributed.first_host(nodes)


def test_scontrol_is_asked_first_and_may_fail(tmp_path, monkeypatch):
    fake = tmp_path / "scontrol"
    fake.write_text('#!/bin/sh\n[ "$1 $2" = "show hostnames" ] && printf "real07\\nreal08\\n"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert distributed.first_host("alias[7-8]") == "real07"
    fake.write_text("#!/bin/sh\nexit 1\n")
    assert distributed.first_host("alias[7-8]") == "alias7"


def test_slurm_meeting_point(monkeypatch):
    monkeypatch.setattr(distributed.shutil, "which", lambda name: None)
    meet = distributed.slurm_meeting_point
    env = {"SLURM_JOB_NODELIST": "gpu[03-04]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "812"}
    assert meet(env) == ("gpu03", 10812)
    assert meet({**env, "SLURM_JOB_ID": "40005", "SLURM_STEP_ID": "2"}) == ("gpu03", 10007)
    assert meet({**env, "MASTER_ADDR": "h", "MASTER_PORT": "99"}) == ("h", 99)
    assert meet({**env, "SLURM_NNODES": "1"})[0] == "127.0.0.1"
    assert meet({"SLURM_JOB_NODELIST": "gpu3", "SLURM_JOB_ID": "1"})[0] == "127.0.0.1"
    for broken, said in (
        ({"SLURM_NNODES": "2", "SLURM_JOB_ID": "1"}, "MASTER_ADDR"),
        ({"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "[", "SLURM_JOB_ID": "1"}, "MASTER_ADDR"),
        ({"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "a,b"}, "MASTER_PORT"),
        ({**env, "SLURM_JOB_ID": "x"}, "SLURM_JOB_ID"),
    ):
        with pytest.raises(UsageError, match=said):
            meet(broken)


def test_choice_of_device(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert distributed.choose_device() == torch.device("cpu")
    assert capsys.readouterr().out == "no GPU found: running on the CPU\n"
    assert distributed.choose_device([]) == torch.device("cpu")
    assert capsys.readouterr().out == ""
    with pytest.raises(UsageError, match="--gpus 0: this machine has no GPU"):
        distributed.choose_device([0])
    monkeypatch.setenv("IMLE_LAB_CPU_RANKS", "2")
    assert distributed.choose_device() == torch.device("cpu")
    assert capsys.readouterr().out == ""
    with pytest.raises(UsageError, match="exclude"):
        distributed.choose_device([0])


def test_choice_among_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    assert distributed.choose_device().index == 0
    assert distributed.choose_device([3, 1]).index == 3
    assert distributed.choose_device([]).type == "cpu"
    with pytest.raises(UsageError, match="--gpus 4 9: this machine has GPUs 0 to 3"):
        distributed.choose_device([1, 4, 9])
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert distributed.choose_device([3, 1]).index == 1
    assert distributed.choose_device().index == 1
    with pytest.raises(UsageError, match="process 2 on this machine has no GPU"):
        distributed.choose_device([2])
    for name in LAUNCHER[:3]:
        monkeypatch.delenv(name)
    # A SLURM task that was bound to its GPU sees only that one, as number 0.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in (("PROCID", "5"), ("NTASKS", "8"), ("LOCALID", "1")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert distributed.choose_device().index == 0


def slurm_rank(port):
    rank = os.environ["RANK"]
    for name in (*LAUNCHER[:3], "IMLE_LAB_STORE"):
        os.environ.pop(name)
    os.environ.update({"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NTASKS": "2"})
    os.environ.update({"SLURM_JOB_NODELIST": "thishost", "SLURM_JOB_ID": str(port - 10000)})
    distributed.init(torch.device("cpu"), timeout_s=30)
    return distributed.place().source, distributed.gather_object(distributed.rank())


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
    out["shards"] = [distributed.shard(n) for n in (0, 1, 3, 10)]
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
    rows = x[distributed.shard(len(x)).start : distributed.shard(len(x)).stop].clone()
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


def rank_module(same):
    torch.manual_seed(distributed.rank())
    wide = 3 if same else 3 + distributed.rank()
    net = torch.nn.Sequential(torch.nn.Conv2d(3, wide, 3), torch.nn.BatchNorm2d(wide))
    net[0].weight.data = net[0].weight.data.to(memory_format=torch.channels_last)
    net[1].running_mean.fill_(distributed.rank())
    net[1].num_batches_tracked.fill_(5 + distributed.rank())
    net.half_weight = torch.nn.Parameter(torch.randn(5).bfloat16())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    try:
        distributed.broadcast_module(net, src=1)
    except ValueError as error:
        return str(error)
    return before, net.state_dict()


def test_broadcast_module():
    results = gloo.run(2, rank_module, True)
    source = results[1][0]
    assert not torch.equal(results[0][0]["0.weight"], source["0.weight"])
    for _, after in results:
        assert all(torch.equal(after[k], source[k]) for k in source) and len(source) == 8
    said = gloo.run(2, rank_module, False)
    assert said == ["rank 1 built another module than rank 0"] + [
        "rank 0 built another module than rank 1"
    ]


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


# --- launcher


def script(args):
    """What the launcher is given in these tests; `args.mode` says how it ends."""
    distributed.init(distributed.choose_device(args.gpus), timeout_s=60)
    rank, mode = distributed.rank(), args.mode
    print(f"rank {rank} of {distributed.world_size()}", flush=True)
    if mode == "usage":
        raise UsageError("bs 3 is not a multiple of 2")
    if mode == "one rank non-finite":
        if rank == 1:
            raise NonFiniteError("three in a row")
        distributed.barrier()
    if mode == "bug":
        raise KeyError("oops")
    if mode == "memory":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nmore lines")
    if mode == "cpu memory":
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")
    if mode == "disk":
        raise OSError(errno.ENOSPC, "No space left on device")
    if mode == "exit 75":
        sys.exit(75)
    if mode == "text exit":
        sys.exit("finished badly")
    if mode == "kill 1, rest hangs" and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "wait for a signal":
        got = []
        for s in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(s, lambda number, frame: got.append(number))
        distributed.barrier()
        # Whole lines in one write: with PYTHONUNBUFFERED print() makes two, and ranks get mixed up.
        sys.stdout.write("READY\n")
        sys.stdout.flush()
        while not got:
            time.sleep(0.01)
        sys.stdout.write(f"got {' '.join(signal.Signals(n).name for n in got)}\n")
        sys.stdout.flush()
        distributed.barrier()
        sys.exit(75)
    if mode in ("kill 1, rest hangs", "sleep"):
        print("READY", flush=True)
        while True:  # a rank that ignores even SIGTERM
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(0.05)


def _launched(log, ranks, mode, gpus, env):
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    os.environ.update(env)
    if ranks > 1:
        os.environ["IMLE_LAB_CPU_RANKS"] = str(ranks)
    torch.set_num_threads(1)
    distributed.launch(
        script, argparse.Namespace(gpus=gpus, mode=mode), start_method="fork", grace_s=0.5
    )


class Launched:
    """`distributed.launch` in a process of its own; forked: importing torch takes seconds."""

    def __init__(self, tmp_path, ranks, mode, gpus=None, env=None):
        self.log = tmp_path / "log"
        context = torch.multiprocessing.get_context("fork")
        self.process = context.Process(
            target=_launched, args=(self.log, ranks, mode, gpus, env or {})
        )
        self.process.start()

    def text(self):
        return self.log.read_text() if self.log.exists() else ""

    def wait_for(self, word, times):
        deadline = time.monotonic() + 20
        while self.text().count(word) < times:
            assert time.monotonic() < deadline and self.process.is_alive(), self.text()
            time.sleep(0.02)

    def end(self, seconds=30):
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(f"still running: {self.text()}")
        return self.process.exitcode, self.text()


@pytest.mark.parametrize(
    ("mode", "code", "said"),
    [
        ("fine", 0, ""),
        ("usage", 2, "error: bs 3 is not a multiple of 2\n"),
        ("memory", 8, "error: out of memory: CUDA out of memory. Tried to allocate 20 GiB"),
        ("cpu memory", 8, "error: out of memory: [enforce fail]"),
        ("disk", 7, "error: no space left"),
        ("exit 75", 75, ""),
        ("text exit", 1, "error: finished badly\n"),
    ],
)
def test_one_process_exit_codes(tmp_path, mode, code, said):
    got, text = Launched(tmp_path, 1, mode, gpus=[]).end()
    assert got == code
    assert text.startswith("rank 0 of 1\n") and said in text
    assert "Traceback" not in text and text.count("\n") == 1 + bool(said)


def test_a_bug_keeps_its_traceback(tmp_path):
    code, text = Launched(tmp_path, 1, "bug", gpus=[]).end()
    assert code == 1 and "Traceback" in text and "error: KeyError: 'oops'" in text


def test_tracebacks_on_request(tmp_path):
    code, text = Launched(tmp_path, 1, "usage", [], {"IMLE_LAB_TRACEBACK": "1"}).end()
    assert code == 2 and "Traceback" in text


def test_wrong_requests_are_usage_errors(tmp_path, monkeypatch):
    for i, (gpus, env, said) in enumerate(
        [
            ([99], {}, "--gpus 99: this machine has"),
            ([0, 1], {"IMLE_LAB_CPU_RANKS": "2"}, "exclude each other"),
            (None, {"IMLE_LAB_CPU_RANKS": "two"}, "'two' is not a number of processes"),
            (None, {"IMLE_LAB_CPU_RANKS": "0"}, "'0' is not a number of processes"),
        ]
    ):
        folder = tmp_path / str(i)
        folder.mkdir()
        code, text = Launched(folder, 1, "fine", gpus, env).end()
        assert code == 2 and said in text and text.count("\n") == 1


def test_several_ranks_run(tmp_path):
    code, text = Launched(tmp_path, 3, "fine").end()
    assert code == 0 and sorted(text.splitlines()) == [f"rank {r} of 3" for r in range(3)]


def test_the_meaningful_code_wins(tmp_path):
    code, text = Launched(tmp_path, 2, "one rank non-finite").end()
    assert code == 5
    assert "error: rank 1: three in a row\n" in text and "Traceback" not in text


def test_preempted_ranks_give_75(tmp_path):
    assert Launched(tmp_path, 2, "exit 75").end()[0] == 75


def test_a_dead_rank_takes_the_others_down(tmp_path):
    start = time.monotonic()
    code, text = Launched(tmp_path, 2, "kill 1, rest hangs").end()
    assert code == 128 + signal.SIGKILL and "error: rank 1 died (SIGKILL)" in text
    assert time.monotonic() - start < 20  # 0.5 s of grace, 10 s after SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signals_reach_every_rank_once(tmp_path, number):
    launched = Launched(tmp_path, 2, "wait for a signal")
    launched.wait_for("READY", 2)
    os.kill(launched.process.pid, number)
    code, text = launched.end()
    assert code == 75 and text.count(f"got {number.name}\n") == 2


def test_ranks_never_outlive_a_killed_launcher(tmp_path):
    launched = Launched(tmp_path, 2, "sleep")
    launched.wait_for("READY", 2)
    children = Path(f"/proc/{launched.process.pid}/task/{launched.process.pid}/children")
    if not children.exists():
        pytest.skip("needs /proc")
    ranks = [int(p) for p in children.read_text().split()]
    assert len(ranks) == 2
    launched.process.kill()
    launched.process.join()

    def alive(pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            return False

    deadline = time.monotonic() + 10
    while any(alive(p) for p in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.02)


SCRIPT = """
import argparse
from runtime import distributed
from tests.runtime.test_distributed import script

def main(args):
    script(args)

if __name__ == "__main__":
    distributed.launch(main, argparse.Namespace(gpus=None, mode="wait for a signal"))
"""


def test_a_real_script_spawns_its_ranks(tmp_path):
    file = tmp_path / "script.py"
    file.write_text(SCRIPT)
    env = {**os.environ, "IMLE_LAB_CPU_RANKS": "2", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, file], env=env, stdout=subprocess.PIPE, text=True) as p:
        lines = []
        while lines.count("READY\n") < 2:
            lines.append(p.stdout.readline())
            assert lines[-1], lines
        p.send_signal(signal.SIGUSR1)
        rest = p.stdout.read()
        assert p.wait(30) == 75 and rest.count("got SIGUSR1\n") == 2


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
