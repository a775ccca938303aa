"""What tests of whole runs share: short runs to look at, and how they ended."""

import hashlib
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


def rewrite_meta(path, change):
    """Let the checkpoint `path` be one whose meta.json is changed: `change` is given its dict."""
    meta = json.loads((path / "meta.json").read_text())
    change(meta)
    text = json.dumps(meta).encode()
    (path / "meta.json").write_bytes(text)
    manifest = json.loads((path / "manifest.json").read_text())
    entry = {"size": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    manifest["files"]["meta.json"] = entry
    manifest["digest"] = checkpoint._digest(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
