"""Does autoguided selection pay? The 2-D tree: `python -m benchmarks.toy_selection --out DIR`.

Running the same command again goes on where it stopped, at any point (`--quick`: does it run?).
Written into DIR: results.jsonl (a line per seed and arm), report.md, loss-examples.png and
loss-seconds.png; state/ and seeds/ hold what has been done so far.

Arms. All learn from super-batches of 4096 noisy points; they differ in the rows they train on.

none-4096      all rows: the upper reference
none-816       the first 816, which are as good as any
random-816     816 at random
jest           816 by JEST on raw losses, as Autoguided; reference: the learner's own EMA
ajest-T        816 by JEST on standardised scores at temperature T = 1, .5, .25; reference: a small
               guide, one a seed, trained once; its cost is reported apart
ajest-T-sigma  with the best T, ranked within strata of sigma
none-816-long  none-816 for as many steps as fit into the CPU seconds of AJEST, schedule stretched;
               -long+ has the seconds of the guide's training on top

How. All arms of a seed go in lockstep in one process: a super-batch is drawn and scored once, and
every arm starts from the same weights and sees the same stream. CPU seconds are those of one
thread: an arm's own work, and of the shared work whatever it would need alone - the whole draw and
exact scores of all rows if it looks at all rows, of 816 rows if it does not; the guide's losses if
it uses them. Evaluation is not charged.

First come the tuning seeds: they choose T, by EMA loss, and measure the length of the long arms.
Other seeds then compare: some with all arms, more with the finalists.

Primary figures: EMA loss (mean over held-out points at sigmas that cut the training distribution
into parts of equal weight) and guided L2 (distance of samples guided with weight 3 to those of the
exact score from the same noise). Statistics: paired log-ratios over seeds, 95 % t-intervals, p
values with Holm's correction over all comparisons of the report. An arm helps if its interval
excludes 0 and its corrected p is below 0.05 against none-816 and against random-816; at equal
seconds, against both prolonged none-816. Guided samples that run off make a distance of hundreds:
"better in" says in how many seeds an arm was the better one, whatever the sizes.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.toy_arms import QUICK, TEMPERATURES, Arm, Settings, all_arms, finalists, tuning_arms
from benchmarks.toy_report import plot, report
from diffusion import toy
from diffusion.guidance import guided
from diffusion.samplers import heun
from runtime import ema as emas
from runtime.cli import prepare
from runtime.memory import keep_freed_memory
from runtime.seeding import generator, hash64
from selection import Picker, Spread, random_baseline
from storage.checkpoint import load_latest, save_state
from storage.errors import RunError, UsageError
from storage.files import read_json, write_text

HELD_OUT = 10**6  # random seed of evaluation points and noise, the same for all
TUNING = 1000  # the first tuning seed
GUIDANCE = 3.0
EMA_STD = 0.010
LOOK_EVERY = 32  # steps between looks at how selective a draw is


# -------------------------------------------------------------------------------------- learners


class Clock:
    """CPU seconds of this process by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start


class Learner:
    """A network in training with its EMA, its figures and the CPU seconds it has cost."""

    def __init__(self, net: toy.ToyModel, steps: int, s: Settings) -> None:
        self.net = net
        net.forced_weight_norm = False  # done once a step here
        self.optimizer = torch.optim.Adam(net.parameters(), betas=(0.9, 0.99), fused=True)
        self.ema = emas.EMA(net, emas.power(EMA_STD))
        self.ref_steps = s.ref_steps * steps / s.steps
        self.ref_lr = s.ref_lr
        self.seconds = {"data": 0.0, "guide": 0.0, "score": 0.0, "train": 0.0}
        self.curve: list[dict[str, Any]] = []
        self.looks: list[list[float]] = []  # [relative perplexity, mean ln sigma chosen - of all]

    def train(self, x: Tensor, sigma: Tensor, target: Tensor, step: int) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        toy.loss(self.net.score(x, sigma), target, sigma).mean().backward()
        for group in self.optimizer.param_groups:
            group["lr"] = toy.lr(step, ref_lr=self.ref_lr, ref_steps=self.ref_steps)
        self.optimizer.step()
        self.ema.update(self.net, step + 1, 1)

    def state_dict(self) -> dict[str, Any]:
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "seconds": dict(self.seconds),
            "curve": list(self.curve),
            "looks": list(self.looks),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.seconds, self.curve = dict(state["seconds"]), list(state["curve"])
        self.looks = [list(look) for look in state["looks"]]


