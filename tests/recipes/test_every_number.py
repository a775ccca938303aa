"""Every option of every script that takes a whole number, at 10^9 and at the largest there is: one
line that names it, or a count of what takes time alone. And what is asked of memory beforehand."""

import argparse
import time
from types import SimpleNamespace

import pytest
import torch

from generators import ddpm as ddpm_networks
from generators import edm2 as edm2_networks
from generators import imle as imle_networks
from generators.door import make_generator
from recipes import room
from recipes.convert.options import get_args as convert
from recipes.ddpm import parts as ddpm_parts
from recipes.ddpm.options import get_args as ddpm
from recipes.edm2.options import get_args as edm2
from recipes.experiment.options import get_args as experiment
from recipes.generate.options import get_args as generate
from recipes.generate.parts import check_room
from recipes.imle.options import get_args as imle
from recipes.isicle.options import get_args as isicle
from recipes.metrics import parts as metrics_parts
from recipes.metrics.options import get_args as metrics
from recipes.omnigan import weighing
from recipes.omnigan.options import get_args as omnigan
from recipes.omnigan.options import read_settings
from recipes.omnigan.schema import SCHEMA
from recipes.phema.options import get_args as phema
from recipes.report.options import get_args as report
from recipes.runs.options import get_args as runs
from recipes.simclr import parts as simclr_parts
from recipes.simclr.options import get_args as simclr
from recipes.toy.options import get_args as toy
from recipes.views import parts as views_parts
from recipes.views.options import get_args as views
from runtime.settings import leaves
from runtime.types import metavar_of
from storage.errors import UsageError

LARGE = (10**9, 2**63 - 1)
CPU = torch.device("cpu")
# What takes time, or nothing: steps and turns, and after how many of them; seeds and numbers of
# files; how much of a data set, which has no more than it has; sides that no network has.
TIME = set(
    "--steps --total-iter --epochs --duration --outer_loops --num_iteration --ipc --imle_steps "
    "--n_ramp --warmup --probe_epochs --save_every --log_every --val_every --viz_every --eval_iter "
    "--metrics_every --snapshot_every --snapshot_epochs --adaptive_staleness --adaptive_force "
    "--refresh --joint --joint_steps --keep --seed --view_seed --first --gpus --outkimg --out_step "
    "--limit --num_images --num --attn_resolutions --attn_factors --layout_factors".split()
)
COMMANDS = [
    (toy, "train"), (toy, "test --net x"), (toy, "plot --net x"), (edm2, ""), (ddpm, ""),
    (simclr, ""), (isicle, "--preset smoke"), (imle, "--preset smoke"), (omnigan, "--preset smoke"),
    (generate, "--net x"), (views, "--net x --data y"), (phema, "--preset smoke"), (convert, "x"),
    (metrics, "ref --data x --dest y"), (metrics, "calc --images x --ref y"),
    (metrics, "gen --net x --ref y"), (metrics, "compare x y"), (runs, "ls"), (runs, "show x"),
    (runs, "compare x y"), (runs, "best --by x"), (runs, "rm x"), (report, "x"),
    (experiment, "--experiment x"),
]  # fmt: skip


class Caught(BaseException):
    """A parser that is about to parse."""


def numbers_of(read, words, monkeypatch):
    """{option: the type of its whole numbers} of a command."""
    parse = argparse.ArgumentParser.parse_known_args

    def catch(self, *args):
        if {action.dest for action in self._actions} <= {"preset"}:
            return parse(self, *args)
        raise Caught(self)

    with monkeypatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_known_args", catch)
        with pytest.raises(Caught) as caught:
            read(None, words)
    kinds = {}
    for action in caught.value.args[0]._actions:
        kind = getattr(type(action), "item", None) or action.type
        if kind is not None and action.option_strings and metavar_of(kind) == "N":
            kinds[action.option_strings[0]] = kind
    return kinds


def called(value):
    """A name for a case, the same in every process."""
    return value if isinstance(value, str) else value.__module__.split(".")[1]


@pytest.mark.parametrize("read, words", COMMANDS, ids=called)
def test_no_option_takes_a_number_that_no_machine_holds(read, words, monkeypatch, capsys):
    words, start = words.split(), time.process_time()
    for name, kind in numbers_of(read, words, monkeypatch).items():
        for number in LARGE:
            try:
                kind(str(number))
            except argparse.ArgumentTypeError as error:
                assert "out of range" in str(error)
                continue
            assert name in TIME, f"{name} {number} is taken"
            try:
                read(None, [*words, name, str(number)])
            except SystemExit as end:
                said = capsys.readouterr().err
                assert end.code == 2 and len(said.splitlines()) == 1 and name in said
    assert time.process_time() - start < 10


