"""What vLLM's application writes into the log for what is the client's fault: nothing, as for most of its routes."""

from __future__ import annotations

import logging

from vllm_custom.errors import InvalidRequestError, NotFoundError, UnsupportedError
from vllm_custom.kernel import engine_errors

# They write a traceback for each request that is refused, on the event loop.
_LOUD = ("vllm.entrypoints.anthropic.api_router",)


def quieten_refusals() -> None:
    """Keep refusals of requests out of the logs of these modules. May be called again."""
    for name in _LOUD:
        logging.getLogger(name).addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return True
    return not isinstance(engine_errors.explain(error), (InvalidRequestError, NotFoundError, UnsupportedError))
