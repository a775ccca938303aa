"""An experiment's file: what goes over what, and what is wrong with it in one line."""

import pytest

from recipes.experiment.plan import read_experiment
from recipes.experiment.scripts import option_reader, words_of
from storage.errors import UsageError


def read(folder, text, **options):
    file = folder / "e.yaml"
    file.write_text(text)
    return read_experiment(file, **options)


def trainers(experiment):
    return [run.trainer for run in experiment.runs]


def test_runs_go_over_config_over_defaults(tmp_path):
    text = """
x-optimizer: &optimizer {name: adam, lr: 0.1}
experiment: {exp_desc: d, script: train_edm2.py}
defaults: {gen: {opt: *optimizer, dim: 3}, sizes: [1, 2], a: 1}
config: {gen: {opt: {lr: 0.2}, dim: 4}, sizes: [3]}
runs:
- trainer: {gen: {opt: {<<: *optimizer, lr: 0.3}}}
- {}
"""
    first, second = trainers(read(tmp_path, text))
    assert first == {"gen": {"opt": {"name": "adam", "lr": 0.3}, "dim": 4}, "sizes": [3], "a": 1}
    assert second["gen"]["opt"] == {"name": "adam", "lr": 0.2}
    (tmp_path / "base.yaml").write_text("a: 7\nb: 2\n")
    text = "experiment: {defaults: base.yaml, config: {b: 3}}\nruns: [{trainer: {c: 4}}]\n"
    assert trainers(read(tmp_path, text)) == [{"a": 7, "b": 3, "c": 4}]


def test_repeats_are_copied_before_they_are_drawn_and_searches_after(tmp_path):
    text = """
experiment: {repeat: 2, seed: 3}
runs:
- trainer: {lr: {sample: uniform, from: [0, 1]}}
- trainer: {bs: {sample: sequential, from: [8, 16, 32]}, lr: {sample: uniform, from: [0, 1]}}
"""
    runs = read(tmp_path, text).runs
    assert [(r.index, r.copy, r.search) for r in runs] == [
        (0, 0, 0), (0, 1, 0), *((1, k, s) for k in range(2) for s in range(3)),
    ]  # fmt: skip
    assert len({r.trainer["lr"] for r in runs}) == len(runs)
    assert runs[3].sampled == runs[3].trainer and runs[3].trainer["bs"] == 16
    again, other = read(tmp_path, text), read(tmp_path, text, seed=4)
    assert trainers(again) == [r.trainer for r in runs] != trainers(other)
    assert (again.about["seed"], other.about["seed"]) == (3, 4)
    fewer = read(tmp_path, text.replace("- trainer: {bs", "- n_search: 2\n  trainer: {bs"))
    assert len(fewer.runs) == 6


