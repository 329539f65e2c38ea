"""Calls of the OpenAI API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vllm_custom.contract.names import OPENAI_REQUEST
from vllm_custom.contract.trace_context import TRACE_HEADERS
from vllm_custom.errors import InvalidRequestError
from vllm_custom.handlers.base import Incoming, Parsed, check_stream, shortest, trace_of
from vllm_custom.openai import OpenAIResponder, OpenAIService, parse_openai_request
from vllm_custom.openai.envelope import OpenAICall
from vllm_custom.request import ClientRules, split_batch
from vllm_custom.request.context import RequestContext
from vllm_custom.responses import Responder


class OpenAIHandler:
    """Serves the input openai_request."""

    def __init__(
        self, service: OpenAIService, rules: ClientRules, *, decoupled: bool, batched: bool, traces: bool = False
    ) -> None:
        """
        Args:
            service: answers.
            rules: what a client may set.
            decoupled: whether a request may have several responses.
            batched: whether tensors have rows.
            traces: whether the engine has spans, which are to hang from Triton's.
        """
        self._traces = traces
        self._service = service
        self._rules = rules
        self._decoupled = decoupled
        self._batched = batched

    def parse(self, incoming: Incoming) -> Parsed:
        """The only row: path, method, headers and body."""
        rows = split_batch(incoming.tensors) if self._batched else [incoming.tensors]
        if len(rows) > 1:
            raise InvalidRequestError(f"{OPENAI_REQUEST}: expected one row, got a batch of {len(rows)}")
        call = parse_openai_request(rows[0], incoming.parameters, self._rules)
        asked = call.sequences
        self._rules.check("n", asked, "MAX_PROMPTS", "sequences of all prompts together")
        above = trace_of(_trace(call.headers) or None, incoming.span)
        if above is incoming.span and self._traces:
            call = replace(call, headers={**_without_trace(call.headers), **(above or {})})
        timeout_us = shortest(incoming.timeout_us, call.timeout)
        return Parsed(call, timeout_us=timeout_us, sequences=asked, trace_headers=above, looks_up=call.looks_up)

    async def run(self, call: OpenAICall, responder: Responder, context: RequestContext) -> None:
        """vLLM's own application answers.

        Raises:
            UnsupportedError: a stream of a model with one response per request.
            NotFoundError: the same, of a model that has another name.
        """
        assert isinstance(responder, OpenAIResponder)
        if call.streamed and not self._decoupled:
            await self._service.check_name(call)  # what is wrong with the name matters more to the client
            check_stream(decoupled=self._decoupled)
        await self._service.serve(call, responder, context.request_id)


def _trace(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: headers[name] for name in TRACE_HEADERS if name in headers}


def _without_trace(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in TRACE_HEADERS}
