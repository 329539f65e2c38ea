"""One Triton server, spoken to over gRPC: which models it has, and calls of their openai_request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from vllm_custom_frontend.trace_context import trace_context

_INPUT = "openai_request"
_READY = "READY"
_PRESENT = frozenset({_READY, "LOADING", "UNLOADING"})
_MICROSECONDS = 1_000_000
_UNLIMITED = -1
# How long a stream that has failed may take to end.
_ENDING_SECONDS = 5.0
# Triton's words for a request that no model has seen; a stream carries no code for it.
_UNKNOWN_MODEL = "Request for unknown model"

CONNECTION_OPTIONS = (
    ("grpc.max_send_message_length", _UNLIMITED),
    ("grpc.max_receive_message_length", _UNLIMITED),
    # Triton's default is to close connections of clients that ping more often than every 300 seconds without data
    # in between. A machine that disappears is noticed sooner, by the refreshes over the same connection while calls
    # are open: what is not acknowledged within the timeout ends the connection (TCP_USER_TIMEOUT).
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    # A server that comes back is found again soon.
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


class TritonError(Exception):
    """Triton's own error for a request; ``begun`` is false where no model can have seen it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.begun = not message.startswith(_UNKNOWN_MODEL)


class UnreachableError(Exception):
    """There is no connection to the server: nothing was sent."""


class BrokenError(Exception):
    """The connection broke after the request was sent: nothing says whether the model has worked on it."""


class LateError(Exception):
    """The server has not answered in time."""


@dataclass(frozen=True)
class ServedModel:
    """A model that takes openai_request; ``batched`` where its tensors have a batch dimension."""

    name: str
    batched: bool


