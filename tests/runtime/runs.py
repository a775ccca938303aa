"""What tests of whole runs share: short runs to look at, and how they ended."""

import json

import pytest
import torch

from storage import checkpoint


def status(run):
    return json.loads((run.dir / "status.json").read_text())


def steps_in(run):
    return checkpoint.steps_of(run.dir / "checkpoints")


def exits(code):
    return pytest.raises(SystemExit, match=f"^{code}$")


def linear(run, lr=0.5):
    net = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    run.restore(net=net, optimizer=optimizer)
    return net, optimizer
