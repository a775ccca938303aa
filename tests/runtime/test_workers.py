"""Worker processes that cannot send, die, stop or hang: the reader ends with a line about it."""

import errno
import gc
import multiprocessing
import os
import signal
import time

import pytest
import torch

from data.prepare.workers import parallel_map
from data.samplers import StepSampler
from imle.reading import read_items
from runtime import workers
from runtime.seeding import seed_worker
from storage import waiting, watch
from storage.errors import DataError, OutOfMemory, UsageError, WaitError

FULL = "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)"


class Pictures(torch.utils.data.Dataset):
    """Eight items; `fault` is done in the worker before item 3."""

    def __init__(self, fault=lambda: None):
        self.fault = fault

    def __len__(self):
        return 8

    def __getitem__(self, i):
        if i == 3:
            self.fault()
        return torch.full((3, 4, 4), float(i)), [torch.full((3, 8, 8), float(i))]


def no_sharing(error):
    def share(self, *args, **kwargs):
        raise error

    def fault():
        torch.UntypedStorage._share_fd_cpu_ = share

    return fault


def die(number):
    return lambda: os.kill(os.getpid(), number)


def imle(pictures):
    """As the IMLE loader reads."""
    plan = [[2 * k, 2 * k + 1] for k in range(4)]
    return list(read_items(pictures, lambda: iter(plan), seed=0, num_workers=1))


def edm2(pictures):
    """As train_edm2.py reads; eight batches are two passes."""
    sampler = StepSampler(8, 2, shuffle=False)
    loader = torch.utils.data.DataLoader(
        pictures, batch_sampler=sampler, num_workers=1, worker_init_fn=seed_worker
    )
    batches = sampler.batches(loader)
    return [next(batches) for _ in range(8)]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setenv(waiting.WAIT, "20")
    gc.collect()  # iterators in the tracebacks of failures before


def children():
    """Processes that are not those of other tests."""
    gc.collect()
    return [p for p in multiprocessing.active_children() if p.daemon and p.is_alive()]


@pytest.mark.parametrize("reader", [imle, edm2])
def test_nothing_changes_where_nothing_fails(reader):
    found = reader(Pictures())
    assert len(found) in (4, 8)
    assert found[1][-1][0][1, 0, 0, 0] == 3


@pytest.mark.parametrize("reader", [imle, edm2])
@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (no_sharing(RuntimeError(FULL)), OutOfMemory, ["/dev/shm", "--num_workers 0 (now 1)"]),
        (die(signal.SIGBUS), OutOfMemory, ["/dev/shm", "--num_workers 0 (now 1)"]),
        (die(signal.SIGKILL), OutOfMemory, ["was killed", "lower --num_workers (1)"]),
        (die(signal.SIGSEGV), WaitError, ["died (Segmentation fault)", "--num_workers 0"]),
        (lambda: os._exit(3), WaitError, ["died (exit code 3)"]),
        (no_sharing(OSError(24, "Too many open files")), WaitError, ["ulimit -n"]),
        (
            no_sharing(OSError(28, "No space left on device", "/tmp/pymp-x")),
            WaitError,
            ["/tmp/pymp-x", "--num_workers 0"],
        ),
    ],
    ids=["shared memory", "bus error", "killed", "crash", "exit", "descriptors", "socket"],
)
def test_a_worker_that_cannot_send_or_dies(reader, fault, kind, said, capfd):
    began = time.monotonic()
    with pytest.raises(kind) as caught:
        reader(Pictures(fault))
    assert time.monotonic() - began < 10
    assert all(part in str(caught.value) for part in said), caught.value
    assert "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err  # of the thread that sends


