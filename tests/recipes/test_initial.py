"""--init_from on several ranks: one file for all, and no rank left waiting."""

import argparse
from types import SimpleNamespace

from torch import nn

from recipes import initial
from runtime import distributed
from storage.errors import DiskError
from tests import gloo


def begin(folder, read, write=None):
    """Each rank's weights after --init_from, where each rank finds another newest snapshot."""
    files = [folder / f"{rank}.pt" for rank in range(2)]
    initial.find_network = lambda *_, **__: files[distributed.rank()]
    initial.identity = lambda file: f"content of {file.name}"
    if write is not None:
        initial.write_json = write
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    run = SimpleNamespace(
        args=argparse.Namespace(results_path=None), resumed=False, dir=folder, facts={},
        is_main=distributed.is_main(), say=distributed.say,
    )  # fmt: skip
    try:
        initial.start(run, net, "a run", "toy", read=read)
    except DiskError as error:
        return str(error)
    return {k: v.clone() for k, v in net.state_dict().items()}, run.facts["init_from"]


def filled(value):
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    return initial.Weights(
        None, {k: v.new_full(v.shape, value) for k, v in net.state_dict().items()}
    )


def by_name(file, say):
    return filled(int(file.stem) + 3)


def by_moment(file, say):
    return filled(distributed.rank() + 3)


def rank_finds(folder):
    return begin(folder, by_name)


def rank_reads(folder):
    return begin(folder, by_moment)


def rank_cannot_write(folder):
    def full(*_, **__):
        raise DiskError("the disk is full")

    return begin(folder, by_name, full)


def test_all_ranks_take_the_file_that_the_first_found(tmp_path):
    for state, told in gloo.run(2, rank_finds, tmp_path):
        assert all((value == 3).all() for value in state.values())
        assert (told["file"], told["content"]) == (str(tmp_path / "0.pt"), "content of 0.pt")


def test_a_file_written_anew_between_two_ranks_is_one_to_all(tmp_path):
    for state, _ in gloo.run(2, rank_reads, tmp_path):
        assert all((value == 3).all() for value in state.values())


def test_a_record_that_cannot_be_written_ends_every_rank(tmp_path):
    assert gloo.run(2, rank_cannot_write, tmp_path) == ["the disk is full"] * 2
