"""TensorBoard's event files in a run's folder: the figures of metrics.jsonl, and the sheets.

    tensorboard --logdir RUNS

A file a launch. What earlier launches wrote of steps that are done again is declared void at the
head of the next file, so that no point is there twice. Every line is handed to the system at once:
a run that is killed has lost none of what its metrics.jsonl tells. Optional: the package
`tensorboard` is imported here alone, and no failure of it ends a run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from storage.console import tell
from storage.errors import first_line
from storage.files import append_bytes

_NAME = re.compile(r"events\.out\.tfevents\.(\d+)\..*")
_SAID = 200  # characters of what went wrong


class EventFiles:
    """The event file of this launch in `folder`; what fails is printed, and ends it.

    resume_step: what is there of this step and later ones is void, for it is told again. history:
    records of metrics.jsonl, of which those from that step on are written first; all of them where
    the folder has no event file yet.
    """

    def __init__(
        self, folder: Path, resume_step: int, history: Iterable[Mapping[str, Any]]
    ) -> None:
        self._file: Path | None = None
        self._told: dict[str, tuple[int, float]] = {}  # the last (step, value) of each figure
        self._shown: dict[str, int] = {}  # the last step of each picture
        if importlib.util.find_spec("tensorboard") is None:
            tell(
                "no event files: --tensorboard needs the package tensorboard (`python -m pip "
                "install tensorboard`); figures are in metrics.jsonl"
            )
            return
        with self._guarded():
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog

            earlier = [int(m[1]) for p in folder.iterdir() if (m := _NAME.fullmatch(p.name))]
            # Read in the order of their names, so that each comes after those before.
            stamp = max([int(time.time()), *(n + 1 for n in earlier)])
            name = f"events.out.tfevents.{stamp:010d}.{socket.gethostname()}.{os.getpid()}"
            self._file = folder / name
            self._add(Event(file_version="brain.Event:2"))
            if earlier:
                void = SessionLog(status=SessionLog.START)
                self._add(Event(step=resume_step, session_log=void))
            if resume_step:  # else all is done again
                for record in history:
                    if not earlier or record.get("step", 0) >= resume_step:
                        self.scalars(record)
                ending = f"-{resume_step:09d}.png"
                for file in sorted((folder / "samples").glob(f"*{ending}")):
                    self.image(file.name.removesuffix(ending), file, resume_step)

    def scalars(self, record: Mapping[str, Any]) -> None:
        """The numbers of a record of metrics.jsonl, {"step", "time", name: number or None}, but for
        those that were told of this step before."""
        with self._guarded():
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary

            step = record["step"]
            new = {
                name: value
                for name, value in record.items()
                if isinstance(value, int | float)
                and name not in ("step", "time")
                and self._told.get(name) != (step, value)
            }
            if new:
                values = [Summary.Value(tag=name, simple_value=v) for name, v in new.items()]
                wall = record.get("time", time.time())
                self._add(Event(step=step, wall_time=wall, summary=Summary(value=values)))
                self._told.update({name: (step, value) for name, value in new.items()})

    def image(self, name: str, file: Path, step: int) -> None:
        """A PNG, unless one of this name and step was told before."""
        if self._shown.get(name) == step:
            return
        with self._guarded():
            from PIL import Image
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary

            with Image.open(file) as image:
                width, height = image.size
            picture = Summary.Image(
                width=width, height=height, colorspace=3, encoded_image_string=file.read_bytes()
            )
            summary = Summary(value=[Summary.Value(tag=name, image=picture)])
            self._add(Event(step=step, wall_time=time.time(), summary=summary))
            self._shown[name] = step

    def _add(self, event: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        if self._file is not None:
            record = io.BytesIO()
            RecordWriter(record).write(event.SerializeToString())
            append_bytes(self._file, record.getvalue())

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Whatever TensorBoard or the disk raises ends its file, not the run."""
        try:
            yield
        except (Exception, SystemExit) as error:
            self._file = None
            why = first_line(error, _SAID)
            tell(f"tensorboard stopped ({why}): figures go on in metrics.jsonl")
