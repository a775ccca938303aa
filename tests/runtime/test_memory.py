"""How memory is kept; its lack is tested with runs (test_run.py)."""

from runtime.memory import keep_freed_memory


def test_the_allocator_is_told():
    assert isinstance(keep_freed_memory(), bool)
