"""One Triton server, spoken to over gRPC: which models it has, and calls of their openai_request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

_INPUT = "openai_request"
_READY = "READY"
_MICROSECONDS = 1_000_000
_UNLIMITED = -1
# A server that has gone without a word (a machine, a network) is noticed after this time.
_KEEPALIVE_MILLISECONDS = 20_000
_LOOK_SECONDS = 10.0
# How long a stream that has failed may take to end.
_ENDING_SECONDS = 5.0


class TritonError(Exception):
    """Triton's own error for a request, e.g. for a model that is not ready."""


class UnreachableError(Exception):
    """The server cannot be reached, or the connection broke."""


@dataclass(frozen=True)
class ServedModel:
    """A model that takes openai_request; ``batched`` where its tensors have a batch dimension."""

    name: str
    batched: bool


@dataclass(frozen=True)
class Part:
    """What one Triton response brings of an HTTP response; status 0 in all but the first."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Call:
    """One request. ``body`` is JSON text that is known to be valid, or None."""

    model: ServedModel
    path: str
    method: str = "POST"
    headers: Mapping[str, str] | None = None
    body: bytes | None = None
    request_id: str = ""
    timeout_seconds: float = 0.0


class Triton:
    """A Triton server at ``address`` (host:port). To be made inside a running event loop."""

    def __init__(self, address: str, certificate_authority: str | None = None) -> None:
        """``certificate_authority``: a PEM file; with it the connection uses TLS."""
        self.address = address
        self.open_calls = 0
        options = [
            ("grpc.max_send_message_length", _UNLIMITED),
            ("grpc.max_receive_message_length", _UNLIMITED),
            ("grpc.keepalive_time_ms", _KEEPALIVE_MILLISECONDS),
        ]
        if certificate_authority is None:
            self._channel = grpc.aio.insecure_channel(address, options)
        else:
            credentials = grpc.ssl_channel_credentials(Path(certificate_authority).read_bytes())
            self._channel = grpc.aio.secure_channel(address, credentials, options)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._known: dict[str, ServedModel | None] = {}

    async def close(self) -> None:
        """Break all connections."""
        await self._channel.close()

    async def models(self) -> list[ServedModel]:
        """The models that are ready and take openai_request.

        Raises:
            UnreachableError: as it says.
        """
        with _reaching(self.address):
            request = service_pb2.RepositoryIndexRequest(ready=True)
            index = await self._stub.RepositoryIndex(request, timeout=_LOOK_SECONDS)
        found = []
        for name in dict.fromkeys(model.name for model in index.models if model.state == _READY):
            with contextlib.suppress(grpc.aio.AioRpcError):  # unloaded a moment ago
                found.append(await self._describe(name))
        return [model for model in found if model is not None]

    def forget(self) -> None:
        """Describe all models anew the next time: one of them is not what it was."""
        self._known.clear()

    async def _describe(self, name: str) -> ServedModel | None:
        if name not in self._known:
            request = service_pb2.ModelMetadataRequest(name=name)
            metadata = await self._stub.ModelMetadata(request, timeout=_LOOK_SECONDS)
            shapes = {tensor.name: list(tensor.shape) for tensor in metadata.inputs}
            self._known[name] = ServedModel(name, batched=len(shapes[_INPUT]) > 1) if _INPUT in shapes else None
        return self._known[name]

    async def call(self, call: Call) -> AsyncGenerator[Part, None]:
        """The answer, part by part. Closing the iterator early cancels the request in Triton.

        Raises:
            TritonError: Triton refuses the request, or the model failed.
            UnreachableError: as it says; nothing says whether the model has worked on the request.
        """
        stream = self._stub.ModelStreamInfer()
        self.open_calls += 1
        try:
            with _reaching(self.address):
                await stream.write(_infer_request(call))
                await stream.done_writing()
                while (response := await stream.read()) is not grpc.aio.EOF:
                    if response.error_message:
                        await _read_on(stream)
                        raise TritonError(response.error_message)
                    yield _part(response.infer_response)
        finally:
            self.open_calls -= 1
            stream.cancel()


async def _read_on(stream: Any) -> None:
    """Let a stream end by itself after an error, which as a rule is its last response.

    Where a cancellation meets the end of a failed request, Triton 24.10 never unloads the model.
    """

    async def read() -> None:
        while await stream.read() is not grpc.aio.EOF:
            pass

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(read(), _ENDING_SECONDS)


@contextlib.contextmanager
def _reaching(address: str) -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise UnreachableError(f"{address}: {error.code().name}: {error.details()}") from error


def _infer_request(call: Call) -> Any:
    envelope = json.dumps({"path": call.path, "method": call.method, "headers": dict(call.headers or {})}).encode()
    if call.body is not None:
        envelope = envelope[:-1] + b', "body": ' + call.body + b"}"
    request = service_pb2.ModelInferRequest(model_name=call.model.name, id=call.request_id)
    tensor = request.inputs.add(name=_INPUT, datatype="BYTES")
    tensor.shape.extend([1, 1] if call.model.batched else [1])
    request.raw_input_contents.append(struct.pack("<I", len(envelope)) + envelope)
    if call.timeout_seconds:
        request.parameters["timeout"].int64_param = int(call.timeout_seconds * _MICROSECONDS)
    return request


def _part(response: Any) -> Part:
    raw = dict(zip((tensor.name for tensor in response.outputs), response.raw_output_contents, strict=True))
    if not raw:  # only says that there are no more
        return Part(0, {}, b"")
    body = raw["openai_response"][4:]
    if "openai_status" not in raw:
        return Part(0, {}, body)
    (status,) = struct.unpack("<i", raw["openai_status"])
    return Part(status, json.loads(raw["openai_headers"][4:]), body)
