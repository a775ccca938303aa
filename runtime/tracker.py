"""Where figures go: `metrics.jsonl` always, Weights & Biases when it can, and `curves.png`.

`metrics.jsonl` is the truth: one JSON object a line, {"step": 120, "time": 1.7e9, "loss": 0.31}, in
order of step, one line per step (figures of the same step are merged; nan and infinities are null).
A line cut short by a kill is removed at the next start, and so are the lines after the step that a
run resumes from, so that nothing is there twice.

W&B is an ornament: no failure of it, of its key or of the network stops, stalls or prompts. One run
directory has one W&B id for life, kept in `DIR/wandb_id`. Only rank 0 tracks anything.
"""

from __future__ import annotations

import contextlib
import json
import math
import netrc
import os
import re
import secrets
import shlex
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from runtime.curves import draw_curves
from runtime.event_files import EventFiles
from runtime.wandb_files import Held, held
from storage.console import escaped, tell
from storage.errors import first_line
from storage.files import LOGS, read_last_lines, read_lines, read_text, write_text

# Together below the 20 s that a start may be delayed: probe 3 + online 8 + teardown 3 + offline 5.
_PROBE_S, _ONLINE_S, _TEARDOWN_S, _OFFLINE_S = 3.0, 8.0, 3.0, 5.0
_FINISH_S = 20.0
_SEND_S = 20.0
_STEP = "trainer/step"
_NO_KEY = "no API key"
_SAID = 200  # characters of what W&B says
_HELD = 10_000  # lines that wait for a file that cannot be written


