"""What HTTP asks of every answer, and how requests end with the server."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.triton_servers import (
    CHAT,
    EVENTS,
    JSON,
    FakeTriton,
    FrontendClient,
    Model,
    Reply,
    frontend,
    hang,
    reply,
    serving,
    until,
)


class Endless(FakeTriton):
    """Its answers begin, and do not end."""

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        async for response in super().ModelStreamInfer(requests, context):
            yield response
        if any(model.asked for model in self.models.values()):
            await asyncio.Event().wait()


async def test_paths_mean_the_same_with_a_slash_at_the_end() -> None:
    triton = FakeTriton(m=Model())
    async with serving(triton), frontend(triton.address) as client:
        assert (await client.post({"model": "m"}, f"{CHAT}/")).status == 200
        assert triton.models["m"].asked[0]["path"] == CHAT
        listed = await client.get("/v1/models/")
        assert [card["id"] for card in listed.json["data"]] == ["m"]
        for path in ("/health/", "/ready/m/", "/v1/models/m/"):
            assert (await client.get(path)).status == 200


async def test_its_own_routes_are_only_to_be_read() -> None:
    """POST /health went to the model, past the keys."""
    triton = FakeTriton(m=Model())
    async with serving(triton), frontend(triton.address, api_keys=frozenset({"k"})) as client:
        for path in ("/health", "/live", "/ready", "/ready/m", "/metrics", "/health/"):
            assert (await client.post({"model": "m"}, path)).status == 401
            refused = await client.post({"model": "m"}, path, authorization="Bearer k")
            assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
        refused = await client.post({"model": "m"}, "/v1/models", authorization="Bearer k")
        assert (refused.status, refused.headers["allow"]) == (405, "GET")
        assert triton.models["m"].asked == []


async def test_its_own_routes_have_labels() -> None:
    triton = FakeTriton(m=Model())
    async with serving(triton), frontend(triton.address) as client:
        for path in ("/health", "/live", "/ready", "/ready/m", "/v1/models", "/v1/models/m", "/nothing", "/metrics"):
            await client.get(path)
        text = (await client.get("/metrics")).body.decode()
    labels = {line.split('path="')[1].split('"')[0] for line in text.splitlines() if "requests_total{" in line}
    own = {"/health", "/live", "/ready", "/ready/{model}", "/v1/models", "/v1/models/{model}", "/metrics"}
    assert labels == {*own, "other"}


async def test_vary_names_each_header_once() -> None:
    """The model's application has a header of its own."""
    model = Model(serve=reply(200, "{}", vary="Origin, Accept"))
    triton = FakeTriton(m=model)
    async with serving(triton), frontend(triton.address, cors_origins=("https://a.example",)) as client:
        for origin in ("https://a.example", "https://b.example"):
            answer = await client.post({"model": "m"}, origin=origin)
            assert answer.headers["vary"] == "Origin, Accept"
        assert (await client.get("/live")).headers["vary"] == "Origin"


@pytest.mark.parametrize(
    ("parts", "whole"),
    [(("{}",), True), (("{}", ""), True), (("",), True), (("{", "}"), False), (("{", "", "}"), False)],
)
async def test_an_answer_has_a_length_where_it_comes_in_one_piece(parts: tuple[str, ...], whole: bool) -> None:
    async def serve(_: Any) -> Reply:
        return Reply(200, parts, JSON)

    triton = FakeTriton(m=Model(serve=serve))
    async with serving(triton), frontend(triton.address) as client:
        answer = await client.post({"model": "m"})
        assert answer.body.decode() == "".join(parts)
        assert answer.headers.get("content-length") == (str(len(answer.body)) if whole else None)
        refused = await client.post({"model": "none"}, "/v1/messages")
        assert refused.headers["content-length"] == str(len(refused.body))


async def _at_the_end(client: FrontendClient, triton: FakeTriton, body: dict[str, Any], path: str = CHAT) -> Any:
    """The answer to a request that is under way when the time of open requests is over."""
    asking = asyncio.ensure_future(client.post(body, path))

    async def begun() -> bool:
        return bool(triton.models["m"].asked)

    await until(begun)
    await asyncio.sleep(0.1)
    client.server.should_exit = True
    return await asking


@pytest.mark.parametrize(("path", "event"), [(CHAT, "data: "), ("/v1/messages", "event: error\ndata: ")])
async def test_a_stream_that_the_end_of_the_server_cuts_says_so(
    path: str, event: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It broke off, and left no line in the log."""

    async def serve(_: Any) -> Reply:
        return Reply(200, ("data: 0\n\n",), EVENTS)

    caplog.set_level(logging.INFO)
    triton = Endless(m=Model(serve=serve))
    async with serving(triton), frontend(triton.address, access_log=True) as client:
        answer = await _at_the_end(client, triton, {"model": "m"}, path)
    first, last = answer.body.decode().removesuffix("\n\n").removesuffix("\n\ndata: [DONE]").split("\n\n")
    assert (answer.status, first) == (200, "data: 0")
    assert last.startswith(event)
    assert json.loads(last.removeprefix(event))["error"]["message"] == "the server ends"
    assert "cut off, since the server ends" in caplog.text
    assert f'"POST {path}" 200' in caplog.text
    assert "Traceback" not in caplog.text


async def test_an_answer_that_the_end_of_the_server_prevents_is_503(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    triton = FakeTriton(m=Model(serve=hang))
    async with serving(triton), frontend(triton.address, access_log=True) as client:
        answer = await _at_the_end(client, triton, {"model": "m"})
    assert (answer.status, answer.json["error"]["type"]) == (503, "ServiceUnavailableError")
    assert f'"POST {CHAT}" 503' in caplog.text
