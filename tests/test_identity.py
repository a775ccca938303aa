"""What tests/identity.py compares: it must see a planted difference and nothing else."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests import identity
from tests.identity_cases import CASES, Case, command


def written(folder: Path) -> Path:
    """A folder as a run leaves it."""
    folder.mkdir()
    weights = {"w": torch.arange(6.0), "b": torch.zeros(2, dtype=torch.int64)}
    about = {"config": json.dumps({"net": {"res": 8}}), "provenance": json.dumps({"time": 1.5})}
    save_file(weights, folder / "net.safetensors", {**about, "kind": "x"})
    state = {"step": 3, "moments": [torch.ones(3), (torch.zeros(1), "a")], "nan": float("nan")}
    torch.save(state, folder / "optimizer.pt")
    rows = [{"step": k, "Loss": 0.1 * k, "time": 5.0, "time/step_s": 0.2} for k in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "args.json").write_text(json.dumps({"lr": 0.1, "git": {"commit": "a"}, "host": "h"}))
    (folder / "log.txt").write_text(f"wrote {folder}/net in 1.25 s\nloss 0.5\n")
    Image.new("RGB", (2, 2), (1, 2, 3)).save(folder / "p.png")
    return folder


def record(folder: Path) -> identity.Record:
    found: identity.Record = {}
    for file in sorted(folder.iterdir()):
        lines = identity.file_record(file, {str(folder): "WORK"})
        found |= {f"{file.name}: there": "yes"} | {f"{file.name}: {k}": lines[k] for k in lines}
    return found


def in_json(name: str, change):
    def plant(folder: Path) -> None:
        lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        change(lines[0])
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))

    return plant


def in_weights(change):
    def plant(folder: Path) -> None:
        weights = {"w": torch.arange(6.0), "b": torch.zeros(2, dtype=torch.int64)}
        about = {"config": json.dumps({"net": {"res": 8}}), "provenance": json.dumps({"time": 1.5})}
        about["kind"] = "x"
        change(weights, about)
        save_file(weights, folder / "net.safetensors", about)

    return plant


def in_state(folder: Path) -> None:
    state = torch.load(folder / "optimizer.pt", weights_only=True)
    state["moments"][1][0][0] = -0.0
    torch.save(state, folder / "optimizer.pt")


SEEN = {
    "a bit of a weight": in_weights(lambda w, a: w["w"].__setitem__(3, 3.0000002)),
    "a weight's type": in_weights(lambda w, a: w.__setitem__("b", w["b"].int())),
    "a weight's name": in_weights(lambda w, a: w.__setitem__("c", w.pop("b"))),
    "a constructor argument": in_weights(lambda w, a: a.__setitem__("config", '{"net": {}}')),
    "a kind": in_weights(lambda w, a: a.__setitem__("kind", "y")),
    "the sign of a zero in the optimizer": in_state,
    "a metric": in_json("metrics.jsonl", lambda row: row.__setitem__("Loss", 0.1000001)),
    "a metric's name": in_json("metrics.jsonl", lambda row: row.__setitem__("L", row.pop("Loss"))),
    "a new metric": in_json("metrics.jsonl", lambda row: row.__setitem__("new", 1)),
    "an option": in_json("args.json", lambda row: row.__setitem__("lr", 0.2)),
    "a pixel": lambda f: Image.new("RGB", (2, 2), (1, 2, 4)).save(f / "p.png"),
    "a word of the log": lambda f: (f / "log.txt").write_text("loss 0.6\n"),
    "a file more": lambda f: (f / "more").write_text(""),
    "a file less": lambda f: (f / "p.png").unlink(),
}
PASSED_OVER = {
    "times": in_json("metrics.jsonl", lambda row: row.update({"time": 6.0, "time/step_s": 9})),
    "commit and host": in_json("args.json", lambda row: row.update(git={}, host="other")),
    "a snapshot's time": in_weights(lambda w, a: a.__setitem__("provenance", '{"time": 2.5}')),
    "a path and a time": lambda f: (f / "log.txt").write_text(f"wrote {f}/net in 73 s\nloss 0.5\n"),
}


@pytest.mark.parametrize("name", SEEN)
def test_a_planted_difference_is_seen(name, tmp_path):
    old, new = written(tmp_path / "old"), written(tmp_path / "new")
    assert identity.differences(record(old), record(new)) == []
    SEEN[name](new)
    assert identity.differences(record(old), record(new))


@pytest.mark.parametrize("name", PASSED_OVER)
def test_what_two_runs_of_one_tree_differ_in_is_passed_over(name, tmp_path):
    old, new = written(tmp_path / "old"), written(tmp_path / "new")
    PASSED_OVER[name](new)
    assert identity.differences(record(old), record(new)) == []


PROGRAM = """
import os, sys
from pathlib import Path
import part
Path("out.txt").write_text(part.WORD)
print("rank", os.environ.get("RANK"), __file__)
sys.exit(part.CODE)
"""


def test_whole_cases_of_two_trees(tmp_path):
    """Each tree runs its own modules; output, files and exit codes are compared."""
    records = []
    for name, part in (("a", "WORD, CODE = 'x', 0"), ("b", "WORD, CODE = 'y', 3")):
        tree = tmp_path / name
        tree.mkdir()
        (tree / "program.py").write_text(PROGRAM)
        (tree / "part.py").write_text(part)
        server = identity.Server(tree, preload=())
        try:
            case = Case("one", (command("program.py"), command("program.py", ranks=2)))
            work = tmp_path / f"work-{name}"
            records.append(identity.run_case(server, case, work))
            again = identity.run_case(server, case, work)
        finally:
            server.close()
        assert identity.differences(records[-1], again) == []
    found = "\n".join(identity.differences(*records))
    assert "was [0]" in found and "is  [3, 3]" in found and "out.txt" in found
    assert "stdout" not in found  # the trees' folders are not told apart
    assert not any(str(tmp_path) in value for value in records[0].values())


def test_the_cases_need_only_what_comes_before_them():
    names = [c.name for c in CASES]
    assert len(set(names)) == len(names)
    for number, case in enumerate(CASES):
        assert set(case.needs) <= set(names[:number]), case.name
    scripts = {c.words[0] for case in CASES for c in case.commands}
    assert all((identity.ROOT / s).exists() for s in scripts if s.endswith(".py"))
    assert sys.modules["tests.identity_cases"].command("a |b c| d").words == ("a", "b c", "d")


def test_other_words_are_told_from_other_results():
    name = "x: stdout 0[2]\n      was a; head seed 512\n      is  a; head original 512"
    assert identity.meant("simclr-smoke", name)
    assert not identity.meant("simclr-smoke", name.replace("original 512", "original 256"))
    words = (
        "5: T.py --a: stderr 0[0]\n      was T.py: error: b (see)\n      is  T.py: error: c (see)"
    )
    assert identity.meant("wrong-x", words)
    assert not identity.meant("imle-smoke", words)
    assert not identity.meant("wrong-x", words.replace("is  T.py: error: c", "is  Traceback"))
    codes = "5: T.py --a: exit codes\n      was [2]\n      is  [1]"
    assert not identity.meant("wrong-x", codes)


def changed(key, was, now):
    return f"{key}\n      was {was}\n      is  {now}"


def test_sheets_verdicts_and_intervals_are_told_from_other_results():
    meant = [
        ("run/samples/val-000000008.png: bytes", "a1", "b2"),
        ("out/grid.png: bytes", "a1", "b2"),
        ("run/metrics.jsonl: [5].final/majority class", None, "0.1"),
        ("run/0.pt: .results.eval/majority class[0][1]", None, "0.1"),
        ("run/metrics.jsonl: [5].in the tree/EMA", None, "0.1"),
        ("run/probes.json: .figures.knn(k=2, T=0.07, h), 2 folds low", "-0.5", "0.16"),
        ("run/log.txt: [3]", "knn(h): 0.25 [-0.5441, 1.0441]", "knn(h): 0.25 [0.1601, 0.3682]"),
        ("run/log.txt: [3]", "knn acc1 0.25", "knn acc1 0.25 (majority class 0.1016)"),
        ("run/curves.png: there", "yes", None),
        ("run/checkpoints/step-000000003/net.pt: .weight", "a1", None),
        ("run/snapshots/0.safetensors: tensor weight", "a1", None),
        ("run/latest.pt: link", "1.pt", None),
        ("run/data.json: .pictures", None, "12"),
        ("run/args.json: .args.keep", None, "1"),
    ]
    for difference in meant:
        assert identity.meant("x", changed(*difference)), difference
    others = [
        ("out/000001.png: bytes", "a1", "b2"),
        ("run/samples/val-000000008.png: there", "yes", None),
        ("out/grid.png: bytes", "a1", None),
        ("run/metrics.jsonl: [5].final/majority class", "0.2", "0.1"),
        ("run/metrics.jsonl: [5].val/psnr", None, "0.1"),
        ("run/probes.json: .figures.knn(k=2, T=0.07, h), 2 folds acc1", "0.5", "0.16"),
        ("run/log.txt: [3]", "knn(h): 0.25 [-0.5441, 1.0441]", "knn(h): 0.26 [0.1601, 0.3682]"),
        ("run/curves.png: there", None, "yes"),
        ("run/args.json: .args.lr", None, "1"),
        ("run/checkpoints/step-000000003/net.pt: .weight", "a1", "b2"),
        ("run/snapshots/0.safetensors: tensor weight", "a1", "b2"),
        ("run/snapshots/network-latest.safetensors: tensor weight", "a1", None),
    ]
    for difference in others:
        assert not identity.meant("x", changed(*difference)), difference
    lines = "validation: best of 4 12.9 dB\nloss 0.5\n2020-01-01 10:00:00+0000 training: loss 1\n"
    assert identity.text_record("x", lines, {}) == {"x[0]": "loss 0.5"}
