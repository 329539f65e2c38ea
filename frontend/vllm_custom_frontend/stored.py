"""Which endpoint keeps a response of the Responses API: each model process has a store of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from vllm_custom_frontend import errors
from vllm_custom_frontend.endpoint import Endpoint
from vllm_custom_frontend.routes import RESPONSE_PATH
from vllm_custom_frontend.triton import BrokenError, InferCall, LateError, TritonError, UnreachableError

_OK = 200
# With these a model says that it does not have it, or that it keeps none.
_ABSENT = frozenset({400, 404, 405, 501})


async def keepers(
    response_id: str, endpoints: Sequence[Endpoint], seconds: float, *, complete: bool
) -> Sequence[Endpoint]:
    """Those of ``endpoints`` that keep the response; all of them where none does, to say so.

    Args:
        response_id: of the response.
        endpoints: where it may be; at least one.
        seconds: for their answers.
        complete: whether it can be nowhere else.

    Raises:
        FrontendError: none is known to have it, and some have not answered.
    """
    if len(endpoints) == 1 and complete:
        return endpoints
    asked = [endpoint for endpoint in endpoints if not endpoint.health.hung]
    statuses = await asyncio.gather(*(_status(endpoint, response_id, seconds) for endpoint in asked))
    found = [endpoint for endpoint, status in zip(asked, statuses, strict=True) if status == _OK]
    if found:
        return found
    if not complete or len(asked) < len(endpoints) or any(status not in _ABSENT for status in statuses):
        raise errors.unavailable("a server that may have this response does not answer now")
    return endpoints


async def _status(endpoint: Endpoint, response_id: str, seconds: float) -> int:
    """What the endpoint answers when it is asked for the response; 0 for no answer."""
    call = InferCall(endpoint.model, RESPONSE_PATH.format(id=response_id), "GET")
    status = 0
    with contextlib.suppress(TritonError, UnreachableError, BrokenError, LateError):
        # To its end: Triton may keep a model forever whose request was cancelled as it ended.
        async for chunk in endpoint.call(call, seconds):
            status = status or chunk.status
    return status
