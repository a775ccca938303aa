"""The command lines that tests/identity.py compares: every smoke preset and every mode.

A case is some commands in a folder of their own; what it reads of others lies in `../NAME`.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image


class Command(NamedTuple):
    """`python words...`, as so many processes of one run; silent: what it prints may change."""

    words: tuple[str, ...]
    ranks: int = 1
    silent: bool = False


@dataclass(frozen=True)
class Case:
    """name; commands; make(folder) lays files there first; needs: cases that must run before."""

    name: str
    commands: tuple[Command, ...]
    needs: tuple[str, ...] = ()
    make: Callable[[Path], None] | None = field(default=None)

    def text(self) -> str:
        """What a stored result is of."""
        return json.dumps([self.name, self.commands, self.needs])


def command(text: str | Sequence[str], ranks: int = 1) -> Command:
    """A command from one string; what is between | | is one word."""
    if not isinstance(text, str):
        return Command(tuple(text), ranks)
    words: list[str] = []
    for i, part in enumerate(text.split("|")):
        words += [part] if i % 2 else part.split()
    return Command(tuple(words), ranks)


def case(name: str, *lines: str | Command, needs: Sequence[str] = (), make=None) -> Case:
    made = tuple(line if isinstance(line, Command) else command(line) for line in lines)
    return Case(name, made, tuple(needs), make)


# ------------------------------------------------------------------------------------ files to read


def picture(seed: int, height: int = 24, width: int = 30) -> np.ndarray:
    """uint8 [H, W, 3]: four by five random colours, enlarged."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def pictures(folder: Path, splits: dict[str, dict[str, int]], kind: str = "png") -> Path:
    """folder/split/class/NNN.kind"""
    seed = 0
    for split, classes in splits.items():
        for name, count in classes.items():
            (folder / split / name).mkdir(parents=True)
            for k in range(count):
                seed += 1
                Image.fromarray(picture(seed)).save(folder / split / name / f"{k:03d}.{kind}")
    return folder


def a_set(folder: Path) -> None:
    pictures(folder / "src", {"train": {"a": 5, "b": 4}, "val": {"a": 2, "b": 2}})


def a_labelled_set(folder: Path) -> None:
    pictures(folder / "set", {"train": {"a": 13, "b": 13}})


def mini_imagenet(folder: Path) -> None:
    counts = {"train": 64, "val": 16, "test": 20}
    pictures(folder / "src", {s: {f"{s}{c:03d}": 1 for c in range(n)} for s, n in counts.items()})


def latents(folder: Path) -> None:
    """A zip of 44 latents of 8x8 in NVIDIA's layout, of three classes."""
    rng, labels = np.random.default_rng(0), []
    with zipfile.ZipFile(folder / "latents.zip", "w") as out:
        for i in range(44):
            raw = rng.normal(size=(8, 8, 8)).astype(np.float32)
            raw[4:] = abs(raw[4:])
            with out.open(name := f"00000/img{i:08d}.npy", "w") as entry:
                np.lib.format.write_array(entry, raw)
            labels.append([name, i % 3])
        out.writestr("dataset.json", json.dumps({"labels": labels}))


# ----------------------------------------------------------------------------- TrainGeneratorWandB

IMLE = "TrainGeneratorWandB.py --preset smoke --run-dir run --outer_loops 2 --num_iteration 3"
SMOKE = f"{IMLE} --subsample_size 8 --num_val_images 2"
SMALL = (
    f"{IMLE} --res 8 16 --resid_nc 6 --dense_nc 4 --map_nc 4 --latent_nc 8 --bs 4 --mini_bs 2 "
    "--ns 4 --sp 2 --code_bs 4 --subsample_size 6 --warmup 2 --num_val_images 2 --spi 2 "
    "--log_every 1"
)
IMLE_MODES = {
    "grey-mask": "--grayscale 0.5 --mask_frac 0.4 --fill color --mask_res 4",
    "grey": "--grayscale 1 --init_type normal",
    "proj_dim": "--proj_dim 20 --rescore 2",
    "mixture": "--sample_method mixture --num_components 3",
    "lab": "--color_space lab",
    "lab-reference": "--color_space lab --lab_range reference",
    "ema-off-constant-lr": "--ema_std 0 --lr_schedule constant --grad_clip 0.5",
    "reference": "--lpips_weighting reference --lr_schedule reference --init reference "
    "--mapping_init reference",
    "three-levels": "--res 16 16 32 --resid_nc 6 4 --dense_nc 4 4 --crop center --cache memory",
    "large-batch": "--bs 20 --subsample_size 3 --cv_frac 0.2 --flip 0",
    "bf16": "--precision bf16 --search_precision bf16",
    "uncond": "--unconditional --lpips none --res 8 --pool_size 16",
    "uncond-mixture": "--unconditional --lpips none --res 8 --pool_size 16 --sample_method mixture",
    "uncond-lpips": "--unconditional --res 16 --pool_size 16 --proj_dim 10",
    "snapshots": "--outer_loops 2 --snapshot_every 1 --suffix x --seed 3 --alpha 1 --num_workers 1",
}

