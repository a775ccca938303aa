"""Settings of omnigan as networks, losses and weights."""

from pathlib import Path

import numpy as np
import pytest

from models.omnigan import ExtraAdam, Weights
from recipes.omnigan import options, parts, step
from recipes.omnigan.options import read_settings
from recipes.omnigan.schema import SCHEMA
from runtime.settings import defaults
from storage.errors import UsageError
from storage.yaml_files import read_yaml

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def _count(module):
    return sum(np.prod(p.shape) for p in module.parameters())


def test_the_published_counts():
    trainer = parts.make(read_settings(file=str(CONFIGS / "omnigan_published.yaml")))
    assert _count(trainer.G) == 17_646_624
    assert _count(trainer.C) == 595_332
    assert _count(trainer.D) == 11_058_948  # power iterations' vectors are buffers here
    buffers = sum(b.numel() for n, b in trainer.D.named_buffers() if n.endswith(("._u", "._v")))
    assert _count(trainer.D) + buffers == 11_124_424


def test_the_file_of_all_settings_says_the_defaults():
    file = CONFIGS / "omnigan.yaml"
    assert read_settings(file=str(file)) | {"gen": None, "dis": None} == defaults(SCHEMA) | {
        "gen": None, "dis": None,
    }  # fmt: skip
    found, known = read_settings(file=str(file)), defaults(SCHEMA)
    for part in ("gen", "dis"):
        found[part].pop("default"), known[part].pop("default")
        assert found[part] == known[part]
    assert "<<" in file.read_text() and set(read_yaml(file)) == set(SCHEMA)


def test_losses_and_weights_are_as_they_are_said():
    words = [
        "train.lambdas.G.t.sm=3",
        "train.lambdas.C=2",
        "train.losses.w=dice_bce",
        "tasks=[s,w]",
    ]
    opts = read_settings("smoke", words=words)
    assert parts.weights(opts) == Weights(t_sm=3, C=2)
    trainer = parts.make(opts)
    assert set(trainer.losses["G"]["tasks"]) == {"s", "w"} and set(trainer.players) == {"G", "C"}
    assert set(trainer.losses) == {"G", "D", "C"}
    assert set(trainer.losses["G"]) == {"gan", "cycle", "auto", "tasks", "classifier"}


def test_old_words_for_the_translation():
    opts = read_settings("smoke", words=["gen.t.use_bit_conditioning=false"])
    assert set(parts.make(opts).G.decoders["t"]) == {"f", "n"}
    opts = read_settings("smoke", words=["gen.t.use_spade=false"])
    assert not parts.make(opts).G.spade
    opts = read_settings(
        "smoke", words=["gen.t.use_spade=false", "gen.t.use_bit_conditioning=true"]
    )
    with pytest.raises(UsageError, match="bits are a condition of SPADE's"):
        parts.make(opts)


def test_a_decoder_that_enlarges_otherwise_is_a_line():
    opts = read_settings("smoke", words=["gen.d.n_upsample=5"])
    with pytest.raises(UsageError, match="gen.d.n_upsample is 5, but the encoder halves"):
        parts.make(opts)


def test_optimizers_and_their_rates():
    words = ["gen.opt.lr_policy=step", "gen.opt.lr_step_size=2", "dis.opt.optimizer=Adam"]
    opts = read_settings("smoke", words=words)
    found = parts.optimizers(opts, parts.make(opts))
    assert isinstance(found["G"], ExtraAdam) and not isinstance(found["D"], ExtraAdam)
    assert [g["name"] for g in found["G"].param_groups] == ["representation", "translation"]
    rates = [parts.learning_rate(opts, "G", step, 10) for step in (0, 19, 20, 45)]
    assert rates == [5e-4, 5e-4, 2.5e-4, 1.25e-4]
    assert parts.learning_rate(opts, "D", 999, 10) == 5e-4


def test_layers_of_settings_and_what_a_run_is_known_by(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("gen: {encoder: {dim: 6}, opt: {lr: 0.01}}\ncomet: {note: mine, tags: [a b]}\n")
    words = ["--preset", "smoke", "--config", str(file), "--set", "gen.opt.lr=1e-3"]
    args = options.get_args(None, words)
    assert args.opts["gen"]["encoder"]["dim"] == 6 and args.opts["gen"]["encoder"]["n_res"] == 1
    assert args.opts["gen"]["opt"]["lr"] == 0.001
    assert args.opts["wandb"] == {"note": "mine", "tags": ["a b"], "description": None}
    assert "gen.opt.lr=0.001" in args.set and not any("wandb" in w or "val." in w for w in args.set)
    again = options.get_args(None, ["--set", *args.set])  # these words alone are the same network
    assert again.set == args.set and again.opts["gen"] == args.opts["gen"]


def test_output_path_is_outdir(tmp_path):
    args = options.get_args(None, ["--set", f"output_path={tmp_path}"])
    assert args.outdir == str(tmp_path)
    args = options.get_args(None, ["--outdir", "x", "--set", f"output_path={tmp_path}"])
    assert args.outdir == "x"


def test_without_translation_there_is_one_phase():
    opts = read_settings(words=["tasks=[d,s]", "train.representation_steps=2"])
    assert [step.phases(opts, i) for i in (0, 2, 9)] == [("representation",)] * 3
    assert not step.begins_translation(opts, 2)


def test_wrong_sizes_and_scales_are_a_line():
    for word, says in (
        ("train.lambdas.G.a.features=10", "dis.a.num_D above 1"),
        ("data.transforms=[{name: resize, new_size: 18}]", "multiples of"),
    ):
        with pytest.raises(UsageError, match=says):
            parts.make(read_settings(words=[word]))
