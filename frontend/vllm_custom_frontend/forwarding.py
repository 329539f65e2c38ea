"""Forward a request to one endpoint after the other, as long as none of them can have begun with it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from vllm_custom_frontend import errors
from vllm_custom_frontend.access_log import entry_of
from vllm_custom_frontend.answer import REFUSALS, Answer
from vllm_custom_frontend.endpoint import Endpoint
from vllm_custom_frontend.errors import FrontendError
from vllm_custom_frontend.exchange import Exchange
from vllm_custom_frontend.headers import forwarded
from vllm_custom_frontend.registry import ModelRegistry
from vllm_custom_frontend.routes import needs_capacity
from vllm_custom_frontend.tracing import call_of
from vllm_custom_frontend.triton import BrokenError, InferCall, LateError, ResponseChunk, TritonError, UnreachableError
from vllm_custom_frontend.triton_metrics import TritonFailures

_log = logging.getLogger("vllm_custom_frontend")
# With it a client says that its request may be done twice (draft-ietf-httpapi-idempotency-key-header).
_IDEMPOTENCY_KEY = "idempotency-key"
# When to come again where a model refuses a request and does not say when.
_RETRY_AFTER_SECONDS = "1"


class RefusedError(Exception):
    """The model has refused a request that it has not begun with."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(str(answer.status))
        self.answer = answer


@dataclass
class Attempt:
    """A request on its way to one endpoint."""

    endpoint: Endpoint
    began: float

    def note_timeout(self) -> None:
        """Its time is over."""
        self.endpoint.note_silence(self.began)


class Forwarder:
    """Carries one request."""

    def __init__(
        self, exchange: Exchange, registry: ModelRegistry, failures: TritonFailures, timeout_seconds: float
    ) -> None:
        """``timeout_seconds``: handed to Triton; 0 for none."""
        self._exchange = exchange
        self._registry = registry
        self._failures = failures
        self._timeout_seconds = timeout_seconds
        self.attempt: Attempt | None = None

    async def forward(self, endpoints: Sequence[Endpoint], body: bytes | None) -> None:
        """Ask one endpoint after the other until one takes the request, each at most once.

        A request that may have begun is given to one other at most, and only where the client allows it: it may be
        what ended the server.

        Raises:
            FrontendError: none has.
        """
        call = self._call(endpoints[0], body)
        repeatable = call.method == "GET" or bool(self._exchange.headers.get(_IDEMPOTENCY_KEY))
        refusal: Answer | None = None
        failure = errors.unavailable("no Triton server that serves this model can be reached")
        for endpoint in endpoints:
            try:
                await self._forward_to(endpoint, call)
                return
            except RefusedError as error:
                refusal = error.answer
            except UnreachableError as error:
                endpoint.health.lost()
                self._note_failure(endpoint, error)
            except (TritonError, BrokenError, LateError) as error:
                failure = self._failed(endpoint, error)
                if self._exchange.begun or (_may_have_begun(error) and not repeatable):
                    raise failure from error
                repeatable = repeatable and not _may_have_begun(error)
        if refusal is None:
            raise failure
        await self._relay_refusal(refusal)

    def _call(self, endpoint: Endpoint, body: bytes | None) -> InferCall:
        scope = self._exchange.scope
        request_id = entry_of(scope).request_id
        headers = forwarded(self._exchange.headers, request_id)
        return InferCall(
            endpoint.model, self._exchange.target, scope["method"], headers, body, request_id, self._timeout_seconds
        )

    async def _forward_to(self, endpoint: Endpoint, call: InferCall) -> None:
        takes_capacity = needs_capacity(call.method, call.path)
        if takes_capacity and (refusal := endpoint.capacity.refusal) is not None:
            raise RefusedError(refusal)
        self.attempt = Attempt(endpoint, time.monotonic())
        endpoint.triton.open_calls += 1
        endpoint.triton.last_call = time.monotonic()
        counted = endpoint.capacity.asked() if takes_capacity else contextlib.nullcontext()
        try:
            with counted, call_of(self._exchange.scope, endpoint.triton.address) as trace:
                asked = replace(call, model=endpoint.model, headers={**(call.headers or {}), **trace})
                async with contextlib.aclosing(endpoint.call(asked)) as chunks:
                    await self._relay(endpoint, chunks)
        finally:
            endpoint.triton.open_calls -= 1

    async def _relay(self, endpoint: Endpoint, chunks: AsyncIterator[ResponseChunk]) -> None:
        async for chunk in chunks:
            if chunk.status in REFUSALS and not self._exchange.begun:
                body = chunk.body + b"".join([rest.body async for rest in chunks])
                answer = Answer(chunk.status, chunk.headers, body)
                endpoint.note_answer(answer)
                raise RefusedError(answer)
            if chunk.status and not self._exchange.begun:
                endpoint.note_answer(Answer(chunk.status, chunk.headers, b""))
                await self._exchange.start(chunk.status, chunk.headers)
            if chunk.body:
                await self._exchange.body(chunk.body, more=True)
        if not self._exchange.begun:
            raise TritonError("the model sent no response")
        await self._exchange.body(b"", more=False)

    async def _relay_refusal(self, answer: Answer) -> None:
        headers = {"retry-after": _RETRY_AFTER_SECONDS, **answer.headers}
        await self._exchange.start(answer.status, headers)
        await self._exchange.body(answer.body, more=False)

    def _failed(self, endpoint: Endpoint, error: Exception) -> FrontendError:
        """Note a failure of ``endpoint``; what the client is told names nothing of the server's inside."""
        self._note_failure(endpoint, error)
        if not _may_have_begun(error):
            endpoint.health.lost()
            return errors.unavailable("the model is not ready")
        endpoint.health.failed(broken=not isinstance(error, TritonError))
        request_id = entry_of(self._exchange.scope).request_id
        if isinstance(error, TritonError):
            return errors.failed(f"the Triton server could not serve request {request_id}; the log has the reason")
        return errors.failed(f"the connection to the Triton server broke during request {request_id}")

    def _note_failure(self, endpoint: Endpoint, error: Exception) -> None:
        request_id = entry_of(self._exchange.scope).request_id
        _log.warning("request %s: %s: %s", request_id, endpoint, errors.shortened(str(error), 2000))
        self._failures.note(endpoint.triton.address)
        self._registry.suspect()


def _may_have_begun(error: Exception) -> bool:
    return not isinstance(error, TritonError) or error.begun
