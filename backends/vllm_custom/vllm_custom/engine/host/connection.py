"""A front's connection to the host of its engine."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import msgspec

from vllm_custom.engine.host.messages import (
    Attach,
    FromHost,
    FrontLost,
    Fronts,
    Join,
    Leave,
    Message,
    Number,
    Numbered,
    Refused,
    Replaced,
    Retire,
    Serving,
    Slot,
    encode,
    from_host,
)
from vllm_custom.engine.host.offer import leave_config
from vllm_custom.errors import ConfigError

_ATTACHING = "attach"
# The host closes its end as soon as it has read that a front leaves; one that hangs does not.
_LEAVE_SECONDS = 5.0


class HostLostError(Exception):
    """The host has gone, and the engine with it."""


class Connection:
    """What a front says to the host and hears from it, on a thread of its own. Thread-safe.

    Attributes:
        folder: of the engine.
        guest: whether the engine may end while this front uses it.
        client: number of this front among the engine's clients, once it is attached.
        started: whether this front has started the host.
    """

    def __init__(
        self, connected: socket.socket, folder: Path, name: str, generation: int = 0, *, guest: bool = False
    ) -> None:
        """
        Args:
            connected: to the host; this owns it from now on.
            folder: of the engine.
            name: of the front.
            generation: the same for all that Triton has started together.
            guest: whether the engine may end while this front uses it.

        Raises:
            OSError: the host has gone.
        """
        self.folder = folder
        self.guest = guest
        self.client = 0
        self.started = False
        self._lost_fronts: list[FrontLost] = []
        self._on_front_lost: Callable[[FrontLost], None] | None = None
        self._census: list[Fronts] = []
        self._on_census: Callable[[Fronts], None] | None = None
        self._on_retired: Callable[[], None] | None = None
        self._on_replaced: Callable[[], None] | None = None
        self._replaced = False
        self._socket = connected
        self._lock = threading.Lock()
        self._leaving = False
        self._lost = False
        self._on_lost: list[Callable[[], None]] = []
        self._waiting: defaultdict[str, deque[Future[FromHost]]] = defaultdict(deque)
        connected.sendall(encode(Join(name, generation, guest)))
        self._thread = threading.Thread(target=self._listen, name="vllm_custom_host", daemon=True)
        self._thread.start()

    def attach(self, config: bytes, *, log_stats: bool, fronts: int, environment: dict[str, str]) -> Slot:
        """Wait until the engine runs, and take a place among its clients. Blocks for as long as it starts.

        Raises:
            ConfigError: it did not start, or has no place left.
        """
        message = Attach(config, log_stats, fronts, environment)
        try:
            answer = self._ask(_ATTACHING, message).result()
        except HostLostError as error:
            raise ConfigError("the engine ended while it was started; its own log says why") from error
        if isinstance(answer, Slot):
            self.client = answer.index
            if not self.guest:
                with contextlib.suppress(OSError):  # the engine has gone, which this front will notice
                    leave_config(self.folder, config)
            return answer
        assert isinstance(answer, Refused)
        raise ConfigError(answer.reason)

    def number(self, key: str, at_least: int) -> Future[FromHost]:
        """The number of ``key`` for all fronts, not below ``at_least``: a ``Numbered``, or :class:`HostLostError`."""
        return self._ask(key, Number(key, at_least))

    def when_front_lost(self, call: Callable[[FrontLost], None]) -> None:
        """Have ``call`` called, from another thread, for each front that is lost; now for those that have been."""
        with self._lock:
            self._on_front_lost = call
            before, self._lost_fronts = self._lost_fronts, []
        for message in before:
            call(message)

    def serving(self) -> None:
        """Triton has sent this front a request: those that were there before are not needed any more."""
        with self._lock, contextlib.suppress(OSError):  # the thread that listens will notice
            self._socket.sendall(encode(Serving()))

    def when_retired(self, call: Callable[[], None]) -> None:
        """Have ``call`` called, from another thread, when others serve in this front's place."""
        with self._lock:
            self._on_retired = call

    def when_replaced(self, call: Callable[[], None]) -> None:
        """Have ``call`` called, from another thread, when the engine is about to end for another one; or now."""
        with self._lock:
            self._on_replaced = call
            replaced = self._replaced
        if replaced:
            call()

    def when_fronts_change(self, call: Callable[[Fronts], None]) -> None:
        """Have ``call`` called, from another thread, with what this front is told of all; now with what it has been."""
        with self._lock:
            self._on_census = call
            before, self._census = self._census, []
        for message in before:
            call(message)

    def when_lost(self, call: Callable[[], None]) -> None:
        """Have ``call`` called too, from another thread, when the host has gone before this front left; or now."""
        with self._lock:
            self._on_lost.append(call)
            lost = self._lost
        if lost:
            call()

    def leave(self) -> None:
        """The front ends. Further calls do nothing."""
        with self._lock:
            if self._leaving:
                return
            self._leaving = True
            # Whatever they hold is to go now.
            self._on_lost, self._on_front_lost, self._on_census = [], None, None
            self._on_retired = self._on_replaced = None
        with contextlib.suppress(OSError):
            self._socket.sendall(encode(Leave()))
            # Not both ways: where the host writes to this one just then, it would take it for lost.
            self._socket.shutdown(socket.SHUT_WR)
        self._thread.join(_LEAVE_SECONDS)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _ask(self, key: str, message: Message) -> Future[FromHost]:
        answer: Future[FromHost] = Future()
        with self._lock:
            if self._lost:
                answer.set_exception(HostLostError())
                return answer
            self._waiting[key].append(answer)
            with contextlib.suppress(OSError):  # the thread that listens will notice
                self._socket.sendall(encode(message))
        return answer

    def _listen(self) -> None:
        with contextlib.suppress(OSError, msgspec.MsgspecError), self._socket.makefile("rb") as lines:
            for line in lines:
                self._hear(from_host(line))
        with self._lock:
            self._lost = True
            waiting = [answer for answers in self._waiting.values() for answer in answers]
            self._waiting.clear()
            calls = list(self._on_lost)
        for answer in waiting:
            answer.set_exception(HostLostError())
        for call in calls:
            call()

    def _hear(self, message: FromHost) -> None:
        if isinstance(message, FrontLost):
            with self._lock:
                call = self._on_front_lost or self._lost_fronts.append
            call(message)
            return
        if isinstance(message, Fronts):
            with self._lock:
                tell = self._on_census or self._census.append
            tell(message)
            return
        if isinstance(message, (Retire, Replaced)):
            with self._lock:
                end = self._on_retired if isinstance(message, Retire) else self._on_replaced
                self._replaced |= isinstance(message, Replaced)
            if end is not None:  # not here: it may wait for what this thread hears
                threading.Thread(target=end, name="vllm_custom_host_told", daemon=True).start()
            return
        key = message.key if isinstance(message, Numbered) else _ATTACHING
        with self._lock:
            answer = self._waiting[key].popleft() if self._waiting[key] else None
        if answer is not None and answer.set_running_or_notify_cancel():
            answer.set_result(message)
