"""Models that are not there: never were, are coming, or are going."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.support.triton_servers import QUICK, FakeTriton, FrontendClient, Model, frontend, reply, serving, until

# Nothing is looked at unless somebody asks.
IDLE = replace(QUICK, interval=3600, idle_interval=3600, idle_after=0, list_age=0.2)
POLICY = reply(501, '{"error": {"message": "stream: true needs the decoupled transaction policy"}}')


async def kind(client: FrontendClient, **body: Any) -> tuple[int, str]:
    answer = await client.post(body)
    return answer.status, answer.json["error"]["type"]


@pytest.mark.parametrize("others", [{}, {"other": Model(serve=POLICY)}])
async def test_an_unknown_model_is_404_whatever_else_is_there(others: dict[str, Model]) -> None:
    """The one model that is left was asked, and said of a stream what it says of its own."""
    triton = FakeTriton(m=Model(("zh",), serve=POLICY), **others)
    async with serving(triton), frontend(triton.address) as client:
        for body in ({"model": "gone"}, {"model": "gone", "stream": True}):
            assert await kind(client, **body) == (404, "NotFoundError")
        assert (await client.post({"model": "gone"}, "/v1/messages")).json["error"]["type"] == "not_found_error"
        assert triton.models["m"].asked == []
        assert (await client.post({"model": "zh"})).status == 501


@pytest.mark.parametrize("body", [{}, {"model": ""}, {"model": None}, {"model": 7}])
async def test_the_only_model_gets_what_names_none(body: dict[str, Any]) -> None:
    triton = FakeTriton(m=Model())
    async with serving(triton), frontend(triton.address) as client:
        assert (await client.post(body)).status == 200
        triton.models["other"] = Model()

        async def both() -> bool:
            return len((await client.get("/v1/models")).json["data"]) == 2

        await until(both)
        assert (await client.post(body)).status == 400


async def test_a_model_of_another_kind_is_unknown() -> None:
    triton = FakeTriton(m=Model(), resnet=Model(other=True))
    async with serving(triton), frontend(triton.address) as client:
        assert await kind(client, model="resnet") == (404, "NotFoundError")


@pytest.mark.parametrize("state", ["LOADING", "UNLOADING", "READY"])
async def test_a_model_that_comes_or_goes_is_503(state: str) -> None:
    triton = FakeTriton(m=Model())
    triton.states["next"] = state
    async with serving(triton), frontend(triton.address) as client:
        answer = await client.post({"model": "next"})
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert await kind(client, model="none") == (404, "NotFoundError")
        triton.states["next"] = "UNAVAILABLE"

        async def gone() -> bool:
            return await kind(client, model="next") == (404, "NotFoundError")

        await until(gone)


async def test_a_model_that_is_unloaded_under_a_request_is_503() -> None:
    """It was 502 until the next look at the server."""
    unknown = "Request for unknown model: 'm' has no available versions"
    triton = FakeTriton(m=Model(serve=reply(error=unknown)))
    async with serving(triton), frontend(triton.address) as client:
        assert await kind(client, model="m") == (503, "ServiceUnavailableError")


async def test_until_all_servers_are_known_no_model_is_unknown() -> None:
    """In the first moments a model of another server was answered 404."""
    slow, quick = FakeTriton(later=Model()), FakeTriton(m=Model())
    slow.index_hangs = True
    short = replace(QUICK, refresh_timeout=0.6)
    async with serving(slow, quick), frontend(slow.address, quick.address, timing=short) as client:
        assert (await client.post({"model": "m"})).status == 200
        assert await kind(client, model="later") == (503, "ServiceUnavailableError")
        slow.index_hangs = False

        async def found() -> bool:
            return (await client.post({"model": "later"})).status == 200

        await until(found)
        assert await kind(client, model="none") == (404, "NotFoundError")
        slow.index_hangs = True
        await asyncio.sleep(2 * short.refresh_timeout)
        assert await kind(client, model="none") == (404, "NotFoundError"), "what it had is known"


async def test_the_list_of_models_is_never_an_old_one() -> None:
    """After a pause the adapters were those of the last look, up to 30 seconds ago."""
    triton = FakeTriton(m=Model(("m7",)))

    async def listed() -> list[str]:
        return [card["id"] for card in (await client.get("/v1/models")).json["data"]]

    async with serving(triton), frontend(triton.address, timing=IDLE) as client:
        assert await listed() == ["m", "m7"]
        triton.models["m"].adapters = ("new1",)
        await asyncio.sleep(2 * IDLE.list_age)
        assert await listed() == ["m", "new1"]
        triton.models["other"] = Model()
        await asyncio.sleep(2 * IDLE.list_age)
        assert await listed() == ["m", "other", "new1"]
        assert (await client.get("/v1/models/new1")).status == 200
