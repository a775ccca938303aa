"""The log of index lists: each step once, whatever was killed in between."""

import os

import numpy as np
import pytest

from storage.errors import DiskError
from storage.index_log import IndexLog, read_index_log


def write(path, completed, lists):
    log = IndexLog(path, completed)
    for step, numbers in lists:
        log.add(step, np.array(numbers))
    log.close()


def read(path):
    return [(step, numbers.tolist()) for step, numbers in read_index_log(path)]


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "a" / "indices.bin"
    lists = [(0, [3, 1, 2**32 - 1]), (1, []), (5, [7])]
    write(path, 0, lists)
    assert read(path) == lists
    assert path.stat().st_size == 4 * (3 * 2 + 4)


def test_a_resumed_run_drops_what_comes_again(tmp_path):
    path = tmp_path / "indices.bin"
    write(path, 0, [(0, [1]), (1, [2]), (2, [3, 3])])
    write(path, 2, [(2, [9]), (3, [10])])
    assert read(path) == [(0, [1]), (1, [2]), (2, [9]), (3, [10])]


@pytest.mark.parametrize("lost", [1, 4, 7, 9, 13])
def test_a_record_cut_short_goes(tmp_path, lost):
    path = tmp_path / "indices.bin"
    write(path, 0, [(0, [1, 2]), (1, [3, 4])])
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    assert read(path) == [(0, [1, 2])]
    write(path, 2, [(1, [3, 4])])
    assert path.read_bytes() == whole


def test_a_fresh_run_starts_anew(tmp_path):
    path = tmp_path / "indices.bin"
    write(path, 0, [(0, [1])])
    write(path, 0, [])
    assert path.stat().st_size == 0


def test_no_place_to_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="file"):
        IndexLog(tmp_path / "file" / "indices.bin", 0)


def test_what_is_no_file_is_set_aside_and_not_waited_for(tmp_path):
    path = tmp_path / "indices.bin"
    for make in (os.mkfifo, os.mkdir, lambda name: os.symlink(tmp_path / "no" / "where", name)):
        make(path)
        write(path, 0, [(0, [1])])
        assert read(path) == [(0, [1])]
        path.unlink()
    assert len(list(tmp_path.glob("indices.bin.bad*"))) == 3
