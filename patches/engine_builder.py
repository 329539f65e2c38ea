"""Let official releases start the engine through vLLM's API server.

What breaks: r25.01 to r25.12 call `build_async_engine_client_from_engine_args` of `vllm.entrypoints.openai.api_server`
with `disable_frontend_multiprocessing` and, since r25.10, `stat_loggers`. vLLM 0.32 takes neither any more, and the
load ends with a TypeError about an unexpected keyword argument. The function is replaced by one that takes them:
the engine runs in the process of the caller in any case, and the loggers go to it directly.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

NAME = "engine_builder"
BEFORE_VLLM = False

RELEASES = (
    "official r25.01",
    "official r25.02 to r25.03",
    "official r25.04 to r25.09",
    "official r25.10",
    "official r25.11",
    "official r25.12",
    "unknown",
)
_BUILDER = "build_async_engine_client_from_engine_args"


def applies(upstream: str, vllm_version: str) -> bool:
    """For the releases that call vLLM's builder, where it lacks one of the two arguments."""
    if upstream not in RELEASES:
        return False
    accepted = inspect.signature(getattr(_api_server(), _BUILDER)).parameters
    return not {"disable_frontend_multiprocessing", "stat_loggers"} <= accepted.keys()


def apply() -> None:
    """Put our builder in the place where the releases import it from."""
    setattr(_api_server(), _BUILDER, _build)


def _api_server() -> ModuleType:
    with warnings.catch_warnings():
        # vLLM 0.32 calls the module deprecated; the releases know no other.
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module("vllm.entrypoints.openai.api_server")


@asynccontextmanager
async def _build(
    engine_args: Any,
    *,
    disable_frontend_multiprocessing: bool = False,
    stat_loggers: Sequence[Any] | None = None,
    **usage: Any,
) -> AsyncIterator[Any]:
    """An engine for the time of the block; ``usage`` may hold vLLM's ``usage_context``."""
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(engine_args, stat_loggers=list(stat_loggers or []), **usage)
    try:
        yield engine
    finally:
        engine.shutdown()
