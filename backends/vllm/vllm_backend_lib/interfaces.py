"""The few things of Triton's Python binding that this package uses, as structural types."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy.typing as npt

from vllm_backend_lib.kernel import text

# A traceback and more.
_MAX_LINE_BYTES = 20_000

Array = npt.NDArray[Any]


class Logger(Protocol):
    """Triton's logger (`pb_utils.Logger`)."""

    def log_error(self, message: str) -> None: ...
    def log_warn(self, message: str) -> None: ...
    def log_info(self, message: str) -> None: ...
    def log_verbose(self, message: str) -> None: ...


class SafeLogger:
    """A logger that takes any text and never raises: where an answer is made, nothing may keep it back."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    def log_error(self, message: str) -> None:
        self._log(self._logger.log_error, message)

    def log_warn(self, message: str) -> None:
        self._log(self._logger.log_warn, message)

    def log_info(self, message: str) -> None:
        self._log(self._logger.log_info, message)

    def log_verbose(self, message: str) -> None:
        self._log(self._logger.log_verbose, message)

    @staticmethod
    def _log(log: Callable[[str], None], message: str) -> None:
        with contextlib.suppress(Exception):
            log(text.safe_text(message, _MAX_LINE_BYTES))


class Tensor(Protocol):
    """An input tensor of a request."""

    def name(self) -> str: ...
    def as_numpy(self) -> Array: ...


class ResponseSender(Protocol):
    """Where the responses of one request go."""

    def send(self, response: Any = ..., flags: int = ...) -> None: ...
    def is_cancelled(self) -> bool: ...


class Request(Protocol):
    """An inference request."""

    def inputs(self) -> list[Tensor]: ...
    def parameters(self) -> str: ...
    def request_id(self) -> str: ...
    def get_response_sender(self) -> ResponseSender: ...
