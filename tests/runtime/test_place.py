"""Where a process is, by the variables of its launcher; its meeting point and its device."""

import os
import subprocess
import time
from pathlib import Path

import pytest
import torch

from runtime import place
from storage.errors import UsageError

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in list(os.environ):
        if name in LAUNCHER or name.startswith(("SLURM_", "IMLE_LAB_")):
            monkeypatch.delenv(name)


def test_torchrun_variables():
    env = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    assert place.place(env) == (3, 8, 1, "torchrun")
    assert place.place({**env, "SLURM_PROCID": "0", "SLURM_NTASKS": "2"}).source == "torchrun"
    with pytest.raises(UsageError, match="rank 8 of 8"):
        place.place({**env, "RANK": "8"})
    with pytest.raises(UsageError, match="WORLD_SIZE='many'"):
        place.place({**env, "WORLD_SIZE": "many"})


def test_slurm_variables():
    env = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}
    assert place.place(env) == (5, 8, 1, "slurm")
    assert place.place({**env, "SLURM_STEP_NUM_TASKS": "6"}).world == 6
    assert place.place({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}) == (0, 1, 0, "one")


def test_a_batch_script_is_one_process():
    # Outside srun the batch shell has PROCID 0 of all the job's tasks, which nobody started.
    env = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0", "SLURM_TASK_PID": "77"}
    assert place.place(env) == (0, 1, 0, "one")
    assert place.place({**env, "SLURM_STEP_ID": "0"}) == (0, 8, 0, "slurm")


def test_shells_of_salloc_and_of_the_batch_script_by_their_step():
    env = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_TASK_PID": "77"}
    for step in ("4294967290", "4294967291", "batch", "interactive"):
        assert place.place({**env, "SLURM_STEP_ID": step}) == (0, 1, 0, "one")
        assert place.shell_of_several({**env, "SLURM_STEP_ID": step}) == 8
    assert place.shell_of_several({**env, "SLURM_STEP_ID": "3"}) == 0
    assert place.shell_of_several({}) == 0


def test_a_terminal_of_srun_is_one_process_where_a_shell_reads_it():
    env = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0"}
    for command, alone in ((["sh"], True), (["sh", "-s"], True), (["sh", "-c", "read x"], False)):
        shell = subprocess.Popen(command, stdin=subprocess.PIPE)
        while not Path(f"/proc/{shell.pid}/cmdline").read_text().startswith("sh"):
            time.sleep(0.001)
        of_pty = {**env, "SLURM_TASK_PID": str(shell.pid), "SLURM_PTY_PORT": "41000"}
        assert (place.place(of_pty).world == 1) == alone
        assert place.shell_of_several(of_pty) == 4 * alone
        shell.communicate(b"")
    # srun's task is the script itself, or nobody knows what it is
    for pid in (str(os.getpid()), "0", "many", ""):
        assert place.place({**env, "SLURM_TASK_PID": pid, "SLURM_PTY_PORT": "41000"}).world == 4


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu03", "gpu03"),
        ("gpu[03-05,07]", "gpu03"),
        ("gpu[7,9]", "gpu7"),
        ("gpu03,gpu04", "gpu03"),
        ("a-b[001-010]-ib,other", "a-b001-ib"),
        ("r[1-2]n[3-4].cluster.org", "r1n3.cluster.org"),
    ],
)
def test_first_host_without_scontrol(monkeypatch, nodes, host):
    monkeypatch.setattr(place.shutil, "which", lambda name: None)
    assert place.first_host(nodes) == host


@pytest.mark.parametrize("nodes", ["", "  ", "[1-2]", "gpu[1-", "gpu]", "-x"])
def test_first_host_never_guesses(monkeypatch, nodes):
    monkeypatch.setattr(place.shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match="MASTER_ADDR"):
        place.first_host(nodes)


def test_scontrol_is_asked_first_and_may_fail(tmp_path, monkeypatch):
    fake = tmp_path / "scontrol"
    fake.write_text('#!/bin/sh\n[ "$1 $2" = "show hostnames" ] && printf "real07\\nreal08\\n"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert place.first_host("alias[7-8]") == "real07"
    fake.write_text("#!/bin/sh\nexit 1\n")
    assert place.first_host("alias[7-8]") == "alias7"


def test_slurm_meeting_point(monkeypatch):
    monkeypatch.setattr(place.shutil, "which", lambda name: None)
    meet = place.slurm_meeting_point
    env = {"SLURM_JOB_NODELIST": "gpu[03-04]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "812"}
    assert meet(env) == ("gpu03", 10812)
    assert meet({**env, "SLURM_JOB_ID": "40005", "SLURM_STEP_ID": "2"}) == ("gpu03", 10007)
    assert meet({**env, "MASTER_ADDR": "h", "MASTER_PORT": "99"}) == ("h", 99)
    assert meet({**env, "SLURM_NNODES": "1"})[0] == "127.0.0.1"
    assert meet({"SLURM_JOB_NODELIST": "gpu3", "SLURM_JOB_ID": "1"})[0] == "127.0.0.1"
    for broken, said in (
        ({"SLURM_NNODES": "2", "SLURM_JOB_ID": "1"}, "MASTER_ADDR"),
        ({"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "[", "SLURM_JOB_ID": "1"}, "MASTER_ADDR"),
        ({"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "a,b"}, "MASTER_PORT"),
        ({**env, "SLURM_JOB_ID": "x"}, "SLURM_JOB_ID"),
    ):
        with pytest.raises(UsageError, match=said):
            meet(broken)


def test_choice_of_device(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert place.choose_device() == torch.device("cpu")
    assert capsys.readouterr().out == "no GPU found: running on the CPU\n"
    assert place.choose_device([]) == torch.device("cpu")
    assert capsys.readouterr().out == ""
    with pytest.raises(UsageError, match="--gpus 0: this machine has no GPU"):
        place.choose_device([0])
    monkeypatch.setenv("IMLE_LAB_CPU_RANKS", "2")
    assert place.choose_device() == torch.device("cpu")
    assert capsys.readouterr().out == ""
    with pytest.raises(UsageError, match="exclude"):
        place.choose_device([0])


def test_choice_among_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    assert place.choose_device().index == 0
    assert place.choose_device([3, 1]).index == 3
    assert place.choose_device([]).type == "cpu"
    with pytest.raises(UsageError, match="--gpus 4 9: this machine has GPUs 0 to 3"):
        place.choose_device([1, 4, 9])
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert place.choose_device([3, 1]).index == 1
    assert place.choose_device().index == 1
    with pytest.raises(UsageError, match="process 2 on this machine has no GPU"):
        place.choose_device([2])
    for name in LAUNCHER[:3]:
        monkeypatch.delenv(name)
    # A SLURM task that was bound to its GPU sees only that one, as number 0.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in (("PROCID", "5"), ("NTASKS", "8"), ("LOCALID", "1")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert place.choose_device().index == 0
