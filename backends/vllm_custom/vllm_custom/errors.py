"""Every error that a client or an operator can see, each with its Triton error code.

Nothing here imports Triton: ``triton_code`` is the name of a constant of ``pb_utils.TritonError``, and the one
place that turns an error into a response (:mod:`vllm_custom.responses.build`) looks it up. docs/architecture.md says
which HTTP and gRPC status Triton makes of each code.
"""

from __future__ import annotations

from collections.abc import Iterable


class BackendError(Exception):
    """Base class. The message is shown to the client, so it never holds paths, addresses or tracebacks."""

    triton_code = "INTERNAL"


class InvalidRequestError(BackendError):
    """The request cannot be served as it is: the client has to change it."""

    triton_code = "INVALID_ARG"


class RefusedMediaError(InvalidRequestError, ValueError):
    """Media that are refused inside vLLM's renderer; its OpenAI application takes a ValueError for a client's fault."""


class RefusedInVllmError(InvalidRequestError, ValueError):
    """A constraint that is refused inside vLLM's OpenAI application, which takes a ValueError for a client's fault."""


class MediaLimitError(InvalidRequestError):
    """Media beyond one of this model's limits."""

    def __init__(self, message: str, rule: str) -> None:
        """``rule`` is what metrics call the limit: items, bytes, pixels or seconds."""
        super().__init__(message)
        self.rule = rule


class NotFoundError(BackendError):
    """The request names something (a LoRA adapter) that this model does not have."""

    triton_code = "NOT_FOUND"


class UnsupportedError(BackendError):
    """The request is well formed, but this model or this configuration does not do what it asks for."""

    triton_code = "UNSUPPORTED"


class UnavailableError(BackendError):
    """The model cannot serve now: it is shutting down, full, or its engine has died."""

    triton_code = "UNAVAILABLE"


class DeadlineExceededError(BackendError):
    """The request's timeout has passed. UNAVAILABLE is what Triton answers when one expires in its own queue."""

    triton_code = "UNAVAILABLE"


class RequestCancelledError(BackendError):
    """The client went away or cancelled the request."""

    triton_code = "CANCELLED"


class InternalError(BackendError):
    """A defect. The message carries the request id only; the traceback is in the server's log."""

    triton_code = "INTERNAL"


class ConfigError(BackendError):
    """config.pbtxt, model.json or multi_lora.json is wrong: the model load fails with this message."""

    triton_code = "INVALID_ARG"


def invalid(field: str, got: object, expected: str) -> InvalidRequestError:
    """An :class:`InvalidRequestError` in the one form that all of them share: field, value, what is allowed.

    Args:
        field: name of the tensor, parameter or message part, e.g. ``"image[0]"``.
        got: the offending value; shown by ``repr``, shortened.
        expected: what is accepted, as a phrase that follows the word "expected".
    """
    return InvalidRequestError(f"{field}: expected {expected}, got {shorten(got)}")


def shorten(value: object, limit: int = 80) -> str:
    """``repr(value)`` in at most about ``limit`` characters; long bytes and strings show their length instead."""
    if isinstance(value, (bytes, str)) and len(value) > limit:
        unit = "bytes" if isinstance(value, bytes) else "characters"
        return f"{value[: limit // 2]!r}... ({len(value)} {unit})"
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def listing(names: Iterable[str]) -> str:
    """Names in sorted order for an error message, or ``(none)``."""
    return ", ".join(sorted(names)) or "(none)"
