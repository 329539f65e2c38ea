"""vLLM's errors as ours."""

from __future__ import annotations

import functools

from vllm_custom.errors import (
    BackendError,
    EngineDiedError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
    root_cause,
    shorten,
)

_BUSY = (429, 503)


def explain(error: BaseException) -> BackendError | None:
    """The client's fault, an engine that is busy or dead, or None when it is neither.

    ValueError and TypeError are what vLLM raises for bad input before 0.32; later it has VLLMClientError, and errors
    of media processing leave ``generate`` as EngineGenerateError with the reason in ``__cause__``.
    """
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    if isinstance(error, EngineDeadError):
        return EngineDiedError("the vLLM engine has died; the model has to be loaded again")
    if isinstance(error, EngineGenerateError) and error.__cause__ is not None:
        return explain(error.__cause__)
    if isinstance(error, NotImplementedError):
        return UnsupportedError(
            root_cause(error) if str(error) else "vLLM does not support this request with this model"
        )
    # QueueOverflowError and its kin say by an HTTP status that the engine is busy (vllm.exceptions.GracefulHTTPError).
    if getattr(error, "http_status", None) in _BUSY or getattr(error, "status_code", None) in _BUSY:
        return UnavailableError(f"{error}")
    if isinstance(error, RecursionError):  # JSON inside of a text, such as the arguments of a tool call
        return InvalidRequestError("the request holds JSON that is nested too deeply")
    if isinstance(error, _not_found_errors()):
        return NotFoundError(str(error))
    if isinstance(error, (ValueError, TypeError, *_client_errors())) and str(error):
        return _refused(error)
    return None


def _refused(error: BaseException) -> InvalidRequestError:
    """The reason, with the value where vLLM's error has one that the reason does not show."""
    text, value = root_cause(error), getattr(error, "value", None)
    parameter = getattr(error, "parameter", None)
    if value is not None and shorten(value) not in text:
        text = f"{text}; got {shorten(value)}"
    return InvalidRequestError(text, param=parameter if isinstance(parameter, str) else None)


@functools.cache
def _not_found_errors() -> tuple[type[Exception], ...]:
    try:
        from vllm.exceptions import VLLMNotFoundError
    except ImportError:  # before 0.32
        return ()
    return (VLLMNotFoundError,)


@functools.cache
def _client_errors() -> tuple[type[Exception], ...]:
    import jinja2

    found: list[type[Exception]] = [jinja2.TemplateError]
    try:
        from vllm.exceptions import VLLMClientError

        found.append(VLLMClientError)
    except ImportError:  # before 0.32 they are ValueErrors
        pass
    return tuple(found)