# -------------------------------------------------------------------------------------- the others

EDM2 = (
    "train_edm2.py --preset smoke --run-dir run --duration 120 --snapshot 2 --sample_images 0 "
    "--save_every 3 --log_every 1"
)
WEAK = "@../edm2-baseline/run/snapshots/network-snapshot-0000002-0.100.safetensors"
STRONG = "@../edm2-baseline/run/snapshots/network-snapshot-0000006-0.050.safetensors"
EDM2_MODES = {
    "random": "--selection",
    "acid-own-ema": "--acid",
    "acid-guide": f"--acid --guide-path {WEAK}",
    "acid-ref": f"--acid --ref-path {STRONG}",
    "early": f"--acid --guide-path {WEAK} --early",
    "late": f"--acid --guide-path {WEAK} --late",
    "early-random": f"--selection --guide-path {WEAK} --early",
    "late-random": f"--selection --ref-path {STRONG} --late",
    "by-sigma": f"--acid --guide-path {WEAK} --score_by_sigma --temperature 0.5",
    "scale-mean": "--acid --score_scale mean --first_chunk scored",
    "scale-raw": "--acid --score_scale raw --no-normalise --no-diff --invert",
    "as-the-original": f"--acid --guide-path {WEAK} --select_scope rank --batch-gpu 20 --n 2 "
    "--score_scale seed --rounding reference --unpaired --ramp reference",
    "uncond": "--cond False --xflip True --cache memory --crop squash",
    "one-ema": "--ema_stds 0.07 --seed 5 --ls 100 --channels_last True",
    "samples": "--sample_images 4 --snapshot 8 --suffix s",
}

TOY = (
    "toy_example.py train --preset smoke --run-dir run --total-iter 8 --batch-size 200 --dim 8 "
    "--save_every 4 --snapshot_every 4 --log_every 2 --val_every 4 --val_samples 16 "
    "--test_samples 16 --no-viz"
)
TOY_GUIDE = "@../toy-baseline/run/snapshots/iter0004.safetensors"
TOY_NET = "@../toy-baseline/run/snapshots/iter0008.safetensors"
TOY_MODES = {
    "random": "--selection",
    "acid": "--acid --score_scale seed --rounding reference",
    "acid-guide": f"--acid --guide-path {TOY_GUIDE} --temperature 0.5",
    "early": f"--acid --early --guide-path {TOY_GUIDE} --score_by_sigma",
    "late": f"--selection --late --guide-path {TOY_GUIDE}",
    "easy": "--acid --no-diff --invert --first_chunk scored --score_scale raw --no-normalise",
    "mean": "--acid --score_scale mean --cls AB --debug",
    "interpol": f"--acid --interpol --guide-path {TOY_GUIDE}",
    "everything": f"--guide-path {TOY_GUIDE} --external --mandala --viz --verbose --logging l.txt",
    "nothing": "--no-val --no-test --cls B",
}

