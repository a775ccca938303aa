"""Every option of TrainGeneratorWandB.py does what its help says, and nothing else.

Two steps of a tiny network, once as `BASES` say and once with the option: which aspects of the run
(tests/effects.py) differ is the table. What no run's folder tells has a test of its own below.
"""

import pytest
import torch

from imle import ResolutionLoss
from imle.search import CodeSearch
from recipes.imle import parts
from recipes.imle.options import PRESETS, get_args, idle
from runtime.run import Run
from tests.effects import check_changed, launch, pictures, seen
from tests.scripts.support import load, metrics, thin_loss

SCRIPT = load("TrainGeneratorWandB")
TINY = """--preset smoke --bs 2 --code_bs 4 --map_nc 4 --latent_nc 8 --subsample_size 3
--num_iteration 2 --outer_loops 1 --warmup 2 --num_val_images 2 --samples 2 --log_every 1
--flip 0"""
# No preset's:
PLAIN = """--base none --consistency none --padding zeros --norm instance --cells 0
--no-cache_targets"""
CASCADE = f"{TINY} {PLAIN} --res 8 16 --resid_nc 4 --dense_nc 4 --ns 4"
LEVELS = f"{CASCADE} --res 8 16 32 --resid_nc 4 4 --dense_nc 4 4"
LOOPS = f"{LEVELS} --outer_loops 2"
AGAIN = f"{CASCADE} --data FOLDER --subsample_size 11 --num_iteration 2 --outer_loops 5 --lr 0.01"
UNCOND = f"{TINY} --unconditional --lpips none --res 8 --pool_size 16"
BASES = {
    "cascade": CASCADE,
    "lab": f"{CASCADE} --color_space lab",
    "mask": f"{CASCADE} --res 16 16 --mask_frac 0.5",
    "cells": f"{CASCADE} --cells 4",
    "learned": f"{LOOPS} --base learned --base_nc 6 --base_blocks 1 --base_loops 0",
    "based": f"{LOOPS} --base learned --base_nc 6 --base_blocks 1 --base_loops 1 --base_bs 2",
    "muon": f"{LOOPS} --base learned --base_nc 6 --base_blocks 1 --base_loops 1 --base_bs 2 "
    "--base_opt muon",
    "mixture": f"{CASCADE} --sample_method mixture",
    "loops": f"{CASCADE} --num_iteration 1 --outer_loops 2",
    "saves": f"{CASCADE} --save_every 1",
    "folder": f"{CASCADE} --data FOLDER",
    "levels": LEVELS,
    "rejects": f"{LOOPS} --rejection q0.9 --rejection_empty keep",
    "empties": f"{CASCADE} --ns 2 --num_iteration 2 --outer_loops 4 --rejection q0.9 --lr 1e-4",
    "again": AGAIN,
    "adapts": f"{AGAIN} --adaptive --adaptive_gamma 0.01 --adaptive_staleness 1",
    "uncond": UNCOND,
    "uncond16": f"{UNCOND} --res 16",
}
# What changes with the initial network, with its size, with the codes or the pictures trained on,
# and with the update alone.
UPDATE = "later net weights val pictures"
TRAINING = f"first {UPDATE}"
START = f"start {TRAINING}"
NETWORK = f"config {START}"
SIZE = f"shapes {NETWORK}"
EFFECTS = [
    # data
    ("cascade", "--data FOLDER", f"name files {START}"),
    ("folder", "--data NAMED --data_path HOME", "name"),  # the same pictures
    ("cascade", "--data_val cv", f"{START}"),
    ("folder", "--data_val OTHER", f"{START}"),
    ("folder", "--cv_frac 0.5", f"{START}"),
    ("folder", "--crop center", f"config {START}"),
    ("cascade", "--res 16 16", f"name {SIZE}"),
    ("cascade", "--flip 1", TRAINING),
    # what to train
    ("cascade", "--grayscale 1", NETWORK),
    ("cascade", "--grayscale 0.5", NETWORK),
    ("cascade", "--mask_frac 0.5", NETWORK),
    ("mask", "--mask_res 2", NETWORK),
    ("mask", "--fill color", NETWORK),
    ("uncond16", "--lpips random", f"{TRAINING}"),
    # length
    ("cascade", "--outer_loops 2", f"files steps rates {UPDATE}"),
    ("cascade", "--num_iteration 1", "files steps later net weights val pictures rates"),
    ("cascade", "--subsample_size 2", TRAINING),
    ("cascade", "--bs 3", TRAINING),
    ("cascade", "--lr 1e-3", f"rates {UPDATE}"),
    ("loops", "--chunk_epochs 1", "steps files later net weights val pictures rates"),
    # validation
    ("cascade", "--num_val_images 1", "start val pictures"),
    ("cascade", "--samples 3", "start val pictures"),
    # output
    ("cascade", "--snapshot_every 1", "files"),
    ("cascade", "--suffix x", "name"),
    ("cascade", "--job_id 8", "name"),
    ("cascade", "--uid u", "name files"),
    ("cascade", "--log_every 2", "first later rates"),
    ("cascade", "--save_every 1", ""),
    ("saves", "--keep 0", "files"),
    # search for codes
    ("cascade", "--ns 64", TRAINING),
    ("cascade", "--sample_method mixture", NETWORK),
    ("mixture", "--num_components 2", NETWORK),
    ("cells", "--cells 2", TRAINING),
    ("cells", "--cells 0", TRAINING),
    ("cells", "--local_ns 9", TRAINING),
    ("cascade", "--proj_dim 6", TRAINING),
    ("uncond", "--pool_size 4", f"{START}"),
    ("loops", "--rejection q0.5", TRAINING),
    ("loops", "--rejection 0", ""),
    ("rejects", "--rejection_levels all", UPDATE),
    ("empties", "--rejection_empty keep", UPDATE),
    ("again", "--adaptive", TRAINING),
    ("adapts", "--adaptive_gamma 0.2", UPDATE),
    ("adapts", "--adaptive_staleness 3", UPDATE),
    ("adapts", "--adaptive_force 1", UPDATE),
    ("adapts", "--adaptive_compat", UPDATE),
    # network
    ("cascade", "--code_nc 2", SIZE),
    ("cascade", "--map_nc 2", SIZE),
    ("cascade", "--latent_nc 4", SIZE),
    ("cascade", "--resid_nc 6", SIZE),
    ("cascade", "--dense_nc 6", SIZE),
    ("cascade", "--n_blocks 2", SIZE),
    ("uncond", "--max_nc 8", SIZE),
    ("cascade", "--init_type normal", NETWORK),
    ("cascade", "--init_scale 1", NETWORK),
    ("cascade", "--init reference", NETWORK),
    ("cascade", "--mapping_init reference", NETWORK),
    ("levels", "--mapping hierarchical", SIZE),
    ("cascade", "--code_gain 1", NETWORK),
    ("cascade", "--base input", NETWORK),
    ("cascade", "--base learned", SIZE),
    ("learned", "--base_nc 4", SIZE),
    ("learned", "--base_blocks 2", SIZE),
    ("learned", "--base_context 1", SIZE),
    ("learned", "--base_loops 1", f"files rates steps {TRAINING}"),
    ("based", "--base_bs 4", TRAINING),
    ("based", "--base_lpips_loops 1", f"files rates steps {UPDATE}"),
    ("based", "--freeze_base", UPDATE),
    ("cascade", "--consistency project", NETWORK),
    ("cascade", "--padding reflect", NETWORK),
    ("cascade", "--padding replicate", NETWORK),
    ("cascade", "--norm none", NETWORK),
    ("cascade", "--color_space lab", NETWORK),
    ("lab", "--lab_range reference", NETWORK),
    # loss and optimizer
    ("cascade", "--alpha 3", START),
    ("cascade", "--lpips_weighting reference", START),
    ("cascade", "--lr_schedule constant", "rates net weights val pictures"),
    ("cascade", "--lr_schedule reference", f"rates {UPDATE}"),
    ("cascade", "--warmup 0", f"rates {UPDATE}"),
    ("cascade", "--mapping_lr_mult 1", UPDATE),
    ("cascade", "--weight_decay 10", UPDATE),
    ("based", "--base_opt muon", UPDATE),
    ("muon", "--muon_lr 0.1", UPDATE),
    ("cascade", "--grad_clip 0.01", UPDATE),
    ("cascade", "--ema_std 0", "weights val"),
    # of every run
    ("cascade", "--seed 1", START),
    ("cascade", "--precision bf16", TRAINING),
    # no effect, accepted for old command lines
    ("cascade", "--epochs 3", ""),
    ("cascade", "--ipc 16", ""),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(base, more words) -> what the run left behind; bases are run once."""
    home = tmp_path_factory.mktemp("options")
    pictures(home / "pictures" / "a", 12)  # not square, no split
    pictures(home / "home" / "named" / "a", 12)
    pictures(home / "others" / "a", 12, first=99)
    places = {
        "FOLDER": home / "pictures",
        "OTHER": home / "others",
        "NAMED": "named",
        "HOME": home / "home",
    }
    known = {}

    def run(base, words=""):
        if (base, words) not in known:
            typed = [str(places.get(w, w)) for w in f"{BASES[base]} {words}".split()]
            folder = home / f"run{len(known)}"
            found = launch(SCRIPT.main, lambda w: get_args(None, w), folder, *typed)
            known[base, words] = seen(found)
        return known[base, words]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "perceptual_loss", thin_loss)
        yield run


def test_the_same_command_twice_is_the_same_run(run):
    check_changed(run("cascade"), run("cascade", "--preset smoke"), "")


@pytest.mark.parametrize(("base", "words", "aspects"), EFFECTS)
def test_an_option_changes_what_it_should(base, words, aspects, run):
    check_changed(run(base), run(base, words), aspects)


def launched(tmp_path, words):
    return launch(SCRIPT.main, lambda w: get_args(None, w), tmp_path, *words.split())


def test_candidates_scored_in_fp32(run, tmp_path, monkeypatch):
    """--search_precision, --rescore: all of them, or in bf16 the best few again."""
    counts, argmin = [], CodeSearch._argmin

    def counted(self, state, target, level, chunks, *more):
        chunks = list(chunks)
        counts.append(sum(ids.shape[-1] for ids in chunks))
        return argmin(self, state, target, level, chunks, *more)

    monkeypatch.setattr(CodeSearch, "_argmin", counted)
    for i, words in enumerate(("fp32", "bf16", "bf16 --rescore 2")):
        counts.clear()
        launched(tmp_path / str(i), f"{CASCADE} --ns 9 --search_precision {words}")
        assert set(counts) == {(9, 4, 2)[i]}


def test_chunks_of_a_search(run, tmp_path, monkeypatch):
    """--code_bs images and --sp candidates at a time: 3 images, 4 candidates."""
    totals = []

    def phase(self, name, together=True):
        return lambda done, total: totals.append(total) if name == "codes" else None

    monkeypatch.setattr(Run, "phase", phase)
    for i, (words, chunks) in enumerate(
        (("--code_bs 4 --sp 4", 1), ("--code_bs 1 --sp 4", 3), ("--code_bs 4 --sp 1", 4))
    ):
        totals.clear()
        launched(tmp_path / str(i), f"{CASCADE} {words}")
        assert totals == [chunks] * chunks


def test_targets_are_prepared_once_a_loop(run, tmp_path, monkeypatch):
    """--cache_targets: 3 pictures in 2 batches of 4, prepared one by one, and losses as without."""
    sizes, prepare = [], ResolutionLoss.prepare
    monkeypatch.setattr(
        ResolutionLoss, "prepare", lambda self, y, **k: sizes.append(len(y)) or prepare(self, y)
    )
    words = f"{CASCADE} --subsample_size 3 --bs 4 --bs_gpu 2 --num_iteration 2"
    losses, singly = [], []
    for name, more in (("plain", ""), ("kept", "--cache_targets")):
        sizes.clear()
        folder = launched(tmp_path / name, f"{words} {more}")
        losses.append(list(metrics(folder, "batch loss").values()))
        singly.append(sizes.count(1))  # validation has some too
    assert singly[1] - singly[0] == 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and len(losses[0]) == 2


def test_a_gpu_takes_so_many_images_at_once(run, tmp_path, monkeypatch):
    sizes, backward = [], Run.backward
    monkeypatch.setattr(
        Run, "backward", lambda self, *a, **k: sizes.append(len(a[1])) or backward(self, *a, **k)
    )
    launched(tmp_path, f"{UNCOND} --bs 5 --bs_gpu 2 --num_iteration 1")
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_a_cache_decodes_a_picture_once(cache, monkeypatch):
    args = get_args(None, f"{CASCADE} --cache {cache}".split())
    trained, _, _ = parts.pictures(args, *parts.sources(args))
    read, native = [], type(trained.source).native

    def counted(self, i, *more):
        read.append(i)
        return native(self, i, *more)

    monkeypatch.setattr(type(trained.source), "native", counted)
    first = trained[3]
    once = len(read)
    assert torch.equal(first[0], trained[3][0])
    assert len(read) == {"none": 2 * once, "memory": once}[cache]


def test_channels_last_is_the_layout_of_the_weights():
    for words, last in (("", True), ("--channels_last False", False)):
        net = parts.network(get_args(None, f"{CASCADE} {words}".split()), torch.device("cpu"))
        convs = [w for w in net.parameters() if w.ndim == 4 and min(w.shape[1:]) > 1]
        assert {w.is_contiguous(memory_format=torch.channels_last) for w in convs} == {last}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--unconditional --grayscale 1", "--unconditional and --grayscale 1 exclude each other"),
        ("--unconditional --mask_frac 0.5", "--unconditional and --mask_frac 0.5 exclude"),
        ("--unconditional --mask_res 4", "--unconditional and --mask_res 4 exclude"),
        ("--unconditional --fill color", "--unconditional and --fill color exclude"),
        ("--preset camnet-color --unconditional", "--unconditional and --grayscale 1 exclude"),
        ("--unconditional --color_space lab", "--color_space lab is of a generator with an input"),
        ("--unconditional --init reference", "--init reference is of a generator with an input"),
        ("--unconditional --init_type normal", "--init_type normal is of"),
        ("--unconditional --init_scale 1", "--init_scale 1 is of"),
        ("--unconditional --mapping_init reference", "--mapping_init reference is of"),
        ("--unconditional --search_precision bf16", "--search_precision bf16 is of"),
        ("--unconditional --rescore 2", "--rescore 2 is of"),
        ("--unconditional --cells 4", "--cells 4 is of"),
        ("--local_ns 4", "--local_ns 4 is of --cells"),
        ("--cells 0 --local_ns 4", "--local_ns 4 is of --cells"),
        ("--base input --base_loops 1", "--base_loops 1 is of --base learned"),
        ("--base input --base_lpips_loops 1", "--base_lpips_loops 1 is of --base learned"),
        ("--base learned --base_loops 0 --base_bs 4", "--base_bs 4 is of --base_loops"),
        ("--base learned --base_loops 0 --base_opt muon", "--base_opt muon is of --base_loops or"),
        ("--base input --base_opt muon", "--base_opt muon is of --base_loops or"),
        ("--base learned --base_loops 1 --muon_lr 0.1", "--muon_lr 0.1 is of --base_opt muon and"),
        ("--preset cpu-small --base input --muon_lr 0.1", "--muon_lr 0.1 is of --base_opt muon"),
        (
            "--preset cpu-small --base_loops 0 --base_lpips_loops 0 --muon_lr 0.1",
            "--muon_lr 0.1 is of --base_opt muon and loops",
        ),
        ("--preset cpu-small --base input --base_opt muon", "--base_opt muon is of --base_loops"),
        ("--preset cpu-small-color --base input --base_bs 64", "--base_bs 64 is of --base_loops"),
        ("--unconditional --muon_lr 0.1", "--muon_lr 0.1 is of a generator with an input"),
        (
            "--preset cpu-small --muon_lr 1e300 --lr 1e-10",
            "--muon_lr 1e+300 and --lr 1e-10 are too far apart",
        ),
        (
            "--base learned --freeze_base",
            "--freeze_base is of --base_loops, --base_lpips_loops or",
        ),
        ("--base learned --base_context 9", "--base_context 9 halves inputs of"),
        (
            "--preset cpu-small-color --res 20 20 40",
            "--base_context 3 halves inputs of 20 pixels 3 times, which has to come out even, with "
            "2 or more left: give another one, or other --res",
        ),
        ("--base input --base_nc 4", "--base_nc 4 is of --base learned"),
        (
            "--adaptive --adaptive_staleness 8 --adaptive_force 4",
            "--adaptive_staleness 8 exceeds --adaptive_force 4: it is to be at most that",
        ),
        ("--cells 4 4", "--cells has 2 values, --res 4 levels: 1 or that"),
        ("--cells 4 --proj_dim 9", "--proj_dim 9: projected features are of whole pictures"),
        ("--pool_size 9", "--pool_size 9 is of --unconditional"),
        ("--max_nc 9", "--max_nc 9 is of --unconditional"),
        ("--mask_res 4", "--mask_res 4 is of --mask_frac"),
        ("--fill color", "--fill color is of --mask_frac"),
        ("--init reference --init_type normal", "--init_type normal is of --init default"),
        ("--init reference --init_scale 1", "--init_scale 1 is of --init default"),
        ("--unconditional --base input", "--base input is of a generator with an input"),
        ("--unconditional --consistency project", "--consistency project is of"),
        ("--unconditional --padding reflect", "--padding reflect is of"),
        ("--unconditional --norm none", "--norm none is of"),
        ("--unconditional --code_gain 1", "--code_gain 1 is of"),
        ("--init reference --mapping_init reference --code_gain 1", "--code_gain 1 is of --init"),
        ("--init reference --base input", "--base input and --init reference exclude each other"),
        ("--base input --color_space lab --lab_range reference", "--base input needs --lab_range"),
        ("--lab_range reference", "--lab_range reference is of --color_space lab"),
        ("--num_components 3", "--num_components 3 is of --sample_method mixture"),
        ("--search_precision fp32 --rescore 2", "--rescore 2 is of a search in bf16"),
        ("--unconditional --lpips none --alpha 3", "--alpha 3 is of LPIPS"),
        ("--unconditional --lpips none --lpips_weighting reference", "reference is of LPIPS"),
        ("--unconditional --lpips none --cache_targets", "--cache_targets is of LPIPS"),
        ("--lpips random --lpips_path x", "--lpips_path x is of --lpips pretrained"),
        ("--proj_dim 4", "--proj_dim 4: 0, or at least one for each of 5 layers"),
        ("--in_nc 1", "images have 3 channels"),
        ("--out_nc 1", "images have 3 channels"),
        ("--act_type relu", "--act_type: invalid choice: 'relu'"),
        ("--ipc 9 --bs_gpu 2", "--ipc 9 is not a multiple"),
    ],
)
def test_what_has_no_effect_is_refused(words, says, capsys):
    with pytest.raises(SystemExit, match="2"):
        get_args(None, ["--data", "scenes", *words.split()])
    assert says in capsys.readouterr().err


def test_cells_of_a_preset_give_way_to_a_search_that_has_none():
    """What a preset sets is no contradiction to what is typed after it."""
    assert any("cells" in preset for preset in PRESETS.values())
    for words in ("--proj_dim 10", "--unconditional --lpips none --res 8", "--cells 0"):
        assert get_args(None, ["--preset", "smoke", *words.split()]).cells is None
    assert get_args(None, ["--preset", "smoke"]).cells == [4, 4]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--unconditional --base input", "--base input is of a generator with an input"),
        ("--unconditional --consistency project", "--consistency project is of"),
        ("--unconditional --cells 4", "--cells 4 is of"),
        ("--init reference --base input", "--base input and --init reference exclude each other"),
        ("--proj_dim 10 --cells 4", "--proj_dim 10: projected features are of whole pictures"),
    ],
)
def test_a_word_that_a_preset_has_too_is_typed_all_the_same(words, says, capsys):
    with pytest.raises(SystemExit, match="2"):
        get_args(None, ["--preset", "smoke", *words.split()])
    assert says in capsys.readouterr().err


def test_mapping_nets_of_the_reference_are_drawn_by_init_type_and_scale():
    """Whatever --init: it is about convolutions alone."""
    words = "--data scenes --init reference --mapping_init reference --init_scale 1"
    for more in ((), ("--init_type", "normal")):
        assert get_args(None, [*words.split(), *more]).init_scale == 1


def test_code_bs_is_of_each_gpu():
    """The search gives every rank a share of its images, and reads it --code_bs at a time."""
    words = "--data scenes --bs 8 --gpus 0 1 2 3 --code_bs 1"
    assert get_args(None, words.split()).code_bs == 1


def test_sizes_that_have_no_effect_are_named():
    """Command lines carry them along from a run with an input: they are no contradiction."""
    words = "--preset smoke --unconditional --ns 4 --resid_nc 6 --lr_schedule reference --warmup 3"
    assert idle(get_args(None, words.split())) == (
        "of no effect here: --ns 4, --resid_nc 6, --warmup 3"
    )
    assert idle(get_args(None, "--preset smoke --unconditional".split())) is None
    assert idle(get_args(None, CASCADE.split())) is None
