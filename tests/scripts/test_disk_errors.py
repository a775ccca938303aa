"""A disk that fails or fills while something other than training writes: exit 7, one line, nothing
half-written, and the same command again does the rest."""

import errno
import os

import pytest
from PIL import Image

from generators import edm2
from runtime.launch import call_main
from storage.files import is_temporary
from storage.snapshot import save_snapshot
from tests.scripts.made_runs import make_run
from tests.scripts.support import get_args, load
from tests.scripts.test_experiment import TWO, cluster  # noqa: F401  (a fixture)

WORDS = {
    "imle": "generate_images --preset smoke --num_images 1 --samples 2 --outdir OUT",
    "edm2": "generate_images --preset smoke-edm2 --seeds 0-1 --steps 2 --trajectory --outdir OUT",
    "sweep": "generate_images --preset smoke-edm2 --net IN/edm2.safetensors --guide "
    "IN/edm2.safetensors --seeds 0 --steps 2 --sweep_guidance 1 2 --outdir OUT",
    "folder": "generate_views --preset smoke --num_images 2 --views 2 --outdir OUT",
    "lmdb": "generate_views --preset smoke --num_images 2 --views 2 --format lmdb --outdir OUT",
    "memmap": "generate_views --preset smoke --num_images 2 --views 2 --format memmap --outdir OUT",
    "ref": "calculate_metrics ref --preset smoke --num 8 --dest OUT/ref.npz",
    "calc": "calculate_metrics calc --preset smoke --num 8 --bootstrap 0 --features --outdir OUT",
    "snapshot": "convert IN/edm2.safetensors --to snapshot --overwrite --out OUT/net.safetensors",
    "safetensors": "convert IN/edm2.safetensors --to safetensors --overwrite --out "
    "OUT/net.safetensors",
    "report": "report IN/results/a/run-00000001 --outdir OUT",
    "experiment": "experiment --experiment IN/e.yaml",
}
ALL = [pytest.param(n, marks=pytest.mark.slow) if n == "calc" else n for n in WORDS]


@pytest.fixture
def command(tmp_path, request, capsys, monkeypatch, cluster):  # noqa: F811
    """(launch, out): `launch()` -> (exit code, what stderr has) of one of WORDS, into `out`."""
    given, out = tmp_path / "in", tmp_path / "out"
    given.mkdir()
    monkeypatch.setenv("RESULTS_HOME", str(given / "results"))
    name = WORDS[request.param].split()[0]
    if name != "experiment":
        made = edm2.untrained()
        file = given / "edm2.safetensors"
        save_snapshot(file, made.state_dict, made.kind, made.config, made.provenance)
    make_run(given / "results", "run-00000001", script="a")
    (given / "e.yaml").write_text(TWO.replace("BASE", str(out)))
    words = WORDS[request.param].replace("IN", str(given)).replace("OUT", str(out)).split()[1:]
    script = load(name)

    def launch():
        capsys.readouterr()
        code = call_main(script.main, get_args(script, words))
        return code, capsys.readouterr().err

    return launch, out


def whole(folder):
    """That nothing in a folder is half of something."""
    for path in folder.rglob("*"):
        assert not is_temporary(path.name), path
        if path.suffix == ".png":
            Image.open(path).load()


@pytest.mark.parametrize("command", ALL, indirect=True)
def test_a_disk_that_fails_at_any_write(command, monkeypatch):
    launch, out = command
    passed = 0
    for n, error in enumerate(("EIO", "ENOSPC", "EFBIG", "EIO", "ENOSPC"), 1):
        monkeypatch.setenv("IMLE_LAB_FAILPOINT", f"any:{n * n}={error}")
        code, said = launch()
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        assert code in (0, 7) and "Traceback" not in said, said
        assert len(lines) == (code == 7), said
        if out.exists():
            whole(out)
        if code == 0:
            break
        passed += 1
    assert passed  # at least once the disk was asked
    monkeypatch.setenv("IMLE_LAB_FAILPOINT", "")
    assert launch()[0] == 0
    whole(out)


@pytest.mark.parametrize("command", ALL, indirect=True)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["no inodes", "EIO"])
def test_a_folder_that_the_disk_does_not_make(command, number, monkeypatch):
    launch, out = command
    make = os.mkdir

    def mkdir(path, *args, **named):
        if str(path).startswith(str(out)):
            raise OSError(number, os.strerror(number), str(path))
        return make(path, *args, **named)

    monkeypatch.setattr(os, "mkdir", mkdir)
    code, said = launch()
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert code == 7 and len(errors) == 1 and "Traceback" not in said, (code, said)
    assert not out.exists()


@pytest.mark.parametrize("command", ["imle", "folder", "lmdb"], indirect=True)
def test_what_killed_launches_left_is_swept(command):
    launch, out = command
    assert launch()[0] == 0
    folders = [path for path in (out, *out.rglob("*")) if path.is_dir()]
    left = [folder / ".tmp-0_x.png-0123abcd" for folder in folders]
    for file in left:
        file.write_bytes(b"half")
        # torchvision's ImageFolder, which views are promised to be, goes by this
        assert file.suffix not in (".png", ".jpg")
    for picture in list(out.glob("*.png"))[:1]:
        picture.unlink()  # else there is nothing to do
    assert launch()[0] == 0
    assert not any(file.exists() for file in left)
    whole(out)
