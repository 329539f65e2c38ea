"""The host: owns an engine, gives its fronts their places, and notices which of them have gone.

No request passes through it. It ends when its last front has left and no other has come for a while, at once when
tritonserver has gone, and when the engine has died, which its fronts then see from their connections. Guests, which
are fronts that are no instances of Triton, do not keep it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import sys
import time
import traceback
from collections.abc import Coroutine, Iterator
from typing import Any, Protocol

import msgspec

from vllm_custom.engine.host.board import SEQUENCES, Board
from vllm_custom.engine.host.census import Census
from vllm_custom.engine.host.folders import started_at
from vllm_custom.engine.host.messages import (
    Attach,
    FrontLost,
    Join,
    Leave,
    MakeWay,
    Message,
    Number,
    Numbered,
    Refused,
    Replaced,
    Retire,
    Serving,
    Slot,
    encode,
    from_front,
)
from vllm_custom.engine.host.offer import withdraw

# A pickled configuration of vLLM has about 100 kB.
_MAX_LINE_BYTES = 64 * 1024 * 1024
_FIRST_FRONT_SECONDS = 10.0
_LOOK_SECONDS = 0.3
_STEP_SECONDS = 5.0
# For requests under way, when another engine is to have the devices.
_LAST_REQUESTS_SECONDS = 30.0
# What a front has sent may reach the engine after the news of its end.
_ABORT_AGAIN_SECONDS = (0.0, 0.5, 2.0)


class CoreError(Exception):
    """The engine did not start. The message is for the log of the server."""


class Core(Protocol):
    """The engine, as far as its host is concerned."""

    @property
    def clients(self) -> int:
        """How many clients it takes in its life. Number 0 is the host's own."""

    async def start(self, config: bytes, *, log_stats: bool, fronts: int) -> None:
        """Returns when the engine runs.

        Raises:
            CoreError: it does not.
        """

    def addresses(self, client: int) -> dict[str, str]:
        """Where the engine expects this client."""

    async def abort(self, client: int) -> int:
        """End all requests of this client. How many there were."""

    async def died(self) -> None:
        """Returns when a process of the engine that runs has ended by itself."""

    async def step(self) -> None:
        """Returns when the engine, which runs, has come to the end of a step, or has nothing to do."""

    async def stop(self) -> None:
        """End the engine, also one that is about to start."""


class _Front:
    """One connection."""

    def __init__(self, name: str, writer: asyncio.StreamWriter) -> None:
        self.name = name
        self.generation = 0
        self.client = 0
        self.guest = False
        self._writer = writer

    def tell(self, message: Message) -> None:
        """Say it, if it still listens."""
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.write(encode(message))

    def hang_up(self) -> None:
        """It has been told all."""
        self._writer.close()


