"""Notices that the engine has died, with no request, and has it started again."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Protocol

from vllm_custom.engine.protocol import Engine
from vllm_custom.kernel import official_texts
from vllm_custom.observability import Log
from vllm_custom.serving.health import DIED, Health
from vllm_custom.triton.engine_events import EngineEvent

_LOOK_SECONDS = 0.25
_STEP_SECONDS = 5.0
_REMEMBER_SECONDS = 3600.0


class Restart(Protocol):
    """Starts the engine of a model again. For one thread, but for ``cancel``."""

    @property
    def counts(self) -> bool:
        """Whether this process is the one that counts the last try, for all that share the engine."""

    @property
    def counts_death(self) -> bool:
        """Whether this process is the one that counts that the engine has died. To be asked once for each death."""

    @property
    def seconds(self) -> float:
        """How long a start takes."""

    def start(self) -> None:
        """Blocks. Raises: Exception: it does not run."""

    def cancel(self) -> None:
        """Have a start that is under way fail soon, and all that come. From any thread."""


class Tries:
    """How often, and after which pauses."""

    def __init__(self, most: int, pause_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            most: tries within an hour.
            pause_seconds: before the second one; it doubles with each further one.
            clock: in seconds.
        """
        self._most = most
        self._pause_seconds = pause_seconds
        self._clock = clock
        self._at: list[float] = []

    def pauses(self) -> Iterator[float]:
        """Seconds to wait before each try, until there are none left."""
        while True:
            now = self._clock()
            self._at = [at for at in self._at if now - at < _REMEMBER_SECONDS]
            if len(self._at) >= self._most:
                return
            pause = self._pause_seconds * 2 ** (len(self._at) - 1) if self._at else 0.0
            self._at.append(now + pause)
            yield pause


class EngineWatch:
    """For one engine, on a thread of its own."""

    def __init__(
        self,
        engine: Engine,
        health: Health,
        log: Log,
        *,
        loop: asyncio.AbstractEventLoop,
        stall_seconds: float = 0.0,
        unload: Callable[[], None] | None = None,
        restart: Restart | None = None,
        tries: Tries | None = None,
        restarted: Callable[[], None] = lambda: None,
        observe: Callable[[EngineEvent], None] = lambda _: None,
    ) -> None:
        """
        Args:
            engine: runs.
            health: is told.
            log: gets a line for each thing that happens.
            loop: of the engine.
            stall_seconds: an engine that has not come to the end of a step for so long is ended; 0 for never.
            unload: asks Triton to unload the model; None where that is not wanted.
            restart: starts the engine again; None where nothing does.
            tries: how often.
            restarted: called when the engine runs again, before requests reach it.
            observe: counts.
        """
        self._engine = engine
        self._health = health
        self._log = log
        self._loop = loop
        self._stall_seconds = stall_seconds
        self._unload = unload
        self._restart = restart
        self._tries = tries or Tries(0, 0.0)
        self._restarted = restarted
        self._observe = observe
        self._stopped = threading.Event()
        self._unloading = False
        self._thread = threading.Thread(target=self._run, name="vllm_custom_engine_watch", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._observe(EngineEvent.RUNS)
        self._thread.start()

    def close(self) -> None:
        """Watch no more: the engine is about to be ended. Further calls do nothing."""
        self._stopped.set()
        if self._restart is not None:
            self._restart.cancel()
        # Triton may answer a call to unload the model only once that is unloaded.
        if self._thread.ident is not None and not self._unloading:
            self._thread.join()

    def _run(self) -> None:
        asked_at = time.monotonic()
        while not self._stopped.wait(_LOOK_SECONDS):
            if self._stall_seconds and time.monotonic() - asked_at > min(_STEP_SECONDS, self._stall_seconds):
                self._end_if_still()
                asked_at = time.monotonic()
            if self._health.failed and not self._stopped.is_set() and not self._is_healed():
                return

    def _end_if_still(self) -> None:
        step = asyncio.run_coroutine_threadsafe(self._engine.step(), self._loop)
        until = time.monotonic() + self._stall_seconds
        while not self._stopped.is_set() and not self._engine.is_dead and time.monotonic() < until:
            try:
                step.result(_LOOK_SECONDS)
                return
            except (TimeoutError, FutureTimeoutError):
                continue
            except (Exception, FutureCancelledError):  # it has died
                return
        step.cancel()
        if not (self._stopped.is_set() or self._engine.is_dead):
            self._log.log_error(
                f"[vllm_custom] the vLLM engine stands still: no step has ended within {self._stall_seconds:g} seconds "
                "(ENGINE_STALL_SECONDS); it is ended"
            )
            self._engine.end()

    def _is_healed(self) -> bool:
        """The engine has died: do what can be done. Whether it runs again."""
        restart = self._restart
        self._log.log_error("[vllm_custom] the vLLM engine has died")
        if restart is None or restart.counts_death:
            self._observe(EngineEvent.DIED)
        if self._unload is not None and self._is_unloading(self._unload):
            return False
        if restart is not None:
            for pause in self._tries.pauses():
                self._health.falls(restart_seconds=pause + restart.seconds)
                if self._stopped.wait(pause):
                    return False
                if self._is_started(restart):
                    return True
            if not self._stopped.is_set():
                self._log.log_error(
                    "[vllm_custom] the vLLM engine is not started again: ENGINE_RESTARTS tries within an hour were used"
                )
        self._health.falls(DIED)
        return False

    def _is_started(self, restart: Restart) -> bool:
        self._log.log_warn("[vllm_custom] the vLLM engine is being started again")
        began = time.monotonic()
        try:
            restart.start()
            self._restarted()
        except Exception as error:
            if not self._stopped.is_set():
                self._log.log_error(f"[vllm_custom] the vLLM engine could not be started again: {error}")
                if restart.counts:
                    self._observe(EngineEvent.FAILED)
            return False
        self._stall_seconds = 0.0  # the engine's host looks after it now
        self._health.rises(restart.seconds)
        self._observe(EngineEvent.STARTED if restart.counts else EngineEvent.RUNS)
        self._log.log_warn(f"[vllm_custom] the vLLM engine runs again after {time.monotonic() - began:.0f} s")
        return True

    def _is_unloading(self, unload: Callable[[], None]) -> bool:
        self._health.falls(official_texts.UNHEALTHY)
        self._unloading = True
        try:
            unload()
        except Exception as error:  # without explicit model control Triton unloads nothing
            self._health.falls(DIED)
            self._log.log_error(
                f"[vllm_custom] ENABLE_VLLM_HEALTH_CHECK: the model cannot be unloaded: {error} "
                "(tritonserver needs --model-control-mode=explicit)"
            )
            self._unloading = False
            return False
        finally:
            self._health.settles()
        return True
