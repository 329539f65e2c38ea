"""What is known of one Triton server, refreshed in the background."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from vllm_custom_frontend.endpoint import Endpoint
from vllm_custom_frontend.triton import BrokenError, LateError, TritonClient, UnreachableError

_log = logging.getLogger("vllm_custom_frontend")
# A question for what is loaded and unloaded has the server look through its repository.
_PRESENT_SECONDS = 0.5


class Server:
    """The endpoints of one server.

    Every call has a task and a time limit, so that a model that hangs delays only what is known of that model.

    Attributes:
        endpoints: by the model's name; those of a server that cannot be reached stay known, as broken.
        reached: whether the last refresh reached the server; None before the first has ended.
        known: whether all its models were heard of at some time.
    """

    def __init__(self, triton: TritonClient, on_change: Callable[[], None], refresh_timeout: float) -> None:
        self.triton = triton
        self.endpoints: dict[str, Endpoint] = {}
        self.reached: bool | None = None
        self.known = False
        self._on_change = on_change
        self._refresh_timeout = refresh_timeout
        self._index: asyncio.Task[None] | None = None
        self._present: asyncio.Task[set[str]] | None = None
        self._present_at = float("-inf")
        # Models without openai_request.
        self._others: set[str] = set()
        self._probes: dict[str, asyncio.Task[None]] = {}

    @property
    def pending(self) -> set[asyncio.Task[None]]:
        """Calls under way that are likely to be answered soon."""
        found = {task for name, task in self._probes.items() if name not in self.endpoints or self._is_well(name)}
        return found | {self._index} if self._index is not None and self.reached is not False else found

    @property
    def is_new(self) -> bool:
        """Whether it may have models that are not known yet."""
        return self.reached is None or any(name not in self.endpoints for name in self._probes)

    def refresh(self) -> None:
        """Begin a refresh, unless one is under way."""
        if self._index is None:
            self._index = self._begin(self._refresh(), self._index_ended)

    async def is_changing(self, name: str) -> bool:
        """Whether a model of this name is being loaded or unloaded, or was loaded a moment ago."""
        now = time.monotonic()
        if self._present is None or now - self._present_at > _PRESENT_SECONDS:
            self._present_at = now
            self._present = asyncio.ensure_future(self.triton.present_models(self._refresh_timeout))
        try:
            return name in await asyncio.shield(self._present) and name not in self._others
        except (UnreachableError, BrokenError, LateError):
            return False

    async def close(self) -> None:
        """End all refreshes."""
        calls: list[asyncio.Task[Any] | None] = [self._index, self._present, *self._probes.values()]
        tasks = [task for task in calls if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.triton.close()

    def _is_well(self, name: str) -> bool:
        return not self.endpoints[name].health.broken

    def _begin(self, work: Coroutine[Any, Any, None], ended: Callable[[], None]) -> asyncio.Task[None]:
        def on_done(done: asyncio.Task[None]) -> None:
            ended()
            if not done.cancelled():
                if (error := done.exception()) is not None:
                    _log.error("%s: the refresh of its models failed", self.triton.address, exc_info=error)
                self.known = self.known or (bool(self.reached) and not self.is_new)
                self._on_change()

        task = asyncio.ensure_future(work)
        task.add_done_callback(on_done)
        return task

    def _index_ended(self) -> None:
        self._index = None

    async def _refresh(self) -> None:
        began = time.monotonic()
        try:
            names = await self.triton.ready_models(self._refresh_timeout)
        except (UnreachableError, BrokenError, LateError) as error:
            if self.reached is not False:
                _log.warning("%s: %s", self.triton.address, error)
            self.reached = False
            for endpoint in self.endpoints.values():
                endpoint.note_silence(began) if isinstance(error, LateError) else endpoint.health.lost()
            return
        self.reached = True
        self.endpoints = {name: endpoint for name, endpoint in self.endpoints.items() if name in names}
        self._others.intersection_update(names)
        for name in names:
            resting = name in self.endpoints and self.endpoints[name].health.resting
            if name not in self._probes and not resting:
                self._probe_soon(name)

    def _probe_soon(self, name: str) -> None:
        def ended() -> None:
            del self._probes[name]

        self._probes[name] = self._begin(self._probe(name), ended)

    async def _probe(self, name: str) -> None:
        try:
            model = await self.triton.describe(name, self._refresh_timeout)
        except (UnreachableError, BrokenError, LateError) as error:  # or it was unloaded a moment ago
            _log.warning("%s on %s: %s", name, self.triton.address, error)
            if name in self.endpoints:
                self.endpoints[name].health.lost()
            return
        if model is None:
            self.endpoints.pop(name, None)
            self._others.add(name)
            return
        endpoint = self.endpoints.get(name) or Endpoint(self.triton, model)
        endpoint.model = model
        await endpoint.probe(self._refresh_timeout)
        self.endpoints[name] = endpoint
