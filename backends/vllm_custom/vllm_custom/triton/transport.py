"""Reads Triton's requests, and opens the way for their responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vllm_custom.contract.names import OPENAI_REQUEST
from vllm_custom.errors import BackendError, InvalidRequestError
from vllm_custom.handlers import Incoming
from vllm_custom.openai import OpenAIResponder, looks_up
from vllm_custom.responses import Responder
from vllm_custom.triton.sender import ResponseStream, SenderPool
from vllm_custom.triton.tracing import span_of


class TritonTransport:
    """Knows ``pb_utils.InferenceRequest``."""

    def __init__(self, senders: SenderPool, input_names: tuple[str, ...], *, decoupled: bool) -> None:
        """
        Args:
            senders: deliver responses.
            input_names: tensors that a request may have.
            decoupled: whether a request may have several responses.
        """
        self._senders = senders
        self._names = frozenset(input_names)
        self._decoupled = decoupled

    def client_id(self, request: Any) -> str:
        """The request's own id, or an empty text."""
        return str(request.request_id())

    def read(self, request: Any) -> Incoming:
        """The tensors that the request has (BYTES elements are ``bytes`` objects), and its parameters."""
        found = {tensor.name(): tensor for tensor in request.inputs()}
        return Incoming(
            {name: np.asarray(tensor.as_numpy()) for name, tensor in found.items() if name in self._names},
            parameters=_parameters(request),
            timeout_us=request.timeout(),
            span=span_of(request),
        )

    def looks_up(self, request: Any) -> bool:
        """Whether it gives the engine nothing to do, by a glance at its openai_request."""
        found = [tensor for tensor in request.inputs() if tensor.name() == OPENAI_REQUEST]
        elements = np.asarray(found[0].as_numpy()).reshape(-1) if found else np.array([])
        return elements.size == 1 and isinstance(elements[0], bytes) and looks_up(elements[0])

    def open(
        self,
        request: Any,
        request_id: str,
        *,
        before_final: Callable[[], None],
        after_final: Callable[[BackendError | None], None],
    ) -> Responder:
        """What answers: errors in OpenAI's form for calls of its API, else in Triton's."""
        stream = ResponseStream(
            self._senders,
            request.get_response_sender(),
            on_done=after_final,
            on_final=before_final,
            request_id=request_id,
        )
        is_openai = any(tensor.name() == OPENAI_REQUEST for tensor in request.inputs())
        return OpenAIResponder(stream, decoupled=self._decoupled) if is_openai else stream


def _parameters(request: Any) -> str:
    """The request's own id is among them, and Triton's HTTP server takes any bytes for text."""
    try:
        return str(request.parameters())
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x} at position {error.start} of their JSON"
        raise InvalidRequestError(f"parameters: expected UTF-8, got {byte}") from error
