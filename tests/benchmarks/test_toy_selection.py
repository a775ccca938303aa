"""The selection study on the tree: bookkeeping, pairing, resuming, statistics."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import toy_report
from benchmarks import toy_selection as study
from diffusion import toy
from storage.errors import UsageError

S = replace(study.QUICK, steps=8)
PLAN = {"temperature": 0.5, "long": 1.5, "long+": 1.75}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A seed with all arms, in one go."""
    run = study.Study(tmp_path_factory.mktemp("whole"), S, 1e9)
    run.run("main", 3, study.all_arms(S, PLAN))
    return run


def without_times(records: list[dict]) -> list[dict]:
    records = json.loads(json.dumps(records))
    for record in records:
        del record["seconds"]
        for point in record.get("curve", []):
            del point["seconds"]
    return records


def test_pieces_give_the_same_as_one_go(tmp_path, whole):
    """Stopped within the guide's training, and in the middle and the prolongation of the arms'."""
    for stop in (2, 7, 9, 16):
        study.Study(tmp_path, S, 1e9).run("main", 3, study.all_arms(S, PLAN), stop_after=stop)
        assert not study.Study(tmp_path, S, 1e9).records()
    study.Study(tmp_path, S, 1e9).run("main", 3, study.all_arms(S, PLAN))
    pieces = study.Study(tmp_path, S, 1e9).records()
    assert without_times(pieces) == without_times(whole.records())


def test_other_settings_or_arms_are_refused(tmp_path, whole):
    with pytest.raises(UsageError, match="other settings"):
        study.Study(whole.out, replace(S, steps=9), 1e9)
    run = study.Study(tmp_path, S, 1e9)
    run.run("main", 3, study.all_arms(S, PLAN), stop_after=7)
    with pytest.raises(UsageError, match="other arms"):
        run.run("main", 3, study.finalists(S, PLAN))


@pytest.mark.parametrize("name", ["none-816", "none-4096", "none-816-long"])
def test_an_arm_is_what_it_would_be_alone(whole, name):
    """Against a loop with nothing shared: so all arms of a seed see the same stream."""
    arm = {arm.name: arm for arm in study.all_arms(S, PLAN)}[name]
    learner = study.Learner(study.new_net(3, S.dim, S), arm.steps, S)
    tree = toy.tree("A")
    for step in range(arm.steps):
        x, sigma = (t[: arm.rows] for t in study.draw(tree, S.batch, 3, step))
        learner.net.normalize_weights()
        learner.train(x, sigma, tree.score(x, sigma), step)
    record = next(r for r in whole.records() if r["arm"] == name)
    assert record["loss_at"] == pytest.approx(study.Exam(S).loss(learner.ema.module), rel=1e-5)
    assert record["examples"] == arm.steps * arm.rows


def test_all_arms_start_alike_and_selection_sees_the_shared_stream():
    arms = study.all_arms(S, PLAN)
    one = study.Seed(5, arms, S)
    nets = [list(learner.net.parameters()) for learner in one.learners.values()]
    assert all(torch.equal(a, b) for other in nets[1:] for a, b in zip(nets[0], other, strict=True))
    assert one.learners["jest"].ref_steps == S.ref_steps
    assert one.learners["none-816-long"].ref_steps == pytest.approx(1.5 * S.ref_steps)


def test_arms_that_select_train_on_as_many_rows():
    g = torch.Generator().manual_seed(0)
    x, sigma = study.draw(toy.tree("A"), S.batch, 0, 0)
    loss = torch.rand(S.batch, generator=g)
    for arm in study.all_arms(S, PLAN):
        if arm.scores:
            ref = torch.rand(S.batch, generator=g)
            rows = study.picker(arm, S).pick(S.batch, loss, ref, sigma, random=g).rows
            assert len(rows) == len(rows.unique()) == S.rows
    assert study.Settings().filter_ratio == 1 - 816 / 4096


def test_charges():
    """Everybody pays for what it would need alone, and only for that."""
    shared = {"draw": 10.0, "first": 2.0, "rest": 8.0, "guide": 5.0, "random": 1.0}
    s = replace(S, batch=100, rows=20)
    arms = {
        "none": (study.Arm("", "none", 20, 1), 2 + 2, 0, 0),
        "all": (study.Arm("", "none", 100, 1), 20, 0, 0),
        "random": (study.Arm("", "random", 20, 1), 12, 0, 1),
        "jest": (study.Arm("", "jest", 20, 1), 20, 0, 0),
        "ajest": (study.Arm("", "ajest", 20, 1), 20, 5, 0),
    }
    for arm, data, guide, score in arms.values():
        assert study.charges(arm, shared, s) == {"data": data, "guide": guide, "score": score}


