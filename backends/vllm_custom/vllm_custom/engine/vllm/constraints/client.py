"""Have constraints compiled in a process of their own, within limits of time and memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.spawn import get_executable
from typing import Any

from vllm_custom.engine.protocol import (
    DeadlyConstraintError,
    RefusedConstraintError,
    SlowConstraintError,
    Verdict,
)
from vllm_custom.engine.vllm.constraints import server as compile_server
from vllm_custom.engine.vllm.constraints.refusals import explain
from vllm_custom.engine.vllm.constraints.server import JOB, LENGTH, READY, SINGLE_THREADED, STARTED
from vllm_custom.errors import UnavailableError

# Imports of vLLM and a tokenizer, on a machine that is busy with loading a model.
_START_SECONDS = 300.0
# Most constraints take a fraction of this. What needs more waits only for others that do.
_QUICK_SECONDS = 1.0
_QUICK_PLACES = 2
_MAX_ANSWER_BYTES = 1 << 16


class CompileProcess:
    """One process of :mod:`vllm_custom.engine.vllm.constraints.server`."""

    def __init__(self, *, fork: bool = False) -> None:
        """
        Args:
            fork: make it a copy of this process, whose imports of vLLM take seconds: only while this has no engine of
                its own, and no thread holds what the copy uses.

        Raises:
            OSError: it cannot be started.
        """
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = _Fork(theirs) if fork else _program(theirs)

    def load(self, facts: bytes) -> None:
        """Hand over what it needs to know, and block until it is ready.

        Raises:
            OSError: it does not become ready.
        """
        self._control.settimeout(_START_SECONDS)
        self._control.sendall(LENGTH.pack(len(facts)) + facts)
        if self._control.recv(len(READY)) != READY:
            raise OSError("it ended while it was loading")
        self._control.settimeout(1.0)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def connect(self) -> socket.socket:
        """A connection to a new child.

        Raises:
            OSError: the process has gone, or does not take anything.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            try:
                socket.send_fds(self._control, [JOB], [theirs.fileno()])
            except OSError:
                ours.close()
                raise
        return ours

    def close(self) -> None:
        """End it; children end as soon as their connections are closed."""
        self._process.kill()
        self._process.wait()
        self._control.close()


def _program(control: socket.socket) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **SINGLE_THREADED, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [os.fsdecode(get_executable()), "-m", compile_server.__name__, str(control.fileno())]
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, pass_fds=[control.fileno()])


class _Fork:
    """A copy of this process, with what is needed here of ``subprocess.Popen``."""

    def __init__(self, control: socket.socket) -> None:
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=compile_server.serve_in_copy, args=(control,), daemon=True)
        with warnings.catch_warnings():
            # Python 3.12 warns of threads: those of Triton's stub, and of the connection to an engine's host, hold
            # nothing that the copy uses.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> None:
        self._process.join()


