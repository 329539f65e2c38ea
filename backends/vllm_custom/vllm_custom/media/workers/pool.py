"""Hand items to worker processes, a few at a time; one that crashes, hangs or grows costs its own item and no other."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from vllm_custom.errors import InvalidRequestError, MediaLimitError, UnavailableError, UnsupportedError
from vllm_custom.media.decoders.job import MAX_MESSAGE, Answer, Job
from vllm_custom.media.metrics import DecodeRecord, Observe, ignore
from vllm_custom.media.workers.forks import ForkServer, Worker
from vllm_custom.media.workers.memory import new_memory, sealed_copy, taken_over
from vllm_custom.runtime.async_utils import time_limit

# FFmpeg decodes a video in four threads.
_CPU_SECONDS_PER_SECOND = 4
_T = TypeVar("_T")
_TIME, _MEMORY = "decode_seconds", "memory"
_SPENT = (_TIME, _MEMORY)


class DecoderPool:
    """Workers of one model, started when they are needed. For one event loop."""

    def __init__(
        self,
        forks: ForkServer,
        executor: Executor,
        workers: int,
        seconds: int,
        memory_bytes: int,
        observe: Observe = ignore,
    ) -> None:
        """
        Args:
            forks: starts the workers.
            executor: for what blocks.
            workers: how many items are decoded at a time (MEDIA_CONCURRENCY).
            seconds: that an item may take (MEDIA_DECODE_SECONDS).
            memory_bytes: that an item may take (MEDIA_WORKER_BYTES); for messages.
            observe: told how long each item took.
        """
        self._forks = forks
        self._executor = executor
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._observe = observe
        self._places = asyncio.Semaphore(workers)
        self._idle: list[Worker] = []

    def start(self) -> str:
        """Start the first worker, and say what confines it. Blocking.

        Raises:
            UnavailableError: no worker can be started.
        """
        worker = self._forks.start_worker()
        self._idle.append(worker)
        return worker.confinement

    def close(self) -> None:
        """End all workers."""
        self._idle.clear()
        self._forks.close()

    async def measure(self, job: Job, data: bytes | bytearray) -> Answer:
        """How many bytes the item will have at most when it is decoded, and what it is like if ``job.exact``.

        Raises:
            InvalidRequestError: the item is refused, or its worker had to be ended.
            UnavailableError: no worker can be started.
        """
        async with self._places:
            return await self._ask(job, data, [], lambda answer: _looked_at(job, answer))

    async def decode(self, job: Job, data: bytes | bytearray) -> tuple[Answer, npt.NDArray[np.uint8]]:
        """The item within ``job.result_bytes`` bytes: what it is, and its bytes. Raises as :meth:`measure` does."""
        async with self._places:
            memory = _or_unavailable(new_memory, job.result_bytes)
            try:
                return await self._ask(job, data, [memory], lambda answer: (answer, _taken(job, answer, memory)))
            finally:
                os.close(memory)

    async def _ask(self, job: Job, data: bytes | bytearray, memory: list[int], take: Callable[[Answer], _T]) -> _T:
        """What ``take`` makes of a worker's answer; a worker whose answer ``take`` refuses is ended."""
        job = replace(job, size=len(data), cpu_seconds=self._seconds * _CPU_SECONDS_PER_SECOND + 1)
        source = await self._copy(data)
        try:
            worker = await self._send(job, [source, *memory])
        finally:
            os.close(source)
        try:
            answer = Answer.parse(await self._answer(worker, job))
            self._raise_for(answer, job.field)
            taken = take(answer)
        except (InvalidRequestError, UnsupportedError) as error:
            # What has run out of time is at work, and what has run out of memory may hold it in pieces.
            spent = isinstance(error, MediaLimitError) and error.rule in _SPENT
            self._forks.end(worker) if spent else self._idle.append(worker)
            raise
        except (OSError, ValueError) as error:
            self._forks.end(worker)
            raise _ended(job.field) from error
        except BaseException:
            self._forks.end(worker)
            raise
        self._idle.append(worker)
        return taken

    async def _copy(self, data: bytes | bytearray) -> int:
        loop = asyncio.get_running_loop()
        copying = loop.run_in_executor(self._executor, _or_unavailable, sealed_copy, data)
        return await _kept(copying, os.close)

    async def _send(self, job: Job, files: Sequence[int]) -> Worker:
        """A worker that has the job."""
        message = job.to_bytes()
        while True:
            fresh = not self._idle
            worker = await self._new_worker() if fresh else self._idle.pop()
            try:
                socket.send_fds(worker.channel, [message], files)
                return worker
            except OSError:  # it has gone while it waited
                self._forks.end(worker)
                if fresh:
                    raise _ended(job.field) from None

    async def _new_worker(self) -> Worker:
        starting = asyncio.get_running_loop().run_in_executor(self._executor, self._forks.start_worker)
        return await _kept(starting, self._idle.append)

    async def _answer(self, worker: Worker, job: Job) -> bytes:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        began = time.perf_counter()
        loop.add_reader(worker.channel.fileno(), readable.set)
        try:
            async with time_limit(self._seconds):
                await readable.wait()
        except asyncio.TimeoutError as error:
            message = f"could not be decoded within {self._seconds} seconds (MEDIA_DECODE_SECONDS of this model)"
            raise MediaLimitError(f"{job.field}: {message}", _TIME) from error
        finally:
            loop.remove_reader(worker.channel.fileno())
            if job.result_bytes:
                self._observe(DecodeRecord(job.modality, time.perf_counter() - began))
        return worker.channel.recv(MAX_MESSAGE)

    def _raise_for(self, answer: Answer, field: str) -> None:
        if answer.error == "memory":
            message = f"needed more than {self._memory_bytes} bytes to be decoded (MEDIA_WORKER_BYTES of this model)"
            raise MediaLimitError(f"{field}: {message}", _MEMORY)
        if answer.error == "limit":
            raise MediaLimitError(answer.message, answer.rule)
        if answer.error == "unsupported":
            raise UnsupportedError(answer.message)
        if answer.error:
            raise InvalidRequestError(answer.message)


def _or_unavailable(make: Callable[[_T], int], argument: _T) -> int:
    try:
        return make(argument)
    except OSError as error:  # too many open files, no memory
        raise UnavailableError(f"media cannot be passed to a decoder process: {error.strerror}") from error


def _looked_at(job: Job, answer: Answer) -> Answer:
    if job.exact and not answer.looks_possible(job):
        raise ValueError("not an answer: look")
    return answer


def _taken(job: Job, answer: Answer, memory: int) -> npt.NDArray[np.uint8]:
    size = answer.size_for(job)
    if not 0 < size <= job.result_bytes:
        raise ValueError("not an answer: shape")
    return taken_over(memory, size)


def _ended(field: str) -> InvalidRequestError:
    return InvalidRequestError(f"{field}: the process that decoded it ended unexpectedly")


async def _kept(future: asyncio.Future[_T], otherwise: Callable[[_T], None]) -> _T:
    """What a thread makes; where it is not awaited any more, it goes to ``otherwise``."""

    def give(done: asyncio.Future[_T]) -> None:
        if not done.cancelled() and done.exception() is None:
            otherwise(done.result())

    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        future.add_done_callback(give)
        raise