class Tracker:
    """Figures and pictures of one run directory.

    `mode`: "online" | "offline" | "disabled" (WANDB_MODE can only lower it). `config`: the options,
    shown by W&B. `wandb_id`: the id from a checkpoint, used if the directory has none of its own.
    `resume_step`: figures of later steps are forgotten. `tensorboard`: write event files too.
    Does nothing where `is_main` is False. `lines`: those of metrics.jsonl that should be there.
    """

    def __init__(
        self,
        dir: str | Path,
        mode: str,
        *,
        project: str = "imle-lab",
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
        is_main: bool = True,
        wandb_id: str | None = None,
        resume_step: int | None = None,
        tensorboard: bool = False,
    ) -> None:
        if mode not in ("online", "offline", "disabled"):
            raise ValueError(f"wandb mode {mode!r} is not online, offline or disabled")
        self.dir = Path(dir)
        self.metrics = self.dir / "metrics.jsonl"
        self.id = wandb_id
        self._run: Any = None
        self._events: EventFiles | None = None
        self.lines = 0
        self._held: list[dict[str, Any]] = []  # lines that could not be written yet
        self._over = False  # the first of them takes the place of the last one in the file
        self._native, self._ahead = -1, 0  # W&B's own number of the last row; minus its step
        self._main = is_main
        if not is_main:
            return
        self.dir.mkdir(parents=True, exist_ok=True)
        step = math.inf if resume_step is None else resume_step
        redone = _last_step(self.metrics) > step
        try:
            self.rewind(step)
        except OSError as error:
            tell(f"metrics.jsonl: not written anew: {error.strerror or error}", sys.stderr)
            self._cut_back(step)
        if tensorboard:
            history: list[dict[str, Any]] = []
            with contextlib.suppress(OSError):
                history = read_lines(self.metrics)
            self._events = EventFiles(self.dir, resume_step or 0, history)
        self.mode = mode = _lowered(mode)
        if mode == "disabled":
            return
        try:
            self.id = _keep_id(self.dir / "wandb_id", wandb_id)
            with _nobody_at_the_keyboard():
                earlier = self._start(mode, project, name, dict(config or {}), step)
            self._catch_up(earlier, step, redone)
        except (Exception, SystemExit) as error:  # whatever W&B raises, training goes on
            self._stopped(error)

    # ------------------------------------------------------------------------------------- figures

    def rewind(self, step: float) -> None:
        """Remove what is not a whole line, and the lines of steps after `step`."""
        if not self._main:
            return
        kept = forget_later(self.metrics, step)
        self.lines = len(kept)
        self._last: dict[str, Any] | None = _record(kept[-1]) if kept else None
        size = self.metrics.stat().st_size if self.metrics.exists() else 0
        self._offset = size - len(kept[-1].encode()) - 1 if kept else 0

    def _cut_back(self, step: float) -> None:
        """As `rewind` where nothing can be written: the file ends before the first line to go."""
        text = _read(self.metrics).encode()
        kept: list[bytes] = []
        for line in text.splitlines(keepends=True):
            record = _record(line.decode())
            if record is None or record["step"] > step:
                break
            kept.append(line)
        with contextlib.suppress(OSError):
            os.truncate(self.metrics, len(b"".join(kept)))
        self.lines = len(kept)
        self._last = _record(kept[-1].decode()) if kept else None
        self._offset = len(b"".join(kept[:-1]))

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Write figures (numbers, 0-d tensors) of `step`; calls for the same step share a line."""
        if not self._main:
            return
        plain = {k: _number(v) for k, v in values.items()}
        record: dict[str, Any] = {"step": step, "time": round(time.time(), 3)}
        last = self._last
        same = last is not None and last["step"] == step
        if last is not None and same:
            record = last | {"time": record["time"]}
        record |= plain
        self._last = record
        if not (same and self._held):
            self._over = same
            self._held.append(record)
        else:
            self._held[-1] = record
        try:
            self._write_held()
            if self._events is not None:
                self._events.scalars(record)
        except OSError as error:
            said = f"metrics.jsonl: step {step} not written: {error.strerror or error}"
            tell(f"{said}; kept, and tried again with the next", sys.stderr)
            del self._held[:-_HELD]
        self._tell(_finite(plain), step)

    def _write_held(self) -> None:
        """Write the lines that are not in the file yet. Errors: OSError, and they stay."""
        text = "\n".join(json.dumps(record, allow_nan=False) for record in self._held)
        last = json.dumps(self._held[-1], allow_nan=False)
        self._write(text, over_last=self._over, last=len(last.encode()) + 1)
        self.lines += len(self._held) - self._over
        self._held, self._over = [], False

    def _tell(self, values: Mapping[str, Any], step: int, **more: float) -> None:
        """Send a row to W&B, under its own number for `step`: rows of one step are one."""
        self._native = max(self._native, step + self._ahead)
        self._send(lambda run: run.log({**values, **more, _STEP: step}, step=self._native))

    def _write(self, line: str, *, over_last: bool, last: int) -> None:
        with open(self.metrics, "r+b" if self.metrics.exists() else "w+b") as f:
            end = f.seek(0, os.SEEK_END)
            start = min(self._offset, end) if over_last else end
            f.seek(start)
            try:
                f.write(line.encode() + b"\n")
                f.truncate()
                f.flush()
            except OSError:
                # A full disk: half a line must not swallow the next one.
                with contextlib.suppress(OSError):
                    os.truncate(self.metrics, start)
                raise
        self._offset = start + len(line.encode()) + 1 - last

    def image(self, name: str, image: Any, step: int, caption: str | None = None) -> None:
        """Show a picture: the path of a PNG, or (in W&B alone) an array [H, W, 3] uint8."""
        if self._events is not None and isinstance(image, Path) and name != "curves":
            self._events.image(name, image, step)
        self._show(name, image, step, caption)

    def _show(self, name: str, image: Any, step: int, caption: str | None = None) -> None:
        if self._run is None:
            return

        def send(run: Any) -> None:
            import wandb

            data = str(image) if isinstance(image, str | Path) else image
            run.log({name: wandb.Image(data, caption=caption), _STEP: step}, step=self._native)

        self._native = max(self._native, step + self._ahead)
        self._send(send)

    def curves(self) -> Path:
        """Draw metrics.jsonl over steps into DIR/curves.png (`runtime.curves`); returns its path.

        Where there is nothing to draw yet, no file is written.
        """
        path = self.dir / "curves.png"
        series = read_series(self.metrics) if self._main else {}
        if draw_curves(series, path):
            self.image("curves", path, max(steps[-1] for steps, _ in series.values()))
        return path

    def finish(self, exit_code: int = 0) -> None:
        """Write what is held back, and end the W&B run; waits at most 20 s for its uploads."""
        if self._main and self._held:
            try:
                self._write_held()
            except OSError as error:
                said = f"metrics.jsonl: {len(self._held)} lines not written"
                tell(f"{said}: {error.strerror or error}", sys.stderr)
        run, self._run = self._run, None
        if run is None:
            return
        done, _ = _bounded(lambda: run.finish(exit_code=exit_code), _FINISH_S)
        if done != "ok":
            _give_up()
            tell(f"wandb: not everything was uploaded. {self._how_to_sync()}")

    # ----------------------------------------------------------------------------------------- W&B

    def _start(
        self, mode: str, project: str, name: str | None, config: dict[str, Any], step: float
    ) -> Held:
        """Begin W&B's run; what its files hold of steps up to `step`, see `wandb_files.held`."""
        nothing = Held({}, -1)
        # wandb reports its own errors to its makers at exit, and waits half a minute for a server
        # that does not answer. Read at import, so it is set before.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:
            import wandb
        except (Exception, SystemExit) as error:  # not installed, or broken in any way
            said = first_line(error, _SAID)
            tell(f"wandb cannot be imported ({said}): figures are in {self.metrics}")
            return nothing
        earlier = nothing
        with contextlib.suppress(OSError):  # a full disk: some points will be there twice
            from wandb.proto import wandb_internal_pb2

            kinds: Any = wandb_internal_pb2  # W&B's stubs do not have what it takes from protobuf
            parse = kinds.Record.FromString
            earlier = held(self.dir / "wandb", str(self.id), step, _STEP, parse)
        config = _escaped(json.loads(json.dumps(config, default=str)))
        name = None if name is None else escaped(name)

        def start(how: Literal["online", "offline"], timeout: float) -> Any:
            known: dict[str, Any] = {"init_timeout": timeout, "finish_timeout": _FINISH_S - 5}
            fields = getattr(wandb.Settings, "model_fields", {})
            settings = wandb.Settings(
                silent=True, console="off", **{k: v for k, v in known.items() if k in fields}
            )
            run = wandb.init(
                mode=how,
                id=self.id,
                resume="allow",
                project=project,
                name=name,
                config=config,
                dir=str(self.dir),
                settings=settings,
                reinit="finish_previous",
            )
            run.define_metric(_STEP)
            run.define_metric("*", step_metric=_STEP)
            return run

        why = None  # it is offline, though online was asked for
        if mode == "online":
            why = _why_offline()
            if why is None:
                done, result = _bounded(lambda: start("online", _ONLINE_S - 1), _ONLINE_S, _discard)
                if done == "ok":
                    self._run = result
                    tell(f"wandb: {result.url}")
                    with contextlib.suppress(OSError):
                        write_text(self.dir / "wandb_url.txt", f"{result.url}\n")
                    return earlier
                said = _said(done, result, _ONLINE_S)
                why = f"unreachable ({said})"
                _give_up()  # without it, a second init says that the run id is in use
        self.mode = "offline"
        done, result = _bounded(lambda: start("offline", _OFFLINE_S), _OFFLINE_S, _discard)
        if done == "ok":
            self._run = result
            how = "`wandb login` stores one" if why == _NO_KEY else self._how_to_sync()
            told = f"{why}, so offline. " if why else "offline. "
        else:
            said = _said(done, result, _OFFLINE_S)
            how = f"Figures are in {self.metrics}"
            told = f"{f'{why}, and ' if why else ''}not recording offline ({said}). "
        without = "; --wandb disabled does without W&B" if why else ""
        tell(f"wandb: {told}{how}{without}")
        return earlier

    def _how_to_sync(self) -> str:
        folder = shlex.quote(str(self.dir.resolve() / "wandb"))
        kind = "offline-run" if self.mode == "offline" else "run"
        return f"Later: wandb sync --id {self.id} {folder}/{kind}-*-{self.id}*"

    def _catch_up(self, earlier: Held, step: float, redone: bool) -> None:
        """Tell W&B what metrics.jsonl has of steps up to `step`, and its files or its server lack.

        redone: later points were there, and are told again as they were.
        """
        if self._run is None:
            return
        lines = [r for r in map(_record, _read(self.metrics).splitlines()) if r is not None]
        lines = [record for record in lines if record["step"] <= step]
        there = int(getattr(self._run, "starting_step", 0) or 0) - 1  # on the server; -1: nothing
        if there >= 0 and (there > step or any(there == record["step"] for record in lines)):
            lines = [record for record in lines if record["step"] > there]
        elif there >= 0:
            lines = []  # numbered by a version before: what is there cannot be told
        names = earlier.names
        new = {r["step"]: _figures(r, but=names.get(r["step"], ())) for r in lines}
        first = next((at for at, values in new.items() if values), None)
        if first is None:
            first = (self._last or {"step": -1})["step"] + 1 if step == math.inf else int(step) + 1
        if not (redone and there > step):  # else W&B itself passes over what it has
            self._ahead = max(0, max(there, earlier.native) + 1 - first)
        pictures = _pictures(self.dir / "samples")
        for record in lines:
            at = record["step"]
            if new[at]:
                self._tell(new[at], at, _timestamp=record.get("time", time.time()))
                for name in sorted(pictures.get(at, {}).keys() - names.get(at, set())):
                    self._show(name, pictures[at][name], at)

    def _send(self, send: Callable[[Any], None]) -> None:
        if self._run is None:
            return
        run = self._run
        done, error = _bounded(lambda: send(run), _SEND_S)
        if done != "ok":  # whatever W&B raises, training goes on
            self._stopped(error or TimeoutError(f"its service took nothing in {_SEND_S:g} s"))

    def _stopped(self, error: BaseException) -> None:
        self._run = None
        _give_up()
        tell(f"wandb stopped ({first_line(error, _SAID)}): figures go on in {self.metrics}")


