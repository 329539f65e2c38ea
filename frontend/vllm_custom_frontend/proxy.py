"""Serve the routes of OpenAI's API from the endpoints of a registry."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from starlette.types import Receive, Scope, Send

from vllm_custom_frontend import errors
from vllm_custom_frontend.access_log import entry_of
from vllm_custom_frontend.body import model_of, previous_response_of
from vllm_custom_frontend.endpoint import Endpoint
from vllm_custom_frontend.errors import FrontendError
from vllm_custom_frontend.exchange import BodyLimits, ClientGoneError, Exchange
from vllm_custom_frontend.forwarding import Forwarder
from vllm_custom_frontend.metrics import Metrics
from vllm_custom_frontend.registry import ModelRegistry
from vllm_custom_frontend.routes import RESPONSE_PATH, RESPONSES_PATH, response_of
from vllm_custom_frontend.stored import keepers
from vllm_custom_frontend.triton_metrics import EndpointCollector, TritonFailures
from vllm_custom_frontend.web import Answers

# A proxy's own note for a client that has gone.
_CLIENT_GONE = 499


class Proxy(Answers):
    """Two ASGI applications: what models answer, and the list of models."""

    def __init__(
        self,
        registry: ModelRegistry,
        metrics: Metrics,
        failures: TritonFailures,
        limits: BodyLimits,
        *,
        timeout_seconds: float = 0.0,
        grace_seconds: float = 0.0,
    ) -> None:
        """
        Args:
            registry: says where models are.
            metrics: counts requests.
            failures: counts failures of servers.
            limits: of bodies.
            timeout_seconds: for a request from when its body is there; 0 for none.
            grace_seconds: beyond it, in which the model itself ends the request and says so; a server that hangs
                cannot.
        """
        self._registry = registry
        self._metrics = metrics
        self._failures = failures
        self._limits = limits
        self._timeout_seconds = timeout_seconds
        self._grace_seconds = grace_seconds

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point for every route that a model answers."""
        exchange = Exchange(scope, receive, send)
        try:
            await self._answer(exchange)
        except ClientGoneError:
            entry_of(scope).status = _CLIENT_GONE
            self._metrics.disconnects.inc()
        except FrontendError as error:
            await exchange.fail(error)

    async def models(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /v1/models and /v1/models/{id}."""
        exchange = Exchange(scope, receive, send)
        wanted = scope.get("path_params", {}).get("model")
        try:
            cards = await self._registry.cards()
            document: object = {"object": "list", "data": cards}
            if wanted is not None:
                document = next((card for card in cards if card["id"] == wanted), None)
                if document is None:
                    raise errors.unknown_model(wanted, [str(card["id"]) for card in cards])
            await exchange.send_json(200, json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode())
        except FrontendError as error:
            await exchange.fail(error)

    async def is_ready(self) -> bool:
        """Whether some endpoint is fit for requests."""
        return await self._registry.is_ready()

    async def readiness(self, name: str | None = None) -> bool | None:
        """Whether some endpoint is fit for requests, or one of ``name``; None where no endpoint has that."""
        snapshot = await self._registry.current()
        if name is None:
            return snapshot.ready
        return snapshot.is_ready(name) if snapshot.endpoints(name) else None

    def collectors(self) -> Sequence[Any]:
        """How the endpoints are now."""
        return [EndpointCollector(self._registry.all_endpoints())]

    async def _answer(self, exchange: Exchange) -> None:
        name, body = model_of(await exchange.read(self._limits))
        endpoints = await self._endpoints(exchange.scope["path"], name, body)
        entry = entry_of(exchange.scope)
        entry.model, entry.served_by = errors.shortened(name or endpoints[0].model.name), endpoints[0].model.name
        forwarder = Forwarder(exchange, self._registry, self._failures, self._timeout_seconds)
        gone = asyncio.ensure_future(exchange.disconnected())
        sending = asyncio.ensure_future(forwarder.forward(endpoints, body))
        limit = self._timeout_seconds + self._grace_seconds if self._timeout_seconds else None
        try:
            await asyncio.wait([gone, sending], timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            elif gone.done():
                raise ClientGoneError
            else:
                self._note_timeout(forwarder)
                raise errors.timed_out(self._timeout_seconds)
        finally:
            for task in (gone, sending):
                task.cancel()
            await asyncio.gather(gone, sending, return_exceptions=True)

    async def _endpoints(self, path: str, name: str | None, body: bytes | None) -> Sequence[Endpoint]:
        """Where the request may go, in order: what names a stored response, to those that keep it.

        Raises:
            FrontendError: nowhere.
        """
        wanted = response_of(path)
        if wanted is not None:
            endpoints: Sequence[Endpoint] = await self._registry.every_endpoint()
        else:
            if path == RESPONSES_PATH and self._registry.several:
                wanted = previous_response_of(body)
            if wanted is not None:
                await self._registry.settle()
            endpoints = await self._registry.endpoints(name)
        if wanted is None or response_of(RESPONSE_PATH.format(id=wanted)) is None:
            return endpoints
        return await keepers(wanted, endpoints, self._registry.answer_seconds, complete=self._registry.complete)

    def _note_timeout(self, forwarder: Forwarder) -> None:
        if forwarder.attempt is not None:
            forwarder.attempt.note_timeout()
            self._registry.suspect()