class CompileClient:
    """Owns the process that compiles, and what may run in it at a time. For one event loop."""

    def __init__(
        self,
        facts: bytes,
        seconds: float,
        log_error: Callable[[str], None],
        memory_bytes: int = 1 << 30,
        process: CompileProcess | None = None,
    ) -> None:
        """
        Args:
            facts: what :class:`~vllm_custom.engine.vllm.constraints.grammars.GrammarCompilers` is made from.
            seconds: how long a constraint may take.
            log_error: told when the process cannot be started.
            memory_bytes: what a constraint may take beyond what the process has by itself.
            process: one that was started earlier, for the first start.
        """
        self._facts = facts
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._log_error = log_error
        self._server: CompileProcess | None = process
        self._waiting = process
        self._starting: asyncio.Future[CompileProcess] | None = None
        # Not one of the loop's own threads: the loop would not end before the process has started.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vllm_custom_compile")
        self._closed = False
        self._quick = asyncio.Semaphore(_QUICK_PLACES)
        self._slow = asyncio.Semaphore(1)

    @property
    def pid(self) -> int | None:
        """Of the process that forks; None before the first start."""
        return self._server.pid if self._server is not None else None

    async def start(self) -> None:
        """Have the process ready, so that the first constraint need not wait for it.

        Raises:
            UnavailableError: it cannot be started.
        """
        await self._ready()

    async def compile(self, kind: str, value: Any, options: Mapping[str, Any]) -> Verdict:
        """vLLM's verdict on a constraint that the engine can take.

        Raises:
            RefusedConstraintError, SlowConstraintError, DeadlyConstraintError: it can not.
            UnavailableError: there is no process to compile in.
        """
        job = {"kind": kind, "value": value, "options": dict(options)}
        quick = min(_QUICK_SECONDS, self._seconds)
        try:
            async with self._quick:
                return await self._run(job, quick)
        except SlowConstraintError:
            if quick == self._seconds:
                raise
        async with self._slow:
            return await self._run(job, self._seconds)

    def close(self) -> None:
        """End the process, also one that is still starting."""
        self._closed = True
        if self._server is not None:
            self._server.close()
        self._thread.shutdown(wait=True)

    async def _run(self, job: Mapping[str, Any], seconds: float) -> Verdict:
        request = json.dumps({**job, "seconds": seconds, "memory": self._memory_bytes}).encode()
        for _ in range(2):
            server = await self._ready()
            told = await _ask(server, request, seconds)
            if told == STARTED:
                raise DeadlyConstraintError
            if told:
                return _verdict(told.removeprefix(STARTED))
            await asyncio.to_thread(server.close)  # it is ending, or forks no more
        raise UnavailableError("structured_outputs: the process that compiles constraints has ended; try again")

    async def _ready(self) -> CompileProcess:
        """The process, started anew where there is none. Who stops waiting does not stop it from starting."""
        starting = self._starting
        if starting is None or (starting.done() and (starting.exception() or not starting.result().alive)):
            starting = self._starting = asyncio.get_running_loop().run_in_executor(self._thread, self._start)
        try:
            return await asyncio.shield(starting)
        except OSError as error:
            raise UnavailableError("structured_outputs: constraints cannot be compiled now; try again") from error

    def _start(self) -> CompileProcess:
        try:
            server, self._waiting = self._waiting, None
            if server is None:
                if self._server is not None:
                    self._server.close()
                server = self._server = CompileProcess()
            if self._closed:
                server.close()
            server.load(self._facts)
        except OSError as error:
            if not self._closed:
                self._log_error(f"[vllm_custom] the process that compiles constraints does not start: {error}")
            raise
        return server


async def _ask(server: CompileProcess, request: bytes, seconds: float) -> bytes:
    """What a new child says until it ends: STARTED, then the answer; nothing where there was no child.

    However this ends, the child ends with the connection.

    Raises:
        SlowConstraintError: there was none in time.
    """
    loop = asyncio.get_running_loop()
    answer = bytearray()
    late: list[bool] = []
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        connection = stack.enter_context(server.connect())

        def expire() -> None:
            late.append(True)
            connection.shutdown(socket.SHUT_RDWR)

        stack.callback(loop.call_later(seconds, expire).cancel)
        await loop.sock_sendall(connection, LENGTH.pack(len(request)) + request)
        while len(answer) < _MAX_ANSWER_BYTES and (piece := await loop.sock_recv(connection, 1 << 16)):
            answer += piece
    if late:
        raise SlowConstraintError
    return bytes(answer)


class UnlimitedCheck:
    """vLLM's own check on a thread, where the compilers cannot be had in another process: nothing ends it."""

    def __init__(self, check: Callable[[str, Any, Mapping[str, Any]], Verdict]) -> None:
        """``check``: raises whatever vLLM raises."""
        self._check = check

    async def start(self) -> None:
        """Nothing has to be started."""

    async def compile(self, kind: str, value: Any, options: Mapping[str, Any]) -> Verdict:
        """vLLM's verdict.

        Raises:
            RefusedConstraintError: it refuses the constraint.
        """
        try:
            return await asyncio.to_thread(self._check, kind, value, options)
        except Exception as error:
            reason = await asyncio.to_thread(explain, kind, value, error)
            raise RefusedConstraintError(reason) from error

    def close(self) -> None:
        """Nothing has to be ended."""


def _verdict(answer: bytes) -> Verdict:
    told = json.loads(answer)
    if "reason" in told:
        raise RefusedConstraintError(told["reason"])
    return Verdict(**told["verdict"])