def _give_up() -> None:
    """Have W&B let go of a service that does not answer, for which it would wait without end, or
    print a traceback, when the process ends."""
    if "wandb" in sys.modules:
        _bounded(lambda: sys.modules["wandb"].teardown(exit_code=1), _TEARDOWN_S)


def _lowered(mode: str) -> str:
    """The mode, or that of WANDB_MODE where that is less. One that W&B has not is taken away."""
    rank = ("disabled", "offline", "online")
    asked = os.environ.get("WANDB_MODE", "")
    wanted = {"dryrun": "offline", "run": "online"}.get(asked, asked)  # its former names
    if wanted not in ("", *rank):
        tell(f"WANDB_MODE={asked} is not {', '.join(rank)}: passed over")
        del os.environ["WANDB_MODE"]  # W&B would refuse to begin
    return min(mode, wanted, key=rank.index) if wanted in rank else mode


def _keep_id(file: Path, given: str | None) -> str:
    """The W&B id of a run directory: what the file says, else `given`, else a new one, written."""
    kept = _read(file).strip()
    if re.fullmatch(r"[A-Za-z0-9_.+=@~-]{1,128}", kept):
        return kept
    new = given or secrets.token_hex(4)
    with contextlib.suppress(OSError):  # a full disk: the checkpoint has it too
        write_text(file, new + "\n")
    return new


