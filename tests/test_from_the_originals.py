"""docs/from_the_originals.md: every command of the originals stands there, and ours beside it runs.

The page's tables are read here, so page and test cannot part. What makes a command small is added
behind its words; nothing of them is changed.
"""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
from pathlib import Path

import pytest
import torch

import models.simclr
from data import InvertDirStructure, SetupDataset, SetupMiniImagenet
from imle import CAMNet
from storage.snapshot import save_snapshot
from tests.data.pictures import make_set
from tests.diffusion.edm2_pickles import edm2_pickle, put_modules, toy_pickle
from tests.scripts.simclr_support import small_backbone
from tests.scripts.support import get_args, load
from tests.server import serving

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "from_the_originals.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (?!original \|)(?!---)(.+?) \| (.+?) \|$", PAGE, re.M)
COMMANDS = {theirs.strip("`"): ours for theirs, ours in ROWS if re.match(r"`\w+ .*`$", theirs)}
RUN = [
    ours.strip("`") for ours in COMMANDS.values() if re.fullmatch(r"`(python|torchrun) .*`", ours)
]

# Every command in the README files of the CIMLE refactoring, ISICLE and Autoguided, but for those
# that install an environment.
ORIGINALS = """
python data/SetupDataset.py --data DATASET_NAME --sizes [16, 32, 64, 128, 256]
python TrainGeneratorWandB.py --data_tr DATASET_NAME --data_val DATASET_NAME --res 16 ... 256
python Data/SetupMiniImagenet.py
python Data/InvertDirStructure.py --folder Data/miniImagenet
python Data/InvertDirStructure.py --folder DATASET_FOLDER
python TrainSimCLR.py
python TrainISICLE.py
tensorboard --logdir Models/MODEL_DIRECTORY
python ToyExample/toy_example.py plot
python ToyExample/toy_example.py train
python ToyExample/toy_example.py train --dim 32 --total-iter 512 --outdir "ToyExample/Ref"
python ToyExample/toy_example.py train --acid --guidance --guide-path "ToyExample/Ref/iter0512.pkl"
python ToyExample/toy_example.py train --selection
python ToyExample/toy_example.py test --net-path "relative/path/iter4096.pkl" --guide-path "relative/path/iter0512.pkl"
python Images/generate_images.py --preset=edm2-img512-s-autog-dino --outdir="images_test"
torchrun --standalone --nproc_per_node=2 Images/train_edm2.py --outdir="Ref" --dataset tiny --preset="edm2-tiny-xxs" --batch-gpu=256
torchrun --standalone --nproc_per_node=2 Images/train_edm2.py --outdir="AJEST" --dataset tiny --preset="edm2-tiny-xs" --batch-gpu=128 --acid --guide-path "Ref/network-snapshot-0005000-0.100.pkl"
torchrun --standalone --nproc_per_node=2 Images/train_edm2.py --outdir="Random" --dataset tiny --preset="edm2-tiny-xs" --batch-gpu=128 --selection
torchrun --standalone --nproc_per_node=2 Images/train_edm2.py --outdir="Baseline" --dataset tiny --preset="edm2-tiny-xs" --batch-gpu=128
python ref --dataset tiny --dest "tiny.pkl"
""".strip().splitlines()  # noqa: E501

# What makes a command of a script small.
QUIET = "--wandb disabled --gpus cpu --num_workers 0"
SMALLER = {
    "TrainGeneratorWandB": f"""{QUIET} --res 8 16 --resid_nc 6 --dense_nc 4 --map_nc 4
        --latent_nc 8 --n_blocks 1 --lpips random --bs 2 --ns 2 --sp 2 --code_bs 4
        --subsample_size 4 --num_iteration 1 --outer_loops 1 --warmup 0
        --num_val_images 2 --spi 2""",
    "TrainSimCLR": f"""{QUIET} --num_images 16 --bs 8 --epochs 1 --n_ramp 0 --proj_hidden 8
        --proj_dim 4 --no-probe --precision fp32""",
    "TrainISICLE": f"""{QUIET} --num_images 16 --bs 8 --epochs 1 --n_ramp 0 --proj_hidden 8
        --proj_dim 4 --no-probe --precision fp32 --crop_size 8 --view_precision fp32""",
    "train_edm2": """--wandb disabled --gpus cpu --num_workers 0 --res 16 --channels 16 --bs 16
        --duration 16 --precision fp32""",
    "toy_example train": """--wandb disabled --layers 2 --dim 8 --total-iter 2 --batch-size 64
        --val_samples 16 --test_samples 16 --no-viz""",
    "toy_example test": "--n-samples 16",
    "toy_example plot": "--samples 64",
    "generate_images": "--gpus cpu --steps 2 --seeds 0-1",
    "calculate_metrics": "--metrics fd_pixels --gpus cpu --num_workers 0",
    "SetupDataset": "--sizes 8 --num_workers 0 --source pictures",
    "SetupMiniImagenet": "--sizes 8 --num_workers 0 --source mini",
    "InvertDirStructure": "",
}
DATA = {"SetupDataset": SetupDataset, "SetupMiniImagenet": SetupMiniImagenet,
        "InvertDirStructure": InvertDirStructure}  # fmt: skip


