"""One request to one kind of server, as arrival times: vLLM's OpenAI server, Triton's gRPC stream, generate_stream.

All three are asked for the same: so many tokens, no end before them, greedy. A chunk is a message that brings text.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
import numpy as np
import tritonclient.grpc as grpc_types
import tritonclient.grpc.aio as grpc_aio

_TIMEOUT = aiohttp.ClientTimeout(total=600)


@dataclass(frozen=True)
class Job:
    """What one request asks for; ``images`` are encoded."""

    prompt: str
    max_tokens: int
    streamed: bool
    images: tuple[bytes, ...] = ()


@dataclass
class Record:
    """What came back: moments of the monotonic clock in seconds, and the text."""

    sent: float = 0.0
    chunks: list[float] = field(default_factory=list)
    ended: float = 0.0
    text: str = ""

    def arrived(self, text: str) -> None:
        """Text that just came; empty text is no chunk."""
        if text:
            self.chunks.append(time.monotonic())
            self.text += text


class Client(Protocol):
    """A client of one server."""

    async def ask(self, job: Job) -> Record:
        """One request from start to end. Raises where the server answers with an error."""

    async def close(self) -> None: ...


@dataclass(frozen=True)
class Target:
    """A server to measure. ``protocol`` is openai, grpc or generate."""

    name: str
    protocol: str
    address: str
    model: str

    @classmethod
    def parse(cls, text: str) -> Target:
        """From NAME=PROTOCOL,ADDRESS,MODEL."""
        name, _, rest = text.partition("=")
        parts = rest.split(",")
        if not name or len(parts) != 3 or parts[0] not in _CLIENTS:
            raise ValueError(f"expected NAME=PROTOCOL,ADDRESS,MODEL with PROTOCOL one of {', '.join(_CLIENTS)}")
        return cls(name, *parts)

    def connect(self) -> Client:
        """A client; call it where an event loop runs."""
        return _CLIENTS[self.protocol](self.address, self.model)


class OpenAIServer:
    """``vllm serve``: completions for text, chat completions for images."""

    def __init__(self, address: str, model: str) -> None:
        self._url = f"{address}/v1"
        self._model = model
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=_TIMEOUT)

    async def ask(self, job: Job) -> Record:
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": job.max_tokens,
            "stream": job.streamed,
            "temperature": 0,
            "ignore_eos": True,
        }
        if not job.images:
            path, body["prompt"] = "completions", job.prompt
        else:
            uris = ["data:image/jpeg;base64," + base64.b64encode(image).decode() for image in job.images]
            parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": uri}} for uri in uris]
            parts.append({"type": "text", "text": job.prompt})
            path, body["messages"] = "chat/completions", [{"role": "user", "content": parts}]
        record = Record(sent=time.monotonic())
        async with self._session.post(f"{self._url}/{path}", json=body) as response:
            await _check(response)
            if not job.streamed:
                record.arrived(_openai_text(await response.json()))
            else:
                async for event in _events(response):
                    if event != b"[DONE]":
                        record.arrived(_openai_text(json.loads(event)))
        record.ended = time.monotonic()
        return record

    async def close(self) -> None:
        await self._session.close()


class GenerateEndpoint:
    """Triton's generate and generate_stream."""

    def __init__(self, address: str, model: str) -> None:
        self._url = f"{address}/v2/models/{model}"
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=_TIMEOUT)

    async def ask(self, job: Job) -> Record:
        body: dict[str, Any] = {"text_input": job.prompt, "stream": job.streamed, "exclude_input_in_output": True}
        body["parameters"] = _sampling(job)
        if job.images:
            body["image"] = [base64.b64encode(image).decode() for image in job.images]
        record = Record(sent=time.monotonic())
        path = "generate_stream" if job.streamed else "generate"
        async with self._session.post(f"{self._url}/{path}", json=body) as response:
            await _check(response)
            if not job.streamed:
                record.arrived((await response.json())["text_output"])
            else:
                async for event in _events(response):
                    content = json.loads(event)
                    if "error" in content:
                        raise RuntimeError(content["error"])
                    record.arrived(content["text_output"])
        record.ended = time.monotonic()
        return record

    async def close(self) -> None:
        await self._session.close()


class GrpcStream:
    """Triton's bidirectional gRPC stream, one for each request."""

    def __init__(self, address: str, model: str) -> None:
        self._model = model
        self._client = grpc_aio.InferenceServerClient(address)

    async def ask(self, job: Job) -> Record:
        inputs = [_bytes_input("text_input", [job.prompt.encode()])]
        for name, value in (("stream", job.streamed), ("exclude_input_in_output", True)):
            tensor = grpc_types.InferInput(name, [1], "BOOL")
            inputs.append(tensor.set_data_from_numpy(np.array([value])))
        if job.images:
            inputs.append(_bytes_input("image", [base64.b64encode(image) for image in job.images]))
        inputs.append(_bytes_input("sampling_parameters", [json.dumps(_sampling(job)).encode()]))

        async def one() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": self._model, "inputs": inputs, "enable_empty_final_response": True}

        record = Record(sent=time.monotonic())
        async for result, error in self._client.stream_infer(one()):
            if error is not None:
                raise RuntimeError(str(error))
            text = result.as_numpy("text_output")
            if text is not None:
                record.arrived(text[0].decode())
        record.ended = time.monotonic()
        return record

    async def close(self) -> None:
        await self._client.close()


_CLIENTS: dict[str, Callable[[str, str], Client]] = {
    "openai": OpenAIServer,
    "grpc": GrpcStream,
    "generate": GenerateEndpoint,
}


def _sampling(job: Job) -> dict[str, Any]:
    return {"max_tokens": job.max_tokens, "ignore_eos": True, "temperature": 0}


def _bytes_input(name: str, values: list[bytes]) -> Any:
    tensor = grpc_types.InferInput(name, [len(values)], "BYTES")
    return tensor.set_data_from_numpy(np.array(values, dtype=np.object_))


def _openai_text(body: dict[str, Any]) -> str:
    choices = body.get("choices") or [{}]
    message = choices[0].get("delta") or choices[0].get("message") or choices[0]
    return message.get("content") or message.get("text") or ""


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {(await response.text())[:500]}")


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The data of each server-sent event, as it comes."""
    rest = b""
    async for block in response.content.iter_any():
        *events, rest = (rest + block).split(b"\n\n")
        for event in events:
            if event.startswith(b"data: "):
                yield event[6:]
