"""Every error of this backend: those of the kernel, and those that only this one has."""

from __future__ import annotations

from vllm_custom.kernel.errors import BackendError as BackendError
from vllm_custom.kernel.errors import ConfigError as ConfigError
from vllm_custom.kernel.errors import EngineDiedError as EngineDiedError
from vllm_custom.kernel.errors import InternalError as InternalError
from vllm_custom.kernel.errors import InvalidRequestError as InvalidRequestError
from vllm_custom.kernel.errors import NotFoundError as NotFoundError
from vllm_custom.kernel.errors import RequestCancelledError as RequestCancelledError
from vllm_custom.kernel.errors import UnavailableError as UnavailableError
from vllm_custom.kernel.errors import UnsupportedError as UnsupportedError
from vllm_custom.kernel.errors import invalid as invalid
from vllm_custom.kernel.errors import listing as listing
from vllm_custom.kernel.errors import shorten as shorten
from vllm_custom.kernel.errors import suggestion as suggestion
from vllm_custom.kernel.text import root_cause as root_cause


class RefusedMediaError(InvalidRequestError, ValueError):
    """Media that are refused inside vLLM's renderer; its OpenAI application takes a ValueError for a client's fault."""


class RefusedInVllmError(InvalidRequestError, ValueError):
    """A refusal inside vLLM's own code, which takes a ValueError for a client's fault."""


class MediaLimitError(InvalidRequestError):
    """Media beyond one of this model's limits."""

    def __init__(self, message: str = "", rule: str = "", *, param: str | None = None) -> None:
        """``rule`` is what metrics call the limit: items, bytes, pixels or seconds."""
        super().__init__(message, param=param)
        self.rule = rule


class EngineDownError(UnavailableError):
    """There is no engine now, and the request has not reached one.

    Attributes:
        retry_after_seconds: when one is expected; 0 where none is.
    """

    def __init__(self, message: str = "", retry_after_seconds: int = 0, *, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.retry_after_seconds = retry_after_seconds


class DeadlineExceededError(BackendError):
    """The request's timeout has passed. UNAVAILABLE is what Triton answers when one expires in its own queue."""

    triton_code = "UNAVAILABLE"