def _why_offline() -> str | None:
    """A reason not even to try online, found within four seconds; None if it is worth a try."""
    url = os.environ.get("WANDB_BASE_URL") or _from_wandb_settings("base_url")
    url = url or "https://api.wandb.ai"
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not _has_key(host):
        return _NO_KEY
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(host):
        return None  # the proxy decides what is reachable

    def connect() -> None:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((host, port), timeout=_PROBE_S).close()

    # In a thread, because a name lookup without a network knows no timeout.
    done, error = _bounded(connect, _PROBE_S + 0.5)
    if done == "ok":
        return None
    return f"unreachable ({host}: {first_line(error, _SAID) if done == 'error' else 'no answer'})"


def _has_key(host: str) -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    files = [Path(os.environ["NETRC"])] if os.environ.get("NETRC") else []
    for file in files or [Path.home() / ".netrc", Path.home() / "_netrc"]:
        with contextlib.suppress(OSError, netrc.NetrcParseError, UnicodeDecodeError):
            if netrc.netrc(str(file.expanduser())).authenticators(host):
                return True
    return bool(_from_wandb_settings("api_key"))


def _from_wandb_settings(key: str) -> str | None:
    """A value of the settings file that `wandb login --host` and `wandb init` write, if any."""
    folder = os.environ.get("WANDB_CONFIG_DIR") or str(Path.home() / ".config" / "wandb")
    for file in (Path("wandb") / "settings", Path(folder) / "settings"):
        found = re.search(rf"^\s*{key}\s*[=:]\s*(\S+)", _read(file), re.MULTILINE)
        if found:
            return found.group(1)
    return None


