"""How the model's process is set up around the engine, so that its one interpreter is there for requests."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections.abc import Iterator

# How long a busy thread may keep the interpreter from one that waits for it. At Python's 5 ms each response waits that
# long for its turn whenever the event loop is busy.
_SWITCH_SECONDS = 0.0005


@contextlib.contextmanager
def fast_event_loops() -> Iterator[None]:
    """Event loops that are made meanwhile are uvloop's, as in ``vllm serve``; asyncio's own where it is missing."""
    try:
        import uvloop
    except ImportError:  # vLLM brings it wherever it exists
        yield
        return
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    try:
        yield
    finally:
        asyncio.set_event_loop_policy(before)


def set_switch_interval() -> None:
    """Let the sender threads have their turn beside a busy event loop."""
    sys.setswitchinterval(_SWITCH_SECONDS)


def freeze_gc_heap() -> None:
    """Keep the garbage collector off what is there now.

    vLLM and torch leave over a million objects that stay for good. Walking through them takes hundreds of
    milliseconds, in which no token leaves the process.
    """
    gc.collect()
    gc.freeze()
    # Python puts a full collection off until a quarter has come of what the last one left: of those million as well.
    gc.collect()


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """No garbage is collected meanwhile, unless another thread ends such a block.

    While a reader of JSON makes a hundred thousand objects, in which there can be no cycles, the collector goes through
    all of them again and again; that takes three times as long as the reading, and nobody else has the interpreter. Of
    the import of vLLM it is a quarter.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def collect_before_exit() -> None:
    """The counterpart of :func:`freeze_gc_heap`, for the end: cycles from the start are collected as well.

    What is left stays until the process has gone: the interpreter, as it ends, would walk through it again and again.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
