"""experiment.py: what it writes and submits, and its batch script under a SLURM that is not one."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from recipes.experiment import scripts
from recipes.experiment.folders import Job, jobs_of
from recipes.experiment.options import TEMPLATE
from recipes.experiment.plan import Planned, read_experiment
from recipes.experiment.starting import run_here
from recipes.experiment.template import Filled, read_template
from storage.errors import DataDiskError, DiskError, Preempted, RunError, UsageError
from storage.yaml_files import read_yaml
from tests.effects import checkpointed
from tests.scripts.support import ROOT, get_args, load
from tests.slurm import Cluster

SHIPPED = sorted((ROOT / "experiments").glob("*.yaml"))
TWO = """
experiment:
  exp_desc: it's $(touch HACKED)
  script: toy_example.py train
  base_dir: BASE
defaults: {preset: smoke}
runs:
- sbatch: {cpu: 4, gpu: "a100:2", mem: 32, duration: "12:00:00", partition: long}
  comet: {note: "a \\"b\\" $HOME; c", tags: [no dropout, d]}
  trainer: {lr: {sample: uniform, from: [0.1, 0.2]}}
- trainer: {lr: {sample: cartesian, from: [0.5, 0.25]}}
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    cluster = Cluster(tmp_path / "slurm")
    monkeypatch.setenv("PATH", cluster.env["PATH"])
    monkeypatch.setenv("FAKE_SLURM", cluster.env["FAKE_SLURM"])
    return cluster


def experiment(folder, text=TWO, *words):
    """Launch experiment.py on a text; the folder of its runs."""
    file = folder / "e.yaml"
    file.write_text(text.replace("BASE", str(folder / "runs")))
    script = load("experiment")
    script.main(get_args(script, ["--experiment", str(file), *words]))
    return folder / "runs"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_each_run_has_its_files_and_is_submitted(tmp_path, cluster, capsys):
    runs = experiment(tmp_path)
    folders = [runs / f"run_{k:03d}" for k in (1, 2, 3)]
    assert cluster.written("submitted") == [f"{folder / 'exp.sh'}" for folder in folders]
    said = capsys.readouterr().out
    assert "submitted run_003: job 703" in said
    assert "says nothing of it: account, qos, constraint, gpu, mem, time, partition\n" in said
    files = ["config.yaml", "exp.sh", "exp_0.yaml", "hash.txt", "sampled.json"]
    assert [names(folder) for folder in folders[:2]] == [
        files,
        [n.replace("_0", "_1") for n in files],
    ]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    assert (folders[0] / "hash.txt").read_text() == head.stdout
    assert (folders[0] / "exp_0.yaml").read_bytes() == (tmp_path / "e.yaml").read_bytes()
    config = read_yaml(folders[0] / "config.yaml")
    told = json.loads((folders[0] / "sampled.json").read_text())
    assert told == {"seed": 0, "run": 0, "copy": 0, "search": 0, "sampled": {"lr": config["lr"]}}
    assert config == {"preset": "smoke", "lr": told["sampled"]["lr"]}
    assert [read_yaml(f / "config.yaml")["lr"] for f in folders[1:]] == [0.5, 0.25]

    text = (folders[0] / "exp.sh").read_text()
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    for line in (
        "# it's $(touch HACKED)", "#SBATCH --gres=gpu:a100:2", "#SBATCH --mem=32G",
        "#SBATCH --time=12:00:00", "#SBATCH --partition=long", "#SBATCH --cpus-per-task=4",
        f"#SBATCH --output={folders[0]}/slurm-%j.out", f"cd {os.getcwd()} || exit 1",
        "export OMP_NUM_THREADS=2 SRUN_CPUS_PER_TASK=4",
    ):  # fmt: skip
        assert line in text.splitlines()
    assert "--nproc-per-node=2 " in text and "--account" not in text
    assert "--gres" not in (folders[1] / "exp.sh").read_text()
    exported = text[text.index("export WANDB") :].partition("\n\n")[0]
    show = 'printf "%s|" "$WANDB_NOTES" "$WANDB_TAGS" "$WANDB_RUN_GROUP"'
    shown = ["bash", "-c", f"{exported}\n{show}"]
    said = subprocess.run(shown, cwd=tmp_path, capture_output=True, text=True).stdout
    assert said == 'it\'s $(touch HACKED)\na "b" $HOME; c|no_dropout,d|e|'
    assert not (tmp_path / "HACKED").exists()

    experiment(tmp_path, TWO, "--seed", "1")  # once more: further numbers, other draws
    assert read_yaml(runs / "run_004" / "config.yaml")["lr"] != config["lr"]
    assert len(cluster.written("submitted")) == 6


