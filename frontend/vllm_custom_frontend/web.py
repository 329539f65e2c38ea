"""The parts of an HTTP server for OpenAI's API that do not depend on what answers: keys, CORS, access log, errors."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from vllm_custom_frontend import errors
from vllm_custom_frontend.access_log import AccessLog, entry_of
from vllm_custom_frontend.anthropic import AnthropicErrors
from vllm_custom_frontend.keys import KeyRing
from vllm_custom_frontend.metrics import CONTENT_TYPE, Metrics
from vllm_custom_frontend.options import ServerOptions
from vllm_custom_frontend.routes import OPEN_PATHS, READY_PREFIX
from vllm_custom_frontend.rules import TrailingSlashes, VaryOnce, WholeAnswers
from vllm_custom_frontend.tracing import TracedRequests, Tracer

_LOOKS = frozenset({"GET", "HEAD"})
# What a model takes.
_METHODS = ("GET", "POST")


class _Function:
    """An ASGI function as Starlette's routes take it: as an object, else they would wrap it."""

    def __init__(self, function: ASGIApp) -> None:
        self._function = function

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._function(scope, receive, send)


class ApiKeys:
    """Middleware that asks for one of several keys."""

    def __init__(self, app: ASGIApp, keys: frozenset[str], names: Mapping[str, str] | None = None) -> None:
        self._app = app
        self._ring = KeyRing(keys, names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_open(scope) and not self._is_known(scope):
            error = errors.unauthorized()
            await Response(error.document, error.status, media_type="application/json")(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        headers = dict(scope["headers"])
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer":
            key = headers.get(b"x-api-key", b"")  # as Anthropic's clients send it
        name = self._ring.name_of(key)
        if name is not None:
            entry_of(scope).key = name
        return name is not None


def _is_open(scope: Scope) -> bool:
    """Whether this server answers by itself, with no body: what is posted to the same paths, models get."""
    path: str = scope["path"]
    return scope["method"] in _LOOKS and (path in OPEN_PATHS or path.startswith(READY_PREFIX))


class Answers:
    """What answers requests behind the HTTP server."""

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point for every route that a model answers."""
        raise NotImplementedError

    async def models(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /v1/models and /v1/models/{id}."""
        raise NotImplementedError

    async def is_ready(self) -> bool:
        """Whether some model is fit for requests."""
        raise NotImplementedError

    async def readiness(self, name: str | None = None) -> bool | None:
        """The same as it is now, or of one model or adapter; None where there is none of that name."""
        raise NotImplementedError

    def collectors(self) -> Sequence[Any]:
        """Collectors of prometheus_client for what is known at the moment."""
        return ()


def application(
    answers: Callable[[], Answers],
    options: ServerOptions,
    metrics: Metrics,
    lifespan: Any,
    not_ready: str,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Starlette:
    """An ASGI application.

    Args:
        answers: what answers, once the lifespan has begun.
        options: keys, origins and log.
        metrics: counts.
        lifespan: Starlette's.
        not_ready: what ``/health`` and ``/ready`` say where nothing is usable.
        is_stopping: whether this server is about to end, and is to get no more requests.

    Raises:
        OptionError: the options ask for spans, which cannot be made.
    """

    tracer = Tracer.configured(options.otlp_traces_endpoint)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in _METHODS:
            raise HTTPException(405, headers={"Allow": ", ".join(_METHODS)})
        await answers().serve(scope, receive, send)

    async def models(scope: Scope, receive: Receive, send: Send) -> None:
        await answers().models(scope, receive, send)

    async def health(request: Request) -> Response:
        ready = await answers().is_ready()
        return JSONResponse({"status": "ready" if ready else not_ready}, 200 if ready else 503)

    async def live(request: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def ready(request: Request) -> Response:
        name = request.path_params.get("model")
        return await _readiness(answers(), name, not_ready, stopping=is_stopping())

    async def metrics_endpoint(request: Request) -> Response:
        return Response(metrics.text(answers().collectors()), headers={"content-type": CONTENT_TYPE})

    made = Starlette(
        routes=[
            *_own("/health", health),
            *_own("/live", live),
            *_own("/ready", ready),
            *_own("/ready/{model:path}", ready),
            *_own("/metrics", metrics_endpoint),
            *_own("/v1/models", _Function(models), "GET"),
            *_own("/v1/models/{model:path}", _Function(models), "GET"),
            # Which others there are the model says: its configuration may open more of them.
            Route("/{path:path}", _Function(serve)),
        ],
        middleware=_middleware(options, metrics, tracer),
        exception_handlers={404: _http_error, 405: _http_error},
        lifespan=lifespan if tracer is None else _closing(lifespan, tracer),
    )
    made.state.metrics = metrics
    return made


def _closing(lifespan: Any, tracer: Tracer) -> Any:
    """``lifespan``, at whose end the last spans are sent."""

    @contextlib.asynccontextmanager
    async def closing(app: Starlette) -> AsyncIterator[Any]:
        try:
            async with lifespan(app) as state:
                yield state
        finally:
            await asyncio.to_thread(tracer.close)

    return closing


def _own(path: str, endpoint: Any, *methods: str) -> list[Route]:
    """A route that no model answers, whatever the method is."""
    served = methods or ("GET", "HEAD")

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        raise HTTPException(405, headers={"Allow": ", ".join(served)})

    return [Route(path, endpoint, methods=list(served)), Route(path, _Function(refuse))]


async def _readiness(answers: Answers, name: str | None, not_ready: str, *, stopping: bool) -> Response:
    """Of the server, or of the model or adapter ``name``."""
    ready = False if stopping else await answers.readiness(name)
    if ready:
        return JSONResponse({"status": "ready"})
    if ready is None:
        return JSONResponse({"status": "there is no such model"}, 404)
    return JSONResponse({"status": "the server is about to end" if stopping else not_ready}, 503)


def _middleware(options: ServerOptions, metrics: Metrics, tracer: Tracer | None) -> list[Middleware]:
    chosen = [
        Middleware(TrailingSlashes),
        Middleware(AccessLog, metrics=metrics, access_log=options.access_log, log_format=options.log_format),
    ]
    chosen.append(Middleware(VaryOnce))
    if options.cors_origins:
        chosen.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(options.cors_origins),
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=["x-request-id", "retry-after"],
            )
        )
    chosen += [Middleware(AnthropicErrors), Middleware(WholeAnswers)]
    if options.api_keys:
        chosen.append(Middleware(ApiKeys, keys=options.api_keys, names=options.key_names))
    if tracer is not None:  # inside of the keys: who has none writes nothing into a trace
        chosen.append(Middleware(TracedRequests, tracer=tracer))
    return chosen


async def _http_error(request: Request, error: Exception) -> Response:
    """What vLLM's server says of routes that it does not have."""
    status = getattr(error, "status_code", 404)
    detail = getattr(error, "detail", "Not Found")
    return JSONResponse({"detail": detail}, status, headers=getattr(error, "headers", None))
