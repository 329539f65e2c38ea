"""The one place that touches the base class's internals, whose names differ between releases."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from vllm_custom.base_backend import relied_on


class BaseModelAdapter:
    """Engine, event loop and in-flight counter of an initialised base model."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @property
    def engine(self) -> Any:
        """vLLM's AsyncLLM."""
        return _first(self._model, relied_on.ENGINE)

    @property
    def event_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that the engine runs on, in a thread of its own."""
        return cast(asyncio.AbstractEventLoop, _first(self._model, relied_on.EVENT_LOOP))

    @property
    def shutting_down(self) -> bool:
        """Whether finalize has begun: no new work may be started."""
        return bool(_first(self._model, relied_on.SHUTDOWN_EVENT).is_set())

    @property
    def lora_enabled(self) -> bool:
        """Whether the engine runs with LoRA."""
        return bool(self._model.enable_lora)

    def adapters(self) -> dict[str, str]:
        """LoRA adapters of multi_lora.json, name to path, in the order of their ids; empty without LoRA."""
        return dict(self._model.lora_repository) if self._model.enable_lora else {}

    @property
    def running(self) -> int:
        """Requests that hold the base's shutdown."""
        return int(_first(self._model, relied_on.REQUEST_COUNT))

    def request_started(self) -> None:
        """Hold the base's shutdown until :meth:`request_finished`. Call it on the event loop."""
        self._count(+1)

    def request_finished(self) -> None:
        """The counterpart of :meth:`request_started`. Call it on the event loop."""
        self._count(-1)

    def _count(self, change: int) -> None:
        name = _name(self._model, relied_on.REQUEST_COUNT)
        setattr(self._model, name, getattr(self._model, name) + change)


def host_program(base: type, default: str) -> str:
    """The module that is run as the host of a shared engine; a base whose engine is not vLLM's names its own."""
    return str(getattr(base, "engine_host_program", default))


def with_current_hooks(base: type) -> type:
    """``base`` with the methods that this backend overrides under their names of today.

    Releases before r25.01 call them without the underscore, and leave the engine to the end of the process.
    """
    if hasattr(base, "_setup_lora") or not hasattr(base, "setup_lora"):
        return base
    official: Any = base

    class Renamed(official):  # type: ignore[misc]  # a class that is found at run time
        llm_engine: Any
        vllm_metrics: Any

        def setup_lora(self) -> None:
            self._setup_lora()

        def _setup_lora(self) -> None:
            official.setup_lora(self)

        def validate_device_config(self) -> None:
            self._validate_device_config()

        def _validate_device_config(self) -> None:
            official.validate_device_config(self)

        def init_engine(self) -> None:
            official.init_engine(self)
            # The start of a pooling model leaves the thread without the loop that `initialize` asks for next.
            asyncio.set_event_loop(asyncio.new_event_loop())

        def finalize(self) -> None:
            official.finalize(self)
            self.llm_engine.shutdown()
            # The engine holds the metrics, which have to go before the interpreter does.
            self.llm_engine = None
            self.vllm_metrics = None

    return Renamed


def _first(model: Any, names: tuple[str, ...]) -> Any:
    return getattr(model, _name(model, names))


def _name(model: Any, names: tuple[str, ...]) -> str:
    for name in names:
        if hasattr(model, name):
            return name
    raise AttributeError(f"the vLLM backend that this one builds on has none of {', '.join(names)}")