SIMCLR = (
    "TrainSimCLR.py --preset smoke --run-dir run --num_images 48 --bs 16 --epochs 2 --log_every 1 "
    "--proj_hidden 16 --proj_dim 8 --folds 2 --probe_epochs 0 --eval_iter 2 --save_iter 2"
)
SIMCLR_MODES = {
    "dcl-sgd": "--loss dcl --opt sgd --lars 0 --lr 0.03 --head paper --no-probe",
    "dclw-lars": "--loss dclw --sigma 0.4 --opt lars --lr_schedule google --head v2 --no-probe",
    "adam": "--lars 0 --head lightly --lr_schedule seed --no-probe",
    "bolts": "--opt lars --lars_semantics bolts --head solo --lr_scaling linear --no-probe",
    "larc": "--opt lars --lars_semantics larc --head leftthomas --lr_scaling sqrt --no-probe",
    "popular": "--opt lars --lars_semantics google_popular --head dkobak --no-probe --wd 1e-4",
    "real": "--recipe real --exact_augs --gaussian_blur 1 --crop_size 16 --no-probe",
    "val-few-shot-exports": "--eval val --few_shot scenes/val --num_images 64 --export_features "
    "--export_backbone --epochs 1 --probe_epochs 1 --probe_augs train",
    "pooled": "--eval pooled --held_out 3 --no-probe --epochs 1",
    "memmap": "--place memmap --no-probe --epochs 1 --suffix s --seed 3",
}

ISICLE = (
    "TrainISICLE.py --data ../isicle-real-real/set --run-dir run --num_images 24 --bs 8 --epochs 2 "
    "--crop_size 8 --proj_hidden 16 --n_ramp 1 --stem standard --eval cv --folds 2 --eval_iter 2 "
    "--save_iter 2 --probe False --color_s 0.5 --log_every 1 --save_every 100 --num_workers 0 "
    "--wandb disabled --gpus cpu --view_batch 8"
)
NET = "@../imle-small/run/snapshots/network-latest.safetensors"
OWN_IMLE = (
    "--preset smoke --res 8 16 --resid_nc 6 --dense_nc 4 --map_nc 4 --latent_nc 8 --bs 4 "
    "--mini_bs 2 --ns 2 --sp 2 --code_bs 4 --subsample_size 4"
)
JOINT = f"--crop_size 16 --joint 1 --imle_steps 3 --imle |{OWN_IMLE}|"
ISICLE_MODES = {
    "synth-synth": f"--net {NET} --pair synth-synth --augs none",
    "mixed": f"--net {NET} --pair mixed --f 0:1 --augs crop+flip --code fixed",
    "multi": f"--net {NET} --pair multi --num_synth 2 --temperature 0.7 --truncation 2",
    "multi-in": f"--net {NET} --pair multi --num_synth 3 --reduce in --domain_bn",
    "real-synth": f"--net {NET} --pair real-synth --domain_bn --view_source upsampled",
    "refresh": f"--net {NET} --refresh 1 --k 2 --f 1:0",
    "filter": f"--net {NET} --crop_size 16 --lpips random --lpips_min 1e-4 --lpips_max 0.01 "
    "--tries 2 --epochs 1 --n_ramp 0 --num_images 8 --pair synth-synth --lr_factor 2",
    "refresh-filter": f"--net {NET} --crop_size 16 --refresh 2 --k 2 --lpips random --lpips_min "
    "1e-4 --lpips_max 0.01 --tries 2 --num_images 16",
    "joint": JOINT,
    "joint-net": f"{JOINT} --net {NET} --refresh 1 --k 2",
    "cache": "--views cache --cache ../views-memmap/views",
}

VIEWS = (
    f"generate_views.py --net {NET} --data scenes --num_images 7 --views 3 --size 8 --view_batch 6 "
    "--gpus cpu --out views"
)
IMAGES = "generate_images.py --gpus cpu --outdir out"
DRAW = f"generate_images.py --gpus cpu --net {STRONG} --steps 3 --outdir out"


def wrong(name: str, front: str, words: Sequence[str], needs: Sequence[str] = ()) -> Case:
    """Options that are refused, one command each, in a folder that must stay empty."""
    return case(f"wrong-{name}", *(f"{front} {w}" for w in words), needs=needs)


def modes(name: str, front: str, table: dict[str, str], needs: Sequence[str] = ()) -> list[Case]:
    return [
        case(f"{name}-{mode}", f"{front} {words}", needs=needs) for mode, words in table.items()
    ]


