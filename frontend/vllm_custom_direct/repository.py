"""What tritonserver says of models that this server cannot use now: whether they are about to come, or to go."""

from __future__ import annotations

import asyncio
import logging
import time

import aiohttp

_log = logging.getLogger("vllm_custom_direct")
_TIMEOUT_SECONDS = 2.0
# Clients that ask for what is not there make no more requests of tritonserver.
_VALID_SECONDS = 0.5
_CHANGING = ("LOADING", "UNLOADING")


class ModelRepository:
    """Of one tritonserver, over HTTP. For one event loop."""

    def __init__(self, url: str | None) -> None:
        """``url`` is its HTTP address; None where it is not known."""
        self._url = url
        self._changing: frozenset[str] = frozenset()
        self._valid_until = float("-inf")
        self._lock = asyncio.Lock()

    async def is_changing(self, model: str) -> bool:
        """Whether it is being loaded or unloaded; not where tritonserver does not say."""
        if self._url is None:
            return False
        async with self._lock:
            if time.monotonic() >= self._valid_until:
                self._changing = await self._ask(f"{self._url}/v2/repository/index")
                self._valid_until = time.monotonic() + _VALID_SECONDS
        return model in self._changing

    async def _ask(self, url: str) -> frozenset[str]:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session, session.post(url) as response:
                response.raise_for_status()
                listed = await response.json(content_type=None)
            return frozenset(one["name"] for one in listed if one.get("state") in _CHANGING)
        except (aiohttp.ClientError, asyncio.TimeoutError, ValueError, TypeError, LookupError, AttributeError):
            _log.warning("tritonserver does not list its models")
            return frozenset()
