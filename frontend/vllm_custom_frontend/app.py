"""Put the frontend together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from starlette.applications import Starlette

from vllm_custom_frontend.exchange import BodyLimits
from vllm_custom_frontend.metrics import Metrics
from vllm_custom_frontend.options import Options
from vllm_custom_frontend.proxy import Proxy
from vllm_custom_frontend.registry import ModelRegistry, Timing
from vllm_custom_frontend.triton import TritonClient
from vllm_custom_frontend.triton_metrics import TritonFailures
from vllm_custom_frontend.web import application
from vllm_custom_frontend.workers import is_worker


def make_app(
    options: Options,
    timing: Timing = Timing(),  # noqa: B008 - it is frozen
    is_stopping: Callable[[], bool] = lambda: False,
) -> Starlette:
    """The frontend as an ASGI application with a lifespan.

    Args:
        options: of the command line.
        timing: how often servers are asked.
        is_stopping: whether this process is about to end.
    """
    metrics = Metrics(several=is_worker())
    failures = TritonFailures(metrics)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        tritons = [TritonClient(address, options.triton_ca) for address in options.triton]
        registry = app.state.registry = ModelRegistry(tritons, timing)
        limits = BodyLimits(options.max_body_bytes, options.max_body_values, options.body_timeout_seconds)
        timeout = options.request_timeout_seconds
        app.state.proxy = Proxy(
            registry, metrics, failures, limits, timeout_seconds=timeout, grace_seconds=timing.grace
        )
        watch = asyncio.ensure_future(registry.watch())
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            await registry.close()

    made = application(lambda: made.state.proxy, options, metrics, lifespan, "no endpoint is usable", is_stopping)
    return made
