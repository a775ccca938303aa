"""A server for tests of downloads: it can cut, creep, and go on where it stopped."""

from __future__ import annotations

import contextlib
import http.server
import re
import threading
import time
from dataclasses import dataclass, field


@dataclass
class Served:
    """What is served, and what was asked for.

    files: path -> bytes. cut: path -> bytes after which the connection ends, once. creep: paths of
    which a byte comes every hundredth of a second. hits: (path, its Range header). keys: the
    Authorization headers.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    creep: set[str] = field(default_factory=set)
    tags: bool = True
    ranges: bool = True
    hits: list[tuple[str, str | None]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)


class _Handler(http.server.BaseHTTPRequestHandler):
    served: Served

    def do_GET(self) -> None:
        here, path = self.served, self.path.partition("?")[0].lstrip("/")
        asked = self.headers.get("Range")
        here.hits.append((path, asked))
        here.keys.append(self.headers.get("Authorization"))
        if path not in here.files:
            self.send_error(404)
            return
        body = here.files[path]
        tag = f'"{len(body)}-{hash(body)}"'
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and here.ranges else 0
        if self.headers.get("If-Range", tag) != tag:
            start = 0
        if start > len(body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if here.tags:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = here.cut.pop(path, len(body))
        with contextlib.suppress(OSError):
            if path not in here.creep:
                self.wfile.write(body[start:end])
                return
            for k in range(start, end):
                self.wfile.write(body[k : k + 1])
                time.sleep(0.01)

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving(**settings):
    """A server on a free port of this machine; yields `Served`, which may change meanwhile."""
    served = Served(**settings)
    handler = type("Handler", (_Handler,), {"served": served})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        served.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield served
        server.shutdown()