@dataclass(frozen=True)
class ResponseChunk:
    """What one Triton response brings of an HTTP response; status 0 in all but the first."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class InferCall:
    """One request. ``body`` is JSON text that is known to be valid, or None; Triton keeps ``timeout_seconds``."""

    model: ServedModel
    path: str
    method: str = "POST"
    headers: Mapping[str, str] | None = None
    body: bytes | None = None
    request_id: str = ""
    timeout_seconds: float = 0.0


class TritonClient:
    """A Triton server at ``address`` (host:port). To be made inside a running event loop."""

    def __init__(self, address: str, certificate_authority: str | None = None, *, connect_seconds: float = 5.0) -> None:
        """``certificate_authority``: a PEM file; with it the connection uses TLS."""
        self.address = address
        # Requests of clients that are under way.
        self.open_calls = 0
        # When the last of them began, by time.monotonic().
        self.last_call = 0.0
        self._connect_seconds = connect_seconds
        if certificate_authority is None:
            self._channel = grpc.aio.insecure_channel(address, CONNECTION_OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(Path(certificate_authority).read_bytes())
            self._channel = grpc.aio.secure_channel(address, credentials, CONNECTION_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def close(self) -> None:
        """Break all connections."""
        await self._channel.close()

    async def ready_models(self, seconds: float) -> list[str]:
        """The names of the models that are ready.

        Raises:
            UnreachableError, BrokenError, LateError: as they say.
        """
        async with self._connection():
            request = service_pb2.RepositoryIndexRequest(ready=True)
            index = await self._stub.RepositoryIndex(request, timeout=seconds)
        return list(dict.fromkeys(model.name for model in index.models if model.state == _READY))

    async def present_models(self, seconds: float) -> set[str]:
        """The names of the models that are ready, being loaded or being unloaded.

        Raises:
            UnreachableError, BrokenError, LateError: as they say.
        """
        async with self._connection():
            index = await self._stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(), timeout=seconds)
        return {model.name for model in index.models if model.state in _PRESENT}

    async def describe(self, name: str, seconds: float) -> ServedModel | None:
        """The model as calls need it; None where it takes no openai_request.

        Raises:
            UnreachableError, BrokenError, LateError: as they say; also where the model was unloaded a moment ago.
        """
        async with self._connection():
            metadata = await self._stub.ModelMetadata(service_pb2.ModelMetadataRequest(name=name), timeout=seconds)
        shapes = {tensor.name: list(tensor.shape) for tensor in metadata.inputs}
        return ServedModel(name, batched=len(shapes[_INPUT]) > 1) if _INPUT in shapes else None

    async def call(self, call: InferCall, seconds: float | None = None) -> AsyncGenerator[ResponseChunk, None]:
        """The answer, chunk by chunk. Closing the iterator early cancels the request in Triton.

        Args:
            call: what is asked.
            seconds: the time for all of it; none by default.

        Raises:
            TritonError: Triton refuses the request, or the model failed.
            UnreachableError, BrokenError, LateError: as they say.
        """
        async with self._connection():
            stream = self._stub.ModelStreamInfer(timeout=seconds, metadata=_trace_context(call.headers))
            try:
                await stream.write(_infer_request(call))
                await stream.done_writing()
                while (response := await stream.read()) is not grpc.aio.EOF:
                    if response.error_message:
                        await _drain(stream)
                        raise TritonError(response.error_message)
                    yield _chunk(response.infer_response)
            finally:
                stream.cancel()

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[None]:
        """A connection that stands, so that a failure inside is one after something may have been sent."""
        await self._connect()
        try:
            yield
        except grpc.aio.AioRpcError as error:
            kind = LateError if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else BrokenError
            raise kind(f"{error.code().name}: {error.details()}") from error
        except asyncio.InvalidStateError as error:  # it ended while the request was being written
            raise BrokenError(str(error)) from error

    async def _connect(self) -> None:
        if self._channel.get_state() is grpc.ChannelConnectivity.READY:
            return
        try:
            await asyncio.wait_for(self._connected(), self._connect_seconds)
        except asyncio.TimeoutError as error:
            raise UnreachableError(f"no connection within {self._connect_seconds:g} seconds") from error

    async def _connected(self) -> None:
        while (state := self._channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
                raise UnreachableError("connection refused or failed")
            await self._channel.wait_for_state_change(state)


async def _drain(stream: Any) -> None:
    """Let a stream end by itself after an error, which as a rule is its last response.

    Where a cancellation meets the end of a failed request, Triton 24.10 never unloads the model.
    """

    async def read() -> None:
        while await stream.read() is not grpc.aio.EOF:
            pass

    with contextlib.suppress(asyncio.TimeoutError, grpc.aio.AioRpcError):
        await asyncio.wait_for(read(), _ENDING_SECONDS)


def _trace_context(headers: Mapping[str, str] | None) -> Sequence[tuple[str, str]] | None:
    """W3C Trace Context in ``headers`` as metadata of gRPC, in which Triton looks for it; None for none."""
    return list(trace_context(headers or {}).items()) or None


def _infer_request(call: InferCall) -> Any:
    head = json.dumps({"path": call.path, "method": call.method, "headers": dict(call.headers or {})}).encode()
    pieces = [head] if call.body is None else [head[:-1], b', "body": ', call.body, b"}"]
    size = struct.pack("<I", sum(map(len, pieces)))
    request = service_pb2.ModelInferRequest(model_name=call.model.name, id=call.request_id)
    tensor = request.inputs.add(name=_INPUT, datatype="BYTES")
    tensor.shape.extend([1, 1] if call.model.batched else [1])
    request.raw_input_contents.append(b"".join([size, *pieces]))
    if call.timeout_seconds:
        request.parameters["timeout"].int64_param = int(call.timeout_seconds * _MICROSECONDS)
    return request


def _chunk(response: Any) -> ResponseChunk:
    """
    Raises:
        TritonError: these are no outputs of openai_request.
    """
    try:
        raw = dict(zip((tensor.name for tensor in response.outputs), response.raw_output_contents, strict=True))
        if not raw:  # only says that there are no more
            return ResponseChunk(0, {}, b"")
        body = raw["openai_response"][4:]
        if "openai_status" not in raw:
            return ResponseChunk(0, {}, body)
        (status,) = struct.unpack("<i", raw["openai_status"])
        return ResponseChunk(status, json.loads(raw["openai_headers"][4:]), body)
    except (KeyError, ValueError, struct.error) as error:
        raise TritonError(f"the model's outputs are not those of openai_request: {error!r}") from error
