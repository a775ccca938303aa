"""How long a run is, and what becomes of it when it is asked to be longer or shorter.

Two commands that differ only in the option that says how long a run is (the tag LENGTH of its
table) are one run: the second goes on with what the first has made. What depends on the length, as
a learning rate that falls to the end, follows the length that is asked for, or with --keep_schedule
that of before. Checkpoints remember which it was, so that a launch that is killed in between and
run again computes what one launch would have.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import Any


class Enough(SystemExit):
    """The run has more than it is asked for: nothing is done, and that is no failure (code 0)."""

    def __init__(self, said: str) -> None:
        super().__init__(0)
        self.said = said

    def __str__(self) -> str:
        return self.said


class Length:
    """The length of one run.

    names: of the option that says it, none or one. keep_schedule: whether what depends on the
    length stays as it was.

    Attributes: option ("" without one), asked (its value), schedule (the length that schedules
    are over; known after `run.restore`).
    """

    def __init__(self, args: Namespace, names: Sequence[str], keep_schedule: bool) -> None:
        (self.option,) = names or ("",)
        self.names = frozenset(names)
        self.asked: int = getattr(args, self.option) if names else 0
        self.schedule = self.asked
        self._keep = keep_schedule
        self._made = self._was = self.asked  # in the checkpoint: length, and that of schedules
        self._of_the_rate = ""

    def record(self) -> dict[str, int]:
        """What a checkpoint remembers of it."""
        return {"schedule_length": self.schedule} if self.option else {}

    def go_on(self, meta: Mapping[str, Any]) -> str:
        """Take over what a checkpoint remembers; a line to say if the length is another now."""
        if not self.option:
            return ""
        self._made = meta["args"].get(self.option, self.asked)
        self._was = meta.get("schedule_length", self._made)
        self.schedule = self._was if self._keep else self.asked
        if self._made == self.asked:
            return ""
        # Without dashes: it may follow from another option, as --epochs does from --steps.
        return f"length ({self.option}): {self._made} before, {self.asked} now"

    def note_rate(self, rate: Callable[[int], float]) -> None:
        """Have `check` say what becomes of the learning rate, if the length is another one now.

        rate: the length that the schedule is over -> the next step's learning rate.
        """
        if (self._made, self._was) != (self.asked, self.schedule):
            self._of_the_rate = self._told(rate)

    def _told(self, rate: Callable[[int], float]) -> str:
        before, now = rate(self._was), rate(self.schedule)
        if self.schedule != self._was:
            return (
                f"learning rate: its schedule is over --{self.option} {self.schedule} from here "
                f"on, not {self._was}: {now:.3g} in the next step instead of {before:.3g} "
                "(--keep_schedule would leave it)"
            )
        kept = f"learning rate: its schedule stays that of --{self.option} {self._was}"
        if now == 0:
            return f"{kept}, which has come to 0: nothing is learnt (without --keep_schedule it is)"
        return f"{kept}: {now:.3g} in the next step"

    def check(self, done: int, whole: int, say: Callable[[str], object]) -> None:
        """Before the loop: end a run that has more than is asked for (done, whole: steps) and say
        so (Enough); of one that has less, say what `note_rate` found."""
        if done < whole:
            say(self._of_the_rate)
        if done <= whole:
            return
        said = f"nothing to do: {done} steps are done, more than the {whole} that are asked for"
        if self.option:
            said += f" by --{self.option} {self.asked} (they were made with {self._made})"
        say(said)
        raise Enough(said)