def test_a_sampled_value_is_overridden_whole(tmp_path):
    text = """
defaults: {lr: {sample: list, from: [1]}, gen: {lr: 2}}
config: {lr: {sample: range, from: [7, 8]}, gen: {sample: list, from: [{lr: 5}]}}
runs: [{trainer: {}}, {trainer: {lr: 9}}]
"""
    assert trainers(read(tmp_path, text)) == [
        {"lr": 7, "gen": {"lr": 5}},
        {"lr": 9, "gen": {"lr": 5}},
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is no mapping"),
        ("runs: []", "runs: a list with a run or more"),
        ("run: [{}]", r"run is no key of an experiment; did you mean runs\?"),
        ("runs: [{trainr: {}}]", r"runs\[0\]\.trainr is no key .* did you mean trainer\?"),
        ("runs: [{trainer: , gen: {}}]", r"runs\[0\]: trainer is empty and gen stands beside it"),
        ("experiment: {reapeat: 2}\nruns: [{}]", r"experiment\.reapeat .* did you mean repeat\?"),
        ("experiment: {repeat: 0}\nruns: [{}]", "experiment.repeat 0 is not a whole number >= 1"),
        ("experiment: {dev_mode: 3}\nruns: [{}]", "dev_mode 3 is not true or false"),
        ("experiment: {name: a/b}\nruns: [{}]", "experiment.name 'a/b' .* letters, digits"),
        ("experiment: {name: $(x)}\nruns: [{}]", "experiment.name .* letters, digits"),
        ("experiment: {base_dir: $NOBODY_SET/x}\nruns: [{}]", r"\$NOBODY_SET is not set"),
        ("experiment: {config: no.yaml}\nruns: [{}]", "config: there is no file no.yaml"),
        ("config: {}\nexperiment: {config: {}}\nruns: [{}]", "config and experiment.config"),
        ("runs: [{sbatch: {cpu: -1}}]", r"runs\[0\]\.sbatch\.cpu -1 is not a whole number"),
        ("runs: [{sbatch: {gpu: many}}]", "sbatch.gpu 'many' is no number of GPUs"),
        ("runs: [{sbatch: {mem: lots}}]", "sbatch.mem 'lots' is no amount of memory"),
        ("runs: [{sbatch: {time: 720}}]", "sbatch.time 720 is no time: in quotes"),
        ("runs: [{sbatch: {time: '1', duration: '1'}}]", "are the same: give one"),
        ("runs: [{sbatch: {partition: a b}}]", "sbatch.partition 'a b' is no name"),
        ("runs: [{wandb: {tags: ['a,b']}}]", "wandb.tags: 'a,b' is no tag"),
        ("runs: [{wandb: {note: [a]}}]", r"runs\[0\]\.wandb\.note \['a'\] is no text"),
        ("runs: [{wandb: {}, comet: {nte: 1}}]", "wandb.nte is no key"),
        ("runs: [{trainer: {lr: {sample: x, from: [1]}}}]", r"runs\[0\]\.trainer\.lr: sample 'x'"),
        ("runs: [\n- {", "line"),
        ("experiment: {repeat: 900}\nruns: [{}, {}]", "more than 1000 runs"),
    ],
)
def test_mistakes_are_one_line_that_names_file_and_key(text, said, tmp_path):
    with pytest.raises(UsageError, match=said) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "e.yaml")) and "\n" not in str(caught.value)


def test_options_as_one_types_them():
    trainer = {
        "preset": "smoke",
        "lr": 1e-5,
        "res": [8, 16],
        "cond": True,
        "acid": False,
        "x": None,
    }
    assert words_of(trainer | {"a": "-3", "empty": [], "n": "two words"}) == [
        "--preset", "smoke", "--lr", "1e-05", "--res", "8", "16", "--cond", "--no-acid", "--a=-3",
        "--empty", "[]", "--n", "two words",
    ]  # fmt: skip
    for bad, said in (
        ({"gen": {"lr": 1}}, "trainer.gen is a mapping"),
        ({"a": [[1]]}, r"trainer\.a is \[1\]"),
        ({"a": ["--evil"]}, "looks like an option"),
        ({"a;b": 1}, "no option's name"),
        ({"--a": 1}, "no option's name"),
        ({"help": True}, "no option of a run"),
        ({"a": "b\0"}, "zero byte"),
    ):
        with pytest.raises(UsageError, match=said):
            words_of(bad)


def test_the_scripts_own_table_is_asked():
    assert option_reader("train_edm2.py")(["--preset", "smoke", "--lr", "0.5"]).lr == 0.5
    for script, words, said in (
        (
            "train_edm2.py",
            ["--lrr", "1"],
            r"^unrecognized arguments: --lrr 1; did you mean --lr\?$",
        ),
        ("train_edm2.py", ["--bs", "0"], r"^argument --bs: 0 is out of range"),
        ("runs.py", ["compare"], "the following arguments are required"),
        ("train_edm2.py", ["--help"], "no option of a run"),
        ("train_edm.py", [], r"none of the toolkit's; did you mean train_edm2.py\?"),
        ("experiment.py", [], "none of the toolkit's"),
        ("../x.py", [], "none of the toolkit's; there are TrainGeneratorWandB.py, "),
    ):
        with pytest.raises(UsageError, match=said):
            option_reader(script)(words)
