"""Run: what every training script stands on.

    with Run(args, script="TrainX", name="x-64") as run:
        net, optimizer, loader = ...
        run.restore(net=net, optimizer=optimizer, loader=loader)
        for step in run.steps(total):
            loss = ...
            run.backward(loss, ids)
            if run.step(optimizer):
                ema.update(...)
            run.log(loss=loss)

Running the same command again goes on from the newest good checkpoint.  One turn of the loop is one
step, however many optimizers.  A signal ends the turn, saves and exits 75 from inside `steps`, so
that what follows the loop does not run; leaving the loop by `break` is an error.
"""

import os
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from runtime import distributed, history, lookup, points, provenance, rundir, saving, seeding
from runtime import inputs as known_inputs
from runtime import length as lengths
from runtime.clock import Every
from runtime.gauges import Gauges, Work
from runtime.logs import Logs
from runtime.memory import as_out_of_memory, keep_freed_memory
from runtime.outputs import Outputs
from runtime.place import choose_device
from runtime.precision import Precision
from runtime.preemption import NO_PROGRESS, PreemptionFlag, last_words
from runtime.resume import Resume
from runtime.update import Ids, Updater
from storage import checkpoint
from storage.errors import (
    CheckpointError,
    DiskError,
    LockError,
    NonFiniteError,
    Preempted,
    UsageError,
)
from storage.listing import Listing

_SAVE, _STOP = 1, 2  # what a rank may ask for after a turn
_STATUS_S = 10.0  # seconds after which status.json is written anew
_REFUSED = (2, 3, 6)  # exit codes of wrong options, and of networks or data that cannot be read


