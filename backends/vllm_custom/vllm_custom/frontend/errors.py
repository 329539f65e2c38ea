"""Errors of the frontend itself, in the form that vLLM's OpenAI server gives its own."""

from __future__ import annotations

import json


class FrontendError(Exception):
    """A request that ends here. ``status`` is the HTTP status, ``kind`` OpenAI's error type."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param

    @property
    def document(self) -> bytes:
        """The body."""
        content = {"message": str(self), "type": self.kind, "param": self.param, "code": self.status}
        return json.dumps({"error": content}, ensure_ascii=False).encode()


def unauthorized() -> FrontendError:
    return FrontendError(401, "AuthenticationError", "the API key is missing or wrong; send Authorization: Bearer KEY")


def too_large(limit: int) -> FrontendError:
    return FrontendError(413, "RequestTooLargeError", f"the request body is larger than {limit} bytes")


def unknown_model(name: str, served: list[str]) -> FrontendError:
    message = f"The model `{name}` does not exist. Valid aliases: {', '.join(served)}."
    return FrontendError(404, "NotFoundError", message, "model")


def model_wanted(served: list[str]) -> FrontendError:
    message = f"model: is required, since several models are served: {', '.join(served)}"
    return FrontendError(400, "BadRequestError", message, "model")


def unavailable(message: str) -> FrontendError:
    return FrontendError(503, "ServiceUnavailableError", message)


def failed(message: str) -> FrontendError:
    return FrontendError(502, "BadGatewayError", message)