def test_a_command_has_numbers(monkeypatch):
    """That the test above looks at something."""
    kinds = numbers_of(edm2, [], monkeypatch)
    assert {"--seed", "--channels", "--channel_mult", "--bs", "--res"} <= kinds.keys()


def test_no_setting_of_omnigan_takes_a_number_that_no_machine_holds():
    time_alone = {"lr_step_size", "epochs", "representation_steps", "every_n_steps"}
    names = [name for name, leaf in leaves(SCHEMA) if metavar_of(leaf.kind) == "N"]
    assert "data.loaders.batch_size" in names
    for name in names:
        if name.rpartition(".")[2] in time_alone:
            continue
        for number in LARGE:
            with pytest.raises(ValueError, match=rf"{name}.*out of range"):
                read_settings(words=[f"{name}={number}"])


@pytest.fixture(autouse=True)
def eight_gigabytes(monkeypatch):
    monkeypatch.setattr(room, "room", lambda device: 8 * 10**9)


def test_batches_of_simclr():
    args = simclr(None, "--preset smoke --crop_size 64 --bs 1000000".split())
    with pytest.raises(UsageError, match=r"^2000000 rows at once.*; lower --bs 1000000, --crop"):
        simclr_parts.network(args, 1, CPU)
    simclr_parts.network(args)  # what is not trained has no batch


def test_batches_of_ddpm():
    args = ddpm(None, "--preset smoke --bs 1000000".split())
    run, images = SimpleNamespace(world_size=1, device=CPU), SimpleNamespace(resolution=64)
    with pytest.raises(UsageError, match=r"^1000000 rows at once.*; lower --bs 1000000"):
        ddpm_parts.loader(args, run, images)


@pytest.mark.parametrize("kind", [edm2_networks, ddpm_networks, imle_networks])
def test_batches_of_generate_images(kind):
    net = make_generator(kind.untrained())
    args = generate(None, "--net x --batch 16777216 --samples 10000000".split())
    check_room(args, net, 1000, 100)
    with pytest.raises(UsageError, match="rows at once.*; lower --batch 16777216"):
        check_room(args, net, 10_000_000)
    args.batch = 1
    with pytest.raises(UsageError, match="; lower --samples 10000000"):
        check_room(args, net, 10_000_000, 10_000_000)
    with pytest.raises(UsageError, match="100000000 pictures, at most"):
        check_room(args, net, 100_000_000, 1)


def test_batches_of_generate_views():
    args = views(None, "--preset smoke --view_batch 16777216".split())
    with pytest.raises(UsageError, match="; lower --view_batch 16777216"):
        views_parts.sampler(args, None, None, CPU)
    args = views(None, "--preset smoke --views 1000000".split())
    sampler, _ = views_parts.sampler(args, None, 256, CPU)
    with pytest.raises(UsageError, match="; lower --views 1000000"):
        views_parts.check_turn(args, sampler, CPU)


def test_batches_of_calculate_metrics():
    args = metrics(None, "calc --images x --ref y --batch 1000000".split())
    tools = SimpleNamespace(all=lambda: {"inception": SimpleNamespace(about={"side": 299})})
    assert metrics_parts.checked_batch(args, CPU, tools, 100) == 1000000
    with pytest.raises(UsageError, match="; lower --batch 1000000"):
        metrics_parts.checked_batch(args, CPU, tools, 50_000)
    with pytest.raises(SystemExit, match="2"):
        metrics(None, "gen --net x --ref y --num 1000000000".split())


@pytest.mark.parametrize(
    "word",
    ["gen.encoder.dim=60000", "dis.a.ndf=60000", "gen.encoder.n_downsample=16",
     "gen.d.n_res=256 gen.encoder.dim=4096", "data.loaders.batch_size=1000000"],
)  # fmt: skip
def test_settings_of_omnigan_that_no_memory_holds(word):
    start = time.process_time()
    opts = omnigan(None, ["--preset", "smoke"]).opts
    weighing.check(opts, CPU, 1)
    opts = omnigan(None, ["--preset", "smoke", "--set", *word.split()]).opts
    before = torch.get_rng_state()
    first = word.split()[0].replace("=", " ")
    with pytest.raises(UsageError, match=f"GB at least, .*; lower .*{first}"):
        weighing.check(opts, CPU, 1)
    assert torch.equal(torch.get_rng_state(), before) and time.process_time() - start < 5
