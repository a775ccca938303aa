"""A stand-in for W&B's server: it takes runs, tells of them, and deletes them.

It speaks what wandb's client asks: GraphQL for runs (UpsertBucket, CreateRunFiles, the queries of
`wandb.Api`), a stream of lines for figures, PUT for files.
"""

from __future__ import annotations

import contextlib
import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

USER = {"id": "u", "name": "me", "username": "me", "entity": "me", "admin": False, "flags": "{}"}
USER |= {"email": "me@example.org", "deletedAt": None, "apiKeys": {"edges": []}}
USER |= {"teams": {"edges": []}, "defaultEntity": {"name": "me"}}


@dataclass
class Server:
    """runs: name -> what the client said of it. rows: name -> rows of figures. deleted: names.
    asked: names of all operations, in order."""

    url: str = ""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def answer(self, operation: str, text: str, said: dict[str, Any]) -> dict[str, Any]:
        """The data of a GraphQL answer."""
        self.asked.append(operation)
        if operation == "UpsertBucket":
            name = said["name"] or next(n for n, r in self.runs.items() if r["id"] == said["id"])
            new = name not in self.runs
            run = self.runs.setdefault(name, {"id": f"id-{name}", "name": name})
            run |= {key: value for key, value in said.items() if value is not None and key != "id"}
            return {"upsertBucket": {"bucket": self.told(run), "inserted": new}}
        if operation == "CreateRunFiles":
            files = [{"name": n, "uploadUrl": f"{self.url}/put/{n}"} for n in said["files"]]
            return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}
        if "deleteRun" in text:
            name = next(n for n, r in self.runs.items() if r["id"] == said["id"])
            del self.runs[name]
            self.deleted.append(name)
            return {"deleteRun": {"clientMutationId": None}}
        run = self.runs.get(said.get("name", ""))
        if operation == "RunResumeStatus":
            bucket = None if run is None else self.told(run)
            return {"model": {**self.told({})["project"], "bucket": bucket}}
        found = None if run is None else self.told(run)
        project = {**self.told({})["project"], "run": found, "internalId": "1"}
        return {"viewer": USER, "serverInfo": {}, "entity": None, "project": project}

    def told(self, run: dict[str, Any]) -> dict[str, Any]:
        """A run as the server tells of it."""
        name = run.get("name", "")
        lines = len(self.rows.get(name, []))
        project = {"id": "p", "name": run.get("project", "imle-lab")}
        project["entity"] = {"id": "e", "name": "me"}
        return {
            "id": run.get("id"), "name": name, "displayName": run.get("displayName"),
            "tags": run.get("tags", []), "notes": run.get("notes"), "state": "finished",
            "group": run.get("groupName"), "jobType": None, "commit": None, "readOnly": False,
            "createdAt": "2026-01-01T00:00:00", "heartbeatAt": "2026-01-01T00:00:00",
            "description": None, "systemMetrics": "{}", "summaryMetrics": "{}",
            "config": run.get("config", "{}"), "wandbConfig": "{}", "user": USER,
            "historyLineCount": lines, "eventsLineCount": 0, "logLineCount": 0,
            "historyTail": "[]", "eventsTail": "[]", "historyKeys": None, "sweepName": None,
            "project": project, "projectId": "1", "defaultColorIndex": 0, "stopped": False,
        }  # fmt: skip

    def stream(self, name: str, said: dict[str, Any]) -> None:
        """Lines of a run's files."""
        lines = said.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
        self.rows.setdefault(name, []).extend(json.loads(line) for line in lines)


class _Handler(http.server.BaseHTTPRequestHandler):
    server_: Server
    protocol_version = "HTTP/1.1"

    def _read(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def _reply(self, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._reply({})

    def do_PUT(self) -> None:
        self._read()
        self._reply({})

    def do_POST(self) -> None:
        said = json.loads(self._read() or b"{}")
        if self.path.startswith("/graphql"):
            operation = said.get("operationName") or ""
            known = said.get("variables") or {}
            self._reply({"data": self.server_.answer(operation, said["query"], known)})
            return
        parts = self.path.split("/")
        if parts[-1] == "file_stream":
            self.server_.stream(parts[-2], said)
        self._reply({})

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def wandb_server() -> Iterator[Server]:
    """A server on a free port of this machine."""
    here = Server()
    handler = type("Handler", (_Handler,), {"server_": here})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        here.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield here
        server.shutdown()
