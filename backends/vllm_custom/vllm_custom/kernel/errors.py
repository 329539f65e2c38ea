"""Errors that a client or an operator can see, each with its Triton error code, and the form of their messages.

Nothing here imports Triton: ``triton_code`` is the name of a constant of ``pb_utils.TritonError``, which is looked up
where an error becomes a response. docs/architecture.md says which HTTP and gRPC status Triton makes of each code.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from .text import MAX_MESSAGE_BYTES, bounded_repr, safe_text

_MAX_CONFIG_MESSAGE_BYTES = 8_000
_MAX_PARAM_BYTES = 128

# "<field>: ..." is the form of our messages, "image[0]: expected base64, got 'x'" for one.
_FIELD = re.compile(r"([A-Za-z_][\w.\[\]]{0,127}): ")

_LONGEST_GUESSED_NAME = 100


class BackendError(Exception):
    """Base class. The message is shown to the client, so it never holds paths, addresses or tracebacks.

    Attributes:
        param: the input, the parameter or the part of one that is wrong; None where there is none.
    """

    triton_code = "INTERNAL"
    max_bytes = MAX_MESSAGE_BYTES

    def __init__(self, message: str = "", *, param: str | None = None) -> None:
        """
        Args:
            message: passes through :func:`~.text.safe_text`, so that it can always be logged and sent.
            param: for OpenAI's ``param``; without it the field with which ``message`` begins, if it does.
        """
        text = safe_text(message, self.max_bytes)
        super().__init__(text)
        field = _FIELD.match(text)
        named = field[1] if param is None and field is not None else param
        self.param = None if named is None else safe_text(named, _MAX_PARAM_BYTES)


class InvalidRequestError(BackendError):
    """The request cannot be served as it is: the client has to change it."""

    triton_code = "INVALID_ARG"


class NotFoundError(BackendError):
    """The request names something (a LoRA adapter) that this model does not have."""

    triton_code = "NOT_FOUND"


class UnsupportedError(BackendError):
    """The request is well formed, but this model or this configuration does not do what it asks for."""

    triton_code = "UNSUPPORTED"


class UnavailableError(BackendError):
    """The model cannot serve now: it is shutting down, full, or its engine has died."""

    triton_code = "UNAVAILABLE"


class EngineDiedError(UnavailableError):
    """The engine died while it had the request, which may be why: it must not be sent to another engine."""


class RequestCancelledError(BackendError):
    """The client went away or cancelled the request."""

    triton_code = "CANCELLED"


class InternalError(BackendError):
    """A defect. The message carries the request id only; the traceback is in the server's log."""

    triton_code = "INTERNAL"


class ConfigError(BackendError):
    """config.pbtxt, model.json or multi_lora.json is wrong: the model load fails with this message."""

    triton_code = "INVALID_ARG"
    max_bytes = _MAX_CONFIG_MESSAGE_BYTES


def invalid(field: str, got: object, expected: str) -> InvalidRequestError:
    """An :class:`InvalidRequestError` in the one form that all of them share: field, value, what is allowed.

    Args:
        field: name of the tensor, parameter or message part, e.g. ``"image[0]"``.
        got: the offending value; shown by ``repr``, shortened.
        expected: what is accepted, as a phrase that follows the word "expected".
    """
    return InvalidRequestError(f"{field}: expected {expected}, got {shorten(got)}", param=field)


def shorten(value: object, limit: int = 80) -> str:
    """``repr(value)`` in at most about ``limit`` characters; what is long is not looked at as a whole."""
    if isinstance(value, (bytes, str)) and len(value) > limit:
        unit = "bytes" if isinstance(value, bytes) else "characters"
        return f"{value[: limit // 2]!r}... ({len(value)} {unit})"
    text = bounded_repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def suggestion(name: str, known: Iterable[str]) -> str:
    """``; did you mean ...?`` where one of ``known`` looks like ``name``; empty where none does."""
    if len(name) > _LONGEST_GUESSED_NAME:  # the comparison takes time with the square of the length
        return ""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def listing(names: Iterable[str]) -> str:
    """Names in sorted order for an error message, or ``(none)``."""
    return ", ".join(sorted(names)) or "(none)"
