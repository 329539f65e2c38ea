"""Failures of the engine, at its start and with a request."""

from __future__ import annotations

import asyncio

from vllm_backend_lib.kernel import engine_errors, errors

_PLACEHOLDER_MISMATCH = "Failed to apply prompt replacement"


class ModelLoadError(errors.ConfigError):
    """The engine does not start, although the files of the model can be read."""


def from_engine_error(error: BaseException, reference: str) -> errors.BackendError:
    """Translates whatever was raised; `reference` is the id under which the log has the details."""
    if isinstance(error, errors.BackendError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return errors.RequestCancelledError("the request was cancelled")
    cause = engine_errors.unwrapped(error)
    if isinstance(cause, AssertionError | RuntimeError) and _PLACEHOLDER_MISMATCH in str(cause):
        return errors.InvalidRequestError(
            "text_input: the number of image placeholders does not match the number of images in `image`; "
            "the prompt must contain the model's own image placeholder once per image"
        )
    unknown = errors.InternalError(f"internal error; the server's log has the details under request {reference}")
    return engine_errors.explain(cause) or unknown
