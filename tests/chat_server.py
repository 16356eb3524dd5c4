"""A local HTTP server that answers chat completions from a script; a real one, on a free port."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Reply:
    """One answer of the server."""

    status: int = 200
    body: dict[str, Any] | bytes = b""
    delay_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    """Close the connection without a word."""


def completion(
    content: Any = "\\boxed{1}", *, prompt: int = 20, tokens: int = 5, finish: str = "stop", **message: Any
) -> Reply:
    """A chat completion."""
    usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return Reply(body=body)


def refusal(status: int, message: str, *, code: str | None = None) -> Reply:
    """An error as OpenAI's servers put it; retries are asked for at once."""
    error = {"message": message, "type": "error", "code": code}
    return Reply(status=status, body={"error": error}, headers={"retry-after-ms": "1"})


class ChatServer:
    """Answers each request with the next reply of the script, the last one again and again."""

    def __init__(self, *script: Reply, models: list[dict[str, Any]] | None = None):
        self.script = list(script)
        self.models = models
        self.requests: list[dict[str, Any]] = []
        self.most_open = 0
        self._open = 0
        self._lock = threading.Lock()
        chat = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if chat.models is None:
                    self._send(refusal(404, "no such page"))
                else:
                    self._send(Reply(body={"object": "list", "data": chat.models}))

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with chat._lock:
                    chat.requests.append(request)
                    reply = chat.script[min(len(chat.requests), len(chat.script)) - 1]
                    chat._open += 1
                    chat.most_open = max(chat.most_open, chat._open)
                try:
                    chat._stopped.wait(reply.delay_s)
                    if reply.drop:
                        self.close_connection = True
                    else:
                        self._send(reply)
                finally:
                    with chat._lock:
                        chat._open -= 1

            def _send(self, reply: Reply) -> None:
                body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                self.send_response(reply.status)
                headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **reply.headers}
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def handle(self) -> None:
                try:
                    super().handle()
                except (BrokenPipeError, ConnectionResetError):  # a client that has given up
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._stopped = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> ChatServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