def test_dry_run_shows_all_and_writes_nothing(tmp_path, capsys):
    runs = experiment(tmp_path, TWO, "--dry-run")
    said = capsys.readouterr().out
    assert not runs.exists() and names(tmp_path) == ["e.yaml"]
    assert "run_003  toy_example.py train  0.25" in said and "#SBATCH --mem=32G" in said
    assert f"toy_example.py train --preset smoke --lr 0.25 --outdir {runs}/run_003" in said
    assert "nothing was written or submitted; 3 runs, of random seed 0" in said


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (("preset: smoke", "preset: smoke, lrr: 1"), UsageError, r"runs\[0\] \(toy.* meant? --lr"),
        (("preset: smoke", "preset: smok"), UsageError, "did you mean smoke"),
        (("preset: smoke", "outdir: x"), UsageError, "outdir x: the folder of the run is"),
        (("preset: smoke", "run_dir: x"), UsageError, "run_dir x: the folder of the run is"),
        (("train\n", "train --outdir x\n"), UsageError, "outdir x: the folder of the run is"),
        (("preset: smoke", "init_from: /no/x.pt"), UsageError, "--init_from /no/x.pt: there is no"),
        (("toy_example.py train", "toy.py"), UsageError, "none of the toolkit's"),
        (("cpu: 4", "cpus: 4"), UsageError, r"sbatch\.cpus: neither SLURM .* did you mean cpu"),
        (("cpu: 4", "cpu: 4, stage: /no"), UsageError, "nothing would read the copy"),
        (("BASE", "BASE/e.yaml"), DataDiskError, "cannot create .*e.yaml"),
        (("BASE", '"BASE x"'), UsageError, "cannot stand in a line of #SBATCH"),
    ],
)
def test_nothing_is_written_when_anything_is_wrong(change, error, said, tmp_path, cluster):
    if error is DataDiskError:
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "e.yaml").write_text("")
    with pytest.raises(error, match=said) as caught:
        experiment(tmp_path, TWO.replace(*change))
    assert "\n" not in str(caught.value) and not cluster.written("submitted")
    assert names(tmp_path) == (
        ["e.yaml", "runs", "slurm"] if error is DataDiskError else ["e.yaml", "slurm"]
    )


def test_a_full_disk_leaves_no_run(tmp_path, cluster, monkeypatch):
    monkeypatch.setenv("IMLE_LAB_FAILPOINT", "file-half:7=ENOSPC")
    with pytest.raises(DiskError, match="run_002: No space left.*nothing was submitted"):
        experiment(tmp_path)
    assert names(tmp_path / "runs") == [".lock"] and not cluster.written("submitted")


def test_a_submission_that_fails_says_what_is_left(tmp_path, cluster, monkeypatch):
    (cluster.folder / "full").write_text("")
    with pytest.raises(RunError, match="failed with 1: .* the quota; 0 of 3 were submitted"):
        experiment(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsageError, match="there is no sbatch here .* --local"):
        experiment(tmp_path)
    assert names(tmp_path / "runs") == [".lock", "run_001", "run_002", "run_003"]


def test_dev_mode_writes_and_submits_nothing(tmp_path, cluster, capsys):
    runs = experiment(tmp_path, TWO.replace("script:", "dev_mode: true\n  script:"))
    assert "nothing is submitted; one runs here by:" in capsys.readouterr().out
    assert not cluster.written("submitted")
    assert "export WANDB_MODE=disabled" in (runs / "run_001" / "exp.sh").read_text()


