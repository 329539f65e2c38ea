"""The direct OpenAI server in this process: HTTP's side and the models' side as they are, on fake engines."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vllm_custom_direct import sink
from vllm_custom_direct.answers import DirectAnswers
from vllm_custom_direct.models import Models
from vllm_custom_direct.repository import ModelRepository

from tests.support.fake_engine import FakeEngine
from vllm_custom.contract.settings import Settings
from vllm_custom.engine.host import Offer
from vllm_custom.guest import GuestModel
from vllm_custom.media.handles import MediaHandles
from vllm_custom.serving.common import Common, ModelFiles
from vllm_custom_frontend.exchange import BodyLimits
from vllm_custom_frontend.metrics import Metrics
from vllm_custom_frontend.options import ServerOptions
from vllm_custom_frontend.web import application

Message = dict[str, Any]


@dataclass
class Reply:
    """What an ASGI application has sent."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")
            self.complete = not message.get("more_body", False)


class Call:
    """A request under way; ``gone`` says that its client leaves."""

    def __init__(self, app: Any, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> None:
        self.reply = Reply()
        self.gone = asyncio.Event()
        self._body: bytes | None = body or b""
        given = {"content-type": "application/json", **headers}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self.reply.send))

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}


class Direct:
    """The server with some models."""

    def __init__(self, models: dict[str, FakeEngine], triton_http: str | None = None, **options: Any) -> None:
        self.engines = models
        self.options = ServerOptions(**options)
        self.metrics = Metrics()
        self.offers = {Path(f"/{name}"): offer_of(name) for name in models}
        self.models = Models(lambda: self.offers.items(), self._attach)
        self.left: list[str] = []
        self.parameters: dict[str, str] = {}
        self.share: Any = None
        limits = BodyLimits(self.options.max_body_bytes, self.options.max_body_values)
        self.repository = ModelRepository(triton_http)
        timeout = self.options.request_timeout_seconds
        self.answers = DirectAnswers(self.models, self.repository, self.metrics, limits, timeout)

        @contextlib.asynccontextmanager
        async def lifespan(app: Any) -> AsyncIterator[None]:
            yield

        self.app = application(lambda: self.answers, self.options, self.metrics, lifespan, "not ready")

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        call = self.begin(method, path, body, **headers)
        await asyncio.wait_for(call.task, 20)
        return call.reply

    async def post(self, body: Any, path: str = "/v1/completions", **headers: str) -> Reply:
        return await self.call("POST", path, body, **headers)

    def begin(self, method: str, path: str, body: Any = None, **headers: str) -> Call:
        """``body`` as JSON, or bytes as they are; ``_`` in names of headers stands for ``-``."""
        payload = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        return Call(self.app, method, path, payload, {name.replace("_", "-"): value for name, value in headers.items()})

    async def _attach(self, folder: Path, made: Offer) -> GuestModel:
        engine = self.engines[made.model]
        parameters = {key: {"string_value": value} for key, value in self.parameters.items()}
        settings = Settings.from_model_config({"name": made.model, "parameters": parameters})
        share = self.share or SimpleNamespace(close=lambda: None)
        loop = asyncio.get_running_loop()
        common = await asyncio.to_thread(
            Common, engine, loop, settings, ModelFiles(), MediaHandles(), sink, share=self.share
        )
        llm = SimpleNamespace(shutdown=lambda: self.left.append(made.model))
        return GuestModel(made, folder, llm, engine, common, share)  # type: ignore[arg-type]


def offer_of(name: str, **changes: Any) -> Offer:
    """An offer of a model."""
    values = {"version": "1", "server": 1, "clients": 2, "model_config": "{}", "version_dir": "", "backend_dir": ""}
    return Offer(model=name, release=None, **(values | changes))


def answering(text: str, events: int = 0) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """An application that answers ``text`` and what it was sent, as JSON or as so many events."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"].decode()
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        kind = b"text/event-stream" if events else b"application/json"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        for number in range(events):
            await send({"type": "http.response.body", "body": f"data: {text} {number}\n\n".encode(), "more_body": True})
        if scope["path"] == "/v1/models":
            answer: Any = {"data": [{"id": text}]}
        else:
            answer = {"text": text, "path": scope["path"], "body": body, "headers": headers}
        await send({"type": "http.response.body", "body": b"" if events else json.dumps(answer).encode()})

    return application
