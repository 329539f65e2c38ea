"""Put the direct OpenAI server together."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import time
from collections.abc import AsyncIterator, Callable

from starlette.applications import Starlette

from vllm_custom.engine.host import offers
from vllm_custom.guest import Guests
from vllm_custom.kernel.orphans import guard_against_orphans
from vllm_custom.runtime import tuning
from vllm_custom_direct import sink
from vllm_custom_direct.answers import DirectAnswers
from vllm_custom_direct.models import Models
from vllm_custom_direct.options import Options
from vllm_custom_direct.repository import ModelRepository
from vllm_custom_frontend.exchange import BodyLimits
from vllm_custom_frontend.logs import JSON
from vllm_custom_frontend.metrics import Metrics
from vllm_custom_frontend.web import application

_log = logging.getLogger("vllm_custom_direct")
_POLL_SECONDS = 0.2
_TELL_SECONDS = 30.0
# Requests have had their time when the server ends its lifespan.
_LEAVE_SECONDS = 1.0


def make_app(options: Options, is_stopping: Callable[[], bool]) -> Starlette:
    """The server as an ASGI application. Its lifespan begins with the first model, or once ``is_stopping``."""
    metrics = Metrics(several=True, hidden=sink.is_schedulers)
    guard_against_orphans(_log.warning)
    told = sink.Sink if options.log_format == JSON and options.access_log else sink
    guests = Guests(f"OpenAI server, process {os.getpid()}", options.workers, told)
    models = Models(functools.partial(offers, options.server), guests.attach)
    limits = BodyLimits(options.max_body_bytes, options.max_body_values, options.body_timeout_seconds)
    repository = ModelRepository(options.triton_http)
    answers = DirectAnswers(models, repository, metrics, limits, options.request_timeout_seconds)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        watch = asyncio.ensure_future(models.watch())
        try:
            await _until_ready(models, is_stopping)
            tuning.freeze_gc_heap()
            yield
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            await models.close(_LEAVE_SECONDS)

    not_ready = "no model is ready, or not all are"
    return application(lambda: answers, options, metrics, lifespan, not_ready, is_stopping)


async def _until_ready(models: Models, is_stopping: Callable[[], bool]) -> None:
    """The port opens with the first models: no client is to come before."""
    tell_at = time.monotonic() + _TELL_SECONDS
    while not models.settled and not is_stopping():
        if time.monotonic() > tell_at:
            tell_at += _TELL_SECONDS
            _log.info("waiting for a model whose instances share an engine (SHARE_ENGINE of config.pbtxt)")
        await asyncio.sleep(_POLL_SECONDS)