def test_an_array_is_one_job_whose_tasks_are_the_runs(tmp_path, cluster):
    text = TWO.replace("script:", "array: 2\n  script:")
    with pytest.raises(UsageError, match=r"runs\[1\] asks for other resources"):
        experiment(tmp_path, text)
    first, _, second = text.partition("- sbatch")
    runs = experiment(tmp_path, first + second[second.index("- trainer") :])
    array = runs / "array_001.sh"
    assert cluster.written("submitted") == [str(array)]
    assert "#SBATCH --array=0-1%2" in array.read_text()
    (runs / "run_002" / "exp.sh").write_text("echo $SLURM_ARRAY_TASK_ID > $FAKE_SLURM/task\n")
    assert cluster.start(array, SLURM_ARRAY_TASK_ID="1").wait() == 0
    assert (cluster.folder / "task").read_text() == "1\n"
    assert cluster.start(array, SLURM_ARRAY_TASK_ID="2").wait() == 1


def test_own_templates_are_filled_as_the_originals(tmp_path):
    template = tmp_path / "mine.sh"
    template.write_text(
        "#SBATCH --gres=gpu{{gpu}}\n#SBATCH --mem={{mem}}GB\n{{main_partition}}\n"
        "  . {{venv}}\npython train.py {{config}} {{no_comet}} {{exp_desc}} {{note}}  {{tags}}\n"
    )
    write_run_template = load("experiment").write_run_template
    xopts = {
        "experiment": {"exp_desc": "d only; x", "no_comet": True},
        "runs": [
            {
                "sbatch": {"gpu": ":1", "mem": 32, "partition": "long", "venv": "/a b"},
                "comet": {"note": "", "tags": ["test tag", "d"]},
                "trainer": {"output_path": "/runs/run_001"},
            }
        ],
    }
    write_run_template(xopts, 0, template, tmp_path / "exp.sh")
    assert (tmp_path / "exp.sh").read_text() == (
        "#SBATCH --gres=gpu:1\n#SBATCH --mem=32GB\n#SBATCH -p long\n  . '/a b'\n"
        "python train.py --config=/runs/run_001/config.yaml --no_comet --exp_desc 'd only; x'   "
        "--tag test_tag --tag d\n"
    )
    file = tmp_path / "e.yaml"
    script = "experiment: {script: toy_example.py}\nruns: [{sbatch: {venv: /v}}]\n"
    file.write_text(script)
    (job,) = jobs_of(read_experiment(file), "cd {{venv}}\n", "t.sh", 1)
    assert job.script.text == "cd /v\n"
    with pytest.raises(UsageError, match=r"neither SLURM nor the template has \{\{venv\}\}"):
        jobs_of(read_experiment(file), "cd {{folder}}\n", "t.sh", 1)


