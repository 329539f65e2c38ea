"""Errors of the frontend itself, in the form that vLLM's OpenAI server gives its own."""

from __future__ import annotations

import json
from collections.abc import Sequence

# A client's text, and the list of what there is, are repeated up to here.
_NAME_CHARACTERS = 100
_LISTED_NAMES = 20


class FrontendError(Exception):
    """A request that ends here.

    Attributes:
        status: the HTTP status.
        kind: OpenAI's error type.
        param: the field of the body that is wrong, if it is one.
        retry_after_seconds: when the same request may succeed; 0 where nothing says so.
        closes: whether the connection is of no more use.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        param: str | None = None,
        retry_after_seconds: int = 0,
        *,
        closes: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.retry_after_seconds = retry_after_seconds
        self.closes = closes

    @property
    def document(self) -> bytes:
        """The body."""
        content = {"message": str(self), "type": self.kind, "param": self.param, "code": self.status}
        return json.dumps({"error": content}, ensure_ascii=False).encode()

    @property
    def headers(self) -> dict[str, str]:
        """What the answer has in addition to its content type."""
        again = {"retry-after": str(self.retry_after_seconds)} if self.retry_after_seconds else {}
        return {**again, "connection": "close"} if self.closes else again


def unauthorized() -> FrontendError:
    return FrontendError(401, "AuthenticationError", "the API key is missing or wrong; send Authorization: Bearer KEY")


def too_large(limit: int) -> FrontendError:
    message = f"body: expected at most {limit} bytes (--max-body-mib), got more"
    return FrontendError(413, "RequestTooLargeError", message)


def too_many_values(limit: int) -> FrontendError:
    message = f"body: expected at most {limit} JSON values (--max-body-values), got more"
    return FrontendError(413, "RequestTooLargeError", message)


def too_many_escapes(limit: int) -> FrontendError:
    message = f"body: expected at most {limit} backslashes in its JSON, got more"
    return FrontendError(413, "RequestTooLargeError", message)


def no_json_object(reason: str) -> FrontendError:
    return FrontendError(400, "BadRequestError", f"body: expected a JSON object ({shortened(reason, 200)})", "body")


def bad_form(expected: str) -> FrontendError:
    return FrontendError(400, "BadRequestError", f"body: expected multipart/form-data with {expected}", "body")


def header_too_long(name: str, limit: int, length: int) -> FrontendError:
    message = f"header {name}: expected at most {limit} characters, got {length}"
    return FrontendError(431, "BadRequestError", message)


def headers_too_long(limit: int) -> FrontendError:
    message = f"headers: expected at most {limit} bytes with the request line (--max-header-kib), got more"
    return FrontendError(431, "BadRequestError", message)


def too_many_headers(limit: int) -> FrontendError:
    return FrontendError(431, "BadRequestError", f"headers: expected at most {limit} (--max-headers), got more")


def late_headers(seconds: float) -> FrontendError:
    message = f"headers: expected all of them within {seconds:g} seconds (--header-timeout), got a part"
    return FrontendError(408, "TimeoutError", message)


def late_body(seconds: float) -> FrontendError:
    message = f"body: expected all of it within {seconds:g} seconds (--body-timeout), got a part"
    return FrontendError(408, "TimeoutError", message, closes=True)


def not_unicode(encoding: str, byte: int, position: int) -> FrontendError:
    got = f"byte 0x{byte:02x} at position {position}, which is not {encoding}"
    message = f"body: expected JSON in UTF-8, UTF-16 or UTF-32, got {got}"
    return FrontendError(400, "BadRequestError", message)


def unknown_model(name: str, served: Sequence[str]) -> FrontendError:
    valid = f" Valid aliases: {_listed(served)}." if served else ""
    message = f"The model `{shortened(name)}` does not exist.{valid}"
    return FrontendError(404, "NotFoundError", message, "model")


def model_required(served: Sequence[str]) -> FrontendError:
    message = f"model: required, since several models are served: {_listed(served)}"
    return FrontendError(400, "BadRequestError", message, "model")


def unavailable(message: str, retry_after_seconds: int = 1) -> FrontendError:
    return FrontendError(503, "ServiceUnavailableError", message, retry_after_seconds=retry_after_seconds)


def failed(message: str) -> FrontendError:
    return FrontendError(502, "BadGatewayError", message)


def timed_out(seconds: float) -> FrontendError:
    message = f"the request did not end within {seconds:g} seconds (--request-timeout)"
    return FrontendError(504, "TimeoutError", message)


def shortened(text: str, characters: int = _NAME_CHARACTERS) -> str:
    """``text`` as an error or a log may repeat it: not longer than allowed, and without half characters."""
    kept = text[:characters].encode("utf-8", "backslashreplace").decode()
    return kept if len(text) <= characters else f"{kept}... ({len(text)} characters)"


def _listed(names: Sequence[str]) -> str:
    shown = [shortened(name) for name in names[:_LISTED_NAMES]]
    more = len(names) - len(shown)
    return ", ".join([*shown, f"and {more} more"] if more else shown)
