"""HTTP servers to fetch media from: one has files, is slow, redirects and counts; the other never answers."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.shapes import Picture


class HttpServer(ThreadingHTTPServer):
    """Takes many connections at once: with the default backlog of five, some would only get in seconds later."""

    daemon_threads = True
    request_queue_size = 128


class Files:
    """An HTTP server with a file at each path: `/slow/...` waits for `go_on`, `/to/...` redirects to `locations`."""

    def __init__(self, address: str, port: int = 0) -> None:
        self.files: dict[str, bytes] = {}
        self.locations: dict[str, str] = {}
        self.hits = 0
        self.go_on = threading.Event()
        files = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                files.hits += 1
                path = self.path.partition("?")[0]
                if path.startswith("/slow/"):
                    files.go_on.wait(60)
                    path = path.removeprefix("/slow")
                location, body = files.locations.get(path), files.files.get(path)
                self.send_response(302 if location else 200 if body else 404)
                if location:
                    self.send_header("Location", location)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self._server = HttpServer((address, port), Handler)
        self.port = int(self._server.server_address[1])
        self.url = f"http://{address}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def add(self, pictures: list[Picture], prefix: str = "") -> list[str]:
        """Put images on the server; returns their URLs. Those without a prefix are openai_cases.PICTURES."""
        paths = [f"/{prefix}{index}.png" for index in range(len(pictures))]
        self.files |= {path: item.encoded() for path, item in zip(paths, pictures, strict=True)}
        return [self.url + path for path in paths]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class HeldMedia:
    """An HTTP server that never answers, and knows who has asked and whose connection has been closed since."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.closed = threading.Event()
        held = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                held.asked.set()
                if self.connection.recv(1) == b"":
                    held.closed.set()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        self.asked.clear()
        self.closed.clear()
        return f"http://127.0.0.1:{self.port}/picture.png"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
