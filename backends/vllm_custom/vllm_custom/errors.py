"""Every error that a client or an operator can see, each with its Triton error code.

Nothing here imports Triton: ``triton_code`` is the name of a constant of ``pb_utils.TritonError``, and the one
place that turns an error into a response (:mod:`vllm_custom.responses.build`) looks it up. docs/architecture.md says
which HTTP and gRPC status Triton makes of each code.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable

_LONGEST_GUESSED_NAME = 100
_LONGEST_INTEGER_BITS = 1024
_LONGEST_MESSAGE = 1000
# What repr makes of an object without a repr of its own: where it is in memory is nobody's business.
_OBJECT = re.compile(r"<[\w.]+[^<>]{0,200}? at 0x[0-9a-fA-F]+>")
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}")


class BackendError(Exception):
    """Base class. The message is shown to the client, so it never holds paths, addresses or tracebacks."""

    triton_code = "INTERNAL"


class InvalidRequestError(BackendError):
    """The request cannot be served as it is: the client has to change it."""

    triton_code = "INVALID_ARG"


class RefusedMediaError(InvalidRequestError, ValueError):
    """Media that are refused inside vLLM's renderer; its OpenAI application takes a ValueError for a client's fault."""


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
    """``repr(value)`` in at most about ``limit`` characters; what is long is not looked at as a whole."""
    if isinstance(value, (bytes, str)) and len(value) > limit:
        unit = "bytes" if isinstance(value, bytes) else "characters"
        return f"{value[: limit // 2]!r}... ({len(value)} {unit})"
    text = _sketch(value, limit)
    return text if len(text) <= limit else f"{text[:limit]}..."


def _sketch(value: object, limit: int, depth: int = 3) -> str:
    """``repr(value)``, with the first items of long lists and objects only."""
    if isinstance(value, (list, dict)) and value:
        if depth == 0:
            return "..."
        pairs = value.items() if isinstance(value, dict) else ((None, item) for item in value)
        shown = [
            (f"{shorten(key, limit)}: " if isinstance(value, dict) else "") + _sketch(item, limit, depth - 1)
            for key, item in itertools.islice(pairs, limit // 3)
        ]
        rest = ["..."] if len(value) > len(shown) else []
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        return opening + ", ".join(shown + rest) + closing
    if isinstance(value, (bytes, str)):
        return repr(value[:limit]) if len(value) <= limit else shorten(value, limit)
    if isinstance(value, int) and value.bit_length() > _LONGEST_INTEGER_BITS:
        return f"an integer of {value.bit_length()} bits"
    return repr(value)


def suggestion(name: str, known: Iterable[str]) -> str:
    """``; did you mean ...?`` where one of ``known`` looks like ``name``; empty where none does."""
    if len(name) > _LONGEST_GUESSED_NAME:  # the comparison takes time with the square of the length
        return ""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def told(error: BaseException) -> str:
    """The message of another library's error as a client may see it: of bounded length, without addresses."""
    text = str(error)
    if len(text) > _LONGEST_MESSAGE:
        text = f"{text[:_LONGEST_MESSAGE]}..."
    return _ADDRESS.sub("0x...", _OBJECT.sub("an object", text))


def listing(names: Iterable[str]) -> str:
    """Names in sorted order for an error message, or ``(none)``."""
    return ", ".join(sorted(names)) or "(none)"
