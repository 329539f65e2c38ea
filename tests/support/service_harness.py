"""A model on the fake engine, in one process: the real service between Triton's objects and the engine."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace, TracebackType
from typing import Any

import numpy as np

from tests.support import fakes
from tests.support.fake_engine import FakeEngine
from vllm_custom.contract.settings import Settings
from vllm_custom.contract.table import INPUTS, OUTPUTS
from vllm_custom.engine.host import Share
from vllm_custom.media.handles import MediaHandles
from vllm_custom.serving.engine_watch import Restart
from vllm_custom.serving.service import ModelFiles, Service

PATIENCE_SECONDS = 30.0


class Panic(BaseException):
    """Like pyo3's PanicException: no Exception."""


class Log:
    """``pb_utils.Logger``: as the binding, it takes no text with lone surrogates."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.broken = False

    def _log(self, message: str) -> None:
        message.encode("utf-8")
        if self.broken:
            raise RuntimeError("the log is broken")
        self.lines.append(message)

    log_info = log_warn = log_error = log_verbose = _log


class Sender(fakes.ResponseSender):
    """Notices the final response, and refuses texts that Triton's binding refuses."""

    def __init__(self, failures: int = 0) -> None:
        super().__init__(failures=failures)
        self.done = threading.Event()

    def send(self, response: Any = None, flags: int = 0) -> None:
        if response is not None and response.has_error():
            response.error().message().encode("utf-8")
        super().send(response, flags)
        if flags:
            self.done.set()

    @property
    def error(self) -> Any:
        """The error of the final response; None for a success."""
        return self.sent[-1][0].error()

    def wait(self) -> Sender:
        assert self.done.wait(PATIENCE_SECONDS), "no final response"
        return self


class Request:
    """``pb_utils.InferenceRequest``."""

    def __init__(self, tensors: list[Any], parameters: str, timeout_us: int, sender: Sender, request_id: Any) -> None:
        self._tensors, self._parameters, self._timeout_us = tensors, parameters, timeout_us
        self._sender, self._request_id = sender, request_id

    def request_id(self) -> Any:
        if isinstance(self._request_id, BaseException):
            raise self._request_id
        return self._request_id

    def inputs(self) -> list[Any]:
        return self._tensors

    def parameters(self) -> str:
        return self._parameters.encode("utf-8", "surrogateescape").decode()  # as the binding does

    def timeout(self) -> int:
        return self._timeout_us

    def get_response_sender(self) -> Sender:
        return self._sender


class Base:
    """The model class that owns the engine: its event loop and its count of requests."""

    def __init__(self) -> None:
        self.event_loop = asyncio.new_event_loop()
        self.shutting_down = False
        self.count = 0
        self._thread = threading.Thread(target=self.event_loop.run_forever, daemon=True)
        self._thread.start()

    def request_started(self) -> None:
        self.count += 1

    def request_finished(self) -> None:
        self.count -= 1

    def close(self) -> None:
        """End what still runs, then the loop."""
        asyncio.run_coroutine_threadsafe(_end_all(), self.event_loop).result(PATIENCE_SECONDS)
        self.event_loop.call_soon_threadsafe(self.event_loop.stop)
        self._thread.join(PATIENCE_SECONDS)
        self.event_loop.close()


async def _end_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class Model:
    """A model that serves; leave the context to unload it."""

    def __init__(
        self,
        engine: FakeEngine,
        *,
        decoupled: bool = True,
        share: Share | None = None,
        unload: Callable[[str], object] | None = None,
        restart: Restart | None = None,
        **parameters: str,
    ) -> None:
        self.engine = engine
        self.base = Base()
        self.log = Log()
        self.unloads: list[str] = []
        self.settings = Settings.from_model_config(
            {
                "name": "model",
                "parameters": {key: {"string_value": value} for key, value in parameters.items()},
                "model_transaction_policy": {"decoupled": decoupled},
                "output": [{"name": spec.name} for spec in OUTPUTS],
                "input": [{"name": spec.name} for spec in INPUTS],
            }
        )
        pb_utils = SimpleNamespace(**vars(fakes.pb_utils), Logger=self.log, unload_model=unload or self.unloads.append)
        files, handles = ModelFiles(), MediaHandles()
        self.service = Service(engine, self.base, self.settings, files, handles, pb_utils, share=share, restart=restart)
        self.admission = self.service.runner._with.admission

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.service.close()
        self.base.close()

    def submit(
        self,
        text: Any = "one two three",
        parameters: Mapping[str, Any] | str | None = None,
        *,
        timeout_us: int = 0,
        sender: Sender | None = None,
        request_id: Any = "",
        **tensors: Any,
    ) -> Sender:
        """Send a request; ``tensors`` are further inputs, values or arrays."""
        sender = sender or Sender()
        inputs = [tensor(name, value) for name, value in {"text_input": text, **tensors}.items() if value is not None]
        given = parameters if isinstance(parameters, str) else json.dumps(parameters or {})
        self.service.runner.submit(Request(inputs, given, timeout_us, sender, request_id))
        return sender

    def settled(self) -> bool:
        """Whether nothing is left of all requests."""
        return not (self.admission.inside or self.base.count or self.engine.running)

    def settle(self) -> None:
        """Wait until nothing is left."""
        wait_until(self.settled, lambda: f"{self.admission.inside=} {self.base.count=} {self.engine.running=}")


def tensor(name: str, value: Any) -> Any:
    """An input tensor; text, a list of texts, a bool, an array, or a tensor as it is."""
    if hasattr(value, "as_numpy"):
        return value
    if isinstance(value, np.ndarray):
        return fakes.Tensor(name, value)
    values = value if isinstance(value, list) else [value]
    if all(isinstance(item, bool) for item in values):
        return fakes.Tensor(name, np.array(values))
    return fakes.Tensor(
        name, np.array([item.encode() if isinstance(item, str) else item for item in values], dtype=np.object_)
    )


def wait_until(condition: Callable[[], bool], say: Callable[[], str] = lambda: "") -> None:
    """Poll until ``condition`` holds."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, say()
        time.sleep(0.002)
