"""Running means: sums with their own counts, and the stopwatch."""

import time

import pytest
import torch

from runtime.meters import Meters, Stopwatch
from storage.errors import UsageError


def one(value):
    return [value]


def test_means_of_tensors_and_numbers():
    meters = Meters()
    meters.add({"a": 1.0, "b": torch.tensor(3.0)})
    meters.add({"a": 2.0, "b": torch.tensor([5.0])})
    assert meters.pop(one) == {"a": 1.5, "b": 4.0}
    assert meters.pop(one) == {}


def test_sums_are_weighted_by_their_counts_and_a_mean_of_nothing_is_left_out():
    meters = Meters()
    meters.add_sums({"x": (torch.tensor(6.0), torch.tensor(2)), "none": (0.0, torch.tensor(0))})
    meters.add_sums({"x": (torch.tensor(4.0), torch.tensor(3))})
    assert meters.pop(one) == {"x": 2.0}


def test_saved_and_loaded_in_between():
    whole, half = Meters(), Meters()
    for meters in (whole, half):
        meters.add_sums({"x": (torch.tensor(1.5), torch.tensor(4))})
        meters.add({"y": 2.0})
    again = Meters()
    again.load_state_dict(half.state_dict(one))
    for meters in (whole, again):
        meters.add_sums({"x": (torch.tensor(0.5), torch.tensor(1))})
        meters.add({"y": 4.0})
    assert whole.pop(one) == again.pop(one) == {"x": 0.4, "y": 3.0}


def test_two_ranks():
    meters = Meters()
    meters.add_sums({"x": (3.0, 1)})
    assert meters.pop(lambda part: [part, {"x": [5.0, 3], "only": [1.0, 2]}]) == {
        "x": 2.0,
        "only": 0.5,
    }


def test_more_than_one_number_is_refused():
    with pytest.raises(UsageError, match="one number"):
        Meters().add({"a": torch.zeros(2)})


def test_stopwatch_on_the_host():
    watch = Stopwatch(torch.device("cpu"))
    watch.start()
    time.sleep(0.02)
    assert 0.015 < watch.stop() < 1


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_stopwatch_on_a_gpu_does_not_wait():
    watch = Stopwatch(torch.device("cuda"))
    seen = []
    for _ in range(50):
        watch.start()
        torch.cuda._sleep(2_000_000)
        seen.append(watch.stop())
    torch.cuda.synchronize()
    watch.start()
    assert min(seen) > 0 and watch.stop() > 0
