"""A second attempt where the engine fails a request for no fault of its own.

vLLM keeps processed media in two caches, in the client's process and in the engine's, and sends only names of what both
should have. A request that is refused between the two leaves them apart, and the next one with the same media ends with
the finish reason "error"; by then vLLM has put the first cache right, so the media are sent in full the next time.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from vllm_custom.errors import BackendError

Begin = Callable[[int], Awaitable[AsyncGenerator[Any, None]]]
ATTEMPTS_WITH_MEDIA = 2


async def generate_with_retry(
    begin: Begin, failed: Callable[[Any], bool], *, attempts: int, error: Callable[[], BackendError]
) -> AsyncGenerator[Any, None]:
    """The outputs of the first attempt that does not fail before its first output.

    Args:
        begin: renders the prompt and starts the engine on it; gets the number of the attempt, from 0.
        failed: whether an output says that the engine failed the request.
        attempts: ATTEMPTS_WITH_MEDIA for what has media; 1 for what would only fail again.
        error: what to raise where the last attempt failed, or one that had given outputs.
    """
    for attempt in range(attempts):
        begun = False
        async with aclosing(await begin(attempt)) as outputs:
            async for output in outputs:
                if failed(output):
                    break
                begun = True
                yield output
            else:
                return
        if begun:
            break
    raise error()