def test_the_template_is_the_one_that_is_named(tmp_path, cluster):
    (tmp_path / "t.sh").write_text("echo {{command}}\n")
    runs = experiment(tmp_path, TWO, "--template", str(tmp_path / "t.sh"))
    assert (runs / "run_002" / "exp.sh").read_text().startswith(f"echo {ROOT}/toy_example.py train")
    with pytest.raises(UsageError, match="--template /no/t.sh: No such file"):
        experiment(tmp_path, TWO, "--template", "/no/t.sh")
    (tmp_path / "t.sh").write_text("echo {{note}}\n")
    with pytest.raises(UsageError, match=r"t.sh: it has no {{command}}, .* would start no run"):
        experiment(tmp_path, TWO, "--template", str(tmp_path / "t.sh"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_experiment_would_run(file, tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS_HOME", str(tmp_path))
    found = read_experiment(file)
    jobs = jobs_of(found, read_template(TEMPLATE), "t.sh", 1)
    assert found.about["exp_desc"] and len(jobs) >= 2 and all(job.run.command for job in jobs)


def test_settings_of_omnigan_are_a_file_that_its_schema_has_seen(tmp_path):
    file = tmp_path / "e.yaml"
    text = """
experiment: {exp_desc: two words, base_dir: BASE, script: train_omnigan.py --preset smoke}
config: {gen: {opt: {lr: {sample: list, from: [0.25]}}}, data: {files: {base: /lists}}}
runs: [{sbatch: {stage: /lists}, comet: {note: "a\nb", tags: [c]}, trainer: {tasks: [d, s]}}]
"""
    file.write_text(text.replace("BASE", str(tmp_path)))
    (job,) = jobs_of(read_experiment(file), "{{command}}", "t.sh", 1)
    folder = tmp_path / "run_001"
    assert job.script.text == (
        f"{ROOT}/train_omnigan.py --preset smoke --config {folder}/config.yaml --outdir {folder} "
        '--set data.files.base="$STAGED"\n'
    )
    trainer = job.run.trainer
    assert trainer.pop("wandb") == {"note": "a b", "description": "two words", "tags": ["c"]}
    assert trainer == {
        "gen": {"opt": {"lr": 0.25}}, "data": {"files": {"base": "/lists"}}, "tasks": ["d", "s"],
    }  # fmt: skip
    for wrong, said in (
        ("gen: {opt: {lrr: 1}}", r"runs\[0\].*trainer: gen\.opt\.lrr is no setting; did you mean"),
        ("gen: {opt: {lr: 1e-3}}", r"gen\.opt\.lr '1e-3' is a text: .* write 0\.001"),
        (
            "gen: {d: {n_upsample: 5}}",
            r"runs\[0\].*gen\.d\.n_upsample is 5, but the encoder halves",
        ),
    ):
        file.write_text(f"config: {{{wrong}}}\nruns: [{{}}]\n")
        with pytest.raises(UsageError, match=said):
            jobs_of(read_experiment(file), "{{command}}", "t.sh", 1)


OMNIGAN = """
experiment: {exp_desc: what, base_dir: BASE, script: train_omnigan.py --preset smoke}
runs:
- wandb: {note: ours, tags: [a b]}
  trainer: {}
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("trainer: {}", "trainer: {output_path: /x}"), "output_path /x: the folder of the run"),
        (("--preset smoke", "--set output_path=x"), "output_path x: the folder of the run is"),
        (("--preset smoke", "--config x.yaml"), "--config: the settings are the experiment's"),
        (
            ("trainer: {}", "trainer: {wandb: {note: theirs}}"),
            r"wandb.note is 'ours', and trainer.wandb.note is 'theirs': give one",
        ),
        (("trainer: {}", "trainer: {comet: {tags: [c]}}"), r"trainer.comet.tags is \['c'\]: give"),
        (
            ("trainer: {}", "trainer: {wandb: {description: other}}"),
            "trainer.wandb.description 'other': of an experiment that is experiment.exp_desc",
        ),
    ],
)
def test_what_an_omnigan_run_says_twice_is_not_passed_over(change, said, tmp_path):
    file = tmp_path / "e.yaml"
    text = OMNIGAN.replace(*change).replace("BASE", str(tmp_path))
    file.write_text(text)
    with pytest.raises(UsageError, match=rf"^runs\[0\] .*{said}") as caught:
        jobs_of(read_experiment(file), "{{command}}", "t.sh", 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        ("trainer: {}", "trainer: {wandb: {note: ours, tags: [a_b]}, output_path: null}"),
        ("trainer: {}", "trainer: {wandb: {note: null, description: what}}"),
        (
            "wandb: {note: ours, tags: [a b]}\n  trainer: {}",
            "trainer: {comet: &c {note: ours, tags: [a b]}}",
        ),
        ("tags: [a b]}\n  trainer: {}", "}\n  trainer: {wandb: {tags: [a b]}}"),
    ],
)
def test_job_and_settings_tell_wandb_the_same(change, tmp_path):
    file = tmp_path / "e.yaml"
    file.write_text(OMNIGAN.replace(*change).replace("BASE", str(tmp_path)))
    (job,) = jobs_of(read_experiment(file), "{{exports}}\ntrue {{tags}} {{note}}", "t.sh", 1)
    assert job.script.text == (
        "export WANDB_NOTES='what\nours' WANDB_TAGS=a_b WANDB_RUN_GROUP=e\n"
        "true --tag a_b --note ours\n"
    )
    told = job.run.trainer.get("wandb") or job.run.trainer["comet"]
    assert told == {"note": "ours", "tags": ["a_b"], "description": "what"}


def test_there_is_an_experiment_for_every_method():
    run = {read_experiment(file).runs[0].script[0] for file in SHIPPED}
    trained = {path.name for path in ROOT.glob("[Tt]rain*.py")} | {"toy_example.py"}
    assert trained <= run


# ------------------------------------------------------------------------------------ running here


def test_local_runs_them_here(tmp_path, monkeypatch, capfd):
    program = "import sys\nprint(sys.argv[1:])\nsys.exit(int(sys.argv[4] == '0.25'))\n"
    (tmp_path / "root").mkdir()
    text = program + "from recipes.toy.options import get_args\n"  # whose options it has
    (tmp_path / "root" / "hello.py").write_text(text)
    monkeypatch.setattr(scripts, "ROOT", tmp_path / "root")
    text = TWO.replace("toy_example.py train", "hello.py").replace("0.5, 0.25", "0.25, 0.5")
    with pytest.raises(RunError, match="1 of 3 runs failed") as caught:
        experiment(tmp_path, text, "--local")
    said = capfd.readouterr().out
    assert caught.value.exit_code == 1 and "run_003 (3 of 3): hello.py" in said
    last = ["--preset", "smoke", "--lr", "0.5", "--outdir", f"{tmp_path}/runs/run_003"]
    assert str(last) in said and names(tmp_path / "runs" / "run_003")[0] == "config.yaml"


def job(folder, source):
    """A run that is a Python program; it says so in its folder."""
    folder.mkdir(parents=True)
    program = folder / "x.py"
    program.write_text(source)
    run = Planned(0, 0, 0, ("x.py",), {}, {}, {"wandb": {"tags": ["t"]}}, (str(program), "a b"))
    return Job(run, folder, Filled("", []))


def test_runs_here_are_one_after_the_other_whatever_one_comes_to(tmp_path):
    tell = "import os, sys\nopen('{}', 'a').write(sys.argv[1] + os.environ['WANDB_TAGS'])\n"
    tell = tell.format(tmp_path / "log")
    jobs = [job(tmp_path / str(k), tell + f"sys.exit({code})") for k, code in enumerate((0, 3, 0))]
    said = []
    failed = run_here(jobs, {}, said.append)
    assert [(j.folder.name, code) for j, code in failed] == [("1", 3)]
    assert (tmp_path / "log").read_text() == "a bt" * 3
    assert (
        said[2]
        == f"1 failed with 3; again by: {shlex.join([sys.executable, *jobs[1].run.command])}"
    )


def test_a_run_here_that_is_told_to_stop_ends_them_all(tmp_path):
    own = f"os.kill({os.getpid()}, signal.SIGUSR1)"  # to experiment.py; it comes back
    source = (
        "import os, signal, sys, time\nsignal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))\n"
    )
    source += f"{own}\ntime.sleep(20)"
    jobs = [job(tmp_path / "0", source), job(tmp_path / "1", "open('never', 'w')")]
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(Preempted, match="0 was told to stop, and 1 more were not begun"):
        run_here(jobs, {}, print)
    assert signal.getsignal(signal.SIGUSR1) is before


# --------------------------------------------------------------------------------- the batch script

# Stands in for torchrun: what it was given, and an end as STUB says.
STUB = """#!/bin/bash
printf '%s\\n' "$@" > "$FAKE_SLURM/args"
asked() { printf '{\\n "wants_requeue": true\\n}\\n' > "$STATUS"; exit 1; }
trap asked USR1 TERM
case $STUB in wait) touch "$FAKE_SLURM/ready"; while :; do sleep 0.02; done ;; *) exit $STUB ;; esac
"""


@pytest.fixture
def batch(tmp_path, cluster):
    """A run's batch script with the stub in it, and its folder."""
    (tmp_path / "my data").mkdir()
    (tmp_path / "my data" / "x.txt").write_text("x")
    text = f"""
experiment: {{base_dir: BASE, script: train_edm2.py}}
runs:
- sbatch: {{stage: "{tmp_path}/my data"}}
  trainer: {{preset: smoke, data: "{tmp_path}/my data"}}
"""
    script = experiment(tmp_path, text) / "run_001" / "exp.sh"
    stub = tmp_path / "stub"
    stub.write_text(STUB)
    stub.chmod(0o755)
    torchrun = " -m torch.distributed.run"
    text = script.read_text()
    script.write_text(text.replace(sys.executable + torchrun, str(stub) + torchrun))
    cluster.env |= {"STATUS": str(script.parent / "status.json"), "TMPDIR": str(tmp_path / "local")}
    return script


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_to_the_shell_reaches_the_run_and_the_job_is_requeued(number, batch, cluster):
    shell = cluster.start(batch, STUB="wait")
    until((cluster.folder / "ready").exists)
    shell.send_signal(number)
    assert shell.wait(60) == 0 and cluster.written("requeued") == ["701"]


def test_a_failure_is_no_requeue_even_after_a_start_that_was_one(batch, cluster):
    (batch.parent / "status.json").write_text('{\n "wants_requeue": true\n}\n')
    assert cluster.start(batch, STUB="3").wait(60) == 3
    assert cluster.start(batch, STUB="0").wait(60) == 0
    assert not cluster.written("requeued")


def test_without_names_of_nodes_nothing_is_started(batch, cluster):
    (cluster.folder / "lost").write_text("")
    assert cluster.start(batch, STUB="0").wait(60) == 1
    assert not (cluster.folder / "args").exists()


def test_data_are_copied_to_the_nodes_own_disk_and_read_there(batch, cluster, tmp_path):
    assert cluster.start(batch, STUB="0").wait(60) == 0
    args = (cluster.folder / "args").read_text().splitlines()
    copy = Path(args[args.index("--data") + 1])
    assert copy.parents[1] == tmp_path / "local" / f"imle-lab-{os.getuid()}"
    assert names(copy) == ["x.txt"] and names(copy.parent) == ["files.json", "my data"]
    assert "--rdzv-endpoint=127.0.0.1:10701" in args and "--rdzv-id=701-0" in args


def test_data_that_are_gone_start_nothing(batch, cluster, tmp_path):
    (tmp_path / "my data" / "x.txt").unlink()
    assert cluster.start(batch, STUB="0").wait(60) == 1
    assert not (cluster.folder / "args").exists()


@pytest.mark.slow
def test_preempted_jobs_of_an_array_end_as_one_that_was_not(tmp_path, cluster):
    text = """
experiment: {base_dir: BASE, script: toy_example.py train, repeat: 2, array: true}
runs:
- trainer: {preset: smoke, total_iter: 1500, val_every: 1500, snapshot_every: 1500,
            save_every: 700, log_every: 10}
"""
    runs = experiment(tmp_path, text)
    (array,) = cluster.written("submitted")
    folders = [runs / "run_001", runs / "run_002"]

    def steps() -> int:
        file = folders[0] / "metrics.jsonl"
        return len(file.read_text().splitlines()) if file.exists() else 0

    for restart, number in enumerate((signal.SIGUSR1, signal.SIGTERM)):
        before = steps()
        shell = cluster.start(array, 701, restart, SLURM_ARRAY_TASK_ID="0")
        until(lambda before=before: steps() > before + 2, 120)
        shell.send_signal(number)
        assert shell.wait(120) == 0 and cluster.written("requeued") == ["701"] * (restart + 1)
        assert json.loads((folders[0] / "status.json").read_text())["state"] == "preempted"
    assert cluster.start(array, 701, 2, SLURM_ARRAY_TASK_ID="0").wait(300) == 0
    assert cluster.start(array, 702, SLURM_ARRAY_TASK_ID="1").wait(300) == 0
    states = [json.loads((folder / "status.json").read_text()) for folder in folders]
    assert [(s["state"], s["step"]) for s in states] == [("finished", 1500)] * 2
    assert len(cluster.written("requeued")) == 2
    assert checkpointed(folders[0]) == checkpointed(folders[1]) != {}
    launches = [len((f / "launches.jsonl").read_text().splitlines()) for f in folders]
    assert launches == [3, 1]


@pytest.mark.slow
def test_two_nodes_are_one_run_and_are_preempted_together(tmp_path, cluster):
    text = """
experiment: {base_dir: BASE, script: train_edm2.py}
runs:
- sbatch: {nodes: 2}
  trainer: {preset: smoke, save_every: 1000, log_every: 1}
"""
    run = experiment(tmp_path, text) / "run_001"
    assert "#SBATCH --nodes=2" in (run / "exp.sh").read_text().splitlines()
    shell = cluster.start(run / "exp.sh", 703, SLURM_NNODES="2")
    until((run / "metrics.jsonl").exists, 120)
    shell.send_signal(signal.SIGUSR1)
    assert shell.wait(120) == 0 and cluster.written("requeued") == ["703"]
    assert cluster.start(run / "exp.sh", 703, 1, SLURM_NNODES="2").wait(300) == 0
    launches = [json.loads(line) for line in (run / "launches.jsonl").read_text().splitlines()]
    assert [launch["world_size"] for launch in launches] == [2, 2]
    assert launches[1]["from_step"] > 0
    assert json.loads((run / "status.json").read_text())["state"] == "finished"


def saved(run, name):
    """An object's state in the newest checkpoint of a run."""
    return torch.load(max((run / "checkpoints").glob("step-*")) / f"{name}.pt", weights_only=True)


@pytest.mark.slow
def test_omnigan_is_preempted_between_two_halves_and_ends_as_one_that_was_not(tmp_path, cluster):
    text = """
experiment: {base_dir: BASE, script: SCRIPT, repeat: 2}
config:
  data:
    transforms: [{name: resize, new_size: 8}]
    files:
      base: SHARED
      train: &few {rf: scenes:1, rn: scenes:1, sf: scenes:1, sn: scenes:1}
      val: *few
  train: {representation_steps: 8, log_level: 0}
  val: {every_n_steps: 1000, samples: 1, max_log_images: 0}
runs:
- sbatch: {stage: SHARED}
  trainer: {}
""".replace("SHARED", str(tmp_path / "lists"))
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "x").write_text("x")
    cluster.env["TMPDIR"] = str(tmp_path / "local")
    script = "train_omnigan.py --preset smoke --steps 14 --save_every 1000 --log_every 1"
    runs = experiment(tmp_path, text.replace("SCRIPT", script))
    broken, whole = runs / "run_001", runs / "run_002"

    def steps() -> int:
        file = broken / "metrics.jsonl"
        return len(file.read_text().splitlines()) if file.exists() else 0

    for restart in range(4):  # once more, where it stopped after an update's second half
        before = steps()
        shell = cluster.start(broken / "exp.sh", 701, restart)
        until(lambda before=before: steps() > before + 1, 120)
        shell.send_signal(signal.SIGUSR1)
        assert shell.wait(120) == 0 and cluster.written("requeued") == ["701"] * (restart + 1)
        assert 0 < json.loads((broken / "status.json").read_text())["step"] < 14
        if any("saved" in state for state in saved(broken, "optimizer_G")["state"].values()):
            break
    else:
        raise AssertionError("it never stopped between two halves")
    assert cluster.start(broken / "exp.sh", 701, restart + 1).wait(300) == 0
    assert cluster.start(whole / "exp.sh", 702).wait(300) == 0
    for name in ("G", "D", "C"):
        ended, undisturbed = saved(broken, name), saved(whole, name)
        assert ended.keys() == undisturbed.keys() and len(ended) > 4
        assert all(torch.equal(ended[key], undisturbed[key]) for key in ended)
    assert len(list((tmp_path / "local").glob("imle-lab-*/*/lists"))) == 1  # one copy for all