class Run(Outputs):
    """One training run as a context manager: directory, lock, device, resume, loop, logs.

    args: options with those of `runtime.options.add_run_args` among them.
    script: the script's name, a folder under the results.  name: short readable stem of the run's
    directory; a hash of the flags that shape data, model and loss is appended.
    shaping_exclude: flags of the script that only say where or how fast it runs.
    asked: args before what follows from the data was filled in (default: args); the run is known by
    these, and what follows has to be the same for a checkpoint to be loaded.
    length: the flag, if any, that says how long it is; keep_schedule: see `runtime.length`.
    inputs: (rank 0) what the options that name data and files mean, see `runtime.inputs`: the same
    one at another path is no other run. uid: the W&B id that it shall have, or is found by.
    display_name: what W&B shows (default: the directory's name).
    milestone_every: steps between checkpoints that stay, while they are small enough to
    (`checkpoint.prune`); `--resume N` means number N.
    scale_loss: dynamic loss scaling in fp16; without it, see `step(force_finite=True)`.

    Attributes: dir, device, rank, world_size, is_main, completed (steps done), nimg (images seen;
    scripts may add to it), resumed (a checkpoint was loaded), facts (to go into the provenance),
    precision, args, length, finished, grad_norm (of the last update, unclipped).
    """

    def __init__(
        self,
        args: Namespace,
        *,
        script: str,
        name: str,
        asked: Namespace | None = None,
        shaping_exclude: Iterable[str] = (),
        length: Sequence[str] = (),
        keep_schedule: bool = False,
        inputs: Callable[[], known_inputs.Inputs] | None = None,
        uid: str | None = None,
        display_name: str | None = None,
        project: str = "imle-lab",
        milestone_every: int | None = None,
        scale_loss: bool = True,
    ) -> None:
        if milestone_every is not None and milestone_every < 1:
            raise UsageError(f"milestone_every must be at least 1, not {milestone_every}")
        self.args = args
        self.script = script
        self.name = name
        self.project = project
        self.display_name = display_name
        self.milestone_every = milestone_every
        self.scale_loss = scale_loss
        self.uid = uid
        self._ask_inputs = inputs or dict
        self.length = lengths.Length(args, length, keep_schedule)
        self.exclude = frozenset(shaping_exclude)
        self.flags = rundir.shaping(args if asked is None else asked, self.exclude)
        self.derived = rundir.derived(args, asked, self.exclude | set(length))
        self.exclude |= self.length.names  # part of the hash, but free to change
        self.typed_as: dict[str, str] = getattr(args, "typed_as", {})  # where an option was renamed
        self.config_hash = rundir.config_hash(script, self.flags)
        self.completed = 0
        self.nimg = 0
        self.resumed = False
        self.facts: dict[str, Any] = {}
        self._images_per_step = 0
        self.finished = False
        self._in_body = False
        self._unwritten: DiskError | None = None
        self._shots: list[Path] = []
        self._lock: rundir.RunDir | None = None
        self._ended = True  # status.json has it that no launch is going on
        self._code: int | None = None  # what status.json has that the launch ended with
        self._useless = False  # the directory holds nothing but a wrong command line
        self._flag = PreemptionFlag(self._preempted)
        self._reached = 0  # steps that earlier launches came to, saved or not (rank 0)
        self._save_timer, self._status_timer = Every(60 * args.save_minutes), Every(_STATUS_S)

    # ------------------------------------------------------------------------------ open and close

    def __enter__(self) -> "Run":
        args = self.args
        if args.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        self.device = choose_device(args.gpus)
        if self.device.type == "cpu":
            keep_freed_memory()  # activations, freed and made again in every step
        distributed.init(self.device)
        self.rank, self.world_size = distributed.rank(), distributed.world_size()
        self.is_main = distributed.is_main()
        self._logs = Logs(self.device, main=self.is_main)
        self.spent = self._logs.spent
        self._was_deterministic = torch.are_deterministic_algorithms_enabled()
        self._flag.install()
        try:
            self.precision = Precision(args.precision, self.device)
            if not self.scale_loss:
                self.precision.scaler = None
            self.precision.apply(self.say)
            torch.use_deterministic_algorithms(args.deterministic, warn_only=True)
            torch.backends.cudnn.deterministic = args.deterministic
            torch.backends.cudnn.benchmark = not args.deterministic
            self._updater = Updater(self.precision.scaler, self.say, self._logs.meters.add)
            asked = rundir.asked_folder(args, self.script, self.say)
            self.resume = Resume(args.resume, asked, self.milestone_every)
            self.dir, self.inputs = distributed.from_main(self._open_dir)
            self.resume.inputs = self.inputs
            self.checkpoints = self.dir / "checkpoints"
            self._history = history.History(self.dir)
            self._saver = saving.Saver(
                self.checkpoints, self.say, keep=self.args.keep, check=self.check_folder
            )
            self._logs.describe(
                self.dir, args.wandb, project=self.project, name=self.display_name or self.dir.name,
                config=rundir.plain(vars(args)), tensorboard=args.tensorboard,
            )  # fmt: skip
            where = (self.dir, self.device, self.precision.dtype)
            self._gauges = Gauges(*where, args.profile, main=self.is_main, say=self.say)
            seeding.seed_all(seeding.hash64("init", args.seed))
        except BaseException as error:
            self._failed(error)
            self._release()
            raise
        return self

    def _open_dir(self) -> tuple[Path, known_inputs.Inputs]:
        """Find, lock and describe the run directory (rank 0)."""
        self.inputs = known_inputs.named(self._ask_inputs(), self.flags)
        path, said = lookup.choose(self, self.resume, self.args.results_path)
        job = provenance.job()
        self._lock = rundir.RunDir(path, job)
        lock = self._lock
        self._logs.keep, self._logs.mine = lock.log, lambda: lock.mine
        correctable = self._lock.admit(self, self.say)
        checkpoint.sweep(path / "checkpoints", self.say)
        for line in (f"run directory {path}", *said):
            self.say(line)
        self._lock.sweep(self.say)
        self._logs.wandb_id = self._lock.take_id(self.uid, self.say)
        self._reached = self._lock.reached()
        self._ended = False
        record = {**self._known(), "name": self.name, "shaping": self.flags}
        self._provenance = self._lock.begin(record, correctable, job, self.world_size)
        return path, self.inputs

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._gauges.close()
            self._end(error)
        except BaseException as other:
            self._failed(other)
            raise
        finally:
            self._release()

    def _failed(self, error: BaseException) -> None:
        """Note an error of beginning or ending, where no end is noted yet."""
        if not self._ended:
            error = distributed.lost_rank(error) or error
            self._status("failed", rundir.exit_code_of(error), str(error) or type(error).__name__)

    def _release(self) -> None:
        self._logs.close_bar()
        self._flag.restore(self._code)
        torch.use_deterministic_algorithms(self._was_deterministic)
        if self._lock is not None:
            self._lock.discard() if self._useless else self._lock.release()

    def _end(self, error: BaseException | None) -> None:
        """Write down how the run ended; raise what the process should end with."""
        if error is None and self._in_body:
            error = UsageError(
                f"the loop of run.steps was left by break, return or a caught exception in step "
                f"{self.completed}; end a run early with run.steps(..., stop_at=)"
            )
            self._close("failed", error.exit_code, str(error))
            raise error
        if error is None:
            if self.finished and self._logs.begun:
                try:
                    self._check_finished()
                except (LockError, DiskError) as lost:
                    self._close("failed", lost.exit_code, str(lost))
                    raise
            self._close("finished" if self.finished else "stopped", 0)
        elif isinstance(error, (Preempted, KeyboardInterrupt)):
            self._end_preempted(error)
        else:
            wrapped = distributed.lost_rank(error) or as_out_of_memory(
                error, self.completed, vars(self.args), self.device
            )
            final = wrapped or error
            code = rundir.exit_code_of(final)
            created = self._lock is not None and self._lock.created
            self._useless = code in _REFUSED and not self._logs.begun and created
            ended = "failed" if code else "finished" if self.finished else "stopped"
            self._close(ended, code, str(final) or type(final).__name__)
            if wrapped is not None:
                raise wrapped from error

    def _end_preempted(self, error: BaseException) -> None:
        # Objects are as the last turn left them, unless this one updated something.  Ranks reach a
        # KeyboardInterrupt apart, and cannot save together.
        together = isinstance(error, Preempted) or self.world_size == 1
        body = self._in_body and not self._updater.applied
        if body and together and self._saver.saved_step != self.completed:
            self._try_save()
        self.say(self._preempted(self._flag.signal or "interrupt"))
        self._logs.close(Preempted.exit_code)
        raise SystemExit(Preempted.exit_code) from None

    def _preempted(self, name: str) -> str:
        """Last words of a run that a signal ends; status.json has them from here on."""
        steps = checkpoint.steps_of(self.checkpoints) or [0]
        requeue = self._lock is None or self._lock.made_progress(steps[-1], NO_PROGRESS)
        self._status("preempted", Preempted.exit_code, name, wants_requeue=requeue)
        saved = self._saver.saved_step == self.completed
        return f"{name}: {last_words(self.completed, saved, steps != [0], requeue)}"

    def _close(self, state: str, code: int, message: str = "") -> None:
        # The status first: nothing that curves or W&B do then can change it.
        self._status(state, code, message)
        self._logs.close(code)

    def _status(
        self, state: str, code: int | None, message: str = "", *, wants_requeue: bool = False
    ) -> None:
        self._code = code
        if self._lock is not None:
            self._ended = state != "running"
            self._status_timer.restart()
            now: dict[str, Any] = {"step": self.completed, "nimg": self.nimg, "exit_code": code}
            self._lock.write_status(state, **now, message=message, wants_requeue=wants_requeue)

    # ------------------------------------------------------------------------------ state

    def restore(self, **objects: saving.Stateful) -> int:
        """Take over everything that has state; load it if there is a checkpoint to go on from.

        Each object needs `state_dict` and `load_state_dict`, and the names must be those of the
        checkpoint: one missing or extra is a CheckpointError.  Every rank loads the same file.
        Returns the number of completed steps, 0 for a fresh run.  DataError: see `trains_on`.
        """
        self._saver.objects = saving.accept(objects)
        path = distributed.from_main(lambda: self.resume.choose(self.checkpoints, self.say))
        if path is None:
            saving.check(self._saver.objects)  # fail now, not at the first save
        else:
            self._load(path)
        new, done = path is None, self.completed
        if distributed.from_main(lambda: self.resume.settle(self.dir, done, self.say, fresh=new)):
            self._status("running", None)
        self.say(self.resume.tell_lost(self._reached, done, self.args))
        return self.completed

    def trains_on(self, data: Listing | None) -> None:
        """Have `restore` refuse to go on with other pictures (DataError); None: never others."""
        self.resume.data = data

    def _load(self, path: Path) -> None:
        loaded = self._saver.load(path, lambda meta: rundir.admit(path, meta, self))
        meta, own = loaded.meta, loaded.state
        self.completed, self.nimg, self.resumed = loaded.step, meta["nimg"], True
        if path.parent == self.checkpoints:  # one that starts from another run has an id of its own
            self._logs.wandb_id = meta["wandb_id"] or self._logs.wandb_id
            self.say(points.lost(self.dir / "metrics.jsonl", meta, self.completed))
            if self.is_main:
                history.tell_lost(self.dir, meta.get("history"), self.say)
        self._updater.streak, self._updater.idle = meta["nonfinite_streak"], meta.get("idle", 0)
        if self.is_main:
            self._logs.meters.load_state_dict(meta["meters"])
        if self.precision.scaler is not None and own["scaler"] is not None:
            self.precision.scaler.load_state_dict(own["scaler"])
        if self.rank < len(own["rng"]):
            seeding.set_rng_state(own["rng"][self.rank], self.device)
        self.say(f"resumed step {self.completed} (verified) from {path}")
        self.say(self.length.go_on(meta))
        if meta["world_size"] != self.world_size:
            self.say(f"world size {meta['world_size']} -> {self.world_size}: not bit-exact")

    def _save(self, milestone: bool = False, last: bool = False) -> None:
        """Checkpoint of the completed step (all ranks call this together); see `Saver.save`."""
        start = time.monotonic()
        self._flag.saving = True
        try:
            scaler = self.precision.scaler
            own = {
                "rng": distributed.gather_object(seeding.rng_state(self.device)),
                "scaler": None if scaler is None else scaler.state_dict(),
            }
            meta = {
                **self._known(),
                "step": self.completed,
                "nimg": self.nimg,
                "shaping": self.flags,
                "world_size": self.world_size,
                "lineage": self.resume.lineage,
                "wandb_id": self._logs.wandb_id,
                "nonfinite_streak": self._updater.streak,
                "idle": self._updater.idle,
                "meters": self._logs.meters.state_dict(distributed.gather_object),
                "time": rundir.timestamp(),
                "inputs": self.inputs,
                "points": points.count(self.dir / "metrics.jsonl"),
                "history": self._history.record() if self.is_main else {},
                **self.length.record(),
            }
            done = self._saver.save(self.completed, own, meta, milestone=milestone, last=last)
        finally:
            self._flag.saving = False
            self._save_timer.restart(time.monotonic() - start)
        if done:
            self._status("running", None)
            if self.is_main and self._lock is not None:
                self._lock.log(f"saved step {self.completed} in {time.monotonic() - start:.1f} s")

    def _fresh_status(self) -> None:
        if self._status_timer.due():
            self._status("running", None)

    def _try_save(self) -> bool:
        """Last save of a preempted run; False if it failed, which leaves the previous one."""
        try:
            self._save()
        except (DiskError, NonFiniteError, CheckpointError) as error:
            self.say(str(error))
        return self._saver.saved_step == self.completed

    # ------------------------------------------------------------------------------ the loop

    def steps(
        self,
        total: int | Callable[[], int],
        *,
        stop_at: int | None = None,
        images_per_step: int = 0,
        cycle: int | None = None,
        work: Work = lambda step: "step",
    ) -> Iterator[int]:
        """Yield the 0-based index of each step from the restored one to `total`.

        total: a function is asked again after every step, for training whose length is counted in
        something else; what it returns must follow from restored state alone, and on all ranks.

        Every step is seeded from (seed, step, rank).  After the body: count, log, and save when due
        (`--save_every`, `--save_minutes` on rank 0's clock, milestones, the last), or when a signal
        came, which then raises Preempted.
        stop_at: end this process in good order after that step, short of `total`.  cycle: steps
        after which searches and evaluations come again, for the time left (default: milestones).
        work: what tells steps apart that compute more or less; see `runtime.flops.StepFlops`.
        """
        if self._saver.objects is None:
            raise UsageError(
                "call run.restore(...) with everything that has state before run.steps"
            )
        self._images_per_step = images_per_step
        ask = total if callable(total) else lambda: total

        def ends() -> tuple[int, int]:
            whole = ask()
            return whole, whole if stop_at is None else min(whole, stop_at)

        whole, end = ends()
        self.finished = self.completed >= whole
        self.length.check(self.completed, whole, self.say)
        if self.completed >= end:
            word = "finished" if self.finished else "stopped"
            return self.say(f"{word}: {self.completed} of {whole} steps are done, in {self.dir}")
        self._gauges.begin(self.completed, end)
        self._logs.begin(self.name, self.completed, whole, cycle or self.milestone_every or 1)
        self._status("running", None)
        self._save_timer.restart()
        self._raise_if_preempted()
        while self.completed < end:
            index = self.completed
            seeding.seed_step(self.args.seed, index, self.rank)
            self._updater.begin_turn()
            self._gauges.turn(index, work(index))
            self._unwritten, self._shots = None, []
            self._in_body = True
            yield index
            self._in_body = False
            self._gauges.end()
            self.completed = index + 1
            self.nimg += images_per_step
            self._updater.end_turn()
            whole, end = ends()
            self._after_turn(whole, last=self.completed >= end)
        self._logs.close_bar()
        self.finished = self.completed >= whole
        if self.finished:
            self._saver.finish()

    def _after_turn(self, whole: int, last: bool) -> None:
        every = self.milestone_every
        milestone = every is not None and self.completed % every == 0
        if last or self.completed % self.args.log_every == 0:
            self._logs.flush(self.completed, self.nimg, self._gauges.figures)
        self._logs.advance(whole)  # with this step's figures
        self._fresh_status()
        due = self.completed % self.args.save_every == 0 and self._updater.streak == 0
        if due or milestone or last:
            if last:  # before the save, so that this step is done again
                self._check_updates()
                self._check_snapshots()
            self._save(milestone, last)
            if milestone and not last:  # drawn again at the end
                self._logs.redraw_curves()
        # After the save, so that a signal during it needs no further step.
        while not last and (wanted := self._agree()):
            if wanted == _STOP:
                if self._saver.saved_step != self.completed:
                    self._try_save()
                raise Preempted(f"preempted after step {self.completed}")
            self._save()

    def _agree(self) -> int:
        """What all ranks do: _STOP by anybody's signal, _SAVE by the main one's clock."""
        unsaved = self._saver.saved_step != self.completed and self._updater.streak == 0
        overdue = self.is_main and unsaved and self._save_timer.due()
        return distributed.all_reduce_max(_STOP if self._flag.is_set else _SAVE * overdue)

    def backward(self, loss: torch.Tensor, ids: Ids = None, last: bool = True) -> None:
        """Backpropagate the scalar `loss`; several calls before `step` accumulate.

        Divide by the number of parts yourself.  ids: the samples in it, for the report when it is
        not finite.  last=False promises another part, and `step` insists on it.
        """
        self._updater.backward(loss, ids, last)

    def step(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        clip: float | None = None,
        force_finite: bool = False,
    ) -> bool:
        """Average the gradients over ranks, clip them to norm `clip`, update, clear them.

        force_finite: gradients that overflowed count as 0 (the fp16 recipe of EDM2, without loss
        scaling); a loss that is not finite is still refused.
        False if something was not finite on any rank: then nothing was updated, and neither should
        EMA and schedule be (`if run.step(opt): ema.update(net)`).  Three such turns in a row raise
        NonFiniteError.  In fp16 an overflow also gives False, and counts for nothing.
        """
        done = self._updater.step(optimizer, clip, self.completed, force_finite)
        self._gauges.updated()
        return done

    def spoil(self, bad: torch.Tensor, what: str, hint: str) -> None:
        """Before `step`: skip this update, as one of those that are not finite, if `bad` (bool
        scalar on any device, which nobody waits for).

        what: is not finite, in the plural or as "loss"; hint: what to do, for when it ends the run.
        """
        self._updater.spoil(bad, what, hint)

    def _check_updates(self) -> None:
        """NonFiniteError for a run that ends without a single update."""
        if 0 < self.completed <= self._updater.idle:
            raise NonFiniteError(
                f"none of the {self.completed} steps made an update (see above why): there is "
                "nothing to finish with; look at data and learning rate, or train for longer"
            )

    def check_preempted(self) -> None:
        """Raise Preempted on every rank if a signal came; for long phases inside a turn.

        All ranks must call it equally often, before the turn's first update, while every restored
        object is as the last completed turn left it: that is what gets saved.  After an update it
        does nothing, and the turn is finished first.  After the loop all is saved already.
        """
        if not (self._in_body and self._updater.applied):
            self._raise_if_preempted()

    def phase(self, name: str, together: bool = True) -> Callable[[int, int], None]:
        """Callback (done, total) for a long phase: it shows, and signals end it, unless not all
        ranks call it equally often (`together` False)."""

        def report(done: int, total: int) -> None:
            self._logs.phase(name, done, total)
            self._fresh_status()
            if together:
                self.check_preempted()

        return report

    def _raise_if_preempted(self) -> None:
        if distributed.all_reduce_max(int(self._flag.is_set)):
            raise Preempted(f"preempted in step {self.completed}")

    @property
    def grad_norm(self) -> float:
        """Norm of the last update's gradients, over ranks, before clipping."""
        return self._updater.grad_norm
