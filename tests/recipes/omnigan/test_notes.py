"""What W&B is told."""

import os

from recipes.omnigan import parts
from recipes.omnigan.options import read_settings


def test_note_tags_and_description_are_wandbs(monkeypatch):
    for name in ("WANDB_NOTES", "WANDB_TAGS", "WANDB_RUN_GROUP"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")  # so that it is taken away again
        monkeypatch.delenv(name)
    words = ["wandb.note=a note", "wandb.tags=[x, y z]", "wandb.description=all of them"]
    parts.announce(read_settings("smoke", words=words))
    assert os.environ["WANDB_NOTES"] == "a note" and os.environ["WANDB_TAGS"] == "x,y z"
    parts.announce(read_settings("smoke", words=["wandb.note=another"]))
    assert os.environ["WANDB_NOTES"] == "a note"  # what stands there counts