CASES: tuple[Case, ...] = (
    # ---- TrainGeneratorWandB
    case("imle-smoke", SMOKE, SMOKE),
    case("imle-small", SMALL),
    case("imle-default-dir", SMALL.replace("--run-dir run", "--uid u --job_id 7")),
    *modes("imle", f"{SMALL} --outer_loops 1", IMLE_MODES),
    case(
        "imle-chunks",
        f"{SMALL} --chunk_epochs 1 --resume 0",
        f"{SMALL} --chunk_epochs 1 --resume 1",
        f"{SMALL} --chunk_epochs 1",
        f"{SMALL} --lr 2e-2",
    ),
    case("imle-ranks", command(f"{SMALL} --bs 4 --mini_bs 4 --outer_loops 1", ranks=2)),
    case(
        "imle-uncond-ranks",
        command(f"{SMALL} --unconditional --lpips none --res 8 --pool_size 16", ranks=2),
    ),
    # ---- train_edm2
    case("edm2-smoke", "train_edm2.py --preset smoke --run-dir run --duration 320"),
    case("edm2-baseline", f"{EDM2} --duration 240"),
    *modes("edm2", EDM2, EDM2_MODES, needs=["edm2-baseline"]),
    case("edm2-resumed", f"{EDM2} --acid --duration 80", f"{EDM2} --acid", f"{EDM2} --acid --lr 1"),
    case("edm2-outdir-dry", f"{EDM2} -n", EDM2.replace("--run-dir run", "--outdir O --acid")),
    case("edm2-name", EDM2.replace("--run-dir run", "--selection --duration 40")),
    case("edm2-latents", f"{EDM2} --data latents.zip --acid --score_scale mean", make=latents),
    case("edm2-folder", f"{EDM2} --dataset folder --data set", make=a_labelled_set),
    case("edm2-ranks", command(f"{EDM2} --acid", ranks=2)),
    case(
        "edm2-ranks-scope",
        command(f"{EDM2} --acid --select_scope rank --batch-gpu 20 --n 2", ranks=2),
    ),
    # ---- toy_example
    case("toy-smoke", "toy_example.py --preset smoke --run-dir run"),
    case("toy-baseline", f"{TOY} --logging log.txt"),
    *modes("toy", TOY, TOY_MODES, needs=["toy-baseline"]),
    case("toy-resumed", f"{TOY} --acid --total-iter 6", f"{TOY} --acid"),
    case("toy-outdir", TOY.replace("--run-dir run", "--outdir Ref/one")),
    case(
        "toy-test",
        "toy_example.py test --preset smoke",
        f"toy_example.py test --net-path {TOY_NET} --n-samples 32",
        f"toy_example.py test --net-path {TOY_NET} --ema-path {TOY_NET} --guide-path {TOY_GUIDE} "
        "--n-samples 40 --batch-size 16 --external --mandala --logging t.txt --acid",
        needs=["toy-baseline"],
    ),
    case(
        "toy-plot",
        "toy_example.py plot --preset smoke --save x",
        f"toy_example.py plot --net {TOY_NET} --gnet {TOY_GUIDE} --n_samples 64 --save y.png",
        needs=["toy-baseline"],
    ),
    # ---- TrainSimCLR
    case("simclr-smoke", SIMCLR, f"{SIMCLR} --no-probe"),
    *modes("simclr", SIMCLR, SIMCLR_MODES),
    case(
        "simclr-no-head",
        SIMCLR.replace("--proj_hidden 16 --proj_dim 8", "--head none --normalise cifar --no-probe")
        + " --unreal_augs 0 --channels_last False --epochs 1",
    ),
    case(
        "simclr-probe_only",
        f"{SIMCLR} --probe_only @../simclr-smoke/run/snapshots/1.safetensors".replace(
            "--run-dir run", "--run-dir a"
        ),
        f"{SIMCLR} --probe_only @../simclr-smoke/run/1.pt".replace("--run-dir run", "--run-dir b"),
        f"{SIMCLR} --probe_only untrained --seed 3".replace("--run-dir run", "--run-dir c"),
        f"{SIMCLR} --probe_only pixels".replace("--run-dir run", "--run-dir d"),
        needs=["simclr-smoke"],
    ),
    case("simclr-ranks", command(f"{SIMCLR} --no-probe --epochs 1 --n_ramp 0", ranks=2)),
    # ---- TrainISICLE
    case("isicle-real-real", f"{ISICLE} --pair real-real", make=a_labelled_set),
    case("isicle-smoke", "TrainISICLE.py --preset smoke --run-dir run"),
    case(
        "views-memmap",
        f"{VIEWS} --format memmap --data ../isicle-real-real/set --num_images 24".replace(
            "--data scenes --num_images 7", ""
        ),
        needs=["imle-small", "isicle-real-real"],
    ),
    *modes(
        "isicle", ISICLE, ISICLE_MODES, needs=["imle-small", "isicle-real-real", "views-memmap"]
    ),
    case(
        "isicle-ranks",
        command(f"{ISICLE} --net {NET} --refresh 1 --k 2 --epochs 1 --n_ramp 0", ranks=2),
        needs=["imle-small", "isicle-real-real"],
    ),
    # ---- generate_views
    case("views-smoke", "generate_views.py --preset smoke --out views"),
    case("views-folder", VIEWS, VIEWS, f"{VIEWS} --views 2", needs=["imle-small"]),
    case("views-lmdb", f"{VIEWS} --format lmdb --view_seed 3 --first 2", needs=["imle-small"]),
    case(
        "views-recipes",
        f"{VIEWS} --code fixed --temperature 0.5 --grayscale 1 --mask_frac 0.25 --fill color",
        f"{VIEWS}2 --view_source upsampled --lr_factor 2 --views 2",
        f"{VIEWS}3 --size 16 --lpips random --lpips_min 1e-4 --lpips_max 0.01 --tries 2",
        f"{VIEWS}4 --truncation 2 --view_precision bf16 --split val",
        needs=["imle-small"],
    ),
    # ---- generate_images
    case(
        "images-camnet",
        "generate_images.py --preset smoke --outdir smoke",
        f"{IMAGES} --snapshot {NET} --data scenes/val --num_images 2 --samples 3",
        f"{IMAGES}2 --snapshot {NET} --data scenes/val --num_images 2 --samples 1 --first 2 "
        "--batch 1 --seed 4",
        needs=["imle-small"],
    ),
    case(
        "images-uncond",
        f"{IMAGES} --snapshot @../imle-uncond-mixture/run/snapshots/network-latest.safetensors "
        "--num_images 2 --samples 3",
        needs=["imle-uncond-mixture"],
    ),
    case(
        "images-edm2",
        "generate_images.py --preset smoke-edm2 --outdir smoke",
        f"{DRAW} --seeds 0-3 --S_churn 5 --batch 3",
        f"{DRAW}2 --seeds 0-1 --class 2 --gnet {WEAK} --guidance 1.7 --name_class",
        f"{DRAW}3 --seeds 0 --gnet {WEAK} --guidance 3 --guidance_interval 0.1 10 --trajectory",
        f"{DRAW}4 --seeds 0-1 --gnet {WEAK} --sweep_guidance 1 1.5 --sweep_ema 0.05 0.1",
        f"{DRAW}5 --seeds 3-5 --no-random --name_class --subdirs",
        f"{DRAW}6 --seeds 0-1 --class all --grid_only",
        f"{DRAW}7 --seeds 0-1 --class beach harbour",
        f"{DRAW}8 --seeds 0 --rho 5 --sigma_max 50 --S_min 1 --S_max 20 --S_noise 1.01 --S_churn 9",
        needs=["edm2-baseline"],
    ),
    # ---- reconstruct_phema
    case(
        "phema",
        "reconstruct_phema.py --indir ../edm2-baseline/run/snapshots --outdir a --outstd "
        "0.05,0.07,0.10",
        "reconstruct_phema.py --indir ../edm2-baseline/run/snapshots --outdir b --outstd 0.07 "
        "--out_step 4 --batch 2 --outprefix x",
        "reconstruct_phema.py --indir ../edm2-baseline/run/snapshots --outdir c --preset smoke",
        "reconstruct_phema.py --indir ../edm2-baseline/run/snapshots --outdir a --outstd 0.07 "
        "--skip",
        needs=["edm2-baseline"],
    ),
    # ---- data commands
    case(
        "data-setup",
        "data/SetupDataset.py --data mine --source src --sizes 8 16 --also_cls_first --workers 0",
        "data/SetupDataset.py --data mine --sizes 8 --lmdb --workers 0",
        "data/SetupDataset.py --data keep --source src --sizes 8 --format keep --crop center",
        "data/InvertDirStructure.py --folder src",
        make=a_set,
    ),
    case(
        "data-mini",
        "data/SetupMiniImagenet.py --source src --sizes 8 --workers 0",
        make=mini_imagenet,
    ),
    case(
        "data-tool",
        "data/dataset_tool.py convert --source src --dest a.zip --transform center-crop "
        "--resolution 16x16 --workers 1",
        "data/dataset_tool.py convert --source src --dest b --max-images 3 --workers 1 "
        "--transform center-crop-wide --resolution 16x8",
        "data/dataset_tool.py convert --source scenes --dest c.zip --max-images 3 --transform "
        "center-crop-dhariwal --resolution 8x8 --workers 1",
        make=a_set,
    ),
    case("data-scenes", "data.synthetic --out sheet.png --count 3 --size 32 --style mixed"),
    Case(
        "help",
        tuple(
            Command((*words.split(), "--help"), silent=True)
            for words in (
                "TrainGeneratorWandB.py", "TrainSimCLR.py", "TrainISICLE.py", "train_edm2.py",
                "toy_example.py", "toy_example.py test", "toy_example.py plot",
                "generate_images.py", "generate_views.py", "reconstruct_phema.py",
                "data/SetupDataset.py", "data/SetupDataset.py fetch-weights",
                "data/SetupMiniImagenet.py", "data/InvertDirStructure.py", "data/dataset_tool.py",
                "data/dataset_tool.py convert", "data.synthetic", "benchmarks.edm2_step",
            )
        ),
    ),
    # ---- what is refused
    wrong(
        "imle",
        "TrainGeneratorWandB.py --data_tr scenes --wandb disabled --gpus cpu",
        [
            "--res 16 48", "--res 16", "--res 4 8 16", "--res 16 32 64 --ns 1 2 3", "--resid_nc 8",
            "--res 16 32 64 --sp 1 2 3", "--ipc 9 --mini_bs 2", "--in_nc 1", "--lr nan", "--bs 0",
            "--bs x", "--grayscale 0.3", "--mask_frac 1.5", "--lpips none", "--nonsense 1",
            "--run_di x", "--preset nothing", "--data_tr nowhere",
            "--unconditional --grayscale 1", "--gpus 7", "--lpips pretrained --res 16 32",
        ],
    ),
    wrong(
        "edm2",
        "train_edm2.py --preset smoke",
        [
            "--fp16 True --precision bf16", "--acid --no-selection", "--method nothing",
            "--method random --no-selection", "--acid --method random", "--ref-path a",
            "--ema_stds 0.05 0.0501", "--selection --filt 0", "--acid --early --late", "--early",
            "--selection --early", "--acid --guide-path a --ref-path b", "--selection --batch 4",
            "--acid --filt 1", "--acid --batch 96 --batch-gpu 20 --select_scope rank",
            "--acid --batch 96 --batch-gpu 4 --select_scope rank", "--score_by_sigma",
            "--selection --temperature 0.5", "--outdir a --run-dir b", "--dataset folder",
            "--dataset nothing", "--duration 3K", "--snapshot 0", "--ema_stds 0.3",
            "--preset edm2-img64-xxs", "--gpus 0 1 --batch 33",
            "--acid --guide-path nowhere.pkl", f"--acid --guide-path {WEAK} --res 16",
            f"--acid --guide-path {WEAK} --label_dim 9", f"--acid --guide-path {WEAK} "
            "--ref_channels 64", "--data scenes --label_dim 1", "--data nothing", "--res 7",
            "--precision fp16",
        ],
        needs=["edm2-baseline"],
    ),
    wrong(
        "toy",
        "toy_example.py",
        [
            "--guidance", "--no-guidance --guide-path x", "--interpol", "--early --late --acid",
            "--early", "--selection --early", "--acid --no-selection", "--acid --filt 1",
            "--selection --batch-size 4", "--dim 0", "--cls C", "--device x", "--gpus 0 1",
            "--device 1 --gpus 0", "--outdir a --run-dir b", "--temperature 0", "test", "plot",
            "plot --net nothing.safetensors", "plot --net https://somewhere/iter4096.pkl",
        ],
    ),
    wrong(
        "simclr",
        "TrainSimCLR.py --preset smoke --epochs 1 --no-probe",
        [
            "--bs 1", "--opt x", "--head v3", "--eval nothing", "--data nowhere", "--loss dclw "
            "--sigma 0", "--mm 0.9 0.9 0.9", "--lars 2", "--recipe none", "--probe_only nowhere.pt",
            "--few_shot nowhere", "--gaussian_blur 2", "--num_images 3",
            "--eval pooled --held_out 999",

        ],
    ),
    wrong(
        "isicle",
        "TrainISICLE.py --preset smoke --num_images 16 --no-probe",
        [
            "--f 0.5 --pair multi", "--views cache", "--cache c", "--views cache --cache c",
            "--joint 0", "--pair real-real", "--pair multi --loss dcl", "--k 3", "--num_synth 3",
            "--augs full --unreal_augs 0", "--joint 0 --pair real-real --augs none", "--f 2",
            "--joint 3 --refresh 2", "--pair real-real --joint 0 --domain_bn", "--net nowhere",
            "--imle |--nonsense 1|", "--imle |--lr x|", "--imle |--run-dir a|", "--imle |'|",
            "--imle |--preset nothing|", "--imle |--unconditional|", "--lpips_min 2 --lpips_max 1",
            "--imle |--res 16 48|", "--imle |--help|", "--imle |--preset smoke --res 8 12|",
        ],
    ),
    wrong(
        "images",
        "generate_images.py --gpus cpu --net",
        [
            *(f"x {w}" for w in (
                "--guidance 2", "--sweep_guidance 1 2", "--seeds 5-3", "--seeds a", "--seeds ,",
                "--seeds 0-99999999", "--sigma_min 5 --sigma_max 1", "--rho 0", "--steps 0",
                "--guidance_interval 5 1 --gnet g", "--guidance_interval 1 5", "--sweep_ema 0.1 "
                "0.1001", "--trajectory --grid_only", "--rho 1e-300", "--S_min 2 --S_max 1",
                "--no-guidance 2", "--class", "--precision int8", "--sigma 1", "--outdir o",
            )),
            *(f"{STRONG} {w}" for w in (
                "--class 30", "--class bird", "--data scenes", "--samples 3", "--precision fp16",
                "--outdir ../edm2-baseline/run --seeds 0", "--sweep_ema 0.05 0.27 --steps 2",
            )),
            f"{NET} --trajectory", f"{NET} --outdir o",
        ],
        needs=["edm2-baseline", "imle-small"],
    ),
    wrong(
        "views",
        "generate_views.py --gpus cpu",
        [
            "--data scenes", "--net x", "--net x --data d --lpips_min 2 --lpips_max 1",
            "--net x --data d --views 0", "--net x --data d --format zip", "--net x --data scenes "
            "--out o", f"--net {NET} --data nothing --out o",
            f"--net {NET} --data scenes --num_images 7 --lpips_max 1 --out o --size 16",
            f"--net {STRONG} --data scenes --out o",
        ],
        needs=["imle-small", "edm2-baseline"],
    ),
    wrong(
        "phema",
        "reconstruct_phema.py --outdir o",
        [
            "--outstd 0.07", "--indir none --outstd 0.2", "--indir x", "--indir x --outstd 0.5",
            "--indir x --outstd 0.1,...,0.2", *(
                f"--indir ../edm2-baseline/run/snapshots {w}"
                for w in ("--outstd 0.2 --out_step 99", "--outstd 0.2 --outkimg 3",
                          "--outstd 0.2 --instd 0.06", "--outstd 0.2 --inprefix nothing")
            ),
        ],
        needs=["edm2-baseline"],
    ),
    wrong(
        "data",
        "data/SetupDataset.py --data_path d",
        [
            "", "--data x --sizes a", "--data x --sizes 0 16", "--data x --sizes 999999",
            "--data ../evil", "--data train", "--data scenes", "--data cv", "--data x --workers -1",
            "--data x --crop fit", "--data x --source a --use_existing b", "--data nothing",
            "--data x --source no/such", "--data x --use_existing no/such",
        ],
    ),
    case(
        "wrong-data-others",
        "data/InvertDirStructure.py",
        "data/InvertDirStructure.py --folder nowhere",
        "data/SetupMiniImagenet.py --sha256 x",
        "data/SetupMiniImagenet.py --source nowhere",
        "data/dataset_tool.py",
        "data/dataset_tool.py convert --source nowhere --dest x",
        "data/dataset_tool.py convert --source scenes --dest x --transform center-crop",
        "data/dataset_tool.py encode --source scenes --dest x --model-url nowhere",
        "data/dataset_tool.py decode --source scenes --dest x --batch 0",
        "data/SetupDataset.py fetch-weights --nets nothing",
    ),
)  # fmt: skip
