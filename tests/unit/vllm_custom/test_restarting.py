"""What starts an engine again: it joins a host, uses the engine, and gives up what it began where that fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_custom.errors import ConfigError
from vllm_custom.restarting import EngineRestarter


class Connection:
    """To a host."""

    started = True

    def __init__(self) -> None:
        self.left = threading.Event()

    def leave(self) -> None:
        self.left.set()


class Replacement:
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.error: Exception | None = None
        self.waits = False

    def stop(self) -> None:
        self.asked.append("stop")

    def start(self, connection: Connection) -> Any:
        self.asked.append(("start", connection))
        if self.waits:
            assert connection.left.wait(30), "as the real one, whose connection ends"
            raise ConfigError("the engine ended while it was started")
        if self.error is not None:
            raise self.error
        return "slot"

    async def use(self, connection: Connection, slot: Any) -> None:
        self.asked.append(("use", connection, slot))


class World:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.connections: list[Connection] = []
        self.adopted: list[Any] = []
        self.replacement = Replacement()
        self.restarter = EngineRestarter(
            self.replacement,  # type: ignore[arg-type]
            loop,
            self.join,  # type: ignore[arg-type]
            self.adopted.append,
            lambda: True,
            40.0,
        )

    def join(self) -> Connection:
        self.connections.append(Connection())
        return self.connections[-1]


@pytest.fixture
def world() -> Iterator[World]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield World(loop)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_the_next_engine_is_used_and_its_connection_kept(world: World) -> None:
    assert world.restarter.seconds == 40.0
    world.restarter.start()
    (connection,) = world.connections
    assert world.replacement.asked == ["stop", ("start", connection), ("use", connection, "slot")]
    assert world.adopted == [connection]
    assert not connection.left.is_set()
    assert world.restarter.counts
    assert world.restarter.seconds < 40.0, "what the last start took is expected of the next"


def test_one_that_does_not_start_leaves_no_connection(world: World) -> None:
    world.replacement.error = ConfigError("no memory")
    with pytest.raises(ConfigError, match="no memory"):
        world.restarter.start()
    assert world.connections[0].left.is_set()
    assert world.adopted == []
    world.replacement.error = None
    world.restarter.start()
    assert world.adopted == [world.connections[1]]


def test_a_start_under_way_ends_when_the_model_is_unloaded(world: World) -> None:
    world.replacement.waits = True
    errors: list[BaseException] = []

    def start() -> None:
        try:
            world.restarter.start()
        except ConfigError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    while len(world.replacement.asked) < 2:
        assert thread.is_alive()
    world.restarter.cancel()
    thread.join(30)
    assert len(errors) == 1
    with pytest.raises(ConfigError, match="is being unloaded"):
        world.restarter.start()
    assert world.adopted == []
    assert all(connection.left.is_set() for connection in world.connections)


def test_one_process_counts_for_all(world: World) -> None:
    world.restarter._join = lambda: SimpleNamespace(started=False, leave=lambda: None)  # type: ignore[assignment,return-value]
    world.restarter.start()
    assert not world.restarter.counts
