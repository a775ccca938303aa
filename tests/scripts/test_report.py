"""report.py: one page about runs, whatever state they are in."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from recipes.report import curves, pictures, reading, server, times
from recipes.report.html import as_data
from recipes.runs.figures import Point
from storage.errors import UsageError
from storage.files import Lock
from tests.scripts.made_runs import IMLE, make_run, write
from tests.scripts.support import ROOT, load

OPTIONS = {**IMLE, "seed": 0}


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "results"
    folder.mkdir()
    monkeypatch.setenv("RESULTS_HOME", str(folder))
    return folder


@pytest.fixture
def report(capsys):
    """report.py in this process: words -> (the page's file, its text)."""
    script = load("report")

    def call(*words: str) -> tuple[Path, str]:
        capsys.readouterr()
        script.main(script.get_args(None, list(words)))
        last = capsys.readouterr().out.splitlines()[-1]
        file = Path(last.partition(": ")[2])
        return file, file.read_text()

    return call


def rows_of(values, **more):
    return [{"step": 10 * k, "time": 1e9 + k, "val/psnr": v, **more} for k, v in enumerate(values)]


def make_seeds(home):
    """Two runs that differ by the seed, and one with another learning rate."""
    first = make_run(home, "first-00000001", options=OPTIONS, rows=rows_of([10, 11, 13]))
    make_run(home, "second-00000002", options={**OPTIONS, "seed": 1}, rows=rows_of([9, 12, 12, 14]))
    make_run(home, "other-00000003", options={**OPTIONS, "lr": 0.1}, rows=rows_of([5, 6]))
    return first


def add_sheets(run: Path, steps, side=32, name="val", noise=False):
    (run / "samples").mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for step in steps:
        shape = (side, side, 3)
        pixels = random.integers(0, 256, shape) if noise else np.full(shape, step % 256)
        Image.fromarray(pixels.astype(np.uint8)).save(run / "samples" / f"{name}-{step:09d}.png")


class Elements(HTMLParser):
    """Tags with attributes, and the text of each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def data_of(text: str):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found[1])


def words_of(text: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", text.partition("<body")[2]).split())


# --------------------------------------------------------------------------------------- the page


def test_a_page_of_runs_is_one_file_and_nothing_is_written_into_them(home, report):
    first = make_seeds(home)
    add_sheets(first, [0, 10])
    before = {p: (p.stat().st_mtime_ns, p.is_dir() or p.read_bytes()) for p in first.rglob("*")}
    file, text = report("first", "second", "other")
    assert file.parent == home / "report" and file.stat().st_size < 200_000
    assert {p: (p.stat().st_mtime_ns, p.is_dir() or p.read_bytes()) for p in first.rglob("*")} \
        == before  # fmt: skip
    tags = Elements(text).tags
    loads = [a.get("src") or a.get("href") for _, a in tags if a.get("src") or a.get("href")]
    assert all(link.startswith("#") for link in loads), loads
    assert not re.search(r"url\((?!#)|@import|fetch\(|XMLHttp|WebSocket|import\(", text)
    policy = next(a["content"] for _, a in tags if a.get("http-equiv"))
    assert "default-src 'none'" in policy and "unsafe" not in policy
    words = words_of(text)
    assert "--lr 0.003 0.003 0.1" in words and "--seed 0 1 0" in words
    assert "git checkout abc123abc123" in words
    data = data_of(text)
    assert data["groups"] == [[0, 1]]
    assert data["runs"][1]["curves"]["val/psnr"] == {"s": [0, 10, 20, 30], "v": [9, 12, 12, 14],
                                                    "n": 4}  # fmt: skip
    assert [s["step"] for s in data["sheets"][0]] == [0, 10] and data["sheets"][1] == []


def test_intervals_over_seeds_are_students_at_the_last_step_that_all_have(home, report):
    make_seeds(home)
    _, text = report("first", "second", "other")
    at = stats.t.interval(0.95, 1, np.mean([13, 12]), stats.sem([13, 12]))  # at step 20
    best = stats.t.interval(0.95, 1, np.mean([13, 14]), stats.sem([13, 14]))
    words = words_of(text)
    assert f"12.50 ± {(at[1] - at[0]) / 2:.2g}" in words
    assert f"best 13.50 ± {(best[1] - best[0]) / 2:.2g}" in words
    _, text = report("first", "other")
    assert "±" not in words_of(text) and "differ by the seed alone, so there are no" in text


def test_runs_of_other_code_are_no_seeds_of_one_thing(home, report):
    make_seeds(home)
    second = home / "TrainGeneratorWandB" / "second-00000002"
    line = json.loads((second / "launches.jsonl").read_text())
    line["provenance"]["git"]["commit"] = "f" * 40
    (second / "launches.jsonl").write_text(json.dumps(line) + "\n")
    _, text = report("first", "second")
    assert data_of(text)["groups"] == []
    assert "code abc123abc1 with changes ffffffffff with changes" in words_of(text)


def test_whatever_text_a_run_brings_is_text(home, report):
    evil = "<img src=x onerror=alert(1)>"
    script = "</script><script>alert(1)</script>"
    options = {**OPTIONS, "suffix": script, "data_tr": evil, "&lt;": "\ud800 '\""}
    run = make_run(home, evil, options=options, rows=rows_of([1, 2], **{script: 3.0, evil: 4}))
    write(run / "status.json", {"state": script, "message": [evil], "step": 20})
    add_sheets(run, [5], name="a'\"><b>")
    _, text = report(str(run))
    tags = Elements(text).tags
    assert not [a for _, a in tags if any(name.startswith("on") for name in a)]
    assert not [t for t, _ in tags if t in ("img", "b", "iframe")]
    assert [a.get("type") for t, a in tags if t == "script"] == ["application/json", None]
    assert evil in "".join(Elements(text).words)  # the name as it is
    assert script in data_of(text)["runs"][0]["curves"]
    assert "<" not in as_data({evil: [script]})


DAMAGE = {
    "missing": lambda f: f.unlink(),
    "empty": lambda f: f.write_bytes(b""),
    "half": lambda f: f.write_bytes(f.read_bytes()[: f.stat().st_size // 2]),
    "bytes": lambda f: f.write_bytes(b"\xff\x00\xfe" * 50),
    "other": lambda f: f.write_text('[1, "x", null]\n'),
    "odd": lambda f: f.write_text('{"step": "x", "time": [], "state": 7, "args": 3}\n'),
    "huge": lambda f: f.write_text('{"step": 1, "time": "2026-13-40T", "x": 1' + "0" * 400 + "}\n"),
    "folder": lambda f: (f.unlink(), f.mkdir()),
    "pipe": lambda f: (f.unlink(), os.mkfifo(f)),
}


@pytest.mark.parametrize("name", ["args.json", "launches.jsonl", "metrics.jsonl", "status.json",
                                  "log.txt"])  # fmt: skip
def test_damaged_files_are_said_in_the_page(home, report, name):
    for kind, damage in DAMAGE.items():
        run = make_run(home, f"{kind}-{name}-00000001", options=OPTIONS)
        damage(run / name)
        _, text = report(str(run))
        quiet = name == "log.txt" and kind not in ("missing", "folder", "pipe")
        lines = kind in ("odd", "huge") and name in ("launches.jsonl", "metrics.jsonl")
        told = name.removesuffix(".json") in words_of(text).partition("missing or damaged")[2]
        is_object = name == "status.json" and kind in ("odd", "huge")
        assert told or quiet or lines or is_object, (kind, name)
    _, text = report(*(str(p) for p in (home / "TrainGeneratorWandB").iterdir()))
    assert f"{len(DAMAGE)} runs" in text


def test_what_is_left_of_a_run_is_shown(home, report, tmp_path):
    left = tmp_path / "left"
    left.mkdir()
    lines = [*map(json.dumps, rows_of([1, 2])), '{"step": 20, "val/ps', "{}"]
    (left / "metrics.jsonl").write_text("\n".join(lines))
    _, text = report(str(left))
    assert "2 of 4 lines are damaged" in text and "no options are known" in text
    assert data_of(text)["runs"][0]["curves"]["val/psnr"]["v"] == [1, 2]


def test_pictures_that_are_none_are_said(home, report):
    run = make_run(home, options=OPTIONS)
    add_sheets(run, [0, 10, 20])
    (run / "samples" / "val-000000010.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    (run / "samples" / "val-000000020.png").write_bytes(b"<svg onload=alert(1)>")
    (run / "samples" / "notes.txt").write_text("no sheet")
    _, text = report(run.name)
    assert [s["step"] for s in data_of(text)["sheets"][0]] == [0]
    assert words_of(text).count("cannot be shown") == 2


def test_a_page_is_no_larger_than_max_mb_and_says_what_it_lacks(home, report, capsys):
    run = make_run(home, options=OPTIONS)
    add_sheets(run, range(0, 600, 10), side=128, noise=True)  # 50 kB each, nothing to squeeze
    file, text = report(run.name, "--max_mb", "1")
    assert file.stat().st_size <= 1_000_000
    steps = [s["step"] for s in data_of(text)["sheets"][0]]
    assert steps[0] == 0 and steps[-1] == 590 and 20 < len(steps) < 60
    assert f"{len(steps)} of 60 sheets, evenly" in text and "are recompressed" in text
    file, text = report(run.name)
    assert [s["step"] for s in data_of(text)["sheets"][0]] == list(range(0, 600, 10))
    assert "recompressed" not in text and 3_000_000 < file.stat().st_size < 10_000_000


def test_thinning_keeps_order_and_every_peak():
    random = np.random.default_rng(1)
    points = [Point(k, float(v)) for k, v in enumerate(random.normal(size=1003))]
    points[500] = Point(500, 99.0)
    few = curves.thinned(points, 200)
    assert len(few) <= 200 and few == sorted(few) and set(few) <= set(points)
    assert max(points, key=lambda p: p.value) in few and min(points, key=lambda p: p.value) in few
    assert few[0] == points[0] and few[-1] == points[-1]
    assert curves.thinned(points[:150], 200) == points[:150]


def test_the_first_charts_are_of_what_moves():
    rows = rows_of([1, 2, 3], **{"val/bicubic_psnr": 7.0, "lr": 0.1, "batch loss": 1.0})
    rows[1]["batch loss"] = 0.5
    ordered = curves.order([rows])
    assert set(ordered) == {"val/psnr", "val/bicubic_psnr", "lr", "batch loss"}
    assert curves.first_shown(ordered, [curves.curves_of(rows, 99)]) == ["batch loss", "val/psnr"]


# ----------------------------------------------------------------------------------- times


def stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))


def test_where_the_time_of_two_launches_went(home):
    start = 1_700_000_000
    run = make_run(home, options={**OPTIONS, "num_iteration": 10}, rows=[
        # The first launch: 5 s until its first step, 20 steps of 1 s with two searches of 3 s.
        {"step": 20, "time": start + 25, "time/step_s": 1.0, "time/search_s": 3.0, "nimg": 40},
        # The second, from step 20 on: begun 60 s later, 2 s of start, 10 steps of 2 s.
        {"step": 30, "time": start + 122, "time/step_s": 2.0, "time/search_s": 4.0, "nimg": 60},
    ])  # fmt: skip
    origin = {"host": "here"}
    lines = [{"time": stamp(start), "from_step": 0, "provenance": origin},
             {"time": stamp(start + 100), "from_step": 20, "provenance": origin}]  # fmt: skip
    (run / "launches.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "log.txt").write_text(
        f"{stamp(start + 26)} saved step 20 in 0.5 s\n"
        f"{stamp(start + 40)} SIGTERM: going back to the last save; run the same command\n"
        f"{stamp(start + 101)} an earlier launch got to step 27, but no later checkpoint is there: "
        "this one goes on from step 20\n"
        f"{stamp(start + 123)} saved step 30 in 1.0 s\n"
    )
    write(run / "status.json", {"state": "finished", "step": 30, "time": stamp(start + 124)})
    read = reading.read(run)
    first, second = times.launches(read)
    assert (first.seconds, second.seconds) == (40, 24)
    assert first.parts == {"start": 5.0, "search for codes": 6.0, "saving": 0.5, "training": 28.5}
    assert second.parts == {"start": 2.0, "search for codes": 4.0, "saving": 1.0, "training": 17.0}
    assert (first.first, first.last, first.lost, second.lost) == (0, 27, 7, 0)
    assert first.how == "asked to stop by SIGTERM" and second.how == "finished"
    axis = curves.axes_of(read.rows, [20], 99)
    assert axis == {"s": [0, 20, 30], "nimg": [0, 40, 60],
                    "h": pytest.approx([0, 20 / 3600, 40 / 3600], rel=1e-5)}  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.42, "0.4 s"),
        (59.6, "60 s"),
        (200, "3 min 20 s"),
        (18420, "5 h 7 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_durations(seconds, words):
    assert times.duration(seconds) == words


# ----------------------------------------------------------------------------------- options


def test_where_the_page_goes(home, report, tmp_path, monkeypatch):
    run = make_run(home, options=OPTIONS)
    monkeypatch.chdir(tmp_path)
    assert report(run.name)[0] == home / "report" / f"{run.name}.html"
    assert report(run.name, "--outdir", "seen")[0] == home / "report" / "seen" / f"{run.name}.html"
    assert report(run.name, "--outdir", "./seen")[0].resolve().parent == tmp_path / "seen"
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(run, elsewhere / "X" / "mine-00000009")
    file, _ = report("mine", "--results_path", str(elsewhere))
    assert file == elsewhere / "report" / "mine-00000009.html"
    assert report(run.name, run.name)[0] == home / "report" / f"{run.name}.html"  # once


def test_a_file_of_somebody_else_is_not_replaced(home, report):
    run = make_run(home, options=OPTIONS)
    report(run.name)
    file, _ = report(run.name)  # its own is
    file.write_text("<!DOCTYPE html> my notes")
    with pytest.raises(UsageError, match="is no page of report.py"):
        report(run.name)
    assert file.read_text() == "<!DOCTYPE html> my notes"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "RUN is missing"),
        (["--serve", "x"], "--serve shows all runs: leave out x"),
        (["--serve", "--watch"], "--serve and --watch exclude each other"),
        (["--serve", "--outdir", "x"], "--serve and --outdir exclude each other"),
        (["x", "--port", "5"], "--port 5 is of --serve"),
        (["x", "--every", "5"], "--every 5 is of --watch and --serve"),
        (["x", "--max_mb", "0"], "out of range"),
    ],
)
def test_what_does_not_go_together(capsys, words, said):
    with pytest.raises(SystemExit) as ended:
        load("report").get_args(None, words)
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_a_run_that_is_not_there_is_one_line(home):
    done = subprocess.run(
        [sys.executable, "report.py", "nothing"], cwd=ROOT, capture_output=True, text=True,
        timeout=60, env=os.environ | {"RESULTS_HOME": str(home)},
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"error: nothing: no run of that name in .*\n", done.stderr)
    assert not list(home.iterdir())


def test_watch_follows_a_run_to_its_end(home, report, monkeypatch, capsys):
    run = make_run(home, options=OPTIONS, state="running")
    lock = Lock(run / "lock", json.dumps({"host": "here", "pid": 1, "job": None}))
    pages = []

    def sleep(seconds):
        pages.append((seconds, (home / "report" / f"{run.name}.html").read_text()))
        row = {"step": 20 + len(pages), "val/psnr": 30.0}
        with open(run / "metrics.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
        if len(pages) == 2:
            lock.release()
            write(run / "status.json", {"state": "finished", "step": 22})

    monkeypatch.setattr(load("report").time, "sleep", sleep)
    _, last = report(run.name, "--watch", "--every", "7")
    assert [seconds for seconds, _ in pages] == [7.0, 7.0]
    assert all('<body data-every="7.0">' in text for _, text in pages)
    steps = [data_of(text)["runs"][0]["curves"]["val/psnr"]["s"][-1] for _, text in pages]
    assert steps == [20, 21]
    assert "data-every" not in last and "Pause refreshing" not in last.partition("<main")[0]
    assert data_of(last)["runs"][0]["curves"]["val/psnr"]["s"][-1] == 22


def test_watch_ends_with_a_whole_page_at_ctrl_c(home, report, monkeypatch):
    run = make_run(home, options=OPTIONS, state="running")
    lock = Lock(run / "lock", "{}")

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(load("report").time, "sleep", interrupted)
    _, text = report(run.name, "--watch")
    lock.release()
    assert text.endswith("</html>\n") and "data-every" not in text


# ------------------------------------------------------------------------------------ the server


@pytest.fixture
def served(home):
    make_seeds(home)
    with server.Server(home, 0, limit=5_000_000, every=4.0) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield found
        found.shutdown()


def ask(url: str, host: str | None = None) -> tuple[int, str]:
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_serve_lists_runs_and_shows_those_chosen_to_this_machine_alone(served, home):
    assert served.server_address[0] == "127.0.0.1"
    code, text = ask(served.address)
    names = [a.get("value") for t, a in Elements(text).tags if a.get("name") == "run"]
    assert code == 200 and sorted(names) == [
        f"TrainGeneratorWandB/{n}" for n in ("first-00000001", "other-00000003", "second-00000002")
    ]
    code, text = ask(f"{served.address}report?run={names[0]}&run={names[1]}")
    assert code == 200 and len(data_of(text)["runs"]) == 2 and 'href="/"' in text
    assert "data-every" not in text  # they have ended
    outside = ("report", "report?run=", "report?run=../../etc", "report?run=/etc", "etc/passwd")
    for wrong in (*outside, f"report?run={names[0]}&run=x", f"report?run={names[0]}/checkpoints"):
        assert ask(served.address + wrong)[0] == 404, wrong
    assert ask(served.address, host="evil.example:80")[0] == 403
    assert ask(served.address, host="localhost:1")[0] == 200


def test_serve_refreshes_the_page_of_a_run_that_goes_on(served, home):
    run = make_run(home, "on-00000004", options=OPTIONS, state="running")
    lock = Lock(run / "lock", "{}")
    _, text = ask(f"{served.address}report?run=TrainGeneratorWandB/on-00000004")
    lock.release()
    assert '<body data-every="4.0">' in text


def test_serve_says_that_a_port_is_taken(served, home):
    script = load("report")
    port = served.server_address[1]
    args = script.get_args(None, ["--serve", "--port", str(port), "--results_path", str(home)])
    with pytest.raises(UsageError, match=f"--port {port}: it is taken"):
        script.main(args)


def test_serve_says_where_it_is_and_ends_at_ctrl_c(home, monkeypatch, capsys):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(server.Server, "serve_forever", interrupted)
    script = load("report")
    script.main(script.get_args(None, ["--serve", "--port", "0"]))
    first, last = capsys.readouterr().out.splitlines()
    assert re.search(rf"{re.escape(str(home))}: http://127\.0\.0\.1:[1-9]\d*/ \(this", first)
    assert last == "no longer serving"


def test_an_encoder_looks_at_a_file_again_only_when_it_changed(home, monkeypatch):
    run = make_run(home, options=OPTIONS)
    add_sheets(run, [0])
    file, calls = run / "samples" / "val-000000000.png", []
    whole = pictures._encoded
    monkeypatch.setattr(pictures, "_encoded", lambda *a: calls.append(a) or whole(*a))
    encoder = pictures.Encoder()
    for _ in range(3):
        encoder.encode(file, 0)
    assert len(calls) == 1
    add_sheets(run, [0], side=48)
    assert encoder.encode(file, 0)[1] == (48, 48) and len(calls) == 2


# ------------------------------------------------------------------- records of calculate_metrics


def test_what_was_measured_of_a_run_stands_in_its_page(home, report):
    first = make_seeds(home)
    figure = {"value": 12.5, "low": 11.25, "high": 13.75, "n": 500, "ranges": 1}
    figure["less_is_better"] = True
    record = {
        "format": "imle-lab-metrics", "origin": {"run": first.name}, "figures": {"fid": figure},
        "ranges": [{"seeds": "0-499", "figures": {"fid": {**figure, "more": {}}}}],
        "settings": {
            "samples": [{"kind": "camnet", "net": "network-latest.safetensors", "pictures": 500,
                         "content": "abc", "step": 20}],
            "reference": None, "held": None, "extractors": {},
        },
    }  # fmt: skip
    for name, run in (("a", first.name), ("b", "another-run"), ("c", "<b>first</b>")):
        (home / "calculate_metrics" / name).mkdir(parents=True)
        record["origin"]["run"] = run
        write(home / "calculate_metrics" / name / "metrics.json", record)
    (home / "calculate_metrics" / "d").mkdir()
    (home / "calculate_metrics" / "d" / "metrics.json").write_text("half a rec")
    _, text = report("first", "second")
    words = words_of(text)
    assert words.count("12.5 [11.25, 13.75]") == 1 and "at step 20, seeds 0-499" in words
    assert "fid n 500" in words and "over other samples of the same network" in words
    assert "12.5" not in words_of(report("second")[1])


def test_validation_and_waiting_are_parts_of_the_time(home, report):
    start = 1e9
    rows = [{"step": s, "time": start + 20 * s, "time/step_s": 20.0, "time/data_s": 5.0,
             "time/validation_s": 4.0 if s == 20 else None} for s in (10, 20)]  # fmt: skip
    run = make_run(home, "first-00000001", options=OPTIONS, rows=rows)
    launch = json.loads((run / "launches.jsonl").read_text())
    launch["time"] = stamp(start)
    (run / "launches.jsonl").write_text(json.dumps(launch) + "\n")
    (found,) = times.launches(reading.read(run))
    assert found.parts["waiting for data"] == pytest.approx(100)
    assert found.parts["validation"] == pytest.approx(40)
    words = words_of(report("first")[1])
    assert "validation 40 s" in words and "until a batch was there" in words
