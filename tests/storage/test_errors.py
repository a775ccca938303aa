"""Exit codes are a protocol with launchers: frozen here."""

import pickle

import pytest

from storage import errors

CODES = {
    "RunError": 1,
    "UsageError": 2,
    "CheckpointError": 3,
    "LockError": 4,
    "NonFiniteError": 5,
    "DiskError": 7,
    "OutOfMemory": 8,
    "WaitError": 9,
    "Preempted": 75,
}


def test_the_codes_are_those_of_the_specification():
    found = {
        name: value.exit_code
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.RunError)
    }
    assert found == CODES


@pytest.mark.parametrize("name", CODES)
def test_errors_travel_between_ranks(name):
    error = getattr(errors, name)("what was wrong")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and str(copy) == "what was wrong"
