"""What can go wrong with a request, and which Triton error code the client gets for it."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from vllm_backend_lib.text import MAX_MESSAGE_BYTES, bounded_repr, root_cause, safe_text


class RequestError(Exception):
    """A failure whose message may be shown to the client; `code` names a constant of `pb_utils.TritonError`."""

    code: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str) -> None:
        """`message` is made fit to be logged and sent, whatever a client or a library has put into it."""
        super().__init__(safe_text(message, MAX_MESSAGE_BYTES))


class InvalidRequestError(RequestError):
    """The request is wrong: the client has to change it."""

    code = "INVALID_ARG"


class NotFoundError(RequestError):
    """The request names something that this model does not have."""

    code = "NOT_FOUND"


class UnavailableError(RequestError):
    """The request may be right, but it cannot be served now."""

    code = "UNAVAILABLE"


class RequestCancelledError(RequestError):
    """The client went away or cancelled."""

    code = "CANCELLED"


class InternalError(RequestError):
    """A bug, here or in the engine; details are in the server's log only."""

    code = "INTERNAL"


class ModelLoadError(Exception):
    """The model cannot be loaded; the message names the file and the key to fix."""


# Engine errors are told apart by class name: modules and base classes of vLLM's errors differ between releases.
_CLIENT_ERRORS = frozenset({"VLLMClientError", "VLLMValidationError", "ValueError"})
_BUSY_ERRORS = frozenset({"EngineDeadError", "GracefulHTTPError", "RetryableRequestError"})
_WRAPPERS = frozenset({"EngineGenerateError"})
_PLACEHOLDER_MISMATCH = "Failed to apply prompt replacement"


def invalid(field: str, got: str, accepted: str) -> InvalidRequestError:
    """An error that names the field, what it held (a rendering of it) and what is accepted."""
    return InvalidRequestError(f"{field}: expected {accepted}, got {got}")


def shorten(value: Any, limit: int = 80) -> str:
    """A one-line rendering of `value`, at most about `limit` characters long."""
    text = repr(value[:limit]) if isinstance(value, str | bytes) else bounded_repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def from_engine_error(error: BaseException, reference: str) -> RequestError:
    """Translates whatever the engine raised; `reference` is the id under which the log has the details."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return RequestCancelledError("the request was cancelled")
    names = {cls.__name__ for cls in type(error).__mro__}
    if names & _BUSY_ERRORS:
        reason = "the engine has stopped" if "EngineDeadError" in names else reason_of(error)
        return UnavailableError(f"vLLM cannot take this request: {reason}")
    if names & _WRAPPERS and error.__cause__ is not None:
        return from_engine_error(error.__cause__, reference)
    if isinstance(error, AssertionError | RuntimeError) and _PLACEHOLDER_MISMATCH in str(error):
        return InvalidRequestError(
            "text_input: the number of image placeholders does not match the number of images in `image`; "
            "the prompt must contain the model's own image placeholder once per image"
        )
    if names & _CLIENT_ERRORS and str(error):
        return InvalidRequestError(reason_of(error))
    return InternalError(f"internal error; the server's log has the details under request {reference}")


def reason_of(error: BaseException) -> str:
    """The sentence of the error, or of the one that it wraps, that says what is wrong."""
    return root_cause(error)