def new_net(seed: int, dim: int, s: Settings) -> toy.ToyModel:
    """The same for every arm of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hash64("init", seed, dim))
        return toy.ToyModel(2, s.layers, dim)


def draw(tree: toy.Mixture, n: int, *key: int | str) -> tuple[Tensor, Tensor]:
    """Noisy points [n, 2] and their sigma [n]; a function of the key."""
    g = generator("cpu", "toy", *key)
    sigma = toy.sigmas(n, generator=g)
    return tree.sample(n, sigma, generator=g), sigma


def picker(arm: Arm, s: Settings) -> Picker:
    """The draw of an arm that scores."""
    return Picker(
        filter_ratio=s.filter_ratio,
        num_chunks=s.chunks,
        scale=arm.scale,
        temperature=arm.temperature,
        by_sigma=arm.by_sigma,
    )


@torch.no_grad()
def losses(net: toy.ToyModel, x: Tensor, sigma: Tensor, target: Tensor) -> Tensor:
    return toy.loss(net.score(x, sigma), target, sigma)


def look(spread: Spread, sigma: Tensor, rows: Tensor) -> list[float]:
    """How selective a draw was: perplexity over the rows there are, shift of mean ln sigma."""
    shift = sigma[rows].log().mean() - sigma.log().mean()
    return [float(spread.relative), float(shift)]


# ------------------------------------------------------------------------------------ evaluation


def levels(s: Settings) -> Tensor:
    """The held-out sigmas: middles of parts of equal weight of the training distribution."""
    middle = (torch.arange(s.levels, dtype=torch.float64) + 0.5) / s.levels
    return (torch.special.ndtri(middle) * 1.5 - 2.3).exp().float()


class Exam:
    """Held-out points, noise and exact samples, the same for all networks."""

    def __init__(self, s: Settings) -> None:
        self.tree = toy.tree("A")
        g = generator("cpu", "toy", "held out", HELD_OUT)
        self.levels = levels(s)
        self.sigma = self.levels.repeat_interleave(s.points // s.levels)
        self.x = self.tree.sample(len(self.sigma), self.sigma, generator=g)
        self.target = self.tree.score(self.x, self.sigma)
        self.start = self.tree.sample(s.samples, toy.SIGMA_MAX, generator=g) / toy.SIGMA_MAX
        self._exact: Tensor | None = None

    def loss(self, net: toy.ToyModel) -> list[float]:
        """Mean loss at each level."""
        rows = losses(net, self.x, self.sigma, self.target)
        return rows.double().unflatten(0, (len(self.levels), -1)).mean(1).tolist()

    @torch.no_grad()
    def samples(self, net: toy.ToyModel, guide: toy.ToyModel) -> dict[str, float]:
        """L2, guided L2 and scores of guided samples."""

        def run(denoise: Callable[..., Tensor]) -> Tensor:
            return heun(denoise, self.start, sigma_max=toy.SIGMA_MAX)

        if self._exact is None:
            self._exact = run(self.tree.denoise)
        plain = run(net.denoise)
        steered = run(guided(net.denoise, guide.denoise, GUIDANCE))
        cells, hits = toy.mandala(steered, self.tree.logp(steered))
        return {
            "l2": float(toy.distance(plain, self._exact)),
            "guided_l2": float(toy.distance(steered, self._exact)),
            "guided_mandala": float(cells),
            "guided_classification": float(hits),
        }


# --------------------------------------------------------------------------------------- one seed


class Seed:
    """All arms of a seed in lockstep."""

    def __init__(self, seed: int, arms: Sequence[Arm], s: Settings) -> None:
        self.seed, self.arms, self.settings = seed, list(arms), s
        self.tree = toy.tree("A")
        self.guide = Learner(new_net(seed, s.guide_dim, s), s.steps, s)
        self.learners = {arm.name: Learner(new_net(seed, s.dim, s), arm.steps, s) for arm in arms}
        self.step = -s.guide_steps  # the guide is trained before step 0
        self.length = max(arm.steps for arm in arms)

    def advance(self) -> None:
        """One step of the guide, or of every arm that is not done."""
        (self._train_guide if self.step < 0 else self._train_arms)()
        self.step += 1

    def _train_guide(self) -> None:
        clock, s = Clock(), self.settings
        step = self.step + s.guide_steps
        with clock("data"):
            x, sigma = draw(self.tree, s.batch, "guide", self.seed, step)
            target = self.tree.score(x, sigma)
        with clock("train"):
            self.guide.net.normalize_weights()
            self.guide.train(x, sigma, target, step)
        add(self.guide.seconds, clock.seconds)

    def _train_arms(self) -> None:
        clock, s, step = Clock(), self.settings, self.step
        active = [arm for arm in self.arms if step < arm.steps]
        everything = any(arm.scores or arm.rows == s.batch for arm in active)
        guide_loss = None
        with clock("draw"):
            x, sigma = draw(self.tree, s.batch, self.seed, step)
        target = torch.empty_like(x)
        picked = None
        if any(arm.method == "random" for arm in active):
            with clock("random"):
                g = generator("cpu", "toy random", self.seed, step)
                picked = random_baseline(sigma, s.filter_ratio, generator=g)
        with clock("first"):
            target[: s.rows] = self.tree.score(x[: s.rows], sigma[: s.rows])
        with clock("rest"):
            if everything or picked is not None:
                target[s.rows :] = self.tree.score(x[s.rows :], sigma[s.rows :])
        if any(arm.method == "ajest" for arm in active):
            with clock("guide"):
                guide_loss = losses(self.guide.ema.module, x, sigma, target)
        for arm in active:
            self._train_arm(arm, x, sigma, target, picked, guide_loss, clock.seconds)

    def _train_arm(
        self,
        arm: Arm,
        x: Tensor,
        sigma: Tensor,
        target: Tensor,
        picked: Tensor | None,
        guide_loss: Tensor | None,
        shared: dict[str, float],
    ) -> None:
        s, learner, clock = self.settings, self.learners[arm.name], Clock()
        with clock("train"):
            learner.net.normalize_weights()
        if arm.scores:
            with clock("score"):
                own = losses(learner.net, x, sigma, target)
                ref = guide_loss
                if arm.method == "jest":
                    ref = losses(learner.ema.module, x, sigma, target)
                pick = partial(picker(arm, s).pick, s.batch, own, ref, sigma)
                key = ("cpu", "toy jest", self.seed, self.step)
                rows = pick(random=generator(*key), spread=False).rows
            if self.step % LOOK_EVERY == 0:  # the same draw again, at nobody's cost
                spread = pick(random=generator(*key)).spread
                learner.looks.append(look(spread, sigma, rows))
        with clock("train"):
            if arm.scores or arm.method == "random":
                rows = rows if arm.scores else picked
                x, sigma, target = x[rows], sigma[rows], target[rows]
            else:
                x, sigma, target = x[: arm.rows], sigma[: arm.rows], target[: arm.rows]
            learner.train(x, sigma, target, self.step)
        add(learner.seconds, clock.seconds)
        add(learner.seconds, charges(arm, shared, s))

    def due(self) -> list[Arm]:
        """Arms to be examined now: evals times, evenly, the last time at their end."""
        s = self.settings
        done = max(self.step, 0)
        return [
            arm
            for arm in self.arms
            if 0 < done <= arm.steps
            and done * s.evals // arm.steps > (done - 1) * s.evals // arm.steps
        ]

    def examine(self, exam: Exam) -> None:
        for arm in self.due():
            learner = self.learners[arm.name]
            if learner.curve and learner.curve[-1]["step"] == self.step:
                continue
            point: dict[str, Any] = {"step": self.step, "examples": self.step * arm.rows}
            point["seconds"] = sum(learner.seconds.values())
            point["loss_at"] = exam.loss(learner.ema.module)
            point["loss"] = sum(point["loss_at"]) / len(point["loss_at"])
            if self.step == arm.steps:
                point |= exam.samples(learner.ema.module, self.guide.ema.module)
            learner.curve.append(point)

    @property
    def done(self) -> bool:
        return self.step >= self.length

    def records(self, exam: Exam, phase: str) -> list[dict[str, Any]]:
        """A line of results.jsonl for each arm, and one for the guide."""
        common = {"phase": phase, "seed": self.seed}
        guide = self.guide.ema.module
        at = exam.loss(guide)
        out = [
            common
            | {"arm": "guide", "steps": self.settings.guide_steps, "loss": sum(at) / len(at)}
            | {"seconds": self.guide.seconds, "loss_at": at}
            | exam.samples(guide, guide)
        ]
        for arm in self.arms:
            learner = self.learners[arm.name]
            last = {k: v for k, v in learner.curve[-1].items() if k not in ("seconds", "step")}
            spread, shift = np.mean(learner.looks, 0).tolist() if learner.looks else (None, None)
            out.append(
                common
                | {"arm": arm.name, "settings": asdict(arm), "steps": arm.steps}
                | {"seconds": learner.seconds, "perplexity": spread, "ln_sigma_shift": shift}
                | last
                | {"curve": learner.curve, "looks": learner.looks}
            )
        return out

    def state_dict(self) -> dict[str, Any]:
        learners = {name: learner.state_dict() for name, learner in self.learners.items()}
        return {"guide": self.guide.state_dict(), "learners": learners}

    def load_state_dict(self, state: dict[str, Any], step: int) -> None:
        self.guide.load_state_dict(state["guide"])
        for name, learner in self.learners.items():
            learner.load_state_dict(state["learners"][name])
        self.step = step


def charges(arm: Arm, shared: dict[str, float], s: Settings) -> dict[str, float]:
    """What an arm would spend alone on the work that is shared here, by kind."""
    data = shared["draw"] + shared["first"]
    if arm.scores or arm.rows == s.batch:
        data += shared["rest"]
    elif arm.method == "none":
        data -= shared["draw"] * (1 - arm.rows / s.batch)
    return {
        "data": data,
        "guide": shared["guide"] if arm.method == "ajest" else 0.0,
        "score": shared["random"] if arm.method == "random" else 0.0,
    }


def add(total: dict[str, float], more: dict[str, float]) -> None:
    for name, value in more.items():
        total[name] += value


# ------------------------------------------------------------------------------------- the whole


class Study:
    """A folder with everything done so far."""

    def __init__(self, out: Path, s: Settings, checkpoint_seconds: float) -> None:
        self.out, self.settings, self.checkpoint_seconds = out, s, checkpoint_seconds
        out.mkdir(parents=True, exist_ok=True)
        (out / "seeds").mkdir(exist_ok=True)
        mine, file = asdict(s), out / "settings.json"
        if file.is_file() and read_json(file) != mine:
            raise UsageError(f"{out} has results of other settings: take another --out")
        write_text(file, json.dumps(mine, indent=1) + "\n")
        self._exam: Exam | None = None

    @property
    def exam(self) -> Exam:
        if self._exam is None:
            self._exam = Exam(self.settings)
        return self._exam

    def run(
        self, phase: str, seed: int, arms: Sequence[Arm], stop_after: int | None = None
    ) -> None:
        """Train and examine the arms of a seed, from where it was left. stop_after: for tests."""
        file = self.out / "seeds" / f"{phase}-{seed:04d}.json"
        if file.is_file():
            return
        folder = self.out / "state" / f"{phase}-{seed:04d}"
        one = Seed(seed, arms, self.settings)
        loaded = load_latest(folder)
        if loaded is not None:
            if loaded.meta["arms"] != [asdict(arm) for arm in arms]:
                raise UsageError(f"{folder} was made with other arms: take another --out")
            one.load_state_dict(loaded.state["seed"], loaded.step - self.settings.guide_steps)
        say(f"{phase} seed {seed}: step {one.step} of {one.length}")
        saved = time.monotonic()
        while not one.done:
            one.advance()
            one.examine(self.exam)
            count = one.step + self.settings.guide_steps  # checkpoints are numbered from 0
            stop = stop_after is not None and count >= stop_after
            if stop or time.monotonic() - saved > self.checkpoint_seconds:
                meta = {"arms": [asdict(arm) for arm in arms]}
                save_state(folder, count, {"seed": one.state_dict()}, meta)
                saved = time.monotonic()
            if stop:
                return
        write_text(file, json.dumps(one.records(self.exam, phase)) + "\n")
        say(f"{phase} seed {seed}: done")

    def records(self, phase: str | None = None) -> list[dict[str, Any]]:
        """Lines of all seeds that are done."""
        files = sorted((self.out / "seeds").glob("*.json"))
        found = [record for file in files for record in read_json(file)]
        return [r for r in found if phase in (None, r["phase"])]

    def plan(self) -> dict[str, Any]:
        """What the tuning seeds say: the temperature, and how long the long arms are; kept."""
        file = self.out / "plan.json"
        if file.is_file():
            return read_json(file)
        runs = {(r["seed"], r["arm"]): r for r in self.records("tune")}
        seeds = sorted({seed for seed, _ in runs})

        def cost(seed: int, arm: str) -> float:
            return sum(runs[seed, arm]["seconds"].values())

        gains, ratios, ratios_with_guide = {}, [], []
        for t in TEMPERATURES:
            name = f"ajest-{t:g}"
            pairs = [(runs[k, name]["loss"], runs[k, "none-816"]["loss"]) for k in seeds]
            gains[t] = float(np.mean([math.log(a / b) for a, b in pairs]))
            ratios += [cost(k, name) / cost(k, "none-816") for k in seeds]
            ratios_with_guide += [
                (cost(k, name) + cost(k, "guide")) / cost(k, "none-816") for k in seeds
            ]
        plan = {
            "temperature": min(gains, key=lambda t: gains[t]),
            "log_ratio_of_loss": {f"{t:g}": gain for t, gain in gains.items()},
            "long": float(np.median(ratios)),
            "long+": float(np.median(ratios_with_guide)),
            "seeds": seeds,
        }
        write_text(file, json.dumps(plan, indent=1) + "\n")
        say(f"plan: {json.dumps(plan)}")
        return plan


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


def report_of(study: Study) -> str:
    """Markdown of what is done so far."""
    plan = read_json(study.out / "plan.json")
    return report(study.records("main"), plan, levels(study.settings).tolist())


def write(study: Study, *, plots: bool) -> None:
    """Results, report and, if wanted, curves into the study's folder."""
    lines = "".join(json.dumps(r) + "\n" for r in study.records())
    write_text(study.out / "results.jsonl", lines)
    write_text(study.out / "report.md", report_of(study))
    if plots and study.records("main"):
        plot(study.records("main"), study.out)


