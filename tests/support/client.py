"""Talking to a tritonserver over plain HTTP: what a user's curl would send, and what comes back."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class Answer:
    """Status and body of one HTTP exchange."""

    status: int
    body: dict[str, Any]

    @property
    def text(self) -> str:
        return str(self.body["text_output"])

    @property
    def error(self) -> str:
        return str(self.body["error"])


class Client:
    """One server; each call is a connection of its own."""

    def __init__(self, http_url: str, metrics_url: str) -> None:
        self._host = urlsplit(http_url).netloc
        self._metrics = urlsplit(metrics_url)

    def generate(self, model: str = "text", **body: Any) -> Answer:
        """One answer from the generate endpoint."""
        return self._post(f"/v2/models/{model}/generate", body)

    def stream(self, model: str = "text", **body: Any) -> list[dict[str, Any]]:
        """All events of generate_stream."""
        with self.open_stream(model, **body) as events:
            return list(events)

    @contextmanager
    def open_stream(self, model: str = "text", **body: Any) -> Iterator[Iterator[dict[str, Any]]]:
        """The events of generate_stream as they come; leaving early drops the connection."""
        with self._open(model, body) as response:
            yield (json.loads(line[6:]) for line in response if line.startswith(b"data: "))

    @contextmanager
    def open_blocks(self, model: str = "text", **body: Any) -> Iterator[Iterator[bytes]]:
        """The same, as the blocks of bytes that arrive."""
        with self._open(model, body) as response:
            yield iter(lambda: response.read1(), b"")

    @contextmanager
    def sent_stream(
        self, model: str, headers: dict[str, str] | None = None, **body: Any
    ) -> Iterator[http.client.HTTPConnection]:
        """A request for generate_stream that has been sent; leaving drops the connection, answered or not."""
        connection = http.client.HTTPConnection(self._host, timeout=TIMEOUT_SECONDS)
        try:
            payload = json.dumps({"stream": True, **body})
            kind = {"content-type": "application/json"}
            connection.request("POST", f"/v2/models/{model}/generate_stream", payload, kind | (headers or {}))
            yield connection
        finally:
            connection.close()

    @contextmanager
    def _open(self, model: str, body: dict[str, Any]) -> Iterator[http.client.HTTPResponse]:
        with self.sent_stream(model, **body) as connection, connection.getresponse() as response:
            yield response

    def infer(self, model: str, tensors: list[dict[str, Any]]) -> Answer:
        """The KServe inference endpoint."""
        return self._post(f"/v2/models/{model}/infer", {"inputs": tensors})

    def load(self, model: str, **parameters: str) -> Answer:
        """``parameters``: of the load, such as ``config``, a configuration in JSON."""
        return self._post(f"/v2/repository/models/{model}/load", {"parameters": parameters} if parameters else {})

    def unload(self, model: str) -> Answer:
        return self._post(f"/v2/repository/models/{model}/unload", {})

    def ready_models(self) -> set[str]:
        """The names of the models that are ready."""
        status, body = self._exchange("POST", "/v2/repository/index", json.dumps({"ready": True}))
        assert status == 200, body
        return {str(model["name"]) for model in json.loads(body)}

    def trace(self, model: str, **settings: Any) -> None:
        """Change the trace settings of a model."""
        answer = self._post(f"/v2/models/{model}/trace/setting", settings)
        assert answer.status == 200, answer.body

    def is_ready(self, model: str) -> bool:
        return self._exchange("GET", f"/v2/models/{model}/ready", None)[0] == 200

    def config(self, model: str) -> dict[str, Any]:
        """The configuration as the server completed it."""
        config: dict[str, Any] = json.loads(self._exchange("GET", f"/v2/models/{model}/config", None)[1])
        return config

    def metrics(self) -> dict[str, float]:
        """Every sample of the metrics endpoint, `name{labels}` -> value."""
        lines = self.metrics_text().splitlines()
        samples = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def metrics_text(self) -> str:
        """What the metrics endpoint says."""
        connection = http.client.HTTPConnection(self._metrics.netloc, timeout=TIMEOUT_SECONDS)
        try:
            connection.request("GET", self._metrics.path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def _post(self, path: str, body: dict[str, Any]) -> Answer:
        status, payload = self._exchange("POST", path, json.dumps(body))
        return Answer(status, json.loads(payload) if payload else {})

    def _exchange(self, method: str, path: str, payload: str | None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self._host, timeout=TIMEOUT_SECONDS)
        try:
            connection.request(method, path, payload, {"content-type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()