def test_every_command_of_the_originals_stands_on_the_page():
    assert list(COMMANDS) == ORIGINALS
    assert len(RUN) == len(ORIGINALS) - 1  # tensorboard is another program


def pictures(at: Path, classes: int = 2, each: int = 8, splits: tuple[str, ...] = ("train", "val")):
    return make_set(at, {split: {f"c{k}": each for k in range(classes)} for split in splits})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working directory, homes, and a server of published networks, for all commands."""
    folder = tmp_path_factory.mktemp("originals")
    with pytest.MonkeyPatch.context() as patch, serving(files={}) as server:
        put_modules(patch)
        patch.setattr(models.simclr, "build_backbone", small_backbone)
        patch.setattr(SetupMiniImagenet, "CLASSES", {"train": 1, "val": 1, "test": 1})
        patch.setattr(SetupMiniImagenet, "PER_CLASS", 2)
        for kind in ("data", "models", "results"):
            patch.setenv(f"{kind.upper()}_HOME", str(folder / kind))
        patch.setenv("IMLE_LAB_NETWORKS", server.url)
        rgb = dict(img_resolution=16, img_channels=3, label_dim=2)
        guide = edm2_pickle(2, **rgb)
        server.files.update({
            "toy-example/clsA-layers04-dim64/iter4096.pkl": toy_pickle(0),
            "toy-example/clsA-layers04-dim32/iter0512.pkl": toy_pickle(1),
            "posthoc-reconstructions/edm2-img512-s-2147483-0.120.pkl": edm2_pickle(0, **rgb),
            "posthoc-reconstructions/edm2-img512-xs-0134217-0.165.pkl": edm2_pickle(1, **rgb),
        })  # fmt: skip
        here = folder / "here"
        for name, data in {
            "ToyExample/Ref/iter0512.pkl": toy_pickle(1),
            "NET/iter4096.pkl": toy_pickle(0),
            "Ref/network-snapshot-0005000-0.100.pkl": guide,
        }.items():
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            (here / name).write_bytes(data)
        torch.manual_seed(0)
        net = CAMNet(res=[4, 8], map_nc=4, latent_nc=8, resid_nc=[6], dense_nc=[4], n_blocks=1)
        config = {"net": net.config, "codes": {}, "corruption": {}, "crop": "center"}
        save_snapshot(
            here / "GENERATOR/snapshots/network-latest.safetensors",
            net.state_dict(),
            "camnet",
            config,
            {},
        )
        pictures(here / "pictures")
        pictures(here / "DATASET_FOLDER")
        make_set(here / "mini", {s: {f"{s}-class": 2} for s in ("train", "val", "test")})
        for name in ("camnet3", "cifar10", "tinyImagenet"):
            pictures(folder / "data" / name)
        pictures(folder / "data" / "miniImagenet", splits=("train",))
        patch.chdir(here)
        yield folder


@pytest.mark.parametrize("command", RUN)
def test_ours_beside_it_runs(command, place, monkeypatch):
    words = shlex.split(re.sub(r"\[([^]]*)\]", lambda list_: f"'{list_[0]}'", command))
    script = next(word for word in words if word.endswith(".py"))
    name, rest = Path(script).stem, words[words.index(script) + 1 :]
    if name in DATA:
        assert (ROOT / script).is_file()
        if name.startswith("Setup"):  # their sets are there for the others: made elsewhere here
            monkeypatch.setenv("DATA_HOME", str(place / f"data-of-{name}"))
        assert DATA[name].main([*rest, *shlex.split(SMALLER[name])]) == 0
        return
    small = f"{name} {rest[0]}" if name == "toy_example" else name
    more = shlex.split(SMALLER[small])
    if name == "train_edm2" and "--acid" in rest:
        more += ["--ref_channels", "8"]  # as the small network that is the reference here
    module = load(name)
    module.main(get_args(module, [*rest, *more]))


NAMES = sorted(
    {
        word
        for _, ours in ROWS
        for word in re.findall(r"`([a-z_]+(?:\.\w+)+)`", ours)
        if (ROOT / word.split(".")[0]).is_dir()
    }
)


@pytest.mark.parametrize("name", NAMES)
def test_names_are_there(name, place):
    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(module), attribute)


def test_there_are_names():
    assert len(NAMES) >= 10 and "storage.dirs.DATA_HOME" in NAMES


def test_the_two_loops_with_pieces_of_ones_own(place, monkeypatch, capsys):
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.S | re.M)
    monkeypatch.setenv("DATA_HOME", str(place / "data"))
    pictures(place / "photos-of-the-page" / "photos", classes=1, each=6, splits=("train",))
    monkeypatch.chdir(place / "photos-of-the-page")
    exec(compile(block, "example", "exec"), {"__name__": "__main__"})
    expected = re.findall(r"print\(.*\)  # (.*)$", block, re.M)
    assert capsys.readouterr().out.splitlines() == expected


def test_the_docstring_says_what_the_page_says_it_says():
    from imle import CIMLEDataLoader

    text = inspect.getdoc(CIMLEDataLoader) or ""
    for piece in ("model(x ", "loi=level", "z_gen(R, level)", "corruptor(x ", "loss_fn(output "):
        assert piece in text
