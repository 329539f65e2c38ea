"""LOG_FORMAT: json: each line is an object, and each request has one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.direct_harness import answering
from tests.support.fake_engine import TEXT_ONLY, FakeEngine
from tests.support.service_harness import Model
from vllm_custom.contract.settings import Settings
from vllm_custom.errors import ConfigError
from vllm_custom.observability import JsonLogger
from vllm_custom.observability.requests import RequestRecord


def lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]


def test_each_request_has_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    with Model(FakeEngine(facts=TEXT_ONLY), LOG_FORMAT="json") as model:
        model.submit("the secret prompt", {"max_tokens": 4}, request_id="good").wait()
        assert model.submit("another", {"max_tokens": "many"}, request_id="bad").wait().error is not None
    assert model.log.lines == []
    told = lines(capfd)
    (good,) = [line for line in told if line.get("event") == "request" and line["request_id"] == "good"]
    assert good["time"].endswith("Z")
    assert good["seconds"] > 0
    assert {name: value for name, value in good.items() if name not in ("time", "seconds")} == {
        "level": "info",
        "event": "request",
        "request_id": "good",
        "model": "model",
        "version": "1",
        "status": "OK",
        "prompt_tokens": 3,
        "output_tokens": 4,
    }
    (bad,) = [line for line in told if line.get("event") == "request" and line["request_id"] == "bad"]
    assert (bad["status"], bad["output_tokens"]) == ("INVALID_ARG", 0)
    assert "secret prompt" not in json.dumps(told)


def test_what_is_only_looked_up_has_no_line(capfd: pytest.CaptureFixture[str]) -> None:
    """Frontends ask for the list of models every few seconds, also of a model that is full or whose engine is down."""
    engine = FakeEngine(facts=TEXT_ONLY)
    engine.application = answering("{}")
    with Model(engine, LOG_FORMAT="json", MAX_INFLIGHT_REQUESTS="1") as model:

        def look_up() -> str:
            sender = model.submit(None, openai_request='{"path": "/v1/models"}', request_id="looks").wait()
            outputs = {item.name(): item.as_numpy().reshape(-1)[0] for item in sender.sent[0][0].output_tensors()}
            return str(outputs["openai_status"])

        assert look_up() == "200"
        held = model.admission.hold(1)
        assert look_up() == "200"
        held.leave()
        engine.die()
        assert look_up() == "503"
        assert model.submit("a", request_id="asks").wait().error is not None
    asked = [line["request_id"] for line in lines(capfd) if line.get("event") == "request"]
    assert asked == ["asks"]


@pytest.mark.parametrize("request_id", ["<a at 0x", "<function ", "https://u:p@h/x?sig=1", '"}{'])
def test_a_client_cannot_break_the_line_of_its_request(capfd: pytest.CaptureFixture[str], request_id: str) -> None:
    with Model(FakeEngine(facts=TEXT_ONLY), LOG_FORMAT="json") as model:
        model.submit("a", request_id=request_id).wait()
    (line,) = [line for line in lines(capfd) if line.get("event") == "request"]
    assert (line["model"], line["status"]) == ("model", "OK")
    assert "sig=1" not in line["request_id"]


def test_other_lines_are_objects_too(capfd: pytest.CaptureFixture[str]) -> None:
    logger = JsonLogger({"model": "m"})
    logger.log_warn('[vllm_custom] two\nlines and "quotes" \ud800')
    logger.log_verbose("nothing")
    (line,) = lines(capfd)
    del line["time"]
    assert line == {"level": "warning", "model": "m", "message": 'two\nlines and "quotes" \ud800'}


def test_the_usual_format_has_no_line_for_a_request() -> None:
    with Model(FakeEngine(facts=TEXT_ONLY)) as model:
        model.submit("a").wait()
        assert not model.service._common.observer.active
    assert model.log.lines == []


def test_times_are_those_of_one_prompt() -> None:
    record = RequestRecord("id", 0.0, adapter="german", key="alice")
    record.figures = [{"queue_seconds": 0.5, "cached_tokens": 3}]
    alone = record.known()
    assert (alone["adapter"], alone["key"], alone["queue_seconds"], alone["cached_tokens"]) == (
        "german",
        "alice",
        0.5,
        3,
    )
    record.figures.append({"queue_seconds": 0.7, "cached_tokens": 4})
    assert (record.known().get("queue_seconds"), record.known()["cached_tokens"]) == (None, 7)


def test_a_format_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match="LOG_FORMAT: expected text or json, got 'xml'"):
        Settings.from_model_config({"name": "model", "parameters": {"LOG_FORMAT": {"string_value": "xml"}}})
