"""Which error a client gets for what."""

from __future__ import annotations

import asyncio
import importlib

import pytest
from vllm_backend_lib.errors import from_engine_error
from vllm_backend_lib.interfaces import SafeLogger
from vllm_backend_lib.kernel import errors


class VLLMClientError(Exception):
    """As vLLM 0.32 names it; before that, a ValueError."""


class EngineGenerateError(Exception):
    """What vLLM wraps around failures in generate()."""


class EngineDeadError(Exception):
    """What vLLM raises once its engine process has gone."""


class QueueOverflowError(Exception):
    """One that is no client's fault."""


def caused(cause: Exception) -> Exception:
    error = EngineGenerateError()
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (VLLMClientError("n must be at least 1"), "INVALID_ARG", "n must be at least 1"),
        (ValueError("bad value"), "INVALID_ARG", "bad value"),
        (caused(ValueError("bad value")), "INVALID_ARG", "bad value"),
        (caused(AssertionError("Failed to apply prompt replacement for x")), "INVALID_ARG", "placeholders"),
        (EngineDeadError("see the trace"), "UNAVAILABLE", "the vLLM engine has died"),
        (asyncio.CancelledError(), "CANCELLED", "was cancelled"),
        (caused(KeyError("/secret/path")), "INTERNAL", "under request r1"),
        (EngineGenerateError(), "INTERNAL", "under request r1"),
        (ValueError(), "INTERNAL", "under request r1"),
        (QueueOverflowError("full"), "INTERNAL", "under request r1"),
        (errors.NotFoundError("no such adapter"), "NOT_FOUND", "no such adapter"),
    ],
)
def test_engine_errors_become_ours(error: BaseException, code: str, message: str) -> None:
    explained = from_engine_error(error, "r1")
    assert explained.triton_code == code
    assert message in str(explained)
    assert "/secret" not in str(explained)


def test_errors_of_the_installed_vllm(vllm: None) -> None:
    exceptions = importlib.import_module("vllm.exceptions")
    validation = exceptions.VLLMValidationError("top_k is too small", parameter="top_k", value=-5)
    assert str(from_engine_error(validation, "")) == "top_k is too small; got -5"
    overflow = getattr(exceptions, "QueueOverflowError", None)
    if overflow is not None:
        assert from_engine_error(overflow(), "").triton_code == "UNAVAILABLE"


@pytest.mark.parametrize("text", ["\ud800", "<PIL.Image.Image image at 0x7fc4d0a1b2c3>", "x" * 10**6])
def test_no_message_keeps_an_answer_back(text: str) -> None:
    """A lone surrogate made the binding raise where the request would have been answered."""
    for error in (errors.invalid("n", text, "1"), from_engine_error(ValueError(text), "r1")):
        assert len(str(error).encode()) <= 2400
        assert "0x" not in str(error)


def test_a_logger_that_refuses_a_line_stops_nothing() -> None:
    class Picky:
        def log_error(self, message: str) -> None:
            lines.append(message.encode())
            raise TypeError("cannot convert")

        log_warn = log_info = log_verbose = log_error

    lines: list[bytes] = []
    logger = SafeLogger(Picky())
    for log in (logger.log_error, logger.log_warn, logger.log_info, logger.log_verbose):
        log("a \ud800")
    assert lines == [b"a \\ud800"] * 4
