"""What vLLM's application writes into the log: nothing for what is the client's fault, and no secrets of URLs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from vllm_custom.errors import InvalidRequestError, NotFoundError, UnsupportedError
from vllm_custom.kernel import engine_errors
from vllm_custom.kernel.text import without_url_secrets

# They write a traceback for each request that is refused, on the event loop.
_LOUD = ("vllm.entrypoints.anthropic.api_router",)


def quieten_refusals() -> None:
    """Keep refusals of requests out of the logs of these modules. May be called again."""
    for name in _LOUD:
        logging.getLogger(name).addFilter(_is_news)


@contextlib.contextmanager
def root_level_kept() -> Iterator[None]:
    """Building vLLM's application sets the level of the root logger to ERROR, and so of all others in the process."""
    root = logging.getLogger()
    level = root.level
    try:
        yield
    finally:
        root.setLevel(level)


def hide_url_secrets() -> None:
    """Leave credentials and queries of URLs out of vLLM's lines: at the level DEBUG it logs errors with their values.

    May be called again.
    """
    for handler in _handlers():
        if not isinstance(handler.formatter, _WithoutSecrets):
            handler.setFormatter(_WithoutSecrets(handler.formatter or logging.Formatter()))


def _handlers() -> Iterator[logging.Handler]:
    """Of vLLM's lines: its own, or those of the process where it has none."""
    logger: logging.Logger | None = logging.getLogger("vllm")
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None


class _WithoutSecrets(logging.Formatter):
    """Another formatter's lines, the traceback included."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        return without_url_secrets(self._formatter.format(record))


def _is_news(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return True
    return not isinstance(engine_errors.explain(error), (InvalidRequestError, NotFoundError, UnsupportedError))
