"""All runs of the results folder in a browser of this machine: a list, and a page of those chosen.

Only this machine reaches it (127.0.0.1), only under names of this machine, lest a page of the web
asks for it through a name of its own. It reads runs that the folder has, by their names in the
list, and nothing else: no path of a request is opened.
"""

from __future__ import annotations

import errno
import http.server
import threading
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from recipes.report import page, pictures
from recipes.report.html import el, table
from recipes.report.reading import read
from recipes.runs import about
from recipes.runs.figures import main_figures, newest, short
from recipes.runs.layout import ago, figure
from recipes.runs.reading import Scan, scan
from storage.errors import RunError, UsageError, first_line

HOST = "127.0.0.1"
_NAMES = (HOST, "localhost")
_HEADERS = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
)


class Server(http.server.ThreadingHTTPServer):
    """Serves the runs below `root` at `port` (0: one that is free), from `serve_forever` on.

    limit: bytes of a page. every: seconds between two looks of a browser at runs that go on.
    Errors: UsageError for a port that is taken.
    """

    daemon_threads = True

    def __init__(self, root: Path, port: int, *, limit: int, every: float) -> None:
        self.root, self.limit, self.every = root, limit, every
        self.encoder = pictures.Encoder()
        self.building = threading.Lock()  # one page at a time: training beside it goes first
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            taken = error.errno in (errno.EADDRINUSE, errno.EACCES)
            more = ": it is taken; give another one, or 0 for any" if taken else f": {error}"
            raise UsageError(f"--port {port}{more}") from None

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        return f"http://{HOST}:{self.server_address[1]}/"

    def list_page(self) -> str:
        """All runs, the latest first, to choose from."""
        found = scan([self.root])
        names = names_of(found, self.root)
        rows = []
        for name, path in names.items():
            run = next(run for run in found.runs if run.path == path)
            last = newest(run.last_rows)
            told = [f"{short(n)} {figure(last[n]._asdict())}" for n in main_figures(last)]
            box = el("label", el("input", type="checkbox", name="run", value=name), " ",
                     el("a", run.name, href=f"/report?run={quote(name, safe='')}"))  # fmt: skip
            rows.append([box, about.method(run), about.task(run), about.data(run),
                         el("span", run.state, class_=f"state {run.state}"),
                         "-" if run.step is None else run.step, ", ".join(told) or "-",
                         ago(run.updated)])  # fmt: skip
        head = ["run", "method", "task", "data", "state", "step", "newest figures", "last wrote"]
        bad = [el("li", f"{b.path}: {b.why}") for b in found.unreadable]
        body = el(
            "body",
            el("header", el("h1", "Runs"), el("p", str(self.root), class_="quiet")),
            el("main",
               el("form", el("p", el("button", "Show those ticked, side by side", type="submit")),
                  table(None, head, rows), action="/report", method="get")
               if rows else el("p", "There are no runs yet."),
               el("div", el("h3", "Cannot be read"), el("ul", bad), class_="problems")
               if bad else None,
               id="main"),
        )  # fmt: skip
        return page.document("Runs", body)

    def run_page(self, words: Sequence[str]) -> str | None:
        """The page of the runs of these names; None where one is not in the list."""
        names = names_of(scan([self.root]), self.root)
        paths = [names[word] for word in dict.fromkeys(words) if word in names]
        if not paths or len(paths) != len(set(words)):
            return None
        reads = [read(path) for path in paths]
        on = any(r.run.state in ("running", "new") for r in reads)
        every = self.every if on else None
        with self.building:
            built = page.build(reads, limit=self.limit, encoder=self.encoder, every=every, back="/")
        return built.text


def names_of(found: Scan, root: Path) -> dict[str, Path]:
    """{name in addresses: folder} of all runs, the latest first."""
    runs = sorted(found.runs, key=lambda run: -(run.updated or 0))
    base = Path(root).absolute()
    return {
        (run.path.relative_to(base).as_posix() if run.path.is_relative_to(base) else str(run.path)):
        run.path for run in runs
    }  # fmt: skip


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "report", ""
    timeout = 30

    def do_GET(self) -> None:  # noqa: N802  (the name that http.server calls)
        """A page, or why there is none."""
        asked = urlsplit(self.path)
        if not self._is_own_name():
            self._send(HTTPStatus.FORBIDDEN, _plain("This address is for this machine alone."))
            return
        try:
            if asked.path == "/":
                self._send(HTTPStatus.OK, self.server.list_page())
                return
            words = parse_qs(asked.query, max_num_fields=200).get("run", [])
            text = self.server.run_page(words) if asked.path == "/report" else None
        except (RunError, ValueError) as error:
            self._send(HTTPStatus.BAD_REQUEST, _plain(first_line(error)))
            return
        if text is None:
            self._send(HTTPStatus.NOT_FOUND, _plain("There is no such run; tick at least one."))
        else:
            self._send(HTTPStatus.OK, text)

    def _is_own_name(self) -> bool:
        host = (self.headers.get("Host") or "").rsplit(":", 1)[0]
        return host in _NAMES

    def _send(self, status: HTTPStatus, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        self.send_response(status)
        for name, value in (*_HEADERS, ("Content-Length", str(len(data)))):
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(data)
        except OSError:  # a browser that has gone on
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not printed."""


def _plain(words: str) -> str:
    body = el("body", el("main", el("p", words), el("p", el("a", "All runs", href="/"))))
    return page.document("Runs", body)