def test_curves_have_as_many_points_as_asked_and_end_at_the_end(whole):
    for record in whole.records():
        if record["arm"] != "guide":
            steps = [p["step"] for p in record["curve"]]
            assert len(steps) == S.evals and steps[-1] == record["steps"]
            seconds = [p["seconds"] for p in record["curve"]]
            assert seconds == sorted(seconds)
            assert seconds[-1] == pytest.approx(sum(record["seconds"].values()))


def test_only_scoring_arms_pay_for_the_guide(whole):
    records = {r["arm"]: r for r in whole.records()}
    assert records["ajest-0.5"]["seconds"]["guide"] > 0
    assert records["jest"]["seconds"]["guide"] == records["none-816"]["seconds"]["guide"] == 0
    assert records["none-816"]["seconds"]["data"] < records["ajest-0.5"]["seconds"]["data"]
    assert records["none-816"]["seconds"]["score"] == 0 < records["jest"]["seconds"]["score"]


def test_the_command_runs_through(tmp_path, capsys):
    words = f"--out {tmp_path} --quick --steps 6 --seeds 1 --finalist-seeds 2 --tune-seeds 1"
    study.main(words.split())
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    main = {(r["seed"], r["arm"]) for r in lines if r["phase"] == "main"}
    assert len([a for k, a in main if k == 0]) == 11 and len([a for k, a in main if k == 1]) == 7
    text = (tmp_path / "report.md").read_text()
    assert "| equal seconds | EMA loss |" in text and "random-816" in text
    table = [line for line in text.split("at each held-out")[1].splitlines() if "|" in line]
    arms = [line.split("|")[1].strip() for line in table[2:]]
    assert len(arms) == 9 and "jest" in arms and "none-816" not in arms
    assert all(line.count("|") == study.QUICK.levels + 2 for line in table)
    assert (tmp_path / "loss-examples.png").stat().st_size > 5000
    assert (tmp_path / "loss-seconds.png").stat().st_size > 5000
    assert text in capsys.readouterr().out


# ------------------------------------------------------------------------------------ statistics


def some(p: float) -> toy_report.Comparison:
    return toy_report.Comparison("", "", "", "", 5, 0.0, 1.0, p)


def test_holm_against_a_worked_example():
    """p .01 .04 .03 .005 -> .03 .06 .06 .02"""
    found = toy_report.holm([some(p) for p in (0.01, 0.04, 0.03, 0.005)])
    assert [c.holm for c in found] == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_comparison_is_paired():
    """A difference far below the spread between seeds is found."""
    levels = (1.0, 3.0, 9.0, 27.0, 81.0)
    noise = (0.01, -0.02, 0.0, 0.02, -0.01)
    values = {}
    for k, (level, e) in enumerate(zip(levels, noise, strict=True)):
        values[k, "b"] = {"loss": level}
        values[k, "a"] = {"loss": level * 2.718281828 ** (-0.1 + e)}
    values[9, "a"] = {"loss": 1.0}  # without its partner
    c = toy_report.compare("q", "a", "b", "loss", values)
    assert (
        c.n == c.better == 5
        and c.mean == pytest.approx(-0.1)
        and c.mean + c.half < 0
        and c.p < 0.001
    )
    assert c.half == pytest.approx(2.7764 * 0.0158114 / 5**0.5, rel=1e-3)
    assert toy_report.compare("q", "a", "missing", "loss", values) is None


def test_samples_that_ran_off_prove_nothing():
    values = {}
    for k, far in enumerate((1.0, 1.0, float("inf"), float("nan"))):
        values[k, "a"], values[k, "b"] = {"loss": 0.5}, {"loss": far}
    for arm, baseline, better in (("a", "b", 4), ("b", "a", 0)):
        c = toy_report.compare("q", arm, baseline, "loss", values)
        assert c.p == 1 and c.n == 4 and c.better == better
        assert "no difference" in toy_report.verdicts(toy_report.holm([c]))[0]


def test_helps_needs_both_baselines():
    def pair(mean_none: float, mean_random: float) -> list[toy_report.Comparison]:
        means = {"none-816": mean_none, "random-816": mean_random}
        return [
            toy_report.Comparison("q", "ajest-1", base, "loss", 5, mean, 0.1, 1e-3, holm=0.01)
            for base, mean in means.items()
        ]

    assert "helps" in toy_report.verdicts(pair(-0.2, -0.2))[0]
    assert "no difference" in toy_report.verdicts(pair(-0.2, -0.05))[0]
    assert "hurts" in toy_report.verdicts(pair(0.2, 0.2))[0]
