"""What tests of whole runs ask for by `pytest.mark.usefixtures`."""

import os

import pytest
import torch


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_fsync(monkeypatch):
    """It protects from power cuts, which no test here makes, and takes most of the time."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