@contextlib.contextmanager
def _nobody_at_the_keyboard() -> Iterator[None]:
    """wandb may ask for a key when stdin is a terminal; a run must never wait for an answer."""
    before = sys.stdin
    with open(os.devnull) as nothing:
        sys.stdin = nothing
        try:
            yield
        finally:
            sys.stdin = before


def _bounded(
    work: Callable[[], Any], seconds: float, discard: Callable[[Any], None] | None = None
) -> tuple[str, Any]:
    """("ok", result), ("error", exception) or, after `seconds`, ("late", None) while it goes on.

    `discard` gets the result that nobody waits for any more.
    """
    lock = threading.Lock()
    box: list[tuple[str, Any]] = []
    late: list[bool] = []

    def body() -> None:
        try:
            answer = ("ok", work())
        except BaseException as error:
            answer = ("error", error)
        with lock:
            box.append(answer)
            unwanted = bool(late)
        if unwanted and answer[0] == "ok" and discard is not None:
            with contextlib.suppress(Exception):
                discard(answer[1])

    thread = threading.Thread(target=body, daemon=True, name="tracker")
    thread.start()
    thread.join(seconds)
    with lock:
        if box:
            return box[0]
        late.append(True)
    return "late", None


def _said(done: str, result: Any, seconds: float) -> str:
    """Why `_bounded` work gave nothing, in a few words."""
    return first_line(result, _SAID) if done == "error" else f"no answer in {seconds:g} s"


def _discard(run: Any) -> None:
    run.finish(exit_code=1)


# ------------------------------------------------------------------------------- files and plots


def _read(file: Path) -> str:
    try:
        return read_text(file, LOGS)
    except OSError:
        return ""


def forget_later(metrics: Path, step: float) -> list[str]:
    """Remove from metrics.jsonl what is not a whole line, and the lines of steps after `step`;
    returns the others."""
    kept, text = [], _read(metrics)
    for line in text.splitlines():
        record = _record(line)
        if record is not None and record["step"] <= step:
            kept.append(line)
    if text != (whole := "".join(line + "\n" for line in kept)):
        write_text(metrics, whole)
    return kept


def _last_step(metrics: Path) -> int:
    """The step of the last line of metrics.jsonl; -1 for none."""
    with contextlib.suppress(OSError):
        for record in reversed(read_last_lines(metrics)):
            if type(record.get("step")) is int:
                return record["step"]
    return -1


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        return None
    return record


def _figures(record: Mapping[str, Any], but: Collection[str]) -> dict[str, Any]:
    """The finite figures of a line of metrics.jsonl, without those that `but` names."""
    left = {k: v for k, v in record.items() if k not in ("step", "time") and k not in but}
    return _finite(left)


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if v is not None}


def _pictures(samples: Path, most: int = 50) -> dict[int, dict[str, Path]]:
    """{step: {name: file}} of the newest sample sheets of a run."""
    found = (re.fullmatch(r"(.+)-(\d{9})\.png", file.name) for file in _files(samples))
    newest = sorted((int(m[2]), m[1]) for m in found if m)[-most:]
    pictures: dict[int, dict[str, Path]] = {}
    for step, name in newest:
        pictures.setdefault(step, {})[name] = samples / f"{name}-{step:09d}.png"
    return pictures


def _files(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _escaped(value: Any) -> Any:
    """A JSON value without what is no UTF-8, which W&B would refuse."""
    if isinstance(value, dict):
        return {escaped(k): _escaped(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_escaped(v) for v in value]
    return escaped(value) if isinstance(value, str) else value


def _number(value: Any) -> int | float | None:
    """A JSON number of a figure; None for what is not finite. Errors: TypeError."""
    if isinstance(value, bool | int):
        return int(value)
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"a figure must be one number, got {type(value).__name__}") from error
    return number if math.isfinite(number) else None


def read_series(metrics: str | Path) -> dict[str, tuple[list[int], list[float]]]:
    """{name: (steps, values)} of a metrics.jsonl, damaged lines and nulls left out."""
    series: dict[str, tuple[list[int], list[float]]] = {}
    for line in _read(Path(metrics)).splitlines():
        record = _record(line) or {}
        for key, value in record.items():
            if key not in ("step", "time") and isinstance(value, int | float):
                steps, values = series.setdefault(key, ([], []))
                steps.append(record["step"])
                values.append(value)
    return series
