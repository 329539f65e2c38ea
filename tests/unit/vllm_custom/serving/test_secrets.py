"""What a native request says in confidence is in no error and no log line, wherever in the request it stood."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fake_engine import FakeEngine
from tests.support.media_files import Files
from tests.support.secrets import found_in, redirects, urls
from tests.support.service_harness import Model


@pytest.fixture
def files() -> Iterator[Files]:
    made = Files("127.0.0.1")
    made.locations = redirects(made.port)
    yield made
    made.close()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_nothing_of_it_is_in_an_error_or_the_log(
    files: Files, log_format: str, capfd: pytest.CaptureFixture[str]
) -> None:
    errors = []
    rules = {"ALLOWED_MEDIA_DOMAINS": f"127.0.0.1:{files.port}", "ALLOWED_MEDIA_NETWORKS": "127.0.0.1/32"}
    with Model(FakeEngine(), LOG_FORMAT=log_format, **rules) as model:
        for url in urls(files):
            part = [{"type": "image_url", "image_url": {"url": url}}]
            asked: list[dict[str, Any]] = [
                {"image": [url.encode()]},
                {"parameters": {"temperature": url}},
                {"parameters": {"lora_name": url}},
                {"parameters": {"fps": url}},
                {"parameters": {url: 1}},
                {"text": None, "messages": json.dumps([{"role": "user", "content": part}])},
                {"text": None, "messages": json.dumps([{"role": url, "content": "x"}])},
                {"text": None, "messages": json.dumps([{"role": "user", "content": [{"type": url}]}])},
            ]
            senders = [model.submit(**body) for body in asked]
            errors += [sender.wait().error.message() for sender in senders if sender.wait().error is not None]
    told = "\n".join([*model.log.lines, capfd.readouterr().err])
    assert "got 'http://" in "\n".join(errors)
    assert "media refused by rule" in told
    assert found_in("\n".join(errors)) == []
    assert found_in(told) == []
