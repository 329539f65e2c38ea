"""vLLM's errors as ours, distinguished by the names of their classes: modules and bases differ between releases."""

from __future__ import annotations

from .errors import (
    BackendError,
    EngineDiedError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
    shorten,
)
from .text import root_cause

_DEAD = "EngineDeadError"
_WRAPPER = "EngineGenerateError"
_NOT_FOUND = "VLLMNotFoundError"
# The second one is jinja2's, of a chat template.
_CLIENTS_FAULTS = frozenset({"VLLMClientError", "TemplateError"})
_BUSY = (429, 503)


def explain(error: BaseException) -> BackendError | None:
    """The client's fault, an engine that is busy or dead, or None when it is neither.

    ValueError and TypeError are what vLLM raises for bad input before 0.32; later it has VLLMClientError.
    """
    error = unwrapped(error)
    names = _class_names(error)
    if _DEAD in names:
        return EngineDiedError("the vLLM engine has died; the model has to be loaded again")
    if isinstance(error, NotImplementedError):
        return UnsupportedError(
            root_cause(error) if str(error) else "vLLM does not support this request with this model"
        )
    # QueueOverflowError and its kin say by an HTTP status that the engine is busy (vllm.exceptions.GracefulHTTPError).
    if getattr(error, "http_status", None) in _BUSY or getattr(error, "status_code", None) in _BUSY:
        return UnavailableError(f"{error}")
    if isinstance(error, RecursionError):  # JSON inside of a text, such as the arguments of a tool call
        return InvalidRequestError("the request holds JSON that is nested too deeply")
    if _NOT_FOUND in names:
        return NotFoundError(str(error))
    if (isinstance(error, (ValueError, TypeError)) or names & _CLIENTS_FAULTS) and str(error):
        return _refused(error)
    return None


def unwrapped(error: BaseException) -> BaseException:
    """What went wrong inside of ``generate``: errors of media processing leave it as the cause of another."""
    while _WRAPPER in _class_names(error) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _class_names(error: BaseException) -> set[str]:
    return {cls.__name__ for cls in type(error).__mro__}


def _refused(error: BaseException) -> InvalidRequestError:
    """The reason, with the value where vLLM's error has one that the reason does not show."""
    text, value = root_cause(error), getattr(error, "value", None)
    parameter = getattr(error, "parameter", None)
    if value is not None and shorten(value) not in text:
        text = f"{text}; got {shorten(value)}"
    return InvalidRequestError(text, param=parameter if isinstance(parameter, str) else None)