# ----------------------------------------------------------------------------------- command line


def get_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of results and state")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of all arms (default 5)")
    parser.add_argument("--finalist-seeds", type=int, default=10, help="of the finalists (10)")
    parser.add_argument("--tune-seeds", type=int, default=3, help="to choose T with (default 3)")
    parser.add_argument("--steps", type=int, default=None, help="optimizer steps (default 4096)")
    parser.add_argument("--checkpoint-minutes", type=float, default=3.0, help="default 3")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--report", action="store_true", help="only write the report")
    prepare(parser)
    args = parser.parse_args(argv)
    if args.tune_seeds < 1 or args.seeds < 1 or args.finalist_seeds < args.seeds:
        parser.error("at least 1 tuning seed and 1 seed, and no fewer seeds for the finalists")
    if args.steps is not None and args.steps < 1:
        parser.error(f"--steps {args.steps} is not positive")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = get_args(argv)
    keep_freed_memory()
    torch.set_num_threads(1)  # CPU seconds of one thread are what is compared
    s = QUICK if args.quick else Settings()
    if args.steps is not None:
        s = replace(s, steps=args.steps)
    study = Study(args.out, s, 60 * args.checkpoint_minutes)
    if not args.report:
        say(f"code in {Path(toy.__file__).parent}, results in {args.out}")
        for seed in range(TUNING, TUNING + args.tune_seeds):
            study.run("tune", seed, tuning_arms(s))
        plan = study.plan()
        for seed in range(args.finalist_seeds):
            study.run("main", seed, (all_arms if seed < args.seeds else finalists)(s, plan))
            write(study, plots=False)
    write(study, plots=True)
    print(report_of(study))


if __name__ == "__main__":
    try:
        main()
    except RunError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
