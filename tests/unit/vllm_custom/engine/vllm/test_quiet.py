"""A flood of bad requests is no flood of tracebacks: vLLM wrote one for each that /v1/messages refused."""

from __future__ import annotations

import importlib
import io
import logging

import pytest

from vllm_custom.engine.vllm.quiet import hide_url_secrets, quieten_refusals, root_level_kept
from vllm_custom.errors import RefusedMediaError

LOUD = "vllm.entrypoints.anthropic.api_router"


@pytest.mark.parametrize(
    ("error", "written"),
    [
        (ValueError("an empty conversation"), False),
        (RefusedMediaError("no image"), False),
        (NotImplementedError("no such tool"), False),
        (RuntimeError("a defect"), True),
        (KeyError("a defect"), True),
    ],
)
def test_only_defects_are_written(error: Exception, written: bool, caplog: pytest.LogCaptureFixture) -> None:
    quieten_refusals()
    quieten_refusals()
    logger = logging.getLogger(LOUD)
    logger.addHandler(caplog.handler)
    try:
        raise error
    except Exception as caught:
        logger.exception("Error in create_messages: %s", caught)
    finally:
        logger.removeHandler(caplog.handler)
    assert bool(caplog.records) is written


@pytest.mark.filterwarnings("ignore")
def test_the_module_that_is_meant_is_there(vllm: None) -> None:
    assert importlib.import_module(LOUD).logger.name == LOUD


@pytest.mark.parametrize("name", ["vllm", ""])
def test_vllms_lines_have_no_secrets_of_urls(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("vLLM: %(message)s"))
    monkeypatch.setattr(logging.getLogger("vllm"), "handlers", [])
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", not name)
    monkeypatch.setattr(logging.getLogger(name), "handlers", [handler])
    hide_url_secrets()
    hide_url_secrets()
    try:
        raise ValueError("got 'http://u:hidden@h/x?sig=hidden'")
    except ValueError:
        logging.getLogger("vllm.entrypoints.x").error("called with %s", "http://h/?hidden", exc_info=True)
    told = stream.getvalue()
    assert told.startswith("vLLM: called with http://h/?...\nTraceback")
    assert "ValueError: got 'http://...@h/x?...'" in told
    assert "hidden" not in told


def test_the_level_of_all_logs_stays() -> None:
    """The direct server logged no request any more once it had a model."""
    before = logging.getLogger().level
    with root_level_kept():
        logging.getLogger().setLevel(logging.CRITICAL)
    assert logging.getLogger().level == before
