"""Which model is served where: the repository indexes of all servers, refreshed every few seconds while in use."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vllm_custom_frontend import errors
from vllm_custom_frontend.endpoint import Card, Endpoint
from vllm_custom_frontend.server import Server
from vllm_custom_frontend.snapshot import Snapshot
from vllm_custom_frontend.triton import TritonClient

_log = logging.getLogger("vllm_custom_frontend")
_UNREACHABLE = "no Triton server can be reached"


@dataclass(frozen=True)
class Timing:
    """How often the registry is refreshed, and how long servers are waited for. All in seconds.

    Attributes:
        refresh_timeout: for an answer to each call of a refresh.
        interval: between two refreshes while requests come.
        idle_interval: between two refreshes while none come.
        idle_after: how long after the last request.
        min_interval: between two refreshes for an unknown name.
        list_age: of what a list of models is made from; the models' own lists of adapters are up to a second old.
        readiness_timeout: how long a question for readiness waits for each call of a refresh.
        grace: that a server has beyond the time limit of a request.
    """

    refresh_timeout: float = 5.0
    interval: float = 2.0
    idle_interval: float = 30.0
    idle_after: float = 30.0
    min_interval: float = 0.2
    list_age: float = 1.0
    readiness_timeout: float = 1.0
    grace: float = 5.0


class ModelRegistry:
    """Finds the endpoints of a model, or of one of its LoRA adapters, by name."""

    def __init__(self, tritons: Sequence[TritonClient], timing: Timing | None = None) -> None:
        self._timing = timing or Timing()
        self._servers = [Server(triton, self._changed, self._timing.refresh_timeout) for triton in tritons]
        self._snapshot = Snapshot()
        self._warned: set[str] = set()
        self._wanted = asyncio.Event()
        self._refreshed_at = self._used_at = float("-inf")
        # Calls under way that a request has waited for as long as it makes sense.
        self._slow: set[asyncio.Task[None]] = set()

    async def watch(self) -> None:
        """Refresh again and again, until cancelled."""
        while True:
            self._wanted.clear()
            self._refresh()
            pause = self._timing.interval if self._in_use() else self._timing.idle_interval
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), pause)

    async def close(self) -> None:
        """End all refreshes and connections."""
        await asyncio.gather(*(server.close() for server in self._servers))

    async def cards(self) -> list[Card]:
        """OpenAI's cards of all models and adapters that can be used now.

        Raises:
            FrontendError: no server can be reached.
        """
        snapshot = await self.current(self._timing.list_age)
        if not self._reached():
            raise errors.unavailable(_UNREACHABLE)
        return list(snapshot.cards().values())

    async def endpoints(self, name: str | None) -> list[Endpoint]:
        """The endpoints that serve ``name``, in the order in which they are to be tried; none that hangs.

        Where only one model is served it gets the requests that name none.

        Raises:
            FrontendError: no server has the model, no server can be reached, or all that serve it hang.
        """
        name = name or None
        await self._used()
        if not self._snapshot.endpoints(name):
            await self._refresh_for(name)
        snapshot = self._snapshot
        found = snapshot.endpoints(name)
        if not found and name is None and len(snapshot.models) == 1:
            (found,) = snapshot.models.values()
        if not found:
            raise await self._missing(name)
        usable = [endpoint for endpoint in found if not endpoint.health.hung]
        if not usable:
            wait = max(1, math.ceil(min(endpoint.health.rest_seconds for endpoint in found)))
            raise errors.unavailable("no server with this model responds", wait)
        return sorted(usable, key=_rank)

    async def every_endpoint(self) -> list[Endpoint]:
        """The endpoints of all models, in the order in which they are to be tried.

        Raises:
            FrontendError: there is none.
        """
        await self.settle()
        found = [endpoint for endpoints in self._snapshot.models.values() for endpoint in endpoints]
        if not found:
            raise self._not_found(None)
        return sorted(found, key=_rank)

    async def settle(self) -> None:
        """Wait until all servers have been heard of, as far as they answer in time."""
        await self._used()
        await self._wait_while(lambda: any(server.is_new for server in self._servers))

    @property
    def several(self) -> bool:
        """Whether there is more than one server."""
        return len(self._servers) > 1

    @property
    def complete(self) -> bool:
        """Whether all servers are known."""
        return all(server.reached and not server.is_new for server in self._servers)

    @property
    def answer_seconds(self) -> float:
        """How long a model may take for what needs no engine."""
        return self._timing.refresh_timeout

    async def is_ready(self) -> bool:
        """Whether some endpoint is fit for requests."""
        await self._used()
        return self._snapshot.ready

    async def current(self, age: float | None = None) -> Snapshot:
        """What there is, as it was at most ``age`` ago, or a refresh: who asks may be the only one."""
        if time.monotonic() - self._refreshed_at > (self._timing.interval if age is None else age):
            self._used_at = time.monotonic()
            self._refresh()
            for _ in range(2):  # what the index has found is asked next
                if pending := self._pending() - self._slow:
                    _, slow = await asyncio.wait(pending, timeout=self._timing.readiness_timeout)
                    self._slow = {task for task in self._slow | slow if not task.done()}
        await self._used()
        return self._snapshot

    def all_endpoints(self) -> list[Endpoint]:
        """Those of every server."""
        return [endpoint for server in self._servers for endpoint in server.endpoints.values()]

    def suspect(self) -> None:
        """An endpoint did not behave as it should: refresh soon."""
        if time.monotonic() - self._refreshed_at > self._timing.min_interval:
            self._wanted.set()

    async def _used(self) -> None:
        """Note a request, which waits only where nothing is known yet."""
        self._used_at = time.monotonic()
        if self._used_at - self._refreshed_at > self._timing.interval:
            self._wanted.set()
        if not self._snapshot.models:
            await self._refresh_for(None)

    async def _refresh_for(self, name: str | None) -> None:
        """Refresh, and wait until ``name`` is found or all calls have ended."""
        if time.monotonic() - self._refreshed_at > self._timing.min_interval:
            self._refresh()
        await self._wait_while(lambda: not self._is_known(name))

    async def _wait_while(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + self._timing.refresh_timeout
        while (pending := self._pending()) and condition():
            left = until - time.monotonic()
            if left <= 0:
                return
            await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)

    def _is_known(self, name: str | None) -> bool:
        return bool(self._snapshot.models if name is None else self._snapshot.endpoints(name))

    def _pending(self) -> set[asyncio.Task[None]]:
        return {task for server in self._servers for task in server.pending}

    def _refresh(self) -> None:
        self._refreshed_at = time.monotonic()
        for server in self._servers:
            server.refresh()

    def _in_use(self) -> bool:
        recent = time.monotonic() - self._used_at < self._timing.idle_after
        return recent or any(server.triton.open_calls for server in self._servers)

    def _reached(self) -> bool:
        return any(server.reached for server in self._servers)

    def _changed(self) -> None:
        self._snapshot = Snapshot.of(self.all_endpoints())
        for name, meaning in self._snapshot.ambiguous.items():
            if name not in self._warned:
                self._warned.add(name)
                _log.warning("the name %s is ambiguous: it means %s", errors.shortened(name), meaning)

    async def _missing(self, name: str | None) -> errors.FrontendError:
        """What to say of a name that no server has: it may be about to be served, or to go."""
        if name and self._reached():
            states = await asyncio.gather(*(server.is_changing(name) for server in self._servers if server.reached))
            if any(states):
                return errors.unavailable("the model is being loaded or unloaded")
        return self._not_found(name)

    def _not_found(self, name: str | None) -> errors.FrontendError:
        if not self._reached():
            return errors.unavailable(_UNREACHABLE)
        if name and not all(server.known for server in self._servers):
            return errors.unavailable("no server that is known has this model, and not all are known yet")
        if not self._snapshot.models:
            return errors.unavailable("no model with openai_request is ready")
        if not name:
            return errors.model_required(list(self._snapshot.models))
        return errors.unknown_model(name, list(self._snapshot.models))


def _rank(endpoint: Endpoint) -> tuple[bool, bool, int, float]:
    """What is broken comes last: where nothing else is left, a request may find that it is not so any more.

    A failure comes sooner than an answer as a rule, so the number of open requests alone would favour what fails.
    Equals take turns: one request after the other would go to the first server forever.
    """
    triton = endpoint.triton
    return endpoint.health.broken, endpoint.health.resting, triton.open_calls, triton.last_call
