"""What the life of a request needs of Triton, of the base model and of the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from vllm_custom.errors import BackendError
from vllm_custom.handlers import Incoming
from vllm_custom.responses import Responder


class Watch(Protocol):
    """Notices clients that have gone."""

    def watch(self, responder: Responder, on_cancel: Callable[[], None]) -> None:
        """Call ``on_cancel`` once, from any thread, when the client has gone."""

    def unwatch(self, responder: Responder) -> None:
        """The request is finished."""


class Base(Protocol):
    """The model class that owns the engine, as far as requests concern it."""

    @property
    def event_loop(self) -> asyncio.AbstractEventLoop:
        """Where the engine runs."""

    @property
    def shutting_down(self) -> bool:
        """Whether no new work may be started."""

    def request_started(self) -> None:
        """Hold the shutdown until :meth:`request_finished`. Call it on the event loop."""

    def request_finished(self) -> None:
        """The counterpart of :meth:`request_started`. Call it on the event loop."""


class Transport(Protocol):
    """Triton's side: reads requests and sends responses."""

    def client_id(self, request: object) -> str:
        """The request's own id, or an empty text."""

    def read(self, request: object) -> Incoming:
        """Tensors and parameters."""

    def looks_up(self, request: object) -> bool:
        """Whether it gives the engine nothing to do, so that it is served when there is no place for others."""

    def open(
        self,
        request: object,
        request_id: str,
        *,
        before_final: Callable[[], None],
        after_final: Callable[[BackendError | None], None],
    ) -> Responder:
        """What answers ``request``.

        Args:
            request: Triton's.
            request_id: for the log.
            before_final: called once, before the final response is sent.
            after_final: called once, after it, with the error that the request ended with.
        """
