"""What may be asked of train_omnigan.py: settings by file and by word, presets, the run's name."""

from __future__ import annotations

import argparse
import json
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.omni import MODES, is_scenes
from recipes import measuring
from recipes.command import read_options
from recipes.omnigan.schema import SCHEMA
from runtime.options import EXECUTION, LENGTH, USUAL, Rules, Table, tagged
from runtime.settings import assigned, at, checked, defaults, merge, unlike_defaults
from runtime.types import Switch, file_path, positive_int, short_name
from storage.errors import UsageError
from storage.files import with_variables
from storage.yaml_files import read_yaml, yaml_text

__all__ = ["OPTIONS", "PRESETS", "SETTINGS", "get_args"]


class Words(argparse.Action):
    """An option of words `NAME=VALUE`, kept as they are; those of a second one are added."""

    def __init__(self, option_strings: Sequence[str], dest: str, **settings: Any) -> None:
        super().__init__(option_strings, dest, nargs="+", metavar="NAME=VALUE", **settings)

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), *values])


# fmt: off
OPTIONS: Table = {
    "data": [
        ("--config", file_path, None, "a YAML file of settings, over the defaults and the "
         "preset's (default: none; configs/omnigan.yaml lists all)", EXECUTION, USUAL),
        ("--set", Words, [], "settings over those of the file: "
         "gen.opt.lr=1e-3 data.files.train.rf=rf.json", USUAL),
    ],
    "length": [
        ("--steps", positive_int, None, "steps, of a batch of each domain (default: train.epochs "
         "passes over the longest domain)", EXECUTION, LENGTH, USUAL),
    ],
    "output": [
        ("--snapshot_every", positive_int, 1000, "steps between snapshots", EXECUTION),
        ("--suffix", short_name, None, "appended to the run's name"),
        ("--summary", Switch, False, "print the layers with their parameters, train nothing",
         EXECUTION, USUAL),
    ],
    "validation": measuring.rows(),
    "what it runs on": [
        ("--channels_last", bool, False, "memory format", EXECUTION),
    ],
}
# fmt: on


def _decoders(n_res: int) -> dict[str, Any]:
    return {task: {"n_res": n_res} for task in "adhsw"}


def _resize(size: int) -> list[dict[str, Any]]:
    return [{"name": "hflip", "p": 0.5}, {"name": "resize", "new_size": size}]


# Settings of the presets, over the defaults.
SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {
        "data": {
            "files": {"train": dict.fromkeys(("rf", "rn", "sf", "sn"), "scenes:16"),
                      "val": dict.fromkeys(("rf", "rn", "sf", "sn"), "scenes:4")},
            "transforms": _resize(16),
        },
        "gen": {"encoder": {"dim": 4, "n_downsample": 2, "n_res": 1}, **_decoders(1)},
        "dis": {"a": {"ndf": 4, "n_layers": 1}, "t": {"ndf": 4, "n_layers": 1}},
        "train": {"representation_steps": 4, "log_level": 2},
        "val": {"every_n_steps": 8, "samples": 4, "max_log_images": 2},
    },
    "cpu-small": {
        "data": {"transforms": _resize(64)},
        "gen": {
            "encoder": {"dim": 16, "n_downsample": 2, "n_res": 2},
            **_decoders(1),
            "opt": {"optimizer": "Adam", "lr": 1e-3},
        },
        "dis": {"opt": {"optimizer": "Adam"}, "a": {"ndf": 16}, "t": {"ndf": 16}},
        "classifier": {"opt": {"optimizer": "Adam"}, "norm": "group"},
        "train": {"representation_steps": 250,
                  "lambdas": {"G": {"s": 1, "w": 1, "d": 4, "h": 4, "classifier": 0.1}}},
        "val": {"every_n_steps": 200, "samples": 16},
    },
}  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "_help": "embedded scenes of four domains at 16 px, CPU, seconds: both phases",
        "steps": 8, "snapshot_every": 8, "save_every": 4, "log_every": 2, "wandb": "disabled",
        "num_workers": 0, "gpus": [],
    },
    "cpu-small": {
        "_help": "64 px, scenes or one's own lists (--set data.files.train.rf=FILE ..): half an "
        "hour of two cores",
        "steps": 500, "snapshot_every": 250, "save_every": 100, "num_workers": 0, "gpus": [],
    },
}  # fmt: skip


