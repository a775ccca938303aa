"""Settings of omnigan as networks, losses and weights."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.omnigan import ExtraAdam, Weights
from recipes.omnigan import options, parts, step
from recipes.omnigan.options import read_settings
from recipes.omnigan.schema import SCHEMA
from runtime.settings import defaults
from storage.errors import UsageError
from storage.snapshot import save_snapshot
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
    opts = read_settings("smoke", words=["gen.t.use_bit_conditioning=false", "gen.t.bits=flood"])
    with pytest.raises(UsageError, match="a decoder for each flood without bits: give it, or"):
        parts.make(opts)
    opts = read_settings("smoke", words=["gen.t.use_spade=true", "gen.t.form=plain"])
    with pytest.raises(UsageError, match="use_spade is true, and gen.t.form plain has none"):
        parts.make(opts)


def test_a_decoder_that_enlarges_otherwise_is_a_line():
    opts = read_settings("smoke", words=["gen.d.n_upsample=5"])
    with pytest.raises(UsageError, match="gen.d.n_upsample is 5, but the encoder halves"):
        parts.make(opts)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dis.t.n_layers=5"], "dis.t: pictures of 16 x 16 px are too small"),
        (["dis.a.num_D=5"], "dis.a: pictures of 16 x 16 px are too small"),
        (['data.transforms=[{"name":"resize","new_size":4}]'], "gen: pictures of 4 x 4 px"),
        (
            [
                'data.transforms=[{"name":"resize","new_size":16,"ignore":"val"},'
                '{"name":"resize","new_size":18,"ignore":"train"}]'
            ],
            "data.transforms end in 18 x 18 px in val: sides must be multiples of 4",
        ),
        (["dis.gan=vanilla", "dis.t.use_sigmoid=true"], "dis.t.use_sigmoid is for dis.gan lsgan"),
    ],
)
def test_what_could_not_be_trained_is_a_line_before_it_is(words, said):
    opts = read_settings("smoke", words=words)
    for make in (parts.make, parts.try_to_make):
        with pytest.raises(UsageError, match=said):
            make(opts)


def test_to_try_draws_no_numbers():
    before = torch.random.get_rng_state()
    parts.try_to_make(read_settings("smoke"))
    assert torch.equal(torch.random.get_rng_state(), before)


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


def test_variables_in_folders_are_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_SCRATCH", str(tmp_path))
    file = tmp_path / "c.yaml"
    file.write_text("output_path: $SOME_SCRATCH/out\ndata: {files: {base: '${SOME_SCRATCH}'}}")
    opts = read_settings("smoke", str(file))
    assert opts["output_path"] == f"{tmp_path}/out"
    assert opts["data"]["files"]["base"] == str(tmp_path)
    with pytest.raises(ValueError, match=r"output_path '\$NOBODY_SET/x': \$NOBODY_SET is not set"):
        read_settings(words=["output_path=$NOBODY_SET/x"])


def test_a_tag_is_one_that_wandb_takes():
    with pytest.raises(ValueError, match=r"wandb.tags\[1\] 'b,c' is no tag"):
        read_settings(words=["wandb.tags=[a, 'b,c']"])


def test_without_translation_there_is_one_phase():
    opts = read_settings(words=["tasks=[d,s]", "train.representation_steps=2"])
    assert [step.phases(opts, i) for i in (0, 2, 9)] == [("representation",)] * 3
    assert not step.begins_translation(opts, 2)


def test_scenes_stand_in_for_no_list_that_is_forgotten(tmp_path):
    said = "data.files.train={rf: a.json, rn: none, sf: none, sn: scenes}"
    with pytest.raises(
        ValueError, match=r"train\.rf is a list, and nothing is said of val\.rf, val"
    ):
        read_settings("cpu-small", words=["tasks=[s]", said])
    with pytest.raises(
        ValueError, match=r"train\.rf is a list, and nothing is said of train\.rn, "
    ):
        read_settings(words=["tasks=[s]", "data.files.train.rf=a.json"])
    val = "data.files.val={rf: none, rn: none, sf: none, sn: none}"
    opts = read_settings(words=["tasks=[s]", said, val])
    assert opts["data"]["files"]["train"]["sn"] == "scenes" and not options.of_scenes(opts)
    assert options.of_scenes(read_settings())


def test_a_list_in_a_folder_called_scenes_is_a_list():
    for word in ("scenes/rf.json", "scenes.json"):
        with pytest.raises(ValueError, match="is a list, and nothing is said of train"):
            read_settings(words=["tasks=[s]", f"data.files.train.rf={word}"])
    words = [f"data.files.{m}.{d}=scenes/l.json" for m in ("train", "val") for d in ("rf", "rn")]
    words += [f"data.files.{m}.{d}=none" for m in ("train", "val") for d in ("sf", "sn")]
    opts = read_settings(words=["tasks=[s]", *words])
    assert not options.of_scenes(opts) and parts.class_names(opts)[0] == "0"
    assert options.of_scenes(read_settings(words=["data.files.train.rf=scenes:3"]))


def test_a_default_that_nothing_takes_is_said(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("gen: {default: {n_res: 1}, s: {activ: relu}}")
    with pytest.raises(ValueError, match=r"c.yaml: gen.default.n_res is in no section beside it"):
        read_settings("smoke", str(file))
    with pytest.raises(ValueError, match=r"dis.default.ndf is in no section .* t: \*NAME"):
        read_settings("smoke", words=["dis.default.ndf=8"])
    file.write_text("gen: {default: &x {n_res: 1}, s: *x}")
    assert options.unread_defaults(read_settings(file=str(file))) == []
    file.write_text("gen: {default: {n_res: 7}, s: {n_res: 1}}")  # as an experiment merges them
    opts = read_settings("smoke", str(file))
    assert _remarks(opts)[1].startswith("gen.default.n_res 7 is in no section beside it")


def test_a_task_without_its_map_is_said(tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "l.json").write_text('[{"x": "a.png"}]')
    files = f"{{rf: {tmp_path}/l.json, rn: none, sf: none, sn: scenes}}"
    words = ["tasks=[s,d,w]", f"data.files.train={files}", "data.labels.sn=[s]",
             "data.files.val={rf: none, rn: none, sf: none, sn: scenes}"]  # fmt: skip
    said = "no sample that is trained on has a map {0} that is read, so its decoder does not learn"
    assert [f"task {task}: {said.format(task)} it" for task in "dw"] == [
        line for line in _remarks(read_settings("smoke", words=words))
    ]


def _remarks(opts, seed=0):
    args = Namespace(seed=seed, num_workers=0)
    run = Namespace(world_size=1, rank=0, device=torch.device("cpu"))
    return parts.remarks(opts, parts.loaders(opts, args, run))


def test_what_is_not_read_is_said(tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / f"map-{name}")
    maps = {key: str(tmp_path / "map-a.png") for key in "sdhw"}
    samples = [{"x": "a.png", **maps}, {"x": "b.png", "h": maps["h"]}]
    (tmp_path / "l.json").write_text(json.dumps(samples))
    files = f"{{rf: {tmp_path}/l.json, rn: scenes, sf: scenes, sn: none}}"
    words = ["tasks=[s,h]", "data.labels.rf=[s]", f"data.files.train={files}",
             "data.files.val={rf: none, rn: none, sf: none, sn: none}"]  # fmt: skip
    assert _remarks(read_settings("smoke", words=words)) == [
        "train rf: d of 1 samples is not read: task d is off",
        "train rf: h of 2 samples is not read: data.labels.rf is s",
        "train rf: w of 1 samples is not read: task w is off",
    ]
    assert _remarks(read_settings("smoke")) == [
        "data.files.train has no lists: pictures are embedded scenes"
    ]


def test_where_deeplab_begins_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("MODELS_HOME", str(tmp_path))
    words = ["tasks=[s]", "gen.encoder.architecture=deeplabv2"]
    weights = "gen.deeplabv2.pretrained_model"
    opts = read_settings("smoke", words=words)
    assert parts.pretrained_file(opts) is None
    assert _remarks(opts)[0].startswith("encoder deeplabv2 begins at random: ")
    opts = read_settings("smoke", words=[*words, f"{weights}=advent"])
    with pytest.raises(UsageError, match="fetch-weights --nets deeplabv2"):
        parts.pretrained_file(opts)
    file = tmp_path / "hub/checkpoints/DeepLab_resnet_pretrained_imagenet.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    assert _remarks(opts)[0] == f"encoder deeplabv2 begins with the weights of {file}"
    opts = read_settings("smoke", words=[*words, f"{weights}={tmp_path}/own.pth"])
    with pytest.raises(UsageError, match="there is no .*own.pth: give the path of a file, or null"):
        parts.try_to_make(opts)
    (tmp_path / "own.pth").write_bytes(b"")
    assert parts.pretrained_file(opts) == tmp_path / "own.pth"
    opts = read_settings("smoke", words=["tasks=[s]", f"{weights}={tmp_path}/own.pth"])
    assert parts.pretrained_file(opts) is None  # of another encoder


def test_weights_to_begin_with(tmp_path):
    opts = read_settings("smoke")
    torch.manual_seed(1)
    first = parts.make(opts).G
    config = parts.snapshot_config(opts, first, 1)
    file = save_snapshot(tmp_path / "a.safetensors", first.state_dict(), parts.KIND, config, {})
    torch.manual_seed(2)
    second = parts.make(read_settings("smoke", words=[f"gen.pretrained={file}"])).G
    assert all(torch.equal(v, second.state_dict()[k]) for k, v in first.state_dict().items())
    for words in (["gen.encoder.dim=8"], ["tasks=[d,s]"], ["gen.encoder.n_res=2"]):
        with pytest.raises(UsageError, match="is of other tasks or another size, see "):
            parts.make(read_settings("smoke", words=[f"gen.pretrained={file}", *words]))
    save_snapshot(tmp_path / "b.safetensors", first.state_dict(), "edm2", config, {})
    with pytest.raises(UsageError, match="is of edm2, not of omnigan"):
        parts.make(read_settings("smoke", words=[f"gen.pretrained={tmp_path}/b.safetensors"]))


def test_weights_are_kept_within_a_bound_where_it_is_set():
    with pytest.raises(ValueError, match="dis.clip is of dis.gan wgan, and it is lsgan"):
        options.refuse_wrong(read_settings("smoke", words=["dis.clip=0.01"]))
    for words, bound in ((["dis.gan=wgan"], False), (["dis.gan=wgan", "dis.clip=0.01"], True)):
        opts = read_settings("smoke", words=words)
        trainer = parts.make(opts)
        step.bound(opts, trainer)
        assert (max(float(p.detach().abs().max()) for p in trainer.D.parameters()) <= 0.01) == bound


def test_wrong_sizes_and_scales_are_a_line():
    for word, says in (
        ("train.lambdas.G.a.features=10", "dis.a.num_D above 1"),
        ("data.transforms=[{name: resize, new_size: 18}]", "multiples of"),
    ):
        with pytest.raises(UsageError, match=says):
            parts.make(read_settings(words=[word]))
