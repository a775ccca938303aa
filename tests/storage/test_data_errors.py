import pickle

import torch
from torch.utils.data import DataLoader, Dataset

from storage.errors import DataBusyError, DataDiskError, DataError


class Broken(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, i):
        raise DataError(f"bad image {i} (truncated)")


def test_exit_codes():
    assert [e("x").exit_code for e in (DataError, DataBusyError, DataDiskError)] == [6, 4, 7]
    assert str(pickle.loads(pickle.dumps(DataError("one line")))) == "one line"


def test_a_workers_traceback_becomes_one_line():
    try:
        next(iter(DataLoader(Broken(), num_workers=1)))
    except DataError as error:
        assert str(error) == "bad image 0 (truncated)"
    else:
        raise AssertionError("no error")
    assert torch.get_num_threads() >= 1
