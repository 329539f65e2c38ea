"""--log-format json: each line is an object; that of a request says who asked for what, and never the key."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.triton_servers import FakeTriton, Model, frontend, serving
from vllm_custom_frontend.access_log import _figures
from vllm_custom_frontend.keys import api_keys
from vllm_custom_frontend.logs import JsonFormatter

KEY = "sk-do-not-log-me"


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    formatter = JsonFormatter()
    return [json.loads(formatter.format(record)) for record in caplog.records if record.name.endswith(".access")]


async def test_a_request(caplog: pytest.LogCaptureFixture) -> None:
    triton = FakeTriton(m=Model())
    options = {"api_keys": frozenset({KEY}), "key_names": {KEY: "alice"}, "log_format": "json", "access_log": True}
    with caplog.at_level(logging.INFO):
        async with serving(triton), frontend(triton.address, **options) as client:
            asked = {"authorization": f"Bearer {KEY}", "x_request_id": "mine"}
            assert (await client.post({"model": "m"}, **asked)).status == 200
            assert (await client.post({"model": "m"}, authorization="Bearer wrong-secret")).status == 401
    good, bad = (line for line in lines(caplog) if line["path"] == "/v1/chat/completions")
    for line in (good, bad):
        assert line.pop("time").endswith("Z")
        assert line.pop("seconds") > 0
        assert line.pop("sent_bytes") > 0
    common = {"level": "info", "logger": "vllm_custom_frontend.access", "event": "request", "client": "127.0.0.1"}
    common |= {"method": "POST", "path": "/v1/chat/completions"}
    assert good == {**common, "status": 200, "request_id": "mine", "model": "m", "key": "alice"}
    bad.pop("request_id")
    assert bad == {**common, "status": 401}
    assert KEY not in caplog.text
    assert "wrong-secret" not in caplog.text


def test_other_lines_and_exceptions() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 1, "two\nlines of %s \ud800", ("text",), sys.exc_info())
    line = json.loads(JsonFormatter().format(record))
    assert (line["level"], line["logger"], line["message"]) == ("error", "x", "two\nlines of text \ud800")
    assert line["exception"].endswith("ValueError: why")


def test_what_the_headers_say_of_the_engine() -> None:
    headers = [(b"server-timing", b"queue;dur=0.041, prefill;dur=8.2"), (b"x-cached-tokens", b"16"), (b"x", b"y")]
    assert _figures(headers) == {"queue_seconds": 0.041 / 1000, "prefill_seconds": 8.2 / 1000, "cached_tokens": 16}
    assert _figures([(b"server-timing", b"queue;dur=1.2.3, a"), (b"x-cached-tokens", b"-")]) == {}


def test_names_of_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    lines = ["# ours", "# name: alice", "one", "", "two", "  #name:  bob@home ", "", "three", "# name: \x1bbad", "four"]
    file.write_text("\n".join([*lines, "# name: eve", "#old", "last"]))
    monkeypatch.setenv("VLLM_CUSTOM_API_KEYS", "five,, six")
    assert api_keys(["zero"], file) == {
        "zero": "--api-key 1",
        "one": "alice",
        "two": "line 5",
        "three": "bob@home",
        "four": "line 10",
        "last": "line 13",
        "five": "VLLM_CUSTOM_API_KEYS 1",
        "six": "VLLM_CUSTOM_API_KEYS 3",
    }
