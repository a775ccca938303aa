"""How memory is kept; its lack is tested with runs (test_run_failures.py)."""

import ctypes
import os
import platform
import resource
from types import SimpleNamespace

import pytest

from runtime.memory import keep_freed_memory

TRIM, MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
GIB, MIB = 1 << 30, 1 << 20


@pytest.mark.parametrize(
    "most, limit, asked, taken",
    [
        (GIB, GIB, [(MMAP, GIB), (TRIM, GIB)], True),
        (GIB, 5 * MIB, [(MMAP, 5 * MIB), (TRIM, 5 * MIB)], True),
        (32 * MIB, GIB, [(MMAP, GIB), (MMAP, 32 * MIB), (TRIM, GIB)], True),  # an older glibc
        (0, GIB, [(MMAP, GIB), (MMAP, 32 * MIB)], False),  # then the other is left alone too
    ],
)
def test_the_allocator_is_told(monkeypatch, most, limit, asked, taken):
    calls = []

    def mallopt(what, value):
        calls.append((what, value))
        return int(what == TRIM or value <= most)

    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    assert keep_freed_memory(limit) is taken
    assert calls == asked


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    monkeypatch.setattr("sys.platform", "linux")
    assert keep_freed_memory() is False  # a C library without mallopt
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("was called"))
    monkeypatch.setattr("sys.platform", "darwin")
    assert keep_freed_memory() is False


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_memory_freed_is_taken_again_without_page_faults():
    pid = os.fork()
    if pid == 0:  # a process of its own: the setting stays as long as it lives
        code = 1
        try:
            kept = keep_freed_memory()
            bytearray(64 * MIB)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(10):
                bytearray(64 * MIB)
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
            code = 0 if kept and faults < 1000 else 2  # given back at once, it takes 163 840
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