class Host:
    """For one engine and one event loop."""

    def __init__(self, core: Core, board: Board, grace_seconds: float, stall_seconds: float = 0.0) -> None:
        """
        Args:
            core: not started yet.
            board: of the fronts.
            grace_seconds: how long the engine stays without a front.
            stall_seconds: an engine that stands still for so long counts as dead; 0 for never.
        """
        self._core = core
        self._board = board
        self._grace_seconds = grace_seconds
        self._stall_seconds = stall_seconds
        self._fronts: dict[_Front, None] = {}
        self._clients: Iterator[int] = itertools.count(1)
        self._census = Census()
        self._numbers: dict[str, int] = {}
        self._starting: asyncio.Task[None] | None = None
        self._left_to_guard = False
        self._ending = asyncio.Event()
        self._makes_way = False
        self._grace: asyncio.TimerHandle | None = None
        self._work: set[asyncio.Task[None]] = set()

    async def serve(self, listening: socket.socket, server: int) -> None:
        """Serve until there is no front left to serve, or no engine to serve with.

        Args:
            listening: where fronts connect.
            server: process id of tritonserver.
        """
        self._leave_alone(max(self._grace_seconds, _FIRST_FRONT_SECONDS))
        accepting = await asyncio.start_unix_server(self._meet, sock=listening, limit=_MAX_LINE_BYTES)
        watches = (self._when_dead(), self._when_still(), self._when_alone(server))
        watching = [asyncio.create_task(watch) for watch in watches]
        await self._ending.wait()
        for task in watching:
            task.cancel()
        accepting.close()
        for front in self._fronts:  # to end an engine that hangs takes a while
            front.hang_up()
        if not self._left_to_guard:  # tritonserver has gone, and its guard ends the engine quicker
            await self._core.stop()

    async def _when_dead(self) -> None:
        await self._core.died()
        _say("a process of the engine has ended")
        self._ending.set()

    async def _when_still(self) -> None:
        """The engine answers between two steps only."""
        while self._stall_seconds:
            await asyncio.sleep(min(_STEP_SECONDS, self._stall_seconds))
            if self._starting is None or not self._starting.done():
                continue
            try:
                await asyncio.wait_for(self._core.step(), self._stall_seconds)
            except asyncio.TimeoutError:
                _say(f"the engine stands still: no step has ended within {self._stall_seconds:g} seconds")
                self._ending.set()
                return
            except Exception:  # it has died, which others notice
                return

    async def _when_alone(self, server: int) -> None:
        """The processes above have to be looked for: not every kernel tells."""
        born, guard = started_at(server), os.getppid()
        while born and started_at(server) == born and os.getppid() == guard:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)
        self._left_to_guard = os.getppid() == guard
        self._ending.set()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        front = _Front("?", writer)
        self._fronts[front] = None
        self._look_for_instances()  # it counts for one until it says what it is
        orderly = False
        try:
            async for line in reader:
                message = from_front(line)
                if isinstance(message, Leave):
                    orderly = True
                    break
                self._answer(front, message)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            _say(f"the front {front.name} is cut off: {error}")
        finally:
            self._go(front, orderly=orderly)
            writer.close()

    def _answer(self, front: _Front, message: Join | Attach | Number | Serving | MakeWay) -> None:
        if isinstance(message, Join):
            front.name, front.generation, front.guest = message.name, message.generation, message.guest
            self._look_for_instances()
        elif isinstance(message, Serving):
            self._retire_before(front)
        elif isinstance(message, Attach):
            self._do(self._attach(front, message))
        elif isinstance(message, MakeWay):
            self._do(self._make_way())
        else:
            number = self._numbers.get(message.key)
            if number is None:
                number = max([message.at_least - 1, *self._numbers.values()]) + 1
                self._numbers[message.key] = number
            front.tell(Numbered(message.key, number))

    async def _attach(self, front: _Front, request: Attach) -> None:
        if self._starting is None:
            os.environ.update(request.environment)
            start = self._core.start(request.config, log_stats=request.log_stats, fronts=request.fronts)
            self._starting = asyncio.create_task(start)
        try:
            await asyncio.shield(self._starting)
        except Exception as error:
            if not isinstance(error, CoreError):
                _say("".join(traceback.format_exception(error)))
            front.tell(Refused(str(error) or type(error).__name__))
            self._ending.set()
            return
        client = next(self._clients)
        if client >= self._core.clients:
            front.tell(Refused("the engine has taken as many fronts as it can; unload the model and load it again"))
            return
        front.client = client
        if front not in self._fronts:  # it has gone while the engine started, and has a place that is never used
            return
        front.tell(Slot(client, self._core.addresses(client)))
        if not front.guest:
            self._census.came()
            self._tell_census()

    async def _make_way(self) -> None:
        """Nothing begins any more, and what there is may end."""
        if self._makes_way:
            return
        self._makes_way = True
        _say("the engine ends, for another one of the same model")
        withdraw(self._board.folder)
        for front in self._fronts:
            front.tell(Replaced())
        until = time.monotonic() + _LAST_REQUESTS_SECONDS
        await asyncio.sleep(_LOOK_SECONDS)  # until they know
        while self._board.total(SEQUENCES) and time.monotonic() < until:  # noqa: ASYNC110 - of other processes
            await asyncio.sleep(_LOOK_SECONDS)
        self._ending.set()

    def _look_for_instances(self) -> None:
        """Without one the engine stays for a while only, and takes no more guests."""
        if not all(front.guest for front in self._fronts):
            self._stay()
        elif self._grace is None:
            withdraw(self._board.folder)
            self._leave_alone(self._grace_seconds)

    def _stay(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _go(self, front: _Front, *, orderly: bool) -> None:
        del self._fronts[front]
        if self._ending.is_set():
            return
        if front.client:
            self._board.wipe(front.client)
            self._do(self._abort(front))
        if front.client and not orderly:
            self._lose(front)
        self._tell_census()
        self._look_for_instances()

    def _lose(self, front: _Front) -> None:
        instances = self._instances()
        _say(f"the front {front.name} has gone; {len(instances)} instances are left")
        if front.guest:  # what started it starts it again
            return
        self._census.lost()
        for other in instances:
            other.tell(FrontLost(front.name, other is instances[0]))

    def _retire_before(self, front: _Front) -> None:
        """Triton may keep the processes of a model that it has replaced, for requests that a killed one had."""
        for other in list(self._fronts):
            if other is front:
                return
            if other.generation != front.generation and not other.guest:
                other.tell(Retire())

    def _tell_census(self) -> None:
        """The first counts losses. All say how many there are, since what another one said before may come late."""
        instances = self._instances()
        for front in instances:
            front.tell(self._census.told(len(instances)))

    def _instances(self) -> list[_Front]:
        """Those that use the engine and are no guests."""
        return [front for front in self._fronts if front.client and not front.guest]

    def _leave_alone(self, seconds: float) -> None:
        self._grace = asyncio.get_running_loop().call_later(seconds, self._ending.set)

    async def _abort(self, front: _Front) -> None:
        for seconds in _ABORT_AGAIN_SECONDS:
            await asyncio.sleep(seconds)
            with contextlib.suppress(Exception):  # the engine has died, which ends the host as well
                if ended := await self._core.abort(front.client):
                    _say(f"ended {ended} requests of the front {front.name}, which has gone")

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)


def _say(line: str) -> None:
    """A line in the server's log."""
    print(f"[vllm_custom] engine host: {line}", file=sys.stderr, flush=True)