@pytest.mark.parametrize("broken", [EOFError(), ConnectionResetError(104, "reset by peer")])
@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (signal.SIGKILL, OutOfMemory, "was killed"),
        (signal.SIGSEGV, WaitError, "died (Segmentation fault)"),
        (None, type(None), ""),
    ],
)
def test_a_worker_that_dies_while_a_batch_is_taken_over(broken, number, kind, said):
    """torch has a broken connection, and does not look at its workers; one that lives is none."""

    class Batches:
        def __init__(self):
            self._workers = [multiprocessing.Process(target=time.sleep, args=(60,))]
            self._workers[0].start()

        def __next__(self):
            if number is not None:
                os.kill(self._workers[0].pid, number)
            raise broken

    batches = Batches()
    try:
        with pytest.raises(type(broken) if number is None else kind) as caught:  # noqa: SIM117
            with watch.Watch(5.0, 1) as watching, watching.asking():
                workers._next(batches, None)
        assert said in str(caught.value)
    finally:
        batches._workers[0].kill()


def test_errors_of_the_data_stay_what_they_are():
    def fault():
        raise DataError("bad image a.png (truncated)")

    with pytest.raises(DataError, match="^bad image a.png .truncated.$"):
        imle(Pictures(fault))


def hang_in_a_read():
    os.mkfifo("pipe.png")
    open("pipe.png", "rb").read()


@pytest.mark.parametrize(
    ("fault", "said"), [(die(signal.SIGSTOP), "is stopped"), (hang_in_a_read, "for 0 s")]
)
def test_a_worker_that_stops_or_hangs(fault, said, monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(waiting.WAIT, "0.8")
    monkeypatch.setattr(watch, "NOTICE_S", 0.3)
    before = children()
    with pytest.raises(WaitError) as caught:
        imle(Pictures(fault))
    line = str(caught.value)
    assert caught.value.exit_code == 9
    assert "--num_workers 0 (now 1)" in line and waiting.WAIT in line
    told = capfd.readouterr().err
    assert said.replace("for 0 s", "no pictures") in told
    assert "giving up after 0.8 s (IMLE_LAB_WAIT_S)" in told
    assert children() == before


def slow_but_alive(pipe):
    os.environ[waiting.WAIT] = "0.8"
    pipe.send(os.getpid())
    try:
        pipe.send(len(imle(Pictures(lambda: time.sleep(0.4)))))
    except WaitError as error:
        pipe.send(error)


def test_time_in_which_all_is_stopped_does_not_count():
    """Ctrl-Z and fg, a suspended job: the clock went on, the reader did not wait."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=slow_but_alive, args=(theirs,))
    process.start()
    pid = ours.recv()
    time.sleep(0.2)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(1.2)
    os.kill(pid, signal.SIGCONT)
    assert ours.recv() == 4
    process.join()


def stop_at_40(number):
    if number == 40:
        os.kill(os.getpid(), signal.SIGSTOP)
    return number


def test_a_pool_with_a_stopped_worker(monkeypatch):
    monkeypatch.setenv(waiting.WAIT, "0.8")
    before, got = children(), []
    with pytest.raises(WaitError, match="is stopped.*--num_workers"):
        got.extend(parallel_map(stop_at_40, range(64), 2))
    assert children() == before


def full_at_40(i):
    if i == 40:
        raise OSError(errno.ENOSPC, "No space left on device", "/data/40.png")
    return i


def test_what_is_done_in_a_pool_fails_as_it_does_without():
    """A full disk is exit code 7, not that of workers which cannot be started."""
    with pytest.raises(OSError, match="/data/40.png") as raised:
        list(parallel_map(full_at_40, range(64), 2))
    assert raised.value.errno == errno.ENOSPC and not isinstance(raised.value, WaitError)


@pytest.mark.parametrize("said", ["soon", "0", "-3", "nan", "inf"])
def test_a_limit_that_is_none(said, monkeypatch):
    monkeypatch.setenv(waiting.WAIT, said)
    with pytest.raises(UsageError, match=waiting.WAIT):
        waiting.wait_limit()


def test_workers_that_cannot_be_started(monkeypatch):
    """Semaphores lie in shared memory too."""

    def full(self, loader):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.utils.data.DataLoader, "_get_iterator", lambda self: full(self, 0))
    monkeypatch.setattr(watch, "free_shared", lambda: (0, 65536))
    with pytest.raises(OutOfMemory, match="0 KiB of 64 KiB are free in /dev/shm"):
        imle(Pictures())
