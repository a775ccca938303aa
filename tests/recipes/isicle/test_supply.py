"""Whose turn it is, and what a GPU's streams wait for."""

import contextlib
from types import SimpleNamespace

import torch

from recipes.isicle.supply import Ahead, Turns


def test_turns_cover_every_step_once():
    for every in (0, 1, 2, 3, 7):
        turns = Turns(per_epoch=4, epochs=5, every=every, phase=3)
        found = [turns.at(t) for t in range(turns.total)]
        assert [s for s, _ in found if s is not None] == list(range(20))
        phases = -(-5 // every) if every else 0
        assert [g for s, g in found if s is None] == list(range(3 * phases))
        before = [sum(s is None for s, _ in found[:t]) for t in range(turns.total)]
        steps = [turns.encoder_steps(t) for t in range(turns.total)]
        assert steps == [sum(s is not None for s, _ in found[:t]) for t in range(turns.total)]
        for t, (step, _) in enumerate(found):
            if step is not None and every:
                assert before[t] == 3 * (step // 4 // every + 1)


def test_a_batch_ahead_is_the_batch(monkeypatch):
    """On a CPU nothing is ahead; `follows` keeps an epoch's refresh to itself."""
    made = []
    ahead = Ahead(lambda step: made.append(step) or step, torch.device("cpu"))
    assert ahead.take(0) == 0
    ahead.start(1)
    assert ahead.take(1) == 1 and made == [0, 1]


class Stream:
    """Writes down what a CUDA stream is asked for."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def record_event(self):
        self.log.append(f"{self.name} marks")

    def wait_event(self, event):
        self.log.append(f"{self.name} waits for the mark")

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")


def test_what_waits_for_what_on_a_gpu(monkeypatch):
    """The next batch waits for what was queued before the encoder's work, not for that work; the
    encoder waits for the batch, and a batch that is not wanted is thrown away."""
    log = []
    here = Stream("encoder", log)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("views", log))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: here)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())

    def make(step):
        log.append(f"batch {step}")
        kept = SimpleNamespace(record_stream=lambda s: log.append(f"kept for {s.name}"))
        return SimpleNamespace(ids=kept, pictures=kept, counts=None, step=step)

    ahead = Ahead(make, torch.device("cuda"))
    assert ahead.take(0).step == 0
    ahead.start(1)
    assert log == ["batch 0", "encoder marks", "views waits for the mark", "batch 1"]
    log.clear()
    assert ahead.take(1).step == 1
    kept = ["kept for encoder"] * 2
    assert log == ["encoder waits for views", *kept, "encoder marks"]
    log.clear()
    ahead.start(2)
    assert ahead.take(5).step == 5
    wrong = ["views waits for the mark", "batch 2", "encoder waits for views", "batch 5"]
    assert log == [*wrong, "encoder marks"]
