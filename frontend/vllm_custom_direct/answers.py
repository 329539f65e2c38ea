"""Answer OpenAI's routes from the models of this process."""

from __future__ import annotations

import json
import logging
from typing import Any

from starlette.types import Receive, Scope, Send

from vllm_custom.errors import BackendError
from vllm_custom.guest import HttpRequest
from vllm_custom_direct.models import Model, Models
from vllm_custom_direct.repository import ModelRepository
from vllm_custom_frontend import errors
from vllm_custom_frontend.access_log import entry_of
from vllm_custom_frontend.body import model_of
from vllm_custom_frontend.errors import FrontendError
from vllm_custom_frontend.exchange import BodyLimits, ClientGoneError, Exchange
from vllm_custom_frontend.headers import forwarded
from vllm_custom_frontend.metrics import Metrics
from vllm_custom_frontend.routes import response_of
from vllm_custom_frontend.web import Answers

_log = logging.getLogger("vllm_custom_direct")
# A proxy's own note for a client that has gone.
_CLIENT_GONE = 499
_MODEL_SECONDS = 5


class DirectAnswers(Answers):
    """Two ASGI applications: what models answer, and the list of models."""

    def __init__(
        self,
        models: Models,
        repository: ModelRepository,
        metrics: Metrics,
        limits: BodyLimits,
        timeout_seconds: float,
    ) -> None:
        """
        Args:
            models: of this process.
            repository: knows of others.
            metrics: counts.
            limits: of bodies.
            timeout_seconds: for a request from when its body is there; 0 for none.
        """
        self._models = models
        self._repository = repository
        self._metrics = metrics
        self._limits = limits
        self._timeout_seconds = timeout_seconds

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point for every route that a model answers."""
        exchange = Exchange(scope, receive, send)
        try:
            stayed = await self._answer(exchange)
        except ClientGoneError:
            stayed = False
        except FrontendError as error:
            await exchange.fail(error)
            return
        if not stayed:
            entry_of(scope).status = _CLIENT_GONE
            self._metrics.disconnects.inc()

    async def models(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /v1/models and /v1/models/{id}."""
        exchange = Exchange(scope, receive, send)
        wanted = scope.get("path_params", {}).get("model")
        try:
            listed = [card for model in self._usable() for card in await _cards(model)]
            cards = {card["id"]: card for card in reversed(listed)}
            document: object = {"object": "list", "data": list(reversed(cards.values()))}
            if wanted is not None:
                document = cards.get(wanted)
                if document is None:
                    raise errors.unknown_model(wanted, list(reversed(cards)))
            await exchange.send_json(200, json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode())
        except FrontendError as error:
            await exchange.fail(error)

    async def is_ready(self) -> bool:
        """Whether each model that is offered can be used, and there is one."""
        return self._models.ready

    async def readiness(self, name: str | None = None) -> bool | None:
        """The same, or whether a model, or an adapter, can be used; None where there is none of that name."""
        return self._models.ready if name is None else await self._models.is_model_ready(name)

    async def _answer(self, exchange: Exchange) -> bool:
        """Whether the client stayed to the end."""
        body = await exchange.read(self._limits)
        name, _ = model_of(body)
        model = await self._keeper(exchange.scope["path"]) or await self._model(name)
        entry = entry_of(exchange.scope)
        entry.model, entry.served_by = errors.shortened(name or model.name), model.name
        scope = exchange.scope
        request = HttpRequest(
            scope["method"],
            exchange.target,
            forwarded(exchange.headers, entry.request_id),
            body or None,
            entry.request_id,
            self._timeout_seconds,
            entry.key,
        )
        stayed: bool = await model.runner.serve(request, exchange.receive, exchange.send)
        return stayed

    async def _keeper(self, path: str) -> Model | None:
        """The model that keeps the stored response which the path names."""
        wanted = response_of(path)
        if wanted is None:
            return None
        usable = self._usable()
        for model in usable if len(usable) > 1 else []:
            if await _keeps(model, wanted):
                return model
        return usable[0]

    async def _model(self, name: str | None) -> Model:
        """The model of that name, or with an adapter of that name; without a name the only one there is.

        Raises:
            FrontendError: there is none.
        """
        usable = self._usable()
        found = [model for model in usable if model.name == name]
        if not name and len(usable) == 1 == len(self._models.offered_names):
            return usable[0]
        if not found and name:
            known = [(model, await model.names()) for model in usable]
            first = next((model.name for model, names in known if name in names), None)
            found = [model for model in usable if model.name == first]
        if found:
            return min(found, key=lambda model: model.runner.running)
        expected = name in self._models.offered_names or name in self._models.leaving_names
        if expected or (name and await self._repository.is_changing(name)):
            raise errors.unavailable("the model is not ready", _MODEL_SECONDS)
        names = [model.name for model in usable]
        raise errors.unknown_model(name, names) if name else errors.model_required(names)

    def _usable(self) -> list[Model]:
        usable = self._models.usable
        if not usable:
            raise errors.unavailable("no model is ready", _MODEL_SECONDS)
        return usable


async def _keeps(model: Model, response_id: str) -> bool:
    try:
        return await model.has_response(response_id)
    except BackendError:
        return False


async def _cards(model: Model) -> list[dict[str, Any]]:
    """None of a model that cannot list them, which the others do not suffer from."""
    try:
        return await model.cards()
    except BackendError as error:
        _log.warning("%s: cannot list its models: %s", model.name, error)
        return []
