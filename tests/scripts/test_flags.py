"""The command lines are promises: a flag that goes or changes its default must be seen here first.

After a wanted change: IMLE_LAB_WRITE_FLAGS=1 pytest tests/scripts/test_flags.py
"""

import argparse
import os
import sys
from pathlib import Path

import pytest

import recipes.command
from tests.scripts.support import SCRIPTS, get_args, load, presets

FLAGS = Path(__file__).parent / "flags"


def flags_of(name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[argparse.ArgumentParser] = []

    def stop(parser, *_, **__):
        seen.append(parser)
        raise SystemExit

    script = load(name)
    home = sys.modules[script.get_args.__module__]
    home = home if hasattr(home, "parse") else recipes.command
    monkeypatch.setattr(home, "parse", stop)
    with pytest.raises(SystemExit):
        get_args(script, [])
    return sorted(
        f"{'/'.join([*a.option_strings, *getattr(a, 'hidden_names', [])])} = {a.default!r}"
        for a in seen[0]._actions
        if a.option_strings and a.dest != "help"
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_flags_are_frozen(name, monkeypatch):
    file = FLAGS / f"{name}.txt"
    found = flags_of(name, monkeypatch)
    if os.environ.get("IMLE_LAB_WRITE_FLAGS"):
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n".join(found) + "\n")
    assert found == file.read_text().splitlines()


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_preset_parses_and_there_is_a_smoke(name):
    script = load(name)
    assert "smoke" in presets(script)
    for preset in presets(script):
        words = ["--preset", preset]
        if preset != "smoke" and name in ("generate_images", "TrainISICLE"):
            words += ["--snapshot", "x"]
        assert get_args(script, words).preset == preset


def test_presets_are_not_mutated():
    script = load("TrainGeneratorWandB")
    before = repr(presets(script))
    args = get_args(script, ["--preset", "smoke"])
    args.res.append(7)
    assert repr(presets(script)) == before
