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
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch

from runtime import distributed, provenance, resume, rundir, seeding
from runtime.memory import as_out_of_memory, keep_freed_memory
from runtime.meters import Meters
from runtime.place import choose_device
from runtime.precision import Precision
from runtime.preemption import PreemptionFlag
from runtime.progress import Progress
from runtime.tracker import Tracker
from runtime.update import Ids, Updater
from storage import checkpoint, dirs
from storage.errors import CheckpointError, DiskError, NonFiniteError, Preempted, UsageError
from storage.pictures import save_grid

T = TypeVar("T")
SAVE_FAILURES = 3
_NO_PROGRESS = 3  # launches preempted at one and the same step
_REFUSED = (2, 3, 6)  # exit codes of wrong options, and of networks or data that cannot be read
_OWN = "_run"  # name of Run's own state among the checkpoint's objects


class Run:
    """One training run as a context manager: directory, lock, device, resume, loop, logs.

    args: options with those of `cli.add_run_args` among them.
    script: the script's name, a folder under the results.  name: short readable stem of the run's
    directory; a hash of the flags that shape data, model and loss is appended.
    shaping_exclude: flags of the script that only say where or how fast it runs.
    display_name: what W&B shows (default: the directory's name).
    milestone_every: steps between checkpoints that are never pruned; `--resume N` means number N.
    scale_loss: dynamic loss scaling in fp16; without it, see `step(force_finite=True)`.

    Attributes: dir, device, rank, world_size, is_main, completed (steps done), nimg (images seen;
    scripts may add to it), precision, args, finished, grad_norm (of the last update, unclipped).
    """

    def __init__(
        self,
        args: Namespace,
        *,
        script: str,
        name: str,
        shaping_exclude: Iterable[str] = (),
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
        self.exclude = frozenset(shaping_exclude)
        self.flags = rundir.shaping(args, self.exclude)
        self.config_hash = rundir.config_hash(script, self.flags)
        self.completed = 0
        self.nimg = 0
        self._images_per_step = 0
        self.finished = False
        self._objects: dict[str, Any] | None = None
        self._in_body = False
        self._saved_step = -1
        self._save_failures = 0
        self._unwritten: DiskError | None = None  # a snapshot of this turn that the disk refused
        self._tracker: Tracker | None = None
        self._wandb_id: str | None = None
        self._bar: Progress | None = None
        self._lock: rundir.RunDir | None = None
        self._useless = False  # the directory holds nothing but a wrong command line
        self._flag = PreemptionFlag()
        self._meters = Meters()

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
        self._was_deterministic = torch.are_deterministic_algorithms_enabled()
        self._flag.install()
        try:
            self.precision = Precision(args.precision, self.device)
            if not self.scale_loss:
                self.precision.scaler = None
            self.precision.apply_tf32_policy()
            torch.use_deterministic_algorithms(args.deterministic, warn_only=True)
            torch.backends.cudnn.deterministic = args.deterministic
            torch.backends.cudnn.benchmark = not args.deterministic
            self._updater = Updater(self.precision.scaler, self.say)
            self.resume = resume.Resume(args.resume, args.run_dir, self.milestone_every)
            self.dir = self._from_main(self._open_dir)
            self.checkpoints = self.dir / "checkpoints"
            seeding.seed_all(seeding.hash64("init", args.seed))
        except BaseException:
            self._release()
            raise
        return self

    def _open_dir(self) -> Path:
        """Find, lock and describe the run directory (rank 0)."""
        folder = rundir.folder_name(self.name, self.config_hash)
        root = Path(self.args.results_path) if self.args.results_path else dirs.results_home()
        path = self.resume.run_dir or root / self.script / folder
        path = Path(os.path.abspath(path.expanduser()))
        job = provenance.job()
        self._lock = rundir.RunDir(path, job)
        known = self._lock.read_args()
        # Before there is any checkpoint, flags may still be corrected.
        trained = any((path / "checkpoints").glob("step-*"))
        if known is not None:
            if known.get("script") != self.script:
                raise UsageError(f"{path} belongs to {known.get('script')}, not to {self.script}")
            if trained:
                rundir.refuse_changes(known["shaping"], self.flags, str(path), self.exclude)
        checkpoint.sweep(path / "checkpoints", self.say)
        self.say(f"run directory {path}")
        if self.resume.run_dir is None:
            for other in rundir.siblings(path, self.name):
                self.say(f"another run of this name with other options is there: {other}")
        origin = provenance.collect(path)
        record = {"script": self.script, "name": self.name, "config_hash": self.config_hash}
        record |= {"args": rundir.plain(vars(self.args)), "shaping": self.flags}
        if known is None or not trained:
            self._lock.write_args(record | {"provenance": origin})
        self._provenance = {k: origin[k] for k in ("command", "git", "host", "python", "slurm")}
        newest = checkpoint.steps_of(path / "checkpoints")[-1:]
        self._lock.add_launch(
            {"time": rundir.timestamp(), "from_step": newest[0] if newest else 0, "job": job}
            | {"world_size": self.world_size, "args": record["args"], "provenance": origin}
        )
        status = self._lock.read_status()
        if status.get("state") != "finished":
            self._lock.write_status("running", step=self.completed, nimg=self.nimg)
        return path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._end(error)
        finally:
            self._release()

    def _release(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._flag.restore()
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
            self._close_logs(error.exit_code)
            self._status("failed", error.exit_code, str(error))
            raise error
        if error is None:
            self._close_logs(0)
            self._status("finished" if self.finished else "stopped", 0)
        elif isinstance(error, (Preempted, KeyboardInterrupt)):
            self._end_preempted(error)
        else:
            wrapped = as_out_of_memory(error, self.completed, vars(self.args), self.device)
            final = wrapped or error
            code = getattr(final, "exit_code", None)
            if isinstance(final, SystemExit):
                code = final.code if isinstance(final.code, int) else int(final.code is not None)
            code = 1 if code is None else code
            begun = self._bar is not None
            self._close_logs(code)
            if code in _REFUSED and not begun and self._lock is not None and self._lock.created:
                self._useless = True
            message = str(final) or type(final).__name__
            self._status("failed" if code else "stopped", code, message)
            if wrapped is not None:
                raise wrapped from error

    def _end_preempted(self, error: BaseException) -> None:
        saved = self._saved_step == self.completed
        # A signal from outside the loop's own check: the objects are as the last turn left them,
        # unless this turn has updated something.  Ranks reach a KeyboardInterrupt separately, and
        # then cannot save together.
        together = isinstance(error, Preempted) or self.world_size == 1
        if not saved and together and self._in_body and not self._updater.applied:
            saved = self._try_save()
        name = self._flag.signal or "interrupt"
        if saved:
            at = f"state of step {self.completed} is saved"
        elif checkpoint.steps_of(self.checkpoints):
            at = "going back to the last save"
        else:
            at = "nothing was saved yet"
        requeue = self._made_progress()
        end = (
            "run the same command to go on"
            if requeue
            else (f"no progress in {_NO_PROGRESS} launches: not worth running again as it is")
        )
        self.say(f"{name}: {at}; {end}")
        self._close_logs(Preempted.exit_code)
        self._status("preempted", Preempted.exit_code, name, wants_requeue=requeue)
        raise SystemExit(Preempted.exit_code) from None

    def _made_progress(self) -> bool:
        """False if the last launches all began at the step that is newest now."""
        if self._lock is None:
            return True
        newest = checkpoint.steps_of(self.checkpoints)[-1:] or [0]
        starts = [launch.get("from_step") for launch in self._lock.launches()][-_NO_PROGRESS:]
        return len(starts) < _NO_PROGRESS or any(start != newest[0] for start in starts)

    def _close_logs(self, code: int) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._tracker is not None:
            if code == 0:
                self._draw_curves()
            self._tracker.finish(code)
            self._tracker = None

    def _status(
        self, state: str, code: int | None, message: str = "", *, wants_requeue: bool = False
    ) -> None:
        if self._lock is not None:
            self._lock.write_status(
                state,
                step=self.completed,
                nimg=self.nimg,
                exit_code=code,
                message=message,
                wants_requeue=wants_requeue,
            )

    def _from_main(self, work: Callable[[], T]) -> T:
        """Do `work` on rank 0; its result, or its error, reaches every rank."""
        result: T | None = None
        error: Exception | None = None
        if self.is_main:
            try:
                result = work()
            except Exception as caught:
                error = caught
        result, error = distributed.gather_object((result, error))[0]
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    # ------------------------------------------------------------------------------ state

    def restore(self, **objects: Any) -> int:
        """Take over everything that has state; load it if there is a checkpoint to go on from.

        Each object needs `state_dict` and `load_state_dict`, and the names must be those of the
        checkpoint: one missing or extra is a CheckpointError.  Every rank loads the same file.
        Returns the number of completed steps, 0 for a fresh run.
        """
        self._objects = resume.accept(objects)
        path = self._from_main(lambda: self.resume.choose(self.checkpoints, self.say))
        if path is None:
            resume.check(self._objects)  # fail now, not at the first save
            return 0
        self._load(checkpoint.load_path(path, verified=self.is_main), path)
        return self.completed

    def _load(self, loaded: checkpoint.Loaded, path: Path) -> None:
        meta, own = loaded.meta, loaded.state.pop(_OWN)
        if meta["script"] != self.script:
            raise CheckpointError(f"{path} was written by {meta['script']}, not by {self.script}")
        rundir.refuse_changes(meta["shaping"], self.flags, str(path), self.exclude)
        resume.load(self._objects, loaded.state, path.name)
        self.completed, self.nimg = loaded.step, meta["nimg"]
        self._saved_step = self.completed
        if path.parent == self.checkpoints:  # one that starts from another run has an id of its own
            self._wandb_id = meta["wandb_id"]
        self._updater.streak = meta["nonfinite_streak"]
        if self.is_main:
            self._meters.load_state_dict(meta["meters"])
        if self.precision.scaler is not None and own["scaler"] is not None:
            self.precision.scaler.load_state_dict(own["scaler"])
        if self.rank < len(own["rng"]):
            seeding.set_rng_state(own["rng"][self.rank], self.device)
        self.say(f"resumed step {self.completed} (verified) from {path}")
        if meta["world_size"] != self.world_size:
            self.say(f"world size {meta['world_size']} -> {self.world_size}: not bit-exact")

    def _save(self, milestone: bool = False, last: bool = False) -> None:
        """Checkpoint of the completed step (all ranks call this together).

        A full disk is said and survived SAVE_FAILURES - 1 times in a row, but not at the last step:
        a run whose result is not there must not count as done.
        """
        start = time.monotonic()
        self._flag.saving = True
        try:
            rng = distributed.gather_object(seeding.rng_state(self.device))
            meters = self._meters.state_dict(distributed.gather_object)
            self._from_main(
                lambda: resume.refuse_bad_weights(
                    self._objects or {}, self.completed, checkpoint.steps_of(self.checkpoints)
                )
            )
            failure = self._from_main(lambda: self._write(rng, meters, milestone))
        finally:
            self._flag.saving = False
        self._save_failures = self._save_failures + 1 if failure else 0
        if failure:
            text = f"{failure} ({self._save_failures}/{SAVE_FAILURES})"
            self.say(text)
            if last or self._save_failures >= SAVE_FAILURES:
                raise DiskError(text)
            return
        self._saved_step = self.completed
        self._status("running", None)
        if self.is_main and self._lock is not None:
            self._lock.log(f"saved step {self.completed} in {time.monotonic() - start:.1f} s")

    def _try_save(self) -> bool:
        """Last save of a preempted run; False if it failed, which leaves the previous one."""
        try:
            self._save()
        except (DiskError, NonFiniteError, CheckpointError) as error:
            self.say(str(error))
        return self._saved_step == self.completed

    def _write(self, rng: list[Any], meters: dict[str, Any], milestone: bool) -> str | None:
        scaler = self.precision.scaler
        saved = {name: obj.state_dict() for name, obj in (self._objects or {}).items()}
        saved[_OWN] = {"rng": rng, "scaler": None if scaler is None else scaler.state_dict()}
        meta = {
            "script": self.script,
            "step": self.completed,
            "nimg": self.nimg,
            "args": rundir.plain(vars(self.args)),
            "shaping": self.flags,
            "config_hash": self.config_hash,
            "world_size": self.world_size,
            "lineage": self.resume.lineage,
            "wandb_id": self._wandb_id,
            "nonfinite_streak": self._updater.streak,
            "meters": meters,
            "time": rundir.timestamp(),
        }
        try:
            checkpoint.save_state(
                self.checkpoints, self.completed, saved, meta, milestone, self.say
            )
        except DiskError as error:
            return str(error)
        return None

    # ------------------------------------------------------------------------------ the loop

    def steps(
        self,
        total: int | Callable[[], int],
        *,
        stop_at: int | None = None,
        images_per_step: int = 0,
    ) -> Iterator[int]:
        """Yield the 0-based index of each step from the restored one to `total`.

        total: a function is asked again after every step, for training whose length is counted in
        something else; what it returns must follow from restored state alone, and on all ranks.

        Every step is seeded from (seed, step, rank).  After the body: count, log, and save when due
        (`--save_every`, milestones, the last), or when a signal came, which then raises Preempted.
        stop_at: end this process in good order after that step, short of `total`.
        """
        if self._objects is None:
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
        if self.completed >= end:
            word = "finished" if self.finished else "stopped"
            self.say(f"{word}: {self.completed} of {whole} steps are done, in {self.dir}")
            return
        self._open_logs(whole)
        self._raise_if_preempted()
        while self.completed < end:
            index = self.completed
            seeding.seed_step(self.args.seed, index, self.rank)
            self._updater.begin_turn()
            self._unwritten = None
            self._in_body = True
            yield index
            self._in_body = False
            self.completed = index + 1
            self.nimg += images_per_step
            self._updater.end_turn()
            whole, end = ends()
            self._bar.set_total(whole)
            self._after_turn(last=self.completed >= end)
        self.finished = self.completed >= whole

    def _after_turn(self, last: bool) -> None:
        self._bar.update(1)
        milestone = bool(self.milestone_every) and self.completed % self.milestone_every == 0
        if last or self.completed % self.args.log_every == 0:
            self._flush_log()
        due = self.completed % self.args.save_every == 0 and self._updater.streak == 0
        if due or milestone or last:
            if last and self._unwritten is not None:
                raise self._unwritten  # before the save, so that this step is done again
            self._save(milestone, last)
            if milestone:
                self._draw_curves()
        # After the save, so that a signal during it needs no further step.
        if not last and distributed.all_reduce_max(int(self._flag.is_set)):
            if self._saved_step != self.completed:
                self._try_save()
            raise Preempted(f"preempted after step {self.completed}")

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
        return self._updater.step(optimizer, clip, self.completed, force_finite)

    def check_preempted(self) -> None:
        """Raise Preempted on every rank if a signal came; for long phases inside a turn.

        All ranks must call it equally often, before the turn's first update, while every restored
        object is as the last completed turn left it: that is what gets saved.  After an update it
        does nothing, and the turn is finished first.  After the loop all is saved already.
        """
        if not (self._in_body and self._updater.applied):
            self._raise_if_preempted()

    def phase(self, name: str) -> Callable[[int, int], None]:
        """Callback (done, total) for a long phase inside a turn: it shows, and signals end it."""

        def report(done: int, total: int) -> None:
            if self._bar is not None:
                self._bar.note(f"{name} {done}/{total}" if done < total else "")
            self.check_preempted()

        return report

    def _raise_if_preempted(self) -> None:
        if distributed.all_reduce_max(int(self._flag.is_set)):
            raise Preempted(f"preempted in step {self.completed}")

    @property
    def grad_norm(self) -> float:
        """Norm of the last update's gradients, over ranks, before clipping."""
        return self._updater.grad_norm

    # ------------------------------------------------------------------------------ logs and files

    def say(self, text: str) -> None:
        """Print a line (rank 0), beside the bar, and keep it in log.txt."""
        if not self.is_main:
            return
        if self._bar is not None and sys.stdout.isatty():
            self._bar.write(text)  # above the bar
        else:
            print(text, flush=True)
        if self._lock is not None:
            self._lock.log(text)

    def log(self, **scalars: torch.Tensor | float) -> None:
        """Note scalars of this step; means over `--log_every` steps and ranks are written.

        Tensors stay on their device until then.
        """
        self._meters.add(scalars)

    def log_sums(self, **sums: tuple[torch.Tensor | float, torch.Tensor | float]) -> None:
        """Note (sum, count) pairs, for means over a number of values that differs by step."""
        self._meters.add_sums(sums)

    @property
    def _stamp(self) -> int:
        """Steps that the weights of this moment have seen."""
        return self.completed + int(self._in_body and self._updater.attempted)

    def log_now(self, **scalars: torch.Tensor | float) -> None:
        """Write figures of validation at once, under the steps that the weights have seen."""
        if self.is_main:
            values = {k: float(v) for k, v in scalars.items()}
            self._logs().log(values, self._stamp)

    def _flush_log(self) -> None:
        values = self._meters.pop(distributed.gather_object)
        if not values or not self.is_main:
            return
        if self.nimg:
            values["nimg"] = self.nimg
        now, steps = time.monotonic(), self.completed - self._window[1]
        if steps:
            values["time/step_s"] = (now - self._window[0]) / steps
        if self.device.type == "cuda":
            values["memory/peak_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
        self._window = (now, self.completed)
        self._tracker.log(values, self.completed)
        self._bar.postfix({k: v for k, v in values.items() if "/" not in k})

    def _logs(self) -> Tracker:
        """The tracker, opened on first use: a refused or finished run leaves no trace in W&B."""
        if self._tracker is None:
            self._tracker = Tracker(
                self.dir,
                self.args.wandb,
                project=self.project,
                name=self.display_name or self.dir.name,
                config=rundir.plain(vars(self.args)),
                is_main=self.is_main,
                wandb_id=self._wandb_id,
                resume_step=self.completed,
            )
            self._wandb_id = self._tracker.id
        return self._tracker

    def _open_logs(self, total: int) -> None:
        self._logs()
        self._window = (time.monotonic(), self.completed)
        self._bar = Progress(total, desc=self.name, initial=self.completed, main=self.is_main)

    def sample_grid(
        self, name: str, images: torch.Tensor, ncol: int, caption: str | None = None
    ) -> Path:
        """Save images [N, 3 or 1, H, W] in [0, 1] as one PNG, `ncol` a row; returns its path.

        The file is `samples/{name}-{steps the weights have seen}.png`; the path is printed, W&B
        gets it too.
        """
        path = self.dir / "samples" / f"{name}-{self._stamp:09d}.png"
        if self.is_main:
            try:
                save_grid(path, images, ncol)
            except OSError as error:  # a full disk; pictures are no reason to stop
                self.say(f"samples {path.name} not written: {error}")
                return path
            self._logs().image(name, path, self._stamp, caption=caption)
            self.say(f"samples {path}")
        return path

    def curve(self) -> Path:
        """Draw curves.png from metrics.jsonl; also done at milestones and at the end."""
        self._logs()
        self._draw_curves()
        return self.dir / "curves.png"

    def _draw_curves(self) -> None:
        if self.is_main:
            try:
                self._tracker.curves()
            except OSError as error:  # a full disk; the figures themselves are in metrics.jsonl
                self.say(f"curves.png not drawn: {error}")

    def provenance(self) -> dict[str, Any]:
        """Where weights of this moment come from: command, commit, host, flags, step."""
        origin = self._from_main(lambda: self._provenance)
        return origin | {
            "script": self.script,
            "run": self.dir.name,
            "config_hash": self.config_hash,
            "args": rundir.plain(vars(self.args)),
            "step": self._stamp,
            "nimg": self.nimg + self._images_per_step * (self._stamp - self.completed),
            "torch": torch.__version__,
            "time": rundir.timestamp(),
        }

    def snapshot(
        self,
        name: str,
        module: torch.nn.Module,
        kind: str,
        config: dict[str, Any],
        **extra_provenance: Any,
    ) -> Path:
        """Write `snapshots/{name}.safetensors`: weights, constructor arguments, provenance.

        Pass the EMA's module or the raw one, as you mean it.  Rank 0 writes, all ranks call it.
        A full disk is said and training goes on, but a run cannot finish without the snapshots of
        its last step: DiskError at its end, and at once outside the loop.
        """
        path = self.dir / "snapshots" / f"{name}.safetensors"
        origin = self.provenance() | {k: rundir.plain(v) for k, v in extra_provenance.items()}
        weights = getattr(module, "_orig_mod", module).state_dict()
        try:
            return self._from_main(
                lambda: checkpoint.save_snapshot(path, weights, kind, config, origin)
            )
        except DiskError as error:
            if not self._in_body:
                raise
            self._unwritten = error
            self.say(str(error))
            return path

    def compile(self, module: torch.nn.Module) -> torch.nn.Module:
        """torch.compile(module) under `--compile`, else the module itself.

        Checkpoints and snapshots have the plain module's names either way.
        """
        return torch.compile(module) if self.args.compile else module
