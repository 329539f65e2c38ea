"""Put the frontend together: routes, keys, CORS."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from vllm_custom_frontend import errors
from vllm_custom_frontend.access_log import AccessLog
from vllm_custom_frontend.anthropic import AnthropicErrors
from vllm_custom_frontend.exchange import BodyLimits
from vllm_custom_frontend.metrics import CONTENT_TYPE, Metrics
from vllm_custom_frontend.options import Options
from vllm_custom_frontend.proxy import Proxy
from vllm_custom_frontend.registry import ModelRegistry, Timing
from vllm_custom_frontend.triton import TritonClient

# For load balancers and Prometheus, which have no key.
_OPEN_PATHS = frozenset({"/health", "/metrics"})
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

    def __init__(self, app: ASGIApp, keys: frozenset[str]) -> None:
        self._app = app
        self._digests = [_digest(key) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _OPEN_PATHS and not self._is_known(scope):
            error = errors.unauthorized()
            await Response(error.document, error.status, media_type="application/json")(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        headers = Request(scope).headers
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            key = headers.get("x-api-key", "")  # as Anthropic's clients send it
        given = _digest(key.strip())
        # All of them, always: the time taken says nothing about which one was close.
        return sum(hmac.compare_digest(given, digest) for digest in self._digests) > 0


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def make_app(options: Options, timing: Timing = Timing()) -> Starlette:  # noqa: B008 - it is frozen
    """The frontend as an ASGI application with a lifespan; ``timing``: how often servers are asked."""
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        tritons = [TritonClient(address, options.triton_ca) for address in options.triton]
        registry = app.state.registry = ModelRegistry(tritons, timing)
        limits = BodyLimits(options.max_body_bytes, options.max_body_values)
        timeout = options.request_timeout_seconds
        app.state.proxy = Proxy(registry, metrics, limits, timeout_seconds=timeout, grace_seconds=timing.grace)
        watch = asyncio.ensure_future(registry.watch())
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            await registry.close()

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in _METHODS:
            raise HTTPException(405, headers={"Allow": ", ".join(_METHODS)})
        await scope["app"].state.proxy.serve(scope, receive, send)

    async def models(scope: Scope, receive: Receive, send: Send) -> None:
        await scope["app"].state.proxy.models(scope, receive, send)

    async def health(request: Request) -> Response:
        ready = await request.app.state.registry.is_ready()
        return JSONResponse({"status": "ready" if ready else "no endpoint is usable"}, 200 if ready else 503)

    async def metrics_endpoint(request: Request) -> Response:
        metrics.update(request.app.state.registry.all_endpoints())
        return Response(metrics.text(), headers={"content-type": CONTENT_TYPE})

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/metrics", metrics_endpoint),
            Route("/v1/models", _Function(models), methods=["GET"]),
            Route("/v1/models/{model:path}", _Function(models), methods=["GET"]),
            # Which others there are the model says: its configuration may open more of them.
            Route("/{path:path}", _Function(serve)),
        ],
        middleware=_middleware(options, metrics),
        exception_handlers={404: _http_error, 405: _http_error},
        lifespan=lifespan,
    )


def _middleware(options: Options, metrics: Metrics) -> list[Middleware]:
    chosen = [Middleware(AccessLog, metrics=metrics, access_log=options.access_log)]
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
    chosen.append(Middleware(AnthropicErrors))
    if options.api_keys:
        chosen.append(Middleware(ApiKeys, keys=options.api_keys))
    return chosen


async def _http_error(request: Request, error: Exception) -> Response:
    """What vLLM's server says of routes that it does not have."""
    status = getattr(error, "status_code", 404)
    detail = getattr(error, "detail", "Not Found")
    return JSONResponse({"detail": detail}, status, headers=getattr(error, "headers", None))
