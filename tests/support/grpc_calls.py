"""Requests over gRPC streams that go on while a test does."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient

from tools.installer.server import TritonServer


class Call:
    """One request over a gRPC stream of its own: its texts and its end, as they come."""

    def __init__(self, triton: TritonServer, model: str, request_id: str, **options: Any) -> None:
        """``options`` are parameters, but for ``tensors`` and ``timeout``."""
        self.texts: list[str] = []
        self.error: Exception | None = None
        self.first = threading.Event()
        self.ended = threading.Event()
        tensors = {"text_input": "2+3=", "stream": False} | options.pop("tensors", {})
        self._connection = grpcclient.InferenceServerClient(triton.grpc_url)
        self._connection.start_stream(self._on_answer)
        self._connection.async_stream_infer(
            model,
            [tensor(name, value) for name, value in tensors.items()],
            request_id=request_id,
            enable_empty_final_response=True,
            timeout=options.pop("timeout", None),
            parameters=options,
        )

    def _on_answer(self, result: Any, error: Exception | None) -> None:
        if error is not None:
            self.error = error
            self.ended.set()
            return
        text = result.as_numpy("text_output")
        self.texts += [] if text is None else [text[0].decode()]
        self.first.set()
        if result.get_response().parameters["triton_final_response"].bool_param:
            self.ended.set()

    def cancel(self) -> None:
        self._connection.stop_stream(cancel_requests=True)

    def close(self) -> None:
        self._connection.stop_stream(cancel_requests=True)
        self._connection.close()


def tensor(name: str, value: Any) -> grpcclient.InferInput:
    data = np.array([value]) if isinstance(value, bool) else np.array([value.encode()], dtype=np.object_)
    made = grpcclient.InferInput(name, [1], "BOOL" if isinstance(value, bool) else "BYTES")
    made.set_data_from_numpy(data)
    return made


class Calls:
    """Begins calls with the same options, and cancels those that are left."""

    def __init__(self, triton: TritonServer, model: str, options: Mapping[str, Any]) -> None:
        self._triton, self._model, self._options = triton, model, options
        self._begun: list[Call] = []

    def __call__(self, request_id: str, **options: Any) -> Call:
        self._begun.append(Call(self._triton, self._model, request_id, **{**self._options, **options}))
        return self._begun[-1]

    def close(self) -> None:
        for call in self._begun:
            call.close()


@contextmanager
def calls(triton: TritonServer, model: str, **options: Any) -> Iterator[Calls]:
    """Calls of one model."""
    made = Calls(triton, model, options)
    yield made
    made.close()
