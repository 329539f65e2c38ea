"""The direct server says nothing of what clients send in confidence, however much is logged."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.support.direct_harness import Direct, answering
from tests.support.fake_engine import FACTS, FakeEngine
from tests.support.media_files import Files
from tests.support.secrets import COOKIE, KEY, WRONG_KEY, bodies, found_in, redirects, urls


@pytest.fixture
def files() -> Iterator[Files]:
    made = Files("127.0.0.1")
    made.locations = redirects(made.port)
    yield made
    made.close()


async def test_nothing_of_it_is_in_a_log_or_an_error(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    model = FakeEngine(FACTS)
    model.application = answering("yes")
    server = Direct({"m": model}, api_keys=frozenset({KEY}))
    errors = ""
    with caplog.at_level(logging.DEBUG):
        await server.models.look()
        try:
            for body in (body for url in urls(files) for body in bodies(url, "m")):
                asked = {"authorization": f"Bearer {KEY}", "cookie": COOKIE}
                reply = await server.post(body, "/v1/chat/completions", **asked)
                errors += reply.body.decode() if reply.status != 200 else ""  # this application gives all back
            reply = await server.post({"model": "m"}, authorization=f"Bearer {WRONG_KEY}")
            errors += reply.body.decode()
        finally:
            await server.models.close(0.1)
    assert "expected" in errors
    assert "AuthenticationError" in errors
    assert "POST /v1/chat/completions" in caplog.text
    assert found_in(errors) == []
    assert found_in(caplog.text) == []
