"""What a run reads is looked for before it is submitted; what only its machines know is not."""

import argparse
from argparse import Namespace

import pytest

from recipes.experiment import inputs
from recipes.experiment.folders import jobs_of
from recipes.experiment.plan import read_experiment
from recipes.experiment.scripts import ROOT, _module, option_reader
from storage.errors import UsageError


def jobs(folder, text):
    file = folder / "e.yaml"
    file.write_text(text.replace("HERE", str(folder)))
    return jobs_of(read_experiment(file), "{{command}}", "t.sh", 1)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a file of each kind, which is worked in."""
    monkeypatch.setenv("RESULTS_HOME", str(tmp_path / "results"))
    monkeypatch.setenv("DATA_HOME", str(tmp_path / "home"))
    for name in ("photos/a", "set.zip", "w.safetensors", "own.py", "few/val/b", "list.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("option", "good", "bad"),
    [
        ("data", ["./photos", "HERE/photos/", "HERE/set.zip/val", "photo", "imagenet/val",
                  "HERE/few/val", "./photos/val", "./photos_deci", "/" + "x" * 300],
         ["./photo", "HERE/no/val"]),
        ("init_from", ["HERE/w.safetensors", "HERE/w", "./w.pkl", "w.safetensors", "run-12345678",
                       "edm2-img512-xs-2147483-0.135.pkl", "https://a/b.pkl"],
         ["HERE/v.safetensors", "~/no/such", "weights/v.safetensors", "v.pt"]),
        ("blocks", ["own.py", "HERE/own.py"], ["other.py", "HERE/other.py"]),
        ("model", ["./own.py:Net", "own.py:Net"], ["./other.py:Net"]),
        ("classifier", ["file:HERE/w.safetensors", "name"], ["HERE/no.pt", "file:HERE/no.pt"]),
        ("resume", ["auto", "3", "HERE/photos"], ["HERE/photo/checkpoints/step-000000001"]),
        ("outdir", ["HERE/no"], []),
    ],
)  # fmt: skip
def test_a_path_has_to_be_there_and_a_name_does_not(option, good, bad, here):
    def look(word, **more):
        args = Namespace(**{option: word.replace("HERE", str(here))})
        inputs.refuse_missing(args, more.get("stage", ""), more.get("elsewhere", []))

    for word in good:
        look(word)
    for word in bad:
        with pytest.raises(UsageError, match=rf"^--{option} .*: there is no such file or folder"):
            look(word)
        look(word, stage=word.replace("HERE", str(here)).removeprefix("file:"))
        look(word, elsewhere=["/", "~"])


SPOILT = {
    "edm2": ("train_edm2.py", "{preset: smoke, guide_path: HERE/no.safetensors}", "--guide_path"),
    "pretrained": ("train_omnigan.py", "{gen: {pretrained: no.safetensors}}", "gen.pretrained no"),
    "base": ("train_omnigan.py", "{data: {files: {base: HERE/no}}}", "data.files.base"),
    "list": (
        "train_omnigan.py",
        "{data: {files: {base: HERE, train: {rf: l.json, rn: none, sf: none, sn: none}, "
        "val: {rf: none, rn: none, sf: none, sn: none}}}, tasks: [d]}",
        "data.files.train.rf .*l.json",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_missing_input_is_one_line_before_anything_is_written(case, here):
    script, trainer, said = SPOILT[case]
    text = f"experiment: {{base_dir: HERE/runs, script: {script}}}\nruns: [{{trainer: {trainer}}}]"
    with pytest.raises(UsageError, match=rf"^runs\[0\] .*{said}.*: there is no such") as caught:
        jobs(here, text)
    assert "\n" not in str(caught.value) and not (here / "runs").exists()
    jobs(here, text.replace("base_dir:", "on_nodes: [HERE], base_dir:"))


def test_what_another_run_makes_and_what_is_staged_is_not_looked_for(here):
    text = """
experiment: {base_dir: HERE/runs, script: train_edm2.py --preset smoke}
runs:
- trainer: {guide_path: HERE/runs/run_001/snapshots/latest.safetensors}
- {sbatch: {stage: HERE/no}, trainer: {data: HERE/no}}
- script: train_omnigan.py
  sbatch: {stage: HERE/no}
  trainer: {data: {files: {base: HERE/no, train: {rf: l.json, rn: none, sf: none, sn: none},
            val: {rf: none, rn: none, sf: none, sn: none}}}, tasks: [d]}
"""
    assert len(jobs(here, text)) == 3


@pytest.mark.parametrize(
    ("on_nodes", "said"), [("[3]", "is no list of folders"), ("$NOBODY_SET/x", "is not set")]
)
def test_folders_of_the_nodes_are_folders(on_nodes, said, here):
    with pytest.raises(UsageError, match=f"experiment.on_nodes.* {said}"):
        jobs(here, f"experiment: {{on_nodes: {on_nodes}}}\nruns: [{{}}]")


def test_every_option_that_names_a_file_is_known_to_be_read_or_written(monkeypatch):
    """A new one belongs into one of the three lists."""
    seen: dict[str, set[str]] = {}
    real = argparse.ArgumentParser.parse_known_args

    def looking(parser, *words, **more):
        for action in parser._actions:
            seen.setdefault(action.dest, set()).add(str(action.metavar))
        return real(parser, *words, **more)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", looking)
    for file in sorted(ROOT.glob("*.py")):
        if _module(file):
            for words in ([], ["gen"], ["ref"], ["train"], ["ls"]):
                try:
                    option_reader(file.name)(words)
                except UsageError:
                    continue
    paths = {
        dest for dest, kinds in seen.items() for kind in kinds
        if any(word in kind for word in ("FILE", "DIR", "PATH"))
    }  # fmt: skip
    assert len(paths) > 30 and paths <= {*inputs.FILES, *inputs.EITHER, *inputs.NOT_READ}
    files = {dest for dest, kinds in seen.items() if kinds == {"FILE"}}
    assert files - {*inputs.NOT_READ} == {*inputs.FILES}