def get_args(doc: str | None, argv: Sequence[str] | None = None) -> Namespace:
    """The options of train_omnigan.py; `args.opts` are its settings, all of them, and `args.set`
    those unlike the defaults, as words. Wrong ones exit with code 2."""
    return read_options(doc, OPTIONS, PRESETS, check, argv, save_every=500)


def check(args: Namespace) -> None:
    """Read the settings and see whether they go together. Errors: ValueError."""
    args.opts = read_settings(args.preset, args.config, args.set)
    refuse_wrong(args.opts)
    measuring.check(args, Rules(args, OPTIONS, PRESETS))
    if args.metrics_every is not None and "t" not in active(args.opts):
        raise ValueError("--metrics_every measures translations, and there is no task t")
    found = unlike_defaults(args.opts, SCHEMA, EXECUTION)
    args.set = [f"{name}={_word(value)}" for name, value in found.items()]
    if args.outdir is None and args.opts["output_path"]:
        args.outdir = args.opts["output_path"]


def read_settings(
    preset: str | None = None, file: str | None = None, words: Sequence[str] = ()
) -> dict[str, Any]:
    """All settings: the defaults, under the preset's, under a file's, under words `NAME=VALUE`.

    A section `comet` in a file is read as `wandb`. Errors: ValueError, one line.
    """
    said = checked(SETTINGS.get(preset or "", {}), SCHEMA, f"{preset}")
    if file is not None:
        path = Path(file).expanduser()
        said = merge(said, _said(_as_wandb(read_yaml(path), str(path)), str(path)))
    for word in words:
        said = merge(said, _said(assigned(word), "--set"))
    opts = _of_this_machine(merge(defaults(SCHEMA), said))
    _refuse_unasked_scenes(said, opts)
    return opts


def _of_this_machine(opts: dict[str, Any]) -> dict[str, Any]:
    """`$NAME` in the folders of settings replaced, as in original files. Errors: ValueError."""
    for name, part in (("output_path", opts), ("base", opts["data"]["files"])):
        if part[name] is None:
            continue
        try:
            part[name] = with_variables(part[name])
        except UsageError as error:
            raise ValueError(f"{name} {error}") from None
    return opts


def _said(config: Any, where: str) -> dict[str, Any]:
    """What a file or a word says. Errors: ValueError; also where a `default`, which is there for an
    anchor alone, has a key that no section beside it has."""
    found = checked(config, SCHEMA, where)
    for name, section, key in _of_defaults(found):
        if not any(key in beside for beside in section):
            raise ValueError(
                f"{where}: {name}.default.{key} is in no section beside it, and default itself is "
                "not read: name it, default: &NAME, and take it, "
                f"{'d' if name == 'gen' else 't'}: *NAME"
            )
    return found


def _of_defaults(said: Mapping[str, Any]) -> Iterator[tuple[str, list[Mapping[str, Any]], str]]:
    """(gen or dis, the sections beside its `default`, a key of that) of all such keys."""
    for name in ("gen", "dis"):
        part = said.get(name) or {}
        beside = [v for k, v in part.items() if k != "default" and isinstance(v, Mapping)]
        yield from ((name, beside, key) for key in part.get("default") or ())


def unread_defaults(opts: Mapping[str, Any]) -> list[str]:
    """What stands in a `default` and in no section beside it, as a later file or word may leave
    it: `gen.default.n_res 2`."""
    return [
        f"{name}.default.{key} {opts[name]['default'][key]!r}"
        for name, beside, key in _of_defaults(opts)
        if not any(key in s and s[key] == opts[name]["default"][key] for s in beside)
    ]


def _refuse_unasked_scenes(said: Mapping[str, Any], opts: Mapping[str, Any]) -> None:
    """Errors: ValueError where some domains have lists, and of others nothing is said: scenes are
    no pictures of the same streets, and stand in for none that is forgotten."""
    files = (said.get("data") or {}).get("files") or {}
    given = {f"{m}.{d}": w for m in MODES for d, w in (files.get(m) or {}).items()}
    lists = [name for name, word in given.items() if _is_list(word)]
    unsaid = [
        f"{mode}.{domain}" for mode in MODES for domain in opts["data"]["files"][mode]
        if f"{mode}.{domain}" not in given
    ]  # fmt: skip
    if lists and unsaid:
        raise ValueError(
            f"data.files: {lists[0]} is a list, and nothing is said of {', '.join(unsaid)}: give "
            "each a list, scenes, or none"
        )


