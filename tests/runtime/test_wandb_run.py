"""A run that W&B has: its figures, and note, tags and group as experiment.py exports them.

The server is a stand-in on this machine. With IMLE_LAB_WANDB_URL it is a real one at that address,
with one's own key: the run there has the tag is_functional_test and is deleted at the end, unless
IMLE_LAB_WANDB_KEEP=1.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

from recipes.experiment.params import exported
from tests.wandb_server import wandb_server

ROOT = Path(__file__).resolve().parents[2]
URL, KEEP = "IMLE_LAB_WANDB_URL", "IMLE_LAB_WANDB_KEEP"
SCRIPT = """
import json, os, sys
from pathlib import Path
from runtime import tracker
tracker._ONLINE_S = 60.0  # a machine that is busy with other tests
folder = Path(sys.argv[1])
t = tracker.Tracker(folder, "online", name="functional test", config={"lr": 0.5})
for step in (1, 2):
    t.log({"loss": 1 / step}, step)
t.finish(0)
import wandb
url = (folder / "wandb_url.txt").read_text().strip()
*_, entity, project, runs, name = url.split("/")
run = wandb.Api().run(f"{entity}/{project}/{name}")
told = {"mode": t.mode, "name": name, "id": t.id, "tags": run.tags, "notes": run.notes}
told |= {"group": run.group, "config": dict(run.config)}
if not os.environ.get("IMLE_LAB_WANDB_KEEP"):
    run.delete()
print(json.dumps(told))
"""


def functional_test(folder, url, **env):
    """A process that starts a run, asks the server for it, and deletes it; what it was told."""
    experiment = {"name": "wandb-test", "exp_desc": "is it there?"}
    run = {"wandb": {"note": "a note", "tags": ["is_functional_test", "two words"]}}
    (folder / "home").mkdir(parents=True)
    known = (
        os.environ if URL in os.environ else {"WANDB_API_KEY": "f" * 40, "HOME": folder / "home"}
    )
    bare = {
        k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") or URL in os.environ
    }
    bare.pop("WANDB_MODE", None)
    env = {**bare, **known, **exported(experiment, run), "WANDB_BASE_URL": url, **env}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder / "run")],
        env={name: str(v) for name, v in env.items()} | {"PYTHONPATH": str(ROOT)},
        cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_wandb_has_a_run_until_the_test_deletes_it(tmp_path):
    real = os.environ.get(URL)
    with contextlib.ExitStack() as stack:
        server = None if real else stack.enter_context(wandb_server())
        told = functional_test(tmp_path / "a", real or server.url)
        assert told["mode"] == "online" and told["name"] == told["id"]
        assert told["tags"] == ["is_functional_test", "two_words"]
        assert told["notes"] == "is it there?\na note"
        assert told["group"] == "wandb-test" and told["config"]["lr"] == 0.5
        if server is not None:
            losses = [row["loss"] for row in server.rows[told["name"]]]
            assert losses == [1.0, 0.5] and (server.runs, server.deleted) == ({}, [told["name"]])
            kept = functional_test(tmp_path / "b", server.url, **{KEEP: "1"})["name"]
            assert list(server.runs) == [kept]
