"""What objects do in forked children, for as long as they live."""

import gc
import os
import weakref

from storage.forks import in_children


class Counter:
    def __init__(self, writer):
        self.writer = writer
        in_children(self.count)

    def count(self):
        os.write(self.writer, b"x")


def said_in_a_child(reader, writer):
    """How many of the objects were told of a fork."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    os.write(writer, b".")
    return os.read(reader, 100).count(b"x")


def test_objects_are_told_while_they_live():
    reader, writer = os.pipe()
    first, second = Counter(writer), Counter(writer)
    assert said_in_a_child(reader, writer) == 2
    in_children(first.count)  # twice is once
    assert said_in_a_child(reader, writer) == 2
    gone = weakref.ref(second)
    del second
    gc.collect()
    assert gone() is None
    assert said_in_a_child(reader, writer) == 1
    del first
    assert said_in_a_child(reader, writer) == 0
    os.close(reader)
    os.close(writer)
