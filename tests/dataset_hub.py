"""A small server that speaks the hub's protocol, as far as a client asks for it to load a dataset."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class DatasetHub(ThreadingHTTPServer):
    """The server.

    Args:
        repositories: by name, their files' contents by path.
        gated: name of a repository that nobody may read.
    """

    def __init__(self, repositories: Mapping[str, Mapping[str, bytes]], gated: str | None = None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories, self.gated = repositories, gated
        self.requests: list[str] = []
        """Paths asked for so far."""


@contextmanager
def serving(repositories: Mapping[str, Mapping[str, bytes]], gated: str | None = None) -> Iterator[DatasetHub]:
    """The server, up within the block."""
    with DatasetHub(repositories, gated) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    """The parts of the hub that a client asks for to load a dataset."""

    server: DatasetHub
    protocol_version = "HTTP/1.1"
    asked: list[str]
    """Paths that a POST asks about."""

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        parts = self.path.split("?")[0].strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[1:3])
        if name == self.server.gated:
            self.reply(403, b"", X_Error_Code="GatedRepo", X_Error_Message="Access to this dataset is restricted.")
        elif name not in self.server.repositories:
            self.reply(404, b"", X_Error_Code="RepoNotFound")
        elif parts[0] == "api":
            self.reply(200, self.description(name, parts[4:]), Content_Type="application/json")
        elif (content := self.server.repositories[name].get("/".join(parts[5:]))) is None:
            self.reply(404, b"", X_Error_Code="EntryNotFound")
        else:
            self.reply(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))["paths"]
        self.do_GET()

    def description(self, name: str, rest: list[str]) -> bytes:
        files = self.server.repositories[name]
        if rest[:1] in (["tree"], ["paths-info"]):
            entries: dict[str, dict[str, Any]] = {
                path: {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in files.items()
            }
            for folder in {path.rpartition("/")[0] for path in files} - {""}:
                entries[folder] = {"type": "directory", "path": folder, "oid": COMMIT}
            under = f"{'/'.join(rest[2:])}/".lstrip("/")
            wanted = self.asked if rest[0] == "paths-info" else [path for path in entries if path.startswith(under)]
            if rest[0] == "tree" and "recursive=true" not in self.path.lower():
                wanted = [path for path in wanted if "/" not in path.removeprefix(under)]
            return json.dumps([entries[path] for path in wanted if path in entries]).encode()
        siblings = [{"rfilename": path} for path in files]
        return json.dumps({"id": name, "sha": COMMIT, "siblings": siblings, "tags": []}).encode()

    def log_message(self, format: str, *args: Any) -> None:
        pass