def _is_list(word: str) -> bool:
    return word != "none" and not is_scenes(word)


def of_scenes(opts: Mapping[str, Any]) -> bool:
    """Whether training is on embedded scenes alone."""
    return not any(_is_list(word) for word in opts["data"]["files"]["train"].values())


def _as_wandb(config: Any, where: str) -> Any:
    """`comet: {note, tags}` under the name of what has its place."""
    if not isinstance(config, Mapping) or "comet" not in config:
        return config
    if "wandb" in config:
        raise ValueError(f"{where}: comet and wandb are one section here: give wandb alone")
    return {("wandb" if key == "comet" else key): value for key, value in config.items()}


def refuse_wrong(opts: Mapping[str, Any]) -> None:
    """Errors: ValueError for settings that are each right and not together."""
    tasks = active(opts)
    if len(set(opts["tasks"])) < len(opts["tasks"]):
        raise ValueError(f"tasks {opts['tasks']} names one twice")
    if not tasks:
        raise ValueError("every task is ignored: nothing is left to train")
    if opts["gen"]["encoder"]["input_dim"] != 3:
        raise ValueError("gen.encoder.input_dim: pictures have 3 channels")
    trained = domains(opts, "train")
    if not trained:
        raise ValueError("data.files.train: every domain is none")
    for task, pairs, across in (
        ("a", (("rf", "sf"), ("rn", "sn")), "real and simulated"),
        ("t", (("rf", "rn"), ("sf", "sn")), "flooded and not"),
    ):
        if task in tasks and not any(set(pair) <= set(trained) for pair in pairs):
            raise ValueError(
                f"task {task} needs domains that are {across} ({pairs[0][0]} and {pairs[0][1]}, or "
                f"{pairs[1][0]} and {pairs[1][1]}); there are {', '.join(trained)}: leave it out "
                "of tasks, or give data.files.train"
            )
    if opts["train"]["lambdas"]["G"]["t"]["wm"] and not {"h", "t", "w"} <= set(tasks):
        raise ValueError(
            "train.lambdas.G.t.wm: that a flood is where it is low needs tasks h, t, w"
        )
    if opts["dis"]["clip"] and opts["dis"]["gan"] != "wgan":
        raise ValueError(f"dis.clip is of dis.gan wgan, and it is {opts['dis']['gan']}")
    train = opts["train"]
    if train["freeze_representation"] and (
        train["representation_lr"] != 1 or train["keep_representation"] != "none"
    ):
        raise ValueError(
            "train.freeze_representation: what is frozen has no representation_lr and needs no "
            "keep_representation"
        )
    if not train["representational_training"]:
        for name in ("freeze_representation", "representation_lr", "keep_representation"):
            if train[name] != at(defaults(SCHEMA), f"train.{name}"):
                raise ValueError(
                    f"train.{name} is of the second phase: with representational_training false "
                    "there is none"
                )


def active(opts: Mapping[str, Any]) -> str:
    """The letters of the tasks whose decoders are there, sorted."""
    return "".join(sorted(t for t in set(opts["tasks"]) if not opts["gen"][t]["ignore"]))


def domains(opts: Mapping[str, Any], mode: str) -> list[str]:
    """The domains that have data in a mode."""
    return [d for d, word in opts["data"]["files"][mode].items() if word != "none"]


def _word(value: Any) -> str:
    """A value as `assigned` reads it."""
    if isinstance(value, list | dict):
        return json.dumps(value)
    return yaml_text(value).removesuffix("...\n").strip()


def execution_options() -> tuple[str, ...]:
    """Names of what does not change what a run computes."""
    return (*tagged(OPTIONS, EXECUTION), "opts")


def run_name(args: Namespace) -> str:
    """The run directory's readable part; a hash of the settings follows it."""
    dim = args.opts["gen"]["encoder"]["dim"]
    parts = ["omnigan", active(args.opts), f"d{dim}", args.suffix]
    return "-".join(part for part in parts if part)
