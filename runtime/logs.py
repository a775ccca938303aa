"""What a run tells: lines on the console and in log.txt, figures, pictures, the bar.

All ranks have one, since means are taken over ranks; only rank 0 prints and writes.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from runtime import distributed
from runtime.meters import Meters
from runtime.progress import Progress
from runtime.spent import Spent
from runtime.tracker import Tracker
from storage.console import tell
from storage.errors import UsageError, first_line
from storage.pictures import Captions, save_sheet

REDRAW_S = 60.0  # curves take seconds to draw; within the loop not more often than this


class Logs:
    """The console, the meters, the tracker and the bar of one run.

    `keep`, where set, takes every line that is said (log.txt). `mine` says whether the folder may
    be written to; where it may not, nothing goes there any more. `wandb_id` is what a resumed run
    goes on under, None until there is one.
    """

    def __init__(self, device: torch.device, *, main: bool) -> None:
        self.device, self.main = device, main
        self.keep: Callable[[str], None] | None = None
        self.mine: Callable[[], bool] = lambda: True
        self.meters = Meters()
        self.spent = Spent()
        self.wandb_id: str | None = None
        self._tracker: Tracker | None = None
        self._bar: Progress | None = None
        self._phase: tuple[str, Progress] | None = None  # outside of the loop
        self._looped = False
        self._window = (0.0, 0)  # time and step of the last line of figures
        self._drawn = 0.0  # when curves were drawn last, or the loop began

    def describe(
        self,
        folder: Path,
        mode: str,
        *,
        project: str,
        name: str,
        config: Mapping[str, Any],
        tensorboard: bool = False,
    ) -> None:
        """Where figures and pictures go, and what W&B (`mode`) shows; nothing is opened yet."""
        self.folder, self._mode, self._tensorboard = folder, mode, tensorboard
        self._project, self._name, self._config = project, name, dict(config)

    # ------------------------------------------------------------------------------ open and close

    def tracker(self, step: int) -> Tracker:
        """The tracker, opened on first use: a refused or finished run leaves no trace in W&B.

        step: completed ones; figures of later steps, of a run that was killed, are forgotten.
        """
        if self._tracker is None:
            self._tracker = Tracker(
                self.folder,
                self._mode,
                project=self._project,
                name=self._name,
                config=self._config,
                is_main=self.main,
                wandb_id=self.wandb_id,
                resume_step=step,
                tensorboard=self._tensorboard,
            )
            self.wandb_id = self._tracker.id
        return self._tracker

    def begin(self, name: str, step: int, total: int, cycle: int = 1) -> None:
        """Open everything for the loop: the bar called `name` stands at `step` of `total`.

        cycle: steps after which kinds of steps repeat.
        """
        self.tracker(step)
        self._window = (time.monotonic(), step)
        self._drawn = time.monotonic()
        self.spent.pop(1)  # what was before is of the start
        self._bar = Progress(total, desc=name, initial=step, cycle=cycle, main=self.main)
        self._looped = True

    @property
    def begun(self) -> bool:
        """Whether the loop has begun."""
        return self._looped

    def close(self, code: int) -> None:
        """End bar and tracker; curves.png is drawn if the run ends well (`code` 0)."""
        self.close_bar()
        if self._tracker is not None:
            if code == 0:
                self.draw_curves()
            tracker, self._tracker = self._tracker, None
            with self._aside("W&B did not end well"):
                tracker.finish(code)
        if self.begun and code == 0:
            self.say(f"results {self.folder}")

    def close_bar(self) -> None:
        """Leave the terminal as it was; the loop is over."""
        self._end_phase()
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    @contextlib.contextmanager
    def _aside(self, what: str) -> Iterator[None]:
        """Something beside the training: where it fails, that is said, and no more."""
        try:
            yield
        except (Exception, SystemExit) as error:  # an odd package may end the process at its import
            self.say(f"{what}: {first_line(error)}")

    # ------------------------------------------------------------------------- lines and the bar

    def say(self, text: str) -> None:
        """Print a line (rank 0), beside the bar, and keep it; nothing for ""."""
        if not self.main or not text:
            return
        bar = self._bar or (self._phase and self._phase[1])
        if bar and sys.stdout is not None and sys.stdout.isatty():
            bar.write(text)  # above the bar
        else:
            tell(text)
        if self.keep is not None:
            self.keep(text)

    def advance(self, total: int) -> None:
        """One more step of `total` on the bar."""
        if self._bar is not None:
            self._bar.set_total(total)
            self._bar.update(1)

    def phase(self, name: str, done: int, total: int) -> None:
        """Where a long phase stands: beside the bar inside a step, elsewhere on a bar of its own.

        With `done` at `total` it is over.
        """
        if self._bar is not None:
            self._bar.note(f"{name} {done}/{total}" if done < total else "")
            return
        if self._phase is None or self._phase[0] != name or self._phase[1].n > done:
            self._end_phase()
            bar = Progress(total, desc=name, unit="part", main=self.main, brief=True)
            self._phase = (name, bar)
        self._phase[1].update(done - self._phase[1].n)
        if done >= total:
            self._end_phase()

    def _end_phase(self) -> None:
        if self._phase is not None:
            self._phase[1].close()
            self._phase = None

    # ------------------------------------------------------------------------- figures, pictures

    def flush(self, step: int, nimg: int, measured: Callable[[float], dict[str, float]]) -> None:
        """Write the means since the last call, over ranks, as figures of `step`.

        measured: further figures of the seconds that have passed since then.
        """
        values = self.meters.pop(distributed.gather_object)
        if not values or not self.main or not self.mine():
            return
        if nimg:
            values["nimg"] = nimg
        now, steps = time.monotonic(), step - self._window[1]
        if steps:
            values["time/step_s"] = (now - self._window[0]) / steps
            values |= measured(now - self._window[0]) | self.spent.pop(steps)
        if self.device.type == "cuda":
            values["memory/peak_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
        self._window = (now, step)
        self.tracker(step).log(values, step)
        if self._bar is not None:
            self._bar.postfix({k: v for k, v in values.items() if "/" not in k}, step)

    def grid(
        self,
        name: str,
        images: torch.Tensor,
        ncol: int,
        *,
        stamp: int,
        completed: int,
        captions: Captions | None = None,
    ) -> Path:
        """Save images [N, 3 or 1, H, W] in [0, 1] as `samples/{name}-{stamp}.png`, `ncol` a row."""
        title = captions.title if captions else None
        draw = lambda path: save_sheet(path, images, ncol, captions)  # noqa: E731
        self.picture(name, draw, stamp=stamp, completed=completed, caption=title)
        return self._sample(name, stamp)

    def picture(
        self,
        name: str,
        draw: Callable[[Path], Any],
        *,
        stamp: int,
        completed: int,
        caption: str | None = None,
    ) -> Any:
        """`draw` a PNG as `grid` names it (rank 0) and show it; what it returns, or None."""
        if not self.main or not self.mine():
            return None
        path = self._sample(name, stamp)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            found = draw(path)
        except UsageError:
            raise
        except (Exception, SystemExit) as error:  # a full disk, a font; no reason to stop
            self.say(f"samples {path.name} not written: {first_line(error)}")
            return None
        self.tracker(completed).image(name, path, stamp, caption=caption)
        self.say(f"samples {path}")
        return found

    def _sample(self, name: str, stamp: int) -> Path:
        return self.folder / "samples" / f"{name}-{stamp:09d}.png"

    def figure(self, values: Mapping[str, float], step: int, *, completed: int) -> None:
        """Write figures of `step` at once (rank 0), where `completed` steps are done."""
        if self.main and self.mine():
            self.tracker(completed).log(values, step)

    @property
    def lines(self) -> int | None:
        """Lines of metrics.jsonl that should be there; None where nothing was tracked here."""
        return None if self._tracker is None or not self.main else self._tracker.lines

    def redraw_curves(self) -> None:
        """`draw_curves` within the loop, where the last time, or its begin, is a while ago."""
        if time.monotonic() - self._drawn >= REDRAW_S:
            self.draw_curves()

    def draw_curves(self) -> None:
        """Draw curves.png from metrics.jsonl, once the tracker is open."""
        if self.main and self._tracker is not None and self.mine():
            # A full disk, no matplotlib: the figures are in metrics.jsonl.
            with self._aside("curves.png not drawn"):
                self._tracker.curves()
        self._drawn = time.monotonic()
